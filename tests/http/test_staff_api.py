"""The staff's API: each route for whom it is, answers as documented, bodies of every shape never a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import schemathesis
import yaml

from proxy.staff.model import StaffRole
from tests.conftest import Database
from tests.support.gate import Gate, gate
from tests.support.oauth import new_key
from tests.support.oidc import Own, own
from tests.support.operators import today
from tests.support.staff import Member, member, operator

DOCUMENT = Path(__file__).parents[2] / "schema" / "openapi.yaml"
RAW: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
HANDLER = "handler@carrier.example"
REASON = {"reason": "as agreed"}


class World(SimpleNamespace):
    """A gateway with one of each role."""

    gate: Gate
    provider: Own
    people: dict[StaffRole, Member]


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with own(tmp_path) as provider, gate(database, **provider.settings()) as running:
        people = {StaffRole.OPERATOR: operator(running, provider)}
        for role in StaffRole:
            if role not in people:
                people[role] = await member(running, provider, f"{role.value}@carrier.example", role)
        await member(running, provider, HANDLER, StaffRole.LEGAL_HANDLER)
        yield World(gate=running, provider=provider, people=people)


LOOKS = {StaffRole.OPERATOR, StaffRole.PRIVACY_OFFICER}
ROUTES: list[tuple[str, str, Any, set[StaffRole]]] = [
    ("GET", "/v1/staff/me", None, set(StaffRole)),
    ("GET", "/v1/staff", None, LOOKS),
    ("GET", f"/v1/staff/{HANDLER}", None, LOOKS),
    ("POST", f"/v1/staff/{HANDLER}/training", {"completed_on": "2024-01-01", "course": "{role}"}, LOOKS),
    ("POST", f"/v1/staff/{HANDLER}/suspension", REASON, {StaffRole.OPERATOR}),
    ("POST", f"/v1/staff/{HANDLER}/roles/legal_handler/end", REASON, {StaffRole.OPERATOR}),
    ("POST", f"/v1/staff/{HANDLER}/keys/none/end", REASON, {StaffRole.OPERATOR}),
]


async def test_each_route_is_for_whom_it_is(world: World) -> None:
    for method, path, body, allowed in ROUTES:
        for role, who in world.people.items():
            sent = None if body is None else {k: v.replace("{role}", role.value) for k, v in body.items()}
            answer = await who.ask(method, path, json=sent)
            if role in allowed:
                assert answer.status in (200, 201, 404), (path, role, answer.body)
            else:
                assert (answer.status, answer.json["reason"]) == (403, "staff.role"), (path, role)


async def test_answers_are_as_documented(world: World) -> None:
    boss, running = world.people[StaffRole.OPERATOR], world.gate
    jwk = new_key().public
    await running.registry.change(running.operator, "staff.key.add", {"staff": HANDLER, "jwk": jwk})
    await boss.token()
    schema = schemathesis.openapi.from_dict(RAW)
    path = f"/v1/staff/{HANDLER}"
    for method, template, asked, body, status in (
        ("GET", "/v1/staff/me", "/v1/staff/me", None, 200),
        ("GET", "/v1/staff", "/v1/staff", None, 200),
        ("GET", "/v1/staff/{id}", path, None, 200),
        ("GET", "/v1/staff/{id}", "/v1/staff/nobody", None, 404),
        ("POST", "/v1/staff/{id}/training", path + "/training", {"completed_on": "2026-01-02", "course": "c"}, 201),
        ("POST", "/v1/staff/{id}/training", path + "/training", {"completed_on": "2026-01-02", "course": "c"}, 409),
        ("POST", "/v1/staff/{id}/roles/{role}/end", path + "/roles/legal_handler/end", REASON, 200),
        ("POST", "/v1/staff/{id}/roles/{role}/end", path + "/roles/legal_handler/end", REASON, 404),
        ("POST", "/v1/staff/{id}/suspension", path + "/suspension", REASON, 201),
        ("POST", "/v1/staff/{id}/suspension", path + "/suspension", REASON, 409),
        ("POST", "/v1/staff/{id}/keys/{kid}/end", f"{path}/keys/{jwk['kid']}/end", REASON, 200),
        ("DELETE", "/v1/staff/me/token", "/v1/staff/me/token", None, 204),
        ("GET", "/v1/staff/me", "/v1/staff/me", None, 401),
    ):
        headers = boss.headers(method, asked, boss.token_text)

        def send(method: str = method, asked: str = asked, headers: Any = headers, body: Any = body) -> Any:
            return requests.request(method, running.gateway.url + asked, headers=headers, json=body, timeout=30)

        response = await asyncio.to_thread(send)
        boss.nonce = response.headers.get("DPoP-Nonce", boss.nonce)
        assert response.status_code == status, (asked, response.text)
        schema[template][method].validate_response(response)


BAD: list[tuple[str, str, Any, int]] = [
    ("no body", "training", None, 415),
    ("a list", "training", [], 400),
    ("nothing in it", "training", {}, 400),
    ("one member less", "training", {"course": "c"}, 400),
    ("one member more", "training", {"completed_on": "2026-01-01", "course": "c", "staff": "x"}, 400),
    ("a number for a day", "training", {"completed_on": 20260101, "course": "c"}, 400),
    ("no day", "training", {"completed_on": "2026-02-30", "course": "c"}, 400),
    ("a day long ago", "training", {"completed_on": "0001-01-01", "course": "c"}, 400),
    ("a day to come", "training", {"completed_on": "2090-01-01", "course": "c"}, 409),
    ("no course", "training", {"completed_on": "2026-01-01", "course": ""}, 400),
    ("a course of lines", "training", {"completed_on": "2026-01-01", "course": "a\nb"}, 400),
    ("a course with a NUL", "training", {"completed_on": "2026-01-01", "course": "a\x00"}, 400),
    ("a course too long", "training", {"completed_on": "2026-01-01", "course": "c" * 201}, 400),
    ("no reason", "suspension", {"reason": ""}, 400),
    ("a reason that is none", "suspension", {"reason": None}, 400),
    ("a reason too long", "suspension", {"reason": "r" * 70_000}, 413),
    ("no such role", "roles/root/end", REASON, 404),
    ("another's role", "roles/noc/end", REASON, 404),
    ("a key with a NUL", "keys/a%00/end", REASON, 404),
    ("no such key", "keys/none/end", REASON, 404),
]


async def test_bodies_of_every_shape(world: World) -> None:
    boss = world.people[StaffRole.OPERATOR]
    for name, what, body, status in BAD:
        answer = await boss.ask("POST", f"/v1/staff/{HANDLER}/{what}", json=body)
        assert (name, answer.status) == (name, status), answer.body
        assert answer.code
    for staff_id in ("%00", "a%00b", "A", "%2e%2e", "a" * 64, "nobody", "%ff"):
        answer = await boss.ask("POST", f"/v1/staff/{staff_id}/suspension", json=REASON)
        assert (staff_id, answer.status in (400, 404)) == (staff_id, True), answer.body
    assert (await boss.ask("GET", "/v1/staff?all=1")).status == 400
    assert (await boss.ask("GET", "/v1/staff", data=b"x")).status == 415


async def test_nobody_records_their_own_training(world: World) -> None:
    for role in LOOKS:
        who = world.people[role]
        body = {"completed_on": today().isoformat(), "course": "CPNI, again"}
        answer = await who.ask("POST", f"/v1/staff/{who.staff_id}/training", json=body)
        assert (answer.status, answer.code) == (409, "conflict")
