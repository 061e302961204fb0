"""The decision to open records for legal process: ``decide_legal(action, holding, now_us)`` gives LegalPermit or Deny.

It is made anew at each extraction from what stands then, and leans on nothing that the check before it found: the scope
is held against the instrument again, the approval against the scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final, TypeAlias

from proxy.policy import legalrules as r
from proxy.policy.extraction import TARGETS_MAX
from proxy.policy.instruments import INSTRUMENTS, REFERRED, Instrument
from proxy.policy.model import Deny, Purpose
from proxy.policy.process import LegalRule, Reach, Scope
from proxy.policy.validation import canonical
from schema.fields import BY_NAME, FIELDS, DisclosureClass, TagDomain

EMERGENCY_CONFIRM_US: Final = 48 * 3600 * 1_000_000
"""How long an emergency disclosure stands on one person's act."""

PROVENANCE: Final = ("record_id", "ingest_id", "line_number")
"""Opened for the certificate (Fed. R. Evid. 902(11), 902(14)) beside every record; no part of what is compelled."""
PLACING: Final = ("record_id", "started_at")
"""Opened to name a record and to place it in the window, whether or not they are disclosed."""

MATCHED: Final[dict[str, tuple[str, ...]]] = {
    "number": tuple(f.name for f in FIELDS if f.tag is TagDomain.NUMBER),
    "account": tuple(f.name for f in FIELDS if f.tag is TagDomain.ACCOUNT),
    "trunk": tuple(f.name for f in FIELDS if f.tag is TagDomain.TRUNK),
    "imsi": tuple(f.name for f in FIELDS if f.tag is TagDomain.IMSI),
}
"""Fields that a target of each kind is compared with, exactly, after opening."""

SUBJECT_CLASSES: Final = frozenset({DisclosureClass.SUBSCRIBER, DisclosureClass.DEVICE, DisclosureClass.LOCATION})
SUBJECT_MATCH: Final = ("calling", "charge_number", "account", "imsi")
"""Whose record it is: what these classes say of a person they say of who placed and pays for the call. In a record that
a target only received, they tell of somebody whom the process does not name."""


class LegalAction(StrEnum):
    """What is done with the records found."""

    EXTRACT = "extract"  # for a production
    PRESERVE = "preserve"  # frozen, shown to nobody


@dataclass(frozen=True, slots=True)
class Approval:
    """A second person's consent to one exact scope."""

    approver: str
    scope_digest: str
    approved_us: int
    expires_us: int
    fit: bool
    """The approver now holds the role, is not suspended, and is trained."""


@dataclass(frozen=True, slots=True)
class LegalHolding:
    """A case as it stands at the moment of the decision."""

    case_id: str
    instrument: str
    scope: Scope | None
    """As validated (and narrowed since); None: not validated."""
    handler: str
    """Staff id of who acts."""
    fit: bool
    """The handler now holds the role, is not suspended, and is trained."""
    handlers: frozenset[str]
    """Everyone who has handled the case: none of them can be its approver."""
    approval: Approval | None = None
    acted_us: int | None = None
    """Emergency: when the first act of one person was taken; None: none yet."""
    contested: bool = False
    """Emergency: the second person contested it."""
    closed: bool = False


@dataclass(frozen=True, slots=True)
class LegalPermit:
    """Records that may be opened for a case, and all that may come of them."""

    purpose: Purpose
    action: LegalAction
    basis: str
    """The citation that compels it."""
    case_id: str
    instrument: str
    fields: tuple[str, ...]
    """All that may be disclosed (or, preserving, kept), in canonical order."""
    subject_fields: tuple[str, ...]
    """Those of ``fields`` that are given only of records in which a target stands in ``subject_match``; null in others.
    Preserving: none (what is shown to nobody is kept whole)."""
    subject_match: tuple[str, ...]
    match_fields: tuple[str, ...]
    """Opened to compare with the targets exactly, and to place a record in the window; disclosed only if in ``fields``.
    A record is ``its own`` where a target stands in a field of both ``match_fields`` and ``subject_match``."""
    provenance: tuple[str, ...]
    """Opened for the certificate and held beside the records."""
    classes: frozenset[DisclosureClass]
    """Classes of all of these: nothing else may be selected or decrypted."""
    start_us: int
    end_us: int
    targets_digest: str
    targets: int
    target_kinds: tuple[str, ...]
    scope_digest: str
    discloses: bool


LegalDecision: TypeAlias = LegalPermit | Deny


def _rule(code: str, citation: str, effective: date, says: str, do: str) -> LegalRule:
    return LegalRule(code, citation, effective, says, do, house=True)


_DUTY: Final = "47 U.S.C. 222(a)"

