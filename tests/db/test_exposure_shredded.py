"""A month that was shredded is counted by what was frozen before; what was not frozen is told as missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from keys.provider import Period
from proxy.disclosure import exposure_freeze as freezing
from proxy.disclosure.exposure import Count
from proxy.disclosure.exposure_freeze import Frozen, NothingToFreezeError
from proxy.disclosure.records import read_set
from proxy.ledger.model import EntryError, Kind
from proxy.ledger.service import Ledger
from tests.conftest import Database
from tests.support.exposure import OFFICER, Desk, numbers_of, open_desk
from tests.support.store import JULY, calls, number

AUGUST = JULY + timedelta(days=31)
BOTH_MONTHS = {"end": AUGUST + timedelta(days=9)}


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(database.config, tmp_path, progress_rows=20) as made:
        rows = [*calls(range(40)), *calls(range(40, 60), egress="789C"), *calls(range(60, 80), at=AUGUST)]
        rows += calls(range(80, 84), calling="anonymous", dialed=number(9))
        await made.store.add(rows)
        yield made


async def freeze(desk: Desk, month: int = 202607) -> Frozen:
    return await desk.tools()[1].freeze(OFFICER, month, "shredding")


async def shred(desk: Desk, owner: asyncpg.Connection, *classes: str, month: int = 202607) -> None:
    """Destroy keys of a month; without a class named, its rows too."""
    await desk.store.keys.record_destroyed(owner, [Period(c, month) for c in classes or ("timing", "parties")])
    if not classes:
        await owner.execute("DELETE FROM tollgate.batch WHERE month = $1", month)


def told(count: Count) -> dict[str, Any]:
    return count.as_json()["subscribers"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("classes", [("parties",), ()])
async def test_a_frozen_month_is_counted_exactly(
    desk: Desk, owner: asyncpg.Connection, classes: tuple[str, ...]
) -> None:
    first, second = await desk.pull(limit=30), await desk.pull(start=JULY + timedelta(minutes=20))
    other = await desk.pull("client-b", ("789C",))
    frozen = await freeze(desk)
    everything = numbers_of(row for one in (first, second, other) for row in one.rows)
    assert frozen.subscribers == len(everything)
    assert frozen.clients == {
        "client-a": len(first.numbers | second.numbers),
        "client-b": len(other.numbers),
    }
    before = await desk.count()
    await shred(desk, owner, *classes)
    count = await desk.count()
    assert told(count)["exact"] == len(first.numbers | second.numbers) == told(before)["exact"]
    assert (count.complete, count.missing, set(count.records)) == (True, 0, first.ids | second.ids)
    assert told(await desk.count(value="client-b"))["exact"] == len(other.numbers)


async def test_live_and_frozen_months_bound_each_other(desk: Desk, owner: asyncpg.Connection) -> None:
    got = await desk.pull(**BOTH_MONTHS)
    july = numbers_of(row for row in got.rows if row["started_at"] < "2026-08")
    august = numbers_of(row for row in got.rows if row["started_at"] >= "2026-08")
    assert july & august
    await freeze(desk)
    await shred(desk, owner)
    value = told(await desk.count())
    assert value["frozen"] == {"202607": len(july)}
    assert (value["at_least"], value["at_most"]) == (max(len(july), len(august)), len(july) + len(august))
    assert value["at_least"] <= len(got.numbers) <= value["at_most"]


async def test_what_was_not_frozen_is_missing(desk: Desk, owner: asyncpg.Connection) -> None:
    first = await desk.pull(limit=10)
    await freeze(desk)
    late = await desk.pull(start=JULY + timedelta(minutes=40))
    await shred(desk, owner)
    count = await desk.count()
    value = count.as_json()
    assert (value["complete"], value["missing"]) == (False, len(late.ids))
    assert value["records"] == len(first.ids | late.ids), "how many records is known from the log alone"
    assert told(count)["at_most"] is None
    assert told(count)["at_least"] == len(first.numbers)


async def test_the_last_freezing_that_was_finished_counts(
    desk: Desk, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "IDS_AT_ONCE", 3)
    monkeypatch.setattr(freezing, "ENTRY_BYTES", 500)
    first = await desk.pull(limit=10)
    await freeze(desk)
    second = await desk.pull(start=JULY + timedelta(minutes=40))
    whole = await freeze(desk)
    assert whole.entries > 5, "many small entries"
    append, left = Ledger.append, 3

    async def dying(self: Ledger, entry: Any) -> Any:
        nonlocal left
        if entry.kind is Kind.EXPOSURE_FROZEN:
            left -= 1
            if left < 0:
                raise EntryError("dead")
        return await append(self, entry)

    monkeypatch.setattr(Ledger, "append", dying)
    with pytest.raises(EntryError):
        await freeze(desk)
    monkeypatch.setattr(Ledger, "append", append)
    await shred(desk, owner)
    count = await desk.count()
    assert told(count)["exact"] == len(first.numbers | second.numbers)


async def test_no_number_is_kept_and_no_order_of_them(desk: Desk) -> None:
    some = str((await desk.pull(limit=10)).access_id)
    whole = str((await desk.pull()).access_id)
    frozen = [await freeze(desk), await freeze(desk)]
    sets: dict[str, list[Any]] = {some: [], whole: []}
    for entry in await desk.store.ledger.read(limit=1000, kinds=[Kind.EXPOSURE_FROZEN]):
        assert "+1" not in json.dumps(entry.as_json())
        for item in (entry.records or {}).get("accesses", ()):
            if "subscribers" in item:
                sets[item["access_id"]].append(list(read_set(item["subscribers"])))
    assert sets[whole] == [list(range(f.subscribers)) for f in frozen], "ordinals, without gaps"
    first, second = sets[some]
    assert len(first) == len(second)
    assert first != second, "the order of one freezing says nothing of another's"


async def test_an_access_without_outcome_is_frozen_with_its_scope(desk: Desk, owner: asyncpg.Connection) -> None:
    whole = await desk.pull("client-b")
    await desk.pull(lose=True, break_after=2_000)
    await freeze(desk)
    before = await desk.count()
    await shred(desk, owner, "parties")
    count = await desk.count()
    assert set(count.records) == whole.ids == set(before.records)
    assert told(count)["exact"] == len(whole.numbers)


async def test_nothing_to_freeze(desk: Desk, owner: asyncpg.Connection) -> None:
    for month in (202612, 202607):
        await shred(desk, owner, "parties")
        with pytest.raises(NothingToFreezeError):
            await freeze(desk, month)
