"""Look-ups: the records in which a number stands, by its keyed tag, a few bytes of each batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Final

import asyncpg
import numpy as np
import pyarrow as pa

from keys.provider import Period
from keys.sealing import HEADER_PREFIX_MAX, parse_header
from proxy.disclosure import hits
from proxy.disclosure.access import Access
from proxy.disclosure.fetching import (
    CLEAR,
    FROM,
    LIST,
    OWN,
    RELISTS,
    ROWS_AT_ONCE,
    Batch,
    Fetched,
    Listed,
    StoreChangingError,
    Unopened,
    after_id,
    batches,
    distinct,
    own,
    project,
    shared_classes,
)
from proxy.disclosure.scope import Position, Scope
from proxy.store import tags
from proxy.store.batches import BATCHES_PER_RUN, LEGS
from proxy.store.columns import ARROW
from proxy.store.opening import ClassKeys, open_chunk_of
from schema.fields import BY_NAME, DisclosureClass

_PRESENT: Final = "SELECT count(*) FROM tollgate.run r WHERE r.month = $1 AND r.run_id = ANY (${})"
CHUNKS_AT_ONCE: Final = 64
"""Chunks that a look-up opens in one piece."""


class Lookup:
    """The chunks in which a number's tag stands."""

    at_once = 1
    """How many of a group's batches are opened depends on what was found in them."""

    def __init__(self, access: Access, scope: Scope, number: str) -> None:
        self._access = access
        self._scope = scope
        self._number = number
        self._chunks: dict[int, dict[int, list[int]]] | None = None
        self._current: dict[int, list[int]] = {}
        self._month = 0

    async def listed(self, position: Position) -> list[Listed]:
        month = position.month
        if await self._access.shredded(month, [DisclosureClass.TIMING, DisclosureClass.PARTIES]):
            return []  # no number can be compared
        if self._chunks is None:
            self._chunks = await self._hits(self._scope.months())
        elif month == self._month:  # asked again: a roll has moved things
            self._chunks |= await self._hits([month])
        self._month = month
        for _ in range(RELISTS):
            self._current = self._chunks.get(month, {})
            if not self._current:
                return []
            rows = await self._list(position)
            if rows is not None:
                return distinct(rows)
            self._chunks |= await self._hits([month])
        raise StoreChangingError

    async def _list(self, position: Position) -> list[asyncpg.Record] | None:
        """Return what is there of the batches; None if a run of theirs has been rolled away since it was searched."""
        scope, month = self._scope, position.month
        runs = sorted({batch_id // BATCHES_PER_RUN for batch_id in self._current})
        async with self._access.permitted(scope, [month]) as conn:
            rows = await conn.fetch(
                LIST.replace(" FROM", f", ({_PRESENT.format(11)}) AS runs FROM", 1) + " AND l.batch_id = ANY ($10)",
                *own(scope, month),
                position.pair_id,
                position.record_id,
                scope.start_us,
                scope.end_us,
                scope.after_id,
                scope.as_of,
                list(self._current),
                runs,
            )
            # Runs never come back: those that are there now were there before.
            present = rows[0]["runs"] if rows else await conn.fetchval(_PRESENT.format(2), month, runs)
        return rows if present == len(runs) else None

    async def _hits(self, months: Sequence[int]) -> dict[int, dict[int, list[int]]]:
        """Return month → batch id → chunks under the number's tag."""
        scope = self._scope
        keys = {
            p.month: k for p, k in (await self._access.keys_of([Period(tags.KEY_CLASS, m) for m in months])).items()
        }
        if not keys:
            return {}
        wanted = {m: np.array([tags.Tagger(k).number(self._number)], np.uint64) for m, k in keys.items()}
        async with self._access.permitted(scope, months, one_moment=True) as conn:
            runs = await hits.runs(conn, list(wanted), scope.after_id, scope.as_of)
            rows = await hits.segments(conn, runs, wanted)
        return await self._access.run(hits.references, rows, wanted, keys)

    def group(self, todo: Sequence[Listed], left: int | None) -> Sequence[Listed]:
        counts = accumulate(len(self._current[b.batch_id]) for b in todo)
        most = CHUNKS_AT_ONCE if left is None else min(left, CHUNKS_AT_ONCE)
        return todo[: 1 + sum(1 for count in counts if count < most)]

    async def fetch(self, month: int, group: Sequence[Listed]) -> Unopened | None:
        shared = shared_classes(self._scope)
        wanted = [(b.batch_id, chunk) for b in group for chunk in sorted(self._current[b.batch_id])]
        heads = ", ".join(f"substring(b.{c.value} from 1 for {HEADER_PREFIX_MAX}) AS {c.value}" for c in shared)
        async with self._access.permitted(self._scope, [month]) as conn:
            rows = await conn.fetch(
                f"SELECT {CLEAR}, substring(l.sealed from 1 for {HEADER_PREFIX_MAX}) AS leg, {heads} {FROM}"
                f" WHERE {OWN} AND l.batch_id = ANY ($4)",
                *own(self._scope, month),
                [b.batch_id for b in group],
            )
            found = batches(month, rows, shared)
            if len(found) != len(group):
                return None
            pieces = await _fetch_chunks(conn, self._scope, month, found, wanted, shared)
        if pieces is None:
            return None
        keys = await self._access.class_keys(self._scope, month)
        await self._access.drop_shredded(month, [p.sealed for p in pieces], keys)
        return partial(_open_pieces, self._scope, pieces, keys, self._number)


@dataclass(slots=True)
class _Piece:
    """One chunk of a batch: its ciphertext in each class."""

    batch: Batch
    chunk: int
    sealed: dict[DisclosureClass, bytes] = field(default_factory=dict)


async def _fetch_chunks(
    conn: asyncpg.Connection,
    scope: Scope,
    month: int,
    found: dict[int, Batch],
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
        f" {FROM} JOIN unnest({arrays}) w({shape}) ON w.batch_id = l.batch_id AND w.side = l.side WHERE {OWN}"
        " AND l.batch_id = ANY ($4)",
        *own(scope, month),
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


def _open_pieces(
    scope: Scope, pieces: Sequence[_Piece], keys: ClassKeys, number: str, position: Position, left: int | None
) -> Fetched:
    enough = ROWS_AT_ONCE if left is None else min(left, ROWS_AT_ONCE)
    value = int(number[1:]) if number.startswith("+") else number
    found = _Found()
    spans: list[tuple[int, int]] = []
    done: list[Batch] = []
    for piece in pieces:
        batch = piece.batch
        if not done or batch is not done[-1]:
            if found.rows >= enough:  # a number that stands in every record: memory stays bounded, batch by batch
                break
            done.append(batch)
        if DisclosureClass.PARTIES not in piece.sealed:
            continue
        opened = {
            cls: open_chunk_of(keys, batch.shape, cls, batch.ocn(cls), batch.blobs[cls], piece.chunk, sealed)
            for cls, sealed in piece.sealed.items()
        }
        # A tag may be shared by two values: only rows in which the number really stands go on.
        rows = opened[DisclosureClass.PARTIES].find(value)
        if not len(rows):
            continue
        values: dict[str, list[Any]] = {}
        for cls, chunk in opened.items():
            if cls in scope.classes or cls is DisclosureClass.TIMING:
                values |= chunk.take(rows)
        after = after_id(scope, batch.shape, position)
        wanted = [
            after < record_id <= scope.as_of and scope.start_us <= started < scope.end_us
            for record_id, started in zip(values["record_id"], values["started_at"], strict=True)
        ]
        found.add(values, wanted)
        spans.append((sum(wanted), batch.shape.pair_id))
    return Fetched(project(scope, found.table()), spans, len(done))


class _Found:
    """The rows found so far, column by column: a handful from each chunk, so in Python's own lists."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {"record_id": []}
        self.rows = 0

    def add(self, values: dict[str, list[Any]], wanted: list[bool]) -> None:
        for name, column in values.items():
            held = self._columns.setdefault(name, [])
            held.extend([None] * (self.rows - len(held)))
            held.extend(v for v, keep in zip(column, wanted, strict=True) if keep)
        self.rows += sum(wanted)

    def table(self) -> pa.Table:
        out = {}
        for name, column in self._columns.items():
            column.extend([None] * (self.rows - len(column)))
            kind = ARROW[BY_NAME[name].kind] if name in BY_NAME else pa.string()
            out[name] = (
                pa.array(column, pa.int64()).view(kind) if pa.types.is_timestamp(kind) else pa.array(column, kind)
            )
        return pa.table(out)
