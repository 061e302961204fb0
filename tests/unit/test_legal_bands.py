"""National security letters are reported in the bands of 50 U.S.C. 1874, for whole periods, and never as a number."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.legal.bands import STRUCTURES, BandError, structure


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "count", "band"),
    [
        ("250", 0, "0-249"),
        ("250", 1, "0-249"),
        ("250", 249, "0-249"),
        ("250", 250, "250-499"),
        ("250", 499, "250-499"),
        ("250", 500, "500-749"),
        ("100", 0, "0-99"),
        ("100", 99, "0-99"),
        ("100", 100, "100-199"),
        ("500", 499, "0-499"),
        ("500", 500, "500-999"),
        ("1000", 999, "0-999"),
        ("1000", 1000, "1000-1999"),
    ],
)
def test_bands(name: str, count: int, band: str) -> None:
    assert structure(name).band(count) == band


def test_no_number_leaves_a_structure() -> None:
    """All counts of a band give the very same line."""
    for each in STRUCTURES:
        lines: list[dict[str, Any]] = [each.as_json(n, n) for n in range(each.width)]
        assert all(line == lines[0] for line in lines)
        assert each.as_json(each.width, 0) != lines[0]
        assert each.citation.startswith("50 U.S.C. 1874(a)(")


@pytest.mark.parametrize(
    ("name", "first", "last", "now", "good"),
    [
        ("250", "2026-01-01", "2026-07-01", "2026-07-01", True),
        ("250", "2026-07-01", "2027-01-01", "2027-03-01", True),
        ("250", "2026-07-01", "2027-01-01", "2026-12-31", False),  # not over
        ("250", "2026-01-01", "2027-01-01", "2027-03-01", False),  # two of them
        ("250", "2026-02-01", "2026-08-01", "2027-03-01", False),  # overlaps two: their bands would tell
        ("250", "2026-01-01", "2026-02-01", "2027-03-01", False),  # a month pins it down
        ("250", "2026-01-02", "2026-07-01", "2027-03-01", False),
        ("100", "2025-01-01", "2026-01-01", "2027-01-01", True),
        ("100", "2025-01-01", "2026-01-01", "2026-12-31", False),  # 1874(b): a year after its end
        ("100", "2025-07-01", "2026-07-01", "2027-07-01", False),
        ("100", "2025-01-01", "2025-07-01", "2027-01-01", False),
    ],
)
def test_periods(name: str, first: str, last: str, now: str, good: bool) -> None:
    if good:
        structure(name).check(day(first), day(last), day(now))
        return
    with pytest.raises(BandError, match="1874"):
        structure(name).check(day(first), day(last), day(now))


def test_other_widths_are_refused() -> None:
    with pytest.raises(BandError, match="250"):
        structure("10")
