"""Whether the table of tags says the same as the entries, in memory that does not grow.

Both are sets of (tag, index). Each is reduced to sums of AES(tag ‖ index) under a key made for this check, one sum for
each stretch of the log: equal sums mean equal sets (who edited the log did not know the key), and a stretch whose sums
differ is read again to name the entry.
"""

from __future__ import annotations

import secrets
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

_Keys = npt.NDArray[np.int64]


class TagSums:
    """Sums over (tag, index) pairs, by stretch.

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

    def add(self, tags: _Keys, indexes: _Keys) -> None:
        """Add pairs."""
        if not len(tags):
            return
        inside = (indexes >= 0) & (indexes < self.width * len(self._sums))
        if not inside.all():
            self._strays = True
            tags, indexes = tags[inside], indexes[inside]
        blocks = np.empty((len(tags), 2), np.int64)
        blocks[:, 0], blocks[:, 1] = tags, indexes
        mixed = np.frombuffer(self._cipher.update(blocks.tobytes()), np.uint64).reshape(-1, 2)
        np.add.at(self._sums, indexes // self.width, mixed)

    def differing(self, other: TagSums) -> list[tuple[int, int]]:
        """Return the stretches (first index, one past the last) whose sums differ."""
        wrong = np.flatnonzero((self._sums != other._sums).any(axis=1))
        return [(int(n) * self.width, (int(n) + 1) * self.width) for n in wrong]

    @property
    def strays(self) -> bool:
        """Whether any pair was of an index that the log does not have."""
        return self._strays


@dataclass
class TagPairs:
    """The pairs of one stretch, to be compared one by one."""

    pairs: set[tuple[int, int]] = field(default_factory=set)

    def add(self, tags: _Keys, indexes: _Keys) -> None:
        """Add pairs."""
        self.pairs |= set(zip(tags.tolist(), indexes.tolist(), strict=True))


def of_columns(first: Sequence[int], columns: Sequence[bytes]) -> tuple[_Keys, _Keys]:
    """Return the pairs of entries, given their indexes and tag columns: a tag's 8 bytes as the table has them."""
    whole = [column for column in columns if len(column) % TAG_BYTES == 0]
    at = [index for index, column in zip(first, columns, strict=True) if len(column) % TAG_BYTES == 0]
    raw = np.frombuffer(b"".join(whole), np.uint8).reshape(-1, TAG_BYTES)[:, 1:]
    tags = np.ascontiguousarray(raw).view(">i8").reshape(-1).astype(np.int64)
    indexes = np.repeat(np.array(at, np.int64), [len(column) // TAG_BYTES for column in whole])
    # Two tags of one entry may agree in their 8 bytes: the table holds such a pair once.
    order = np.lexsort((tags, indexes))
    tags, indexes = tags[order], indexes[order]
    fresh = np.ones(len(tags), bool)
    fresh[1:] = (tags[1:] != tags[:-1]) | (indexes[1:] != indexes[:-1])
    return tags[fresh], indexes[fresh]


def of_table(tags: Sequence[int], first: Sequence[int], places: Sequence[bytes]) -> tuple[_Keys, _Keys]:
    """Return the pairs of rows of the table: a tag, the first index of a stretch, 16-bit places counted from it."""
    counts = [len(each) // 2 for each in places]
    offsets = np.frombuffer(b"".join(places), ">u2").astype(np.int64)
    indexes = np.repeat(np.array(first, np.int64), counts) + offsets
    return np.repeat(np.array(tags, np.int64), counts), indexes
