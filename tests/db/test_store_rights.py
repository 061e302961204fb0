"""What PostgreSQL itself refuses: each runtime role with raw SQL, and the plans of the reader's own statements."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from keys.errors import SealError
from schema.fields import ocn_code
from schema.roles import Role
from tests.conftest import Database
from tests.support.store import Store, call, calls, number, open_store

SEALED = ("staging", "batch", "batch_leg", "tag_segment", "fingerprint_segment", "ingest_reject")
A, B, C = (ocn_code(o) for o in ("123A", "456B", "789C"))


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    """A to B, C to B, A to nobody, A to who knows; a refused line; a staged run."""
    async with open_store(database.config, tmp_path) as made:
        rows = [*calls(range(5)), *calls(range(5, 9), ingress="789C"), *calls([9], egress="none", egress_call_id="")]
        rows += [call(10, egress="", egress_trunk="trunk-nowhere"), call(11, duration_ms=-1)]
        await made.add(rows)
        await made.ingest(calls(range(20, 22)))
        yield made


async def login(database: Database, role: Role) -> asyncpg.Connection:
    return await asyncpg.connect(database.config.role_url(role))


async def permit(conn: asyncpg.Connection, ocns: list[int] | None, first: int = 202601, last: int = 202612) -> None:
    await conn.execute(
        "SELECT set_config('tollgate.ocns', $1, false), set_config('tollgate.first_month', $2, false),"
        " set_config('tollgate.last_month', $3, false)",
        "" if ocns is None else "{" + ",".join(map(str, ocns)) + "}",
        str(first),
        str(last),
    )


@pytest.fixture
async def billing(store: Store, database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await login(database, Role.BILLING)
    yield conn
    await conn.close()


async def batches(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT coalesce(sum(rows), 0) FROM tollgate.batch"))


async def legs(conn: asyncpg.Connection) -> set[tuple[int, int]]:
    return {tuple(r) for r in await conn.fetch("SELECT side, ocn FROM tollgate.batch_leg")}


async def test_billing_without_a_permit_sees_nothing(billing: asyncpg.Connection) -> None:
    for table in ("batch", "batch_leg", "tag_segment"):
        assert await billing.fetchval(f"SELECT count(month) FROM tollgate.{table}") == 0
    await permit(billing, None)
    assert await batches(billing) == 0
    await permit(billing, [])
    assert await batches(billing) == 0
    assert await legs(billing) == set()


async def test_billing_sees_its_own_batches_and_its_own_legs(billing: asyncpg.Connection) -> None:
    await permit(billing, [A])
    assert await batches(billing) == 6  # five to B, one to nobody; not the unmapped one, not C's
    assert {(1, A)} == await legs(billing)
    await permit(billing, [B])
    assert await batches(billing) == 9
    assert await legs(billing) == {(2, B)}
    await permit(billing, [ocn_code("999Z")])
    assert await batches(billing) == 0
    assert await legs(billing) == set()


async def test_billing_sees_no_month_beyond_its_permit(billing: asyncpg.Connection) -> None:
    for first, last, seen in ((202607, 202607, 6), (202608, 202612, 0), (202601, 202606, 0), (202608, 202606, 0)):
        await permit(billing, [A], first, last)
        assert await batches(billing) == seen
        assert bool(await legs(billing)) == bool(seen)
        assert bool(await billing.fetchval("SELECT count(*) FROM tollgate.tag_segment")) == bool(seen)


async def test_unmapped_is_nobodys_whatever_is_set(billing: asyncpg.Connection) -> None:
    """The permit of a gateway gone wrong: every OCN there is, the two states too."""
    await permit(billing, [A, B, C, -1, -2], 0, 999_999)
    assert await batches(billing) == 10
    # Nor the mapped side's own ciphertext: legs are shown of the batches that are, and of no other.
    shown = await billing.fetchval("SELECT count(*) FROM tollgate.batch_leg")
    assert shown == 2 * await billing.fetchval("SELECT count(*) FROM tollgate.batch")
    assert -2 not in {ocn for _, ocn in await legs(billing)}


async def test_a_partition_is_no_way_around(billing: asyncpg.Connection) -> None:
    await permit(billing, [A])
    for table in SEALED:
        if table != "ingest_reject":
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await billing.fetch(f"SELECT month FROM tollgate.{table}_202607")


HIDDEN = (
    "batch.ingress_ocn",
    "batch.egress_ocn",
    "batch.location",
    "batch.subscriber",
    "batch.device",
    "batch.source",
    "batch.run_id",
    "staging.timing",
    "staging.rows",
    "fingerprint_segment.sealed",
    "ingest_reject.line_numbers",
    "ingest_reject.sealed",
    "ingest.name_sealed",
    "ingest.lines",
    "pair.ingress_ocn",
    "run.manifest",
    "run.ingest_id",
    "run.rows",
)


async def test_billing_may_not_read(billing: asyncpg.Connection) -> None:
    await permit(billing, [A])
    for column in HIDDEN:
        table, name = column.split(".")
        for query in (f"SELECT {name} FROM tollgate.{table}", f"SELECT 1 FROM tollgate.{table} WHERE {name} IS NULL"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await billing.fetch(query)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await billing.fetch(f"SELECT * FROM tollgate.{table}")


async def test_billing_may_not_write(billing: asyncpg.Connection) -> None:
    await permit(billing, [A])
    tables = await billing.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'tollgate'")
    assert len(tables) > 15
    for row in tables:
        name = row["tablename"]
        for statement in (
            f"DELETE FROM tollgate.{name}",
            f"TRUNCATE tollgate.{name}",
            f"INSERT INTO tollgate.{name} DEFAULT VALUES",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await billing.execute(statement)
        for column in await billing.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = ('tollgate.' || $1)::regclass AND attnum > 0", name
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await billing.execute(f"UPDATE tollgate.{name} SET {column['attname']} = DEFAULT")
    for statement in (
        "SELECT tollgate.ensure_month(202701)",
        "CREATE TABLE tollgate.mine ()",
        "SET ROLE tollgate_ingest",
        "SET row_security = off; SELECT month FROM tollgate.batch",
        "ALTER TABLE tollgate.batch DISABLE ROW LEVEL SECURITY",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await billing.execute(statement)


async def test_other_roles_read_no_ciphertext(store: Store, database: Database) -> None:
    for role in (Role.LOG, Role.OAUTH, Role.OPERATOR, Role.MONITOR):
        conn = await login(database, role)
        for table in SEALED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(f"SELECT count(*) FROM tollgate.{table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT name_sealed FROM tollgate.ingest")
        await conn.close()


async def test_ingest_cannot_rewrite(store: Store) -> None:
    """It inserts, and deletes what a roll replaces; it changes nothing in place."""
    for table in (*SEALED, "run", "ingest", "pair", "log_entry", "log_opening"):
        columns = await store.conn.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = ('tollgate.' || $1)::regclass AND attnum > 0", table
        )
        for column in columns:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await store.conn.execute(f"UPDATE tollgate.{table} SET {column['attname']} = DEFAULT")
    for table in ("ingest", "ingest_reject", "pair", "store_head", "log_entry", "log_opening", "data_key"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.conn.execute(f"DELETE FROM tollgate.{table}")


async def test_every_table_with_ciphertext_forces_row_level_security(owner: asyncpg.Connection, store: Store) -> None:
    rows = await owner.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class"
        " WHERE relnamespace = 'tollgate'::regnamespace AND relkind IN ('r', 'p')"
    )
    forced = {r["relname"] for r in rows if r["forced"]}
    held = {r["relname"] for r in rows if re.sub(r"_\d{6}$", "", r["relname"]) in SEALED}
    assert set(SEALED) < held
    assert held <= forced


async def test_ciphertext_lies_out_of_line_and_uncompressed(owner: asyncpg.Connection, store: Store) -> None:
    """`substring` of a chunk then reads only its pages."""
    rows = await owner.fetch(
        "SELECT c.relname, a.attname, a.attstorage FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'tollgate'::regnamespace AND c.relkind IN ('r', 'p') AND a.atttypid = 'bytea'::regtype"
        " AND c.relname ~ '^(batch|batch_leg|staging|tag_segment|fingerprint_segment)(_[0-9]{6})?$'"
    )
    assert len(rows) > 30
    assert {bytes(r["attstorage"]) if isinstance(r["attstorage"], bytes) else r["attstorage"] for r in rows} <= {
        b"e",
        "e",
    }


# Plans. Under a policy only leakproof operators may reach an index.


async def test_every_operator_of_a_policy_is_leakproof(owner: asyncpg.Connection) -> None:
    """Found in the stored expressions, so that a policy added later is held to it too."""
    rows = await owner.fetch(
        "SELECT c.relname, p.polname, coalesce(p.polqual::text, '') || coalesce(p.polwithcheck::text, '') AS tree"
        " FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid"
    )
    assert len(rows) >= 9
    operators = {int(oid) for r in rows for oid in re.findall(r":opno (\d+)", r["tree"])}
    assert operators
    found = await owner.fetch(
        "SELECT o.oid, o.oprname, p.proleakproof FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode"
        " WHERE o.oid = ANY ($1::oid[])",
        list(operators),
    )
    assert {r["oid"] for r in found} == operators
    assert [r["oprname"] for r in found if not r["proleakproof"]] == []
    # Functions in a policy take nothing from the row: then they cannot leak it.
    for r in rows:
        for node in re.findall(r"\{FUNCEXPR .*?:args (<>|\()", r["tree"]):
            assert node == "<>", f"policy {r['polname']} of {r['relname']} calls a function on a column"


def walk(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(n for child in plan.get("Plans", ()) for n in walk(child))]


@pytest.fixture
async def many(store: Store, owner: asyncpg.Connection) -> Store:
    """The one month's tables, filled with rows (of no meaning) until a scan would be a mistake."""
    await owner.execute(
        """
        INSERT INTO tollgate.batch (month, batch_id, run_id, pair_id, ingress_ocn, egress_ocn, rows, first_record_id,
            last_record_id, first_start, last_start, format, classes, timing)
        SELECT 202607, 9000000000000 + i, 9000, i % 300 + 50, i % 90 + 5000, i % 70 + 6000, 10, i * 10, i * 10 + 9,
            0, 1, 1, 1, '\\x00' FROM generate_series(1, 20000) i;
        INSERT INTO tollgate.batch_leg (month, batch_id, side, ocn, pair_id, last_record_id, mapped, sealed)
        SELECT month, batch_id, s, CASE s WHEN 1 THEN ingress_ocn ELSE egress_ocn END, pair_id, last_record_id, true,
            '\\x00'
            FROM tollgate.batch, generate_series(1, 2) s WHERE run_id = 9000;
        INSERT INTO tollgate.tag_segment (month, run_id, bucket, entries, sealed)
        SELECT 202607, 9000 + i % 20, i / 20, 1, '\\x00' FROM generate_series(1, 20000) i;
        INSERT INTO tollgate.fingerprint_segment (month, day, segment_id, level, entries, sealed)
        SELECT 202607, 20635 + i % 30, 90000 + i, 0, 1, '\\x00' FROM generate_series(1, 5000) i;
        """
    )
    for table in ("batch", "batch_leg", "tag_segment", "fingerprint_segment", "run"):
        await owner.execute(f"ANALYZE tollgate.{table}")
    return store


