"""Whoever has the database, and writes what they like: fsck finds every edit, and names the first broken entry.

The log of `filled`: 600 entries, groups of many sizes, full tiles 0/0 (0 to 255) and 0/1 (256 to 511), checkpoints of
17, 248, 300, 540 and 600. Every deed is done in a transaction, checked from inside it, and rolled back.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest

from proxy.ledger.fsck.model import Report, Where
from tests.conftest import Database
from tests.support.logs import Log, filled, open_log


@pytest.fixture
async def log(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Log]:
    async with open_log(database.config, owner) as made:
        yield await filled(made)


class Deed(NamedTuple):
    """Statements (the first must change something), the first broken entry, and what about it is found at the least."""

    statements: tuple[str, ...]
    first: int | None
    where: Where
    since: int | None = None
    """Size of the first checkpoint that covers it."""


def flip(column: str, at: str = "length({0}) / 2") -> str:
    place = at.format(column)
    return f"{column} = set_byte({column}, {place}, get_byte({column}, {place}) # 1)"


def one(*statements: str, first: int | None, where: Where, since: int | None = None) -> Deed:
    return Deed(statements, first, where, since)


ENTRY, HEAD, OPENING, TAG = "tollgate.log_entry", "tollgate.log_head", "tollgate.log_opening", "tollgate.log_tag"
TILE, CHECKPOINT, COSIGNATURE = "tollgate.log_tile", "tollgate.log_checkpoint", "tollgate.log_cosignature"
ORIGIN = "tollgate.log_origin"
MANY = "first = 300 AND octet_length(places) > 2"
SALT = (
    f"UPDATE {ENTRY} SET header = overlay(header placing 'AAAAAAAA' from"
    ' position(\'"salt":"\'::bytea in header) + 8) WHERE idx = {{0}}'
).replace("{{0}}", "{0}")
LEAF = "leaf_hash = sha256('\\x00'::bytea || sha256(header))"
# Renumbering passes through numbers that nobody has, for the key is checked row by row.
DOWN = (
    f"UPDATE {ENTRY} SET idx = idx + 1000000 WHERE idx > {{0}}",
    f"UPDATE {ENTRY} SET idx = idx - 1000001 WHERE idx > 1000000",
    f"UPDATE {HEAD} SET size = size - 1",
)
UP = (
    f"UPDATE {ENTRY} SET idx = idx + 1000000 WHERE idx >= {{0}}",
    f"UPDATE {ENTRY} SET idx = idx - 999999 WHERE idx >= 1000000",
    f"UPDATE {HEAD} SET size = size + 1",
)
COPY = (
    f"INSERT INTO {ENTRY} SELECT {{0}}, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags"
    f" FROM {ENTRY} WHERE idx = {{1}}"
)
FORGED = (
    f"INSERT INTO {ENTRY} SELECT {{0}}, gen_random_uuid(), at, kind, NULL, gen_random_uuid(), 0, h,"
    " sha256('\\x00'::bytea || sha256(h)), '' FROM (SELECT *, convert_to('{{\"at\":\"' ||"
    " to_char(at AT TIME ZONE 'UTC',"
    ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') || \'","id":"\' || gen_random_uuid() || \'","kind":"\' || kind ||'
    ' \'","parts":{{}},"salt":"AAAAAAAAAAAAAAAAAAAAAA","v":1}}\', \'UTF8\') AS h'
    f" FROM {ENTRY} WHERE idx = {{1}}) f"
)


def swap(a: int, b: int) -> tuple[str, ...]:
    return (
        f"UPDATE {ENTRY} SET idx = 1000000 WHERE idx = {a}",
        f"UPDATE {ENTRY} SET idx = {a} WHERE idx = {b}",
        f"UPDATE {ENTRY} SET idx = {b} WHERE idx = 1000000",
    )


def batch(index: int) -> str:
    return f"(SELECT batch_id FROM {ENTRY} WHERE idx = {index})"


def cut(size: int, *, openings: bool = True) -> tuple[str, ...]:
    """Cut the tail, with all that an entry brings; the tree's tables stay."""
    gone = f"SELECT batch_id FROM {ENTRY} WHERE idx < {size}"
    return (
        f"DELETE FROM {OPENING} WHERE batch_id NOT IN ({gone})" if openings else "SELECT 1",
        f"DELETE FROM {TAG} WHERE first >= {size}",
        f"DELETE FROM {ENTRY} WHERE idx >= {size}",
        f"UPDATE {HEAD} SET size = {size}, at = (SELECT max(at) FROM {ENTRY})",
    )


