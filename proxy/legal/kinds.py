"""The changes that two people make here: lifting a hold, lifting non-disclosure, shredding a month.

Each is shaped as a ChangeKind (proxy/changes/model.py), and has its row in ``tollgate.change_kind`` (migration 0016),
so that PostgreSQL knows the same roles. What a payload names is opaque: a hold, a case, a month; whoever may decide it
looks up the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.registry.model import Conflict, RegistryError
from proxy.store.shred import CITATION, FLOOR_MONTHS, Order, ShredError

HANDLER: Final = "legal_handler"
APPROVER: Final = "legal_approver"
OPERATOR: Final = "operator"

_HOLD = re.compile(r"H-[A-Z2-7]{10}", re.ASCII)
_CASE = re.compile(r"C-[A-Z2-7]{10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HoldLift:
    """Ending a hold: what it covers can be shredded, and its copy is destroyed."""

    name: str = "hold.lift"
    proposer: str = HANDLER
    approver: str = APPROVER

    def read(self, payload: Mapping[str, Any]) -> Mapping[str, JSON]:
        """Return ``{"hold": "H-…"}``.

        Raises:
            RegistryError: if it is anything else.
        """
        hold = payload.get("hold")
        if payload.keys() != {"hold"} or not isinstance(hold, str) or _HOLD.fullmatch(hold) is None:
            raise RegistryError("the payload has `hold`, as H-ABCDEFGHIJ, and nothing else")
        return {"hold": hold}

    async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Mapping[str, Any]) -> Sequence[Entry]:
        """Lift it.

        Raises:
            Conflict: if there is no such hold, or it has ended.
        """
        case = await conn.fetchval("SELECT tollgate.hold_lift($1)", change_id)
        if case is None:
            raise Conflict("there is no such hold, or it has ended")
        request: dict[str, JSON] = {"case": case, "hold": payload["hold"], "action": "lift", "to": "lifted"}
        return [Entry(Kind.HOLD_STATE, request=request, tags=(Tag("case", case.encode()),))]


@dataclass(frozen=True, slots=True)
class SecrecyLift:
    """Ending non-disclosure: the court, or the official who asked for it, has said that it ends (18 U.S.C. 2705(b),
    3511). From then on the case is one like any other, in every list and count."""

    name: str = "secrecy.lift"
    proposer: str = HANDLER
    approver: str = APPROVER

    def read(self, payload: Mapping[str, Any]) -> Mapping[str, JSON]:
        """Return ``{"case": "C-…"}``.

        Raises:
            RegistryError: if it is anything else.
        """
        case = payload.get("case")
        if payload.keys() != {"case"} or not isinstance(case, str) or _CASE.fullmatch(case) is None:
            raise RegistryError("the payload has `case`, as C-ABCDEFGHIJ, and nothing else")
        return {"case": case}

    async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Mapping[str, Any]) -> Sequence[Entry]:
        """Lift it.

        Raises:
            Conflict: if there is no such case, or no order binds it.
        """
        case = payload["case"]
        request: dict[str, JSON] = {"case": case, "action": "unseal"}
        entry = Entry(Kind.CASE_STATE, request=request, tags=(Tag("case", case.encode()),))
        if not await conn.fetchval("SELECT tollgate.secrecy_lift($1, $2)", change_id, entry.entry_id):
            raise Conflict("there is no such case, or nothing to lift")
        return [entry]


@dataclass(frozen=True, slots=True)
class Shred:
    """Making a month's records of some classes unreadable for ever; `tollgate keys shred` carries it out."""

    name: str = "store.shred"
    proposer: str = OPERATOR
    approver: str = OPERATOR

    def read(self, payload: Mapping[str, Any]) -> Mapping[str, JSON]:
        """Return ``{"month": 202401, "classes": […]}``.

        Raises:
            RegistryError: if it is anything else, or the month has to be kept (47 CFR 42.6).
        """
        try:
            order = Order.read(payload)
            order.check_floor(datetime.now(UTC))
        except ShredError as error:
            raise RegistryError(str(error)) from error
        return order.payload()

    async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Mapping[str, Any]) -> Sequence[Entry]:
        """Put the order on record."""
        await conn.execute("SELECT tollgate.shred_order($1)", change_id)
        request: dict[str, JSON] = {
            "purpose": "retention",
            "action": "order",
            "basis": CITATION,
            "floor_months": FLOOR_MONTHS,
            **payload,
        }
        return [Entry(Kind.STORE_SHRED, request=request, access_id=change_id)]


KINDS: Final = (HoldLift(), SecrecyLift(), Shred())
"""What this part adds to the changes that there are."""
