"""Segments of a permit: pure arithmetic against the plain meaning."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.disclosure.plan import Place, digest, place_of, scope, segments
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
