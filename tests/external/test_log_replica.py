"""`tollgate log fsck` and `tollgate log export` from a streaming standby: a real replica, a little behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from proxy.config import load
from tests.external.test_postgresql import tollgate
from tests.support.ledger import until
from tests.support.logs import filled, open_log
from tests.support.postgres import standby_of, system_server


def moved(url: str, port: int) -> str:
    """The same database on another port."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}").geturl()


def test_from_a_standby(tmp_path: Path) -> None:
    home, directory = tmp_path / "h", tmp_path / "audit"
    with system_server() as server:
        made = tollgate(home, "init", "--database-url", server.owner_url)
        assert made.returncode == 0, made.stderr
        config = load(home, environ={"TOLLGATE_DATABASE_URL": server.owner_url})

        async def fill() -> None:
            owner = await asyncpg.connect(server.owner_url)
            async with open_log(config, owner) as log:
                await filled(log)
            await owner.close()

        async def caught_up(port: int) -> None:
            conn = await asyncpg.connect(moved(server.owner_url, port))
            try:
                assert await conn.fetchval("SELECT pg_is_in_recovery()")
                await until(lambda: conn.fetchval("SELECT size = 600 FROM tollgate.log_head"))
            finally:
                await conn.close()

        with standby_of(server) as port:
            asyncio.run(fill())
            asyncio.run(caught_up(port))
            replica = moved(server.owner_url, port)
            found = tollgate(home, "log", "fsck", "--json", "--database-url", replica)
            assert found.returncode == 0, found.stderr
            said = json.loads(found.stdout)
            assert (said["entries"], said["covered"], said["store"]) == (600, 600, [])
            written = tollgate(home, "log", "export", str(directory), "--database-url", replica,
                               TOLLGATE_DATABASE_URL=server.owner_url)  # fmt: skip
            assert written.returncode == 0, written.stderr
            assert tollgate(home, "log", "fsck", "--export", str(directory)).returncode == 0

            async def edit() -> None:
                conn = await asyncpg.connect(server.owner_url)
                await conn.execute("UPDATE tollgate.log_entry SET kind = 'summary' WHERE idx = 301")
                await conn.close()
                conn = await asyncpg.connect(replica)
                edited = "SELECT kind = 'summary' FROM tollgate.log_entry WHERE idx = 301"
                await until(lambda: conn.fetchval(edited))
                await conn.close()

            asyncio.run(edit())
            found = tollgate(home, "log", "fsck", "--database-url", replica)
            assert found.returncode == 1
            assert "entry 301: its columns" in found.stderr
