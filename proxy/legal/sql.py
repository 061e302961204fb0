"""The statements of the register of cases (role CASES)."""

from __future__ import annotations

_CASE = (
    "c.case_id, c.instrument, c.key_month, c.opened_by, c.opened_at, c.state, c.version, c.changed_at, c.scope_version,"
    " c.approval_id, c.hold_id, c.production_id, c.preservation, c.return_at, c.secrecy, c.secret_until,"
    " c.secrecy_lifted_at"
)
_APPROVAL = (
    "a.approval_id, a.case_id, a.scope_version, a.digest, a.kind, a.approved_by, a.approved_at, a.expires_at,"
    " a.voided_at, a.recipient, f.verdict, f.decided_by, f.decided_at"
)

NOW = "SELECT clock_timestamp()"
FIND_CASE = f"SELECT {_CASE} FROM tollgate.legal_case c WHERE c.case_id = $1"
LOCK_CASE = FIND_CASE + " FOR UPDATE"
OPENED = f"SELECT {_CASE} FROM tollgate.legal_case c WHERE c.opened_by = $1 AND c.request_key = $2"
ADD_CASE = """
INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version, preservation,
    return_at, secrecy, secret_until)
VALUES ($1, $2, $3, $4, $5, 'received', 1, $6, $7, $8, $9)
"""
_MOVE = """
UPDATE tollgate.legal_case SET state = $2, version = version + 1, changed_at = now(), scope_version = $3,
    approval_id = $4, hold_id = $5, production_id = $6, return_at = $7"""
MOVE_CASE = _MOVE + " WHERE case_id = $1"
# A move that names the secrecy is a new order, and ends an earlier lifting (0014_cases.sql).
ORDER_SECRECY = _MOVE + ", secrecy = $8, secret_until = $9 WHERE case_id = $1"
LIST_CASES = f"""
SELECT {_CASE} FROM tollgate.legal_case c
WHERE ($1::text[] IS NULL OR c.state = ANY ($1)) AND (c.opened_at, c.case_id) < ($2, $3)
ORDER BY c.opened_at DESC, c.case_id DESC LIMIT $4
"""

