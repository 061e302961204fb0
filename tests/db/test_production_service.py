"""Productions in PostgreSQL: fixed step by step, the same after a crash anywhere, handed over only with an entry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pyrage
import pytest
from pyrage import x25519

from keys.datakeys import DataKeys
from keys.errors import SealError
from keys.signing import SigningKeys
from proxy.ledger.model import Kind, LedgerUnavailable
from proxy.ledger.service import Ledger
from proxy.legal.production import sshsig
from proxy.legal.production.model import (
    Certified,
    Delivery,
    ProductionError,
    SignedAs,
    SignedCertificate,
    Tables,
)
from proxy.legal.production.service import ProductionBusy, Productions
from proxy.legal.production.verify import Trusted, verify
from proxy.legal.sealing import CaseSealer
from proxy.registry.jwk import registered as registry_key
from schema.roles import Role
from tests.conftest import PASSWORDS, Database
from tests.support.ledger import Fault, Link, open_ledger, open_provider
from tests.support.production import CASE, CustodianKey, facts, records, signed_pdf, signed_text, tables

WHO = {"staff": "handler@carrier.example"}
PERSON = x25519.Identity.generate()
RECIPIENT = str(PERSON.to_public())


@dataclass
class World:
    """A case that was reviewed, and who makes its productions."""

    database: Database
    owner: asyncpg.Connection
    ledger: Ledger
    productions: Productions
    pool: asyncpg.Pool

    async def entries(self, *states: str) -> list[dict[str, Any]]:
        """What the log says of productions: request and outcome of each, in order."""
        found = []
        for entry in await self.ledger.read_last(limit=100):
            if entry.kind is Kind.PRODUCTION_STATE:
                assert entry.request is not None
                assert entry.outcome is not None
                found.append({**entry.request, **entry.outcome})
        return [each for each in found if not states or each["state"] in states]


def productions(config: Any, pool: asyncpg.Pool, ledger: Ledger) -> Productions:
    """As another process has them: with nothing in memory."""
    provider = open_provider(config)
    return Productions(pool, CaseSealer(DataKeys(provider)), ledger, SigningKeys(config.keyring_dir), together=400)


@asynccontextmanager
async def cases_pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.config.role_url(Role.CASES), min_size=0, max_size=4) as pool:
        yield pool


async def case(owner: asyncpg.Connection, state: str = "reviewed", case_id: str = CASE) -> None:
    """A case in a state; how it got there is not these tests' affair."""
    await owner.execute("SET session_replication_role = replica")
    await owner.execute(
        "INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version)"
        " VALUES ($1, 'subpoena', 202605, 'handler@carrier.example', $3, $2, 7)"
        " ON CONFLICT (case_id) DO UPDATE SET state = $2",
        case_id,
        state,
        uuid.uuid5(uuid.NAMESPACE_DNS, case_id),
    )
    await owner.execute("SET session_replication_role = origin")


async def approval(owner: asyncpg.Connection, recipient: str, **change: Any) -> None:
    """An approval of another recipient."""
    value = {"voided_at": None, "minutes": 60, "case_id": CASE, **change}
    await owner.execute("SET session_replication_role = replica")
    await owner.execute(
        "INSERT INTO tollgate.case_approval (approval_id, case_id, scope_version, digest, kind, approved_by,"
        " approved_at, expires_at, voided_at, recipient) VALUES (gen_random_uuid(), $1, 1, $2, 'redelivery',"
        " 'approver@carrier.example', now() - interval '2 hours', now() + make_interval(mins => $3), $4, $5)",
        value["case_id"],
        bytes(32),
        value["minutes"],
        value["voided_at"],
        hashlib.sha256(recipient.encode()).digest(),
    )
    await owner.execute("SET session_replication_role = origin")


async def person(owner: asyncpg.Connection, staff_id: str = "custodian", trained: str = "0 days") -> None:
    """An active member of staff; how two people put them there is told elsewhere."""
    await owner.execute("SET session_replication_role = replica")
    await owner.execute(
        "INSERT INTO tollgate.staff (staff_id, issuer, subject, name, title, hired_on)"
        " VALUES ($1, 'https://provider.example', $1, 'Records Custodian', 'Custodian', DATE '2020-01-01')",
        staff_id,
    )
    await owner.execute(
        "INSERT INTO tollgate.staff_training (staff_id, completed_on, course)"
        " VALUES ($1, ((now() AT TIME ZONE 'UTC') - $2::text::interval)::date, 'CPNI')",
        staff_id,
        trained,
    )
    await owner.execute("INSERT INTO tollgate.staff_role (staff_id, role) VALUES ($1, 'legal_handler')", staff_id)
    await owner.execute("SET session_replication_role = origin")


