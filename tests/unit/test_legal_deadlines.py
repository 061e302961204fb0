"""Deadlines: business days, federal holidays, 90 and 180 days, 48 hours, and the nights in which clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.legal.deadlines import (
    APPROVAL_VALID,
    DeadlineError,
    DeadlineKind,
    Preservation,
    add_business_days,
    approval_expires,
    confirm_by,
    day_of,
    deadlines,
    end_of,
    expiry,
    is_business_day,
    may_renew,
    preservation,
    rolled_forward,
    zone_of,
)
from proxy.policy.instruments import INSTRUMENTS
from proxy.policy.legal import EMERGENCY_CONFIRM_US

NY = "America/New_York"
LA = "America/Los_Angeles"
AZ = "America/Phoenix"
SECOND = timedelta(seconds=1)


def local(zone: str, *parts: int) -> datetime:
    """Return a time of a zone."""
    return datetime(*parts, tzinfo=ZoneInfo(zone))  # type: ignore[arg-type,misc]


# 5 U.S.C. 6103(a), and the days on which they are observed (6103(b); Executive Order 11582).
HOLIDAYS = {
    2026: "01-01 01-19 02-16 05-25 06-19 07-03 09-07 10-12 11-11 11-26 12-25",  # 4 July is a Saturday
    2027: "01-01 01-18 02-15 05-31 06-18 07-05 09-06 10-11 11-11 11-25 12-24 12-31",  # and so is New Year's Day of 2028
    2028: "01-17 02-21 05-29 06-19 07-04 09-04 10-09 11-10 11-23 12-25",
}


@pytest.mark.parametrize("year", list(HOLIDAYS))
def test_business_days_of_a_year(year: int) -> None:
    day, off = date(year, 1, 1), set()
    while day.year == year:
        if day.weekday() < 5 and not is_business_day(day):
            off.add(day.strftime("%m-%d"))
        assert day.weekday() < 5 or not is_business_day(day)
        day += timedelta(days=1)
    assert off == set(HOLIDAYS[year].split())


def test_juneteenth_is_one_since_it_is_law() -> None:
    assert is_business_day(date(2020, 6, 19))
    assert not is_business_day(date(2021, 6, 18))  # observed on Friday; signed on Thursday
    assert not is_business_day(date(2026, 6, 19))


@pytest.mark.parametrize(
    ("day", "count", "then"),
    [
        (date(2026, 11, 3), 0, date(2026, 11, 3)),
        (date(2026, 11, 3), 1, date(2026, 11, 4)),
        (date(2026, 11, 6), 1, date(2026, 11, 9)),  # over a weekend
        (date(2026, 11, 10), 1, date(2026, 11, 12)),  # Veterans Day
        (date(2026, 11, 20), 7, date(2026, 12, 2)),  # Thanksgiving: 23 24 25 27 30 1 2
        (date(2026, 12, 22), 7, date(2027, 1, 4)),  # Christmas and New Year: 23 24 28 29 30 31 4
        (date(2027, 12, 30), 1, date(2028, 1, 3)),  # 31 December is New Year's Day observed
        (date(2026, 7, 2), 1, date(2026, 7, 6)),  # 3 July is Independence Day observed
        (date(2026, 11, 30), -2, date(2026, 11, 25)),
        (date(2028, 1, 3), -1, date(2027, 12, 30)),
        (date(2026, 11, 7), 1, date(2026, 11, 9)),  # from a Saturday
    ],
)
def test_counting_business_days(day: date, count: int, then: date) -> None:
    assert add_business_days(day, count) == then


def test_a_far_deadline_is_refused() -> None:
    with pytest.raises(DeadlineError):
        add_business_days(date(2026, 1, 1), 1_001)


@settings(max_examples=100, deadline=None, database=None)
@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.integers(1, 40))
def test_there_and_back(day: date, count: int) -> None:
    then = add_business_days(day, count)
    assert sum(is_business_day(day + timedelta(days=n)) for n in range(1, (then - day).days + 1)) == count
    assert is_business_day(then)
    if is_business_day(day):
        assert add_business_days(then, -count) == day
    assert rolled_forward(then) == then


class TestPreservation:
    """2703(f): day 90 is the last, 90 more on one renewed request, counted in the agency's days."""

    REQUESTED = local(NY, 2026, 11, 3, 16, 30)

    @pytest.mark.parametrize(("day", "kept"), [(0, True), (89, True), (90, True), (91, False), (179, False)])
    def test_first_period(self, day: int, kept: bool) -> None:
        held = preservation(self.REQUESTED, NY)
        noon = datetime.combine(date(2026, 11, 3) + timedelta(days=day), self.REQUESTED.time(), ZoneInfo(NY))
        assert held.active(noon) == kept
        assert may_renew(held, noon) == kept

    @pytest.mark.parametrize(("day", "kept"), [(90, True), (91, True), (179, True), (180, True), (181, False)])
    def test_renewed_period(self, day: int, kept: bool) -> None:
        held = preservation(self.REQUESTED, NY, renewed=True)
        noon = datetime.combine(date(2026, 11, 3) + timedelta(days=day), self.REQUESTED.time(), ZoneInfo(NY))
        assert held.active(noon) == kept
        assert not may_renew(held, noon)  # once

    def test_the_days(self) -> None:
        assert preservation(self.REQUESTED, NY).last_day == date(2027, 2, 1)
        assert preservation(self.REQUESTED, NY, renewed=True).last_day == date(2027, 5, 2)

    @pytest.mark.parametrize("renewed", [False, True])
    def test_the_last_second(self, renewed: bool) -> None:
        held = preservation(self.REQUESTED, NY, renewed)
        midnight = local(NY, *(held.last_day + timedelta(days=1)).timetuple()[:3])
        assert held.expires_at == midnight
        assert held.active(midnight - SECOND)
        assert not held.active(midnight)

    def test_it_does_not_move_to_a_business_day(self) -> None:
        held = preservation(self.REQUESTED, NY, renewed=True)
        assert not is_business_day(held.last_day)  # a Sunday

    @pytest.mark.parametrize(
        ("requested", "zone", "last", "expires"),
        [
            # Over the change of 1 November 2026, back: 90 days are 2,161 hours.
            (local(NY, 2026, 8, 5, 0, 0), NY, date(2026, 11, 3), datetime(2026, 11, 4, 5, tzinfo=UTC)),
            # Over the change of 14 March 2027, forward: 2,159.
            (local(NY, 2026, 12, 15, 0, 0), NY, date(2027, 3, 15), datetime(2027, 3, 16, 4, tzinfo=UTC)),
            # The last day is the one on which clocks change.
            (local(NY, 2026, 8, 3, 9, 0), NY, date(2026, 11, 1), datetime(2026, 11, 2, 5, tzinfo=UTC)),
            (local(NY, 2026, 12, 14, 9, 0), NY, date(2027, 3, 14), datetime(2027, 3, 15, 4, tzinfo=UTC)),
            # The same moment is another day in another zone.
            (local(NY, 2026, 11, 3, 1, 0), LA, date(2027, 1, 31), datetime(2027, 2, 1, 8, tzinfo=UTC)),
            (local(NY, 2026, 11, 3, 1, 0), NY, date(2027, 2, 1), datetime(2027, 2, 2, 5, tzinfo=UTC)),
            # No change of clocks at all; a leap day.
            (local(AZ, 2027, 12, 1, 9), AZ, date(2028, 2, 29), datetime(2028, 3, 1, 7, tzinfo=UTC)),
        ],
    )  # fmt: skip
    def test_zones_and_clocks(self, requested: datetime, zone: str, last: date, expires: datetime) -> None:
        held = preservation(requested, zone)
        assert (held.last_day, held.expires_at) == (last, expires)

    def test_a_reminder_comes_two_business_days_before(self) -> None:
        due = expiry(preservation(self.REQUESTED, NY))
        assert (due.kind, due.day, due.citation) == (DeadlineKind.EXPIRY, date(2027, 2, 1), "18 U.S.C. 2703(f)(2)")
        assert due.remind_at == local(NY, 2027, 1, 28)
        assert not due.overdue(due.at - SECOND)
        assert due.overdue(due.at)


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([NY, LA, "America/Phoenix", "Pacific/Honolulu", "America/Puerto_Rico", "UTC", "Asia/Kolkata"]),
    st.booleans(),
)
def test_ninety_whole_days_in_any_zone(requested: datetime, zone: str, renewed: bool) -> None:
    held: Preservation = preservation(requested, zone, renewed)
    assert (held.last_day - day_of(requested, zone)).days == (180 if renewed else 90)
    assert day_of(held.expires_at - SECOND, zone) == held.last_day
    assert day_of(held.expires_at, zone) == held.last_day + timedelta(days=1)


