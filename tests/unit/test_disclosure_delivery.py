"""A delivery against every way in which it can end: what the log says is never less than what was sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from proxy.disclosure import delivery as module
from proxy.disclosure.coding import Coding, coder
from proxy.disclosure.delivery import Cut, Delivery, Hooks, Rules
from proxy.disclosure.plan import Place, place_of
from proxy.disclosure.scope import Position, Scope
from proxy.disclosure.stream import AHEAD, Ahead, Order, pieces
from proxy.ledger.model import LedgerUnavailable
from schema.fields import DisclosureClass
from tests.support.api import FakeEncoder, FakeReader, FakeSink

SCOPE = Scope(("123A",), frozenset({"ingress"}), 0, 1, frozenset({DisclosureClass.TIMING}), as_of=10**9, after_id=0)


@pytest.fixture
def executor() -> Any:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@dataclass
class Case:
    """A delivery with all that it calls."""

    rows: int = 95
    limit: int = 10**6
    progress_rows: int = 30
    stall_s: float = 30.0
    start: Place | None = None
    scopes: tuple[Scope, ...] = (SCOPE,)
    events: list[str] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    alive: Any = True
    halts_after: int | None = None  # rows sent
    budget: int = 10**9
    log_fails_after: int | None = None

    def make(self, executor: ThreadPoolExecutor, fail_at: int | None = None) -> Delivery:
        self.reader = FakeReader(self.rows, 10, self.events, fail_at)
        order = Order(self.scopes, None, self.start, self.limit)
        source = pieces(self.reader, order, FakeEncoder(), coder(Coding.IDENTITY), executor)
        hooks = Hooks(
            self._progress,
            self._outcome,
            self._sound,
            self._alive,
            self._spend,
            lambda rows, size: None,
            self._failed,
        )
        rules = Rules(self.limit, self.progress_rows, self.stall_s, resumable=True)
        self.delivery = Delivery(uuid4(), Ahead(source), rules, hooks, {"media_type": "text/csv"})
        return self.delivery

    def _sound(self) -> bool:
        return self.halts_after is None or self.delivery.rows < self.halts_after

    async def _progress(self, value: Mapping[str, Any]) -> None:
        if self.log_fails_after is not None and len(self.progress) >= self.log_fails_after:
            raise LedgerUnavailable("down")
        self.events.append("progress")
        self.progress.append(dict(value))

    async def _outcome(self, value: Mapping[str, Any]) -> None:
        self.events.append("outcome")
        self.outcomes.append(dict(value))

    async def _alive(self) -> bool:
        if isinstance(self.alive, Exception):
            raise self.alive
        return bool(self.alive)

    async def _spend(self, rows: int) -> bool:
        self.budget -= rows
        return self.budget >= 0

    def _failed(self, name: str, error: BaseException) -> None:
        self.failures.append(name)

    @property
    def outcome(self) -> dict[str, Any]:
        assert len(self.outcomes) == 1, "an access has one outcome"
        return self.outcomes[0]

    def check(self, sink: FakeSink) -> None:
        """What holds however it ended."""
        whole = b"head\n" + b"".join(b"%d\n" % i for i in range(1, self.rows + 1)) + b"tail\n"
        assert whole.startswith(sink.data) or self.start or self.limit < self.rows
        outcome = self.outcome
        logged = outcome["rows"] + outcome.get("in_flight", {}).get("rows", 0)
        seen = sum(line.isdigit() for line in sink.data.split(b"\n"))
        assert logged >= seen, "rows were sent that are not on record"
        assert hashlib.sha256(sink.data[: outcome["bytes"]]).hexdigest() == outcome["sha256"]
        for point in outcome["checkpoints"]:
            assert hashlib.sha256(sink.data[: point["bytes"]]).hexdigest() == point["sha256"]
        assert self.reader.open_streams == 0, "the store is still being read"
        assert (sink.ended == "whole") == (outcome["state"] in ("complete", "limited"))


async def _run(case: Case, executor: ThreadPoolExecutor, **sink_options: Any) -> FakeSink:
    sink = FakeSink(case.events, **sink_options)
    delivery = case.make(executor)
    await delivery.prepare(small=False)
    await delivery.send(sink, {"A": "b"})
    case.check(sink)
    return sink


async def test_a_whole_answer(executor: ThreadPoolExecutor) -> None:
    case = Case()
    sink = await _run(case, executor)
    assert sink.headers == {"A": "b"}
    assert (case.outcome["state"], case.outcome["rows"], case.outcome["bytes"]) == ("complete", 95, len(sink.data))
    assert [p["records"]["runs"] for p in case.progress] == [[["1", "30"]], [["31", "60"]], [["61", "90"]]]
    assert case.outcome["records"]["runs"] == [["91", "95"]], "each entry names the records since the one before it"
    assert case.events[-2:] == ["outcome", "end"], "the client sees the end only when the outcome is durable"
    assert case.events[0] == "read", "nothing is sent before the first piece is there"


async def test_progress_comes_before_each_further_stretch(executor: ThreadPoolExecutor) -> None:
    case = Case(rows=95, progress_rows=30)
    await _run(case, executor)
    assert [p["rows"] for p in case.progress] == [30, 60, 90]
    sent = 0
    covered = 30
    sends = [e for e in case.events if e in ("send", "progress")]
    for event in sends:
        if event == "progress":
            covered += 30
        else:
            sent += 10
            assert sent <= covered or event == sends[-1]


async def test_progress_comes_early_where_the_records_would_not_fit_an_entry(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SET_BYTES_MAX", 100)
    case = Case(rows=95, progress_rows=10**6)
    await _run(case, executor)
    assert [p["records"]["rows"] for p in case.progress] == [20] * 4, "two pieces of ten fit, a third does not"
    assert case.outcome["records"]["rows"] == 15


async def test_records_of_a_stretch_whose_entry_failed_are_in_the_outcome(executor: ThreadPoolExecutor) -> None:
    case = Case(log_fails_after=1)
    await _run(case, executor)
    assert [p["records"]["runs"] for p in case.progress] == [[["1", "30"]]]
    assert case.outcome["records"]["runs"] == [["31", "60"]]


async def test_nothing_more_is_sent_when_the_log_cannot_be_written(executor: ThreadPoolExecutor) -> None:
    case = Case(log_fails_after=1)
    sink = await _run(case, executor)
    assert (case.outcome["state"], case.outcome["why"]) == ("interrupted", "log_unavailable")
    assert case.outcome["rows"] == 60
    assert b"61\n" not in sink.data


async def test_a_vanished_reader(executor: ThreadPoolExecutor) -> None:
    case = Case()
    await _run(case, executor, break_after=60)
    assert (case.outcome["state"], case.outcome["why"]) == ("interrupted", "client_gone")
    assert case.outcome["in_flight"]["rows"] == 10
    assert not case.failures


async def test_a_stalled_reader(executor: ThreadPoolExecutor) -> None:
    case = Case(stall_s=0.05)
    await _run(case, executor, stall_after=60)
    assert (case.outcome["state"], case.outcome["why"]) == ("interrupted", "stalled")


async def test_a_failing_store_is_cut_without_an_end(executor: ThreadPoolExecutor) -> None:
    case = Case()
    sink = FakeSink(case.events)
    delivery = case.make(executor, fail_at=40)
    await delivery.prepare(small=False)
    await delivery.send(sink, {})
    case.check(sink)
    assert (case.outcome["why"], case.outcome["rows"], sink.ended) == ("failed", 40, "broken")
    assert case.failures == ["disclosure.failed"]


@pytest.mark.parametrize("small", [False, True])
async def test_a_store_failing_at_once_leaves_an_outcome_of_no_rows(executor: ThreadPoolExecutor, small: bool) -> None:
    case = Case()
    delivery = case.make(executor, fail_at=0)
    with pytest.raises(OSError, match="went away"):
        await delivery.prepare(small)
    assert (case.outcome["state"], case.outcome["rows"]) == ("interrupted", 0)
    assert case.reader.open_streams == 0


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_client_that_is_shut_out_is_cut(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, stalled: bool
) -> None:
    monkeypatch.setattr(module, "ALIVE_EVERY_S", 0.01)
    case = Case(rows=10**6 if not stalled else 95, alive=False, progress_rows=10**9)
    await _run_short(case, executor, stall_after=60 if stalled else None)
    assert case.outcome["why"] == "revoked"
    assert case.events[-2:] == ["abort", "outcome"], "cut first, written down after"


async def _run_short(case: Case, executor: ThreadPoolExecutor, **options: Any) -> None:
    sink = FakeSink(case.events, **options)
    delivery = case.make(executor)
    await delivery.prepare(small=False)
    async with asyncio.timeout(30):
        await delivery.send(sink, {})
    assert sink.ended == "broken"


async def test_a_client_that_cannot_be_checked_is_cut(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE_EVERY_S", 0.01)
    monkeypatch.setattr(module, "BLIND_MAX_S", 0.1)
    case = Case(alive=OSError("no database"))
    await _run_short(case, executor, stall_after=60)
    assert case.outcome["why"] == "unverified"


async def test_a_used_up_budget_cuts(executor: ThreadPoolExecutor) -> None:
    case = Case(budget=45)
    sink = await _run(case, executor)
    assert (case.outcome["why"], case.outcome["rows"], sink.ended) == ("quota", 40, "broken")


@pytest.mark.parametrize(("halts_after", "rows"), [(25, 30), (95, 95)])
async def test_a_halted_log_cuts_at_the_next_piece(executor: ThreadPoolExecutor, halts_after: int, rows: int) -> None:
    """Also before the end alone is left: no client may take what the log does not hold for a whole answer."""
    case = Case(progress_rows=1000, halts_after=halts_after)
    sink = await _run(case, executor)
    assert (case.outcome["why"], case.outcome["rows"], sink.ended) == ("log_unavailable", rows, "broken")


async def test_cancellation_is_passed_on_after_the_outcome(executor: ThreadPoolExecutor) -> None:
    case = Case()
    sink = FakeSink(case.events, stall_after=60)
    delivery = case.make(executor)
    await delivery.prepare(small=False)
    task = asyncio.create_task(delivery.send(sink, {}))
    await sink.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    case.check(sink)
    assert case.outcome["why"] == "shutdown"


async def test_a_small_answer_knows_where_it_goes_on_before_it_is_sent(executor: ThreadPoolExecutor) -> None:
    case = Case(limit=25)
    delivery = case.make(executor)
    place = await delivery.prepare(small=True)
    assert place == Place(0, Position(202610, 1, 25))
    sink = FakeSink(case.events)
    await delivery.send(sink, {})
    case.check(sink)
    assert case.outcome["state"] == "limited"
    assert place_of(case.outcome["place"]) == place
    whole = Case(limit=96).make(executor)
    assert await whole.prepare(small=True) is None
    await whole.send(FakeSink([]), {})


async def test_resuming_at_any_checkpoint_gives_the_rest_once(executor: ThreadPoolExecutor) -> None:
    first = Case()
    sink = await _run(first, executor, break_after=70)
    for point in first.outcome["checkpoints"]:
        second = Case(start=place_of(point["place"]))
        rest = await _run(second, executor)
        head, tail = sink.data[: point["bytes"]], rest.data
        rows = [int(line) for line in (head + tail).split(b"\n") if line.isdigit()]
        assert rows == list(range(1, 96))


def _rows(sink: FakeSink) -> list[int]:
    return [int(line) for line in sink.data.split(b"\n") if line.isdigit()]


async def test_segments_follow_each_other_and_places_name_theirs(executor: ThreadPoolExecutor) -> None:
    case = Case(rows=15, scopes=(SCOPE, SCOPE))
    delivery = case.make(executor)
    await delivery.prepare(small=False)
    await delivery.send(FakeSink(case.events), {})
    assert case.outcome["rows"] == 30
    assert [p["place"][0] for p in case.outcome["checkpoints"]] == ["0", "0", "1", "1"]
    later = Case(rows=15, scopes=(SCOPE, SCOPE), start=Place(1, Position(202610, 1, 10)))
    sink = FakeSink(later.events)
    delivery = later.make(executor)
    await delivery.prepare(small=False)
    await delivery.send(sink, {})
    assert later.outcome["records"]["runs"] == [["11", "15"]]
    assert _rows(sink) == [11, 12, 13, 14, 15]
    # A position belongs to its own segment: the next one begins at its beginning; the limit is over all of them.
    middle = Case(rows=15, scopes=(SCOPE, SCOPE), start=Place(0, Position(202610, 1, 10)), limit=17)
    sink = FakeSink(middle.events)
    delivery = middle.make(executor)
    await delivery.prepare(small=False)
    await delivery.send(sink, {})
    assert _rows(sink) == [*range(11, 16), *range(1, 13)]
    assert middle.outcome["records"]["runs"] == [["1", "15"]], "the fake's segments hold the same records"
    assert middle.outcome["state"] == "limited"


async def test_a_reader_that_does_not_read_holds_a_bounded_number_of_pieces(executor: ThreadPoolExecutor) -> None:
    case = Case(rows=10_000)
    sink = FakeSink(case.events, stall_after=0)
    delivery = case.make(executor)
    await delivery.prepare(small=False)
    task = asyncio.create_task(delivery.send(sink, {}))
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert case.reader.pieces_made <= AHEAD
    delivery.cut(Cut.SHUTDOWN)
    await task
    assert case.reader.open_streams == 0


async def test_the_source_is_closed_when_nobody_ever_reads(executor: ThreadPoolExecutor) -> None:
    closed = []

    async def source() -> AsyncIterator[Any]:
        try:
            while True:
                yield object()
        finally:
            closed.append(True)

    ahead = Ahead(source())
    await ahead.get()
    await ahead.aclose()
    assert closed
