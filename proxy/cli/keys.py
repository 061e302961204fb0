"""`tollgate keys`: see how the keyring stands, back it up, put a backup back, check that it opens the database."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from keys.audit import Finding, State, audit
from keys.backup import PASSPHRASE_MIN, Restored, make_backup, open_backup, record_backup
from keys.backup import restore as put_back
from keys.errors import BackupError, KeyringError
from keys.keyring import Keyring, sync_directory
from keys.provider import Period
from keys.ring import Ring
from proxy.cli.common import CliError, ExitCode, connect, console, emit, json_option, run, settings
from proxy.cli.rotation import rotate
from proxy.cli.shred import shred
from proxy.config import Config

_LOSS = (
    "Without the keyring every record is lost: the database holds only what the keyring opens, and nobody can make"
    " the keys again. Keep a backup away from this machine and away from the database's backups, and its passphrase"
    " away from both."
)


@click.group("keys")
def group() -> None:
    """Back up, restore and verify the keyring; rotate keys; shred months.

    WITHOUT THE KEYRING EVERY RECORD IS LOST. The database holds only what the keyring opens, and nobody can make the
    keys again. New keys are made every month: back up every month, and after `tollgate init`. Keep the backup away
    from this machine and away from the database's backups (who has both has the records), and its passphrase away
    from both.
    """


keys = group
group.add_command(rotate)
group.add_command(shred)


def _passphrase_option(command: Any) -> Any:
    return click.option(
        "--passphrase-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File (mode 0600) whose first line is the passphrase. Default: ask for it.",
    )(command)


# --- status --------------------------------------------------------------------------------------------------------


@group.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show what the keyring holds and whether it is backed up. Shows no key."""
    config = settings(ctx, database=False)
    ring = _keyring(config).read()
    current = ring.backup is not None and ring.backup.generation == ring.generation
    if as_json:
        emit(
            {
                "directory": str(config.keyring_dir),
                "keyring": ring.ring_id,
                "generation": ring.generation,
                "root_key": ring.root.key_id.hex(),
                "periods": [_described(p) for p in sorted(ring.live)],
                "destroyed": [{**_described(p), "at": at.isoformat()} for p, at in sorted(ring.destroyed.items())],
                "secrets": sorted(ring.secrets),
                "signing": [
                    {"purpose": e.purpose, "kid": e.kid, "alg": e.alg, "current": e.keep_until is None}
                    for e in ring.signing
                ],
                "backup": {"at": ring.backup.at.isoformat(), "generation": ring.backup.generation}
                if ring.backup
                else None,
                "backup_is_current": current,
            }
        )
        return
    click.echo(f"keyring {ring.ring_id} in {config.keyring_dir}, generation {ring.generation}")
    for line in _by_class(ring):
        click.echo("  " + line)
    for entry in ring.signing:
        until = f"published until {entry.keep_until:%Y-%m-%d %H:%M}Z" if entry.keep_until else "current"
        click.echo(f"  signing {entry.purpose}: {entry.alg} {entry.kid} ({until})")
    if ring.backup is None:
        console.print("never backed up", style="bold red")
    elif not current:
        console.print(f"changed since its last backup ({ring.backup.at:%Y-%m-%d %H:%M}Z)", style="bold yellow")
    else:
        click.echo(f"backed up {ring.backup.at:%Y-%m-%d %H:%M}Z, unchanged since")
    if not current:
        console.print(_LOSS, style="yellow")
        console.print("  tollgate keys backup FILE", markup=False)


def _by_class(ring: Ring) -> list[str]:
    lines = []
    for name in sorted({p.key_class for p in ring.periods}):
        months = sorted(p.month for p in ring.live if p.key_class == name)
        gone = sum(p.key_class == name for p in ring.destroyed)
        held = f"{len(months)} months, {months[0]} to {months[-1]}" if months else "no months"
        lines.append(f"{name}: {held}" + (f", {gone} destroyed" if gone else ""))
    return lines


# --- backup --------------------------------------------------------------------------------------------------------


