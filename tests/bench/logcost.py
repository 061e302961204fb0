"""What the access log costs an answer: the same answers with the log, published as it grows, and without any log.

Both in one process and in turn, so that nothing else differs; without sockets and tokens, which would hide it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime

import asyncpg

from keys.signing import SigningKeys
from proxy.disclosure.coding import Coding
from proxy.disclosure.cursors import Sealer
from proxy.disclosure.encoders import MediaType
from proxy.disclosure.entries import Actor
from proxy.disclosure.query import Asked, Window
from proxy.disclosure.reader import StoreReader
from proxy.disclosure.service import Caller, Disclosure, Form, Settings
from proxy.ledger.checkpoints import default_origin
from proxy.ledger.model import Appended, Entry
from proxy.ledger.published import Published
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.service import Ledger
from proxy.policy.model import Holding, Ownership
from schema.roles import Role
from tests.bench import data
from tests.bench.measures import OCN, Report, Result
from tests.bench.stage import ISSUER, Stage

SMALL_ROWS = 100
_ACTOR = Actor("billing-bench", "bench", "token-of-the-bench", "thumbprint-of-the-bench", "192.0.2.7")
_START = int(data.START.timestamp() * 1e6)
_DAYS = 31


class NoLog:
    """A log that keeps nothing: what an answer would cost if nothing were on record."""

    halted = None

    async def append(self, entry: Entry) -> Appended:
        """Say that the entry is durable."""
        return Appended(0, entry.entry_id, datetime.now(UTC))


class Nowhere:
    """A reader who takes everything at once."""

    def __init__(self) -> None:
        self.bytes = 0

    async def start(self, headers: Mapping[str, str]) -> None:
        """Take the headers."""

    async def write(self, data: memoryview) -> None:
        """Take a part."""
        self.bytes += len(data)

    async def finish(self) -> None:
        """Take the end."""

    def abort(self) -> None:
        """Never asked for here."""
        raise AssertionError("the answer broke")


async def costs(stage: Stage, pulls: int, rounds: int, report: Report) -> None:
    """Milliseconds that the log adds to a pull of 100 rows, and its share of the largest pull there is."""
    rows = await stage.owner.fetchval("SELECT count(*) FROM rival.cdr WHERE ingress_ocn = $1", OCN)
    async with (
        _published(stage),
        asyncpg.create_pool(stage.config.role_url(Role.BILLING), min_size=1, max_size=4) as pool,
    ):
        reader = StoreReader(pool, stage.keys, stage.executor)
        logged, plain = _disclosure(stage, reader, stage.ledger), _disclosure(stage, reader, NoLog())
        small: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * pulls + 20):
            with_log = number % 2 == 0
            seconds, _ = await _pull(logged if with_log else plain, SMALL_ROWS)
            if number >= 20:
                small[with_log].append(seconds * 1e3)
        for name, at in (("p50", 49), ("p99", 98)):
            ours, theirs = (statistics.quantiles(small[each], n=100)[at] for each in (True, False))
            report(Result(f"log_latency_{name}", ours, theirs, f"ms, {SMALL_ROWS} rows, with log / without", True))
        best = {True: float("inf"), False: float("inf")}
        size = {}
        for number in range(2 * rounds + 2):
            with_log = number % 2 == 0
            seconds, size[with_log] = await _pull(logged if with_log else plain, rows)
            if number >= 2:
                best[with_log] = min(best[with_log], seconds)
        assert size[True] == size[False]
        report(Result("log_overhead", best[True], best[False], f"s, {rows:,} rows, with log / without", True))


def _disclosure(stage: Stage, reader: StoreReader, ledger: Ledger | NoLog) -> Disclosure:
    settings = Settings(5_000_000, stage.config.progress_rows, 60, 64)
    return Disclosure(reader, ledger, Sealer(bytes(32)), bytes(32), stage.executor, settings)  # type: ignore[arg-type]


async def _pull(disclosure: Disclosure, limit: int) -> tuple[float, int]:
    """Answer one pull in full; return seconds and bytes."""
    window = Window(_START, _START + _DAYS * 86_400_000_000, "ingress", None, None)
    holding = Holding(
        "billing-bench",
        "bench",
        "billing",
        "ICA-1",
        frozenset({"timing", "parties", "routing", "ingress_leg"}),
        frozenset({OCN}),
        (Ownership(OCN, 0, None),),
        frozenset({"ingress"}),
        None,
        None,
        1 << 60,
    )

    async def yes(*_: object) -> bool:
        return True

    sink = Nowhere()
    form = Form(MediaType.CSV, Coding.IDENTITY)
    started = time.perf_counter()
    async with disclosure.answer(Caller(_ACTOR, holding, yes, yes), Asked(window, None, limit), False, form) as opened:
        await opened.delivery.send(sink, {})
    return time.perf_counter() - started, sink.bytes


@contextlib.asynccontextmanager
async def _published(stage: Stage) -> AsyncIterator[None]:
    """Publish and follow the log as a gateway does."""
    keys = LogKeys(SigningKeys(stage.config.keyring_dir))
    async with asyncpg.create_pool(stage.config.role_url(Role.LOG), min_size=1, max_size=4) as pool:
        published = Published(pool, keys, stage.ledger, stage.config.log_dir, default_origin(ISSUER))
        publisher = Publisher(pool, keys, stage.ledger.halt, stage.config.log_publish_s, published=published.wake)
        await published.start()
        await publisher.start()
        try:
            yield
        finally:
            await publisher.stop()
            await published.stop()
