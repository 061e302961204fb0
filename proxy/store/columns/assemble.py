"""Many chunks of one class as one set of columns: each value is written once, to where it stays.

A column's planes are joined over all chunks first and opened as one: a step of its own for each of a few dozen chunks
and columns would cost more than the bytes do. Joining a record batch per chunk would make, and then copy, an Arrow
array for every column of every chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxy.store.columns.decode import Chunk, Column
from proxy.store.columns.form import ARROW, DICT, POWERS, TEXT
from proxy.store.planes import Bytes, FormatError, Words, from_planes
from schema.fields import Field, Kind

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int16 | np.int32]


def assemble(chunks: Sequence[Chunk | int], fields: Sequence[Field], *, coded: bool = False) -> dict[str, pa.Array]:
    """Return the columns of chunks one below the other; a column that is null throughout is left out.

    Args:
        chunks: chunks of one class; a number stands for so many rows without any value.
        fields: all fields of the class.
        coded: leave text that is stored by dictionaries as a dictionary array.

    Raises:
        FormatError: if a chunk does not hold what the format says.
    """
    sizes = [c if isinstance(c, int) else c.rows for c in chunks]
    found = [{} if isinstance(c, int) else c.by_name() for c in chunks]
    out: dict[str, pa.Array] = {}
    for field in fields:
        columns = [f.get(field.name) for f in found]
        if not any(columns):
            continue
        column = _Assembly(field, columns, sizes)
        if (made := column.array(coded)) is not None:
            out[field.name] = made
        if field.kind is Kind.NUMBER and (raw := column.raws()) is not None:
            out[field.name + "_raw"] = raw
    return out


class _Assembly:
    """One field of all chunks."""

    def __init__(self, field: Field, columns: Sequence[Column | None], sizes: Sequence[int]) -> None:
        self._field = field
        self._columns = columns
        self._sizes = sizes
        self._edges = [0, *accumulate(sizes)]
        self._rows = self._edges[-1]
        spans = zip(columns, pairwise(self._edges), strict=True)
        self._parts = [(c, start, stop) for c, (start, stop) in spans if c is not None]
        self._valid = self._validity()

    def _validity(self) -> Mask | None:
        if len(self._parts) == len(self._columns) and not any(c.place.valid for c, _, _ in self._parts):
            return None
        valid = np.zeros(self._rows, np.bool_)
        for column, start, stop in self._parts:
            valid[start:stop] = column.mask() if column.place.valid else True
        return valid

    def array(self, coded: bool) -> pa.Array | None:
        if self._valid is not None and not self._valid.any():
            return None
        if self._field.kind is not Kind.TEXT:
            return self._made(ARROW[self._field.kind], self._ints())
        encodings = {c.place.encoding for c, _, _ in self._parts}
        if encodings == {DICT}:
            made = self._coded()
            return made if coded else made.cast(pa.string())
        return self._texts() if encodings == {TEXT} else self._spelled()

    def _made(self, kind: pa.DataType, values: npt.NDArray[np.int64 | np.int32 | np.int16]) -> pa.Array:
        return pa.Array.from_buffers(kind, self._rows, [self._bitmap(), pa.py_buffer(values)])

    def _bitmap(self) -> pa.Buffer | None:
        return None if self._valid is None else pa.py_buffer(np.packbits(self._valid, bitorder="little"))

    def _planes(self) -> tuple[Bytes, int]:
        """Join the planes of all chunks, each plane of the widest over all rows; return them and their number."""
        width = max(c.place.width for c, _, _ in self._parts)
        parts: list[memoryview | bytes] = []
        for plane in range(width):
            for column, rows in zip(self._columns, self._sizes, strict=True):
                if column is None or plane >= column.place.width:
                    parts.append(bytes(rows))
                else:
                    parts.append(column.cut(column.place.planes + plane * rows, rows))
        return np.frombuffer(b"".join(parts), np.uint8), width

    def _words(self) -> Words:
        planes, width = self._planes()
        return from_planes(planes, self._rows, width)

    def _spread(self, of: Callable[[Column], int]) -> Ints | int:
        """Return what each chunk says of its rows: one number where all say the same."""
        values = [0 if c is None else of(c) for c in self._columns]
        if len({v for v, c in zip(values, self._columns, strict=True) if c is not None}) == 1:
            return of(self._parts[0][0])
        return np.repeat(np.array(values, np.int64), self._sizes)

    def _ints(self) -> Ints:
        values = self._words().view(np.int64)
        for column, start, stop in self._parts:
            if column.place.delta:
                np.cumsum(values[start:stop], out=values[start:stop])
        base = self._spread(lambda c: c.place.base)
        if not isinstance(base, int) or base:
            values += base
        scale = self._spread(lambda c: c.place.scale)
        if not isinstance(scale, int) or scale:
            values *= POWERS[scale]
        return values

    def _coded(self) -> pa.DictionaryArray:
        """One dictionary for all chunks: their words are few, and mostly the same."""
        few = sum(c.place.entries for c, _, _ in self._parts) < 1 << 15
        kind = np.int16 if few else np.int32
        words: dict[bytes, int] = {}
        if len({c.dictionary for c, _, _ in self._parts}) == 1:
            codes, words = self._same(kind)
        else:
            codes = np.zeros(self._rows, kind)
            for column, start, stop in self._parts:
                known = np.array([words.setdefault(w, len(words)) for w in column.words()], kind)
                codes[start:stop] = known[column.codes()] if column.place.width else known[0]
        try:
            spelled = pa.array([w.decode() for w in words], pa.string())
        except UnicodeDecodeError as error:
            raise FormatError("a text is not UTF-8") from error
        indices = self._made(pa.int16() if few else pa.int32(), codes)
        return pa.DictionaryArray.from_arrays(indices, spelled, safe=False)

    def _same(self, kind: type[np.int16 | np.int32]) -> tuple[Codes, dict[bytes, int]]:
        """Codes of chunks that have the same dictionary, each of whose words stands in it once."""
        first = self._parts[0][0]
        planes, width = self._planes()
        codes = planes if width == 1 else from_planes(planes, self._rows, width)
        if len(codes) and int(codes.max()) >= first.place.entries:
            raise FormatError("a code outside its dictionary")
        words: dict[bytes, int] = {}
        known: Codes = np.array([words.setdefault(w, len(words)) for w in first.words()], kind)
        made = np.empty(self._rows, kind)
        made[:] = codes if len(words) == len(known) else known[codes]
        return made, words

    def _texts(self) -> pa.Array:
        lengths = self._words()
        sizes = [0 if c is None else c.place.size for c in self._columns]
        if len(lengths) and int(lengths.max()) > max(sizes):  # each length is looked at too: a sum may wrap around
            raise FormatError("a text is longer than its column")
        offsets = np.zeros(self._rows + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:].view(np.uint64))
        if offsets[self._edges].tolist() != [0, *accumulate(sizes)]:
            raise FormatError("text lengths do not add up")
        joined = b"".join([c.cut(c.place.data, c.place.size) for c, _, _ in self._parts])
        return self._strings(offsets.astype(np.int32), joined)

    def _spelled(self) -> pa.Array:
        """Text of which some chunks are coded and some are not."""
        offsets = np.zeros(self._rows + 1, np.int32)
        data = []
        for column, start, stop in self._parts:
            texts = column.texts if column.place.encoding == TEXT else column.spelled()
            offsets[1 + start : 1 + stop] = texts.lengths
            data.append(texts.data)
        np.cumsum(offsets, out=offsets)
        return self._strings(offsets, np.concatenate(data))

    def _strings(self, offsets: npt.NDArray[np.int32], data: bytes | Bytes) -> pa.Array:
        buffers = [self._bitmap(), pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), self._rows, buffers)

    def raws(self) -> pa.Array | None:
        """The exceptions of a number column."""
        if not any(len(c.raw_rows) for c, _, _ in self._parts):
            return None
        offsets = np.zeros(self._rows + 1, np.int32)
        valid = np.zeros(self._rows, np.bool_)
        data = []
        for column, start, _ in self._parts:
            if len(column.raw_rows):
                offsets[1 + start + column.raw_rows] = column.texts.lengths
                valid[start + column.raw_rows] = True
                data.append(column.texts.data)
        np.cumsum(offsets, out=offsets)
        bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
        buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(np.concatenate(data))]
        return pa.Array.from_buffers(pa.string(), self._rows, buffers)
