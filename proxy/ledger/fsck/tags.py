"""Whether the table of tags says the same as the entries, in memory that does not grow.

Both are of (tag, index, place in its group), each once: so a row of the table is of one group, and begins where the
group does. Each is reduced to sums of AES(tag ‖ index ‖ place) under a key made for this check, one sum for each
stretch of the log: equal sums mean that both say the same equally often (who edited the log did not know the key), and
a stretch whose sums differ is read again to name the entry.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from proxy.ledger.encoding import TAG_BYTES

STRETCHES = 4096
"""Most sums."""

INDEX_END = 1 << 47
"""Past every index that there can be: one block holds a tag, an index and a place."""

_Keys = npt.NDArray[np.int64]


class TagSums:
    """Sums over (tag, index, place), by stretch.

    Args:
        size: entries of the log.
        key: 16 bytes; those that are compared have the same.
    """

    def __init__(self, size: int, key: bytes) -> None:
        self.width = max(256, -(-size // STRETCHES))
        self._sums = np.zeros((-(-max(size, 1) // self.width), 2), np.uint64)
        # One block each, and no block twice: ECB is the permutation itself.
        self._cipher = Cipher(AES(key), ECB()).encryptor()  # noqa: S305
        self._strays = False

    @staticmethod
    def new_key() -> bytes:
        """Return a key for one check."""
        return secrets.token_bytes(16)

    def add(self, tags: _Keys, indexes: _Keys, places: _Keys) -> None:
        """Add so many, one of each."""
        if not len(tags):
            return
        inside = (indexes >= 0) & (indexes < min(self.width * len(self._sums), INDEX_END))
        if not inside.all():
            self._strays = True
            tags, indexes, places = tags[inside], indexes[inside], places[inside]
        blocks = np.empty((len(tags), 2), np.int64)
        blocks[:, 0], blocks[:, 1] = tags, indexes << 16 | places & 0xFFFF
        mixed = np.frombuffer(self._cipher.update(blocks.tobytes()), np.uint64).reshape(-1, 2)
        np.add.at(self._sums, indexes // self.width, mixed)

    def differing(self, other: TagSums) -> list[tuple[int, int]]:
        """Return the stretches (first index, one past the last) whose sums differ."""
        wrong = np.flatnonzero((self._sums != other._sums).any(axis=1))
        return [(int(n) * self.width, (int(n) + 1) * self.width) for n in wrong]

    @property
    def strays(self) -> bool:
        """Whether any was of an index that the log does not have."""
        return self._strays


@dataclass
class TagCounts:
    """What is said of one stretch, and how often, to be compared one by one."""

    counts: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, tags: _Keys, indexes: _Keys, places: _Keys) -> None:
        """Add so many, one of each."""
        self.counts.update(zip(tags.tolist(), indexes.tolist(), (places & 0xFFFF).tolist(), strict=True))

    def differing(self, other: TagCounts) -> set[int]:
        """Return the indexes of which the two say something else, or not equally often."""
        said = self.counts.keys() | other.counts.keys()
        return {each[1] for each in said if self.counts[each] != other.counts[each]}


def of_columns(index: Sequence[int], place: Sequence[int], columns: Sequence[bytes]) -> tuple[_Keys, _Keys, _Keys]:
    """Return what entries say, given their indexes, places and tag columns: a tag's 8 bytes as the table has them."""
    is_whole = [len(column) % TAG_BYTES == 0 for column in columns]
    whole = [column for column, good in zip(columns, is_whole, strict=True) if good]
    at = [each for each, good in zip(index, is_whole, strict=True) if good]
    of = [each for each, good in zip(place, is_whole, strict=True) if good]
    raw = np.frombuffer(b"".join(whole), np.uint8).reshape(-1, TAG_BYTES)[:, 1:]
    tags = np.ascontiguousarray(raw).view(">i8").reshape(-1).astype(np.int64)
    counts = [len(column) // TAG_BYTES for column in whole]
    indexes, places = np.repeat(np.array(at, np.int64), counts), np.repeat(np.array(of, np.int64), counts)
    # Two tags of one entry may agree in their 8 bytes: the table says that once.
    order = np.lexsort((tags, indexes))
    tags, indexes, places = tags[order], indexes[order], places[order]
    fresh = np.ones(len(tags), bool)
    fresh[1:] = (tags[1:] != tags[:-1]) | (indexes[1:] != indexes[:-1])
    return tags[fresh], indexes[fresh], places[fresh]


def of_table(tags: Sequence[int], first: Sequence[int], places: Sequence[bytes]) -> tuple[_Keys, _Keys, _Keys]:
    """Return what rows of the table say: a tag, the first index of a group, 16-bit places counted from it."""
    counts = [len(each) // 2 for each in places]
    offsets = np.frombuffer(b"".join(places), ">u2").astype(np.int64)
    indexes = np.repeat(np.array(first, np.int64), counts) + offsets
    return np.repeat(np.array(tags, np.int64), counts), indexes, offsets


def unordered(places: Sequence[bytes]) -> list[int]:
    """Return which of these rows' places are not strictly ascending (positions in ``places``)."""
    offsets = np.frombuffer(b"".join(places), ">u2")
    rows = np.repeat(np.arange(len(places)), [len(each) // 2 for each in places])
    wrong = (offsets[1:] <= offsets[:-1]) & (rows[1:] == rows[:-1])
    found: list[int] = np.unique(rows[1:][wrong]).tolist()
    return found
