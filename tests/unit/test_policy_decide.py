"""The decision over any input: nothing without a basis, nothing outside what the caller holds."""

from __future__ import annotations

import dataclasses
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy import Deny, Holding, OcnWindow, Ownership, Permit, Request, decide, rules
from schema.fields import BY_NAME, OCN_NONE, OCN_UNMAPPED, DisclosureClass, fields_of

PEER_CLASSES = frozenset({"timing", "parties", "routing", "ingress_leg", "egress_leg"})
HOLDING = Holding(
    client_id="billing-a",
    carrier_id="carrier-a",
    purpose="billing",
    agreement="ICA-2026-001",
    classes=PEER_CLASSES,
    ocns=frozenset({"123A", "9999"}),
    ownership=(Ownership("123A"), Ownership("9999", 100, 200)),
    directions=frozenset({"ingress", "egress"}),
    start_us=None,
    end_us=None,
    expires_us=1_000,
)
REQUEST = Request(purpose="billing", action="pull", direction="both", start_us=0, end_us=1_000)


def _deny(request: Request = REQUEST, holding: Holding = HOLDING, now_us: int = 0) -> str:
    decision = decide(request, holding, now_us)
    assert isinstance(decision, Deny)
    assert decision.citation
    assert decision.says
    return decision.reason


def _permit(request: Request = REQUEST, holding: Holding = HOLDING, now_us: int = 0) -> Permit:
    decision = decide(request, holding, now_us)
    assert isinstance(decision, Permit), decision
    return decision


def test_a_peer_gets_timing_parties_routing_and_its_own_legs() -> None:
    permit = _permit()
    assert permit.basis == "47 U.S.C. 222(d)(1)"
    assert permit.agreement == "ICA-2026-001"
    assert {c.value for c in permit.classes} == PEER_CLASSES
    assert permit.fields == tuple(f.name for f in fields_of(*permit.classes))
    assert permit.windows == (OcnWindow(0, 1_000, "123A"), OcnWindow(100, 200, "9999"))


@pytest.mark.parametrize(("direction", "other"), [("ingress", "egress"), ("egress", "ingress")])
def test_one_direction_leaves_the_other_leg_out(direction: str, other: str) -> None:
    permit = _permit(dataclasses.replace(REQUEST, direction=direction))
    assert permit.sides == {direction}
    assert not [name for name in permit.fields if name.startswith(other + "_")]
    assert [name for name in permit.fields if name.startswith(direction + "_")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "marketing"}, "purpose.marketing"),
        ({"purpose": "legal"}, "purpose.not_offered"),
        ({"purpose": "fraud"}, "purpose.not_offered"),
        ({"purpose": "customer"}, "purpose.not_offered"),
        ({"purpose": "curiosity"}, "purpose.unknown"),
        ({"purpose": "Billing"}, "purpose.unknown"),
        ({"purpose": ""}, "purpose.unknown"),
        ({"action": "delete"}, "action.unknown"),
        ({"direction": "sideways"}, "direction.unknown"),
        ({"start_us": 1_000}, "window.empty"),
        ({"start_us": 2_000}, "window.empty"),
        ({"fields": ("ingress_trunk", "imsi")}, "field.unreached"),
        ({"fields": ("no_such_field",)}, "field.unreached"),
        ({"fields": ()}, "field.unreached"),
    ],
)
def test_a_request_that_is_not_permitted(change: dict[str, object], reason: str) -> None:
    assert _deny(dataclasses.replace(REQUEST, **change)) == reason  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "legal"}, "purpose.not_held"),
        ({"purpose": ""}, "purpose.not_held"),
        ({"agreement": ""}, "agreement.absent"),
        ({"expires_us": 0}, "grant.expired"),
        ({"classes": frozenset({"timing", "location"})}, "class.location"),
        ({"classes": frozenset({"timing", "source"})}, "class.unreached"),
        ({"classes": frozenset({"timing", "everything"})}, "class.unknown"),
        ({"classes": frozenset({"parties"})}, "class.missing"),
        ({"classes": frozenset()}, "class.missing"),
        ({"ocns": frozenset()}, "ocn.not_owned"),
        ({"ocns": frozenset({"ZZZZ"})}, "ocn.not_owned"),
        ({"ownership": ()}, "ocn.not_owned"),
        ({"ocns": frozenset({"123A", OCN_UNMAPPED}), "ownership": (Ownership(OCN_UNMAPPED),)}, "ocn.invalid"),
        ({"ocns": frozenset({OCN_NONE}), "ownership": (Ownership(OCN_NONE),)}, "ocn.invalid"),
        ({"ocns": frozenset({"123a"})}, "ocn.invalid"),
        ({"directions": frozenset({"ingress"})}, "direction.outside_grant"),
        ({"directions": frozenset({"both"})}, "direction.outside_grant"),
        ({"directions": frozenset()}, "direction.outside_grant"),
        ({"start_us": 1}, "window.outside_grant"),
        ({"end_us": 999}, "window.outside_grant"),
    ],
)
def test_a_holding_that_does_not_reach(change: dict[str, object], reason: str) -> None:
    assert _deny(holding=dataclasses.replace(HOLDING, **change)) == reason  # type: ignore[arg-type]


