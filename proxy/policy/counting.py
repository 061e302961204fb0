"""The privacy officer's permit: to count what was disclosed, and nothing else. Pure.

Counting opens records to learn which telephone numbers stood in what somebody was shown. It is a use of the same
records, so it is decided like one: a purpose, a basis, the classes and fields that it needs, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final, TypeAlias

from proxy.policy.model import Deny
from proxy.policy.rules import WINDOW_EMPTY, Rule
from schema.fields import DisclosureClass

_CPNI_2007 = date(2007, 12, 8)  # 72 FR 31948

PURPOSE: Final = "privacy"
ACTION: Final = "count"
BASIS: Final = "47 U.S.C. 222(a); 47 CFR 64.2009(c), 64.2011(d)"
"""The duty to protect; the record of disclosures; the detailed description of the CPNI that was the subject of a
breach."""
CLASSES: Final = frozenset({DisclosureClass.TIMING, DisclosureClass.PARTIES})
"""Timing for a record's id and day; parties for its numbers. No leg: rates and trunks count for nothing here."""
PARTIES: Final = ("calling", "called", "dialed", "charge_number", "redirecting")
FIELDS: Final = ("record_id", "started_at", *PARTIES)


class SubjectKind(StrEnum):
    """Whose disclosures are counted."""

    CLIENT = "client"
    TOKEN = "token"  # noqa: S105 - a kind, not a credential
    KEY = "key"
    ADDRESS = "address"
    STAFF = "staff"
    CASE = "case"
    ALL = "all"  # every access: only for freezing a month


@dataclass(frozen=True, slots=True)
class Subject:
    """A client, token id, key thumbprint, network address, staff member or case, as the log names it."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Officer:
    """Who counts. ``privacy`` says that this process holds the privacy role's login (and, of somebody who is signed in,
    that theirs is the role)."""

    name: str
    privacy: bool
    staff: bool = False
    """``name`` is a staff id, of somebody who is signed in; else the operating system's name for whoever runs this."""

    @property
    def actor(self) -> dict[str, str]:
        """What the log says of them."""
        return {"staff" if self.staff else "os_user": self.name}


@dataclass(frozen=True, slots=True)
class CountRequest:
    """What is to be counted: accesses of ``subject`` that ran from ``start_us`` until before ``end_us``."""

    subject: Subject
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class CountPermit:
    """A count that may be made, and all that it may read."""

    purpose: str = PURPOSE
    action: str = ACTION
    basis: str = BASIS
    classes: frozenset[DisclosureClass] = CLASSES
    fields: tuple[str, ...] = FIELDS


CountDecision: TypeAlias = CountPermit | Deny

ROLE_NOT_HELD: Final = Rule(
    "count.role", "47 U.S.C. 222(a); 47 CFR 64.2009(b)", _CPNI_2007, "Only the privacy role counts.", house=True
)
SUBJECT_UNKNOWN: Final = Rule(
    "count.subject",
    "47 U.S.C. 222(c)(1)",
    _CPNI_2007,
    "Nobody is named whose disclosures could be counted.",
    house=True,
)
COUNTING_RULES: Final = (ROLE_NOT_HELD, SUBJECT_UNKNOWN, WINDOW_EMPTY)
"""Every reason this decision can give."""


def decide_count(request: CountRequest, officer: Officer) -> CountDecision:
    """Decide whether ``officer`` may count what ``request`` names."""
    if not officer.privacy or not officer.name:
        return ROLE_NOT_HELD.deny()
    value = request.subject.value
    if request.subject.kind not in set(SubjectKind) or not (1 <= len(value) <= 256 and value.isprintable()):
        return SUBJECT_UNKNOWN.deny()
    if request.start_us >= request.end_us:
        return WINDOW_EMPTY.deny()
    return CountPermit()
