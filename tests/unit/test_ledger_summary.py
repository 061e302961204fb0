"""Sums of refusals of callers who proved nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.ledger.model import Appended, Entry, Kind, LedgerUnavailable
from proxy.ledger.summary import RefusalSummary
from tests.support.ledger import until


class Log:
    """Keeps entries by id as the log does; refuses while ``away``, writing all the same while ``lossy``."""

    def __init__(self) -> None:
        self.entries: dict[object, Entry] = {}
        self.away = self.lossy = False

    async def append(self, entry: Entry) -> Appended:
        if self.lossy or not self.away:
            self.entries[entry.entry_id] = entry
        if self.away or self.lossy:
            raise LedgerUnavailable("away")
        return Appended(0, entry.entry_id, datetime.now(UTC))

    def sums(self) -> list[object]:
        return [entry.outcome["refusals"] for entry in self.entries.values()]


async def test_one_entry_sums_them_up_by_a_bounded_set_of_reasons() -> None:
    log = Log()
    summary = RefusalSummary(log.append, {"invalid_client", "use_dpop_nonce"})
    for reason in ("invalid_client", "use_dpop_nonce", "invalid_client", "typed by a stranger", "another"):
        summary.count(reason)
    await summary.flush()
    await summary.flush()
    assert log.sums() == [{"invalid_client": 2, "use_dpop_nonce": 1, "other": 2}]
    assert [entry.kind for entry in log.entries.values()] == [Kind.SUMMARY]


async def test_nothing_refused_writes_nothing() -> None:
    log = Log()
    await RefusalSummary(log.append, {"a"}).flush()
    assert log.entries == {}


@pytest.mark.parametrize("lossy", [False, True])
async def test_sums_that_could_not_be_written_are_kept_and_written_once(lossy: bool) -> None:
    log = Log()
    summary = RefusalSummary(log.append, {"a"})
    summary.count("a")
    log.away, log.lossy = not lossy, lossy
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            await summary.flush()
        summary.count("a")
    log.away = log.lossy = False
    await summary.flush()
    assert log.sums() == [{"a": 1}, {"a": 2}]


async def test_it_runs_by_itself_and_flushes_when_closed() -> None:
    log = Log()
    summary = RefusalSummary(log.append, {"a"}, interval_s=0.001)
    await summary.start()
    summary.count("a")
    await until(lambda: bool(log.entries))
    await summary.close()
    late = RefusalSummary(log.append, {"a"}, interval_s=3600)
    await late.start()
    late.count("a")
    await late.close()
    assert log.sums() == [{"a": 1}, {"a": 1}]
