"""The kinds of change that widen the registry of carriers: their payloads, and which function each one runs.

A payload's normal form says everything that the change will do, in the registry's own words, so that whoever approves
it sees the whole of it; the database's triggers read the same members (migration 0013).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from proxy.changes.model import ChangeError
from proxy.ledger.model import JSON, Entry, Kind
from proxy.registry import widening
from proxy.registry.model import (
    REQUESTS_PER_MINUTE,
    ROWS_PER_DAY,
    Agreement,
    Carrier,
    Client,
    OcnOwnership,
    parse_networks,
)
from proxy.registry.widening import Told

OPERATOR = "operator"

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RegistryKind:
    """A change of a registry: one operator proposes it, another approves it (shaped as `model.ChangeKind`)."""

    name: str
    read: Callable[[Payload], Mapping[str, JSON]]
    run: Callable[[asyncpg.Connection, UUID, Payload], Awaitable[Told]]
    proposer: str = OPERATOR
    approver: str = OPERATOR

    async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Sequence[Entry]:
        """Do it; return the entry that says what was done, its actor to be filled in by the caller."""
        told = await self.run(conn, change_id, payload)
        return [Entry(Kind.REGISTRY_CHANGE, request={"change": told.change, **told.says}, tags=told.tags)]


# --- what a payload's members may be ---------------------------------------------------------------------------------


def members(payload: Payload, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Refuse a payload that lacks a member or has another.

    Raises:
        ChangeError: names what is missing.
    """
    for name in required:
        if name not in payload:
            raise ChangeError(f"the payload lacks {name}")
    if not payload.keys() <= {*required, *optional}:
        raise ChangeError(f"the payload may have {', '.join([*required, *optional])} and nothing else")


def text(payload: Payload, name: str) -> str:
    """Return a member that has to be text.

    Raises:
        ChangeError: names it.
    """
    value = payload[name]
    if not isinstance(value, str):
        raise ChangeError(f"{name} has to be text")
    return value


def _whole(payload: Payload, name: str, default: int) -> int:
    value = payload.get(name, default)
    if type(value) is not int:
        raise ChangeError(f"{name} has to be a whole number")
    return value


def many(payload: Payload, name: str, most: int) -> Sequence[Any]:
    """Return a member that has to be a list (absent: empty).

    Raises:
        ChangeError: names it.
    """
    value = payload.get(name, [])
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise ChangeError(f"{name} has to be a list of at most {most}")
    return value


def day(payload: Payload, name: str) -> date:
    """Return a member that has to be a date.

    Raises:
        ChangeError: names it.
    """
    try:
        value = text(payload, name)
        if len(value) != len("2026-01-01"):
            raise ValueError
        return date.fromisoformat(value)
    except ValueError as error:
        raise ChangeError(f"{name} has to be a date, YYYY-MM-DD") from error


def _end(payload: Payload, name: str) -> date | None:
    return None if payload.get(name) is None else day(payload, name)


def member(value: Any, what: str) -> Payload:
    """Return a value that has to be an object.

    Raises:
        ChangeError: says ``what``.
    """
    if not isinstance(value, Mapping):
        raise ChangeError(f"{what} has to be an object")
    return value


# --- carriers and OCNs -----------------------------------------------------------------------------------------------

_OCNS_MAX = 200


def _ownership(carrier_id: str, item: Payload) -> OcnOwnership:
    members(item, ("ocn", "from"), ("to",))
    return OcnOwnership(text(item, "ocn"), carrier_id, day(item, "from"), _end(item, "to"))


def _carrier(payload: Payload) -> tuple[Carrier, tuple[OcnOwnership, ...]]:
    members(payload, ("carrier", "name"), ("ocns",))
    carrier = Carrier(text(payload, "carrier"), text(payload, "name"))
    items = many(payload, "ocns", _OCNS_MAX)
    return carrier, tuple(_ownership(carrier.carrier_id, member(item, "an OCN")) for item in items)


