"""A log that can lie, and requests to a witness about it."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Note, Signer, sign
from proxy.ledger import tree
from proxy.ledger.addcheckpoint import AddCheckpoint

ORIGIN = "cdr.example.com/log"


class Log:
    """A log over made-up leaves. `fork` gives one that agrees up to a size and may differ after it, under one key."""

    def __init__(self, origin: str = ORIGIN, seed: int = 1, leaves: list[bytes] | None = None) -> None:
        self.signer = Signer(origin, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))
        self.origin, self.seed = origin, seed
        self.leaves = list(leaves or ())

    def grow(self, count: int, word: str = "") -> Log:
        for _ in range(count):
            self.leaves.append(tree.leaf_hash(hashlib.sha256(f"{word}{len(self.leaves)}".encode()).digest()))
        return self

    def fork(self, size: int) -> Log:
        return Log(self.origin, self.seed, self.leaves[:size])

    @property
    def size(self) -> int:
        return len(self.leaves)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        chosen = self.size if size is None else size
        return Checkpoint(self.origin, chosen, tree.root(self.leaves[:chosen]))

    def by_size(self, root: bytes) -> set[int]:
        """The sizes at which the tree has this root: one, or none."""
        return {size for size in range(self.size + 1) if self.checkpoint(size).root == root}

    def note(self, size: int | None = None) -> Note:
        return sign(self.checkpoint(size).text, self.signer)

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return tuple(tree.consistency_proof(old, new, tree.reader(self.leaves)))

    def request(self, old: int, size: int | None = None) -> AddCheckpoint:
        chosen = self.size if size is None else size
        return AddCheckpoint(old, self.proof(old, chosen), self.note(chosen))

    def ask(self, old: int, size: int | None = None) -> bytes:
        return bytes(self.request(old, size))
