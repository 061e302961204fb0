"""Malformed ID tokens: one thing wrong in each, and the reason it is refused for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keys.encoding import b64url_encode
from tests.support.oauth import REMOVE, Key, new_key, sign
from tests.support.oidc import CLIENT_ID, Own

FOREIGN = new_key()


@dataclass(frozen=True)
class Row:
    """One wrong token; ``make`` gets the provider, the subject and the nonce that would be right."""

    name: str
    reason: str
    make: Callable[[Own, str, str], str]


def _claim(name: str, reason: str, **change: Any) -> Row:
    return Row(name, f"subject.{reason}", lambda own, subject, nonce: own.token(subject, nonce, **change))


def _header(name: str, reason: str, **change: Any) -> Row:
    return Row(name, f"subject.{reason}", lambda own, subject, nonce: own.token(subject, nonce, header=change))


def _text(name: str, reason: str, make: Callable[[str], str]) -> Row:
    return Row(name, f"subject.{reason}", lambda own, subject, nonce: make(own.token(subject, nonce)))


def _payload(name: str, reason: str, make: Callable[[bytes], bytes]) -> Row:
    """Sign a payload that no library would write."""

    def made(own: Own, subject: str, nonce: str) -> str:
        claims = json.dumps(own.claims(subject, nonce)).encode()
        return sign({"alg": own.key.alg, "kid": own.key.kid}, make(claims), own.key.handle, own.key.alg)

    return Row(name, f"subject.{reason}", made)


def _none(own: Own, subject: str, nonce: str, alg: str = "none") -> str:
    parts = ({"alg": alg, "kid": own.key.kid}, own.claims(subject, nonce))
    return ".".join(b64url_encode(json.dumps(part).encode()) for part in parts) + "."


def _none_signed(own: Own, subject: str, nonce: str) -> str:
    return _none(own, subject, nonce) + "c2ln"


def _hmac(own: Own, subject: str, nonce: str) -> str:
    """HS256 with the provider's public key as the secret: the classic confusion."""
    secret = json.dumps(own.key.public).encode()
    return sign({"alg": "HS256", "kid": own.key.kid}, own.claims(subject, nonce), secret, "HS256")


def _foreign(own: Own, subject: str, nonce: str) -> str:
    return own.token(subject, nonce, key=FOREIGN, header={"kid": own.key.kid})


def _foreign_kid(own: Own, subject: str, nonce: str) -> str:
    return own.token(subject, nonce, key=FOREIGN)


def _other_alg(own: Own, subject: str, nonce: str) -> str:
    return own.token(subject, nonce, key=_ED, header={"kid": own.key.kid})


def _swapped(text: str) -> str:
    head, claims, signature = text.split(".")
    return ".".join((head, claims, signature[:-8] + ("A" * 8 if signature[-8:] != "A" * 8 else "B" * 8)))


_ED: Key = new_key("EdDSA")

MISSING = tuple(
    _claim(f"no {name}", "claims", **{name: REMOVE}) for name in ("iss", "sub", "aud", "exp", "iat", "nonce")
)

