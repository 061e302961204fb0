"""The column format: what goes in comes out, and what is not a chunk is refused as such."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.store import columns
from proxy.store.batches import CLASS_FIELDS, CLASSES
from proxy.store.planes import FormatError, compress, decompress
from schema.fields import DisclosureClass, Field, Kind, LegalClass

quick = settings(max_examples=25, deadline=None, database=None)

LOW, HIGH = -(2**63), 2**63 - 1
CENTURY = st.integers(946_684_800_000_000, 4_133_980_799_999_999)
INTEGERS = st.one_of(
    st.integers(LOW, HIGH),
    st.sampled_from([0, 1, -1, LOW, HIGH, LOW + 1]),
    st.integers(-1000, 1000).map(lambda n: n * 1_000_000),
    st.integers(0, 300).map(lambda n: n * 1_000),
)
# Not the lone surrogates: they are no UTF-8.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    st.sampled_from(["", "a", "trunk-1", "\0", "é", "𝄞", "answered", "x" * 300]),
)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.ID: st.integers(LOW, HIGH),
    Kind.TIME: st.one_of(CENTURY, CENTURY.map(lambda t: t // 1_000_000 * 1_000_000), st.integers(LOW, HIGH)),
    Kind.INT: INTEGERS,
    Kind.DECIMAL: INTEGERS,
    Kind.NUMBER: st.integers(1, 10**15 - 1),
    Kind.TEXT: TEXT,
}


@st.composite
def tables(draw: st.DrawFn, cls: DisclosureClass) -> pa.Table:
    """A table of a class: each column full, empty, absent or with holes; numbers E.164, raw, or neither."""
    rows = draw(st.integers(1, 40))
    names, arrays = [], []
    for f in CLASS_FIELDS[cls]:
        shape = draw(st.sampled_from(["full", "holes", "null", "absent", "same", "rising"]))
        if shape == "absent" and f.name != "record_id":
            continue
        of = VALUES[f.kind]
        if shape == "null" or shape == "absent":
            values: list[Any] = [None] * rows
        elif shape == "same":
            values = [draw(of)] * rows
        else:
            one = st.none() | of if shape == "holes" else of
            values = draw(st.lists(one, min_size=rows, max_size=rows))
            if shape == "rising" and f.kind is not Kind.TEXT:
                values = sorted(values)
        if f.kind is Kind.NUMBER and draw(st.booleans()):
            texts = draw(st.lists(st.none() | TEXT, min_size=rows, max_size=rows))
            raw = [t if v is None else None for v, t in zip(values, texts, strict=True)]
            names.append(f.name + "_raw")
            arrays.append(pa.array(raw, pa.string()))
        names.append(f.name)
        arrays.append(pa.array(values, columns.ARROW[f.kind]))
    if not names:
        names, arrays = ["other"], [pa.nulls(rows, pa.int64())]
    return pa.table(arrays, names=names)


def expected(table: pa.Table, fields: tuple[Field, ...], start: int, stop: int) -> dict[str, list[Any]]:
    """The columns of the format's schema; those that the table lacks are null."""
    schema = columns.arrow_schema(fields)
    present = {n: table.column(n).cast(schema.field(n).type) for n in schema.names if n in table.schema.names}
    ints = {n: c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for n, c in present.items()}
    return {n: ints[n].to_pylist()[start:stop] if n in ints else [None] * (stop - start) for n in schema.names}


