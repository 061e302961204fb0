"""`tollgate staff`: who works here. What widens is proposed as a change; what narrows is done at once."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
from rich.table import Table
from rich.text import Text

from proxy.cli.common import console, emit, json_option, printable, run, stdout
from proxy.cli.lazy import Command, LazyGroup
from proxy.client.staff import StaffSession
from proxy.staff.model import StaffRole

COMMANDS: dict[str, Command] = {
    "list": Command("proxy.cli.staff", "list_", "Who works here: roles, training, suspensions."),
    "train": Command("proxy.cli.staff", "train", "Record that somebody else was trained."),
    "suspend": Command("proxy.cli.staff", "suspend", "Suspend somebody: they and their tokens are dead at once."),
    "end-role": Command("proxy.cli.staff", "end_role", "Take a role away, at once."),
    "add": Command("proxy.cli.staffchanges", "add", "Propose a member of staff, with roles."),
    "give-role": Command("proxy.cli.staffchanges", "give_role", "Propose a further role of somebody."),
    "add-key": Command("proxy.cli.staffchanges", "add_key", "Propose a key with which somebody signs certificates."),
    "resume": Command("proxy.cli.staffchanges", "resume", "Propose that a suspension is lifted."),
    "bootstrap": Command("proxy.cli.bootstrap", "bootstrap", "Name the first two operators, in the set-up."),
}


@click.group(cls=LazyGroup, known=COMMANDS)
def staff() -> None:
    """Who works here, in which roles, trained until when."""


async def _ask(method: str, path: str, body: Any = None) -> Any:
    async with StaffSession.open() as session:
        return (await session.request(method, path, json=body)).json


def _path(staff_id: str, *more: str) -> str:
    return "/v1/staff/" + "/".join(quote(part, safe="") for part in (staff_id, *more))


_reason = click.option("--reason", required=True, help="Why; it stands in the access log.")


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List everybody with their roles; who is suspended or not trained gets no token."""
    found = run(_ask("GET", "/v1/staff"))["staff"]
    if as_json:
        emit(found)
        return
    table = Table(title="Staff", title_justify="left")
    for column in ("staff", "name", "roles", "trained", "due by", "suspended"):
        table.add_column(column, overflow="fold")
    for each in found:
        due = each["training_due"] + ("" if each["training"] == "current" else f" ({each['training']})")
        cells = (
            each["staff_id"],
            each["name"],
            ", ".join(each["roles"]),
            each["trained_on"],
            due,
            each["suspended_at"],
        )
        table.add_row(*(Text(printable(cell or "")) for cell in cells))
    stdout().print(table)


@click.command()
@click.argument("staff_id")
@click.option("--on", "day", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The day (UTC) of the training.")
@click.option("--course", required=True, help="What it is called.")
def train(staff_id: str, day: Any, course: str) -> None:
    """Record that somebody else was trained (47 CFR 64.2009(b)); by an operator or privacy officer.

    \b
    Example:
      tollgate staff train handler@carrier.example --on 2026-11-02 --course "CPNI 2026"
    """
    body = {"completed_on": day.date().isoformat(), "course": course}
    told = run(_ask("POST", _path(staff_id, "training"), body))
    _done(f"training of {staff_id} recorded; due again by {told['training_due']}")


@click.command()
@click.argument("staff_id")
@_reason
def suspend(staff_id: str, reason: str) -> None:
    """Suspend somebody: they and their tokens are dead at once. To lift it takes two operators."""
    run(_ask("POST", _path(staff_id, "suspension"), {"reason": reason}))
    _done(f"{staff_id} suspended")


@click.command("end-role")
@click.argument("staff_id")
@click.argument("role", type=click.Choice([role.value for role in StaffRole]))
@_reason
def end_role(staff_id: str, role: str, reason: str) -> None:
    """Take a role away, at once. To give it again takes two operators."""
    run(_ask("POST", _path(staff_id, "roles", role, "end"), {"reason": reason}))
    _done(f"{staff_id} is {role} no more")


def _done(text: str) -> None:
    console.print("done  " + printable(text), markup=False)
