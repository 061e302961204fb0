"""The kinds of change that widen the registry of staff: a member, a role, a signing key, the end of a suspension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from proxy.changes.kinds import Payload, RegistryKind, day, many, member, members, text
from proxy.changes.model import ChangeError
from proxy.ledger.model import JSON, Tag
from proxy.registry.widening import Told, checked_key
from proxy.staff.model import StaffMember, StaffRole, check_roles, check_staff_id
from proxy.staff.service import add_key, add_member, give_roles, lift_suspension

_ADD = ("staff", "issuer", "subject", "name", "hired_on", "roles")


def _told(change: str, staff_id: str, says: Mapping[str, JSON]) -> Told:
    return Told(change, says, (Tag("staff", staff_id.encode()),))


def _role(value: Any) -> StaffRole:
    try:
        return StaffRole(value)
    except ValueError as error:
        raise ChangeError(f"a role is one of {', '.join(StaffRole)}") from error


def _member(payload: Payload) -> tuple[StaffMember, list[StaffRole]]:
    members(payload, _ADD, ("title",))
    title = text(payload, "title") if "title" in payload else ""
    person = StaffMember(
        text(payload, "staff"),
        text(payload, "issuer"),
        text(payload, "subject"),
        text(payload, "name"),
        day(payload, "hired_on"),
        title=title,
    )
    return person, sorted(check_roles(_role(value) for value in many(payload, "roles", len(StaffRole))))


def read_member(payload: Payload) -> Mapping[str, JSON]:
    """``staff.add``: staff, issuer, subject, name, title, hired_on, roles."""
    person, roles = _member(payload)
    return {
        "staff": person.staff_id,
        "issuer": person.issuer,
        "subject": person.subject,
        "name": person.name,
        "title": person.title,
        "hired_on": person.hired_on.isoformat(),
        "roles": [role.value for role in roles],
    }


async def _add_member(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    person, roles = _member(payload)
    says = await add_member(conn, person, change_id)
    if roles:
        says |= await give_roles(conn, person.staff_id, roles, change_id)
    return _told("staff.add", person.staff_id, says)


def read_role(payload: Payload) -> Mapping[str, JSON]:
    """``staff.role.add``: staff, role."""
    members(payload, ("staff", "role"))
    return {"staff": check_staff_id(text(payload, "staff")), "role": _role(payload["role"]).value}


async def _add_role(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    says = await give_roles(conn, payload["staff"], [StaffRole(payload["role"])], change_id)
    return _told("staff.role.add", payload["staff"], says)


def read_key(payload: Payload) -> Mapping[str, JSON]:
    """``staff.key.add``: staff, jwk. The key signs certificates, outside Tollgate."""
    members(payload, ("staff", "jwk"))
    key = checked_key(member(payload["jwk"], "a key"))
    return {"staff": check_staff_id(text(payload, "staff")), "jwk": key.as_jwk()}


async def _add_key(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    key = checked_key(payload["jwk"])
    says = await add_key(
        conn,
        payload["staff"],
        kid=key.kid,
        alg=key.public.alg,
        jwk=key.as_jwk(),
        thumbprint=key.public.thumbprint,
        change_id=change_id,
    )
    return _told("staff.key.add", payload["staff"], says)


def read_resume(payload: Payload) -> Mapping[str, JSON]:
    """``staff.resume``: staff. Lifts a suspension."""
    members(payload, ("staff",))
    return {"staff": check_staff_id(text(payload, "staff"))}


async def _resume(conn: asyncpg.Connection, change_id: UUID, payload: Payload) -> Told:
    return _told("staff.resume", payload["staff"], await lift_suspension(conn, payload["staff"], change_id))


STAFF = (
    RegistryKind("staff.add", read_member, _add_member),
    RegistryKind("staff.role.add", read_role, _add_role),
    RegistryKind("staff.key.add", read_key, _add_key),
    RegistryKind("staff.resume", read_resume, _resume),
)
"""What widens the registry of staff."""
