"""One answer from its intent to its outcome: what the log says is never less than what was sent.

The order of things, and what dying after each step leaves:

1. The intent is durable (service.py). Dying here: an intent without outcome, which counts as all of its scope
   disclosed; nothing was. Over-stated, never under-stated.
2. The first piece is read. A failure here is still answered as a problem, with an outcome of no rows.
3. Pieces are sent. Before the rows of each further stretch of ``progress_rows``, a progress entry is durable. Dying
   here: everything up to the last progress entry is on record exactly, what follows it counts as disclosed.
4. The outcome is durable, then the answer's end is sent: a client that sees a whole answer can look its outcome up. If
   the outcome cannot be written the records are gone all the same, so the answer ends, the intent stands as "all
   disclosed", and the entry is offered to the log again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from proxy.disclosure.plan import Place
from proxy.disclosure.records import SET_BYTES_MAX, RecordSet
from proxy.disclosure.stream import Ahead, Piece
from proxy.ledger.model import LedgerUnavailable

WRITE_BYTES = 1 << 18
"""What is handed to the socket at once. A reader has to take this much within the stall time."""
CHECKPOINTS_MAX = 64
"""Checkpoints that an outcome lists: the last ones."""
ALIVE_EVERY_S = 0.5
"""How often a running answer asks whether its client is still allowed."""
BLIND_MAX_S = 5.0
"""A running answer that could not ask for this long is cut: it may be going to somebody who has been shut out."""


class State(StrEnum):
    """How an access stands."""

    OPEN = "open"  # being answered by this gateway
    COMPLETE = "complete"  # everything in scope was handed to the socket
    LIMITED = "limited"  # the limit was reached; a cursor leads on
    INTERRUPTED = "interrupted"  # it ended early; a cursor leads on
    UNKNOWN = "unknown"  # an intent without outcome


class Cut(StrEnum):
    """Why an answer ended early. Bounded: a metric label."""

    CLIENT_GONE = "client_gone"
    STALLED = "stalled"
    REVOKED = "revoked"
    UNVERIFIED = "unverified"  # whether the client is still allowed could not be asked
    LOG_UNAVAILABLE = "log_unavailable"
    QUOTA = "quota"
    FAILED = "failed"
    SHUTDOWN = "shutdown"


class CutOff(Exception):  # noqa: N818 - an end, not an error
    """The answer ends here."""

    def __init__(self, why: Cut) -> None:
        super().__init__(why.value)
        self.why = why


class Sink(Protocol):
    """Where an answer goes."""

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send status and headers."""

    async def write(self, data: memoryview) -> None:
        """Send bytes; return when the transport will take more. Raises ConnectionError when the reader is gone."""

    async def finish(self) -> None:
        """Send the end."""

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot be taken for a whole answer."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place at which a truncated answer can be cut and gone on from: bytes before coding, rows, digest so far."""

    bytes: int
    rows: int
    sha256: str
    place: Place

    def as_json(self) -> dict[str, Any]:
        """Return it for a log entry."""
        return {"bytes": self.bytes, "rows": self.rows, "sha256": self.sha256, "place": self.place.as_list()}


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of a delivery."""

    limit: int
    progress_rows: int
    stall_s: float
    resumable: bool
    """Whether an answer of this media type is of use when it is cut at a checkpoint."""


@dataclass(slots=True)
class Hooks:
    """What a delivery calls. All may raise.

    ``progress`` and ``outcome`` append to the log; ``sound`` is false once the log has been halted, and nothing more is
    sent; ``alive`` says whether the client is still allowed; ``spend`` takes rows from the client's day and says if
    there were so many; ``sent`` is told of rows and bytes, for metrics.
    """

    progress: Callable[[Mapping[str, Any]], Awaitable[None]]
    outcome: Callable[[Mapping[str, Any]], Awaitable[None]]
    sound: Callable[[], bool]
    alive: Callable[[], Awaitable[bool]]
    spend: Callable[[int], Awaitable[bool]]
    sent: Callable[[int, int], None]
    failed: Callable[[str, BaseException], None]


class _Sent:
    """What was handed to the socket in whole pieces."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self.sha256 = hashlib.sha256().hexdigest()
        self.stretch = RecordSet()
        """The records since the last progress entry: those before it are in the entries before."""
        self.checkpoints: deque[Checkpoint] = deque(maxlen=CHECKPOINTS_MAX)
        self.place: Place | None = None

    def add(self, piece: Piece) -> None:
        self.rows += piece.rows
        self.bytes += piece.size
        self.sha256 = piece.sha256
        self.stretch.add(piece.records)
        if piece.place is not None:
            self.place = piece.place
            self.checkpoints.append(Checkpoint(self.bytes, self.rows, self.sha256, piece.place))


