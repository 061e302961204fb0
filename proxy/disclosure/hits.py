"""Where values stand, by their keyed tags: which chunks of which batches. Nothing of a record is opened for it.

The segments of all months asked for are fetched by one statement; a bucket is opened whole and searched for all its
wanted tags at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
import numpy as np
import numpy.typing as npt

from keys.datakeys import DataKey
from proxy.store import tags
from proxy.store.batches import BATCHES_PER_RUN, CHUNKS_PER_BATCH
from proxy.store.planes import Words

Ints = npt.NDArray[np.int64]

Chunks = dict[int, dict[int, list[int]]]
"""Month → batch id → chunks, ascending."""

_RUNS: Final = """
SELECT month, run_id, tag_bits, first_record_id, last_record_id FROM tollgate.run
WHERE month = ANY ($1) AND level > 0 AND last_record_id > $2 AND first_record_id <= $3
"""
_SEGMENTS: Final = """
SELECT t.month, t.run_id, t.bucket, t.entries, t.sealed FROM tollgate.tag_segment t
JOIN unnest($1::int[], $2::bigint[], $3::int[]) w(month, run_id, bucket)
    ON t.month = w.month AND t.run_id = w.run_id AND t.bucket = w.bucket
WHERE t.month = ANY ($4)
"""


async def runs(conn: asyncpg.Connection, months: Sequence[int], after_id: int, as_of: int) -> list[asyncpg.Record]:
    """Return the rolled runs that hold records of these months and ids."""
    return await conn.fetch(_RUNS, list(months), after_id, as_of)  # type: ignore[no-any-return]


def buckets(wanted: Words, bits: int) -> Ints:
    """Return the buckets, of a run of so many bucket bits, in which tags may stand (n,)."""
    return np.unique(wanted >> np.uint64(tags.TAG_BITS - bits)).astype(np.int64)


async def segments(
    conn: asyncpg.Connection, found: Sequence[asyncpg.Record], wanted: Mapping[int, Words]
) -> list[asyncpg.Record]:
    """Fetch the segments of some runs in which the tags wanted of each month may stand."""
    places = [buckets(wanted[r["month"]], r["tag_bits"]) for r in found]
    counts = [len(p) for p in places]
    return await conn.fetch(  # type: ignore[no-any-return]
        _SEGMENTS,
        np.repeat([r["month"] for r in found], counts).tolist(),
        np.repeat([r["run_id"] for r in found], counts).tolist(),
        np.concatenate(places).tolist() if places else [],
        list(wanted),
    )


def references(rows: Sequence[asyncpg.Record], wanted: Mapping[int, Words], keys: Mapping[int, DataKey]) -> Chunks:
    """Open segments; return the chunks that stand under the wanted tags of each month.

    Args:
        rows: of :func:`segments`.
        wanted: month → tags, sorted.
        keys: month → its tag key.

    Raises:
        SealError, FormatError: as ``tags.open_segment``.
    """
    out: Chunks = {m: {} for m in wanted}
    for r in rows:
        month = r["month"]
        segment = tags.open_segment(keys[month], month, r["run_id"], r["bucket"], r["entries"], r["sealed"])
        for ref in tags.references(segment, wanted[month]):
            ordinal, chunk = divmod(ref, CHUNKS_PER_BATCH)
            chunks = out[month].setdefault(r["run_id"] * BATCHES_PER_RUN + ordinal, [])
            if chunk not in chunks:  # of at most four
                chunks.append(chunk)
    for batches in out.values():
        for chunks in batches.values():
            chunks.sort()
    return out
