"""The register of cases as PostgreSQL holds it, against a gateway that lies: transitions, people, what is sealed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.legal.holds import new_hold_id
from proxy.legal.model import Case
from proxy.legal.states import CAPACITY, TRANSITIONS, Action, Capacity, CaseState, allowed
from schema.roles import Role
from tests.conftest import Database
from tests.support.cases import EMERGENCY, NUMBER, Services, services

TABLES = (
    "legal_case",
    "case_scope",
    "case_text",
    "case_document",
    "case_document_piece",
    "case_approval",
    "case_confirmation",
    "case_event",
    "case_extraction",
    "case_production",
)
SEALED = ("case_scope", "case_text", "case_document", "case_document_piece", "case_production")


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def test_the_transitions_are_the_gateways(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT action, from_state, to_state FROM tollgate.case_transition")
    held = {(r["action"], r["from_state"], r["to_state"]) for r in rows}
    assert held == {(t.action.value, t.before.value if t.before else "", t.after.value) for t in TRANSITIONS}
    assert set(CAPACITY) == set(Action) == {t.action for t in TRANSITIONS}
    # Every state is reached and, but for the last, left; the way through stands.
    assert {t.after for t in TRANSITIONS} == set(CaseState)
    ends = [state for state in CaseState if {t.after for t in TRANSITIONS if t.before is state} == {state}]
    assert ends == [CaseState.CLOSED]
    way = [
        (Action.VALIDATE, CaseState.RECEIVED, CaseState.VALIDATED),
        (Action.APPROVE, CaseState.VALIDATED, CaseState.APPROVED),
        (Action.EXTRACTED, CaseState.APPROVED, CaseState.EXTRACTED),
        (Action.REVIEW, CaseState.EXTRACTED, CaseState.REVIEWED),
        (Action.CERTIFY, CaseState.REVIEWED, CaseState.CERTIFIED),
        (Action.DELIVER, CaseState.CERTIFIED, CaseState.DELIVERED),
        (Action.ACK, CaseState.DELIVERED, CaseState.ACKNOWLEDGED),
        (Action.CLOSE, CaseState.ACKNOWLEDGED, CaseState.CLOSED),
    ]
    assert all(after in allowed(action, before) for action, before, after in way)
    assert CAPACITY[Action.APPROVE] is Capacity.APPROVER
    assert CAPACITY[Action.EXTRACT] is Capacity.HANDLER


async def test_rights(s: Services) -> None:
    """Nobody deletes; the desk changes only what moves; no other role reads what is sealed."""

    async def may(role: Role, table: str, right: str) -> bool:
        name = f"tollgate.{table}"
        if right in ("DELETE", "TRUNCATE"):
            return bool(await s.owner.fetchval("SELECT has_table_privilege($1, $2, $3)", role, name, right))
        return bool(await s.owner.fetchval("SELECT has_any_column_privilege($1, $2, $3)", role, name, right))

    for table in TABLES:
        for role in Role:
            assert not await may(role, table, "DELETE")
            assert not await may(role, table, "TRUNCATE")
            if role not in (Role.CASES, Role.LEGAL):
                assert not await may(role, table, "SELECT"), (table, role)
        for column in ("sealed", "digest", "case_id", "instrument", "opened_by", "actor", "approved_by", "expires_at"):
            has = await s.owner.fetchval(
                "SELECT EXISTS (SELECT FROM information_schema.columns WHERE table_schema = 'tollgate'"
                " AND table_name = $1 AND column_name = $2)", table, column,
            )  # fmt: skip
            if has:
                assert not await s.owner.fetchval(
                    "SELECT has_column_privilege($1, $2, $3, 'UPDATE')", Role.CASES, f"tollgate.{table}", column
                ), (table, column)
    for table in SEALED:
        assert not await may(Role.LEGAL, table, "SELECT")
        forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = $1::text::regclass"
        assert await s.owner.fetchval(forced, f"tollgate.{table}")


async def breaks(s: Services, constraint: str, statement: str, *arguments: Any) -> None:
    """The desk's own role tries something that the gateway would not."""
    with pytest.raises(asyncpg.CheckViolationError) as error:
        await s.cases.execute(statement, *arguments)
    assert error.value.constraint_name == constraint, error.value


async def approval(s: Services, case: Case, by: str, **change: Any) -> tuple[str, list[Any]]:
    row = await s.cases.fetchrow("SELECT digest FROM tollgate.case_scope WHERE case_id = $1 AND scope_version = $2",
                                 case.case_id, case.scope_version)  # fmt: skip
    values = {"digest": row["digest"], "scope_version": case.scope_version, "kind": "approval"} | change
    statement = (
        "INSERT INTO tollgate.case_approval (approval_id, case_id, scope_version, digest, kind, approved_by,"
        " expires_at) VALUES ($1, $2, $3, $4, $5, $6, now() + interval '1 day')"
    )
    return statement, [uuid4(), case.case_id, values["scope_version"], values["digest"], values["kind"], by]


async def test_an_approval_that_the_gateway_should_not_have_made(s: Services) -> None:
    case = await s.validated(who=s.both)
    for constraint, by, change in (
        ("case_two_people", "both-1", {}),
        ("case_staff", "handler-1", {}),
        ("case_staff", "stranger-1", {}),
        ("case_approval_scope", "approver-1", {"digest": bytes(32)}),
        ("case_approval_scope", "approver-1", {"scope_version": 1}),
        ("case_two_people", "both-2", {"kind": "emergency"}),
    ):
        statement, arguments = await approval(s, case, by, **change)
        await breaks(s, constraint, statement, *arguments)


