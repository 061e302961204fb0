"""What is sealed of a case: under key class ``case`` of the month of receipt, each piece bound to its place.

A piece moved to another case, part or version does not open. The key is one for each month's cases: a case is not
shredded alone, and nothing of it is ever deleted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg

from keys.datakeys import DataKeys
from keys.errors import KeyUnavailable
from keys.provider import DataKey, Period
from keys.sealing import open_sealed, seal

KEY_CLASS = "case"
_LARGE = 64 * 1024


class CaseSealer:
    """Seals and opens for one process.

    Args:
        keys: the data keys; the provider has to open class ``case``.
    """

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    async def ensure(self, conn: asyncpg.Connection, month: int) -> None:
        """Make the month's key if it is missing; outside any transaction, which would take it along in a rollback."""
        await self._keys.ensure(conn, [Period(KEY_CLASS, month)])

    async def load(self, conn: asyncpg.Connection, months: Iterable[int]) -> None:
        """Have these months' keys in memory.

        Raises:
            KeyUnavailable: if one is gone.
        """
        wanted = {Period(KEY_CLASS, month) for month in months}
        if missing := wanted - (await self._keys.load(conn, wanted)).keys():
            raise KeyUnavailable(f"the key of cases of {min(missing).month} is gone")

    async def seal(self, month: int, place: tuple[str, ...], data: bytes) -> bytes:
        """Return ``data`` sealed for ``place``: the case's id, the part, the version."""
        key = self._key(month)
        if len(data) < _LARGE:
            return seal(key, [data], _aad(place))
        return await asyncio.to_thread(seal, key, [data], _aad(place))

    async def open(self, month: int, place: tuple[str, ...], sealed: bytes) -> bytes:
        """Return what :meth:`seal` was given.

        Raises:
            SealError: if it was altered, or sealed for another place.
        """
        key = self._key(month)
        if len(sealed) < _LARGE:
            return open_sealed(key, sealed, _aad(place))[0]
        return (await asyncio.to_thread(open_sealed, key, sealed, _aad(place)))[0]

    async def seal_json(self, month: int, place: tuple[str, ...], value: Mapping[str, Any]) -> bytes:
        """Return a JSON object sealed for ``place``."""
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return await self.seal(month, place, text.encode())

    async def open_json(self, month: int, place: tuple[str, ...], sealed: bytes) -> dict[str, Any]:
        """Return what :meth:`seal_json` was given. Raises as :meth:`open`."""
        value: dict[str, Any] = json.loads(await self.open(month, place, sealed))
        return value

    def _key(self, month: int) -> DataKey:
        key = self._keys.cached(Period(KEY_CLASS, month))
        if key is None:
            raise KeyUnavailable("the key of a case was not loaded")
        return key


def _aad(place: tuple[str, ...]) -> bytes:
    return "\n".join(("tollgate case 1", *place)).encode()
