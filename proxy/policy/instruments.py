"""Instruments of legal process as data: what each compels, what it must have, and what it can never reach.

One row per instrument, one cell per record class (``RecordClass``: basic, other, location, content, prospective); which
field belongs to which class stands in schema/fields.py. An instrument, class or field that is not in these tables
reaches nothing. The values are in proxy/policy/process.py, the rules in legalrules.py, ``check`` in validation.py, the
decision to open records in legal.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Final

from proxy.policy import legalrules as r
from proxy.policy.process import Authority, Fact, LegalRule, Reach, RecordClass
from schema.fields import BY_NAME, FIELDS

_B, _O, _L, _C, _P = RecordClass


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a process must have: met if any one of the named things is there.

    ``stated`` are names of texts of ``Served`` that must not be empty; ``signed_by`` who may have signed; ``facts``
    what may have been attested.
    """

    rule: LegalRule
    stated: tuple[str, ...] = ()
    signed_by: frozenset[Authority] = frozenset()
    facts: frozenset[Fact] = frozenset()
    if_signed: frozenset[Authority] = frozenset()
    """Only where one of these signed; empty: always."""
    if_secret: bool = False
    """Only where the process forbids to tell of it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What an instrument does with one record class; ``rule`` says why it does not reach it."""

    reach: Reach
    rule: LegalRule | None = None
    requires: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Instrument:
    """One kind of legal process."""

    id: str
    name: str
    citation: str
    effective: date
    cells: Mapping[RecordClass, Cell]
    requires: tuple[Requirement, ...]
    only: frozenset[str] | None = None
    """Fields to which the text itself narrows; None: all of the classes."""
    only_rule: LegalRule | None = None
    serve_within: timedelta | None = None
    serve_rule: LegalRule | None = None
    answer_days: int | None = None
    """Business days in which we answer where the process sets no day: our choice."""
    objection_days: int | None = None
    """Calendar days after service in which an objection must be served (Fed. R. Civ. P. 45(d)(2)(B))."""
    one_person: bool = False
    """One member of the desk may act at once; a second confirms or contests afterwards."""
    discloses: bool = True
    """False: records are frozen and shown to nobody."""

    def reach(self, field: str) -> Reach:
        """Return what is done with a field. An unknown field is never reached."""
        known = BY_NAME.get(field)
        if known is None or (self.only is not None and field not in self.only):
            return Reach.NEVER
        return self.cells[RecordClass(known.legal.value)].reach

    def fields(self) -> tuple[str, ...]:
        """Return every field that it reaches, in canonical order."""
        return tuple(f.name for f in FIELDS if self.reach(f.name) in (Reach.DISCLOSE, Reach.FREEZE))

    def why_not(self, field: str) -> LegalRule:
        """Return the rule for which a field is not reached."""
        known = BY_NAME.get(field)
        if known is None:
            return r.FIELD_UNKNOWN
        cell = self.cells[RecordClass(known.legal.value)]
        if cell.reach is Reach.NEVER and cell.rule is not None:
            return cell.rule
        return self.only_rule or r.FIELD_UNKNOWN


def _never(rule: LegalRule) -> Cell:
    return Cell(Reach.NEVER, rule)


def _cells(basic: Cell, other: Cell, location: Cell, content: Cell) -> Mapping[RecordClass, Cell]:
    prospective = _never(r.PROSPECTIVE)  # no instrument answered from stored records reaches what is yet to come
    return MappingProxyType({_B: basic, _O: other, _L: location, _C: content, _P: prospective})


_YES = Cell(Reach.DISCLOSE)
_FREEZE = Cell(Reach.FREEZE)
_NO_CONTENT = _never(r.CONTENT_WARRANT)
_NONE_HELD = Cell(Reach.NOT_HELD, r.CONTENT_NOT_HELD)
_REFER = _never(r.REFERRED_REACH)

