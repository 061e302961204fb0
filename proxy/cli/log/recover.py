"""`tollgate log recover`: goes on with a log whose database was restored behind its last checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from keys.datakeys import DataKeys
from keys.signing import SigningKeys
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
from proxy.cli.log.fsck import anchor_bytes
from proxy.config import Config
from proxy.ledger import anchor as held
from proxy.ledger import recover as recovery
from proxy.ledger.fsck.live import live
from proxy.ledger.fsck.model import Report
from proxy.ledger.fsck.service import fsck
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.recover import Recovery, RecoveryRefused
from schema.roles import Role


@click.command("recover")
@click.option("--anchor", "anchors", multiple=True, metavar="FILE|URL",
              help="A checkpoint that was kept; beside this home's anchor file.")  # fmt: skip
@click.option("--origin", help="Name of the new origin; default: the first one's and a number.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@json_option
@click.pass_context
def recover(ctx: click.Context, anchors: tuple[str, ...], origin: str | None, yes: bool, as_json: bool) -> None:
    """Go on with a log whose database was restored behind its last checkpoint.

    First look for a better backup: entries that are lost stay lost, and everybody who holds a receipt for one can show
    it. If there is none, stop every gateway and run this: the entries that stand are checked and kept, and the log goes
    on under a new origin, whose first entry commits to the last checkpoint known and says how many entries are lost.
    Witnesses and auditors have to be told the new origin's key (`tollgate log key`).

    \b
    Example:
      tollgate log recover --anchor https://witness.example.net/checkpoint?origin=log.example.net
    """
    config = settings(ctx)
    planned = run(_plan(config, anchors, origin))
    if not planned.done:
        for line in _told(planned):
            console.print(line, markup=False)
        if not yes:
            click.confirm("Go on under the new origin?", abort=True, err=True)
        planned = run(_recover(config, planned))
    if as_json:
        emit(_json(planned))
    console.print(f"the log goes on as {printable(planned.origin)}; start the gateways again", markup=False)
    console.print("tell witnesses and auditors the new key: tollgate log key", markup=False)


def _told(planned: Recovery) -> list[str]:
    size = planned.previous.size
    lines = [f"the last checkpoint of {printable(planned.previous.origin)} covers {size:,} entries"]
    if planned.diverged:
        lines.append(f"the {planned.first_size:,} entries that stand are others than those it covers")
    else:
        lines.append(f"{planned.first_size:,} stand: {planned.lost:,} are lost")
    lines.append(f"the new origin would be {printable(planned.origin)}")
    return lines


def _json(planned: Recovery) -> dict[str, Any]:
    return {
        "origin": planned.origin,
        "epoch": planned.epoch,
        "first_size": planned.first_size,
        "previous_size": planned.previous.size,
        "lost": planned.lost,
        "diverged": planned.diverged,
    }


async def _plan(config: Config, anchors: Sequence[str], origin: str | None) -> Recovery:
    notes = [await anchor_bytes(name) for name in anchors]
    if (own := await asyncio.to_thread(held.read, config.log_dir)) is not None:
        notes.append(own)
    if not notes:
        raise CliError(
            "there is no anchor file in this home, and no --anchor was given",
            ExitCode.USAGE,
            "give the last checkpoint that a gateway, a witness or an auditor kept",
        )
    signing = SigningKeys(config.keyring_dir)
    async with connect(config, Role.LOG) as conn:
        try:
            planned = await recovery.plan(conn, LogKeys(signing), notes, origin)
        except RecoveryRefused as error:
            raise CliError(str(error), ExitCode.REFUSED) from error
        if not planned.done:
            # A new origin vouches for what stands: for a log that is broken in itself it must not.
            async with live(conn, DataKeys(provider(config))) as source:
                _sound(await fsck(source, Trusted(signing.all_public("log"))))
    return planned


def _sound(report: Report) -> None:
    if report.first is not None:
        raise CliError(
            f"what stands is broken: {printable(str(report.first))}",
            ExitCode.REFUSED,
            "see `tollgate log fsck`; restore another backup",
        )


async def _recover(config: Config, planned: Recovery) -> Recovery:
    keys = LogKeys(SigningKeys(config.keyring_dir))
    async with ledger(config) as log, connect(config, Role.LOG) as conn:
        try:
            done = await recovery.recover(conn, log, planned, operator())
        except RecoveryRefused as error:
            raise CliError(str(error), ExitCode.REFUSED) from error
    async with connect_pool(config, Role.LOG, 3) as pool:
        # So that the new origin is signed before anything else is appended; a gateway would do it too.
        publisher = Publisher(pool, keys, lambda reason: None)
        try:
            await publisher.once()
        finally:
            await publisher.stop()
    return done
