"""The publisher: makes the tree over what has been appended, signs it, and asks the witnesses.

A task in every gateway; of those on one database one at a time does the work, the one whose connection holds an
advisory lock (`LOCK`). Appends neither wait for it nor know of it. One round:

1. Read the head and the leaves since the last checkpoint. Only committed entries are seen, so nothing that could still
   be rolled back is signed. Dying here leaves nothing.
2. Sign, and insert tiles and checkpoint in one transaction. Dying before its COMMIT leaves a signature that nobody has;
   dying after it, a checkpoint that the next publisher begins from. A lost reply is read again from the tables.
3. Only what stands is shown to anybody: witnesses get it now, clients when the follower has taken it
   (proxy.ledger.published).

The lock keeps honest processes apart; it keeps nobody out, for whoever can log in can take it. So a process that cannot
publish looks whether anybody does, and says who holds the lock where nobody does (`SILENT_S`).

Whoever becomes the publisher reads the edge of the tree from the tables and must come to the root that was signed last;
otherwise nothing is signed and the log is halted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.errors import KeysError
from keys.notes import Note, Signer, VerifierKey, sign
from keys.signing import SigningKeys
from proxy import logs, metrics
from proxy.ledger import checkpoints, tiles, tree
from proxy.ledger.checkpoints import RECOVER, LogInconsistent, Origin, Stored
from proxy.ledger.tiles import Edge
from proxy.ledger.witnesses import Prove, Witnesses

LOCK = 0x746F6C6C676C6F67
"""Key of the session-level advisory lock that the publisher holds ("tollglog"); advisory locks are per database."""

ROUND_MAX = 1 << 16
"""Most entries between two checkpoints (2 MiB of hashes); a long log that was never published gives several at once."""

LOOK_S = 10.0
"""How often a process that does not publish looks whether anybody does, seconds."""

SILENT_S = 60.0
"""How long entries may be waiting for a checkpoint before it says who holds the lock; again after as long."""

_HOLDER = """
SELECT l.pid, a.usename FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32) + l.objid::bigint = $1
"""

ROUND_S = 20.0
"""How long one round may take before its connection is given up, seconds."""

_LOG = logs.get("publisher")

AWAY = (
    OSError,
    TimeoutError,
    KeysError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
)
"""What may be otherwise in the next round."""


class LogKeys:
    """The log's keys in the notes' form: what is signed with, and what may have signed.

    Methods may read files: call them in a thread.
    """

    def __init__(self, signing: SigningKeys) -> None:
        self._signing = signing

    def signer(self, origin: str) -> Signer:
        """Return the current key, under the origin's name.

        Raises:
            KeysError: if the keyring cannot be read, or its key for the log is none for notes.
        """
        private = self._signing.current("log").private_key
        if not isinstance(private, Ed25519PrivateKey):
            raise KeysError("the log is signed with an Ed25519 key: `tollgate keys rotate log` makes one")
        return Signer(origin, private)

    def verifiers(self, origin: str) -> list[VerifierKey]:
        """Return the public halves that are published, newest first. Raises as `signer`."""
        return [VerifierKey.from_jwk(origin, jwk) for jwk in self._signing.all_public("log")]


class Publisher:
    """Publishes the log of one database while it holds the lock.

    Args:
        pool: connections of role LOG; one is kept, one or two more are taken for moments.
        keys: the log's keys.
        halt: called with the reason when the log must not go on.
        interval_s: time between rounds, seconds.
        published: called after each new checkpoint.
        witnesses: asked after each new checkpoint, beside the rounds.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: LogKeys,
        halt: Callable[[str], None],
        interval_s: float = 0.5,
        *,
        published: Callable[[], None] = lambda: None,
        witnesses: Witnesses | None = None,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._halt = halt
        self._interval = interval_s
        self._published = published
        self._witnesses = witnesses
        self._conn: asyncpg.pool.PoolConnectionProxy | None = None
        self._origin: Origin | None = None
        self._edge: Edge | None = None
        self._last: Stored | None = None
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._broken: str | None = None
        self._look_at = 0.0
        self._newest: tuple[int, int] | None = None
        self._since = 0.0

    async def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._run(), name="log publisher")

    async def stop(self) -> None:
        """End them; the lock goes to another gateway."""
        for task in (self._task, self._asking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._task = self._asking = None
        await self._drop()

    async def once(self) -> Stored | None:
        """Publish until everything that was committed before is covered.

        Returns:
            The newest checkpoint, or None where another process publishes or the log is empty.

        Raises:
            LogInconsistent: the log is not a continuation of what was signed.
            OSError, TimeoutError, KeysError, asyncpg.PostgresError: something is away.
        """
        try:
            async with asyncio.timeout(ROUND_S):
                if not await self._lead():
                    await self._look()
                    return None
                self._newest = None
                while await self._round():
                    pass
                return self._last
        except BaseException:
            # What this process believes may not be what stands: the tables are read again.
            await self._drop()
            raise

    async def ask(self) -> None:
        """Ask the witnesses about the newest checkpoint.

        Raises:
            LogInconsistent: one of them holds a checkpoint that this log's key signed and that is not of this tree.
        """
        last = self._last
        if self._witnesses is None or last is None:
            return

        async def store(witness: str, line: str) -> None:
            async with self._pool.acquire(timeout=ROUND_S) as conn:
                await checkpoints.add_cosignature(conn, last, witness, line)
            self._published()

        await self._witnesses.cosign(last.note, last.size, self._prover(last.size), store, self._contradicted)

    async def _run(self) -> None:
        warned = False
        while True:
            if self._broken is not None:
                self._halt(self._broken)
                await self._drop()
                return
            try:
                leading = await self.once() is not None
                warned = False
                if leading and self._witnesses is not None and (self._asking is None or self._asking.done()):
                    self._asking = asyncio.create_task(self._ask(), name="log witnesses")
            except LogInconsistent as error:
                self._halt(str(error))
                return
            except Exception as error:  # AWAY, or a defect: either way the next round begins from the tables
                metrics.LOG_PUBLISH_FAILURES.inc()
                if not warned or not isinstance(error, AWAY):
                    logs.event(_LOG, logging.WARNING, "log.publish_failed", error)
                warned = True
            await asyncio.sleep(self._interval)

    async def _ask(self) -> None:
        try:
            await self.ask()
        except LogInconsistent as error:
            self._broken = str(error)
        except Exception as error:
            logs.event(_LOG, logging.WARNING, "log.cosignature_unwritten", error)

    async def _contradicted(self, witness: str, note: Note) -> bool:
        """Hold the tree against what a witness holds. The log's own signature is the proof; a witness cannot make it.

        What was shown to a witness was committed before, so it stands in a sound database, whoever publishes now.

        Returns:
            Whether it is a checkpoint of this tree; False where the log has not signed it, and it proves nothing.

        Raises:
            LogInconsistent: the log has signed it, and it is not.
        """
        origin = self._origin
        assert origin is not None
        try:
            keys = await asyncio.to_thread(self._keys.verifiers, origin.name)
            checkpoint = checkpoints.verified(str(note).encode(), origin.name, keys)
        except LogInconsistent:
            logs.event(_LOG, logging.WARNING, "log.witness_proves_nothing", witness=witness)
            return False
        async with self._pool.acquire(timeout=ROUND_S) as conn:
            newest = await checkpoints.newest(conn, origin.epoch)
            size = 0 if newest is None else newest.size
            if checkpoint.size > size:
                raise LogInconsistent(
                    f"witness {witness} holds a checkpoint of size {checkpoint.size} with this log's signature, and the"
                    f" database's newest is of size {size}: {RECOVER}"
                )
            root = await checkpoints.over_tiles(conn, size, lambda read: tree.root_at(checkpoint.size, read))
        if root != checkpoint.root:
            raise LogInconsistent(
                f"witness {witness} holds another root of size {checkpoint.size} with this log's signature: {RECOVER}"
            )
        return True

    async def _lead(self) -> bool:
        if self._conn is not None and self._conn.is_closed():
            await self._drop()
        if self._conn is None:
            self._conn = await self._pool.acquire(timeout=ROUND_S)
        if self._edge is None:
            if not await self._conn.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                return False
            try:
                await self._load(self._conn)
            except BaseException:
                self._edge = None  # the lock is released with the connection, by `_drop`
                raise
        return True

    async def _look(self) -> None:
        """Say so where another holds the lock and publishes nothing: any login to the database can take it."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        conn = self._conn
        assert conn is not None
        found = await checkpoints.newest(conn)
        newest = (0, 0) if found is None else (found.epoch, found.size)
        waiting = await checkpoints.head(conn) - newest[1]
        if newest != self._newest or waiting <= 0:
            self._newest, self._since = newest, now
        elif now - self._since >= SILENT_S:
            self._since = now
            holder = await conn.fetchrow(_HOLDER, LOCK)
            pid, role = (None, None) if holder is None else holder
            logs.event(_LOG, logging.WARNING, "log.publisher_silent", entries=waiting, pid=pid, role=role)

    async def _load(self, conn: asyncpg.Connection) -> None:
        """Begin where the last checkpoint ends, after coming to its root."""
        known = await checkpoints.origins(conn)
        if not known:
            raise LogInconsistent("the log has no origin: a gateway makes it when it starts")
        self._origin = origin = known[-1]
        last = await checkpoints.newest(conn)
        size = 0 if last is None else last.size
        if last is not None:
            of = next((one for one in known if one.epoch == last.epoch), None)
            if of is None:
                raise LogInconsistent(f"a checkpoint's origin is missing: {RECOVER}")
            last.verified(of.name, await asyncio.to_thread(self._keys.verifiers, of.name))
        edge = await checkpoints.edge(conn, size)
        if last is not None and edge.root() != last.root:
            raise LogInconsistent(f"the log's tiles do not come to the root signed for size {size}: {RECOVER}")
        # The newest checkpoint of this origin; what an older one signed only says where the tree goes on.
        self._last = last if last is not None and last.epoch == origin.epoch else None
        self._edge = edge

    async def _round(self) -> bool:
        """Publish what has come; False where nothing has."""
        conn, origin, edge = self._conn, self._origin, self._edge
        assert conn is not None
        assert origin is not None
        assert edge is not None
        size = await checkpoints.head(conn)
        if size < edge.size:
            raise LogInconsistent(f"the log shrank from {edge.size} to {size} entries: {RECOVER}")
        if size == 0 or size < origin.first_size or (size == edge.size and self._last is not None):
            return False
        size = min(size, max(edge.size + ROUND_MAX, origin.first_size))
        new = await checkpoints.leaves(conn, edge.size, size) if size > edge.size else []
        grown = edge.copy()
        full = await asyncio.to_thread(grown.append, new) if len(new) > tiles.WIDTH else grown.append(new)
        root = grown.root()
        note = await asyncio.to_thread(self._signed, origin.name, grown.size, root)
        stored = Stored(origin.epoch, grown.size, root, note)
        await checkpoints.add(conn, stored, full, ROUND_S)
        self._edge, self._last = grown, stored
        metrics.LOG_CHECKPOINTS.inc()
        self._published()
        return True

    def _signed(self, origin: str, size: int, root: bytes) -> bytes:
        return str(sign(Checkpoint(origin, size, root).text, self._keys.signer(origin))).encode()

    def _prover(self, size: int) -> Prove:
        async def prove(old: int) -> list[bytes]:
            async with self._pool.acquire(timeout=ROUND_S) as conn:
                return await checkpoints.over_tiles(conn, size, lambda read: tree.consistency_proof(old, size, read))

        return prove

    async def _drop(self) -> None:
        self._edge = None
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(Exception):
                conn.terminate()  # the lock with it
            with contextlib.suppress(Exception):
                await self._pool.release(conn)
