"""`tollgate log fsck`: the whole log held against itself, its signatures, what others kept of it, and the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import click
from rich.progress import Progress, TaskID

from keys.datakeys import DataKeys
from keys.notes import COSIGNATURE, ED25519, NOTE_MAX
from keys.signing import SigningKeys
from proxy.cli.common import (
    CliError,
    ExitCode,
    connect,
    connect_pool,
    console,
    emit,
    json_option,
    printable,
    provider,
    run,
    settings,
)
from proxy.cli.options import verifier_key
from proxy.config import Config
from proxy.ledger import anchor as held
from proxy.ledger import checkpoints
from proxy.ledger.addcheckpoint import LATEST
from proxy.ledger.fsck.anchors import ANCHOR_MAX, Anchor, AnchorRefused, read_anchor
from proxy.ledger.fsck.directory import Directory, ExportUnreadable
from proxy.ledger.fsck.live import live
from proxy.ledger.fsck.model import Finding, Report, Source, Where
from proxy.ledger.fsck.service import fsck as check
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.model import LedgerBroken
from proxy.ledger.service import Ledger
from proxy.ledger.witnesses import parse_witnesses
from proxy.store.audit import Finding as StoreFinding
from proxy.store.audit import check as check_store
from schema.roles import Role

_SHOWN = 20
_TIMEOUT = aiohttp.ClientTimeout(total=20)


@click.command("fsck")
@click.option(
    "--anchor", "anchors", multiple=True, metavar="FILE|URL", help="A checkpoint, receipt or .tlog-proof kept."
)
@click.option("--ask-witnesses", is_flag=True, help="Take what the configured witnesses hold as anchors too.")
@click.option("--no-anchor-file", is_flag=True, help="Do not take this home's own anchor file as one.")
@click.option("--export", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Check an export instead of the database.")  # fmt: skip
@click.option("--database-url", metavar="URL", help="Check this database instead: a replica, say.")
@click.option("--key", "vkeys", multiple=True, metavar="VKEY", help="The log's key, where no keyring is at hand.")
@click.option("--witness", "witnesses", multiple=True, metavar="VKEY", help="A witness's key, beside the configured.")
@click.option("--no-openings", is_flag=True, help="Do not open entries: no keyring is needed.")
@click.option("--no-store", is_flag=True, help="Do not hold the record store against the log.")
@json_option
@click.pass_context
def fsck(
    ctx: click.Context,
    anchors: tuple[str, ...],
    ask_witnesses: bool,
    no_anchor_file: bool,
    directory: Path | None,
    database_url: str | None,
    vkeys: tuple[str, ...],
    witnesses: tuple[str, ...],
    no_openings: bool,
    no_store: bool,
    as_json: bool,
) -> None:
    """Check the whole access log, and name the first broken entry.

    Every entry is recomputed from its openings; tags, tiles, checkpoints, cosignatures and origins are held against the
    entries, and the record store against what the log says was made. Nothing of an entry is shown. The log may be in
    use meanwhile. Exit code 1 if anything is not as it should be.

    What no log can show by itself (its tail cut off, an older state put back, all of it rewritten with its own key) is
    found where something was kept elsewhere: give checkpoints and receipts with --anchor.

    \b
    Examples:
      tollgate log fsck
      tollgate log fsck --anchor november.receipt.json --ask-witnesses
      tollgate log fsck --export audit-2026 --key "$(cat carrier-log.vkey)"
    """
    local = directory is not None or database_url is not None
    config = settings(ctx, database=not local)
    if database_url is not None:
        config = replace(config, database_url=database_url)
    opened = not no_openings and directory is None
    trusted = _trusted(config, vkeys, witnesses)
    report, store = run(
        _fsck(config, trusted, directory, anchors, ask_witnesses, no_anchor_file, opened, opened and not no_store)
    )
    if as_json:
        emit(report.as_json() | {"store": None if store is None else [finding.as_json() for finding in store]})
    _say(report, store)
    if report.found or store:
        raise CliError(
            "the log is not what was written" if report.found else "the store is not what the log says it is",
            hint="keep the database as it is; deploy/docs/integrity.md says what to do",
        )


def _trusted(config: Config, vkeys: Sequence[str], witnesses: Sequence[str]) -> Trusted:
    keys = [verifier_key(text, ED25519, "--key") for text in vkeys]
    keys += [verifier_key(text, COSIGNATURE, "--witness") for text in witnesses]
    keys += [witness.key for witness in parse_witnesses(config.log_witnesses)]
    if vkeys:
        return Trusted((), keys)
    if not config.keyring_dir.is_dir():
        raise CliError(
            "no key to check signatures with",
            ExitCode.USAGE,
            "give the log's key: --key (`tollgate log key` prints it)",
        )
    return Trusted(SigningKeys(config.keyring_dir).all_public("log"), keys)


async def _fsck(
    config: Config,
    trusted: Trusted,
    directory: Path | None,
    anchors: Sequence[str],
    ask_witnesses: bool,
    no_anchor_file: bool,
    openings: bool,
    store: bool,
) -> tuple[Report, list[StoreFinding] | None]:
    refused: list[Finding] = []
    known = await _anchors(trusted, anchors, refused)
    if ask_witnesses:
        known += await _from_witnesses(config, trusted, refused)
    if directory is None and not no_anchor_file and (note := await asyncio.to_thread(held.read, config.log_dir)):
        known += _read("of this home", note, trusted, refused)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("the log", total=None)
        async with _source(config, directory, openings) as source:
            if isinstance(source, Directory):
                known += _read("of the export", source.checkpoint, trusted, refused)
            try:
                report = await check(
                    source, trusted, known, lambda done, all_: bar.update(task, completed=done, total=all_)
                )
            except ExportUnreadable as error:
                raise CliError(str(error), ExitCode.BAD_INPUT) from error
        report.findings += refused
        report.found += len(refused)
        return report, await _store(config, bar, report) if store else None


@asynccontextmanager
async def _source(config: Config, directory: Path | None, openings: bool) -> AsyncIterator[Source]:
    if directory is not None:
        yield Directory(directory)
        return
    async with AsyncExitStack() as stack:
        # An auditor with a login of their own has no passwords of our roles.
        role = Role.LOG if config.roles_file.exists() else None
        conn = await stack.enter_async_context(connect(config, role))
        keys = DataKeys(provider(config)) if openings else None
        yield await stack.enter_async_context(live(conn, keys))


async def _store(config: Config, bar: Progress, report: Report) -> list[StoreFinding] | None:
    task: TaskID = bar.add_task("the store", total=None)
    async with connect(config, Role.INGEST) as conn, connect_pool(config, Role.LOG) as pool:
        # Only read from: this works on a replica too.
        log = Ledger(pool, DataKeys(provider(config)))
        try:
            update = lambda done, all_: bar.update(task, completed=done, total=all_)  # noqa: E731
            return [finding async for finding in check_store(conn, log, update)]
        except LedgerBroken as error:
            if report.clean:  # changed since
                report.findings.append(Finding(Where.ENTRY, error.what, error.index))
                report.found += 1
            return None


async def _anchors(trusted: Trusted, names: Sequence[str], refused: list[Finding]) -> list[Anchor]:
    known: list[Anchor] = []
    for name in names:
        known += _read(name, await anchor_bytes(name), trusted, refused)
    return known


async def anchor_bytes(name: str) -> bytes:
    """Return what stands in a file or behind a URL; nothing of it is checked.

    Raises:
        CliError: if the URL gives nothing.
        OSError: if the file cannot be read.
    """
    if name.startswith(("https://", "http://")):
        return await _fetched(name)
    return await asyncio.to_thread(_file, Path(name))


def _read(name: str, data: bytes, trusted: Trusted, refused: list[Finding]) -> list[Anchor]:
    try:
        return [read_anchor(name, data, trusted)]
    except AnchorRefused as error:
        # Somebody meant it to hold: that it does not is told like any other contradiction.
        refused.append(Finding(Where.ANCHOR, str(error)))
        return []


async def _from_witnesses(config: Config, trusted: Trusted, refused: list[Finding]) -> list[Anchor]:
    witnesses = parse_witnesses(config.log_witnesses)
    if not witnesses:
        raise CliError("no witness is configured", ExitCode.CONFIGURATION, "see the setting log_witnesses")
    async with connect(config, Role.LOG) as conn:
        origins = await checkpoints.origins(conn)
    known: list[Anchor] = []
    if origins:
        query = urlencode({"origin": origins[-1].name})
        for witness in witnesses:
            data = await _fetched(f"{witness.url}{LATEST}?{query}")
            known += _read(f"of witness {witness.name}", data, trusted, refused)
    return known


def _file(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(ANCHOR_MAX + 1)


async def _fetched(url: str) -> bytes:
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            data = await answer.content.read(NOTE_MAX + 1)
            while not answer.content.at_eof() and len(data) <= NOTE_MAX:
                data += await answer.content.read(NOTE_MAX + 1)
            if answer.status != 200:
                raise CliError(f"{printable(url)} answers {answer.status}", ExitCode.UNAVAILABLE)
            return data
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CliError(f"{printable(url)} cannot be reached", ExitCode.UNAVAILABLE, "is it up?") from error


def _say(report: Report, store: list[StoreFinding] | None) -> None:
    first = report.first
    if first is not None:
        console.print("the first broken entry: " if first.index is not None else "found: ", style="bold red", end="")
        console.print(printable(str(first)), style="red", markup=False)
        for finding in report.findings[1:_SHOWN]:
            console.print("  " + printable(str(finding)), markup=False)
        if report.found > _SHOWN:
            console.print(f"  and {report.found - _SHOWN:,} more", markup=False)
    for each in (store or ())[:_SHOWN]:
        console.print("the store: " + str(each), style="red", markup=False)
    for line in summary(report, store):
        console.print(line, markup=False)


def summary(report: Report, store: list[StoreFinding] | None) -> list[str]:
    """Return what was looked at, in lines for people."""
    lines = [f"{report.entries:,} entries, {report.openings:,} openings, {report.checkpoints:,} checkpoints"]
    lines[0] += f" (the last that holds covers {report.covered:,} entries)"
    for policy, count in report.erased.items():
        lines.append(f"{count:,} openings erased under policy {printable(policy)}")
    if report.withheld:
        lines.append(f"not in the export: {', '.join(report.withheld)}")
    if report.cosignatures or report.unchecked_cosignatures:
        unknown = f", {report.unchecked_cosignatures:,} of witnesses whose key is not known here"
        lines.append(f"{report.cosignatures:,} cosignatures" + (unknown if report.unchecked_cosignatures else ""))
    held_by = "1 anchor holds" if report.anchors == 1 else f"{report.anchors} anchors hold"
    lines.append(held_by if report.anchors else "no anchor holds: a cut tail or a log written anew would not show")
    if store == []:
        lines.append("the store is as the log says")
    if report.clean:
        lines.append(f"nothing is broken; root {report.root.hex()}")
    return lines
