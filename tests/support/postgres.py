"""A PostgreSQL of the distribution (not the embedded one), with passwords asked for, in a directory of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class SystemServer:
    """A running server: superuser and plain owner, both with a password, over TCP on loopback."""

    version: str
    port: int
    superuser_url: str
    owner_url: str
    """Owner of database `tollgate`: CREATEROLE, no superuser, as a managed PostgreSQL gives one."""


def newest() -> Path:
    """Directory of the newest installed server's programs.

    Raises:
        FileNotFoundError: where none is installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not found:
        raise FileNotFoundError("no PostgreSQL server in /usr/lib/postgresql; `make test-external` installs it")
    return found[-1].parent


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def system_server() -> Iterator[SystemServer]:
    """Run a server; as root it runs as the system user `postgres`."""
    # Not under pytest's own folder: nobody but its owner may pass through that.
    with tempfile.TemporaryDirectory(prefix="tollgate-system-pg-") as name, _server(Path(name)) as server:
        yield server


@contextmanager
def standby_of(server: SystemServer) -> Iterator[int]:
    """Run a streaming standby of a server; gives its port."""
    admin = urlsplit(server.superuser_url)
    with tempfile.TemporaryDirectory(prefix="tollgate-standby-pg-") as name:
        folder, port = Path(name), free_port()
        data, user = folder / "data", "postgres" if os.geteuid() == 0 else None
        data.mkdir(mode=0o700)
        if user:
            entry = pwd.getpwnam(user)
            os.chown(data, entry.pw_uid, entry.pw_gid)
            folder.chmod(0o755)

        def call(program: str, *args: str) -> None:
            log = folder / "commands.log"
            with log.open("ab") as out:
                done = subprocess.run(
                    [newest() / program, *args], user=user, group=user, extra_groups=[] if user else None, stdout=out,
                    stderr=out, stdin=subprocess.DEVNULL, cwd="/", check=False,
                    env={**os.environ, "PGPASSWORD": admin.password or ""},
                )  # fmt: skip
            assert done.returncode == 0, log.read_text()

        call("pg_basebackup", "-h", "127.0.0.1", "-p", str(admin.port), "-U", "admin", "-D", str(data), "-R",
             "-c", "fast")  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c max_connections=200"
        call("pg_ctl", "-w", "-D", str(data), "-l", str(data / "log"), "-o", options, "start")
        try:
            yield port
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "-D", str(data), "stop")


@contextmanager
def _server(folder: Path) -> Iterator[SystemServer]:
    programs = newest()
    data, port = folder / "data", free_port()
    password, owner_password = secrets.token_hex(16), secrets.token_hex(16)
    user = "postgres" if os.geteuid() == 0 else None
    data.mkdir()
    secret = folder / "password"
    secret.write_text(password)
    if user:
        entry = pwd.getpwnam(user)
        for path in (data, secret):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        folder.chmod(0o755)

    def call(name: str, *args: str) -> None:
        log = folder / "commands.log"
        with log.open("ab") as out:
            done = subprocess.run(
                [programs / name, *args], user=user, group=user, extra_groups=[] if user else None,
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd="/", check=False,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()

    call("initdb", "-D", str(data), "-U", "admin", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
         "--locale=C.UTF-8")  # fmt: skip
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c max_connections=200"
    call("pg_ctl", "-w", "-D", str(data), "-l", str(data / "log"), "-o", options, "start")
    url = f"postgresql://admin:{password}@127.0.0.1:{port}/postgres"
    try:
        for statement in (
            f"CREATE ROLE tollgate_owner LOGIN CREATEROLE PASSWORD '{owner_password}'",
            "CREATE DATABASE tollgate OWNER tollgate_owner",
        ):
            subprocess.run([programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement],
                           check=True, capture_output=True)  # fmt: skip
        version = subprocess.run(
            [programs / "postgres", "--version"], check=True, capture_output=True, text=True
        ).stdout
        owner = f"postgresql://tollgate_owner:{owner_password}@127.0.0.1:{port}/tollgate"
        yield SystemServer(version.strip(), port, url, owner)
    finally:
        call("pg_ctl", "-w", "-m", "immediate", "-D", str(data), "stop")
