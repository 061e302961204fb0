"""Proposing and deciding changes, each with its log entry in one transaction; an approved change is made in it too.

Two locks: what is refused here (one's own change, another digest, too late, the wrong role) PostgreSQL refuses as well
(migration 0013). Each attempt that is refused is an entry of the log. Trust: role OPERATOR can propose and decide under
any name that the database takes for an active member's; the gateway vouches for the name, the log shows it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from proxy.changes import entries, sql
from proxy.changes.model import (
    LIFETIME,
    Change,
    ChangeError,
    ChangeKind,
    NotOpen,
    OwnChange,
    State,
    UnknownChange,
    WrongRole,
    check_decision,
    check_open,
    check_reason,
    digest_of,
    payload_of,
    proposal,
)
from proxy.ledger.model import JSON, Entry, new_id
from proxy.ledger.service import Ledger
from proxy.registry.model import RegistryError
from proxy.staff.model import StaffError, StaffGrant, StaffRole

LIST_MAX = 500
"""Most changes of one list."""

_CONSTRAINTS: Mapping[str, type[ChangeError]] = {
    "change_two_people": OwnChange,
    "change_state": NotOpen,
    "change_expires": NotOpen,
    "change_proposer": WrongRole,
    "change_approver": WrongRole,
}
_SAYS = {
    "change_two_people": "whoever proposes a change cannot decide it: another has to",
    "change_state": "the change is decided already",
    "change_expires": "the change has expired: propose it again",
    "change_proposer": "whoever proposed it may not (suspended, untrained, or without the role): propose it anew",
    "change_approver": "you may not decide this kind of change",
}


class Changes:
    """What two people do.

    Args:
        pool: connections of role OPERATOR.
        ledger: the access log.
        kinds: every kind that there is here.
    """

    def __init__(self, pool: asyncpg.Pool, ledger: Ledger, kinds: Iterable[ChangeKind]) -> None:
        self._pool = pool
        self._ledger = ledger
        self._kinds = {kind.name: kind for kind in kinds}

    @property
    def roles(self) -> tuple[StaffRole, ...]:
        """The roles that may propose or decide anything."""
        return tuple(sorted({StaffRole(role) for k in self._kinds.values() for role in (k.proposer, k.approver)}))

    async def propose(self, who: StaffGrant, kind: str, payload: Mapping[str, Any], reason: str) -> Change:
        """Propose a change. Whether it still fits what is there is seen when it is approved.

        Args:
            who: of the kind's proposing role.
            kind: the name of a kind.
            payload: as the kind takes it.
            reason: why; 1 to 200 printable characters.

        Raises:
            RegistryError, StaffError: if the kind does not take the payload.
            WrongRole: if this is not theirs to propose.
            LedgerUnavailable: if the log cannot be written; nothing was proposed.
        """
        known = self._kinds.get(kind)
        if known is None:
            raise ChangeError(f"a change is one of {', '.join(sorted(self._kinds))}")
        text = proposal(known, payload)
        asked: dict[str, JSON] = {"kind": kind, "digest": digest_of(text)}
        async with self._denying(who, "propose", asked):
            check_reason(reason)
            _check_role(who, known.proposer)
            await self._sweep()
            async with self._pool.acquire() as conn, _constraints(), conn.transaction():
                row = await conn.fetchrow(
                    sql.PROPOSE, new_id(), kind, text, digest_of(text), reason, who.staff_id, LIFETIME
                )
                change = _change(row)
                await self._ledger.append_in(conn, [entries.proposed(who, change)])
                return change

    async def approve(self, who: StaffGrant, change_id: UUID, digest: str) -> Change:
        """Approve a change as it was seen, and make it, in one transaction.

        Args:
            who: of the kind's approving role, and not the proposer.
            change_id: which.
            digest: SHA-256 of the payload that was seen, hexadecimal.

        Raises:
            UnknownChange, OwnChange, NotOpen, OtherDigest, WrongRole: nothing was decided.
            RegistryError, StaffError: it does not fit what is there (any more); it stays proposed.
            LedgerUnavailable: if the log cannot be written; nothing was decided.
        """

        async def work(conn: asyncpg.Connection, change: Change, kind: ChangeKind) -> tuple[Change, list[Entry]]:
            now = await conn.fetchval(sql.NOW)
            check_decision(change, who.staff_id, now, digest)
            at = await conn.fetchval(sql.APPROVE, change.change_id, who.staff_id, digest)
            made = _decided(change, State.APPROVED, at, who.staff_id)
            done = await kind.apply(conn, change.change_id, change.payload)
            return made, [entries.decided(who, made, "approve"), *entries.applied(who, made, done)]

        return await self._decide(who, change_id, "approve", {"digest": digest}, work)

    async def refuse(self, who: StaffGrant, change_id: UUID, reason: str) -> Change:
        """Refuse a change.

        Raises:
            UnknownChange, OwnChange, NotOpen, WrongRole: nothing was decided.
        """
        check_reason(reason)

        async def work(conn: asyncpg.Connection, change: Change, _: ChangeKind) -> tuple[Change, list[Entry]]:
            check_decision(change, who.staff_id, await conn.fetchval(sql.NOW))
            at = await conn.fetchval(sql.REFUSE, change.change_id, who.staff_id, reason)
            made = _decided(change, State.REFUSED, at, who.staff_id, reason)
            return made, [entries.decided(who, made, "refuse", reason)]

        return await self._decide(who, change_id, "refuse", {}, work)

    async def withdraw(self, who: StaffGrant, change_id: UUID, reason: str) -> Change:
        """Take one's own proposal back.

        Raises:
            UnknownChange, OwnChange, NotOpen: nothing was withdrawn.
        """
        check_reason(reason)

        async def work(conn: asyncpg.Connection, change: Change, _: ChangeKind) -> tuple[Change, list[Entry]]:
            if change.proposed_by != who.staff_id:
                raise OwnChange("only whoever proposed a change withdraws it: refuse it instead")
            check_open(change, await conn.fetchval(sql.NOW))
            at = await conn.fetchval(sql.WITHDRAW, change.change_id, reason)
            made = _decided(change, State.WITHDRAWN, at, None, reason)
            return made, [entries.decided(who, made, "withdraw", reason)]

        return await self._decide(who, change_id, "withdraw", {}, work, deciding=False)

    async def one(self, who: StaffGrant, change_id: UUID) -> Change:
        """Return a change.

        Raises:
            UnknownChange: if there is none that is this person's to see.
        """
        row = await self._pool.fetchrow(sql.GET, change_id, self._visible(who))
        if row is None:
            raise UnknownChange("there is no such change")
        change, now = _change(row), await self._pool.fetchval(sql.NOW)
        if change.state is State.PROPOSED and now >= change.expires_at:
            return _decided(change, State.EXPIRED, None, None)
        return change

    async def all(self, who: StaffGrant, state: State | None = None, most: int = LIST_MAX) -> list[Change]:
        """Return the changes that are this person's to see, newest first, at most ``most`` (and LIST_MAX)."""
        wanted = None if state is None else state.value
        rows = await self._pool.fetch(sql.LIST, self._visible(who), wanted, min(most, LIST_MAX))
        return [_change({**row, "state": row["shown"]}) for row in rows]

    def _visible(self, who: StaffGrant) -> list[str]:
        """The kinds that somebody of these roles proposes or decides: of others they are not even told."""
        roles = {role.value for role in who.roles}
        return [name for name, kind in self._kinds.items() if roles & {kind.proposer, kind.approver}]

    async def _decide(
        self,
        who: StaffGrant,
        change_id: UUID,
        action: str,
        asked: Mapping[str, JSON],
        work: Any,
        *,
        deciding: bool = True,
    ) -> Change:
        """Lock the change, let ``work`` decide it, and append what it returns, in one transaction.

        Dying before COMMIT leaves the change proposed and nothing done; after it, all of it.
        """
        told_of: dict[str, JSON] = {"change_id": str(change_id), **asked}
        async with self._denying(who, action, told_of):
            await self._sweep()
            async with self._pool.acquire() as conn, _constraints(), conn.transaction():
                row = await conn.fetchrow(sql.LOCK, change_id, self._visible(who))
                if row is None:
                    raise UnknownChange("there is no such change")
                change, kind = _change(row), self._kinds[row["kind"]]
                told_of["kind"] = change.kind
                _check_role(who, kind.approver if deciding else kind.proposer)
                made, told = await work(conn, change, kind)
                # Last before COMMIT: it locks the head of the log.
                await self._ledger.append_in(conn, told)
        assert isinstance(made, Change)
        return made

    @asynccontextmanager
    async def _denying(self, who: StaffGrant, action: str, asked: Mapping[str, JSON]) -> AsyncIterator[None]:
        """Enter an attempt that is refused; the refusal goes out only when its entry is durable."""
        try:
            yield
        except (RegistryError, StaffError) as error:
            # What does not fit what is there has no code of its own, and its words may name what is there.
            reason = error.reason if isinstance(error, ChangeError) else "change.unfit"
            await self._ledger.append(entries.denied(who, action, asked, reason))
            raise

    async def _sweep(self) -> None:
        """Say of what nobody decided in time that it has expired. Dying here leaves it to the next sweep."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(sql.EXPIRE)
            if rows:
                await self._ledger.append_in(conn, [entries.expired(row) for row in rows])


@asynccontextmanager
async def _constraints() -> AsyncIterator[None]:
    """Turn the second lock's refusals into this part's errors, outside the transaction: it is rolled back by then."""
    try:
        yield
    except asyncpg.CheckViolationError as error:
        name = error.constraint_name or ""
        if name not in _CONSTRAINTS:
            raise
        raise _CONSTRAINTS[name](_SAYS[name]) from error


def _check_role(who: StaffGrant, role: str) -> None:
    if StaffRole(role) not in who.roles:
        raise WrongRole(f"this is for a {role} to do")


def _decided(change: Change, state: State, at: Any, by: str | None, reason: str | None = None) -> Change:
    return Change(
        change.change_id,
        change.kind,
        change.payload,
        change.digest,
        change.reason,
        state,
        change.proposed_by,
        change.proposed_at,
        change.expires_at,
        by,
        at,
        reason,
    )


def _change(row: Mapping[str, Any]) -> Change:
    return Change(
        row["change_id"],
        row["kind"],
        payload_of(row["payload"]),
        row["digest"],
        row["reason"],
        State(row["state"]),
        row["proposed_by"],
        row["proposed_at"],
        row["expires_at"],
        row["decided_by"],
        row["decided_at"],
        row["decision_reason"],
    )
