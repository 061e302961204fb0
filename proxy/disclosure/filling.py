"""Filling a hold: each piece, and the end, in one transaction with how far it is and what the log has to say of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc

from keys.provider import DataKey
from proxy.disclosure import held
from proxy.disclosure.access import Access
from proxy.disclosure.held import Holds, SealedPiece
from proxy.disclosure.orders import Teller
from proxy.disclosure.records import SET_BYTES_MAX, Portion, RecordSet, portion_of
from proxy.ledger.model import Entry
from proxy.ledger.service import Ledger
from proxy.policy.extraction import Extraction, ExtractionState, SourceFile
from proxy.store.batches import int64s


class StoppedError(Exception):
    """It was cancelled meanwhile, or has ended: nothing more goes into the hold."""


class TakenError(Exception):
    """Somebody else has written the piece: look at the hold again."""


@dataclass(slots=True)
class State:
    """How far a hold is: what is durable, and what of it the log has not been told yet."""

    rows: int = 0
    pieces: int = 0
    at_us: int = 0
    """Start of its last record."""
    skip: int = 0
    """How many of its records start then."""
    logged_rows: int = 0
    logged_pieces: int = 0
    records: RecordSet = field(default_factory=RecordSet)
    """Of the pieces from ``logged_pieces`` on."""
    inputs: Counter[int] = field(default_factory=Counter)
    """Ingest id → records."""
    digests: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Made:
    """A piece, sealed, with what is to be known of it."""

    sealed: SealedPiece
    portion: Portion
    inputs: Counter[int]
    skip: int


def _make(key: DataKey, hold_id: str, piece: int, table: pa.Table) -> _Made:
    sealed = held.seal_piece(key, hold_id, piece, table)
    return _Made(sealed, *_known(table, sealed.last_start))


def _known(table: pa.Table, last_us: int) -> tuple[Portion, Counter[int], int]:
    counts = pc.value_counts(table.column("ingest_id").drop_null())
    inputs = Counter(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))
    skip = int((int64s(table, "started_at") == last_us).sum())
    return portion_of(int64s(table, "record_id")), inputs, skip


class Filling:
    """One hold being filled.

    Args:
        conn: of role LEGAL, for nothing else meanwhile.
        teller: makes its entries.
        row: the hold's, of ``held.SELECT_ORDER``.
        key: gives the hold's own key; it may still be in the making when the search begins.
        progress_rows: after so many records the log is told which, before there are more.
    """

    def __init__(
        self,
        conn: asyncpg.Connection,
        access: Access,
        holds: Holds,
        ledger: Ledger,
        teller: Teller,
        row: asyncpg.Record,
        key: Callable[[], Awaitable[DataKey]],
        progress_rows: int,
    ) -> None:
        self._conn = conn
        self._access = access
        self._holds = holds
        self._ledger = ledger
        self.teller = teller
        self._row = row
        self._key = key
        self._progress_rows = progress_rows
        self.hold_id: Final[str] = row["hold_id"]
        self.state = State(row["rows"], row["pieces"], row["at_us"])
        self.gone: Mapping[int, tuple[str, ...]] = {m: tuple(classes) for m, classes in json.loads(row["gone"])}

    async def restore(self) -> None:
        """Learn from the hold how far it is. Of a hold without pieces nothing is read."""
        row, state = self._row, self.state
        state.logged_rows, state.logged_pieces = row["logged_rows"], row["logged_pieces"]
        for piece in range(row["pieces"]):
            rows, sealed = await self._holds.piece(self.hold_id, piece, self._conn)
            table = await self._access.run(held.open_piece, await self._key(), self.hold_id, piece, rows, sealed)
            portion, inputs, skip = await self._access.run(_known, table, row["at_us"])
            if piece >= state.logged_pieces:
                state.records.add(portion)
            state.inputs += inputs
            state.skip += skip
        if row["pieces"]:
            state.digests = await self._holds.digests(self.hold_id, self._conn)

    async def write(self, table: pa.Table) -> None:
        """Write one piece.

        Raises:
            StoppedError: the hold takes nothing more.
            LedgerUnavailable: the log could not be told of those before; nothing was written.
        """
        made = await self._access.run(_make, await self._key(), self.hold_id, self.state.pieces, table)
        told: list[Entry] = []
        if self._due(made):
            told = [self.teller.progress(self.state.rows, self.state.records.as_json())]
        async with self._holds.in_hand(self.hold_id, self._conn):
            await self._insert(made)
            state = self.state
            logged = (state.rows, state.pieces) if told else (state.logged_rows, state.logged_pieces)
            moved = await self._conn.execute(
                held.MOVE,
                self.hold_id,
                state.rows + made.sealed.rows,
                state.pieces + 1,
                made.sealed.last_start,
                self._gone(),
                *logged,
            )
            if moved != "UPDATE 1":
                raise StoppedError
            await self._ledger.append_in(self._conn, told)
            # Dying here leaves what was; dying after COMMIT leaves the piece, and the log told of those before it.
        if told:
            self.state.records = RecordSet()
            self.state.logged_rows, self.state.logged_pieces = logged
        self._taken(made)

    async def end(self, state: ExtractionState, why: str = "", last: pa.Table | None = None) -> Extraction:
        """End the hold, with a last piece where there is one: its inputs' list, its outcome's entry.

        Raises:
            StoppedError: it has ended already.
            LedgerUnavailable: the log could not be told; nothing was written.
        """
        made = None
        if last is not None:
            made = await self._access.run(_make, await self._key(), self.hold_id, self.state.pieces, last)
            if self._due(made):
                await self.write(last)
                made = None
        whole = state is ExtractionState.COMPLETE
        rows = self.state.rows + (made.sealed.rows if made else 0)
        pieces = self.state.pieces + (1 if made else 0)
        digests = self.state.digests + ([made.sealed.sha256] if made else [])
        sha256 = hashlib.sha256(b"".join(digests)).digest() if whole else None
        if made:
            self.state.records.add(made.portion)
        said: dict[str, Any] = {"state": state.value, "rows": rows, "pieces": pieces}
        said |= {"why": why} if why else {}
        said |= {"sha256": sha256.hex()} if sha256 else {}
        said |= {"gone": json.loads(self._gone())} if self.gone else {}
        key = await self._key() if whole else None
        async with self._holds.in_hand(self.hold_id, self._conn):
            if made:
                await self._insert(made)
            if key is not None:
                inputs = self.state.inputs + (made.inputs if made else Counter())
                await self._sources(await self._holds.describe(self._conn, inputs) if inputs else [], key)
            entry = self.teller.outcome(said, self.state.records.as_json())
            (appended,) = await self._ledger.append_in(self._conn, [entry])
            ended = await self._conn.fetchrow(
                held.END,
                self.hold_id,
                rows,
                pieces,
                made.sealed.last_start if made else self.state.at_us,
                self._gone(),
                state.value,
                why,
                sha256,
                appended.index,
            )
            if ended is None:
                raise StoppedError
            # Dying here leaves it running, without the last piece; dying after COMMIT leaves it ended, and said so.
        return held.extraction_of(ended)

    def _due(self, made: _Made) -> bool:
        """Say whether the log has to be told of the records before this piece first."""
        state = self.state
        since = state.rows - state.logged_rows
        heavy = state.records.bound + made.portion.bound > SET_BYTES_MAX
        return since > 0 and (since + made.sealed.rows > self._progress_rows or heavy)

    async def _insert(self, made: _Made) -> None:
        p = made.sealed
        try:
            await self._conn.execute(
                held.INSERT_PIECE,
                self.hold_id,
                self.state.pieces,
                p.rows,
                p.first_start,
                p.last_start,
                p.sha256,
                p.sealed,
            )
        except asyncpg.CheckViolationError as error:  # the trigger: it does not run any more
            raise StoppedError from error
        except asyncpg.UniqueViolationError as error:
            raise TakenError from error

    async def _sources(self, files: list[SourceFile], key: DataKey) -> None:
        try:
            sealed = held.seal_sources(key, self.hold_id, files)
            await self._conn.execute(held.INSERT_SOURCES, self.hold_id, sealed)
        except asyncpg.CheckViolationError as error:
            raise StoppedError from error

    def _taken(self, made: _Made) -> None:
        state, p = self.state, made.sealed
        state.records.add(made.portion)
        state.inputs += made.inputs
        state.digests.append(p.sha256)
        state.skip = made.skip + (state.skip if p.first_start == state.at_us == p.last_start else 0)
        state.rows, state.pieces, state.at_us = state.rows + p.rows, state.pieces + 1, p.last_start

    def _gone(self) -> str:
        return json.dumps(sorted([month, list(classes)] for month, classes in self.gone.items()))
