"""The decision to open records for a case: two people, one scope, and no more than the instrument compels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy import Deny, Purpose
from proxy.policy.instruments import INSTRUMENTS, REFERRED
from proxy.policy.legal import (
    DECISION_RULES,
    EMERGENCY_CONFIRM_US,
    MATCHED,
    PROVENANCE,
    SUBJECT_MATCH,
    Approval,
    LegalAction,
    LegalHolding,
    LegalPermit,
    decide_legal,
)
from proxy.policy.process import Scope
from schema.fields import BY_NAME, DisclosureClass

SCOPE = Scope("subpoena", ("record_id", "started_at", "calling", "called", "name"), 0, 100, "d", 1, ("number",))
APPROVAL = Approval("approver-1", SCOPE.digest(), 1_000, 2_000, fit=True)
CASE = LegalHolding("C-AAAAAAAAAA", "subpoena", SCOPE, "handler-1", True, frozenset({"handler-1"}), APPROVAL)


def of(instrument: str, fields: tuple[str, ...] = SCOPE.fields, **change: Any) -> LegalHolding:
    """Return an approved case under another instrument."""
    scope = replace(SCOPE, instrument=instrument, fields=fields)
    approval = replace(APPROVAL, scope_digest=scope.digest())
    return replace(CASE, **{"instrument": instrument, "scope": scope, "approval": approval, **change})


def denied(holding: LegalHolding, now_us: int = 1_500, action: str = "extract") -> str:
    """Return the reason of a refusal."""
    decision = decide_legal(action, holding, now_us)
    assert isinstance(decision, Deny), decision
    assert decision.citation
    assert decision.says
    return decision.reason


def permitted(holding: LegalHolding, now_us: int = 1_500, action: str = "extract") -> LegalPermit:
    """Return the permit."""
    decision = decide_legal(action, holding, now_us)
    assert isinstance(decision, LegalPermit), decision
    return decision


def test_a_permit_names_all_that_it_allows() -> None:
    permit = permitted(CASE)
    assert (permit.purpose, permit.action) == (Purpose.LEGAL, LegalAction.EXTRACT)
    assert permit.basis == "18 U.S.C. 2703(c)(2)"
    assert (permit.case_id, permit.instrument) == ("C-AAAAAAAAAA", "subpoena")
    assert permit.fields == SCOPE.fields
    assert permit.match_fields == ("record_id", "started_at", *MATCHED["number"])
    assert permit.provenance == ("record_id", "ingest_id", "line_number")
    assert permit.classes == {
        DisclosureClass.TIMING,
        DisclosureClass.PARTIES,
        DisclosureClass.SUBSCRIBER,
        DisclosureClass.SOURCE,
    }
    assert (permit.start_us, permit.end_us, permit.targets, permit.targets_digest) == (0, 100, 1, "d")
    assert permit.scope_digest == SCOPE.digest()
    assert permit.discloses


def test_what_a_class_says_of_a_person_is_given_of_who_is_named_only() -> None:
    """A record in which the target was called tells name and place of the caller, whom the process does not name."""
    fields = ("started_at", "calling", "cell", "name", "imsi")
    permit = permitted(of("warrant", fields))
    assert permit.subject_fields == ("cell", "name", "imsi")
    assert permit.subject_match == SUBJECT_MATCH
    assert "called" not in SUBJECT_MATCH
    assert "redirecting" not in SUBJECT_MATCH
    frozen = permitted(of("preservation", fields), action="preserve")
    assert frozen.subject_fields == ()
    assert not frozen.discloses


@pytest.mark.parametrize(
    ("kinds", "classes"),
    [
        (("account",), {"timing", "subscriber", "source"}),
        (("trunk",), {"timing", "ingress_leg", "egress_leg", "source"}),
        (("imsi",), {"timing", "device", "source"}),
        (("number",), {"timing", "parties", "source"}),
    ],
)
def test_only_what_matching_needs_is_opened_beside_the_fields(kinds: tuple[str, ...], classes: set[str]) -> None:
    scope = replace(SCOPE, fields=("started_at",), target_kinds=kinds)
    permit = permitted(replace(CASE, scope=scope, approval=replace(APPROVAL, scope_digest=scope.digest())))
    assert {c.value for c in permit.classes} == classes
    assert permit.fields == ("started_at",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"case_id": ""}, "case.none"),
        ({"closed": True}, "case.closed"),
        ({"instrument": "wiretap"}, "instrument.unknown"),
        ({"instrument": "pen_trap"}, "instrument.unknown"),
        ({"instrument": "warrant"}, "scope.beyond"),  # another than was validated
        ({"scope": None}, "scope.none"),
        ({"scope": replace(SCOPE, fields=(*SCOPE.fields, "cell"))}, "scope.beyond"),
        ({"scope": replace(SCOPE, fields=("sip_code",))}, "scope.beyond"),
        ({"scope": replace(SCOPE, fields=("bogus",))}, "scope.beyond"),
        ({"scope": replace(SCOPE, fields=())}, "scope.beyond"),
        ({"scope": replace(SCOPE, fields=("called", "calling"))}, "scope.beyond"),
        ({"scope": replace(SCOPE, end_us=0)}, "scope.beyond"),
        ({"scope": replace(SCOPE, targets=0)}, "scope.beyond"),
        ({"scope": replace(SCOPE, targets=100_001)}, "scope.beyond"),
        ({"scope": replace(SCOPE, target_kinds=())}, "scope.beyond"),
        ({"scope": replace(SCOPE, target_kinds=("imei",))}, "scope.beyond"),
        ({"fit": False}, "handler.unfit"),
        ({"handler": ""}, "handler.unfit"),
        ({"approval": None}, "approval.absent"),
        ({"handler": "approver-1"}, "approval.own"),
        ({"handlers": frozenset({"handler-1", "approver-1"})}, "approval.own"),
        ({"approval": replace(APPROVAL, approver="handler-1")}, "approval.own"),
        ({"approval": replace(APPROVAL, approver="")}, "approval.own"),
        ({"scope": replace(SCOPE, end_us=101)}, "approval.other_scope"),
        ({"scope": replace(SCOPE, end_us=99)}, "approval.other_scope"),  # narrowed: any change voids it
        ({"scope": replace(SCOPE, targets_digest="e")}, "approval.other_scope"),
        ({"scope": replace(SCOPE, fields=("calling",))}, "approval.other_scope"),
        ({"approval": replace(APPROVAL, scope_digest="")}, "approval.other_scope"),
        ({"approval": replace(APPROVAL, expires_us=1_500)}, "approval.expired"),
        ({"approval": replace(APPROVAL, approved_us=1_501)}, "approval.expired"),
        ({"approval": replace(APPROVAL, fit=False)}, "approval.unfit"),
    ],
)
def test_a_case_that_does_not_permit(change: dict[str, Any], reason: str) -> None:
    assert denied(replace(CASE, **change)) == reason


@pytest.mark.parametrize("action", ["preserve", "search", "pull", ""])
def test_a_disclosure_s_case_is_extracted_and_nothing_else(action: str) -> None:
    assert denied(CASE, action=action) == "case.action"


def test_a_preservation_is_one_person_s_and_discloses_nothing() -> None:
    held = of("preservation", approval=None)
    assert not permitted(held, action="preserve").discloses
    assert denied(held) == "case.action"
    assert denied(replace(held, fit=False), action="preserve") == "handler.unfit"


class TestEmergency:
    """One acts at once; a second confirms or contests within 48 hours."""

    ACTED = 1_000
    CASE = of("emergency", approval=None, acted_us=ACTED)

    def test_at_once(self) -> None:
        permitted(replace(self.CASE, acted_us=None))

    @pytest.mark.parametrize(
        ("after", "late"), [(0, False), (EMERGENCY_CONFIRM_US - 1, False), (EMERGENCY_CONFIRM_US, True)]
    )
    def test_until_the_48th_hour(self, after: int, late: bool) -> None:
        assert EMERGENCY_CONFIRM_US == 48 * 3600 * 10**6
        if late:
            assert denied(self.CASE, self.ACTED + after) == "emergency.unconfirmed"
        else:
            permitted(self.CASE, self.ACTED + after)

    def test_contested(self) -> None:
        assert denied(replace(self.CASE, contested=True)) == "emergency.contested"
        assert denied(of("emergency", contested=True)) == "emergency.contested"

    def test_confirmed_by_another_it_stands_like_any(self) -> None:
        confirmed = of("emergency", acted_us=0)
        permitted(confirmed)
        assert denied(replace(confirmed, handlers=frozenset({"approver-1"}))) == "approval.own"
        assert denied(confirmed, 2_000) == "approval.expired"

    def test_an_emergency_s_reach_is_still_its_instrument_s(self) -> None:
        assert (
            denied(replace(self.CASE, scope=replace(SCOPE, instrument="emergency", fields=("bogus",))))
            == "scope.beyond"
        )


def test_every_reason_is_one_rule_s() -> None:
    assert len({rule.code for rule in DECISION_RULES}) == len(DECISION_RULES) == 13
    for rule in DECISION_RULES:
        assert rule.house
        assert rule.deny().citation


_fields = st.lists(st.sampled_from([*BY_NAME, "bogus"]), max_size=8).map(
    lambda names: tuple(sorted(set(names), key=lambda n: list(BY_NAME).index(n) if n in BY_NAME else 99))
)
_people = st.sampled_from(["a", "b", "c", ""])


@settings(max_examples=600, deadline=None, database=None)
@given(
    st.sampled_from(["extract", "extract", "extract", "preserve", "pull"]),
    st.sampled_from([*INSTRUMENTS, "x"]),
    _fields,
    _people,
    _people,
    st.frozensets(_people, max_size=2),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 3),
    st.integers(0, 5),
)
def test_no_input_permits_without_basis_and_second_person(
    action: str,
    instrument: str,
    fields: tuple[str, ...],
    handler: str,
    approver: str,
    handlers: frozenset[str],
    fit: bool,
    same: bool,
    acted: int | None,
    now_us: int,
) -> None:
    scope = Scope(instrument, fields, 0, 1, "d", 1, ("number",))
    approval = Approval(approver, scope.digest() if same else SCOPE.digest(), 1, 4, fit)
    holding = LegalHolding("C-1", instrument, scope, handler, True, handlers | {handler}, approval, acted)
    decision = decide_legal(action, holding, now_us)
    if isinstance(decision, Deny):
        assert decision.reason
        return
    kind = INSTRUMENTS[instrument]
    assert instrument not in REFERRED
    assert set(decision.fields) <= set(kind.fields())
    assert decision.basis == kind.citation
    assert decision.discloses == kind.discloses == (action == "extract")
    opened = {*decision.fields, *decision.match_fields, *PROVENANCE}
    assert decision.classes == {BY_NAME[f].disclosure_class for f in opened}
    if kind.discloses:
        assert approver not in {"", handler, *handlers}
        assert fit
        assert same
        assert 1 <= now_us < 4
