"""``authorization_details`` of type ``cdr_billing`` (RFC 9396): what a client may ask to be narrowed to. Pure.

::

    [{"type": "cdr_billing", "ocns": ["123A"], "directions": ["ingress"], "classes": ["timing", "parties"],
      "window": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}]

Every member but ``type`` is optional, and a member that is absent narrows nothing. What is not known, not well formed
or not the client's is refused as a whole, never dropped (RFC 9396 section 5).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.oauth.errors import Refused
from proxy.oauth.jws import strict_object
from proxy.policy.model import Purpose
from proxy.policy.rules import BASES, LEG_CLASSES
from schema.fields import DisclosureClass

TYPE = "cdr_billing"
SCOPE = "cdr.billing"
PURPOSE = Purpose.BILLING

DIRECTIONS = ("ingress", "egress")
CLASSES = tuple(c.value for c in DisclosureClass if c in BASES[PURPOSE].classes)
"""What the purpose reaches, in canonical order."""

OCNS_MAX = 500
"""Most OCNs of one token: it has to fit into a header line."""

TEXT_MAX = 16_384
"""Most characters of the parameter."""

_MEMBERS = frozenset({"type", "ocns", "directions", "classes", "window"})
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; None where nothing was said."""

    ocns: tuple[str, ...] | None = None
    directions: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What is granted. Times are microseconds since 1970-01-01 UTC, half-open; None: not narrowed."""

    ocns: tuple[str, ...]
    directions: tuple[str, ...]
    classes: tuple[str, ...]
    start_us: int | None
    end_us: int | None

    def as_json(self) -> list[dict[str, Any]]:
        """Return them as they stand in the token and in the answer."""
        item: dict[str, Any] = {
            "type": TYPE,
            "ocns": list(self.ocns),
            "directions": list(self.directions),
            "classes": list(self.classes),
        }
        window = {k: _text(v) for k, v in (("from", self.start_us), ("to", self.end_us)) if v is not None}
        return [{**item, "window": window} if window else item]


def read(text: str) -> Wanted:
    """Read the request's parameter.

    Raises:
        Refused: details.invalid.
    """
    if len(text) > TEXT_MAX:
        raise Refused("details.invalid")
    try:
        # Within an object, so that the strict parser's rules hold for the list too.
        value = strict_object(f'{{"details":{text}}}')
    except ValueError as error:
        raise Refused("details.invalid") from error
    if value.keys() != {"details"}:
        raise Refused("details.invalid")
    return of_value(value["details"])


def of_value(value: object) -> Wanted:
    """Read details from their JSON value (a request's, or those in a token of ours).

    Raises:
        Refused: details.invalid.
    """
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise Refused("details.invalid")
    item = value[0]
    if item.get("type") != TYPE or item.keys() - _MEMBERS:
        raise Refused("details.invalid")
    window = item.get("window", {})
    if not isinstance(window, dict) or window.keys() - {"from", "to"} or ("window" in item and not window):
        raise Refused("details.invalid")
    start, end = (_moment(window[name]) if name in window else None for name in ("from", "to"))
    if start is not None and end is not None and start >= end:
        raise Refused("details.invalid")
    return Wanted(
        _words(item, "ocns"), _words(item, "directions", DIRECTIONS), _words(item, "classes", CLASSES), start, end
    )


def narrow(wanted: Wanted, owned: Collection[str]) -> Details:
    """Return what is granted: all that the purpose and the client's OCNs allow, as far as was asked.

    A class of one side's leg goes with that side: it is left out where the side was not asked for, and refused where
    it was named without its side.

    Args:
        wanted: the request.
        owned: OCNs that are the client's carrier's today; not empty.

    Raises:
        Refused: details.invalid, where something asked for is not the client's, or nothing would remain.
    """
    ocns = tuple(sorted(owned)) if wanted.ocns is None else wanted.ocns
    if not set(ocns) <= set(owned) or len(ocns) > OCNS_MAX:
        raise Refused("details.invalid")
    directions = tuple(d for d in DIRECTIONS if wanted.directions is None or d in wanted.directions)
    beyond = {cls.value for side, cls in LEG_CLASSES.items() if side not in directions}
    if wanted.classes is not None and beyond & set(wanted.classes):
        raise Refused("details.invalid")
    classes = tuple(c for c in CLASSES if c not in beyond and (wanted.classes is None or c in wanted.classes))
    if not ocns or not directions or not classes:
        raise Refused("details.invalid")
    return Details(ocns, directions, classes, wanted.start_us, wanted.end_us)


def granted(value: object) -> Details:
    """Read the details of one of our own tokens: every member has to be there.

    Raises:
        Refused: details.invalid.
    """
    wanted = of_value(value)
    if wanted.ocns is None or wanted.directions is None or wanted.classes is None:
        raise Refused("details.invalid")
    return narrow(wanted, wanted.ocns)


def _words(item: Mapping[str, Any], name: str, known: Collection[str] | None = None) -> tuple[str, ...] | None:
    if name not in item:
        return None
    value = item[name]
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise Refused("details.invalid")
    if len(set(value)) != len(value) or (known is not None and not set(value) <= set(known)):
        raise Refused("details.invalid")
    return tuple(sorted(value))


def _moment(value: object) -> int:
    """Return an RFC 3339 time in microseconds; finer ones, leap seconds and other centuries are refused."""
    if not isinstance(value, str) or _TIME.fullmatch(value) is None or not 1984 <= int(value[:4]) <= 2100:
        raise Refused("details.invalid")
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise Refused("details.invalid") from error
    return (at - _EPOCH) // _MICROSECOND


def _text(at_us: int) -> str:
    at = _EPOCH + at_us * _MICROSECOND
    return at.strftime("%Y-%m-%dT%H:%M:%S") + (f".{at.microsecond:06d}" if at.microsecond else "") + "Z"
