"""From a permit to what the store is asked: the same scope cut where an OCN passes from or to the caller. Pure.

The store reads one set of OCNs over one window. Where a carrier code changed hands inside the window, the set changes
there, so the answer is the concatenation of segments, each with its own set. A place in the answer is therefore a
segment and a position within it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise

from proxy.disclosure.scope import Position, Scope
from proxy.policy import Permit


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the window through which the set of OCNs stays the same."""

    start_us: int
    end_us: int
    ocns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in an answer: rows strictly after ``position`` of segment number ``segment`` come next."""

    segment: int
    position: Position

    def as_list(self) -> list[str]:
        """Return it for a log entry: integers as text, for they may pass 2^53."""
        p = self.position
        return [str(self.segment), str(p.month), str(p.pair_id), str(p.record_id)]


def place_of(values: list[str]) -> Place:
    """Return the place that :meth:`Place.as_list` wrote."""
    segment, month, pair_id, record_id = (int(v) for v in values)
    return Place(segment, Position(month, pair_id, record_id))


def segments(permit: Permit) -> tuple[Segment, ...]:
    """Return the segments of a permit's windows, in time order; none overlap, none is empty."""
    cuts = sorted({w.start_us for w in permit.windows} | {w.end_us for w in permit.windows})
    found: list[Segment] = []
    for start, end in pairwise(cuts):
        ocns = tuple(sorted({w.ocn for w in permit.windows if w.start_us <= start and end <= w.end_us}))
        if not ocns:
            continue
        if found and found[-1].end_us == start and found[-1].ocns == ocns:
            found[-1] = Segment(found[-1].start_us, end, ocns)
        else:
            found.append(Segment(start, end, ocns))
    return tuple(found)


def scope(segment: Segment, permit: Permit, after_id: int, as_of: int) -> Scope:
    """Return what the store is asked for one segment.

    Args:
        after_id: only records that the store got after this one.
        as_of: the last record id of the answer, pinned when it began.
    """
    return Scope(
        ocns=segment.ocns,
        sides=permit.sides,
        start_us=segment.start_us,
        end_us=segment.end_us,
        classes=permit.classes,
        after_id=after_id,
        as_of=as_of,
    )


def digest(permit: Permit) -> str:
    """Return a digest of all that a permit lets out: a cursor made under another one does not fit."""
    windows = [[w.start_us, w.end_us, w.ocn] for w in permit.windows]
    parts = [permit.action.value, sorted(permit.sides), permit.fields, windows]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:32]
