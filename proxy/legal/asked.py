"""What a process asks for, and a smaller one: read from JSON, compared, fixed by a check. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from proxy.legal.model import Malformed, Scope
from proxy.legal.served import read_window, read_zone
from proxy.legal.targets import ReadTargets
from proxy.policy.process import Deficient, Finding, Validated
from schema.fields import BY_NAME, DisclosureClass, fields_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def scope_of(
    read: ReadTargets,
    start: int,
    end: int,
    zone: ZoneInfo,
    classes: frozenset[str],
    fields: tuple[str, ...] | None,
) -> Scope:
    """Return a scope as it was asked for."""
    return Scope(
        read.targets, start, end, zone.key, classes, fields, tuple(r.place for r in read.refused), read.guarded
    )


def smaller(scope: Scope, read: ReadTargets | None, body: Mapping[str, Any]) -> Scope:
    """Return a scope with what a body of ``narrow`` says; what it does not say stays.

    Raises:
        Malformed: naming the member at fault.
    """
    change: dict[str, Any] = {}
    if read is not None:
        change |= {
            "targets": read.targets,
            "refused": tuple(r.place for r in read.refused),
            "guarded": read.guarded,
        }
    zone = read_zone(scope.zone)
    if not body.keys().isdisjoint({"from", "through", "to"}):
        # What is not said stays: each end is read alone, with the other as it stands.
        start = {"from": body["from"]} if "from" in body else {"from": _text_of(scope.start_us)}
        end = {k: body[k] for k in ("through", "to") if k in body} or {"to": _text_of(scope.end_us)}
        change["start_us"], change["end_us"] = read_window(start | end, zone)
    if "classes" in body:
        change["classes"] = classes(body)
        if scope.fields is not None and "fields" not in body:
            change["fields"] = tuple(
                f for f in scope.fields if f in BY_NAME and BY_NAME[f].disclosure_class.value in change["classes"]
            )
    if "fields" in body:
        change["fields"] = fields(body)
    if "fields" in change and change["fields"] is not None and "classes" not in body:
        change["classes"] = scope.classes & classes_of(change["fields"])
    return scope.resalted(**change)


def within(wanted: Scope, scope: Scope) -> bool:
    """Tell whether a scope asks for nothing that the other does not."""
    return (
        wanted.targets.within(scope.targets)
        and len(wanted.refused) <= len(scope.refused)
        and scope.start_us <= wanted.start_us
        and wanted.end_us <= scope.end_us
        and wanted.classes <= scope.classes
        and _names(wanted) <= _names(scope)
    )


def _names(scope: Scope) -> frozenset[str]:
    if scope.fields is not None:
        return frozenset(scope.fields)
    known = (DisclosureClass(c) for c in scope.classes if c in set(DisclosureClass))
    return frozenset(f.name for f in fields_of(*known))


def fixed(scope: Scope, found: Validated) -> Scope:
    """Return a scope as the check found it compelled: fields named, the end cut where it was."""
    fields = found.scope.fields
    return scope.resalted(
        fields=fields, classes=classes_of(fields), start_us=found.scope.start_us, end_us=found.scope.end_us, refused=()
    )


def classes_of(fields: Sequence[str]) -> frozenset[str]:
    """Return the disclosure classes of known fields."""
    return frozenset(BY_NAME[f].disclosure_class.value for f in fields if f in BY_NAME)


def classes(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the classes that a body names.

    Raises:
        Malformed: it is no list of words.
    """
    value = body.get("classes")
    if not isinstance(value, list) or not 1 <= len(value) <= 32 or not all(_word(v) for v in value):
        raise Malformed("classes", "This has to be a list of disclosure classes.")
    return frozenset(value)


def fields(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the fields that a body names, known ones first and in canonical order; None: all.

    Raises:
        Malformed: it is no list of words.
    """
    value = body.get("fields")
    if value is None:
        return None
    if not isinstance(value, list) or not 1 <= len(value) <= 128 or not all(_word(v) for v in value):
        raise Malformed("fields", "This has to be a list of fields of the record.")
    known = [f for f in BY_NAME if f in value]
    return (*known, *sorted(set(value) - BY_NAME.keys()))


def _word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()


def codes(findings: Iterable[Finding]) -> list[str]:
    """Return the codes of findings."""
    return [finding.rule.code for finding in findings]


def findings_json(found: Validated | Deficient) -> dict[str, Any]:
    """Return what a check found as JSON values, and what the process would reach once it is narrowed."""

    def told(findings: Sequence[Finding], weight: str) -> list[dict[str, Any]]:
        return [
            {
                "rule": f.rule.code,
                "citation": f.rule.citation,
                "says": f.rule.says,
                "do": f.rule.do,
                "about": list(f.about[:100]),
                "weight": weight,
            }
            for f in findings
        ]

    if isinstance(found, Validated):
        return {"findings": told(found.withheld, "withheld") + told(found.notes, "note"), "within": None}
    within = found.within
    return {
        "findings": told(found.findings, "deficient") + told(found.notes, "note"),
        "within": None
        if within is None
        else {"fields": list(within.fields), "start_us": within.start_us, "end_us": within.end_us},
    }


def _text_of(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).isoformat()
