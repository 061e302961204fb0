"""Two people for what widens access, against a real PostgreSQL: the service's lock, and the database's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.changes.bootstrap import bootstrap
from proxy.changes.model import (
    Change,
    ChangeError,
    NotOpen,
    OtherDigest,
    OwnChange,
    State,
    UnknownChange,
    WrongRole,
    digest_of,
)
from proxy.changes.service import Changes
from proxy.ledger.model import Kind, LedgerUnavailable
from proxy.ledger.service import Ledger
from proxy.registry.model import Conflict, NotFound, RegistryError
from proxy.staff.model import Conflict as StaffConflict
from proxy.staff.model import StaffRole
from proxy.staff.service import Staff
from schema.roles import Role
from tests.conftest import Database
from tests.support.oauth import new_key
from tests.support.operators import FIRST, SECOND, Operators, grant_of, member_of, set_up, today

CARRIER = {"carrier": "carrier-a", "name": "Example Carrier A", "ocns": [{"ocn": "123A", "from": "2020-01-01"}]}


@dataclass
class World:
    conn: asyncpg.Connection
    """Role OPERATOR."""
    ledger: Ledger
    operators: Operators
    changes: Changes

    async def propose(self, kind: str = "carrier.add", payload: Mapping[str, Any] = CARRIER) -> Change:
        return await self.changes.propose(self.operators.first, kind, payload, "as agreed")

    async def told(self, kind: Kind = Kind.CHANGE_STATE) -> list[dict[str, Any]]:
        return [entry.request or {} for entry in await self.ledger.read(kinds=[kind])]

    async def carriers(self) -> int:
        count: int = await self.conn.fetchval("SELECT count(*) FROM tollgate.carrier")
        return count


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    provider = FileProvider.create(database.config.keyring_dir)
    conn = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
    async with asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=1, max_size=2) as pool:
        ledger = Ledger(pool, DataKeys(provider))
        await ledger.start()
        try:
            operators = await set_up(conn, ledger)
            yield World(conn, ledger, operators, operators.changes(conn))
        finally:
            await ledger.close()
            await conn.close()


async def test_one_proposes_and_another_approves(world: World) -> None:
    change = await world.propose()
    assert (change.state, change.proposed_by, change.decided_by) == (State.PROPOSED, FIRST, None)
    assert await world.carriers() == 0
    made = await world.changes.approve(world.operators.second, change.change_id, change.digest)
    assert (made.state, made.decided_by) == (State.APPROVED, SECOND)
    assert made == await world.changes.one(world.operators.first, change.change_id)
    assert await world.conn.fetchval("SELECT change_id FROM tollgate.carrier") == change.change_id
    assert await world.conn.fetchval("SELECT change_id FROM tollgate.carrier_ocn") == change.change_id


async def test_every_step_is_an_entry_and_names_who(world: World) -> None:
    change = await world.propose()
    await world.changes.approve(world.operators.second, change.change_id, change.digest)
    entries = await world.ledger.read(kinds=[Kind.CHANGE_STATE])
    assert [(e.actor["staff"], e.request["action"]) for e in entries if e.actor and e.request] == [
        (FIRST, "propose"),
        (SECOND, "approve"),
    ]
    assert [e.request["digest"] for e in entries if e.request] == [change.digest] * 2
    assert entries[0].request is not None
    assert entries[0].request["payload"] == change.payload
    done = (await world.ledger.read(kinds=[Kind.REGISTRY_CHANGE]))[-1]
    assert done.request is not None
    assert done.actor is not None
    assert (done.request["change"], done.request["proposed_by"], done.actor["staff"]) == ("carrier.add", FIRST, SECOND)
    # Approval and effect stand beside each other: one transaction.
    assert done.index == entries[1].index + 1
    assert done.at == entries[1].at


async def test_nobody_decides_their_own(world: World) -> None:
    change = await world.propose()
    with pytest.raises(OwnChange):
        await world.changes.approve(world.operators.first, change.change_id, change.digest)
    with pytest.raises(OwnChange):
        await world.changes.refuse(world.operators.first, change.change_id, "no")
    with pytest.raises(OwnChange):
        await world.changes.withdraw(world.operators.second, change.change_id, "not mine")
    denied = [t for t in await world.told() if t.get("decision") == "deny"]
    assert [(t["action"], t["reason"]) for t in denied] == [
        ("approve", "change.own"),
        ("refuse", "change.own"),
        ("withdraw", "change.own"),
    ]
    assert await world.carriers() == 0


async def test_an_approval_is_of_what_was_seen(world: World) -> None:
    change = await world.propose()
    for other in (digest_of("{}"), "", "0" * 63, change.digest.upper()):
        with pytest.raises(OtherDigest):
            await world.changes.approve(world.operators.second, change.change_id, other)
    assert await world.carriers() == 0


@pytest.mark.parametrize("how", ["approve", "refuse", "withdraw"])
async def test_a_change_is_decided_once(world: World, how: str) -> None:
    change = await world.propose()
    first, second, changes = world.operators.first, world.operators.second, world.changes
    if how == "approve":
        await changes.approve(second, change.change_id, change.digest)
    elif how == "refuse":
        await changes.refuse(second, change.change_id, "no")
    else:
        await changes.withdraw(first, change.change_id, "a mistake")
    with pytest.raises(NotOpen):
        await changes.approve(second, change.change_id, change.digest)
    with pytest.raises(NotOpen):
        await changes.refuse(second, change.change_id, "no")
    with pytest.raises(NotOpen):
        await changes.withdraw(first, change.change_id, "a mistake")
    assert await world.carriers() == (1 if how == "approve" else 0)


async def test_of_two_who_approve_at_once_one_does(world: World, database: Database) -> None:
    await world.operators.add_staff(world.conn, member_of("operator-3"), StaffRole.OPERATOR)
    change = await world.propose()
    async with asyncpg.create_pool(database.config.role_url(Role.OPERATOR), min_size=4, max_size=4) as pool:
        changes = Changes(pool, world.ledger, world.changes._kinds.values())
        results = await asyncio.gather(
            *(changes.approve(grant_of(n), change.change_id, change.digest) for n in (SECOND, "operator-3")),
            return_exceptions=True,
        )
    assert sorted(type(r).__name__ for r in results) == ["Change", "NotOpen"]
    assert await world.carriers() == 1
    mine = [t for t in await world.told() if t["change_id"] == str(change.change_id) and t["action"] == "approve"]
    assert sorted(t.get("decision", "") for t in mine) == ["", "deny"]


async def test_what_does_not_fit_stays_proposed(world: World) -> None:
    payload = {"agreement": "ICA-1", "carrier": "carrier-a", "from": "2020-01-01", "cpni_clause": "s. 9"}
    change = await world.propose("agreement.add", payload)
    with pytest.raises(NotFound, match="no carrier"):
        await world.changes.approve(world.operators.second, change.change_id, change.digest)
    assert (await world.changes.one(world.operators.first, change.change_id)).state is State.PROPOSED
    assert (await world.told())[-1]["reason"] == "change.unfit"
    first = await world.propose()
    await world.changes.approve(world.operators.second, first.change_id, first.digest)
    await world.changes.approve(world.operators.second, change.change_id, change.digest)
    again = await world.propose()
    with pytest.raises(Conflict, match="there already"):
        await world.changes.approve(world.operators.second, again.change_id, again.digest)


async def test_without_the_log_nothing_is_decided(world: World, owner: asyncpg.Connection) -> None:
    change = await world.propose()
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    with pytest.raises(LedgerUnavailable):
        await world.changes.approve(world.operators.second, change.change_id, change.digest)
    with pytest.raises(LedgerUnavailable):
        await world.propose()
    assert await world.carriers() == 0
    assert [c.state for c in await world.changes.all(world.operators.first)] == [State.PROPOSED]


async def _age(owner: asyncpg.Connection, change_id: UUID, by: timedelta) -> None:
    await owner.execute("ALTER TABLE tollgate.change DISABLE TRIGGER change_check")
    older = "UPDATE tollgate.change SET expires_at = expires_at - $2::interval WHERE change_id = $1"
    await owner.execute(older, change_id, by)
    await owner.execute("ALTER TABLE tollgate.change ENABLE TRIGGER change_check")


async def test_a_proposal_expires(world: World, owner: asyncpg.Connection) -> None:
    change = await world.propose()
    await _age(owner, change.change_id, timedelta(days=7))
    # It shows as what it is before anything has swept it.
    assert (await world.changes.one(world.operators.second, change.change_id)).state is State.EXPIRED
    assert [c.change_id for c in await world.changes.all(world.operators.second, State.EXPIRED)] == [change.change_id]
    assert await world.changes.all(world.operators.second, State.PROPOSED) == []
    with pytest.raises(NotOpen):
        await world.changes.approve(world.operators.second, change.change_id, change.digest)
    told = await world.told()
    assert [t["action"] for t in told] == ["propose", "expire", "approve"]
    assert await world.conn.fetchval("SELECT state FROM tollgate.change") == "expired"


async def test_a_proposal_not_quite_expired_is_approved(world: World, owner: asyncpg.Connection) -> None:
    change = await world.propose()
    await _age(owner, change.change_id, timedelta(days=7) - timedelta(minutes=1))
    made = await world.changes.approve(world.operators.second, change.change_id, change.digest)
    assert made.state is State.APPROVED


async def test_what_a_suspended_operator_left_behind_is_not_approved(world: World) -> None:
    change = await world.propose()
    await Staff(world.ledger).suspend(world.conn, FIRST, "left", world.operators.second)
    with pytest.raises(WrongRole, match="propose it anew"):
        await world.changes.approve(world.operators.second, change.change_id, change.digest)
    assert await world.carriers() == 0


async def _third(world: World) -> None:
    """One of two operators is suspended: the set-up names another."""
    await bootstrap(world.conn, world.ledger, member_of("operator-3"), today(), "CPNI at hire", "tests")


@pytest.mark.parametrize("why", ["suspended", "untrained", "no_role"])
async def test_the_database_knows_who_may_decide(world: World, owner: asyncpg.Connection, why: str) -> None:
    """The gateway's own look at roles comes first; here it is deceived."""
    await world.operators.add_staff(world.conn, member_of("operator-3"), StaffRole.OPERATOR)
    staff = Staff(world.ledger)
    if why == "suspended":
        await staff.suspend(world.conn, "operator-3", "left", world.operators.first)
    elif why == "untrained":
        await owner.execute("DELETE FROM tollgate.staff_training WHERE staff_id = 'operator-3'")
    else:
        await staff.end_role(world.conn, "operator-3", StaffRole.OPERATOR, "moved", world.operators.first)
    change = await world.propose()
    with pytest.raises(WrongRole):
        await world.changes.approve(grant_of("operator-3"), change.change_id, change.digest)
    with pytest.raises(WrongRole):
        await world.changes.propose(grant_of("operator-3"), "carrier.add", CARRIER, "as agreed")
    assert await world.carriers() == 0


