"""The registry's statements. Each runs in the transaction that also writes its log entry."""

from __future__ import annotations

ADD_CARRIER = "INSERT INTO tollgate.carrier (carrier_id, name, change_id) VALUES ($1, $2, $3)"

DISABLE_CARRIER = """
UPDATE tollgate.carrier SET disabled_at = now() WHERE carrier_id = $1 AND disabled_at IS NULL RETURNING disabled_at
"""

CARRIER_STATE = "SELECT disabled_at FROM tollgate.carrier WHERE carrier_id = $1"

# A period that was taken back (valid_to = valid_from) may be given again.
ADD_OCN = """
INSERT INTO tollgate.carrier_ocn AS o (ocn, code, valid_from, valid_to, carrier_id, change_id)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (ocn, carrier_id, valid_from)
DO UPDATE SET valid_to = excluded.valid_to, change_id = excluded.change_id WHERE o.valid_to = o.valid_from
RETURNING true
"""

END_OCN = """
UPDATE tollgate.carrier_ocn SET valid_to = greatest($3, valid_from)
WHERE carrier_id = $1 AND ocn = $2 AND (valid_to IS NULL OR valid_to > greatest($3, valid_from))
RETURNING valid_from, valid_to
"""

ADD_AGREEMENT = """
INSERT INTO tollgate.agreement (reference, carrier_id, in_force_from, in_force_to, cpni_clause, change_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""

DISABLE_AGREEMENT = """
UPDATE tollgate.agreement SET disabled_at = now() WHERE reference = $1 AND disabled_at IS NULL
RETURNING carrier_id, disabled_at
"""

ADD_CLIENT = """
INSERT INTO tollgate.client (client_id, carrier_id, networks, requests_per_minute, rows_per_day, change_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""

DISABLE_CLIENT = """
UPDATE tollgate.client SET disabled_at = now() WHERE client_id = $1 AND disabled_at IS NULL
RETURNING carrier_id, disabled_at
"""

# Held until COMMIT, so that two operators together cannot give a client more keys than it may have.
LOCK_CLIENT = "SELECT client_id, disabled_at FROM tollgate.client WHERE client_id = $1 FOR NO KEY UPDATE"

COUNT_KEYS = "SELECT count(*) FROM tollgate.client_key WHERE client_id = $1 AND disabled_at IS NULL"

ADD_KEY = """
INSERT INTO tollgate.client_key (client_id, kid, alg, jwk, thumbprint, change_id)
VALUES ($1, $2, $3, $4::jsonb, $5, $6)
"""

DISABLE_KEY = """
UPDATE tollgate.client_key SET disabled_at = now() WHERE client_id = $1 AND kid = $2 AND disabled_at IS NULL
RETURNING thumbprint
"""

DISABLE_KEYS = """
UPDATE tollgate.client_key SET disabled_at = now() WHERE client_id = $1 AND disabled_at IS NULL RETURNING kid
"""

CARRIERS = "SELECT carrier_id, name, disabled_at FROM tollgate.carrier ORDER BY carrier_id"

# Periods that were taken back say nothing of anybody.
OCNS = """
SELECT ocn, carrier_id, valid_from, valid_to FROM tollgate.carrier_ocn
WHERE ($1::text IS NULL OR carrier_id = $1) AND (valid_to IS NULL OR valid_to > valid_from)
ORDER BY ocn, valid_from
"""

AGREEMENTS = """
SELECT reference, carrier_id, in_force_from, in_force_to, cpni_clause, disabled_at FROM tollgate.agreement
WHERE $1::text IS NULL OR carrier_id = $1 ORDER BY carrier_id, in_force_from, reference
"""

CLIENTS = """
SELECT c.client_id, c.carrier_id, c.networks, c.requests_per_minute, c.rows_per_day, c.disabled_at,
       ARRAY(SELECT k.jwk::text FROM tollgate.client_key k
             WHERE k.client_id = c.client_id AND k.disabled_at IS NULL ORDER BY k.added_at, k.kid) AS jwks
FROM tollgate.client c WHERE $1::text IS NULL OR c.carrier_id = $1 ORDER BY c.client_id
"""

# One statement, so that two answers together cannot spend what only one may. A negative number gives back.
SPEND_ROWS = """
INSERT INTO tollgate.client_usage AS u (client_id, day, rows)
SELECT c.client_id, (now() AT TIME ZONE 'UTC')::date, greatest($2::bigint, 0)
FROM tollgate.client c WHERE c.client_id = $1 AND $2::bigint <= c.rows_per_day
ON CONFLICT (client_id, day) DO UPDATE SET rows = greatest(u.rows + $2::bigint, 0)
WHERE $2::bigint <= 0
   OR u.rows + $2::bigint <= (SELECT c.rows_per_day FROM tollgate.client c WHERE c.client_id = $1)
RETURNING (SELECT c.rows_per_day FROM tollgate.client c WHERE c.client_id = $1) - u.rows AS remaining
"""

ROWS_LEFT = """
SELECT greatest(c.rows_per_day - coalesce(u.rows, 0), 0) AS remaining,
       ((now() AT TIME ZONE 'UTC')::date + 1)::timestamp AT TIME ZONE 'UTC' AS resets_at
FROM tollgate.client c
LEFT JOIN tollgate.client_usage u ON u.client_id = c.client_id AND u.day = (now() AT TIME ZONE 'UTC')::date
WHERE c.client_id = $1
"""
