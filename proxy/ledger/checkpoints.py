"""Origins, checkpoints and tiles as they stand in the database (tables of migration 0007), and their statements.

Only the gateway that holds the publisher's lock writes here (proxy.ledger.publisher); everybody may read. Nothing that
stands is ever changed: a row is inserted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg

from keys.checkpoint import Checkpoint, read_checkpoint
from keys.notes import Note, NoteError, VerifierKey, check_name, parse_signatures
from proxy.ledger import tiles, tree
from proxy.ledger.model import LedgerError
from proxy.ledger.tiles import WIDTH, Edge, Tile
from proxy.ledger.tree import HASH_LEN

_T = TypeVar("_T")

RECOVER = "see `tollgate log fsck`, and `tollgate log recover` after a restored backup"


class LogInconsistent(LedgerError):  # noqa: N818 - it says what is so
    """The log in the database is not a continuation of what was signed: nothing may be appended, signed or served."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A name under which checkpoints are signed."""

    epoch: int
    name: str
    first_size: int
    """No checkpoint of this origin is smaller."""
    previous: bytes | None
    """The last note known of the origin before this one; None for the first."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint as it stands: `note` has the log's signature, and cosignatures where they were asked for."""

    epoch: int
    size: int
    root: bytes
    note: bytes

    def verified(self, origin: str, keys: Iterable[VerifierKey]) -> Checkpoint:
        """Return what the note says, after checking that one of ``keys`` signed it and that the row repeats it.

        Raises:
            LogInconsistent: if it is not so.
        """
        checkpoint = verified(self.note, origin, keys)
        if (checkpoint.size, checkpoint.root) != (self.size, self.root):
            raise LogInconsistent(f"the checkpoint of size {self.size} is not what was signed: {RECOVER}")
        return checkpoint


