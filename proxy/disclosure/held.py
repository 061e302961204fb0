"""What is held of records for a case: sealed pieces under a key of the hold's own, written once and read back.

A piece is an Arrow stream (IPC, zstd) sealed under the hold's data key and bound to its hold, its number and its rows.
Only role LEGAL reaches the tables, and in a transaction only the hold that it names.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import pyarrow as pa

from keys.datakeys import DataKeys
from keys.errors import KeyUnavailable
from keys.provider import DataKey, Period
from keys.sealing import open_sealed, seal
from proxy.ingest.rejects import name_aad
from proxy.policy.extraction import Extraction, ExtractionState, HoldUnreadableError, SourceFile, key_class_of
from proxy.store.batches import int64s
from schema.fields import DisclosureClass

_WRITE: Final = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
_COLUMNS: Final = """hold_id, case_id, access_id, key_month, discloses, as_of, staged, start_us, end_us, started_at,
    state, why, rows, pieces, at_us, gone, sha256, ended_at, log_index"""
SELECT: Final = f"SELECT {_COLUMNS} FROM tollgate.held WHERE hold_id = $1"
_ALL: Final = f"{_COLUMNS}, logged_rows, logged_pieces, order_sealed, order_digest"
SELECT_ORDER: Final = f"SELECT {_ALL} FROM tollgate.held WHERE hold_id = $1"
TAKE: Final = f"""
SELECT {_ALL}, pg_try_advisory_lock(hashtextextended('tollgate.held ' || hold_id, 0)) AS mine FROM tollgate.held
WHERE hold_id = $1
"""
"""A session's lock: it goes with a process that dies, and with the connection's return to its pool."""
RUNNING: Final = "SELECT hold_id FROM tollgate.held WHERE state = 'running' ORDER BY started_at"
INSERT: Final = f"""
INSERT INTO tollgate.held (hold_id, case_id, access_id, key_month, discloses, order_digest, as_of, staged, start_us,
    end_us, at_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $9) RETURNING {_ALL}
"""
SEAL_ORDER: Final = """
UPDATE tollgate.held SET order_sealed = $2 WHERE hold_id = $1 AND order_sealed IS NULL AND state = 'running'
"""
MOVE: Final = """
UPDATE tollgate.held SET rows = $2, pieces = $3, at_us = $4, gone = $5, logged_rows = $6, logged_pieces = $7
WHERE hold_id = $1 AND state = 'running'
"""
END: Final = f"""
UPDATE tollgate.held SET rows = $2, pieces = $3, at_us = $4, gone = $5, state = $6, why = $7, sha256 = $8,
    log_index = $9, ended_at = now()
