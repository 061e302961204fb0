"""Fingerprints: what makes a record the same, and what makes it another."""

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
from proxy.store import fingerprints as fp
from proxy.store.columns import ARROW
from proxy.store.tags import derive
from schema.fields import FIELDS, Field, Kind

KEY = DataKey(9, Period("fingerprints", 202607), b"k" * 32)
FP = fp.Fingerprinter(KEY)
NOT_CONTENT = {"record_id", "ingest_id", "line_number", "ingress_ocn", "egress_ocn"}
CONTENT = [f for f in FIELDS if f.name not in NOT_CONTENT]


def value(f: Field, n: int) -> Any:
    return f"{f.name}-{n}" if f.kind is Kind.TEXT else 12025550100 + n


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(n for r in rows for n in r))
    kinds = {f.name: ARROW[f.kind] for f in FIELDS} | {f.name + "_raw": pa.string() for f in FIELDS}
    return pa.table({n: pa.array([r.get(n) for r in rows], kinds[n]) for n in names})


def prints(rows: list[dict[str, Any]], identity: list[str] | None = None) -> list[tuple[int, int]]:
    names = identity or ["same"] * len(rows)
    made = FP.of(table(rows), pa.array(names))
    return list(zip(made.high.tolist(), made.low.tolist(), strict=True))


FULL = {f.name: value(f, 1) for f in CONTENT}


def cmac(key: bytes, data: bytes) -> bytes:
    mac = CMAC(AES256(key))
    mac.update(data)
    return mac.finalize()


def published(row: dict[str, Any], identity: str) -> tuple[int, int]:
    """The published definition, one record at a time."""
    who = cmac(derive(KEY, "fingerprint identity 1"), b"\1" + identity.encode())
    key = derive(KEY, "fingerprint content 1")
    total = 0
    for name, v in row.items():
        if v is None or name in NOT_CONTENT:
            continue
        mac = cmac(key, b"\2" + name.encode())
        k, c = int.from_bytes(mac[:8], "big") | 1, int.from_bytes(mac[8:], "big")
        word = int.from_bytes(cmac(key, b"\3" + v.encode())[:8], "big") if isinstance(v, str) else v
        total += k * word + c
    return int.from_bytes(who[:8], "big"), int.from_bytes(who[8:12], "big") << 32 | (total % 2**64) >> 32


def test_as_published() -> None:
    rows = [FULL, {"started_at": 5, "calling_raw": "anonymous", "duration_ms": -1, "called": None}]
    assert prints(rows, ["a", "é" * 30]) == [published(rows[0], "a"), published(rows[1], "é" * 30)]


@pytest.mark.parametrize("f", CONTENT, ids=lambda f: f.name)
def test_every_content_field_counts(f: Field) -> None:
    """Another value, no value, a value where there was none: other content, same identity."""
    changed = {**FULL, f.name: value(f, 2)}
    missing = {n: v for n, v in FULL.items() if n != f.name}
    alone = [{"started_at": 1}, {"started_at": 1, f.name: value(f, 3)}]
    made = prints([FULL, changed, missing])
    assert len(set(made)) == 3
    assert len({(high, low >> 32) for high, low in made}) == 1
    if f.name != "started_at":
        assert len(set(prints(alone))) == 2


@pytest.mark.parametrize("f", [f for f in FIELDS if f.kind is Kind.NUMBER], ids=lambda f: f.name)
def test_a_raw_number_counts_and_is_not_the_number(f: Field) -> None:
    rest = {n: v for n, v in FULL.items() if n != f.name}
    raw = [{**rest, f.name + "_raw": t} for t in ("12025550101", "0101", "")]
    assert len(set(prints([FULL, rest, *raw]))) == 5


def test_two_fields_that_swap_their_values_are_other_content() -> None:
    swapped = {**FULL, "calling": FULL["called"], "called": FULL["calling"], "called_lrn": FULL["calling_lrn"]}
    assert len(set(prints([{**FULL, "called": 5}, {**swapped, "calling": 5}]))) == 2


