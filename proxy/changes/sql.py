"""The statements of changes (role OPERATOR). Every time in them is the database's own."""

from __future__ import annotations

_COLUMNS = """change_id, kind, payload, encode(digest, 'hex') AS digest, reason, state, proposed_by, proposed_at,
       expires_at, decided_by, decided_at, decision_reason"""

NOW = "SELECT now()"

PROPOSE = f"""
INSERT INTO tollgate.change (change_id, kind, payload, digest, reason, proposed_by, expires_at)
VALUES ($1, $2, $3, decode($4, 'hex'), $5, $6, now() + $7::interval)
RETURNING {_COLUMNS}
"""  # noqa: S608 - fixed text

GET = f"SELECT {_COLUMNS} FROM tollgate.change WHERE change_id = $1 AND kind = ANY ($2::text[])"  # noqa: S608

# Held until COMMIT: of two who decide at once, the second sees what the first has decided.
LOCK = GET + " FOR UPDATE"

# One that has expired stands as proposed until the next decision sweeps it: it is shown as what it is.
LIST = f"""
SELECT * FROM (
    SELECT {_COLUMNS}, CASE WHEN state = 'proposed' AND expires_at <= now() THEN 'expired' ELSE state END AS shown
    FROM tollgate.change WHERE kind = ANY ($1::text[])
) c WHERE $2::text IS NULL OR c.shown = $2 ORDER BY c.proposed_at DESC, c.change_id DESC LIMIT $3
"""  # noqa: S608

APPROVE = """
UPDATE tollgate.change SET state = 'approved', decided_by = $2, decided_digest = decode($3, 'hex')
WHERE change_id = $1 RETURNING decided_at
"""

REFUSE = """
UPDATE tollgate.change SET state = 'refused', decided_by = $2, decision_reason = $3
WHERE change_id = $1 RETURNING decided_at
"""

WITHDRAW = """
UPDATE tollgate.change SET state = 'withdrawn', decision_reason = $2 WHERE change_id = $1 RETURNING decided_at
"""

# Skips what somebody is deciding just now: they will see for themselves that it is too late.
EXPIRE = """
UPDATE tollgate.change SET state = 'expired'
WHERE change_id IN (
    SELECT change_id FROM tollgate.change WHERE state = 'proposed' AND expires_at <= now()
    ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING change_id, kind, encode(digest, 'hex') AS digest, proposed_by
"""
