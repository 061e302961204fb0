"""The four forms of an answer: the same cells in each, whatever the cells hold."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.disclosure import rendering
from proxy.disclosure.encoders import Encoder, MediaType, NotAcceptable, negotiate
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.scope import RowBlock
from proxy.store.columns import ARROW
from schema.fields import BY_NAME, DisclosureClass, Field, Kind, fields_of

C = DisclosureClass
FIELDS = fields_of(C.TIMING, C.PARTIES, C.ROUTING, C.INGRESS_LEG, C.EGRESS_LEG)
IDS = RecordIds(b"s" * 32, "carrier-a")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Not shrunk: a failing example is small enough, and shrinking a table takes minutes.
PHASES = (Phase.explicit, Phase.generate)
quick = settings(max_examples=20, deadline=None, database=None, phases=PHASES)

# What ingest lets in: years 2000 to 2100, no empty text (it is null), E.164 digits.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
    st.sampled_from(
        ['"', '""', ",", "\r\n", "a,b", ' "x" ', "\\", "\\n", "\x00", "\x1f", "\x7f", "é", "𝄞", "null", "+1"]
    ),
)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TIME: st.integers(946_684_800_000_000, 4_133_980_799_999_999),
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.DECIMAL: st.one_of(st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 10**9 - 1)),
    Kind.NUMBER: st.one_of(st.integers(10**10, 10**11 - 1), st.integers(1, 10**15 - 1)),
    Kind.TEXT: TEXTS,
}


@st.composite
def records(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows as Python values; columns full, with holes, or empty."""
    count = draw(st.integers(1, 12))
    columns: dict[str, list[Any]] = {"record_id": draw(st.lists(st.integers(1, 2**62), min_size=count, max_size=count))}
    for f in FIELDS[1:]:
        shape = draw(st.sampled_from(["full", "holes", "null"])) if not f.required else "full"
        values = VALUES[f.kind] if f.highest is None else st.integers(0, f.highest)
        one = {"full": values, "holes": st.none() | values, "null": st.none()}[shape]
        columns[f.name] = draw(st.lists(one, min_size=count, max_size=count))
        if f.kind is Kind.NUMBER and draw(st.booleans()):
            texts = draw(st.lists(st.none() | TEXTS, min_size=count, max_size=count))
            columns[f.name + "_raw"] = [t if v is None else None for v, t in zip(columns[f.name], texts, strict=True)]
    return [{n: v[i] for n, v in columns.items()} for i in range(count)]


def block(rows: list[dict[str, Any]], leave_out: bool = True) -> RowBlock:
    """The rows as the reader gives them: a column that is null throughout is not there."""
    names = [n for n in rows[0] if not leave_out or any(r[n] is not None for r in rows)]
    types = {n: ARROW[BY_NAME[n].kind] if n in BY_NAME else pa.string() for n in names}
    return RowBlock(pa.table({n: pa.array([r[n] for r in rows], types[n]) for n in names}))


def number(row: dict[str, Any], name: str) -> str | None:
    raw: str | None = row.get(name + "_raw")
    return f"+{row[name]}" if row[name] is not None else raw


def cell(row: dict[str, Any], f: Field) -> Any:
    """What a reader of any form should find."""
    if f.name == "record_id":
        return bytes(IDS.hexadecimal(pa.array([row["record_id"]]).to_numpy())).decode()
    if f.kind is Kind.NUMBER:
        return number(row, f.name)
    value = row[f.name]
    if value is None or f.kind is not Kind.DECIMAL:
        return value
    return Decimal(value) / 10**8


def encode(media: MediaType, blocks: list[RowBlock], fields: tuple[Field, ...] = FIELDS) -> bytes:
    encoder = Encoder(media, fields, IDS)
    made = [encoder.block(encoder.columns(b)) for b in blocks]  # all before any is written, as threads may
    return encoder.begin() + b"".join(encoder.written(m) for m in made) + encoder.end()


def micros(text: str) -> int:
    assert text.endswith("Z")
    assert len(text) == 27
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


FROM_TEXT = {
    Kind.ID: str,
    Kind.TEXT: str,
    Kind.NUMBER: str,
    Kind.INT: int,
    Kind.TIME: micros,
    Kind.DECIMAL: Decimal,
}


