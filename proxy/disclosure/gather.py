"""The records of some targets, out of the store: found by tag or by a scan, matched exactly, only the fields permitted.

A stretch of months is read in one snapshot: a roll that runs beside it moves no record past the search. Batches come in
the order of their first record, a few at a time: fetched while those before them are opened, and each worked on by one
thread. Of a batch only the chunks are opened in which something stands; of what is opened only the rows of a target and
the fields of the permit become values.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from keys.sealing import HEADER_PREFIX_MAX, parse_header
from proxy.disclosure.targets import Targets
from proxy.store import columns
from proxy.store.batches import CHUNK_ROWS, CLASS_FIELDS, LEGS, Shape, int64s
from proxy.store.columns import ARROW
from proxy.store.opening import ClassKeys, open_chunks_of
from proxy.store.planes import FormatError
from schema.fields import BY_NAME, DisclosureClass

T = TypeVar("T")
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CHUNKS_AT_ONCE: Final = 64
"""Chunks that are opened in one piece: at most 131,072 records."""
IN_FLIGHT: Final = 2
"""Pieces that are opened, or wait for it, at the same time."""
_ROWS_ONE_BY_ONE: Final = 4
"""Up to so many rows of a chunk, on average, are taken one by one; of more, whole columns are made."""

_CLEAR: Final = """b.month, b.batch_id, b.pair_id, b.ingress_ocn, b.egress_ocn, b.rows, b.first_record_id,
    b.last_record_id, b.first_start, b.last_start, b.format, b.classes"""
_WITHIN: Final = "b.first_start < $2 AND b.last_start >= $1 AND b.first_record_id <= $3"
_HEAD: Final = f"substring({{}} from 1 for {HEADER_PREFIX_MAX})"
_SIDES: Final = {cls: side for side, cls in LEGS.items()}


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked for, and all that may come of it. Times are microseconds UTC, half-open."""

    targets: Targets
    kept: tuple[str, ...]
    """Names of the fields that go on, in canonical order, ``record_id`` and ``started_at`` among them."""
    subject_fields: frozenset[str]
    """Those that go on only of records in which a target stands in ``subject_match``."""
    subject_match: frozenset[str]
    classes: frozenset[DisclosureClass]
    """The only classes that are selected and opened."""
    start_us: int
    end_us: int
    as_of: int

    @property
    def needed(self) -> frozenset[str]:
        """The fields that become values."""
        return frozenset(self.kept) | (self.subject_match if self.subject_fields else frozenset())


