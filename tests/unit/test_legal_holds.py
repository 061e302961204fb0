"""Holds: the days of 18 U.S.C. 2703(f), counted where the agency is, and what may follow what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest

from proxy.legal.deadlines import DeadlineError
from proxy.legal.holds import (
    TRANSITIONS,
    Hold,
    HoldError,
    HoldKind,
    HoldState,
    dispensable,
    move,
    new_hold_id,
    pin,
    preserve,
    renew,
)

EASTERN = "America/New_York"
ZONES = (EASTERN, "America/Los_Angeles", "Pacific/Honolulu", "Asia/Kolkata", "Pacific/Kiritimati", "UTC")
# Into summer time, out of it, over both, and a request in the hour that comes twice.
REQUESTS = ("2026-01-20T16:30", "2026-09-01T09:00", "2026-03-08T01:30", "2026-11-01T01:30", "2026-06-01T23:59:59")


def at(text: str, zone: str = EASTERN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def held(requested: str = "2026-01-20T16:30", zone: str = EASTERN) -> Hold:
    hold = preserve(new_hold_id(), "C-ABCDEFGHIJ", at(requested, zone), zone, (202501, 202601), "handler-1")
    return replace(hold, state=HoldState.ACTIVE, sealed_at=hold.requested_at, rows=7)


def on_day(hold: Hold, day: int, hour: float) -> datetime:
    """A time of the hold's n-th day where it is counted."""
    zone = ZoneInfo(hold.zone)
    date = hold.requested_at.astimezone(zone).date() + timedelta(days=day)
    return (datetime(date.year, date.month, date.day, tzinfo=zone) + timedelta(hours=hour)).astimezone(UTC)


@pytest.mark.parametrize(("requested", "zone"), list(product(REQUESTS, ZONES)))
def test_day_90_is_held_and_day_91_is_not(requested: str, zone: str) -> None:
    hold = held(requested, zone)
    for day, hour, state in (
        (89, 0, HoldState.ACTIVE),
        (89, 23.99, HoldState.ACTIVE),
        (90, 0, HoldState.ACTIVE),
        (90, 23.99, HoldState.ACTIVE),
        (91, 0, HoldState.EXPIRED),
        (91, 12, HoldState.EXPIRED),
    ):
        now = on_day(hold, day, hour)
        assert (hold.day(now), hold.standing(now)) == (day, state)
    assert hold.expires_at is not None
    assert hold.expires_at - hold.requested_at >= timedelta(days=90, hours=-1), (
        "90 days, but for a change of the clocks"
    )


@pytest.mark.parametrize(("requested", "zone"), list(product(REQUESTS, ZONES)))
def test_renewed_on_any_of_its_days_it_holds_through_day_180(requested: str, zone: str) -> None:
    for day in (1, 45, 89, 90):
        first = held(requested, zone)
        hold = renew(first, on_day(first, day, 23.99))
        for later, hour, state in (
            (91, 0, HoldState.RENEWED),
            (179, 12, HoldState.RENEWED),
            (180, 0, HoldState.RENEWED),
            (180, 23.99, HoldState.RENEWED),
            (181, 0, HoldState.EXPIRED),
        ):
            assert hold.standing(on_day(hold, later, hour)) is state, (day, later, hour)


def test_the_clocks_change_and_the_days_do_not() -> None:
    spring = held("2026-01-20T16:30")  # EST; day 90 is EDT
    assert spring.expires_at == datetime(2026, 4, 21, 4, tzinfo=UTC)
    autumn = held("2026-09-01T09:00")  # EDT; day 90 is EST
    assert autumn.expires_at == datetime(2026, 12, 1, 5, tzinfo=UTC)
    both = renew(held("2026-02-10T10:00"), at("2026-03-10T10:00"))
    assert both.expires_at == at("2026-08-10T00:00")


def test_renewal_comes_once_and_in_time() -> None:
    hold = held()
    with pytest.raises(HoldError, match="days are over"):
        renew(hold, on_day(hold, 91, 0))
    once = renew(hold, on_day(hold, 90, 12))
    with pytest.raises(HoldError, match="once"):
        renew(once, on_day(hold, 100, 0))
    with pytest.raises(HoldError, match="days are over"):
        renew(once, on_day(hold, 181, 0))
    for state in (HoldState.PENDING, HoldState.SUPERSEDED, HoldState.LIFTED, HoldState.VOID):
        with pytest.raises(HoldError):
            renew(replace(hold, state=state), on_day(hold, 10, 0))
    with pytest.raises(HoldError, match="no clock"):
        renew(pin(new_hold_id(), "C-ABCDEFGHIJ", hold.requested_at, "UTC", (202501, 202601), "h"), hold.requested_at)


def test_a_hold_moves_along_its_states_only() -> None:
    hold = held()
    early, late = on_day(hold, 10, 0), on_day(hold, 91, 0)
    for before, after in product(HoldState, HoldState):
        now = late if after is HoldState.EXPIRED else early
        if after in (HoldState.ACTIVE, HoldState.RENEWED, HoldState.PENDING):
            continue  # by sealing and by `renew`
        if after in TRANSITIONS[before]:
            assert move(replace(hold, state=before), after, now).state is after
        else:
            with pytest.raises(HoldError):
                move(replace(hold, state=before), after, now)
    with pytest.raises(HoldError, match="not over"):
        move(hold, HoldState.EXPIRED, on_day(hold, 90, 23.99))
    with pytest.raises(HoldError):
        move(hold, HoldState.SUPERSEDED, late)


def test_a_copy_is_destroyed_when_its_clock_has_ended_and_not_before() -> None:
    hold = held()
    assert not dispensable(hold, on_day(hold, 90, 23))
    assert dispensable(hold, on_day(hold, 91, 0))
    superseded = move(hold, HoldState.SUPERSEDED, on_day(hold, 5, 0))
    assert not dispensable(superseded, on_day(hold, 90, 23)), "the next process may reach more of it"
    assert dispensable(superseded, on_day(hold, 91, 0))
    assert dispensable(move(hold, HoldState.LIFTED, on_day(hold, 5, 0)), on_day(hold, 5, 1))
    assert not dispensable(replace(hold, destroyed_at=on_day(hold, 91, 0)), on_day(hold, 92, 0))
    pinned = pin(new_hold_id(), "C-ABCDEFGHIJ", hold.requested_at, "UTC", (202501, 202601), "h")
    assert pinned.kind is HoldKind.PRODUCTION
    assert not dispensable(pinned, on_day(hold, 5000, 0)), "a production's copy stays until it is lifted"


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(DeadlineError):
        preserve(new_hold_id(), "C-ABCDEFGHIJ", datetime.now(UTC), "Mars/Olympus", (202501, 202501), "h")


def test_ids_say_nothing() -> None:
    ids = {new_hold_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(i) == 12 and i.startswith("H-") for i in ids)