CASE_NONE = _rule(
    "case.none", "47 U.S.C. 222(c)(1)", r.ACT_1996, "No case is named.", "Records are opened for a case only."
)
CASE_CLOSED = _rule("case.closed", _DUTY, r.ACT_1996, "The case is closed.", "Open a case for the new process.")
ACTION_UNKNOWN = _rule(
    "case.action",
    "47 U.S.C. 222(c)(1)",
    r.ACT_1996,
    "This cannot be done with records of a case.",
    "Extract or preserve.",
)
SCOPE_NONE = _rule(
    "scope.none", "47 U.S.C. 222(c)(1)", r.ACT_1996, "The process has not been validated.", "Validate it first."
)
SCOPE_BEYOND = _rule(
    "scope.beyond",
    "47 U.S.C. 222(c)(1); 18 U.S.C. 2703(c)",
    r.ECPA,
    "The scope reaches beyond what the instrument compels.",
    "Validate the process again.",
)
HANDLER_UNFIT = _rule(
    "handler.unfit",
    "47 CFR 64.2009(b)",
    r.CPNI_2007,
    "Who acts is suspended, not trained, or no legal handler.",
    "Have a trained handler act.",
)
APPROVAL_ABSENT = _rule(
    "approval.absent", _DUTY, r.ACT_1996, "Nobody has approved the scope.", "Have a legal approver look at it."
)
APPROVAL_OWN = _rule(
    "approval.own", _DUTY, r.ACT_1996, "Who handles a case cannot approve it.", "Have another person approve it."
)
APPROVAL_OTHER_SCOPE = _rule(
    "approval.other_scope",
    _DUTY,
    r.ACT_1996,
    "The approval is for another scope than the case now has.",
    "Have the present scope approved.",
)
APPROVAL_EXPIRED = _rule("approval.expired", _DUTY, r.ACT_1996, "The approval has expired.", "Have it approved again.")
APPROVAL_UNFIT = _rule(
    "approval.unfit",
    "47 CFR 64.2009(b)",
    r.CPNI_2007,
    "Who approved is suspended, not trained, or no legal approver any more.",
    "Have another person approve it.",
)
EMERGENCY_CONTESTED = _rule(
    "emergency.contested",
    "18 U.S.C. 2702(c)(4)",
    r.EMERGENCY_2006,
    "The second person contested the emergency.",
    "Nothing further is disclosed on it; wait for process.",
)
EMERGENCY_UNCONFIRMED = _rule(
    "emergency.unconfirmed",
    "18 U.S.C. 2702(c)(4)",
    r.EMERGENCY_2006,
    "Nobody confirmed the emergency within 48 hours.",
    "Have a legal approver confirm or contest it.",
)

DECISION_RULES: Final = tuple(value for value in list(globals().values()) if isinstance(value, LegalRule))
"""Every reason this decision can give."""


def decide_legal(action: str, holding: LegalHolding, now_us: int) -> LegalDecision:
    """Decide whether the records of a case's scope may be opened now.

    Args:
        action: ``extract`` or ``preserve``.
        holding: the case as it stands.
        now_us: the time of the decision, microseconds UTC.
    """
    if action not in set(LegalAction):
        return ACTION_UNKNOWN.deny()
    if not holding.case_id:
        return CASE_NONE.deny()
    if holding.closed:
        return CASE_CLOSED.deny()
    instrument = INSTRUMENTS.get(holding.instrument)
    if instrument is None or instrument.id in REFERRED:
        return r.INSTRUMENT_UNKNOWN.deny()
    if instrument.discloses != (action == LegalAction.EXTRACT):
        return ACTION_UNKNOWN.deny()
    scope = holding.scope
    if scope is None:
        return SCOPE_NONE.deny()
    if not _compelled(scope, instrument):
        return SCOPE_BEYOND.deny()
    if not holding.fit or not holding.handler:
        return HANDLER_UNFIT.deny()
    refusal = _approved(holding, scope, instrument, now_us)
    return refusal if refusal is not None else _permit(LegalAction(action), holding, scope, instrument)


def _compelled(scope: Scope, instrument: Instrument) -> bool:
    return (
        scope.instrument == instrument.id
        and scope.start_us < scope.end_us
        and 1 <= scope.targets <= TARGETS_MAX
        and bool(scope.target_kinds)
        and set(scope.target_kinds) <= set(MATCHED)
        and bool(scope.fields)
        and scope.fields == canonical(scope.fields)
        and all(instrument.reach(f) in (Reach.DISCLOSE, Reach.FREEZE) for f in scope.fields)
    )


def _approved(holding: LegalHolding, scope: Scope, instrument: Instrument, now_us: int) -> Deny | None:
    approval = holding.approval
    if not instrument.discloses:
        return None  # shown to nobody, so one person's act
    if instrument.one_person:
        if holding.contested:
            return EMERGENCY_CONTESTED.deny()
        if approval is None:
            late = holding.acted_us is not None and now_us - holding.acted_us >= EMERGENCY_CONFIRM_US
            return EMERGENCY_UNCONFIRMED.deny() if late else None
    if approval is None:
        return APPROVAL_ABSENT.deny()
    if not approval.approver or approval.approver == holding.handler or approval.approver in holding.handlers:
        return APPROVAL_OWN.deny()
    if approval.scope_digest != scope.digest():
        return APPROVAL_OTHER_SCOPE.deny()
    if not approval.approved_us <= now_us < approval.expires_us:
        return APPROVAL_EXPIRED.deny()
    return None if approval.fit else APPROVAL_UNFIT.deny()


def _permit(action: LegalAction, holding: LegalHolding, scope: Scope, instrument: Instrument) -> LegalPermit:
    match = canonical({*PLACING, *(name for kind in scope.target_kinds for name in MATCHED[kind])})
    own = tuple(f for f in scope.fields if BY_NAME[f].disclosure_class in SUBJECT_CLASSES)
    opened = {*scope.fields, *match, *PROVENANCE}
    discloses = action is LegalAction.EXTRACT
    return LegalPermit(
        Purpose.LEGAL,
        action,
        instrument.citation,
        holding.case_id,
        instrument.id,
        scope.fields,
        own if discloses else (),
        SUBJECT_MATCH,
        match,
        PROVENANCE,
        frozenset(BY_NAME[f].disclosure_class for f in opened),
        scope.start_us,
        scope.end_us,
        scope.targets_digest,
        scope.targets,
        scope.target_kinds,
        scope.digest(),
        discloses,
    )