_ISSUER = Requirement(r.AGENCY, stated=("agency", "court"))
_NAMED = Requirement(r.OFFICER, stated=("officer",))
_NUMBERED = Requirement(r.REFERENCE, stated=("reference",))
_COURT = Requirement(r.COURT, stated=("court",))
_CALLED_BACK = Requirement(r.AUTHENTIC, facts=frozenset({Fact.AUTHENTIC}))
_JUDGE = Requirement(r.SIGNED_JUDGE, signed_by=frozenset({Authority.JUDGE}))
_GOVERNMENT = frozenset(
    {
        Authority.JUDGE,
        Authority.PROSECUTOR,
        Authority.AGENCY_OFFICER,
        Authority.LAW_OFFICER,
        Authority.FBI_DIRECTOR,
        Authority.FBI_HEADQUARTERS,
        Authority.FBI_SAC,
        Authority.FBI_OTHER,
    }
)
_OFFICIAL = Requirement(r.SIGNED_OFFICIAL, signed_by=_GOVERNMENT)
_COMMON = (_ISSUER, _NAMED, _NUMBERED, _CALLED_BACK)


def _attested(rule: LegalRule, *facts: Fact) -> Requirement:
    return Requirement(rule, facts=frozenset(facts))


_TOLL_RECORD: Final = frozenset(
    {
        "record_id",
        "started_at",
        "answered_at",
        "ended_at",
        "duration_ms",
        "disposition",
        "calling",
        "called",
        "dialed",
        "charge_number",
        "redirecting",
    }
)
"""What 47 CFR 42.6 calls a toll record (number of caller and called, date, time, length), and who was charged."""
_NAME_AND_ADDRESS: Final = frozenset({"name", "address_of_record"})

