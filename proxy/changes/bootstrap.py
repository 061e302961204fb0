"""The first two operators: nobody could propose or approve them, so the set-up names them, by the database directly.

It works while fewer than two operators are active (trained, not suspended), and not a moment longer: the database holds
it to that. So it is also the way back where one of the last two has left: 7 days after their suspension, or the end of
their role, which takes one operator only, who could else put a puppet in the other's place. Trust: whoever has role
OPERATOR's password and the keyring can do it in such a time, and cannot do it without an entry of the log that says so.
"""

from __future__ import annotations

from datetime import date

import asyncpg

from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.ledger.service import Ledger
from proxy.staff.model import Conflict, StaffMember, StaffRole
from proxy.staff.service import Staff, add_member, give_roles, train_first

_UNSET = "SELECT tollgate.staff_unset()"


async def bootstrap(
    conn: asyncpg.Connection, ledger: Ledger, member: StaffMember, trained_on: date, course: str, os_user: str
) -> None:
    """Make somebody an operator, trained on a day, in one transaction with its log entry.

    Somebody who is known already gets what they lack: the role, the training.

    Args:
        conn: role OPERATOR, outside any transaction.
        ledger: the access log.
        member: who; ``issuer`` and ``subject`` are the OpenID provider's words for them.
        trained_on: the day (UTC) of their training (47 CFR 64.2009(b)).
        course: what it is called.
        os_user: who runs the set-up.

    Raises:
        Conflict: if two operators are active, or were within 7 days, or the id or subject is somebody else's.
        LedgerUnavailable: if the log cannot be written; nothing was changed.
    """
    async with conn.transaction():
        if not await conn.fetchval(_UNSET):  # and holds off any other set-up until COMMIT
            why = "two operators are active, or were within the last 7 days"
            raise Conflict(f"{why}: they propose and approve (`tollgate staff add`)")
        known = {record.member.staff_id: record for record in await Staff().everybody(conn)}.get(member.staff_id)
        says: dict[str, JSON] = {"change": "staff.bootstrap"}
        if known is None:
            says |= await add_member(conn, member, None)
        elif (known.member.issuer, known.member.subject) != (member.issuer, member.subject):
            raise Conflict(f"{member.staff_id} is somebody else at the provider")
        if known is None or known.trained_on != trained_on:
            says |= await train_first(conn, member.staff_id, trained_on, course)
        if known is None or StaffRole.OPERATOR not in known.roles:
            says |= await give_roles(conn, member.staff_id, [StaffRole.OPERATOR], None)
        tags = (Tag("staff", os_user.encode()), Tag("staff", member.staff_id.encode()))
        entry = Entry(Kind.REGISTRY_CHANGE, {"os_user": os_user}, says, tags=tags)
        # Last before COMMIT: it locks the head of the log.
        await ledger.append_in(conn, [entry])
