"""The authorization server's guard, as disclosure needs it: authenticate, is still alive, spend of the day's rows."""

from __future__ import annotations

import asyncpg
from aiohttp import web

from proxy.disclosure.ports import Grant
from proxy.oauth.guard import Guard
from proxy.oauth.jws import use_hash
from proxy.registry.model import QuotaExceeded
from proxy.registry.service import spend_rows

_TIMEOUT_S = 2.0

# May an answer that has begun go on? As at its beginning (proxy/oauth/sql.py), but for the token's own end: what was
# permitted while the token lived may be finished, and a reader at the end of a slow line is no thief.
_ALIVE = """
SELECT EXISTS (
    SELECT FROM tollgate.client c
    JOIN tollgate.carrier r ON r.carrier_id = c.carrier_id AND r.disabled_at IS NULL
    JOIN tollgate.agreement a ON a.carrier_id = c.carrier_id AND a.reference = $2 AND a.disabled_at IS NULL
        AND a.in_force_from <= (now() AT TIME ZONE 'UTC')::date
        AND (a.in_force_to IS NULL OR (now() AT TIME ZONE 'UTC')::date < a.in_force_to)
    WHERE c.client_id = $1 AND c.disabled_at IS NULL AND NOT EXISTS (
        SELECT FROM tollgate.token_revoked v
        WHERE v.hash = $3 AND v.expires_day = ($4::timestamptz AT TIME ZONE 'UTC')::date))
"""


class Peers:
    """What disclosure asks about peers (disclosure/ports.Guard).

    Args:
        guard: the API's guard.
        pool: connections of role OAUTH.
        spending: connections of role OAUTH on which ``synchronous_commit`` may be off: a server that crashes forgets
            at most the last moment of the rows taken, and a small pull waits for one disk write less.
    """

    def __init__(self, guard: Guard, pool: asyncpg.Pool, spending: asyncpg.Pool) -> None:
        self._guard = guard
        self._pool = pool
        self._spending = spending

    async def authenticate(self, request: web.Request) -> Grant:
        """Return what the request may be for; raises AuthError."""
        return await self._guard.authenticate(request)

    async def alive(self, grant: Grant) -> bool:
        """Tell whether client, carrier, agreement and token are still good, by the database's clock."""
        token = use_hash("token", grant.client_id, grant.token_id)
        arguments = (grant.client_id, grant.agreement, token, grant.expires_at)
        return bool(await self._pool.fetchval(_ALIVE, *arguments, timeout=_TIMEOUT_S))

    async def spend(self, grant: Grant, rows: int) -> bool:
        """Take rows from the client's day, or give them back; False where there are not so many left."""
        try:
            async with self._spending.acquire(timeout=_TIMEOUT_S) as conn:
                await spend_rows(conn, grant.client_id, rows)
        except QuotaExceeded:
            return False
        return True
