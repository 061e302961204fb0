"""Records in the order of their starts, out of batches that overlap: what is certain to come first goes on. Pure.

Batches come in the order of their first record. Whatever starts before the first record of every batch still to come is
complete, and is cut into pieces of one size. So the pieces hang on the records alone, not on how they lay in batches:
after a crash, or with a roll between, the same pieces are made again. What waits is bounded by what overlaps: at most a
batch's matching records for each pair of carriers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from proxy.store.batches import int64s
from proxy.store.columns import ARROW
from schema.fields import BY_NAME, Kind

PIECE_ROWS: Final = 65_536
"""Records of a piece; the last has what is left."""

_FLAG: Final = "held.preserved"


def held_schema(kept: tuple[str, ...]) -> pa.Schema:
    """Return the columns of every piece of a hold that keeps these fields: numbers with ``<name>_raw`` beside."""
    out = []
    for name in kept:
        out.append(pa.field(name, ARROW[BY_NAME[name].kind]))
        if BY_NAME[name].kind is Kind.NUMBER:
            out.append(pa.field(name + "_raw", pa.string()))
    return pa.schema(out)


class Sweep:
    """Takes matching records in any order within what overlaps; gives pieces in order.

    Args:
        schema: of the pieces.
        at_us: the start of the last record that is written already (after a crash), and
        skip: how many that start then are.
    """

    def __init__(self, schema: pa.Schema, at_us: int = 0, skip: int = 0, piece_rows: int = PIECE_ROWS) -> None:
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._ready: list[pa.Table] = []
        self._at_us, self._skip = at_us, skip
        self._piece_rows = piece_rows
        self.rows = 0
        """Records that wait."""

    def add(self, table: pa.Table, *, preserved: bool = False) -> None:
        """Take records; of one that also was preserved, the store's own stands."""
        if not table.num_rows:
            return
        names = set(table.schema.names)
        columns = [
            table.column(f.name).cast(f.type) if f.name in names else pa.nulls(table.num_rows, f.type)
            for f in self._schema
        ]
        flag = np.full(table.num_rows, preserved)
        self._waiting.append(pa.table([*columns, flag], schema=self._schema.append(pa.field(_FLAG, pa.bool_()))))
        self.rows += table.num_rows

    @property
    def enough(self) -> bool:
        """Whether there may be a whole piece."""
        return self.rows >= self._piece_rows

    def pieces(self, floor_us: int | None) -> Iterator[pa.Table]:
        """Yield the whole pieces of records that start before ``floor_us``; None: all that is left, the last as it is.

        Nothing is sorted before there is enough for a piece.
        """
        if self.enough or floor_us is None:
            self._settle(floor_us)
            whole = sum(t.num_rows for t in self._ready)
            ready = pa.concat_tables(self._ready) if self._ready else self._schema.empty_table()
            at = 0
            while whole - at >= self._piece_rows or (floor_us is None and at < whole):
                rows = min(self._piece_rows, whole - at)
                # Taken and not sliced: a slice's buffers show where it was cut, and equal pieces shall be equal bytes.
                yield ready.take(pa.array(np.arange(at, at + rows))).combine_chunks()
                at += rows
                self.rows -= rows
            self._ready = [ready.slice(at)] if at < whole else []

    def _settle(self, floor_us: int | None) -> None:
        """Sort what waits; move what starts before the floor to what is ready."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        ids, started = int64s(table, "record_id"), int64s(table, "started_at")
        ingest, line = (table.column(n).fill_null(-1).to_numpy() for n in ("ingest_id", "line_number"))
        flags = table.column(_FLAG).to_numpy()
        if floor_us is not None and not (started < floor_us).any():
            return
        order = np.lexsort((ids, flags, line, ingest, started))
        cut = len(order) if floor_us is None else int(np.searchsorted(started[order], floor_us, "left"))
        later, order = order[cut:], order[:cut]
        # The same line of the same input is the same record, also where a new carrier map has given it a new id.
        same = (
            (ingest[order][1:] == ingest[order][:-1]) & (line[order][1:] == line[order][:-1]) & (ingest[order][1:] >= 0)
        )
        same |= ids[order][1:] == ids[order][:-1]
        keep = order[np.concatenate(([True], ~same))] if len(order) else order
        self.rows -= len(order) - len(keep)
        if self._skip:
            done = min(self._skip, int((started[keep] == self._at_us).sum()))
            keep, self._skip = keep[done:], 0
            self.rows -= done
        names = self._schema.names
        self._ready.append(table.take(pa.array(keep)).select(names))
        self._waiting = [table.take(pa.array(later))] if len(later) else []
