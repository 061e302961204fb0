"""`tollgate log fsck`: entries a second over a whole log, and whether its memory grows with the log."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time

import asyncpg

from keys.signing import SigningKeys
from proxy.ledger import checkpoints
from proxy.ledger.model import Entry, Kind, Tag, new_id, number_tags
from proxy.ledger.publisher import LogKeys, Publisher
from schema.roles import Role
from tests.bench.measures import Report, Result
from tests.bench.stage import Stage

ORIGIN = "gate.example/log"
GROUP = 50
"""Entries of one group of the log: what a busy gateway writes at once."""
SIGNED_EVERY = 2_000
"""Entries between two checkpoints."""


async def fsck(stage: Stage, sizes: tuple[int, ...], report: Report) -> None:
    """Grow a log to each of ``sizes`` entries and check it, in a process of its own."""
    peaks: list[float] = []
    speed = 0.0
    async with asyncpg.create_pool(stage.config.role_url(Role.LOG), min_size=1, max_size=3) as pool:
        publisher = await _opened(stage, pool)
        try:
            for size in sizes:
                await grow(stage, publisher, size)
                seconds, peak, entries = await _checked(stage)
                assert entries >= size, entries
                peaks.append(peak)
                speed = entries / seconds
                print(f"fsck of {entries:,} entries: {speed:,.0f}/s, {peak:.0f} MiB", file=sys.stderr)  # noqa: T201
        finally:
            await publisher.stop()
    report(Result("fsck", speed, None, f"entries/s, {sizes[-1]:,} entries"))
    report(Result("fsck_memory", peaks[-1], peaks[0], f"MiB, {sizes[-1]:,} against {sizes[0]:,} entries", True))


async def _opened(stage: Stage, pool: asyncpg.Pool) -> Publisher:
    if not await checkpoints.origins(stage.owner):
        async with stage.owner.transaction():
            await stage.owner.execute(checkpoints.ADD_ORIGIN, 1, ORIGIN, 0, None)
            entry = Entry(Kind.LOG_ORIGIN, request={"origin": ORIGIN, "epoch": 1})
            await stage.ledger.append_in(stage.owner, [entry])

    def halt(reason: str) -> None:
        raise AssertionError(reason)

    return Publisher(pool, LogKeys(SigningKeys(stage.config.keyring_dir)), halt)


async def grow(stage: Stage, publisher: Publisher, size: int) -> None:
    """Append accesses (intent and outcome, as a pull writes them) until there are ``size`` entries."""
    owner = stage.owner
    await owner.execute("SET synchronous_commit = off")
    at = await checkpoints.head(owner)
    signed = at
    while at < size:
        async with owner.transaction():
            entries = [entry for n in range(GROUP // 2) for entry in _access(at + n)]
            await stage.ledger.append_in(owner, entries)
        at += len(entries)
        if at - signed >= SIGNED_EVERY:
            await publisher.once()
            signed = at
    await publisher.once()
    await owner.execute("RESET synchronous_commit")


def _access(n: int) -> tuple[Entry, Entry]:
    access = new_id()
    client = f"billing-{n % 16}"
    actor = {"client_id": client, "token_id": secrets.token_urlsafe(16), "jkt": "x" * 43, "address": "192.0.2.7"}
    request = {"purpose": "billing", "basis": "47 U.S.C. 222(d)(1)", "from": n, "to": n + 86_400, "decision": "permit"}
    tags = (Tag("client", client.encode()), Tag("jkt", b"x" * 43), Tag("address", b"192.0.2.7"))
    more = number_tags(f"+1202555{100 + n % 100:04d}")
    outcome = {"rows": n % 5000, "bytes": n, "sha256": "ab" * 32, "state": "complete"}
    records = {"runs": [[str(n), str(n + 40)]], "rows": 41}
    return (
        Entry(Kind.ACCESS_INTENT, actor, request, access_id=access, tags=(*tags, *more)),
        Entry(Kind.ACCESS_OUTCOME, actor, {}, outcome, records, access_id=access, tags=tags),
    )


async def _checked(stage: Stage) -> tuple[float, float, int]:
    """Seconds, peak memory in MiB and entries of a check; without the start of the interpreter."""
    environ = {
        **os.environ,
        "TOLLGATE_DATABASE_URL": stage.config.database_url,
        "TOLLGATE_ISSUER": "https://gate.example",
    }
    command = [sys.executable, "-c", _CHILD, "--home", str(stage.config.home), "log", "fsck", "--no-store", "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    began = time.perf_counter()
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    own, _, peak = err.decode().strip().rpartition("\n")[2].partition(" ")
    return min(float(own), time.perf_counter() - began), int(peak) / 1024, int(json.loads(out)["entries"])


_CHILD = """
import resource, sys, time
from proxy.cli.main import main
import proxy.cli.log.fsck
began = time.perf_counter()
try:
    main()
finally:
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
