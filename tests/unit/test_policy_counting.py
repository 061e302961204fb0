"""The privacy officer's permit: only that role, only what a count needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.policy import Deny
from proxy.policy.counting import (
    COUNTING_RULES,
    CountPermit,
    CountRequest,
    Officer,
    Subject,
    SubjectKind,
    decide_count,
)
from schema.fields import BY_NAME, DisclosureClass

OFFICER = Officer("officer-1", privacy=True)
REQUEST = CountRequest(Subject("client", "billing-a"), 0, 1)


@pytest.mark.parametrize("kind", list(SubjectKind))
def test_a_permit_reaches_timing_and_parties_and_nothing_else(kind: SubjectKind) -> None:
    permit = decide_count(replace(REQUEST, subject=Subject(kind.value, "x")), OFFICER)
    assert isinstance(permit, CountPermit)
    assert (permit.purpose, permit.action) == ("privacy", "count")
    assert "64.2011" in permit.basis
    assert permit.classes == {DisclosureClass.TIMING, DisclosureClass.PARTIES}
    assert {BY_NAME[name].disclosure_class for name in permit.fields} == permit.classes
    assert set(permit.fields) == {"record_id", "started_at"} | {
        f.name for f in BY_NAME.values() if f.disclosure_class is DisclosureClass.PARTIES
    }


@pytest.mark.parametrize(
    ("request_", "officer", "reason"),
    [
        (REQUEST, Officer("officer-1", privacy=False), "count.role"),
        (REQUEST, Officer("", privacy=True), "count.role"),
        (replace(REQUEST, subject=Subject("clients", "a")), OFFICER, "count.subject"),
        (replace(REQUEST, subject=Subject("", "")), OFFICER, "count.subject"),
        (replace(REQUEST, subject=Subject("client", "")), OFFICER, "count.subject"),
        (replace(REQUEST, subject=Subject("client", "a" * 257)), OFFICER, "count.subject"),
        (replace(REQUEST, subject=Subject("client", "a\nb")), OFFICER, "count.subject"),
        (replace(REQUEST, subject=Subject("client", "\udcff")), OFFICER, "count.subject"),
        (replace(REQUEST, end_us=0), OFFICER, "window.empty"),
    ],
)
def test_all_else_is_refused(request_: CountRequest, officer: Officer, reason: str) -> None:
    decision = decide_count(request_, officer)
    assert isinstance(decision, Deny)
    assert decision.reason == reason
    assert decision.citation
    assert reason in {rule.code for rule in COUNTING_RULES}
