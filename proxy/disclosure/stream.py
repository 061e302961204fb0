"""The making of an answer: pieces of the store, encoded, hashed and coded in threads, a few ahead of the reader.

Memory is bounded by ``AHEAD`` pieces: one being sent and one ready or in the making. Nothing is read for a reader that
does not read, and whoever stops reading frees everything by ``aclose``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from proxy.disclosure.coding import Buffer, Coder
from proxy.disclosure.encoders import Block, Columns
from proxy.disclosure.pieces import Work
from proxy.disclosure.plan import Place
from proxy.disclosure.records import NONE, Portion, portion_of
from proxy.disclosure.scope import Position, RowBlock, Scope

AHEAD = 2
"""Pieces of one answer that may be in memory at once."""

T = TypeVar("T")


class Reader(Protocol):
    """What is used of the store (proxy/disclosure/reader.py)."""

    async def complete_to(self) -> int:
        """Return the last record id that can be read."""

    def stream(
        self, scope: Scope, after: Position | None, work: Work[T], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """Give pieces in order; ``work`` runs in threads, for several pieces at the same time."""

    def search(
        self, scope: Scope, number: str, after: Position | None, work: Work[T], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        """The same, of the rows in which ``number`` stands."""


class RowEncoder(Protocol):
    """What is used of an encoder (proxy/disclosure/encoders.py)."""

    def begin(self) -> bytes:
        """Return what comes before the rows."""

    def columns(self, rows: RowBlock) -> Columns:
        """Return the rows as columns."""

    def block(self, columns: Columns) -> Block:
        """Return columns made ready; of several pieces at the same time."""

    def written(self, block: Block) -> Buffer:
        """Return their bytes; of one piece after the other."""

    def end(self) -> bytes:
        """Return what comes after them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    ``data`` is coded; ``size`` and ``sha256`` are of the answer before coding: the bytes of this piece, and the digest
    of everything up to its end. ``place`` is where the rows after it come; None where it holds no rows.
    """

    data: Buffer
    size: int
    sha256: str
    rows: int
    place: Place | None
    records: Portion


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made: the scopes in order, where to begin, how many rows at most."""

    scopes: Sequence[Scope]
    number: str | None
    start: Place | None
    limit: int


async def pieces(
    reader: Reader, order: Order, encoder: RowEncoder, coder: Coder, executor: Executor
) -> AsyncIterator[Piece]:
    """Give the answer piece by piece; the last piece holds no rows, and closes format and coding."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()

    def work(rows: RowBlock) -> Callable[[], tuple[Block, Portion]]:
        columns, records = encoder.columns(rows), portion_of(rows.record_ids)
        return lambda: (encoder.block(columns), records)

    def finish(head: bytes, block: Block | None, tail: bytes) -> tuple[Buffer, int, str]:
        data = b"" if block is None else encoder.written(block)
        if head or tail:
            data = b"".join((head, data, tail))
        digest.update(data)
        coded = coder.code(data)
        if block is None:
            coded = b"".join((coded, coder.end()))
        return coded, len(data), digest.hexdigest()

    async def piece(
        head: bytes, block: Block | None, tail: bytes, rows: int, place: Place | None, records: Portion
    ) -> Piece:
        return Piece(*await loop.run_in_executor(executor, finish, head, block, tail), rows, place, records)

    head = await loop.run_in_executor(executor, encoder.begin)
    left = order.limit
    first = order.start.segment if order.start else 0
    for segment in range(first, len(order.scopes)):
        if left <= 0:
            break
        after = order.start.position if order.start and segment == first else None
        rows_of = _read(reader, order, order.scopes[segment], after, work, left)
        async with contextlib.aclosing(rows_of):  # type: ignore[type-var]
            async for (block, records), rows, position in rows_of:
                yield await piece(head, block, b"", rows, Place(segment, position), records)
                head = b""
                left -= rows
    tail = await loop.run_in_executor(executor, encoder.end)
    yield await piece(head, None, tail, 0, None, NONE)


def _read(
    reader: Reader, order: Order, scope: Scope, after: Position | None, work: Work[T], left: int
) -> AsyncIterator[tuple[T, int, Position]]:
    if order.number is None:
        return reader.stream(scope, after, work, left)
    return reader.search(scope, order.number, after, work, left)


class Ahead:
    """Runs a source of pieces a bounded number ahead of its reader.

    ``get`` gives the next piece, or None at the end, and raises what the source raised; the reader calls ``done`` when
    it no longer holds a piece, which is what lets the next be made.
    """

    def __init__(self, source: AsyncIterator[Piece], ahead: int = AHEAD) -> None:
        self._source = source
        self._room = asyncio.Semaphore(ahead)
        self._ready: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name="disclosure pieces")

    async def _run(self) -> None:
        end: Exception | None = None
        try:
            while True:
                await self._room.acquire()
                try:
                    piece = await anext(self._source)
                except StopAsyncIteration:
                    break
                self._ready.put_nowait(piece)
                del piece  # the reader's now: held here it would stay in memory for as long as there is no room
        except Exception as error:
            end = error
        self._ready.put_nowait(end)

    async def get(self) -> Piece | None:
        """Return the next piece; None after the last.

        Raises:
            Exception: whatever the source raised.
        """
        item = await self._ready.get()
        if isinstance(item, Exception):
            raise item
        return item

    def done(self) -> None:
        """Say that the last piece got is no longer held."""
        self._room.release()

    async def aclose(self) -> None:
        """Stop the source and free what it held."""
        self._task.cancel()
        await asyncio.wait([self._task])
        while not self._ready.empty():
            self._ready.get_nowait()
        close: Any = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
