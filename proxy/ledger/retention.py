"""Erasing openings whose time has come: the entry first, then the keys, then the rows.

What holds: nothing is erased that a durable ``log.erase`` entry does not name; nothing younger than the floor; headers,
leaves and proofs stay. Each such entry repeats every period erased before it, so that the newest alone tells fsck what
may be missing and under which policy, also when the entries before it have been erased themselves.

Whatever step it dies at, running it again finishes what the newest entry says, by the same function, and ends the same.
Trust: role RETENTION can read no entry; PostgreSQL lets it erase only under such an entry, what role LOG has ordered
under it, of months that are over, and only where the key is on record as destroyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.provider import Period
from proxy.ledger import sql
from proxy.ledger.model import PARTS, Entry, Kind, LedgerBroken, LedgerError, OpenedEntry, Tag, new_id
from proxy.ledger.reader import open_rows
from proxy.ledger.service import Ledger

TAGS = "tags"
"""Not a part of an entry: the month's key of the tags, without which they cannot be searched or linked."""

ERASABLE = (*PARTS, TAGS)

BATCHES_AT_ONCE = 2_000
"""Rows of one deleting transaction."""

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('tollgate.log_erase', 0))"

_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('tollgate.log_erase', 0))"

_LAST_MONTH = 999_912

_NEWEST = "SELECT idx FROM tollgate.log_entry WHERE kind = 'log.erase' ORDER BY idx DESC LIMIT 1"

# Every month that has openings or tags has its data key first (proxy/ledger/batch.py).
_PERIODS = (
    "SELECT key_class, month FROM tollgate.data_key WHERE key_class = ANY($1::text[]) AND month <= $2 ORDER BY 2, 1"
)

_BATCHES = "SELECT count(*) FROM tollgate.log_opening WHERE part = $1 AND month = $2"

_STATES = """
SELECT w.part, w.month,
    EXISTS (SELECT FROM tollgate.log_opening o WHERE o.part = w.part AND o.month = w.month) AS openings,
    EXISTS (SELECT FROM tollgate.data_key_destroyed d
            WHERE d.key_class = 'log_' || w.part AND d.month = w.month) AS recorded
FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS w (part, month, n) ORDER BY n
"""

_ORDER = (
    "INSERT INTO tollgate.log_erase_order (entry_id, part, month)"
    " SELECT $1, w.part, w.month FROM unnest($2::text[], $3::int[]) AS w (part, month) ON CONFLICT DO NOTHING"
)
_RECORD = "SELECT tollgate.log_erase_key($1, $2, $3)"
_DELETE = "SELECT tollgate.log_erase_openings($1, $2, $3, $4)"


class RetentionError(LedgerError):
    """Nothing (more) is erased; the message says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is to go: the openings of ``parts`` of months that ended ``keep_months`` or more ago.

    ``name`` and ``reason`` stand in the log for ever (until erased themselves): what rule it follows, and why now.
    """

    name: str
    keep_months: int
    parts: tuple[str, ...]
    reason: str

    def check(self, floor_months: int) -> None:
        """Check that it can be carried out.

        Raises:
            RetentionError: if it keeps less than the floor, or names what is no part.
        """
        if unknown := sorted(set(self.parts) - set(ERASABLE)):
            raise RetentionError(f"{unknown[0]!r} is no part of an entry; there are {', '.join(ERASABLE)}")
        if not self.parts or not self.name:
            raise RetentionError("a policy needs a name and the parts that it erases")
        least = max(1, floor_months)
        if self.keep_months < least:
            raise RetentionError(
                f"a policy of {self.keep_months} months is shorter than the floor of {least}"
                " (setting log_retention_floor_months): nothing is erased"
            )


@dataclass(frozen=True, slots=True)
class Erased:
    """Openings of a part, of the months ``first`` to ``last`` (yyyymm, both included), gone under a policy.

    ``entry_id`` is the log.erase entry that first said so.
    """

    part: str
    first: int
    last: int
    policy: str
    entry_id: UUID

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in an entry."""
        return {
            "part": self.part,
            "first": self.first,
            "last": self.last,
            "policy": self.policy,
            "entry": str(self.entry_id),
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """A period to erase: how many sealed groups of openings there are, and how many entries the month has."""

    part: str
    month: int
    batches: int
    entries: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was done. ``entry_id`` is the entry that now says so; None where there was nothing to do."""

    entry_id: UUID | None
    planned: tuple[Planned, ...]
    finished: tuple[tuple[str, int], ...]
    """Periods of an earlier entry that had not been erased to the end."""
    deleted: int


