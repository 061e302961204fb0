"""Members of staff for tests: registered, trained, and asking the API with real tokens and proofs.

async with own(tmp_path) as provider, gate(database, **provider.settings()) as world:
    handler = await member(world, provider, "handler@carrier.example", StaffRole.LEGAL_HANDLER)
    answer = await handler.ask("GET", "/v1/staff/me")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

import aiohttp
import asyncpg

from proxy.staff.model import StaffMember, StaffRole
from tests.support.api import Answer
from tests.support.oauth import Key, merged, new_key, proof
from tests.support.oidc import Own
from tests.support.operators import Operators

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"


def exchange_form(id_token: str, /, **change: Any) -> dict[str, str]:
    """The parameters of a token exchange that are right but for what is changed."""
    right = {"grant_type": EXCHANGE, "subject_token_type": ID_TOKEN, "subject_token": id_token}
    return merged(right, change)


@dataclass
class Member:
    """Somebody who does everything right, over a session of the caller's (aiohttp)."""

    http: aiohttp.ClientSession
    base: str
    """Where the server really listens."""
    issuer: str
    staff_id: str
    id_token: str
    key: Key
    nonce: str | None = None
    token_text: str = ""
    forms: dict[str, str] = field(default_factory=dict)

    async def exchange(self, /, **form: Any) -> tuple[int, dict[str, Any]]:
        """Exchange the ID token, once more if the server wants another nonce."""
        for _ in range(2):
            shown = proof(self.key, "POST", self.issuer + "/oauth/token", nonce=self.nonce)
            parameters = exchange_form(self.id_token, **form)
            async with self.http.post(self.base + "/oauth/token", data=parameters, headers={"DPoP": shown}) as response:
                self.nonce = response.headers.get("DPoP-Nonce", self.nonce)
                status, body = response.status, json.loads(await response.text())
            if body.get("error") != "use_dpop_nonce":
                break
        return status, body

    async def token(self, /, **form: Any) -> str:
        """Return a token."""
        status, body = await self.exchange(**form)
        assert status == 200, body
        self.token_text = str(body["access_token"])
        return self.token_text

    def headers(self, method: str, path: str, token: str, **change: Any) -> dict[str, str]:
        """Return the headers of an API request."""
        url = self.issuer + path.partition("?")[0]
        shown = proof(self.key, method, url, nonce=self.nonce, token=token, **change)
        return {"Authorization": f"DPoP {token}", "DPoP": shown}

    async def ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """Ask the API something and return the whole answer; a token is got for the first time."""
        if not self.token_text:
            await self.token(**self.forms)
        own = self.headers(method, path, self.token_text) | dict(headers or {})
        async with self.http.request(method, self.base + path, headers=own, **options) as response:
            self.nonce = response.headers.get("DPoP-Nonce", self.nonce)
            return Answer(response.status, response.headers, await response.read())


class Running(Protocol):
    """A gateway in its tests' hands (tests/support/gate.py: Gate)."""

    registry: Operators
    operator: asyncpg.Connection
    http: aiohttp.ClientSession


def person(staff_id: str, provider: Own, **change: Any) -> StaffMember:
    """Somebody, whom the provider knows under a subject of its own."""
    name = staff_id.partition("@")[0].replace("-", " ").replace("_", " ").title()
    values = {"name": name, "title": name, "hired_on": date(2020, 1, 1)} | change
    return StaffMember(staff_id, provider.issuer, subject_of(staff_id), **values)


def subject_of(staff_id: str) -> str:
    """What the provider calls somebody."""
    return "subject-of-" + staff_id


async def member(world: Any, provider: Own, staff_id: str, *roles: StaffRole, trained_on: date | None = None) -> Member:
    """Register somebody with roles and return them, signed in at the provider."""
    await world.registry.add_staff(world.operator, person(staff_id, provider), *roles, trained_on=trained_on)
    return signed_in(world, provider, staff_id, *roles)


def signed_in(world: Any, provider: Own, staff_id: str, *roles: StaffRole, subject: str = "", **change: Any) -> Member:
    """Return somebody who is registered already, signed in at the provider in the groups of ``roles``."""
    key = new_key()
    text = provider.token(subject or subject_of(staff_id), key.thumbprint, roles, **change)
    return Member(world.http, world.gateway.url, world.config.issuer, staff_id, text, key)


def operator(world: Any, provider: Own, staff_id: str = "operator-1") -> Member:
    """Return one of the two operators of tests/support/operators.py, where the world was set up with the provider."""
    return signed_in(world, provider, staff_id, StaffRole.OPERATOR, subject=f"{staff_id}@carrier.example")
