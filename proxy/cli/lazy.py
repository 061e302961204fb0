"""Groups whose commands are known by name and imported only when asked for."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click


class Command(NamedTuple):
    """Where a command is, and the line that the group's help shows of it."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for.

    Args:
        known: the commands by name, in the order in which a person meets them.
    """

    def __init__(self, *args: Any, known: dict[str, Command], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known = known

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order."""
        return list(self._known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None for a name that is none of ours."""
        entry = self._known.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._known.items()])
