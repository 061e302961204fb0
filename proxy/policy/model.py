"""The values a decision is made from and made of. All frozen; all times are microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from schema.fields import DisclosureClass


class Purpose(StrEnum):
    """What a record is wanted for. Known is not permitted: proxy/policy/rules.py says what each one reaches."""

    BILLING = "billing"
    LEGAL = "legal"
    FRAUD = "fraud"
    CUSTOMER = "customer"
    MARKETING = "marketing"


class Action(StrEnum):
    """What is done with the store."""

    PULL = "pull"  # every record of a window
    SEARCH = "search"  # the records of one telephone number


class Direction(StrEnum):
    """Which of the caller's own legs are asked for."""

    INGRESS = "ingress"  # calls the caller sent us
    EGRESS = "egress"  # calls the caller took from us
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Ownership:
    """A carrier code and when it was the caller's: from ``start_us`` (None: always) until before ``end_us``."""

    ocn: str
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """What the caller holds: its token as granted, joined with what the registry says of its carrier now.

    Values stand as they were received (``purpose`` and ``classes`` are text), so that an unknown one reaches the
    decision and denies there.
    """

    client_id: str
    carrier_id: str
    purpose: str
    agreement: str
    """Reference of the interconnection agreement in force; empty: none."""
    classes: frozenset[str]
    ocns: frozenset[str]
    ownership: tuple[Ownership, ...]
    directions: frozenset[str]
    """``ingress``, ``egress`` or both: the legs that the token reaches."""
    start_us: int | None
    """The token's own window, half-open; None: not narrowed."""
    end_us: int | None
    expires_us: int


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. ``start_us`` to before ``end_us`` is the window of call setup times."""

    purpose: str
    action: str
    direction: str
    start_us: int
    end_us: int
    fields: tuple[str, ...] | None = None
    """Names of the only fields wanted; None: all that the classes reach."""


@dataclass(frozen=True, slots=True, order=True)
class OcnWindow:
    """Records of calls set up from ``start_us`` until before ``end_us`` in which the caller's leg is ``ocn``."""

    start_us: int
    end_us: int
    ocn: str


@dataclass(frozen=True, slots=True)
class Permit:
    """A disclosure that may be made, and all that may be disclosed by it."""

    purpose: Purpose
    action: Action
    basis: str
    """The citation that allows it."""
    agreement: str
    classes: frozenset[DisclosureClass]
    fields: tuple[str, ...]
    """In canonical order."""
    sides: frozenset[str]
    windows: tuple[OcnWindow, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal: the code of the rule (stable; safe as a metric label), its citation, and a sentence for the caller."""

    reason: str
    citation: str
    says: str


Decision: TypeAlias = Permit | Deny
