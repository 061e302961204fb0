"""Shredding a month: the keys of some of its classes are destroyed, and what was sealed under them opens for nobody.

Two operators order it (change kind ``store.shred``); this carries it out. What holds: nothing of a month goes before 18
whole months are over (47 CFR 42.6), before what was shown of it is frozen (deploy/docs/exposure.md), or while a copy of
it is being made for the legal desk; an entry of the log names month, classes and data keys before the first key goes.
Copies that are held are sealed under keys of their own, and stay.

Whatever step it dies at, running it again goes on by the same function and ends the same. PostgreSQL holds floor, order
and copies too (migration 0016): role OPERATOR puts nothing on record as destroyed that no order says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.provider import Period
from proxy.ledger.model import Entry, Kind, OpenedEntry, Tag, timestamp
from proxy.ledger.search import Query, Search, Seen
from proxy.ledger.service import Ledger
from proxy.store.fingerprints import KEY_CLASS as FINGERPRINTS
from proxy.store.tags import KEY_CLASS as TAGS
from schema.fields import DisclosureClass

FLOOR_MONTHS: Final = 18
CITATION: Final = "47 CFR 42.6"
"""Toll records are kept for 18 months. The rule speaks of what a bill needs; here it is the floor of every class."""

CLASSES: Final = (*(c.value for c in DisclosureClass), TAGS, FINGERPRINTS)
"""What can be shredded, each by itself. The log has a retention of its own, cases and holds theirs."""

COUNTED: Final = frozenset({DisclosureClass.TIMING.value, DisclosureClass.PARTIES.value})
"""Without these nobody can count any more what somebody was shown: it has to be frozen before."""

Tell = Callable[[str], None]

_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('tollgate.shredding', 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('tollgate.shredding', 0))"
_ORDER = (
    "SELECT change_id, month, classes, ordered_at, entry_id, begun_at, pending_until, done_at FROM tollgate.shred"
    " WHERE change_id = $1"
)
_FACTS = "SELECT batches, rows, staged, needed FROM tollgate.shred_facts($1)"
_KEYS = "SELECT key_class, key_id FROM tollgate.data_key WHERE month = $1 AND key_class = ANY ($2) ORDER BY key_class"
_GONE = "SELECT key_class FROM tollgate.data_key_destroyed WHERE month = $1 AND key_class = ANY ($2)"
_BEGIN = "SELECT tollgate.shred_begin($1, $2, $3)"
_KEY = "SELECT tollgate.shred_key($1, $2)"
_DONE = "SELECT tollgate.shred_done($1)"


class ShredError(Exception):
    """Nothing (more) is shredded. ``reason`` is a stable code; the message says why and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Order:
    """What is to go: classes of a month (yyyymm), in the order of `CLASSES`."""

    month: int
    classes: tuple[str, ...]

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Order:
        """Return what a change's payload orders.

        Raises:
            ShredError: if it is none: ``month`` an integer yyyymm, ``classes`` a list of `CLASSES`.
        """
        month, classes = payload.get("month"), payload.get("classes")
        if payload.keys() != {"month", "classes"} or not isinstance(month, int) or isinstance(month, bool):
            raise ShredError("shred.order", "an order to shred has `month`, as 202407, and `classes`, and nothing else")
        if not 200_001 <= month <= 209_912 or not 1 <= month % 100 <= 12:
            raise ShredError("shred.order", "a month is written as 202407")
        if not isinstance(classes, list) or not classes or not all(c in CLASSES for c in classes):
            raise ShredError("shred.order", f"classes are one or more of {', '.join(CLASSES)}")
        return cls(month, tuple(c for c in CLASSES if c in classes))

    def payload(self) -> dict[str, Any]:
        """Return it as a change's payload."""
        return {"month": self.month, "classes": list(self.classes)}

    def check_floor(self, now: datetime) -> None:
        """Refuse what has to be kept.

        Raises:
            ShredError: until 18 whole months after the month's end are over at ``now`` (aware).
        """
        if now < (until := kept_until(self.month)):
            raise ShredError(
                "shred.floor",
                f"toll records are kept for {FLOOR_MONTHS} months ({CITATION}): {self.month} until {until:%Y-%m-%d}",
            )


def kept_until(month: int) -> datetime:
    """Return the first moment at which 18 months have gone by since every call of a month (yyyymm)."""
    count = month // 100 * 12 + month % 100 - 1 + 1 + FLOOR_MONTHS
    return datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)


