"""`tollgate change`: what widens access, proposed by one and approved by another."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.markup import escape

from proxy.cli.asking import ask, part, reason, said, show
from proxy.cli.common import console, emit, json_option, printable

_STATES = ("proposed", "approved", "refused", "withdrawn", "expired")


@click.group()
def change() -> None:
    """What widens access: proposed by one person, approved by another."""


@change.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only those that stand so.")
@json_option
def change_list(state: str | None, as_json: bool) -> None:
    """List changes of the kinds that you propose or decide, newest first.

    \b
    Example, what waits:
      tollgate change list --state proposed
    """
    values = ask("GET", "/v1/changes", **({} if state is None else {"state": state}))["changes"]
    rows = [
        (v["change_id"], v["kind"], _short(v["payload"]), v["state"], v["proposed_by"], v["decided_by"]) for v in values
    ]
    show(as_json, "Changes", ("change", "kind", "what", "state", "proposed by", "decided by"), rows, values)


def _short(payload: Any) -> str:
    """The members of a payload that are plain, in one line."""
    plain = [f"{name} {value}" for name, value in payload.items() if isinstance(value, (str, int)) and value != ""]
    line = ", ".join(plain)
    return line if len(line) <= 100 else line[:99] + "\N{HORIZONTAL ELLIPSIS}"


@change.command("show")
@click.argument("change_id")
@json_option
def change_show(change_id: str, as_json: bool) -> None:
    """Show the whole of a change."""
    found = ask("GET", f"/v1/changes/{part(change_id)}")
    if as_json:
        emit(found)
    else:
        _print(found)


def _print(found: Any) -> None:
    for name, value in (
        ("change", found["change_id"]),
        ("kind", found["kind"]),
        ("state", found["state"]),
        ("proposed", f"{found['proposed_at']} by {found['proposed_by']}"),
        ("reason", found["reason"]),
        ("decided", found["decided_at"] and f"{found['decided_at']} by {found['decided_by'] or found['proposed_by']}"),
        ("because", found["decision_reason"]),
        ("stands until", found["expires_at"]),
        ("digest", found["digest"]),
    ):
        if value:
            console.print(f"[dim]{name:>12}[/]  {escape(printable(value))}")
    # As ASCII: what looks like another text (a homograph, a character turned around) shows as what it is.
    for line in json.dumps(found["payload"], indent=2, ensure_ascii=True).splitlines():
        console.print(f"{'':14}{line}", markup=False)


@change.command("approve")
@click.argument("change_ids", nargs=-1, required=True, metavar="CHANGE_ID...")
@click.option("--digest", help="Approve what has this digest, without asking; with one change.")
def change_approve(change_ids: tuple[str, ...], digest: str | None) -> None:
    """Look at changes and approve them, one after the other: each is made at once.

    Never one of your own. What is approved is what was shown: the approval names its digest.

    \b
    Example:
      tollgate change approve 01a1fe92-561d-789b-bffe-7cb763805959
    """
    if digest is not None and len(change_ids) != 1:
        raise click.UsageError("--digest goes with one change")
    for change_id in change_ids:
        path = f"/v1/changes/{part(change_id)}"
        seen = digest
        if seen is None:
            found = ask("GET", path)
            _print(found)
            click.confirm("Approve this?", abort=True, err=True)
            seen = found["digest"]
        made = ask("POST", path + "/approval", {"digest": seen})
        said(f"{made['kind']} approved and made")


@change.command("refuse")
@click.argument("change_id")
@reason
def change_refuse(change_id: str, reason: str) -> None:
    """Refuse a change that somebody else proposed."""
    made = ask("POST", f"/v1/changes/{part(change_id)}/refusal", {"reason": reason})
    said(f"{made['kind']} refused")


@change.command("withdraw")
@click.argument("change_id")
@reason
def change_withdraw(change_id: str, reason: str) -> None:
    """Take a proposal of your own back."""
    made = ask("POST", f"/v1/changes/{part(change_id)}/withdrawal", {"reason": reason})
    said(f"{made['kind']} withdrawn")
