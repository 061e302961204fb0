"""Makes receipts (proxy.ledger.receipts) from the log: a client's own entries, and proofs under what is published."""

from __future__ import annotations

import json
from uuid import UUID

import asyncpg

from proxy.ledger import receipts, tree
from proxy.ledger.published import Published, proof
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
        if whole is None:
            return None
        indexes = [each.entry.index for each in whole]
        stored = await self._published.covering(indexes[-1] + 1, PATIENCE_S)
        async with self._pool.acquire() as conn:
            proofs = await proof(
                conn, stored.size, lambda read: [tree.inclusion_proof(i, stored.size, read) for i in indexes]
            )
        note = stored.note.decode()
        entries = [
            (each.header, each.openings, TlogProof(each.entry.index, tuple(hashes), note))
            for each, hashes in zip(whole, proofs, strict=True)
        ]
        made = receipts.make(access_id, self._published.vkey, entries)
        return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
