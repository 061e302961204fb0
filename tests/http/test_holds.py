"""Holds, reports and the officers' looks over the API: a preservation that outlives the shredding of its month."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from keys.file_provider import FileProvider
from keys.provider import Period
from keys.signing import SigningKeys
from proxy import desk as composition
from proxy import forgetting, logs
from proxy.disclosure.exposure_freeze import officers_tools
from proxy.disclosure.exposure_proof import Prover
from proxy.ledger.model import Kind
from proxy.ledger.publisher import LogKeys
from proxy.ledger.search import Search
from proxy.staff.model import StaffRole
from schema.roles import Role
from tests.conftest import Database
from tests.support.cases import ASKED, NUMBER, SUBPOENA, Desk, desk
from tests.support.exposure import OFFICER
from tests.support.gate import calls
from tests.support.holds import open_shredder
from tests.support.staff import Member, member, operator

OLD = datetime(2024, 7, 10, 12, tzinfo=UTC)
MONTH = 202407
TODAY = datetime.now(UTC)
REQUEST: Mapping[str, Any] = {
    "instrument": "preservation",
    "agency": "Example County Sheriff",
    "officer": "Detective",
    "reference": "P-2026-7",
    "signed_by": "law_officer",
    "issued": (TODAY - timedelta(days=2)).date().isoformat(),
    "served_at": (TODAY - timedelta(days=1)).isoformat(timespec="seconds"),
    "zone": "America/New_York",
    "attested": ["authentic"],
}
WINDOW = {"from": "2024-07-01", "through": "2024-07-31"}
FROZEN = {"targets": [NUMBER], **WINDOW, "classes": ["timing", "parties", "routing", "ingress_leg", "egress_leg"]}
PERIOD = f"from=2026-01-01&to={TODAY.year + 1}-01-01"


@pytest.fixture
async def d(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(composition, "HOLDS_S", 0.3)
    monkeypatch.setattr(forgetting, "EVERY_S", 0.3)
    mine = calls(12, "123A", "456B", OLD, calling=NUMBER)
    others = calls(12, "123A", "456B", OLD, calling="+12125550177")
    async with desk(database, tmp_path, records=mine + others, privacy_desk=1) as made:
        yield made


async def told(d: Desk) -> list[str]:
    """What was done to holds, as the log says it."""
    entries = await d.world.entries(Kind.HOLD_STATE)
    return [e.request["action"] for e in entries if "until" in e.request]


async def officer(d: Desk) -> Member:
    return await member(d.world, d.provider, "officer@carrier.example", StaffRole.PRIVACY_OFFICER)


async def preserved(d: Desk, **change: Any) -> dict[str, Any]:
    """A preservation whose copy is whole."""
    case = await d.validated(d.handler, FROZEN, REQUEST, **change)
    answer = await d.handler.ask("POST", "/v1/holds", json={"case": case["case_id"]})
    assert answer.status == 201, answer.body
    hold: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"/v1/holds/{hold['hold_id']}"
    async with asyncio.timeout(30):
        while hold["state"] == "pending":
            await asyncio.sleep(0.1)
            hold = (await d.handler.ask("GET", f"/v1/holds/{hold['hold_id']}")).json
    assert (hold["state"], hold["rows"]) == ("active", 12), hold
    return hold


async def shred(d: Desk, *classes: str) -> None:
    """Freeze and shred the month, by two operators over the API and beside the keyring."""
    one, two = operator(d.world, d.provider), operator(d.world, d.provider, "operator-2")
    body = {"kind": "store.shred", "payload": {"month": MONTH, "classes": list(classes)}, "reason": "old"}
    change = (await one.ask("POST", "/v1/changes", json=body)).json
    approval = f"/v1/changes/{change['change_id']}/approval"
    answer = await two.ask("POST", approval, json={"digest": change["digest"]})
    assert answer.status == 200, answer.body
    async with open_shredder(d.world.config, d.world.ledger) as shredder:
        await shredder.carry_out(UUID(change["change_id"]), datetime.now(UTC), "operator-1")
    # It had them in its memory, and looks now and then.
    keys = d.world.gateway.keys
    assert keys is not None
    async with asyncio.timeout(20):
        while any(keys.cached(Period(cls, MONTH)) for cls in classes):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def freeze(d: Desk) -> None:
    """Freeze the month's counts, as the privacy officer's command does."""
    config = d.world.config
    async with (
        asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=2) as log,
        asyncpg.create_pool(config.role_url(Role.PRIVACY), min_size=1, max_size=2) as privacy,
    ):
        signing = LogKeys(SigningKeys(config.keyring_dir))
        with ThreadPoolExecutor(2) as executor:
            whole, others = Search(log, d.world.keys, desk=True), Search(log, d.world.keys)
            prover = lambda: Prover(log, signing, None)  # noqa: E731
            keys = d.world.keys
            _, freezer = officers_tools(d.world.ledger, others, prover, privacy, keys, executor, whole=whole)
            await freezer.freeze(OFFICER, MONTH, "shredding")


async def test_what_is_held_outlives_the_shredding(d: Desk, owner: asyncpg.Connection) -> None:
    hold = await preserved(d)
    await freeze(d)
    await shred(d, "timing", "parties", "routing", "ingress_leg", "egress_leg", "source", "tags")
    asked = {**ASKED, **WINDOW, "classes": ["timing", "parties"]}
    # The store answers nothing any more; the process that names the preservation is answered from it.
    case = await d.validated(d.handler, asked, SUBPOENA, preservation=hold["case_id"])
    case = await d.extracted(await d.approved(case))
    assert case["extraction"]["records"] == 12
    later = await d.validated(d.handler, asked, SUBPOENA)
    later = await d.extracted(await d.approved(later))
    assert later["extraction"]["records"] == 0, "without the preservation there is nothing"
    # It waited for this process; its copy stays to its last day.
    path = f"/v1/holds/{hold['hold_id']}/supersede"
    refused = await d.handler.ask("POST", path, json={"case": later["case_id"]})
    assert (refused.status, refused.json["reason"]) == (403, "hold.superseding")
    answer = await d.handler.ask("POST", path, json={"case": case["case_id"]})
    assert (answer.status, answer.json["state"], answer.json["destroyed_at"]) == (200, "superseded", None)
    assert (await d.show(d.handler, hold["case_id"]))["state"] == "superseded"
    every = (await d.handler.ask("GET", "/v1/holds")).json["holds"]
    assert [(h["kind"], h["state"]) for h in every] == [
        ("preservation", "superseded"), ("production", "active"), ("production", "active")
    ]  # fmt: skip


async def test_a_preservation_and_its_renewal(d: Desk) -> None:
    hold = await preserved(d)
    assert (hold["day"], hold["zone"], hold["kind"]) == (1, "America/New_York", "preservation")
    first = datetime.fromisoformat(hold["expires_at"])
    renew = f"/v1/holds/{hold['hold_id']}/renew"
    assert (await d.approver.ask("POST", renew, json={"reason": "x"})).status == 403
    answer = await d.handler.ask("POST", renew, json={"reason": "renewed request P-2026-7/2"})
    assert (answer.status, answer.json["state"]) == (200, "renewed")
    longer = datetime.fromisoformat(answer.json["expires_at"]) - first
    assert abs(longer - timedelta(days=90)) <= timedelta(hours=1)
    again = await d.handler.ask("POST", renew, json={"reason": "once more"})
    assert again.status == 409
    assert (await d.show(d.handler, hold["case_id"]))["state"] == "renewed"
    assert await told(d) == ["preserve", "renew"]
    assert (await d.handler.ask("GET", "/v1/holds?due=14")).json["holds"] == []
    (found,) = (await d.approver.ask("GET", "/v1/holds?due=200")).json["holds"]
    assert found["hold_id"] == hold["hold_id"]


async def test_a_clock_that_runs_out_ends_the_copy(d: Desk, owner: asyncpg.Connection) -> None:
    hold = await preserved(d)
    await owner.execute("ALTER TABLE tollgate.hold DISABLE TRIGGER moves")
    await owner.execute(
        "UPDATE tollgate.hold SET requested_at = requested_at - interval '100 days',"
        " expires_at = expires_at - interval '100 days'"
    )
    await owner.execute("ALTER TABLE tollgate.hold ENABLE TRIGGER moves")
    async with asyncio.timeout(40):
        while True:
            now = (await d.handler.ask("GET", f"/v1/holds/{hold['hold_id']}")).json
            assert now["state"] == "expired", "by its clock, whether or not anybody looked"
            if now["destroyed_at"]:
                break
            await asyncio.sleep(0.2)
    assert (await d.show(d.handler, hold["case_id"]))["state"] == "expired"
    gone = await owner.fetchval(
        "SELECT count(*) FROM tollgate.data_key_destroyed WHERE key_class = $1",
        "hold_" + hold["hold_id"].removeprefix("H-").lower(),
    )
    assert gone == 1
    ring = FileProvider(d.world.config.keyring_dir).keyring.read(fresh=True)
    assert "hold_" + hold["hold_id"].removeprefix("H-").lower() in {p.key_class for p in ring.destroyed}
    assert await told(d) == ["preserve", "expire", "destroy"]
    answer = await d.handler.ask("POST", f"/v1/holds/{hold['hold_id']}/renew", json={"reason": "too late"})
    assert answer.status == 409


async def test_two_people_lift_a_hold_over_the_api(d: Desk, owner: asyncpg.Connection) -> None:
    hold = await preserved(d)
    body = {"kind": "hold.lift", "payload": {"hold": hold["hold_id"]}, "reason": "withdrawn by the agency"}
    change = (await d.other.ask("POST", "/v1/changes", json=body)).json
    approval = f"/v1/changes/{change['change_id']}/approval"
    assert (await d.other.ask("POST", approval, json={"digest": change["digest"]})).status in (403, 409)
    theirs = (await operator(d.world, d.provider).ask("GET", "/v1/changes")).json["changes"]
    assert all(c["kind"] != "hold.lift" for c in theirs), "an operator does not even see it"
    answer = await d.approver.ask("POST", approval, json={"digest": change["digest"]})
    assert answer.status == 200, answer.body
    async with asyncio.timeout(40):
        while not (await d.handler.ask("GET", f"/v1/holds/{hold['hold_id']}")).json["destroyed_at"]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    shown = (await d.handler.ask("GET", f"/v1/holds/{hold['hold_id']}")).json
    assert shown["state"] == "lifted"


async def test_what_is_refused(d: Desk) -> None:
    subpoena = await d.validated(d.handler)
    answer = await d.handler.ask("POST", "/v1/holds", json={"case": subpoena["case_id"]})
    assert (answer.status, answer.json["reason"]) == (403, "hold.instrument")
    received = await d.received(d.handler, FROZEN, REQUEST)
    assert (await d.handler.ask("POST", "/v1/holds", json={"case": received["case_id"]})).status == 409
    for body in ({}, {"case": 7}, {"case": "C-1"}, {"case": "C-AAAAAAAAAA", "also": 1}, [], "x"):
        assert (await d.handler.ask("POST", "/v1/holds", json=body)).status == 400, body
    assert (await d.handler.ask("POST", "/v1/holds", json={"case": "C-AAAAAAAAAA"})).status == 404
    for path in ("/v1/holds/H-AAAAAAAAAA", "/v1/holds/H-1", "/v1/holds/..%2f"):
        assert (await d.handler.ask("GET", path)).status == 404
    for query in ("?case=x", "?live=yes", "?due=x", "?due=-1", "?what=1", "?case=C-AAAAAAAAAA&case=C-AAAAAAAAAA"):
        assert (await d.handler.ask("GET", "/v1/holds" + query)).status == 400, query
    privacy = await officer(d)
    for who in (privacy, operator(d.world, d.provider)):
        assert (await who.ask("GET", "/v1/holds")).status == 403
    long_ago = await d.validated(d.handler, FROZEN, REQUEST, served_at="2025-01-02T10:00:00-05:00", issued="2025-01-02")
    answer = await d.handler.ask("POST", "/v1/holds", json={"case": long_ago["case_id"]})
    assert (answer.status, answer.json["reason"]) == (403, "hold.expired")


async def test_officers_and_a_secret_case(d: Desk, owner: asyncpg.Connection) -> None:
    """One plain case, one under a court's order: who is told of which, by each way there is to look."""
    privacy = await officer(d)
    asked = {**ASKED, **WINDOW}
    plain = await d.extracted(await d.approved(await d.validated(d.handler, asked)))
    before = await _looks(d, privacy)
    sealed = await d.validated(d.handler, asked, SUBPOENA, nondisclosure={"authority": "2705b", "until": None})
    sealed = await d.extracted(await d.approved(sealed))
    frozen = await preserved(d, nondisclosure={"authority": "2705b", "until": None})
    after = await _looks(d, privacy)
    assert plain["case_id"] in before["log"]
    for case in (sealed, frozen):
        assert not any(case["case_id"] in text for text in after.values())
    # Counts, reports and metrics are what they were.
    for name in ("exposure", "transparency", "disclosures", "metrics"):
        assert after[name] == before[name], name
    # The desk finds it, case by case.
    path = f"/v1/log/search?reason=x&case={sealed['case_id']}&limit=100"
    mine = await d.handler.ask("GET", path)
    assert (mine.status, len(mine.json["entries"]) > 5) == (200, True)
    assert (await privacy.ask("GET", path)).json["entries"] == []
    assert (await d.handler.ask("GET", "/v1/log/search?reason=x")).status == 400
    desk_report = (await d.handler.ask("GET", f"/v1/reports/transparency?{PERIOD}&reason=x&bands=none")).json
    assert desk_report["instruments"]["subpoena"]["received"] == 2
    assert desk_report["instruments"]["preservation"]["preserved"] == 1
    outside = f"/v1/reports/transparency?{PERIOD}&reason=x&bands=none&audience=others"
    assert (await d.handler.ask("GET", outside)).json == json.loads(after["transparency"])
    # Lifted by two, it is a case like any other.
    body = {"kind": "secrecy.lift", "payload": {"case": sealed["case_id"]}, "reason": "the court lifted it"}
    change = (await d.handler.ask("POST", "/v1/changes", json=body)).json
    approval = f"/v1/changes/{change['change_id']}/approval"
    assert (await d.approver.ask("POST", approval, json={"digest": change["digest"]})).status == 200
    assert len((await privacy.ask("GET", path)).json["entries"]) > 5
    assert frozen["case_id"] not in str((await _looks(d, privacy)).values())


