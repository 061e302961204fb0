"""What a check of the log reads and what it finds: plain values, whatever the source.

A source (the live database, an export's directory) gives facts, then pages of consecutive entries with the tiles and
checkpoints that end within them. Nothing of a page is trusted; a finding says where the log contradicts itself, its own
signatures, or an anchor that somebody kept elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from proxy.ledger.model import timestamp


class Where(StrEnum):
    """What part of the log a finding is about."""

    ENTRY = "entry"
    OPENING = "opening"
    TAG = "tag"
    TILE = "tile"
    CHECKPOINT = "checkpoint"
    COSIGNATURE = "cosignature"
    ORIGIN = "origin"
    HEAD = "head"
    ANCHOR = "anchor"
    SOURCE = "source"


class Since(NamedTuple):
    """The first checkpoint that covers a broken entry: when it was signed, the entry was another."""

    epoch: int
    size: int
    at: datetime | None

    def __str__(self) -> str:
        when = "" if self.at is None else f", signed {timestamp(self.at)}"
        return f"the checkpoint of size {self.size}{when}"


@dataclass(slots=True)
class Finding:
    """Something that is not as the log, its signatures or an anchor say."""

    where: Where
    what: str
    index: int | None = None
    """The first entry concerned; None where no entry can be named."""
    last: int | None = None
    """The last one, where it is one of several and cannot be told which."""
    since: Since | None = None

    def __str__(self) -> str:
        if self.index is None:
            return f"{self.where}: {self.what}"
        entries = f"entry {self.index}" if self.last in (None, self.index) else f"entries {self.index} to {self.last}"
        since = "" if self.since is None else f" (covered by {self.since})"
        return f"{entries}: {self.what}{since}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        since = self.since
        return {
            "where": self.where.value,
            "index": self.index,
            "last": self.last,
            "what": self.what,
            "since": None
            if since is None
            else {
                "epoch": since.epoch,
                "size": since.size,
                "at": None if since.at is None else timestamp(since.at),
            },
        }


class Lost(NamedTuple):
    """An opening that stands and cannot be had; why."""

    why: str


Opening = bytes | Lost


class Line(NamedTuple):
    """One entry as stored."""

    idx: int
    header: bytes
    tags: bytes
    leaf: bytes | None
    """The leaf hash that is stored beside the header."""
    columns: tuple[UUID, str, datetime, UUID | None] | None
    """(entry id, kind, time, access id) where the source repeats them outside the header."""
    openings: Mapping[str, Opening] | None
    """By part; a part whose opening does not stand is absent. None: openings are not looked at."""
    faults: tuple[str, ...] = ()
    """What the source itself found wrong with the entry's place."""


class StoredTile(NamedTuple):
    """A tile as stored: hashes of 32 bytes each, and the hash over them where the source holds one."""

    level: int
    idx: int
    hashes: bytes
    root: bytes | None


class StoredCheckpoint(NamedTuple):
    """A checkpoint as stored, with the cosignature lines by the name they are filed under."""

    epoch: int
    size: int
    root: bytes | None
    at: datetime | None
    note: bytes
    cosignatures: tuple[tuple[str, bytes], ...] = ()


class StoredOrigin(NamedTuple):
    """An origin as stored."""

    epoch: int
    origin: str
    first_size: int
    previous: bytes | None


class Page(Protocol):
    """Consecutive entries, and what ends within them."""

    first: int
    """The index that it begins with: a multiple of 256, or the page's before it where that one was cut in two."""
    tiles: Mapping[tuple[int, int], StoredTile]
    """Tiles whose last leaf is on this page (those of level 0: that touch it), by (level, index)."""
    checkpoints: Sequence[StoredCheckpoint]
    """Those whose size is past the page before and not past this page's last entry, by size."""

    def lines(self) -> Iterable[Line]:
        """The entries in ascending order; opens what is sealed, so it belongs in a thread."""
        ...


@dataclass(slots=True)
class Facts:
    """What a source says of the whole log."""

    size: int
    at: datetime | None
    """Time of the last entry as the head has it; None: the source has no head."""
    signed_size: int
    """The largest size of any checkpoint; tiles are full up to it."""
    origins: tuple[StoredOrigin, ...]
    erased: Callable[[str, int], str | None] = lambda part, month: None
    """(part, month) → the policy under which a log.erase entry says it was erased, None where none does."""
    withheld: frozenset[str] = frozenset()
    """Parts that the source was made without."""
    openings: bool = True
    now: datetime | None = None
    """The time of what is seen; None: it is no running log."""
    findings: list[Finding] = field(default_factory=list)
    """What was wrong with these facts themselves."""


class Source(Protocol):
    """Where a log stands."""

    async def facts(self) -> Facts:
        """Read what is said of the whole."""
        ...

    def pages(self, facts: Facts) -> AsyncIterator[Page]:
        """Give the entries in order. Stretches of which nothing stands may be left out."""
        ...

    def strays(self, facts: Facts) -> AsyncIterator[Finding]:
        """Give what the walk over the entries did not lead to; called after the last page."""
        ...


@dataclass(slots=True)
class Report:
    """The result of a check."""

    entries: int = 0
    openings: int = 0
    """Openings held against their commitments."""
    erased: dict[str, int] = field(default_factory=dict)
    """Openings that are gone as a log.erase entry says, by policy."""
    withheld: tuple[str, ...] = ()
    """Parts that the source was made without."""
    checkpoints: int = 0
    cosignatures: int = 0
    unchecked_cosignatures: int = 0
    """Lines of witnesses whose keys were not given."""
    covered: int = 0
    """Entries before the last checkpoint that holds."""
    root: bytes = b""
    """The root over all entries."""
    anchors: int = 0
    """Anchors that hold."""
    findings: list[Finding] = field(default_factory=list)
    """In order of index, those without one last; the first broken entry is always among them (FINDINGS_MAX)."""
    found: int = 0
    """How many there are in all."""

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.found == 0

    @property
    def first(self) -> Finding | None:
        """The finding of the first broken entry, or any where no entry can be named."""
        return self.findings[0] if self.findings else None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "clean": self.clean,
            "entries": self.entries,
            "root": self.root.hex(),
            "openings": self.openings,
            "erased": self.erased,
            "withheld": list(self.withheld),
            "checkpoints": self.checkpoints,
            "covered": self.covered,
            "cosignatures": self.cosignatures,
            "unchecked_cosignatures": self.unchecked_cosignatures,
            "anchors": self.anchors,
            "found": self.found,
            "findings": [finding.as_json() for finding in self.findings],
        }


FINDINGS_MAX = 1000
"""Most findings that are kept, but for the first of each `Where`, which always is; more are counted."""
