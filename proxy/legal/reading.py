"""Looks at cases: one, a page of them, what is due. Each look is an entry of the log before anything is shown.

Only the legal desk sees a case here; what others may count of cases is secrecy.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from proxy.ledger.model import timestamp
from proxy.legal import documents, sql
from proxy.legal.approvals import approvals
from proxy.legal.deadlines import confirm_by
from proxy.legal.extracting import Extracting
from proxy.legal.intake import Intake
from proxy.legal.model import Approval, Case, Malformed, NoSuchCase, Scope
from proxy.legal.register import Register, case_of
from proxy.legal.secrecy import Audience, Authority, Secrecy, visible
from proxy.legal.states import Capacity, CaseState, actions
from proxy.staff.model import StaffGrant

PAGE = 100
TARGETS_SHOWN = 1_000
_END = datetime(9999, 1, 1, tzinfo=UTC)
_ANSWERED = frozenset(
    {CaseState.DELIVERED, CaseState.ACKNOWLEDGED, CaseState.CLOSED, CaseState.DEFICIENT, CaseState.OBJECTED}
)
"""States in which no answer is owed: it was given, or a letter went back."""


class DueKind(StrEnum):
    """What is due. A label of metrics."""

    RESPONSE = "response"
    CONFIRMATION = "confirmation"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Due:
    """Something that a case waits for."""

    case_id: str
    instrument: str
    state: CaseState
    kind: DueKind
    at: datetime
    """The first moment that is too late."""
    secrecy: Secrecy | None

    def overdue(self, now: datetime) -> bool:
        """Tell whether it is too late."""
        return now >= self.at


class Reading:
    """Gives cases to read.

    Args:
        register: where looks are entered.
        intake: knows processes and scopes.
        extracting: knows how far an extraction is.
    """

    def __init__(self, register: Register, intake: Intake, extracting: Extracting) -> None:
        self._register = register
        self._intake = intake
        self._extracting = extracting

    async def show(self, who: StaffGrant, case_id: str, *, targets: bool = False) -> tuple[int, dict[str, Any]]:
        """Return a case's version and the whole case as JSON; with ``targets``, all of them and not the first thousand.

        Raises:
            NoSuchCase: there is none.
        """
        async with self._register.pool.acquire() as conn:
            if await conn.fetchrow(sql.FIND_CASE, case_id) is None:
                raise NoSuchCase("There is no such case.")
        await self._register.looked(who, "case", case_id)
        return await self.as_json(case_id, targets=targets)

    async def as_json(self, case_id: str, *, targets: bool = False) -> tuple[int, dict[str, Any]]:
        """Return a case's version and the case as JSON, without an entry: whoever calls has made one."""
        async with self._register.pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            case = case_of(await conn.fetchrow(sql.FIND_CASE, case_id))
            await self._register.sealer.load(conn, [case.key_month])
            process = await self._intake.process(conn, case)
            scope = await self._intake.scope(conn, case)
            every = await approvals(conn, case_id)
            stored = await documents.listed(conn, self._register, case)
            events = await conn.fetch(sql.EVENTS, case_id)
            texts = await conn.fetch(sql.TEXTS, case_id)
            findings = await self._last(conn, case, "findings")
            production = None
            if case.production_id is not None:
                production = await conn.fetchrow(sql.PRODUCTION, case.production_id)
        progress = await self._extracting.progress(case)
        value = _summary(case) | {
            "served": process.facts,
            "scope": None if scope is None else _scope(scope, targets=targets),
            "findings": [] if findings is None else findings["findings"],
            "approvals": [_approval(a, a.approval_id == case.approval_id) for a in every],
            "documents": [
                {
                    "document_id": str(d.document_id),
                    "kind": d.kind,
                    "bytes": d.length,
                    "pages": d.pages,
                    "sha256": d.sha256.hex(),
                    "findings": list(d.findings),
                    "received_by": d.received_by,
                    "received_at": timestamp(d.received_at),
                }
                for d in stored
            ],
            "letters": [row["version"] for row in texts if row["part"] == "letter"],
            "extraction": None
            if progress is None
            else {
                "hold_id": progress.hold_id,
                "state": progress.state,
                "records": progress.rows,
                "part": str(progress.part),
                "complete_to": str(progress.complete_to),
                "staged": progress.staged,
            },
            "production": None if production is None else _production(production),
            "actions": [action.value for action in actions(case.state)],
            "events": [
                {
                    "version": row["version"],
                    "action": row["action"],
                    "from": row["from_state"] or None,
                    "to": row["to_state"],
                    "actor": row["actor"] or None,
                    "capacity": row["capacity"],
                    "at": timestamp(row["at"]),
                    "entry_id": str(row["entry_id"]),
                }
                for row in events
            ],
        }
        return case.version, value

    async def progress(self, case_id: str) -> dict[str, Any]:
        """Return what runs for a case, and how far it is. No look: it says nothing of what the case is about.

        Raises:
            NoSuchCase: there is none.
        """
        async with self._register.pool.acquire() as conn:
            row = await conn.fetchrow(sql.FIND_CASE, case_id)
            if row is None:
                raise NoSuchCase("There is no such case.")
            case = case_of(row)
            production = None
            if case.production_id is not None:
                production = await conn.fetchrow(sql.PRODUCTION, case.production_id)
        found = await self._extracting.progress(case)
        running = []
        # Until the case itself has moved: then whoever waits can go on.
        if found is not None and case.state is CaseState.APPROVED:
            running.append("extraction")
        if production is not None and _production(production)["state"] == "making":
            running.append("production")
        return {
            "case_id": case_id,
            "state": case.state.value,
            "version": case.version,
            "running": running,
            "records": 0 if found is None else found.rows,
            "part": "0" if found is None else str(found.part),
        }

    async def letter(self, who: StaffGrant, case_id: str, version: int) -> str:
        """Return a letter; the look is entered first.

        Raises:
            NoSuchCase: there is none of that version.
        """
        async with self._register.pool.acquire() as conn:
            row = await conn.fetchrow(sql.FIND_CASE, case_id)
            text = None if row is None else await conn.fetchrow(sql.FIND_TEXT, case_id, "letter", version)
            if row is None or text is None:
                raise NoSuchCase("There is no such letter.")
            case = case_of(row)
            await self._register.sealer.load(conn, [case.key_month])
        await self._register.looked(who, "letter", case_id, version=version)
        place = (case_id, "letter", str(version))
        found: str = (await self._register.sealer.open_json(case.key_month, place, text["sealed"]))["text"]
        return found

    async def page(
        self, who: StaffGrant, states: Sequence[str] | None, before: tuple[datetime, str] | None = None
    ) -> list[dict[str, Any]]:
        """Return up to PAGE cases, newest first, those opened before ``before``.

        Raises:
            Malformed: an unknown state.
        """
        if states is not None and not set(states) <= set(CaseState):
            raise Malformed("state", "This has to be a state of a case.")
        await self._register.looked(who, "list")
        at, case_id = before or (_END, "")
        rows = await self._register.pool.fetch(sql.LIST_CASES, states, at, case_id, PAGE)
        return [_summary(case_of(row)) for row in rows]

    async def due(self, who: StaffGrant) -> list[dict[str, Any]]:
        """Return what is due, soonest first, for the desk."""
        await self._register.looked(who, "due")
        now: datetime = await self._register.pool.fetchval(sql.NOW)
        return [
            {
                "case_id": d.case_id,
                "instrument": d.instrument,
                "state": d.state.value,
                "kind": d.kind.value,
                "due_at": timestamp(d.at),
                "overdue": d.overdue(now),
            }
            for d in await self.dues(Audience.DESK, now)
        ]

    async def dues(self, to: Audience, now: datetime) -> list[Due]:
        """Return what is due of the cases that ``to`` may know of, soonest first."""
        found: list[Due] = []
        for row in await self._register.pool.fetch(sql.DUE):
            secrecy = _secrecy(row)
            if visible(to, secrecy, now):
                found += _dues(row, secrecy)
        return sorted(found, key=lambda d: (d.at, d.case_id))

    async def _last(self, conn: asyncpg.Connection, case: Case, part: str) -> dict[str, Any] | None:
        row = await conn.fetchrow(sql.LAST_TEXT, case.case_id, part)
        if row is None:
            return None
        place = (case.case_id, part, str(row["version"]))
        return await self._register.sealer.open_json(case.key_month, place, row["sealed"])


