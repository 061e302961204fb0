"""Gateways under faults: processes that serve, clients that write down what they got, and a checker that joins the two.

A gateway here is the real application, delivery, log, publisher and follower in a process of its own, over a store of
made-up records. Its connections to PostgreSQL go through links of the parent's (``tests/support/ledger.py``), where a
fault strikes at a chosen message: the link is cut, the gateway or the server is killed, before the message or after
its answer. What a process told anybody, it writes to a file first, so that it is known after its death.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from pyroaring import BitMap64

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.disclosure.recordids import RecordIds
from proxy.ledger import sql
from proxy.ledger.fsck.live import live
from proxy.ledger.fsck.service import fsck
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.model import Appended, Entry, Kind, OpenedEntry
from proxy.ledger.published import Published
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.reader import open_rows
from proxy.ledger.service import Ledger
from proxy.ledger.tree import root

ROWS = 60
PIECE = 10
PROGRESS_ROWS = 20
QUESTION = "/v1/cdrs?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z"
ORIGIN = "gate.example/log"
PATIENCE_S = 0.6
_LINE = RecordIds(bytes(32), "carrier-a")


# --- the gateway's process -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """How a gateway is run. ``log`` and ``tree`` are connection arguments: for appends; for publisher and follower."""

    name: str
    home: str
    keyring: str
    log: dict[str, Any]
    tree: dict[str, Any]
    publish: bool = True
    log_after_sending: bool = False
    """The planted mutant: it sends first and logs afterwards."""


class _AfterSending(Ledger):
    """A log that says "durable" at once, and writes a little later."""

    _later: set[asyncio.Task[Any]]

    async def append(self, entry: Entry) -> Appended:
        if entry.kind not in (Kind.ACCESS_INTENT, Kind.ACCESS_PROGRESS):
            return await super().append(entry)
        self._later = getattr(self, "_later", set())
        task = asyncio.create_task(self._write(entry))
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return Appended(0, entry.entry_id, datetime.now(UTC))

    async def _write(self, entry: Entry) -> None:
        await asyncio.sleep(0.02)
        with contextlib.suppress(Exception):
            await super().append(entry)


async def _serve(spec: Spec, ready: int) -> None:
    from tests.support.api import FakeReader, serving

    home = Path(spec.home)
    told = os.open(home / "told", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    keys = DataKeys(FileProvider(Path(spec.keyring)))
    async with contextlib.AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(asyncpg.create_pool(min_size=0, max_size=4, timeout=5, **arguments))
            for arguments in (spec.log, spec.tree)
        ]
        ledger = (_AfterSending if spec.log_after_sending else Ledger)(pools[0], keys, patience_s=PATIENCE_S)
        await ledger.start()
        append = ledger.append

        async def telling(entry: Entry) -> Appended:
            placed = await append(entry)
            if not spec.log_after_sending:
                os.write(told, f"entry {placed.index} {placed.entry_id}\n".encode())
            return placed

        ledger.append = telling  # type: ignore[method-assign]
        signing = LogKeys(SigningKeys(Path(spec.keyring)))
        published = Published(pools[1], signing, ledger, home / "log", ORIGIN)
        await published.start()
        if spec.publish:
            await Publisher(pools[1], signing, ledger.halt, 0.02, published=published.wake).start()
        async with serving(ledger, FakeReader(ROWS, PIECE), progress_rows=PROGRESS_ROWS, stall_s=5.0) as served:
            os.write(ready, f"ready {spec.name} {served.port}\n".encode())
            last = None
            while True:
                stored = published.served
                if stored is not None and (stored.size, stored.root) != last:
                    last = (stored.size, stored.root)
                    os.write(told, f"served {stored.size} {stored.root.hex()}\n".encode())
                await asyncio.sleep(0.005)


def _child(spec: Spec, ready: int) -> None:
    import logging

    logging.disable(logging.CRITICAL)
    for _ in range(20):  # a fault may strike while it starts: then it is started again, as a service is
        try:
            asyncio.run(_serve(spec, ready))
        except Exception:
            traceback.print_exc()
        time.sleep(0.1)


def _zygote() -> None:
    """Fork a gateway for each line; everything is imported once."""
    import tests.support.api  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ready = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        spec = Spec(**json.loads(line))
        if (pid := os.fork()) == 0:
            sys.stdin.close()
            try:
                _child(spec, ready)
            finally:
                os._exit(1)
        os.write(ready, f"pid {spec.name} {pid}\n".encode())


# --- the parent ------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A gateway: its process now, and where it listens."""

    spec: Spec
    pid: int = 0
    port: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)

    async def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self.up.clear()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while _state(self.pid) != "Z":  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def _state(pid: int) -> str:
    """The state of a process: Z where it is dead or gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


class Nodes:
    """Starts gateways, by a process that has everything imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: dict[str, Node] = {}

    async def __aenter__(self) -> Nodes:
        self._errors = (self._folder / "gateways.err").open("ab")
        self._zygote = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from tests.support.campaign import _zygote; _zygote()",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            await node.kill()
        self._zygote.kill()
        await self._zygote.wait()
        await self._reader
        self._errors.close()

    async def _read(self) -> None:
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            what, name, number = line.split()
            node = self.nodes[name.decode()]
            if what == b"pid":
                node.pid = int(number)
            else:
                node.port = int(number)
                node.up.set()

    async def start(self, spec: Spec) -> Node:
        """Start a gateway (again) and wait until it serves."""
        node = self.nodes.setdefault(spec.name, Node(spec))
        node.spec = spec
        node.up.clear()
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
        async with asyncio.timeout(60):
            await node.up.wait()
        return node

    def told(self) -> dict[str, list[list[str]]]:
        """What each gateway told, line by line, over all its lives (a line that its death cut off is left out)."""
        lines = {name: Path(node.spec.home, "told").read_text() for name, node in self.nodes.items()}
        return {name: [line.split() for line in text.split("\n")[:-1]] for name, text in lines.items()}


