"""A store, a log and the disclosure between them, without sockets: what clients got, to hold against a count."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from keys.signing import SigningKeys
from proxy.config import Config
from proxy.disclosure.coding import Coding
from proxy.disclosure.cursors import Sealer
from proxy.disclosure.encoders import MediaType
from proxy.disclosure.entries import Actor
from proxy.disclosure.exposure import Count, Exposure, Question
from proxy.disclosure.exposure_freeze import Freezer, officers_tools
from proxy.disclosure.exposure_proof import Prover
from proxy.disclosure.query import Asked, Window
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.service import Caller, Disclosure, Form, Settings
from proxy.ledger.model import Appended, Entry, Kind, LedgerUnavailable
from proxy.ledger.publisher import LogKeys
from proxy.ledger.search import Search
from proxy.ledger.service import Ledger
from proxy.policy import Holding, Ownership
from proxy.policy.counting import PARTIES, Officer, Subject
from schema.roles import Role
from tests.support.api import FakeSink
from tests.support.store import JULY, Store, open_store, us

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
OFFICER = Officer("officer-1", privacy=True)
PEER = frozenset({"timing", "parties", "routing", "ingress_leg", "egress_leg"})


@dataclass
class Got:
    """What a client received of one access."""

    access_id: UUID
    rows: list[dict[str, Any]]
    client: str
    cursor: str | None
    """Where it goes on, of a small answer that reached its limit."""

    @property
    def ids(self) -> set[int]:
        return {row["id"] for row in self.rows}

    @property
    def numbers(self) -> set[str]:
        return numbers_of(self.rows)


def numbers_of(rows: Iterable[dict[str, Any]]) -> set[str]:
    """Distinct values of the party fields."""
    return {row[name] for row in rows for name in PARTIES if row.get(name)}


class LossyLedger:
    """The log of a gateway that dies: from ``after`` on, its progress entries and outcomes are never written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.dead = False
        self.progress_left: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def append(self, entry: Entry) -> Appended:
        if entry.kind is Kind.ACCESS_PROGRESS and self.progress_left is not None:
            self.progress_left -= 1
            if self.progress_left < 0:
                self.dead = True
        if self.dead and entry.kind in (Kind.ACCESS_PROGRESS, Kind.ACCESS_OUTCOME):
            raise LedgerUnavailable("the gateway is dead")
        return await self._ledger.append(entry)


@dataclass
class Desk:
    """The gateway's disclosure, and the privacy officer's count."""

    store: Store
    disclosure: Disclosure
    lossy: LossyLedger
    privacy: asyncpg.Pool
    log: asyncpg.Pool
    signing: SigningKeys
    got: list[Got] = field(default_factory=list)

    async def pull(
        self,
        client: str = "client-a",
        ocns: tuple[str, ...] = ("123A",),
        start: datetime = JULY,
        end: datetime = JULY + timedelta(days=31),
        number: str | None = None,
        limit: int | None = None,
        classes: frozenset[str] = PEER,
        token: str = "token-1",
        jkt: str = "key-1",
        address: str = "192.0.2.7",
        lose: bool = False,
        lose_progress: int | None = None,
        cursor: str | None = None,
        **sink: Any,
    ) -> Got:
        """Pull (or search); keep what arrived whole. ``lose``: the gateway dies before it can write the outcome."""
        holding = Holding(
            client_id=client,
            carrier_id=client.replace("client", "carrier"),
            purpose="billing",
            agreement="ICA-1",
            classes=classes,
            ocns=frozenset(ocns),
            ownership=tuple(Ownership(o) for o in ocns),
            directions=frozenset({"ingress", "egress"}),
            start_us=None,
            end_us=None,
            expires_us=1 << 62,
        )

        async def yes(*_: Any) -> bool:
            return True

        actor = Actor(client, holding.carrier_id, token, jkt, address)
        window = None if cursor else Window(us(start), us(end), "both", None, number)
        asked = Asked(window, cursor, limit)
        made = FakeSink([], **sink)
        self.lossy.dead, self.lossy.progress_left = lose, lose_progress
        form = Form(MediaType.NDJSON, Coding.IDENTITY)
        try:
            caller = Caller(actor, holding, yes, yes)
            async with self.disclosure.answer(caller, asked, number is not None, form) as opened:
                await opened.delivery.send(made, {})
                access_id, onward = opened.delivery.access_id, opened.next_cursor
        finally:
            self.lossy.dead, self.lossy.progress_left = False, None
        for task in list(self.disclosure._retries):
            task.cancel()
        ids = RecordIds(bytes(32), holding.carrier_id)
        rows = [json.loads(line) for line in made.data.split(b"\n")[:-1]]
        got = Got(access_id, [row | {"id": ids.sequence(row["record_id"])} for row in rows], client, onward)
        self.got.append(got)
        return got

    def exposure(self, anchors: Path | None = None) -> Exposure:
        return self.tools(anchors)[0]

    def tools(self, anchors: Path | None = None) -> tuple[Exposure, Freezer]:
        return officers_tools(
            self.store.ledger,
            Search(self.log, self.store.keys),
            lambda: Prover(self.log, LogKeys(self.signing), anchors),
            self.privacy,
            self.store.keys,
            self.store.executor,
        )

    async def count(
        self, kind: str = "client", value: str = "client-a", first: datetime = ALWAYS, last: datetime | None = None
    ) -> Count:
        """Count as the privacy officer."""
        last = last or datetime.now(UTC) + timedelta(minutes=1)
        return await self.exposure().count(OFFICER, Question(Subject(kind, value), first, last, "test"))


@contextlib.asynccontextmanager
async def open_desk(config: Config, folder: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A desk on the configuration's database."""
    values = {"max_rows": 1_000_000, "progress_rows": 1_000_000, "stall_s": 20.0, "streams_max": 8} | settings
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config, folder))
        privacy = await stack.enter_async_context(
            asyncpg.create_pool(config.role_url(Role.PRIVACY), min_size=1, max_size=2)
        )
        log = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=4))
        lossy = LossyLedger(store.ledger)
        made: Any = lossy
        disclosure = Disclosure(store.reader(), made, Sealer(bytes(32)), bytes(32), store.executor, Settings(**values))
        signing = await asyncio.to_thread(SigningKeys, config.keyring_dir)
        yield Desk(store, disclosure, lossy, privacy, log, signing)
        await disclosure.close(0)
