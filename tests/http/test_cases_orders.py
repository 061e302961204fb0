"""`tollgate case secret`, and over the API what an emergency that nobody decides stops."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg

from proxy.ledger.model import Kind
from tests.conftest import Database
from tests.http.test_cases_cli import world as world
from tests.http.test_production_desk import drafted
from tests.http.test_staff_cli import World
from tests.support.cases import ASKED, EMERGENCY, SUBPOENA, desk, pdf, some_calls


async def test_a_case_is_kept_secret_from_the_command_line(world: World, tmp_path: Path) -> None:
    async def does(*arguments: str, who: str = "handler", code: int = 0) -> tuple[str, str]:
        found, out, err = await world.run("case", *arguments, session=who, stdin="")
        assert found == code, (arguments, out, err)
        return out, err

    order = tmp_path / "order.pdf"
    order.write_bytes(pdf("ORDER"))
    out, _ = await does(
        *("new", "--instrument", "subpoena", "--agency", "Example County", "--officer", "Foreperson"),
        *("--reference", "GJ-1", "--signed-by", "grand_jury", "--issued", "2026-11-02", "--served", "2026-11-03"),
        *("--attest", "authentic"),
    )
    case = out.strip()
    day = (datetime.now(UTC) + timedelta(days=90)).date()
    words = ("secret", case, "--document", str(order), "--authority")
    await does(*words, "2705b", "--until", str(day), who="approver", code=1)  # a handler's
    await does(*words, "2705b", "--until", str(day))
    await does(*words, "2705b", "--until", str(day - timedelta(days=1)), code=1)
    await does(*words, "none", code=2)
    await does(*words[:2], "--authority", "2705b", code=2)
    out, _ = await does("show", case, "--json", who="approver")
    found = json.loads(out)
    assert (found["secrecy"], found["secret_until"][:10]) == ("2705b", str(day + timedelta(days=1)))
    assert {d["kind"] for d in found["documents"]} == {"nondisclosure"}


async def test_what_nobody_confirms_is_not_handed_over(
    database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    async with desk(database, tmp_path, records=some_calls()) as d:
        case = await d.validated(d.handler, ASKED, EMERGENCY)
        case = await d.step(d.handler, case, "act", {"scope_sha256": case["scope"]["sha256"]})
        case = await d.extracted(case)
        case = await d.step(d.handler, case, "review", {"records": 20})
        case = await d.step(d.handler, case, "produce", {"custodian": "other@carrier.example"})
        case = await drafted(d, case)
        path = f"/v1/cases/{case['case_id']}"
        assert (await d.handler.ask("GET", f"{path}/files/records.csv")).status == 200
        await owner.execute(
            "UPDATE tollgate.case_approval SET approved_at = approved_at - interval '49 hours',"
            " expires_at = expires_at - interval '49 hours'"
        )
        for at in (f"{path}/files/records.csv", f"{path}/package"):
            answer = await d.handler.ask("GET", at)
            assert (answer.status, answer.json["reason"]) == (403, "emergency.unconfirmed"), at
        case = await d.step(d.approver, case, "confirm", {"reason": "I called back"})
        assert (await d.handler.ask("GET", f"{path}/files/records.csv")).status == 200


async def test_who_may_order_what_and_a_request_that_is_sent_again(database: Database, tmp_path: Path) -> None:
    async with desk(database, tmp_path) as d:
        body = {**SUBPOENA, "request_id": str(uuid4())}
        case = (await d.handler.ask("POST", "/v1/cases", json=body)).json
        case = await d.step(
            d.handler, case, "documents?kind=nondisclosure", data=pdf(), headers={"Content-Type": "application/pdf"}
        )
        order = {"authority": "2705b", "document": case["documents"][0]["document_id"]}
        answer = await d.post(d.approver, case, "secret", order)
        assert (answer.status, answer.json["reason"]) == (403, "staff.role")
        for wrong in ({"authority": "none"}, {"document": "x"}, {"document": str(uuid4())}, {"until": "soon"}):
            answer = await d.post(d.handler, case, "secret", order | wrong)
            assert (answer.status, answer.code) == (400, "parameter"), wrong
        case = await d.step(d.handler, case, "secret", order)
        assert (case["state"], case["secrecy"], case["secret_until"]) == ("received", "2705b", None)
        # Sent again, the first request is answered with the case as it is now; the look is in the log.
        again = await d.handler.ask("POST", "/v1/cases", json=body)
        assert again.json["secrecy"] == "2705b"
        assert len(await d.world.ledger.read(kinds=[Kind.CASE_READ], limit=1000)) == 1