def test_an_ocn_that_passed_on_is_seen_by_each_owner_in_its_own_time() -> None:
    holding = dataclasses.replace(
        HOLDING,
        ocns=frozenset({"123A"}),
        ownership=(Ownership("123A", 0, 300), Ownership("123A", 300, 400), Ownership("123A", 600, None)),
    )
    assert _permit(holding=holding).windows == (OcnWindow(0, 400, "123A"), OcnWindow(600, 1_000, "123A"))


def test_fields_narrow_in_canonical_order() -> None:
    permit = _permit(dataclasses.replace(REQUEST, fields=("called", "record_id", "started_at")))
    assert permit.fields == ("record_id", "started_at", "called")


def test_every_rule_has_a_code_of_its_own_a_citation_and_a_date() -> None:
    codes = [rule.code for rule in rules.RULES]
    assert len(codes) == len(set(codes)) >= 18
    for rule in rules.RULES:
        assert "47 U.S.C. 222" in rule.citation
        assert date(1996, 2, 8) <= rule.effective <= date(2026, 1, 1)
        assert rule.says.endswith(".")


_time = st.integers(-5, 60)
_ocn = st.sampled_from(["123A", "9999", "ABCD", "none", "unmapped", "12", "abcd", ""])
_class = st.sampled_from([*(c.value for c in DisclosureClass), "everything", ""])
_directions = st.sampled_from([frozenset({"ingress", "egress"}), frozenset({"ingress"}), frozenset({"egress"})])
_requests = st.builds(
    Request,
    purpose=st.sampled_from(["billing", "billing", "billing", "legal", "fraud", "customer", "marketing", "x", ""]),
    action=st.sampled_from(["pull", "search", "delete", ""]),
    direction=st.sampled_from(["ingress", "egress", "both", "", "BOTH"]),
    start_us=_time,
    end_us=_time,
    fields=st.none() | st.lists(st.sampled_from([*BY_NAME, "bogus"]), max_size=4).map(tuple),
)
_holdings = st.builds(
    Holding,
    client_id=st.just("c"),
    carrier_id=st.just("k"),
    purpose=st.sampled_from(["billing", "billing", "billing", "legal", "marketing", ""]),
    agreement=st.sampled_from(["ICA", "ICA", ""]),
    classes=st.one_of(st.sampled_from([PEER_CLASSES, frozenset({"timing"})]), st.frozensets(_class, max_size=5)),
    ocns=st.frozensets(st.sampled_from(["123A", "9999", "ABCD"]), max_size=3) | st.frozensets(_ocn, max_size=3),
    ownership=st.lists(st.builds(Ownership, _ocn, st.none() | _time, st.none() | _time), max_size=5).map(tuple),
    directions=_directions,
    start_us=st.none() | _time,
    end_us=st.none() | _time,
    expires_us=_time,
)

