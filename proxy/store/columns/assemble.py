"""Many chunks of one class as one set of columns: each value is written once, to where it stays.

Joining a record batch per chunk would make, and then copy, an Arrow array for every column of every chunk; of a chunk
of 2,048 rows that is most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxy.store.columns.decode import Chunk, Column
from proxy.store.columns.form import ARROW, DICT, POWERS, TEXT
from proxy.store.planes import FormatError, spread
from schema.fields import Field, Kind

Mask = npt.NDArray[np.bool_]


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
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    found = [{} if isinstance(c, int) else c.by_name() for c in chunks]
    out: dict[str, pa.Array] = {}
    for field in fields:
        columns = [f.get(field.name) for f in found]
        if not any(columns):
            continue
        column = _Assembly(field, columns, edges)
        if (made := column.array(coded)) is not None:
            out[field.name] = made
        if field.kind is Kind.NUMBER and (raw := column.raws()) is not None:
            out[field.name + "_raw"] = raw
    return out


class _Assembly:
    """One field of all chunks."""

    def __init__(self, field: Field, columns: Sequence[Column | None], edges: Sequence[int]) -> None:
        self._field = field
        self._rows = edges[-1]
        self._parts = [(c, edges[i], edges[i + 1]) for i, c in enumerate(columns) if c is not None]
        self._valid = self._validity(edges)

    def _validity(self, edges: Sequence[int]) -> Mask | None:
        covered = sum(stop - start for _, start, stop in self._parts)
        if covered == self._rows and all(c.valid is None for c, _, _ in self._parts):
            return None
        valid = np.zeros(self._rows, np.bool_)
        for column, start, stop in self._parts:
            valid[start:stop] = True if column.valid is None else column.mask()
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
        return self._texts()

    def _made(self, kind: pa.DataType, values: npt.NDArray[np.int64 | np.int32 | np.int16]) -> pa.Array:
        return pa.Array.from_buffers(kind, self._rows, [self._bitmap(), pa.py_buffer(values)])

    def _bitmap(self) -> pa.Buffer | None:
        return None if self._valid is None else pa.py_buffer(np.packbits(self._valid, bitorder="little"))

    def _ints(self) -> npt.NDArray[np.int64]:
        words = np.zeros(self._rows, np.uint64)
        values = words.view(np.int64)
        for column, start, stop in self._parts:
            place = column.place
            spread(column.planes, words[start:stop], place.width)
            part = values[start:stop]
            if place.delta:
                np.cumsum(part, out=part)
            if place.base:
                part += place.base
            if place.scale:
                part *= POWERS[place.scale]
        return values

    def _coded(self) -> pa.DictionaryArray:
        """One dictionary for all chunks: their words are few, and mostly the same."""
        few = sum(c.place.entries for c, _, _ in self._parts) < 1 << 15
        kind = np.int16 if few else np.int32
        codes: npt.NDArray[np.int16 | np.int32] = np.zeros(self._rows, kind)
        words: dict[bytes, int] = {}
        seen: dict[tuple[bytes, bytes], npt.NDArray[np.int16 | np.int32]] = {}
        for column, start, stop in self._parts:
            known = seen.get(column.dictionary)
            if known is None:
                known = seen[column.dictionary] = np.array(
                    [words.setdefault(w, len(words)) for w in column.words()], kind
                )
            if not column.place.width:
                codes[start:stop] = known[0]
            elif known[-1] == len(known) - 1 and (known[1:] > known[:-1]).all():
                codes[start:stop] = column.codes()  # the chunk's codes are ours: it brought the first words
            else:
                codes[start:stop] = known[column.codes()]
        try:
            spelled = pa.array([w.decode() for w in words], pa.string())
        except UnicodeDecodeError as error:
            raise FormatError("a text is not UTF-8") from error
        indices = self._made(pa.int16() if few else pa.int32(), codes)
        return pa.DictionaryArray.from_arrays(indices, spelled, safe=False)

    def _texts(self) -> pa.Array:
        offsets = np.zeros(self._rows + 1, np.int32)
        lengths = offsets[1:]
        data = []
        for column, start, stop in self._parts:
            texts = column.texts if column.place.encoding == TEXT else column.spelled()
            lengths[start:stop] = texts.lengths
            data.append(texts.data)
        np.cumsum(offsets, out=offsets)
        joined = data[0] if len(data) == 1 else np.concatenate(data)
        buffers = [self._bitmap(), pa.py_buffer(offsets), pa.py_buffer(joined)]
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
