"""What commands share: settings, connections, who runs them, how an error ends (message, hint, exit code), output.

People read stderr; stdout holds only what was asked for, so that it can be piped.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import click
from rich.console import Console

from proxy.config import Config, ConfigError, load
from proxy.logs import frames
from schema.migrate import MigrationError

if TYPE_CHECKING:
    from keys.file_provider import FileProvider
    from proxy.ledger.service import Ledger

T = TypeVar("T")

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""For people: progress, messages, errors. Markup in typed-in text must be escaped (rich.markup.escape)."""

CONNECT_TIMEOUT_S = 10.0

_UNSAFE = re.compile(
    r"[^\x20-\x7e\u00a1-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]|[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNAVAILABLE = 4
    BAD_INPUT = 5
    UNPROVEN = 6
    DEFECT = 70


class CliError(Exception):
    """The command ends here: what is wrong, the exit code, and what to do about it."""

    def __init__(self, message: str, exit_code: int = ExitCode.REFUSED, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = int(exit_code)
        self.hint = hint


# Errors of parts that a command may not have imported, by module and name: exit code and hint.
_KNOWN: tuple[tuple[str, str, ExitCode, str], ...] = (
    ("proxy.ledger.model", "LedgerUnavailable", ExitCode.UNAVAILABLE, "nothing was disclosed or changed; try again"),
    ("schema.roles", "RoleError", ExitCode.CONFIGURATION, ""),
    ("proxy.registry.model", "RegistryError", ExitCode.REFUSED, ""),
    ("proxy.staff.model", "StaffError", ExitCode.REFUSED, ""),
    ("proxy.store.writer", "StoreDamagedError", ExitCode.REFUSED, "nothing was changed; restore the store"),
    ("proxy.formats.source", "SourceError", ExitCode.BAD_INPUT, ""),
    ("proxy.formats.profile", "ProfileError", ExitCode.CONFIGURATION, ""),
    ("proxy.witness.state", "StateError", ExitCode.CONFIGURATION, ""),
    ("keys.errors", "KeyUnavailable", ExitCode.UNAVAILABLE, "see `tollgate keys verify`"),
    ("keys.errors", "KeysError", ExitCode.CONFIGURATION, "see `tollgate keys verify`"),
)


def explain(error: BaseException) -> CliError | None:
    """Return what an exception means for the person at the terminal; None for a defect of ours."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, ConfigError):
        return CliError(str(error), ExitCode.CONFIGURATION)
    if isinstance(error, MigrationError):
        return CliError(str(error), ExitCode.CONFIGURATION, "see `tollgate db status`")
    if isinstance(error, (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        return CliError(
            f"the database refused the login: {error}",
            ExitCode.CONFIGURATION,
            "run `tollgate init` again: it sets the roles' passwords from roles.json",
        )
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return CliError(str(error), ExitCode.CONFIGURATION, "create the database, or correct TOLLGATE_DATABASE_URL")
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)):
        return CliError(f"the database lacks a table: {error}", ExitCode.CONFIGURATION, "run `tollgate db migrate`")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return CliError(f"the database refused: {error}", ExitCode.CONFIGURATION)
    for module, name, code, hint in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return CliError(str(error), code, hint)
    if (client := sys.modules.get("proxy.client.session")) is not None and isinstance(error, client.ClientError):
        return _of_client(error, client)
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InternalClientError,  # the driver's own word where a session ends between two of its states
    )
    if isinstance(error, (*lost, ConnectionError, TimeoutError)):
        detail = str(error) or type(error).__name__
        return CliError(f"cannot be reached: {detail}", ExitCode.UNAVAILABLE, "is the database running?")
    if isinstance(error, FileNotFoundError):
        return CliError(f"no such file: {error.filename}", ExitCode.BAD_INPUT)
    if isinstance(error, PermissionError):
        return CliError(f"not allowed: {error.filename}", ExitCode.CONFIGURATION)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return CliError(f"{where}{error.strerror or error}", ExitCode.UNAVAILABLE)
    return None


def _of_client(error: Any, client: Any) -> CliError:
    """Return what a refusal or a lost connection of a client means; the words may be a server's."""
    code = ExitCode.REFUSED
    if isinstance(error, client.DiscoveryError):
        code = ExitCode.CONFIGURATION
    elif isinstance(error, client.ConnectionLost) or (isinstance(error, client.Refused) and error.status >= 500):
        code = ExitCode.UNAVAILABLE
    return CliError(printable(str(error)), code, printable(error.hint))


@contextlib.contextmanager
def main_errors() -> Iterator[None]:
    """End the process with the message and exit code an exception stands for."""
    try:
        yield
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.print("stopped", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`): nothing to say. Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.REFUSED)
    except Exception as error:
        found = explain(error)
        if found is None:
            _defect(error)
            sys.exit(ExitCode.DEFECT)
        console.print("error: ", style="bold red", end="")
        console.print(found.message, markup=False)
        if found.hint:
            console.print("  " + found.hint, markup=False)
        sys.exit(found.exit_code)


def _defect(error: BaseException) -> None:
    """Print where an error of ours came from, and not its text, which may quote a record or a parameter."""
    console.print("error: ", style="bold red", end="")
    console.print("this is a defect of Tollgate; its text is not shown, because it may quote a record", markup=False)
    shown: list[BaseException] = []
    rest: list[BaseException | None] = [error]
    while rest:
        part = rest.pop(0)
        if part is None or part in shown:
            continue
        shown.append(part)
        console.print(f"  {type(part).__qualname__}", markup=False)
        for place in frames(part.__traceback__):
            console.print(f"    {place}", markup=False)
        inner = part.exceptions if isinstance(part, BaseExceptionGroup) else ()
        rest += [*inner, part.__cause__ or part.__context__]


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C cancels it and ends with 130."""
    return asyncio.run(coro)


def home_of(ctx: click.Context) -> Path | None:
    """Return what ``--home`` said, if anything."""
    obj = ctx.find_root().obj
    return obj.get("home") if isinstance(obj, dict) else None


def settings(ctx: click.Context, *, database: bool = True, **overrides: Any) -> Config:
    """Load the settings for a command.

    With ``database`` the embedded server is started where no URL is set (and stopped when the last command that uses
    it ends). Call it outside the event loop: starting a server blocks.

    Raises:
        CliError: where the home has not been made yet, or the embedded server does not start.
    """
    config = load(home_of(ctx), **overrides)
    if not database or config.database_url:
        return config
    from proxy.cli import embedded

    if not embedded.exists(config.home):
        raise CliError(
            f"nothing is set up in {config.home}",
            ExitCode.CONFIGURATION,
            "run `tollgate init`, or name its directory with --home or TOLLGATE_HOME",
        )
    server = embedded.use(config.home)
    ctx.find_root().call_on_close(server.release)
    return replace(config, database_url=server.url)


def _target(config: Config, role: str | None) -> str:
    if role is not None:
        return config.role_url(str(role))
    if not config.database_url:
        raise ConfigError("no database: set TOLLGATE_DATABASE_URL, or run `tollgate init` for an embedded one")
    return config.database_url


@contextlib.asynccontextmanager
async def connect(config: Config, role: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """Give one connection as ``role`` of schema/roles.py; None is the owner."""
    conn = await asyncpg.connect(_target(config, role), timeout=CONNECT_TIMEOUT_S)
    try:
        yield conn
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def connect_pool(config: Config, role: str | None, size: int = 2) -> AsyncIterator[asyncpg.Pool]:
    """Give a pool of at most ``size`` connections as ``role``."""
    async with asyncpg.create_pool(_target(config, role), min_size=1, max_size=size, timeout=CONNECT_TIMEOUT_S) as pool:
        yield pool


def provider(config: Config) -> FileProvider:
    """Open the keyring.

    Raises:
        CliError: where there is none.
    """
    from keys.file_provider import FileProvider

    if not config.keyring_dir.is_dir():
        raise CliError(
            f"no keyring in {config.keyring_dir}",
            ExitCode.CONFIGURATION,
            "run `tollgate init`, or put a backup back with `tollgate keys restore`",
        )
    return FileProvider(config.keyring_dir)


@contextlib.asynccontextmanager
async def ledger(config: Config) -> AsyncIterator[Ledger]:
    """Give the started access log, on a pool of its own role."""
    from keys.datakeys import DataKeys
    from proxy.ledger.service import Ledger
    from schema.roles import Role

    async with connect_pool(config, Role.LOG) as pool:
        log = Ledger(pool, DataKeys(provider(config)), config.log_group_max)
        await log.start()
        try:
            yield log
        finally:
            await log.close()


def operator() -> str:
    """Return the operating system's name for who runs this (SUDO_USER is what sudo says; a root user can set it)."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    return f"{behind} as {name}"[:200] if behind and behind != name else name[:200]


def printable(text: str) -> str:
    """Return what others wrote so that nothing of it can move the cursor, change colours or turn text around."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def stdout() -> Console:
    """A console on stdout for tables; wide where it is no terminal, so that nothing is cut for a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``; the command gets ``as_json: bool``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)


def emit(value: Any) -> None:
    """Print ``value`` as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
