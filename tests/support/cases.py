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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from reportlab.pdfgen import canvas

from proxy.staff.model import StaffRole
from tests.conftest import Database
from tests.support.api import Answer
from tests.support.gate import Gate, calls, gate
from tests.support.oidc import own
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
