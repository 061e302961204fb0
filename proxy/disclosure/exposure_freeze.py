"""Freezing a month before it is shredded, so that what was shown of it can be counted when nobody can read it any more.

For every access that was shown party fields of the month's records, two sets are kept in the log: which records, and
which subscribers. A subscriber is an ordinal in an order drawn at random and thrown away, so the sets tell how many
distinct numbers any group of accesses saw, and no number, to anybody, the keys of the log in hand. Two freezings of a
month have nothing in common; the last one that was finished counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from keys.datakeys import DataKeys
from proxy.disclosure.exposure import Exposure, Question, frozen_tag
from proxy.disclosure.exposure_count import Subscribers, members
from proxy.disclosure.exposure_proof import Prover
from proxy.disclosure.exposure_store import CountingStore, Opened
from proxy.disclosure.exposure_trail import LegalScope
from proxy.disclosure.records import Ids, RecordSet, bitmap_of, ids_of, portion_of
from proxy.ledger.model import Entry, Kind, Tag
from proxy.ledger.search import Search
from proxy.ledger.service import Ledger
from proxy.policy.counting import Officer, Subject, SubjectKind

IDS_AT_ONCE: Final = 200_000
"""Most ids of one set in an entry."""
ENTRY_BYTES: Final = 2_500_000
"""About how many bytes of sets one entry holds."""

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class NothingToFreezeError(Exception):
    """The month holds no records, or its parties cannot be opened any more."""


@dataclass(slots=True)
class _Seen:
    """What one access was shown of the month."""

    access_id: UUID
    client: str
    staff: bool
    parties: frozenset[str]
    ids: BitMap64
    subscribers: BitMap64 = field(default_factory=BitMap64)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What was frozen."""

    month: int
    accesses: int
    records: int
    subscribers: int
    clients: dict[str, int]
    """Client → distinct subscribers that it was shown. Carriers' clients only: what staff were shown was shown in
    cases, of which some are nobody's but the legal desk's to know."""
    entries: int

    def as_json(self) -> dict[str, Any]:
        """Return it for people and for the log."""
        return {
            "month": self.month,
            "accesses": self.accesses,
            "records": self.records,
            "subscribers": self.subscribers,
            "clients": self.clients,
            "entries": self.entries,
        }


class Freezer:
    """Freezes months.

    Args:
        exposure: reads accesses.
        ledger: the log, to append to.
        store: the store as the privacy role sees it.
        executor: threads in which is counted.
    """

    def __init__(self, exposure: Exposure, ledger: Ledger, store: CountingStore, executor: Executor) -> None:
        self._exposure = exposure
        self._ledger = ledger
        self._store = store
        self._executor = executor

    async def freeze(
        self,
        officer: Officer,
        month: int,
        reason: str,
        progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    ) -> Frozen:
        """Freeze a month (yyyymm).

        Every access of the log is read: an access long ago may have been shown records of any month. Dying half way
        leaves entries of a freezing that was not finished, which count for nothing; do it again.

        Raises:
            NothingToFreezeError: the month holds nothing that could be frozen.
            CountDenied, LedgerUnavailable, LedgerBroken, LogInconsistent: as Exposure.count.
        """
        subject = Subject(SubjectKind.ALL.value, f"{month // 100:04d}-{month % 100:02d}")
        question = Question(subject, _BEGINNING, datetime.now(UTC), reason)
        freeze_id = await self._exposure.begin(officer, question, Kind.EXPOSURE_FROZEN)
        span = await self._store.month_ids(month)
        if span is None or month not in await self._store.readable([month]):
            raise NothingToFreezeError(f"{subject.value} holds no records whose parties can be opened")
        seen, ocns = await self._gather(question, month, span, progress)
        subscribers = await self._number(month, seen, ocns, progress)
        actor = officer.actor
        tags = (Tag("staff", officer.name.encode()), frozen_tag(month))
        entries = 0
        for items in _packed(seen):
            entry = Entry(
                Kind.EXPOSURE_FROZEN, actor, {}, {}, {"month": month, "accesses": items}, access_id=freeze_id, tags=tags
            )
            await self._ledger.append(entry)
            entries += 1
        frozen = _summed(month, seen, subscribers, entries)
        # Until this stands, what was appended above counts for nothing.
        outcome = {**frozen.as_json(), "finished": True}
        await self._ledger.append(Entry(Kind.EXPOSURE_FROZEN, actor, {}, outcome, access_id=freeze_id, tags=tags))
        return frozen

    async def _gather(
        self, question: Question, month: int, span: tuple[int, int], progress: Callable[[str, int, int], None]
    ) -> tuple[list[_Seen], set[str] | None]:
        """Return the accesses that may have been shown parties of the month, and the OCNs by which; None: all."""
        within = BitMap64()
        within.add_range(span[0], span[1] + 1)
        seen: list[_Seen] = []
        ocns: set[str] | None = set()
        async with aclosing(self._exposure.read(question)) as accesses:
            async for access in accesses:
                scopes = [s for s in access.scopes if month in s.months()]
                ids = access.known & within
                if scopes and ids and access.reach.parties:
                    seen.append(_Seen(access.access_id, access.client, access.staff, access.reach.parties, ids))
                    for scope in scopes:
                        ocns = None if ocns is None or isinstance(scope, LegalScope) else ocns | {*scope.ocns}
                    progress("accesses", len(seen), 0)
        return seen, ocns

    async def _number(
        self, month: int, seen: list[_Seen], ocns: Collection[str] | None, progress: Callable[[str, int, int], None]
    ) -> int:
        """Give each access its subscribers, and only the records that the month really holds; return how many."""
        shown: dict[frozenset[str], BitMap64] = {}
        for each in seen:
            shown.setdefault(each.parties, BitMap64()).update(each.ids)
        every = BitMap64.union(BitMap64(), *shown.values())
        held = BitMap64()
        numbers = Subscribers()
        loop = asyncio.get_running_loop()

        def first(opened: Opened) -> None:
            held.update(bitmap_of(np.sort(opened.ids[members(opened.ids, every)])))
            for fields, ids in shown.items():
                if (mask := members(opened.ids, ids)).any():
                    numbers.add(*opened.numbers(mask, fields))

        async with aclosing(self._store.records(month, ocns, every)) as batches:
            async for opened in batches:
                await loop.run_in_executor(self._executor, first, opened)
                progress("numbers", len(held), len(every))
        for each in seen:
            each.ids &= held
        ordinals = _Ordinals(numbers)
        done = 0
        async with aclosing(self._store.records(month, ocns, held)) as batches:
            async for opened in batches:
                await loop.run_in_executor(self._executor, _assign, seen, opened, ordinals)
                done += len(opened.ids)
                progress("subscribers", done, len(held))
        return len(numbers)


