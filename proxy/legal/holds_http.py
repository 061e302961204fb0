"""Holds for the legal desk: ``/v1/holds`` (schema/openapi.yaml). Lifting one is a change (``/v1/changes``)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from proxy.bodies import json_object, text
from proxy.legal.holding import DUE_DAYS, Holding
from proxy.legal.holds import Hold
from proxy.legal.model import CASE_ID, CaseError, NoSuchCase, Refused, Stale, WrongState
from proxy.parameters import parameters, whole
from proxy.problems import Problem
from proxy.staff.model import StaffRole
from proxy.staff.ports import StaffGuard

DESK: Final = (StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER)

_HOLD: Final = re.compile(r"H-[A-Z2-7]{10}", re.ASCII)
_NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_TEXT_MAX: Final = 500


class HoldsApi:
    """The handlers.

    Args:
        holding: the service.
        guard: authenticates staff.
    """

    def __init__(self, holding: Holding, guard: StaffGuard) -> None:
        self._holding = holding
        self._guard = guard

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/holds", self.list, allow_head=False)
        app.router.add_post("/v1/holds", self.new)
        app.router.add_get("/v1/holds/{id}", self.show, allow_head=False)
        app.router.add_post("/v1/holds/{id}/renew", self.renew)
        app.router.add_post("/v1/holds/{id}/supersede", self.supersede)

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/holds: ``case``, ``live`` (true), ``due`` (days)."""
        grant = await self._guard.authenticate(request, *DESK)
        values = parameters(request, (), ("case", "live", "due"))
        if (case := values.get("case")) is not None and CASE_ID.fullmatch(case) is None:
            raise Problem("parameter", "It is the id of a case.", parameter="case")
        if values.get("live", "true") not in ("true", "false"):
            raise Problem("parameter", "It is true or false.", parameter="live")
        within = whole(values, "due", DUE_DAYS, 0, 3660) if "due" in values else None
        live = values.get("live") == "true" or within is not None
        found = await self._holding.list(grant, case_id=case, live=live, within_days=within)
        now = datetime.now(UTC)
        return web.json_response({"holds": [hold.as_json(now) for hold in found]}, headers=_NO_STORE)

    async def new(self, request: web.Request) -> web.Response:
        """POST /v1/holds: ``{"case": "C-…"}``, a validated preservation request."""
        grant = await self._guard.authenticate(request, StaffRole.LEGAL_HANDLER)
        _no_query(request)
        case = _case(text(await json_object(request, ("case",)), "case"), "case")
        with _answered():
            return _answer(await self._holding.preserve(grant, case), 201)

    async def show(self, request: web.Request) -> web.Response:
        """GET /v1/holds/{id}."""
        grant = await self._guard.authenticate(request, *DESK)
        parameters(request)
        with _answered():
            return _answer(await self._holding.show(grant, _id(request)))

    async def renew(self, request: web.Request) -> web.Response:
        """POST /v1/holds/{id}/renew: ``{"reason": …}``, on a renewed request (18 U.S.C. 2703(f)(2))."""
        grant = await self._guard.authenticate(request, StaffRole.LEGAL_HANDLER)
        _no_query(request)
        reason = text(await json_object(request, ("reason",)), "reason").strip()
        if not 1 <= len(reason) <= _TEXT_MAX or not reason.isprintable():
            raise Problem("parameter", f"It is 1 to {_TEXT_MAX} printable characters.", parameter="reason")
        with _answered():
            return _answer(await self._holding.renew(grant, _id(request), reason))

    async def supersede(self, request: web.Request) -> web.Response:
        """POST /v1/holds/{id}/supersede: ``{"case": "C-…"}``, the process that the preservation waited for."""
        grant = await self._guard.authenticate(request, StaffRole.LEGAL_HANDLER)
        _no_query(request)
        by = _case(text(await json_object(request, ("case",)), "case"), "case")
        with _answered():
            return _answer(await self._holding.supersede(grant, _id(request), by))


def _answer(hold: Hold, status: int = 200) -> web.Response:
    headers = _NO_STORE | ({"Location": f"/v1/holds/{hold.hold_id}"} if status == 201 else {})
    return web.json_response(hold.as_json(datetime.now(UTC)), status=status, headers=headers)


def _id(request: web.Request) -> str:
    hold_id = request.match_info["id"]
    if _HOLD.fullmatch(hold_id) is None:
        raise Problem("not_found")
    return hold_id


def _case(value: str, parameter: str) -> str:
    if CASE_ID.fullmatch(value) is None:
        raise Problem("parameter", "It is the id of a case.", parameter=parameter)
    return value


def _no_query(request: web.Request) -> None:
    if request.query_string:
        raise Problem("parameter", "This address takes no query parameters.")


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Answer what the desk refuses; the refusal is in the log."""
    try:
        yield
    except NoSuchCase as error:
        raise Problem("not_found", error.says) from error
    except (WrongState, Stale) as error:
        raise Problem("conflict", error.says) from error
    except Refused as error:
        members = {"reason": error.rule, "citation": error.citation}
        raise Problem("denied", error.says, members=members) from error
    except CaseError as error:
        raise Problem("parameter", error.says) from error