def from_csv(data: bytes) -> list[dict[str, Any]]:
    text = data.decode()
    assert text.endswith("\r\n")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == [f.name for f in FIELDS]
    assert all(len(r) == len(FIELDS) for r in rows)
    return [{f.name: FROM_TEXT[f.kind](v) if v else None for f, v in zip(FIELDS, r, strict=True)} for r in rows[1:]]


def from_ndjson(data: bytes) -> list[dict[str, Any]]:
    *lines, last = data.split(b"\n")
    assert last == b""
    found = []
    for line in lines:
        row = json.loads(line)  # strict: a control character that is not escaped is refused
        assert list(row) == [f.name for f in FIELDS]
        assert all(type(row[f.name]) is (int if f.kind is Kind.INT else str) for f in FIELDS if row[f.name] is not None)
        found.append({f.name: None if row[f.name] is None else FROM_TEXT[f.kind](row[f.name]) for f in FIELDS})
    return found


def from_arrow(table: pa.Table) -> list[dict[str, Any]]:
    assert table.schema.names == [f.name for f in FIELDS]
    table.validate(full=True)
    for i, f in enumerate(FIELDS):
        if f.kind is Kind.TIME:
            table = table.set_column(i, f.name, table.column(i).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return [{**row, "record_id": row["record_id"].hex()} for row in rows]


def read(media: MediaType, data: bytes) -> list[dict[str, Any]]:
    if media is MediaType.CSV:
        return from_csv(data)
    if media is MediaType.NDJSON:
        return from_ndjson(data)
    if media is MediaType.ARROW:
        return from_arrow(pa.ipc.open_stream(data).read_all())
    return from_arrow(pq.read_table(io.BytesIO(data)))


@pytest.mark.parametrize("media", MediaType)
def test_every_cell_comes_back(media: MediaType) -> None:
    @quick
    @given(records(), records(), st.booleans())
    def holds(first: list[dict[str, Any]], second: list[dict[str, Any]], leave_out: bool) -> None:
        data = encode(media, [block(first, leave_out), block(second, leave_out)])
        assert read(media, data) == [{f.name: cell(r, f) for f in FIELDS} for r in (*first, *second)]

    holds()


@pytest.mark.parametrize("media", MediaType)
def test_a_part_of_a_block_is_encoded_like_a_block_of_its_own(media: MediaType) -> None:
    """Slices of Arrow tables have offsets: null bitmaps most of all must follow them."""

    @settings(max_examples=15, deadline=None, database=None, phases=PHASES)
    @given(records(), st.data())
    def holds(rows: list[dict[str, Any]], data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(rows) - 1))
        stop = data.draw(st.integers(start + 1, len(rows)))
        whole = block(rows, leave_out=False)
        part = read(media, encode(media, [whole.slice(start, stop)]))
        assert part == [{f.name: cell(r, f) for f in FIELDS} for r in rows[start:stop]]

    holds()


@pytest.mark.parametrize("media", MediaType)
def test_columns_in_many_chunks(media: MediaType) -> None:
    rows = [
        {
            **dict.fromkeys(f.name for f in FIELDS),
            "record_id": i,
            "started_at": 946_684_800_000_000,
            "duration_ms": None if i % 2 else i,
            "codec": "x",
        }
        for i in range(9)
    ]
    parts = pa.concat_tables([block(rows).table.slice(i, 3) for i in (0, 3, 6)])
    assert encode(media, [RowBlock(parts)]) == encode(media, [block(rows)])


@pytest.mark.parametrize(
    ("array", "width"),
    [
        (pa.array(["ab", "cd", "ef"]), 2),
        (pa.array(["xx", "ab", "cd", "ef"]).slice(1), 2),
        (pa.array(["a", "bcd", "ef"]), None),  # as long together as three of two
        (pa.array(["ab", None, "ef"]), None),
        (pa.array(["", "", ""]), None),
        (pa.array([], pa.string()), None),
        (pa.array(["ab", "cd", "ab"]).dictionary_encode(), 2),
        (pa.array(["ab", "cde", "ab"]).dictionary_encode(), None),
        (pa.array(["ab", None, "ab"]).dictionary_encode(), None),
        (pa.array([16, 31, 17]), 2),
        (pa.array([9, 10]), None),
        (pa.array([0, 999]), None),
        (pa.array([1000, 1999]), 4),
        (pa.array([1000, 2000]), None),
        (pa.array([-5, 5]), None),
        (pa.array([200, None]), None),
    ],
)
def test_text_of_one_width_is_found(array: pa.Array, width: int | None) -> None:
    made = rendering.even(array)
    assert (made.matrix.shape[1] if isinstance(made, rendering.Fixed) else None) == width
    assert rendering.array_of(made).to_pylist() == array.cast(pa.string()).to_pylist()


