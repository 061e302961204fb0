"""The column format: what one sealed chunk of one disclosure class holds (published in deploy/docs/format.md).

A chunk is one zstd frame around a body. The body is ``version u8 | rows u32 | fields u8`` and then each field of the
class in canonical order. Integers are little-endian. A field begins with its encoding byte::

    0  every value is null; nothing follows
    1  integers   scale u8 | width u8 | base i64 | width planes of `rows` bytes (least significant first)
    2  text       width u8 | planes of lengths | size u32 | bytes
    3  dictionary count u16 | lengths u32 * count | size u32 | bytes | width u8 | planes of codes
    4  numbers    as integers, then: count u32 | row u32 * count | lengths u32 * count | size u32 | bytes

Flag 0x10: a validity bitmap of ceil(rows / 8) bytes follows the encoding byte (bit i of byte i // 8, 1 = present).
Flag 0x20: planes hold the differences of neighbours. An integer is ``(base + plane value) * 10**scale``; under 0x20 it
is ``(base + running sum of plane values) * 10**scale``. Byte planes put like bytes together, so that zstd finds them,
and open with one numpy transposition. A number that is no E.164 number stands in the exceptions of encoding 4.

A chunk with fewer fields than the class now has is older: the missing fields are null.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxy.store.planes import Bytes, FormatError, compress, decompress, from_planes, to_planes, width_of
from schema.fields import DECIMAL_SCALE, Field, Kind

VERSION: Final = 1

_NULLS, _INTS, _TEXT, _DICT, _NUMBERS = range(5)
_VALID, _DELTA = 0x10, 0x20
_HEAD = struct.Struct("<BIB")
_INT_HEAD = struct.Struct("<BBq")
MAX_DICTIONARY: Final = 65_536
"""Codes take two planes at most, and counting those of a chunk stays cheap."""
_POWERS = np.array([10**e for e in range(7)], dtype=np.int64)

Ints = npt.NDArray[np.int64]

ARROW: dict[Kind, pa.DataType] = {
    Kind.ID: pa.int64(),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.INT: pa.int64(),
    Kind.NUMBER: pa.int64(),
    Kind.DECIMAL: pa.int64(),
    Kind.TEXT: pa.string(),
}
"""The in-memory type of each kind. Money is in units of 10^-8, a number's raw text is in a column ``<name>_raw``."""

assert DECIMAL_SCALE == 8, "the format says 8 decimal places"


