"""Disclosure as a service: from an authenticated question to an answer ready to be sent, in the order that matters.

parse (query.py) → open the cursor → decide (policy) → append the intent, durable → first read (delivery.py). A denial
is appended before it is answered. If the log cannot be written, nothing is read and nothing is answered but 503.

Trust: this is the one place that joins a permit to the store. Who can change it can disclose anything PostgreSQL's
row-level security lets the billing role see, and would still leave the database's own statement log behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from proxy import logs, metrics
from proxy.disclosure import entries, plan
from proxy.disclosure.coding import Coding, coder
from proxy.disclosure.cursors import Cursor, CursorError, Sealer
from proxy.disclosure.delivery import Cut, CutOff, Delivery, Hooks, Rules
from proxy.disclosure.encoders import Encoder, MediaType
from proxy.disclosure.entries import Actor, Terms
from proxy.disclosure.plan import Place
from proxy.disclosure.query import Asked, QueryError, Window
from proxy.disclosure.recordids import RecordIds
from proxy.disclosure.stream import Ahead, Order, Reader, pieces
from proxy.ledger.model import Appended, Entry, LedgerUnavailable, new_id
from proxy.ledger.service import Ledger
from proxy.policy import Deny, Direction, Holding, Permit, Purpose, Request, decide
from schema.fields import BY_NAME

SMALL_ROWS = 10_000
"""An answer of at most so many rows is made whole before it is sent, so that its headers can say where it goes on."""
WHOLE_ONLY = frozenset({"application/vnd.apache.parquet"})
"""Media types of which a part is of no use: what was sent of one cannot be cut at a checkpoint and gone on from."""
SPEND_ROWS = 250_000
"""Rows taken from a client's day at once, while an answer runs; what is not used is given back."""
RETRY_S = (0.2, 1.0, 5.0, 15.0, 60.0)
"""After how long an outcome that could not be written is offered to the log again, each time."""

_LOG = logs.get("disclosure")


class Denied(Exception):  # noqa: N818 - an answer, not an error
    """The policy denied; the denial is in the log under ``access_id``."""

    def __init__(self, access_id: UUID, deny: Deny) -> None:
        super().__init__(deny.reason)
        self.access_id = access_id
        self.deny = deny


class Busy(Exception):  # noqa: N818
    """As many answers are open as may be, of all clients or of this one."""


