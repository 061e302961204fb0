"""Searching the log: who, purpose, case, decision, time, a number by its tag; over entries, never over records.

What can be said by tag is looked up by tag (nothing else is opened); the rest is matched on what was opened and checked
against its commitments. All that is asked must hold. A search is a look at the log: whoever runs it appends `looking`
first and shows nothing before that is durable. A search that cannot see a month, or an entry, says so in `Seen`.
Entries of secret cases are found by the legal desk alone (`withheld.py`), and nothing says that they are not shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.errors import KeyUnavailable
from keys.provider import Period
from proxy.ledger import encoding, sql, tagged
from proxy.ledger.batch import TAG_CLASS
from proxy.ledger.model import JSON, Entry, EntryError, Kind, OpenedEntry, Tag, month_of, timestamp
from proxy.ledger.reader import open_rows
from proxy.ledger.withheld import Withheld

PAGE = 500
"""Entries of one statement."""

SCAN_MAX = 200_000
"""Most entries that one search opens; it then says where to go on."""

_RARE_FIRST = (
    "exposure", "number", "token", "thousands_block", "case", "exchange", "jkt", "ingest", "address", "client", "staff"
)  # fmt: skip

_NUMBERS = frozenset({"number", "thousands_block", "exchange"})

_ENDS = (
    "SELECT (SELECT at FROM tollgate.log_entry WHERE idx = $1) AS first,"
    " (SELECT at FROM tollgate.log_entry WHERE idx = $2) AS last"
)


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for; whatever is not None or empty must hold.

    Attributes:
        tags: all of them are borne by the entry (client, staff, jkt, token, address; case; number, block, exchange).
        kinds: its kind is one of these.
        purpose: its request names this purpose.
        decision: its request names this decision, ``permit`` or ``deny``.
        access_id: it belongs to this access.
        first: not before this time, aware.
        last: before this time, aware.
        after: its index is greater.
        limit: most entries that are returned.
        page: entries that are opened at once (default PAGE); fewer where each may name many records.
    """

    tags: tuple[Tag, ...] = ()
    kinds: tuple[Kind, ...] = ()
    purpose: str | None = None
    decision: str | None = None
    access_id: UUID | None = None
    first: datetime | None = None
    last: datetime | None = None
    after: int = -1
    limit: int = 100
    page: int | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise EntryError("a search returns at least one entry")
        if any(at is not None and at.tzinfo is None for at in (self.first, self.last)):
            raise EntryError("a time needs its zone")

    def as_json(self) -> dict[str, Any]:
        """Return it for the log's entry of the search: numbers stand sealed there."""
        value: dict[str, Any] = {"limit": self.limit}
        if self.tags:
            value["tags"] = [[tag.domain, tag.value.decode("utf-8", "backslashreplace")] for tag in self.tags]
        if self.kinds:
            value["kinds"] = [kind.value for kind in self.kinds]
        value |= {name: text for name in ("purpose", "decision") if (text := getattr(self, name)) is not None}
        if self.access_id is not None:
            value["access_id"] = str(self.access_id)
        value |= {name: timestamp(at) for name in ("first", "last") if (at := getattr(self, name)) is not None}
        if self.after >= 0:
            value["after"] = self.after
        return value


@dataclass(slots=True)
class Seen:
    """How far a search has seen; filled while it runs.

    Attributes:
        looked_at: entries opened or held against the tags.
        erased: entries whose request is erased, so that purpose or decision could not be held against them.
        blind: months (yyyymm) in which tags cannot be looked up: their key is destroyed or not here.
        next_after: where to go on, if there may be more; None at the end.
    """

    looked_at: int = 0
    erased: int = 0
    blind: list[int] = field(default_factory=list)
    next_after: int | None = None


class _Page(NamedTuple):
    """Entries that may match, of ``looked_at`` that were looked at up to the index ``reached``."""

    rows: Sequence[Mapping[str, Any]]
    looked_at: int
    reached: int


def looking(query: Query, who: str, reason: str) -> Entry:
    """Return the entry of a search, to be durable before anything of it is shown.

    It can be found by who searched and, where a number or a case was searched for, by that: who asks the log about a
    number has asked about the number.
    """
    return looking_as(query, {"os_user": who}, (Tag("staff", who.encode()),), reason)


def looking_as(query: Query, actor: Mapping[str, JSON], tags: Sequence[Tag], reason: str) -> Entry:
    """Return the entry of a search by a member of staff who is signed in, as :func:`looking`."""
    asked = tuple(tag for tag in query.tags if tag.domain in _NUMBERS or tag.domain == "case")
    request: dict[str, Any] = {"purpose": "log", "what": "search", "reason": reason, "asked": query.as_json()}
    return Entry(Kind.LOG_READ, actor=actor, request=request, tags=tuple(dict.fromkeys((*tags, *asked))))


