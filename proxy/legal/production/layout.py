"""How records lie on a page: which column stands where, how wide, and how many records a page takes. Pure.

Every record takes the same number of lines, so that the number of pages is known before the first is written. Columns
that hold nothing in the whole production are left out (and named on every page's foot); the others are as wide as their
longest value. What does not fit beside each other goes on a record's next line, in the same place for every record; a
value longer than a line goes on for up to `PARTS_MAX` lines. So nothing is cut, but for text beyond that, which ends
in `CUT` and stands whole in records.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from proxy.legal.production.columns import LOCAL, UTC_NAMES
from proxy.legal.production.survey import Survey
from schema.fields import Field, Kind

WIDTH: Final = 160
"""Characters on a line."""
GAPS: Final = (2, 1)
"""Characters between columns: two, but one where that saves a record a line."""
PARTS_MAX: Final = 4
CUT: Final = " [cut]"
BODY: Final = 470.0
"""Points of a page that records may fill, the lines of their heads with them."""
LEADING: Final = 9.2
"""Points from line to line."""
BETWEEN: Final = 2.0
"""Points between records."""
NUMBER: Final = "no"
"""The column that counts the records of the production, from 1."""

LABELS: Final = {
    NUMBER: "No.",
    LOCAL: "Start (local)",
    "record_id": "Record",
    "started_at": "Start (UTC)",
    "answered_at": "Answer (UTC)",
    "ended_at": "End (UTC)",
    "duration_ms": "Seconds",
    "cause_q850": "Cause",
    "sip_code": "SIP",
    "disposition": "Result",
    "calling": "Calling number",
    "called": "Called number",
    "dialed": "Dialed",
    "charge_number": "Charged number",
    "redirecting": "Redirected by",
    "switch_id": "Switch",
    "jurisdiction": "Jur.",
    "calling_lrn": "Calling LRN",
    "called_lrn": "Called LRN",
    "jip": "JIP",
    "oli": "OLI",
    "state": "State",
    "rate_centre": "Rate center",
    "lata": "LATA",
    "attestation": "Att.",
    "origid": "Origination id",
    "verstat": "Verification",
    "codec": "Codec",
    **{
        f"{side}_{name}": f"{short} {label}"
        for side, short in (("ingress", "In"), ("egress", "Out"))
        for name, label in (
            ("ocn", "OCN"),
            ("trunk", "trunk"),
            ("call_id", "call id"),
            ("peer_address", "peer"),
            ("billed_s", "billed s"),
            ("rate", "rate"),
            ("amount", "amount"),
            ("currency", "cur."),
        )
    },
    "cell": "Cell",
    "sector": "Sector",
    "latitude": "Latitude",
    "longitude": "Longitude",
    "account": "Account",
    "name": "Name",
    "address_of_record": "Address of record",
    "imsi": "IMSI",
    "imei": "IMEI",
    "ingest_id": "Ingest",
    "line_number": "Line",
}
"""Heads of columns; a test holds that every field has one."""

_FIRST: Final = ("started_at", "calling", "called", "duration_ms", "disposition")
"""What a reader looks for stands first; the rest follows in the order of the record. The sort is stable."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A column's place: on which line of a record, from which character, how wide; or a later part of a long value."""

    name: str
    label: str
    line: int
    at: int
    width: int
    right: bool = False
    offset: int = 0
    """First character of the value that stands here."""
    whole: bool = True
    """Whether no value goes beyond this cell."""
    cuts: bool = False
    """Whether what goes beyond it is left out."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a record stands."""

    cells: tuple[Cell, ...]
    lines: int
    """Lines of a record."""
    empty: tuple[str, ...]
    """Fields that the permit shows and no record has."""

    @property
    def per_page(self) -> int:
        """Records on a page."""
        return max(1, int((BODY - self.lines * LEADING) // (self.lines * LEADING + BETWEEN)))

    def pages(self, rows: int) -> int:
        """Return how many pages that many records take; none still take one, which says so."""
        return max(1, -(-rows // self.per_page))

    def heads(self) -> list[str]:
        """Return the lines of column heads."""
        lines = [[" "] * WIDTH for _ in range(self.lines)]
        for cell in self.cells:
            text = cell.label.rjust(cell.width) if cell.right else cell.label.ljust(cell.width)
            lines[cell.line][cell.at : cell.at + cell.width] = text[: cell.width]
        return ["".join(line).rstrip() for line in lines]

    def lay(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Return the lines of some records, a column ``0``, ``1`` ... for each; `NUMBER` is among the texts."""
        wanted = []
        for line in range(self.lines):
            at, parts = 0, []
            for cell in (each for each in self.cells if each.line == line):
                if cell.at > at:
                    parts.append(pl.lit(" " * (cell.at - at)))
                parts.append(_cell(cell))
                at = cell.at + cell.width
            wanted.append(pl.concat_str(parts).alias(str(line)))
        return texts.select(wanted)


def layout(fields: Sequence[Field], survey: Survey, timezone: str) -> Layout:
    """Lay out a production's records."""
    wide = 26 if survey.micros else 19
    fields = sorted(fields, key=lambda f: _FIRST.index(f.name) if f.name in _FIRST else len(_FIRST))
    columns: list[tuple[str, int, bool]] = [(NUMBER, len(f"{survey.rows:,}"), True)]
    for field in fields:
        length = survey.longest.get(field.name, 0)
        if not length:
            continue
        right = field.kind in (Kind.INT, Kind.ID, Kind.DECIMAL)
        columns.append((field.name, wide if field.kind is Kind.TIME else length, right))
        if field.name == "started_at" and timezone not in UTC_NAMES:
            columns.append((LOCAL, 23, False))
    laid = [_laid(columns, gap) for gap in GAPS]
    cells, lines = min(laid, key=lambda each: each[1])
    return Layout(cells, lines, tuple(f.name for f in fields if not survey.longest.get(f.name)))


def _laid(columns: Sequence[tuple[str, int, bool]], gap: int) -> tuple[tuple[Cell, ...], int]:
    """Return the places of columns of (name, width, right-aligned), and how many lines they take."""
    cells: list[Cell] = []
    line = at = 0
    # Later lines stand in from the first, so that the eye finds where a record begins.
    indent = max(columns[0][1], len(LABELS[NUMBER])) + gap
    room = WIDTH - indent
    for name, length, right in columns:
        parts = min(-(-length // room), PARTS_MAX)
        for part in range(parts):
            label = "" if part else LABELS[name]
            width = min(max(length - part * room, len(label)), room)
            if at + width > WIDTH:
                line, at = line + 1, indent
            cuts = part + 1 == PARTS_MAX and length > PARTS_MAX * room
            cells.append(Cell(name, label, line, at, width, right, part * room, parts == 1, cuts))
            at += width + gap
    return tuple(cells), line + 1


def _cell(cell: Cell) -> pl.Expr:
    text = pl.col(cell.name).fill_null("")
    if not cell.whole:
        part = text.str.slice(cell.offset, cell.width)
        if cell.cuts:
            beyond = text.str.len_chars() > cell.offset + cell.width
            part = (
                pl.when(beyond)
                .then(pl.concat_str(part.str.slice(0, cell.width - len(CUT)), pl.lit(CUT)))
                .otherwise(part)
            )
        text = part
    return text.str.pad_start(cell.width) if cell.right else text.str.pad_end(cell.width)