async def _looks(d: Desk, privacy: Member) -> dict[str, str]:
    """What the privacy officer and the metrics tell, as texts."""
    log = await privacy.ask("GET", "/v1/log/search?reason=x&limit=1000&purpose=legal")
    states = await privacy.ask("GET", "/v1/log/search?reason=x&limit=1000&kind=case.state")
    shown = await privacy.ask("GET", "/v1/exposure?reason=x&staff=handler@carrier.example")
    transparency = await privacy.ask("GET", f"/v1/reports/transparency?{PERIOD}&reason=x&bands=none")
    disclosures = await privacy.ask("GET", f"/v1/reports/disclosures?{PERIOD}&reason=x")
    for answer in (log, states, shown, transparency, disclosures):
        assert answer.status == 200, answer.body
    count = shown.json
    for name in ("to", "log"):
        del count[name]
    async with (
        aiohttp.ClientSession() as http,
        http.get(d.world.gateway.metrics_url + "/metrics") as response,
    ):
        text = await response.text()
    lines = [x for x in text.splitlines() if x.startswith(("tollgate_holds", "tollgate_cases"))]
    assert lines
    return {
        "log": log.body.decode() + states.body.decode(),
        "exposure": json.dumps(count),
        "transparency": transparency.body.decode(),
        "disclosures": disclosures.body.decode(),
        "metrics": "\n".join(lines),
    }


