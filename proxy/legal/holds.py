"""What a hold is: records frozen for a case, and the clock of 18 U.S.C. 2703(f). Pure.

A hold is a copy: the records that match a case's targets and window, sealed apart under a key of the hold's own. The
store's retention and shredding never touch it, and it needs nothing of the store to be read.

| kind | for | ends |
|---|---|---|
| preservation | a request under 2703(f): all classes, existing records only, nothing disclosed | by its clock |
| production | what a case's production was made of, so that it can be made again | when it is lifted |

2703(f)(2): records are retained "for a period of 90 days, which shall be extended for an additional 90-day period
upon a renewed request". The day of the request is day 0; the hold covers all of day 90, renewed all of day 180, in the
time zone of the agency: never less than the law's days, whatever the clocks do in spring and autumn.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from proxy.legal.deadlines import day_of, preservation

CITATION: Final = "18 U.S.C. 2703(f)"


class HoldError(Exception):
    """The hold cannot be made, renewed or ended so; the message says why, in words of ours. ``reason`` is a code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class HoldKind(StrEnum):
    """What a hold is for. Stored for ever: add, never rename."""

    PRESERVATION = "preservation"
    PRODUCTION = "production"


class HoldState(StrEnum):
    """Where a hold stands. Stored for ever: add, never rename."""

    PENDING = "pending"
    """Its copy is being made; until it is whole, the months that it is taken from are not shredded."""
    ACTIVE = "active"
    RENEWED = "renewed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    """Process was served for what it preserved; its copy stays until its clock ends."""
    LIFTED = "lifted"
    """Two people ended it (change kind ``hold.lift``)."""
    VOID = "void"
    """Its copy was never whole: the extraction was cancelled, or failed."""


LIVE: Final = frozenset({HoldState.PENDING, HoldState.ACTIVE, HoldState.RENEWED})

TRANSITIONS: Final[dict[HoldState, frozenset[HoldState]]] = {
    HoldState.PENDING: frozenset({HoldState.ACTIVE, HoldState.EXPIRED, HoldState.LIFTED, HoldState.VOID}),
    HoldState.ACTIVE: frozenset({HoldState.RENEWED, HoldState.EXPIRED, HoldState.SUPERSEDED, HoldState.LIFTED}),
    HoldState.RENEWED: frozenset({HoldState.EXPIRED, HoldState.SUPERSEDED, HoldState.LIFTED}),
    HoldState.SUPERSEDED: frozenset({HoldState.EXPIRED, HoldState.LIFTED}),
    HoldState.EXPIRED: frozenset(),
    HoldState.LIFTED: frozenset(),
    HoldState.VOID: frozenset(),
}
"""What may follow what; `tollgate.hold_check` in migration 0016 holds the same."""


def new_hold_id() -> str:
    """Return a fresh id: ``H-`` and ten letters and digits that say nothing."""
    return "H-" + base64.b32encode(secrets.token_bytes(7))[:10].decode()


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold as it stands.

    Attributes:
        hold_id: opaque.
        case_id: the case that it is for.
        kind: preservation or production.
        state: as stored; `standing` is what it is at a time.
        requested_at: when the request was received (a production's: when it was begun), aware.
        zone: the agency's time zone, where its days are counted.
        first_month, last_month: what months (yyyymm) of the store its copy is taken from.
        by: staff id of who made it.
        expires_at: end of its clock, that moment excluded; None: it has none.
        sealed_at: when its copy was whole; None until then.
        rows: records in the copy, once it is whole.
        renewed_at: when it was renewed.
        ended_at: when it was superseded, lifted, void or found expired.
        destroyed_at: when its key was destroyed: nobody reads the copy any more.
    """

    hold_id: str
    case_id: str
    kind: HoldKind
    state: HoldState
    requested_at: datetime
    zone: str
    first_month: int
    last_month: int
    by: str
    expires_at: datetime | None = None
    sealed_at: datetime | None = None
    rows: int | None = None
    renewed_at: datetime | None = None
    ended_at: datetime | None = None
    destroyed_at: datetime | None = None

    def standing(self, now: datetime) -> HoldState:
        """Return its state at ``now``: one whose clock has run out is expired, whether or not that is stored yet."""
        over = self.expires_at is not None and self.expires_at <= now
        return HoldState.EXPIRED if over and TRANSITIONS[self.state] else self.state

    def day(self, now: datetime) -> int:
        """Return which day of its clock ``now`` is: 0 on the day of the request, counted in its zone."""
        return (day_of(now, self.zone) - day_of(self.requested_at, self.zone)).days

    def as_json(self, now: datetime) -> dict[str, Any]:
        """Return it for the legal desk, as JSON values."""
        value: dict[str, Any] = {
            "hold_id": self.hold_id,
            "case_id": self.case_id,
            "kind": self.kind.value,
            "state": self.standing(now).value,
            "requested_at": self.requested_at.isoformat(),
            "zone": self.zone,
            "first_month": self.first_month,
            "last_month": self.last_month,
            "by": self.by,
            "day": self.day(now),
            "rows": self.rows,
        }
        for name in ("expires_at", "sealed_at", "renewed_at", "ended_at", "destroyed_at"):
            at = getattr(self, name)
            value[name] = None if at is None else at.isoformat()
        return value