def read_carrier(payload: Payload) -> Mapping[str, JSON]:
    """``carrier.add``: carrier, name, ocns (each ocn, from, to)."""
    carrier, ownership = _carrier(payload)
    return {"carrier": carrier.carrier_id, "name": carrier.name, "ocns": [item.as_json() for item in ownership]}


async def _add_carrier(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return await widening.add_carrier(conn, change_id, *_carrier(payload))


def _owned(payload: Payload) -> OcnOwnership:
    members(payload, ("carrier", "ocn", "from"), ("to",))
    return _ownership(text(payload, "carrier"), {k: v for k, v in payload.items() if k != "carrier"})


def read_ocn(payload: Payload) -> Mapping[str, JSON]:
    """``ocn.add``: carrier, ocn, from, to."""
    item = _owned(payload)
    return {"carrier": item.carrier_id, **item.as_json()}


async def _add_ocn(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return await widening.add_ocn(conn, change_id, _owned(payload))


# --- agreements ------------------------------------------------------------------------------------------------------


def _agreement(payload: Payload) -> Agreement:
    members(payload, ("agreement", "carrier", "from", "cpni_clause"), ("to",))
    reference, carrier, clause = (text(payload, name) for name in ("agreement", "carrier", "cpni_clause"))
    return Agreement(reference, carrier, day(payload, "from"), _end(payload, "to"), clause)


def read_agreement(payload: Payload) -> Mapping[str, JSON]:
    """``agreement.add``: agreement (its reference), carrier, from, to, cpni_clause."""
    made = _agreement(payload)
    return {
        "agreement": made.reference,
        "carrier": made.carrier_id,
        "from": made.in_force_from.isoformat(),
        "to": None if made.in_force_to is None else made.in_force_to.isoformat(),
        "cpni_clause": made.cpni_clause,
    }


async def _add_agreement(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return await widening.add_agreement(conn, change_id, _agreement(payload))


# --- clients and keys ------------------------------------------------------------------------------------------------

_NETWORKS_MAX = 64


def _client(payload: Payload) -> Client:
    members(payload, ("client", "carrier", "networks", "jwks"), ("requests_per_minute", "rows_per_day"))
    networks = many(payload, "networks", _NETWORKS_MAX)
    if not all(isinstance(item, str) for item in networks):
        raise ChangeError("networks has to be a list of texts")
    jwks = tuple(member(item, "a key") for item in many(payload, "jwks", widening.KEYS_MAX))
    return Client(
        text(payload, "client"),
        text(payload, "carrier"),
        jwks,
        parse_networks(networks),
        _whole(payload, "requests_per_minute", REQUESTS_PER_MINUTE),
        _whole(payload, "rows_per_day", ROWS_PER_DAY),
    )


def read_client(payload: Payload) -> Mapping[str, JSON]:
    """``client.add``: client, carrier, networks, jwks, requests_per_minute, rows_per_day."""
    made = _client(payload)
    return {
        "client": made.client_id,
        "carrier": made.carrier_id,
        "networks": [str(network) for network in made.networks],
        "jwks": [key.as_jwk() for key in widening.keys_of(made.jwks)],
        "requests_per_minute": made.requests_per_minute,
        "rows_per_day": made.rows_per_day,
    }


async def _add_client(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return await widening.add_client(conn, change_id, _client(payload))


def read_key(payload: Payload) -> Mapping[str, JSON]:
    """``client.key.add``: client, jwk."""
    members(payload, ("client", "jwk"))
    key = widening.checked_key(member(payload["jwk"], "a key"))
    return {"client": text(payload, "client"), "jwk": key.as_jwk()}


async def _add_key(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return await widening.add_key(conn, change_id, payload["client"], payload["jwk"])


CARRIERS = (
    RegistryKind("carrier.add", read_carrier, _add_carrier),
    RegistryKind("ocn.add", read_ocn, _add_ocn),
    RegistryKind("agreement.add", read_agreement, _add_agreement),
    RegistryKind("client.add", read_client, _add_client),
    RegistryKind("client.key.add", read_key, _add_key),
)
"""What widens the registry of carriers; `staffkinds.py` has that of staff."""
