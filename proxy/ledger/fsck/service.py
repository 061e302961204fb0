"""The check of the whole log: one pass over its entries in order, in memory that does not grow with the log.

What it shows: every entry, opening, tag, tile, checkpoint and cosignature that stands agrees with every other, and with
the signatures of the keys that were given. What it cannot show by itself is what a log that agrees with itself can
hide: a tail cut together with all that covered it, an older state put back, the whole rewritten with the log's own
key. An anchor, which is a checkpoint or receipt that somebody else kept, shows these too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from proxy.ledger.fsck.anchors import Anchor
from proxy.ledger.fsck.entries import EntryCheck
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import Facts, Page, Report, Source, StoredTile, Where
from proxy.ledger.fsck.signed import SignedCheck, Trusted
from proxy.ledger.fsck.tree import Mark, TreeCheck

GAP_MAX = 1 << 20
"""More missing entries than this in one place are not followed in the tree."""

UNSIGNED_MAX = timedelta(minutes=5)
"""An entry that no checkpoint covers after so long: nobody publishes, or somebody keeps the publisher from it."""

CLOCK_SLACK = timedelta(minutes=5)
"""How much before its last entry's time a checkpoint's may be: a clock that was set right, another server's clock."""

Tiles = Mapping[tuple[int, int], StoredTile]

Progress = Callable[[int, int], None]
"""Called with entries checked and entries in all."""


async def fsck(
    source: Source,
    trusted: Trusted,
    anchors: Sequence[Anchor] = (),
    progress: Progress = lambda done, total: None,
) -> Report:
    """Check a log from what stands.

    Args:
        source: where it stands.
        trusted: whose signatures count.
        anchors: what others kept of it.
        progress: told how far it is.

    Returns:
        What was checked and found; ``Report.clean`` says whether all is well.
    """
    facts = await source.facts()
    walk = _Walk(facts, trusted, anchors)
    progress(0, facts.size)
    async for page in _ahead(source.pages(facts)):
        await asyncio.to_thread(walk.page, page)
        progress(walk.report.entries, facts.size)
    await asyncio.to_thread(walk.end)
    async for finding in source.strays(facts):
        walk.found.put(finding)
    report = walk.report
    report.withheld = tuple(sorted(facts.withheld))
    report.findings, report.found = walk.found.ordered(), walk.found.count
    return report


