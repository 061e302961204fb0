"""Ingest under faults: killed at any statement, the database gone, the disk full. Run again: all is there, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from proxy.cli.common import ExitCode
from proxy.cli.main import main
from proxy.ingest import service
from proxy.ledger.model import LedgerUnavailable
from schema.roles import Role
from tests.conftest import Database
from tests.support.store import JULY, Store, call_ids, calls, ended, open_store, process


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(database.config, tmp_path) as made:
        yield made


async def whole(store: Store, numbers: list[int]) -> None:
    """Exactly these calls, each once, numbered without a gap, and all of it on record."""
    contents = await store.contents()
    assert call_ids(contents) == numbers
    assert [r["record_id"] for r in contents] == list(range(1, len(numbers) + 1))
    assert await store.check() == []
    staged = await store.conn.fetchval(
        "SELECT count(*) FROM tollgate.staging s WHERE NOT EXISTS"
        " (SELECT 1 FROM tollgate.run r WHERE r.month = s.month AND r.run_id = s.run_id)"
    )
    assert staged == 0, "pieces of no run"
    said = await store.conn.fetchval("SELECT coalesce(sum(stored), 0)::int FROM tollgate.ingest")
    assert said == len(numbers)


ROWS = [*calls(range(30)), *calls(range(30, 40), at=JULY + timedelta(days=40)), *calls(range(3))]
KEPT = list(range(40))


async def test_killed_at_any_statement(store: Store, database: Database, tmp_path: Path) -> None:
    """SIGKILL before and after statements of a whole ingest, one after another; what is there is nothing or all."""
    path = store.file(ROWS)
    died = committed = 0
    for kill_at in (1, 2, 3, 5, 8, 11, 14, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 40):
        child = process(database.config, tmp_path, path, kill_at, bool(kill_at % 2))
        child.start()
        code = await ended(child)
        died += code == -9
        there = call_ids(await store.contents())
        assert there in ([], KEPT), f"after statement {kill_at}"
        if there:
            committed += 1
            break
    assert died >= 10
    report = await store.ingest(path)
    assert report.already == bool(committed)
    await whole(store, KEPT)


async def test_killed_at_random_moments(store: Store, database: Database, tmp_path: Path) -> None:
    """Whatever the moment, the same files again give the same store."""
    chance = random.Random(7)
    paths = [store.file(calls(range(n * 300, n * 300 + 400))) for n in range(3)]
    for path in paths:
        for _ in range(2):
            child = process(database.config, tmp_path, path, None, False)
            child.start()
            await asyncio.sleep(chance.uniform(0.02, 0.35))
            child.kill()
            assert await ended(child) in (0, -9)
        await store.ingest(path)
    await store.roll()
    await whole(store, list(range(1000)))


@pytest.mark.parametrize("table", ["staging", "fingerprint_segment", "run", "ingest", "ingest_reject", "log_entry"])
async def test_a_write_that_fails_leaves_nothing_of_the_file(
    store: Store, owner: asyncpg.Connection, table: str
) -> None:
    """A full disk, wherever it strikes (here: a trigger that says what PostgreSQL says)."""
    await store.ingest(calls(range(5)))
    before = await dump(owner)
    await owner.execute(
        "CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;"
        f"CREATE TRIGGER full_disk BEFORE INSERT ON tollgate.{table} FOR EACH ROW EXECUTE FUNCTION public.full_disk()"
    )
    rows = [*calls(range(5, 12)), *calls([1], duration_ms=-1)]
    with pytest.raises((asyncpg.DiskFullError, LedgerUnavailable)):
        await store.ingest(rows)
    assert await dump(owner) == before
    await owner.execute(f"DROP TRIGGER full_disk ON tollgate.{table}")
    await store.ingest(rows)
    await whole(store, list(range(12)))


async def dump(owner: asyncpg.Connection) -> dict[str, int]:
    """Rows of each table that records leave traces in (data keys are made ahead and may be left over)."""
    tables = (
        "staging",
        "batch",
        "batch_leg",
        "tag_segment",
        "fingerprint_segment",
        "run",
        "ingest",
        "ingest_reject",
        "log_entry",
    )
    return {t: await owner.fetchval(f"SELECT count(*) FROM tollgate.{t}") for t in tables}


@pytest.mark.parametrize("how", ["full disk", "full disk under the log", "lost"])
async def test_a_fault_on_the_command_line(
    store: Store, owner: asyncpg.Connection, database: Database, how: str
) -> None:
    """A sentence that names the file and the reason, an exit code; no traceback, no record."""
    does = {
        "full disk": "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'",
        "lost": "PERFORM pg_terminate_backend(pg_backend_pid())",
    }[how.removesuffix(" under the log")]
    table = "log_entry" if how.endswith("log") else "staging"
    await owner.execute(
        f"CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {does};"
        " RETURN NEW; END $$;"
        f"CREATE TRIGGER fault BEFORE INSERT ON tollgate.{table} FOR EACH ROW EXECUTE FUNCTION public.fault()"
    )
    path = store.file(calls(range(3)), "switch-7.csv")
    environment = {"TOLLGATE_HOME": str(database.config.home), "TOLLGATE_DATABASE_URL": database.config.database_url}
    result = await asyncio.to_thread(
        CliRunner().invoke, main, ["ingest", str(path), "--profile", "tollgate"], env=environment
    )
    assert result.exit_code == ExitCode.UNAVAILABLE, result.exception
    assert "switch-7.csv" in result.stderr
    assert ("connection" if how == "lost" else "No space left") in result.stderr
    assert "callid" not in result.stderr
    assert await store.contents() == []


@pytest.mark.parametrize("which", ["before anything", "in the middle", "at the end"])
async def test_the_database_lost_in_the_middle(
    store: Store, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, database: Database, which: str
) -> None:
    """pg_terminate_backend on every session of ingest: an error of the connection, nothing stored, then all of it."""
    place = {"before anything": "_ready", "in the middle": "_stage", "at the end": "_finish"}[which]
    original = getattr(service._File, place)

    async def cut(self: object, *args: object) -> object:
        monkeypatch.setattr(service._File, place, original)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = $1 AND datname = current_database()",
            Role.INGEST.value,
        )
        return await original(self, *args)

    monkeypatch.setattr(service._File, place, cut)
    path = store.file(ROWS)
    lost = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError, OSError)
    # The driver's own word where the session ends between two of its states.
    with pytest.raises((*lost, asyncpg.InternalClientError)):
        await store.ingest(path)
    assert await dump(owner) == dict.fromkeys(await dump(owner), 0)
    async with open_store(database.config, store.folder) as again:
        report = await again.ingest(path)
        assert not report.already
        await whole(again, KEPT)
    store.conn.terminate()
    store.side.terminate()


async def test_the_reply_to_commit_lost(store: Store, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """The file is in, but nobody was told: run again, it is a no-op."""
    path = store.file(ROWS)
    child = process(database.config, store.folder, path, None, False)
    child.start()
    assert await ended(child) == 0
    assert (await store.ingest(path)).already
    await whole(store, KEPT)
