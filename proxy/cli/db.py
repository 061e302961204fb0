"""`tollgate db`: bring the database to this version, and see where it stands."""

from __future__ import annotations

from typing import Any

import asyncpg
import click
from rich.markup import escape

from proxy.cli.common import CliError, ExitCode, connect, console, emit, json_option, run, settings
from proxy.config import Config
from schema.migrate import available, migrate, pending
from schema.roles import Role


@click.group()
def db() -> None:
    """Bring the database to this version; see where it stands."""


@db.command("migrate")
@json_option
@click.pass_context
def migrate_command(ctx: click.Context, as_json: bool) -> None:
    """Apply the migrations that are missing. Safe to run twice, and beside a running gateway."""
    config = settings(ctx)

    async def work() -> list[str]:
        async with connect(config) as conn:
            # A newer version may know more roles, to which its migrations grant.
            if missing := await _missing_roles(conn):
                raise CliError(
                    f"login roles are missing: {', '.join(missing)}",
                    ExitCode.REFUSED,
                    "run `tollgate init` again: it keeps what is there, makes them, and migrates",
                )
            return await migrate(conn)

    applied = run(work())
    if as_json:
        emit({"applied": applied})
        return
    for name in applied:
        console.print(f"[green]applied[/]  {escape(name)}")
    console.print(f"{len(applied)} applied; the database is at version {max(m.number for m in available()):04d}")


async def _missing_roles(conn: asyncpg.Connection) -> list[str]:
    there = {r["rolname"] for r in await conn.fetch("SELECT rolname FROM pg_roles")}
    return sorted(r.value for r in Role if r.value not in there)


async def _status(config: Config) -> dict[str, Any]:
    async with connect(config) as conn:
        missing = await pending(conn)
        roles = await _missing_roles(conn)
        row = await conn.fetchrow(
            "SELECT current_setting('server_version') AS version, current_database() AS database,"
            " pg_database_size(current_database()) AS bytes,"
            " current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync"
        )
    return {
        "server": row["version"],
        "database": row["database"],
        "bytes": row["bytes"],
        "synchronous_commit": row["synchronous_commit"],
        "fsync": row["fsync"],
        "pending": missing,
        "missing_roles": roles,
    }


@db.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the server, its size and the migrations not yet applied (exit code 1 if there are any)."""
    config = settings(ctx)
    found = run(_status(config))
    if as_json:
        emit(found)
    else:
        for name, value in found.items():
            shown = ", ".join(value) or "none" if isinstance(value, list) else str(value)
            click.echo(f"{name.replace('_', ' '):<20}{shown}")
    if found["pending"]:
        raise CliError("the database is behind this version", ExitCode.REFUSED, "run `tollgate db migrate`")
    if found["missing_roles"]:
        raise CliError("login roles are missing", ExitCode.REFUSED, "run `tollgate init`")
