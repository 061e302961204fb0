"""The registry of staff in PostgreSQL: what one person does alone, what is on record, and what the database refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.ledger.model import Kind, LedgerUnavailable
from proxy.ledger.service import Ledger
from proxy.oauth import AuthError, StaffGuard
from proxy.oauth.admission import Admissions
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.staffadmission import StaffAdmissions
from proxy.staff.model import Conflict, NotFound, StaffError, StaffRole, Standing, standing
from proxy.staff.service import Staff, keys, names
from schema.roles import Role
from tests.conftest import Database
from tests.support.oauth import new_key
from tests.support.operators import FIRST, SECOND, Operators, grant_of, member_of, set_up, today

HANDLER = "handler"


@dataclass
class World:
    """A registry with two operators and a handler."""

    conn: asyncpg.Connection
    """Role OPERATOR."""
    ledger: Ledger
    operators: Operators
    staff: Staff

    async def changes(self) -> list[Any]:
        """What the log says of changes, the latest last."""
        return [entry.request for entry in await self.ledger.read(kinds=(Kind.REGISTRY_CHANGE,), limit=1000)]


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    provider = FileProvider.create(database.config.keyring_dir)
    conn = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
    async with asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=1, max_size=2) as pool:
        ledger = Ledger(pool, DataKeys(provider))
        await ledger.start()
        operators = await set_up(conn, ledger)
        await operators.add_staff(conn, member_of(HANDLER), StaffRole.LEGAL_HANDLER)
        yield World(conn, ledger, operators, Staff(ledger))
        await ledger.close()
    await conn.close()


async def test_what_stands_of_somebody(world: World) -> None:
    found = await world.staff.one(world.conn, HANDLER)
    assert found.roles == {StaffRole.LEGAL_HANDLER}
    assert (found.suspended_at, found.standing) == (None, Standing.CURRENT)
    assert [r.member.staff_id for r in await world.staff.everybody(world.conn)] == [HANDLER, FIRST, SECOND]
    with pytest.raises(NotFound):
        await world.staff.one(world.conn, "nobody")


async def test_a_suspension_and_its_lifting(world: World) -> None:
    by = grant_of(FIRST)
    await world.staff.suspend(world.conn, HANDLER, "as agreed", by)
    assert (await world.staff.one(world.conn, HANDLER)).suspended_at is not None
    assert not await world.conn.fetchval("SELECT tollgate.staff_active($1, 'legal_handler')", HANDLER)
    with pytest.raises(Conflict, match="suspended already"):
        await world.staff.suspend(world.conn, HANDLER, "again", by)
    with pytest.raises(NotFound):
        await world.staff.suspend(world.conn, "nobody", "as agreed", by)
    told = (await world.changes())[-1]
    assert told == {"change": "staff.suspend", "staff_id": HANDLER, "reason": "as agreed"}
    await world.operators.change(world.conn, "staff.resume", {"staff": HANDLER})
    assert (await world.staff.one(world.conn, HANDLER)).suspended_at is None
    await world.staff.suspend(world.conn, HANDLER, "once more", by)


async def test_a_role_that_ends(world: World) -> None:
    by = grant_of(FIRST)
    await world.staff.end_role(world.conn, HANDLER, StaffRole.LEGAL_HANDLER, "moved", by)
    assert (await world.staff.one(world.conn, HANDLER)).roles == frozenset()
    with pytest.raises(NotFound):
        await world.staff.end_role(world.conn, HANDLER, StaffRole.LEGAL_HANDLER, "moved", by)
    entry = (await world.ledger.read(kinds=(Kind.REGISTRY_CHANGE,), limit=1000))[-1]
    assert entry.actor["staff"] == FIRST
    assert entry.request["change"] == "staff.role.end"


async def test_training_is_recorded_by_another(world: World) -> None:
    by, day = grant_of(FIRST), today()
    await world.staff.train(world.conn, HANDLER, day - timedelta(days=3), "CPNI 2026", by)
    told = (await world.changes())[-1]
    assert told["completed_on"] == (day - timedelta(days=3)).isoformat()
    for who, when, course, error in (
        (FIRST, day, "CPNI 2026", Conflict),  # one's own
        (HANDLER, day - timedelta(days=3), "CPNI 2026", Conflict),  # already
        (HANDLER, day + timedelta(days=1), "CPNI 2026", Conflict),  # not yet
        (HANDLER, day, "", StaffError),
        (HANDLER, date(1900, 1, 1), "CPNI", StaffError),
        ("nobody", day, "CPNI", NotFound),
    ):
        with pytest.raises(error):
            await world.staff.train(world.conn, who, when, course, by)
    with pytest.raises(Conflict, match="nobody records their own training"):
        await world.staff.train(world.conn, FIRST, day - timedelta(days=1), "CPNI 2026", by)
    with pytest.raises(Conflict, match="not one who records"):
        await world.staff.train(world.conn, SECOND, day - timedelta(days=1), "CPNI", grant_of(HANDLER))


async def test_no_change_without_its_entry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(world.ledger, "append_in", away)
    by = grant_of(FIRST)
    with pytest.raises(LedgerUnavailable):
        await world.staff.suspend(world.conn, HANDLER, "as agreed", by)
    with pytest.raises(LedgerUnavailable):
        await world.staff.end_role(world.conn, HANDLER, StaffRole.LEGAL_HANDLER, "moved", by)
    with pytest.raises(LedgerUnavailable):
        await world.staff.train(world.conn, HANDLER, today() - timedelta(days=9), "CPNI", by)
    found = await world.staff.one(world.conn, HANDLER)
    assert (found.suspended_at, found.roles) == (None, {StaffRole.LEGAL_HANDLER})
    assert found.trained_on == today()


async def test_a_key_that_signs_certificates(world: World) -> None:
    key = new_key()
    await world.operators.change(world.conn, "staff.key.add", {"staff": HANDLER, "jwk": key.public})
    (found,) = await keys(world.conn, HANDLER)
    assert (found.kid, found.alg, found.thumbprint, found.ended_at) == (key.kid, "ES256", key.thumbprint, None)
    for staff_id, jwk in ((SECOND, key.public), (HANDLER, {**new_key().public, "kid": key.kid})):
        with pytest.raises(Exception, match="everybody has their own"):
            await world.operators.change(world.conn, "staff.key.add", {"staff": staff_id, "jwk": jwk})
    await world.staff.end_key(world.conn, HANDLER, key.kid, "lost", grant_of(FIRST))
    assert (await keys(world.conn, HANDLER))[0].ended_at is not None
    with pytest.raises(NotFound):
        await world.staff.end_key(world.conn, HANDLER, key.kid, "lost", grant_of(FIRST))


async def test_the_two_rules_of_training_are_one(world: World, owner: asyncpg.Connection) -> None:
    """proxy/staff/model.py and staff_active say the same of every day."""
    hired = date(2020, 1, 1)
    for trained in (date(2023, 2, 28), date(2024, 2, 29), date(2025, 6, 10), date(2019, 12, 31), hired):
        await owner.execute(
            "UPDATE tollgate.staff_training SET completed_on = $1 WHERE staff_id = $2", trained, HANDLER
        )
        for days in (-1, 0, 1, 364, 365, 366, 367, 730):
            day = trained + timedelta(days=days)
            held = await owner.fetchval("SELECT tollgate.staff_active($1, 'legal_handler', $2)", HANDLER, day)
            assert held == (standing(hired, trained, day) is Standing.CURRENT), (trained, day)


REFUSED: list[tuple[str, str, type[Exception]]] = [
    (
        "one's own training",
        "INSERT INTO tollgate.staff_training (staff_id, completed_on, course, recorded_by)"
        " VALUES ('operator-1', '2026-01-01', 'c', 'operator-1')",
        asyncpg.CheckViolationError,
    ),
    (
        "training that nobody recorded",
        "INSERT INTO tollgate.staff_training (staff_id, completed_on, course) VALUES ('handler', '2026-01-01', 'c')",
        asyncpg.CheckViolationError,
    ),
    (
        "training recorded by a handler",
        "INSERT INTO tollgate.staff_training (staff_id, completed_on, course, recorded_by)"
        " VALUES ('operator-1', '2026-01-01', 'c', 'handler')",
        asyncpg.CheckViolationError,
    ),
    (
        "training to come",
        "INSERT INTO tollgate.staff_training (staff_id, completed_on, course, recorded_by)"
        " VALUES ('handler', '2090-01-01', 'c', 'operator-1')",
        asyncpg.CheckViolationError,
    ),
    (
        "a role that does not go with another",
        "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('handler', 'operator')",
        asyncpg.CheckViolationError,
    ),
    (
        "a role without a change",
        "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('handler', 'privacy_officer')",
        asyncpg.PostgresError,
    ),
    (
        "a role of nobody's making",
        "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('handler', 'root')",
        asyncpg.PostgresError,
    ),
    ("another subject", "UPDATE tollgate.staff SET subject = 'x'", asyncpg.InsufficientPrivilegeError),
    ("a member gone", "DELETE FROM tollgate.staff", asyncpg.InsufficientPrivilegeError),
    ("training gone", "DELETE FROM tollgate.staff_training", asyncpg.InsufficientPrivilegeError),
    ("another day", "UPDATE tollgate.staff_training SET completed_on = now()", asyncpg.InsufficientPrivilegeError),
    ("another key", "UPDATE tollgate.staff_key SET jwk = '{}'", asyncpg.InsufficientPrivilegeError),
    ("another rate", "UPDATE tollgate.staff_rate SET used = 0", asyncpg.InsufficientPrivilegeError),
]


@pytest.mark.parametrize(("statement", "error"), [(s, e) for _, s, e in REFUSED], ids=[n for n, _, _ in REFUSED])
async def test_what_the_database_refuses_the_operators_role(
    world: World, statement: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await world.conn.execute(statement)


async def test_an_end_is_not_taken_back(world: World) -> None:
    by = grant_of(FIRST)
    await world.staff.end_role(world.conn, HANDLER, StaffRole.LEGAL_HANDLER, "moved", by)
    await world.operators.change(world.conn, "staff.key.add", {"staff": HANDLER, "jwk": new_key().public})
    (key,) = await keys(world.conn, HANDLER)
    await world.staff.end_key(world.conn, HANDLER, key.kid, "lost", by)
    await world.staff.suspend(world.conn, HANDLER, "as agreed", by)
    await world.operators.change(world.conn, "staff.resume", {"staff": HANDLER})
    for statement in (
        "UPDATE tollgate.staff_role SET ended_at = NULL, ended_by = NULL WHERE staff_id = 'handler'",
        "UPDATE tollgate.staff_key SET ended_at = NULL WHERE staff_id = 'handler'",
        "UPDATE tollgate.staff_suspension SET lifted_at = NULL WHERE staff_id = 'handler'",
    ):
        with pytest.raises(asyncpg.CheckViolationError, match="an end is not taken back"):
            await world.conn.execute(statement)


async def test_two_roles_given_at_once_see_each_other(
    world: World, owner: asyncpg.Connection, database: Database
) -> None:
    """The rule on roles that nobody has together holds also where each change was right by itself."""
    await owner.execute("ALTER TABLE tollgate.staff_role DISABLE TRIGGER widens")
    await owner.execute(
        "UPDATE tollgate.staff_role SET ended_at = now(), ended_by = $1 WHERE staff_id = $2", FIRST, HANDLER
    )
    other = await asyncpg.connect(database.url)
    try:
        first, give = owner.transaction(), "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ($1, $2)"
        await first.start()
        await owner.execute(give, HANDLER, "legal_handler")
        await other.execute("SET lock_timeout = '300ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):  # it waits for the first one
            await other.execute(give, HANDLER, "noc")
        await first.commit()
        with pytest.raises(asyncpg.CheckViolationError, match="roles that nobody has together"):
            await other.execute(give, HANDLER, "noc")
    finally:
        await other.close()


async def test_what_takes_long_asks_again(world: World, database: Database) -> None:
    """StaffGuard.alive: the person, the role and the token, whatever the token's own end."""
    ended = replace(grant_of(HANDLER, StaffRole.LEGAL_HANDLER), expires_at=datetime.now(UTC) - timedelta(minutes=1))
    other = replace(ended, expires_at=datetime.now(UTC) + timedelta(minutes=1), token_hash=b"\1" * 32)
    by = grant_of(FIRST)
    async with asyncpg.create_pool(database.config.role_url(Role.OAUTH), min_size=1, max_size=2) as pool:
        clock = DatabaseClock()
        admissions = StaffAdmissions(Admissions(pool, clock), clock, 600)
        presented: Any = None
        guard = StaffGuard(database.config, admissions, presented, world.ledger, lambda reason: None)
        assert await guard.alive(ended)
        assert await guard.alive(ended, StaffRole.LEGAL_HANDLER, StaffRole.NOC)
        assert not await guard.alive(ended, StaffRole.LEGAL_APPROVER)
        assert not await guard.alive(replace(ended, staff_id=FIRST))
        await guard.revoke(other)
        assert not await guard.alive(other)
        assert await guard.alive(ended)
        await world.staff.suspend(world.conn, HANDLER, "as agreed", by)
        assert not await guard.alive(ended)
        await world.operators.change(world.conn, "staff.resume", {"staff": HANDLER})
        assert await guard.alive(ended)
        await world.staff.end_role(world.conn, HANDLER, StaffRole.LEGAL_HANDLER, "moved", by)
        assert not await guard.alive(ended)
    with pytest.raises(AuthError) as caught:  # nothing is known then
        await guard.alive(ended)
    assert caught.value.status == 503


@pytest.mark.parametrize("role", [Role.CASES, Role.PRIVACY])
async def test_other_roles_see_names_and_not_who_somebody_is_at_the_provider(
    world: World, database: Database, role: Role
) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        assert await names(conn, [HANDLER, "nobody"]) == {HANDLER: ("Handler", "")}
        assert await conn.fetchval("SELECT tollgate.staff_active($1, 'legal_handler')", HANDLER)
        for statement in (
            "SELECT subject FROM tollgate.staff",
            "INSERT INTO tollgate.staff_role (staff_id, role) VALUES ('handler', 'noc')",
            "UPDATE tollgate.staff_suspension SET lifted_at = now()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()


@pytest.mark.parametrize("role", [Role.BILLING, Role.INGEST, Role.LOG, Role.MONITOR, Role.RETENTION, Role.LEGAL])
async def test_the_others_see_nothing(database: Database, role: Role) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        for table in ("staff", "staff_role", "staff_suspension", "staff_training", "staff_key", "staff_rate"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(f"SELECT 1 FROM tollgate.{table}")
    finally:
        await conn.close()
