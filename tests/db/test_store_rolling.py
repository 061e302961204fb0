"""Rolling: what it makes of staged records, and what it leaves as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger.model import Kind
from proxy.store import batches
from proxy.store.reseal import roll as rolling
from proxy.store.reseal.remap import BusyError
from proxy.store.writer import StoreDamagedError
from tests.conftest import Database
from tests.support.store import JULY, Store, call, call_ids, calls, open_store, unmapped_profile


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(database.config, tmp_path) as made:
        yield made


async def test_staged_records_are_readable_by_nobody_until_rolled(store: Store) -> None:
    await store.ingest(calls(range(5)))
    assert await store.reader().complete_to() == 0
    assert await store.pull(await store.scope(as_of=100)) == []
    done = await store.roll()
    assert (done.groups, done.rows, done.batches) == (1, 5, 1)
    assert await store.reader().complete_to() == 5
    assert call_ids(await store.pull()) == list(range(5))


async def test_nothing_staged_nothing_done(store: Store) -> None:
    assert (await store.roll()).groups == 0
    await store.add(calls(range(3)))
    before = len(await store.ledger.read())
    assert (await store.roll()).groups == 0
    assert len(await store.ledger.read()) == before


async def test_rolling_changes_no_record_and_no_id(store: Store) -> None:
    rows = [call(i, ingress=f"12{i % 3}A", egress=f"45{i % 2}B") for i in range(40)]
    rows += [call(i, egress="none", egress_call_id="", egress_amount="") for i in range(40, 44)]
    rows += [
        call(45, calling="0100", account="a-1", name="Example", imsi="001010123456789", cell="c1", latitude="-1.5")
    ]
    for part in (rows[:10], rows[10:11], rows[11:]):
        await store.ingest(part)
    before = await store.contents()
    assert len(before) == 45
    await store.roll()
    assert await store.contents() == before
    pairs = await store.conn.fetch(
        "SELECT pair_id, count(*) AS n, sum(rows)::int AS rows FROM tollgate.batch GROUP BY 1"
    )
    assert len(pairs) == 8
    assert all(r["n"] == 1 for r in pairs)
    assert await store.conn.fetchval("SELECT count(*) FROM tollgate.staging") == 0
    assert await store.check() == []


async def test_small_runs_merge_and_the_levels_rise(store: Store) -> None:
    for n in range(4):
        await store.add(calls(range(n * 5, n * 5 + 5)))
    runs = await store.conn.fetch("SELECT level, rows, first_record_id, last_record_id FROM tollgate.run ORDER BY 3")
    assert [tuple(r) for r in runs] == [(3, 15, 1, 15), (1, 5, 16, 20)]
    assert call_ids(await store.contents()) == list(range(20))
    assert await store.check() == []


async def test_batches_are_cut_at_their_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "BATCH_ROWS", 64)
    monkeypatch.setattr(batches, "CHUNK_ROWS", 16)
    await store.add(calls(range(200)))
    sizes = await store.conn.fetch("SELECT rows FROM tollgate.batch ORDER BY first_record_id")
    assert [r["rows"] for r in sizes] == [64, 64, 64, 8]
    assert call_ids(await store.pull()) == list(range(200))


async def test_more_than_is_held_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A staged run beyond the cap is made into several; a full one is not touched again."""
    from proxy.formats import parse as parsing
    from proxy.ingest import service

    monkeypatch.setattr(service, "parse", lambda path, profile: parsing.parse(path, profile, chunk_rows=10))
    monkeypatch.setattr(rolling, "ROLL_ROWS", 25)
    await store.add([call(i, ingress=f"12{i % 2}A") for i in range(60)])
    runs = await store.conn.fetch("SELECT run_id, rows FROM tollgate.run ORDER BY first_record_id")
    assert [r["rows"] for r in runs] == [20, 20, 20]
    await store.add(calls(range(100, 110)))
    after = await store.conn.fetch("SELECT run_id, rows FROM tollgate.run ORDER BY first_record_id")
    assert [r["run_id"] for r in after[:3]] == [r["run_id"] for r in runs]
    assert await store.check() == []
    assert len(await store.pull(await store.scope(["120A", "121A", "123A"]))) == 70


