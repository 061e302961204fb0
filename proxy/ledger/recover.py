"""Going on after a database was restored behind what was signed: a new origin, which says so for ever.

The old origin can sign nothing more: a second tree of a size that it signed already would be two histories under one
name. So the entries that stand are kept, and the log goes on under a name that was never used, whose first entry
commits to the last checkpoint known of the old one and says how many entries are lost. The old one may be an origin
that the database does not know: that of a recovery which was itself lost with what came after it.

Crash order: the new origin and its entry are one transaction. Dying before its COMMIT leaves the log halted as it was;
after it, the log is recovered, and running this again says so. A lost reply to COMMIT is unknown: run it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError, check_name
from proxy.ledger import checkpoints, origins, sql, tree
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
        notes: checkpoints of the log that somebody kept, signed with its keys. Of those that stand for something lost
            and that no recovery has answered for, one counts: of origins that the database does not know before
            others, then the largest.
        origin: the new origin's name; default: `origins.fresh`.

    Raises:
        RecoveryRefused: if there is nothing to recover from, or nothing to recover.
    """
    known = await checkpoints.origins(conn)
    if not known:
        raise RecoveryRefused("the log was never opened: a gateway opens it when it first starts")
    current = known[-1]
    given = [(await _verified(note, keys), note) for note in notes]
    answered = [_read(each.previous) for each in known if each.previous is not None]
    unanswered = [
        (checkpoint, note)
        for checkpoint, note in given
        if checkpoint.origin == current.name or not any(origins.covers(each, checkpoint) for each in answered)
    ]
    if not unanswered:
        if done := _done(known, notes):
            return done
        raise RecoveryRefused("every checkpoint that was given was recovered from before: there is nothing to recover")
    names = {each.name for each in known}
    size = await checkpoints.head(conn)
    for each in sorted(unanswered, key=lambda each: (each[0].origin in names, -each[0].size)):
        checkpoint, note = each
        diverged = size >= checkpoint.size and await _root(conn, checkpoint.size) != checkpoint.root
        if size < checkpoint.size or diverged:
            break
    else:
        raise RecoveryRefused(
            f"nothing is lost: the database holds all {max(each.size for each, _ in unanswered)} entries of what was"
            " signed"
        )
    epoch = current.epoch + 1
    try:
        name = check_name(origin or origins.fresh(known[0].name, epoch))
    except NoteError as error:
        raise RecoveryRefused(str(error)) from error
    if name in names | {checkpoint.origin for checkpoint, _ in given} | {each.origin for each in answered}:
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


async def _verified(note: bytes, keys: LogKeys) -> Checkpoint:
    try:
        return await origins.signed(note, keys)
    except LogInconsistent as error:
        raise RecoveryRefused(f"a checkpoint that was given does not verify with this log's keys: {error}") from error


def _read(note: bytes) -> Checkpoint:
    """What a row's note says; whether it was signed is checked with all that stands, by fsck."""
    try:
        return Checkpoint.parse(Note.parse(note).text)
    except NoteError as error:
        raise RecoveryRefused(f"an origin of the log names no checkpoint: {error}") from error


def _done(known: Sequence[Origin], notes: Sequence[bytes]) -> Recovery | None:
    """The recovery that was done with one of these checkpoints before, if any."""
    last = known[-1]
    if last.previous is None or last.previous not in notes:
        return None
    note = last.previous.decode("utf-8")
    return Recovery(last.name, last.epoch, last.first_size, _read(last.previous), note, False, done=True)


async def _root(conn: asyncpg.Connection, size: int) -> bytes:
    """The root at ``size`` by what stands; no root where tiles are missing."""
    try:
        return await checkpoints.over_tiles(conn, size, lambda read: tree.root_at(size, read))
    except (LogInconsistent, tree.ProofError):
        return b""
