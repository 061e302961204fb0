"""A batch: entries that are sealed together and written by one statement.

Sealing is done before the head lock is taken, for the month that the entries are expected to fall in; only the time,
and with it the headers and the leaves, wait for the lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from keys.sealing import seal
from proxy.ledger import encoding
from proxy.ledger.encoding import Encoded, Tagger
from proxy.ledger.model import PARTS, new_id

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
    tags: Tagger


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
        found = OneMonth(parts, Tagger(made[Period(TAG_CLASS, month)].secret))
        self._months[month] = found
        return found

    def forget(self) -> None:
        """Drop the keys from memory: a database that was away may have come back from a backup without them."""
        for month in self._months:
            self._keys.forget(_periods(month))
        self._months.clear()


def _periods(month: int) -> list[Period]:
    return [Period(name, month) for name in KEY_CLASSES]


@dataclass(slots=True)
class Batch:
    """Sealed entries of one month, ready to be given their places and their time."""

    entries: Sequence[Encoded]
    arguments: tuple[Any, ...]
    """Those of ``sql.APPEND`` from the third on."""


def prepare(entries: Sequence[Encoded], month: int, keys: OneMonth) -> Batch:
    """Seal the openings of ``entries``, and make their tags, under the month's keys.

    A part that only some of them have has an empty chunk for each of the others: a chunk's place is its entry's. A part
    that none of them has is not there.
    """
    batch_id = new_id()
    sealed = {}
    for i, part in enumerate(PARTS):
        chunks = [e.openings[i] for e in entries]
        if any(chunks):
            sealed[part] = seal(keys.parts[part], chunks, encoding.sealing_aad(part, month, batch_id))
    columns = [keys.tags.column(e.tags) for e in entries]
    tags, places = encoding.tag_index([column.keys for column in columns])
    return Batch(
        entries,
        (
            month,
            batch_id,
            [e.entry_id for e in entries],
            [e.kind for e in entries],
            [e.access_id for e in entries],
            [e.after + column.after for e, column in zip(entries, columns, strict=True)],
            [column.stored for column in columns],
            list(sealed),
            list(sealed.values()),
            tags,
            places,
        ),
    )
