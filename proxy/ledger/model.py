"""What an entry of the access log is, and the errors of the log.

An entry says who (``actor``), what was asked (``request``) and what came of it (``outcome``); a fourth part
(``records``) holds what whoever asked is not shown of it. The parts are committed to and sealed apart
(``encoding.py``), so that each can be erased on its own schedule, or left out of a receipt, while the proof stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811

JSON: TypeAlias = bool | int | str | Sequence[Any] | Mapping[str, Any] | None
"""Values of a part: no floats (write a decimal as a string); integers beyond 2^53 - 1 are written as strings."""

PARTS = ("actor", "request", "outcome", "records")
"""The parts of an entry, each with its own salt, key class and retention. A part that says nothing is absent."""

PART_MAX = 1 << 20
"""Most bytes of one part's opening."""

RECORDS_MAX = 4 << 20
"""Most bytes of the opening of ``records``, which may list many."""

TAGS_MAX = 64
"""Most tags of one entry."""


class LedgerError(Exception):
    """Base of the log's errors."""


class EntryError(LedgerError, ValueError):
    """The caller's entry cannot be written as it is (too large, a float, a wrong type)."""


class LedgerUnavailable(LedgerError):  # noqa: N818 - the name says it
    """The entry is not known to be durable: nothing may be disclosed on it.

    ``unknown`` is true where the reply to COMMIT was lost and could not be cleared up in time: the entry may stand in
    the log. Appending the same Entry (same ``entry_id``) again is safe and never duplicates it.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class LedgerMisconfigured(LedgerError):  # noqa: N818
    """The server would acknowledge what is not durable, or lacks the log; the message says what to do."""


class LedgerBroken(LedgerError):  # noqa: N818
    """A stored entry contradicts itself: what was read is not what was written."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(f"log entry {index}: {what}")
        self.index = index
        self.what = what


class Kind(StrEnum):
    """What an entry records. Stored for ever: add, never rename."""

    ACCESS_INTENT = "access.intent"
    """A permitted access, its scope pinned, before the first record is read."""
    ACCESS_PROGRESS = "access.progress"
    """Before each further stretch of records of a long answer."""
    ACCESS_OUTCOME = "access.outcome"
    """What an access disclosed."""
    ACCESS_DENIED = "access.denied"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - a kind, not a credential
    TOKEN_REFUSED = "token.refused"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    LOG_READ = "log.read"
    LOG_ORIGIN = "log.origin"
    """The log was opened, or after a recovery opened anew, under an origin."""
    LOG_ERASE = "log.erase"
    """Openings whose time had come were erased, under a named policy."""
    EXPOSURE_READ = "exposure.read"
    """What somebody was shown was counted for the privacy officer."""
    EXPOSURE_FROZEN = "exposure.frozen"
    """Subscriber counts of a period, kept before it is shredded."""
    STORE_INGEST = "store.ingest"
    STORE_ROLL = "store.roll"
    STORE_REMAP = "store.remap"
    REGISTRY_CHANGE = "registry.change"
    STORE_SHRED = "store.shred"
    """A month's records of some classes were made unreadable for ever; what is held of them stands re-sealed."""
    KEYS_CHANGE = "keys.change"
    CHANGE_STATE = "change.state"
    """What widens access was proposed by one operator, or approved, refused or withdrawn by another."""
    CASE_STATE = "case.state"
    """A case went from one state to the next, or was refused to."""
    CASE_READ = "case.read"
    """Somebody looked at a case, its document or its production."""
    HOLD_STATE = "hold.state"
    """Records were frozen for a case, or a hold was renewed, superseded, lifted, or ran out."""
    PRODUCTION_STATE = "production.state"
    """A production was made, certified, delivered, acknowledged or made again."""
    REPORT_READ = "report.read"
    """A report was counted from the log."""
    SUMMARY = "summary"
    """Sums of refusals of unauthenticated callers."""


class TagDomain(IntEnum):
    """What a tag is a tag of; the value is the domain byte under the MAC. Stored for ever: add, never renumber."""

    CLIENT = 1
    JKT = 2
    ADDRESS = 3
    TOKEN = 4
    NUMBER = 5
    THOUSANDS_BLOCK = 6
    EXCHANGE = 7
    CASE = 8
    INGEST = 9
    STAFF = 10
    EXPOSURE = 11


