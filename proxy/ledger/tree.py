"""Merkle tree arithmetic (RFC 6962 section 2.1, RFC 9162 section 2.1), pure: hashes in, hashes out.

A tree over n leaves is the RFC's MTH(D[0:n]). Proofs are made from hashes of *complete* subtrees only, and those come
from a reader: `read(level, index)` is the hash over the 2**level leaves from index * 2**level on (level 0: one leaf).
A tile holds such hashes (proxy.ledger.tiles), a list of leaf hashes gives them (`reader`), and whoever must fetch them
first learns which ones by running the same function with `Wanted`.

Invariants:
* No function reads a subtree that is not complete at the size it is asked about.
* A verifier accepts exactly one length of proof for each (index, size) and (old, new), raises on every other, and never
  returns a value that could be ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

HASH_LEN = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()  # MTH({}), RFC 6962 section 2.1

# (level, index) of a complete subtree → its hash.
Read = Callable[[int, int], bytes]


class ProofError(Exception):
    """A proof does not show what it should, or what was asked of the tree makes no sense."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees: SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes (of a whole tree, or of any stretch taken as a tree of its own)."""
    level = list(hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        # An odd one at the end goes up as it is: this is RFC 6962's split at the largest power of two, from below.
        above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def reader(hashes: Sequence[bytes]) -> Read:
    """A reader over leaf hashes in memory; levels are computed once, when first asked for."""
    levels: list[list[bytes]] = [list(hashes)]

    def read(level: int, index: int) -> bytes:
        while len(levels) <= level:
            below = levels[-1]
            levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
        return levels[level][index]

    return read


class Wanted:
    """A reader that only notes what is asked of it, for callers that must fetch before they can compute."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int]] = []

    def __call__(self, level: int, index: int) -> bytes:
        self.nodes.append((level, index))
        return bytes(HASH_LEN)


def subtrees(size: int) -> list[tuple[int, int]]:
    """The complete subtrees that a tree of `size` leaves is made of, as (level, index), largest (left) first."""
    if size < 0:
        raise ProofError("a tree cannot have fewer than no leaves")
    nodes, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            nodes.append((level, start >> level))
            start += 1 << level
    return nodes


def fold(hashes: Iterable[bytes]) -> bytes:
    """The root over the complete subtrees of a tree, given from left to right as `subtrees` names them."""
    result: bytes | None = None
    for each in reversed(list(hashes)):
        result = each if result is None else node_hash(each, result)
    return EMPTY_ROOT if result is None else result


def root_at(size: int, read: Read) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return fold(read(level, index) for level, index in subtrees(size))


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves: PATH(index, D[size]), RFC 6962 section 2.1.1.

    From the leaf's sibling up to the root's child.

    Raises:
        ProofError: no such leaf at that size.
    """
    if not 0 <= index < size:
        raise ProofError("no such leaf in a tree of that size")
    proof, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_stretch(middle, end, read))
            end = middle
        else:
            proof.append(_stretch(start, middle, read))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, new_size: int, read: Read) -> list[bytes]:
    """The proof that the tree of `old_size` leaves is the beginning of that of `new_size`: RFC 6962 section 2.1.2.

    Empty for equal sizes, and from the empty tree (of which every tree is a continuation; nothing need be shown).

    Raises:
        ProofError: the sizes are in the wrong order.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError("a tree does not shrink")
    if old_size in (0, new_size):
        return []
    proof, start, end, whole = [], 0, new_size, True
    # SUBPROOF(m, D[start:end], b): go down to where the old tree ends, noting what stands beside the way.
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_stretch(middle, end, read))
            end = middle
        else:
            proof.append(_stretch(start, middle, read))
            start, whole = middle, False
    if not whole:  # else the last subtree is the old tree itself, whose root the verifier has
        proof.append(_stretch(start, end, read))
    proof.reverse()
    return proof


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check an inclusion proof (RFC 9162 section 2.1.3.2). `leaf` is the leaf's hash.

    Raises:
        ProofError: it does not show that `leaf` stands at `index` in the tree of `size` leaves with that root.
    """
    _hashes([leaf, root, *proof])
    if not 0 <= index < size:
        raise ProofError("no such leaf in a tree of that size")
    place, last, result = index, size - 1, leaf
    for each in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if place & 1 or place == last:
            result = node_hash(each, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, each)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise ProofError("the proof is too short")
    if not hmac.compare_digest(result, root):
        raise ProofError("the proof leads to another root")


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2).

    An old size of 0 is consistent with everything: then the proof must be empty and `old_root` the empty tree's.

    Raises:
        ProofError: it does not show that the tree with `old_root` is the beginning of the tree with `new_root`.
    """
    _hashes([old_root, new_root, *proof])
    if not 0 <= old_size <= new_size:
        raise ProofError("a tree does not shrink")
    for size, each in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and each != EMPTY_ROOT:
            raise ProofError("an empty tree has another root than that")
    if old_size in (0, new_size):
        if proof:
            raise ProofError("the proof is too long")
        if old_size and not hmac.compare_digest(old_root, new_root):
            raise ProofError("two roots for one size")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # a complete subtree: the proof leaves out what the verifier knows
        path.insert(0, old_root)
    if not path:
        raise ProofError("the proof is too short")
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for each in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if place & 1 or place == last:
            old, new = node_hash(each, old), node_hash(each, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, each)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise ProofError("the proof is too short")
    if not hmac.compare_digest(old, old_root):
        raise ProofError("the proof leads to another root for the old tree")
    if not hmac.compare_digest(new, new_root):
        raise ProofError("the proof leads to another root for the new tree")


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (> 1)."""
    return 1 << (size - 1).bit_length() - 1


def _stretch(start: int, end: int, read: Read) -> bytes:
    """MTH(D[start:end]), where `start` is a multiple of the stretch's leftmost complete subtree (always so here)."""
    hashes = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read(level, start >> level))
        start += 1 << level
    return fold(hashes)


def _hashes(values: Iterable[bytes]) -> None:
    if any(len(each) != HASH_LEN for each in values):
        raise ProofError("a hash of another length than SHA-256's")
