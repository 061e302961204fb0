"""Times as switches write them → UTC microseconds, whole columns at a time.

Fractions finer than a microsecond are cut, never rounded, so a time never moves into the next second. A leap second
(``:60``) is the first instant of the next minute, as in POSIX. A local time that the spring change skips is no time at
all; one that the autumn change repeats is taken as the profile says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from proxy.formats.frame import nulls

UNREADABLE: Final = "time.unreadable"
OUT_OF_RANGE: Final = "time.out_of_range"
NONEXISTENT: Final = "time.nonexistent_local"
AMBIGUOUS: Final = "time.ambiguous_local"

_DAY_US: Final = 86_400_000_000
FIRST_US: Final = 946_684_800_000_000
"""2000-01-01T00:00:00Z; earlier starts are a clock that was never set."""
END_US: Final = 4_133_980_800_000_000
"""2101-01-01T00:00:00Z, exclusive."""

Problems = list[tuple[str, pl.Series]]
"""Reason code and a Boolean mask of the rows it holds for; earlier ones win."""

# Days from 1970-01-01 to the first of each month of years 0..9999, and each month's length.
_MONTHS = np.arange("0000-01", "10000-01", dtype="datetime64[M]")
_MONTH_START = _MONTHS.astype("datetime64[D]").astype(np.int32)
_MONTH_DAYS = ((_MONTHS + 1).astype("datetime64[D]") - _MONTHS.astype("datetime64[D]")).astype(np.uint8)
_SLAB: Final = 32_768
_FRACTION_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Times:
    """One column of times."""

    us: pl.Series
    """Int64 µs UTC, null where there is none or it is wrong."""
    problems: Problems


def _digits(columns: npt.NDArray[np.uint8], at: int, count: int, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    value = np.zeros(columns.shape[1], np.int64)
    for i in range(at, at + count):
        digit = columns[i] - 48  # wraps below "0": then it is over 9
        good &= digit <= 9
        value *= 10
        value += digit
    return value


def _slab(
    rows: npt.NDArray[np.uint8], separators: bytes, zulu: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Read rows of one length, ``YYYY-MM-DD?hh:mm:ss[.fraction][Z]``; return µs and which rows are well formed."""
    columns = np.ascontiguousarray(rows.T)
    width = columns.shape[0]
    good = np.isin(columns[10], np.frombuffer(separators, np.uint8))
    for at, mark in ((4, 45), (7, 45), (13, 58), (16, 58)):
        good &= columns[at] == mark
    if zulu:
        width -= 1
        good &= (columns[width] == 90) | (columns[width] == 122)
    year, month, day = (_digits(columns, a, n, good) for a, n in ((0, 4), (5, 2), (8, 2)))
    hour, minute, second = (_digits(columns, a, 2, good) for a in (11, 14, 17))
    fraction = np.zeros(columns.shape[1], np.int64)
    if width > 19:
        good &= columns[19] == 46
        kept = min(width - 20, 6)
        fraction = _digits(columns, 20, kept, good) * 10 ** (6 - kept)
        _digits(columns, 20 + kept, width - 20 - kept, good)
    good &= (month >= 1) & (month <= 12) & (hour <= 23) & (minute <= 59) & (second <= 60)
    index = np.where(good, year * 12 + month - 1, 0)
    good &= (day >= 1) & (day <= _MONTH_DAYS[index])
    days = _MONTH_START[index].astype(np.int64) + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + fraction, good


def _fixed(text: pl.Series, separators: bytes, zulu: bool) -> pl.Series:
    """Int64 µs of the texts in the fixed layout, null for the others. ``text`` has no nulls."""
    out = np.zeros(len(text), np.int64)
    done = np.zeros(len(text), np.bool_)
    lengths = text.str.len_bytes().to_numpy()
    for length in np.unique(lengths):
        digits = int(length) - zulu - 20  # of the fraction; -1: no point either
        if digits != -1 and not 1 <= digits <= _FRACTION_MAX:
            continue
        chosen = lengths == length
        whole = bool(chosen.all())
        part = (text if whole else text.filter(pl.Series(chosen))).to_arrow()
        start = part.offset * int(length)
        data = np.frombuffer(part.buffers()[2], np.uint8)[start : start + len(part) * int(length)]
        rows = data.reshape(len(part), int(length))
        us, good = np.empty(len(part), np.int64), np.empty(len(part), np.bool_)
        for i in range(0, len(part), _SLAB):
            us[i : i + _SLAB], good[i : i + _SLAB] = _slab(rows[i : i + _SLAB], separators, zulu)
        if whole:
            out, done = us, good
        else:
            out[chosen], done[chosen] = us, good
    return _nullable(out, done)


