"""A count relies on entries that the log has signed; and on no more of the store than PostgreSQL lets its role see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.checkpoint import Checkpoint
from keys.notes import Note, sign
from proxy.cli.main import main
from proxy.disclosure import exposure_proof
from proxy.disclosure.exposure import Question
from proxy.ledger.anchor import NAME
from proxy.ledger.checkpoints import LogInconsistent
from proxy.ledger.model import Entry, Kind, LedgerBroken
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.policy.counting import Subject
from schema.roles import Role
from tests.conftest import Database
from tests.support.exposure import ALWAYS, OFFICER, Desk, open_desk
from tests.support.store import calls

ORIGIN = "log.example/calls"


@pytest.fixture
async def desk(database: Database, tmp_path: Path, owner: asyncpg.Connection) -> AsyncIterator[Desk]:
    """A log with an origin, 300 entries and a pull, published; then another pull."""
    async with open_desk(database.config, tmp_path) as made:
        await owner.execute("INSERT INTO tollgate.log_origin (epoch, origin, first_size) VALUES (1, $1, 0)", ORIGIN)
        await made.store.add([*calls(range(20)), *calls(range(20, 24), ingress="789C")])
        await made.pull(limit=5)
        entries = [Entry(Kind.LOG_READ, request={"n": n}) for n in range(300)]
        async with owner.transaction():
            await made.store.ledger.append_in(owner, entries)
        await made.pull()
        await publish(made)
        await made.pull("client-b", ("789C",))
        yield made


async def publish(desk: Desk) -> None:
    def halt(reason: str) -> None:
        raise AssertionError(reason)

    publisher = Publisher(desk.log, LogKeys(desk.signing), halt)
    try:
        assert await publisher.once() is not None
    finally:
        await publisher.stop()


async def counted(desk: Desk, anchors: Path | None = None, client: str = "client-a") -> dict[str, Any]:
    question = Question(Subject("client", client), ALWAYS, datetime.now(UTC), "incident 7")
    return (await desk.exposure(anchors).count(OFFICER, question)).as_json()


@pytest.mark.parametrize("at_once", [1, 4_096])
async def test_entries_are_proved(desk: Desk, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(exposure_proof, "AT_ONCE", at_once)
    value = (await counted(desk))["log"]
    assert (value["entries"], value["unpublished"]) == (4, 0)
    assert value["checkpoint"]["origin"] == ORIGIN
    assert value["checkpoint"]["size"] > 300
    assert not value["anchored"]
    fresh = (await counted(desk, client="client-b"))["log"]
    assert (fresh["entries"], fresh["unpublished"]) == (2, 2), "an entry of just now is in no checkpoint yet"


INTENT = "(SELECT min(idx) FROM tollgate.log_entry WHERE kind = 'access.intent')"
LATE = "(SELECT min(idx) FROM tollgate.log_entry WHERE kind = 'access.intent' AND idx > 300)"


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (
            f"UPDATE tollgate.log_entry SET header = overlay(header PLACING 'x' FROM 9) WHERE idx = {INTENT}",
            LedgerBroken,
        ),
        (f"UPDATE tollgate.log_entry SET leaf_hash = sha256(leaf_hash) WHERE idx = {INTENT}", LedgerBroken),
        ("UPDATE tollgate.log_tile SET hashes = overlay(hashes PLACING '\\x00' FROM 1)", LogInconsistent),
        ("UPDATE tollgate.log_tile SET hashes = overlay(hashes PLACING '\\x00' FROM 8000)", LogInconsistent),
        ("DELETE FROM tollgate.log_tile", LogInconsistent),
        ("UPDATE tollgate.log_checkpoint SET root = sha256(root)", LogInconsistent),
        ("UPDATE tollgate.log_checkpoint SET note = overlay(note PLACING 'x' FROM 30)", LogInconsistent),
        (f"DELETE FROM tollgate.log_entry WHERE idx = {LATE}", LogInconsistent),
    ],
)
async def test_no_count_relies_on_an_entry_that_was_edited(
    desk: Desk, owner: asyncpg.Connection, deed: str, error: type[Exception]
) -> None:
    await owner.execute(deed)
    with pytest.raises(error):
        await counted(desk)


async def test_an_entry_swapped_for_another_that_is_whole_in_itself(desk: Desk, owner: asyncpg.Connection) -> None:
    """A header and its leaf made anew agree with each other, and not with the tree."""
    from proxy.ledger import encoding

    row = await owner.fetchrow(f"SELECT idx, header FROM tollgate.log_entry WHERE idx = {INTENT}")
    value = json.loads(row["header"])
    value["salt"] = "A" * 22
    header = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    await owner.execute(
        "UPDATE tollgate.log_entry SET header = $2, leaf_hash = $3 WHERE idx = $1",
        row["idx"], header, encoding.leaf_hash(header),
    )  # fmt: skip
    with pytest.raises(LedgerBroken, match="not the entry that the log has signed"):
        await counted(desk)


async def test_an_anchor_shows_a_log_that_was_cut_or_rewritten(
    desk: Desk, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    anchor = tmp_path / NAME
    anchor.write_bytes(await owner.fetchval("SELECT note FROM tollgate.log_checkpoint ORDER BY size DESC LIMIT 1"))
    assert (await counted(desk, tmp_path))["log"]["anchored"]
    await publish(desk)
    longer = await owner.fetchval("SELECT note FROM tollgate.log_checkpoint ORDER BY size DESC LIMIT 1")
    assert (await counted(desk, tmp_path))["log"]["anchored"], "the log may have grown"
    await owner.execute("DELETE FROM tollgate.log_checkpoint WHERE note = $1", longer)
    anchor.write_bytes(longer)
    with pytest.raises(LogInconsistent, match="shorter"):
        await counted(desk, tmp_path)
    other = replace(
        Checkpoint.parse(Note.parse(await owner.fetchval("SELECT note FROM tollgate.log_checkpoint")).text),
        root=bytes(32),
    )
    anchor.write_text(str(sign(other.text, LogKeys(desk.signing).signer(other.origin))))
    with pytest.raises(LogInconsistent, match="continue"):
        await counted(desk, tmp_path)
    await owner.execute("DELETE FROM tollgate.log_checkpoint")
    with pytest.raises(LogInconsistent, match="shorter"):
        await counted(desk, tmp_path)


# What PostgreSQL itself refuses.


@pytest.fixture
async def privacy(desk: Desk, database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(database.config.role_url(Role.PRIVACY))
    yield conn
    await conn.close()


async def test_the_privacy_role_sees_the_months_of_its_permit_and_no_leg(privacy: asyncpg.Connection) -> None:
    rows = "SELECT coalesce(sum(rows), 0)::int FROM tollgate.batch"
    assert await privacy.fetchval(rows) == 0
    for first, last, seen in (("202607", "202607", 24), ("202608", "202612", 0), ("202601", "202606", 0)):
        await privacy.execute(
            "SELECT set_config('tollgate.first_month', $1, false), set_config('tollgate.last_month', $2, false)",
            first, last,
        )  # fmt: skip
        assert await privacy.fetchval(rows) == seen
    for statement in (
        "SELECT routing FROM tollgate.batch",
        "SELECT location FROM tollgate.batch",
        "SELECT subscriber FROM tollgate.batch",
        "SELECT device FROM tollgate.batch",
        "SELECT * FROM tollgate.batch",
        "SELECT sealed FROM tollgate.batch_leg",
        "SELECT timing FROM tollgate.staging",
        "SELECT sealed FROM tollgate.tag_segment",
        "SELECT header FROM tollgate.log_entry",
        "SELECT sealed FROM tollgate.log_opening",
        "DELETE FROM tollgate.batch",
        "UPDATE tollgate.batch SET rows = 0",
        "INSERT INTO tollgate.batch (month) VALUES (202607)",
        "DELETE FROM tollgate.log_entry",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await privacy.execute(statement)


async def test_an_unmapped_call_can_be_counted_and_is_no_peers(
    privacy: asyncpg.Connection, owner: asyncpg.Connection, database: Database
) -> None:
    """Legal process reaches what no map names, and what it was given is counted; no peer was ever shown it."""
    await owner.execute(
        "UPDATE tollgate.batch SET egress_ocn = -2 WHERE ingress_ocn = (SELECT max(ingress_ocn) FROM tollgate.batch)"
    )
    peer = await asyncpg.connect(database.config.role_url(Role.BILLING))
    try:
        # As the owner of every OCN there is.
        ocns = await owner.fetchval("SELECT array_agg(DISTINCT ingress_ocn)::text FROM tollgate.batch")
        for conn in (privacy, peer):
            for name, value in (("first_month", "202607"), ("last_month", "202607"), ("ocns", ocns)):
                await conn.execute("SELECT set_config('tollgate.' || $1, $2, false)", name, value)
        assert await privacy.fetchval("SELECT sum(rows)::int FROM tollgate.batch") == 24
        assert await peer.fetchval("SELECT coalesce(sum(rows), 0)::int FROM tollgate.batch") == 20
    finally:
        await peer.close()


# The command.


async def tollgate(database: Database, *words: str) -> Result:
    environment = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200", "TERM": "dumb"}
    words = ("--home", str(database.config.home), "exposure", *words)
    return await asyncio.to_thread(CliRunner().invoke, main, words, env=environment, catch_exceptions=False)


async def test_the_command(desk: Desk, database: Database, tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    asked = ["--client", "client-a", "--from", "2026-01-01", "--reason", "incident 7"]
    result = await tollgate(database, *asked, "--json", "--records", str(file))
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["records"], value["accesses"]["counted"], value["complete"]) == (20, 2, True)
    assert file.read_text() == "first,last\n1,20\n"
    result = await tollgate(database, *asked)
    assert result.exit_code == 0, result.output
    lines = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in result.stdout.splitlines()}
    assert lines["records"] == "20"
    assert lines["distinct telephone numbers"] == str(value["subscribers"]["exact"])
    assert lines["carrier 123A"] == "20"
    assert lines["day 2026-07-01"] == "20"
    assert "+1" not in result.stdout
    kinds = [e.kind for e in await desk.store.ledger.read_last(limit=4)]
    assert kinds == [Kind.EXPOSURE_READ] * 4, "each count is an entry before it, and one after it"


async def test_the_command_freezes(desk: Desk, database: Database, owner: asyncpg.Connection) -> None:
    result = await tollgate(database, "freeze", "2026-07", "--reason", "shredding", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] == 24
    assert (await tollgate(database, "freeze", "2026-07", "--reason", "shredding")).exit_code == 0
    await owner.execute("DELETE FROM tollgate.batch")
    result = await tollgate(database, "freeze", "2026-07", "--reason", "shredding")
    assert (result.exit_code, "holds no records" in result.output) == (1, True)
    assert (await tollgate(database, "--client", "client-a", "--reason", "r")).exit_code == 0, "it was frozen"
    result = await tollgate(database, "--client", "client-a", "--reason", "r", "--to", "2026-01-01")
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reason", "r"], "name one of"),
        (["--client", "a", "--token", "b", "--reason", "r"], "name one of"),
        (["--client", "a"], "say why"),
        (["--client", "a", "--reason", "r", "--from", "yesterday"], "a day or a time"),
        (["freeze", "July", "--reason", "r"], "a month as"),
        (["freeze", "2026-07"], "--reason"),
    ],
)
async def test_what_the_command_refuses(database: Database, words: list[str], said: str) -> None:
    result = await tollgate(database, *words)
    assert result.exit_code == 2
    assert said in result.output


async def test_what_is_missing_ends_with_a_code(desk: Desk, database: Database, owner: asyncpg.Connection) -> None:
    await owner.execute("DELETE FROM tollgate.batch")
    result = await tollgate(database, "--client", "client-a", "--reason", "r")
    assert result.exit_code == 1
    assert "not complete" in result.output
    assert "at least 0" in result.output
