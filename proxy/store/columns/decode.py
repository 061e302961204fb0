"""Reading chunks: whole, as columns; or, for a look-up, only the rows in which a number stands.

A chunk is parsed into the places of its fields first, which copies nothing. Nothing is read outside the body: what does
not fit is a :class:`FormatError`. A look-up takes one row out of some fifty chunks, so a row is taken by plain
arithmetic on the bytes: numpy's cost a call, twenty-five columns to the row, would be most of the look-up.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from proxy.store.columns.form import (
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
)
from proxy.store.planes import Bytes, FormatError, decompress, from_planes
from schema.fields import Field, Kind

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

FEW = 8
"""Up to so many rows of a chunk are taken one by one; more, whole columns at a time."""


class _Place(NamedTuple):
    """Where the parts of one field lie in the body."""

    encoding: int
    delta: bool
    valid: int
    """Offset of the validity bitmap; 0 if every row has a value."""
    planes: int
    width: int
    scale: int
    base: int
    entries: int
    """Words of the dictionary, or exceptions."""
    lists: int
    """Offset of the dictionary's lengths, or of the exceptions' rows."""
    data: int
    size: int
    """Text: its offset and bytes."""
    end: int


def _place(body: bytes, at: int, kind: Kind, rows: int) -> _Place:
    head = body[at]
    encoding, valid = head & 0x0F, 0
    at += 1
    if head & VALID:
        valid = at
        at += (rows + 7) // 8
    planes = width = scale = base = count = lists = data = size = 0
    if encoding == TEXT and kind is Kind.TEXT:
        width, planes = body[at], at + 1
        at = planes + rows * width
        size, data = int.from_bytes(body[at : at + 4], "little"), at + 4
        at = data + size
    elif encoding == DICT and kind is Kind.TEXT:
        count, lists = int.from_bytes(body[at : at + 2], "little") + 1, at + 2
        at = lists + 4 * count
        size, data = int.from_bytes(body[at : at + 4], "little"), at + 4
        at = data + size
        width, planes = body[at], at + 1
        at = planes + rows * width
    elif encoding == (NUMBERS if kind is Kind.NUMBER else INTS) and kind is not Kind.TEXT:
        scale, width, base = INT_HEAD.unpack_from(body, at)
        planes = at + INT_HEAD.size
        at = planes + rows * width
        if encoding == NUMBERS:
            count, lists = int.from_bytes(body[at : at + 4], "little"), at + 4
            at = lists
            if count:
                at += 8 * count
                size, data = int.from_bytes(body[at : at + 4], "little"), at + 4
                at = data + size
    else:
        raise FormatError("a field has an encoding that is not of its kind")
    if at > len(body):
        raise FormatError("a chunk ends before its last field")
    if width > 8 or scale >= len(POWERS):
        raise FormatError("a width or a scale out of range")
    return _Place(encoding, bool(head & DELTA), valid, planes, width, scale, base, count, lists, data, size, at)


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
        places: list[tuple[Field, _Place]] = []
        try:
            version, self.rows, count = HEAD.unpack_from(body)
            if version != VERSION or count > len(fields):
                raise FormatError("a chunk of a newer format: upgrade")
            if self.rows > MAX_ROWS:
                raise FormatError("a chunk claims too many rows")
            at = HEAD.size
            for field in fields[:count]:
                if body[at] & 0x0F == NULLS:
                    at += 1
                    continue
                place = _place(body, at, field.kind, self.rows)
                at = place.end
                places.append((field, place))
        except (struct.error, IndexError) as error:
            raise FormatError("a chunk ends before its last field") from error
        if at != len(body):
            raise FormatError("a chunk goes on after its last field")
        self._body, self._fields, self._places = body, fields, places

    def by_name(self) -> dict[str, Column]:
        """Return the columns that are not null throughout."""
        return {field.name: Column(self._body, field, place, self.rows) for field, place in self._places}

    def find(self, value: int | str) -> Ints:
        """Return the rows in which a number stands in any number field: an integer for E.164 digits, else raw text."""
        hits = [c.find(value) for c in self.by_name().values() if c.field.kind is Kind.NUMBER]
        return np.unique(np.concatenate(hits)) if hits else _NONE

    def take(self, rows: Ints, only: Collection[str] | None = None) -> dict[str, list[Any]]:
        """Return the values of some rows, column by column; columns that are null throughout are left out.

        Args:
            only: names of the only fields wanted; None: all.
        """
        out: dict[str, list[Any]] = {}
        places = self._places if only is None else [(f, p) for f, p in self._places if f.name in only]
        if len(rows) <= FEW:
            wanted = rows.tolist()
            for field, place in places:
                if place.delta and len(wanted) > 1:  # a sum for each row costs as much as all sums
                    out[field.name] = Column(self._body, field, place, self.rows).take(rows)
                else:
                    out[field.name] = [_value(self._body, place, field.kind, self.rows, row) for row in wanted]
        else:
            out = {f.name: Column(self._body, f, p, self.rows).take(rows) for f, p in places}
        for column in (Column(self._body, f, p, self.rows) for f, p in places if f.kind is Kind.NUMBER):
            if len(column.raw_rows):
                out[column.field.name + "_raw"] = column.take_raw(rows)
        return out


def _value(body: bytes, place: _Place, kind: Kind, rows: int, row: int) -> int | str | None:
    """Return one value of one row."""
    if place.valid and not body[place.valid + (row >> 3)] >> (row & 7) & 1:
        return None
    if place.encoding == TEXT:
        start, length = _total(body, place, rows, row), _word(body, place, rows, row)
        if length > place.size or start + length > place.size:
            raise FormatError("a text is longer than its column")
        return _decoded(body[place.data + start : place.data + start + length])
    if place.encoding == DICT:
        code = _word(body, place, rows, row)
        if code >= place.entries:
            raise FormatError("a code outside its dictionary")
        lengths = struct.unpack_from(f"<{code + 1}I", body, place.lists)
        start = sum(lengths[:-1])
        if start + lengths[-1] > place.size:
            raise FormatError("a text is longer than its column")
        return _decoded(body[place.data + start : place.data + start + lengths[-1]])
    raw = _total(body, place, rows, row + 1) if place.delta else _word(body, place, rows, row)
    value = (raw + place.base) * int(POWERS[place.scale])
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)  # as int64 arithmetic has it


def _word(body: bytes, place: _Place, rows: int, row: int) -> int:
    """The integer of one row, from its planes."""
    value = 0
    for plane in range(place.width):
        value |= body[place.planes + plane * rows + row] << 8 * plane
    return value


def _total(body: bytes, place: _Place, rows: int, stop: int) -> int:
    """The sum of the integers of the rows before ``stop``."""
    sums = (
        int(np.frombuffer(body, np.uint8, stop, place.planes + plane * rows).sum(dtype=np.uint64)) << 8 * plane
        for plane in range(place.width)
    )
    return sum(sums)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError("a text is not UTF-8") from error


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

    def take(self, rows: list[int]) -> list[str]:
        ends = np.cumsum(self.lengths)
        whole = self.data.tobytes()
        return [_decoded(whole[int(ends[i] - self.lengths[i]) : int(ends[i])]) for i in rows]


class Column:
    """One field of a chunk, as whole columns."""

    def __init__(self, body: bytes, field: Field, place: _Place, rows: int) -> None:
        self.field, self.place, self.rows = field, place, rows
        self._body = body
        self.raw_rows: Ints = _NONE
        if place.encoding == NUMBERS and place.entries:
            self.raw_rows = self._u32s(place.lists)
            steps = np.diff(self.raw_rows)
            if int(self.raw_rows[-1]) >= rows or (len(steps) and int(steps.min()) < 1):
                raise FormatError("an exception outside its rows")

    @cached_property
    def planes(self) -> Bytes:
        """The planes of a column of integers, of lengths or of codes: (width * rows)."""
        return np.frombuffer(self._body, np.uint8, self.rows * self.place.width, self.place.planes)

    @cached_property
    def valid(self) -> Bytes | None:
        """The validity bitmap; None if every row has a value."""
        place = self.place
        return np.frombuffer(self._body, np.uint8, (self.rows + 7) // 8, place.valid) if place.valid else None

    def cut(self, start: int, size: int) -> memoryview:
        """Return bytes of the body as they stand."""
        return memoryview(self._body)[start : start + size]

    def _u32s(self, at: int) -> Ints:
        return np.frombuffer(self._body, "<u4", self.place.entries, at).astype(np.int64)

    @cached_property
    def texts(self) -> _Texts:
        """The values of a text column, the words of its dictionary, or a number's exceptions."""
        place = self.place
        data = np.frombuffer(self._body, np.uint8, place.size, place.data)
        if place.encoding == TEXT:
            return _Texts(self._words().view(np.int64), data)
        return _Texts(self._u32s(place.lists + (4 * place.entries if place.encoding == NUMBERS else 0)), data)

    def _words(self) -> Words:
        return from_planes(self.planes, self.rows, self.place.width)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value."""
        return np.ones(self.rows, np.bool_) if self.valid is None else _bits(self.valid, self.rows)

    def codes(self) -> Bytes | Words:
        """A coded column's codes."""
        codes = self.planes if self.place.width == 1 else self._words()
        if len(codes) and int(codes.max()) >= self.place.entries:
            raise FormatError("a code outside its dictionary")
        return codes

    @property
    def dictionary(self) -> tuple[bytes, bytes]:
        """A coded column's dictionary as it is stored: the chunks of a batch mostly have the same."""
        place = self.place
        return self._body[place.lists : place.lists + 4 * place.entries], self._body[
            place.data : place.data + place.size
        ]

    def words(self) -> list[bytes]:
        """A coded column's dictionary."""
        ends = np.cumsum(self.texts.lengths).tolist()
        whole = self.texts.data.tobytes()
        return [whole[start:end] for start, end in pairwise([0, *ends])]

    def spelled(self) -> _Texts:
        """A coded column's values, spelled out."""
        words, codes = self.words(), self.codes()
        data = b"".join([words[c] for c in codes.tolist()])
        return _Texts(self.texts.lengths[codes], np.frombuffer(data, np.uint8))

    def _ints(self) -> Ints:
        values = self._words().view(np.int64)
        if self.place.delta:
            np.cumsum(values, out=values)
        if self.place.base:
            values += self.place.base
        if self.place.scale:
            values *= POWERS[self.place.scale]
        return values

    def find(self, value: int | str) -> Ints:
        """Rows of a number column that hold ``value``."""
        if isinstance(value, str):
            if not len(self.raw_rows):
                return _NONE
            texts = self.texts.take(list(range(len(self.raw_rows))))
            return self.raw_rows[[t == value for t in texts]]
        wanted = value - self.place.base
        if not 0 <= wanted < 1 << (8 * self.place.width):
            return _NONE
        mask = self.mask()
        for plane in range(self.place.width):  # compared plane by plane: the words need not be put together
            mask &= self.planes[plane * self.rows : (plane + 1) * self.rows] == wanted >> (8 * plane) & 0xFF
        return np.flatnonzero(mask)

    def take(self, rows: Ints) -> list[Any]:
        """Values of some rows, in Python's types; None where null."""
        if self.place.encoding == TEXT:
            values: list[Any] = self.texts.take(rows.tolist())
        elif self.place.encoding == DICT:
            values = self.texts.take(self.codes()[rows].tolist())
        else:
            values = self._ints()[rows].tolist()
        if self.valid is None:
            return values
        return [v if ok else None for v, ok in zip(values, _bits(self.valid, self.rows)[rows].tolist(), strict=True)]

    def take_raw(self, rows: Ints) -> list[str | None]:
        """Raw texts of some rows."""
        texts = dict(zip(self.raw_rows.tolist(), self.texts.take(list(range(len(self.raw_rows)))), strict=True))
        return [texts.get(i) for i in rows.tolist()]


_NONE: Ints = np.empty(0, np.int64)


def _bits(bitmap: Bytes, rows: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bitmap, count=rows, bitorder="little").view(np.bool_)
