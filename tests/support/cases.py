"""Cases for tests: a gateway with the legal desk, its people, a served subpoena, and the way through a case.

async with desk(database, tmp_path) as d:
    case = await d.validated(d.handler)
    case = await d.approved(case)
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from reportlab.pdfgen import canvas

from keys.datakeys import DataKeys
from proxy.config import Config
from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.legal import http as api
from proxy.legal import sql
from proxy.legal.approvals import Approvals
from proxy.legal.documents import Documents
from proxy.legal.extracting import Extracting
from proxy.legal.intake import Intake
from proxy.legal.model import Case
from proxy.legal.production.model import (
    Certified,
    Delivery,
    Drafted,
    Facts,
    FileFact,
    ProductionError,
    SignedCertificate,
    Tables,
)
from proxy.legal.reading import Reading
from proxy.legal.register import Register, case_of
from proxy.legal.releasing import Releasing
from proxy.legal.sealing import CaseSealer
from proxy.legal.states import CaseState
from proxy.legal.targets import read_guarded
from proxy.policy.extraction import Extraction, ExtractionOrder, ExtractionRefusedError, ExtractionState, StaffActor
from proxy.staff.model import StaffGrant, StaffRole
from schema.roles import Role
from tests.conftest import Database
from tests.support.api import Answer
from tests.support.gate import Gate, calls, gate
from tests.support.ledger import open_ledger, open_provider
from tests.support.oidc import own
from tests.support.operators import Operators, grant_of, member_of, set_up
from tests.support.staff import Member, member

HANDLER, APPROVER = StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER
NUMBER = "+12125550123"
SUBPOENA: Mapping[str, Any] = {
    "instrument": "subpoena",
    "agency": "Example County Grand Jury",
    "court": "Example County Court",
    "officer": "Foreperson",
    "reference": "GJ-2026-0001",
    "signed_by": "grand_jury",
    "issued": "2026-11-02",
    "served_at": "2026-11-03T10:00:00-05:00",
    "return_by": "2026-11-24",
    "zone": "America/New_York",
    "attested": ["authentic"],
}
EMERGENCY: Mapping[str, Any] = {
    "instrument": "emergency",
    "agency": "Example City Police",
    "officer": "Watch Commander",
    "reference": "E-1",
    "signed_by": "law_officer",
    "issued": "2026-11-03",
    "served_at": "2026-11-03T10:00:00-05:00",
    "zone": "America/New_York",
    "attested": ["authentic", "danger", "no_delay", "good_faith"],
}
ASKED: Mapping[str, Any] = {
    "targets": [NUMBER],
    "from": "2026-10-01",
    "through": "2026-10-31",
    "classes": ["timing", "parties"],
}


def pdf(text: str = "SUBPOENA") -> bytes:
    """A document of one page."""
    out = io.BytesIO()
    page = canvas.Canvas(out, invariant=1)
    page.drawString(72, 700, text)
    page.showPage()
    page.save()
    return out.getvalue()


@dataclass
class Desk:
    """A running desk, and its people. Case values are what the API answered last."""

    world: Gate
    provider: Any
    handler: Member
    approver: Member
    other: Member
    """Handler and approver both, for different cases."""
    people: dict[str, Member] = field(default_factory=dict)

    async def post(
        self, who: Member, case: Mapping[str, Any], step: str, body: Any = None, *, method: str = "POST", **options: Any
    ) -> Answer:
        """Do a step to a case as it was last seen."""
        headers = {"If-Match": f'"{case["version"]}"'} | options.pop("headers", {})
        path = f"/v1/cases/{case['case_id']}/{step}"
        if body is not None:
            options["json"] = body
        return await who.ask(method, path, headers=headers, **options)

    async def step(self, who: Member, case: Mapping[str, Any], step: str, body: Any = None, **options: Any) -> Any:
        """Do a step that has to succeed; return the case as it is then."""
        answer = await self.post(who, case, step, body, **options)
        assert answer.status < 300, answer.body
        return answer.json

    async def show(self, who: Member, case_id: str) -> dict[str, Any]:
        """Look at a case."""
        answer = await who.ask("GET", f"/v1/cases/{case_id}")
        assert answer.status == 200, answer.body
        return answer.json

    async def opened(self, who: Member, served: Mapping[str, Any] = SUBPOENA, **change: Any) -> Any:
        """Open a case."""
        body = {**served, **change, "request_id": str(uuid4())}
        answer = await who.ask("POST", "/v1/cases", json=body)
        assert answer.status == 201, answer.body
        return answer.json

    async def stored(self, who: Member, case: Mapping[str, Any], data: bytes | None = None) -> Any:
        """Store a document."""
        return await self.step(
            who,
            case,
            "documents?kind=instrument",
            data=pdf() if data is None else data,
            headers={"Content-Type": "application/pdf"},
        )

    async def received(
        self, who: Member, asked: Mapping[str, Any] = ASKED, served: Mapping[str, Any] = SUBPOENA, **change: Any
    ) -> Any:
        """Open a case with its document and say what is asked."""
        case = await self.stored(who, await self.opened(who, served, **change))
        return await self.step(who, case, "scope", asked, method="PUT")

    async def validated(
        self, who: Member, asked: Mapping[str, Any] = ASKED, served: Mapping[str, Any] = SUBPOENA, **change: Any
    ) -> Any:
        """A case whose scope stands."""
        case = await self.step(who, await self.received(who, asked, served, **change), "validate")
        assert case["state"] == "validated", case
        return case

    async def approved(self, case: Mapping[str, Any], by: Member | None = None) -> Any:
        """Approve a case as it stands."""
        return await self.step(by or self.approver, case, "approve", {"scope_sha256": case["scope"]["sha256"]})

    async def until(self, case: Mapping[str, Any], *states: str) -> Any:
        """Wait until a case is in one of ``states``."""
        async with asyncio.timeout(30):
            while True:
                found = await self.show(self.handler, case["case_id"])
                if found["state"] in states:
                    return found
                await asyncio.sleep(0.1)

    async def extracted(self, case: Mapping[str, Any]) -> Any:
        """Extract an approved case, to its end."""
        return await self.until(await self.step(self.handler, case, "extract"), "extracted")


@contextlib.asynccontextmanager
async def desk(
    database: Database, tmp_path: Path, *, records: Sequence[Mapping[str, Any]] = (), **settings: Any
) -> AsyncIterator[Desk]:
    """A gateway with the desk; ``records`` are ingested and rolled."""
    folder = tmp_path / "provider"
    folder.mkdir()
    async with own(folder) as provider:
        values = {"legal_desk": 1, "carrier_name": "Example Carrier", **provider.settings(), **settings}
        async with gate(database, **values) as world:
            if records:
                await world.ingest(records)
            handler = await member(world, provider, "handler@carrier.example", HANDLER)
            approver = await member(world, provider, "approver@carrier.example", APPROVER)
            other = await member(world, provider, "other@carrier.example", HANDLER, APPROVER)
            yield Desk(world, provider, handler, approver, other)


def some_calls(count: int = 20) -> list[dict[str, Any]]:
    """Calls of the target and as many of somebody else's, in October."""
    day = datetime(2026, 10, 12, tzinfo=UTC)
    mine = calls(count, "123A", "456B", day, calling=NUMBER)
    return mine + calls(count, "123A", "456B", day, calling="+12125550177")


