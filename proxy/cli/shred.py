"""`tollgate keys shred`: a month's records of some classes are made unreadable for ever; two operators order it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import click

from keys.datakeys import DataKeys
from proxy.cli.common import (
    CliError,
    ExitCode,
    connect,
    connect_pool,
    console,
    emit,
    json_option,
    ledger,
    operator,
    printable,
    provider,
    run,
    settings,
)
from proxy.config import Config
from proxy.ledger.search import Search
from proxy.store.shred import CLASSES, Order, Report, Shredder, ShredError
from schema.roles import Role

_MONTH = re.compile(r"(20[0-9]{2})-?(0[1-9]|1[0-2])", re.ASCII)


@click.command("shred")
@click.argument("month", metavar="YYYY-MM", required=False)
@click.argument("classes", metavar="CLASS...", nargs=-1, type=click.Choice(CLASSES))
@click.option("--reason", help="Why; whoever approves it sees it, and it stands in the log.")
@click.option("--carry-out", "change", type=click.UUID, metavar="CHANGE", help="Carry out an approved order.")
@click.option("--dry-run", is_flag=True, help="Only say whether anything is in the way.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def shred(
    ctx: click.Context,
    month: str | None,
    classes: tuple[str, ...],
    reason: str | None,
    change: UUID | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make a month's records of some classes unreadable for ever. IT CANNOT BE UNDONE.

    Two operators order it: one proposes it (with MONTH and CLASSes, signed in), another approves the change, then it is
    carried out beside the keyring. Nothing goes before 18 months are over (47 CFR 42.6), before what was shown of the
    month is frozen (`tollgate exposure freeze`), or while the legal desk still needs it; what is held for cases stays.
    If it is interrupted, run it again.

    \b
    Example:
      tollgate exposure freeze 2025-01 --reason "shredding of 2025-01"
      tollgate keys shred 2025-01 timing parties tags --reason "18 months are over"
      tollgate change approve CHANGE               (another operator)
      tollgate keys shred --carry-out CHANGE
    """
    if change is not None:
        if month is not None or reason is not None:
            raise click.UsageError("--carry-out takes the change alone: what goes stands in it")
        _carry_out(ctx, change, yes, as_json)
        return
    if month is None or not classes:
        raise click.UsageError("name a month and the classes that go, or an approved change with --carry-out")
    match = _MONTH.fullmatch(month)
    if match is None:
        raise click.BadParameter("a month as 2025-01", param_hint="YYYY-MM")
    order = Order.read({"month": int(match[1] + match[2]), "classes": list(classes)})
    if dry_run:
        facts = run(_check(settings(ctx), order))
        if as_json:
            emit({"order": order.payload(), **{k: v for k, v in facts.items() if k != "data_keys"}})
        else:
            click.echo(f"nothing is in the way: {facts['rows']:,} records in {facts['batches']:,} runs")
        return
    if not reason:
        raise click.UsageError("say why with --reason; it stands in the log")
    _propose(order, reason, as_json)


def _propose(order: Order, reason: str, as_json: bool) -> None:
    try:
        order.check_floor(datetime.now(UTC))
    except ShredError as error:
        raise CliError(str(error), ExitCode.REFUSED) from error
    made = run(_post({"kind": "store.shred", "payload": order.payload(), "reason": reason}))
    if as_json:
        emit(made)
        return
    change = printable(str(made["change_id"]))
    click.echo(f"proposed: {change}")
    console.print(f"another operator approves it:  tollgate change approve {change}", markup=False)
    console.print(f"then, beside the keyring:      tollgate keys shred --carry-out {change}", markup=False)


async def _post(body: dict[str, Any]) -> Any:
    from proxy.client.staff import StaffSession

    async with StaffSession.open() as session:
        return (await session.request("POST", "/v1/changes", json=body)).json


def _carry_out(ctx: click.Context, change: UUID, yes: bool, as_json: bool) -> None:
    if not yes:
        click.confirm("Destroy these keys for good?", abort=True, err=True)
    tell = console.print if console.is_terminal else lambda _: None
    report = run(_shred(settings(ctx), change, tell))
    if as_json:
        emit(_described(report))
        return
    click.echo(f"{report.order.month}: {', '.join(report.order.classes)} open for nobody any more")
    if report.pending_until is not None:
        console.print(
            f"PENDING until {report.pending_until:%Y-%m-%d}: backups of the keyring from before still have the keys;"
            " it is complete when they have expired (setting keyring_backup_days).",
            style="yellow",
        )
    for path in report.replaced:
        console.print(f"delete this replaced keyring, it still has the keys: {path}", style="yellow", markup=False)
    console.print("back the keyring up anew:  tollgate keys backup FILE", markup=False)


def _described(report: Report) -> dict[str, Any]:
    return {
        **report.order.payload(),
        "entry_id": str(report.entry_id),
        "resumed": report.resumed,
        "pending_until": None if report.pending_until is None else report.pending_until.isoformat(),
        "replaced": [str(path) for path in report.replaced],
    }


@asynccontextmanager
async def _shredder(config: Config) -> AsyncIterator[Shredder]:
    keyring = provider(config)
    keys = DataKeys(keyring)
    async with AsyncExitStack() as stack:
        conn: asyncpg.Connection = await stack.enter_async_context(connect(config, Role.OPERATOR))
        log = await stack.enter_async_context(ledger(config))
        reading = await stack.enter_async_context(connect_pool(config, Role.LOG, 1))
        # What was shown in a secret case has to be frozen too; nothing of it is told.
        search = Search(reading, keys, desk=True)
        yield Shredder(log, search, conn, keys, keyring, config.keyring_backup_days)


async def _check(config: Config, order: Order) -> dict[str, Any]:
    async with _shredder(config) as shredder:
        try:
            return await shredder.check(order, datetime.now(UTC))
        except ShredError as error:
            raise CliError(str(error), ExitCode.REFUSED) from error


async def _shred(config: Config, change: UUID, tell: Any) -> Report:
    async with _shredder(config) as shredder:
        try:
            return await shredder.carry_out(change, datetime.now(UTC), operator(), tell)
        except ShredError as error:
            raise CliError(str(error), ExitCode.REFUSED) from error
