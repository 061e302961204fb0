"""Fingerprints: whether a record is already in the store, found without opening a record.

The fingerprint of a record is 128 bits: 96 of AES-CMAC, under a key of its month, over its identity (the profile says
what identity is), and 32 of a keyed universal hash over its content. Same identity and content: a duplicate. Same
identity and other content: a conflict. A false duplicate would lose a record, hence 96 bits; a conflict taken for a
duplicate has probability 2**-32.

The content hash is the sum modulo 2**64 of ``k * value + c`` over the fields that are present, its upper half taken
(multilinear hashing, strongly universal; Lemire and Kaser, "Strongly universal string hashing is fast", 2014), with
``k`` and ``c`` of each field from AES-CMAC. A field added to the record later is null in older ones: nothing changes.
What the gate itself adds (record and ingest ids, line, OCNs of the trunk map) is not content.

A *segment* holds fingerprints of one day, sorted; segments of a day are merged eight at a time.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keys.cmac import cmac_fixed, cmac_strings
from keys.datakeys import DataKey
from keys.sealing import open_sealed, seal
from proxy.store.columns import one, recurs
from proxy.store.planes import FormatError, Words, compress, decompress, from_planes, to_planes, width_of
from proxy.store.tags import derive
from schema.fields import FIELDS, Kind

KEY_CLASS: Final = "fingerprints"
SEGMENT_MAX: Final = 1 << 20
"""Most fingerprints of one segment: 16 MiB opened."""
FAN: Final = 8

_NOT_CONTENT: Final = frozenset({"record_id", "ingest_id", "line_number", "ingress_ocn", "egress_ocn"})
_AAD = struct.Struct(">4siiqi")
_HEAD = struct.Struct("<BIQB")


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prints:
    """Fingerprints: ``high`` is the first 64 bits of the identity, ``low`` its next 32 and the 32 of the content."""

    high: Words
    low: Words

    def __len__(self) -> int:
        return len(self.high)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Prints:
        """Return those at ``index``."""
        return Prints(self.high[index], self.low[index])

    def sorted(self) -> Prints:
        """Return them in order."""
        return self.take(np.lexsort((self.low, self.high)))


def concat(parts: list[Prints]) -> Prints:
    """Join several."""
    if not parts:
        return Prints(np.empty(0, np.uint64), np.empty(0, np.uint64))
    return Prints(np.concatenate([p.high for p in parts]), np.concatenate([p.low for p in parts]))


def _text(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    large = array.cast(pa.large_string())
    _, offsets, data = large.buffers()
    ends = np.frombuffer(offsets, np.int64, len(large) + 1, large.offset * 8)
    return (np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)), ends


def _word(macs: npt.NDArray[np.uint8], at: int = 0) -> Words:
    return np.ascontiguousarray(macs[:, at : at + 8]).view(">u8").reshape(-1).astype(np.uint64)


class Fingerprinter:
    """Computes the fingerprints of one month's records."""

    def __init__(self, key: DataKey) -> None:
        self._identity = derive(key, "fingerprint identity 1")
        self._content = derive(key, "fingerprint content 1")
        self._factors: dict[str, tuple[np.uint64, np.uint64]] = {}

    def of(self, table: pa.Table, identity: pa.Array) -> Prints:
        """Return the fingerprints of ``table`` (canonical columns), whose identities are the strings ``identity``."""
        macs = cmac_strings(self._identity, *_text(identity), b"\1")
        content = self._sum(table) >> np.uint64(32)
        extra = _word(macs, 8) >> np.uint64(32)
        return Prints(_word(macs), extra << np.uint64(32) | content)

    def _factor(self, name: str) -> tuple[np.uint64, np.uint64]:
        if name not in self._factors:
            row = np.frombuffer(b"\2" + name.encode(), np.uint8).reshape(1, -1)
            mac = cmac_fixed(self._content, row)
            self._factors[name] = (_word(mac)[0] | np.uint64(1), _word(mac, 8)[0])
        return self._factors[name]

    def _sum(self, table: pa.Table) -> Words:
        total = np.zeros(table.num_rows, np.uint64)
        present = set(table.schema.names)
        for f in FIELDS:
            names = (f.name, f.name + "_raw") if f.kind is Kind.NUMBER else (f.name,)
            for name in names:
                if name in present and name not in _NOT_CONTENT:
                    self._add(total, name, table.column(name))
        return total

    def _add(self, total: Words, name: str, column: pa.ChunkedArray) -> None:
        array = one(column)
        if array.null_count == len(array):
            return
        k, c = self._factor(name)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            words = self._words(array)
        else:
            words = np.frombuffer(array.buffers()[1], np.uint64, len(array), array.offset * 8)
        terms = words * k + c
        if array.null_count:
            terms = np.where(array.is_valid().to_numpy(zero_copy_only=False), terms, np.uint64(0))
        total += terms

    def _words(self, array: pa.Array) -> Words:
        if not recurs(array):
            return _word(cmac_strings(self._content, *_text(array.fill_null("")), b"\3"))
        coded = array.dictionary_encode()
        distinct = _word(cmac_strings(self._content, *_text(coded.dictionary), b"\3"))
        words: Words = distinct[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        return words


def among(prints: Prints) -> tuple[Mask, Mask]:
    """Compare records with each other: return masks over ``prints``, which repeat and which contradict an earlier one.

    Of several with one identity the first stands.
    """
    order = np.lexsort((prints.low >> np.uint64(32), prints.high))  # stable: equal identities stay in file order
    high, low = prints.high[order], prints.low[order]
    same = np.zeros(len(prints), np.bool_)
    same[1:] = (high[1:] == high[:-1]) & (low[1:] >> np.uint64(32) == low[:-1] >> np.uint64(32))
    duplicate = np.zeros(len(prints), np.bool_)
    conflict = np.zeros(len(prints), np.bool_)
    if same.any():
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(prints))))
        duplicate[order] = same & (low == low[first])
        conflict[order] = same & (low != low[first])
    return duplicate, conflict


