"""Records as text, whole columns at a time: as records.csv has them, and as the pages have them.

records.csv is exact: RFC 3339 times with six decimals, numbers in E.164 with ``+`` (what is no such number stands as
the switch wrote it), decimals with all eight places. The pages show the same values for the eye:
blanks in times and numbers, durations in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl
import pyarrow as pa

from schema.fields import DECIMAL_SCALE, Field, Kind

LOCAL: Final = "local_start"
"""The pages' own column: the start in the zone of the instrument."""
_UNPRINTABLE: Final = r"[^\x20-\x7e\xa0-\xff]"
"""What the pages' typeface lacks (it has Latin-1), and whatever could move what is printed: shown as ``?``."""
UTC_NAMES: Final = ("UTC", "Etc/UTC", "Z", "")


def frame_of(table: pa.Table) -> pl.DataFrame:
    """Return a hold's table as a frame; dictionaries stay coded."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def csv_texts(frame: pl.DataFrame, fields: Sequence[Field]) -> pl.DataFrame:
    """Return what records.csv has of each field: strings and integers, null where there is nothing."""
    return frame.select(_exact(frame, field).alias(field.name) for field in fields)


def page_texts(frame: pl.DataFrame, fields: Sequence[Field], timezone: str, *, micros: bool) -> pl.DataFrame:
    """Return what the pages show of each field, as strings; null where there is nothing.

    A zone other than UTC gives the column `LOCAL` after ``started_at``. Without ``micros`` times are whole seconds.
    """
    chosen: list[pl.Expr] = []
    for field in fields:
        chosen.append(
            _shown(frame, field, "%Y-%m-%d %H:%M:%S%.6f" if micros else "%Y-%m-%d %H:%M:%S").alias(field.name)
        )
        if field.name == "started_at" and timezone not in UTC_NAMES:
            local = pl.col("started_at").dt.convert_time_zone(timezone)
            chosen.append(local.dt.strftime("%Y-%m-%d %H:%M:%S %Z").alias(LOCAL))
    return frame.select(chosen)


def has_micros(frame: pl.DataFrame) -> bool:
    """Say whether any time is not on a whole second."""
    times = [name for name in frame.columns if frame.schema[name] == pl.Datetime]
    parts = frame.select((pl.col(name).to_physical() % 1_000_000 != 0).any() for name in times)
    return any(parts[name][0] for name in times)


def longest(frame: pl.DataFrame, fields: Sequence[Field]) -> dict[str, int]:
    """Return the most characters that `page_texts` takes for each field, or a little more.

    A field that is null throughout is absent. Made from the values, not from their texts: those are made only once.
    """
    asked: list[pl.Expr] = []
    for field in fields:
        name, raw = field.name, field.name + "_raw"
        if field.kind is Kind.NUMBER and raw in frame.columns:
            asked.append(pl.col(raw).cast(pl.String).str.len_chars().max().alias(raw))
        if name not in frame.columns:
            continue
        if field.kind is Kind.TEXT:
            asked.append(pl.col(name).cast(pl.String).str.len_chars().max().alias(name))
        elif field.kind is Kind.TIME:
            asked.append(pl.col(name).to_physical().max().alias(name))
        else:
            asked += [pl.col(name).max().alias(name), pl.col(name).min().alias(name + "_least")]
    found: dict[str, int | None] = frame.select(asked).row(0, named=True) if asked else {}
    lengths = {}
    for field in fields:
        length = _length(field, found)
        if length:
            lengths[field.name] = length
    return lengths


def _length(field: Field, found: Mapping[str, int | None]) -> int:
    most = found.get(field.name)
    if field.kind is Kind.NUMBER:
        return max(0 if most is None else max(len(str(most)) + 1, 15), found.get(field.name + "_raw") or 0)
    if most is None:
        return 0
    if field.kind is Kind.TIME:
        return 26
    if field.kind is Kind.TEXT:
        return most
    digits = max(len(str(most)), len(str(found[field.name + "_least"])))
    if field.kind is Kind.DECIMAL:
        return max(digits + 1, DECIMAL_SCALE + 3)
    return max(digits + 1, 5) if field.name == "duration_ms" else digits


def _exact(frame: pl.DataFrame, field: Field) -> pl.Expr:
    name = field.name
    if field.kind is Kind.NUMBER:
        return _number(frame, name)
    if name not in frame.columns:
        return pl.lit(None, pl.String)
    if field.kind is Kind.TIME:
        return pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    if field.kind is Kind.DECIMAL:
        return _decimal(name)
    if field.kind is Kind.TEXT:
        return pl.col(name).cast(pl.String)
    return pl.col(name)


def _shown(frame: pl.DataFrame, field: Field, times: str) -> pl.Expr:
    name = field.name
    if field.kind is Kind.NUMBER:
        text = _number(frame, name)
        if name not in frame.columns:
            return text
        if name + "_raw" in frame.columns:
            text = text.str.replace_all(_UNPRINTABLE, "?")
        american = pl.col(name).is_between(10_000_000_000, 19_999_999_999)
        parts = [pl.lit("+1"), text.str.slice(2, 3), text.str.slice(5, 3), text.str.slice(8)]
        return pl.when(american).then(pl.concat_str(parts, separator=" ")).otherwise(text)
    if name not in frame.columns:
        return pl.lit(None, pl.String)
    if field.kind is Kind.TIME:
        return pl.col(name).dt.strftime(times)
    if field.kind is Kind.DECIMAL:
        return _decimal(name)
    if field.kind is Kind.TEXT:
        return pl.col(name).cast(pl.String).str.replace_all(_UNPRINTABLE, "?")
    if name == "duration_ms":
        whole, part = pl.col(name) // 1000, (pl.col(name) % 1000).cast(pl.String).str.zfill(3)
        return pl.concat_str(whole.cast(pl.String), part, separator=".")
    return pl.col(name).cast(pl.String)


def _number(frame: pl.DataFrame, name: str) -> pl.Expr:
    """``+`` and digits, else the raw text."""
    raw = name + "_raw"
    digits = pl.lit(None, pl.String)
    if name in frame.columns:
        digits = pl.concat_str(pl.lit("+"), pl.col(name).cast(pl.String))
    return pl.coalesce(digits, pl.col(raw).cast(pl.String)) if raw in frame.columns else digits


def _decimal(name: str) -> pl.Expr:
    """Units of 10^-8 with all eight places; not by way of floats."""
    value = pl.col(name)
    amount = value.abs()
    whole = (amount // 10**DECIMAL_SCALE).cast(pl.String)
    part = (amount % 10**DECIMAL_SCALE).cast(pl.String).str.zfill(DECIMAL_SCALE)
    sign = pl.when(value < 0).then(pl.lit("-")).otherwise(pl.lit(""))
    return pl.concat_str(sign, whole, pl.lit("."), part)
