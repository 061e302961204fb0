"""An order of non-disclosure that comes after the opening, and its extension: only ever stronger, by one person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from proxy.ledger.model import Kind
from proxy.legal.model import Case, Malformed, Refused
from proxy.legal.states import CaseState
from tests.conftest import Database
from tests.support.cases import SUBPOENA, Services, parts, pdf, services

SOON = (datetime.now(UTC) + timedelta(days=90)).date()
DAY, LATER, SOONER = (SOON + timedelta(days=n) for n in (0, 30, -30))
PAST = "2026-11-04"


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def ordered(s: Services, case: Case, authority: str, until: Any = None, kind: str = "nondisclosure") -> Case:
    """Store an order and enter it."""
    order = {"authority": authority} | ({} if until is None else {"until": str(until)})
    case, stored = await s.desk.documents.store(s.handler, case.case_id, case.version, kind, parts(pdf("ORDER")))
    return await s.desk.intake.secret(s.handler, case.case_id, case.version, order, stored.document_id)


async def secret(s: Services) -> bool:
    return bool(await s.owner.fetch("SELECT tollgate.secret_cases()"))


async def test_an_order_that_comes_later_is_entered_in_any_state(s: Services) -> None:
    case = await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    case = await s.desk.intake.close(s.handler, case.case_id, case.version, "withdrawn")
    assert not await secret(s)
    case = await ordered(s, case, "2705b", DAY)
    assert (case.state, case.secrecy) == (CaseState.CLOSED, "2705b")
    assert await secret(s)
    # It binds through the end of its day where the process was served.
    assert case.secret_until is not None
    assert case.secret_until.isoformat()[:13] in (f"{DAY + timedelta(days=1)}T00", f"{DAY + timedelta(days=1)}T05")
    assert (await s.case(case)).secret_until == case.secret_until
    # An extension; another order; a letter's. None of them ends sooner.
    for authority, until in (("2705b", LATER), ("court_seal", None), ("2709c", DAY), ("2709c", None)):
        case = await ordered(s, case, authority, until)
        assert (case.secrecy, await secret(s)) == (authority, True)
    told = [e.request for e in await s.ledger.read(kinds=[Kind.CASE_STATE], limit=1000) if e.request]
    orders = [t for t in told if t["action"] == "secret"]
    assert [(t["before"], t["authority"]) for t in orders[:3]] == [
        ("none", "2705b"), ("2705b", "2705b"), ("2705b", "court_seal")
    ]  # fmt: skip
    event = await s.owner.fetchrow("SELECT actor, capacity FROM tollgate.case_event WHERE action = 'secret' LIMIT 1")
    assert tuple(event) == ("handler-1", "either")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("2705b", DAY), ("2705b", SOONER)),
        (("2705b", DAY), ("court_seal", SOONER)),
        (("2705b", None), ("2705b", LATER)),
        (("court_seal", DAY), ("court_seal", PAST)),
        (("2709c", None), ("2705b", None)),
        (("2709c", DAY), ("court_seal", LATER)),
    ],
)
async def test_an_order_is_not_weakened_by_another(s: Services, first: tuple[str, Any], then: tuple[str, Any]) -> None:
    authority, until = first
    nondisclosure = {"authority": authority} | ({} if until is None else {"until": str(until)})
    case = await s.desk.intake.open(s.handler, uuid4(), {**SUBPOENA, "nondisclosure": nondisclosure})
    with pytest.raises(Refused) as error:
        await ordered(s, case, *then)
    assert error.value.rule == "secrecy.weaker"
    now = await s.case(case)
    assert (now.secrecy, now.secret_until) == (case.secrecy, case.secret_until)
    assert (await s.refusals(case.case_id))[-1] == ("handler-1", "secret", "secrecy.weaker")


async def test_what_was_lifted_or_ran_out_can_be_ordered_anew(s: Services) -> None:
    served = {**SUBPOENA, "nondisclosure": {"authority": "2709c"}}
    case = await s.desk.intake.open(s.handler, uuid4(), served)
    await s.owner.execute("UPDATE tollgate.legal_case SET secrecy_lifted_at = now(), version = version + 1")
    assert not await secret(s)
    # The very same order again: it names nothing else, and binds all the same.
    case = await ordered(s, await s.case(case), "2709c")
    assert await secret(s)
    now = await s.case(case)
    assert (now.secrecy, now.secrecy_lifted_at) == ("2709c", None)
    await s.owner.execute("ALTER TABLE tollgate.legal_case DISABLE TRIGGER secrecy")
    await s.owner.execute(
        "UPDATE tollgate.legal_case SET secrecy = '2705b', secret_until = '2026-11-01', version = version + 1"
    )
    await s.owner.execute("ALTER TABLE tollgate.legal_case ENABLE TRIGGER secrecy")
    assert not await secret(s)
    await ordered(s, await s.case(case), "court_seal", DAY)
    assert await secret(s)


async def test_an_order_has_its_document(s: Services) -> None:
    case = await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    other = await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    with pytest.raises(Malformed):
        await ordered(s, case, "2705b", kind="correspondence")
    case = await s.case(case)
    _, stored = await s.desk.documents.store(
        s.handler, other.case_id, other.version, "nondisclosure", parts(pdf("ORDER"))
    )
    secrecy = s.desk.intake.secret
    wrong: list[tuple[Any, UUID]] = [({"authority": "2705b"}, uuid4()), ({"authority": "2705b"}, stored.document_id)]
    wrong += [({"authority": "none"}, uuid4()), ({"authority": "2705b", "until": "soon"}, uuid4()), (None, uuid4())]
    for order, document in wrong:
        with pytest.raises(Malformed):
            await secrecy(s.handler, case.case_id, case.version, order, document)
    assert not await secret(s)
