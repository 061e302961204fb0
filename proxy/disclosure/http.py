"""The API of peers: ``/v1/cdrs``, ``/v1/cdrs/search``, ``/v1/accesses/{id}`` and its ``/proof`` (schema/openapi.yaml).

The order within a request: authenticate → parse → decide → intent → first read → stream → outcome. Nothing the caller
wrote is echoed; nothing of the query or body is logged outside the access log's sealed parts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from proxy.disclosure import accesses, entries
from proxy.disclosure.coding import Coding, CodingError
from proxy.disclosure.coding import negotiate as negotiate_coding
from proxy.disclosure.encoders import NotAcceptable
from proxy.disclosure.encoders import negotiate as negotiate_media
from proxy.disclosure.entries import Actor
from proxy.disclosure.ports import Grant, Guard, holding_of
from proxy.disclosure.query import Asked, QueryError, read_pull, read_search
from proxy.disclosure.service import Busy, Caller, Denied, Disclosure, Form, Opened, QuotaSpent
from proxy.ledger.proving import Receipts
from proxy.ledger.published import NotPublished
from proxy.ledger.receipts import MEDIA_TYPE as RECEIPT_TYPE
from proxy.problems import Problem

BODY_S = 10.0
"""How long a request's body may take to arrive, seconds."""
BODY_MAX = 64 * 1024

# For the request log: ids that are ours.
CLIENT = web.RequestKey("client_id", str)
ACCESS = web.RequestKey("access_id", str)

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JSON = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


class ResponseSink:
    """An answer's way to the socket (delivery.Sink)."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._transport = request.transport
        self.response = web.StreamResponse()

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send status and headers; the body is chunked, because its length is not known before its end."""
        self.response.headers.update(headers)
        if self._request.version >= (1, 1):
            self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)

    async def write(self, data: memoryview) -> None:
        """Send a part; returns when the transport's buffer has room again."""
        await self.response.write(data)

    async def finish(self) -> None:
        """Send the last chunk."""
        await self.response.write_eof()

    def abort(self) -> None:
        """Reset the connection: without a last chunk no client can take this for a whole answer."""
        if self._transport is not None:
            self._transport.abort()