async def test_a_role_sees_its_own_kinds_only(world: World) -> None:
    change = await world.propose()
    noc = grant_of("noc-1", StaffRole.NOC)
    assert await world.changes.all(noc) == []
    with pytest.raises(UnknownChange):
        await world.changes.one(noc, change.change_id)
    with pytest.raises(UnknownChange):
        await world.changes.approve(noc, change.change_id, change.digest)
    with pytest.raises(WrongRole):
        await world.changes.propose(noc, "carrier.add", CARRIER, "as agreed")
    with pytest.raises(UnknownChange):
        await world.changes.approve(world.operators.second, uuid4(), change.digest)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("carrier.remove", {}),
        ("carrier.add", {}),
        ("carrier.add", {"carrier": "carrier-a", "name": "A", "else": 1}),
        ("carrier.add", {"carrier": "carrier-a", "name": 1}),
        ("carrier.add", {"carrier": "Carrier A", "name": "A"}),
        ("carrier.add", {"carrier": "carrier-a", "name": "A\n"}),
        ("carrier.add", {"carrier": "carrier-a", "name": "A", "ocns": {"ocn": "123A"}}),
        ("carrier.add", {"carrier": "carrier-a", "name": "A", "ocns": ["123A"]}),
        ("carrier.add", {"carrier": "carrier-a", "name": "A", "ocns": [{"ocn": "123a", "from": "2020-01-01"}]}),
        ("ocn.add", {"carrier": "carrier-a", "ocn": "123A", "from": "20200101"}),
        ("ocn.add", {"carrier": "carrier-a", "ocn": "123A", "from": "2020-01-01", "to": "2019-01-01"}),
        ("ocn.add", {"carrier": "carrier-a", "ocn": "123A", "from": 1.5}),
        ("agreement.add", {"agreement": "", "carrier": "carrier-a", "from": "2020-01-01", "cpni_clause": "s. 9"}),
        ("client.add", {"client": "c", "carrier": "carrier-a", "networks": ["192.0.2.1/24"], "jwks": []}),
        ("client.add", {"client": "c", "carrier": "carrier-a", "networks": ["192.0.2.0/24"], "jwks": []}),
        ("client.add", {"client": "c", "carrier": "carrier-a", "networks": [1], "jwks": []}),
        ("client.add", {"client": "c", "carrier": "a", "networks": ["::/0"], "jwks": [{}], "rows_per_day": True}),
        ("client.key.add", {"client": "c", "jwk": {"kty": "oct", "k": "c2VjcmV0"}}),
        ("staff.role.add", {"staff": "operator-3", "role": "king"}),
        ("staff.role.add", {"staff": "operator-3", "role": ["operator"]}),
        ("staff.resume", {"staff": "Operator 3"}),
    ],
)
async def test_a_payload_that_is_none_is_refused(world: World, kind: str, payload: Mapping[str, Any]) -> None:
    before = len(await world.ledger.read(limit=1000))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - either registry's error, never a ValueError or TypeError
        await world.propose(kind, payload)
    assert isinstance(caught.value, RegistryError) or type(caught.value).__module__ == "proxy.staff.model"
    assert len(await world.ledger.read(limit=1000)) == before
    assert await world.conn.fetchval("SELECT count(*) FROM tollgate.change") == 0


