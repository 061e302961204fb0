"""Tiles: the paths and widths of C2SP tlog-tiles, the growing edge, proofs made from nothing but tiles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ledger import tiles, tree
from proxy.ledger.tiles import Edge, Tile

LEAVES = [tree.leaf_hash(n.to_bytes(4, "big")) for n in range(70_000)]


def _all_tiles(size: int) -> dict[tuple[int, int], bytes]:
    """Every tile of the tree, by its definition: MTH over the leaves below each hash."""
    made, row, level = {}, LEAVES[:size], 0
    while row:
        for index in range(-(-len(row) // 256)):
            made[level, index] = b"".join(row[index * 256 : index * 256 + 256])
        row = [tree.root(row[at : at + 256]) for at in range(0, len(row) // 256 * 256, 256)]
        level += 1
    return made


STORED = _all_tiles(70_000)
READ = tree.reader(LEAVES)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        # tlog-tiles: "index 1234067 will be encoded as x001/x234/067"
        (Tile(0, 1234067), "x001/x234/067"),
        (Tile(0, 0), "000"),
        (Tile(3, 999, 1), "999.p/1"),
        (Tile(1, 1000, 255), "x001/000.p/255"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert tiles.parse(tile.level, path) == tile


@given(st.builds(Tile, st.integers(0, 7), st.integers(0, (1 << 55) - 1), st.integers(1, 256)))
def test_every_path_reads_back(tile: Tile) -> None:
    assert tiles.parse(tile.level, tile.path) == tile


@pytest.mark.parametrize(
    "path",
    ["", "0", "0000", "x000/000", "x000", "x001/x234/067/", "/000", "1/000", "-01", "000.p/", "000.p/0", "000.p/256",
     "000.p/01", "000.p", "000.P/1", "٠٠٠", "000\n", "x001/1", "000.p/1.p/1", "+00", "00x"],
)  # fmt: skip
def test_there_is_one_spelling_of_a_path(path: str) -> None:
    assert tiles.parse(0, path) is None


def test_no_level_but_those_a_tree_can_have() -> None:
    assert tiles.parse(8, "000") is None
    assert tiles.parse(-1, "000") is None


def test_the_tiles_of_a_tree_are_as_many_as_the_specification_counts() -> None:
    # tlog-tiles: "a tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of
    # width 112, one full level 1 tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1."
    edge = Edge()
    full = edge.append(LEAVES)
    assert [(level, index) for level, index, _, _ in full] == sorted(
        [*((0, n) for n in range(273)), (1, 0)], key=lambda t: ((t[1] + 1) << 8 * (t[0] + 1), t[0])
    )
    assert tiles.partials(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert all(STORED[level, index] == data and tree.root(tiles.hashes_of(data)) == over
               for level, index, data, over in full)  # fmt: skip
    assert edge.root() == tree.root(LEAVES)
    # "a tree of size 256 will be represented by a full level 0 tile and a partial level 1 tile of width 1"
    assert tiles.partials(256) == [Tile(1, 0, 1)]


def test_the_edge_has_the_root_at_every_size() -> None:
    edge = Edge()
    for size in range(1, 700):
        edge.append([LEAVES[size - 1]])
        assert edge.root() == tree.root(LEAVES[:size])
    assert Edge().root() == tree.EMPTY_ROOT


@settings(deadline=None)
@given(st.integers(0, 70_000), st.integers(0, 2_000))
def test_an_edge_read_back_goes_on_as_the_one_that_was(size: int, more: int) -> None:
    size = min(size, 70_000 - more)
    rows = {t.level: tiles.hashes_of(STORED[t.level, t.index])[: t.width] for t in tiles.partials(size)}
    edge = Edge(size, rows)
    other = edge.copy()
    edge.append(LEAVES[size : size + more])
    assert edge.root() == tree.root_at(size + more, READ)
    assert other.root() == tree.root_at(size, READ)


def test_an_edge_of_another_size_is_refused() -> None:
    with pytest.raises(tree.ProofError):
        Edge(3, {0: LEAVES[:2]})


@settings(deadline=None)
@given(st.integers(1, 70_000), st.data())
def test_proofs_from_tiles_are_the_proofs(size: int, data: st.DataObject) -> None:
    asked: list[Tile] = []

    async def fetch(wanted: Iterable[Tile]) -> Mapping[tuple[int, int], bytes]:
        asked.extend(wanted)
        assert all(t.width == 256 or t in tiles.partials(size) for t in asked)  # what a server has to have
        return {(t.level, t.index): STORED[t.level, t.index][: t.width * 32] for t in asked}

    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root = asyncio.run(tiles.compute(fetch, size, lambda read: tree.root_at(size, read)))
    assert root == tree.root_at(size, READ)
    proof = asyncio.run(tiles.compute(fetch, size, lambda read: tree.inclusion_proof(index, size, read)))
    tree.verify_inclusion(index, size, LEAVES[index], proof, root)
    proof = asyncio.run(tiles.compute(fetch, size, lambda read: tree.consistency_proof(old, size, read)))
    tree.verify_consistency(old, size, proof, tree.root_at(old, READ), root)


def test_a_tile_that_is_missing_or_short_is_no_proof() -> None:
    for stored in ({}, {(0, 0): b"".join(LEAVES[:2])}):
        with pytest.raises(tree.ProofError, match="missing or too short"):
            tree.root_at(3, tiles.over(stored))


def test_a_bundle_is_length_and_entry() -> None:
    assert tiles.entry_bundle(b"a" * 32 + b"b" * 32) == b"\x00\x20" + b"a" * 32 + b"\x00\x20" + b"b" * 32


def test_the_cache_keeps_full_tiles_and_no_more_than_it_may() -> None:
    cache = tiles.Cache(2)
    cache.put((0, 9), b"partial")
    for n in range(3):
        cache.put((0, n), bytes(8192))
        cache.get((0, 0))
    assert [cache.get((0, n)) is not None for n in (9, 0, 1, 2)] == [False, True, False, True]
