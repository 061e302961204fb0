"""Answers as bytes: NDJSON, CSV, Arrow IPC stream and Parquet, a block of records at a time.

Whole columns at once: fixed-width text (ids, times, E.164 numbers) is put together from tables in numpy, lines by one
join in Arrow's compute library. The same records in the same pieces give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.disclosure import rendering
from proxy.disclosure.coding import Buffer
from proxy.disclosure.recordids import ID_BYTES, RecordIds
from proxy.disclosure.scope import RowBlock
from proxy.disclosure.textforms import Csv, Ndjson
from schema.fields import DECIMAL_SCALE, Field, Kind


class NotAcceptable(Exception):  # noqa: N818 - HTTP's own name for it
    """The client accepts none of the forms an answer can have."""


class MediaType(Enum):
    """The forms of an answer, in order of preference."""

    NDJSON = "application/x-ndjson"
    CSV = "text/csv"
    ARROW = "application/vnd.apache.arrow.stream"
    PARQUET = "application/vnd.apache.parquet"


def negotiate(accept: str | None) -> MediaType:
    """Choose the form by an Accept header (RFC 9110 s.12.5.1); no header, or ``*/*``, gives NDJSON.

    Raises:
        NotAcceptable: if none of ours is acceptable.
    """
    if accept is None or not accept.strip():
        return MediaType.NDJSON
    best: tuple[float, int, MediaType] | None = None
    ranges = [_range(part) for part in accept.split(",")]
    for order, media in enumerate(MediaType):
        main = media.value.split("/")[0]
        matching = [(len(r) - r.count("*"), q) for r, q in ranges if r in (media.value, main + "/*", "*/*")]
        if matching and (q := max(matching)[1]) > 0 and (best is None or (q, -order) > best[:2]):
            best = (q, -order, media)
    if best is None:
        raise NotAcceptable
    return best[2]


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (p.strip().lower() for p in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0


Block: TypeAlias = bytes | memoryview | pa.RecordBatch
"""Some records of one form, made ready to be written."""


Columns: TypeAlias = Mapping[str, rendering.Column]
"""Some records by field, in the order of the answer."""


class _Form(Protocol):
    """One form of answer."""

    def begin(self) -> bytes: ...

    def block(self, columns: Mapping[str, rendering.Column]) -> Block: ...

    def end(self) -> bytes: ...


class _Sink:
    """A file that gives what was written to it since the last look."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes | memoryview) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _batch(schema: pa.Schema, columns: Mapping[str, rendering.Column]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([rendering.array_of(columns[n]) for n in schema.names], schema=schema)


_MESSAGE: Final = 1024
"""More than the head and the padding of a dictionary's message take."""


class _ArrowStream:
    """An Arrow IPC stream: the schema's message; each piece its dictionaries and one record batch; the mark of the end.

    A piece brings its own dictionaries, which replace those before (Arrow columnar format, "dictionary messages").
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._head: bytes = schema.serialize().to_pybytes()

    def begin(self) -> bytes:
        return self._head

    def block(self, columns: Mapping[str, rendering.Column]) -> memoryview:
        batch = _batch(self._schema, columns)
        words = [c.dictionary for c in batch.columns if pa.types.is_dictionary(c.type)]
        room = (
            len(self._head) + pa.ipc.get_record_batch_size(batch) + sum(w.nbytes + _MESSAGE for w in words) + _MESSAGE
        )
        made = pa.allocate_buffer(room)
        sink = pa.FixedSizeBufferWriter(made)
        with pa.ipc.new_stream(sink, self._schema) as stream:
            stream.write_batch(batch)
            size = sink.tell()
        return memoryview(made)[len(self._head) : size]

    def end(self) -> bytes:
        return b"\xff\xff\xff\xff\0\0\0\0"


class _Parquet:
    """A Parquet file, one row group a piece."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")

    def begin(self) -> bytes:
        return self._sink.taken()

    def block(self, columns: Mapping[str, rendering.Column]) -> pa.RecordBatch:
        return _batch(self._schema, columns)

    def written(self, block: pa.RecordBatch) -> bytes:
        self._writer.write_batch(block)
        return self._sink.taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.taken()


