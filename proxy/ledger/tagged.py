"""Which entries bear a tag, as the table of tags says: by index, whatever rows it is told in.

A row of the table is a stretch of the log: a first index and places counted from it. As they are written, stretches do
not overlap. Whoever has the database can lay them so that they do, and leave nothing out; so the order of the rows is
not relied on: an index is given when every row that can name a smaller one has been read.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import asyncpg

from proxy.ledger import sql

REACH = 1 << 16
"""A row names indexes from its first to before its first plus this."""


async def pages(conn: asyncpg.Connection, tag: int, after: int, before: int, most: int) -> AsyncIterator[list[int]]:
    """Give the indexes greater than ``after`` and less than ``before`` that bear a tag: ascending, none twice.

    Args:
        conn: a connection of role LOG.
        tag: its first 8 bytes, as the table has them.
        after: the last index already seen; -1 from the start.
        before: the end of what is looked at.
        most: indexes of one page, and rows of one statement; every page but the last is full.
    """
    read = after - REACH
    waiting: set[int] = set()
    settled: list[int] = []
    while True:
        rows = await conn.fetch(sql.FIND, tag, read, before, most)
        for row in rows:
            first, places = row["first"], row["places"]
            indexes = [first + place for (place,) in struct.iter_unpack(">H", places[: len(places) // 2 * 2])]
            waiting.update([index for index in indexes if after < index < before])
        if rows:
            read = rows[-1]["first"]
        end = len(rows) < most
        # What is still to be read begins after `read`.
        ready = sorted(waiting if end else [index for index in waiting if index <= read])
        waiting.difference_update(ready)
        settled += ready
        while len(settled) >= most:
            yield settled[:most]
            settled = settled[most:]
        if end:
            if settled:
                yield settled
            return