def as_ints(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Columns as Python values, times as integers."""
    out = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        column.validate(full=True)
        out[name] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return out


@pytest.mark.parametrize("cls", CLASSES)
def test_round_trip_of_random_tables(cls: DisclosureClass) -> None:
    fields = CLASS_FIELDS[cls]

    @quick
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        table = data.draw(tables(cls))
        start = data.draw(st.integers(0, table.num_rows - 1))
        stop = data.draw(st.integers(start + 1, table.num_rows))
        prepared = columns.prepare(table, fields)
        made = columns.decode(columns.encode(prepared, start, stop), fields)
        assert made.schema == columns.arrow_schema(fields)
        wanted = expected(table, fields, start, stop)
        assert as_ints(made) == wanted
        assert columns.is_empty(prepared, start, stop) == all(v is None for vs in wanted.values() for v in vs)

    holds()


def test_a_column_of_many_chunks_and_an_offset_is_the_same_column() -> None:
    """Arrow tables come in pieces and slices; the format must not see that."""
    fields = CLASS_FIELDS[DisclosureClass.PARTIES]
    whole = pa.table(
        {
            "calling": pa.array([None, 12025550100, 12025550101, None, 12025550102, 1], pa.int64()),
            "calling_raw": pa.array(["0100", None, None, "anonymous", None, None]),
        }
    )
    pieces = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 1), whole.slice(3)]).slice(1, 4)
    assert pieces.column("calling").num_chunks > 1
    one = columns.encode(columns.prepare(pieces, fields), 0, 4)
    assert one == columns.encode(columns.prepare(whole.slice(1, 4).combine_chunks(), fields), 0, 4)
    assert as_ints(columns.decode(one, fields))["calling_raw"] == [None, None, "anonymous", None]


@pytest.mark.parametrize("coded", [True, False])
def test_chunks_with_dictionaries_of_their_own_are_one_column(coded: bool) -> None:
    """The same words in another order, other words, one word, the first again: each row keeps its own."""
    parts = [["a", "bb"] * 6, ["bb", "a"] * 6, ["c", "a", "dd"] * 4, ["dd"] * 12, ["a", "bb"] * 6]
    field = Field("switch_id", DisclosureClass.ROUTING, Kind.TEXT, LegalClass.OTHER, "")
    chunks = []
    for words in parts:
        table = pa.table({"switch_id": pa.array(words, pa.string())})
        data = columns.encode(columns.prepare(table, (field,)), 0, len(words))
        chunks.append(columns.Chunk(data, (field,)))
    made = columns.assemble(chunks, (field,), coded=coded)["switch_id"]
    assert made.to_pylist() == [w for words in parts for w in words]


def test_equal_records_are_equal_bytes_whatever_lies_under_their_nulls() -> None:
    """What a producer left under a null must not leak into the store."""
    fields = CLASS_FIELDS[DisclosureClass.TIMING]
    values = pa.py_buffer(struct.pack("<3q", 7, 0x1234567890, 9))
    dirty = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), values])
    clean = pa.array([7, None, 9], pa.int64())
    made = [columns.encode(columns.prepare(pa.table({"duration_ms": a}), fields), 0, 3) for a in (dirty, clean)]
    assert made[0] == made[1]


def test_many_distinct_words_need_two_planes_of_codes() -> None:
    fields = CLASS_FIELDS[DisclosureClass.ROUTING]
    words = [f"sw{i % 700}" for i in range(4_000)]
    table = pa.table({"switch_id": pa.array(words)})
    made = columns.decode(columns.encode(columns.prepare(table, fields), 0, 4_000), fields)
    assert made.column("switch_id").to_pylist() == words


def test_long_texts_and_a_whole_chunk() -> None:
    fields = CLASS_FIELDS[DisclosureClass.SUBSCRIBER]
    texts = [("é" * (i % 70_000)) for i in range(0, 140_000, 7_001)]
    table = pa.table({"address_of_record": pa.array(texts)})
    made = columns.decode(columns.encode(columns.prepare(table, fields), 0, len(texts)), fields)
    assert made.column("address_of_record").to_pylist() == texts


def test_a_chunk_written_before_a_field_was_added() -> None:
    """Fields are added at the end of a class: older chunks lack them, and they are null."""
    now = CLASS_FIELDS[DisclosureClass.LOCATION]
    table = pa.table({"cell": pa.array(["c1", "c2"])})
    old = columns.encode(columns.prepare(table, now[:2]), 0, 2)
    made = as_ints(columns.decode(old, now))
    assert made == {"cell": ["c1", "c2"], "sector": [None] * 2, "latitude": [None] * 2, "longitude": [None] * 2}
    later = Field("later", DisclosureClass.LOCATION, Kind.TEXT, LegalClass.LOCATION, "")
    newer = columns.encode(columns.prepare(table, (*now, later)), 0, 2)
    with pytest.raises(FormatError, match="upgrade"):
        columns.decode(newer, now)


# What is not a chunk.

SAMPLE = pa.table(
    {
        "record_id": pa.array([5, 6, 9], pa.int64()),
        "started_at": pa.array(
            [datetime(2026, 7, 1, 12, 0, i, tzinfo=UTC) for i in range(3)], columns.ARROW[Kind.TIME]
        ),
        "duration_ms": pa.array([1, None, -3], pa.int64()),
        "disposition": pa.array(["answered", "busy", None]),
    }
)
PARTIES = pa.table(
    {
        "calling": pa.array([12025550100, None, None], pa.int64()),
        "calling_raw": pa.array([None, "0101", "anonymous"]),
        "called": pa.array([12025550102, 12025550103, 12025550104], pa.int64()),
    }
)
TRUNKS = pa.table({"ingress_call_id": pa.array([os.urandom(9).hex() for _ in range(40)])})


def chunk(table: pa.Table, cls: DisclosureClass) -> bytes:
    return columns.encode(columns.prepare(table, CLASS_FIELDS[cls]), 0, table.num_rows)


SAMPLES = [
    (SAMPLE, DisclosureClass.TIMING),
    (PARTIES, DisclosureClass.PARTIES),
    (TRUNKS, DisclosureClass.INGRESS_LEG),
]


def refused_or_read(body: bytes, cls: DisclosureClass) -> bool:
    """Decode a body: whether it was refused. Anything but a record batch or FormatError fails the test."""
    try:
        chunk = columns.Chunk(compress(body), CLASS_FIELDS[cls])
        columns.assemble([chunk], CLASS_FIELDS[cls])
        chunk.take(chunk.find("0101"))
        chunk.take(chunk.find(12025550102))
    except FormatError:
        return True
    return False


@pytest.mark.parametrize(("table", "cls"), SAMPLES)
def test_every_truncation_and_every_addition_is_refused(table: pa.Table, cls: DisclosureClass) -> None:
    frame = chunk(table, cls)
    body = decompress(frame)
    assert all(refused_or_read(body[:n], cls) for n in range(len(body)))
    assert refused_or_read(body + b"\0", cls)
    for cut in range(len(frame)):
        with pytest.raises(FormatError):
            columns.decode(frame[:cut], CLASS_FIELDS[cls])


@pytest.mark.parametrize(("table", "cls"), SAMPLES)
def test_any_changed_byte_is_refused_or_read_but_never_another_error(table: pa.Table, cls: DisclosureClass) -> None:
    body = decompress(chunk(table, cls))
    refused = 0
    for at in range(len(body)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            refused += refused_or_read(body[:at] + bytes([body[at] ^ change]) + body[at + 1 :], cls)
    assert refused


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(CLASSES), st.binary(max_size=200), st.integers(0, 60))
def test_noise_is_refused_or_read_but_never_another_error(cls: DisclosureClass, noise: bytes, rows: int) -> None:
    head = struct.pack("<BIB", 1, rows, len(CLASS_FIELDS[cls]))
    refused_or_read(noise, cls)
    refused_or_read(head + noise, cls)


def header(rows: int = 3, fields: int = 1, version: int = 1) -> bytes:
    return struct.pack("<BIB", version, rows, fields)


INTS = struct.pack("<BBq", 0, 0, 0)
DEFECTS: dict[str, tuple[DisclosureClass, Callable[[], bytes]]] = {
    "another version": (DisclosureClass.SUBSCRIBER, lambda: header(version=2) + b"\0"),
    "rows beyond any chunk, in a field of nothing": (
        DisclosureClass.SUBSCRIBER,
        lambda: header(rows=2**32 - 1) + b"\0",
    ),
    "rows beyond any chunk, in planes of no width": (
        DisclosureClass.SOURCE,
        lambda: header(rows=2**32 - 1) + b"\1" + INTS,
    ),
    "text in a column of integers": (DisclosureClass.SOURCE, lambda: header() + b"\2\0" + bytes(4)),
    "integers in a column of text": (DisclosureClass.SUBSCRIBER, lambda: header() + b"\1" + INTS),
    "an unknown encoding": (DisclosureClass.SUBSCRIBER, lambda: header() + b"\5"),
    "nine planes": (DisclosureClass.SOURCE, lambda: header() + b"\1" + struct.pack("<BBq", 0, 9, 0) + bytes(27)),
    "a scale out of range": (DisclosureClass.SOURCE, lambda: header() + b"\1" + struct.pack("<BBq", 7, 0, 0)),
    "lengths beyond the data": (
        DisclosureClass.SUBSCRIBER,
        lambda: header() + b"\2\1" + bytes([1, 1, 9]) + struct.pack("<I", 3) + b"abc",
    ),
    "lengths that wrap around": (
        DisclosureClass.SUBSCRIBER,
        lambda: header(rows=4) + b"\2\x08" + bytes(28) + b"\x40" * 4 + struct.pack("<I", 0),
    ),
    "a length below nothing": (
        DisclosureClass.SUBSCRIBER,
        lambda: header(rows=2) + b"\2\x08" + b"\1\xff" * 8 + struct.pack("<I", 0),
    ),
    "data beyond the lengths": (
        DisclosureClass.SUBSCRIBER,
        lambda: header() + b"\2\1" + bytes([1, 1, 0]) + struct.pack("<I", 3) + b"abc",
    ),
    "a code outside the dictionary": (
        DisclosureClass.SUBSCRIBER,
        lambda: header() + b"\3" + struct.pack("<HII", 0, 1, 1) + b"a" + b"\1" + bytes([0, 1, 0]),
    ),
    "an exception outside the rows": (
        DisclosureClass.PARTIES,
        lambda: header() + b"\4" + INTS + struct.pack("<IIII", 1, 3, 1, 1) + b"a",
    ),
    "exceptions out of order": (
        DisclosureClass.PARTIES,
        lambda: header() + b"\4" + INTS + struct.pack("<IIIIII", 2, 1, 1, 1, 1, 2) + b"ab",
    ),
    "more exceptions than rows": (
        DisclosureClass.PARTIES,
        lambda: header(rows=1) + b"\4" + INTS + struct.pack("<IIIIII", 2, 0, 1, 1, 1, 2) + b"ab",
    ),
    "a bitmap cut off": (DisclosureClass.SUBSCRIBER, lambda: header(rows=64) + b"\x12" + b"\xff" * 7),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects(defect: str) -> None:
    cls, make = DEFECTS[defect]
    with pytest.raises(FormatError):
        columns.decode(compress(make()), CLASS_FIELDS[cls])


@pytest.mark.parametrize("frame", [b"", b"\x28\xb5\x2f\xfd", b"no frame at all", bytes(40)])
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(FormatError):
        decompress(frame)


def test_a_frame_that_claims_too_much_is_refused_before_it_is_opened() -> None:
    claims = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 30)  # single segment, content size in 4 bytes
    with pytest.raises(FormatError, match="too many"):
        decompress(claims + b"\0" * 8)
