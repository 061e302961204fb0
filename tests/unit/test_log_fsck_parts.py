"""The pure parts of fsck: headers as their author reads them, trees of several levels, sums of tags, findings."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.encoding import EncodingError, b64url_decode
from proxy.ledger import encoding, tree
from proxy.ledger.fsck.entries import committed, read
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import FINDINGS_MAX, Since, StoredTile, Where
from proxy.ledger.fsck.tags import TagCounts, TagSums, of_columns, of_table, unordered
from proxy.ledger.fsck.tree import Frontier, Mark, TreeCheck
from proxy.ledger.model import Entry, Kind, LedgerBroken, timestamp
from proxy.ledger.tiles import WIDTH, Edge

ID, ACCESS = UUID(int=7), UUID(int=8)
AT = datetime(2026, 11, 5, 6, 7, 8, 9, UTC)


def leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(n.to_bytes(8, "big")).digest() for n in range(count)]


# Headers


def header(parts: frozenset[str] = frozenset({"actor"}), access: UUID | None = ACCESS, tags: bytes = b"") -> bytes:
    values = {part: {"a": 1} for part in parts}
    encoded = encoding.encode(Entry(Kind.ACCESS_INTENT, **values, entry_id=ID, access_id=access))  # type: ignore[arg-type]
    return encoding.header(encoded, timestamp(AT), tags)


PARTS = st.frozensets(st.sampled_from(["actor", "request", "outcome", "records"]))


@given(PARTS, st.sampled_from([None, ACCESS]), st.sampled_from([b"", b"\1" * 9]))
def test_a_header_is_read_as_its_author_reads_it(parts: frozenset[str], access: UUID | None, tags: bytes) -> None:
    data = header(parts, access, tags)
    slow, fast = encoding.read_header(0, data), read(0, data)
    assert fast.commits == slow.commits
    assert fast.commits.keys() == parts
    assert (UUID(fast.entry_id), fast.kind, fast.at, fast.tags) == (slow.entry_id, slow.kind, slow.at, slow.tags)
    assert fast.access_id == (None if slow.access_id is None else str(slow.access_id))


def canonical(text: str) -> bool:
    """Whether it is the one text of 32 bytes."""
    try:
        return len(b64url_decode(text)) == 32
    except EncodingError:
        return False


@given(PARTS, st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(["set", "drop", "double"]))
def test_what_its_author_refuses_is_refused(parts: frozenset[str], at: int, byte: int, how: str) -> None:
    """Any byte of a header changed: either both take it, and take the same, or neither does."""
    data = header(parts, tags=b"\1" * 9)
    at %= len(data)
    middle = {"set": bytes([byte]), "drop": b"", "double": data[at : at + 1] * 2}[how]
    changed = data[:at] + middle + data[at + 1 :]
    try:
        slow = encoding.read_header(0, changed)
    except LedgerBroken:
        with pytest.raises(LedgerBroken):
            read(0, changed)
    else:
        if slow.tags is not None and not canonical(slow.tags):
            return  # stricter than its author: see below
        assert read(0, changed).commits == slow.commits


def test_base64_with_bits_that_stand_for_nothing_is_refused() -> None:
    """Two texts would stand for one commitment."""
    data = header(frozenset({"actor", "records"}), tags=b"\1" * 9)
    ends = [found.end() - 1 for found in re.finditer(rb'(?<=")[\w-]{43}(?=")', data)]
    assert len(ends) == 3
    for at in ends:
        changed = data[:at] + bytes([data[at] + 1]) + data[at + 1 :]
        with pytest.raises(LedgerBroken):
            read(0, changed)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_a_commitment_is_of_one_thing(one: bytes, other: bytes) -> None:
    assert committed(one, encoding.commitment(one))
    assert committed(other, encoding.commitment(one)) == (one == other)


# Trees


@pytest.mark.parametrize("size", [*range(1, 20), 255, 256, 257, 600, 1024])
def test_the_frontier_gives_the_root(size: int) -> None:
    made, frontier = leaves(size), Frontier()
    full = [tile for leaf in made if (tile := frontier.add(leaf)) is not None]
    assert frontier.root() == tree.root(made)
    assert full == [tree.root(made[n : n + WIDTH]) for n in range(0, size - WIDTH + 1, WIDTH)]


SIZE = WIDTH * WIDTH + 300
ALL = leaves(SIZE)
TILES = {(level, index): StoredTile(level, index, hashes, root) for level, index, hashes, root in Edge().append(ALL)}
ROOT = tree.root(ALL)


def walked(
    tiles: dict[tuple[int, int], StoredTile], given: list[bytes] | None = None, stored: list[bytes] | None = None
) -> list[str]:
    """What a tree of two levels of tiles finds, with a checkpoint in the middle and one at the end."""
    found = Findings()
    check = TreeCheck(SIZE, found)
    for n, leaf in enumerate(given or ALL):
        check.add(leaf, (stored or given or ALL)[n], tiles)
        for size in (1000, SIZE):
            if n + 1 == size:
                since = Since(1, size, None)
                check.hold([Mark(size, tree.root(ALL[:size]), since, f"the checkpoint of size {size}")])
    return [f"{f.index}-{f.last}: {f.what.split(':')[0]}" for f in found.ordered()]


def edited(place: tuple[int, int], *, at: int | None = None, root: bool = False) -> dict[tuple[int, int], StoredTile]:
    tile = TILES[place]
    hashes = tile.hashes
    if at is not None:
        hashes = hashes[: at * 32] + bytes(32) + hashes[at * 32 + 32 :]
    return TILES | {place: StoredTile(*place, hashes, bytes(32) if root else tile.root)}


def test_tiles_of_two_levels() -> None:
    assert len(TILES) == WIDTH + 1 + 1
    assert walked(TILES) == []


def test_an_edited_tile_is_one_finding_or_two() -> None:
    """The tile, and what does not follow from it; not every root after it."""
    assert walked(edited((1, 0), at=7)) == [
        "0-65535: tile 1/0 has another root than its hashes give",
        "1792-2047: tile 1/0 holds another hash than the tile below it",
    ]
    assert walked(edited((1, 0), root=True)) == ["0-65535: tile 1/0 has another root than its hashes give"]
    assert walked(edited((0, 9), root=True)) == ["2304-2559: tile 0/9 has another root than its hashes give"]
    without = {place: tile for place, tile in TILES.items() if place != (1, 0)}
    assert walked(without) == ["0-65535: tile 1/0 does not stand"]
    swapped = TILES | {(0, 3): TILES[0, 4]._replace(idx=3)}
    assert walked(swapped)[0] == "768-None: tile 0/3 holds another leaf than its header's"


def test_an_edited_leaf_is_not_found_again_at_every_checkpoint() -> None:
    given = [*ALL[:500], bytes(32), *ALL[501:]]
    assert walked(TILES, given) == ["500-None: tile 0/1 holds another leaf than its header's"]
    # In no tile: the leaf that is stored beside the header leads to what was signed.
    given = [*ALL[: SIZE - 5], bytes(32), *ALL[SIZE - 4 :]]
    assert walked(TILES, given, ALL) == []
    (only,) = walked(TILES, given)
    assert only.startswith(f"1000-{SIZE - 1}: the checkpoint of size {SIZE} is of other entries")


def test_a_tile_that_cannot_be_yet() -> None:
    found = Findings()
    check = TreeCheck(100, found)
    for leaf in ALL[:300]:
        check.add(leaf, leaf, TILES)
    assert [f.what for f in found.kept] == ["tile 0/0 reaches past every checkpoint"]


# Tags


def test_sums_tell_sets_apart() -> None:
    columns = [b"", b"\1" + b"a" * 8 + b"\2" + b"b" * 8, b"\1" + b"a" * 8 + b"\7" + b"a" * 8, b"\3" + b"\xff" * 8]
    key = TagSums.new_key()

    def summed(*said: tuple[int, int, int]) -> TagSums:
        sums = TagSums(4, key)
        sums.add(*(np.array([each[n] for each in said], np.int64) for n in range(3)))
        return sums

    a, b = int.from_bytes(b"a" * 8, "big", signed=True), int.from_bytes(b"b" * 8, "big", signed=True)
    own = TagSums(4, key)
    own.add(*of_columns(range(4), (0, 0, 1, 0), columns))  # 1 and 2 are a group
    whole = [(a, 1, 0), (b, 1, 0), (a, 2, 1), (-1, 3, 0)]
    assert own.differing(summed(*whole)) == []
    rows = TagSums(4, key)
    rows.add(*of_table([-1, a, b], [3, 1, 1], [b"\0\0", b"\0\0\0\1", b"\0\0"]))
    assert own.differing(rows) == []
    for wrong in (
        whole[1:],
        [*whole, (a, 3, 0)],
        [(a, 1, 0), *whole],
        [(a, 1, 0), (a, 1, 0), *whole[1:]],
        [(b, 2, 1), (a, 1, 0), (b, 1, 0), (-1, 3, 0)],
        [(a, 1, 1), *whole[1:]],  # the same of the same entry, in a row that begins before its group
    ):
        assert own.differing(summed(*wrong)) == [(0, 256)]
    for far in (4711, -1, 1 << 47, (1 << 63) - 1):
        assert summed((a, far, 0)).strays
    assert not own.strays


def test_sums_are_by_stretch() -> None:
    size, key = 3_000_000, TagSums.new_key()
    one, other = TagSums(size, key), TagSums(size, key)
    tags, indexes = np.arange(1000, dtype=np.int64), np.arange(0, size, 3000, dtype=np.int64)
    places = np.zeros(1000, np.int64)
    one.add(tags, indexes, places)
    tags[600] ^= 1
    other.add(tags, indexes, places)
    ((first, last),) = one.differing(other)
    assert first <= 600 * 3000 < last
    assert last - first < 1000


def test_what_is_said_twice_differs() -> None:
    one, other = TagCounts(), TagCounts()
    said = of_table([5, 6], [0, 8], [b"\0\0\0\1", b"\0\0"])
    one.add(*said)
    other.add(*said)
    assert one.differing(other) == set()
    other.add(*of_table([6], [8], [b"\0\0"]))
    assert one.differing(other) == other.differing(one) == {8}


def test_places_out_of_order() -> None:
    good = [b"\0\0", b"\0\0\0\1", b"", b"\0\0\0\5\0\7"]
    assert unordered(good) == unordered([]) == []
    assert unordered([*good, b"\0\1\0\1", b"\0\1", b"\0\1\0\2\0\0"]) == [4, 6]


# Findings


def test_findings_are_bounded_and_know_their_checkpoint() -> None:
    found = Findings()
    found.add(Where.ENTRY, "b", 50)
    found.covered(Since(1, 40, None))
    found.add(Where.ENTRY, "a", 45)
    found.covered(Since(1, 60, None))
    found.covered(Since(1, 70, None))
    found.add(Where.CHECKPOINT, "none")
    found.add(Where.ANCHOR, "kept elsewhere", 1)
    found.covered(Since(1, 80, None))
    assert [(f.index, f.since.size if f.since else None) for f in found.ordered()] == [
        (1, None), (45, 60), (50, 60), (None, None),
    ]  # fmt: skip
    for n in range(2 * FINDINGS_MAX):
        found.add(Where.TILE, "many", n)
    assert (found.count, len(found.kept)) == (4 + 2 * FINDINGS_MAX, FINDINGS_MAX)
    assert len(found.ordered()) == FINDINGS_MAX


def test_a_thousand_findings_hide_no_broken_entry() -> None:
    """Of each kind the first is kept, with the checkpoint that covers it, however many of whatever come before."""
    found = Findings()
    for n in range(2 * FINDINGS_MAX):
        found.add(Where.COSIGNATURE, "junk")
        found.add(Where.TILE, "junk", 5000 + n)
    found.add(Where.ENTRY, "far", 90)
    found.add(Where.ENTRY, "near", 70)
    found.add(Where.ENTRY, "between", 80)
    found.add(Where.ORIGIN, "renamed")
    found.covered(Since(1, 75, None))
    found.covered(Since(1, 85, None))
    kept = found.ordered()
    assert len(kept) == FINDINGS_MAX + 2
    assert [(f.index, f.what, f.since and f.since.size) for f in kept[:2]] == [(70, "near", 75), (5000, "junk", None)]
    assert [f.where for f in kept if f.what != "junk"] == [Where.ENTRY, Where.ORIGIN]
    assert found.count == 4 * FINDINGS_MAX + 4


def test_a_tile_of_another_length() -> None:
    for place in ((0, 9), (1, 0)):
        tile = TILES[place]
        for hashes in (tile.hashes + bytes(32), tile.hashes[:-32], tile.hashes + b"\0", b""):
            (first, *_) = walked(TILES | {place: tile._replace(hashes=hashes)})
            assert first.endswith(f"tile {place[0]}/{place[1]} does not hold 256 hashes"), (place, len(hashes), first)
