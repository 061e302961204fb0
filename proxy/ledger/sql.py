"""The statements of the access log. Each names its columns and takes parameters only."""

BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    "SET LOCAL synchronous_commit = on;"
    # A gateway that hangs or vanishes while it holds the head must not hold up every other gateway.
    "SET LOCAL lock_timeout = {wait_ms};"
    # A timeout that cancels COMMIT's wait for a synchronous standby would be told as success: we keep time.
    "SET LOCAL statement_timeout = 0;"
    "SET LOCAL idle_in_transaction_session_timeout = {wait_ms}"
)
"""Opens a writer's transaction; ``wait_ms`` is an integer of ours."""

JOIN = (
    "SELECT set_config('synchronous_commit', 'on', true),"
    " set_config('idle_in_transaction_session_timeout', '10s', true)"
)
"""The same inside a caller's transaction."""

HEAD = "SELECT size, greatest(at, clock_timestamp()) AS at FROM tollgate.log_head WHERE id = 1 FOR UPDATE"
"""Locks the head until COMMIT; role LOG. The clock is read when the lock is had, and never runs behind the last entry's
time."""

PEEK = "SELECT size, greatest(at, clock_timestamp()) AS at FROM tollgate.log_head WHERE id = 1"

APPEND = "SELECT state, first, at FROM tollgate.log_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
"""Writes a batch at the head (migration 0011): outside a transaction it is one of its own."""

STANDING = "SELECT idx, entry_id, at, leaf_hash FROM tollgate.log_entry WHERE entry_id = ANY($1::uuid[])"

TOUCH = "UPDATE tollgate.log_head SET id = id WHERE id = 1"
"""Changes nothing, so that the COMMIT after it is a write and waits for disk and synchronous standby. Its key is all of
the head that role LOG may write."""

CHECK = (
    "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,"
    " pg_is_in_recovery() AS standby, to_regclass('tollgate.log_head') IS NOT NULL AS migrated,"
    # For the session, which is a lane's alone. A statement timeout that cancels the wait for a synchronous standby
    # would be told as success: we keep time. Nor is the head waited for longer than the entries' waiters wait.
    " set_config('statement_timeout', '0', false), set_config('lock_timeout', $1, false)"
)

_COLUMNS = "idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags"

READ = (
    f"SELECT {_COLUMNS} FROM tollgate.log_entry"  # noqa: S608
    " WHERE idx > $1 AND ($3::text[] IS NULL OR kind = ANY($3)) ORDER BY idx LIMIT $2"
)

READ_LAST = (
    f"SELECT {_COLUMNS} FROM tollgate.log_entry"  # noqa: S608
    " WHERE ($2::text[] IS NULL OR kind = ANY($2)) ORDER BY idx DESC LIMIT $1"
)

READ_ACCESS = f"SELECT {_COLUMNS} FROM tollgate.log_entry WHERE access_id = $1 ORDER BY idx LIMIT 10000"  # noqa: S608

OPENINGS = (
    "SELECT part, month, batch_id, sealed FROM tollgate.log_opening"
    " WHERE part = ANY($1::text[]) AND month = ANY($2::int[]) AND batch_id = ANY($3::uuid[])"
)

READ_AT = f"SELECT {_COLUMNS} FROM tollgate.log_entry WHERE idx = ANY($1::bigint[]) ORDER BY idx"  # noqa: S608

FIND = "SELECT first, places FROM tollgate.log_tag WHERE tag = $1 AND first > $2 AND first < $3 ORDER BY first LIMIT $4"
"""Stretches of the log in which a tag stands (proxy.ledger.tagged)."""

FIRST_AT = """
WITH RECURSIVE halving (low, high) AS (
    SELECT 0::bigint, size FROM tollgate.log_head WHERE id = 1
    UNION ALL
    SELECT CASE WHEN e.at < $1 THEN e.idx + 1 ELSE h.low END, CASE WHEN e.at < $1 THEN h.high ELSE e.idx END
    FROM halving h JOIN tollgate.log_entry e ON e.idx = (h.low + h.high) / 2
    WHERE h.low < h.high
)
SELECT max(low) FROM halving
"""
"""The first index whose time is not before $1 (the log's size where there is none): time never falls with the index."""
