"""`tollgate login`, `logout`, `whoami`: a member of staff and the session of their commands."""

from __future__ import annotations

import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from proxy.cli.common import CliError, ExitCode, console, emit, home_of, json_option, printable, run
from proxy.client import keys, login, staff
from proxy.client.session import ClientError
from proxy.client.staff import Kept, StaffSession
from proxy.config import load

_TOKEN_MAX = 64 * 1024


@click.command("login")
@click.option("--issuer", envvar="TOLLGATE_ISSUER", help="The gateway's issuer; default: the one of --home.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar="TOLLGATE_CA",
              help="Certificates that the gateway's is verified with; default: the system's.")  # fmt: skip
@click.option("--provider-ca", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              envvar="TOLLGATE_PROVIDER_CA", help="The same for the OpenID provider's.")  # fmt: skip
@click.option("--client-secret", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with the client secret, where the provider gives programs one.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the redirect; default: a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address; open it in a browser on this machine.")
@click.option("--nonce", "only_nonce", is_flag=True, help="Make the session's key and print the nonce for an ID token.")
@click.option("--assertion", metavar="FILE", help="Take this ID token, got otherwise for that nonce; - reads stdin.")
@click.pass_context
def sign_in(
    ctx: click.Context,
    issuer: str | None,
    ca: Path | None,
    provider_ca: Path | None,
    client_secret: Path | None,
    port: int,
    no_browser: bool,
    only_nonce: bool,
    assertion: str | None,
) -> None:
    """Sign in at the company's OpenID provider.

    The session is kept in one file (0600) under TOLLGATE_SESSION, or ~/.config/tollgate, for as long as the provider's
    ID token lasts. Every staff command uses it.

    \b
    Examples:
      tollgate login --issuer https://tollgate.carrier.example
      tollgate login --nonce                     (then have an ID token made for this nonce)
      tollgate login --assertion id-token.jwt
    """
    if only_nonce and assertion is not None:
        raise click.UsageError("say either --nonce or --assertion")
    home = staff.session_home()
    where = issuer or load(home_of(ctx)).issuer
    if only_nonce:
        fresh = Kept(where, _absolute(ca), keys.generate())
        staff.save(home, fresh)
        click.echo(fresh.key.kid)
        return
    if assertion is not None:
        waiting = staff.load(home)
        kept = replace(waiting, id_token=_read(assertion), token="", token_until=0.0)
    else:
        kept = Kept(where, _absolute(ca), keys.generate())
        secret = client_secret.read_text().strip() if client_secret else ""
        kept = replace(kept, id_token=run(_browser(kept, provider_ca, port, secret, no_browser)))
    told = run(_check(home, kept))
    staff.save(home, told[0])
    console.print(f"signed in as {printable(told[1])}", markup=False)


async def _browser(kept: Kept, provider_ca: Path | None, port: int, secret: str, no_browser: bool) -> str:
    provider = await login.sign_in_of(kept.issuer, Path(kept.ca) if kept.ca else None)

    def show(address: str) -> None:
        console.print("Open this in a browser on this machine:\n" + printable(address), markup=False)
        if not no_browser:
            webbrowser.open(address)

    return await login.id_token(provider, kept.key, ca=provider_ca, show=show, port=port, secret=secret)


async def _check(home: Path, kept: Kept) -> tuple[Kept, str]:
    """Exchange the ID token for the first time: what is not taken is not kept."""
    async with StaffSession(home, kept) as session:
        me = (await session.request("GET", "/v1/staff/me")).json
        return session.kept, f"{me['staff_id']} ({', '.join(me['granted'])}); trained until {me['training_due']}"


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.absolute())


def _read(name: str) -> str:
    if name == "-":
        text = sys.stdin.read(_TOKEN_MAX)
    else:
        with Path(name).open(encoding="ascii", errors="replace") as file:
            text = file.read(_TOKEN_MAX)
    if not (token := text.strip()):
        raise CliError("there is no ID token in that", ExitCode.BAD_INPUT)
    return token


@click.command("logout")
def sign_out() -> None:
    """Revoke the token and remove the session, key and all."""
    home = staff.session_home()

    async def revoke() -> None:
        async with StaffSession.open(home) as session:
            await session.request("DELETE", "/v1/staff/me/token")

    try:
        kept = staff.load(home)
        if kept.id_token and kept.token:
            run(revoke())
    except ClientError as error:
        # Gone from here all the same: without the key the token is worth nothing to anybody, and ends by itself.
        console.print(f"the token was not revoked: {printable(str(error))}", markup=False)
    console.print("signed out" if staff.forget(home) else "nobody was signed in here", markup=False)


@click.command("whoami")
@json_option
def who_am_i(as_json: bool) -> None:
    """Say who is signed in here, in which roles, and until when they are trained."""

    async def ask() -> Any:
        async with StaffSession.open() as session:
            return (await session.request("GET", "/v1/staff/me")).json

    me = run(ask())
    if as_json:
        emit(me)
        return
    lines = [
        f"{me['staff_id']}  {me['name']}" + (f", {me['title']}" if me["title"] else ""),
        f"roles      {', '.join(me['granted'])}",
        f"trained    {me['trained_on']}, due again by {me['training_due']}",
    ]
    click.echo("\n".join(map(printable, lines)))
