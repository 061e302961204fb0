"""A secret case is in the log for nobody but the legal desk: not shown, found or counted, and nothing says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner

from keys.datakeys import DataKeys
from keys.provider import Period
from proxy.cli.main import main
from proxy.ledger.model import Entry, Kind, OpenedEntry, Tag
from proxy.ledger.search import Query, Search, Seen
from proxy.ledger.service import Ledger
from proxy.ledger.withheld import DESK_CHANGES
from proxy.legal.bands import BandError
from proxy.legal.reports import Period as ReportPeriod
from proxy.legal.reports import Reader, Reports
from proxy.legal.secrecy import Audience
from schema.roles import Role
from tests.conftest import Database
from tests.support.holds import HANDLER, add_case
from tests.support.ledger import intent, open_ledger, open_provider
from tests.support.logs import Log
from tests.support.pasts import set_clock

MAY = datetime(2026, 5, 10, tzinfo=UTC)
HALF = ReportPeriod(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC), "test")
NOW = datetime(2026, 11, 5, tzinfo=UTC)


@dataclass
class World:
    """A log with entries of three cases: one plain, one sealed by a court, one under a national security letter."""

    ledger: Ledger
    pool: asyncpg.Pool
    keys: DataKeys
    plain: str
    sealed: str
    letter: str

    def search(self, *, desk: bool = False) -> Search:
        return Search(self.pool, self.keys, desk=desk)

    def reports(self) -> Reports:
        return Reports(self.ledger, self.search(desk=True), self.search())

    async def found(self, query: Query, *, desk: bool = False) -> list[OpenedEntry]:
        return [e async for e in self.search(desk=desk).run(query)]

    async def cases(self, query: Query | None = None, *, desk: bool = False) -> set[str]:
        """The cases that what is found is of, by whatever part names one."""
        found = await self.found(query or Query(limit=1000), desk=desk)
        text = json.dumps([e.as_json() for e in found])
        return {case for case in (self.plain, self.sealed, self.letter) if case in text}


def _state(case: str, instrument: str, action: str, before: str | None, to: str, **told: Any) -> Entry:
    request = {"case": case, "instrument": instrument, "action": action, "from": before, "to": to, **told}
    tags = (Tag("case", case.encode()), Tag("staff", HANDLER.encode()))
    return Entry(Kind.CASE_STATE, {"staff": HANDLER}, request, tags=tags)


def _access(case: str, basis: str, instrument: str, rows: int) -> list[Entry]:
    """An extraction of a case, as it stands in the log."""
    access_id = uuid4()
    tags = (Tag("case", case.encode()), Tag("staff", HANDLER.encode()))
    request = {
        "purpose": "legal", "basis": basis, "case": case, "instrument": instrument, "classes": ["timing", "parties"],
        "fields": ["calling", "called"], "from": "2024-01-01T00:00:00Z", "to": "2024-02-01T00:00:00Z",
    }  # fmt: skip
    actor = {"staff": HANDLER}
    return [
        Entry(Kind.ACCESS_INTENT, actor, request, access_id=access_id, tags=tags),
        Entry(Kind.ACCESS_OUTCOME, actor, {}, {"rows": rows}, access_id=access_id, tags=tags),
    ]


def _pull(client: str, carrier: str, rows: int, **request: Any) -> list[Entry]:
    access_id = uuid4()
    told = {
        "basis": "47 U.S.C. 222(d)(1)", "fields": ["calling"], "from": "2026-01-01T00:00:00Z",
        "to": "2026-02-01T00:00:00Z", **request,
    }  # fmt: skip
    made = intent(client, access_id, **told)
    actor = {**made.actor, "carrier_id": carrier}
    return [
        Entry(made.kind, actor, made.request, access_id=access_id, tags=made.tags),
        Entry(Kind.ACCESS_OUTCOME, actor, {}, {"rows": rows}, access_id=access_id, tags=made.tags),
    ]


@pytest.fixture
async def world(database: Database, owner: asyncpg.Connection) -> AsyncIterator[World]:
    await set_clock(owner, MAY)
    provider = open_provider(database.config)
    plain = await add_case(owner)
    sealed = await add_case(owner, "court_seal", instrument="court_order")
    letter = await add_case(owner, "2709c", instrument="nsl", until=datetime(2026, 5, 11, tzinfo=UTC))
    async with (
        open_ledger(database.config) as ledger,
        asyncpg.create_pool(database.config.role_url(Role.LOG), min_size=1, max_size=2) as pool,
    ):
        made = World(ledger, pool, DataKeys(provider), plain, sealed, letter)
        entries = [*_pull("billing-a", "carrier-a", 10), *_pull("billing-b", "carrier-b", 5)]
        for case, instrument in ((plain, "subpoena"), (sealed, "court_order"), (letter, "nsl")):
            entries += [
                _state(case, instrument, "open", None, "received"),
                _state(case, instrument, "validate", "received", "validated", targets=3),
                Entry(Kind.CASE_READ, {"staff": HANDLER}, {"case": case}, tags=(Tag("case", case.encode()),)),
                Entry(Kind.HOLD_STATE, {"staff": HANDLER}, {"case": case}, tags=(Tag("case", case.encode()),)),
                *_access(case, {"nsl": "18 U.S.C. 2709"}.get(instrument, "18 U.S.C. 2703(c)(2)"), instrument, 7),
                _state(case, instrument, "deliver", "certified", "delivered"),
                # As changes are written: the case stands in the payload, and no tag says so.
                Entry(Kind.CHANGE_STATE, {"staff": HANDLER}, {"kind": "other", "payload": {"case": case}}),
            ]
        for entry in entries:
            await ledger.append(entry)
        yield made


async def test_the_desk_finds_all_and_others_what_is_no_secret(world: World) -> None:
    every = {world.plain, world.sealed, world.letter}
    assert await world.cases(desk=True) == every
    assert await world.cases() == {world.plain}
    for case in every:
        tag = Query((Tag("case", case.encode()),), limit=1000)
        assert await world.cases(tag, desk=True) == {case}
        assert await world.cases(tag) == ({case} if case == world.plain else set())
    by_staff = Query((Tag("staff", HANDLER.encode()),), limit=1000)
    assert await world.cases(by_staff) == {world.plain}
    by_purpose = Query(purpose="legal", limit=1000)
    assert await world.cases(by_purpose) == {world.plain}
    legal = await world.found(Query(purpose="legal"), desk=True)
    (access,) = [e.access_id for e in legal if e.request and e.request["case"] == world.sealed]
    assert await world.found(Query(access_id=access), desk=True)
    assert await world.found(Query(access_id=access)) == []


async def test_nothing_says_that_something_was_left_out(world: World, owner: asyncpg.Connection) -> None:
    there, never = Seen(), Seen()
    found = [e async for e in world.search().run(Query((Tag("case", world.letter.encode()),)), there)]
    gone = [e async for e in world.search().run(Query((Tag("case", b"C-QQQQQQQQQQ"),)), never)]
    assert found == gone == []
    assert (there.erased, there.blind, there.next_after) == (never.erased, never.blind, never.next_after)


async def test_whether_a_case_is_secret_moves_nothing_else(
    world: World, database: Database, owner: asyncpg.Connection
) -> None:
    """What others are shown of the desk's own changes, and of months that are blind, is the same before and after."""
    for kind, payload in (("hold.lift", {"hold": "H-AAAAAAAAAA"}), ("secrecy.lift", {"case": "C-QQQQQQQQQQ"})):
        await world.ledger.append(Entry(Kind.CHANGE_STATE, {"staff": HANDLER}, {"kind": kind, "payload": payload}))
    query = Query(limit=1000)

    async def shown() -> list[list[int]]:
        """By search, by reading in order, and by reading from the end; of what is about no secret case."""
        keys = DataKeys(open_provider(database.config))
        search = [e async for e in Search(world.pool, keys).run(query)]
        every = (search, await world.ledger.read(limit=1000, others=True), await world.ledger.read_last(others=True))
        assert not [e for read in every for e in read if e.request and e.request.get("kind") in DESK_CHANGES]
        secret = {world.sealed, world.letter}
        # Outcomes do not say themselves whose they are.
        return [
            [e.index for e in read if e.request and not any(c in json.dumps(e.as_json()) for c in secret)]
            for read in every
        ]

    secret = await shown()
    # The desk's search shows them, to the desk.
    assert {"hold.lift", "secrecy.lift"} <= {
        e.request["kind"] for e in await world.found(query, desk=True) if e.request and "kind" in e.request
    }
    for gone in ((), (Period("log_tags", 202605),)):
        if gone:
            await world.keys.record_destroyed(owner, list(gone))
            world.keys.forget(list(gone))
            secret = await shown()
        await _are_secret(owner, False)
        assert await owner.fetch("SELECT tollgate.secret_cases()") == []
        # What was there before still is, and but for what was secret nothing has come.
        assert await shown() == secret
        await _are_secret(owner, True)


