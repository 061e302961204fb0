"""The record store for tests: one on the test's database, calls to put in, and the auditor's view of all it holds.

Run as a forked process of :func:`killed`, the same things happen in a process that is killed in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.provider import DataKey, Period
from proxy.config import Config
from proxy.disclosure.reader import StoreReader
from proxy.disclosure.scope import Position, RowBlock, Scope
from proxy.formats.convert import remap as look_up
from proxy.formats.profile import Profile, load_profile
from proxy.ingest.service import Ingest, Report
from proxy.ledger.service import Ledger
from proxy.store.audit import check
from proxy.store.batches import CLASSES
from proxy.store.columns import join
from proxy.store.reseal.remap import Remapped, remap
from proxy.store.reseal.roll import Rolled, opened, roll, runs_of
from schema.fields import DisclosureClass
from schema.roles import Role

JULY = datetime(2026, 7, 1, tzinfo=UTC)
BILLING = frozenset(
    {
        DisclosureClass.TIMING,
        DisclosureClass.PARTIES,
        DisclosureClass.ROUTING,
        DisclosureClass.INGRESS_LEG,
        DisclosureClass.EGRESS_LEG,
    }
)
BOTH = frozenset({"ingress", "egress"})
AREAS = ("202", "303", "404", "505", "606", "707", "808", "909")

Call = dict[str, Any]


def us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def number(n: int) -> str:
    """One of 800 fictional numbers."""
    return f"+1{AREAS[n // 100 % len(AREAS)]}5550{100 + n % 100}"


def call(n: int, at: datetime = JULY, ingress: str = "123A", egress: str = "456B", **change: Any) -> Call:
    """Call number ``n`` (its identity), ``n`` minutes after ``at`` unless ``started_at`` says otherwise."""
    start = at + timedelta(minutes=n)
    row: Call = {
        "started_at": start.isoformat(),
        "answered_at": (start + timedelta(seconds=4)).isoformat(),
        "duration_ms": n * 1000,
        "disposition": "answered",
        "calling": number(n),
        "called": number(n * 7 + 3),
        "switch_id": "sw1",
        "ingress_ocn": ingress,
        "ingress_trunk": f"trunk-in-{ingress}",
        "ingress_call_id": f"callid-in-{n}@example",
        "ingress_peer_address": "192.0.2.77",
        "ingress_amount": "0.00410000",
        "ingress_currency": "USD",
        "egress_ocn": egress,
        "egress_trunk": "" if egress == "none" else f"trunk-out-{egress}",
        "egress_call_id": f"callid-out-{n}@example",
        "egress_peer_address": "198.51.100.88",
        "egress_amount": "0.00320000",
        "egress_currency": "USD",
    }
    return row | change


def calls(numbers: Iterable[int], **change: Any) -> list[Call]:
    """Several calls."""
    return [call(n, **change) for n in numbers]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write canonical CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def unmapped_profile(tmp_path: Path, mapped: Mapping[str, str] | None = None) -> Profile:
    """A profile that reads canonical CSV, but takes the OCNs from a trunk map: of its trunks, ``mapped`` are in it."""
    path = tmp_path / "trunks.csv"
    entries = {"trunk-in-123A": "123A", "trunk-out-456B": "456B", **(mapped or {})}
    lines = [f"{t},{'ingress' if '-in-' in t else 'egress'},{o}\n" for t, o in entries.items()]
    path.write_text("name,direction,ocn\n" + "".join(lines))
    return load_profile("tollgate", trunk_map=path)


@dataclass
class Store:
    """A store with what its operator and its auditor need."""

    config: Config
    conn: asyncpg.Connection
    """Role ingest."""
    side: asyncpg.Connection
    billing: asyncpg.Pool
    keys: DataKeys
    ledger: Ledger
    executor: ThreadPoolExecutor
    folder: Path
    profile: Profile = field(default_factory=lambda: load_profile("tollgate"))
    _files: int = 0

    def file(self, rows: Sequence[Mapping[str, Any]], name: str | None = None) -> Path:
        """Write the rows as a file."""
        self._files += 1
        return write_csv(self.folder / (name or f"file-{self._files}.csv"), rows)

    async def ingest(self, rows: Sequence[Mapping[str, Any]] | Path, profile: Profile | None = None) -> Report:
        """Ingest without rolling."""
        path = rows if isinstance(rows, Path) else self.file(rows)
        service = Ingest(self.conn, self.side, self.keys, self.ledger, self.executor, "operator-1")
        return await service.file(path, profile or self.profile)

    async def roll(self) -> Rolled:
        """Roll all that is staged."""
        return await roll(self.conn, self.keys, self.ledger, self.executor)

    async def add(self, rows: Sequence[Mapping[str, Any]], profile: Profile | None = None) -> Report:
        """Ingest and roll."""
        report = await self.ingest(rows, profile)
        await self.roll()
        return report

    async def remap(self, profile: Profile) -> Remapped:
        """Look unmapped trunks up again, then roll."""
        done = await remap(
            self.conn, self.keys, self.ledger, self.executor, lambda part: look_up(part, profile), profile.digest
        )
        await self.roll()
        return done

    async def check(self) -> list[str]:
        """What `store check` finds, without ids."""
        return [f.what async for f in check(self.conn, self.ledger)]

    def reader(self) -> StoreReader:
        """A reader as the gateway has it."""
        return StoreReader(self.billing, self.keys, self.executor)

    async def scope(
        self,
        ocns: Sequence[str] = ("123A",),
        sides: frozenset[str] = BOTH,
        start: datetime = JULY,
        end: datetime = JULY + timedelta(days=31),
        classes: frozenset[DisclosureClass] = BILLING,
        **more: int,
    ) -> Scope:
        """What a permit for the whole of July 2026 gives, as of now."""
        as_of = more.pop("as_of", None)
        if as_of is None:
            as_of = await self.reader().complete_to()
        return Scope(tuple(ocns), sides, us(start), us(end), classes, as_of, **more)

    async def pull(
        self,
        scope: Scope | None = None,
        after: Position | None = None,
        limit: int | None = None,
        search: str | None = None,
        work: Callable[[RowBlock], Any] = lambda block: filled(block.table.to_pylist()),
    ) -> list[Call]:
        """Read everything at once."""
        return [row async for rows, _, _ in self.pieces(scope, after, limit, search, work) for row in rows]

    async def pieces(
        self,
        scope: Scope | None = None,
        after: Position | None = None,
        limit: int | None = None,
        search: str | None = None,
        work: Callable[[RowBlock], Any] = lambda block: filled(block.table.to_pylist()),
    ) -> AsyncIterator[tuple[list[Call], int, Position]]:
        """Read piece by piece."""
        scope = scope or await self.scope()
        reader = self.reader()

        def made_of(block: RowBlock) -> Callable[[], Any]:
            found = work(block)
            return lambda: found

        if search is None:
            made = reader.stream(scope, after, made_of, limit)
        else:
            made = reader.search(scope, search, after, made_of, limit)
        async with contextlib.aclosing(made) as stream:  # type: ignore[type-var]
            async for piece in stream:
                yield piece

    async def contents(self) -> list[Call]:
        """Every record of the store, staged ones too, by record id: opened with the keys, past any policy."""
        found: list[Call] = []
        for row in await self.conn.fetch("SELECT DISTINCT month FROM tollgate.run"):
            month = row["month"]
            keys = await self.class_keys(month)
            tables = [t async for t in opened(self.conn, await runs_of(self.conn, month), keys, self.executor)]
            found += filled(join(tables).to_pylist())
        return sorted(found, key=lambda r: r["record_id"])

    async def class_keys(self, month: int) -> dict[DisclosureClass, DataKey]:
        """The data keys of every class."""
        found = await self.keys.ensure(self.conn, [Period(c.value, month) for c in CLASSES])
        return {c: found[Period(c.value, month)] for c in CLASSES}

    async def key(self, key_class: str, month: int) -> DataKey:
        """The data key of one class."""
        return (await self.keys.ensure(self.conn, [Period(key_class, month)]))[Period(key_class, month)]


def filled(rows: list[Call]) -> list[Call]:
    """Rows without their nulls: whether a null column is there or not hangs on what else is in a piece."""
    return [{n: v for n, v in row.items() if v is not None} for row in rows]


def call_ids(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """The numbers that :func:`call` was given, of the rows of an answer (by whichever leg shows)."""
    found = []
    for row in rows:
        text = row.get("ingress_call_id") or row.get("egress_call_id")
        assert text is not None
        found.append(int(text.split("-")[2].split("@")[0]))
    return found


@contextlib.asynccontextmanager
async def open_store(config: Config, folder: Path) -> AsyncIterator[Store]:
    """A store on the configuration's database and keyring (made if it is missing)."""
    if not config.keyring_dir.exists():
        FileProvider.create(config.keyring_dir)
    keys = DataKeys(FileProvider(config.keyring_dir))
    async with contextlib.AsyncExitStack() as stack:
        conn = await asyncpg.connect(config.role_url(Role.INGEST))
        stack.push_async_callback(conn.close)
        side = await asyncpg.connect(config.role_url(Role.INGEST))
        stack.push_async_callback(side.close)
        billing = await stack.enter_async_context(
            asyncpg.create_pool(config.role_url(Role.BILLING), min_size=1, max_size=3)
        )
        log = await stack.enter_async_context(asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=2))
        ledger = Ledger(log, DataKeys(FileProvider(config.keyring_dir)), config.log_group_max)
        await ledger.start()
        stack.push_async_callback(ledger.close)
        executor = stack.enter_context(ThreadPoolExecutor(2))
        yield Store(config, conn, side, billing, keys, ledger, executor, folder)


