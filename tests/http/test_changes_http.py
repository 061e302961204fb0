"""Changes and the registry of carriers over the API: real staff tokens and proofs, real sockets, a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
import yaml

from proxy.ledger.model import Kind
from proxy.staff.model import StaffRole
from tests.conftest import Database
from tests.support.api import Answer
from tests.support.gate import Gate, gate
from tests.support.oauth import new_key
from tests.support.oidc import Own, own
from tests.support.operators import FIRST, SECOND
from tests.support.staff import Member, member, operator

RAW: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "schema" / "openapi.yaml").read_text("utf-8"))
SCHEMA = schemathesis.openapi.from_dict(RAW)
PROPOSAL = {
    "kind": "carrier.add",
    "payload": {"carrier": "carrier-z", "name": "Example Carrier Z", "ocns": [{"ocn": "999Z", "from": "2026-01-01"}]},
    "reason": "a new interconnection",
}


@dataclass
class World:
    gate: Gate
    provider: Own
    first: Member
    second: Member

    async def ask(self, who: Member, method: str, template: str, body: Any = None, **path: str) -> Answer:
        """Ask, and hold the answer against the document."""
        options = {} if body is None else {"json": body}
        answer = await who.ask(method, template.format(**path), **options)
        documented(method, template.partition("?")[0], answer)
        return answer

    async def propose(self, who: Member | None = None, **change: Any) -> dict[str, Any]:
        answer = await self.ask(who or self.first, "POST", "/v1/changes", PROPOSAL | change)
        assert answer.status == 201, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        assert answer.headers["Location"] == f"/v1/changes/{found['change_id']}"
        return found

    async def decide(self, who: Member, change: dict[str, Any], what: str = "approval", **body: str) -> Answer:
        asked = body or {"digest": change["digest"]}
        return await self.ask(who, "POST", "/v1/changes/{id}/" + what, asked, id=change["change_id"])


def documented(method: str, template: str, answer: Answer) -> None:
    """Hold an answer against schema/openapi.yaml: its status, media type and body."""
    responses = RAW["paths"][template][method.lower()]["responses"]
    assert str(answer.status) in responses, (template, answer.status, answer.body)
    if answer.body:
        media = answer.headers["Content-Type"].partition(";")[0]
        node: Any = responses[str(answer.status)]
        while "$ref" in node:
            found: Any = RAW
            for part in node["$ref"].split("/")[1:]:
                found = found[part]
            node = found
        assert media in node["content"], (template, media)
    if answer.status < 300 and answer.body:
        response = schemathesis.Response(
            status_code=answer.status,
            headers={k.lower(): [v] for k, v in answer.headers.items()},
            content=bytes(answer.body),
            request=SimpleNamespace(),  # type: ignore[arg-type]
            elapsed=0.0,
            verify=False,
        )
        SCHEMA[template][method].validate_response(response)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with own(tmp_path) as provider, gate(database, **provider.settings()) as running:
        yield World(running, provider, operator(running, provider, FIRST), operator(running, provider, SECOND))


async def test_a_change_from_proposal_to_effect(world: World) -> None:
    change = await world.propose()
    assert (change["state"], change["proposed_by"]) == ("proposed", FIRST)
    assert change["payload"]["ocns"] == [{"ocn": "999Z", "from": "2026-01-01", "to": None}]
    listed = json.loads((await world.ask(world.second, "GET", "/v1/changes?state=proposed")).body)["changes"]
    assert [c["change_id"] for c in listed] == [change["change_id"]]
    seen = json.loads((await world.ask(world.second, "GET", "/v1/changes/{id}", id=change["change_id"])).body)
    assert seen == change
    answer = await world.decide(world.second, seen)
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["decided_by"] == SECOND
    carriers = json.loads((await world.ask(world.first, "GET", "/v1/carriers")).body)["carriers"]
    assert "carrier-z" in [c["carrier"] for c in carriers]
    entries = await world.gate.entries(Kind.CHANGE_STATE)
    mine = [e for e in entries if e.request.get("change_id") == change["change_id"]]
    assert [(e.request["action"], e.actor["staff"]) for e in mine] == [("propose", FIRST), ("approve", SECOND)]
    assert mine[1].actor["key_thumbprint"] == world.second.key.thumbprint


async def test_what_is_refused_and_why(world: World) -> None:
    change = await world.propose()
    cases = [
        (await world.decide(world.first, change), 403, "change.own"),
        (await world.decide(world.first, change, "refusal", reason="no"), 403, "change.own"),
        (await world.decide(world.second, change, "withdrawal", reason="no"), 403, "change.own"),
        (await world.decide(world.second, change, digest="0" * 64), 409, None),
        (await world.decide(world.second, {**change, "change_id": "0" * 8 + change["change_id"][8:]}), 404, None),
        (await world.decide(world.second, {**change, "change_id": "x"}), 404, None),
        (await world.decide(world.second, change, "refusal", reason=" "), 400, None),
        (await world.ask(world.first, "POST", "/v1/changes", {**PROPOSAL, "kind": "carrier.remove"}), 400, None),
        (await world.ask(world.first, "POST", "/v1/changes", {**PROPOSAL, "payload": []}), 400, None),
        (await world.ask(world.first, "POST", "/v1/changes", {**PROPOSAL, "payload": {"carrier": "\0"}}), 400, None),
        (await world.ask(world.first, "POST", "/v1/changes", {**PROPOSAL, "more": 1}), 400, None),
        (await world.ask(world.first, "POST", "/v1/changes", {"kind": "carrier.add"}), 400, None),
        (await world.ask(world.first, "GET", "/v1/changes?state=old"), 400, None),
        (await world.ask(world.first, "GET", "/v1/changes?limit=0"), 400, None),
        (await world.ask(world.first, "GET", "/v1/changes?limit=1&limit=2"), 400, None),
        (await world.ask(world.first, "GET", "/v1/carriers?x=1"), 400, None),
    ]
    assert [(answer.status, json.loads(answer.body).get("reason")) for answer, *_ in cases] == [
        (status, reason) for _, status, reason in cases
    ]
    assert json.loads((await world.ask(world.first, "GET", "/v1/changes?state=proposed")).body)["changes"] == [change]
    assert (await world.decide(world.first, change, "withdrawal", reason="a mistake")).status == 200
    assert (await world.decide(world.second, change)).status == 409


async def test_others_than_operators_have_no_part_in_it(world: World) -> None:
    change = await world.propose()
    noc = await member(world.gate, world.provider, "noc-1", StaffRole.NOC)
    # A handler has changes of their own kind, and of others' is not even told.
    handler = await member(world.gate, world.provider, "handler-1", StaffRole.LEGAL_HANDLER)
    for method, template, body, status in (
        ("GET", "/v1/changes", None, 200),
        ("GET", "/v1/changes/{id}", None, 404),
        ("POST", "/v1/changes", PROPOSAL, 403),
        ("POST", "/v1/changes/{id}/approval", {"digest": change["digest"]}, 404),
        ("GET", "/v1/carriers", None, 403),
        ("POST", "/v1/clients/{id}/end", {"reason": "no"}, 403),
    ):
        answer = await world.ask(handler, method, template, body, id=change["change_id"])
        assert answer.status == status, template
        answer = await world.ask(noc, method, template, body, id=change["change_id"])
        assert answer.status == 403, template
    assert json.loads((await world.ask(handler, "GET", "/v1/changes")).body) == {"changes": []}
    peer = await world.gate.peer()
    assert (await world.gate.ask(peer, "GET", "/v1/changes")).status == 401
    assert (await world.gate.ask(peer, "POST", "/v1/changes", json=PROPOSAL)).status == 401


async def test_a_suspended_operators_token_is_dead(world: World) -> None:
    change = await world.propose()
    await world.second.token()
    answer = await world.first.ask("POST", f"/v1/staff/{SECOND}/suspension", json={"reason": "lost laptop"})
    assert answer.status == 201, answer.body
    assert (await world.decide(world.second, change)).status == 401
    assert json.loads((await world.first.ask("GET", f"/v1/changes/{change['change_id']}")).body)["state"] == "proposed"


async def test_an_operator_ends_things_alone(world: World) -> None:
    peer = await world.gate.peer()
    await world.gate.headers(peer, "GET", "/v1/cdrs")
    client, kid = peer.client_id, peer.key.kid
    ends: list[tuple[str, dict[str, str], dict[str, str]]] = [
        ("/v1/clients/{id}/keys/end", {"kid": kid}, {"id": client}),
        ("/v1/clients/{id}/end", {}, {"id": client}),
        ("/v1/agreements/end", {"agreement": "ICA-carrier-a"}, {}),
        ("/v1/carriers/{id}/ocns/{ocn}/end", {"before": "2026-01-01"}, {"id": "carrier-a", "ocn": "123A"}),
        ("/v1/carriers/{id}/end", {}, {"id": "carrier-a"}),
    ]
    for template, body, path in ends:
        answer = await world.ask(world.first, "POST", template, {**body, "reason": "stolen"}, **path)
        assert answer.status == 204, (template, answer.body)
        again = await world.ask(world.first, "POST", template, {**body, "reason": "stolen"}, **path)
        assert again.status == 409, (template, again.body)
        for wrong in ({**body}, {**body, "reason": ""}, {**body, "reason": "x\0"}, {"reason": 1, **body}):
            refused = await world.ask(world.first, "POST", template, wrong, **path)
            assert refused.status == 400, (template, wrong)
    assert (
        await world.gate.ask(peer, "GET", "/v1/cdrs?from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z")
    ).status == 401
    for template, name in (("/v1/carriers", "carriers"), ("/v1/agreements", "agreements"), ("/v1/clients", "clients")):
        values = json.loads((await world.ask(world.second, "GET", template)).body)[name]
        ended = [v for v in values if "carrier-a" in (v["carrier"], v.get("client", ""))]
        assert ended
        assert all(v["disabled_at"] for v in ended), name
    entries = [
        e for e in await world.gate.entries(Kind.REGISTRY_CHANGE) if e.request["change"].endswith((".end", ".disable"))
    ]
    assert {e.actor["staff"] for e in entries} == {FIRST}
    assert len(entries) == len(ends)


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/v1/clients/{id}/keys/end", {"kid": "\ud800", "reason": "x"}),
        ("/v1/clients/{id}/keys/end", {"kid": "k" * 201, "reason": "x"}),
        ("/v1/agreements/end", {"agreement": ["x"], "reason": "x"}),
        ("/v1/agreements/end", {"agreement": "ICA-none", "reason": "x"}),
        ("/v1/carriers/{id}/ocns/{ocn}/end", {"before": "today", "reason": "x"}),
        ("/v1/carriers/{id}/ocns/{ocn}/end", {"before": "9999-12-31", "reason": "x"}),
        ("/v1/carriers/{id}/end", {"reason": "x"}),
    ],
)
async def test_what_is_not_there_or_malformed_never_fails_here(world: World, address: str, body: Any) -> None:
    for identity in ("nobody", "%00", "%F0%9F%98%80", "x" * 64):
        for ocn in ("123A", "123a", "%00"):
            # As bytes: what cannot be text is sent as JSON writes it.
            path = address.format(id=identity, ocn=ocn)
            headers = {"Content-Type": "application/json"}
            answer = await world.first.ask("POST", path, data=json.dumps(body).encode(), headers=headers)
            assert answer.status in (400, 404, 409), (path, answer.status)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        # Right but for one member that is there twice: two readers could take two different payloads.
        (json.dumps(PROPOSAL)[:-1].encode() + b',"reason":"x"}', {"Content-Type": "application/json"}, 400),
        (json.dumps(PROPOSAL).encode(), {"Content-Type": "application/json", "Content-Encoding": "identity"}, 415),
        (b'{"kind":"carrier.add","payload":{"carrier":NaN},"reason":"x"}', {"Content-Type": "application/json"}, 400),
        (b'{"kind":"carrier.add","payload":{"carrier":1e999},"reason":"x"}', {"Content-Type": "application/json"}, 400),
        (b'{"kind":"carrier.add","payload":' + b'{"a":' * 5000, {"Content-Type": "application/json"}, 400),
        (b"\xff{}", {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        (b" " * 65537, {"Content-Type": "application/json"}, 413),
    ],
)
async def test_a_body_that_is_none(world: World, content: bytes, headers: dict[str, str], status: int) -> None:
    answer = await world.first.ask("POST", "/v1/changes", data=content, headers=headers)
    assert answer.status == status, answer.body
    documented("POST", "/v1/changes", answer)


async def test_a_client_that_two_people_made_pulls(world: World) -> None:
    key = new_key()
    payload = {"client": "billing-z", "carrier": "carrier-a", "networks": ["127.0.0.0/8"], "jwks": [key.public]}
    change = await world.propose(kind="client.add", payload=payload)
    answers = await asyncio.gather(*(world.decide(world.second, change) for _ in range(4)))
    assert sorted(a.status for a in answers) == [200, 409, 409, 409]
    clients = json.loads((await world.ask(world.first, "GET", "/v1/clients")).body)["clients"]
    (made,) = [c for c in clients if c["client"] == "billing-z"]
    assert [k["kid"] for k in made["jwks"]] == [key.public.get("kid", key.thumbprint)]
