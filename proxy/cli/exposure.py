"""`tollgate exposure`: what somebody was shown, counted for the privacy officer; and freezing a month's counts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from keys.datakeys import DataKeys
from keys.signing import SigningKeys
from proxy.cli.common import (
    CliError,
    ExitCode,
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
    stdout,
)
from proxy.cli.options import utc_moment
from proxy.config import Config
from proxy.disclosure.exposure import Count, CountDenied, Exposure, Question
from proxy.disclosure.exposure_freeze import Freezer, Frozen, NothingToFreezeError, officers_tools
from proxy.disclosure.exposure_proof import Prover
from proxy.disclosure.records import ids_of
from proxy.ledger.checkpoints import LogInconsistent
from proxy.ledger.model import LedgerBroken
from proxy.ledger.publisher import LogKeys
from proxy.ledger.search import Search
from proxy.policy.counting import Officer, Subject, SubjectKind
from schema.roles import Role

_KINDS = tuple(k for k in SubjectKind if k is not SubjectKind.ALL)
_MONTH = re.compile(r"(20[0-9]{2})-?(0[1-9]|1[0-2])")
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


@click.group(invoke_without_command=True)
@click.option("--client", help="What this client was shown (its id).")
@click.option("--token", metavar="ID", help="What this token was shown (its jti).")
@click.option("--key", metavar="THUMBPRINT", help="What this key was shown (JWK thumbprint, RFC 7638).")
@click.option("--address", help="What was shown to this network address.")
@click.option("--staff", help="What this member of staff was shown.")
@click.option("--case", help="What was shown in this case.")
@click.option(
    "--from", "first", callback=utc_moment, metavar="TIME", help="Accesses that ran after this day or time (UTC)."
)
@click.option("--to", "last", callback=utc_moment, metavar="TIME", help="Accesses that began before it; default: now.")
@click.option("--reason", help="Why you count; stands in the log with your name. Needed.")
@click.option(
    "--records",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the record ids to this file: runs, first,last.",
)
@json_option
@click.pass_context
def exposure(
    ctx: click.Context,
    /,
    first: datetime | None,
    last: datetime | None,
    reason: str | None,
    file: Path | None,
    as_json: bool,
    **asked: str | None,
) -> None:
    """Count exactly what somebody was shown: records, days, carriers, classes, distinct telephone numbers.

    Comes from the access log, whose entries are proved on the way, and from the records themselves. An access without
    outcome counts with all that its scope still held. The count itself is an entry of the log before anything is read.

    \b
    Examples:
      tollgate exposure --client billing-a --from 2026-11-01 --to 2026-11-08 --reason "incident 7"
      tollgate exposure --key 0ZcOCORZ... --reason "incident 7" --records ids.csv --json
      tollgate exposure freeze 2025-04 --reason "shredding of 2025-04"
    """
    if ctx.invoked_subcommand is not None:
        return
    given = [(kind.value, value) for kind in _KINDS if (value := asked[kind.value])]
    if len(given) != 1:
        raise click.UsageError(f"name one of {', '.join('--' + k.value for k in _KINDS)}")
    if not reason:
        raise click.UsageError("say why with --reason; it stands in the log")
    question = Question(Subject(*given[0]), first or _BEGINNING, last or datetime.now(UTC), reason)
    count = run(_count(settings(ctx), question))
    if file is not None:
        _write(file, count)
    if as_json:
        emit(count.as_json())
    else:
        _show(count)
    if not count.complete:
        raise CliError("the count is not complete: see what is missing above", ExitCode.REFUSED)


@exposure.command("freeze")
@click.argument("month", metavar="YYYY-MM")
@click.option("--reason", required=True, help="Why; stands in the log with your name.")
@json_option
@click.pass_context
def freeze(ctx: click.Context, month: str, reason: str, as_json: bool) -> None:
    """Keep a month's subscriber counts in the log, before its records are shredded.

    For every access that was shown numbers of the month: which records, and which of the month's subscribers, as
    ordinals in an order that is thrown away. No number is kept.
    """
    match = _MONTH.fullmatch(month)
    if match is None:
        raise click.BadParameter("a month as 2026-07", param_hint="YYYY-MM")
    frozen = run(_freeze(settings(ctx), int(match[1] + match[2]), reason))
    if as_json:
        emit(frozen.as_json())
        return
    said = f"{frozen.subscribers:,} subscribers in {frozen.records:,} records of {frozen.accesses:,} accesses"
    console.print(f"frozen in {frozen.entries:,} entries: {said}", markup=False)


@asynccontextmanager
async def _tools(config: Config) -> AsyncIterator[tuple[Exposure, Freezer]]:
    keys = DataKeys(provider(config))
    signing = LogKeys(SigningKeys(config.keyring_dir))
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(ledger(config))
        reading = await stack.enter_async_context(connect_pool(config, Role.LOG, 3))
        privacy = await stack.enter_async_context(connect_pool(config, Role.PRIVACY, 2))
        executor = stack.enter_context(ThreadPoolExecutor(config.decode_threads))
        prover = lambda: Prover(reading, signing, config.log_dir)  # noqa: E731
        whole = Search(reading, keys, desk=True)
        yield officers_tools(log, Search(reading, keys), prover, privacy, keys, executor, whole=whole)


async def _count(config: Config, question: Question) -> Count:
    with _explained(), _bar() as progress:
        async with _tools(config) as (tool, _):
            return await tool.count(Officer(operator(), privacy=True), question, progress)


async def _freeze(config: Config, month: int, reason: str) -> Frozen:
    with _explained(), _bar() as progress:
        async with _tools(config) as (_, tool):
            return await tool.freeze(Officer(operator(), privacy=True), month, reason, progress)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except CountDenied as error:
        raise CliError(str(error), ExitCode.REFUSED) from error
    except NothingToFreezeError as error:
        raise CliError(str(error), ExitCode.REFUSED) from error
    except (LedgerBroken, LogInconsistent) as error:
        raise CliError(str(error), ExitCode.REFUSED, "see `tollgate log fsck`; nothing was counted") from error


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total or None)
            bar.update(tasks[step], completed=done)

        yield progress


def _write(file: Path, count: Count) -> None:
    ids = ids_of(count.records)
    breaks = np.flatnonzero(ids[1:] != ids[:-1] + 1)
    firsts, lasts = np.concatenate(([0], breaks + 1)), np.concatenate((breaks, [len(ids) - 1]))
    with file.open("w", encoding="ascii") as out:
        out.write("first,last\n")
        if len(ids):
            out.writelines(f"{a},{b}\n" for a, b in zip(ids[firsts].tolist(), ids[lasts].tolist(), strict=True))


def _show(count: Count) -> None:
    value = count.as_json()
    accesses, subscribers = value["accesses"], value["subscribers"]
    exact = subscribers.get("exact")
    if exact is None:
        most = subscribers["at_most"]
        told = f"at least {subscribers['at_least']:,}" + (f", at most {most:,}" if most is not None else "")
    else:
        told = f"{exact:,}"
    rows = [
        ("accesses", f"{accesses['counted']:,}"),
        ("  without outcome", f"{accesses['without_outcome']:,}"),
        ("  that cannot be read", f"{accesses['unreadable']:,}"),
        ("refusals", f"{accesses['denied']:,}"),
        ("records", f"{value['records']:,}"),
        ("  not in the store any more", f"{value['missing']:,}"),
        ("distinct telephone numbers", told),
        *((f"class {name}", f"{n:,}") for name, n in value["classes"].items()),
        *((f"carrier {name}", f"{n:,}") for name, n in value["carriers"].items()),
        *((f"day {name}", f"{n:,}") for name, n in value["days"].items()),
        *((f"client {printable(name)}", f"{n:,} accesses") for name, n in value["clients"].items()),
        ("log entries proved", f"{value['log']['entries'] - value['log']['unpublished']:,}"),
        ("log entries after the last checkpoint", f"{value['log']['unpublished']:,}"),
        *(("log month that cannot be searched", str(month)) for month in value["log"]["blind_months"]),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, told in rows:
        table.add_row(Text(name), Text(told))
    stdout().print(table)
