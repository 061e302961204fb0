"""Who works here: roles, members, training, and what a member's token is good for. Pure.

Training is a precondition of every role (47 CFR 64.2009(b): personnel are trained when they are and are not authorised
to use CPNI). A member is *trained* from a training on or after the day of hire until the same day of the next year,
that day included. Days are UTC days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from proxy.ledger.model import JSON, Tag

TRAINING_CITATION = "47 CFR 64.2009(b)"
"""Where it stands that personnel must be trained."""

_STAFF = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}", re.ASCII)
_TEXT_MAX = 200
_SUBJECT_MAX = 255  # OpenID Connect Core section 2


class StaffError(Exception):
    """A change cannot be made; the message says why and what to do. Base of this part's errors."""


class NotFound(StaffError):  # noqa: N818 - what is so
    """There is no such member, role, suspension or key."""


class Conflict(StaffError):  # noqa: N818
    """It is so already, or does not go together with what is so."""


class StaffRole(StrEnum):
    """What somebody may do. Stored for ever: add, never rename."""

    LEGAL_HANDLER = "legal_handler"
    """Opens cases, extracts, reviews, delivers."""
    LEGAL_APPROVER = "legal_approver"
    """Approves what a handler has prepared; never their own."""
    PRIVACY_OFFICER = "privacy_officer"
    """Works disclosures, exposure and reports; records training."""
    NOC = "noc"
    """Watches health and alerts; sees no record and no full number."""
    OPERATOR = "operator"
    """Carriers, agreements, clients, staff; reads no CDRs by way of the gateway."""


APART: tuple[tuple[StaffRole, StaffRole], ...] = (
    (StaffRole.OPERATOR, StaffRole.LEGAL_HANDLER),
    (StaffRole.OPERATOR, StaffRole.LEGAL_APPROVER),
    (StaffRole.NOC, StaffRole.LEGAL_HANDLER),
    (StaffRole.NOC, StaffRole.LEGAL_APPROVER),
)
"""Roles that nobody may have together: operator and NOC read no CDRs. The database holds the same (staff_role_apart).
Handler and approver may be one person's, for different cases: each case asks for two people."""


class Standing(StrEnum):
    """Whether somebody is trained."""

    CURRENT = "current"
    NEVER = "never"
    """None since the day of hire."""
    OVERDUE = "overdue"
    """The last one is more than a year ago."""


def anniversary(day: date) -> date:
    """Return the same day of the next year; of 29 February, the 28th."""
    try:
        return day.replace(year=day.year + 1)
    except ValueError:
        return day.replace(year=day.year + 1, day=28)


def standing(hired_on: date, trained_on: date | None, today: date) -> Standing:
    """Say whether a member is trained on ``today`` (47 CFR 64.2009(b): at hire and yearly).

    Args:
        hired_on: the day of hire; a training before it does not count.
        trained_on: the last day of a training, None: never.
        today: the day in question.
    """
    if trained_on is None or trained_on < hired_on or trained_on > today:
        return Standing.NEVER
    return Standing.CURRENT if today <= anniversary(trained_on) else Standing.OVERDUE


@dataclass(frozen=True, slots=True)
class StaffMember:
    """A member of staff, as added.

    Who they are is said by the company's OpenID provider: ``issuer`` and ``subject`` (its ``sub``), never by an address
    or a name, which a provider may give to somebody else.
    """

    staff_id: str
    """Ours: stands in the log, on certificates, in changes."""
    issuer: str
    subject: str
    name: str
    """As it stands on a certificate."""
    hired_on: date
    title: str = ""
    """Position, as it stands on a certificate."""

    def __post_init__(self) -> None:
        check_staff_id(self.staff_id)
        check_text("a name", self.name)
        if self.title:
            check_text("a title", self.title)
        check_text("an issuer", self.issuer)
        if not 1 <= len(self.subject) <= _SUBJECT_MAX or not self.subject.isprintable():
            raise StaffError(f"a subject is 1 to {_SUBJECT_MAX} printable characters: the provider's `sub`")
        check_day("a day of hire", self.hired_on)


