"""Reading chunks: whole, as columns; or, for a look-up, only the rows in which a number stands.

A chunk is parsed into views of its fields first, which costs no copy. Nothing is read outside the body: every array is
made within its bounds, and whatever does not fit is a :class:`FormatError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxy.store.columns.form import (
    ARROW,
    DELTA,
    DICT,
    HEAD,
    INT_HEAD,
    INTS,
    MAX_ROWS,
    NULLS,
    NUMBERS,
    POWERS,
    TEXT,
    VALID,
    VERSION,
    arrow_schema,
)
from proxy.store.planes import Bytes, FormatError, decompress, from_planes
from schema.fields import Field, Kind

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class Chunk:
    """A chunk that was decrypted and is being read."""

    def __init__(self, frame: bytes | memoryview, fields: tuple[Field, ...]) -> None:
        """Parse a chunk.

        Args:
            frame: what ``encode`` returned.
            fields: all fields of the class, in canonical order.

        Raises:
            FormatError: if the bytes are not a chunk of these fields.
        """
        body = decompress(frame)
        try:
            version, self.rows, count = HEAD.unpack_from(body)
            if version != VERSION or count > len(fields):
                raise FormatError("a chunk of a newer format: upgrade")
            if self.rows > MAX_ROWS:
                raise FormatError("a chunk claims too many rows")
            at = HEAD.size
            self._columns: list[_Column] = []
            for field in fields[:count]:
                column = _Column(body, at, field, self.rows)
                self._columns.append(column)
                at = column.end
        except (struct.error, IndexError, ValueError) as error:
            raise FormatError("a chunk ends before its last field") from error
        if at != len(body):
            raise FormatError("a chunk goes on after its last field")
        self._fields = fields

    def columns(self, *, coded: bool = False) -> dict[str, pa.Array]:
        """Return every column that is not null throughout.

        Args:
            coded: leave text that is stored by a dictionary as dictionary arrays.
        """
        out: dict[str, pa.Array] = {}
        for column in self._columns:
            if column.encoding == NULLS:
                continue
            if column.width or column.valid is None or column.valid.any():
                out[column.field.name] = column.array(coded)
            if len(column.raw_rows):
                out[column.field.name + "_raw"] = column.raw_array()
        return out

    def batch(self) -> pa.RecordBatch:
        """Return everything as a record batch of the schema of ``arrow_schema``."""
        found = self.columns()
        schema = arrow_schema(self._fields)
        arrays = [found[f.name] if f.name in found else pa.nulls(self.rows, f.type) for f in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def find(self, value: int | str) -> npt.NDArray[np.int64]:
        """Return the rows in which a number stands in any number field: an integer for E.164 digits, else raw text."""
        hits = [c.find(value) for c in self._columns if c.field.kind is Kind.NUMBER]
        return np.unique(np.concatenate(hits)) if hits else np.empty(0, np.int64)

    def take(self, rows: npt.NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the values of some rows, column by column; columns that are null throughout are left out."""
        out: dict[str, list[Any]] = {}
        for column in self._columns:
            if column.encoding == NULLS:
                continue
            out[column.field.name] = column.take(rows)
            if column.field.kind is Kind.NUMBER and len(column.raw_rows):
                out[column.field.name + "_raw"] = column.take_raw(rows)
        return out


def decode(frame: bytes | memoryview, fields: tuple[Field, ...]) -> pa.RecordBatch:
    """Open one chunk whole. Arguments and errors as of :class:`Chunk`."""
    return Chunk(frame, fields).batch()


