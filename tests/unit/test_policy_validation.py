"""The check of a served process: each thing that can be missing, wrong, late or too much, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy import Deny
from proxy.policy.instruments import INSTRUMENTS, REFERRED
from proxy.policy.legalrules import RULES
from proxy.policy.process import Authority, Deficient, Fact, Scope, Served, TargetFacts, Validated
from proxy.policy.validation import check, micros, narrow
from schema.fields import BY_NAME, DisclosureClass
from tests.support.process import END, NOW, SERVED_AT, START, TARGETS, served

EMPTY: Mapping[str, Any] = {"agency": "", "court": " ", "officer": "", "reference": ""}
DAY = timedelta(days=1)


def codes(process: Served, now: datetime = NOW) -> set[str]:
    """Return the codes of what a process is deficient in; it is fit otherwise."""
    found = check(process, now)
    if isinstance(found, Validated):
        return set()
    assert found.findings
    return {f.rule.code for f in found.findings}


def without(instrument: str, *facts: Fact) -> Served:
    """Return a whole process but for these facts."""
    whole = served(instrument)
    assert set(facts) <= whole.attested
    return replace(whole, attested=whole.attested - set(facts))


@pytest.mark.parametrize("instrument", sorted(set(INSTRUMENTS) - REFERRED))
def test_one_that_lacks_nothing(instrument: str) -> None:
    found = check(served(instrument), NOW)
    assert isinstance(found, Validated), found
    assert found.basis == INSTRUMENTS[instrument].citation
    assert not found.notes
    assert (found.scope.start_us, found.scope.end_us) == (START, END)
    assert (found.scope.targets, found.scope.targets_digest, found.scope.target_kinds) == (1, "0" * 64, ("number",))


LACKS = [
    (served("subpoena", agency="", court=""), "requires.issuer"),
    (served("subpoena", officer=" "), "requires.officer"),
    (served("subpoena", reference=""), "requires.reference"),
    (without("subpoena", Fact.AUTHENTIC), "requires.authentic"),
    (served("subpoena", signed_by=Authority.LAW_OFFICER), "requires.signature_subpoena"),
    (served("subpoena", signed_by=Authority.FBI_OTHER), "requires.signature_subpoena"),
    (served("subpoena", signed_by=Authority.ATTORNEY), "requires.signature_subpoena"),
    (served("subpoena", signed_by=""), "requires.signature_subpoena"),
    (served("subpoena", signed_by=Authority.AGENCY_OFFICER), "requires.statute"),
    (served("court_order", court=""), "requires.court"),
    (served("court_order", signed_by=Authority.PROSECUTOR), "requires.signature_judge"),
    (served("court_order", signed_by=Authority.CLERK), "requires.signature_judge"),
    (without("court_order", Fact.ARTICULABLE_FACTS), "requires.articulable_facts"),
    (without("warrant", Fact.PROBABLE_CAUSE), "requires.probable_cause"),
    (served("warrant", signed_by=Authority.AGENCY_OFFICER), "requires.signature_judge"),
    (served("nsl", signed_by=Authority.FBI_OTHER), "requires.signature_fbi"),
    (served("nsl", signed_by=Authority.JUDGE), "requires.signature_fbi"),
    (without("nsl", Fact.CERTIFIED_RELEVANT), "requires.nsl_certification"),
    (without("nsl", Fact.REVIEW_NOTICE), "requires.review_notice"),
    (served("nsl", nondisclosure=True), "requires.nondisclosure_certified"),
    (served("consent", signed_by=Authority.ATTORNEY), "requires.signature_customer"),
    (without("consent", Fact.CUSTOMER_SIGNED), "requires.written_request"),
    (without("consent", Fact.IDENTITY_VERIFIED), "requires.identity"),
    (without("consent", Fact.RECIPIENT_NAMED), "requires.recipient"),
    (without("emergency", Fact.DANGER), "requires.danger"),
    (without("emergency", Fact.NO_DELAY), "requires.no_delay"),
    (without("emergency", Fact.GOOD_FAITH), "requires.good_faith"),
    (without("emergency", Fact.AUTHENTIC), "requires.authentic"),
    (served("emergency", signed_by=Authority.ATTORNEY), "requires.signature_official"),
    (served("civil_subpoena", court=""), "requires.court_civil"),
    (served("civil_subpoena", signed_by=Authority.LAW_OFFICER), "requires.signature_civil"),
    (without("civil_subpoena", Fact.COUNSEL_REVIEWED), "requires.counsel"),
    (without("civil_subpoena", Fact.CUSTOMER_NOTIFIED), "requires.customer_notified"),
    (served("preservation", signed_by=Authority.ATTORNEY), "requires.signature_official"),
    (served("preservation", signed_by=Authority.CUSTOMER), "requires.signature_official"),
    (without("telemarketing", Fact.WRITTEN_REQUEST), "requires.fraud_request"),
    (without("ncmec", Fact.REPORT_FILED), "requires.report"),
    (served("subpoena", country="CA"), "instrument.foreign"),
    (served("subpoena", country=""), "instrument.foreign"),
    (served("subpoena", issued=date(2001, 10, 25)), "instrument.not_in_force"),
    (served("emergency", issued=date(2006, 3, 8)), "instrument.not_in_force"),
    (served("subpoena", certification=frozenset({"902(11)", "902(12)"})), "requires.certification_known"),
    (served("subpoena", classes=frozenset()), "class.none"),
    (served("subpoena", classes=frozenset({"timing", "everything"})), "class.unknown"),
    (served("subpoena", classes=frozenset({"B"})), "class.unknown"),
    (served("subpoena", fields=()), "field.unknown"),
    (served("subpoena", fields=("calling", "bogus")), "field.unknown"),
    (served("subpoena", fields=("name",)), "field.unknown"),  # of a class that is not asked for
    (served("subpoena", fields=("calling", "sip_code")), "reach.basic_only"),
    (served("subpoena", targets=replace(TARGETS, count=0)), "target.none"),
    (served("subpoena", targets=replace(TARGETS, count=100_001)), "target.too_many"),
    (served("subpoena", targets=replace(TARGETS, refused=(3,))), "target.unreadable"),
    (served("subpoena", zone="Mars/Olympus"), "date.zone"),
    (served("subpoena", zone=""), "date.zone"),
    (served("subpoena", zone="../../etc/passwd"), "date.zone"),
    (served("subpoena", start_us=END), "window.empty"),
    (served("subpoena", start_us=END + 1), "window.empty"),
    (served("subpoena", issued=date(2026, 11, 4)), "date.issued_after_service"),
    (served("subpoena", expires=date(2026, 11, 2)), "date.expired"),
    (served("subpoena", return_by=date(2026, 11, 1)), "date.return_before_issue"),
    (served("subpoena", served_at=NOW + timedelta(seconds=1)), "date.served_in_future"),
    (served("warrant", expires=date(2026, 11, 2)), "date.expired"),
    (served("warrant", issued=date(2026, 10, 19)), "date.warrant_stale"),  # the 15th day
]


NARROWABLE = {"reach.basic_only", "class.unknown", "field.unknown"}


@pytest.mark.parametrize(("process", "rule"), LACKS, ids=[rule for _, rule in LACKS])
def test_what_is_missing_or_wrong_is_named_and_nothing_else(process: Served, rule: str) -> None:
    assert codes(process) == {rule}
    found = check(process, NOW)
    assert isinstance(found, Deficient)
    # Narrowing helps against asking too much, where something is left, and against nothing else.
    left = process.classes & {"timing", "parties"} and (process.fields is None or "calling" in process.fields)
    assert (found.within is not None) == bool(left and rule in NARROWABLE)


@pytest.mark.parametrize(
    "process",
    [
        served("subpoena", signed_by=Authority.AGENCY_OFFICER, statute="21 U.S.C. 876"),
        served("subpoena", agency=""),  # the court is the issuer
        served("subpoena", expires=date(2026, 11, 3)),
        served("subpoena", return_by=date(2026, 11, 2)),
        served("subpoena", issued=date(2026, 11, 3)),
        served("warrant", issued=date(2026, 10, 20)),  # the 14th day
        served("warrant", issued=date(2026, 10, 1), expires=date(2026, 11, 3)),  # the court's own time
        served("nsl", signed_by=Authority.FBI_DIRECTOR),
        served("nsl", signed_by=Authority.FBI_HEADQUARTERS),
        replace(served("nsl", nondisclosure=True), attested=served("nsl").attested | {"nondisclosure_certified"}),
        served("subpoena", nondisclosure=True),
        served("subpoena", certification=frozenset({"902(11)", "902(13)", "902(14)"})),
        served("subpoena", targets=replace(TARGETS, count=100_000)),
    ],
)
def test_what_is_enough(process: Served) -> None:
    assert codes(process) == set()


def test_a_warrant_is_executed_by_service_and_a_consent_has_to_last() -> None:
    late, day = NOW + 10 * DAY, date(2026, 11, 3)
    assert codes(served("warrant", expires=day), late) == set()
    assert codes(served("consent", expires=day), late) == {"date.expired"}


def test_every_finding_is_collected() -> None:
    found = check(
        served("warrant", **EMPTY, signed_by="", attested=frozenset(), targets=replace(TARGETS, count=0)), NOW
    )
    assert isinstance(found, Deficient)
    assert {f.rule.code for f in found.findings} == {
        "requires.issuer",
        "requires.officer",
        "requires.reference",
        "requires.authentic",
        "requires.court",
        "requires.signature_judge",
        "requires.probable_cause",
        "target.none",
    }
    assert found.within is None


def test_an_unknown_instrument_compels_nothing() -> None:
    for name in ("", "Subpoena", "subpoena ", "wiretap", "billing"):
        found = check(replace(served("subpoena"), instrument=name), NOW)
        assert isinstance(found, Deficient)
        assert [f.rule.code for f in found.findings] == ["instrument.unknown"]
        assert found.within is None


@pytest.mark.parametrize(
    ("instrument", "fact", "rule"),
    [
        ("consent", Fact.LOCATION_AUTHORISED, "requires.location_authorised"),
        ("civil_subpoena", Fact.COURT_ORDERED, "requires.location_civil"),
    ],
)
def test_location_needs_more_where_no_warrant_compels_it(instrument: str, fact: Fact, rule: str) -> None:
    asked = {"timing", "parties", "location"}
    whole = served(instrument, classes=frozenset(asked))
    assert isinstance(check(whole, NOW), Validated)
    found = check(replace(whole, attested=whole.attested - {fact}), NOW)
    assert isinstance(found, Deficient)
    assert [(f.rule.code, f.about) for f in found.findings] == [(rule, ("location",))]
    assert found.within is not None
    assert {BY_NAME[f].disclosure_class.value for f in found.within.fields} == asked - {"location"}
    assert isinstance(check(replace(without(instrument, fact)), NOW), Validated)


def test_the_civil_rule_takes_the_customer_s_authorisation_too() -> None:
    whole = served("civil_subpoena", classes=frozenset({"location"}))
    authorised = (whole.attested - {Fact.COURT_ORDERED}) | {Fact.LOCATION_AUTHORISED}
    assert isinstance(check(replace(whole, attested=frozenset(authorised)), NOW), Validated)


class TestWindow:
    """Only what existed on service; the day of service is cut at the hour, a later day is refused."""

    SERVICE = micros(SERVED_AT)
    MIDNIGHT = micros(datetime(2026, 11, 4, tzinfo=ZoneInfo("America/New_York")))

    @pytest.mark.parametrize("end", [SERVICE - 1, SERVICE])
    def test_up_to_the_service(self, end: int) -> None:
        found = check(served("subpoena", end_us=end), NOW)
        assert isinstance(found, Validated)
        assert found.scope.end_us == end
        assert not found.notes

    @pytest.mark.parametrize("end", [SERVICE + 1, MIDNIGHT])
    def test_the_day_of_service_is_cut_and_told(self, end: int) -> None:
        found = check(served("subpoena", end_us=end), NOW)
        assert isinstance(found, Validated)
        assert found.scope.end_us == self.SERVICE
        assert [f.rule.code for f in found.notes] == ["note.last_day"]

    @pytest.mark.parametrize("instrument", ["subpoena", "warrant", "emergency", "preservation"])
    def test_a_later_day_is_refused(self, instrument: str) -> None:
        found = check(served(instrument, end_us=self.MIDNIGHT + 1), NOW + 10 * DAY)
        assert isinstance(found, Deficient)
        assert [f.rule.code for f in found.findings] == ["reach.prospective"]
        assert found.within is not None
        assert found.within.end_us == self.SERVICE

    def test_the_zone_says_when_the_day_ends(self) -> None:
        far = served("subpoena", end_us=self.MIDNIGHT + 1, zone="Pacific/Honolulu")
        assert isinstance(check(far, NOW), Validated)

    def test_all_of_it_yet_to_come(self) -> None:
        found = check(served("subpoena", start_us=self.SERVICE, end_us=self.SERVICE + 5), NOW)
        assert isinstance(found, Deficient)
        assert [f.rule.code for f in found.findings] == ["reach.prospective"]
        assert found.within is None

    def test_twenty_years_are_told_not_refused(self) -> None:
        found = check(served("subpoena", start_us=micros(datetime(2006, 11, 1, tzinfo=UTC))), NOW)
        assert isinstance(found, Validated)
        assert [f.rule.code for f in found.notes] == ["note.voluminous"]


def test_notes_stop_nothing() -> None:
    found = check(served("subpoena", targets=replace(TARGETS, count=1_001, guarded=(4, 9))), NOW)
    assert isinstance(found, Validated)
    assert [(f.rule.code, f.about) for f in found.notes] == [
        ("note.guarded_target", ("4", "9")),
        ("note.voluminous", ()),
    ]


def test_a_preservation_freezes_all_and_says_that_there_is_no_content() -> None:
    found = check(served("preservation", classes=frozenset({c.value for c in DisclosureClass} | {"content"})), NOW)
    assert isinstance(found, Validated)
    assert set(found.scope.fields) == set(BY_NAME)
    assert [f.rule.code for f in found.notes] == ["reach.content_not_held"]


def test_every_rule_is_given_by_some_case() -> None:
    """Each rule is seen here or in the matrix; one that no input gives would be dead text."""
    seen = {rule for _, rule in LACKS} | {
        "instrument.unknown",
        "requires.location_authorised",
        "requires.location_civil",
        "reach.prospective",
        "note.last_day",
        "note.voluminous",
        "note.guarded_target",
    }
    matrix = {
        "instrument.referred",
        "reach.location_warrant",
        "reach.content",
        "reach.content_not_held",
        "reach.nsl_list",
        "reach.name_and_address",
        "reach.ncmec_report",
    }
    assert {rule.code for rule in RULES} == seen | matrix | {"reach.referred"}


SCOPE = Scope("subpoena", ("started_at", "calling", "called"), 100, 200, "a", 3, ("account", "number"))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"fields": ("calling",)},
        {"start_us": 150},
        {"end_us": 101},
        {"targets": 1, "targets_digest": "b", "target_kinds": ("number",)},
    ],
)
def test_narrower(change: dict[str, Any]) -> None:
    smaller = replace(SCOPE, **change)
    assert narrow(SCOPE, smaller, targets_within=True) == smaller
    assert (smaller.digest() == SCOPE.digest()) == (not change)


@pytest.mark.parametrize(
    "change",
    [
        {"fields": ("started_at", "calling", "called", "name")},
        {"fields": ("calling", "started_at")},  # not in order: the same scope would have two digests
        {"fields": ("calling", "calling")},
        {"fields": ()},
        {"start_us": 99},
        {"end_us": 201},
        {"start_us": 200, "end_us": 200},
        {"targets": 4},
        {"targets": 0},
        {"target_kinds": ("number", "trunk")},
        {"instrument": "warrant"},
    ],
)
def test_never_wider(change: dict[str, Any]) -> None:
    decision = narrow(SCOPE, replace(SCOPE, **change), targets_within=True)
    assert isinstance(decision, Deny)
    assert decision.reason == "scope.widened"


def test_other_targets_are_wider() -> None:
    assert isinstance(narrow(SCOPE, SCOPE, targets_within=False), Deny)


def test_each_part_of_a_scope_is_in_its_digest() -> None:
    others = [
        replace(SCOPE, **change)
        for change in (
            {"instrument": "nsl"},
            {"fields": ("calling",)},
            {"start_us": 1},
            {"end_us": 201},
            {"targets_digest": "b"},
            {"targets": 2},
            {"target_kinds": ("number",)},
        )
    ]
    assert len({s.digest() for s in [SCOPE, *others]}) == len(others) + 1


_names = st.sampled_from([*(c.value for c in DisclosureClass), "content", "prospective", "other", ""])


@settings(max_examples=400, deadline=None, database=None)
@given(
    st.sampled_from([*INSTRUMENTS, "x"]),
    st.frozensets(_names, max_size=6),
    st.none() | st.lists(st.sampled_from([*BY_NAME, "bogus"]), max_size=6).map(tuple),
    st.sampled_from([*Authority, ""]),
    st.frozensets(st.sampled_from([*Fact, "x"])),
    st.integers(START, micros(NOW) + 10**12),
    st.integers(START, micros(NOW) + 10**12),
)
def test_nothing_gets_past_its_instrument(
    instrument: str,
    classes: frozenset[str],
    fields: tuple[str, ...] | None,
    signed_by: str,
    attested: frozenset[str],
    start_us: int,
    end_us: int,
) -> None:
    """Over any input: a scope lies in what was asked, and in what the instrument reaches; else findings say why."""
    base = served(instrument if instrument in INSTRUMENTS else "subpoena")
    process = replace(base, instrument=instrument, classes=classes, fields=fields, start_us=start_us, end_us=end_us)
    if len(attested) > 2:  # else as fit as its instrument wants it
        process = replace(process, signed_by=signed_by, attested=attested)
    found = check(process, NOW)
    scope = found.scope if isinstance(found, Validated) else found.within
    if isinstance(found, Deficient):
        assert found.findings
    if scope is None:
        return
    kind = INSTRUMENTS[instrument]
    assert set(scope.fields) <= set(kind.fields())
    assert {BY_NAME[f].disclosure_class.value for f in scope.fields} <= classes
    assert fields is None or set(scope.fields) <= set(fields)
    assert start_us == scope.start_us < scope.end_us <= min(end_us, micros(SERVED_AT))
    if isinstance(found, Validated):
        assert "prospective" not in classes
        assert classes <= {c.value for c in DisclosureClass} | {"content"}


def test_targets_are_never_in_what_is_said() -> None:
    """Findings name places; policy is never told a number."""
    assert set(TargetFacts.__dataclass_fields__) == {"count", "digest", "kinds", "refused", "guarded"}