async def _are_secret(owner: asyncpg.Connection, secret: bool) -> None:
    """As if no order had been, or was still: the register itself lets none go so."""
    async with owner.transaction():
        await owner.execute("SET LOCAL session_replication_role = replica")
        await owner.execute(
            "UPDATE tollgate.legal_case SET secrecy_lifted_at = CASE WHEN NOT $1 THEN now() END"
            " WHERE secrecy <> 'none'",
            secret,
        )


async def test_what_is_lifted_is_found(world: World, owner: asyncpg.Connection) -> None:
    for case in (world.sealed, world.letter):
        await owner.execute(
            "UPDATE tollgate.legal_case SET secrecy_lifted_at = now(), version = 2 WHERE case_id = $1", case
        )
        assert case in await world.cases()


async def test_a_page_is_as_long_as_was_asked(world: World) -> None:
    """Else how many are missing would tell how many there are."""
    shown = await world.ledger.read_last(limit=6, others=True)
    assert len(shown) == 6
    assert [e.index for e in shown] == sorted(e.index for e in shown)
    first = await world.ledger.read(limit=10, others=True)
    assert len(first) == 10
    text = json.dumps([e.as_json() for e in (*shown, *first)])
    assert world.plain in text
    assert world.sealed not in text
    assert world.letter not in text
    assert len(await world.ledger.read(limit=1000)) - len(await world.ledger.read(limit=1000, others=True)) == 16


