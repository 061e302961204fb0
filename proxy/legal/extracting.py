"""From an approval to records: the order of an extraction, and what came of it.

The order is on record (with its hold's id) before the extractor hears of it. Dying in between leaves a row that says
`ordered`; `settle` gives the order again, and the extractor takes the same id for the same extraction. What nobody
wants any more (the scope was narrowed, the case objected to or closed) is cancelled, wherever it runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from proxy import logs
from proxy.ledger.model import JSON
from proxy.legal import sql
from proxy.legal.approvals import approvals, live, overruled
from proxy.legal.holds import new_hold_id
from proxy.legal.intake import Intake
from proxy.legal.model import Approval, Case, CaseError, Refused, Scope, Stale, WrongState
from proxy.legal.ports import Extraction, ExtractionOrder, ExtractionState, Extractor
from proxy.legal.register import Register, Step, case_of
from proxy.legal.states import Action, CaseState
from proxy.policy import legal
from proxy.policy.extraction import ExtractionRefusedError, StaffActor, Target, TargetKind
from proxy.policy.legal import LegalAction, LegalHolding, LegalPermit, decide_legal
from proxy.policy.validation import micros
from proxy.staff.model import StaffGrant

_LOG = logs.get("cases")
_FIT = "SELECT tollgate.staff_active($1, $2)"
_PRESERVED = """
SELECT hold_id FROM tollgate.hold WHERE case_id = $1 AND kind = 'preservation' AND sealed_at IS NOT NULL
    AND destroyed_at IS NULL ORDER BY hold_id
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a case's extraction is."""

    hold_id: str
    state: str
    rows: int
    pieces: int
    part: float
    """Of the window, 0 to 1."""
    complete_to: int = 0
    """The last record id that it reaches."""
    staged: int = 0
    """Records that had been taken in when it began and could not be searched yet: they are not in it."""


