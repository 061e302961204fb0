"""`tollgate carrier`, `agreement`, `client`: who may ask. Every change is an entry of the access log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import click
from rich.markup import escape
from rich.table import Table

from proxy.cli.common import CliError, ExitCode, connect, console, emit, json_option, ledger, operator, run, settings
from proxy.config import Config
from proxy.registry.jwk import JwkError, key_set
from proxy.registry.model import (
    REQUESTS_PER_MINUTE,
    ROWS_PER_DAY,
    Agreement,
    Carrier,
    Client,
    OcnOwnership,
    check_ocn,
    check_period,
    parse_networks,
)
from proxy.registry.service import Registry
from schema.roles import Role

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


_DAY = _Day()


@contextlib.asynccontextmanager
async def _changing(config: Config) -> AsyncIterator[tuple[Registry, asyncpg.Connection]]:
    async with connect(config, Role.OPERATOR) as conn, ledger(config) as log:
        yield Registry(log, by=operator()), conn


@contextlib.asynccontextmanager
async def _looking(config: Config) -> AsyncIterator[tuple[Registry, asyncpg.Connection]]:
    async with connect(config, Role.OPERATOR) as conn:
        yield Registry(), conn


def _today() -> date:
    return datetime.now(UTC).date()


def _reason(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--reason", required=True, help="Why; it stands in the access log.")(command)


def _done(text: str) -> None:
    console.print(f"[green]done[/]  {escape(text)}")


def _show(as_json: bool, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], values: Any) -> None:
    if as_json:
        emit(values)
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    console.print(table)


def _ocn_period(carrier_id: str, text: str) -> OcnOwnership:
    """Read OCN[:FROM[:TO]]."""
    ocn, *days = text.split(":")
    try:
        first, end = ([date.fromisoformat(day) if day else None for day in days] + [None, None])[:2]
    except ValueError as error:
        raise click.UsageError(
            f"{text}: write an OCN as 123A, 123A:2020-01-01 or 123A:2020-01-01:2025-01-01"
        ) from error
    if len(days) > 2:
        raise click.UsageError(f"{text}: write an OCN as 123A, 123A:2020-01-01 or 123A:2020-01-01:2025-01-01")
    return OcnOwnership(ocn.upper(), carrier_id, first or _today(), end)


# --- carriers ------------------------------------------------------------------------------------------------------


@click.group()
def carrier() -> None:
    """Carriers and their OCNs."""


@carrier.command("add")
@click.argument("carrier_id")
@click.option("--name", required=True, help="The company's name.")
@click.option("--ocn", "ocns", multiple=True, help="An OCN of theirs: OCN, OCN:FROM or OCN:FROM:TO (from today on).")
@click.pass_context
def carrier_add(ctx: click.Context, carrier_id: str, name: str, ocns: tuple[str, ...]) -> None:
    """Add a carrier under a short id of ours.

    Records of calls before an OCN's FROM are not the carrier's to see: give the day since which it is theirs.

    \b
    Example:
      tollgate carrier add carrier-a --name "Example Carrier A" --ocn 123A:2020-01-01
    """
    config = settings(ctx)
    ownership = tuple(_ocn_period(carrier_id, text) for text in ocns)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.add_carrier(conn, Carrier(carrier_id, name), ownership)

    run(work())
    _done(f"carrier {carrier_id} added" + (f", with {', '.join(o.ocn for o in ownership)}" if ownership else ""))


@carrier.command("list")
@json_option
@click.pass_context
def carrier_list(ctx: click.Context, as_json: bool) -> None:
    """List carriers and the OCNs that are, were and will be theirs."""
    config = settings(ctx)

    async def work() -> tuple[list[Carrier], list[OcnOwnership]]:
        async with _looking(config) as (registry, conn):
            return await registry.carriers(conn), await registry.ocns(conn)

    carriers, ocns = run(work())
    values = [{**asdict(c), "ocns": [_period(o) for o in ocns if o.carrier_id == c.carrier_id]} for c in carriers]
    rows = [(v["carrier_id"], v["name"], "\n".join(map(_written, v["ocns"])), v["disabled_at"]) for v in values]
    _show(as_json, "Carriers", ("carrier", "name", "OCNs (from, until before)", "disabled"), rows, values)


def _period(item: OcnOwnership) -> dict[str, Any]:
    return {"ocn": item.ocn, "from": item.valid_from, "to": item.valid_to}


def _written(period: dict[str, Any]) -> str:
    return f"{period['ocn']}  {period['from']} .. {period['to'] or ''}"


@carrier.command("disable")
@click.argument("carrier_id")
@_reason
@click.pass_context
def carrier_disable(ctx: click.Context, carrier_id: str, reason: str) -> None:
    """Disable a carrier: its clients and their tokens are dead at once."""
    config = settings(ctx)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.disable_carrier(conn, carrier_id, reason)

    run(work())
    _done(f"carrier {carrier_id} disabled")


@carrier.command("ocn")
@click.argument("carrier_id")
@click.argument("ocn")
@click.option("--from", "first", type=_DAY, help="First day (UTC) it is theirs; default today.")
@click.option("--to", "end", type=_DAY, help="First day (UTC) it is not theirs any more; default open.")
@click.option("--end", "ends", type=_DAY, help="End what is theirs before this day, instead of adding.")
@click.option("--reason", default="", help="With --end: why.")
@click.pass_context
def carrier_ocn(
    ctx: click.Context, carrier_id: str, ocn: str, first: date | None, end: date | None, ends: date | None, reason: str
) -> None:
    """Give a carrier an OCN from a day on, or (--end) take it away from a day on.

    \b
    Example, an OCN that moves from one carrier to another:
      tollgate carrier ocn carrier-a 123A --end 2026-01-01 --reason "sold"
      tollgate carrier ocn carrier-b 123A --from 2026-01-01
    """
    if ends is not None and (first is not None or end is not None):
        raise click.UsageError("--end goes without --from and --to")
    if ends is not None and not reason:
        raise click.UsageError("--end needs --reason")
    config = settings(ctx)
    code = check_ocn(ocn.upper())
    begins = first or _today()
    check_period(begins, end)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            if ends is not None:
                await registry.end_ocn(conn, carrier_id, code, ends, reason)
            else:
                await registry.add_ocn(conn, OcnOwnership(code, carrier_id, begins, end))

    run(work())
    _done(f"OCN {code} is {carrier_id}'s " + (f"until before {ends}" if ends else f"from {begins}"))


# --- agreements ----------------------------------------------------------------------------------------------------


@click.group()
def agreement() -> None:
    """Interconnection agreements. Without one in force a carrier's clients get no token."""


