"""The authorization server's guard, as disclosure needs it: authenticate, is still alive, spend of the day's rows."""

from __future__ import annotations

import asyncio

import asyncpg
from aiohttp import web

from proxy.disclosure.ports import Grant
from proxy.oauth.guard import Guard
from proxy.registry.model import QuotaExceeded
from proxy.registry.service import spend_rows

_TIMEOUT_S = 2.0


class Peers:
    """What disclosure asks about peers (disclosure/ports.Guard).

    Args:
        guard: the API's guard.
        spending: connections of role OAUTH on which ``synchronous_commit`` may be off: a server that crashes forgets
            at most the last moment of the rows taken, and a small pull waits for one disk write less.
    """

    def __init__(self, guard: Guard, spending: asyncpg.Pool) -> None:
        self._guard = guard
        self._spending = spending

    async def authenticate(self, request: web.Request) -> Grant:
        """Return what the request may be for; raises AuthError."""
        return await self._guard.authenticate(request)

    async def alive(self, grant: Grant) -> bool:
        """Tell whether client, key, carrier, agreement and token are still good, by the database's clock.

        The token's own end is not looked at: what was permitted while it lived may be finished, and a reader at the
        end of a slow line is no thief. Raises where it could not be asked.
        """
        async with asyncio.timeout(_TIMEOUT_S):
            return await self._guard.alive(grant)

    async def spend(self, grant: Grant, rows: int) -> bool:
        """Take rows from the client's day, or give them back; False where there are not so many left."""
        try:
            async with self._spending.acquire(timeout=_TIMEOUT_S) as conn:
                await spend_rows(conn, grant.client_id, rows)
        except QuotaExceeded:
            return False
        return True
