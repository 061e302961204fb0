"""`tollgate hold`: records frozen for cases, as the legal desk sees them through the gateway."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from proxy.cli.common import console, emit, json_option, printable, run, stdout
from proxy.client.staff import StaffSession

_STYLES = {"expired": "dim", "lifted": "dim", "void": "dim", "superseded": "dim"}


@click.group("hold")
def hold() -> None:
    """Holds: records kept for a case, whatever becomes of the store.

    A preservation (18 U.S.C. 2703(f)) freezes what is there for 90 days, renewable once for 90 more; a production's
    hold keeps what it was made of. You have to be signed in (`tollgate login`) as legal handler or approver.

    \b
    Example:
      tollgate hold new C-ABCDEFGHIJ          a validated preservation request
      tollgate hold due                       which end soon
      tollgate hold renew H-ABCDEFGHIJ --reason "renewed request of 2026-11-05"
    """


@hold.command("new")
@click.argument("case")
@json_option
def new(case: str, as_json: bool) -> None:
    """Freeze what the preservation request of CASE asks for. It has to be validated."""
    _one(run(_post("/v1/holds", {"case": case})), as_json)


@hold.command("show")
@click.argument("hold_id", metavar="HOLD")
@json_option
def show(hold_id: str, as_json: bool) -> None:
    """Show a hold."""
    _one(run(_get(f"/v1/holds/{_safe(hold_id)}", {})), as_json)


@hold.command("list")
@click.option("--case", help="Only this case's.")
@click.option("--live", is_flag=True, help="Only those that hold.")
@json_option
def list_holds(case: str | None, live: bool, as_json: bool) -> None:
    """List holds, those that end first at the top."""
    asked = {**({"case": case} if case else {}), **({"live": "true"} if live else {})}
    _many(run(_get("/v1/holds", asked)), as_json)


@hold.command("due")
@click.option("--days", type=click.IntRange(0, 3660), default=14, show_default=True, help="Ending within so many days.")
@json_option
def due(days: int, as_json: bool) -> None:
    """List preservations that end soon (renew them, or let them end), and those whose copies all failed."""
    _many(run(_get("/v1/holds", {"due": str(days)})), as_json)


@hold.command("renew")
@click.argument("hold_id", metavar="HOLD")
@click.option(
    "--reason", required=True, help="The renewed request: who, when, its reference. Stands in the log, sealed."
)
@json_option
def renew(hold_id: str, reason: str, as_json: bool) -> None:
    """Extend a preservation by its second 90 days, on a renewed request (18 U.S.C. 2703(f)(2)); once."""
    _one(run(_post(f"/v1/holds/{_safe(hold_id)}/renew", {"reason": reason})), as_json)


@hold.command("supersede")
@click.argument("hold_id", metavar="HOLD")
@click.option("--by", "case", required=True, metavar="CASE", help="The case of the process that it waited for.")
@json_option
def supersede(hold_id: str, case: str, as_json: bool) -> None:
    """Say that process was served for what a preservation kept, and answered. Its copy stays to its last day."""
    _one(run(_post(f"/v1/holds/{_safe(hold_id)}/supersede", {"case": case})), as_json)


@hold.command("lift")
@click.argument("hold_id", metavar="HOLD")
@click.option("--reason", required=True, help="Why; whoever approves it sees it.")
@json_option
def lift(hold_id: str, reason: str, as_json: bool) -> None:
    """Propose to end a hold. A legal approver approves it (`tollgate change approve`); its copy is then destroyed."""
    asked = {"kind": "hold.lift", "payload": {"hold": hold_id}, "reason": reason}
    change = run(_post("/v1/changes", asked))
    if as_json:
        emit(change)
        return
    click.echo(f"proposed: {printable(str(change['change_id']))}")
    console.print("a legal approver approves it:  tollgate change approve ID", markup=False)


async def _get(path: str, params: dict[str, str]) -> Any:
    async with StaffSession.open() as session:
        return (await session.request("GET", path, params=params)).json


async def _post(path: str, body: dict[str, Any]) -> Any:
    async with StaffSession.open() as session:
        return (await session.request("POST", path, json=body)).json


def _safe(name: str) -> str:
    """Return an id for a path; what is none goes nowhere."""
    if not name.replace("-", "").isalnum():
        raise click.BadParameter("an id as H-ABCDEFGHIJ", param_hint="HOLD")
    return name


def _one(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(value)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, told in value.items():
        if told is not None:
            table.add_row(Text(name.replace("_", " ")), Text(printable(str(told))))
    stdout().print(table)


def _many(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(value)
        return
    table = Table("hold", "case", "kind", "state", "day", "until", "records", box=None, header_style="bold")
    for item in value["holds"]:
        cells = ("hold_id", "case_id", "kind", "state", "day", "expires_at", "rows")
        told = [printable("" if item[name] is None else str(item[name])) for name in cells]
        table.add_row(*map(Text, told), style=_STYLES.get(item["state"], ""))
    stdout().print(table)
