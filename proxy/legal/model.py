"""What a case is: values only. A scope has a digest that binds an approval to it; it is narrowed, never widened.

Times are aware UTC. What is sealed at rest (targets, texts) is ordinary values here; none of it is ever logged.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from proxy.legal.states import Action, Capacity, CaseState
from proxy.legal.targets import Targets, read_targets
from proxy.policy.process import TARGETS_MAX, TargetFacts
from proxy.policy.process import Scope as PolicyScope

WINDOW_MAX_US = (20 * 365 + 5) * 86_400_000_000
"""Twenty years, leap days too."""
CASE_ID = re.compile(r"C-[A-Z2-7]{10}")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CaseError(Exception):
    """Base of what goes wrong with a case; ``says`` is a fixed sentence for the caller."""

    code: ClassVar[str] = "case.malformed"
    """What the log calls it."""

    def __init__(self, says: str) -> None:
        super().__init__(says)
        self.says = says


class NoSuchCase(CaseError):  # noqa: N818
    """There is none, or not for this person."""

    code = "case.none"


class WrongState(CaseError):  # noqa: N818
    """The action is not allowed in the state the case is in."""

    code = "case.state"


class Stale(CaseError):  # noqa: N818
    """The case has moved since the caller last saw it."""

    code = "case.stale"


class Refused(CaseError):  # noqa: N818
    """A rule forbids it.

    Args:
        rule: the rule's code, stable.
        citation: where it stands.
        says: a fixed sentence.
    """

    def __init__(self, rule: str, citation: str, says: str) -> None:
        super().__init__(says)
        self.rule = rule
        self.citation = citation


class Malformed(CaseError):  # noqa: N818
    """What was sent is not of the form asked for; ``parameter`` is the member at fault, one of ours."""

    def __init__(self, parameter: str, says: str) -> None:
        super().__init__(says)
        self.parameter = parameter


def new_case_id() -> str:
    """Return a fresh opaque id: ``C-`` and 50 random bits in base 32."""
    return "C-" + "".join(secrets.choice(_ALPHABET) for _ in range(10))


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked, and once it is validated, may be released: targets × window × fields.

    As asked, classes and fields stand as they were received: an unknown one reaches the check and is refused there.

    Attributes:
        targets: in canonical form.
        start_us: calls set up from then on, microseconds since 1970-01-01 UTC.
        end_us: until before then.
        zone: the IANA name of the zone that the process speaks in.
        classes: disclosure classes, ``content``, ``prospective``.
        fields: the only fields; None: all of the classes (only before the validation).
        refused: places (from 1) in the list as served of what cannot be searched.
        guarded: places of numbers of police, courts, counsel.
        salt: 16 random bytes, which stand in the digest: without them it says nothing of the targets.
    """

    targets: Targets = field(repr=False)
    start_us: int
    end_us: int
    zone: str
    classes: frozenset[str]
    fields: tuple[str, ...] | None
    refused: tuple[int, ...] = ()
    guarded: tuple[int, ...] = ()
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def __post_init__(self) -> None:
        if not 0 <= len(self.targets) <= TARGETS_MAX or (not self.targets and not self.refused):
            raise Malformed("targets", "A case has 1 to 100,000 targets.")
        if self.start_us >= self.end_us:
            raise Malformed("window", "The window has to begin before it ends.")
        if self.end_us - self.start_us > WINDOW_MAX_US:
            raise Malformed("window", "The window is at most twenty years long.")

    @property
    def months(self) -> tuple[int, int]:
        """The first and the last month (yyyymm) of the window: stands in clear, so that no open case's is shredded."""
        first, last = (_EPOCH + timedelta(microseconds=us) for us in (self.start_us, self.end_us - 1))
        return first.year * 100 + first.month, last.year * 100 + last.month

    def canonical(self) -> bytes:
        """Return the scope as canonical JSON: what is sealed, and what the digest is over."""
        parts = {
            "classes": sorted(self.classes),
            "end_us": self.end_us,
            "fields": None if self.fields is None else list(self.fields),
            "guarded": self.guarded,
            "refused": self.refused,
            "salt": self.salt.hex(),
            "start_us": self.start_us,
            "targets": list(self.targets.lines()),
            "v": 1,
            "zone": self.zone,
        }
        return json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @staticmethod
    def read(data: bytes) -> Scope:
        """Return the scope that :meth:`canonical` wrote."""
        value: dict[str, Any] = json.loads(data)
        return Scope(
            read_targets(value["targets"]).targets,
            value["start_us"],
            value["end_us"],
            value["zone"],
            frozenset(value["classes"]),
            None if value["fields"] is None else tuple(value["fields"]),
            tuple(value["refused"]),
            tuple(value["guarded"]),
            bytes.fromhex(value["salt"]),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form: what an approval names."""
        return hashlib.sha256(self.canonical()).digest()

    def facts(self) -> TargetFacts:
        """Return what policy needs to know of the targets."""
        t = self.targets
        return TargetFacts(len(t), t.digest(), t.kinds, self.refused, self.guarded)

    def compelled(self, instrument: str) -> PolicyScope:
        """Return it as policy decides on it, once it is validated."""
        t = self.targets
        kinds = tuple(sorted(t.kinds))
        return PolicyScope(instrument, self.fields or (), self.start_us, self.end_us, t.digest(), len(t), kinds)

    def resalted(self, **change: Any) -> Scope:
        """Return it with changes, and another salt."""
        return replace(self, salt=secrets.token_bytes(16), **change)


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval of one scope: by whom, of what, until when."""

    approval_id: UUID
    case_id: str
    scope_version: int
    digest: bytes
    """Of the scope."""
    kind: str
    """``approval``, ``emergency`` or ``redelivery``."""
    approved_by: str
    approved_at: datetime
    expires_at: datetime
    voided_at: datetime | None = None
    verdict: str | None = None
    """Of an emergency: ``confirmed`` or ``contested`` by another; None: not yet."""
    decided_by: str | None = None
    decided_at: datetime | None = None
    recipient: bytes | None = None
    """Of a redelivery: SHA-256 of the new recipient's key."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case as its row says; nothing sealed."""

    case_id: str
    instrument: str
    key_month: int
    opened_by: str
    opened_at: datetime
    state: CaseState
    version: int
    changed_at: datetime
    scope_version: int
    approval_id: UUID | None
    hold_id: str | None
    """Of what was extracted, or is being extracted, under the approval."""
    production_id: UUID | None
    preservation: str | None
    return_at: datetime | None
    secrecy: str
    """An Authority of proxy/legal/secrecy.py, or ``none``."""
    secret_until: datetime | None
    secrecy_lifted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a case."""

    version: int
    action: Action
    before: CaseState | None
    after: CaseState
    actor: str
    capacity: Capacity
    scope_version: int
    at: datetime
    entry_id: UUID


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a case, without its bytes."""

    document_id: UUID
    kind: str
    length: int
    """Bytes."""
    pages: int
    received_by: str
    received_at: datetime
    sha256: bytes
    findings: tuple[str, ...]
    """What is remarkable about it (``javascript``, ``attachment`` ...); codes of ours."""


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case with what is sealed of it, for those who work on it."""

    case: Case
    scope: Scope | None
    served: Mapping[str, Any]
    """What the instrument says, as JSON (agency, court, officer, dates ...)."""
    approval: Approval | None
    documents: tuple[Document, ...]
    events: tuple[Event, ...]
    findings: tuple[Mapping[str, Any], ...] = ()
    """Of the last validation: rule, citation, what to do."""
