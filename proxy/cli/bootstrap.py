"""`tollgate staff bootstrap`: the first two operators, by the database directly. It ends with the second one."""

from __future__ import annotations

from datetime import date

import click
from rich.markup import escape

from proxy.changes.bootstrap import bootstrap as set_up
from proxy.cli.asking import DAY, today
from proxy.cli.common import CliError, ExitCode, connect, console, ledger, operator, run, settings
from proxy.staff.model import StaffMember
from schema.roles import Role


@click.command("bootstrap")
@click.argument("staff_id")
@click.option("--subject", required=True, help="What the OpenID provider calls them: its `sub`.")
@click.option("--provider", "issuer", help="The provider's issuer; default: the setting oidc_issuer.")
@click.option("--name", required=True, help="Their name.")
@click.option("--title", default="", help="Their position.")
@click.option("--hired", type=DAY, help="Day of hire (UTC); default today.")
@click.option("--trained", type=DAY, help="Day (UTC) on which they were trained (47 CFR 64.2009(b)); default today.")
@click.option("--course", required=True, help="What the training is called.")
@click.pass_context
def bootstrap(
    ctx: click.Context,
    staff_id: str,
    subject: str,
    issuer: str | None,
    name: str,
    title: str,
    hired: date | None,
    trained: date | None,
    course: str,
) -> None:
    """Name one of the first two operators: run it for each of them.

    It needs the home and the database, and is refused as soon as two operators are active, and for 7 days after one of
    them was suspended or lost the role. From then on whatever
    widens access is proposed by one of them and approved by the other. It is entered in the access log under your name
    on this machine.

    \b
    Example:
      tollgate staff bootstrap operator-1@carrier.example --subject 00u1 --name "First Operator" --course "CPNI 2026"
    """
    config = settings(ctx)
    provider = issuer or config.oidc_issuer
    if not provider:
        hint = "set oidc_issuer in tollgate.toml, or give --provider"
        raise CliError("no OpenID provider is set: nobody could sign in", ExitCode.CONFIGURATION, hint)
    member = StaffMember(staff_id, provider, subject, name, hired or today(), title=title)

    async def work() -> None:
        async with connect(config, Role.OPERATOR) as conn, ledger(config) as log:
            await set_up(conn, log, member, trained or today(), course, operator())

    run(work())
    console.print(f"[green]done[/]  {escape(staff_id)} is an operator; next: `tollgate login`")
