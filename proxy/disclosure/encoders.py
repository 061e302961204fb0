"""Answers as bytes: NDJSON, CSV, Arrow IPC stream and Parquet, a block of records at a time.

Whole columns at once: fixed-width text (ids, times, E.164 numbers) is put together from tables in numpy, lines by one
join in Arrow's compute library. The same records in the same pieces give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.disclosure import rendering
from proxy.disclosure.recordids import RecordIds
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


class _Form(Protocol):
    """One form of answer."""

    def begin(self) -> bytes: ...

    def block(self, columns: Mapping[str, pa.Array]) -> bytes: ...

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


def _batch(schema: pa.Schema, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema)


class _ArrowStream:
    """An Arrow IPC stream: the schema's message, one message a piece, the mark of the end."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def begin(self) -> bytes:
        return self._schema.serialize().to_pybytes()  # type: ignore[no-any-return]

    def block(self, columns: Mapping[str, pa.Array]) -> bytes:
        return _batch(self._schema, columns).serialize().to_pybytes()  # type: ignore[no-any-return]

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

    def block(self, columns: Mapping[str, pa.Array]) -> bytes:
        self._writer.write_batch(_batch(self._schema, columns))
        return self._sink.taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.taken()


_ARROW: Final[dict[Kind, pa.DataType]] = {
    Kind.ID: pa.string(),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.INT: pa.int64(),
    Kind.NUMBER: pa.string(),
    Kind.DECIMAL: pa.decimal128(18, DECIMAL_SCALE),
    Kind.TEXT: pa.string(),
}


class Encoder:
    """Writes one answer. The methods are called in order, one at a time, from whatever thread."""

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
            schema = pa.schema([pa.field(f.name, _ARROW[f.kind], not f.required) for f in fields])
            self._form = _ArrowStream(schema) if media is MediaType.ARROW else _Parquet(schema)

    def begin(self) -> bytes:
        """Return what stands before the first record."""
        return self._form.begin()

    def block(self, rows: RowBlock) -> bytes:
        """Return some records."""
        return self._form.block({f.name: self._column(rows.table, f) for f in self._fields})

    def end(self) -> bytes:
        """Return what stands after the last record."""
        return self._form.end()

    def _column(self, table: pa.Table, field: Field) -> pa.Array:
        if field.name == "record_id":
            return rendering.fixed(self._ids.hexadecimal(table.column("record_id").to_numpy()), None)
        if field.kind is Kind.NUMBER:
            return rendering.number(_array(table, field.name), _array(table, field.name + "_raw"), table.num_rows)
        array = _array(table, field.name)
        if array is None:
            return pa.nulls(table.num_rows, pa.string() if self._text else _ARROW[field.kind])
        if field.kind is Kind.DECIMAL:
            return rendering.decimal_text(array) if self._text else rendering.decimal(array)
        if field.kind is Kind.TIME and self._text:
            return rendering.time_text(array)
        if pa.types.is_dictionary(array.type) and not self._text:
            return array.cast(pa.string())
        return array


def _array(table: pa.Table, name: str) -> pa.Array | None:
    if name not in table.schema.names:
        return None
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
