"""The whole gateway for tests: a real database, ingested and rolled records, real tokens and proofs, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.app import Gateway, build
from proxy.config import Config
from proxy.formats.profile import load_profile
from proxy.ingest.service import Ingest
from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.registry.model import Agreement, Carrier, Client, OcnOwnership
from proxy.store.reseal.roll import roll
from schema.roles import Role
from tests.conftest import PASSWORDS, Database, with_database
from tests.support.api import Answer
from tests.support.oauth import Peer, new_key
from tests.support.operators import ISSUER, Operators, set_up

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
QUESTION = "/v1/cdrs?from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z"
CARRIERS = {"carrier-a": ("123A", "123B"), "carrier-b": ("456B",), "carrier-c": ("789C",)}

_calls = itertools.count(1)


def calls(
    count: int, ingress: str, egress: str, start: datetime = OCTOBER, every_s: int = 60, **change: Any
) -> list[dict[str, Any]]:
    """Return so many calls from ``ingress`` to ``egress``, each leg with secrets of its own."""
    rows = []
    for i, number in zip(range(count), _calls, strict=False):
        at = start + timedelta(seconds=every_s * i)
        row = {
            "started_at": at.isoformat(),
            "answered_at": (at + timedelta(seconds=4)).isoformat(),
            "duration_ms": 1000 * (i % 600),
            "disposition": "answered",
            "calling": f"+1202555{100 + number % 100:04d}",
            "called": f"+1303555{100 + number // 100 % 100:04d}",
            "switch_id": "sw1",
            "ingress_ocn": ingress,
            "ingress_trunk": f"in-{ingress}",
            "ingress_call_id": f"call-{number}-in",
            "ingress_peer_address": "192.0.2.10",
            "ingress_rate": "0.00411111",
            "ingress_currency": "USD",
            "egress_ocn": egress,
            "egress_trunk": f"out-{egress}" if egress != "none" else "",
            "egress_call_id": f"call-{number}-out",
            "egress_peer_address": "198.51.100.20",
            "egress_rate": "0.00322222",
            "egress_currency": "USD",
        }
        rows.append(row | change)
    return rows


@dataclass
class Gate:
    """A running gateway, and the hands of its operator."""

    config: Config
    gateway: Gateway
    http: aiohttp.ClientSession
    registry: Operators
    operator: asyncpg.Connection
    ledger: Ledger
    keys: DataKeys
    stack: contextlib.AsyncExitStack
    peers: dict[str, Peer] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    async def ingest(self, rows: Iterable[Mapping[str, Any]], *, rolled: bool = True) -> Any:
        """Ingest rows as a canonical file; return the report."""
        listed = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(k for row in listed for k in row)))
        writer.writeheader()
        writer.writerows(listed)
        path = self.config.home / f"file-{next(_calls)}.csv"
        await asyncio.to_thread(path.write_text, text.getvalue())
        report = await self.ingest_file(path)
        assert report.stored == len(listed), report
        if rolled:
            await self.roll()
        return report

    async def ingest_file(self, path: Path) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            conns = [await asyncpg.connect(self.config.role_url(Role.INGEST)) for _ in range(2)]
            for conn in conns:
                stack.push_async_callback(conn.close)
            executor = stack.enter_context(ThreadPoolExecutor(2))
            ingest = Ingest(conns[0], conns[1], self.keys, self.ledger, executor, "operator-1")
            return await ingest.file(path, load_profile("tollgate"))

    async def roll(self) -> Any:
        conn = await asyncpg.connect(self.config.role_url(Role.INGEST))
        try:
            with ThreadPoolExecutor(2) as executor:
                return await roll(conn, self.keys, self.ledger, executor)
        finally:
            await conn.close()

    async def peer(self, carrier: str = "carrier-a", client_id: str = "", **limits: Any) -> Peer:
        """Return a client of the carrier's, registered if it is new."""
        client_id = client_id or f"client-of-{carrier}"
        if client_id not in self.peers:
            key = new_key()
            networks = (ip_network("127.0.0.0/8"),)
            await self.registry.add_client(self.operator, Client(client_id, carrier, (key.public,), networks, **limits))
            issuer = self.config.issuer
            self.peers[client_id] = Peer(self.http, self.gateway.url, issuer, client_id, key, new_key())
        return self.peers[client_id]

    async def headers(self, peer: Peer, method: str, path: str, **form: str) -> dict[str, str]:
        """Return credentials for one request; a token is asked for once for each kind of it."""
        name = peer.client_id + json.dumps(form)
        if name not in self.tokens:
            self.tokens[name] = await peer.token(**form)
        return peer.headers(method, path, self.tokens[name]) | {"Accept-Encoding": "identity"}

    async def ask(
        self, peer: Peer, method: str, path: str, *, form: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """Ask the API something as ``peer`` and return the whole answer."""
        headers = await self.headers(peer, method, path, **(form or {})) | dict(options.pop("headers", {}))
        url = self.gateway.url + path
        async with self.http.request(method, url, headers=headers, **options) as response:
            peer.nonce = response.headers.get("DPoP-Nonce", peer.nonce)
            return Answer(response.status, response.headers, await response.read())

    async def pull(self, peer: Peer, path: str = QUESTION, **options: Any) -> list[dict[str, Any]]:
        """Pull as NDJSON; return the records."""
        answer = await self.ask(peer, "GET", path, **options)
        assert answer.status == 200, answer.body
        return [json.loads(line) for line in answer.body.splitlines()]

    async def search(self, peer: Peer, number: str, **body: Any) -> list[dict[str, Any]]:
        """Search as NDJSON; return the records."""
        asked = {"number": number, "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z", **body}
        answer = await self.ask(peer, "POST", "/v1/cdrs/search", json=asked)
        assert answer.status == 200, answer.body
        return [json.loads(line) for line in answer.body.splitlines()]

    async def entries(self, *kinds: Kind) -> list[Any]:
        """Return the log's entries of these kinds."""
        return await self.ledger.read(kinds=kinds, limit=1000)


@contextlib.asynccontextmanager
async def gate(database: Database, *, fresh: bool = True, **settings: Any) -> AsyncIterator[Gate]:
    """Three carriers with agreements, and a gateway on plain HTTP over loopback.

    Not ``fresh``: keyring and carriers are there already (the database is a copy of one made so).
    """
    values = {"issuer": "https://gate.example", "tls_cert": ""} | settings
    config = replace(database.config, **values)
    async with contextlib.AsyncExitStack() as stack:
        provider = FileProvider.create(config.keyring_dir) if fresh else FileProvider(config.keyring_dir)
        keys = DataKeys(provider)
        pool = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=3))
        ledger = Ledger(pool, keys)
        await ledger.start()
        stack.push_async_callback(ledger.close)
        operator = await asyncpg.connect(config.role_url(Role.OPERATOR))
        stack.push_async_callback(operator.close)
        registry = await set_up(operator, ledger, config.oidc_issuer or ISSUER) if fresh else Operators(ledger)
        for carrier, ocns in CARRIERS.items() if fresh else ():
            periods = tuple(OcnOwnership(ocn, carrier, date(2020, 1, 1)) for ocn in ocns)
            await registry.add_carrier(operator, Carrier(carrier, f"Example {carrier.title()}"), periods)
            terms = Agreement(f"ICA-{carrier}", carrier, date(2020, 1, 1), None, "s. 9 (CPNI)")
            await registry.add_agreement(operator, terms)
        gateway = await build(config)
        await gateway.start()
        stack.push_async_callback(gateway.stop, 0)
        http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        yield Gate(config, gateway, http, registry, operator, ledger, keys, stack)


async def copy_of(server_url: str, template: str, name: str, home: Path) -> Database:
    """Make database ``name`` as a copy of another, and a home for it."""
    conn = await asyncpg.connect(server_url)
    try:
        await conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await conn.close()
    return _home(home, with_database(server_url, name))


def _home(home: Path, url: str) -> Database:
    home.mkdir(mode=0o700)
    config = Config(home=home, database_url=url, listen_port=0, metrics_port=0)
    config.roles_file.write_text(json.dumps(PASSWORDS))
    config.roles_file.chmod(0o600)
    return Database(url, config)


async def drop(server_url: str, name: str) -> None:
    """Drop a database."""
    conn = await asyncpg.connect(server_url)
    try:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await conn.close()
