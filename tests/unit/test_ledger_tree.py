"""Merkle arithmetic against pymerkle, which is not ours, for all trees of up to 300 leaves; and what must not pass."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree
from pymerkle.proof import ConsistencyProof

from proxy.ledger import tree
from proxy.ledger.tree import ProofError

SIZES = 300


@pytest.fixture(scope="module")
def theirs() -> InmemoryTree:
    """A tree of SIZES leaves, `leaf 0` to `leaf 299`."""
    made = InmemoryTree(algorithm="sha256")
    for number in range(SIZES):
        made.append_entry(f"leaf {number}".encode())
    return made


LEAVES = [tree.leaf_hash(f"leaf {number}".encode()) for number in range(SIZES)]
READ = tree.reader(LEAVES)
ROOTS = [tree.root(LEAVES[:size]) for size in range(SIZES + 1)]


def _as_the_rfc_has_it(proof: ConsistencyProof) -> list[bytes]:
    """pymerkle's form of a consistency proof in RFC 6962's.

    It goes one step further down: where the old tree ends between two subtrees, it breaks the right one to pieces; and
    it names the old tree's own root where the RFC leaves it to the verifier.
    """
    path, subset, right = list(proof.path), list(proof.subset), None
    while not subset[0]:
        piece = path.pop(0)
        subset.pop(0)
        right = piece if right is None else tree.node_hash(right, piece)
    first, *rest = path
    if right is not None:
        rest.insert(0, right)
    return rest if proof.prior_size & (proof.prior_size - 1) == 0 else [first, *rest]


def test_roots_agree_with_pymerkle(theirs: InmemoryTree) -> None:
    for size in range(1, SIZES + 1):
        assert ROOTS[size] == theirs.get_root(size) == tree.root_at(size, READ)


def test_inclusion_proofs_agree_with_pymerkle(theirs: InmemoryTree) -> None:
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = tree.inclusion_proof(index, size, READ)
            assert proof == theirs.prove_inclusion(index + 1, size).path[1:]
            tree.verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size])


def test_consistency_proofs_agree_with_pymerkle(theirs: InmemoryTree) -> None:
    for new in range(1, SIZES + 1):
        for old in range(1, new + 1):
            proof = tree.consistency_proof(old, new, READ)
            if old < new:
                assert proof == _as_the_rfc_has_it(theirs.prove_consistency(old, new))
            tree.verify_consistency(old, new, proof, ROOTS[old], ROOTS[new])


def test_the_empty_tree() -> None:
    # RFC 6962 section 2.1: the hash of an empty list is the hash of an empty string.
    assert tree.root([]) == tree.root_at(0, READ) == hashlib.sha256(b"").digest()
    assert tree.consistency_proof(0, 7, READ) == []
    tree.verify_consistency(0, 7, [], tree.EMPTY_ROOT, ROOTS[7])
    with pytest.raises(ProofError, match="empty tree"):
        tree.verify_consistency(0, 7, [], ROOTS[1], ROOTS[7])
    with pytest.raises(ProofError, match="too long"):
        tree.verify_consistency(0, 7, [ROOTS[1]], tree.EMPTY_ROOT, ROOTS[7])


def _proof_changes(proof: list[bytes]) -> dict[str, list[bytes]]:
    changed = {"longer": [*proof, LEAVES[0]], "longer in front": [LEAVES[0], *proof]}
    if proof:
        changed |= {"shorter": proof[:-1], "shorter in front": proof[1:]}
        changed |= {
            f"bit at {at}": [*proof[:at], bytes([each[0] ^ 1]) + each[1:], *proof[at + 1 :]]
            for at, each in enumerate(proof)
        }
        changed["short hash"] = [*proof[:-1], proof[-1][:31]]
    if len(proof) > 1 and proof[0] != proof[1]:
        changed["swapped"] = [proof[1], proof[0], *proof[2:]]
    return changed


@given(st.integers(1, SIZES), st.data())
def test_an_inclusion_proof_shows_one_thing_only(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_proof(index, size, READ)
    wrong = [(index, size, LEAVES[index], changed, ROOTS[size]) for changed in _proof_changes(proof).values()]
    other = data.draw(st.integers(0, SIZES - 1).filter(lambda n: n != index))
    wrong += [
        (other, size, LEAVES[index], proof, ROOTS[size]),
        (index, size, LEAVES[other], proof, ROOTS[size]),
        (index, size, LEAVES[index], proof, ROOTS[0 if size == 300 else size + 1]),
        (-1, size, LEAVES[index], proof, ROOTS[size]),
        (index, index, LEAVES[index], proof, ROOTS[size]),
    ]
    for arguments in wrong:
        with pytest.raises(ProofError):
            tree.verify_inclusion(*arguments)


@given(st.integers(1, SIZES), st.data())
def test_a_consistency_proof_shows_one_thing_only(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    proof = tree.consistency_proof(old, new, READ)
    wrong = [(old, new, changed, ROOTS[old], ROOTS[new]) for changed in _proof_changes(proof).values()]
    other = data.draw(st.integers(0, SIZES).filter(lambda n: n not in (old, new)))
    wrong += [
        (old, new, proof, ROOTS[other], ROOTS[new]),
        (old, new, proof, ROOTS[old], ROOTS[other]),
        (new + 1, new, proof, ROOTS[old], ROOTS[new]),
        (-1, new, proof, ROOTS[old], ROOTS[new]),
    ]
    if old != new:
        wrong += [(new, new, proof, ROOTS[old], ROOTS[new]), (old, old, proof, ROOTS[old], ROOTS[new])]
    for arguments in wrong:
        with pytest.raises(ProofError):
            tree.verify_consistency(*arguments)


def test_a_proof_has_the_length_that_index_and_size_give_it() -> None:
    """Hashes that come to the root, told of another tree: an inner node as a leaf, a larger tree as a smaller one."""
    inner = [tree.root(LEAVES[at : at + 2]) for at in (0, 2)]
    tree.verify_inclusion(0, 4, LEAVES[0], [LEAVES[1], inner[1]], ROOTS[4])
    with pytest.raises(ProofError, match="too short"):
        tree.verify_inclusion(0, 4, inner[0], [inner[1]], ROOTS[4])
    with pytest.raises(ProofError, match="too long"):
        tree.verify_inclusion(0, 2, LEAVES[0], [LEAVES[1], inner[1]], ROOTS[4])
    tree.verify_consistency(2, 4, [inner[1]], ROOTS[2], ROOTS[4])
    with pytest.raises(ProofError, match="too short"):
        tree.verify_consistency(2, 8, [inner[1]], ROOTS[2], ROOTS[4])
    with pytest.raises(ProofError, match="too long"):
        tree.verify_consistency(2, 3, [inner[1], tree.root(LEAVES[4:8])], ROOTS[2], ROOTS[8])


def test_a_hash_has_the_length_of_a_hash() -> None:
    """The same bytes under the root, parted elsewhere: what is hashed does not say where one hash ends."""
    left, right = LEAVES[0][:31], LEAVES[0][31:] + LEAVES[1]
    assert tree.node_hash(left, right) == ROOTS[2]
    with pytest.raises(ProofError, match="length"):
        tree.verify_inclusion(0, 2, left, [right], ROOTS[2])
    with pytest.raises(ProofError, match="length"):
        tree.verify_consistency(1, 2, [right], left, ROOTS[2])


def test_a_proof_of_a_size_or_leaf_that_is_not_there_is_refused() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ProofError):
            tree.inclusion_proof(index, size, READ)
    for old, new in ((2, 1), (-1, 1)):
        with pytest.raises(ProofError):
            tree.consistency_proof(old, new, READ)
    with pytest.raises(ProofError):
        tree.subtrees(-1)


@given(st.integers(1, 1 << 40), st.data())
def test_only_complete_subtrees_are_read(size: int, data: st.DataObject) -> None:
    wanted = tree.Wanted()
    tree.inclusion_proof(data.draw(st.integers(0, size - 1)), size, wanted)
    tree.consistency_proof(data.draw(st.integers(0, size)), size, wanted)
    tree.root_at(size, wanted)
    assert all((index + 1) << level <= size for level, index in wanted.nodes)
    assert len(wanted.nodes) <= 3 * 2 * 41  # logarithmic: what makes proofs from tiles cheap
