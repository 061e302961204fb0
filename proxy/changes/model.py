"""What widens access, as a value: proposed by one person, decided by another, bound to what the second one saw.

A change is a kind and a payload. The payload's canonical JSON (RFC 8785) is what is stored, and its SHA-256 is what an
approval names: an approval of anything else is none. A change goes ``proposed`` → ``approved``, ``refused``,
``withdrawn`` or ``expired``, once; what is approved is applied in the same transaction or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from proxy.ledger.encoding import canonical
from proxy.ledger.model import JSON, Entry, EntryError
from proxy.registry.model import RegistryError, check_text

LIFETIME = timedelta(days=7)
"""How long a proposal stands before it has to be made again."""

PAYLOAD_MAX = 48 * 1024
"""Most bytes of a payload's canonical form: an entry of the log and a request both hold it."""


class ChangeError(RegistryError):
    """A change cannot be proposed or decided. Base of this part's errors; ``reason`` is a short code for the log."""

    reason = "change.invalid"


class UnknownChange(ChangeError):  # noqa: N818 - what is so
    """There is no such change, or none that this person may see."""

    reason = "change.unknown"


class NotOpen(ChangeError):  # noqa: N818
    """It is decided, withdrawn or expired already."""

    reason = "change.not_open"


class OwnChange(ChangeError):  # noqa: N818
    """Who proposed it cannot also decide it, and nobody else can withdraw it."""

    reason = "change.own"


class OtherDigest(ChangeError):  # noqa: N818
    """The approval names another content than the change has."""

    reason = "change.digest"


class WrongRole(ChangeError):  # noqa: N818
    """This kind of change is not for this person to propose or to decide."""

    reason = "change.role"


class State(StrEnum):
    """Where a change stands. Stored for ever: add, never rename."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class ChangeKind(Protocol):
    """One kind of change: who proposes and who decides it, what its payload is, and what it does.

    The same roles stand in ``tollgate.change_kind``, where the database holds them. A part that has kinds of its own
    (the legal desk: lifting a hold, shredding) gives objects of this shape to the composition root and adds their rows
    in its migration. Both methods raise `RegistryError` or `StaffError` (or their NotFound and Conflict) with words for
    people.
    """

    @property
    def name(self) -> str:
        """Its name: stored, and in the API."""

    @property
    def proposer(self) -> str:
        """The role (a StaffRole's value) that may propose it."""

    @property
    def approver(self) -> str:
        """The role that may approve or refuse it."""

    def read(self, payload: Mapping[str, Any]) -> Mapping[str, JSON]:
        """Check a payload as it came and return its normal form: strings, integers, lists and objects of them.

        The normal form of a normal form is itself.
        """

    async def apply(self, conn: asyncpg.Connection, change_id: UUID, payload: Mapping[str, Any]) -> Sequence[Entry]:
        """Do it, in the open transaction in which it was approved (role OPERATOR); return what the log shall say.

        Nothing is appended here: the caller appends it with the approval's own entry, last before COMMIT. Rows that
        widen bear ``change_id``; their triggers ask ``tollgate.approved_change(change_id, kind)`` for the payload.
        """


@dataclass(frozen=True, slots=True)
class Change:
    """A change as it stands."""

    change_id: UUID
    kind: str
    payload: Mapping[str, Any]
    digest: str
    """SHA-256 of the payload's canonical JSON, hexadecimal: what an approval names."""
    reason: str
    """Why it was proposed."""
    state: State
    proposed_by: str
    """Staff id."""
    proposed_at: datetime
    expires_at: datetime
    decided_by: str | None = None
    """Staff id of who approved or refused it."""
    decided_at: datetime | None = None
    """When it left ``proposed``, in whatever way."""
    decision_reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, times as RFC 3339."""
        return {
            "change_id": str(self.change_id),
            "kind": self.kind,
            "payload": dict(self.payload),
            "digest": self.digest,
            "reason": self.reason,
            "state": self.state.value,
            "proposed_by": self.proposed_by,
            "proposed_at": self.proposed_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "decided_by": self.decided_by,
            "decided_at": None if self.decided_at is None else self.decided_at.isoformat(),
            "decision_reason": self.decision_reason,
        }


def written(payload: Mapping[str, JSON]) -> str:
    """Return a payload's canonical JSON.

    Raises:
        ChangeError: if it has none (a float, a lone surrogate), or is too large.
    """
    try:
        text = canonical(payload)
    except EntryError as error:
        raise ChangeError("the payload holds a value that cannot be written") from error
    if len(text.encode()) > PAYLOAD_MAX:
        raise ChangeError(f"the payload is larger than {PAYLOAD_MAX // 1024} KiB")
    return text


def digest_of(text: str) -> str:
    """Return the SHA-256 of a payload's canonical JSON, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def proposal(kind: ChangeKind, payload: Mapping[str, Any]) -> str:
    """Return the canonical JSON of the normal form of a payload that somebody proposes.

    Raises:
        RegistryError: if the kind does not take it.
    """
    return written(kind.read(payload))


def check_reason(text: str) -> str:
    """Return a reason if it is 1 to 200 printable characters.

    Raises:
        RegistryError: if not.
    """
    return check_text("a reason", text)


def check_open(change: Change, now: datetime) -> None:
    """Refuse to decide what is not open any more.

    Raises:
        NotOpen: says how it ended.
    """
    if change.state is not State.PROPOSED:
        raise NotOpen(f"the change is {change.state.value} already")
    if now >= change.expires_at:
        raise NotOpen("the change has expired: propose it again")


def check_decision(change: Change, by: str, now: datetime, seen: str | None = None) -> None:
    """Refuse a decision by who proposed the change, too late, or (``seen``, of an approval) on another content.

    Raises:
        OwnChange, NotOpen, OtherDigest: in this order.
    """
    if by == change.proposed_by:
        raise OwnChange("whoever proposes a change cannot decide it: another has to (withdrawing it is yours)")
    check_open(change, now)
    if seen is not None and seen != change.digest:
        raise OtherDigest("the approval names another content than the change has: look at it again")


def payload_of(text: str) -> dict[str, Any]:
    """Return a stored payload."""
    value = json.loads(text)
    assert isinstance(value, dict)
    return value
