"""Extraction on a real database: what a hold holds is every matching record, the fields of the permit, and no more."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from keys.provider import Period
from proxy.disclosure import planner
from proxy.disclosure.targets import Targets
from proxy.ledger.model import Kind, OpenedEntry, Tag
from proxy.policy.extraction import ExtractionRefusedError, ExtractionState, HoldUnreadableError, key_class_of
from tests.conftest import Database
from tests.support.held import (
    BASIC,
    EVERYTHING,
    HANDLER,
    Desk,
    new_case,
    new_hold,
    open_desk,
    order,
    permit,
    plain,
    target,
)
from tests.support.store import JULY, Call, call, calls, number, unmapped_profile, us

AUGUST = JULY + timedelta(days=31)


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(database.config, tmp_path) as made:
        yield made


@pytest.fixture(params=["tags", "scan"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of finding: they come to the same."""
    monkeypatch.setattr(planner, "by_tag", lambda targets, runs: request.param == "tags")
    return str(request.param)


def names(*texts: str) -> Callable[[Call], bool]:
    """Say whether a record has one of some numbers in a party field."""
    wanted = {int(t[1:]) for t in texts}
    return lambda row: any(
        row.get(n) in wanted for n in ("calling", "called", "dialed", "charge_number", "redirecting")
    )


def within(days: int, matches: Callable[[Call], bool]) -> Callable[[Call], bool]:
    """The same within so many days of July."""
    return lambda row: matches(row) and JULY <= row["started_at"] < JULY + timedelta(days=days)


async def entries(desk: Desk, done: Any) -> list[OpenedEntry]:
    """The entries of an extraction."""
    return [e for e in await desk.store.ledger.read(limit=1000) if e.access_id == done.access_id]


async def test_every_matching_record_in_order_and_only_the_permits_fields(desk: Desk, way: str) -> None:
    subscriber = {"account": "A-1", "name": "Example Name", "imsi": "001010123456789", "cell": "cell-9"}
    rows = calls(range(120), **subscriber)
    rows += calls(range(120, 150), ingress="999Z", charge_number=number(5), at=JULY - timedelta(hours=1))
    rows += [call(900, redirecting=number(5), calling="5551", called="911")]
    await desk.store.add(rows)
    await desk.store.add(calls(range(200, 260), called=number(5), at=JULY + timedelta(days=3)))
    done, found = await desk.extract(number(5))
    want = await desk.expected(names(number(5)))
    assert len(want) > 60
    # What a record says of the subscriber is somebody else's where the target only received the call.
    value = int(number(5)[1:])
    for row in want:
        if value not in (row.get("calling"), row.get("charge_number")):
            for name in ("account", "name", "imsi"):
                row.pop(name, None)
    assert found == want
    assert any("name" in r for r in found)
    assert any("name" not in r for r in found)
    assert not {n for r in found for n in r} & {"ingress_trunk", "cell", "switch_id", "egress_amount", "ingress_ocn"}
    assert (done.state, done.rows, done.staged, done.gone) == (ExtractionState.COMPLETE, len(found), 0, ())


async def test_window_months_and_carriers(desk: Desk, way: str) -> None:
    """Both ends of a window over three months; legs of every carrier, of none, and of nobody yet."""
    profile = unmapped_profile(desk.store.folder)
    await desk.store.add(calls(range(20), called=number(3), at=JULY - timedelta(days=2)))
    await desk.store.add(calls(range(20, 40), called=number(3), egress="none"))
    await desk.store.add([call(50, calling=number(3), egress="", egress_trunk="trunk-out-789C")], profile)
    await desk.store.add(calls(range(60, 80), called=number(3), at=AUGUST - timedelta(minutes=70)))
    start, end = JULY - timedelta(days=2) + timedelta(minutes=10), AUGUST + timedelta(minutes=3)
    _, found = await desk.extract(number(3), start=start, end=end)
    want = await desk.expected(lambda r: names(number(3))(r) and start <= r["started_at"] < end)
    assert found == want
    assert {r["started_at"].month for r in found} == {6, 7, 8}
    assert found[0]["started_at"] == start
    assert any(r["calling"] == int(number(3)[1:]) for r in found)  # the unmapped one


