"""What a log that agrees with itself can hide, and whoever kept something of it finds: the lying operator.

With the database, the keyring and the signing key the whole log can be written anew, or put back. `fsck` alone then
says that all is well, which these tests show first; with any anchor it says otherwise.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web

from keys.datakeys import DataKeys
from keys.notes import Note, Signature
from proxy.ledger import anchor, receipts, sql, tiles, tree
from proxy.ledger import checkpoints as stored
from proxy.ledger import recover as recovery
from proxy.ledger.checkpoints import Origin
from proxy.ledger.fsck.anchors import Anchor, AnchorRefused, read_anchor
from proxy.ledger.fsck.model import Where
from proxy.ledger.model import Entry, LedgerUnavailable, OpenedEntry
from proxy.ledger.origins import matches
from proxy.ledger.published import Published
from proxy.ledger.publisher import LOCK
from proxy.ledger.reader import open_rows
from proxy.ledger.receipts import TlogProof
from schema.roles import Role
from tests.conftest import PASSWORDS, Database
from tests.db.test_log_fsck import tollgate
from tests.support.ledger import Fault, Link, open_provider, until
from tests.support.logs import ORIGIN, WITNESS, Log, filled, open_log
from tests.support.lying import put_back, rewrite


@pytest.fixture
async def log(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Log]:
    async with open_log(database.config, owner) as made:
        yield await filled(made)


async def kept(log: Log, size: int, *, cosigned: bool = False) -> bytes:
    """A checkpoint as somebody may have kept it; as a witness keeps it, with its own signature alone."""
    row = await log.owner.fetchrow("SELECT * FROM tollgate.log_checkpoint WHERE size = $1", size)
    note: bytes = row["note"]
    if cosigned:
        line = await log.owner.fetchval("SELECT line FROM tollgate.log_cosignature WHERE size = $1", size)
        note = str(Note(Note.parse(note).text, (Signature.parse(line.decode()),))).encode()
    return note


async def receipt(log: Log, index: int, size: int) -> bytes:
    """A receipt of one entry under a checkpoint, as the gateway makes them."""
    conn = log.owner
    rows = await conn.fetch(sql.READ_AT, [index])
    (entry,) = await open_rows(conn, DataKeys(open_provider(log.config)), rows)
    hashes = await tiles.compute(
        lambda wanted: stored.fetch(conn, wanted), size, lambda read: tree.inclusion_proof(index, size, read)
    )
    proof = TlogProof(index, tuple(hashes), (await kept(log, size)).decode())
    assert entry.access_id is not None
    made = receipts.make(entry.access_id, "", [(rows[0]["header"], {}, proof)])
    return json.dumps(made).encode()


def held(log: Log, data: bytes, name: str = "kept") -> list[Anchor]:
    return [read_anchor(name, data, log.trusted)]


async def anchors_of(log: Log) -> dict[str, bytes]:
    """One of each kind, of when all was well; 301 is an access of a client."""
    return {
        "an old checkpoint": await kept(log, 540),
        "the newest checkpoint": await kept(log, 600),
        "what a witness signed": await kept(log, 540, cosigned=True),
        "a receipt": await receipt(log, 301, 540),
        "a proof": json.loads(await receipt(log, 301, 540))["entries"][0]["proof"].encode(),
    }


def other(entry: OpenedEntry, again: Entry) -> Entry:
    """Who looked at 301 is somebody else now."""
    return replace(again, actor={"client_id": "example-carrier-z"}) if entry.index == 301 else again


async def test_every_anchor_holds_while_all_is_well(log: Log) -> None:
    known = {name: held(log, data, name)[0] for name, data in (await anchors_of(log)).items()}
    report = await log.check(list(known.values()))
    assert (report.clean, report.anchors) == (True, 5)


async def test_the_whole_log_rewritten(log: Log) -> None:
    known = await anchors_of(log)
    early = held(log, await kept(log, 300))
    await rewrite(log, other, 300)
    alone = await log.check()
    assert alone.clean, "the liar is not good enough for this test"
    (entry,) = await log.ledger.read(after=300, limit=1)
    assert entry.actor == {"client_id": "example-carrier-z"}
    for name, data in known.items():
        report = await log.check(held(log, data, name))
        assert not report.clean, name
        assert {f.where for f in report.findings} == {Where.ANCHOR}
        first = report.first
        assert first is not None
        assert (first.index or 0) <= 301 <= (first.last or 301)
        if name == "a receipt":
            assert any(f.index == 301 and "proves another entry here" in f.what for f in report.findings)
    # Between two anchors: the one before the change holds, and narrows it down.
    report = await log.check([*early, *held(log, known["an old checkpoint"])])
    assert [f.where for f in report.findings] == [Where.ANCHOR]


async def test_a_rewritten_log_cannot_show_its_witness(log: Log) -> None:
    """The old cosignatures do not fit the new roots; left where they were, they are found without any anchor."""
    lines = await log.owner.fetch("SELECT * FROM tollgate.log_cosignature WHERE size > 300")
    await rewrite(log, other, 300)
    await log.owner.executemany("INSERT INTO tollgate.log_cosignature VALUES ($1, $2, $3, $4)", lines)
    report = await log.check()
    assert [f.where for f in report.findings] == [Where.COSIGNATURE]
    assert "size 540" in report.findings[0].what


@pytest.mark.parametrize("size", [560, 540, 300, 17])
async def test_a_cut_tail_or_an_old_backup(log: Log, size: int) -> None:
    known = await anchors_of(log)
    await put_back(log.owner, size)
    assert (await log.check()).clean
    for name, data in known.items():
        report = await log.check(held(log, data, name))
        if "newest" in name or size < 540:
            assert report.first is not None, name
            assert report.first.index == size
            assert "cut off, or an older state was put back" in report.first.what
        else:
            assert report.clean


async def test_an_old_backup_that_was_written_on(log: Log) -> None:
    """A fork: the log goes on from an older state, past what was signed before."""
    known = await anchors_of(log)
    await put_back(log.owner, 300)
    await log.add(100, 100, 150)
    await log.publish()
    assert (await log.check()).clean
    for name, data in known.items():
        report = await log.check([*held(log, data, name), *held(log, await kept(log, 248))])
        assert not report.clean, name
        assert report.anchors == 1
        first = report.first
        assert first is not None
        assert first.index == 248, "up to the anchor that holds"


async def test_the_newest_checkpoints_taken_away(log: Log) -> None:
    """Entries and head stand; what was signed of them last does not."""
    newest = await kept(log, 600)
    await log.owner.execute("DELETE FROM tollgate.log_checkpoint WHERE size = 600")
    assert (await log.check()).clean, "a checkpoint less is no contradiction"
    report = await log.check(held(log, newest))
    assert report.clean, "and the entries it signed still stand"
    await put_back(log.owner, 540)
    assert not (await log.check(held(log, newest))).clean


async def test_a_log_under_another_name(log: Log) -> None:
    """A new log on a fresh database, with the same key."""
    newest = await kept(log, 600)
    await log.owner.execute("UPDATE tollgate.log_origin SET origin = 'log.example/other'")
    await log.owner.execute("DELETE FROM tollgate.log_checkpoint")
    report = await log.check(held(log, newest))
    assert "an origin that this log never had" in " ".join(f.what for f in report.findings)


async def test_what_is_no_anchor(log: Log) -> None:
    good = await receipt(log, 301, 540)
    for data in (
        b"", b"{", b"{}", b"[]", b"nothing", b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v1\xff",
        (await kept(log, 540))[:-20] + b"\n", (await kept(log, 540)).replace(b"\n540\n", b"\n541\n"),
        good.replace(b"index 301", b"index 302"), good[:-3],
        (await kept(log, 540)).replace(ORIGIN.encode(), b"log.example/b"), b"\xff" * 100, b"{" * 100_000,
    ):  # fmt: skip
        with pytest.raises(AnchorRefused) as error:
            read_anchor("kept", data, log.trusted)
        assert len(str(error.value)) < 200


async def test_as_commands(log: Log, database: Database, tmp_path: Path) -> None:
    """`--anchor` with a receipt and a URL, `--ask-witnesses`, and this home's own anchor file, after a rewrite."""
    note = await kept(log, 540)
    proof = tmp_path / "receipt.json"
    proof.write_bytes(await receipt(log, 301, 540))
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query["origin"])
        return web.Response(body=note)

    app = web.Application()
    app.router.add_get("/checkpoint", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    witness = {"TOLLGATE_LOG_WITNESSES": f"{WITNESS.key} {url}"}
    try:
        whole = await tollgate(
            database, "fsck", "--no-store", "--anchor", str(proof), "--anchor", url + "/checkpoint?origin=x",
            "--ask-witnesses", **witness,
        )  # fmt: skip
        assert whole.exit_code == 0, whole.output
        assert "3 anchors hold" in whole.stderr
        assert asked == ["x", ORIGIN]
        await rewrite(log, other, 300)
        for options in (["--anchor", str(proof)], ["--anchor", url + "/checkpoint?origin=x"], ["--ask-witnesses"]):
            result = await tollgate(database, "fsck", "--no-store", *options, **witness)
            assert result.exit_code == 1, options
            assert "anchor" in result.stderr or "receipt" in result.stderr
        away = await tollgate(database, "fsck", "--anchor", url + "/nothing", **witness)
        assert away.exit_code == 4
    finally:
        await runner.cleanup()
    assert (await tollgate(database, "fsck", "--no-store")).exit_code == 0
    await asyncio.to_thread(anchor.write, log.config.log_dir, note)
    assert (await tollgate(database, "fsck", "--no-store")).exit_code == 1


async def test_recovery(log: Log, database: Database) -> None:
    """An old backup, a new origin: what stands is kept, what is lost is told, and the old receipts still show it."""
    known = await anchors_of(log)
    await asyncio.to_thread(anchor.write, log.config.log_dir, known["the newest checkpoint"])
    nothing = await tollgate(database, "recover", "--yes")
    assert "nothing is lost" in nothing.stderr
    await put_back(log.owner, 560)
    asked = await tollgate(database, "recover")
    assert asked.exit_code == 130, asked.output
    assert "560 stand: 40 are lost" in asked.stderr
    assert await log.owner.fetchval("SELECT count(*) FROM tollgate.log_origin") == 1
    done = await tollgate(database, "recover", "--yes", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["first_size"], said["lost"]) == (560, 40)
    assert matches(ORIGIN, Origin(2, said["origin"], 560, None))
    assert said["origin"] != ORIGIN
    again = await tollgate(database, "recover", "--yes", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["origin"] == said["origin"]
    assert await log.owner.fetchval("SELECT count(*) FROM tollgate.log_origin") == 2
    report = await log.check()
    assert report.as_json()["findings"] == []
    assert (report.entries, report.covered) == (561, 561)
    (entry,) = await log.ledger.read(after=559)
    assert entry.request is not None
    assert entry.request["previous"].encode() == known["the newest checkpoint"]
    assert (entry.request["lost"], entry.request["previous_size"]) == (40, 600)
    # Whoever kept something from before: what was kept still holds, what was lost is said to be.
    for name, data in known.items():
        found = await log.check(held(log, data, name))
        assert found.clean == ("newest" not in name), name
    lost = await log.check(held(log, known["the newest checkpoint"]))
    assert lost.first is not None
    assert "were lost: origin 2 was opened without them" in lost.first.what
    assert (lost.first.index, lost.first.last) == (560, 599)
    # The gateway that had served the lost checkpoint goes on.
    published = Published(log.pool, log.log_keys, log.ledger, log.config.log_dir, ORIGIN)
    await published.start()
    try:
        assert log.ledger.halted is None
        assert published.served is not None
        assert published.served.size == 561
    finally:
        await published.stop()


async def test_recovery_of_a_log_that_was_written_on(log: Log, database: Database) -> None:
    """Without its anchor a gateway wrote on from the backup: what stands is another log than was signed."""
    newest = await kept(log, 600)
    await put_back(log.owner, 300)
    await log.add(100, 150, 150)
    await log.publish()
    await asyncio.to_thread(anchor.write, log.config.log_dir, newest)
    done = await tollgate(database, "recover", "--yes", "--json", "--origin", "log.example/again")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["diverged"], said["first_size"], said["origin"]) == (True, 700, "log.example/again")
    assert (await log.check()).as_json()["findings"] == []
    assert not (await log.check(held(log, newest))).clean
    published = Published(log.pool, log.log_keys, log.ledger, log.config.log_dir, "log.example/again")
    await published.start()
    await published.stop()
    assert log.ledger.halted is None


async def test_a_recovery_that_was_lost_itself(log: Log, database: Database, tmp_path: Path) -> None:
    """The old backup is put back twice. What was signed in between is recovered from, though its origin is gone."""
    newest = await kept(log, 600)
    await put_back(log.owner, 560)
    await asyncio.to_thread(anchor.write, log.config.log_dir, newest)
    first = json.loads((await tollgate(database, "recover", "--yes", "--json")).stdout)
    await log.add(9)
    await log.publish()
    between = await kept(log, 570)
    await put_back(log.owner, 560)
    await log.owner.execute("DELETE FROM tollgate.log_origin WHERE epoch = 2")
    (tmp_path / "between").write_bytes(between)
    done = await tollgate(database, "recover", "--yes", "--json", "--anchor", str(tmp_path / "between"))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["epoch"], said["first_size"], said["previous_size"], said["lost"]) == (2, 560, 570, 10)
    assert said["origin"] not in (first["origin"], ORIGIN)
    assert await log.owner.fetchval("SELECT previous FROM tollgate.log_origin WHERE epoch = 2") == between
    assert (await log.check()).as_json()["findings"] == []
    taken = await tollgate(database, "recover", "--yes", "--anchor", str(tmp_path / "between"), "--origin",
                           first["origin"])  # fmt: skip
    assert taken.exit_code == 1, "the other anchor, of 600, is still not answered for; this name was used"
    assert "a new one needs a new name" in taken.stderr