async def test_the_log_is_searched_by_a_number_in_a_body_alone(d: Desk) -> None:
    privacy = await officer(d)
    await d.validated(d.handler)
    body = {"reason": "audit", "number": NUMBER}
    found = await privacy.ask("POST", "/v1/log/search", json=body)
    assert found.status == 200
    assert {e["kind"] for e in found.json["entries"]} <= {"case.state", "log.read"}
    refused = await privacy.ask("GET", "/v1/log/search?reason=x&number=%2B12125550123")
    assert refused.status == 400
    assert b"2125550123" not in refused.body
    again = await privacy.ask("POST", "/v1/log/search", json=body)
    assert "log.read" in {e["kind"] for e in again.json["entries"]}, "who asked about a number is found by it"
    assert all("records" not in e for e in again.json["entries"])
    for wrong in (
        {},
        {"reason": ""},
        {"reason": "x", "number": "2125550123"},
        {"reason": "x", "kind": "no.kind"},
        {"reason": "x", "decision": "maybe"},
        {"reason": "x", "from": "yesterday"},
        {"reason": "x", "limit": "0"},
        {"reason": "x", "limit": "1001"},
        {"reason": "x", "access_id": "1"},
        {"reason": "x", "more": "1"},
        {"reason": 7},
    ):
        assert (await privacy.ask("POST", "/v1/log/search", json=wrong)).status == 400, wrong
    for who in (operator(d.world, d.provider), d.other):
        status = (await who.ask("GET", "/v1/exposure?reason=x&client=a")).status
        assert status == 403
    assert (await operator(d.world, d.provider).ask("GET", "/v1/log/search?reason=x")).status == 403
    for query in ("", "?reason=x", "?reason=x&client=a&staff=b", "?client=a", "?reason=x&client=a&from=x"):
        assert (await privacy.ask("GET", "/v1/exposure" + query)).status == 400, query
    for query in ("", f"?{PERIOD}", "?reason=x&from=2026-02-01&to=2026-01-01", f"?{PERIOD}&reason=x&bands=7"):
        assert (await privacy.ask("GET", "/v1/reports/transparency" + query)).status == 400, query


