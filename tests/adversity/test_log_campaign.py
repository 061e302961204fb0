"""Hundreds of faults on running gateways; after them the log is whole, and names every record that a client received.

Two gateways on one database serve clients all the time. Faults strike the first: its link to PostgreSQL is cut at every
message of an append and of a round of the publisher, before the message or after its answer, once, twice in a row, and
in the recovery; it is killed there; PostgreSQL is killed there, or one backend of it; its disk is full; it is paused.
After each phase (tests/support/campaign.py, ``check``): fsck is clean, acknowledged entries stand where it was said, no
size shrank, no size had two roots, and rows received and not logged are none. A planted gateway that logs after it has
sent shows that the checker would see one.

``TOLLGATE_CAMPAIGN=N`` makes the random phase N rounds long (``TOLLGATE_CAMPAIGN_SEED`` chooses which).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import pytest

from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.cli import embedded
from proxy.config import Config
from schema.migrate import migrate
from schema.roles import Role, create_roles
from tests.conftest import PASSWORDS, with_database
from tests.support.campaign import ROWS, Node, Nodes, Postgres, Received, Spec, Verdict, check, pull
from tests.support.ledger import Fault, Link, until

MINIMUM = {
    "cuts": 48,
    "twice": 95,
    "down": 16,
    "gateway killed": 16,
    "server killed": 8,
    "killed inside": 6,
    "publisher cut": 45,
    "publisher killed": 14,
    "full disk": 12,
    "random": 35,
}
"""Faults that must have struck in each phase, beside the pause and the really full disk."""

PAUSE_S = 30.0


def test_the_campaign_is_as_large_as_it_says() -> None:
    assert sum(MINIMUM.values()) + (len(_STEPS) - 1) * MINIMUM["killed inside"] >= 300


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of the campaign's own."""
    # After each kill PostgreSQL syncs all it has: in memory that is quick, and a kill loses no more there than on disk.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    where = memory if roomy else None
    with tempfile.TemporaryDirectory(prefix="tollgate-campaign-", dir=where) as folder, _server(Path(folder)) as made:
        yield made


@contextlib.contextmanager
def _server(home: Path) -> Iterator[Postgres]:
    held = embedded.use(home)
    try:
        asyncio.run(_template(held.url))
        yield Postgres(home, held.url)
    finally:
        held.release()


async def _template(url: str) -> None:
    conn = await asyncpg.connect(url)
    await create_roles(conn, PASSWORDS)
    await migrate(conn)
    await conn.close()


@dataclass
class World:
    """Two gateways on a fresh database: faults strike the first."""

    postgres: Postgres
    config: Config
    nodes: Nodes
    log: Link
    tree: Link
    a: Node
    b: Node
    received: list[Received] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        assert self.config.database_url
        return self.config.database_url

    async def round(
        self, phase: str, log: Sequence[Fault] = (), tree: Sequence[Fault] = (), clients: int = 2
    ) -> list[Received]:
        """Let clients pull from both gateways while faults strike; afterwards everything is up again."""
        if faults := [*log, *tree]:
            await self.goes_on(self.a)  # warm, so that the messages that are counted are those of an append
        self.log.faults, self.tree.faults = list(log), list(tree)
        pulls = [pull(self.a.port) for _ in range(clients)] + [pull(self.b.port)]
        got = list(await asyncio.gather(*pulls))
        self.received += got
        with contextlib.suppress(TimeoutError):
            # What strikes the publisher, or a recovery, may strike after the clients have their answers.
            async with asyncio.timeout(0.3):
                while not all(f.fired for f in faults):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        self.log.faults, self.tree.faults = [], []
        await until(lambda: all(f.over for f in faults if f.fired))
        self.log.down = self.tree.down = False
        self.struck[phase] += sum(f.fired for f in faults)
        if not self.a.up.is_set():
            await self.nodes.start(self.a.spec)
        return got

    async def goes_on(self, *nodes: Node) -> None:
        """Both gateways, or these, answer in full."""
        for node in nodes or (self.a, self.b):

            async def answers(port: int = node.port) -> bool:
                self.received.append(await pull(port))
                return self.received[-1].whole and len(self.received[-1].ids) == ROWS

            await until(answers)

    async def verdict(self, phase: str) -> Verdict:
        """Check everything; nothing may be missing."""
        await self.goes_on()
        found = await check(self.url, self.config.keyring_dir, self.nodes, self.received)
        found.faults = self.struck
        sys.stdout.write(f"{phase}: {found}\n")  # for who runs it by hand
        assert found.unlogged == 0, found
        assert found.late == 0, found
        assert found.rows > 0
        assert found.acknowledged > 0
        assert found.served > 0
        assert self.struck[phase] >= MINIMUM.get(phase, 0), found
        return found


