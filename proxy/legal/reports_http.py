"""Reports and the search of the log, for staff: ``/v1/reports/…`` and ``/v1/log/search`` (schema/openapi.yaml).

The privacy officer and the legal desk see the log; the desk, whose secret cases nobody else finds, only case by case.
Telephone numbers come in a body, never in a URL, which others on the way may keep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from proxy.bodies import json_object
from proxy.ledger.model import Kind, Tag
from proxy.ledger.search import Query, Search, Seen, looking_as
from proxy.ledger.service import Ledger
from proxy.legal.bands import DEFAULT, BandError
from proxy.legal.reports import Period, Reader, Reports
from proxy.legal.secrecy import Audience, audience
from proxy.parameters import checked, moment, parameters, whole
from proxy.problems import Problem
from proxy.staff.model import StaffGrant, StaffRole
from proxy.staff.ports import StaffGuard

READERS: Final = (StaffRole.PRIVACY_OFFICER, StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER)
LIMIT_MAX: Final = 1_000

_NUMBERS: Final = {
    "number": re.compile(r"\+[1-9][0-9]{1,14}", re.ASCII),
    "thousands_block": re.compile(r"\+1[2-9][0-9]{6}", re.ASCII),
    "exchange": re.compile(r"\+1[2-9][0-9]{5}", re.ASCII),
}
_TAGS: Final = ("client", "staff", "jkt", "token", "address", "case", "ingest")
_ASKED: Final = (*_TAGS, "kind", "purpose", "decision", "access_id", "from", "to", "after", "limit")
_NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ReportsApi:
    """The handlers.

    Args:
        reports: makes the reports.
        ledger: the log, to append to.
        desk: the log as the legal desk may search it.
        others: the log as everybody else may.
        guard: authenticates staff.
    """

    def __init__(self, reports: Reports, ledger: Ledger, desk: Search, others: Search, guard: StaffGuard) -> None:
        self._reports = reports
        self._ledger = ledger
        self._desk = desk
        self._others = others
        self._guard = guard

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/reports/transparency", self.transparency, allow_head=False)
        app.router.add_get("/v1/reports/disclosures", self.disclosures, allow_head=False)
        app.router.add_get("/v1/log/search", self.look, allow_head=False)
        app.router.add_post("/v1/log/search", self.search)

    async def transparency(self, request: web.Request) -> web.Response:
        """GET /v1/reports/transparency: legal process by instrument."""
        grant = await self._guard.authenticate(request, *READERS)
        values = parameters(request, ("from", "to", "reason"), ("bands", "audience"))
        bands = values.get("bands", DEFAULT)
        try:
            told = await self._reports.transparency(
                _reader(grant, values), _period(values), bands=None if bands == "none" else bands
            )
        except BandError as error:
            raise Problem("parameter", str(error), parameter="bands") from error
        return web.json_response(told, headers=_NO_STORE)

    async def disclosures(self, request: web.Request) -> web.Response:
        """GET /v1/reports/disclosures: what was disclosed to whom (47 CFR 64.2009(c))."""
        grant = await self._guard.authenticate(request, *READERS)
        values = parameters(request, ("from", "to", "reason"), ("audience",))
        told = await self._reports.disclosures(_reader(grant, values), _period(values))
        return web.json_response(told, headers=_NO_STORE)

    async def look(self, request: web.Request) -> web.Response:
        """GET /v1/log/search: by everything but a number."""
        grant = await self._guard.authenticate(request, *READERS)
        return await self._answer(grant, parameters(request, ("reason",), _ASKED))

    async def search(self, request: web.Request) -> web.Response:
        """POST /v1/log/search: the same, and by a number, its block of a thousand or its exchange."""
        grant = await self._guard.authenticate(request, *READERS)
        if request.query_string:
            raise Problem("parameter", "This address takes no query parameters; the question is the body.")
        known = (*_ASKED, *_NUMBERS)
        body = await json_object(request, ("reason",), known)
        return await self._answer(grant, checked(list(body.items()), ("reason",), known))

    async def _answer(self, grant: StaffGrant, values: Mapping[str, str]) -> web.Response:
        query = _query(values)
        desk = not grant.holds(StaffRole.PRIVACY_OFFICER)
        if desk and "case" not in values:
            raise Problem("parameter", "The legal desk looks at the log case by case.", parameter="case")
        seen = Seen()
        # The look is durable before anything is shown.
        await self._ledger.append(looking_as(query, grant.actor(), grant.tags(), values["reason"]))
        search = self._desk if desk else self._others
        async with aclosing(search.run(query, seen)) as entries:
            # Which records is for the count (/v1/exposure), and may be large.
            found = [{k: v for k, v in entry.as_json().items() if k != "records"} async for entry in entries]
        value: dict[str, Any] = {
            "entries": found,
            "erased": seen.erased,
            "blind_months": sorted(seen.blind),
            "next_after": seen.next_after,
        }
        return web.json_response(value, headers=_NO_STORE)


def _reader(grant: StaffGrant, values: Mapping[str, str]) -> Reader:
    """Return for whom it is counted; the desk may ask for what others see: what can be shown to anybody."""
    to = values.get("audience", "own")
    if to not in ("own", "others"):
        raise Problem("parameter", "It is own or others.", parameter="audience")
    roles = [role.value for role in grant.roles]
    return Reader(grant.actor(), grant.tags(), audience(roles) if to == "own" else Audience.OTHERS)


def _period(values: Mapping[str, str]) -> Period:
    first, last = moment(values, "from"), moment(values, "to")
    assert first is not None
    assert last is not None
    if first >= last:
        raise Problem("parameter", "It has to be later than from.", parameter="to")
    return Period(first, last, values["reason"])


def _query(values: Mapping[str, str]) -> Query:
    tags = [Tag(name, values[name].encode()) for name in _TAGS if name in values]
    for name, form in _NUMBERS.items():
        if (text := values.get(name)) is not None:
            if form.fullmatch(text) is None:
                raise Problem("parameter", "It is E.164 with a plus sign, or the beginning of it.", parameter=name)
            tags.append(Tag(name, text.encode()))
    kinds: tuple[Kind, ...] = ()
    if (kind := values.get("kind")) is not None:
        if kind not in set(Kind):
            raise Problem("parameter", "It is a kind of entry, as access.intent.", parameter="kind")
        kinds = (Kind(kind),)
    if values.get("decision", "permit") not in ("permit", "deny"):
        raise Problem("parameter", "It is permit or deny.", parameter="decision")
    try:
        access_id = UUID(values["access_id"]) if "access_id" in values else None
    except ValueError:
        raise Problem("parameter", "It is the id of an access.", parameter="access_id") from None
    return Query(
        tuple(tags),
        kinds,
        values.get("purpose"),
        values.get("decision"),
        access_id,
        moment(values, "from"),
        moment(values, "to"),
        whole(values, "after", -1, 0, 10**12 - 1),
        whole(values, "limit", 100, 1, LIMIT_MAX),
    )
