"""Opening entries: each is checked against its own commitments as it is read."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.errors import KeyUnavailable, SealError
from keys.provider import Period
from keys.sealing import open_chunks, parse_header
from proxy.ledger import encoding, sql
from proxy.ledger.batch import part_class
from proxy.ledger.model import PARTS, LedgerBroken, OpenedEntry, month_of

_Blobs = dict[tuple[str, UUID], bytes]


@dataclass(frozen=True, slots=True)
class WholeEntry:
    """An entry with the bytes that it was hashed from: what a proof is shown with."""

    entry: OpenedEntry
    header: bytes
    openings: dict[str, bytes]
    """Of the parts whose openings are there."""


async def open_rows(conn: asyncpg.Connection, keys: DataKeys, rows: Sequence[asyncpg.Record]) -> list[OpenedEntry]:
    """Open rows of ``sql.READ``.

    A part whose opening has been erased, or whose period's key has been destroyed, is None.

    Raises:
        LedgerBroken: if an entry is not what its header, leaf or commitments say.
    """
    return [whole.entry for whole in await open_whole(conn, keys, rows)]


async def open_whole(conn: asyncpg.Connection, keys: DataKeys, rows: Sequence[asyncpg.Record]) -> list[WholeEntry]:
    """Open rows as `open_rows` does, and give the bytes too."""
    if not rows:
        return []
    months = sorted({month_of(row["at"]) for row in rows})
    found = await conn.fetch(sql.OPENINGS, list(PARTS), months, list({row["batch_id"] for row in rows}))
    blobs = {(row["part"], row["batch_id"]): bytes(row["sealed"]) for row in found}
    opening_keys = await _load(conn, keys, {Period(part_class(row["part"]), row["month"]) for row in found})
    return await asyncio.to_thread(_open_all, rows, blobs, opening_keys)


async def _load(conn: asyncpg.Connection, keys: DataKeys, periods: Collection[Period]) -> Mapping[Period, DataKey]:
    try:
        return await keys.load(conn, periods)
    except KeyUnavailable:
        # One destroyed period must not hide the others.
        loaded: dict[Period, DataKey] = {}
        for period in periods:
            try:
                loaded.update(await keys.load(conn, [period]))
            except KeyUnavailable:
                continue
        return loaded


def _open_all(rows: Sequence[asyncpg.Record], blobs: _Blobs, keys: Mapping[Period, DataKey]) -> list[WholeEntry]:
    wanted: dict[UUID, dict[int, asyncpg.Record]] = {}
    for row in rows:
        wanted.setdefault(row["batch_id"], {})[row["batch_pos"]] = row
    openings: dict[tuple[str, int], bytes] = {}
    for (part, batch_id), blob in blobs.items():
        places = wanted[batch_id]
        month = month_of(next(iter(places.values()))["at"])
        if (key := keys.get(Period(part_class(part), month))) is not None:
            openings.update(_open_blob(part, month, batch_id, blob, key, places))
    return [_whole(row, openings) for row in rows]


def _whole(row: asyncpg.Record, openings: Mapping[tuple[str, int], bytes]) -> WholeEntry:
    own = {part: data for part in PARTS if (data := openings.get((part, row["idx"])))}
    return WholeEntry(_open_row(row, openings), bytes(row["header"]), own)


def _open_blob(
    part: str, month: int, batch_id: UUID, blob: bytes, key: DataKey, places: Mapping[int, asyncpg.Record]
) -> dict[tuple[str, int], bytes]:
    order = sorted(places)
    try:
        header = parse_header(blob)
        view = memoryview(blob)
        sealed = []
        for position in order:
            offset, length = header.span(position)
            sealed.append((position, view[offset : offset + length]))
        opened = open_chunks(key, header, sealed, encoding.sealing_aad(part, month, batch_id))
    except SealError as error:
        raise LedgerBroken(places[order[0]]["idx"], f"its sealed {part} does not open") from error
    return {(part, places[position]["idx"]): data for position, data in zip(order, opened, strict=True)}


def _open_row(row: asyncpg.Record, openings: Mapping[tuple[str, int], bytes]) -> OpenedEntry:
    index, raw, tags = row["idx"], bytes(row["header"]), bytes(row["tags"])
    if not hmac.compare_digest(encoding.leaf_hash(raw), bytes(row["leaf_hash"])):
        raise LedgerBroken(index, "its leaf is not its header's")
    header = encoding.read_header(index, raw)
    stored = (row["entry_id"], row["kind"], row["at"], row["access_id"])
    if stored != (header.entry_id, header.kind, header.at, header.access_id):
        raise LedgerBroken(index, "its columns are not what its header says")
    if header.tags != (encoding.commitment(tags) if tags else None):
        raise LedgerBroken(index, "its tags are not what its header commits to")
    parts: dict[str, dict[str, Any] | None] = {}
    for part in PARTS:
        data, commit = openings.get((part, index)), header.commits.get(part)
        if commit is None:
            if data:
                raise LedgerBroken(index, f"it has a sealed {part} that its header does not commit to")
            parts[part] = {}
        else:
            parts[part] = None if data is None else encoding.read_opening(index, part, data, commit)
    return OpenedEntry(
        index,
        header.entry_id,
        header.at,
        header.kind,
        header.access_id,
        parts["actor"],
        parts["request"],
        parts["outcome"],
        parts["records"],
        bytes(row["leaf_hash"]),
    )
