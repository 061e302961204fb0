"""Cases, holds and orders to shred for tests, as rows and by two people."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg

from keys.datakeys import DataKeys
from proxy.changes.model import Change, ChangeKind
from proxy.changes.service import Changes
from proxy.changes.staffkinds import STAFF
from proxy.config import Config
from proxy.ledger.search import Search
from proxy.ledger.service import Ledger
from proxy.legal.kinds import KINDS
from proxy.legal.model import new_case_id
from proxy.staff.model import StaffRole
from proxy.store.shred import Shredder
from schema.roles import Role
from tests.support.ledger import open_provider
from tests.support.operators import OneConnection, Operators, grant_of, member_of, set_up

HANDLER, APPROVER = "handler-1", "approver-1"


async def add_case(
    owner: asyncpg.Connection,
    secrecy: str = "none",
    *,
    instrument: str = "subpoena",
    state: str = "received",
    until: datetime | None = None,
    lifted: datetime | None = None,
    months: tuple[int, int] | None = None,
) -> str:
    """Put a case into the register as it stands there; return its id."""
    case_id = new_case_id()
    await owner.execute(
        "INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version,"
        " scope_version, secrecy, secret_until, secrecy_lifted_at)"
        " VALUES ($1, $2, 202607, $3, $4, $5, 1, $6, $7, $8, $9)",
        case_id, instrument, HANDLER, uuid4(), state, 1 if months else 0, secrecy, until, lifted,
    )  # fmt: skip
    if months:
        await owner.execute(
            "INSERT INTO tollgate.case_scope (case_id, scope_version, digest, targets, first_month, last_month,"
            " made_by, narrows, sealed) VALUES ($1, 1, $2, 1, $3, $4, $5, false, '')",
            case_id, bytes(32), *months, HANDLER,
        )  # fmt: skip
    return case_id


async def add_hold(
    owner: asyncpg.Connection,
    case_id: str,
    hold_id: str,
    *,
    kind: str = "preservation",
    requested: datetime | None = None,
    months: tuple[int, int] = (202401, 202401),
    sealed: bool = True,
) -> None:
    """Put a hold into its table: pending, or active where its copy is said to be whole."""
    at = requested or datetime.now(UTC)
    until = datetime(at.year, at.month, at.day, tzinfo=UTC) + timedelta(days=91) if kind == "preservation" else None
    await owner.execute(
        "INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month,"
        " made_by, expires_at) VALUES ($1, $2, $3, 'pending', $4, 'UTC', $5, $6, $7, $8)",
        hold_id, case_id, kind, at, *months, HANDLER, until,
    )  # fmt: skip
    if sealed:
        await owner.execute(
            "UPDATE tollgate.hold SET state = 'active', sealed_at = now(), rows = 3 WHERE hold_id = $1", hold_id
        )


@dataclass
class People:
    """Two operators and the legal desk, and what they do with changes."""

    conn: asyncpg.Connection
    """Role OPERATOR."""
    operators: Operators

    @property
    def changes(self) -> Changes:
        """Every kind of change there is here."""
        kinds = cast("tuple[ChangeKind, ...]", (*STAFF, *KINDS))
        return Changes(cast(asyncpg.Pool, OneConnection(self.conn)), self.operators.ledger, kinds)

    async def propose(self, kind: str, payload: Mapping[str, Any]) -> Change:
        """As the first operator, or the handler."""
        who = grant_of(HANDLER, StaffRole.LEGAL_HANDLER) if kind != "store.shred" else self.operators.first
        return await self.changes.propose(who, kind, payload, "as agreed")

    async def approve(self, change: Change) -> Change:
        """As the second operator, or the approver."""
        who = grant_of(APPROVER, StaffRole.LEGAL_APPROVER) if change.kind != "store.shred" else self.operators.second
        return await self.changes.approve(who, change.change_id, change.digest)

    async def do(self, kind: str, payload: Mapping[str, Any]) -> UUID:
        """Propose and approve; return the change's id."""
        change = await self.propose(kind, payload)
        return (await self.approve(change)).change_id


@contextlib.asynccontextmanager
async def open_people(config: Config, ledger: Ledger, *, desk: bool = True) -> AsyncIterator[People]:
    """Two operators and, with ``desk``, a handler and an approver."""
    conn = await asyncpg.connect(config.role_url(Role.OPERATOR))
    try:
        operators = await set_up(conn, ledger)
        if desk:
            await operators.add_staff(conn, member_of(HANDLER), StaffRole.LEGAL_HANDLER)
            await operators.add_staff(conn, member_of(APPROVER), StaffRole.LEGAL_APPROVER)
        yield People(conn, operators)
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def open_shredder(config: Config, ledger: Ledger, keep_days: int = 90) -> AsyncIterator[Shredder]:
    """What carries orders out, on connections of its own."""
    provider = open_provider(config)
    keys = DataKeys(provider)
    conn = await asyncpg.connect(config.role_url(Role.OPERATOR))
    try:
        async with asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=1) as pool:
            yield Shredder(ledger, Search(pool, keys, desk=True), conn, keys, provider, keep_days)
    finally:
        await conn.close()
