"""A lane: one connection, and how a group of entries is made durable on it, told of a lost reply apart.

Crash order of one group:

1. sealed, and sent as one statement that is its own transaction (migration 0011): dying before its commit leaves
   nothing (the transaction rolls back), and nobody was told.
2. committed, the reply not yet here: dying here leaves the entries; nobody was told, so nothing was disclosed. An
   intent that stands without an outcome counts as disclosed.
3. acknowledged: the entries are durable, and only now are the waiters told.

A lost reply is *unknown*. The lane opens a new connection, takes the head lock (which the old backend holds until it
has committed or rolled back) and looks the entries up by id; only what does not stand is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from proxy.ledger import sql
from proxy.ledger.batch import Batch, MonthKeys, prepare
from proxy.ledger.encoding import Encoded
from proxy.ledger.halting import Mark
from proxy.ledger.model import Appended, LedgerMisconfigured, month_of

TRANSIENT = (
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
"""After these the same group may be tried again: nothing was committed, or the look-up settles it."""

_INLINE_ENTRIES = 64
_INLINE_BYTES = 131_072


@dataclass(slots=True)
class Progress:
    """What is known of a group while it is being written."""

    left: list[Encoded]
    done: dict[int, Appended] = field(default_factory=dict)
    """By the entry's id as an integer."""
    unknown: bool = False
    """A transaction was sent off whose end is not known."""


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


class Lane:
    """Writes one group at a time.

    Args:
        pool: connections of role LOG; one is kept.
        month_keys: the log's keys.
        mark: what is known of the log.
        patience_s: how long a group may be tried; once more as long to clear up a lost reply.
    """

    def __init__(self, pool: asyncpg.Pool, month_keys: MonthKeys, mark: Mark, patience_s: float) -> None:
        self._pool = pool
        self._keys = month_keys
        self._mark = mark
        self._patience = patience_s
        self._wait_ms = max(1, int(patience_s * 1000))
        self._conn: asyncpg.pool.PoolConnectionProxy | None = None
        self._warned = False
        self._month: int | None = None

    async def persist(self, progress: Progress) -> None:
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
                        await self._write(progress)
                    if not progress.left:
                        return
            except TRANSIENT:
                await self.drop()
                if progress.unknown and not extended:
                    extended = True
                    deadline = loop.time() + self._patience
                if loop.time() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)

    async def connection(self) -> asyncpg.pool.PoolConnectionProxy:
        """Return the lane's connection, opened and its server checked where need be.

        Raises:
            LedgerMisconfigured: if the server would acknowledge what is not durable.
        """
        if self._conn is None or self._conn.is_closed():
            await self.drop()
            conn = await self._pool.acquire(timeout=self._patience)
            self._conn = conn
            conn.add_log_listener(self._notice)
            if wrong := misconfiguration(await conn.fetchrow(sql.CHECK, f"{self._wait_ms}ms")):
                await self.drop()
                raise LedgerMisconfigured(wrong)
        return self._conn

    async def drop(self) -> None:
        """Cut the connection; the next group opens another."""
        conn, self._conn = self._conn, None
        if conn is not None:
            self._keys.forget()
            with contextlib.suppress(Exception):
                conn.remove_log_listener(self._notice)
                conn.terminate()
            with contextlib.suppress(Exception):
                await self._pool.release(conn)

    async def _write(self, progress: Progress) -> None:
        conn = await self.connection()
        if (month := self._month) is None:
            month = self._month = month_of((await conn.fetchrow(sql.PEEK))["at"])
        batch = await self._prepare(progress.left, month)
        self._warned = False
        progress.unknown = True
        try:
            row = await conn.fetchrow(sql.APPEND, True, self._mark.acknowledged, *batch.arguments)
        except asyncpg.PostgresError as error:
            # An error (FATAL and PANIC apart) is an abort: there is none once a transaction is committed.
            progress.unknown = getattr(error, "severity_en", None) != "ERROR"
            raise
        if self._warned:
            # A wait for the synchronous standby that was cancelled is told as success with a warning.
            raise asyncpg.InterfaceError("the commit answered with a warning")
        progress.unknown = False
        state, first, at = row
        if state == "written":
            for entry in progress.left:
                progress.done[entry.entry_id.int] = Appended(first, entry.entry_id, at)
                first += 1
            progress.left = []
        elif state == "present":
            progress.unknown = True  # an entry that is appended again: find out which
        elif state == "month":
            self._month = month_of(at)  # again, with the right month's keys
        else:
            self._mark.check(first)

    async def _settle(self, progress: Progress) -> None:
        """Find out which entries of an unknown group stand. Whatever is found is durable when this returns."""
        conn = await self.connection()
        await conn.execute(sql.BEGIN.format(wait_ms=self._wait_ms))
        self._mark.check((await conn.fetchrow(sql.HEAD))["size"])
        rows = await conn.fetch(sql.STANDING, [e.entry_id for e in progress.left])
        # A backend killed while it waited for a synchronous standby leaves a commit that is visible here and not yet
        # there. This COMMIT comes after it in the WAL, so that waiting for this one waits for both.
        await conn.execute(sql.TOUCH)
        self._warned = False
        if (status := await conn.execute("COMMIT")) != "COMMIT":
            raise asyncpg.InterfaceError(f"COMMIT answered {status}")
        if self._warned:
            raise asyncpg.InterfaceError("COMMIT answered with a warning")
        for row in rows:
            progress.done[row["entry_id"].int] = Appended(row["idx"], row["entry_id"], row["at"])
        progress.left = [e for e in progress.left if e.entry_id.int not in progress.done]
        progress.unknown = False

    def _notice(self, _conn: object, message: asyncpg.PostgresLogMessage) -> None:
        if getattr(message, "severity_en", None) == "WARNING":
            self._warned = True

    async def _prepare(self, entries: Sequence[Encoded], month: int) -> Batch:
        keys = await self._keys.get(month)
        if len(entries) <= _INLINE_ENTRIES and sum([e.size for e in entries]) <= _INLINE_BYTES:
            return prepare(entries, month, keys)
        return await asyncio.to_thread(prepare, entries, month, keys)