class Explained:
    """Every SELECT on the store that a role's connections send, with its plan as that role has it."""

    def __init__(self, patch: pytest.MonkeyPatch, role: Role) -> None:
        self.plans: list[tuple[str, list[dict[str, Any]]]] = []
        original = asyncpg.Connection.fetch

        async def fetch(conn: asyncpg.Connection, query: str, *args: Any, **more: Any) -> Any:
            # Not what asks data_key or run: a handful of rows each, and no policy on them.
            if conn._params.user == role.value and re.search(r"FROM tollgate\.(batch|tag_seg|finger|staging)", query):
                ((text,),) = await original(conn, "EXPLAIN (FORMAT JSON) " + query, *args)
                self.plans.append((query, walk(json.loads(text)[0]["Plan"])))
            return await original(conn, query, *args, **more)

        patch.setattr(asyncpg.Connection, "fetch", fetch)


def no_scan(explained: Explained, tables: set[str]) -> None:
    seen = set()
    for query, nodes in explained.plans:
        scans = [n for n in nodes if "Scan" in n["Node Type"]]
        for node in scans:
            name = re.sub(r"_\d{6}$", "", node.get("Relation Name", ""))
            kind = node["Node Type"]
            if name in ("batch", "batch_leg", "tag_segment", "fingerprint_segment"):
                seen.add(name)
                assert kind in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan"), f"{kind} on {name}: {query}"
                assert node.get("Index Cond") or kind == "Bitmap Heap Scan", f"{name}: {query}"
            elif name == "run":
                continue  # a row for a million records, and no policy on it
            elif kind == "Function Scan":
                assert node.get("Function Name", "unnest") == "unnest", query  # several arrays at once have no name
            else:
                assert kind in ("Bitmap Index Scan", "Index Scan", "Index Only Scan", "Subquery Scan"), (
                    f"{kind}: {query}"
                )
    assert seen == tables, "not every statement was seen: the test shows nothing"