class _Ordinals:
    """Ordinals of the month's subscribers, in an order that is drawn here and kept nowhere."""

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._numbers = ids_of(subscribers.numbers)
        self._raws = {digest: len(self._numbers) + i for i, digest in enumerate(sorted(subscribers.raws))}
        drawn = np.frombuffer(os.urandom(8 * len(subscribers)), np.uint64)
        self._order = np.argsort(drawn).astype(np.int64)

    def of(self, numbers: npt.NDArray[np.uint64], raws: Collection[str]) -> Ids:
        """Return the ordinals (n,), ascending, of distinct numbers and texts."""
        places = np.searchsorted(self._numbers, numbers.astype(np.int64))
        more = [self._raws[self._subscribers.digest(text)] for text in raws]
        return np.sort(self._order[np.concatenate((places, np.array(more, np.int64)))])


def _assign(seen: list[_Seen], opened: Opened, ordinals: _Ordinals) -> None:
    low, high = int(opened.ids.min()), int(opened.ids.max())
    for each in seen:
        if each.ids.range_cardinality(low, high + 1) and (mask := members(opened.ids, each.ids)).any():
            each.subscribers |= bitmap_of(ordinals.of(*opened.numbers(mask, each.parties)))


def _packed(seen: list[_Seen]) -> Iterator[list[dict[str, Any]]]:
    """Yield the accesses in lists that fit an entry each; a large set stands in several of them."""
    items: list[dict[str, Any]] = []
    size = 0
    for each in seen:
        for ids, kind in ((ids_of(each.ids), "records"), (ids_of(each.subscribers), "subscribers")):
            for start in range(0, len(ids), IDS_AT_ONCE):
                part = RecordSet()
                part.add(portion_of(ids[start : start + IDS_AT_ONCE]))
                value = part.as_json()
                size += 200 + len(value.get("roaring", "")) + 50 * len(value.get("runs", ()))
                items.append({"access_id": str(each.access_id), "client": each.client, kind: value})
                if size >= ENTRY_BYTES - 4 * IDS_AT_ONCE:
                    yield items
                    items, size = [], 0
    if items:
        yield items


def _summed(month: int, seen: list[_Seen], subscribers: int, entries: int) -> Frozen:
    clients: dict[str, BitMap64] = {}
    for each in seen:
        if not each.staff:
            clients[each.client] = clients.get(each.client, BitMap64()) | each.subscribers
    records = BitMap64.union(BitMap64(), *(s.ids for s in seen))
    counts = {client: len(held) for client, held in sorted(clients.items())}
    return Frozen(month, sum(1 for s in seen if s.ids), len(records), subscribers, counts, entries)


def officers_tools(
    ledger: Ledger,
    search: Search,
    prover: Callable[[], Prover],
    pool: asyncpg.Pool,
    keys: DataKeys,
    executor: Executor,
    *,
    whole: Search | None = None,
) -> tuple[Exposure, Freezer]:
    """Return what counts and what freezes, over a pool of role PRIVACY; the store itself is not given out.

    Args:
        ledger: the log, to append to.
        search: the log as the officer may see it.
        prover: makes a prover of entries.
        pool: connections of role PRIVACY.
        keys: the data keys.
        executor: threads in which is counted.
        whole: all of the log, for the freezing: what was shown in a secret case can be counted only later, if then.
    """
    store = CountingStore(pool, keys, executor)
    exposure = Exposure(ledger, search, prover, store, executor)
    every = exposure if whole is None else Exposure(ledger, whole, prover, store, executor)
    return exposure, Freezer(every, ledger, store, executor)