@dataclass
class FakeExtractor:
    """What an extractor promises its callers, without a store: one order for each id, and a state that a test moves."""

    orders: dict[str, ExtractionOrder] = field(default_factory=dict)
    states: dict[str, Extraction] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    deaf: bool = False
    """As if the process died before the order was given."""
    refuses: str = ""

    async def start(self, order: ExtractionOrder) -> Extraction:
        if self.deaf:
            raise ConnectionError("the process is gone")
        if self.refuses:
            raise ExtractionRefusedError(self.refuses, "It cannot be carried out.")
        if order.hold_id in self.orders:
            assert self.orders[order.hold_id] == order, "another order under the same id"
            return self.states[order.hold_id]
        self.orders[order.hold_id] = order
        now = datetime.now(UTC)
        self.states[order.hold_id] = Extraction(
            order.hold_id, order.permit.case_id, uuid4(), ExtractionState.RUNNING, "", now, None, 100, 0, 0, 0,
            order.permit.start_us, order.permit.start_us, order.permit.end_us, "", (), None,
        )  # fmt: skip
        return self.states[order.hold_id]

    def end(
        self, hold_id: str, state: ExtractionState = ExtractionState.COMPLETE, rows: int = 7, why: str = ""
    ) -> None:
        """Let an extraction end."""
        self.states[hold_id] = replace(
            self.states[hold_id], state=state, rows=rows, why=why, ended_at=datetime.now(UTC), sha256="ab" * 32
        )

    async def progress(self, hold_id: str) -> Extraction | None:
        return self.states.get(hold_id)

    async def cancel(self, hold_id: str, actor: StaffActor) -> Extraction:
        assert actor.staff_id
        self.cancelled.append(hold_id)
        self.end(hold_id, ExtractionState.CANCELLED, 0, "cancelled")
        return self.states[hold_id]

    async def sources(self, hold_id: str) -> list[Any]:
        assert self.states[hold_id].state is ExtractionState.COMPLETE
        return []

    async def read_hold(self, hold_id: str) -> AsyncIterator[Any]:
        assert self.states[hold_id].state is ExtractionState.COMPLETE
        return
        yield

    async def wait(self, hold_id: str) -> Extraction:
        return self.states[hold_id]

    async def extract(self, order: ExtractionOrder) -> Extraction:
        raise AssertionError("the desk does not wait for extractions")

    async def resume(self) -> int:
        return 0

    async def close(self) -> None:
        pass