def _nullable(values: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> pl.Series:
    series = pl.Series(values)
    return series if bool(valid.all()) else series.set(pl.Series(~valid), None)


_OFFSET_FORM: Final = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d$"


def _rfc3339(text: pl.Series) -> pl.Series:
    found = _fixed(text, b"Tt ", zulu=True)
    if not found.null_count():
        return found
    # Times with an offset: rare, so the slower general parser. RFC 3339 s.5.6 lets T, t or a space stand between.
    rest = pl.DataFrame({"text": text, "found": found}).select(
        pl.when(pl.col("found").is_null() & pl.col("text").str.contains(_OFFSET_FORM)).then(
            pl.col("text").str.replace("[t ]", "T")
        )
    )["text"]
    moment = rest.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False)
    return found.zip_with(found.is_not_null(), moment.dt.epoch("us"))


def _epoch(text: pl.Series, scale: int) -> pl.Series:
    """Count since 1970 in units of 10^-scale seconds, with a fraction; exact, by integers."""
    places = 6 - scale
    frame = pl.DataFrame({"text": text}).with_columns(
        pl.when(pl.col("text").str.contains(r"^-?[0-9]{1,17}(\.[0-9]{1,12})?$")).then(pl.col("text"))
    )
    parts = frame.select(pl.col("text").str.split_exact(".", 1).alias("p")).unnest("p")
    whole = pl.col("field_0").cast(pl.Int64, strict=False)
    micros = pl.col("field_1").fill_null("").str.pad_end(6, "0").str.slice(0, places).cast(pl.Int64, strict=False)
    fraction = micros.fill_null(0) if places else pl.lit(0, pl.Int64)
    # What does not fit an int64 of microseconds is far outside the range anyway: it keeps a value that says so.
    limit = 2**62 // 10**places
    return parts.select(
        (whole.clip(-limit, limit) * 10**places + pl.when(whole < 0).then(0).otherwise(fraction)).alias("us")
    )["us"]


def _pattern(text: pl.Series, pattern: str) -> tuple[pl.Series, bool]:
    """µs by a strptime pattern, and whether they are UTC already (the pattern reads an offset)."""
    if pattern in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f"):
        return _fixed(text, b" ", zulu=False), False
    moment = text.str.to_datetime(pattern, time_unit="us", strict=False, ambiguous="earliest")
    zoned = cast(pl.Datetime, moment.dtype).time_zone is not None
    return moment.dt.epoch("us"), zoned


def _within(us: pl.Series, slack: int = 0) -> pl.Series:
    return (us >= FIRST_US - slack) & (us < END_US + slack)


def _to_utc(local: pl.Series, zone: str, ambiguous: str) -> tuple[pl.Series, Problems]:
    naive = local.cast(pl.Datetime("us"))
    earliest = _zoned(naive, zone, "earliest")
    problems: Problems = [(NONEXISTENT, earliest.is_null() & local.is_not_null())]
    if ambiguous == "earliest":
        return earliest, problems
    if ambiguous == "latest":
        return _zoned(naive, zone, "latest"), problems
    certain = _zoned(naive, zone, "null")
    problems.append((AMBIGUOUS, certain.is_null() & earliest.is_not_null()))
    return certain, problems


def _zoned(naive: pl.Series, zone: str, ambiguous: Literal["earliest", "latest", "null"]) -> pl.Series:
    return naive.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null").dt.epoch("us")


