"""Preserving records for a case (18 U.S.C. 2703(f)), renewing, superseding, and letting go of what has ended.

A preservation is an action of its case and a hold, in one transaction with the entries of both. The copy is made after
it: dying in between leaves a hold that is pending, whose months are not shredded, and `settle` has the copy made. When
a hold has ended its key is destroyed; PostgreSQL takes that only of one that has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import asyncpg

from keys.datakeys import DataKeys
from keys.provider import Period
from proxy import logs, metrics
from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.legal import holds, sql
from proxy.legal.extracting import targets_of
from proxy.legal.holds import CITATION, Hold, HoldError, HoldKind, HoldState
from proxy.legal.intake import Intake
from proxy.legal.model import Case, CaseError, NoSuchCase, Refused, Scope
from proxy.legal.register import Register, Step, case_of
from proxy.legal.secrecy import Audience, visible_sql
from proxy.legal.states import Action
from proxy.policy.extraction import ExtractionOrder, ExtractionRefusedError, Extractor, StaffActor, key_class_of
from proxy.policy.legal import LegalAction, LegalHolding, LegalPermit, decide_legal
from proxy.policy.validation import micros
from proxy.staff.model import StaffGrant

INSTRUMENT: Final = "preservation"
DUE_DAYS: Final = 14
"""So long before its end a hold is due: renewed, or process served, or it is let go."""
TRIES: Final = 3
"""How often a copy that failed is begun anew."""
LIST_MAX: Final = 500

_LOG = logs.get("holds")
_COLUMNS: Final = (
    "h.hold_id, h.case_id, h.kind, h.state, h.requested_at, h.zone, h.first_month, h.last_month, h.made_by AS by,"
    " h.expires_at, h.sealed_at, h.rows, h.renewed_at, h.ended_at, h.destroyed_at"
)
_FIND = f"SELECT {_COLUMNS} FROM tollgate.hold h WHERE h.hold_id = $1"  # noqa: S608 - fixed text
_OF_CASE = f"SELECT {_COLUMNS} FROM tollgate.hold h WHERE h.case_id = $1 ORDER BY h.made_at, h.hold_id"  # noqa: S608
_LOCK = f"{_OF_CASE} FOR UPDATE"
_LIST = f"""
SELECT {_COLUMNS} FROM tollgate.hold h
WHERE ($1::text IS NULL OR h.case_id = $1) AND (
    (($2::timestamptz IS NULL OR h.expires_at <= $2) AND (NOT $3 OR h.state IN ('pending', 'active', 'renewed')))
    OR ($2 IS NOT NULL AND h.state = 'void' AND tollgate.uncopied(h.case_id) AND NOT EXISTS (
        SELECT FROM tollgate.hold n WHERE n.case_id = h.case_id AND (n.state = 'pending' OR n.made_at > h.made_at))))
ORDER BY h.expires_at NULLS LAST, h.hold_id LIMIT $4
"""  # noqa: S608
_ADD = """
INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month, made_by,
    expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_RENEW = """
UPDATE tollgate.hold SET state = 'renewed', renewed_at = $2, renewed_by = $3, expires_at = $4 WHERE hold_id = $1
"""
_END = "UPDATE tollgate.hold SET state = $2, ended_at = $3 WHERE hold_id = $1"
_DESTROYED = "SELECT tollgate.hold_key_destroyed($1)"
_KEY_MONTH = "SELECT key_month FROM tollgate.held WHERE hold_id = $1"
_BEGUN = "SELECT EXISTS (SELECT FROM tollgate.held WHERE hold_id = $1)"
_TO_COPY = """
SELECT h.hold_id, h.case_id, h.made_by FROM tollgate.hold h
WHERE h.kind = 'preservation' AND h.state = 'pending' AND h.expires_at > clock_timestamp()
    AND NOT EXISTS (SELECT FROM tollgate.held d WHERE d.hold_id = h.hold_id) ORDER BY h.made_at LIMIT 100
"""
_FAILED = """
SELECT h.case_id FROM tollgate.hold h
WHERE h.kind = 'preservation' AND h.expires_at > clock_timestamp()
GROUP BY h.case_id HAVING bool_and(h.state = 'void') AND count(*) < $1 LIMIT 100
"""
_RUN_OUT = f"""
SELECT {_COLUMNS} FROM tollgate.hold h
WHERE h.state IN ('pending', 'active', 'renewed', 'superseded') AND h.expires_at <= clock_timestamp()
ORDER BY h.expires_at LIMIT 100
"""  # noqa: S608
_TO_DESTROY = """
SELECT h.hold_id FROM tollgate.hold h
WHERE h.state IN ('expired', 'lifted', 'void') AND h.destroyed_at IS NULL ORDER BY h.hold_id LIMIT 100
"""
COUNTED = f"""
SELECT count(*) AS live, count(*) FILTER (WHERE h.expires_at <= now() + $1::interval) AS due, (
        SELECT count(*) FROM tollgate.legal_case c
        WHERE c.instrument = 'preservation' AND c.state IN ('active', 'renewed') AND tollgate.uncopied(c.case_id)
            AND NOT EXISTS (SELECT FROM tollgate.hold p WHERE p.case_id = c.case_id AND p.state = 'pending')
            AND {visible_sql(Audience.OTHERS, "c")}) AS failed
FROM tollgate.hold h JOIN tollgate.legal_case c ON c.case_id = h.case_id
WHERE h.state IN ('pending', 'active', 'renewed') AND {visible_sql(Audience.OTHERS, "c")}
"""  # noqa: S608
_SUPERSEDING = """
SELECT EXISTS (
    SELECT FROM tollgate.legal_case c JOIN tollgate.hold h ON h.case_id = c.case_id
    WHERE c.case_id = $1 AND c.preservation = $2 AND h.kind = 'production' AND h.state = 'active')
"""
_FIT = "SELECT tollgate.staff_active($1, 'legal_handler')"


