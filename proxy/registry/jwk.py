"""Public keys of clients as JWKs (RFC 7517, 7518, 8037): which are taken, for which one algorithm, and their names.

Three kinds, each good for exactly one algorithm: EC P-256 for ES256, OKP Ed25519 for EdDSA, RSA of 2048 to 4096 bits
for PS256. What a key says of itself (``alg``, ``use``, ``key_ops``) may agree with that, never change it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from keys.encoding import EncodingError, b64url_decode, b64url_encode

ALGORITHMS = ("ES256", "EdDSA", "PS256")
"""JOSE algorithms of assertions, proofs and tokens (FAPI 2.0 security profile, section 5.4)."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_INDIRECT = frozenset({"x5u", "jku"})
_REQUIRED = {"EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "RSA": ("e", "n")}
_RSA_BITS = range(2048, 4097)
_KID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


class JwkError(ValueError):
    """The key is not one that is taken; the message says why and never repeats a value."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A checked public key: the one algorithm it is good for, its RFC 7638 thumbprint, and PyJWT's object."""

    alg: str
    thumbprint: str
    jwk: dict[str, str]
    """The required members only."""
    key: jwt.PyJWK


def public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """Check a JWK and return the key.

    Args:
        jwk: the JSON object; members that are not looked at are dropped.

    Raises:
        JwkError: on private parts, a symmetric key, another type, curve, algorithm or use, a key that is too short
            or too long, members that are not canonical base64url, or a point that is not on the curve.
    """
    if _PRIVATE & jwk.keys():
        raise JwkError("the key has private parts: give the public key only, and make a new one, for this one is known")
    if _INDIRECT & jwk.keys():
        raise JwkError("the key points elsewhere (x5u, jku): give the key itself")
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _REQUIRED:
        raise JwkError("kty must be EC, OKP or RSA")
    core = {"kty": kty}
    for name in _REQUIRED[kty]:
        value = jwk.get(name)
        if not isinstance(value, str) or len(value) > 1024:
            raise JwkError(f"{name} is missing or no text")
        core[name] = value
    alg = _algorithm(core)
    if jwk.get("alg", alg) != alg:
        raise JwkError(f"alg must be {alg} for this key")
    if jwk.get("use", "sig") != "sig":
        raise JwkError("use must be sig")
    if jwk.get("key_ops", ["verify"]) != ["verify"]:
        raise JwkError('key_ops must be ["verify"]')
    try:
        key = jwt.PyJWK(core, algorithm=alg)
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JwkError("the key's numbers are no key (not on the curve, or out of range)") from error
    return PublicKey(alg, thumbprint(core), core, key)


def _algorithm(core: Mapping[str, str]) -> str:
    if core["kty"] == "EC":
        if core["crv"] != "P-256":
            raise JwkError("crv must be P-256")
        if len(_bytes(core, "x")) != 32 or len(_bytes(core, "y")) != 32:
            raise JwkError("x and y must be 32 bytes")
        return "ES256"
    if core["kty"] == "OKP":
        if core["crv"] != "Ed25519":
            raise JwkError("crv must be Ed25519")
        if len(_bytes(core, "x")) != 32:
            raise JwkError("x must be 32 bytes")
        return "EdDSA"
    modulus, exponent = _integer(core, "n"), _integer(core, "e")
    if modulus.bit_length() not in _RSA_BITS or modulus % 2 == 0:
        raise JwkError(f"an RSA key must have {_RSA_BITS.start} to {_RSA_BITS.stop - 1} bits")
    # FIPS 186-5 section 5.4 takes odd exponents from 2^16 + 1; a huge one would make verification slow.
    if not 65_537 <= exponent < 1 << 32 or exponent % 2 == 0:
        raise JwkError("an RSA key's e must be odd, from 65537 to 2^32")
    return "PS256"


def _bytes(core: Mapping[str, str], name: str) -> bytes:
    try:
        return b64url_decode(core[name])
    except EncodingError as error:
        raise JwkError(f"{name} is not base64url without padding") from error


def _integer(core: Mapping[str, str], name: str) -> int:
    data = _bytes(core, name)
    if data[:1] in (b"", b"\x00"):
        raise JwkError(f"{name} must not begin with a zero byte")  # RFC 7518 section 2: the fewest bytes
    return int.from_bytes(data, "big")


def thumbprint(core: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint (SHA-256, base64url) of a JWK's required members."""
    members = {name: core[name] for name in ("kty", *_REQUIRED[core["kty"]])}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return b64url_encode(hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True, slots=True)
class RegisteredKey:
    """A client's key as it is stored."""

    kid: str
    public: PublicKey

    def as_jwk(self) -> dict[str, str]:
        """Return the JWK that is kept: required members, and what the checks have found."""
        return {**self.public.jwk, "kid": self.kid, "alg": self.public.alg, "use": "sig"}


def registered(jwk: Mapping[str, Any]) -> RegisteredKey:
    """Check a key that is to be registered; without ``kid`` it is known by its thumbprint.

    Raises:
        JwkError: as `public_key`, or on a kid that is not 1 to 128 printable ASCII characters.
    """
    public = public_key(jwk)
    kid = jwk.get("kid", public.thumbprint)
    if not isinstance(kid, str) or _KID.fullmatch(kid) is None:
        raise JwkError("kid must be 1 to 128 printable ASCII characters without blanks")
    return RegisteredKey(kid, public)


def key_set(text: bytes | str) -> list[Mapping[str, Any]]:
    """Return the keys of a JWK or a JWK Set (RFC 7517 section 5), unchecked.

    Raises:
        JwkError: if the text is neither.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JwkError("this is not JSON") from error
    if isinstance(value, dict) and "keys" in value:
        value = value["keys"]
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(item, dict) for item in found):
        raise JwkError("this is neither a JWK nor a JWK Set with keys")
    return found
