"""What is counted against what clients got: never less, and where an outcome stands, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.disclosure import exposure_store as counting
from proxy.disclosure import reader as reading
from proxy.disclosure.exposure import Count, CountDenied, Question
from proxy.ledger.model import Kind
from proxy.policy.counting import Officer, Subject
from proxy.store import batches
from proxy.store.reseal import roll as rolling
from tests.conftest import Database
from tests.support.exposure import ALWAYS, OFFICER, Desk, Got, numbers_of, open_desk
from tests.support.store import JULY, call, calls, number, unmapped_profile

AUGUST = JULY + timedelta(days=31)


@pytest.fixture
async def desk(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Many batches and pieces from few records; a progress entry for every twenty."""
    monkeypatch.setattr(rolling, "BATCH_ROWS", 8)
    monkeypatch.setattr(rolling, "CHUNK_ROWS", 2)
    monkeypatch.setattr(batches.Table.seal, "__kwdefaults__", {**batches.Table.seal.__kwdefaults__, "chunk_rows": 2})
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(counting, "BATCHES_AT_ONCE", 3)
    async with open_desk(database.config, tmp_path, progress_rows=20) as made:
        yield made


async def fill(desk: Desk) -> None:
    """Two carriers' traffic over July and August, in runs that interleave; raw texts among the numbers."""
    for part in range(3):
        rows = [*calls(range(part * 40, part * 40 + 20)), *calls(range(part * 40 + 20, part * 40 + 26), egress="789C")]
        rows += calls(range(part * 40 + 26, part * 40 + 32), ingress="789C", egress="456B")
        rows += calls(range(part * 40 + 32, part * 40 + 36), at=AUGUST, calling="anonymous", dialed=number(9))
        await desk.store.add(rows)


def held(count: Count, got: Iterable[Got]) -> None:
    """The count says exactly what these accesses got."""
    rows = {row["id"]: row for one in got for row in one.rows}
    assert set(count.records) == set(rows)
    value = count.as_json()
    assert (value["records"], value["missing"], value["complete"]) == (len(rows), 0, True)
    assert value["subscribers"]["exact"] == len(numbers_of(rows.values()))
    assert value["disclosures"] == sum(len(one.ids) for one in got)
    assert value["days"] == dict(Counter(row["started_at"][:10] for row in rows.values()))


async def test_what_a_client_got(desk: Desk) -> None:
    await fill(desk)
    a = [await desk.pull(), await desk.pull(start=AUGUST, end=AUGUST + timedelta(days=9)), await desk.pull(limit=7)]
    b = [await desk.pull("client-b", ("789C",))]
    count = await desk.count()
    held(count, a)
    value = count.as_json()
    assert value["carriers"] == {"123A": 90, "456B": 72, "789C": 18}
    assert value["classes"] == dict.fromkeys(("egress_leg", "ingress_leg", "parties", "routing", "timing"), 90)
    assert value["accesses"] == {"counted": 3, "denied": 0, "without_outcome": 0, "unreadable": 0}
    assert value["subscribers"]["other"] == 1, "a text that is no number is one, however often"
    held(await desk.count(value="client-b"), b)
    nobody = await desk.count(value="client-c")
    assert (nobody.as_json()["records"], nobody.subscribers()["exact"]) == (0, 0)


@pytest.mark.parametrize("kind", ["client", "token", "key", "address"])
async def test_by_whom(desk: Desk, kind: str) -> None:
    await fill(desk)
    who = {"client": "client-a", "token": "token-1", "key": "key-1", "address": "192.0.2.7"}
    other = {"client": "client-b", "token": "token-2", "jkt": "key-2", "address": "192.0.2.8"}
    mine = [await desk.pull(limit=30), await desk.pull(number=number(3))]
    await desk.pull(**{"key" if k == "k" else k: v for k, v in other.items()}, ocns=("789C",))  # type: ignore[arg-type]
    held(await desk.count(kind, who[kind]), mine)


async def test_classes_and_fields_that_were_not_shown_do_not_count(desk: Desk) -> None:
    await fill(desk)
    await desk.pull(classes=frozenset({"timing", "ingress_leg"}))
    count = await desk.count()
    assert (len(count.records), len(count.tally.subscribers)) == (78, 0)
    assert set(count.as_json()["classes"]) == {"timing", "ingress_leg"}
    shown = await desk.pull(limit=10)
    value = (await desk.count()).as_json()
    assert value["classes"]["timing"] == 78
    assert value["classes"]["parties"] == 10
    assert value["subscribers"]["exact"] == len(shown.numbers)