class Delivery:
    """One answer on its way.

    Args:
        access_id: the access; its intent is durable.
        ahead: its pieces.
        rules: its limits.
        hooks: what it calls.
        facts: what else its outcome says (media type, coding, classes).
    """

    def __init__(self, access_id: UUID, ahead: Ahead, rules: Rules, hooks: Hooks, facts: Mapping[str, Any]) -> None:
        self.access_id = access_id
        self._ahead = ahead
        self._rules = rules
        self._hooks = hooks
        self._facts = dict(facts)
        self._sent = _Sent()
        self._since_progress = 0
        self._in_flight: Piece | None = None
        self._held: deque[Piece] = deque()
        self._ended = False
        self._finished = False
        self._paid = 0
        self._why: Cut | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def rows(self) -> int:
        """Rows handed to the socket so far."""
        return self._sent.rows

    @property
    def bytes(self) -> int:
        """Bytes, before coding, handed to the socket so far."""
        return self._sent.bytes

    async def prepare(self, small: bool) -> Place | None:
        """Make the first piece, or all of a ``small`` answer, before anything is sent: a failure can be answered.

        Returns:
            The place after the last row of a small answer that reached its limit; else None.

        Raises:
            CutOff: with ``Cut.QUOTA``, where the client's day has not so many rows left.
            Exception: whatever the store raised. In both cases the outcome (no rows) has been logged.
        """
        why = Cut.FAILED
        try:
            while not self._ended and (small or not self._held):
                piece = await self._ahead.get()
                if piece is None:
                    self._ended = True
                    break
                self._held.append(piece)
                if small:
                    self._ahead.done()
            self._paid = sum(p.rows for p in self._held)
            if self._paid and not await self._hooks.spend(self._paid):
                why = Cut.QUOTA
                raise CutOff(why)
        except BaseException:
            await asyncio.shield(self._finish(None, why))
            raise
        full = small and sum(p.rows for p in self._held) >= self._rules.limit
        return next((p.place for p in reversed(self._held) if p.rows), None) if full else None

    async def send(self, sink: Sink, headers: Mapping[str, str]) -> None:
        """Send the answer, log its outcome, end it. Whatever befalls the reader or the store is an outcome, not an
        error; only cancellation is passed on."""
        self._pump = asyncio.create_task(self._send(sink, headers), name="disclosure send")
        watch = asyncio.create_task(self._look(), name="disclosure watch")
        why: Cut | None = Cut.SHUTDOWN
        try:
            await asyncio.wait([self._pump])
            why = self._end_of(self._pump)
        except asyncio.CancelledError:
            self.cut(Cut.SHUTDOWN)
            await asyncio.wait([self._pump])
            raise
        finally:
            watch.cancel()
            await asyncio.shield(self._finish(sink, why))

    async def abandon(self) -> None:
        """End an answer that was prepared and never sent; does nothing to one that has ended already."""
        if not self._finished:
            await asyncio.shield(self._finish(None, Cut.FAILED))

    def cut(self, why: Cut) -> None:
        """End the answer now."""
        if self._pump is not None and not self._pump.done():
            self._why = self._why or why
            self._pump.cancel()

    async def _send(self, sink: Sink, headers: Mapping[str, str]) -> None:
        async with _stall(self._rules.stall_s):
            await sink.start(headers)
        while (piece := await self._next()) is not None:
            if not self._hooks.sound():
                raise CutOff(Cut.LOG_UNAVAILABLE)
            if piece.rows:
                await self._allow(piece)
            self._in_flight = piece
            data = memoryview(piece.data)
            for start in range(0, len(data), WRITE_BYTES):
                async with _stall(self._rules.stall_s):
                    await sink.write(data[start : start + WRITE_BYTES])
            self._in_flight = None
            self._sent.add(piece)
            self._since_progress += piece.rows
            self._hooks.sent(piece.rows, piece.size)
            # Let go of it before waiting for the next: this is what bounds memory.
            del data, piece
            self._ahead.done()

    async def _next(self) -> Piece | None:
        if self._held:
            return self._held.popleft()
        return None if self._ended else await self._ahead.get()

    async def _allow(self, piece: Piece) -> None:
        """Take what the next rows need before they are sent: the client's budget, and the log's knowledge."""
        rows, stretch = piece.rows, self._sent.stretch
        if self._paid:
            self._paid -= rows
        elif not await self._hooks.spend(rows):
            raise CutOff(Cut.QUOTA)
        # Early where the records stand so far apart that their set would not fit an entry.
        full = stretch.bound + piece.records.bound > SET_BYTES_MAX
        if self._since_progress and (full or self._since_progress + rows > self._rules.progress_rows):
            # Lost, or its reply lost: the stretch stays, and is in the outcome too. A record counts once.
            await self._hooks.progress(self._value())
            self._since_progress = 0
            self._sent.stretch = RecordSet()

    async def _look(self) -> None:
        """Cut the answer when its client is shut out, or when that could not be asked for too long."""
        seen = time.monotonic()
        while True:
            await asyncio.sleep(ALIVE_EVERY_S)
            try:
                alive = await asyncio.wait_for(self._hooks.alive(), BLIND_MAX_S)
            except Exception as error:
                if time.monotonic() - seen >= BLIND_MAX_S:
                    self._hooks.failed("disclosure.blind", error)
                    return self.cut(Cut.UNVERIFIED)
                continue
            if not alive:
                return self.cut(Cut.REVOKED)
            seen = time.monotonic()

    def _end_of(self, pump: asyncio.Task[None]) -> Cut | None:
        if pump.cancelled():
            return self._why or Cut.SHUTDOWN
        error = pump.exception()
        if error is None:
            return None
        if isinstance(error, CutOff):
            return error.why
        if isinstance(error, ConnectionError):
            return Cut.CLIENT_GONE
        self._hooks.failed("disclosure.failed", error)
        return Cut.LOG_UNAVAILABLE if isinstance(error, LedgerUnavailable) else Cut.FAILED

    def _value(self) -> dict[str, Any]:
        sent = self._sent
        value = self._facts | {
            "rows": sent.rows,
            "bytes": sent.bytes,
            "sha256": sent.sha256,
            "records": sent.stretch.as_json(),
            "place": sent.place.as_list() if sent.place else None,
        }
        if self._rules.resumable:
            value["checkpoints"] = [c.as_json() for c in sent.checkpoints]
        return value

    async def _finish(self, sink: Sink | None, why: Cut | None) -> None:
        self._finished = True
        if why is not None and sink is not None:
            sink.abort()  # first: who was shut out gets nothing more while we write it down
        await self._ahead.aclose()
        self._held.clear()
        if why is not None:
            state = State.INTERRUPTED
        else:
            state = State.LIMITED if self._sent.rows >= self._rules.limit else State.COMPLETE
        value = self._value() | {"state": state.value}
        if why is not None:
            value["why"] = why.value
        if self._in_flight is not None:
            # Cut in the middle of a piece: some of its rows were seen, we cannot know which. All are on record.
            piece, self._in_flight = self._in_flight, None
            partly = RecordSet()
            partly.add(piece.records)
            value["in_flight"] = partly.as_json()
        await self._hooks.outcome(value)
        if why is None and sink is not None:
            with contextlib.suppress(ConnectionError, CutOff):
                async with _stall(self._rules.stall_s):
                    await sink.finish()


@contextlib.asynccontextmanager
async def _stall(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise CutOff(Cut.STALLED) from error