@dataclass(frozen=True, slots=True)
class StaffRecord:
    """A member of staff, as they stand now."""

    member: StaffMember
    roles: frozenset[StaffRole]
    suspended_at: datetime | None
    trained_on: date | None
    """Day of the last training; None: never."""
    today: date
    """The database's day when this was read."""

    @property
    def standing(self) -> Standing:
        """Whether they are trained today."""
        return standing(self.member.hired_on, self.trained_on, self.today)

    @property
    def training_due(self) -> date:
        """The last day that they are trained, or (never trained) the day of hire."""
        if self.standing is Standing.NEVER or self.trained_on is None:
            return self.member.hired_on
        return anniversary(self.trained_on)

    def as_json(self) -> dict[str, JSON]:
        """Return it as JSON values."""
        return {
            "staff_id": self.member.staff_id,
            "name": self.member.name,
            "title": self.member.title,
            "issuer": self.member.issuer,
            "subject": self.member.subject,
            "hired_on": self.member.hired_on.isoformat(),
            "roles": sorted(role.value for role in self.roles),
            "suspended_at": None if self.suspended_at is None else self.suspended_at.isoformat(),
            "trained_on": None if self.trained_on is None else self.trained_on.isoformat(),
            "training": self.standing.value,
            "training_due": self.training_due.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class StaffKey:
    """A public key with which a member signs certificates, outside Tollgate (28 U.S.C. 1746)."""

    staff_id: str
    kid: str
    alg: str
    jwk: dict[str, str] = field(hash=False)
    thumbprint: str
    """RFC 7638."""
    added_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StaffGrant:
    """What a request of a member of staff may be for: the token as granted, joined with what is so now."""

    staff_id: str
    roles: frozenset[StaffRole]
    """Of the token's roles, those that are still theirs."""
    token_id: str
    """``jti``."""
    jkt: str
    """RFC 7638 thumbprint of the key that proved this request."""
    address: str
    """Where the request came from."""
    expires_at: datetime
    token_hash: bytes
    """What stands for the token among the revoked."""

    def holds(self, *roles: StaffRole) -> bool:
        """Say whether one of ``roles`` is theirs."""
        return not self.roles.isdisjoint(roles)

    def actor(self) -> dict[str, JSON]:
        """Return who, as the log says it."""
        return {
            "staff": self.staff_id,
            "roles": sorted(role.value for role in self.roles),
            "token_id": self.token_id,
            "key_thumbprint": self.jkt,
            "address": self.address,
        }

    def tags(self) -> tuple[Tag, ...]:
        """Return what their entries are found by."""
        return (
            Tag("staff", self.staff_id.encode()),
            Tag("jkt", self.jkt.encode()),
            Tag("token", self.token_id.encode()),
            Tag("address", self.address.encode()),
        )


def check_roles(roles: Iterable[StaffRole]) -> frozenset[StaffRole]:
    """Return ``roles`` if one person may have them together.

    Raises:
        Conflict: names the two that do not go together (APART).
    """
    held = frozenset(roles)
    for one, other in APART:
        if one in held and other in held:
            raise Conflict(f"nobody is both {one.value} and {other.value}: {one.value} must not reach CDRs")
    return held


def check_staff_id(text: str) -> str:
    """Return ``text`` if it can be a staff id.

    Raises:
        StaffError: if not.
    """
    if _STAFF.fullmatch(text) is None:
        raise StaffError("a staff id is 1 to 63 lower-case letters, digits and . _ @ + - (first a letter or digit)")
    return text


def check_text(what: str, text: str) -> str:
    """Return ``text`` if it is 1 to 200 printable characters without blanks around it.

    Raises:
        StaffError: if not.
    """
    if not 1 <= len(text) <= _TEXT_MAX or text != text.strip() or not text.isprintable():
        raise StaffError(f"{what} is 1 to {_TEXT_MAX} printable characters")
    return text


def check_day(what: str, day: date) -> date:
    """Return ``day`` if it lies in 1984 to 2100.

    Raises:
        StaffError: if not.
    """
    if not 1984 <= day.year <= 2100:
        raise StaffError(f"{what} lies outside 1984 to 2100")
    return day
