"""The canonical call detail record: its fields, their disclosure classes and their search domains.

This is the one place a field is defined. Column lists, projections, the column format, the OpenAPI document and the
field guide are all made from it. A *disclosure class* is what a purpose grants, what is sealed together and what is
shredded together. Times are UTC in microseconds, telephone numbers are E.164, money is decimal (never float).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

DECIMAL_SCALE = 8
"""Money is held as an integer count of 10^-8 units."""
DURATION_MAX_S = 366 * 86_400
"""No call is longer."""

OCN_NONE = "none"
"""The OCN of a leg that the call never reached."""
OCN_UNMAPPED = "unmapped"
"""The OCN of a leg whose trunk is in no map; disclosed to nobody until it is mapped."""


class DisclosureClass(StrEnum):
    """What a purpose grants as a whole (47 U.S.C. 222; the matrix is in proxy/policy)."""

    TIMING = "timing"
    PARTIES = "parties"
    ROUTING = "routing"
    INGRESS_LEG = "ingress_leg"
    EGRESS_LEG = "egress_leg"
    LOCATION = "location"
    SUBSCRIBER = "subscriber"
    DEVICE = "device"
    SOURCE = "source"


class Kind(Enum):
    """How a value is held and written."""

    ID = "id"  # int64, not null
    TIME = "time"  # int64 microseconds since 1970-01-01 UTC
    INT = "int"  # int64
    NUMBER = "number"  # uint64 E.164 digits, or raw text where it cannot be one
    DECIMAL = "decimal"  # int64 in units of 10^-DECIMAL_SCALE
    TEXT = "text"  # UTF-8


class LegalClass(StrEnum):
    """Record classes of legal process (18 U.S.C. 2703): basic (the list of (c)(2)), other non-content, location.

    What the list does not clearly name is other: doubt asks for an order, not for a subpoena.
    """

    BASIC = "B"
    OTHER = "O"
    LOCATION = "L"


class TagDomain(Enum):
    """Search domains; the value is the domain byte of the keyed search tag."""

    NUMBER = 1
    RAW_NUMBER = 2
    ACCOUNT = 3
    IMSI = 4
    TRUNK = 5


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of the record; each exists once, so that comparing them is comparing identities."""

    name: str
    disclosure_class: DisclosureClass
    kind: Kind
    legal: LegalClass
    doc: str
    tag: TagDomain | None = None
    required: bool = False
    varied: bool = False
    """Text of which most records have a value of their own; other text repeats."""
    highest: int | None = None
    """The largest value of a whole number that has one; the smallest is then 0. Ingest takes no other."""


