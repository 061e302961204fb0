"""Access tokens (RFC 9068), always bound to a key (RFC 9449 section 6): what is written, what is read. Pure.

A token says: who (``sub`` = ``client_id``), for which one audience, what for (``scope``), how far
(``authorization_details``), under which agreement, got with which of the client's keys (``client_key``), and which
key must prove each use (``cnf.jkt``). It names; it decides nothing: what it names is held against the registry on
every use.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt

from keys.signing import SigningKey
from proxy.oauth import details
from proxy.oauth.details import SCOPE, Details
from proxy.oauth.errors import Refused
from proxy.oauth.jws import Compact, check_times, identifier, number, parse, use_hash, verify
from proxy.registry.jwk import JwkError, PublicKey, public_key
from proxy.registry.model import OcnOwnership

LIFETIME_MAX_S = 300
"""Longest life of a token, seconds (design: at most five minutes)."""

_HEADER = frozenset({"alg", "kid", "typ"})
_REQUIRED = ("iss", "aud", "sub", "client_id", "iat", "exp", "jti", "scope", "authorization_details", "cnf")
_THUMBPRINT_CHARS = 43


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request at the API may be for: the token as granted, joined with what the registry says now."""

    client_id: str
    carrier_id: str
    ocns: tuple[str, ...]
    """Of the token's OCNs, those that are the carrier's today."""
    ownership: tuple[OcnOwnership, ...]
    """When each of ``ocns`` was the carrier's: a record belongs to it only if its call lies in one of these periods."""
    purpose: str
    classes: frozenset[str]
    directions: frozenset[str]
    """``ingress``, ``egress`` or both."""
    window: tuple[int | None, int | None]
    """Narrowest and latest call start, half-open, microseconds since 1970-01-01 UTC; None: not narrowed."""
    token_id: str
    """``jti``."""
    jkt: str
    """RFC 7638 thumbprint of the key that proved this request."""
    agreement: str
    """Reference of the agreement in force that it was issued under."""
    expires_at: datetime
    address: str
    """Where the request came from."""
    client_key: str
    """Thumbprint of the client's registered key that the token was got with."""

    @property
    def token_hash(self) -> bytes:
        """What stands for the token among the revoked."""
        return use_hash("token", self.client_id, self.token_id)


@dataclass(frozen=True, slots=True)
class Claims:
    """A token of ours that was read and checked."""

    client_id: str
    token_id: str
    jkt: str
    client_key: str
    agreement: str
    details: Details
    issued: int
    expires: int

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return datetime.fromtimestamp(self.expires, UTC)

    @property
    def hash(self) -> bytes:
        """What stands for its identifier among the revoked."""
        return use_hash("token", self.client_id, self.token_id)


def expiry(issued: int, lifetime: int, agreement_end: float | None) -> int:
    """Return when a token ends: after its lifetime, at most five minutes, and never past its agreement.

    Args:
        issued: seconds since 1970-01-01 UTC.
        lifetime: seconds.
        agreement_end: when the agreement ends, seconds since 1970-01-01 UTC; None: open.
    """
    end = issued + min(lifetime, LIFETIME_MAX_S)
    return end if agreement_end is None else min(end, int(agreement_end))


def write(claims: Claims, issuer: str, key: SigningKey) -> str:
    """Sign an access token."""
    payload = {
        "iss": issuer,
        "aud": issuer,
        "sub": claims.client_id,
        "client_id": claims.client_id,
        "iat": claims.issued,
        "exp": claims.expires,
        "jti": claims.token_id,
        "scope": SCOPE,
        "authorization_details": claims.details.as_json(),
        "agreement": claims.agreement,
        "client_key": claims.client_key,
        "cnf": {"jkt": claims.jkt},
    }
    return jwt.encode(payload, key.private_key, algorithm=key.alg, headers={"typ": "at+jwt", "kid": key.kid})


class OwnTokens:
    """Tokens that we have signed, whatever they are for; remembers the keys it has parsed."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._keys: dict[str, PublicKey] = {}

    def opened(self, text: str, published: Sequence[Mapping[str, str]], *, now: float, skew: float) -> Compact:
        """Check an access token (RFC 9068 section 4) as far as it is the same for all, and return it taken apart.

        Args:
            text: the token.
            published: the public JWKs of our token signing keys; the token's ``kid`` must be exactly one of theirs.
            now: seconds since 1970-01-01 UTC.
            skew: seconds its ``iat`` may be ahead (another gateway's clock).

        Raises:
            Refused: token.*.
        """
        compact = parse("token", text, ("at+jwt",))
        if compact.header.keys() != _HEADER:
            raise Refused("token.header")
        verify(
            compact,
            self._key(compact.header["kid"], published),
            require=_REQUIRED,
            audience=self._issuer,
            issuer=self._issuer,
        )
        check_times(compact, now, skew, exp_max=LIFETIME_MAX_S + skew)
        return compact

    def _key(self, kid: object, published: Sequence[Mapping[str, str]]) -> PublicKey:
        """Look the kid up; a key that is no longer published is forgotten with it."""
        jwk = next((item for item in published if item.get("kid") == kid), None)
        if jwk is None:
            raise Refused("token.key")
        name = json.dumps(dict(jwk), sort_keys=True)
        if (key := self._keys.get(name)) is None:
            if len(self._keys) >= 16:
                self._keys.clear()
            try:
                key = self._keys[name] = public_key(jwk)
            except JwkError as error:
                raise Refused("token.key") from error
        return key


class Reader(OwnTokens):
    """Reads the tokens of carriers' clients."""

    def read(self, text: str, published: Sequence[Mapping[str, str]], *, now: float, skew: float) -> Claims:
        """Check an access token of a carrier's client and return what it says; arguments as `opened`.

        Raises:
            Refused: token.*; ``token.purpose`` for any other token of ours, a staff token too.
        """
        compact = self.opened(text, published, now=now, skew=skew)
        c = compact.claims
        if c["scope"] != SCOPE:
            raise Refused("token.purpose")
        subject, jkt = c["sub"], c["cnf"].get("jkt") if isinstance(c["cnf"], dict) else None
        issued, expires = number(compact, "iat"), number(compact, "exp")
        texts = (subject, c["client_id"], c.get("agreement"), c.get("client_key"), jkt)
        if not all(isinstance(value, str) and value for value in texts) or issued is None or expires is None:
            raise Refused("token.claims")
        if c["client_id"] != subject or len(jkt or "") != _THUMBPRINT_CHARS or c["cnf"].keys() != {"jkt"}:
            raise Refused("token.claims")
        try:
            narrowed = details.granted(c["authorization_details"])
        except Refused as error:
            raise Refused("token.claims") from error
        return Claims(
            client_id=subject,
            token_id=identifier(compact),
            jkt=str(jkt),
            client_key=c["client_key"],
            agreement=c["agreement"],
            details=narrowed,
            issued=int(issued),
            expires=int(expires),
        )


def same(left: str, right: str) -> bool:
    """Compare two thumbprints in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())
