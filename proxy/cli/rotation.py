"""`tollgate keys rotate`: new keys in place of old ones, without touching what they protect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import click

from keys.signing import SigningKeys
from proxy.cli.common import emit, json_option, ledger, operator, provider, run, settings
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, Tag, new_id

TOKEN, LOG, PRODUCTION = "token", "log", "production"
"""The purposes of signing keys."""
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)


@click.group("rotate")
def rotate() -> None:
    """Put a new key in place of an old one. Entered in the access log, before and after.

    No rotation touches a record: the root key only wraps the keyring's own keys, and a signing key only signs.
    """


@rotate.command("root")
@json_option
@click.pass_context
def root(ctx: click.Context, as_json: bool) -> None:
    """Wrap the whole keyring under a fresh root key.

    Do it after a period was destroyed (old blocks of the disk may still hold the old root key), and whenever somebody
    who could read the keyring's directory has left. Then back up: older backups open without the new root key.
    """
    run(_rotate_root(settings(ctx)))
    if as_json:
        emit({"rotated": "root"})
        return
    click.echo("the keyring is wrapped under a fresh root key; back it up:  tollgate keys backup FILE")


@rotate.command("token")
@click.option("--alg", type=click.Choice(["ES256", "EdDSA"]), help="Algorithm of the new key; default: ES256.")
@json_option
@click.pass_context
def token(ctx: click.Context, alg: str | None, as_json: bool) -> None:
    """Sign access tokens with a fresh key from now on.

    The old key signs nothing more; its public half stays at /.well-known/jwks.json until every token it signed has run
    out (RFC 7517 s.4.5 kid). Gateways take up the new key by themselves.
    """
    config = settings(ctx)
    # Twice a token's life: one may have been signed by a gateway that had not seen the change yet.
    until = datetime.now(UTC) + timedelta(seconds=2 * config.token_ttl_s + 2 * config.clock_skew_s)
    old, new = run(_rotate_signing(config, TOKEN, alg, until))
    if as_json:
        emit({"rotated": TOKEN, "kid": new, "replaced": old, "published_until": until.isoformat()})
        return
    click.echo(f"tokens are signed with key {new}; {old} stays published until {until:%Y-%m-%d %H:%M:%S} UTC")


@rotate.command("log")
@json_option
@click.pass_context
def log_key(ctx: click.Context, as_json: bool) -> None:
    """Sign the access log's checkpoints with a fresh key from now on.

    The old key signs nothing more; its public half is kept for ever, because old checkpoints and receipts are checked
    with it. First give the new key (`tollgate log key`) to your witnesses and to whoever checks receipts: until they
    know it they refuse what it signs.
    """
    old, new = run(_rotate_signing(settings(ctx), LOG, None, FOR_EVER))
    if as_json:
        emit({"rotated": LOG, "kid": new, "replaced": old})
        return
    click.echo(f"checkpoints are signed with key {new}; {old} is kept to check what it signed")
    click.echo("give the new key to witnesses and auditors:  tollgate log key")


@rotate.command("production")
@json_option
@click.pass_context
def production_key(ctx: click.Context, as_json: bool) -> None:
    """Sign the manifests of productions with a fresh key from now on.

    The old key signs nothing more; its public half is kept for ever, because old productions are verified with it.
    Publish the new key (`tollgate production key`) where recipients find the old one.
    """
    old, new = run(_rotate_signing(settings(ctx), PRODUCTION, None, FOR_EVER))
    if as_json:
        emit({"rotated": PRODUCTION, "kid": new, "replaced": old})
        return
    click.echo(f"productions are signed with key {new}; {old} is kept to verify what it signed")
    click.echo("publish the new key for whoever receives productions:  tollgate production key")


async def _rotate_root(config: Config) -> None:
    keys = provider(config)
    async with ledger(config) as log:
        change = new_id()
        await log.append(_entry(change, {"what": "root key", "action": "rotate"}, {}))
        await keys.rotate_root()
        await log.append(_entry(change, {"what": "root key", "action": "rotate"}, {"state": "done"}))


async def _rotate_signing(config: Config, purpose: str, alg: str | None, until: datetime) -> tuple[str, str]:
    provider(config)
    async with ledger(config) as log:
        keys = await asyncio.to_thread(SigningKeys, config.keyring_dir)
        old = (await asyncio.to_thread(keys.current, purpose)).kid
        change = new_id()
        asked = {"what": f"{purpose} signing key", "action": "rotate", "kid": old}
        await log.append(_entry(change, asked, {}))
        made = await asyncio.to_thread(lambda: keys.rotate(purpose, alg, keep_until=until))
        await log.append(_entry(change, asked, {"state": "done", "kid": made.kid}))
    return old, made.kid


def _entry(change: UUID, request: Mapping[str, str], outcome: Mapping[str, str]) -> Entry:
    name = operator()
    tags = (Tag("staff", name.encode()),)
    return Entry(Kind.KEYS_CHANGE, {"os_user": name}, request, outcome, access_id=change, tags=tags)