# Most inputs deny on the first check; half of them are therefore drawn so that only times and codes can go wrong.
_likely_requests = st.builds(
    Request,
    purpose=st.just("billing"),
    action=st.just("pull"),
    direction=st.sampled_from(["ingress", "egress", "both"]),
    start_us=st.integers(-5, 25),
    end_us=st.integers(25, 60),
)
_likely_holdings = st.builds(
    Holding,
    client_id=st.just("c"),
    carrier_id=st.just("k"),
    purpose=st.just("billing"),
    agreement=st.just("ICA"),
    classes=st.sampled_from([PEER_CLASSES, frozenset({"timing", "egress_leg"})]),
    ocns=st.frozensets(st.sampled_from(["123A", "9999", "ABCD"]), min_size=1, max_size=3),
    ownership=st.lists(
        st.builds(Ownership, st.sampled_from(["123A", "9999", "ABCD"]), st.none() | _time, st.none() | _time),
        min_size=1,
        max_size=5,
    ).map(tuple),
    directions=_directions,
    start_us=st.none() | st.integers(-5, 5),
    end_us=st.none() | st.integers(50, 60),
    expires_us=st.just(100),
)
_inputs = st.tuples(_requests, _holdings) | st.tuples(_likely_requests, _likely_holdings)


@settings(max_examples=1_000, deadline=None)
@given(_inputs, _time)
@example((REQUEST, HOLDING), 0)
def test_no_permit_without_a_basis_or_beyond_the_holding(inputs: tuple[Request, Holding], now_us: int) -> None:
    request, holding = inputs
    decision = decide(request, holding, now_us)
    if isinstance(decision, Deny):
        assert decision.reason in {rule.code for rule in rules.RULES}
        return
    # A basis, for a purpose asked for and held, in force and in time.
    assert request.purpose == holding.purpose == decision.purpose == "billing"
    assert decision.basis == "47 U.S.C. 222(d)(1)"
    assert decision.agreement == holding.agreement != ""
    assert now_us < holding.expires_us
    # No class or field beyond the token's or the purpose's, and never the leg that was not asked for.
    assert {c.value for c in decision.classes} <= holding.classes & PEER_CLASSES
    assert {BY_NAME[name].disclosure_class for name in decision.fields} <= decision.classes
    assert decision.sides == ({"ingress", "egress"} if request.direction == "both" else {request.direction})
    assert decision.sides <= holding.directions
    assert not {f"{side}_leg" for side in {"ingress", "egress"} - decision.sides} & set(decision.classes)
    # No OCN and no moment outside the token, the ask, or the time in which the OCN was the caller's.
    assert decision.windows
    for window in decision.windows:
        assert window.ocn in holding.ocns
        assert window.ocn not in {OCN_NONE, OCN_UNMAPPED}
        assert window.start_us < window.end_us
        for moment in range(window.start_us, window.end_us):
            assert request.start_us <= moment < request.end_us
            assert holding.start_us is None or moment >= holding.start_us
            assert holding.end_us is None or moment < holding.end_us
            assert any(_owns(o, window.ocn, moment) for o in holding.ownership)


@settings(max_examples=500, deadline=None)
@given(_inputs, _time, _time)
def test_nothing_owned_and_asked_for_is_left_out(inputs: tuple[Request, Holding], now_us: int, moment: int) -> None:
    request, holding = inputs
    decision = decide(request, holding, now_us)
    if isinstance(decision, Permit) and request.start_us <= moment < request.end_us:
        for ocn in holding.ocns:
            owned = any(_owns(o, ocn, moment) for o in holding.ownership)
            inside = [w for w in decision.windows if w.ocn == ocn and w.start_us <= moment < w.end_us]
            assert len(inside) == owned  # once, never twice: a record is not sent again


def _owns(ownership: Ownership, ocn: str, moment: int) -> bool:
    return (
        ownership.ocn == ocn
        and (ownership.start_us is None or ownership.start_us <= moment)
        and (ownership.end_us is None or moment < ownership.end_us)
    )
