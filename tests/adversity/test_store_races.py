"""Rolling beside readers and beside death: nothing lost, nothing repeated, the order kept, at every moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.disclosure import lookup as looking
from proxy.disclosure import reader as reading
from proxy.disclosure.scope import Position
from proxy.store.reseal import roll as rolling
from proxy.store.writer import Run
from schema.roles import Role
from tests.conftest import Database
from tests.support.store import JULY, Store, call, call_ids, calls, ended, number, open_store, process

WANTED = number(3)
PULLS = pytest.mark.parametrize("search", [None, WANTED], ids=["pull", "search"])


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(database.config, tmp_path) as made:
        yield made


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every roll replaces every run of its month, into small batches, read in small pieces."""

    def absorb(settled: list[Run], staged: list[Run]) -> list[Run]:
        return [*settled, *staged]

    monkeypatch.setattr(rolling, "_absorb", absorb)
    monkeypatch.setattr(rolling, "BATCH_ROWS", 8)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 12)
    monkeypatch.setattr(looking, "CHUNKS_AT_ONCE", 2)


class Before:
    """Does something before the n-th statement of the billing role's connections."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at = 0
        self.seen = 0
        self.work: Callable[[], Coroutine[Any, Any, Any]] | None = None
        for name in ("execute", "fetch", "fetchval", "fetchrow"):
            patch.setattr(asyncpg.Connection, name, self._counted(getattr(asyncpg.Connection, name)))

    def _counted(self, original: Any) -> Any:
        async def run(conn: asyncpg.Connection, *args: Any, **more: Any) -> Any:
            if self.work is not None and conn._params.user == Role.BILLING.value:
                self.seen += 1
                if self.seen == self.at:
                    work, self.work = self.work, None
                    await work()
            return await original(conn, *args, **more)

        return run


@pytest.mark.usefixtures("eager")
@PULLS
async def test_a_roll_between_any_two_statements(
    store: Store, monkeypatch: pytest.MonkeyPatch, search: str | None
) -> None:
    """All batches of the answer are replaced before the n-th statement of the reader, for each n there is."""
    both = {"called": WANTED}
    await store.add([*calls(range(20), **both), *calls(range(20, 40), at=JULY + timedelta(days=40), **both)])
    scope = await store.scope(end=JULY + timedelta(days=62))
    whole = await store.pull(scope, search=search)
    assert call_ids(whole) == list(range(40))
    hook = Before(monkeypatch)
    extra, swept = 100, 0
    for at in range(1, 60):
        await store.ingest([call(extra, **both), call(extra + 1, at=JULY + timedelta(days=40), **both)])
        extra += 2
        hook.at, hook.seen, hook.work = at, 0, store.roll
        assert await store.pull(scope, search=search) == whole, f"rolled before statement {at}"
        if hook.work is not None:  # the reader needs no more statements than these
            hook.work = None
            break
        swept += 1
    assert swept >= 8


@pytest.mark.usefixtures("eager")
@PULLS
async def test_a_roll_in_the_middle_repeats_no_pair(
    store: Store, monkeypatch: pytest.MonkeyPatch, search: str | None
) -> None:
    """A reader that lists again goes on after the pair it has reached, not only after the record."""
    await store.add([call(n, egress=("456B", "789C", "124A")[n % 3], called=WANTED) for n in range(60)])
    scope = await store.scope(["123A"])
    hook = Before(monkeypatch)
    for at in range(1, 60):
        await store.ingest([call(100 + at, called=WANTED)])
        hook.at, hook.seen, hook.work = at, 0, store.roll
        assert sorted(call_ids(await store.pull(scope, search=search))) == list(range(60)), f"before statement {at}"
        if hook.work is not None:
            hook.work = None
            break
    assert at >= 8


@PULLS
async def test_a_roll_that_replaces_some_batches_of_a_piece(
    store: Store, monkeypatch: pytest.MonkeyPatch, search: str | None
) -> None:
    """The first run stays, the others are merged: of the batches of one piece some are there and some are gone."""
    monkeypatch.setattr(rolling, "_absorb", lambda settled, staged: [*settled[1:], *staged])
    for n in range(3):
        await store.add(calls(range(n * 20, n * 20 + 20), called=WANTED))
    scope = await store.scope()
    whole = await store.pull(scope, search=search)
    assert call_ids(whole) == list(range(60))
    hook = Before(monkeypatch)
    swept = 0
    for at in range(1, 30):
        await store.ingest(calls([100 + at], called=WANTED))
        hook.at, hook.seen, hook.work = at, 0, store.roll
        assert await store.pull(scope, search=search) == whole, f"rolled before statement {at}"
        if hook.work is not None:
            break
        swept += 1
    assert swept >= 5
    assert await store.conn.fetchval("SELECT count(*) FROM tollgate.run WHERE level > 0") == 2


@pytest.mark.usefixtures("eager")
@PULLS
async def test_a_roll_while_a_slow_consumer_has_a_piece(store: Store, search: str | None) -> None:
    """After each piece everything is replaced, this month's and the next one's."""
    both = {"called": WANTED}
    await store.add([*calls(range(30), **both), *calls(range(30, 50), at=JULY + timedelta(days=40), **both)])
    scope = await store.scope(end=JULY + timedelta(days=62))
    seen: list[int] = []
    extra = 100
    async for rows, _, _ in store.pieces(scope, search=search):
        seen += call_ids(rows)
        await store.ingest([call(extra, **both), call(extra + 1, at=JULY + timedelta(days=40), **both)])
        extra += 2
        assert (await store.roll()).groups == 2
    assert seen == list(range(50))


@pytest.mark.usefixtures("eager")
@PULLS
async def test_pulls_by_cursor_while_files_come_and_rolls_run(
    store: Store, database: Database, search: str | None
) -> None:
    """A peer that pulls in small bites and asks each time for what came since: everything once, in the order of ids."""
    stop = asyncio.Event()
    sent = 0

    async def feed() -> None:
        nonlocal sent
        async with open_store(database.config, store.folder / "feed") as other:
            other.folder.mkdir()
            for n in range(14):
                size = 3 + n % 5
                rows = [call(i, ingress=("123A", "124A")[i % 2], called=WANTED) for i in range(sent, sent + size)]
                await other.ingest(rows)
                sent += size
                if n % 3 == 2:
                    await other.roll()
            await other.roll()
        stop.set()

    feeding = asyncio.create_task(feed())
    seen: list[dict[str, Any]] = []
    known = rounds = 0
    while True:
        last = stop.is_set()
        scope = await store.scope(["123A", "124A"], after_id=known)
        assert scope.as_of >= known
        place: Position | None = None
        here: list[dict[str, Any]] = []
        while True:
            got = [piece async for piece in store.pieces(scope, place, limit=7, search=search)]
            if not got:
                break
            here += [r for rows, _, _ in got for r in rows]
            place = got[-1][2]
        ids = sorted(r["record_id"] for r in here)
        assert ids == list(range(known + 1, scope.as_of + 1)), "what complete_to promised is not what was read"
        seen += here
        known, rounds = scope.as_of, rounds + 1
        if last:
            break
        await asyncio.sleep(0.01)
    await feeding
    assert sorted(call_ids(seen)) == list(range(sent))
    assert rounds > 1
    assert await store.check() == []


async def test_remapping_beside_a_pull(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Records that get new ids under a running pull come in the next one, and in it alone."""
    from tests.support.store import unmapped_profile

    rows = [
        call(i, ingress_ocn="", egress_ocn="", **({} if i % 2 else {"ingress_trunk": "trunk-in-x"})) for i in range(20)
    ]
    await store.add(rows, unmapped_profile(tmp_path))
    scope = await store.scope()
    hook = Before(monkeypatch)
    hook.at, hook.work = 3, lambda: store.remap(unmapped_profile(tmp_path, {"trunk-in-x": "123A"}))
    assert call_ids(await store.pull(scope)) == list(range(1, 20, 2))
    assert hook.work is None
    assert call_ids(await store.pull(await store.scope(after_id=scope.as_of))) == list(range(0, 20, 2))


