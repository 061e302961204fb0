"""The API of the registry of carriers, for operators: look-ups, and what one of them ends at once.

What widens is a change (`http.py`). Each end is one transaction with its log entry (proxy/registry/service.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import date, datetime
from typing import Any

import asyncpg
from aiohttp import web

from proxy.bodies import json_object, nothing, text
from proxy.changes.http import NO_STORE, problems
from proxy.ledger.service import Ledger
from proxy.problems import Problem
from proxy.registry.model import Agreement, Carrier, Client, OcnOwnership, check_ocn
from proxy.registry.service import Registry
from proxy.staff.model import StaffRole
from proxy.staff.ports import StaffGuard

ACQUIRE_S = 5.0

_Body = dict[str, Any]
_Ending = Callable[[Registry, asyncpg.Connection, web.Request, _Body], Awaitable[None]]


class RegistryApi:
    """The handlers.

    Args:
        ledger: the access log.
        guard: of staff routes.
        pool: connections of role OPERATOR.
    """

    def __init__(self, ledger: Ledger, guard: StaffGuard, pool: asyncpg.Pool) -> None:
        self._ledger = ledger
        self._guard = guard
        self._pool = pool

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        for path, look in (
            ("/v1/carriers", self.carriers),
            ("/v1/agreements", self.agreements),
            ("/v1/clients", self.clients),
        ):
            app.router.add_get(path, look, allow_head=False)
        for path, members, ending in (
            ("/v1/carriers/{id}/end", (), _end_carrier),
            ("/v1/carriers/{id}/ocns/{ocn}/end", ("before",), _end_ocn),
            ("/v1/agreements/end", ("agreement",), _end_agreement),
            ("/v1/clients/{id}/end", (), _end_client),
            ("/v1/clients/{id}/keys/end", ("kid",), _end_key),
        ):
            app.router.add_post(path, self._ending(members, ending))

    async def carriers(self, request: web.Request) -> web.Response:
        """GET /v1/carriers: with the OCNs that are, were and will be theirs."""
        async with await self._looking(request) as conn:
            carriers, ocns = await Registry().carriers(conn), await Registry().ocns(conn)
        return _listed("carriers", [carrier_json(carrier, ocns) for carrier in carriers])

    async def agreements(self, request: web.Request) -> web.Response:
        """GET /v1/agreements: ended ones too."""
        async with await self._looking(request) as conn:
            found = await Registry().agreements(conn)
        return _listed("agreements", [agreement_json(agreement) for agreement in found])

    async def clients(self, request: web.Request) -> web.Response:
        """GET /v1/clients: with their live keys, disabled clients too."""
        async with await self._looking(request) as conn:
            found = await Registry().clients(conn)
        return _listed("clients", [client_json(client) for client in found])

    async def _looking(self, request: web.Request) -> Any:
        await self._guard.authenticate(request, StaffRole.OPERATOR)
        nothing(request)
        return self._pool.acquire(timeout=ACQUIRE_S)

    def _ending(
        self, members: Collection[str], ending: _Ending
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of one kind of end: POST, a reason, at once."""

        async def handler(request: web.Request) -> web.StreamResponse:
            who = await self._guard.authenticate(request, StaffRole.OPERATOR)
            body = await json_object(request, (*members, "reason"))
            registry = Registry(self._ledger, actor=who.actor(), tags=who.tags())
            with problems():
                async with self._pool.acquire(timeout=ACQUIRE_S) as conn:
                    await ending(registry, conn, request, body)
            return web.Response(status=204, headers=NO_STORE)

        return handler


async def _end_carrier(registry: Registry, conn: asyncpg.Connection, request: web.Request, body: _Body) -> None:
    await registry.disable_carrier(conn, _id(request), text(body, "reason"))


async def _end_ocn(registry: Registry, conn: asyncpg.Connection, request: web.Request, body: _Body) -> None:
    try:
        before = date.fromisoformat(text(body, "before"))
    except ValueError as error:
        raise Problem("parameter", "A day is written YYYY-MM-DD.", parameter="before") from error
    ocn = check_ocn(request.match_info["ocn"])
    await registry.end_ocn(conn, _id(request), ocn, before, text(body, "reason"))


async def _end_agreement(registry: Registry, conn: asyncpg.Connection, request: web.Request, body: _Body) -> None:
    await registry.disable_agreement(conn, _plain(body, "agreement"), text(body, "reason"))


async def _end_client(registry: Registry, conn: asyncpg.Connection, request: web.Request, body: _Body) -> None:
    await registry.disable_client(conn, _id(request), text(body, "reason"))


async def _end_key(registry: Registry, conn: asyncpg.Connection, request: web.Request, body: _Body) -> None:
    await registry.disable_key(conn, _id(request), _plain(body, "kid"), text(body, "reason"))


def _id(request: web.Request) -> str:
    """A carrier's or client's id; what cannot be one is nobody's."""
    written = request.match_info["id"]
    if len(written) > 63 or not written.isascii() or not written.isprintable():
        raise Problem("not_found")
    return written


def _plain(body: _Body, name: str) -> str:
    """A text that could stand in the registry: PostgreSQL takes no NUL, and an answer repeats nothing unprintable."""
    value = text(body, name)
    if not 1 <= len(value) <= 200 or not value.isprintable():
        raise Problem("parameter", "This has to be 1 to 200 printable characters.", parameter=name)
    return value


def carrier_json(carrier: Carrier, ocns: Collection[OcnOwnership]) -> dict[str, Any]:
    """Return a carrier with its OCNs as JSON values."""
    own = [item.as_json() for item in ocns if item.carrier_id == carrier.carrier_id]
    return {
        "carrier": carrier.carrier_id,
        "name": carrier.name,
        "ocns": own,
        "disabled_at": _moment(carrier.disabled_at),
    }


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement as JSON values."""
    return {
        "agreement": agreement.reference,
        "carrier": agreement.carrier_id,
        "from": agreement.in_force_from.isoformat(),
        "to": None if agreement.in_force_to is None else agreement.in_force_to.isoformat(),
        "cpni_clause": agreement.cpni_clause,
        "disabled_at": _moment(agreement.disabled_at),
    }


def client_json(client: Client) -> dict[str, Any]:
    """Return a client with its live keys as JSON values."""
    return {
        "client": client.client_id,
        "carrier": client.carrier_id,
        "jwks": [dict(jwk) for jwk in client.jwks],
        "networks": [str(network) for network in client.networks],
        "requests_per_minute": client.requests_per_minute,
        "rows_per_day": client.rows_per_day,
        "disabled_at": _moment(client.disabled_at),
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _listed(name: str, values: list[dict[str, Any]]) -> web.Response:
    return web.json_response({name: values}, headers=NO_STORE)
