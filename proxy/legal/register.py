"""One step of a case: who may do it, the transition, and its entry in the log, in one transaction.

The order: lock the case → is it as the caller saw it → is the action allowed in this state → are the people two → the
work itself → the new state → the event → the entry, last before COMMIT. Dying anywhere leaves all of it or none. What
is refused is entered too, on its own, after the transaction is rolled back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag, new_id
from proxy.ledger.service import Ledger
from proxy.legal import sql
from proxy.legal.model import Case, CaseError, NoSuchCase, Refused, Stale, WrongState
from proxy.legal.sealing import CaseSealer
from proxy.legal.states import CAPACITY, Action, Capacity, CaseState, allowed
from proxy.staff.model import StaffGrant

_TWO = "18 U.S.C. 2703; 47 CFR 64.2009"


def two_people() -> Refused:
    """Return the refusal of somebody who acted in the other capacity."""
    return Refused("case.two_people", _TWO, "Nobody is handler and approver of one case: somebody else has to do this.")


def stale() -> Stale:
    """Return the refusal of what was asked of an older version."""
    return Stale("The case has moved since you saw it: look again.")


_BY_CONSTRAINT: Mapping[str, Callable[[], CaseError]] = {
    "case_two_people": two_people,
    "case_staff": lambda: Refused(
        "case.staff", "47 CFR 64.2009(b)", "Suspended, not trained, or not in the role any more."
    ),
    "case_approved": lambda: Refused("case.approval", _TWO, "There is no live approval of the scope as it stands."),
    "case_approval_scope": lambda: Refused(
        "case.approval_scope", _TWO, "The approval is of another scope than the case has."
    ),
    "case_scope": lambda: Refused("scope.widened", "47 U.S.C. 222(c)(1)", "A scope is narrowed, never widened."),
    "case_transition": lambda: WrongState("This is not allowed in the state that the case is in."),
    "case_version": stale,
    "case_emergency": lambda: Refused(
        "emergency.undecided",
        "18 U.S.C. 2702(c)(4)",
        "What one person did in an emergency is not confirmed, or was contested: another has to decide.",
    ),
    "case_secrecy": lambda: Refused(
        "secrecy.weaker",
        "18 U.S.C. 2705(b), 2709(c)",
        "An order of non-disclosure only gets stronger here; to lift it takes two people.",
    ),
}
"""What PostgreSQL refuses (0014_cases.sql), where the gateway did not."""


def refusal_of(error: asyncpg.CheckViolationError) -> CaseError | None:
    """Return what a refusal of PostgreSQL's means; None where it is a defect of ours."""
    known = _BY_CONSTRAINT.get(error.constraint_name or "")
    return None if known is None else known()


@dataclass(frozen=True, slots=True)
class Step:
    """What a piece of work wants of the register.

    Attributes:
        told: for the log's request; nothing of it in clear.
        after: the state to go to; None: the only one that the action leads to.
        change: further columns of the case.
        tags: what the entry is found by, beside the case and who did it.
        outcome: for the log's outcome.
    """

    told: Mapping[str, JSON] = field(default_factory=dict)
    after: CaseState | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[Tag, ...] = ()
    outcome: Mapping[str, JSON] = field(default_factory=dict)


Work = Callable[[asyncpg.Connection, Case], Awaitable[Step]]


