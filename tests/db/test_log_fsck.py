"""`tollgate log fsck` and `tollgate log export`, run as commands: what is looked at, said, and how they end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.file_provider import FileProvider
from keys.provider import Period
from keys.signing import SigningKeys
from proxy.cli.main import main
from proxy.ledger import anchor
from proxy.ledger.fsck import live
from proxy.ledger.fsck import sql as fsck_sql
from proxy.ledger.fsck.model import Where
from proxy.ledger.model import Entry, Kind, month_of
from proxy.ledger.publisher import LogKeys
from tests.conftest import Database
from tests.support.ledger import intent, open_provider
from tests.support.logs import ORIGIN, WITNESS, Log, filled, open_log


@pytest.fixture
async def log(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Log]:
    async with open_log(database.config, owner) as made:
        yield await filled(made)


async def tollgate(database: Database, *arguments: str, **settings: str) -> Result:
    environment = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200", "TERM": "dumb", **settings}
    words = ["--home", str(database.config.home), "log", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, words, env=environment, catch_exceptions=False)


async def refused(database: Database, *arguments: str, **settings: str) -> str:
    """What a command that ends with 1 or more says."""
    result = await tollgate(database, *arguments, **settings)
    assert result.exit_code != 0, result.output
    return f"{result.exit_code}: {result.stderr}"


async def test_everything_is_looked_at(log: Log, database: Database) -> None:
    result = await tollgate(database, "fsck", "--json", "--witness", str(WITNESS.key))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    expected = {"clean": True, "entries": 600, "checkpoints": 5, "covered": 600, "cosignatures": 2, "store": []}
    assert {name: said[name] for name in expected} == expected
    row = await log.newest()
    assert said["root"] == row["root"].hex()
    openings = await log.owner.fetch("SELECT header FROM tollgate.log_entry")
    assert said["openings"] == sum(len(json.loads(r["header"])["parts"]) for r in openings)


async def test_nothing_of_an_entry_is_shown(log: Log, database: Database) -> None:
    await log.owner.execute("UPDATE tollgate.log_entry SET kind = E'\\x1b[31mfoo' WHERE idx = 9")
    result = await tollgate(database, "fsck")
    assert result.exit_code == 1
    assert "entry 9: its columns are not what its header says" in result.stderr
    assert "the first broken entry" in result.stderr
    for secret in ("\x1b[31mfoo", "example-carrier", "555", "192.0.2.7"):
        assert secret not in result.output


async def test_without_a_keyring(log: Log, database: Database) -> None:
    """An auditor with the database and the log's key, and nothing else."""
    key = str(await asyncio.to_thread(lambda: log.log_keys.signer(ORIGIN).key))
    shutil.move(database.config.keyring_dir, database.config.home / "away")
    assert "no key to check signatures with" in await refused(database, "fsck", "--no-openings")
    result = await tollgate(database, "fsck", "--json", "--no-openings", "--key", key)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["entries"], said["openings"], said["checkpoints"], said["store"]) == (600, 0, 5, None)
    other = str(WITNESS.key)
    assert "this is the key of a witness" in await refused(database, "fsck", "--no-openings", "--key", other)


async def test_a_stranger_s_key_signs_nothing(log: Log, database: Database) -> None:
    FileProvider.create(database.config.home / "other")
    keys = LogKeys(SigningKeys(database.config.home / "other"))
    stranger = (await asyncio.to_thread(keys.signer, ORIGIN)).key
    said = await refused(database, "fsck", "--no-store", "--key", str(stranger))
    assert "no key that is trusted here has signed" in said


async def test_erased_under_a_policy_or_broken(log: Log, database: Database) -> None:
    """A month's outcomes go: without an entry that is damage, with one it is told as what it is."""
    month = month_of((await log.newest())["at"])
    rows = await log.owner.fetch("SELECT * FROM tollgate.log_opening WHERE part = 'outcome'")
    gone = "DELETE FROM tollgate.log_opening WHERE part = 'outcome'"
    destroyed = "INSERT INTO tollgate.data_key_destroyed VALUES ('log_outcome', $1)"
    await log.owner.execute(gone)
    said = await refused(database, "fsck", "--no-store")
    assert f"its outcome does not stand, and no log.erase entry says that {month} was erased" in said
    await log.owner.executemany("INSERT INTO tollgate.log_opening VALUES ($1, $2, $3, $4)", rows)
    assert (await log.check()).clean
    entry = Entry(Kind.LOG_ERASE, {"os_user": "officer"})
    span = {"part": "outcome", "first": month, "last": month, "policy": "outcomes-3y", "entry": str(entry.entry_id)}
    await log.ledger.append(replace(entry, request={"purpose": "retention", "erased": [span]}))
    await log.publish()
    # The key goes first: until the rows do, they stand and open for nobody.
    await log.owner.execute(destroyed, month)
    await open_provider(log.config).destroy(Period("log_outcome", month))
    half = await log.check()
    assert (half.clean, list(half.erased)) == (True, ["outcomes-3y"])
    await log.owner.execute(gone)
    result = await tollgate(database, "fsck", "--no-store")
    assert result.exit_code == 0, result.output
    assert f"{half.erased['outcomes-3y']:,} openings erased under policy outcomes-3y" in result.stderr
    await log.owner.execute("DELETE FROM tollgate.log_opening WHERE part = 'actor'")
    assert "its actor does not stand" in await refused(database, "fsck", "--no-store")


