"""Writing chunks: a whole table is made ready once and then cut."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxy.store.columns.form import DELTA, DICT, HEAD, INT_HEAD, INTS, NUMBERS, POWERS, TEXT, VALID, VERSION
from proxy.store.columns.tables import one
from proxy.store.planes import Bytes, compress, to_planes, width_of
from schema.fields import Field, Kind

MAX_DICTIONARY: Final = 65_536
"""Codes take two planes at most, and counting those of a chunk stays cheap."""

Ints = npt.NDArray[np.int64]


@dataclass(slots=True)
class Prepared:
    """One column of a whole table, made ready to be cut into chunks."""

    kind: Kind
    values: npt.NDArray[np.int64] | None
    """Integers with 0 under nulls, or dictionary codes; None if every value is null."""
    valid: npt.NDArray[np.bool_] | None
    """None if no value is null."""
    scale: int = 0
    """Integers: the power of ten that divides every value, already divided out."""
    offsets: npt.NDArray[np.int64] | None = None
    data: Bytes | None = None
    """Text: the values themselves, one after another."""
    words: list[bytes] | None = None
    """Text: the dictionary of the codes in ``values``."""
    raw: Prepared | None = None
    """A number's raw texts."""

    @property
    def empty(self) -> bool:
        """Whether there is no value in the whole column."""
        return self.values is None and self.offsets is None


def prepare(table: pa.Table | pa.RecordBatch, fields: Sequence[Field]) -> list[Prepared]:
    """Make the columns of ``table`` (schema of :func:`arrow_schema`) ready for :func:`encode`."""
    present = set(table.schema.names)
    out = []
    for f in fields:
        absent = Prepared(f.kind, None, None)
        if f.kind is Kind.TEXT:
            out.append(_prepare_text(one(table.column(f.name))) if f.name in present else absent)
            continue
        column = _prepare_ints(one(table.column(f.name)), f.kind) if f.name in present else absent
        if f.name + "_raw" in present:
            raw = _prepare_text(one(table.column(f.name + "_raw")), dictionary=False)
            if raw.offsets is not None:
                column.raw = raw
                if column.values is None:
                    column.values = np.zeros(table.num_rows, np.int64)
                    column.valid = np.zeros(table.num_rows, np.bool_)
        out.append(column)
    return out


