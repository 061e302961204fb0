"""The `tollgate` command: sub-commands are found by name and imported only when asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from proxy.cli.common import main_errors
from proxy.cli.lazy import Command, LazyGroup

COMMANDS: dict[str, Command] = {
    "init": Command("proxy.cli.init", "init", "Make a home: settings, keys, certificate, database."),
    "serve": Command("proxy.cli.serve", "serve", "Run the gateway."),
    "ingest": Command("proxy.cli.ingest", "ingest", "Read CDR files of switches into the store."),
    "roll": Command("proxy.cli.store", "roll", "Make staged records readable to carriers now."),
    "store": Command("proxy.cli.store", "store", "Look after the store: status, verification, re-mapping."),
    "change": Command("proxy.cli.change", "change", "What widens access: proposed by one, approved by another."),
    "carrier": Command("proxy.cli.registry", "carrier", "Carriers and their OCNs."),
    "agreement": Command("proxy.cli.registry", "agreement", "Interconnection agreements."),
    "client": Command("proxy.cli.registry", "client", "The carriers' API clients and their keys."),
    "login": Command("proxy.cli.login", "sign_in", "Sign in as a member of staff at the company's OpenID provider."),
    "logout": Command("proxy.cli.login", "sign_out", "Sign out: revoke the token, remove the session."),
    "whoami": Command("proxy.cli.login", "who_am_i", "Who is signed in here, in which roles, trained until when."),
    "staff": Command("proxy.cli.staff", "staff", "Who works here: roles, training, suspensions."),
    "case": Command("proxy.cli.case", "case", "Legal process: from what was served to what is delivered."),
    "log": Command("proxy.cli.log", "log", "Read the access log, prove it and check it."),
    "exposure": Command("proxy.cli.exposure", "exposure", "Count what somebody was shown: records, numbers, carriers."),
    "hold": Command("proxy.cli.hold", "hold", "Holds: records kept for cases; 2703(f) preservations."),
    "report": Command("proxy.cli.report", "report", "Reports from the log: transparency, disclosures."),
    "production": Command("proxy.cli.production", "production", "Check packages that answer legal process."),
    "witness": Command("proxy.cli.witness", "witness", "Run a witness: cosign the checkpoints of others' logs."),
    "keys": Command("proxy.cli.keys", "keys", "Back up, restore and verify the keyring; rotate keys; shred."),
    "db": Command("proxy.cli.db", "db", "Bring the database to this version; see where it stands."),
    "config": Command("proxy.cli.config_cmd", "config", "Show every setting, its meaning and its value."),
    "pull": Command("proxy.cli.pull", "pull", "Pull CDRs from a Tollgate, as a carrier does."),
}


class _Main(LazyGroup):
    """The whole command: ends on errors with a message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; every error a person can do something about becomes a message and an exit code."""
        kwargs["standalone_mode"] = False
        with main_errors():
            result = super().main(*args, **kwargs)
            # Without standalone mode click returns the code of ctx.exit() instead of ending the process.
            sys.exit(result if isinstance(result, int) else 0)


@click.command(
    cls=_Main, known=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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