async def suspended(owner: asyncpg.Connection, staff_id: str = "custodian") -> None:
    """Suspend somebody; lift it by deleting it."""
    await owner.execute("SET session_replication_role = replica")
    await owner.execute(
        "INSERT INTO tollgate.staff_suspension (staff_id, suspended_by) VALUES ($1, 'somebody')", staff_id
    )
    await owner.execute("SET session_replication_role = origin")


@pytest.fixture
async def world(database: Database, owner: asyncpg.Connection) -> AsyncIterator[World]:
    await case(owner)
    await person(owner)
    async with open_ledger(database.config) as ledger, cases_pool(database) as pool:
        yield World(database, owner, ledger, productions(database.config, pool, ledger), pool)


def held(rows: int = 900) -> Tables:
    return tables(records(rows), 128)


def never() -> AsyncIterator[pa.Table]:
    raise AssertionError("the records were asked for again")


async def collected(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


async def finished(world: World, maker: Productions | None = None) -> tuple[Certified, Delivery]:
    """All steps, one after the other; each may have been made already."""
    maker = maker or world.productions
    whole = facts()
    await maker.draft(whole, held(), actor=WHO)
    certified = await maker.certify(whole.production_id, signed_pdf(), actor=WHO)
    await case(world.owner, "certified")
    return certified, await maker.seal(whole.production_id, [RECIPIENT], actor=WHO)


# --- the way it goes -----------------------------------------------------------------------------------------------


async def test_from_records_to_a_package_that_its_recipient_verifies(world: World, tmp_path: Path) -> None:
    certified, delivery = await finished(world)
    data = await collected(world.productions.package(delivery.delivery_id, actor=WHO))
    inner = pyrage.decrypt(data, [PERSON])
    assert hashlib.sha256(inner).hexdigest() == certified.package.sha256
    assert len(inner) == certified.package.bytes
    (tmp_path / delivery.name).write_bytes(data)
    jwks = SigningKeys(world.database.config.keyring_dir).all_public("production")
    found = verify(tmp_path / delivery.name, Trusted(jwks), str(PERSON))
    assert found.kid == certified.kid
    assert found.manifest.value["records"] == 900
    again = await collected(world.productions.package(delivery.delivery_id))
    assert again != data
    assert pyrage.decrypt(again, [PERSON]) == inner == await collected(world.productions.inner(facts().production_id))


async def test_every_step_has_its_entry_before_anything_leaves(world: World) -> None:
    certified, delivery = await finished(world)
    states = ["making", "drafted", "certified", "sealed"]
    found = await world.entries()
    assert [each["state"] for each in found] == states
    assert all(each["case"] == CASE for each in found)
    assert {f["name"] for f in found[1]["files"]} >= {"records.csv", "records.pdf", "certificate.txt"}
    assert found[2]["package"]["sha256"] == certified.package.sha256
    stream = world.productions.package(delivery.delivery_id, actor=WHO)
    await anext(stream)
    assert (await world.entries())[-1]["state"] == "handing over"
    await stream.aclose()
    assert (await world.entries())[-1]["state"] == "broken off"
    data = await collected(world.productions.package(delivery.delivery_id, actor=WHO))
    last = (await world.entries())[-1]
    assert (last["state"], last["bytes"]) == ("handed over", len(data))
    assert last["sha256"] == hashlib.sha256(data).hexdigest()
    rows = await world.owner.fetch("SELECT count(*) AS n FROM tollgate.log_entry WHERE kind = 'production.state'")
    assert rows[0]["n"] == 8


async def test_without_the_log_nothing_leaves(world: World) -> None:
    _, delivery = await finished(world)
    world.ledger.pause("a test")
    stream = world.productions.package(delivery.delivery_id)
    with pytest.raises(LedgerUnavailable):
        await anext(stream)
    await case(world.owner, "reviewed")
    with pytest.raises(LedgerUnavailable):
        await world.productions.draft(replace(facts(), production_id=uuid.uuid4(), number=2), held())
    assert await world.owner.fetchval("SELECT count(*) FROM tollgate.production") == 1


async def test_the_database_alone_shows_nothing_of_it(world: World) -> None:
    await finished(world)
    secrets = [b"12025550123", b"Example County", b"GJ 26-0117", b"switch-a-2025-10", b"anonymous", RECIPIENT.encode()]
    for table in ("production", "production_piece", "production_delivery"):
        rows = await world.owner.fetch(f"SELECT t::text AS whole, t.* FROM tollgate.{table} t")
        assert rows
        text = b"".join(
            value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row.values()
        )
        hexed = [secret.hex().encode() for secret in secrets]
        assert not [each for each in (*secrets, *hexed) if each in text]


# --- again, and after crashes --------------------------------------------------------------------------------------


async def test_each_step_again_is_the_same_and_reads_no_record_again(world: World) -> None:
    certified, delivery = await finished(world)
    whole = facts()
    other = productions(world.database.config, world.pool, world.ledger)
    drafted = await other.draft(whole, never)
    assert drafted.rows == 900
    assert await other.certify(whole.production_id, signed_pdf()) == certified
    assert await other.seal(whole.production_id, [f" {RECIPIENT} "]) == delivery
    assert len(await world.entries()) == 4
    with pytest.raises(ProductionError, match="certified already"):
        await other.certify(whole.production_id, SignedCertificate(SignedAs.PDF, b"%PDF-2.0"))
    with pytest.raises(ProductionError, match="with other facts"):
        await other.draft(facts(reference="GJ 26-0118"), never)
    await case(world.owner, "reviewed")
    with pytest.raises(ProductionError, match="a production of this number"):
        await other.draft(facts(production_id=uuid.uuid4()), held())


async def test_late_records_do_not_change_what_is_drafted(world: World) -> None:
    await world.productions.draft(facts(), held(900))
    before = await collected(world.productions.file(facts().production_id, "records.csv"))
    await world.productions.draft(facts(), held(950))
    assert await collected(world.productions.file(facts().production_id, "records.csv")) == before


def _messages() -> Iterator[tuple[int, bool]]:
    for at in (1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 36, 42, 48, 54, 60, 66, 72, 78):
        yield at, at % 2 == 0
        yield at, at % 2 == 1


async def test_a_crash_anywhere_leaves_what_a_repeat_makes_the_same(
    database: Database, owner: asyncpg.Connection
) -> None:
    """The link to PostgreSQL is cut at a message, before or after it took effect; then all is done again elsewhere."""
    config = database.config
    wanted: str | None = None
    struck = 0
    await person(owner)
    async with open_ledger(config) as ledger, cases_pool(database) as pool:
        for at, persisted in _messages():
            # A fresh start, of the same ids: bytes depend on those too.
            await owner.execute("SET session_replication_role = replica")
            for table in ("production_delivery", "production_piece", "production"):
                await owner.execute(f"DELETE FROM tollgate.{table}")
            await case(owner)
            whole = facts()
            fault = Fault(at, persisted)
            async with Link(database.url, Role.CASES.value, PASSWORDS[Role.CASES]) as link:
                link.faults.append(fault)
                async with asyncpg.create_pool(min_size=0, max_size=4, timeout=5, **link.arguments()) as broken:
                    maker = productions(config, broken, ledger)
                    try:
                        await maker.draft(whole, held(300))
                        await maker.certify(whole.production_id, signed_pdf())
                        await case(owner, "certified")
                        await maker.seal(whole.production_id, [RECIPIENT])
                    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, LedgerUnavailable, TimeoutError):
                        struck += 1
                    broken.terminate()
            state = await owner.fetchval("SELECT state FROM tollgate.production")
            if state != "certified":
                await case(owner, "reviewed")
            maker = productions(config, pool, ledger)
            async with asyncio.timeout(10):
                while True:
                    try:
                        await maker.draft(whole, held(300))
                        break
                    except ProductionBusy:  # until PostgreSQL has seen that its session is gone
                        await asyncio.sleep(0.05)
            certified = await maker.certify(whole.production_id, signed_pdf())
            await case(owner, "certified")
            await maker.seal(whole.production_id, [RECIPIENT])
            inner = hashlib.sha256(await collected(maker.inner(whole.production_id))).hexdigest()
            assert inner == certified.package.sha256
            wanted = wanted or inner
            assert inner == wanted, (at, persisted)
        assert struck > 20
        # Every step entered once for each round, whatever was cut.
        counts: dict[str, int] = {}
        for entry in await ledger.read_last(limit=1000):
            if entry.kind is Kind.PRODUCTION_STATE:
                assert entry.request is not None
                counts[entry.request["state"]] = counts.get(entry.request["state"], 0) + 1
        rounds = len(list(_messages()))
        assert counts == {"making": rounds, "drafted": rounds, "certified": rounds, "sealed": rounds}