class Extracting:
    """Orders extractions and follows them.

    Args:
        register: where steps are made.
        intake: knows processes and scopes.
        extractor: reads the store.
    """

    def __init__(self, register: Register, intake: Intake, extractor: Extractor) -> None:
        self._register = register
        self._intake = intake
        self._extractor = extractor

    async def order(self, who: StaffGrant, case_id: str, version: int) -> Case:
        """Begin to extract what is approved.

        Raises:
            CaseError: there is no live approval, one runs already, policy denies; or see `Register.act`.
        """
        ordered: list[ExtractionOrder] = []

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if case.hold_id is not None:
                raise Refused("extraction.running", "47 U.S.C. 222(c)(1)", "An extraction runs already.")
            approval = await live(conn, case)
            actor = StaffActor(who.staff_id, who.token_id, who.jkt, who.address)
            order = await self._order(conn, case, approval, new_hold_id(), actor)
            await conn.execute(
                sql.ADD_EXTRACTION,
                order.hold_id,
                case.case_id,
                case.scope_version,
                approval.approval_id,
                who.staff_id,
            )
            ordered.append(order)
            told = {
                "hold": order.hold_id,
                "approval": str(approval.approval_id),
                "basis": order.permit.basis,
                "preserved": list(order.preserved),
            }
            return Step(told, change={"hold_id": order.hold_id})

        case = await self._register.act(who, case_id, version, Action.EXTRACT, work)
        # Dying here leaves an order that nobody carries out: `settle` gives it again.
        await self._start(case, ordered[0])
        return case

    async def progress(self, case: Case) -> Progress | None:
        """Return how far the case's extraction is; None where there is none."""
        if case.hold_id is None:
            return None
        found = await self._extractor.progress(case.hold_id)
        if found is None:
            return Progress(case.hold_id, "ordered", 0, 0, 0.0)
        part = (found.reached_us - found.start_us) / max(1, found.end_us - found.start_us)
        whole = found.state is ExtractionState.COMPLETE
        part = 1.0 if whole else min(1.0, max(0.0, part))
        part = round(part, 4)
        return Progress(case.hold_id, found.state.value, found.rows, found.pieces, part, found.as_of, found.staged)

    async def found(self, case: Case) -> Extraction:
        """Return the complete extraction that a case stands on.

        Raises:
            Refused: there is none.
        """
        found = None if case.hold_id is None else await self._extractor.progress(case.hold_id)
        if found is None or found.state is not ExtractionState.COMPLETE:
            raise Refused("extraction.none", "47 U.S.C. 222(c)(1)", "Nothing has been extracted for this scope.")
        return found

    async def review(self, who: StaffGrant, case_id: str, version: int, records: int, note: str) -> Case:
        """Say that what was extracted was looked at: how many records, and anything to be remarked.

        Raises:
            CaseError: another number of records than was found; or see `Register.act`.
        """

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            found = await self.found(case)
            if records != found.rows:
                raise Refused(
                    "review.count", "Fed. R. Evid. 803(6)", "The number of records is another: look at them again."
                )
            gone = [[month, list(classes)] for month, classes in found.gone]
            told: dict[str, JSON] = {"hold": found.hold_id, "records": found.rows, "note": note, "gone": gone}
            return Step(told | {"complete_to": str(found.as_of), "staged": found.staged})

        return await self._register.act(who, case_id, version, Action.REVIEW, work)

    async def settle(self) -> None:
        """Bring cases up to what their extractions have come to. Safe at any time, in any number of gateways."""
        for row in await self._register.pool.fetch(sql.RUNNING):
            try:
                await self._settle(row)
            except (Stale, WrongState):
                pass  # somebody else moved it first; the next round sees what is left to do
            except CaseError as error:
                logs.event(_LOG, logging.WARNING, "cases.settle", error)

    async def lapse(self) -> None:
        """Take back approvals that ran out before anything was extracted."""
        for row in await self._register.pool.fetch(sql.LAPSED):

            async def work(conn: asyncpg.Connection, case: Case) -> Step:
                if case.hold_id is not None:
                    raise WrongState("An extraction has begun.")
                await conn.execute(sql.VOID_APPROVALS, case.case_id)
                return Step({"reason": "approval.expired"}, change={"approval_id": None})

            try:
                await self._register.act(None, row["case_id"], None, Action.LAPSE, work)
            except CaseError:
                continue

    async def _settle(self, row: asyncpg.Record) -> None:
        hold_id = row["hold_id"]
        found = await self._extractor.progress(hold_id)
        if row["wanted"] != hold_id or row["state"] != CaseState.APPROVED.value:
            if found is not None and found.state is ExtractionState.RUNNING:
                await self._extractor.cancel(hold_id, StaffActor(row["ordered_by"]))
            await self._register.pool.execute(sql.END_EXTRACTION, hold_id, "cancelled")
        elif found is None:
            await self._again(row)
        elif found.state is ExtractionState.COMPLETE:
            await self._complete(row["case_id"], found)
        elif found.state is not ExtractionState.RUNNING:
            await self._failed(row["case_id"], hold_id, found.why or found.state.value)

    async def _again(self, row: asyncpg.Record) -> None:
        """Give an order again that was put on record and not begun."""
        async with self._register.pool.acquire() as conn:
            case = case_of(await conn.fetchrow(sql.FIND_CASE, row["case_id"]))
            if case.hold_id != row["hold_id"]:
                return
            await self._register.sealer.load(conn, [case.key_month])
            try:
                approval = await live(conn, case)
                order = await self._order(conn, case, approval, row["hold_id"], StaffActor(row["ordered_by"]))
            except Refused as refusal:
                await self._failed(case.case_id, row["hold_id"], refusal.rule)
                return
        await self._start(case, order)

    async def _start(self, case: Case, order: ExtractionOrder) -> None:
        try:
            await self._extractor.start(order)
        except ExtractionRefusedError as error:
            await self._failed(case.case_id, order.hold_id, error.code)
            raise Refused(error.code, "47 U.S.C. 222(c)(1)", error.says) from error

    async def _complete(self, case_id: str, found: Extraction) -> None:
        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if (
                case.hold_id != found.hold_id
                or await conn.fetchval(sql.END_EXTRACTION, found.hold_id, "complete") is None
            ):
                raise Stale("Another gateway has seen it.")
            outcome: dict[str, JSON] = {"records": found.rows, "sha256": found.sha256, "log_index": found.log_index}
            return Step({"hold": found.hold_id, "access": str(found.access_id)}, outcome=outcome)

        await self._register.act(None, case_id, None, Action.EXTRACTED, work)

    async def _failed(self, case_id: str, hold_id: str, why: str) -> None:
        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            await _ended(conn, case, hold_id, "failed")
            return Step({"hold": hold_id, "reason": why}, change={"hold_id": None})

        await self._register.act(None, case_id, None, Action.FAILED, work)

    async def _order(
        self, conn: asyncpg.Connection, case: Case, approval: Approval, hold_id: str, actor: StaffActor
    ) -> ExtractionOrder:
        scope = await self._intake.scope(conn, case)
        permit = await self._permit(conn, case, scope, approval, actor.staff_id)
        preserved: tuple[str, ...] = ()
        if case.preservation is not None:
            preserved = tuple(row["hold_id"] for row in await conn.fetch(_PRESERVED, case.preservation))
        assert scope is not None  # policy denies a case without scope
        return ExtractionOrder(hold_id, actor, permit, targets_of(scope), preserved)

    async def _permit(
        self, conn: asyncpg.Connection, case: Case, scope: Scope | None, approval: Approval, handler: str
    ) -> LegalPermit:
        now: datetime = await conn.fetchval(sql.NOW)
        rows = await conn.fetch(sql.CAPACITIES, case.case_id)
        compelled = None if scope is None else scope.compelled(case.instrument)
        same = scope is not None and scope.digest == approval.digest and compelled is not None
        second = None
        if approval.kind != "emergency":
            second = legal.Approval(
                approval.approved_by,
                compelled.digest() if same and compelled is not None else "",
                micros(approval.approved_at),
                micros(approval.expires_at),
                bool(await conn.fetchval(_FIT, approval.approved_by, "legal_approver")),
            )
        # Voided or not: narrowing the scope does not undo what was done.
        acts = [a for a in await approvals(conn, case.case_id) if a.kind == "emergency"]
        acted = next((a.approved_at for a in acts if a.verdict is None), None)
        holding = LegalHolding(
            case.case_id,
            case.instrument,
            compelled,
            handler,
            bool(await conn.fetchval(_FIT, handler, "legal_handler")),
            frozenset(row["actor"] for row in rows if row["capacity"] == "handler"),
            second,
            None if acted is None else micros(acted),
            any(overruled(act, approval) for act in acts),
            case.state is CaseState.CLOSED,
        )
        decision = decide_legal(LegalAction.EXTRACT, holding, micros(now))
        if isinstance(decision, LegalPermit):
            return decision
        raise Refused(decision.reason, decision.citation, decision.says)


async def _ended(conn: asyncpg.Connection, case: Case, hold_id: str, how: str) -> None:
    if case.hold_id != hold_id or await conn.fetchval(sql.END_EXTRACTION, hold_id, how) is None:
        raise Stale("Another gateway has seen it.")


def targets_of(scope: Scope) -> tuple[Target, ...]:
    """Return a scope's targets as they are searched for."""
    t = scope.targets
    return (
        *(Target(TargetKind.NUMBER, f"+{number}") for number in t.numbers),
        *(Target(TargetKind.ACCOUNT, name) for name in t.accounts),
        *(Target(TargetKind.TRUNK, name) for name in t.trunks),
        *(Target(TargetKind.IMSI, imsi) for imsi in t.imsis),
    )
