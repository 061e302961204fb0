"""Which records an answer held, compactly: runs of consecutive record ids, and a digest over all of them. Pure.

The log keeps this with the outcome, so that "what did this credential see?" has an exact answer. Where the ids are too
ragged to list, the scope pinned by the intent and the places between which it was read say the same, and the digest
proves it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

RUNS_MAX = 512
"""Most runs that are listed."""

Ids = npt.NDArray[np.int64]


def runs_of(ids: Ids) -> Ids:
    """Return the runs of consecutive ids in ``ids`` (n,) as an array (k, 2) of first and last, in the order given."""
    if not len(ids):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(ids) != 1)
    return np.stack([ids[np.concatenate(([0], breaks + 1))], ids[np.concatenate((breaks, [len(ids) - 1]))]], axis=1)


class RecordSet:
    """The records of an answer so far."""

    def __init__(self) -> None:
        self.rows = 0
        self._runs: list[list[int]] | None = []
        self._low: int | None = None
        self._high: int | None = None
        self._digest = hashlib.sha256()

    def add(self, rows: int, runs: Ids) -> None:
        """Add a piece: its number of rows and its runs."""
        if not rows:
            return
        self.rows += rows
        self._digest.update(np.ascontiguousarray(runs, dtype=">i8").tobytes())
        low, high = int(runs[:, 0].min()), int(runs[:, 1].max())
        self._low = low if self._low is None else min(self._low, low)
        self._high = high if self._high is None else max(self._high, high)
        if self._runs is None:
            return
        if len(self._runs) + len(runs) > RUNS_MAX + 1:
            self._runs = None
            return
        for first, last in runs.tolist():
            if self._runs and self._runs[-1][1] + 1 == first:
                self._runs[-1][1] = last
            else:
                self._runs.append([first, last])
        if len(self._runs) > RUNS_MAX:
            self._runs = None

    def as_json(self) -> dict[str, Any]:
        """Return it for a log entry; ids are text. ``runs`` is absent where there are more than RUNS_MAX."""
        value: dict[str, Any] = {"rows": self.rows}
        if self.rows:
            value["first"], value["last"] = str(self._low), str(self._high)
            value["runs_sha256"] = self._digest.hexdigest()
            if self._runs is not None:
                value["runs"] = [[str(first), str(last)] for first, last in self._runs]
        return value
