"""Request bodies of the staff's API: one JSON object, of bounded size, in time, each member once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from typing import Any

from aiohttp import web

from proxy.problems import Problem

BODY_MAX = 64 * 1024
"""Most bytes of a body."""
BODY_S = 10.0
"""How long it may take to arrive, seconds."""

_JSON = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


class _Twice(ValueError):  # noqa: N818 - what is so
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _no_constant(_: str) -> None:
    raise ValueError


async def json_object(
    request: web.Request, required: Collection[str] = (), optional: Collection[str] = (), *, most: int = BODY_MAX
) -> dict[str, Any]:
    """Read a body that is a JSON object with these members and no others.

    Raises:
        Problem: ``media_type``, ``too_large``, ``timeout``; ``parameter`` where it is no such object (the problem names
            the member that is missing, never one that the caller made up).
    """
    if not _JSON.fullmatch(request.headers.get("Content-Type", "")) or "Content-Encoding" in request.headers:
        raise Problem("media_type", "The body has to be application/json, without a content coding.")
    if (request.content_length or 0) > most:
        raise Problem("too_large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_chunked(16_384):
                body += chunk
                if len(body) > most:
                    raise Problem("too_large")
    except TimeoutError as error:
        raise Problem("timeout", headers={"Connection": "close"}) from error
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem("parameter", "The body has to be JSON in UTF-8, each member once.") from error
    if not isinstance(value, dict):
        raise Problem("parameter", "The body has to be a JSON object.")
    for name in required:
        if name not in value:
            raise Problem("parameter", "This member is needed.", parameter=name)
    if not value.keys() <= {*required, *optional}:
        raise Problem("parameter", "The body has a member that is not taken here.")
    return value


def text(body: dict[str, Any], name: str, default: str = "") -> str:
    """Return a member that has to be text.

    Raises:
        Problem: ``parameter``, naming it.
    """
    value = body.get(name, default)
    if not isinstance(value, str):
        raise Problem("parameter", "This member has to be text.", parameter=name)
    return value


def nothing(request: web.Request) -> None:
    """Refuse a body and a query where none is taken.

    Raises:
        Problem: ``media_type`` or ``parameter``.
    """
    if request.body_exists:
        raise Problem("media_type", "This method takes no body.")
    if request.query_string:
        raise Problem("parameter", "This address takes no query parameters.")
