"""The statements of a check of the live log: all read, under one snapshot (proxy.ledger.fsck.live)."""

from __future__ import annotations

NOW = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_xact_replay_timestamp(), clock_timestamp())"
    " ELSE clock_timestamp() END"
)
"""The time of what is seen: a replica shows the past."""
HEAD = "SELECT size, at FROM tollgate.log_head WHERE id = 1"
ORIGINS = "SELECT epoch, origin, first_size, previous FROM tollgate.log_origin ORDER BY epoch"
SIGNED = "SELECT max(size) FROM tollgate.log_checkpoint WHERE epoch = $1"
ERASE = (
    "SELECT idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags FROM tollgate.log_entry"
    " WHERE kind = 'log.erase' ORDER BY idx DESC LIMIT 100"
)
ENTRIES = (
    "SELECT idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags FROM tollgate.log_entry"
    " WHERE idx >= $1 AND idx < $2 ORDER BY idx"
)
NEXT = "SELECT min(idx) FROM tollgate.log_entry WHERE idx >= $1"
OPENINGS = (
    "SELECT part, month, batch_id, octet_length(sealed) AS length,"
    " CASE WHEN octet_length(sealed) <= $4 THEN sealed END AS sealed"
    " FROM tollgate.log_opening WHERE part = ANY($1::text[]) AND month = ANY($2::int[]) AND batch_id = ANY($3::uuid[])"
)
TILES = """
SELECT level, idx, hashes, root FROM tollgate.log_tile WHERE level = 0 AND idx >= $1 AND idx < $2
UNION ALL
SELECT t.level, t.idx, t.hashes, t.root
FROM unnest($3::smallint[], $4::bigint[]) AS w (level, idx) JOIN tollgate.log_tile t USING (level, idx)
"""
CHECKPOINTS = (
    "SELECT epoch, size, root, at, note FROM tollgate.log_checkpoint"
    " WHERE epoch = ANY($1::int[]) AND size > $2 AND size <= $3 ORDER BY size, epoch"
)
COSIGNATURES = (
    "SELECT epoch, size, witness, line FROM tollgate.log_cosignature"
    " WHERE epoch = ANY($1::int[]) AND size > $2 AND size <= $3 ORDER BY size, epoch, witness"
)
PAST = (
    "SELECT epoch, size FROM tollgate.log_checkpoint WHERE size > $1 OR NOT epoch = ANY($2::int[])"
    " ORDER BY size, epoch LIMIT $3"
)
LONE = (
    "SELECT c.size, c.witness FROM tollgate.log_cosignature c LEFT JOIN tollgate.log_checkpoint p"
    " ON p.epoch = c.epoch AND p.size = c.size WHERE p.size IS NULL LIMIT $1"
)
FAR = (
    "SELECT level, idx FROM tollgate.log_tile WHERE (idx + 1)::numeric * 256::numeric ^ (level + 1) > $1::bigint"
    " ORDER BY level, idx LIMIT $2"
)
COUNT = "SELECT count(*) FROM tollgate.log_opening"
ORPHANS = (
    "SELECT o.part, o.month FROM tollgate.log_opening o WHERE NOT EXISTS (SELECT FROM tollgate.log_entry e"
    " WHERE e.batch_id = o.batch_id AND to_char(e.at AT TIME ZONE 'UTC', 'YYYYMM')::int = o.month) LIMIT $1"
)
TWICE = (
    "SELECT max(e.idx) AS idx FROM tollgate.log_entry e JOIN (SELECT entry_id FROM tollgate.log_entry"
    " GROUP BY entry_id HAVING count(*) > 1 LIMIT $1) d USING (entry_id) GROUP BY entry_id"
)
TAGS = "SELECT tag, first, places FROM tollgate.log_tag"
TAGS_AT = TAGS + " WHERE first > $1::bigint - 65536 AND first < $2"
COLUMNS_AT = "SELECT idx, batch_pos, tags FROM tollgate.log_entry WHERE idx >= $1 AND idx < $2 ORDER BY idx"
