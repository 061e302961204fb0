"""`tollgate log show`, run as a command."""

from __future__ import annotations

import asyncio
import json

import asyncpg
from click.testing import CliRunner, Result

from proxy.cli.main import main
from proxy.ledger.model import Entry, Kind
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger


async def _tollgate(database: Database, *arguments: str) -> Result:
    home = database.config.home
    environment = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200", "TERM": "dumb"}
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["--home", str(home), "log", *arguments], env=environment, catch_exceptions=False
    )


async def test_it_shows_entries_and_its_own_look(database: Database) -> None:
    async with open_ledger(database.config) as ledger:
        await ledger.append(intent(decision="permit"))
        await ledger.append(
            Entry(
                Kind.ACCESS_OUTCOME,
                actor={"client_id": "example-carrier-a\x1b[31m\u202e[bold]x"},
                outcome={"rows": 12345, "state": "complete"},
            )
        )
    result = await _tollgate(database, "show")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[2:] == ["access.intent", "example-carrier-a", "billing", "permit"]
    assert lines[2].split()[-2:] == ["complete", "12345"]
    assert "[bold]x" in lines[2], "markup is shown, not obeyed"
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "log.read" in lines[3]


async def test_as_json_by_kind_and_from_an_index(database: Database) -> None:
    async with open_ledger(database.config) as ledger:
        for kind in (Kind.SUMMARY, Kind.TOKEN_REFUSED, Kind.SUMMARY):
            await ledger.append(Entry(kind, outcome={"n": 1}))
    result = await _tollgate(database, "show", "--json", "--kind", "summary")
    assert [entry["index"] for entry in json.loads(result.stdout)] == [0, 2]
    result = await _tollgate(database, "show", "--json", "--after", "1", "--limit", "3")
    shown = json.loads(result.stdout)
    assert [(entry["index"], entry["kind"]) for entry in shown] == [(2, "summary"), (3, "log.read"), (4, "log.read")]
    assert shown[1]["request"] == {"purpose": "log", "limit": 20, "kinds": ["summary"]}
    assert shown[2]["actor"]["os_user"]


async def test_a_look_that_cannot_be_logged_shows_nothing(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as ledger:
        await ledger.append(intent())
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    result = await _tollgate(database, "show")
    assert result.exit_code == 4
    assert result.stdout == ""


async def test_wrong_options_are_refused(database: Database) -> None:
    for wrong in (("--limit", "0"), ("--limit", str(10**18)), ("--kind", "nonsense"), ("--after", "-2")):
        assert (await _tollgate(database, "show", *wrong)).exit_code == 2


async def test_the_last_entries_only_so_many(database: Database) -> None:
    async with open_ledger(database.config) as ledger:
        for _ in range(5):
            await ledger.append(Entry(Kind.SUMMARY))
    shown = json.loads((await _tollgate(database, "show", "--json", "--limit", "2")).stdout)
    assert [entry["index"] for entry in shown] == [4, 5]
