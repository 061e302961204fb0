"""Appending and reading back, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.provider import Period
from keys.sealing import open_sealed, seal
from proxy.ledger import encoding
from proxy.ledger.model import Entry, EntryError, Kind, LedgerBroken, LedgerError, LedgerUnavailable, Tag, number_tags
from proxy.ledger.service import Ledger
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger, open_provider, standing, until


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with open_ledger(database.config) as log:
        yield log


async def test_an_entry_comes_back_as_it_was_written(ledger: Ledger, owner: asyncpg.Connection) -> None:
    access = uuid4()
    entry = Entry(
        Kind.ACCESS_OUTCOME,
        actor={"client_id": "example-carrier-a"},
        request={"number": "+12025550123"},
        outcome={"rows": 3, "ids": [[1, 2], [7, 9]], "big": 2**60},
        records={"runs": [["1", "3"]]},
        access_id=access,
    )
    placed = await ledger.append(entry)
    (read,) = await ledger.read()
    assert (read.index, read.entry_id, read.at, read.kind) == (0, entry.entry_id, placed.at, Kind.ACCESS_OUTCOME)
    assert read.actor == entry.actor
    assert read.request == entry.request
    assert read.outcome == {"rows": 3, "ids": [[1, 2], [7, 9]], "big": str(2**60)}
    assert read.records == {"runs": [["1", "3"]]}
    assert read.access_id == access
    assert await standing(owner) == [entry.entry_id]


async def test_the_stored_form_is_the_published_one(ledger: Ledger, owner: asyncpg.Connection) -> None:
    placed = await ledger.append(intent())
    row = await owner.fetchrow("SELECT * FROM tollgate.log_entry")
    header = json.loads(row["header"])
    assert encoding.canonical(header).encode() == row["header"]
    assert header["id"] == str(row["entry_id"])
    assert header["kind"] == "access.intent"
    assert set(header["parts"]) == {"actor", "request"}
    assert row["leaf_hash"] == encoding.leaf_hash(row["header"])
    assert (row["idx"], row["at"]) == (placed.index, placed.at)
    assert header["tags"] == encoding.commitment(row["tags"])


async def test_nothing_that_was_said_stands_in_clear(ledger: Ledger, owner: asyncpg.Connection) -> None:
    await ledger.append(
        Entry(
            Kind.ACCESS_DENIED,
            actor={"client_id": "example-carrier-a"},
            request={"number": "+12025550123"},
            outcome={"reason": "no-agreement"},
            records={"record": "record-4711"},
            tags=(*number_tags("+12025550123"), Tag("client", b"example-carrier-a")),
        )
    )
    for table in ("log_entry", "log_opening", "log_tag"):
        for row in await owner.fetch(
            f"SELECT t::text AS text, encode(convert_to(t::text, 'UTF8'), 'hex') FROM tollgate.{table} t"
        ):
            for secret in ("2025550123", "example-carrier-a", "no-agreement", "record-4711"):
                assert secret not in row["text"]
                assert secret.encode().hex() not in row["text"]


async def test_two_gateways_make_one_contiguous_log(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as one, open_ledger(database.config) as two:
        placed = await asyncio.gather(*(log.append(intent()) for _ in range(500) for log in (one, two)))
    assert sorted(p.index for p in placed) == list(range(1000))
    ids = await standing(owner)
    assert [p.entry_id for p in sorted(placed, key=lambda p: p.index)] == ids


async def test_waiting_entries_share_a_transaction(ledger: Ledger, owner: asyncpg.Connection) -> None:
    await asyncio.gather(*(ledger.append(intent()) for _ in range(100)))
    assert await owner.fetchval("SELECT count(DISTINCT xmin::text) FROM tollgate.log_entry") < 10
    assert len(await standing(owner)) == 100


@pytest.mark.parametrize(("connections", "lanes"), [(4, 2), (3, 1)])
async def test_what_waits_is_shared_by_two_lanes_where_there_are_connections(
    database: Database, owner: asyncpg.Connection, connections: int, lanes: int
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tollgate_log' AND datname = current_database()"
    waiting += " AND wait_event_type = 'Lock'"
    async with asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=0, max_size=connections) as pool:
        ledger = Ledger(pool, DataKeys(open_provider(database.config)))
        await ledger.start()
        await ledger.append(intent())
        entries = [intent() for _ in range(64)]
        async with owner.transaction():
            await owner.fetchval("SELECT size FROM tollgate.log_head FOR UPDATE")
            appends = asyncio.gather(*map(ledger.append, entries))
            await until(lambda: owner.fetchval(f"SELECT ({waiting}) = {lanes}"))
            await asyncio.sleep(0.1)
            assert await owner.fetchval(waiting) == lanes
        placed = await appends
        await ledger.close()
    ids = await standing(owner)
    assert [ids[p.index] for p in placed] == [e.entry_id for e in entries]


async def test_every_commit_is_synchronous_whatever_the_session_says(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    # What holds at the very end of the transaction: a deferred trigger runs in COMMIT.
    await owner.execute("""
        CREATE TABLE public.seen (setting text);
        GRANT INSERT ON public.seen TO PUBLIC;
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON tollgate.log_head DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION public.see();
    """)
    for lane in ledger._writer.lanes:
        await (await lane.connection()).execute("SET synchronous_commit = off")
    await asyncio.gather(*(ledger.append(intent()) for _ in range(50)))
    seen = [row["setting"] for row in await owner.fetch("SELECT setting FROM public.seen")]
    assert len(seen) >= 2
    assert set(seen) == {"on"}


async def test_the_same_entry_again_is_not_written_again(ledger: Ledger, owner: asyncpg.Connection) -> None:
    entry, other = intent(), intent()
    first = await ledger.append(entry)
    again, new = await asyncio.gather(ledger.append(entry), ledger.append(other))
    twice = await asyncio.gather(ledger.append(other), ledger.append(other))
    assert again == first
    assert twice == [new, new]
    assert await standing(owner) == [entry.entry_id, other.entry_id]


async def test_a_cancelled_waiter_leaves_its_entry_and_the_others(ledger: Ledger, owner: asyncpg.Connection) -> None:
    entries = [intent() for _ in range(20)]
    tasks = [asyncio.create_task(ledger.append(e)) for e in entries]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(d, asyncio.CancelledError) for d in done[::2])
    assert sorted(d.index for d in done[1::2]) == sorted(
        i for i, e in enumerate(await standing(owner)) if e in {x.entry_id for x in entries[1::2]}
    )
    await ledger.close()
    assert set(await standing(owner)) == {e.entry_id for e in entries}


async def test_a_long_queue_refuses_more(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config, queue_max=10, queue_bytes=130_000) as ledger:
        done = await asyncio.gather(*(ledger.append(intent()) for _ in range(50)), return_exceptions=True)
        refused = [d for d in done if isinstance(d, LedgerUnavailable)]
        assert len(refused) == 40
        assert not any(error.unknown for error in refused)
        big = [intent(filler="x" * 60_000) for _ in range(3)]
        done = await asyncio.gather(*(ledger.append(e) for e in big), return_exceptions=True)
        assert [isinstance(d, LedgerUnavailable) for d in done] == [False, False, True]
    assert len(await standing(owner)) == 12


async def test_a_large_outcome_is_kept_and_a_larger_one_refused(ledger: Ledger, owner: asyncpg.Connection) -> None:
    ranges = [[i * 100, i * 100 + 50] for i in range(50_000)]
    placed = await ledger.append(Entry(Kind.ACCESS_OUTCOME, outcome={"records": ranges}))
    assert (await ledger.read())[0].outcome == {"records": ranges}
    with pytest.raises(EntryError, match="outcome takes"):
        await ledger.append(Entry(Kind.ACCESS_OUTCOME, outcome={"records": ranges * 2}))
    assert (await ledger.append(intent())).index == placed.index + 1
    assert len(await standing(owner)) == 2


async def test_closed_or_not_started_it_takes_nothing(database: Database) -> None:
    async with open_ledger(database.config) as ledger:
        await ledger.close()
        with pytest.raises(LedgerUnavailable):
            await ledger.append(intent())


async def test_in_the_callers_transaction_it_comes_and_goes_with_it(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    writer = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
    try:
        transaction = writer.transaction()
        await transaction.start()
        await ledger.append_in(writer, [Entry(Kind.REGISTRY_CHANGE, request={"change": "undone"})])
        await transaction.rollback()
        async with writer.transaction():
            await writer.execute("SET LOCAL synchronous_commit = off")
            first = await ledger.append_in(writer, [Entry(Kind.REGISTRY_CHANGE, request={"n": n}) for n in range(600)])
            second = await ledger.append_in(writer, [Entry(Kind.REGISTRY_CHANGE)])
            assert await writer.fetchval("SHOW synchronous_commit") == "on"
        with pytest.raises(LedgerError, match="transaction"):
            await ledger.append_in(writer, [intent()])
    finally:
        await writer.close()
    assert [p.index for p in first + second] == list(range(601))
    assert (await ledger.append(intent())).index == 601
    assert [e.request for e in await ledger.read(limit=600)] == [{"n": n} for n in range(600)]
    assert len(await standing(owner)) == 602


async def test_others_wait_while_a_callers_transaction_holds_the_head(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    writer = await asyncpg.connect(database.config.role_url(Role.INGEST))
    try:
        async with writer.transaction():
            (mine,) = await ledger.append_in(writer, [Entry(Kind.STORE_INGEST)])
            other = asyncio.create_task(ledger.append(intent()))
            done, _ = await asyncio.wait([other], timeout=0.2)
            assert not done
        assert ((await other).index, mine.index) == (1, 0)
    finally:
        await writer.close()
    assert len(await standing(owner)) == 2


async def test_time_never_runs_backwards(ledger: Ledger, owner: asyncpg.Connection) -> None:
    ahead = datetime.now(UTC) + timedelta(days=40)
    await owner.execute("UPDATE tollgate.log_head SET at = $1", ahead)  # as if the clock had been ahead, and went back
    one = await ledger.append(intent())
    two = await ledger.append(intent())
    assert one.at == two.at == ahead
    assert [e.at for e in await ledger.read()] == [ahead, ahead]


async def test_a_new_month_gets_its_own_keys(ledger: Ledger, owner: asyncpg.Connection) -> None:
    await ledger.append(intent())
    ahead = datetime(2099, 12, 31, 23, 59, 59, 999999, UTC)
    await owner.execute("UPDATE tollgate.log_head SET at = $1", ahead)
    await ledger.append(intent())
    await owner.execute("UPDATE tollgate.log_head SET at = $1", ahead + timedelta(microseconds=1))
    await ledger.append(intent())
    now, december, january = await ledger.read()
    assert (december.at.month, january.at.month) == (12, 1)
    assert now.request == december.request == january.request
    months = await owner.fetch("SELECT DISTINCT month FROM tollgate.log_opening ORDER BY month DESC LIMIT 2")
    assert [m["month"] for m in months] == [210001, 209912]


async def test_an_access_is_its_own_clients_alone(ledger: Ledger) -> None:
    mine, denied = uuid4(), uuid4()
    await ledger.append(intent("example-carrier-a", mine))
    assert (await ledger.access(mine, "example-carrier-a") or {})["outcome"] is None
    for kind, rows in ((Kind.ACCESS_PROGRESS, 10), (Kind.ACCESS_OUTCOME, 20)):
        await ledger.append(Entry(kind, {"client_id": "example-carrier-a"}, {}, {"rows": rows}, access_id=mine))
    await ledger.append(
        Entry(Kind.ACCESS_DENIED, {"client_id": "example-carrier-b"}, {"reason": "x"}, access_id=denied)
    )
    found = await ledger.access(mine, "example-carrier-a")
    assert found is not None
    assert found["intent"]["request"]["purpose"] == "billing"
    assert [p["outcome"] for p in found["progress"]] == [{"rows": 10}]
    assert found["outcome"]["outcome"] == {"rows": 20}
    assert found["denied"] is None
    assert await ledger.access(mine, "example-carrier-b") is None
    assert await ledger.access(uuid4(), "example-carrier-a") is None
    assert (await ledger.access(denied, "example-carrier-b") or {})["denied"]["request"] == {"reason": "x"}


async def test_an_access_of_two_parties_is_shown_to_neither(ledger: Ledger) -> None:
    access = uuid4()
    await ledger.append(intent("example-carrier-a", access))
    await ledger.append(intent("example-carrier-b", access))
    assert await ledger.access(access, "example-carrier-a") is None


async def test_entries_are_found_by_tag_and_month(ledger: Ledger, owner: asyncpg.Connection) -> None:
    number = "+12025550123"
    for n in range(6):
        tags = number_tags(number if n % 2 else "+12025550124")
        await ledger.append(Entry(Kind.ACCESS_INTENT, request={"n": n}, tags=tags))
        if n == 3:
            await owner.execute("UPDATE tollgate.log_head SET at = '2099-05-05T00:00:00Z'")
    early, late = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    found = await ledger.find(number_tags(number)[0], first=early, last=late)
    assert [e.request for e in found] == [{"n": 1}, {"n": 3}, {"n": 5}]
    assert [e.index for e in await ledger.find(number_tags(number)[0], first=early, last=late, after=1, limit=1)] == [3]
    block = await ledger.find(Tag("thousands_block", b"+12025550"), first=early, last=late)
    assert len(block) == 6
    later = await ledger.find(number_tags(number)[0], first=datetime(2099, 1, 1, tzinfo=UTC), last=late)
    assert [e.index for e in later] == [5]
    assert await ledger.find(Tag("exchange", number.encode()), first=early, last=late) == []
    until = found[1].at  # half-open
    assert [e.index for e in await ledger.find(number_tags(number)[0], first=early, last=until)] == [1]
    assert [e.index for e in await ledger.find(number_tags(number)[0], first=until, last=late)] == [3, 5]


async def test_entries_of_one_group_are_found_page_by_page(ledger: Ledger, owner: asyncpg.Connection) -> None:
    tag = Tag("case", b"A-1")
    tagged = [Entry(Kind.ACCESS_INTENT, request={"n": n}, tags=(tag,) if n % 3 else ()) for n in range(600)]
    await asyncio.gather(*map(ledger.append, tagged))
    groups = await owner.fetchval("SELECT count(DISTINCT batch_id) FROM tollgate.log_entry")
    assert await owner.fetchval("SELECT count(*) FROM tollgate.log_tag") == groups < 20
    early, late = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    found: list[int] = []
    while page := await ledger.find(tag, first=early, last=late, after=found[-1] if found else -1, limit=7):
        found += [e.index for e in page]
    assert found == [e.index for e in await ledger.read(limit=600) if e.request["n"] % 3]  # type: ignore[index]


async def test_a_halted_log_takes_nothing_more(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as ledger:
        first = intent()
        await ledger.append(first)
        assert ledger.halted is None
        writer = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
        async with owner.transaction():
            await owner.fetchval("SELECT size FROM tollgate.log_head FOR UPDATE")
            waiting = [asyncio.create_task(ledger.append(intent())) for _ in range(3)]
            await asyncio.sleep(0.1)
            ledger.halt("shorter than its anchor")
            ledger.halt("another reason")
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(d, LedgerUnavailable) for d in done)
        assert ledger.halted == "shorter than its anchor"
        with pytest.raises(LedgerUnavailable, match="halted: shorter than its anchor"):
            await ledger.append(intent())
        with pytest.raises(LedgerUnavailable, match="halted"):
            async with writer.transaction():
                await ledger.append_in(writer, [Entry(Kind.REGISTRY_CHANGE)])
        await writer.close()
        assert [e.entry_id for e in await ledger.read(limit=1)] == [first.entry_id], "it can still be looked at"


async def _set_back(owner: asyncpg.Connection, size: int) -> None:
    """As after a restore of an older backup."""
    await owner.execute("DELETE FROM tollgate.log_entry WHERE idx >= $1", size)
    await owner.execute("DELETE FROM tollgate.log_tag WHERE first >= $1", size)
    await owner.execute("UPDATE tollgate.log_head SET size = $1", size)


async def test_a_log_that_has_become_shorter_halts(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as ledger:
        for _ in range(3):
            await ledger.append(intent())
        await _set_back(owner, 2)
        with pytest.raises(LedgerUnavailable, match="recover"):
            await ledger.append(intent())
        await owner.execute("UPDATE tollgate.log_head SET size = 3")
        with pytest.raises(LedgerUnavailable, match="halted: the log has 2 entries, and 3 were acknowledged"):
            await ledger.append(intent())
        await owner.execute("UPDATE tollgate.log_head SET size = 2")
    assert len(await standing(owner)) == 2


async def test_a_log_that_has_become_shorter_halts_in_the_callers_transaction_too(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    for _ in range(3):
        await ledger.append(intent())
    await _set_back(owner, 2)
    writer = await asyncpg.connect(database.config.role_url(Role.OPERATOR))
    with pytest.raises(LedgerUnavailable, match="halted: the log has 2 entries, and 3 were acknowledged"):
        async with writer.transaction():
            await ledger.append_in(writer, [Entry(Kind.REGISTRY_CHANGE)])
    await writer.close()
    assert ledger.halted is not None
    assert len(await standing(owner)) == 2


async def test_reading_by_kind_and_from_the_end(ledger: Ledger) -> None:
    for kind in (Kind.LOG_READ, Kind.SUMMARY, Kind.LOG_READ, Kind.SUMMARY):
        await ledger.append(Entry(kind))
    assert [e.index for e in await ledger.read(after=0, limit=2)] == [1, 2]
    assert [e.index for e in await ledger.read(kinds=[Kind.SUMMARY])] == [1, 3]
    assert [e.index for e in await ledger.read_last(limit=2)] == [2, 3]
    assert [e.index for e in await ledger.read_last(limit=9, kinds=[Kind.LOG_READ])] == [0, 2]
    assert await ledger.size() == 4
    with pytest.raises(ValueError, match="limit"):
        await ledger.read(limit=10**9)


async def test_an_erased_part_leaves_the_rest_and_the_proof(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await asyncio.gather(*(ledger.append(intent()) for _ in range(5)))
    before = await owner.fetch("SELECT idx, header, leaf_hash FROM tollgate.log_entry ORDER BY idx")
    await owner.execute("DELETE FROM tollgate.log_opening WHERE part = 'actor'")
    month = await owner.fetchval("SELECT max(month) FROM tollgate.log_opening")
    provider = open_provider(database.config)
    await provider.destroy(Period("log_request", month))
    async with open_ledger(database.config) as fresh:
        entries = await fresh.read()
    assert [(e.actor, e.request, e.outcome, e.records) for e in entries] == [(None, None, {}, {})] * 5
    assert await owner.fetch("SELECT idx, header, leaf_hash FROM tollgate.log_entry ORDER BY idx") == before


async def test_entries_of_a_group_need_not_have_the_same_parts(ledger: Ledger, owner: asyncpg.Connection) -> None:
    entries = [
        Entry(Kind.LOG_READ),
        Entry(Kind.LOG_READ, {"n": 1}),
        Entry(Kind.LOG_READ, {"n": 2}, records={"places": [1, 2]}),
        Entry(Kind.LOG_READ, records={"places": [3]}),
    ]
    await asyncio.gather(*map(ledger.append, entries))
    assert await owner.fetchval("SELECT count(DISTINCT batch_id) FROM tollgate.log_entry") == 1
    parts = await owner.fetch("SELECT part FROM tollgate.log_opening ORDER BY part")
    assert [row["part"] for row in parts] == ["actor", "records"]
    read = await ledger.read()
    assert [(e.actor, e.request, e.outcome, e.records) for e in read] == [
        ({}, {}, {}, {}),
        ({"n": 1}, {}, {}, {}),
        ({"n": 2}, {}, {}, {"places": [1, 2]}),
        ({}, {}, {}, {"places": [3]}),
    ]


async def test_a_part_slipped_in_or_emptied_is_broken_not_erased(
    database: Database, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """Whoever has the keys can seal other openings; the header tells."""
    await asyncio.gather(*(ledger.append(Entry(Kind.LOG_READ, actor)) for actor in ({"n": 1}, {"n": 2}, {})))
    row = await owner.fetchrow("SELECT month, batch_id, sealed FROM tollgate.log_opening WHERE part = 'actor'")
    period = Period("log_actor", row["month"])
    key = (await DataKeys(open_provider(database.config)).load(owner, [period]))[period]
    aad = encoding.sealing_aad("actor", row["month"], row["batch_id"])
    chunks = open_sealed(key, bytes(row["sealed"]), aad)
    assert chunks[2] == b""
    for index, other in ((1, b""), (2, chunks[0])):
        edited = [*chunks[:index], other, *chunks[index + 1 :]]
        await owner.execute("UPDATE tollgate.log_opening SET sealed = $1", seal(key, edited, aad))
        with pytest.raises(LedgerBroken, match="commit") as caught:
            await ledger.read()
        assert caught.value.index == index


async def test_every_month_stays_readable_by_another_process(database: Database, ledger: Ledger) -> None:
    await ledger.append(intent(note="kept"))
    async with open_ledger(database.config) as fresh:
        assert (await fresh.read())[0].request["note"] == "kept"  # type: ignore[index]


_OPENING = "UPDATE tollgate.log_opening o SET sealed = {} FROM tollgate.log_entry e, tollgate.log_entry f,"
_OPENING += " tollgate.log_opening s WHERE e.idx = 1 AND f.idx = 0 AND o.batch_id = e.batch_id AND "
_ENTRY = "UPDATE tollgate.log_entry SET {} WHERE idx = 1"
EDITS = {
    "leaf": _ENTRY.format("leaf_hash = set_byte(leaf_hash, 5, get_byte(leaf_hash, 5) # 1)"),
    "header": _ENTRY.format("header = set_byte(header, 90, get_byte(header, 90) # 1)"),
    "kind": _ENTRY.format("kind = 'log.read'"),
    "time": _ENTRY.format("at = at + interval '1 us'"),
    "access": _ENTRY.format("access_id = gen_random_uuid()"),
    "id": _ENTRY.format("entry_id = gen_random_uuid()"),
    "tags dropped": _ENTRY.format("tags = ''"),
    "opening": _OPENING.format("set_byte(o.sealed, 60, get_byte(o.sealed, 60) # 1)")
    + "s.batch_id = e.batch_id AND s.part = o.part AND o.part = 'request'",
    "openings swapped": _OPENING.format("s.sealed")
    + "s.batch_id = f.batch_id AND s.part = 'actor' AND o.part = 'actor'",
    "parts swapped": _OPENING.format("s.sealed")
    + "s.batch_id = e.batch_id AND s.part = 'request' AND o.part = 'actor'",
}


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edited_entry_is_not_shown(ledger: Ledger, owner: asyncpg.Connection, edit: str) -> None:
    for n in range(3):
        await ledger.append(intent(n=n))
    assert await owner.execute(EDITS[edit]) == "UPDATE 1"
    with pytest.raises(LedgerBroken) as caught:
        await ledger.read()
    assert caught.value.index == 1
    assert len(await ledger.read(limit=1)) == 1


async def test_a_key_made_for_a_month_is_durable_before_it_seals(database: Database, owner: asyncpg.Connection) -> None:
    """The caller's rollback must not take the month's keys along."""
    async with open_ledger(database.config) as ledger:
        writer = await asyncpg.connect(database.config.role_url(Role.INGEST))
        transaction = writer.transaction()
        await transaction.start()
        await ledger.append_in(writer, [Entry(Kind.STORE_ROLL)])
        await transaction.rollback()
        await writer.close()
        await ledger.append(intent(note="after"))
    conn = await asyncpg.connect(database.config.role_url(Role.LOG))
    month = await owner.fetchval("SELECT month FROM tollgate.log_opening LIMIT 1")
    keys = DataKeys(open_provider(database.config))
    assert len(await keys.load(conn, [Period("log_actor", month), Period("log_tags", month)])) == 2
    await conn.close()