class Register:
    """The register of cases.

    Args:
        pool: connections of role CASES.
        ledger: the access log.
        sealer: opens and seals what is secret of a case.
    """

    def __init__(self, pool: asyncpg.Pool, ledger: Ledger, sealer: CaseSealer) -> None:
        self.pool = pool
        self.ledger = ledger
        self.sealer = sealer

    async def act(self, who: StaffGrant | None, case_id: str, version: int | None, action: Action, work: Work) -> Case:
        """Do ``action`` to a case; return the case as it stands afterwards.

        Args:
            who: the member of staff, whose role the guard has checked; None: the gateway itself.
            case_id: the case.
            version: the version that the caller saw; None: whichever (the gateway's own steps).
            action: what is done.
            work: does it, in the transaction, on the locked case.

        Raises:
            CaseError: it is refused, and the refusal is in the log.
            LedgerUnavailable: the log cannot be written; nothing was changed.
        """
        try:
            async with self.pool.acquire() as conn, conn.transaction():
                case, leads_to = await self._allowed(conn, sql.LOCK_CASE, who, case_id, version, action)
                return await self._act(conn, who, case, leads_to, action, work)
        except asyncpg.CheckViolationError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            await self.refused(who, case_id, action, refusal)
            raise refusal from error
        except CaseError as refusal:
            await self.refused(who, case_id, action, refusal)
            raise

    async def check(self, who: StaffGrant, case_id: str, version: int, action: Action) -> Case:
        """Refuse what :meth:`act` would refuse by itself, before something long is begun; return the case as it is.

        Raises:
            CaseError: as :meth:`act`; it is in the log.
        """
        try:
            async with self.pool.acquire() as conn:
                return (await self._allowed(conn, sql.FIND_CASE, who, case_id, version, action))[0]
        except CaseError as refusal:
            await self.refused(who, case_id, action, refusal)
            raise

    async def _allowed(
        self,
        conn: asyncpg.Connection,
        find: str,
        who: StaffGrant | None,
        case_id: str,
        version: int | None,
        action: Action,
    ) -> tuple[Case, frozenset[CaseState]]:
        row = await conn.fetchrow(find, case_id)
        if row is None:
            raise NoSuchCase("There is no such case.")
        case = case_of(row)
        if version is not None and version != case.version:
            raise stale()
        leads_to = allowed(action, case.state)
        if not leads_to:
            raise WrongState(f"A case that is {case.state.value} does not allow this.")
        if who is not None:
            await self._two_people(conn, who, case_id, CAPACITY[action])
        return case, leads_to

    async def _act(
        self,
        conn: asyncpg.Connection,
        who: StaffGrant | None,
        case: Case,
        leads_to: frozenset[CaseState],
        action: Action,
        work: Work,
    ) -> Case:
        await self.sealer.load(conn, [case.key_month])
        step = await work(conn, case)
        after = step.after if step.after is not None else next(iter(leads_to))
        if after not in leads_to:
            raise WrongState(f"A case that is {case.state.value} does not allow this.")
        moved = replace(case, **{**step.change, "state": after, "version": case.version + 1})
        ordered = "secrecy" in step.change
        await conn.execute(
            sql.ORDER_SECRECY if ordered else sql.MOVE_CASE,
            case.case_id,
            after.value,
            moved.scope_version,
            moved.approval_id,
            moved.hold_id,
            moved.production_id,
            moved.return_at,
            *((moved.secrecy, moved.secret_until) if ordered else ()),
        )
        await self.record(conn, who, action, case.state, moved, step)
        return moved

    async def record(
        self,
        conn: asyncpg.Connection,
        who: StaffGrant | None,
        action: Action,
        before: CaseState | None,
        case: Case,
        step: Step,
    ) -> None:
        """Write the event and its entry; last before COMMIT, for it locks the head of the log."""
        entry_id = new_id()
        capacity = CAPACITY[action] if who is not None else Capacity.SYSTEM
        await conn.execute(
            sql.ADD_EVENT,
            case.case_id,
            case.version,
            action.value,
            before.value if before is not None else "",
            case.state.value,
            who.staff_id if who is not None else "",
            capacity.value,
            case.scope_version,
            entry_id,
        )
        request: dict[str, JSON] = {
            "case": case.case_id,
            "instrument": case.instrument,
            "action": action.value,
            "from": before.value if before is not None else None,
            "to": case.state.value,
            "version": case.version,
            "scope_version": case.scope_version,
            **step.told,
        }
        tags = tuple(dict.fromkeys((Tag("case", case.case_id.encode()), *_tags(who), *step.tags)))
        entry = Entry(Kind.CASE_STATE, _actor(who), request, step.outcome, entry_id=entry_id, tags=tags)
        await self.ledger.append_in(conn, [entry])

    async def refused(self, who: StaffGrant | None, case_id: str, action: Action | str, refusal: CaseError) -> None:
        """Enter a refusal of somebody.

        Raises:
            LedgerUnavailable: the log cannot be written.
        """
        rule = refusal.rule if isinstance(refusal, Refused) else refusal.code
        request: dict[str, JSON] = {
            "case": case_id,
            "action": action.value if isinstance(action, Action) else action,
            "decision": "refused",
            "reason": rule,
            "citation": refusal.citation if isinstance(refusal, Refused) else "",
        }
        if who is None:
            return  # nobody was refused: another gateway was first, or the next round will do it
        tags = (Tag("case", case_id.encode()), *_tags(who))
        await self.ledger.append(Entry(Kind.CASE_STATE, _actor(who), request, tags=tags))

    async def looked(self, who: StaffGrant, what: str, case_id: str | None = None, **told: JSON) -> None:
        """Enter a look, before anything is shown.

        Raises:
            LedgerUnavailable: nothing may be shown.
        """
        request: dict[str, JSON] = {"look": what, "case": case_id, **told}
        tags = _tags(who) if case_id is None else (Tag("case", case_id.encode()), *_tags(who))
        await self.ledger.append(Entry(Kind.CASE_READ, _actor(who), request, tags=tags))

    async def _two_people(self, conn: asyncpg.Connection, who: StaffGrant, case_id: str, capacity: Capacity) -> None:
        other = {Capacity.HANDLER: Capacity.APPROVER, Capacity.APPROVER: Capacity.HANDLER}.get(capacity)
        if other is None:
            return
        for row in await conn.fetch(sql.CAPACITIES, case_id):
            if row["actor"] == who.staff_id and row["capacity"] == other.value:
                raise two_people()


def case_of(row: asyncpg.Record) -> Case:
    """Return a case from its row."""
    return Case(**{**dict(row), "state": CaseState(row["state"])})


def _actor(who: StaffGrant | None) -> Mapping[str, JSON]:
    return {"staff": "", "by": "gateway"} if who is None else who.actor()


def _tags(who: StaffGrant | None) -> tuple[Tag, ...]:
    return () if who is None else who.tags()
