"""Helpers for tests of disclosure and the API: contract-enforcing fakes of the store, and a sink without a socket.

The fakes check what the real parts promise their callers, and record the order of events, so that a delivery that reads
before its intent, or sends past an unlogged stretch, is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pyarrow as pa
from aiohttp import web

from proxy.app import application
from proxy.disclosure.cursors import Sealer
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.scope import Position, RowBlock, Scope
from proxy.disclosure.service import Disclosure, Settings
from proxy.ledger.service import Ledger
from proxy.oauth.errors import AuthError
from proxy.server import Listener

T = TypeVar("T")


def block_of(ids: np.ndarray[Any, np.dtype[np.int64]]) -> RowBlock:
    """Records with these ids and little else."""
    return RowBlock(pa.table({"record_id": ids, "started_at": pa.array(ids, pa.timestamp("us", "UTC"))}))


def ids_of(body: bytes, carrier: str = "carrier-a") -> list[int]:
    """Return the store's ids of the records in a CSV answer to ``carrier``, from the opaque ones in it."""
    lines = body.decode().splitlines()
    assert lines[0].startswith("record_id,")
    found = [RecordIds(bytes(32), carrier).sequence(line.partition(",")[0]) for line in lines[1:]]
    assert None not in found
    return [i for i in found if i is not None]


class FakeEncoder:
    """One line a record: its id."""

    def begin(self) -> bytes:
        return b"head\n"

    def columns(self, rows: Any) -> Any:
        return {"record_id": rows.record_ids}

    def block(self, columns: Any) -> bytes:
        return b"".join(b"%d\n" % i for i in columns["record_id"].tolist())

    def written(self, block: bytes) -> bytes:
        return block

    def end(self) -> bytes:
        return b"tail\n"


