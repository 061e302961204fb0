"""A log with a past: entries of any month, on a database whose log role is told another time."""

from __future__ import annotations

from datetime import datetime

import asyncpg

# PostgreSQL finds pg_catalog first unless a search path says otherwise: so this one role's `clock_timestamp()` is ours,
# and that of the function that appends.
_CLOCK = """
CREATE SCHEMA IF NOT EXISTS past;
CREATE TABLE IF NOT EXISTS past.moment (at timestamptz NOT NULL);
CREATE OR REPLACE FUNCTION past.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog AS 'SELECT coalesce((SELECT max(at) FROM past.moment), clock_timestamp())';
GRANT USAGE ON SCHEMA past TO tollgate_log;
ALTER FUNCTION tollgate.log_append SET search_path = past, pg_catalog;
"""


async def set_clock(owner: asyncpg.Connection, at: datetime | None) -> None:
    """Tell the log's role that it is ``at``; None: the true time.

    Sessions begun after the first call see every later one.
    The log's time never runs backwards, so go forward only.
    """
    await owner.execute(_CLOCK)
    await owner.execute(
        "DO $$ BEGIN EXECUTE format('ALTER ROLE tollgate_log IN DATABASE %I SET search_path = past, pg_catalog',"
        " current_database()); END $$"
    )
    await owner.execute("DELETE FROM past.moment")
    if at is not None:
        await owner.execute("INSERT INTO past.moment (at) VALUES ($1)", at)
