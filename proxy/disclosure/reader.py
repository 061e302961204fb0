"""Reading records out of the store, within a scope that a permit has fixed.

Everything here runs as the role ``tollgate_billing`` under row-level security: the permit's OCNs and months are set for
each transaction, so a wrong predicate in this file still finds no other carrier's batch. A class that the scope does
not reach is not selected and not decrypted.

Answers are ordered by (month, pair, record id). Rolling keeps that order while it replaces batches: a reader lists the
batches of a month, fetches a few at a time by id, and lists again from its position when one has gone. No connection
is held while a consumer is slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Protocol, TypeVar

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from keys.sealing import HEADER_PREFIX_MAX, parse_header
from proxy.disclosure.scope import SIDES, Position, RowBlock, Scope
from proxy.store import tags
from proxy.store.batches import BATCHES_PER_RUN, CHUNKS_PER_BATCH, LEGS, SHARED, Shape
from proxy.store.opening import ClassKeys, open_chunk_of, open_class
from schema.fields import DisclosureClass, Kind, fields_of, ocn_code

T = TypeVar("T")

BATCHES_AT_ONCE: Final = 4
"""Batches of one piece: at most 32,768 records in memory."""
CHUNKS_AT_ONCE: Final = 64
"""Chunks that a look-up opens in one piece."""

RELISTS: Final = 50
"""A batch that stays gone so often was not rolled away: something is wrong with the store."""


class StoreChangingError(Exception):
    """A batch that is listed cannot be fetched; ``tollgate store check`` says what is wrong."""


_NUMBER_COLUMNS: Final = [f.name for f in fields_of(DisclosureClass.PARTIES) if f.kind is Kind.NUMBER]
_CLEAR: Final = """b.batch_id, b.pair_id, b.rows, b.first_record_id, b.last_record_id, b.first_start, b.last_start,
    b.format, b.classes, l.side, l.ocn"""
_FROM: Final = "FROM tollgate.batch_leg l JOIN tollgate.batch b ON b.month = l.month AND b.batch_id = l.batch_id"
_OWN: Final = "l.month = $1 AND l.ocn = ANY ($2) AND l.side = ANY ($3)"
_LIST: Final = f"""
SELECT b.batch_id, b.pair_id, b.last_record_id {_FROM}
WHERE {_OWN} AND (l.pair_id > $4 OR (l.pair_id = $4 AND l.last_record_id > $5))
    AND b.first_start < $7 AND b.last_start >= $6 AND b.last_record_id > $8 AND b.first_record_id <= $9
"""


@dataclass(slots=True)
class _Batch:
    """A batch as far as it was fetched: whole ciphertexts, or the first bytes of them."""

    shape: Shape
    own: dict[int, int] = field(default_factory=dict)
    """Side → OCN code, of the sides that are the peer's own and asked for."""
    blobs: dict[DisclosureClass, bytes] = field(default_factory=dict)

    def ocn(self, cls: DisclosureClass) -> int:
        """The OCN that a class is bound to."""
        return next((self.own[side] for side, leg in LEGS.items() if leg is cls), 0)


@dataclass(frozen=True, slots=True)
class _Listed:
    batch_id: int
    pair_id: int
    last_record_id: int


class _Source(Protocol):
    """Where the pieces of a month come from: whole batches, or the chunks in which a number stands."""

    async def listed(self, position: Position) -> list[_Listed]: ...

    async def piece(self, month: int, group: Sequence[_Listed], position: Position) -> pa.Table | None: ...

    def group(self, todo: Sequence[_Listed]) -> Sequence[_Listed]: ...


