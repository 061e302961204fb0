"""An export's directory as a source (proxy.ledger.export). Nothing of it is trusted; its files are read as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keys.encoding import EncodingError, b64url_decode
from proxy.ledger import encoding
from proxy.ledger.export import FILE_ENTRIES, FORM, VERSION
from proxy.ledger.fsck.model import (
    Facts,
    Finding,
    Line,
    StoredCheckpoint,
    StoredOrigin,
    StoredTile,
    Where,
)
from proxy.ledger.model import PARTS, Kind, LedgerBroken
from proxy.ledger.retention import Erasures, spans_of
from proxy.ledger.tiles import ENTRY_DATA_LEN, HEIGHT, LEVEL_MAX, WIDTH, Edge, Tile, partials, width_at
from proxy.ledger.tree import HASH_LEN, leaf_hash

PAGE = 4 * WIDTH
PAGE_BYTES = 32 << 20
"""A page with so many bytes of openings ends there."""
LINE_MAX = 32 << 20
"""Most characters of a line that is read: eight times the largest opening."""
MANIFEST_MAX = 16 << 20


class ExportUnreadable(Exception):  # noqa: N818 - it says what is so
    """There is no export here, or its manifest cannot be read."""


class Directory:
    """A source.

    Args:
        path: the export's directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._edge = Edge()
        self._size = 0

    @property
    def checkpoint(self) -> bytes:
        """The checkpoint that the export ends with, as it stands; empty where there is none."""
        return self._bytes("checkpoint", 1 << 20)

    async def facts(self) -> Facts:
        """Read the manifest.

        Raises:
            ExportUnreadable: if there is none, or it is of another form.
        """
        return await asyncio.to_thread(self._facts)

    def _facts(self) -> Facts:
        try:
            data = (self._path / "manifest.json").read_bytes()[: MANIFEST_MAX + 1]
            value = json.loads(data)
            if value["form"] != FORM or value["v"] != VERSION:
                raise ExportUnreadable(f"{self._path} is an export of a version that this one does not know")
            origins = tuple(
                StoredOrigin(
                    int(each["epoch"]),
                    str(each["origin"]),
                    int(each["first_size"]),
                    None if each["previous"] is None else str(each["previous"]).encode(),
                )
                for each in value["origins"]
            )
            withheld = frozenset(PARTS) - frozenset(map(str, value["parts"]))
            self._size = size = int(value["size"])
            erase = value["erase"]
        except OSError as error:
            raise ExportUnreadable(f"{self._path} is no export of a log: it has no manifest.json") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ExportUnreadable(f"{self._path}: its manifest.json cannot be read") from error
        facts = Facts(size, None, size, origins, withheld=withheld)
        if isinstance(erase, int):
            found = self._erasures(erase)
            if found is None:
                facts.findings.append(Finding(Where.SOURCE, "what it says was erased cannot be read", erase))
            else:

                def policy(part: str, month: int) -> str | None:
                    span = found.of(part, month)
                    return None if span is None else span.policy

                facts.erased = policy
        return facts

    def _erasures(self, index: int) -> Erasures | None:
        """What the newest log.erase entry says; that it stands there so, the walk checks like every other entry."""
        for line in self._lines(index // FILE_ENTRIES):
            if line.idx == index:
                try:
                    header = encoding.read_header(index, line.header)
                    data = (line.openings or {})["request"]
                    if header.kind is not Kind.LOG_ERASE or not isinstance(data, bytes):
                        return None
                    return Erasures(spans_of(encoding.read_opening(index, "request", data, header.commits["request"])))
                except (LedgerBroken, KeyError, TypeError, ValueError):
                    return None
        return None

    async def pages(self, facts: Facts) -> AsyncIterator[_Page]:
        """Give the entries in order."""
        checkpoints = self._checkpoints()
        waiting: StoredCheckpoint | None = next(checkpoints, None)
        stream = self._stream()
        while lines := await asyncio.to_thread(_some, stream):
            last = lines[-1].idx + 1
            here: list[StoredCheckpoint] = []
            while waiting is not None and waiting.size <= last:
                here.append(waiting)
                waiting = next(checkpoints, None)
            first = lines[0].idx // PAGE * PAGE
            tiles = await asyncio.to_thread(self._tiles, first, first + PAGE, facts.size)
            yield _Page(first, tiles, here, lines, self._edge)

    async def strays(self, facts: Facts) -> AsyncIterator[Finding]:
        """Give what the walk did not lead to: partial tiles above the lowest, and the last checkpoint."""
        if self._edge.size == facts.size:
            for tile in partials(facts.size):
                stored = await asyncio.to_thread(self._bytes, f"tile/{tile.level}/{tile.path}", WIDTH * HASH_LEN)
                if stored != self._edge.partial(tile.level):
                    yield Finding(Where.TILE, f"tile {tile.level}/{tile.path} is not what the entries give")
        largest = 0
        for checkpoint in self._checkpoints():
            largest = max(largest, checkpoint.size)
        if largest != facts.size:
            yield Finding(Where.CHECKPOINT, f"the export has {facts.size} entries, and its last checkpoint {largest}")

    def _bytes(self, name: str, most: int) -> bytes:
        try:
            with open(self._path / name, "rb") as file:
                return file.read(most + 1)
        except OSError:
            return b""

    def _tiles(self, first: int, last: int, size: int) -> dict[tuple[int, int], StoredTile]:
        wanted = [Tile(0, index, width_at(size, 0, index)) for index in range(first // WIDTH, -(-last // WIDTH))]
        for level in range(1, LEVEL_MAX + 1):
            span = WIDTH << HEIGHT * level
            if last // span > first // span and last <= size:
                wanted.append(Tile(level, last // span - 1))
        found = {}
        for tile in wanted:
            if tile.width and (data := self._bytes(f"tile/{tile.level}/{tile.path}", WIDTH * HASH_LEN)):
                found[tile.level, tile.index] = StoredTile(tile.level, tile.index, data, None)
        return found

    def _stream(self) -> Iterator[Line]:
        number = 0
        while (self._path / f"entries/{number:06d}.ndjson").exists():
            yield from self._with_leaves(number)
            number += 1

    def _with_leaves(self, number: int) -> Iterator[Line]:
        """Entries with the leaf that the entry bundles give."""
        bundle, data = -1, b""
        for line in self._lines(number):
            if line.idx // WIDTH != bundle:
                bundle = line.idx // WIDTH
                tile = Tile(0, bundle, width_at(self._size, 0, bundle) or WIDTH)
                data = self._bytes(f"tile/entries/{tile.path}", WIDTH * (ENTRY_DATA_LEN + 2))
            at = line.idx % WIDTH * (ENTRY_DATA_LEN + 2)
            entry = data[at : at + ENTRY_DATA_LEN + 2]
            whole = len(entry) == ENTRY_DATA_LEN + 2 and entry[:2] == ENTRY_DATA_LEN.to_bytes(2, "big")
            leaf = leaf_hash(entry[2:]) if whole else bytes(HASH_LEN)
            yield line._replace(leaf=leaf)

    def _lines(self, number: int) -> Iterator[Line]:
        expected = number * FILE_ENTRIES
        try:
            with open(
                self._path / f"entries/{number:06d}.ndjson", encoding="utf-8", errors="replace", newline="\n"
            ) as file:
                while text := file.readline(LINE_MAX):
                    line = _line(expected, text)
                    expected = line.idx + 1
                    yield line
        except OSError:
            return

    def _checkpoints(self) -> Iterator[StoredCheckpoint]:
        try:
            with open(self._path / "checkpoints.ndjson", encoding="utf-8", errors="replace", newline="\n") as file:
                while text := file.readline(1 << 20):
                    yield _checkpoint(text)
        except OSError:
            return


def _some(stream: Iterator[Line]) -> list[Line]:
    lines = []
    size = 0
    for line in stream:
        lines.append(line)
        size += sum(map(len, (line.openings or {}).values()))
        # A page ends at a multiple of its size at the latest: its tiles are those of the entries on it.
        if line.idx % PAGE == PAGE - 1 or size > PAGE_BYTES:
            break
    return lines


def _line(expected: int, text: str) -> Line:
    try:
        value = json.loads(text)
        openings = {part: str(value["openings"][part]).encode() for part in PARTS if part in value["openings"]}
        unknown = () if value["openings"].keys() <= set(PARTS) else ("it has openings of unknown parts",)
        index = value["index"]
        if not isinstance(index, int) or index < 0:
            raise TypeError
        # Of a case that the auditor may not know of nothing is opened; header and tags are proved like all others.
        shown = None if value.get("withheld") is True and not openings else openings
        return Line(index, str(value["header"]).encode(), b64url_decode(value["tags"]), None, None, shown, unknown)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, EncodingError):
        return Line(expected, b"", b"", None, None, {}, ("its line cannot be read",))


def _checkpoint(text: str) -> StoredCheckpoint:
    try:
        value = json.loads(text)
        at = value["at"]
        return StoredCheckpoint(
            int(value["epoch"]),
            int(value["size"]),
            None,
            None if at is None else datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC),
            str(value["note"]).encode(),
            tuple((str(witness), str(line).encode()) for witness, line in value["cosignatures"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return StoredCheckpoint(0, 0, None, None, b"")


@dataclass
class _Page:
    """A stretch of an export."""

    first: int
    tiles: Mapping[tuple[int, int], StoredTile]
    checkpoints: Sequence[StoredCheckpoint]
    read: list[Line]
    edge: Edge

    def lines(self) -> Iterator[Line]:
        """The entries."""
        for line in self.read:
            self.edge.append([encoding.leaf_hash(line.header)])
            yield line
