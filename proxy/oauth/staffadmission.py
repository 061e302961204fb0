"""What the database says of a member of staff, and why somebody may not go on: the same at sign-in and at every use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.oauth import sql, staffsql
from proxy.oauth.admission import Admissions, Use
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.stafftokens import StaffClaims
from proxy.staff.model import TRAINING_CITATION, StaffGrant, StaffRole, Standing, standing

SAYS = {
    "staff.unknown": "the person is not in Tollgate's staff registry: two operators add them",
    "staff.suspended": "the person is suspended",
    "staff.training_never": f"training is missing: none is recorded since the day of hire ({TRAINING_CITATION})",
    "staff.training_overdue": f"training is overdue: the last one is more than a year ago ({TRAINING_CITATION})",
    "staff.group": "the person is in no group of the provider that has a role here",
    "staff.role": "the person has none of the roles that were asked for",
}
"""What each refusal of an authenticated person says to them."""


@dataclass(frozen=True, slots=True)
class StaffAdmission:
    """What the database says of a request, by its own clock and at one moment."""

    now: float
    staff_id: str | None
    """None: nobody here."""
    roles: frozenset[StaffRole]
    suspended: bool
    standing: Standing
    kept: frozenset[bytes]
    """Of the identifiers given, those that were never used before."""
    over: bool
    """The person's requests of this minute are spent."""
    retry_after: int
    """Seconds until the next minute."""
    revoked: bool

    def refusal(self) -> str | None:
        """Return the reason why this person may do nothing now; None if they may."""
        if self.staff_id is None:
            return "staff.unknown"
        if self.suspended:
            return "staff.suspended"
        if self.standing is Standing.NEVER:
            return "staff.training_never"
        if self.standing is Standing.OVERDUE:
            return "staff.training_overdue"
        return None


class StaffAdmissions:
    """The database as it knows staff.

    Args:
        admissions: runs statements of role OAUTH.
        clock: taught the database's time by every answer.
        per_minute: requests one person may make in a minute.
    """

    def __init__(self, admissions: Admissions, clock: DatabaseClock, per_minute: int) -> None:
        self._admissions = admissions
        self._clock = clock
        self._per_minute = per_minute

    async def signing_in(self, issuer: str, subject: str, uses: Sequence[Use]) -> StaffAdmission:
        """Ask about somebody whom the provider named, and spend identifiers.

        Raises:
            LOST: if the database is away.
        """
        return await self._admit(uses, None, issuer, subject)

    async def using(self, token: StaffClaims, uses: Sequence[Use]) -> StaffAdmission:
        """Ask about the bearer of a token of ours, and spend identifiers.

        Raises:
            LOST: if the database is away.
        """
        return await self._admit(uses, token.staff_id, None, None, token)

    async def live(self, grant: StaffGrant, roles: Iterable[StaffRole]) -> bool:
        """Say whether the grant still stands for one of ``roles``; its expiry is not looked at.

        Raises:
            LOST: if the database is away.
        """
        arguments = (grant.staff_id, [role.value for role in roles], grant.token_hash, grant.expires_at)
        found: bool = await self._admissions.run(lambda conn: conn.fetchval(staffsql.LIVE, *arguments))
        return found

    async def revoke(self, grant: StaffGrant) -> None:
        """Note that a grant's token is revoked; on every gateway from this COMMIT on.

        Raises:
            LOST: if the database is away.
        """
        await self._admissions.run(lambda conn: conn.execute(sql.REVOKE, grant.token_hash, grant.expires_at))

    async def _admit(
        self,
        uses: Sequence[Use],
        staff_id: str | None,
        issuer: str | None,
        subject: str | None,
        token: StaffClaims | None = None,
    ) -> StaffAdmission:
        row = await self._admissions.spending(
            staffsql.ADMIT,
            staff_id,
            issuer,
            subject,
            [use.hash for use in uses],
            [datetime.fromtimestamp(use.expires, UTC) for use in uses],
            None if token is None else token.hash,
            None if token is None else token.expires_at,
        )
        self._clock.observe(row["now"])
        now = row["now"].timestamp()
        known = row["staff_id"] is not None
        return StaffAdmission(
            now=now,
            staff_id=row["staff_id"],
            roles=frozenset(map(StaffRole, row["roles"] or ())),
            suspended=bool(row["suspended"]),
            standing=standing(row["hired_on"], row["trained_on"], row["today"]) if known else Standing.NEVER,
            kept=frozenset(row["kept"]),
            over=row["used"] is not None and row["used"] > self._per_minute,
            retry_after=60 - int(now) % 60,
            revoked=row["revoked"],
        )
