"""records.pdf: every page with case, number, window and page x of y, in volumes, as fast as the library lets us.

A page's records are one piece of PDF text operators, joined from whole columns; the library is called for what is on
every page and for the file around it. A volume is in memory, no more. There is no clock in it: the library's invariant
mode leaves out time and chance, and what is compressed is compressed by zlib at its default level.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl
from reportlab import rl_config
from reportlab.lib.pagesizes import landscape, letter
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from proxy.legal.production.columns import UTC_NAMES, page_texts
from proxy.legal.production.layout import BETWEEN, LABELS, LEADING, NUMBER, Layout
from proxy.legal.production.model import Facts
from schema.fields import BY_NAME, Field

VOLUME_PAGES: Final = 1000
"""Most pages of one file: some 40,000 records, a few megabytes."""

_WIDTH, _HEIGHT = landscape(letter)
_LEFT, _RIGHT = 36.0, _WIDTH - 36.0
_SIZE = 7.5
"""Points. Courier is 0.6 of that wide: 160 characters take 720 points."""
_HEADS_AT = _HEIGHT - 92.0
_FOOT_AT = 40.0
_BAND = 0.955
_LINE = 0.6
_ESCAPED: Final = {"\\": "\\\\", "(": "\\(", ")": "\\)"} | {chr(c): f"\\{c:03o}" for c in range(0xA0, 0x100)}
_TOGETHER: Final = 20_000
"""Records whose text is made at once."""
_NAMED_MAX: Final = 3
"""Targets that are named in the head of every page; more are counted, and listed in targets.csv."""

rl_config.useA85 = 0  # streams stay binary: a fifth smaller


@dataclass(frozen=True)
class Pages:
    """How one production's pages look.

    Args:
        facts: the production's.
        fields: what is shown.
        layout: where it stands.
        rows: records of the whole production.
        micros: whether times have parts of a second.
    """

    facts: Facts
    fields: tuple[Field, ...]
    layout: Layout
    rows: int
    micros: bool

    @property
    def pages(self) -> int:
        """Pages of all volumes."""
        return self.layout.pages(self.rows)

    @property
    def volumes(self) -> int:
        """How many files."""
        return -(-self.pages // VOLUME_PAGES)

    def name(self, volume: int) -> str:
        """Return a volume's file name; ``volume`` counts from 0."""
        return "records.pdf" if self.volumes == 1 else f"records-{volume + 1:03}.pdf"

    def lines(self, frame: pl.DataFrame, first: int) -> list[str]:
        """Return each record as PDF text operators.

        Args:
            frame: records in order.
            first: number of the first of them in the production, from 1.
        """
        texts = page_texts(frame, self.fields, self.facts.timezone, micros=self.micros)
        numbers = pl.int_range(first, first + frame.height, eager=True)
        count = _grouped(numbers).alias(NUMBER)
        laid = self.layout.lay(texts.with_columns(count))
        last = self.layout.lines - 1
        parts: list[pl.Expr] = []
        for line in range(self.layout.lines):
            text = pl.col(str(line)).str.strip_chars_end(" ").str.replace_many(_ESCAPED)
            end = f")Tj 0 -{LEADING + BETWEEN:g} Td\n" if line == last else ")Tj T*\n"
            parts += [pl.lit("("), text, pl.lit(end)]
        return laid.select(pl.concat_str(parts).alias("x"))["x"].to_list()

    def volume(self, volume: int, records: list[str], first: int) -> bytes:
        """Return one file.

        Args:
            volume: from 0.
            records: what :meth:`lines` returned of all records of the volume.
            first: number of the first of them, from 1.
        """
        out = BytesIO()
        canvas = Canvas(out, pagesize=(_WIDTH, _HEIGHT), invariant=1, pageCompression=1)
        canvas.setTitle(f"Records, case {self.facts.case_id}, production {self.facts.number}")
        canvas.setAuthor(self.facts.carrier)
        canvas.setSubject(f"{self.facts.instrument_title}; {self.facts.reference}")
        canvas.setCreator("Tollgate")
        self._every_page(canvas)
        step, page, where = self.layout.per_page, volume * VOLUME_PAGES, ""
        if self.volumes > 1:
            where = f"Volume {volume + 1} of {self.volumes}.  "
        for start in range(0, max(len(records), 1), step):
            page += 1
            self._page(canvas, page, records[start : start + step], first + start, where)
        canvas.save()
        return dated(out.getvalue(), self.facts.made_at)

    def _every_page(self, canvas: Canvas) -> None:
        """Draw once what every page of the file shows, and the bands of a full page: pages only name them."""
        facts = self.facts
        canvas.beginForm("page", 0, 0, _WIDTH, _HEIGHT)
        canvas.setFont("Helvetica-Bold", 11)
        canvas.drawString(_LEFT, _HEIGHT - 40, self._carrier)
        canvas.setFont("Helvetica", 8.5)
        for row, (left, right) in enumerate(self._head):
            canvas.drawString(_LEFT, _HEIGHT - 53 - row * 11, left)
            canvas.drawRightString(_RIGHT, _HEIGHT - 53 - row * 11, right)
        canvas.setLineWidth(_LINE)
        canvas.line(_LEFT, _HEADS_AT + LEADING, _RIGHT, _HEADS_AT + LEADING)
        canvas.line(_LEFT, self._top + 1, _RIGHT, self._top + 1)
        canvas.setFont("Courier-Bold", _SIZE, LEADING)
        canvas.addLiteral(f"BT {_LEFT} {_HEADS_AT:g} Td {self._heads} ET")
        canvas.setFont("Helvetica", 7)
        canvas.drawRightString(_RIGHT, _FOOT_AT, f"Production {facts.production_id}")
        canvas.drawString(_LEFT, _FOOT_AT - 9, self._times)
        if self._empty:
            canvas.drawString(_LEFT, _FOOT_AT - 18, self._empty)
        canvas.endForm()
        canvas.beginForm("bands", 0, 0, _WIDTH, _HEIGHT)
        canvas.addLiteral(self._bands(self.layout.per_page))
        canvas.endForm()

    def _page(self, canvas: Canvas, page: int, shown: list[str], first: int, where: str) -> None:
        canvas.doForm("page")
        text = f"Page {page:,} of {self.pages:,}"
        canvas.setFont("Helvetica-Bold", 11)
        canvas.addLiteral(
            f"BT {_RIGHT - stringWidth(text, 'Helvetica-Bold', 11):.2f} {_HEIGHT - 40:g} Td ({text})Tj ET"
        )
        canvas.setFont("Helvetica", 7)
        if shown:
            text = f"{where}Records {first:,} to {first + len(shown) - 1:,} of {self.rows:,}."
            canvas.addLiteral(f"BT {_LEFT} {_FOOT_AT:g} Td ({text})Tj ET")
            if len(shown) == self.layout.per_page:
                canvas.doForm("bands")
            else:
                canvas.addLiteral(self._bands(len(shown)))
            canvas.setFont("Courier", _SIZE, LEADING)
            canvas.addLiteral(f"BT {_LEFT} {self._top - LEADING + 0.4:g} Td\n{''.join(shown)}ET")
        else:
            canvas.setFont("Helvetica", 12)
            canvas.drawString(_LEFT, self._top - 24, "No records were found that the instrument reaches.")
        canvas.showPage()

    @property
    def _top(self) -> float:
        """Where the records begin, below the line under the heads of columns."""
        return float(_HEADS_AT - self.layout.lines * LEADING + LEADING - 4)

    def _bands(self, records: int) -> str:
        """Every second record on a light ground."""
        step = self.layout.lines * LEADING + BETWEEN
        width, top = _RIGHT - _LEFT + 6, self._top - 1.2
        rows = [f"{_LEFT - 3:g} {top - n * step - step:.2f} {width:g} {step:g} re" for n in range(1, records, 2)]
        return f"q {_BAND} g {' '.join(rows)} f Q" if rows else ""

    @cached_property
    def _heads(self) -> str:
        return "".join(f"({_escape(line)})Tj T*\n" for line in self.layout.heads())

    @cached_property
    def _carrier(self) -> str:
        return _fit(f"{self.facts.carrier}: call detail records", "Helvetica-Bold", 11, 560)

    @cached_property
    def _head(self) -> tuple[tuple[str, str], ...]:
        facts = self.facts
        matter = f"Case {facts.case_id}, production {facts.number}"
        asked = f"{facts.agency}, {facts.reference}" if facts.reference else facts.agency
        half = (_RIGHT - _LEFT) / 2 - 8
        return (
            (matter, _fit(f"{facts.instrument_title} ({facts.citation})", "Helvetica", 8.5, half + 60)),
            (_fit(asked, "Helvetica", 8.5, half), _fit(window(facts), "Helvetica", 8.5, half + 60)),
            (_fit(targets(facts), "Helvetica", 8.5, _RIGHT - _LEFT), ""),
        )

    @cached_property
    def _times(self) -> str:
        zone = self.facts.timezone
        local = "" if zone in UTC_NAMES else f"; {LABELS['local_start']} is {zone}"
        return (
            f"Times are UTC{local}. The same records, exact to the last digit, are in records.csv; "
            "field-guide.txt says what each column is."
        )

    @cached_property
    def _empty(self) -> str:
        names = ", ".join(self.layout.empty)
        return (
            _fit(f"Without a value in any record, not shown: {names}.", "Helvetica", 7, _RIGHT - _LEFT) if names else ""
        )