class QuotaSpent(Exception):  # noqa: N818
    """The client's day has not so many rows left."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, what they hold, and how to learn about them while an answer runs.

    ``alive`` says whether the client is still allowed at all. ``spend`` takes rows (or, negative, gives them back) from
    its day: False where there are not so many.
    """

    actor: Actor
    holding: Holding
    alive: Callable[[], Awaitable[bool]]
    spend: Callable[[int], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Form:
    """How the caller wants the answer."""

    media: MediaType
    coding: Coding


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits, from proxy/config.py."""

    max_rows: int
    progress_rows: int
    stall_s: float
    streams_max: int


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer ready to be sent: its first piece is made, its intent is durable."""

    delivery: Delivery
    limit: int
    complete_to: str
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A question with everything that an answer must not change half way."""

    window: Window
    after_id: int
    as_of: int | None
    digest: str | None
    place: Place | None
    rows: int


class Disclosure:
    """Opens answers, and knows which are open."""

    def __init__(
        self,
        reader: Reader,
        ledger: Ledger,
        sealer: Sealer,
        record_ids_secret: bytes,
        executor: Executor,
        settings: Settings,
    ) -> None:
        self._reader = reader
        self._ledger = ledger
        self.sealer = sealer
        self._ids_secret = record_ids_secret
        self._executor = executor
        self.settings = settings
        self._open: dict[UUID, tuple[str, Delivery]] = {}
        self._slots: Counter[str] = Counter()
        self._retries: set[asyncio.Task[None]] = set()
        self._left: asyncio.Event | None = None

    @contextlib.asynccontextmanager
    async def answer(self, caller: Caller, asked: Asked, searching: bool, form: Form) -> AsyncIterator[Opened]:
        """Open an answer; it counts as open until the context is left.

        Raises:
            QueryError: the cursor or mark is not usable here.
            Denied: by the policy; logged.
            Busy: too many answers are open.
            QuotaSpent: the client's rows of the day are used up; intent and outcome are logged.
            LedgerUnavailable: nothing was read.
            Exception: whatever the store raised before anything was sent; logged as an outcome of no rows.
        """
        client_id = caller.actor.client_id
        pinned = self._pin(caller, asked, searching)
        permit = await self._decide(caller, pinned.window)
        digest = plan.digest(permit)
        if pinned.digest is not None and pinned.digest != digest:
            raise QueryError("cursor", "It was made under a token of another reach; ask anew, or with such a token.")
        with self._slot(client_id):
            as_of = pinned.as_of if pinned.as_of is not None else await self._reader.complete_to()
            limit = min(asked.limit or self.settings.max_rows, self.settings.max_rows)
            terms = Terms(
                pinned.after_id, as_of, pinned.place, pinned.rows, limit, form.media.value, form.coding.value, digest
            )
            access_id = new_id()
            # Durable before the first read. Dying right after it: an intent without outcome, counted as disclosed.
            await self._ledger.append(entries.intent(access_id, caller.actor, pinned.window, permit, terms))
            delivery = self._delivery(access_id, caller, pinned.window, permit, terms, form)
            self._open[access_id] = (client_id, delivery)
            try:
                try:
                    place = await delivery.prepare(small=limit <= SMALL_ROWS)
                except CutOff as end:
                    raise QuotaSpent from end
                cursor = None
                if place is not None:
                    rows = pinned.rows + limit
                    cursor = self.cursor(client_id, pinned.window, terms, place, rows)
                yield Opened(delivery, limit, self.sealer.mark(client_id, as_of), cursor)
            finally:
                try:
                    await delivery.abandon()  # whatever came between preparing and sending
                finally:
                    del self._open[access_id]
                    if self._left is not None and not self._open:
                        self._left.set()

    def cursor(self, client_id: str, window: Window, terms: Terms, place: Place | None, rows: int) -> str:
        """Return the sealed cursor of an answer at ``place``, after ``rows`` rows."""
        return self.sealer.cursor(
            client_id,
            Cursor(
                window.start_us,
                window.end_us,
                window.direction or "",
                window.number,
                terms.after_id,
                terms.as_of,
                terms.digest,
                place,
                rows,
            ),
        )

    def running(self, access_id: UUID, client_id: str) -> Delivery | None:
        """Return a client's own answer while it is being sent by this gateway."""
        owner, delivery = self._open.get(access_id, ("", None))
        return delivery if owner == client_id else None

    async def append(self, entry: Entry) -> Appended:
        """Append an entry on behalf of the API (a look at the log)."""
        return await self._ledger.append(entry)

    async def access(self, access_id: UUID, client_id: str) -> dict[str, Any] | None:
        """Return what the log holds of a client's own access."""
        return await self._ledger.access(access_id, client_id)

    async def close(self, grace_s: float) -> None:
        """Let open answers finish for ``grace_s`` seconds, then cut the rest and stop retrying unwritten outcomes."""
        self._left = asyncio.Event()
        if self._open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), grace_s)
        for _, delivery in list(self._open.values()):
            delivery.cut(Cut.SHUTDOWN)
        for task in list(self._retries):
            task.cancel()
        if self._retries:
            await asyncio.wait(self._retries)

    def _pin(self, caller: Caller, asked: Asked, searching: bool) -> _Pinned:
        client_id = caller.actor.client_id
        if asked.window is not None:
            window = replace(asked.window, direction=asked.window.direction or _reach(caller.holding))
            after = asked.window.received_after
            try:
                after_id = 0 if after is None else self.sealer.open_mark(client_id, after)
            except CursorError as error:
                says = "It is no value of Complete-To that this client was given."
                raise QueryError("received_after", says) from error
            return _Pinned(window, after_id, None, None, None, 0)
        try:
            cursor = self.sealer.open_cursor(client_id, asked.cursor or "")
        except CursorError as error:
            raise QueryError("cursor", "It is no cursor that this client was given.") from error
        if (cursor.number is not None) != searching:
            raise QueryError("cursor", "It goes on with another kind of question.")
        window = Window(cursor.start_us, cursor.end_us, cursor.direction, None, cursor.number)
        return _Pinned(window, cursor.after_id, cursor.as_of, cursor.digest, cursor.place, cursor.rows)

    async def _decide(self, caller: Caller, window: Window) -> Permit:
        purpose = Purpose.BILLING.value  # what these routes are for (R4: the token must have been granted for it)
        request = Request(
            purpose, entries.action_of(window).value, window.direction or "", window.start_us, window.end_us
        )
        decision = decide(request, caller.holding, time.time_ns() // 1_000)
        if isinstance(decision, Deny):
            access_id = new_id()
            # On record before it is answered: a denial that nobody can count is worth less than none.
            await self._ledger.append(entries.denied(access_id, caller.actor, window, purpose, decision))
            metrics.DECISIONS.labels(purpose, "deny", decision.reason).inc()
            raise Denied(access_id, decision)
        metrics.DECISIONS.labels(purpose, "permit", "").inc()
        return decision

    @contextlib.contextmanager
    def _slot(self, client_id: str) -> Any:
        """Hold a place among the open answers; one client may hold a quarter of them."""
        most = self.settings.streams_max
        if self._slots.total() >= most or self._slots[client_id] >= max(1, most // 4):
            raise Busy
        self._slots[client_id] += 1
        metrics.OPEN_STREAMS.inc()
        try:
            yield
        finally:
            metrics.OPEN_STREAMS.dec()
            self._slots[client_id] -= 1
            if not self._slots[client_id]:
                del self._slots[client_id]

    def _delivery(
        self, access_id: UUID, caller: Caller, window: Window, permit: Permit, terms: Terms, form: Form
    ) -> Delivery:
        scopes = [plan.scope(s, permit, terms.after_id, terms.as_of) for s in plan.segments(permit)]
        fields = [BY_NAME[name] for name in permit.fields]
        encoder = Encoder(form.media, fields, RecordIds(self._ids_secret, caller.actor.carrier_id))
        order = Order(scopes, window.number, terms.place, terms.limit)
        source = pieces(self._reader, order, encoder, coder(form.coding), self._executor)
        rules = Rules(
            terms.limit, self.settings.progress_rows, self.settings.stall_s, form.media.value not in WHOLE_ONLY
        )
        classes = sorted(c.value for c in permit.classes)
        facts = {"media_type": form.media.value, "coding": form.coding.value, "classes": classes}
        return Delivery(access_id, Ahead(source), rules, self._hooks(access_id, caller, permit, terms.limit), facts)

    def _hooks(self, access_id: UUID, caller: Caller, permit: Permit, limit: int) -> Hooks:
        purpose, client_id = permit.purpose.value, caller.actor.client_id
        purse = _Purse(caller.spend, limit)

        async def progress(value: Mapping[str, Any]) -> None:
            await self._ledger.append(entries.progress(access_id, caller.actor, value))

        async def outcome(value: Mapping[str, Any]) -> None:
            if (why := value.get("why")) is not None:
                metrics.STREAMS_CUT.labels(why).inc()
            await self._append_outcome(entries.outcome(access_id, caller.actor, value))
            await purse.close()

        def sent(rows: int, size: int) -> None:
            metrics.DISCLOSED_BYTES.labels(purpose, client_id).inc(size)
            if rows:
                metrics.DISCLOSED_ROWS.labels(purpose, client_id).inc(rows)
                for cls in permit.classes:
                    metrics.DISCLOSED_CLASS_ROWS.labels(purpose, cls.value).inc(rows)

        def failed(name: str, error: BaseException) -> None:
            logs.event(_LOG, logging.ERROR, name, error, access_id=str(access_id))

        def sound() -> bool:
            return self._ledger.halted is None

        return Hooks(progress, outcome, sound, caller.alive, purse.take, sent, failed)

    async def _append_outcome(self, entry: Entry) -> None:
        """Append; where that fails the rows are gone all the same, and the intent stands as "all disclosed"."""
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable as error:
            logs.event(_LOG, logging.ERROR, "disclosure.outcome_unwritten", error, access_id=str(entry.access_id))
            task = asyncio.create_task(self._retry(entry), name="outcome retry")
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _retry(self, entry: Entry) -> None:
        # The same entry id each time: should an earlier try stand after all, the log does not write it twice.
        for delay in RETRY_S:
            await asyncio.sleep(delay)
            with contextlib.suppress(LedgerUnavailable):
                await self._ledger.append(entry)
                return
        logs.event(_LOG, logging.ERROR, "disclosure.outcome_lost", access_id=str(entry.access_id))


def _reach(holding: Holding) -> str:
    """Return the direction that a question without one means: all that the token reaches."""
    return Direction.BOTH.value if len(holding.directions) != 1 else next(iter(holding.directions))


class _Purse:
    """Rows taken from a client's day: exactly those of the first piece, then in stretches; the rest is given back."""

    def __init__(self, spend: Callable[[int], Awaitable[bool]], limit: int) -> None:
        self._spend = spend
        self._limit = limit
        self._taken = 0
        self._used = 0

    async def take(self, rows: int) -> bool:
        """Take ``rows``; False where the day has not so many left."""
        need = self._used + rows - self._taken
        if need > 0:
            stretch = max(need, min(SPEND_ROWS, self._limit - self._taken)) if self._used else need
            if not await self._spend(stretch):
                if stretch == need or not await self._spend(need):
                    return False
                stretch = need
            self._taken += stretch
        self._used += rows
        return True

    async def close(self) -> None:
        """Give back what was not used. A failure costs the client at most one stretch of its day."""
        left, self._taken = self._taken - self._used, self._used
        if left > 0:
            try:
                await self._spend(-left)
            except Exception as error:
                logs.event(_LOG, logging.WARNING, "disclosure.rows_not_given_back", error)
