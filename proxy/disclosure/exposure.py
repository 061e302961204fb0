"""What was somebody shown? Counted exactly, from the log's entries and the store, for the privacy officer.

The order: decide (policy) → append the count itself to the log, durable → read the accesses, proving each entry → count
in the store → append what was counted. If the log cannot be written, nothing is read. A count never under-states: an
access without outcome counts with all that its scope still held, and what cannot be counted is told.

Trust: who can change this file can count anybody's disclosures and learn how many they were; no number goes out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pyroaring import BitMap64

from proxy.disclosure.exposure_count import Tally, by_class
from proxy.disclosure.exposure_proof import Proved, Prover
from proxy.disclosure.exposure_store import CountingStore
from proxy.disclosure.exposure_trail import KINDS, LOOKBACK, Access, LegalScope, Reach, Trail, bears, tag_of
from proxy.disclosure.query import write_time
from proxy.disclosure.records import read_set
from proxy.ledger.model import Entry, Kind, OpenedEntry, Tag, new_id, timestamp
from proxy.ledger.search import Query, Search, Seen
from proxy.ledger.service import Ledger
from proxy.policy import Deny
from proxy.policy.counting import CountPermit, CountRequest, Officer, Subject, SubjectKind, decide_count
from schema.fields import ocn_text

PAGE: Final = 64
PAGE_MAX: Final = 512
HEAVY: Final = 8 << 20
"""Entries opened at once: the first time, and at most; fewer again where they held sets of so many bytes, for each may
name a million records."""
LISTED: Final = 1_000
"""Most accesses that an answer names."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Progress = Callable[[str, int, int], None]
"""Told of a step (``accesses``, ``records``), how far it is, and how far it goes (0: not known)."""


class CountDenied(Exception):  # noqa: N818 - an answer, not an error
    """The policy denied; the denial is in the log."""

    def __init__(self, deny: Deny) -> None:
        super().__init__(deny.says)
        self.deny = deny


@dataclass(frozen=True, slots=True)
class Question:
    """Whose disclosures, of accesses that ran from ``first`` until before ``last`` (aware), and why it is asked."""

    subject: Subject
    first: datetime
    last: datetime
    reason: str = ""


