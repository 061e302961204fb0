"""Instrument by record class, every cell; and field by field, what each instrument reaches."""

from __future__ import annotations

from datetime import date

import pytest

from proxy.policy import legalrules
from proxy.policy.instruments import INSTRUMENTS, REFERRED
from proxy.policy.process import Deficient, Finding, Reach, RecordClass, Validated
from proxy.policy.rules import BASES
from proxy.policy.validation import check
from schema.fields import BY_NAME, FIELDS, DisclosureClass, LegalClass
from tests.support.process import NOW, served

LETTERS = {"Y": Reach.DISCLOSE, "F": Reach.FREEZE, "H": Reach.NOT_HELD, "-": Reach.NEVER}
MATRIX = {
    #                  B O L C P
    "subpoena": "Y - - - -",
    "court_order": "Y Y - - -",
    "warrant": "Y Y Y H -",
    "nsl": "Y - - - -",
    "consent": "Y Y Y - -",
    "emergency": "Y Y Y H -",
    "civil_subpoena": "Y Y Y - -",
    "preservation": "F F F F -",
    "telemarketing": "Y - - - -",
    "ncmec": "Y - - - -",
    "pen_trap": "- - - - -",
    "intercept": "- - - - -",
}
"""Y: disclosed, F: frozen, H: it would reach and nothing is held, -: never."""
CELLS = [
    (instrument, cls, LETTERS[letter])
    for instrument, row in MATRIX.items()
    for cls, letter in zip(RecordClass, row.split(), strict=True)
]

# Which rule a letter names where a cell is empty.
WHY = {
    ("subpoena", "O"): "reach.basic_only",
    ("subpoena", "L"): "reach.location_warrant",
    ("court_order", "L"): "reach.location_warrant",
    ("nsl", "O"): "reach.nsl_list",
    ("nsl", "L"): "reach.nsl_list",
    ("telemarketing", "O"): "reach.name_and_address",
    ("telemarketing", "L"): "reach.name_and_address",
    ("ncmec", "O"): "reach.ncmec_report",
    ("ncmec", "L"): "reach.ncmec_report",
}
REPRESENTS = {"B": "subscriber", "O": "routing", "L": "location", "C": "content", "P": "prospective"}


def _names(text: str) -> list[str]:
    return text.split()


BASIC = _names(
    """record_id started_at answered_at ended_at duration_ms disposition
    calling called dialed charge_number redirecting
    account name address_of_record imsi imei"""
)
OTHER = _names(
    """cause_q850 sip_code
    switch_id jurisdiction calling_lrn called_lrn jip oli state rate_centre lata attestation origid verstat codec
    ingress_ocn ingress_trunk ingress_call_id ingress_peer_address ingress_billed_s ingress_rate ingress_amount
    ingress_currency egress_ocn egress_trunk egress_call_id egress_peer_address egress_billed_s egress_rate
    egress_amount egress_currency
    ingest_id line_number"""
)
LOCATION = _names("cell sector latitude longitude")
TOLL = _names(
    """record_id started_at answered_at ended_at duration_ms disposition
    calling called dialed charge_number redirecting name address_of_record"""
)

FIELDS_OF = {
    "subpoena": BASIC,
    "court_order": BASIC + OTHER,
    "warrant": BASIC + OTHER + LOCATION,
    "nsl": TOLL,
    "consent": BASIC + OTHER + LOCATION,
    "emergency": BASIC + OTHER + LOCATION,
    "civil_subpoena": BASIC + OTHER + LOCATION,
    "preservation": BASIC + OTHER + LOCATION,
    "telemarketing": ["name", "address_of_record"],
    "ncmec": BASIC,
    "pen_trap": [],
    "intercept": [],
}


def codes(findings: tuple[Finding, ...]) -> set[str]:
    """Return the rules' codes."""
    return {f.rule.code for f in findings}


def test_the_table_has_every_instrument_and_class() -> None:
    assert set(MATRIX) == set(INSTRUMENTS) == set(FIELDS_OF)
    assert len(CELLS) == len(INSTRUMENTS) * 5
    assert all(set(i.cells) == set(RecordClass) for i in INSTRUMENTS.values())