class Destroyer(Protocol):
    """What destroys period keys (keys/file_provider.py)."""

    async def destroy(self, period: Period) -> None:
        """Destroy a period's key for good."""


class Holding:
    """Holds of cases.

    Args:
        register: where steps of cases are made.
        intake: knows processes and scopes.
        extractor: copies records.
        provider: the keyring.
        keys: the data keys.
    """

    def __init__(
        self, register: Register, intake: Intake, extractor: Extractor, provider: Destroyer, keys: DataKeys
    ) -> None:
        self._register = register
        self._intake = intake
        self._extractor = extractor
        self._provider = provider
        self._keys = keys

    # --- what people do ----------------------------------------------------------------------------------------------

    async def preserve(self, who: StaffGrant, case_id: str, version: int | None = None) -> Hold:
        """Freeze what a validated preservation request asks for; return its hold, whose copy is being made.

        Raises:
            CaseError: the case is no preservation, its days are over, policy denies; or see `Register.act`.
            LedgerUnavailable: the log cannot be written; nothing was done.
        """
        made: list[Hold] = []

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if case.instrument != INSTRUMENT:
                raise Refused("hold.instrument", CITATION, "Only a preservation request is held without disclosure.")
            process = await self._intake.process(conn, case)
            scope = await self._scope(conn, case)
            now: datetime = await conn.fetchval(sql.NOW)
            new = holds.new_hold_id()
            hold = holds.preserve(new, case_id, process.served_at, process.zone.key, scope.months, who.staff_id)
            if hold.standing(now) is HoldState.EXPIRED:
                raise Refused("hold.expired", CITATION, "The days of the request are over: it has to be made anew.")
            await self._permit(conn, case, scope, who.staff_id)  # before anything is said to be held
            await _insert(conn, hold)
            await self._enter(conn, who.actor(), who.tags(), hold, "preserve")
            made.append(hold)
            return Step({"hold": hold.hold_id, "until": _iso(hold.expires_at)})

        await self._register.act(who, case_id, version, Action.PRESERVE, work)
        # Dying here leaves a hold without a copy: `settle` has it made.
        await self._copy(made[0], StaffActor(who.staff_id, who.token_id, who.jkt, who.address))
        return await self._get(made[0].hold_id)

    async def renew(self, who: StaffGrant, hold_id: str, reason: str, version: int | None = None) -> Hold:
        """Extend a preservation, on a renewed request, by its second 90 days.

        Raises:
            CaseError: it was renewed before, its days are over, or its copy is not whole; or see `Register.act`.
        """
        before = await self._get(hold_id)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            now: datetime = await conn.fetchval(sql.NOW)
            hold = _allowed(holds.renew, await _locked(conn, case.case_id, hold_id), now)
            await conn.execute(_RENEW, hold_id, hold.renewed_at, who.staff_id, hold.expires_at)
            await self._enter(conn, who.actor(), who.tags(), hold, "renew", reason)
            return Step({"hold": hold_id, "until": _iso(hold.expires_at), "reason": reason})

        await self._register.act(who, before.case_id, version, Action.RENEW, work)
        return await self._get(hold_id)

    async def supersede(self, who: StaffGrant, hold_id: str, by: str, version: int | None = None) -> Hold:
        """Say that the process which a preservation waited for has been served, and answered from it.

        Its copy stays until its clock ends: the next process may reach more of it.

        Args:
            who: the handler.
            hold_id: the preservation's.
            by: the case of that process, which names the preservation and has extracted.
            version: the preservation case's, as it was seen.

        Raises:
            CaseError: that case has extracted nothing yet, or names another preservation; or see `Register.act`.
        """
        before = await self._get(hold_id)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if not await conn.fetchval(_SUPERSEDING, by, case.case_id):
                raise Refused(
                    "hold.superseding", CITATION, "The other case has to name this preservation, and to have extracted."
                )
            now: datetime = await conn.fetchval(sql.NOW)
            hold = _moved(await _locked(conn, case.case_id, hold_id), HoldState.SUPERSEDED, now)
            await conn.execute(_END, hold_id, hold.state.value, hold.ended_at)
            await self._enter(conn, who.actor(), who.tags(), hold, "supersede")
            return Step({"hold": hold_id, "by": by})

        await self._register.act(who, before.case_id, version, Action.SUPERSEDE, work)
        return await self._get(hold_id)

    async def show(self, who: StaffGrant, hold_id: str) -> Hold:
        """Return a hold; the look is entered first.

        Raises:
            NoSuchCase: there is none.
        """
        hold = await self._get(hold_id)
        await self._register.looked(who, "hold", hold.case_id, hold=hold_id)
        return hold

    async def list(
        self, who: StaffGrant, *, case_id: str | None = None, live: bool = False, within_days: int | None = None
    ) -> Sequence[Hold]:
        """Return holds, those that end first at the top; the look is entered first.

        Args:
            who: of the legal desk.
            case_id: only this case's.
            live: only those that hold.
            within_days: only those whose clock ends in so many days, and the last of each preservation whose copies
                all failed.
        """
        now: datetime = await self._register.pool.fetchval(sql.NOW)
        until = None if within_days is None else now + timedelta(days=within_days)
        await self._register.looked(who, "holds", case_id, live=live, within_days=within_days)
        rows = await self._register.pool.fetch(_LIST, case_id, until, live, LIST_MAX)
        return [_hold(row) for row in rows]

    # --- what time does ----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Make copies that are missing, end what has run out, destroy what has ended, and say how many are due.

        Safe at any time, in any number of gateways; what fails is logged and tried again by the next round.
        """
        for step in (self._copy_missing, self._begin_anew, self._expire, self._destroy, self._count):
            try:
                await step()
            except (CaseError, HoldError) as error:
                logs.event(_LOG, logging.WARNING, "holds.settle", error)

    async def _copy_missing(self) -> None:
        for row in await self._register.pool.fetch(_TO_COPY):
            await self._copy(await self._get(row["hold_id"]), StaffActor(row["made_by"]))

    async def _begin_anew(self) -> None:
        """Of a preservation whose copies all failed, begin another under the same clock."""
        for row in await self._register.pool.fetch(_FAILED, TRIES):
            async with self._register.pool.acquire() as conn, conn.transaction():
                every = [_hold(r) for r in await conn.fetch(_LOCK, row["case_id"])]
                if not every or any(h.state is not HoldState.VOID for h in every):
                    continue
                last = every[-1]
                again = replace(last, hold_id=holds.new_hold_id(), state=HoldState.PENDING, ended_at=None)
                await _insert(conn, again)
                await self._enter(conn, _GATEWAY, (), again, "again")
            await self._copy(again, StaffActor(again.by))

    async def _expire(self) -> None:
        for row in await self._register.pool.fetch(_RUN_OUT):
            hold = _hold(row)
            if hold.state in (HoldState.ACTIVE, HoldState.RENEWED) or (
                hold.state is HoldState.PENDING and hold.kind is HoldKind.PRESERVATION
            ):
                try:
                    await self._register.act(None, hold.case_id, None, Action.EXPIRE, self._expiring(hold.hold_id))
                    continue
                except CaseError:
                    pass  # the case went on without its hold (it was closed, say): the hold ends all the same
            async with self._register.pool.acquire() as conn, conn.transaction():
                await self._expiring(hold.hold_id)(conn, None)

    def _expiring(self, hold_id: str) -> Any:
        async def work(conn: asyncpg.Connection, case: Case | None) -> Step:
            row = await conn.fetchrow(_FIND + " FOR UPDATE", hold_id)
            now: datetime = await conn.fetchval(sql.NOW)
            if holds.TRANSITIONS[HoldState(row["state"])]:
                hold = _moved(_hold(row), HoldState.EXPIRED, now)
                await conn.execute(_END, hold_id, hold.state.value, hold.ended_at)
                await self._enter(conn, _GATEWAY, (), hold, "expire")
            return Step({"hold": hold_id})

        return work

    async def _destroy(self) -> None:
        for row in await self._register.pool.fetch(_TO_DESTROY):
            hold_id = row["hold_id"]
            month = await self._register.pool.fetchval(_KEY_MONTH, hold_id)
            if month is not None:
                period = Period(key_class_of(hold_id), month)
                await self._provider.destroy(period)
                self._keys.forget([period])
                # Dying here: nobody reads it; the next round destroys it again, which is nothing, and says so.
            hold = await self._get(hold_id)
            async with self._register.pool.acquire() as conn, conn.transaction():
                await conn.execute(_DESTROYED, hold_id)
                await self._enter(conn, _GATEWAY, (), hold, "destroy")

    async def _count(self) -> None:
        row = await self._register.pool.fetchrow(COUNTED, timedelta(days=DUE_DAYS))
        metrics.HOLDS.set(row["live"])
        metrics.HOLDS_DUE.set(row["due"])
        metrics.HOLDS_FAILED.set(row["failed"])

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _copy(self, hold: Hold, actor: StaffActor) -> None:
        async with self._register.pool.acquire() as conn:
            case = case_of(await conn.fetchrow(sql.FIND_CASE, hold.case_id))
            await self._register.sealer.load(conn, [case.key_month])
            scope = await self._scope(conn, case)
            permit = await self._permit(conn, case, scope, actor.staff_id)
        order = ExtractionOrder(hold.hold_id, actor, permit, targets_of(scope))
        try:
            await self._extractor.start(order)
        except ExtractionRefusedError as error:
            raise Refused(error.code, CITATION, error.says) from error

    async def _permit(self, conn: asyncpg.Connection, case: Case, scope: Scope, handler: str) -> LegalPermit:
        rows = await conn.fetch(sql.CAPACITIES, case.case_id)
        holding = LegalHolding(
            case.case_id,
            case.instrument,
            scope.compelled(case.instrument),
            handler,
            bool(await conn.fetchval(_FIT, handler)),
            frozenset(row["actor"] for row in rows if row["capacity"] == "handler"),
        )
        now: datetime = await conn.fetchval(sql.NOW)
        decision = decide_legal(LegalAction.PRESERVE, holding, micros(now))
        if isinstance(decision, LegalPermit):
            return decision
        raise Refused(decision.reason, decision.citation, decision.says)

    async def _scope(self, conn: asyncpg.Connection, case: Case) -> Scope:
        scope = await self._intake.scope(conn, case)
        if scope is None:
            raise Refused("scope.none", "47 U.S.C. 222(c)(1)", "Say first what is asked: targets, window, classes.")
        return scope

    async def _get(self, hold_id: str) -> Hold:
        row = await self._register.pool.fetchrow(_FIND, hold_id)
        if row is None:
            raise NoSuchCase("There is no such hold.")
        return _hold(row)

    async def _enter(
        self,
        conn: asyncpg.Connection,
        actor: Mapping[str, JSON],
        tags: Sequence[Tag],
        hold: Hold,
        action: str,
        reason: str = "",
    ) -> None:
        """Append the hold's own entry; the case's, if any, comes after it and is the last before COMMIT."""
        request: dict[str, JSON] = {
            "case": hold.case_id,
            "hold": hold.hold_id,
            "action": action,
            "basis": CITATION,
            "to": hold.state.value,
            "until": _iso(hold.expires_at),
        }
        if reason:
            request["reason"] = reason
        found_by = (Tag("case", hold.case_id.encode()), *tags)
        await self._register.ledger.append_in(conn, [Entry(Kind.HOLD_STATE, actor, request, tags=found_by)])


_GATEWAY: Final = {"staff": "", "by": "gateway"}


def _hold(row: Mapping[str, Any]) -> Hold:
    return Hold(**{**dict(row), "kind": HoldKind(row["kind"]), "state": HoldState(row["state"])})


async def _insert(conn: asyncpg.Connection, h: Hold) -> None:
    await conn.execute(
        _ADD, h.hold_id, h.case_id, h.kind.value, h.state.value, h.requested_at, h.zone, h.first_month, h.last_month,
        h.by, h.expires_at,
    )  # fmt: skip


async def _locked(conn: asyncpg.Connection, case_id: str, hold_id: str) -> Hold:
    for row in await conn.fetch(_LOCK, case_id):
        if row["hold_id"] == hold_id:
            return _hold(row)
    raise NoSuchCase("There is no such hold.")


def _allowed(change: Any, *values: Any) -> Hold:
    try:
        made: Hold = change(*values)
        return made
    except HoldError as error:
        raise Refused(error.reason, CITATION, str(error)) from error


def _moved(hold: Hold, to: HoldState, now: datetime) -> Hold:
    return _allowed(holds.move, hold, to, now)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
