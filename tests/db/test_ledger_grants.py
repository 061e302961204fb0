"""Who may do what to the log, as PostgreSQL sees it."""

from __future__ import annotations

import asyncpg
import pytest

from proxy.ledger.service import Ledger
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger

ENTRIES = ("log_entry", "log_opening", "log_tag")
WRITERS = (Role.LOG, Role.INGEST, Role.OPERATOR, Role.PRIVACY)
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


@pytest.mark.parametrize("role", [r for r in Role if r not in WRITERS])
async def test_only_writers_append(filled: Database, role: Role) -> None:
    tag = "INSERT INTO tollgate.log_tag (tag, first, places) VALUES (1, 1, '\\x0000')"
    assert await _refused(filled, role, tag)
    assert await _refused(filled, role, "UPDATE tollgate.log_head SET size = size")


@pytest.mark.parametrize("role", list(Role))
async def test_nobody_removes_the_head_or_makes_a_second(filled: Database, role: Role) -> None:
    assert await _refused(filled, role, "DELETE FROM tollgate.log_head")
    assert await _refused(filled, role, "INSERT INTO tollgate.log_head (id, size, at) VALUES (2, 0, now())")