Tell = Callable[[str], None]
"""Told each step, for people."""


class Erasures:
    """What has been erased so far, as the newest log.erase entry says."""

    def __init__(self, spans: Iterable[Erased] = ()) -> None:
        self.spans = tuple(spans)

    def of(self, part: str, month: int) -> Erased | None:
        """Return what says that ``part`` of ``month`` is erased, or None: then it must be there."""
        return next((s for s in self.spans if s.part == part and s.first <= month <= s.last), None)


def erasures(entry: OpenedEntry | None) -> Erasures:
    """Return what a log.erase entry says is erased; nothing for None.

    Raises:
        LedgerBroken: if it does not say so in the form that `entry_of` writes.
    """
    if entry is None:
        return Erasures()
    try:
        if entry.kind is not Kind.LOG_ERASE or entry.request is None:
            raise LedgerBroken(entry.index, "what it erased cannot be read")
        return Erasures(spans_of(entry.request))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerBroken(entry.index, "what it erased cannot be read") from error


def spans_of(request: Mapping[str, Any]) -> list[Erased]:
    """Return the periods that the request part of a log.erase entry names."""
    return [
        Erased(str(e["part"]), int(e["first"]), int(e["last"]), str(e["policy"]), UUID(e["entry"]))
        for e in request["erased"]
    ]


def newest_month(now: datetime, keep_months: int) -> int:
    """Return the newest month (yyyymm) of which all has been kept for ``keep_months`` whole months at ``now``."""
    utc = now.astimezone(UTC)
    count = utc.year * 12 + utc.month - 1 - keep_months - 1
    return count // 12 * 100 + count % 12 + 1


def entry_of(policy: Policy, floor_months: int, planned: Sequence[Planned], before: Erasures, who: str) -> Entry:
    """Return the entry of an erasure: what it takes away, and again all that was taken away before it."""
    entry_id = new_id()
    spans = [*before.spans]
    for part in ERASABLE:
        months = sorted(p.month for p in planned if p.part == part)
        spans += [Erased(part, first, last, policy.name, entry_id) for first, last in _runs(months)]
    request: dict[str, Any] = {
        "purpose": "retention",
        "policy": policy.name,
        "keep_months": policy.keep_months,
        "floor_months": floor_months,
        "reason": policy.reason,
        "periods": [
            {"part": p.part, "month": p.month, "batches": p.batches, "entries": p.entries} for p in planned
        ],
        "erased": [s.as_json() for s in spans],
    }  # fmt: skip
    actor = {"os_user": who}
    return Entry(Kind.LOG_ERASE, actor, request, entry_id=entry_id, tags=(Tag("staff", who.encode()),))


