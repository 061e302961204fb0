"""The tree over the entries, held against tiles, checkpoints and anchors as it grows. Pure; memory does not grow.

An entry whose header, stored leaf and tile disagree gives several trees: each is followed until a signed checkpoint
says which of them was the log. So one edited byte is one finding, and not one for each checkpoint after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.ledger import tree
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import Since, StoredTile, Where
from proxy.ledger.tiles import HEIGHT, LEVEL_MAX, WIDTH

_UNKNOWN = bytes(tree.HASH_LEN)
"""Stands for the leaf of an entry that is missing and in no tile; no leaf hashes to it."""


class Frontier:
    """The complete subtrees of a growing tree: at most one for each level."""

    __slots__ = ("nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self.nodes: list[bytes] = []

    def add(self, leaf: bytes) -> bytes | None:
        """Add a leaf; return the hash over the last 256 leaves where it completes them."""
        self.size += 1
        size, level, node, tile = self.size, 0, leaf, None
        while not size & 1:
            node = tree.node_hash(self.nodes.pop(), node)
            size >>= 1
            level += 1
            if level == HEIGHT:
                tile = node
        self.nodes.append(node)
        return tile

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return tree.fold(self.nodes)

    def copy(self) -> Frontier:
        """Return one that grows apart from this."""
        made = Frontier()
        made.size, made.nodes = self.size, list(self.nodes)
        return made


@dataclass(slots=True)
class Mark:
    """A size at which a root is known from a signed note."""

    size: int
    root: bytes
    since: Since | None
    """The checkpoint, for one of the log's own."""
    label: str
    """What people call it."""
    where: Where = Where.CHECKPOINT
    held: bool | None = None
    """Whether the entries give that root; None: not reached."""


class TreeCheck:
    """Follows the tree.

    Args:
        signed_size: the largest checkpoint's size: full tiles stand up to it, and none beyond.
        found: where findings go.
    """

    def __init__(self, signed_size: int, found: Findings) -> None:
        self._signed = signed_size
        self._found = found
        # One for what the headers give, and while sources disagree one for each of them.
        self._main = Frontier()
        self._others: dict[str, Frontier] = {}
        self._confirmed = 0
        self._anchored = 0
        self._bad: dict[Where, bool] = {}
        self._tile_roots: list[list[bytes]] = [[] for _ in range(LEVEL_MAX + 2)]
        self.covered = 0

    @property
    def size(self) -> int:
        """Leaves so far."""
        return self._main.size

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return self._main.root()

    def _tile_leaf(self, tiles: Mapping[tuple[int, int], StoredTile], index: int) -> bytes | None:
        tile = tiles.get((0, index // WIDTH))
        if tile is None or tile.idx * WIDTH + len(tile.hashes) // tree.HASH_LEN > self._signed:
            return None  # a tile that cannot be yet says nothing; that it stands is said elsewhere
        at = index % WIDTH * tree.HASH_LEN
        return tile.hashes[at : at + tree.HASH_LEN] or None

    def add(self, leaf: bytes | None, stored: bytes | None, tiles: Mapping[tuple[int, int], StoredTile] | None) -> None:
        """Add the next entry's leaf.

        Args:
            leaf: as its header gives it; None where the entry is missing.
            stored: as it stands beside the header.
            tiles: those that end on this page; None where they were not read.
        """
        index = self._main.size
        tiled = None if tiles is None else self._tile_leaf(tiles, index)
        if leaf is not None and tiled is not None and tiled != leaf:
            self._found.add(Where.TILE, f"tile 0/{index // WIDTH} holds another leaf than its header's", index)
        main = leaf or tiled or _UNKNOWN
        for name, other in (("stored", stored), ("tile", tiled)):
            if other is not None and other != main and name not in self._others:
                self._others[name] = self._main.copy()
        full = self._main.add(main)
        for name, frontier in self._others.items():
            frontier.add((stored if name == "stored" else tiled) or main)
        if full is not None:
            self._complete(0, index // WIDTH, full, tiles)

    def _complete(
        self, level: int, index: int, computed: bytes, tiles: Mapping[tuple[int, int], StoredTile] | None
    ) -> None:
        """A tile's last leaf has come: hold it against what the tiles below it say."""
        first, end = index << HEIGHT * (level + 1), (index + 1) << HEIGHT * (level + 1)
        tile = None if tiles is None else tiles.get((level, index))
        name = f"tile {level}/{index}"
        below = self._tile_roots[level]
        root = computed
        if tile is None:
            if tiles is not None and end <= self._signed:
                self._found.add(Where.TILE, f"{name} does not stand", first, end - 1)
        else:
            if len(tile.hashes) != WIDTH * tree.HASH_LEN:
                self._found.add(Where.TILE, f"{name} does not hold {WIDTH} hashes", first, end - 1)
            hashes = [tile.hashes[at : at + tree.HASH_LEN] for at in range(0, len(tile.hashes), tree.HASH_LEN)]
            root = tree.root(hashes) if len(hashes) == WIDTH else computed
            if end > self._signed:
                self._found.add(Where.TILE, f"{name} reaches past every checkpoint", first, end - 1)
            if tile.root is not None and tile.root != root:
                self._found.add(Where.TILE, f"{name} has another root than its hashes give", first, end - 1)
            if level:
                width = 1 << HEIGHT * level
                wrong = [n for n, (a, b) in enumerate(zip(below, hashes, strict=False)) if a != b]
                for n in wrong[:1]:
                    at = first + n * width
                    self._found.add(Where.TILE, f"{name} holds another hash than the tile below it", at, at + width - 1)
        below.clear()
        if level < LEVEL_MAX:
            row = self._tile_roots[level + 1]
            row.append(root)
            if len(row) == WIDTH:
                self._complete(level + 1, index // WIDTH, tree.root(row), tiles)

    def hold(self, marks: Sequence[Mark]) -> None:
        """Hold the tree, at its present size, against roots that were signed for it."""
        if not marks:
            return
        roots = {"": self._main.root()} | {name: f.root() for name, f in self._others.items()}
        good = [mark for mark in marks if mark.root in roots.values()]
        for mark in marks:
            mark.held = mark in good
            if mark.held:
                self._bad[mark.where] = False
            elif not self._bad.get(mark.where):
                # From here on every later one differs too: that is said once.
                self._bad[mark.where] = mark.where is Where.CHECKPOINT
                anchor = mark.where is Where.ANCHOR
                # The log's own checkpoints say nothing for it where an anchor says something against it.
                first = None if anchor else self._found.first_from(self._confirmed)
                start = self._anchored if anchor else self._confirmed if first is None else first
                self._found.add(
                    mark.where,
                    f"{mark.label} is of other entries than stand before it: something up to entry {mark.size - 1}"
                    " was changed, moved, added or removed",
                    min(start, mark.size - 1),
                    mark.size - 1,
                )
        for mark in marks:
            if mark.since is not None:
                self._found.covered(mark.since)
        if good:
            chosen = next(name for name, root in roots.items() if root == good[0].root)
            if chosen:
                self._main = self._others[chosen]
            self._others.clear()
            self._confirmed = self._main.size
            if any(mark.since is not None for mark in good):
                self.covered = self._main.size
            if any(mark.where is Where.ANCHOR for mark in good):
                self._anchored = self._main.size
