"""From served subpoena to a package that its recipient verifies, through the running gateway and over its API."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyrage
from pyrage import x25519

from keys.notes import VerifierKey
from proxy.ledger.model import Kind
from proxy.legal.production.verify import Trusted, verify
from tests.conftest import Database
from tests.support.cases import NUMBER, desk, some_calls
from tests.support.production import signed_text


async def drafted(d: Any, case: Any) -> Any:
    """Wait until a production's files are made."""
    async with asyncio.timeout(30):
        while True:
            found = await d.show(d.handler, case["case_id"])
            if found["production"]["state"] != "making":
                return found
            await asyncio.sleep(0.1)


async def test_a_subpoena_is_answered_and_its_package_verifies(database: Database, tmp_path: Path) -> None:
    first, second = x25519.Identity.generate(), x25519.Identity.generate()
    async with desk(database, tmp_path, records=some_calls(20)) as d:
        case = await d.extracted(await d.approved(await d.validated(d.handler)))
        case = await d.step(d.handler, case, "review", {"records": 20})
        custodian = d.handler.staff_id
        case = await drafted(d, await d.step(d.handler, case, "produce", {"custodian": custodian}))
        path = f"/v1/cases/{case['case_id']}"

        answer = await d.handler.ask("GET", f"{path}/files/records.csv")
        assert answer.status == 200
        rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
        assert len(rows) == 20
        assert {NUMBER in (row["calling"], row["called"]) for row in rows} == {True}
        assert "egress_ocn" not in rows[0]
        for name, status in (("records.pdf", 200), ("manifest.json", 404), ("x", 404), ("..%2Froles.json", 404)):
            assert (await d.approver.ask("GET", f"{path}/files/{name}")).status == status

        draft = (await d.handler.ask("GET", f"{path}/certificate")).body
        assert b"Every record that had been taken in by then could be searched." in b" ".join(draft.split())
        unsigned = await d.post(
            d.handler, case, "certify?kind=text", data=draft, headers={"Content-Type": "text/plain"}
        )
        assert unsigned.status in (403, 422)
        assert b"lacks day, place or signature" in unsigned.body
        signed = signed_text(draft)
        case = await d.step(d.handler, case, "certify?kind=text", data=signed, headers={"Content-Type": "text/plain"})
        assert case["state"] == "certified"

        # Late records: what was drafted stands.
        await d.world.ingest(some_calls(3))
        case = await d.step(d.handler, case, "deliver", {"recipients": [str(first.to_public())]})
        data = (await d.handler.ask("GET", f"{path}/package")).body
        inner = pyrage.decrypt(data, [first])

        keys = json.loads((await d.handler.ask("GET", "/.well-known/tollgate-production-keys.json")).body)["keys"]
        file = tmp_path / "package.zip.age"
        file.write_bytes(data)
        with zipfile.ZipFile(io.BytesIO(inner)) as opened:
            receipt = json.loads(opened.read(f"{case['case_id']}-1/log-receipt.json"))
        log = VerifierKey.parse(receipt["log"]["vkey"])  # a recipient has it from elsewhere
        found = verify(file, Trusted(keys, "", [log]), str(first))
        assert found.log_size is not None
        assert found.unchecked == ("the custodian's signature: look at it in certificate-signed.txt",)
        assert found.manifest.value["records"] == 20
        assert found.manifest.value["certificate"]["custodian"]

        # The recipient lost their key: the same package to another one, once an approver has approved just that.
        key = str(second.to_public())
        refused = await d.post(d.handler, case, "redeliver", {"recipient": key})
        assert refused.status == 403
        case = await d.show(d.handler, case["case_id"])
        case = await d.step(d.approver, case, "approve", {"recipient": key})
        case = await d.step(d.handler, case, "redeliver", {"recipient": key})
        again = (await d.handler.ask("GET", f"{path}/package")).body
        assert pyrage.decrypt(again, [second]) == inner

        looked = [e.request for e in await d.world.entries(Kind.CASE_READ)]
        assert [each["file"] for each in looked if "file" in each] == ["records.csv", "records.pdf"]
        states = [e.request["state"] for e in await d.world.entries(Kind.PRODUCTION_STATE)]
        assert states == ["making", "drafted", "certified", *["sealed", "handing over", "handed over"] * 2]
