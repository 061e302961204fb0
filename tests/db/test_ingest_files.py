"""From file to store: every line is accounted for, once, whatever comes again and in what company."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from keys.sealing import open_sealed
from proxy.cli.main import main
from proxy.formats.source import SourceError
from proxy.ingest.rejects import line_aad
from proxy.ingest.service import Ingest, Report
from proxy.ledger.model import Kind
from proxy.store.fingerprints import FAN
from schema.roles import Role
from tests.conftest import Database
from tests.support.store import JULY, Store, call, call_ids, calls, open_store, unmapped_profile, write_csv


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(database.config, tmp_path) as made:
        yield made


def totals(report: Report) -> tuple[int, int, int, int, int]:
    r = report
    assert r.lines == r.stored + r.duplicates + r.conflicts + r.rejected
    return r.lines, r.stored, r.duplicates, r.conflicts, r.rejected


async def test_the_same_file_again_is_nothing_gzipped_or_renamed_too(store: Store, tmp_path: Path) -> None:
    path = store.file(calls(range(20)))
    first = await store.ingest(path)
    assert totals(first) == (20, 20, 0, 0, 0)
    packed = tmp_path / "packed.bin"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    renamed = tmp_path / "other.csv"
    renamed.write_bytes(path.read_bytes())
    before = await store.ledger.read()
    for again in (path, packed, renamed):
        report = await store.ingest(again)
        assert report.already
        assert report.ingest_id == first.ingest_id
    assert len(await store.contents()) == 20
    assert len(await store.ledger.read()) == len(before)


async def test_repeats_and_contradictions_in_a_file_and_between_files(store: Store) -> None:
    """In one file the first stands; between files the store's record stands."""
    once, other = call(1), call(1, duration_ms=5)
    report = await store.ingest([call(0), once, once, other, call(2)])
    assert totals(report) == (5, 3, 1, 1, 0)
    later = [call(0, duration_ms=9), call(0), call(0, duration_ms=9), call(3), call(3), call(3, codec="x")]
    assert totals(await store.ingest(later)) == (6, 1, 2, 3, 0)
    assert [(i, r["duration_ms"]) for i, r in zip((0, 1, 2, 3), await store.contents(), strict=True)] == [
        (0, 0),
        (1, 1000),
        (2, 2000),
        (3, 3000),
    ]
    assert call_ids(await store.contents()) == [0, 1, 2, 3]


async def test_across_the_chunks_of_one_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.formats import parse as parsing
    from proxy.ingest import service

    monkeypatch.setattr(service, "parse", lambda path, profile: parsing.parse(path, profile, chunk_rows=7))
    rows = [*calls(range(20)), call(1), call(2, codec="x"), *calls(range(20, 30)), call(25), call(1)]
    assert totals(await store.ingest(rows)) == (34, 30, 3, 1, 0)
    assert call_ids(await store.contents()) == list(range(30))
    run = await store.conn.fetchrow("SELECT count(*) AS pieces FROM tollgate.staging")
    assert run["pieces"] > 3
    await store.roll()
    assert call_ids(await store.contents()) == list(range(30))
    assert await store.check() == []


async def test_beyond_a_merge_of_fingerprints(store: Store) -> None:
    """More files of one day than are kept apart: what went into merged segments is still known."""
    for n in range(FAN + 2):
        assert totals(await store.ingest(calls(range(n * 3, n * 3 + 3))))[1] == 3
    levels = await store.conn.fetch("SELECT level, entries FROM tollgate.fingerprint_segment ORDER BY level")
    assert [(r["level"], r["entries"]) for r in levels] == [(0, 3), (0, 3), (1, 3 * FAN)]
    everything = (FAN + 2) * 3
    again = await store.ingest([*calls(range(everything)), *calls(range(everything), codec="x")])
    assert totals(again) == (2 * everything, 0, everything, everything, 0)
    assert await store.check() == []


