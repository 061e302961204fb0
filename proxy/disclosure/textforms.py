"""CSV (RFC 4180) and NDJSON, a block at a time: one join over whole columns, in which null columns cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxy.disclosure.coding import Buffer
from proxy.disclosure.rendering import Column, Fixed, array_of, even, literal
from schema.fields import Field, Kind

_CSV_SPECIAL: Final = (b'"', b",", b"\r", b"\n")
_FREE_TEXT: Final = (Kind.TEXT, Kind.NUMBER)
"""Kinds whose text came from a switch and may hold anything; the others are digits and punctuation of our own."""


class Csv:
    """Comma-separated, CRLF, quoted only where needed."""

    def __init__(self, fields: Sequence[Field]) -> None:
        """Write these fields."""
        self._fields = fields

    def begin(self) -> bytes:
        """The header line."""
        return (",".join(f.name for f in self._fields) + "\r\n").encode()

    def block(self, columns: Mapping[str, Column]) -> Buffer:
        """Some records."""
        cells = [self._cell(field, columns[field.name]) for field in self._fields]
        if isinstance(cells[-1], str):
            cells[-1] += "\r\n"
        elif isinstance(cells[-1], Fixed):
            cells[-1] = cells[-1].with_text("\r\n")
        else:  # the line's end goes to its last column: a join of its own would copy every line again
            cells[-1] = _join([cells[-1], literal("\r\n")], "")
        parts = [
            literal(part) if isinstance(part, str) else array_of(part)
            for constant, run in groupby(cells, lambda cell: not isinstance(cell, pa.Array))
            for part in ([_merged(list(run))] if constant else run)
        ]
        return _lines(_join(parts, ","), len(columns[self._fields[0].name]))

    def _cell(self, field: Field, column: Column) -> Column | str:
        """A column as it is written; as a string where it is the same in every record."""
        if isinstance(column, Fixed):
            return column
        if column.null_count == len(column):
            return ""
        if field.kind not in _FREE_TEXT:
            return even(column)
        if not pa.types.is_dictionary(column.type):
            return even(_csv_quoted(column))
        words = _csv_quoted(column.dictionary)
        if len(words) == 1 and not column.null_count:
            return words[0].as_py()
        return even(pa.DictionaryArray.from_arrays(column.indices, words))

    def end(self) -> bytes:
        """Nothing."""
        return b""


def _merged(run: Sequence[Fixed | str]) -> Fixed | str:
    """Cells next to each other whose width does not change, as one: a join costs by the columns it joins."""
    words = [cell for cell in run if isinstance(cell, str)]
    return ",".join(words) if len(words) == len(run) else Fixed.beside(run, ",")


def _join(parts: Sequence[pa.Array | pa.Scalar], separator: str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, literal(separator), null_handling="replace", null_replacement="")


def _spelled(column: pa.Array, escape: Callable[[pa.Array], pa.Array]) -> pa.Array | pa.Scalar:
    """Return a text column escaped; where it is coded, its few words are, and one word alone stands for them all."""
    if not pa.types.is_dictionary(column.type):
        return escape(column)
    words = escape(column.dictionary)
    if len(words) == 1 and not column.null_count:
        return words[0]
    return pa.DictionaryArray.from_arrays(column.indices, words).cast(pa.string())


def _csv_quoted(column: pa.Array) -> pa.Array:
    data = _bytes(column)
    if not any(mark in data for mark in _CSV_SPECIAL):
        return column
    quoted = _quoted(pc.replace_substring(column, '"', '""'), '"')
    return pc.if_else(pc.match_substring_regex(column, '[",\r\n]'), quoted, column)


class Ndjson:
    """One JSON object a line; every field stands in it, null where it has no value."""

    def __init__(self, fields: Sequence[Field]) -> None:
        """Write these fields."""
        self._fields = fields

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def block(self, columns: Mapping[str, Column]) -> Buffer:
        """Some records."""
        parts: list[pa.Array | pa.Scalar] = []
        text = "{"
        for position, field in enumerate(self._fields):
            column = array_of(columns[field.name])
            text += ("," if position else "") + json.dumps(field.name) + ":"
            if column.null_count == len(column):
                text += "null"
                continue
            quote = "" if pa.types.is_integer(column.type) else '"'
            value = _spelled(column, _json_escaped) if field.kind in _FREE_TEXT else _text(column)
            if column.null_count:
                value = pc.coalesce(_quoted(value, quote), literal("null"))
                quote = ""
            parts += [literal(text + quote), value]
            text = quote
        return _lines(pc.binary_join_element_wise(*parts, literal(text + "}\n"), literal("")), len(column))

    def end(self) -> bytes:
        """Nothing."""
        return b""


def _json_escaped(column: pa.Array) -> pa.Array:
    """Escape what RFC 8259 s.7 says must be."""
    data = _bytes(column)
    view = np.frombuffer(data, np.uint8)
    if len(view) and (b'"' in data or b"\\" in data or int(view.min()) < 0x20):
        column = pc.replace_substring(column, "\\", "\\\\")
        column = pc.replace_substring(column, '"', '\\"')
        for code in np.unique(view[view < 0x20]).tolist():
            column = pc.replace_substring(column, chr(code), f"\\u{code:04x}")
    return column


def _quoted(column: pa.Array, quote: str) -> pa.Array:
    return pc.binary_join_element_wise(literal(quote), column, literal(quote), literal(""))


def _text(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _lines(joined: pa.Array | pa.Scalar, rows: int) -> Buffer:
    """The bytes of all lines; where no column differs from row to row the join has given one line for all."""
    return joined.as_py().encode() * rows if isinstance(joined, pa.Scalar) else _view(joined)


def _bytes(column: pa.Array) -> bytes:
    return bytes(_view(column))


def _view(column: pa.Array) -> memoryview:
    """The texts of a column, one after another, where they lie."""
    _, offsets, data = column.buffers()
    if data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
    return memoryview(data)[ends[0] : ends[-1]]
