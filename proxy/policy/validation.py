"""The check of a served process: ``check(served, now)`` gives Validated or Deficient, and ``narrow`` a smaller scope.

Pure; every finding is collected, because the letter that goes back names them all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from proxy.policy import legalrules as r
from proxy.policy.extraction import TARGETS_MAX
from proxy.policy.instruments import INSTRUMENTS, REFERRED, Instrument, Requirement
from proxy.policy.model import Deny
from proxy.policy.process import (
    ORDER,
    Deficient,
    Finding,
    LegalRule,
    Reach,
    RecordClass,
    Scope,
    Served,
    Validated,
    Validation,
)
from schema.fields import BY_NAME, DisclosureClass, fields_of

CONTENT: Final = "content"
FUTURE: Final = "prospective"
CERTIFICATIONS: Final = frozenset({"902(11)", "902(13)", "902(14)"})
WIDE_WINDOW: Final = timedelta(days=5 * 366)
WIDE_TARGETS: Final = 1_000
"""Beyond either an objection is worth a thought."""

_CLASSES: Final = {cls.value: tuple(f.name for f in fields_of(cls)) for cls in DisclosureClass}
_ELSEWHERE: Final = {CONTENT: RecordClass.CONTENT, FUTURE: RecordClass.PROSPECTIVE}
"""What may be asked for and stands in no record."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
SCOPE_WIDENED = LegalRule(
    "scope.widened",
    "47 U.S.C. 222(c)(1)",
    r.ACT_1996,
    "The new scope reaches beyond the one that was validated.",
    "A scope can be narrowed only; wider process is a case of its own.",
)


def micros(at: datetime) -> int:
    """Return an aware time as microseconds since 1970-01-01 UTC."""
    return (at - _EPOCH) // _MICROSECOND


def check(served: Served, now: datetime) -> Validation:
    """Hold a process against its instrument.

    Args:
        served: the process as the handler read it.
        now: the time of the check, aware.
    """
    instrument = INSTRUMENTS.get(served.instrument)
    if instrument is None:
        return Deficient((Finding(r.INSTRUMENT_UNKNOWN),), None, ())
    if instrument.id in REFERRED:
        return Deficient((Finding(r.INSTRUMENT_REFERRED),), None, ())
    zone = _zone(served.zone)
    reached = _reach(served, instrument)
    unmet = [
        *_general(served, instrument),
        *(Finding(q.rule) for q in instrument.requires if not _met(q, served)),
        *([Finding(r.ZONE_UNKNOWN)] if zone is None else _dates(served, instrument, now, zone)),
        *_targets(served),
    ]
    end_us, window_beyond, window_notes = _window(served, zone or UTC)
    beyond = (*reached.beyond, *window_beyond)
    notes = (*reached.notes, *window_notes, *_notes(served))
    scope = None
    if reached.fields and served.start_us < end_us:
        t = served.targets
        kinds = tuple(sorted(t.kinds))
        scope = Scope(instrument.id, reached.fields, served.start_us, end_us, t.digest, t.count, kinds)
    if scope is None and not unmet and not beyond:
        return Deficient(
            reached.notes, None, tuple(_notes(served))
        )  # all that is asked for is of a kind that is not held
    if unmet or beyond or scope is None:
        return Deficient((*unmet, *beyond), None if unmet else scope, notes)
    return Validated(scope, instrument.citation, reached.withheld, notes)


def narrow(scope: Scope, smaller: Scope, targets_within: bool) -> Scope | Deny:
    """Return ``smaller`` if it lies within ``scope``.

    Args:
        scope: as validated.
        smaller: what it shall become.
        targets_within: whether each of its targets is one of the former (``Targets.within`` knows).
    """
    within = (
        targets_within
        and smaller.instrument == scope.instrument
        and smaller.fields
        and set(smaller.fields) <= set(scope.fields)
        and scope.start_us <= smaller.start_us < smaller.end_us <= scope.end_us
        and 1 <= smaller.targets <= scope.targets
        and set(smaller.target_kinds) <= set(scope.target_kinds)
        and smaller.fields == canonical(smaller.fields)
    )
    return smaller if within else SCOPE_WIDENED.deny()


def canonical(fields: Iterable[str]) -> tuple[str, ...]:
    """Return known fields in canonical order, none twice."""
    return tuple(sorted({f for f in fields if f in ORDER}, key=ORDER.__getitem__))


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _general(served: Served, instrument: Instrument) -> list[Finding]:
    found = []
    if served.country != "US":
        found.append(Finding(r.FOREIGN))
    if served.issued < instrument.effective:
        found.append(Finding(r.INSTRUMENT_EARLY))
    if unknown := served.certification - CERTIFICATIONS:
        found.append(Finding(r.CERTIFICATION_UNKNOWN, tuple(sorted(unknown))))
    return found


def _met(requirement: Requirement, served: Served) -> bool:
    if requirement.if_secret and not served.nondisclosure:
        return True
    if requirement.if_signed and served.signed_by not in requirement.if_signed:
        return True
    return (
        any(str(getattr(served, name)).strip() for name in requirement.stated)
        or served.signed_by in requirement.signed_by
        or not requirement.facts.isdisjoint(served.attested)
    )