async def test_killed_at_any_statement_of_a_roll(store: Store, database: Database, tmp_path: Path) -> None:
    """SIGKILL before or after each statement: the old runs or the new ones, never both, never neither."""
    for n in range(3):
        await store.ingest([call(i, ingress=f"12{i % 4}A") for i in range(n * 10, n * 10 + 10)])
    await store.ingest(calls(range(30, 40), at=JULY + timedelta(days=40)))
    before = await store.contents()
    assert len(before) == 40
    died = 0
    for step in range(30):
        kill_at = 1 + step * 3 // 2
        child = process(database.config, tmp_path, None, kill_at, bool(step % 2))
        child.start()
        code = await ended(child)
        assert await store.contents() == before, f"killed at statement {kill_at}"
        if code == 0:
            break
        assert code == -9
        died += 1
    assert died > 10
    await store.roll()
    assert await store.contents() == before
    assert await store.conn.fetchval("SELECT count(*) FROM tollgate.staging") == 0
    assert await store.check() == []
    assert len(await store.pull(await store.scope([f"12{i}A" for i in range(4)]))) == 30


async def test_killed_at_random_moments_of_a_roll(store: Store, database: Database, tmp_path: Path) -> None:
    chance = random.Random(3)
    for n in range(6):
        await store.ingest(calls(range(n * 100, n * 100 + 100)))
        child = process(database.config, tmp_path, None, None, False)
        child.start()
        await asyncio.sleep(chance.uniform(0.02, 0.3))
        child.kill()
        assert await ended(child) in (0, -9)
        assert call_ids(await store.contents()) == list(range(n * 100 + 100))
    await store.roll()
    assert call_ids(await store.pull()) == list(range(600))
    assert await store.check() == []
