"""`tollgate log`: the access log's commands."""

from __future__ import annotations

import click

from proxy.cli.lazy import Command, LazyGroup

_COMMANDS: dict[str, Command] = {
    "show": Command("proxy.cli.log.show", "show", "Show entries: who asked for what, and what came of it."),
    "search": Command("proxy.cli.log.search", "search", "Find entries by who, purpose, case, decision, time, number."),
    "erase": Command("proxy.cli.log.erase", "erase", "Erase openings that have been kept long enough."),
    "key": Command("proxy.cli.log.publish", "key", "Print the key that checkpoints and receipts verify with."),
    "publish": Command("proxy.cli.log.publish", "publish", "Sign a checkpoint over all that is in the log now."),
    "fsck": Command("proxy.cli.log.fsck", "fsck", "Check the whole log; name the first broken entry."),
    "export": Command("proxy.cli.log.export", "export", "Write the log into a directory, for an auditor."),
    "recover": Command("proxy.cli.log.recover", "recover", "Go on after a restored backup, under a new origin."),
    "verify-receipt": Command("proxy.cli.log.receipt", "verify_receipt", "Check a carrier's receipt offline."),
}


@click.command("log", cls=LazyGroup, known=_COMMANDS)
def log() -> None:
    """Read the access log, prove it and check it.

    Every look is itself an entry of the log, with your name, before anything is shown.
    """