@pytest.mark.parametrize(("instrument", "cls", "reach"), CELLS, ids=lambda x: str(x))
def test_each_cell(instrument: str, cls: RecordClass, reach: Reach) -> None:
    """What the table says, what the check does with a request for it, and which rule the letter names."""
    assert INSTRUMENTS[instrument].cells[cls].reach is reach
    name = REPRESENTS[cls.value]
    found = check(served(instrument, classes=frozenset({name})), NOW)
    if instrument in REFERRED:
        assert isinstance(found, Deficient)
        assert codes(found.findings) == {"instrument.referred"}
        assert found.within is None
    elif cls in (RecordClass.CONTENT, RecordClass.PROSPECTIVE):
        # Nothing of either is stored: where it would be compelled the letter says that there is none.
        assert isinstance(found, Deficient)
        assert found.within is None
        if cls is RecordClass.PROSPECTIVE:
            assert codes(found.findings) == {"reach.prospective"}
        elif reach is Reach.NEVER:
            assert codes(found.findings) == {"reach.content"}
        else:
            assert codes(found.findings) == {"reach.content_not_held"}
    elif reach is Reach.NEVER:
        assert isinstance(found, Deficient)
        assert codes(found.findings) == {WHY[instrument, cls.value]}
        assert found.findings[0].about == (name,)
        assert found.within is None
    else:
        assert isinstance(found, Validated), found
        assert {BY_NAME[f].disclosure_class.value for f in found.scope.fields} == {name}


@pytest.mark.parametrize("instrument", list(FIELDS_OF))
def test_each_field(instrument: str) -> None:
    """Asked for alone, by its name, every field of the record is reached or refused by a rule."""
    reached = set()
    for field in FIELDS:
        cls = field.disclosure_class.value
        found = check(served(instrument, classes=frozenset({cls}), fields=(field.name,)), NOW)
        if isinstance(found, Validated):
            assert found.scope.fields == (field.name,)
            assert not found.withheld
            reached.add(field.name)
        else:
            assert found.within is None
            assert instrument in REFERRED or found.findings[0].about == (field.name,)
    assert reached == set(FIELDS_OF[instrument])
    assert set(INSTRUMENTS[instrument].fields()) == set(FIELDS_OF[instrument])


def test_every_field_has_one_record_class() -> None:
    by_class = {LegalClass.BASIC: BASIC, LegalClass.OTHER: OTHER, LegalClass.LOCATION: LOCATION}
    assert {cls: [f.name for f in FIELDS if f.legal is cls] for cls in LegalClass} == {
        cls: sorted(names, key=list(BY_NAME).index) for cls, names in by_class.items()
    }


@pytest.mark.parametrize("instrument", sorted(set(INSTRUMENTS) - REFERRED))
def test_a_class_is_narrowed_field_by_field(instrument: str) -> None:
    """Of a class that is reached in part the rest is left out and told; a class of which nothing is, is refused."""
    for cls in DisclosureClass:
        names = [f.name for f in FIELDS if f.disclosure_class is cls]
        wanted = [n for n in names if n in FIELDS_OF[instrument]]
        found = check(served(instrument, classes=frozenset({cls.value})), NOW)
        assert isinstance(found, Validated) == bool(wanted)
        if isinstance(found, Validated):
            assert list(found.scope.fields) == wanted
            left = [n for f in found.withheld for n in f.about]
            assert sorted(left) == sorted(set(names) - set(wanted))


def test_a_peer_s_billing_is_no_process_and_never_reaches_location() -> None:
    for basis in BASES.values():
        assert not basis.classes & {DisclosureClass.LOCATION, DisclosureClass.SUBSCRIBER, DisclosureClass.DEVICE}
    assert "billing" not in INSTRUMENTS


def test_an_order_for_location_is_stripped_of_it_and_says_carpenter() -> None:
    """Also for eight days: whatever the length, cell-site location asks for a warrant."""
    for instrument in ("subpoena", "court_order"):
        asked = served(instrument, classes=frozenset({"timing", "parties", "location"}))
        found = check(asked, NOW)
        assert isinstance(found, Deficient)
        (finding,) = found.findings
        assert "Carpenter" in finding.rule.citation
        assert finding.about == ("location",)
        assert found.within is not None
        assert not set(found.within.fields) & set(LOCATION)
        assert {"calling", "called", "started_at"} <= set(found.within.fields)


def test_rules_are_data_with_citation_date_and_remedy() -> None:
    rules = legalrules.RULES
    assert len({rule.code for rule in rules}) == len(rules) >= 50
    for rule in rules:
        assert rule.citation
        assert rule.says.endswith(".")
        assert rule.do.endswith(".")
        assert date(1987, 1, 1) <= rule.effective <= date(2026, 1, 1)
    for instrument in INSTRUMENTS.values():
        assert "U.S.C." in instrument.citation
        assert date(1987, 1, 1) <= instrument.effective <= date(2026, 1, 1)
        for cell in instrument.cells.values():
            assert (cell.reach in (Reach.NEVER, Reach.NOT_HELD)) <= (cell.rule is not None)
        assert (instrument.only is None) == (instrument.only_rule is None)


def test_what_is_in_no_table_reaches_nothing() -> None:
    for instrument in INSTRUMENTS.values():
        assert instrument.reach("no_such_field") is Reach.NEVER
        assert instrument.reach("") is Reach.NEVER
        assert instrument.why_not("no_such_field").code == "field.unknown"