async def test_the_time_range_takes_what_ran_in_it(desk: Desk) -> None:
    await fill(desk)
    first = await desk.pull(limit=10)
    between = datetime.now(UTC)
    second = await desk.pull(number=number(3))
    held(await desk.count(last=between), [first])
    held(await desk.count(first=between), [second])
    lost = await desk.pull(start=JULY + timedelta(minutes=40), limit=5, lose=True)
    later = datetime.now(UTC)
    assert lost.ids <= set((await desk.count(first=later, last=later + timedelta(hours=1))).records), (
        "nobody knows when it ended"
    )
    assert not (await desk.count(last=ALWAYS + timedelta(days=1))).records


@pytest.mark.parametrize("search", [None, number(3), number(9)])
@pytest.mark.parametrize("limit", [None, 9, 25])
async def test_an_intent_without_outcome_counts_with_all_its_scope(
    desk: Desk, search: str | None, limit: int | None
) -> None:
    """Whatever arrived, the count is what a whole answer would have held."""
    await fill(desk)
    asked: dict[str, Any] = {"number": search, "limit": limit, "end": AUGUST + timedelta(days=9)}
    whole = await desk.pull("client-b", **asked)
    lost = await desk.pull(**asked, lose=True, break_after=1500)
    await desk.store.add([*calls(range(300, 330)), *calls(range(330, 340), called=number(3))])
    count = await desk.count()
    assert set(count.records) == whole.ids >= lost.ids
    assert count.subscribers()["exact"] == len(whole.numbers)
    assert count.as_json()["accesses"]["without_outcome"] == 1
    assert count.as_json()["unknown"] == [str(lost.access_id)]


@pytest.mark.parametrize("stretches", [0, 1, 2, 3])
async def test_what_comes_after_the_last_progress_entry_counts(desk: Desk, stretches: int) -> None:
    await fill(desk)
    whole = await desk.pull("client-b")
    lost = await desk.pull(lose_progress=stretches)
    assert 20 * stretches < len(lost.rows) + 20 <= 20 * (stretches + 2), "it goes no further than the log"
    kinds = Counter(e.kind for e in await desk.store.ledger.read(limit=1000) if e.access_id == lost.access_id)
    assert kinds == Counter({Kind.ACCESS_INTENT: 1} | ({Kind.ACCESS_PROGRESS: stretches} if stretches else {}))
    count = await desk.count()
    assert set(count.records) == whole.ids
    assert count.as_json()["disclosures"] == len(whole.ids)


@pytest.mark.parametrize("limit", [4, 30])
async def test_an_answer_that_went_on_from_a_cursor_counts_from_there(desk: Desk, limit: int) -> None:
    """The cursor's place is in the middle of a batch; what came before it was not asked for again."""
    await fill(desk)
    first = await desk.pull("client-b", limit=3)
    second = await desk.pull("client-b", limit=limit, cursor=first.cursor)
    begun = await desk.pull(limit=3)
    await desk.pull(limit=limit, cursor=begun.cursor, lose=True, token="token-2")
    assert set((await desk.count("token", "token-2")).records) == second.ids
    assert set((await desk.count()).records) == first.ids | second.ids


async def test_a_cut_answer_counts_with_what_was_in_flight(desk: Desk) -> None:
    await fill(desk)
    cut = await desk.pull(break_after=9_000)
    assert 0 < len(cut.rows) < 78
    entry = (await desk.store.ledger.read_last(limit=1)).pop()
    assert entry.records is not None
    seen = entry.records["in_flight"]["rows"]
    count = await desk.count()
    assert cut.ids <= set(count.records)
    assert len(count.records) == entry.outcome["rows"] + seen  # type: ignore[index]
    assert count.as_json()["accesses"]["without_outcome"] == 0


