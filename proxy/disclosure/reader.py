"""Reading records out of the store, within a scope that a permit has fixed.

Everything here runs as the role ``tollgate_billing`` under row-level security: the permit's OCNs and months are set for
each transaction, so a wrong predicate in this file still finds no other carrier's batch. A class that the scope does
not reach is not selected and not decrypted, but for the peer's own leg: it alone is bound to the OCN by which the batch
was chosen, so it is opened to prove the choice, and dropped where the scope does not reach it.

Pieces are ordered by (month, pair, record id). Rolling keeps that order while it replaces batches: a reader lists the
batches of a month, fetches a few at a time by id, and lists again from its position when one has gone. Within a piece
records stand in the order of their ids, so that small pairs do not show. A slow consumer holds no connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from functools import partial
from itertools import accumulate, takewhile
from threading import Lock
from typing import TypeVar

import asyncpg
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keys.datakeys import DataKeys
from proxy.disclosure.access import Access
from proxy.disclosure.fetching import (
    CLEAR,
    FROM,
    LIST,
    OWN,
    ROWS_AT_ONCE,
    Batch,
    Fetched,
    Listed,
    Source,
    Unopened,
    after_id,
    batches,
    distinct,
    own,
    project,
    shared_classes,
)
from proxy.disclosure.lookup import Lookup
from proxy.disclosure.pieces import Work, pieces
from proxy.disclosure.scope import Position, Scope
from proxy.store import columns
from proxy.store.batches import CLASS_FIELDS, int64s
from proxy.store.opening import ClassKeys, SealedClass, unseal
from schema.fields import DisclosureClass

T = TypeVar("T")


class StoreReader:
    """Streams and looks up records for one gateway."""

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys, executor: Executor) -> None:
        """Use a pool of the billing role; open and encode in ``executor``."""
        self._access = Access(pool, keys, executor)

    async def complete_to(self) -> int:
        """Return the store sequence up to which every record can be read."""
        return int(await self._access.pool.fetchval("SELECT tollgate.complete_to()"))

    def stream(
        self, scope: Scope, after: Position | None, work: Work[T], limit: int | None = None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """Yield what ``work`` makes of each piece, its number of records, and the position after it.

        ``work`` runs in the executor; what it returns is called there too, of some pieces at the same time. No piece is
        empty. At most ``limit`` records are read out in all.
        """
        return self._drive(scope, after, work, limit, _Whole(self._access, scope))

    def search(
        self, scope: Scope, number: str, after: Position | None, work: Work[T], limit: int | None = None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """Like :meth:`stream`, for the records in which ``number`` stands in a party field.

        Args:
            number: ``+`` and E.164 digits, or raw text as it stands in the record.

        Raises:
            ValueError: if the scope does not reach the parties: a search would then tell what it may not.
        """
        if DisclosureClass.PARTIES not in scope.classes:
            raise ValueError("a search needs the parties class")
        return self._drive(scope, after, work, limit, Lookup(self._access, scope, number))

    async def _drive(
        self, scope: Scope, after: Position | None, work: Work[T], limit: int | None, source: Source
    ) -> AsyncIterator[tuple[T, int, Position]]:
        left = limit
        for month in scope.months():
            if after is not None and month < after.month:
                continue
            start = after if after is not None and after.month == month else Position(month, 0, 0)
            async with aclosing(pieces(self._access, source, start, left, work)) as made:
                async for piece in made:
                    yield piece.values[0], piece.rows, piece.position
                    if left is not None:
                        left -= piece.rows
                        if left <= 0:
                            return


class _Whole:
    """Whole batches of the scope."""

    at_once = 2

    def __init__(self, access: Access, scope: Scope) -> None:
        self._access = access
        self._scope = scope

    async def listed(self, position: Position) -> list[Listed]:
        scope = self._scope
        if await self._access.shredded(position.month, [DisclosureClass.TIMING]):
            return []  # which records there were, nobody can say
        async with self._access.permitted(scope, [position.month]) as conn:
            rows = await conn.fetch(
                LIST,
                *own(scope, position.month),
                position.pair_id,
                position.record_id,
                scope.start_us,
                scope.end_us,
                scope.after_id,
                scope.as_of,
            )
        return distinct(rows)

    def group(self, todo: Sequence[Listed], left: int | None) -> Sequence[Listed]:
        wanted = ROWS_AT_ONCE if left is None else min(left, ROWS_AT_ONCE)
        before = accumulate(b.rows for b in todo)
        return todo[: 1 + sum(1 for _ in takewhile(lambda rows: rows < wanted, before))]

    async def fetch(self, month: int, group: Sequence[Listed]) -> Unopened | None:
        shared = shared_classes(self._scope)
        columns = ", ".join(f"b.{c.value}" for c in shared)
        async with self._access.permitted(self._scope, [month]) as conn:
            rows = await conn.fetch(
                f"SELECT {CLEAR}, l.sealed AS leg, {columns} {FROM} WHERE {OWN} AND l.batch_id = ANY ($4)",
                *own(self._scope, month),
                [b.batch_id for b in group],
            )
        found = batches(month, rows, shared)
        if len(found) != len(group):
            return None
        keys = await self._access.class_keys(self._scope, month)
        await self._access.drop_shredded(month, [b.blobs for b in found.values()], keys)
        return partial(_open_batches, self._access.turn, self._scope, [found[b.batch_id] for b in group], keys)


def _open_batches(
    turn: Lock, scope: Scope, batches: Sequence[Batch], keys: ClassKeys, position: Position, _left: int | None
) -> Fetched:
    chunks = {}
    for cls in sorted({cls for b in batches for cls in b.blobs}):
        parts = [SealedClass(b.shape, b.ocn(cls) if cls in b.blobs else 0, b.blobs.get(cls)) for b in batches]
        chunks[cls] = unseal(keys, cls, parts)
    with turn:
        return _records(scope, batches, chunks, position)


def _records(
    scope: Scope,
    batches: Sequence[Batch],
    chunks: Mapping[DisclosureClass, Sequence[columns.Chunk | int]],
    position: Position,
) -> Fetched:
    found: dict[str, pa.Array] = {}
    for cls, parts in chunks.items():
        if cls in scope.classes or cls is DisclosureClass.TIMING:
            found |= columns.assemble(parts, CLASS_FIELDS[cls], coded=True)
    table = pa.table(found)
    spans = [(b.shape.rows, b.shape.pair_id) for b in batches]
    if (wanted := _wanted(scope, batches, table, position)) is not None:
        table = table.filter(pa.array(wanted))
        edges = np.cumsum([0, *(b.shape.rows for b in batches)])
        counts = np.diff(np.concatenate([[0], np.cumsum(wanted)])[edges])
        spans = [(int(n), b.shape.pair_id) for n, b in zip(counts, batches, strict=True)]
    return Fetched(project(scope, table), spans, len(batches))


def _wanted(
    scope: Scope, batches: Sequence[Batch], table: pa.Table, position: Position
) -> npt.NDArray[np.bool_] | None:
    """Say which records are within the scope and after the position; None if all are."""
    after = np.array([after_id(scope, b.shape, position) for b in batches], np.int64)
    shapes = [b.shape for b in batches]
    if all(
        s.first_record_id > a and s.last_record_id <= scope.as_of for s, a in zip(shapes, after, strict=True)
    ) and all(s.first_start >= scope.start_us and s.last_start < scope.end_us for s in shapes):
        return None
    ids, started = int64s(table, "record_id"), int64s(table, "started_at")
    floor = np.repeat(after, [s.rows for s in shapes])
    wanted: npt.NDArray[np.bool_] = (ids > floor) & (ids <= scope.as_of)
    return wanted & (started >= scope.start_us) & (started < scope.end_us)
