"""The publisher and the follower on a real database: one history, whatever dies, and no other than the one served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Cosigner, Note, NoteError, Signer, sign
from keys.signing import SigningKeys
from proxy.cli.main import main
from proxy.config import ConfigError
from proxy.ledger import anchor, checkpoints, publisher, tiles, tree
from proxy.ledger import recover as recovery
from proxy.ledger.checkpoints import LogInconsistent, Origin, Stored
from proxy.ledger.model import JSON, Entry, Kind, LedgerUnavailable
from proxy.ledger.origins import fresh, matches
from proxy.ledger.published import NotPublished, Published
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.recover import Recovery
from proxy.ledger.service import Ledger
from schema.roles import Role
from tests.conftest import PASSWORDS, Database
from tests.support.ledger import Fault, Link, intent, open_ledger, until

ORIGIN = "gate.example/log"
WITNESS = Cosigner("witness.example/w1", Ed25519PrivateKey.generate())


@dataclass
class World:
    """A log with its origin, and who may publish it."""

    database: Database
    ledger: Ledger
    pool: asyncpg.Pool
    keys: LogKeys
    owner: asyncpg.Connection

    def publisher(self, pool: asyncpg.Pool | None = None) -> Publisher:
        return Publisher(pool or self.pool, self.keys, self.ledger.halt)

    def published(self, origin: str = ORIGIN, directory: Path | None = None, **options: Any) -> Published:
        return Published(self.pool, self.keys, self.ledger, directory or self.directory, origin, **options)

    @property
    def directory(self) -> Path:
        return self.database.config.log_dir

    async def add(self, count: int) -> None:
        async with self.owner.transaction():
            await self.ledger.append_in(self.owner, [intent(n=n) for n in range(count)])

    async def publish(self) -> Stored:
        one = self.publisher()
        try:
            stored = await one.once()
        finally:
            await one.stop()
        assert stored is not None
        return stored

    async def leaves(self) -> list[bytes]:
        return [row["leaf_hash"] for row in await self.owner.fetch("SELECT * FROM tollgate.log_entry ORDER BY idx")]

    async def checkpoints(self) -> list[asyncpg.Record]:
        return await self.owner.fetch("SELECT * FROM tollgate.log_checkpoint ORDER BY epoch, size")

    async def cut(self, size: int) -> None:
        """Put the database back to when the log had ``size`` entries."""
        await self.owner.execute("DELETE FROM tollgate.log_entry WHERE idx >= $1", size)
        await self.owner.execute("DELETE FROM tollgate.log_tag WHERE first >= $1", size)
        await self.owner.execute("DELETE FROM tollgate.log_checkpoint WHERE size > $1", size)
        await self.owner.execute("DELETE FROM tollgate.log_tile WHERE ((idx + 1) << (8 * (level + 1))) > $1", size)
        await self.owner.execute("UPDATE tollgate.log_head SET size = $1", size)


@contextlib.asynccontextmanager
async def _world(database: Database, owner: asyncpg.Connection) -> AsyncIterator[World]:
    async with open_ledger(database.config) as ledger:
        pool = await asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=0, max_size=5)
        keys = LogKeys(SigningKeys(database.config.keyring_dir))
        try:
            yield World(database, ledger, pool, keys, owner)
        finally:
            pool.terminate()
            await pool.close()


@pytest.fixture
async def world(database: Database, owner: asyncpg.Connection) -> AsyncIterator[World]:
    async with _world(database, owner) as made:
        follower = made.published()
        await follower.start()
        await follower.stop()
        yield made


async def _sound(world: World) -> None:
    """Everything that was signed is what the entries come to, computed here from nothing but leaf hashes."""
    leaves = await world.leaves()
    keys = world.keys.verifiers(ORIGIN)
    rows = await world.checkpoints()
    for row in rows:
        checkpoint = checkpoints.verified(row["note"], ORIGIN, keys)
        assert (checkpoint.size, checkpoint.root) == (row["size"], row["root"])
        assert row["root"] == tree.root(leaves[: row["size"]])
    assert len({row["size"] for row in rows}) == len(rows)
    covered = rows[-1]["size"] if rows else 0
    found = {(r["level"], r["idx"]): r for r in await world.owner.fetch("SELECT * FROM tollgate.log_tile")}
    row, level = leaves[:covered], 0
    while len(row) >= 256:
        full = [row[at : at + 256] for at in range(0, len(row) // 256 * 256, 256)]
        assert {index for at, index in found if at == level} == set(range(len(full)))
        for index, hashes in enumerate(full):
            assert found[level, index]["hashes"] == b"".join(hashes)
            assert found[level, index]["root"] == tree.root(hashes)
        row, level = [tree.root(hashes) for hashes in full], level + 1


# -- publishing


async def test_a_new_key_signs_on_and_the_old_one_still_proves(world: World) -> None:
    """`tollgate keys rotate log` beside a running gateway."""
    follower = world.published()
    await follower.start()
    try:
        await world.add(3)
        first = await world.publish()
        await until(lambda: follower.served is not None and follower.served.size == first.size)
        signing = SigningKeys(world.database.config.keyring_dir)
        old = signing.current("log")
        assert (await asyncio.to_thread(command, world, "keys", "rotate", "log", "--json")).exit_code == 0
        assert signing.current("log").kid != old.kid
        await world.add(3)
        second = await world.publish()
        await until(lambda: follower.served is not None and follower.served.size == second.size)
        assert world.ledger.halted is None
    finally:
        await follower.stop()
    new, kept = world.keys.verifiers(ORIGIN)
    assert Note.parse(second.note).verify([new])
    assert Note.parse(first.note).verify([kept])
    with pytest.raises(NoteError):
        Note.parse(second.note).verify([kept])
    await _sound(world)
    done = await asyncio.to_thread(command, world, "log", "fsck", "--no-store")
    assert done.exit_code == 0, done.output


def command(world: World, *words: str) -> Result:
    arguments = ["--home", str(world.database.config.home), *words]
    return CliRunner().invoke(main, arguments, env={"TOLLGATE_DATABASE_URL": world.database.url})


async def test_what_is_signed_is_what_stands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "ROUND_MAX", 300)  # so that a long log takes several rounds
    one = world.publisher()
    for count, size in ((1, 2), (254, 256), (1, 257), (800, 1057)):
        await world.add(count)
        stored = await one.once()
        assert stored is not None
        assert stored.size == size
    assert (await one.once()) == stored, "nothing new, nothing signed"
    await one.stop()
    await _sound(world)
    assert [row["size"] for row in await world.checkpoints()] == [2, 256, 257, 557, 857, 1057]


async def test_one_of_two_publishes_and_the_other_takes_over(world: World) -> None:
    first, second = world.publisher(), world.publisher()
    await world.add(3)
    assert (await first.once()) is not None
    assert (await second.once()) is None
    await first.stop()
    await world.add(300)
    stored = await second.once()
    assert stored is not None
    assert stored.size == 304
    await second.stop()
    await _sound(world)


async def test_a_lock_that_is_held_by_somebody_who_publishes_nothing_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can log in can take it: publishing stops, and somebody has to be told who."""
    monkeypatch.setattr(publisher, "LOOK_S", 0.0)
    monkeypatch.setattr(publisher, "SILENT_S", 0.3)
    said = caplog.records
    stranger = await asyncpg.connect(world.database.config.role_url(Role.MONITOR))
    await stranger.execute("SELECT pg_advisory_lock($1)", publisher.LOCK)
    one = world.publisher()

    async def wait() -> None:
        for _ in range(5):
            assert await one.once() is None
            await asyncio.sleep(0.1)

    def told() -> list[dict[str, object]]:
        return [vars(record)["tollgate_fields"] for record in said if record.message == "log.publisher_silent"]

    try:
        await wait()
        assert [each["entries"] for each in told()] == [1], "the origin's entry"
        assert told()[0]["pid"] == stranger.get_server_pid()
        assert told()[0]["role"] == Role.MONITOR.value
        await wait()
        assert len(told()) > 1, "and again"
    finally:
        await stranger.close()
    await until(one.once)
    await one.stop()
    # Another that publishes is not silent, nor is one that has nothing to publish.
    said.clear()
    other = world.publisher()
    for _ in range(5):
        await world.add(1)
        await other.once()
        assert await one.once() is None
        await asyncio.sleep(0.1)
    await wait()
    assert told() == []
    await other.stop()
    await one.stop()


