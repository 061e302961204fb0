"""The authorization server over real sockets: tokens, single use, revocation, introspection, what the log says."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import jwt
import pytest
from ipaddress import ip_network

from proxy.ledger.model import Kind
from proxy.registry.jwk import public_key
from proxy.registry.model import Agreement, Carrier, Client, OcnOwnership
from tests.support.oauth import Key, Peer, assertion, merged, new_key, proof, sign, token_form
from tests.support.oauthworld import World, world  # noqa: F401 - a fixture

TODAY = datetime.now(UTC).date()


async def test_a_token_and_its_use(world: World) -> None:
    peer = await world.peer()
    status, body = await peer.ask()
    assert status == 200
    assert body["token_type"] == "DPoP" and body["scope"] == "cdr.billing" and 0 < body["expires_in"] <= 300
    assert body["authorization_details"] == [
        {
            "type": "cdr_billing",
            "ocns": ["123A", "123B"],
            "directions": ["ingress", "egress"],
            "classes": ["timing", "parties", "routing", "ingress_leg", "egress_leg"],
        }
    ]
    status, text, headers = await peer.get("/v1/echo?from=x", body["access_token"])
    assert status == 200 and headers["DPoP-Nonce"]
    grant = json.loads(text)
    assert grant["client_id"] == "billing-a" and grant["carrier_id"] == "carrier-a"
    assert grant["ocns"] == ["123A", "123B"] and grant["purpose"] == "billing" and grant["agreement"] == "ICA-A"
    assert grant["jkt"] == peer.dpop.thumbprint and grant["address"] == "127.0.0.1"
    assert grant["ownership"] == [["123A", "2020-01-01", None], ["123B", "2024-01-01", None]]


async def test_the_token_is_an_rfc_9068_one(world: World) -> None:
    peer = await world.peer()
    token = await peer.token()
    header = jwt.get_unverified_header(token)
    published = await world.json("/.well-known/jwks.json")
    jwk = next(k for k in published["keys"] if k["kid"] == header["kid"])
    assert header["typ"] == "at+jwt" and "d" not in jwk
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


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "PS256"])
@pytest.mark.parametrize("dpop", ["ES256", "EdDSA", "PS256"])
async def test_every_algorithm(world: World, alg: str, dpop: str) -> None:
    peer = await world.peer(key=new_key(alg), dpop=new_key(dpop))
    assert (await peer.get("/v1/echo", await peer.token()))[0] == 200