@pytest.mark.parametrize("name", sorted(NOT_CONTENT))
def test_what_the_gate_adds_does_not_count(name: str) -> None:
    added = "456B" if name.endswith("ocn") else 7
    assert len(set(prints([FULL]) + prints([{**FULL, name: added}]))) == 1


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 30), st.integers(1, 31), st.booleans())
def test_company_does_not_count(start: int, size: int, recurring: bool) -> None:
    """The same record in a chunk of others, in another order, with columns it lacks, gives the same fingerprint."""
    rows = [{"started_at": i, "switch_id": "sw" if recurring else f"sw-{i}"} for i in range(31)]
    rows += [{"started_at": 99, "account": "only one", "calling": 5}]
    names = [f"call-{i}" for i in range(32)]
    whole = prints(rows, names)
    index = [i % 32 for i in range(start, start + size)]
    assert prints([rows[i] for i in index], [names[i] for i in index]) == [whole[i] for i in index]


def test_a_months_key_is_its_own() -> None:
    other = fp.Fingerprinter(DataKey(10, Period("fingerprints", 202608), b"l" * 32))
    mine, its = (p.of(table([FULL]), pa.array(["x"])) for p in (FP, other))
    assert mine.high[0] != its.high[0]
    assert mine.low[0] & np.uint64(0xFFFFFFFF) != its.low[0] & np.uint64(0xFFFFFFFF)


# Comparing, against an oracle that works on plain tuples. Few identities, so that everything happens.

RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=14)


def made(records: list[tuple[int, int, int]]) -> fp.Prints:
    """(first 64 bits of the identity, its next 32, content)."""
    return fp.Prints(
        np.array([h for h, _, _ in records], np.uint64), np.array([i << 32 | c for _, i, c in records], np.uint64)
    )


@settings(max_examples=80, deadline=None, database=None)
@given(RECORDS)
def test_among_themselves_the_first_stands(records: list[tuple[int, int, int]]) -> None:
    duplicate, conflict = fp.among(made(records))
    first: dict[tuple[int, int], int] = {}
    for i, (h, identity, content) in enumerate(records):
        stands = first.setdefault((h, identity), content)
        new = (h, identity) not in {(a, b) for a, b, _ in records[:i]}
        assert duplicate[i] == (not new and content == stands)
        assert conflict[i] == (not new and content != stands)


@settings(max_examples=80, deadline=None, database=None)
@given(RECORDS, RECORDS)
def test_against_what_is_known(records: list[tuple[int, int, int]], known: list[tuple[int, int, int]]) -> None:
    seen = {(h, i): c for h, i, c in known}
    stored = made([(h, i, c) for (h, i), c in seen.items()]).sorted()
    duplicate, conflict = fp.against(made(records), stored)
    for n, (h, i, c) in enumerate(records):
        assert duplicate[n] == (seen.get((h, i)) == c)
        assert conflict[n] == ((h, i) in seen and seen[h, i] != c)


# Segments.


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=50))
def test_segments_read_back(words: list[tuple[int, int]]) -> None:
    whole = fp.Prints(*(np.array(c, np.uint64) for c in zip(*words, strict=True))).sorted()
    blob = fp.seal_segment(KEY, 202607, 20_000, 5, whole)
    opened = fp.open_segment(KEY, 202607, 20_000, 5, len(whole), blob)
    assert (opened.high.tolist(), opened.low.tolist()) == (whole.high.tolist(), whole.low.tolist())


@pytest.mark.parametrize(
    ("month", "day", "segment", "count"), [(202608, 1, 5, 2), (202607, 2, 5, 2), (202607, 1, 6, 2), (202607, 1, 5, 3)]
)
def test_a_segment_does_not_open_elsewhere(month: int, day: int, segment: int, count: int) -> None:
    two = fp.Prints(np.array([1, 2], np.uint64), np.array([3, 4], np.uint64))
    blob = fp.seal_segment(KEY, 202607, 1, 5, two)
    assert len(fp.open_segment(KEY, 202607, 1, 5, 2, blob)) == 2
    with pytest.raises(SealError):
        fp.open_segment(KEY, month, day, segment, count, blob)