class StoreReader:
    """Streams and looks up records for one gateway."""

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys, executor: Executor) -> None:
        """Use a pool of the billing role; open and encode in ``executor``."""
        self._pool = pool
        self._keys = keys
        self._executor = executor

    async def complete_to(self) -> int:
        """Return the store sequence up to which every record can be read."""
        return int(await self._pool.fetchval("SELECT tollgate.complete_to()"))

    def stream(
        self, scope: Scope, after: Position | None, work: Callable[[RowBlock], T], limit: int | None = None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """Yield what ``work`` makes of each piece, its number of records, and the position after it.

        ``work`` runs in the executor. No piece is empty. At most ``limit`` records are read out in all.
        """
        return self._drive(scope, after, work, limit, _Whole(self, scope))

    def search(
        self, scope: Scope, number: str, after: Position | None, work: Callable[[RowBlock], T], limit: int | None = None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """Like :meth:`stream`, for the records in which ``number`` stands in a party field.

        Args:
            number: ``+`` and E.164 digits, or raw text as it stands in the record.

        Raises:
            ValueError: if the scope does not reach the parties: a search would then tell what it may not.
        """
        if DisclosureClass.PARTIES not in scope.classes:
            raise ValueError("a search needs the parties class")
        return self._drive(scope, after, work, limit, _Lookup(self, scope, number))

    async def _drive(
        self,
        scope: Scope,
        after: Position | None,
        work: Callable[[RowBlock], T],
        limit: int | None,
        source: _Source,
    ) -> AsyncIterator[tuple[T, int, Position]]:
        left = limit
        for month in scope.months():
            if after is not None and month < after.month:
                continue
            start = after if after is not None and after.month == month else Position(month, 0, 0)
            async for block, position in _pieces(source, start):
                if left is not None and block.rows > left:
                    block = block.slice(0, left)
                    position = Position(month, position.pair_id, int(block.record_ids[-1]))
                yield await self.run(work, block), block.rows, position
                if left is not None:
                    left -= block.rows
                    if left <= 0:
                        return

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Run ``work`` in the executor."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    async def class_keys(self, scope: Scope, month: int) -> dict[DisclosureClass, DataKey]:
        """Return the data keys of the scope's classes; a class whose period is gone is absent."""
        wanted = scope.classes | {DisclosureClass.TIMING} | {LEGS[SIDES[s]] for s in scope.sides}
        found = await self.keys_of([Period(c.value, month) for c in wanted])
        return {DisclosureClass(p.key_class): key for p, key in found.items()}

    async def keys_of(self, periods: Sequence[Period]) -> dict[Period, DataKey]:
        """Return data keys, from the cache where it has them all."""
        cached = {p: key for p in periods if (key := self._keys.cached(p)) is not None}
        if len(cached) == len(periods):
            return cached
        async with self._pool.acquire() as conn:
            return await self._keys.load(conn, periods)

    @asynccontextmanager
    async def permitted(self, scope: Scope, months: Iterable[int]) -> AsyncIterator[asyncpg.Connection]:
        """A transaction in which row-level security opens the scope's OCNs and these months, and nothing else."""
        months = list(months)
        async with self._pool.acquire() as conn, conn.transaction(readonly=True):
            await conn.execute(
                "SELECT set_config('tollgate.ocns', $1, true), set_config('tollgate.first_month', $2, true),"
                " set_config('tollgate.last_month', $3, true)",
                "{" + ",".join(str(ocn_code(o)) for o in scope.ocns) + "}",
                str(min(months)),
                str(max(months)),
            )
            yield conn


async def _pieces(source: _Source, position: Position) -> AsyncIterator[tuple[RowBlock, Position]]:
    todo = await source.listed(position)
    relisted = 0
    while todo:
        group = source.group(todo)
        table = await source.piece(position.month, group, position)
        if table is None:  # a roll has replaced a batch: list again from here
            relisted += 1
            if relisted > RELISTS:
                raise StoreChangingError
            todo = await source.listed(position)
            continue
        relisted = 0
        todo = todo[len(group) :]
        position = Position(position.month, group[-1].pair_id, group[-1].last_record_id)
        if table.num_rows:
            yield RowBlock(table), position


def _own(scope: Scope, month: int) -> tuple[int, list[int], list[int]]:
    return month, [ocn_code(o) for o in scope.ocns], [SIDES[s] for s in scope.sides]


def _distinct(rows: Iterable[asyncpg.Record]) -> list[_Listed]:
    """A batch whose both sides are the peer's own comes twice."""
    found = {r["batch_id"]: _Listed(r["batch_id"], r["pair_id"], r["last_record_id"]) for r in rows}
    return sorted(found.values(), key=lambda b: (b.pair_id, b.last_record_id))


def _shared(scope: Scope) -> list[DisclosureClass]:
    return [c for c in SHARED if c in scope.classes or c is DisclosureClass.TIMING]


def _batches(month: int, rows: Iterable[asyncpg.Record], shared: Sequence[DisclosureClass]) -> dict[int, _Batch]:
    out: dict[int, _Batch] = {}
    for r in rows:
        shape = Shape(
            month=month,
            object_id=r["batch_id"],
            rows=r["rows"],
            first_record_id=r["first_record_id"],
            last_record_id=r["last_record_id"],
            first_start=r["first_start"],
            last_start=r["last_start"],
            classes=r["classes"],
            format=r["format"],
            pair_id=r["pair_id"],
        )
        batch = out.setdefault(r["batch_id"], _Batch(shape))
        batch.own[r["side"]] = r["ocn"]
        batch.blobs[LEGS[r["side"]]] = r["leg"]
        batch.blobs.update((c, r[c.value]) for c in shared if r[c.value] is not None)
    return out


class _Whole:
    """Whole batches of the scope."""

    def __init__(self, reader: StoreReader, scope: Scope) -> None:
        self._reader = reader
        self._scope = scope

    async def listed(self, position: Position) -> list[_Listed]:
        scope = self._scope
        async with self._reader.permitted(scope, [position.month]) as conn:
            rows = await conn.fetch(
                _LIST,
                *_own(scope, position.month),
                position.pair_id,
                position.record_id,
                scope.start_us,
                scope.end_us,
                scope.after_id,
                scope.as_of,
            )
        return _distinct(rows)

    def group(self, todo: Sequence[_Listed]) -> Sequence[_Listed]:
        return todo[:BATCHES_AT_ONCE]

    async def piece(self, month: int, group: Sequence[_Listed], position: Position) -> pa.Table | None:
        shared = _shared(self._scope)
        columns = ", ".join(f"b.{c.value}" for c in shared)
        async with self._reader.permitted(self._scope, [month]) as conn:
            rows = await conn.fetch(
                f"SELECT {_CLEAR}, l.sealed AS leg, {columns} {_FROM} WHERE {_OWN} AND l.batch_id = ANY ($4)",
                *_own(self._scope, month),
                [b.batch_id for b in group],
            )
        found = _batches(month, rows, shared)
        if len(found) != len(group):
            return None
        keys = await self._reader.class_keys(self._scope, month)
        return await self._reader.run(_open_batches, self._scope, [found[b.batch_id] for b in group], keys, position)


class _Lookup:
    """The chunks in which a number's tag stands."""

    def __init__(self, reader: StoreReader, scope: Scope, number: str) -> None:
        self._reader = reader
        self._scope = scope
        self._number = number
        self._chunks: dict[int, dict[int, list[int]]] | None = None
        self._current: dict[int, list[int]] = {}

    async def listed(self, position: Position) -> list[_Listed]:
        scope = self._scope
        if self._chunks is None:
            self._chunks = await self._hits(scope.months())
        elif position.record_id or position.month not in self._chunks:  # listing again: a roll has moved things
            self._chunks.update(await self._hits([position.month]))
        self._current = self._chunks.get(position.month, {})
        if not self._current:
            return []
        async with self._reader.permitted(scope, [position.month]) as conn:
            rows = await conn.fetch(
                _LIST + " AND l.batch_id = ANY ($10)",
                *_own(scope, position.month),
                position.pair_id,
                position.record_id,
                scope.start_us,
                scope.end_us,
                scope.after_id,
                scope.as_of,
                list(self._current),
            )
        return _distinct(rows)

    async def _hits(self, months: Sequence[int]) -> dict[int, dict[int, list[int]]]:
        """Return month → batch id → chunks under the number's tag."""
        scope = self._scope
        keys = {
            p.month: k for p, k in (await self._reader.keys_of([Period(tags.KEY_CLASS, m) for m in months])).items()
        }
        if not keys:
            return {}
        wanted = {m: tags.Tagger(k).number(self._number) for m, k in keys.items()}
        async with self._reader.permitted(scope, months) as conn:
            runs = await conn.fetch(
                "SELECT month, run_id, tag_bits FROM tollgate.run WHERE month = ANY ($1) AND level > 0"
                " AND last_record_id > $2 AND first_record_id <= $3",
                list(wanted),
                scope.after_id,
                scope.as_of,
            )
            rows = await conn.fetch(
                "SELECT t.month, t.run_id, t.bucket, t.entries, t.sealed FROM tollgate.tag_segment t"
                " JOIN unnest($1::int[], $2::bigint[], $3::int[]) w(month, run_id, bucket)"
                " ON t.month = w.month AND t.run_id = w.run_id AND t.bucket = w.bucket WHERE t.month = ANY ($4)",
                [r["month"] for r in runs],
                [r["run_id"] for r in runs],
                [tags.bucket_of(wanted[r["month"]], r["tag_bits"]) for r in runs],
                list(wanted),
            )
        return await self._reader.run(_references, rows, wanted, keys)

    def group(self, todo: Sequence[_Listed]) -> Sequence[_Listed]:
        counts = accumulate(len(self._current[b.batch_id]) for b in todo)
        return todo[: 1 + sum(1 for count in counts if count < CHUNKS_AT_ONCE)]

    async def piece(self, month: int, group: Sequence[_Listed], position: Position) -> pa.Table | None:
        shared = _shared(self._scope)
        wanted = [(b.batch_id, chunk) for b in group for chunk in sorted(self._current[b.batch_id])]
        heads = ", ".join(f"substring(b.{c.value} from 1 for {HEADER_PREFIX_MAX}) AS {c.value}" for c in shared)
        async with self._reader.permitted(self._scope, [month]) as conn:
            rows = await conn.fetch(
                f"SELECT {_CLEAR}, substring(l.sealed from 1 for {HEADER_PREFIX_MAX}) AS leg, {heads} {_FROM}"
                f" WHERE {_OWN} AND l.batch_id = ANY ($4)",
                *_own(self._scope, month),
                [b.batch_id for b in group],
            )
            found = _batches(month, rows, shared)
            if len(found) != len(group):
                return None
            pieces = await _fetch_chunks(conn, self._scope, month, found, wanted, shared)
        if pieces is None:
            return None
        keys = await self._reader.class_keys(self._scope, month)
        return await self._reader.run(_open_pieces, self._scope, pieces, keys, position, self._number)


@dataclass(slots=True)
class _Piece:
    """One chunk of a batch: its ciphertext in each class."""

    batch: _Batch
    chunk: int
    sealed: dict[DisclosureClass, bytes] = field(default_factory=dict)


async def _fetch_chunks(
    conn: asyncpg.Connection,
    scope: Scope,
    month: int,
    found: dict[int, _Batch],
    wanted: Sequence[tuple[int, int]],
    shared: Sequence[DisclosureClass],
) -> list[_Piece] | None:
    """Fetch only the bytes of the wanted chunks (``substring`` of an EXTERNAL column reads only their pages)."""
    spans: list[list[int | None]] = []
    for batch_id, chunk in wanted:
        batch = found[batch_id]
        for side in batch.own:
            row: list[int | None] = [batch_id, side, chunk]
            for cls in (*shared, LEGS[side]):
                blob = batch.blobs.get(cls)
                start, length = parse_header(blob).span(chunk) if blob is not None else (None, None)
                row += [None if start is None else start + 1, length]
            spans.append(row)
    names = [c.value for c in shared]
    columns = ", ".join(f"substring(b.{n} from w.{n}_at for w.{n}_n) AS {n}" for n in names)
    shape = ", ".join(["batch_id", "side", "chunk", *(f"{n}_at, {n}_n" for n in names), "leg_at, leg_n"])
    types = ["bigint", "smallint", "int", *(["int"] * (2 * len(names) + 2))]
    arrays = ", ".join(f"${i + 4}::{t}[]" for i, t in enumerate(types))
    rows = await conn.fetch(
        f"SELECT w.batch_id, w.side, w.chunk, substring(l.sealed from w.leg_at for w.leg_n) AS leg, {columns}"
        f" {_FROM} JOIN unnest({arrays}) w({shape}) ON w.batch_id = l.batch_id AND w.side = l.side WHERE {_OWN}"
        " AND l.batch_id = ANY ($4)",
        *_own(scope, month),
        *map(list, zip(*spans, strict=True)),
    )
    if len(rows) != len(spans):
        return None
    pieces = {w: _Piece(found[w[0]], w[1]) for w in wanted}
    for r in rows:
        piece = pieces[r["batch_id"], r["chunk"]]
        piece.sealed[LEGS[r["side"]]] = r["leg"]
        piece.sealed.update((c, r[c.value]) for c in shared if r[c.value] is not None)
    return list(pieces.values())


def _references(
    rows: Sequence[asyncpg.Record], wanted: dict[int, int], keys: dict[int, DataKey]
) -> dict[int, dict[int, list[int]]]:
    out: dict[int, dict[int, list[int]]] = {m: {} for m in wanted}
    for r in rows:
        month = r["month"]
        segment = tags.open_segment(keys[month], month, r["run_id"], r["bucket"], r["entries"], r["sealed"])
        for ref in tags.references(segment, wanted[month]):
            ordinal, chunk = divmod(ref, CHUNKS_PER_BATCH)
            out[month].setdefault(r["run_id"] * BATCHES_PER_RUN + ordinal, []).append(chunk)
    return out


def _open_batches(scope: Scope, batches: Sequence[_Batch], keys: ClassKeys, position: Position) -> pa.Table:
    tables = []
    for batch in batches:
        columns: dict[str, pa.ChunkedArray] = {}
        for cls, blob in batch.blobs.items():
            made = open_class(keys, batch.shape, cls, batch.ocn(cls), blob)
            if cls in scope.classes or cls is DisclosureClass.TIMING:
                columns |= made
        tables.append(_within(scope, batch.shape, pa.table(columns), position))
    return _project(scope, pa.concat_tables(tables, promote_options="default"))


def _open_pieces(scope: Scope, pieces: Sequence[_Piece], keys: ClassKeys, position: Position, number: str) -> pa.Table:
    tables = []
    for piece in pieces:
        columns: dict[str, pa.ChunkedArray] = {}
        for cls, sealed in piece.sealed.items():
            batch = piece.batch
            made = open_chunk_of(keys, batch.shape, cls, batch.ocn(cls), batch.blobs[cls], piece.chunk, sealed)
            if cls in scope.classes or cls is DisclosureClass.TIMING:
                columns |= made
        table = pa.table(columns)
        table = table.filter(_matches(table, number))
        tables.append(_within(scope, piece.batch.shape, table, position))
    return _project(scope, pa.concat_tables(tables, promote_options="default"))


def _matches(table: pa.Table, number: str) -> pa.ChunkedArray:
    """A tag may be shared by two values: only rows in which the number really stands are disclosed."""
    suffix, value = ("", int(number[1:])) if number.startswith("+") else ("_raw", number)
    present = [n + suffix for n in _NUMBER_COLUMNS if n + suffix in table.schema.names]
    mask = pa.chunked_array([pa.array([False] * table.num_rows, pa.bool_())])
    for name in present:
        mask = pc.or_(mask, pc.fill_null(pc.equal(table.column(name), value), False))
    return mask


def _within(scope: Scope, shape: Shape, table: pa.Table, position: Position) -> pa.Table:
    after = scope.after_id
    if position.pair_id == shape.pair_id:
        after = max(after, position.record_id)
    if shape.first_record_id <= after or shape.last_record_id > scope.as_of:
        ids = table.column("record_id")
        table = table.filter(pc.and_(pc.greater(ids, after), pc.less_equal(ids, scope.as_of)))
    if shape.first_start < scope.start_us or shape.last_start >= scope.end_us:
        started = table.column("started_at").cast(pa.int64())
        table = table.filter(pc.and_(pc.greater_equal(started, scope.start_us), pc.less(started, scope.end_us)))
    return table


def _project(scope: Scope, table: pa.Table) -> pa.Table:
    """Without the timing class only the record's id goes out of it."""
    if DisclosureClass.TIMING in scope.classes:
        return table
    drop = [f.name for f in fields_of(DisclosureClass.TIMING) if f.name != "record_id"]
    return table.select([n for n in table.schema.names if n not in drop])