@dataclass(frozen=True)
class Received:
    """What one client got of one answer: whole lines only."""

    access_id: UUID | None
    ids: frozenset[int]
    first_at: float
    """When the first record came, seconds since 1970."""
    whole: bool
    status: int


async def pull(port: int) -> Received:
    """Pull everything, and keep what came, whatever befell."""
    status, access, data, first_at, whole = 0, None, b"", 0.0, False
    headers = {"Authorization": "DPoP a", "Accept": "text/csv", "Accept-Encoding": "identity"}
    url = f"http://127.0.0.1:{port}{QUESTION}"
    with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as http,
            http.get(url, headers=headers) as response,
        ):
            status = response.status
            if status == 200:
                access = UUID(response.headers["Access-Id"])
                async for chunk in response.content.iter_any():
                    first_at = first_at or time.time()
                    data += chunk
                whole = True
            else:
                await response.read()
    lines = data.decode().split("\n")[:-1]
    ids = [_LINE.sequence(line.partition(",")[0]) for line in lines[1:]]
    assert None not in ids
    return Received(access, frozenset(i for i in ids if i is not None), first_at, whole, status)


# --- the checker -----------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What the join of what clients got with the verified log says."""

    entries: int
    checkpoints: int
    acknowledged: int
    served: int
    rows: int
    unlogged: int
    """Records that a client received and the log does not name."""
    late: int
    """Answers whose first record came before their intent."""
    overstated: int
    """Records that the log counts as disclosed and no client received."""
    faults: Counter[str] = field(default_factory=Counter)


async def check(url: str, keyring: Path, nodes: Nodes, received: Sequence[Received]) -> Verdict:
    """Hold everything against the log, after the log was held against itself.

    Raises:
        AssertionError: fsck is not clean, an acknowledged entry does not stand where it was said to, a size shrank, or
            one size had two roots. Rows that are not logged are counted, not raised.
    """
    told = nodes.told()  # first: what is told later need not stand in the snapshot
    conn = await asyncpg.connect(url)
    try:
        keys = DataKeys(FileProvider(keyring))
        async with live(conn, keys) as source:
            report = await fsck(source, Trusted(SigningKeys(keyring).all_public("log")))
            assert report.clean, [finding.as_json() for finding in report.findings[:5]]
            opened: list[OpenedEntry] = []
            stands: list[tuple[str, str]] = []
            while rows := await conn.fetch(sql.READ, len(stands) - 1, 1000, None):
                stands += [(str(row["entry_id"]), row["leaf_hash"].hex()) for row in rows]
                opened += await open_rows(conn, keys, rows)
    finally:
        await conn.close()
    assert [entry.index for entry in opened] == list(range(report.entries)), "a gap"
    acknowledged, served = _told(told, stands)
    unlogged, late, overstated = join(opened, received)
    got = sum(len(r.ids) for r in received)
    return Verdict(report.entries, report.checkpoints, acknowledged, served, got, unlogged, late, overstated)