async def test_a_payload_is_as_large_as_it_may_be(world: World) -> None:
    ocns = [{"ocn": f"{n:04d}", "from": "2020-01-01"} for n in range(201)]
    with pytest.raises(ChangeError):
        await world.propose(payload={**CARRIER, "ocns": ocns})
    change = await world.propose(payload={**CARRIER, "ocns": ocns[:200]})
    await world.changes.approve(world.operators.second, change.change_id, change.digest)
    assert await world.conn.fetchval("SELECT count(*) FROM tollgate.carrier_ocn") == 200


async def test_staff_are_added_given_roles_and_keys_and_resumed(world: World) -> None:
    operators, conn = world.operators, world.conn
    await operators.add_staff(conn, member_of("handler-1"), StaffRole.LEGAL_HANDLER)
    await operators.change(conn, "staff.role.add", {"staff": "handler-1", "role": "privacy_officer"})
    key = new_key()
    await operators.change(conn, "staff.key.add", {"staff": "handler-1", "jwk": key.public})
    staff = Staff(world.ledger)
    await staff.suspend(conn, "handler-1", "left", operators.first)
    assert (await staff.one(conn, "handler-1")).suspended_at is not None
    await operators.change(conn, "staff.resume", {"staff": "handler-1"})
    record = await staff.one(conn, "handler-1")
    assert record.suspended_at is None
    assert record.roles == {StaffRole.LEGAL_HANDLER, StaffRole.PRIVACY_OFFICER}
    with pytest.raises(StaffConflict, match="legal_handler"):
        await operators.change(conn, "staff.role.add", {"staff": "handler-1", "role": "operator"})


