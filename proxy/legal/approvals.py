"""Two people: the approval of one exact scope, the act of one in an emergency, its confirmation by another.

An approval names the digest of the scope that its approver saw; any later change of the scope voids it; it runs out.
Nobody who handled a case approves it. What one person did in an emergency stays to be decided by another, whatever
becomes of the scope and the approval meanwhile. PostgreSQL holds the same (0014_cases.sql).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg

from proxy.ledger.model import JSON
from proxy.legal import sql
from proxy.legal.deadlines import approval_expires, confirm_by
from proxy.legal.model import Approval, Case, Malformed, Refused
from proxy.legal.register import Register, Step
from proxy.legal.states import Action, CaseState
from proxy.policy.instruments import INSTRUMENTS
from proxy.staff.model import StaffGrant

_DUTY = "47 U.S.C. 222(a)"
_EMERGENCY = "18 U.S.C. 2702(c)(4)"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RECIPIENT = re.compile(r"age1[0-9a-z]{58}")

_DISCLOSED = frozenset({CaseState.DELIVERED, CaseState.ACKNOWLEDGED})
_NOTHING: dict[str, Any] = {"approval_id": None, "hold_id": None, "production_id": None}


class Approvals:
    """Approves.

    Args:
        register: where steps are made.
    """

    def __init__(self, register: Register) -> None:
        self._register = register

    async def approve(self, who: StaffGrant, case_id: str, version: int, scope_sha256: str) -> Case:
        """Approve the scope whose digest is named; again, where the first approval has run out before the delivery.

        Raises:
            CaseError: it is another scope; whoever approves handled the case; or see `Register.act`.
        """
        named = _digest(scope_sha256)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if not INSTRUMENTS[case.instrument].discloses:
                raise Refused("approval.unneeded", "18 U.S.C. 2703(f)", "A preservation discloses nothing to approve.")
            if case.state in _DISCLOSED:
                raise Refused("approval.done", _DUTY, "It was delivered: what is approved now is another recipient.")
            approval = await self._add(conn, who, case, named, "approval")
            told = {"approval": str(approval.approval_id), "scope_sha256": scope_sha256}
            expires = {"expires_at": approval.expires_at.isoformat()}
            after = CaseState.APPROVED if case.state is CaseState.VALIDATED else case.state
            return Step({**told, **expires}, after, {"approval_id": approval.approval_id})

        return await self._register.act(who, case_id, version, Action.APPROVE, work)

    async def approve_recipient(self, who: StaffGrant, case_id: str, version: int, recipient: str) -> Case:
        """Approve that the package goes to another key of the recipient, who lost the first.

        Raises:
            CaseError: not an age recipient; nothing was delivered yet; or see `Register.act`.
        """
        if not _RECIPIENT.fullmatch(recipient):
            raise Malformed("recipient", "This has to be an age recipient: age1 and 58 letters and digits.")

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if case.state not in _DISCLOSED:
                raise Refused("approval.undelivered", _DUTY, "Nothing was delivered yet.")
            row = await conn.fetchrow(sql.FIND_SCOPE, case.case_id, case.scope_version)
            digest = hashlib.sha256(recipient.encode()).digest()
            approval = await self._add(conn, who, case, bytes(row["digest"]), "redelivery", digest)
            told = {"approval": str(approval.approval_id), "recipient_sha256": digest.hex()}
            return Step(told, case.state)

        return await self._register.act(who, case_id, version, Action.APPROVE, work)

    async def act_at_once(self, who: StaffGrant, case_id: str, version: int, scope_sha256: str) -> Case:
        """Release in an emergency on one person's word; within 48 hours another confirms or contests it.

        Raises:
            CaseError: the instrument is no emergency; somebody acted before, and another has not confirmed it; it is
                another scope; or see `Register.act`.
        """
        named = _digest(scope_sha256)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            instrument = INSTRUMENTS[case.instrument]
            if not (instrument.one_person and instrument.discloses):
                raise Refused("approval.absent", _DUTY, "One person acts in an emergency only: have it approved.")
            for before in await approvals(conn, case.case_id):
                # Voided or not: one person's word counts once, until another has confirmed it.
                if before.kind == "emergency" and before.verdict is None:
                    raise unconfirmed("Somebody else has first to confirm or contest what was done before.")
                if before.verdict == "contested":
                    raise contested()
            approval = await self._add(conn, who, case, named, "emergency")
            told: dict[str, JSON] = {"approval": str(approval.approval_id), "scope_sha256": scope_sha256}
            confirm = {"confirm_by": approval.expires_at.isoformat()}
            return Step({**told, **confirm}, change={"approval_id": approval.approval_id})

        return await self._register.act(who, case_id, version, Action.ACT, work)

    async def decide(self, who: StaffGrant, case_id: str, version: int, action: Action, reason: str) -> Case:
        """Confirm or contest (``action``) what one person did in an emergency. Late is better than never: it is told.

        Contested before it was delivered, nothing more is disclosed: the case stands objected. Afterwards it is on
        record, and its package is handed over no more. What was voided since (the scope was narrowed, say) is decided
        all the same; confirmed, it is no approval of another scope.

        Raises:
            CaseError: there is nothing to confirm; whoever does it handled the case; or see `Register.act`.
        """

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            every = await approvals(conn, case.case_id)
            waiting = next((a for a in every if a.kind == "emergency" and a.verdict is None), None)
            if waiting is None:
                raise Refused("emergency.none", _EMERGENCY, "There is nothing to confirm or contest.")
            now: datetime = await conn.fetchval(sql.NOW)
            late = confirm_by(waiting.approved_at).overdue(now)
            told: dict[str, JSON] = {"approval": str(waiting.approval_id), "late": late, "reason": reason}
            if action is Action.CONFIRM:
                await conn.execute(sql.ADD_CONFIRMATION, waiting.approval_id, "confirmed", who.staff_id)
                if waiting.voided_at is not None or waiting.approval_id != case.approval_id:
                    return Step(told, case.state)
                approval = await self._add(conn, who, case, waiting.digest, "approval")
                return Step(told, case.state, {"approval_id": approval.approval_id})
            await conn.execute(sql.ADD_CONFIRMATION, waiting.approval_id, "contested", who.staff_id)
            if case.state in _DISCLOSED:
                return Step(told, case.state)
            await conn.execute(sql.VOID_APPROVALS, case.case_id)
            return Step(told, CaseState.OBJECTED, _NOTHING)

        return await self._register.act(who, case_id, version, action, work)

    async def _add(
        self,
        conn: asyncpg.Connection,
        who: StaffGrant,
        case: Case,
        named: bytes,
        kind: str,
        recipient: bytes | None = None,
    ) -> Approval:
        row = await conn.fetchrow(sql.FIND_SCOPE, case.case_id, case.scope_version)
        if row is None or not hmac.compare_digest(bytes(row["digest"]), named):
            raise Refused("approval.other_scope", _DUTY, "The scope is another than the approval names: look again.")
        now: datetime = await conn.fetchval(sql.NOW)
        expires = confirm_by(now).at if kind == "emergency" else approval_expires(now)
        if kind == "approval":
            for old in await approvals(conn, case.case_id):
                # One at a time; an emergency's own stays on record beside the confirmation.
                if old.kind == "approval" and old.voided_at is None:
                    await conn.execute(sql.VOID_APPROVAL, old.approval_id)
        approval = Approval(
            uuid4(), case.case_id, case.scope_version, named, kind, who.staff_id, now, expires, recipient=recipient
        )
        await conn.execute(
            sql.ADD_APPROVAL,
            approval.approval_id,
            case.case_id,
            case.scope_version,
            named,
            kind,
            who.staff_id,
            expires,
            recipient,
        )
        return approval


async def approvals(conn: asyncpg.Connection, case_id: str) -> list[Approval]:
    """Return every approval that a case had, oldest first."""
    return [Approval(**dict(row)) for row in await conn.fetch(sql.APPROVALS, case_id)]


async def live(conn: asyncpg.Connection, case: Case) -> Approval:
    """Return the approval that a case stands on now.

    Raises:
        Refused: there is none, it is void, or it has run out.
    """
    every = await approvals(conn, case.case_id)
    found = current(every, case)
    if found is None or found.voided_at is not None:
        raise Refused("approval.absent", _DUTY, "Nobody has approved the scope.")
    now: datetime = await conn.fetchval(sql.NOW)
    _decided(every, found, now)
    if found.expires_at <= now:
        raise Refused("approval.expired", _DUTY, "The approval has expired: have it approved again.")
    return found


async def decided(conn: asyncpg.Connection, case: Case) -> None:
    """Refuse where what one person did in an emergency stops whatever else is read or handed over.

    Raises:
        Refused: it is not confirmed after 48 hours; or it was contested, and nobody has approved the case since.
    """
    every = await approvals(conn, case.case_id)
    _decided(every, current(every, case), await conn.fetchval(sql.NOW))


async def handed_over(register: Register, who: StaffGrant, conn: asyncpg.Connection, case: Case, what: str) -> None:
    """Refuse to hand over ``what`` (a word of ours) of a case, as `decided` does; the refusal is entered.

    Raises:
        Refused: see `decided`.
    """
    try:
        await decided(conn, case)
    except Refused as refusal:
        await register.refused(who, case.case_id, what, refusal)
        raise


def current(every: Sequence[Approval], case: Case) -> Approval | None:
    """Return the approval that a case names, of all it had."""
    return next((a for a in every if a.approval_id == case.approval_id), None)


def overruled(act: Approval, under: Approval | None) -> bool:
    """Tell whether an emergency's act was contested, and ``under`` is no approval of a second person since."""
    if act.verdict != "contested" or act.decided_at is None:
        return False
    return under is None or under.kind != "approval" or under.approved_at <= act.decided_at


def _decided(every: Sequence[Approval], under: Approval | None, now: datetime) -> None:
    for act in every:
        if act.kind != "emergency":
            continue
        if overruled(act, under):
            raise contested()
        if act.verdict is None and confirm_by(act.approved_at).overdue(now):
            raise unconfirmed("Nobody confirmed the emergency within 48 hours: have it decided.")


def contested() -> Refused:
    """Return the refusal of what was contested."""
    return Refused("emergency.contested", _EMERGENCY, "It was contested: it goes on only once another has approved it.")


def unconfirmed(says: str) -> Refused:
    """Return the refusal of what another person has first to decide."""
    return Refused("emergency.unconfirmed", _EMERGENCY, says)


def _digest(text: str) -> bytes:
    if not _DIGEST.fullmatch(text):
        raise Malformed("scope_sha256", "This has to be the digest of the scope, 64 hexadecimal digits.")
    return bytes.fromhex(text)