def _told(told: dict[str, list[list[str]]], stands: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Hold what gateways told against what stands (entry id and leaf, by index); return how much they told."""
    acknowledged = served = 0
    leaves = [bytes.fromhex(leaf) for _, leaf in stands]
    roots: dict[int, str] = {}
    for lines in told.values():
        size = 0
        for what, number, *rest in lines:
            if what == "entry":
                acknowledged += 1
                assert stands[int(number)][0] == rest[0], f"entry {number} was acknowledged and is not there"
            else:
                served += 1
                assert int(number) >= size, f"what was served shrank from {size} to {number}"
                size = int(number)
                assert roots.setdefault(size, rest[0]) == rest[0], f"two roots for size {size}"
    for size, said in roots.items():
        assert size <= len(leaves), f"size {size} was served and the log is shorter"
        assert root(leaves[:size]).hex() == said, f"the root that was served for size {size} is not the log's"
    return acknowledged, served


def join(entries: Sequence[OpenedEntry], received: Sequence[Received]) -> tuple[int, int, int]:
    """Return (records received and not logged, answers that began before their intent, records logged in excess)."""
    accesses: dict[UUID, list[OpenedEntry]] = {}
    for entry in entries:
        if entry.access_id is not None:
            accesses.setdefault(entry.access_id, []).append(entry)
    unlogged = late = overstated = 0
    for r in received:
        if r.access_id is None:
            assert not r.ids, "records without an access"
            continue
        own = accesses.get(r.access_id, [])
        disclosed = _disclosed(own)
        unlogged += len(r.ids - disclosed)
        overstated += len(disclosed - r.ids)
        intents = [e for e in own if e.kind is Kind.ACCESS_INTENT]
        late += bool(r.ids and intents and r.first_at < intents[0].at.timestamp())
    return unlogged, late, overstated


def _disclosed(entries: Sequence[OpenedEntry]) -> set[int]:
    """What an access disclosed by the log's rules: written here again, apart from the code that is tested."""
    found: set[int] = set()
    intent = next((e for e in entries if e.kind is Kind.ACCESS_INTENT), None)
    if intent is None:
        return found
    assert intent.records is not None
    last, outcome = int(intent.records["after_id"]), None
    for entry in entries:
        if entry.kind in (Kind.ACCESS_PROGRESS, Kind.ACCESS_OUTCOME):
            assert entry.records is not None
            found |= _set(entry.records["records"]) | _set(entry.records.get("in_flight"))
            if entry.kind is Kind.ACCESS_OUTCOME:
                outcome = entry
            elif entry.records["place"]:
                last = max(last, int(entry.records["place"][3]))
    if outcome is None:
        found |= set(range(last + 1, int(intent.records["as_of"]) + 1))
    return found


def _set(value: dict[str, Any] | None) -> set[int]:
    if value is None:
        return set()
    if "roaring" in value:
        return set(BitMap64.deserialize(base64.b64decode(value["roaring"])))
    return {i for first, last in value.get("runs", ()) for i in range(int(first), int(last) + 1)}


# --- the server ------------------------------------------------------------------------------------------------------


@dataclass
class Postgres:
    """An embedded server that can be killed, paused and started again."""

    home: Path
    url: str

    def pids(self) -> list[int]:
        """The postmaster and its children, the postmaster first."""
        lines = (self.home / "pgdata" / "postmaster.pid").read_text().splitlines()
        master = int(lines[0])
        found = [master]
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int((each / "stat").read_text().rpartition(")")[2].split()[1]) == master:
                    found.append(int(each.name))
        return found

    async def kill(self) -> None:
        """SIGKILL every process of it; gone when this returns."""
        lines = (self.home / "pgdata" / "postmaster.pid").read_text().splitlines()
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_state(pid) != "Z" for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        # In a container whose init reaps nobody, a dead postmaster looks alive to the next one.
        (self.home / "pgdata" / "postmaster.pid").unlink(missing_ok=True)
        for lock in Path(lines[4]).glob(".s.PGSQL.*.lock"):  # noqa: ASYNC240
            lock.unlink()

    async def start(self) -> None:
        """Start it (again)."""
        from proxy.cli import embedded

        await asyncio.to_thread(embedded._start, self.home, self.home / "pgdata")

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Stop every process of it for a while."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