ROWS: tuple[Row, ...] = (
    *MISSING,
    *(_claim(f"{name} null", "claims", **{name: None}) for name in ("iss", "sub", "aud", "exp", "iat", "nonce")),
    _claim("another issuer", "claims", iss="https://login.other.example"),
    _claim("the issuer with a slash", "claims", iss="https://login.carrier.example/"),
    _claim("the issuer in a list", "claims", iss=["https://login.carrier.example"]),
    _claim("another audience", "claims", aud="another"),
    _claim("two audiences", "claims", aud=[CLIENT_ID, "another"]),
    _claim("the audience twice", "claims", aud=[CLIENT_ID, CLIENT_ID]),
    _claim("no audience in a list", "claims", aud=[]),
    _claim("an audience in an object", "claims", aud={"aud": CLIENT_ID}),
    _claim("an audience in a list in a list", "claims", aud=[[CLIENT_ID]]),
    _claim("another party", "claims", azp="another"),
    _claim("a party that is no text", "claims", azp=[CLIENT_ID]),
    _claim("a party that is null", "claims", azp=None),
    _claim("a subject that is no text", "claims", sub=7),
    _claim("an empty subject", "claims", sub=""),
    _claim("a long subject", "claims", sub="s" * 256),
    _claim("a subject with a line break", "claims", sub="s\nt"),
    _claim("a subject with a NUL", "claims", sub="s\x00"),
    _claim("expired", "time", exp=int(time.time()) - 1),
    _claim("expired long ago", "time", iat=0, exp=1),
    _claim("issued in the future", "time", iat=int(time.time()) + 86_400),
    _claim("not before the future", "time", nbf=int(time.time()) + 86_400),
    _claim("issued after its end", "time", iat=int(time.time()) + 5, exp=int(time.time()) + 3),
    _claim("signed in too long ago", "time", iat=int(time.time()) - 50_000),
    _claim("an end that is text", "claims", exp="2100-01-01"),
    _claim("an end that is true", "claims", exp=True),
    _claim("a negative end", "claims", exp=-1),
    _claim("an endless end", "claims", exp=1 << 41),
    _claim("a start that is text", "claims", iat="now"),
    _claim("a nonce of another key", "binding", nonce="A" * 43),
    _claim("an empty nonce", "binding", nonce=""),
    _claim("a nonce that is no text", "binding", nonce=7),
    _claim("a nonce in a list", "binding", nonce=["A" * 43]),
    _claim("groups that are text", "claims", groups="tollgate-operator"),
    _claim("groups that are an object", "claims", groups={"tollgate-operator": True}),
    _claim("a group that is no text", "claims", groups=[["tollgate-operator"]]),
    _claim("too many groups", "claims", groups=["g"] * 2001),
    _header("a type of access tokens", "type", typ="at+jwt"),
    _header("a type of logout tokens", "type", typ="logout+jwt"),
    _header("a type that is no text", "type", typ=7),
    _header("no algorithm", "alg", alg=REMOVE),
    _header("an algorithm that is no text", "alg", alg=["ES256"]),
    _header("an algorithm that is not configured", "alg", alg="PS256"),
    _header("an unknown key", "key", kid="unknown"),
    _header("a kid that is no text", "key", kid=7),
    _header("a kid that is null", "key", kid=None),
    _header("a key of its own", "header", jwk=FOREIGN.public),
    _header("a key from elsewhere", "header", jku="https://elsewhere.example/jwks"),
    _header("a certificate of its own", "header", x5c=["MIIB"]),
    _header("a certificate from elsewhere", "header", x5u="https://elsewhere.example/x5u"),
    _header("a critical extension", "header", crit=["exp"]),
    _header("compressed", "header", zip="DEF"),
    Row("alg none", "subject.malformed", _none),
    Row("alg none with a signature", "subject.alg", _none_signed),
    Row("alg None", "subject.malformed", lambda own, subject, nonce: _none(own, subject, nonce, "None")),
    Row("HS256 with the public key", "subject.alg", _hmac),
    Row("a foreign key under the right kid", "subject.signature", _foreign),
    Row("a foreign key under its own kid", "subject.key", _foreign_kid),
    Row("another algorithm under the right kid", "subject.alg", _other_alg),
    _text("another signature", "signature", _swapped),
    _text("no signature", "malformed", lambda text: text.rpartition(".")[0] + "."),
    _text("two parts", "malformed", lambda text: text.rpartition(".")[0]),
    _text("five parts", "malformed", lambda text: text + ".a.b"),
    _text("padded", "malformed", lambda text: text + "="),
    _text("not base64url", "malformed", lambda text: text.replace(".", ".+", 1)),
    _text("not ASCII", "malformed", lambda text: text + "\u00e9"),
    _text("too long", "malformed", lambda text: text + "A" * 32_768),
    _payload("a claim doubled", "malformed", lambda claims: claims[:-1] + b',"sub":"another"}'),
    _payload("an issuer doubled", "malformed", lambda claims: b'{"iss":"https://x.example",' + claims[1:]),
    _payload("a list", "malformed", lambda claims: b"[" + claims + b"]"),
    _payload("not JSON", "malformed", lambda claims: b"claims"),
    _payload("not UTF-8", "malformed", lambda claims: b'{"sub":"\xff"}'),
    _payload("a lone surrogate", "malformed", lambda claims: claims[:-1] + b',"x":"\\ud800"}'),
    _payload("not a number", "malformed", lambda claims: claims[:-1] + b',"x":NaN}'),
    _payload("nested", "malformed", lambda claims: claims[:-1] + b',"x":' + b"[" * 9000 + b"]" * 9000 + b"}"),
)