# --- the set-up ------------------------------------------------------------------------------------------------------


async def test_the_set_up_ends_with_the_second_operator(world: World) -> None:
    with pytest.raises(StaffConflict, match="two operators"):
        await _third(world)
    setups = [t for t in await world.told(Kind.REGISTRY_CHANGE) if t["change"] == "staff.bootstrap"]
    assert [t["staff_id"] for t in setups] == [FIRST, SECOND]
    # And not by going around it, either.
    for statement in (
        "INSERT INTO tollgate.staff (staff_id, issuer, subject, name, title, hired_on)"
        " VALUES ('x', 'x', 'x', 'x', '', '2020-01-01')",
        f"INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('{FIRST}', 'privacy_officer')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="another has approved"):
            await world.conn.execute(statement)


async def test_the_set_up_gives_no_other_role(world: World, owner: asyncpg.Connection) -> None:
    await Staff(world.ledger).suspend(world.conn, FIRST, "left", world.operators.second)
    await _days_ago(owner, 8)
    for role in set(StaffRole) - {StaffRole.OPERATOR}:
        # Some of them go together with operator's for nobody: that is said first.
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.CheckViolationError)):
            await world.conn.execute("INSERT INTO tollgate.staff_role (staff_id, role) VALUES ($1, $2)", SECOND, role)
    # Nor does it lift the suspension of the one who left.
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await world.conn.execute("UPDATE tollgate.staff_suspension SET lifted_at = now()")


