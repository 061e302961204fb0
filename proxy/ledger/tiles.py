"""Tiles (C2SP tlog-tiles): the tree's hashes, 256 of one level at a time, and what a proof needs of them.

The n-th tile at tile level l holds the hashes over the 256**l leaves from (n * 256 + i) * 256**l on, i from 0 to 255.
Only the last tile of a level can be partial. Whatever is cut from these at a given size never changes again.

Pure, but for `compute`, which asks its caller for tiles. Tile levels are called rows here only where the tree's own
levels (8 of them to a tile) stand beside them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from proxy.ledger import tree
from proxy.ledger.tree import HASH_LEN as HASH_LEN
from proxy.ledger.tree import Read

HEIGHT = 8
WIDTH = 1 << HEIGHT
LEVEL_MAX = 7
"""Highest tile level: a tree of 2**63 leaves has one hash there."""

ENTRY_DATA_LEN = 32
"""Bytes of a log entry as auditors get it: the SHA-256 of the entry's header."""

_INDEX = re.compile(r"(?:x[0-9]{3}/){0,5}[0-9]{3}", re.ASCII)
_PARTIAL = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Which tile: tile level, index within it, and how many of its hashes (1 to 256)."""

    level: int
    index: int
    width: int = WIDTH

    @property
    def end(self) -> int:
        """The smallest size of a tree that has this tile."""
        return (self.index * WIDTH + self.width) << HEIGHT * self.level

    @property
    def path(self) -> str:
        """Its path below ``tile/<L>/``: ``x001/x234/067``, with ``.p/<W>`` where it is partial."""
        digits = f"{self.index:03d}"
        digits = digits.zfill(-len(digits) % 3 + len(digits))
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:]) + partial


def parse(level: int, path: str) -> Tile | None:
    """Return the tile of a path as `Tile.path` writes it, or None: there is one spelling of each."""
    index, dot, width = path.partition(".p/")
    if not _INDEX.fullmatch(index) or (dot and not _PARTIAL.fullmatch(width)) or not 0 <= level <= LEVEL_MAX:
        return None
    tile = Tile(level, int(index.replace("x", "").replace("/", "")), int(width) if dot else WIDTH)
    return tile if tile.path == path else None


def width_at(size: int, level: int, index: int) -> int:
    """Return how many hashes the tile has in a tree of ``size`` leaves: 0 to 256."""
    return min(max((size >> HEIGHT * level) - index * WIDTH, 0), WIDTH)


def partials(size: int) -> list[Tile]:
    """Return the partial tiles at the right edge of a tree, lowest level first: its root is made of their hashes."""
    found = []
    for level in range(LEVEL_MAX + 1):
        count = size >> HEIGHT * level
        if count % WIDTH:
            found.append(Tile(level, count // WIDTH, count % WIDTH))
    return found


def hashes_of(data: bytes) -> list[bytes]:
    """Split a tile's bytes."""
    return [data[at : at + HASH_LEN] for at in range(0, len(data), HASH_LEN)]


def tile_of(level: int, index: int) -> tuple[int, int]:
    """Return the (tile level, tile index) that the hash of a complete subtree is computed from."""
    return level // HEIGHT, (index << level % HEIGHT) // WIDTH


def over(tiles: Mapping[tuple[int, int], bytes]) -> Read:
    """Return a reader over tiles, given by (tile level, tile index); each as wide as the hashes asked for need.

    It raises ProofError where a tile is missing or too short.
    """
    parsed: dict[tuple[int, int], Read] = {}

    def read(level: int, index: int) -> bytes:
        place, inner = tile_of(level, index), level % HEIGHT
        data = tiles.get(place, b"")
        first = (index << inner) % WIDTH
        if len(data) < (first + (1 << inner)) * HASH_LEN:
            raise tree.ProofError("a tile is missing or too short")
        if place not in parsed:
            parsed[place] = tree.reader(hashes_of(data))
        return parsed[place](inner, first >> inner)

    return read


