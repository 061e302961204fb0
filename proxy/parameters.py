"""Query parameters of the staff's API: each known, each once, each of the form that it has to have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from proxy.problems import Problem

VALUE_MAX: Final = 256
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def parameters(request: web.Request, required: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, str]:
    """Return the parameters of a request without a body.

    Raises:
        Problem: ``parameter``, naming the one at fault where it is one of ours; ``media_type`` for a body.
    """
    if request.body_exists:
        raise Problem("media_type", "This method takes no body.")
    return checked(list(request.query.items()), required, optional)


def checked(
    pairs: Collection[tuple[str, str]], required: Collection[str] = (), optional: Collection[str] = ()
) -> dict[str, str]:
    """Return parameters, or a body's members, as texts of at most 256 printable characters.

    Raises:
        Problem: ``parameter``.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in required and name not in optional:
            raise Problem("parameter", "There is a parameter that is not known here.")
        if name in found:
            raise Problem("parameter", "It is given twice.", parameter=name)
        if not isinstance(value, str) or not 1 <= len(value) <= VALUE_MAX or not value.isprintable():
            raise Problem("parameter", f"It is 1 to {VALUE_MAX} printable characters.", parameter=name)
        found[name] = value
    for name in required:
        if name not in found:
            raise Problem("parameter", "It is needed.", parameter=name)
    return found


def moment(values: Mapping[str, str], name: str) -> datetime | None:
    """Return a time of 2000 to 2100 (RFC 3339), or a day, which begins at midnight UTC; None where it is not given.

    Raises:
        Problem: ``parameter``.
    """
    if (text := values.get(name)) is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None and len(text) == 10 else at
        if at.tzinfo is not None and _EARLIEST <= (at := at.astimezone(UTC)) <= _LATEST:
            return at
    except (ValueError, OverflowError):
        pass
    raise Problem(
        "parameter", "It is a day as 2026-11-05, or a time with an offset; in a URL a plus sign is %2B.", parameter=name
    )


def whole(values: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """Return a whole number within bounds.

    Raises:
        Problem: ``parameter``.
    """
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and least <= int(text) <= most):
        raise Problem("parameter", f"It is a whole number from {least} to {most}.", parameter=name)
    return int(text)
