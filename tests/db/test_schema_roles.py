"""The roles' grants, table by table, as one table to be reviewed: a grant that is added or lost shows here."""

from __future__ import annotations

import re

import asyncpg
import pytest

from schema.roles import Role, RoleError, create_roles
from tests.conftest import PASSWORDS

# Of the store's tables and the log's. S select, I insert, U update, D delete; (c) only some columns. Nothing said:
# nothing granted.
GRANTS = {
    "store_head": {"ingest": "SU", "billing": "S", "monitor": "S", "legal": "S"},
    "ingest": {"ingest": "SI", "monitor": "S(c)", "legal": "S(c)"},
    "ingest_reject": {"ingest": "SI"},
    "run": {"ingest": "SID", "billing": "S(c)", "monitor": "S(c)", "legal": "S(c)"},
    "pair": {"ingest": "SI"},
    "staging": {"ingest": "SID"},
    "batch": {"ingest": "SID", "billing": "S(c)", "privacy": "S(c)", "legal": "S(c)"},
    "batch_leg": {"ingest": "SID", "billing": "S", "legal": "S"},
    "tag_segment": {"ingest": "SID", "billing": "S", "legal": "S"},
    "fingerprint_segment": {"ingest": "SID"},
    "held": {"legal": "SI(c)U(c)", "cases": "S(c)"},
    "held_piece": {"legal": "SI"},
    "held_source": {"legal": "SI"},
    "migration": {"monitor": "S"},
    # What is appended, `log_append` writes, as its owner.
    "log_head": {"log": "SU(c)"} | dict.fromkeys(("ingest", "operator", "privacy", "legal", "cases", "monitor"), "S"),
    "log_entry": {"log": "S"},
    "log_opening": {"log": "S"},
    "log_tag": {"log": "S"},
    "log_origin": {"log": "SI"},
    "log_tile": {"log": "SI"},
    "log_checkpoint": {"log": "SI"},
    "log_cosignature": {"log": "SI"},
    "log_erase_order": {"log": "SI"},
}


async def granted(owner: asyncpg.Connection, table: str) -> dict[str, str]:
    """What each role may do, inherited rights too."""
    found = {}
    for role in Role:
        letters = ""
        for letter, right in (("S", "SELECT"), ("I", "INSERT"), ("U", "UPDATE"), ("D", "DELETE"), ("T", "TRUNCATE")):
            whole = await owner.fetchval(
                "SELECT has_table_privilege($1, $2, $3)", role.value, f"tollgate.{table}", right
            )
            some = right not in ("DELETE", "TRUNCATE") and await owner.fetchval(
                "SELECT has_any_column_privilege($1, $2, $3)", role.value, f"tollgate.{table}", right
            )
            letters += letter if whole else f"{letter}(c)" if some else ""
        if letters:
            found[role.value.removeprefix("tollgate_")] = letters
    return found


async def test_the_tables(owner: asyncpg.Connection) -> None:
    assert {t: await granted(owner, t) for t in GRANTS} == GRANTS


async def test_billings_columns_of_a_batch(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT table_name, column_name FROM information_schema.column_privileges WHERE grantee = 'tollgate_billing'"
        " AND table_schema = 'tollgate' AND table_name IN ('batch', 'run')"
    )
    columns: dict[str, set[str]] = {}
    for r in rows:
        columns.setdefault(r["table_name"], set()).add(r["column_name"])
    assert columns == {
        "batch": {"month", "batch_id", "pair_id", "rows", "first_record_id", "last_record_id", "first_start"}
        | {"last_start", "format", "classes", "timing", "parties", "routing"},
        "run": {"month", "run_id", "level", "first_record_id", "last_record_id", "tag_bits"},
    }


async def test_public_and_partitions_have_nothing(owner: asyncpg.Connection) -> None:
    await owner.execute("SELECT tollgate.ensure_month(203512)")
    rows = await owner.fetch(
        "SELECT relname, relacl::text AS acl FROM pg_class WHERE relnamespace = 'tollgate'::regnamespace"
        " AND relkind IN ('r', 'p', 'S') AND relacl IS NOT NULL"
    )
    for r in rows:
        entries = r["acl"].strip("{}").split(",")
        assert not [e for e in entries if e.startswith(("=", '"='))], f"{r['relname']}: granted to everybody"
        if re.search(r"_\d{6}$", r["relname"]):
            assert not [e for e in entries if "tollgate_" in e.split("=")[0]], (
                f"{r['relname']}: a way around its parent"
            )
    assert not await owner.fetchval("SELECT has_schema_privilege('public', 'tollgate', 'USAGE')")
    for role in Role:
        assert not await owner.fetchval("SELECT has_schema_privilege($1, 'tollgate', 'CREATE')", role.value)


async def test_functions_that_run_as_their_owner_are_few_and_closed(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'tollgate'::regnamespace AND prosecdef"
    )
    assert "ensure_month" in {r["proname"] for r in rows}
    for r in rows:
        path = [c for c in r["proconfig"] or () if c.startswith("search_path=")]
        assert path, f"{r['proname']} runs as its owner with the caller's search path"
    for role in Role:
        may = await owner.fetchval(
            "SELECT has_function_privilege($1, 'tollgate.ensure_month(int)', 'EXECUTE')", role.value
        )
        assert may == (role is Role.INGEST)


async def test_no_role_passes_row_level_security(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication AS strong"
        " FROM pg_roles WHERE rolname = ANY ($1)",
        ["tollgate_log_writer", *(role.value for role in Role)],
    )
    assert {r["rolname"] for r in rows} >= {role.value for role in Role}
    assert [r["rolname"] for r in rows if r["strong"]] == []
    members = await owner.fetch(
        "SELECT m.member::regrole::text AS member, m.roleid::regrole::text AS of FROM pg_auth_members m"
        " WHERE m.member::regrole::text LIKE 'tollgate\\_%'"
    )
    assert {(r["member"], r["of"]) for r in members} == {
        (r.value, "tollgate_log_writer")
        for r in (Role.LOG, Role.INGEST, Role.OPERATOR, Role.PRIVACY, Role.LEGAL, Role.CASES)
    }


async def test_a_role_that_may_pass_it_is_refused(owner: asyncpg.Connection) -> None:
    """Inside a transaction that is rolled back: roles are the whole server's."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute("ALTER ROLE tollgate_billing BYPASSRLS")
        with pytest.raises(RoleError, match="tollgate_billing"):
            await create_roles(owner, PASSWORDS)
    finally:
        await transaction.rollback()
