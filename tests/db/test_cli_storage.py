"""How ciphertext lies in the database, on every version of PostgreSQL (15 does not know STORAGE in CREATE TABLE)."""

from __future__ import annotations

import asyncpg


async def test_ciphertext_is_kept_out_of_line_and_uncompressed(owner: asyncpg.Connection) -> None:
    """Else a chunk could not be read by substring without the rest; new partitions must have it too."""
    await owner.execute("SELECT tollgate.ensure_month(202611)")
    rows = await owner.fetch(
        "SELECT c.relname, a.attname, a.attstorage::text AS how"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'tollgate'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0"
        " AND a.atttypid = 'bytea'::regtype AND a.attname = ANY($1::text[])",
        ["sealed", "manifest", "timing", "parties", "routing", "ingress_leg", "egress_leg", "location"],
    )
    tables = {row["relname"] for row in rows}
    assert {"batch", "batch_202611", "batch_leg_202611", "staging_202611", "tag_segment_202611"} <= tables
    assert {row["how"] for row in rows} == {"e"}
