"""Deadlines of legal process: days of a zone, business days, and the moments at which they end. Pure.

A *day* is a calendar day of the zone that the process names; a day's end is the midnight after it, there. A deadline of
days excludes the day from which it runs and includes its last day (Fed. R. Civ. P. 6(a)(1), Fed. R. Crim. P. 45(a)(1)).
A deadline of hours (48 h) is elapsed time and knows nothing of clocks going forward or back. A business day is Monday
to Friday and no federal holiday (5 U.S.C. 6103), nor the day on which one is observed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import holidays

from proxy.policy.instruments import INSTRUMENTS

PRESERVATION_DAYS: Final = 90
"""18 U.S.C. 2703(f)(2): "retained for a period of 90 days, which shall be extended for an additional 90-day period upon
a renewed request"."""
EMERGENCY_CONFIRM: Final = timedelta(hours=48)
"""Our choice: within it a second person confirms or contests an emergency disclosure."""
APPROVAL_VALID: Final = timedelta(days=7)
"""Our choice: how long an approval stands, elapsed time."""
REMIND_BUSINESS_DAYS: Final = 2
"""Our choice: a reminder goes out so many business days before the last day."""


class DeadlineError(Exception):
    """A zone or a number of days that cannot be reckoned with; the message says which."""


class DeadlineKind(StrEnum):
    """What is due."""

    RESPONSE = "response"
    OBJECTION = "objection"
    CONFIRMATION = "confirmation"
    EXPIRY = "expiry"  # of a preservation


@dataclass(frozen=True, slots=True)
class Deadline:
    """Something due before ``at``."""

    kind: DeadlineKind
    day: date
    """Last day on which it is in time, in the zone of the process."""
    at: datetime
    """The first moment that is too late, UTC."""
    remind_at: datetime
    """When to begin to say so, UTC."""
    citation: str

    def overdue(self, now: datetime) -> bool:
        """Tell whether it is too late."""
        return now >= self.at


@dataclass(frozen=True, slots=True)
class Preservation:
    """How long records are kept under 2703(f)."""

    requested_at: datetime
    zone: str
    renewed: bool
    last_day: date
    """The 90th (180th) day."""
    expires_at: datetime
    """The midnight after it, UTC: from here on they are kept no longer."""

    def active(self, now: datetime) -> bool:
        """Tell whether the records must be kept."""
        return now < self.expires_at


def zone_of(name: str) -> ZoneInfo:
    """Return an IANA zone.

    Raises:
        DeadlineError: if there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DeadlineError("the time zone is not known; name one of the IANA list, as America/New_York") from error


def day_of(at: datetime, zone: str) -> date:
    """Return the calendar day of an aware time in a zone."""
    return at.astimezone(zone_of(zone)).date()


def end_of(day: date, zone: str) -> datetime:
    """Return the first moment after a day in a zone, as UTC."""
    return datetime.combine(day + timedelta(days=1), time(), zone_of(zone)).astimezone(UTC)


@functools.lru_cache(maxsize=256)
def _federal(year: int) -> frozenset[date]:
    # One on a Saturday is observed on the Friday before: the library has New Year's Day of 2028 in 2027, too.
    return frozenset(holidays.country_holidays("US", years=year))


def is_business_day(day: date) -> bool:
    """Tell whether a day is neither on a weekend nor a federal holiday, kept or observed."""
    return day.weekday() < 5 and day not in _federal(day.year)


def add_business_days(day: date, count: int) -> date:
    """Return the ``count``-th business day after ``day`` (negative: before it), which itself does not count.

    Raises:
        DeadlineError: for more than 1,000 of them.
    """
    if abs(count) > 1_000:
        raise DeadlineError("a deadline lies at most 1,000 business days away")
    step = timedelta(days=1 if count > 0 else -1)
    for _ in range(abs(count)):
        day += step
        while not is_business_day(day):
            day += step
    return day


def rolled_forward(day: date) -> date:
    """Return the day itself, or the next business day where it is none (Fed. R. Civ. P. 6(a)(1)(C))."""
    return day if is_business_day(day) else add_business_days(day, 1)


def preservation(requested_at: datetime, zone: str, renewed: bool = False) -> Preservation:
    """Return how long the records of a 2703(f) request are kept.

    The period runs from the day on which the request was received, whenever it is renewed: 90 days and 90 more. It does
    not move to a business day, for nothing has to be done on its last day.

    Args:
        requested_at: when the request was received, aware.
        zone: the requesting agency's zone.
        renewed: whether a renewed request was received in time (:func:`may_renew`).
    """
    last = day_of(requested_at, zone) + timedelta(days=PRESERVATION_DAYS * (2 if renewed else 1))
    return Preservation(requested_at, zone, renewed, last, end_of(last, zone))


def may_renew(held: Preservation, now: datetime) -> bool:
    """Tell whether a renewed request is in time: once, and while the records are still kept."""
    return not held.renewed and held.active(now)


def confirm_by(acted_at: datetime) -> Deadline:
    """Return by when a second person confirms or contests an emergency disclosure: 48 hours, elapsed."""
    at = acted_at.astimezone(UTC) + EMERGENCY_CONFIRM
    return Deadline(DeadlineKind.CONFIRMATION, at.date(), at, acted_at.astimezone(UTC), "18 U.S.C. 2702(c)(4)")


def approval_expires(approved_at: datetime) -> datetime:
    """Return the first moment at which an approval holds no more, UTC."""
    return approved_at.astimezone(UTC) + APPROVAL_VALID


def expiry(held: Preservation) -> Deadline:
    """Return the end of a preservation as something to be reminded of."""
    return _deadline(DeadlineKind.EXPIRY, held.last_day, held.zone, "18 U.S.C. 2703(f)(2)")


def deadlines(instrument: str, served_at: datetime, return_by: date | None, zone: str) -> tuple[Deadline, ...]:
    """Return what is due on a process, soonest first.

    A return day that the process sets is a fixed day and does not move, even where it is no business day (committee
    note of 2009 to Fed. R. Civ. P. 6(a)); the reminder comes before it. Where the process sets none, our own period
    applies. An objection to a civil subpoena is due on the earlier of the return day and 14 days after service.

    Args:
        instrument: its id; an unknown one has no deadlines.
        served_at: aware.
        return_by: the day set by the process.
        zone: IANA name.
    """
    kind = INSTRUMENTS.get(instrument)
    if kind is None or kind.answer_days is None:
        return ()
    served = day_of(served_at, zone)
    due = return_by or add_business_days(served, kind.answer_days)
    found = [_deadline(DeadlineKind.RESPONSE, due, zone, kind.citation)]
    if kind.objection_days is not None:
        last = min(due, rolled_forward(served + timedelta(days=kind.objection_days)))
        found.append(_deadline(DeadlineKind.OBJECTION, last, zone, "Fed. R. Civ. P. 45(d)(2)(B)"))
    return tuple(sorted(found, key=lambda d: (d.at, d.kind)))


def _deadline(kind: DeadlineKind, day: date, zone: str, citation: str) -> Deadline:
    remind = add_business_days(day, -REMIND_BUSINESS_DAYS)
    begins = datetime.combine(remind, time(), zone_of(zone)).astimezone(UTC)
    return Deadline(kind, day, end_of(day, zone), begins, citation)
