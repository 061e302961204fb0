"""Going on after a database was restored behind what was signed: a new origin, which says so for ever.

The old origin can sign nothing more: a second tree of a size that it signed already would be two histories under one
name. So the entries that stand are kept, and the log goes on under another name, whose first entry commits to the last
checkpoint known of the old one and says how many entries are lost.

Crash order: the new origin and its entry are one transaction. Dying before its COMMIT leaves the log halted as it was;
after it, the log is recovered, and running this again says so. A lost reply to COMMIT is unknown: run it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError, check_name
from proxy.ledger import checkpoints, sql, tree
from proxy.ledger.checkpoints import LogInconsistent, Origin
from proxy.ledger.model import JSON, Entry, Kind, LedgerError, Tag
from proxy.ledger.publisher import LOCK, LogKeys
from proxy.ledger.service import Ledger


class RecoveryRefused(LedgerError):  # noqa: N818 - it says what is so
    """Nothing was changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is to be done, or was."""

    origin: str
    """The new one."""
    epoch: int
    first_size: int
    """Entries that stand and are kept."""
    previous: Checkpoint
    """The last checkpoint known of the old origin."""
    note: str
    """That checkpoint, signed."""
    diverged: bool
    """The entries that stand are others than those the old checkpoint covers, not only fewer."""
    done: bool = False
    """Whether it has been done, now or before."""

    @property
    def lost(self) -> int:
        """Entries that the old checkpoint covers past those that stand."""
        return max(0, self.previous.size - self.first_size)


async def plan(conn: asyncpg.Connection, keys: LogKeys, notes: Sequence[bytes], origin: str | None = None) -> Recovery:
    """Say what a recovery would do.

    Args:
        conn: a connection of role LOG.
        keys: the log's keys.
        notes: checkpoints of the log that somebody kept; the largest counts.
        origin: the new origin's name; default: the first origin's with the new number behind it.

    Raises:
        RecoveryRefused: if there is nothing to recover from, or nothing to recover.
    """
    known = await checkpoints.origins(conn)
    if not known:
        raise RecoveryRefused("the log was never opened: a gateway opens it when it first starts")
    current = known[-1]
    largest: tuple[Checkpoint, bytes] | None = None
    for note in notes:
        read = await _verified(note, known, keys)
        if read.origin == current.name and (largest is None or read.size > largest[0].size):
            largest = read, note
    if largest is None:
        if done := _done(known, notes):
            return done
        raise RecoveryRefused("no checkpoint of the log's current origin was given: there is nothing to recover from")
    checkpoint, note = largest
    size = await checkpoints.head(conn)
    diverged = size >= checkpoint.size and await _root(conn, checkpoint.size) != checkpoint.root
    if size >= checkpoint.size and not diverged:
        raise RecoveryRefused(f"nothing is lost: the database holds all {checkpoint.size} entries of that checkpoint")
    epoch = current.epoch + 1
    try:
        name = check_name(origin or f"{known[0].name}/{epoch}")
    except NoteError as error:
        raise RecoveryRefused(str(error)) from error
    if any(each.name == name for each in known):
        raise RecoveryRefused(f"the log has had the origin {name!r}: a new one needs a new name")
    return Recovery(name, epoch, size, checkpoint, note.decode("utf-8"), diverged)


async def recover(conn: asyncpg.Connection, ledger: Ledger, planned: Recovery, who: str) -> Recovery:
    """Do it.

    Args:
        conn: a connection of role LOG, outside a transaction.
        ledger: the log, on the same database.
        planned: by `plan`.
        who: the operating system's name for whoever asks.

    Raises:
        RecoveryRefused: if a gateway publishes this log, or it has grown since. Nothing was changed.
        LedgerUnavailable: if the log cannot be written; the recovery is then done or not, and can be run again.
    """
    if planned.done:
        return planned
    async with conn.transaction():
        await conn.execute(sql.JOIN)
        # Until the end of the transaction, so that no lock outlives a lost connection.
        if not await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
            raise RecoveryRefused("a gateway publishes this log: stop every gateway first")
        head = await conn.fetchrow(sql.HEAD)
        if head["size"] != planned.first_size:
            raise RecoveryRefused("the log has grown meanwhile: stop every gateway and every command first")
        await conn.execute(
            checkpoints.ADD_ORIGIN, planned.epoch, planned.origin, planned.first_size, planned.note.encode()
        )
        await ledger.append_in(conn, [_entry(planned, who)])
    return Recovery(
        planned.origin,
        planned.epoch,
        planned.first_size,
        planned.previous,
        planned.note,
        planned.diverged,
        True,
    )


def _entry(planned: Recovery, who: str) -> Entry:
    request: dict[str, JSON] = {
        "origin": planned.origin,
        "epoch": planned.epoch,
        "first_size": planned.first_size,
        "previous": planned.note,
        "previous_size": planned.previous.size,
        "lost": planned.lost,
        "diverged": planned.diverged,
    }
    return Entry(Kind.LOG_ORIGIN, {"os_user": who}, request, tags=(Tag("staff", who.encode()),))


async def _verified(note: bytes, known: Sequence[Origin], keys: LogKeys) -> Checkpoint:
    try:
        origin = Checkpoint.parse(Note.parse(note).text).origin
        if origin not in {each.name for each in known}:
            raise RecoveryRefused("a checkpoint was given that is another log's")
        return checkpoints.verified(note, origin, await asyncio.to_thread(keys.verifiers, origin))
    except (NoteError, LogInconsistent) as error:
        raise RecoveryRefused(f"a checkpoint that was given does not verify with this log's keys: {error}") from error


def _done(known: Sequence[Origin], notes: Sequence[bytes]) -> Recovery | None:
    """The recovery that was done with one of these checkpoints before, if any."""
    last = known[-1]
    if last.previous is None or last.previous not in notes:
        return None
    note = last.previous.decode("utf-8")
    return Recovery(
        last.name, last.epoch, last.first_size, Checkpoint.parse(Note.parse(note).text), note, False, done=True
    )


async def _root(conn: asyncpg.Connection, size: int) -> bytes:
    """The root at ``size`` by what stands; no root where tiles are missing."""
    try:
        return await checkpoints.over_tiles(conn, size, lambda read: tree.root_at(size, read))
    except (LogInconsistent, tree.ProofError):
        return b""