def capacities(events: Sequence[Mapping[str, Any]], staff_id: str) -> frozenset[Capacity]:
    """Return in which capacities somebody has acted in a case."""
    return frozenset(Capacity(e["capacity"]) for e in events if e["actor"] == staff_id)


def _summary(case: Case) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "instrument": case.instrument,
        "state": case.state.value,
        "version": case.version,
        "opened_by": case.opened_by,
        "opened_at": timestamp(case.opened_at),
        "changed_at": timestamp(case.changed_at),
        "return_at": None if case.return_at is None else timestamp(case.return_at),
        "preservation": case.preservation,
        "secrecy": case.secrecy,
        "secret_until": None if case.secret_until is None else timestamp(case.secret_until),
        "secrecy_lifted_at": None if case.secrecy_lifted_at is None else timestamp(case.secrecy_lifted_at),
    }


def _scope(scope: Scope, *, targets: bool) -> dict[str, Any]:
    lines = list(scope.targets.lines())
    return {
        "sha256": scope.digest.hex(),
        "targets": lines if targets else lines[:TARGETS_SHOWN],
        "target_count": len(lines),
        "unreadable": list(scope.refused[:TARGETS_SHOWN]),
        "guarded": list(scope.guarded[:TARGETS_SHOWN]),
        "from": _at(scope.start_us),
        "to": _at(scope.end_us),
        "zone": scope.zone,
        "classes": sorted(scope.classes),
        "fields": None if scope.fields is None else list(scope.fields),
    }


