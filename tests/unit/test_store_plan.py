"""Which runs are rolled together: a plan over values."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.store.reseal import roll
from proxy.store.reseal.roll import plan
from proxy.store.writer import Run

CAP = 1000


@pytest.fixture(autouse=True)
def small_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll, "ROLL_ROWS", CAP)


def runs(shape: list[tuple[int, int]]) -> list[Run]:
    """(level, rows) of each, in record-id order."""
    made, at = [], 1
    for i, (level, rows) in enumerate(shape):
        made.append(Run(202607, i + 1, level, rows, at, at + rows - 1))
        at += rows
    return made


SHAPES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1500)), max_size=25)


@settings(max_examples=150, deadline=None, database=None)
@given(SHAPES)
def test_every_staged_run_once_in_order_in_neighbourhoods_within_the_cap(shape: list[tuple[int, int]]) -> None:
    roll.ROLL_ROWS = CAP
    before = runs(shape)
    groups = plan(before)
    flat = [r for group in groups for r in group]
    assert [r.first_record_id for r in flat] == sorted({r.first_record_id for r in flat})
    assert {r.run_id for r in before if r.level == 0} == {r.run_id for r in flat if r.level == 0}
    for group in groups:
        assert any(r.level == 0 for r in group), "what is settled is left alone"
        assert all(b.run_id == a.run_id + 1 for a, b in pairwise(group)), "a run between two was left out"
        assert sum(r.rows for r in group) <= CAP or len(group) == 1


def history(files: list[int]) -> tuple[list[Run], int]:
    """Ingest files one after another, rolling after each: what is left, and how many rows were sealed again in all."""
    settled: list[Run] = []
    sealed = at = 0
    for n, rows in enumerate(files):
        settled.append(Run(202607, n + 1, 0, rows, at + 1, at + rows))
        at += rows
        for group in plan(settled):
            total = sum(r.rows for r in group)
            sealed += total
            made = Run(202607, group[0].run_id, 1 + max(r.level for r in group), total, group[0].first_record_id, 0)
            keep = {r.run_id for r in settled} - {r.run_id for r in group}
            settled = sorted([made, *(r for r in settled if r.run_id in keep)], key=lambda r: r.first_record_id)
    return settled, sealed


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300))
def test_each_record_is_sealed_again_a_logarithmic_number_of_times(files: list[int]) -> None:
    roll.ROLL_ROWS = 1 << 20
    left, sealed = history(files)
    total = sum(files)
    assert sum(r.rows for r in left) == total
    assert sealed <= total * (3 + 2.5 * len(files).bit_length())
    assert len(left) <= 2 + total.bit_length(), "small runs pile up"


def test_steady_small_files_end_in_few_runs_of_about_the_cap() -> None:
    left, sealed = history([10] * 1000)
    assert sum(r.rows for r in left) == 10_000
    assert len(left) <= 25
    assert sealed <= 10_000 * 10
