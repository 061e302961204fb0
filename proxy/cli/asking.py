"""What commands of members of staff share: ask the gateway as who is signed in, propose a change, show a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.markup import escape
from rich.table import Table

from proxy.cli.common import CliError, ExitCode, console, emit, printable, run
from proxy.client.staff import StaffSession
from proxy.registry.jwk import JwkError, key_set

_JWKS_MAX = 64 * 1024


class _Day(click.ParamType[date]):
    """A date, YYYY-MM-DD, in UTC."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Return the date."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail("write a date as YYYY-MM-DD", param, ctx)


DAY = _Day()
KEY_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def today() -> date:
    """Return the UTC day."""
    return datetime.now(UTC).date()


def reason(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--reason``; the command gets ``reason: str``."""
    return click.option("--reason", required=True, help="Why; it stands in the access log.")(command)


def ask(method: str, path: str, body: Any = None, **params: str) -> Any:
    """Ask the gateway as who is signed in; return the JSON of the answer, None where it has none.

    Args:
        method: the HTTP method.
        path: below the issuer; `part` quotes what stands in it.
        body: sent as JSON.
        params: the query.
    """

    async def work() -> Any:
        async with StaffSession.open() as session:
            reply = await session.request(method, path, json=body, params=params or None)
            return reply.json if reply.body else None

    return run(work())


def part(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def said(text: str) -> None:
    """Tell the person that something is done."""
    console.print(f"[green]done[/]  {escape(printable(text))}")


def propose(kind: str, payload: Mapping[str, Any], why: str, as_json: bool = False) -> None:
    """Propose a change; its id goes to stdout, and how it goes on to the person."""
    change = ask("POST", "/v1/changes", {"kind": kind, "payload": payload, "reason": why})
    if as_json:
        emit(change)
        return
    console.print(f"[green]proposed[/]  {escape(printable(kind))}; another approves it by {change['expires_at'][:10]}:")
    console.print(f"  tollgate change approve {escape(printable(change['change_id']))}")
    click.echo(change["change_id"])


def show(as_json: bool, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], values: Any) -> None:
    """Print ``values`` as JSON on stdout, or ``rows`` as a table for the person."""
    if as_json:
        emit(values)
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else _cell(str(cell)) for cell in row))
    console.print(table)


def _cell(text: str) -> str:
    return "\n".join(escape(printable(line)) for line in text.split("\n"))


def key_file(path: Path) -> list[Mapping[str, Any]]:
    """Return the public keys (JWKs) of a file that holds a JWK or a JWK Set.

    Raises:
        CliError: if it holds neither.
    """
    if path.stat().st_size > _JWKS_MAX:
        raise CliError(f"{path} is no key file: it is larger than 64 KiB", ExitCode.BAD_INPUT)
    try:
        keys = key_set(path.read_bytes())
    except JwkError as error:
        hint = "give a JWK or a JWK Set; `tollgate pull keygen` prints one"
        raise CliError(f"{path}: {error}", ExitCode.BAD_INPUT, hint) from error
    if any("d" in key or "k" in key for key in keys):
        # It would be refused there too; but a private key does not even leave this machine.
        raise CliError(f"{path} holds a private key: give the public one", ExitCode.BAD_INPUT)
    return keys


def one_key(path: Path) -> Mapping[str, Any]:
    """Return the one public key of a file.

    Raises:
        CliError: if there is another number of them.
    """
    keys = key_file(path)
    if len(keys) != 1:
        raise CliError(f"{path} holds {len(keys)} keys: give one", ExitCode.BAD_INPUT)
    return keys[0]
