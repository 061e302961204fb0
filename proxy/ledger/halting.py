"""What a process knows of the log that it writes to, and the stop when the database says otherwise.

A log that is shorter than what this process was told is durable is not the log it wrote to (an older backup, another
server): then nothing more is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy import logs, metrics
from proxy.ledger.model import LedgerUnavailable

_LOG = logs.get("ledger")


class Mark:
    """How many entries were acknowledged to this process, and whether the log is halted."""

    def __init__(self, halted: Callable[[], None]) -> None:
        """Start with nothing acknowledged; ``halted`` is called once, when the log is."""
        self.acknowledged = 0
        self.reason: str | None = None
        self._halted = halted

    @property
    def message(self) -> str:
        """What is said to whoever is refused."""
        return f"the access log is halted: {self.reason}"

    def halt(self, reason: str) -> None:
        """Take nothing more, for good; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            metrics.LOG_HALTED.set(1)
            logs.event(_LOG, logging.CRITICAL, "ledger.halted", reason=reason)
            self._halted()

    def refuse(self) -> None:
        """Raise LedgerUnavailable where the log is halted."""
        if self.reason is not None:
            raise LedgerUnavailable(self.message)

    def check(self, size: int) -> None:
        """Halt where the log, of ``size`` entries, lacks some that were acknowledged.

        Raises:
            LedgerUnavailable: then, and where it is halted already.
        """
        if size < self.acknowledged:
            self.halt(
                f"the log has {size} entries, and {self.acknowledged} were acknowledged: the database is an older one;"
                " see `tollgate log recover`"
            )
        self.refuse()
