"""Extractions that are killed, cancelled, taken over, or run beside a roll: the same records, or a clear end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.config import Config
from proxy.disclosure.extract import Extractions
from proxy.disclosure.filling import Filling
from proxy.disclosure.gather import Gatherer
from proxy.ledger.model import Kind
from proxy.policy.extraction import ExtractionOrder, ExtractionState, HoldUnreadableError
from tests.conftest import Database
from tests.support import store as killing
from tests.support.held import HANDLER, Desk, Ordered, open_desk, order
from tests.support.store import JULY, calls, number

SMALL: dict[str, Any] = {"piece_rows": 8, "progress_rows": 20}


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(database.config, tmp_path, **SMALL) as made:
        yield made


def worker(config: Config, folder: Path, asked: ExtractionOrder, kill_at: int, before: bool) -> None:
    """Extract, and die before or after sending so many statements."""

    async def work() -> None:
        async with open_desk(config, folder, **SMALL) as desk:
            await desk.extractions.register(asked)
            killing._arm(kill_at, before)
            await desk.extractions.extract(asked)

    asyncio.run(work())


async def seen(desk: Desk, hold_id: str) -> list[int]:
    """Record ids that the log says were held, of all entries of an extraction: none is told twice."""
    access = (await desk.extractions.progress(hold_id)).access_id  # type: ignore[union-attr]
    found: list[int] = []
    for entry in await desk.store.ledger.read(limit=1000):
        if entry.access_id == access and "records" in (entry.records or {}):
            for first, last in entry.records["records"].get("runs", ()):  # type: ignore[index]
                found += range(int(first), int(last) + 1)
    return sorted(found)


KILLS = ((4, True), (10, False), (15, True), (21, False), (26, True), (33, False), (41, True), (52, False), (60, True))


async def test_killed_at_a_statement(database: Database, tmp_path: Path) -> None:
    """Wherever it dies: whoever resumes comes to the records, pieces and digest of one that was left in peace."""
    async with open_desk(database.config, tmp_path, **SMALL) as desk:
        # Many calls of one moment, so that a piece ends among them.
        await desk.store.add(calls(range(30), called=number(9)))
        await desk.store.add(calls(range(30, 60), called=number(9), started_at=JULY.isoformat()))
        case = await desk.case()
        peace = await desk.extractions.extract(order(case, number(9)))
        rows = await desk.rows(peace.hold_id)
        came_to = []
        asked = [order(case, number(9)) for _ in KILLS]
        for wanted, (kill_at, before) in zip(asked, KILLS, strict=True):
            child = killing._FORKS.Process(target=worker, args=(database.config, tmp_path, wanted, kill_at, before))
            child.start()
            assert await killing.ended(child) == -9
        await desk.store.add(calls(range(100, 130), called=number(9)))  # late, and rolled together with the rest
        await desk.owner.execute(
            "UPDATE tollgate.held SET started_at = started_at - interval '1 hour' WHERE state = 'running'"
        )
        for wanted in asked:
            found = await desk.extractions.progress(wanted.hold_id)
            for _ in range(50):
                if found is None or found.state is not ExtractionState.RUNNING:
                    break
                await desk.extractions.resume()
                found = await desk.extractions.wait(wanted.hold_id)
            if found is None:  # it died before it was on record: nothing was read
                came_to.append("nothing")
                continue
            came_to.append(found.why or found.state.value)
            if found.state is ExtractionState.FAILED:  # before its order was kept: it holds nothing
                assert (found.why, found.rows) == ("order", 0)
                continue
            whole = (peace.state, peace.rows, peace.pieces, peace.sha256)
            assert (found.state, found.rows, found.pieces, found.sha256) == whole
            assert await desk.rows(wanted.hold_id) == rows
            assert await seen(desk, wanted.hold_id) == sorted(r["record_id"] for r in rows)
            assert await desk.extractions.sources(wanted.hold_id) == await desk.extractions.sources(peace.hold_id)
        assert came_to[0] == "nothing"
        assert came_to[-4:] == ["complete"] * 4


async def test_an_order_that_was_not_kept_fails(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ordered died before the order was sealed: nobody can go on, and the case is told to order again."""
    asked = order(await desk.case(), number(9))
    monkeypatch.setattr(Extractions, "_spawn", lambda *_: None)
    await desk.extractions.start(asked)
    monkeypatch.undo()
    assert await desk.extractions.resume() == 1
    assert (await desk.extractions.wait(asked.hold_id)).state is ExtractionState.RUNNING  # whoever ordered may be slow
    await desk.owner.execute("UPDATE tollgate.held SET started_at = started_at - interval '2 minutes'")
    await desk.extractions.resume()
    done = await desk.extractions.wait(asked.hold_id)
    assert (done.state, done.why) == (ExtractionState.FAILED, "order")


