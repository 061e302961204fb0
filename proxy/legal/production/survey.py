"""A first look at a hold's records: how many, how they lie in time, how long fields get, which files they are from.

One pass, so that what comes after can be laid out before its first byte is written (page x of y, column widths) and
put in order of time with bounded memory. What is kept is small: a count for each hour, two numbers for each field, four
for each input file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from proxy.legal.production.columns import frame_of, has_micros, longest
from proxy.legal.production.model import Facts, ProductionError, Tables
from schema.fields import BY_NAME, Field

HOUR_US = 3_600_000_000
_HOURS_MAX = 24 * 366 * 120


@dataclass(slots=True)
class Extent:
    """The lines of one input file that a production has records from."""

    rows: int = 0
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class Survey:
    """What one pass over the records found."""

    rows: int = 0
    hours: dict[int, int] = field(default_factory=dict)
    """Hour since 1970 to records that began in it."""
    longest: dict[str, int] = field(default_factory=dict)
    """Field to the most characters it takes on a page; a field that is null throughout is absent."""
    micros: bool = False
    """Whether any time is not on a whole second."""
    sources: dict[int, Extent] = field(default_factory=dict)
    """Ingest id to what comes from it."""
    unplaced: int = 0
    """Records that do not say which file they are from."""

    def buckets(self, most: int) -> list[int]:
        """Return hours at which stretches of at most ``most`` records begin; an hour is never cut."""
        starts: list[int] = []
        filled = most
        for hour in sorted(self.hours):
            if filled + self.hours[hour] > most:
                starts.append(hour)
                filled = 0
            filled += self.hours[hour]
        return starts


async def survey(tables: Tables, facts: Facts) -> Survey:
    """Look through all records once.

    Raises:
        ProductionError: if there are more or fewer than the facts say, or a table lacks what every record has.
    """
    found = Survey()
    fields = shown(facts)
    async for table in tables():
        await asyncio.to_thread(_look, found, table, fields)
    if facts.rows is not None and found.rows != facts.rows:
        raise ProductionError(f"the hold has {found.rows} records where {facts.rows} were extracted")
    return found


def shown(facts: Facts) -> tuple[Field, ...]:
    """Return the fields that the permit shows, in canonical order.

    Raises:
        ProductionError: on a field that no record has, or where there is none.
    """
    if not facts.fields:
        raise ProductionError("the permit shows no field")
    if unknown := set(facts.fields) - BY_NAME.keys():
        raise ProductionError(f"no record has a field {min(unknown)}")
    return tuple(f for f in BY_NAME.values() if f.name in facts.fields)


def _look(found: Survey, table: pa.Table, fields: Sequence[Field]) -> None:
    if not table.num_rows:
        return
    frame = frame_of(table)
    found.rows += frame.height
    hours, counts = np.unique(frame["started_at"].to_physical().to_numpy() // HOUR_US, return_counts=True)
    for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
        found.hours[hour] = found.hours.get(hour, 0) + count
    if len(found.hours) > _HOURS_MAX:
        raise ProductionError("the records begin in more hours than there are in a century")
    for name, length in longest(frame, fields).items():
        found.longest[name] = max(found.longest.get(name, 0), length)
    found.micros = found.micros or has_micros(frame)
    _provenance(found, frame)


def _provenance(found: Survey, frame: pl.DataFrame) -> None:
    if "ingest_id" not in frame.columns or "line_number" not in frame.columns:
        found.unplaced += frame.height
        return
    known = frame.lazy().filter(pl.col("ingest_id").is_not_null() & pl.col("line_number").is_not_null())
    line = pl.col("line_number")
    each = known.group_by("ingest_id").agg(pl.len().alias("n"), line.min().alias("a"), line.max().alias("b")).collect()
    found.unplaced += frame.height - int(each["n"].sum())
    for ingest, rows, first, last in each.select("ingest_id", "n", "a", "b").iter_rows():
        extent = found.sources.get(ingest)
        if extent is None:
            found.sources[ingest] = Extent(rows, first, last)
        else:
            extent.rows += rows
            extent.first, extent.last = min(extent.first, first), max(extent.last, last)