async def test_two_processes_make_one_production(world: World) -> None:
    other = productions(world.database.config, world.pool, world.ledger)
    done = await asyncio.gather(
        *(maker.draft(facts(), held()) for maker in (world.productions, other)), return_exceptions=True
    )
    assert [type(each).__name__ for each in done if isinstance(each, BaseException)] in ([], ["ProductionBusy"])
    made = [each for each in done if not isinstance(each, BaseException)]
    assert len(set(made)) == 1
    assert [each["state"] for each in await world.entries()] == ["making", "drafted"]


# --- what is refused -----------------------------------------------------------------------------------------------


async def test_a_lost_key_needs_an_approval_of_just_the_new_one(world: World) -> None:
    certified, _ = await finished(world)
    new, third = x25519.Identity.generate(), x25519.Identity.generate()
    key = str(new.to_public())
    production_id = facts().production_id
    await case(world.owner, "delivered")

    async def refused() -> None:
        with pytest.raises(ProductionError, match="an approval that names their key"):
            await world.productions.seal(production_id, [key])

    await refused()
    await case(world.owner, "reviewed", "C-BBBBBBBBBB")
    await approval(world.owner, str(third.to_public()))
    await approval(world.owner, key, minutes=-1)
    await approval(world.owner, key, case_id="C-BBBBBBBBBB")
    await world.owner.execute("SET session_replication_role = replica")
    await world.owner.execute("UPDATE tollgate.case_approval SET voided_at = now() WHERE expires_at < now()")
    await world.owner.execute("SET session_replication_role = origin")
    await refused()
    # An approval of somebody else's key is none of this one, whatever the gateway thinks.
    for approval_id in await world.owner.fetch("SELECT approval_id FROM tollgate.case_approval"):
        with pytest.raises(asyncpg.CheckViolationError):
            await world.pool.execute(
                "INSERT INTO tollgate.production_delivery (delivery_id, production_id, recipients_digest, recipients,"
                " approval_id) VALUES (gen_random_uuid(), $1, $2, 'x', $3)",
                production_id,
                hashlib.sha256(key.encode()).digest(),
                approval_id["approval_id"],
            )
    await approval(world.owner, key)
    delivery = await world.productions.seal(production_id, [key], actor=WHO)
    data = await collected(world.productions.package(delivery.delivery_id, actor=WHO))
    assert hashlib.sha256(pyrage.decrypt(data, [new])).hexdigest() == certified.package.sha256
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(data, [PERSON])