async def test_a_month_rolls_apart_from_its_neighbours(store: Store) -> None:
    await store.add([call(0), call(1, at=JULY + timedelta(days=40)), call(2, at=JULY - timedelta(days=400))])
    entries = [e for e in await store.ledger.read() if e.kind is Kind.STORE_ROLL]
    assert sorted(e.request["month"] for e in entries if e.request) == [202505, 202607, 202608]
    assert {r["month"]: r["rows"] for r in await store.conn.fetch("SELECT month, rows FROM tollgate.batch")} == {
        202505: 1,
        202607: 1,
        202608: 1,
    }


async def test_only_one_rolls_at_a_time(store: Store, database: Database, tmp_path: Path) -> None:
    await store.ingest(calls(range(3)))
    async with rolling.rolling_lock(store.side) as free:
        assert free
        assert (await store.roll()).groups == 0
        with pytest.raises(BusyError):
            await store.remap(unmapped_profile(tmp_path))
    assert (await store.roll()).groups == 1


async def test_a_roll_that_fails_leaves_the_old_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.add(calls(range(5)))
    await store.ingest(calls(range(5, 8)))
    before = await store.conn.fetch("SELECT * FROM tollgate.run ORDER BY run_id")

    async def fail(*_: object) -> None:
        raise RuntimeError("after everything else was written")

    with monkeypatch.context() as patch:
        patch.setattr(store.ledger, "append_in", fail)
        with pytest.raises(RuntimeError):
            await store.roll()
    assert await store.conn.fetch("SELECT * FROM tollgate.run ORDER BY run_id") == before
    assert call_ids(await store.contents()) == list(range(8))
    assert await store.check() == []
    await store.roll()
    assert call_ids(await store.pull()) == list(range(8))


@pytest.mark.parametrize("level", ["staged", "rolled"])
@pytest.mark.parametrize("deed", ["deleted", "put back older"])
async def test_a_damaged_run_is_not_sealed_again(
    store: Store, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, level: str, deed: str
) -> None:
    """Sealing the rest of it would destroy the evidence, and shift the ids of what is staged."""
    from proxy.formats import parse as parsing
    from proxy.ingest import service

    monkeypatch.setattr(service, "parse", lambda path, profile: parsing.parse(path, profile, chunk_rows=5))
    await store.ingest([call(i, ingress=f"12{i // 5}A") for i in range(10)])
    table = "staging" if level == "staged" else "batch"
    if level == "rolled":
        await store.roll()
        await store.ingest(calls(range(20, 40)))
    one = f"ctid = (SELECT min(ctid) FROM tollgate.{table}_202607)"
    if deed == "deleted":
        await owner.execute(f"DELETE FROM tollgate.{table}_202607 WHERE {one}")
    else:  # opens, but is another one than the manifest says
        change = "manifest = overlay(manifest placing '\\x00'::bytea from 20)"
        await owner.execute(f"UPDATE tollgate.run SET {change} WHERE run_id = (SELECT min(run_id) FROM tollgate.run)")
    before = await owner.fetch("SELECT run_id, manifest FROM tollgate.run ORDER BY 1")
    with pytest.raises(StoreDamagedError, match="store check"):
        await store.roll()
    assert await owner.fetch("SELECT run_id, manifest FROM tollgate.run ORDER BY 1") == before
    assert await store.check()


# Unmapped trunks.


