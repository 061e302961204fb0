"""`tollgate staff add|give-role|add-key|resume`: what widens the registry of staff, proposed for another to approve."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from proxy.cli.asking import DAY, KEY_FILE, one_key, propose, reason, today
from proxy.cli.common import json_option, settings
from proxy.staff.model import StaffRole

ROLES = click.Choice([role.value for role in StaffRole])


@click.command("add")
@click.argument("staff_id")
@click.option("--subject", required=True, help="What the OpenID provider calls them: its `sub`.")
@click.option("--provider", "issuer", help="The provider's issuer; default: the setting oidc_issuer of --home.")
@click.option("--name", required=True, help="Their name, as it stands on certificates.")
@click.option("--title", default="", help="Their position, as it stands on certificates.")
@click.option("--hired", type=DAY, help="Day of hire (UTC); default today.")
@click.option("--role", "roles", multiple=True, type=ROLES, help="A role; repeatable.")
@reason
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    staff_id: str,
    subject: str,
    issuer: str | None,
    name: str,
    title: str,
    hired: date | None,
    roles: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Propose a member of staff, with roles. Before they are trained (`tollgate staff train`) they get no token.

    \b
    Example:
      tollgate staff add handler@carrier.example --subject 00u1 --name "Legal Handler" --role legal_handler \\
          --reason "hired"
    """
    payload = {
        "staff": staff_id,
        "issuer": issuer or settings(ctx, database=False).oidc_issuer,
        "subject": subject,
        "name": name,
        "title": title,
        "hired_on": (hired or today()).isoformat(),
        "roles": list(roles),
    }
    propose("staff.add", payload, reason, as_json)


@click.command("give-role")
@click.argument("staff_id")
@click.argument("role", type=ROLES)
@reason
@json_option
def give_role(staff_id: str, role: str, reason: str, as_json: bool) -> None:
    """Propose that somebody has a further role."""
    propose("staff.role.add", {"staff": staff_id, "role": role}, reason, as_json)


@click.command("add-key")
@click.argument("staff_id")
@click.option("--jwks", type=KEY_FILE, required=True, help="File with their public key (JWK).")
@reason
@json_option
def add_key(staff_id: str, jwks: Path, reason: str, as_json: bool) -> None:
    """Propose a public key with which somebody signs certificates, outside Tollgate."""
    propose("staff.key.add", {"staff": staff_id, "jwk": one_key(jwks)}, reason, as_json)


@click.command("resume")
@click.argument("staff_id")
@reason
@json_option
def resume(staff_id: str, reason: str, as_json: bool) -> None:
    """Propose that somebody's suspension is lifted."""
    propose("staff.resume", {"staff": staff_id}, reason, as_json)
