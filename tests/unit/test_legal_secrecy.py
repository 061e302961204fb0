"""Who may know of a case: one predicate, and when each kind of order ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from proxy.legal.secrecy import DESK, NONE, Audience, Authority, Secrecy, audience, visible, visible_sql

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)
PAST, TO_COME = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
EVERY_ROLE = ("legal_handler", "legal_approver", "privacy_officer", "noc", "operator")


@pytest.mark.parametrize("authority", Authority)
@pytest.mark.parametrize("until", [None, PAST, NOW, TO_COME])
@pytest.mark.parametrize("lifted", [None, PAST, NOW, TO_COME])
def test_when_an_order_binds(authority: Authority, until: datetime | None, lifted: datetime | None) -> None:
    over = lifted in (PAST, NOW) or (until in (PAST, NOW) and authority is not Authority.NSL)
    assert Secrecy(authority, until, lifted).binds(NOW) is not over


def test_a_national_security_letter_is_never_ended_by_a_date() -> None:
    long_ago = datetime(2016, 1, 1, tzinfo=UTC)
    assert Secrecy(Authority.NSL, long_ago).binds(NOW)
    assert not Secrecy(Authority.NSL, long_ago, PAST).binds(NOW)


def test_only_the_legal_desk_knows_of_a_secret_case() -> None:
    secret = Secrecy(Authority.COURT)
    seeing = {role for role in EVERY_ROLE if visible(audience([role]), secret, NOW)}
    assert seeing == DESK == {"legal_handler", "legal_approver"}
    assert audience([]) is Audience.OTHERS, "metrics, alerts, commands without a sign-in"
    assert audience(["operator", "unknown"]) is Audience.OTHERS
    for role in EVERY_ROLE:
        assert visible(audience([role]), None, NOW)
        assert visible(audience([role]), Secrecy(Authority.COURT, PAST), NOW)


def test_a_day_binds_through_its_end_where_the_order_was_made() -> None:
    order = Secrecy.through(Authority.COURT, date(2026, 11, 1), ZoneInfo("America/New_York"))
    # The day has 25 hours: the clocks go back in it.
    assert order.binds(datetime(2026, 11, 2, 4, 59, 59, tzinfo=UTC))
    assert not order.binds(datetime(2026, 11, 2, 5, tzinfo=UTC))


def test_a_row_and_its_order() -> None:
    row = {"secrecy": "2709c", "secret_until": PAST, "secrecy_lifted_at": None}
    assert Secrecy.of_row(row) == Secrecy(Authority.NSL, PAST)
    assert Secrecy.of_row(row | {"secrecy": NONE}) is None
    assert visible_sql(Audience.DESK) == "true"
    with pytest.raises(ValueError, match="zone"):
        Secrecy(Authority.SEAL, datetime(2026, 1, 1))