@contextlib.asynccontextmanager
async def _world(
    postgres: Postgres, folder: Path, *, mutant: bool = False, publish_b: bool = True
) -> AsyncIterator[World]:
    name = "campaign_" + secrets.token_hex(4)
    conn = await asyncpg.connect(with_database(postgres.url, "postgres"))
    await conn.execute(f"CREATE DATABASE {name} TEMPLATE {embedded.DATABASE}")
    await conn.close()
    home = folder / "home"
    home.mkdir(mode=0o700)
    config = Config(home=home, database_url=with_database(postgres.url, name))
    config.roles_file.write_text(json.dumps(PASSWORDS))
    config.roles_file.chmod(0o600)
    FileProvider.create(config.keyring_dir)
    SigningKeys(config.keyring_dir).current("log")
    role = (Role.LOG.value, PASSWORDS[Role.LOG.value])
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(Link(config.database_url, *role))
        tree = await stack.enter_async_context(Link(config.database_url, *role))
        nodes = await stack.enter_async_context(Nodes(folder))
        straight = {"dsn": config.role_url(Role.LOG)}
        for each in "ab":
            (folder / each).mkdir(mode=0o700)
        spec = Spec(
            "a", str(folder / "a"), str(config.keyring_dir), log.arguments(), tree.arguments(), log_after_sending=mutant
        )
        a = await nodes.start(spec)
        other = replace(
            spec, name="b", home=str(folder / "b"), log=straight, tree=straight, publish=publish_b,
            log_after_sending=False,
        )  # fmt: skip
        b = await nodes.start(other)
        world = World(postgres, config, nodes, log, tree, a, b)
        await world.goes_on()
        yield world
    conn = await asyncpg.connect(with_database(postgres.url, "postgres"))
    await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await conn.close()


@pytest.fixture
async def world(server: Postgres, tmp_path: Path) -> AsyncIterator[World]:
    async with _world(server, tmp_path) as made:
        yield made


BOTH = (False, True)
MESSAGES = 4
"""Four entries of an answer (intent, two of progress, outcome), one message each."""


async def test_cut_at_every_message(world: World) -> None:
    for at in range(1, MESSAGES + 1):
        for persisted in BOTH * 6:
            await world.round("cuts", [Fault(at, persisted)], clients=1)
    await world.verdict("cuts")


async def test_cut_twice_in_a_row_and_in_the_recovery(world: World) -> None:
    for first in BOTH:
        for second in BOTH:
            for at in range(1, 15):
                await world.round("twice", [Fault(1 + at % 3, first), Fault(at, second)])
    await world.verdict("twice")


async def test_cut_and_then_away(world: World) -> None:
    for at in range(1, MESSAGES + 1):
        for persisted in BOTH * 2:
            await world.round("down", [Fault(at, persisted, then_down=True)], clients=1)
    await world.verdict("down")


async def test_the_gateway_killed_at_every_message(world: World) -> None:
    for at in range(1, MESSAGES + 1):
        for persisted in BOTH * 2:
            await world.round("gateway killed", [Fault(at, persisted, act=world.a.kill)], clients=1)
    await world.verdict("gateway killed")