async def test_a_broken_log_is_not_recovered(log: Log, database: Database) -> None:
    await asyncio.to_thread(anchor.write, log.config.log_dir, await kept(log, 600))
    await put_back(log.owner, 560)
    await log.owner.execute("UPDATE tollgate.log_entry SET kind = 'summary' WHERE idx = 301")
    result = await tollgate(database, "recover", "--yes")
    assert result.exit_code == 1
    assert "what stands is broken: entry 301" in result.stderr
    assert await log.owner.fetchval("SELECT count(*) FROM tollgate.log_origin") == 1


async def test_recovery_needs_the_log_for_itself(log: Log, database: Database) -> None:
    await asyncio.to_thread(anchor.write, log.config.log_dir, await kept(log, 600))
    await put_back(log.owner, 560)
    await log.owner.execute("SELECT pg_advisory_lock($1)", LOCK)
    result = await tollgate(database, "recover", "--yes")
    assert "stop every gateway first" in result.stderr
    await log.owner.execute("SELECT pg_advisory_unlock($1)", LOCK)
    stranger = str(UUID(int=7))
    assert (await tollgate(database, "recover", "--yes", "--origin", stranger + " b")).exit_code == 1
    assert (await tollgate(database, "recover", "--yes", "--origin", ORIGIN)).exit_code == 1