DEEDS: dict[str, Deed] = {
    # Entries: 301 lies in a full tile, 545 in none.
    "a byte of a header": one(
        f"UPDATE {ENTRY} SET {flip('header')} WHERE idx = 301", first=301, where=Where.ENTRY, since=540
    ),
    "a byte of a leaf": one(f"UPDATE {ENTRY} SET {flip('leaf_hash')} WHERE idx = 301", first=301, where=Where.ENTRY),
    "a byte of the last leaf": one(
        f"UPDATE {ENTRY} SET {flip('leaf_hash')} WHERE idx = 599", first=599, where=Where.ENTRY, since=600
    ),
    "a salt and its leaf": one(
        SALT.format(301),
        f"UPDATE {ENTRY} SET {LEAF} WHERE idx = 301",
        first=301,
        where=Where.TILE,
        since=540,
    ),
    "a salt and its leaf, in no tile": one(
        SALT.format(545),
        f"UPDATE {ENTRY} SET {LEAF} WHERE idx = 545",
        first=540,
        where=Where.CHECKPOINT,
        since=600,
    ),
    "a salt, its leaf and its tile": one(
        SALT.format(301),
        f"UPDATE {ENTRY} SET {LEAF} WHERE idx = 301",
        f"UPDATE {TILE} SET hashes = overlay(hashes placing (SELECT leaf_hash FROM tollgate.log_entry"
        " WHERE idx = 301) from 32 * 45 + 1) WHERE level = 0 AND idx = 1",
        first=256,
        where=Where.TILE,
        since=540,
    ),
    "a kind": one(f"UPDATE {ENTRY} SET kind = 'summary' WHERE idx = 301", first=301, where=Where.ENTRY),
    "a time": one(
        f"UPDATE {ENTRY} SET at = at + interval '1 microsecond' WHERE idx = 301", first=301, where=Where.ENTRY
    ),
    "an entry's id": one(
        f"UPDATE {ENTRY} SET entry_id = gen_random_uuid() WHERE idx = 301", first=301, where=Where.ENTRY
    ),
    "an access": one(f"UPDATE {ENTRY} SET access_id = gen_random_uuid() WHERE idx = 301", first=301, where=Where.ENTRY),
    "tags": one(f"UPDATE {ENTRY} SET {flip('tags')} WHERE idx = 302", first=302, where=Where.TAG),
    "tags dropped": one(f"UPDATE {ENTRY} SET tags = '' WHERE idx = 302", first=302, where=Where.TAG),
    "a place in a group": one(
        f"UPDATE {ENTRY} SET batch_pos = batch_pos + 1 WHERE idx = 301", first=301, where=Where.ENTRY
    ),
    "a group": one(f"UPDATE {ENTRY} SET batch_id = gen_random_uuid() WHERE idx = 301", first=301, where=Where.ENTRY),
    "an entry dropped": one(f"DELETE FROM {ENTRY} WHERE idx = 301", first=301, where=Where.ENTRY, since=540),
    "a stretch dropped": one(
        f"DELETE FROM {ENTRY} WHERE idx BETWEEN 20 AND 400", first=20, where=Where.ENTRY, since=248
    ),
    "all dropped": one(f"DELETE FROM {ENTRY}", first=0, where=Where.HEAD),
    "an entry dropped and the rest renumbered": one(
        f"DELETE FROM {ENTRY} WHERE idx = 301", *(s.format(301) for s in DOWN), first=301, where=Where.TILE, since=540
    ),
    "an entry of no tile dropped and the rest renumbered": one(
        f"DELETE FROM {ENTRY} WHERE idx = 550", *(s.format(550) for s in DOWN), first=551, where=Where.CHECKPOINT
    ),
    "a whole group of no tile dropped and the rest renumbered": one(
        f"DELETE FROM {OPENING} WHERE batch_id = {batch(550)}",
        f"DELETE FROM {TAG} WHERE first = 550",
        f"DELETE FROM {ENTRY} WHERE idx = 550",
        *(s.format(550) for s in DOWN),
        first=550,
        where=Where.TAG,
    ),
    "two entries swapped": one(*swap(301, 305), first=301, where=Where.TILE, since=540),
    "two entries of no tile swapped": one(*swap(541, 543), first=541, where=Where.ENTRY, since=600),
    "two entries of no tile swapped, and their places": one(
        *swap(541, 543),
        f"UPDATE {ENTRY} SET batch_pos = idx - 540 WHERE idx IN (541, 543)",
        first=541,
        where=Where.OPENING,
        since=600,
    ),
    "two entries of one form swapped, and their places": one(
        *swap(541, 545),
        f"UPDATE {ENTRY} SET batch_pos = idx - 540 WHERE idx IN (541, 545)",
        first=541,
        where=Where.OPENING,
        since=600,
    ),
    "an entry repeated at the end": one(
        COPY.format(600, 301),
        f"UPDATE {HEAD} SET size = 601, at = (SELECT at FROM {ENTRY} WHERE idx = 600)",
        first=600,
        where=Where.ENTRY,
    ),
    "an entry slipped in": one(
        *(s.format(301) for s in UP), COPY.format(301, 10), first=301, where=Where.TILE, since=540
    ),
    "an empty entry slipped in": one(
        *(s.format(310) for s in UP), FORGED.format(310, 309), first=310, where=Where.TILE, since=540
    ),
    "an empty entry slipped in, in no tile": one(
        *(s.format(551) for s in UP), FORGED.format(551, 550), first=551, where=Where.CHECKPOINT, since=600
    ),
    "all renumbered": one(*(s.format(0) for s in UP), first=0, where=Where.ENTRY, since=17),
    "an entry far out": one(COPY.format(10**12, 599), first=10**12, where=Where.HEAD),
    "an entry far out, and the head": one(
        COPY.format(10**12, 599), f"UPDATE {HEAD} SET size = {10**12 + 1}", first=600, where=Where.ENTRY
    ),
    "the head back": one(f"UPDATE {HEAD} SET size = 599", first=599, where=Where.HEAD),
    "the head on": one(f"UPDATE {HEAD} SET size = 601", first=600, where=Where.HEAD),
    "the head's time": one(f"UPDATE {HEAD} SET at = at + interval '1 s'", first=None, where=Where.HEAD),
    "the head dropped": one(f"DELETE FROM {HEAD}", first=0, where=Where.HEAD),
    "the tail cut": one(*cut(590)[:2], *cut(590)[2:], first=590, where=Where.CHECKPOINT),
    "the tail cut within a group": one(*cut(595)[1:], first=595, where=Where.CHECKPOINT),
    # Openings. Group 300 has entries 300 to 319.
    **{
        f"a byte of a sealed {part}": one(
            f"UPDATE {OPENING} SET {flip('sealed')} WHERE part = '{part}' AND batch_id = {batch(301)}",
            first=first,
            where=Where.OPENING,
            since=540,
        )
        for part, first in (("actor", 309), ("request", 309), ("outcome", 309), ("records", 308))
    },
    "a byte of a sealed header": one(
        f"UPDATE {OPENING} SET {flip('sealed', '20')} WHERE part = 'actor' AND batch_id = {batch(301)}",
        first=300,
        where=Where.OPENING,
        since=540,
    ),
    **{
        f"a group's {part} dropped": one(
            f"DELETE FROM {OPENING} WHERE part = '{part}' AND batch_id = {batch(301)}",
            first=first,
            where=Where.OPENING,
            since=540,
        )
        for part, first in (("actor", 300), ("request", 300), ("outcome", 301), ("records", 301))
    },
    "a sealed part cut": one(
        f"UPDATE {OPENING} SET sealed = substring(sealed for length(sealed) - 1) WHERE part = 'actor'"
        f" AND batch_id = {batch(301)}",
        first=300,
        where=Where.OPENING,
        since=540,
    ),
    "a sealed part and something after it": one(
        f"UPDATE {OPENING} SET sealed = sealed || '\\x00' WHERE part = 'actor' AND batch_id = {batch(301)}",
        first=300,
        where=Where.OPENING,
        since=540,
    ),
    "two groups' parts swapped": one(
        f"UPDATE {OPENING} o SET sealed = p.sealed FROM {OPENING} p WHERE o.part = 'actor' AND p.part"
        f" = 'actor' AND (o.batch_id, p.batch_id) IN (({batch(301)}, {batch(321)}), ({batch(321)}, {batch(301)}))",
        first=300,
        where=Where.OPENING,
        since=540,
    ),
    "a sealed part of another month": one(
        f"UPDATE {OPENING} SET month = 202001 WHERE part = 'actor' AND batch_id = {batch(301)}",
        first=300,
        where=Where.OPENING,
        since=540,
    ),
    "a sealed part of nobody": one(
        f"INSERT INTO {OPENING} SELECT part, month, gen_random_uuid(), sealed FROM {OPENING}"
        f" WHERE part = 'actor' AND batch_id = {batch(301)}",
        first=None,
        where=Where.OPENING,
    ),
    "the month's key": one(
        "UPDATE tollgate.data_key SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
        " WHERE key_class = 'log_actor'",
        first=1,
        where=Where.OPENING,
        since=17,
    ),
    "the month's key dropped": one(
        "DELETE FROM tollgate.data_key WHERE key_class = 'log_request'", first=0, where=Where.OPENING, since=17
    ),
    "the month said to be destroyed": one(
        "INSERT INTO tollgate.data_key_destroyed (key_class, month) SELECT key_class, month FROM tollgate.data_key"
        " WHERE key_class = 'log_request'",
        first=0,
        where=Where.OPENING,
        since=17,
    ),
    # The table of tags.
    "a tag dropped": one(
        f"DELETE FROM {TAG} WHERE ctid = (SELECT min(ctid) FROM {TAG} WHERE first = 300"
        " AND substring(places for 2) = '\\x0000')",
        first=300,
        where=Where.TAG,
    ),
    "a tag turned into another": one(f"UPDATE {TAG} SET tag = tag # 1 WHERE first = 300", first=300, where=Where.TAG),
    "a tag moved": one(f"UPDATE {TAG} SET first = first + 1 WHERE first = 300", first=300, where=Where.TAG),
    "a tag's places": one(f"UPDATE {TAG} SET {flip('places', '1')} WHERE first = 300", first=300, where=Where.TAG),
    "a tag slipped in": one(
        f"INSERT INTO {TAG} (tag, first, places) VALUES (4711, 300, '\\x0004')", first=304, where=Where.TAG
    ),
    "a tag slipped in past the end": one(
        f"INSERT INTO {TAG} (tag, first, places) VALUES (4711, 6000000, '\\x0004')", first=None, where=Where.TAG
    ),
    # Those that leave the set of all that is said as it is: what relies on order or on groups would miss entries.
    "a tag's places twice": one(f"UPDATE {TAG} SET places = places || places WHERE {MANY}", first=300, where=Where.TAG),
    "a tag's places in another order": one(
        f"UPDATE {TAG} SET places = substring(places from 3) || substring(places for 2) WHERE {MANY}",
        first=300,
        where=Where.TAG,
    ),
    "a tag's row laid across another of the tag's": one(
        f"INSERT INTO {TAG} SELECT tag, 301, int2send((get_byte(places, 1) - 1)::int2) FROM {TAG}"
        f" WHERE {MANY} AND get_byte(places, 1) > 0",
        f"UPDATE {TAG} SET places = substring(places from 3) WHERE {MANY} AND get_byte(places, 1) > 0",
        first=301,
        where=Where.TAG,
    ),
    "a tag's row that begins in the group before": one(
        f"UPDATE {TAG} SET first = 299, places = int2send((get_byte(places, 1) + 1)::int2)"
        " WHERE first = 300 AND octet_length(places) = 2",
        first=302,
        where=Where.TAG,
    ),
    "all tags dropped": one(f"DELETE FROM {TAG}", first=1, where=Where.TAG),
    # The tree.
    "a byte of a tile": one(
        f"UPDATE {TILE} SET {flip('hashes', '32 * 45')} WHERE level = 0 AND idx = 1", first=256, where=Where.TILE
    ),
    "a byte of a tile's root": one(
        f"UPDATE {TILE} SET {flip('root')} WHERE level = 0 AND idx = 1", first=256, where=Where.TILE
    ),
    "a tile dropped": one(f"DELETE FROM {TILE} WHERE level = 0 AND idx = 1", first=256, where=Where.TILE, since=540),
    **{
        f"a tile {how}": one(
            f"ALTER TABLE {TILE} DROP CONSTRAINT log_tile_hashes_check",
            f"UPDATE {TILE} SET hashes = {hashes} WHERE level = 0 AND idx = 1",
            first=256,
            where=Where.TILE,
        )
        for how, hashes in (
            ("of 257 hashes", "hashes || substring(hashes for 32)"),
            ("of 255 hashes", "substring(hashes for 8160)"),
            ("and a byte", "hashes || '\\x00'"),
            ("of none", "''"),
        )
    },
    "two tiles swapped": one(
        f"UPDATE {TILE} t SET hashes = u.hashes, root = u.root FROM {TILE} u"
        " WHERE t.level = 0 AND u.level = 0 AND t.idx = 1 - u.idx AND u.idx <= 1",
        first=0,
        where=Where.TILE,
    ),
    "a tile slipped in": one(
        f"INSERT INTO {TILE} SELECT 0, 2, hashes, root FROM {TILE} WHERE idx = 1", first=None, where=Where.TILE
    ),
    "a tile of a higher level slipped in": one(
        f"INSERT INTO {TILE} SELECT 1, 0, hashes, root FROM {TILE} WHERE idx = 1", first=None, where=Where.TILE
    ),
    # What is signed.
    "a byte of a checkpoint": one(
        f"UPDATE {CHECKPOINT} SET {flip('note')} WHERE size = 300", first=None, where=Where.CHECKPOINT
    ),
    "a byte of a checkpoint's signature": one(
        f"UPDATE {CHECKPOINT} SET {flip('note', 'length({0}) - 10')} WHERE size = 300",
        first=None,
        where=Where.CHECKPOINT,
    ),
    "a checkpoint's root": one(
        f"UPDATE {CHECKPOINT} SET {flip('root')} WHERE size = 300", first=None, where=Where.CHECKPOINT
    ),
    "a checkpoint's size": one(
        f"UPDATE {CHECKPOINT} SET size = 301 WHERE size = 300", first=None, where=Where.CHECKPOINT
    ),
    "a checkpoint's time": one(
        f"UPDATE {CHECKPOINT} SET at = at - interval '1 day' WHERE size = 300", first=None, where=Where.CHECKPOINT
    ),
    "a checkpoint's origin": one(
        f"UPDATE {CHECKPOINT} SET epoch = 2 WHERE size = 300", first=None, where=Where.CHECKPOINT
    ),
    "two checkpoints' notes swapped": one(
        f"UPDATE {CHECKPOINT} c SET note = d.note FROM {CHECKPOINT} d"
        " WHERE (c.size, d.size) IN ((300, 540), (540, 300))",
        first=None,
        where=Where.CHECKPOINT,
    ),
    "the last checkpoints dropped": one(f"DELETE FROM {CHECKPOINT} WHERE size > 300", first=256, where=Where.TILE),
    "a checkpoint dropped, its cosignature left": one(
        f"DELETE FROM {CHECKPOINT} WHERE size = 248", first=None, where=Where.COSIGNATURE
    ),
    "a byte of a cosignature": one(
        f"UPDATE {COSIGNATURE} SET {flip('line')} WHERE size = 248", first=None, where=Where.COSIGNATURE
    ),
    "a cosignature's witness": one(
        f"UPDATE {COSIGNATURE} SET witness = 'witness.example/w2' WHERE size = 248", first=None, where=Where.COSIGNATURE
    ),
    "two cosignatures swapped": one(
        f"UPDATE {COSIGNATURE} c SET line = d.line FROM {COSIGNATURE} d WHERE c.size <> d.size",
        first=None,
        where=Where.COSIGNATURE,
    ),
    "an origin renamed": one(f"UPDATE {ORIGIN} SET origin = 'log.example/other'", first=0, where=Where.ORIGIN),
    "an origin dropped": one(f"DELETE FROM {ORIGIN}", first=0, where=Where.ORIGIN),
    "an origin slipped in": one(
        f"INSERT INTO {ORIGIN} (epoch, origin, first_size, previous) SELECT 2, 'log.example/calls/2', 600, note"
        f" FROM {CHECKPOINT} WHERE size = 600",
        first=None,
        where=Where.ORIGIN,
    ),
    "an origin that begins elsewhere": one(f"UPDATE {ORIGIN} SET first_size = 17", first=0, where=Where.ORIGIN),
}


