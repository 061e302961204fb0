"""Time as the database tells it, so that every gateway judges by one clock.

Each statement of this package brings the database's time back; between two of them the process's monotonic clock
counts on. What decides for good (single use, revocation, agreements) is judged inside PostgreSQL anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime


class DatabaseClock:
    """Seconds since 1970-01-01 UTC by the database's clock; the host's own until the first answer."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> float:
        """Return the time."""
        return self._steady() + self._offset

    def observe(self, at: datetime) -> None:
        """Take over the time of an answer that just came (late by the way back: some milliseconds)."""
        self._offset = at.timestamp() - self._steady()