def pending_until(backup: datetime | None, kept: Sequence[Path], now: datetime, keep_days: int) -> datetime | None:
    """Return until when a copy of the keyring may still have the keys; None where there is no copy that we know of.

    Args:
        backup: when the keyring was last backed up.
        kept: directories of keyrings that `restore --force` replaced: they do not run out by themselves.
        now: the time.
        keep_days: how long backups of the keyring are kept, setting ``keyring_backup_days``.
    """
    if backup is None and not kept:
        return None
    return (now if kept or backup is None else backup) + timedelta(days=keep_days)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and what is still to be done by others."""

    order: Order
    entry_id: UUID
    resumed: bool
    pending_until: datetime | None
    """Until then a backup of the keyring may still have the keys."""
    replaced: tuple[Path, ...]
    """Keyrings that were replaced and are kept beside this one: they have the keys until somebody deletes them."""


class Shredder:
    """Carries orders out. One process at a time: an advisory lock of the database holds the others off.

    Args:
        ledger: the started log.
        search: the log, as the legal desk sees it: what was shown in a secret case has to be frozen too.
        conn: a connection of role OPERATOR.
        keys: the data keys.
        provider: the keyring whose period keys are destroyed.
        keep_days: setting ``keyring_backup_days``.
    """

    def __init__(
        self,
        ledger: Ledger,
        search: Search,
        conn: asyncpg.Connection,
        keys: DataKeys,
        provider: FileProvider,
        keep_days: int,
    ) -> None:
        self._ledger = ledger
        self._search = search
        self._conn = conn
        self._keys = keys
        self._provider = provider
        self._keep_days = keep_days

    async def check(self, order: Order, now: datetime) -> dict[str, Any]:
        """Return what stands of the month, where nothing is in the way of shredding it; changes nothing.

        Raises:
            ShredError: the floor, a copy that is being made, or what was shown and is not frozen.
            LedgerBroken: an entry is not what it commits to.
        """
        there: datetime = await self._conn.fetchval("SELECT clock_timestamp()")
        order.check_floor(min(now, there))
        batches, rows, staged, needed = await self._conn.fetchrow(_FACTS, order.month)
        if staged:
            raise ShredError("shred.staged", f"{order.month} has staged records: `tollgate roll` first")
        if needed:
            raise ShredError("shred.held", f"the legal desk still needs records of {order.month}: try again later")
        frozen = None
        gone = {r["key_class"] for r in await self._conn.fetch(_GONE, order.month, list(CLASSES))}
        if rows and not COUNTED.isdisjoint(order.classes):
            frozen = await self._frozen(order.month, whole=COUNTED.isdisjoint(gone))
        listed = await self._conn.fetch(_KEYS, order.month, list(order.classes))
        return {
            "batches": batches,
            "rows": rows,
            "frozen": None if frozen is None else str(frozen),
            "data_keys": [[r["key_class"], str(r["key_id"])] for r in listed],
        }

    async def carry_out(self, change_id: UUID, now: datetime, who: str, tell: Tell = lambda _: None) -> Report:
        """Carry out an order, or go on with one that was begun.

        Args:
            change_id: of the approved change.
            now: the time, aware.
            who: the operating system's name for whoever runs this.
            tell: told each step.

        Raises:
            ShredError: there is no such order, it is done, or `check` refuses; nothing was destroyed for it.
            LedgerUnavailable: the log cannot be written; run it again.
        """
        if not await self._conn.fetchval(_TRY_LOCK):
            raise ShredError("shred.busy", "another shredding is under way")
        try:
            return await self._carry_out(change_id, now, who, tell)
        finally:
            if not self._conn.is_closed():
                await self._conn.execute(_UNLOCK)

    async def _carry_out(self, change_id: UUID, now: datetime, who: str, tell: Tell) -> Report:
        row = await self._conn.fetchrow(_ORDER, change_id)
        if row is None:
            raise ShredError("shred.order", "no approved change orders this: see `tollgate change list`")
        if row["done_at"] is not None:
            raise ShredError("shred.done", f"it was done on {row['done_at']:%Y-%m-%d}")
        order = Order(row["month"], tuple(row["classes"]))
        replaced = await asyncio.to_thread(self._replaced)
        resumed = row["begun_at"] is not None
        entry_id, until = row["entry_id"], row["pending_until"]
        if not resumed:
            facts = await self.check(order, now)
            ring = await asyncio.to_thread(lambda: self._provider.keyring.read(fresh=True))
            until = pending_until(ring.backup.at if ring.backup else None, replaced, now, self._keep_days)
            entry_id = await self._begin(change_id, order, facts, until, who)
        for cls in order.classes:
            period = Period(cls, order.month)
            tell(f"destroying the key of {period}")
            await self._provider.destroy(period)
            # Dying here: it opens for nobody; the next run destroys it again, which is nothing, and goes on.
            await self._conn.execute(_KEY, change_id, cls)
            self._keys.forget([period])
            # Dying here, or between two classes: the next run does the rest.
        async with self._conn.transaction():
            await self._conn.execute(_DONE, change_id)
            done = _entry(order, change_id, who, "done", outcome={"done": True, "begun": str(entry_id)})
            await self._ledger.append_in(self._conn, [done])
        return Report(order, entry_id, resumed, until, tuple(replaced))

    async def _begin(
        self, change_id: UUID, order: Order, facts: Mapping[str, Any], until: datetime | None, who: str
    ) -> UUID:
        outcome = {"batches": facts["batches"], "rows": facts["rows"], "frozen": facts["frozen"]}
        outcome["pending_until"] = None if until is None else timestamp(until)
        entry = _entry(order, change_id, who, "begin", outcome=outcome, records={"data_keys": facts["data_keys"]})
        try:
            # Durable before the first key goes, and with it that no copy is begun of the month from now on. Dying
            # right after it: the next run goes on.
            async with self._conn.transaction():
                await self._conn.execute(_BEGIN, change_id, entry.entry_id, until)
                await self._ledger.append_in(self._conn, [entry])
        except asyncpg.InsufficientPrivilegeError as error:
            raise ShredError("shred.refused", str(error)) from error
        return entry.entry_id

    async def _frozen(self, month: int, *, whole: bool) -> UUID:
        """Return the entry of the month's last finished freezing; ``whole``: nothing of it was shown since.

        Raises:
            ShredError: if there is none, or there was something.
        """
        finished: OpenedEntry | None = None
        seen = Seen()
        tags = (Tag("exposure", str(month).encode()),)
        async with aclosing(self._entries(Query(tags, (Kind.EXPOSURE_FROZEN,), limit=64, page=4), seen)) as found:
            async for entry in found:
                if (entry.outcome or {}).get("finished"):
                    finished = entry
        shown = f"{month // 100:04d}-{month % 100:02d}"
        if finished is None or finished.access_id is None:
            blind = " (months of the log cannot be searched)" if seen.blind else ""
            raise ShredError(
                "shred.not_frozen",
                f"what was shown of {shown} is not frozen{blind}: `tollgate exposure freeze {shown}` first",
            )
        if whole:
            query = Query(access_id=finished.access_id, limit=1)
            async with aclosing(self._search.run(query)) as found:
                begun = await anext(found)
            query = Query(kinds=(Kind.ACCESS_INTENT,), after=begun.index, limit=500)
            async with aclosing(self._entries(query, Seen())) as found:
                async for entry in found:
                    if _reaches(entry, month):
                        raise ShredError(
                            "shred.not_frozen",
                            f"{shown} was asked for since it was frozen: `tollgate exposure freeze {shown}` again",
                        )
        return finished.entry_id

    async def _entries(self, query: Query, seen: Seen) -> AsyncGenerator[OpenedEntry]:
        while True:
            part = Seen()
            async with aclosing(self._search.run(query, part)) as found:
                async for entry in found:
                    yield entry
            seen.blind += part.blind
            if part.next_after is None:
                return
            query = replace(query, after=part.next_after)

    def _replaced(self) -> list[Path]:
        return sorted(self._provider.keyring.directory.glob("replaced-*"))


def _reaches(entry: OpenedEntry, month: int) -> bool:
    """Say whether an intent's window meets a month; one that does not say its window may."""
    try:
        first, last = (datetime.fromisoformat(str((entry.request or {})[name])) for name in ("from", "to"))
        start = datetime(month // 100, month % 100, 1, tzinfo=UTC)
        return first < (start + timedelta(days=31)).replace(day=1) and last > start
    except (KeyError, ValueError, TypeError):
        return True


def _entry(
    order: Order,
    change_id: UUID,
    who: str,
    action: str,
    outcome: Mapping[str, Any],
    records: Mapping[str, Any] | None = None,
) -> Entry:
    request: dict[str, Any] = {
        "purpose": "retention",
        "action": action,
        "change_id": str(change_id),
        "basis": CITATION,
        "floor_months": FLOOR_MONTHS,
        **order.payload(),
    }
    tags = (Tag("staff", who.encode()),)
    return Entry(Kind.STORE_SHRED, {"os_user": who}, request, outcome, records or {}, access_id=change_id, tags=tags)