async def test_a_publisher_that_lost_its_connection_signs_nothing_on_what_it_remembers(world: World) -> None:
    first = world.publisher()
    await world.add(3)
    await first.once()
    await world.owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await world.add(2)
    second = world.publisher()
    assert (await second.once()) is not None
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        assert (await first.once()) is None
    assert (await first.once()) is None
    await second.stop()
    await world.add(2)
    assert (await first.once()) is not None
    await first.stop()
    await _sound(world)


@pytest.mark.parametrize("persisted", [False, True])
async def test_every_write_fails_both_ways_and_twice(world: World, persisted: bool) -> None:
    async with Link(world.database.url, Role.LOG.value, PASSWORDS[Role.LOG]) as link:
        pool = await asyncpg.create_pool(min_size=0, max_size=2, timeout=5, **link.arguments())
        at, survived = 1, False
        while not survived:
            await world.add(130)
            link.faults = [Fault(at, persisted), Fault(2, persisted)]
            one = world.publisher(pool)
            for _ in link.faults:
                with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                    await one.once()
            survived = not link.faults[0].fired
            link.faults = []
            # A backend that was cut off may hold the lock until it has noticed.
            await until(one.once)
            stored = await one.once()
            assert stored is not None
            assert stored.size == await world.owner.fetchval("SELECT size FROM tollgate.log_head")
            await one.stop()
            at += 1
        pool.terminate()
        await pool.close()
    assert at > 8, "every message of a round was a place to fail"
    assert world.ledger.halted is None
    await _sound(world)


