"""Receipts for tests, made without a database: a log of some entries, its key, a witness, checkpoints of any size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Cosigner, Signer, sign
from proxy.ledger import encoding, receipts, tree
from proxy.ledger.model import PARTS, Entry, Kind, new_id, timestamp
from proxy.ledger.receipts import TlogProof

ORIGIN = "gate.example/log"
AT = timestamp(datetime(2026, 11, 5, 6, 7, 8, 9, tzinfo=UTC))


@dataclass
class PaperLog:
    """A log that is nothing but its entries."""

    signer: Signer = field(default_factory=lambda: Signer(ORIGIN, Ed25519PrivateKey.generate()))
    witness: Cosigner = field(default_factory=lambda: Cosigner("witness.example/w1", Ed25519PrivateKey.generate()))
    headers: list[bytes] = field(default_factory=list)
    openings: list[dict[str, bytes]] = field(default_factory=list)

    def add(self, *entries: Entry) -> list[int]:
        """Append entries; return their places."""
        first = len(self.headers)
        for entry in entries:
            encoded = encoding.encode(entry)
            self.headers.append(encoding.header(encoded, AT, b""))
            self.openings.append({p: data for p, data in zip(PARTS, encoded.openings, strict=True) if data})
        return list(range(first, len(self.headers)))

    @property
    def leaves(self) -> list[bytes]:
        """Leaf hashes."""
        return [tree.leaf_hash(hashlib.sha256(header).digest()) for header in self.headers]

    def note(self, size: int | None = None, *, cosigned: bool = False) -> str:
        """The signed checkpoint of a size."""
        leaves = self.leaves[: len(self.headers) if size is None else size]
        note = sign(Checkpoint(self.signer.key.name, len(leaves), tree.root(leaves)).text, self.signer)
        if cosigned:
            note = note.with_signatures([self.witness.cosign(note.text, 1_800_000_000)])
        return str(note)

    def proof(self, index: int, note: str) -> TlogProof:
        """The proof of an entry under a checkpoint of this log."""
        size = int(note.split("\n")[1])
        return TlogProof(index, tuple(tree.inclusion_proof(index, size, tree.reader(self.leaves))), note)

    def receipt(self, access_id: UUID, indexes: Sequence[int], note: str | None = None) -> dict[str, Any]:
        """The receipt of some entries, as the gateway makes it."""
        over = note or self.note()
        entries = [(self.headers[i], self.openings[i], self.proof(i, over)) for i in indexes]
        return receipts.make(access_id, str(self.signer.key), entries)


def access(
    client: str = "client-a", rows: int = 7, sha256: str = "ab" * 32, **outcome: Any
) -> tuple[UUID, list[Entry]]:
    """An access of a client: its intent and outcome, with records that the client is not shown."""
    access_id = new_id()
    said = {"state": "complete", "rows": rows, "bytes": 100, "sha256": sha256, **outcome}
    actor = {"client_id": client}
    return access_id, [
        Entry(Kind.ACCESS_INTENT, actor, {"purpose": "billing"}, {}, {"as_of": "9"}, access_id=access_id),
        Entry(Kind.ACCESS_OUTCOME, actor, {}, said, {"runs": [[1, 7]]}, access_id=access_id),
    ]


def dumped(receipt: dict[str, Any]) -> bytes:
    """The file."""
    return json.dumps(receipt).encode()
