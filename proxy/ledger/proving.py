"""Makes receipts (proxy.ledger.receipts) from the log: a client's own entries, and proofs under what is published."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from proxy.ledger import receipts, tree
from proxy.ledger.checkpoints import Stored
from proxy.ledger.published import Published, proof
from proxy.ledger.reader import WholeEntry
from proxy.ledger.receipts import TlogProof
from proxy.ledger.service import Ledger

PATIENCE_S = 3.0
"""How long a question waits for its entries to be published, seconds."""


class Receipts:
    """Gives clients receipts.

    Args:
        ledger: the log.
        published: what of it is published.
        pool: connections of role LOG.
    """

    def __init__(self, ledger: Ledger, published: Published, pool: asyncpg.Pool) -> None:
        self._ledger = ledger
        self._published = published
        self._pool = pool

    async def of(self, access_id: UUID, client_id: str) -> bytes | None:
        """Return the receipt of a client's own access as it stands now, or None where there is none or it is another's.

        Raises:
            NotPublished: its entries are not under a published checkpoint, and were not within `PATIENCE_S`.
            LedgerBroken: if an entry is not what it commits to.
            LogInconsistent: if a tile is missing.
        """
        whole = await self._ledger.whole(access_id, client_id)
        return None if whole is None else (await self._made(access_id, whole, receipts.SHOWN))[0]

    async def for_recipient(self, access_id: UUID) -> tuple[bytes, Stored] | None:
        """Return the receipt of an extraction for whoever gets its production, and the checkpoint that it leads to.

        It opens what was asked (without the targets, which stand in ``records``) and what came of it; not who did it.

        Raises:
            NotPublished, LedgerBroken, LogInconsistent: as `of`.
        """
        whole = await self._ledger.entries_of(access_id)
        return None if not whole else await self._made(access_id, whole, ("request", "outcome"))

    async def _made(self, access_id: UUID, whole: Sequence[WholeEntry], shown: Collection[str]) -> tuple[bytes, Stored]:
        indexes = [each.entry.index for each in whole]
        stored = await self._published.covering(indexes[-1] + 1, PATIENCE_S)
        async with self._pool.acquire() as conn:
            proofs = await proof(
                conn, stored.size, lambda read: [tree.inclusion_proof(i, stored.size, read) for i in indexes]
            )
        note = stored.note.decode()
        entries = [
            (
                each.header,
                {part: data for part, data in each.openings.items() if part in shown},
                TlogProof(each.entry.index, tuple(hashes), note),
            )
            for each, hashes in zip(whole, proofs, strict=True)
        ]
        made = receipts.make(access_id, self._published.vkey, entries)
        return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode(), stored
