"""The live database, or a replica of it, under one snapshot: read only, nothing locked, writers go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.errors import KeysError, KeyUnavailable, SealError
from keys.provider import Period
from keys.sealing import Header, open_chunk, open_chunks, parse_header
from proxy.ledger import encoding
from proxy.ledger.batch import part_class
from proxy.ledger.fsck import sql
from proxy.ledger.fsck.entries import KEY_GONE
from proxy.ledger.fsck.groups import Groups
from proxy.ledger.fsck.model import (
    Facts,
    Finding,
    Line,
    Lost,
    Opening,
    StoredCheckpoint,
    StoredOrigin,
    StoredTile,
    Where,
)
from proxy.ledger.fsck.tags import TagCounts, TagSums, of_columns, of_table, unordered
from proxy.ledger.model import PARTS, Kind, LedgerBroken, OpenedEntry, month_of
from proxy.ledger.reader import open_rows
from proxy.ledger.retention import erasures
from proxy.ledger.sql import OPENINGS as WHOLE_OPENINGS
from proxy.ledger.tiles import HEIGHT, LEVEL_MAX, WIDTH

PAGE = 4 * WIDTH
"""Entries of a page."""
SMALL = 8 << 10
"""Sealed openings up to so many bytes are fetched with their page; larger ones by stretches of it."""
SPAN_BYTES = 32 << 20
"""Most bytes of large sealed openings that are in memory at once, unless a single group has more."""
_STRAYS_MAX = 20

_Blobs = dict[tuple[str, int, UUID], bytes]


@contextlib.asynccontextmanager
async def live(conn: asyncpg.Connection, keys: DataKeys | None) -> AsyncIterator[Live]:
    """Give the log of a database as a source, under a snapshot that is taken now.

    Args:
        conn: a connection of role LOG, outside a transaction; to a primary or a replica.
        keys: the data keys; None: no opening is looked at.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        yield Live(conn, keys)


