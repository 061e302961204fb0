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
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from proxy.legal.states import Action, Capacity, CaseState
from schema.fields import BY_NAME, FIELDS, DisclosureClass

TARGETS_MAX = 100_000
WINDOW_MAX_DAYS = 20 * 366
"""Twenty years."""
CASE_ID = re.compile(r"C-[A-Z2-7]{10}")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class CaseError(Exception):
    """Base of what goes wrong with a case; ``says`` is a fixed sentence for the caller."""

    def __init__(self, says: str) -> None:
        super().__init__(says)
        self.says = says


class NoSuchCase(CaseError):  # noqa: N818
    """There is none, or not for this person."""


class WrongState(CaseError):  # noqa: N818
    """The action is not allowed in the state the case is in."""


class Stale(CaseError):  # noqa: N818
    """The case has moved since the caller last saw it."""


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


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Whom or what is asked about, in canonical form (proxy/legal/targets.py reads what people write).

    ``kind``: ``number`` (E.164 with +), ``account``, ``trunk``, ``imsi``.
    """

    kind: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked, and may be released: targets × window × classes, narrowed field by field.

    Attributes:
        targets: sorted, without doubles, 1 to 100,000.
        start: calls set up from then on, aware UTC.
        end: until before then.
        zone: the IANA name of the zone that the instrument speaks in; for what people read.
        classes: disclosure classes.
        fields: names of the only fields, in canonical order; each of a class above.
        salt: 16 random bytes, which stand in the digest: without them it says nothing of the targets.
    """

    targets: tuple[Target, ...]
    start: datetime
    end: datetime
    zone: str
    classes: frozenset[DisclosureClass]
    fields: tuple[str, ...]
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.targets) <= TARGETS_MAX:
            raise Malformed("targets", "A case has 1 to 100,000 targets.")
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise Malformed("window", "The window begins before it ends; both are times with an offset.")
        if (self.end - self.start).days > WINDOW_MAX_DAYS:
            raise Malformed("window", "The window is at most twenty years long.")
        if not self.fields or any(name not in BY_NAME for name in self.fields):
            raise Malformed("fields", "Fields are those of the record, and at least one.")
        if any(BY_NAME[name].disclosure_class not in self.classes for name in self.fields):
            raise Malformed("fields", "A field is of one of the classes asked for.")

    @staticmethod
    def of(
        targets: tuple[Target, ...],
        start: datetime,
        end: datetime,
        zone: str,
        classes: frozenset[DisclosureClass],
        fields: tuple[str, ...] | None = None,
    ) -> Scope:
        """Return a scope in canonical form; without ``fields``, all of the classes.

        Raises:
            Malformed: naming the member at fault.
        """
        wanted = None if fields is None else frozenset(fields)
        if wanted is not None and not wanted <= BY_NAME.keys():
            raise Malformed("fields", "Fields are those of the record, and at least one.")
        return Scope(
            tuple(sorted(set(targets))),
            start,
            end,
            zone,
            classes,
            tuple(f.name for f in FIELDS if f.disclosure_class in classes and (wanted is None or f.name in wanted)),
        )

    def canonical(self) -> bytes:
        """Return the scope as canonical JSON: what is sealed, and what the digest is over."""
        return json.dumps(
            {
                "classes": sorted(self.classes),
                "fields": list(self.fields),
                "from": _time(self.start),
                "salt": self.salt.hex(),
                "targets": [[t.kind, t.value] for t in self.targets],
                "to": _time(self.end),
                "v": 1,
                "zone": self.zone,
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
        ).encode()

    @staticmethod
    def read(data: bytes) -> Scope:
        """Return the scope that :meth:`canonical` wrote."""
        value: dict[str, Any] = json.loads(data)
        return Scope(
            tuple(Target(kind, text) for kind, text in value["targets"]),
            datetime.fromisoformat(value["from"]),
            datetime.fromisoformat(value["to"]),
            value["zone"],
            frozenset(map(DisclosureClass, value["classes"])),
            tuple(value["fields"]),
            bytes.fromhex(value["salt"]),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form: what an approval names."""
        return hashlib.sha256(self.canonical()).digest()


def narrowed(scope: Scope, wanted: Scope) -> Scope:
    """Return ``wanted`` with a salt of its own, where it asks for nothing that ``scope`` does not, and for less.

    Raises:
        Refused: where it would widen anything, or change nothing.
    """
    inside = (
        set(wanted.targets) <= set(scope.targets)
        and scope.start <= wanted.start
        and wanted.end <= scope.end
        and wanted.classes <= scope.classes
        and set(wanted.fields) <= set(scope.fields)
    )
    if not inside:
        raise Refused(
            "scope.widened", "18 U.S.C. 2702(a)(3)", "A scope is narrowed, never widened: a new instrument is needed."
        )
    same = replace(wanted, salt=scope.salt)
    if same.canonical() == replace(scope, zone=wanted.zone).canonical():
        raise Refused("scope.unchanged", "18 U.S.C. 2702(a)(3)", "This changes nothing of the scope.")
    return replace(wanted, salt=secrets.token_bytes(16))


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval of one scope: by whom, of what, until when."""

    approval_id: UUID
    case_id: str
    scope_version: int
    digest: bytes
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
    extraction_id: UUID | None
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


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
