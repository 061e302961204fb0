"""What was refused of a file: where and why. The lines themselves stay sealed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import asyncpg

from keys.datakeys import DataKeys
from keys.provider import Period
from keys.sealing import open_sealed
from schema.fields import DisclosureClass

KEY_CLASS = DisclosureClass.SOURCE.value
"""Refused lines and file names are sealed as what they are: the source of records."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused line."""

    file: str
    line: int
    reason: str


def line_aad(ingest_id: int, piece: int) -> bytes:
    """Return what a piece of refused lines is bound to."""
    return struct.pack(">4sqi", b"TGR1", ingest_id, piece)


def name_aad(ingest_id: int) -> bytes:
    """Return what a file's sealed name is bound to."""
    return struct.pack(">4sq", b"TGN1", ingest_id)


async def rejects_of(conn: asyncpg.Connection, keys: DataKeys, ingest_id: int, limit: int) -> list[Reject] | None:
    """Return the first refused lines of an ingest, in file order; None if there is no such ingest.

    Raises:
        KeyUnavailable: if the key of the file's name is gone.
    """
    row = await conn.fetchrow("SELECT name_key_month, name_sealed FROM tollgate.ingest WHERE ingest_id = $1", ingest_id)
    if row is None:
        return None
    period = Period(KEY_CLASS, row["name_key_month"])
    key = (await keys.load(conn, [period]))[period]
    (name,) = open_sealed(key, row["name_sealed"], name_aad(ingest_id))
    found = await conn.fetch(
        "SELECT n, r FROM tollgate.ingest_reject, unnest(line_numbers, reasons) AS u(n, r) WHERE ingest_id = $1"
        " ORDER BY n LIMIT $2",
        ingest_id,
        limit,
    )
    return [Reject(name.decode(), f["n"], f["r"]) for f in found]
