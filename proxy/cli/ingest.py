"""`tollgate ingest`: switch files into the store, and what was refused of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
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
from proxy.formats.profile import BUILTIN, Profile, load_profile
from proxy.formats.source import SourceError
from proxy.ingest.rejects import Reject, rejects_of
from proxy.ingest.service import Ingest, Report
from proxy.ledger.model import LedgerUnavailable
from proxy.store.reseal.roll import ROLL_ROWS, roll
from schema.roles import Role


class _FilesOrCommand(click.Group):
    """`ingest FILE…` is the command; `ingest rejects` stands beside it. A file of that name is `./rejects`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["files", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["files", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_FilesOrCommand)
def ingest() -> None:
    """Read CDR files of switches into the store.

    \b
    Examples:
      tollgate ingest cdrs.csv --profile kamailio-acc --trunk-map trunks.csv
      tollgate ingest /var/spool/cdr/ --profile ./our-switch.toml
      tollgate ingest rejects 1042

    Every line ends as stored, duplicate, conflict or rejected; the totals are printed. A file that was ingested before
    is left alone. Exit code 5 if a file could not be read; nothing of such a file is stored.
    """


@ingest.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--profile", "profile_name", required=True, help=f"{', '.join(BUILTIN)}, or the path of a .toml file.")
@click.option(
    "--trunk-map", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV of trunks and OCNs."
)
@click.option("--switch", "switch_id", help="Name of the switch, for files that do not say it.")
@click.option("--zone", help="Time zone (IANA name) of local times, instead of the profile's.")
@click.option("--no-roll", is_flag=True, help="Leave the records staged; `tollgate roll` makes them readable.")
@json_option
@click.pass_context
def files(
    ctx: click.Context,
    paths: tuple[Path, ...],
    profile_name: str,
    trunk_map: Path | None,
    switch_id: str | None,
    zone: str | None,
    no_roll: bool,
    as_json: bool,
) -> None:
    """Ingest files, or every file of a directory (gzip is recognised)."""
    profile = load_profile(profile_name, trunk_map=trunk_map, switch_id=switch_id, zone=zone)
    todo = list(_files(paths))
    if not todo:
        raise CliError("no file to ingest", ExitCode.BAD_INPUT, "name files, or a directory that holds some")
    reports, failed = run(_ingest(settings(ctx), todo, profile, not no_roll))
    if as_json:
        emit([{"file": str(r.path), "ingest": r.ingest_id, "already": r.already, **r.counts()} for r in reports])
    elif reports:
        console.print(_summary(reports))
    _say(reports)
    if failed:
        raise CliError(
            f"{len(failed)} of {len(todo)} files could not be ingested: {failed[0]}",
            ExitCode.BAD_INPUT,
            "the others are in" if reports else "nothing was stored",
        )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        else:
            yield path


async def _ingest(
    config: Config, todo: Sequence[Path], profile: Profile, rolled: bool
) -> tuple[list[Report], list[SourceError]]:
    reports: list[Report] = []
    failed: list[SourceError] = []
    async with AsyncExitStack() as stack:
        conn, side = [await stack.enter_async_context(connect(config, Role.INGEST)) for _ in range(2)]
        log = await stack.enter_async_context(ledger(config))
        executor = stack.enter_context(ThreadPoolExecutor(config.decode_threads))
        bar = stack.enter_context(_bar())
        keys = DataKeys(provider(config))
        service = Ingest(conn, side, keys, log, executor, operator())
        task = bar.add_task("", total=sum(p.stat().st_size for p in todo))
        before = staged = 0
        for path in todo:
            bar.update(task, description=path.name.replace("[", "\\["))
            try:
                report = await service.file(path, profile, lambda done, b=before: bar.update(task, completed=b + done))  # type: ignore[misc]
            except SourceError as error:
                failed.append(error)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, LedgerUnavailable) as error:
                why = error.__cause__ or error  # the log's error has the database's behind it
                raise CliError(
                    f"{path}: the database failed: {why}",
                    ExitCode.UNAVAILABLE,
                    "nothing of this file is stored, files before it are; once the database is well run the same again",
                ) from error
            else:
                reports.append(report)
                staged += report.stored
            before += path.stat().st_size
            bar.update(task, completed=before)
            if rolled and staged >= ROLL_ROWS:
                await roll(conn, keys, log, executor)
                staged = 0
        if rolled:
            bar.update(task, description="rolling")
            await roll(conn, keys, log, executor)
    return reports, failed


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _summary(reports: Sequence[Report]) -> Table:
    table = Table(box=None, pad_edge=False)
    names = ("lines", "stored", "duplicates", "conflicts", "rejected", "unmapped")
    for name in ("file", "ingest", *names):
        table.add_column(name, justify="left" if name == "file" else "right")
    for r in reports[-20:]:
        counts = ["already in"] + [""] * 5 if r.already else [f"{n:,}" for n in r.counts().values()]
        table.add_row(r.path.name.replace("[", "\\["), str(r.ingest_id), *counts)
    if len(reports) > 1:
        table.add_row("total", "", *(f"{sum(getattr(r, n) for r in reports):,}" for n in names), style="bold")
    return table


def _say(reports: Sequence[Report]) -> None:
    unmapped = sum(r.unmapped for r in reports)
    if unmapped:
        console.print(
            f"{unmapped:,} calls have a trunk that is in no map. They are disclosed to nobody until it is mapped:"
            " add the trunk to the map, then run `tollgate store remap`.",
            style="bold yellow",
        )
    for r in reports:
        if r.rejected or r.conflicts:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in r.reasons.most_common(5))
            console.print(f"{r.path.name}: refused {reasons}; `tollgate ingest rejects {r.ingest_id}`", markup=False)


@ingest.command("rejects")
@click.argument("ingest_id", type=int)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most lines to list.")
@json_option
@click.pass_context
def rejects(ctx: click.Context, ingest_id: int, limit: int, as_json: bool) -> None:
    """List the refused lines of an ingest: file, line and reason, never the record."""
    found = run(_rejects(settings(ctx), ingest_id, limit))
    if as_json:
        emit([_as_json(r) for r in found])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("file", "line", "reason"):
        table.add_column(name, justify="right" if name == "line" else "left")
    for r in found:
        table.add_row(r.file.replace("[", "\\["), str(r.line), r.reason)
    stdout().print(table)


def _as_json(reject: Reject) -> dict[str, Any]:
    return {"file": reject.file, "line": reject.line, "reason": reject.reason}


async def _rejects(config: Config, ingest_id: int, limit: int) -> list[Reject]:
    async with connect(config, Role.INGEST) as conn:
        found = await rejects_of(conn, DataKeys(provider(config)), ingest_id, limit)
    if found is None:
        raise CliError(
            f"there is no ingest {ingest_id}", ExitCode.BAD_INPUT, "`tollgate store status` lists the last ones"
        )
    return found
