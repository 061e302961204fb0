"""A month's records, piece by piece: fetched ahead, opened and worked on in threads, given in order.

A few pieces are made at the same time, each by one thread from ciphertext to its end: what was opened is used while it
is in the processor's cache. Memory is bounded by that number of pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from proxy.disclosure.access import Access
from proxy.disclosure.fetching import RELISTS, Listed, Source, StoreChangingError, Unopened
from proxy.disclosure.scope import Position, RowBlock

T = TypeVar("T")
Work = Callable[[RowBlock], Callable[[], T]]
"""What is done with records: first what takes many small steps, by one thread at a time; what that returns takes a few
long ones, and is called beside others (`Access.turn`)."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """What work made of some records."""

    values: list[T]
    """One, or none where there are no records."""
    rows: int
    position: Position
    """After the last of them."""
    batches: int
    """So many of the group's batches, from its first, are dealt with."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    group: Sequence[Listed]
    made: asyncio.Future[Piece[T]]


async def pieces(
    access: Access, source: Source, position: Position, left: int | None, work: Work[T]
) -> AsyncGenerator[Piece[T]]:
    """Give a month's records after a position, ``left`` of them at most; no piece is empty.

    Raises:
        StoreChangingError: if a batch that is listed stays away.
    """
    month = position.month
    todo = await source.listed(position)
    jobs: deque[_Job[T]] = deque()
    relisted = 0
    async with aclosing(_Fetches(source, month)) as fetches:
        try:
            while left is None or left > 0:
                while todo and len(jobs) < source.at_once:
                    group = source.group(todo, left)
                    if left is not None and jobs and _most(*(j.group for j in jobs), group) > left:
                        break  # how many of these are wanted shows when those before have been opened
                    unopened = await fetches.get(group)
                    if unopened is None:  # a roll has replaced a batch: list again from here
                        relisted += 1
                        if relisted > RELISTS:
                            raise StoreChangingError
                        todo = await source.listed(position)
                        continue
                    relisted = 0
                    made = access.run(_make, access.turn, unopened, group, position, left, work)
                    jobs.append(_Job(group, asyncio.ensure_future(made)))
                    todo, position = todo[len(group) :], _after(month, group[-1])
                    if todo and (left is None or left > _most(group)):
                        fetches.begin(source.group(todo, left))
                if not jobs:
                    return
                piece = await jobs[0].made
                group = jobs.popleft().group
                if rest := group[piece.batches :]:  # of a look-up, which opens no more than it needs
                    todo, position = [*rest, *todo], piece.position
                if piece.rows:
                    yield piece
                    left = None if left is None else left - piece.rows
        finally:
            for job in jobs:
                job.made.cancel()
            await asyncio.gather(*(job.made for job in jobs), return_exceptions=True)


def _after(month: int, batch: Listed) -> Position:
    return Position(month, batch.pair_id, batch.last_record_id)


def _most(*groups: Sequence[Listed]) -> int:
    """The most records that groups can have."""
    return sum(b.rows for group in groups for b in group)


def _make(
    turn: Lock, unopened: Unopened, group: Sequence[Listed], position: Position, left: int | None, work: Work[T]
) -> Piece[T]:
    fetched = unopened(position, left)
    with turn:
        block = RowBlock(fetched.table)
        end = _after(position.month, group[fetched.batches - 1])
        if left is not None and block.rows > left:
            block = block.slice(0, left)
            end = Position(position.month, fetched.pair_at(left - 1), int(block.record_ids[-1]))
        if len(fetched.spans) > 1:
            block = _mixed(block)
        rest = work(block) if block.rows else None
    return Piece([] if rest is None else [rest()], block.rows, end, fetched.batches)


def _mixed(block: RowBlock) -> RowBlock:
    """Return a piece in the order of its record ids: pairs one after another would tell a peer the other carrier."""
    ids = block.record_ids
    if (ids[1:] > ids[:-1]).all():
        return block
    return RowBlock(block.table.take(pa.array(np.argsort(ids))))


class _Fetches:
    """Fetches the next batches while those before are opened: database and threads work at the same time."""

    def __init__(self, source: Source, month: int) -> None:
        self._source, self._month = source, month
        self._group: Sequence[Listed] = ()
        self._coming: asyncio.Future[Unopened | None] | None = None

    def begin(self, group: Sequence[Listed]) -> None:
        """Begin to fetch what will be asked for next."""
        self._group, self._coming = group, asyncio.ensure_future(self._source.fetch(self._month, group))

    async def get(self, group: Sequence[Listed]) -> Unopened | None:
        """Return a group, begun or not."""
        if self._coming is None or self._group != group:  # what was begun is not what is wanted after all
            await self.aclose()
            return await self._source.fetch(self._month, group)
        coming, self._coming = self._coming, None
        return await coming

    async def aclose(self) -> None:
        """Give up what was begun."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
            self._coming = None