def verified(note: bytes, origin: str, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Return the checkpoint of a note that one of the log's own keys has signed.

    Raises:
        LogInconsistent: if none has.
    """
    try:
        read = Note.parse(note)
        signer = read.verify(keys)[0].key
        return read_checkpoint(read, signer, origin)
    except NoteError as error:
        raise LogInconsistent(f"a checkpoint does not verify ({error}): {RECOVER}") from error


def default_origin(issuer: str) -> str:
    """Return the origin for an issuer URL: where its checkpoints are served, without the scheme (tlog-tiles).

    Raises:
        NoteError: if that is no key name.
    """
    parts = urlsplit(issuer)
    return check_name(f"{parts.netloc}{parts.path.rstrip('/')}/log")


_ORIGINS = "SELECT epoch, origin, first_size, previous FROM tollgate.log_origin ORDER BY epoch"
ADD_ORIGIN = "INSERT INTO tollgate.log_origin (epoch, origin, first_size, previous) VALUES ($1, $2, $3, $4)"
_HEAD = "SELECT size FROM tollgate.log_head WHERE id = 1"
_NEWEST = "SELECT epoch, size, root, note FROM tollgate.log_checkpoint {where} ORDER BY epoch DESC, size DESC LIMIT 1"
_LEAVES = """
SELECT count(*) AS n, string_agg(leaf_hash, ''::bytea ORDER BY idx) AS hashes
FROM tollgate.log_entry WHERE idx >= $1 AND idx < $2
"""
# What auditors fetch as entries: the data under each leaf hash, which is the hash of the entry's header.
_ENTRIES = """
SELECT count(*) AS n, string_agg(sha256(header), ''::bytea ORDER BY idx) AS hashes
FROM tollgate.log_entry WHERE idx >= $1 AND idx < $2
"""
_ROOTS = """
SELECT count(*) AS n, string_agg(root, ''::bytea ORDER BY idx) AS hashes
FROM tollgate.log_tile WHERE level = $3 AND idx >= $1 AND idx < $2
"""
_FULL = """
SELECT t.level, t.idx, t.hashes
FROM unnest($1::smallint[], $2::bigint[]) AS w (level, idx) JOIN tollgate.log_tile t USING (level, idx)
"""
_ADD_TILES = """
INSERT INTO tollgate.log_tile (level, idx, hashes, root)
SELECT t.level, t.idx, t.hashes, t.root
FROM unnest($1::smallint[], $2::bigint[], $3::bytea[], $4::bytea[]) AS t (level, idx, hashes, root)
"""
# Like an entry's, a checkpoint's time never runs backwards, even where the clock does. Under the publisher's lock both
# conditions hold; they are what stands between a broken lock and a second history.
_ADD_CHECKPOINT = """
INSERT INTO tollgate.log_checkpoint (epoch, size, root, at, note)
SELECT $1, $2, $3, greatest(clock_timestamp(), (
    SELECT at FROM tollgate.log_checkpoint ORDER BY epoch DESC, size DESC LIMIT 1
)), $4
WHERE (SELECT max(epoch) FROM tollgate.log_origin) = $1
    AND NOT EXISTS (SELECT 1 FROM tollgate.log_checkpoint WHERE epoch = $1 AND size >= $2)
"""
_COSIGNED = """
SELECT size FROM tollgate.log_cosignature
WHERE epoch = $1 AND size >= $2 AND witness = ANY($3::text[])
GROUP BY size HAVING count(*) >= $4 ORDER BY size DESC LIMIT 1
"""
_COSIGNATURES = "SELECT line FROM tollgate.log_cosignature WHERE epoch = $1 AND size = $2 ORDER BY witness"
_ADD_COSIGNATURE = """
INSERT INTO tollgate.log_cosignature (epoch, size, witness, line) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""


async def origins(conn: asyncpg.Connection) -> list[Origin]:
    """Return the log's origins, oldest first; the last is the current one."""
    return [
        Origin(row["epoch"], row["origin"], row["first_size"], row["previous"]) for row in await conn.fetch(_ORIGINS)
    ]


async def head(conn: asyncpg.Connection) -> int:
    """Return how many entries are committed."""
    size: int = await conn.fetchval(_HEAD)
    return size


async def newest(conn: asyncpg.Connection, epoch: int | None = None) -> Stored | None:
    """Return the newest checkpoint (of an epoch)."""
    if epoch is None:
        row = await conn.fetchrow(_NEWEST.format(where=""))
    else:
        row = await conn.fetchrow(_NEWEST.format(where="WHERE epoch = $1"), epoch)
    return None if row is None else Stored(row["epoch"], row["size"], row["root"], row["note"])


async def newest_cosigned(
    conn: asyncpg.Connection, epoch: int, at_least: int, witnesses: Sequence[str], quorum: int
) -> Stored | None:
    """Return the newest checkpoint of an epoch with cosignature lines of ``quorum`` witnesses; they are not verified.

    Args:
        at_least: no checkpoint smaller than this is looked for.
        witnesses: names that count.
    """
    size = await conn.fetchval(_COSIGNED, epoch, at_least, list(witnesses), quorum)
    if size is None:
        return None
    row = await conn.fetchrow(_NEWEST.format(where="WHERE epoch = $1 AND size = $2"), epoch, size)
    return None if row is None else Stored(epoch, size, row["root"], row["note"])


async def with_cosignatures(conn: asyncpg.Connection, stored: Stored) -> Stored:
    """Return a checkpoint with the cosignatures that stand for it."""
    lines = [row["line"] for row in await conn.fetch(_COSIGNATURES, stored.epoch, stored.size)]
    try:
        more = [one for line in lines for one in parse_signatures(line.decode().rstrip("\n") + "\n")]
        note = str(Note.parse(stored.note).with_signatures(more)).encode()
    except (NoteError, UnicodeDecodeError) as error:
        raise LogInconsistent(f"a checkpoint or cosignature cannot be read: {RECOVER}") from error
    return Stored(stored.epoch, stored.size, stored.root, note)


async def leaves(conn: asyncpg.Connection, first: int, last: int) -> list[bytes]:
    """Return the leaf hashes from ``first`` to before ``last``.

    Raises:
        LogInconsistent: if entries are missing.
    """
    return tiles.hashes_of(await _run(conn, _LEAVES, first, last))


async def entry_data(conn: asyncpg.Connection, first: int, last: int) -> bytes:
    """Return the leaf data (32 bytes each) of the entries from ``first`` to before ``last``. Raises as `leaves`."""
    return await _run(conn, _ENTRIES, first, last)


async def fetch(conn: asyncpg.Connection, wanted: Iterable[Tile]) -> Mapping[tuple[int, int], bytes]:
    """Bring tiles (proxy.ledger.tiles.Fetch), full and partial.

    Raises:
        LogInconsistent: if a part of one is missing.
    """
    found: dict[tuple[int, int], bytes] = {}
    listed = list(wanted)
    full = [tile for tile in listed if tile.width == WIDTH]
    partial = [tile for tile in listed if 0 < tile.width < WIDTH]
    if full:
        rows = await conn.fetch(_FULL, [tile.level for tile in full], [tile.index for tile in full])
        found = {(row["level"], row["idx"]): row["hashes"] for row in rows}
        if len(found) != len(set(full)):
            raise LogInconsistent(f"a tile of the log is missing: {RECOVER}")
    for tile in partial:
        first = tile.index * WIDTH
        if tile.level == 0:
            data = await _run(conn, _LEAVES, first, first + tile.width)
        else:
            data = await _run(conn, _ROOTS, first, first + tile.width, tile.level - 1)
        found[tile.level, tile.index] = data
    return found


async def over_tiles(conn: asyncpg.Connection, size: int, function: Callable[[tree.Read], _T]) -> _T:
    """Run a function of proxy.ledger.tree over the tiles and leaves that stand, of the tree of ``size`` leaves.

    Raises:
        LogInconsistent: if a tile is missing.
        ProofError: as the function.
    """
    return await tiles.compute(lambda wanted: fetch(conn, wanted), size, function)


async def edge(conn: asyncpg.Connection, size: int) -> Edge:
    """Return the right edge of the tree at ``size``, from the tiles.

    Raises:
        LogInconsistent: if a part of it is missing.
    """
    wanted = tiles.partials(size)
    found = await fetch(conn, wanted)
    return Edge(size, {tile.level: tiles.hashes_of(found[tile.level, tile.index]) for tile in wanted})


async def add(
    conn: asyncpg.Connection, stored: Stored, full: Sequence[tuple[int, int, bytes, bytes]], wait_s: float
) -> None:
    """Insert a checkpoint and the tiles that became full with it, in one synchronous transaction.

    An error from here says nothing of whether it stands: read the tables again.

    Args:
        full: as `Edge.append` returns them.
        wait_s: how long the server lets the transaction idle, seconds.

    Raises:
        LogInconsistent: if there is a larger checkpoint, a newer origin, or such a tile already.
    """
    try:
        async with conn.transaction():
            # A timeout that cancelled COMMIT's wait for a synchronous standby would be told as success.
            await conn.execute(
                "SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = 0;"
                f"SET LOCAL idle_in_transaction_session_timeout = {int(wait_s * 1000)}"
            )
            if full:
                levels, indexes, hashes, roots = zip(*full, strict=True)
                await conn.execute(_ADD_TILES, levels, indexes, hashes, roots)
            done = await conn.execute(_ADD_CHECKPOINT, stored.epoch, stored.size, stored.root, stored.note)
            if done != "INSERT 0 1":
                raise LogInconsistent(f"a larger checkpoint than {stored.size} or a newer origin stands already")
    except asyncpg.UniqueViolationError as error:
        raise LogInconsistent(f"a tile or checkpoint up to size {stored.size} stands already") from error


async def add_cosignature(conn: asyncpg.Connection, stored: Stored, witness: str, line: str) -> None:
    """Insert a witness's signature line; one of that witness for that checkpoint stays."""
    await conn.execute(_ADD_COSIGNATURE, stored.epoch, stored.size, witness, line.encode())


async def _run(conn: asyncpg.Connection, statement: str, first: int, last: int, *more: int) -> bytes:
    row = await conn.fetchrow(statement, first, last, *more)
    data: bytes = row["hashes"] or b""
    if row["n"] != last - first or len(data) != (last - first) * HASH_LEN:
        raise LogInconsistent(f"of the log's places {first} to {last - 1} some are missing: {RECOVER}")
    return data
