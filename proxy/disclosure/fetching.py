"""Statements of the reader, and batches as far as they were fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import asyncpg
import pyarrow as pa

from proxy.disclosure.scope import SIDES, Position, Scope
from proxy.store.batches import LEGS, SHARED, Shape
from schema.fields import DisclosureClass, fields_of, ocn_code

CLEAR: Final = """b.batch_id, b.pair_id, b.rows, b.first_record_id, b.last_record_id, b.first_start, b.last_start,
    b.format, b.classes, l.side, l.ocn"""
FROM: Final = "FROM tollgate.batch_leg l JOIN tollgate.batch b ON b.month = l.month AND b.batch_id = l.batch_id"
OWN: Final = "l.month = $1 AND l.mapped AND l.ocn = ANY ($2) AND l.side = ANY ($3)"
LIST: Final = f"""
SELECT b.batch_id, b.pair_id, b.last_record_id, b.rows {FROM}
WHERE {OWN} AND (l.pair_id > $4 OR (l.pair_id = $4 AND l.last_record_id > $5))
    AND b.first_start < $7 AND b.last_start >= $6 AND b.last_record_id > $8 AND b.first_record_id <= $9
"""


RELISTS: Final = 50
"""A batch that stays gone so often was not rolled away: something is wrong with the store."""


class StoreChangingError(Exception):
    """A batch that is listed cannot be fetched; ``tollgate store check`` says what is wrong."""


ROWS_AT_ONCE: Final = 12_000
"""A piece is complete when it has so many records (a last batch may add 8,191)."""


@dataclass(slots=True)
class Batch:
    """A batch as far as it was fetched: whole ciphertexts, or the first bytes of them."""

    shape: Shape
    own: dict[int, int] = field(default_factory=dict)
    """Side → OCN code, of the sides that are the peer's own and asked for."""
    blobs: dict[DisclosureClass, bytes] = field(default_factory=dict)

    def ocn(self, cls: DisclosureClass) -> int:
        """The OCN that a class is bound to."""
        return next((self.own[side] for side, leg in LEGS.items() if leg is cls), 0)


@dataclass(frozen=True, slots=True)
class Listed:
    """A batch of the answer, before it is fetched."""

    batch_id: int
    pair_id: int
    last_record_id: int
    rows: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Opened records of some batches, in order."""

    table: pa.Table
    spans: list[tuple[int, int]]
    """(records, pair id) of each part of the table, in order."""
    batches: int
    """So many of the group's batches, from its first, were opened: at least one."""

    def pair_at(self, row: int) -> int:
        """Return the pair of one record."""
        for rows, pair in self.spans:
            row -= rows
            if row < 0:
                return pair
        raise IndexError(row)


Unopened: TypeAlias = Callable[[Position, int | None], Fetched]
"""Opens what was fetched, in a thread: the records after the position, of which so many are enough."""


class Source(Protocol):
    """Where the records of a month come from: whole batches, or the chunks in which a number stands."""

    at_once: int
    """Groups that may be opened at the same time; more than one only where a group is always opened whole."""

    async def listed(self, position: Position) -> list[Listed]:
        """Return the batches after a position, in order."""

    def group(self, todo: Sequence[Listed], left: int | None) -> Sequence[Listed]:
        """Return the batches to fetch next, of which ``left`` records at most are wanted."""

    async def fetch(self, month: int, group: Sequence[Listed]) -> Unopened | None:
        """Fetch those batches; None if one is gone."""


def after_id(scope: Scope, shape: Shape, position: Position) -> int:
    """Return the record id after which a batch's records are wanted."""
    return max(scope.after_id, position.record_id) if position.pair_id == shape.pair_id else scope.after_id


def own(scope: Scope, month: int) -> tuple[int, list[int], list[int]]:
    """Return the first three parameters of every statement: month, OCN codes, sides."""
    return month, [ocn_code(o) for o in scope.ocns], [SIDES[s] for s in scope.sides]


def distinct(rows: Iterable[asyncpg.Record]) -> list[Listed]:
    """A batch whose both sides are the peer's own comes twice."""
    found = {r["batch_id"]: Listed(r["batch_id"], r["pair_id"], r["last_record_id"], r["rows"]) for r in rows}
    return sorted(found.values(), key=lambda b: (b.pair_id, b.last_record_id))


def shared_classes(scope: Scope) -> list[DisclosureClass]:
    """Return the classes to fetch that are not a side's; timing always, for its record ids and starts."""
    return [c for c in SHARED if c in scope.classes or c is DisclosureClass.TIMING]


def batches(month: int, rows: Iterable[asyncpg.Record], shared: Sequence[DisclosureClass]) -> dict[int, Batch]:
    """Return the batches of a statement that selects CLEAR, ``leg`` and the shared classes."""
    out: dict[int, Batch] = {}
    for r in rows:
        shape = Shape.of_batch(month, r)
        batch = out.setdefault(r["batch_id"], Batch(shape))
        batch.own[r["side"]] = r["ocn"]
        batch.blobs[LEGS[r["side"]]] = r["leg"]
        batch.blobs.update((c, r[c.value]) for c in shared if r[c.value] is not None)
    return out


def project(scope: Scope, table: pa.Table) -> pa.Table:
    """Without the timing class only the record's id goes out of it."""
    if DisclosureClass.TIMING in scope.classes:
        return table
    drop = [f.name for f in fields_of(DisclosureClass.TIMING) if f.name != "record_id"]
    return table.select([n for n in table.schema.names if n not in drop])