class Volume(NamedTuple):
    """One file of pages."""

    name: str
    records: int
    pages: int
    data: bytes


class PdfWriter:
    """Takes records in order and gives volumes as they are full: feed, full until None; in the end rest until None.

    Args:
        pages: how they look.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._most = pages.layout.per_page * VOLUME_PAGES
        self._waiting: list[str] = []
        self._done = 0
        self._volume = 0

    def feed(self, frame: pl.DataFrame) -> None:
        """Take some records."""
        before = self._done + len(self._waiting)
        for start in range(0, frame.height, _TOGETHER):
            self._waiting += self._pages.lines(frame.slice(start, _TOGETHER), before + start + 1)

    def full(self) -> Volume | None:
        """Return a volume that is full now, until there is none."""
        return self._cut(self._most) if len(self._waiting) > self._most else None

    def rest(self) -> Volume | None:
        """Return what is left when no more records come, volume by volume; without any record a page that says so."""
        if not self._waiting and self._volume:
            return None
        return self._cut(min(len(self._waiting), self._most))

    def _cut(self, rows: int) -> Volume:
        taken, self._waiting = self._waiting[:rows], self._waiting[rows:]
        made = self._pages.volume(self._volume, taken, self._done + 1)
        name, pages = self._pages.name(self._volume), self._pages.layout.pages(rows)
        self._volume += 1
        self._done += rows
        return Volume(name, rows, pages, made)


def dated(pdf: bytes, at: datetime) -> bytes:
    """Return a PDF of the library's invariant mode with our date in place of the year 2000; offsets stay."""
    return pdf.replace(b"D:20000101000000+00'00'", at.astimezone(UTC).strftime("D:%Y%m%d%H%M%S+00'00'").encode())