async def _days_ago(owner: asyncpg.Connection, days: float) -> None:
    """Every suspension, and every end of a role, was so long ago."""
    async with owner.transaction():
        await owner.execute("SET LOCAL session_replication_role = replica")
        await owner.execute("UPDATE tollgate.staff_suspension SET suspended_at = now() - $1 * interval '1 day'", days)
        await owner.execute(
            "UPDATE tollgate.staff_role SET ended_at = now() - $1 * interval '1 day' WHERE ended_at IS NOT NULL", days
        )


@pytest.mark.parametrize("deed", ["suspend", "end_role"])
async def test_one_operator_does_not_make_two(world: World, owner: asyncpg.Connection, deed: str) -> None:
    """Suspending the other takes nobody else: it does not open the set-up, for whoever could name a puppet there."""
    staff = Staff(world.ledger)
    if deed == "suspend":
        await staff.suspend(world.conn, SECOND, "left", world.operators.first)
    else:
        await staff.end_role(world.conn, SECOND, StaffRole.OPERATOR, "left", world.operators.first)
    for days in (0, 6.99):
        await _days_ago(owner, days)
        with pytest.raises(StaffConflict, match="within the last 7 days"):
            await _third(world)
        # Nor by what the set-up does, one by one.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.conn.execute(
                "INSERT INTO tollgate.staff (staff_id, issuer, subject, name, title, hired_on)"
                " VALUES ('puppet', 'https://x', 'x', 'P', '', current_date)"
            )
        with pytest.raises(asyncpg.CheckViolationError, match="within 7 days"):
            await world.conn.execute(
                "INSERT INTO tollgate.staff_training (staff_id, completed_on, course) VALUES ($1, current_date, 'c')",
                FIRST,
            )
    await _days_ago(owner, 7.01)
    await _third(world)
    with pytest.raises(StaffConflict, match="two operators"):
        await bootstrap(world.conn, world.ledger, member_of("operator-4"), today(), "CPNI at hire", "tests")


async def test_no_suspension_is_said_to_be_older(world: World, owner: asyncpg.Connection) -> None:
    """The times are the database's, whatever role OPERATOR says."""
    await world.conn.execute(
        "INSERT INTO tollgate.staff_suspension (staff_id, suspended_by, suspended_at) VALUES ($1, $1, '2020-01-01')",
        SECOND,
    )
    assert not await world.conn.fetchval("SELECT tollgate.staff_unset()")
    await world.conn.execute(
        "UPDATE tollgate.staff_role SET ended_at = '2020-01-01', ended_by = $1 WHERE staff_id = $1", SECOND
    )
    assert not await world.conn.fetchval("SELECT tollgate.staff_unset()")
    # Whoever's role ended before they were suspended was no operator then.
    await owner.execute("UPDATE tollgate.staff_suspension SET suspended_at = now() - interval '1 day'")
    await owner.execute("ALTER TABLE tollgate.staff_role DISABLE TRIGGER USER")
    await owner.execute(
        "UPDATE tollgate.staff_role SET ended_at = now() - interval '8 days' WHERE staff_id = $1", SECOND
    )
    assert await world.conn.fetchval("SELECT tollgate.staff_unset()")