@dataclass
class FakeMaker:
    """What a maker of packages promises; ``dies`` is raised by the next step, after it was done if ``after``."""

    drafts: dict[UUID, Facts] = field(default_factory=dict)
    made: int = 0
    signed: dict[UUID, SignedCertificate] = field(default_factory=dict)
    deliveries: list[tuple[str, ...]] = field(default_factory=list)
    dies: Exception | None = None
    after: bool = False

    def _die(self, at_end: bool) -> None:
        if self.dies is not None and self.after is at_end:
            error, self.dies = self.dies, None
            raise error

    async def draft(self, facts: Facts, tables: Tables) -> Drafted:
        self._die(False)
        assert self.drafts.setdefault(facts.production_id, facts) == facts, "other facts for the same production"
        assert [t async for t in tables()] == []
        self.made += 1
        self._die(True)
        return Drafted(facts.production_id, 0, 1, ())

    async def certificate(self, production_id: UUID) -> bytes:
        return b"I declare under penalty of perjury"

    async def certify(self, production_id: UUID, signed: SignedCertificate, *, actor: Any) -> Certified:
        self._die(False)
        assert actor["staff"]
        if b"penalty of perjury" not in signed.body:
            raise ProductionError("this is not the certificate that was drafted")
        assert self.signed.setdefault(production_id, signed) == signed
        self._die(True)
        return Certified(production_id, FileFact("package.zip", 1, "cd" * 32, 0), "kid")

    async def seal(self, production_id: UUID, recipients: Sequence[str], *, actor: Any) -> Delivery:
        self._die(False)
        assert production_id in self.signed
        self.deliveries.append(tuple(recipients))
        self._die(True)
        return Delivery(uuid4(), production_id, tuple(recipients), "package.zip.age")

    async def package(self, delivery_id: UUID, *, actor: Any) -> AsyncIterator[bytes]:
        yield b"sealed"


