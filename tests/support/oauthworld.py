"""Gateways with an authorization server and one guarded route, over real sockets, on one fresh database."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import date
from ipaddress import ip_network
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.oauth import AuthError, Guard, StaffGuard, setup
from proxy.registry.model import Agreement, Carrier, Client, OcnOwnership
from schema.roles import Role
from tests.conftest import Database
from tests.support.oauth import Key, Peer, new_key
from tests.support.operators import Operators, set_up

ISSUER = "https://tollgate.example"
"""Not where the tests' servers listen: what counts is the issuer's name, never the Host header."""


@dataclass
class Gateway:
    """One instance."""

    base: str
    guard: Guard
    staff: StaffGuard
    app: web.Application
    refusals: Counter[str]


@dataclass
class World:
    """A database with carriers A and B, and gateways on it."""

    database: Database
    operator: asyncpg.Connection
    ledger: Ledger
    registry: Operators
    session: aiohttp.ClientSession
    stack: contextlib.AsyncExitStack
    provider: FileProvider
    issuer: str = ISSUER
    gateways: list[Gateway] = field(default_factory=list)

    @property
    def base(self) -> str:
        """Where the first gateway listens."""
        return self.gateways[0].base

    async def gateway(self) -> Gateway:
        """Start one more instance, with everything of its own but the database and the keyring."""
        config = replace(self.database.config, issuer=self.issuer)
        pool = await self.stack.enter_async_context(
            asyncpg.create_pool(config.role_url(Role.OAUTH), min_size=1, max_size=4)
        )
        app = web.Application()
        refusals: Counter[str] = Counter()
        guards = setup(
            app,
            config=config,
            pool=pool,
            ledger=self.ledger,
            signing=SigningKeys(config.keyring_dir),
            provider=self.provider,
            refused=lambda reason: refusals.update([reason]),
        )

        guard = guards.peers

        async def echo(request: web.Request) -> web.Response:
            try:
                grant = await guard.authenticate(request)
            except AuthError as error:
                headers = {"WWW-Authenticate": error.challenge(), **error.headers}
                return web.json_response({"error": error.error}, status=error.status, headers=headers)
            shown = {
                **{name: getattr(grant, name) for name in ("client_id", "carrier_id", "ocns", "purpose", "agreement")},
                **{name: getattr(grant, name) for name in ("jkt", "token_id", "address", "window")},
                "classes": sorted(grant.classes),
                "directions": sorted(grant.directions),
                "ownership": [[o.ocn, o.valid_from, o.valid_to] for o in grant.ownership],
            }
            return web.Response(text=json.dumps(shown, default=str))

        app.router.add_route("*", "/v1/echo", echo)
        runner = web.AppRunner(app, auto_decompress=False)  # as proxy/server.py
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.gateways.append(Gateway(f"http://{host}:{port}", guard, guards.staff, app, refusals))
        return self.gateways[-1]

    async def peer(
        self,
        client_id: str = "billing-a",
        *,
        key: Key | None = None,
        dpop: Key | None = None,
        carrier_id: str = "carrier-a",
        networks: tuple[str, ...] = ("127.0.0.0/8",),
        **limits: int,
    ) -> Peer:
        """Register a client and return one that asks the first gateway."""
        own = key or new_key()
        await self.registry.add_client(
            self.operator,
            Client(client_id, carrier_id, (own.public,), tuple(ip_network(n) for n in networks), **limits),
        )
        return Peer(self.session, self.base, self.issuer, client_id, own, dpop or new_key())

    async def json(self, path: str) -> dict[str, Any]:
        """Get a public document of the first gateway."""
        async with self.session.get(self.base + path) as response:
            assert response.status == 200
            value: dict[str, Any] = await response.json()
            return value

    async def entries(self, *kinds: Kind) -> list[Any]:
        """Return the log's entries of these kinds."""
        return await self.ledger.read(kinds=kinds, limit=1000)


@pytest.fixture(name="world")
async def world_fixture(database: Database) -> AsyncIterator[World]:
    """A gateway, and a registry with carrier A (123A, 123B) and carrier B (456B), agreements in force."""
    async with contextlib.AsyncExitStack() as stack:
        provider = FileProvider.create(database.config.keyring_dir)
        log_pool = await stack.enter_async_context(
            asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=1, max_size=3)
        )
        ledger = Ledger(log_pool, DataKeys(provider))
        await ledger.start()
        stack.push_async_callback(ledger.close)
        operator = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
        stack.push_async_callback(operator.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        registry = await set_up(operator, ledger)
        made = World(database, operator, ledger, registry, session, stack, provider)
        for letter, ocns in (("a", ("123A", "123B")), ("b", ("456B",))):
            carrier = f"carrier-{letter}"
            periods = tuple(OcnOwnership(o, carrier, date(2020 + 4 * i, 1, 1)) for i, o in enumerate(ocns))
            await registry.add_carrier(operator, Carrier(carrier, f"Example Carrier {letter.upper()}"), periods)
            terms = Agreement(f"ICA-{letter.upper()}", carrier, date(2020, 1, 1), None, "s. 9 (CPNI)")
            await registry.add_agreement(operator, terms)
        await made.gateway()
        yield made
