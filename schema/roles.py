"""Login roles: one per purpose and component, so that what a component may not do, PostgreSQL refuses too.

Grants stand in the migrations, next to the tables. Passwords are made here and kept in a file (0600) beside the
configuration; a server that authenticates otherwise (peer, certificates, trust) ignores them.
"""

from __future__ import annotations

import secrets
from enum import StrEnum

import asyncpg


class RoleError(Exception):
    """A role may do what it must not; the message says which and what to do."""


class Role(StrEnum):
    """Who connects."""

    BILLING = "tollgate_billing"
    """The pull of a peer carrier: reads sealed batches under row-level security."""
    INGEST = "tollgate_ingest"
    """Writes runs, rolls and re-seals them."""
    LOG = "tollgate_log"
    """Appends to and reads the access log."""
    OAUTH = "tollgate_oauth"
    """The authorization server: reads clients, writes used identifiers and revocations."""
    OPERATOR = "tollgate_operator"
    """The operator's commands: carriers, agreements, clients."""
    MONITOR = "tollgate_monitor"
    """Counts for the metrics page; no sealed column."""
    PRIVACY = "tollgate_privacy"
    """The privacy officer's commands: counts what was disclosed, over all carriers' records."""
    RETENTION = "tollgate_retention"
    """Erases openings of the log whose time has come; can read none."""
    LEGAL = "tollgate_legal"
    """Answers legal process: reads sealed batches under row-level security, writes and reads what is held of them."""
    CASES = "tollgate_cases"
    """The legal desk's register: cases, documents, approvals, holds; no sealed record."""


def new_passwords() -> dict[str, str]:
    """Return a fresh random password for each role."""
    return {role.value: secrets.token_urlsafe(32) for role in Role}


async def create_roles(conn: asyncpg.Connection, passwords: dict[str, str]) -> None:
    """Create the login roles that are missing and set every role's password.

    Roles belong to the whole server: a database beside this one with the same roles shares their passwords.
    Needs CREATEROLE, no superuser.

    Raises:
        RoleError: if one of them is a superuser or may pass row-level security.
    """
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('tollgate.roles', 0))")
        present = {r["rolname"] for r in await conn.fetch("SELECT rolname FROM pg_roles")}
        # A NOLOGIN group: whoever may append to the log. Components that log in their own transaction are members.
        if "tollgate_log_writer" not in present:
            await conn.execute("CREATE ROLE tollgate_log_writer NOLOGIN")
        for role in Role:
            if role.value not in present:
                await conn.execute(f"CREATE ROLE {role.value} LOGIN")
            quoted = await conn.fetchval("SELECT quote_literal($1)", passwords[role.value])
            await conn.execute(f"ALTER ROLE {role.value} WITH LOGIN INHERIT PASSWORD {quoted}")
        # Before PostgreSQL 16 only a superuser may even say NOBYPASSRLS, so it is looked at, not set.
        loose = await conn.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[]) AND (rolsuper OR rolbypassrls)",
            [role.value for role in Role],
        )
        if loose:
            name = loose[0]["rolname"]
            raise RoleError(
                f"role {name} may pass row-level security; as a superuser: ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS"
            )
        for member in (Role.LOG, Role.INGEST, Role.OPERATOR, Role.PRIVACY, Role.LEGAL, Role.CASES):
            await conn.execute(f"GRANT tollgate_log_writer TO {member.value}")
