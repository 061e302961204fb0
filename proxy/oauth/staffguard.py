"""The guard of staff routes: from a request to a `StaffGrant`, or a refusal (RFC 9449 section 7, RFC 6750 section 3.1).

As for carriers' clients, token and proof are checked by signature first; then one statement says what is so now. So a
suspension, a lost role and a training that ran out are dead at the next request, on every gateway.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from proxy import metrics
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, LedgerUnavailable
from proxy.ledger.service import Ledger
from proxy.oauth import peer
from proxy.oauth.admission import LOST, Use
from proxy.oauth.errors import AuthError
from proxy.oauth.presented import NONCE, Presentations, invalid_proof, invalid_token, not_available
from proxy.oauth.staffadmission import SAYS, StaffAdmissions
from proxy.oauth.stafftokens import StaffReader
from proxy.problems import Problem
from proxy.server import DESK
from proxy.staff.model import StaffGrant, StaffRole

STAFF: web.RequestKey[str] = web.RequestKey("tollgate.staff", str)
"""Whose request it is, for the request log: an id of ours."""

ROLE_CITATION = "47 U.S.C. 222(c)(1)"
"""Why a role is asked for: access is permitted to nobody but for what the law names."""


class StaffGuard:
    """Authenticates requests of staff (proxy/staff/ports.py).

    Args:
        config: issuer.
        admissions: the database.
        presentations: checks tokens and proofs.
        ledger: where refusals of people who proved themselves are entered.
        refused: told the reason of every other refusal (RefusalSummary.count).
    """

    def __init__(
        self,
        config: Config,
        admissions: StaffAdmissions,
        presentations: Presentations,
        ledger: Ledger,
        refused: Callable[[str], None],
    ) -> None:
        self._admissions = admissions
        self._presentations = presentations
        self._ledger = ledger
        self._refused = refused
        self._reader = StaffReader(config.issuer)

    async def authenticate(self, request: web.Request, *roles: StaffRole) -> StaffGrant:
        """Return what a request may be for; see the port.

        Raises:
            Problem: 403 ``denied``, reason ``staff.role``.
            AuthError: 400, 401, 429 or 503.
        """
        try:
            request[NONCE] = self._presentations.nonce()
            grant = await self._authenticate(request)
        except AuthError as error:
            metrics.AUTH_REFUSALS.labels(reason=error.reason).inc()
            raise
        request[STAFF] = grant.staff_id
        request[DESK] = grant.holds(StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER)
        if roles and not grant.holds(*roles):
            metrics.AUTH_REFUSALS.labels(reason="staff.role").inc()
            await self._deny(grant, "staff.role", roles)
            members = {"reason": "staff.role", "citation": ROLE_CITATION}
            raise Problem("denied", "The person has none of the roles that this is for.", members=members)
        return grant

    async def alive(self, grant: StaffGrant, *roles: StaffRole) -> bool:
        """Say whether the grant still stands, for one of ``roles`` (none given: of its own); see the port.

        Raises:
            AuthError: 503, if the database is away.
        """
        try:
            return await self._admissions.live(grant, grant.roles & set(roles) if roles else grant.roles)
        except LOST as error:
            raise not_available("unavailable.database") from error

    async def revoke(self, grant: StaffGrant) -> None:
        """Revoke the grant's token, and enter it.

        Raises:
            AuthError: 503, if a part is away.
        """
        try:
            # Dead first, then entered: dying in between leaves a dead token.
            await self._admissions.revoke(grant)
            await self._ledger.append(
                Entry(Kind.TOKEN_REVOKED, grant.actor(), {"token_id": grant.token_id}, tags=grant.tags())
            )
        except LOST as error:
            raise not_available("unavailable.database") from error
        except LedgerUnavailable as error:
            raise not_available("unavailable.log") from error

    async def _authenticate(self, request: web.Request) -> StaffGrant:
        try:
            claims, proof = await self._presentations.check(request, self._reader)
        except AuthError as error:
            if error.error != "use_dpop_nonce":  # a step of the protocol, not a refusal to tell of
                self._refused(error.reason)
            raise
        try:
            admission = await self._admissions.using(claims, [Use(proof.use, proof.expires)])
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
        grant = StaffGrant(
            staff_id=claims.staff_id,
            roles=claims.roles & admission.roles,
            token_id=claims.token_id,
            jkt=claims.jkt,
            address=peer.address(request),
            expires_at=claims.expires_at,
            token_hash=claims.hash,
        )
        reason = admission.refusal()
        if reason is None and admission.revoked:
            reason = "token.revoked"
        if reason is None and admission.now >= claims.expires:
            reason = "token.time"
        if reason is None and not grant.roles:
            reason = "staff.role"
        if reason is not None:
            await self._deny(grant, reason)
            raise invalid_token(reason, SAYS.get(reason, "the token is not good for this request"))
        return grant

    async def _deny(self, grant: StaffGrant, reason: str, roles: tuple[StaffRole, ...] = ()) -> None:
        """Enter the refusal of somebody who proved themselves. The answer is a refusal whether or not this succeeds."""
        asked = {"decision": "deny", "reason": reason, **({"roles": [r.value for r in roles]} if roles else {})}
        try:
            await self._ledger.append(Entry(Kind.ACCESS_DENIED, grant.actor(), asked, tags=grant.tags()))
        except LedgerUnavailable as error:
            raise not_available("unavailable.log") from error
