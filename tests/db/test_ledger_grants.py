"""Who may do what to the log, as PostgreSQL sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from proxy.ledger.service import Ledger
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger

ENTRIES = ("log_entry", "log_opening", "log_tag")
WRITERS = (Role.LOG, Role.INGEST, Role.OPERATOR, Role.PRIVACY, Role.LEGAL, Role.CASES)
APPEND = (
    "SELECT tollgate.log_append(false, 0, to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::int, gen_random_uuid(),"
    " ARRAY[gen_random_uuid()], ARRAY['{kind}'], ARRAY[NULL::uuid],"
    ' ARRAY[convert_to(\'"parts":{{}},"salt":"AAAAAAAAAAAAAAAAAAAAAA","v":1}}\', \'UTF8\')], ARRAY[\'\'::bytea],'
    " '{{}}', '{{}}', '{{}}', '{{}}')"
)
"""An entry without parts, as any client of PostgreSQL could append it."""
EMPTY = (
    "SELECT tollgate.log_append(false, 0, to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::int, gen_random_uuid(),"
    " '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')"
)
OTHER_TIME = """
CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS 'SELECT pg_catalog.now() + interval ''2 hours''';
SET search_path = pg_temp, pg_catalog
"""
COLUMN = {"log_entry": "kind", "log_opening": "part", "log_tag": "tag"}


async def _refused(database: Database, role: Role, statement: str) -> bool:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        await conn.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await conn.close()
    return False


@pytest.fixture
async def filled(database: Database) -> Database:
    async with open_ledger(database.config) as ledger:
        assert isinstance(ledger, Ledger)
        await ledger.append(intent())
    return database


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("table", ENTRIES)
async def test_nobody_changes_or_removes_what_stands(filled: Database, role: Role, table: str) -> None:
    for statement in (
        f"UPDATE tollgate.{table} SET {COLUMN[table]} = {COLUMN[table]}",
        f"DELETE FROM tollgate.{table}",
        f"TRUNCATE tollgate.{table}",
    ):
        assert await _refused(filled, role, statement), statement


@pytest.mark.parametrize("role", [r for r in Role if r is not Role.LOG])
@pytest.mark.parametrize("table", ENTRIES)
async def test_only_the_log_role_reads_entries(filled: Database, role: Role, table: str) -> None:
    assert await _refused(filled, role, f"SELECT 1 FROM tollgate.{table}")
    assert not await _refused(filled, Role.LOG, f"SELECT 1 FROM tollgate.{table}")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("table", ENTRIES)
async def test_nobody_writes_but_by_appending(filled: Database, role: Role, table: str) -> None:
    assert await _refused(filled, role, f"INSERT INTO tollgate.{table} SELECT (NULL::tollgate.{table}).*")
    assert await _refused(filled, role, APPEND.format(kind="summary")) == (role not in WRITERS)


@pytest.mark.parametrize("role", list(Role))
async def test_nobody_moves_the_head_or_makes_a_second(filled: Database, role: Role) -> None:
    for statement in (
        "UPDATE tollgate.log_head SET size = size + 1",
        "UPDATE tollgate.log_head SET at = at + interval '2 hours'",
        "UPDATE tollgate.log_head SET size = size, id = id",
        "DELETE FROM tollgate.log_head",
        "TRUNCATE tollgate.log_head",
        "INSERT INTO tollgate.log_head (id, size, at) VALUES (2, 0, now())",
    ):
        assert await _refused(filled, role, statement), statement


@pytest.mark.parametrize("role", list(Role))
async def test_only_the_logs_role_locks_the_head(filled: Database, role: Role) -> None:
    for statement in (
        "SELECT 1 FROM tollgate.log_head WHERE id = 1 FOR UPDATE",
        "UPDATE tollgate.log_head SET id = id WHERE id = 1",
    ):
        assert await _refused(filled, role, statement) == (role is not Role.LOG), statement


async def test_the_logs_role_cannot_take_the_heads_key_away(filled: Database) -> None:
    conn = await asyncpg.connect(filled.config.role_url(Role.LOG))
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute("UPDATE tollgate.log_head SET id = 2")
    finally:
        await conn.close()


@pytest.mark.parametrize("role", WRITERS)
async def test_a_writer_appends_at_the_end_and_with_the_time_that_it_is(filled: Database, role: Role) -> None:
    """Whatever its session's search path says, and never nothing."""
    config = filled.config
    async with open_ledger(config) as ledger:
        conn = await asyncpg.connect(config.role_url(role))
        try:
            await conn.execute(OTHER_TIME)
            async with conn.transaction():
                (placed,) = await ledger.append_in(conn, [intent()])
            with pytest.raises(asyncpg.InvalidParameterValueError):
                await conn.execute(EMPTY)
        finally:
            await conn.close()
        (_, entry) = await ledger.read()
    assert (placed.index, entry.index) == (1, 1)
    assert abs(entry.at - datetime.now(UTC)) < timedelta(minutes=10)


@pytest.mark.parametrize("kind", ["log.erase", "log.origin"])
@pytest.mark.parametrize("role", WRITERS)
async def test_only_the_logs_role_opens_it_or_says_what_was_erased(filled: Database, role: Role, kind: str) -> None:
    assert await _refused(filled, role, APPEND.format(kind=kind)) == (role is not Role.LOG)


@pytest.mark.parametrize("role", list(Role))
async def test_only_the_logs_role_orders_an_erasure_and_takes_none_back(filled: Database, role: Role) -> None:
    order = "INSERT INTO tollgate.log_erase_order VALUES (gen_random_uuid(), 'actor', 202001)"
    assert await _refused(filled, role, order) == (role is not Role.LOG)
    for statement in ("UPDATE tollgate.log_erase_order SET month = 202002", "DELETE FROM tollgate.log_erase_order"):
        assert await _refused(filled, role, statement), statement
