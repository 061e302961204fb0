"""The register of cases as PostgreSQL holds it, against a gateway that lies: transitions, people, what is sealed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.legal.holds import new_hold_id
from proxy.legal.model import Case, new_case_id
from proxy.legal.states import CAPACITY, TRANSITIONS, Action, Capacity, CaseState, allowed
from schema.roles import Role
from tests.conftest import Database
from tests.support.cases import ASKED, EMERGENCY, NUMBER, Services, services
from tests.support.holds import add_case

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
    rows = await owner.fetch("SELECT action, from_state, to_state, capacity FROM tollgate.case_transition")
    held = {(r["action"], r["from_state"], r["to_state"]) for r in rows}
    assert held == {(t.action.value, t.before.value if t.before else "", t.after.value) for t in TRANSITIONS}
    assert {r["action"]: r["capacity"] for r in rows} == {action.value: by.value for action, by in CAPACITY.items()}
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


ADD_CASE = (
    "INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version)"
    " VALUES ($1, 'subpoena', 202611, 'both-1', $2, $3, 1)"
)
ADD_EVENT = (
    "INSERT INTO tollgate.case_event (case_id, version, action, from_state, to_state, actor, capacity, scope_version,"
    " entry_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, gen_random_uuid())"
)
ADD_SCOPE = (
    "INSERT INTO tollgate.case_scope (case_id, scope_version, digest, targets, first_month, last_month, made_by,"
    " narrows, sealed) VALUES ($1, $2, $3, $4, $5, $6, 'both-1', $7, '')"
)


async def together(s: Services, *statements: tuple[Any, ...]) -> None:
    """The desk's role does several things in one transaction."""
    async with s.cases.acquire() as conn, conn.transaction():
        for statement, *arguments in statements:
            await conn.execute(statement, *arguments)


async def test_who_opened_a_case_does_not_approve_it_in_any_capacity(s: Services) -> None:
    """One person with both roles, who says of themselves whatever a lying gateway likes."""
    case_id = new_case_id()
    # A case begins received, by its opener, as a handler.
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await s.cases.execute(ADD_CASE, case_id, uuid4(), "validated")
    with pytest.raises(asyncpg.CheckViolationError) as error:
        await s.cases.execute(ADD_CASE, case_id, uuid4(), "received")  # and no event
    assert error.value.constraint_name == "case_event"
    opened = ("open", "", "received", "both-1")
    add = (ADD_CASE, case_id, uuid4(), "received")
    for other in ("either", "approver", "system"):
        with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.CheckViolationError)):
            await together(s, add, (ADD_EVENT, case_id, 1, *opened, other, 0))
    await together(s, add, (ADD_EVENT, case_id, 1, *opened, "handler", 0))
    # No step without its event, nor under the event of another.
    move = "UPDATE tollgate.legal_case SET state = 'deficient', version = 2 WHERE case_id = $1"
    await breaks(s, "case_event", move, case_id)
    said = [("document", "received", "received", "both-1", "either")]
    said += [("validate", "received", "validated", "both-1", "handler")]
    for event in said:
        with pytest.raises(asyncpg.CheckViolationError) as error:
            await together(s, (move, case_id), (ADD_EVENT, case_id, 2, *event, 0))
        assert error.value.constraint_name == "case_event"
    # Whoever opened it, said its scope or ordered its extraction is no approver of it, even where no event says so.
    for column in ("legal_case.opened_by", "case_scope.made_by"):
        case = await s.validated()
        table, name = column.split(".")
        await s.owner.execute(f"UPDATE tollgate.{table} SET {name} = 'both-1'" + (
            ", version = version + 1" if table == "legal_case" else ""))  # fmt: skip
        statement, arguments = await approval(s, case, "both-1")
        await breaks(s, "case_two_people", statement, *arguments)
    case = await s.approved()
    order = (
        "INSERT INTO tollgate.case_extraction (hold_id, case_id, scope_version, approval_id, ordered_by)"
        " VALUES ($1, $2, $3, $4, 'approver-1')"
    )
    await breaks(s, "case_two_people", order, new_hold_id(), case.case_id, case.scope_version, case.approval_id)


