"""The access log for tests: one on the test's database, entries to append, and a server link that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, Tag
from proxy.ledger.service import Ledger
from schema.roles import Role


def open_provider(config: Config) -> FileProvider:
    """The configuration's keyring, made if it is missing."""
    if config.keyring_dir.exists():
        return FileProvider(config.keyring_dir)
    return FileProvider.create(config.keyring_dir)


@contextlib.asynccontextmanager
async def open_ledger(
    config: Config, *, url: str | None = None, link: Link | None = None, **options: Any
) -> AsyncIterator[Ledger]:
    """A started Ledger as role LOG; through ``link`` where one is given."""
    arguments: dict[str, Any] = {"dsn": url or config.role_url(Role.LOG)}
    if link is not None:
        arguments = link.arguments()
    pool = await asyncpg.create_pool(min_size=0, max_size=4, timeout=5, **arguments)
    ledger = Ledger(pool, DataKeys(open_provider(config)), **options)
    try:
        await ledger.start()
        yield ledger
    finally:
        await ledger.close()
        pool.terminate()
        await pool.close()


async def until(condition: Callable[[], bool | Awaitable[object]]) -> None:
    """Wait until ``condition()`` is true (what it waits for lies outside this process, or in another task)."""
    async with asyncio.timeout(60):  # a test that waits in vain should say so, not hang
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.005)


def intent(client: str = "example-carrier-a", access_id: UUID | None = None, **request: Any) -> Entry:
    """An access intent of a client."""
    return Entry(
        Kind.ACCESS_INTENT,
        actor={"client_id": client, "address": "192.0.2.7"},
        request={"purpose": "billing", "classes": ["timing", "parties"], **request},
        access_id=access_id,
        tags=(Tag("client", client.encode()), Tag("address", b"192.0.2.7")),
    )


async def standing(conn: asyncpg.Connection) -> list[UUID]:
    """The ids of the entries that stand, after checking that indexes are contiguous and head and log agree."""
    rows = await conn.fetch("SELECT idx, entry_id, at FROM tollgate.log_entry ORDER BY idx")
    size = await conn.fetchval("SELECT size FROM tollgate.log_head")
    assert [row["idx"] for row in rows] == list(range(size)), "indexes are not contiguous"
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows), "time runs backwards"
    ids = [row["entry_id"] for row in rows]
    assert len(set(ids)) == len(ids), "an entry stands twice"
    return ids


@dataclass
class Fault:
    """Cut the link at the client's ``at``-th message from now: before it is passed on, or after its reply came."""

    at: int
    persisted: bool
    then_down: bool = False
    """Afterwards every connection is cut and none is taken until ``Link.down`` is set to False."""
    delay_s: float | None = None
    """Strike so long after the message was passed on, while the server is at work (``persisted`` then says nothing)."""
    act: Callable[[], Awaitable[object]] | None = None
    """What befalls at that moment, before the link is cut: a process is killed, a server, a disk is filled."""
    fired: bool = False
    over: bool = False
    """All that it does has been done."""


@dataclass
class Link:
    """A proxy between the gateway and PostgreSQL. Faults are taken one after the other, each by a new connection.

    A message is one write of the client (asyncpg writes each request at once). ``persisted`` lets the message through,
    waits for the server's answer and then cuts both sides without passing it on.
    """

    target: str
    """URL of the server (owner); the database and role are the client's affair."""
    role: str
    password: str
    faults: list[Fault] = field(default_factory=list)
    down: bool = False
    messages: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def arguments(self) -> dict[str, Any]:
        """Connection arguments for asyncpg that lead through this link."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        database = urlsplit(self.target).path.lstrip("/")
        return {
            "host": host, "port": port, "user": self.role, "password": self.password, "database": database, "ssl": False
        }  # fmt: skip

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.target)
        host = parse_qs(parts.query).get("host", [parts.hostname])[0]
        port = parts.port or 5432
        if host is not None and host.startswith("/"):
            return await asyncio.open_unix_connection(str(Path(host) / f".s.PGSQL.{port}"))
        return await asyncio.open_connection(host, port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await self._connect()
        except OSError:
            writer.transport.abort()  # the server is down
            return
        mine = {writer, up_writer}
        self._writers |= mine
        try:
            await self._pass(reader, writer, up_reader, up_writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for each in mine:
                each.transport.abort()
            self._writers -= mine

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        silent = asyncio.Event()
        answered = asyncio.Event()

        async def answers() -> None:
            try:
                while data := await up_reader.read(65536):
                    if not silent.is_set():
                        writer.write(data)
                    answered.set()
            except ConnectionError:
                pass  # a server that was killed
            finally:
                answered.set()
                writer.transport.abort()

        back = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                fault = next((f for f in self.faults if not f.fired), None)
                if fault is not None:
                    self.messages.append(data)
                    fault.at -= 1
                    if fault.at <= 0:
                        fault.fired = True
                        if fault.delay_s is not None:
                            silent.set()
                            up_writer.write(data)
                            await asyncio.sleep(fault.delay_s)
                        elif fault.persisted:
                            silent.set()
                            answered.clear()
                            up_writer.write(data)
                            await answered.wait()
                        if fault.act is not None:
                            await fault.act()
                        if fault.then_down:
                            self.down = True
                            await self.cut()
                        fault.over = True
                        return
                up_writer.write(data)
        finally:
            back.cancel()
            await asyncio.wait([back])
