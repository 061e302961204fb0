"""Changes to the registry, each with its log entry in one transaction; look-ups; the daily row quota.

What ends takes effect with its COMMIT on every gateway: tokens and requests are checked against these tables by one
statement each time (proxy/oauth/sql.py), nothing is cached. Trust: role OPERATOR can add and end, and neither rename
nor delete; who did what is in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.ledger.service import Ledger
from proxy.registry import sql
from proxy.registry.jwk import JwkError, RegisteredKey, registered
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
from schema.fields import ocn_code

_KEYS_MAX = 8


class Registry:
    """Changes and look-ups. ``conn`` is a connection of role OPERATOR outside any transaction.

    Args:
        ledger: where changes are entered; None for look-ups only.
        by: who makes the changes, as the log shall say it.
    """

    def __init__(self, ledger: Ledger | None = None, *, by: str = "") -> None:
        self._ledger = ledger
        self._by = by

    async def add_carrier(
        self, conn: asyncpg.Connection, carrier: Carrier, ownership: tuple[OcnOwnership, ...] = ()
    ) -> None:
        """Add a carrier, with OCNs if given.

        Raises:
            Conflict: if the id is taken, or an OCN is another's in that time.
            LedgerUnavailable: if the log cannot be written; nothing was changed.
        """
        if any(o.carrier_id != carrier.carrier_id for o in ownership):
            raise RegistryError("an OCN given with a carrier must be that carrier's")

        async def work() -> Mapping[str, JSON]:
            try:
                await conn.execute(sql.ADD_CARRIER, carrier.carrier_id, carrier.name)
            except asyncpg.UniqueViolationError as error:
                raise Conflict(f"carrier {carrier.carrier_id} is there already") from error
            for item in ownership:
                await self._give(conn, item)
            return {"carrier": carrier.carrier_id, "name": carrier.name, "ocns": [_period(o) for o in ownership]}

        await self._change(conn, "carrier.add", work)

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

    async def add_ocn(self, conn: asyncpg.Connection, ownership: OcnOwnership) -> None:
        """Say that an OCN is a carrier's from a day on (until another day).

        Raises:
            NotFound: if there is no such carrier.
            Conflict: if the OCN is anybody's on any of those days.
        """

        async def work() -> Mapping[str, JSON]:
            await self._give(conn, ownership)
            return {"carrier": ownership.carrier_id, "ocns": [_period(ownership)]}

        await self._change(conn, "ocn.add", work)

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
            ended = [_period(OcnOwnership(ocn, carrier_id, r["valid_from"], None), r["valid_to"]) for r in rows]
            return {"carrier": carrier_id, "ocns": ended, "reason": reason}

        await self._change(conn, "ocn.end", work)

    async def add_agreement(self, conn: asyncpg.Connection, agreement: Agreement) -> None:
        """Add an interconnection agreement.

        Raises:
            NotFound: if there is no such carrier.
            Conflict: if the reference is taken.
        """

        async def work() -> Mapping[str, JSON]:
            a = agreement
            try:
                await conn.execute(
                    sql.ADD_AGREEMENT, a.reference, a.carrier_id, a.in_force_from, a.in_force_to, a.cpni_clause
                )
            except asyncpg.UniqueViolationError as error:
                raise Conflict(f"agreement {a.reference} is there already") from error
            except asyncpg.ForeignKeyViolationError as error:
                raise NotFound(f"no carrier {a.carrier_id}") from error
            return {
                "agreement": a.reference,
                "carrier": a.carrier_id,
                "from": a.in_force_from.isoformat(),
                "to": _iso(a.in_force_to),
                "cpni_clause": a.cpni_clause,
            }

        await self._change(conn, "agreement.add", work)

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

    async def add_client(self, conn: asyncpg.Connection, client: Client) -> tuple[RegisteredKey, ...]:
        """Add an API client with its keys; return the keys as registered.

        Raises:
            RegistryError: if a key is not one that is taken, or there is none.
            NotFound: if there is no such carrier.
            Conflict: if the id is taken, or a key is another live client's.
        """
        keys = tuple(_checked(jwk) for jwk in client.jwks)
        if not keys:
            raise RegistryError("a client needs a public key")

        async def work() -> Mapping[str, JSON]:
            c = client
            try:
                await conn.execute(
                    sql.ADD_CLIENT, c.client_id, c.carrier_id, c.networks, c.requests_per_minute, c.rows_per_day
                )
            except asyncpg.UniqueViolationError as error:
                raise Conflict(f"client {c.client_id} is there already") from error
            except asyncpg.ForeignKeyViolationError as error:
                raise NotFound(f"no carrier {c.carrier_id}") from error
            for key in keys:
                await _insert_key(conn, c.client_id, key)
            return {
                "client": c.client_id,
                "carrier": c.carrier_id,
                "networks": [str(n) for n in c.networks],
                "requests_per_minute": c.requests_per_minute,
                "rows_per_day": c.rows_per_day,
                "keys": [_named(key) for key in keys],
            }

        await self._change(conn, "client.add", work, Tag("client", client.client_id.encode()))
        return keys

    async def disable_client(self, conn: asyncpg.Connection, client_id: str, reason: str) -> None:
        """Disable a client and its keys: it and its live tokens are dead with the COMMIT.

        Raises:
            NotFound: if there is none.
            Conflict: if it is disabled already.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            await self._open_client(conn, client_id)
            await conn.execute(sql.DISABLE_CLIENT, client_id)
            kids = [r["kid"] for r in await conn.fetch(sql.DISABLE_KEYS, client_id)]
            return {"client": client_id, "keys": kids, "reason": reason}

        await self._change(conn, "client.disable", work, Tag("client", client_id.encode()))

    async def add_key(self, conn: asyncpg.Connection, client_id: str, jwk: Mapping[str, Any]) -> RegisteredKey:
        """Register a further public key of a client (its next one); return it as registered.

        Raises:
            RegistryError: if it is not a key that is taken, or the client has as many as it may.
            NotFound: if there is no such client.
            Conflict: if the client is disabled, the kid was used before, or the key is another live client's.
        """
        key = _checked(jwk)

        async def work() -> Mapping[str, JSON]:
            await self._open_client(conn, client_id)
            if await conn.fetchval(sql.COUNT_KEYS, client_id) >= _KEYS_MAX:
                raise RegistryError(f"a client has at most {_KEYS_MAX} keys: disable one")
            await _insert_key(conn, client_id, key)
            return {"client": client_id, "keys": [_named(key)]}

        await self._change(conn, "client.key.add", work, Tag("client", client_id.encode()))
        return key

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

    async def _give(self, conn: asyncpg.Connection, item: OcnOwnership) -> None:
        try:
            done = await conn.fetchval(
                sql.ADD_OCN, item.ocn, ocn_code(item.ocn), item.valid_from, item.valid_to, item.carrier_id
            )
        except asyncpg.ExclusionViolationError as error:
            raise Conflict(f"OCN {item.ocn} is a carrier's on some of those days: end that first") from error
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound(f"no carrier {item.carrier_id}") from error
        if not done:
            raise Conflict(f"OCN {item.ocn} is {item.carrier_id}'s from that day already")

    async def _open_client(self, conn: asyncpg.Connection, client_id: str) -> None:
        row = await conn.fetchrow(sql.LOCK_CLIENT, client_id)
        if row is None:
            raise NotFound(f"no client {client_id}")
        if row["disabled_at"] is not None:
            raise Conflict(f"client {client_id} is disabled")

    async def _change(self, conn: asyncpg.Connection, what: str, work: Callable[[], Any], *tags: Tag) -> None:
        """Run ``work`` and enter what it returns, in one transaction: dying at any point leaves both or neither."""
        if self._ledger is None:
            raise RegistryError("a change needs the access log")
        async with conn.transaction():
            told = await work()
            found_by = dict.fromkeys((Tag("staff", self._by.encode()), *tags))
            asked = {"change": what, **told}
            entry = Entry(Kind.REGISTRY_CHANGE, {"os_user": self._by}, asked, tags=tuple(found_by))
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


def _checked(jwk: Mapping[str, Any]) -> RegisteredKey:
    try:
        return registered(jwk)
    except JwkError as error:
        raise RegistryError(f"the key is not taken: {error}") from error


async def _insert_key(conn: asyncpg.Connection, client_id: str, key: RegisteredKey) -> None:
    try:
        await conn.execute(
            sql.ADD_KEY, client_id, key.kid, key.public.alg, json.dumps(key.as_jwk()), key.public.thumbprint
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "client_key_live":
            raise Conflict("the key is registered already: every client has its own") from error
        raise Conflict("the kid was used before: give the new key another") from error


def _named(key: RegisteredKey) -> dict[str, JSON]:
    return {"kid": key.kid, "alg": key.public.alg, "thumbprint": key.public.thumbprint}


def _period(ownership: OcnOwnership, end: date | None = None) -> dict[str, JSON]:
    return {
        "ocn": ownership.ocn,
        "from": ownership.valid_from.isoformat(),
        "to": _iso(end or ownership.valid_to),
    }


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
