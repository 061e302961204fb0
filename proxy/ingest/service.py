"""From a switch's file to staged, sealed records: one file, one transaction, one log entry.

Every line ends as stored, duplicate, conflict or rejected; the four add up (PostgreSQL checks it too). The order of
things, and what dying leaves behind:

1. months' partitions and data keys are made ahead, each in a transaction of its own: left over, they are used later;
2. in one transaction, under the ingest lock: pieces, rejects, fingerprints, runs, the ingest's row, the log entry.
   Dying before COMMIT leaves nothing of the file. Dying after it leaves everything; the same file is then a no-op.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from keys.sealing import seal
from proxy.formats.parse import Parsed, Rejects, parse
from proxy.formats.profile import Profile
from proxy.formats.source import SourceError, file_digest
from proxy.ingest.known import Known
from proxy.ingest.rejects import KEY_CLASS, line_aad, name_aad
from proxy.ledger.model import JSON, Entry, Kind, Tag, new_id
from proxy.ledger.service import Ledger
from proxy.store import fingerprints, writer
from proxy.store.batches import CLASSES, PIECE_CHUNK_ROWS, Part, Sealed, Table, manifest
from proxy.store.fingerprints import Fingerprinter
from proxy.store.writer import Run
from schema.fields import FIELDS, OCN_UNMAPPED, DisclosureClass
from schema.fields import Kind as FieldKind

MONTHS_MAX = 36
"""Most months one file may have calls of: each needs partitions and keys, and dates read wrongly scatter."""
IDLE_S = 600
"""A transaction whose process hangs for so long is ended, so that it does not keep other ingests out."""
_DAY_US = 86_400_000_000
_NUMBERS = [f.name for f in FIELDS if f.kind is FieldKind.NUMBER]


@dataclass(slots=True)
class Report:
    """What became of one file."""

    path: Path
    ingest_id: int = 0
    already: bool = False
    """The same content was ingested before: nothing was done."""
    lines: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    unmapped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """Return the totals by name."""
        names = ("lines", "stored", "duplicates", "conflicts", "rejected", "unmapped")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class _RunState:
    run_id: int
    pieces: int = 0
    rows: int = 0
    parts: list[tuple[Part, int, bytes]] = field(default_factory=list)


class Ingest:
    """Ingests files, one after another."""

    def __init__(
        self,
        conn: asyncpg.Connection,
        side: asyncpg.Connection,
        keys: DataKeys,
        ledger: Ledger,
        executor: Executor,
        by: str,
    ) -> None:
        """Use two connections of the ingest role: one for the file's transaction, one for what is made ahead of it.

        Args:
            by: who runs the ingest, as the log shall say it.
        """
        self._conn = conn
        self._side = side
        self._keys = keys
        self._ledger = ledger
        self._executor = executor
        self._by = by

    async def file(self, path: Path, profile: Profile, progress: Callable[[int], None] = lambda done: None) -> Report:
        """Ingest one file.

        Args:
            progress: called with the number of bytes read so far.

        Raises:
            SourceError: the file is not of this profile, or cannot be read to its end. Nothing of it is stored.
        """
        stamp = await asyncio.to_thread(_stamp, path)
        digest, size = await asyncio.to_thread(file_digest, path)
        async with self._conn.transaction():
            await self._conn.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'")
            # One ingest at a time: whether a record is a duplicate must not change between asking and storing.
            await self._conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('tollgate.ingest', 0))")
            known = await self._conn.fetchval("SELECT ingest_id FROM tollgate.ingest WHERE source_digest = $1", digest)
            if known is not None:
                return Report(path, ingest_id=known, already=True)
            ingest_id = await self._conn.fetchval("SELECT nextval('tollgate.store_id')")
            return await _File(self, path, profile, ingest_id, progress).ingest(digest, size, stamp)


class _File:
    """One file's transaction."""

    def __init__(
        self, ingest: Ingest, path: Path, profile: Profile, ingest_id: int, progress: Callable[[int], None]
    ) -> None:
        self._conn = ingest._conn
        self._side = ingest._side
        self._keys = ingest._keys
        self._ledger = ingest._ledger
        self._executor = ingest._executor
        self._by = ingest._by
        self._path = path
        self._profile = profile
        self._progress = progress
        self._report = Report(path, ingest_id)
        self._known = Known(self._conn)
        self._month_keys: dict[int, dict[DisclosureClass, DataKey]] = {}
        self._print_keys: dict[int, DataKey] = {}
        self._printers: dict[int, Fingerprinter] = {}
        self._runs: dict[int, _RunState] = {}
        self._days: dict[int, int] = {}
        self._reject_pieces = 0
        self._this_month = int(datetime.now(UTC).strftime("%Y%m"))

    async def ingest(self, digest: bytes, size: int, stamp: tuple[int, ...]) -> Report:
        chunks = parse(self._path, self._profile)
        loop = asyncio.get_running_loop()
        ahead = loop.run_in_executor(self._executor, _next, chunks)
        try:
            while (parsed := await ahead) is not None:
                ahead = loop.run_in_executor(self._executor, _next, chunks)  # parse the next while this one is sealed
                await self._chunk(parsed)
                self._progress(parsed.bytes_done)
        finally:
            await asyncio.wait([ahead])
        if await asyncio.to_thread(_stamp, self._path) != stamp:
            raise SourceError("changed while it was read", self._path, None, "ingest it again once it is whole")
        await self._finish(digest, size)
        return self._report

    async def _chunk(self, parsed: Parsed) -> None:
        report = self._report
        report.lines += parsed.lines
        if len(parsed.rejects.lines):
            await self._refuse(parsed.rejects)
            report.rejected += len(parsed.rejects.lines)
        if not len(parsed.frame):
            return
        started = parsed.frame["started_at"].to_physical().to_numpy()
        months = _months(started)
        for month in np.unique(months).tolist():
            await self._ready(month)
            index = np.flatnonzero(months == month)
            await self._month(parsed, index if len(index) < len(months) else None, month)

    async def _ready(self, month: int) -> None:
        if month in self._month_keys:
            return
        if len(self._month_keys) == MONTHS_MAX:
            raise SourceError(
                f"has calls of more than {MONTHS_MAX} months", self._path, None, "is the time format right? or split it"
            )
        await self._side.execute("SELECT tollgate.ensure_month($1)", month)
        # A session hears of new partitions when it takes a lock it does not hold yet, and this transaction holds the
        # parents' already. A name it never looked up before makes it read the catalogue, which takes such a lock.
        await self._conn.fetchval("SELECT to_regclass($1)", f"tollgate.staging_{month}")
        periods = [Period(c.value, month) for c in CLASSES] + [Period(fingerprints.KEY_CLASS, month)]
        periods.append(Period(KEY_CLASS, self._this_month))
        found = await self._keys.ensure(self._side, periods)
        self._month_keys[month] = {c: found[Period(c.value, month)] for c in CLASSES}
        self._print_keys[month] = found[Period(fingerprints.KEY_CLASS, month)]
        self._printers[month] = Fingerprinter(self._print_keys[month])
        self._runs[month] = _RunState(await self._conn.fetchval("SELECT nextval('tollgate.store_id')"))

    async def _month(self, parsed: Parsed, index: npt.NDArray[np.int64] | None, month: int) -> None:
        run_in = asyncio.get_running_loop().run_in_executor
        report = self._report
        frame = parsed.frame if index is None else parsed.frame[index]
        identity = parsed.identity if index is None else parsed.identity[index]
        table = await run_in(self._executor, _arrow, frame)
        prints = await run_in(self._executor, self._printers[month].of, table, identity.to_arrow())
        days = frame["started_at"].to_physical().to_numpy() // _DAY_US
        self._days.update(dict.fromkeys(np.unique(days).tolist(), month))
        duplicate, conflict = await self._known.compare(prints, days, self._print_keys[month], month)
        report.duplicates += int(duplicate.sum())
        if conflict.any():
            await self._conflicts(parsed, np.flatnonzero(conflict) if index is None else index[conflict])
            report.conflicts += int(conflict.sum())
        keep = ~(duplicate | conflict)
        if not keep.any():
            return
        if not keep.all():
            table = table.filter(pa.array(keep))
        report.stored += table.num_rows
        report.unmapped += _unmapped(table)
        await self._stage(table, month)

    async def _stage(self, table: pa.Table, month: int) -> None:
        run = self._runs[month]
        table = table.append_column("ingest_id", pa.array(np.full(table.num_rows, self._report.ingest_id)))
        sealed, digest = await asyncio.get_running_loop().run_in_executor(
            self._executor, _seal_piece, table, self._month_keys[month], month, writer.piece_id(run.run_id, run.pieces)
        )
        await writer.insert_piece(self._conn, run.run_id, run.pieces, sealed)
        run.parts.append((Part.BATCH, sealed.shape.object_id, digest))
        run.pieces += 1
        run.rows += table.num_rows

    async def _conflicts(self, parsed: Parsed, rows: npt.NDArray[np.int64]) -> None:
        await self._refuse(parsed.refuse(parsed.frame["line_number"].to_numpy()[rows], "conflict"))

    async def _refuse(self, rejects: Rejects) -> None:
        """Keep refused lines: numbers and reasons in clear, the lines themselves sealed."""
        self._report.reasons.update(rejects.reasons)
        for at in range(0, len(rejects), 65_536):
            stop = at + 65_536
            kept = rejects.text[at:stop]
            piece = self._reject_pieces
            self._reject_pieces += 1
            found = await self._keys.ensure(self._side, [Period(KEY_CLASS, self._this_month)])
            (key,) = found.values()
            body = b"".join(struct.pack(">I", len(t)) + t for t in kept)
            aad = line_aad(self._report.ingest_id, piece)
            await self._conn.execute(
                "INSERT INTO tollgate.ingest_reject (ingest_id, piece, month, line_numbers, reasons, sealed)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                self._report.ingest_id,
                piece,
                self._this_month,
                rejects.lines[at:stop].tolist(),
                rejects.reasons[at:stop],
                seal(key, [body], aad),
            )

    async def _finish(self, digest: bytes, size: int) -> None:
        changes = await self._known.write(self._print_keys, self._days)
        runs = await self._number()
        report = self._report
        entry_id = new_id()
        found = await self._keys.ensure(self._side, [Period(KEY_CLASS, self._this_month)])
        (key,) = found.values()
        name = seal(key, [self._path.name.encode()], name_aad(report.ingest_id))
        profile = self._profile
        await self._conn.execute(
            "INSERT INTO tollgate.ingest (ingest_id, profile, profile_digest, source_digest, source_bytes,"
            " name_key_month, name_sealed, lines, stored, duplicates, conflicts, rejected, unmapped, entry_id)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            report.ingest_id,
            profile.name,
            profile.digest,
            digest,
            size,
            self._this_month,
            name,
            *report.counts().values(),
            entry_id,
        )
        outcome: dict[str, JSON] = {
            **report.counts(),
            "runs": [r.described() for r in runs],
            "fingerprints": {"made": changes.made, "destroyed": changes.destroyed},
        }
        entry = Entry(
            kind=Kind.STORE_INGEST,
            actor={"component": "ingest", "os_user": self._by},
            request={
                "ingest": str(report.ingest_id),
                "source_sha256": digest.hex(),
                "source_bytes": str(size),
                "profile": profile.name,
                "profile_sha256": profile.digest.hex(),
            },
            outcome=outcome,
            entry_id=entry_id,
            tags=(Tag("ingest", str(report.ingest_id).encode()), Tag("staff", self._by.encode())),
        )
        await self._ledger.append_in(self._conn, [entry])

    async def _number(self) -> list[Run]:
        """Take record ids. The row lock of store_head is held to the end, so that id order is commit order."""
        written = {m: r for m, r in self._runs.items() if r.rows}
        total = sum(r.rows for r in written.values())
        after = await self._conn.fetchval(writer.TAKE_RECORD_IDS, total)
        at = after - total
        runs = []
        for month in sorted(written):
            state = written[month]
            run = Run(
                month,
                state.run_id,
                0,
                state.rows,
                at,
                at + state.rows - 1,
                0,
                self._report.ingest_id,
                manifest(state.parts),
            )
            at += state.rows
            await writer.insert_run(self._conn, run)
            runs.append(run)
        return runs