async def test_the_set_up_takes_nobody_for_another(world: World, owner: asyncpg.Connection) -> None:
    await Staff(world.ledger).suspend(world.conn, FIRST, "left", world.operators.second)
    await _days_ago(owner, 8)
    other = member_of(SECOND, "https://elsewhere.example")
    with pytest.raises(StaffConflict, match="somebody else"):
        await bootstrap(world.conn, world.ledger, other, today(), "CPNI at hire", "tests")
    await _third(world)
    with pytest.raises(StaffConflict, match="two operators"):
        await bootstrap(world.conn, world.ledger, member_of("operator-4"), today(), "CPNI at hire", "tests")


async def test_an_untrained_operator_is_trained_by_the_set_up(world: World, owner: asyncpg.Connection) -> None:
    await owner.execute(
        "UPDATE tollgate.staff_training SET completed_on = completed_on - 367 WHERE staff_id = $1", FIRST
    )
    await bootstrap(world.conn, world.ledger, member_of(FIRST), today(), "CPNI yearly", "tests")
    assert (await world.propose()).proposed_by == FIRST


# --- the second lock: what role OPERATOR may do without the service ---------------------------------------------------

_KEY = new_key()
_PAYLOADS: dict[str, Mapping[str, Any]] = {
    "carrier.add": CARRIER,
    "ocn.add": {"carrier": "carrier-b", "ocn": "456B", "from": "2020-01-01", "to": "2021-01-01"},
    "client.add": {"client": "c-1", "carrier": "carrier-b", "networks": ["192.0.2.0/24"], "jwks": [_KEY.public]},
    "client.key.add": {"client": "c-0", "jwk": _KEY.public},
    "agreement.add": {"agreement": "ICA-1", "carrier": "carrier-b", "from": "2020-01-01", "cpni_clause": "s. 9"},
    "staff.role.add": {"staff": FIRST, "role": "privacy_officer"},
}
_OCN = "INSERT INTO tollgate.carrier_ocn (ocn, code, valid_from, valid_to, carrier_id, change_id)"
_CLIENT = "INSERT INTO tollgate.client (client_id, carrier_id, networks, requests_per_minute, rows_per_day, change_id)"
_AGREEMENT = (
    "INSERT INTO tollgate.agreement (reference, carrier_id, in_force_from, in_force_to, cpni_clause, change_id)"
)
_ROLE = "INSERT INTO tollgate.staff_role (staff_id, role, change_id)"
_CLIENT_KEY = "INSERT INTO tollgate.client_key (client_id, kid, alg, thumbprint, jwk, change_id)"


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("carrier.add", "INSERT INTO tollgate.carrier (carrier_id, name, change_id) VALUES ('carrier-z', 'Z', $1)"),
        ("carrier.add", "INSERT INTO tollgate.carrier (carrier_id, name, change_id) VALUES ('carrier-a', 'Z', $1)"),
        ("carrier.add", f"{_OCN} VALUES ('123A', 1, '2019-01-01', NULL, 'carrier-b', $1)"),
        ("carrier.add", f"{_AGREEMENT} VALUES ('ICA-1', 'carrier-b', '2020-01-01', NULL, 's. 9', $1)"),
        ("ocn.add", f"{_OCN} VALUES ('456B', 1, '2020-01-01', NULL, 'carrier-b', $1)"),
        ("ocn.add", f"{_OCN} VALUES ('456B', 1, '2019-12-31', '2021-01-01', 'carrier-b', $1)"),
        ("ocn.add", f"{_OCN} VALUES ('456C', 1, '2020-01-01', '2021-01-01', 'carrier-b', $1)"),
        ("ocn.add", "INSERT INTO tollgate.carrier (carrier_id, name, change_id) VALUES ('carrier-z', 'Z', $1)"),
        ("agreement.add", f"{_AGREEMENT} VALUES ('ICA-1', 'carrier-b', '2019-01-01', NULL, 's. 9', $1)"),
        ("client.add", f"{_CLIENT} VALUES ('c-1', 'carrier-b', '{{0.0.0.0/0}}', 600, 20000000, $1)"),
        ("client.add", f"{_CLIENT} VALUES ('c-1', 'carrier-b', '{{192.0.2.0/24}}', 600, 20000001, $1)"),
        ("client.add", f"{_CLIENT} VALUES ('c-2', 'carrier-b', '{{192.0.2.0/24}}', 600, 20000000, $1)"),
        ("client.key.add", f"{_CLIENT_KEY} VALUES ('c-0', 'k', 'ES256', 't', '{{\"kid\": \"k\"}}', $1)"),
        ("staff.role.add", f"{_ROLE} VALUES ('{FIRST}', 'noc', $1)"),
        ("staff.role.add", f"{_ROLE} VALUES ('{SECOND}', 'privacy_officer', $1)"),
    ],
)  # fmt: skip
async def test_an_approved_change_widens_nothing_else(world: World, kind: str, statement: str) -> None:
    """In the approving transaction itself, the row that is not named is refused by its trigger."""
    await world.operators.change(world.conn, "carrier.add", {"carrier": "carrier-b", "name": "Example Carrier B"})
    other = {**_PAYLOADS["client.add"], "client": "c-0", "jwks": [new_key().public]}
    await world.operators.change(world.conn, "client.add", other)
    change = await world.propose(kind, _PAYLOADS[kind])
    approve = (
        "UPDATE tollgate.change SET state = 'approved', decided_by = $2, decided_digest = digest WHERE change_id = $1"
    )
    async with world.conn.transaction():
        await world.conn.execute(approve, change.change_id, SECOND)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="does not name this"):
            await world.conn.execute(statement, change.change_id)


