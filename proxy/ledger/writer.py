"""Group commit: what waits is written in groups, each one transaction and one fsync, and then the waiters are told.

Two lanes (``lane.py``) take turns: while PostgreSQL writes one group, this process seals the next, and whoever has been
told of one is heard again. To PostgreSQL two lanes are two gateways: the head lock puts their groups in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from proxy import metrics
from proxy.ledger.batch import MonthKeys
from proxy.ledger.encoding import Encoded
from proxy.ledger.halting import Mark
from proxy.ledger.lane import TRANSIENT, Lane, Progress
from proxy.ledger.model import Appended, LedgerUnavailable

_GROUP_BYTES = 1 << 20
_SHARE_MIN = 16
"""So few are not shared out: another transaction costs more than they do."""
_POOL_FOR_TWO = 4
"""A pool of fewer connections than this has but one lane: two are kept, and readers and keys need some."""


@dataclass(slots=True)
class _Waiting:
    encoded: Encoded
    future: asyncio.Future[Appended]
    since: float


class GroupWriter:
    """The writer of a Ledger.

    Args:
        pool: connections of role LOG; a lane keeps one, so the pool needs at least two.
        month_keys: the log's keys.
        group_max: most entries of one transaction.
        queue_max: most entries that wait; more are refused with LedgerUnavailable.
        queue_bytes: most bytes of openings that wait.
        patience_s: how long a group may be tried before its waiters get LedgerUnavailable; once more as long to
            clear up a lost reply.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        month_keys: MonthKeys,
        *,
        group_max: int,
        queue_max: int,
        queue_bytes: int,
        patience_s: float,
    ) -> None:
        self._group_max = group_max
        self._queue_max = queue_max
        self._queue_bytes = queue_bytes
        self._patience = patience_s
        self._queue: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._in_flight = 0
        self.mark = Mark(lambda: self._refuse_waiting(self.mark.message))
        count = 2 if pool.get_max_size() >= _POOL_FOR_TWO else 1
        self.lanes = [Lane(pool, month_keys, self.mark, patience_s) for _ in range(count)]
        self._idle: dict[int, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self) -> None:
        """Check the server and start writing.

        Raises:
            LedgerMisconfigured: if the server would acknowledge what is not durable.
            LedgerUnavailable: if it cannot be reached.
        """
        try:
            async with asyncio.timeout(max(self._patience, 5)):
                await self.lanes[0].connection()
        except TRANSIENT as error:
            raise LedgerUnavailable("the access log's database cannot be reached") from error
        self._closing = False
        self._tasks = [asyncio.create_task(self._run(n), name="ledger lane") for n in range(len(self.lanes))]

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closing = True
        for idle in self._idle.values():
            _wake(idle)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=3 * self._patience)
            for task in late:
                task.cancel()
                await asyncio.wait([task])
            self._tasks = []
        self._refuse_waiting("the access log is closed")
        for lane in self.lanes:
            await lane.drop()

    def submit(self, encoded: Encoded) -> asyncio.Future[Appended]:
        """Queue an entry; the future is done when it is durable. Cancelling the future does not stop the entry.

        Raises:
            LedgerUnavailable: if the log is halted, the writer does not run or the queue is full.
        """
        self.mark.refuse()
        if not self._tasks or self._closing:
            raise LedgerUnavailable("the access log is not open")
        if len(self._queue) >= self._queue_max or self._waiting_bytes + encoded.size > self._queue_bytes:
            metrics.LOG_FAILURES.inc()
            raise LedgerUnavailable("too many entries wait for the access log")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended] = loop.create_future()
        self._queue.append(_Waiting(encoded, future, loop.time()))
        self._waiting_bytes += encoded.size
        self._wake_one()
        return future

    def _wake_one(self) -> None:
        # Always the first that is idle: under little load the second lane needs no connection.
        if self._idle:
            _wake(self._idle[min(self._idle)])

    async def _run(self, number: int) -> None:
        lane = self.lanes[number]
        while True:
            while self._queue:
                group = self._take()
                if self._queue:
                    self._wake_one()
                self._in_flight += len(group)
                try:
                    await self._write_group(lane, group)
                finally:
                    self._in_flight -= len(group)
                    # Whatever happens to this task, nobody is left waiting for ever.
                    self._fail(group, LedgerUnavailable("the access log was stopped", unknown=True))
            if self._closing:
                return
            self._idle[number] = asyncio.get_running_loop().create_future()
            try:
                await self._idle[number]
            finally:
                del self._idle[number]

    def _take(self) -> list[_Waiting]:
        """Take the next group: at most half of all that is on its way, so that the lanes share it and overlap."""
        share = self._group_max
        if len(self.lanes) > 1:
            share = min(share, max(_SHARE_MIN, -(-(len(self._queue) + self._in_flight) // 2)))
        group: list[_Waiting] = []
        size = 0
        while self._queue and len(group) < share:
            size += self._queue[0].encoded.size
            if group and size > _GROUP_BYTES:
                break
            group.append(self._queue.popleft())
        self._waiting_bytes -= sum([w.encoded.size for w in group])
        return group

    async def _write_group(self, lane: Lane, group: list[_Waiting]) -> None:
        progress = Progress(list({w.encoded.entry_id.int: w.encoded for w in group}.values()))
        try:
            await lane.persist(progress)
        except Exception as error:
            await lane.drop()
            halted = self.mark.reason is not None
            message = self.mark.message if halted else "the access log cannot be written"
            failure = LedgerUnavailable(message, unknown=progress.unknown)
            failure.__cause__ = error
            if not halted:
                self._tell(group, progress.done)
            self._fail(group, failure)
            # Those behind would wait as long for the same answer.
            self._refuse_waiting(message)
            return
        if self.mark.reason is not None:
            # Halted while it was being written: it may stand, but in a log that is not to be relied on.
            self._fail(group, LedgerUnavailable(self.mark.message, unknown=True))
            return
        metrics.LOG_GROUP.observe(len(group))
        self._tell(group, progress.done)

    def _tell(self, group: Sequence[_Waiting], done: Mapping[int, Appended]) -> None:
        if not done:
            return
        now = asyncio.get_running_loop().time()
        waited = []
        for waiting in group:
            placed = done.get(waiting.encoded.entry_id.int)
            if placed is not None and not waiting.future.done():
                waiting.future.set_result(placed)
                waited.append(now - waiting.since)
        metrics.LOG_APPEND_SECONDS.observe_many(waited)
        self.mark.acknowledged = max(self.mark.acknowledged, 1 + max([placed.index for placed in done.values()]))
        metrics.LOG_SIZE.set(self.mark.acknowledged)

    def _fail(self, group: Sequence[_Waiting], error: LedgerUnavailable) -> None:
        for waiting in group:
            if not waiting.future.done():
                metrics.LOG_FAILURES.inc()
                own = LedgerUnavailable(str(error), unknown=error.unknown)
                own.__cause__ = error.__cause__
                waiting.future.set_exception(own)

    def _refuse_waiting(self, message: str) -> None:
        left = list(self._queue)
        self._queue.clear()
        self._waiting_bytes = 0
        self._fail(left, LedgerUnavailable(message))


def _wake(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)
