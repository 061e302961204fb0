"""The tables of deploy/docs/legal.md, made from the data. ``python -m tests.support.legaldocs`` writes them anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proxy.policy.instruments import INSTRUMENTS, Cell, Instrument, Requirement
from proxy.policy.legal import DECISION_RULES
from proxy.policy.legalrules import RULES
from proxy.policy.process import AUTHORITY_MEANS, FACT_MEANS, Authority, Fact, LegalRule, Reach, RecordClass
from proxy.policy.validation import SCOPE_WIDENED
from schema.fields import DisclosureClass, LegalClass, fields_of

PAGE = Path(__file__).parents[2] / "deploy" / "docs" / "legal.md"
_SIGNS = {Reach.DISCLOSE: "yes", Reach.FREEZE: "frozen", Reach.NOT_HELD: "none held", Reach.NEVER: "never"}


def _cell(instrument: Instrument, cls: RecordClass, cell: Cell) -> str:
    text = _SIGNS[cell.reach]
    if cls is RecordClass.BASIC and instrument.only is not None:
        text = "part"
    if cell.requires:
        text += f", with `{cell.requires[0].rule.code}`"
    if cell.reach is Reach.NEVER and cell.rule is not None and cls is not RecordClass.PROSPECTIVE:
        text += f": `{cell.rule.code}`"
    return text


def matrix() -> str:
    """Return instrument × record class."""
    rows = ["| instrument | under | B basic | O other | L location | C content | P to come |", "|---" * 7 + "|"]
    for i in INSTRUMENTS.values():
        cells = " | ".join(_cell(i, cls, i.cells[cls]) for cls in RecordClass)
        rows.append(f"| `{i.id}`: {i.name} | {i.citation} | {cells} |")
    return "\n".join(rows)


def fields() -> str:
    """Return which fields of each disclosure class belong to which record class."""
    rows = ["| class | B | O | L |", "|---|---|---|---|"]
    for cls in DisclosureClass:
        named = [", ".join(f"`{f.name}`" for f in fields_of(cls) if f.legal is legal) for legal in LegalClass]
        rows.append(f"| `{cls.value}` | {' | '.join(named)} |")
    narrowed = [i for i in INSTRUMENTS.values() if i.only is not None]
    lines = [
        f"* `{i.id}` reaches of these only: {', '.join(f'`{name}`' for name in i.fields())} ({i.citation})."
        for i in narrowed
    ]
    return "\n".join([*rows, "", *lines])


def requirements() -> str:
    """Return what each instrument must have."""
    rows = ["| instrument | must have | days |", "|---|---|---|"]
    for i in INSTRUMENTS.values():
        parts = [_requirement(q) for q in i.requires]
        parts += [f"for {cls.value}: {_requirement(q)}" for cls, cell in i.cells.items() for q in cell.requires]
        needs = "; ".join(parts) or "is referred"
        rows.append(f"| `{i.id}` | {needs} | {_days(i)} |")
    return "\n".join(rows)


def _requirement(q: Requirement) -> str:
    wants = [f"`{name}`" for name in q.stated]
    if q.signed_by:
        wants.append("signed by " + ", ".join(f"`{a.value}`" for a in sorted(q.signed_by)))
    wants += [f"`{f.value}`" for f in sorted(q.facts)]
    text = " or ".join(wants)
    if q.if_signed:
        text += f" (where signed by {', '.join(f'`{a.value}`' for a in sorted(q.if_signed))})"
    if q.if_secret:
        text += " (where it forbids to tell of it)"
    return text


def _days(i: Instrument) -> str:
    days = []
    if i.serve_within is not None:
        days.append(f"served within {i.serve_within.days} days")
    if i.answer_days is not None:
        when = {0: "at once", 1: "within 1 business day"}.get(i.answer_days, f"within {i.answer_days} business days")
        days.append(f"answered {when}, if it sets no day")
    if i.objection_days is not None:
        days.append(f"objected to within {i.objection_days} days")
    return "; ".join(days)


def facts() -> str:
    """Return what each fact and each signatory means."""
    rows = ["| fact | attests that |", "|---|---|"]
    rows += [f"| `{fact.value}` | {FACT_MEANS[fact]} |" for fact in Fact]
    rows += ["", "| signed by | is |", "|---|---|"]
    rows += [f"| `{who.value}` | {AUTHORITY_MEANS[who]} |" for who in Authority]
    return "\n".join(rows)


def rules() -> str:
    """Return every rule, in order of its code."""
    rows = ["| rule | from | says | to do |", "|---|---|---|---|"]
    every: list[LegalRule] = sorted((*RULES, *DECISION_RULES, SCOPE_WIDENED), key=lambda r: r.code)
    for rule in every:
        house = "; ours" if rule.house else ""
        rows.append(f"| `{rule.code}` | {rule.citation}; {rule.effective}{house} | {rule.says} | {rule.do} |")
    return "\n".join(rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "matrix": matrix,
    "fields": fields,
    "requirements": requirements,
    "facts": facts,
    "rules": rules,
}


def written(page: str) -> str:
    """Return a page with each marked section made anew."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        assert after, f"no section {name}"
        page = f"{before}{begin}{make()}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