async def test_no_second_root_for_a_size_and_none_behind_another(world: World) -> None:
    await world.add(5)
    stored = await world.publish()
    async with world.pool.acquire() as conn:
        for size in (stored.size, stored.size - 1):
            other = Stored(stored.epoch, size, bytes(32), b"another")
            with pytest.raises(LogInconsistent):
                await checkpoints.add(conn, other, [], 10)
        with pytest.raises(LogInconsistent):
            await checkpoints.add(conn, Stored(2, 99, bytes(32), b"unknown origin"), [], 10)
    assert len(await world.checkpoints()) == 1


FLIPPED = "set_byte({0}, 5, (get_byte({0}, 5) + 1) % 256)"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE tollgate.log_tile SET root = {FLIPPED.format('root')}",
        f"UPDATE tollgate.log_entry SET leaf_hash = {FLIPPED.format('leaf_hash')} WHERE idx = 258",
        f"UPDATE tollgate.log_checkpoint SET root = {FLIPPED.format('root')}",
        "UPDATE tollgate.log_checkpoint SET note = replace(encode(note, 'escape'), '260', '259')::bytea",
        "DELETE FROM tollgate.log_tile",
        "DELETE FROM tollgate.log_entry WHERE idx = 258",
        "UPDATE tollgate.log_head SET size = 259",
        "DELETE FROM tollgate.log_origin",
    ],
)
async def test_a_publisher_that_does_not_come_to_the_signed_root_signs_nothing(world: World, damage: str) -> None:
    await world.add(259)
    assert (await world.publish()).size == 260
    await world.owner.execute(damage)
    one = world.publisher()
    with pytest.raises(LogInconsistent):
        await one.once()
    assert len(await world.checkpoints()) == 1
    # In a gateway that halts the log: nothing is disclosed any more.
    await one.start()
    await until(lambda: world.ledger.halted is not None)
    await one.stop()
    with pytest.raises(LedgerUnavailable, match="halted"):
        await world.ledger.append(intent())


