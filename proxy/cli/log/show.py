"""`tollgate log show`: a look at the log is itself an entry, written before anything is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.common import emit, json_option, ledger, operator, printable, run, settings
from proxy.config import Config
from proxy.ledger.model import Entry, Kind, OpenedEntry, Tag, timestamp

_WIDE = 40


@click.command("show")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most entries.")
@click.option("--after", type=click.IntRange(-1), help="From the entry after this index; default: the last entries.")
@click.option(
    "--kind", "kinds", type=click.Choice([k.value for k in Kind]), multiple=True, help="Only this kind (repeatable)."
)
@json_option
@click.pass_context
def show(ctx: click.Context, limit: int, after: int | None, kinds: tuple[str, ...], as_json: bool) -> None:
    """Show who asked for what, under which purpose, and what came of it.

    \b
    Example:
      tollgate log show --kind access.outcome --limit 50
    """
    entries = run(_show(settings(ctx), limit, after, [Kind(kind) for kind in kinds]))
    if as_json:
        emit([entry.as_json() for entry in entries])
    else:
        Console().print(table(entries))


async def _show(config: Config, limit: int, after: int | None, kinds: Sequence[Kind]) -> list[OpenedEntry]:
    async with ledger(config) as opened:
        asked: dict[str, Any] = {"purpose": "log", "limit": limit, "kinds": [kind.value for kind in kinds]}
        if after is not None:
            asked["after"] = after
        await opened.append(reading(asked))
        if after is None:
            return await opened.read_last(limit=limit, kinds=kinds or None, others=True)
        return await opened.read(after=after, limit=limit, kinds=kinds or None, others=True)


def reading(asked: dict[str, Any]) -> Entry:
    """Return the entry for a look at the log by whoever runs this process."""
    name = operator()
    return Entry(Kind.LOG_READ, actor={"os_user": name}, request=asked, tags=(Tag("staff", name.encode()),))


def table(entries: Sequence[OpenedEntry]) -> Table:
    """Return entries as a table for people."""
    made = Table("index", "time", "kind", "who", "purpose", "decision", "rows", box=None, header_style="bold")
    for entry in entries:
        actor, request, outcome = entry.actor, entry.request, entry.outcome
        who = _first(actor, "client_id", "staff", "os_user")
        decision = _first(request, "decision") if entry.kind is not Kind.ACCESS_DENIED else "deny"
        reason = _first(request, "reason") or _first(outcome, "reason")
        state = _first(outcome, "state", "refusals")
        made.add_row(
            str(entry.index),
            timestamp(entry.at)[:-4] + "Z",
            entry.kind.value,
            _shown(actor, who),
            _shown(request, _first(request, "purpose")),
            _shown(request, " ".join(part for part in (decision, reason, state) if part)),
            _shown(outcome, _first(outcome, "rows")),
        )
    return made


def _first(part: dict[str, Any] | None, *names: str) -> str:
    for name in names:
        if part is not None and part.get(name) not in (None, ""):
            return str(part[name])
    return ""


def _shown(part: dict[str, Any] | None, text: str) -> Text:
    if part is None:
        return Text("erased", style="dim")
    plain = printable(text)
    return Text(plain if len(plain) <= _WIDE else plain[: _WIDE - 1] + "…")
