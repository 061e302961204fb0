"""What PostgreSQL itself holds of secrecy and holds: the rules of the values, and no more rights than are used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from keys.file_provider import FileProvider
from proxy.changes.model import OwnChange
from proxy.changes.service import Changes
from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.legal.holding import _LIST, COUNTED, DUE_DAYS
from proxy.legal.holds import TRANSITIONS, HoldState
from proxy.legal.kinds import KINDS, SecrecyLift
from proxy.legal.secrecy import NONE, Audience, Authority, Secrecy, visible, visible_sql
from proxy.registry.model import Conflict, RegistryError
from proxy.staff.model import StaffRole
from schema.roles import Role
from tests.conftest import Database
from tests.support.held import add_case as held_case
from tests.support.held import add_order, new_case
from tests.support.holds import HANDLER, People, add_case, add_hold, open_people
from tests.support.ledger import open_ledger, open_provider
from tests.support.operators import OneConnection, grant_of

HOLD = "H-AAAAAAAAAA"


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    open_provider(database.config)
    async with open_ledger(database.config) as made:
        yield made


@pytest.fixture
async def people(database: Database, ledger: Ledger) -> AsyncIterator[People]:
    async with open_people(database.config, ledger) as made:
        yield made


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(database.config.role_url(Role.CASES))
    yield conn
    await conn.close()


async def test_the_predicate_of_secrecy_is_one(owner: asyncpg.Connection) -> None:
    now = datetime(2026, 11, 5, 12, tzinfo=UTC)
    times = (None, now - timedelta(seconds=1), now, now + timedelta(seconds=1))
    for name, until, lifted in product((NONE, *Authority), times, times):
        row = {"secrecy": str(name), "secret_until": until, "secrecy_lifted_at": lifted}
        here = not visible(Audience.OTHERS, Secrecy.of_row(row), now)
        there = await owner.fetchval("SELECT tollgate.is_secret($1, $2, $3, $4)", str(name), until, lifted, now)
        assert here is there, row


async def test_the_condition_of_a_statement_is_the_predicate(owner: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    for name, until in product((NONE, *Authority), (None, now - hour, now + hour)):
        await add_case(owner, str(name), until=until if name != NONE else None)
    rows = await owner.fetch("SELECT case_id, secrecy, secret_until, secrecy_lifted_at FROM tollgate.legal_case")
    for to in Audience:
        shown = await owner.fetch(f"SELECT case_id FROM tollgate.legal_case c WHERE {visible_sql(to, 'c')}")
        expected = {r["case_id"] for r in rows if visible(to, Secrecy.of_row(r), now)}
        assert {r["case_id"] for r in shown} == expected
    secret = await owner.fetch("SELECT s FROM tollgate.secret_cases() s")
    assert {r["s"] for r in secret} == {r["case_id"] for r in rows} - expected


async def test_metrics_count_what_may_be_known_of(owner: asyncpg.Connection, desk: asyncpg.Connection) -> None:
    every = ((NONE, "A"), ("2705b", "B"), ("2709c", "C"))
    for name, letter in every:
        requested = datetime.now(UTC) - timedelta(days=80)
        await add_hold(owner, await add_case(owner, name), f"H-{letter * 10}", requested=requested)
    row = await desk.fetchrow(COUNTED, timedelta(days=DUE_DAYS))
    assert (row["live"], row["due"]) == (1, 1)
    row = await desk.fetchrow(COUNTED, timedelta(days=1))
    assert (row["live"], row["due"]) == (1, 0)


async def test_preservations_without_a_copy_are_counted(owner: asyncpg.Connection, desk: asyncpg.Connection) -> None:
    void = "UPDATE tollgate.hold SET state = 'void', ended_at = now() WHERE hold_id = $1"
    for name, letter in ((NONE, "A"), ("2709c", "B")):
        case = await add_case(owner, name, instrument="preservation", state="active")
        await add_hold(owner, case, f"H-{letter * 10}", sealed=False)
        assert (await desk.fetchrow(COUNTED, timedelta(days=1)))["failed"] == (letter == "B"), "it is being made"
        await owner.execute(void, f"H-{letter * 10}")
        assert (await desk.fetchrow(COUNTED, timedelta(days=1)))["failed"] == 1, "and none that is secret"
    soon = datetime.now(UTC) + timedelta(days=1)
    rows = await desk.fetch(_LIST, None, soon, True, 10)
    assert {r["hold_id"] for r in rows} == {"H-AAAAAAAAAA", "H-BBBBBBBBBB"}, "the desk is told of both"
    assert not await desk.fetch(_LIST, None, None, True, 10)
    first = await owner.fetchval("SELECT case_id FROM tollgate.hold WHERE hold_id = 'H-AAAAAAAAAA'")
    await add_hold(owner, first, "H-CCCCCCCCCC")
    assert (await desk.fetchrow(COUNTED, timedelta(days=1)))["failed"] == 0
    assert [r["hold_id"] for r in await desk.fetch(_LIST, None, soon, True, 10)] == ["H-BBBBBBBBBB"]


HELD = (
    "INSERT INTO tollgate.held (hold_id, case_id, access_id, key_month, discloses, order_digest, as_of, staged,"
    " start_us, end_us, at_us) VALUES ($1, $2, $3, 202611, $4, sha256(''), 1, 0, 0, 1, 0)"
)


@pytest.mark.parametrize(
    "deed",
    [
        "",
        "UPDATE tollgate.case_extraction SET ended_at = now(), ended_as = 'failed'",
        "UPDATE tollgate.case_approval SET voided_at = now()",
        "UPDATE tollgate.case_approval SET approved_at = '2026-01-01', expires_at = '2026-01-02'",
        "UPDATE tollgate.case_approval SET kind = 'redelivery', recipient = digest",
        "UPDATE tollgate.legal_case SET state = 'objected', version = 2",
        "UPDATE tollgate.legal_case SET scope_version = 2",
        "UPDATE tollgate.legal_case SET approval_id = NULL",
        "UPDATE tollgate.case_extraction SET hold_id = 'H-ZZZZZZZZZZ'",
    ],
)
async def test_nothing_is_read_but_what_was_ordered(database: Database, owner: asyncpg.Connection, deed: str) -> None:
    """Whatever role LEGAL is brought to do."""
    legal = await asyncpg.connect(database.config.role_url(Role.LEGAL))
    try:
        case = await held_case(owner, new_case())
        with pytest.raises(asyncpg.CheckViolationError, match="no extraction was ordered"):
            await legal.execute(HELD, HOLD, case, uuid4(), True)
        await add_order(owner, case, HOLD)
        with pytest.raises(asyncpg.CheckViolationError, match="no extraction was ordered"):
            await legal.execute(HELD, "H-BBBBBBBBBB", case, uuid4(), True)
        other = await add_case(owner)
        with pytest.raises(asyncpg.CheckViolationError, match="no extraction was ordered"):
            await legal.execute(HELD, HOLD, other, uuid4(), True)
        if deed:
            async with owner.transaction():
                await owner.execute("SET LOCAL session_replication_role = replica")
                await owner.execute(deed)
            with pytest.raises(asyncpg.CheckViolationError, match="no extraction was ordered"):
                await legal.execute(HELD, HOLD, case, uuid4(), True)
        else:
            await legal.execute(HELD, HOLD, case, uuid4(), True)
            row = await owner.fetchrow("SELECT case_id, kind, state FROM tollgate.hold")
            assert tuple(row) == (case, "production", "pending")
    finally:
        await legal.close()


async def test_nothing_is_preserved_but_for_a_hold_that_waits(database: Database, owner: asyncpg.Connection) -> None:
    legal = await asyncpg.connect(database.config.role_url(Role.LEGAL))
    try:
        case = await add_case(owner, instrument="preservation", state="active")
        with pytest.raises(asyncpg.CheckViolationError, match="no hold waits"):
            await legal.execute(HELD, HOLD, case, uuid4(), False)
        await add_hold(owner, case, HOLD)
        with pytest.raises(asyncpg.CheckViolationError, match="no hold waits"):
            await legal.execute(HELD, HOLD, case, uuid4(), False)
        await add_hold(owner, case, "H-BBBBBBBBBB", sealed=False)
        with pytest.raises(asyncpg.CheckViolationError, match="another's"):
            await legal.execute(HELD, "H-BBBBBBBBBB", await add_case(owner), uuid4(), False)
        await legal.execute(HELD, "H-BBBBBBBBBB", case, uuid4(), False)
    finally:
        await legal.close()


async def test_a_hold_moves_as_its_value_does(owner: asyncpg.Connection) -> None:
    case = await add_case(owner)
    requested = datetime.now(UTC) - timedelta(days=91, hours=12)
    await add_hold(owner, case, HOLD, requested=requested, sealed=False)
    # Rows for the look-ups alone; what may follow what is asked of the trigger.
    await owner.execute("ALTER TABLE tollgate.hold DISABLE TRIGGER moves")
    set_up = (
        "UPDATE tollgate.hold SET state = $1, sealed_at = now(), rows = 1, renewed_at = CASE WHEN $1 = 'renewed'"
        " THEN now() END, renewed_by = CASE WHEN $1 = 'renewed' THEN 'h' END, ended_at = CASE WHEN $1 IN ('expired',"
        " 'superseded', 'lifted', 'void') THEN now() END, change_id = CASE WHEN $1 = 'lifted' THEN $2::uuid END"
    )
    await owner.execute("ALTER TABLE tollgate.hold DROP CONSTRAINT hold_change_id_fkey")
    checks = await owner.fetch(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'tollgate.hold'::regclass AND contype = 'c'"
    )
    for row in checks:
        await owner.execute(f"ALTER TABLE tollgate.hold DROP CONSTRAINT {row['conname']}")
    for before, after in product(HoldState, HoldState):
        if before is after:
            continue
        await owner.execute(set_up, before.value, uuid4())
        await owner.execute("ALTER TABLE tollgate.hold ENABLE TRIGGER moves")
        if after in TRANSITIONS[before]:
            await owner.execute("UPDATE tollgate.hold SET state = $1", after.value)
        else:
            with pytest.raises(asyncpg.CheckViolationError, match=f"that is {before.value} does not become"):
                await owner.execute("UPDATE tollgate.hold SET state = $1", after.value)
        await owner.execute("ALTER TABLE tollgate.hold DISABLE TRIGGER moves")


async def test_the_clock_is_the_law_s(owner: asyncpg.Connection) -> None:
    case = await add_case(owner)
    add = (
        "INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month,"
        " made_by, expires_at) VALUES ($1, $2, $3, 'pending', $4::timestamptz, 'UTC', 202401, 202401, 'h',"
        " $5::timestamptz)"
    )
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    for days, good in ((89, False), (90, True), (90.5, True), (92, False), (180, False), (3650, False)):
        values = (f"H-{'ABCDEFGH'[int(days) % 7]}BCDEFGHIJ", case, "preservation", at, at + timedelta(days=days))
        if good:
            await owner.execute(add, *values)
            await owner.execute("DELETE FROM tollgate.hold")
        else:
            with pytest.raises(asyncpg.CheckViolationError):
                await owner.execute(add, *values)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(add, HOLD, case, "preservation", at, None)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(add, HOLD, case, "production", at, at + timedelta(days=90))


async def test_it_is_renewed_once_and_ends_when_its_days_are_over(
    owner: asyncpg.Connection, desk: asyncpg.Connection
) -> None:
    await add_hold(owner, await add_case(owner), HOLD)
    with pytest.raises(asyncpg.CheckViolationError, match="days of the hold are not over"):
        await desk.execute("UPDATE tollgate.hold SET state = 'expired', ended_at = now()")
    with pytest.raises(asyncpg.CheckViolationError, match="renewed once"):
        await desk.execute("UPDATE tollgate.hold SET expires_at = expires_at + interval '1 hour'")
    longer = (
        "UPDATE tollgate.hold SET state = 'renewed', renewed_at = now(), renewed_by = 'h',"
        " expires_at = expires_at + interval '{} days'"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await desk.execute(longer.format(180))
    await desk.execute(longer.format(90))
    with pytest.raises(asyncpg.CheckViolationError, match="renewed once"):
        await desk.execute("UPDATE tollgate.hold SET expires_at = expires_at + interval '1 hour'")


async def test_the_desk_s_role_lifts_nothing_and_forgets_nothing(
    owner: asyncpg.Connection, desk: asyncpg.Connection
) -> None:
    case = await add_case(owner, "2709c")
    await add_hold(owner, case, HOLD)
    for statement in (
        "UPDATE tollgate.hold SET change_id = gen_random_uuid()",
        "UPDATE tollgate.hold SET case_id = 'C-AAAAAAAAAA'",
        "UPDATE tollgate.hold SET destroyed_at = now()",
        "UPDATE tollgate.hold SET sealed_at = NULL",
        "UPDATE tollgate.hold SET first_month = 202401",
        "DELETE FROM tollgate.hold",
        "SELECT tollgate.hold_lift(gen_random_uuid())",
        "SELECT tollgate.secrecy_lift(gen_random_uuid(), gen_random_uuid())",
        "SELECT tollgate.secret_cases()",
        "INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('hold_aaaaaaaaaa', 202401)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await desk.execute(statement)
    with pytest.raises(asyncpg.CheckViolationError):
        await desk.execute("UPDATE tollgate.hold SET state = 'lifted', ended_at = now()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="has not ended"):
        await desk.execute("SELECT tollgate.hold_key_destroyed($1)", HOLD)


@pytest.mark.parametrize("role", [r for r in Role if r not in (Role.CASES,)])
async def test_no_other_role_reads_holds(database: Database, owner: asyncpg.Connection, role: Role) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("SELECT 1 FROM tollgate.hold")
    finally:
        await conn.close()


async def test_two_people_lift_a_hold(people: People, owner: asyncpg.Connection, ledger: Ledger) -> None:
    case = await add_case(owner, "2705b")
    await add_hold(owner, case, HOLD)
    change = await people.propose("hold.lift", {"hold": HOLD})
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await people.conn.execute("SELECT tollgate.hold_lift($1)", change.change_id)
    both = grant_of(HANDLER, StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER)
    with pytest.raises(OwnChange):
        await people.changes.approve(both, change.change_id, change.digest)
    with pytest.raises(RegistryError):
        await people.changes.propose(people.operators.first, "hold.lift", {"hold": HOLD}, "not an operator's")
    await people.approve(change)
    row = await owner.fetchrow("SELECT state, change_id, ended_at IS NOT NULL AS ended FROM tollgate.hold")
    assert tuple(row) == ("lifted", change.change_id, True)
    (entry,) = await ledger.read(kinds=[Kind.HOLD_STATE])
    assert entry.request is not None
    assert (entry.request["case"], entry.request["hold"], entry.request["to"]) == (case, HOLD, "lifted")
    with pytest.raises(Conflict, match="has ended"):
        await people.do("hold.lift", {"hold": HOLD})


async def test_two_people_lift_non_disclosure(people: People, owner: asyncpg.Connection, ledger: Ledger) -> None:
    case = await add_case(owner, "2709c", state="closed", until=datetime(2020, 1, 1, tzinfo=UTC))
    assert await owner.fetch("SELECT tollgate.secret_cases()")
    change_id = await people.do("secrecy.lift", {"case": case})
    assert not await owner.fetch("SELECT tollgate.secret_cases()")
    row = await owner.fetchrow(
        "SELECT e.action, e.actor, e.version, c.version AS now, e.entry_id FROM tollgate.case_event e"
        " JOIN tollgate.legal_case c USING (case_id)"
    )
    assert (row["action"], row["actor"], row["version"], row["now"]) == ("unseal", "approver-1", 2, 2)
    (entry,) = await ledger.read(kinds=[Kind.CASE_STATE])
    assert entry.entry_id == row["entry_id"]
    assert entry.request is not None
    assert entry.request["change_id"] == str(change_id)
    with pytest.raises(Conflict, match="nothing to lift"):
        await people.do("secrecy.lift", {"case": case})
    plain = await add_case(owner)
    with pytest.raises(Conflict, match="nothing to lift"):
        await people.do("secrecy.lift", {"case": plain})


async def test_a_lift_is_of_what_the_change_names(people: People, owner: asyncpg.Connection) -> None:
    """A change of one kind is no change of another, nor is what was approved some time ago."""
    case = await add_case(owner, "2705b")
    await add_hold(owner, case, HOLD)
    change = await people.do("secrecy.lift", {"case": case})
    for statement in ("SELECT tollgate.hold_lift($1)", "SELECT tollgate.shred_order($1)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await people.conn.execute(statement, change)
    assert await owner.fetchval("SELECT state FROM tollgate.hold") == "active"

    class Wrong(SecrecyLift):
        """A change of one kind, approved just now, that is used as one of another."""

        def read(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            return payload

        async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Mapping[str, Any]) -> list[Any]:
            await conn.fetchval("SELECT tollgate.hold_lift($1)", change_id)
            return []

    changes = Changes(cast(asyncpg.Pool, OneConnection(people.conn)), people.operators.ledger, [Wrong()])
    handler, approver = grant_of(HANDLER, StaffRole.LEGAL_HANDLER), grant_of("approver-1", StaffRole.LEGAL_APPROVER)
    made = await changes.propose(handler, "secrecy.lift", {"hold": HOLD}, "test")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"not one of kind hold\.lift"):
        await changes.approve(approver, made.change_id, made.digest)


async def test_kinds_are_the_database_s_own(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT kind, proposer, approver FROM tollgate.change_kind")
    stored = {r["kind"]: (r["proposer"], r["approver"]) for r in rows}
    for kind in KINDS:
        assert stored[kind.name] == (kind.proposer, kind.approver)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("hold.lift", {}),
        ("hold.lift", {"hold": "H-aaaaaaaaaa"}),
        ("hold.lift", {"hold": HOLD, "case": "C-AAAAAAAAAA"}),
        ("hold.lift", {"hold": [HOLD]}),
        ("secrecy.lift", {"case": "../etc"}),
        ("secrecy.lift", {"case": 7}),
        ("store.shred", {"month": 202401, "classes": ["everything"]}),
    ],
)
def test_payloads_that_are_none(kind: str, payload: dict[str, Any]) -> None:
    (known,) = [k for k in KINDS if k.name == kind]
    with pytest.raises(RegistryError):
        known.read(payload)


async def test_a_copy_s_end_is_its_hold_s(database: Database, owner: asyncpg.Connection) -> None:
    open_provider(database.config)
    case = await add_case(owner)
    held = (
        "INSERT INTO tollgate.held (hold_id, case_id, access_id, key_month, discloses, order_sealed, order_digest,"
        " as_of, staged, start_us, end_us, at_us) VALUES ($1, $2, $3, 202611, $4, '', sha256(''), 1, 0, 0, 1, 0)"
    )
    await add_hold(owner, case, HOLD, sealed=False, months=(197001, 197001))
    await owner.execute(held, HOLD, case, uuid4(), False)
    await owner.execute("UPDATE tollgate.held SET state = 'complete', rows = 5, sha256 = sha256(''), ended_at = now()")
    row = await owner.fetchrow("SELECT state, rows, sealed_at IS NOT NULL AS whole FROM tollgate.hold")
    assert tuple(row) == ("active", 5, True)
    with pytest.raises(asyncpg.CheckViolationError, match="no extraction was ordered"):
        await owner.execute(held, "H-CCCCCCCCCC", case, uuid4(), True)
    ordered = await held_case(owner, new_case())
    await add_order(owner, ordered, "H-CCCCCCCCCC")
    await owner.execute(held, "H-CCCCCCCCCC", ordered, uuid4(), True)
    await owner.execute("UPDATE tollgate.held SET state = 'failed', ended_at = now() WHERE hold_id = 'H-CCCCCCCCCC'")
    assert await owner.fetchval("SELECT state FROM tollgate.hold WHERE hold_id = 'H-CCCCCCCCCC'") == "void"
    # A copy under another case's hold, or of another kind, is refused.
    await add_hold(owner, case, "H-DDDDDDDDDD", sealed=False, months=(197001, 197001))
    for other, discloses in ((await add_case(owner), False), (case, True)):
        with pytest.raises(asyncpg.CheckViolationError, match="another's"):
            await owner.execute(held, "H-DDDDDDDDDD", other, uuid4(), discloses)
    assert FileProvider(database.config.keyring_dir).keyring.read() is not None