class Live:
    """A source; made by `live`."""

    def __init__(self, conn: asyncpg.Connection, keys: DataKeys | None) -> None:
        self._conn = conn
        self._keys = keys
        self._opened: dict[tuple[str, int], DataKey | Lost] = {}
        self._seen = 0
        self._groups = Groups()
        secret = TagSums.new_key()
        self._secret = secret
        self._sums = TagSums(0, secret)

    async def facts(self) -> Facts:
        """Read what is said of the whole."""
        head = await self._conn.fetchrow(sql.HEAD)
        origins = tuple(
            StoredOrigin(r["epoch"], r["origin"], r["first_size"], r["previous"])
            for r in await self._conn.fetch(sql.ORIGINS)
        )
        signed = [await self._conn.fetchval(sql.SIGNED, each.epoch) or 0 for each in origins]
        facts = Facts(0, None, max(signed, default=0), origins, openings=self._keys is not None)
        if head is None:
            facts.findings.append(Finding(Where.HEAD, "the log has no head"))
        else:
            facts.size, facts.at = head["size"], head["at"]
        facts.now = await self._conn.fetchval(sql.NOW)
        self._sums = TagSums(facts.size, self._secret)
        if self._keys is not None:
            erased = erasures(await self._erasing(self._keys))

            def policy(part: str, month: int) -> str | None:
                found = erased.of(part, month)
                return None if found is None else found.policy

            facts.erased = policy
        return facts

    async def _erasing(self, keys: DataKeys) -> OpenedEntry | None:
        """The newest log.erase entry that opens: it repeats all before it. One that does not is found in the walk."""
        for row in await self._conn.fetch(sql.ERASE):
            with contextlib.suppress(LedgerBroken, KeysError):
                (entry,) = await open_rows(self._conn, keys, [row])
                if entry.kind is Kind.LOG_ERASE and entry.request:
                    erasures(entry)
                    return entry
        return None

    async def pages(self, facts: Facts) -> AsyncIterator[_Page]:
        """Give the entries in order."""
        epochs = [each.epoch for each in facts.origins]
        first = before = 0
        while True:
            rows = await self._conn.fetch(sql.ENTRIES, first, first + PAGE)
            if not rows:
                following = await self._conn.fetchval(sql.NEXT, first)
                if following is None:
                    return
                first = following // PAGE * PAGE
                continue
            tiles = await self._tiles(first, first + PAGE)
            for span, blobs in await self._spans(rows):
                last = span[-1]["idx"] + 1
                checkpoints = await self._checkpoints(epochs, before, last)
                before = last
                yield _Page(first, tiles, checkpoints, span, await self._fetched(blobs), self)
            first += PAGE

    async def _tiles(self, first: int, last: int) -> dict[tuple[int, int], StoredTile]:
        above = [
            (level, last // (WIDTH << HEIGHT * level) - 1)
            for level in range(1, LEVEL_MAX + 1)
            if last // (WIDTH << HEIGHT * level) > first // (WIDTH << HEIGHT * level)
        ]
        rows = await self._conn.fetch(
            sql.TILES, first // WIDTH, -(-last // WIDTH), [level for level, _ in above], [index for _, index in above]
        )
        return {(r["level"], r["idx"]): StoredTile(r["level"], r["idx"], r["hashes"], r["root"]) for r in rows}

    async def _checkpoints(self, epochs: list[int], after: int, last: int) -> list[StoredCheckpoint]:
        rows = await self._conn.fetch(sql.CHECKPOINTS, epochs, after, last)
        lines: dict[tuple[int, int], list[tuple[str, bytes]]] = {}
        if rows:
            for r in await self._conn.fetch(sql.COSIGNATURES, epochs, after, last):
                lines.setdefault((r["epoch"], r["size"]), []).append((r["witness"], r["line"]))
        return [
            StoredCheckpoint(
                r["epoch"], r["size"], r["root"], r["at"], r["note"], tuple(lines.get((r["epoch"], r["size"]), ()))
            )
            for r in rows
        ]

    async def _spans(self, rows: list[asyncpg.Record]) -> list[tuple[list[asyncpg.Record], list[asyncpg.Record]]]:
        """Cut a page so that the sealed openings of each piece fit into memory: (rows, what is known of openings)."""
        if self._keys is None:
            return [(rows, [])]
        months = sorted({month_of(r["at"]) for r in rows})
        known = await self._conn.fetch(sql.OPENINGS, list(PARTS), months, list({r["batch_id"] for r in rows}), SMALL)
        of: dict[UUID, list[asyncpg.Record]] = {}
        for each in known:
            of.setdefault(each["batch_id"], []).append(each)
        spans: list[tuple[list[asyncpg.Record], list[asyncpg.Record]]] = []
        weight, batch = 0, None
        for row in rows:
            if row["batch_id"] != batch:
                batch = row["batch_id"]
                more = of.get(batch, [])
                heavy = sum(each["length"] for each in more if each["sealed"] is None)
                if not spans or (heavy and weight + heavy > SPAN_BYTES):
                    spans.append(([], []))
                    weight = 0
                weight += heavy
                spans[-1][1].extend(more)
            spans[-1][0].append(row)
        return spans

    async def _fetched(self, known: list[asyncpg.Record]) -> _Blobs:
        blobs: _Blobs = {(r["part"], r["month"], r["batch_id"]): r["sealed"] for r in known if r["sealed"] is not None}
        large = [r for r in known if r["sealed"] is None]
        if large:
            rows = await self._conn.fetch(
                WHOLE_OPENINGS,
                sorted({r["part"] for r in large}),
                sorted({r["month"] for r in large}),
                list({r["batch_id"] for r in large}),
            )
            blobs |= {(r["part"], r["month"], r["batch_id"]): r["sealed"] for r in rows}
        for part, month, _ in blobs:
            await self._key(part, month)
        return blobs

    async def _key(self, part: str, month: int) -> None:
        """Have a period's key ready. A destroyed period gives none; it must not hide the others."""
        if (part, month) in self._opened or self._keys is None:
            return
        period = Period(part_class(part), month)
        found: DataKey | Lost
        try:
            # Not in this snapshot: a key may be made, and this one is read by others too.
            found = (await self._keys.load(self._conn, [period])).get(period, Lost(KEY_GONE))
        except KeyUnavailable:
            found = Lost(KEY_GONE)
        except KeysError:
            found = Lost("has a key in the database that somebody changed")
        self._opened[part, month] = found

    async def strays(self, facts: Facts) -> AsyncIterator[Finding]:
        """Give what the walk did not lead to."""
        epochs = [each.epoch for each in facts.origins]
        if (left := self._groups.left()) is not None:
            yield Finding(Where.ENTRY, left, self._groups.last + 1, self._groups.last + 1)
        for r in await self._conn.fetch(sql.PAST, facts.size, epochs, _STRAYS_MAX):
            if r["size"] > facts.size:
                what = f"a checkpoint of size {r['size']} stands, and the log has only {facts.size} entries"
                yield Finding(Where.CHECKPOINT, what, facts.size, r["size"] - 1)
            else:
                yield Finding(Where.CHECKPOINT, f"the checkpoint of size {r['size']} is of no origin that stands")
        for r in await self._conn.fetch(sql.LONE, _STRAYS_MAX):
            yield Finding(Where.COSIGNATURE, f"a cosignature for size {r['size']} stands without its checkpoint")
        for r in await self._conn.fetch(sql.FAR, facts.size, _STRAYS_MAX):
            yield Finding(Where.TILE, f"tile {r['level']}/{r['idx']} reaches past the log's end")
        for r in await self._conn.fetch(sql.TWICE, _STRAYS_MAX):
            yield Finding(Where.ENTRY, "an entry of the same id stands before it", r["idx"])
        if self._keys is not None and await self._conn.fetchval(sql.COUNT) != self._groups.openings:
            for r in await self._conn.fetch(sql.ORPHANS, _STRAYS_MAX):
                yield Finding(Where.OPENING, f"a sealed {r['part']} of month {r['month']} belongs to no entry")
        async for finding in self._tag_table(facts.size):
            yield finding

    async def _tag_table(self, size: int) -> AsyncIterator[Finding]:
        table = TagSums(size, self._secret)
        rows: list[asyncpg.Record] = []
        shuffled: list[int] = []
        async for row in self._conn.cursor(sql.TAGS, prefetch=5000):
            rows.append(row)
            if len(rows) == 5000:
                shuffled = sorted(shuffled + await asyncio.to_thread(_take, table, rows))[:_STRAYS_MAX]
                rows.clear()
        shuffled = sorted(shuffled + await asyncio.to_thread(_take, table, rows))[:_STRAYS_MAX]
        for index in shuffled:
            yield Finding(Where.TAG, "the table of tags names its group's places out of order or twice", index)
        if table.strays:
            yield Finding(Where.TAG, "the table of tags names entries that do not stand")
        for first, last in self._sums.differing(table)[:_STRAYS_MAX]:
            there, said = TagCounts(), TagCounts()
            for row in await self._conn.fetch(sql.COLUMNS_AT, first, last):
                there.add(*of_columns([row["idx"]], [row["batch_pos"]], [row["tags"]]))
            for row in await self._conn.fetch(sql.TAGS_AT, first, last):
                said.add(*_of_rows([row]))
            wrong = sorted(index for index in there.differing(said) if first <= index < last)
            for index in wrong[:5]:
                what = "the table of tags does not say what the entry's own tags are, once and in its group's row"
                yield Finding(Where.TAG, what, index)
            if not wrong:
                yield Finding(Where.TAG, "the table of tags is not that of these entries", first, min(last, size) - 1)

    def opened(self, rows: Sequence[asyncpg.Record], blobs: _Blobs) -> Iterator[Line]:
        """Open a stretch of entries; runs in a thread."""
        groups: dict[UUID, list[asyncpg.Record]] = {}
        for row in rows:
            groups.setdefault(row["batch_id"], []).append(row)
        sealed: dict[UUID, list[tuple[str, int, bytes]]] = {}
        for (part, month, batch), blob in blobs.items():
            sealed.setdefault(batch, []).append((part, month, blob))
        columns = [r["tags"] for r in rows]
        self._sums.add(*of_columns([r["idx"] for r in rows], [r["batch_pos"] for r in rows], columns))
        opened = {batch: self._group(batch, own, sealed.get(batch, ())) for batch, own in groups.items()}
        looked = self._keys is not None
        for row in rows:  # in the order in which they stand, whatever groups they say they are of
            index, batch, place = row["idx"], row["batch_id"], row["batch_pos"]
            count, found = opened[batch]
            fault = self._groups.next(index, batch, place, count)
            yield Line(
                index,
                row["header"],
                row["tags"],
                row["leaf_hash"],
                (row["entry_id"], row["kind"], row["at"], row["access_id"]),
                found[place] if looked else None,
                () if fault is None else (fault,),
            )

    def _group(
        self, batch: UUID, rows: Sequence[asyncpg.Record], sealed: Iterable[tuple[str, int, bytes]]
    ) -> tuple[int | None, dict[int, dict[str, Opening]]]:
        """Return how many entries a group was sealed with (-1: its parts disagree), and the openings by place."""
        places = [row["batch_pos"] for row in rows]
        found: dict[int, dict[str, Opening]] = {place: {} for place in places}
        count: int | None = None
        for part, month, blob in sealed:
            if month_of(rows[0]["at"]) != month:
                continue  # of another month than its entries: an orphan, which is looked for at the end
            self._groups.saw((part, month, batch))
            chunks, opened = self._chunks(part, month, batch, blob, places)
            count = chunks if count is None or count == chunks else -1
            for place, data in opened:
                found[place][part] = data
        return count, found

    def _chunks(
        self, part: str, month: int, batch: UUID, blob: bytes, places: list[int]
    ) -> tuple[int, Iterable[tuple[int, Opening]]]:
        """Return how many chunks there are, and of the places asked for what is in them."""
        key = self._opened[part, month]
        try:
            header = parse_header(blob)
            whole = header.blob_length == len(blob)
        except SealError:
            return 0, [(place, Lost("stands sealed and cannot be read")) for place in places]
        count = len(header.ends)
        if isinstance(key, Lost):
            return count, [(place, key) for place in places]
        inside = [place for place in places if 0 <= place < count] if whole else []
        opened: dict[int, Opening] = {}
        if len(inside) != len(places):
            opened = dict.fromkeys(places, Lost("stands sealed and does not open"))
        opened.update(_open(key, header, blob, inside, encoding.sealing_aad(part, month, batch)))
        return count, opened.items()


def _open(key: DataKey, header: Header, blob: bytes, places: list[int], aad: bytes) -> Iterable[tuple[int, Opening]]:
    view, start, ends = memoryview(blob), header.length, (0, *header.ends)
    sealed = [(place, view[start + ends[place] : start + ends[place + 1]]) for place in places]
    try:
        return list(zip(places, open_chunks(key, header, sealed, aad), strict=True))
    except SealError:
        pass
    opened: dict[int, Opening] = dict.fromkeys(places, Lost("stands sealed and does not open"))
    for place, piece in sealed:  # one of them at least does not open: which?
        with contextlib.suppress(SealError):
            opened[place] = open_chunk(key, header, place, piece, aad)
    return opened.items()


def _take(sums: TagSums, rows: Sequence[asyncpg.Record]) -> list[int]:
    """Add rows of the table; return the first indexes of those whose places are out of order."""
    sums.add(*_of_rows(rows))
    return [rows[n]["first"] for n in unordered([r["places"][: len(r["places"]) // 2 * 2] for r in rows])]


def _of_rows(rows: Sequence[asyncpg.Record]) -> tuple[Any, Any, Any]:
    even = [r for r in rows if len(r["places"]) % 2 == 0]
    return of_table([r["tag"] for r in even], [r["first"] for r in even], [r["places"] for r in even])


@dataclass
class _Page:
    """A stretch of the live log."""

    first: int
    tiles: Mapping[tuple[int, int], StoredTile]
    checkpoints: Sequence[StoredCheckpoint]
    rows: Sequence[asyncpg.Record]
    blobs: _Blobs
    source: Live

    def lines(self) -> Iterator[Line]:
        """The entries, opened."""
        return self.source.opened(self.rows, self.blobs)
