"""Changes to the staff registry, and look-ups.

Two shapes. What widens (a member, a role, a key, the lifting of a suspension) is a function in the caller's open
transaction that returns what the log shall say: a change that two people made applies it (proxy/changes). What narrows
or records (`Staff`: suspend, end a role or key, train) is one person's at once, with its log entry in one transaction.

A suspension or a lost role is dead with its COMMIT on every gateway: each request asks (proxy/oauth/staffsql.py).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date
from uuid import UUID

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.ledger.service import Ledger
from proxy.staff import sql
from proxy.staff.model import (
    Conflict,
    NotFound,
    StaffError,
    StaffGrant,
    StaffKey,
    StaffMember,
    StaffRecord,
    StaffRole,
    check_day,
    check_roles,
    check_text,
)


async def add_member(conn: asyncpg.Connection, member: StaffMember, change_id: UUID | None) -> dict[str, JSON]:
    """Add a member, without roles; in the open transaction of ``conn`` (role OPERATOR).

    Returns:
        What the log shall say.

    Raises:
        Conflict: if the id is taken, or the person at the provider is somebody here already.
    """
    m = member
    try:
        await conn.execute(sql.ADD, m.staff_id, m.issuer, m.subject, m.name, m.title, m.hired_on, change_id)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "staff_subject":
            raise Conflict("that subject of the provider is somebody's here already") from error
        raise Conflict(f"{m.staff_id} is there already") from error
    return {
        "staff_id": m.staff_id,
        "issuer": m.issuer,
        "subject": m.subject,
        "name": m.name,
        "title": m.title,
        "hired_on": m.hired_on.isoformat(),
    }


async def give_roles(
    conn: asyncpg.Connection, staff_id: str, roles: Iterable[StaffRole], change_id: UUID | None
) -> dict[str, JSON]:
    """Give a member roles; in the open transaction of ``conn``.

    Raises:
        NotFound: if there is no such member.
        Conflict: if one is theirs already, or two do not go together (model.APART).
    """
    wanted = sorted(check_roles(roles))
    if not wanted:
        raise StaffError("name a role")
    record = await _one(conn, staff_id)
    check_roles(record.roles | set(wanted))
    try:
        for role in wanted:
            await conn.execute(sql.GIVE_ROLE, staff_id, role.value, change_id)
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"{staff_id} has that role already") from error
    except asyncpg.CheckViolationError as error:
        if error.constraint_name == "staff_role_apart":  # another transaction gave the other one just now
            raise Conflict("roles that nobody has together") from error
        raise
    return {"staff_id": staff_id, "roles": [role.value for role in wanted]}


async def lift_suspension(conn: asyncpg.Connection, staff_id: str, change_id: UUID | None) -> dict[str, JSON]:
    """Lift a member's suspension; in the open transaction of ``conn``.

    Raises:
        NotFound: if they are not suspended.
    """
    since = await conn.fetchval(sql.LIFT, staff_id, change_id)
    if since is None:
        raise NotFound(f"{staff_id} is not suspended")
    return {"staff_id": staff_id, "suspended_at": since.isoformat()}


async def add_key(
    conn: asyncpg.Connection,
    staff_id: str,
    *,
    kid: str,
    alg: str,
    jwk: Mapping[str, str],
    thumbprint: str,
    change_id: UUID | None,
) -> dict[str, JSON]:
    """Register a public key with which a member signs certificates; in the open transaction of ``conn``.

    Args:
        conn: role OPERATOR.
        staff_id: whose.
        kid, alg, jwk, thumbprint: the key, checked (proxy/registry/jwk.py: `registered`).
        change_id: the change that two people made.

    Raises:
        NotFound: if there is no such member.
        Conflict: if the kid was used before, or the key is or was somebody's.
    """
    try:
        await conn.execute(sql.ADD_KEY, staff_id, kid, alg, json.dumps(dict(jwk)), thumbprint, change_id)
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"no member of staff {staff_id}") from error
    except asyncpg.UniqueViolationError as error:
        raise Conflict("the key or its kid is or was somebody's: everybody has their own") from error
    return {"staff_id": staff_id, "keys": [{"kid": kid, "alg": alg, "thumbprint": thumbprint}]}


async def train_first(conn: asyncpg.Connection, staff_id: str, completed_on: date, course: str) -> dict[str, JSON]:
    """Record a training with no recorder, as the set-up does; in the open transaction of ``conn``.

    Raises:
        Conflict: if two operators are active (then one of them records it), or the day has not been.
        NotFound: if there is no such member.
    """
    return await _train(conn, staff_id, completed_on, course, None)


async def names(conn: asyncpg.Connection, staff_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name and title of members by id (roles OPERATOR, CASES, PRIVACY)."""
    rows = await conn.fetch(sql.NAMES, list(staff_ids))
    return {row["staff_id"]: (row["name"], row["title"]) for row in rows}


async def keys(conn: asyncpg.Connection, staff_id: str | None = None) -> list[StaffKey]:
    """Return the registered keys, ended ones too (roles OPERATOR, CASES)."""
    return [StaffKey(**{**dict(row), "jwk": json.loads(row["jwk"])}) for row in await conn.fetch(sql.KEYS, staff_id)]


