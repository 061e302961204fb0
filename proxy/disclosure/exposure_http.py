"""``/v1/exposure``: what somebody was shown, counted for the privacy officer who is signed in.

One count at a time: it reads the log and the store at length. What belongs to secret cases is not counted, and nothing
says so; the access log's own entries of them stay (proxy/ledger/withheld.py).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from proxy.disclosure.exposure import CountDenied, Exposure, Question
from proxy.parameters import moment, parameters
from proxy.policy.counting import Officer, Subject, SubjectKind
from proxy.problems import Problem
from proxy.staff.model import StaffRole
from proxy.staff.ports import StaffGuard

_SUBJECTS: Final = tuple(kind.value for kind in SubjectKind if kind is not SubjectKind.ALL)
_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


class ExposureApi:
    """The handler.

    Args:
        exposure: counts.
        guard: authenticates staff.
    """

    def __init__(self, exposure: Exposure, guard: StaffGuard) -> None:
        self._exposure = exposure
        self._guard = guard
        self._one = asyncio.Lock()

    def setup(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/exposure", self.count, allow_head=False)

    async def count(self, request: web.Request) -> web.Response:
        """GET /v1/exposure."""
        grant = await self._guard.authenticate(request, StaffRole.PRIVACY_OFFICER)
        values = parameters(request, ("reason",), (*_SUBJECTS, "from", "to"))
        subjects = [Subject(kind, values[kind]) for kind in _SUBJECTS if kind in values]
        if len(subjects) != 1:
            raise Problem("parameter", f"Exactly one of {', '.join(_SUBJECTS)} is needed.")
        first = moment(values, "from") or _BEGINNING
        question = Question(subjects[0], first, moment(values, "to") or datetime.now(UTC), values["reason"])
        if self._one.locked():
            raise Problem("busy", "Somebody else is counting.", headers={"Retry-After": "30"})
        async with self._one:
            try:
                count = await self._exposure.count(Officer(grant.staff_id, privacy=True, staff=True), question)
            except CountDenied as error:
                members = {"reason": error.deny.reason, "citation": error.deny.citation}
                raise Problem("denied", error.deny.says, members=members) from error
        return web.json_response(count.as_json(), headers={"Cache-Control": "no-store"})
