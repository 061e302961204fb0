"""Reports, counted from the log and never from rows of cases: what was asked for, and what was disclosed to whom.

* *Transparency*: legal process by instrument and period, what was asked and what came of it. National security letters
  stand in their own line, in bands (`bands.py`), and in no sum.
* *Disclosures* (47 CFR 64.2009(c)): every disclosure to third parties, by carrier, and by instrument.

The order: append that the report is read, durable → count. A secret case is in no report but the legal desk's own; of
national security letters nobody gets more than the band, the legal desk neither. An entry is held against its own
commitments as it is opened; `tollgate log fsck` holds all of them against what was signed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from proxy.ledger.model import JSON, Entry, Kind, OpenedEntry, Tag, timestamp
from proxy.ledger.search import Query, Search, Seen
from proxy.ledger.service import Ledger
from proxy.legal.bands import DEFAULT, BandError, Structure, structure
from proxy.legal.secrecy import Audience

NSL: Final = "nsl"
"""The instrument that is reported in bands."""
CITATION: Final = "47 CFR 64.2009(c)"

_PAGE: Final = 500
_ACCESS: Final = (Kind.ACCESS_INTENT, Kind.ACCESS_PROGRESS, Kind.ACCESS_OUTCOME)
_TOLD: Final = {"deficient": "deficient", "objected": "objected", "delivered": "delivered", "active": "preserved"}
"""State that a case came to → what it is counted as."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who has a report made: what the log says of them, and for whom it is counted."""

    actor: Mapping[str, JSON]
    tags: tuple[Tag, ...]
    audience: Audience


@dataclass(frozen=True, slots=True)
class Period:
    """From ``first`` until before ``last`` (aware), and why the report is made."""

    first: datetime
    last: datetime
    reason: str

    def __post_init__(self) -> None:
        if self.first.tzinfo is None or self.last.tzinfo is None or self.first >= self.last:
            raise ValueError("a period has two times with their zones, the first before the second")

    def as_json(self) -> dict[str, JSON]:
        """Return it as JSON values."""
        return {"from": timestamp(self.first), "to": timestamp(self.last)}


# --- transparency ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Process:
    """What came of one instrument in a period; each a number of cases."""

    received: set[str] = field(default_factory=set)
    told: dict[str, set[str]] = field(default_factory=dict)
    selectors: dict[str, int] = field(default_factory=dict)
    """Case → how many targets were asked for, at most."""

    def as_json(self) -> dict[str, int]:
        """Return the counts."""
        counts = {"received": len(self.received), "selectors": sum(self.selectors.values())}
        return counts | {name: len(self.told.get(name, ())) for name in _TOLD.values()}


class Transparency:
    """Counts CASE_STATE entries as they come in the log's order."""

    def __init__(self) -> None:
        self.instruments: dict[str, Process] = {}

    def take(self, entry: OpenedEntry) -> bool:
        """Take an entry; return False where it cannot be read any more."""
        if entry.request is None:
            return False
        told = entry.request
        case, instrument, to = str(told.get("case", "")), told.get("instrument"), told.get("to")
        if not instrument or told.get("decision") in ("refused", "deny"):
            return True
        process = self.instruments.setdefault(str(instrument), Process())
        if told.get("from") in (None, ""):
            process.received.add(case)
        elif told.get("from") != to and to in _TOLD:
            process.told.setdefault(_TOLD[str(to)], set()).add(case)
        if isinstance(targets := told.get("targets"), int):
            process.selectors[case] = max(process.selectors.get(case, 0), targets)
        return True


# --- disclosures -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recipient:
    """What was disclosed to one recipient under one basis."""

    accesses: int = 0
    unfinished: int = 0
    """Accesses without an outcome: what they disclosed is counted up to their last progress entry."""
    records: int = 0
    classes: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    clients: Counter[str] = field(default_factory=Counter)
    first: str = ""
    last: str = ""
    calls_from: str = ""
    calls_to: str = ""

    def add(self, access: _Access) -> None:
        """Add an access."""
        asked = access.request
        self.accesses += 1
        self.unfinished += not access.ended
        self.records += access.rows
        self.classes.update(map(str, asked.get("classes", ())))
        self.fields.update(map(str, asked.get("fields", ())))
        self.clients[access.who] += 1
        begun = timestamp(access.at)
        self.first = min(self.first or begun, begun)
        self.last = max(self.last, begun)
        if asked.get("from") and asked.get("to"):
            self.calls_from = min(self.calls_from or str(asked["from"]), str(asked["from"]))
            self.calls_to = max(self.calls_to, str(asked["to"]))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "accesses": self.accesses,
            "without_outcome": self.unfinished,
            "records": self.records,
            "classes": sorted(self.classes),
            "fields": sorted(self.fields),
            "by": dict(sorted(self.clients.items())),
            "first": self.first,
            "last": self.last,
            "calls_from": self.calls_from or None,
            "calls_to": self.calls_to or None,
        }


@dataclass(slots=True)
class _Access:
    at: datetime
    who: str
    carrier: str
    request: Mapping[str, Any]
    rows: int = 0
    ended: bool = False


