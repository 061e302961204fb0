"""The registry against a real PostgreSQL: changes with their log entries, ownership in time, quotas, grants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.ledger.model import Kind, LedgerUnavailable, Tag
from proxy.ledger.service import Ledger
from proxy.registry.jwk import registered
from proxy.registry.model import (
    Agreement,
    Carrier,
    Client,
    Conflict,
    NotFound,
    OcnOwnership,
    QuotaExceeded,
    RegistryError,
)
from proxy.registry.service import Registry, spend_rows
from schema.roles import Role
from tests.conftest import Database
from tests.support.oauth import new_key
from tests.support.operators import FIRST, SECOND, Operators, grant_of, set_up

NETWORKS = (ip_network("127.0.0.0/8"),)


@dataclass
class World:
    conn: asyncpg.Connection
    """Role OPERATOR."""
    ledger: Ledger
    registry: Operators

    async def changes(self) -> list[dict[str, Any]]:
        """What was told of carriers, agreements, clients."""
        told = [entry.request or {} for entry in await self.ledger.read(kinds=[Kind.REGISTRY_CHANGE])]
        return [request for request in told if not request["change"].startswith("staff.")]


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    provider = FileProvider.create(database.config.keyring_dir)
    conn = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
    async with asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=1, max_size=2) as pool:
        ledger = Ledger(pool, DataKeys(provider))
        await ledger.start()
        try:
            yield World(conn, ledger, await set_up(conn, ledger))
        finally:
            await ledger.close()
            await conn.close()


def client(client_id: str = "billing-a", **change: Any) -> Client:
    key = new_key()
    return replace(Client(client_id, "carrier-a", (key.public,), NETWORKS), **change)


async def test_every_change_is_one_entry(world: World) -> None:
    r, c = world.registry, world.conn
    await r.add_carrier(
        c, Carrier("carrier-a", "Example Carrier A"), (OcnOwnership("123A", "carrier-a", date(2020, 1, 1)),)
    )
    await r.add_ocn(c, OcnOwnership("123B", "carrier-a", date(2024, 1, 1), date(2025, 1, 1)))
    await r.end_ocn(c, "carrier-a", "123B", date(2024, 6, 1), "sold")
    await r.add_agreement(c, Agreement("ICA-1", "carrier-a", date(2020, 1, 1), None, "s. 9"))
    given = client()
    await r.add_client(c, given)
    first = registered(given.jwks[0])
    await r.add_key(c, "billing-a", new_key("EdDSA").public)
    await r.disable_key(c, "billing-a", first.kid, "retired")
    await r.disable_client(c, "billing-a", "stolen")
    await r.disable_agreement(c, "ICA-1", "ended")
    await r.disable_carrier(c, "carrier-a", "gone")
    changes = await world.changes()
    assert [x["change"] for x in changes] == [
        "carrier.add", "ocn.add", "ocn.end", "agreement.add", "client.add", "client.key.add", "client.key.disable",
        "client.disable", "agreement.disable", "carrier.disable",
    ]  # fmt: skip
    assert changes[0]["ocns"] == [{"ocn": "123A", "from": "2020-01-01", "to": None}]
    assert changes[2]["ocns"] == [{"ocn": "123B", "from": "2024-01-01", "to": "2024-06-01"}]
    assert changes[6]["keys"] == [{"kid": first.kid, "thumbprint": first.public.thumbprint}]
    entries = [e for e in await world.ledger.read(kinds=[Kind.REGISTRY_CHANGE]) if "carrier" in (e.request or {})]
    # What widens was approved by the second operator; what ends, the first ended alone.
    by = {(e.request["change"].rpartition(".")[2], e.actor["staff"]) for e in entries if e.request and e.actor}
    assert by == {("add", SECOND), ("end", FIRST), ("disable", FIRST)}


async def test_what_is_refused_leaves_neither_row_nor_entry(world: World) -> None:
    r, c = world.registry, world.conn
    await r.add_carrier(c, Carrier("carrier-a", "Example Carrier A"))
    before = await world.changes()
    with pytest.raises(Conflict):
        await r.add_carrier(c, Carrier("carrier-a", "Again"))
    with pytest.raises(Conflict, match="123A"):
        await r.add_carrier(
            c,
            Carrier("carrier-b", "Example Carrier B"),
            tuple(OcnOwnership("123A", "carrier-b", date(2020, 1, day)) for day in (1, 2)),
        )
    with pytest.raises(NotFound):
        await r.add_agreement(c, Agreement("ICA-1", "carrier-z", date(2020, 1, 1), None, "s. 9"))
    with pytest.raises(NotFound):
        await r.add_ocn(c, OcnOwnership("123A", "carrier-z", date(2020, 1, 1)))
    with pytest.raises(NotFound):
        await r.add_client(c, client(carrier_id="carrier-z"))
    with pytest.raises(RegistryError, match="private"):
        await r.add_client(c, client(jwks=(new_key().private,)))
    with pytest.raises(RegistryError, match="public key"):
        await r.add_client(c, client(jwks=()))
    with pytest.raises(NotFound):
        await r.disable_client(c, "billing-z", "x")
    with pytest.raises(NotFound):
        await r.disable_agreement(c, "ICA-9", "x")
    with pytest.raises(NotFound):
        await r.end_ocn(c, "carrier-a", "123A", date(2024, 1, 1), "x")
    assert await world.changes() == before
    assert [x.carrier_id for x in await r.carriers(c)] == ["carrier-a"]
    assert await r.clients(c) == []


async def test_a_change_whose_entry_cannot_be_written_is_not_made(world: World, owner: asyncpg.Connection) -> None:
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    with pytest.raises(LedgerUnavailable):
        await world.registry.add_carrier(world.conn, Carrier("carrier-a", "Example Carrier A"))
    assert await owner.fetchval("SELECT count(*) FROM tollgate.carrier") == 0


async def test_an_ocn_is_one_carriers_on_any_day(world: World) -> None:
    r, c = world.registry, world.conn
    for name in ("a", "b"):
        await r.add_carrier(c, Carrier(f"carrier-{name}", f"Example Carrier {name.upper()}"))
    await r.add_ocn(c, OcnOwnership("123A", "carrier-a", date(2020, 1, 1)))
    with pytest.raises(Conflict):
        await r.add_ocn(c, OcnOwnership("123A", "carrier-b", date(2024, 1, 1)))
    await r.end_ocn(c, "carrier-a", "123A", date(2024, 1, 1), "sold")
    await r.add_ocn(c, OcnOwnership("123A", "carrier-b", date(2024, 1, 1)))
    # Given by mistake, taken back before it began, given to the right one.
    await r.end_ocn(c, "carrier-b", "123A", date(2020, 1, 1), "a mistake")
    await r.add_ocn(c, OcnOwnership("123A", "carrier-a", date(2024, 1, 1), date(2025, 1, 1)))
    await r.add_ocn(c, OcnOwnership("123A", "carrier-b", date(2025, 1, 1)))
    assert [(o.carrier_id, o.valid_from, o.valid_to) for o in await r.ocns(c)] == [
        ("carrier-a", date(2020, 1, 1), date(2024, 1, 1)),
        ("carrier-a", date(2024, 1, 1), date(2025, 1, 1)),
        ("carrier-b", date(2025, 1, 1), None),
    ]
    await r.end_ocn(c, "carrier-b", "123A", date(2020, 1, 1), "a mistake")
    await r.add_ocn(c, OcnOwnership("123A", "carrier-b", date(2025, 1, 1), date(2026, 1, 1)))
    assert (await r.ocns(c, "carrier-b"))[0].valid_to == date(2026, 1, 1)


async def test_a_key_is_one_clients(world: World) -> None:
    r, c = world.registry, world.conn
    await r.add_carrier(c, Carrier("carrier-a", "Example Carrier A"))
    key = new_key()
    await r.add_client(c, client(jwks=(key.public,)))
    with pytest.raises(Conflict, match="its own"):
        await r.add_client(c, client("billing-b", jwks=({**key.public, "kid": "other"},)))
    with pytest.raises(Conflict, match="kid"):
        await r.add_key(c, "billing-a", {**new_key().public, "kid": key.kid})
    await r.disable_client(c, "billing-a", "moved")
    await r.add_client(c, client("billing-b", jwks=(key.public,)))
    with pytest.raises(Conflict, match="disabled"):
        await r.add_key(c, "billing-a", new_key().public)
    with pytest.raises(Conflict, match="disabled"):
        await r.disable_client(c, "billing-a", "again")
    with pytest.raises(Conflict, match="there already"):
        await r.add_client(c, client())


async def test_a_client_has_at_most_eight_keys(world: World) -> None:
    r, c = world.registry, world.conn
    await r.add_carrier(c, Carrier("carrier-a", "Example Carrier A"))
    await r.add_client(c, client(jwks=tuple(new_key().public for _ in range(8))))
    with pytest.raises(RegistryError, match="at most 8"):
        await r.add_key(c, "billing-a", new_key().public)


async def test_what_is_stored_reads_back(world: World) -> None:
    r, c = world.registry, world.conn
    await r.add_carrier(c, Carrier("carrier-a", "Example Carrier A"))
    given = client(
        networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")), requests_per_minute=7, rows_per_day=9
    )
    await r.add_client(c, given)
    (found,) = await r.clients(c, "carrier-a")
    assert found.networks == given.networks
    assert (found.requests_per_minute, found.rows_per_day, found.disabled_at) == (7, 9, None)
    assert [k["kid"] for k in found.jwks] == [given.jwks[0]["kid"]]
    assert all("d" not in k for k in found.jwks)


async def test_rows_are_spent_all_or_nothing(world: World, database: Database) -> None:
    await world.registry.add_carrier(world.conn, Carrier("carrier-a", "Example Carrier A"))
    await world.registry.add_client(world.conn, client(rows_per_day=100))
    async with asyncpg.create_pool(database.config.role_url(Role.OAUTH), min_size=1, max_size=8) as pool:
        assert await spend_rows(pool, "billing-a", 60) == 40
        with pytest.raises(QuotaExceeded) as caught:
            await spend_rows(pool, "billing-a", 41)
        assert caught.value.remaining == 40
        assert await spend_rows(pool, "billing-a", -30) == 70
        results = await asyncio.gather(*(spend_rows(pool, "billing-a", 20) for _ in range(8)), return_exceptions=True)
        assert sorted(x for x in results if isinstance(x, int)) == [10, 30, 50]
        assert sum(isinstance(x, QuotaExceeded) for x in results) == 5
        with pytest.raises(QuotaExceeded):
            await spend_rows(pool, "billing-a", 10**17)
        assert await spend_rows(pool, "billing-a", -(10**9)) == 100
        with pytest.raises(NotFound):
            await spend_rows(pool, "billing-z", 1)


async def test_a_first_spend_over_the_quota_is_refused(world: World, database: Database) -> None:
    await world.registry.add_carrier(world.conn, Carrier("carrier-a", "Example Carrier A"))
    await world.registry.add_client(world.conn, client(rows_per_day=100))
    conn = await asyncpg.connect(database.config.role_url(Role.OAUTH))
    with pytest.raises(QuotaExceeded):
        await spend_rows(conn, "billing-a", 101)
    await conn.close()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (Role.OPERATOR, "DELETE FROM tollgate.client"),
        (Role.OPERATOR, "UPDATE tollgate.client SET carrier_id = 'x'"),
        (Role.OPERATOR, "UPDATE tollgate.client_key SET jwk = '{}'"),
        (Role.OPERATOR, "UPDATE tollgate.carrier_ocn SET carrier_id = 'x'"),
        (Role.OAUTH, "UPDATE tollgate.client SET disabled_at = NULL"),
        (Role.OAUTH, "INSERT INTO tollgate.carrier (carrier_id, name) VALUES ('x', 'x')"),
        (Role.OPERATOR, "INSERT INTO tollgate.carrier (carrier_id, name) VALUES ('x', 'x')"),
        (Role.OAUTH, "DELETE FROM tollgate.used_jti"),
        (Role.OAUTH, "DELETE FROM tollgate.token_revoked"),
        (Role.OAUTH, "UPDATE tollgate.used_jti SET hash = hash"),
        (Role.OAUTH, "DROP TABLE tollgate.used_jti"),
        (Role.BILLING, "SELECT 1 FROM tollgate.client_key"),
        (Role.BILLING, "SELECT 1 FROM tollgate.used_jti"),
        (Role.INGEST, "SELECT 1 FROM tollgate.client"),
        (Role.INGEST, "SELECT tollgate.oauth_partitions()"),
        (Role.LOG, "SELECT 1 FROM tollgate.client"),
    ],
)
async def test_a_role_may_do_no_more_than_it_needs(database: Database, role: Role, statement: str) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    finally:
        await conn.close()


async def test_changes_are_found_by_who_made_them(world: World) -> None:
    await world.registry.add_carrier(world.conn, Carrier("carrier-a", "Example Carrier A"))
    by = grant_of("operator-7")
    ending = Registry(world.ledger, actor=by.actor(), tags=by.tags())
    await ending.disable_carrier(world.conn, "carrier-a", "gone")
    now = datetime.now(UTC)
    day = timedelta(days=1)
    found = await world.ledger.find(Tag("staff", b"operator-7"), first=now - day, last=now + day)
    assert [e.request["change"] for e in found if e.request] == ["carrier.disable"]
    # What widens is found by who approved it, and by who proposed it.
    for staff_id, count in ((FIRST, 2), (SECOND, 1)):
        found = await world.ledger.find(Tag("staff", staff_id.encode()), first=now - day, last=now + day)
        kinds = [e.kind for e in found if e.request and "digest" in e.request]
        assert kinds == [Kind.CHANGE_STATE] * count