# What is left to be found where nothing is opened.
UNOPENED: dict[str, Deed] = {
    name: DEEDS[name]
    for name in (
        "a byte of a header",
        "a salt and its leaf",
        "tags",
        "an entry dropped",
        "two entries swapped",
        "a tag moved",
        "a byte of a tile",
        "a byte of a checkpoint",
    )
} | {
    "the last group once more": one(
        f"INSERT INTO {ENTRY} SELECT idx + 10, entry_id, at, kind, access_id, '{UUID(int=7)}', batch_pos, header,"
        f" leaf_hash, tags FROM {ENTRY} WHERE idx >= 590",
        f"INSERT INTO {TAG} SELECT tag, 600, places FROM {TAG} WHERE first = 590",
        f"UPDATE {HEAD} SET size = 610",
        first=600,
        where=Where.ENTRY,
    )
}


async def done(log: Log, deed: Deed, *, openings: bool = True) -> Report:
    """What is found after a deed, which is then undone."""
    undo = log.owner.transaction()
    await undo.start()
    try:
        changed = [await log.owner.execute(statement) for statement in deed.statements]
        assert any(tag.split()[-1] not in ("0", "TABLE") for tag in changed), "nothing was done"
        return await log.check(openings=openings)
    finally:
        await undo.rollback()


