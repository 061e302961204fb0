"""What officers read over the API, joined: reports and searches of the log, and counts of exposure.

Reports and searches need the log alone, which every gateway has. Counting opens records: a gateway connects as the
privacy role only where ``privacy_desk`` is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import asyncpg
from aiohttp import web

from keys.datakeys import DataKeys
from proxy.config import Config
from proxy.disclosure.exposure import Exposure
from proxy.disclosure.exposure_freeze import officers_tools
from proxy.disclosure.exposure_http import ExposureApi
from proxy.disclosure.exposure_proof import Prover
from proxy.ledger.publisher import LogKeys
from proxy.ledger.search import Search
from proxy.ledger.service import Ledger
from proxy.legal.reports import Reports
from proxy.legal.reports_http import ReportsApi
from proxy.staff.ports import StaffGuard
from schema.roles import Role

LOG_POOL: Final = 3
"""Connections of role LOG that searches and counts have to make do with: they are long, and disclosures do not wait."""
PRIVACY_POOL: Final = 2

MakePool = Callable[[Role, int], "asyncpg.Pool"]


@dataclass(frozen=True, slots=True)
class Officers:
    """The services; made by :func:`open_officers`."""

    ledger: Ledger
    desk: Search
    others: Search
    exposure: Exposure | None

    def setup(self, app: web.Application, guard: StaffGuard) -> None:
        """Add the routes."""
        reports = Reports(self.ledger, self.desk, self.others)
        ReportsApi(reports, self.ledger, self.desk, self.others, guard).setup(app)
        if self.exposure is not None:
            ExposureApi(self.exposure, guard).setup(app)


async def open_officers(
    stack: AsyncExitStack, config: Config, ledger: Ledger, keys: DataKeys, signing: LogKeys, make_pool: MakePool
) -> Officers:
    """Return the services; what they need is closed with ``stack``.

    Raises:
        OSError, asyncpg.PostgresError: the database cannot be reached.
    """
    reading = await stack.enter_async_context(make_pool(Role.LOG, LOG_POOL))
    desk, others = Search(reading, keys, desk=True), Search(reading, keys)
    exposure = None
    if config.privacy_desk:
        privacy = await stack.enter_async_context(make_pool(Role.PRIVACY, PRIVACY_POOL))
        executor = ThreadPoolExecutor(config.decode_threads, "privacy")
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)

        def prover() -> Prover:
            return Prover(reading, signing, config.log_dir)

        exposure, _ = officers_tools(ledger, others, prover, privacy, keys, executor)
    return Officers(ledger, desk, others, exposure)