async def test_an_erasure_that_does_not_say_what_was_erased(log: Log) -> None:
    """Whoever may write to the log and has no keys can make one; what it is to cover, it covers not."""
    await log.ledger.append(Entry(Kind.LOG_ERASE, {"os_user": "eve"}))
    await log.ledger.append(Entry(Kind.LOG_ERASE, {"os_user": "eve"}, {"reason": "x", "erased": [{"part": "actor"}]}))
    await log.publish()
    said = "it is an erasure that does not say what was erased"
    assert [(f.index, f.what) for f in (await log.check()).findings] == [(600, said), (601, said)]
    assert [(f.index, f.what) for f in (await log.check(openings=False)).findings] == [(600, said)]


async def test_entries_that_nobody_signs(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries wait for the next checkpoint; where none comes, it is said, with the first that waits."""
    await log.add(3, 2)
    for minutes, expected in ((0, []), (4, []), (6, [(600, 604)]), (3000, [(600, 604)])):
        monkeypatch.setattr(fsck_sql, "NOW", f"SELECT clock_timestamp() + interval '{minutes} minutes'")
        report = await log.check()
        assert [(f.index, f.last) for f in report.findings] == expected
        assert all("no checkpoint that holds covers it" in f.what for f in report.findings)
    await log.publish()
    assert (await log.check()).clean
    # A checkpoint that does not hold covers nothing.
    await log.owner.execute("UPDATE tollgate.log_checkpoint SET note = note || 'x' WHERE size = 605")
    assert (600, 604) in [(f.index, f.last) for f in (await log.check()).findings]


async def test_entries_of_a_time_to_come(log: Log) -> None:
    """A checkpoint is signed after what it covers; but for a clock that was set right by a little."""
    later = "UPDATE tollgate.log_head SET at = at + $1::interval"
    await log.owner.execute(later, timedelta(minutes=3))
    await log.add(1)
    await log.publish()
    assert (await log.check()).clean
    await log.owner.execute(later, timedelta(hours=2))
    for _ in range(3):
        await log.add(1)
        await log.publish()
    report = await log.check()
    assert [(f.where, f.index) for f in report.findings] == [(Where.CHECKPOINT, None)], "said once"
    assert "the checkpoint of size 602 was signed before the time of its last entry" in report.findings[0].what


async def test_anchors(log: Log, database: Database, tmp_path: Path) -> None:
    """A checkpoint in a file, and this home's own anchor file."""
    note = (await log.newest())["note"]
    kept = tmp_path / "kept"
    kept.write_bytes(note)
    result = await tollgate(database, "fsck", "--no-store", "--anchor", str(kept))
    assert result.exit_code == 0, result.output
    assert "1 anchor holds" in result.stderr
    await asyncio.to_thread(anchor.write, log.config.log_dir, note)
    assert "1 anchor holds" in (await tollgate(database, "fsck", "--no-store")).stderr
    assert "no anchor holds" in (await tollgate(database, "fsck", "--no-store", "--no-anchor-file")).stderr
    kept.write_bytes(note.replace(b"\n600\n", b"\n601\n"))
    assert "does not verify" in await refused(database, "fsck", "--no-store", "--anchor", str(kept))
    kept.write_bytes(b"\x1b[31m no note")
    said = await refused(database, "fsck", "--no-store", "--anchor", str(kept))
    assert said.startswith("1: ")
    assert "\x1b[31m" not in said
    assert (await refused(database, "fsck", "--anchor", str(tmp_path / "none"))).startswith("5: ")


async def test_large_openings_are_taken_a_few_at_a_time(
    log: Log, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        await log.ledger.append(Entry(Kind.ACCESS_OUTCOME, {"n": n}, records={"bitmap": "A" * 100_000}))
    await log.publish()
    monkeypatch.setattr(live, "SPAN_BYTES", 250_000)
    assert (await log.check()).as_json()["findings"] == []
    await log.owner.execute("DELETE FROM tollgate.log_entry WHERE idx = 603")
    assert (await log.check()).first.index == 603  # type: ignore[union-attr]


async def test_while_entries_come(log: Log, database: Database) -> None:
    """Under one snapshot: what comes meanwhile is the next check's."""
    stop = asyncio.Event()

    async def busy() -> None:
        while not stop.is_set():
            await asyncio.gather(*(log.ledger.append(intent(n=n)) for n in range(5)))
            await log.publish()

    task = asyncio.create_task(busy())
    sizes = []
    try:
        for _ in range(5):
            result = await tollgate(database, "fsck", "--no-store", "--json")
            assert result.exit_code == 0, result.output
            sizes.append(json.loads(result.stdout)["entries"])
    finally:
        stop.set()
        await task
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1


async def test_it_writes_nothing(log: Log, database: Database) -> None:
    """As on a replica: every session of it is read-only."""
    url = database.url + ("&" if "?" in database.url else "?") + "options=-c%20default_transaction_read_only%3Don"
    result = await tollgate(database, "fsck", "--database-url", url, "--json")
    assert result.exit_code == 0, result.output
    assert (json.loads(result.stdout)["entries"], json.loads(result.stdout)["store"]) == (600, [])
    conn = await asyncpg.connect(url)
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await conn.execute("UPDATE tollgate.log_head SET size = 0")
    finally:
        await conn.close()


async def exported(log: Log, database: Database, tmp_path: Path, *options: str) -> Path:
    directory = tmp_path / "audit"
    result = await tollgate(database, "export", str(directory), *options)
    assert result.exit_code == 0, result.output
    return directory


async def test_an_export_checks_without_the_database(log: Log, database: Database, tmp_path: Path) -> None:
    directory = await exported(log, database, tmp_path)
    key = str(await asyncio.to_thread(lambda: log.log_keys.signer(ORIGIN).key))
    home = {"TOLLGATE_DATABASE_URL": "", "TOLLGATE_HOME": str(tmp_path / "nowhere")}
    words = ["log", "fsck", "--export", str(directory), "--key", key, "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, main, words, env=home, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    expected = {"entries": 600, "checkpoints": 5, "covered": 600, "anchors": 1, "withheld": []}
    assert {name: said[name] for name in expected} == expected
    assert said["openings"] == (await log.check(openings=True)).openings - 2, "the look is logged, and past the end"
    last = await log.owner.fetchval("SELECT max(idx) FROM tollgate.log_entry")
    assert last == 600, "the look at the log is an entry"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in directory.rglob("*") if p.is_file()} == {0o600}
    assert "exists already" in await refused(database, "export", str(directory))


async def test_an_export_of_some_parts(log: Log, database: Database, tmp_path: Path) -> None:
    directory = await exported(log, database, tmp_path, "--part", "actor")
    text = "".join(p.read_text() for p in (directory / "entries").iterdir())
    assert "example-carrier-1" in text
    assert "classes" not in text
    result = await tollgate(database, "fsck", "--export", str(directory))
    assert result.exit_code == 0, result.output
    assert "not in the export: outcome, records, request" in result.stderr


async def test_an_export_of_no_openings(log: Log, database: Database, tmp_path: Path) -> None:
    directory = await exported(log, database, tmp_path, "--no-openings")
    assert "example-carrier" not in "".join(p.read_text() for p in (directory / "entries").iterdir())
    result = await tollgate(database, "fsck", "--export", str(directory))
    assert result.exit_code == 0, result.output


async def test_whatever_is_changed_in_an_export_is_found(log: Log, database: Database, tmp_path: Path) -> None:
    directory = await exported(log, database, tmp_path)
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert len(files) == 10
    for file in files:
        whole = file.read_bytes()
        for at in (len(whole) // 3, len(whole) // 2):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert (await refused(database, "fsck", "--export", str(directory))).startswith("1: "), (file, at)
        file.unlink()
        assert (await refused(database, "fsck", "--export", str(directory))).startswith("1: "), file
        file.write_bytes(whole)
    lines = (directory / "entries" / "000000.ndjson").read_bytes().splitlines(keepends=True)
    for name, changed in {
        "cut": lines[:-1],
        "dropped": lines[:300] + lines[301:],
        "swapped": [*lines[:300], lines[301], lines[300], *lines[302:]],
        "twice": [*lines[:300], lines[299], *lines[300:]],
    }.items():
        (directory / "entries" / "000000.ndjson").write_bytes(b"".join(changed))
        said = await refused(database, "fsck", "--export", str(directory), "--json")
        assert said.startswith("1: "), name
        assert {"cut": "599", "twice": "299"}.get(name, "300") in said, (name, said)
    (directory / "manifest.json").unlink()
    assert (await refused(database, "fsck", "--export", str(directory))).startswith("5: ")
