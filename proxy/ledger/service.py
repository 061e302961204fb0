"""The access log: append (durable when it returns), read back, find.

What holds: indexes are contiguous from 0 and in time order; an entry stands once or not at all; ``append`` returns only
after the entry's COMMIT with ``synchronous_commit=on`` was acknowledged. Trust: role LOG can append anything, at the
end and with the time that it is, and cannot change or remove what stands; only the database's owner can, and the Merkle
log shows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from keys.datakeys import DataKeys
from keys.errors import KeysError
from keys.provider import Period
from proxy import logs, metrics
from proxy.ledger import encoding, sql, tagged
from proxy.ledger.batch import TAG_CLASS, MonthKeys, prepare
from proxy.ledger.encoding import Encoded, encode
from proxy.ledger.model import (
    Appended,
    Entry,
    EntryError,
    Kind,
    LedgerBroken,
    LedgerError,
    LedgerMisconfigured,
    LedgerUnavailable,
    OpenedEntry,
    Tag,
    month_of,
)
from proxy.ledger.reader import WholeEntry, open_rows, open_whole
from proxy.ledger.summary import RefusalSummary
from proxy.ledger.withheld import Withheld
from proxy.ledger.writer import GroupWriter

__all__ = [
    "EntryError",
    "Ledger",
    "LedgerBroken",
    "LedgerError",
    "LedgerMisconfigured",
    "LedgerUnavailable",
    "RefusalSummary",
]

READ_MAX = 1000
"""Most entries of one read."""

_THREAD_ITEMS = 500
"""An entry with more values than about this is encoded off the event loop."""

_BATCH_MAX = 512

_LOG = logs.get("ledger")


class Ledger:
    """The access log of one process.

    Args:
        pool: connections of role LOG, at least two.
        keys: the data keys.
        group_max: most entries of one transaction.
        queue_max: most entries that may wait before more are refused.
        queue_bytes: most bytes of openings that may wait.
        patience_s: how long a lost database is waited for before LedgerUnavailable, seconds.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: DataKeys,
        group_max: int = 512,
        *,
        queue_max: int = 4096,
        queue_bytes: int = 64 << 20,
        patience_s: float = 3.0,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._paused: str | None = None
        self._months = MonthKeys(pool, keys)
        self._writer = GroupWriter(
            pool,
            self._months,
            group_max=max(1, min(group_max, _BATCH_MAX)),
            queue_max=queue_max,
            queue_bytes=queue_bytes,
            patience_s=patience_s,
        )

    async def start(self) -> None:
        """Open the log.

        Raises:
            LedgerMisconfigured: where the server has fsync or synchronous_commit off, is a standby, or lacks the log.
            LedgerUnavailable: where it cannot be reached.
        """
        await self._writer.start()

    async def close(self) -> None:
        """Write what waits and stop; an append after this raises LedgerUnavailable."""
        await self._writer.close()

    def halt(self, reason: str) -> None:
        """Take nothing more: what stands in the database is not the log that this process knows, or may not be.

        For good: only a new Ledger, in a process that has looked again, appends. Whoever waits is refused, also where
        COMMIT is acknowledged from now on.

        Args:
            reason: what is wrong, in words of ours; it is logged and stands in every refusal.
        """
        self._writer.mark.halt(reason)

    def pause(self, reason: str | None) -> None:
        """Take nothing new until told otherwise; what waits is written.

        Args:
            reason: why, in words of ours; None ends the pause.
        """
        if reason != self._paused:
            logs.event(_LOG, logging.ERROR if reason else logging.INFO, "ledger.paused", reason=reason)
            self._paused = reason

    @property
    def paused(self) -> str | None:
        """Why nothing new is taken for now; None where it is."""
        return self._paused

    def _refuse_paused(self) -> None:
        if self._paused is not None:
            raise LedgerUnavailable(f"the access log is paused: {self._paused}")

    @property
    def halted(self) -> str | None:
        """Why nothing is taken any more; None where all is well."""
        return self._writer.mark.reason

    async def append(self, entry: Entry) -> Appended:
        """Append one entry; when this returns, the entry is durable.

        Many waiting appends share one transaction. A caller that is cancelled leaves its entry to be written. The same
        Entry (same ``entry_id``) appended again is not written again: the place where it stands is returned.

        Raises:
            EntryError: if the entry cannot be written as it is (a part over 1 MiB, a float ...).
            LedgerUnavailable: if it is not known to be durable, or the log is halted or paused. Disclose nothing.
        """
        self._refuse_paused()
        if _many(entry):
            encoded = await asyncio.to_thread(encode, entry)
        else:
            encoded = encode(entry)
        return await self._writer.submit(encoded)

    async def append_in(self, conn: asyncpg.Connection, entries: Sequence[Entry]) -> list[Appended]:
        """Append inside the caller's open transaction; the entries are durable when the caller's COMMIT is.

        The head of the log is locked until then and every other writer waits: call it last before COMMIT, and append
        nothing by ``append`` in between. The transaction is made synchronous, and ends if it idles for 10 seconds.

        Args:
            conn: any connection whose role is a member of ``tollgate_log_writer``, in a READ COMMITTED transaction.
            entries: any number of entries.

        Raises:
            EntryError: as ``append``; nothing was written and the transaction is still good.
            LedgerUnavailable: if the log is halted or cannot be written; the transaction is lost.
        """
        if not conn.is_in_transaction():
            raise LedgerError("append_in needs an open transaction")
        self._writer.mark.refuse()
        self._refuse_paused()
        if not entries:
            return []
        encoded = [encode(entry) for entry in entries]
        try:
            return await self._append_encoded(conn, encoded)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, KeysError) as error:
            metrics.LOG_FAILURES.inc(len(encoded))
            raise LedgerUnavailable("the access log cannot be written") from error

    async def _append_encoded(self, conn: asyncpg.Connection, encoded: Sequence[Encoded]) -> list[Appended]:
        await conn.execute(sql.JOIN)
        month = month_of((await conn.fetchrow(sql.PEEK))["at"])
        appended: list[Appended] = []
        while len(appended) < len(encoded):
            part = encoded[len(appended) : len(appended) + _BATCH_MAX]
            batch = await asyncio.to_thread(prepare, part, month, await self._months.get(month))
            least = self._writer.mark.acknowledged
            state, first, at = await conn.fetchrow(sql.APPEND, False, least, *batch.arguments)
            if state == "written":
                appended += [Appended(first + n, e.entry_id, at) for n, e in enumerate(part)]
            elif state == "month":
                month = month_of(at)  # a new one has begun: again, with its keys
            else:
                self._writer.mark.check(first)
        return appended

    async def size(self) -> int:
        """Return how many entries the log has."""
        size: int = (await self._pool.fetchrow(sql.PEEK))["size"]
        metrics.LOG_SIZE.set(size)
        return size

    async def read(
        self, *, after: int = -1, limit: int = 100, kinds: Collection[Kind] | None = None, others: bool = False
    ) -> list[OpenedEntry]:
        """Open entries in order, those with an index greater than ``after``.

        A look at the log is itself an entry: the caller appends its ``log.read`` before it shows anything.

        Args:
            after: the last index already seen; -1 from the start.
            limit: 1 to READ_MAX.
            kinds: only entries of these kinds.
            others: leave out what only the legal desk may know of (``withheld.py``).

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        found: list[OpenedEntry] = []
        async with self._pool.acquire() as conn:
            withheld = await Withheld.of(conn, self._keys) if others else Withheld(self._keys, None)
            while len(found) < _limit(limit):
                rows = await conn.fetch(sql.READ, after, limit, _names(kinds))
                kept = await open_rows(conn, self._keys, await withheld.rows(conn, rows))
                found += [entry for entry in kept if withheld.shows(entry)]
                if len(rows) < limit:
                    break
                after = rows[-1]["idx"]
        return found[:limit]

    async def read_last(
        self, *, limit: int = 100, kinds: Collection[Kind] | None = None, others: bool = False
    ) -> list[OpenedEntry]:
        """Open the last entries, oldest first. Otherwise as ``read``."""
        asked = _limit(limit)
        async with self._pool.acquire() as conn:
            withheld = await Withheld.of(conn, self._keys) if others else Withheld(self._keys, None)
            while True:
                rows = await conn.fetch(sql.READ_LAST, asked, _names(kinds))
                kept = await open_rows(conn, self._keys, await withheld.rows(conn, rows[::-1]))
                shown = [entry for entry in kept if withheld.shows(entry)]
                # So many as were asked for, whatever was left out among them.
                if len(shown) >= limit or len(rows) < asked:
                    return shown[-limit:]
                asked *= 4

    async def access(self, access_id: UUID, client_id: str) -> dict[str, Any] | None:
        """Return what the log holds of a client's own access, or None where there is none or it is another's.

        Returns:
            ``{"access_id", "client_id", "intent", "progress": [...], "outcome", "denied"}``; each entry as
            ``OpenedEntry.as_json`` gives it, None where it does not stand (yet).

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        whole = await self.whole(access_id, client_id)
        if whole is None:
            return None
        own = [each.entry for each in whole]
        by_kind = {e.kind: e.as_json() for e in own}
        return {
            "access_id": str(access_id),
            "client_id": client_id,
            "intent": by_kind.get(Kind.ACCESS_INTENT),
            "progress": [e.as_json() for e in own if e.kind is Kind.ACCESS_PROGRESS],
            "outcome": by_kind.get(Kind.ACCESS_OUTCOME),
            "denied": by_kind.get(Kind.ACCESS_DENIED),
        }

    async def whole(self, access_id: UUID, client_id: str) -> list[WholeEntry] | None:
        """Return the entries of a client's own access in order, with the bytes they were hashed from; else None.

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        whole = await self.entries_of(access_id)
        own = [w for w in whole if w.entry.actor is not None and w.entry.actor.get("client_id") == client_id]
        # Of two parties in one access (never, but for a defect) neither sees anything.
        return own if own and len(own) == len(whole) else None

    async def entries_of(self, access_id: UUID) -> list[WholeEntry]:
        """Return the entries of an access in order, whoever's it is, with the bytes they were hashed from.

        For the legal desk's own extractions: a client gets its entries from :meth:`whole`.

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        async with self._pool.acquire() as conn:
            return await open_whole(conn, self._keys, await conn.fetch(sql.READ_ACCESS, access_id))

    async def find(
        self, tag: Tag, *, first: datetime, last: datetime, after: int = -1, limit: int = 100
    ) -> list[OpenedEntry]:
        """Open the entries that bear ``tag``, in order.

        Args:
            tag: what to look for.
            first: start of the time range, aware.
            last: its end (half-open). Months whose tag key is gone give nothing.
            after: the last index already seen.
            limit: 1 to READ_MAX.

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        left = _limit(limit)
        periods = [Period(TAG_CLASS, month) for month in _months(first, last)]
        async with self._pool.acquire() as conn:
            keys = await self._keys.load(conn, periods)
            low = max(after, await conn.fetchval(sql.FIRST_AT, first) - 1)
            high = await conn.fetchval(sql.FIRST_AT, last)
            found: list[int] = []
            # Each month has its own tag of the same thing, and what a month's entries bear stands after the last one's.
            for period in sorted(keys):
                (value,) = encoding.tag_keys(encoding.tag_column(keys[period].secret, [tag]))
                async for page in tagged.pages(conn, value, low, high, left - len(found)):
                    found += page
                    break  # full, or all there is
                if len(found) >= left:
                    break
            return await open_rows(conn, self._keys, await conn.fetch(sql.READ_AT, found))


def _many(entry: Entry) -> bool:
    """Tell, cheaply, whether an entry is large enough to be encoded in a thread."""
    count = 0
    for part in (entry.request, entry.outcome, entry.records):
        for value in part.values():
            kind = type(value)
            if kind is list or kind is dict or kind is tuple:
                count += len(value)  # type: ignore[arg-type]
            elif kind is str:
                count += len(value) >> 7  # type: ignore[arg-type]
    return count > _THREAD_ITEMS


def _names(kinds: Collection[Kind] | None) -> list[str] | None:
    return None if kinds is None else [kind.value for kind in kinds]


def _limit(limit: int) -> int:
    if not 1 <= limit <= READ_MAX:
        raise ValueError(f"limit must be 1 to {READ_MAX}")
    return limit


def _months(first: datetime, last: datetime) -> list[int]:
    months = []
    at = first.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while at < last:
        months.append(month_of(at))
        at = at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1)
    return months
