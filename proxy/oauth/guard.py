"""The guard of the API (RFC 9449 section 7): from a request to a `Grant`, or an `AuthError`.

The token and the proof are checked by signature first; then one statement, by the database's clock, holds them against
what is so now: client, carrier and key enabled, network allowed, token not revoked, agreement in force, proof never
used, requests of the minute not spent. So a disabled client and a revoked token are dead with the COMMIT that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import asyncpg
from aiohttp import web

from proxy import metrics
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, LedgerUnavailable, Tag
from proxy.ledger.service import Ledger
from proxy.oauth import details, peer
from proxy.oauth.admission import LOST, TIMEOUT_S, Admission, Admissions, Use
from proxy.oauth.errors import AuthError
from proxy.oauth.presented import NONCE, Presentations, invalid_proof, invalid_token, not_available
from proxy.oauth.tokens import Claims, Grant, Reader
from proxy.registry.model import QuotaExceeded
from proxy.registry.service import spend_rows


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
        config: issuer.
        pool: connections of role OAUTH.
        admissions: the same database, as statements.
        presentations: checks tokens and proofs.
        ledger: where refusals of known clients are entered.
        refused: told the reason of every other refusal (RefusalSummary.count).
    """

    def __init__(
        self,
        config: Config,
        pool: asyncpg.Pool,
        admissions: Admissions,
        presentations: Presentations,
        ledger: Ledger,
        refused: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._admissions = admissions
        self._ledger = ledger
        self._refused = refused
        self._reader = Reader(config.issuer)
        self.presentations = presentations

    async def authenticate(self, request: web.Request) -> Grant:
        """Return what the request may be for.

        A refusal of a client that proved itself is entered in the access log; any other is counted. Raised errors
        carry all headers of the answer; a good answer gets its DPoP-Nonce by itself.

        Raises:
            AuthError: 400 (doubled or misplaced credentials), 401, 429 (requests of the minute are spent), 503.
        """
        try:
            request[NONCE] = self.presentations.nonce()
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
            raise not_available("unavailable.database") from error

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
            raise not_available("unavailable.database") from error

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
            claims, proof = await self.presentations.check(request, self._reader)
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
            raise not_available("unavailable.database") from error
        if proof.use not in admission.kept:
            # Whoever replays has not the key: counted, not entered, so that nobody can fill the log with one capture.
            self._refused("proof.replay")
            raise invalid_proof("proof.replay")
        if admission.over:
            self._refused("rate.exceeded")
            wait = {"Retry-After": str(admission.retry_after)}
            raise AuthError(429, "temporarily_unavailable", "too many requests", "rate.exceeded", wait)
        if reason := _dead(claims, admission):
            await self._deny(claims, address, reason)
            raise invalid_token(reason)
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
            raise not_available("unavailable.log") from error


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
