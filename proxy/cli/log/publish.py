"""`tollgate log publish` and `tollgate log key`: the publisher by hand; the key that checkpoints verify with."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from keys.signing import SigningKeys
from proxy.cli.common import CliError, ExitCode, connect_pool, console, emit, json_option, ledger, run, settings
from proxy.config import Config
from proxy.ledger import checkpoints
from proxy.ledger.checkpoints import LogInconsistent, Origin
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.witnesses import Witnesses, parse_witnesses
from schema.roles import Role


@click.command("publish")
@json_option
@click.pass_context
def publish(ctx: click.Context, as_json: bool) -> None:
    """Sign a checkpoint over all that is in the log now, and have the configured witnesses cosign it.

    Gateways do this by themselves, twice a second; by hand it is for a database without one. The log has to have been
    opened by a gateway once.

    \b
    Example:
      tollgate log publish
    """
    found = run(_publish(settings(ctx)))
    if as_json:
        emit(found)
    elif found["published"]:
        console.print(f"checkpoint of {found['size']:,} entries, signed", markup=False)
        for name in found["cosigned"]:
            console.print(f"cosigned by {name}", markup=False)
    else:
        console.print("nothing to do: a gateway publishes this log", markup=False)


@click.command("key")
@click.pass_context
def key(ctx: click.Context) -> None:
    """Print the key that the log's checkpoints and receipts verify with.

    Give it to carriers, auditors and witnesses yourself: a key that came along with what it verifies proves nothing.

    \b
    Example:
      tollgate log key > carrier-log.vkey
    """
    click.echo(run(_key(settings(ctx))))


async def _publish(config: Config) -> dict[str, Any]:
    reasons: list[str] = []
    witnesses = Witnesses(parse_witnesses(config.log_witnesses))
    async with ledger(config), connect_pool(config, Role.LOG, 4) as pool:
        publisher = Publisher(pool, LogKeys(SigningKeys(config.keyring_dir)), reasons.append, witnesses=witnesses)
        try:
            stored = await publisher.once()
            if stored is not None:
                await publisher.ask()
        except LogInconsistent as error:
            raise CliError(str(error), ExitCode.REFUSED) from error
        finally:
            await publisher.stop()
            await witnesses.close()
    if stored is None:
        return {"published": False}
    return {"published": True, "size": stored.size, "cosigned": witnesses.cosigned(stored.size)}


async def _key(config: Config) -> str:
    async with connect_pool(config, Role.LOG) as pool, pool.acquire() as conn:
        origin = _current(await checkpoints.origins(conn))
    return str((await asyncio.to_thread(LogKeys(SigningKeys(config.keyring_dir)).signer, origin.name)).key)


def _current(known: list[Origin]) -> Origin:
    if not known:
        raise CliError("the log has no origin yet", ExitCode.CONFIGURATION, "a gateway makes it when it first starts")
    return known[-1]
