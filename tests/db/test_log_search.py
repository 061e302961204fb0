"""Searching the log: everything asked for must hold, nothing is shown unlogged, what cannot be seen is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.datakeys import DataKeys
from keys.provider import Period
from proxy.cli.main import main
from proxy.ledger import search as searching
from proxy.ledger.model import Entry, EntryError, Kind, Tag, new_id, number_tags
from proxy.ledger.search import Query, Search, Seen
from proxy.ledger.service import Ledger
from proxy.ledger.tagged import pages
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import open_ledger, open_provider
from tests.support.pasts import set_clock

NUMBER = "+12025550123"
ACCESS = new_id()
AUGUST, SEPTEMBER, OCTOBER = (datetime(2025, month, 10, tzinfo=UTC) for month in (8, 9, 10))


def _asked(client: str, number: str | None, decision: str, **more: Any) -> Entry:
    tags = (Tag("client", client.encode()), Tag("address", b"192.0.2.7"))
    request = {"purpose": "billing", "decision": decision} | ({"number": number} if number else {})
    kind = Kind.ACCESS_INTENT if decision == "permit" else Kind.ACCESS_DENIED
    return Entry(kind, {"client_id": client}, request, tags=tags + (number_tags(number) if number else ()), **more)


async def _fill(ledger: Ledger, owner: asyncpg.Connection) -> None:
    """Three months; indexes 0 to 9. The log has been opened in August."""
    await ledger.append(_asked("a", NUMBER, "permit", access_id=ACCESS))  # 0
    await ledger.append(_asked("a", "+12025550199", "permit"))  # 1
    await ledger.append(_asked("b", NUMBER, "deny"))  # 2
    await ledger.append(Entry(Kind.ACCESS_OUTCOME, {"client_id": "a"}, {}, {"rows": 5}, access_id=ACCESS))  # 3
    await set_clock(owner, SEPTEMBER)
    await ledger.append(_asked("a", None, "permit"))  # 4
    await ledger.append(_asked("b", "+12025551100", "permit"))  # 5
    await ledger.append(Entry(Kind.REGISTRY_CHANGE, {"os_user": "eve"}, tags=(Tag("staff", b"eve"),)))  # 6
    await set_clock(owner, OCTOBER)
    await ledger.append(_asked("a", NUMBER, "deny"))  # 7
    await ledger.append(Entry(Kind.SUMMARY, outcome={"refusals": {"x": 1}}))  # 8
    await ledger.append(Entry(Kind.TOKEN_ISSUED, {"client_id": "a"}, {"purpose": "legal"}, tags=(Tag("case", b"c-1"),)))


@pytest.fixture
async def search(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Search]:
    await set_clock(owner, AUGUST)
    async with open_ledger(database.config) as ledger:
        await _fill(ledger, owner)
    async with asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=0, max_size=2) as pool:
        yield Search(pool, DataKeys(open_provider(database.config)))


async def _found(search: Search, seen: Seen | None = None, **asked: Any) -> list[int]:
    async with contextlib.aclosing(search.run(Query(**asked), seen)) as entries:
        return [entry.index async for entry in entries]


def _tags(**asked: str) -> tuple[Tag, ...]:
    return tuple(Tag(domain, value.encode()) for domain, value in asked.items())


CASES: tuple[tuple[dict[str, Any], list[int]], ...] = (
    ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ({"tags": _tags(number=NUMBER)}, [0, 2, 7]),
    ({"tags": _tags(thousands_block="+12025550")}, [0, 1, 2, 7]),
    ({"tags": _tags(exchange="+1202555")}, [0, 1, 2, 5, 7]),
    ({"tags": _tags(client="a")}, [0, 1, 4, 7]),
    ({"tags": _tags(client="a", number=NUMBER)}, [0, 7]),
    ({"tags": _tags(client="b", number="+12025550199")}, []),
    ({"tags": _tags(client="a", number=NUMBER), "decision": "deny"}, [7]),
    ({"tags": _tags(staff="a")}, []),
    ({"tags": _tags(case="c-1")}, [9]),
    ({"tags": _tags(address="192.0.2.7"), "kinds": (Kind.ACCESS_DENIED,)}, [2, 7]),
    ({"purpose": "legal"}, [9]),
    ({"purpose": "billing", "decision": "deny"}, [2, 7]),
    ({"kinds": (Kind.SUMMARY, Kind.REGISTRY_CHANGE)}, [6, 8]),
    ({"access_id": ACCESS}, [0, 3]),
    ({"access_id": ACCESS, "tags": _tags(client="a")}, [0]),
    ({"access_id": ACCESS, "after": 0}, [3]),
    ({"access_id": new_id()}, []),
    ({"first": SEPTEMBER}, [4, 5, 6, 7, 8, 9]),
    ({"last": SEPTEMBER}, [0, 1, 2, 3]),
    ({"tags": _tags(number=NUMBER), "first": AUGUST, "last": OCTOBER}, [0, 2]),
    ({"tags": _tags(number=NUMBER), "first": OCTOBER}, [7]),
    ({"tags": _tags(number=NUMBER), "last": AUGUST}, []),
    ({"tags": _tags(client="a"), "after": 1}, [4, 7]),
    ({"first": datetime(2031, 1, 1, tzinfo=UTC)}, []),
)


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_all_that_is_asked_for_holds(search: Search, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(searching, "PAGE", page)
    for asked, expected in CASES:
        assert await _found(search, **asked) == expected, asked


async def test_it_says_where_to_go_on_and_misses_nothing(search: Search) -> None:
    for asked, expected in CASES:
        found: list[int] = []
        after = -1
        while True:
            seen = Seen()
            found += await _found(search, seen, **{**asked, "limit": 2, "after": max(after, asked.get("after", -1))})
            if seen.next_after is None:
                break
            after = seen.next_after
        assert found == expected, asked


async def test_it_stops_after_so_many_and_says_where(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "PAGE", 2)
    monkeypatch.setattr(searching, "SCAN_MAX", 4)
    seen = Seen()
    assert await _found(search, seen, purpose="legal") == []
    assert (seen.looked_at, seen.next_after) == (4, 3)


async def test_a_month_without_its_tag_key_is_named(search: Search, owner: asyncpg.Connection) -> None:
    await search._keys.record_destroyed(owner, [Period("log_tags", 202509)])
    seen = Seen()
    assert await _found(search, seen, tags=_tags(client="a")) == [0, 1, 7]
    assert seen.blind == [202509]
    seen = Seen()
    assert await _found(search, seen, tags=_tags(client="a"), access_id=ACCESS) == [0]
    assert seen.blind == []


async def test_what_is_erased_is_counted_not_guessed(search: Search, owner: asyncpg.Connection) -> None:
    await owner.execute("DELETE FROM tollgate.log_opening WHERE part = 'request' AND month = 202508")
    seen = Seen()
    assert await _found(search, seen, tags=_tags(number=NUMBER), decision="deny") == [7]
    assert seen.erased == 2
    assert await _found(search, tags=_tags(number=NUMBER)) == [0, 2, 7], "tags outlive the request"


async def test_a_row_that_does_not_bear_the_tag_is_not_found_by_it(search: Search, owner: asyncpg.Connection) -> None:
    """The look-up table is only a way to candidates: what it says wrongly is not shown."""
    place = (1).to_bytes(2, "big")
    wrong = "UPDATE tollgate.log_tag SET places = places || $1 WHERE first = 0 AND octet_length(places) = 2"
    await owner.execute(wrong, place)
    assert await _found(search, tags=_tags(number=NUMBER)) == [0, 2, 7]


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_rows_in_another_order_hide_nothing(search: Search, owner: asyncpg.Connection, page: int) -> None:
    """Whoever has the database lays stretches across one another, and leaves nothing out."""
    rows = await owner.fetch("SELECT tag FROM tollgate.log_tag WHERE first < 3 GROUP BY tag HAVING count(*) = 3")
    tags = [row["tag"] for row in rows]
    assert len(tags) == 3
    await owner.execute("DELETE FROM tollgate.log_tag WHERE first = 2 AND tag = ANY ($1)", tags)
    across = "UPDATE tollgate.log_tag SET places = '\\x000200020000' WHERE first = 0 AND tag = ANY ($1)"
    await owner.execute(across, tags)
    for asked in ({"thousands_block": "+12025550"}, {"exchange": "+1202555"}, {"address": "192.0.2.7"}):
        found = await _found(search, tags=_tags(**asked), last=SEPTEMBER, page=page)
        assert found == [0, 1, 2], asked
    async with search._pool.acquire() as conn:
        log = Ledger(search._pool, search._keys)
        tag = _tags(address="192.0.2.7")[0]
        assert [e.index for e in await log.find(tag, first=AUGUST, last=SEPTEMBER, limit=2)] == [0, 1]
        given = [found async for found in pages(conn, tags[0], -1, 100, page)]
        assert given == {1: [[0], [1], [2]], 2: [[0, 1], [2]], 500: [[0, 1, 2]]}[page]


def test_a_query_that_means_nothing() -> None:
    with pytest.raises(EntryError, match="at least one"):
        Query(limit=0)
    with pytest.raises(EntryError, match="zone"):
        Query(first=datetime(2025, 8, 1))


# The command.


async def _tollgate(database: Database, *arguments: str, stdin: str = "") -> Result:
    environment = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200", "TERM": "dumb"}
    words = ["--home", str(database.config.home), "log", "search", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, words, stdin, env=environment, catch_exceptions=False)


@pytest.fixture
async def filled(database: Database, owner: asyncpg.Connection) -> Database:
    await set_clock(owner, AUGUST)
    async with open_ledger(database.config) as ledger:
        await _fill(ledger, owner)
    return database


async def test_the_command_logs_what_was_asked_and_why_and_can_itself_be_found(filled: Database) -> None:
    result = await _tollgate(filled, "--reason", "audit 7", "--number", NUMBER, "--client", "a", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [0, 7]
    result = await _tollgate(filled, "--reason", "who looked", "--number", NUMBER, "--kind", "log.read", "--json")
    own, this = (json.loads(line) for line in result.stdout.splitlines())
    assert own["request"] == {
        "purpose": "log",
        "what": "search",
        "reason": "audit 7",
        "asked": {"limit": 100, "tags": [["client", "a"], ["number", NUMBER]]},
    }
    assert this["request"]["reason"] == "who looked"
    assert own["actor"] == this["actor"]
    staff = own["actor"]["os_user"]
    result = await _tollgate(filled, "--reason", "x", "--staff", staff, "--kind", "log.read", "--limit", "1")
    assert result.stdout.splitlines()[1].split()[:1] == ["10"]
    assert "--after 10" in result.stderr


async def test_a_number_is_taken_from_stdin(filled: Database) -> None:
    asked = ("--reason", "audit 7", "--client", "a", "--number", "-", "--json")
    result = await _tollgate(filled, *asked, stdin=NUMBER + "\n")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [0, 7]
    for wrong in ("", "2025550188\n", "-\n", NUMBER + "0" * 64):
        result = await _tollgate(filled, *asked, stdin=wrong)
        assert result.exit_code == 2
        assert "2025550188" not in result.output


async def test_a_search_that_cannot_be_logged_shows_nothing(filled: Database, owner: asyncpg.Connection) -> None:
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    result = await _tollgate(filled, "--reason", "audit 7")
    assert result.exit_code == 4
    assert result.stdout == ""


async def test_the_command_says_what_it_could_not_see(filled: Database, owner: asyncpg.Connection) -> None:
    await owner.execute("INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('log_tags', 202508)")
    await owner.execute("DELETE FROM tollgate.log_opening WHERE part = 'request' AND month = 202510")
    result = await _tollgate(filled, "--reason", "x", "--number", NUMBER, "--decision", "deny", "--to", "2025-11-01")
    assert "202508" in result.stderr
    assert "1 entries were passed over" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("--number", NUMBER),
        ("--reason", "x", "--number", "2025550123"),
        ("--reason", "x", "--block", NUMBER),
        ("--reason", "x", "--from", "yesterday"),
        ("--reason", "x", "--decision", "maybe"),
        ("--reason", "x", "--limit", "1001"),
    ],
)
async def test_wrong_options_are_refused_unlogged(
    database: Database, owner: asyncpg.Connection, wrong: tuple[str, ...]
) -> None:
    assert (await _tollgate(database, *wrong)).exit_code == 2
    assert await owner.fetchval("SELECT size FROM tollgate.log_head") == 0
