"""A hold's records in order of time, with bounded memory and nothing readable on a disk.

A hold is written carrier pair by carrier pair; people read calls as they happened. Up to `TOGETHER` records are put in
order in memory. More are sorted out into stretches of time, which pass through a temporary file that has no name: its
blocks are sealed with AES-256-GCM under a key that only this process has and that dies with it. The order is
(``started_at``, ``record_id``), so the same records come in the same order however the hold cut them.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.legal.production.columns import frame_of
from proxy.legal.production.model import Tables
from proxy.legal.production.survey import HOUR_US, Survey

TOGETHER = 200_000
"""Most records in memory at once, but for an hour that has more."""


async def ordered(
    tables: Tables, survey: Survey, *, together: int = TOGETHER, folder: Path | None = None
) -> AsyncIterator[pl.DataFrame]:
    """Give all records in order, some at a time.

    Args:
        tables: the hold.
        survey: what a first pass over it found.
        together: most records at once.
        folder: where the temporary file goes; default: the system's.
    """
    starts = survey.buckets(together)
    if len(starts) < 2:
        frames = [frame_of(table) async for table in tables() if table.num_rows]
        if frames:
            yield await asyncio.to_thread(_sorted, frames)
        return
    with await asyncio.to_thread(_Spool, starts, folder) as spool:
        waiting: list[pl.DataFrame] = []
        async for table in tables():
            waiting.append(frame_of(table))
            if sum(frame.height for frame in waiting) >= together:
                await asyncio.to_thread(spool.put, waiting)
                waiting = []
        await asyncio.to_thread(spool.put, waiting)
        del waiting
        for bucket in range(len(starts)):
            frames = await asyncio.to_thread(spool.take, bucket)
            if frames:
                yield await asyncio.to_thread(_sorted, frames)


def _sorted(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    plain = [frame.with_columns(pl.col(pl.Categorical).cast(pl.String)) for frame in frames]
    return pl.concat(plain, how="diagonal_relaxed").sort("started_at", "record_id")


class _Spool:
    """Sealed blocks of records by stretch of time, in a file without a name."""

    def __init__(self, starts: Sequence[int], folder: Path | None) -> None:
        self._starts = starts
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._cipher = AESGCM(os.urandom(32))
        self._blocks: list[list[tuple[int, int, int]]] = [[] for _ in starts]
        self._count = 0

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, frames: Sequence[pl.DataFrame]) -> None:
        """Sort some records out."""
        if not frames:
            return
        frame = _sorted(frames)
        hours = frame["started_at"].to_physical() // HOUR_US
        at = 0
        while at < frame.height:
            bucket = bisect.bisect_right(self._starts, hours[at]) - 1
            last = bucket + 1 == len(self._starts)
            end = frame.height if last else int(hours.search_sorted(self._starts[bucket + 1]))
            self._write(bucket, frame.slice(at, end - at))
            at = end

    def take(self, bucket: int) -> list[pl.DataFrame]:
        """Return what was put into a stretch."""
        found = []
        for number, offset, length in self._blocks[bucket]:
            self._file.seek(offset)
            opened = self._cipher.decrypt(number.to_bytes(12, "big"), self._file.read(length), None)
            found.append(pl.read_ipc(BytesIO(opened)))
        return found

    def _write(self, bucket: int, frame: pl.DataFrame) -> None:
        plain = BytesIO()
        frame.write_ipc(plain, compression="lz4")
        sealed = self._cipher.encrypt(self._count.to_bytes(12, "big"), plain.getvalue(), None)
        self._blocks[bucket].append((self._count, self._file.seek(0, os.SEEK_END), len(sealed)))
        self._file.write(sealed)
        self._count += 1