@pytest.mark.parametrize(
    ("text", "change", "fields"),
    [
        ("trunk:tg-7", {"ingress_trunk": "tg-7"}, EVERYTHING),
        ("account:A-17", {"account": "A-17"}, BASIC),
        ("imsi:001010999999999", {"imsi": "001010999999999"}, BASIC),
        ("5551", {"called": "5551"}, BASIC),  # no E.164 number: as the record has it
    ],
)
async def test_other_kinds_of_targets(desk: Desk, way: str, text: str, change: Call, fields: tuple[str, ...]) -> None:
    others = {name: value[:-1] + "8" for name, value in change.items()}
    await desk.store.add([*calls(range(40), **others), *calls(range(40, 60), **change)])
    _, found = await desk.extract(text, fields=fields)
    want = await desk.expected(lambda r: r["line_number"] > 41, fields)
    assert found == want
    assert len(found) == 20


async def test_both_ways_give_the_same_for_many_targets(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.store.add(calls(range(700)))
    wanted = [number(n) for n in range(0, 300, 7)]
    held = []
    for by_tag in (True, False):
        monkeypatch.setattr(planner, "by_tag", lambda targets, runs, by_tag=by_tag: by_tag)
        done, rows = await desk.extract(*wanted)
        held.append((done.sha256, rows))
    assert held[0] == held[1]
    assert held[0][1] == await desk.expected(names(*wanted))


async def test_no_record_no_piece(desk: Desk, way: str) -> None:
    await desk.store.add(calls(range(20)))
    done, found = await desk.extract("+19995550100")
    assert (found, done.rows, done.pieces, done.state) == ([], 0, 0, ExtractionState.COMPLETE)
    assert await desk.extractions.sources(done.hold_id) == []
    empty, _ = await desk.extract(number(1), start=JULY + timedelta(days=900), end=JULY + timedelta(days=901))
    assert empty.sha256 == done.sha256


async def test_late_records_are_not_in_it(desk: Desk) -> None:
    """What is staged, or comes later, lies past the pin; the extraction says how much it did not reach."""
    await desk.store.add(calls(range(30), called=number(9)))
    await desk.store.ingest(calls(range(30, 50), called=number(9)))
    done, found = await desk.extract(number(9))
    assert (len(found), done.staged, done.as_of) == (30, 20, 30)
    await desk.store.roll()
    assert await desk.rows(done.hold_id) == found
    again, more = await desk.extract(number(9))
    assert (len(more), again.staged) == (50, 0)
    assert again.sha256 != done.sha256


async def test_the_hold_outlives_the_store(desk: Desk, owner: asyncpg.Connection) -> None:
    """Read again, byte for byte, when its months are gone from the store; the certificate's facts too."""
    await desk.store.add(calls(range(60), called=number(9)))
    done, found = await desk.extract(number(9))
    tables = [t async for t in desk.extractions.read_hold(done.hold_id)]
    sources = await desk.extractions.sources(done.hold_id)
    await owner.execute("DELETE FROM tollgate.batch; DELETE FROM tollgate.batch_leg; DELETE FROM tollgate.tag_segment")
    for cls in ("timing", "parties", "source", "tags"):
        await owner.execute("INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ($1, 202607)", cls)
    desk.store.keys.forget()
    again = [t async for t in desk.extractions.read_hold(done.hold_id)]
    assert [t.to_pylist() for t in again] == [t.to_pylist() for t in tables]
    assert [r for t in again for r in plain(t)] == found
    assert await desk.extractions.sources(done.hold_id) == sources


async def test_inputs_of_the_records(desk: Desk) -> None:
    first = desk.store.file([*calls(range(10)), *calls(range(10, 13), called=number(9))], "first.csv")
    second = desk.store.file(calls(range(20, 25), called=number(9)), "second.csv")
    for file in (first, second):
        await desk.store.ingest(file)
    await desk.store.roll()
    done, found = await desk.extract(number(9))
    sources = await desk.extractions.sources(done.hold_id)
    assert [(s.name, s.rows, s.lines) for s in sources] == [("first.csv", 4, 13), ("second.csv", 5, 5)]
    assert [s.sha256 for s in sources] == [hashlib.sha256(f.read_bytes()).hexdigest() for f in (first, second)]
    assert [s.bytes for s in sources] == [f.stat().st_size for f in (first, second)]
    # Lines of the file, counted from 1, its header being the first: each names the record that stands there.
    lines = first.read_text().splitlines()
    for row in found:
        if row["ingest_id"] == sources[0].ingest_id:
            assert row["started_at"].isoformat() in lines[row["line_number"] - 1]


async def test_pieces_are_cut_by_records_alone(database: Database, tmp_path: Path) -> None:
    async with open_desk(database.config, tmp_path, piece_rows=16) as desk:
        for n in range(0, 100, 20):  # batches that overlap in time, of two pairs
            await desk.store.add(calls(range(n, n + 20), called=number(9), ingress=("123A", "999Z")[n % 40 // 20]))
        done, found = await desk.extract(number(9), start=JULY, end=JULY + timedelta(days=1))
        assert [t.num_rows async for t in desk.extractions.read_hold(done.hold_id)] == [16] * 6 + [4]
        assert found == await desk.expected(within(1, names(number(9))))
        await desk.store.add(calls(range(500, 520)))  # rolls the small runs together: other batches, the same records
        again, same = await desk.extract(number(9), start=JULY, end=JULY + timedelta(days=1))
        assert (same, again.sha256) == (found, done.sha256)


# What the log knows.


async def test_intent_progress_outcome(database: Database, tmp_path: Path) -> None:
    async with open_desk(database.config, tmp_path, piece_rows=10, progress_rows=25) as desk:
        await desk.store.add(calls(range(64), called=number(9)))
        done, _ = await desk.extract(number(9), number(400))
        told = await entries(desk, done)
        assert [e.kind for e in told] == [Kind.ACCESS_INTENT, *[Kind.ACCESS_PROGRESS] * 2, Kind.ACCESS_OUTCOME]
        intent = told[0]
        assert intent.request["purpose"] == "legal"
        assert intent.request["case"] == done.case_id
        assert intent.request["basis"] == "18 U.S.C. 2703(c)(2)"
        assert intent.actor["staff"] == HANDLER.staff_id
        assert Targets.read(intent.records["targets"]).numbers.tolist() == sorted(int(number(n)[1:]) for n in (9, 400))
        assert number(9) not in str(intent.request)
        rows = [e.outcome["rows"] for e in told[1:]]
        assert rows == [20, 40, 64]
        assert sum(e.records["records"]["rows"] for e in told[1:]) == 64
        assert told[-1].outcome["sha256"] == done.sha256
        assert done.log_index == told[-1].index


async def test_found_in_the_log_by_case_and_number(desk: Desk) -> None:
    await desk.store.add(calls(range(5)))
    done, _ = await desk.extract(number(9))
    for tag in (Tag("case", done.case_id.encode()), Tag("number", number(9).encode())):
        found = await desk.store.ledger.find(
            tag, first=done.started_at - timedelta(1), last=done.started_at + timedelta(1)
        )
        assert done.access_id in {e.access_id for e in found}


async def test_nothing_is_read_where_the_log_cannot_be_written(desk: Desk) -> None:
    await desk.store.add(calls(range(5)))
    wanted = order(await desk.case(), number(1))
    desk.store.ledger.pause("a test")
    with pytest.raises(Exception, match="paused"):
        await desk.extractions.extract(wanted)
    desk.store.ledger.pause(None)
    assert await desk.extractions.progress(wanted.hold_id) is None
    done = await desk.extractions.extract(wanted)
    assert done.state is ExtractionState.COMPLETE


# Preservation.


async def test_a_preservation_is_read_by_its_cases_extraction(desk: Desk) -> None:
    """What the store has no more comes from the hold; what both have stands once, with the permit's fields only."""
    await desk.store.add(calls(range(40), called=number(9), name="Example Name"))
    kept, held = await desk.extract(number(9), fields=EVERYTHING, preserve=True)
    assert {e.kind for e in await entries(desk, kept)} == {Kind.HOLD_STATE}
    assert "ingress_trunk" in held[0]
    assert "name" in held[0]
    await desk.store.add(calls(range(20), called=number(9), at=AUGUST))
    await desk.owner.execute("DELETE FROM tollgate.batch WHERE month = 202607")  # gone, however it came to it
    asked = order(await desk.case(), number(9), preserved=[kept.hold_id], end=AUGUST + timedelta(days=1))
    done = await desk.extractions.extract(asked)
    found = await desk.rows(done.hold_id)
    assert len(found) == 60
    assert not any("ingress_trunk" in r for r in found)
    july = found[:40]
    assert [r["calling"] == int(number(9)[1:]) for r in july] == ["name" in r for r in july]  # it made one of them
    assert [r["line_number"] for r in found[:40]] == [r["line_number"] for r in held]


async def test_a_record_of_both_stands_once(desk: Desk) -> None:
    """Also where a carrier map has given it a new id meanwhile."""
    profile = unmapped_profile(desk.store.folder)
    rows = [call(n, called=number(9), egress="", egress_trunk="trunk-out-789C") for n in range(10)]
    await desk.store.add([*rows, *calls(range(10, 30), called=number(9), ingress_trunk="trunk-in-123A")], profile)
    kept, _ = await desk.extract(number(9), fields=EVERYTHING, preserve=True)
    mapped = unmapped_profile(desk.store.folder, {"trunk-out-789C": "789C"})
    assert (await desk.store.remap(mapped)).mapped == 10
    done = await desk.extractions.extract(order(await desk.case(), number(9), preserved=[kept.hold_id]))
    assert done.rows == 30
    assert len({(r["ingest_id"], r["line_number"]) for r in await desk.rows(done.hold_id)}) == 30


async def test_what_is_no_whole_preservation_is_not_read(desk: Desk) -> None:
    await desk.store.add(calls(range(5)))
    shown, _ = await desk.extract(number(1))
    for hold_id in (shown.hold_id, new_hold()):
        with pytest.raises(ExtractionRefusedError, match="preserved"):
            await desk.extractions.start(order(await desk.case(), number(1), preserved=[hold_id]))


# Refusals.


async def refused(desk: Desk, code: str, wanted: Any) -> None:
    with pytest.raises(ExtractionRefusedError) as told:
        await desk.extractions.start(wanted)
    assert told.value.code == code
    (entry,) = await desk.store.ledger.read_last(limit=1)
    assert (entry.kind, entry.request["reason"]) == (Kind.ACCESS_DENIED, code)
    assert await desk.extractions.progress(wanted.hold_id) is None


async def test_orders_beyond_their_permit(desk: Desk) -> None:
    case = await desk.case()
    good = order(case, number(1))
    await refused(desk, "targets", replace(good, targets=()))
    await refused(desk, "targets", replace(good, targets=(*good.targets, target(number(2)))))
    await refused(desk, "targets", replace(good, targets=(target("trunk:tg-1"),)))
    # In a class that the permit reaches all the same, and of a kind that it does not name.
    wide = order(case, number(1), fields=EVERYTHING)
    await refused(desk, "targets", replace(wide, targets=(target("trunk:tg-1"),)))
    await refused(desk, "targets", replace(good, targets=(target("+1202x"),)))
    await refused(desk, "window", order(case, number(1), start=JULY, end=JULY))
    await refused(desk, "window", order(case, number(1), start=JULY - timedelta(days=8000)))
    await refused(desk, "fields", replace(good, permit=replace(good.permit, fields=("content",))))
    await refused(desk, "classes", replace(good, permit=replace(good.permit, fields=("cell",))))
    await refused(desk, "case", order(new_case(), number(1)))
    with pytest.raises(ExtractionRefusedError):
        await desk.extractions.start(replace(good, permit=replace(good.permit, basis="")))


async def test_the_same_order_is_the_same_extraction_and_another_is_not(desk: Desk) -> None:
    await desk.store.add(calls(range(20)))
    asked = order(await desk.case(), number(1))
    done = await desk.extractions.extract(asked)
    again = await desk.extractions.extract(asked)
    assert again == done
    with pytest.raises(ExtractionRefusedError, match="hold"):
        await desk.extractions.start(replace(asked, targets=(target(number(2)),)))
    assert await desk.extractions.progress(asked.hold_id) == done


async def test_a_shredded_month_is_told(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.store.add(calls(range(20), called=number(9), name="Example Name", calling=number(9)))
    await desk.store.add(calls(range(20), called=number(9), at=AUGUST))
    await owner.execute("INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('subscriber', 202607)")
    desk.store.keys.forget()
    done, found = await desk.extract(number(9), end=AUGUST + timedelta(days=9))
    assert done.gone == ((202607, ("subscriber",)),)
    assert len(found) == 40
    assert not any("name" in r for r in found)
    gone = ["subscriber"]
    for cls in ("timing", "parties"):  # what places a record; what it is searched by
        await owner.execute("INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ($1, 202607)", cls)
        gone.append(cls)
        desk.store.keys.forget()
        done, found = await desk.extract(number(9), end=AUGUST + timedelta(days=9))
        assert (done.state, done.gone) == (ExtractionState.COMPLETE, ((202607, tuple(sorted(gone))),))
        assert len(found) == 20
        alone, nothing = await desk.extract(number(9))
        assert (alone.state, alone.gone, nothing) == (ExtractionState.COMPLETE, done.gone, [])


async def test_a_destroyed_hold_is_unreadable(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.store.add(calls(range(20), called=number(9)))
    done, _ = await desk.extract(number(9))
    other, rows = await desk.extract(number(9))
    month = await owner.fetchval("SELECT key_month FROM tollgate.held WHERE hold_id = $1", done.hold_id)
    gone = Period(key_class_of(done.hold_id), month)
    await owner.execute("INSERT INTO tollgate.data_key_destroyed VALUES ($1, $2)", gone.key_class, gone.month)
    desk.store.keys.forget([gone])
    with pytest.raises(HoldUnreadableError):
        await desk.rows(done.hold_id)
    assert await desk.rows(other.hold_id) == rows


async def test_a_hundred_thousand_targets_and_twenty_years(desk: Desk) -> None:
    many = [f"+1{npa}555{n:04d}" for npa in range(210, 310) for n in range(1000)]  # generated, whole ranges
    await desk.store.add(calls(range(300)))
    targets = tuple(target(t) for t in [*many[:-1], number(5)])
    case = await desk.case()
    asked = replace(
        order(case, number(5)),
        targets=targets,
        permit=permit(case, targets, start=JULY - timedelta(days=7000), end=JULY + timedelta(days=300)),
    )
    done = await desk.extractions.extract(asked)
    assert (done.state, done.rows) == (ExtractionState.COMPLETE, len(await desk.expected(names(number(5), *many))))
    assert done.rows
    told = await entries(desk, done)
    assert len(Targets.read(told[0].records["targets"])) == 100_000
    assert us(JULY) > done.start_us
