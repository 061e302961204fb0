"""The API of changes: ``/v1/changes…`` (schema/openapi.yaml).

The order within a request: authenticate → parse → do, with its log entries in one transaction. A refusal's words are
those of the part that refuses: they name what stands in the registries, or repeat what it took for well formed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from uuid import UUID

from aiohttp import web

from proxy.bodies import json_object, nothing, text
from proxy.changes.model import Change, NotOpen, OtherDigest, OwnChange, State, UnknownChange, WrongRole
from proxy.changes.service import LIST_MAX, Changes
from proxy.problems import Problem
from proxy.registry import model as registry
from proxy.staff import model as staff
from proxy.staff.ports import StaffGuard

NO_STORE = {"Cache-Control": "no-store"}

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CONFLICTS = (NotOpen, OtherDigest, registry.NotFound, registry.Conflict, staff.NotFound, staff.Conflict)


class ChangesApi:
    """The handlers.

    Args:
        changes: the service.
        guard: of staff routes.
    """

    def __init__(self, changes: Changes, guard: StaffGuard) -> None:
        self._changes = changes
        self._guard = guard

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/changes", self.all, allow_head=False)
        app.router.add_post("/v1/changes", self.propose)
        app.router.add_get("/v1/changes/{id}", self.one, allow_head=False)
        app.router.add_post("/v1/changes/{id}/approval", self.approve)
        app.router.add_post("/v1/changes/{id}/refusal", self.refuse)
        app.router.add_post("/v1/changes/{id}/withdrawal", self.withdraw)

    async def all(self, request: web.Request) -> web.Response:
        """GET /v1/changes: those of kinds that one proposes or decides, newest first; ``state`` and ``limit``."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        if request.body_exists:
            raise Problem("media_type", "This method takes no body.")
        state, limit = _asked(request)
        found = await self._changes.all(who, state, limit)
        return web.json_response({"changes": [change.as_json() for change in found]}, headers=NO_STORE)

    async def propose(self, request: web.Request) -> web.Response:
        """POST /v1/changes."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        body = await json_object(request, ("kind", "payload", "reason"))
        kind, reason = text(body, "kind"), text(body, "reason")
        if not isinstance(body["payload"], dict):
            raise Problem("parameter", "This member has to be an object.", parameter="payload")
        with problems():
            change = await self._changes.propose(who, kind, body["payload"], reason)
        return _shown(change, 201)

    async def one(self, request: web.Request) -> web.Response:
        """GET /v1/changes/{id}."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        nothing(request)
        with problems():
            return _shown(await self._changes.one(who, _change_id(request)))

    async def approve(self, request: web.Request) -> web.Response:
        """POST /v1/changes/{id}/approval: approve it as it was seen (``digest``), and make it."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        body = await json_object(request, ("digest",))
        with problems():
            return _shown(await self._changes.approve(who, _change_id(request), text(body, "digest")))

    async def refuse(self, request: web.Request) -> web.Response:
        """POST /v1/changes/{id}/refusal."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        body = await json_object(request, ("reason",))
        with problems():
            return _shown(await self._changes.refuse(who, _change_id(request), text(body, "reason")))

    async def withdraw(self, request: web.Request) -> web.Response:
        """POST /v1/changes/{id}/withdrawal: take one's own proposal back."""
        who = await self._guard.authenticate(request, *self._changes.roles)
        body = await json_object(request, ("reason",))
        with problems():
            return _shown(await self._changes.withdraw(who, _change_id(request), text(body, "reason")))


def _shown(change: Change, status: int = 200) -> web.Response:
    headers = {**NO_STORE, "Location": f"/v1/changes/{change.change_id}"} if status == 201 else NO_STORE
    return web.json_response(change.as_json(), status=status, headers=headers)


def _change_id(request: web.Request) -> UUID:
    written = request.match_info["id"]
    if _UUID.fullmatch(written) is None:
        raise Problem("not_found")
    return UUID(written)


def _asked(request: web.Request) -> tuple[State | None, int]:
    query = request.query
    if not query.keys() <= {"state", "limit"} or len(query) != len(set(query)):
        raise Problem("parameter", "This address takes `state` and `limit`, each once.")
    state = limit = None
    with _of("state", "This has to be proposed, approved, refused, withdrawn or expired."):
        state = State(query["state"]) if "state" in query else None
    with _of("limit", f"This has to be a whole number from 1 to {LIST_MAX}."):
        limit = _whole(query.get("limit", str(LIST_MAX)))
    return state, limit


def _whole(written: str) -> int:
    if re.fullmatch(r"[0-9]{1,4}", written, re.ASCII) is None or not 1 <= int(written) <= LIST_MAX:
        raise ValueError
    return int(written)


@contextlib.contextmanager
def _of(parameter: str, says: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Problem("parameter", says, parameter=parameter) from error


@contextlib.contextmanager
def problems() -> Iterator[None]:
    """Answer what the registries and changes refuse (RFC 9457)."""
    try:
        yield
    except UnknownChange as error:
        raise Problem("not_found") from error
    except (OwnChange, WrongRole) as error:
        raise Problem("denied", str(error), members={"reason": error.reason}) from error
    except _CONFLICTS as error:
        raise Problem("conflict", str(error)) from error
    except (registry.RegistryError, staff.StaffError) as error:
        raise Problem("parameter", str(error)) from error
