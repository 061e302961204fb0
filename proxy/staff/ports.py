"""The guard of staff routes, as the parts behind them need it. proxy/oauth/staffguard.py is the real one."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from proxy.staff.model import StaffGrant, StaffRole


class StaffGuard(Protocol):
    """Authenticates requests of members of staff."""

    async def authenticate(self, request: web.Request, *roles: StaffRole) -> StaffGrant:
        """Return what a request may be for: a good staff token, with a good proof, of somebody with one of ``roles``.

        By one statement on each request: not suspended, trained, the token not revoked, the role not lost. The answer's
        DPoP-Nonce is put there by itself. A carrier's token is never taken, nor a staff token by the carriers' guard.

        Args:
            request: the request.
            roles: any of these is enough; none given: any role.

        Raises:
            Problem: 403 ``denied``, the role is missing; it is entered in the log. (Answered by problems.middleware.)
            AuthError: 400, 401, 429 or 503, as the carriers' guard. (Answered by problems.middleware.)
        """

    async def alive(self, grant: StaffGrant, *roles: StaffRole) -> bool:
        """Say whether the person is still trained, not suspended, has one of ``roles``, and the token is not revoked.

        For what takes long; the token's expiry is not looked at.

        Raises:
            AuthError: 503, if the database is away: nothing is known then, so go no further.
        """
