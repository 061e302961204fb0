"""From the log's entries to accesses: what each one was shown, as far as its entries say. Pure.

An access is its intent, its progress entries and its outcome. Its records are the union of the sets in them, with what
was in flight when it was cut. Without an outcome, whatever its pinned scope holds after its last progress entry counts
too: the first rows after that place, in the order of the answer, up to its limit. Of an access whose sets have been
erased while its intent can still be read, all of its scope counts. What cannot be read at all is told as unreadable,
never as nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pyroaring import BitMap64

from proxy.disclosure import plan
from proxy.disclosure.plan import Place, place_of
from proxy.disclosure.query import read_time
from proxy.disclosure.records import RecordsError, read_set
from proxy.disclosure.scope import Scope, months_of
from proxy.disclosure.targets import Targets
from proxy.ledger.model import Kind, LedgerBroken, OpenedEntry, Tag
from proxy.policy import Action, OcnWindow, Permit, Purpose
from proxy.policy.counting import PARTIES, Subject, SubjectKind
from proxy.store.planes import FormatError
from schema.fields import BY_NAME, DisclosureClass

KINDS: Final = (Kind.ACCESS_INTENT, Kind.ACCESS_PROGRESS, Kind.ACCESS_OUTCOME, Kind.ACCESS_DENIED)
NO_LIMIT: Final = 1 << 62
"""An extraction takes all that its scope holds."""
LOOKBACK: Final = timedelta(days=1)
"""An access that began so long before a time range may still have been running in it."""

_DOMAINS: Final = {
    SubjectKind.CLIENT: ("client", "client_id"),
    SubjectKind.TOKEN: ("token", "token_id"),
    SubjectKind.KEY: ("jkt", "key_thumbprint"),
    SubjectKind.ADDRESS: ("address", "address"),
    SubjectKind.STAFF: ("staff", "staff"),
    SubjectKind.CASE: ("case", None),
}


def tag_of(subject: Subject) -> Tag:
    """Return the tag that the subject's entries bear."""
    domain, _ = _DOMAINS[SubjectKind(subject.kind)]
    return Tag(domain, subject.value.encode())


def bears(subject: Subject, entry: OpenedEntry) -> bool:
    """Say whether an entry found by the subject's tag is the subject's: two values may share a tag."""
    if subject.kind == SubjectKind.ALL or entry.actor is None:
        return True
    _, name = _DOMAINS[SubjectKind(subject.kind)]
    return name is None or entry.actor.get(name) == subject.value


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a record was shown: classes, and which of its party fields."""

    classes: frozenset[str]
    parties: frozenset[str]


@dataclass(frozen=True, slots=True)
class LegalScope:
    """What an extraction's intent pins: the records of its targets in its window, whoever's traffic they are."""

    targets: Targets
    start_us: int
    end_us: int
    as_of: int
    after_id: int = 0

    def months(self) -> list[int]:
        """Return the months (yyyymm) of the window, in order."""
        return months_of(self.start_us, self.end_us)


@dataclass(slots=True)
class Access:
    """One access, as far as its entries have been read."""

    access_id: UUID
    client: str = ""
    staff: bool = False
    """``client`` is a member of staff's id."""
    opened_at: datetime | None = None
    last_at: datetime | None = None
    reach: Reach = Reach(frozenset(), frozenset())
    scopes: tuple[Scope | LegalScope, ...] = ()
    number: str | None = None
    start: Place | None = None
    limit: int = 0
    known: BitMap64 = field(default_factory=BitMap64)
    rows: int = 0
    """Rows up to the last progress entry or the outcome."""
    place: Place | None = None
    """Where the last of them stands; None: nothing is known to have been sent."""
    ended: bool = False
    """Its outcome stands."""
    lost: bool = False
    """A set of its records has been erased."""
    readable: bool = False
    """Its intent could be read."""
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    """Index and leaf of each of its entries."""

    @property
    def whole(self) -> bool:
        """Whether the sets say all that was shown."""
        return self.ended and not self.lost

    def remainder(self) -> Iterator[tuple[Scope | LegalScope, Place | None, int]]:
        """Yield what else counts: each scope in order, the place in it after which, and the limit of all of them."""
        first = self.start if self.lost else self.place or self.start
        limit = self.limit if self.lost else self.limit - self.rows
        for segment in range(first.segment if first else 0, len(self.scopes)):
            yield self.scopes[segment], first if first and first.segment == segment else None, limit

    def take(self, entry: OpenedEntry) -> None:
        """Take one of its entries.

        Raises:
            LedgerBroken: if an entry does not hold what the gateway writes.
        """
        self.entries.append((entry.index, entry.leaf))
        self.last_at = entry.at
        if entry.actor is not None:
            self.client = str(entry.actor.get("client_id") or entry.actor.get("staff") or "")
            self.staff = not entry.actor.get("client_id")
        try:
            if entry.kind is Kind.ACCESS_INTENT:
                self._intent(entry)
            else:
                self._sent(entry)
        except (LookupError, TypeError, ValueError, FormatError) as error:
            what = (
                str(error) if isinstance(error, RecordsError) else f"its {entry.kind.value} does not say what it must"
            )
            raise LedgerBroken(entry.index, what) from error

    def _intent(self, entry: OpenedEntry) -> None:
        self.opened_at = entry.at
        if entry.request is None or entry.records is None:
            return
        request, pinned = entry.request, {**entry.request, **entry.records}
        if request["purpose"] == Purpose.LEGAL:
            self._legal(pinned)
            return
        permit = permit_of(request)
        after_id, as_of = int(pinned["after_id"]), int(pinned["as_of"])
        self.scopes = tuple(plan.scope(s, permit, after_id, as_of) for s in plan.segments(permit))
        self.reach = Reach(
            frozenset(c.value for c in permit.classes),
            frozenset(PARTIES) & frozenset(permit.fields) if DisclosureClass.PARTIES in permit.classes else frozenset(),
        )
        self.number = request.get("number")
        self.start = place_of(pinned["place"]) if pinned["place"] else None
        self.limit = int(request["limit"])
        self.readable = True

    def _legal(self, pinned: Mapping[str, Any]) -> None:
        """Take the intent of an extraction (proxy/disclosure/orders.py): every carrier's records, of some targets."""
        start, end = _time(pinned["from"]), _time(pinned["to"])
        self.scopes = (LegalScope(Targets.read(pinned["targets"]), start, end, int(pinned["as_of"])),)
        shown = frozenset(pinned["fields"])
        classes = {BY_NAME[name].disclosure_class.value for name in shown}
        self.reach = Reach(frozenset(classes), frozenset(PARTIES) & shown)
        self.limit = NO_LIMIT
        self.readable = True

    def _sent(self, entry: OpenedEntry) -> None:
        self.ended = self.ended or entry.kind is Kind.ACCESS_OUTCOME
        records = entry.records
        if entry.outcome is None or records is None:
            self.lost = True
            return
        self.rows = int(entry.outcome["rows"])
        for name in ("records", "in_flight"):
            if name in records:
                self.known |= read_set(records[name])
        if records.get("place"):
            self.place = place_of(records["place"])