async def _restart(postgres: Postgres) -> None:
    await postgres.kill()
    await postgres.start()


async def test_postgresql_killed_at_every_message(world: World) -> None:
    for at in range(1, MESSAGES + 1):
        for persisted in BOTH:
            await world.round("server killed", [Fault(at, persisted, act=lambda: _restart(world.postgres))], clients=1)
    await world.verdict("server killed")


_SLOW = """
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.15); RETURN NULL; END $$
"""
_STEPS = {
    "entries": "TRIGGER slow BEFORE INSERT ON tollgate.log_entry FOR EACH STATEMENT",
    "openings": "TRIGGER slow BEFORE INSERT ON tollgate.log_opening FOR EACH STATEMENT",
    "tags": "TRIGGER slow BEFORE INSERT ON tollgate.log_tag FOR EACH STATEMENT",
    "head": "TRIGGER slow BEFORE UPDATE ON tollgate.log_head FOR EACH STATEMENT",
    "commit": "CONSTRAINT TRIGGER slow AFTER INSERT ON tollgate.log_entry DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
}
"""What an append does in one statement, made slow at one step, so that it can be struck there."""


@pytest.mark.parametrize("step", list(_STEPS))
async def test_killed_inside_an_append(world: World, step: str) -> None:
    """The gateway, the server, the backend that is at work (PostgreSQL then throws everybody out and recovers)."""

    async def backend() -> None:
        conn = await asyncpg.connect(world.url)
        try:
            pids = await conn.fetch(
                "SELECT pid FROM pg_stat_activity WHERE usename = 'tollgate_log' AND datname = current_database()"
                " AND wait_event = 'PgSleep'"
            )
        finally:
            await conn.close()
        for row in pids:
            os.kill(row["pid"], 9)

    owner = await asyncpg.connect(world.url)
    await owner.execute(f"{_SLOW}; CREATE {_STEPS[step]} EXECUTE FUNCTION public.slow()")
    await owner.close()
    for at in (1, 3):
        for act in (world.a.kill, lambda: _restart(world.postgres), backend):
            await world.round("killed inside", [Fault(at, False, delay_s=0.07, act=act)])
            await until(lambda: _takes_connections(world.url))
    await world.verdict("killed inside")


async def _takes_connections(url: str) -> bool:
    try:
        conn = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError):
        return False
    await conn.close()
    return True


async def test_publisher_and_follower_cut_at_every_message(server: Postgres, tmp_path: Path) -> None:
    async with _world(server, tmp_path, publish_b=False) as world:
        for persisted in BOTH:
            for at in range(1, 11):
                await world.round("publisher cut", tree=[Fault(at, persisted)], clients=1)
            for at in range(1, 9):
                await world.round("publisher cut", tree=[Fault(3, persisted), Fault(at, not persisted)], clients=1)
        await world.verdict("publisher cut")


async def test_the_publisher_killed_at_every_message(world: World) -> None:
    for at in range(1, 9):
        for persisted in BOTH:
            await world.round("publisher killed", tree=[Fault(at, persisted, act=world.a.kill)], clients=1)
    await world.verdict("publisher killed")


TABLES = ("log_entry", "log_opening", "log_tag", "log_head", "log_tile", "log_checkpoint")