async def test_a_carrier_is_given_what_is_left_of_a_shredded_month(d: Desk) -> None:
    peer = await d.world.peer()
    window = {"from": "2024-07-01T00:00:00Z", "to": "2024-08-01T00:00:00Z"}
    path = f"/v1/cdrs?from={window['from']}&to={window['to']}"
    whole = await d.world.pull(peer, path)
    await freeze(d)
    await shred(d, "routing", "ingress_leg")
    left = await d.world.pull(peer, path)
    gone = ("switch_id", "ingress_trunk", "ingress_rate")
    assert all(row[name] is not None for row in whole for name in gone)
    assert left == [row | {n: None for n in row if n in gone or n.startswith("ingress_")} for row in whole]
    await freeze(d)
    await shred(d, "parties", "timing")
    assert await d.world.pull(peer, path) == []
    assert await d.world.search(peer, NUMBER, **window) == []


async def test_metrics_and_requests_tell_no_step_of_the_desk(d: Desk) -> None:
    """Nor of a case that is no secret: what is missing only where one is would tell of it."""
    stream = io.StringIO()
    listener = logging.StreamHandler(stream)
    listener.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(listener)
    tollgate = logging.getLogger("tollgate")
    level = tollgate.level
    tollgate.setLevel(logging.DEBUG)

    async def shown() -> list[str]:
        async with d.world.http.get(d.world.gateway.metrics_url + "/metrics") as answer:
            return [line for line in (await answer.text()).splitlines() if line.startswith("tollgate_http_")]

    try:
        before = await shown()
        case = await preserved(d, nondisclosure={"authority": "2705b", "until": "2099-01-01"})
        await d.handler.ask("GET", f"/v1/cases/{case['case_id']}/nothing/here")
        await d.handler.ask("DELETE", f"/v1/holds/{case['hold_id']}")
        change = {"kind": "hold.lift", "payload": {"hold": case["hold_id"]}, "reason": "as agreed"}
        assert (await d.handler.ask("POST", "/v1/changes", json=change)).status == 201
        assert (await d.approver.ask("GET", "/v1/changes")).status == 200
        assert (await d.handler.ask("GET", f"/v1/log/search?case={case['case_id']}&reason=x")).status == 200
        after = await shown()
    finally:
        logging.getLogger().removeHandler(listener)
        tollgate.setLevel(level)
    grown = {line.rpartition(" ")[0] for line in after if line not in before and "_duration_" not in line}
    steps = {line for line in grown if "_requests" in line and "/oauth/token" not in line}
    assert steps == {'tollgate_http_requests_total{method="",route="desk",status=""}'}
    timed = [line for line in after if "_duration_" in line and line not in before]
    assert not [line for line in timed if "desk" in line or "/v1/" in line]
    assert not [line for line in after if "_created" in line]
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    desks = [line for line in lines if line["event"] == "http.request" and line["route"] != "/oauth/token"]
    assert len(desks) >= 10
    for line in desks:
        assert set(line) == {"at", "level", "logger", "event", "route"}
        assert line["route"] == "desk"
    for word in (case["case_id"], case["hold_id"], d.handler.staff_id, d.approver.staff_id):
        assert word not in stream.getvalue()
