"""Staff as values: the day that training runs out, roles that do not go together, ids and texts."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.staff.model import (
    APART,
    Conflict,
    StaffError,
    StaffGrant,
    StaffMember,
    StaffRecord,
    StaffRole,
    Standing,
    anniversary,
    check_roles,
    standing,
)

HIRED = date(2020, 3, 1)
DAYS = st.dates(date(2000, 1, 1), date(2090, 1, 1))


@pytest.mark.parametrize(
    ("trained", "today", "expected"),
    [
        (None, date(2025, 1, 1), Standing.NEVER),
        (date(2020, 2, 29), date(2020, 3, 2), Standing.NEVER),  # before the day of hire
        (date(2020, 3, 1), date(2020, 3, 1), Standing.CURRENT),  # on it
        (date(2025, 6, 10), date(2026, 6, 9), Standing.CURRENT),
        (date(2025, 6, 10), date(2026, 6, 10), Standing.CURRENT),  # the anniversary is the last day
        (date(2025, 6, 10), date(2026, 6, 11), Standing.OVERDUE),
        (date(2024, 2, 29), date(2025, 2, 28), Standing.CURRENT),
        (date(2024, 2, 29), date(2025, 3, 1), Standing.OVERDUE),
        (date(2023, 2, 28), date(2024, 2, 28), Standing.CURRENT),
        (date(2023, 2, 28), date(2024, 2, 29), Standing.OVERDUE),
        (date(2026, 6, 11), date(2026, 6, 10), Standing.NEVER),  # one that has not been
    ],
)
def test_training_runs_out_the_day_after_its_anniversary(trained: date | None, today: date, expected: Standing) -> None:
    assert standing(HIRED, trained, today) is expected


@given(trained=DAYS, later=st.integers(0, 800))
def test_nobody_is_trained_for_more_than_a_year(trained: date, later: int) -> None:
    today = trained + timedelta(days=later)
    is_current = standing(date(2000, 1, 1), trained, today) is Standing.CURRENT
    assert is_current == (today <= anniversary(trained))
    assert timedelta(days=365) <= anniversary(trained) - trained <= timedelta(days=366)


def test_when_training_is_due() -> None:
    member = StaffMember("a", "https://login.carrier.example", "s", "Legal Handler", HIRED)
    today = date(2026, 1, 1)
    none = StaffRecord(member, frozenset(), None, None, today)
    assert (none.standing, none.training_due) == (Standing.NEVER, HIRED)
    some = StaffRecord(member, frozenset({StaffRole.NOC}), None, date(2025, 1, 1), today)
    assert (some.standing, some.training_due) == (Standing.CURRENT, today)
    assert json.loads(json.dumps(some.as_json()))["training_due"] == "2026-01-01"


@pytest.mark.parametrize("pair", APART, ids=lambda pair: "+".join(pair))
def test_roles_that_nobody_has_together(pair: tuple[StaffRole, StaffRole]) -> None:
    with pytest.raises(Conflict):
        check_roles([*pair, StaffRole.PRIVACY_OFFICER])
    for role in pair:
        assert check_roles([role, StaffRole.PRIVACY_OFFICER])


def test_operator_and_noc_never_reach_the_legal_desk() -> None:
    legal = {StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER}
    for role in (StaffRole.OPERATOR, StaffRole.NOC):
        assert {b for a, b in APART if a is role} == legal
    assert check_roles(legal) == legal


@pytest.mark.parametrize("staff_id", ["", "A", "a b", "-a", ".a", "a\n", "a\x00", "a" * 64, "\u00e9", "a/b"])
def test_ids_that_are_none(staff_id: str) -> None:
    with pytest.raises(StaffError):
        StaffMember(staff_id, "https://login.carrier.example", "s", "n", HIRED)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": " n"},
        {"name": "n\n"},
        {"name": "n" * 201},
        {"title": "t\x1b[31m"},
        {"subject": ""},
        {"subject": "s" * 256},
        {"subject": "s\x00"},
        {"issuer": ""},
        {"hired_on": date(1983, 1, 1)},
    ],
    ids=str,
)
def test_members_that_are_none(change: dict[str, object]) -> None:
    values = {"staff_id": "a", "issuer": "i", "subject": "s", "name": "n", "hired_on": HIRED} | change
    with pytest.raises(StaffError):
        StaffMember(**values)  # type: ignore[arg-type]


def test_a_grant_says_who_for_the_log() -> None:
    grant = StaffGrant(
        "handler@carrier.example",
        frozenset({StaffRole.NOC, StaffRole.PRIVACY_OFFICER}),
        "t",
        "k",
        "192.0.2.7",
        datetime(2026, 1, 1, tzinfo=UTC),
        bytes(32),
    )
    assert grant.holds(StaffRole.NOC, StaffRole.OPERATOR)
    assert not grant.holds(StaffRole.OPERATOR)
    assert not grant.holds()
    assert grant.actor() == {
        "staff": "handler@carrier.example",
        "roles": ["noc", "privacy_officer"],
        "token_id": "t",
        "key_thumbprint": "k",
        "address": "192.0.2.7",
    }
    assert {tag.domain for tag in grant.tags()} == {"staff", "jkt", "token", "address"}
