"""Letters of the legal desk as plain text: what is deficient and why, an objection, an acknowledgement. Pure.

Each finding is named with its rule, its citation and what can be done. A letter never repeats a target; it names its
place in the list served. What anybody wrote (agency, reference) is put into one line of printable characters first.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

from proxy.legal.deadlines import Deadline, DeadlineKind
from proxy.policy.instruments import INSTRUMENTS
from proxy.policy.process import Deficient, Finding, Scope, Validated

WIDTH: Final = 78
_LINE_MAX: Final = 200
_ABOUT_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Addressed:
    """Whom a letter answers, and in which matter."""

    carrier: str
    """Our name."""
    case_id: str
    instrument: str
    agency: str
    officer: str
    reference: str
    served: date
    written: date
    """The day of the letter."""


def deficiency(to: Addressed, found: Deficient) -> str:
    """Return the letter that says what the process does not compel, and what it would."""
    parts = [_head(to, "NOTICE OF DEFICIENCY")]
    parts.append(
        _filled(
            "We cannot answer the process as served. No records have been disclosed on it. The reasons, each with its"
            " rule:"
        )
    )
    parts += _numbered(found.findings)
    if found.within is not None:
        parts.append(
            _filled(
                "Narrowed to what it does reach, the process can be answered without being served again. It would then"
                f" reach these fields: {', '.join(found.within.fields)}."
            )
        )
    parts.append(_filled("Records that exist are not preserved by this letter; ask for it under 18 U.S.C. 2703(f)."))
    return _letter(to, parts)


def objection(to: Addressed, grounds: Iterable[Finding]) -> str:
    """Return the letter that objects to a process (Fed. R. Civ. P. 45(d)(2)(B); 18 U.S.C. 2703(d))."""
    parts = [_head(to, "OBJECTION"), _filled("We object to the process, on these grounds:")]
    parts += _numbered(grounds)
    parts.append(
        _filled("Unless the issuer withdraws or narrows it, we await an order. Records are kept as they are meanwhile.")
    )
    return _letter(to, parts)


def acknowledgement(to: Addressed, found: Validated, due: Iterable[Deadline]) -> str:
    """Return the letter that acknowledges a process, says what will be given, what is left out, and by when."""
    parts = [_head(to, "ACKNOWLEDGEMENT"), _filled("The process was received and compels what it asks for.")]
    parts.append(_filled(_scope(found.scope)))
    if found.withheld:
        parts.append(_filled("Of the classes asked for, these fields are left out, because it does not reach them:"))
        parts += _numbered(found.withheld)
    days = [d.day.isoformat() for d in due if d.kind is DeadlineKind.RESPONSE]
    if days:
        parts.append(_filled(f"We expect to answer by {days[0]}."))
    return _letter(to, parts)


def one_line(text: str, most: int = _LINE_MAX) -> str:
    """Return what somebody wrote as one line: control and format characters are gone, blanks are single."""
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or not unicodedata.category(c).startswith("C")
    )
    words = " ".join(kept.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _scope(scope: Scope) -> str:
    named = "one target" if scope.targets == 1 else f"{scope.targets} targets"
    return f"It names {named} and reaches these fields: {', '.join(scope.fields)}."


def _head(to: Addressed, title: str) -> str:
    kind = INSTRUMENTS.get(to.instrument)
    name = f"{kind.name}, {kind.citation}" if kind is not None else "not known"
    rows = (
        ("To", one_line(", ".join(x for x in (to.officer, to.agency) if x.strip()))),
        ("From", one_line(to.carrier)),
        ("Date", to.written.isoformat()),
        ("Case", one_line(to.case_id)),
        ("Your number", one_line(to.reference) or "none"),
        ("Process", name),
        ("Served", to.served.isoformat()),
    )
    lines = [
        line
        for key, value in rows
        for line in textwrap.wrap(
            f"{key + ':':<13}{value}", WIDTH, subsequent_indent=" " * 13, break_long_words=True, break_on_hyphens=False
        )
    ]
    return "\n".join([title, "", *lines])


def _numbered(findings: Iterable[Finding]) -> list[str]:
    return [_finding(place, finding) for place, finding in enumerate(findings, 1)]


def _finding(place: int, finding: Finding) -> str:
    rule = finding.rule
    about = [one_line(a, _ABOUT_MAX) for a in finding.about[:20]]
    more = len(finding.about) - len(about)
    rows = [rule.says]
    if about:
        rows.append(f"This is about: {', '.join(about)}{f' and {more} more' if more else ''}.")
    rows.append(rule.do)
    rows.append(f"Rule {rule.code}; {rule.citation}." + (" (Our own rule.)" if rule.house else ""))
    indent = " " * 4
    return "\n".join(
        textwrap.fill(row, WIDTH, initial_indent=f"{place:>2}. " if not n else indent, subsequent_indent=indent)
        for n, row in enumerate(rows)
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _letter(to: Addressed, parts: list[str]) -> str:
    close = f"{one_line(to.carrier)}\nLegal process"
    return "\n\n".join([*parts, close]) + "\n"
