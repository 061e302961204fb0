"""Erasure: the entry first, then keys, then rows; a floor; the newest entry tells all; killed anywhere, run again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.provider import Period
from proxy.cli.main import main
from proxy.ledger import retention as retaining
from proxy.ledger.model import PARTS, Entry, Kind, LedgerBroken, LedgerUnavailable, OpenedEntry
from proxy.ledger.retention import (
    TAGS,
    Erased,
    Erasures,
    Planned,
    Policy,
    Report,
    Retention,
    RetentionError,
    entry_of,
    erasures,
    newest,
    newest_month,
)
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger, open_provider
from tests.support.pasts import set_clock
from tests.support.store import ended

NOW = datetime(2026, 2, 20, tzinfo=UTC)
MONTHS = (202308, 202309, 202311, 202402)
FLOOR = 24
POLICY = Policy("personal data", 24, ("actor", "request", TAGS), "yearly run")
"""At NOW it reaches back from January 2024."""


async def _fill(database: Database, owner: asyncpg.Connection) -> None:
    """Two groups of openings in each of MONTHS, four entries in each month."""
    await set_clock(owner, datetime(2023, 8, 1, tzinfo=UTC))
    async with open_ledger(database.config) as ledger:
        for month in MONTHS:
            await set_clock(owner, datetime(month // 100, month % 100, 5, tzinfo=UTC))
            for _ in range(2):
                entry = Entry(Kind.ACCESS_OUTCOME, {"client_id": "a"}, {}, {"rows": 1}, {"runs": [["1", "2"]]})
                await asyncio.gather(*(ledger.append(e) for e in (intent(), entry)))
    await set_clock(owner, NOW)


@asynccontextmanager
async def _retention(database: Database, floor: int = FLOOR) -> AsyncIterator[Retention]:
    provider = open_provider(database.config)
    log = await asyncpg.connect(database.config.role_url(Role.LOG))
    hand = await asyncpg.connect(database.config.role_url(Role.RETENTION))
    try:
        async with open_ledger(database.config) as ledger:
            yield Retention(ledger, log, hand, DataKeys(provider), provider, floor)
    finally:
        await log.close()
        await hand.close()


async def _erase(database: Database, policy: Policy = POLICY, now: datetime = NOW) -> Report:
    async with _retention(database) as retention:
        return await retention.erase(policy, now, "operator-1")


async def _newest(database: Database) -> OpenedEntry | None:
    conn = await asyncpg.connect(database.config.role_url(Role.LOG))
    try:
        return await newest(conn, DataKeys(open_provider(database.config)))
    finally:
        await conn.close()


async def _openings(owner: asyncpg.Connection) -> dict[str, list[int]]:
    """The months of each part of which there are openings, but for the erasures' own."""
    rows = await owner.fetch("SELECT DISTINCT part, month FROM tollgate.log_opening WHERE month < 202602 ORDER BY 1, 2")
    return {part: [r["month"] for r in rows if r["part"] == part] for part in PARTS}


def _destroyed(database: Database) -> set[Period]:
    return set(FileProvider(database.config.keyring_dir).keyring.read().destroyed)


GONE = {Period("log_" + part, month) for part in POLICY.parts for month in MONTHS[:3]}


async def _is_done(database: Database, owner: asyncpg.Connection, erase_entries: int = 1) -> None:
    """What POLICY erases is gone, and nothing else; the log says so; what is left opens."""
    left = await _openings(owner)
    assert left == {"actor": [202402], "request": [202402], "outcome": [*MONTHS], "records": [*MONTHS]}
    rows = await owner.fetch("SELECT key_class, month FROM tollgate.data_key_destroyed")
    assert {Period(r["key_class"], r["month"]) for r in rows} == _destroyed(database) == GONE
    said = erasures(await _newest(database))
    assert {(p.key_class.removeprefix("log_"), p.month) for p in GONE} == {
        (part, month) for part in (*PARTS, TAGS) for month in MONTHS if said.of(part, month)
    }
    async with open_ledger(database.config) as ledger:
        entries = await ledger.read()
    assert len([e for e in entries if e.kind is Kind.LOG_ERASE]) == erase_entries
    for entry in entries[:12]:
        assert (entry.actor, entry.request) == (None, None if entry.kind is Kind.ACCESS_INTENT else {})
        assert entry.outcome == ({"rows": 1} if entry.kind is Kind.ACCESS_OUTCOME else {})
    assert all(None not in (e.actor, e.request, e.outcome, e.records) for e in entries[12:])


