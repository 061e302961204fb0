"""From entries to accesses: whose they are, when they ran, and what is not known of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from proxy.disclosure.exposure_trail import Access, Trail, bears
from proxy.ledger.model import Kind, LedgerBroken, OpenedEntry
from proxy.policy.counting import Subject

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACTOR = {"client_id": "a", "token_id": "t", "key_thumbprint": "k", "address": "192.0.2.1"}
REQUEST = {
    "purpose": "billing",
    "action": "pull",
    "basis": "b",
    "agreement": "i",
    "classes": ["timing"],
    "fields": ["record_id"],
    "sides": ["ingress"],
    "windows": [["123A", "2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z"]],
    "limit": 10,
}
PINNED = {"after_id": "0", "as_of": "99", "place": None}
SENT = {"records": {"rows": 2, "runs": [["4", "5"]]}, "place": ["0", "202607", "1", "5"]}


def entry(kind: Kind, at: datetime, access: UUID, **parts: Any) -> OpenedEntry:
    empty = {Kind.ACCESS_INTENT: (REQUEST, {}, PINNED), Kind.ACCESS_DENIED: ({}, {}, {})}
    request, outcome, records = empty.get(kind, ({}, {"rows": 2}, SENT))
    values = {"actor": ACTOR, "request": request, "outcome": outcome, "records": records} | parts
    return OpenedEntry(7, uuid4(), at, kind, access, **values)


@pytest.mark.parametrize(
    ("kind", "value"), [("client", "a"), ("token", "t"), ("key", "k"), ("address", "192.0.2.1"), ("case", "any")]
)
def test_two_values_may_share_a_tag(kind: str, value: str) -> None:
    one = entry(Kind.ACCESS_INTENT, NOON, uuid4())
    assert bears(Subject(kind, value), one)
    assert bears(Subject(kind, "other"), one) is (kind == "case")
    assert bears(Subject(kind, "other"), entry(Kind.ACCESS_INTENT, NOON, uuid4(), actor=None)), (
        "erased: the tag decides"
    )
    trail = Trail(Subject("client", "other"), NOON - HOUR, NOON + HOUR)
    assert trail.take(one) is None
    assert not trail.left()


@pytest.mark.parametrize(
    ("begun", "ended", "ran"),
    [
        (-3, -2, False),
        (-3, -1, True),  # it ended as the range began
        (-3, 0, True),
        (0, 0.5, True),
        (0, 3, True),
        (-3, 3, True),
        (0.9, 3, True),
        (1, 3, False),
        (-3, None, True),
        (0.9, None, True),
        (1, None, False),
    ],
)
def test_what_ran_in_the_range(begun: float, ended: float | None, ran: bool) -> None:
    trail = Trail(Subject("client", "a"), NOON - HOUR, NOON + HOUR)
    access_id = uuid4()
    found = trail.take(entry(Kind.ACCESS_INTENT, NOON + begun * HOUR, access_id))
    assert found is None
    if ended is not None:
        found = trail.take(entry(Kind.ACCESS_OUTCOME, NOON + ended * HOUR, access_id))
    else:
        left = Access(access_id)
        left.take(entry(Kind.ACCESS_INTENT, NOON + begun * HOUR, access_id))
        assert trail.ran(left) is ran
        return
    assert (found is not None) is ran


def test_an_intent_that_was_not_found_is_looked_for() -> None:
    trail = Trail(Subject("client", "a"), NOON - HOUR, NOON + HOUR)
    access_id = uuid4()
    assert trail.take(entry(Kind.ACCESS_OUTCOME, NOON, access_id)) is None
    assert trail.left() == [access_id]


def test_refusals_are_counted_in_the_range() -> None:
    trail = Trail(Subject("client", "a"), NOON - HOUR, NOON + HOUR)
    for at in (-1.1, -1, 0, 0.99, 1):
        trail.take(entry(Kind.ACCESS_DENIED, NOON + at * HOUR, uuid4()))
    assert (trail.denied, trail.left()) == (3, [])


def test_what_is_left_of_a_scope() -> None:
    access = Access(uuid4())
    access.take(entry(Kind.ACCESS_INTENT, NOON, access.access_id))
    ((scope, place, limit),) = access.remainder()
    assert (place, limit, scope.as_of) == (None, 10, 99)
    access.take(entry(Kind.ACCESS_PROGRESS, NOON, access.access_id))
    ((_, place, limit),) = access.remainder()
    assert place is not None
    assert (place.as_list(), limit, set(access.known)) == (SENT["place"], 8, {4, 5})
    access.take(entry(Kind.ACCESS_OUTCOME, NOON, access.access_id, records=None))
    ((_, place, limit),) = access.remainder()
    assert (access.whole, place, limit) == (False, None, 10), "a set was erased: all of it"


@pytest.mark.parametrize(
    "parts",
    [
        {"outcome": {}},
        {"outcome": {"rows": "many"}},
        {"records": {"records": {"rows": 3, "runs": [["4", "5"]]}}},
        {"records": {"records": {"rows": 2, "roaring": "?"}}},
        {"records": {**SENT, "place": ["0"]}},
    ],
)
def test_an_entry_that_does_not_say_what_it_must_is_broken(parts: dict[str, Any]) -> None:
    with pytest.raises(LedgerBroken):
        Access(uuid4()).take(entry(Kind.ACCESS_OUTCOME, NOON, uuid4(), **parts))


@pytest.mark.parametrize("name", ["windows", "purpose", "fields", "limit"])
def test_an_intent_that_does_not_say_what_it_must_is_broken(name: str) -> None:
    request = {key: value for key, value in REQUEST.items() if key != name}
    with pytest.raises(LedgerBroken):
        Access(uuid4()).take(entry(Kind.ACCESS_INTENT, NOON, uuid4(), request=request))