@agreement.command("add")
@click.argument("reference")
@click.option("--carrier", "carrier_id", required=True, help="The carrier's id.")
@click.option("--from", "first", type=_DAY, required=True, help="First day (UTC) it is in force.")
@click.option("--to", "end", type=_DAY, help="First day (UTC) it is not in force any more; default open.")
@click.option("--cpni-clause", required=True, help="Where it permits the exchange of records (47 U.S.C. 222(d)(1)).")
@click.pass_context
def agreement_add(
    ctx: click.Context, reference: str, carrier_id: str, first: date, end: date | None, cpni_clause: str
) -> None:
    """Add an agreement under its reference.

    \b
    Example:
      tollgate agreement add ICA-2026-001 --carrier carrier-a --from 2026-01-01 --cpni-clause "section 9"
    """
    config = settings(ctx)
    made = Agreement(reference, carrier_id, first, end, cpni_clause)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.add_agreement(conn, made)

    run(work())
    _done(f"agreement {reference} added, in force from {first}")


@agreement.command("list")
@click.option("--carrier", "carrier_id", help="Only this carrier's.")
@json_option
@click.pass_context
def agreement_list(ctx: click.Context, carrier_id: str | None, as_json: bool) -> None:
    """List agreements, ended ones too."""
    config = settings(ctx)

    async def work() -> list[Agreement]:
        async with _looking(config) as (registry, conn):
            return await registry.agreements(conn, carrier_id)

    found = run(work())
    rows = [(a.reference, a.carrier_id, a.in_force_from, a.in_force_to, a.cpni_clause, a.disabled_at) for a in found]
    columns = ("agreement", "carrier", "from", "until before", "CPNI clause", "disabled")
    _show(as_json, "Agreements", columns, rows, [asdict(a) for a in found])


@agreement.command("disable")
@click.argument("reference")
@_reason
@click.pass_context
def agreement_disable(ctx: click.Context, reference: str, reason: str) -> None:
    """End an agreement now: tokens issued under it are dead at once."""
    config = settings(ctx)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.disable_agreement(conn, reference, reason)

    run(work())
    _done(f"agreement {reference} disabled")


# --- clients -------------------------------------------------------------------------------------------------------


@click.group()
def client() -> None:
    """The carriers' API clients and their public keys."""


def _keys(path: Path) -> tuple[Any, ...]:
    if path.stat().st_size > _JWKS_MAX:
        raise CliError(f"{path} is no key file: it is larger than 64 KiB", ExitCode.BAD_INPUT)
    try:
        return tuple(key_set(path.read_bytes()))
    except JwkError as error:
        hint = "give a JWK or a JWK Set; `tollgate pull keygen` prints one"
        raise CliError(f"{path}: {error}", ExitCode.BAD_INPUT, hint) from error