@dataclass
class Services:
    """The desk's services over a real register and log, with an extractor and a maker of the test's own."""

    config: Config
    ledger: Ledger
    operators: Operators
    operator: asyncpg.Connection
    owner: asyncpg.Connection
    cases: asyncpg.Pool
    extractor: FakeExtractor
    maker: FakeMaker
    desk: api.Desk
    handler: StaffGrant = field(default_factory=lambda: grant_of("handler-1", HANDLER))
    approver: StaffGrant = field(default_factory=lambda: grant_of("approver-1", APPROVER))
    both: StaffGrant = field(default_factory=lambda: grant_of("both-1", HANDLER, APPROVER))
    second: StaffGrant = field(default_factory=lambda: grant_of("both-2", HANDLER, APPROVER))

    async def received(
        self, served: Mapping[str, Any] = SUBPOENA, asked: Mapping[str, Any] = ASKED, who: StaffGrant | None = None
    ) -> Case:
        """A case with its document, and what is asked."""
        who = who or self.handler
        intake = self.desk.intake
        case = await intake.open(who, uuid4(), served)
        case, _ = await self.desk.documents.store(who, case.case_id, case.version, "instrument", parts(pdf()))
        return await intake.ask(who, case.case_id, case.version, asked)

    async def validated(self, *args: Any, who: StaffGrant | None = None, **options: Any) -> Case:
        """A case whose scope stands."""
        case = await self.received(*args, who=who, **options)
        case = await self.desk.intake.validate(who or self.handler, case.case_id, case.version)
        assert case.state is CaseState.VALIDATED, case
        return case

    async def digest(self, case: Case) -> str:
        """The digest of a case's scope."""
        _, value = await self.desk.reading.as_json(case.case_id)
        return str(value["scope"]["sha256"])

    async def approved(self, *args: Any, **options: Any) -> Case:
        """A case that is approved."""
        case = await self.validated(*args, **options)
        return await self.desk.approvals.approve(self.approver, case.case_id, case.version, await self.digest(case))

    async def extracted(self, *args: Any, **options: Any) -> Case:
        """A case whose records are held."""
        case = await self.approved(*args, **options)
        case = await self.desk.extracting.order(self.handler, case.case_id, case.version)
        assert case.hold_id is not None
        self.extractor.end(case.hold_id)
        await self.desk.extracting.settle()
        return await self.case(case)

    async def reviewed(self, *args: Any, **options: Any) -> Case:
        """A case whose records were looked at."""
        case = await self.extracted(*args, **options)
        return await self.desk.extracting.review(self.approver, case.case_id, case.version, 7, "")

    async def certified(self) -> Case:
        """A case whose package is fixed."""
        releasing = self.desk.releasing
        case = await self.reviewed()
        case = await releasing.produce(self.handler, case.case_id, case.version, {"custodian": "both-1"})
        await releasing.make()
        signed = await releasing.certificate(self.handler, case.case_id)
        return await releasing.certify(self.handler, case.case_id, case.version, "text", signed)

    async def case(self, case: Case) -> Case:
        """The case as it stands."""
        return case_of(await self.cases.fetchrow(sql.FIND_CASE, case.case_id))

    async def refusals(self, case_id: str) -> list[tuple[str, str, str]]:
        """What was refused in a case by the log: who, what, why."""
        found = await self.ledger.read(kinds=[Kind.CASE_STATE], limit=1000)
        return [
            (e.actor["staff"], e.request["action"], e.request["reason"])
            for e in found
            if e.actor is not None and e.request is not None
            and e.request.get("case") == case_id and e.request.get("decision") == "refused"
        ]  # fmt: skip

    async def age(self, case: Case, hours: int) -> None:
        """Let a case's approvals have been given so long ago, and run out as they would have."""
        await self.owner.execute(
            "UPDATE tollgate.case_approval SET approved_at = approved_at - make_interval(hours => $2),"
            " expires_at = expires_at - make_interval(hours => $2) WHERE case_id = $1",
            case.case_id,
            hours,
        )


async def parts(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """A document as it arrives."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


@contextlib.asynccontextmanager
async def services(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    """The services, and four members of the desk."""
    config = database.config
    async with contextlib.AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(config))
        operator = await asyncpg.connect(config.role_url(Role.OPERATOR))
        stack.push_async_callback(operator.close)
        operators = await set_up(operator, ledger)
        for staff_id, roles in (
            ("handler-1", (HANDLER,)),
            ("approver-1", (APPROVER,)),
            ("both-1", (HANDLER, APPROVER)),
            ("both-2", (HANDLER, APPROVER)),
        ):
            await operators.add_staff(operator, member_of(staff_id), *roles)
        pool = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.CASES), min_size=1, max_size=6))
        register = Register(pool, ledger, CaseSealer(DataKeys(open_provider(config))))
        extractor, maker = FakeExtractor(), FakeMaker()
        intake = Intake(register, "Example Carrier", read_guarded(["+12125550199,police"]))
        extracting = Extracting(register, intake, extractor)

        async def no_receipt(_: UUID) -> None:
            return None

        releasing = Releasing(register, intake, extracting, extractor, maker, "Example Carrier", no_receipt)
        made = api.Desk(
            intake,
            Approvals(register),
            Documents(register),
            extracting,
            releasing,
            Reading(register, intake, extracting),
        )
        yield Services(config, ledger, operators, operator, owner, pool, extractor, maker, made)
