"""`tollgate report`: what was asked for by legal process, and what was disclosed to whom, counted from the log."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from proxy.cli.common import emit, json_option, printable, run, stdout
from proxy.client.staff import StaffSession

_PERIOD = (
    click.option("--from", "first", required=True, metavar="TIME", help="From this day or time (UTC)."),
    click.option("--to", "last", required=True, metavar="TIME", help="Until before this day or time (UTC)."),
    click.option("--reason", required=True, help="Why the report is made; stands in the log with your name."),
    click.option("--for-others", is_flag=True, help="As the legal desk: only what everybody may know of."),
)


@click.group("report")
def report() -> None:
    """Reports, counted from the access log and never from cases.

    A case under an order of non-disclosure is in no report but the legal desk's own. You have to be signed in
    (`tollgate login`) as privacy officer, legal handler or legal approver.

    \b
    Examples:
      tollgate report transparency --from 2026-01-01 --to 2026-07-01 --reason "first half of 2026"
      tollgate report disclosures --from 2026-01-01 --to 2027-01-01 --reason "yearly certificate"
    """


def _period(command: Any) -> Any:
    for option in reversed(_PERIOD):
        command = option(command)
    return command


@report.command("transparency")
@_period
@click.option(
    "--bands",
    type=click.Choice(["250", "500", "1000", "100", "none"]),
    default="250",
    show_default=True,
    help="Width of the bands of national security letters (50 U.S.C. 1874(a)); 100: yearly.",
)
@json_option
def transparency(first: str, last: str, reason: str, for_others: bool, bands: str, as_json: bool) -> None:
    """Count legal process by instrument: received, deficient, objected to, answered, preserved.

    National security letters stand in bands only, and only for whole half-years (yearly bands: whole years that ended a
    year ago); for another period say `--bands none`.
    """
    asked = _asked(first, last, reason, for_others) | {"bands": bands}
    told = run(_get("/v1/reports/transparency", asked))
    if as_json:
        emit(told)
        return
    names = ("received", "selectors", "deficient", "objected", "delivered", "preserved")
    table = Table("instrument", *names, box=None, header_style="bold")
    for name, counts in told["instruments"].items():
        table.add_row(Text(printable(name)), *(f"{counts[n]:,}" for n in names))
    if letters := told.get("national_security_letters"):
        table.add_row("nsl", letters["received"], letters["selectors"], *[""] * 4)
    stdout().print(table)
    if letters:
        click.echo(f"national security letters in bands: {letters['citation']}")
    _unread(told)


@report.command("disclosures")
@_period
@json_option
def disclosures(first: str, last: str, reason: str, for_others: bool, as_json: bool) -> None:
    """Count what was disclosed to third parties, by carrier and by basis (47 CFR 64.2009(c))."""
    told = run(_get("/v1/reports/disclosures", _asked(first, last, reason, for_others)))
    if as_json:
        emit(told)
        return
    table = Table("recipient", "purpose", "basis", "accesses", "records", "classes", box=None, header_style="bold")
    for item in told["recipients"]:
        table.add_row(
            *(Text(printable(item[name])) for name in ("recipient", "purpose", "basis")),
            f"{item['accesses']:,}",
            f"{item['records']:,}",
            Text(printable(" ".join(item["classes"]))),
        )
    stdout().print(table)
    _unread(told)


def _asked(first: str, last: str, reason: str, for_others: bool) -> dict[str, str]:
    return {"from": first, "to": last, "reason": reason, **({"audience": "others"} if for_others else {})}


async def _get(path: str, params: dict[str, str]) -> Any:
    async with StaffSession.open() as session:
        return (await session.request("GET", path, params=params)).json


def _unread(told: dict[str, Any]) -> None:
    if told["unread"]:
        click.echo(f"{told['unread']:,} entries could not be read any more: their openings were erased")
