"""Letters: every finding with its rule and citation, nothing of a target, nothing that breaks out of its line."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.legal.deadlines import deadlines
from proxy.legal.letters import WIDTH, Addressed, acknowledgement, deficiency, objection, one_line
from proxy.policy.legalrules import VOLUMINOUS
from proxy.policy.process import Deficient, Finding, Validated
from proxy.policy.validation import check
from tests.support.process import NOW, SERVED_AT, TARGETS, served

TO = Addressed(
    carrier="Example Carrier, LLC",
    case_id="C-AAAAAAAAAA",
    instrument="court_order",
    agency="Example County Police",
    officer="Detective, Badge 1",
    reference="GJ-2026-0001",
    served=date(2026, 11, 3),
    written=date(2026, 11, 4),
)


def _deficient(instrument: str = "court_order", **change: object) -> Deficient:
    found = check(served(instrument, **change), NOW)
    assert isinstance(found, Deficient)
    return found


def test_a_request_for_cell_sites_is_told_the_rule() -> None:
    """The whole letter: this is what a detective reads."""
    found = _deficient(classes=frozenset({"parties", "location"}))
    assert (
        deficiency(TO, found)
        == """\
NOTICE OF DEFICIENCY

To:          Detective, Badge 1, Example County Police
From:        Example Carrier, LLC
Date:        2026-11-04
Case:        C-AAAAAAAAAA
Your number: GJ-2026-0001
Process:     Court order on specific and articulable facts, 18 U.S.C. 2703(d)
Served:      2026-11-03

We cannot answer the process as served. No records have been disclosed on it.
The reasons, each with its rule:

 1. Historical cell-site location is disclosed on a warrant only, for a period
    of whatever length.
    This is about: location.
    Obtain a search warrant on probable cause, or narrow the request.
    Rule reach.location_warrant; U.S. Const. amend. IV; Carpenter v. United
    States, 585 U.S. 296 (2018).

Narrowed to what it does reach, the process can be answered without being
served again. It would then reach these fields: calling, called, dialed,
charge_number, redirecting.

Records that exist are not preserved by this letter; ask for it under 18
U.S.C. 2703(f).

Example Carrier, LLC
Legal process
"""
    )


def test_every_finding_is_in_the_letter() -> None:
    found = _deficient("warrant", officer="", court="", attested=frozenset(), targets=replace(TARGETS, refused=(2, 7)))
    letter = deficiency(TO, found)
    plain = " ".join(letter.split())
    for number, finding in enumerate(found.findings, 1):
        assert f" {number}. {finding.rule.says}" in plain
        assert finding.rule.do in plain
        assert f"Rule {finding.rule.code}; {finding.rule.citation}." in plain
    assert "This is about: 2, 7." in letter
    assert "can be answered without being served again" not in plain
    assert "(Our own rule.)" in plain


def test_a_long_list_is_cut() -> None:
    found = _deficient("subpoena", targets=replace(TARGETS, refused=tuple(range(1, 1001))))
    letter = deficiency(TO, found)
    assert "20 and 980 more." in " ".join(letter.split())
    assert len(letter) < 3_000


def test_an_acknowledgement_says_what_is_left_out_and_when() -> None:
    found = check(served("subpoena", classes=frozenset({"timing", "parties"})), NOW)
    assert isinstance(found, Validated)
    letter = acknowledgement(TO, found, deadlines("subpoena", SERVED_AT, date(2026, 11, 20), "America/New_York"))
    plain = " ".join(letter.split())
    assert "It names one target and reaches these fields: record_id, started_at," in plain
    assert "This is about: cause_q850, sip_code." in plain
    assert "Rule reach.basic_only; 18 U.S.C. 2703(c)(1), (c)(2)." in plain
    assert "We expect to answer by 2026-11-20." in plain


def test_an_objection_names_its_grounds() -> None:
    letter = " ".join(objection(TO, [Finding(VOLUMINOUS)]).split())
    assert letter.startswith("OBJECTION To:")
    assert "unusually voluminous" in letter
    assert "Fed. R. Civ. P. 45(d)(3)(A)(iv)" in letter


def test_what_was_typed_stays_in_its_line() -> None:
    """A name with line breaks could otherwise write a letter of its own."""
    evil = "Police\n\nYou are released from the order.\r\x0b\x1b[2J\u2028\u202eEvil\u200b\x00" + "x" * 5_000
    letter = deficiency(replace(TO, agency=evil, officer="", reference=evil, carrier=evil), _deficient(officer=""))
    assert "\nYou are" not in letter
    assert not {c for c in letter if c != "\n" and not c.isprintable()}
    assert max(map(len, letter.splitlines())) <= 200


def test_a_class_that_was_made_up_is_cut_to_its_line() -> None:
    letter = deficiency(TO, _deficient(classes=frozenset({"parties", "x\ny" + "z" * 500})))
    assert "This is about: x y" in letter
    assert "z" * 50 not in letter


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        (" a\n b ", "a b"),
        ("a\x00b", "ab"),
        ("a\u00a0b", "a b"),
        ("\ud800x", "x"),
        ("x" * 201, "x" * 199 + "…"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(), st.text(), st.text())
def test_any_text_makes_a_letter(agency: str, officer: str, reference: str) -> None:
    to = replace(TO, agency=agency, officer=officer, reference=reference)
    letter = deficiency(to, _DEFICIENT)
    assert letter.startswith("NOTICE OF DEFICIENCY\n\nTo:")
    assert letter.endswith("\nLegal process\n")
    head = letter.split("\n\n")[1].splitlines()
    assert all(len(line) <= WIDTH for line in head)
    assert [line.split(":")[0] for line in head if not line.startswith(" ")] == [
        "To", "From", "Date", "Case", "Your number", "Process", "Served",
    ]  # fmt: skip


_DEFICIENT = _deficient(classes=frozenset({"location"}))
