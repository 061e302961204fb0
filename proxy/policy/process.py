"""Legal process as values: what was served, what it was found to compel, and why not more. All frozen, all pure.

Texts stand as they were received (an instrument, a class, a fact that nobody knows reaches the check and is refused
there). Days are calendar days of the zone that the process names; moments are aware, or microseconds since 1970-01-01
UTC; every window is half-open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from proxy.policy.extraction import TARGETS_MAX as TARGETS_MAX
from proxy.policy.model import Deny
from schema.fields import FIELDS, LegalClass


class RecordClass(StrEnum):
    """What process distinguishes: the classes of a field (schema/fields.py) and two of which nothing is stored."""

    BASIC = LegalClass.BASIC.value
    OTHER = LegalClass.OTHER.value
    LOCATION = LegalClass.LOCATION.value
    CONTENT = "C"
    PROSPECTIVE = "P"


class Reach(StrEnum):
    """What an instrument does with a record class."""

    DISCLOSE = "disclose"
    FREEZE = "freeze"  # kept as it is, shown to nobody
    NOT_HELD = "not held"  # it would reach, and there is nothing of it here
    NEVER = "never"


class Authority(StrEnum):
    """Who signed; ``AUTHORITY_MEANS`` says who that is."""

    JUDGE = "judge"
    CLERK = "clerk"
    GRAND_JURY = "grand_jury"
    PROSECUTOR = "prosecutor"
    AGENCY_OFFICER = "agency_officer"
    LAW_OFFICER = "law_officer"
    FBI_DIRECTOR = "fbi_director"
    FBI_HEADQUARTERS = "fbi_headquarters"
    FBI_SAC = "fbi_sac"
    FBI_OTHER = "fbi_other"
    ATTORNEY = "attorney"
    CUSTOMER = "customer"


AUTHORITY_MEANS: Final[Mapping[Authority, str]] = MappingProxyType(
    {
        Authority.JUDGE: "a judge or magistrate of a court of competent jurisdiction",
        Authority.CLERK: "the clerk of a court, or its seal",
        Authority.GRAND_JURY: "a grand jury",
        Authority.PROSECUTOR: "an attorney for the government",
        Authority.AGENCY_OFFICER: "an officer to whom a statute gives the power of subpoena",
        Authority.LAW_OFFICER: "any other officer of a governmental entity",
        Authority.FBI_DIRECTOR: "the Director of the FBI",
        Authority.FBI_HEADQUARTERS: "a designee at FBI headquarters, Deputy Assistant Director or above",
        Authority.FBI_SAC: "a designated Special Agent in Charge of an FBI field office",
        Authority.FBI_OTHER: "anybody else of the FBI",
        Authority.ATTORNEY: "an attorney of a private party",
        Authority.CUSTOMER: "the customer",
    }
)


class Fact(StrEnum):
    """What the handler attests of the process after reading it; ``FACT_MEANS`` says what that is."""

    AUTHENTIC = "authentic"
    ARTICULABLE_FACTS = "articulable_facts"
    PROBABLE_CAUSE = "probable_cause"
    CERTIFIED_RELEVANT = "certified_relevant"
    REVIEW_NOTICE = "review_notice"
    NONDISCLOSURE_CERTIFIED = "nondisclosure_certified"
    CUSTOMER_SIGNED = "customer_signed"
    IDENTITY_VERIFIED = "identity_verified"
    RECIPIENT_NAMED = "recipient_named"
    LOCATION_AUTHORISED = "location_authorised"
    COURT_ORDERED = "court_ordered"
    DANGER = "danger"
    NO_DELAY = "no_delay"
    GOOD_FAITH = "good_faith"
    COUNSEL_REVIEWED = "counsel_reviewed"
    CUSTOMER_NOTIFIED = "customer_notified"
    WRITTEN_REQUEST = "written_request"
    REPORT_FILED = "report_filed"


FACT_MEANS: Final[Mapping[Fact, str]] = MappingProxyType(
    {
        Fact.AUTHENTIC: "the issuer was called back at a number found elsewhere than in the process, and confirmed it",
        Fact.ARTICULABLE_FACTS: "the order finds specific and articulable facts that the records are relevant and"
        " material to an ongoing criminal investigation, 18 U.S.C. 2703(d)",
        Fact.PROBABLE_CAUSE: "the warrant was issued on probable cause",
        Fact.CERTIFIED_RELEVANT: "the letter bears the written certification of 18 U.S.C. 2709(b)(1)",
        Fact.REVIEW_NOTICE: "the letter tells of judicial review, 18 U.S.C. 2709(d)(2)",
        Fact.NONDISCLOSURE_CERTIFIED: "the letter bears the certification of 18 U.S.C. 2709(c)(1)(B)",
        Fact.CUSTOMER_SIGNED: "the customer's request is in writing and signed",
        Fact.IDENTITY_VERIFIED: "the customer was authenticated as 47 CFR 64.2010 says",
        Fact.RECIPIENT_NAMED: "the customer names who is to receive the records",
        Fact.LOCATION_AUTHORISED: "the customer expressly authorised call location beforehand, 47 U.S.C. 222(f)(1)",
        Fact.COURT_ORDERED: "a judge, not only a party, orders this part",
        Fact.DANGER: "the request states danger of death or serious physical injury to a person",
        Fact.NO_DELAY: "and that it requires disclosure without delay",
        Fact.GOOD_FAITH: "the handler believes both in good faith, and has put the reasons on record",
        Fact.COUNSEL_REVIEWED: "counsel found that the law requires this disclosure",
        Fact.CUSTOMER_NOTIFIED: "the customer was told in time to object, or counsel found that no notice is due",
        Fact.WRITTEN_REQUEST: "the request is formal, in writing, and about telemarketing fraud",
        Fact.REPORT_FILED: "the report was submitted to the CyberTipline, 18 U.S.C. 2258A",
    }
)


@dataclass(frozen=True, slots=True)
class LegalRule:
    """Why something of a process is refused, or told: one place for each, with its citation and what to do."""

    code: str
    citation: str
    effective: date
    says: str
    do: str
    """What whoever served the process, or the desk, can do about it."""
    house: bool = False
    """Our choice where the text leaves it open; the citation names the duty it serves."""

    def deny(self) -> Deny:
        """Return the refusal this rule makes."""
        return Deny(self.code, self.citation, f"{self.says} {self.do}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a process meets, and where: a class, a field, or the places of targets (from 1), never a number."""

    rule: LegalRule
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What policy needs to know of the targets: never the targets themselves."""

    count: int
    digest: str
    """SHA-256 of the canonical list, in hexadecimal, salted or sealed (``Targets.digest`` says why)."""
    kinds: frozenset[str]
    """``number``, ``account``, ``trunk``, ``imsi``: those there are."""
    refused: tuple[int, ...] = ()
    """Places (from 1) in the list as served of what cannot be searched."""
    guarded: tuple[int, ...] = ()
    """Places of numbers of police, courts, counsel: to be looked at before anything is done."""


@dataclass(frozen=True, slots=True)
class Served:
    """The process as served, as the handler read it."""

    instrument: str
    agency: str
    """Who asks: agency, party, or the customer."""
    court: str
    officer: str
    """Name and title of who signed or is answerable."""
    reference: str
    """Docket, grand jury or agency number."""
    statute: str
    """The authority named in the process, where it is not a court's."""
    signed_by: str
    issued: date
    served_at: datetime
    expires: date | None
    """Last day on which it may be executed, where it says one."""
    return_by: date | None
    attested: frozenset[str]
    classes: frozenset[str]
    """Disclosure classes asked for (schema/fields.py), ``content``, ``prospective``."""
    fields: tuple[str, ...] | None
    """The only fields asked for; None: all that the classes have."""
    start_us: int
    end_us: int
    zone: str
    """IANA name of the zone its days are counted in."""
    targets: TargetFacts
    certification: frozenset[str] = frozenset()
    """``902(11)``, ``902(13)``, ``902(14)``."""
    nondisclosure: bool = False
    country: str = "US"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a case may reach, fixed at validation: it can be narrowed, never widened. An approval names its digest."""

    instrument: str
    fields: tuple[str, ...]
    """In canonical order."""
    start_us: int
    end_us: int
    targets_digest: str
    targets: int
    target_kinds: tuple[str, ...]
    """Sorted."""

    def canonical(self) -> bytes:
        """Return the scope as bytes: JSON, keys sorted, no blanks."""
        parts = {
            "end_us": self.end_us,
            "fields": self.fields,
            "instrument": self.instrument,
            "start_us": self.start_us,
            "target_kinds": self.target_kinds,
            "targets": self.targets,
            "targets_digest": self.targets_digest,
        }
        return json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()


@dataclass(frozen=True, slots=True)
class Validated:
    """The process compels (or allows) all that it asks for."""

    scope: Scope
    basis: str
    """Citation."""
    withheld: tuple[Finding, ...]
    """Fields of classes asked for that it does not reach: left out, and told in the acknowledgement."""
    notes: tuple[Finding, ...]
    """What approver and handler must have seen: guarded targets, an unusually wide window, a cut last day."""


@dataclass(frozen=True, slots=True)
class Deficient:
    """The process does not compel what it asks for. The letter names every finding."""

    findings: tuple[Finding, ...]
    within: Scope | None
    """What it would reach once it is narrowed; None where nothing, or where a requirement fails."""
    notes: tuple[Finding, ...]


Validation: TypeAlias = Validated | Deficient

ORDER = {f.name: place for place, f in enumerate(FIELDS)}
"""Canonical order of fields."""