async def test_ids_survive_rolling_and_remapping(desk: Desk, tmp_path: Path) -> None:
    profile = unmapped_profile(tmp_path)
    await desk.store.add([*calls(range(20)), call(20, egress="", egress_trunk="trunk-out-789C")], profile)
    got = [await desk.pull()]
    lost = await desk.pull(lose=True)
    assert len(got[0].rows) == 20
    before = (await desk.count()).as_json()
    for n in range(4):
        await desk.store.ingest(calls(range(100 + n * 5, 105 + n * 5)))
        await desk.store.roll()
    assert (await desk.store.remap(unmapped_profile(tmp_path, {"trunk-out-789C": "789C"}))).mapped == 1
    count = await desk.count()
    assert set(count.records) == got[0].ids >= lost.ids
    after = count.as_json()
    assert {k: v for k, v in after.items() if k not in ("to", "log")} == {
        k: v for k, v in before.items() if k not in ("to", "log")
    }, "the record that was mapped later was shown to nobody, and came after what the lost intent pinned"


async def test_denials_are_told_and_are_no_disclosures(desk: Desk) -> None:
    await fill(desk)
    with pytest.raises(Exception, match="class"):
        await desk.pull(classes=frozenset({"parties"}))
    value = (await desk.count()).as_json()
    assert (value["accesses"]["denied"], value["accesses"]["counted"], value["records"]) == (1, 0, 0)


async def test_the_count_is_on_record_before_it_reads(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(desk)
    await desk.pull(limit=5)
    order: list[str] = []
    append, search = desk.store.ledger.append, desk.exposure()._search.run

    async def noted(entry: Any) -> Any:
        made = await append(entry)
        order.append(entry.kind.value)
        return made

    exposure = desk.exposure()
    monkeypatch.setattr(desk.store.ledger, "append", noted)
    monkeypatch.setattr(exposure._search, "run", lambda *a: order.append("read") or search(*a))
    question = Question(Subject("client", "client-a"), ALWAYS, datetime.now(UTC), "incident 7")
    count = await exposure.count(OFFICER, question)
    assert order[0] == order[-1] == "exposure.read"
    assert set(order[1:-1]) == {"read"}
    asked, told = [e for e in await desk.store.ledger.read(limit=100) if e.kind is Kind.EXPOSURE_READ]
    assert asked.access_id == told.access_id
    assert asked.actor == {"os_user": "officer-1"}
    assert asked.request is not None
    assert asked.request["subject"] == {"kind": "client", "value": "client-a"}
    assert (asked.request["why"], asked.request["decision"]) == ("incident 7", "permit")
    assert asked.request["classes"] == ["parties", "timing"]
    assert told.outcome is not None
    assert told.outcome["records"] == 5 == len(count.records)


async def test_only_the_privacy_role_counts(desk: Desk) -> None:
    question = Question(Subject("client", "client-a"), ALWAYS, datetime.now(UTC))
    for officer, asked, reason in (
        (Officer("somebody", privacy=False), question, "count.role"),
        (OFFICER, Question(Subject("planet", "x"), ALWAYS, datetime.now(UTC)), "count.subject"),
        (OFFICER, Question(Subject("client", ""), ALWAYS, datetime.now(UTC)), "count.subject"),
        (OFFICER, Question(Subject("client", "x"), ALWAYS, ALWAYS), "window.empty"),
    ):
        with pytest.raises(CountDenied) as denied:
            await desk.exposure().count(officer, asked)
        assert denied.value.deny.reason == reason
        (entry,) = await desk.store.ledger.read_last(limit=1)
        assert entry.kind is Kind.EXPOSURE_READ
        assert entry.request is not None
        assert (entry.request["decision"], entry.request["reason"]) == ("deny", reason)


async def test_sets_that_are_past_their_retention_count_as_all_of_the_scope(
    desk: Desk, owner: asyncpg.Connection
) -> None:
    await fill(desk)
    whole = await desk.pull("client-b")
    cut = await desk.pull(break_after=9_000)
    batch = "SELECT batch_id FROM tollgate.log_entry WHERE kind = 'access.{}' AND access_id = $1"
    erase = f"DELETE FROM tollgate.log_opening WHERE part = 'records' AND batch_id IN ({batch})"
    await owner.execute(erase.format("outcome"), cut.access_id)
    count = await desk.count()
    assert cut.ids < set(count.records) == whole.ids
    assert count.complete
    await owner.execute(erase.format("intent"), cut.access_id)
    value = (await desk.count()).as_json()
    assert (value["complete"], value["accesses"]["unreadable"]) == (False, 1)
    assert value["unreadable"] == [str(cut.access_id)]
    assert "exact" not in value["subscribers"], "what cannot be read is not taken for nothing"
