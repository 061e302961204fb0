"""The measurements. Each pair of rivals runs in turn, in one run, on one server; the best of the rounds counts."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import asyncpg
from aiohttp import web

from proxy.disclosure.encoders import Block, Encoder, MediaType
from proxy.disclosure.reader import StoreReader
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.scope import READABLE, RowBlock, Scope
from schema.fields import DisclosureClass, fields_of
from schema.roles import Role
from tests.bench import data
from tests.bench.rivals import CREATE, SHOWN, Psql
from tests.bench.stage import ISSUER, Gate, Stage
from tests.support.oauth import Peer, new_key

OCN = "I000"
WINDOW = {"from": "2026-09-01T00:00:00Z", "to": "2026-10-02T00:00:00Z"}


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    ours: float
    rival: float | None
    unit: str
    smaller: bool = False
    """Whether less is better (then the ratio still is ours / rival)."""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the rival's."""
        return None if self.rival is None else self.ours / self.rival


Report = Callable[[Result], None]


async def ingest(stage: Stage, psql: Psql, rows: int, report: Report) -> None:
    """Rows a second from a file to rolled batches, against COPY into the plain table; bytes at rest; WAL."""
    file = stage.folder / "main.csv"
    data.write(file, data.records(rows, busy=20))
    await stage.owner.execute(CREATE)
    wal = "SELECT pg_current_wal_insert_lsn()"
    before = await stage.owner.fetchval(wal)
    started = time.perf_counter()
    await stage.ingest([file])
    ours = time.perf_counter() - started
    middle = await stage.owner.fetchval(wal)
    theirs = await asyncio.to_thread(psql.copy_in, [file])
    after = await stage.owner.fetchval(wal)
    report(Result("ingest", rows / ours, rows / theirs, "rows/s"))
    # Rolled pieces are dead rows until VACUUM gives their pages back; the plain table gets the same.
    await asyncio.to_thread(psql.run, "VACUUM (ANALYZE)")
    pieces = "^(staging|batch|batch_leg|tag_segment|fingerprint_segment)_[0-9]+$|^(run|pair|ingest|ingest_reject)$"
    size, plain = await stage.size("tollgate", pieces), await stage.size("rival", ".")
    report(Result("bytes_per_cdr", size / rows, plain / rows, "bytes", True))
    difference = "SELECT ($1::pg_lsn - $2::pg_lsn)::float8"
    ours_wal = await stage.owner.fetchval(difference, middle, before)
    their_wal = await stage.owner.fetchval(difference, after, middle)
    report(Result("wal_per_cdr", ours_wal / rows, their_wal / rows, "bytes", True))


async def ingest_small(stage: Stage, psql: Psql, files: int, report: Report) -> None:
    """The same with 2,500 carrier pairs in files of 20,000 rows."""
    rows, todo = 20_000, []
    for n in range(files):
        path = stage.folder / f"small-{n}.csv"
        data.write(path, data.records(rows, ingress=50, egress=50, days=2, seed=7, first=n * rows))
        todo.append(path)
    started = time.perf_counter()
    await stage.ingest(todo)
    ours = time.perf_counter() - started
    await stage.owner.execute("DROP SCHEMA IF EXISTS rival CASCADE")
    await stage.owner.execute(CREATE)
    theirs = await asyncio.to_thread(psql.copy_in, todo)
    report(Result("ingest_small", files * rows / ours, files * rows / theirs, "rows/s"))


class Puller:
    """A carrier's client in its plainest form: blocking reads from a socket, as psql does."""

    def __init__(self, gate: Gate) -> None:
        """Talk to ``gate``."""
        self.gate = gate
        self.token = ""
        self.peer: Peer | None = None

    async def connect(self, session: aiohttp.ClientSession) -> None:
        """Get a token and a nonce for the API."""
        base = f"http://{self.gate.host}:{self.gate.port}"
        self.peer = Peer(session, base, ISSUER, self.gate.client_id, self.gate.key, new_key())
        self.token = await self.peer.token()
        await self.peer.get("/v1/accesses/00000000-0000-0000-0000-000000000000", self.token)

    def pull(self, accept: str, out: Path, pause_s: float = 0.0, **query: str) -> tuple[float, int]:
        """Pull into a file; return seconds and bytes. ``pause_s`` is slept after each MiB (a slow reader)."""
        assert self.peer is not None
        path = "/v1/cdrs?" + urlencode({**WINDOW, "direction": "ingress", **query})
        headers = {**self.peer.headers("GET", path, self.token), "Accept": accept, "Accept-Encoding": "identity"}
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self.gate.host, self.gate.port, timeout=120)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        size = slept = 0
        room = memoryview(bytearray(1 << 18))  # one buffer for all: a fresh one for each read costs more than the read
        with out.open("wb", buffering=0) as target:
            while got := response.readinto(room):
                target.write(room[:got])
                size += got
                if pause_s and size >> 20 > slept:
                    slept = size >> 20
                    time.sleep(pause_s)
        assert response.status == 200, (response.status, out.read_bytes()[:500])
        connection.close()
        return time.perf_counter() - started, size