def _runs(months: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending months as runs of (first, last)."""
    runs: list[tuple[int, int]] = []
    for month in months:
        if runs and _after(runs[-1][1]) == month:
            runs[-1] = (runs[-1][0], month)
        else:
            runs.append((month, month))
    return runs


def _after(month: int) -> int:
    return month + 1 if month % 100 < 12 else month + 89


async def newest(conn: asyncpg.Connection, keys: DataKeys) -> OpenedEntry | None:
    """Return the newest log.erase entry, opened and checked; None where nothing was ever erased.

    Args:
        conn: a connection that may read the log.
        keys: the data keys.

    Raises:
        LedgerBroken: if it is not what it commits to.
    """
    index = await conn.fetchval(_NEWEST)
    if index is None:
        return None
    return (await open_rows(conn, keys, await conn.fetch(sql.READ_AT, [index])))[0]


class Retention:
    """Erases. One process at a time: an advisory lock of the database holds the others off.

    Args:
        ledger: the started log.
        log: a connection of role LOG, to read.
        hand: a connection of role RETENTION, to erase.
        keys: the data keys.
        provider: the keyring whose period keys are destroyed.
        floor_months: setting log_retention_floor_months.
    """

    def __init__(
        self,
        ledger: Ledger,
        log: asyncpg.Connection,
        hand: asyncpg.Connection,
        keys: DataKeys,
        provider: FileProvider,
        floor_months: int,
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._hand = hand
        self._keys = keys
        self._provider = provider
        self._floor = floor_months

    async def plan(self, policy: Policy, now: datetime) -> list[Planned]:
        """Return what ``policy`` would erase at ``now`` that no entry has erased yet; changes nothing.

        The database's clock counts too where it is behind ``now``: one clock that is ahead erases nothing.

        Raises:
            RetentionError: as `Policy.check`.
        """
        policy.check(self._floor)
        return await self._plan(policy, now, erasures(await newest(self._log, self._keys)))

    async def erase(self, policy: Policy, now: datetime, who: str, tell: Tell = lambda _: None) -> Report:
        """Carry out ``policy``, after finishing what an earlier run began.

        Args:
            policy: what to erase.
            now: the time, aware.
            who: the operating system's name for whoever asks.
            tell: told each step.

        Raises:
            RetentionError: if the policy is refused, or another erasure is under way.
            LedgerUnavailable: if the entry is not known to be durable. Nothing was erased for it; it may stand, and
                the next run then does what it says.
            LedgerBroken: if what was erased before cannot be told.
        """
        policy.check(self._floor)
        if not await self._hand.fetchval(_LOCK):
            raise RetentionError("another erasure is under way")
        try:
            return await self._erase(policy, now, who, tell)
        finally:
            await self._hand.execute(_UNLOCK)

    async def _erase(self, policy: Policy, now: datetime, who: str, tell: Tell) -> Report:
        last = await newest(self._log, self._keys)
        before = erasures(last)
        finished, deleted = (await self._finish(last.entry_id, before, tell)) if last is not None else ((), 0)
        planned = await self._plan(policy, now, before)
        if not planned:
            return Report(None, (), finished, deleted)
        entry = entry_of(policy, self._floor, planned, before, who)
        tell(f"logging the erasure of {len(planned)} periods")
        # Durable before the first key goes. Dying right after it: the next run finishes what the entry says.
        await self._ledger.append(entry)
        _, more = await self._finish(entry.entry_id, Erasures(spans_of(entry.request)), tell)
        return Report(entry.entry_id, tuple(planned), finished, deleted + more)

    async def _plan(self, policy: Policy, now: datetime, before: Erasures) -> list[Planned]:
        there: datetime = await self._log.fetchval("SELECT clock_timestamp()")
        last = newest_month(min(now, there), policy.keep_months)
        planned = []
        entries: dict[int, int] = {}
        for part, month in await self._periods(policy.parts, last):
            if before.of(part, month) is not None:
                continue
            if month not in entries:
                entries[month] = await self._first(_after(month)) - await self._first(month)
            batches = 0 if part == TAGS else await self._log.fetchval(_BATCHES, part, month)
            planned.append(Planned(part, month, batches, entries[month]))
        return planned

    async def _periods(self, parts: Collection[str], last: int) -> list[tuple[str, int]]:
        """Return the (part, month) that there ever was something of, until ``last``."""
        rows = await self._log.fetch(_PERIODS, ["log_" + part for part in ERASABLE if part in parts], last)
        return [(r["key_class"].removeprefix("log_"), r["month"]) for r in rows]

    async def _first(self, month: int) -> int:
        """Return the first index of a month, or of what comes after it."""
        index: int = await self._log.fetchval(sql.FIRST_AT, datetime(month // 100, month % 100, 1, tzinfo=UTC))
        return index

    async def _finish(self, entry_id: UUID, what: Erasures, tell: Tell) -> tuple[tuple[tuple[str, int], ...], int]:
        """Do what the newest entry says, as far as it is not done: keys, record, rows. Every step can be repeated."""
        periods = [p for p in await self._periods(ERASABLE, _LAST_MONTH) if what.of(*p) is not None]
        ring = await asyncio.to_thread(lambda: self._provider.keyring.read(fresh=True))
        rows = await self._log.fetch(_STATES, [p for p, _ in periods], [m for _, m in periods])
        left = [
            (r["part"], r["month"])
            for r in rows
            if r["openings"] or not r["recorded"] or Period("log_" + r["part"], r["month"]) not in ring.destroyed
        ]
        # From the entry, which role LOG wrote and has just read again: PostgreSQL lets role RETENTION erase no more.
        # Dying here: nothing is gone; the next run gives the same orders again.
        await self._log.execute(_ORDER, entry_id, [p for p, _ in left], [m for _, m in left])
        deleted = 0
        for part, month in left:
            period = Period("log_" + part, month)
            tell(f"destroying the key of {period}")
            await self._provider.destroy(period)
            # Dying here: the openings stand and open for nobody; the next run goes on from here.
            await self._hand.execute(_RECORD, entry_id, part, month)
            self._keys.forget([period])
            # Dying here, or between two of these: some rows stand that nobody can open; the next run deletes them.
            while part != TAGS:
                gone = await self._hand.fetchval(_DELETE, entry_id, part, month, BATCHES_AT_ONCE)
                deleted += gone
                if gone < BATCHES_AT_ONCE:
                    break
                tell(f"{deleted} groups deleted")
        return tuple(left), deleted
