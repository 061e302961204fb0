"""A long pull against what can befall it: the log says at least what was sent, all is freed, and it can go on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from proxy import metrics
from proxy.disclosure import delivery as delivery_module
from proxy.disclosure import service as service_module
from proxy.ledger.model import Kind
from tests.support.gate import QUESTION, Gate, calls, copy_of, drop, gate
from tests.support.oauth import Peer

ROWS = 130_000
"""Four pieces: two are made ahead, so that there is something left to go wrong."""
CSV = {"Accept": "text/csv"}


@pytest.fixture(scope="module")
def snapshot(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Name of a database with the records, made once, and the keyring that belongs to it."""
    name = "tollgate_snapshot_" + secrets.token_hex(4)
    home = tmp_path_factory.mktemp("snapshot") / "home"

    async def make() -> None:
        database = await copy_of(server_url, template, name, home)
        async with gate(database) as running:
            half = ROWS // 2
            await running.ingest([*calls(half, "123A", "456B", every_s=30), *calls(half, "456B", "123B", every_s=30)])

    asyncio.run(make())
    yield name, home
    asyncio.run(drop(server_url, name))


@pytest.fixture
async def world(
    server_url: str, snapshot: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gate]:
    monkeypatch.setattr(delivery_module, "ALIVE_EVERY_S", 0.05)
    name = "tollgate_test_" + secrets.token_hex(6)
    database = await copy_of(server_url, snapshot[0], name, tmp_path / "home")
    shutil.copytree(snapshot[1] / "keys", tmp_path / "home" / "keys")
    try:
        async with gate(database, fresh=False, stream_stall_s=2, progress_rows=40_000) as running:
            yield running
    finally:
        await drop(server_url, name)


@pytest.fixture
async def owner(world: Gate) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(world.config.database_url)
    try:
        yield conn
    finally:
        await conn.close()


