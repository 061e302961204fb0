"""Two operators for tests: one proposes and the other approves, so that a registry is what it would be in service.

`Operators` is used in a test's own process; run as a program (`python -m tests.support.operators`) it makes the changes
on its stdin in the home that the environment names, beside the commands of `tollgate`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.changes.bootstrap import bootstrap
from proxy.changes.kinds import CARRIERS
from proxy.changes.model import Change, ChangeKind
from proxy.changes.service import Changes
from proxy.changes.staffkinds import STAFF
from proxy.config import Config
from proxy.ledger.service import Ledger
from proxy.registry.model import Agreement, Carrier, Client, OcnOwnership
from proxy.registry.service import Registry
from proxy.staff.model import StaffGrant, StaffMember, StaffRole
from proxy.staff.service import Staff
from schema.roles import Role

ISSUER = "https://login.carrier.example"
FIRST, SECOND = "operator-1", "operator-2"


def today() -> date:
    """The UTC day."""
    return datetime.now(UTC).date()


def grant_of(staff_id: str, *roles: StaffRole) -> StaffGrant:
    """What the guard of staff routes would return for somebody."""
    until = datetime.now(UTC) + timedelta(minutes=5)
    held = frozenset(roles or (StaffRole.OPERATOR,))
    return StaffGrant(staff_id, held, f"token-of-{staff_id}", "k" * 43, "127.0.0.1", until, b"\0" * 32)


def member_of(staff_id: str, issuer: str = ISSUER) -> StaffMember:
    """Somebody, as the provider of the tests knows them: by their staff id at the carrier."""
    name = staff_id.replace("-", " ").title()
    return StaffMember(staff_id, issuer, f"{staff_id}@carrier.example", name, date(2020, 1, 1))


class OneConnection:
    """A connection where a pool is asked for."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        yield self._conn

    async def fetch(self, *args: Any) -> Any:
        return await self._conn.fetch(*args)

    async def fetchrow(self, *args: Any) -> Any:
        return await self._conn.fetchrow(*args)

    async def fetchval(self, *args: Any) -> Any:
        return await self._conn.fetchval(*args)


class Operators(Registry):
    """The registry in the hands of two operators: what widens is proposed by the first and approved by the second."""

    def __init__(self, ledger: Ledger) -> None:
        one = grant_of(FIRST)
        super().__init__(ledger, actor=one.actor(), tags=one.tags())
        self.ledger = ledger
        self.first, self.second = one, grant_of(SECOND)

    def changes(self, conn: asyncpg.Connection) -> Changes:
        """The changes, on one connection of role OPERATOR."""
        kinds = cast("tuple[ChangeKind, ...]", (*CARRIERS, *STAFF))
        return Changes(cast(asyncpg.Pool, OneConnection(conn)), self.ledger, kinds)

    async def change(self, conn: asyncpg.Connection, kind: str, payload: Mapping[str, Any]) -> Change:
        """Propose and approve."""
        changes = self.changes(conn)
        made = await changes.propose(self.first, kind, payload, "as agreed")
        return await changes.approve(self.second, made.change_id, made.digest)

    async def add_carrier(
        self, conn: asyncpg.Connection, carrier: Carrier, ownership: tuple[OcnOwnership, ...] = ()
    ) -> None:
        """A carrier, with OCNs if given."""
        ocns = [item.as_json() for item in ownership]
        await self.change(conn, "carrier.add", {"carrier": carrier.carrier_id, "name": carrier.name, "ocns": ocns})

    async def add_ocn(self, conn: asyncpg.Connection, ownership: OcnOwnership) -> None:
        """An OCN for some time."""
        await self.change(conn, "ocn.add", {"carrier": ownership.carrier_id, **ownership.as_json()})

    async def add_agreement(self, conn: asyncpg.Connection, agreement: Agreement) -> None:
        """An agreement."""
        a = agreement
        payload = {
            "agreement": a.reference,
            "carrier": a.carrier_id,
            "from": a.in_force_from.isoformat(),
            "to": None if a.in_force_to is None else a.in_force_to.isoformat(),
            "cpni_clause": a.cpni_clause,
        }
        await self.change(conn, "agreement.add", payload)

    async def add_client(self, conn: asyncpg.Connection, client: Client) -> None:
        """A client with its keys."""
        payload = {
            "client": client.client_id,
            "carrier": client.carrier_id,
            "networks": [str(network) for network in client.networks],
            "jwks": [dict(jwk) for jwk in client.jwks],
            "requests_per_minute": client.requests_per_minute,
            "rows_per_day": client.rows_per_day,
        }
        await self.change(conn, "client.add", payload)

    async def add_key(self, conn: asyncpg.Connection, client_id: str, jwk: Mapping[str, Any]) -> None:
        """A further key of a client."""
        await self.change(conn, "client.key.add", {"client": client_id, "jwk": dict(jwk)})

    async def add_staff(
        self, conn: asyncpg.Connection, member: StaffMember, *roles: StaffRole, trained_on: date | None = None
    ) -> None:
        """Somebody with roles, trained (today, where nothing else is said)."""
        m = member
        payload = {
            "staff": m.staff_id, "issuer": m.issuer, "subject": m.subject, "name": m.name, "title": m.title,
            "hired_on": m.hired_on.isoformat(), "roles": [role.value for role in roles],
        }  # fmt: skip
        await self.change(conn, "staff.add", payload)
        await Staff(self.ledger).train(conn, m.staff_id, trained_on or today(), "CPNI at hire", self.first)


async def set_up(conn: asyncpg.Connection, ledger: Ledger, issuer: str = ISSUER) -> Operators:
    """Name the two operators on a connection of role OPERATOR, and return them."""
    for staff_id in (FIRST, SECOND):
        await bootstrap(conn, ledger, member_of(staff_id, issuer), today(), "CPNI at hire", "tests")
    return Operators(ledger)


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[tuple[asyncpg.Connection, Ledger]]:
    conn = await asyncpg.connect(config.role_url(Role.OPERATOR))
    try:
        async with asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=2) as pool:
            ledger = Ledger(pool, DataKeys(FileProvider(config.keyring_dir)))
            await ledger.start()
            try:
                yield conn, ledger
            finally:
                await ledger.close()
    finally:
        await conn.close()


async def make(config: Config, wanted: list[tuple[str, Mapping[str, Any]]]) -> None:
    """Make changes (kind and payload) in the home of ``config``; the two operators are named if nobody is yet.

    ``client.end`` is no change: the first operator disables the client of the payload at once.
    """
    async with _opened(config) as (conn, ledger):
        there = await conn.fetchval("SELECT EXISTS (SELECT FROM tollgate.staff WHERE staff_id = $1)", FIRST)
        operators = Operators(ledger) if there else await set_up(conn, ledger)
        for kind, payload in wanted:
            if kind == "client.end":
                await operators.disable_client(conn, payload["client"], "a test")
            else:
                await operators.change(conn, kind, payload)


def main() -> None:
    """Read changes as JSON from stdin and make them, in the home that the environment names."""
    import click

    from proxy.cli.common import settings

    @click.command()
    @click.pass_context
    def command(ctx: click.Context) -> None:
        asyncio.run(make(settings(ctx), json.load(sys.stdin)))

    command(standalone_mode=False)


if __name__ == "__main__":
    main()