def permit_of(request: Mapping[str, Any]) -> Permit:
    """Return the permit that an intent's request names.

    Raises:
        LookupError, TypeError, ValueError: if it names none.
    """
    windows = tuple(sorted(OcnWindow(_time(start), _time(end), ocn) for ocn, start, end in request["windows"]))
    return Permit(
        Purpose(request["purpose"]),
        Action(request["action"]),
        request["basis"],
        request["agreement"],
        frozenset(DisclosureClass(c) for c in request["classes"]),
        tuple(request["fields"]),
        frozenset(request["sides"]),
        windows,
    )


def _time(text: str) -> int:
    moment = read_time(text)
    if moment is None:
        raise ValueError("no time")
    return moment


class Trail:
    """Accesses of a subject that ran in a time range, from its entries in the order of the log.

    Args:
        subject: whose.
        first: start of the range, aware.
        last: its end (half-open).
    """

    def __init__(self, subject: Subject, first: datetime, last: datetime) -> None:
        self._subject = subject
        self.first = first
        self.last = last
        self._open: dict[UUID, Access] = {}
        self.denied = 0
        """Refusals in the range."""

    def take(self, entry: OpenedEntry) -> Access | None:
        """Take an entry; return its access where it is complete by it and ran in the range."""
        if entry.access_id is None or not bears(self._subject, entry):
            return None
        if entry.kind is Kind.ACCESS_DENIED:
            self.denied += self.first <= entry.at < self.last
            return None
        if entry.kind is Kind.ACCESS_INTENT and entry.at >= self.last:
            return None
        access = self._open.get(entry.access_id)
        if access is None:
            # Of an access whose intent is not before us only the intent can say when it began.
            access = self._open[entry.access_id] = Access(entry.access_id)
        access.take(entry)
        if not access.ended or access.opened_at is None:
            return None
        del self._open[entry.access_id]
        return access if self.ran(access) else None

    def ran(self, access: Access) -> bool:
        """Say whether an access ran in the range: without an outcome it may have, whenever it began before its end."""
        if access.opened_at is not None and access.opened_at >= self.last:
            return False
        return not access.ended or (access.last_at is not None and access.last_at >= self.first)

    def left(self) -> list[UUID]:
        """Return the accesses of which an intent or an outcome has not come."""
        return list(self._open)