Fetch = Callable[[Iterable[Tile]], Awaitable[Mapping[tuple[int, int], bytes]]]
"""Brings tiles, each at least of the width asked for, by (tile level, tile index)."""


async def compute(fetch: Fetch, size: int, function: Callable[[Read], _T]) -> _T:
    """Run a function of proxy.ledger.tree (or several) over tiles of a tree of ``size`` leaves.

    It is run twice: once to learn which hashes it reads, then with the tiles that were fetched for them.

    Raises:
        ProofError: a tile is missing, or what the function raises.
        Exception: what ``fetch`` raises.
    """
    wanted = tree.Wanted()
    function(wanted)
    places = {tile_of(*node) for node in wanted.nodes}
    tiles = await fetch(sorted(Tile(*place, width_at(size, *place)) for place in places))
    return function(over(tiles))


def entry_bundle(data: bytes) -> bytes:
    """Return an entry bundle: each entry's 32 bytes after their length (big-endian uint16), as tlog-tiles has it."""
    prefix = ENTRY_DATA_LEN.to_bytes(2, "big")
    return b"".join(prefix + data[at : at + ENTRY_DATA_LEN] for at in range(0, len(data), ENTRY_DATA_LEN))


class Edge:
    """The right edge of a growing tree: for each tile level the hashes of its last, partial tile.

    About 30 µs for a hundred leaves; at most 8 tiles of memory.

    Args:
        size: the tree's size.
        rows: the hashes of `partials` (size), by tile level; none for a level without.
    """

    def __init__(self, size: int = 0, rows: Mapping[int, Iterable[bytes]] | None = None) -> None:
        given = rows or {}
        self.size = size
        self._rows = [list(given.get(level, ())) for level in range(LEVEL_MAX + 1)]
        if [len(row) for row in self._rows] != [(size >> HEIGHT * level) % WIDTH for level in range(LEVEL_MAX + 1)]:
            raise tree.ProofError("the edge of a tree of another size")

    def root(self) -> bytes:
        """The tree's root hash."""
        result: bytes | None = None
        for row in self._rows:
            # From right to left: what the lower levels come to stands to the right of this level's hashes.
            parts = [tree.root(row[at : at + width]) for at, width in _powers(len(row))]
            if result is not None:
                parts.append(result)
            result = tree.fold(parts) if parts else None
        return tree.EMPTY_ROOT if result is None else result

    def append(self, leaves: Iterable[bytes]) -> list[tuple[int, int, bytes, bytes]]:
        """Add leaf hashes; return the tiles that became full: (level, index, 8192 bytes, the hash over them)."""
        full: list[tuple[int, int, bytes, bytes]] = []
        for leaf in leaves:
            self.size += 1
            level, each = 0, leaf
            while True:
                row = self._rows[level]
                row.append(each)
                if len(row) < WIDTH:
                    break
                each = tree.root(row)
                full.append((level, (self.size >> HEIGHT * (level + 1)) - 1, b"".join(row), each))
                row.clear()
                level += 1
        return full

    def partial(self, level: int) -> bytes:
        """Return the bytes of a level's last tile; none where that is full."""
        return b"".join(self._rows[level])

    def copy(self) -> Edge:
        """Return an edge that grows apart from this one."""
        return Edge(self.size, dict(enumerate(self._rows)))


def _powers(count: int) -> list[tuple[int, int]]:
    """(start, width) of the powers of two that make up ``count``, largest first."""
    return [(index << level, 1 << level) for level, index in tree.subtrees(count)]


class Cache:
    """Full tiles, least recently used first out. They never change, so they need no more than a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tiles: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def get(self, place: tuple[int, int]) -> bytes | None:
        """Return a tile's bytes if they are here."""
        if (data := self._tiles.get(place)) is not None:
            self._tiles.move_to_end(place)
        return data

    def put(self, place: tuple[int, int], data: bytes) -> None:
        """Keep a full tile."""
        if len(data) == WIDTH * HASH_LEN:
            self._tiles[place] = data
            if len(self._tiles) > self._most:
                self._tiles.popitem(last=False)
