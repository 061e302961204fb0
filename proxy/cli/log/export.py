"""`tollgate log export`: the log as tiles, headers and openings, for an auditor: a look at the log, and logged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import click
from rich.progress import Progress

from keys.datakeys import DataKeys
from keys.signing import SigningKeys
from proxy.cli.common import CliError, ExitCode, connect, console, emit, json_option, ledger, provider, run, settings
from proxy.cli.log.show import reading
from proxy.config import Config
from proxy.ledger.encoding import read_header
from proxy.ledger.export import Exported, ExportError
from proxy.ledger.export import export as write
from proxy.ledger.fsck.live import live
from proxy.ledger.fsck.model import Line
from proxy.ledger.model import PARTS, LedgerBroken, month_of
from proxy.ledger.publisher import LogKeys
from proxy.ledger.withheld import Withheld
from schema.roles import Role

# Every month of the log has a data key of its tags (proxy/ledger/batch.py).
_MONTHS = "SELECT month FROM tollgate.data_key WHERE key_class = 'log_tags'"


@click.command("export")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Open only these parts (repeatable).")
@click.option("--no-openings", is_flag=True, help="Open no part: proofs without anything of what was asked.")
@click.option(
    "--database-url", metavar="URL", help="Read from this database: a replica, say. The look is logged in ours."
)
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    directory: Path,
    parts: tuple[str, ...],
    no_openings: bool,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Write the log, up to its last checkpoint, into a new DIRECTORY.

    It holds who asked for what, in plain text, unless --no-openings: keep it as you would keep the records. Of cases
    under an order of non-disclosure it holds the proofs and no opening. The auditor checks it with
    `tollgate log fsck --export`, or with tools of their own (deploy/docs/integrity.md).

    \b
    Example:
      tollgate log export audit-2026 --part actor --part request
    """
    if parts and no_openings:
        raise click.UsageError("--part and --no-openings exclude each other")
    chosen = () if no_openings else parts or PARTS
    done = run(_export(settings(ctx), directory, chosen, database_url))
    if as_json:
        emit({"size": done.size, "root": done.root.hex(), "openings": done.openings})
    console.print(f"wrote {done.size:,} entries, {done.openings:,} openings; root {done.root.hex()}", markup=False)


async def _export(config: Config, directory: Path, parts: tuple[str, ...], database_url: str | None) -> Exported:
    at = config if database_url is None else replace(config, database_url=database_url)
    async with ledger(config) as log:
        await log.append(reading({"purpose": "export", "parts": list(parts)}))
    keys = DataKeys(provider(config))
    async with connect(at, Role.LOG) as conn, live(conn, keys) as source:
        facts = await source.facts()
        hides = await _hidden(conn, keys)
        vkeys: list[str] = []
        for origin in facts.origins:
            vkeys += map(str, LogKeys(SigningKeys(config.keyring_dir)).verifiers(origin.origin))
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("writing", total=facts.signed_size)
            try:
                return await write(
                    source.pages(facts),
                    facts,
                    directory,
                    parts,
                    vkeys,
                    lambda done, total: bar.update(task, completed=done, total=total),
                    hides,
                )
            except ExportError as error:
                raise CliError(str(error), ExitCode.REFUSED) from error
            except LedgerBroken as error:
                raise CliError(str(error), ExitCode.REFUSED, "see `tollgate log fsck`") from error


async def _hidden(conn: asyncpg.Connection, keys: DataKeys) -> Callable[[Line], bool]:
    """Return what says of which entries no opening leaves: those of cases that only the legal desk may know of."""
    withheld = await Withheld.of(conn, keys)
    for row in await conn.fetch(_MONTHS):
        await withheld.load(conn, row["month"])

    def hides(line: Line) -> bool:
        header = read_header(line.idx, line.header)
        month = month_of(header.at)
        if withheld.hides(month, header.kind.value, line.tags):
            return True
        return not withheld.tells(month, header.kind, _value(line, "request"), _value(line, "actor"))

    return hides


def _value(line: Line, part: str) -> dict[str, Any] | None:
    """Return what a part says; None where it is erased or is not what it should be, which the export itself tells."""
    data = (line.openings or {}).get(part)
    if not isinstance(data, bytes):
        return None
    try:
        value = json.loads(data)["value"] if data else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
