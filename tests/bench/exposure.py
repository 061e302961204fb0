"""What counting costs: a client with many accesses over the main file's records; and what naming the records costs."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np

from keys.signing import SigningKeys
from proxy.disclosure import entries
from proxy.disclosure.encoders import Encoder, MediaType
from proxy.disclosure.entries import Actor, Terms
from proxy.disclosure.exposure import Question
from proxy.disclosure.exposure_freeze import officers_tools
from proxy.disclosure.exposure_proof import Prover
from proxy.disclosure.query import Window
from proxy.disclosure.reader import StoreReader
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.records import Ids, RecordSet, portion_of
from proxy.disclosure.scope import READABLE, RowBlock, Scope
from proxy.ledger.model import Entry, new_id
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.search import Search
from proxy.policy import Action, OcnWindow, Permit, Purpose
from proxy.policy.counting import Officer, Subject
from schema.fields import DisclosureClass, fields_of
from schema.roles import Role
from tests.bench import data
from tests.bench.measures import OCN, Report, Result
from tests.bench.stage import Stage

CLASSES = READABLE - {DisclosureClass.EGRESS_LEG}


async def exposure(stage: Stage, accesses: int, report: Report) -> None:
    """Seconds to count a client with so many accesses, over all its records of the main file."""
    start = int(data.START.timestamp() * 1e6)
    async with asyncpg.create_pool(stage.config.role_url(Role.BILLING), min_size=1, max_size=2) as pool:
        reader = StoreReader(pool, stage.keys, stage.executor)
        scope = Scope(
            (OCN,), frozenset({"ingress"}), start, start + 31 * 86_400_000_000, CLASSES, await reader.complete_to()
        )
        encoder = Encoder(MediaType.CSV, fields_of(*CLASSES), RecordIds(bytes(32), "bench"))
        digest = hashlib.sha256()

        def work(rows: RowBlock) -> Callable[[], Ids]:
            columns, ids = encoder.columns(rows), rows.record_ids.copy()

            def rest() -> Ids:
                digest.update(encoder.block(columns))
                return ids

            return rest

        began = time.process_time()
        pieces = [ids async for ids, _, _ in reader.stream(scope, None, work)]
        whole = time.process_time() - began
    share = 100 * _naming(pieces) / whole
    report(Result("record_sets", share, None, "% of the processor's time for a pull as CSV, HTTP aside", True))
    ids = np.sort(np.concatenate(pieces))
    await _fill(stage, scope, np.array_split(ids, accesses))
    privacy = asyncpg.create_pool(stage.config.role_url(Role.PRIVACY), min_size=1, max_size=2)
    log = asyncpg.create_pool(stage.config.role_url(Role.LOG), min_size=1, max_size=4)
    async with privacy as counting, log as reading:
        keys = LogKeys(SigningKeys(stage.config.keyring_dir))
        await _publish(stage, reading, keys)
        tool, _ = officers_tools(
            stage.ledger,
            Search(reading, stage.keys),
            lambda: Prover(reading, keys),
            counting,
            stage.keys,
            stage.executor,
        )
        question = Question(
            Subject("client", "bench"), datetime(2000, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(1), "bench"
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        count = await tool.count(Officer("bench", privacy=True), question)
        seconds = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(count.records) == len(ids)
    assert count.complete
    told = f"{accesses:,} accesses, {len(ids):,} records, {len(count.tally.subscribers):,} numbers"
    report(Result("exposure", seconds, None, f"s: {told}", True))
    report(Result("exposure_memory", grown, None, "MiB that the peak grew by", True))


def _naming(pieces: list[Ids]) -> float:
    """Seconds that naming the records of these pieces takes: a set of each, united, written at the end."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        records = RecordSet()
        for ids in pieces:
            records.add(portion_of(ids))
        records.as_json()
        best = min(best, time.process_time() - began)
    return best


async def _fill(stage: Stage, scope: Scope, parts: list[Ids]) -> None:
    """Append an intent and an outcome for each part, as the gateway writes them."""
    actor = Actor("bench", "bench", "token", "thumbprint", "192.0.2.1")
    windows = (OcnWindow(scope.start_us, scope.end_us, OCN),)
    fields = tuple(f.name for f in fields_of(*CLASSES))
    permit = Permit(Purpose.BILLING, Action.PULL, "basis", "ICA-1", CLASSES, fields, scope.sides, windows)
    terms = Terms(0, scope.as_of, None, 0, 1_000_000, "text/csv", "identity", "0" * 32)
    waiting: list[Entry] = []
    for part in parts:
        access_id = new_id()
        records = RecordSet()
        records.add(portion_of(part))
        said = {"rows": len(part), "bytes": 0, "sha256": "", "records": records.as_json(), "state": "complete"}
        waiting.append(entries.intent(access_id, actor, Window(scope.start_us, scope.end_us, "ingress"), permit, terms))
        waiting.append(entries.outcome(access_id, actor, said))
        if len(waiting) >= 2_000:
            await _append(stage, waiting)
            waiting = []
    await _append(stage, waiting)


async def _append(stage: Stage, waiting: list[Entry]) -> None:
    async with stage.owner.transaction():
        await stage.ledger.append_in(stage.owner, waiting)


async def _publish(stage: Stage, pool: asyncpg.Pool, keys: LogKeys) -> None:
    await stage.owner.execute(
        "INSERT INTO tollgate.log_origin (epoch, origin, first_size) VALUES (1, 'bench/log', 0) ON CONFLICT DO NOTHING"
    )
    failed: Callable[[str], None] = lambda reason: print(reason)  # noqa: E731, T201
    publisher = Publisher(pool, keys, failed)
    try:
        await publisher.once()
    finally:
        await publisher.stop()
