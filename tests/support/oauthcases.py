"""The table of malformed assertions and proofs: each wrong in one thing, and the reason it is refused for inside.

In the manner of the FAPI 2.0 negative tests. The same rows run against the pure checks (tests/unit) and over real
sockets (tests/http): there every one must be a 400 or 401, and never anything else.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keys.encoding import b64url_encode
from tests.support.oauth import REMOVE, Key, assertion, new_key, proof, sign


@dataclass(frozen=True)
class Maker:
    """What a row is made with."""

    key: Key
    """The client's registered key, ES256."""
    other: Key
    """A key that nobody knows."""
    client_id: str
    issuer: str

    def make(self, claims: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None, **by: Any) -> str:
        """Return an assertion."""
        return assertion(by.get("key", self.key), self.client_id, self.issuer, claims=claims, header=header)


@dataclass(frozen=True)
class Prover:
    """What a proof row is made with."""

    key: Key
    other: Key
    method: str
    url: str
    nonce: str
    token: str | None

    def make(self, claims: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None, **by: Any) -> str:
        """Return a proof."""
        return proof(
            by.get("key", self.key), self.method, self.url,
            nonce=self.nonce, token=self.token, claims=claims, header=header,
        )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One malformed thing."""

    name: str
    reason: str
    make: Callable[[Any], str]


def now() -> int:
    """Return seconds."""
    return int(time.time())


def _payload(text: str) -> dict[str, Any]:
    part = text.split(".")[1]
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value


def _doubled(text: str, name: str) -> bytes:
    """Return the payload with a member written twice."""
    body = json.dumps(_payload(text))
    return (body[:-1] + f', "{name}": {json.dumps(_payload(text)[name])}}}').encode()


def _resign(m: Maker | Prover, claims: bytes | None = None, header: bytes | None = None) -> str:
    text = m.make()
    kid = {"jwk": m.key.proof_jwk, "typ": "dpop+jwt"} if isinstance(m, Prover) else {"kid": m.key.kid, "typ": "JWT"}
    head = header or json.dumps({"alg": "ES256", **kid}).encode()
    return sign(head, claims or json.dumps(_payload(text)).encode(), m.key.handle, "ES256")


def _flip(text: str, segment: int) -> str:
    """Change one bit in the middle of a segment, canonically."""
    parts = text.split(".")
    data = bytearray(base64.urlsafe_b64decode(parts[segment] + "=" * (-len(parts[segment]) % 4)))
    data[len(data) // 2] ^= 1
    parts[segment] = b64url_encode(bytes(data))
    return ".".join(parts)


def _cut(m: Maker | Prover) -> str:
    head, _, signature = m.make().rpartition(".")
    return head + "." + b64url_encode(base64.urlsafe_b64decode(signature + "==")[:-1])


def _unsigned(m: Maker | Prover, alg: str) -> str:
    head, body, _ = m.make().split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    return b64url_encode(json.dumps({**header, "alg": alg}).encode()) + "." + body + "."


def _hmac(m: Maker | Prover) -> str:
    """Sign with the public key as an HMAC secret (the confusion of RFC 8725 section 2.1)."""
    import hashlib
    import hmac

    head, body, _ = m.make().split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    text = b64url_encode(json.dumps({**header, "alg": "HS256"}).encode()) + "." + body
    mac = hmac.digest(json.dumps(m.key.public).encode(), text.encode(), hashlib.sha256)
    return text + "." + b64url_encode(mac)


def _shape(what: str) -> list[Row]:
    """Rows that hold for any JWS."""

    def row(name: str, how: str, make: Callable[[Any], str]) -> Row:
        return Row(name, f"{what}.{how}", make)

    return [
        row("nothing but dots", "malformed", lambda m: ".."),
        row("one segment", "malformed", lambda m: m.make().split(".")[1]),
        row("two segments", "malformed", lambda m: m.make().rsplit(".", 1)[0]),
        row("four segments", "malformed", lambda m: m.make() + ".e30"),
        row("five segments, as encrypted", "malformed", lambda m: m.make() + ".e30.e30"),
        row("empty signature", "malformed", lambda m: m.make().rsplit(".", 1)[0] + "."),
        row("padded", "malformed", lambda m: m.make() + "="),
        row("a blank in it", "malformed", lambda m: m.make().replace(".", ". ", 1)),
        row("trailing bits set", "malformed", lambda m: m.make()[:-1] + "_"),
        row("the other base64 alphabet", "malformed", lambda m: "+/" + m.make()[2:]),
        row("header is no JSON", "malformed", lambda m: _resign(m, header=b"{alg:ES256}")),
        row("header is a list", "malformed", lambda m: _resign(m, header=b'["ES256"]')),
        row("header is not UTF-8", "malformed", lambda m: _resign(m, header=b'{"alg":"ES256\xff"}')),
        row("header with alg twice", "malformed", lambda m: _resign(m, header=b'{"alg":"ES256","alg":"ES256"}')),
        row("payload is no JSON", "malformed", lambda m: _resign(m, b"jti")),
        row("payload is a list", "malformed", lambda m: _resign(m, b"[]")),
        row("payload is null", "malformed", lambda m: _resign(m, b"null")),
        row("payload nested deeply", "malformed", lambda m: _resign(m, b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}")),
        row("payload with NaN", "malformed", lambda m: _resign(m, b'{"exp":NaN}')),
        row("payload with 1e999", "malformed", lambda m: _resign(m, b'{"exp":1e999}')),
        row("payload with a huge integer", "malformed", lambda m: _resign(m, b'{"exp":' + b"9" * 5000 + b"}")),
        row("payload with a lone surrogate", "malformed", lambda m: _resign(m, b'{"jti":"\\ud800"}')),
        row("jti twice", "malformed", lambda m: _resign(m, _doubled(m.make(), "jti"))),
        row("iat twice", "malformed", lambda m: _resign(m, _doubled(m.make(), "iat"))),
        row("too long", "malformed", lambda m: m.make({"x": "x" * 7000})),
        row("crit", "header", lambda m: m.make(header={"crit": ["exp"]})),
        row("crit, empty", "header", lambda m: m.make(header={"crit": []})),
        row("b64 false", "header", lambda m: m.make(header={"b64": False})),
        row("jku", "header", lambda m: m.make(header={"jku": "https://attacker.example/jwks"})),
        row("x5u", "header", lambda m: m.make(header={"x5u": "https://attacker.example/cert"})),
        row("x5c", "header", lambda m: m.make(header={"x5c": ["MIIB"]})),
        row("zip", "header", lambda m: m.make(header={"zip": "DEF"})),
        row("typ is a number", "type", lambda m: m.make(header={"typ": 1})),
        row("typ of an access token", "type", lambda m: m.make(header={"typ": "at+jwt"})),
        row("alg missing", "alg", lambda m: m.make(header={"alg": REMOVE})),
        row("alg a list", "alg", lambda m: m.make(header={"alg": ["ES256"]})),
        row("alg RS256", "alg", lambda m: m.make(header={"alg": "RS256"})),
        row("alg es256 in lower case", "alg", lambda m: m.make(header={"alg": "es256"})),
        row("alg ES384", "alg", lambda m: m.make(header={"alg": "ES384"})),
        row("alg none, no signature", "malformed", lambda m: _unsigned(m, "none")),
        row("alg none, some signature", "alg", lambda m: _unsigned(m, "none") + "AAAA"),
        row("alg HS256 with the public key", "alg", _hmac),
        row("signature altered", "signature", lambda m: _flip(m.make(), 2)),
        row("signature cut", "signature", _cut),
        row("signature of zeros", "signature", lambda m: m.make().rsplit(".", 1)[0] + "." + b64url_encode(bytes(64))),
        row("jti missing", "claims", lambda m: m.make({"jti": REMOVE})),
        row("jti null", "claims", lambda m: m.make({"jti": None})),
        row("jti empty", "claims", lambda m: m.make({"jti": ""})),
        row("jti a number", "claims", lambda m: m.make({"jti": 7})),
        row("jti too long", "claims", lambda m: m.make({"jti": "x" * 257})),
        row("iat text", "claims", lambda m: m.make({"iat": str(now())})),
        row("iat true", "claims", lambda m: m.make({"iat": True})),
        row("iat negative", "claims", lambda m: m.make({"iat": -1})),
        row("iat of another unit", "claims", lambda m: m.make({"iat": now() * 1_000_000})),
        row("iat 60 s ahead", "time", lambda m: m.make({"iat": now() + 61})),
        row("nbf 60 s ahead", "time", lambda m: m.make({"nbf": now() + 61})),
        row("nbf text", "claims", lambda m: m.make({"nbf": "now"})),
        row("exp past", "time", lambda m: m.make({"exp": now() - 1, "iat": REMOVE}) if isinstance(m, Maker)
            else m.make({"exp": now() - 1})),
        row("exp text", "claims", lambda m: m.make({"exp": "soon"})),
    ]  # fmt: skip


ASSERTIONS: list[Row] = [
    *_shape("assertion"),
    Row("jwk in the header", "assertion.header", lambda m: m.make(header={"jwk": m.key.proof_jwk})),
    Row("signed by the jwk it brings", "assertion.header", lambda m: m.make(
        key=m.other, header={"jwk": m.other.proof_jwk, "kid": m.key.kid})),
    Row("typ of a proof", "assertion.type", lambda m: m.make(header={"typ": "dpop+jwt"})),
    Row("typ of a logout token", "assertion.type", lambda m: m.make(header={"typ": "logout+jwt"})),
    Row("signed by another key", "assertion.signature", lambda m: m.make(key=m.other, header={"kid": m.key.kid})),
    Row("kid of nobody", "assertion.key", lambda m: m.make(header={"kid": "nobody"})),
    Row("kid a number", "assertion.key", lambda m: m.make(header={"kid": 1})),
    Row("kid null", "assertion.key", lambda m: m.make(header={"kid": None})),
    Row("kid as a path", "assertion.key", lambda m: m.make(header={"kid": "../../" + m.key.kid})),
    Row("kid as SQL", "assertion.key", lambda m: m.make(header={"kid": "' OR '1'='1"})),
    Row("kid in upper case", "assertion.key", lambda m: m.make(header={"kid": m.key.kid.upper() + "X"})),
    Row("alg not the key's own", "assertion.key", lambda m: assertion(
        new_key("EdDSA"), m.client_id, m.issuer, header={"kid": m.key.kid})),
    Row("iss missing", "client.unknown", lambda m: m.make({"iss": REMOVE})),
    Row("iss empty", "client.unknown", lambda m: m.make({"iss": ""})),
    Row("iss a list", "client.unknown", lambda m: m.make({"iss": [m.client_id]})),
    Row("iss another client", "client.unknown", lambda m: m.make({"iss": "billing-z", "sub": "billing-z"})),
    Row("iss with NUL", "client.unknown", lambda m: m.make({"iss": "a\0b"})),
    Row("sub missing", "assertion.claims", lambda m: m.make({"sub": REMOVE})),
    Row("sub another client", "assertion.claims", lambda m: m.make({"sub": "billing-z"})),
    Row("sub a list", "assertion.claims", lambda m: m.make({"sub": [m.client_id]})),
    Row("sub null", "assertion.claims", lambda m: m.make({"sub": None})),
    Row("aud missing", "assertion.claims", lambda m: m.make({"aud": REMOVE})),
    Row("aud null", "assertion.claims", lambda m: m.make({"aud": None})),
    Row("aud empty", "assertion.claims", lambda m: m.make({"aud": ""})),
    Row("aud a list of the issuer", "assertion.claims", lambda m: m.make({"aud": [m.issuer]})),
    Row("aud a list with another", "assertion.claims", lambda m: m.make({"aud": [m.issuer, "https://b.example"]})),
    Row("aud the token endpoint", "assertion.claims", lambda m: m.make({"aud": m.issuer + "/oauth/token"})),
    Row("aud with a slash", "assertion.claims", lambda m: m.make({"aud": m.issuer + "/"})),
    Row("aud in upper case", "assertion.claims", lambda m: m.make({"aud": m.issuer.upper()})),
    Row("aud another server", "assertion.claims", lambda m: m.make({"aud": "https://other.example"})),
    Row("exp missing", "assertion.claims", lambda m: m.make({"exp": REMOVE})),
    Row("exp null", "assertion.claims", lambda m: m.make({"exp": None})),
    Row("exp true", "assertion.claims", lambda m: m.make({"exp": True})),
    Row("exp of another unit", "assertion.claims", lambda m: m.make({"exp": now() * 1_000_000})),
    Row("exp far", "assertion.time", lambda m: m.make({"exp": now() + 3600})),
    Row("exp now", "assertion.time", lambda m: m.make({"exp": now(), "iat": now() - 30})),
    Row("iat after exp", "assertion.time", lambda m: m.make({"exp": now() + 3, "iat": now() + 6})),
    Row("a proof", "assertion.header", lambda m: proof(m.key, "POST", m.issuer + "/oauth/token")),
]  # fmt: skip
"""Malformed client assertions."""


def _jwk(m: Prover, **change: Any) -> dict[str, Any]:
    return {k: v for k, v in {**m.key.proof_jwk, **change}.items() if v is not REMOVE}


def _x(m: Prover) -> str:
    return str(m.key.proof_jwk["x"])


PROOFS: list[Row] = [
    *_shape("proof"),
    Row("typ missing", "proof.type", lambda m: m.make(header={"typ": REMOVE})),
    Row("typ JWT", "proof.type", lambda m: m.make(header={"typ": "JWT"})),
    Row("jwk missing", "proof.header", lambda m: m.make(header={"jwk": REMOVE})),
    Row("jwk missing, kid there", "proof.header", lambda m: m.make(header={"jwk": REMOVE, "kid": m.key.kid})),
    Row("jwk null", "proof.key", lambda m: m.make(header={"jwk": None})),
    Row("jwk a list", "proof.key", lambda m: m.make(header={"jwk": [m.key.proof_jwk]})),
    Row("jwk empty", "proof.key", lambda m: m.make(header={"jwk": {}})),
    Row("jwk private", "proof.key", lambda m: m.make(header={"jwk": m.key.private})),
    Row("jwk symmetric", "proof.key", lambda m: m.make(header={"jwk": {"kty": "oct", "k": "AAAA"}})),
    Row("jwk of another key", "proof.signature", lambda m: m.make(header={"jwk": m.other.proof_jwk})),
    Row("jwk of another kind", "proof.alg", lambda m: m.make(header={"jwk": new_key("EdDSA").proof_jwk})),
    Row("jwk on P-384", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, crv="P-384")})),
    Row("jwk on secp256k1", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, crv="secp256k1")})),
    Row("jwk without y", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, y=REMOVE)})),
    Row("jwk off the curve", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, y=_x(m))})),
    Row("jwk with a short x", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, x=_x(m)[:-2] + "A")})),
    Row("jwk with a padded x", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, x=_x(m) + "=")})),
    Row("jwk for encryption", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, use="enc")})),
    Row("jwk that points elsewhere", "proof.key", lambda m: m.make(header={"jwk": _jwk(m, x5u="https://a.example")})),
    Row("signed by another key", "proof.signature", lambda m: m.make(key=m.other, header={"jwk": m.key.proof_jwk})),
    Row("htm missing", "proof.claims", lambda m: m.make({"htm": REMOVE})),
    Row("htm null", "proof.claims", lambda m: m.make({"htm": None})),
    Row("htm of another method", "proof.method", lambda m: m.make({"htm": "PUT"})),
    Row("htm in lower case", "proof.method", lambda m: m.make({"htm": m.method.lower()})),
    Row("htm a list", "proof.method", lambda m: m.make({"htm": [m.method]})),
    Row("htu missing", "proof.claims", lambda m: m.make({"htu": REMOVE})),
    Row("htu a list", "proof.url", lambda m: m.make({"htu": [m.url]})),
    Row("htu of another path", "proof.url", lambda m: m.make({"htu": m.url + "/x"})),
    Row("htu with a slash more", "proof.url", lambda m: m.make({"htu": m.url + "/"})),
    Row("htu of another host", "proof.url", lambda m: m.make({"htu": m.url.replace("https://", "https://a.")})),
    Row("htu over http", "proof.url", lambda m: m.make({"htu": m.url.replace("https", "http")})),
    Row("htu with another port", "proof.url", lambda m: m.make({"htu": m.url.replace(".example/", ".example:444/")})),
    Row("htu with a port that is none", "proof.url", lambda m: m.make(
        {"htu": m.url.replace(".example/", ".example:99999/")})),
    Row("htu with a user", "proof.url", lambda m: m.make({"htu": m.url.replace("https://", "https://a@")})),
    Row("htu relative", "proof.url", lambda m: m.make({"htu": "/" + m.url.split("/", 3)[3]})),
    Row("htu with a tab", "proof.url", lambda m: m.make({"htu": m.url[:-1] + "\t" + m.url[-1]})),
    Row("htu with an open bracket", "proof.url", lambda m: m.make({"htu": "https://[" + m.url[8:]})),
    Row("htu with an escaped slash", "proof.url", lambda m: m.make({"htu": m.url[:30] + "%2F" + m.url[31:]})),
    Row("htu in another script", "proof.url", lambda m: m.make({"htu": m.url + "\u0430"})),
    Row("iat missing", "proof.claims", lambda m: m.make({"iat": REMOVE})),
    Row("iat null", "proof.claims", lambda m: m.make({"iat": None})),
    Row("iat too old", "proof.time", lambda m: m.make({"iat": now() - 120})),
    Row("an assertion", "proof.header", lambda m: assertion(m.key, "billing-a", "https://tollgate.example")),
]  # fmt: skip
"""Malformed DPoP proofs, at either endpoint."""

API_PROOFS: list[Row] = [
    Row("ath missing", "proof.ath", lambda m: m.make({"ath": REMOVE})),
    Row("ath of another token", "proof.ath", lambda m: m.make({"ath": b64url_encode(bytes(32))})),
    Row("ath the token itself", "proof.ath", lambda m: m.make({"ath": m.token})),
    Row("ath padded", "proof.ath", lambda m: m.make({"ath": _payload(m.make())["ath"] + "="})),
    Row("ath in hexadecimal", "proof.ath", lambda m: m.make({"ath": "00" * 32})),
    Row("ath a list", "proof.ath", lambda m: m.make({"ath": [_payload(m.make())["ath"]]})),
    Row("ath in another script", "proof.ath", lambda m: m.make({"ath": "\u0430" * 43})),
]
"""Malformed DPoP proofs at the API."""

NONCES: list[Row] = [
    Row("nonce missing", "proof.nonce", lambda m: m.make({"nonce": REMOVE})),
    Row("nonce empty", "proof.nonce", lambda m: m.make({"nonce": ""})),
    Row("nonce null", "proof.nonce", lambda m: m.make({"nonce": None})),
    Row("nonce a list", "proof.nonce", lambda m: m.make({"nonce": [m.nonce]})),
    Row("nonce made up", "proof.nonce", lambda m: m.make({"nonce": "A" * 32})),
    Row("nonce altered", "proof.nonce", lambda m: m.make(
        {"nonce": m.nonce[:-1] + ("A" if m.nonce[-1] != "A" else "B")})),
    Row("nonce padded", "proof.nonce", lambda m: m.make({"nonce": m.nonce + "="})),
]  # fmt: skip
"""Proofs that are right but for their nonce: the answer gives another."""
