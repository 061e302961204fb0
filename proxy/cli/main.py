"""The `tollgate` command: sub-commands are found by name and imported only when asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from proxy.cli.common import main_errors


class _Entry(NamedTuple):
    module: str
    attribute: str
    help: str


COMMANDS: dict[str, _Entry] = {
    "init": _Entry("proxy.cli.init", "init", "Make a home: settings, keys, certificate, database."),
    "serve": _Entry("proxy.cli.serve", "serve", "Run the gateway."),
    "ingest": _Entry("proxy.cli.ingest", "ingest", "Read CDR files of switches into the store."),
    "roll": _Entry("proxy.cli.store", "roll", "Make staged records readable to carriers now."),
    "store": _Entry("proxy.cli.store", "store", "Look after the store: status, verification, re-mapping."),
    "carrier": _Entry("proxy.cli.registry", "carrier", "Carriers and their OCNs."),
    "agreement": _Entry("proxy.cli.registry", "agreement", "Interconnection agreements."),
    "client": _Entry("proxy.cli.registry", "client", "The carriers' API clients and their keys."),
    "log": _Entry("proxy.cli.log", "log", "Read the access log."),
    "keys": _Entry("proxy.cli.keys", "keys", "Back up, restore and verify the keyring."),
    "db": _Entry("proxy.cli.db", "db", "Bring the database to this version; see where it stands."),
    "config": _Entry("proxy.cli.config_cmd", "config", "Show every setting, its meaning and its value."),
    "pull": _Entry("proxy.cli.pull", "pull", "Pull CDRs from a Tollgate, as a carrier does."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and ends on errors with a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None for a name that is none of ours."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; every error a person can do something about becomes a message and an exit code."""
        kwargs["standalone_mode"] = False
        with main_errors():
            result = super().main(*args, **kwargs)
            # Without standalone mode click returns the code of ctx.exit() instead of ending the process.
            sys.exit(result if isinstance(result, int) else 0)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Directory made by `tollgate init`.")
@click.version_option(package_name="tollgate", message="%(package)s %(version)s")
@click.pass_context
def main(ctx: click.Context, home: Path | None) -> None:
    """Tollgate: the gate in front of a carrier's call detail records.

    \b
    Example, from nothing to a running gateway:
      tollgate init
      tollgate ingest cdrs.csv --profile kamailio-acc --trunk-map trunks.csv
      tollgate serve
    """
    ctx.obj = {"home": home}


if __name__ == "__main__":
    main()