@pytest.fixture
async def filled(database: Database, owner: asyncpg.Connection) -> Database:
    await _fill(database, owner)
    return database


@pytest.mark.parametrize("at_once", [1, 2, 2_000])
async def test_it_erases_what_the_policy_says_and_says_so(
    filled: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(retaining, "BATCHES_AT_ONCE", at_once)
    before = await owner.fetch("SELECT idx, header, leaf_hash, tags FROM tollgate.log_entry ORDER BY idx")
    report = await _erase(filled)
    await _is_done(filled, owner)
    assert await owner.fetch(
        "SELECT idx, header, leaf_hash, tags FROM tollgate.log_entry WHERE idx < 16 ORDER BY 1"
    ) == (before)
    assert report.deleted == 12
    said = await _newest(filled)
    assert said is not None
    assert said.entry_id == report.entry_id
    assert said.actor == {"os_user": "operator-1"}
    assert said.request is not None
    assert {k: said.request[k] for k in ("policy", "keep_months", "floor_months", "reason")} == {
        "policy": "personal data",
        "keep_months": 24,
        "floor_months": 24,
        "reason": "yearly run",
    }
    assert said.request["periods"][:3] == [
        {"part": "actor", "month": 202308, "batches": 2, "entries": 4},
        {"part": "request", "month": 202308, "batches": 2, "entries": 4},
        {"part": "tags", "month": 202308, "batches": 0, "entries": 4},
    ]
    assert said.request["erased"][:2] == [
        {"part": "actor", "first": 202308, "last": 202309, "policy": "personal data", "entry": str(said.entry_id)},
        {"part": "actor", "first": 202311, "last": 202311, "policy": "personal data", "entry": str(said.entry_id)},
    ]


async def test_a_second_time_there_is_nothing_to_do(filled: Database, owner: asyncpg.Connection) -> None:
    await _erase(filled)
    assert await _erase(filled) == Report(None, (), (), 0)
    await _is_done(filled, owner)


async def test_what_is_planned_is_what_is_done_and_planning_changes_nothing(
    filled: Database, owner: asyncpg.Connection
) -> None:
    async with _retention(filled) as retention:
        planned = await retention.plan(POLICY, NOW)
    assert not _destroyed(filled)
    assert await _newest(filled) is None
    assert (await _erase(filled)).planned == tuple(planned)


async def test_the_newest_entry_alone_tells_of_all_erasures_also_of_erased_erasures(
    filled: Database, owner: asyncpg.Connection
) -> None:
    first = await _erase(filled)
    await set_clock(owner, later := datetime(2028, 4, 1, tzinfo=UTC))
    second = await _erase(filled, Policy("all", 24, ("request",), "x"), later)
    assert first.entry_id is not None
    assert second.entry_id is not None
    async with open_ledger(filled.config) as ledger:
        old, new = await ledger.read(kinds=[Kind.LOG_ERASE])
    assert (old.entry_id, old.request) == (first.entry_id, None), "the first erasure's own request is erased"
    said = erasures(new)
    assert said.of("actor", 202309) == Erased("actor", 202308, 202309, "personal data", first.entry_id)
    assert said.of("request", 202311) == Erased("request", 202311, 202311, "personal data", first.entry_id)
    assert said.of("request", 202402) == Erased("request", 202402, 202402, "all", second.entry_id)
    assert said.of("request", 202602) == Erased("request", 202602, 202602, "all", second.entry_id)
    assert said.of("outcome", 202308) is None
    assert said.of("actor", 202310) is None, "a month of which there was nothing"


@pytest.mark.parametrize("floor", [24, 0, -5])
async def test_nothing_younger_than_the_floor(filled: Database, owner: asyncpg.Connection, floor: int) -> None:
    least = max(1, floor)
    async with _retention(filled, floor) as retention:
        for act in (retention.plan, lambda p, n: retention.erase(p, n, "operator-1")):
            with pytest.raises(RetentionError, match=f"floor of {least}"):
                await act(Policy("short", least - 1, ("actor",), "x"), NOW)
    assert await _newest(filled) is None
    assert not _destroyed(filled)


async def test_a_clock_that_is_ahead_erases_nothing(filled: Database, owner: asyncpg.Connection) -> None:
    await _erase(filled, now=datetime(2040, 1, 1, tzinfo=UTC))
    await _is_done(filled, owner)


async def test_an_entry_that_is_not_durable_erases_nothing(filled: Database, owner: asyncpg.Connection) -> None:
    before = await _openings(owner)
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    with pytest.raises(LedgerUnavailable):
        await _erase(filled)
    assert await _openings(owner) == before
    assert not _destroyed(filled)
    await owner.execute("GRANT EXECUTE ON FUNCTION tollgate.log_append TO tollgate_log_writer")
    await _erase(filled)
    await _is_done(filled, owner)


async def test_two_at_once(filled: Database, owner: asyncpg.Connection) -> None:
    async with _retention(filled) as one, _retention(filled) as other:
        await other._hand.execute("SELECT pg_advisory_lock(hashtextextended('tollgate.log_erase', 0))")
        with pytest.raises(RetentionError, match="under way"):
            await one.erase(POLICY, NOW, "operator-1")
        assert not _destroyed(filled)
        await other._hand.execute("SELECT pg_advisory_unlock(hashtextextended('tollgate.log_erase', 0))")
        await one.erase(POLICY, NOW, "operator-1")
        await other.erase(POLICY, NOW, "operator-1")
    await _is_done(filled, owner)


async def test_what_was_erased_before_must_be_readable(filled: Database, owner: asyncpg.Connection) -> None:
    await _erase(filled, Policy("first", 29, ("actor",), "x"))
    before = await _openings(owner)
    await owner.execute("DELETE FROM tollgate.log_opening WHERE part = 'request' AND month = 202602")
    with pytest.raises(LedgerBroken, match="what it erased cannot be read"):
        await _erase(filled)
    assert await _openings(owner) == before


# Killed.


async def _child(database: Database, kill_at: int) -> None:
    left = kill_at

    def counted(original: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def act(*args: Any, **more: Any) -> Any:
            nonlocal left
            made = await original(*args, **more)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        return act

    async with _retention(database) as retention:
        for name in ("execute", "fetch", "fetchval", "fetchrow"):
            setattr(asyncpg.Connection, name, counted(getattr(asyncpg.Connection, name)))
        FileProvider.destroy = counted(FileProvider.destroy)  # type: ignore[method-assign]
        await retention.erase(POLICY, NOW, "operator-1")


def _killed(database: Database, kill_at: int) -> None:
    retaining.BATCHES_AT_ONCE = 1
    asyncio.run(_child(database, kill_at))


async def test_killed_after_any_step_and_run_again_it_ends_the_same(
    filled: Database, owner: asyncpg.Connection
) -> None:
    """One database all the way: killed a step later each time, from the first statement to the last."""
    from tests.support.store import _FORKS

    died = 0
    for kill_at in range(1, 60):
        child = _FORKS.Process(target=_killed, args=(filled, kill_at), daemon=True)
        child.start()
        if (code := await ended(child)) == 0:
            break
        assert code == -signal.SIGKILL
        died += 1
        # Whatever is gone by now, an entry says so.
        said = erasures(await _newest(filled))
        openings = await _openings(owner)
        missing = {(p, m) for p in PARTS for m in MONTHS if m not in openings[p]}
        gone = {(p.key_class.removeprefix("log_"), p.month) for p in _destroyed(filled)}
        assert all(said.of(part, month) for part, month in missing | gone)
        assert missing <= gone, "rows went before their key"
    assert died >= 8, "it was not killed in the middle"
    await _erase(filled)
    await _is_done(filled, owner)


@pytest.mark.parametrize("at", ["log_erase_key", "log_erase_openings"])
async def test_a_database_that_fails_in_the_middle(filled: Database, owner: asyncpg.Connection, at: str) -> None:
    signature = "uuid, text, int" + (", int" if at == "log_erase_openings" else "")
    await owner.execute(f"REVOKE EXECUTE ON FUNCTION tollgate.{at}({signature}) FROM tollgate_retention")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _erase(filled)
    await owner.execute(f"GRANT EXECUTE ON FUNCTION tollgate.{at}({signature}) TO tollgate_retention")
    report = await _erase(filled)
    assert report.entry_id is None, "the entry that stands is enough"
    assert len(report.finished) == 9
    await _is_done(filled, owner)


async def test_a_keyring_that_was_put_back_is_shredded_again(filled: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(filled.config) as ledger:
        await ledger.append(Entry(Kind.SUMMARY, {"x": 1}, {"x": 1}, {"x": 1}, {"x": 1}))  # makes this month's keys
    ring = filled.config.keyring_dir / "keyring.json"
    old = ring.read_bytes()
    await _erase(filled)
    ring.write_bytes(old)
    assert not _destroyed(filled)
    report = await _erase(filled)
    assert report.entry_id is None
    assert len(report.finished) == 9
    await _is_done(filled, owner)


# What PostgreSQL lets role RETENTION do.


async def test_the_role_erases_nothing_without_entry_key_and_past(filled: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(filled.config) as ledger:
        other = await ledger.append(intent())
        entry = await ledger.append(Entry(Kind.LOG_ERASE, {"os_user": "eve"}, {"erased": []}))
    order = "INSERT INTO tollgate.log_erase_order (entry_id, part, month) VALUES ($1, $2, $3)"
    log = await asyncpg.connect(filled.config.role_url(Role.LOG))
    key, rows = "SELECT tollgate.log_erase_key($1, $2, $3)", "SELECT tollgate.log_erase_openings($1, $2, $3, 10)"
    hand = await asyncpg.connect(filled.config.role_url(Role.RETENTION))
    month = datetime.now(UTC).year * 100 + datetime.now(UTC).month
    try:
        for statement in (key, rows):
            for arguments in (
                (uuid4(), "actor", 202308),
                (other.entry_id, "actor", 202308),
                (entry.entry_id, "actor", 202308),
                (entry.entry_id, "actor", month),
                (entry.entry_id, "actor", None),
                (entry.entry_id, "timing", 202308),
                (entry.entry_id, None, 202308),
                (None, "actor", 202308),
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await hand.fetchval(statement, *arguments)
        for entry_id, when in ((entry.entry_id, month), (other.entry_id, 202308), (uuid4(), 202308)):
            ordered = (entry_id, "actor", when)
            await log.execute(order, *ordered)
            for statement in (key, rows):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await hand.fetchval(statement, *ordered)
        await log.execute(order, entry.entry_id, "actor", 202308)
        for another in (("actor", 202309), ("request", 202308)):
            for statement in (key, rows):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the log did not order"):
                    await hand.fetchval(statement, entry.entry_id, *another)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not on record as destroyed"):
            await hand.fetchval(rows, entry.entry_id, "actor", 202308)
        await hand.fetchval(key, entry.entry_id, "actor", 202308)
        assert await hand.fetchval(rows, entry.entry_id, "actor", 202308) == 2
        for statement in (
            "SELECT 1 FROM tollgate.log_opening",
            "DELETE FROM tollgate.log_opening",
            "INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('timing', 202308)",
            "SELECT tollgate.log_erase_check(NULL, 'actor', 202308)",
            "SELECT 1 FROM tollgate.log_erase_order",
            f"INSERT INTO tollgate.log_erase_order VALUES ('{entry.entry_id}', 'request', 202308)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await hand.execute(statement)
    finally:
        await hand.close()
        await log.close()


async def test_an_erased_erasure_s_id_erases_nothing_more(filled: Database, owner: asyncpg.Connection) -> None:
    """The id of an erasure that was done is known to whoever did it; it is good for what it ordered, and no more."""
    report = await _erase(filled)
    hand = await asyncpg.connect(filled.config.role_url(Role.RETENTION))
    try:
        for part, month in (("records", 202308), ("actor", 202402)):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the log did not order"):
                await hand.fetchval("SELECT tollgate.log_erase_key($1, $2, $3)", report.entry_id, part, month)
    finally:
        await hand.close()
    await _is_done(filled, owner)


@pytest.mark.parametrize("role", [r for r in Role if r is not Role.RETENTION])
async def test_no_other_role_erases(database: Database, role: Role) -> None:
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        for call in ("log_erase_key(NULL, 'actor', 202308)", "log_erase_openings(NULL, 'actor', 202308, 1)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                await conn.execute(f"SELECT tollgate.{call}")
    finally:
        await conn.close()


# The pure parts.


@pytest.mark.parametrize(
    ("now", "keep", "expected"),
    [
        (datetime(2026, 2, 1, tzinfo=UTC), 24, 202401),
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), 24, 202312),
        (datetime(2026, 3, 31, tzinfo=UTC), 1, 202601),
        (datetime(2026, 1, 1, tzinfo=UTC), 1, 202511),
        (datetime(2026, 1, 1, tzinfo=UTC), 12, 202412),
    ],
)
def test_a_month_is_kept_for_whole_months(now: datetime, keep: int, expected: int) -> None:
    assert newest_month(now, keep) == expected


@pytest.mark.parametrize(
    "wrong",
    [Policy("x", 24, ("timing",), ""), Policy("x", 24, (), ""), Policy("", 24, ("actor",), "")],
)
def test_a_policy_that_says_nothing(wrong: Policy) -> None:
    with pytest.raises(RetentionError):
        wrong.check(24)


def test_months_that_follow_each_other_are_one_span() -> None:
    planned = [Planned("actor", month, 1, 1) for month in (202311, 202312, 202401, 202403)]
    entry = entry_of(POLICY, 24, planned, Erasures(), "operator-1")
    assert [(s["first"], s["last"]) for s in entry.request["erased"]] == [(202311, 202401), (202403, 202403)]  # type: ignore[union-attr,index,call-overload]


# The command.


async def _tollgate(database: Database, *arguments: str, say: str = "") -> Result:
    environment = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200", "TERM": "dumb"}
    words = ["--home", str(database.config.home), "log", "erase", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, words, env=environment, catch_exceptions=False, input=say)


ARGUMENTS = (
    "--policy",
    "personal data",
    "--reason",
    "x",
    "--keep-months",
    "24",
    "--part",
    "actor",
    "--part",
    "request",
)


async def test_the_command(filled: Database, owner: asyncpg.Connection) -> None:
    before = await _openings(owner)
    result = await _tollgate(filled, *ARGUMENTS, "--dry-run", "--json")
    assert [p["month"] for p in json.loads(result.stdout)["planned"]] == [m for m in MONTHS[:3] for _ in range(2)]
    for refused in ((*ARGUMENTS, "--dry-run"), ARGUMENTS):
        result = await _tollgate(filled, *refused, say="n\n")
        assert "202311" in result.stdout
        assert await _openings(owner) == before
    result = await _tollgate(filled, *ARGUMENTS, "--yes")
    assert result.exit_code == 0, result.output
    assert "12 groups" in result.stderr
    assert "backup" in result.stderr
    assert (await _openings(owner))["actor"] == [202402]
    assert "nothing to erase" in (await _tollgate(filled, *ARGUMENTS, "--yes")).stderr
    short = await _tollgate(filled, "--policy", "x", "--reason", "x", "--keep-months", "23", "--part", "actor", "--yes")
    assert short.exit_code == 1
    assert "floor of 24" in short.stderr