async def test_a_log_that_shrinks_under_a_publisher_is_not_signed_again(world: World) -> None:
    one = world.publisher()
    await world.add(9)
    await one.once()
    await world.cut(5)
    with pytest.raises(LogInconsistent, match="shrank"):
        await one.once()
    await one.stop()
    await _sound(world)


# -- following


async def test_nothing_is_served_before_the_anchor_holds_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = world.published()
    await follower.start()
    assert follower.served is None
    full = True

    def write(directory: Path, note: bytes, really: Any = anchor.write) -> None:
        if full:
            raise anchor.AnchorError("no space left on device")
        really(directory, note)

    monkeypatch.setattr(anchor, "write", write)
    await world.add(3)
    stored = await world.publish()
    with pytest.raises(NotPublished):
        await follower.covering(4, 0.5)
    assert follower.served is None
    full = False
    assert (await follower.covering(4, 5)).note == stored.note
    assert anchor.read(world.directory) == stored.note
    assert (world.directory / anchor.NAME).stat().st_mode & 0o777 == 0o600
    await follower.check()
    await follower.stop()


async def test_each_checkpoint_served_continues_the_last(world: World) -> None:
    follower = world.published()
    await follower.start()
    served = []
    for count in (1, 255, 1, 300):
        await world.add(count)
        stored = await world.publish()
        served.append((await follower.covering(stored.size, 5)).size)
    await follower.stop()
    assert served == [2, 257, 258, 558]
    # And a follower that begins again begins from its anchor, without a new checkpoint.
    again = world.published()
    await again.start()
    assert again.served is not None
    assert again.served.size == 558
    await again.stop()


ROLLED_BACK = {
    "entries": "DELETE FROM tollgate.log_entry WHERE idx >= 3; UPDATE tollgate.log_head SET size = 3",
    "checkpoints": "DELETE FROM tollgate.log_checkpoint WHERE size > 4",
    "all checkpoints": "DELETE FROM tollgate.log_checkpoint",
    "another root": f"UPDATE tollgate.log_checkpoint SET root = {FLIPPED.format('root')} WHERE size = 9",
    "another origin": "INSERT INTO tollgate.log_origin (epoch, origin, first_size) VALUES (2, 'x', 9);"
    " INSERT INTO tollgate.log_checkpoint SELECT 2, 10, root, at, note FROM tollgate.log_checkpoint WHERE size = 9",
}


@pytest.mark.parametrize("damage", ROLLED_BACK.values(), ids=ROLLED_BACK)
async def test_a_database_that_went_back_halts_the_log(world: World, damage: str) -> None:
    await world.add(3)
    await world.publish()
    await world.add(5)
    await world.publish()
    follower = world.published()
    await follower.start()
    assert follower.served is not None
    await world.owner.execute(damage)
    await until(lambda: world.ledger.halted is not None)
    await follower.stop()
    assert follower.served is None
    with pytest.raises(LedgerUnavailable, match="halted"):
        await world.ledger.append(intent())
    with pytest.raises(Exception, match="halted"):
        await follower.check()


async def test_a_restored_backup_is_not_served_from_after_a_restart(world: World) -> None:
    await world.add(3)
    await world.publish()
    follower = world.published()
    await follower.start()
    await world.add(300)
    await follower.covering((await world.publish()).size, 5)
    await follower.stop()
    await world.cut(4)
    await world.add(400)  # it has even grown again
    async with open_ledger(world.database.config) as ledger:
        again = Published(world.pool, world.keys, ledger, world.directory, ORIGIN)
        await again.start()
        assert again.served is None
        assert "tollgate log recover" in (ledger.halted or "")
        with pytest.raises(LedgerUnavailable):
            await ledger.append(intent())


async def test_another_history_of_the_same_length_is_not_served_from(world: World) -> None:
    """The log's own key signed it: rewritten from the third entry on. Only the anchor tells."""
    await world.add(8)
    stored = await world.publish()
    anchor.write(world.directory, stored.note)
    await world.cut(3)
    await world.owner.execute("DELETE FROM tollgate.log_checkpoint")
    await world.add(6)
    assert (await world.publish()).size == stored.size
    follower = world.published()
    await follower.start()
    assert "not the one served before" in (world.ledger.halted or "")