class Disclosures:
    """Counts accesses that began in a period, from their entries in the log's order.

    Memory: one small value for each access that has not ended yet, and one for each recipient.
    """

    def __init__(self, period: Period) -> None:
        self._period = period
        self._open: dict[UUID, _Access] = {}
        self.recipients: dict[tuple[str, str, str], Recipient] = {}
        """(carrier, or the instrument's basis), purpose and basis."""

    def take(self, entry: OpenedEntry) -> bool:
        """Take an entry; return False where it is an intent that cannot be read any more."""
        if entry.access_id is None:
            return True
        if entry.kind is Kind.ACCESS_INTENT:
            if not self._period.first <= entry.at < self._period.last:
                return True
            if entry.request is None or entry.actor is None:
                return False
            who = str(entry.actor.get("client_id") or entry.actor.get("staff") or "")
            carrier = str(entry.actor.get("carrier_id") or "")
            self._open[entry.access_id] = _Access(entry.at, who, carrier, entry.request)
            return True
        if (access := self._open.get(entry.access_id)) is None:
            return True
        rows = (entry.outcome or {}).get("rows")
        access.rows = max(access.rows, rows if isinstance(rows, int) else 0)
        if entry.kind is Kind.ACCESS_OUTCOME:
            access.ended = True
            self._add(self._open.pop(entry.access_id))
        return True

    def finish(self) -> None:
        """Add the accesses of which no outcome stands."""
        for access in self._open.values():
            self._add(access)
        self._open.clear()

    def _add(self, access: _Access) -> None:
        if access.request.get("discloses") is False or access.request.get("instrument") == NSL:
            return  # frozen and shown to nobody; or in bands only, elsewhere
        basis = str(access.request.get("basis", ""))
        key = (access.carrier or basis, str(access.request.get("purpose", "")), basis)
        self.recipients.setdefault(key, Recipient()).add(access)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the recipients in order."""
        return [
            {"recipient": who, "purpose": purpose, "basis": basis, **made.as_json()}
            for (who, purpose, basis), made in sorted(self.recipients.items())
        ]


# --- the service -----------------------------------------------------------------------------------------------------


class Reports:
    """Makes reports.

    Args:
        ledger: the log, to append to.
        desk: the log as the legal desk may search it.
        others: the log as everybody else may.
    """

    def __init__(self, ledger: Ledger, desk: Search, others: Search) -> None:
        self._ledger = ledger
        self._desk = desk
        self._others = others

    async def transparency(
        self, reader: Reader, period: Period, *, bands: str | None = DEFAULT, now: datetime | None = None
    ) -> dict[str, Any]:
        """Count legal process of a period by instrument.

        Args:
            reader: for whom.
            period: which.
            bands: the structure in which national security letters are reported; None: not at all.
            now: the time; default: now.

        Raises:
            BandError: letters are not reported so, or not for this period.
            LedgerUnavailable: the log cannot be written; nothing was read.
            LedgerBroken: an entry is not what it commits to.
        """
        chosen = None if bands is None else structure(bands)
        if chosen is not None:
            chosen.check(period.first, period.last, now or datetime.now(UTC))
        await self._begin(reader, period, {"report": "transparency", "bands": bands})
        counted, seen = Transparency(), Seen()
        unread = await self._count(self._search(reader), period, (Kind.CASE_STATE,), counted, seen)
        counted.instruments.pop(NSL, None)
        value: dict[str, Any] = {
            **period.as_json(),
            "instruments": {name: p.as_json() for name, p in sorted(counted.instruments.items())},
            "unread": unread,
            "blind_months": sorted(set(seen.blind)),
        }
        if chosen is not None:
            value["national_security_letters"] = await self._letters(chosen, period)
        return value

    async def disclosures(self, reader: Reader, period: Period) -> dict[str, Any]:
        """Count what was disclosed to third parties by accesses that began in a period (47 CFR 64.2009(c)).

        Raises:
            LedgerUnavailable, LedgerBroken: as `transparency`.
        """
        await self._begin(reader, period, {"report": "disclosures"})
        counted, seen = Disclosures(period), Seen()
        # An access that began in the period may end long after it.
        unread = await self._count(self._search(reader), replace_last(period), _ACCESS, counted, seen)
        counted.finish()
        return {
            **period.as_json(),
            "citation": CITATION,
            "recipients": counted.as_json(),
            "national_security_letters": "not in this report: 50 U.S.C. 1874",
            "unread": unread,
            "blind_months": sorted(set(seen.blind)),
        }

    async def _letters(self, chosen: Structure, period: Period) -> dict[str, Any]:
        # Secret ones too: that they are counted is what the statute allows, and the band is all that leaves.
        counted = Transparency()
        await self._count(self._desk, period, (Kind.CASE_STATE,), counted, Seen())
        letters = counted.instruments.get(NSL, Process())
        selectors = sum(n for case, n in letters.selectors.items() if case in letters.received)
        return chosen.as_json(len(letters.received), selectors)

    def _search(self, reader: Reader) -> Search:
        return self._desk if reader.audience is Audience.DESK else self._others

    async def _begin(self, reader: Reader, period: Period, asked: Mapping[str, JSON]) -> None:
        request = {"purpose": "report", "reason": period.reason, **asked, **period.as_json()}
        # Durable before the first entry is read, as every look at the log.
        await self._ledger.append(Entry(Kind.REPORT_READ, reader.actor, request, tags=reader.tags))

    async def _count(
        self,
        search: Search,
        period: Period,
        kinds: tuple[Kind, ...],
        counted: Transparency | Disclosures,
        seen: Seen,
    ) -> int:
        unread = 0
        query = Query(kinds=kinds, first=period.first, last=period.last, limit=_PAGE)
        async with aclosing(_entries(search, query, seen)) as found:
            async for entry in found:
                unread += not counted.take(entry)
        return unread


def replace_last(period: Period) -> Period:
    """Return the period without an end."""
    return replace(period, last=datetime(9999, 1, 1, tzinfo=UTC))


async def _entries(search: Search, query: Query, seen: Seen) -> AsyncGenerator[OpenedEntry]:
    while True:
        part = Seen()
        async with aclosing(search.run(query, part)) as found:
            async for entry in found:
                yield entry
        seen.blind += part.blind
        if part.next_after is None:
            return
        query = replace(query, after=part.next_after)


__all__ = ["BandError", "Disclosures", "Period", "Reader", "Reports", "Transparency"]