class Search:
    """Reads the log by query.

    Args:
        pool: connections of role LOG.
        keys: the data keys.
        desk: find also what is known to the legal desk alone.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys, *, desk: bool = False) -> None:
        self._pool = pool
        self._keys = keys
        self._desk = desk

    async def run(self, query: Query, seen: Seen | None = None) -> AsyncGenerator[OpenedEntry, None]:
        """Give the entries that match, in order, at most ``query.limit``; memory is bounded by one page.

        Raises:
            LedgerBroken: if an entry is not what it commits to.
        """
        seen = seen if seen is not None else Seen()
        left = query.limit
        async with self._pool.acquire() as conn:
            withheld = Withheld(self._keys, None) if self._desk else await Withheld.of(conn, self._keys)
            async for page in self._pages(conn, query, seen):
                rows = [row for row in page.rows if not query.kinds or row["kind"] in query.kinds]
                for entry in await open_rows(conn, self._keys, await withheld.rows(conn, rows)):
                    if not withheld.shows(entry) or not _matches(entry, query, seen):
                        continue
                    yield entry
                    left -= 1
                    if not left:
                        seen.next_after = entry.index
                        return
                seen.looked_at += page.looked_at
                if seen.looked_at >= SCAN_MAX:
                    seen.next_after = page.reached
                    return

    async def _pages(self, conn: asyncpg.Connection, query: Query, seen: Seen) -> AsyncIterator[_Page]:
        low = query.after
        if query.first is not None:
            low = max(low, await conn.fetchval(sql.FIRST_AT, query.first) - 1)
        if query.last is None:
            high = (await conn.fetchrow(sql.PEEK))["size"]
        else:
            high = await conn.fetchval(sql.FIRST_AT, query.last)
        if query.access_id is not None:
            pages = self._access(conn, query, low, high, seen)
        elif query.tags:
            pages = self._tagged(conn, query, low, high, seen)
        else:
            pages = self._all(conn, query, low, high)
        async for page in pages:
            yield page

    async def _access(
        self, conn: asyncpg.Connection, query: Query, low: int, high: int, seen: Seen
    ) -> AsyncIterator[_Page]:
        found = [r for r in await conn.fetch(sql.READ_ACCESS, query.access_id) if low < r["idx"] < high]
        if found:
            columns = await self._columns(conn, {month_of(row["at"]) for row in found}, query.tags, seen)
            yield _Page([row for row in found if _bears(row, columns)], len(found), found[-1]["idx"])

    async def _all(self, conn: asyncpg.Connection, query: Query, low: int, high: int) -> AsyncIterator[_Page]:
        kinds = [kind.value for kind in query.kinds] or None
        while rows := [row for row in await conn.fetch(sql.READ, low, query.page or PAGE, kinds) if row["idx"] < high]:
            low = rows[-1]["idx"]
            yield _Page(rows, len(rows), low)

    async def _tagged(
        self, conn: asyncpg.Connection, query: Query, low: int, high: int, seen: Seen
    ) -> AsyncIterator[_Page]:
        """Look the rarest tag up, month by month, and hold the others against the entries' own tags."""
        rarest = min(range(len(query.tags)), key=lambda i: _RARE_FIRST.index(query.tags[i].domain))
        for month in await self._months(conn, low, high):
            columns = await self._columns(conn, [month], query.tags, seen)
            if month not in columns:
                continue
            (value,) = encoding.tag_keys(columns[month][rarest])
            end = min(high, await conn.fetchval(sql.FIRST_AT, _start(_next(month))))
            # A month's tags stand in no other month.
            low = max(low, await conn.fetchval(sql.FIRST_AT, _start(month)) - 1)
            async for found in tagged.pages(conn, value, low, end, query.page or PAGE):
                low = found[-1]
                rows = await conn.fetch(sql.READ_AT, found)
                yield _Page([row for row in rows if _bears(row, columns)], len(rows), low)

    async def _months(self, conn: asyncpg.Connection, low: int, high: int) -> list[int]:
        """Return the months of the entries after ``low`` and before ``high``."""
        ends = await conn.fetchrow(_ENDS, low + 1, high - 1)
        if ends["first"] is None or ends["last"] is None:
            return []
        months, month = [], month_of(ends["first"])
        while month <= month_of(ends["last"]):
            months.append(month)
            month = _next(month)
        return months

    async def _columns(
        self, conn: asyncpg.Connection, months: Iterable[int], tags: Sequence[Tag], seen: Seen
    ) -> dict[int, list[bytes]]:
        """Return, for each month, the tags as its entries bear them (9 bytes each); say which months are blind."""
        if not tags:
            return {month: [] for month in months}
        columns = {}
        for month in sorted(months):
            if (key := await self._tag_key(conn, month)) is None:
                seen.blind.append(month)
            else:
                columns[month] = [encoding.tag_column(key.secret, [tag]) for tag in tags]
        return columns

    async def _tag_key(self, conn: asyncpg.Connection, month: int) -> DataKey | None:
        period = Period(TAG_CLASS, month)
        try:
            return (await self._keys.load(conn, [period])).get(period)
        except KeyUnavailable:
            return None


def _bears(row: Mapping[str, Any], columns: Mapping[int, Sequence[bytes]]) -> bool:
    wanted = columns.get(month_of(row["at"]))
    if wanted is None:
        return False
    stored = bytes(row["tags"])
    size = encoding.TAG_BYTES
    borne = {stored[i : i + size] for i in range(0, len(stored), size)}
    return borne.issuperset(wanted)


def _matches(entry: OpenedEntry, query: Query, seen: Seen) -> bool:
    for name in ("purpose", "decision"):
        if (wanted := getattr(query, name)) is None:
            continue
        if entry.request is None:
            seen.erased += 1
            return False
        if entry.request.get(name) != wanted:
            return False
    return True


def _next(month: int) -> int:
    return month + 1 if month % 100 < 12 else month + 89


def _start(month: int) -> datetime:
    return datetime(month // 100, month % 100, 1, tzinfo=UTC)