@dataclass
class FakeReader:
    """A store of records 1 to ``rows``, in pieces of ``piece``; checks that no empty scope is asked."""

    rows: int
    piece: int = 10
    events: list[str] = field(default_factory=list)
    fail_at: int | None = None
    open_streams: int = 0
    pieces_made: int = 0

    async def complete_to(self) -> int:
        self.events.append("complete_to")
        return self.rows

    def stream(
        self, scope: Scope, after: Position | None, work: Callable[[Any], Callable[[], T]], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        return self._stream(scope, after, work, limit)

    def search(
        self,
        scope: Scope,
        number: str,
        after: Position | None,
        work: Callable[[Any], Callable[[], T]],
        limit: int | None,
    ) -> AsyncIterator[tuple[T, int, Position]]:
        assert number.startswith("+")
        return self._stream(scope, after, work, limit)

    async def _stream(
        self, scope: Scope, after: Position | None, work: Callable[[Any], Callable[[], T]], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        assert scope.ocns
        assert scope.sides
        self.open_streams += 1
        try:
            low = max(scope.after_id, after.record_id if after else 0)
            high = min(scope.as_of, self.rows, low + limit if limit is not None else self.rows)
            while low < high:
                self.events.append("read")
                if self.fail_at is not None and low >= self.fail_at:
                    raise OSError("the store went away: +12025550100")
                ids = np.arange(low + 1, min(low + self.piece, high) + 1, dtype=np.int64)
                rest = await asyncio.to_thread(work, block_of(ids))
                made = await asyncio.to_thread(rest)
                self.pieces_made += 1
                low = int(ids[-1])
                yield made, len(ids), Position(202610, 1, low)
        finally:
            self.open_streams -= 1


@dataclass
class FakeSink:
    """Takes an answer; can stall, or break after so many bytes."""

    events: list[str]
    break_after: int | None = None
    stall_after: int | None = None
    data: bytes = b""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    headers: dict[str, str] = field(default_factory=dict)
    ended: str = ""

    async def start(self, headers: Mapping[str, str]) -> None:
        self.events.append("start")
        self.headers = dict(headers)

    async def write(self, data: memoryview) -> None:
        assert not self.ended, "written to after its end"
        if self.break_after is not None and len(self.data) >= self.break_after:
            raise ConnectionResetError
        if self.stall_after is not None and len(self.data) >= self.stall_after:
            self.stalled.set()
            await asyncio.Event().wait()
        self.events.append("send")
        self.data += bytes(data)
        await asyncio.sleep(0)

    async def finish(self) -> None:
        self.events.append("end")
        self.ended = "whole"

    def abort(self) -> None:
        self.events.append("abort")
        self.ended = "broken"


@dataclass(frozen=True)
class FakePeriod:
    """When an OCN is the carrier's."""

    ocn: str
    from_us: int
    to_us: int | None


@dataclass(frozen=True)
class FakeGrant:
    """A grant as the guard gives it; all of 2026 and what follows."""

    client_id: str = "billing-a"
    carrier_id: str = "carrier-a"
    ocns: tuple[str, ...] = ("123A",)
    ownership: tuple[FakePeriod, ...] = (FakePeriod("123A", 0, None),)
    purpose: str = "billing"
    classes: frozenset[str] = frozenset({"timing", "parties", "routing", "ingress_leg", "egress_leg"})
    directions: frozenset[str] = frozenset({"ingress", "egress"})
    window: tuple[int | None, int | None] = (None, None)
    token_id: str = "token-1"
    jkt: str = "thumbprint-1"
    agreement: str = "ICA-1"
    expires_at: datetime = datetime(2100, 1, 1, tzinfo=UTC)
    address: str = "192.0.2.7"
    client_key: str = "thumbprint-of-client"
    token_hash: bytes = bytes(32)


@dataclass
class FakeGuard:
    """Takes ``Authorization: DPoP <name>`` for the grants it knows; counts what it is asked."""

    grants: dict[str, FakeGrant] = field(default_factory=lambda: {"a": FakeGrant()})
    dead: set[str] = field(default_factory=set)
    budget: int = 10**12

    async def authenticate(self, request: web.Request) -> FakeGrant:
        scheme, _, name = request.headers.get("Authorization", "").partition(" ")
        if scheme != "DPoP" or name not in self.grants:
            raise AuthError(401, "invalid_token", "the token is not good", "token.claims")
        return self.grants[name]

    async def alive(self, grant: FakeGrant) -> bool:
        return grant.client_id not in self.dead

    async def spend(self, grant: FakeGrant, rows: int) -> bool:
        if rows > self.budget:
            return False
        self.budget -= rows
        return True


@dataclass
class Served:
    """A running API on a real socket."""

    port: int
    http: aiohttp.ClientSession
    disclosure: Disclosure
    reader: FakeReader
    guard: FakeGuard

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def get(self, path: str, name: str = "a", **options: Any) -> Answer:
        return await self.ask("GET", path, name, **options)

    async def ask(self, method: str, path: str, name: str = "a", **options: Any) -> Answer:
        headers = {"Authorization": f"DPoP {name}", "Accept-Encoding": "identity", **options.pop("headers", {})}
        async with self.http.request(method, self.url(path), headers=headers, **options) as response:
            return Answer(response.status, response.headers, await response.read())


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def code(self) -> str:
        """The problem's code; checks that it is a problem of RFC 9457 and says what its status says."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        assert self.json["status"] == self.status
        return str(self.json["type"]).rpartition("/")[2]


@contextlib.asynccontextmanager
async def serving(
    ledger: Ledger,
    reader: FakeReader,
    guard: FakeGuard | None = None,
    headers_s: float = 20.0,
    connections_max: int = 100,
    **settings: Any,
) -> AsyncIterator[Served]:
    """The real application, handlers and listener over a real log, with a fake store and guard."""
    guard = guard or FakeGuard()
    values = {"max_rows": 1_000_000, "progress_rows": 1_000, "stall_s": 20.0, "streams_max": 8} | settings
    with ThreadPoolExecutor(2) as executor:
        disclosure = Disclosure(reader, ledger, Sealer(bytes(32)), bytes(32), executor, Settings(**values))
        app = application("https://gate.example", disclosure, AuthError, lambda _: guard)
        listener = Listener(app, "127.0.0.1", 0, "https://gate.example", None, headers_s, connections_max)
        await listener.start()
        async with aiohttp.ClientSession(auto_decompress=False) as http:
            try:
                yield Served(listener.port, http, disclosure, reader, guard)
            finally:
                await disclosure.close(0)
                await listener.stop()