class Reader:
    """A client that reads as much as it is told to, with as little in the kernel's buffers as can be."""

    def __init__(self, world: Gate, peer: Peer) -> None:
        self.world, self.peer = world, peer
        self.data = b""
        self.whole = False

    async def __aenter__(self) -> Reader:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.world.gateway.port))
        headers = await self.world.headers(self.peer, "GET", QUESTION) | CSV | {"Host": "x", "Connection": "close"}
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=65_536)
        lines = [f"GET {QUESTION} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        self.access_id = fields["Access-Id"]
        self.peer.nonce = fields.get("DPoP-Nonce", self.peer.nonce)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def read(self, least: int) -> None:
        """Read chunks until ``least`` bytes of the answer are there, or its end, whole or broken."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while len(self.data) < least:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                if size == 0:
                    self.whole = True
                    return
                self.data += (await self._reader.readexactly(size + 2))[:-2]


async def _outcome(world: Gate) -> dict[str, Any]:
    found: list[Any] = []
    for _ in range(1_500):
        if found := await world.entries(Kind.ACCESS_OUTCOME):
            break
        await asyncio.sleep(0.02)
    assert len(found) == 1
    return {**found[0].outcome, "in_flight": found[0].records.get("in_flight", {})}


def _held(outcome: dict[str, Any], data: bytes) -> None:
    """What was received is on record, and each checkpoint within it is true."""
    received = data.count(b"\n") - 1
    assert outcome["rows"] + outcome["in_flight"].get("rows", 0) >= received
    for point in outcome["checkpoints"]:
        if point["bytes"] <= len(data):
            assert hashlib.sha256(data[: point["bytes"]]).hexdigest() == point["sha256"]
            assert data[: point["bytes"]].count(b"\n") - 1 == point["rows"]


async def _whole(world: Gate, peer: Peer) -> list[bytes]:
    answer = await world.ask(peer, "GET", QUESTION, headers=CSV)
    lines = answer.body.splitlines()
    assert len(lines) == ROWS + 1
    return lines


async def _go_on(world: Gate, peer: Peer, access_id: str, data: bytes) -> list[bytes]:
    """Do what a client does: cut at the last checkpoint that was reached, and go on from there."""
    looked = (await world.ask(peer, "GET", f"/v1/accesses/{access_id}")).json
    assert looked["state"] == "interrupted"
    reached = [c for c in looked["checkpoints"] if c["bytes"] <= len(data)]
    kept = data[: reached[-1]["bytes"]] if reached else b""
    path = f"/v1/cdrs?cursor={reached[-1]['cursor']}" if reached else QUESTION
    rest = (await world.ask(peer, "GET", path, headers=CSV)).body
    return kept.splitlines() + rest.splitlines()[1 if kept else 0 :]


async def _idle(owner: asyncpg.Connection) -> None:
    """No connection of the billing role is in a transaction or a statement."""
    for _ in range(500):
        busy = await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tollgate_billing' AND state <> 'idle'"
            " AND datname = current_database()"
        )
        if not busy:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a connection is held for a reader that does not read")


async def test_a_stalled_reader_holds_no_connection_and_is_cut(world: Gate, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await _idle(owner)
        assert not await world.entries(Kind.ACCESS_OUTCOME), "it is waited for, at first"
        outcome = await _outcome(world)
        assert (outcome["state"], outcome["why"]) == ("interrupted", "stalled")
        await reader.read(10**9)
        assert not reader.whole
        _held(outcome, reader.data)
    assert metrics.OPEN_STREAMS._value.get() == 0


async def test_a_vanished_reader_goes_on_without_loss_or_repeat(world: Gate) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(4_000_000)
    outcome = await _outcome(world)
    assert (outcome["state"], outcome["why"]) == ("interrupted", "client_gone")
    _held(outcome, reader.data)
    assert await _go_on(world, peer, reader.access_id, reader.data) == await _whole(world, peer)


async def test_a_client_that_is_disabled_is_cut_in_mid_answer(world: Gate) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await world.registry.disable_client(world.operator, peer.client_id, "stolen key")
        outcome = await _outcome(world)
        assert outcome["why"] == "revoked"
        await reader.read(10**9)
        assert not reader.whole
        _held(outcome, reader.data)


async def test_a_revoked_token_cuts_its_answer(world: Gate) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        token = next(iter(world.tokens.values()))
        status, _, _ = await peer.post("/oauth/revoke", peer.own_form(token=token))
        assert status == 200
        assert (await _outcome(world))["why"] == "revoked"


async def test_the_store_lost_in_mid_answer(world: Gate, owner: asyncpg.Connection) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await owner.execute("ALTER TABLE tollgate.batch_leg RENAME TO batch_leg_gone")
        await reader.read(10**9)
        assert not reader.whole, "a broken answer cannot be taken for a whole one"
        outcome = await _outcome(world)
        assert outcome["why"] == "failed"
        _held(outcome, reader.data)
    await owner.execute("ALTER TABLE tollgate.batch_leg_gone RENAME TO batch_leg")
    assert await _go_on(world, peer, reader.access_id, reader.data) == await _whole(world, peer)


async def test_the_log_lost_in_mid_answer_stops_what_is_not_on_record(
    world: Gate, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RETRY_S", (0.1,) * 100)
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await owner.execute("ALTER TABLE tollgate.log_head RENAME TO log_head_gone")
        await reader.read(10**9)
        assert not reader.whole
        assert reader.data.count(b"\n") < ROWS
        looked = await world.ask(peer, "GET", f"/v1/accesses/{reader.access_id}")
        assert looked.status == 503
    await owner.execute("ALTER TABLE tollgate.log_head_gone RENAME TO log_head")
    outcome = await _outcome(world)
    assert outcome["why"] == "log_unavailable"
    _held(outcome, reader.data)


async def test_an_outcome_that_could_not_be_written_is_written_later(
    world: Gate, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RETRY_S", (0.1,) * 100)
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await owner.execute("ALTER TABLE tollgate.log_head RENAME TO log_head_gone")
    await asyncio.sleep(0.5)
    await owner.execute("ALTER TABLE tollgate.log_head_gone RENAME TO log_head")
    outcome = await _outcome(world)
    assert outcome["state"] == "interrupted"
    _held(outcome, reader.data)


async def test_a_gateway_that_stops_says_what_it_sent(world: Gate) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        await world.gateway.stop(0)
        outcome = await _outcome(world)
        assert outcome["why"] == "shutdown"
        await reader.read(10**9)
        assert not reader.whole
        _held(outcome, reader.data)


async def test_a_stopping_gateway_lets_an_answer_end(world: Gate) -> None:
    peer = await world.peer()
    async with Reader(world, peer) as reader:
        await reader.read(100_000)
        stopping = asyncio.create_task(world.gateway.stop(30))
        await reader.read(10**9)
        await stopping
        assert reader.whole
    assert (await _outcome(world))["state"] == "complete"
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.ask(peer, "GET", QUESTION)


async def test_pulls_beside_each_other_beside_ingest_and_rolling(world: Gate) -> None:
    peers = [await world.peer(client_id=f"client-{i}") for i in range(3)]
    for peer in peers:
        await world.headers(peer, "GET", QUESTION)

    async def more() -> None:
        for _ in range(3):
            await world.ingest(calls(50, "123A", "456B"))

    *pulled, _ = await asyncio.gather(*(world.ask(p, "GET", QUESTION, headers=CSV) for p in peers), more())
    for answer in pulled:
        ids = [line.partition(b",")[0] for line in answer.body.splitlines()[1:]]
        assert len(ids) == len(set(ids)) >= ROWS