@pytest.mark.parametrize("part", ["log_tags", "log_request"])
async def test_where_tags_or_requests_are_gone(world: World, owner: asyncpg.Connection, part: str) -> None:
    await world.keys.record_destroyed(owner, [Period(part, 202605)])
    search = Search(world.pool, DataKeys(world.keys._provider))
    found = [e async for e in search.run(Query(limit=1000))]
    assert found, "what is nobody's case is still there"
    entries = {e.entry_id for e in await world.found(Query(limit=1000), desk=True)}
    secret = {world.sealed, world.letter}
    rows = await world.ledger.read(limit=1000)
    if part == "log_tags":
        # No case's entries are told apart by tags: all of the desk's are left out, and whatever names a secret one.
        assert not any(e.kind in (Kind.CASE_STATE, Kind.HOLD_STATE, Kind.CASE_READ) for e in found)
        assert not any(e.request and e.request.get("case") in secret for e in found)
        assert not any(case in json.dumps([e.as_json() for e in found]) for case in secret)
    else:
        # By the tags alone.
        tagged = {r.index for r in rows} - {e.index for e in found}
        assert len(tagged) == 14
    assert len(entries) == len(rows)


async def test_the_commands_show_no_secret(world: World, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database.url)
    home = ["--home", str(database.config.home)]

    async def run(*words: str) -> str:
        result = await asyncio.to_thread(runner.invoke, main, [*home, *words])
        assert result.exit_code == 0, result.output
        return result.output

    shown = await run("log", "show", "--limit", "500", "--json")
    found = await run("log", "search", "--reason", "test", "--staff", HANDLER, "--json")
    asked = await run("log", "search", "--reason", "test", "--case", world.letter, "--json")
    assert world.plain in shown
    assert world.plain in found
    for text in (shown, found, asked):
        assert world.sealed not in text
        assert world.letter not in text
    # That it was asked for is an entry about the case, which the desk finds.
    looks = await world.found(Query((Tag("case", world.letter.encode()),), (Kind.LOG_READ,)), desk=True)
    assert len(looks) == 1


# --- reports ----------------------------------------------------------------------------------------------------------

DESK = Reader({"staff": HANDLER}, (Tag("staff", HANDLER.encode()),), Audience.DESK)
OFFICER = Reader({"staff": "officer-1"}, (Tag("staff", b"officer-1"),), Audience.OTHERS)


async def test_transparency_from_the_log(world: World, owner: asyncpg.Connection) -> None:
    # Rows of cases may say what they like: it is counted from the log.
    await owner.execute("UPDATE tollgate.legal_case SET state = 'deficient', version = 2 WHERE instrument = 'subpoena'")
    others = await world.reports().transparency(OFFICER, HALF, now=NOW)
    one = {"received": 1, "selectors": 3, "deficient": 0, "objected": 0, "delivered": 1, "preserved": 0}
    assert others["instruments"] == {"subpoena": one}
    desk = await world.reports().transparency(DESK, HALF, now=NOW)
    assert desk["instruments"] == {"court_order": one, "subpoena": one}
    # Letters: the same line for both, and neither is told how many.
    line = others["national_security_letters"]
    assert line == desk["national_security_letters"]
    assert (line["received"], line["selectors"]) == ("0-249", "0-249")
    assert world.letter not in json.dumps([others, desk])


