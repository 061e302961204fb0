"""Search tags: equal to `cryptography`'s own CMAC, found exactly, sealed in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import SealError
from keys.provider import DataKey, Period
from keys.sealing import seal
from proxy.store import tags
from proxy.store.planes import FormatError, compress, decompress
from schema.fields import TagDomain

quick = settings(max_examples=40, deadline=None, database=None)
KEY = DataKey(9, Period("tags", 202607), b"k" * 32)
TAGGER = tags.Tagger(KEY)


def reference(domain: TagDomain, value: bytes) -> int:
    """The published definition, with `cryptography` alone."""
    mac = CMAC(AES256(tags.derive(KEY, "search tag 1")))
    mac.update(bytes([domain.value]) + value)
    return int.from_bytes(mac.finalize()[:5], "big")


@quick
@given(st.lists(st.integers(1, 10**15 - 1), max_size=40))
def test_numbers_are_tagged_as_published(numbers: list[int]) -> None:
    made = TAGGER.numbers(np.array(numbers, np.int64)).tolist()
    assert made == [reference(TagDomain.NUMBER, n.to_bytes(8, "big")) for n in numbers]


@quick
@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), max_size=20), st.sampled_from(TagDomain)
)
def test_texts_are_tagged_as_published(texts: list[str], domain: TagDomain) -> None:
    made = TAGGER.texts(domain, pa.array(texts, pa.string())).tolist()
    assert made == [reference(domain, t.encode()) for t in texts]


def test_a_number_as_a_caller_writes_it() -> None:
    assert TAGGER.number("+12025550100") == reference(TagDomain.NUMBER, (12025550100).to_bytes(8, "big"))
    assert TAGGER.number("12025550100") == reference(TagDomain.RAW_NUMBER, b"12025550100")
    assert TAGGER.number("+12025550100") != TAGGER.number("12025550100")


def test_months_and_domains_do_not_share_tags() -> None:
    other = tags.Tagger(DataKey(10, Period("tags", 202608), b"l" * 32))
    assert other.number("+12025550100") != TAGGER.number("+12025550100")
    texts = pa.array(["x"])
    assert len({int(TAGGER.texts(d, texts)[0]) for d in TagDomain}) == len(TagDomain)


TABLE: dict[str, list[Any]] = {
    "calling": [12025550100, None, 12025550102, 12025550100],
    "calling_raw": [None, "0101", None, None],
    "called": [12025550103, 12025550100, None, None],
    "charge_number": [None] * 4,
    "account": ["A1", "A1", None, "A2"],
    "imsi": ["001010123456789", None, None, None],
    "ingress_trunk": ["t1", "t1", "t2", "t1"],
    "egress_trunk": ["t2", None, "t3", "t1"],
    "disposition": ["answered"] * 4,
    "name": ["nobody"] * 4,
}


def table(columns: dict[str, list[Any]] = TABLE) -> pa.Table:
    kinds = {"calling", "called", "charge_number"}
    return pa.table({n: pa.array(v, pa.int64() if n in kinds else pa.string()) for n, v in columns.items()})


def test_every_searchable_value_is_under_its_tag_with_its_chunk_and_nothing_else_is() -> None:
    made = tags.entries(TAGGER, table(), np.array([0, 0, 1, 2]))
    wanted = {
        *((TAGGER.number("+12025550100"), ref) for ref in (0, 2)),
        (TAGGER.number("0101"), 0),
        (TAGGER.number("+12025550102"), 1),
        (TAGGER.number("+12025550103"), 0),
    }
    for domain, value, refs in (
        (TagDomain.ACCOUNT, "A1", (0,)),
        (TagDomain.ACCOUNT, "A2", (2,)),
        (TagDomain.IMSI, "001010123456789", (0,)),
        (TagDomain.TRUNK, "t1", (0, 2)),
        (TagDomain.TRUNK, "t2", (0, 1)),
        (TagDomain.TRUNK, "t3", (1,)),
    ):
        wanted |= {(reference(domain, value.encode()), ref) for ref in refs}
    assert {(int(e) >> tags.REF_BITS, int(e) & (1 << tags.REF_BITS) - 1) for e in made} == wanted
    assert made.tolist() == sorted(made.tolist())
    assert len(made) == len(wanted), "an entry stands twice"


def sealed(entries: Any) -> tuple[int, dict[int, tuple[int, bytes]]]:
    bits, segments = tags.seal_segments(KEY, 202607, 5, entries)
    return bits, {bucket: (count, blob) for bucket, count, blob in segments}


@quick
@given(st.sets(st.tuples(st.integers(0, 2**40 - 1), st.integers(0, 2**24 - 1)), min_size=1, max_size=60))
def test_segments_read_back(pairs: set[tuple[int, int]]) -> None:
    made = np.array(sorted(t << tags.REF_BITS | r for t, r in pairs), np.uint64)
    bits, segments = sealed(made)
    assert bits == 0
    ((bucket, (count, blob)),) = segments.items()
    opened = tags.open_segment(KEY, 202607, 5, bucket, count, blob)
    assert opened.tolist() == made.tolist()
    for tag, _ in pairs:
        assert tags.references(opened, tag) == sorted(r for t, r in pairs if t == tag)
        beside = tag ^ 1
        assert tags.references(opened, beside) == sorted(r for t, r in pairs if t == beside)


def test_the_least_and_the_greatest_tag_are_found() -> None:
    made = np.array([0, 2**64 - 1], np.uint64)
    _, segments = sealed(made)
    opened = tags.open_segment(KEY, 202607, 5, 0, *segments[0])
    assert tags.references(opened, 0) == [0]
    assert tags.references(opened, 2**40 - 1) == [2**24 - 1]


def test_a_large_run_is_cut_into_buckets_by_leading_bits() -> None:
    random = np.random.default_rng(1)
    made = np.unique(random.integers(0, 2**63, 20_000, dtype=np.uint64) << np.uint64(1))
    bits, segments = sealed(made)
    assert bits == 3
    assert sum(count for count, _ in segments.values()) == len(made)
    for entry in made[::997].tolist():
        tag = entry >> tags.REF_BITS
        bucket = tags.bucket_of(tag, bits)
        opened = tags.open_segment(KEY, 202607, 5, bucket, *segments[bucket])
        assert entry & (1 << tags.REF_BITS) - 1 in tags.references(opened, tag)


def test_an_empty_run_has_no_segments() -> None:
    assert sealed(np.empty(0, np.uint64)) == (0, {})


@pytest.mark.parametrize(
    ("month", "run", "bucket", "more"), [(202608, 5, 0, 0), (202607, 6, 0, 0), (202607, 5, 1, 0), (202607, 5, 0, 1)]
)
def test_a_segment_does_not_open_elsewhere(month: int, run: int, bucket: int, more: int) -> None:
    _, segments = sealed(np.array([1, 2, 3], np.uint64))
    count, blob = segments[0]
    with pytest.raises(SealError):
        tags.open_segment(KEY, month, run, bucket, count + more, blob)


def test_a_segment_that_is_none_is_refused() -> None:
    body = decompress(tags._encode(np.array([1, 2, 3], np.uint64)))
    aad = tags._aad(202607, 5, 0, 3)
    for wrong in (body[:-1], body + b"\0", b"", b"\2" + body[1:], body[:13] + b"\x09" + body[14:]):
        with pytest.raises(FormatError):
            tags.open_segment(KEY, 202607, 5, 0, 3, seal(KEY, [compress(wrong)], aad))
