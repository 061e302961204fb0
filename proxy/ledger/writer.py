"""Group commit: one task writes what waits, in one transaction and one fsync, and wakes the waiters.

Crash order of one group:

1. sealed, head locked, inserted: dying here leaves nothing (the transaction rolls back), and nobody was told.
2. COMMIT sent: dying here leaves either; nobody was told, so nothing was disclosed. An intent that stands without an
   outcome counts as disclosed.
3. COMMIT acknowledged: the entries are durable, and only now are the waiters told.

A lost reply to COMMIT is *unknown*. The writer opens a new connection, takes the head lock (which the old backend
holds until it has committed or rolled back) and looks the entries up by id; only what does not stand is written again.

A log that is shorter than what this process was told is durable is not the log it wrote to (an older backup, another
server): the writer halts and takes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from proxy import logs, metrics
from proxy.ledger import sql
from proxy.ledger.batch import Batch, MonthKeys, place, prepare
from proxy.ledger.encoding import Encoded
from proxy.ledger.model import Appended, LedgerMisconfigured, LedgerUnavailable, month_of

_TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, cancelled, cannot connect now
    asyncpg.InsufficientResourcesError,  # too many connections; disk full is tried again too, then given up
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover that this connection has not noticed
)
"""After these the same group may be tried again: COMMIT was not sent, or the look-up has settled it."""

_LOG = logs.get("ledger")

_INLINE_ENTRIES = 64
_INLINE_BYTES = 65_536
_GROUP_BYTES = 1 << 20


@dataclass(slots=True)
class _Waiting:
    encoded: Encoded
    future: asyncio.Future[Appended]
    since: float


@dataclass(slots=True)
class _Progress:
    """What is known of a group while it is being written."""

    left: list[Encoded]
    done: dict[UUID, Appended] = field(default_factory=dict)
    unknown: bool = False
    """A COMMIT was sent whose reply is not known."""


def misconfiguration(row: asyncpg.Record) -> str | None:
    """Return why a server (a row of ``sql.CHECK``) must not be trusted with the log, or None."""
    if row["fsync"] != "on":
        return "the server runs with fsync=off and would lose acknowledged entries: set fsync=on and restart it"
    if row["synchronous_commit"] == "off":
        return (
            "synchronous_commit is off for this role or server: set it to on in postgresql.conf, or"
            " ALTER ROLE tollgate_log RESET synchronous_commit"
        )
    if row["standby"]:
        return "the database is a read-only standby: point database_url at the primary"
    if not row["migrated"]:
        return "the database has no access log: run `tollgate db migrate`"
    return None


class GroupWriter:
    """The one writer of a Ledger.

    Args:
        pool: connections of role LOG; one is kept by the writer, so the pool needs at least two.
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
        self._pool = pool
        self._keys = month_keys
        self._group_max = group_max
        self._queue_max = queue_max
        self._queue_bytes = queue_bytes
        self._patience = patience_s
        self._begin = sql.BEGIN.format(wait_ms=max(1, int(patience_s * 1000)))
        self._queue: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._conn: asyncpg.pool.PoolConnectionProxy | None = None
        self._warned = False
        self._month: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._halted: str | None = None
        self._acknowledged = 0

    @property
    def halted(self) -> str | None:
        """Why nothing is taken any more."""
        return self._halted

    def halt(self, reason: str) -> None:
        """Take nothing more, for good; the first reason stays."""
        if self._halted is None:
            self._halted = reason
            metrics.LOG_HALTED.set(1)
            logs.event(_LOG, logging.CRITICAL, "ledger.halted", reason=reason)
            self._refuse_waiting(self._halted_message())

    def refuse_halted(self) -> None:
        """Raise LedgerUnavailable where the log is halted."""
        if self._halted is not None:
            raise LedgerUnavailable(self._halted_message())

    def check_head(self, size: int) -> None:
        """Halt where the log, whose head has ``size``, lacks entries that were acknowledged to this process.

        Raises:
            LedgerUnavailable: then.
        """
        if size < self._acknowledged:
            self.halt(
                f"the log has {size} entries, and {self._acknowledged} were acknowledged: the database is an older one;"
                " see `tollgate log recover`"
            )
        self.refuse_halted()

    def _halted_message(self) -> str:
        return f"the access log is halted: {self._halted}"

    async def start(self) -> None:
        """Check the server and start the writing task.

        Raises:
            LedgerMisconfigured: if the server would acknowledge what is not durable.
            LedgerUnavailable: if it cannot be reached.
        """
        try:
            async with asyncio.timeout(max(self._patience, 5)):
                await self._connection()
        except _TRANSIENT as error:
            raise LedgerUnavailable("the access log's database cannot be reached") from error
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="ledger writer")

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=3 * self._patience)
            for task in late:
                task.cancel()
                await asyncio.wait([task])
            self._task = None
        self._refuse_waiting("the access log is closed")
        await self._drop()

    def submit(self, encoded: Encoded) -> asyncio.Future[Appended]:
        """Queue an entry; the future is done when it is durable. Cancelling the future does not stop the entry.

        Raises:
            LedgerUnavailable: if the writer does not run or the queue is full.
        """
        self.refuse_halted()
        if self._task is None or self._closing:
            raise LedgerUnavailable("the access log is not open")
        if len(self._queue) >= self._queue_max or self._waiting_bytes + encoded.size > self._queue_bytes:
            metrics.LOG_FAILURES.inc()
            raise LedgerUnavailable("too many entries wait for the access log")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(encoded, loop.create_future(), loop.time())
        self._queue.append(waiting)
        self._waiting_bytes += encoded.size
        self._wake.set()
        return waiting.future

    async def _run(self) -> None:
        while True:
            while self._queue:
                group = self._take()
                try:
                    await self._write_group(group)
                finally:
                    # Whatever happens to this task, nobody is left waiting for ever.
                    self._fail(group, LedgerUnavailable("the access log was stopped", unknown=True))
            if self._closing:
                return
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._queue and len(group) < self._group_max:
            size += self._queue[0].encoded.size
            if group and size > _GROUP_BYTES:
                break
            waiting = self._queue.popleft()
            self._waiting_bytes -= waiting.encoded.size
            group.append(waiting)
        return group

    async def _write_group(self, group: list[_Waiting]) -> None:
        progress = _Progress(list({w.encoded.entry_id: w.encoded for w in group}.values()))
        try:
            await self._persist(progress)
        except Exception as error:
            await self._drop()
            message = "the access log cannot be written" if self._halted is None else self._halted_message()
            failure = LedgerUnavailable(message, unknown=progress.unknown)
            failure.__cause__ = error
            if self._halted is None:
                self._tell(group, progress.done)
            self._fail(group, failure)
            # Those behind would wait as long for the same answer.
            self._refuse_waiting(message)
            return
        if self._halted is not None:
            # Halted while it was being written: it may stand, but in a log that is not to be relied on.
            self._fail(group, LedgerUnavailable(self._halted_message(), unknown=True))
            return
        metrics.LOG_GROUP.observe(len(group))
        self._tell(group, progress.done)

    def _tell(self, group: Sequence[_Waiting], done: dict[UUID, Appended]) -> None:
        now = asyncio.get_running_loop().time()
        for waiting in group:
            placed = done.get(waiting.encoded.entry_id)
            if placed is not None and not waiting.future.done():
                waiting.future.set_result(placed)
                metrics.LOG_APPEND_SECONDS.observe(now - waiting.since)
        if done:
            self._acknowledged = max(self._acknowledged, 1 + max(placed.index for placed in done.values()))
            metrics.LOG_SIZE.set(self._acknowledged)

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

    async def _persist(self, progress: _Progress) -> None:
        """Make a group durable, or raise with ``progress`` saying what is known."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        extended = False
        pause = 0.02
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    if progress.unknown:
                        await self._settle(progress)
                    if progress.left:
                        await self._transact(progress)
                    if not progress.left:
                        return
            except _TRANSIENT:
                await self._drop()
                if progress.unknown and not extended:
                    extended = True
                    deadline = loop.time() + self._patience
                if loop.time() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)

    async def _transact(self, progress: _Progress) -> None:
        conn = await self._connection()
        month = self._month if self._month is not None else month_of((await conn.fetchrow(sql.PEEK))["at"])
        batch = await self._prepare(progress.left, month)
        await conn.execute(self._begin)
        head = await conn.fetchrow(sql.HEAD)
        self.check_head(head["size"])
        self._month = month_of(head["at"])
        if self._month != month:
            await conn.execute("ROLLBACK")  # sealed for the wrong month: again, with the right one's keys
            return
        placed, arguments = place(batch, head["size"], head["at"])
        if await conn.fetchval(sql.INSERT_ONCE, *arguments):
            await conn.execute("ROLLBACK")
            progress.unknown = True  # some stand already (an entry appended again): find out which
            return
        progress.unknown = True
        await self._commit(conn)
        progress.unknown = False
        progress.left = []
        progress.done.update((p.entry_id, p) for p in placed)

    async def _settle(self, progress: _Progress) -> None:
        """Find out which entries of an unknown group stand. Whatever is found is durable when this returns."""
        conn = await self._connection()
        await conn.execute(self._begin)
        self.check_head((await conn.fetchrow(sql.HEAD))["size"])
        rows = await conn.fetch(sql.STANDING, [e.entry_id for e in progress.left])
        # A backend killed while it waited for a synchronous standby leaves a commit that is visible here and not yet
        # there. This COMMIT comes after it in the WAL, so that waiting for this one waits for both.
        await conn.execute(sql.TOUCH)
        await self._commit(conn)
        for row in rows:
            progress.done[row["entry_id"]] = Appended(row["idx"], row["entry_id"], row["at"], bytes(row["leaf_hash"]))
        progress.left = [e for e in progress.left if e.entry_id not in progress.done]
        progress.unknown = False

    async def _commit(self, conn: asyncpg.pool.PoolConnectionProxy) -> None:
        self._warned = False
        if (status := await conn.execute("COMMIT")) != "COMMIT":
            raise asyncpg.InterfaceError(f"COMMIT answered {status}")
        if self._warned:
            raise asyncpg.InterfaceError("COMMIT answered with a warning")

    def _notice(self, _conn: object, message: asyncpg.PostgresLogMessage) -> None:
        # A cancelled wait for the synchronous standby is told as success with a warning.
        if getattr(message, "severity_en", None) == "WARNING":
            self._warned = True

    async def _prepare(self, entries: list[Encoded], month: int) -> Batch:
        keys = await self._keys.get(month)
        if len(entries) <= _INLINE_ENTRIES and sum(e.size for e in entries) <= _INLINE_BYTES:
            return prepare(entries, month, keys)
        return await asyncio.to_thread(prepare, entries, month, keys)

    async def _connection(self) -> asyncpg.pool.PoolConnectionProxy:
        if self._conn is None or self._conn.is_closed():
            await self._drop()
            conn = await self._pool.acquire(timeout=self._patience)
            self._conn = conn
            conn.add_log_listener(self._notice)
            if wrong := misconfiguration(await conn.fetchrow(sql.CHECK)):
                await self._drop()
                raise LedgerMisconfigured(wrong)
        return self._conn

    async def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            self._keys.forget()
            with contextlib.suppress(Exception):
                conn.remove_log_listener(self._notice)
                conn.terminate()
            with contextlib.suppress(Exception):
                await self._pool.release(conn)
