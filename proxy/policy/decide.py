"""The decision: ``decide(request, holding, now_us)`` gives a Permit or a Deny, and nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from proxy.policy import rules
from proxy.policy.model import Action, Decision, Deny, Direction, Holding, OcnWindow, Permit, Purpose, Request
from schema.fields import OCN_NONE, OCN_UNMAPPED, DisclosureClass, fields_of, ocn_code

_E = TypeVar("_E", bound=StrEnum)


def decide(request: Request, holding: Holding, now_us: int) -> Decision:
    """Decide whether ``request`` may be answered to who holds ``holding``.

    Args:
        request: what is asked.
        holding: what the caller holds.
        now_us: the time of the decision, microseconds UTC.

    The order of the checks is the order in which a person would ask: for what purpose, on what basis, which part, and
    whose records of when. The first that fails is the reason.
    """
    basis = _basis(request, holding, now_us)
    if isinstance(basis, Deny):
        return basis
    direction = _member(Direction, request.direction)
    if direction is None:
        return rules.DIRECTION_UNKNOWN.deny()
    sides = rules.SIDES[direction]
    if not sides <= holding.directions:
        return rules.DIRECTION_OUTSIDE.deny()
    classes = _classes(holding, basis, sides)
    if isinstance(classes, Deny):
        return classes
    fields = _fields(request, classes)
    if isinstance(fields, Deny):
        return fields
    windows = _windows(request, holding)
    if isinstance(windows, Deny):
        return windows
    return Permit(
        basis.purpose, Action(request.action), basis.citation, holding.agreement, classes, fields, sides, windows
    )


def _basis(request: Request, holding: Holding, now_us: int) -> rules.Basis | Deny:
    purpose = _member(Purpose, request.purpose)
    if purpose is None:
        return rules.PURPOSE_UNKNOWN.deny()
    if purpose is Purpose.MARKETING:
        return rules.MARKETING.deny()
    basis = rules.BASES.get(purpose)
    if basis is None:
        return rules.PURPOSE_NOT_OFFERED.deny()
    if holding.purpose != request.purpose:
        return rules.PURPOSE_NOT_HELD.deny()
    if basis.needs_agreement and not holding.agreement:
        return rules.AGREEMENT_ABSENT.deny()
    if now_us >= holding.expires_us:
        return rules.GRANT_EXPIRED.deny()
    if _member(Action, request.action) not in basis.actions:
        return rules.ACTION_UNKNOWN.deny()
    return basis


def _classes(holding: Holding, basis: rules.Basis, sides: frozenset[str]) -> frozenset[DisclosureClass] | Deny:
    """Return the classes held and reached, without the leg that is not asked for."""
    held = set()
    for name in holding.classes:
        found = _member(DisclosureClass, name)
        if found is None:
            return rules.CLASS_UNKNOWN.deny()
        held.add(found)
    # A token should never hold more than its purpose reaches. If one does, its issuer erred: refuse, do not narrow.
    if beyond := held - basis.classes:
        return (rules.CLASS_LOCATION if DisclosureClass.LOCATION in beyond else rules.CLASS_UNREACHED).deny()
    if rules.NEEDED_CLASS not in held:
        return rules.CLASS_MISSING.deny()
    return frozenset(held - {cls for side, cls in rules.LEG_CLASSES.items() if side not in sides})


def _fields(request: Request, classes: frozenset[DisclosureClass]) -> tuple[str, ...] | Deny:
    reached = tuple(f.name for f in fields_of(*classes))
    if request.fields is None:
        return reached
    if not request.fields or not set(request.fields) <= set(reached):
        return rules.FIELD_UNKNOWN.deny()
    return tuple(name for name in reached if name in request.fields)


def _windows(request: Request, holding: Holding) -> tuple[OcnWindow, ...] | Deny:
    """Return, for each held OCN, when within the asked window it was the caller's; adjoining periods are one."""
    if request.start_us >= request.end_us:
        return rules.WINDOW_EMPTY.deny()
    if (holding.start_us is not None and request.start_us < holding.start_us) or (
        holding.end_us is not None and request.end_us > holding.end_us
    ):
        return rules.WINDOW_OUTSIDE.deny()
    if not all(_is_ocn(ocn) for ocn in holding.ocns):
        return rules.OCN_INVALID.deny()
    found: list[OcnWindow] = []
    periods = (
        OcnWindow(
            request.start_us if o.start_us is None else max(o.start_us, request.start_us),
            request.end_us if o.end_us is None else min(o.end_us, request.end_us),
            o.ocn,
        )
        for o in holding.ownership
        if o.ocn in holding.ocns
    )
    for period in sorted((p for p in periods if p.start_us < p.end_us), key=lambda p: (p.ocn, p.start_us)):
        last = found[-1] if found else None
        if last is not None and last.ocn == period.ocn and period.start_us <= last.end_us:
            found[-1] = OcnWindow(last.start_us, max(last.end_us, period.end_us), last.ocn)
        else:
            found.append(period)
    if not found:
        return rules.OCN_NOT_OWNED.deny()
    return tuple(sorted(found))


def _is_ocn(text: str) -> bool:
    """Tell a carrier's code from the two states, which are nobody's, and from anything else."""
    if text in (OCN_NONE, OCN_UNMAPPED):
        return False
    try:
        ocn_code(text)
    except ValueError:
        return False
    return True


def _member(kind: type[_E], value: str) -> _E | None:
    try:
        return kind(value)
    except ValueError:
        return None