@dataclass(slots=True)
class _Texts:
    """Some strings, one after another."""

    lengths: Ints
    data: Bytes

    def __post_init__(self) -> None:
        size = len(self.data)  # each length is looked at too: a sum may wrap around
        if len(self.lengths) and not 0 <= int(self.lengths.min()) <= int(self.lengths.max()) <= size:
            raise FormatError("a text is longer than its column")
        if int(self.lengths.sum()) != size:
            raise FormatError("text lengths do not add up")

    def array(self, bitmap: pa.Buffer | None = None) -> pa.Array:
        offsets = np.zeros(len(self.lengths) + 1, np.int32)
        np.cumsum(self.lengths, out=offsets[1:])
        buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.string(), len(self.lengths), buffers)

    def take(self, rows: list[int]) -> list[str]:
        ends = np.cumsum(self.lengths)
        whole = self.data.tobytes()
        try:
            return [whole[int(ends[i] - self.lengths[i]) : int(ends[i])].decode() for i in rows]
        except UnicodeDecodeError as error:
            raise FormatError("a text is not UTF-8") from error


class _Column:
    """One field of a chunk: where its parts lie in the body."""

    def __init__(self, body: bytes, at: int, field: Field, rows: int) -> None:
        self.body, self.field, self.rows = body, field, rows
        head = body[at]
        at += 1
        self.encoding = head & 0x0F
        self.delta = bool(head & DELTA)
        self.valid: Bytes | None = None
        self.raw_rows: Ints = _NONE
        self.width = 0
        if head & VALID:
            self.valid = np.frombuffer(body, np.uint8, (rows + 7) // 8, at)
            at += len(self.valid)
        if self.encoding not in _OF_KIND[field.kind]:
            raise FormatError(f"field {field.name} has an encoding that is not of its kind")
        if self.encoding in (INTS, NUMBERS):
            self.scale, self.width, self.base = INT_HEAD.unpack_from(body, at)
            if self.scale >= len(POWERS):
                raise FormatError("a scale out of range")
            at = self._planes(at + INT_HEAD.size)
            if self.encoding == NUMBERS:
                at = self._exceptions(at)
        elif self.encoding == TEXT:
            self.width = body[at]
            at = self._data(self._planes(at + 1))
        elif self.encoding == DICT:
            count = int.from_bytes(body[at : at + 2], "little") + 1
            self.lengths = np.frombuffer(body, "<u4", count, at + 2)
            at = self._data(at + 2 + 4 * count)
            self.width = body[at]
            at = self._planes(at + 1)
        self.end = at

    def _planes(self, at: int) -> int:
        if self.width > 8:
            raise FormatError("a column is wider than 8 bytes")
        self.planes = np.frombuffer(self.body, np.uint8, self.rows * self.width, at)
        end: int = at + self.rows * self.width
        return end

    def _data(self, at: int) -> int:
        size = int.from_bytes(self.body[at : at + 4], "little")
        self.data = np.frombuffer(self.body, np.uint8, size, at + 4)
        return at + 4 + size

    def _words(self, rows: Ints | None = None) -> Words:
        if rows is None:
            return from_planes(self.planes, self.rows, self.width)
        return from_planes(self.planes.reshape(self.width, self.rows)[:, rows], len(rows), self.width)

    @cached_property
    def texts(self) -> _Texts:
        """The values of a text column, or the words of its dictionary."""
        lengths = self._words().view(np.int64) if self.encoding == TEXT else self.lengths.astype(np.int64)
        return _Texts(lengths, self.data)

    def _codes(self, rows: Ints | None = None) -> Words:
        codes = self._words(rows)
        if len(codes) and int(codes.max()) >= len(self.lengths):
            raise FormatError("a code outside its dictionary")
        return codes

    def _exceptions(self, at: int) -> int:
        count = int.from_bytes(self.body[at : at + 4], "little")
        at += 4
        if not count:
            return at
        self.raw_rows = np.frombuffer(self.body, "<u4", count, at).astype(np.int64)
        lengths = np.frombuffer(self.body, "<u4", count, at + 4 * count).astype(np.int64)
        at = self._data(at + 8 * count)
        self.raws = _Texts(lengths, self.data)
        steps = np.diff(self.raw_rows)
        if int(self.raw_rows[-1]) >= self.rows or (len(steps) and int(steps.min()) < 1):
            raise FormatError("an exception outside its rows")
        return at

    def _ints(self) -> Ints:
        values = self._words().view(np.int64)
        if self.delta:
            np.cumsum(values, out=values)
        if self.base:
            values += self.base
        if self.scale:
            values *= POWERS[self.scale]
        return values

    def array(self, coded: bool = False) -> pa.Array:
        bitmap = None if self.valid is None else pa.py_buffer(self.valid)
        if self.encoding == TEXT:
            return self.texts.array(bitmap)
        if self.encoding == DICT:
            return self._coded(bitmap) if coded else self._spelled(bitmap)
        return pa.Array.from_buffers(ARROW[self.field.kind], self.rows, [bitmap, pa.py_buffer(self._ints())])

    def _coded(self, bitmap: pa.Buffer | None) -> pa.DictionaryArray:
        indices = pa.Array.from_buffers(pa.int32(), self.rows, [bitmap, pa.py_buffer(self._codes().astype(np.int32))])
        return pa.DictionaryArray.from_arrays(indices, self.texts.array())

    def _spelled(self, bitmap: pa.Buffer | None) -> pa.Array:
        lengths = self.texts.lengths
        width = int(lengths[0])
        if not (lengths == width).all():
            return self._coded(bitmap).cast(pa.string())
        # Words of one length, as most codes are: their rows of a matrix, gathered.
        data = self.texts.data.reshape(len(lengths), width)[self._codes()]
        offsets = np.arange(0, (self.rows + 1) * width, width, dtype=np.int32) if width else _zeros(self.rows + 1)
        return pa.Array.from_buffers(pa.string(), self.rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)])

    def raw_array(self) -> pa.Array:
        lengths = np.zeros(self.rows, np.int64)
        lengths[self.raw_rows] = self.raws.lengths
        there = np.zeros(self.rows, np.bool_)
        there[self.raw_rows] = True
        return _Texts(lengths, self.raws.data).array(pa.py_buffer(np.packbits(there, bitorder="little")))

    def find(self, value: int | str) -> Ints:
        """Rows of a number column that hold ``value``."""
        if isinstance(value, str):
            if not len(self.raw_rows):
                return _NONE
            texts = self.raws.take(list(range(len(self.raw_rows))))
            return self.raw_rows[[t == value for t in texts]]
        if self.encoding == NULLS:
            return _NONE
        wanted = value - self.base
        if not 0 <= wanted < 1 << (8 * self.width) and not (wanted == 0 == self.width):
            return _NONE
        mask = np.ones(self.rows, np.bool_) if self.valid is None else _bits(self.valid, self.rows)
        for plane in range(self.width):  # compared plane by plane: the words need not be put together
            mask &= self.planes[plane * self.rows : (plane + 1) * self.rows] == wanted >> (8 * plane) & 0xFF
        return np.flatnonzero(mask)

    def take(self, rows: Ints) -> list[Any]:
        """Values of some rows, in Python's types; None where null."""
        if self.encoding == TEXT:
            values: list[Any] = self.texts.take(rows.tolist())
        elif self.encoding == DICT:
            values = self.texts.take(self._codes(rows).tolist())
        elif self.delta or not self.width:
            values = self._ints()[rows].tolist()
        else:
            values = ((self._words(rows).view(np.int64) + self.base) * POWERS[self.scale]).tolist()
        if self.valid is None:
            return values
        return [v if ok else None for v, ok in zip(values, _bits(self.valid, self.rows)[rows].tolist(), strict=True)]

    def take_raw(self, rows: Ints) -> list[str | None]:
        """Raw texts of some rows."""
        texts = dict(zip(self.raw_rows.tolist(), self.raws.take(list(range(len(self.raw_rows)))), strict=True))
        return [texts.get(i) for i in rows.tolist()]


_NONE: Ints = np.empty(0, np.int64)
_OF_KIND = dict.fromkeys(Kind, (NULLS, INTS)) | {Kind.TEXT: (NULLS, TEXT, DICT), Kind.NUMBER: (NULLS, NUMBERS)}


def _zeros(count: int) -> npt.NDArray[np.int32]:
    return np.zeros(count, np.int32)


def _bits(bitmap: Bytes, rows: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bitmap, count=rows, bitorder="little").view(np.bool_)
