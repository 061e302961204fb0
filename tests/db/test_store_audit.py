"""`store check`: whatever a superuser does to the store behind the log's back is found and named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from proxy.store.fingerprints import FAN
from tests.conftest import Database
from tests.support.store import JULY, Store, call, calls, open_store, unmapped_profile


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    """Two months; three runs of July: two rolled, one staged; three pairs."""
    async with open_store(database.config, tmp_path) as made:
        await made.add(
            [*calls(range(30)), *calls(range(30, 40), ingress="789C"), *calls([40], at=JULY + timedelta(days=40))]
        )
        await made.add(calls(range(50, 52), egress="789C"))
        await made.ingest(calls(range(60, 63)))
        yield made


async def test_a_clean_store_gives_no_finding(store: Store, tmp_path: Path) -> None:
    assert await store.conn.fetchval("SELECT count(*) FROM tollgate.run") == 4
    assert await store.check() == []
    await store.roll()
    assert await store.check() == []
    for n in range(FAN + 1):  # fingerprints merge, runs merge
        await store.add([call(100 + n, at=JULY)])
        assert await store.check() == []
    profile = unmapped_profile(tmp_path)
    await store.add(
        [call(n, ingress_ocn="", egress_ocn="", ingress_trunk="trunk-in-x") for n in range(200, 205)], profile
    )
    assert await store.check() == []
    assert (await store.remap(unmapped_profile(tmp_path, {"trunk-in-x": "123A"}))).mapped == 5
    assert await store.check() == []


async def test_an_empty_store_gives_no_finding(database: Database, tmp_path: Path) -> None:
    async with open_store(database.config, tmp_path) as empty:
        assert await empty.check() == []


FLIP = "set_byte({0}, length({0}) / 2, get_byte({0}, length({0}) / 2) # 1)"
ANY = "ctid = (SELECT min(ctid) FROM {0})"

# What is done → what is found, at the least. One row each, the first of its table.
DEEDS: dict[str, tuple[str, set[str]]] = {
    "a batch deleted": ("DELETE FROM tollgate.batch_202607 WHERE {one}", {"batch missing"}),
    "a batch and its legs deleted": (
        "WITH b AS (DELETE FROM tollgate.batch_202607 WHERE {one} RETURNING batch_id)"
        " DELETE FROM tollgate.batch_leg l USING b WHERE l.batch_id = b.batch_id",
        {"batch missing"},
    ),
    "a leg deleted": ("DELETE FROM tollgate.batch_leg_202607 WHERE {one}", {"batch changed"}),
    "a byte of a class": (
        f"UPDATE tollgate.batch_202607 SET parties = {FLIP.format('parties')} WHERE {{one}}",
        {"batch changed"},
    ),
    "a byte of a leg": (
        f"UPDATE tollgate.batch_leg_202607 SET sealed = {FLIP.format('sealed')} WHERE {{one}}",
        {"batch changed"},
    ),
    "a class dropped": ("UPDATE tollgate.batch_202607 SET routing = NULL WHERE {one}", {"batch changed"}),
    "a class dropped and its bit": (
        "UPDATE tollgate.batch_202607 SET routing = NULL, classes = classes & ~4 WHERE {one}",
        {"batch changed"},
    ),
    "a start": ("UPDATE tollgate.batch_202607 SET first_start = first_start - 1 WHERE {one}", {"batch changed"}),
    "a record range": ("UPDATE tollgate.batch_202607 SET last_record_id = 0 WHERE {one}", {"batch changed"}),
    "an OCN of a batch": ("UPDATE tollgate.batch_202607 SET egress_ocn = -2 WHERE {one}", {"batch changed"}),
    "an OCN of a leg": ("UPDATE tollgate.batch_leg_202607 SET ocn = 4711 WHERE {one}", {"leg changed"}),
    "the place of a leg in the order": (
        "UPDATE tollgate.batch_leg_202607 SET last_record_id = 0 WHERE {one}",
        {"leg changed"},
    ),
    "a leg marked unmapped": ("UPDATE tollgate.batch_leg_202607 SET mapped = false WHERE {one}", {"leg changed"}),
    "the pair of a leg": ("UPDATE tollgate.batch_leg_202607 SET pair_id = pair_id + 9 WHERE {one}", {"leg changed"}),
    "a batch moved to another run": (
        "UPDATE tollgate.batch_202607 SET run_id = (SELECT max(run_id) FROM tollgate.run WHERE month = 202607"
        " AND level = 1) WHERE ctid = (SELECT min(ctid) FROM tollgate.batch_202607)",
        {"batch missing", "batch unknown to its run"},
    ),
    "two batches swapped": (
        "WITH two AS (SELECT min(batch_id) AS a, max(batch_id) AS b FROM tollgate.batch_202607)"
        " UPDATE tollgate.batch_202607 x SET parties = (SELECT y.parties FROM tollgate.batch_202607 y, two"
        " WHERE y.batch_id = CASE x.batch_id WHEN two.a THEN two.b ELSE two.a END) FROM two"
        " WHERE x.batch_id IN (two.a, two.b)",
        {"batch changed"},
    ),
    "a staged piece deleted": ("DELETE FROM tollgate.staging_202607", {"batch missing"}),
    "a byte of a staged piece": (
        f"UPDATE tollgate.staging_202607 SET timing = {FLIP.format('timing')}",
        {"batch changed"},
    ),
    "a tag segment deleted": ("DELETE FROM tollgate.tag_segment_202607 WHERE {one}", {"tag segment missing"}),
    "a byte of a tag segment": (
        f"UPDATE tollgate.tag_segment_202607 SET sealed = {FLIP.format('sealed')} WHERE {{one}}",
        {"tag segment changed"},
    ),
    "a tag segment slipped in": (
        "INSERT INTO tollgate.tag_segment SELECT month, run_id, 4711, entries, sealed FROM tollgate.tag_segment_202607"
        " WHERE {one}",
        {"tag segment unknown to its run"},
    ),
    "a fingerprint segment deleted": (
        "DELETE FROM tollgate.fingerprint_segment_202607 WHERE {one}",
        {"fingerprint segment missing"},
    ),
    "a byte of a fingerprint segment": (
        f"UPDATE tollgate.fingerprint_segment_202607 SET sealed = {FLIP.format('sealed')} WHERE {{one}}",
        {"fingerprint segment changed"},
    ),
    "a fingerprint segment moved to another day": (
        "UPDATE tollgate.fingerprint_segment_202607 SET day = day + 1 WHERE {one}",
        {"fingerprint segment changed"},
    ),
    "a fingerprint segment slipped in": (
        "INSERT INTO tollgate.fingerprint_segment SELECT month, day, 4711, level, entries, sealed"
        " FROM tollgate.fingerprint_segment_202607 WHERE {one}",
        {"fingerprint segment unknown to the log"},
    ),
    "a run dropped": ("DELETE FROM tollgate.run WHERE {one}", {"run missing"}),
    "a run dropped with all that is in it": (
        "WITH r AS (DELETE FROM tollgate.run WHERE {one} RETURNING month, run_id), b AS (DELETE FROM tollgate.batch x"
        " USING r WHERE x.month = r.month AND x.run_id = r.run_id RETURNING x.month, x.batch_id), t AS (DELETE FROM"
        " tollgate.tag_segment x USING r WHERE x.month = r.month AND x.run_id = r.run_id)"
        " DELETE FROM tollgate.batch_leg x USING b WHERE x.month = b.month AND x.batch_id = b.batch_id",
        {"run missing"},
    ),
    "a manifest": ("UPDATE tollgate.run SET manifest = manifest || '\\x00' WHERE {one}", {"run changed"}),
    "a run hidden from searches": ("UPDATE tollgate.run SET tag_bits = tag_bits + 1 WHERE {one}", {"run changed"}),
    "a run hidden from who asks for what is new": (
        "UPDATE tollgate.run SET last_record_id = 0 WHERE {one}",
        {"run changed"},
    ),
    "a staged run taken for a rolled one": ("UPDATE tollgate.run SET level = 1 WHERE level = 0", {"run changed"}),
    "a staged run's ids": (
        "UPDATE tollgate.run SET first_record_id = first_record_id - 1 WHERE level = 0",
        {"run changed"},
    ),
    "a run slipped in": (
        "INSERT INTO tollgate.run SELECT month, 4711, level, ingest_id, rows, first_record_id, last_record_id,"
        " tag_bits, manifest FROM tollgate.run WHERE {one}",
        {"run unknown to the log"},
    ),
}


async def test_deeds(store: Store, owner: asyncpg.Connection) -> None:
    """Each deed is undone after it: one store serves for all of them."""
    wrong = []
    for what, (statement, wanted) in DEEDS.items():
        found = await after(store, owner, statement)
        if not wanted <= set(found):
            wrong.append((what, found))
    assert wrong == []
    assert await store.check() == []


async def after(store: Store, owner: asyncpg.Connection, statement: str) -> list[str]:
    """What is found after a deed, which is undone again."""
    table = statement.rpartition("WHERE {one}")[0].rpartition("tollgate.")[2].split()[0] if "{one}" in statement else ""
    tables = (
        "run",
        "staging_202607",
        "batch_202607",
        "batch_leg_202607",
        "tag_segment_202607",
        "fingerprint_segment_202607",
    )
    kept = [await saved(owner, t) for t in tables]
    done = await owner.execute(statement.replace("{one}", ANY.format(f"tollgate.{table}")))
    assert int(done.split()[-1]) > 0, f"nothing was done: {statement}"
    try:
        return await store.check()
    finally:
        for restore in kept:
            await restore()


async def saved(owner: asyncpg.Connection, table: str) -> Callable[[], Awaitable[None]]:
    rows = await owner.fetch(f"SELECT * FROM tollgate.{table}")

    async def restore() -> None:
        await owner.execute(f"DELETE FROM tollgate.{table}")
        if rows:
            places = ", ".join(f"${i + 1}" for i in range(len(rows[0])))
            await owner.executemany(f"INSERT INTO tollgate.{table} VALUES ({places})", [tuple(r) for r in rows])

    return restore


async def test_a_batch_that_was_rolled_away_and_put_back(store: Store, owner: asyncpg.Connection) -> None:
    """From a backup, say: its ciphertext opens, and a peer would get its records twice."""
    whole = len(await store.pull())
    batches = await owner.fetch("SELECT * FROM tollgate.batch_202607")
    legs = await owner.fetch("SELECT * FROM tollgate.batch_leg_202607")
    await store.add(calls(range(300, 360)))
    for table, rows in (("batch", batches), ("batch_leg", legs)):
        places = ", ".join(f"${i + 1}" for i in range(len(rows[0])))
        await owner.executemany(
            f"INSERT INTO tollgate.{table} VALUES ({places}) ON CONFLICT DO NOTHING", [tuple(r) for r in rows]
        )
    assert len(await store.pull()) > whole + 60, "the records do not come twice: this test shows nothing"
    assert "batch of no run" in await store.check()


async def test_an_orphan_of_any_kind(store: Store, owner: asyncpg.Connection) -> None:
    """Objects whose run the store does not know are found too."""
    for table, columns, what in (
        ("staging", "month, 4711, piece, rows, first_start, last_start, format, classes, timing", "piece of no run"),
        ("tag_segment", "month, 4711, bucket, entries, sealed", "tag segment of no run"),
        ("batch_leg", "month, 4711, side, ocn, pair_id, last_record_id, mapped, sealed", "leg of no batch"),
    ):
        await owner.execute(f"INSERT INTO tollgate.{table} SELECT {columns} FROM tollgate.{table}_202607 LIMIT 1")
        assert await store.check() == [what]
        key = "batch_id" if table == "batch_leg" else "run_id"
        await owner.execute(f"DELETE FROM tollgate.{table} WHERE {key} = 4711")
    assert await store.check() == []


async def test_a_finding_names_the_entry_that_made_it(store: Store, owner: asyncpg.Connection) -> None:
    from proxy.store.audit import check

    await owner.execute("DELETE FROM tollgate.batch_202607 WHERE " + ANY.format("tollgate.batch_202607"))
    (finding,) = [f async for f in check(store.conn, store.ledger) if f.what == "batch missing"]
    entries = {e.index: e for e in await store.ledger.read()}
    assert finding.entry is not None
    assert entries[finding.entry].kind.value == "store.roll"
    assert str(finding.object_id) in str(finding)
