"""Reading the store for a count: as the privacy role, timing and parties only, over every carrier's batches.

Two questions are asked of it. *Where are these records?*: batches whose record ids meet a set. *What would that answer
have held?*: for an access without outcome, what its pinned scope holds after a place, in the order and up to the limit
of the answer itself. A month is read in one snapshot, so a roll that runs meanwhile moves no record past the count.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import asyncpg
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyroaring import BitMap64

from keys.datakeys import DataKey, DataKeys
from keys.errors import KeyUnavailable
from keys.provider import Period
from proxy.disclosure.exposure_trail import LegalScope
from proxy.disclosure.records import Ids, bitmap_of
from proxy.disclosure.scope import SIDES, Position, Scope
from proxy.policy.counting import FIELDS, PARTIES
from proxy.store import columns
from proxy.store.batches import Shape, int64s
from proxy.store.opening import ClassKeys, SealedClass, open_class
from schema.fields import DisclosureClass, ocn_code

BATCHES_AT_ONCE: Final = 8
"""Batches that are opened together: at most 65,536 records."""

_CLEAR: Final = """batch_id, pair_id, ingress_ocn, egress_ocn, rows, first_record_id, last_record_id, first_start,
    last_start, format, classes"""
_LIST: Final = f"""
SELECT {_CLEAR} FROM tollgate.batch
WHERE month = $1 AND (ingress_ocn = ANY ($2) OR egress_ocn = ANY ($3)) AND ingress_ocn <> -2 AND egress_ocn <> -2
    AND last_record_id >= $4 AND first_record_id <= $5 ORDER BY pair_id, last_record_id
"""
"""Of a peer's reach: an unmapped call is disclosed to none."""
_LIST_ALL: Final = f"""
SELECT {_CLEAR} FROM tollgate.batch
WHERE month = $1 AND last_record_id >= $2 AND first_record_id <= $3 ORDER BY pair_id, last_record_id
"""
_FETCH: Final = {
    False: "SELECT batch_id, timing FROM tollgate.batch WHERE month = $1 AND batch_id = ANY ($2)",
    True: "SELECT batch_id, timing, parties FROM tollgate.batch WHERE month = $1 AND batch_id = ANY ($2)",
}
_PERMIT: Final = "SELECT set_config('tollgate.first_month', $1, true), set_config('tollgate.last_month', $1, true)"
_SPAN: Final = "SELECT min(first_record_id), max(last_record_id) FROM tollgate.batch WHERE month = $1"
_NEEDED: Final = frozenset(FIELDS)

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Opened:
    """Records of some batches as far as a count needs them; within a batch ascending by id."""

    ids: Ids
    started_us: npt.NDArray[np.int64]
    legs: list[tuple[int, int, int, int]]
    """For each batch in turn: its rows, its pair, and the codes of its ingress and egress OCN."""
    table: pa.Table | None
    """The party columns; None where they were not asked for, or the month's key of that class is gone."""

    def per_batch(self, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return one value of each batch, spread over its rows."""
        return np.repeat(values, [rows for rows, *_ in self.legs])

    def numbers(self, rows: npt.NDArray[np.bool_], fields: Collection[str]) -> tuple[Numbers, list[str]]:
        """Return the distinct E.164 numbers (digits as integers) and the texts that are none, of some rows' fields."""
        found: list[Numbers] = []
        raws: set[str] = set()
        assert self.table is not None, "the parties were opened"
        mask = None if rows.all() else pa.array(rows)
        for name in PARTIES:
            if name not in fields:
                continue
            if name in self.table.schema.names:
                column = self.table.column(name)
                values = (column if mask is None else column.filter(mask)).drop_null()
                found.append(values.to_numpy().astype(np.uint64, copy=False))
            if name + "_raw" in self.table.schema.names:
                column = self.table.column(name + "_raw")
                kept = (column if mask is None else column.filter(mask)).drop_null()
                raws.update(pc.unique(kept).to_pylist())
        every = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)
        return every, sorted(raws)