@lru_cache(maxsize=64)
def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Return the Arrow schema of a block of these fields."""
    out = []
    for f in fields:
        out.append(pa.field(f.name, ARROW[f.kind]))
        if f.kind is Kind.NUMBER:
            out.append(pa.field(f.name + "_raw", pa.string()))
    return pa.schema(out)


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
            out.append(_prepare_text(_one(table.column(f.name))) if f.name in present else absent)
            continue
        column = _prepare_ints(_one(table.column(f.name)), f.kind) if f.name in present else absent
        if f.name + "_raw" in present:
            raw = _prepare_text(_one(table.column(f.name + "_raw")), dictionary=False)
            if raw.offsets is not None:
                column.raw = raw
                if column.values is None:
                    column.values = np.zeros(table.num_rows, np.int64)
                    column.valid = np.zeros(table.num_rows, np.bool_)
        out.append(column)
    return out


def _one(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        return array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    return array


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
            if not (values[:64] % _POWERS[scale]).any() and not (values % _POWERS[scale]).any():
                return Prepared(kind, values // _POWERS[scale], valid, scale)
    return Prepared(kind, values, valid)


def _prepare_text(array: pa.Array, dictionary: bool = True) -> Prepared:
    if array.null_count == len(array):
        return Prepared(Kind.TEXT, None, None)
    valid = _validity(array)
    if dictionary and recurs(array):
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
    parts: list[bytes] = [_HEAD.pack(VERSION, rows, len(columns))]
    for column in columns:
        parts.extend(_encode_column(column, start, stop))
    return compress(b"".join(parts))


def _encode_column(column: Prepared, start: int, stop: int) -> list[bytes]:
    if not _any(column, start, stop):
        return [b"\0"]
    valid = None if column.valid is None else column.valid[start:stop]
    bitmap, flag = b"", 0
    if valid is not None and not valid.all():
        bitmap, flag = np.packbits(valid, bitorder="little").tobytes(), _VALID
    if column.kind is Kind.TEXT:
        return _encode_text(column, start, stop, flag, bitmap)
    assert column.values is not None
    encoding = _NUMBERS if column.kind is Kind.NUMBER else _INTS
    body = _encode_ints(column.values[start:stop], valid if flag else None, column.kind, column.scale)
    out = [bytes([encoding | flag | (_DELTA if body[0] else 0)]), bitmap, *body[1]]
    if encoding == _NUMBERS:
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
    return delta, [_INT_HEAD.pack(scale, width, base), to_planes(planes, width)]


def _encode_text(column: Prepared, start: int, stop: int, flag: int, bitmap: bytes) -> list[bytes]:
    if column.words is None:
        assert column.offsets is not None
        assert column.data is not None
        ends = column.offsets[start : stop + 1]
        lengths = np.diff(ends).astype(np.uint64)
        width = width_of(lengths)
        data = column.data[ends[0] : ends[-1]].tobytes()
        size = struct.pack("<I", len(data))
        return [bytes([_TEXT | flag]), bitmap, bytes([width]), to_planes(lengths, width), size, data]
    assert column.values is not None
    codes = column.values[start:stop]
    present = np.flatnonzero(np.bincount(codes, minlength=1))
    local = np.zeros(int(present[-1]) + 1, np.uint64)
    local[present] = np.arange(len(present), dtype=np.uint64)
    width = 0 if len(present) == 1 else (len(present) - 1).bit_length() + 7 >> 3
    texts = [column.words[i] for i in present.tolist()]
    data = b"".join(texts)
    return [
        bytes([_DICT | flag]),
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
    # Under a null the length is 0, so the bytes between the ends are exactly the exceptions' bytes, in order.
    data = raw.data[ends[0] : ends[-1]].tobytes()
    return [
        struct.pack("<I", len(rows)),
        rows.astype("<u4").tobytes(),
        lengths[rows].astype("<u4").tobytes(),
        struct.pack("<I", len(data)),
        data,
    ]


class _Reader:
    """A cursor over a body that never reads past its end."""

    __slots__ = ("at", "body", "view")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.view = np.frombuffer(body, np.uint8)
        self.at = 0

    def take(self, size: int) -> Bytes:
        end = self.at + size
        if size < 0 or end > len(self.view):
            raise FormatError("a chunk ends before its last field")
        piece = self.view[self.at : end]
        self.at = end
        return piece

    def byte(self) -> int:
        return int(self.take(1)[0])

    def u32(self) -> int:
        return int.from_bytes(self.take(4).tobytes(), "little")

    def u32s(self, count: int) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.take(4 * count).tobytes(), "<u4").astype(np.int64)

    def planes(self, rows: int, width: int) -> npt.NDArray[np.uint64]:
        if width > 8:
            raise FormatError("a column is wider than 8 bytes")
        return from_planes(self.take(rows * width), rows, width)


def decode(chunk: bytes | memoryview, fields: tuple[Field, ...]) -> pa.RecordBatch:
    """Open one chunk into a record batch of the schema of :func:`arrow_schema`.

    Args:
        chunk: what :func:`encode` returned.
        fields: all fields of the class, in canonical order.

    Raises:
        FormatError: if the bytes are not a chunk of these fields.
    """
    body = decompress(chunk)
    reader = _Reader(body)
    version, rows, count = _HEAD.unpack(reader.take(_HEAD.size).tobytes())
    if version != VERSION or count > len(fields):
        raise FormatError("a chunk of a newer format: upgrade")
    arrays: list[pa.Array] = []
    for position, f in enumerate(fields):
        arrays.extend(_decode_column(reader, f, rows) if position < count else _nulls(f, rows))
    if reader.at != len(body):
        raise FormatError("a chunk goes on after its last field")
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(fields))


def _nulls(field: Field, rows: int) -> list[pa.Array]:
    first = pa.nulls(rows, ARROW[field.kind])
    return [first, pa.nulls(rows, pa.string())] if field.kind is Kind.NUMBER else [first]


def _decode_column(reader: _Reader, field: Field, rows: int) -> list[pa.Array]:
    head = reader.byte()
    encoding = head & 0x0F
    if encoding == _NULLS:
        return _nulls(field, rows)
    bitmap = pa.py_buffer(reader.take((rows + 7) // 8)) if head & _VALID else None
    if encoding == _TEXT and field.kind is Kind.TEXT:
        return [_decode_plain(reader, rows, bitmap)]
    if encoding == _DICT and field.kind is Kind.TEXT:
        return [_decode_dictionary(reader, rows, bitmap)]
    if (encoding == _INTS and field.kind not in (Kind.TEXT, Kind.NUMBER)) or (
        encoding == _NUMBERS and field.kind is Kind.NUMBER
    ):
        scale, width, base = _INT_HEAD.unpack(reader.take(_INT_HEAD.size).tobytes())
        if scale >= len(_POWERS):
            raise FormatError("a scale out of range")
        values = reader.planes(rows, width).view(np.int64)
        if head & _DELTA:
            np.cumsum(values, out=values)
        values += base
        if scale:
            values *= _POWERS[scale]
        made = pa.Array.from_buffers(ARROW[field.kind], rows, [bitmap, pa.py_buffer(values)])
        return [made, _decode_exceptions(reader, rows)] if encoding == _NUMBERS else [made]
    raise FormatError(f"field {field.name} has an encoding that is not of its kind")


def _decode_plain(reader: _Reader, rows: int, bitmap: pa.Buffer | None) -> pa.Array:
    lengths = reader.planes(rows, reader.byte()).view(np.int64)
    data = reader.take(reader.u32())
    return _strings(lengths, data, bitmap)


def _strings(lengths: npt.NDArray[np.int64], data: Bytes, bitmap: pa.Buffer | None) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    if len(lengths) and (int(lengths.min()) < 0 or int(lengths.max()) > len(data)):
        raise FormatError("a text is longer than its column")
    ends = np.cumsum(lengths)
    if (int(ends[-1]) if len(ends) else 0) != len(data):
        raise FormatError("text lengths do not add up")
    offsets[1:] = ends
    return pa.Array.from_buffers(pa.string(), len(lengths), [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)])


def _decode_dictionary(reader: _Reader, rows: int, bitmap: pa.Buffer | None) -> pa.Array:
    count = int.from_bytes(reader.take(2).tobytes(), "little") + 1
    lengths = reader.u32s(count)
    words = _strings(lengths, reader.take(reader.u32()), None)
    codes = reader.planes(rows, reader.byte())
    if rows and int(codes.max()) >= count:
        raise FormatError("a code outside its dictionary")
    indices = pa.Array.from_buffers(pa.int32(), rows, [bitmap, pa.py_buffer(codes.astype(np.int32))])
    return words.take(indices)


def _decode_exceptions(reader: _Reader, rows: int) -> pa.Array:
    count = reader.u32()
    if count == 0:
        return pa.nulls(rows, pa.string())
    at = reader.u32s(count)
    lengths = reader.u32s(count)
    data = reader.take(reader.u32())
    if count > rows or int(at.max()) >= rows or (count > 1 and not bool((at[1:] > at[:-1]).all())):
        raise FormatError("an exception outside its rows")
    full = np.zeros(rows, np.int64)
    full[at] = lengths
    there = np.zeros(rows, np.bool_)
    there[at] = True
    return _strings(full, data, pa.py_buffer(np.packbits(there, bitorder="little")))
