"""Proving the entries that a count relies on: each is in the tree that the log has signed. Opens nothing.

An entry read back has already been held against its own commitments; here its leaf is held against the tiles, and each
tile, by an inclusion proof of one of its leaves (into which all 256 go), against the newest checkpoint's root. Where
this machine keeps an anchor, the log must also continue it: a log rewritten and signed again does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from keys.checkpoint import Checkpoint
from proxy.ledger import anchor, checkpoints, origins, published, tree
from proxy.ledger.checkpoints import LogInconsistent, Stored
from proxy.ledger.model import LedgerBroken
from proxy.ledger.publisher import LogKeys
from proxy.ledger.tiles import WIDTH

AT_ONCE = 4_096
"""Entries that are proved together."""


@dataclass(slots=True)
class Proved:
    """What was proved: ``entries`` entries, all but ``unpublished`` of them against the checkpoint."""

    entries: int = 0
    unpublished: int = 0
    origin: str | None = None
    size: int = 0
    root: str | None = None
    anchored: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it for people and for the log."""
        found: dict[str, Any] = {"entries": self.entries, "unpublished": self.unpublished}
        if self.origin is not None:
            found["checkpoint"] = {"origin": self.origin, "size": self.size, "root": self.root}
            found["anchored"] = self.anchored
        return found


class Prover:
    """Takes entries, and proves them in groups.

    Args:
        pool: connections of role LOG.
        keys: what may have signed the log.
        directory: where this machine keeps its anchor (proxy.ledger.anchor), if it has one; None: no anchor is used.
    """

    def __init__(self, pool: asyncpg.Pool, keys: LogKeys, directory: Path | None = None) -> None:
        self._pool = pool
        self._keys = keys
        self._directory = directory
        self._newest: Stored | None = None
        self._waiting: list[tuple[int, bytes]] = []
        self.proved = Proved()

    async def begin(self) -> None:
        """Take the newest checkpoint; entries after it are told as unpublished.

        Raises:
            LogInconsistent: if it is not signed by the log's keys, or the log does not continue the anchor.
            AnchorError: if there is an anchor, and it cannot be read.
        """
        async with self._pool.acquire() as conn:
            known = await checkpoints.origins(conn)
            newest = await checkpoints.newest(conn)
            held = await self._held()
            if newest is None or not known:
                if held is not None:
                    raise LogInconsistent(f"the log is shorter than its anchor: {checkpoints.RECOVER}")
                return
            origin = next((o.name for o in known if o.epoch == newest.epoch), known[-1].name)
            newest.verified(origin, await asyncio.to_thread(self._keys.verifiers, origin))
            if held is not None:
                await self._continues(conn, held, newest)
                self.proved.anchored = True
        self._newest = newest
        self.proved.origin, self.proved.size, self.proved.root = origin, newest.size, newest.root.hex()

    async def take(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Take entries: index and leaf hash.

        Raises:
            LedgerBroken: if one of them is not in the tree.
            LogInconsistent: if the tiles do not lead to the root that was signed.
        """
        self._waiting += entries
        if len(self._waiting) >= AT_ONCE:
            await self._prove()

    async def finish(self) -> Proved:
        """Prove what waits; return what was proved. Raises as :meth:`take`."""
        await self._prove()
        return self.proved

    async def _held(self) -> Checkpoint | None:
        note = None if self._directory is None else await asyncio.to_thread(anchor.read, self._directory)
        return None if note is None else await origins.signed(note, self._keys)

    async def _continues(self, conn: asyncpg.Connection, held: Checkpoint, newest: Stored) -> None:
        if held.size > newest.size:
            raise LogInconsistent(f"the log is shorter than its anchor: {checkpoints.RECOVER}")
        root = await published.proof(conn, held.size, lambda read: tree.root_at(held.size, read)) if held.size else None
        if root is not None and root != held.root:
            raise LogInconsistent(f"the log does not continue its anchor: {checkpoints.RECOVER}")

    async def _prove(self) -> None:
        waiting, self._waiting = sorted(self._waiting), []
        self.proved.entries += len(waiting)
        size = self.proved.size
        published_ones = [each for each in waiting if each[0] < size]
        self.proved.unpublished += len(waiting) - len(published_ones)
        newest = self._newest
        if newest is None or not published_ones:
            return

        firsts = _first_of_each_tile([index for index, _ in published_ones])

        def gather(read: tree.Read) -> tuple[dict[int, bytes], list[tuple[int, list[bytes]]]]:
            leaves = {index: read(0, index) for index, _ in published_ones}
            return leaves, [(index, tree.inclusion_proof(index, size, read)) for index in firsts]

        async with self._pool.acquire() as conn:
            leaves, paths = await published.proof(conn, size, gather)
        for index, path in paths:
            try:
                tree.verify_inclusion(index, size, leaves[index], path, newest.root)
            except tree.ProofError as error:
                what = f"the tile of entry {index} does not lead to the root that was signed"
                raise LogInconsistent(f"{what}: {checkpoints.RECOVER}") from error
        for index, leaf in published_ones:
            if leaves[index] != leaf:
                raise LedgerBroken(index, "it is not the entry that the log has signed")


def _first_of_each_tile(indexes: Sequence[int]) -> list[int]:
    found: dict[int, int] = {}
    for index in indexes:
        found.setdefault(index // WIDTH, index)
    return list(found.values())
