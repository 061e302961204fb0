"""Wrapped data keys in PostgreSQL (tollgate.data_key): one for each class and month, opened through the provider.

    wrapped = provider.wrap(period, "TD" | version u8 = 1 | key id u64, big-endian | secret, 32 bytes)

The provider binds it to class and month; the key id stands inside, so that a row's key id cannot be changed either.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Iterable

import asyncpg

from keys.errors import KeyUnavailable, SealError
from keys.provider import DataKey, Period, Provider

__all__ = ["ALGORITHM", "DataKey", "DataKeys", "open_envelope"]

ALGORITHM = "tollgate-data-key-1"
"""What the ``alg`` column says: the envelope above."""

_MAGIC = b"TD\x01"
_SECRET = 32

# A row of this very transaction (or one as young) is not to be cached: it goes if the transaction rolls back, and
# what was sealed under it later would open for nobody. created_at is now() of the transaction that made the row.
_SELECT = """
SELECT k.key_class, k.month, k.key_id, k.alg, k.wrapped, k.created_at < now() AS settled
FROM tollgate.data_key k
WHERE (k.key_class, k.month) IN (SELECT c, m FROM unnest($1::text[], $2::int[]) AS w (c, m))
  AND NOT EXISTS (
    SELECT 1 FROM tollgate.data_key_destroyed d WHERE d.key_class = k.key_class AND d.month = k.month)
"""

_DESTROYED = """
SELECT key_class, month FROM tollgate.data_key_destroyed
WHERE (key_class, month) IN (SELECT c, m FROM unnest($1::text[], $2::int[]) AS w (c, m))
"""

# In one order, so that two transactions which make the same keys cannot wait for each other in a ring.
_INSERT = """
INSERT INTO tollgate.data_key (key_class, month, key_id, alg, wrapped)
SELECT c, m, k, a, w FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::bytea[]) AS r (c, m, k, a, w)
ORDER BY c, m
ON CONFLICT (key_class, month) DO NOTHING
"""


class DataKeys:
    """Data keys, opened once and kept in memory. Failures are never kept.

    May be shared by tasks and read from threads. Opened keys stay until `forget`, also past the destruction of their
    period: long-lived processes call `forget_destroyed` now and then.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._cache: dict[Period, DataKey] = {}
        self._mutex = threading.Lock()

    def cached(self, period: Period) -> DataKey | None:
        """Return a key if it is in memory; asks neither database nor provider."""
        with self._mutex:
            return self._cache.get(period)

    def forget(self, periods: Iterable[Period] | None = None) -> None:
        """Drop keys from memory; None drops all."""
        with self._mutex:
            if periods is None:
                self._cache.clear()
            else:
                for period in periods:
                    self._cache.pop(period, None)

    async def forget_destroyed(self, conn: asyncpg.Connection) -> None:
        """Drop from memory what is on record as destroyed, by whichever process."""
        with self._mutex:
            held = sorted(self._cache)
        if held:
            gone = await conn.fetch(_DESTROYED, *_columns(held))
            self.forget([Period(row["key_class"], row["month"]) for row in gone])

    async def load(self, conn: asyncpg.Connection, periods: Iterable[Period]) -> dict[Period, DataKey]:
        """Return the data keys that exist; a period without one, or destroyed, is absent from the result.

        Raises:
            KeyUnavailable: if a period key is missing from the provider, or not for this process.
            SealError: if a row was tampered with.
        """
        wanted = set(periods)
        with self._mutex:
            found = {p: self._cache[p] for p in wanted if p in self._cache}
        missing = sorted(wanted - found.keys())
        if not missing:
            return found
        rows = await conn.fetch(_SELECT, *_columns(missing))
        items = [(Period(r["key_class"], r["month"]), bytes(r["wrapped"])) for r in rows]
        for row in rows:
            if row["alg"] != ALGORITHM:
                raise KeyUnavailable("a data key of an algorithm that this version does not know: upgrade")
        opened = await self._provider.unwrap_many(items) if items else []
        for row, (period, _), envelope in zip(rows, items, opened, strict=True):
            key = open_envelope(period, row["key_id"], envelope)
            found[period] = key
            if row["settled"]:
                with self._mutex:
                    self._cache[period] = key
        return found

    async def ensure(self, conn: asyncpg.Connection, periods: Iterable[Period]) -> dict[Period, DataKey]:
        """Return a data key for each period; the missing ones are made. Whoever asks first decides, all others agree.

        In an open transaction the new row is its transaction's: it goes with a rollback, and others who want the same
        period wait until the transaction ends. Where transactions are long, ensure first, then begin.

        Raises:
            KeyUnavailable: if a period was destroyed, or a period key is missing or not for this process.
            SealError: if a row was tampered with.
        """
        wanted = set(periods)
        found = await self.load(conn, wanted)
        missing = sorted(wanted - found.keys())
        if not missing:
            return found
        if gone := await conn.fetch(_DESTROYED, *_columns(missing)):
            raise KeyUnavailable(f"the key for {Period(gone[0]['key_class'], gone[0]['month'])} was destroyed")
        ids, wrapped = [], []
        for period in missing:
            key_id = secrets.randbelow(2**63 - 1) + 1
            ids.append(key_id)
            envelope = _MAGIC + key_id.to_bytes(8, "big") + secrets.token_bytes(_SECRET)
            wrapped.append(await self._provider.wrap(period, envelope))
        async with conn.transaction():
            # A key that is lost with an unflushed commit takes with it what other transactions sealed under it.
            await conn.execute("SET LOCAL synchronous_commit = on")
            await conn.execute(_INSERT, *_columns(missing), ids, [ALGORITHM] * len(missing), wrapped)
        found |= await self.load(conn, missing)
        if absent := sorted(wanted - found.keys()):
            raise KeyUnavailable(f"the data key for {absent[0]} was made and cannot be read: destroyed meanwhile?")
        return found

    async def record_destroyed(self, conn: asyncpg.Connection, periods: Iterable[Period]) -> None:
        """Put on record that periods are destroyed (the provider's own `destroy` does it); from then on none opens."""
        gone = sorted(set(periods))
        await conn.execute(
            "INSERT INTO tollgate.data_key_destroyed (key_class, month)"
            " SELECT c, m FROM unnest($1::text[], $2::int[]) AS r (c, m) ORDER BY c, m ON CONFLICT DO NOTHING",
            *_columns(gone),
        )
        self.forget(gone)


def open_envelope(period: Period, key_id: int, envelope: bytes) -> DataKey:
    """Return the data key in an unwrapped envelope.

    Raises:
        SealError: if it is not one, or bears another key id than its row.
    """
    if len(envelope) != len(_MAGIC) + 8 + _SECRET or not envelope.startswith(_MAGIC):
        raise SealError("what was wrapped is not a data key of this version")
    if not hmac.compare_digest(envelope[3:11], key_id.to_bytes(8, "big")):
        raise SealError(f"the data key of {period} bears another id than its row")
    return DataKey(key_id, period, envelope[11:])


def _columns(periods: Iterable[Period]) -> tuple[list[str], list[int]]:
    ordered = list(periods)
    return [p.key_class for p in ordered], [p.month for p in ordered]
