"""Fixtures: a real PostgreSQL (embedded, or TOLLGATE_DATABASE_URL), one fresh database for each test that asks."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from proxy.cli import embedded
from proxy.config import Config
from schema.migrate import migrate
from schema.roles import create_roles, new_passwords

PASSWORDS = new_passwords()


def with_database(url: str, name: str) -> str:
    """Return ``url`` pointed at database ``name``."""
    return urlunsplit(urlsplit(url)._replace(path="/" + name))


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of a PostgreSQL server on which databases and roles may be made."""
    if url := os.environ.get("TOLLGATE_DATABASE_URL"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="tollgate-pg-") as folder:
        server = embedded.use(Path(folder))
        try:
            yield server.url
        finally:
            server.release()


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """Name of a migrated database from which each test's own is copied."""
    name = "tollgate_template_" + secrets.token_hex(4)

    async def make() -> None:
        conn = await asyncpg.connect(server_url)
        await conn.execute(f"CREATE DATABASE {name}")
        await conn.close()
        conn = await asyncpg.connect(with_database(server_url, name))
        await create_roles(conn, PASSWORDS)
        await migrate(conn)
        await conn.close()

    async def drop() -> None:
        conn = await asyncpg.connect(server_url)
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await conn.close()

    asyncio.run(make())
    yield name
    asyncio.run(drop())


@dataclass(frozen=True)
class Database:
    """A fresh, migrated database."""

    url: str
    """Owner (superuser) URL."""
    config: Config
    """A configuration whose home is a temporary directory and whose database is this one."""


@pytest.fixture
async def database(server_url: str, template: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh database and a configuration for it."""
    name = "tollgate_test_" + secrets.token_hex(6)
    conn = await asyncpg.connect(server_url)
    await conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    config = Config(home=home, database_url=with_database(server_url, name), listen_port=0, metrics_port=0)
    config.roles_file.write_text(json.dumps(PASSWORDS))
    config.roles_file.chmod(0o600)
    try:
        yield Database(config.database_url, config)
    finally:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await conn.close()


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A superuser connection to the fresh database: the adversary's, or the auditor's."""
    conn = await asyncpg.connect(database.url)
    try:
        yield conn
    finally:
        await conn.close()
