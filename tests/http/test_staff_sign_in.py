"""Staff sign in: the provider's ID token for one of ours, over real sockets; what is refused, and what is on record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from proxy.ledger.model import Kind
from proxy.oauth import staffprovider
from proxy.staff.model import StaffRole, anniversary
from schema.roles import Role
from tests.conftest import Database
from tests.support.gate import QUESTION, Gate, gate
from tests.support.oauth import REMOVE, new_key, proof
from tests.support.oidc import Own, own, process
from tests.support.oidccases import FOREIGN, ROWS
from tests.support.operators import today
from tests.support.staff import Member, exchange_form, member, operator, person, signed_in, subject_of

HANDLER = "handler@carrier.example"
OFFICER = "privacy@carrier.example"


@dataclass
class World:
    """A gateway, the provider of its staff, and an aggregator of nothing else."""

    gate: Gate
    provider: Own

    async def handler(self, *, trained_on: date | None = None) -> Member:
        return await member(self.gate, self.provider, HANDLER, StaffRole.LEGAL_HANDLER, trained_on=trained_on)

    async def last(self, kind: Kind) -> Any:
        entries = await self.gate.entries(kind)
        assert entries, f"no entry {kind}"
        return entries[-1]

    async def refused(self, who: Member, /, **form: Any) -> str:
        """Exchange, and be refused with an entry; return what was said."""
        before = len(await self.gate.entries(Kind.TOKEN_REFUSED))
        status, body = await who.exchange(**form)
        assert status == 400, body
        assert "access_token" not in body
        entries = await self.gate.entries(Kind.TOKEN_REFUSED)
        assert len(entries) == before + 1
        assert entries[-1].outcome["error"] == body["error"]
        return f"{entries[-1].outcome['reason']}: {body['error_description']}"


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with own(tmp_path) as provider, gate(database, **provider.settings()) as running:
        yield World(running, provider)


async def post(who: Member, form: dict[str, str], **headers: str) -> tuple[int, dict[str, Any]]:
    """Post any form with a good proof of the member's key."""
    for _ in range(2):
        shown = {"DPoP": proof(who.key, "POST", who.issuer + "/oauth/token", nonce=who.nonce), **headers}
        async with who.http.post(who.base + "/oauth/token", data=form, headers=shown) as response:
            who.nonce = response.headers.get("DPoP-Nonce", who.nonce)
            status, body = response.status, json.loads(await response.text())
        if body.get("error") != "use_dpop_nonce":
            break
    return status, body