async def test_postgresql_holds_the_order_too(world: World) -> None:
    """What the gateway's own role may not do, whatever the gateway thinks."""
    await finished(world)
    production_id = facts().production_id
    pool, insufficient, check = world.pool, asyncpg.InsufficientPrivilegeError, asyncpg.CheckViolationError
    for statement, error in (
        ("DELETE FROM tollgate.production", insufficient),
        ("DELETE FROM tollgate.production_piece", insufficient),
        ("DELETE FROM tollgate.production_delivery", insufficient),
        ("UPDATE tollgate.production SET facts = 'x'", insufficient),
        ("UPDATE tollgate.production_delivery SET recipients = 'x'", insufficient),
        ("UPDATE tollgate.production SET state = 'drafted', certified = NULL, signed_as = NULL, kid = NULL,"
         " certified_at = NULL", check),
        ("UPDATE tollgate.production SET rows = 1", check),
        ("UPDATE tollgate.production_piece SET sealed = 'x'", check),
        (f"INSERT INTO tollgate.production_piece VALUES ('{production_id}', 'more.csv', 0, 'x')", check),
        (f"INSERT INTO tollgate.production_piece VALUES ('{production_id}', 'manifest.json', 9, 'x')", check),
        (f"INSERT INTO tollgate.production_delivery (delivery_id, production_id, recipients_digest, recipients)"
         f" VALUES (gen_random_uuid(), '{production_id}', decode(repeat('00', 32), 'hex'), 'x')", check),
        (f"INSERT INTO tollgate.production (production_id, case_id, number, key_month, state, facts_digest, facts,"
         f" custodian) VALUES (gen_random_uuid(), '{CASE}', 9, 202605, 'making', decode(repeat('00', 32), 'hex'), 'x',"
         " 'custodian')", check),
        ("UPDATE tollgate.production SET custodian = 'somebody'", insufficient),
    ):  # fmt: skip
        with pytest.raises(error):
            await pool.execute(statement)
    for role in (Role.BILLING, Role.LEGAL, Role.OPERATOR, Role.MONITOR, Role.PRIVACY, Role.LOG):
        conn = await asyncpg.connect(world.database.config.role_url(role))
        for table in ("production", "production_piece", "production_delivery"):
            with pytest.raises(insufficient):
                await conn.fetch(f"SELECT 1 FROM tollgate.{table}")
        await conn.close()


