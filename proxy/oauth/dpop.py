"""DPoP proofs (RFC 9449 section 4.3), for the token endpoint and the API. Pure; single use is stored by the caller."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from keys.encoding import b64url_encode
from proxy.oauth.errors import Refused
from proxy.oauth.jws import identifier, number, parse, use_hash, verify
from proxy.registry.jwk import JwkError, public_key

AGE_MAX_S = 60
"""How old a proof may be, seconds (before clock skew)."""

_REQUIRED = ("jti", "htm", "htu", "iat")
_VISIBLE = re.compile(r"[\x21-\x7e]{1,2048}", re.ASCII)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that was signed by the key it shows, for this request, now."""

    jkt: str
    """RFC 7638 thumbprint of its key."""
    nonce: object
    """What stands as ``nonce``; None where nothing does. The caller asks `Nonces`."""
    use: bytes
    """Hash of the identifier, to be stored until ``expires``."""
    expires: float


def check(text: str, *, method: str, url: str, now: float, skew: float, token: str | None = None) -> Proof:
    """Check a proof.

    Args:
        text: the DPoP header's value.
        method: the request's method.
        url: the request's URL as the issuer makes it known (never from the Host header), without query.
        now: seconds since 1970-01-01 UTC, by the database's clock.
        skew: seconds its ``iat`` may be ahead.
        token: the access token that it must name by ``ath``; None at the token endpoint.

    Raises:
        Refused: proof.*.
    """
    compact = parse("proof", text, ("dpop+jwt",), own_key=True)
    jwk = compact.header["jwk"]
    try:
        key = public_key(jwk if isinstance(jwk, dict) else {})
    except JwkError as error:
        raise Refused("proof.key") from error
    verify(compact, key, require=_REQUIRED)
    jti = identifier(compact)
    if compact.claims["htm"] != method:
        raise Refused("proof.method")
    if _normal(compact.claims["htu"]) != _normal(url):
        raise Refused("proof.url")
    issued = number(compact, "iat")
    if issued is None or not now - AGE_MAX_S - skew <= issued <= now + skew:
        raise Refused("proof.time")
    for name in ("exp", "nbf"):  # not of RFC 9449, but if they stand there they hold
        at = number(compact, name)
        if at is not None and (at <= now if name == "exp" else at > now + skew):
            raise Refused("proof.time")
    if token is not None:
        ath = compact.claims.get("ath")
        expected = b64url_encode(hashlib.sha256(token.encode()).digest())
        if not isinstance(ath, str) or not hmac.compare_digest(ath.encode(), expected.encode()):
            raise Refused("proof.ath")
    return Proof(
        key.thumbprint, compact.claims.get("nonce"), use_hash("proof", key.thumbprint, jti), issued + AGE_MAX_S + skew
    )


def _normal(url: object) -> str:
    """Return a URL in normal form (RFC 3986 sections 6.2.2 and 6.2.3), without query and fragment.

    Raises:
        Refused: proof.url, if it is no absolute https URL in visible ASCII, or has user information.
    """
    if not isinstance(url, str) or _VISIBLE.fullmatch(url) is None:
        raise Refused("proof.url")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused("proof.url") from error
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise Refused("proof.url")
    place = host if port in (None, 443) else f"{host}:{port}"
    return f"https://{place}{_ESCAPE.sub(_unescape, parts.path) or '/'}"


def _unescape(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return char if _UNRESERVED.fullmatch(char) else match[0].upper()