def read_times(text: pl.Series, formats: Sequence[str], zone: str = "UTC", ambiguous: str = "earliest") -> Times:
    """Read a column of times.

    Args:
        text: String series; null where there is no time.
        formats: tried in order: ``rfc3339``, ``epoch`` (seconds with a fraction), ``epoch_ms``, ``epoch_us``, or
            strptime patterns (``%.f`` is an optional fraction).
        zone: IANA zone of times that say no offset.
        ambiguous: ``earliest``, ``latest`` or ``reject``.

    Returns:
        The instants, and for each way to be wrong the rows that are.
    """
    if text.null_count() == len(text):
        return Times(nulls(len(text), pl.Int64()), [])
    present = text.is_not_null()
    if not bool(present.all()):
        part = read_times(text.filter(present), formats, zone, ambiguous)
        return Times(_scatter(part.us, present, None), [(c, _scatter(m, present, False)) for c, m in part.problems])
    utc = local = nulls(len(text), pl.Int64())
    for form in formats:
        open_rows = utc.is_null() & local.is_null()
        if not bool(open_rows.any()):
            break
        is_utc = True
        if form == "rfc3339":
            found = _rfc3339(text)
        elif form in ("epoch", "epoch_ms", "epoch_us"):
            found = _epoch(text, {"epoch": 0, "epoch_ms": 3, "epoch_us": 6}[form])
        else:
            found, is_utc = _pattern(text, form)
        found = found if bool(open_rows.all()) else found.zip_with(open_rows, found.clear(len(found)))
        if is_utc:
            utc = found if utc.null_count() == len(utc) else utc.zip_with(utc.is_not_null(), found)
        else:
            local = found if local.null_count() == len(local) else local.zip_with(local.is_not_null(), found)
    problems: Problems = [(UNREADABLE, utc.is_null() & local.is_null())]
    if local.null_count() < len(local):
        far = local.is_not_null() & ~_within(local, _DAY_US)
        problems.append((OUT_OF_RANGE, far.fill_null(False)))
        local = local.set(far.fill_null(False), None)
        if zone != "UTC":
            local, more = _to_utc(local, zone, ambiguous)
            problems += more
        utc = utc.zip_with(utc.is_not_null(), local)
    outside = (utc.is_not_null() & ~_within(utc)).fill_null(False)
    problems.append((OUT_OF_RANGE, outside))
    if bool(outside.any()):
        utc = utc.set(outside, None)
    return Times(utc.alias(text.name), [(c, m) for c, m in problems if bool(m.any())])


def _scatter(part: pl.Series, present: pl.Series, fill: bool | None) -> pl.Series:
    index = present.cast(pl.Int64).cum_sum() - 1
    out = part.gather(index.set(~present, None))
    return out if fill is None else out.fill_null(fill)


def refine(
    started: pl.Series, answered: pl.Series, ended: pl.Series, duration_us: pl.Series, answer_cut: int, end_cut: int
) -> tuple[pl.Series, pl.Series]:
    """Place answer and end that the file cuts to whole seconds where everything the file says agrees.

    A cut time t stands for [t, t + cut). Of the instants that it can be, and that are not before the start, and (where
    the duration is known) whose end also falls into the end's own interval, the earliest is taken. Without this a call
    answered in the second it began would end before it started. What cannot agree is left as written, for the checks.

    Args:
        started, answered, ended, duration_us: Int64 series, µs; nulls where unknown.
        answer_cut, end_cut: width of the cut, µs; 0 where the time is exact.
    """
    frame = pl.DataFrame({"s": started, "a": answered, "e": ended, "d": duration_us})
    s, a, e, d = (pl.col(c) for c in "saed")
    floor = pl.max_horizontal(a, s)
    floor = pl.when(floor < a + max(answer_cut, 1)).then(floor).otherwise(a)
    fitted = pl.max_horizontal(floor, e - d)
    answer = pl.when(d.is_not_null() & e.is_not_null() & (fitted < a + answer_cut)).then(fitted).otherwise(floor)
    frame = frame.with_columns(answer.alias("x"))
    lower = pl.max_horizontal(pl.col("x"), s)
    exact = pl.col("x") + d
    end = (
        pl.when(e.is_null())
        .then(None)
        .when((exact >= e) & (exact < e + end_cut) & (exact >= lower))
        .then(exact)
        .when((lower >= e) & (lower < e + end_cut))
        .then(lower)
        .otherwise(e)
    )
    done = frame.select(pl.col("x").alias("answered"), end.alias("ended"))
    return done["answered"], done["ended"]
