"""Invariant 6: a dump of the whole database shows nothing of what is in the records."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import Database
from tests.support.store import Store, call, calls, number, open_store

SECRETS: dict[str, Any] = {
    "calling": "+12025550123",
    "called": "+13035550145",
    "dialed": "01154911000",
    "charge_number": "+14045550167",
    "account": "ACCT-55510-XYZ",
    "name": "Example Subscriber",
    "address_of_record": "100 Example Street",
    "imsi": "001010555012345",
    "imei": "350000555012347",
    "cell": "cell-9911-77",
    "sector": "sector-east-4",
    "latitude": "38.90720011",
    "longitude": "-77.03690022",
    "ingress_trunk": "TG-SECRET-IN",
    "egress_trunk": "TG-SECRET-OUT",
    "ingress_call_id": "callid-in-77-secret@example",
    "egress_call_id": "callid-out-77-secret@example",
    "ingress_peer_address": "203.0.113.77",
    "egress_peer_address": "203.0.113.88",
    "ingress_rate": "0.01234567",
    "ingress_amount": "77.65432100",
    "egress_rate": "0.07654321",
    "egress_amount": "66.54321700",
    "origid": "0b1e7a3c-5555-4444-8888-aabbccddeeff",
    "called_lrn": "+15055550188",
    "jip": "202555",
}


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    """Everything that leaves traces: staged and rolled records, duplicates, conflicts, rejects, a file's name."""
    async with open_store(database.config, tmp_path) as made:
        secret = call(1, **SECRETS)
        await made.ingest(made.file([secret, *calls(range(2, 60))], "numbers-of-Example-Customer.csv"))
        await made.roll()
        rows = [
            secret,
            {**secret, "codec": "x"},
            {**secret, "duration_ms": "-1"},
            {**secret, "started_at": "0001-01-01"},
        ]
        report = await made.ingest([*rows, call(70, **{**SECRETS, "ingress_call_id": "other"})])
        assert (report.stored, report.duplicates, report.conflicts, report.rejected) == (1, 1, 1, 2)
        yield made


def traces(value: str) -> set[bytes]:
    """How a value would look in a dump: as text, in hexadecimal, as binary integers, packed."""
    found = {value.encode(), value.encode("utf-16-le"), value.encode().hex().encode()}
    if re.fullmatch(r"\+?\d{7,15}", value):
        digits = value.removeprefix("+")
        found |= {digits.encode(), digits[-10:].encode()}
        for code in (">q", "<q"):
            found.add(struct.pack(code, int(digits)).strip(b"\0"))
        found.add(bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2)))
    if re.fullmatch(r"-?\d+\.\d+", value):
        units = int(value.replace(".", "").removeprefix("-"))
        found |= {
            value.rstrip("0").encode(),
            struct.pack(">q", units).strip(b"\0"),
            struct.pack("<q", units).strip(b"\0"),
        }
    return {t for t in found if len(t) >= 4}


async def dump(owner: asyncpg.Connection) -> dict[str, bytes]:
    """Every value of every table, by column: bytea as it is, everything else as PostgreSQL prints it."""
    found: dict[str, bytes] = {}
    columns = await owner.fetch(
        "SELECT c.relname, a.attname, a.atttypid = 'bytea'::regtype AS raw FROM pg_attribute a JOIN pg_class c"
        " ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('tollgate', 'public') AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"
    )
    for c in columns:
        cast = "" if c["raw"] else "::text"
        rows = await owner.fetch(f'SELECT "{c["attname"]}"{cast} AS v FROM tollgate."{c["relname"]}"')
        values = [r["v"] if c["raw"] else r["v"].encode() for r in rows if r["v"] is not None]
        found[f"{c['relname']}.{c['attname']}"] = b"\n".join(values)
    return found


async def test_no_value_of_a_record_is_in_any_column(store: Store, owner: asyncpg.Connection) -> None:
    held = await dump(owner)
    assert sum(len(v) for k, v in held.items() if k.startswith("batch")) > 1_500
    assert any(k.startswith("staging_") and v for k, v in held.items())
    values = (
        {str(v) for v in SECRETS.values()} | {number(n) for n in range(60)} | {"Example-Customer", "switch", "answered"}
    )
    values |= {"callid-in-", "trunk-in-", "192.0.2.77", "198.51.100.88"}
    shown = {
        (column, value)
        for value in values
        for trace in traces(value)
        for column, content in held.items()
        # A random four bytes may stand anywhere: long traces in ciphertext, any in what is no ciphertext.
        if (len(trace) > 5 or "sealed" not in column) and trace in content
    }
    assert shown == set()


async def test_the_dump_is_looked_at_rightly(store: Store, owner: asyncpg.Connection) -> None:
    """The same search finds a number, an amount and a name that were let through."""
    await owner.execute(
        "CREATE TABLE tollgate.leak (a bytea, c text, d jsonb); INSERT INTO tollgate.leak"
        " VALUES (int8send(12025550123), 'at 100 Example Street', '{\"x\": \"TG-SECRET-IN\"}')"
    )
    held = {k: v for k, v in (await dump(owner)).items() if k.startswith("leak.")}
    for column, value in (("a", "+12025550123"), ("c", "100 Example Street"), ("d", "TG-SECRET-IN")):
        assert any(t in held[f"leak.{column}"] for t in traces(value)), column


async def test_equal_records_are_not_equal_bytes(store: Store, owner: asyncpg.Connection) -> None:
    """Frequency is not shown: no two ciphertexts agree, and tags of one number differ from month to month."""
    blobs = []
    for table in ("batch", "batch_leg", "staging", "tag_segment", "fingerprint_segment"):
        for row in await owner.fetch(f"SELECT * FROM tollgate.{table}"):
            blobs += [v for v in row.values() if isinstance(v, bytes)]
    assert len(blobs) > 10
    assert len(set(blobs)) == len(blobs)
    assert len({b[12:28] for b in blobs}) == len(blobs), "a salt stands twice"


async def test_the_log_says_no_number_in_clear(store: Store, owner: asyncpg.Connection) -> None:
    headers = await owner.fetch("SELECT * FROM tollgate.log_entry")
    text = json.dumps([str(dict(r)) for r in headers])
    assert "5550" not in re.sub(r"[0-9a-f]{16,}", "", text)
