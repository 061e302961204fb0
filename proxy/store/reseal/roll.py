"""Rolling: staged runs become batches of one carrier pair, adjacent small runs become larger ones.

Each group of runs is swapped in one transaction: what it makes and what it destroys appear together, with the log
entry that names both. Dying before COMMIT leaves the old runs untouched, and the next roll does the same work again;
dying after it leaves nothing to do. A reader that listed a batch which is gone lists again from where it stands:
answers are ordered by (month, pair, record id), which a roll does not change.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import asyncpg
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from proxy.ledger.model import Entry, Kind
from proxy.ledger.service import Ledger
from proxy.metrics import ROLLED_ROWS
from proxy.store import columns, tags, writer
from proxy.store.batches import (
    BATCH_ROWS,
    BATCHES_PER_RUN,
    CHUNK_ROWS,
    CHUNKS_PER_BATCH,
    CLASSES,
    Part,
    Sealed,
    Table,
    int64s,
    manifest,
    parse_manifest,
)
from proxy.store.opening import open_object
from proxy.store.writer import Run, StoreDamagedError
from schema.fields import DisclosureClass, ocn_code

T = TypeVar("T")

ROLL_ROWS = 1 << 20
"""Most rows held open at once, and the size beyond which a run is not merged further."""
_LOCK = "tollgate.roll"


@dataclass(frozen=True, slots=True)
class Rolled:
    """What a roll did."""

    groups: int = 0
    rows: int = 0
    batches: int = 0


def plan(runs: Sequence[Run]) -> list[list[Run]]:
    """Say which adjacent runs of one month to roll together.

    A stretch of staged runs is cut at ROLL_ROWS; it takes in the run before it while that is at most twice as large
    (so each record is sealed again a logarithmic number of times) and the whole stays within ROLL_ROWS.

    Args:
        runs: all runs of one month, in record-id order.
    """
    groups: list[list[Run]] = []
    settled: list[Run] = []
    staged: list[Run] = []
    for run in runs:
        full = sum(r.rows for r in staged) + run.rows > ROLL_ROWS
        if staged and (run.level > 0 or full):
            groups.append(_absorb(settled, staged))
            settled, staged = [], []
        (settled if run.level > 0 else staged).append(run)
    if staged:
        groups.append(_absorb(settled, staged))
    return groups


def _absorb(settled: list[Run], staged: list[Run]) -> list[Run]:
    group = list(staged)
    total = sum(r.rows for r in staged)
    for before in reversed(settled):
        if before.rows > 2 * total or before.rows + total > ROLL_ROWS:
            break
        group.insert(0, before)
        total += before.rows
    return group


async def roll(
    conn: asyncpg.Connection,
    keys: DataKeys,
    ledger: Ledger,
    executor: Executor,
    progress: Callable[[int], None] = lambda rows: None,
) -> Rolled:
    """Roll all that is staged.

    Args:
        conn: a connection of the ingest role, used for nothing else meanwhile.
        progress: called with the number of rows rolled since the last call.

    Returns:
        What was done; nothing if another process is rolling.
    """
    done = Rolled()
    async with rolling_lock(conn) as free:
        for month in await _staged_months(conn) if free else ():
            for group in plan(await runs_of(conn, month)):
                rolled = await _Roll(conn, keys, ledger, executor).swap(group)
                done = Rolled(done.groups + 1, done.rows + rolled.rows, done.batches + rolled.batches)
                ROLLED_ROWS.inc(rolled.rows)
                progress(rolled.rows)
    return done


@asynccontextmanager
async def rolling_lock(conn: asyncpg.Connection) -> AsyncIterator[bool]:
    """Only one process at a time replaces runs; yields whether it is this one."""
    free = await conn.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", _LOCK)
    try:
        yield bool(free)
    finally:
        if free and not conn.is_closed():
            await conn.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", _LOCK)


async def _staged_months(conn: asyncpg.Connection) -> list[int]:
    rows = await conn.fetch("SELECT DISTINCT month FROM tollgate.run WHERE level = 0 ORDER BY month")
    return [r["month"] for r in rows]


async def runs_of(conn: asyncpg.Connection, month: int) -> list[Run]:
    """Return the runs of a month in record-id order."""
    rows = await conn.fetch(
        "SELECT month, run_id, level, rows, first_record_id, last_record_id, tag_bits, ingest_id, manifest"
        " FROM tollgate.run WHERE month = $1 ORDER BY first_record_id",
        month,
    )
    return [Run(**dict(r)) for r in rows]


class Rolling:
    """Replacing runs by others, inside a caller's transaction."""

    def __init__(self, conn: asyncpg.Connection, keys: DataKeys, ledger: Ledger, executor: Executor) -> None:
        self.conn = conn
        self.keys = keys
        self.ledger = ledger
        self.executor = executor

    async def write(
        self, rows: pa.Table, classes: dict[DisclosureClass, DataKey], tag_key: DataKey, month: int, level: int
    ) -> tuple[Run, int]:
        """Write rows (with their record ids) as a run of batches; return it and the number of batches."""
        run_id = await self.conn.fetchval("SELECT nextval('tollgate.store_id')")
        run_in = partial(asyncio.get_running_loop().run_in_executor, self.executor)
        pair_ids, pairs = await self._pairs(rows)
        piece = await run_in(_sort, rows, pair_ids, pairs)
        tagged = run_in(_segments, tag_key, piece, month, run_id)
        parts: list[tuple[Part, int, bytes]] = []
        shares = (piece.cuts[at : at + 32] for at in range(0, len(piece.cuts), 32))
        async for made in in_order(run_in(_seal, piece, classes, month, run_id, share) for share in shares):
            parts.extend((Part.BATCH, sealed.shape.object_id, digest) for sealed, digest in made)
            await writer.insert_batches(self.conn, run_id, [sealed for sealed, _ in made])
        bits, segments = await tagged
        for at in range(0, len(segments), 64):
            values = map(list, zip(*segments[at : at + 64], strict=True))
            await self.conn.execute(writer.INSERT_SEGMENTS, month, run_id, *values)
        parts.extend((Part.SEGMENT, b, writer.segment_digest(month, run_id, b, n, s)) for b, n, s in segments)
        first, last = int(piece.record_ids.min()), int(piece.record_ids.max())
        run = Run(month, run_id, level, rows.num_rows, first, last, bits, None, manifest(parts))
        await writer.insert_run(self.conn, run)
        return run, len(piece.cuts)

    async def _pairs(self, rows: pa.Table) -> tuple[npt.NDArray[np.int64], dict[int, tuple[int, int]]]:
        """Return each row's pair id, and the OCN codes of each pair id."""
        sides = []
        for name in ("ingress_ocn", "egress_ocn"):
            coded = columns.one(rows.column(name)).dictionary_encode()
            codes = np.array([ocn_code(t) for t in coded.dictionary.to_pylist()], np.int64)
            sides.append(codes[coded.indices.to_numpy(zero_copy_only=False)])
        key = (sides[0] << 32) + (sides[1] + 2)  # codes begin at -2
        distinct, inverse = np.unique(key, return_inverse=True)
        wanted = [(k >> 32, (k & 0xFFFFFFFF) - 2) for k in distinct.tolist()]
        ids = await self._pair_ids(wanted)
        return np.array([ids[w] for w in wanted], np.int64)[inverse], {ids[w]: w for w in wanted}

    async def _pair_ids(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        await self.conn.execute(
            "INSERT INTO tollgate.pair (ingress_ocn, egress_ocn) SELECT * FROM unnest($1::int[], $2::int[])"
            " ON CONFLICT DO NOTHING",
            [i for i, _ in wanted],
            [e for _, e in wanted],
        )
        rows = await self.conn.fetch(
            "SELECT pair_id, ingress_ocn, egress_ocn FROM tollgate.pair WHERE (ingress_ocn, egress_ocn) IN"
            " (SELECT * FROM unnest($1::int[], $2::int[]))",
            [i for i, _ in wanted],
            [e for _, e in wanted],
        )
        return {(r["ingress_ocn"], r["egress_ocn"]): r["pair_id"] for r in rows}

    async def destroy(self, month: int, run_ids: list[int]) -> None:
        """Delete runs and all that is in them."""
        conn = self.conn
        await conn.execute(
            "DELETE FROM tollgate.batch_leg l USING tollgate.batch b WHERE b.month = $1 AND b.run_id = ANY ($2)"
            " AND l.month = $1 AND l.batch_id = b.batch_id",
            month,
            run_ids,
        )
        await conn.execute("DELETE FROM tollgate.batch WHERE month = $1 AND run_id = ANY ($2)", month, run_ids)
        await conn.execute("DELETE FROM tollgate.staging WHERE month = $1 AND run_id = ANY ($2)", month, run_ids)
        await conn.execute("DELETE FROM tollgate.tag_segment WHERE month = $1 AND run_id = ANY ($2)", month, run_ids)
        await conn.execute("DELETE FROM tollgate.run WHERE month = $1 AND run_id = ANY ($2)", month, run_ids)


class _Roll(Rolling):
    """One group's swap."""

    async def swap(self, group: Sequence[Run]) -> Rolled:
        month = group[0].month
        periods = [Period(c.value, month) for c in CLASSES] + [Period(tags.KEY_CLASS, month)]
        found = await self.keys.ensure(self.conn, periods)
        classes = {c: found[Period(c.value, month)] for c in CLASSES}
        tag_key = found[Period(tags.KEY_CLASS, month)]
        level = 1 + max(r.level for r in group)
        made: list[Run] = []
        batches = 0
        async with self.conn.transaction():
            async for rows in _slices(opened(self.conn, group, classes, self.executor)):
                run, count = await self.write(rows, classes, tag_key, month, level)
                made.append(run)
                batches += count
            await self.destroy(month, [r.run_id for r in group])
            await self.ledger.append_in(
                self.conn,
                [
                    Entry(
                        kind=Kind.STORE_ROLL,
                        actor={"component": "roll"},
                        request={
                            "month": month,
                            "destroyed": [str(r.run_id) for r in group],
                            "replaced": [r.described() for r in group],
                        },
                        outcome={"made": [r.described() for r in made], "batches": batches},
                    )
                ],
            )
            # Dying here leaves the old runs; dying after COMMIT leaves the new ones and their entry. Never both.
        return Rolled(1, sum(r.rows for r in made), batches)


async def opened(
    conn: asyncpg.Connection, group: Sequence[Run], classes: dict[DisclosureClass, DataKey], executor: Executor
) -> AsyncIterator[pa.Table]:
    """Yield the records of runs in record-id order within each run, record ids included.

    Raises:
        StoreDamagedError: if a run does not hold what its manifest says. Sealing the rest of it again would destroy the
            evidence, and give every later record of a staged run the id of another.
    """
    run_in = partial(asyncio.get_running_loop().run_in_executor, executor)
    for run in group:
        left = {object_id: digest for part, object_id, digest in parse_manifest(run.manifest) if part is Part.BATCH}
        at = run.first_record_id
        async for sealed in writer.objects(conn, run):
            found = await asyncio.gather(*(run_in(_open, s, classes) for s in sealed))
            for one, (rows, digest) in zip(sealed, found, strict=True):
                if left.pop(one.shape.object_id, None) != digest:
                    raise StoreDamagedError(_damage(run, "was changed", one.shape.object_id))
                if run.level == 0:  # a staged record's id is the run's first id plus its position
                    ids = pa.array(np.arange(at, at + rows.num_rows))
                    at += rows.num_rows
                    yield rows.append_column("record_id", ids)
                else:
                    yield rows
        if left:
            raise StoreDamagedError(_damage(run, "is missing", next(iter(left))))


def _open(sealed: Sealed, classes: dict[DisclosureClass, DataKey]) -> tuple[pa.Table, bytes]:
    return open_object(sealed, classes), sealed.digest()


def _damage(run: Run, what: str, object_id: int) -> str:
    return f"batch {object_id} of run {run.run_id}, month {run.month}, {what}; see `tollgate store check`"


async def in_order(work: Iterable[asyncio.Future[T]]) -> AsyncIterator[T]:
    """Yield results in order, with two more in the making while one is used; ``work`` starts each as it is drawn."""
    waiting: deque[asyncio.Future[T]] = deque()
    try:
        for started in work:
            waiting.append(started)
            if len(waiting) > 2:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        await asyncio.gather(*waiting, return_exceptions=True)


async def _slices(tables: AsyncIterator[pa.Table]) -> AsyncIterator[pa.Table]:
    """Join tables into slices of at most about ROLL_ROWS rows."""
    held: list[pa.Table] = []
    rows = 0
    async for table in tables:
        if held and rows + table.num_rows > ROLL_ROWS:
            yield columns.whole(columns.join(held))
            held, rows = [], 0
        held.append(table)
        rows += table.num_rows
    if held:
        yield columns.whole(columns.join(held))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows in the order of their batches."""

    rows: pa.Table
    table: Table
    record_ids: npt.NDArray[np.int64]
    pair_ids: npt.NDArray[np.int64]
    pairs: dict[int, tuple[int, int]]
    cuts: list[tuple[int, int, int]]
    """(ordinal, start, stop) of each batch."""


def _sort(rows: pa.Table, pair_ids: npt.NDArray[np.int64], pairs: dict[int, tuple[int, int]]) -> _Piece:
    ids = int64s(rows, "record_id")
    order = np.lexsort((ids, pair_ids))
    ordered = rows.take(pa.array(order))
    return _Piece(ordered, Table(ordered), ids[order], pair_ids[order], pairs, _cuts(pair_ids[order]))


def _cuts(pair_ids: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    edges = [*np.flatnonzero(np.diff(pair_ids, prepend=-1)).tolist(), len(pair_ids)]
    spans = [(a, min(a + BATCH_ROWS, stop)) for start, stop in pairwise(edges) for a in range(start, stop, BATCH_ROWS)]
    return [(ordinal, start, stop) for ordinal, (start, stop) in enumerate(spans)]


def _seal(
    piece: _Piece,
    classes: dict[DisclosureClass, DataKey],
    month: int,
    run_id: int,
    cuts: Iterable[tuple[int, int, int]],
) -> list[tuple[Sealed, bytes]]:
    """Seal some batches; return each with its digest."""
    out = []
    for ordinal, start, stop in cuts:
        pair = int(piece.pair_ids[start])
        sealed = piece.table.seal(
            classes,
            start,
            stop,
            month=month,
            object_id=run_id * BATCHES_PER_RUN + ordinal,
            record_ids=(int(piece.record_ids[start]), int(piece.record_ids[stop - 1])),
            pair_id=pair,
            ocns=piece.pairs[pair],
        )
        out.append((sealed, sealed.digest()))
    return out


def _segments(key: DataKey, piece: _Piece, month: int, run_id: int) -> tuple[int, list[tuple[int, int, bytes]]]:
    refs = np.empty(piece.rows.num_rows, np.int64)
    for ordinal, start, stop in piece.cuts:
        refs[start:stop] = ordinal * CHUNKS_PER_BATCH + np.arange(stop - start) // CHUNK_ROWS
    bits, made = tags.seal_segments(key, month, run_id, tags.entries(tags.Tagger(key), piece.rows, refs))
    return bits, list(made)
