"""A batch: entries that are sealed together and written by one statement.

Sealing is done before the head lock is taken, for the month that the entries are expected to fall in; only the time,
the headers and the leaves wait for the lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from keys.sealing import seal
from proxy.ledger import encoding
from proxy.ledger.encoding import Encoded
from proxy.ledger.model import PARTS, Appended, Tag, new_id, timestamp

TAG_CLASS = "log_tags"


def part_class(part: str) -> str:
    """Return the key class of a part's openings."""
    return "log_" + part


KEY_CLASSES = (*map(part_class, PARTS), TAG_CLASS)
"""The classes of keys that the log uses."""


@dataclass(frozen=True, slots=True)
class OneMonth:
    """The data keys of one month: of each part's openings and of the tags."""

    parts: Mapping[str, DataKey]
    tags: DataKey
    tag_cache: dict[Tag, bytes]


class MonthKeys:
    """The log's data keys of each month, made when first needed.

    They are made on a connection of their own, never in a transaction that may yet roll back: an entry sealed under
    a key whose wrapped form was lost could never be opened.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys) -> None:
        self._pool = pool
        self._keys = keys
        self._months: dict[int, OneMonth] = {}

    async def get(self, month: int) -> OneMonth:
        """Return the month's keys.

        Raises:
            KeysError: if the provider does not give them.
        """
        if (found := self._months.get(month)) is not None:
            return found
        async with self._pool.acquire() as conn:
            made = await self._keys.ensure(conn, _periods(month))
        parts = {part: made[Period(part_class(part), month)] for part in PARTS}
        found = OneMonth(parts, made[Period(TAG_CLASS, month)], {})
        self._months[month] = found
        return found

    def forget(self) -> None:
        """Drop the keys from memory: a database that was away may have come back from a backup without them."""
        for month in self._months:
            self._keys.forget(_periods(month))
        self._months.clear()


def _periods(month: int) -> list[Period]:
    return [Period(name, month) for name in KEY_CLASSES]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sealed entries of one month, ready to be given their place."""

    batch_id: UUID
    month: int
    entries: tuple[Encoded, ...]
    sealed: dict[str, bytes]
    """By part; a part that none of the entries has is absent."""
    tags: tuple[bytes, ...]


def prepare(entries: Sequence[Encoded], month: int, keys: OneMonth) -> Batch:
    """Seal the openings of ``entries``, and make their tags, under the month's keys.

    A part that only some of them have has an empty chunk for each of the others: a chunk's place is its entry's.
    """
    batch_id = new_id()
    sealed = {}
    for i, part in enumerate(PARTS):
        chunks = [e.openings[i] for e in entries]
        if any(chunks):
            sealed[part] = seal(keys.parts[part], chunks, encoding.sealing_aad(part, month, batch_id))
    tags = tuple(encoding.tag_column(keys.tags.secret, e.tags, keys.tag_cache) for e in entries)
    return Batch(batch_id, month, tuple(entries), sealed, tags)


def place(batch: Batch, first: int, at: datetime) -> tuple[list[Appended], tuple[Any, ...]]:
    """Give a batch its indexes and its time.

    Returns:
        Where each entry will stand, and the arguments of ``sql.INSERT``.
    """
    text = timestamp(at)
    headers = [encoding.header(e, text, tags) for e, tags in zip(batch.entries, batch.tags, strict=True)]
    leaves = [encoding.leaf_hash(h) for h in headers]
    placed = [
        Appended(first + n, e.entry_id, at, leaf) for n, (e, leaf) in enumerate(zip(batch.entries, leaves, strict=True))
    ]
    keys, places = encoding.tag_index(batch.tags)
    return placed, (
        first,
        at,
        batch.batch_id,
        [e.entry_id for e in batch.entries],
        [e.kind.value for e in batch.entries],
        [e.access_id for e in batch.entries],
        headers,
        leaves,
        list(batch.tags),
        batch.month,
        list(batch.sealed),
        list(batch.sealed.values()),
        keys,
        places,
    )