async def test_another_gateways_follower_sees_a_rewritten_log_in_its_next_round(world: World) -> None:
    follower = world.published()
    await follower.start()
    await world.add(8)
    await follower.covering((await world.publish()).size, 5)
    # All at once, as an adversary with the database and the log's key would: longer, signed, and another history.
    leaves = [tree.leaf_hash(bytes([n])) for n in range(20)]
    signed = sign(Checkpoint(ORIGIN, 20, tree.root(leaves)).text, world.keys.signer(ORIGIN))
    async with world.owner.transaction():
        await world.owner.execute("UPDATE tollgate.log_entry SET leaf_hash = sha256(leaf_hash)")
        await world.owner.execute(
            "INSERT INTO tollgate.log_entry SELECT n, gen_random_uuid(), now(), kind, NULL, batch_id, 0, header,"
            " leaf_hash, tags FROM tollgate.log_entry, generate_series(9, 19) n WHERE idx = 0"
        )
        for index, leaf in enumerate(leaves):
            await world.owner.execute("UPDATE tollgate.log_entry SET leaf_hash = $2 WHERE idx = $1", index, leaf)
        await world.owner.execute("UPDATE tollgate.log_head SET size = 20")
        await world.owner.execute(
            "INSERT INTO tollgate.log_checkpoint VALUES (1, 20, $1, now(), $2)", tree.root(leaves), str(signed).encode()
        )
    await until(lambda: world.ledger.halted is not None)
    await follower.stop()
    assert "does not continue" in (world.ledger.halted or "")


async def test_a_checkpoint_that_another_key_signed_is_not_served(world: World) -> None:
    await world.add(3)
    stranger = Signer(ORIGIN, Ed25519PrivateKey.generate())
    root = tree.root(await world.leaves())
    note = str(sign(Checkpoint(ORIGIN, 4, root).text, stranger)).encode()
    await world.owner.execute("INSERT INTO tollgate.log_checkpoint VALUES (1, 4, $1, now(), $2)", root, note)
    follower = world.published()
    await follower.start()
    assert follower.served is None
    assert "does not verify" in (world.ledger.halted or "")


async def test_an_empty_database_is_not_opened_where_the_anchor_knows_a_log(
    database: Database, owner: asyncpg.Connection
) -> None:
    async with _world(database, owner) as world:
        note = str(sign(Checkpoint(ORIGIN, 4, bytes(32)).text, world.keys.signer(ORIGIN))).encode()
        anchor.write(world.directory, note)
        await world.published().start()
        assert world.ledger.halted is not None
        assert not await owner.fetch("SELECT * FROM tollgate.log_origin")


@pytest.mark.parametrize("text", [b"", b"nonsense", b"x" * 70_000])
async def test_a_damaged_anchor_is_not_passed_over(world: World, text: bytes) -> None:
    world.directory.mkdir(exist_ok=True)
    (world.directory / anchor.NAME).write_bytes(text)
    follower = world.published()
    if text == b"nonsense":
        await follower.start()
        assert world.ledger.halted is not None
    else:
        with pytest.raises(anchor.AnchorError, match="damaged"):  # names the file
            await follower.start()
    assert follower.served is None


async def test_two_gateways_that_start_at_once_make_one_origin(database: Database, owner: asyncpg.Connection) -> None:
    async with _world(database, owner) as world:
        followers = [world.published(directory=database.config.home / f"log-{n}") for n in range(4)]
        await asyncio.gather(*(follower.start() for follower in followers))
        for follower in followers:
            await follower.stop()
        assert [row["origin"] for row in await owner.fetch("SELECT * FROM tollgate.log_origin")] == [ORIGIN]
        assert await owner.fetchval("SELECT count(*) FROM tollgate.log_entry WHERE kind = 'log.origin'") == 1


async def test_another_origin_than_the_logs_is_a_wrong_setting(world: World) -> None:
    with pytest.raises(ConfigError, match=r"set log_origin to 'gate.example/log'"):
        await world.published("other.example/log").start()