@dataclass(frozen=True, slots=True)
class _Reached:
    fields: tuple[str, ...]
    beyond: tuple[Finding, ...]
    withheld: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def _reach(served: Served, instrument: Instrument) -> _Reached:
    """Return what is reached of the classes and fields asked for, and what is not, and why."""
    beyond: list[Finding] = []
    withheld: list[Finding] = []
    notes: list[Finding] = []
    if not served.classes:
        beyond.append(Finding(r.NOTHING_ASKED))
    for name in sorted(served.classes - set(_CLASSES)):
        cls = _ELSEWHERE.get(name)
        cell = None if cls is None else instrument.cells[cls]
        if cell is None:
            _add(beyond, r.CLASS_UNKNOWN, name)
        elif cell.rule is not None:
            _add(beyond if cell.reach is Reach.NEVER else notes, cell.rule, name)
    reached: list[str] = []
    known: set[str] = set()
    for name, fields in _CLASSES.items():
        if name not in served.classes:
            continue
        known.update(fields)
        asked = [f for f in fields if served.fields is None or f in served.fields]
        why = {f: rule for f in asked if (rule := _refusal(served, instrument, f)) is not None}
        reached += [f for f in asked if f not in why]
        # A class of which nothing is reached, or a field asked for by its name, is more than is compelled. The rest of
        # a class is only left out.
        whole = served.fields is None and len(why) == len(asked)
        for field, rule in why.items():
            _add(withheld if served.fields is None and not whole else beyond, rule, name if whole else field)
    if served.fields is not None and (not served.fields or not set(served.fields) <= known):
        beyond.append(Finding(r.FIELD_UNKNOWN))
    return _Reached(canonical(reached), tuple(beyond), tuple(withheld), tuple(notes))


def _refusal(served: Served, instrument: Instrument, field: str) -> LegalRule | None:
    """Return the rule for which a field is not given, None where it is."""
    if instrument.reach(field) is Reach.NEVER:
        return instrument.why_not(field)
    cell = instrument.cells[RecordClass(BY_NAME[field].legal.value)]
    return next((q.rule for q in cell.requires if not _met(q, served)), None)


def _add(found: list[Finding], rule: LegalRule, about: str) -> None:
    """Add to the finding of a rule, each thing once."""
    for place, finding in enumerate(found):
        if finding.rule is rule:
            if about not in finding.about:
                found[place] = Finding(rule, (*finding.about, about))
            return
    found.append(Finding(rule, (about,)))


def _targets(served: Served) -> list[Finding]:
    targets = served.targets
    found = []
    if targets.refused:
        found.append(Finding(r.TARGETS_UNREADABLE, tuple(str(place) for place in targets.refused)))
    if targets.count < 1 and not targets.refused:
        found.append(Finding(r.TARGETS_NONE))
    if targets.count > TARGETS_MAX:
        found.append(Finding(r.TARGETS_MANY))
    return found


def _dates(served: Served, instrument: Instrument, now: datetime, zone: ZoneInfo) -> list[Finding]:
    found = []
    day: date = served.served_at.astimezone(zone).date()
    if served.served_at > now:
        found.append(Finding(r.SERVED_LATER))
    if served.issued > day:
        found.append(Finding(r.ISSUED_LATER))
    # A warrant is executed by serving it; any other process has to hold still when it is answered.
    last = day if instrument.serve_within is not None else now.astimezone(zone).date()
    if served.expires is not None and served.expires < last:
        found.append(Finding(r.EXPIRED))
    if served.return_by is not None and served.return_by < served.issued:
        found.append(Finding(r.RETURN_EARLY))
    late = instrument.serve_within is not None and day - served.issued > instrument.serve_within
    if late and served.expires is None:  # a court may set another time, and the process then says so
        found.append(Finding(instrument.serve_rule or r.EXPIRED))
    return found


def _window(served: Served, zone: tzinfo) -> tuple[int, list[Finding], list[Finding]]:
    """Return (end of the window as far as records existed on service, findings, notes)."""
    service = micros(served.served_at)
    if served.start_us >= served.end_us:
        return served.end_us, [Finding(r.WINDOW_EMPTY)], []
    if served.end_us <= service:
        return served.end_us, [], []
    # Whoever asks "until today" writes the end of the day. That day is cut at the time of service; any later one is
    # asked for beyond what stored records can answer.
    midnight = datetime.combine(served.served_at.astimezone(zone).date() + timedelta(days=1), time(), zone)
    if served.start_us < service and served.end_us <= micros(midnight):
        return service, [], [Finding(r.LAST_DAY_CUT)]
    return service, [Finding(r.PROSPECTIVE)], []


def _notes(served: Served) -> list[Finding]:
    found = []
    if served.targets.guarded:
        found.append(Finding(r.GUARDED, tuple(str(place) for place in served.targets.guarded)))
    wide = served.end_us - served.start_us > WIDE_WINDOW // _MICROSECOND
    if wide or served.targets.count > WIDE_TARGETS:
        found.append(Finding(r.VOLUMINOUS))
    return found
