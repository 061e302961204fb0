"""Putting sealed objects into PostgreSQL, and taking them out again: statements and their row shapes.

COPY is not to be had under row-level security; unnest of arrays is the next fastest way in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg

from proxy.store.batches import BATCHES_PER_RUN, LEGS, SHARED, Sealed, Shape
from schema.fields import OCN_UNMAPPED, DisclosureClass, ocn_code

_SHARED_COLUMNS = ", ".join(c.value for c in SHARED)
_INGRESS, _EGRESS = DisclosureClass.INGRESS_LEG, DisclosureClass.EGRESS_LEG

INSERT_PIECE = f"""
INSERT INTO tollgate.staging (month, run_id, piece, rows, first_start, last_start, format, classes,
    {_SHARED_COLUMNS}, ingress_leg, egress_leg)
VALUES ({", ".join(f"${i}" for i in range(1, 9 + len(SHARED) + 2))})
"""
INSERT_BATCHES = f"""
INSERT INTO tollgate.batch (month, batch_id, run_id, pair_id, ingress_ocn, egress_ocn, rows, first_record_id,
    last_record_id, first_start, last_start, format, classes, {_SHARED_COLUMNS})
SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::smallint[], $13::smallint[],
    {", ".join(f"${14 + i}::bytea[]" for i in range(len(SHARED)))})
"""
INSERT_LEGS = """
INSERT INTO tollgate.batch_leg (month, batch_id, side, ocn, pair_id, last_record_id, mapped, sealed)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::smallint[], $4::int[], $5::int[], $6::bigint[], $7::boolean[],
    $8::bytea[])
