"""What a handler writes down of a served process: read from JSON, kept as JSON (sealed), turned into what is checked.

Texts are bounded and free of control characters; nothing of them is echoed. Days are of the process's own zone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from proxy.legal.model import CASE_ID, Malformed, Scope
from proxy.legal.secrecy import Authority, Secrecy
from proxy.policy.instruments import INSTRUMENTS
from proxy.policy.process import Served, TargetFacts
from proxy.policy.validation import micros

TEXT_MAX = 500
LIST_MAX = 32

TEXTS = ("agency", "court", "officer", "reference", "statute", "signed_by", "deliver_to", "delivery_key")
REQUIRED = ("instrument", "issued", "served_at", "zone")
OPTIONAL = (*TEXTS, "expires", "return_by", "attested", "certification", "country", "nondisclosure", "preservation")

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as its handler read it; ``facts`` is what is sealed."""

    instrument: str
    zone: ZoneInfo
    issued: date
    served_at: datetime
    return_by: date | None
    secrecy: Secrecy | None
    preservation: str | None
    facts: Mapping[str, Any]

    def served(self, scope: Scope, targets: TargetFacts) -> Served:
        """Return it as policy checks it, with what is asked."""
        f = self.facts
        return Served(
            instrument=self.instrument,
            agency=f["agency"],
            court=f["court"],
            officer=f["officer"],
            reference=f["reference"],
            statute=f["statute"],
            signed_by=f["signed_by"],
            issued=self.issued,
            served_at=self.served_at,
            expires=_day(f, "expires"),
            return_by=self.return_by,
            attested=frozenset(f["attested"]),
            classes=scope.classes,
            fields=scope.fields,
            start_us=scope.start_us,
            end_us=scope.end_us,
            zone=scope.zone,
            targets=targets,
            certification=frozenset(f["certification"]),
            nondisclosure=self.secrecy is not None,
            country=f["country"],
        )


def read_process(body: Mapping[str, Any]) -> Process:
    """Return the process that a body of ``POST /v1/cases`` (or a sealed copy of one) says.

    Raises:
        Malformed: naming the member at fault.
    """
    instrument = _text(body, "instrument")
    if instrument not in INSTRUMENTS:
        raise Malformed("instrument", "This is no instrument that is known; `tollgate case instruments` lists them.")
    zone = read_zone(body.get("zone"))
    issued = _day(body, "issued")
    served_at = read_moment(body.get("served_at"), zone, "served_at")
    if issued is None:
        raise Malformed("issued", "This has to be a day as 2026-11-02.")
    facts: dict[str, Any] = {name: _text(body, name) for name in TEXTS}
    facts |= {name: _words(body, name) for name in ("attested", "certification")}
    for name in ("expires", "return_by"):
        day = _day(body, name)
        facts[name] = None if day is None else day.isoformat()
    facts |= {
        "instrument": instrument,
        "zone": zone.key,
        "issued": issued.isoformat(),
        "served_at": served_at.isoformat(),
        "country": _text(body, "country") or "US",
        "nondisclosure": body.get("nondisclosure"),
        "preservation": body.get("preservation"),
    }
    preservation = body.get("preservation")
    if preservation is not None and not (isinstance(preservation, str) and CASE_ID.fullmatch(preservation)):
        raise Malformed("preservation", "This has to be the id of a case.")
    secrecy = read_secrecy(body.get("nondisclosure"), zone)
    return Process(instrument, zone, issued, served_at, _day(body, "return_by"), secrecy, preservation, facts)


def read_secrecy(value: Any, zone: ZoneInfo) -> Secrecy | None:
    """Return the order of non-disclosure that ``{"authority": …, "until": day or null}`` says; None: there is none.

    Raises:
        Malformed: naming it.
    """
    if value is None:
        return None
    wrong = Malformed("nondisclosure", "This has to be an object with an authority, and a day until which it binds.")
    if not isinstance(value, dict) or not value.keys() <= {"authority", "until"}:
        raise wrong
    try:
        authority = Authority(str(value.get("authority")))
    except ValueError:
        raise wrong from None
    until = _day(value, "until", "nondisclosure")
    return Secrecy(authority) if until is None else Secrecy.through(authority, until, zone)


def read_zone(value: Any) -> ZoneInfo:
    """Return an IANA time zone.

    Raises:
        Malformed: where there is none of that name.
    """
    try:
        if isinstance(value, str) and 0 < len(value) <= 64:
            return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise Malformed("zone", "This has to be the IANA name of a time zone, as America/New_York.")


def read_window(body: Mapping[str, Any], zone: ZoneInfo) -> tuple[int, int]:
    """Return the window of ``from`` and ``through`` (a day, that day included) or ``to`` (a moment, excluded), in µs.

    Raises:
        Malformed: naming the member at fault.
    """
    start = read_moment(body.get("from"), zone, "from")
    if ("through" in body) == ("to" in body):
        raise Malformed("through", "The window ends `through` a day, or before the moment `to`: one of them is needed.")
    if "to" in body:
        return micros(start), micros(read_moment(body["to"], zone, "to"))
    day = _day(body, "through")
    if day is None:
        raise Malformed("through", "This has to be a day as 2026-11-02.")
    try:
        end = datetime.combine(day + timedelta(days=1), time(), zone)
    except OverflowError:
        raise Malformed("through", "This has to be a day as 2026-11-02.") from None
    return micros(start), micros(end)


def read_moment(value: Any, zone: ZoneInfo, name: str) -> datetime:
    """Return a day (its first moment in ``zone``) or an RFC 3339 time, as an aware time in UTC.

    Raises:
        Malformed: naming ``name``.
    """
    try:
        if isinstance(value, str) and len(value) <= 40:
            at = datetime.fromisoformat(value)
            if _DAY.fullmatch(value):
                at = at.replace(tzinfo=zone)
            if at.tzinfo is not None and 1990 <= at.year <= 2100:
                return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Malformed(name, "This has to be a day as 2026-11-02, or a time with its offset as 2026-11-02T09:30:00-05:00.")


def _day(body: Mapping[str, Any], name: str, parameter: str = "") -> date | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str) and _DAY.fullmatch(value):
            day = date.fromisoformat(value)
            if 1990 <= day.year <= 2100:
                return day
    except ValueError:
        pass
    raise Malformed(parameter or name, "This has to be a day as 2026-11-02.")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > TEXT_MAX or not (value.isprintable() or not value):
        raise Malformed(name, f"This has to be a line of at most {TEXT_MAX} printable characters.")
    return value.strip()


def _words(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name, [])
    if (
        not isinstance(value, list)
        or len(value) > LIST_MAX
        or not all(isinstance(v, str) and 0 < len(v) <= 64 and v.isprintable() for v in value)
    ):
        raise Malformed(name, "This has to be a list of words.")
    return sorted(set(value))