@group.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_passphrase_option
@json_option
@click.pass_context
def backup(ctx: click.Context, file: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Write the whole keyring to FILE, encrypted under a passphrase of at least 12 characters.

    FILE is made with mode 0600 and never overwritten. Check it with `tollgate keys verify FILE`, then take it away
    from this machine. A destroyed period is gone only when every backup made before is gone too: do not keep them
    for ever.
    """
    config = settings(ctx, database=False)
    keyring = _keyring(config)
    ring = keyring.read()
    passphrase = _passphrase(passphrase_file, confirm=True)
    if len(passphrase) < PASSPHRASE_MIN:
        raise CliError(f"the passphrase must have at least {PASSPHRASE_MIN} characters", ExitCode.USAGE)
    now = datetime.now(UTC)
    _write_new(file, make_backup(ring, passphrase, now))
    # Dying here leaves a good backup that `status` does not know of.
    record_backup(keyring, ring.generation, now)
    if as_json:
        emit({"file": str(file), "keyring": ring.ring_id, "generation": ring.generation, "periods": len(ring.live)})
        return
    click.echo(f"{file}: keyring {ring.ring_id}, generation {ring.generation}, {len(ring.live)} period keys")
    console.print(_LOSS, style="yellow")
    console.print(f"check it:  tollgate keys verify {file}", markup=False)


def _write_new(file: Path, data: bytes) -> None:
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CliError(f"{file} exists: a backup is never overwritten", ExitCode.REFUSED, "name a new file") from None
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}", ExitCode.CONFIGURATION) from error
    try:
        with open(fd, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        sync_directory(file.absolute().parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        raise CliError(f"{file} cannot be written: {error.strerror}", ExitCode.UNAVAILABLE) from error


# --- restore -------------------------------------------------------------------------------------------------------


@group.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace a keyring that is there; a copy of it is kept beside it.")
@_passphrase_option
@json_option
@click.pass_context
def restore(ctx: click.Context, file: Path, force: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Put the keyring in FILE back.

    An existing keyring is never overwritten without --force, and then its files are kept in a directory beside them.
    Keys made after the backup are not in it: WHAT WAS SEALED UNDER THEM IS LOST unless the old keyring still has
    them. Run `tollgate keys verify` afterwards: it names every month that does not open, and every destroyed one
    that came back.
    """
    config = settings(ctx, database=False)
    ring = _opened(file, passphrase_file)
    try:
        done = put_back(config.keyring_dir, ring, datetime.now(UTC), force=force)
    except KeyringError as error:
        raise CliError(str(error), ExitCode.REFUSED) from error
    if as_json:
        emit(
            {
                "keyring": done.ring.ring_id,
                "generation": done.ring.generation,
                "periods": len(done.ring.live),
                "kept": str(done.kept) if done.kept else None,
                "lost": [_described(p) for p in sorted(done.lost)],
                "still_destroyed": [_described(p) for p in sorted(done.still_destroyed)],
            }
        )
    else:
        _tell_restored(config, done)
    if done.lost:
        ctx.exit(ExitCode.REFUSED)


def _tell_restored(config: Config, done: Restored) -> None:
    click.echo(f"keyring {done.ring.ring_id} is back in {config.keyring_dir}: {len(done.ring.live)} period keys")
    if done.kept:
        console.print(f"the keyring that was there is kept in {done.kept}", markup=False)
    if done.still_destroyed:
        listed = _listed(done.still_destroyed)
        console.print(f"stay destroyed, though the backup has their keys: {listed}", markup=False)
    if done.lost:
        console.print(
            f"LOST WITH THE REPLACED KEYRING: {_listed(done.lost)}. The backup is older than these keys; what was"
            " sealed under them opens only with the kept copy.",
            style="bold red",
            markup=False,
        )
    console.print("check it:  tollgate keys verify", markup=False)


# --- verify --------------------------------------------------------------------------------------------------------


@group.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--no-database", is_flag=True, help="Check only that the keyring, or the backup FILE, is whole.")
@_passphrase_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, file: Path | None, no_database: bool, passphrase_file: Path | None, as_json: bool
) -> None:
    """Check that the keyring, or the backup FILE, opens every data key in the database.

    Ends with 0 only if all do, or are destroyed on purpose. Names every period that is missing from the keyring
    (ITS RECORDS ARE LOST unless a backup has the key), broken, or destroyed and back because an older keyring was
    restored. Changes nothing.
    """
    config = settings(ctx, database=not no_database)
    live = _live(config, required=file is None)
    ring = _opened(file, passphrase_file) if file is not None else live
    assert ring is not None
    try:
        ring.check()
    except KeyringError as error:
        raise CliError(str(error), ExitCode.REFUSED) from error
    elsewhere = live.destroyed if file is not None and live is not None else {}
    findings = _returned(ring, elsewhere) if no_database else run(_audit(config, ring, elsewhere))
    bad = [f for f in findings if not f.state.good]
    counts = Counter(f.state.value for f in findings)
    if as_json:
        emit(
            {
                "keyring": ring.ring_id,
                "generation": ring.generation,
                "file": str(file) if file else None,
                "database": not no_database,
                "counts": {state.value: counts[state.value] for state in State},
                "findings": [{**_described(f.period), "state": f.state, "detail": f.detail} for f in bad],
                "ok": not bad,
            }
        )
    else:
        _tell_verified(file, ring, no_database, counts, bad)
    if bad:
        ctx.exit(ExitCode.REFUSED)