# Processes that are killed.


def worker(config: Config, folder: Path, path: Path | None, kill_at: int | None, before: bool) -> None:
    """Ingest ``path``, or roll; with ``kill_at``, die before or after sending so many statements."""

    async def work() -> None:
        async with open_store(config, folder) as store:
            if kill_at is not None:
                _arm(kill_at, before)
            await (store.ingest(path) if path is not None else store.roll())

    asyncio.run(work())


def _arm(kill_at: int, before: bool) -> None:
    """Count every statement of every connection; at the chosen one, SIGKILL."""
    left = kill_at

    def counted(original: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def run(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = left == 0
            made = await original(*args, **more)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        return run

    for name in ("execute", "fetch", "fetchval", "fetchrow"):
        setattr(asyncpg.Connection, name, counted(getattr(asyncpg.Connection, name)))


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.store"])


def process(*args: Any) -> Any:
    """A process (not yet started) that runs :func:`worker`: forked from one that has all modules loaded."""
    return _FORKS.Process(target=worker, args=args, daemon=True)


async def ended(child: Any) -> int:
    """Wait for a process; its exit code (negative: the signal)."""
    await asyncio.to_thread(child.join, 60)
    assert child.exitcode is not None, "the process hangs"
    code: int = child.exitcode
    child.close()
    return code