class Staff:
    """What one person does alone. ``conn`` is a connection of role OPERATOR outside any transaction.

    Args:
        ledger: where changes are entered; None for look-ups only.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger

    async def everybody(self, conn: asyncpg.Connection) -> list[StaffRecord]:
        """Return everybody as they stand, suspended ones too."""
        return [_record(row) for row in await conn.fetch(sql.STAFF, None)]

    async def one(self, conn: asyncpg.Connection, staff_id: str) -> StaffRecord:
        """Return one member.

        Raises:
            NotFound: if there is none.
        """
        return await _one(conn, staff_id)

    async def suspend(self, conn: asyncpg.Connection, staff_id: str, reason: str, by: StaffGrant) -> None:
        """Suspend a member: they and their tokens are dead with the COMMIT. Lifting it takes two people.

        Raises:
            NotFound: if there is none.
            Conflict: if they are suspended already.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            try:
                await conn.execute(sql.SUSPEND, staff_id, by.staff_id)
            except asyncpg.ForeignKeyViolationError as error:
                raise NotFound(f"no member of staff {staff_id}") from error
            except asyncpg.UniqueViolationError as error:
                raise Conflict(f"{staff_id} is suspended already") from error
            return {"staff_id": staff_id, "reason": reason}

        await self._change(conn, "staff.suspend", staff_id, by, work)

    async def end_role(
        self, conn: asyncpg.Connection, staff_id: str, role: StaffRole, reason: str, by: StaffGrant
    ) -> None:
        """Take a role away: it is dead with the COMMIT.

        Raises:
            NotFound: if it is not theirs.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            if await conn.fetchval(sql.END_ROLE, staff_id, role.value, by.staff_id) is None:
                raise NotFound(f"{staff_id} has no role {role.value}")
            return {"staff_id": staff_id, "roles": [role.value], "reason": reason}

        await self._change(conn, "staff.role.end", staff_id, by, work)

    async def end_key(self, conn: asyncpg.Connection, staff_id: str, kid: str, reason: str, by: StaffGrant) -> None:
        """End a key: nothing that it signs from now on is taken.

        Raises:
            NotFound: if the member has no such live key.
        """
        check_text("a reason", reason)

        async def work() -> Mapping[str, JSON]:
            thumbprint = await conn.fetchval(sql.END_KEY, staff_id, kid)
            if thumbprint is None:
                raise NotFound(f"{staff_id} has no live key of that kid")
            key: dict[str, JSON] = {"kid": kid, "thumbprint": thumbprint}
            return {"staff_id": staff_id, "keys": [key], "reason": reason}

        await self._change(conn, "staff.key.end", staff_id, by, work)

    async def train(
        self, conn: asyncpg.Connection, staff_id: str, completed_on: date, course: str, by: StaffGrant
    ) -> None:
        """Record that a member was trained (47 CFR 64.2009(b)).

        Args:
            conn: role OPERATOR.
            staff_id: who was trained; never who records it.
            completed_on: the day (UTC), not in the future.
            course: what it is called.
            by: an operator or privacy officer.

        Raises:
            NotFound: if there is no such member.
            Conflict: if it is one's own, recorded already, or of a day that has not been.
        """
        if by.staff_id == staff_id:
            raise Conflict("nobody records their own training: another operator or privacy officer does")

        async def work() -> Mapping[str, JSON]:
            return await _train(conn, staff_id, completed_on, course, by.staff_id)

        await self._change(conn, "staff.train", staff_id, by, work)

    async def _change(
        self,
        conn: asyncpg.Connection,
        what: str,
        staff_id: str,
        by: StaffGrant,
        work: Callable[[], Awaitable[Mapping[str, JSON]]],
    ) -> None:
        """Run ``work`` and enter what it returns, in one transaction: dying at any point leaves both or neither."""
        if self._ledger is None:
            raise StaffError("a change needs the access log")
        async with conn.transaction():
            asked = {"change": what, **await work()}
            tags = dict.fromkeys((*by.tags(), Tag("staff", staff_id.encode())))
            # Last before COMMIT: it locks the head of the log.
            await self._ledger.append_in(conn, [Entry(Kind.REGISTRY_CHANGE, by.actor(), asked, tags=tuple(tags))])


async def _train(
    conn: asyncpg.Connection, staff_id: str, completed_on: date, course: str, by: str | None
) -> dict[str, JSON]:
    check_text("a course", course)
    check_day("a day of training", completed_on)
    try:
        await conn.execute(sql.TRAIN, staff_id, completed_on, course, by)
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"no member of staff {staff_id}") from error
    except asyncpg.UniqueViolationError as error:
        raise Conflict("that training is recorded already") from error
    except asyncpg.CheckViolationError as error:
        # The database's own words are the migration's, and name nobody.
        raise Conflict(f"the training is not recorded: {error.message}") from error
    return {"staff_id": staff_id, "completed_on": completed_on.isoformat(), "course": course}


async def _one(conn: asyncpg.Connection, staff_id: str) -> StaffRecord:
    row = await conn.fetchrow(sql.STAFF, staff_id)
    if row is None:
        raise NotFound(f"no member of staff {staff_id}")
    return _record(row)


def _record(row: asyncpg.Record) -> StaffRecord:
    return StaffRecord(
        member=StaffMember(
            row["staff_id"], row["issuer"], row["subject"], row["name"], row["hired_on"], title=row["title"]
        ),
        roles=frozenset(map(StaffRole, row["roles"])),
        suspended_at=row["suspended_at"],
        trained_on=row["trained_on"],
        today=row["today"],
    )