@client.command("add")
@click.argument("client_id")
@click.option("--carrier", "carrier_id", required=True, help="The carrier's id.")
@click.option("--jwks", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
              help="File with its public key (JWK) or keys (JWK Set).")  # fmt: skip
@click.option("--network", "networks", multiple=True, required=True, help="Where it may come from (CIDR); repeatable.")
@click.option("--requests-per-minute", type=click.IntRange(1), default=REQUESTS_PER_MINUTE, show_default=True)
@click.option("--rows-per-day", type=click.IntRange(1), default=ROWS_PER_DAY, show_default=True)
@click.pass_context
def client_add(
    ctx: click.Context,
    client_id: str,
    carrier_id: str,
    jwks: Path,
    networks: tuple[str, ...],
    requests_per_minute: int,
    rows_per_day: int,
) -> None:
    """Add a carrier's API client with its public keys. Never send or store a private key.

    \b
    Example:
      tollgate client add billing-a --carrier carrier-a --jwks billing-a.jwk --network 192.0.2.0/24
    """
    config = settings(ctx)
    made = Client(client_id, carrier_id, _keys(jwks), parse_networks(networks), requests_per_minute, rows_per_day)

    async def work() -> list[str]:
        async with _changing(config) as (registry, conn):
            return [f"{key.kid} ({key.public.alg})" for key in await registry.add_client(conn, made)]

    _done(f"client {client_id} added, with key {', '.join(run(work()))}")


@client.command("list")
@click.option("--carrier", "carrier_id", help="Only this carrier's.")
@json_option
@click.pass_context
def client_list(ctx: click.Context, carrier_id: str | None, as_json: bool) -> None:
    """List clients with their live keys, disabled clients too."""
    config = settings(ctx)

    async def work() -> list[Client]:
        async with _looking(config) as (registry, conn):
            return await registry.clients(conn, carrier_id)

    found = run(work())
    rows = [
        (
            c.client_id,
            c.carrier_id,
            "\n".join(f"{k['kid']} {k['alg']}" for k in c.jwks),
            "\n".join(map(str, c.networks)),
            f"{c.requests_per_minute:,}/min\n{c.rows_per_day:,} rows/day",
            c.disabled_at,
        )
        for c in found
    ]
    columns = ("client", "carrier", "keys", "networks", "limits", "disabled")

    values = [
        {
            "client_id": c.client_id,
            "carrier_id": c.carrier_id,
            "jwks": list(c.jwks),
            "networks": [str(n) for n in c.networks],
            "requests_per_minute": c.requests_per_minute,
            "rows_per_day": c.rows_per_day,
            "disabled_at": c.disabled_at,
        }
        for c in found
    ]
    _show(as_json, "Clients", columns, rows, values)


@client.command("disable")
@click.argument("client_id")
@_reason
@click.pass_context
def client_disable(ctx: click.Context, client_id: str, reason: str) -> None:
    """Disable a client and its keys: it and its tokens are dead at once."""
    config = settings(ctx)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.disable_client(conn, client_id, reason)

    run(work())
    _done(f"client {client_id} disabled")


@client.group("key")
def client_key() -> None:
    """A client's public keys: the next one before the old one goes."""


@client_key.command("add")
@click.argument("client_id")
@click.option("--jwks", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
              help="File with the public key (JWK).")  # fmt: skip
@click.pass_context
def client_key_add(ctx: click.Context, client_id: str, jwks: Path) -> None:
    """Register a further public key of a client."""
    config = settings(ctx)
    keys = _keys(jwks)
    if len(keys) != 1:
        raise CliError(f"{jwks} holds {len(keys)} keys: give one", ExitCode.BAD_INPUT)

    async def work() -> str:
        async with _changing(config) as (registry, conn):
            return (await registry.add_key(conn, client_id, keys[0])).kid

    _done(f"key {run(work())} of {client_id} added")


@client_key.command("disable")
@click.argument("client_id")
@click.argument("kid")
@_reason
@click.pass_context
def client_key_disable(ctx: click.Context, client_id: str, kid: str, reason: str) -> None:
    """Disable a key: what it signs, and tokens it was used to get, are dead at once."""
    config = settings(ctx)

    async def work() -> None:
        async with _changing(config) as (registry, conn):
            await registry.disable_key(conn, client_id, kid, reason)

    run(work())
    _done(f"key {kid} of {client_id} disabled")
