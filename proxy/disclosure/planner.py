"""By tag or by a scan: what finding the targets in a month is likely to cost. Pure.

By tag, buckets of segments are fetched and opened, and then only the chunks in which something stands; by a scan, the
matching class of every chunk. The more targets, the more buckets are opened, to learn that nearly every chunk has one.
Both find the same records.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp
from typing import Final, Protocol

from proxy.store.batches import CHUNK_ROWS

SEGMENT_US: Final = 110.0
"""To fetch and open one bucket."""
CHUNK_US: Final = 260.0
"""To fetch one chunk's matching class, open it and compare."""
HITS: Final = 2e-6
"""Chunks in which one target stands, for each record of a run: about two in a million."""


class RunLike(Protocol):
    """A row of tollgate.run."""

    def __getitem__(self, name: str, /) -> int: ...


def by_tag(targets: int, runs: Iterable[RunLike]) -> bool:
    """Say whether the tags are likely to be the quicker way to so many targets in the runs of a month."""
    segments = saved = 0.0
    for run in runs:
        rows = run["last_record_id"] - run["first_record_id"] + 1
        chunks = max(1.0, rows / CHUNK_ROWS)
        buckets = 1 << run["tag_bits"]
        segments += buckets * (1 - (1 - 1 / buckets) ** targets)
        saved += chunks * exp(-targets * max(HITS * rows, 0.1) / chunks)
    return segments * SEGMENT_US <= saved * CHUNK_US
