"""Numbered SQL migrations, applied in order, each in a transaction of its own.

Safe to run twice and by two operators at once: an advisory lock serialises runs, applied files are recorded with the
SHA-256 of their text, and a file that has changed since it was applied is reported as drift, never applied again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

import asyncpg

_LOCK = 0x746F6C6C67617465  # "tollgate" as a bigint
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")

LOCK_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 300_000
MONTHS_AHEAD = 2


class MigrationError(Exception):
    """The database cannot be brought to this version; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def available() -> list[Migration]:
    """Return the shipped migrations in order.

    Raises:
        MigrationError: if two files bear one number.
    """
    files = resources.files("schema").joinpath("migrations").iterdir()
    found = [Migration(int(m[1]), f.name, f.read_text(encoding="utf-8")) for f in files if (m := _NAME.match(f.name))]
    found.sort(key=lambda m: m.number)
    if len({m.number for m in found}) != len(found):
        raise MigrationError("two migrations bear one number")
    return found


async def migrate(conn: asyncpg.Connection) -> list[str]:
    """Apply what is missing; return the names of the files applied.

    Raises:
        MigrationError: on drift, on a database newer than this version, or where the lock is not had in time.
    """
    await conn.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await conn.execute(
            "CREATE SCHEMA IF NOT EXISTS tollgate;"
            "CREATE TABLE IF NOT EXISTS tollgate.migration (number int PRIMARY KEY, name text NOT NULL,"
            " digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        pending = await _pending(conn)
        for migration in pending:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                await conn.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
                await conn.execute(migration.sql)
                await conn.execute(
                    "INSERT INTO tollgate.migration (number, name, digest) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.digest,
                )
        # Partitions ahead of need; ingest makes those of months further away when a file has records of them.
        await conn.execute(
            "SELECT tollgate.ensure_month(to_char(timezone('UTC', now()) + make_interval(months => n), 'YYYYMM')::int)"
            " FROM generate_series(0, $1) n",
            MONTHS_AHEAD,
        )
        return [m.name for m in pending]
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError("a table stayed locked; stop the long-running session and run it again") from error
    finally:
        await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _pending(conn: asyncpg.Connection) -> list[Migration]:
    applied = {r["number"]: r for r in await conn.fetch("SELECT number, name, digest FROM tollgate.migration")}
    shipped = available()
    unknown = sorted(set(applied) - {m.number for m in shipped})
    if unknown:
        raise MigrationError(f"the database has migration {unknown[0]:04d}, which this version does not know: upgrade")
    for migration in shipped:
        row = applied.get(migration.number)
        if row is not None and row["digest"] != migration.digest:
            raise MigrationError(f"drift: {migration.name} was changed after it was applied")
    return [m for m in shipped if m.number not in applied]


async def pending(conn: asyncpg.Connection) -> list[str]:
    """Return the names of migrations not yet applied (all of them on an empty database).

    Raises:
        MigrationError: on drift or a newer database.
    """
    if await conn.fetchval("SELECT to_regclass('tollgate.migration')") is None:
        return [m.name for m in available()]
    return [m.name for m in await _pending(conn)]
