"""What widens the registry: carriers, OCNs, agreements, clients and keys are added, each under an approved change.

These run inside the transaction that approves the change and write no log entry of their own: each returns what the log
shall say, and whoever approves appends that last before COMMIT. Every row bears the change's id, and a trigger
(migration 0013) refuses a row that its change, approved by another person in this very transaction, does not name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from proxy.ledger.model import JSON, Tag
from proxy.registry import sql
from proxy.registry.jwk import JwkError, RegisteredKey, registered
from proxy.registry.model import Agreement, Carrier, Client, Conflict, NotFound, OcnOwnership, RegistryError
from schema.fields import ocn_code

KEYS_MAX = 8
"""Most live keys of one client."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was done, for the entry of the log: its short name, what it says, and what it is found by."""

    change: str
    says: Mapping[str, JSON]
    tags: tuple[Tag, ...] = ()


async def add_carrier(
    conn: asyncpg.Connection, change_id: UUID, carrier: Carrier, ownership: tuple[OcnOwnership, ...] = ()
) -> Told:
    """Add a carrier, with OCNs if given.

    Raises:
        Conflict: if the id is taken, or an OCN is another's in that time.
    """
    if any(o.carrier_id != carrier.carrier_id for o in ownership):
        raise RegistryError("an OCN given with a carrier must be that carrier's")
    try:
        await conn.execute(sql.ADD_CARRIER, carrier.carrier_id, carrier.name, change_id)
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"carrier {carrier.carrier_id} is there already") from error
    for item in ownership:
        await _give(conn, change_id, item)
    says: dict[str, JSON] = {
        "carrier": carrier.carrier_id,
        "name": carrier.name,
        "ocns": [item.as_json() for item in ownership],
    }
    return Told("carrier.add", says)


async def add_ocn(conn: asyncpg.Connection, change_id: UUID, ownership: OcnOwnership) -> Told:
    """Say that an OCN is a carrier's from a day on (until another day).

    Raises:
        NotFound: if there is no such carrier.
        Conflict: if the OCN is anybody's on any of those days.
    """
    await _give(conn, change_id, ownership)
    return Told("ocn.add", {"carrier": ownership.carrier_id, "ocns": [ownership.as_json()]})


async def add_agreement(conn: asyncpg.Connection, change_id: UUID, agreement: Agreement) -> Told:
    """Add an interconnection agreement.

    Raises:
        NotFound: if there is no such carrier.
        Conflict: if the reference is taken.
    """
    a = agreement
    try:
        await conn.execute(
            sql.ADD_AGREEMENT, a.reference, a.carrier_id, a.in_force_from, a.in_force_to, a.cpni_clause, change_id
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"agreement {a.reference} is there already") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"no carrier {a.carrier_id}") from error
    says: dict[str, JSON] = {
        "agreement": a.reference,
        "carrier": a.carrier_id,
        "from": a.in_force_from.isoformat(),
        "to": None if a.in_force_to is None else a.in_force_to.isoformat(),
        "cpni_clause": a.cpni_clause,
    }
    return Told("agreement.add", says)


async def add_client(conn: asyncpg.Connection, change_id: UUID, client: Client) -> Told:
    """Add an API client with its keys.

    Raises:
        RegistryError: if a key is not one that is taken, or there is none.
        NotFound: if there is no such carrier.
        Conflict: if the id is taken, or a key is another live client's.
    """
    c = client
    keys = keys_of(c.jwks)
    try:
        await conn.execute(
            sql.ADD_CLIENT, c.client_id, c.carrier_id, c.networks, c.requests_per_minute, c.rows_per_day, change_id
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"client {c.client_id} is there already") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"no carrier {c.carrier_id}") from error
    for key in keys:
        await _insert_key(conn, change_id, c.client_id, key)
    says: dict[str, JSON] = {
        "client": c.client_id,
        "carrier": c.carrier_id,
        "networks": [str(n) for n in c.networks],
        "requests_per_minute": c.requests_per_minute,
        "rows_per_day": c.rows_per_day,
        "keys": [_named(key) for key in keys],
    }
    return Told("client.add", says, (Tag("client", c.client_id.encode()),))


async def add_key(conn: asyncpg.Connection, change_id: UUID, client_id: str, jwk: Mapping[str, Any]) -> Told:
    """Register a further public key of a client (its next one).

    Raises:
        RegistryError: if it is not a key that is taken, or the client has as many as it may.
        NotFound: if there is no such client.
        Conflict: if the client is disabled, the kid was used before, or the key is another live client's.
    """
    key = checked_key(jwk)
    await open_client(conn, client_id)
    if await conn.fetchval(sql.COUNT_KEYS, client_id) >= KEYS_MAX:
        raise RegistryError(f"a client has at most {KEYS_MAX} keys: disable one")
    await _insert_key(conn, change_id, client_id, key)
    return Told("client.key.add", {"client": client_id, "keys": [_named(key)]}, (Tag("client", client_id.encode()),))


async def open_client(conn: asyncpg.Connection, client_id: str) -> None:
    """Lock a client until COMMIT.

    Raises:
        NotFound: if there is none.
        Conflict: if it is disabled.
    """
    row = await conn.fetchrow(sql.LOCK_CLIENT, client_id)
    if row is None:
        raise NotFound(f"no client {client_id}")
    if row["disabled_at"] is not None:
        raise Conflict(f"client {client_id} is disabled")


def keys_of(jwks: tuple[Mapping[str, Any], ...]) -> tuple[RegisteredKey, ...]:
    """Check a client's keys and return them as they will be kept.

    Raises:
        RegistryError: if one is not taken, or there is none.
    """
    keys = tuple(checked_key(jwk) for jwk in jwks)
    if not keys:
        raise RegistryError("a client needs a public key")
    return keys


def checked_key(jwk: Mapping[str, Any]) -> RegisteredKey:
    """Check one key and return it as it will be kept.

    Raises:
        RegistryError: if it is not one that is taken.
    """
    try:
        return registered(jwk)
    except JwkError as error:
        raise RegistryError(f"the key is not taken: {error}") from error


async def _give(conn: asyncpg.Connection, change_id: UUID, item: OcnOwnership) -> None:
    try:
        done = await conn.fetchval(
            sql.ADD_OCN, item.ocn, ocn_code(item.ocn), item.valid_from, item.valid_to, item.carrier_id, change_id
        )
    except asyncpg.ExclusionViolationError as error:
        raise Conflict(f"OCN {item.ocn} is a carrier's on some of those days: end that first") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"no carrier {item.carrier_id}") from error
    if not done:
        raise Conflict(f"OCN {item.ocn} is {item.carrier_id}'s from that day already")


async def _insert_key(conn: asyncpg.Connection, change_id: UUID, client_id: str, key: RegisteredKey) -> None:
    try:
        await conn.execute(
            sql.ADD_KEY,
            client_id,
            key.kid,
            key.public.alg,
            json.dumps(key.as_jwk()),
            key.public.thumbprint,
            change_id,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "client_key_live":
            raise Conflict("the key is registered already: every client has its own") from error
        raise Conflict("the kid was used before: give the new key another") from error


def _named(key: RegisteredKey) -> dict[str, JSON]:
    return {"kid": key.kid, "alg": key.public.alg, "thumbprint": key.public.thumbprint}
