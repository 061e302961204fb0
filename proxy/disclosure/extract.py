"""Extraction: what a case's instrument compels, out of the store and into a hold.

The order of things, and what dying leaves behind:

1. one transaction puts the intent into the log and the hold on record: before it, nothing was read;
2. the hold's own key is made, and the order sealed under it beside the hold. Dying before that leaves a hold that
   nobody can go on with: ``resume`` fails it (``order``), and the case orders again. Dying after it leaves a hold that
   is ``running``: ``resume`` goes on, here or in another gateway;
3. piece by piece, each in one transaction with how far it is, and before each further million records with what the log
   has to say of those before. Dying leaves whole pieces: the next search begins at the last record that is there;
4. one transaction with the last piece, the inputs' list, the end of the hold and the outcome's entry.

The pieces hang on the records and on nothing else (proxy/disclosure/sweep.py), so a search that was broken off comes to
what it would have come to.

Trust: who can change this file can extract whatever the gateway's keys open. PostgreSQL lets the role see sealed
batches, and write only to the one hold that a transaction names, and only while that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg
import pyarrow as pa

from keys.datakeys import DataKeys
from keys.errors import KeyUnavailable, SealError
from keys.provider import DataKey, Period
from proxy import logs
from proxy.disclosure import held, orders
from proxy.disclosure.access import LegalAccess
from proxy.disclosure.filling import Filling, StoppedError, TakenError
from proxy.disclosure.held import Holds
from proxy.disclosure.orders import Ordered, Teller
from proxy.disclosure.searching import Search
from proxy.disclosure.sweep import PIECE_ROWS
from proxy.ledger.model import LedgerUnavailable, month_of, new_id
from proxy.ledger.service import Ledger
from proxy.policy.extraction import (
    Extraction,
    ExtractionOrder,
    ExtractionRefusedError,
    ExtractionState,
    HoldUnreadableError,
    SourceFile,
    StaffActor,
    key_class_of,
)
from proxy.store.planes import FormatError

PROGRESS_ROWS: Final = 1_000_000
RUNNING_MAX: Final = 2
"""Extractions that run at the same time in one gateway; each takes two connections."""
RETRY_S: Final = (0.5, 2.0, 8.0)
"""After how long a database that failed is tried again, each time; then the extraction waits for ``resume``."""

_UNSEALED: Final = timedelta(minutes=1)
"""So long after it began an extraction whose order is not kept has lost whoever ordered it."""
_STAGED: Final = "SELECT tollgate.complete_to(), (SELECT next_record_id FROM tollgate.store_head)"
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    LedgerUnavailable,
    TakenError,
)

_LOG = logs.get("extraction")


class Extractions:
    """The extractions of one gateway; an ``Extractor`` (proxy/policy/extraction.py).

    Args:
        pool: connections of role LEGAL, at least two for each extraction at a time, and two.
        keys: the data keys, of every disclosure class, the tags, and class ``hold``.
        ledger: the log.
        executor: threads in which records are opened.
        progress_rows: after so many records the log is told which, before there are more.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: DataKeys,
        ledger: Ledger,
        executor: Executor,
        *,
        progress_rows: int = PROGRESS_ROWS,
        running_max: int = RUNNING_MAX,
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._ledger = ledger
        self._access = LegalAccess(pool, keys, executor)
        self._holds = Holds(pool, keys)
        self._progress_rows = progress_rows
        self._piece_rows = piece_rows
        self._slots = asyncio.Semaphore(running_max)
        self._tasks: dict[str, asyncio.Task[Extraction | None]] = {}
        self._making: dict[str, asyncio.Task[DataKey]] = {}

    async def start(self, order: ExtractionOrder) -> Extraction:
        """See ``Extractor.start``."""
        try:
            made = await self._access.run(orders.ordered, order)
            row = await self._begin(made)
            if row["order_digest"] != made.digest:
                raise ExtractionRefusedError("hold", "The hold was begun by another order.")
        except ExtractionRefusedError as error:
            await self._ledger.append(orders.refused(order, error, new_id()))
            raise
        if row["state"] == ExtractionState.RUNNING:
            self._spawn(order.hold_id, made)
        return held.extraction_of(row)

    async def wait(self, hold_id: str) -> Extraction:
        """See ``Extractor.wait``."""
        found = None
        if (task := self._tasks.get(hold_id)) is not None:
            await asyncio.wait([task])
            found = None if task.cancelled() else task.result()
        found = found or await self._holds.find(hold_id)
        if found is None:
            raise HoldUnreadableError("there is no such hold")
        return found

    async def extract(self, order: ExtractionOrder) -> Extraction:
        """See ``Extractor.extract``."""
        await self.start(order)
        return await self.wait(order.hold_id)

    async def progress(self, hold_id: str) -> Extraction | None:
        """See ``Extractor.progress``."""
        return await self._holds.find(hold_id)

    async def resume(self) -> int:
        """See ``Extractor.resume``."""
        waiting = [r["hold_id"] for r in await self._pool.fetch(held.RUNNING) if r["hold_id"] not in self._tasks]
        for hold_id in waiting:
            self._spawn(hold_id, None)
        return len(waiting)

    async def cancel(self, hold_id: str, actor: StaffActor) -> Extraction:
        """See ``Extractor.cancel``."""
        if (task := self._tasks.get(hold_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        row = await self._pool.fetchrow(held.SELECT_ORDER, hold_id)
        if row is None:
            raise HoldUnreadableError("there is no such hold")
        while row["state"] == ExtractionState.RUNNING:
            async with self._pool.acquire() as conn:
                filling = self._filling(conn, row, actor, partial(self._holds.key, hold_id, row["key_month"]))
                await filling.restore()
                with contextlib.suppress(StoppedError):  # another gateway has written a piece meanwhile: look again
                    await filling.end(ExtractionState.CANCELLED, "cancelled")
            row = await self._pool.fetchrow(held.SELECT_ORDER, hold_id)
        return await self.wait(hold_id)

    async def read_hold(self, hold_id: str) -> AsyncIterator[pa.Table]:
        """See ``Extractor.read_hold``."""
        row, key = await self._holds.complete(hold_id)
        for piece in range(row["pieces"]):
            rows, sealed = await self._holds.piece(hold_id, piece)
            yield await self._access.run(held.open_piece, key, hold_id, piece, rows, sealed)

    async def sources(self, hold_id: str) -> list[SourceFile]:
        """See ``Extractor.sources``."""
        return await self._holds.sources(hold_id)

    async def close(self) -> None:
        """See ``Extractor.close``."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- beginning ---------------------------------------------------------------------------------------------

    async def _begin(self, made: Ordered) -> asyncpg.Record:
        order, permit = made.order, made.order.permit
        for hold_id in order.preserved:
            found = await self._pool.fetchrow(held.SELECT, hold_id)
            if found is None or found["discloses"] or found["state"] != ExtractionState.COMPLETE:
                raise ExtractionRefusedError("preserved", "What was to be read too is no preservation that is whole.")
            try:
                await self._holds.key(hold_id, found["key_month"])
            except HoldUnreadableError as error:
                raise ExtractionRefusedError("preserved", "The preservation has ended and its key is gone.") from error
        month = month_of(datetime.now(UTC))
        # Made while the intent is written: it opens nothing until there is a hold.
        key = self._making[order.hold_id] = asyncio.create_task(self._ensured(order.hold_id, month))
        key.add_done_callback(lambda done: done.cancelled() or done.exception())  # told where the key is needed
        try:
            async with self._pool.acquire() as conn:
                async with conn.transaction():
                    as_of, head = await conn.fetchrow(_STAGED)
                    teller = Teller(new_id(), permit.case_id, order.hold_id, permit.discloses, order.actor)
                    row = await conn.fetchrow(
                        held.INSERT,
                        order.hold_id,
                        permit.case_id,
                        teller.access_id,
                        month,
                        permit.discloses,
                        made.digest,
                        as_of,
                        head - 1 - as_of,
                        permit.start_us,
                        permit.end_us,
                    )
                    # Durable with the hold, before the first record is read.
                    await self._ledger.append_in(conn, [teller.intent(made, as_of, head - 1 - as_of)])
                return row
        except asyncpg.UniqueViolationError:  # the same order came twice at once
            return await self._pool.fetchrow(held.SELECT_ORDER, order.hold_id)
        except asyncpg.ForeignKeyViolationError as error:
            raise ExtractionRefusedError("case", "There is no such case.") from error
        except asyncpg.CheckViolationError as error:
            if error.constraint_name == "held_ordered":
                says = "The register has ordered no such copy, or its approval is over."
                raise ExtractionRefusedError("order", says) from error
            raise ExtractionRefusedError("hold", "The hold is another's.") from error
        except asyncpg.ObjectInUseError as error:
            says = "A month of the window is being shredded; order it again when that is done."
            raise ExtractionRefusedError("shredding", says) from error

    async def _ensured(self, hold_id: str, month: int) -> DataKey:
        period = Period(key_class_of(hold_id), month)
        async with self._pool.acquire() as conn:
            return (await self._keys.ensure(conn, [period]))[period]

    async def _sealed(self, made: Ordered, row: asyncpg.Record) -> DataKey:
        """Make the hold's key, if it is not made, and seal the order beside the hold; return the key."""
        hold_id = row["hold_id"]
        key = await (self._making.pop(hold_id, None) or self._ensured(hold_id, row["key_month"]))
        if row["order_sealed"] is None:
            sealed = held.seal_order(key, hold_id, made.text)
            await self._pool.execute(held.SEAL_ORDER, hold_id, sealed)
        return key

    def _spawn(self, hold_id: str, made: Ordered | None) -> None:
        if hold_id in self._tasks:
            return
        task = asyncio.create_task(self._work(hold_id, made), name="extraction")
        self._tasks[hold_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(hold_id, None))

    async def _work(self, hold_id: str, made: Ordered | None) -> Extraction | None:
        for delay in (*RETRY_S, None):
            try:
                async with self._slots, self._pool.acquire() as conn:
                    row = await conn.fetchrow(held.TAKE, hold_id)
                    if row is None or not row["mine"] or row["state"] != ExtractionState.RUNNING:
                        return None
                    return await self._run(conn, row, made)
            except StoppedError:
                return None
            except _TRANSIENT as error:
                logs.event(_LOG, logging.WARNING, "extraction.retry", error)
                if delay is None:
                    return None  # it stays `running`: resume goes on with it
                await asyncio.sleep(delay)
            except Exception as error:
                logs.event(_LOG, logging.ERROR, "extraction.defect", error)
                return None
        return None

    async def _run(self, conn: asyncpg.Connection, row: asyncpg.Record, made: Ordered | None) -> Extraction | None:
        hold_id = row["hold_id"]
        if made is None:
            key = asyncio.create_task(self._holds.key(hold_id, row["key_month"]))
        else:
            key = asyncio.create_task(self._sealed(made, row))
        try:
            filling = self._filling(conn, row, None if made is None else made.order.actor, lambda: asyncio.shield(key))
            return await self._fill(conn, filling, made, row)
        finally:
            key.cancel()
            await asyncio.gather(key, return_exceptions=True)

    async def _fill(
        self, conn: asyncpg.Connection, filling: Filling, made: Ordered | None, row: asyncpg.Record
    ) -> Extraction | None:
        try:
            if made is None:
                if row["order_sealed"] is None:
                    # Whoever ordered it died before the order was kept: it has to be ordered again.
                    if datetime.now(UTC) - row["started_at"] > _UNSEALED:
                        return await filling.end(ExtractionState.FAILED, "order")
                    return None
                made = await self._read_order(row)
                filling.teller = replace(filling.teller, actor=made.order.actor)
            await filling.restore()
            last = await self._search(conn, filling, made, row)
            return await filling.end(ExtractionState.COMPLETE, last=last)
        except (StoppedError, *_TRANSIENT):
            raise
        except Exception as error:
            # What it held until then is on record, and the case says so: nobody waits for it for ever.
            logs.event(_LOG, logging.ERROR, "extraction.failed", error)
            return await filling.end(ExtractionState.FAILED, _why(error))

    async def _search(
        self, conn: asyncpg.Connection, filling: Filling, made: Ordered, row: asyncpg.Record
    ) -> pa.Table | None:
        """Search, and write all pieces but the last; return that."""
        look, state = made.look(row["as_of"]), filling.state
        search = Search(
            self._access, conn, self._holds, look, made.order.preserved, state.at_us, state.skip, self._piece_rows
        )
        last: pa.Table | None = None
        async with contextlib.aclosing(search.pieces()) as pieces:
            async for piece in pieces:
                filling.gone = search.gone
                if last is not None:
                    await filling.write(last)
                last = piece
        filling.gone = search.gone
        return last

    def _filling(
        self,
        conn: asyncpg.Connection,
        row: asyncpg.Record,
        actor: StaffActor | None,
        key: Callable[[], Awaitable[DataKey]],
    ) -> Filling:
        teller = Teller(row["access_id"], row["case_id"], row["hold_id"], row["discloses"], actor)
        return Filling(conn, self._access, self._holds, self._ledger, teller, row, key, self._progress_rows)

    async def _read_order(self, row: asyncpg.Record) -> Ordered:
        key = await self._holds.key(row["hold_id"], row["key_month"])
        text = held.open_order(key, row["hold_id"], row["order_sealed"])
        made: Ordered = await self._access.run(orders.read_order, text)
        if made.digest != row["order_digest"]:
            raise SealError("an extraction's order is not the one of its digest")
        return made


def _why(error: Exception) -> str:
    if isinstance(error, KeyUnavailable):
        return "keys"
    return "store" if isinstance(error, (SealError, FormatError, HoldUnreadableError)) else "defect"