async def test_the_ocn_of_a_newer_map_makes_no_new_record(store: Store, tmp_path: Path) -> None:
    row = call(1, ingress="", egress="")
    assert totals(await store.ingest([row, call(2, ingress="", egress="")]))[1] == 2
    profile = unmapped_profile(tmp_path, {"trunk-in-": "123A", "trunk-out-": "456B"})
    assert totals(await store.ingest([row], profile)) == (1, 0, 1, 0, 0)


async def test_months_and_years_in_one_file(store: Store) -> None:
    days = [
        datetime(y, m, 1, tzinfo=UTC) for y, m in ((2000, 1), (2019, 12), (2026, 6), (2026, 7), (2031, 2), (2100, 12))
    ]
    rows = [call(i, started_at=day.isoformat(), answered_at="") for i, day in enumerate(days * 2)]
    rows += [call(99, started_at=(JULY - timedelta(microseconds=1)).isoformat(), answered_at="")]
    report = await store.add(rows)
    assert totals(report) == (13, 13, 0, 0, 0)
    runs = await store.conn.fetch("SELECT month, rows, level FROM tollgate.run ORDER BY month")
    assert [(r["month"], r["rows"], r["level"]) for r in runs] == [
        (200001, 2, 1),
        (201912, 2, 1),
        (202606, 3, 1),
        (202607, 2, 1),
        (203102, 2, 1),
        (210012, 2, 1),
    ]
    contents = await store.contents()
    assert [r["record_id"] for r in contents] == list(range(1, 14))
    # Another file, a day's neighbours in it: identity is looked for on the right day of the right month.
    assert totals(await store.ingest([rows[0], rows[12], call(100, at=JULY - timedelta(days=40))])) == (3, 1, 2, 0, 0)


async def test_a_file_of_too_many_months_is_refused_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.ingest import service

    monkeypatch.setattr(service, "MONTHS_MAX", 2)
    with pytest.raises(SourceError, match="more than 2 months"):
        await store.ingest([call(n, at=JULY - timedelta(days=40 * n)) for n in range(3)])
    assert await store.contents() == []
    assert (await store.ingest([call(n, at=JULY - timedelta(days=40 * n)) for n in range(2)])).stored == 2


