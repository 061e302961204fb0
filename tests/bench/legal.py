"""The legal desk's benchmarks: one number over 18 months, and a thousand at once, against the plain table.

Ours is the whole service: the intent durable in the log, the search, the records sealed into a hold under a key of its
own, the outcome durable in the log. The rival is the plain table's best query for the same fields of the same records.
"""

from __future__ import annotations

import base64
import os
import secrets
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import asyncpg

from proxy.disclosure.extract import Extractions
from proxy.policy import Purpose
from proxy.policy.extraction import ExtractionOrder, StaffActor, Target, TargetKind
from proxy.policy.instruments import INSTRUMENTS
from proxy.policy.legal import MATCHED, PROVENANCE, SUBJECT_MATCH, LegalAction, LegalPermit
from proxy.policy.process import Reach
from schema.fields import BY_NAME, FIELDS
from schema.roles import Role
from tests.bench.data import COLUMNS
from tests.bench.legal_data import BULK_CALLS, MONTHS, WEIGHTS, kept, numbers, start_of
from tests.bench.measures import Report, Result
from tests.bench.stage import Stage
from tests.support.held import add_order

FOLDER = Path("build/bench-legal").resolve()
INSTRUMENT = next(i for i in INSTRUMENTS.values() if i.id == os.environ.get("BENCH_INSTRUMENT", "subpoena"))


def _id(letter: str) -> str:
    return f"{letter}-" + base64.b32encode(secrets.token_bytes(7))[:10].decode()


def _order(case_id: str, targets: Sequence[str], start: datetime, end: datetime) -> ExtractionOrder:
    fields = tuple(f.name for f in FIELDS if INSTRUMENT.reach(f.name) is Reach.DISCLOSE)
    names = {"record_id", "started_at", *MATCHED["number"]}
    match = tuple(f.name for f in FIELDS if f.name in names)
    permit = LegalPermit(
        Purpose.LEGAL,
        LegalAction.EXTRACT,
        INSTRUMENT.citation,
        case_id,
        INSTRUMENT.id,
        fields,
        (),
        SUBJECT_MATCH,
        match,
        PROVENANCE,
        frozenset(BY_NAME[n].disclosure_class for n in (*fields, *match, *PROVENANCE)),
        int(start.timestamp() * 1e6),
        int(end.timestamp() * 1e6),
        "0" * 64,
        len(targets),
        ("number",),
        "1" * 64,
        True,
    )
    made = tuple(Target(TargetKind.NUMBER, t) for t in targets)
    return ExtractionOrder(_id("H"), StaffActor("handler@carrier.example"), permit, made)


async def legal(rows: int, rounds: int, report: Report) -> None:
    """Median milliseconds to the last row, for numbers of each weight; seconds for a thousand targets."""
    async with kept(FOLDER, rows) as stage:
        pool = await asyncpg.create_pool(stage.config.role_url(Role.LEGAL), min_size=4, max_size=6)
        plain = await asyncpg.connect(stage.config.database_url)
        extractions = Extractions(pool, stage.keys, stage.ledger, stage.executor)
        case_id = await _case(stage)
        try:
            for weight in WEIGHTS:
                ours, theirs = [], []
                for number in numbers(weight) * rounds:
                    mine, seconds = await _ours(stage, extractions, case_id, [number])
                    there, plainly = await _plain(plain, [number])
                    assert mine == there == weight, (mine, there, weight)
                    ours.append(seconds)
                    theirs.append(plainly)
                report(Result(f"legal_lookup_{weight}", _ms(ours), _ms(theirs), "ms", True))
            ours, theirs = [], []
            for _ in range(rounds):
                mine, seconds = await _ours(stage, extractions, case_id, numbers(BULK_CALLS))
                there, plainly = await _plain(plain, numbers(BULK_CALLS))
                assert mine == there >= BULK_CALLS * 1_000, (
                    mine,
                    there,
                )  # a few calls more stand among the random ones
                ours.append(seconds)
                theirs.append(plainly)
            report(Result("legal_bulk", min(ours), min(theirs), "s, 1,000 targets, 30,000 records", True))
        finally:
            await extractions.close()
            await plain.close()
            await pool.close()


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3


async def _case(stage: Stage) -> str:
    case_id = _id("C")
    await stage.owner.execute(
        "INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version)"
        " VALUES ($1, 'subpoena', 202607, 'handler@carrier.example', gen_random_uuid(), 'approved', 1)",
        case_id,
    )
    return case_id


async def _ours(stage: Stage, extractions: Extractions, case_id: str, targets: Sequence[str]) -> tuple[int, float]:
    order = _order(case_id, targets, start_of(0), start_of(len(MONTHS)))
    await add_order(stage.owner, case_id, order.hold_id)
    began = time.perf_counter()
    done = await extractions.extract(order)
    seconds = time.perf_counter() - began
    assert done.state == "complete", done
    return done.rows, seconds


async def _plain(conn: asyncpg.Connection, targets: Sequence[str]) -> tuple[int, float]:
    """The same fields of the same records; a union of two index scans, which is what the planner is quickest with."""
    fields = [c for c in COLUMNS if INSTRUMENT.reach(c) is Reach.DISCLOSE]
    if len(targets) == 1:
        where, value = "calling = $1 OR called = $1", targets[0]
    else:
        where, value = "calling = ANY ($1) OR called = ANY ($1)", list(targets)
    sql = (
        f"SELECT record_id, {', '.join(fields)} FROM rival.cdr WHERE ({where}) AND started_at >= $2 AND started_at < $3"
    )
    window = start_of(0), start_of(len(MONTHS))
    began = time.perf_counter()
    rows = await conn.fetch(sql, value, *window)
    return len(rows), time.perf_counter() - began
