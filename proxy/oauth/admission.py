"""One statement that says whether a request may go on, and spends its identifiers (sql.ADMIT); the keys of a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import asyncpg

from proxy.oauth import sql
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.tokens import Claims
from proxy.registry.jwk import PublicKey, public_key
from proxy.registry.model import OcnOwnership

TIMEOUT_S = 5.0
"""How long a statement may take, waiting for a connection included, seconds."""

LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What a database that is away looks like. Nothing was decided then; an identifier may be spent."""


@dataclass(frozen=True, slots=True)
class Use:
    """A single use: the hash of an identifier, and until when it must be remembered (seconds since 1970 UTC)."""

    hash: bytes
    expires: float


@dataclass(frozen=True, slots=True)
class Admission:
    """What the database says of a request, by its own clock and at one moment."""

    now: float
    carrier_id: str
    enabled: bool
    """The client, its carrier and the key it proved are live."""
    inside: bool
    """It comes from an allowed network."""
    kept: frozenset[bytes]
    """Of the identifiers given, those that were never used before."""
    over: bool
    """The client's requests of this minute are spent."""
    retry_after: int
    """Seconds until the next minute."""
    revoked: bool
    agreement: str | None
    agreement_end: float | None
    """When the agreement ends, seconds since 1970-01-01 UTC; None: open."""
    ownership: tuple[OcnOwnership, ...]
    """All periods of the OCNs that are the carrier's today."""


class Admissions:
    """The database as the authorization server sees it.

    Args:
        pool: connections of role OAUTH.
        clock: taught the database's time by every answer.
    """

    def __init__(self, pool: asyncpg.Pool, clock: DatabaseClock) -> None:
        self._pool = pool
        self._clock = clock

    async def client_keys(self, client_id: str) -> dict[str, PublicKey]:
        """Return a client's live keys by kid; empty for a client that is not there or has none.

        Raises:
            LOST: if the database is away.
        """
        rows = await self.run(lambda conn: conn.fetch(sql.KEYS, client_id))
        self._clock.observe(rows[0]["now"])
        return {row["kid"]: public_key(json.loads(row["jwk"])) for row in rows if row["kid"] is not None}

    async def admit(
        self, client_id: str, key: str, address: str, uses: Sequence[Use], token: Claims | None = None
    ) -> Admission:
        """Ask whether a request may go on, and spend its identifiers.

        Args:
            client_id: whose request it is, proven by a signature beforehand.
            key: thumbprint of the client's registered key that proved it (or got the token).
            address: where it comes from.
            uses: the identifiers to spend.
            token: the access token that it shows, if any.

        Raises:
            LOST: if the database is away.
        """
        arguments = (
            client_id,
            address,
            key,
            [use.hash for use in uses],
            [datetime.fromtimestamp(use.expires, UTC) for use in uses],
            None if token is None else token.hash,
            None if token is None else token.expires_at,
            None if token is None else token.agreement,
        )
        row = await self.spending(sql.ADMIT, *arguments)
        now = row["now"].timestamp()
        self._clock.observe(row["now"])
        end: date | None = row["agreement_to"]
        periods = zip(row["ocns"] or (), row["valid_from"] or (), row["valid_to"] or (), strict=True)
        return Admission(
            now=now,
            carrier_id=row["carrier_id"] or "",
            enabled=bool(row["enabled"]),
            inside=bool(row["inside"]),
            kept=frozenset(row["kept"]),
            over=row["used"] is not None and row["used"] > row["requests_per_minute"],
            retry_after=60 - int(now) % 60,
            revoked=row["revoked"],
            agreement=row["agreement"],
            agreement_end=None if end is None else datetime.combine(end, time(), UTC).timestamp(),
            ownership=tuple(OcnOwnership(o, row["carrier_id"], first, last) for o, first, last in periods),
        )

    async def revoke(self, token: Claims) -> None:
        """Note that a token is revoked; on every gateway from this COMMIT on.

        Raises:
            LOST: if the database is away.
        """
        await self.run(lambda conn: conn.execute(sql.REVOKE, token.hash, token.expires_at))

    async def live(self, client_id: str, key: str, token: bytes, expires_at: datetime, agreement: str) -> bool:
        """Say whether all that a token stands on is still so; its expiry is not looked at.

        Args:
            client_id: the client.
            key: thumbprint of the registered key it was got with.
            token: hash of its identifier.
            expires_at: when it expires (which day's revocations to look through).
            agreement: the agreement it was issued under.

        Raises:
            LOST: if the database is away.
        """
        arguments = (client_id, key, token, expires_at, agreement)
        found: bool = await self.run(lambda conn: conn.fetchval(sql.LIVE, *arguments))
        return found

    async def spending(self, statement: str, *arguments: Any) -> asyncpg.Record:
        """Run a statement that spends identifiers and return its row.

        Raises:
            LOST: if the database is away.
        """
        try:
            return await self.run(lambda conn: conn.fetchrow(statement, *arguments))
        except asyncpg.CheckViolationError:
            # No partition for that day: the hourly round has not been, nowhere, for days. Make it and ask again.
            await self.partitions()
            return await self.run(lambda conn: conn.fetchrow(statement, *arguments))

    async def synchronise(self) -> None:
        """Learn the database's time.

        Raises:
            LOST: if the database is away.
        """
        self._clock.observe(await self.run(lambda conn: conn.fetchval(sql.NOW)))

    async def partitions(self) -> None:
        """Make the coming days' partitions, drop those that are past.

        Raises:
            LOST: if the database is away, or a table stayed locked.
        """
        await self.run(lambda conn: conn.fetchval(sql.PARTITIONS))

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        """Run one statement on a connection of role OAUTH.

        Raises:
            LOST: if the database is away.
        """
        # One limit over both: where every connection is taken, waiting for one is all that happens. The pool's own
        # limit is for giving back a connection whose statement was broken off.
        async with asyncio.timeout(TIMEOUT_S), self._pool.acquire(timeout=TIMEOUT_S) as conn:
            return await work(conn)
