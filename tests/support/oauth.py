"""A client of the authorization server: keys, assertions and DPoP proofs, right or wrong in any one thing."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keys.encoding import b64url_encode
from proxy.registry.jwk import public_key

_HANDLERS = jwt.algorithms.get_default_algorithms()


@dataclass(frozen=True)
class Key:
    """A private key for one algorithm."""

    alg: str
    kid: str
    public: dict[str, Any]
    private: dict[str, Any]
    handle: Any = field(repr=False)

    @property
    def thumbprint(self) -> str:
        """RFC 7638."""
        return public_key({k: v for k, v in self.public.items() if k in ("kty", "crv", "x", "y", "e", "n")}).thumbprint

    @property
    def proof_jwk(self) -> dict[str, Any]:
        """The public key as a proof's header has it."""
        return {k: v for k, v in self.public.items() if k in ("kty", "crv", "x", "y", "e", "n")}


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def new_key(alg: str = "ES256", *, rsa_bits: int = 2048) -> Key:
    """Return a fresh key (RSA ones are made once for a run and shared: they are slow to make)."""
    handle: Any
    if alg == "ES256":
        handle = ec.generate_private_key(ec.SECP256R1())
    elif alg == "EdDSA":
        handle = ed25519.Ed25519PrivateKey.generate()
    else:
        handle = _rsa(rsa_bits)
    private = json.loads(_HANDLERS[alg].to_jwk(handle))
    kid = secrets.token_hex(8)
    named = {k: v for k, v in private.items() if k in ("kty", "crv", "x", "y", "e", "n")}
    return Key(alg, kid, {**named, "kid": kid, "alg": alg, "use": "sig"}, {**private, "kid": kid}, handle)


def sign(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: Any, alg: str) -> str:
    """Return a compact JWS of any header and payload, also ones that no library would write."""
    parts = [x if isinstance(x, bytes) else json.dumps(x, separators=(",", ":")).encode() for x in (header, claims)]
    text = ".".join(map(b64url_encode, parts))
    return text + "." + b64url_encode(_HANDLERS[alg].sign(text.encode(), key))


REMOVE = object()
"""A claim or header of this value is left out."""


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change``; REMOVE takes away."""
    return {k: v for k, v in {**base, **change}.items() if v is not REMOVE}


def assertion(
    key: Key,
    client_id: str,
    issuer: str,
    *,
    claims: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
) -> str:
    """Return a client assertion (RFC 7523) that is right but for what is changed."""
    now = int(time.time())
    body = {
        "iss": client_id,
        "sub": client_id,
        "aud": issuer,
        "iat": now,
        "exp": now + 60,
        "jti": secrets.token_hex(16),
    }
    head = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
    return sign(merged(head, header or {}), merged(body, claims or {}), key.handle, key.alg)


def proof(
    key: Key,
    method: str,
    url: str,
    *,
    nonce: str | None = None,
    token: str | None = None,
    claims: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
) -> str:
    """Return a DPoP proof (RFC 9449) that is right but for what is changed; ``token`` gives ath."""
    body: dict[str, Any] = {"jti": secrets.token_hex(16), "htm": method, "htu": url, "iat": int(time.time())}
    if nonce is not None:
        body["nonce"] = nonce
    if token is not None:
        body["ath"] = b64url_encode(hashlib.sha256(token.encode()).digest())
    head = {"typ": "dpop+jwt", "alg": key.alg, "jwk": key.proof_jwk}
    return sign(merged(head, header or {}), merged(body, claims or {}), key.handle, key.alg)


def token_form(shown: str, /, **change: Any) -> dict[str, str]:
    """Return the parameters of a token request."""
    return merged(
        {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": shown,
            "scope": "cdr.billing",
        },
        change,
    )


@dataclass
class Peer:
    """A carrier's client that does everything right, over a session of the caller's (aiohttp)."""

    session: aiohttp.ClientSession
    base: str
    """Where the server really listens: scheme, host and port."""
    issuer: str
    client_id: str
    key: Key
    """Registered: signs assertions."""
    dpop: Key
    """Its own: signs proofs."""
    nonce: str | None = None

    async def post(
        self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Post a form; return status, JSON (empty where there is none) and headers."""
        async with self.session.post(self.base + path, data=dict(form), headers=headers) as response:
            text = await response.text()
            self.nonce = response.headers.get("DPoP-Nonce", self.nonce)
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else {}, response.headers

    async def ask(self, /, **form: str) -> tuple[int, dict[str, Any]]:
        """Ask for a token, once with the nonce at hand, once more if the server wants another."""
        for _ in range(2):
            parameters = token_form(assertion(self.key, self.client_id, self.issuer), **form)
            shown = proof(self.dpop, "POST", self.issuer + "/oauth/token", nonce=self.nonce)
            status, body, _ = await self.post("/oauth/token", parameters, {"DPoP": shown})
            if body.get("error") != "use_dpop_nonce":
                break
        return status, body

    async def token(self, **form: str) -> str:
        """Return an access token."""
        status, body = await self.ask(**form)
        assert status == 200, body
        return str(body["access_token"])

    def headers(self, method: str, path: str, token: str, **change: Any) -> dict[str, str]:
        """Return the headers of an API request."""
        url = self.issuer + path.partition("?")[0]
        shown = proof(self.dpop, method, url, nonce=self.nonce, token=token, **change)
        return {"Authorization": f"DPoP {token}", "DPoP": shown}

    async def get(self, path: str, token: str, **change: Any) -> tuple[int, str, Mapping[str, str]]:
        """Send a GET to the API; return status, body and headers."""
        headers = self.headers("GET", path, token, **change)
        async with self.session.get(self.base + path, headers=headers) as response:
            self.nonce = response.headers.get("DPoP-Nonce", self.nonce)
            return response.status, await response.text(), response.headers

    def own_form(self, **change: Any) -> dict[str, str]:
        """Return an authenticated form for revocation and introspection."""
        form = token_form(assertion(self.key, self.client_id, self.issuer), grant_type=REMOVE, scope=REMOVE)
        return merged(form, change)
