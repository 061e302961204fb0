"""The follower: which checkpoint this gateway serves, and whether the database still is the log it was.

*Published* is the newest checkpoint of the current origin with cosignatures of enough of the configured witnesses.
Every gateway polls for it, checks it (signed by the log, no smaller than the last, consistent with the last), writes it
to its anchor file, and only then serves it. So what a client has been shown is on disk outside the database, and a
database that was put back to an older state, or has another history, is noticed:

* at the start, before anything is appended: the database must hold at least what the anchor states, with its root;
* in every round: neither the log nor its newest checkpoint may have become smaller, nor their root another.

What is noticed halts the log: nothing is appended, disclosed or published until somebody has looked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import asyncpg

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError, VerifierKey
from proxy import logs, metrics
from proxy.config import ConfigError
from proxy.ledger import anchor, checkpoints, tree
from proxy.ledger.checkpoints import RECOVER, LogInconsistent, Origin, Stored
from proxy.ledger.model import Entry, Kind, LedgerError
from proxy.ledger.origins import matches, recovered, signed
from proxy.ledger.publisher import AWAY, LogKeys
from proxy.ledger.service import Ledger

POLL_S = 0.25
ROUND_S = 20.0
ORIGIN_LOCK = 0x746F6C6C6F726967
"""Key of the advisory lock under which the first origin is made ("tollorig")."""

_LOG = logs.get("published")
_T = TypeVar("_T")


class NotPublished(LedgerError):  # noqa: N818 - it says what is so
    """What was asked for is in the log and not yet under a published checkpoint."""


class Published:
    """What this gateway serves of the log's tree.

    Args:
        pool: connections of role LOG.
        keys: the log's keys.
        ledger: the log; halted when the database is not what it was.
        directory: where the anchor file is.
        origin: the origin that is configured.
        witnesses: cosigners whose cosignatures count.
        quorum: how many of them a checkpoint needs.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: LogKeys,
        ledger: Ledger,
        directory: Path,
        origin: str,
        *,
        witnesses: Sequence[VerifierKey] = (),
        quorum: int = 0,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._ledger = ledger
        self._directory = directory
        self._configured = origin
        self._witnesses = list(witnesses)
        self._quorum = quorum
        self._origin: Origin | None = None
        self._own: list[VerifierKey] = []
        self._accepted: Stored | None = None
        self._served: Stored | None = None
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._seen = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def served(self) -> Stored | None:
        """The published checkpoint, with its cosignatures; None before the first, and while the log is halted."""
        return None if self._ledger.halted else self._served

    @property
    def origin(self) -> str:
        """The current origin's name (the configured one before it is known)."""
        return self._configured if self._origin is None else self._origin.name

    @property
    def vkey(self) -> str:
        """The log's current key, as text: a hint for people, who must have it from elsewhere too."""
        return str(self._own[0]) if self._own else ""

    async def start(self) -> None:
        """Make the log's first origin if it has none, hold the database against the anchor, begin to follow.

        A database that is not the anchor's log does not raise: the log is halted, which readiness and metrics show.

        Raises:
            ConfigError: another origin is configured than the log's.
            AnchorError: the anchor file cannot be read.
        """
        await asyncio.to_thread(anchor.sweep, self._directory)
        held = await asyncio.to_thread(anchor.read, self._directory)
        try:
            async with asyncio.timeout(ROUND_S), self._pool.acquire(timeout=ROUND_S) as conn:
                await self._open(conn, held)
                await self._follow(conn)
        except LogInconsistent as error:
            self._ledger.halt(str(error))
            return
        self._task = asyncio.create_task(self._run(), name="log follower")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def wake(self) -> None:
        """Look at once: there is a new checkpoint or cosignature."""
        self._wake.set()

    async def check(self) -> None:
        """Return if the log goes on and its checkpoints are being followed (for readiness).

        Raises:
            LedgerError: says what is wrong.
        """
        if reason := self._ledger.halted:
            raise LedgerError(f"the log is halted: {reason}")
        if time.monotonic() - self._seen > ROUND_S:
            raise LedgerError("the log's checkpoints cannot be followed")

    async def covering(self, size: int, patience_s: float) -> Stored:
        """Return a published checkpoint of at least ``size``, waiting for one if need be.

        Raises:
            NotPublished: there is none within ``patience_s`` seconds.
        """

        def there() -> bool:
            return self.served is not None and self.served.size >= size

        self.wake()
        try:
            async with asyncio.timeout(patience_s), self._moved:
                await self._moved.wait_for(there)
        except TimeoutError:
            raise NotPublished("not published so far yet") from None
        assert self.served is not None
        return self.served

    async def follow(self) -> None:
        """Do one round now.

        Raises:
            LogInconsistent: the database is not what it was; the log is halted too.
            OSError, TimeoutError, KeysError, asyncpg.PostgresError: something is away.
        """
        try:
            async with asyncio.timeout(ROUND_S), self._pool.acquire(timeout=ROUND_S) as conn:
                await self._follow(conn)
        except LogInconsistent as error:
            self._ledger.halt(str(error))
            raise

    async def _run(self) -> None:
        warned = False
        while not self._ledger.halted:
            try:
                await self.follow()
                warned = False
            except LogInconsistent:
                return
            except Exception as error:  # AWAY, or a defect: what is not followed is not served, and readiness fails
                if not warned or not isinstance(error, AWAY):
                    logs.event(_LOG, logging.WARNING, "log.follow_failed", error)
                warned = True
            self._wake.clear()
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _open(self, conn: asyncpg.Connection, held: bytes | None) -> None:
        known = await checkpoints.origins(conn)
        if not known:
            if held is not None:
                raise LogInconsistent(f"the anchor file is of a log that this database does not hold: {RECOVER}")
            known = await self._first(conn)
        self._origin = current = known[-1]
        if not matches(self._configured, current):
            raise ConfigError(
                f"log_origin is {self._configured!r}, and this database's log is {current.name!r}: set log_origin to"
                f" {current.name!r} (auditors and witnesses know the log by it)"
            )
        self._own = await asyncio.to_thread(self._keys.verifiers, current.name)
        if held is not None:
            await self._hold(conn, held, known)

    async def _first(self, conn: asyncpg.Connection) -> list[Origin]:
        """Open the log: origin and entry in one transaction, by whichever gateway comes first."""
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", ORIGIN_LOCK)
            if not (known := await checkpoints.origins(conn)):
                known = [Origin(1, self._configured, 0, None)]
                await conn.execute(checkpoints.ADD_ORIGIN, 1, self._configured, 0, None)
                await self._ledger.append_in(
                    conn, [Entry(Kind.LOG_ORIGIN, request={"origin": self._configured, "epoch": 1})]
                )
        # The key is made now, not in the first round of some publisher.
        await asyncio.to_thread(self._keys.signer, self._configured)
        return known

    async def _hold(self, conn: asyncpg.Connection, held: bytes, known: Sequence[Origin]) -> None:
        """Hold the database against the anchor."""
        checkpoint = await signed(held, self._keys)
        current = known[-1]
        if checkpoint.origin == current.name:
            stored = await checkpoints.newest(conn)
            if stored is None or stored.size < checkpoint.size:
                raise LogInconsistent(f"the log is behind its checkpoint of size {checkpoint.size}: {RECOVER}")
        elif await self._recovered(checkpoint, known):
            return
        if await checkpoints.head(conn) < checkpoint.size:
            raise LogInconsistent(f"the log is shorter than its checkpoint of size {checkpoint.size}: {RECOVER}")
        if await _at(conn, checkpoint.size) != checkpoint.root:
            raise LogInconsistent(f"the log's root at size {checkpoint.size} is not the one served before: {RECOVER}")
        if checkpoint.origin == current.name:
            self._accepted = self._served = Stored(current.epoch, checkpoint.size, checkpoint.root, held)

    async def _recovered(self, checkpoint: Checkpoint, known: Sequence[Origin]) -> bool:
        """Whether a recovery since says, in the log, that the anchor's tree is not the one that stands.

        Raises:
            LogInconsistent: if an origin since was opened by no recovery, or by one that did not know of the anchor and
                kept too little.
        """
        own = next((each for each in known if each.name == checkpoint.origin), None)
        # Where the anchor's origin is itself one that was lost, whoever answers for it stands anywhere.
        since = [each for each in known if each.epoch > (1 if own is None else own.epoch)]
        said = [await recovered(self._ledger, each, self._keys) for each in since]
        knew = next((each for each in said if each.covers(checkpoint)), None)
        if knew is not None:
            return knew.diverged or knew.origin.first_size < checkpoint.size
        if own is None:
            raise LogInconsistent(f"the anchor file is of another log or recovery than this database's: {RECOVER}")
        if since[0].first_size < checkpoint.size:
            raise LogInconsistent(
                f"the log was recovered without the checkpoint of size {checkpoint.size} that this gateway had"
                f" served (its anchor file): {RECOVER}"
            )
        return False

    async def _follow(self, conn: asyncpg.Connection) -> None:
        """One round. Nothing is served that the anchor file does not hold."""
        origin, before = self._origin, self._accepted
        assert origin is not None
        newest = await checkpoints.newest(conn)
        size = await checkpoints.head(conn)  # read after the checkpoint, so never behind it in a sound log
        self._compare(newest, size)
        if newest is None or newest.epoch != origin.epoch:
            self._seen = time.monotonic()
            return
        if self._quorum:
            names = [key.name for key in self._witnesses]
            floor = 0 if before is None else before.size
            found = await checkpoints.newest_cosigned(conn, origin.epoch, floor, names, self._quorum)
        else:
            found = newest
        if found is not None and (before is None or found.size >= before.size):
            full = await checkpoints.with_cosignatures(conn, found)
            if (self._served is None or full.note != self._served.note) and self._enough(full):
                await self._accept(conn, origin, full)
        self._seen = time.monotonic()

    def _compare(self, newest: Stored | None, size: int) -> None:
        before = self._accepted
        if before is None:
            if newest is not None and size < newest.size:
                raise LogInconsistent(f"the log is shorter than its checkpoint of size {newest.size}: {RECOVER}")
            return
        if size < before.size:
            raise LogInconsistent(f"the log shrank from {before.size} to {size} entries: {RECOVER}")
        if (
            newest is None
            or newest.epoch < before.epoch
            or (newest.epoch == before.epoch and newest.size < before.size)
        ):
            raise LogInconsistent(f"the checkpoint of size {before.size}, served before, is gone: {RECOVER}")
        if newest.epoch > before.epoch:
            raise LogInconsistent("the log goes on under another origin: set log_origin and restart the gateway")
        if newest.size == before.size and newest.root != before.root:
            raise LogInconsistent(f"the log has another root for size {before.size} than was served before: {RECOVER}")

    async def _accept(self, conn: asyncpg.Connection, origin: Origin, full: Stored) -> None:
        self._own = await asyncio.to_thread(self._keys.verifiers, origin.name)
        checkpoint = full.verified(origin.name, self._own)
        before = self._accepted
        if before is not None:
            sizes = (before.size, full.size)
            shown = await proof(conn, full.size, lambda read: tree.consistency_proof(*sizes, read))
            _consistent(before, checkpoint, shown)
        elif await _at(conn, full.size) != full.root:
            raise LogInconsistent(f"the log's tiles do not come to the root signed for size {full.size}: {RECOVER}")
        # Dying before the anchor is written: it was not served. After: the next start begins from it.
        await asyncio.to_thread(anchor.write, self._directory, full.note)
        async with self._moved:
            self._accepted = self._served = full
            self._moved.notify_all()
        metrics.LOG_PUBLISHED.set(full.size)
        metrics.LOG_PUBLISHED_AT.set_to_current_time()

    def _enough(self, full: Stored) -> bool:
        if not self._quorum:
            return True
        try:
            return len(Note.parse(full.note).verify(self._witnesses)) >= self._quorum
        except NoteError as error:
            logs.event(_LOG, logging.ERROR, "log.cosignature_bad", error, size=full.size)
            return False


async def _at(conn: asyncpg.Connection, size: int) -> bytes:
    """The root at ``size`` by the tiles and leaves that stand."""
    return await proof(conn, size, lambda read: tree.root_at(size, read))


async def proof(conn: asyncpg.Connection, size: int, function: Callable[[tree.Read], _T]) -> _T:
    """Run a function of proxy.ledger.tree over the tiles of the tree of ``size`` leaves.

    Raises:
        LogInconsistent: if a tile is missing.
    """
    try:
        return await checkpoints.over_tiles(conn, size, function)
    except tree.ProofError as error:
        raise LogInconsistent(f"the tiles of size {size} give no proof ({error}): {RECOVER}") from error


def _consistent(old: Stored, new: Checkpoint, shown: Sequence[bytes]) -> None:
    try:
        tree.verify_consistency(old.size, new.size, shown, old.root, new.root)
    except tree.ProofError as error:
        raise LogInconsistent(
            f"the checkpoint of size {new.size} does not continue the one of size {old.size}: {RECOVER}"
        ) from error