def _at(us: int) -> str:
    seconds, rest = divmod(us, 1_000_000)
    return timestamp(datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest))


def _approval(a: Approval, current: bool) -> dict[str, Any]:
    return {
        "approval_id": str(a.approval_id),
        "kind": a.kind,
        "scope_version": a.scope_version,
        "scope_sha256": a.digest.hex(),
        "approved_by": a.approved_by,
        "approved_at": timestamp(a.approved_at),
        "expires_at": timestamp(a.expires_at),
        "voided_at": None if a.voided_at is None else timestamp(a.voided_at),
        "verdict": a.verdict,
        "decided_by": a.decided_by,
        "current": current,
    }


def _production(row: asyncpg.Record) -> dict[str, Any]:
    state = "failed" if row["failed"] else "making" if row["drafted_at"] is None else "drafted"
    production_id: UUID = row["production_id"]
    return {"production_id": str(production_id), "number": row["number"], "state": state}


def _secrecy(row: asyncpg.Record) -> Secrecy | None:
    if row["secrecy"] == "none":
        return None
    return Secrecy(Authority(row["secrecy"]), row["secret_until"], row["secrecy_lifted_at"])


def _dues(row: asyncpg.Record, secrecy: Secrecy | None) -> list[Due]:
    state = CaseState(row["state"])
    found = []

    def add(kind: DueKind, at: datetime) -> None:
        found.append(Due(row["case_id"], row["instrument"], state, kind, at, secrecy))

    if row["return_at"] is not None and state not in _ANSWERED and row["instrument"] != "preservation":
        add(DueKind.RESPONSE, row["return_at"])
    if row["acted_at"] is not None:
        # Whatever became of the scope since.
        add(DueKind.CONFIRMATION, confirm_by(row["acted_at"]).at)
    if row["expires_at"] is not None and row["kind"] != "emergency" and state not in _ANSWERED:
        add(DueKind.APPROVAL, row["expires_at"])
    return found
