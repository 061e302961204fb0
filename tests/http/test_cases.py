"""Cases over the API, from a served subpoena to a delivered package; and what is refused on the way."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path

from pyrage import decrypt, x25519

from tests.conftest import Database
from tests.support.cases import ASKED, SUBPOENA, desk, some_calls


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
        signed = draft.body + b"/s/ Other\n"
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
