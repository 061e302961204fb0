"""Helpers for tests of disclosure and the API: contract-enforcing fakes of the store, and a sink without a socket.

The fakes check what the real parts promise their callers, and record the order of events, so that a delivery that reads
before its intent, or sends past an unlogged stretch, is seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from proxy.disclosure.reader import Position, Scope

T = TypeVar("T")


@dataclass
class FakeBlock:
    """A block of ``rows`` records with consecutive ids."""

    record_ids: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def rows(self) -> int:
        return len(self.record_ids)


class FakeEncoder:
    """One line a record: its id."""

    def begin(self) -> bytes:
        return b"head\n"

    def block(self, rows: Any) -> bytes:
        return b"".join(b"%d\n" % i for i in rows.record_ids.tolist())

    def end(self) -> bytes:
        return b"tail\n"


@dataclass
class FakeReader:
    """A store of records 1 to ``rows``, in pieces of ``piece``; checks that no empty scope is asked."""

    rows: int
    piece: int = 10
    events: list[str] = field(default_factory=list)
    fail_at: int | None = None
    open_streams: int = 0
    pieces_made: int = 0

    async def complete_to(self) -> int:
        self.events.append("complete_to")
        return self.rows

    def stream(
        self, scope: Scope, after: Position | None, work: Callable[[Any], T], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        return self._stream(scope, after, work, limit)

    def search(
        self, scope: Scope, number: str, after: Position | None, work: Callable[[Any], T], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        assert number.startswith("+")
        return self._stream(scope, after, work, limit)

    async def _stream(
        self, scope: Scope, after: Position | None, work: Callable[[Any], T], limit: int | None
    ) -> AsyncIterator[tuple[T, int, Position]]:
        assert scope.ocns
        assert scope.sides
        self.open_streams += 1
        try:
            low = max(scope.after_id, after.record_id if after else 0)
            high = min(scope.as_of, self.rows, low + limit if limit is not None else self.rows)
            while low < high:
                self.events.append("read")
                if self.fail_at is not None and low >= self.fail_at:
                    raise OSError("the store went away: +12025550100")
                ids = np.arange(low + 1, min(low + self.piece, high) + 1, dtype=np.int64)
                made = await asyncio.to_thread(work, FakeBlock(ids))
                self.pieces_made += 1
                low = int(ids[-1])
                yield made, len(ids), Position(202610, 1, low)
        finally:
            self.open_streams -= 1


@dataclass
class FakeSink:
    """Takes an answer; can stall, or break after so many bytes."""

    events: list[str]
    break_after: int | None = None
    stall_after: int | None = None
    data: bytes = b""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    headers: dict[str, str] = field(default_factory=dict)
    ended: str = ""

    async def start(self, headers: Mapping[str, str]) -> None:
        self.events.append("start")
        self.headers = dict(headers)

    async def write(self, data: memoryview) -> None:
        assert not self.ended, "written to after its end"
        if self.break_after is not None and len(self.data) >= self.break_after:
            raise ConnectionResetError
        if self.stall_after is not None and len(self.data) >= self.stall_after:
            self.stalled.set()
            await asyncio.Event().wait()
        self.events.append("send")
        self.data += bytes(data)
        await asyncio.sleep(0)

    async def finish(self) -> None:
        self.events.append("end")
        self.ended = "whole"

    def abort(self) -> None:
        self.events.append("abort")
        self.ended = "broken"
