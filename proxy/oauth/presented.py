"""What a request at the API presents (RFC 9449 section 7): its token and its proof, checked without the database.

The same for carriers' clients and for staff; which kind of token is taken, the reader says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from aiohttp import web

from keys.errors import KeysError
from proxy.config import Config
from proxy.oauth import dpop, peer
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.dpop import Proof
from proxy.oauth.errors import AuthError, Refused
from proxy.oauth.nonces import Nonces
from proxy.oauth.signing import Reads, TokenKeys
from proxy.oauth.tokens import same

NONCE: web.RequestKey[str] = web.RequestKey("tollgate.dpop_nonce", str)
"""The nonce for the answer's DPoP-Nonce header; http.py's signal puts it there."""


class Bound(Protocol):
    """A token that was read."""

    @property
    def jkt(self) -> str:
        """Thumbprint of the key that has to prove each use."""


B = TypeVar("B", bound=Bound)


class Presentations:
    """Checks tokens and proofs.

    Args:
        config: issuer, clock_skew_s.
        clock: the database's time.
        signing: the token signing keys.
    """

    def __init__(self, config: Config, clock: DatabaseClock, signing: TokenKeys) -> None:
        self._config = config
        self._clock = clock
        self._signing = signing
        self._nonces: Nonces | None = None

    def use_nonces(self, nonces: Nonces) -> None:
        """Take the nonces (their secret comes from the provider when the application starts)."""
        self._nonces = nonces

    def nonce(self) -> str:
        """Return the nonce that the next proof may bear.

        Raises:
            AuthError: 503, before the application has started.
        """
        if self._nonces is None:
            raise not_available("unavailable.keys")
        return self._nonces.current(self._clock.now())

    async def check(self, request: web.Request, reader: Reads[B]) -> tuple[B, Proof]:
        """Return the claims of the request's token, and its proof; the proof's single use is the caller's to store.

        Raises:
            AuthError: 400 (doubled or misplaced credentials), 401, 503 (no keys).
        """
        token_text, proof_text = _credentials(request)
        now, skew = self._clock.now(), self._config.clock_skew_s
        try:
            claims = await self._signing.read(reader, token_text, now=now, skew=skew)
        except (KeysError, OSError) as error:
            raise not_available("unavailable.keys") from error
        except Refused as refused:
            raise invalid_token(refused.reason) from refused
        url = self._config.issuer + peer.path(request)
        try:
            proof = dpop.check(proof_text, method=request.method, url=url, now=now, skew=skew, token=token_text)
        except Refused as refused:
            raise invalid_proof(refused.reason) from refused
        if not same(proof.jkt, claims.jkt):
            raise invalid_token("token.binding")
        if self._nonces is None or not self._nonces.good(proof.nonce, now):
            raise AuthError(401, "use_dpop_nonce", "a proof needs the nonce of the DPoP-Nonce header", "proof.nonce")
        return claims, proof


def _credentials(request: web.Request) -> tuple[str, str]:
    """Return the token and the proof from the headers (RFC 9449 section 7.1)."""
    if "access_token" in request.query:
        raise AuthError(400, "invalid_request", "a token is never sent in the URL", "token.query")
    given: Sequence[str] = request.headers.getall("Authorization", [])
    if not given:
        raise AuthError(401, "", "", "token.missing")
    if len(given) > 1:
        raise AuthError(400, "invalid_request", "one Authorization header", "token.duplicate")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() == "bearer":
        # RFC 9449 section 7.2: a bound token is never taken as a bearer token; and there are no others.
        raise invalid_token("token.scheme")
    if scheme.lower() != "dpop" or not token:
        raise AuthError(401, "", "", "token.scheme")
    proofs = request.headers.getall("DPoP", [])
    if len(proofs) != 1:
        raise invalid_proof("proof.duplicate" if proofs else "proof.missing")
    return token, proofs[0]


def invalid_token(reason: str, description: str = "the token is not good for this request") -> AuthError:
    """Return the refusal of a token (RFC 6750 section 3.1)."""
    return AuthError(401, "invalid_token", description, reason)


def invalid_proof(reason: str) -> AuthError:
    """Return the refusal of a proof (RFC 9449 section 7.1)."""
    return AuthError(401, "invalid_dpop_proof", "the DPoP proof is missing or not good", reason)


def not_available(reason: str) -> AuthError:
    """Return the refusal when a part is away: nothing is known then."""
    return AuthError(503, "temporarily_unavailable", "try again shortly", reason, {"Retry-After": "1"})
