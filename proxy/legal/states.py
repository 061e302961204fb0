"""The states of a case and the transitions between them, as data. PostgreSQL holds the same table (0014_cases.sql).

An action that is not in the table for the state a case is in is refused. ``handler`` and ``approver`` are capacities in
one case: whoever acted in one of them there never acts in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class CaseState(StrEnum):
    """Where a case stands."""

    RECEIVED = "received"
    VALIDATED = "validated"
    DEFICIENT = "deficient"
    OBJECTED = "objected"
    APPROVED = "approved"
    EXTRACTED = "extracted"
    REVIEWED = "reviewed"
    CERTIFIED = "certified"
    DELIVERED = "delivered"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    ACTIVE = "active"
    """A preservation (18 U.S.C. 2703(f)) that holds records; so are the next three."""
    RENEWED = "renewed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


class Action(StrEnum):
    """What is done to a case."""

    OPEN = "open"
    DOCUMENT = "document"
    SCOPE = "scope"
    """Say what is asked; until it is validated. What is deficient can be asked anew only by a new document."""
    VALIDATE = "validate"
    NARROW = "narrow"
    OBJECT = "object"
    RESOLVE = "resolve"
    APPROVE = "approve"
    """Approve a scope; again, where the first approval has run out before the delivery."""
    ACT = "act"
    """Act at once in an emergency (18 U.S.C. 2702(c)(4)); another person confirms or contests it."""
    CONFIRM = "confirm"
    CONTEST = "contest"
    LAPSE = "lapse"
    """The approval ran out before the extraction."""
    EXTRACT = "extract"
    EXTRACTED = "extracted"
    FAILED = "failed"
    REVIEW = "review"
    PRODUCE = "produce"
    CERTIFY = "certify"
    DELIVER = "deliver"
    REDELIVER = "redeliver"
    """The same inner package to another key of the recipient, who lost the first."""
    ACK = "ack"
    CLOSE = "close"
    PRESERVE = "preserve"
    RENEW = "renew"
    EXPIRE = "expire"
    SUPERSEDE = "supersede"
    SECRET = "secret"  # noqa: S105
    """An order of non-disclosure that came after the opening, or its extension."""
    UNSEAL = "unseal"
    """The order of non-disclosure was lifted (two people: change kind ``secrecy.lift``)."""


class Capacity(StrEnum):
    """In which capacity an action is done. ``either``: handler or approver; it binds to neither."""

    HANDLER = "handler"
    APPROVER = "approver"
    EITHER = "either"
    SYSTEM = "system"


CAPACITY: Mapping[Action, Capacity] = {
    **dict.fromkeys(Action, Capacity.HANDLER),
    Action.DOCUMENT: Capacity.EITHER,
    Action.OBJECT: Capacity.EITHER,
    Action.RESOLVE: Capacity.EITHER,
    Action.REVIEW: Capacity.EITHER,
    Action.ACK: Capacity.EITHER,
    Action.CLOSE: Capacity.EITHER,
    Action.SECRET: Capacity.EITHER,
    Action.UNSEAL: Capacity.EITHER,
    Action.APPROVE: Capacity.APPROVER,
    Action.CONFIRM: Capacity.APPROVER,
    Action.CONTEST: Capacity.APPROVER,
    Action.LAPSE: Capacity.SYSTEM,
    Action.EXTRACTED: Capacity.SYSTEM,
    Action.FAILED: Capacity.SYSTEM,
    Action.EXPIRE: Capacity.SYSTEM,
}
"""Who does what. An approval for a redelivery is an approval too (approvals.py)."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One allowed step; ``before`` is None for a case's first."""

    action: Action
    before: CaseState | None
    after: CaseState


def _transitions() -> tuple[Transition, ...]:
    s, a = CaseState, Action
    opened = (s.RECEIVED, s.VALIDATED, s.DEFICIENT, s.OBJECTED, s.APPROVED, s.EXTRACTED, s.REVIEWED, s.CERTIFIED)
    under_approval = (s.APPROVED, s.EXTRACTED, s.REVIEWED, s.CERTIFIED)
    disclosed = (s.DELIVERED, s.ACKNOWLEDGED)
    holding = (s.ACTIVE, s.RENEWED)

    def stay(action: Action, *states: CaseState) -> list[Transition]:
        return [Transition(action, state, state) for state in states]

    def to(action: Action, after: CaseState, *states: CaseState) -> list[Transition]:
        return [Transition(action, state, after) for state in states]

    return (
        Transition(a.OPEN, None, s.RECEIVED),
        *stay(a.DOCUMENT, *s),
        *to(a.SCOPE, s.RECEIVED, s.RECEIVED, s.DEFICIENT),
        *to(a.VALIDATE, s.VALIDATED, s.RECEIVED),
        *to(a.VALIDATE, s.DEFICIENT, s.RECEIVED),
        *to(a.NARROW, s.RECEIVED, s.RECEIVED, s.DEFICIENT),
        *to(a.NARROW, s.VALIDATED, s.VALIDATED, s.OBJECTED, s.APPROVED, s.EXTRACTED, s.REVIEWED),
        *to(a.OBJECT, s.OBJECTED, s.VALIDATED, s.APPROVED),
        *to(a.RESOLVE, s.VALIDATED, s.OBJECTED),
        *to(a.APPROVE, s.APPROVED, s.VALIDATED),
        *stay(a.APPROVE, *under_approval[1:], *disclosed),
        *to(a.ACT, s.APPROVED, s.VALIDATED),
        *stay(a.CONFIRM, s.VALIDATED, s.OBJECTED, *under_approval, *disclosed),
        *to(a.CONTEST, s.OBJECTED, s.VALIDATED, s.OBJECTED, *under_approval),
        *stay(a.CONTEST, *disclosed),
        *to(a.LAPSE, s.VALIDATED, s.APPROVED),
        *stay(a.EXTRACT, s.APPROVED),
        *to(a.EXTRACTED, s.EXTRACTED, s.APPROVED),
        *stay(a.FAILED, s.APPROVED),
        *to(a.REVIEW, s.REVIEWED, s.EXTRACTED),
        *stay(a.PRODUCE, s.REVIEWED),
        *to(a.CERTIFY, s.CERTIFIED, s.REVIEWED),
        *to(a.DELIVER, s.DELIVERED, s.CERTIFIED),
        *stay(a.REDELIVER, *disclosed),
        *to(a.ACK, s.ACKNOWLEDGED, s.DELIVERED),
        *to(a.CLOSE, s.CLOSED, *opened, s.ACKNOWLEDGED, s.EXPIRED, s.SUPERSEDED),
        *to(a.PRESERVE, s.ACTIVE, s.VALIDATED),
        *to(a.RENEW, s.RENEWED, s.ACTIVE),
        *to(a.EXPIRE, s.EXPIRED, *holding),
        *to(a.SUPERSEDE, s.SUPERSEDED, *holding),
        *stay(a.SECRET, *s),
        *stay(a.UNSEAL, *s),
    )


TRANSITIONS: tuple[Transition, ...] = _transitions()
"""Every step that there is."""

ENDED = frozenset({CaseState.CLOSED})
"""States that nothing leads out of."""


def allowed(action: Action, state: CaseState | None) -> frozenset[CaseState]:
    """Return the states that ``action`` may lead to from ``state``; empty: it is not allowed there."""
    return frozenset(t.after for t in TRANSITIONS if t.action is action and t.before is state)


def actions(state: CaseState) -> tuple[Action, ...]:
    """Return what may be done to a case in ``state``, in order."""
    return tuple(dict.fromkeys(t.action for t in TRANSITIONS if t.before is state))