@contextlib.contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, pieces: int) -> Any:
    """Extractions write so many pieces, and then stand still until told."""
    go, there = asyncio.Event(), asyncio.Event()
    write = Filling.write

    async def slow(self: Filling, table: Any) -> None:
        if self.state.pieces >= pieces:
            there.set()
            await go.wait()
        await write(self, table)

    monkeypatch.setattr(Filling, "write", slow)
    yield there, go
    monkeypatch.undo()


async def test_cancelled_here_and_from_another_gateway(
    database: Database, tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.store.add(calls(range(60), called=number(9)))
    async with open_desk(database.config, tmp_path, **SMALL) as other:
        for gateway in (desk, other):
            asked = order(await desk.case(), number(9))
            with held_up(monkeypatch, 3) as (there, go):
                await desk.extractions.start(asked)
                await asyncio.wait_for(there.wait(), 10)
                stopped = await gateway.extractions.cancel(asked.hold_id, HANDLER)
                go.set()
                await desk.extractions.wait(asked.hold_id)
            done = await desk.extractions.progress(asked.hold_id)
            assert done == stopped
            assert (done.state, done.why, done.rows, done.pieces) == (ExtractionState.CANCELLED, "cancelled", 24, 3)
            assert len(await seen(desk, asked.hold_id)) == 24  # what was held until then is on record
            with pytest.raises(HoldUnreadableError):
                await desk.rows(asked.hold_id)
            assert await desk.extractions.resume() == 0
            assert (
                await desk.owner.fetchval("SELECT state FROM tollgate.hold WHERE hold_id = $1", asked.hold_id) == "void"
            )


async def test_two_gateways_resume_one_extraction(
    database: Database, tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one goes on; the other leaves it alone, and can take over when the first is gone."""
    await desk.store.add(calls(range(60), called=number(9)))
    asked = order(await desk.case(), number(9))
    async with open_desk(database.config, tmp_path, **SMALL) as other:
        with held_up(monkeypatch, 2) as (there, _):
            await desk.extractions.start(asked)
            await asyncio.wait_for(there.wait(), 10)
            await other.extractions.resume()
            found = await asyncio.wait_for(other.extractions.wait(asked.hold_id), 10)
            assert (found.state, found.pieces) == (ExtractionState.RUNNING, 2)
            await desk.extractions.close()
        assert await other.extractions.resume() == 1
        done = await other.extractions.wait(asked.hold_id)
        assert (done.state, done.rows, done.pieces) == (ExtractionState.COMPLETE, 60, 8)


async def test_rolling_beside_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are listed are rolled away before they are fetched: the snapshot still has them."""
    for n in range(0, 60, 6):
        await desk.store.add(calls(range(n, n + 6), called=number(9)))
    gather = Gatherer.gather
    rolled = 0

    async def slow(self: Gatherer, conn: Any, candidates: Any) -> Any:
        nonlocal rolled
        await desk.store.add(calls(range(1000 + rolled, 1003 + rolled), called=number(9)))
        rolled += 3
        async with contextlib.aclosing(gather(self, conn, candidates)) as tables:
            async for made in tables:
                yield made

    monkeypatch.setattr(Gatherer, "gather", slow)
    done, found = await desk.extract(number(9))
    assert rolled == 3
    assert done.rows == 60
    assert [r["record_id"] for r in found] == list(range(1, 61))


async def test_the_database_goes_and_comes_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, owner: asyncpg.Connection
) -> None:
    await desk.store.add(calls(range(60), called=number(9)))
    asked = order(await desk.case(), number(9))
    with held_up(monkeypatch, 4) as (there, go):
        await desk.extractions.start(asked)
        await asyncio.wait_for(there.wait(), 10)
        await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tollgate_legal'")
        go.set()
        done = await asyncio.wait_for(desk.extractions.wait(asked.hold_id), 20)
    assert (done.state, done.rows, done.pieces) == (ExtractionState.COMPLETE, 60, 8)
    assert len(await seen(desk, asked.hold_id)) == 60


@pytest.mark.parametrize("column", ["timing", "parties", "source"])
async def test_a_batch_that_was_changed_ends_it(desk: Desk, owner: asyncpg.Connection, column: str) -> None:
    await desk.store.add(calls(range(40), called=number(9)))
    await owner.execute(
        f"UPDATE tollgate.batch SET {column} = set_byte({column}, 60, (get_byte({column}, 60) + 1) % 256)"
    )
    done = await desk.extractions.extract(order(await desk.case(), number(9)))
    assert (done.state, done.why, done.rows) == (ExtractionState.FAILED, "store", 0)
    (entry,) = await desk.store.ledger.read_last(limit=1)
    assert (entry.kind, entry.outcome["state"]) == (Kind.ACCESS_OUTCOME, "failed")  # type: ignore[index]


async def test_a_piece_of_another_hold_does_not_open(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.store.add(calls(range(8), called=number(9)))
    (one, _), (two, _) = await desk.extract(number(9)), await desk.extract(number(9))
    await owner.execute(
        "UPDATE tollgate.held_piece SET sealed = (SELECT sealed FROM tollgate.held_piece WHERE hold_id = $1)"
        " WHERE hold_id = $2",
        one.hold_id,
        two.hold_id,
    )
    with pytest.raises(Exception, match="sealed under another"):
        await desk.rows(two.hold_id)


async def test_a_gateway_without_the_holds_key_class(database: Database, tmp_path: Path, desk: Desk) -> None:
    """The key cannot be made: the extraction fails and says so, and nothing is held."""
    await desk.store.add(calls(range(8), called=number(9)))
    classes = frozenset({"timing", "parties", "source", "subscriber", "device", "tags"})
    keys = DataKeys(await asyncio.to_thread(FileProvider, database.config.keyring_dir, classes))
    poor = Ordered(desk.owner, desk.legal, keys, desk.store.ledger, desk.store.executor)
    done = await poor.extract(order(await desk.case(), number(9)))
    assert (done.state, done.why, done.rows) == (ExtractionState.FAILED, "keys", 0)
    rich = DataKeys(await asyncio.to_thread(FileProvider, database.config.keyring_dir, classes | {"hold"}))
    done = await Ordered(desk.owner, desk.legal, rich, desk.store.ledger, desk.store.executor).extract(
        order(await desk.case(), number(9))
    )
    assert (done.state, done.rows) == (ExtractionState.COMPLETE, 8)


async def test_an_extraction_that_is_over_stays_over(desk: Desk, owner: asyncpg.Connection) -> None:
    """What the gateway does not do, PostgreSQL does not let it do."""
    await desk.store.add(calls(range(8), called=number(9)))
    done, _ = await desk.extract(number(9))
    assert await desk.extractions.cancel(done.hold_id, HANDLER) == done
    async with desk.legal.acquire() as conn:
        for statement in (
            "UPDATE tollgate.held SET rows = 9",
            "UPDATE tollgate.held SET state = 'running', ended_at = NULL, sha256 = NULL",
            "UPDATE tollgate.held SET order_sealed = NULL",
        ):
            with pytest.raises(asyncpg.CheckViolationError):
                await conn.execute(statement)
        for statement in (
            "DELETE FROM tollgate.held",
            "DELETE FROM tollgate.held_piece",
            "UPDATE tollgate.held SET case_id = case_id",
            "UPDATE tollgate.held SET as_of = 0",
            "UPDATE tollgate.held_piece SET rows = 1",
            "UPDATE tollgate.batch SET rows = 1",
            "DELETE FROM tollgate.batch",
            "SELECT 1 FROM tollgate.staging",
            "SELECT 1 FROM tollgate.fingerprint_segment",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
        assert await conn.fetchval("SELECT count(*) FROM tollgate.held_piece") == 0  # no hold in hand
        assert await conn.fetchval("SELECT count(*) FROM tollgate.batch") == 0  # no month
        async with conn.transaction():
            await conn.execute("SELECT set_config('tollgate.hold', 'H-AAAAAAAAAA', true)")
            assert await conn.fetchval("SELECT count(*) FROM tollgate.held_piece") == 0
            with pytest.raises(asyncpg.PostgresError):
                await conn.execute(
                    "INSERT INTO tollgate.held_piece SELECT $1, 9, 1, 1, 1, sha256('x'), 'x'::bytea", done.hold_id
                )


async def test_an_order_that_was_changed_is_not_gone_on_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, owner: asyncpg.Connection
) -> None:
    await desk.store.add(calls(range(60), called=number(9)))
    asked = order(await desk.case(), number(9))
    with held_up(monkeypatch, 2) as (there, _):
        await desk.extractions.start(asked)
        await asyncio.wait_for(there.wait(), 10)
        await desk.extractions.close()
    await owner.execute("ALTER TABLE tollgate.held DISABLE TRIGGER ALL")
    await owner.execute("UPDATE tollgate.held SET order_digest = sha256('x'::bytea)")
    await owner.execute("ALTER TABLE tollgate.held ENABLE TRIGGER ALL")
    await desk.extractions.resume()
    done = await desk.extractions.wait(asked.hold_id)
    assert (done.state, done.why, done.pieces) == (ExtractionState.FAILED, "store", 2)
