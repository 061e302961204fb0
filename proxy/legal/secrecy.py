"""Who may know of a case: the one predicate, used by everything that lists, counts, searches or alerts.

A case under an order of non-disclosure exists for the legal desk alone. For everybody else (the privacy officer, the
NOC, operators, the metrics) it is not there: not listed, not counted, not found in the log, and nothing says that
something was left out, for that would say it. Its entries stand in the log all the same.

| order | ends |
|---|---|
| 18 U.S.C. 2705(b) | on the date that it names, or when it is lifted; without a date only when it is lifted |
| 18 U.S.C. 2709(c) | when it is lifted (18 U.S.C. 3511, or the requesting official's notice), never by a date alone |
| a court's seal | as 2705(b) |

Pure. PostgreSQL says the same in `tollgate.is_secret` (migration 0016); a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum, StrEnum
from typing import Any, Final
from zoneinfo import ZoneInfo

DESK: Final = frozenset({"legal_handler", "legal_approver"})
"""The roles (StaffRole's values) that are the legal desk."""

NONE: Final = "none"
"""What column ``secrecy`` says of a case that no order binds."""


class Authority(StrEnum):
    """What forbids disclosure. Stored for ever (column ``secrecy``): add, never rename."""

    COURT = "2705b"
    """18 U.S.C. 2705(b): a court's order not to notify anybody of the process."""
    NSL = "2709c"
    """18 U.S.C. 2709(c): a national security letter whose certification prohibits disclosure."""
    SEAL = "court_seal"
    """The court sealed the process."""

    @property
    def citation(self) -> str:
        """Where it stands."""
        return _CITATIONS[self]

    @property
    def ends_by_date(self) -> bool:
        """Whether a date alone can end it."""
        return self is not Authority.NSL


_CITATIONS: Final = {
    Authority.COURT: "18 U.S.C. 2705(b)",
    Authority.NSL: "18 U.S.C. 2709(c)",
    Authority.SEAL: "order of the court",
}


@dataclass(frozen=True, slots=True)
class Secrecy:
    """An order that binds one case.

    In a row of a case it is three columns: ``secrecy`` (an `Authority` or ``none``), ``secret_until``,
    ``secrecy_lifted_at``; `of_row` reads them.

    Args:
        authority: what forbids disclosure.
        until: when it ends by its own terms, aware, that moment excluded; None where it names no date. Of a national
            security letter it is kept (a review may be due then) and ends nothing.
        lifted_at: when it was lifted, aware; None while it was not.

    Raises:
        ValueError: if a time has no zone.
    """

    authority: Authority
    until: datetime | None = None
    lifted_at: datetime | None = None

    def __post_init__(self) -> None:
        if any(at is not None and at.tzinfo is None for at in (self.until, self.lifted_at)):
            raise ValueError("a time needs its zone")

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Secrecy | None:
        """Return the order in a row of a case; None if there is none."""
        if row["secrecy"] == NONE:
            return None
        return cls(Authority(row["secrecy"]), row["secret_until"], row["secrecy_lifted_at"])

    @classmethod
    def through(cls, authority: Authority, day: date, zone: ZoneInfo) -> Secrecy:
        """Return an order that names a day and no hour: it binds through the end of that day where it was made."""
        return cls(authority, datetime.combine(day + timedelta(days=1), time(), zone))

    def binds(self, now: datetime) -> bool:
        """Say whether nobody but the legal desk may know at ``now`` (aware)."""
        if self.lifted_at is not None and self.lifted_at <= now:
            return False
        return not (self.authority.ends_by_date and self.until is not None and self.until <= now)


class Audience(Enum):
    """For whom something is listed or counted."""

    DESK = "desk"
    OTHERS = "others"


def audience(roles: Collection[str]) -> Audience:
    """Return what a staff member with these roles is; metrics, alerts and commands without a sign-in are `OTHERS`."""
    return Audience.OTHERS if DESK.isdisjoint(roles) else Audience.DESK


def visible(to: Audience, secrecy: Secrecy | None, now: datetime) -> bool:
    """Say whether a case may be known of. This is the predicate.

    Args:
        to: who looks.
        secrecy: the order that binds the case; None if there is none.
        now: the time, aware.
    """
    return to is Audience.DESK or secrecy is None or not secrecy.binds(now)


def visible_sql(to: Audience, row: str = "") -> str:
    """Return the same as a condition on a row of cases, for a statement's WHERE.

    Args:
        to: who looks.
        row: the row's name in the statement, where it needs one.
    """
    if to is Audience.DESK:
        return "true"
    at = f"{row}." if row else ""
    return f"NOT tollgate.is_secret({at}secrecy, {at}secret_until, {at}secrecy_lifted_at)"