async def _audit(config: Config, ring: Ring, elsewhere: Iterable[Period]) -> list[Finding]:
    async with connect(config) as conn:
        return await audit(conn, ring, frozenset(elsewhere))


def _returned(ring: Ring, elsewhere: Iterable[Period]) -> list[Finding]:
    return [Finding(p, State.RETURNED, "destroyed in the keyring in use") for p in sorted(set(elsewhere) & ring.live)]


def _tell_verified(file: Path | None, ring: Ring, no_database: bool, counts: Counter[str], bad: list[Finding]) -> None:
    what = f"the backup {file}" if file else "the keyring"
    click.echo(f"{what} ({ring.ring_id}, generation {ring.generation}) is whole: {len(ring.live)} period keys")
    if not no_database:
        opens, destroyed = counts[State.OPENS], counts[State.DESTROYED]
        click.echo(f"data keys in the database: {opens} open, {destroyed} destroyed on purpose")
    if not bad:
        return
    table = Table("period", "state", "why", title="NOT AS IT SHOULD BE", title_style="bold red")
    for finding in bad:
        table.add_row(str(finding.period), f"[red]{finding.state}[/]", escape(finding.detail))
    console.print(table)
    if counts[State.MISSING] or counts[State.BROKEN]:
        console.print(
            "THE RECORDS OF THESE CLASSES AND MONTHS OPEN FOR NOBODY. Look for a backup that has their keys with"
            " `tollgate keys verify FILE`, and put it back with `tollgate keys restore`.",
            style="bold red",
        )
    if counts[State.RETURNED]:
        console.print("Destroyed keys are back: an older keyring was restored. Destroy them again.", style="red")


# --- shared --------------------------------------------------------------------------------------------------------


def _keyring(config: Config) -> Keyring:
    try:
        return Keyring(config.keyring_dir)
    except KeyringError as error:
        raise CliError(str(error), ExitCode.CONFIGURATION) from error


def _live(config: Config, *, required: bool) -> Ring | None:
    try:
        return _keyring(config).read()
    except CliError:
        if required:
            raise
        return None


def _opened(file: Path, passphrase_file: Path | None) -> Ring:
    data = file.read_bytes()
    passphrase = _passphrase(passphrase_file, confirm=False)
    try:
        return open_backup(data, passphrase)
    except BackupError as error:
        raise CliError(f"{file}: {error}", ExitCode.BAD_INPUT) from error


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise CliError("no passphrase", ExitCode.USAGE, "name a file that holds it with --passphrase-file")
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    with open(file, encoding="utf-8") as handle:
        mode = os.fstat(handle.fileno()).st_mode
        # A pipe (`--passphrase-file <(pass show tollgate)`) has no mode to speak of.
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
            raise CliError(f"{file} can be read by others", ExitCode.CONFIGURATION, f"chmod 0600 {file}")
        try:
            text = handle.readline().rstrip("\r\n")
        except UnicodeDecodeError:
            raise CliError(f"{file} is not UTF-8 text", ExitCode.BAD_INPUT) from None
    if not text:
        raise CliError(f"{file}: its first line is empty", ExitCode.BAD_INPUT)
    return text


def _described(period: Period) -> dict[str, Any]:
    return {"class": period.key_class, "month": period.month}


def _listed(periods: Iterable[Period]) -> str:
    return ", ".join(str(p) for p in sorted(periods))
