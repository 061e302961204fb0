"""Sets of records as the log keeps them: exact, small, in a form that others read, never more than an entry holds."""

from __future__ import annotations

import base64
import json
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap, BitMap64

from proxy.disclosure.records import (
    RUNS_MAX,
    SET_BYTES_MAX,
    Ids,
    RecordsError,
    RecordSet,
    bitmap_of,
    ids_of,
    portion_of,
    read_set,
)
from proxy.ledger.model import RECORDS_MAX

BIG = 2**33
_ids = st.one_of(
    st.lists(st.integers(1, 400), unique=True, max_size=200),
    st.lists(st.integers(1, 2**62), unique=True, max_size=40),
    st.tuples(st.integers(1, BIG), st.integers(0, 70_000)).map(
        lambda t: list(range(t[0], t[0] + t[1], 1 + t[1] // 90))
    ),
    st.tuples(st.integers(BIG - 300, BIG), st.integers(0, 600)).map(lambda t: list(range(t[0], t[0] + t[1]))),
).map(sorted)


def array(ids: list[int]) -> Ids:
    return np.array(ids, np.int64)


def portable(data: bytes) -> list[int]:
    """Read the portable 64-bit form by its description: upper halves, each with a 32-bit bitmap."""
    (count,) = struct.unpack_from("<Q", data)
    at, found = 8, []
    for _ in range(count):
        (high,) = struct.unpack_from("<I", data, at)
        low = BitMap.deserialize(data[at + 4 :])
        low.shrink_to_fit()
        found += [high << 32 | each for each in low]
        at += 4 + len(low.serialize())
    assert at == len(data)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(_ids, max_size=4))
@example([list(range(1, 100)), list(range(50, 150))])
@example([[2**63 - 1]])
@example([list(range(0, 8_192, 2)), [70_000]])  # the most ids that stand in an array
@example([list(range(0, 8_194, 2)), [70_000]])  # the fewest that stand as bits
def test_a_set_is_exactly_what_was_put_in(pieces: list[list[int]]) -> None:
    records = RecordSet()
    for ids in pieces:
        assert ids_of(bitmap_of(array(ids))).tolist() == ids
        records.add(portion_of(array(ids)))
    value = json.loads(json.dumps(records.as_json()))
    every = sorted({i for ids in pieces for i in ids})
    assert value["rows"] == len(every)
    assert ids_of(read_set(value)).tolist() == every
    if not every:
        assert set(value) == {"rows"}
        return
    assert (value["first"], value["last"]) == (str(every[0]), str(every[-1]))
    runs = 1 + sum(b != a + 1 for a, b in pairwise(every))
    if runs <= RUNS_MAX:
        assert [i for a, b in value["runs"] for i in range(int(a), int(b) + 1)] == every
        assert len(value["runs"]) == runs
    else:
        assert portable(base64.b64decode(value["roaring"])) == every


@settings(max_examples=200, deadline=None)
@given(st.lists(_ids, max_size=4))
def test_the_bound_holds(pieces: list[list[int]]) -> None:
    records, united = RecordSet(), BitMap64()
    for ids in pieces:
        records.add(portion_of(array(ids)))
        united |= bitmap_of(array(ids))
    assert len(united.serialize()) <= records.bound + 20


@pytest.mark.parametrize("step", [1, 2, 3, 17, 1_000, 65_536, 100_000, 2**33])
def test_a_full_set_fits_an_entry(step: int) -> None:
    """However far apart the records stand: a stretch ends before its set is larger."""
    records = RecordSet()
    start = 1
    while True:
        ids = start + step * np.arange(20_000, dtype=np.int64)
        portion = portion_of(ids)
        if records.bound + portion.bound > SET_BYTES_MAX or start > 1_500_000 * step:
            break
        records.add(portion)
        start = int(ids[-1]) + step
    in_flight = RecordSet()
    in_flight.add(portion)
    value = {"records": records.as_json(), "in_flight": in_flight.as_json()}
    assert len(json.dumps(value)) + 20_000 < RECORDS_MAX, "with the checkpoints' places beside it"


def test_far_apart_ends_a_stretch_only_where_records_stand_thinly() -> None:
    spread = np.sort(np.random.default_rng(5).choice(50_000_000, 1_000_000, replace=False))
    bound = sum(portion_of(spread[at : at + 12_000]).bound for at in range(0, len(spread), 12_000))
    assert bound < SET_BYTES_MAX, "a million records of fifty million take one entry"


def test_what_is_no_set_is_refused() -> None:
    good = RecordSet()
    good.add(portion_of(np.arange(0, 1_000, 3)))
    value = good.as_json()
    data = base64.b64decode(value["roaring"])
    for broken in (
        value | {"rows": 333},
        value | {"rows": "many"},
        value | {"roaring": "?"},
        value | {"roaring": None},
        value | {"roaring": base64.b64encode(b"").decode()},
        value | {"roaring": base64.b64encode(data[:-1]).decode()},
        {"roaring": value["roaring"]},
        {"rows": 2, "runs": [["1", "x"]]},
        {"rows": 2, "runs": [["1"]]},
        {"rows": 2, "runs": [["-5", "-4"]]},
        {"rows": 2, "runs": [["1", "99999999999999999999999"]]},
        {"rows": 2},
    ):
        with pytest.raises(RecordsError):
            read_set(broken)
