"""Statements over productions (schema/migrations/0017_productions.sql), as role CASES."""

from __future__ import annotations

KEY_MONTH = "SELECT key_month FROM tollgate.legal_case WHERE case_id = $1"

TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('tollgate.production.' || $1, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('tollgate.production.' || $1, 0))"

BEGIN = """
INSERT INTO tollgate.production (production_id, case_id, number, key_month, state, facts_digest, facts, custodian)
VALUES ($1, $2, $3, $4, 'making', $5, $6, $7)
"""

GET = """
SELECT production_id, case_id, number, key_month, state, facts_digest, facts, rows, pages, drafted, signed_as, kid,
    certified
FROM tollgate.production WHERE production_id = $1
"""

PUT = """
INSERT INTO tollgate.production_piece (production_id, name, piece, sealed) VALUES ($1, $2, $3, $4)
ON CONFLICT (production_id, name, piece) DO UPDATE SET sealed = EXCLUDED.sealed
"""

PIECE = "SELECT sealed FROM tollgate.production_piece WHERE production_id = $1 AND name = $2 AND piece = $3"

DRAFTED = """
UPDATE tollgate.production SET state = 'drafted', rows = $2, pages = $3, drafted = $4, drafted_at = now()
WHERE production_id = $1 AND state = 'making' RETURNING production_id
"""

CERTIFIED = """
UPDATE tollgate.production SET state = 'certified', signed_as = $2, kid = $3, certified = $4, certified_at = now()
WHERE production_id = $1 AND state = 'drafted' RETURNING production_id
"""

DELIVERY_OF = """
SELECT delivery_id FROM tollgate.production_delivery WHERE production_id = $1 AND recipients_digest = $2
"""

DELIVER = """
INSERT INTO tollgate.production_delivery (delivery_id, production_id, recipients_digest, recipients, approval_id)
VALUES ($1, $2, $3, $4, (
    SELECT a.approval_id FROM tollgate.case_approval a
    WHERE a.case_id = $5 AND a.kind = 'redelivery' AND a.recipient = $3 AND a.voided_at IS NULL AND a.expires_at > now()
    ORDER BY a.approved_at DESC LIMIT 1))
"""

DELIVERY = """
SELECT delivery_id, production_id, recipients, recipients_digest
FROM tollgate.production_delivery WHERE delivery_id = $1
"""

CUSTODIAN_ACTIVE = "SELECT tollgate.custodian_active($1)"

CUSTODIAN_KEYS = """
SELECT k.jwk::text AS jwk FROM tollgate.staff_key k
WHERE k.staff_id = $1 AND k.ended_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM tollgate.staff_suspension s WHERE s.staff_id = k.staff_id AND s.lifted_at IS NULL)
ORDER BY k.added_at
"""