def test_a_recovered_origin_is_still_the_configured_one() -> None:
    made = fresh("a/log", 3)
    assert matches("a/log", Origin(1, "a/log", 0, None))
    assert matches("a/log", Origin(3, made, 0, None))
    assert matches(made, Origin(3, made, 0, None))
    assert fresh("a/log", 3) != made
    for other in (
        Origin(2, made, 0, None),
        Origin(3, made + "\n", 0, None),
        Origin(3, made.replace("a/", "b/"), 0, None),
    ):
        assert not matches("a/log", other)
    assert not matches("a.log", Origin(3, made, 0, None))
    assert not matches("a/log", Origin(1, "a/logs", 0, None))


async def _recover(world: World, *notes: bytes) -> Recovery:
    async with world.pool.acquire() as conn:
        planned = await recovery.plan(conn, world.keys, notes)
        return await recovery.recover(conn, world.ledger, planned, "operator")


async def _lost(world: World) -> tuple[bytes, bytes]:
    """A log of 12 entries of which a backup has 6: its checkpoint of size 8, and that of 12, which was served."""
    await world.add(7)
    middle = await world.publish()
    await world.add(4)
    lost = await world.publish()
    assert (middle.size, lost.size) == (8, 12)
    anchor.write(world.directory, lost.note)
    await world.cut(6)
    return middle.note, lost.note


@pytest.mark.parametrize("knew", [True, False])
async def test_after_a_recovery_a_gateway_goes_on_where_its_anchor_was_known(world: World, knew: bool) -> None:
    middle, lost = await _lost(world)
    name = (await _recover(world, lost if knew else middle)).origin
    stored = await world.publish()
    assert (stored.epoch, stored.size) == (2, 7)
    if not knew:
        async with open_ledger(world.database.config) as ledger:
            follower = Published(world.pool, world.keys, ledger, world.directory, ORIGIN)
            await follower.start()
            assert follower.served is None
            assert "recovered without" in (ledger.halted or "")
            assert anchor.read(world.directory) == lost
        name = (await _recover(world, lost)).origin  # once more, with that one
        assert (await world.publish()).epoch == 3
    follower = world.published()
    await follower.start()
    assert world.ledger.halted is None
    assert follower.served is not None
    assert follower.served.size == 7 + (not knew)
    assert Checkpoint.parse(Note.parse(anchor.read(world.directory) or b"").text).origin == name
    await follower.stop()


@pytest.mark.parametrize(
    "deed", ["a row alone", "a row changed", "a recovery renamed", "signed by nobody", "no recovery"]
)
async def test_a_forged_recovery_is_no_way_round_the_anchor(world: World, deed: str) -> None:
    """Whoever has the database puts an older state back and says in `log_origin` that it was recovered from."""
    middle, lost = await _lost(world)
    add = "INSERT INTO tollgate.log_origin VALUES (2, $1, 6, $2)"
    says = "is not what its entry says"
    if deed == "a row alone":
        await world.owner.execute(add, fresh(ORIGIN, 2), lost)
        await world.add(1)
        says = "no entry that can be opened"
    elif deed == "a row changed":
        await _recover(world, middle)
        await world.owner.execute("UPDATE tollgate.log_origin SET previous = $1 WHERE epoch = 2", lost)
    elif deed == "a recovery renamed":
        await _recover(world, lost)
        await world.owner.execute("UPDATE tollgate.log_origin SET origin = $1 WHERE epoch = 2", fresh(ORIGIN, 2))
    else:  # and somebody who can append, as a gateway's role, without the key
        name, stranger = fresh(ORIGIN, 2), Signer(ORIGIN, Ed25519PrivateKey.generate())
        note = str(sign(Checkpoint(ORIGIN, 99, bytes(32)).text, stranger))
        request: dict[str, JSON] = {"origin": name, "epoch": 2, "first_size": 6, "previous": note}
        kind = Kind.LOG_ORIGIN if deed == "signed by nobody" else Kind.SUMMARY
        says = "does not verify" if deed == "signed by nobody" else "no entry that can be opened"
        await world.owner.execute(add, name, note.encode())
        async with world.owner.transaction():
            await world.ledger.append_in(world.owner, [Entry(kind, request=request)])
    await world.publish()
    follower = world.published()
    await follower.start()
    await follower.stop()
    assert follower.served is None
    assert says in (world.ledger.halted or "")
    assert anchor.read(world.directory) == lost


