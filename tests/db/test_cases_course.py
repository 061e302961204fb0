"""The course of a case: what is found deficient, crashes between its durable steps, limits, what the log has of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.ledger.model import Kind, LedgerUnavailable, Tag
from proxy.legal.model import Case, Malformed, NoSuchCase, Refused, WrongState
from proxy.legal.production.model import ProductionError
from proxy.legal.production.service import ProductionBusy
from proxy.legal.secrecy import Audience
from proxy.legal.states import CaseState
from proxy.policy.extraction import ExtractionState
from tests.conftest import Database
from tests.support.cases import ASKED, NUMBER, SUBPOENA, Services, parts, pdf, services

KEY = "age1" + "q" * 58


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def view(s: Services, case: Case) -> dict[str, Any]:
    return (await s.desk.reading.as_json(case.case_id))[1]


async def test_more_than_is_compelled_is_deficient_and_can_be_narrowed(s: Services) -> None:
    asked = {**ASKED, "classes": ["timing", "parties", "location", "device"]}
    case = await s.received(asked=asked)
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    assert case.state is CaseState.DEFICIENT
    found = await view(s, case)
    assert [(f["weight"], f["about"]) for f in found["findings"]] == [("deficient", ["location"])]
    assert "Carpenter" in found["findings"][0]["citation"]
    letter = await s.desk.reading.letter(s.handler, case.case_id, found["letters"][-1])
    assert found["findings"][0]["rule"] in letter
    assert NUMBER not in letter
    # What is deficient is asked anew by a new document only.
    with pytest.raises(Refused) as error:
        await s.desk.intake.ask(s.handler, case.case_id, case.version, ASKED)
    assert error.value.rule == "document.old"
    case = await s.desk.intake.narrow(s.handler, case.case_id, case.version, {"compelled": True})
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    found = await view(s, case)
    assert (case.state, found["scope"]["classes"]) == (CaseState.VALIDATED, ["device", "parties", "timing"])
    assert "cell" not in found["scope"]["fields"]


async def test_a_new_document_asks_anew(s: Services) -> None:
    case = await s.received({**SUBPOENA, "signed_by": "law_officer"})
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    assert case.state is CaseState.DEFICIENT
    with pytest.raises(Refused) as error:
        await s.desk.intake.narrow(s.handler, case.case_id, case.version, {"compelled": True})
    assert error.value.rule == "scope.nothing"
    case, _ = await s.desk.documents.store(s.handler, case.case_id, case.version, "instrument", parts(pdf("again")))
    case = await s.desk.intake.ask(s.handler, case.case_id, case.version, {**ASKED, "through": "2026-10-05"})
    assert case.state is CaseState.RECEIVED


async def test_what_was_found_deficient_is_not_asked_anew_by_way_of_a_narrowing(s: Services) -> None:
    intake = s.desk.intake
    case = await s.received(asked={**ASKED, "classes": ["timing", "parties", "location"]})
    case = await intake.validate(s.handler, case.case_id, case.version)
    case = await intake.narrow(s.handler, case.case_id, case.version, {"classes": ["timing", "parties"]})
    assert case.state is CaseState.RECEIVED
    wide = {**ASKED, "targets": ["+12125550123", "+12125550188"], "from": "2026-01-01"}
    with pytest.raises(Refused) as error:
        await intake.ask(s.handler, case.case_id, case.version, wide)
    assert error.value.rule == "document.old"
    # Narrowed it may be, and it is validated as it is; or asked anew of a new document.
    case = await intake.narrow(s.handler, case.case_id, case.version, {"classes": ["timing"]})
    case, _ = await s.desk.documents.store(s.handler, case.case_id, case.version, "instrument", parts(pdf("again")))
    case = await intake.ask(s.handler, case.case_id, case.version, wide)
    case = await intake.validate(s.handler, case.case_id, case.version)
    assert case.state is CaseState.VALIDATED


async def test_nothing_is_validated_without_scope_and_document(s: Services) -> None:
    case = await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    for rule in ("scope.none", "document.none"):
        with pytest.raises(Refused) as error:
            await s.desk.intake.validate(s.handler, case.case_id, case.version)
        assert error.value.rule == rule
        if rule == "scope.none":
            case = await s.desk.intake.ask(s.handler, case.case_id, case.version, ASKED)


async def test_one_request_opens_one_case(s: Services) -> None:
    key = uuid4()
    first = await s.desk.intake.open(s.handler, key, SUBPOENA)
    looks = await s.ledger.read(kinds=[Kind.CASE_READ], limit=1000)
    assert await s.desk.intake.open(s.handler, key, SUBPOENA) == first
    # It is answered with the case as it stands now: a look.
    (look,) = (await s.ledger.read(kinds=[Kind.CASE_READ], limit=1000))[len(looks) :]
    assert look.request is not None
    assert (look.request["look"], look.request["case"]) == ("case", first.case_id)
    assert (await s.desk.intake.open(s.both, key, SUBPOENA)).case_id != first.case_id


async def test_targets_in_every_form_and_what_is_flagged(s: Services) -> None:
    written = ["(212) 555-0101", "1-212-555-0101", "tel:+1-212-555-0101", "sip:+12125550102@carrier.example"]
    written += ["account:A-1", "trunk:TG7", "imsi:310150123456789", "+12125550199", "212-555-0103 x12", "555-0104"]
    case = await s.received(asked={**ASKED, "targets": written})
    scope = (await view(s, case))["scope"]
    assert scope["targets"] == [
        "+12125550101", "+12125550102", "+12125550199", "account:A-1", "trunk:TG7", "imsi:310150123456789"
    ]  # fmt: skip
    assert (scope["unreadable"], scope["guarded"]) == ([9, 10], [8])
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    assert case.state is CaseState.DEFICIENT
    # Without what cannot be read it stands, and the guarded number stays flagged for the approver.
    narrowed = {"targets": ["+12125550101", "+12125550199"]}
    case = await s.desk.intake.narrow(s.handler, case.case_id, case.version, narrowed)
    case = await s.desk.intake.validate(s.handler, case.case_id, case.version)
    found = await view(s, case)
    assert (case.state, found["scope"]["guarded"]) == (CaseState.VALIDATED, [2])
    assert [f["rule"] for f in found["findings"] if f["weight"] == "note"] == ["note.guarded_target"]


async def test_a_hundred_thousand_targets_and_twenty_years(s: Services) -> None:
    areas = [npa for npa in range(201, 990) if str(npa)[1:] != "11"]
    many = [f"+1{npa}555{line:04d}" for npa in areas for line in range(100, 240)][:100_000]
    asked = {**ASKED, "targets": many, "from": "2006-11-04", "through": "2026-11-02"}
    case = await s.validated(asked=asked)
    scope = (await view(s, case))["scope"]
    assert (scope["target_count"], len(scope["targets"])) == (100_000, 1_000)
    case = await s.desk.approvals.approve(s.approver, case.case_id, case.version, scope["sha256"])
    case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
    assert case.hold_id is not None
    assert len(s.extractor.orders[case.hold_id].targets) == 100_000
    more = {**ASKED, "targets": [*many, "+12125550100", "+19805559999"]}
    for wrong in (more, {**asked, "from": "2006-10-01"}):
        with pytest.raises(Malformed):
            await s.received(asked=wrong)


NO_PROCESS: list[tuple[str, Any]] = [
    ("instrument", "note"),
    ("zone", "Mars/Olympus"),
    ("issued", "2026-13-01"),
    ("issued", None),
    ("served_at", "2026-11-03T10:00:00"),
    ("served_at", 7),
    ("agency", "a\x00b"),
    ("agency", "x" * 501),
    ("attested", "authentic"),
    ("attested", ["x"] * 33),
    ("nondisclosure", {"authority": "none"}),
    ("nondisclosure", {"authority": "2705b", "until": "soon"}),
    ("nondisclosure", True),
    ("preservation", "H-AAAAAAAAAA"),
]


async def test_a_process_that_is_not_one(s: Services) -> None:
    for member, value in NO_PROCESS:
        with pytest.raises(Malformed) as error:
            await s.desk.intake.open(s.handler, uuid4(), {**SUBPOENA, member: value})
        assert error.value.parameter == member


async def test_what_could_be_read_as_another_scope_is_none(s: Services) -> None:
    case = await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    for wrong in (
        {"targets": []},
        {"targets": "x"},
        {"targets": [7]},
        {"targets": [""]},
        {"from": "2026-10-31", "through": "2026-10-01"},
        {"from": "now"},
        {"through": "2026-10-31", "to": "2026-10-31"},
        {"through": "9999-12-31"},
        {"classes": []},
        {"classes": [1]},
        {"fields": []},
    ):
        with pytest.raises(Malformed):
            await s.desk.intake.ask(s.handler, case.case_id, case.version, {**ASKED, **wrong})
    assert (await s.case(case)).version == case.version


async def test_a_preservation_that_is_none(s: Services) -> None:
    other = await s.received()
    with pytest.raises(Refused) as error:
        await s.desk.intake.open(s.handler, uuid4(), {**SUBPOENA, "preservation": other.case_id})
    assert error.value.rule == "preservation.none"
    with pytest.raises(NoSuchCase):
        await s.desk.intake.open(s.handler, uuid4(), {**SUBPOENA, "preservation": "C-AAAAAAAAAA"})


async def test_a_gateway_that_dies_before_the_extractor_hears(s: Services) -> None:
    """The order stands; another gateway gives it again, and it is the same order."""
    case = await s.approved()
    s.extractor.deaf = True
    with pytest.raises(ConnectionError):
        await s.desk.extracting.order(s.handler, case.case_id, case.version)
    case = await s.case(case)
    assert case.hold_id is not None
    assert s.extractor.orders == {}
    s.extractor.deaf = False
    await s.desk.extracting.settle()
    await s.desk.extracting.settle()
    order = s.extractor.orders[case.hold_id]
    assert (order.actor.staff_id, len(s.extractor.orders)) == ("handler-1", 1)
    s.extractor.end(case.hold_id, rows=3)
    await s.desk.extracting.settle()
    assert (await s.case(case)).state is CaseState.EXTRACTED


async def test_an_order_that_nobody_may_give_again(s: Services) -> None:
    case = await s.approved()
    s.extractor.deaf = True
    with pytest.raises(ConnectionError):
        await s.desk.extracting.order(s.handler, case.case_id, case.version)
    await s.age(case, 24 * 8)
    s.extractor.deaf = False
    await s.desk.extracting.settle()
    case = await s.case(case)
    assert (case.state, case.hold_id, s.extractor.orders) == (CaseState.APPROVED, None, {})


async def test_an_extraction_that_fails_can_be_ordered_again(s: Services) -> None:
    case = await s.approved()
    s.extractor.refuses = "shredding"
    with pytest.raises(Refused):
        await s.desk.extracting.order(s.handler, case.case_id, case.version)
    s.extractor.refuses = ""
    for state in (ExtractionState.FAILED, ExtractionState.COMPLETE):
        case = await s.case(case)
        assert (case.state, case.hold_id) == (CaseState.APPROVED, None)
        case = await s.desk.extracting.order(s.handler, case.case_id, case.version)
        with pytest.raises(Refused) as error:
            await s.desk.extracting.order(s.handler, case.case_id, case.version)
        assert error.value.rule == "extraction.running"
        assert case.hold_id is not None
        s.extractor.end(case.hold_id, state, why="damaged" if state is ExtractionState.FAILED else "")
        await s.desk.extracting.settle()
    assert (await s.case(case)).state is CaseState.EXTRACTED
    told = [e.request for e in await s.ledger.read(kinds=[Kind.CASE_STATE], limit=1000) if e.request]
    assert [t["reason"] for t in told if t["action"] == "failed"] == ["shredding", "damaged"]


async def test_a_review_says_how_many(s: Services) -> None:
    case = await s.extracted()
    with pytest.raises(Refused) as error:
        await s.desk.extracting.review(s.handler, case.case_id, case.version, 8, "")
    assert error.value.rule == "review.count"


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_each_step_of_a_production(s: Services, after: bool) -> None:
    """Failed and not done, and failed but done: what is made in the end is the same, under the same id."""
    releasing, maker = s.desk.releasing, s.maker
    case = await s.reviewed()
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    # Another gateway is at it: it is left alone.
    maker.dies, maker.after = ProductionBusy("elsewhere"), False
    await releasing.make()
    with pytest.raises(WrongState):
        await releasing.deliver(s.handler, case.case_id, case.version, [KEY])
    with pytest.raises(Refused) as error:
        await releasing.certificate(s.handler, case.case_id)
    assert error.value.rule == "production.making"
    maker.dies, maker.after = ConnectionError("draft"), after
    with pytest.raises(ConnectionError):
        await releasing.make()
    await releasing.make()
    await releasing.make()
    assert (len(maker.drafts), maker.made) == (1, 2 if after else 1)
    signed = await releasing.certificate(s.handler, case.case_id)
    maker.dies = ConnectionError("certify")
    with pytest.raises(ConnectionError):
        await releasing.certify(s.handler, case.case_id, case.version, "text", signed)
    assert (await s.case(case)).state is CaseState.REVIEWED
    case = await releasing.certify(s.handler, case.case_id, case.version, "text", signed)
    maker.dies = ConnectionError("seal")
    with pytest.raises(ConnectionError):
        await releasing.deliver(s.handler, case.case_id, case.version, [KEY])
    with pytest.raises(NoSuchCase):
        await releasing.package(s.handler, case.case_id)
    case = await releasing.deliver(s.handler, case.case_id, case.version, [KEY])
    name, pieces = await releasing.package(s.handler, case.case_id)
    assert (name, b"".join([p async for p in pieces])) == ("package.zip.age", b"sealed")


async def test_a_production_that_cannot_be_made_is_ordered_again(s: Services) -> None:
    case = await s.reviewed()
    releasing = s.desk.releasing
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    with pytest.raises(Refused) as error:
        await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    assert error.value.rule == "production.there"
    s.maker.dies = ProductionError("another number of records")
    await releasing.make()
    assert (await view(s, case))["production"]["state"] == "failed"
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    await releasing.make()
    assert (await view(s, case))["production"]["state"] == "drafted"
    with pytest.raises(Malformed):
        await releasing.certify(s.handler, case.case_id, case.version, "fax", b"x")
    with pytest.raises(Refused) as error:
        await releasing.certify(s.handler, case.case_id, case.version, "text", b"x")
    assert error.value.rule == "certificate.refused"
    for keys in ([], ["age1"], [KEY] * 9 + ["x"]):
        with pytest.raises(Malformed):
            await releasing.deliver(s.handler, case.case_id, case.version, keys)


async def test_every_step_and_look_is_in_the_log_and_none_without_it(s: Services) -> None:
    case = await s.certified()
    case = await s.desk.releasing.deliver(s.handler, case.case_id, case.version, [KEY])
    case = await s.desk.releasing.acknowledge(s.handler, case.case_id, case.version, "")
    case = await s.desk.intake.close(s.handler, case.case_id, case.version, "answered")
    await s.desk.reading.show(s.approver, case.case_id)
    found = await view(s, case)
    entries = {str(e.entry_id): e for e in await s.ledger.read(limit=1000)}
    for event in found["events"]:
        request = entries[event["entry_id"]].request
        assert request is not None
        assert (request["action"], request["from"], request["to"]) == (event["action"], event["from"], event["to"])
    assert [e["to"] for e in found["events"]][-4:] == ["certified", "delivered", "acknowledged", "closed"]
    by = [e async for e in _tagged(s, Tag("case", case.case_id.encode()))]
    assert {e.kind for e in by} == {Kind.CASE_STATE, Kind.CASE_READ}
    assert len(by) >= len(found["events"]) + 1
    assert [e async for e in _tagged(s, Tag("number", NUMBER.encode()))]
    # A log that cannot be written: nothing moves, nothing is shown.
    case = await s.received()
    s.ledger.halt("for the test")
    with pytest.raises(LedgerUnavailable):
        await s.desk.intake.validate(s.handler, case.case_id, case.version)
    with pytest.raises(LedgerUnavailable):
        await s.desk.reading.show(s.handler, case.case_id)
    with pytest.raises(LedgerUnavailable):
        await s.desk.intake.open(s.handler, uuid4(), SUBPOENA)
    assert (await s.case(case)).version == case.version
    assert await s.cases.fetchval("SELECT count(*) FROM tollgate.legal_case") == 2


async def _tagged(s: Services, tag: Tag) -> AsyncIterator[Any]:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    for entry in await s.ledger.find(tag, first=now - timedelta(days=1), last=now + timedelta(days=1), limit=1000):
        yield entry


async def test_a_secret_case_is_not_counted_for_others(s: Services) -> None:
    await s.received()
    await s.received({**SUBPOENA, "nondisclosure": {"authority": "2705b", "until": "2099-01-01"}})
    await s.received({**SUBPOENA, "nondisclosure": {"authority": "2705b", "until": "2026-11-05"}})
    now = await s.cases.fetchval("SELECT now()")
    desk = await s.desk.reading.dues(Audience.DESK, now)
    others = await s.desk.reading.dues(Audience.OTHERS, now)
    assert (len(desk), len(others)) == (3, 2)
    assert all(d.secrecy is None or (d.secrecy.until is not None and d.secrecy.until <= now) for d in others)