async def _ahead(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    """Fetch the next page while the present one is checked."""
    coming: asyncio.Task[Page | None] = asyncio.create_task(_next(pages))
    try:
        while (page := await coming) is not None:
            coming = asyncio.create_task(_next(pages))
            yield page
    finally:
        coming.cancel()
        await asyncio.wait([coming])


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    return await anext(pages, None)


@dataclass
class _Walk:
    """One pass."""

    facts: Facts
    trusted: Trusted
    anchors: Sequence[Anchor]
    report: Report = field(default_factory=Report)
    found: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        for finding in self.facts.findings:
            self.found.put(finding)
        self._entries = EntryCheck(self.facts, self.report, self.found)
        self._signed = SignedCheck(self.facts.origins, self.trusted, self.report, self.found)
        self._tree = TreeCheck(self.facts.signed_size, self.found)
        self._marks = sorted((a.mark() for a in self.anchors if self._belongs(a)), key=lambda mark: mark.size)
        self._receipts: dict[int, list[tuple[Anchor, bytes]]] = {}
        for anchor in self.anchors:
            for index, leaf in anchor.leaves:
                self._receipts.setdefault(index, []).append((anchor, leaf))
        self._next = 0
        self._torn = False
        self._unsigned: tuple[int, datetime] | None = None
        self._ahead = False

    def _belongs(self, anchor: Anchor) -> bool:
        """Whether the entries that stand can be held against an anchor."""
        origins = {each.origin: each for each in self.facts.origins}
        own = origins.get(anchor.origin)
        if own is None:
            self.found.add(Where.ANCHOR, f"{anchor.label} is of an origin that this log never had", 0)
            return False
        after = next((each for each in self.facts.origins if each.epoch == own.epoch + 1), None)
        if after is not None and after.first_size < anchor.size:
            self.found.add(
                Where.ANCHOR,
                f"{anchor.label} covers entries that were lost: origin {after.epoch} was opened without them",
                after.first_size,
                anchor.size - 1,
            )
            return False
        return True

    def page(self, page: Page) -> None:
        """Take the next page."""
        marks = [mark for stored in page.checkpoints if (mark := self._signed.check(stored)) is not None]
        for line in page.lines():
            if line.idx >= self.facts.size:
                self.found.add(Where.HEAD, "it stands past the log's head", line.idx)
                continue
            if line.idx < self._next:
                self.found.add(Where.SOURCE, "it stands twice or out of order", line.idx)
                continue
            self._missing(line.idx, page, marks)
            leaf = self._entries.check(line)
            for anchor, proven in self._receipts.get(line.idx, ()):
                if proven != leaf:
                    self.found.add(Where.ANCHOR, f"{anchor.label} proves another entry here", line.idx)
            self._add(leaf, line.leaf, page.tiles, marks)

    def _missing(self, until: int, page: Page, marks: list[Mark]) -> None:
        """Entries before ``until`` that do not stand: said once, and their places kept in the tree."""
        first = self._next
        if first == until:
            return
        self.found.add(Where.ENTRY, "missing", first, until - 1)
        if until - first > GAP_MAX:
            self._torn, self._next = True, until
        while self._next < until:
            self._add(None, None, page.tiles if self._next >= page.first else None, marks)

    def _add(self, leaf: bytes | None, stored: bytes | None, tiles: Tiles | None, marks: list[Mark]) -> None:
        self._next += 1
        if self._torn:
            return
        self._tree.add(leaf, stored, tiles)
        size = self._tree.size
        here = []
        for waiting in (marks, self._marks):
            while waiting and waiting[0].size <= size:
                mark = waiting.pop(0)
                if mark.size == size:
                    here.append(mark)
        if here:
            self._tree.hold(here)
            self._timed(here)
        if self._tree.covered == size:
            self._unsigned = None
        elif self._unsigned is None:
            self._unsigned = size - 1, self._entries.last_at

    def _timed(self, marks: Sequence[Mark]) -> None:
        """A checkpoint is signed after the entries before it; said once until one is again."""
        for mark in marks:
            if mark.since is None or mark.since.at is None:
                continue
            ahead = self._entries.last_at - mark.since.at > CLOCK_SLACK
            if ahead and not self._ahead:
                what = f"{mark.label} was signed before the time of its last entry: that is of a time to come"
                self.found.add(Where.CHECKPOINT, what)
            self._ahead = ahead

    def _past(self, mark: Mark) -> None:
        size = self.facts.size
        self.found.add(
            mark.where,
            f"{mark.label} was signed, and the log has only {size} entries: what came after them was cut off,"
            " or an older state was put back",
            size,
            mark.size - 1,
        )

    def end(self) -> None:
        """After the last page."""
        facts = self.facts
        if self._next < facts.size:
            # Not walked: nothing more can be learnt from what is not there.
            self.found.add(Where.HEAD, "missing, and the log's head counts them", self._next, facts.size - 1)
        elif facts.at is not None and facts.size and self._entries.last_at != facts.at:
            self.found.add(Where.HEAD, "the log's head has another time than the last entry")
        if facts.openings and "request" not in facts.withheld:
            self._signed.check_entries(self._entries.origins)
        if facts.now is not None and self._unsigned is not None:
            index, at = self._unsigned
            if facts.now - at > UNSIGNED_MAX:
                minutes = (facts.now - at) // timedelta(minutes=1)
                what = f"no checkpoint that holds covers it, {minutes:,} minutes after it was written"
                self.found.add(Where.CHECKPOINT, what, index, facts.size - 1)
        for mark in self._marks:
            mark.held = False
            if mark.size > facts.size:
                self._past(mark)
        self.report.covered = self._tree.covered
        self.report.root = self._tree.root()
        self.report.anchors = sum(a.holds for a in self.anchors)