# The server has noticed that the connection is gone.
FREE = "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid::bigint = $1"


@pytest.mark.parametrize("persisted", [False, True], ids=["not persisted", "persisted"])
async def test_each_write_of_a_recovery_fails(log: Log, database: Database, persisted: bool) -> None:
    """The connection is lost at each message, its reply with it: run again, it is done once."""
    notes = [await kept(log, 600)]
    await put_back(log.owner, 560)
    broken, stood = 0, 0
    for at in count(1):
        whole = False
        async with Link(database.url, Role.LOG.value, PASSWORDS[Role.LOG.value]) as link:
            conn = await asyncpg.connect(**link.arguments(), timeout=5)
            try:
                planned = await recovery.plan(conn, log.log_keys, notes)
                link.faults = [Fault(at, persisted)]
                await recovery.recover(conn, log.ledger, planned, "operator")
                whole = True
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, LedgerUnavailable):
                broken += 1
            finally:
                conn.terminate()
        await until(lambda: log.owner.fetchval(FREE, LOCK & 0xFFFFFFFF))
        planned = await recovery.plan(log.owner, log.log_keys, notes)
        stood += planned.done and not whole
        done = await recovery.recover(log.owner, log.ledger, planned, "operator")
        assert (done.done, done.origin, done.first_size) == (True, planned.origin, 560)
        assert await log.owner.fetchval("SELECT count(*) FROM tollgate.log_origin") == 2
        assert await log.owner.fetchval("SELECT size FROM tollgate.log_head") == 561
        assert (await log.check()).as_json()["findings"] == []
        await log.owner.execute("DELETE FROM tollgate.log_origin WHERE epoch = 2")
        await put_back(log.owner, 560)
        if whole:
            break
    assert broken >= 10
    assert (stood >= 1) == persisted, "a lost reply leaves a recovery that stands"