ADD_EVENT = """
INSERT INTO tollgate.case_event (case_id, version, action, from_state, to_state, actor, capacity, scope_version,
    entry_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
EVENTS = """
SELECT version, action, from_state, to_state, actor, capacity, scope_version, at, entry_id
FROM tollgate.case_event WHERE case_id = $1 ORDER BY version
"""
CAPACITIES = "SELECT DISTINCT actor, capacity FROM tollgate.case_event WHERE case_id = $1"
# Whether the case's last document was found deficient.
FOUND_DEFICIENT = "SELECT tollgate.case_found_deficient($1)"

ADD_SCOPE = """
INSERT INTO tollgate.case_scope (case_id, scope_version, digest, targets, first_month, last_month, made_by, narrows,
    sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
FIND_SCOPE = "SELECT digest, sealed FROM tollgate.case_scope WHERE case_id = $1 AND scope_version = $2"

ADD_TEXT = "INSERT INTO tollgate.case_text (case_id, part, version, sealed) VALUES ($1, $2, $3, $4)"
LAST_TEXT = """
SELECT version, sealed FROM tollgate.case_text WHERE case_id = $1 AND part = $2 ORDER BY version DESC LIMIT 1
"""
TEXTS = "SELECT part, version FROM tollgate.case_text WHERE case_id = $1 ORDER BY version, part"
FIND_TEXT = "SELECT sealed FROM tollgate.case_text WHERE case_id = $1 AND part = $2 AND version = $3"

ADD_DOCUMENT = """
INSERT INTO tollgate.case_document (case_id, document_id, kind, bytes, pages, received_by, pieces, sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
ADD_PIECE = """
INSERT INTO tollgate.case_document_piece (case_id, document_id, piece, sealed) VALUES ($1, $2, $3, $4)
"""
DOCUMENTS = """
SELECT document_id, kind, bytes, pages, received_by, received_at, pieces, sealed
FROM tollgate.case_document WHERE case_id = $1 ORDER BY received_at, document_id
"""
FIND_PIECE = """
SELECT sealed FROM tollgate.case_document_piece WHERE case_id = $1 AND document_id = $2 AND piece = $3
"""

ADD_APPROVAL = """
INSERT INTO tollgate.case_approval (approval_id, case_id, scope_version, digest, kind, approved_by, expires_at,
    recipient)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
APPROVALS = f"""
SELECT {_APPROVAL} FROM tollgate.case_approval a
LEFT JOIN tollgate.case_confirmation f ON f.approval_id = a.approval_id
WHERE a.case_id = $1 ORDER BY a.approved_at, a.approval_id
"""
VOID_APPROVALS = "UPDATE tollgate.case_approval SET voided_at = now() WHERE case_id = $1 AND voided_at IS NULL"
VOID_APPROVAL = "UPDATE tollgate.case_approval SET voided_at = now() WHERE approval_id = $1 AND voided_at IS NULL"
ADD_CONFIRMATION = """
INSERT INTO tollgate.case_confirmation (approval_id, verdict, decided_by) VALUES ($1, $2, $3)
"""

ADD_EXTRACTION = """
INSERT INTO tollgate.case_extraction (hold_id, case_id, scope_version, approval_id, ordered_by)
VALUES ($1, $2, $3, $4, $5)
"""
RUNNING = """
SELECT e.hold_id, e.case_id, e.ordered_by, c.state, c.hold_id AS wanted
FROM tollgate.case_extraction e JOIN tollgate.legal_case c ON c.case_id = e.case_id
WHERE e.ended_at IS NULL ORDER BY e.ordered_at LIMIT 100
"""
END_EXTRACTION = """
UPDATE tollgate.case_extraction SET ended_at = now(), ended_as = $2 WHERE hold_id = $1 AND ended_at IS NULL
RETURNING hold_id
"""
EXTRACTION = """
SELECT hold_id, case_id, scope_version, approval_id, ordered_by, ordered_at, ended_at, ended_as
FROM tollgate.case_extraction WHERE hold_id = $1
"""

ADD_PRODUCTION = """
INSERT INTO tollgate.case_production (production_id, case_id, number, hold_id, made_by, made_at, sealed)
SELECT $1, $2, $3, $4, $5, $6, $7
"""
NEXT_PRODUCTION = "SELECT coalesce(max(number), 0) + 1 FROM tollgate.case_production WHERE case_id = $1"
PRODUCTION = """
SELECT production_id, case_id, number, hold_id, made_by, made_at, drafted_at, failed, sealed
FROM tollgate.case_production WHERE production_id = $1
"""
OPEN_PRODUCTIONS = """
SELECT p.production_id, p.case_id FROM tollgate.case_production p
JOIN tollgate.legal_case c ON c.case_id = p.case_id AND c.production_id = p.production_id
WHERE p.drafted_at IS NULL AND p.failed IS NULL ORDER BY p.made_at LIMIT 100
"""
DRAFTED = "UPDATE tollgate.case_production SET drafted_at = now() WHERE production_id = $1 AND drafted_at IS NULL"
PRODUCTION_FAILED = """
UPDATE tollgate.case_production SET failed = $2 WHERE production_id = $1 AND drafted_at IS NULL AND failed IS NULL
"""

DUE = """
SELECT c.case_id, c.instrument, c.state, c.return_at, c.secrecy, c.secret_until, c.secrecy_lifted_at,
    a.kind, a.expires_at, (
        SELECT min(e.approved_at) FROM tollgate.case_approval e
        WHERE e.case_id = c.case_id AND e.kind = 'emergency' AND NOT EXISTS (
            SELECT FROM tollgate.case_confirmation f WHERE f.approval_id = e.approval_id)) AS acted_at
FROM tollgate.legal_case c
LEFT JOIN tollgate.case_approval a ON a.approval_id = c.approval_id
WHERE c.state <> 'closed' ORDER BY c.case_id
"""
LAPSED = """
SELECT c.case_id FROM tollgate.legal_case c JOIN tollgate.case_approval a ON a.approval_id = c.approval_id
WHERE c.state = 'approved' AND c.hold_id IS NULL AND a.expires_at <= now() LIMIT 100
"""
