"""Cases over the API: ``/v1/cases…`` for legal handlers and approvers (schema/openapi.yaml).

Every change names the version of the case that its caller saw (``If-Match``, the ``ETag`` of any answer): 428 without,
412 where the case has moved since, 409 where its state does not allow the action, 403 where a rule forbids it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from proxy.bodies import json_object, nothing, text
from proxy.legal.approvals import Approvals
from proxy.legal.documents import LENGTH_MAX, Documents, TooLarge
from proxy.legal.extracting import Extracting
from proxy.legal.intake import Intake
from proxy.legal.model import CASE_ID, Case, CaseError, Malformed, NoSuchCase, Refused, Stale, WrongState
from proxy.legal.reading import Reading
from proxy.legal.releasing import SIGNED_MAX, Releasing
from proxy.legal.served import OPTIONAL, REQUIRED
from proxy.legal.states import Action
from proxy.parameters import parameters
from proxy.problems import Problem
from proxy.staff.model import StaffGrant, StaffRole
from proxy.staff.ports import StaffGuard

UPLOAD_S = 120.0
"""How long a document may take to arrive, seconds."""
SCOPE_MAX = 8 * 1024 * 1024
"""Most bytes of a body with targets."""
REASON_MAX = 2_000

HANDLER, APPROVER = StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER
DESK = (HANDLER, APPROVER)

_STEPS = (
    *("validate", "narrow", "object", "resolve", "approve", "act", "confirm", "contest"),
    *("extract", "review", "produce", "deliver", "redeliver", "acknowledge", "close", "secret"),
)
"""Changes that are a POST to a page of their own."""

_ETAG = re.compile(r'"([1-9][0-9]{0,8})"')
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Desk:
    """The services of the legal desk."""

    intake: Intake
    approvals: Approvals
    documents: Documents
    extracting: Extracting
    releasing: Releasing
    reading: Reading


class CasesApi:
    """The handlers.

    Args:
        desk: the services.
        guard: authenticates staff.
    """

    def __init__(self, desk: Desk, guard: StaffGuard) -> None:
        self._desk = desk
        self._guard = guard

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        get, post, put = app.router.add_get, app.router.add_post, app.router.add_put
        post("/v1/cases", self.open)
        get("/v1/cases", self.list, allow_head=False)
        get("/v1/cases/due", self.due, allow_head=False)
        get("/v1/cases/{id}", self.show, allow_head=False)
        get("/v1/cases/{id}/progress", self.progress, allow_head=False)
        post("/v1/cases/{id}/documents", self.store)
        get("/v1/cases/{id}/documents/{document}", self.document, allow_head=False)
        get("/v1/cases/{id}/letters/{version}", self.letter, allow_head=False)
        put("/v1/cases/{id}/scope", self.scope)
        get("/v1/cases/{id}/certificate", self.certificate, allow_head=False)
        post("/v1/cases/{id}/certify", self.certify)
        get("/v1/cases/{id}/package", self.package, allow_head=False)
        for name in _STEPS:
            post(f"/v1/cases/{{id}}/{name}", getattr(self, name))

    async def open(self, request: web.Request) -> web.Response:
        """POST /v1/cases: a case from what was served."""
        who = await self._guard.authenticate(request, HANDLER)
        body = await json_object(request, (*REQUIRED, "request_id"), OPTIONAL)
        key = text(body, "request_id")
        if not _UUID.fullmatch(key):
            raise Problem(
                "parameter", "This has to be a UUID of the caller's, one for each case.", parameter="request_id"
            )
        with _problems():
            case = await self._desk.intake.open(who, UUID(key), body)
        return await self._answer(case, 201, {"Location": f"/v1/cases/{case.case_id}"})

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/cases: a page, newest first; ``before`` is the last one's opened_at and id."""
        who = await self._guard.authenticate(request, *DESK)
        values = parameters(request, (), ("state", "before"))
        states = values["state"].split(",") if "state" in values else None
        before = None
        if "before" in values:
            at, _, case_id = values["before"].partition(",")
            try:
                before = (datetime.fromisoformat(at).astimezone(UTC), case_id)
            except (ValueError, OverflowError):
                raise Problem("parameter", "Take it from an answer.", parameter="before") from None
        with _problems():
            cases = await self._desk.reading.page(who, states, before)
        return web.json_response({"cases": cases}, headers=_NO_STORE)

    async def due(self, request: web.Request) -> web.Response:
        """GET /v1/cases/due: what is due, soonest first."""
        who = await self._guard.authenticate(request, *DESK)
        nothing(request)
        return web.json_response({"due": await self._desk.reading.due(who)}, headers=_NO_STORE)

    async def show(self, request: web.Request) -> web.Response:
        """GET /v1/cases/{id}."""
        who = await self._guard.authenticate(request, *DESK)
        values = parameters(request, (), ("targets",))
        if values.get("targets", "all") != "all":
            raise Problem("parameter", "The only value is `all`.", parameter="targets")
        with _problems():
            version, value = await self._desk.reading.show(who, _case_id(request), targets="targets" in values)
        return web.json_response(value, headers=_NO_STORE | {"ETag": f'"{version}"'})

    async def progress(self, request: web.Request) -> web.Response:
        """GET /v1/cases/{id}/progress: what runs, and how far it is."""
        await self._guard.authenticate(request, *DESK)
        nothing(request)
        with _problems():
            value = await self._desk.reading.progress(_case_id(request))
        return web.json_response(value, headers=_NO_STORE | {"ETag": f'"{value["version"]}"'})

    async def store(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/documents?kind=…: a PDF."""
        who = await self._guard.authenticate(request, *DESK)
        case_id, version = _case_id(request), _version(request)
        if set(request.query) != {"kind"} or len(request.query.getall("kind")) != 1:
            raise Problem("parameter", "The query says the kind of document, and nothing else.", parameter="kind")
        if request.content_type != "application/pdf":
            raise Problem("media_type", "The body has to be application/pdf.")
        if (request.content_length or 0) > LENGTH_MAX:
            # Entered as one that was sent: it is refused for the same reason.
            with _problems():
                await self._desk.documents.refuse_length(who, case_id)
        with _problems():
            case, stored = await self._desk.documents.store(
                who, case_id, version, request.query["kind"], _parts(request)
            )
        return await self._answer(case, 201, {"Location": f"/v1/cases/{case_id}/documents/{stored.document_id}"})

    async def document(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/cases/{id}/documents/{document}."""
        who = await self._guard.authenticate(request, *DESK)
        nothing(request)
        name = request.match_info["document"]
        if not _UUID.fullmatch(name):
            raise Problem("not_found")
        with _problems():
            found, pieces = await self._desk.documents.read(who, _case_id(request), UUID(name))
        headers = {"Content-Length": str(found.length), "Content-Disposition": f'attachment; filename="{name}.pdf"'}
        return await _stream(request, pieces, "application/pdf", headers)

    async def letter(self, request: web.Request) -> web.Response:
        """GET /v1/cases/{id}/letters/{version}: as text."""
        who = await self._guard.authenticate(request, *DESK)
        nothing(request)
        version = request.match_info["version"]
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise Problem("not_found")
        with _problems():
            letter = await self._desk.reading.letter(who, _case_id(request), int(version))
        return web.Response(text=letter, headers=_NO_STORE)

    async def scope(self, request: web.Request) -> web.Response:
        """PUT /v1/cases/{id}/scope: what is asked."""
        body, act = await self._change(
            request,
            ("targets", "from", "classes"),
            ("through", "to", "fields"),
            roles=(HANDLER,),
            most=SCOPE_MAX,
        )
        return await act(lambda who, case_id, version: self._desk.intake.ask(who, case_id, version, body))

    async def validate(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/validate: hold it against the instrument."""
        _, act = await self._change(request, roles=(HANDLER,))
        return await act(self._desk.intake.validate)

    async def narrow(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/narrow."""
        optional = ("targets", "from", "through", "to", "classes", "fields", "compelled")
        body, act = await self._change(request, (), optional, roles=(HANDLER,), most=SCOPE_MAX)
        return await act(lambda who, case_id, version: self._desk.intake.narrow(who, case_id, version, body))

    async def object(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/object."""
        body, act = await self._change(request, (), ("grounds", "text"))
        grounds = body.get("grounds", [])
        if not isinstance(grounds, list) or len(grounds) > 32 or not all(isinstance(g, str) for g in grounds):
            raise Problem("parameter", "These have to be codes of rules.", parameter="grounds")
        said = _line(body, "text", needed=False)
        return await act(lambda who, i, v: self._desk.intake.object(who, i, v, grounds, said))

    async def resolve(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/resolve."""
        body, act = await self._change(request, ("reason",))
        reason = _line(body, "reason")
        return await act(lambda who, i, v: self._desk.intake.resolve(who, i, v, reason))

    async def approve(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/approve: a scope by its digest, or another key of the recipient."""
        body, act = await self._change(request, (), ("scope_sha256", "recipient"), roles=(APPROVER,))
        if len(body) != 1:
            raise Problem("parameter", "Name the scope's digest, or a recipient.", parameter="scope_sha256")
        name, value = next((name, text(body, name)) for name in body)
        if name == "recipient":
            return await act(lambda who, i, v: self._desk.approvals.approve_recipient(who, i, v, value))
        return await act(lambda who, i, v: self._desk.approvals.approve(who, i, v, value))

    async def act(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/act: release in an emergency."""
        body, act = await self._change(request, ("scope_sha256",), roles=(HANDLER,))
        digest = text(body, "scope_sha256")
        return await act(lambda who, i, v: self._desk.approvals.act_at_once(who, i, v, digest))

    async def confirm(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/confirm."""
        return await self._decide(request, Action.CONFIRM)

    async def contest(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/contest."""
        return await self._decide(request, Action.CONTEST)

    async def extract(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/extract."""
        _, act = await self._change(request, roles=(HANDLER,))
        return await act(self._desk.extracting.order, status=202)

    async def review(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/review: how many records were looked at."""
        body, act = await self._change(request, ("records",), ("note",))
        records = body["records"]
        if not isinstance(records, int) or isinstance(records, bool) or records < 0:
            raise Problem("parameter", "This has to be the number of records.", parameter="records")
        note = _line(body, "note", needed=False)
        return await act(lambda who, i, v: self._desk.extracting.review(who, i, v, records, note))

    async def produce(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/produce."""
        body, act = await self._change(request, ("custodian",), ("system",), roles=(HANDLER,))
        return await act(lambda who, i, v: self._desk.releasing.produce(who, i, v, body), status=202)

    async def certificate(self, request: web.Request) -> web.Response:
        """GET /v1/cases/{id}/certificate: the draft, for its custodian to sign."""
        who = await self._guard.authenticate(request, *DESK)
        nothing(request)
        with _problems():
            draft = await self._desk.releasing.certificate(who, _case_id(request))
        return web.Response(body=draft, headers=_NO_STORE | {"Content-Type": "text/plain; charset=utf-8"})

    async def certify(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/certify?kind=sshsig|pdf|text: the certificate as signed."""
        who = await self._guard.authenticate(request, HANDLER)
        case_id, version = _case_id(request), _version(request)
        if set(request.query) != {"kind"} or len(request.query.getall("kind")) != 1:
            raise Problem("parameter", "The query says how it was signed: sshsig, pdf or text.", parameter="kind")
        body = bytearray()
        async for part in _parts(request):
            body += part
            if len(body) > SIGNED_MAX:
                raise Problem("too_large", "A signed certificate has at most 5 MiB.", headers={"Connection": "close"})
        with _problems():
            case = await self._desk.releasing.certify(who, case_id, version, request.query["kind"], bytes(body))
        return await self._answer(case)

    async def deliver(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/deliver."""
        body, act = await self._change(request, ("recipients",), roles=(HANDLER,))
        keys = body["recipients"]
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Problem("parameter", "These have to be age recipients.", parameter="recipients")
        return await act(lambda who, i, v: self._desk.releasing.deliver(who, i, v, keys))

    async def redeliver(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/redeliver: the same package to another key, which an approver has approved."""
        body, act = await self._change(request, ("recipient",), roles=(HANDLER,))
        key = text(body, "recipient")
        return await act(lambda who, i, v: self._desk.releasing.deliver(who, i, v, [key], again=True))

    async def package(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/cases/{id}/package: the encrypted package last delivered."""
        who = await self._guard.authenticate(request, HANDLER)
        nothing(request)
        with _problems():
            name, pieces = await self._desk.releasing.package(who, _case_id(request))
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return await _stream(request, pieces, "application/octet-stream", headers)

    async def acknowledge(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/acknowledge."""
        body, act = await self._change(request, (), ("note",))
        note = _line(body, "note", needed=False)
        return await act(lambda who, i, v: self._desk.releasing.acknowledge(who, i, v, note))

    async def close(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/close."""
        body, act = await self._change(request, ("reason",))
        reason = _line(body, "reason")
        return await act(lambda who, i, v: self._desk.intake.close(who, i, v, reason))

    async def secret(self, request: web.Request) -> web.Response:
        """POST /v1/cases/{id}/secret: an order of non-disclosure that came later, or its extension."""
        body, act = await self._change(request, ("authority", "document"), ("until",), roles=(HANDLER,))
        document = text(body, "document")
        if not _UUID.fullmatch(document):
            raise Problem("parameter", "This has to be the id of a document of the case.", parameter="document")
        order = {name: body[name] for name in ("authority", "until") if name in body}
        return await act(lambda who, i, v: self._desk.intake.secret(who, i, v, order, UUID(document)))

    async def _decide(self, request: web.Request, action: Action) -> web.Response:
        body, act = await self._change(request, ("reason",), roles=(APPROVER,))
        reason = _line(body, "reason")
        return await act(lambda who, i, v: self._desk.approvals.decide(who, i, v, action, reason))

    async def _change(
        self,
        request: web.Request,
        required: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        *,
        roles: tuple[StaffRole, ...] = DESK,
        most: int = 64 * 1024,
    ) -> tuple[dict[str, Any], Callable[..., Awaitable[web.Response]]]:
        """Authenticate a change and read its body; return it, and what carries the change out and answers."""
        who = await self._guard.authenticate(request, *roles)
        case_id, version = _case_id(request), _version(request)
        if request.query_string:
            raise Problem("parameter", "This address takes no query parameters.")
        body: dict[str, Any] = {}
        if required or optional:
            body = await json_object(request, required, optional, most=most)
        elif request.body_exists:
            raise Problem("media_type", "This method takes no body.")

        async def act(work: Callable[[StaffGrant, str, int], Awaitable[Case]], *, status: int = 200) -> web.Response:
            with _problems():
                case = await work(who, case_id, version)
            return await self._answer(case, status)

        return body, act

    async def _answer(self, case: Case, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        version, value = await self._desk.reading.as_json(case.case_id)
        return web.json_response(value, status=status, headers=_NO_STORE | {"ETag": f'"{version}"'} | (headers or {}))


@contextmanager
def _problems() -> Any:
    """Turn what the desk raises into problems."""
    try:
        yield
    except TooLarge as error:
        raise Problem("too_large", error.says, headers={"Connection": "close"}) from error
    except Malformed as error:
        raise Problem("parameter", error.says, parameter=error.parameter) from error
    except NoSuchCase as error:
        raise Problem("not_found", error.says) from error
    except Stale as error:
        raise Problem("precondition", error.says) from error
    except WrongState as error:
        raise Problem("conflict", error.says) from error
    except Refused as error:
        raise Problem("denied", error.says, members={"reason": error.rule, "citation": error.citation}) from error
    except CaseError as error:
        raise Problem("conflict", error.says) from error


def _case_id(request: web.Request) -> str:
    case_id = request.match_info["id"]
    if not CASE_ID.fullmatch(case_id):
        raise Problem("not_found")
    return case_id


def _version(request: web.Request) -> int:
    given = request.headers.getall("If-Match", [])
    if not given:
        raise Problem("precondition_required", "Send If-Match with the ETag of the case as you saw it.")
    match = _ETAG.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        raise Problem("parameter", "If-Match is one ETag, as an answer gave it.", parameter="If-Match")
    return int(match[1])


def _line(body: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = text(body, name).strip()
    if needed and not value:
        raise Problem("parameter", "Say why.", parameter=name)
    if len(value) > REASON_MAX or any(not (c.isprintable() or c == "\n") for c in value):
        raise Problem("parameter", f"This has to be at most {REASON_MAX:,} printable characters.", parameter=name)
    return value


async def _parts(request: web.Request) -> AsyncIterator[bytes]:
    deadline = asyncio.get_running_loop().time() + UPLOAD_S
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                part = await request.content.read(64 * 1024)
        except TimeoutError as error:
            raise Problem("timeout", headers={"Connection": "close"}) from error
        if not part:
            return
        yield part


async def _stream(
    request: web.Request, pieces: AsyncIterator[bytes], media: str, headers: dict[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(headers=_NO_STORE | {"Content-Type": media} | headers)
    await response.prepare(request)
    try:
        async for piece in pieces:
            await response.write(piece)
    except BaseException:
        # Without a last chunk nobody takes this for the whole.
        if request.transport is not None:
            request.transport.abort()
        raise
    await response.write_eof()
    return response