_ARROW: Final[dict[Kind, pa.DataType]] = {
    Kind.ID: pa.binary(ID_BYTES),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.INT: pa.int64(),
    Kind.NUMBER: pa.string(),
    Kind.DECIMAL: pa.decimal128(18, DECIMAL_SCALE),
    Kind.TEXT: pa.string(),
}
_CODED: Final = pa.dictionary(pa.int16(), pa.string())
_CODES_MAX: Final = 1 << 15
_NO_WORDS: Final = pa.array([], pa.string())


def _type(field: Field) -> pa.DataType:
    """A field's type in the binary forms: text that repeats is coded, whole numbers are as wide as they can get; with
    the widest types an answer would have half as many bytes again, to hash, send and keep."""
    if field.kind is Kind.TEXT and not field.varied:
        return _CODED
    if field.kind is Kind.INT and field.highest is not None:
        return pa.int16() if field.highest < 1 << 15 else pa.int32()
    return _ARROW[field.kind]


class Encoder:
    """Writes one answer: blocks are made at the same time, and written one after the other, in whatever threads."""

    def __init__(self, media: MediaType, fields: Sequence[Field], ids: RecordIds) -> None:
        """Prepare an answer.

        Args:
            fields: what the answer shows, in this order; a field that a block lacks is null in it.
            ids: how the reader of the answer sees record ids.
        """
        self._fields = fields
        self._ids = ids
        self._text = media in (MediaType.CSV, MediaType.NDJSON)
        self._form: _Form
        if self._text:
            self._form = Csv(fields) if media is MediaType.CSV else Ndjson(fields)
        else:
            schema = pa.schema([pa.field(f.name, _type(f), not f.required) for f in fields])
            if media is MediaType.ARROW:
                self._form = _ArrowStream(schema)
            else:
                self._form = parquet = _Parquet(schema)
                self._written = parquet.written  # a Parquet file's writer counts what it has written

    def begin(self) -> bytes:
        """Return what stands before the first record."""
        return self._form.begin()

    def columns(self, rows: RowBlock) -> Columns:
        """Return some records as columns of this form: many small steps."""
        return {f.name: self._column(rows.table, f) for f in self._fields}

    def block(self, columns: Columns) -> Block:
        """Return columns made ready to be written, in a few long steps; may run for several blocks at the same time."""
        return self._form.block(columns)

    def written(self, block: Block) -> Buffer:
        """Return the bytes of what :meth:`block` made; called in the order of the answer."""
        return block if isinstance(block, bytes | memoryview) else self._written(block)

    def end(self) -> bytes:
        """Return what stands after the last record."""
        return self._form.end()

    def _column(self, table: pa.Table, field: Field) -> rendering.Column:
        if field.name == "record_id":
            ids = table.column("record_id").to_numpy()
            if self._text:
                return rendering.fixed(self._ids.hexadecimal(ids), None)
            return pa.Array.from_buffers(_ARROW[Kind.ID], len(ids), [None, pa.py_buffer(self._ids.blocks(ids))])
        if field.kind is Kind.NUMBER:
            return rendering.number(_array(table, field.name), _array(table, field.name + "_raw"), table.num_rows)
        array = _array(table, field.name)
        if array is None:
            return _empty(pa.string() if self._text else _type(field), table.num_rows)
        if field.kind is Kind.DECIMAL:
            return rendering.decimal_text(array) if self._text else rendering.decimal(array)
        if field.kind is Kind.TIME and self._text:
            return rendering.time_text(array)
        if field.kind is Kind.TEXT and not self._text:
            return _spelled(array) if field.varied else _coded(array)
        return array if self._text else array.cast(_type(field))


def _empty(kind: pa.DataType, rows: int) -> pa.Array:
    return (
        pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int16()), _NO_WORDS)
        if kind == _CODED
        else pa.nulls(rows, kind)
    )


def _spelled(array: pa.Array) -> pa.Array:
    return array.cast(pa.string()) if pa.types.is_dictionary(array.type) else array


def _coded(array: pa.Array) -> pa.Array:
    """Return text by codes of 16 bits: a piece has fewer records than there are such codes."""
    if not pa.types.is_dictionary(array.type) or len(array.dictionary) >= _CODES_MAX:
        array = _spelled(array).dictionary_encode()
    if array.type == _CODED:
        return array
    return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int16()), array.dictionary, safe=False)


def _array(table: pa.Table, name: str) -> pa.Array | None:
    if name not in table.schema.names:
        return None
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
