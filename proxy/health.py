"""The listener of the operator's network: ``/metrics``, ``/livez``, ``/readyz``; and the counts read from the database.

It tells whether parts work, never why not: reasons are in the logs. It is a listener of its own, so that it can be
bound where peers do not reach.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import asyncpg
from aiohttp import web
from prometheus_client import generate_latest

from proxy import logs, metrics

CHECK_S = 2.0
"""How long one check may take, seconds."""
REFRESH_S = 5.0
"""How often the counts are read from the database, seconds."""

_LOG = logs.get("health")

Check = Callable[[], Awaitable[None]]

_INGESTED = """
SELECT profile, sum(stored)::bigint AS stored, sum(duplicates)::bigint AS duplicate, sum(conflicts)::bigint AS conflict,
    sum(rejected)::bigint AS rejected
FROM tollgate.ingest GROUP BY profile
"""
_STAGED = "SELECT coalesce(sum(rows), 0)::bigint FROM tollgate.run WHERE level = 0"
_LOG_SIZE = "SELECT size FROM tollgate.log_head"
_OPERATORS = "SELECT tollgate.staff_operators_active()"
_OUTCOMES = ("stored", "duplicate", "conflict", "rejected")


class Health:
    """Answers for the operator's network.

    Args:
        checks: by name; each returns when its part works and raises when it does not.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self.draining = False

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        return app

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest, metrics.REGISTRY)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        results = dict(zip(self._checks, await asyncio.gather(*map(_passes, self._checks.items())), strict=True))
        ready = all(results.values()) and not self.draining
        said = {name: "ok" if passed else "failed" for name, passed in results.items()}
        if self.draining:
            said["draining"] = "failed"
        return web.json_response({"ready": ready, "checks": said}, status=200 if ready else 503)


async def _passes(named: tuple[str, Check]) -> bool:
    name, check = named
    try:
        await asyncio.wait_for(check(), CHECK_S)
    except Exception as error:
        logs.event(_LOG, logging.WARNING, "health.check_failed", error, check=name)
        return False
    return True


class Refresher:
    """Keeps the metrics that count what stands in the database (role MONITOR: no sealed column)."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._seen: dict[tuple[str, str], int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once now, then every ``REFRESH_S``."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="metrics refresher")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def refresh(self) -> None:
        """Read the counts; where the database is away the last ones stay, and a warning is logged."""
        try:
            async with self._pool.acquire(timeout=CHECK_S) as conn:
                ingested = await conn.fetch(_INGESTED)
                metrics.STAGED_ROWS.set(await conn.fetchval(_STAGED))
                metrics.LOG_SIZE.set(await conn.fetchval(_LOG_SIZE))
                metrics.OPERATORS.set(await conn.fetchval(_OPERATORS))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            logs.event(_LOG, logging.WARNING, "health.refresh_failed", error)
            return
        for row in ingested:
            for outcome in _OUTCOMES:
                # A counter of what all ingests together did: it goes on from what this process has already shown.
                key = (row["profile"], outcome)
                metrics.INGEST_LINES.labels(*key).inc(max(row[outcome] - self._seen.get(key, 0), 0))
                self._seen[key] = row[outcome]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()