def preserve(hold_id: str, case_id: str, requested_at: datetime, zone: str, months: tuple[int, int], by: str) -> Hold:
    """Return a preservation that begins with a request; its copy is still to be made.

    Raises:
        DeadlineError: if there is no such zone.
    """
    until = preservation(requested_at, zone).expires_at
    return Hold(
        hold_id, case_id, HoldKind.PRESERVATION, HoldState.PENDING, requested_at, zone, *months, by, expires_at=until
    )


def pin(hold_id: str, case_id: str, at: datetime, zone: str, months: tuple[int, int], by: str) -> Hold:
    """Return the hold of a production that is begun: it has no clock."""
    return Hold(hold_id, case_id, HoldKind.PRODUCTION, HoldState.PENDING, at, zone, *months, by)


def renew(hold: Hold, now: datetime) -> Hold:
    """Return a preservation renewed: its second 90 days follow its first, however early the renewed request came.

    Raises:
        HoldError: if it was renewed before, has run out, has ended, or has no clock.
    """
    if hold.kind is not HoldKind.PRESERVATION:
        raise HoldError("hold.kind", "only a preservation is renewed: a production's hold has no clock")
    state = hold.standing(now)
    if state is HoldState.RENEWED:
        raise HoldError("hold.renewed", f"it was renewed before: {CITATION} extends a preservation once")
    if state is HoldState.EXPIRED:
        raise HoldError("hold.expired", "its days are over: a renewed request comes before they are; open a new one")
    if state is not HoldState.ACTIVE:
        raise HoldError("hold.state", f"a hold that is {state.value} is not renewed")
    until = preservation(hold.requested_at, hold.zone, renewed=True).expires_at
    return replace(hold, state=HoldState.RENEWED, renewed_at=now, expires_at=until)


def move(hold: Hold, to: HoldState, now: datetime) -> Hold:
    """Return a hold superseded, lifted or expired.

    Raises:
        HoldError: if that does not follow from where it stands, or its clock has not run out.
    """
    if to is HoldState.EXPIRED and hold.standing(now) is not HoldState.EXPIRED:
        raise HoldError("hold.not_due", "its days are not over")
    if to not in TRANSITIONS[hold.state] or (to is not HoldState.EXPIRED and hold.standing(now) is HoldState.EXPIRED):
        raise HoldError("hold.state", f"a hold that is {hold.standing(now).value} does not become {to.value}")
    return replace(hold, state=to, ended_at=now)


def dispensable(hold: Hold, now: datetime) -> bool:
    """Say whether its copy is to be destroyed: it was lifted, never whole, or its clock ran out (superseded or not)."""
    return hold.destroyed_at is None and not TRANSITIONS[hold.standing(now)]
