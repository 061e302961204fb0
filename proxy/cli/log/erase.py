"""`tollgate log erase`: openings whose time has come are erased, under a named policy, and the log says so first."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import click
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
    operator,
    provider,
    run,
    settings,
    stdout,
)
from proxy.config import Config
from proxy.ledger.retention import ERASABLE, Planned, Policy, Report, Retention, RetentionError
from schema.roles import Role


@click.command("erase")
@click.option("--policy", "name", required=True, help="The rule's name; stands in the log.")
@click.option("--reason", required=True, help="Why now; stands in the log with your name.")
@click.option("--keep-months", type=click.IntRange(1), required=True, help="Whole months that are kept.")
@click.option("--part", "parts", type=click.Choice(ERASABLE), multiple=True, required=True, help="Repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def erase(
    ctx: click.Context,
    name: str,
    reason: str,
    keep_months: int,
    parts: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase openings of the log that have been kept long enough. IT CANNOT BE UNDONE.

    An entry names what goes, under which policy, before the first key is destroyed; headers and proofs stay. Nothing
    younger than the setting log_retention_floor_months is erased. If it is interrupted, run it again.

    \b
    Example:
      tollgate log erase --policy "personal data, 5 years" --keep-months 60 --part actor --part request \\
          --part tags --reason "yearly run"
    """
    config = settings(ctx)
    policy = Policy(name, keep_months, tuple(dict.fromkeys(parts)), reason)
    planned = run(_plan(config, policy))
    if not as_json:
        _show(planned)
    if dry_run:
        if as_json:
            emit({"planned": [dataclasses.asdict(p) for p in planned]})
        return
    if planned and not yes:
        click.confirm("Erase this for good?", abort=True, err=True)
    # Nothing planned: an earlier run may still have something to finish.
    report = run(_erase(config, policy, console.print if console.is_terminal else lambda _: None))
    if as_json:
        emit(_described(report))
        return
    for part, month in report.finished:
        console.print(f"finished what an earlier run began: {part} of {month}")
    if report.entry_id is None and not report.finished:
        console.print("nothing to erase")
        return
    console.print(f"{report.deleted:,} groups of openings deleted")
    console.print(
        "A backup of the keyring from before this still opens them, together with a backup of the database: it is"
        " complete when those are gone. Restart gateways that ran meanwhile: they may hold opened keys in memory.",
        style="yellow",
    )


@asynccontextmanager
async def _retention(config: Config) -> AsyncIterator[Retention]:
    keyring = provider(config)
    async with AsyncExitStack() as stack:
        log: asyncpg.Connection = await stack.enter_async_context(connect(config, Role.LOG))
        hand = await stack.enter_async_context(connect(config, Role.RETENTION))
        opened = await stack.enter_async_context(ledger(config))
        yield Retention(opened, log, hand, DataKeys(keyring), keyring, config.log_retention_floor_months)


async def _plan(config: Config, policy: Policy) -> list[Planned]:
    async with _retention(config) as retention:
        try:
            return await retention.plan(policy, datetime.now(UTC))
        except RetentionError as error:
            raise CliError(str(error), ExitCode.REFUSED) from error


async def _erase(config: Config, policy: Policy, tell: Any) -> Report:
    async with _retention(config) as retention:
        try:
            return await retention.erase(policy, datetime.now(UTC), operator(), tell)
        except RetentionError as error:
            raise CliError(str(error), ExitCode.REFUSED) from error


def _described(report: Report) -> dict[str, Any]:
    return {
        "entry_id": None if report.entry_id is None else str(report.entry_id),
        "erased": [dataclasses.asdict(p) for p in report.planned],
        "finished": [{"part": part, "month": month} for part, month in report.finished],
        "deleted": report.deleted,
    }


def _show(planned: list[Planned]) -> None:
    shown = Table("part", "month", "groups", "entries", box=None, header_style="bold")
    for p in planned:
        shown.add_row(p.part, str(p.month), f"{p.batches:,}", f"{p.entries:,}")
    if planned:
        stdout().print(shown)
