"""The lying operator: has the database, the keyring and the log's signing key, and writes the log anew with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby

import asyncpg

from keys.checkpoint import Checkpoint
from keys.notes import sign
from proxy.ledger.model import Entry, OpenedEntry, Tag
from proxy.ledger.tiles import Edge
from tests.support.ledger import open_ledger
from tests.support.logs import Log


async def put_back(owner: asyncpg.Connection, size: int) -> None:
    """Make the database what a backup held, of when the log had ``size`` entries (the end of a group)."""
    kept = "SELECT batch_id FROM tollgate.log_entry WHERE idx < $1"
    for statement in (
        f"DELETE FROM tollgate.log_opening WHERE batch_id NOT IN ({kept})",
        "DELETE FROM tollgate.log_tag WHERE first >= $1",
        "DELETE FROM tollgate.log_entry WHERE idx >= $1",
        "DELETE FROM tollgate.log_checkpoint WHERE size > $1",
        "DELETE FROM tollgate.log_cosignature WHERE size > $1",
        "DELETE FROM tollgate.log_tile WHERE (idx + 1) * 256 > $1",
        "UPDATE tollgate.log_head SET size = $1, at = (SELECT max(at) FROM tollgate.log_entry)",
    ):
        await owner.execute(statement, size)


async def rewrite(log: Log, change: Callable[[OpenedEntry, Entry], Entry], first: int) -> None:
    """Write the log anew from index ``first`` (a group's) on: other entries, all of it sealed and signed as before.

    Only cosignatures cannot be made again: they are left out.
    """
    owner = log.owner
    groups = await owner.fetch("SELECT batch_id FROM tollgate.log_entry WHERE idx >= $1 ORDER BY idx", first)
    checkpoints = await owner.fetch("SELECT epoch, size FROM tollgate.log_checkpoint ORDER BY size")
    origin = await owner.fetchval("SELECT origin FROM tollgate.log_origin")
    opened = await log.ledger.read(after=first - 1, limit=1000)
    await put_back(owner, first)
    for table in ("log_tile", "log_checkpoint"):
        await owner.execute(f"DELETE FROM tollgate.{table}")
    async with open_ledger(log.config) as fresh:
        done = 0
        for _, group in groupby(row["batch_id"] for row in groups):
            old = opened[done : done + len(list(group))]
            async with owner.transaction():
                await fresh.append_in(owner, [change(each, _again(each)) for each in old])
            done += len(old)
    leaves = [r["leaf_hash"] for r in await owner.fetch("SELECT leaf_hash FROM tollgate.log_entry ORDER BY idx")]
    signer = await asyncio.to_thread(log.log_keys.signer, origin)
    edge = Edge()
    for row in checkpoints:
        full = edge.append(leaves[edge.size : row["size"]])
        await owner.executemany("INSERT INTO tollgate.log_tile VALUES ($1, $2, $3, $4)", full)
        root = edge.root()
        note = str(sign(Checkpoint(origin, row["size"], root).text, signer)).encode()
        await owner.execute(
            "INSERT INTO tollgate.log_checkpoint VALUES ($1, $2, $3, clock_timestamp(), $4)",
            row["epoch"], row["size"], root, note,
        )  # fmt: skip


def _again(entry: OpenedEntry) -> Entry:
    actor, request, outcome = dict(entry.actor or {}), dict(entry.request or {}), dict(entry.outcome or {})
    tags = (Tag("client", str(actor["client_id"]).encode()),) if "client_id" in actor else ()
    return Entry(entry.kind, actor, request, outcome, dict(entry.records or {}), entry.entry_id, entry.access_id, tags)
