"""Texts, integers, durations and money of a profile's fields, as expressions and whole columns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import polars as pl

from proxy.formats.profile import FieldSource
from proxy.formats.times import Problems
from schema.fields import DECIMAL_SCALE, DURATION_MAX_S

DURATION_MAX_MS: Final = DURATION_MAX_S * 1_000
"""A call of more than a year is a broken counter."""


@dataclass(frozen=True, slots=True)
class Values:
    """One column of integers."""

    values: pl.Series
    """Int64, null where there is none or it is wrong."""
    problems: Problems


def _absent(column: pl.Expr, absent: Collection[str]) -> pl.Expr:
    return pl.when(~column.is_in(list(absent))).then(column) if absent else column


def _joined(columns: list[pl.Expr], between: str) -> pl.Expr:
    """Join columns; ``address:port`` puts an IPv6 address into brackets (RFC 3986 s.3.2.2)."""
    first = columns[0]
    if between == ":":
        bare = first.str.contains(":", literal=True) & ~first.str.starts_with("[")
        first = pl.when(bare).then(pl.format("[{}]", first)).otherwise(first)
    rest = [
        pl.when(c.is_not_null()).then(pl.format("{}{}", pl.lit(between), c)).otherwise(pl.lit("")) for c in columns[1:]
    ]
    return pl.when(columns[0].is_not_null()).then(pl.concat_str(first, *rest))


def column_text(source: FieldSource, column: pl.Expr) -> pl.Expr:
    """Return what one column says for a field: absent texts, parameter and pattern applied."""
    text = _absent(column, source.absent)
    if source.param is not None:
        text = text.str.extract(rf"(?i);{source.param}=([^;>?\s]+)")
    if source.pattern is not None:
        text = pl.coalesce(text.str.extract(source.pattern), text)
    return text


def source_text(source: FieldSource, present: Collection[str]) -> pl.Expr:
    """Return a field's text: the first usable of its columns that the file has, mapped, conditioned, else its value.

    Args:
        source: where the field comes from.
        present: names of the file's columns.
    """
    columns = [column_text(source, pl.col(c)) for c in source.columns if c in present]
    text: pl.Expr = pl.lit(None, pl.String)
    if columns and source.join is not None:
        text = _joined(columns, source.join)
    elif columns:
        text = pl.coalesce(columns)
    if source.map:
        default = text if source.otherwise is None else pl.lit(source.otherwise)
        mapped = text.replace_strict(
            list(source.map), list(source.map.values()), default=default, return_dtype=pl.String
        )
        mapped = pl.when(text.is_not_null()).then(mapped)
        text = pl.when(mapped != "").then(mapped)
    if source.when is not None:
        text = pl.when(pl.col(source.when[0]).is_in(list(source.when[1]))).then(text)
    if source.value:
        text = text.fill_null(pl.lit(source.value))
    return text


def _bad(text: pl.Series, values: pl.Series) -> pl.Series:
    return text.is_not_null() & values.is_null()


def integers(text: pl.Series) -> Values:
    """Read whole numbers."""
    values = text.cast(pl.Int64, strict=False)
    return Values(values, [("integer.unreadable", _bad(text, values))])


def _fixed_point(text: pl.Series, places: int) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return (Int64 in units of 10^-places, cut where finer; unreadable; finer than that). Exact, without floats."""
    plain = rf"^-?[0-9]{{1,10}}(\.[0-9]{{0,{places}}})?$"
    value = pl.when(pl.col("t").str.contains(plain)).then(pl.col("t")).cast(pl.Decimal(38, places), strict=False)
    values = pl.DataFrame({"t": text}).select(value.to_physical().cast(pl.Int64))["t"]
    unreadable = _bad(text, values)
    if not bool(unreadable.any()):
        return values, unreadable, unreadable
    return _finer_point(text, values, places)


def _finer_point(text: pl.Series, values: pl.Series, places: int) -> tuple[pl.Series, pl.Series, pl.Series]:
    """As :func:`_fixed_point`, for what has more places than are held: perhaps only zeros."""
    col, read = pl.col("t"), pl.col("v")
    long = read.is_null() & col.str.contains(rf"^-?[0-9]{{1,10}}\.[0-9]{{{places + 1},}}$")
    cut = (
        pl.when(long)
        .then(col.str.extract(rf"^(-?[0-9]+\.[0-9]{{{places}}})"))
        .cast(pl.Decimal(38, places), strict=False)
    )
    done = pl.DataFrame({"t": text, "v": values}).select(
        pl.coalesce(read, cut.to_physical().cast(pl.Int64)).alias("value"),
        (long & ~col.str.contains(rf"^-?[0-9]+\.[0-9]{{{places}}}0*$")).fill_null(False).alias("finer"),
    )
    return done["value"], _bad(text, done["value"]), done["finer"]


def decimals(text: pl.Series) -> Values:
    """Read money and degrees as integers of 10^-8; what is finer is wrong, never rounded."""
    values, unreadable, finer = _fixed_point(text, DECIMAL_SCALE)
    return Values(values, [("decimal.unreadable", unreadable), ("decimal.too_precise", finer)])


def durations(text: pl.Series, unit: str) -> tuple[Values, pl.Series]:
    """Read durations as whole milliseconds (finer is cut); also return them in µs, as exactly as the file has them."""
    scale = {"s": 1_000_000, "ms": 1_000}[unit]
    whole = text.cast(pl.Int64, strict=False)
    limit = 2 * DURATION_MAX_MS * 1000 // scale  # what is longer is refused below; its size must not overflow
    micros = whole.clip(-limit, limit) * scale
    unreadable = _bad(text, micros)
    if bool(unreadable.any()):
        rest, unreadable, _ = _fixed_point(text.set(~unreadable, None), 6)
        micros = micros.zip_with(micros.is_not_null(), rest // (1_000_000 // scale))
    ms = micros // 1000
    negative = (ms < 0).fill_null(False)
    far = (ms > DURATION_MAX_MS).fill_null(False)
    problems: Problems = [
        ("duration.unreadable", unreadable),
        ("duration.negative", negative),
        ("duration.out_of_range", far),
    ]
    return Values(ms, problems), micros
