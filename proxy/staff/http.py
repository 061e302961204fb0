"""The API of the staff registry: ``/v1/staff…`` (schema/openapi.yaml). What widens goes by ``/v1/changes``.

The order within a request: authenticate → parse → do, with its log entry in one transaction. Nothing the caller wrote
is echoed but what the registry has taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import date
from typing import Protocol

import asyncpg
from aiohttp import web

from proxy.bodies import json_object, nothing, text
from proxy.problems import Problem
from proxy.staff.model import Conflict, NotFound, StaffError, StaffGrant, StaffRole, check_staff_id
from proxy.staff.ports import StaffGuard
from proxy.staff.service import Staff
from proxy.staff.service import keys as signing_keys

_NO_STORE = {"Cache-Control": "no-store"}
_LOOKS = (StaffRole.OPERATOR, StaffRole.PRIVACY_OFFICER)
ACQUIRE_S = 5.0


class Guard(StaffGuard, Protocol):
    """The guard, which can also end a token."""

    async def revoke(self, grant: StaffGrant) -> None:
        """Revoke the grant's token, and enter it; raises AuthError, 503."""


class StaffApi:
    """The handlers.

    Args:
        staff: the registry, with its ledger.
        guard: of staff routes.
        pool: connections of role OPERATOR.
    """

    def __init__(self, staff: Staff, guard: Guard, pool: asyncpg.Pool) -> None:
        self._staff = staff
        self._guard = guard
        self._pool = pool

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/staff/me", self.me, allow_head=False)
        app.router.add_delete("/v1/staff/me/token", self.logout)
        app.router.add_get("/v1/staff", self.everybody, allow_head=False)
        app.router.add_get("/v1/staff/{id}", self.one, allow_head=False)
        app.router.add_post("/v1/staff/{id}/training", self.train)
        app.router.add_post("/v1/staff/{id}/suspension", self.suspend)
        app.router.add_post("/v1/staff/{id}/roles/{role}/end", self.end_role)
        app.router.add_post("/v1/staff/{id}/keys/{kid}/end", self.end_key)

    async def me(self, request: web.Request) -> web.Response:
        """GET /v1/staff/me: who the token says that one is, and until when one is trained."""
        grant = await self._guard.authenticate(request)
        nothing(request)
        return await self._show(grant.staff_id, {"granted": sorted(role.value for role in grant.roles)})

    async def logout(self, request: web.Request) -> web.Response:
        """DELETE /v1/staff/me/token: the token that asks is dead."""
        grant = await self._guard.authenticate(request)
        nothing(request)
        await self._guard.revoke(grant)
        return web.Response(status=204, headers=_NO_STORE)

    async def everybody(self, request: web.Request) -> web.Response:
        """GET /v1/staff."""
        await self._guard.authenticate(request, *_LOOKS)
        nothing(request)
        async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
            found = await self._staff.everybody(conn)
        return web.json_response({"staff": [record.as_json() for record in found]}, headers=_NO_STORE)

    async def one(self, request: web.Request) -> web.Response:
        """GET /v1/staff/{id}, with the keys that sign certificates."""
        await self._guard.authenticate(request, *_LOOKS)
        nothing(request)
        return await self._show(_staff_id(request))

    async def train(self, request: web.Request) -> web.Response:
        """POST /v1/staff/{id}/training: record a training of somebody else (47 CFR 64.2009(b))."""
        grant = await self._guard.authenticate(request, *_LOOKS)
        staff_id = _staff_id(request)
        body = await json_object(request, ("completed_on", "course"))
        try:
            day = date.fromisoformat(text(body, "completed_on"))
        except ValueError as error:
            raise Problem("parameter", "A day is written YYYY-MM-DD.", parameter="completed_on") from error
        with _problems():
            async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                await self._staff.train(conn, staff_id, day, text(body, "course"), grant)
        return await self._show(staff_id, status=201)

    async def suspend(self, request: web.Request) -> web.Response:
        """POST /v1/staff/{id}/suspension: at once; to lift it takes a change."""
        grant = await self._guard.authenticate(request, StaffRole.OPERATOR)
        staff_id = _staff_id(request)
        body = await json_object(request, ("reason",))
        with _problems():
            async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                await self._staff.suspend(conn, staff_id, text(body, "reason"), grant)
        return await self._show(staff_id, status=201)

    async def end_role(self, request: web.Request) -> web.Response:
        """POST /v1/staff/{id}/roles/{role}/end: at once; to give it again takes a change."""
        grant = await self._guard.authenticate(request, StaffRole.OPERATOR)
        staff_id = _staff_id(request)
        body = await json_object(request, ("reason",))
        try:
            role = StaffRole(request.match_info["role"])
        except ValueError as error:
            raise Problem("not_found") from error
        with _problems():
            async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                await self._staff.end_role(conn, staff_id, role, text(body, "reason"), grant)
        return await self._show(staff_id)

    async def end_key(self, request: web.Request) -> web.Response:
        """POST /v1/staff/{id}/keys/{kid}/end: nothing that the key signs from now on is taken."""
        grant = await self._guard.authenticate(request, StaffRole.OPERATOR)
        staff_id = _staff_id(request)
        kid = request.match_info["kid"]
        body = await json_object(request, ("reason",))
        if not kid.isprintable():
            raise Problem("not_found")
        with _problems():
            async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                await self._staff.end_key(conn, staff_id, kid, text(body, "reason"), grant)
        return await self._show(staff_id)

    async def _show(
        self, staff_id: str, more: dict[str, list[str]] | None = None, *, status: int = 200
    ) -> web.Response:
        with _problems():
            async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                record = await self._staff.one(conn, staff_id)
                held = await signing_keys(conn, staff_id)
        shown = [
            {
                "kid": key.kid,
                "alg": key.alg,
                "thumbprint": key.thumbprint,
                "added_at": key.added_at.isoformat(),
                "ended_at": None if key.ended_at is None else key.ended_at.isoformat(),
            }
            for key in held
        ]
        body = {**record.as_json(), "keys": shown, **(more or {})}
        return web.json_response(body, status=status, headers=_NO_STORE)


def _staff_id(request: web.Request) -> str:
    try:
        return check_staff_id(request.match_info["id"])
    except StaffError as error:
        raise Problem("not_found") from error


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """Answer the registry's refusals: their words are fixed, but for ids that stand in the registry."""
    try:
        yield
    except NotFound as error:
        raise Problem("not_found") from error
    except Conflict as error:
        raise Problem("conflict", str(error)) from error
    except StaffError as error:
        raise Problem("parameter", str(error)) from error
