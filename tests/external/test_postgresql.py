"""Any PostgreSQL from 15 on: the distribution's own, with passwords, under an owner who is no superuser."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from proxy.config import load
from schema.roles import Role
from tests.support.postgres import SystemServer, system_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[SystemServer]:
    with system_server() as running:
        yield running


def tollgate(home: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")} | environment
    command = [sys.executable, "-m", "proxy.cli.main", "--home", str(home), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def home(server: SystemServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home made against the server, the owner's password in the environment of that one command only."""
    folder = tmp_path_factory.mktemp("home") / "h"
    url = urlsplit(server.owner_url)
    bare = f"postgresql://{url.username}@{url.hostname}:{url.port}{url.path}"
    made = tollgate(folder, "init", "--database-url", bare, PGPASSWORD=url.password or "")
    assert made.returncode == 0, made.stderr
    assert not (folder / "pgdata").exists()
    return folder


def test_the_roles_log_in_with_the_passwords_of_the_roles_file(home: Path) -> None:
    config = load(home, environ={})
    passwords = json.loads(config.roles_file.read_text())
    assert set(passwords) == {role.value for role in Role}

    async def who(url: str) -> str:
        conn = await asyncpg.connect(url)
        try:
            return str(await conn.fetchval("SELECT current_user"))
        finally:
            await conn.close()

    for role in Role:
        assert asyncio.run(who(config.role_url(role))) == role.value
        wrong = config.role_url(role).replace(passwords[role.value], "wrong")
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(who(wrong))


def test_no_role_may_pass_row_level_security(server: SystemServer, home: Path) -> None:
    async def rows() -> list[asyncpg.Record]:
        conn = await asyncpg.connect(server.superuser_url)
        try:
            return list(
                await conn.fetch(
                    "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles"
                    " WHERE rolname = ANY($1::text[])",
                    [r.value for r in Role],
                )
            )
        finally:
            await conn.close()

    found = asyncio.run(rows())
    assert len(found) == len(Role)
    assert not any(any(tuple(row)[1:]) for row in found)


def test_a_forgotten_password_is_named(home: Path) -> None:
    refused = tollgate(home, "db", "status", PGPASSWORD="wrong")
    assert refused.returncode == 3
    assert "refused the login" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_owner_without_createrole_is_told_what_is_missing(server: SystemServer, tmp_path: Path) -> None:
    async def demote() -> None:
        conn = await asyncpg.connect(server.superuser_url)
        await conn.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        await conn.close()

    asyncio.run(demote())
    url = f"postgresql://plain@127.0.0.1:{server.port}/postgres"
    refused = tollgate(tmp_path / "h", "init", "--database-url", url, PGPASSWORD="plain")
    assert refused.returncode == 3, refused.stderr
    assert "CREATEROLE" in refused.stderr


def test_the_database_tests_pass_on_it(server: SystemServer) -> None:
    """The whole of tests/db, which otherwise runs on the embedded server."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/db", "-x"],
        env={**env, "TOLLGATE_DATABASE_URL": server.superuser_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
