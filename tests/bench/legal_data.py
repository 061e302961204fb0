"""The data of the legal benchmarks: 18 months, 20 million records and more, kept under build/ from run to run.

Among them stand numbers with known traffic: some with 5, 50 and 500 calls over the whole time, and a thousand with
30 each. A file a month, so what was built is there to the last month that was finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import click
import numpy as np
import polars as pl

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from proxy.cli import embedded
from proxy.config import Config
from proxy.ledger.service import Ledger
from schema.migrate import migrate
from schema.roles import Role, create_roles, new_passwords
from tests.bench import data
from tests.bench.rivals import CREATE, Psql
from tests.bench.stage import ISSUER, Stage

MONTHS = tuple((2025 + (6 + m) // 12, (6 + m) % 12 + 1) for m in range(18))
"""July 2025 to December 2026."""
WEIGHTS = (5, 50, 500)
EACH = 20
"""Numbers of each weight."""
BULK, BULK_CALLS = 1_000, 30


def start_of(month: int) -> datetime:
    """Start of a month of the data, by its place; ``len(MONTHS)`` is the end."""
    year, number = MONTHS[month] if month < len(MONTHS) else (MONTHS[-1][0] + 1, 1)
    return datetime(year, number, 1, tzinfo=UTC)


def numbers(weight: int) -> list[str]:
    """The numbers with so many calls; ``BULK_CALLS``: the thousand."""
    if weight == BULK_CALLS:
        return [f"+1{202 + i // 100}5550{100 + i % 100}" for i in range(BULK)]
    return [f"+1{6 + WEIGHTS.index(weight)}015550{100 + i}" for i in range(EACH)]


def month_frame(month: int, rows: int) -> pl.DataFrame:
    """Return the records of one month, with its share of the known numbers' calls."""
    begins, ends = start_of(month), start_of(month + 1)
    frame = data.records(rows, seed=11, first=month * rows, days=(ends - begins).days, start=begins)
    rng = np.random.default_rng([12, month])
    sides: list[list[str | None]] = [[None] * rows, [None] * rows]
    free = iter(rng.permutation(rows).tolist())
    for weight in (*WEIGHTS, BULK_CALLS):
        for number in numbers(weight):
            # Whole calls a month, so that they add up to the weight over the 18 months.
            share = weight * (month + 1) // len(MONTHS) - weight * month // len(MONTHS)
            for n in range(share):
                sides[n % 2][next(free)] = number
    calling, called = (pl.Series(v, dtype=pl.String) for v in sides)
    return frame.with_columns(
        calling=pl.coalesce(calling, pl.col("calling")), called=pl.coalesce(called, pl.col("called"))
    )


@contextlib.asynccontextmanager
async def kept(folder: Path, rows: int) -> AsyncIterator[Stage]:
    """The stage under ``folder``, with ``rows`` records in all: built where it is not, or not of this size."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    home = folder / "home"
    async with AsyncExitStack() as stack:
        server = await asyncio.to_thread(embedded.use, folder)
        stack.push_async_callback(asyncio.to_thread, server.release)
        fresh = not home.exists()
        home.mkdir(mode=0o700, exist_ok=True)
        config = Config(home=home, database_url=server.url, issuer=ISSUER, listen_port=0, metrics_port=0, tls_cert="")
        if fresh:
            config.roles_file.write_text(json.dumps(new_passwords()))
            config.roles_file.chmod(0o600)
            FileProvider.create(config.keyring_dir)
        owner = await asyncpg.connect(server.url)
        stack.push_async_callback(owner.close)
        await create_roles(owner, json.loads(config.roles_file.read_text()))
        await migrate(owner)
        # The holds of runs before this one, and their keys: each run begins alike.
        await owner.execute("TRUNCATE tollgate.hold, tollgate.held CASCADE")
        provider = FileProvider(config.keyring_dir)
        provider.keyring.update(
            lambda ring: replace(
                ring, periods={p: e for p, e in ring.periods.items() if not p.key_class.startswith("hold_")}
            )
        )
        keys = DataKeys(provider)
        pool = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=4))
        ledger = Ledger(pool, keys, config.log_group_max)
        await ledger.start()
        stack.push_async_callback(ledger.close)
        stage = Stage(folder, config, owner, ledger, keys, stack.enter_context(ThreadPoolExecutor(2)))
        await _build(stage, rows // len(MONTHS) + 1)
        yield stage


async def _build(stage: Stage, rows: int) -> None:
    done_file = stage.folder / "built.json"
    done = json.loads(done_file.read_text()) if done_file.exists() else {"rows": rows, "months": 0, "indexed": False}
    if done["rows"] != rows:
        raise click.ClickException(f"{stage.folder} holds data of another size: remove it, and it is built anew")
    psql = Psql(stage.config.database_url)
    tables, *indexes = CREATE.strip().split(";\n")[0:2], *CREATE.strip().split(";\n")[2:]
    if not await stage.owner.fetchval("SELECT to_regclass('rival.cdr')"):
        await stage.owner.execute(";".join(tables))
    # Dying before a month is noted leaves it in one of the two or both: the plain table is cut back, ours knows the
    # file.
    await stage.owner.execute("DELETE FROM rival.cdr WHERE started_at >= $1", start_of(done["months"]))
    for month in range(done["months"], len(MONTHS)):
        click.echo(f"legal data: month {month + 1} of {len(MONTHS)} ({rows:,} records)", err=True)
        file = stage.folder / f"month-{month}.csv"
        data.write(file, await asyncio.to_thread(month_frame, month, rows))
        await stage.ingest([file])
        await asyncio.to_thread(psql.copy_in, [file])
        file.unlink()
        done["months"] = month + 1
        done_file.write_text(json.dumps(done))
    if not done["indexed"]:
        for index in indexes:
            if index.strip():
                await stage.owner.execute(index)
        await asyncio.to_thread(psql.run, "VACUUM (ANALYZE)")
        done["indexed"] = True
        done_file.write_text(json.dumps(done))
