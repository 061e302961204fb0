"""The rules as data: one place for each, with the section it comes from and the date from which it applies.

Two kinds are kept apart. A *legal* rule follows from the text cited. A *house* rule (``house=True``) is our choice
where the text leaves it open; its citation names the duty it serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from proxy.policy.model import Action, Deny, Direction, Purpose
from schema.fields import DisclosureClass

_ACT_1996 = date(1996, 2, 8)  # Telecommunications Act of 1996, s. 702
_LOCATION_1999 = date(1999, 10, 26)  # Wireless Communications and Public Safety Act of 1999, s. 5
_CPNI_1998 = date(1998, 5, 26)  # 63 FR 20326
_CPNI_2007 = date(2007, 12, 8)  # 72 FR 31948


@dataclass(frozen=True, slots=True)
class Rule:
    """Why something is refused."""

    code: str
    citation: str
    effective: date
    says: str
    house: bool = False

    def deny(self) -> Deny:
        """Return the refusal this rule makes."""
        return Deny(self.code, self.citation, self.says)


@dataclass(frozen=True, slots=True)
class Basis:
    """Why something is allowed, and how far: the reach of one purpose."""

    purpose: Purpose
    citation: str
    effective: date
    classes: frozenset[DisclosureClass]
    actions: frozenset[Action]
    needs_agreement: bool


_C = DisclosureClass

BASES: dict[Purpose, Basis] = {
    # "to initiate, render, bill, and collect for telecommunications services"
    Purpose.BILLING: Basis(
        Purpose.BILLING,
        "47 U.S.C. 222(d)(1)",
        _ACT_1996,
        frozenset({_C.TIMING, _C.PARTIES, _C.ROUTING, _C.INGRESS_LEG, _C.EGRESS_LEG}),
        frozenset({Action.PULL, Action.SEARCH}),
        needs_agreement=True,
    ),
}
"""Purposes that reach records here. A purpose that is not in this table reaches none."""

SIDES: dict[Direction, frozenset[str]] = {
    Direction.INGRESS: frozenset({"ingress"}),
    Direction.EGRESS: frozenset({"egress"}),
    Direction.BOTH: frozenset({"ingress", "egress"}),
}

LEG_CLASSES: dict[str, DisclosureClass] = {"ingress": _C.INGRESS_LEG, "egress": _C.EGRESS_LEG}
"""The class of each side's own leg: dropped where that side is not asked for (47 U.S.C. 222(b): what one carrier told
us to get service is not another's to see)."""

NEEDED_CLASS = _C.TIMING
"""A record cannot be placed in a window, nor named, without it."""

MARKETING = Rule(
    "purpose.marketing",
    "47 U.S.C. 222(b); 47 CFR 64.2005(b)(2)",
    _CPNI_1998,
    "Records are not given for marketing, nor to find out who calls a competitor.",
)
PURPOSE_UNKNOWN = Rule(
    "purpose.unknown", "47 U.S.C. 222(c)(1)", _ACT_1996, "The purpose is not one for which records may be given."
)
PURPOSE_NOT_OFFERED = Rule(
    "purpose.not_offered", "47 U.S.C. 222(c)(1)", _ACT_1996, "Records are not given for this purpose by this way."
)
PURPOSE_NOT_HELD = Rule(
    "purpose.not_held", "47 U.S.C. 222(b)", _ACT_1996, "The token was not granted for this purpose.", house=True
)
AGREEMENT_ABSENT = Rule(
    "agreement.absent",
    "47 U.S.C. 222(d)(1); 47 CFR 64.2010(g)",
    _CPNI_2007,
    "No agreement with a CPNI clause is in force.",
)
GRANT_EXPIRED = Rule("grant.expired", "47 U.S.C. 222(a)", _ACT_1996, "The token has expired.", house=True)
ACTION_UNKNOWN = Rule("action.unknown", "47 U.S.C. 222(c)(1)", _ACT_1996, "This cannot be done for this purpose.")
DIRECTION_UNKNOWN = Rule("direction.unknown", "47 U.S.C. 222(c)(1)", _ACT_1996, "The direction is not known.")
DIRECTION_OUTSIDE = Rule(
    "direction.outside_grant", "47 U.S.C. 222(b)", _ACT_1996, "The token does not reach this direction.", house=True
)
CLASS_UNKNOWN = Rule("class.unknown", "47 U.S.C. 222(c)(1)", _ACT_1996, "The token names a class that is not known.")
CLASS_LOCATION = Rule(
    "class.location", "47 U.S.C. 222(f)(1)", _LOCATION_1999, "Call location is not reached by this purpose."
)
CLASS_UNREACHED = Rule(
    "class.unreached", "47 U.S.C. 222(c)(1)", _ACT_1996, "The token names a class that this purpose does not reach."
)
CLASS_MISSING = Rule(
    "class.missing", "47 U.S.C. 222(c)(1)", _ACT_1996, "The token does not reach the timing of records.", house=True
)
FIELD_UNKNOWN = Rule(
    "field.unreached", "47 U.S.C. 222(c)(1)", _ACT_1996, "A field is asked for that is not known or not reached."
)
OCN_INVALID = Rule(
    "ocn.invalid", "47 U.S.C. 222(a)", _ACT_1996, "The token names something that is no operating company number."
)
OCN_NOT_OWNED = Rule(
    "ocn.not_owned", "47 U.S.C. 222(b)", _ACT_1996, "None of the token's OCNs was the caller's in this window."
)
WINDOW_EMPTY = Rule("window.empty", "47 U.S.C. 222(c)(1)", _ACT_1996, "The window holds no moment.", house=True)
WINDOW_OUTSIDE = Rule(
    "window.outside_grant", "47 U.S.C. 222(b)", _ACT_1996, "The window reaches outside the token's.", house=True
)

RULES: tuple[Rule, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Rule))
"""Every reason a decision can give."""
