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
from proxy.ledger.model import PARTS, Appended

TAG_CLASS = "log_tags"


def part_class(part: str) -> str:
    """Return the key class of a part's openings."""
    return "log_" + part


class MonthKeys:
    """The log's data keys of each month, made when first needed.

    They are made on a connection of their own, never in a transaction that may yet roll back: an entry sealed under
    a key whose wrapped form was lost could never be opened.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys) -> None:
        self._pool = pool
        self._keys = keys
        self._months: dict[int, Mapping[str, DataKey]] = {}

    async def get(self, month: int) -> Mapping[str, DataKey]:
        """Return the month's keys by class.

        Raises:
            KeysError: if the provider does not give them.
        """
        if (found := self._months.get(month)) is not None:
            return found
        periods = [Period(name, month) for name in (*map(part_class, PARTS), TAG_CLASS)]
        async with self._pool.acquire() as conn:
            made = await self._keys.ensure(conn, periods)
        found = {period.key_class: key for period, key in made.items()}
        self._months[month] = found
        return found


    def forget(self) -> None:
        """Drop the keys from memory: a database that was away may have come back from a backup without them."""
        for month, keys in self._months.items():
            self._keys.forget(Period(name, month) for name in keys)
        self._months.clear()


@dataclass(frozen=True, slots=True)
class Batch:
    """Sealed entries of one month, ready to be given their place."""

    month: int
    entries: tuple[Encoded, ...]
    sealed: tuple[bytes, ...]
    tags: tuple[bytes, ...]

    @property
    def batch_id(self) -> UUID:
        """The id of the batch's first entry."""
        return self.entries[0].entry_id


def prepare(entries: Sequence[Encoded], month: int, keys: Mapping[str, DataKey]) -> Batch:
    """Seal the openings of ``entries``, and make their tags, under the month's keys."""
    batch_id = entries[0].entry_id
    sealed = tuple(
        seal(keys[part_class(part)], [e.openings[i] for e in entries], encoding.sealing_aad(part, month, batch_id))
        for i, part in enumerate(PARTS)
    )
    secret = keys[TAG_CLASS].secret
    return Batch(month, tuple(entries), sealed, tuple(encoding.tag_column(secret, e.tags) for e in entries))


def place(batch: Batch, first: int, at: datetime) -> tuple[list[Appended], tuple[Any, ...]]:
    """Give a batch its indexes and its time.

    Returns:
        Where each entry will stand, and the arguments of ``sql.INSERT``.
    """
    headers = [encoding.header(e, at, tags) for e, tags in zip(batch.entries, batch.tags, strict=True)]
    leaves = [encoding.leaf_hash(h) for h in headers]
    placed = [
        Appended(first + n, e.entry_id, at, leaf) for n, (e, leaf) in enumerate(zip(batch.entries, leaves, strict=True))
    ]
    # Two tags of one entry may agree in their 8 bytes: the look-up table holds such a pair once.
    found = sorted({(key, first + n) for n, column in enumerate(batch.tags) for key in encoding.tag_keys(column)})
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
        list(PARTS),
        list(batch.sealed),
        [key for key, _ in found],
        [index for _, index in found],
    )