@pytest.mark.parametrize("media", MediaType)
def test_the_same_records_in_the_same_pieces_are_the_same_bytes(media: MediaType) -> None:
    """A pull is proven by its digest: nothing in a form may hang on the clock or on chance."""
    rows = [{"record_id": i, "started_at": 946_684_800_000_000 + i, "calling": 12025550100} for i in range(50)]
    fields = tuple(BY_NAME[n] for n in rows[0])
    assert encode(media, [block(rows)] * 2, fields) == encode(media, [block(rows)] * 2, fields)


@pytest.mark.parametrize("media", MediaType)
def test_an_empty_answer_is_an_answer(media: MediaType) -> None:
    data = encode(media, [])
    assert read(media, data) == [] if media is not MediaType.NDJSON else data == b""
    if media is MediaType.CSV:
        assert data == (",".join(f.name for f in FIELDS) + "\r\n").encode()


@pytest.mark.parametrize("media", MediaType)
def test_a_piece_in_which_nothing_asked_for_has_a_value(media: MediaType) -> None:
    """A narrowed permit may ask for columns that are null in a whole piece."""
    fields = fields_of(C.PARTIES)
    rows = RowBlock(pa.table({"record_id": pa.array([1, 2, 3], pa.int64())}))
    data = encode(media, [rows], fields)
    if media is MediaType.CSV:
        assert data.split(b"\r\n")[1:] == [b"," * (len(fields) - 1)] * 3 + [b""]
    elif media is MediaType.NDJSON:
        assert [json.loads(line) for line in data.splitlines()] == [dict.fromkeys(f.name for f in fields)] * 3
    else:
        made = pa.ipc.open_stream(data).read_all() if media is MediaType.ARROW else pq.read_table(io.BytesIO(data))
        assert made.num_rows == 3
        assert all(column.null_count == 3 for column in made.columns)


@pytest.mark.parametrize("media", MediaType)
def test_coded_columns_are_the_same_cells(media: MediaType) -> None:
    """The reader may hand over text coded by a dictionary: one word, several, words that need quoting, nulls."""
    coded = {
        "codec": ['a,"b"\n'] * 4,
        "switch_id": ["x", "y", '"', None],
        "disposition": [None, None, "busy", "busy"],
        "state": ["\u00e9"] * 4,
    }
    fields = tuple(BY_NAME[n] for n in coded)
    for some in (coded, {"codec": coded["codec"]}, {"codec": coded["codec"], "state": coded["state"]}):
        ids = {"record_id": pa.array(range(4), pa.int64())}
        plain = pa.table(ids | {n: pa.array(v) for n, v in some.items()})
        words = pa.table(ids | {n: pa.array(v).dictionary_encode() for n, v in some.items()})
        answers = [encode(media, [RowBlock(t)], fields) for t in (plain, words)]
        assert answers[0] == answers[1]
        lines = {MediaType.CSV: b"\r\n", MediaType.NDJSON: b"}\n"}
        assert media not in lines or answers[0].count(lines[media]) == 4 + (media is MediaType.CSV)


