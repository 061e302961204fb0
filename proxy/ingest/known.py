"""What is already in the store, as one ingest sees it: fingerprints of the days its records fall on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import asyncpg
import numpy as np
import numpy.typing as npt

from keys.datakeys import DataKey
from proxy.store import fingerprints
from proxy.store.fingerprints import FAN, SEGMENT_MAX, Prints

CACHED = 16 << 20
"""Most fingerprints of stored segments held open at once: 256 MiB."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Segment:
    month: int
    day: int
    segment_id: int
    level: int
    entries: int


@dataclass(slots=True)
class Changes:
    """What an ingest does to the fingerprint segments, as the log will say it."""

    made: list[list[str | int]] = field(default_factory=list)
    destroyed: list[str] = field(default_factory=list)


class Known:
    """The known fingerprints, for the length of one transaction."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._segments: dict[int, list[_Segment]] = {}
        self._open: OrderedDict[int, Prints] = OrderedDict()
        self._opened_entries = 0
        self._fresh: dict[int, list[Prints]] = {}

    async def compare(self, prints: Prints, days: npt.NDArray[np.int64], key: DataKey, month: int) -> tuple[Mask, Mask]:
        """Return masks: which records are duplicates, and which conflict; remember those that are neither.

        Args:
            prints: fingerprints of records of one month, in file order.
            days: the day of each, days since 1970-01-01.
        """
        duplicate = np.zeros(len(prints), np.bool_)
        conflict = np.zeros(len(prints), np.bool_)
        order = np.argsort(days, kind="stable")
        edges = np.flatnonzero(np.diff(days[order], prepend=-1))
        for index in np.split(order, edges[1:]) if len(order) else ():
            day = int(days[index[0]])
            mine = prints.take(index)
            dup, con = fingerprints.among(mine)
            for seen in self._fresh.get(day, ()):
                found = fingerprints.against(mine, seen)
                dup, con = _stronger(found, (dup, con))
            for segment in await self._of(month, day):
                found = fingerprints.against(mine, await self._opened(segment, key))
                dup, con = _stronger(found, (dup, con))
            duplicate[index], conflict[index] = dup, con
            fresh = mine.take(~(dup | con))
            if len(fresh):
                self._fresh.setdefault(day, []).append(fresh.sorted())
        return duplicate, conflict

    async def _of(self, month: int, day: int) -> list[_Segment]:
        if day not in self._segments:
            rows = await self._conn.fetch(
                "SELECT month, day, segment_id, level, entries FROM tollgate.fingerprint_segment"
                " WHERE month = $1 AND day = $2 ORDER BY segment_id",
                month,
                day,
            )
            self._segments[day] = [_Segment(**dict(r)) for r in rows]
        return self._segments[day]

    async def _opened(self, segment: _Segment, key: DataKey) -> Prints:
        if (prints := self._open.get(segment.segment_id)) is not None:
            self._open.move_to_end(segment.segment_id)
            return prints
        sealed = await self._conn.fetchval(
            "SELECT sealed FROM tollgate.fingerprint_segment WHERE month = $1 AND day = $2 AND segment_id = $3",
            segment.month,
            segment.day,
            segment.segment_id,
        )
        prints = fingerprints.open_segment(key, segment.month, segment.day, segment.segment_id, segment.entries, sealed)
        self._open[segment.segment_id] = prints
        self._opened_entries += segment.entries
        while self._opened_entries > CACHED and len(self._open) > 1:
            _, oldest = self._open.popitem(last=False)
            self._opened_entries -= len(oldest)
        return prints

    async def write(self, keys: dict[int, DataKey], month_of_day: dict[int, int]) -> Changes:
        """Store what was remembered, one segment a day, and merge where a day has too many of one level."""
        changes = Changes()
        for day in sorted(self._fresh):
            month = month_of_day[day]
            prints = fingerprints.concat(self._fresh[day]).sorted()
            for at in range(0, len(prints), SEGMENT_MAX):
                await self._add(
                    keys[month], month, day, 0, prints.take(np.arange(at, min(at + SEGMENT_MAX, len(prints)))), changes
                )
            await self._merge(keys[month], month, day, changes)
        return changes

    async def _add(self, key: DataKey, month: int, day: int, level: int, prints: Prints, changes: Changes) -> None:
        segment_id = await self._conn.fetchval("SELECT nextval('tollgate.store_id')")
        sealed = fingerprints.seal_segment(key, month, day, segment_id, prints)
        await self._conn.execute(
            "INSERT INTO tollgate.fingerprint_segment (month, day, segment_id, level, entries, sealed)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            month,
            day,
            segment_id,
            level,
            len(prints),
            sealed,
        )
        self._segments.setdefault(day, []).append(_Segment(month, day, segment_id, level, len(prints)))
        digest = fingerprints.segment_digest(month, day, segment_id, level, len(prints), sealed)
        changes.made.append([month, str(segment_id), digest.hex()])

    async def _merge(self, key: DataKey, month: int, day: int, changes: Changes) -> None:
        while group := _mergeable(await self._of(month, day)):
            merged = fingerprints.concat([await self._opened(s, key) for s in group]).sorted()
            ids = [s.segment_id for s in group]
            await self._conn.execute(
                "DELETE FROM tollgate.fingerprint_segment WHERE month = $1 AND day = $2 AND segment_id = ANY ($3)",
                month,
                day,
                ids,
            )
            self._segments[day] = [s for s in self._segments[day] if s.segment_id not in ids]
            changes.destroyed.extend(str(i) for i in ids)
            await self._add(key, month, day, group[0].level + 1, merged, changes)


def _stronger(found: tuple[Mask, Mask], before: tuple[Mask, Mask]) -> tuple[Mask, Mask]:
    """What the store says of a record goes before what an earlier line of the same file says."""
    hit = found[0] | found[1]
    return np.where(hit, found[0], before[0]), np.where(hit, found[1], before[1])


def _mergeable(segments: Iterable[_Segment]) -> list[_Segment]:
    by_level: dict[int, list[_Segment]] = {}
    for s in segments:
        by_level.setdefault(s.level, []).append(s)
    for level in sorted(by_level):
        group = by_level[level][:FAN]
        if len(group) == FAN and sum(s.entries for s in group) <= SEGMENT_MAX:
            return group
    return []
