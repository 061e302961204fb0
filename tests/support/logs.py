"""A whole log for tests: entries of many forms, its origin, checkpoints as the publisher makes them, a witness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.datakeys import DataKeys
from keys.notes import Cosigner, Note
from keys.signing import SigningKeys
from proxy.config import Config
from proxy.ledger.checkpoints import Stored
from proxy.ledger.fsck.anchors import Anchor
from proxy.ledger.fsck.live import Live, live
from proxy.ledger.fsck.model import Report
from proxy.ledger.fsck.service import fsck
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.model import Entry, Kind, Tag, new_id, number_tags
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.service import Ledger
from schema.roles import Role
from tests.support.ledger import intent, open_ledger, open_provider

ORIGIN = "log.example/calls"
WITNESS = Cosigner("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


async def published_once(publisher: Publisher) -> Stored:
    """One round, as soon as the lock is free: the server lets go of it a moment after the last connection was cut."""
    async with asyncio.timeout(10):
        while (stored := await publisher.once()) is None:  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.01)
    return stored


@dataclass
class Log:
    """A log on a test's database, with who may write, publish and check it."""

    config: Config
    owner: asyncpg.Connection
    """Superuser: the adversary's, and what bulk appends run on."""
    ledger: Ledger
    pool: asyncpg.Pool

    async def open(self, origin: str = ORIGIN) -> None:
        """Make the first origin."""
        # As the role that may: the owner need be none.
        async with self.pool.acquire() as conn, conn.transaction():
            await conn.execute("INSERT INTO tollgate.log_origin (epoch, origin, first_size) VALUES (1, $1, 0)", origin)
            await self.ledger.append_in(conn, [Entry(Kind.LOG_ORIGIN, request={"origin": origin, "epoch": 1})])

    async def add(self, *groups: int) -> None:
        """Append groups of so many entries, each group in one transaction."""
        for count in groups:
            async with self.owner.transaction():
                await self.ledger.append_in(self.owner, [entry(n) for n in range(count)])

    async def publish(self) -> None:
        """Sign a checkpoint over all that stands."""

        def halt(reason: str) -> None:
            raise AssertionError(reason)

        publisher = Publisher(self.pool, self.log_keys, halt)
        try:
            await published_once(publisher)
        finally:
            await publisher.stop()

    async def cosign(self, witness: Cosigner = WITNESS) -> None:
        """Have the newest checkpoint cosigned."""
        row = await self.newest()
        line = str(witness.cosign(Note.parse(row["note"]).text, 1_700_000_000))
        await self.owner.execute(
            "INSERT INTO tollgate.log_cosignature (epoch, size, witness, line) VALUES ($1, $2, $3, $4)",
            row["epoch"], row["size"], witness.key.name, line.encode(),
        )  # fmt: skip

    async def newest(self) -> asyncpg.Record:
        """The newest checkpoint's row."""
        return await self.owner.fetchrow("SELECT * FROM tollgate.log_checkpoint ORDER BY epoch DESC, size DESC LIMIT 1")

    @property
    def log_keys(self) -> LogKeys:
        """What the log signs with."""
        return LogKeys(SigningKeys(self.config.keyring_dir))

    @property
    def trusted(self) -> Trusted:
        """The log's own keys and the witness's."""
        return Trusted(SigningKeys(self.config.keyring_dir).all_public("log"), [WITNESS.key])

    async def check(
        self,
        anchors: Sequence[Anchor] = (),
        *,
        openings: bool = True,
        trusted: Trusted | None = None,
        conn: asyncpg.Connection | None = None,
    ) -> Report:
        """What fsck finds, seen from the owner's connection: also from inside its open transaction."""
        keys = DataKeys(open_provider(self.config)) if openings else None
        on = conn or self.owner
        if on.is_in_transaction():
            return await fsck(Live(on, keys), trusted or self.trusted, anchors)
        async with live(on, keys) as source:
            return await fsck(source, trusted or self.trusted, anchors)


def entry(n: int) -> Entry:
    """An entry; its form goes by ``n``."""
    if n % 4 == 3:
        return Entry(Kind.LOG_READ, actor={"os_user": "noc"}, request={"n": n}, tags=(Tag("staff", b"noc"),))
    made = intent(f"example-carrier-{n % 3}", new_id() if n % 2 else None, n=n)
    tags = (*made.tags, *number_tags(f"+1202555{100 + n % 100:04d}")) if n % 4 == 2 else made.tags
    outcome = {"rows": n, "sha256": "00" * 32} if n % 2 else {}
    records = {"runs": [[n, n + 5]]} if n % 2 else {}
    return Entry(made.kind, made.actor, made.request, outcome, records, access_id=made.access_id, tags=tags)


@contextlib.asynccontextmanager
async def open_log(config: Config, owner: asyncpg.Connection) -> AsyncIterator[Log]:
    """A log without entries."""
    async with (
        open_ledger(config) as ledger,
        asyncpg.create_pool(config.role_url(Role.LOG), min_size=1, max_size=4) as pool,
    ):
        yield Log(config, owner, ledger, pool)


async def filled(log: Log) -> Log:
    """Give it 600 entries in groups of many sizes, five checkpoints, two of them cosigned: two full tiles."""
    await log.open()
    await log.add(3, 1, 12)  # 17
    await log.publish()
    await log.add(*[7] * 33)  # 248
    await log.publish()
    await log.cosign()
    await log.add(40, 12)  # 300: over the end of the first tile
    await log.publish()
    await log.add(*[20] * 12)  # 540
    await log.publish()
    await log.cosign()
    await log.add(10, 1, 9, 30, 10)  # 600
    await log.publish()
    return log