async def test_without_letters_the_line_is_the_same(world: World, owner: asyncpg.Connection) -> None:
    before = await world.reports().transparency(OFFICER, HALF, now=NOW)
    earlier = ReportPeriod(HALF.first.replace(year=2025), HALF.last.replace(year=2025), "test")
    none = await world.reports().transparency(OFFICER, earlier, now=NOW)
    assert none["national_security_letters"] == before["national_security_letters"]


async def test_letters_of_a_month_are_not_reported(world: World) -> None:
    month = ReportPeriod(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC), "test")
    with pytest.raises(BandError):
        await world.reports().transparency(DESK, month, now=NOW)
    told = await world.reports().transparency(DESK, month, bands=None, now=NOW)
    assert "national_security_letters" not in told
    assert "nsl" not in told["instruments"]


async def test_disclosures_by_carrier_and_by_basis(world: World) -> None:
    told = await world.reports().disclosures(OFFICER, HALF)
    found = {item["recipient"]: item for item in told["recipients"]}
    assert set(found) == {"carrier-a", "carrier-b", "18 U.S.C. 2703(c)(2)"}
    assert (found["carrier-a"]["accesses"], found["carrier-a"]["records"]) == (1, 10)
    assert found["carrier-a"]["basis"] == "47 U.S.C. 222(d)(1)"
    assert found["carrier-b"]["classes"] == ["parties", "timing"]
    assert (found["18 U.S.C. 2703(c)(2)"]["accesses"], found["18 U.S.C. 2703(c)(2)"]["records"]) == (1, 7)
    desk = await world.reports().disclosures(DESK, HALF)
    found = {item["recipient"]: item for item in desk["recipients"]}
    assert found["18 U.S.C. 2703(c)(2)"]["accesses"] == 2, "the desk's own has its secret case"
    assert "18 U.S.C. 2709" not in found, "letters are in bands, and not here"
    assert told["national_security_letters"] == desk["national_security_letters"]


async def test_an_access_without_outcome_counts_what_is_known(world: World) -> None:
    access_id = uuid4()
    made = intent("billing-c", access_id, basis="47 U.S.C. 222(d)(1)")
    actor = {**made.actor, "carrier_id": "carrier-c"}
    await world.ledger.append(Entry(made.kind, actor, made.request, access_id=access_id, tags=made.tags))
    rows = {"rows": 1_000_000}
    await world.ledger.append(Entry(Kind.ACCESS_PROGRESS, actor, {}, rows, access_id=access_id, tags=made.tags))
    told = await world.reports().disclosures(OFFICER, HALF)
    (item,) = [r for r in told["recipients"] if r["recipient"] == "carrier-c"]
    assert (item["accesses"], item["without_outcome"], item["records"]) == (1, 1, 1_000_000)


async def test_a_report_is_itself_in_the_log_first(world: World) -> None:
    size = await world.ledger.size()
    await world.reports().disclosures(OFFICER, HALF)
    (entry,) = await world.ledger.read(after=size - 1)
    assert entry.kind is Kind.REPORT_READ
    assert (entry.actor, entry.request and entry.request["report"]) == ({"staff": "officer-1"}, "disclosures")
    with pytest.raises(ValueError, match="zones"):
        ReportPeriod(datetime(2026, 1, 1), datetime(2026, 2, 1) - timedelta(days=40), "")


async def test_an_export_proves_a_secret_and_does_not_tell_it(
    world: World, database: Database, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(database.config, owner, world.ledger, world.pool)
    await log.open()
    await log.publish()
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database.url)
    home = ["--home", str(database.config.home)]
    folder = tmp_path / "audit"
    runner = CliRunner()
    made = await asyncio.to_thread(runner.invoke, main, [*home, "log", "export", str(folder)])
    assert made.exit_code == 0, made.output
    lines = [json.loads(line) for line in (folder / "entries" / "000000.ndjson").read_text().splitlines()]
    assert len(lines) > 25
    text = "\n".join(json.dumps(line) for line in lines if line.get("withheld"))
    plain = "\n".join(json.dumps(line["openings"]) for line in lines)
    assert sum(1 for line in lines if line.get("withheld")) == 16
    assert world.plain in plain
    assert not any(case in part for case in (world.sealed, world.letter) for part in (text, plain))
    # Whoever audits it finds it whole: what is withheld is proved like all the rest.
    keys = await asyncio.to_thread(runner.invoke, main, [*home, "log", "key"])
    words = ["log", "fsck", "--export", str(folder)]
    for line in keys.output.split():
        if "+" in line:
            words += ["--key", line]
    checked = await asyncio.to_thread(runner.invoke, main, [*home, *words])
    assert checked.exit_code == 0, checked.output