async def test_plans_of_a_pull(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    explained = Explained(monkeypatch, Role.BILLING)
    rows = await many.pull(await many.scope(["123A", "789C"], as_of=10**9))
    assert len(rows) == 10
    assert len(explained.plans) >= 2
    no_scan(explained, {"batch", "batch_leg"})


async def test_plans_of_a_search(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    explained = Explained(monkeypatch, Role.BILLING)
    rows = await many.pull(await many.scope(["123A", "789C"], as_of=10**9), search=number(0))
    assert rows
    assert len(explained.plans) >= 4
    no_scan(explained, {"batch", "batch_leg", "tag_segment"})


async def test_plans_of_the_ingest_of_a_duplicate(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    explained = Explained(monkeypatch, Role.INGEST)
    with pytest.raises(SealError):  # the segments of no meaning do not open; the plan is what counts
        await many.ingest(calls(range(3)))
    no_scan(explained, {"fingerprint_segment"})


async def test_a_policy_on_arrays_would_be_seen(
    many: Store, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap this guards against: `&&` on arrays is not leakproof, and the index is off without a word."""
    await owner.execute(
        "DROP POLICY billing ON tollgate.batch_leg;"
        "CREATE POLICY billing ON tollgate.batch_leg FOR SELECT TO tollgate_billing"
        " USING (ARRAY[ocn] && tollgate.own_ocns())"
    )
    with pytest.raises(AssertionError, match="&&"):
        await test_every_operator_of_a_policy_is_leakproof(owner)
