"""The pure parts of an extraction: targets, the sweep, the planner, orders. Against plain Python over the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.datakeys import DataKey
from keys.provider import Period
from proxy.disclosure.orders import ordered, read_order
from proxy.disclosure.planner import by_tag
from proxy.disclosure.sweep import Sweep, held_schema
from proxy.disclosure.targets import Targets
from proxy.policy.extraction import BESIDE, ExtractionRefusedError, Target, TargetKind
from proxy.store import tags
from tests.support.held import order, target

NUMBERS = st.integers(12_025_550_100, 12_025_550_140)
KEY = DataKey(9, Period("tags", 202607), b"k" * 32)


def targets_of(numbers: Any, *texts: str) -> Targets:
    return Targets.of([target(f"+{n}") for n in numbers] + [target(t) for t in texts])


@given(
    st.sets(NUMBERS, min_size=1, max_size=8),
    st.lists(st.tuples(st.none() | NUMBERS, st.none() | NUMBERS, st.none() | st.sampled_from(["5551", "911"]))),
)
def test_matching_is_being_among_them(wanted: set[int], rows: list[tuple[int | None, int | None, str | None]]) -> None:
    found = {
        "calling": pa.array([r[0] for r in rows], pa.int64()),
        "called": pa.array([r[1] for r in rows], pa.int64()),
        "called_raw": pa.array([r[2] for r in rows], pa.string()),
        "ingress_trunk": pa.array(["911"] * len(rows), pa.string()),
    }
    mask = targets_of(wanted, "911").match(found, len(rows))
    assert mask.tolist() == [r[0] in wanted or r[1] in wanted or r[2] == "911" for r in rows]
    only = targets_of(wanted, "911").match(found, len(rows), {"calling"})
    assert only.tolist() == [r[0] in wanted for r in rows]


def test_what_lies_under_a_null_is_no_number() -> None:
    column = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x02"), pa.py_buffer(np.array([12025550100, 12025550100]))]
    )
    assert targets_of([12025550100]).match({"called": column}, 2).tolist() == [False, True]
    # A number whose low bits are a target's, and one beyond all targets.
    near = pa.array([12025550100 + (1 << 20), (1 << 40) + (12025550100 & 0xFFFFF)])
    assert not targets_of([12025550100]).match({"called": near}, 2).any()


def test_text_that_is_coded_by_a_dictionary() -> None:
    coded = pa.array(["a", None, "b", "a"]).dictionary_encode()
    assert targets_of([], "trunk:a").match({"egress_trunk": coded}, 4).tolist() == [True, False, False, True]


def test_tags_are_those_that_records_were_tagged_with() -> None:
    tagger = tags.Tagger(KEY)
    table = pa.table(
        {
            "calling": pa.array([12025550100]),
            "called_raw": ["911"],
            "account": ["A-1"],
            "imsi": ["001"],
            "ingress_trunk": ["tg"],
        }
    )
    entries = tags.entries(tagger, table, np.array([7]))
    wanted = targets_of([12025550100], "911", "account:A-1", "imsi:001", "trunk:tg").tags(tagger)
    assert sorted((entries >> np.uint64(tags.REF_BITS)).tolist()) == wanted.tolist()
    assert tags.references(entries, wanted) == [7]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=60), st.sets(st.integers(0, 60), max_size=9))
def test_references_of_several_tags(pairs: list[tuple[int, int]], wanted: set[int]) -> None:
    segment = np.unique(np.array([t << tags.REF_BITS | r for t, r in pairs], np.uint64))
    found = tags.references(segment, np.array(sorted(wanted), np.uint64))
    assert found == sorted({r for t, r in pairs if t in wanted})


def test_targets_are_written_and_read() -> None:
    made = targets_of([12025550100, 442079460100], "911", "account:Ä-1")
    value = made.as_json()
    again = Targets.read(value)
    assert (again.numbers.tolist(), again.texts, again.digest()) == (made.numbers.tolist(), made.texts, made.digest())
    for change in ({"sha256": "0" * 64}, {"numbers": [3, value["numbers"][1]]}, {"numbers": [2, "!"]}):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            Targets.read(value | change)
    with pytest.raises(ExtractionRefusedError):
        Targets.of([Target(TargetKind.ACCOUNT, "a\nb")])
    with pytest.raises(ExtractionRefusedError):
        Targets.of([target("+1202")] * 100_001)


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 3), st.integers(1, 30)), max_size=60, unique_by=lambda r: r[1:]
)


def as_table(rows: list[tuple[int, int, int]], first_id: int = 1) -> pa.Table:
    return pa.table(
        {
            "record_id": pa.array(range(first_id, first_id + len(rows)), pa.int64()),
            "started_at": pa.array([r[0] for r in rows], pa.timestamp("us", "UTC")),
            "ingest_id": pa.array([r[1] for r in rows], pa.int64()),
            "line_number": pa.array([r[2] for r in rows], pa.int64()),
        }
    )


def keys_of(table: pa.Table) -> list[tuple[int, int, int]]:
    started = table.column("started_at").cast(pa.int64()).to_pylist()
    return list(
        zip(started, table.column("ingest_id").to_pylist(), table.column("line_number").to_pylist(), strict=True)
    )


@settings(deadline=None)
@given(ROWS, st.integers(1, 9), st.integers(1, 7), st.data())
def test_a_sweep_sorts_and_cuts_whatever_came_in_which_batches(
    rows: list[tuple[int, int, int]], batch: int, size: int, data: st.DataObject
) -> None:
    """Batches in the order of their first record, some records preserved beside; then broken off, and resumed."""
    schema = held_schema(BESIDE)
    batches = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    batches.sort(key=lambda b: min(r[0] for r in b))
    beside = [r for r in rows if data.draw(st.booleans())]
    sweep, found = Sweep(schema, piece_rows=size), []
    sweep.add(as_table(beside, 100_000), preserved=True)
    for i, part in enumerate(batches):
        sweep.add(as_table(part, 1 + i * 100))
        found += list(sweep.pieces(min(r[0] for r in batches[i + 1]) if i + 1 < len(batches) else 41))
    found += list(sweep.pieces(None))
    want = sorted(rows)
    assert [k for piece in found for k in keys_of(piece)] == want
    assert [p.num_rows for p in found] == [min(size, len(rows) - i) for i in range(0, len(rows), size)]
    assert all(i < 100_000 for piece in found for i in piece.column("record_id").to_pylist())
    done = data.draw(st.integers(0, len(found)))
    held = [k for piece in found[:done] for k in keys_of(piece)]
    if held:
        at, skip = held[-1][0], sum(k[0] == held[-1][0] for k in held)
        again = Sweep(schema, at, skip, size)
        again.add(as_table([r for r in rows if r[0] >= at]))
        assert [k for piece in again.pieces(None) for k in keys_of(piece)] == want[len(held) :]


def test_the_planner() -> None:
    run = {"first_record_id": 1, "last_record_id": 1_111_112, "tag_bits": 10}
    assert by_tag(1, [run])
    assert by_tag(50, [run])
    assert not by_tag(1_000, [run])
    assert not by_tag(100_000, [run, run])
    assert by_tag(1, [])


def test_an_order_is_written_and_read() -> None:
    made = ordered(order("C-AAAAAAAAAA", "+12025550100", "911", preserved=["H-AAAAAAAAAA"]))
    again = read_order(made.text)
    assert (again.order.permit, again.digest, again.targets.digest()) == (
        made.order.permit,
        made.digest,
        made.targets.digest(),
    )
    assert set(again.order.targets) == set(made.order.targets)
    other = ordered(order("C-AAAAAAAAAA", "+12025550100", "912", preserved=["H-AAAAAAAAAA"]))
    assert other.digest != made.digest