async def test_a_mapped_call_comes_out_once_as_something_new(store: Store, tmp_path: Path) -> None:
    """`store remap`: seen by nobody before, seen once by both sides after, by who asks for what is new, too."""
    profile = unmapped_profile(tmp_path)
    rows = [call(i, ingress_ocn="", egress_ocn="") for i in range(6)]
    rows += [call(i, ingress_ocn="", egress_ocn="", ingress_trunk="trunk-in-new") for i in range(6, 10)]
    rows += [call(10, ingress_ocn="", egress_ocn="", egress_trunk="trunk-out-new")]
    report = await store.add(rows, profile)
    assert (report.stored, report.unmapped) == (11, 5)
    known = await store.reader().complete_to()
    both = ["123A", "456B", "789C"]
    assert call_ids(await store.pull(await store.scope(both))) == list(range(6))
    assert await store.check() == []

    partly = unmapped_profile(tmp_path, {"trunk-in-new": "789C"})
    done = await store.remap(partly)
    assert (done.mapped, done.left) == (4, 1)
    for ocn in ("789C", "456B"):
        new = await store.pull(await store.scope([ocn], after_id=known))
        assert call_ids(new) == [6, 7, 8, 9]
        assert all(r["record_id"] > known for r in new)
    assert sorted(call_ids(await store.pull(await store.scope(both)))) == list(range(10))
    assert sorted(call_ids(await store.contents())) == list(range(11))
    assert await store.check() == []

    again = await store.remap(partly)
    assert (again.mapped, again.left) == (0, 1)
    done = await store.remap(unmapped_profile(tmp_path, {"trunk-in-new": "789C", "trunk-out-new": "789C"}))
    assert (done.mapped, done.left) == (1, 0)
    assert sorted(call_ids(await store.pull(await store.scope(both)))) == list(range(11))
    assert await store.check() == []
    # What was remapped is still known: the same calls again are duplicates.
    assert (await store.ingest([*rows, call(99)], partly)).duplicates == 11


async def test_remapping_touches_no_call_that_has_its_carriers(store: Store, tmp_path: Path) -> None:
    """A newer map says another carrier: the call was disclosed to the first one already, and stays."""
    await store.add(
        [call(0, ingress_ocn="", egress_ocn=""), call(1, ingress="", egress="", ingress_trunk="x")],
        unmapped_profile(tmp_path),
    )
    known = await store.reader().complete_to()
    changed = unmapped_profile(tmp_path, {"trunk-in-123A": "999Z"})
    assert (await store.remap(changed)).mapped == 0
    assert call_ids(await store.pull()) == [0]
    assert await store.pull(await store.scope(["999Z"])) == []
    assert await store.reader().complete_to() == known


async def test_both_legs_unmapped_wait_for_both(store: Store, tmp_path: Path) -> None:
    row = call(1, ingress_ocn="", egress_ocn="", ingress_trunk="trunk-in-x", egress_trunk="trunk-out-x")
    await store.add([row], unmapped_profile(tmp_path))
    assert (await store.remap(unmapped_profile(tmp_path, {"trunk-in-x": "123A"}))).left == 1
    assert await store.pull() == []
    assert (await store.remap(unmapped_profile(tmp_path, {"trunk-in-x": "123A", "trunk-out-x": "456B"}))).mapped == 1
    assert call_ids(await store.pull()) == [1]


async def test_effective_dates_decide(store: Store, tmp_path: Path) -> None:
    from proxy.formats.profile import load_profile

    rows = [
        call(
            i, ingress="", ingress_trunk="trunk-in-x", started_at=(JULY + timedelta(days=i)).isoformat(), answered_at=""
        )
        for i in range(4)
    ]
    await store.add(rows)
    path = tmp_path / "dated.csv"
    path.write_text(
        "name,direction,ocn,from,to\ntrunk-in-x,ingress,111A,2026-07-01,2026-07-03\ntrunk-in-x,ingress,222B,2026-07-04,\n"
    )
    done = await store.remap(load_profile("tollgate", trunk_map=path))
    assert (done.mapped, done.left) == (3, 1)
    assert call_ids(await store.pull(await store.scope(["111A"]))) == [0, 1]
    assert call_ids(await store.pull(await store.scope(["222B"]))) == [3]
