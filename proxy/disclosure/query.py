"""What a caller may ask, and the strict reading of it. Pure.

``GET /v1/cdrs`` takes its question from the query string, ``POST /v1/cdrs/search`` from a JSON body: a telephone
number never stands in a URL. Every refusal names the parameter; none echoes a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.policy import Direction

MAX_WINDOW_DAYS = 400
"""The longest window of one question: a year and a month."""
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2101, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LIMIT = re.compile(r"[1-9][0-9]{0,9}")
_E164 = re.compile(r"\+[1-9][0-9]{3,14}")
_SEALED = re.compile(r"[A-Za-z0-9_-]{1,4096}")


class QueryError(Exception):
    """A parameter is wrong: which (one of ours; "" for one that is not), and a sentence on what would be right."""

    def __init__(self, parameter: str, says: str) -> None:
        super().__init__(parameter, says)
        self.parameter = parameter
        self.says = says


@dataclass(frozen=True, slots=True)
class Window:
    """A question in full. Times are microseconds UTC, half-open."""

    start_us: int
    end_us: int
    direction: str | None = None
    """None: whatever the token reaches."""
    received_after: str | None = None
    """A value of the header Complete-To, still sealed."""
    number: str | None = None
    """E.164 with "+": a search. None: a pull."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's question: either a new one, or a sealed cursor that carries one."""

    window: Window | None
    cursor: str | None
    limit: int | None


def read_pull(pairs: Iterable[tuple[str, str]], max_rows: int) -> Asked:
    """Read the query parameters of ``GET /v1/cdrs``.

    Raises:
        QueryError: on a parameter that is unknown, given twice, missing or wrong.
    """
    values = _once(pairs, ("from", "to", "direction", "received_after", "limit", "cursor"))
    limit = _limit_text(values.get("limit"), max_rows)
    if "cursor" in values:
        return _resume(values, limit)
    sealed = values.get("received_after")
    if sealed is not None and not _SEALED.fullmatch(sealed):
        raise QueryError("received_after", "It is a value of the header Complete-To, as it was received.")
    start, end = _window(values)
    return Asked(Window(start, end, _direction(values), sealed), None, limit)


def read_search(body: bytes, max_rows: int) -> Asked:
    """Read the JSON body of ``POST /v1/cdrs/search``.

    Raises:
        QueryError: on anything but one JSON object with known members, each once and of its type.
    """
    values = _json_object(body, ("number", "from", "to", "direction", "limit", "cursor"))
    limit = values.pop("limit", None)
    if limit is not None and (type(limit) is not int or not 1 <= limit <= max_rows):
        raise QueryError("limit", f"It is a whole number from 1 to {max_rows}.")
    for name, value in values.items():
        if not isinstance(value, str):
            raise QueryError(name, "It is a string.")
    if "cursor" in values:
        return _resume(values, limit)
    if "number" not in values:
        raise QueryError("number", "It is needed.")
    number: str = values["number"]
    if not _E164.fullmatch(number):
        raise QueryError("number", "It is an E.164 number: a plus sign and 4 to 15 digits, nothing else.")
    start, end = _window(values)
    return Asked(Window(start, end, _direction(values), None, number), None, limit)


def read_time(text: str) -> int | None:
    """Return an RFC 3339 date-time with an offset as microseconds UTC, or None if it is none of 2000 to 2100."""
    match = _RFC3339.fullmatch(text)
    if not match:
        return None
    zone = match[3].upper().replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if not _EARLIEST <= moment <= _LATEST:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def write_time(moment_us: int) -> str:
    """Return microseconds UTC as RFC 3339 with Z."""
    return (_EPOCH + timedelta(microseconds=moment_us)).isoformat().replace("+00:00", "Z")


def _once(pairs: Iterable[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise QueryError("", f"Only these parameters are known: {', '.join(known)}.")
        if name in values:
            raise QueryError(name, "It is given twice.")
        values[name] = value
    return values


def _resume(values: dict[str, Any], limit: int | None) -> Asked:
    others = sorted(set(values) - {"cursor", "limit"})
    if others:
        raise QueryError(others[0], "A cursor carries the question: beside it only limit may stand.")
    if not _SEALED.fullmatch(values["cursor"]):
        raise QueryError("cursor", "It is a cursor as it was received.")
    return Asked(None, values["cursor"], limit)


def _window(values: dict[str, Any]) -> tuple[int, int]:
    bounds = []
    for name in ("from", "to"):
        if name not in values:
            raise QueryError(name, "It is needed.")
        moment = read_time(values[name])
        if moment is None:
            raise QueryError(
                name, "It is an RFC 3339 date-time of 2000 to 2100 with an offset; in a URL a plus sign is %2B."
            )
        bounds.append(moment)
    start, end = bounds
    if start >= end:
        raise QueryError("to", "It has to be later than from.")
    if end - start > MAX_WINDOW_DAYS * 86_400_000_000:
        raise QueryError("to", f"It is at most {MAX_WINDOW_DAYS} days after from.")
    return start, end


def _direction(values: dict[str, Any]) -> str | None:
    direction: str | None = values.get("direction")
    if direction is not None and direction not in {d.value for d in Direction}:
        raise QueryError("direction", "It is ingress, egress or both.")
    return direction


def _limit_text(text: str | None, max_rows: int) -> int | None:
    if text is None:
        return None
    if not _LIMIT.fullmatch(text) or int(text) > max_rows:
        raise QueryError("limit", f"It is a whole number from 1 to {max_rows}.")
    return int(text)


def _json_object(body: bytes, known: Sequence[str]) -> dict[str, Any]:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise QueryError(name if name in known else "", "A member is given twice.")
            found[name] = value
        return found

    def constant(_: str) -> None:
        raise ValueError

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise QueryError("", "The body is one JSON object in UTF-8.") from error
    if not isinstance(value, dict):
        raise QueryError("", "The body is one JSON object in UTF-8.")
    if set(value) - set(known):
        raise QueryError("", f"Only these members are known: {', '.join(known)}.")
    return value