async def test_an_approval_is_used_in_its_own_transaction_only(world: World) -> None:
    change = await world.operators.change(world.conn, "carrier.add", {"carrier": "carrier-b", "name": "B"})
    insert = "INSERT INTO tollgate.carrier (carrier_id, name, change_id) VALUES ('carrier-b', 'B', $1)"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="another has approved"):
        await world.conn.execute(insert, change.change_id)
    for none in (None, uuid4(), (await world.propose()).change_id):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="another has approved"):
            await world.conn.execute(insert, none)


@pytest.mark.parametrize(
    ("says", "statement"),
    [
        ("change_two_people", f"UPDATE tollgate.change SET state = 'approved', decided_by = '{FIRST}',"
                              " decided_digest = digest"),
        ("change_seen", f"UPDATE tollgate.change SET state = 'approved', decided_by = '{SECOND}'"),
        ("change_seen", f"UPDATE tollgate.change SET state = 'approved', decided_by = '{SECOND}',"
                        " decided_digest = sha256('x')"),
        ("change_approver", "UPDATE tollgate.change SET state = 'approved', decided_digest = digest"),
        ("change_decided", f"UPDATE tollgate.change SET state = 'withdrawn', decided_by = '{SECOND}'"),
        ("change_expires", "UPDATE tollgate.change SET state = 'expired'"),
        ("change_over", "UPDATE tollgate.change SET state = 'proposed'"),
        ("change_approver", "UPDATE tollgate.change SET state = 'refused', decided_by = 'noc-1'"),
        ("change_state", "INSERT INTO tollgate.change (change_id, kind, payload, digest, reason, state, proposed_by,"
                         " expires_at, decided_by, decided_at, decided_digest) SELECT gen_random_uuid(), kind, payload,"
                         f" digest, reason, 'approved', proposed_by, expires_at, '{SECOND}', now(), digest"
                         " FROM tollgate.change"),
        ("change_expires", "INSERT INTO tollgate.change (change_id, kind, payload, digest, reason, proposed_by,"
                           " expires_at) SELECT gen_random_uuid(), kind, payload, digest, reason, proposed_by,"
                           " now() + interval '31 days' FROM tollgate.change"),
        ("change_digest", "INSERT INTO tollgate.change (change_id, kind, payload, digest, reason, proposed_by,"
                          " expires_at) SELECT gen_random_uuid(), kind, '{}', digest, reason, proposed_by, expires_at"
                          " FROM tollgate.change"),
    ],
)  # fmt: skip
async def test_the_database_holds_the_rules_of_changes(world: World, says: str, statement: str) -> None:
    await world.operators.add_staff(world.conn, member_of("noc-1"), StaffRole.NOC)
    change = await world.propose()
    statement = statement.replace(
        "FROM tollgate.change", f"FROM tollgate.change WHERE change_id = '{change.change_id}'"
    )
    if statement.startswith("UPDATE"):
        statement += f" WHERE change_id = '{change.change_id}'"
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await world.conn.execute(statement)
    assert caught.value.constraint_name == says


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tollgate.change SET payload = '{}'",
        "UPDATE tollgate.change SET proposed_by = 'operator-2'",
        "UPDATE tollgate.change SET expires_at = now() + interval '9 days'",
        "UPDATE tollgate.change SET decided_at = now()",
        "DELETE FROM tollgate.change",
        "UPDATE tollgate.change_kind SET approver = 'noc'",
        "INSERT INTO tollgate.change_kind (kind, proposer, approver) VALUES ('x.y', 'noc', 'noc')",
        "UPDATE tollgate.carrier SET disabled_at = NULL",
        "UPDATE tollgate.carrier SET disabled_at = disabled_at + interval '1 day'",
        "UPDATE tollgate.agreement SET disabled_at = NULL",
        "UPDATE tollgate.client SET disabled_at = NULL",
        "UPDATE tollgate.client_key SET disabled_at = NULL",
        "UPDATE tollgate.carrier SET change_id = NULL",
        "UPDATE tollgate.carrier_ocn SET valid_to = NULL",
        "UPDATE tollgate.carrier_ocn SET valid_to = '2025-01-02'",
        "ALTER TABLE tollgate.carrier DISABLE TRIGGER widens",
        "SET session_replication_role = replica",
    ],
)
async def test_what_ended_stays_ended(world: World, statement: str) -> None:
    operators, conn = world.operators, world.conn
    await operators.change(conn, "carrier.add", CARRIER)
    await operators.change(conn, "agreement.add", {**_PAYLOADS["agreement.add"], "carrier": "carrier-a"})
    await operators.change(conn, "client.add", {**_PAYLOADS["client.add"], "carrier": "carrier-a"})
    await operators.end_ocn(conn, "carrier-a", "123A", date(2025, 1, 1), "sold")
    await operators.disable_client(conn, "c-1", "gone")
    await operators.disable_agreement(conn, "ICA-1", "gone")
    await operators.disable_carrier(conn, "carrier-a", "gone")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(statement)


@pytest.mark.parametrize("role", [r for r in Role if r is not Role.OPERATOR])
async def test_no_other_role_has_anything_to_do_with_changes(database: Database, role: Role) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        for statement in (
            "SELECT 1 FROM tollgate.change",
            "INSERT INTO tollgate.change_kind (kind, proposer, approver) VALUES ('x.y', 'noc', 'noc')",
            "UPDATE tollgate.change SET state = 'approved'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()


async def test_what_an_approver_sees_is_what_is_stored(world: World) -> None:
    """Order and blanks of what was proposed do not change the digest; a private part never gets so far."""
    one = await world.propose(payload=CARRIER)
    two = await world.propose(payload=dict(reversed(list(json.loads(json.dumps(CARRIER, indent=4)).items()))))
    assert one.digest == two.digest
    with pytest.raises(RegistryError, match="private"):
        await world.propose("client.key.add", {"client": "c-1", "jwk": new_key().private})