async def test_a_confirmation_by_whoever_acted(s: Services) -> None:
    case = await s.validated(EMERGENCY, who=s.both)
    case = await s.desk.approvals.act_at_once(s.both, case.case_id, case.version, await s.digest(case))
    statement = "INSERT INTO tollgate.case_confirmation (approval_id, verdict, decided_by) VALUES ($1, 'confirmed', $2)"
    await breaks(s, "case_two_people", statement, case.approval_id, "both-1")
    await breaks(s, "case_staff", statement, case.approval_id, "handler-1")
    await s.cases.execute(statement, case.approval_id, "both-2")


async def test_moves_that_the_gateway_should_not_have_made(s: Services) -> None:
    case = await s.validated()
    move = "UPDATE tollgate.legal_case SET state = $2, version = version + $3 WHERE case_id = $1"
    await breaks(s, "case_transition", move, case.case_id, "extracted", 1)
    await breaks(s, "case_transition", move, case.case_id, "delivered", 1)
    await breaks(s, "case_version", move, case.case_id, "validated", 0)
    await breaks(s, "case_version", move, case.case_id, "validated", 2)
    await breaks(s, "case_approved", move, case.case_id, "approved", 1)
    event = (
        "INSERT INTO tollgate.case_event (case_id, version, action, from_state, to_state, actor, capacity,"
        " scope_version, entry_id) VALUES ($1, 99, $2, $3, $4, $5, $6, 1, gen_random_uuid())"
    )
    # An action that does not lead there; somebody in the other capacity, or in none; a stranger.
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await s.cases.execute(event, case.case_id, "validate", "validated", "approved", "handler-1", "handler")
    both = await s.validated(who=s.both)
    step = ("approve", "validated", "approved")
    await breaks(s, "case_two_people", event, both.case_id, *step, "both-1", "approver")
    approved = await s.desk.approvals.approve(s.second, both.case_id, both.version, await s.digest(both))
    as_handler = ("extract", "approved", "approved", "both-2", "handler")
    await breaks(s, "case_two_people", event, approved.case_id, *as_handler)
    await breaks(s, "case_staff", event, both.case_id, *step, "handler-1", "approver")
    await breaks(s, "case_staff", event, both.case_id, *step, "stranger-1", "either")


async def test_an_extraction_without_approval(s: Services) -> None:
    order = (
        "INSERT INTO tollgate.case_extraction (hold_id, case_id, scope_version, approval_id, ordered_by)"
        " VALUES ($1, $2, $3, $4, 'handler-1')"
    )
    case = await s.approved()
    other = await s.approved()
    await breaks(s, "case_approved", order, new_hold_id(), case.case_id, case.scope_version, other.approval_id)
    await breaks(s, "case_approved", order, new_hold_id(), case.case_id, case.scope_version - 1, case.approval_id)
    await s.age(case, 24 * 8)
    await breaks(s, "case_approved", order, new_hold_id(), case.case_id, case.scope_version, case.approval_id)


async def test_a_delivery_under_an_approval_that_ran_out(s: Services) -> None:
    case = await s.certified()
    await s.age(case, 24 * 8)
    move = "UPDATE tollgate.legal_case SET state = 'delivered', version = version + 1 WHERE case_id = $1"
    await breaks(s, "case_approved", move, case.case_id)


async def test_a_scope_that_widens(s: Services) -> None:
    case = await s.validated()
    statement = (
        "INSERT INTO tollgate.case_scope (case_id, scope_version, digest, targets, first_month, last_month, made_by,"
        " narrows, sealed) VALUES ($1, $2, $3, $4, 202610, 202610, 'handler-1', true, '')"
    )
    await breaks(s, "case_scope", statement, case.case_id, case.scope_version + 1, bytes(32), 2)
    # A new scope takes the approval with it.
    case = await s.approved()
    statement = (
        "UPDATE tollgate.legal_case SET scope_version = scope_version + 1, version = version + 1 WHERE case_id = $1"
    )
    await breaks(s, "case_scope", statement, case.case_id)


async def test_a_case_is_not_deleted_under_an_extraction(s: Services) -> None:
    """Not by the desk's role, which may delete nothing; not by the database's owner by mistake."""
    case = await s.approved()
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await s.cases.execute("DELETE FROM tollgate.legal_case WHERE case_id = $1", case.case_id)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await s.owner.execute("DELETE FROM tollgate.legal_case WHERE case_id = $1", case.case_id)
    # What can be done is to close it; the extraction is cancelled.
    await s.desk.intake.close(s.handler, case.case_id, case.version, "withdrawn by the agency")
    await s.desk.extracting.settle()
    assert s.extractor.cancelled == [case.hold_id]
    assert await s.cases.fetchval("SELECT ended_as FROM tollgate.case_extraction") == "cancelled"


async def test_a_dump_says_nothing_of_whom_it_is_about(s: Services) -> None:
    """Every column of every table of the desk, and the log's: no target, no agency, no text of the document."""
    case = await s.certified()
    case = await s.desk.releasing.deliver(s.handler, case.case_id, case.version, ["age1" + "q" * 58])
    words = (NUMBER, NUMBER[1:], NUMBER[2:], "Grand Jury", "GJ-2026-0001", "Example County", "SUBPOENA", "age1qqqq")
    for table in (*TABLES, "log_entry", "log_opening", "log_tag"):
        for row in await s.owner.fetch(f"SELECT * FROM tollgate.{table}"):
            for value in row:
                data = value if isinstance(value, bytes) else str(value).encode()
                assert not [w for w in words if w.encode() in data], table
    # The digest of a scope bears random bytes: the same scope of another case has another.
    await s.received()
    digests = await s.owner.fetch("SELECT digest FROM tollgate.case_scope")
    assert len({r["digest"] for r in digests}) == len(digests)
