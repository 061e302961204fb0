"""Two people, one scope: who may approve what, what voids it, and what is refused is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any

import asyncpg
import pytest

from proxy.ledger.model import Kind
from proxy.legal.model import Case, Malformed, Refused, Stale, WrongState
from proxy.legal.states import Action, CaseState
from proxy.staff.model import StaffGrant, StaffRole
from proxy.staff.service import Staff
from tests.conftest import Database
from tests.support.cases import ASKED, EMERGENCY, SUBPOENA, Services, services
from tests.support.operators import grant_of


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def refused(awaitable: Awaitable[Any], rule: str) -> None:
    with pytest.raises(Refused) as error:
        await awaitable
    assert error.value.rule == rule, error.value


async def test_nobody_approves_what_they_handled(s: Services) -> None:
    approve, digest = s.desk.approvals.approve, s.digest
    case = await s.validated(who=s.both)
    await refused(approve(s.both, case.case_id, case.version, await digest(case)), "case.two_people")
    # Nor does anybody handle what they approved.
    case = await approve(s.second, case.case_id, case.version, await digest(case))
    await refused(s.desk.extracting.order(s.second, case.case_id, case.version), "case.two_people")
    await refused(
        s.desk.intake.narrow(s.second, case.case_id, case.version, {"classes": ["timing"]}), "case.two_people"
    )
    assert await s.refusals(case.case_id) == [
        ("both-1", "approve", "case.two_people"),
        ("both-2", "extract", "case.two_people"),
        ("both-2", "narrow", "case.two_people"),
    ]
    assert (await s.case(case)).state is CaseState.APPROVED
    assert s.extractor.orders == {}


async def test_an_approval_is_of_one_scope(s: Services) -> None:
    approve, intake = s.desk.approvals.approve, s.desk.intake
    case = await s.validated()
    seen = await s.digest(case)
    narrowed = await intake.narrow(s.handler, case.case_id, case.version, {"through": "2026-10-15"})
    # What the approver saw is not what stands now; neither by its version nor by its digest.
    with pytest.raises(Stale):
        await approve(s.approver, case.case_id, case.version, seen)
    await refused(approve(s.approver, case.case_id, narrowed.version, seen), "approval.other_scope")
    with pytest.raises(Malformed):
        await approve(s.approver, case.case_id, narrowed.version, "x")
    case = await approve(s.approver, case.case_id, narrowed.version, await s.digest(narrowed))
    # A replay of the same request is of an older version.
    with pytest.raises(Stale):
        await approve(s.approver, case.case_id, narrowed.version, await s.digest(narrowed))
    # A change of the scope voids it, and lets go of what was extracted under it.
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    hold = case.hold_id
    assert hold is not None
    case = await intake.narrow(s.handler, case.case_id, case.version, {"fields": ["started_at", "calling"]})
    assert (case.state, case.approval_id, case.hold_id) == (CaseState.VALIDATED, None, None)
    await refused_state(s.desk.extracting.order(s.handler, case.case_id, case.version))
    await s.desk.extracting.settle()
    assert s.extractor.cancelled == [hold]
    _, value = await s.desk.reading.as_json(case.case_id)
    assert all(a["voided_at"] for a in value["approvals"])


async def refused_state(awaitable: Awaitable[Any]) -> None:
    with pytest.raises(WrongState):
        await awaitable


WIDER: list[dict[str, Any]] = [
    {"targets": ["+12125550123", "+12125550124"]},
    {"targets": ["+12125550199"]},
    {"from": "2026-09-30"},
    {"through": "2026-11-01"},
    {"classes": ["timing", "parties", "routing"]},
    {"fields": ["started_at", "switch_id"]},
    {"fields": ["cell"]},
]


async def test_a_scope_is_never_widened(s: Services) -> None:
    case = await s.validated()
    for body in WIDER:
        await refused(s.desk.intake.narrow(s.handler, case.case_id, case.version, body), "scope.widened")
    same = {"through": "2026-10-31"}
    await refused(s.desk.intake.narrow(s.handler, case.case_id, case.version, same), "scope.unchanged")
    assert (await s.case(case)).scope_version == case.scope_version
    with pytest.raises(WrongState):
        await s.desk.intake.ask(s.handler, case.case_id, case.version, ASKED)


async def test_an_approval_runs_out(s: Services) -> None:
    case = await s.approved()
    await s.age(case, 24 * 7 - 1)
    await s.desk.extracting.lapse()
    assert (await s.case(case)).state is CaseState.APPROVED
    await s.age(case, 2)
    await refused(s.desk.extracting.order(s.handler, case.case_id, case.version), "approval.expired")
    await s.desk.extracting.lapse()
    case = await s.case(case)
    assert (case.state, case.approval_id) == (CaseState.VALIDATED, None)
    # Approved again, it goes on.
    case = await s.desk.approvals.approve(s.approver, case.case_id, case.version, await s.digest(case))
    await s.desk.extracting.order(s.handler, case.case_id, case.version)


async def test_nothing_goes_out_under_an_approval_that_ran_out(s: Services) -> None:
    case = await s.certified()
    await s.age(case, 24 * 8)
    key = "age1" + "q" * 58
    await refused(s.desk.releasing.deliver(s.handler, case.case_id, case.version, [key]), "approval.expired")
    assert s.maker.deliveries == []
    case = await s.desk.approvals.approve(s.approver, case.case_id, case.version, await s.digest(case))
    assert case.state is CaseState.CERTIFIED
    case = await s.desk.releasing.deliver(s.handler, case.case_id, case.version, [key])
    assert case.state is CaseState.DELIVERED


@pytest.mark.parametrize("what", ["suspended", "untrained", "role"])
async def test_who_is_not_fit_does_not_approve(s: Services, what: str) -> None:
    """The guard refuses their request; the register and PostgreSQL do too, were a grant to live on."""
    case = await s.validated()
    staff = Staff(s.ledger)
    if what == "suspended":
        await staff.suspend(s.operator, "approver-1", "left", s.operators.first)
    elif what == "role":
        await staff.end_role(s.operator, "approver-1", StaffRole.LEGAL_APPROVER, "moved", s.operators.first)
    else:
        await s.owner.execute(
            "UPDATE tollgate.staff_training SET completed_on = $1 WHERE staff_id = 'approver-1'", date(2025, 1, 1)
        )
    await refused(s.desk.approvals.approve(s.approver, case.case_id, case.version, await s.digest(case)), "case.staff")
    assert await s.refusals(case.case_id) == [("approver-1", "approve", "case.staff")]


async def test_an_approver_who_is_suspended_afterwards_releases_nothing(s: Services) -> None:
    case = await s.approved()
    await Staff(s.ledger).suspend(s.operator, "approver-1", "left", s.operators.first)
    await refused(s.desk.extracting.order(s.handler, case.case_id, case.version), "approval.unfit")
    assert s.extractor.orders == {}


async def test_two_handlers_race_on_one_state(s: Services) -> None:
    case = await s.received()
    validate = s.desk.intake.validate
    done = await asyncio.gather(
        *(validate(who, case.case_id, case.version) for who in (s.handler, s.both, s.second)), return_exceptions=True
    )
    won = [x for x in done if isinstance(x, Case)]
    assert len(won) == 1
    assert all(isinstance(x, Stale) for x in done if not isinstance(x, Case))
    assert len(await s.refusals(case.case_id)) == 2
    versions = await s.owner.fetch(
        "SELECT version FROM tollgate.case_event WHERE case_id = $1 ORDER BY 1", case.case_id
    )
    assert [r["version"] for r in versions] == [1, 2, 3, 4]


async def test_an_emergency_is_one_persons_act_and_anothers_confirmation(s: Services) -> None:
    approvals = s.desk.approvals
    case = await s.validated(EMERGENCY)
    case = await approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case))
    assert case.state is CaseState.APPROVED
    await refused_two(approvals.decide(s.handler, case.case_id, case.version, Action.CONFIRM, "it was so"))
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    # Not confirmed, it is not closed; confirmed, it goes on under an approval.
    await refused(s.desk.intake.close(s.handler, case.case_id, case.version, "over"), "emergency.unconfirmed")
    case = await approvals.decide(s.approver, case.case_id, case.version, Action.CONFIRM, "I called back")
    _, value = await s.desk.reading.as_json(case.case_id)
    assert [(a["kind"], a["verdict"], a["decided_by"]) for a in value["approvals"]] == [
        ("emergency", "confirmed", "approver-1"),
        ("approval", None, None),
    ]
    await refused(approvals.decide(s.second, case.case_id, case.version, Action.CONTEST, "no"), "emergency.none")


async def refused_two(awaitable: Awaitable[Any]) -> None:
    await refused(awaitable, "case.two_people")


async def test_an_emergency_that_nobody_confirms_discloses_nothing_more(s: Services) -> None:
    case = await s.validated(EMERGENCY)
    case = await s.desk.approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case))
    await s.age(case, 47)
    due = await s.desk.reading.due(s.handler)
    assert [(d["kind"], d["overdue"]) for d in due if d["kind"] == "confirmation"] == [("confirmation", False)]
    await s.age(case, 2)
    due = await s.desk.reading.due(s.handler)
    assert [(d["kind"], d["overdue"]) for d in due if d["kind"] == "confirmation"] == [("confirmation", True)]
    await refused(s.desk.extracting.order(s.handler, case.case_id, case.version), "emergency.unconfirmed")
    # Late is on record, and better than never.
    case = await s.desk.approvals.decide(s.approver, case.case_id, case.version, Action.CONFIRM, "late")
    await s.desk.extracting.order(s.handler, case.case_id, case.version)
    told = [e.request for e in await s.ledger.read(kinds=[Kind.CASE_STATE], limit=1000) if e.request]
    assert [t["late"] for t in told if t["action"] == "confirm" and "late" in t] == [True]


async def test_an_emergency_that_is_contested_stops(s: Services) -> None:
    case = await s.validated(EMERGENCY)
    case = await s.desk.approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case))
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    hold = case.hold_id
    case = await s.desk.approvals.decide(s.approver, case.case_id, case.version, Action.CONTEST, "no danger")
    assert (case.state, case.approval_id, case.hold_id) == (CaseState.OBJECTED, None, None)
    await s.desk.extracting.settle()
    assert s.extractor.cancelled == [hold]


async def test_one_person_acts_in_an_emergency_only(s: Services) -> None:
    case = await s.validated(SUBPOENA)
    await refused(
        s.desk.approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case)), "approval.absent"
    )


async def test_another_key_of_the_recipient_needs_an_approval_of_its_own(s: Services) -> None:
    releasing, approvals = s.desk.releasing, s.desk.approvals
    first, second = "age1" + "q" * 58, "age1" + "p" * 58
    case = await s.certified()
    case = await releasing.deliver(s.handler, case.case_id, case.version, [first])
    again = lambda c, key: releasing.deliver(s.handler, c.case_id, c.version, [key], again=True)  # noqa: E731
    await refused(again(case, second), "approval.recipient")
    case = await approvals.approve_recipient(s.approver, case.case_id, case.version, second)
    await refused(again(case, first), "approval.recipient")
    case = await again(case, second)
    # Used, it is void: the next key needs the next approval.
    await refused(again(case, second), "approval.recipient")
    assert s.maker.deliveries == [(first,), (second,)]


async def test_what_is_contested_after_the_delivery_goes_to_nobody_else(s: Services) -> None:
    releasing, approvals = s.desk.releasing, s.desk.approvals
    case = await s.validated(EMERGENCY)
    case = await approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case))
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    assert case.hold_id is not None
    s.extractor.end(case.hold_id)
    await s.desk.extracting.settle()
    case = await s.case(case)
    case = await s.desk.extracting.review(s.handler, case.case_id, case.version, 7, "")
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    await releasing.make()
    signed = await releasing.certificate(s.handler, case.case_id)
    case = await releasing.certify(s.handler, case.case_id, case.version, "text", signed)
    case = await releasing.deliver(s.handler, case.case_id, case.version, ["age1" + "q" * 58])
    case = await approvals.decide(s.approver, case.case_id, case.version, Action.CONTEST, "no danger")
    assert case.state is CaseState.DELIVERED
    other = "age1" + "p" * 58
    case = await approvals.approve_recipient(s.second, case.case_id, case.version, other)
    again = releasing.deliver(s.handler, case.case_id, case.version, [other], again=True)
    await refused(again, "emergency.contested")


CALLS: list[tuple[str, Callable[[Services, Case, StaffGrant], Awaitable[Any]]]] = [
    ("validate", lambda s, c, w: s.desk.intake.validate(w, c.case_id, c.version)),
    ("extract", lambda s, c, w: s.desk.extracting.order(w, c.case_id, c.version)),
    ("review", lambda s, c, w: s.desk.extracting.review(w, c.case_id, c.version, 0, "")),
    ("produce", lambda s, c, w: s.desk.releasing.produce(w, c.case_id, c.version, {"custodian": "both-1"})),
    ("deliver", lambda s, c, w: s.desk.releasing.deliver(w, c.case_id, c.version, ["age1" + "q" * 58])),
    ("ack", lambda s, c, w: s.desk.releasing.acknowledge(w, c.case_id, c.version, "")),
    ("resolve", lambda s, c, w: s.desk.intake.resolve(w, c.case_id, c.version, "x")),
    ("close", lambda s, c, w: s.desk.intake.close(w, c.case_id, c.version, "x")),
]


async def test_a_closed_case_does_nothing_more(s: Services) -> None:
    case = await s.validated()
    case = await s.desk.intake.close(s.handler, case.case_id, case.version, "withdrawn")
    for name, call in CALLS:
        with pytest.raises(WrongState):
            await call(s, case, s.handler)
        assert (await s.refusals(case.case_id))[-1] == ("handler-1", name, "case.state")


async def test_who_is_nobody_is_refused_by_the_database(s: Services) -> None:
    await refused(s.received(who=grant_of("stranger-1")), "case.staff")
