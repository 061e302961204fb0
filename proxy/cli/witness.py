"""`tollgate witness`: a witness of logs, ours or others', best run by somebody else on another machine."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from proxy.cli.common import CliError, ExitCode, console, json_option, run

if TYPE_CHECKING:
    from keys.notes import VerifierKey
    from proxy.witness.state import State

_STATE = click.option(
    "--state",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The witness's directory: its key and what it has signed. Never restore it from a backup.",
)


@click.group()
def witness() -> None:
    """Run a witness: it keeps the last checkpoint of each log and cosigns only what continues it.

    A witness is worth something in hands other than the log's: another company, another team, another machine.

    \b
    Example:
      tollgate witness init --state /var/lib/witness --name witness.example.net/w1
      tollgate witness run --state /var/lib/witness --listen 0.0.0.0:8080 --log 'cdr.example.net/log+…+…'
    """


@witness.command()
@_STATE
@click.option("--name", required=True, help="The witness's name: a URL without scheme, such as witness.example.net/w1.")
@json_option
def init(directory: Path, name: str, as_json: bool) -> None:
    """Make a witness's key, and print its public half for the logs that will ask it.

    \b
    Example:
      tollgate witness init --state /var/lib/witness --name witness.example.net/w1
    """
    from proxy.witness.state import create

    cosigner = create(directory, name)
    _print_key(cosigner.key, as_json)
    console.print("put it, with the witness's URL, into the setting log_witnesses of the gateways", style="dim")


@witness.command()
@_STATE
@json_option
def key(directory: Path, as_json: bool) -> None:
    """Print the witness's public key.

    \b
    Example:
      tollgate witness key --state /var/lib/witness
    """
    from proxy.witness.state import load_key

    _print_key(load_key(directory).key, as_json)


@witness.command("run")
@_STATE
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Address and port; 0 takes a free one.")
@click.option("--log", "logs_given", multiple=True, help="A log's verifier key; once for each log or key.")
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file with a log's verifier key on each line ('#' begins a comment).",
)
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="Its private key, PEM, 0600.")
@json_option
def run_witness(
    directory: Path,
    listen: str,
    logs_given: tuple[str, ...],
    log_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Answer logs that ask for a cosignature, until told to stop.

    A key is written as the log publishes it. Where a log's origin is not its key's name, write the key, a space and the
    origin. Without TLS the cosignatures are worth the same; a proxy or a private network may stand in front.

    \b
    Example:
      tollgate witness run --state /var/lib/witness --listen 127.0.0.1:8080 --log 'cdr.example.net/log+…+…'
    """
    from proxy import logs
    from proxy.witness.state import State

    if (tls_cert is None) != (tls_key is None):
        raise CliError("--tls-cert and --tls-key go together", ExitCode.USAGE)
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CliError("--listen takes an address and a port, such as 127.0.0.1:8080", ExitCode.USAGE)
    lines = [*logs_given, *(_lines(log_file) if log_file is not None else ())]
    known = _known(lines)
    tls = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
    logs.configure()
    with State(directory) as state:
        run(_run(state, known, host.strip("[]"), int(port), tls, as_json))


async def _run(
    state: State,
    known: dict[str, tuple[VerifierKey, ...]],
    host: str,
    port: int,
    tls: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    from proxy.server import Listener, check_parser, tls_context
    from proxy.witness.http import application
    from proxy.witness.service import Witness

    check_parser()
    service = Witness(state, known)
    service.check()
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    listener = Listener(application(service), host, port, "", None if tls is None else tls_context(*tls))
    await listener.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        address = f"[{host}]" if ":" in host else host
        url = f"{'http' if tls is None else 'https'}://{address}:{listener.port}"
        if as_json:
            click.echo(json.dumps({"url": url, "key": str(state.cosigner.key), "logs": sorted(known)}))
        else:
            console.print(f"witness [bold]{escape(state.cosigner.key.name)}[/] listens at {escape(url)}")
            console.print(f"logs: {escape(', '.join(sorted(known)))}", style="dim")
        await told.wait()
    finally:
        await listener.stop()


def _lines(path: Path) -> Iterable[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if (text := line.strip()) and not text.startswith("#"):
            yield text


def _known(lines: Iterable[str]) -> dict[str, tuple[VerifierKey, ...]]:
    """Return the logs by origin."""
    from keys.notes import ED25519, NoteError, VerifierKey

    known: dict[str, tuple[VerifierKey, ...]] = {}
    for number, line in enumerate(lines, 1):
        text, _, origin = line.partition(" ")
        try:
            found = VerifierKey.parse(text)
        except NoteError as error:
            raise CliError(f"log key {number}: {error}", ExitCode.USAGE) from error
        if found.kind != ED25519:
            raise CliError(f"log key {number} is a witness's key, not a log's", ExitCode.USAGE)
        name = origin or found.name
        known[name] = (*known.get(name, ()), found)
    if not known:
        raise CliError("no log to witness", ExitCode.USAGE, "give the log's verifier key with --log")
    return known


def _print_key(public: VerifierKey, as_json: bool) -> None:
    click.echo(json.dumps({"name": public.name, "key": str(public)}) if as_json else str(public))