_DOMAINS = {domain.name.lower(): domain for domain in TagDomain}


class _Tag(NamedTuple):
    domain: str
    value: bytes


class Tag(_Tag):
    """Something an entry can be found by without being opened; only its keyed tag is stored.

    ``domain`` is the lower-case name of a TagDomain (``client``, ``jkt``, ``address``, ``token``, ``number``,
    ``thousands_block``, ``exchange``, ``case``, ``ingest``, ``staff``,
    ``exposure``: a frozen month); ``value`` is 1 to 1,024 bytes of it.
    """

    __slots__ = ()

    def __new__(cls, domain: str, value: bytes) -> Tag:
        """Make a tag.

        Raises:
            EntryError: if there is no such domain, or the value is none.
        """
        if domain not in _DOMAINS:
            raise EntryError(f"unknown tag domain {domain!r}")
        if not isinstance(value, bytes) or not 1 <= len(value) <= 1024:
            raise EntryError(f"a {domain} tag's value must be 1 to 1024 bytes")
        return super().__new__(cls, domain, value)

    @property
    def code(self) -> int:
        """The domain byte."""
        return _DOMAINS[self.domain].value


def number_tags(number: str) -> tuple[Tag, ...]:
    """Return the tags of a telephone number that was asked for.

    A number of the North American plan (``+1`` and ten digits) gives also its thousands block (NPA-NXX-X) and its
    exchange (NPA-NXX), so that enumeration shows without the number; any other gives the number's tag alone.
    """
    tags = [Tag("number", number.encode())]
    if len(number) == 12 and number.startswith("+1") and number[1:].isascii() and number[1:].isdigit():
        tags += [Tag("thousands_block", number[:9].encode()), Tag("exchange", number[:8].encode())]
    return tuple(tags)


def new_id() -> UUID:
    """Return a fresh identifier in the form of UUID version 7 (RFC 9562 s.5.7): ordered by time, 74 random bits."""
    chance = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64
    # asyncpg's UUID is the standard one made in C: made, written and sent at a tenth of the cost.
    made: UUID = FastUUID((value | 0x2 << 62 | chance & (1 << 62) - 1).to_bytes(16, "big"))
    return made


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry to append.

    Attributes:
        kind: what is recorded.
        actor: who: client_id, staff, token_id (jti), key_thumbprint (jkt), address.
        request: what was asked: purpose, basis, OCNs, window, classes, decision, reason; numbers may stand here.
        outcome: what came of it: rows, bytes, sha256, hashes of what was made.
        records: what a client may not see of its own access: record sets, sequence numbers and places of the store.
        entry_id: the entry's own id; it decides after a lost reply whether the entry stands.
        access_id: the access that an intent, progress, outcome or denial belongs to.
        tags: what the entry can be found by.
    """

    kind: Kind
    actor: Mapping[str, JSON] = field(default_factory=dict)
    request: Mapping[str, JSON] = field(default_factory=dict)
    outcome: Mapping[str, JSON] = field(default_factory=dict)
    records: Mapping[str, JSON] = field(default_factory=dict)
    entry_id: UUID = field(default_factory=new_id)
    access_id: UUID | None = None
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an entry stands."""

    index: int
    entry_id: UUID
    at: datetime


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """An entry as read back and checked against its commitments.

    A part that the entry never had is empty; a part is None once its opening is erased.
    """

    index: int
    entry_id: UUID
    at: datetime
    kind: Kind
    access_id: UUID | None
    actor: dict[str, Any] | None
    request: dict[str, Any] | None
    outcome: dict[str, Any] | None
    records: dict[str, Any] | None
    leaf: bytes = b""
    """Its Merkle leaf hash, as computed from the header: what a proof is made for."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON values (for an answer or a command's output)."""
        return {
            "index": self.index,
            "entry_id": str(self.entry_id),
            "at": timestamp(self.at),
            "kind": self.kind.value,
            "access_id": None if self.access_id is None else str(self.access_id),
            "actor": self.actor,
            "request": self.request,
            "outcome": self.outcome,
            "records": self.records,
        }


def timestamp(at: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC with six decimals and ``Z``."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def month_of(at: datetime) -> int:
    """Return the UTC month of an aware time as yyyymm."""
    utc = at.astimezone(UTC)
    return utc.year * 100 + utc.month
