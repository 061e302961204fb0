"""A table of texts → the canonical frame: every field read by its kind, every rule checked, all by columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from proxy.formats.frame import FILE_FIELDS, FRAME_SCHEMA, LINE_NUMBER, RAW_SUFFIX, nulls
from proxy.formats.layout import known_columns
from proxy.formats.numbers import NumberRules, Numbers, first_number, read_numbers, routing_text
from proxy.formats.profile import DISPOSITIONS, FieldSource, Profile
from proxy.formats.times import Problems, read_times, refine
from proxy.formats.trunks import DIRECTIONS
from proxy.formats.values import Values, column_text, decimals, durations, integers, source_text
from schema.fields import BY_NAME, OCN_NONE, OCN_UNMAPPED, Kind

_OCN: Final = r"^([0-9A-Z]{4}|none|unmapped)$"
_ROUTING_NUMBERS: Final = ("calling_lrn", "called_lrn")


class Converter:
    """Reads the tables of one file."""

    def __init__(self, profile: Profile, names: Sequence[str]) -> None:
        """Prepare for a file with the columns ``names``."""
        self.profile = profile
        self.columns = known_columns(profile) & set(names)
        """The columns that are read at all."""
        self.rules = NumberRules.of(profile)

    def convert(
        self, table: pl.DataFrame, lines: npt.NDArray[np.int64]
    ) -> tuple[pl.DataFrame, pl.Series, dict[int, str]]:
        """Return the frame, the identities of its rows, and line number → reason of the rows that are none.

        Args:
            table: String columns (those of :attr:`columns`), null where empty.
            lines: physical line number of each row, ascending.
        """
        work = _Work(self, table)
        columns = work.columns()
        columns[LINE_NUMBER] = pl.Series(lines, dtype=pl.Int64)
        frame = pl.DataFrame([columns[n].cast(t, strict=False).alias(n) for n, t in FRAME_SCHEMA.items()])
        identity, missing = _identity(frame, self.profile.identity)
        work.problem("identity.missing", missing)
        codes = work.reasons(lines)
        if codes:
            good = pl.Series(~np.isin(lines, list(codes)))
            frame, identity = frame.filter(good), identity.filter(good)
        return frame, identity, codes


class _Work:
    """One table being converted."""

    def __init__(self, converter: Converter, table: pl.DataFrame) -> None:
        self.profile = converter.profile
        self.rules = converter.rules
        self.present = converter.columns
        self.table = table
        self.problems: Problems = []
        self._numbers: dict[tuple[str, str | None, str | None, frozenset[str]], Numbers] = {}

    def problem(self, code: str, mask: pl.Series) -> None:
        if bool(mask.any()):
            self.problems.append((code, mask))

    def reasons(self, lines: npt.NDArray[np.int64]) -> dict[int, str]:
        """First reason of each line that has one."""
        out: dict[int, str] = {}
        for code, mask in reversed(self.problems):
            out.update(dict.fromkeys(lines[mask.fill_null(False).to_numpy()].tolist(), code))
        return out

    def text(self, source: FieldSource | None) -> pl.Series:
        if source is None:
            return self.nothing(pl.String())
        if len(source.columns) == 1 and source == FieldSource(
            source.columns, unit=source.unit, optional=source.optional
        ):
            return self.table[source.columns[0]]  # as it stands; the most usual
        text = self.table.select(source_text(source, self.present).alias("text"))["text"]
        # A constant alone is one value, not a column.
        return text if len(text) == self.table.height else text.new_from_index(0, self.table.height)

    def nothing(self, dtype: pl.DataType) -> pl.Series:
        return nulls(self.table.height, dtype)

    def columns(self) -> dict[str, pl.Series]:
        fields = self.profile.fields
        out: dict[str, pl.Series] = {}
        for field in FILE_FIELDS:
            source = fields.get(field.name)
            if source is not None and source.columns and not source.value and not self.present & set(source.columns):
                source = None
            if field.kind is Kind.NUMBER:
                numbers = self.numbers(source)
                out[field.name], out[field.name + RAW_SUFFIX] = numbers.e164, numbers.raw
            elif source is None:
                out[field.name] = self.nothing(FRAME_SCHEMA[field.name] if field.kind is not Kind.TIME else pl.Int64())
            elif field.kind is Kind.TIME:
                out[field.name] = self.time(source)
            elif field.name == "duration_ms":
                out[field.name] = self.duration(source)
            elif field.kind is Kind.INT:
                out[field.name] = self.integer(field.name, source)
            elif field.kind is Kind.DECIMAL:
                out[field.name] = self._take(decimals(self.text(source)))
            elif field.name in _ROUTING_NUMBERS:
                out[field.name] = routing_text(self.numbers(source))
            else:
                out[field.name] = self.text(source)
        self.check_times(out)
        self.disposition(out)
        for side in DIRECTIONS:
            out[f"{side}_ocn"] = self.ocn(side, out)
        for name in ("started_at", "answered_at", "ended_at"):
            out[name] = out[name].cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return out

    def _take(self, read: Values) -> pl.Series:
        for code, mask in read.problems:
            self.problem(code, mask)
        return read.values

    def numbers(self, source: FieldSource | None) -> Numbers:
        if source is None:
            return Numbers(self.nothing(pl.UInt64()), self.nothing(pl.String()))
        columns = [c for c in source.columns if c in self.present]
        if source.join is not None or source.map or source.value or source.when is not None or not columns:
            return read_numbers(self.text(source), self.rules)
        return first_number([self._number_column(c, source) for c in columns])

    def _number_column(self, column: str, source: FieldSource) -> Numbers:
        key = (column, source.param, source.pattern, source.absent)
        if key not in self._numbers:
            text = self.table.select(column_text(source, pl.col(column)).alias("text"))["text"]
            self._numbers[key] = read_numbers(text, self.rules)
        return self._numbers[key]

    def time(self, source: FieldSource) -> pl.Series:
        profile = self.profile
        times = read_times(self.text(source), source.formats or profile.formats, profile.zone, profile.ambiguous)
        return self._take(Values(times.us, times.problems))

    def duration(self, source: FieldSource) -> pl.Series:
        values, self.duration_us = durations(self.text(source), source.unit)
        return self._take(values)

    def integer(self, name: str, source: FieldSource) -> pl.Series:
        values = integers(self.text(source))
        self._take(values)
        if (highest := BY_NAME[name].highest) is not None:
            low, high = values.values < 0, values.values > highest
            if name.endswith("billed_s"):
                self.problem("duration.negative", low)
                self.problem("duration.out_of_range", high)
            else:
                self.problem("integer.out_of_range", low | high)
        return values.values

    duration_us: pl.Series | None = None

    def check_times(self, out: dict[str, pl.Series]) -> None:
        """Put cut times in their place, then hold the order start ≤ answer ≤ end."""
        started, answered, ended = out["started_at"], out["answered_at"], out["ended_at"]
        self.problem("time.missing", started.is_null())
        fields = self.profile.fields
        cuts = [fields[n].truncated_s * 1_000_000 if n in fields else 0 for n in ("answered_at", "ended_at")]
        if any(cuts):
            known = self.nothing(pl.Int64()) if self.duration_us is None else self.duration_us
            answered, ended = refine(started, answered, ended, known, cuts[0], cuts[1])
            out["answered_at"], out["ended_at"] = answered, ended
        self.problem("time.end_before_start", ended < started)
        self.problem("time.answer_before_start", answered < started)
        self.problem("time.end_before_answer", ended < answered)

    def disposition(self, out: dict[str, pl.Series]) -> None:
        source = self.profile.fields.get("disposition")
        value = out["disposition"]
        if source is None:
            return
        if source.answered is not None:
            answered = out["answered_at"].is_not_null()
            value = value.set(answered, source.answered) if bool(answered.any()) else value
        out["disposition"] = value
        self.problem("disposition.unknown", value.is_not_null() & ~value.is_in(list(DISPOSITIONS)))

    def ocn(self, side: str, out: dict[str, pl.Series]) -> pl.Series:
        """OCN of a leg: its column, else the trunk map, else none (no egress reached) or unmapped."""
        given = out[f"{side}_ocn"]
        if not bool(given.unique().str.contains(_OCN).all()):  # few distinct ones: nulls do not count
            self.problem("ocn.unreadable", given.is_not_null() & ~given.str.contains(_OCN))
        asked = {"switch": out["switch_id"], "trunk": out[f"{side}_trunk"], "at": out["started_at"]}
        mapped = self.profile.trunks.lookup(side, pl.DataFrame(asked))
        ocn = given.zip_with(given.is_not_null(), mapped)
        if side == "egress" and (empty := [c for c in self.profile.egress_none if c in self.present]):
            unreached = self.table.select(pl.all_horizontal(pl.col(c).is_null() for c in empty).alias("none"))["none"]
            ocn = ocn.set(unreached & ocn.is_null(), OCN_NONE)
        return ocn.fill_null(OCN_UNMAPPED)


def _identity(frame: pl.DataFrame, names: Sequence[str]) -> tuple[pl.Series, pl.Series]:
    """Join fields so that no two different tuples give one text; also return where nothing tells calls apart.

    A value has no line feed, being part of one line, and is null rather than empty: so a line feed between is enough.
    """
    parts: list[pl.Expr] = []
    for name in names:
        value = pl.col(name)
        if isinstance(FRAME_SCHEMA[name], pl.Datetime):
            value = value.dt.epoch("us")
        value = value.cast(pl.String)
        if name + RAW_SUFFIX in FRAME_SCHEMA:
            value = pl.coalesce(pl.format("+{}", value), pl.col(name + RAW_SUFFIX))
        parts.append(value.fill_null(""))
    telling = [n for n in names if n not in ("switch_id", "started_at")]
    nothing = pl.all_horizontal(
        pl.col(n).is_null() & (pl.col(n + RAW_SUFFIX).is_null() if n + RAW_SUFFIX in FRAME_SCHEMA else True)
        for n in telling
    )
    done = frame.select(pl.concat_str(parts, separator="\n").alias("identity"), nothing.alias("missing"))
    return done["identity"], done["missing"]


def remap(part: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Look the legs of stored records up again in a newer trunk map.

    A trunk that the map names gets the OCN of the time of the call (``unmapped`` if none then); one that it does not
    name keeps what it has, and so does a leg that was never reached.

    Args:
        part: columns ``switch_id``, ``ingress_trunk``, ``egress_trunk``, ``ingress_ocn``, ``egress_ocn`` (String) and
            ``started_at`` (Datetime µs UTC).
        profile: with the newer map.

    Returns:
        ``ingress_ocn``, ``egress_ocn`` for each row.
    """
    found = {}
    for side in DIRECTIONS:
        asked = part.select(
            pl.col("switch_id").alias("switch"),
            pl.col(f"{side}_trunk").alias("trunk"),
            pl.col("started_at").dt.epoch("us").alias("at"),
        )
        mapped = profile.trunks.lookup(side, asked)
        found[f"{side}_ocn"] = mapped.zip_with(mapped.is_not_null(), part[f"{side}_ocn"])
    return pl.DataFrame(found)