@pytest.mark.parametrize("content", [b"", b"\n\n", b"no csv of ours at all"])
async def test_a_file_of_nothing_is_refused_or_empty_and_leaves_nothing(
    store: Store, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "nothing.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"nothing\.csv"):
        await store.ingest(path)
    assert await store.conn.fetchval("SELECT count(*) FROM tollgate.ingest") == 0
    assert await store.contents() == []


async def test_a_header_without_lines_is_an_empty_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(store.file(calls([1])).read_text().split("\n", 1)[0] + "\n")
    assert totals(await store.ingest(path)) == (0, 0, 0, 0, 0)
    assert (await store.ingest(path)).already
    assert await store.check() == []


async def test_a_file_that_changes_while_it_is_read_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxy.ingest import service

    path = store.file(calls(range(3)))
    stamps = iter([(1, 1, 5, 1), (1, 1, 5, 2)])
    monkeypatch.setattr(service, "_stamp", lambda _: next(stamps))
    with pytest.raises(SourceError, match="changed while"):
        await store.ingest(path)
    assert await store.contents() == []
    monkeypatch.undo()
    assert totals(await store.ingest(path))[1] == 3


async def test_the_log_has_what_was_made(store: Store) -> None:
    report = await store.ingest([*calls(range(4)), call(0), call(1, codec="x"), call(5, duration_ms="-1")])
    assert totals(report) == (7, 4, 1, 1, 1)
    (entry,) = [e for e in await store.ledger.read() if e.kind is Kind.STORE_INGEST]
    assert entry.outcome is not None
    assert {k: entry.outcome[k] for k in ("lines", "stored", "duplicates", "conflicts", "rejected")} == {
        "lines": 7,
        "stored": 4,
        "duplicates": 1,
        "conflicts": 1,
        "rejected": 1,
    }
    (run,) = entry.outcome["runs"]
    assert (run["rows"], run["first"], run["last"]) == (4, "1", "4")
    assert len(entry.outcome["fingerprints"]["made"]) == 1


async def test_refused_lines_are_kept_sealed_byte_for_byte(store: Store) -> None:
    path = store.file(
        [call(0), call(1, started_at="0001-01-01T00:00:00Z"), call(2, duration_ms="-7"), call(0, codec="é")]
    )
    lines = path.read_bytes().splitlines()
    report = await store.ingest(path)
    assert totals(report) == (4, 1, 0, 1, 2)
    rows = await store.conn.fetch("SELECT * FROM tollgate.ingest_reject ORDER BY piece")
    found = {}
    for row in rows:
        (body,) = open_sealed(
            await store.key("source", row["month"]), row["sealed"], line_aad(report.ingest_id, row["piece"])
        )
        for number, reason in zip(row["line_numbers"], row["reasons"], strict=True):
            size = int.from_bytes(body[:4], "big")
            found[number] = (reason, body[4 : 4 + size])
            body = body[4 + size :]
        assert body == b""
    assert found == {
        3: ("time.out_of_range", lines[2]),
        4: ("duration.negative", lines[3]),
        5: ("conflict", lines[4]),
    }


async def test_overlapping_files_at_once(store: Store, database: Database) -> None:
    """Two ingests of files that share half their calls: every call once, nobody fails."""
    files = [store.file(calls(range(n * 20, n * 20 + 40))) for n in range(3)]

    async def one(path: Path) -> Report:
        conns = [await asyncpg.connect(database.config.role_url(Role.INGEST)) for _ in range(2)]
        try:
            ingest = Ingest(*conns, store.keys, store.ledger, store.executor, "operator-1")
            return await ingest.file(path, store.profile)
        finally:
            for conn in conns:
                await conn.close()

    reports = await asyncio.gather(*(one(path) for path in files))
    assert sum(totals(r)[1] for r in reports) == 80
    assert sum(totals(r)[2] for r in reports) == 40
    assert sorted(call_ids(await store.contents())) == list(range(80))
    assert [r["record_id"] for r in await store.contents()] == list(range(1, 81))
    assert await store.check() == []


async def test_the_command(store: Store, database: Database, tmp_path: Path) -> None:
    """Totals and the place of what was refused are said; the record is not."""
    config = database.config
    folder = tmp_path / "spool"
    folder.mkdir()
    secret = "+12025550142"
    bad = [call(7, duration_ms="-1", calling=secret), call(8, duration_ms=3), call(8, duration_ms=4, calling=secret)]
    write_csv(folder / "a.csv", [*calls(range(5)), *bad])
    write_csv(folder / "b.csv", calls(range(5), codec="x"))
    environment = {"TOLLGATE_HOME": str(config.home), "TOLLGATE_DATABASE_URL": config.database_url}

    async def run(*args: str) -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, main, list(args), env=environment)
        return result.exit_code, result.stdout, result.stderr

    code, out, _ = await run("ingest", str(folder), "--profile", "tollgate", "--json")
    assert code == 0
    assert [(r["lines"], r["stored"], r["conflicts"], r["rejected"]) for r in json.loads(out)] == [
        (8, 6, 1, 1),
        (5, 0, 5, 0),
    ]
    first = json.loads(out)[0]["ingest"]
    code, out, err = await run("ingest", "rejects", str(first))
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["a.csv", "7", "duration.negative"],
        ["a.csv", "9", "conflict"],
    ]
    for n in (secret[1:], "callid-in", "trunk-in"):
        assert n not in out + err
    code, out, err = await run("ingest", str(folder / "a.csv"), "--profile", "tollgate")
    assert code == 0
    assert "already in" in err
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)) * 40)
    code, out, err = await run("ingest", str(binary), str(folder / "a.csv"), "--profile", "tollgate")
    assert code == 5
    assert "binary.csv" in err
    code, out, err = await run("store", "check")
    assert code == 0
    code, out, err = await run("store", "status", "--json")
    assert json.loads(out)["months"] == [{"month": 202607, "records": 6, "staged": 0, "runs": 1, "level": 1}]
