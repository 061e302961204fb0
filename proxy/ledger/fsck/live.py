"""The live database, or a replica of it, under one snapshot: read only, nothing locked, writers go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.errors import KeysError, KeyUnavailable, SealError
from keys.provider import Period
from keys.sealing import Header, open_chunk, open_chunks, parse_header
from proxy.ledger import encoding, sql
from proxy.ledger.batch import part_class
from proxy.ledger.fsck.entries import KEY_GONE
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
from proxy.ledger.fsck.tags import TagSums, of_columns, of_table
from proxy.ledger.model import PARTS, Kind, LedgerBroken, OpenedEntry, month_of
from proxy.ledger.reader import open_rows
from proxy.ledger.retention import erasures
from proxy.ledger.tiles import HEIGHT, LEVEL_MAX, WIDTH

PAGE = 4 * WIDTH
"""Entries of a page."""
SMALL = 8 << 10
"""Sealed openings up to so many bytes are fetched with their page; larger ones by stretches of it."""
SPAN_BYTES = 32 << 20
"""Most bytes of large sealed openings that are in memory at once, unless a single group has more."""
_STRAYS_MAX = 20

_HEAD = "SELECT size, at FROM tollgate.log_head WHERE id = 1"
_ORIGINS = "SELECT epoch, origin, first_size, previous FROM tollgate.log_origin ORDER BY epoch"
_SIGNED = "SELECT max(size) FROM tollgate.log_checkpoint WHERE epoch = $1"
_ERASE = (
    "SELECT idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags FROM tollgate.log_entry"
    " WHERE kind = 'log.erase' ORDER BY idx DESC LIMIT 100"
)
_ENTRIES = (
    "SELECT idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags FROM tollgate.log_entry"
    " WHERE idx >= $1 AND idx < $2 ORDER BY idx"
)
_NEXT = "SELECT min(idx) FROM tollgate.log_entry WHERE idx >= $1"
_OPENINGS = (
    "SELECT part, month, batch_id, octet_length(sealed) AS length,"
    " CASE WHEN octet_length(sealed) <= $4 THEN sealed END AS sealed"
    " FROM tollgate.log_opening WHERE part = ANY($1::text[]) AND month = ANY($2::int[]) AND batch_id = ANY($3::uuid[])"
)
_TILES = """
SELECT level, idx, hashes, root FROM tollgate.log_tile WHERE level = 0 AND idx >= $1 AND idx < $2
UNION ALL
SELECT t.level, t.idx, t.hashes, t.root
FROM unnest($3::smallint[], $4::bigint[]) AS w (level, idx) JOIN tollgate.log_tile t USING (level, idx)
"""
_CHECKPOINTS = (
    "SELECT epoch, size, root, at, note FROM tollgate.log_checkpoint"
    " WHERE epoch = ANY($1::int[]) AND size > $2 AND size <= $3 ORDER BY size, epoch"
)
_COSIGNATURES = (
    "SELECT epoch, size, witness, line FROM tollgate.log_cosignature"
    " WHERE epoch = ANY($1::int[]) AND size > $2 AND size <= $3 ORDER BY size, epoch, witness"
)
_PAST = (
    "SELECT epoch, size FROM tollgate.log_checkpoint WHERE size > $1 OR NOT epoch = ANY($2::int[])"
    " ORDER BY size, epoch LIMIT $3"
)
_LONE = (
    "SELECT c.size, c.witness FROM tollgate.log_cosignature c LEFT JOIN tollgate.log_checkpoint p"
    " ON p.epoch = c.epoch AND p.size = c.size WHERE p.size IS NULL LIMIT $1"
)
_FAR = (
    "SELECT level, idx FROM tollgate.log_tile WHERE (idx + 1)::numeric * 256::numeric ^ (level + 1) > $1::bigint"
    " ORDER BY level, idx LIMIT $2"
)
_COUNT = "SELECT count(*) FROM tollgate.log_opening"
_ORPHANS = (
    "SELECT o.part, o.month FROM tollgate.log_opening o WHERE NOT EXISTS (SELECT FROM tollgate.log_entry e"
    " WHERE e.batch_id = o.batch_id AND to_char(e.at AT TIME ZONE 'UTC', 'YYYYMM')::int = o.month) LIMIT $1"
)
_TWICE = (
    "SELECT max(e.idx) AS idx FROM tollgate.log_entry e JOIN (SELECT entry_id FROM tollgate.log_entry"
    " GROUP BY entry_id HAVING count(*) > 1 LIMIT $1) d USING (entry_id) GROUP BY entry_id"
)
_TAGS = "SELECT tag, first, places FROM tollgate.log_tag"
_TAGS_AT = _TAGS + " WHERE first > $1::bigint - 65536 AND first < $2"
_COLUMNS_AT = "SELECT idx, tags FROM tollgate.log_entry WHERE idx >= $1 AND idx < $2 ORDER BY idx"

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
        self._groups = _Groups()
        secret = TagSums.new_key()
        self._secret = secret
        self._sums = TagSums(0, secret)

    async def facts(self) -> Facts:
        """Read what is said of the whole."""
        head = await self._conn.fetchrow(_HEAD)
        origins = tuple(
            StoredOrigin(r["epoch"], r["origin"], r["first_size"], r["previous"])
            for r in await self._conn.fetch(_ORIGINS)
        )
        signed = [await self._conn.fetchval(_SIGNED, each.epoch) or 0 for each in origins]
        facts = Facts(0, None, max(signed, default=0), origins, openings=self._keys is not None)
        if head is None:
            facts.findings.append(Finding(Where.HEAD, "the log has no head"))
        else:
            facts.size, facts.at = head["size"], head["at"]
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
        for row in await self._conn.fetch(_ERASE):
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
            rows = await self._conn.fetch(_ENTRIES, first, first + PAGE)
            if not rows:
                following = await self._conn.fetchval(_NEXT, first)
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
            _TILES, first // WIDTH, -(-last // WIDTH), [level for level, _ in above], [index for _, index in above]
        )
        return {(r["level"], r["idx"]): StoredTile(r["level"], r["idx"], r["hashes"], r["root"]) for r in rows}

    async def _checkpoints(self, epochs: list[int], after: int, last: int) -> list[StoredCheckpoint]:
        rows = await self._conn.fetch(_CHECKPOINTS, epochs, after, last)
        lines: dict[tuple[int, int], list[tuple[str, bytes]]] = {}
        if rows:
            for r in await self._conn.fetch(_COSIGNATURES, epochs, after, last):
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
        known = await self._conn.fetch(_OPENINGS, list(PARTS), months, list({r["batch_id"] for r in rows}), SMALL)
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
                sql.OPENINGS,
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
        for r in await self._conn.fetch(_PAST, facts.size, epochs, _STRAYS_MAX):
            if r["size"] > facts.size:
                what = f"a checkpoint of size {r['size']} stands, and the log has only {facts.size} entries"
                yield Finding(Where.CHECKPOINT, what, facts.size, r["size"] - 1)
            else:
                yield Finding(Where.CHECKPOINT, f"the checkpoint of size {r['size']} is of no origin that stands")
        for r in await self._conn.fetch(_LONE, _STRAYS_MAX):
            yield Finding(Where.COSIGNATURE, f"a cosignature for size {r['size']} stands without its checkpoint")
        for r in await self._conn.fetch(_FAR, facts.size, _STRAYS_MAX):
            yield Finding(Where.TILE, f"tile {r['level']}/{r['idx']} reaches past the log's end")
        for r in await self._conn.fetch(_TWICE, _STRAYS_MAX):
            yield Finding(Where.ENTRY, "an entry of the same id stands before it", r["idx"])
        if self._keys is not None and await self._conn.fetchval(_COUNT) != self._groups.openings:
            for r in await self._conn.fetch(_ORPHANS, _STRAYS_MAX):
                yield Finding(Where.OPENING, f"a sealed {r['part']} of month {r['month']} belongs to no entry")
        async for finding in self._tag_table(facts.size):
            yield finding

    async def _tag_table(self, size: int) -> AsyncIterator[Finding]:
        table = TagSums(size, self._secret)
        rows: list[asyncpg.Record] = []
        async for row in self._conn.cursor(_TAGS, prefetch=5000):
            rows.append(row)
            if len(rows) == 5000:
                await asyncio.to_thread(_take, table, rows)
                rows.clear()
        await asyncio.to_thread(_take, table, rows)
        if table.strays:
            yield Finding(Where.TAG, "the table of tags names entries that do not stand")
        for first, last in self._sums.differing(table)[:_STRAYS_MAX]:
            there, said = TagPairs(), TagPairs()
            for row in await self._conn.fetch(_COLUMNS_AT, first, last):
                there.add(*of_columns([row["idx"]], [row["tags"]]))
            for row in await self._conn.fetch(_TAGS_AT, first, last):
                said.add(*_of_rows([row]))
            for index in sorted({index for _, index in there.pairs ^ said.pairs if first <= index < last})[:5]:
                yield Finding(Where.TAG, "the table of tags does not say what the entry's own tags are", index)

    def opened(self, rows: Sequence[asyncpg.Record], blobs: _Blobs) -> Iterator[Line]:
        """Open a stretch of entries; runs in a thread."""
        groups: dict[UUID, list[asyncpg.Record]] = {}
        for row in rows:
            groups.setdefault(row["batch_id"], []).append(row)
        sealed: dict[UUID, list[tuple[str, int, bytes]]] = {}
        for (part, month, batch), blob in blobs.items():
            sealed.setdefault(batch, []).append((part, month, blob))
        self._sums.add(*of_columns([r["idx"] for r in rows], [r["tags"] for r in rows]))
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


def _take(sums: TagSums, rows: Sequence[asyncpg.Record]) -> None:
    sums.add(*_of_rows(rows))


def _of_rows(rows: Sequence[asyncpg.Record]) -> tuple[Any, Any]:
    even = [r for r in rows if len(r["places"]) % 2 == 0]
    return of_table([r["tag"] for r in even], [r["first"] for r in even], [r["places"] for r in even])


@dataclass
class TagPairs:
    """The pairs of one stretch, to be compared one by one."""

    pairs: set[tuple[int, int]] = field(default_factory=set)

    def add(self, tags: Any, indexes: Any) -> None:
        """Add pairs."""
        self.pairs |= set(zip(cast("list[int]", tags.tolist()), cast("list[int]", indexes.tolist()), strict=True))


class _Groups:
    """Entries that were written together stand together, each at its place in the group, none left out."""

    def __init__(self) -> None:
        self.openings = 0
        self.last = -1
        self._batch: UUID | None = None
        self._place = -1
        self._count: int | None = None
        self._recent: set[tuple[str, int, UUID]] = set()
        self._before: set[tuple[str, int, UUID]] = set()

    def saw(self, blob: tuple[str, int, UUID]) -> None:
        """Count a row of openings; a group on two pages is fetched twice."""
        if blob not in self._recent and blob not in self._before:
            self.openings += 1
            self._recent.add(blob)
            if len(self._recent) > 8192:
                self._before, self._recent = self._recent, set()

    def next(self, index: int, batch: UUID, place: int, count: int | None) -> str | None:
        """Take the next entry; return what is wrong with its place."""
        fault = None
        if batch == self._batch:
            if place != self._place + 1:
                fault = f"it is at place {place} of its group, after place {self._place}"
        else:
            fault = self.left()
            if fault is None and place != 0:
                fault = f"it is at place {place} of its group, and nothing of the group stands before it"
            self._count = count
        if count is not None and not 0 <= place < count:
            fault = "its group was sealed without it"
        self._batch, self._place, self.last = batch, place, index
        return fault

    def left(self) -> str | None:
        """Return what is wrong with the end of the last group."""
        if self._count is None or self._place + 1 == self._count:
            return None
        if self._count < 0:
            return "the openings of the group before it are not of one number"
        return f"the group before it was sealed with {self._count} entries, and ends after {self._place + 1}"


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
