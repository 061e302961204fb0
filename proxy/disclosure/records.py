"""Which records an answer held, compactly: sets of record ids. Pure.

A set is written as runs of consecutive ids where they are few (a person can read them), else as a Roaring bitmap in its
portable 64-bit form (RoaringFormatSpec: a count, then for each upper half of the ids that half and a 32-bit bitmap),
base64: at most 2 bytes an id and 10 for each 65,536 ids touched, less where ids stand close. Record ids never change
and are never given again (a re-mapping gives new ones, to records that nobody was shown), so a set made today names the
same records after any rolling.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

RUNS_MAX: Final = 32
"""Most runs that are listed."""
SET_BYTES_MAX: Final = 2_400_000
"""Most bytes of a bitmap in one entry: with base64, and beside a piece in flight, it fits the entry's part."""

Ids = npt.NDArray[np.int64]

_ROW_BYTES = 2
_CONTAINER_BYTES = 24
_COOKIE = 12_346
_ARRAY_MAX = 4_096
_BITSET_BYTES = 8_192


class RecordsError(ValueError):
    """A stored set cannot be read, or is not of as many records as it says."""


def bitmap_of(ids: Ids) -> BitMap64:
    """Return the set of ids (n,), none negative."""
    if not len(ids):
        return BitMap64()
    steps = np.diff(ids)
    if (steps <= 0).any():
        return bitmap_of(np.unique(ids))
    if ids[-1] - ids[0] == len(ids) - 1:
        found = BitMap64()
        found.add_range(int(ids[0]), int(ids[-1]) + 1)
        return found
    # Written as it would be stored, and read: several times faster than adding ids, and every answer pays for it.
    return BitMap64.deserialize(_portable(ids))


def _portable(ids: Ids) -> bytes:
    """Return the portable 64-bit form of ascending ids, without runs (RoaringFormatSpec, "Standard 32-bit Roaring
    Bitmap" and its 64-bit extension)."""
    keys = ids >> 16
    starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
    counts = np.diff(np.append(starts, len(ids)))
    containers = keys[starts]
    low = ids.astype("<u2")  # the lower 16 bits
    halves, firsts = np.unique(containers >> 16, return_index=True)
    ends = np.append(firsts[1:], len(containers))
    parts = [struct.pack("<Q", len(halves))]
    for half, first, end in zip(halves.tolist(), firsts.tolist(), ends.tolist(), strict=True):
        mine = counts[first:end]
        heads = np.empty((end - first, 2), "<u2")
        heads[:, 0], heads[:, 1] = containers[first:end] & 0xFFFF, mine - 1
        sizes = np.where(mine > _ARRAY_MAX, _BITSET_BYTES, 2 * mine)
        offsets = 8 + 8 * (end - first) + np.cumsum(sizes) - sizes
        parts += [struct.pack("<III", half, _COOKIE, end - first), heads.tobytes(), offsets.astype("<u4").tobytes()]
        for start, count in zip(starts[first:end].tolist(), mine.tolist(), strict=True):
            part = low[start : start + count]
            parts.append(part.tobytes() if count <= _ARRAY_MAX else _bitset(part))
    return b"".join(parts)


def _bitset(low: npt.NDArray[np.uint16]) -> bytes:
    bits = np.zeros(1 << 16, np.uint8)
    bits[low] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _edges(ids: Ids, breaks: npt.NDArray[np.intp]) -> tuple[list[int], list[int]]:
    """Return the first and the last id of each run; a run ends at each of ``breaks``."""
    return ids[np.concatenate(([0], breaks + 1))].tolist(), ids[np.concatenate((breaks, [len(ids) - 1]))].tolist()


def ids_of(records: BitMap64) -> Ids:
    """Return the ids of a set in ascending order (n,)."""
    return np.frombuffer(records.to_array(), np.int64) if records else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Portion:
    """The records of one piece. ``bound``: bytes that they add to a bitmap at most."""

    ids: BitMap64
    bound: int


def portion_of(ids: Ids) -> Portion:
    """Return the portion of these ids (n,), none negative."""
    touched = 1 + int(np.count_nonzero(np.diff(ids >> 16))) if len(ids) else 0
    return Portion(bitmap_of(ids), _ROW_BYTES * len(ids) + _CONTAINER_BYTES * touched)


NONE: Final = Portion(BitMap64(), 0)


class RecordSet:
    """The records of an answer, or of a stretch of one, so far."""

    def __init__(self) -> None:
        self.bound = 0
        """Bytes that its bitmap does not pass."""
        self._ids = BitMap64()

    def add(self, portion: Portion) -> None:
        """Add a piece's records."""
        self.bound += portion.bound
        self._ids |= portion.ids

    def as_json(self) -> dict[str, Any]:
        """Return it for a log entry; ids are text. Either ``runs`` or ``roaring`` says which records these are."""
        value: dict[str, Any] = {"rows": len(self._ids)}
        if not self._ids:
            return value
        ids = ids_of(self._ids)
        value["first"], value["last"] = str(ids[0]), str(ids[-1])
        breaks = np.flatnonzero(ids[1:] != ids[:-1] + 1)
        if len(breaks) < RUNS_MAX:
            value["runs"] = [[str(a), str(b)] for a, b in zip(*_edges(ids, breaks), strict=True)]
        else:
            self._ids.run_optimize()
            value["roaring"] = base64.b64encode(self._ids.serialize()).decode()
        return value


def read_set(value: Mapping[str, Any]) -> BitMap64:
    """Return the set that :meth:`RecordSet.as_json` wrote.

    Raises:
        RecordsError: if it cannot be read, or is not of as many records as it says.
    """
    try:
        rows = int(value["rows"])
        if "roaring" in value:
            found = BitMap64.deserialize(base64.b64decode(value["roaring"], validate=True))
        else:
            found = BitMap64()
            for first, last in value.get("runs", ()):
                found.add_range(int(first), int(last) + 1)
    except (LookupError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise RecordsError("a set of records cannot be read") from error
    if len(found) != rows:
        raise RecordsError("a set of records is not of as many as it says")
    return found