@pytest.mark.parametrize("state", ["received", "validated", "approved", "extracted", "objected", "closed"])
async def test_a_case_that_was_not_reviewed_is_not_produced(world: World, state: str) -> None:
    await case(world.owner, state)
    with pytest.raises(ProductionError, match="not in a state"):
        await world.productions.draft(facts(), held())
    assert await world.entries() == []
    with pytest.raises(ProductionError, match="no such case"):
        await world.productions.draft(facts(case_id="C-ZZZZZZZZZZ"), held())


async def test_a_case_that_moved_on_under_a_draft_keeps_none(world: World) -> None:
    async def moved() -> AsyncIterator[pa.Table]:
        await case(world.owner, "validated")
        yield records(10)

    with pytest.raises(ProductionError, match="not in a state"):
        await world.productions.draft(facts(), moved)
    assert await world.owner.fetchval("SELECT state FROM tollgate.production") == "making"
    with pytest.raises(ProductionError, match="not drafted yet"):
        await world.productions.certificate(facts().production_id)


async def test_steps_out_of_order_are_refused(world: World) -> None:
    production_id = facts().production_id
    for step in (
        world.productions.certificate(production_id),
        world.productions.certify(production_id, signed_pdf()),
        world.productions.seal(production_id, [RECIPIENT]),
        anext(world.productions.package(production_id)),
    ):
        with pytest.raises(ProductionError):
            await step
    await world.productions.draft(facts(), held())
    with pytest.raises(ProductionError, match="not certified yet"):
        await world.productions.seal(production_id, [RECIPIENT])
    await case(world.owner, "certified")
    with pytest.raises(asyncpg.CheckViolationError):  # nor by the gateway's own role, whatever the case is
        await world.pool.execute(
            "INSERT INTO tollgate.production_delivery (delivery_id, production_id, recipients_digest, recipients)"
            " VALUES (gen_random_uuid(), $1, decode(repeat('00', 32), 'hex'), 'x')",
            production_id,
        )
    await case(world.owner)
    await world.productions.certify(production_id, signed_pdf())
    with pytest.raises(ProductionError, match="what is delivered is certified"):  # the case is not, yet
        await world.productions.seal(production_id, [RECIPIENT])


# --- pieces that somebody changed ----------------------------------------------------------------------------------


async def test_a_piece_that_was_changed_or_moved_does_not_open(world: World) -> None:
    _, delivery = await finished(world)
    await world.owner.execute("SET session_replication_role = replica")
    pieces = await world.owner.fetch("SELECT name, piece, sealed FROM tollgate.production_piece ORDER BY name, piece")
    put = "UPDATE tollgate.production_piece SET sealed = $3 WHERE name = $1 AND piece = $2"
    by_name = {row["name"]: row for row in pieces}
    for name, sealed in (
        ("records.csv", by_name["records.csv"]["sealed"][:-1] + b"x"),
        ("targets.csv", by_name["sources.csv"]["sealed"]),
        ("manifest.json", b""),
    ):
        await world.owner.execute(put, name, 0, sealed)
        with pytest.raises(SealError):
            await collected(world.productions.package(delivery.delivery_id))
        assert (await world.entries())[-1]["state"] == "broken off"
        await world.owner.execute(put, name, 0, by_name[name]["sealed"])
    await world.owner.execute("DELETE FROM tollgate.production_piece WHERE name = 'records.pdf'")
    with pytest.raises(ProductionError, match=r"a piece of records\.pdf is missing"):
        await collected(world.productions.package(delivery.delivery_id))


# --- the custodian's key -------------------------------------------------------------------------------------------


async def registered(world: World, line: str, **change: Any) -> None:
    """A key of the custodian's in the registry of staff; how two people put it there is told elsewhere."""
    jwk = registry_key(sshsig.as_jwk(line))
    await world.owner.execute("SET session_replication_role = replica")
    await world.owner.execute(
        "INSERT INTO tollgate.staff_key (staff_id, kid, alg, jwk, thumbprint, ended_at)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        change.get("staff_id", "custodian"),
        jwk.kid,
        jwk.public.alg,
        json.dumps(jwk.public.jwk),
        jwk.public.thumbprint,
        change.get("ended_at"),
    )
    await world.owner.execute("SET session_replication_role = origin")


