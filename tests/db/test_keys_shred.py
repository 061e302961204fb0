"""Shredding a month: two operators, the floor, the freezing and the holds first; killed anywhere, run again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.audit import State, audit
from keys.backup import record_backup
from keys.errors import KeyUnavailable
from keys.file_provider import FileProvider
from keys.provider import Period
from proxy.changes.model import OwnChange
from proxy.cli.main import main
from proxy.config import Config
from proxy.ledger.model import Kind
from proxy.registry.model import RegistryError
from proxy.store import shred as shredding
from proxy.store.shred import CLASSES, Order, ShredError, kept_until, pending_until
from schema.roles import Role
from tests.conftest import Database
from tests.support.exposure import OFFICER, Desk, numbers_of, open_desk
from tests.support.held import add_order
from tests.support.holds import HANDLER, People, add_case, add_hold, open_people, open_shredder
from tests.support.ledger import open_ledger
from tests.support.operators import grant_of
from tests.support.store import _FORKS, calls, ended

OLD = datetime(2024, 7, 1, tzinfo=UTC)
MONTH, NEXT = 202407, 202408
PULL: dict[str, Any] = {"start": OLD, "end": OLD + timedelta(days=31)}
ALL = list(CLASSES)


@dataclass
class Room:
    """A store with records of an old month, and the people who may shred it."""

    desk: Desk
    people: People
    config: Any

    async def freeze(self) -> None:
        await self.desk.tools()[1].freeze(OFFICER, MONTH, "shredding")

    async def order(self, *classes: str, month: int = MONTH) -> Any:
        return await self.people.do("store.shred", {"month": month, "classes": list(classes)})

    async def carry_out(self, change: Any, **options: Any) -> shredding.Report:
        async with open_shredder(self.config, self.desk.store.ledger, **options) as shredder:
            return await shredder.carry_out(change, datetime.now(UTC), "operator-1")

    async def refused(self, change: Any) -> str:
        with pytest.raises(ShredError) as caught:
            await self.carry_out(change)
        return caught.value.reason


@asynccontextmanager
async def _room(database: Database, folder: Path) -> AsyncIterator[Room]:
    async with (
        open_desk(database.config, folder) as desk,
        open_people(database.config, desk.store.ledger) as people,
    ):
        await desk.store.add([*calls(range(30), at=OLD), *calls(range(30, 40), at=OLD + timedelta(days=31))])
        yield Room(desk, people, database.config)


@pytest.fixture
async def room(database: Database, tmp_path: Path) -> AsyncIterator[Room]:
    async with _room(database, tmp_path) as made:
        yield made


async def gone(owner: asyncpg.Connection) -> set[tuple[str, int]]:
    rows = await owner.fetch("SELECT key_class, month FROM tollgate.data_key_destroyed")
    return {(r["key_class"], r["month"]) for r in rows}


async def test_what_was_ordered_goes_and_nothing_else(room: Room, owner: asyncpg.Connection) -> None:
    shown = await room.desk.pull(**PULL)
    await room.freeze()
    before = (await room.desk.count()).as_json()["subscribers"]["exact"]
    change = await room.order("parties", "timing", "tags")
    report = await room.carry_out(change)
    assert (report.order.classes, report.resumed) == (("timing", "parties", "tags"), False)
    assert report.pending_until is None, "never backed up: nothing else has the keys"
    assert await gone(owner) == {(c, MONTH) for c in ("timing", "parties", "tags")}
    keys = FileProvider(room.config.keyring_dir).keyring.read(fresh=True)
    assert {Period(c, MONTH) for c in ("timing", "parties", "tags")} <= set(keys.destroyed)
    assert Period("routing", MONTH) in keys.live
    assert Period("timing", NEXT) in keys.live
    findings = {f.period: f.state for f in await audit(owner, keys)}
    assert findings[Period("parties", MONTH)] is State.DESTROYED
    assert findings[Period("routing", MONTH)] is State.OPENS
    # What was shown of the month is still counted, from what was frozen.
    count = await room.desk.count()
    assert (count.complete, count.as_json()["subscribers"]["exact"]) == (True, before)
    assert before == len(numbers_of(shown.rows))
    # The log says it: the order, the beginning with what went, the end.
    entries = await room.desk.store.ledger.read(kinds=[Kind.STORE_SHRED])
    assert [e.request and e.request["action"] for e in entries] == ["order", "begin", "done"]
    begun = entries[1]
    assert begun.request is not None
    assert begun.outcome is not None
    assert begun.records is not None
    assert begun.entry_id == report.entry_id
    assert (begun.request["month"], begun.request["classes"]) == (MONTH, ["timing", "parties", "tags"])
    assert (begun.request["basis"], begun.outcome["rows"]) == ("47 CFR 42.6", 30)
    assert {name for name, _ in begun.records["data_keys"]} == {"timing", "parties", "tags"}
    assert await room.refused(change) == "shred.done"
    # The other month is as it was.
    august = OLD + timedelta(days=31)
    assert len((await room.desk.pull(start=august, end=august + timedelta(days=30))).rows) == 10


async def test_it_needs_two_operators(room: Room, owner: asyncpg.Connection) -> None:
    await room.freeze()
    payload = {"month": MONTH, "classes": ["parties"]}
    change = await room.people.propose("store.shred", payload)
    assert await room.refused(change.change_id) == "shred.order"
    with pytest.raises(OwnChange):
        await room.people.changes.approve(room.people.operators.first, change.change_id, change.digest)
    with pytest.raises(RegistryError):
        await room.people.changes.propose(grant_of(HANDLER), "store.shred", payload, "no operator")
    # Nor can the operators' role do it by itself, whatever the command says.
    for statement in (
        "INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('parties', 202407)",
        f"SELECT tollgate.shred_order('{change.change_id}')",
        f"SELECT tollgate.shred_begin('{change.change_id}', '{uuid4()}', NULL)",
        f"SELECT tollgate.shred_key('{change.change_id}', 'parties')",
        f"SELECT tollgate.shred_done('{change.change_id}')",
        "INSERT INTO tollgate.shred (change_id, month, classes) SELECT change_id, 202407, '{parties}' FROM"
        " tollgate.change",
        "UPDATE tollgate.shred SET month = 202408",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await room.people.conn.execute(statement)
    assert await gone(owner) == set()


async def test_an_approved_order_destroys_just_what_it_says(room: Room, owner: asyncpg.Connection) -> None:
    await room.freeze()
    change = await room.order("parties")
    conn = room.people.conn
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no order that has begun"):
        await conn.execute("SELECT tollgate.shred_key($1, 'parties')", change)
    await room.carry_out(change)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no order that has begun"):
        await conn.execute("SELECT tollgate.shred_key($1, 'timing')", change)
    for statement in ("SELECT tollgate.shred_begin($1, $2, NULL)", "SELECT tollgate.shred_done($1)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement, change, *([uuid4()] if "$2" in statement else []))
    assert await gone(owner) == {("parties", MONTH)}


async def test_the_floor_is_eighteen_months(room: Room, owner: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    count = now.year * 12 + now.month - 1
    young = [(count - n) // 12 * 100 + (count - n) % 12 + 1 for n in (0, 17, 18)]
    for month in young:
        with pytest.raises(RegistryError, match=r"18 months \(47 CFR 42\.6\)"):
            await room.people.propose("store.shred", {"month": month, "classes": ["location"]})
        # PostgreSQL says so too.
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="18 months"):
            await owner.execute("SELECT tollgate.shred_floor($1)", month)
    oldest = (count - 19) // 12 * 100 + (count - 19) % 12 + 1
    await owner.execute("SELECT tollgate.shred_floor($1)", oldest)
    await room.people.propose("store.shred", {"month": oldest, "classes": ["location"]})


@pytest.mark.parametrize(
    ("month", "until"), [(202405, "2025-12-01"), (202406, "2026-01-01"), (202412, "2026-07-01"), (202312, "2025-07-01")]
)
def test_months_are_counted_from_their_end(month: int, until: str) -> None:
    end = datetime.fromisoformat(until).replace(tzinfo=UTC)
    assert kept_until(month) == end
    with pytest.raises(ShredError, match=until):
        Order(month, ("timing",)).check_floor(end - timedelta(microseconds=1))
    Order(month, ("timing",)).check_floor(end)


async def test_what_was_shown_has_to_be_frozen_first(room: Room, owner: asyncpg.Connection) -> None:
    await room.desk.pull(**PULL)
    change = await room.order("parties")
    assert await room.refused(change) == "shred.not_frozen"
    await room.freeze()
    await room.desk.pull(**PULL)
    assert await room.refused(change) == "shred.not_frozen", "what was shown since is not in it"
    await room.desk.pull(start=OLD + timedelta(days=31), end=OLD + timedelta(days=40))
    await room.freeze()
    august = OLD + timedelta(days=31)
    await room.desk.pull(start=august, end=august + timedelta(days=5))
    assert await gone(owner) == set()
    await room.carry_out(change)
    # The subscribers of this month cannot be counted any more: what is left of it needs no freezing.
    await room.carry_out(await room.order("routing", "ingress_leg"))


async def test_what_nobody_counts_needs_no_freezing(room: Room) -> None:
    await room.desk.pull(**PULL)
    await room.carry_out(await room.order("location", "device"))


async def test_what_the_legal_desk_needs_stays(room: Room, owner: asyncpg.Connection) -> None:
    await room.freeze()
    change = await room.order("parties")
    case = await add_case(owner, "2709c", state="approved", months=(202401, 202408))
    assert await room.refused(change) == "shred.held"
    await owner.execute("UPDATE tollgate.legal_case SET state = 'closed', version = 2 WHERE case_id = $1", case)
    await add_hold(owner, case, "H-AAAAAAAAAA", months=(202407, 202407), sealed=False)
    assert await room.refused(change) == "shred.held"
    with pytest.raises(ShredError) as caught:
        await room.carry_out(change)
    assert not any(word in str(caught.value) for word in (case, "H-", "hold", "case")), "it says nothing of whose"
    # PostgreSQL refuses it too, for what comes between the check and the beginning.
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="still needs"):
        await room.people.conn.execute("SELECT tollgate.shred_begin($1, $2, NULL)", change, uuid4())
    await owner.execute("UPDATE tollgate.hold SET state = 'active', sealed_at = now(), rows = 0")
    await room.carry_out(change)
    assert await gone(owner) == {("parties", MONTH)}


async def test_a_preservation_whose_copy_failed_keeps_its_months(room: Room, owner: asyncpg.Connection) -> None:
    """Until there is a copy, or two people have let it go, or its days are over: also after the last try."""
    await room.freeze()
    change = await room.order("parties")
    case = await add_case(owner, instrument="preservation", state="active", months=(202401, 202408))
    for letter in "AAB":
        hold = "H-" + letter * 10
        if letter == "B":
            assert await room.refused(change) == "shred.held", "void"
        elif not await owner.fetchval("SELECT count(*) FROM tollgate.hold"):
            assert await room.refused(change) == "shred.held", "none"
        await owner.execute("DELETE FROM tollgate.hold")
        await add_hold(owner, case, hold, months=(202407, 202407), sealed=False)
        await owner.execute("UPDATE tollgate.hold SET state = 'void', ended_at = now()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="still needs"):
        await room.people.conn.execute("SELECT tollgate.shred_begin($1, $2, NULL)", change, uuid4())
    needed = "SELECT needed FROM tollgate.shred_facts($1)"
    assert [await owner.fetchval(needed, month) for month in (202312, 202401, 202408, 202409)] == [
        False, True, True, False,
    ]  # fmt: skip
    # A copy that is whole, or a lifting: it is owed no more.
    await add_hold(owner, case, "H-CCCCCCCCCC", months=(202407, 202407))
    assert not await owner.fetchval(needed, MONTH)
    await owner.execute("DELETE FROM tollgate.hold WHERE hold_id = 'H-CCCCCCCCCC'")
    assert await owner.fetchval(needed, MONTH)
    await add_hold(owner, case, "H-DDDDDDDDDD", months=(202407, 202407), sealed=False)
    await room.people.do("hold.lift", {"hold": "H-DDDDDDDDDD"})
    await room.carry_out(change)


async def test_what_was_owed_ends_with_the_days_of_the_request(owner: asyncpg.Connection) -> None:
    case = await add_case(owner, instrument="preservation", state="active", months=(202401, 202408))
    asked = datetime.now(UTC) - timedelta(days=92)
    await add_hold(owner, case, "H-AAAAAAAAAA", requested=asked, sealed=False)
    await owner.execute("UPDATE tollgate.hold SET state = 'void', ended_at = now()")
    assert not await owner.fetchval("SELECT needed FROM tollgate.shred_facts($1)", MONTH)


async def test_what_is_staged_is_rolled_first(room: Room) -> None:
    await room.desk.store.ingest(calls(range(50, 53), at=OLD))
    change = await room.order("location")
    assert await room.refused(change) == "shred.staged"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="staged"):
        await room.people.conn.execute("SELECT tollgate.shred_begin($1, $2, NULL)", change, uuid4())
    await room.desk.store.roll()
    await room.carry_out(change)
    await room.desk.store.add(calls(range(60, 63), at=OLD + timedelta(days=31)))  # rolling goes on


async def test_a_late_file_of_a_shredded_month_is_refused(room: Room) -> None:
    await room.freeze()
    await room.carry_out(await room.order(*ALL))
    room.desk.store.keys.forget()  # as another run of the command, which has nothing in memory
    with pytest.raises(KeyUnavailable):
        await room.desk.store.ingest(calls(range(70, 73), at=OLD))
    await room.desk.store.add(calls(range(80, 83), at=OLD + timedelta(days=31)))


async def test_no_copy_is_begun_of_a_month_that_goes(room: Room, owner: asyncpg.Connection) -> None:
    await room.freeze()
    change = await room.order("parties")
    await room.people.conn.execute("SELECT tollgate.shred_begin($1, $2, NULL)", change, uuid4())
    case = await add_case(owner, state="approved")
    await add_order(owner, case, "H-BBBBBBBBBB")
    values = (case, uuid4(), int(OLD.timestamp() * 1e6), int((OLD + timedelta(days=3)).timestamp() * 1e6))
    held = (
        "INSERT INTO tollgate.held (hold_id, case_id, access_id, key_month, discloses, order_sealed, order_digest,"
        " as_of, staged, start_us, end_us, at_us) VALUES ('H-BBBBBBBBBB', $1, $2, 202611, true, '', sha256(''), 1, 0,"
        " $3, $4, $3)"
    )
    with pytest.raises(asyncpg.ObjectInUseError, match="being shredded"):
        await owner.execute(held, *values)
    august = [v + 31 * 86_400_000_000 for v in values[2:]]
    await owner.execute(held, *values[:2], *august)
    row = await owner.fetchrow("SELECT kind, state, first_month, last_month FROM tollgate.hold")
    assert tuple(row) == ("production", "pending", NEXT, NEXT), "every copy has a hold"


async def test_until_backups_have_expired_it_is_pending(room: Room) -> None:
    keyring = FileProvider(room.config.keyring_dir).keyring
    at = datetime.now(UTC) - timedelta(days=10)
    record_backup(keyring, keyring.read().generation, at)
    report = await room.carry_out(await room.order("location"), keep_days=30)
    assert report.pending_until == at + timedelta(days=30)
    kept = keyring.directory / "replaced-20260101T000000.000000Z"
    kept.mkdir(mode=0o700)
    report = await room.carry_out(await room.order("device"), keep_days=30)
    assert report.replaced == (kept,)
    assert report.pending_until is not None
    assert report.pending_until > at + timedelta(days=30)


def test_what_is_pending_and_until_when() -> None:
    now = datetime(2026, 11, 5, tzinfo=UTC)
    assert pending_until(None, [], now, 90) is None
    assert pending_until(now - timedelta(days=5), [], now, 90) == now + timedelta(days=85)
    assert pending_until(None, [Path("replaced-1")], now, 90) == now + timedelta(days=90)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"month": MONTH},
        {"month": "202407", "classes": ["timing"]},
        {"month": True, "classes": ["timing"]},
        {"month": 202413, "classes": ["timing"]},
        {"month": MONTH, "classes": []},
        {"month": MONTH, "classes": ["log_actor"]},
        {"month": MONTH, "classes": ["hold"]},
        {"month": MONTH, "classes": "timing"},
        {"month": MONTH, "classes": [["timing"]]},
        {"month": MONTH, "classes": ["timing"], "also": 1},
    ],
)
def test_what_is_no_order(payload: dict[str, Any]) -> None:
    with pytest.raises(ShredError):
        Order.read(payload)


def test_an_order_has_one_form() -> None:
    order = Order.read({"month": MONTH, "classes": ["tags", "timing", "tags"]})
    assert order.payload() == {"month": MONTH, "classes": ["timing", "tags"]}
    assert Order.read(order.payload()) == order


# --- killed at each step ----------------------------------------------------------------------------------------------


STEPS = (
    ("SELECT batches", 0),  # nothing has begun
    ("SELECT tollgate.shred_begin", 0),
    ("SELECT state, first, at FROM tollgate.log_append", 0),  # in the transaction that begins it
    ("destroy", 0),  # begun, and every key is there
    ("SELECT tollgate.shred_key", 0),  # a key is gone, and not on record
    ("destroy", 1),
    ("SELECT tollgate.shred_key", 1),
    ("SELECT tollgate.shred_done", 0),
    ("SELECT state, first, at FROM tollgate.log_append", 0),  # in the transaction that ends it
)


def _killed(config: Config, change: UUID, what: str, skip: int) -> None:
    """Carry an order out, and be killed before the statement that begins so (or the destruction of a key)."""
    left = skip

    def strike(name: str) -> None:
        nonlocal left
        if name.startswith(what):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    def struck(original: Any) -> Any:
        async def run(self: Any, asked: Any, *args: Any, **more: Any) -> Any:
            strike("destroy" if isinstance(asked, Period) else str(asked).strip())
            return await original(self, asked, *args, **more)

        return run

    async def work() -> None:
        async with open_ledger(config) as ledger, open_shredder(config, ledger) as shredder:
            for name in ("execute", "fetch", "fetchval", "fetchrow"):
                setattr(asyncpg.Connection, name, struck(getattr(asyncpg.Connection, name)))
            FileProvider.destroy = struck(FileProvider.destroy)  # type: ignore[method-assign]
            await shredder.carry_out(change, datetime.now(UTC), "operator-1")

    asyncio.run(work())


async def test_killed_at_each_step_it_goes_on(room: Room, owner: asyncpg.Connection) -> None:
    """One order all the way, killed a step later each time."""
    await room.freeze()
    change = await room.order("timing", "parties")
    half = 0
    for what, skip in STEPS:
        child = _FORKS.Process(target=_killed, args=(room.config, change, what, skip), daemon=True)
        child.start()
        assert await ended(child) == -signal.SIGKILL, what
        row = await owner.fetchrow("SELECT begun_at, entry_id, done_at FROM tollgate.shred")
        ring = FileProvider(room.config.keyring_dir).keyring.read(fresh=True)
        destroyed = {p for p in ring.destroyed if p.month == MONTH}
        entries = await room.desk.store.ledger.read(kinds=[Kind.STORE_SHRED])
        actions = [e.request and e.request["action"] for e in entries]
        # Nothing goes that the log does not name; what is begun stands once.
        assert not destroyed or actions == ["order", "begin"]
        assert (row["begun_at"] is not None) == ("begin" in actions)
        assert (row["done_at"], "done" in actions) == (None, False)
        half += bool(destroyed)
    assert half == 5
    report = await room.carry_out(change)
    assert report.resumed
    assert await gone(owner) == {("timing", MONTH), ("parties", MONTH)}
    ring = FileProvider(room.config.keyring_dir).keyring.read(fresh=True)
    assert {Period("timing", MONTH), Period("parties", MONTH)} <= set(ring.destroyed)
    assert await room.refused(change) == "shred.done"


async def test_the_command_carries_an_order_out(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", room.config.database_url)
    home = ["--home", str(room.config.home), "keys", "shred"]

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, [*home, *words])

    refused = await run("2024-07", "timing", "--dry-run")
    assert (refused.exit_code, "exposure freeze 2024-07" in refused.output) == (1, True)
    free = await run("2024-07", "location", "--dry-run", "--json")
    assert (free.exit_code, json.loads(free.stdout)["rows"]) == (0, 30)
    change = str(await room.order("location"))
    keyring = FileProvider(room.config.keyring_dir).keyring
    record_backup(keyring, keyring.read().generation, datetime.now(UTC))
    done = await run("--carry-out", change, "--yes")
    assert done.exit_code == 0, done.output
    assert "PENDING until" in done.output
    again = await run("--carry-out", change, "--yes")
    assert (again.exit_code, "it was done" in again.output) == (1, True)


async def test_one_at_a_time(room: Room, owner: asyncpg.Connection) -> None:
    change = await room.order("location")
    holder = await asyncpg.connect(room.config.role_url(Role.OPERATOR))
    try:
        await holder.execute("SELECT pg_advisory_lock(hashtextextended('tollgate.shredding', 0))")
        assert await room.refused(change) == "shred.busy"
    finally:
        await holder.close()


async def test_a_shredded_month_makes_no_key_again(room: Room) -> None:
    await room.carry_out(await room.order("location"))
    provider = FileProvider(room.config.keyring_dir)
    with pytest.raises(KeyUnavailable):
        await provider.wrap(Period("location", MONTH), b"x")
