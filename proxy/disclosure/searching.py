"""From a look to pieces of records in order: stretch by stretch of months, and what was preserved beside.

Each stretch is read in one snapshot. Months whose keys were destroyed are told, not passed over in silence.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import asyncpg
import pyarrow as pa

from keys.datakeys import DataKey
from keys.provider import Period
from proxy.disclosure import gather, held, hits, planner
from proxy.disclosure.access import LegalAccess
from proxy.disclosure.gather import Gatherer, Look
from proxy.disclosure.held import Holds
from proxy.disclosure.scope import months_of
from proxy.disclosure.sweep import PIECE_ROWS, Sweep, held_schema
from proxy.store import tags
from proxy.store.opening import ClassKeys
from schema.fields import DisclosureClass

FEW_TARGETS: Final = 16
MONTHS_AT_ONCE: Final = 24
"""With few targets so many months are searched by one round of statements; with more, one at a time."""
SORT_ROWS: Final = 10_000
"""So many records are sorted in a thread."""

_MONTHS: Final = "SELECT DISTINCT month FROM tollgate.run WHERE month = ANY ($1) AND level > 0 ORDER BY month"


class Search:
    """One search of the store, and of holds beside it.

    Args:
        access: the store as the legal role sees it.
        conn: of that role, for what no policy stands before.
        holds: the holds as that role sees them.
        look: what is looked for.
        preserved: holds that are read too.
        at_us: the start of the last record that is held already (after a crash), and
        skip: how many held records start then; both 0 where none is.
    """

    def __init__(
        self,
        access: LegalAccess,
        conn: asyncpg.Connection,
        holds: Holds,
        look: Look,
        preserved: Sequence[str] = (),
        at_us: int = 0,
        skip: int = 0,
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        self._access = access
        self._conn = conn
        self._holds = holds
        self._look = replace(look, start_us=max(look.start_us, at_us)) if skip else look
        self._preserved = preserved
        self._sweep = Sweep(held_schema(look.kept), at_us, skip, piece_rows)
        self._keys: dict[int, dict[DisclosureClass, DataKey]] = {}
        self._tags: dict[int, DataKey] = {}
        self._beside: list[tuple[int, str, DataKey, int]] = []
        self.gone: dict[int, tuple[str, ...]] = {}
        """Months of which keys were destroyed, and of which classes; filled as the search begins."""

    async def pieces(self) -> AsyncGenerator[pa.Table]:
        """Yield the records found, ordered by (started_at, ingest_id, line_number): whole pieces, then what is left.

        Raises:
            SealError, FormatError: something does not open, or does not hold what it says.
            KeyUnavailable: a key is missing that was not destroyed.
            HoldUnreadableError: a hold that is read too cannot be.
        """
        await self._begin()
        months = await self._months()
        step = MONTHS_AT_ONCE if len(self._look.targets) <= FEW_TARGETS else 1
        for at in range(0, len(months), step):
            async with aclosing(self._stretch(months[at : at + step])) as made:
                async for piece in made:
                    yield piece
        for piece in await self._cut(None):
            yield piece

    async def _begin(self) -> None:
        for hold_id in self._preserved:
            _, key = await self._holds.complete(hold_id)
            for piece, first, last in await self._holds.spans(hold_id):
                if first < self._look.end_us and last >= self._look.start_us:
                    self._beside.append((first, hold_id, key, piece))
        self._beside.sort(key=lambda p: (p[0], p[1], p[3]), reverse=True)

    async def _months(self) -> list[int]:
        """Return the months that can be searched; load their keys, and note what is gone."""
        look = self._look
        asked = months_of(look.start_us, look.end_us)
        months = [r["month"] for r in await self._conn.fetch(_MONTHS, asked)]
        wanted = [Period(c.value, m) for m in months for c in look.classes]
        found = await self._access.keys_of([*wanted, *(Period(tags.KEY_CLASS, m) for m in months)])
        out = []
        for month in months:
            keys = {c: found[p] for c in look.classes if (p := Period(c.value, month)) in found}
            if missing := look.classes - keys.keys():
                self.gone[month] = tuple(sorted(missing))
            if missing & (look.targets.classes | {DisclosureClass.TIMING}):
                continue
            self._keys[month] = keys
            if (key := found.get(Period(tags.KEY_CLASS, month))) is not None:
                self._tags[month] = key
            out.append(month)
        return out

    async def _stretch(self, months: Sequence[int]) -> AsyncGenerator[pa.Table]:
        look = self._look

        async def keys_of(month: int) -> ClassKeys:
            return self._keys[month]

        async with self._access.moment(months) as conn:
            found = await self._found(conn, months)
            todo = await gather.listed(conn, look, months, found)
            gatherer = Gatherer(look, self._access.run, keys_of)
            async with aclosing(gatherer.gather(conn, todo)) as tables:
                async for table, done in tables:
                    self._sweep.add(table)
                    if done < len(todo):
                        for piece in await self._cut(todo[done].shape.first_start):
                            yield piece
        # The next month's records start after all of these.

    async def _found(self, conn: asyncpg.Connection, months: Sequence[int]) -> hits.Chunks:
        """Return the chunks under the targets' tags, of the months that are searched by tag."""
        look = self._look
        runs = await hits.runs(conn, months, 0, look.as_of)
        by_month = {m: [r for r in runs if r["month"] == m] for m in months if m in self._tags}
        by_tag = [m for m, own in by_month.items() if planner.by_tag(len(look.targets), own)]
        if not by_tag:
            return {}
        wanted = {m: look.targets.tags(tags.Tagger(self._tags[m])) for m in by_tag}
        segments = await hits.segments(conn, [r for r in runs if r["month"] in wanted], wanted)
        return await self._access.run(hits.references, segments, wanted, self._tags)

    async def _cut(self, floor_us: int | None) -> list[pa.Table]:
        """Take in what was preserved before the floor; return the pieces that are certain by it."""
        while self._beside and (floor_us is None or self._beside[-1][0] < floor_us):
            _, hold_id, key, piece = self._beside.pop()
            rows, sealed = await self._holds.piece(hold_id, piece)
            table = await self._access.run(held.open_piece, key, hold_id, piece, rows, sealed)
            self._sweep.add(await self._access.run(gather.again, self._look, table), preserved=True)
        if self._sweep.rows >= SORT_ROWS and (floor_us is None or self._sweep.enough):
            return await self._access.run(lambda: list(self._sweep.pieces(floor_us)))
        return list(self._sweep.pieces(floor_us))