@dataclass(slots=True)
class Gathered:
    """The accesses of a question, taken together."""

    groups: dict[Reach, BitMap64] = field(default_factory=dict)
    where: dict[int, set[str] | None] = field(default_factory=dict)
    """Month → the OCNs by which its records were reached; None: whoever's traffic they are (legal process)."""
    accesses: set[UUID] = field(default_factory=set)
    clients: Counter[str] = field(default_factory=Counter)
    disclosures: int = 0
    """Records, each as often as an access held it."""
    unknown: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, access: Access) -> None:
        """Add an access, its remainder resolved."""
        self.accesses.add(access.access_id)
        self.clients[access.client] += 1
        if not access.readable:
            self.unreadable.append(str(access.access_id))
        elif not access.whole:
            self.unknown.append(str(access.access_id))
        self.disclosures += len(access.known)
        self.groups.setdefault(access.reach, BitMap64()).update(access.known)
        for scope in access.scopes:
            for month in scope.months():
                held = self.where.setdefault(month, set())
                if isinstance(scope, LegalScope):
                    self.where[month] = None
                elif held is not None:
                    held.update(scope.ocns)


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted."""

    question: Question
    gathered: Gathered
    tally: Tally
    proved: Proved
    denied: int
    blind: tuple[int, ...]
    """Months of the log in which entries cannot be found by tag: the key is gone."""
    records: BitMap64
    """Every record that was shown."""
    missing: int
    """Records that the store holds no more, or whose parties cannot be opened, and that no frozen month covers."""
    frozen: Mapping[int, int]
    """Month → distinct subscribers of it, as frozen before it was shredded."""

    @property
    def complete(self) -> bool:
        """Whether nothing that was shown is left out."""
        return not (self.missing or self.blind or self.gathered.unreadable)

    def subscribers(self) -> dict[str, Any]:
        """Return distinct subscribers: exact, or between two bounds where a frozen month may share some with others."""
        live = len(self.tally.subscribers)
        counts = [n for n in (live, *self.frozen.values()) if n]
        low, high = max(counts, default=0), sum(counts)
        known: dict[str, Any] = {
            "numbers": len(self.tally.subscribers.numbers),
            "other": len(self.tally.subscribers.raws),
        }
        if self.frozen:
            known["frozen"] = {str(month): count for month, count in sorted(self.frozen.items())}
        if self.complete and low == high:
            return {"exact": low, **known}
        return {"at_least": low, "at_most": high if self.complete else None, **known}

    def as_json(self) -> dict[str, Any]:
        """Return it for people and for the log: counts and days, no number, no record id."""
        g, q = self.gathered, self.question
        return {
            "subject": {"kind": q.subject.kind, "value": q.subject.value},
            "from": timestamp(q.first),
            "to": timestamp(q.last),
            "complete": self.complete,
            "accesses": {
                "counted": len(g.accesses),
                "denied": self.denied,
                "without_outcome": len(g.unknown),
                "unreadable": len(g.unreadable),
            },
            "clients": dict(sorted(g.clients.items())),
            "records": len(self.records),
            "disclosures": g.disclosures,
            "missing": self.missing,
            "subscribers": self.subscribers(),
            "classes": by_class(g.groups),
            "carriers": {ocn_text(code): n for code, n in sorted(self.tally.carriers.items())},
            "days": {_day(n): count for n, count in sorted(self.tally.days.items())},
            "log": {**self.proved.as_json(), "blind_months": list(self.blind)},
            "unknown": g.unknown[:LISTED],
            "unreadable": g.unreadable[:LISTED],
        }


def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).date().isoformat()


class Exposure:
    """Counts for the privacy officer.

    Args:
        ledger: the log, to append to.
        search: the log, to read.
        prover: makes a prover of entries.
        store: the store as the privacy role sees it.
        executor: threads in which is counted.
    """

    def __init__(
        self, ledger: Ledger, search: Search, prover: Callable[[], Prover], store: CountingStore, executor: Executor
    ) -> None:
        self._ledger = ledger
        self._search = search
        self._prover = prover
        self._store = store
        self._executor = executor

    async def count(
        self, officer: Officer, question: Question, progress: Progress = lambda step, done, total: None
    ) -> Count:
        """Count what ``question`` asks.

        Raises:
            CountDenied: by the policy; logged.
            LedgerUnavailable: the log cannot be written; nothing was read.
            LedgerBroken, LogInconsistent: an entry that the count relies on is not what the log has signed.
        """
        count_id = await self.begin(officer, question, Kind.EXPOSURE_READ)
        seen, prover, gathered = Seen(), self._prover(), Gathered()
        trail = Trail(question.subject, question.first, question.last)
        await prover.begin()
        async with aclosing(self._accesses(question.subject, trail, seen, prover)) as accesses:
            async for access in accesses:
                gathered.add(access)
                progress("accesses", len(gathered.accesses), 0)
        count = await self._counted(question, gathered, trail.denied, seen, prover, progress)
        result = {k: v for k, v in count.as_json().items() if k not in ("subject", "from", "to")}
        await self._ledger.append(_entry(Kind.EXPOSURE_READ, officer, question.subject, count_id, outcome=result))
        return count

    async def begin(self, officer: Officer, question: Question, kind: Kind) -> UUID:
        """Decide, and append what will be read, durable; return the count's id.

        Raises:
            CountDenied: by the policy; logged.
        """
        first, last = ((at - _EPOCH) // timedelta(microseconds=1) for at in (question.first, question.last))
        decision = decide_count(CountRequest(question.subject, first, last), officer)
        request: dict[str, Any] = {
            "purpose": "privacy",
            "action": "count",
            "subject": {"kind": question.subject.kind, "value": question.subject.value},
            "from": write_time(first),
            "to": write_time(last),
            "why": question.reason,
        }
        if isinstance(decision, CountPermit):
            classes = sorted(c.value for c in decision.classes)
            request |= {"decision": "permit", "basis": decision.basis, "classes": classes}
            request["fields"] = list(decision.fields)
        else:
            request |= {"decision": "deny", "reason": decision.reason, "citation": decision.citation}
        count_id = new_id()
        # Durable before the first read, as of every other use of the records.
        await self._ledger.append(_entry(kind, officer, question.subject, count_id, request=request))
        if not isinstance(decision, CountPermit):
            raise CountDenied(decision)
        return count_id

    async def read(self, question: Question) -> AsyncGenerator[Access]:
        """Yield the accesses of a question that :meth:`begin` has permitted, each entry proved.

        Raises:
            LedgerBroken, LogInconsistent: as :meth:`count`.
        """
        prover = self._prover()
        await prover.begin()
        trail = Trail(question.subject, question.first, question.last)
        async with aclosing(self._accesses(question.subject, trail, Seen(), prover)) as accesses:
            async for access in accesses:
                yield access
        await prover.finish()

    async def _accesses(self, subject: Subject, trail: Trail, seen: Seen, prover: Prover) -> AsyncGenerator[Access]:
        """Yield the accesses of a trail, their entries handed to the prover, what is left of their scopes added."""
        tags = () if subject.kind == SubjectKind.ALL else (tag_of(subject),)
        query = Query(tags, KINDS, first=trail.first - LOOKBACK, last=trail.last)
        async with aclosing(self._entries(query, seen)) as entries:
            async for entry in entries:
                if (access := trail.take(entry)) is not None:
                    yield await self._resolved(access, prover)
        for access_id in trail.left():
            access = Access(access_id)
            async with aclosing(self._entries(Query((), KINDS, access_id=access_id), Seen())) as entries:
                async for entry in entries:
                    if bears(subject, entry):
                        access.take(entry)
            if trail.ran(access):
                yield await self._resolved(access, prover)

    async def _entries(self, query: Query, seen: Seen) -> AsyncGenerator[OpenedEntry]:
        """Yield everything that a query finds, however much it is."""
        page = query.page or PAGE
        while True:
            part, size = Seen(), 0
            async with aclosing(self._search.run(replace(query, limit=page, page=page), part)) as found:
                async for entry in found:
                    size += _weight(entry.records)
                    yield entry
            page = max(4, page // 4) if size > HEAVY else min(PAGE_MAX, page * 2)
            seen.blind += [month for month in part.blind if month not in seen.blind]
            if part.next_after is None:
                return
            query = replace(query, after=part.next_after)

    async def _resolved(self, access: Access, prover: Prover) -> Access:
        await prover.take(access.entries)
        if access.readable and not access.whole:
            more = BitMap64()
            for scope, place, limit in access.remainder():
                if len(more) >= limit:
                    break
                if isinstance(scope, LegalScope):
                    more |= await self._store.extracted(scope)
                    continue
                after = place.position if place else None
                more |= await self._store.remainder(scope, after, access.number, limit - len(more))
            access.known |= more
        return access

    async def _counted(
        self,
        question: Question,
        gathered: Gathered,
        denied: int,
        seen: Seen,
        prover: Prover,
        progress: Progress,
    ) -> Count:
        records = BitMap64.union(BitMap64(), *gathered.groups.values())
        tally = Tally(gathered.groups)
        loop = asyncio.get_running_loop()
        for month in sorted(gathered.where):
            async with aclosing(self._store.records(month, gathered.where[month], records)) as batches:
                async for opened in batches:
                    await loop.run_in_executor(self._executor, tally.add, opened)
                    progress("records", len(tally.counted), len(records))
        missing = len(records) - len(tally.counted)
        frozen: dict[int, int] = {}
        if missing:
            left = records - tally.counted
            for month in sorted(gathered.where):
                covered, count = await self._frozen(month, gathered.accesses, left, prover)
                if covered:
                    frozen[month] = count
                    left -= covered
            missing = len(left)
        proved = await prover.finish()
        return Count(question, gathered, tally, proved, denied, tuple(sorted(seen.blind)), records, missing, frozen)

    async def _frozen(self, month: int, accesses: set[UUID], left: BitMap64, prover: Prover) -> tuple[BitMap64, int]:
        """Return which of some records a frozen month covers, and the subscribers of these accesses in it."""
        found: dict[UUID | None, tuple[BitMap64, BitMap64]] = {}
        finished: UUID | None = None
        query = Query((frozen_tag(month),), (Kind.EXPOSURE_FROZEN,), page=4)
        async with aclosing(self._entries(query, Seen())) as entries:
            async for entry in entries:
                await prover.take([(entry.index, entry.leaf)])
                covered, subscribers = found.setdefault(entry.access_id, (BitMap64(), BitMap64()))
                for item in (entry.records or {}).get("accesses", ()):
                    if UUID(item["access_id"]) not in accesses:
                        continue
                    if "records" in item:
                        covered.update(read_set(item["records"]) & left)
                    else:
                        subscribers.update(read_set(item["subscribers"]))
                if (entry.outcome or {}).get("finished"):
                    finished = entry.access_id
        covered, subscribers = found.get(finished, (BitMap64(), BitMap64()))
        return covered, len(subscribers)


def _weight(value: Any) -> int:
    """Return about how many bytes the sets in a part take."""
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list):
        return sum(map(_weight, value))
    return len(value) if isinstance(value, str) else 8


def frozen_tag(month: int) -> Tag:
    """Return the tag that the entries of a frozen month bear."""
    return Tag("exposure", str(month).encode())


def _entry(
    kind: Kind,
    officer: Officer,
    subject: Subject,
    count_id: UUID,
    request: Mapping[str, Any] | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> Entry:
    tags = [Tag("staff", officer.name.encode())] if officer.name else []
    if subject.value and subject.kind in set(SubjectKind) - {SubjectKind.ALL}:
        tags.append(tag_of(subject))  # who was counted finds who counted
    return Entry(
        kind,
        officer.actor,
        request or {},
        outcome or {},
        access_id=count_id,
        tags=tuple(dict.fromkeys(tags)),
    )
