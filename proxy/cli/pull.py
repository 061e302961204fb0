"""`tollgate pull`: the client a carrier runs, against any Tollgate. Needs no home and no database."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from keys.notes import COSIGNATURE, ED25519, VerifierKey
from proxy.cli import pulloptions as options
from proxy.cli.common import CliError, ExitCode, console, emit, printable
from proxy.cli.options import verifier_key
from proxy.client import keys
from proxy.client.log import LogCheck, LogMemory, LogMemoryError
from proxy.client.memory import Memory, MemoryFileError
from proxy.client.session import ClientError, ConnectionLost, DiscoveryError, Refused, Session
from proxy.client.transfer import Pull, Question, Result


@click.group()
def pull() -> None:
    """Pull CDRs from a Tollgate, as a carrier does.

    \b
    Example, once and then every day:
      tollgate pull keygen --out carrier.pem
      tollgate pull cdrs --issuer https://cdr.example.net --client-id example-a --key carrier.pem \\
          --from 2026-11-01 --to 2026-12-01 --out november.csv
    """


@contextlib.contextmanager
def _plain_errors() -> Any:
    """Turn the client's errors into messages with exit codes."""
    try:
        yield
    except (keys.KeyFileError, MemoryFileError, LogMemoryError) as error:
        raise CliError(str(error), ExitCode.CONFIGURATION) from error
    except DiscoveryError as error:
        raise CliError(str(error), ExitCode.CONFIGURATION, error.hint) from error
    except ConnectionLost as error:
        raise CliError(str(error), ExitCode.UNAVAILABLE, error.hint) from error
    except Refused as error:
        code = ExitCode.UNAVAILABLE if error.status >= 500 else ExitCode.REFUSED
        hint = error.hint
        if error.access_id:
            hint = (hint + "\n  " if hint else "") + f"the carrier logged this as access {error.access_id}"
        raise CliError(str(error), code, hint) from error
    except ClientError as error:
        raise CliError(str(error), ExitCode.REFUSED, error.hint) from error


def proof_key_file(key_file: Path) -> Path:
    """Return where the proof-of-possession key of a client key is kept: beside it."""
    return key_file.with_name(key_file.name + ".dpop")


@contextlib.asynccontextmanager
async def open_session(
    issuer: str, client_id: str, key_file: Path, ca: Path | None, ocns: tuple[str, ...]
) -> AsyncIterator[Session]:
    """Give a session with the client's keys; the proof key is made on first use."""
    key = keys.load(key_file)
    proof_key = keys.load_or_make(proof_key_file(key_file))
    details = [{"type": "cdr_billing", "ocns": list(ocns)}] if ocns else None
    async with Session(issuer, client_id, key, proof_key, ca=ca, details=details) as session:
        yield session