async def test_a_full_disk_wherever_it_strikes(world: World) -> None:
    """Said by a trigger, as PostgreSQL says it, at each table; while it is full nobody is given anything unlogged."""
    owner = await asyncpg.connect(world.url)
    await owner.execute(
        "CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    for table in TABLES * 2:
        await owner.execute(
            f"CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON tollgate.{table}"
            " FOR EACH ROW EXECUTE FUNCTION public.full_disk()"
        )
        got = await world.round("full disk")
        if table in ("log_tile", "log_checkpoint"):
            assert all(r.whole for r in got), "publishing is not in the way of an answer"
        else:
            assert all(r.status == 503 for r in got)
        await owner.execute(f"DROP TRIGGER full_disk ON tollgate.{table}")
        world.struck["full disk"] += 1
        await world.goes_on()
    await owner.close()
    await world.verdict("full disk")


@contextlib.contextmanager
def _small_disk() -> Iterator[Path]:
    """A file system of its own, as root."""
    folder = Path(tempfile.mkdtemp(prefix="tollgate-disk-"))
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=320m,mode=0755", "none", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("a file system of its own needs the right to mount one")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        shutil.rmtree(folder)


async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """PostgreSQL on a small file system that fills up under load: it refuses, or stops and is started again."""
    with _small_disk() as disk:
        manager = _server(disk)
        postgres = await asyncio.to_thread(manager.__enter__)
        try:
            async with _world(postgres, tmp_path) as world:
                for spare in (0, 100_000, 9_000_000):
                    filler = disk / "filler"
                    free = shutil.disk_usage(disk).free - spare
                    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                        while free > 0:
                            free -= file.write(bytes(min(free, 1 << 20)))
                    refused = 0
                    for _ in range(60):
                        got = await world.round("really full", clients=8)
                        refused += sum(r.status == 503 for r in got)
                        if refused:
                            break
                    filler.unlink()
                    world.struck["really full"] += bool(refused)
                    if not await _takes_connections(world.url):
                        await postgres.kill() if (disk / "pgdata" / "postmaster.pid").exists() else None
                        await postgres.start()
                    await world.goes_on()
                assert world.struck["really full"] >= 1
                await world.verdict("really full")
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)


async def test_postgresql_paused(world: World) -> None:
    running = [asyncio.create_task(pull(node.port)) for node in (world.a, world.b) for _ in range(4)]
    await asyncio.sleep(0.05)
    async with world.postgres.paused():
        await asyncio.sleep(PAUSE_S / 2)
        got = await asyncio.gather(*(pull(node.port) for node in (world.a, world.b)))
        assert [r.status for r in got] == [503, 503], "nothing is given while the log cannot be written"
        world.received += got
        await asyncio.sleep(PAUSE_S / 2)
    world.received += await asyncio.gather(*running)
    world.struck["paused"] += 1
    await world.verdict("paused")


async def test_at_random(world: World) -> None:
    rounds = int(os.environ.get("TOLLGATE_CAMPAIGN", "40"))
    chance = random.Random(int(os.environ.get("TOLLGATE_CAMPAIGN_SEED", "1")))
    acts: list[Callable[[], Awaitable[object]] | None] = [
        None,
        None,
        None,
        world.a.kill,
        lambda: _restart(world.postgres),
    ]
    for number in range(rounds):
        act = chance.choices(acts, weights=(4, 4, 4, 2, 0.3))[0]
        faults = [
            Fault(chance.randint(1, 20), chance.random() < 0.5, then_down=act is None and chance.random() < 0.1)
            for _ in range(chance.randint(1, 3))
        ]
        faults[-1].act = act
        split = chance.randint(0, len(faults))
        await world.round("random", faults[:split], faults[split:], clients=chance.randint(1, 6))
        if number % 500 == 499:
            await world.verdict("random")  # what a defect did is better found soon
    MINIMUM["random"] = min(MINIMUM["random"], rounds)
    await world.verdict("random")


async def test_a_gateway_that_logs_after_sending_is_caught(server: Postgres, tmp_path: Path) -> None:
    async with _world(server, tmp_path, mutant=True) as world:
        for at in (1, 2, 3, 4, 1, 2, 3, 4):
            await world.round("mutant", [Fault(at, persisted=False, act=world.a.kill)])
        await world.goes_on()
        found = await check(world.url, world.config.keyring_dir, world.nodes, world.received)
        sys.stdout.write(f"mutant: {found}\n")
        assert found.unlogged > 0
        assert found.late > 0
