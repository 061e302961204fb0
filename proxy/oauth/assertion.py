"""Client authentication by ``private_key_jwt`` (RFC 7523 section 3, FAPI 2.0 section 5.3.2.1). Pure.

Every failure costs about the same and looks the same from outside: where there is no key to check with, a key of
nobody's is used, for the algorithm that the assertion names.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.encoding import b64url_encode
from proxy.oauth.errors import Refused
from proxy.oauth.jws import Compact, check_times, identifier, number, parse, use_hash, verify
from proxy.registry.jwk import PublicKey, public_key

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

LIFETIME_MAX_S = 300
"""How far ahead ``exp`` may be, seconds (before clock skew)."""

_REQUIRED = ("iss", "sub", "aud", "exp", "jti")
_CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proven:
    """Who signed: the client, with which of its keys; and the assertion's single use."""

    client_id: str
    key: PublicKey
    use: bytes
    """Hash of the identifier, to be stored until ``expires``."""
    expires: float


def read(text: str) -> Compact:
    """Take an assertion apart.

    Raises:
        Refused: assertion.malformed, .header, .type or .alg.
    """
    return parse("assertion", text, ("", "jwt", "client-authentication+jwt"))


def claimed_client(compact: Compact) -> str:
    """Return the client id that the assertion claims; empty where it is none that could be registered."""
    issuer = compact.claims.get("iss")
    return issuer if isinstance(issuer, str) and _CLIENT_ID.fullmatch(issuer) else ""


def check(
    compact: Compact, keys: Mapping[str, PublicKey], *, issuer: str, now: float, skew: float, client_id: str | None
) -> Proven:
    """Check an assertion against the claimed client's live keys.

    Args:
        compact: what `read` returned.
        keys: the keys by kid; empty for a client that does not exist or is disabled.
        issuer: our issuer, the only audience.
        now: seconds since 1970-01-01 UTC, by the database's clock.
        skew: seconds an ``iat`` or ``nbf`` may be ahead.
        client_id: the form's parameter, if it was given: it must be the same.

    Raises:
        Refused: client.unknown, client.id or assertion.*.
    """
    claimed = claimed_client(compact)
    key = _key(compact, keys)
    if key is None or key.alg != compact.alg:
        with contextlib.suppress(Refused):
            verify(compact, _NOBODY[compact.alg], require=_REQUIRED, audience=issuer)
        raise Refused("assertion.key" if keys else "client.unknown")
    verify(compact, key, require=_REQUIRED, audience=issuer, issuer=claimed, subject=claimed)
    if client_id is not None and client_id != claimed:
        raise Refused("client.id")
    check_times(compact, now, skew, exp_max=LIFETIME_MAX_S + skew)
    jti = identifier(compact)
    return Proven(claimed, key, use_hash("assertion", claimed, jti), number(compact, "exp") or 0.0)


def _key(compact: Compact, keys: Mapping[str, PublicKey]) -> PublicKey | None:
    """Look the key up by its exact kid; without kid only a client's sole key can be meant."""
    if "kid" in compact.header:
        kid: Any = compact.header["kid"]
        return keys.get(kid) if isinstance(kid, str) else None
    return next(iter(keys.values())) if len(keys) == 1 else None


def _nobodys() -> dict[str, PublicKey]:
    """Make a public key for each algorithm, whose private half nobody has."""
    point = generate_private_key(SECP256R1()).public_key().public_numbers()
    raw = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    # Not a product of two primes we know: verification does the same work and never succeeds.
    modulus = b"".join(hashlib.sha512(bytes([i])).digest() for i in range(4))
    modulus = bytes([modulus[0] | 0x80]) + modulus[1:-1] + bytes([modulus[-1] | 1])
    sized = {"x": b64url_encode(point.x.to_bytes(32, "big")), "y": b64url_encode(point.y.to_bytes(32, "big"))}
    return {
        "ES256": public_key({"kty": "EC", "crv": "P-256", **sized}),
        "EdDSA": public_key({"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(raw)}),
        "PS256": public_key({"kty": "RSA", "e": "AQAB", "n": b64url_encode(modulus)}),
    }


_NOBODY = _nobodys()
