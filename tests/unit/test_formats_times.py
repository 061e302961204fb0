"""Times: every form, the two awkward hours of the year, and times cut to whole seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.formats.times import END_US, FIRST_US, read_times, refine
from tests.support.formats import minimal, read_all, write

SECOND = 1_000_000
LOCAL = "%Y-%m-%d %H:%M:%S%.f"


def us(text: str) -> int:
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def read(text: str, *formats: str, zone: str = "UTC", ambiguous: str = "earliest") -> int | str | None:
    """Read one text among others; the instant or the first reason why there is none."""
    times = read_times(pl.Series([None, text, None, text], dtype=pl.String), formats, zone, ambiguous)
    assert times.us[1] == times.us[3]
    assert (times.us[0], times.us[2]) == (None, None)
    reasons = [code for code, mask in times.problems if mask[1]]
    assert not any(mask[0] for _, mask in times.problems)
    assert (times.us[1] is None) == bool(reasons)
    return reasons[0] if reasons else times.us[1]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-02T12:34:56Z", "2026-11-02T12:34:56+00:00"),
        ("2026-11-02t12:34:56z", "2026-11-02T12:34:56+00:00"),
        ("2026-11-02 12:34:56Z", "2026-11-02T12:34:56+00:00"),
        ("2026-11-02T12:34:56.1Z", "2026-11-02T12:34:56.100000+00:00"),
        ("2026-11-02T12:34:56.123456Z", "2026-11-02T12:34:56.123456+00:00"),
        ("2026-11-02T12:34:56.999999999Z", "2026-11-02T12:34:56.999999+00:00"),  # cut, not rounded
        ("2026-11-02T12:34:56+05:30", "2026-11-02T12:34:56+05:30"),
        ("2026-11-02 12:34:56.5-08:00", "2026-11-02T12:34:56.500000-08:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00+00:00"),
        ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00+00:00"),
        ("2100-12-31T23:59:59.999999Z", "2100-12-31T23:59:59.999999+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),  # a leap second, as POSIX counts it
    ],
)
def test_rfc3339(text: str, instant: str) -> None:
    assert read(text, "rfc3339") == us(instant)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-02T12:34:56",
        "2026-11-02",
        "2026-13-02T12:34:56Z",
        "2026-00-02T12:34:56Z",
        "2026-11-31T12:34:56Z",
        "2100-02-29T12:34:56Z",
        "2026-11-02T24:00:00Z",
        "2026-11-02T12:60:00Z",
        "2026-11-02T12:34:61Z",
        "2026-11-02T12:34:56.Z",
        "2026-11-02T12:34:56,5Z",
        "2026-11-02T12:34:56.5x6Z",
        "2026-11-02T12:34:56.123456789xZ",
        "2026-11-2T12:34:56Z ",
        " 2026-11-02T12:34:56Z",
        "+026-11-02T12:34:56Z",
        "2026/11/02T12:34:56Z",
        "2026-11-02T12:34:56+0530",
        "2026-11-02T12:34:56+25:00",
        "x",
        "Z" * 27,
        "é026-11-02T12:34:56",
    ],
)
def test_not_rfc3339(text: str) -> None:
    assert read(text, "rfc3339") == "time.unreadable"


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("1795262437", "epoch", 1795262437 * SECOND),
        ("1795262437.339353", "epoch", 1795262437_339353),
        ("1795262437.3", "epoch", 1795262437_300000),
        ("1795262437.339353999", "epoch", 1795262437_339353),
        ("1795262437339", "epoch_ms", 1795262437_339000),
        ("1795262437339.3539", "epoch_ms", 1795262437_339353),
        ("1795262437339353", "epoch_us", 1795262437_339353),
        ("1795262437339", "epoch", "time.out_of_range"),  # milliseconds taken for seconds
        ("99999999999999999", "epoch", "time.out_of_range"),
        ("99999999999999999", "epoch_us", "time.out_of_range"),
        ("0", "epoch", "time.out_of_range"),
        ("-1.5", "epoch", "time.out_of_range"),
        ("1e9", "epoch", "time.unreadable"),
        ("1795262437.", "epoch", "time.unreadable"),
        ("0x6b", "epoch", "time.unreadable"),
        ("999999999999999999999", "epoch", "time.unreadable"),
        ("02/11/2026 12:34:56", "%d/%m/%Y %H:%M:%S", us("2026-11-02T12:34:56+00:00")),
        ("20261102123456.789", "%Y%m%d%H%M%S%.f", us("2026-11-02T12:34:56.789000+00:00")),
        ("2026-11-02 12:34:56 +0530", "%Y-%m-%d %H:%M:%S %z", us("2026-11-02T12:34:56+05:30")),
        ("Mon Nov  2 12:34:56 2026", "%a %b %e %H:%M:%S %Y", us("2026-11-02T12:34:56+00:00")),
        ("31/02/2026 12:34:56", "%d/%m/%Y %H:%M:%S", "time.unreadable"),
        ("01/01/0001 00:00:00", "%d/%m/%Y %H:%M:%S", "time.out_of_range"),
    ],
)
def test_other_forms(text: str, form: str, expected: int | str) -> None:
    assert read(text, form) == expected


def test_formats_are_tried_in_order() -> None:
    forms = ("epoch", "%d.%m.%Y %H:%M:%S", "rfc3339", LOCAL)
    texts = ["1795262437", "02.11.2026 12:34:56", "2026-11-02T12:34:56Z", "2026-11-02 12:34:56", "never", None]
    times = read_times(pl.Series(texts), forms, "America/New_York")
    assert times.us.to_list() == [
        1795262437 * SECOND,
        us("2026-11-02T12:34:56-05:00"),
        us("2026-11-02T12:34:56+00:00"),
        us("2026-11-02T12:34:56-05:00"),
        None,
        None,
    ]
    assert [(c, m.to_list()) for c, m in times.problems] == [("time.unreadable", [False] * 4 + [True, False])]


NEW_YORK = "America/New_York"


def test_the_spring_gap_is_no_time() -> None:
    """On 2026-03-08 clocks went from 02:00 to 03:00."""
    assert read("2026-03-08 01:59:59.9", LOCAL, zone=NEW_YORK) == us("2026-03-08T06:59:59.900000+00:00")
    for text in ("2026-03-08 02:00:00", "2026-03-08 02:30:00", "2026-03-08 02:59:59.999999"):
        for ambiguous in ("earliest", "latest", "reject"):
            assert read(text, LOCAL, zone=NEW_YORK, ambiguous=ambiguous) == "time.nonexistent_local"
    assert read("2026-03-08 03:00:00", LOCAL, zone=NEW_YORK) == us("2026-03-08T07:00:00+00:00")


def test_the_autumn_overlap_is_as_the_profile_says() -> None:
    """On 2026-11-01 clocks went from 02:00 back to 01:00."""
    for text in ("2026-11-01 01:00:00", "2026-11-01 01:30:00", "2026-11-01 01:59:59.999999"):
        early = us(text.replace(" ", "T") + "-04:00")
        assert read(text, LOCAL, zone=NEW_YORK) == early
        assert read(text, LOCAL, zone=NEW_YORK, ambiguous="latest") == early + 3600 * SECOND
        assert read(text, LOCAL, zone=NEW_YORK, ambiguous="reject") == "time.ambiguous_local"
    for ambiguous in ("earliest", "latest", "reject"):
        assert read("2026-11-01 02:00:00", LOCAL, zone=NEW_YORK, ambiguous=ambiguous) == us("2026-11-01T07:00:00+00:00")


def test_far_years_do_not_disturb_the_zone() -> None:
    for text in ("0001-01-01 00:00:00", "9999-12-31 23:59:59", "1999-12-31 23:59:59", "2101-01-01 05:00:00"):
        assert read(text, LOCAL, zone=NEW_YORK) in ("time.out_of_range", us("2000-01-01T04:59:59+00:00"))
    assert read("9999-12-31 23:59:59", LOCAL, zone=NEW_YORK) == "time.out_of_range"
    assert read("2101-01-01 05:00:00", LOCAL, zone=NEW_YORK) == "time.out_of_range"


def test_a_whole_file_across_the_changes(tmp_path: Path) -> None:
    profile = minimal(tmp_path, times=f'formats = ["%Y-%m-%d %H:%M:%S"]\nzone = "{NEW_YORK}"\nambiguous = "reject"')
    data = "2026-03-08 02:30:00,a,,\n2026-11-01 01:30:00,b,,\n2026-11-01 03:30:00,c,,\n"
    whole = read_all(write(tmp_path, data), profile)
    assert whole.rejects == {1: "time.nonexistent_local", 2: "time.ambiguous_local"}
    assert whole.frame["started_at"].to_list() == [datetime(2026, 11, 1, 8, 30, tzinfo=UTC)]


MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(MOMENTS, st.integers(0, 9)), min_size=1, max_size=50))
def test_every_instant_reads_as_the_standard_library_reads_it(moments: list[tuple[datetime, int]]) -> None:
    texts, expected = [], []
    for moment, places in moments:
        fraction = f"{moment.microsecond:06d}789"[:places]
        texts.append(moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + ("." + fraction if places else "") + "Z")
        instant = us(moment.replace(microsecond=0).isoformat() + "+00:00") + int(fraction[:6].ljust(6, "0") or 0)
        expected.append(instant if FIRST_US <= instant < END_US else None)
    assert read_times(pl.Series(texts), ("rfc3339",)).us.to_list() == expected


RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["2026-11-02T12:34:56Z", "2026-11-02T12:34:56.123Z", "2026-11-02T12:34:56+01:00"]),
    st.integers(0, 25),
    st.sampled_from([*"09-:.TZ+ /x", ""]),
)
def test_a_text_that_is_not_rfc3339_is_never_read(text: str, place: int, mark: str) -> None:
    text = text[:place] + mark + text[place + 1 :]
    if not RFC3339.fullmatch(text):
        assert read(text, "rfc3339") == "time.unreadable"


def cut(value: int) -> int:
    return value // SECOND * SECOND


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3 * SECOND), st.integers(0, 5 * SECOND), st.integers(0, 5_000))
def test_cut_times_find_a_place_where_all_agrees(start: int, ring: int, duration_ms: int) -> None:
    """Whatever the true times were: what is made of the cut ones agrees with every figure in the file."""
    started, answered = FIRST_US + start, FIRST_US + start + ring
    ended = answered + duration_ms * 1000
    series = [pl.Series([v], dtype=pl.Int64) for v in (started, cut(answered), cut(ended), duration_ms * 1000)]
    found_answer, found_end = (s[0] for s in refine(*series, SECOND, SECOND))
    assert started <= found_answer <= answered  # the earliest instant it can be, so not after the true one
    assert found_end - found_answer == duration_ms * 1000
    assert (cut(found_answer), cut(found_end)) == (cut(answered), cut(ended))


def test_what_cannot_agree_is_left_for_the_checks() -> None:
    base = FIRST_US + 100 * SECOND
    rows = {
        "answer long before start": (base, base - 5 * SECOND, base + SECOND, SECOND),
        "end long before start": (base, base, base - 5 * SECOND, SECOND),
    }
    s, a, e, d = (pl.Series(v) for v in zip(*rows.values(), strict=True))
    answered, ended = refine(s, a, e, d, SECOND, SECOND)
    assert answered[0] < s[0]
    assert ended[1] < s[1]
    # A duration that fits neither end is believed only as a duration.
    answered, ended = refine(*(pl.Series([v]) for v in (base, base, base + 9 * SECOND, 2 * SECOND)), SECOND, SECOND)
    assert (answered[0], ended[0]) == (base, base + 9 * SECOND)
    # Unknown times stay unknown.
    unknown = pl.Series([None], dtype=pl.Int64)
    answered, ended = refine(pl.Series([base]), unknown, unknown, pl.Series([0]), SECOND, SECOND)
    assert (answered[0], ended[0]) == (None, None)
