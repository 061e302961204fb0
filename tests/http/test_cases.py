"""Cases over the API, from a served subpoena to a delivered package; and what is refused on the way."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pyrage import decrypt, x25519

from keys.errors import KeyUnavailable
from keys.provider import Period
from proxy.app import build
from proxy.config import ConfigError
from proxy.ledger.model import Kind
from proxy.staff.model import StaffRole
from schema.roles import Role
from tests.conftest import Database
from tests.support.cases import ASKED, SUBPOENA, desk, pdf, some_calls
from tests.support.gate import gate
from tests.support.production import signed_text
from tests.support.staff import member

KEY = "age1" + "q" * 58
SHA = "ab" * 32
STEPS: list[tuple[str, Any]] = [
    ("validate", None),
    ("narrow", {"compelled": True}),
    ("object", {"text": "unduly burdensome"}),
    ("resolve", {"reason": "x"}),
    ("approve", {"scope_sha256": SHA}),
    ("act", {"scope_sha256": SHA}),
    ("confirm", {"reason": "x"}),
    ("contest", {"reason": "x"}),
    ("extract", None),
    ("review", {"records": 1}),
    ("produce", {"custodian": "other@carrier.example"}),
    ("deliver", {"recipients": [KEY]}),
    ("redeliver", {"recipient": KEY}),
    ("acknowledge", {"note": "x"}),
    ("close", {"reason": "x"}),
    ("secret", {"authority": "2705b", "document": "00000000-0000-4000-8000-000000000000"}),
]


async def test_from_subpoena_to_package(database: Database, tmp_path: Path) -> None:
    async with desk(database, tmp_path, records=some_calls()) as d:
        asked = {**ASKED, "classes": ["timing", "parties", "location"]}
        case = await d.step(d.handler, await d.received(d.handler, asked, SUBPOENA), "validate")
        assert case["state"] == "deficient"
        assert "Carpenter" in str(case["findings"])
        case = await d.step(d.handler, case, "narrow", {"compelled": True})
        case = await d.step(d.handler, case, "validate")
        assert case["state"] == "validated", case
        case = await d.approved(case)
        case = await d.extracted(case)
        assert case["extraction"]["records"] == 20
        case = await d.step(d.approver, case, "review", {"records": 20})
        case = await d.step(d.handler, case, "produce", {"custodian": "other@carrier.example"})
        async with asyncio.timeout(60):
            while (case := await d.show(d.handler, case["case_id"]))["production"]["state"] != "drafted":
                assert case["production"]["state"] == "making", case
                await asyncio.sleep(0.1)
        draft = await d.handler.ask("GET", f"/v1/cases/{case['case_id']}/certificate")
        assert draft.status == 200, draft.body
        signed = signed_text(draft.body)
        case = await d.step(d.handler, case, "certify?kind=text", data=signed)
        assert case["state"] == "certified"
        identity = x25519.Identity.generate()
        case = await d.step(d.handler, case, "deliver", {"recipients": [str(identity.to_public())]})
        package = await d.handler.ask("GET", f"/v1/cases/{case['case_id']}/package")
        assert package.status == 200, package.body
        inner = decrypt(package.body, [identity])
        with zipfile.ZipFile(io.BytesIO(inner)) as archive:
            assert any(name.endswith("records.csv") for name in archive.namelist())
        case = await d.step(d.handler, case, "acknowledge", {"note": "by e-mail"})
        case = await d.step(d.handler, case, "close", {"reason": "answered"})
        assert case["state"] == "closed"


async def test_what_is_refused_on_the_way(database: Database, tmp_path: Path) -> None:
    async with desk(database, tmp_path) as d:
        case = await d.opened(d.handler)
        path = f"/v1/cases/{case['case_id']}"

        # A change names the version that it is of; each step asks for it before anything else is looked at.
        for step, body in STEPS:
            who = d.approver if step in ("approve", "confirm", "contest") else d.handler
            options = {} if body is None else {"json": body}
            answer = await who.ask("POST", f"{path}/{step}", **options)
            assert (answer.status, answer.code) == (428, "precondition_required"), step
            answer = await who.ask("POST", f"{path}/{step}", headers={"If-Match": '"9"'}, **options)
            assert (answer.status, answer.code) == (412, "precondition"), step
            answer = await who.ask("POST", f"{path}/{step}", headers={"If-Match": "*"}, **options)
            assert (answer.status, answer.code) == (400, "parameter"), step

        # A role for each: nobody else gets in; a carrier's token least of all.
        privacy = await member(d.world, d.provider, "privacy@carrier.example", StaffRole.PRIVACY_OFFICER)
        peer = await d.world.peer()
        for method, at in (("GET", "/v1/cases"), ("GET", path), ("GET", "/v1/cases/due"), ("POST", f"{path}/close")):
            answer = await privacy.ask(method, at)
            assert (answer.status, answer.code) == (403, "denied"), at
            assert (await d.world.ask(peer, method, at)).status == 401
        for who, step in ((d.approver, "extract"), (d.handler, "approve"), (d.approver, "act")):
            answer = await d.post(who, case, step, dict(STEPS)[step])
            assert (answer.status, answer.json["reason"]) == (403, "staff.role")

        # Documents: no PDF, another type, too large by what it says and by what it sends.
        pdf_type = {"Content-Type": "application/pdf"}
        wrong = await d.post(d.handler, case, "documents?kind=instrument", data=b"MZ" + bytes(100), headers=pdf_type)
        assert (wrong.status, wrong.json["reason"]) == (403, "document.not_pdf")
        wrong = await d.post(d.handler, case, "documents?kind=instrument", data=b"%PDF-1.7")
        assert wrong.code == "media_type"
        wrong = await d.post(d.handler, case, "documents?kind=secret", data=pdf(), headers=pdf_type)
        assert (wrong.code, wrong.json["parameter"]) == ("parameter", "kind")
        wrong = await d.post(d.handler, case, "documents?kind=instrument", data=_large(), headers=pdf_type)
        assert (wrong.status, wrong.code) == (413, "too_large")
        said = {**pdf_type, "Content-Length": str(26 << 20)}
        wrong = await d.post(d.handler, case, "documents?kind=instrument", data=_large(), headers=said)
        assert (wrong.status, wrong.code) == (413, "too_large")
        stored = await d.stored(d.handler, case)
        sha256 = stored["documents"][0]["sha256"]
        assert sha256 == hashlib.sha256(pdf()).hexdigest()
        answer = await d.handler.ask("GET", f"{path}/documents/{stored['documents'][0]['document_id']}")
        assert answer.body == pdf()

        # What is no case, no document, no letter; and what the state does not allow.
        for at in (
            "/v1/cases/C-AAAAAAAAAA",
            "/v1/cases/x",
            f"{path}/documents/x",
            f"{path}/letters/1",
            f"{path}/package",
        ):
            answer = await d.handler.ask("GET", at)
            assert (answer.status, answer.code) == (404, "not_found"), at
        answer = await d.post(d.handler, stored, "extract")
        assert (answer.status, answer.code) == (409, "conflict")
        much = io.BytesIO(json.dumps({**ASKED, "targets": ["x" * 9_000_000]}).encode())
        as_json = {"Content-Type": "application/json"}
        answer = await d.post(d.handler, stored, "scope", data=much, headers=as_json, method="PUT")
        assert (answer.status, answer.code) == (413, "too_large")
        answer = await d.post(d.handler, stored, "scope", {**ASKED, "zone": "UTC"}, method="PUT")
        assert (answer.status, answer.code) == (400, "parameter")

        # All of it is in the log, with who it was.
        entries = await d.world.entries(Kind.CASE_STATE)
        refused = [e.request["reason"] for e in entries if e.request and e.request.get("decision") == "refused"]
        assert {"case.stale", "case.state", "document.not_pdf", "document.too_large"} <= set(refused)


def _large() -> AsyncIterator[bytes]:
    async def body() -> AsyncIterator[bytes]:
        yield b"%PDF-1.7\n"
        for _ in range(26):
            yield bytes(1 << 20)

    return body()


async def test_an_extraction_goes_on_after_a_restart(database: Database, tmp_path: Path) -> None:
    """The order is on record and the gateway stops: the next one gives it, to the same end."""
    async with desk(database, tmp_path, records=some_calls()) as d:
        case = await d.approved(await d.validated(d.handler))
        case = await d.step(d.handler, case, "extract")
        await d.world.gateway.stop(0)
        gateway = await build(d.world.config)
        await gateway.start()
        try:
            for who in (d.handler, d.approver):
                who.base = gateway.url
                await who.token()
            d.world.gateway = gateway
            case = await d.until(case, "extracted")
            assert case["extraction"]["records"] == 20
        finally:
            await gateway.stop(0)


async def test_a_gateway_without_a_desk_has_neither_its_routes_nor_its_keys(database: Database) -> None:
    async with gate(database) as world:
        routes = {route.resource.canonical for route in world.gateway.routes() if route.resource is not None}
        assert not [r for r in routes if r.startswith(("/v1/cases", "/v1/holds"))]
        assert world.gateway.provider is not None
        for key_class in ("location", "subscriber", "device", "source", "case", "hold_aaaaaaaaaa"):
            with pytest.raises(KeyUnavailable):
                await world.gateway.provider.wrap(Period(key_class, 202610), bytes(32))
        named = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name LIKE $1"
        roles = await world.operator.fetch(named, "tollgate gateway%")
        assert not {r["usename"] for r in roles} & {Role.CASES.value, Role.LEGAL.value}


async def test_a_desk_without_a_name_does_not_start(database: Database) -> None:
    with pytest.raises(ConfigError, match="carrier_name"):
        async with gate(database, legal_desk=1):
            pass
