"""The canonical frame: what every profile turns its lines into, one row for each good line.

It is made from :data:`schema.fields.FIELDS`, so a field added there stands here too. ``record_id`` and ``ingest_id``
are missing: the store gives them.
"""

from __future__ import annotations

import polars as pl

from schema.fields import FIELDS, Field, Kind

LINE_NUMBER = "line_number"
RAW_SUFFIX = "_raw"
"""A NUMBER field ``x`` is two columns: ``x`` (E.164 digits) and ``x_raw`` (what could not be one)."""

STORE_FIELDS = frozenset({"record_id", "ingest_id"})
"""Fields that the store fills, not the file."""

_TYPES: dict[Kind, pl.DataType] = {
    Kind.ID: pl.Int64(),
    Kind.TIME: pl.Datetime("us", "UTC"),
    Kind.INT: pl.Int64(),
    Kind.DECIMAL: pl.Int64(),
    Kind.TEXT: pl.String(),
}

FILE_FIELDS: tuple[Field, ...] = tuple(f for f in FIELDS if f.name not in STORE_FIELDS and f.name != LINE_NUMBER)
"""The fields a profile can map, in canonical order."""


def _schema() -> dict[str, pl.DataType]:
    out: dict[str, pl.DataType] = {}
    for field in FIELDS:
        if field.name in STORE_FIELDS:
            continue
        if field.kind is Kind.NUMBER:
            out[field.name] = pl.UInt64()
            out[field.name + RAW_SUFFIX] = pl.String()
        else:
            out[field.name] = _TYPES[field.kind]
    return out


FRAME_SCHEMA: dict[str, pl.DataType] = _schema()
"""Column name → type, in order. TIME: UTC microseconds; DECIMAL: integer units of 10^-8; NUMBER: see RAW_SUFFIX."""


def nulls(size: int, dtype: pl.DataType) -> pl.Series:
    """Return a series of ``size`` nulls."""
    return pl.Series([None], dtype=dtype).new_from_index(0, size)
