"""Refusals of callers who proved nothing: counted, and summed up in one entry a minute, so nobody can fill the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime

from proxy.ledger.model import Appended, Entry, Kind, LedgerUnavailable, timestamp

OTHER = "other"
"""The reason under which anything outside the bounded set is counted."""


class RefusalSummary:
    """Counts refusals by reason and appends their sums.

    Args:
        append: ``Ledger.append``.
        reasons: the bounded set of reasons; another is counted as ``other``.
        interval_s: how often the sums are appended, seconds.
    """

    def __init__(
        self, append: Callable[[Entry], Awaitable[Appended]], reasons: Collection[str], interval_s: float = 60.0
    ) -> None:
        self._append = append
        self._reasons = frozenset(reasons)
        self._interval = interval_s
        self._counts: Counter[str] = Counter()
        self._since = datetime.now(UTC)
        self._unsent: Entry | None = None
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def count(self, reason: str) -> None:
        """Count one refusal."""
        self._counts[reason if reason in self._reasons else OTHER] += 1

    async def start(self) -> None:
        """Append the sums every ``interval_s`` from now on."""
        self._task = asyncio.create_task(self._run(), name="refusal summary")

    async def close(self) -> None:
        """Stop, and append what has been counted.

        Raises:
            LedgerUnavailable: if the last sums could not be written.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self.flush()

    async def flush(self) -> None:
        """Append the sums since the last flush; nothing where there were none.

        Raises:
            LedgerUnavailable: if they could not be written; they stay for the next flush.
        """
        async with self._lock:
            # What failed before is appended as the same entry: if it stands after all, it is not counted twice.
            await self._send()
            if not self._counts:
                return
            now = datetime.now(UTC)
            counts, self._counts = self._counts, Counter()
            self._unsent = Entry(
                Kind.SUMMARY,
                request={"from": timestamp(self._since), "to": timestamp(now)},
                outcome={"refusals": dict(counts)},
            )
            self._since = now
            await self._send()

    async def _send(self) -> None:
        if self._unsent is not None:
            await self._append(self._unsent)
            self._unsent = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(LedgerUnavailable):
                await self.flush()