def _fields() -> tuple[Field, ...]:
    c, k, b, o = DisclosureClass, Kind, LegalClass.BASIC, LegalClass.OTHER
    leg = (
        ("ocn", k.TEXT, o, "operating company number of the carrier on this leg; `none` or `unmapped` are states"),
        ("trunk", k.TEXT, o, "trunk group or address as the switch names it"),
        ("call_id", k.TEXT, o, "call identifier of this leg (SIP Call-ID, channel id)"),
        ("peer_address", k.TEXT, o, "signalling address of the peer"),
        # What two carriers settle between them; the length of the call is duration_ms.
        ("billed_s", k.INT, o, "billed duration, seconds"),
        ("rate", k.DECIMAL, o, "rate per minute in the leg's currency"),
        ("amount", k.DECIMAL, o, "amount charged in the leg's currency"),
        ("currency", k.TEXT, o, "ISO 4217 code"),
    )
    legs = tuple(
        Field(
            f"{side}_{n}",
            cls,
            kind,
            legal,
            doc,
            TagDomain.TRUNK if n == "trunk" else None,
            varied=n == "call_id",
            highest=DURATION_MAX_S if n == "billed_s" else None,
        )
        for side, cls in (("ingress", c.INGRESS_LEG), ("egress", c.EGRESS_LEG))
        for n, kind, legal, doc in leg
    )
    num = TagDomain.NUMBER
    return (
        Field("record_id", c.TIMING, k.ID, b, "store sequence of the record; opaque to peers", required=True),
        Field("started_at", c.TIMING, k.TIME, b, "call setup, UTC", required=True),
        Field("answered_at", c.TIMING, k.TIME, b, "answer, UTC; null if unanswered"),
        Field("ended_at", c.TIMING, k.TIME, b, "release, UTC"),
        Field("duration_ms", c.TIMING, k.INT, b, "conversation time, milliseconds"),
        # That a call was answered, busy or failed is part of its connection record; how the network said so is more
        # than 47 CFR 42.6 calls a toll record (numbers, date, time, length).
        Field("cause_q850", c.TIMING, k.INT, o, "release cause, ITU-T Q.850", highest=127),
        Field("sip_code", c.TIMING, k.INT, o, "final SIP status code", highest=999),
        Field("disposition", c.TIMING, k.TEXT, b, "answered, busy, no_answer, failed, cancelled"),
        Field("calling", c.PARTIES, k.NUMBER, b, "calling number", num),
        Field("called", c.PARTIES, k.NUMBER, b, "called number", num),
        Field("dialed", c.PARTIES, k.NUMBER, b, "digits dialled, where they differ from the called number", num),
        Field("charge_number", c.PARTIES, k.NUMBER, b, "number charged for the call", num),
        Field("redirecting", c.PARTIES, k.NUMBER, b, "number that redirected the call", num),
        Field("switch_id", c.ROUTING, k.TEXT, o, "switch that made the record"),
        Field("jurisdiction", c.ROUTING, k.TEXT, o, "L local, A intraLATA, E interstate, I intrastate, U unknown"),
        Field("calling_lrn", c.ROUTING, k.TEXT, o, "location routing number of the calling number", varied=True),
        Field("called_lrn", c.ROUTING, k.TEXT, o, "location routing number of the called number", varied=True),
        Field("jip", c.ROUTING, k.TEXT, o, "jurisdiction information parameter, NPA-NXX"),
        Field("oli", c.ROUTING, k.INT, o, "originating line information (ANI II digits)", highest=99),
        Field("state", c.ROUTING, k.TEXT, o, "state of origin"),
        Field("rate_centre", c.ROUTING, k.TEXT, o, "rate centre of origin"),
        Field("lata", c.ROUTING, k.INT, o, "LATA of origin", highest=99_999),
        Field("attestation", c.ROUTING, k.TEXT, o, "SHAKEN attestation A, B or C (ATIS-1000074)"),
        Field("origid", c.ROUTING, k.TEXT, o, "SHAKEN origination identifier (RFC 8588)", varied=True),
        Field("verstat", c.ROUTING, k.TEXT, o, "verification status of the calling number"),
        Field("codec", c.ROUTING, k.TEXT, o, "audio codec"),
        *legs,
        Field("cell", c.LOCATION, k.TEXT, LegalClass.LOCATION, "serving cell identity"),
        Field("sector", c.LOCATION, k.TEXT, LegalClass.LOCATION, "serving sector"),
        Field("latitude", c.LOCATION, k.DECIMAL, LegalClass.LOCATION, "cell-site latitude, degrees"),
        Field("longitude", c.LOCATION, k.DECIMAL, LegalClass.LOCATION, "cell-site longitude, degrees"),
        Field("account", c.SUBSCRIBER, k.TEXT, b, "account number", TagDomain.ACCOUNT, varied=True),
        Field("name", c.SUBSCRIBER, k.TEXT, b, "subscriber name", varied=True),
        Field("address_of_record", c.SUBSCRIBER, k.TEXT, b, "address of record (47 CFR 64.2003)", varied=True),
        Field("imsi", c.DEVICE, k.TEXT, b, "IMSI", TagDomain.IMSI, varied=True),
        Field("imei", c.DEVICE, k.TEXT, b, "IMEI", varied=True),
        Field("ingest_id", c.SOURCE, k.ID, o, "ingest that brought the record", required=True),
        Field("line_number", c.SOURCE, k.ID, o, "line in the ingested file, from 1", required=True),
    )


FIELDS: tuple[Field, ...] = _fields()
"""Every field, in the order in which answers write them."""

BY_NAME: dict[str, Field] = {f.name: f for f in FIELDS}


def fields_of(*classes: DisclosureClass) -> tuple[Field, ...]:
    """Return the fields of these disclosure classes, in canonical order."""
    return tuple(f for f in FIELDS if f.disclosure_class in classes)


def ocn_code(ocn: str) -> int:
    """Return an OCN as the integer that row-level security compares (base 36; `none` is -1, `unmapped` is -2).

    Integer equality is leakproof in PostgreSQL, so an index serves it under a policy.

    Raises:
        ValueError: if ``ocn`` is neither four letters or digits in upper case nor one of the two states.
    """
    if ocn == OCN_NONE:
        return -1
    if ocn == OCN_UNMAPPED:
        return -2
    if len(ocn) != 4 or not ocn.isascii() or not ocn.isalnum() or ocn != ocn.upper():
        raise ValueError("an OCN is four letters or digits in upper case")
    return int(ocn, 36)


def ocn_text(code: int) -> str:
    """Return the OCN for an integer made by :func:`ocn_code`."""
    if code == -1:
        return OCN_NONE
    if code == -2:
        return OCN_UNMAPPED
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    out = ""
    for _ in range(4):
        code, rest = divmod(code, 36)
        out = digits[rest] + out
    return out
