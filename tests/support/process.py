"""Legal process of each kind that lacks nothing, for tests to take things away from. Staff and issuers are made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from proxy.policy.process import Authority, Fact, Served, TargetFacts
from proxy.policy.validation import micros

SERVED_AT = datetime(2026, 11, 3, 15, 0, tzinfo=UTC)  # 10:00 in New York
NOW = SERVED_AT + timedelta(hours=2)
START = micros(datetime(2026, 10, 1, tzinfo=UTC))
END = micros(datetime(2026, 11, 1, tzinfo=UTC))
TARGETS = TargetFacts(1, "0" * 64, frozenset({"number"}))

_SIGNED: dict[str, tuple[Authority, frozenset[Fact]]] = {
    "subpoena": (Authority.GRAND_JURY, frozenset({Fact.AUTHENTIC})),
    "court_order": (Authority.JUDGE, frozenset({Fact.AUTHENTIC, Fact.ARTICULABLE_FACTS})),
    "warrant": (Authority.JUDGE, frozenset({Fact.AUTHENTIC, Fact.PROBABLE_CAUSE})),
    "nsl": (Authority.FBI_SAC, frozenset({Fact.AUTHENTIC, Fact.CERTIFIED_RELEVANT, Fact.REVIEW_NOTICE})),
    "consent": (
        Authority.CUSTOMER,
        frozenset({Fact.CUSTOMER_SIGNED, Fact.IDENTITY_VERIFIED, Fact.RECIPIENT_NAMED, Fact.LOCATION_AUTHORISED}),
    ),
    "emergency": (Authority.LAW_OFFICER, frozenset({Fact.AUTHENTIC, Fact.DANGER, Fact.NO_DELAY, Fact.GOOD_FAITH})),
    "civil_subpoena": (
        Authority.ATTORNEY,
        frozenset({Fact.AUTHENTIC, Fact.COUNSEL_REVIEWED, Fact.CUSTOMER_NOTIFIED, Fact.COURT_ORDERED}),
    ),
    "preservation": (Authority.LAW_OFFICER, frozenset({Fact.AUTHENTIC})),
    "telemarketing": (Authority.AGENCY_OFFICER, frozenset({Fact.AUTHENTIC, Fact.WRITTEN_REQUEST})),
    "ncmec": (Authority.LAW_OFFICER, frozenset({Fact.REPORT_FILED})),
    "pen_trap": (Authority.JUDGE, frozenset({Fact.AUTHENTIC})),
    "intercept": (Authority.JUDGE, frozenset({Fact.AUTHENTIC})),
}


def served(instrument: str, **change: Any) -> Served:
    """Return a process that lacks nothing, for timing and parties, changed as told."""
    signed_by, attested = _SIGNED[instrument]
    classes = frozenset({"subscriber"} if instrument == "telemarketing" else {"timing", "parties"})
    whole = Served(
        instrument=instrument,
        agency="Example County Police",
        court="District Court of Example County",
        officer="Detective, Badge 1",
        reference="GJ-2026-0001",
        statute="",
        signed_by=signed_by,
        issued=date(2026, 11, 2),
        served_at=SERVED_AT,
        expires=None,
        return_by=None,
        attested=frozenset(attested),
        classes=classes,
        fields=None,
        start_us=START,
        end_us=END,
        zone="America/New_York",
        targets=TARGETS,
    )
    return replace(whole, **change)