def against(prints: Prints, seen: Prints) -> tuple[Mask, Mask]:
    """Return masks over ``prints``: which are duplicates of, and which conflict with, one of ``seen`` (sorted)."""
    duplicate = np.zeros(len(prints), np.bool_)
    conflict = np.zeros(len(prints), np.bool_)
    if not len(seen) or not len(prints):
        return duplicate, conflict
    at = np.searchsorted(seen.high, prints.high, "left")
    live = np.flatnonzero(at < len(seen))
    live = live[seen.high[at[live]] == prints.high[live]]
    while len(live):  # more than once only where 64 bits of two identities agree
        found = seen.low[at[live]]
        mine = prints.low[live]
        same = found >> np.uint64(32) == mine >> np.uint64(32)
        hit = live[same]
        duplicate[hit] = found[same] == mine[same]
        conflict[hit] = found[same] != mine[same]
        live = live[~same]
        at[live] += 1
        live = live[at[live] < len(seen)]
        live = live[seen.high[at[live]] == prints.high[live]]
    return duplicate, conflict


def _aad(day: int, segment_id: int, count: int, month: int) -> bytes:
    return _AAD.pack(b"TGF1", month, day, segment_id, count)


def segment_digest(month: int, day: int, segment_id: int, level: int, count: int, sealed: bytes) -> bytes:
    """SHA-256 of a segment's row: what the log says was made."""
    clear = struct.pack(">iiqii", month, day, segment_id, level, count)
    return hashlib.sha256(clear + sealed).digest()


def seal_segment(key: DataKey, month: int, day: int, segment_id: int, prints: Prints) -> bytes:
    """Seal fingerprints (sorted, at least one) of one day."""
    steps = np.diff(prints.high, prepend=prints.high[:1])
    width = width_of(steps)
    head = _HEAD.pack(1, len(prints), int(prints.high[0]), width)
    frame = compress(head + to_planes(steps, width) + to_planes(prints.low, 8))
    return seal(key, [frame], _aad(day, segment_id, len(prints), month))


def open_segment(key: DataKey, month: int, day: int, segment_id: int, count: int, sealed: bytes) -> Prints:
    """Return the sorted fingerprints of a segment.

    Raises:
        SealError, FormatError: if it does not open, or does not hold what the format says.
    """
    (frame,) = open_sealed(key, sealed, _aad(day, segment_id, count, month))
    body = decompress(frame)
    if len(body) < _HEAD.size:
        raise FormatError("a fingerprint segment is too short")
    version, rows, first, width = _HEAD.unpack_from(body)
    if version != 1 or rows != count or width > 8 or len(body) != _HEAD.size + rows * (width + 8):
        raise FormatError("a fingerprint segment of another format")
    view = np.frombuffer(body, np.uint8)[_HEAD.size :]
    steps = from_planes(view[: rows * width], rows, width)
    return Prints(np.cumsum(steps) + np.uint64(first), from_planes(view[rows * width :], rows, 8))
