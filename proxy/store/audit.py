"""Holding the store against the log: every run that the log says was made and not replaced must be there, unchanged.

The log is the authority. Its entries of ingests, rolls and re-mappings name each run they made, with the SHA-256 of the
run's manifest, and each run they destroyed; a manifest names every object of its run with its own SHA-256. So a batch,
a tag segment or a whole run that was deleted, changed or slipped in is found, and named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.store import writer
from proxy.store.batches import Part, parse_manifest
from proxy.store.fingerprints import segment_digest
from proxy.store.writer import Run

_KINDS = (Kind.STORE_INGEST, Kind.STORE_ROLL, Kind.STORE_REMAP)
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as the log says."""

    what: str
    """``run missing``, ``run changed``, ``batch missing``, ``batch changed``, ``batch of no run``, …"""
    month: int
    object_id: int
    entry: int | None
    """Index of the log entry that made the run, if any did."""

    def __str__(self) -> str:
        made = f" (made by log entry {self.entry})" if self.entry is not None else ""
        return f"month {self.month}: {self.what}: {self.object_id}{made}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"what": self.what, "month": self.month, "object": self.object_id, "entry": self.entry}


@dataclass(slots=True)
class _Expected:
    """What the log says the store holds."""

    runs: dict[tuple[int, int], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    """(month, run) → (index of the entry, what it says of the run)."""
    prints: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    """(month, fingerprint segment) → (index of the entry, SHA-256 of its row)."""

    lost: list[Finding] = field(default_factory=list)
    """Runs that were replaced by others although they were not what the log said of them."""

    def take(self, index: int, kind: Kind, request: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Apply one entry."""
        for run in request.get("replaced", ()):
            key = run["month"], int(run["run"])
            if key not in self.runs or self.runs[key][1] != run:
                self.lost.append(Finding("run changed before it was replaced", *key, index))
        if sum(r["rows"] for r in request.get("replaced", ())) != sum(r["rows"] for r in outcome.get("made", ())):
            self.lost.append(Finding("replaced by runs of other rows", request.get("month", 0), 0, index))
        gone = set(request.get("destroyed", ()))
        self.runs = {k: v for k, v in self.runs.items() if str(k[1]) not in gone} if gone else self.runs
        for run in outcome.get("runs" if kind is Kind.STORE_INGEST else "made", ()):
            self.runs[run["month"], int(run["run"])] = (index, dict(run))
        segments = outcome.get("fingerprints", {})
        for month, segment, digest in segments.get("made", ()):
            self.prints[month, int(segment)] = (index, digest)
        destroyed = set(segments.get("destroyed", ()))
        if destroyed:
            self.prints = {k: v for k, v in self.prints.items() if str(k[1]) not in destroyed}


async def check(
    conn: asyncpg.Connection, ledger: Ledger, progress: Callable[[int, int], None] = lambda done, total: None
) -> AsyncIterator[Finding]:
    """Yield whatever in the store is not as the log says; nothing if all is.

    Reads the whole store's ciphertext and opens none of it. What another process ingests or rolls meanwhile is not
    judged: the log and the runs are read under one snapshot, taken while no ingest or roll is committing.

    Args:
        conn: a connection of the ingest role; a transaction of its own is opened on it.
        progress: called with rows checked and rows in all.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        rows = await conn.fetch(
            "SELECT month, run_id, level, rows, first_record_id, last_record_id, tag_bits, ingest_id, manifest"
            " FROM tollgate.run ORDER BY month, first_record_id"
        )
        size = await conn.fetchval("SELECT size FROM tollgate.log_head")
        expected = await _expected(ledger, size)
        runs = {(r["month"], r["run_id"]): Run(**dict(r)) for r in rows}
        for finding in expected.lost:
            yield finding
        for key in sorted(expected.runs.keys() - runs.keys()):
            yield Finding("run missing", *key, expected.runs[key][0])
        done, total = 0, sum(r.rows for r in runs.values())
        for key, run in runs.items():
            if key not in expected.runs:
                yield Finding("run unknown to the log", *key, None)
                continue
            index, said = expected.runs[key]
            if run.described() != said:
                yield Finding("run changed", *key, index)
            async for finding in _objects(conn, run, index):
                yield finding
            done += run.rows
            progress(done, total)
        for query, what in _STRAYS:
            for r in await conn.fetch(query):
                yield Finding(what, r["month"], r["id"], None)
        async for finding in _prints(conn, expected):
            yield finding


# What the runs do not lead to. A peer's role reads batches by their legs, whatever run they say they are of.
_STRAYS = (
    (
        "SELECT b.month, b.batch_id AS id FROM tollgate.batch b LEFT JOIN tollgate.run r"
        " ON r.month = b.month AND r.run_id = b.run_id AND r.level > 0 WHERE r.run_id IS NULL",
        "batch of no run",
    ),
    (
        "SELECT s.month, s.run_id AS id FROM tollgate.staging s LEFT JOIN tollgate.run r"
        " ON r.month = s.month AND r.run_id = s.run_id AND r.level = 0 WHERE r.run_id IS NULL",
        "piece of no run",
    ),
    (
        "SELECT DISTINCT t.month, t.run_id AS id FROM tollgate.tag_segment t LEFT JOIN tollgate.run r"
        " ON r.month = t.month AND r.run_id = t.run_id WHERE r.run_id IS NULL",
        "tag segment of no run",
    ),
    (
        "SELECT l.month, l.batch_id AS id FROM tollgate.batch_leg l LEFT JOIN tollgate.batch b"
        " ON b.month = l.month AND b.batch_id = l.batch_id WHERE b.batch_id IS NULL",
        "leg of no batch",
    ),
    (
        "SELECT l.month, l.batch_id AS id FROM tollgate.batch_leg l JOIN tollgate.batch b"
        " ON b.month = l.month AND b.batch_id = l.batch_id WHERE l.pair_id <> b.pair_id"
        " OR l.last_record_id <> b.last_record_id OR l.mapped <> (b.ingress_ocn <> -2 AND b.egress_ocn <> -2)"
        " OR l.ocn <> CASE l.side WHEN 1 THEN b.ingress_ocn ELSE b.egress_ocn END",
        "leg changed",
    ),
)


async def _expected(ledger: Ledger, size: int) -> _Expected:
    expected = _Expected()
    after = -1
    while entries := await ledger.read(after=after, limit=_PAGE, kinds=_KINDS):
        for entry in entries:
            if entry.index >= size:
                return expected
            expected.take(entry.index, entry.kind, dict(entry.request or {}), dict(entry.outcome or {}))
        after = entries[-1].index
    return expected


async def _objects(conn: asyncpg.Connection, run: Run, index: int) -> AsyncIterator[Finding]:
    wanted = {(part, object_id): digest for part, object_id, digest in parse_manifest(run.manifest)}
    async for sealed in writer.objects(conn, run):
        for one in sealed:
            digest = wanted.pop((Part.BATCH, one.shape.object_id), None)
            if digest != one.digest():
                what = "batch unknown to its run" if digest is None else "batch changed"
                yield Finding(what, run.month, one.shape.object_id, index)
    async for row in conn.cursor(
        "SELECT bucket, entries, sealed FROM tollgate.tag_segment WHERE month = $1 AND run_id = $2",
        run.month,
        run.run_id,
        prefetch=64,
    ):
        digest = wanted.pop((Part.SEGMENT, row["bucket"]), None)
        if digest != writer.segment_digest(run.month, run.run_id, row["bucket"], row["entries"], row["sealed"]):
            what = "tag segment unknown to its run" if digest is None else "tag segment changed"
            yield Finding(what, run.month, row["bucket"], index)
    for part, object_id in wanted:
        yield Finding(f"{'batch' if part is Part.BATCH else 'tag segment'} missing", run.month, object_id, index)


async def _prints(conn: asyncpg.Connection, expected: _Expected) -> AsyncIterator[Finding]:
    left = dict(expected.prints)
    async for row in conn.cursor(
        "SELECT month, day, segment_id, level, entries, sealed FROM tollgate.fingerprint_segment", prefetch=8
    ):
        index, digest = left.pop((row["month"], row["segment_id"]), (None, None))
        if digest is None:
            yield Finding("fingerprint segment unknown to the log", row["month"], row["segment_id"], None)
        elif segment_digest(*row.values()).hex() != digest:
            yield Finding("fingerprint segment changed", row["month"], row["segment_id"], index)
    for key, (index, _) in left.items():
        yield Finding("fingerprint segment missing", *key, index)