def _stamp(path: Path) -> tuple[int, ...]:
    """What of a file changes when it is written to."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _next(chunks: Iterator[Parsed]) -> Parsed | None:
    return next(chunks, None)


def _months(started: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return yyyymm of microseconds since 1970-01-01."""
    whole = started.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    return (1970 + whole // 12) * 100 + whole % 12 + 1


def _arrow(frame: pl.DataFrame) -> pa.Table:
    """Return the frame's columns that hold anything, in the types of proxy/store/columns.py."""
    kept = [name for name in frame.columns if frame[name].null_count() < len(frame)]
    casts = [pl.col(n).cast(pl.Int64) for n in kept if n in _NUMBERS]
    return frame.select(kept).with_columns(casts).to_arrow(compat_level=pl.CompatLevel.oldest())


def _unmapped(table: pa.Table) -> int:
    sides = [pc.equal(table.column(name), OCN_UNMAPPED) for name in ("ingress_ocn", "egress_ocn")]
    return int(pc.sum(pc.or_(*sides)).as_py())


def _seal_piece(
    table: pa.Table, keys: dict[DisclosureClass, DataKey], month: int, object_id: int
) -> tuple[Sealed, bytes]:
    ready = Table(table)
    sealed = ready.seal(keys, 0, table.num_rows, month=month, object_id=object_id, chunk_rows=PIECE_CHUNK_ROWS)
    return sealed, sealed.digest()
