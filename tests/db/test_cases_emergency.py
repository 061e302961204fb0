"""What one person did in an emergency is decided by another, whatever becomes of scope and approval meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.legal.holds import new_hold_id
from proxy.legal.model import Case, Refused
from proxy.legal.states import Action, CaseState
from tests.conftest import Database
from tests.support.cases import EMERGENCY, Services, services

KEY, OTHER = "age1" + "q" * 58, "age1" + "p" * 58
LESS = {"through": "2026-10-30"}


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def refused(awaitable: Awaitable[Any], rule: str) -> None:
    with pytest.raises(Refused) as error:
        await awaitable
    assert error.value.rule == rule, error.value


async def act(s: Services, case: Case) -> Case:
    return await s.desk.approvals.act_at_once(s.handler, case.case_id, case.version, await s.digest(case))


async def acted(s: Services) -> Case:
    """An emergency that one person has acted in."""
    return await act(s, await s.validated(EMERGENCY))


async def extract(s: Services, case: Case) -> Case:
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    assert case.hold_id is not None
    s.extractor.end(case.hold_id)
    await s.desk.extracting.settle()
    return await s.case(case)


async def narrow(s: Services, case: Case) -> Case:
    return await s.desk.intake.narrow(s.handler, case.case_id, case.version, LESS)


async def decide(s: Services, case: Case, action: Action) -> Case:
    return await s.desk.approvals.decide(s.approver, case.case_id, case.version, action, "so it was")


async def approve(s: Services, case: Case) -> Case:
    return await s.desk.approvals.approve(s.second, case.case_id, case.version, await s.digest(case))


async def delivered(s: Services, case: Case) -> Case:
    """From what was extracted to the delivery."""
    case = await s.desk.extracting.review(s.handler, case.case_id, case.version, 7, "")
    releasing = s.desk.releasing
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    await releasing.make()
    signed = await releasing.certificate(s.handler, case.case_id)
    case = await releasing.certify(s.handler, case.case_id, case.version, "text", signed)
    return await releasing.deliver(s.handler, case.case_id, case.version, [KEY])


async def close(s: Services, case: Case) -> Case:
    return await s.desk.intake.close(s.handler, case.case_id, case.version, "over")


async def test_what_was_contested_goes_on_with_an_approval_only(s: Services) -> None:
    case = await decide(s, await acted(s), Action.CONTEST)
    assert case.state is CaseState.OBJECTED
    case = await s.desk.intake.resolve(s.handler, case.case_id, case.version, "I disagree")
    await refused(act(s, case), "emergency.contested")
    case = await narrow(s, case)
    await refused(act(s, case), "emergency.contested")
    assert s.extractor.orders == {}
    # A second person's approval is another thing: under it the case goes all its way.
    case = await delivered(s, await extract(s, await approve(s, case)))
    name, pieces = await s.desk.releasing.package(s.handler, case.case_id)
    assert (name, [p async for p in pieces]) == ("package.zip.age", [b"sealed"])
    again = await s.desk.approvals.approve_recipient(s.second, case.case_id, case.version, OTHER)
    case = await s.desk.releasing.deliver(s.handler, again.case_id, again.version, [OTHER], again=True)
    case = await s.desk.releasing.acknowledge(s.handler, case.case_id, case.version, "")
    assert (await close(s, case)).state is CaseState.CLOSED


async def test_narrowing_gives_no_fresh_48_hours(s: Services) -> None:
    case = await extract(s, await acted(s))
    case = await narrow(s, case)
    await refused(act(s, case), "emergency.unconfirmed")
    await s.age(case, 49)
    case = await s.case(case)
    await refused(act(s, case), "emergency.unconfirmed")
    # It waits for its confirmation all the same, and the desk is told so.
    due = await s.desk.reading.due(s.handler)
    assert [d["overdue"] for d in due if d["kind"] == "confirmation"] == [True]
    # Nor is anything read or delivered under an approval meanwhile, once the 48 hours are over.
    case = await approve(s, case)
    await refused(s.desk.extracting.order(s.handler, case.case_id, case.version), "emergency.unconfirmed")
    case = await decide(s, case, Action.CONFIRM)
    assert (case.state, len(s.extractor.orders)) == (CaseState.APPROVED, 1)
    await extract(s, case)


async def test_a_confirmation_is_no_approval_of_another_scope(s: Services) -> None:
    case = await narrow(s, await extract(s, await acted(s)))
    case = await decide(s, case, Action.CONFIRM)
    assert (case.state, case.approval_id) == (CaseState.VALIDATED, None)
    _, value = await s.desk.reading.as_json(case.case_id)
    assert [(a["kind"], a["verdict"]) for a in value["approvals"]] == [("emergency", "confirmed")]
    # Confirmed, one person may act again, and it is to be confirmed again.
    case = await extract(s, await act(s, case))
    await refused(close(s, case), "emergency.unconfirmed")


@pytest.mark.parametrize("way", ["narrow", "object", "nothing read"])
async def test_nothing_is_closed_unconfirmed(s: Services, way: str) -> None:
    case = await acted(s)
    if way != "nothing read":
        case = await extract(s, case)
    if way == "narrow":
        case = await narrow(s, case)
    if way == "object":
        with pytest.raises(Exception, match="does not allow"):
            await s.desk.intake.object(s.handler, case.case_id, case.version, [], "no")
        case = await narrow(s, case)
        case = await s.desk.intake.object(s.handler, case.case_id, case.version, [], "no")
    await refused(close(s, case), "emergency.unconfirmed")
    case = await decide(s, case, Action.CONTEST)
    assert case.state is CaseState.OBJECTED
    assert (await close(s, case)).state is CaseState.CLOSED


async def test_a_package_is_handed_over_for_48_hours(s: Services) -> None:
    case = await delivered(s, await extract(s, await acted(s)))
    package = s.desk.releasing.package
    await s.age(case, 47)
    await package(s.handler, case.case_id)
    await s.age(case, 2)
    await refused(package(s.handler, case.case_id), "emergency.unconfirmed")
    assert (await s.refusals(case.case_id))[-1] == ("handler-1", "package", "emergency.unconfirmed")
    confirmed = await decide(s, case, Action.CONFIRM)
    await package(s.handler, confirmed.case_id)


async def test_a_package_that_was_contested_is_handed_over_no_more(s: Services) -> None:
    case = await delivered(s, await extract(s, await acted(s)))
    await s.desk.releasing.package(s.handler, case.case_id)
    case = await decide(s, case, Action.CONTEST)
    assert case.state is CaseState.DELIVERED
    await refused(s.desk.releasing.package(s.handler, case.case_id), "emergency.contested")


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

EMERGENCY_AGAIN = (
    "INSERT INTO tollgate.case_approval (approval_id, case_id, scope_version, digest, kind, approved_by, approved_at,"
    " expires_at) SELECT $1, case_id, scope_version, digest, $3, $4, now() + interval '20 days',"
    " now() + interval '1 day' FROM tollgate.case_scope WHERE case_id = $2 ORDER BY scope_version DESC LIMIT 1"
)
MOVE = "UPDATE tollgate.legal_case SET state = $2, version = version + 1, approval_id = $3 WHERE case_id = $1"
ORDER = (
    "INSERT INTO tollgate.case_extraction (hold_id, case_id, scope_version, approval_id, ordered_by)"
    " SELECT $1, case_id, scope_version, approval_id, 'handler-1' FROM tollgate.legal_case WHERE case_id = $2"
)


async def breaks(s: Services, statement: str, *arguments: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as error:
        await s.cases.execute(statement, *arguments)
    assert error.value.constraint_name == "case_emergency", error.value


@pytest.mark.parametrize("contested", [False, True])
async def test_postgresql_takes_one_persons_word_once(s: Services, contested: bool) -> None:
    case = await narrow(s, await extract(s, await acted(s)))
    if contested:
        case = await decide(s, case, Action.CONTEST)
        case = await s.desk.intake.resolve(s.handler, case.case_id, case.version, "I disagree")
    else:
        await breaks(s, MOVE, case.case_id, "closed", None)
    await breaks(s, EMERGENCY_AGAIN, uuid4(), case.case_id, "emergency", "handler-1")


async def test_postgresql_reads_and_delivers_nothing_unconfirmed(s: Services) -> None:
    case = await approve(s, await narrow(s, await extract(s, await acted(s))))
    await s.owner.execute(
        "UPDATE tollgate.case_approval SET approved_at = approved_at - interval '49 hours',"
        " expires_at = expires_at - interval '49 hours' WHERE case_id = $1 AND kind = 'emergency'",
        case.case_id,
    )
    await breaks(s, ORDER, new_hold_id(), case.case_id)
    for state in ("extracted", "reviewed", "certified"):
        await s.owner.execute(MOVE, case.case_id, state, case.approval_id)
    await breaks(s, MOVE, case.case_id, "delivered", case.approval_id)


async def test_when_an_approval_was_given_is_postgresqls_word(s: Services) -> None:
    """Else one that is dated ahead would be younger than every contest."""
    case = await decide(s, await acted(s), Action.CONTEST)
    case = await s.desk.intake.resolve(s.handler, case.case_id, case.version, "decided")
    made = uuid4()
    await s.cases.execute(EMERGENCY_AGAIN, made, case.case_id, "approval", "approver-1")
    at = "SELECT approved_at <= now() FROM tollgate.case_approval WHERE approval_id = $1"
    assert await s.owner.fetchval(at, made)
