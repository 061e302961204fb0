"""The legal desk, joined: register, intake, approvals, extraction, production, holds, and what runs by itself.

Only a gateway with ``legal_desk = 1`` has one: any other does not connect as the desk's roles and cannot open the keys
of location, subscriber, device, source, holds and cases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from aiohttp import web

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.notes import b64
from keys.signing import SigningKeys
from proxy import logs, metrics
from proxy.config import Config, ConfigError
from proxy.disclosure.extract import RUNNING_MAX, Extractions
from proxy.ledger.proving import Receipts
from proxy.ledger.published import NotPublished, Published
from proxy.ledger.service import Ledger
from proxy.legal import sql
from proxy.legal.approvals import Approvals
from proxy.legal.documents import Documents
from proxy.legal.extracting import Extracting
from proxy.legal.guardfile import load_guarded
from proxy.legal.holding import Holding
from proxy.legal.holds_http import HoldsApi
from proxy.legal.http import CasesApi, Desk
from proxy.legal.intake import Intake
from proxy.legal.production.http import ProductionsApi
from proxy.legal.production.model import LogPlace
from proxy.legal.production.service import Productions
from proxy.legal.reading import DueKind, Reading
from proxy.legal.register import Register
from proxy.legal.releasing import Releasing
from proxy.legal.sealing import KEY_CLASS as CASE
from proxy.legal.sealing import CaseSealer
from proxy.legal.secrecy import Audience
from proxy.legal.targets import GuardedError
from proxy.staff.ports import StaffGuard
from schema.fields import DisclosureClass
from schema.roles import Role

KEY_CLASSES: Final = frozenset({c.value for c in DisclosureClass} | {CASE, "hold"})
"""The classes of keys that a gateway with a desk opens beside the others'."""
POOL_SIZES: Final = {Role.CASES: 8, Role.LEGAL: 2 * RUNNING_MAX + 4}
"""Most connections of each role."""

SETTLE_S: Final = 0.5
"""How often cases are brought up to what their extractions have come to, seconds."""
LAPSE_S: Final = 10.0
"""How often approvals that ran out are taken back, orphaned extractions gone on with, and what is due counted."""
HOLDS_S: Final = 10.0

_LOG = logs.get("desk")

MakePool = Callable[[Role, int], "asyncpg.Pool"]


@dataclass(frozen=True, slots=True)
class Ground:
    """What the gateway gives its desk."""

    config: Config
    provider: FileProvider
    keys: DataKeys
    signing: SigningKeys
    ledger: Ledger
    published: Published
    receipts: Receipts


class LegalDesk:
    """The desk of one gateway; made by :func:`open_desk`."""

    def __init__(
        self,
        desk: Desk,
        holding: Holding,
        extractions: Extractions,
        made: tuple[Productions, Register, SigningKeys],
        pool: asyncpg.Pool,
    ) -> None:
        self._desk = desk
        self._holding = holding
        self._extractions = extractions
        self._made = made
        self._pool = pool
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def services(self) -> Desk:
        """The services, for tests and for whatever else runs in this process."""
        return self._desk

    def setup(self, app: web.Application, guard: StaffGuard) -> None:
        """Add the routes."""
        CasesApi(self._desk, guard).setup(app)
        HoldsApi(self._holding, guard).setup(app)
        ProductionsApi(*self._made, guard).setup(app)

    def start(self) -> None:
        """Begin with what runs by itself."""
        desk = self._desk
        every = (
            (SETTLE_S, desk.extracting.settle),
            (SETTLE_S, desk.releasing.make),
            (LAPSE_S, desk.extracting.lapse),
            (LAPSE_S, self._resume),
            (LAPSE_S, self._count),
            (HOLDS_S, self._holding.settle),
        )
        self._tasks = [asyncio.create_task(_every(seconds, work), name=work.__name__) for seconds, work in every]

    async def stop(self) -> None:
        """Stop; extractions go on where a gateway with a desk is next."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._extractions.close()

    async def _resume(self) -> None:
        await self._extractions.resume()

    async def _count(self) -> None:
        """Count what is due of the cases that others than the desk may know of."""
        now: datetime = await self._pool.fetchval(sql.NOW)
        found = await self._desk.reading.dues(Audience.OTHERS, now)
        for kind in DueKind:
            own = [due for due in found if due.kind is kind]
            metrics.CASES_DUE.labels(kind.value).set(len(own))
            metrics.CASES_OVERDUE.labels(kind.value).set(sum(due.overdue(now) for due in own))


async def open_desk(stack: AsyncExitStack, ground: Ground, make_pool: MakePool) -> LegalDesk:
    """Return the desk; what it needs is closed with ``stack``.

    Raises:
        ConfigError: the list of guarded numbers cannot be read, or the carrier's name is not set.
        OSError, asyncpg.PostgresError: the database cannot be reached.
    """
    config = ground.config
    if not config.carrier_name:
        raise ConfigError("carrier_name: letters and productions bear it; set it where legal_desk is 1")
    try:
        path = config.path(config.legal_guarded) if config.legal_guarded else None
        guarded = await asyncio.to_thread(load_guarded, path)
    except GuardedError as error:
        raise ConfigError(f"legal_guarded: {error}") from error
    pools = {role: await stack.enter_async_context(make_pool(role, size)) for role, size in POOL_SIZES.items()}
    executor = ThreadPoolExecutor(config.decode_threads, "legal")
    stack.callback(executor.shutdown, wait=False, cancel_futures=True)
    sealer = CaseSealer(ground.keys)
    register = Register(pools[Role.CASES], ground.ledger, sealer)
    extractions = Extractions(
        pools[Role.LEGAL], ground.keys, ground.ledger, executor, progress_rows=config.progress_rows
    )
    intake = Intake(register, config.carrier_name, guarded)
    extracting = Extracting(register, intake, extractions)
    maker = Productions(pools[Role.CASES], sealer, ground.ledger, ground.signing)
    releasing = Releasing(
        register,
        intake,
        extracting,
        extractions,
        maker,
        config.carrier_name,
        _receipt(ground.receipts, ground.published),
    )
    services = Desk(
        intake,
        Approvals(register),
        Documents(register),
        extracting,
        releasing,
        Reading(register, intake, extracting),
    )
    holding = Holding(register, intake, extractions, ground.provider, ground.keys)
    desk = LegalDesk(services, holding, extractions, (maker, register, ground.signing), pools[Role.CASES])
    stack.push_async_callback(desk.stop)
    return desk


def _receipt(receipts: Receipts, published: Published) -> Callable[[UUID], Awaitable[tuple[LogPlace, bytes] | None]]:
    async def receipt(access_id: UUID) -> tuple[LogPlace, bytes] | None:
        try:
            made = await receipts.for_recipient(access_id)
        except NotPublished:
            return None
        if made is None:
            return None
        data, stored = made
        return LogPlace(published.origin, access_id, stored.size, b64(stored.root)), data

    return receipt


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again; a failure is logged, and the next round comes."""
    while True:
        try:
            await work()
        except Exception as error:
            logs.event(_LOG, logging.WARNING, "desk.round", error, work=getattr(work, "__name__", ""))
        await asyncio.sleep(seconds)
