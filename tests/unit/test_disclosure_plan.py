"""Segments of a permit, and the record set of an answer: pure arithmetic against the plain meaning."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.disclosure.plan import Place, digest, place_of, scope, segments
from proxy.disclosure.records import RUNS_MAX, RecordSet, runs_of
from proxy.disclosure.scope import Position
from proxy.policy import Action, OcnWindow, Permit, Purpose
from schema.fields import DisclosureClass


def _permit(*windows: OcnWindow, fields: tuple[str, ...] = ("record_id",)) -> Permit:
    classes = frozenset({DisclosureClass.TIMING})
    return Permit(Purpose.BILLING, Action.PULL, "b", "a", classes, fields, frozenset({"ingress"}), tuple(windows))


_windows = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 10), st.sampled_from(["123A", "9999"])).map(
        lambda t: OcnWindow(t[0], t[0] + t[1], t[2])
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(_windows)
def test_segments_say_the_same_as_the_windows(windows: list[OcnWindow]) -> None:
    found = segments(_permit(*windows))
    assert all(a.end_us <= b.start_us for a, b in pairwise(found))
    assert all(not (a.end_us == b.start_us and a.ocns == b.ocns) for a, b in pairwise(found))
    for moment in range(31):
        permitted = {w.ocn for w in windows if w.start_us <= moment < w.end_us}
        planned = [ocn for s in found if s.start_us <= moment < s.end_us for ocn in s.ocns]
        assert sorted(permitted) == planned


def test_a_scope_carries_nothing_beyond_the_permit() -> None:
    permit = _permit(OcnWindow(5, 10, "123A"))
    made = scope(segments(permit)[0], permit, after_id=3, as_of=9)
    assert (made.ocns, made.sides, made.classes) == (("123A",), permit.sides, permit.classes)
    assert (made.start_us, made.end_us, made.after_id, made.as_of) == (5, 10, 3, 9)


def test_the_digest_tells_permits_apart() -> None:
    one = _permit(OcnWindow(5, 10, "123A"))
    others = [
        _permit(OcnWindow(5, 11, "123A")),
        _permit(OcnWindow(5, 10, "9999")),
        _permit(OcnWindow(5, 10, "123A"), fields=("record_id", "started_at")),
    ]
    assert len({digest(p) for p in (one, *others)}) == 4
    assert digest(one) == digest(_permit(OcnWindow(5, 10, "123A")))


def test_a_place_survives_the_log() -> None:
    place = Place(3, Position(202611, 2**40, 2**62))
    assert place_of(place.as_list()) == place
    assert all(isinstance(v, str) for v in place.as_list())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.integers(1, 60), unique=True, max_size=20).map(sorted), max_size=5))
def test_runs_hold_exactly_the_ids(blocks: list[list[int]]) -> None:
    records = RecordSet()
    for ids in blocks:
        array = np.array(ids, np.int64)
        records.add(len(ids), runs_of(array))
    value = records.as_json()
    flat = [i for ids in blocks for i in ids]
    assert value["rows"] == len(flat)
    if flat:
        assert (value["first"], value["last"]) == (str(min(flat)), str(max(flat)))
        assert [i for a, b in value["runs"] for i in range(int(a), int(b) + 1)] == flat
    else:
        assert set(value) == {"rows"}


def test_ragged_ids_are_not_listed_but_still_counted_and_digested() -> None:
    def of(step: int, count: int) -> dict[str, object]:
        records = RecordSet()
        for start in range(0, count, 100):
            ids = np.arange(start, start + 100, dtype=np.int64) * step
            records.add(100, runs_of(ids))
        return records.as_json()

    ragged = of(2, 2_000)
    assert "runs" not in ragged
    assert (ragged["rows"], ragged["first"], ragged["last"]) == (2_000, "0", "3998")
    assert ragged["runs_sha256"] != of(3, 2_000)["runs_sha256"]
    assert of(1, 2_000)["runs"] == [["0", "1999"]]
    assert "runs" in of(2, RUNS_MAX - RUNS_MAX % 100)
