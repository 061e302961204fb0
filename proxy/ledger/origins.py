"""Origins, and what the log itself says of them.

A row of ``log_origin`` by itself says nothing: whoever has the database can insert one, and with it make a log that was
put back look like one that was recovered. They cannot make what belongs to it: the entry that opened the origin, whose
request is sealed with the keyring's keys, and the last checkpoint of an origin before it, signed with the log's.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError
from proxy.ledger import checkpoints
from proxy.ledger.checkpoints import RECOVER, LogInconsistent, Origin
from proxy.ledger.model import Kind, LedgerBroken
from proxy.ledger.publisher import LogKeys
from proxy.ledger.service import Ledger


def fresh(first: str, epoch: int) -> str:
    """Return a name for the origin that a recovery opens, one that was never used.

    A number alone would not do: a database that is put back behind its own recovery numbers the next one like that one,
    and would sign a second tree of a size under one name.
    """
    return f"{first}/{epoch}-{secrets.token_hex(6)}"


def matches(configured: str, current: Origin) -> bool:
    """Whether a configured origin stands for the current one: itself, or what recoveries made of it (`fresh`)."""
    made = re.escape(configured) + rf"/{current.epoch}-[0-9a-f]{{12}}"
    return current.name == configured or re.fullmatch(made, current.name) is not None


async def signed(note: bytes, keys: LogKeys) -> Checkpoint:
    """Return a checkpoint that one of the log's keys signed, under whatever origin it names.

    Raises:
        LogInconsistent: if none did, or it is no checkpoint.
        KeysError: if the keyring cannot be read.
    """
    try:
        name = Checkpoint.parse(Note.parse(note).text).origin
        verifiers = await asyncio.to_thread(keys.verifiers, name)
    except NoteError as error:
        raise LogInconsistent(f"an anchor or earlier checkpoint cannot be read ({error}): {RECOVER}") from error
    return checkpoints.verified(note, name, verifiers)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A recovery, as its own entry tells it."""

    origin: Origin
    """What it opened."""
    previous: Checkpoint
    """The checkpoint that it answers for: the last known of an origin before."""
    diverged: bool
    """The entries that stood were others than that checkpoint's."""

    def covers(self, checkpoint: Checkpoint) -> bool:
        """Whether it was made knowing of ``checkpoint``."""
        return covers(self.previous, checkpoint)


def covers(previous: Checkpoint, checkpoint: Checkpoint) -> bool:
    """Whether who knew ``previous`` knew of ``checkpoint``: a smaller one of the same origin, or the same."""
    if previous.origin != checkpoint.origin:
        return False
    return previous.size > checkpoint.size or (previous.size, previous.root) == (checkpoint.size, checkpoint.root)


async def recovered(ledger: Ledger, origin: Origin, keys: LogKeys) -> Recovered:
    """Return what the log says of the recovery that opened ``origin``, whose entry is the first of it.

    Raises:
        LogInconsistent: if no entry that can be opened says what the row says, or the log did not sign ``previous``.
        KeysError, OSError, asyncpg.PostgresError: something is away.
    """
    try:
        entries = await ledger.read(after=origin.first_size - 1, limit=1)
    except LedgerBroken as error:
        raise LogInconsistent(f"the entry that opens origin {origin.epoch} is broken: {RECOVER}") from error
    found = next((e for e in entries if e.index == origin.first_size and e.kind == Kind.LOG_ORIGIN), None)
    request = None if found is None else found.request
    if request is None:
        raise LogInconsistent(f"no entry that can be opened opens origin {origin.epoch} of the log: {RECOVER}")
    previous = b"" if origin.previous is None else origin.previous
    stands = {
        "origin": origin.name,
        "epoch": origin.epoch,
        "first_size": origin.first_size,
        "previous": previous.decode("utf-8", "replace"),
    }
    if any(request.get(name) != value for name, value in stands.items()):
        raise LogInconsistent(f"origin {origin.epoch} of the log is not what its entry says: {RECOVER}")
    return Recovered(origin, await signed(previous, keys), request.get("diverged") is True)