@pull.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File for the new private key (0600).")
@click.option("--show", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Print a key's public JWK.")
def keygen(out: Path | None, show: Path | None) -> None:
    """Make your private key; print the public JWK to send to the carrier.

    \b
    Example:
      tollgate pull keygen --out carrier.pem > carrier.jwk.json
    """
    if (out is None) == (show is None):
        raise click.UsageError("say either --out (a new key) or --show (one you have)")
    with _plain_errors():
        if show is not None:
            key = keys.load(show)
        else:
            assert out is not None
            key = keys.generate()
            keys.save(key, out)
            console.print(
                f"Private key in {escape(str(out))}: keep it to yourself. Send the carrier what is on stdout."
            )
    emit(key.public_jwk())


@pull.command()
@options.connection
@options.window
@click.option(
    "--received-after", help="Only what the carrier's store got after this (a Complete-To of an earlier pull)."
)
@click.option("--since-last", is_flag=True, help="Only what came since the last pull of this same window.")
@click.option(
    "--state",
    "state_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where --since-last remembers; default: beside the key.",
)
@options.target
def cdrs(
    issuer: str,
    client_id: str,
    key_file: Path,
    ca: Path | None,
    ocns: tuple[str, ...],
    start: str,
    end: str,
    direction: str,
    received_after: str | None,
    since_last: bool,
    state_file: Path | None,
    form: str | None,
    out: Path,
    overwrite: bool,
    verify: bool,
    log_key: str | None,
    witnesses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pull the CDRs of a window, proven complete; broken off, the same command goes on.

    \b
    Example: a month in full, and every day after what has come in late:
      tollgate pull cdrs --from 2026-11-01 --to 2026-12-01 --out november.parquet
      tollgate pull cdrs --from 2026-11-01 --to 2026-12-01 --since-last --out late-$(date +%F).parquet
    (--issuer, --client-id, --key, --ca as TOLLGATE_PULL_ISSUER, _CLIENT_ID, _KEY, _CA in the environment)
    """
    if since_last and received_after:
        raise click.UsageError("say either --since-last or --received-after")
    parameters = {"from": options.moment(start, "--from"), "to": options.moment(end, "--to"), "direction": direction}
    memory = Memory(state_file or key_file.with_name(key_file.name + ".pulls.json"))
    name = memory.name(issuer, client_id, ocns, parameters)
    with _plain_errors():
        mark = memory.get(name) if since_last else received_after
    if mark:
        parameters["received_after"] = mark
    question = Question("cdrs", issuer, client_id, options.form_of(form, out), parameters)
    result, check = _run(question, key_file, ca, ocns, out, overwrite, _wanted(verify, log_key, witnesses))
    # Remembered last: dying before this repeats rows at the next pull, and never loses any.
    if result.complete_to:
        with _plain_errors():
            memory.put(name, result.complete_to)
    _say(result, out, as_json, check)


@pull.command()
@options.connection
@options.window
@click.option("--number", help="E.164, with +. Default: asked for, so that it stands in no shell history.")
@options.target
def search(
    issuer: str,
    client_id: str,
    key_file: Path,
    ca: Path | None,
    ocns: tuple[str, ...],
    start: str,
    end: str,
    direction: str,
    number: str | None,
    form: str | None,
    out: Path,
    overwrite: bool,
    verify: bool,
    log_key: str | None,
    witnesses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the calls of one number in your own traffic.

    \b
    Example (the number is read from standard input):
      echo +12125550123 | tollgate pull search --from 2026-11-01 --to 2026-12-01 --out calls.csv
    """
    if number is None:
        number = getpass.getpass("number: ") if sys.stdin.isatty() else sys.stdin.readline()
    number = number.strip()
    if not re.fullmatch(r"\+[1-9]\d{3,14}", number):
        raise click.UsageError("--number: write it in E.164, as in +12125550123")
    parameters = {
        "number": number,
        "from": options.moment(start, "--from"),
        "to": options.moment(end, "--to"),
        "direction": direction,
    }
    question = Question("search", issuer, client_id, options.form_of(form, out), parameters)
    result, check = _run(question, key_file, ca, ocns, out, overwrite, _wanted(verify, log_key, witnesses))
    _say(result, out, as_json, check)


@pull.command()
@options.connection
@click.argument("access_id", type=click.UUID)
def access(issuer: str, client_id: str, key_file: Path, ca: Path | None, ocns: tuple[str, ...], access_id: Any) -> None:
    """Show what the carrier recorded about one of your accesses (JSON)."""

    async def work() -> dict[str, Any]:
        async with open_session(issuer, client_id, key_file, ca, ocns) as session:
            return await session.get_json(f"/v1/accesses/{access_id}")

    with _plain_errors():
        emit(asyncio.run(work()))


@pull.command()
@options.connection
@click.option("--method", type=click.Choice(["GET", "POST"]), default="GET", show_default=True)
@click.argument("path")
def curl(
    issuer: str, client_id: str, key_file: Path, ca: Path | None, ocns: tuple[str, ...], method: str, path: str
) -> None:
    """Print a curl configuration for one request: URL, token, fresh proof.

    A proof is good for one request within seconds, so make one for each.

    \b
    Example:
      tollgate pull curl '/v1/cdrs?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z&limit=5' | curl -sK -
    """
    if not path.startswith("/"):
        raise click.UsageError("PATH begins with a slash, as in /v1/cdrs?from=...")

    async def work() -> tuple[str, dict[str, str]]:
        async with open_session(issuer, client_id, key_file, ca, ocns) as session:
            return await session.headers_for(method, path)

    with _plain_errors():
        url, headers = asyncio.run(work())
    lines = {"url": [url], "request": [method], "header": [f"{k}: {v}" for k, v in headers.items()]}
    if ca:
        lines["cacert"] = [str(ca.absolute())]
    for name, values in lines.items():
        for value in values:
            click.echo(f"{name} = {json.dumps(value)}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How receipts are to be verified."""

    keys: list[VerifierKey]
    witnesses: list[VerifierKey]


def _wanted(verify: bool, log_key: str | None, witnesses: tuple[str, ...]) -> _Wanted | None:
    if not verify:
        return None
    keys = [] if log_key is None else [verifier_key(log_key, ED25519, "--log-key")]
    return _Wanted(keys, [verifier_key(text, COSIGNATURE, "--witness") for text in witnesses])


def _run(
    question: Question,
    key_file: Path,
    ca: Path | None,
    ocns: tuple[str, ...],
    out: Path,
    overwrite: bool,
    wanted: _Wanted | None,
) -> tuple[Result, LogCheck | None]:
    if out.exists() and not overwrite:
        raise CliError(f"{out} is there already", ExitCode.USAGE, "choose another --out, or say --overwrite")
    if not out.absolute().parent.is_dir():
        raise CliError(f"no such directory: {out.absolute().parent}", ExitCode.USAGE)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rows]:>12,} rows"),
        DownloadColumn(),
        SpeedColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )

    async def work() -> tuple[Result, LogCheck | None]:
        async with open_session(question.issuer, question.client_id, key_file, ca, ocns) as session:
            check = None
            if wanted is not None:
                memory = LogMemory(key_file.with_name(key_file.name + ".logs.json"))
                check = LogCheck(session, question.client_id, memory, wanted.keys, wanted.witnesses, out)
            task = bar.add_task("pulling", total=None, rows=0)

            def progress(*, rows: int, received: int, note: str = "") -> None:
                bar.update(task, rows=rows, completed=received)
                if note:
                    console.print(note, markup=False, style="yellow")

            return await Pull(session, question, out, progress, check).run(), check

    with _plain_errors(), bar:
        return asyncio.run(work())


