"""How far the witnesses have come: metrics in every gateway, and the pause where cosignatures are required.

A witness that is away is a number and an alert. Only with ``log_witness_required`` does it stop the gateway: once the
oldest entry that no published checkpoint covers is older than ``log_witness_max_age_s``, nothing more is appended, and
so nothing disclosed, until the checkpoint is published. Times are the database's: no two clocks are compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import asyncpg

from proxy import logs, metrics
from proxy.ledger.service import Ledger

POLL_S = 1.0
ROUND_S = 10.0

_LOG = logs.get("witnesses")
_UNCOVERED = "SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM tollgate.log_entry WHERE idx = $1"
_COSIGNED = """
SELECT w.name, (SELECT max(c.size) FROM tollgate.log_cosignature c WHERE c.epoch = $1 AND c.witness = w.name) AS size
FROM unnest($2::text[]) AS w (name)
"""
_EPOCH = "SELECT max(epoch) FROM tollgate.log_origin"


class WitnessWatch:
    """Watches the witnesses of one gateway's log.

    Args:
        pool: connections of role LOG.
        ledger: paused where cosignatures are required and not there.
        published: the size of the published checkpoint, 0 before the first.
        names: the configured witnesses.
        required: whether the log waits for them.
        max_age_s: for how long it does not, seconds.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        ledger: Ledger,
        published: Callable[[], int],
        names: Sequence[str],
        *,
        required: bool = False,
        max_age_s: float = 300.0,
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._published = published
        self._names = list(names)
        self._required = required
        self._max_age_s = max_age_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="log witness watch")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def look(self) -> None:
        """Look once.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: the database is away; a pause stays.
        """
        async with asyncio.timeout(ROUND_S), self._pool.acquire(timeout=ROUND_S) as conn:
            epoch = await conn.fetchval(_EPOCH)
            age = await _age(conn, self._published())
            metrics.LOG_UNPUBLISHED.set(age)
            if self._names:
                for row in await conn.fetch(_COSIGNED, epoch, self._names):
                    metrics.LOG_WITNESS_LAG.labels(row["name"]).set(await _age(conn, row["size"] or 0))
        if self._required and age > self._max_age_s:
            self._ledger.pause(f"no witnessed checkpoint for {self._max_age_s:g} s (log_witness_required)")
        else:
            self._ledger.pause(None)

    async def _run(self) -> None:
        warned = False
        while True:
            try:
                await self.look()
                warned = False
            except Exception as error:  # the database is away: the log itself will say so
                if not warned:
                    logs.event(_LOG, logging.WARNING, "witness.watch_failed", error)
                warned = True
            await asyncio.sleep(POLL_S)


async def _age(conn: asyncpg.Connection, covered: int) -> float:
    """Return how old the first entry beyond ``covered`` entries is, seconds; 0 where there is none."""
    age = await conn.fetchval(_UNCOVERED, covered)
    return 0.0 if age is None else max(0.0, age)