async def missed(log: Log, deeds: dict[str, Deed], *, openings: bool = True) -> dict[str, list[str]]:
    """Deeds that are not found, or whose first entry is not named, with what was found."""
    assert (await log.check(openings=openings)).as_json()["findings"] == []
    wrong = {}
    for name, deed in deeds.items():
        report = await done(log, deed, openings=openings)
        first = report.first
        named = first is not None and first.index == deed.first and deed.where in {f.where for f in report.findings}
        since = deed.since is None or (first is not None and first.since is not None and first.since.size == deed.since)
        if not named or not since or report.clean:
            wrong[name] = [str(f) for f in report.findings[:4]]
    assert (await log.check(openings=openings)).clean
    return wrong


async def test_every_deed_is_found_and_named(log: Log) -> None:
    assert await missed(log, DEEDS) == {}


async def test_without_a_keyring_the_same_but_of_the_openings(log: Log) -> None:
    assert await missed(log, UNOPENED, openings=False) == {}


COLUMNS = (
    ("log_entry", "header"), ("log_entry", "leaf_hash"), ("log_entry", "tags"), ("log_opening", "sealed"),
    ("log_tile", "hashes"), ("log_tile", "root"), ("log_checkpoint", "note"), ("log_checkpoint", "root"),
    ("log_cosignature", "line"), ("log_tag", "places"),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
async def test_any_bit_is_found(log: Log, seed: int) -> None:
    chosen = random.Random(seed)
    for table, column in COLUMNS:
        for _ in range(4):
            rows = await log.owner.fetch(
                f"SELECT ctid, length({column}) AS n FROM tollgate.{table} WHERE length({column}) > 0"
            )
            row = chosen.choice(rows)
            at, bit = chosen.randrange(row["n"]), 1 << chosen.randrange(8)
            undo = log.owner.transaction()
            await undo.start()
            await log.owner.execute(
                f"UPDATE tollgate.{table} SET {column} = set_byte({column}, {at}, get_byte({column}, {at}) # {bit})"
                " WHERE ctid = $1",
                row["ctid"],
            )
            report = await log.check()
            await undo.rollback()
            assert not report.clean, (table, column, at, bit)