class Api:
    """The handlers."""

    def __init__(self, disclosure: Disclosure, guard: Guard, receipts: Receipts | None = None) -> None:
        self._disclosure = disclosure
        self._guard = guard
        self._receipts = receipts

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/cdrs", self.pull, allow_head=False)
        app.router.add_post("/v1/cdrs/search", self.search)
        app.router.add_get("/v1/accesses/{id}", self.access, allow_head=False)
        if self._receipts is not None:
            app.router.add_get("/v1/accesses/{id}/proof", self.proof, allow_head=False)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/cdrs."""
        grant = await self._authenticate(request)
        _no_body(request)
        asked = _asked(lambda: read_pull(request.query.items(), self._disclosure.settings.max_rows))
        return await self._answer(request, grant, asked, searching=False)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/cdrs/search."""
        grant = await self._authenticate(request)
        if request.query_string:
            raise Problem("parameter", "This address takes no query parameters; the question is the body.")
        body = await _json_body(request)
        asked = _asked(lambda: read_search(body, self._disclosure.settings.max_rows))
        return await self._answer(request, grant, asked, searching=True)

    async def access(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/accesses/{id}: what was sent, for the client that it was sent to."""
        grant, access_id = await self._looking(request, "access")
        found = await accesses.look(self._disclosure, access_id, grant.client_id)
        if found is None:
            raise Problem("not_found")
        request[ACCESS] = str(access_id)
        return web.json_response(found, headers={"Cache-Control": "no-store"})

    async def proof(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/accesses/{id}/proof: the same as the log has it, with the proof that it stands there."""
        grant, access_id = await self._looking(request, "proof")
        assert self._receipts is not None
        try:
            receipt = await self._receipts.of(access_id, grant.client_id)
        except NotPublished as error:
            raise Problem("unavailable", "The log is not published so far yet.") from error
        if receipt is None:
            raise Problem("not_found")
        request[ACCESS] = str(access_id)
        headers = {"Content-Type": RECEIPT_TYPE, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=receipt, headers=headers)

    async def _looking(self, request: web.Request, what: str) -> tuple[Grant, UUID]:
        """Authenticate a look at an access, and put it on record before anything of the log is shown."""
        grant = await self._authenticate(request)
        _no_body(request)
        if request.query_string:
            raise Problem("parameter", "This address takes no query parameters.")
        text = request.match_info["id"]
        if not _UUID.fullmatch(text):
            raise Problem("not_found")
        access_id = UUID(text)
        await self._disclosure.append(entries.looked_up(access_id, _actor(grant), what))
        return grant, access_id

    async def _authenticate(self, request: web.Request) -> Grant:
        grant = await self._guard.authenticate(request)
        request[CLIENT] = grant.client_id
        return grant

    async def _answer(self, request: web.Request, grant: Grant, asked: Asked, *, searching: bool) -> web.StreamResponse:
        form = _form(request)

        async def alive() -> bool:
            return await self._guard.alive(grant)

        async def spend(rows: int) -> bool:
            return await self._guard.spend(grant, rows)

        caller = Caller(_actor(grant), holding_of(grant), alive, spend)
        try:
            async with self._disclosure.answer(caller, asked, searching, form) as opened:
                request[ACCESS] = str(opened.delivery.access_id)
                sink = ResponseSink(request)
                await opened.delivery.send(sink, _headers(opened, form))
                return sink.response
        except QueryError as error:
            raise _problem(error) from error
        except Denied as denied:
            request[ACCESS] = str(denied.access_id)
            deny = denied.deny
            raise Problem(
                "denied",
                deny.says,
                members={"reason": deny.reason, "citation": deny.citation},
                headers={"Access-Id": str(denied.access_id)},
            ) from denied
        except Busy as error:
            raise Problem("busy", headers={"Retry-After": "5"}) from error
        except QuotaSpent as error:
            raise Problem("quota", headers={"Retry-After": str(_until_midnight(datetime.now(UTC)))}) from error


def _headers(opened: Opened, form: Form) -> dict[str, str]:
    headers = {
        "Content-Type": form.media.value,
        "Access-Id": str(opened.delivery.access_id),
        "Complete-To": opened.complete_to,
        "Row-Limit": str(opened.limit),
        "Cache-Control": "no-store",
        "Vary": "Accept, Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if form.coding is not Coding.IDENTITY:
        headers["Content-Encoding"] = form.coding.value
    if opened.next_cursor is not None:
        headers["Next-Cursor"] = opened.next_cursor
    return headers


def _actor(grant: Grant) -> Actor:
    return Actor(grant.client_id, grant.carrier_id, grant.token_id, grant.jkt, grant.address)


def _form(request: web.Request) -> Form:
    try:
        media = negotiate_media(_joined(request, "Accept"))
    except NotAcceptable as error:
        raise Problem("not_acceptable", "Accept has to allow one of the media types that are offered.") from error
    try:
        coding = negotiate_coding(_joined(request, "Accept-Encoding"))
    except CodingError as error:
        raise Problem("not_acceptable", "Accept-Encoding has to allow zstd, gzip or identity.") from error
    return Form(media, coding)


def _joined(request: web.Request, name: str) -> str | None:
    lines = request.headers.getall(name, [])
    return ", ".join(lines) if lines else None


def _asked(read: Callable[[], Asked]) -> Asked:
    try:
        return read()
    except QueryError as error:
        raise _problem(error) from error


def _problem(error: QueryError) -> Problem:
    code = "cursor" if error.parameter == "cursor" else "parameter"
    return Problem(code, error.says, parameter=error.parameter or None)


def _no_body(request: web.Request) -> None:
    if request.body_exists:
        raise Problem("media_type", "This method takes no body.")


async def _json_body(request: web.Request) -> bytes:
    if not _JSON.fullmatch(request.headers.get("Content-Type", "")):
        raise Problem("media_type", "The body has to be application/json.")
    if (request.content_length or 0) > BODY_MAX:
        raise Problem("too_large")
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as error:
        raise Problem("timeout", headers={"Connection": "close"}) from error


def _until_midnight(now: datetime) -> int:
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((tomorrow - now).total_seconds()) + 1
