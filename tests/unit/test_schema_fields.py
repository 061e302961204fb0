"""The record's fields: what everything else is made from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.fields import BY_NAME, FIELDS, DisclosureClass, Kind, LegalClass, TagDomain, fields_of, ocn_code, ocn_text


def test_every_class_has_fields_and_every_field_one_place() -> None:
    assert len(BY_NAME) == len(FIELDS)
    assert {f.disclosure_class for f in FIELDS} == set(DisclosureClass)
    assert [f for c in DisclosureClass for f in fields_of(c)] == sorted(
        FIELDS, key=lambda f: (list(DisclosureClass).index(f.disclosure_class), FIELDS.index(f))
    )
    assert not {f.name + "_raw" for f in FIELDS} & set(BY_NAME)
    assert all(f.doc for f in FIELDS)


def test_the_order_of_fields_is_the_stored_formats() -> None:
    """Chunks hold fields by position. A field may be added at the end of its class; nothing else may change."""
    began = {
        DisclosureClass.TIMING: "record_id started_at answered_at ended_at duration_ms cause_q850 sip_code disposition",
        DisclosureClass.PARTIES: "calling called dialed charge_number redirecting",
        DisclosureClass.ROUTING: "switch_id jurisdiction calling_lrn called_lrn jip oli state rate_centre lata"
        " attestation origid verstat codec",
        DisclosureClass.LOCATION: "cell sector latitude longitude",
        DisclosureClass.SUBSCRIBER: "account name address_of_record",
        DisclosureClass.DEVICE: "imsi imei",
        DisclosureClass.SOURCE: "ingest_id line_number",
    }
    for side, cls in (("ingress", DisclosureClass.INGRESS_LEG), ("egress", DisclosureClass.EGRESS_LEG)):
        leg = "ocn trunk call_id peer_address billed_s rate amount currency"
        began[cls] = " ".join(f"{side}_{n}" for n in leg.split())
    for cls, names in began.items():
        assert [f.name for f in fields_of(cls)][: len(names.split())] == names.split()
    assert [d.value for d in TagDomain][:5] == [1, 2, 3, 4, 5]
    assert [c.value for c in DisclosureClass][:9] == [
        "timing",
        "parties",
        "routing",
        "ingress_leg",
        "egress_leg",
        "location",
        "subscriber",
        "device",
        "source",
    ], "their order is the bits of a batch's classes"


def test_only_location_is_location() -> None:
    """18 U.S.C. 2703: cell-site location asks for a warrant, and stands in a class of its own."""
    for f in FIELDS:
        assert (f.legal is LegalClass.LOCATION) == (f.disclosure_class is DisclosureClass.LOCATION)
    assert all(f.tag is TagDomain.NUMBER for f in FIELDS if f.kind is Kind.NUMBER)


@settings(max_examples=100, deadline=None, database=None)
@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=4))
def test_ocns_are_integers_and_back(ocn: str) -> None:
    assert ocn_text(ocn_code(ocn)) == ocn
    assert 0 <= ocn_code(ocn) < 2**31


def test_states_are_no_carriers() -> None:
    assert (ocn_code("none"), ocn_code("unmapped")) == (-1, -2)
    assert (ocn_text(-1), ocn_text(-2)) == ("none", "unmapped")


@pytest.mark.parametrize(
    "wrong", ["", "123", "12345", "123a", "NONE ", "12 4", "12-4", "１２３４", "ÄÖÜß", "-001", "+001", "1_00"]
)
def test_what_is_no_ocn(wrong: str) -> None:
    with pytest.raises(ValueError, match="OCN"):
        ocn_code(wrong)