def _say(result: Result, out: Path, as_json: bool, check: LogCheck | None) -> None:
    parts = "" if len(result.accesses) == 1 else f" in {len(result.accesses)} parts"
    console.print(f"[bold green]complete, proven[/]: {result.rows:,} rows{parts} in {escape(str(out))}")
    console.print("  rows, bytes and SHA-256 are as the carrier's log has them", style="dim")
    for access_id in result.accesses:
        console.print(f"  access {access_id}", style="dim", markup=False)
    console.print(f"  SHA-256 {result.sha256}", style="dim", markup=False)
    receipts: dict[str, Any] = {}
    if check is not None and check.checkpoint is not None:
        size = check.checkpoint.size
        console.print(f"  receipts verified against the log of {size:,} entries, which continues the one last seen")
        for file in check.files:
            console.print(f"  receipt {file}", style="dim", markup=False)
        if check.first_seen is not None:
            console.print(
                f"  the log's key was taken on trust, this once: {printable(check.first_seen)}\n"
                "  compare it with what the carrier tells you by another way, and name it with --log-key",
                style="yellow",
                markup=False,
            )
        receipts = {"receipts": [str(file) for file in check.files], "log_size": size}
    if as_json:
        emit(
            {
                "file": str(out),
                "rows": result.rows,
                "bytes": result.bytes,
                "sha256": result.sha256,
                "accesses": list(result.accesses),
                "complete_to": result.complete_to,
                "proven": True,
                **receipts,
            }
        )