"""
INSERT_SEGMENTS = """
INSERT INTO tollgate.tag_segment (month, run_id, bucket, entries, sealed)
SELECT $1, $2, * FROM unnest($3::int[], $4::int[], $5::bytea[])
"""
INSERT_RUN = """
INSERT INTO tollgate.run (month, run_id, level, ingest_id, rows, first_record_id, last_record_id, tag_bits, manifest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
TAKE_RECORD_IDS = """
UPDATE tollgate.store_head SET next_record_id = next_record_id + $1 RETURNING next_record_id
"""
SELECT_PIECES = f"""
SELECT month, run_id, piece, rows, format, classes, first_start, last_start, {_SHARED_COLUMNS}, ingress_leg, egress_leg
FROM tollgate.staging WHERE month = $1 AND run_id = $2 AND piece = ANY ($3) ORDER BY piece
"""
_BATCH_COLUMNS = f"""b.month, b.batch_id, b.pair_id, b.ingress_ocn, b.egress_ocn, b.rows, b.first_record_id,
    b.last_record_id, b.first_start, b.last_start, b.format, b.classes,
    {", ".join("b." + c.value for c in SHARED)},
    (SELECT sealed FROM tollgate.batch_leg l WHERE l.month = b.month AND l.batch_id = b.batch_id AND l.side = 1)
        AS ingress_leg,
    (SELECT sealed FROM tollgate.batch_leg l WHERE l.month = b.month AND l.batch_id = b.batch_id AND l.side = 2)
        AS egress_leg"""
SELECT_BATCHES = f"""
SELECT {_BATCH_COLUMNS} FROM tollgate.batch b WHERE b.month = $1 AND b.run_id = $2 AND b.batch_id = ANY ($3)
ORDER BY b.batch_id
"""


class StoreDamagedError(Exception):
    """A run does not hold what its manifest says: something was deleted or changed. Nothing is done with it."""


@dataclass(frozen=True, slots=True)
class Run:
    """A row of tollgate.run."""

    month: int
    run_id: int
    level: int
    rows: int
    first_record_id: int
    last_record_id: int
    tag_bits: int = 0
    ingest_id: int | None = None
    manifest: bytes = b""

    def described(self) -> dict[str, str | int]:
        """Return what the log says of it."""
        return {
            "month": self.month,
            "run": str(self.run_id),
            "level": self.level,
            "rows": self.rows,
            "first": str(self.first_record_id),
            "last": str(self.last_record_id),
            "tag_bits": self.tag_bits,
            "manifest": hashlib.sha256(self.manifest).hexdigest(),
        }


async def insert_run(conn: asyncpg.Connection, run: Run) -> None:
    """Insert a run's own row."""
    await conn.execute(
        INSERT_RUN,
        run.month,
        run.run_id,
        run.level,
        run.ingest_id,
        run.rows,
        run.first_record_id,
        run.last_record_id,
        run.tag_bits,
        run.manifest,
    )


async def insert_piece(conn: asyncpg.Connection, run_id: int, piece: int, sealed: Sealed) -> None:
    """Insert one level-0 piece."""
    shape = sealed.shape
    await conn.execute(
        INSERT_PIECE,
        shape.month,
        run_id,
        piece,
        shape.rows,
        shape.first_start,
        shape.last_start,
        shape.format,
        shape.classes,
        *(sealed.blobs.get(c) for c in SHARED),
        sealed.blobs.get(_INGRESS),
        sealed.blobs.get(_EGRESS),
    )


async def insert_batches(conn: asyncpg.Connection, run_id: int, batches: Sequence[Sealed]) -> None:
    """Insert batches and their sides."""
    shapes = [b.shape for b in batches]
    await conn.execute(
        INSERT_BATCHES,
        [s.month for s in shapes],
        [s.object_id for s in shapes],
        [run_id] * len(shapes),
        [s.pair_id for s in shapes],
        [b.ocns[0] for b in batches],
        [b.ocns[1] for b in batches],
        [s.rows for s in shapes],
        [s.first_record_id for s in shapes],
        [s.last_record_id for s in shapes],
        [s.first_start for s in shapes],
        [s.last_start for s in shapes],
        [s.format for s in shapes],
        [s.classes for s in shapes],
        *([b.blobs.get(c) for b in batches] for c in SHARED),
    )
    unmapped = ocn_code(OCN_UNMAPPED)
    legs = [(b.shape, side, b.ocns[side - 1], b.blobs[LEGS[side]]) for b in batches for side in (1, 2)]
    await conn.execute(
        INSERT_LEGS,
        [s.month for s, *_ in legs],
        [s.object_id for s, *_ in legs],
        [side for _, side, *_ in legs],
        [ocn for *_, ocn, _ in legs],
        [s.pair_id for s, *_ in legs],
        [s.last_record_id for s, *_ in legs],
        [unmapped not in b.ocns for b in batches for _ in (1, 2)],
        [blob for *_, blob in legs],
    )


def sealed_from(row: asyncpg.Record) -> Sealed:
    """Return the sealed object of a row of SELECT_PIECES or SELECT_BATCHES."""
    piece = "piece" in row
    shape = Shape(
        month=row["month"],
        object_id=piece_id(row["run_id"], row["piece"]) if piece else row["batch_id"],
        rows=row["rows"],
        first_record_id=0 if piece else row["first_record_id"],
        last_record_id=0 if piece else row["last_record_id"],
        first_start=row["first_start"],
        last_start=row["last_start"],
        classes=row["classes"],
        format=row["format"],
        pair_id=0 if piece else row["pair_id"],
    )
    blobs = {c: row[c.value] for c in DisclosureClass if row[c.value] is not None}
    return Sealed(shape, blobs, (0, 0) if piece else (row["ingress_ocn"], row["egress_ocn"]))


def piece_id(run_id: int, piece: int) -> int:
    """Return the object id of a level-0 piece."""
    return run_id * BATCHES_PER_RUN + piece


def segment_digest(month: int, run_id: int, bucket: int, entries: int, sealed: bytes) -> bytes:
    """SHA-256 of a tag segment's row."""
    return hashlib.sha256(struct.pack(">iqii", month, run_id, bucket, entries) + sealed).digest()


async def object_ids(conn: asyncpg.Connection, run: Run) -> list[int]:
    """Return the ids of a run's pieces (level 0: piece numbers) or batches, in order."""
    if run.level == 0:
        query = "SELECT piece AS id FROM tollgate.staging WHERE month = $1 AND run_id = $2 ORDER BY piece"
    else:
        query = "SELECT batch_id AS id FROM tollgate.batch WHERE month = $1 AND run_id = $2 ORDER BY batch_id"
    return [r["id"] for r in await conn.fetch(query, run.month, run.run_id)]


async def objects(conn: asyncpg.Connection, run: Run, group: int = 32) -> AsyncIterator[list[Sealed]]:
    """Yield a run's sealed objects in order, some at a time."""
    ids = await object_ids(conn, run)
    if run.level == 0:
        for at in range(0, len(ids), 2):
            rows = await conn.fetch(SELECT_PIECES, run.month, run.run_id, ids[at : at + 2])
            yield [sealed_from(r) for r in rows]
        return
    for at in range(0, len(ids), group):
        rows = await conn.fetch(SELECT_BATCHES, run.month, run.run_id, ids[at : at + group])
        yield [sealed_from(r) for r in rows]
