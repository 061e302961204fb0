"""Counting what was shown: records, days, carriers, classes and distinct telephone numbers. No I/O.

Exact, with memory bounded by what is counted: record ids and numbers are kept as Roaring bitmaps (2 bytes each and less
where they stand close; at worst, for numbers scattered over the whole of E.164, about 60), texts that are no number as
16-byte keyed digests. No number leaves this module: it gives counts.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from proxy.disclosure.exposure_store import Numbers, Opened
from proxy.disclosure.exposure_trail import Reach
from proxy.disclosure.records import Ids, ids_of

DAY_US = 86_400_000_000


class Subscribers:
    """Distinct telephone numbers: E.164 ones, and raw texts that are none."""

    def __init__(self) -> None:
        self.numbers = BitMap64()
        self.raws: set[bytes] = set()
        self._key = secrets.token_bytes(16)  # so that a digest left in memory says nothing of a number

    def add(self, numbers: Numbers, raws: Iterable[str]) -> None:
        """Add some."""
        if len(numbers):
            self.numbers |= BitMap64(array("Q", numbers.tobytes()))
        self.raws.update(self.digest(text) for text in raws)

    def digest(self, text: str) -> bytes:
        """Return what stands for a raw text here, and nowhere else."""
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.raws)


class Tally:
    """Counts records as their batches are opened; each record comes once.

    Args:
        groups: what was shown, by what of it was shown. A record may stand in several.
    """

    def __init__(self, groups: Mapping[Reach, BitMap64]) -> None:
        self._groups = groups
        self.counted = BitMap64()
        """The records that were found, with their numbers where numbers were shown."""
        self.days: Counter[int] = Counter()
        """Days since 1970 (UTC) → records."""
        self.carriers: Counter[int] = Counter()
        """OCN code → records in which it is a leg."""
        self.subscribers = Subscribers()

    def add(self, opened: Opened) -> None:
        """Count what was shown of some batches."""
        rows = opened.ids
        shown = np.zeros(len(rows), np.bool_)
        by_fields: dict[frozenset[str], npt.NDArray[np.bool_]] = {}
        for reach, records in self._groups.items():
            mask = members(rows, records)
            shown |= mask
            if reach.parties:
                before = by_fields.get(reach.parties)
                by_fields[reach.parties] = mask if before is None else before | mask
        if not shown.any():
            return
        days = opened.started_us[shown] // DAY_US
        first = int(days.min())
        for offset, count in enumerate(np.bincount(days - first).tolist()):
            if count:
                self.days[first + offset] += count
        at = 0
        for size, _, ingress, egress in opened.legs:
            count = int(np.count_nonzero(shown[at : at + size]))
            at += size
            for code in {ingress, egress} if count else ():
                self.carriers[code] += count
        for fields, mask in by_fields.items():
            if opened.table is None:
                shown &= ~mask  # the parties' key is gone: found, and not counted
            elif mask.any():
                self.subscribers.add(*opened.numbers(mask, fields))
        self.counted |= BitMap64(array("Q", rows[shown].tobytes()))


def members(ids: Ids, records: BitMap64) -> npt.NDArray[np.bool_]:
    """Say which ids (n,), in any order, stand in a set."""
    within = ids_of(BitMap64(array("Q", ids.tobytes())) & records)
    if len(within) == len(ids):
        return np.ones(len(ids), np.bool_)
    if not len(within):
        return np.zeros(len(ids), np.bool_)
    places = np.searchsorted(within, ids)
    found: npt.NDArray[np.bool_] = within[np.minimum(places, len(within) - 1)] == ids
    return found


def by_class(groups: Mapping[Reach, BitMap64]) -> dict[str, int]:
    """Return for each disclosure class how many distinct records were shown with it."""
    united: dict[str, BitMap64] = {}
    for reach, records in groups.items():
        for name in reach.classes:
            united.setdefault(name, BitMap64()).update(records)
    return {name: len(records) for name, records in sorted(united.items())}
