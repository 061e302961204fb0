"""Migrations: twice, by two at once, against drift, against a newer database, against a table that stays locked."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from schema import migrate as migrating
from schema.migrate import Migration, MigrationError, available, migrate, pending
from schema.roles import create_roles
from tests.conftest import PASSWORDS, Database, with_database


@pytest.fixture
async def empty(server_url: str) -> AsyncIterator[str]:
    """URL of a database without anything in it."""
    name = "tollgate_empty_" + secrets.token_hex(4)
    conn = await asyncpg.connect(server_url)
    await create_roles(conn, PASSWORDS)
    await conn.execute(f"CREATE DATABASE {name}")
    try:
        yield with_database(server_url, name)
    finally:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await conn.close()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()


NAMES = [m.name for m in available()]


async def test_twice(empty: str) -> None:
    async with connected(empty) as conn:
        assert await pending(conn) == NAMES
        assert await migrate(conn) == NAMES
        before = await shape(conn)
        assert await pending(conn) == []
        assert await migrate(conn) == []
        assert await shape(conn) == before


async def shape(conn: asyncpg.Connection) -> list[tuple[str, ...]]:
    """Everything that a migration makes: columns, constraints, policies, grants."""
    rows = await conn.fetch(
        "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns"
        " WHERE table_schema = 'tollgate'"
        " UNION ALL SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'tollgate'::regnamespace"
        " UNION ALL SELECT polrelid::regclass::text, polname::text, pg_get_expr(polqual, polrelid) FROM pg_policy"
        " UNION ALL SELECT table_name::text, grantee::text, privilege_type::text"
        " FROM information_schema.role_table_grants WHERE table_schema = 'tollgate'"
        " UNION ALL SELECT 'migration', name, digest FROM tollgate.migration ORDER BY 1, 2, 3"
    )
    return [tuple(r) for r in rows]


async def test_two_operators_at_once(empty: str) -> None:
    async with connected(empty) as one, connected(empty) as other:
        done = await asyncio.gather(migrate(one), migrate(other))
        assert sorted(done, key=len) == [[], NAMES]
        assert await pending(one) == []


async def test_a_file_changed_after_it_was_applied(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(empty) as conn:
        await migrate(conn)
        before = await shape(conn)
        first, *rest = available()
        changed = Migration(first.number, first.name, first.sql + "\nDROP TABLE tollgate.batch;")
        monkeypatch.setattr(migrating, "available", lambda: [changed, *rest])
        for act in (migrate, pending):
            with pytest.raises(MigrationError, match=f"drift: {first.name}"):
                await act(conn)
        assert await shape(conn) == before


async def test_a_newer_database(empty: str) -> None:
    async with connected(empty) as conn:
        await migrate(conn)
        await conn.execute("INSERT INTO tollgate.migration VALUES (9000, '9000_future.sql', 'x')")
        for act in (migrate, pending):
            with pytest.raises(MigrationError, match=r"9000.*upgrade"):
                await act(conn)


async def test_a_migration_that_fails_leaves_nothing_and_can_be_run_again(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(9000, "9000_broken.sql", "CREATE TABLE tollgate.half (n int); SELECT 1 / 0;")
    good = Migration(9000, "9000_good.sql", "CREATE TABLE tollgate.half (n int);")
    shipped = available()
    async with connected(empty) as conn:
        monkeypatch.setattr(migrating, "available", lambda: [*shipped, broken])
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(conn)
        assert await conn.fetchval("SELECT to_regclass('tollgate.half')") is None
        assert await pending(conn) == [broken.name]
        monkeypatch.setattr(migrating, "available", lambda: [*shipped, good])
        assert await migrate(conn) == [good.name]
    async with connected(empty) as conn:  # the lock was given back
        assert await migrate(conn) == []


async def test_a_table_that_stays_locked(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up and says what to do, instead of blocking every reader behind it."""
    shipped = available()
    change = Migration(9000, "9000_change.sql", "ALTER TABLE tollgate.batch ADD COLUMN later int;")
    async with connected(empty) as conn, connected(empty) as session:
        await migrate(conn)
        monkeypatch.setattr(migrating, "available", lambda: [*shipped, change])
        monkeypatch.setattr(migrating, "LOCK_TIMEOUT_MS", 50)
        async with session.transaction():
            await session.execute("SELECT count(*) FROM tollgate.batch")
            with pytest.raises(MigrationError, match="locked"):
                async with asyncio.timeout(20):  # waiting on is what must not happen
                    await migrate(conn)
        assert await migrate(conn) == [change.name]


def test_two_files_of_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [m.number for m in available()]
    assert numbers == list(range(1, len(numbers) + 1))

    class Item:
        def __init__(self, name: str) -> None:
            self.name = name

        def joinpath(self, _: str) -> Item:
            return self

        def iterdir(self) -> list[Item]:
            return [Item("0001_a.sql"), Item("0001_b.sql"), Item("README.md")]

        def read_text(self, encoding: str) -> str:
            return encoding

    monkeypatch.setattr(migrating.resources, "files", lambda _: Item(""))
    with pytest.raises(MigrationError, match="one number"):
        available()


# Months.


async def test_partitions_are_there_ahead_of_need(empty: str) -> None:
    async with connected(empty) as conn:
        await migrate(conn)
        now = datetime.now(UTC)
        for parent in ("staging", "batch", "batch_leg", "tag_segment", "fingerprint_segment"):
            assert await conn.fetchval("SELECT to_regclass($1)", f"tollgate.{parent}_{now:%Y%m}")


async def test_months_are_made_once_and_only_where_there_are_months(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval("SELECT tollgate.ensure_month(203512)")
    assert not await owner.fetchval("SELECT tollgate.ensure_month(203512)")
    for wrong in (203500, 203513, 199912, 210101, 0, -1, None):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await owner.fetchval("SELECT tollgate.ensure_month($1)", wrong)


async def test_two_make_one_month_at_once(owner: asyncpg.Connection, database: Database) -> None:
    url = database.url
    async with connected(url) as one, connected(url) as other:
        query = "SELECT tollgate.ensure_month(203601)"
        made = await asyncio.gather(one.fetchval(query), other.fetchval(query))
    assert sorted(made) == [False, True]


async def test_a_month_is_made_beside_readers_and_writers(owner: asyncpg.Connection, database: Database) -> None:
    """Nobody waits for whom: a reader in a long transaction, the one who makes the month, a reader after it."""
    url = database.url
    async with connected(url) as reader, connected(url) as maker, connected(url) as later, reader.transaction():
        await reader.fetch("SELECT month FROM tollgate.batch JOIN tollgate.batch_leg USING (month)")
        async with maker.transaction():
            await maker.execute("SET LOCAL lock_timeout = '2s'")
            assert await maker.fetchval("SELECT tollgate.ensure_month(203602)")
            await later.execute("SET lock_timeout = '2s'")
            await later.fetch("SELECT month FROM tollgate.batch JOIN tollgate.batch_leg USING (month)")
        await reader.fetch("SELECT month FROM tollgate.batch JOIN tollgate.batch_leg USING (month)")
