"""Call records for the benchmarks: seeded, realistic in shape, invented throughout.

Numbers are drawn from the whole North American plan, because two million distinct ones do not fit the reserved range.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from schema.fields import FIELDS

START = datetime(2026, 9, 1, tzinfo=UTC)
COLUMNS = tuple(
    f.name
    for f in FIELDS
    if f.name
    in {
        *("started_at", "answered_at", "ended_at", "duration_ms", "cause_q850", "sip_code", "disposition"),
        *("calling", "called", "switch_id", "jurisdiction", "called_lrn", "attestation", "codec"),
        *("ingress_ocn", "ingress_trunk", "ingress_call_id", "ingress_billed_s", "ingress_rate", "ingress_amount"),
        *("egress_ocn", "egress_trunk", "egress_billed_s", "egress_rate", "egress_amount"),
        *("ingress_currency", "egress_currency"),
    }
)
"""Columns of the file, all canonical fields."""


def _numbers(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    npa, nxx = rng.integers(201, 990, count), rng.integers(200, 1000, count)
    out: npt.NDArray[np.int64] = 10_000_000_000 + npa * 10_000_000 + nxx * 10_000 + rng.integers(0, 10_000, count)
    return out


def records(
    rows: int,
    *,
    ingress: int = 3,
    egress: int = 4,
    days: int = 30,
    seed: int = 1,
    first: int = 0,
    busy: int = 0,
    start: datetime = START,
) -> pl.DataFrame:
    """Return ``rows`` records in the order in which their calls ended.

    Args:
        ingress, egress: number of carriers on each side; the first ingress carrier has nine tenths of the traffic
            unless there are more than ten.
        days: the calls fall on so many days from ``start``.
        first: number of the first record, so that several files hold different calls.
        busy: so many called numbers get about 50 calls each of the first ingress carrier.
    """
    rng = np.random.default_rng([seed, first])
    started = int(start.timestamp() * 1e6) + np.sort(rng.integers(0, days * 86_400_000, rows)) * 1_000
    answered = rng.random(rows) < 0.62
    ring = rng.integers(800, 20_000, rows) * 1_000
    talk = np.where(answered, rng.exponential(140_000, rows).astype(np.int64) + 1_000, 0)
    ended = started + ring + talk * 1_000
    share = np.full(ingress, 0.1 / max(1, ingress - 1))
    share[0] = 0.9
    inward = rng.choice(ingress, rows, p=share) if 1 < ingress <= 10 else rng.integers(0, ingress, rows)
    outward = rng.integers(0, egress, rows)
    pair = inward * egress + outward
    called = _numbers(rng, rows)
    for _ in range(busy):
        called[rng.choice(np.flatnonzero(inward == 0), 50, replace=False)] = _numbers(rng, 1)
    billed = -(-talk // 6_000) * 6
    rate_in, rate_out = 0.0042 + 0.0001 * (pair % 37), 0.0031 + 0.0001 * (pair % 29)
    code = np.where(answered, 200, rng.choice([404, 480, 486, 487, 503], rows))
    n = np.arange(first, first + rows)
    salt = rng.integers(0, 2**32, rows)
    frame = pl.DataFrame(
        {
            "started_at": started,
            "answered_at": np.where(answered, started + ring, -1),
            "ended_at": ended,
            "duration_ms": talk,
            "cause_q850": np.where(answered, 16, rng.choice([17, 19, 31, 34], rows)),
            "sip_code": code,
            "calling": _numbers(rng, rows),
            "called": called,
            "calling_place": rng.integers(0, 4, rows),
            "called_lrn": rng.integers(2_012_000_000, 9_899_999_999, 3_000)[rng.integers(0, 3_000, rows)],
            "attest": rng.integers(0, 3, rows),
            "ingress": inward,
            "egress": outward,
            "billed": billed,
            "rate_in": rate_in,
            "rate_out": rate_out,
            "n": n,
            "salt": salt,
        }
    )
    time = pl.from_epoch(pl.col("started_at"), "us")
    stamp = "%Y-%m-%dT%H:%M:%S%.3fZ"
    pick = lambda name, words: pl.col(name).replace_strict(dict(enumerate(words)), return_dtype=pl.String)  # noqa: E731
    ocn = lambda name, letter: pl.format(f"{letter}{{}}", pl.col(name).cast(pl.String).str.zfill(3))  # noqa: E731
    return frame.select(
        started_at=time.dt.strftime(stamp),
        answered_at=pl.when(pl.col("answered_at") >= 0).then(
            pl.from_epoch(pl.col("answered_at"), "us").dt.strftime(stamp)
        ),
        ended_at=pl.from_epoch(pl.col("ended_at"), "us").dt.strftime(stamp),
        duration_ms="duration_ms",
        cause_q850="cause_q850",
        sip_code="sip_code",
        disposition=pl.when(pl.col("sip_code") == 200)
        .then(pl.lit("answered"))
        .when(pl.col("sip_code") == 486)
        .then(pl.lit("busy"))
        .otherwise(pl.lit("failed")),
        calling=pl.format("+{}", "calling"),
        called=pl.format("+{}", "called"),
        switch_id=pl.lit("tandem-1"),
        jurisdiction=pick("calling_place", "LAEI"),
        called_lrn=pl.col("called_lrn").cast(pl.String),
        attestation=pick("attest", "ABC"),
        codec=pl.lit("PCMU"),
        ingress_ocn=ocn("ingress", "I"),
        ingress_trunk=pl.format("tg-in-{}", "ingress"),
        ingress_call_id=pl.format("{}-{}@10.0.0.{}", "n", pl.col("salt").cast(pl.String), "ingress"),
        ingress_billed_s="billed",
        ingress_rate=pl.col("rate_in").round(4),
        ingress_amount=(pl.col("rate_in") * pl.col("billed") / 60).round(6),
        ingress_currency=pl.lit("USD"),
        egress_ocn=ocn("egress", "E"),
        egress_trunk=pl.format("tg-out-{}", "egress"),
        egress_billed_s="billed",
        egress_rate=pl.col("rate_out").round(4),
        egress_amount=(pl.col("rate_out") * pl.col("billed") / 60).round(6),
        egress_currency=pl.lit("USD"),
    )


def write(path: Path, frame: pl.DataFrame) -> None:
    """Write records as the ``tollgate`` profile reads them."""
    frame.write_csv(path)