async def test_only_its_own_action_changes_a_column(s: Services) -> None:
    """A harmless step that brings another along."""
    case = await s.validated()
    extracted = await s.extracted()
    event = (case.version + 1, "document", "validated", "validated", "handler-1", "either", case.scope_version)
    for change in ("approval_id = $2", "hold_id = 'H-AAAAAAAAAA'", "secrecy = '2705b'"):
        more = [extracted.approval_id] if "$2" in change else []
        move = f"UPDATE tollgate.legal_case SET version = version + 1, {change} WHERE case_id = $1"
        with pytest.raises(asyncpg.CheckViolationError) as error:
            await together(s, (move, case.case_id, *more), (ADD_EVENT, case.case_id, *event))
        assert error.value.constraint_name == "case_event", change
    move = "UPDATE tollgate.legal_case SET version = version + 1, scope_version = scope_version + 1 WHERE case_id = $1"
    with pytest.raises(asyncpg.CheckViolationError) as error:
        await together(s, (move, case.case_id), (ADD_EVENT, case.case_id, *event[:-1], case.scope_version + 1))
    assert error.value.constraint_name == "case_event"


async def test_a_scope_that_was_not_made_from_another(s: Services) -> None:
    """`narrows` is the caller's word: without it a scope is taken until it was validated only."""
    case = await s.validated()
    scope = (case.case_id, case.scope_version + 1, bytes(32))
    await breaks(s, "case_scope", ADD_SCOPE, *scope, 100_000, 190001, 202612, False)
    await breaks(s, "case_scope", ADD_SCOPE, *scope, 1, 202610, 202610, False)
    await breaks(s, "case_scope", ADD_SCOPE, *scope, 1, 202609, 202610, True)
    await breaks(s, "case_scope", ADD_SCOPE, *scope, 1, 202610, 202612, True)
    await breaks(s, "case_scope", ADD_SCOPE, case.case_id, case.scope_version + 2, bytes(32), 1, 202610, 202610, True)
    await s.cases.execute(ADD_SCOPE, *scope, 1, 202610, 202610, True)
    # Of what was found deficient none is made anew, whatever was narrowed since.
    case = await s.received(asked={**ASKED, "classes": ["timing", "location"]})
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    case = await s.desk.intake.narrow(s.handler, case.case_id, case.version, {"classes": ["timing"]})
    assert case.state is CaseState.RECEIVED
    await breaks(s, "case_scope", ADD_SCOPE, case.case_id, case.scope_version + 1, bytes(32), 1, 202610, 202610, False)


async def test_nobody_at_the_desk_lifts_an_order_of_non_disclosure(s: Services) -> None:
    """It only gets stronger, whatever the gateway says; what ends it are two people and a change."""
    soon = datetime.now(UTC) + timedelta(days=30)
    set_to = "UPDATE tollgate.legal_case SET version = version + 1, secrecy = $2, secret_until = $3 WHERE case_id = $1"
    held = [("2709c", None), ("2709c", soon), ("2705b", None), ("2705b", soon), ("court_seal", soon)]
    for secrecy, until in held:
        case_id = await add_case(s.owner, secrecy, until=until)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await s.cases.execute(
                "UPDATE tollgate.legal_case SET version = version + 1, secrecy_lifted_at = now() WHERE case_id = $1",
                case_id,
            )
        weaker: list[tuple[str, datetime | None]] = [("none", None), ("2705b", soon - timedelta(seconds=1))]
        weaker += [("court_seal", soon - timedelta(days=31))]
        if until is None or secrecy == "2709c":
            weaker += [("2705b", soon + timedelta(days=1))]
        if secrecy == "2709c":
            weaker += [("2705b", None)]
        for other in weaker:
            with pytest.raises(asyncpg.CheckViolationError) as error:
                await s.cases.execute(set_to, case_id, *other)
            assert error.value.constraint_name == "case_secrecy", (secrecy, until, other)
    assert len(await s.owner.fetch("SELECT tollgate.secret_cases()")) == len(held)


async def test_months_are_needed_until_a_case_is_delivered(s: Services) -> None:
    """What was extracted may be narrowed, or contested and approved, and is then extracted anew."""
    facts = "SELECT needed FROM tollgate.shred_facts($1)"
    over = (CaseState.DELIVERED, CaseState.ACKNOWLEDGED, CaseState.CLOSED, CaseState.EXPIRED, CaseState.SUPERSEDED)
    months = list(range(200101, 200101 + len(CaseState)))
    for month, state in zip(months, CaseState, strict=True):
        await add_case(s.owner, state=state.value, months=(month, month))
        if state not in (CaseState.ACTIVE, CaseState.RENEWED):  # a preservation's are its hold's
            assert await s.owner.fetchval(facts, month) is (state not in over), state


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
