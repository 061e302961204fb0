"""How a case is shown to people: everything that others wrote is made printable first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from proxy.cli.asking import part
from proxy.cli.common import CliError, ExitCode, console, printable, run, stdout
from proxy.client.staff import StaffSession

_SERVED = (
    "agency",
    "court",
    "officer",
    "reference",
    "statute",
    "signed_by",
    "issued",
    "served_at",
    "return_by",
    "expires",
)
_TARGETS = 10


def show_case(case: Mapping[str, Any]) -> None:
    """Print a case to stdout."""
    out = stdout()
    out.print(f"{case['case_id']}  {case['instrument']}  {case['state']}  version {case['version']}", markup=False)
    rows: list[tuple[str, str]] = [(name.replace("_", " "), str(case["served"].get(name) or "")) for name in _SERVED]
    rows.append(("attested", ", ".join(case["served"]["attested"])))
    rows.append(("answer due", (case["return_at"] or "")[:16]))
    if case["secrecy"] != "none":
        until = case["secret_until"] or "it is lifted"
        rows.append(("secret", f"{case['secrecy']}, until {until}; tell nobody outside the desk"))
    rows += _scope(case["scope"])
    rows += [("document", f"{d['kind']}, {d['pages']} pages, SHA-256 {d['sha256']}") for d in case["documents"]]
    rows += [("approval", _approval(a)) for a in case["approvals"]]
    if (found := case["extraction"]) is not None:
        rows.append(("extraction", f"{found['state']}, {found['records']:,} records, {float(found['part']):.0%}"))
        rows.append(("not searched", unsearched(found)))
    if (made := case["production"]) is not None:
        rows.append(("production", f"number {made['number']}, {made['state']}"))
    rows.append(("you can", ", ".join(case["actions"])))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="dim"), Text(printable(value)))
    out.print(table)
    report(case["findings"])


def unsearched(extraction: Mapping[str, Any]) -> str:
    """Return what an extraction did not reach, in words; empty where it reached all that there was."""
    count = extraction["staged"]
    if not count:
        return ""
    what = "1 record was" if count == 1 else f"{count:,} records were"
    return f"{what} staged when it began (tollgate roll); the certificate says so"


def report(findings: Sequence[Mapping[str, Any]]) -> None:
    """Tell what a check found, to the person."""
    for f in findings:
        about = f" ({', '.join(f['about'][:10])})" if f["about"] else ""
        style = {"deficient": "bold red", "note": "yellow"}.get(f["weight"], "cyan")
        console.print(f"{f['weight']}: ", style=style, end="")
        console.print(printable(f"{f['says']}{about}"), markup=False)
        console.print(printable(f"  {f['do']}  [{f['rule']}; {f['citation']}]"), markup=False)


def letter_of(case_id: str, number: int | None) -> str:
    """Return the text of a letter: the last one, or that of a version of the case.

    Raises:
        CliError: there is none.
    """

    async def work() -> str:
        async with StaffSession.open() as session:
            at = number
            if at is None:
                letters = (await session.request("GET", f"/v1/cases/{part(case_id)}")).json["letters"]
                if not letters:
                    raise CliError("the case has no letter", ExitCode.REFUSED)
                at = letters[-1]
            reply = await session.request("GET", f"/v1/cases/{part(case_id)}/letters/{at}")
            return reply.body.decode("utf-8", "replace")

    return "\n".join(printable(line) for line in run(work()).split("\n"))


def _scope(scope: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if scope is None:
        return []
    shown = scope["targets"][:_TARGETS]
    more = scope["target_count"] - len(shown)
    fields = "all of these classes" if scope["fields"] is None else ", ".join(scope["fields"])
    rows = [
        ("scope", scope["sha256"]),
        ("targets", ", ".join(shown) + (f" and {more:,} more" if more else "")),
        ("window", f"{scope['from']} to before {scope['to']} ({scope['zone']})"),
        ("classes", ", ".join(scope["classes"])),
        ("fields", fields),
    ]
    if scope["guarded"]:
        rows.append(
            ("take care", f"targets at {', '.join(map(str, scope['guarded'][:20]))} are police, courts, counsel, staff")
        )
    return rows


def _approval(a: Mapping[str, Any]) -> str:
    state = "void" if a["voided_at"] else "current" if a["current"] else "earlier"
    verdict = f", {a['verdict']} by {a['decided_by']}" if a["verdict"] else ""
    return f"{a['kind']} by {a['approved_by']} until {a['expires_at'][:16]}, {state}{verdict}"