class TestEmergency:
    """48 hours are elapsed time."""

    @pytest.mark.parametrize("acted", [local(NY, 2026, 10, 31, 12), local(NY, 2027, 3, 13, 12), local(NY, 2026, 7, 1)])
    def test_forty_eight_hours(self, acted: datetime) -> None:
        due = confirm_by(acted)
        assert (due.at.timestamp() - acted.timestamp()) == 48 * 3600 == EMERGENCY_CONFIRM_US / 10**6
        assert due.kind is DeadlineKind.CONFIRMATION
        assert due.remind_at.timestamp() == acted.timestamp()
        assert due.overdue(due.at)
        assert not due.overdue(due.at - SECOND)


def test_an_approval_expires_after_seven_times_24_hours() -> None:
    approved = local(NY, 2026, 10, 30, 12)
    assert APPROVAL_VALID.total_seconds() == 7 * 24 * 3600
    assert approval_expires(approved) == datetime(2026, 11, 6, 16, tzinfo=UTC)


class TestDue:
    """What is due on a process."""

    SERVED = local(NY, 2026, 11, 3, 10)

    def test_the_return_day_stands_even_on_a_sunday(self) -> None:
        (due,) = deadlines("subpoena", self.SERVED, date(2026, 11, 29), NY)
        assert (due.kind, due.day) == (DeadlineKind.RESPONSE, date(2026, 11, 29))
        assert due.at == local(NY, 2026, 11, 30)
        assert due.remind_at == local(NY, 2026, 11, 25)  # before Thanksgiving and the weekend

    def test_without_one_our_own_period_applies(self) -> None:
        (due,) = deadlines("subpoena", self.SERVED, None, NY)
        assert due.day == date(2026, 11, 18)  # ten business days, one of them Veterans Day
        (due,) = deadlines("emergency", self.SERVED, None, NY)
        assert due.day == date(2026, 11, 3)
        (due,) = deadlines("preservation", self.SERVED, None, NY)
        assert due.day == date(2026, 11, 4)

    def test_an_objection_to_a_civil_subpoena(self) -> None:
        objection, response = deadlines("civil_subpoena", self.SERVED, date(2026, 12, 1), NY)
        assert (objection.kind, objection.day) == (DeadlineKind.OBJECTION, date(2026, 11, 17))
        assert objection.citation == "Fed. R. Civ. P. 45(d)(2)(B)"
        assert response.day == date(2026, 12, 1)
        # Earlier where the return day is; later where the 14th day is a holiday.
        sooner = {d.kind: d.day for d in deadlines("civil_subpoena", self.SERVED, date(2026, 11, 10), NY)}
        assert sooner[DeadlineKind.OBJECTION] == date(2026, 11, 10)
        holiday = {d.kind: d.day for d in deadlines("civil_subpoena", local(NY, 2026, 11, 12), date(2026, 12, 1), NY)}
        assert holiday[DeadlineKind.OBJECTION] == date(2026, 11, 27)

    def test_the_day_of_service_is_the_zone_s(self) -> None:
        late = datetime(2026, 11, 4, 3, tzinfo=UTC)  # still the third in New York
        assert deadlines("preservation", late, None, NY)[0].day == date(2026, 11, 4)
        assert deadlines("preservation", late, None, "UTC")[0].day == date(2026, 11, 5)

    @pytest.mark.parametrize("instrument", list(INSTRUMENTS))
    def test_of_every_instrument(self, instrument: str) -> None:
        found = deadlines(instrument, self.SERVED, None, NY)
        assert (found == ()) == (instrument in {"pen_trap", "intercept"})
        assert list(found) == sorted(found, key=lambda d: d.at)
        assert all(d.citation and d.at.tzinfo is UTC and d.remind_at <= d.at for d in found)

    def test_an_unknown_one_has_none(self) -> None:
        assert deadlines("wiretap", self.SERVED, None, NY) == ()


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "a\0b", "x" * 5000])
def test_a_zone_that_is_none(name: str) -> None:
    with pytest.raises(DeadlineError):
        zone_of(name)


def test_the_end_of_a_day_is_the_next_one_s_midnight() -> None:
    assert end_of(date(2026, 11, 1), NY) - local(NY, 2026, 11, 1).astimezone(UTC) == timedelta(hours=25)
    assert end_of(date(2027, 3, 14), NY) - local(NY, 2027, 3, 14).astimezone(UTC) == timedelta(hours=23)