def window(facts: Facts) -> str:
    """Return the window in words, in the instrument's zone and in UTC."""
    utc = f"{_minute(facts.window_start.astimezone(UTC))} to {_minute(facts.window_end.astimezone(UTC))} UTC"
    if facts.timezone in UTC_NAMES:
        return utc
    zone = ZoneInfo(facts.timezone)
    start, end = facts.window_start.astimezone(zone), facts.window_end.astimezone(zone)
    return f"{_minute(start)} {start.tzname()} to {_minute(end)} {end.tzname()} ({utc})"


def targets(facts: Facts) -> str:
    """Return whom the production is about, in words: some by name, many by number."""
    found = [f"{_KINDS.get(t.kind, t.kind)} {t.value}" for t in facts.targets[:_NAMED_MAX]]
    rest = len(facts.targets) - len(found)
    return "; ".join(found) + (f"; and {rest:,} more, listed in targets.csv" if rest else "")


_KINDS: Final = {"number": "Number", "account": "Account", "trunk": "Trunk", "imsi": "IMSI"}


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S" if at.second else "%Y-%m-%d %H:%M")


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(c, c) for c in text)


def _grouped(numbers: pl.Series) -> pl.Series:
    """Integers with commas."""
    text = numbers.cast(pl.String)
    for _ in range(4):
        text = text.str.replace(r"^(\d+)(\d{3})", "$1,$2")
    return text


def _fit(text: str, font: str, size: float, width: float) -> str:
    """Return text, or as much of it as fits."""
    if stringWidth(text, font, size) <= width:
        return text
    while text and stringWidth(text + " ...", font, size) > width:
        text = text[:-1]
    return text + " ..."


assert set(BY_NAME) <= set(LABELS)