def _validity(array: pa.Array) -> npt.NDArray[np.bool_] | None:
    if array.null_count == 0:
        return None
    return array.is_valid().to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _prepare_ints(array: pa.Array, kind: Kind) -> Prepared:
    if array.null_count == len(array):
        return Prepared(kind, None, None)
    if not pa.types.is_int64(array.type):
        array = array.view(pa.int64()) if array.type.bit_width == 64 else array.cast(pa.int64())
    values = np.frombuffer(array.buffers()[1], np.int64, len(array), array.offset * 8)
    valid = _validity(array)
    if valid is not None:  # what lies under a null is arbitrary: make it 0, so that equal columns are equal bytes
        values = np.where(valid, values, 0)
    if kind in (Kind.TIME, Kind.INT, Kind.DECIMAL):
        # Whole seconds in a microsecond column and cents in a 10^-8 column are common: divide what divides evenly.
        for scale in (6, 3):
            if not (values[:64] % POWERS[scale]).any() and not (values % POWERS[scale]).any():
                return Prepared(kind, values // POWERS[scale], valid, scale)
    return Prepared(kind, values, valid)


def _prepare_text(array: pa.Array, dictionary: bool = True) -> Prepared:
    if array.null_count == len(array):
        return Prepared(Kind.TEXT, None, None)
    valid = _validity(array)
    if pa.types.is_dictionary(array.type) and len(array.dictionary) > MAX_DICTIONARY:
        array = array.cast(pa.large_string())
    if dictionary and (pa.types.is_dictionary(array.type) or recurs(array)):
        coded = array.dictionary_encode()
        if len(coded.dictionary) <= MAX_DICTIONARY:
            codes = coded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            return Prepared(Kind.TEXT, codes, valid, words=[w.encode() for w in coded.dictionary.to_pylist()])
    offsets, data = _text_buffers(array.fill_null("") if valid is not None else array)
    return Prepared(Kind.TEXT, None, valid, offsets=offsets, data=data)


def recurs(array: pa.Array) -> bool:
    """Say whether the values of a text column seem to recur, so that a dictionary of them pays."""
    sample = array.slice(len(array) // 3, 2_048)
    return len(sample.unique()) <= max(16, len(sample) // 4)


def _text_buffers(array: pa.Array) -> tuple[npt.NDArray[np.int64], Bytes]:
    large = array.cast(pa.large_string())
    _, offsets, data = large.buffers()
    ends = np.frombuffer(offsets, np.int64, len(large) + 1, large.offset * 8)
    return ends, np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)


def is_empty(columns: Sequence[Prepared], start: int, stop: int) -> bool:
    """Say whether rows ``[start, stop)`` hold no value at all (such a class of a batch is not stored)."""
    return not any(_any(column, start, stop) for column in columns)


def _any(column: Prepared | None, start: int, stop: int) -> bool:
    if column is None or column.empty:
        return False
    return column.valid is None or bool(column.valid[start:stop].any()) or _any(column.raw, start, stop)


def encode(columns: Sequence[Prepared], start: int, stop: int) -> bytes:
    """Return rows ``[start, stop)`` as one chunk: a zstd frame."""
    rows = stop - start
    parts: list[bytes] = [HEAD.pack(VERSION, rows, len(columns))]
    for column in columns:
        parts.extend(_encode_column(column, start, stop))
    return compress(b"".join(parts))


def _encode_column(column: Prepared, start: int, stop: int) -> list[bytes]:
    if not _any(column, start, stop):
        return [b"\0"]
    valid = None if column.valid is None else column.valid[start:stop]
    bitmap, flag = b"", 0
    if valid is not None and not valid.all():
        bitmap, flag = np.packbits(valid, bitorder="little").tobytes(), VALID
    if column.kind is Kind.TEXT:
        return _encode_text(column, start, stop, flag, bitmap)
    assert column.values is not None
    encoding = NUMBERS if column.kind is Kind.NUMBER else INTS
    body = _encode_ints(column.values[start:stop], valid if flag else None, column.kind, column.scale)
    out = [bytes([encoding | flag | (DELTA if body[0] else 0)]), bitmap, *body[1]]
    if encoding == NUMBERS:
        out.extend(_encode_exceptions(column.raw, start, stop))
    return out


def _encode_ints(values: Ints, valid: npt.NDArray[np.bool_] | None, kind: Kind, scale: int) -> tuple[bool, list[bytes]]:
    delta = kind is Kind.ID and valid is None and len(values) > 1 and bool((values[1:] >= values[:-1]).all())
    if delta:
        base = int(values[0])
        planes = np.empty(len(values), np.uint64)
        planes[0] = 0
        np.subtract(values[1:], values[:-1], out=planes[1:].view(np.int64))
    else:
        known = values if valid is None else values[valid]
        base = int(known.min()) if len(known) else 0
        planes = (values - base).view(np.uint64)
        if valid is not None:
            planes = np.where(valid, planes, np.uint64(0))
    width = width_of(planes)
    return delta, [INT_HEAD.pack(scale, width, base), to_planes(planes, width)]


def _encode_text(column: Prepared, start: int, stop: int, flag: int, bitmap: bytes) -> list[bytes]:
    if column.words is None:
        assert column.offsets is not None
        assert column.data is not None
        ends = column.offsets[start : stop + 1]
        lengths = np.diff(ends).astype(np.uint64)
        width = width_of(lengths)
        data = column.data[ends[0] : ends[-1]].tobytes()
        size = struct.pack("<I", len(data))
        return [bytes([TEXT | flag]), bitmap, bytes([width]), to_planes(lengths, width), size, data]
    assert column.values is not None
    codes = column.values[start:stop]
    present = np.flatnonzero(np.bincount(codes, minlength=1))
    local = np.zeros(int(present[-1]) + 1, np.uint64)
    local[present] = np.arange(len(present), dtype=np.uint64)
    width = 0 if len(present) == 1 else (len(present) - 1).bit_length() + 7 >> 3
    texts = [column.words[i] for i in present.tolist()]
    data = b"".join(texts)
    return [
        bytes([DICT | flag]),
        bitmap,
        struct.pack("<H", len(present) - 1),
        np.array([len(t) for t in texts], "<u4").tobytes(),
        struct.pack("<I", len(data)),
        data,
        bytes([width]),
        to_planes(local[codes], width),
    ]


def _encode_exceptions(raw: Prepared | None, start: int, stop: int) -> list[bytes]:
    if raw is None:
        return [struct.pack("<I", 0)]
    assert raw.offsets is not None
    assert raw.data is not None
    ends = raw.offsets[start : stop + 1]
    lengths = np.diff(ends)
    there = np.ones(stop - start, np.bool_) if raw.valid is None else raw.valid[start:stop]
    rows = np.flatnonzero(there)
    if not len(rows):
        return [struct.pack("<I", 0)]  # exceptions elsewhere in the table, none in these rows
    # Under a null the length is 0, so the bytes between the ends are exactly the exceptions' bytes, in order.
    data = raw.data[ends[0] : ends[-1]].tobytes()
    return [
        struct.pack("<I", len(rows)),
        rows.astype("<u4").tobytes(),
        lengths[rows].astype("<u4").tobytes(),
        struct.pack("<I", len(data)),
        data,
    ]