async def pulls(stage: Stage, psql: Psql, gate: Gate, rounds: int, report: Report) -> None:
    """Rows a second of a whole authorised, logged pull over HTTP, against COPY of the same rows through psql."""
    rows = await stage.owner.fetchval("SELECT count(*) FROM rival.cdr WHERE ingress_ocn = $1", OCN)
    out, plain = stage.folder / "pull.out", stage.folder / "plain.out"
    best: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        for _ in range(rounds):
            times = {"rival": await asyncio.to_thread(psql.copy_out, OCN, plain)}
            for name, accept in (
                ("pull_csv", MediaType.CSV.value),
                ("pull_arrow", MediaType.ARROW.value),
                ("pull_ndjson", MediaType.NDJSON.value),
                ("pull_parquet", MediaType.PARQUET.value),
            ):
                puller = Puller(gate)
                await puller.connect(session)
                times[name], _ = await asyncio.to_thread(puller.pull, accept, out)
                if name == "pull_csv":
                    assert out.read_bytes().count(b"\n") == rows + 1 == plain.read_bytes().count(b"\n") + 1
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in times.items()}
        for name in ("pull_csv", "pull_arrow", "pull_ndjson", "pull_parquet"):
            report(Result(name, rows / best[name], rows / best["rival"], "rows/s"))
        puller = Puller(gate)
        await puller.connect(session)
        await asyncio.to_thread(puller.pull, MediaType.CSV.value, out, 0.04)
    report(Result("gateway_peak_memory", _peak(gate.pid), None, f"MiB, {rows:,} rows to a slow reader", True))


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def lookup(stage: Stage, rounds: int, report: Report) -> None:
    """Median milliseconds of one number with about 50 calls, against the plain table's index."""
    busy = await stage.owner.fetch(
        "SELECT called FROM rival.cdr WHERE ingress_ocn = $1 GROUP BY called HAVING count(*) >= 50 LIMIT 20", OCN
    )
    numbers = [r["called"] for r in busy]
    start = int(data.START.timestamp() * 1e6)
    classes = READABLE - {DisclosureClass.EGRESS_LEG}
    fields = fields_of(*classes)
    plain = await asyncpg.connect(stage.config.database_url)
    ours, theirs = [], []
    async with asyncpg.create_pool(stage.config.role_url(Role.BILLING), min_size=1, max_size=2) as pool:
        reader = StoreReader(pool, stage.keys, stage.executor)
        end = start + 31 * 86_400_000_000
        scope = Scope((OCN,), frozenset({"ingress"}), start, end, classes, await reader.complete_to())
        for number in numbers * rounds:
            encoder = Encoder(MediaType.NDJSON, fields, RecordIds(bytes(32), "bench"))

            def work(rows: RowBlock, encoder: Encoder = encoder) -> Callable[[], Block]:
                columns = encoder.columns(rows)
                return lambda: encoder.block(columns)

            began = time.perf_counter()
            found = 0
            async for _, rows, _ in reader.search(scope, number, None, work):
                found += rows
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            there = await plain.fetch(
                f"SELECT record_id, {', '.join(SHOWN)} FROM rival.cdr WHERE called = $1 AND ingress_ocn = $2",
                number,
                OCN,
            )
            theirs.append(time.perf_counter() - began)
            assert found == len(there) >= 50
    await plain.close()
    report(Result("lookup", statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3, "ms", True))


async def small_pull(gate: Gate, seconds: float, report: Report) -> None:
    """Requests a second of a 100-row pull over one connection, against a handler that sends the same bytes."""
    async with aiohttp.ClientSession() as session:
        puller = Puller(gate)
        await puller.connect(session)
        assert puller.peer is not None
        path = "/v1/cdrs?" + urlencode({**WINDOW, "direction": "ingress", "limit": "100"})
        status, body, _ = await puller.peer.get(path, puller.token)
        assert status == 200, body
        ours = await _rate(lambda: puller.peer.get(path, puller.token), seconds)  # type: ignore[union-attr]
        app = web.Application()
        content = body.encode()

        async def same(_: web.Request) -> web.Response:
            return web.Response(body=content, content_type="application/x-ndjson")

        app.router.add_get("/v1/cdrs", same)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]

        async def plain() -> None:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                await response.read()

        theirs = await _rate(plain, seconds)
        await runner.cleanup()
    report(Result("small_pull", ours, theirs, "requests/s"))


async def _rate(ask: Callable[[], object], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        await ask()  # type: ignore[misc]
        count += 1
    return count / (time.perf_counter() - began)