async def test_a_custodians_signature_is_taken_with_their_own_live_key(world: World) -> None:
    production_id, key, old, other = facts().production_id, CustodianKey(), CustodianKey(), CustodianKey()
    await world.productions.draft(facts(), held())
    text = await world.productions.certificate(production_id)

    async def refused(by: CustodianKey, message: str, said: bytes = text) -> None:
        with pytest.raises(ProductionError, match=message):
            await world.productions.certify(production_id, SignedCertificate(SignedAs.SSH, by.sign(said)))

    await refused(key, "no signing key is registered")
    await registered(world, other.line, staff_id="somebody")
    await registered(world, old.line, ended_at=datetime(2026, 1, 1, tzinfo=UTC))
    await refused(other, "no signing key is registered")
    await refused(old, "no signing key is registered")
    await registered(world, key.line)
    await refused(other, "another key")
    await refused(old, "another key")
    await refused(key, "not over this certificate", text + b" ")
    await suspended(world.owner)
    await refused(key, "no active member of staff")
    await world.owner.execute("DELETE FROM tollgate.staff_suspension")
    await world.productions.certify(production_id, SignedCertificate(SignedAs.SSH, key.sign(text)))
    assert (await world.entries("certified"))[0]["custodian_key"] == sshsig.fingerprint(key.blob)


_BEGIN = (
    "INSERT INTO tollgate.production (production_id, case_id, number, key_month, state, facts_digest, facts, custodian)"
    " VALUES (gen_random_uuid(), $1, 9, 202605, 'making', decode(repeat('00', 32), 'hex'), 'x', $2)"
)
_CERTIFY = (
    "UPDATE tollgate.production SET state = 'certified', signed_as = 'pdf', kid = 'k', certified = 'x',"
    " certified_at = now()"
)


async def test_who_certifies_is_an_active_member_of_staff_at_both_ends(world: World) -> None:
    """Suspended, of no role, untrained, or nobody at all: neither named nor taken, whatever is signed."""
    production_id, no = facts().production_id, "no active member of staff"
    await person(world.owner, "untrained", "2 years")
    await person(world.owner, "of-no-role")
    await world.owner.execute(
        "UPDATE tollgate.staff_role SET ended_at = now(), ended_by = 'custodian' WHERE staff_id = 'of-no-role'"
    )
    await person(world.owner, "suspended")
    await suspended(world.owner, "suspended")
    for n, staff_id in enumerate(("untrained", "of-no-role", "suspended", "nobody", "")):
        custodian = replace(facts().custodian, staff_id=staff_id)
        with pytest.raises(ProductionError, match=no):
            await world.productions.draft(facts(production_id=uuid.uuid4(), number=n + 2, custodian=custodian), held(5))
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.ForeignKeyViolationError)):
            await world.pool.execute(_BEGIN, CASE, staff_id)
    assert await world.entries() == []
    made = await world.productions.draft(facts(), held(5))
    assert made.rows == 5
    text = signed_text(await world.productions.certificate(production_id))
    await suspended(world.owner)
    for kind, body in ((SignedAs.TEXT, text), (SignedAs.PDF, signed_pdf().body)):
        with pytest.raises(ProductionError, match=no):
            await world.productions.certify(production_id, SignedCertificate(kind, body))
    with pytest.raises(asyncpg.CheckViolationError, match="no active member"):
        await world.pool.execute(_CERTIFY)
    await world.owner.execute("DELETE FROM tollgate.staff_suspension WHERE staff_id = 'custodian'")
    certified = await world.productions.certify(production_id, SignedCertificate(SignedAs.TEXT, text))
    # What was certified stays so: the same again is not another certification.
    await suspended(world.owner)
    assert await world.productions.certify(production_id, SignedCertificate(SignedAs.TEXT, text)) == certified


async def test_a_production_that_was_begun_is_finished_though_its_custodian_is_suspended(world: World) -> None:
    async def dying() -> AsyncIterator[pa.Table]:
        raise ProductionError("gone")
        yield

    with pytest.raises(ProductionError, match="gone"):
        await world.productions.draft(facts(), dying)
    await suspended(world.owner)
    assert (await world.productions.draft(facts(), held(5))).rows == 5