def one(name: str, value: Any, media: MediaType = MediaType.CSV, raw: str | None = None) -> str:
    """One cell as text, behind the record's id."""
    columns = {"record_id": pa.array([1], pa.int64()), name: pa.array([value], ARROW[BY_NAME[name].kind])}
    if raw is not None:
        columns[name + "_raw"] = pa.array([raw])
    data = encode(media, [RowBlock(pa.table(columns))], (BY_NAME["record_id"], BY_NAME[name]))
    line = data.decode() if media is MediaType.NDJSON else data.decode().split("\r\n", 1)[1]
    return line.partition(",")[2].removesuffix("\r\n")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("started_at", 1_782_864_000_000_001, "2026-07-01T00:00:00.000001Z"),
        ("started_at", 946_684_800_000_000, "2000-01-01T00:00:00.000000Z"),
        ("started_at", 4_133_980_799_999_999, "2100-12-31T23:59:59.999999Z"),
        ("ingress_rate", 411_111, "0.00411111"),
        ("ingress_rate", 0, "0.00000000"),
        ("ingress_rate", -1, "-0.00000001"),
        ("ingress_rate", -123_456_789_012, "-1234.56789012"),
        ("ingress_rate", 999_999_999, "9.99999999"),
        ("ingress_rate", 1_000_000_000, "10.00000000"),
        ("calling", 12025550100, "+12025550100"),
        ("calling", 442079460100, "+442079460100"),
        ("calling", 9_999_999_999, "+9999999999"),
        ("calling", 99_999_999_999, "+99999999999"),
        ("calling", 100_000_000_000, "+100000000000"),
        ("duration_ms", -5, "-5"),
        ("codec", "G.711", "G.711"),
        ("codec", 'a"b', '"a""b"'),
        ("codec", "a,b", '"a,b"'),
        ("codec", "a\nb", '"a\nb"'),
        ("codec", "a\rb", '"a\rb"'),
        ("codec", " a ", " a "),
    ],
)
def test_cells_as_csv(name: str, value: Any, text: str) -> None:
    assert one(name, value) == text


def test_money_is_plain_whatever_stands_beside_it() -> None:
    """One large or negative amount in a piece must not turn its neighbours into powers of ten."""
    values = [0, 1, None, -1, 10 * 10**8, 2**63 - 1, -(2**63), 123]
    table = pa.table({"record_id": pa.array(range(8), pa.int64()), "ingress_rate": pa.array(values, pa.int64())})
    data = encode(MediaType.CSV, [RowBlock(table)], (BY_NAME["record_id"], BY_NAME["ingress_rate"]))
    assert [line.split(",")[1] for line in data.decode().split("\r\n")[1:-1]] == [
        "0.00000000",
        "0.00000001",
        "",
        "-0.00000001",
        "10.00000000",
        "92233720368.54775807",
        "-92233720368.54775808",
        "0.00000123",
    ]


def test_a_raw_number_never_looks_like_an_e164_one() -> None:
    assert one("calling", None, raw="0100") == "0100"
    assert one("calling", None, raw="anonymous") == "anonymous"
    assert one("calling", 12025550100) == "+12025550100"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"', r'"\""'),
        ("\\", r'"\\"'),
        ("\\u0041", r'"\\u0041"'),
        ("\x00\x1f\n\t", r'"\u0000\u001f\u000a\u0009"'),
        ("é𝄞\u2028", '"é𝄞\u2028"'),
    ],
)
def test_json_escapes(value: str, text: str) -> None:
    assert one("codec", value, MediaType.NDJSON) == f'"codec":{text}}}\n'


# What the client may ask for.

N, V, A, P = MediaType.NDJSON, MediaType.CSV, MediaType.ARROW, MediaType.PARQUET


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, N),
        ("", N),
        ("*/*", N),
        ("application/x-ndjson", N),
        ("text/csv", V),
        ("text/*", V),
        ("TEXT/CSV", V),
        ("text/csv; charset=utf-8", V),
        ("application/vnd.apache.arrow.stream", A),
        ("application/vnd.apache.parquet", P),
        ("application/*", N),
        ("text/csv;q=0.5, application/vnd.apache.parquet", P),
        ("text/csv;q=0.5, application/vnd.apache.parquet;q=0.4", V),
        ("text/html, text/csv", V),
        ("*/*;q=0.1, text/csv;q=0.2", V),
        ("application/x-ndjson;q=0, */*", V),
        ("text/csv;q=0, text/*", None),
        ("application/*;q=0, */*", V),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("text/csv;q=nonsense", None),
        ("*/*;q=0", None),
    ],
)
def test_negotiation(accept: str | None, media: MediaType | None) -> None:
    if media is None:
        with pytest.raises(NotAcceptable):
            negotiate(accept)
    else:
        assert negotiate(accept) is media


@quick
@given(st.text(max_size=40))
def test_any_accept_header_gives_a_form_or_a_refusal(accept: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert negotiate(accept) in MediaType