async def test_with_a_provider_as_they_are(database: Database, tmp_path: Path) -> None:
    """oidc-provider-mock in its own process, over TLS, by an authorization code: a token, and what it is good for."""
    with process(tmp_path) as provider:
        async with gate(database, **provider.settings()) as running:
            where = Own(provider.issuer, provider.ca)
            await running.registry.add_staff(running.operator, person(HANDLER, where), StaffRole.LEGAL_HANDLER)
            await provider.put(subject_of(HANDLER), StaffRole.LEGAL_HANDLER, StaffRole.PRIVACY_OFFICER)
            key = new_key()
            text = await provider.id_token(subject_of(HANDLER), key.thumbprint)
            who = Member(running.http, running.gateway.url, running.config.issuer, HANDLER, text, key)
            status, body = await who.exchange()
            assert status == 200, body
            assert body["token_type"] == "DPoP"
            assert body["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
            assert body["authorization_details"] == [{"type": "staff", "roles": ["legal_handler"]}]
            assert 295 <= body["expires_in"] <= 300
            answer = await who.ask("GET", "/v1/staff/me")
            assert answer.status == 200
            assert answer.json["granted"] == ["legal_handler"]
            async with running.http.get(running.gateway.url + "/.well-known/oauth-authorization-server") as response:
                said = await response.json()
            assert said["tollgate_staff_sign_in"] == {
                "issuer": provider.issuer,
                "client_id": "tollgate",
                "scope": "openid",
            }
            assert said["grant_types_supported"][1] == "urn:ietf:params:oauth:grant-type:token-exchange"


async def test_the_id_token_may_come_again_and_each_token_is_on_record(world: World) -> None:
    who = await world.handler()
    for _ in range(2):
        status, body = await who.exchange()
        assert status == 200, body
    first, second = await world.gate.entries(Kind.TOKEN_ISSUED)
    assert first.actor["staff"] == second.actor["staff"] == HANDLER
    assert first.actor["token_id"] != second.actor["token_id"]
    assert first.actor["key_thumbprint"] == who.key.thumbprint
    assert first.outcome["authorization_details"] == [{"type": "staff", "roles": ["legal_handler"]}]
    written = json.dumps([entry.as_json() for entry in await world.gate.ledger.read(limit=1000)])
    assert who.id_token not in written
    assert body["access_token"] not in written


async def test_a_stolen_id_token_is_worth_nothing(world: World) -> None:
    who = await world.handler()
    assert (await who.exchange())[0] == 200
    thief = Member(who.http, who.base, who.issuer, HANDLER, who.id_token, new_key())
    status, body = await thief.exchange()
    assert (status, body["error"]) == (400, "invalid_request")
    assert body["error_description"] == "the subject token is not taken"
    assert await world.gate.entries(Kind.TOKEN_REFUSED) == []  # counted: who asks has proven nothing


async def test_malformed_id_tokens_are_refused_alike_and_never_a_fault(world: World) -> None:
    who = await world.handler()
    good = who.id_token
    assert (await who.exchange())[0] == 200
    for row in ROWS:
        who.id_token = row.make(world.provider, subject_of(HANDLER), who.key.thumbprint)
        status, body = await who.exchange()
        assert (row.name, status) == (row.name, 400)
        assert body == {"error": "invalid_request", "error_description": "the subject token is not taken"}, row.name
    who.id_token = good
    assert (await who.exchange())[0] == 200
    assert await world.gate.entries(Kind.TOKEN_REFUSED) == []


DETAILS = "invalid_authorization_details"
FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("no subject", {"subject_token": REMOVE}, "invalid_request"),
    ("no kind", {"subject_token_type": REMOVE}, "invalid_request"),
    ("another kind", {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "invalid_request"),
    ("an actor", {"actor_token": "x"}, "invalid_request"),
    ("an actor's kind", {"actor_token_type": "x"}, "invalid_request"),
    ("a secret", {"client_secret": "x"}, "invalid_request"),
    ("an assertion", {"client_assertion": "x"}, "invalid_request"),
    ("another client", {"client_id": "another"}, "invalid_request"),
    ("a refresh token wanted", {"requested_token_type": "urn:x"}, "invalid_request"),
    ("another grant", {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}, "unsupported_grant_type"),
    ("another scope", {"scope": "cdr.billing"}, "invalid_scope"),
    ("another resource", {"resource": "https://other.example"}, "invalid_target"),
    ("another audience", {"audience": "https://other.example"}, "invalid_target"),
    ("no details", {"authorization_details": "x"}, DETAILS),
    ("a carrier's details", {"authorization_details": '[{"type":"cdr_billing"}]'}, DETAILS),
    ("an unknown role", {"authorization_details": '[{"type":"staff","roles":["root"]}]'}, DETAILS),
    ("no roles", {"authorization_details": '[{"type":"staff","roles":[]}]'}, DETAILS),
    ("a role twice", {"authorization_details": '[{"type":"staff","roles":["noc","noc"]}]'}, DETAILS),
    ("a role not theirs", {"authorization_details": '[{"type":"staff","roles":["noc"]}]'}, DETAILS),
    ("more than roles", {"authorization_details": '[{"type":"staff","case":"C"}]'}, DETAILS),
    ("two details", {"authorization_details": '[{"type":"staff"},{"type":"staff"}]'}, DETAILS),
    ("deep details", {"authorization_details": "[" * 900 + "]" * 900}, DETAILS),
]  # fmt: skip


async def test_forms_that_are_not_taken(world: World) -> None:
    who = await world.handler()
    for name, change, error in FORMS:
        status, body = await post(who, exchange_form(who.id_token, **change))
        assert (name, status, body["error"]) == (name, 400, error)
    right = {"scope": "staff", "resource": who.issuer, "audience": who.issuer, "client_id": "tollgate"}
    assert (await who.exchange(**right, authorization_details='[{"type":"staff"}]'))[0] == 200


async def test_proofs_that_are_not_taken(world: World) -> None:
    who = await world.handler()
    assert (await who.exchange())[0] == 200
    url = who.issuer + "/oauth/token"
    once = proof(who.key, "POST", url, nonce=who.nonce)

    async def send(*proofs: str) -> tuple[int, str]:
        headers = [("DPoP", text) for text in proofs]
        async with who.http.post(who.base + "/oauth/token", data=exchange_form(who.id_token), headers=headers) as r:
            return r.status, json.loads(await r.text())["error"] if r.status != 200 else ""

    assert await send() == (400, "invalid_dpop_proof")
    assert await send(proof(who.key, "POST", url, nonce="x")) == (400, "use_dpop_nonce")
    assert await send(proof(who.key, "GET", url, nonce=who.nonce)) == (400, "invalid_dpop_proof")
    assert await send(proof(who.key, "POST", who.issuer, nonce=who.nonce)) == (400, "invalid_dpop_proof")
    assert await send(once) == (200, "")
    assert await send(once) == (400, "invalid_dpop_proof")  # a replay, counted and not entered
    assert await world.gate.entries(Kind.TOKEN_REFUSED) == []


async def test_who_may_not_is_told_why(world: World) -> None:
    running, provider = world.gate, world.provider
    unknown = signed_in(running, provider, "stranger@carrier.example", StaffRole.OPERATOR)
    assert "not in Tollgate's staff registry" in await world.refused(unknown)
    assert (await world.last(Kind.TOKEN_REFUSED)).actor["subject"] == "subject-of-stranger@carrier.example"

    # The same subject at another provider is another person.
    elsewhere = replace(person("elsewhere@carrier.example", provider), issuer="https://login.other.example")
    await running.registry.add_staff(running.operator, elsewhere, StaffRole.PRIVACY_OFFICER)
    unknown = signed_in(running, provider, "elsewhere@carrier.example", StaffRole.PRIVACY_OFFICER)
    assert (await world.refused(unknown)).startswith("staff.unknown: ")

    who = await world.handler()
    nowhere = signed_in(running, provider, HANDLER)
    assert (await world.refused(nowhere)).startswith("staff.group: ")
    elsewhere = signed_in(running, provider, HANDLER, StaffRole.OPERATOR, StaffRole.NOC)
    assert (await world.refused(elsewhere)).startswith("staff.role: ")

    other = await operator(running, provider).ask(
        "POST", f"/v1/staff/{HANDLER}/suspension", json={"reason": "as agreed"}
    )
    assert other.status == 201, other.body
    assert await world.refused(who) == "staff.suspended: the person is suspended"


async def test_both_the_group_and_the_role(world: World) -> None:
    """The group at the provider gives nothing without the role here, nor the role without the group."""
    await member(world.gate, world.provider, OFFICER, StaffRole.PRIVACY_OFFICER, StaffRole.NOC)
    only = signed_in(world.gate, world.provider, OFFICER, StaffRole.NOC, StaffRole.LEGAL_APPROVER)
    status, body = await only.exchange()
    assert (status, body["authorization_details"]) == (200, [{"type": "staff", "roles": ["noc"]}])
    both = signed_in(world.gate, world.provider, OFFICER, *StaffRole)
    status, body = await both.exchange(authorization_details='[{"type":"staff","roles":["privacy_officer"]}]')
    assert (status, body["authorization_details"]) == (200, [{"type": "staff", "roles": ["privacy_officer"]}])


@pytest.mark.parametrize(
    ("days_past", "refused"), [(-1, ""), (0, ""), (1, "staff.training_overdue")], ids=["before", "on", "after"]
)
async def test_the_day_that_training_runs_out(world: World, days_past: int, refused: str) -> None:
    """47 CFR 64.2009(b): yearly. The anniversary is the last day."""
    day = today() - timedelta(days=days_past)
    trained = day.replace(year=day.year - 1) if (day.month, day.day) != (2, 29) else date(day.year - 1, 2, 28)
    who = await world.handler(trained_on=trained)
    if refused:
        assert await world.refused(who) == (
            f"{refused}: training is overdue: the last one is more than a year ago (47 CFR 64.2009(b))"
        )
    else:
        assert anniversary(trained) >= today()
        assert (await who.exchange())[0] == 200


async def test_nobody_without_training_since_the_day_of_hire(world: World) -> None:
    running = world.gate
    hired = person(HANDLER, world.provider, hired_on=today())
    await running.registry.add_staff(
        running.operator, hired, StaffRole.LEGAL_HANDLER, trained_on=today() - timedelta(days=1)
    )
    who = signed_in(running, world.provider, HANDLER, StaffRole.LEGAL_HANDLER)
    assert (await world.refused(who)).startswith("staff.training_never: ")
    recorded = await operator(running, world.provider).ask(
        "POST", f"/v1/staff/{HANDLER}/training", json={"completed_on": today().isoformat(), "course": "CPNI at hire"}
    )
    assert recorded.status == 201, recorded.body
    assert (await who.exchange())[0] == 200


async def test_a_suspension_kills_a_live_token_at_once(world: World) -> None:
    who, boss = await world.handler(), operator(world.gate, world.provider)
    assert (await who.ask("GET", "/v1/staff/me")).status == 200
    asked = await boss.ask("POST", f"/v1/staff/{HANDLER}/suspension", json={"reason": "as agreed"})
    assert asked.status == 201
    began = time.monotonic()
    answer = await who.ask("GET", "/v1/staff/me")
    assert time.monotonic() - began < 1
    assert (answer.status, answer.code) == (401, "credentials")
    assert answer.json["detail"] == "the person is suspended"
    entry = await world.last(Kind.ACCESS_DENIED)
    assert (entry.actor["staff"], entry.request["reason"]) == (HANDLER, "staff.suspended")


async def test_a_lost_role_and_lapsed_training_kill_a_live_token(world: World, owner: asyncpg.Connection) -> None:
    who, boss = await world.handler(), operator(world.gate, world.provider)
    assert (await who.ask("GET", "/v1/staff/me")).status == 200
    await owner.execute("UPDATE tollgate.staff_training SET completed_on = '2021-01-01' WHERE staff_id = $1", HANDLER)
    answer = await who.ask("GET", "/v1/staff/me")
    assert (answer.status, answer.json["detail"].partition(":")[0]) == (401, "training is overdue")
    await owner.execute("UPDATE tollgate.staff_training SET completed_on = $2 WHERE staff_id = $1", HANDLER, today())
    await owner.execute("SET session_replication_role = replica")  # past every trigger
    future = "INSERT INTO tollgate.staff_training (staff_id, completed_on, course) VALUES ($1, '2090-01-01', 'c')"
    await owner.execute(future, HANDLER)
    assert (await who.ask("GET", "/v1/staff/me")).status == 200  # one that has not been changes nothing
    asked = await boss.ask("POST", f"/v1/staff/{HANDLER}/roles/legal_handler/end", json={"reason": "moved"})
    assert (asked.status, asked.json["roles"]) == (200, [])
    answer = await who.ask("GET", "/v1/staff/me")
    assert (answer.status, answer.json["error"]) == (401, "invalid_token")
    assert (await world.last(Kind.ACCESS_DENIED)).request["reason"] == "staff.role"


async def test_a_role_that_is_missing_is_a_denial_on_record(world: World) -> None:
    who = await world.handler()
    answer = await who.ask("GET", "/v1/staff")
    assert (answer.status, answer.code, answer.json["reason"]) == (403, "denied", "staff.role")
    entry = await world.last(Kind.ACCESS_DENIED)
    assert entry.actor["staff"] == HANDLER
    assert entry.request == {"decision": "deny", "reason": "staff.role", "roles": ["operator", "privacy_officer"]}


async def test_carriers_tokens_and_staffs_are_not_taken_for_each_other(world: World) -> None:
    who, peer = await world.handler(), await world.gate.peer("carrier-a")
    theirs, ours = await peer.token(), await who.token()
    who.token_text = theirs
    own_key, who.key = who.key, peer.dpop
    answer = await who.ask("GET", "/v1/staff/me")
    assert (answer.status, answer.json["error"]) == (401, "invalid_token")
    peer.dpop = own_key
    status, text, _ = await peer.get(QUESTION, ours)
    assert (status, json.loads(text)["error"]) == (401, "invalid_token")
    status, _, _ = await peer.post("/oauth/introspect", peer.own_form(token=ours))
    assert status == 200
    _, body, _ = await peer.post("/oauth/introspect", peer.own_form(token=ours))
    assert body == {"active": False}


async def test_a_stolen_token_is_worth_nothing_and_logout_ends_it(world: World) -> None:
    who = await world.handler()
    token = await who.token()
    thief = Member(who.http, who.base, who.issuer, HANDLER, "", new_key(), who.nonce, token)
    assert (await thief.ask("GET", "/v1/staff/me")).status == 401
    async with who.http.get(who.base + "/v1/staff/me", headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 401
    headers = who.headers("GET", "/v1/staff/me", token)
    for status in (200, 401):  # the same proof again
        async with who.http.get(who.base + "/v1/staff/me", headers=headers) as response:
            assert response.status == status
    assert (await who.ask("DELETE", "/v1/staff/me/token")).status == 204
    assert (await who.ask("GET", "/v1/staff/me")).status == 401
    assert (await world.last(Kind.TOKEN_REVOKED)).actor["staff"] == HANDLER


async def test_requests_of_a_minute(database: Database, tmp_path: Path) -> None:
    async with own(tmp_path) as provider, gate(database, **provider.settings(), staff_requests_per_minute=3) as running:
        who = await member(running, provider, HANDLER, StaffRole.LEGAL_HANDLER)
        if (left := 60 - time.time() % 60) < 5:  # not over the minute's end
            await asyncio.sleep(left)
        statuses = [(await who.ask("GET", "/v1/staff/me")).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        stranger = signed_in(running, provider, "stranger@carrier.example")
        refused = [(await stranger.exchange())[0] for _ in range(5)]
        assert refused == [400, 400, 400, 429, 429]
        entries = [e for e in await running.entries(Kind.TOKEN_REFUSED) if "subject" in e.actor]
        assert len(entries) == 3


async def test_without_the_log_nothing_is_given(world: World, owner: asyncpg.Connection) -> None:
    who = await world.handler()
    await owner.execute("ALTER FUNCTION tollgate.log_append RENAME TO log_append_away")
    try:
        status, body = await who.exchange()
    finally:
        await owner.execute("ALTER FUNCTION tollgate.log_append_away RENAME TO log_append")
    assert (status, "access_token" in body) == (503, False)


async def test_where_nobody_signs_in_nothing_is_exchanged(database: Database, tmp_path: Path) -> None:
    async with gate(database) as running, own(tmp_path) as provider:
        who = signed_in(running, provider, HANDLER, StaffRole.LEGAL_HANDLER)
        status, body = await who.exchange()
        assert (status, body["error"]) == (400, "unsupported_grant_type")
        async with running.http.get(running.gateway.url + "/v1/staff") as response:
            assert response.status == 401


async def test_keys_that_change_at_the_provider(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    who, provider = await world.handler(), world.provider
    monkeypatch.setattr(staffprovider, "RETRY_S", 0.0)
    assert (await who.exchange())[0] == 200
    asked = len(provider.asked)
    for _ in range(3):  # the keys are kept
        assert (await who.exchange())[0] == 200
    for _ in range(3):  # whoever makes up keys does not make us ask
        who.id_token = provider.token(subject_of(HANDLER), who.key.thumbprint, key=FOREIGN)
        assert (await who.exchange())[0] == 400
    assert len(provider.asked) == asked
    provider.keys = [new_key()]
    new = provider.token(subject_of(HANDLER), who.key.thumbprint, (StaffRole.LEGAL_HANDLER,))
    old, who.id_token = who.id_token, new
    monkeypatch.setattr(staffprovider, "AGAIN_S", 0.0)
    assert (await who.exchange())[0] == 200
    who.id_token = old
    assert (await who.exchange())[0] == 400


def _keys(provider: Own) -> bytes:
    return json.dumps({"keys": [key.public for key in provider.keys]}).encode()


def _metadata(provider: Own, **change: str) -> Any:
    said = {"issuer": provider.issuer, "jwks_uri": provider.issuer + "/jwks"} | change
    return (200, json.dumps(said).encode(), {})


# What is wrong, and the pages that say so; all else of the provider is right, and the right keys are to be had.
BROKEN: list[tuple[str, Callable[[Own, str], dict[str, Any]]]] = [
    ("away", lambda own, _: {"/jwks": (503, _keys(own), {})}),
    ("no JSON", lambda own, _: {"/jwks": (200, b"keys", {})}),
    ("no set", lambda own, _: {"/jwks": (200, b'{"keys":7}', {})}),
    ("no keys", lambda own, _: {"/jwks": (200, b"{}", {})}),
    ("doubled keys", lambda own, _: {"/jwks": (200, b'{"keys":[],' + _keys(own)[1:], {})}),
    ("too large", lambda own, _: {"/jwks": (200, _keys(own) + b" " * 300_000, {})}),
    ("elsewhere", lambda own, _: {"/jwks": (302, b"", {"Location": "/other"}), "/other": (200, _keys(own), {})}),
    ("another issuer", lambda own, _: {staffprovider.WELL_KNOWN: _metadata(own, issuer="https://login.other.example")}),
    ("keys in the clear", lambda own, plain: {staffprovider.WELL_KNOWN: _metadata(own, jwks_uri=plain)}),
    ("no JSON at all", lambda own, _: {staffprovider.WELL_KNOWN: (200, b"\xff", {})}),
]


@pytest.mark.parametrize("pages", [make for _, make in BROKEN], ids=[name for name, _ in BROKEN])
async def test_a_provider_that_is_not_one(
    world: World, monkeypatch: pytest.MonkeyPatch, pages: Callable[[Own, str], dict[str, Any]]
) -> None:
    who, provider = await world.handler(), world.provider

    async def in_the_clear(_: web.Request) -> web.Response:
        return web.Response(body=_keys(provider))

    app = web.Application()
    app.router.add_get("/jwks", in_the_clear)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    wrong = pages(provider, f"http://127.0.0.1:{runner.addresses[0][1]}/jwks")
    try:
        monkeypatch.setattr(staffprovider, "RETRY_S", 1000.0)
        provider.pages.update(wrong)
        status, body = await who.exchange()
        assert (status, body["error"]) == (503, "temporarily_unavailable")
        provider.pages.clear()
        assert (await who.exchange())[0] == 503  # it is asked again only after a while
        monkeypatch.setattr(staffprovider, "RETRY_S", 0.0)
        assert (await who.exchange())[0] == 200
        provider.pages.update(wrong)  # what is known is enough for a while
        assert (await who.exchange())[0] == 200
    finally:
        await runner.cleanup()


async def test_a_provider_under_another_certificate_is_none(database: Database, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with own(tmp_path) as provider, own(tmp_path / "other") as other:
        settings = provider.settings() | {"oidc_ca": str(other.ca)}
        async with gate(database, **settings) as running:
            who = await member(running, provider, HANDLER, StaffRole.LEGAL_HANDLER)
            assert (await who.exchange())[0] == 503
            assert provider.asked == []


async def test_the_role_of_the_server_reads_staff_and_changes_none(database: Database) -> None:
    conn = await asyncpg.connect(database.config.role_url(Role.OAUTH))
    try:
        for statement in (
            "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('x', 'operator')",
            "UPDATE tollgate.staff_suspension SET lifted_at = now()",
            "INSERT INTO tollgate.staff_training (staff_id, completed_on, course) VALUES ('x', '2026-01-01', 'c')",
            "DELETE FROM tollgate.staff",
            "SELECT * FROM tollgate.staff_key",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()