async def test_a_database_put_back_behind_its_own_recovery(world: World) -> None:
    """The recovery is lost with what was signed under it: its name is never used again, and its anchor still counts."""
    _, lost = await _lost(world)
    first = await _recover(world, lost)
    await world.add(3)
    under = await world.publish()
    assert (under.epoch, under.size) == (2, 10)
    anchor.write(world.directory, under.note)
    await world.owner.execute("DELETE FROM tollgate.log_origin WHERE epoch = 2")
    await world.cut(6)
    second = await _recover(world, lost)
    assert (second.epoch, second.first_size) == (2, 6)
    assert second.origin != first.origin, "one name would have two trees"
    await world.publish()
    async with open_ledger(world.database.config) as ledger:
        follower = Published(world.pool, world.keys, ledger, world.directory, ORIGIN)
        await follower.start()
        assert follower.served is None
        assert "another log or recovery" in (ledger.halted or "")
    third = await _recover(world, lost, under.note)
    assert (third.epoch, third.first_size, third.lost) == (3, 7, 3)
    assert third.note.encode() == under.note
    assert (await _recover(world, lost, under.note)).origin == third.origin, "and again: it is done"
    stored = await world.publish()
    follower = world.published()
    await follower.start()
    await follower.stop()
    assert world.ledger.halted is None
    assert follower.served is not None
    assert follower.served.size == stored.size == 8


async def test_a_quorum_of_witnesses_publishes(world: World) -> None:
    follower = world.published(witnesses=[WITNESS.key], quorum=1)
    await follower.start()
    await world.add(3)
    stored = await world.publish()
    other = Cosigner(WITNESS.key.name, Ed25519PrivateKey.generate())
    text = Note.parse(stored.note).text
    async with world.pool.acquire() as conn:
        # A line in the witness's name that is not its own: it is there, and counts for nothing.
        await checkpoints.add_cosignature(conn, stored, WITNESS.key.name, str(other.cosign(text, 1)))
        with pytest.raises(NotPublished):
            await follower.covering(4, 0.5)
        await world.owner.execute("DELETE FROM tollgate.log_cosignature")
        await checkpoints.add_cosignature(conn, stored, WITNESS.key.name, str(WITNESS.cosign(text, 1)))
    served = await follower.covering(4, 5)
    Note.parse(served.note).verify([WITNESS.key])
    # A later checkpoint without it is not served; the log goes on all the same.
    await world.add(3)
    behind = await world.publish()
    with pytest.raises(NotPublished):
        await follower.covering(5, 0.5)
    assert world.ledger.halted is None
    assert follower.served == served
    # What is cosigned while the log has gone on is served, though it is not the newest.
    await world.add(3)
    assert (await world.publish()).size == 10
    async with world.pool.acquire() as conn:
        line = str(WITNESS.cosign(Note.parse(behind.note).text, 2))
        await checkpoints.add_cosignature(conn, behind, WITNESS.key.name, line)
    assert (await follower.covering(7, 5)).size == behind.size == 7
    await follower.stop()


async def test_tiles_of_a_served_log_prove_every_entry(world: World) -> None:
    await world.add(599)
    stored = await world.publish()
    async with world.pool.acquire() as conn:
        for index in (0, 255, 256, 511, 512, 599):
            proof = await tiles.compute(
                lambda wanted: checkpoints.fetch(conn, wanted),
                600,
                lambda read, index=index: tree.inclusion_proof(index, 600, read),  # type: ignore[misc]
            )
            tree.verify_inclusion(index, 600, (await world.leaves())[index], proof, stored.root)
