"""The guard of the API (RFC 9449 section 7): from a request to a `Grant`, or an `AuthError`.

The token and the proof are checked by signature first; then one statement, by the database's clock, holds them against
what is so now: client, carrier and key enabled, network allowed, token not revoked, agreement in force, proof never
used, requests of the minute not spent. So a disabled client and a revoked token are dead with the COMMIT that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import asyncpg
from aiohttp import web

from keys.errors import KeysError
from proxy import metrics
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, LedgerUnavailable, Tag
from proxy.ledger.service import Ledger
from proxy.oauth import details, dpop, peer
from proxy.oauth.admission import LOST, TIMEOUT_S, Admission, Admissions, Use
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.dpop import Proof
from proxy.oauth.errors import AuthError, Refused
from proxy.oauth.nonces import Nonces
from proxy.oauth.signing import TokenKeys
from proxy.oauth.tokens import Claims, Grant, Reader, same
from proxy.registry.model import QuotaExceeded
from proxy.registry.service import spend_rows

NONCE: web.RequestKey[str] = web.RequestKey("tollgate.dpop_nonce", str)
"""The nonce for the answer's DPoP-Nonce header; http.py's signal puts it there."""


class Held(Protocol):
    """What a grant stands on."""

    @property
    def client_id(self) -> str: ...
    @property
    def client_key(self) -> str: ...
    @property
    def token_hash(self) -> bytes: ...
    @property
    def expires_at(self) -> datetime: ...
    @property
    def agreement(self) -> str: ...


class Guard:
    """Authenticates requests at the API.

    Args:
        config: issuer, clock_skew_s.
        pool: connections of role OAUTH.
        admissions: the same database, as statements.
        clock: its time.
        signing: the token signing keys.
        ledger: where refusals of known clients are entered.
        refused: told the reason of every other refusal (RefusalSummary.count).
    """

    def __init__(
        self,
        config: Config,
        pool: asyncpg.Pool,
        admissions: Admissions,
        clock: DatabaseClock,
        signing: TokenKeys,
        ledger: Ledger,
        refused: Callable[[str], None],
    ) -> None:
        self._config = config
        self._pool = pool
        self._admissions = admissions
        self._clock = clock
        self._signing = signing
        self._ledger = ledger
        self._refused = refused
        self._reader = Reader(config.issuer)
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
            raise _unavailable("unavailable.keys")
        return self._nonces.current(self._clock.now())

    async def authenticate(self, request: web.Request) -> Grant:
        """Return what the request may be for.

        A refusal of a client that proved itself is entered in the access log; any other is counted. Raised errors
        carry all headers of the answer; a good answer gets its DPoP-Nonce by itself.

        Raises:
            AuthError: 400 (doubled or misplaced credentials), 401, 429 (requests of the minute are spent), 503.
        """
        try:
            request[NONCE] = self.nonce()
            return await self._authenticate(request)
        except AuthError as error:
            metrics.AUTH_REFUSALS.labels(reason=error.reason).inc()
            raise

    async def alive(self, grant: Held) -> bool:
        """Say whether the client, its carrier and key, the agreement and the token are still good.

        For answers that take long. A token's expiry ends no answer that began before it.

        Raises:
            AuthError: 503, if the database is away: nothing is known then, so go no further.
        """
        held = (grant.client_id, grant.client_key, grant.token_hash, grant.expires_at, grant.agreement)
        try:
            return await self._admissions.live(*held)
        except LOST as error:
            raise _unavailable("unavailable.database") from error

    async def spend_rows(self, client_id: str, rows: int) -> int:
        """Take rows from the client's quota of the day, all or nothing; a negative number gives back. See registry.

        Returns:
            How many remain.

        Raises:
            QuotaExceeded: if fewer remain; nothing was taken.
            AuthError: 503, if the database is away.
        """
        try:
            async with self._pool.acquire(timeout=TIMEOUT_S) as conn:
                return await spend_rows(conn, client_id, rows)
        except LOST as error:
            raise _unavailable("unavailable.database") from error

    async def spend(self, grant: Grant, rows: int) -> bool:
        """As `spend_rows`; False where there are not so many left.

        Raises:
            AuthError: 503, if the database is away.
        """
        try:
            await self.spend_rows(grant.client_id, rows)
        except QuotaExceeded:
            return False
        return True

    async def _authenticate(self, request: web.Request) -> Grant:
        try:
            token_text, proof_text = _credentials(request)
            claims, proof = await self._check(request, token_text, proof_text)
        except AuthError as error:
            if error.error != "use_dpop_nonce":  # a step of the protocol, not a refusal to tell of
                self._refused(error.reason)
            raise
        address = peer.address(request)
        try:
            admission = await self._admissions.admit(
                claims.client_id, claims.client_key, address, [Use(proof.use, proof.expires)], claims
            )
        except LOST as error:
            raise _unavailable("unavailable.database") from error
        if proof.use not in admission.kept:
            # Whoever replays has not the key: counted, not entered, so that nobody can fill the log with one capture.
            self._refused("proof.replay")
            raise _invalid_proof("proof.replay")
        if admission.over:
            self._refused("rate.exceeded")
            wait = {"Retry-After": str(admission.retry_after)}
            raise AuthError(429, "temporarily_unavailable", "too many requests", "rate.exceeded", wait)
        if reason := _dead(claims, admission):
            await self._deny(claims, address, reason)
            raise _invalid_token(reason)
        held = set(claims.details.ocns)
        ownership = tuple(item for item in admission.ownership if item.ocn in held)
        return Grant(
            client_id=claims.client_id,
            carrier_id=admission.carrier_id,
            ocns=tuple(sorted({item.ocn for item in ownership})),
            ownership=ownership,
            purpose=details.PURPOSE.value,
            classes=frozenset(claims.details.classes),
            directions=frozenset(claims.details.directions),
            window=(claims.details.start_us, claims.details.end_us),
            token_id=claims.token_id,
            jkt=claims.jkt,
            agreement=claims.agreement,
            expires_at=claims.expires_at,
            address=address,
            client_key=claims.client_key,
        )

    async def _check(self, request: web.Request, token_text: str, proof_text: str) -> tuple[Claims, Proof]:
        """Check token and proof without the database."""
        now, skew = self._clock.now(), self._config.clock_skew_s
        try:
            claims = await self._signing.read(self._reader, token_text, now=now, skew=skew)
        except (KeysError, OSError) as error:
            raise _unavailable("unavailable.keys") from error
        except Refused as refused:
            raise _invalid_token(refused.reason) from refused
        url = self._config.issuer + peer.path(request)
        try:
            proof = dpop.check(proof_text, method=request.method, url=url, now=now, skew=skew, token=token_text)
        except Refused as refused:
            raise _invalid_proof(refused.reason) from refused
        if not same(proof.jkt, claims.jkt):
            raise _invalid_token("token.binding")
        if self._nonces is None or not self._nonces.good(proof.nonce, now):
            raise AuthError(401, "use_dpop_nonce", "a proof needs the nonce of the DPoP-Nonce header", "proof.nonce")
        return claims, proof

    async def _deny(self, claims: Claims, address: str, reason: str) -> None:
        """Enter the refusal of a client that proved itself. The answer is a refusal whether or not this succeeds."""
        tags = [Tag("client", claims.client_id.encode()), Tag("jkt", claims.jkt.encode())]
        entry = Entry(
            Kind.ACCESS_DENIED,
            actor={
                "client_id": claims.client_id,
                "token_id": claims.token_id,
                "key_thumbprint": claims.jkt,
                "address": address,
            },
            request={"decision": "deny", "reason": reason},
            tags=(*tags, Tag("token", claims.token_id.encode()), Tag("address", address.encode())),
        )
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable as error:
            raise _unavailable("unavailable.log") from error


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
        raise _invalid_token("token.scheme")
    if scheme.lower() != "dpop" or not token:
        raise AuthError(401, "", "", "token.scheme")
    proofs = request.headers.getall("DPoP", [])
    if len(proofs) != 1:
        raise _invalid_proof("proof.duplicate" if proofs else "proof.missing")
    return token, proofs[0]


def _dead(claims: Claims, admission: Admission) -> str | None:
    """Say why a token that is well formed and proven may not be used any more; None if it may."""
    if not admission.enabled:
        return "client.disabled"
    if not admission.inside:
        return "client.network"
    if admission.revoked:
        return "token.revoked"
    if admission.now >= claims.expires:
        return "token.time"
    if admission.agreement is None:
        return "agreement.absent"
    return None


def _invalid_token(reason: str) -> AuthError:
    return AuthError(401, "invalid_token", "the token is not good for this request", reason)


def _invalid_proof(reason: str) -> AuthError:
    return AuthError(401, "invalid_dpop_proof", "the DPoP proof is missing or not good", reason)


def _unavailable(reason: str) -> AuthError:
    return AuthError(503, "temporarily_unavailable", "try again shortly", reason, {"Retry-After": "1"})
