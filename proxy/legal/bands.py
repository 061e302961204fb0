"""National security letters in a report: in the bands of 50 U.S.C. 1874, never as a number. Pure.

Whoever received a letter under a prohibition of disclosure may report how many there were only in one of the statute's
structures. Each is a row here. A band says the same of none as of a few, so the line always stands; and it is given for
whole half-years (the annual one: whole years) that are over and no other period, or two reports of overlapping periods
would tell what their bands hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

HALF_YEAR: Final = 6
YEAR: Final = 12


class BandError(ValueError):
    """There is no such structure, or the period is not one that it is reported for; the message says which are."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One way of reporting.

    Attributes:
        name: what it is chosen by.
        citation: where it stands.
        effective: since when.
        width: how many numbers share a band.
        months: how long a period is: half-years begin in January and July, years in January.
        after_months: how long after its end a period may be reported.
        combined: the numbers are of all national security process together, not of letters alone. Tollgate knows
            letters only: where other such process was received, its numbers have to be added before the band is taken.
    """

    name: str
    citation: str
    effective: date
    width: int
    months: int
    after_months: int
    combined: bool

    def band(self, count: int) -> str:
        """Return the band that a count falls into, as ``0-249``."""
        low = count // self.width * self.width
        return f"{low}-{low + self.width - 1}"

    def check(self, first: datetime, last: datetime, now: datetime) -> None:
        """Refuse a period that it is not reported for.

        Raises:
            BandError: unless it is one whole period, over for long enough at ``now``.
        """
        first, last = first.astimezone(UTC), last.astimezone(UTC)
        begins = first == datetime(first.year, first.month, 1, tzinfo=UTC) and (first.month - 1) % self.months == 0
        if not begins or last != _later(first, self.months):
            kind = "year" if self.months == YEAR else "half-year (from January or July)"
            raise BandError(f"national security letters are reported for one whole {kind}: {self.citation}")
        if now < _later(last, self.after_months):
            wait = f" and {self.after_months} months have passed since" if self.after_months else ""
            raise BandError(
                f"national security letters of a period are reported once it is over{wait}: {self.citation}"
            )

    def as_json(self, letters: int, selectors: int) -> dict[str, Any]:
        """Return the line of a report."""
        return {
            "structure": self.name,
            "citation": self.citation,
            "received": self.band(letters),
            "selectors": self.band(selectors),
            "combined": self.combined,
        }


_FREEDOM_ACT = date(2015, 6, 2)  # Pub. L. 114-23, section 603

STRUCTURES: Final = (
    Structure("1000", "50 U.S.C. 1874(a)(1)", _FREEDOM_ACT, 1000, HALF_YEAR, 0, combined=False),
    Structure("500", "50 U.S.C. 1874(a)(2)", _FREEDOM_ACT, 500, HALF_YEAR, 0, combined=False),
    Structure("250", "50 U.S.C. 1874(a)(3)", _FREEDOM_ACT, 250, HALF_YEAR, 0, combined=True),
    Structure("100", "50 U.S.C. 1874(a)(4)", _FREEDOM_ACT, 100, YEAR, 12, combined=True),
)
"""50 U.S.C. 1874(a) and (b): half-yearly in bands of 1,000, 500 or 250, yearly in bands of 100 after one more year."""

DEFAULT: Final = "250"


def structure(name: str) -> Structure:
    """Return a structure.

    Raises:
        BandError: if there is none of that name.
    """
    for each in STRUCTURES:
        if each.name == name:
            return each
    raise BandError(f"the bands are {', '.join(s.name for s in STRUCTURES)} wide: 50 U.S.C. 1874(a)")


def _later(at: datetime, months: int) -> datetime:
    count = at.year * 12 + at.month - 1 + months
    return datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)