WHERE hold_id = $1 AND state = 'running' AND ($6 <> 'cancelled' OR pieces = $3)
RETURNING {_COLUMNS}
"""
"""Whoever breaks it off has to know every piece that is there: its entry says which records those are."""
INSERT_PIECE: Final = """
INSERT INTO tollgate.held_piece (hold_id, piece, rows, first_start, last_start, sha256, sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
INSERT_SOURCES: Final = "INSERT INTO tollgate.held_source (hold_id, sealed) VALUES ($1, $2)"
_PIECES: Final = (
    "SELECT piece, rows, first_start, last_start FROM tollgate.held_piece WHERE hold_id = $1 ORDER BY piece"
)
_PIECE: Final = "SELECT rows, sealed FROM tollgate.held_piece WHERE hold_id = $1 AND piece = $2"
_DIGESTS: Final = "SELECT sha256 FROM tollgate.held_piece WHERE hold_id = $1 ORDER BY piece"
_SOURCES: Final = "SELECT sealed FROM tollgate.held_source WHERE hold_id = $1"
_INGESTS: Final = """
SELECT ingest_id, at, profile, source_digest, source_bytes, name_key_month, name_sealed, lines FROM tollgate.ingest
WHERE ingest_id = ANY ($1) ORDER BY ingest_id
"""


def extraction_of(row: Mapping[str, Any]) -> Extraction:
    """Return a row of ``tollgate.held`` as the value that the legal desk knows."""
    return Extraction(
        hold_id=row["hold_id"],
        case_id=row["case_id"],
        access_id=row["access_id"],
        state=ExtractionState(row["state"]),
        why=row["why"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        as_of=row["as_of"],
        staged=row["staged"],
        rows=row["rows"],
        pieces=row["pieces"],
        reached_us=row["end_us"] if row["state"] == "complete" else row["at_us"],
        start_us=row["start_us"],
        end_us=row["end_us"],
        sha256=row["sha256"].hex() if row["sha256"] else "",
        gone=tuple((month, tuple(classes)) for month, classes in json.loads(row["gone"])),
        log_index=row["log_index"],
    )


def seal_order(key: DataKey, hold_id: str, text: bytes) -> bytes:
    """Seal an order beside its hold."""
    return seal(key, [text], _order_aad(hold_id))


def open_order(key: DataKey, hold_id: str, sealed: bytes) -> bytes:
    """Return the text of a hold's order.

    Raises:
        SealError: if it was altered, or is another hold's.
    """
    return open_sealed(key, sealed, _order_aad(hold_id))[0]


def _order_aad(hold_id: str) -> bytes:
    return b"TGO1" + hold_id.encode()


@dataclass(frozen=True, slots=True)
class SealedPiece:
    """A piece ready to be written."""

    rows: int
    first_start: int
    last_start: int
    sha256: bytes
    sealed: bytes


def seal_piece(key: DataKey, hold_id: str, piece: int, table: pa.Table) -> SealedPiece:
    """Seal a table of records in order as piece number ``piece``."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as writer:
        writer.write_table(table)
    plain = sink.getvalue().to_pybytes()
    started = int64s(table, "started_at")
    sealed = seal(key, [plain], _aad(hold_id, piece, table.num_rows))
    return SealedPiece(table.num_rows, int(started[0]), int(started[-1]), hashlib.sha256(plain).digest(), sealed)


def open_piece(key: DataKey, hold_id: str, piece: int, rows: int, sealed: bytes) -> pa.Table:
    """Return the records of a piece.

    Raises:
        SealError: if it was altered, or is another hold's or in another place.
    """
    (plain,) = open_sealed(key, sealed, _aad(hold_id, piece, rows))
    with pa.ipc.open_stream(plain) as reader:
        return reader.read_all()


def _aad(hold_id: str, piece: int, rows: int) -> bytes:
    return struct.pack(">4sii", b"TGH1", piece, rows) + hold_id.encode()


class Holds:
    """The holds as role LEGAL sees them.

    Args:
        pool: connections of role LEGAL.
        keys: the data keys; class ``hold`` and, for the names of inputs, ``source``.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys) -> None:
        self._pool = pool
        self._keys = keys

    @asynccontextmanager
    async def in_hand(self, hold_id: str, conn: asyncpg.Connection | None = None) -> AsyncIterator[asyncpg.Connection]:
        """A transaction in which row-level security opens this hold and no other."""
        if conn is None:
            async with self._pool.acquire() as mine, self.in_hand(hold_id, mine):
                yield mine
            return
        async with conn.transaction():
            await conn.execute("SELECT set_config('tollgate.hold', $1, true)", hold_id)
            yield conn

    async def find(self, hold_id: str) -> Extraction | None:
        """Return the extraction of a hold as it stands."""
        row = await self._pool.fetchrow(SELECT, hold_id)
        return None if row is None else extraction_of(row)

    async def key(self, hold_id: str, month: int) -> DataKey:
        """Return a hold's own key.

        Raises:
            HoldUnreadableError: if it was destroyed.
        """
        period = Period(key_class_of(hold_id), month)
        if (key := self._keys.cached(period)) is not None:
            return key
        try:
            async with self._pool.acquire() as conn:
                return (await self._keys.load(conn, [period]))[period]
        except (KeyError, KeyUnavailable) as error:
            raise HoldUnreadableError("the key of the hold was destroyed") from error

    async def complete(self, hold_id: str) -> tuple[asyncpg.Record, DataKey]:
        """Return the row and the key of a hold that can be read.

        Raises:
            HoldUnreadableError: if it cannot.
        """
        row = await self._pool.fetchrow(SELECT, hold_id)
        if row is None or row["state"] != ExtractionState.COMPLETE:
            raise HoldUnreadableError("there is no such hold, or it is not complete")
        return row, await self.key(hold_id, row["key_month"])

    async def spans(self, hold_id: str) -> list[tuple[int, int, int]]:
        """Return (piece, first start, last start) of each piece, in order."""
        async with self.in_hand(hold_id) as conn:
            return [(r["piece"], r["first_start"], r["last_start"]) for r in await conn.fetch(_PIECES, hold_id)]

    async def piece(self, hold_id: str, piece: int, conn: asyncpg.Connection | None = None) -> tuple[int, bytes]:
        """Return (rows, ciphertext) of a piece; :func:`open_piece` opens it, in a thread.

        Raises:
            HoldUnreadableError: if it is not there.
        """
        async with self.in_hand(hold_id, conn) as mine:
            row = await mine.fetchrow(_PIECE, hold_id, piece)
        if row is None:
            raise HoldUnreadableError("a piece of the hold is missing")
        return row["rows"], row["sealed"]

    async def digests(self, hold_id: str, conn: asyncpg.Connection) -> list[bytes]:
        """Return the SHA-256 of each piece, in order."""
        async with self.in_hand(hold_id, conn):
            return [r["sha256"] for r in await conn.fetch(_DIGESTS, hold_id)]

    async def describe(self, conn: asyncpg.Connection, rows: Mapping[int, int]) -> list[SourceFile]:
        """Return the inputs of records: ingest id → records. A name whose key is gone is empty."""
        found = await conn.fetch(_INGESTS, sorted(rows))
        out = []
        for r in found:
            period = Period(DisclosureClass.SOURCE.value, r["name_key_month"])
            key = (await self._keys.load(conn, [period])).get(period)
            name = open_sealed(key, r["name_sealed"], name_aad(r["ingest_id"]))[0].decode() if key else ""
            out.append(
                SourceFile(
                    r["ingest_id"],
                    name,
                    r["source_digest"].hex(),
                    r["source_bytes"],
                    r["lines"],
                    r["profile"],
                    r["at"].astimezone(UTC),
                    rows[r["ingest_id"]],
                )
            )
        return out

    async def sources(self, hold_id: str) -> list[SourceFile]:
        """See ``Extractor.sources``."""
        _, key = await self.complete(hold_id)
        async with self.in_hand(hold_id) as conn:
            sealed = await conn.fetchval(_SOURCES, hold_id)
        if sealed is None:
            raise HoldUnreadableError("the list of the hold's inputs is missing")
        (plain,) = open_sealed(key, sealed, sources_aad(hold_id))
        return [
            SourceFile(**{**item, "ingested_at": datetime.fromisoformat(item["ingested_at"])})
            for item in json.loads(plain)
        ]


def sources_aad(hold_id: str) -> bytes:
    """Return what the list of a hold's inputs is bound to."""
    return b"TGS1" + hold_id.encode()


def seal_sources(key: DataKey, hold_id: str, files: list[SourceFile]) -> bytes:
    """Seal the list of a hold's inputs."""
    items = [
        {
            "ingest_id": f.ingest_id,
            "name": f.name,
            "sha256": f.sha256,
            "bytes": f.bytes,
            "lines": f.lines,
            "profile": f.profile,
            "ingested_at": f.ingested_at.isoformat(),
            "rows": f.rows,
        }
        for f in files
    ]
    return seal(key, [json.dumps(items, separators=(",", ":")).encode()], sources_aad(hold_id))