class CountingStore:
    """The store as the privacy role sees it.

    Args:
        pool: connections of role PRIVACY.
        keys: the data keys; only those of timing and parties are asked for.
        executor: threads in which records are opened.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys, executor: Executor) -> None:
        self._pool = pool
        self._keys = keys
        self._executor = executor

    async def month_ids(self, month: int) -> tuple[int, int] | None:
        """Return the lowest and highest record id of a month; None where it holds none."""
        async with self._month(month) as conn:
            low, high = await conn.fetchrow(_SPAN, month)
        return None if low is None else (low, high)

    async def readable(self, months: Collection[int]) -> set[int]:
        """Return the months of which the parties can be opened: a shredded month has no key."""
        async with self._pool.acquire() as conn:
            return {m for m in months if await self._key(conn, DisclosureClass.PARTIES, m)}

    async def records(self, month: int, ocns: Collection[str] | None, wanted: BitMap64) -> AsyncGenerator[Opened]:
        """Yield the batches of a month that hold records of a set; of which any of ``ocns`` is a leg, or None: all."""
        if not wanted:
            return
        codes = None if ocns is None else [ocn_code(o) for o in ocns]

        def meets(r: asyncpg.Record) -> bool:
            return bool(wanted.range_cardinality(r["first_record_id"], r["last_record_id"] + 1))

        ask = month, codes, codes, int(wanted.min()), int(wanted.max())
        async with contextlib.aclosing(self._opened(ask, meets, True)) as batches:
            async for opened in batches:
                yield opened

    async def extracted(self, scope: LegalScope) -> BitMap64:
        """Return what an extraction would have held: all that its scope has.

        This role opens no class but timing and parties: where a target is a trunk or an account, whatever the window
        holds counts.
        """
        found = BitMap64()
        targets = scope.targets
        numbers = targets.classes <= {DisclosureClass.PARTIES}
        start = Position(0, 0, 0)
        for month in scope.months():
            ask = month, None, None, 1, scope.as_of
            pieces = self._opened(ask, functools.partial(_reaches, scope, start), numbers)
            async with contextlib.aclosing(pieces) as batches:
                async for opened in batches:
                    mask = (opened.ids <= scope.as_of) & (opened.started_us >= scope.start_us)
                    mask &= opened.started_us < scope.end_us
                    if numbers and opened.table is not None:
                        columns_of = {n: opened.table.column(n) for n in opened.table.schema.names}
                        mask &= targets.match(columns_of, len(mask))
                    found |= bitmap_of(np.sort(opened.ids[mask]))
        return found

    async def remainder(self, scope: Scope, after: Position | None, number: str | None, limit: int) -> BitMap64:
        """Return what an answer would have held after a place: the first ``limit`` records of its scope, in order."""
        found = BitMap64()
        codes = [ocn_code(o) for o in scope.ocns]
        ingress, egress = (codes if side in scope.sides else [] for side in SIDES)
        for month in scope.months():
            if after is not None and month < after.month:
                continue
            start = after if after is not None and after.month == month else Position(month, 0, 0)
            ask = month, ingress, egress, scope.after_id + 1, scope.as_of
            pieces = self._opened(ask, functools.partial(_reaches, scope, start), number is not None)
            async with contextlib.aclosing(pieces) as batches:
                async for opened in batches:
                    ids = opened.ids[_wanted(scope, start, number, opened)]
                    found |= bitmap_of(np.sort(ids[: limit - len(found)]))
                    if len(found) >= limit:
                        return found
        return found

    @contextlib.asynccontextmanager
    async def _month(self, month: int) -> AsyncIterator[asyncpg.Connection]:
        async with self._pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.execute(_PERMIT, str(month))
            yield conn

    async def _key(self, conn: asyncpg.Connection, cls: DisclosureClass, month: int) -> DataKey | None:
        """Return a class's key; None where there is none or it was destroyed."""
        period = Period(cls.value, month)
        with contextlib.suppress(KeyUnavailable):
            return (await self._keys.load(conn, [period])).get(period)
        return None

    async def _opened(
        self,
        ask: tuple[int, list[int] | None, list[int] | None, int, int],
        meets: Callable[[asyncpg.Record], bool],
        parties: bool,
    ) -> AsyncGenerator[Opened]:
        month, ingress, *_ = ask
        async with self._month(month) as conn:
            listed = conn.fetch(_LIST, *ask) if ingress is not None else conn.fetch(_LIST_ALL, month, *ask[3:])
            todo = [r for r in await listed if meets(r)]
            if not todo:
                return
            wanted = [DisclosureClass.TIMING] + [DisclosureClass.PARTIES] * parties
            loaded = {c: await self._key(conn, c, month) for c in wanted}
            keys = {c: key for c, key in loaded.items() if key is not None}
            if DisclosureClass.TIMING not in keys:
                return  # shredded: which records these were, only the log knows
            fetch = _FETCH[DisclosureClass.PARTIES in keys]
            for start in range(0, len(todo), BATCHES_AT_ONCE):
                part = todo[start : start + BATCHES_AT_ONCE]
                rows = await conn.fetch(fetch, month, [r["batch_id"] for r in part])
                blobs = {r["batch_id"]: r for r in rows}
                loop = asyncio.get_running_loop()
                yield await loop.run_in_executor(self._executor, _open, month, part, blobs, keys)


