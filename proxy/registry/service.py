"""What narrows the registry, each with its log entry in one transaction; look-ups; the daily row quota.

One operator ends things at once; what widens takes two (`widening.py`, proxy/changes). What ends takes effect with its
COMMIT on every gateway: tokens and requests are checked against these tables by one statement each time
(proxy/oauth/sql.py), nothing is cached. Trust: role OPERATOR can end, and neither undo that, rename nor delete; it can
add only under a change that another has approved, and the database holds it to that; who did what is in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.ledger.service import Ledger
from proxy.registry import sql
from proxy.registry.model import (
    Agreement,
    Carrier,
    Client,
    Conflict,
    NotFound,
    OcnOwnership,
    QuotaExceeded,
    RegistryError,
    check_period,
    check_text,
)
from proxy.registry.widening import open_client


class Registry:
    """What ends, and look-ups. ``conn`` is a connection of role OPERATOR outside any transaction.

    Args:
        ledger: where what ends is entered; None for look-ups only.
        actor: who ends it, as the log shall say it (StaffGrant.actor).
        tags: what their entries are found by (StaffGrant.tags).
    """

    def __init__(
        self, ledger: Ledger | None = None, *, actor: Mapping[str, JSON] | None = None, tags: Iterable[Tag] = ()
    ) -> None:
        self._ledger = ledger
        self._actor = dict(actor or {})
        self._tags = tuple(tags)

    async def disable_carrier(self, conn: asyncpg.Connection, carrier_id: str, reason: str) -> None:
        """Disable a carrier: its clients and their live tokens are dead with the COMMIT.

        Raises:
            NotFound: if there is none.
            Conflict: if it is disabled already.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            if await conn.fetchval(sql.DISABLE_CARRIER, carrier_id) is None:
                row = await conn.fetchrow(sql.CARRIER_STATE, carrier_id)
                raise NotFound(f"no carrier {carrier_id}") if row is None else Conflict(f"{carrier_id} is disabled")
            return {"carrier": carrier_id, "reason": reason}

        await self._change(conn, "carrier.disable", work)

    async def end_ocn(self, conn: asyncpg.Connection, carrier_id: str, ocn: str, valid_to: date, reason: str) -> None:
        """End a carrier's ownership of an OCN before the day ``valid_to``; a period that begins later is taken back.

        Raises:
            NotFound: if the carrier does not own it on or after that day.
        """
        check_text("a reason", reason)
        check_period(valid_to, None)

        async def work() -> Mapping[str, JSON]:
            rows = await conn.fetch(sql.END_OCN, carrier_id, ocn, valid_to)
            if not rows:
                raise NotFound(f"OCN {ocn} is not {carrier_id}'s on or after {valid_to.isoformat()}")
            ended = [{"ocn": ocn, "from": r["valid_from"].isoformat(), "to": r["valid_to"].isoformat()} for r in rows]
            return {"carrier": carrier_id, "ocns": ended, "reason": reason}

        await self._change(conn, "ocn.end", work)

    async def disable_agreement(self, conn: asyncpg.Connection, reference: str, reason: str) -> None:
        """End an agreement now: no more tokens under it, and live ones are dead with the COMMIT.

        Raises:
            NotFound: if there is none in force or to come.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            row = await conn.fetchrow(sql.DISABLE_AGREEMENT, reference)
            if row is None:
                raise NotFound(f"no agreement {reference}, or it is disabled already")
            return {"agreement": reference, "carrier": row["carrier_id"], "reason": reason}

        await self._change(conn, "agreement.disable", work)

    async def disable_client(self, conn: asyncpg.Connection, client_id: str, reason: str) -> None:
        """Disable a client and its keys: it and its live tokens are dead with the COMMIT.

        Raises:
            NotFound: if there is none.
            Conflict: if it is disabled already.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            await open_client(conn, client_id)
            await conn.execute(sql.DISABLE_CLIENT, client_id)
            kids = [r["kid"] for r in await conn.fetch(sql.DISABLE_KEYS, client_id)]
            return {"client": client_id, "keys": kids, "reason": reason}

        await self._change(conn, "client.disable", work, Tag("client", client_id.encode()))

    async def disable_key(self, conn: asyncpg.Connection, client_id: str, kid: str, reason: str) -> None:
        """Disable a key: assertions it signs, and live tokens it was used to get, are dead with the COMMIT.

        Raises:
            NotFound: if the client has no such live key.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            thumbprint = await conn.fetchval(sql.DISABLE_KEY, client_id, kid)
            if thumbprint is None:
                raise NotFound(f"client {client_id} has no live key of that kid")
            key: dict[str, JSON] = {"kid": kid, "thumbprint": thumbprint}
            return {"client": client_id, "keys": [key], "reason": reason}

        await self._change(conn, "client.key.disable", work, Tag("client", client_id.encode()))

    async def carriers(self, conn: asyncpg.Connection) -> list[Carrier]:
        """Return every carrier, disabled ones too."""
        return [Carrier(**dict(row)) for row in await conn.fetch(sql.CARRIERS)]

    async def ocns(self, conn: asyncpg.Connection, carrier_id: str | None = None) -> list[OcnOwnership]:
        """Return who owns which OCN when, past and future too."""
        return [OcnOwnership(**dict(row)) for row in await conn.fetch(sql.OCNS, carrier_id)]

    async def agreements(self, conn: asyncpg.Connection, carrier_id: str | None = None) -> list[Agreement]:
        """Return every agreement, ended ones too."""
        return [Agreement(**dict(row)) for row in await conn.fetch(sql.AGREEMENTS, carrier_id)]

    async def clients(self, conn: asyncpg.Connection, carrier_id: str | None = None) -> list[Client]:
        """Return every client with its live keys, disabled clients too."""
        return [
            Client(**{**dict(row), "networks": tuple(row["networks"]), "jwks": tuple(map(json.loads, row["jwks"]))})
            for row in await conn.fetch(sql.CLIENTS, carrier_id)
        ]

    async def _change(self, conn: asyncpg.Connection, what: str, work: Callable[[], Any], *tags: Tag) -> None:
        """Run ``work`` and enter what it returns, in one transaction: dying at any point leaves both or neither."""
        if self._ledger is None:
            raise RegistryError("a change needs the access log")
        async with conn.transaction():
            told = await work()
            found_by = dict.fromkeys((*self._tags, *tags))
            asked = {"change": what, **told}
            entry = Entry(Kind.REGISTRY_CHANGE, self._actor, asked, tags=tuple(found_by))
            # Last before COMMIT: it locks the head of the log.
            await self._ledger.append_in(conn, [entry])


async def spend_rows(conn: asyncpg.Connection, client_id: str, rows: int) -> int:
    """Take ``rows`` from a client's quota of this UTC day (the database's clock), all or nothing.

    Args:
        conn: a connection of role OAUTH.
        client_id: the client.
        rows: how many; a negative number gives back what was taken and not used.

    Returns:
        How many remain.

    Raises:
        QuotaExceeded: if fewer remain; nothing was taken.
        NotFound: if there is no such client.
    """
    remaining: int | None = await conn.fetchval(sql.SPEND_ROWS, client_id, rows)
    if remaining is not None:
        return max(remaining, 0)
    row = await conn.fetchrow(sql.ROWS_LEFT, client_id)
    if row is None:
        raise NotFound("no such client")
    raise QuotaExceeded(row["remaining"], row["resets_at"])
