"""`tollgate init`: make a home. Run twice it changes nothing and says so; broken off, the next run finishes it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import click
from rich.markup import escape

from proxy.cli import embedded, tls
from proxy.cli.common import CliError, ExitCode, connect, console, emit, home_of, json_option, run
from proxy.config import Config, load
from schema.migrate import migrate
from schema.roles import create_roles, new_passwords

_OLDEST = 150000
_OWN_TLS = tuple(f.default for f in dataclasses.fields(Config) if f.name in ("tls_cert", "tls_key"))


def settings_file(values: dict[str, Any]) -> str:
    """Return a tollgate.toml in which every setting stands with its meaning, and only ``values`` are in force."""
    lines = [
        "# Settings of Tollgate. A line that begins with # shows a default. TOLLGATE_<NAME> in the environment wins."
    ]
    for field in dataclasses.fields(Config):
        if field.name == "home":
            continue
        value = values.get(field.name, field.default)
        mark = "" if field.name in values else "# "
        # A JSON string or number is also a TOML one.
        lines += ["", f"# {field.metadata['doc']}", f"{mark}{field.name} = {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


class _Steps:
    """What was made and what was there already, for the person and for --json."""

    def __init__(self, quiet: bool) -> None:
        self.done: list[dict[str, str]] = []
        self._quiet = quiet

    def note(self, what: str, state: str, detail: str = "") -> None:
        self.done.append({"what": what, "state": state, "detail": detail})
        if not self._quiet:
            colour = "green" if state == "made" else "dim"
            console.print(f"[{colour}]{state:>8}[/]  {what}" + (f"  [dim]{escape(detail)}[/]" if detail else ""))


def _home(path: Path, steps: _Steps) -> None:
    made = not path.exists()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise CliError(f"{path} is a file", ExitCode.CONFIGURATION, "name another directory with --home") from None
    if not made and path.stat().st_mode & 0o066:
        raise CliError(
            f"others may read or write {path}", ExitCode.CONFIGURATION, f"keys live there: chmod 0700 {path}"
        )
    steps.note("home", "made" if made else "there", str(path))


def _settings(home: Path, wanted: dict[str, Any], steps: _Steps) -> None:
    file = home / "tollgate.toml"
    if file.exists():
        present = load(home, environ={})
        for name, value in wanted.items():
            if getattr(present, name) != value:
                raise CliError(
                    f"{file} is there already and says otherwise about {name}",
                    ExitCode.CONFIGURATION,
                    f"edit {name} in that file",
                )
        steps.note("settings", "there", str(file))
        return
    tls.write_private(file, settings_file(wanted).encode())
    steps.note("settings", "made", str(file))


def _keyring(config: Config, steps: _Steps) -> None:
    from keys.file_provider import FileProvider

    if config.keyring_dir.exists():
        FileProvider(config.keyring_dir)  # refuses one that others may read
        steps.note("keyring", "there", str(config.keyring_dir))
        return
    FileProvider.create(config.keyring_dir)
    steps.note("keyring", "made", f"{config.keyring_dir} (back it up: without it the records cannot be read)")


def _certificate(config: Config, steps: _Steps) -> None:
    certificate, key = config.path(config.tls_cert), config.path(config.tls_key)
    if certificate.exists() and key.exists():
        steps.note("certificate", "there", str(certificate))
        return
    if (config.tls_cert, config.tls_key) != _OWN_TLS:
        missing = certificate if not certificate.exists() else key
        raise CliError(f"no such file: {missing}", ExitCode.CONFIGURATION, "correct tls_cert and tls_key")
    folder = config.path("tls")
    for name in ("server.key", "ca.pem", "server.pem"):  # a run broken off half way
        (folder / name).unlink(missing_ok=True)
    tls.make(folder, urlsplit(config.issuer).hostname or "", datetime.datetime.now(datetime.UTC))
    steps.note("certificate", "made", f"{certificate} (for trying out; clients trust {folder / 'ca.pem'})")


def _passwords(config: Config, steps: _Steps) -> dict[str, str]:
    file = config.roles_file
    if file.exists():
        if file.stat().st_mode & 0o077:
            raise CliError(f"others may read {file}", ExitCode.CONFIGURATION, f"chmod 0600 {file}")
        passwords = {str(k): str(v) for k, v in json.loads(file.read_text()).items()}
        missing = {role: word for role, word in new_passwords().items() if role not in passwords}
        if not missing:
            steps.note("passwords", "there", str(file))
            return passwords
        # A newer version knows more roles. Replaced as a whole, so that dying here leaves the old file.
        passwords |= missing
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        tls.write_private(fresh, json.dumps(passwords, indent=1).encode())
        fresh.replace(file)
        steps.note("passwords", "made", f"{file} ({len(missing)} new)")
        return passwords
    passwords = new_passwords()
    tls.write_private(file, json.dumps(passwords, indent=1).encode())
    steps.note("passwords", "made", str(file))
    return passwords


async def _database(config: Config, passwords: dict[str, str], steps: _Steps) -> None:
    async with connect(config) as conn:
        version = int(await conn.fetchval("SELECT current_setting('server_version_num')"))
        shown = await conn.fetchval("SELECT current_setting('server_version')")
        if version < _OLDEST:
            raise CliError(f"PostgreSQL {shown} is too old", ExitCode.CONFIGURATION, "Tollgate needs 15 or later")
        await _check_owner(conn)
        await create_roles(conn, passwords)
        applied = await migrate(conn)
    steps.note("database", "made" if applied else "there", f"PostgreSQL {shown}, {len(applied)} migrations applied")


async def _check_owner(conn: asyncpg.Connection) -> None:
    row = await conn.fetchrow(
        "SELECT rolname, rolsuper OR rolcreaterole AS may,"
        " has_database_privilege(current_database(), 'CREATE') AS makes FROM pg_roles WHERE rolname = current_user"
    )
    if not row["may"] or not row["makes"]:
        raise CliError(
            f"the database role {row['rolname']} may not create roles and schemas",
            ExitCode.CONFIGURATION,
            f'as an administrator: ALTER ROLE "{row["rolname"]}" CREATEROLE; and make it the owner of the database',
        )


@click.command()
@click.option("--database-url", help="postgresql:// URL of a PostgreSQL >= 15, as owner; default: an embedded one.")
@click.option("--issuer", help="URL by which clients reach the gateway; default https://localhost:8443.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the API; default 8443.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Port of metrics and health; default 9464.")
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate chain, PEM."
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its private key, PEM.")
@json_option
@click.pass_context
def init(
    ctx: click.Context,
    database_url: str | None,
    issuer: str | None,
    port: int | None,
    metrics_port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Make a home: settings, keyring, passwords, certificate, database.

    Safe to run again: what is there is kept.

    \b
    Examples:
      tollgate init
      tollgate --home /etc/tollgate init --issuer https://cdr.example.net \\
          --database-url postgresql://tollgate_owner@db.example.net/tollgate
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    asked = {
        "database_url": database_url,
        "issuer": issuer,
        "listen_port": port,
        "metrics_port": metrics_port,
        "tls_cert": str(tls_cert.absolute()) if tls_cert else None,
        "tls_key": str(tls_key.absolute()) if tls_key else None,
    }
    wanted = {name: value for name, value in asked.items() if value is not None}
    if issuer is not None and (urlsplit(issuer).scheme != "https" or urlsplit(issuer).query or issuer.endswith("/")):
        raise click.UsageError("--issuer is an https:// URL without a query and without a slash at its end (RFC 8414)")
    steps = _Steps(quiet=as_json)
    home = load(home_of(ctx)).home
    _home(home, steps)
    _settings(home, wanted, steps)
    config = load(home)
    _keyring(config, steps)
    _certificate(config, steps)
    passwords = _passwords(config, steps)
    if not config.database_url:
        server = embedded.use(home)
        ctx.find_root().call_on_close(server.release)
        config = dataclasses.replace(config, database_url=server.url)
    run(_database(config, passwords, steps))
    if as_json:
        emit({"home": str(home), "issuer": config.issuer, "steps": steps.done})
        return
    console.print("\nReady. Next: name two operators (`tollgate staff bootstrap --help`), then `tollgate serve`.")