def _open(
    month: int, batches: Sequence[asyncpg.Record], blobs: Mapping[int, asyncpg.Record], keys: ClassKeys
) -> Opened:
    shapes = [Shape.of_batch(month, r) for r in batches]
    found = {}
    for cls in keys:
        parts = [SealedClass(s, 0, blobs[s.object_id][cls.value]) for s in shapes]
        found[cls] = pa.table(open_class(keys, cls, parts, only=_NEEDED))
    timing = found[DisclosureClass.TIMING]
    legs = [(r["rows"], r["pair_id"], r["ingress_ocn"], r["egress_ocn"]) for r in batches]
    return Opened(int64s(timing, "record_id"), int64s(timing, "started_at"), legs, found.get(DisclosureClass.PARTIES))


def _reaches(scope: Scope | LegalScope, start: Position, r: asyncpg.Record) -> bool:
    place = r["pair_id"], r["last_record_id"]
    inside = r["first_start"] < scope.end_us and r["last_start"] >= scope.start_us
    return bool(inside and place > (start.pair_id, start.record_id))


def _wanted(scope: Scope, start: Position, number: str | None, opened: Opened) -> npt.NDArray[np.bool_]:
    """Say which records an answer of ``scope`` after ``start`` would have held."""
    pairs = opened.per_batch(np.array([pair for _, pair, *_ in opened.legs], np.int32))
    floor = np.where(pairs == start.pair_id, max(scope.after_id, start.record_id), scope.after_id)
    mask: npt.NDArray[np.bool_] = (opened.ids > floor) & (opened.ids <= scope.as_of)
    mask &= (opened.started_us >= scope.start_us) & (opened.started_us < scope.end_us)
    if number is not None and opened.table is not None:  # without the parties any of them may bear it
        mask &= _bears(opened.table, number, len(mask))
    return mask


def _bears(table: pa.Table, number: str, rows: int) -> npt.NDArray[np.bool_]:
    """Say in which records ``number`` (``+`` and digits, or raw text) stands in a party field."""
    found = np.zeros(rows, np.bool_)
    for name in PARTIES:
        column, value = (name, int(number[1:])) if number.startswith("+") else (name + "_raw", number)
        if column in table.schema.names:
            same = pc.fill_null(pc.equal(table.column(column), value), False)
            found |= columns.one(same).to_numpy(zero_copy_only=False)
    return found
