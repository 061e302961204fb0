"""Tables of records in memory: joining what was opened piece by piece, where text may be coded by dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def _spelled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def spelled(table: pa.Table) -> pa.Table:
    """Return the table with every text column as plain strings."""
    return pa.table(dict(zip(table.schema.names, map(_spelled, table.columns), strict=True)))


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Join tables one below the other. A column that one lacks is null in it; one coded in some only becomes plain."""
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for f in table.schema:
            types.setdefault(f.name, set()).add(f.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    if mixed:
        tables = [
            pa.table({n: _spelled(c) if n in mixed else c for n, c in zip(t.schema.names, t.columns, strict=True)})
            for t in tables
        ]
    return pa.concat_tables(tables, promote_options="default")


def whole(table: pa.Table) -> pa.Table:
    """Return the table with each column in one piece, and one dictionary where it is coded."""
    columns = (c.unify_dictionaries() if pa.types.is_dictionary(c.type) else c for c in table.columns)
    return pa.table({n: one(c) for n, c in zip(table.schema.names, columns, strict=True)})


def one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
