"""What the benchmarks run on: a fresh home, an embedded server with its defaults, a gateway in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.cli import embedded
from proxy.config import Config
from proxy.formats.profile import load_profile
from proxy.ingest.service import Ingest
from proxy.ledger.service import Ledger
from proxy.store.reseal.roll import roll
from schema.migrate import migrate
from schema.roles import Role, create_roles, new_passwords
from tests.support.oauth import Key, new_key
from tests.support.operators import make

ISSUER = "https://gate.example"


@dataclass
class Stage:
    """A server, a home and what is needed to ingest."""

    folder: Path
    config: Config
    owner: asyncpg.Connection
    ledger: Ledger
    keys: DataKeys
    executor: ThreadPoolExecutor

    async def ingest(self, files: Sequence[Path]) -> None:
        """Ingest files and roll, as `tollgate ingest` does."""
        conn = await asyncpg.connect(self.config.role_url(Role.INGEST))
        side = await asyncpg.connect(self.config.role_url(Role.INGEST))
        try:
            service = Ingest(conn, side, self.keys, self.ledger, self.executor, "bench")
            for file in files:
                report = await service.file(file, load_profile("tollgate"))
                assert report.stored == report.lines, report
            await roll(conn, self.keys, self.ledger, self.executor)
        finally:
            await conn.close()
            await side.close()

    async def size(self, schema: str, pattern: str) -> int:
        """Return the bytes of the tables of a schema whose names match, all indexes and TOAST counted."""
        size = await self.owner.fetchval(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ $2",
            schema,
            pattern,
        )
        return int(size)


@contextlib.asynccontextmanager
async def stage(name: str) -> AsyncIterator[Stage]:
    """A fresh database ``name`` (on TOLLGATE_DATABASE_URL's server, or an embedded one) and its home."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-bench-")))
        server = await stack.enter_async_context(_server(folder))
        admin = await asyncpg.connect(server)
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        url = urlunsplit(urlsplit(server)._replace(path="/" + name))
        home = folder / "home"
        home.mkdir(mode=0o700)
        passwords = new_passwords()
        config = Config(home=home, database_url=url, issuer=ISSUER, listen_port=0, metrics_port=0, tls_cert="")
        config.roles_file.write_text(json.dumps(passwords))
        config.roles_file.chmod(0o600)
        FileProvider.create(config.keyring_dir)
        owner = await asyncpg.connect(url)
        stack.push_async_callback(owner.close)
        await create_roles(owner, passwords)
        await migrate(owner)
        keys = DataKeys(FileProvider(config.keyring_dir))
        pool = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=4))
        ledger = Ledger(pool, keys, config.log_group_max)
        await ledger.start()
        stack.push_async_callback(ledger.close)
        executor = stack.enter_context(ThreadPoolExecutor(2))
        yield Stage(folder, config, owner, ledger, keys, executor)


@contextlib.asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    if url := os.environ.get("TOLLGATE_DATABASE_URL"):
        yield url
        return
    server = await asyncio.to_thread(embedded.use, folder)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.release)


@dataclass(frozen=True)
class Gate:
    """A running gateway."""

    host: str
    port: int
    pid: int
    client_id: str
    key: Key


@contextlib.asynccontextmanager
async def gateway(stage: Stage, ocns: Sequence[str]) -> AsyncIterator[Gate]:
    """Register a carrier of these OCNs and its client; serve in a process of its own."""
    key = new_key()
    command = [sys.executable, "-m", "proxy.cli.main", "--home", str(stage.config.home)]
    environ = {
        **os.environ,
        "TOLLGATE_DATABASE_URL": stage.config.database_url,
        "TOLLGATE_ISSUER": ISSUER,
        "TOLLGATE_LISTEN_PORT": "0",
        "TOLLGATE_METRICS_PORT": "0",
        "TOLLGATE_TLS_CERT": "",
    }
    owned = [{"ocn": ocn, "from": "2000-01-01"} for ocn in ocns]
    client = "bench-" + secrets.token_hex(4)
    limits = {"requests_per_minute": 1_000_000, "rows_per_day": 1_000_000_000}
    terms = {"agreement": "ICA-1", "carrier": "bench", "from": "2000-01-01", "cpni_clause": "9"}
    billing = {"client": client, "carrier": "bench", "jwks": [key.public], "networks": ["127.0.0.0/8"], **limits}
    await make(
        stage.config,
        [
            ("carrier.add", {"carrier": "bench", "name": "Example Carrier", "ocns": owned}),
            ("agreement.add", terms),
            ("client.add", billing),
        ],
    )
    log = (stage.folder / "gateway.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        *command, "serve", "--json", env=environ, stdout=asyncio.subprocess.PIPE, stderr=log
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, (stage.folder / "gateway.log").read_text()[-2000:]
        where = urlsplit(json.loads(line)["url"])
        assert where.hostname
        assert where.port
        yield Gate(where.hostname, where.port, process.pid, client, key)
    finally:
        process.terminate()
        await process.wait()
        log.close()
