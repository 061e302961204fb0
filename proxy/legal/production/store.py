"""Keeps a production's pieces in PostgreSQL: packed, then sealed under the case's key, each bound to its place."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import zstandard

from proxy.legal.production import sql
from proxy.legal.production.building import PIECE
from proxy.legal.production.model import ProductionError
from proxy.legal.sealing import CaseSealer

_LEVEL = 3


class StoredParts:
    """The pieces of one production.

    Args:
        pool: connections of role CASES.
        sealer: has the case's month in memory.
        production_id: whose.
        month: the case's.
    """

    def __init__(self, pool: asyncpg.Pool, sealer: CaseSealer, production_id: UUID, month: int) -> None:
        self._pool = pool
        self._sealer = sealer
        self._id = production_id
        self._month = month

    async def put(self, name: str, piece: int, data: bytes) -> None:
        """Keep a piece; durable with the production's next state."""
        packed = await asyncio.to_thread(zstandard.ZstdCompressor(level=_LEVEL).compress, data)
        sealed = await self._sealer.seal(self._month, self._place(name, piece), packed)
        await self._pool.execute(sql.PUT, self._id, name, piece, sealed)

    async def get(self, name: str, piece: int) -> bytes:
        """Return a piece.

        Raises:
            ProductionError: if it is not there.
            SealError: if it was altered, or is another's.
        """
        sealed = await self._pool.fetchval(sql.PIECE, self._id, name, piece)
        if sealed is None:
            raise ProductionError(f"a piece of {name} is missing")
        packed = await self._sealer.open(self._month, self._place(name, piece), sealed)
        return await asyncio.to_thread(_unpacked, packed)

    def _place(self, name: str, piece: int) -> tuple[str, ...]:
        return ("production", str(self._id), name, str(piece))


def _unpacked(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=PIECE)
