"""A witness over HTTP: ``POST /add-checkpoint`` (C2SP tlog-witness) and ``GET /checkpoint?origin=…`` (ours).

Bodies of refusals are fixed sentences; nothing that was sent is echoed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web

from keys.notes import signature_lines
from proxy import logs
from proxy.ledger.addcheckpoint import BODY_MAX, LATEST, PATH, SIZE_TYPE
from proxy.witness.core import Accepted, Refused
from proxy.witness.service import Witness
from proxy.witness.state import StateError

BODY_S = 10.0
"""A body has to be complete within this time."""
WAITING_MAX = 32
"""Whole questions at once; more are refused with 503. They are answered one after the other, at the disk's speed."""

_LOG = logs.get("witness")


def application(witness: Witness) -> web.Application:
    """Return the application of ``witness``."""
    app = web.Application(client_max_size=BODY_MAX, middlewares=[_plain])
    handlers = _Handlers(witness)
    app.router.add_post(PATH, handlers.add)
    app.router.add_get(LATEST, handlers.latest)
    return app


def _text(status: int, text: str, content_type: str = "text/plain") -> web.Response:
    response = web.Response(status=status, body=text.encode(), headers={"Cache-Control": "no-store"})
    response.headers["Content-Type"] = content_type if content_type == SIZE_TYPE else f"{content_type}; charset=utf-8"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response


@web.middleware
async def _plain(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what failed: in a sentence of ours, and logged by type and place."""
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except web.HTTPException as error:
        response = _text(error.status, f"{error.reason}\n")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except TimeoutError:
        return _text(408, "the request came too slowly\n")
    except (StateError, OSError) as error:
        # Nothing was cosigned, or what was is told to nobody. The disk decides what is held.
        logs.event(_LOG, logging.ERROR, "witness.state_failed", error)
        return _text(503, "the witness cannot hold what it would sign\n")
    except Exception as error:
        logs.event(_LOG, logging.ERROR, "witness.unexpected", error)
        return _text(500, "something failed here\n")


class _Handlers:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._waiting = 0

    async def add(self, request: web.Request) -> web.Response:
        """``add-checkpoint``: a cosignature, or why not."""
        # Before it is counted: who sends slowly takes a connection of the listener's, and nobody's place.
        async with asyncio.timeout(BODY_S):
            body = await request.read()
        if self._waiting >= WAITING_MAX:
            return _text(503, "too many questions at once\n")
        self._waiting += 1
        try:
            # A thread runs to its end even where this is cancelled; what it holds is on disk or is not.
            answer = await asyncio.to_thread(self._witness.add_checkpoint, body)
        finally:
            self._waiting -= 1
        if isinstance(answer, Accepted):
            logs.event(_LOG, logging.INFO, "witness.cosigned", size=answer.held.size)
            return _text(200, signature_lines([answer.signature]))
        return _refusal(answer)

    async def latest(self, request: web.Request) -> web.Response:
        """What is held of a log, for whoever wants to hold the log against it."""
        origin = request.query.getall("origin", [])
        if len(origin) != 1 or len(request.query) != 1:
            return _text(400, "one parameter is needed: origin\n")
        note = await asyncio.to_thread(self._witness.latest, origin[0])
        if note is None:
            return _text(404, "nothing was cosigned here for this log\n")
        return _text(200, str(note))


def _refusal(refused: Refused) -> web.Response:
    logs.event(_LOG, logging.INFO, "witness.refused", status=int(refused.status))
    if refused.held is not None:
        return _text(refused.status, f"{refused.held}\n", SIZE_TYPE)
    return _text(refused.status, f"{refused.says}\n")