_ROWS: Final = (
    Instrument(
        "subpoena",
        "Government subpoena (administrative, grand jury, trial)",
        "18 U.S.C. 2703(c)(2)",
        r.PATRIOT,
        _cells(_YES, _never(r.BASIC_ONLY), _never(r.LOCATION_WARRANT), _NO_CONTENT),
        (
            *_COMMON,
            Requirement(
                r.SIGNED_SUBPOENA,
                signed_by=frozenset(
                    {
                        Authority.JUDGE,
                        Authority.CLERK,
                        Authority.GRAND_JURY,
                        Authority.PROSECUTOR,
                        Authority.AGENCY_OFFICER,
                    }
                ),
            ),
            Requirement(
                r.STATUTE,
                stated=("statute",),
                if_signed=frozenset({Authority.AGENCY_OFFICER}),
            ),
        ),
        answer_days=10,
    ),
    Instrument(
        "court_order",
        "Court order on specific and articulable facts",
        "18 U.S.C. 2703(d)",
        r.CALEA,
        _cells(_YES, _YES, _never(r.LOCATION_WARRANT), _NO_CONTENT),
        (*_COMMON, _COURT, _JUDGE, _attested(r.ARTICULABLE, Fact.ARTICULABLE_FACTS)),
        answer_days=10,
    ),
    Instrument(
        "warrant",
        "Search warrant",
        "18 U.S.C. 2703(c)(1)(A); Fed. R. Crim. P. 41",
        r.ECPA,
        _cells(_YES, _YES, _YES, _NONE_HELD),
        (*_COMMON, _COURT, _JUDGE, _attested(r.PROBABLE, Fact.PROBABLE_CAUSE)),
        serve_within=timedelta(days=14),
        serve_rule=r.WARRANT_STALE,
        answer_days=10,
    ),
    Instrument(
        "nsl",
        "National security letter",
        "18 U.S.C. 2709",
        r.PATRIOT,
        _cells(_YES, _never(r.NSL_LIST), _never(r.NSL_LIST), _NO_CONTENT),
        (
            *_COMMON,
            Requirement(
                r.SIGNED_FBI,
                signed_by=frozenset({Authority.FBI_DIRECTOR, Authority.FBI_HEADQUARTERS, Authority.FBI_SAC}),
            ),
            _attested(r.CERTIFIED, Fact.CERTIFIED_RELEVANT),
            _attested(r.REVIEW_NOTICE, Fact.REVIEW_NOTICE),
            Requirement(r.NONDISCLOSURE_CERTIFIED, facts=frozenset({Fact.NONDISCLOSURE_CERTIFIED}), if_secret=True),
        ),
        only=_TOLL_RECORD | _NAME_AND_ADDRESS,
        only_rule=r.NSL_LIST,
        answer_days=10,
    ),
    Instrument(
        "consent",
        "Customer's consent or written request",
        "47 U.S.C. 222(c)(2); 18 U.S.C. 2702(c)(2), 2703(c)(1)(C)",
        r.ACT_1996,
        _cells(
            _YES,
            _YES,
            Cell(Reach.DISCLOSE, requires=(_attested(r.LOCATION_CONSENT, Fact.LOCATION_AUTHORISED),)),
            _NO_CONTENT,
        ),
        (
            _ISSUER,
            _NAMED,
            Requirement(r.SIGNED_CUSTOMER, signed_by=frozenset({Authority.CUSTOMER})),
            _attested(r.CUSTOMER_WRITTEN, Fact.CUSTOMER_SIGNED),
            _attested(r.IDENTITY, Fact.IDENTITY_VERIFIED),
            _attested(r.RECIPIENT, Fact.RECIPIENT_NAMED),
        ),
        answer_days=10,
    ),
    Instrument(
        "emergency",
        "Emergency disclosure to a governmental entity",
        "18 U.S.C. 2702(c)(4)",
        r.EMERGENCY_2006,
        _cells(_YES, _YES, _YES, _NONE_HELD),
        (
            _ISSUER,
            _NAMED,
            _CALLED_BACK,
            _OFFICIAL,
            _attested(r.DANGER, Fact.DANGER),
            _attested(r.NO_DELAY, Fact.NO_DELAY),
            _attested(r.GOOD_FAITH, Fact.GOOD_FAITH),
        ),
        answer_days=0,
        one_person=True,
    ),
    Instrument(
        "civil_subpoena",
        "Civil subpoena, private party",
        "47 U.S.C. 222(c)(1); 18 U.S.C. 2702(c)(6)",
        r.PATRIOT,
        _cells(
            _YES,
            _YES,
            Cell(
                Reach.DISCLOSE,
                requires=(_attested(r.LOCATION_CIVIL, Fact.LOCATION_AUTHORISED, Fact.COURT_ORDERED),),
            ),
            _NO_CONTENT,
        ),
        (
            *_COMMON,
            Requirement(r.COURT_CIVIL, stated=("court",)),
            Requirement(r.SIGNED_CIVIL, signed_by=frozenset({Authority.JUDGE, Authority.CLERK, Authority.ATTORNEY})),
            _attested(r.COUNSEL, Fact.COUNSEL_REVIEWED),
            _attested(r.NOTIFIED, Fact.CUSTOMER_NOTIFIED),
        ),
        answer_days=10,
        objection_days=14,
    ),
    Instrument(
        "preservation",
        "Preservation request",
        "18 U.S.C. 2703(f)",
        r.AEDPA,
        _cells(_FREEZE, _FREEZE, _FREEZE, Cell(Reach.FREEZE, r.CONTENT_NOT_HELD)),
        (*_COMMON, _OFFICIAL),
        answer_days=1,
        one_person=True,
        discloses=False,
    ),
    Instrument(
        "telemarketing",
        "Written request about telemarketing fraud",
        "18 U.S.C. 2703(c)(1)(D)",
        r.TELEMARKETING_1998,
        _cells(_YES, _never(r.NAME_AND_ADDRESS), _never(r.NAME_AND_ADDRESS), _NO_CONTENT),
        (*_COMMON, _OFFICIAL, _attested(r.FRAUD_REQUEST, Fact.WRITTEN_REQUEST)),
        only=_NAME_AND_ADDRESS,
        only_rule=r.NAME_AND_ADDRESS,
        answer_days=10,
    ),
    Instrument(
        "ncmec",
        "Report to the National Center for Missing and Exploited Children",
        "18 U.S.C. 2702(c)(5)",
        r.PROTECT_2008,
        _cells(_YES, _never(r.NCMEC_REPORT), _never(r.NCMEC_REPORT), _NO_CONTENT),
        (_ISSUER, _NAMED, _NUMBERED, _attested(r.REPORT, Fact.REPORT_FILED)),
        answer_days=1,
    ),
    Instrument(
        "pen_trap",
        "Pen register, trap and trace order",
        "18 U.S.C. 3123",
        r.ECPA,
        _cells(_REFER, _REFER, _REFER, _REFER),
        (),
        discloses=False,
    ),
    Instrument(
        "intercept",
        "Interception order",
        "18 U.S.C. 2518",
        r.ECPA,
        _cells(_REFER, _REFER, _REFER, _REFER),
        (),
        discloses=False,
    ),
)

INSTRUMENTS: Final[Mapping[str, Instrument]] = MappingProxyType({row.id: row for row in _ROWS})
"""Every instrument by its id. One that is not here compels nothing."""

REFERRED: Final = frozenset({"pen_trap", "intercept"})
"""Known, and not ours to answer."""
