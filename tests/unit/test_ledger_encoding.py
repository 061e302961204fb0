"""The permanent form of an entry: published vectors, RFC 8785, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import encoding
from proxy.ledger.model import (
    PART_MAX,
    PARTS,
    RECORDS_MAX,
    Entry,
    EntryError,
    Kind,
    LedgerBroken,
    Tag,
    TagDomain,
    month_of,
    new_id,
    number_tags,
    timestamp,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/ledger/entry-v1.json").read_text())

SAFE = 2**53 - 1
LEAF = st.none() | st.booleans() | st.integers(-SAFE, SAFE) | st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda v: v["name"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    entry = Entry(
        Kind(vector["kind"]),
        **vector["parts"],
        entry_id=UUID(vector["entry_id"]),
        access_id=vector["access_id"] and UUID(vector["access_id"]),
        tags=tuple(Tag(domain, value.encode()) for domain, value in vector["tags"]),
    )
    encoded = encoding.encode(entry, bytes.fromhex(VECTORS["salts"]))
    column = encoding.tag_column(bytes.fromhex(VECTORS["tag_key"]), encoded.tags)
    header = encoding.header(encoded, vector["at"], column)
    assert {p: o.decode() for p, o in zip(PARTS, encoded.openings, strict=True) if o} == vector["openings"]
    assert column.hex() == vector["tag_column"]
    assert header.decode() == vector["header"]
    assert encoding.leaf_data(header).hex() == vector["leaf_data"]
    assert encoding.leaf_hash(header).hex() == vector["leaf_hash"]
    read = encoding.read_header(0, header)
    assert (read.entry_id, read.kind, read.access_id) == (entry.entry_id, entry.kind, entry.access_id)
    assert timestamp(read.at) == vector["at"]
    assert read.commits.keys() == vector["openings"].keys()
    for part, commit in read.commits.items():
        opening = encoded.openings[PARTS.index(part)]
        assert encoding.read_opening(0, part, opening, commit) == vector["parts"][part]


@pytest.mark.parametrize("vector", VECTORS["read_only"], ids=lambda v: v["name"])
def test_published_vectors_that_are_no_longer_written_are_read(vector: dict[str, Any]) -> None:
    header = vector["header"].encode()
    assert encoding.leaf_hash(header).hex() == vector["leaf_hash"]
    read = encoding.read_header(0, header)
    assert read.commits.keys() == vector["openings"].keys() == {"actor", "request", "outcome"}
    for part, commit in read.commits.items():
        assert encoding.read_opening(0, part, vector["openings"][part].encode(), commit) == vector["parts"][part]


@given(VALUES)
def test_canonical_json_is_rfc_8785(value: Any) -> None:
    assert encoding.canonical(value).encode() == rfc8785.dumps(value)


@given(st.integers(min_value=SAFE + 1) | st.integers(max_value=-SAFE - 1))
def test_integers_beyond_2_to_53_are_strings(value: int) -> None:
    assert encoding.canonical({"n": [value]}) == f'{{"n":["{value}"]}}'
    assert encoding.canonical({"n": SAFE, "m": -SAFE}) == f'{{"m":{-SAFE},"n":{SAFE}}}'


class Deep(list):  # type: ignore[type-arg]
    pass


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        b"bytes",
        {1: "a"},
        {"a": {2: "b"}},
        "\ud800",
        {"\ud800": 1},
        object(),
        {"a": {1, 2}},
        _nested(5000),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    with pytest.raises(EntryError):
        encoding.encode(Entry(Kind.LOG_READ, request={"value": value}))


def test_a_value_is_nested_so_deep_and_no_deeper() -> None:
    for empty in ([], {}, ["a"], [1]):
        deep: Any = empty
        for n in range(31):
            deep = [deep] if n % 2 else {"a": deep}
        assert json.loads(encoding.canonical(deep)) == deep
        with pytest.raises(EntryError, match="deeply"):
            encoding.canonical([deep])


def test_subclasses_are_written_by_value() -> None:
    assert encoding.canonical({"kind": Kind.LOG_READ, "domain": TagDomain.JKT, "l": Deep([True])}) == (
        '{"domain":2,"kind":"log.read","l":[true]}'
    )


@pytest.mark.parametrize(("part", "most"), [("outcome", PART_MAX), ("records", RECORDS_MAX)])
def test_a_part_has_a_largest_size(part: str, most: int) -> None:
    room = most - len(encoding.opening(part, {"x": ""}, bytes(16)))
    assert len(encoding.opening(part, {"x": "a" * room}, bytes(16))) == most
    with pytest.raises(EntryError, match=f"{part} takes {most + 1} bytes; at most {most}"):
        encoding.encode(Entry(Kind.ACCESS_OUTCOME, **{part: {"x": "a" * (room + 1)}}))


def test_a_part_that_says_nothing_is_absent() -> None:
    encoded = encoding.encode(Entry(Kind.LOG_READ, request={"n": 1}))
    assert [bool(o) for o in encoded.openings] == [False, True, False, False]
    header = encoding.header(encoded, "2026-11-05T06:07:08.000009Z", b"")
    assert encoding.read_header(0, header).commits == {"request": encoding.commitment(encoded.openings[1])}
    bare = encoding.header(encoding.encode(Entry(Kind.LOG_READ)), "2026-11-05T06:07:08.000009Z", b"")
    assert encoding.read_header(0, bare).commits == {}
    assert encoding.encode(Entry(Kind.LOG_READ)).size == 0


def test_the_same_entry_commits_differently_each_time() -> None:
    same: dict[str, Any] = {"same": 1}
    entry = Entry(Kind.LOG_READ, same, same, same, same)
    one, two = encoding.encode(entry), encoding.encode(entry)
    at = "2026-11-05T06:07:08.000009Z"
    headers = [json.loads(encoding.header(e, at, b"")) for e in (one, two)]
    assert len({c for h in headers for c in h["parts"].values()}) == 8, "equal parts must not show as equal"
    assert len({h["salt"] for h in headers} | {json.loads(o)["salt"] for e in (one, two) for o in e.openings}) == 10


def test_wrong_types_are_refused_before_they_reach_others_entries() -> None:
    for entry in (
        Entry("log.read"),  # type: ignore[arg-type]
        Entry(Kind.LOG_READ, entry_id="x"),  # type: ignore[arg-type]
        Entry(Kind.LOG_READ, access_id="x"),  # type: ignore[arg-type]
        Entry(Kind.LOG_READ, actor=["x"]),  # type: ignore[arg-type]
        Entry(Kind.LOG_READ, tags=tuple(Tag("case", b"%d" % n) for n in range(65))),
    ):
        with pytest.raises(EntryError):
            encoding.encode(entry)
    for domain, value in (("phone", b"x"), ("client", b""), ("client", b"x" * 1025), ("client", "x")):
        with pytest.raises(EntryError):
            Tag(domain, value)  # type: ignore[arg-type]


def test_tags_depend_on_key_domain_and_value_and_hide_how_often() -> None:
    key, other = bytes(32), bytes([1]) + bytes(31)
    values = {
        encoding.tag_value(key, Tag("number", b"+12025550123")),
        encoding.tag_value(other, Tag("number", b"+12025550123")),
        encoding.tag_value(key, Tag("client", b"+12025550123")),
        encoding.tag_value(key, Tag("number", b"+12025550124")),
    }
    assert len(values) == 4
    one = Tag("case", b"A-1")
    assert encoding.tag_column(key, [one, one]) == encoding.tag_column(key, [one])
    tags = [Tag("client", b"a"), Tag("number", b"+12025550123"), Tag("jkt", b"k")]
    assert encoding.tag_column(key, tags) == encoding.tag_column(key, tags[::-1])


def test_a_tagger_gives_what_the_key_gives_and_keeps_no_number() -> None:
    key = bytes(range(32))
    tagger = encoding.Tagger(key)
    who = (Tag("client", b"a"), Tag("jkt", b"k"))
    for tags in (who, (*who, *number_tags("+12125550123")), (), who):
        column = tagger.column(tags)
        assert column.stored == encoding.tag_column(key, tags)
        assert column.keys == encoding.tag_keys(column.stored)
        assert column.after == encoding.header_end(column.stored)
    assert set(tagger._kept) == {who, ()}
    for n in range(10_000):
        tagger.column((Tag("token", b"%d" % n),))
    assert len(tagger._kept) <= 4096


def test_tag_keys_are_the_columns_eight_bytes_signed() -> None:
    assert encoding.tag_keys(b"\x01" + b"\xff" * 8 + b"\x02" + bytes(7) + b"\x05") == [-1, 5]


def test_the_index_of_a_stretch_says_where_each_tag_stands() -> None:
    one, two = b"\x01" + bytes(7) + b"\x01", b"\x02" + bytes(7) + b"\x02"
    same = b"\x03" + bytes(7) + b"\x01"  # another domain, the same 8 bytes
    columns = [one + two, b"", one + same, *[b""] * 300, two]
    keys, places = encoding.tag_index([encoding.tag_keys(column) for column in columns])
    assert keys == [1, 2]
    assert [p.hex() for p in places] == ["00000002", "0000012f"]
    assert encoding.tag_index([[], []]) == ([], [])


def test_numbers_outside_the_plan_have_no_block() -> None:
    assert [t.domain for t in number_tags("+12025550123")] == ["number", "thousands_block", "exchange"]
    assert [t.value for t in number_tags("+12025550123")][1:] == [b"+12025550", b"+1202555"]
    for number in ("+442079460000", "12025550123", "+1202555012", "5550123", "+1202555٠123"):
        assert [t.domain for t in number_tags(number)] == ["number"]


def test_times_and_months_are_utc() -> None:
    at = datetime(2026, 11, 30, 20, 0, 0, 5, tzinfo=timezone(timedelta(hours=-5)))
    assert timestamp(at) == "2026-12-01T01:00:00.000005Z"
    assert month_of(at) == 202612
    assert timestamp(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000000Z"


def test_ids_are_uuid_version_7_and_differ() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    assert ids[0].int >> 80 <= ids[-1].int >> 80


HEADER = VECTORS["entries"][0]["header"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        HEADER[:-1],
        HEADER + " ",
        HEADER.replace('"v":1', '"v":2'),
        HEADER.replace('"v":1', '"v":1,"x":1'),
        HEADER.replace("access.intent", "access.unheard"),
        HEADER.replace("2026-11-05T", "2026-11-05 "),
        HEADER.replace('"actor":', '"artor":'),
        HEADER.replace('{"access"', '{ "access"'),
        HEADER.replace("0199a3c0-0000-7000-8000-000000000001", "1"),
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_header_that_is_not_one_is_broken_not_a_crash(text: str) -> None:
    with pytest.raises(LedgerBroken) as caught:
        encoding.read_header(7, text.encode(errors="surrogateescape"))
    assert caught.value.index == 7


def test_an_opening_is_held_to_its_commitment_part_and_version() -> None:
    good = encoding.opening("actor", {"a": 1}, bytes(16))
    assert encoding.read_opening(3, "actor", good, encoding.commitment(good)) == {"a": 1}
    with pytest.raises(LedgerBroken, match="commits"):
        encoding.read_opening(3, "actor", good, encoding.commitment(good + b" "))
    for bad in (good.replace(b'"v":1', b'"v":9'), b"[]", b"{", b'{"part":"actor","v":1,"value":[]}', b"\xff"):
        with pytest.raises(LedgerBroken):
            encoding.read_opening(3, "actor", bad, encoding.commitment(bad))
    with pytest.raises(LedgerBroken, match="opening"):
        encoding.read_opening(3, "request", good, encoding.commitment(good))