@dataclass(slots=True)
class Candidate:
    """A batch in which something may stand."""

    shape: Shape
    ocns: tuple[int, int]
    chunks: list[int] | None
    """Its chunks in which a target's tag stands; None: not known, all are looked at."""
    rows: dict[int, Ints] | None = None
    """Chunk → its matching rows, once they are known."""
    heads: dict[DisclosureClass, bytes] = field(default_factory=dict)
    """The beginnings of ciphertexts, as far as they came with the list."""
    sealed: dict[DisclosureClass, tuple[bytes, dict[int, bytes | memoryview]]] = field(default_factory=dict)
    """Class → the beginning of its ciphertext, and its wanted chunks."""
    opened: dict[tuple[DisclosureClass, int], columns.Chunk] = field(default_factory=dict)
    """Chunks that were opened to match and are opened no second time."""

    def ocn(self, cls: DisclosureClass) -> int:
        """The OCN that a class is bound to."""
        side = _SIDES.get(cls)
        return 0 if side is None else self.ocns[side - 1]

    @property
    def wanted(self) -> list[int]:
        """The chunks to be fetched."""
        if self.rows is not None:
            return list(self.rows)
        return self.chunks if self.chunks is not None else list(range(self.count))

    @property
    def count(self) -> int:
        """How many chunks it has."""
        return -(-self.shape.rows // CHUNK_ROWS)


async def listed(
    conn: asyncpg.Connection, look: Look, months: Sequence[int], found: Mapping[int, dict[int, list[int]]]
) -> list[Candidate]:
    """Return the batches to look at, in the order of their first record.

    Args:
        months: of this stretch.
        found: month → batch → chunks under the targets' tags; a month that is not in it is looked at whole.
    """
    ask = (look.start_us, look.end_us, look.as_of)
    whole = [m for m in months if m not in found]
    rows: list[asyncpg.Record] = []
    if whole:
        rows += await conn.fetch(
            f"SELECT {_CLEAR} FROM tollgate.batch b WHERE {_WITHIN} AND b.month = ANY ($4)", *ask, whole
        )
    places = [(m, batch_id) for m, batches in found.items() for batch_id in batches]
    # Of few batches the beginnings come along: what says where their chunks lie.
    ahead = sorted(look.classes) if len(places) <= CHUNKS_AT_ONCE else []
    if places:
        heads = "".join(f", {_HEAD.format(_source(c))} AS {c.value}" for c in ahead)
        rows += await conn.fetch(
            f"SELECT {_CLEAR}{heads} FROM tollgate.batch b JOIN unnest($4::int[], $5::bigint[]) w(month, batch_id)"
            f" ON b.month = w.month AND b.batch_id = w.batch_id WHERE {_WITHIN} AND b.month = ANY ($6)",
            *ask,
            [m for m, _ in places],
            [batch_id for _, batch_id in places],
            list(found),
        )
    out = []
    for r in rows:
        month = r["month"]
        chunks = found[month][r["batch_id"]] if month in found else None
        candidate = Candidate(Shape.of_batch(month, r), (r["ingress_ocn"], r["egress_ocn"]), chunks)
        if month in found:
            candidate.heads = {c: r[c.value] for c in ahead if r[c.value] is not None}
        out.append(candidate)
    return sorted(out, key=lambda c: (c.shape.first_start, c.shape.object_id))


def groups(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Cut candidates into pieces of at most about CHUNKS_AT_ONCE chunks, each found by tag throughout or not at all."""
    group: list[Candidate] = []
    chunks = 0
    for candidate in candidates:
        if group and (candidate.chunks is None) != (group[0].chunks is None):
            yield group
            group, chunks = [], 0
        group.append(candidate)
        chunks += len(candidate.wanted)
        if chunks >= CHUNKS_AT_ONCE:
            yield group
            group, chunks = [], 0
    if group:
        yield group


class Gatherer:
    """Opens the records of a look.

    Args:
        run: runs work in a thread.
        keys: of a month's classes; one whose period is gone is absent.
    """

    def __init__(
        self, look: Look, run: Callable[..., Coroutine[Any, Any, Any]], keys: Callable[[int], Awaitable[ClassKeys]]
    ) -> None:
        self._look = look
        self._run = run
        self._keys = keys
        self._turn = asyncio.Lock()

    async def _alone(self, work: Callable[..., T], *args: object) -> T:
        """Run work in a thread, one at a time: two that take many small steps hinder each other more than they gain."""
        async with self._turn:
            return await self._run(work, *args)  # type: ignore[no-any-return]

    async def gather(
        self, conn: asyncpg.Connection, candidates: Sequence[Candidate]
    ) -> AsyncGenerator[tuple[pa.Table, int]]:
        """Yield the matching records of each group of candidates, and how many of the candidates are done with it.

        Args:
            conn: a transaction in which the months are open, in one snapshot.
            candidates: in the order of their first record.

        Raises:
            SealError, FormatError: a batch does not open, or does not hold what it says.
        """
        jobs: deque[tuple[asyncio.Task[pa.Table], int]] = deque()
        matching: _Matching | None = None
        done = 0
        try:
            for group in (*groups(candidates), None):
                coming = None if group is None else await self._begun(conn, group)
                # While a group is matched the next one's is fetched; while it is opened, the next is matched.
                if matching is not None:
                    work = await matching.work
                    await fetch(conn, work, matching.keys, self._look.classes)
                    done += len(matching.group)
                    opening = self._alone(opened, self._look, work, matching.keys)
                    jobs.append((asyncio.create_task(opening), done))
                matching = coming
                while len(jobs) > (IN_FLIGHT - 1 if group is not None else 0):
                    made, upto = jobs.popleft()
                    yield await made, upto
        finally:
            left = [made for made, _ in jobs] + ([matching.work] if matching is not None else [])
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _begun(self, conn: asyncpg.Connection, group: list[Candidate]) -> _Matching:
        """Fetch what a group is matched by, where tags do not say it, and begin to match."""
        keys = {m: await self._keys(m) for m in {c.shape.month for c in group}}
        if group[0].chunks is None:
            await fetch(conn, group, keys, self._look.targets.classes)
            return _Matching(group, keys, asyncio.create_task(self._alone(matched, self._look, group, keys)))

        async def whole() -> list[Candidate]:
            return group

        return _Matching(group, keys, asyncio.create_task(whole()))


@dataclass(frozen=True, slots=True)
class _Matching:
    """A group of which it is being found out where something stands."""

    group: list[Candidate]
    keys: dict[int, ClassKeys]
    work: asyncio.Task[list[Candidate]]


async def fetch(
    conn: asyncpg.Connection,
    group: Sequence[Candidate],
    keys: Mapping[int, ClassKeys],
    classes: Collection[DisclosureClass],
) -> None:
    """Fetch the wanted chunks of some classes, as far as they exist, have a key, and are not there yet."""
    asked = [
        (c, [cls for cls in classes if c.shape.has(cls) and cls in keys[c.shape.month] and cls not in c.sealed])
        for c in group
    ]
    asked = [(c, wanted) for c, wanted in asked if wanted and c.wanted]
    whole = [(c, wanted) for c, wanted in asked if len(c.wanted) == c.count]
    parts = [(c, wanted) for c, wanted in asked if len(c.wanted) < c.count]
    if whole:
        for candidate, cls, blob in await _columns(conn, whole, "{}"):
            candidate.sealed[cls] = _cut(blob)
    if parts:
        missing = [(c, left) for c, wanted in parts if (left := [cls for cls in wanted if cls not in c.heads])]
        if missing:
            for candidate, cls, head in await _columns(conn, missing, _HEAD):
                candidate.heads[cls] = head
        for candidate, wanted in parts:
            candidate.sealed |= {cls: (candidate.heads[cls], {}) for cls in wanted}
        await _chunks(conn, parts)


def _cut(blob: bytes) -> tuple[bytes, dict[int, bytes | memoryview]]:
    header, view = parse_header(blob), memoryview(blob)
    spans = (header.span(i) for i in range(len(header.ends)))
    return blob[: header.length], {i: view[at : at + size] for i, (at, size) in enumerate(spans)}


_Asked = list[tuple[Candidate, list[DisclosureClass]]]


def _source(cls: DisclosureClass) -> str:
    side = _SIDES.get(cls)
    if side is None:
        return f"b.{cls.value}"
    return (
        "(SELECT l.sealed FROM tollgate.batch_leg l WHERE l.month = b.month AND l.batch_id = b.batch_id"
        f" AND l.side = {side})"
    )


_BY_ID: Final = """FROM tollgate.batch b JOIN unnest($1::int[], $2::bigint[]{}) w(month, batch_id{})
    ON b.month = w.month AND b.batch_id = w.batch_id WHERE b.month = ANY ($3)"""


async def _columns(
    conn: asyncpg.Connection, asked: _Asked, form: str
) -> list[tuple[Candidate, DisclosureClass, bytes]]:
    """Return a value of each class asked for of each candidate; ``form`` says what of its ciphertext."""
    classes = sorted({cls for _, wanted in asked for cls in wanted})
    names = ", ".join(f"{form.format(_source(cls))} AS {cls.value}" for cls in classes)
    shapes = [c.shape for c, _ in asked]
    rows = await conn.fetch(
        f"SELECT b.month, b.batch_id, {names} {_BY_ID.format('', '')}",
        [s.month for s in shapes],
        [s.object_id for s in shapes],
        list({s.month for s in shapes}),
    )
    found = {(r["month"], r["batch_id"]): r for r in rows}
    out = []
    for candidate, wanted in asked:
        row = found.get((candidate.shape.month, candidate.shape.object_id))
        for cls in wanted:
            if row is None or row[cls.value] is None:
                raise FormatError("a batch lacks a class that it says it has")
            out.append((candidate, cls, row[cls.value]))
    return out


async def _chunks(conn: asyncpg.Connection, asked: _Asked) -> None:
    """Fetch only the bytes of the wanted chunks (``substring`` of an EXTERNAL column reads only their pages)."""
    classes = sorted({cls for _, wanted in asked for cls in wanted})
    rows: list[list[int | None]] = []
    owners: list[tuple[Candidate, list[DisclosureClass], int]] = []
    for candidate, wanted in asked:
        headers = {cls: parse_header(candidate.sealed[cls][0]) for cls in wanted}
        for chunk in candidate.wanted:
            row: list[int | None] = [candidate.shape.month, candidate.shape.object_id, len(owners)]
            for cls in classes:
                at, size = headers[cls].span(chunk) if cls in headers else (None, None)
                row += [None if at is None else at + 1, size]
            rows.append(row)
            owners.append((candidate, wanted, chunk))
    names = ", ".join(f"substring({_source(c)} from w.{c.value}_at for w.{c.value}_n) AS {c.value}" for c in classes)
    shape = "".join(f", {c.value}_at, {c.value}_n" for c in classes)
    types = "".join(f", ${i + 4}::int[]" for i in range(1 + 2 * len(classes)))
    columns_of = list(map(list, zip(*rows, strict=True)))
    found = await conn.fetch(
        f"SELECT w.n, {names} {_BY_ID.format(types, ', n' + shape)}",
        columns_of[0],
        columns_of[1],
        sorted({c.shape.month for c, _ in asked}),
        *columns_of[2:],
    )
    if len(found) != len(owners):
        raise FormatError("a batch that was listed is not there")
    for r in found:
        candidate, wanted, chunk = owners[r["n"]]
        for cls in wanted:
            candidate.sealed[cls][1][chunk] = r[cls.value]


def matched(look: Look, group: Sequence[Candidate], keys: Mapping[int, ClassKeys]) -> list[Candidate]:
    """Say of candidates that were fetched whole which rows match; only those that have some are left. In a thread."""
    wanted = [(c, chunk) for c in group for chunk in c.wanted]
    found = {cls: _open(cls, wanted, keys) for cls in look.targets.classes}
    rows = _matching(look, wanted, found)
    for candidate in group:
        candidate.rows = {}
    for (candidate, chunk), own in zip(wanted, rows, strict=True):
        if len(own):
            assert candidate.rows is not None
            candidate.rows[chunk] = own
    left = [c for c in group if c.rows]
    for (candidate, chunk), at in zip(wanted, range(len(wanted)), strict=True):
        if candidate.rows and chunk in candidate.rows:
            kept = {(cls, chunk): c for cls, made in found.items() if isinstance(c := made[at], columns.Chunk)}
            candidate.opened |= kept
    for candidate in left:
        candidate.sealed = {cls: (head, {}) for cls, (head, _) in candidate.sealed.items()}
    return left


def opened(look: Look, group: Sequence[Candidate], keys: Mapping[int, ClassKeys]) -> pa.Table:
    """Return the matching records of candidates within window and ``as_of``: the fields kept. In a thread."""
    parts = [(c, chunk) for c in group for chunk in c.wanted]
    found: dict[DisclosureClass, list[columns.Chunk | int]] = {}
    if group and group[0].rows is None:
        found = {cls: _open(cls, parts, keys) for cls in look.targets.classes}
        rows = _matching(look, parts, found)
    else:
        rows = [c.rows[chunk] for c, chunk in parts if c.rows is not None]
    some = [i for i, r in enumerate(rows) if len(r)]
    if not some:
        return pa.table({})
    rows = [rows[i] for i in some]
    made: dict[str, pa.Array] = {}
    for cls in sorted(look.classes):
        chunks = [found[cls][i] for i in some] if cls in found else _open(cls, [parts[i] for i in some], keys)
        made |= _taken(cls, chunks, rows, look.needed)
    table = pa.table(made)
    inside = int64s(table, "record_id") <= look.as_of
    return _narrowed(look, table, inside)


def again(look: Look, table: pa.Table) -> pa.Table:
    """Return those of records that were held before which the look asks for, as :func:`opened` does. In a thread."""
    opened = {n: table.column(n) for n in table.schema.names}
    return _narrowed(look, table, look.targets.match(opened, table.num_rows))


def _narrowed(look: Look, table: pa.Table, inside: Mask) -> pa.Table:
    """Keep what is inside, and within the window; blank what a record says of somebody whom the process does not name;
    drop what was opened to match only."""
    started = int64s(table, "started_at")
    inside = inside & (started >= look.start_us) & (started < look.end_us)
    if not inside.all():
        table = table.filter(pa.array(inside))
    present = set(table.schema.names)
    if look.subject_fields & present:
        columns_of = {n: table.column(n) for n in table.schema.names}
        own = look.targets.match(columns_of, table.num_rows, look.subject_match)
        if not own.all():
            for name in look.subject_fields & present:
                at = table.schema.get_field_index(name)
                blank = pa.nulls(table.num_rows, table.schema.field(at).type)
                table = table.set_column(at, name, pc.if_else(pa.array(own), table.column(name), blank))
    keep = [n for f in look.kept for n in (f, f + "_raw") if n in present]
    return table.select(keep)


_Parts = Sequence[tuple[Candidate, int]]


def _open(cls: DisclosureClass, parts: _Parts, keys: Mapping[int, ClassKeys]) -> list[columns.Chunk | int]:
    """Open a class of some chunks; where it has none, so many rows without a value."""
    out: list[columns.Chunk | int] = []
    at = 0
    while at < len(parts):
        candidate = parts[at][0]
        stop = at
        while stop < len(parts) and parts[stop][0] is candidate:
            stop += 1
        chunks = [chunk for _, chunk in parts[at:stop]]
        if (cls, chunks[0]) in candidate.opened:
            out += [candidate.opened[cls, chunk] for chunk in chunks]
        elif cls in candidate.sealed:
            head, sealed = candidate.sealed[cls]
            pieces = [(chunk, sealed[chunk]) for chunk in chunks]
            month = keys[candidate.shape.month]
            made = open_chunks_of(month, candidate.shape, cls, candidate.ocn(cls), head, pieces)
            if any(c.rows != _rows_of(candidate, chunk) for c, chunk in zip(made, chunks, strict=True)):
                raise FormatError("a chunk has another number of rows than its batch says")
            out += made
        else:
            out += [_rows_of(candidate, chunk) for chunk in chunks]
        at = stop
    return out


def _rows_of(candidate: Candidate, chunk: int) -> int:
    return min(CHUNK_ROWS, candidate.shape.rows - chunk * CHUNK_ROWS)


def _matching(look: Look, parts: _Parts, found: Mapping[DisclosureClass, Sequence[columns.Chunk | int]]) -> list[Ints]:
    """Return the rows of each chunk in which a target stands, ascending; ``found``: the classes it may stand in."""
    targets = look.targets
    few = targets.few()
    if few is not None:
        chunks = found[DisclosureClass.PARTIES]
        return [_NONE if isinstance(c, int) else _united([c.find(value) for value in few]) for c in chunks]
    edges = np.cumsum([0, *(_rows_of(c, chunk) for c, chunk in parts)])
    arrays: dict[str, pa.Array] = {}
    for cls, chunks in found.items():
        names = {f.name for f in targets.fields}
        arrays |= columns.assemble(chunks, [f for f in CLASS_FIELDS[cls] if f.name in names], coded=True)
    rows = np.flatnonzero(targets.match(arrays, int(edges[-1])))
    cuts = np.searchsorted(rows, edges)
    return [rows[a:b] - e for a, b, e in zip(cuts[:-1].tolist(), cuts[1:].tolist(), edges.tolist(), strict=False)]


_NONE: Ints = np.empty(0, np.int64)


def _united(rows: list[Ints]) -> Ints:
    return rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows))


def _taken(
    cls: DisclosureClass, chunks: Sequence[columns.Chunk | int], rows: Sequence[Ints], needed: Collection[str]
) -> dict[str, pa.Array]:
    """Return the needed fields of some rows of chunks; a column without any value is left out."""
    fields = [f for f in CLASS_FIELDS[cls] if f.name in needed]
    total = sum(map(len, rows))
    if not fields or not total:
        return {}
    if total > _ROWS_ONE_BY_ONE * len(chunks):
        edges = np.cumsum([0, *(c if isinstance(c, int) else c.rows for c in chunks)])
        wanted = pa.array(np.concatenate([r + e for r, e in zip(rows, edges[:-1].tolist(), strict=True)]))
        return {name: column.take(wanted) for name, column in columns.assemble(chunks, fields, coded=True).items()}
    values: dict[str, list[Any]] = {}
    names = {f.name for f in fields}
    before = 0
    for chunk, mine in zip(chunks, rows, strict=True):
        taken = {} if isinstance(chunk, int) else chunk.take(mine, names)
        for name, column in taken.items():
            held = values.setdefault(name, [])
            held.extend([None] * (before - len(held)))
            held.extend(column)
        before += len(mine)
    out = {}
    for name, held in values.items():
        held.extend([None] * (before - len(held)))
        kind = ARROW[BY_NAME[name].kind] if name in BY_NAME else pa.string()
        # A timestamp's integers are not its values to Arrow: they are viewed as such.
        out[name] = pa.array(held, pa.int64()).view(kind) if pa.types.is_timestamp(kind) else pa.array(held, kind)
    return out
