"""`tollgate roll` and `tollgate store`: rolling, what the store holds, checking it against the log, re-mapping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import click
from rich.progress import Progress
from rich.table import Table

from keys.datakeys import DataKeys
from proxy.cli.common import (
    CliError,
    ExitCode,
    connect,
    console,
    emit,
    json_option,
    ledger,
    provider,
    run,
    settings,
    stdout,
)
from proxy.config import Config
from proxy.formats.convert import remap as look_up
from proxy.formats.profile import Profile, load_profile
from proxy.ledger.service import Ledger
from proxy.store.audit import Finding, check
from proxy.store.reseal import remap as remapping
from proxy.store.reseal.roll import Rolled
from proxy.store.reseal.roll import roll as roll_all
from schema.roles import Role


@asynccontextmanager
async def _tools(config: Config) -> AsyncIterator[tuple[asyncpg.Connection, DataKeys, Ledger, ThreadPoolExecutor]]:
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(connect(config, Role.INGEST))
        log = await stack.enter_async_context(ledger(config))
        executor = stack.enter_context(ThreadPoolExecutor(config.decode_threads))
        yield conn, DataKeys(provider(config)), log, executor


@click.command()
@click.option("--every", type=click.IntRange(1), metavar="SECONDS", help="Go on, rolling every so many seconds.")
@click.pass_context
def roll(ctx: click.Context, every: int | None) -> None:
    """Make staged records readable to carriers now.

    `tollgate ingest` does so at its end; this is for records that were staged with --no-roll, or left by an ingest that
    was ended. With --every it runs as a service.
    """
    run(_roll(settings(ctx), every))


async def _roll(config: Config, every: int | None) -> None:
    async with _tools(config) as (conn, keys, log, executor):
        while True:
            done = await _roll_once(conn, keys, log, executor)
            if done.rows or every is None:
                console.print(f"rolled {done.rows:,} records into {done.batches:,} batches")
            if every is None:
                return
            await asyncio.sleep(every)


async def _roll_once(conn: asyncpg.Connection, keys: DataKeys, log: Ledger, executor: ThreadPoolExecutor) -> Rolled:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rolling", total=await conn.fetchval(_STAGED))
        return await roll_all(conn, keys, log, executor, lambda rows: bar.advance(task, rows))


_STAGED = "SELECT coalesce(sum(rows), 0)::bigint FROM tollgate.run WHERE level = 0"


@click.group()
def store() -> None:
    """Look after the record store."""


@store.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show what the store holds, month by month, and the last ingests."""
    months, ingests = run(_status(settings(ctx)))
    if as_json:
        emit({"months": months, "ingests": ingests})
        return
    for rows in (months, ingests):
        stdout().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ("nothing stored yet",):
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        plain = ("month", "ingest")  # names, not amounts
        table.add_row(*(f"{v:,}" if isinstance(v, int) and n not in plain else str(v) for n, v in row.items()))
    return table


async def _status(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with connect(config, Role.INGEST) as conn:
        months = await conn.fetch(
            "SELECT month, sum(rows)::bigint AS records,"
            " coalesce(sum(rows) FILTER (WHERE level = 0), 0)::bigint AS staged, count(*) AS runs,"
            " max(level)::int AS level FROM tollgate.run GROUP BY month ORDER BY month"
        )
        ingests = await conn.fetch(
            "SELECT ingest_id AS ingest, at, profile, lines, stored, duplicates, conflicts, rejected, unmapped"
            " FROM tollgate.ingest ORDER BY ingest_id DESC LIMIT 20"
        )
    return [dict(r) for r in months], [{**r, "at": f"{r['at']:%Y-%m-%dT%H:%M:%SZ}"} for r in ingests]


@store.command("check")
@json_option
@click.pass_context
def check_command(ctx: click.Context, as_json: bool) -> None:
    """Hold the store against the access log: nothing missing, nothing changed, nothing slipped in.

    Reads every ciphertext and opens none. Exit code 1 if anything is not as the log says.
    """
    findings = run(_check(settings(ctx)))
    if as_json:
        emit([finding.as_json() for finding in findings])
    for finding in findings[:50]:
        console.print(str(finding), style="red", markup=False)
    if findings:
        raise CliError(
            f"{len(findings)} findings: the store is not what the log says it is",
            hint="restore it from a backup, or find out who changed it",
        )
    console.print("the store is as the log says")


async def _check(config: Config) -> list[Finding]:
    async with connect(config, Role.INGEST) as conn, ledger(config) as log:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking", total=None)
            return [
                f async for f in check(conn, log, lambda done, total: bar.update(task, completed=done, total=total))
            ]


@store.command()
@click.option("--profile", "profile_name", required=True, help="The profile by which the records were ingested.")
@click.option(
    "--trunk-map", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV of trunks and OCNs."
)
@click.option("--switch", "switch_id", help="Name of the switch, as given at ingest.")
@json_option
@click.pass_context
def remap(ctx: click.Context, profile_name: str, trunk_map: Path | None, switch_id: str | None, as_json: bool) -> None:
    """Look the trunks of unmapped calls up again, and make those that are mapped now readable to their carriers."""
    done = run(_remap(settings(ctx), load_profile(profile_name, trunk_map=trunk_map, switch_id=switch_id)))
    if as_json:
        emit({"mapped": done.mapped, "left": done.left})
    console.print(f"mapped {done.mapped:,} calls; {done.left:,} still have a trunk that is in no map")


async def _remap(config: Config, profile: Profile) -> remapping.Remapped:
    async with _tools(config) as (conn, keys, log, executor):
        await roll_all(conn, keys, log, executor)
        try:
            done = await remapping.remap(conn, keys, log, executor, lambda part: look_up(part, profile), profile.digest)
        except remapping.BusyError as error:
            raise CliError(str(error), ExitCode.UNAVAILABLE) from error
        await roll_all(conn, keys, log, executor)
        return done
