"""`tollgate log`: the access log's commands."""

from __future__ import annotations

import click

from proxy.cli.lazy import Command, LazyGroup

_COMMANDS: dict[str, Command] = {
    "show": Command("proxy.cli.log.show", "show", "Show entries: who asked for what, and what came of it."),
    "search": Command("proxy.cli.log.search", "search", "Find entries by who, purpose, case, decision, time, number."),
    "erase": Command("proxy.cli.log.erase", "erase", "Erase openings that have been kept long enough."),
}


@click.command("log", cls=LazyGroup, known=_COMMANDS)
def log() -> None:
    """Read the access log, prove it and check it.

    Every look is itself an entry of the log, with your name, before anything is shown.
    """
