"""The authorization server over real sockets: tokens, single use, revocation, introspection, what the log says."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import json
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import asyncpg
import jwt
import pytest

from keys.signing import SigningKeys
from proxy.ledger.model import Kind
from proxy.oauth import admission
from proxy.oauth.admission import Admissions
from proxy.oauth.clock import DatabaseClock
from proxy.peers import Peers
from proxy.registry.model import Agreement, OcnOwnership
from schema.roles import Role
from tests.support.oauth import REMOVE, assertion, merged, new_key, proof, sign, token_form
from tests.support.oauthcases import API_PROOFS, ASSERTIONS, NONCES, PROOFS, Maker, Prover
from tests.support.oauthworld import World, world_fixture  # noqa: F401 - a fixture

TODAY = datetime.now(UTC).date()


async def test_a_token_and_its_use(world: World) -> None:
    peer = await world.peer()
    status, body = await peer.ask()
    assert status == 200
    assert body["token_type"] == "DPoP"
    assert body["scope"] == "cdr.billing"
    assert 0 < body["expires_in"] <= 300
    assert body["authorization_details"] == [
        {
            "type": "cdr_billing",
            "ocns": ["123A", "123B"],
            "directions": ["ingress", "egress"],
            "classes": ["timing", "parties", "routing", "ingress_leg", "egress_leg"],
        }
    ]
    status, text, headers = await peer.get("/v1/echo?from=x", body["access_token"])
    assert status == 200
    assert headers["DPoP-Nonce"]
    grant = json.loads(text)
    assert grant["client_id"] == "billing-a"
    assert grant["carrier_id"] == "carrier-a"
    assert grant["ocns"] == ["123A", "123B"]
    assert grant["purpose"] == "billing"
    assert grant["agreement"] == "ICA-A"
    assert grant["jkt"] == peer.dpop.thumbprint
    assert grant["address"] == "127.0.0.1"
    assert grant["ownership"] == [["123A", "2020-01-01", None], ["123B", "2024-01-01", None]]


async def test_the_token_is_an_rfc_9068_one(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    header = jwt.get_unverified_header(token)
    published = await world.json("/.well-known/jwks.json")
    jwk = next(k for k in published["keys"] if k["kid"] == header["kid"])
    assert header["typ"] == "at+jwt"
    assert "d" not in jwk
    claims = jwt.decode(token, jwt.PyJWK(jwk), algorithms=["ES256"], audience=world.issuer, issuer=world.issuer)
    assert claims["sub"] == claims["client_id"] == "billing-a"
    assert claims["aud"] == world.issuer
    assert claims["exp"] - claims["iat"] == 300
    assert claims["cnf"] == {"jkt": peer.dpop.thumbprint}
    assert claims["scope"] == "cdr.billing"


async def test_metadata(world: World) -> None:
    found = await world.json("/.well-known/oauth-authorization-server")
    assert found["issuer"] == world.issuer
    assert found["token_endpoint"] == world.issuer + "/oauth/token"
    assert found["grant_types_supported"] == ["client_credentials"]
    assert found["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert set(found["dpop_signing_alg_values_supported"]) == {"ES256", "EdDSA", "PS256"}
    assert found["authorization_details_types_supported"] == ["cdr_billing"]


async def test_every_algorithm(world: World) -> None:
    for alg in ("ES256", "EdDSA", "PS256"):
        own = new_key(alg)
        for other in ("ES256", "EdDSA", "PS256"):
            if other == "ES256":
                peer = await world.peer(f"billing-{alg.lower()}", key=own)
            peer.dpop = new_key(other)
            assert (await peer.get("/v1/echo", await peer.token()))[0] == 200, (alg, other)


# --- the tables, over sockets ---------------------------------------------------------------------------------------


async def test_no_malformed_assertion_gets_a_token(world: World) -> None:
    peer = await world.peer()
    await peer.token()
    maker = Maker(peer.key, new_key(), peer.client_id, world.issuer)
    answers = set()
    for row in ASSERTIONS:
        shown = proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)
        status, body, headers = await peer.post("/oauth/token", token_form(row.make(maker)), {"DPoP": shown})
        assert status == 401, row.name
        assert headers["Cache-Control"] == "no-store", row.name
        answers.add(json.dumps(body, sort_keys=True))
    # A16: an unknown client, a wrong signature and everything else look alike.
    assert answers == {json.dumps({"error": "invalid_client", "error_description": "client authentication failed"})}
    for path in ("/oauth/revoke", "/oauth/introspect"):
        for row in ASSERTIONS[::7]:
            form = {**token_form(row.make(maker)), "token": "x"}
            assert (await peer.post(path, form))[0] == 401, row.name
    assert await world.entries(Kind.TOKEN_REFUSED) == []  # nobody outside can fill the log
    assert sum(world.gateways[0].refusals.values()) >= len(ASSERTIONS)


async def test_no_malformed_proof_gets_a_token(world: World) -> None:
    peer = await world.peer()
    await peer.token()
    for row in [*PROOFS, *NONCES]:
        prover = Prover(peer.dpop, new_key(), "POST", world.issuer + "/oauth/token", peer.nonce or "", None)
        text = row.make(prover)
        form = token_form(assertion(peer.key, peer.client_id, world.issuer))
        status, body, headers = await peer.post("/oauth/token", form, {"DPoP": text} if _sendable(text) else {})
        assert status == 400, (row.name, status)
        wanted = "use_dpop_nonce" if row in NONCES else "invalid_dpop_proof"
        assert body.get("error") == wanted or len(text) > 8000, (row.name, body)
        assert headers.get("DPoP-Nonce") or len(text) > 8000, row.name
    assert (await peer.ask())[0] == 200


async def test_no_malformed_proof_opens_the_api(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    for row in [*PROOFS, *API_PROOFS, *NONCES]:
        prover = Prover(peer.dpop, new_key(), "GET", world.issuer + "/v1/echo", peer.nonce or "", token)
        text = row.make(prover)
        headers = {"Authorization": f"DPoP {token}", **({"DPoP": text} if _sendable(text) else {})}
        async with world.session.get(world.base + "/v1/echo", headers=headers) as response:
            if len(text) > 8000:
                assert response.status == 400, row.name
                continue
            assert response.status == 401, (row.name, response.status)
            error = "use_dpop_nonce" if row in NONCES else "invalid_"
            assert error in response.headers["WWW-Authenticate"], row.name
            assert response.headers["WWW-Authenticate"].startswith("DPoP "), row.name
            assert response.headers["DPoP-Nonce"], row.name
    assert (await peer.get("/v1/echo", token))[0] == 200


def _sendable(text: str) -> bool:
    """A JWS with a blank or of nothing but dots still goes into a header; text outside ASCII does not occur."""
    return text.isascii()


# --- the form -------------------------------------------------------------------------------------------------------

FORM = "application/x-www-form-urlencoded"


REFUSED_FORMS: list[tuple[dict[str, str], int, str]] = [
    ({"grant_type": "authorization_code"}, 400, "unsupported_grant_type"),
    ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ({"grant_type": "refresh_token"}, 400, "unsupported_grant_type"),
    ({"grant_type": "CLIENT_CREDENTIALS"}, 400, "unsupported_grant_type"),
    ({"grant_type": ""}, 400, "invalid_request"),
    ({"client_secret": "x"}, 401, "invalid_client"),
    ({"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}, 401, "invalid_client"),
    ({"client_assertion_type": ""}, 401, "invalid_client"),
    ({"client_assertion": ""}, 401, "invalid_client"),
    ({"client_id": "billing-b"}, 401, "invalid_client"),
    ({"scope": "cdr.legal"}, 400, "invalid_scope"),
    ({"scope": "cdr.billing cdr.legal"}, 400, "invalid_scope"),
    ({"scope": "CDR.BILLING"}, 400, "invalid_scope"),
    ({"resource": "https://other.example"}, 400, "invalid_target"),
    ({"authorization_details": "x"}, 400, "invalid_authorization_details"),
    ({"authorization_details": '[{"type":"cdr_legal"}]'}, 400, "invalid_authorization_details"),
    ({"authorization_details": '[{"type":"cdr_billing","ocns":["456B"]}]'}, 400, "invalid_authorization_details"),
    ({"scope": "cdr\0billing"}, 400, "invalid_request"),
]


async def test_a_form_that_is_refused(world: World) -> None:
    peer = await world.peer()
    await peer.token()
    for change, status, error in REFUSED_FORMS:
        got, body = await peer.ask(**change)
        assert (got, body["error"]) == (status, error), change
        assert body.keys() == {"error", "error_description"}


async def test_a_form_in_any_other_form(world: World) -> None:
    peer = await world.peer()
    await peer.token()
    good = urlencode(token_form(assertion(peer.key, peer.client_id, world.issuer)))
    proofs = {"DPoP": proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)}
    cases: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("query", "?grant_type=client_credentials", good.encode(), {}),
        ("json", "", json.dumps({"grant_type": "client_credentials"}).encode(), {"Content-Type": "application/json"}),
        ("no type", "", good.encode(), {"Content-Type": "application/octet-stream"}),
        ("multipart", "", good.encode(), {"Content-Type": "multipart/form-data; boundary=x"}),
        ("charset", "", good.encode(), {"Content-Type": FORM + "; charset=utf-16"}),
        ("gzip", "", gzip.compress(good.encode()), {"Content-Encoding": "gzip"}),
        ("not gzip", "", good.encode(), {"Content-Encoding": "deflate"}),
        ("doubled", "", (good + "&grant_type=client_credentials").encode(), {}),
        ("doubled, empty", "", (good + "&scope=").encode(), {}),
        ("doubled, not ours", "", (good + "&x=1&x=2").encode(), {}),
        ("doubled, escaped", "", (good + "&%67rant_type=client_credentials").encode(), {}),
        ("bad escape", "", (good + "&x=%zz").encode(), {}),
        ("not UTF-8", "", (good + "&x=%ff").encode(), {}),
        ("NUL", "", (good + "&x=%00").encode(), {}),
        ("no name", "", (good + "&=x").encode(), {}),
        ("many", "", (good + "".join(f"&x{i}=1" for i in range(40))).encode(), {}),
        ("too large", "", good.encode() + b"&x=" + b"y" * 70_000, {}),
        ("empty", "", b"", {}),
    ]
    for name, query, body, headers in cases:
        async with world.session.post(
            world.base + "/oauth/token" + query,
            data=body,
            headers={"Content-Type": FORM, **proofs, **headers},
        ) as response:
            assert response.status == 400, name
            assert "access_token" not in await response.text(), name
    for scheme in ("Basic YTpi", "Bearer x", "DPoP x"):
        status, body, answer = await peer.post(
            "/oauth/token", dict(parse_qsl(good)), {**proofs, "Authorization": scheme}
        )
        assert (status, body["error"]) == (401, "invalid_client")
        assert ("WWW-Authenticate" in answer) == scheme.startswith("Basic")
    async with world.session.get(world.base + "/oauth/token?" + good) as response:
        assert response.status == 405
    # What all of this used up: nothing. The very same request is good.
    async with world.session.post(
        world.base + "/oauth/token", data=good.encode(), headers={"Content-Type": FORM, **proofs}
    ) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Cache-Control"] == "no-store"


async def test_a_proof_is_one_header(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    for values, error in (([], "invalid_dpop_proof"), ([0, 0], "invalid_dpop_proof")):
        texts = [proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce) for _ in values]
        form = token_form(assertion(peer.key, peer.client_id, world.issuer))
        headers = [("DPoP", text) for text in texts]
        async with world.session.post(world.base + "/oauth/token", data=form, headers=headers) as response:
            assert (response.status, (await response.json())["error"]) == (400, error)
        shown = [
            ("DPoP", proof(peer.dpop, "GET", world.issuer + "/v1/echo", nonce=peer.nonce, token=token)) for _ in values
        ]
        async with world.session.get(
            world.base + "/v1/echo", headers=[*shown, ("Authorization", f"DPoP {token}")]
        ) as response:
            assert response.status == 401
            assert error in response.headers["WWW-Authenticate"]


# --- narrowing ------------------------------------------------------------------------------------------------------


async def test_what_is_granted_is_what_was_asked(world: World) -> None:
    peer = await world.peer()
    asked = [
        {
            "type": "cdr_billing",
            "ocns": ["123B"],
            "directions": ["ingress"],
            "classes": ["timing", "ingress_leg"],
            "window": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00+00:00"},
        }
    ]
    status, body = await peer.ask(authorization_details=json.dumps(asked))
    assert status == 200
    granted = body["authorization_details"]
    assert granted == [{**asked[0], "window": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}]
    grant = json.loads((await peer.get("/v1/echo", body["access_token"]))[1])
    assert grant["ocns"] == ["123B"]
    assert grant["classes"] == ["ingress_leg", "timing"]
    assert grant["directions"] == ["ingress"]
    assert grant["window"] == [1767225600000000, 1769904000000000]
    assert [o[0] for o in grant["ownership"]] == ["123B"]


async def test_ownership_is_what_it_is_today(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    await world.registry.end_ocn(world.operator, "carrier-a", "123A", TODAY, "sold")
    grant = json.loads((await peer.get("/v1/echo", token))[1])
    assert grant["ocns"] == ["123B"]
    assert [o[0] for o in grant["ownership"]] == ["123B"]
    tomorrow = OcnOwnership("123C", "carrier-a", TODAY + timedelta(days=1))
    await world.registry.add_ocn(world.operator, tomorrow)
    assert (await peer.ask())[1]["authorization_details"][0]["ocns"] == ["123B"]
    await world.registry.end_ocn(world.operator, "carrier-a", "123B", TODAY, "sold")
    status, body = await peer.ask()
    assert (status, body["error"]) == (400, "unauthorized_client")


# --- single use, time, rotation -------------------------------------------------------------------------------------


async def test_an_assertion_is_good_once_on_every_gateway_and_after_a_restart(world: World) -> None:
    peer = await world.peer()
    await peer.token()
    second = await world.gateway()
    once = assertion(peer.key, peer.client_id, world.issuer)

    async def try_it(base: str) -> tuple[int, str]:
        shown = proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)
        form = token_form(once)
        async with world.session.post(base + "/oauth/token", data=form, headers={"DPoP": shown}) as response:
            return response.status, (await response.json()).get("error", "")

    both = await asyncio.gather(*(try_it(base) for base in (world.base, second.base) * 3))
    assert sorted(both) == [(200, "")] + [(401, "invalid_client")] * 5
    third = await world.gateway()
    assert await try_it(third.base) == (401, "invalid_client")


async def test_a_proof_is_good_once_on_every_gateway(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    second = await world.gateway()
    headers = peer.headers("GET", "/v1/echo", token)

    async def try_it(base: str) -> int:
        async with world.session.get(base + "/v1/echo", headers=headers) as response:
            return response.status

    both = await asyncio.gather(*(try_it(base) for base in (world.base, second.base) * 3))
    assert sorted(both) == [200] + [401] * 5
    assert second.refusals["proof.replay"] + world.gateways[0].refusals["proof.replay"] == 5
    form = token_form(assertion(peer.key, peer.client_id, world.issuer))
    shown = {"DPoP": proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)}
    assert (await peer.post("/oauth/token", form, shown))[0] == 200
    form = token_form(assertion(peer.key, peer.client_id, world.issuer))
    status, body, _ = await peer.post("/oauth/token", form, shown)
    assert (status, body["error"]) == (400, "invalid_dpop_proof")


async def test_what_is_stored_of_an_identifier_is_a_hash(world: World, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    await peer.token()
    form = token_form(assertion(peer.key, peer.client_id, world.issuer, claims={"jti": "known"}))
    shown = {"DPoP": proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)}
    before = await owner.fetchval("SELECT count(*) FROM tollgate.used_jti")
    assert (await peer.post("/oauth/token", form, shown))[0] == 200
    assert await owner.fetchval("SELECT count(*) FROM tollgate.used_jti") == before + 2
    # A signature that is not the client's stores nothing.
    bad = token_form(assertion(new_key(), peer.client_id, world.issuer, header={"kid": peer.key.kid}))
    assert (await peer.post("/oauth/token", bad, shown))[0] == 401
    assert await owner.fetchval("SELECT count(*) FROM tollgate.used_jti") == before + 2


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_clock_that_is_ahead(world: World, claim: str) -> None:
    peer = await world.peer()
    await peer.token()
    for ahead, status in ((10, 200), (60, 401), (70, 401)):
        text = assertion(peer.key, peer.client_id, world.issuer, claims={
            claim: int(time.time()) + ahead, "exp": int(time.time()) + 120})  # fmt: skip
        shown = {"DPoP": proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)}
        assert (await peer.post("/oauth/token", token_form(text), shown))[0] == status, ahead
    token = await peer.token()
    for ahead, status in ((10, 200), (60, 401)):
        claims = {"iat": int(time.time()) + ahead}
        assert (await peer.get("/v1/echo", token, claims=claims))[0] == status, ahead


async def test_a_signing_key_that_was_replaced_keeps_its_tokens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.oauth.signing.FRESH_S", 0.0)
    peer = await world.peer()
    old = await peer.token()
    signing = SigningKeys(world.database.config.keyring_dir)
    signing.rotate("token", keep_until=datetime.now(UTC) + timedelta(minutes=10))
    new = await peer.token()
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    assert (await peer.get("/v1/echo", old))[0] == 200
    assert (await peer.get("/v1/echo", new))[0] == 200
    assert len((await world.json("/.well-known/jwks.json"))["keys"]) == 2
    signing.rotate("token", keep_until=datetime.now(UTC) + timedelta(seconds=-1))
    assert (await peer.get("/v1/echo", new))[0] == 401


# --- what ends, ends at once ----------------------------------------------------------------------------------------


async def test_a_disabled_client_is_dead_at_once_and_everywhere(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    second = await world.gateway()
    assert (await peer.get("/v1/echo", token))[0] == 200
    await world.registry.disable_client(world.operator, "billing-a", "stolen")
    for base in (world.base, second.base):
        peer.base = base
        assert (await peer.get("/v1/echo", token))[0] == 401
        assert (await peer.ask())[0] == 401
    denied = await world.entries(Kind.ACCESS_DENIED)
    assert [e.request["reason"] for e in denied] == ["client.disabled", "client.disabled"]
    assert denied[0].actor["client_id"] == "billing-a"


@pytest.mark.parametrize("what", ["carrier", "agreement", "key", "network"])
async def test_whatever_a_token_stands_on(world: World, owner: asyncpg.Connection, what: str) -> None:
    peer = await world.peer()
    token = await peer.token()
    if what == "carrier":
        await world.registry.disable_carrier(world.operator, "carrier-a", "gone")
    elif what == "agreement":
        await world.registry.disable_agreement(world.operator, "ICA-A", "ended")
    elif what == "key":
        await world.registry.add_key(world.operator, "billing-a", new_key().public)
        await world.registry.disable_key(world.operator, "billing-a", peer.key.kid, "leaked")
    else:
        await owner.execute("UPDATE tollgate.client SET networks = ARRAY['192.0.2.0/24'::cidr]")
    status, _, headers = await peer.get("/v1/echo", token)
    assert status == 401
    assert 'error="invalid_token"' in headers["WWW-Authenticate"]
    status, body = await peer.ask()
    wanted = (400, "unauthorized_client") if what == "agreement" else (401, "invalid_client")
    assert (status, body["error"]) == wanted
    if what == "agreement":
        (entry,) = await world.entries(Kind.TOKEN_REFUSED)
        assert entry.outcome == {"error": "unauthorized_client", "reason": "agreement.absent"}
        assert entry.actor["client_id"] == "billing-a"


async def test_a_token_ends_with_its_agreement(world: World, owner: asyncpg.Connection) -> None:
    """The end is a UTC midnight; the database is made to be just before one by moving the agreement, not the clock."""
    peer = await world.peer()
    await world.registry.disable_agreement(world.operator, "ICA-A", "replaced")
    ending = Agreement("ICA-A2", "carrier-a", date(2020, 1, 1), TODAY + timedelta(days=1), "s. 9")
    await world.registry.add_agreement(world.operator, ending)
    status, body = await peer.ask()
    assert status == 200
    midnight = datetime.combine(TODAY + timedelta(days=1), datetime.min.time(), UTC).timestamp()
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["exp"] <= midnight
    assert claims["agreement"] == "ICA-A2"
    past = Agreement("ICA-B2", "carrier-b", date(2020, 1, 1), TODAY, "s. 9")
    await world.registry.add_agreement(world.operator, past)
    await world.registry.disable_agreement(world.operator, "ICA-B", "ended")
    other = await world.peer("billing-b", carrier_id="carrier-b")
    assert (await other.ask())[1]["error"] == "unauthorized_client"


async def test_revocation(world: World) -> None:
    peer, other = await world.peer(), await world.peer("billing-b", carrier_id="carrier-b")
    second = await world.gateway()
    token, kept = await peer.token(), await peer.token()
    assert (await other.post("/oauth/revoke", other.own_form(token=token)))[:2] == (200, {})
    assert (await peer.get("/v1/echo", token))[0] == 200  # not the other's to revoke
    for text in ("nonsense", "a.b.c", token + "x", assertion(peer.key, "billing-a", world.issuer)):
        assert (await peer.post("/oauth/revoke", peer.own_form(token=text)))[:2] == (200, {})
    assert (await peer.post("/oauth/revoke", peer.own_form()))[1]["error"] == "invalid_request"
    assert await world.entries(Kind.TOKEN_REVOKED) == []
    assert (await peer.post("/oauth/revoke", peer.own_form(token=token, token_type_hint="access_token")))[0] == 200
    for base in (world.base, second.base):
        peer.base = base
        assert (await peer.get("/v1/echo", token))[0] == 401
        assert (await peer.get("/v1/echo", kept))[0] == 200
    assert (await peer.post("/oauth/revoke", peer.own_form(token=token)))[0] == 200
    entries = await world.entries(Kind.TOKEN_REVOKED)
    assert entries[0].request["token_id"] == jwt.decode(token, options={"verify_signature": False})["jti"]


async def test_introspection(world: World) -> None:
    peer, other = await world.peer(), await world.peer("billing-b", carrier_id="carrier-b")
    token = await peer.token()
    status, body, headers = await peer.post("/oauth/introspect", peer.own_form(token=token))
    assert status == 200
    assert body["active"] is True
    assert body["cnf"] == {"jkt": peer.dpop.thumbprint}
    assert headers["Cache-Control"] == "no-store"
    inactive = {"active": False}
    assert (await other.post("/oauth/introspect", other.own_form(token=token)))[:2] == (200, inactive)
    for text in ("nonsense", token[:-2], token + ".x"):
        assert (await peer.post("/oauth/introspect", peer.own_form(token=text)))[:2] == (200, inactive)
    await peer.post("/oauth/revoke", peer.own_form(token=token))
    assert (await peer.post("/oauth/introspect", peer.own_form(token=token)))[:2] == (200, inactive)
    ended = await peer.token()
    await world.registry.disable_agreement(world.operator, "ICA-A", "ended")
    assert (await peer.post("/oauth/introspect", peer.own_form(token=ended)))[:2] == (200, inactive)


# --- one thing is not another ---------------------------------------------------------------------------------------


async def test_nothing_else_is_taken_for_a_token(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    head, body = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    signing = SigningKeys(world.database.config.keyring_dir).current("token")
    handle = signing.private_key

    def resigned(claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None) -> str:
        return sign(merged(head, header or {}), merged(body, claims or {}), handle, "ES256")

    assert (await peer.get("/v1/echo", resigned()))[0] == 200
    fakes = {
        "an assertion": assertion(peer.key, peer.client_id, world.issuer),
        "a proof": proof(peer.dpop, "GET", world.issuer + "/v1/echo"),
        "no JWS": "opaque",
        "a checkpoint": "tollgate.example/log 1 AAAA",
        "signed by the client": sign(head, body, peer.key.handle, "ES256"),
        "signed by the client under its kid": sign({**head, "kid": peer.key.kid}, body, peer.key.handle, "ES256"),
        "typ JWT": resigned(header={"typ": "JWT"}),
        "typ missing": resigned(header={"typ": REMOVE}),
        "typ application": resigned(header={"typ": "dpop+jwt"}),
        "kid missing": resigned(header={"kid": REMOVE}),
        "kid of nobody": resigned(header={"kid": "nobody"}),
        "kid a list": resigned(header={"kid": [head["kid"]]}),
        "a header more": resigned(header={"x": 1}),
        "jwk in the header": resigned(header={"jwk": peer.dpop.proof_jwk}),
        "alg none": resigned(header={"alg": "none"}),
        "another issuer": resigned({"iss": "https://other.example"}),
        "another audience": resigned({"aud": "https://other.example"}),
        "audiences": resigned({"aud": [world.issuer]}),
        "expired": resigned({"exp": int(time.time()) - 1, "iat": int(time.time()) - 100}),
        "too long a life": resigned({"exp": int(time.time()) + 3600}),
        "from the future": resigned({"iat": int(time.time()) + 100}),
        "no expiry": resigned({"exp": REMOVE}),
        "no binding": resigned({"cnf": REMOVE}),
        "binding empty": resigned({"cnf": {}}),
        "binding a list": resigned({"cnf": [peer.dpop.thumbprint]}),
        "binding to a certificate": resigned({"cnf": {"x5t#S256": peer.dpop.thumbprint}}),
        "bound to another key": resigned({"cnf": {"jkt": new_key().thumbprint}}),
        "another purpose": resigned({"scope": "cdr.legal"}),
        "no scope": resigned({"scope": REMOVE}),
        "no details": resigned({"authorization_details": REMOVE}),
        "unknown details": resigned({"authorization_details": [{"type": "cdr_legal"}]}),
        "details of nothing": resigned({"authorization_details": []}),
        "sub and client_id differ": resigned({"sub": "billing-z"}),
        "a client that is not there": resigned({"sub": "billing-z", "client_id": "billing-z"}),
        "another agreement": resigned({"agreement": "ICA-B"}),
        "another client's key": resigned({"client_key": new_key().thumbprint}),
        "jti missing": resigned({"jti": REMOVE}),
    }
    for name, fake in fakes.items():
        status, text, headers = await peer.get("/v1/echo", fake)
        assert status == 401, (name, text)
        assert headers["WWW-Authenticate"].startswith("DPoP "), name
    # And the other way round.
    for text in (token, proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)):
        shown = {"DPoP": proof(peer.dpop, "POST", world.issuer + "/oauth/token", nonce=peer.nonce)}
        assert (await peer.post("/oauth/token", token_form(text), shown))[0] == 401
    form = token_form(assertion(peer.key, peer.client_id, world.issuer))
    assert (await peer.post("/oauth/token", form, {"DPoP": token}))[0] == 400


async def test_a_token_comes_in_one_place_only(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()

    async def status(path: str = "/v1/echo", **headers: str) -> tuple[int, str]:
        good = peer.headers("GET", path, token)
        async with world.session.get(world.base + path, headers={**good, **headers}) as response:
            return response.status, response.headers.get("WWW-Authenticate", "")

    assert (await status(Authorization=f"Bearer {token}"))[0] == 401
    assert 'error="invalid_token"' in (await status(Authorization=f"bearer {token}"))[1]
    assert (await status(Authorization=token))[0] == 401
    assert (await status(Authorization="DPoP"))[0] == 401
    assert (await status(f"/v1/echo?access_token={token}"))[0] == 400
    assert (await status("/v1/echo?access_token="))[0] == 400
    assert (await status(Authorization=f"dpop {token}"))[0] == 200
    async with world.session.get(world.base + "/v1/echo") as response:
        assert response.status == 401
        assert "error" not in response.headers["WWW-Authenticate"]  # RFC 6750 section 3.1
    twice = [*peer.headers("GET", "/v1/echo", token).items(), ("Authorization", f"DPoP {token}")]
    async with world.session.get(world.base + "/v1/echo", headers=twice) as response:
        assert response.status == 400


async def test_another_key_does_not_open_a_stolen_token(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    peer.dpop = new_key()
    status, _, headers = await peer.get("/v1/echo", token)
    assert status == 401
    assert 'error="invalid_token"' in headers["WWW-Authenticate"]


async def test_the_host_header_says_nothing(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    shown = proof(peer.dpop, "GET", "https://evil.example/v1/echo", nonce=peer.nonce, token=token)
    headers = {
        "Authorization": f"DPoP {token}",
        "DPoP": shown,
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
    }
    async with world.session.get(world.base + "/v1/echo", headers=headers) as response:
        assert response.status == 401


# --- limits, faults, the log ----------------------------------------------------------------------------------------


async def test_requests_of_a_minute(world: World, owner: asyncpg.Connection) -> None:
    peer = await world.peer(requests_per_minute=3)
    token = await peer.token()
    # As if all of this minute's were spent, and of the next, should it have begun.
    spent = "UPDATE tollgate.client_rate SET minute = date_trunc('minute', now()), used = $1"
    await owner.execute(spent, 2)
    assert (await peer.get("/v1/echo", token))[0] == 200
    for _ in range(3):  # a minute may turn between the two statements, not three times
        await owner.execute(spent, 3)
        status, _, headers = await peer.get("/v1/echo", token)
        if status == 429:
            break
    assert status == 429
    assert 1 <= int(headers["Retry-After"]) <= 60
    await owner.execute(spent, 3)
    assert (await peer.ask())[0] == 429
    await owner.execute("UPDATE tollgate.client_rate SET minute = minute - interval '1 minute'")
    assert (await peer.get("/v1/echo", token))[0] == 200
    assert world.gateways[0].refusals["rate.exceeded"] >= 2


async def test_the_log_says_who_got_what(world: World) -> None:
    peer = await world.peer()
    token = await peer.token(scope="cdr.billing")
    await peer.ask(scope="cdr.legal")
    (issued,), (refused,) = await world.entries(Kind.TOKEN_ISSUED), await world.entries(Kind.TOKEN_REFUSED)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert issued.actor == {
        "client_id": "billing-a",
        "token_id": claims["jti"],
        "key_thumbprint": peer.dpop.thumbprint,
        "address": "127.0.0.1",
    }
    assert issued.request == {"scope": "cdr.billing"}
    assert issued.outcome["authorization_details"] == claims["authorization_details"]
    assert refused.request == {"scope": "cdr.legal"}
    assert refused.outcome == {"error": "invalid_scope", "reason": "scope.unknown"}
    assert token not in json.dumps([issued.as_json(), refused.as_json()])


async def test_without_the_log_there_is_no_token(world: World, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    await peer.token()
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    status, body = await peer.ask()
    assert (status, body["error"]) == (503, "temporarily_unavailable")
    assert "access_token" not in body
    await owner.execute("GRANT EXECUTE ON FUNCTION tollgate.log_append TO tollgate_log_writer")
    assert (await peer.ask())[0] == 200


async def test_without_the_database_nothing_is_known(world: World, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    token = await peer.token()
    await owner.execute("ALTER TABLE tollgate.used_jti RENAME TO hidden")
    assert (await peer.get("/v1/echo", token))[0] == 503
    assert (await peer.ask())[0] == 503
    await owner.execute("ALTER TABLE tollgate.hidden RENAME TO used_jti")
    assert (await peer.get("/v1/echo", token))[0] == 200


async def test_a_missing_partition_is_made_when_it_is_needed(world: World, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    token = await peer.token()
    for row in await owner.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = "
                                 "'tollgate.used_jti'::regclass"):  # fmt: skip
        await owner.execute(f"DROP TABLE {row['name']}")
    await owner.execute("CREATE TABLE tollgate.used_jti_20200101 PARTITION OF tollgate.used_jti"
                        " FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')")  # fmt: skip
    assert (await peer.get("/v1/echo", token))[0] == 200
    assert await owner.fetchval("SELECT to_regclass('tollgate.used_jti_20200101')") is None


async def test_a_grant_can_be_asked_about_later(world: World) -> None:
    """What a long answer asks between its pieces."""
    peer = await world.peer(rows_per_day=10)
    token = await peer.token()
    guard = world.gateways[0].guard
    grant = await _grant(world, peer, token)
    assert await guard.alive(grant)
    assert await guard.spend(grant, 10)
    assert not await guard.spend(grant, 1)
    assert await guard.spend(grant, -5)
    await peer.post("/oauth/revoke", peer.own_form(token=token))
    assert not await guard.alive(grant)


async def _grant(world: World, peer: Any, token: str) -> Any:
    guard = world.gateways[0].guard
    grants = []
    original = guard.authenticate

    async def watched(request: Any) -> Any:
        grants.append(await original(request))
        return grants[-1]

    guard.authenticate = watched  # type: ignore[method-assign]
    await peer.get("/v1/echo", token)
    guard.authenticate = original  # type: ignore[method-assign]
    (grant,) = grants
    return grant


async def test_a_disabled_key_ends_what_runs_and_a_tokens_own_end_does_not(world: World) -> None:
    peer = await world.peer()
    await world.registry.add_key(world.operator, "billing-a", new_key().public)
    grant = await _grant(world, peer, await peer.token())
    peers = Peers(world.gateways[0].guard, None)  # type: ignore[arg-type] - nothing is spent here
    assert await peers.alive(grant)
    assert await peers.alive(replace(grant, expires_at=datetime.now(UTC) - timedelta(minutes=1)))
    await world.registry.disable_key(world.operator, "billing-a", peer.key.kid, "leaked")
    assert not await peers.alive(grant)


# --- what is slow holds nothing up ----------------------------------------------------------------------------------


async def test_a_body_that_trickles_in_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.oauth.http.BODY_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(world.base).port)
    writer.write(
        b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 1000\r\n\r\n"
    )

    async def drip() -> None:
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.05)

    task = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readuntil(b"}")
    finally:
        task.cancel()
        writer.close()
    assert head.startswith(b"http/1.1 408 ")
    assert b"connection: close" in head
    assert json.loads(body)["error"] == "invalid_request"
    assert world.gateways[0].refusals["request.timeout"] == 1


async def test_a_locked_keyring_holds_up_nobody_who_needs_no_key(world: World) -> None:
    directory = world.database.config.keyring_dir
    SigningKeys(directory).rotate("token", keep_until=datetime.now(UTC) + timedelta(minutes=10))
    await asyncio.sleep(1.1)  # what is held in memory is old by now
    lock = os.open(directory / "keyring.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    released = threading.Event()

    def release() -> None:
        released.set()
        os.close(lock)

    timer = threading.Timer(3, release)
    timer.start()
    try:
        waits = asyncio.create_task(world.json("/.well-known/jwks.json"))
        await asyncio.sleep(0.2)
        described = world.base + "/.well-known/oauth-authorization-server"
        async with aiohttp.ClientSession() as other, other.get(described) as response:
            assert response.status == 200
        assert not released.is_set(), "the event loop waited for the keyring's lock"
        assert not waits.done()
        timer.cancel()
        release()
        assert len((await waits)["keys"]) == 2
    finally:
        timer.cancel()
        timer.join()
        if not released.is_set():
            release()


async def test_a_pool_without_a_free_connection_is_waited_for_a_limited_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "TIMEOUT_S", 0.2)
    async with asyncpg.create_pool(world.database.config.role_url(Role.OAUTH), min_size=1, max_size=1) as pool:
        admissions = Admissions(pool, DatabaseClock())
        async with pool.acquire():
            async with asyncio.timeout(10) as limit:
                with pytest.raises(TimeoutError):
                    await admissions.client_keys("billing-a")
            assert not limit.expired()
        assert await admissions.client_keys("billing-a") == {}
