"""Answers that say what went wrong (RFC 9457), made only here, at the edge, from inner error types.

An inner error's own text never reaches a caller, and nothing the caller wrote is echoed: a problem's words are fixed
sentences of this file or of the part that raised :class:`Problem`. What is not known becomes 500 with nothing inside.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

CONTENT_TYPE = "application/problem+json"
PATH = "/problems/"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. ``code`` is stable: the last segment of ``type``, and a bounded metric label."""

    code: str
    status: int
    title: str
    says: str


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.code: kind for kind in kinds}


KINDS: dict[str, Kind] = _kinds(
    Kind("parameter", 400, "A parameter is wrong", "The member `parameter` names it and `detail` says what is right."),
    Kind(
        "cursor", 400, "The cursor cannot be used", "Cursors are opaque, and bound to their client and their question."
    ),
    Kind(
        "request",
        400,
        "The request is malformed",
        "It is not HTTP as RFC 9110 and RFC 9112 write it, or doubles a header.",
    ),
    Kind("credentials", 401, "Credentials are needed", "Send a DPoP-bound access token with a fresh proof (RFC 9449)."),
    Kind("denied", 403, "The access is denied", "`reason` is the rule's code and `citation` where it stands."),
    Kind("not_found", 404, "There is no such thing here", "Nothing stands at this address, or it is another client's."),
    Kind("method", 405, "The method is not allowed", "The header Allow says which are."),
    Kind("not_acceptable", 406, "No acceptable form", "Accept or Accept-Encoding rules out every form offered."),
    Kind("timeout", 408, "The request came too slowly", "Headers and body have to be complete within seconds."),
    Kind("conflict", 409, "It does not go together with what is so", "`detail` says what is so: look again."),
    Kind("precondition", 412, "It has moved since you saw it", "Look again; If-Match names what you saw."),
    Kind("too_large", 413, "The request is too large", "A body holds at most 64 KiB."),
    Kind("media_type", 415, "The body's type is not taken", "Bodies are application/json, uncoded and in one part."),
    Kind("precondition_required", 428, "If-Match is needed", "A change names the version that it is of (RFC 6585)."),
    Kind("rate", 429, "Too many requests", "Retry-After says when to come back."),
    Kind("quota", 429, "The day's rows are used up", "Retry-After says when the next day begins (UTC)."),
    Kind("internal", 500, "Something failed here", "The fault is on this side and has been logged."),
    Kind("busy", 503, "Too many answers are open", "Come back after Retry-After."),
    Kind("unavailable", 503, "A part is not available", "Nothing was disclosed. Come back after Retry-After."),
)
"""Every problem there is; deploy/docs/api.md lists the same."""


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """A problem to be answered.

    Args:
        code: one of :data:`KINDS`.
        detail: a fixed sentence for the caller; never a value the caller sent.
        parameter: the name of the parameter at fault, one of ours.
        members: further members (RFC 9457 s.3.2).
        headers: headers of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        parameter: str | None = None,
        members: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail, parameter)
        self.kind = KINDS[code]
        self.detail = detail
        self.parameter = parameter
        self.members = dict(members or {})
        self.headers = dict(headers or {})


class AuthFailure(Protocol):
    """What a refusal of the resource server's guard looks like from here. ``description`` is a fixed sentence."""

    status: int
    error: str
    description: str
    headers: dict[str, str]

    def challenge(self) -> str:
        """Return the value of WWW-Authenticate (RFC 9449 s.7.1)."""


def answer(problem: Problem, issuer: str) -> web.Response:
    """Return the response for ``problem``; ``type`` is a page below the issuer."""
    kind = problem.kind
    body: dict[str, object] = {
        "type": issuer.rstrip("/") + PATH + kind.code,
        "title": kind.title,
        "status": kind.status,
    }
    if problem.detail:
        body["detail"] = problem.detail
    if problem.parameter:
        body["parameter"] = problem.parameter
    body.update(problem.members)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **problem.headers}
    if kind.status == 503:
        headers.setdefault("Retry-After", "1")
    data = json.dumps(body, separators=(",", ":")).encode()
    return web.Response(status=kind.status, body=data, content_type=CONTENT_TYPE, headers=headers)


_BY_STATUS = {
    400: "request",
    404: "not_found",
    405: "method",
    406: "not_acceptable",
    408: "timeout",
    413: "too_large",
    415: "media_type",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def of_http_exception(error: web.HTTPException) -> Problem:
    """Return the problem for what aiohttp itself raised (no route, wrong method, body too large)."""
    code = _BY_STATUS.get(error.status, "request" if 400 <= error.status < 500 else "internal")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(code, headers=headers)


def middleware(
    issuer: str,
    inner: Mapping[type[Exception], str],
    auth_error: type[Exception],
    on_unknown: Callable[[web.Request, Exception], None],
) -> Middleware:
    """Return the outermost middleware: whatever a handler raises becomes a problem.

    Args:
        issuer: prefix of problem types.
        inner: inner error types and the code each one is answered with.
        auth_error: the guard's refusal; shaped as :class:`AuthFailure`.
        on_unknown: told of every exception that nobody expected.
    """

    @web.middleware
    async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return answer(problem, issuer)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return answer(of_http_exception(error), issuer)
        except auth_error as error:
            return answer(_unauthenticated(error), issuer)
        except tuple(inner) as error:
            code = next(code for kind, code in inner.items() if isinstance(error, kind))
            return answer(Problem(code), issuer)
        except Exception as error:
            on_unknown(request, error)
            return answer(Problem("internal"), issuer)

    return problems


def _unauthenticated(error: Exception) -> Problem:
    failure = cast(AuthFailure, error)
    code = {400: "request", 401: "credentials", 429: "rate", 503: "unavailable"}.get(failure.status, "credentials")
    headers = dict(failure.headers)
    members = {}
    if failure.status in (400, 401):
        headers["WWW-Authenticate"] = failure.challenge()
        members = {"error": failure.error} if failure.error else {}
    return Problem(code, failure.description or None, members=members, headers=headers)


async def page(request: web.Request) -> web.Response:
    """GET /problems/{code}: what a problem's ``type`` leads to."""
    kind = KINDS.get(request.match_info["code"])
    if kind is None:
        raise Problem("not_found")
    text = f"{kind.title} ({kind.status})\n\n{kind.says}\n"
    return web.Response(text=text, headers={"Cache-Control": "public, max-age=86400"})
