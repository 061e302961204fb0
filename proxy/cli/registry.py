"""`tollgate carrier`, `agreement`, `client`: who may ask, by the gateway's API as the operator who is signed in.

What widens is proposed here and approved by another (`tollgate change`); what ends, ends at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from proxy.cli.asking import DAY, KEY_FILE, ask, key_file, one_key, part, propose, reason, said, show, today
from proxy.cli.common import json_option
from proxy.registry.model import REQUESTS_PER_MINUTE, ROWS_PER_DAY


def _ending(
    group: click.Group,
    arguments: Sequence[str],
    path: str,
    body: Callable[[Mapping[str, str]], Mapping[str, str]],
    done: str,
    help: str,
) -> None:
    """Add the command ``disable``: one operator, a reason, at once.

    Args:
        group: where.
        arguments: what it takes, in order.
        path: of the API, with arguments in it.
        body: the arguments that stand in the body.
        done: what the person is told, with arguments in it.
        help: the command's help.
    """

    @reason
    def command(reason: str, **given: str) -> None:
        ask(
            "POST", path.format(**{name: part(text) for name, text in given.items()}), {**body(given), "reason": reason}
        )
        said(done.format(**given))

    made: Callable[..., Any] = command
    for name in reversed(arguments):
        made = click.argument(name)(made)
    group.command("disable", help=help)(made)


def _nothing(_: Mapping[str, str]) -> Mapping[str, str]:
    return {}


def _listing(what: str, title: str, columns: Sequence[str], row: Callable[[Any], Sequence[Any]]) -> click.Command:
    """Return a command ``list``, with ``--json``."""

    @click.option("--carrier", help="Only this carrier's.")
    @json_option
    def command(carrier: str | None, as_json: bool) -> None:
        found = ask("GET", f"/v1/{what}")[what]
        values = [value for value in found if carrier in (None, value["carrier"])]
        show(as_json, title, columns, [row(value) for value in values], values)

    return click.command("list", help=f"List {what}, ended and disabled ones too.")(command)


# --- carriers --------------------------------------------------------------------------------------------------------


@click.group()
def carrier() -> None:
    """Carriers and their OCNs."""


def _ocn_period(text: str) -> dict[str, str | None]:
    """Read OCN[:FROM[:TO]]."""
    ocn, *days = text.split(":")
    try:
        first, end = ([date.fromisoformat(day) if day else None for day in days] + [None, None])[:2]
    except ValueError:
        days = ["", "", ""]
    if len(days) > 2:
        raise click.UsageError(f"{text}: write an OCN as 123A, 123A:2020-01-01 or 123A:2020-01-01:2025-01-01")
    return _period(ocn, first, end)


def _period(ocn: str, first: date | None, end: date | None) -> dict[str, str | None]:
    return {
        "ocn": ocn.upper(),
        "from": (first or today()).isoformat(),
        "to": None if end is None else end.isoformat(),
    }


@carrier.command("add")
@click.argument("carrier_id")
@click.option("--name", required=True, help="The company's name.")
@click.option("--ocn", "ocns", multiple=True, help="An OCN of theirs: OCN, OCN:FROM or OCN:FROM:TO (from today on).")
@reason
@json_option
def carrier_add(carrier_id: str, name: str, ocns: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Propose a carrier under a short id of ours.

    Records of calls before an OCN's FROM are not the carrier's to see: give the day since which it is theirs.

    \b
    Example:
      tollgate carrier add carrier-a --name "Example Carrier A" --ocn 123A:2020-01-01 --reason "new interconnection"
    """
    payload = {"carrier": carrier_id, "name": name, "ocns": [_ocn_period(text) for text in ocns]}
    propose("carrier.add", payload, reason, as_json)


@carrier.command("ocn")
@click.argument("carrier_id")
@click.argument("ocn")
@click.option("--from", "first", type=DAY, help="First day (UTC) it is theirs; default today.")
@click.option("--to", "end", type=DAY, help="First day (UTC) it is not theirs any more; default open.")
@click.option("--end", "ends", type=DAY, help="End what is theirs before this day, at once, instead of proposing.")
@reason
@json_option
def carrier_ocn(
    carrier_id: str, ocn: str, first: date | None, end: date | None, ends: date | None, reason: str, as_json: bool
) -> None:
    """Propose that a carrier has an OCN from a day on, or (--end) take it away from a day on.

    \b
    Example, an OCN that moves from one carrier to another:
      tollgate carrier ocn carrier-a 123A --end 2026-01-01 --reason "sold"
      tollgate carrier ocn carrier-b 123A --from 2026-01-01 --reason "bought"
    """
    if ends is None:
        propose("ocn.add", {"carrier": carrier_id, **_period(ocn, first, end)}, reason, as_json)
        return
    if first is not None or end is not None:
        raise click.UsageError("--end goes without --from and --to")
    path = f"/v1/carriers/{part(carrier_id)}/ocns/{part(ocn.upper())}/end"
    ask("POST", path, {"before": ends.isoformat(), "reason": reason})
    said(f"OCN {ocn.upper()} is {carrier_id}'s until before {ends}")


def _carrier_row(value: Any) -> Sequence[Any]:
    ocns = "\n".join(f"{o['ocn']}  {o['from']} .. {o['to'] or ''}" for o in value["ocns"])
    return value["carrier"], value["name"], ocns, value["disabled_at"]


carrier.add_command(
    _listing("carriers", "Carriers", ("carrier", "name", "OCNs (from, until before)", "disabled"), _carrier_row)
)
_ending(
    carrier,
    ("carrier_id",),
    "/v1/carriers/{carrier_id}/end",
    _nothing,
    "carrier {carrier_id} disabled",
    "Disable a carrier: its clients and their tokens are dead at once.",
)


# --- agreements ------------------------------------------------------------------------------------------------------


@click.group()
def agreement() -> None:
    """Interconnection agreements. Without one in force a carrier's clients get no token."""


@agreement.command("add")
@click.argument("reference")
@click.option("--carrier", "carrier_id", required=True, help="The carrier's id.")
@click.option("--from", "first", type=DAY, required=True, help="First day (UTC) it is in force.")
@click.option("--to", "end", type=DAY, help="First day (UTC) it is not in force any more; default open.")
@click.option("--cpni-clause", required=True, help="Where it permits the exchange of records (47 U.S.C. 222(d)(1)).")
@reason
@json_option
def agreement_add(
    reference: str, carrier_id: str, first: date, end: date | None, cpni_clause: str, reason: str, as_json: bool
) -> None:
    """Propose an agreement under its reference.

    \b
    Example:
      tollgate agreement add ICA-2026-001 --carrier carrier-a --from 2026-01-01 --cpni-clause "section 9" \\
          --reason "signed"
    """
    payload = {
        "agreement": reference,
        "carrier": carrier_id,
        "from": first.isoformat(),
        "to": None if end is None else end.isoformat(),
        "cpni_clause": cpni_clause,
    }
    propose("agreement.add", payload, reason, as_json)


def _agreement_row(value: Any) -> Sequence[Any]:
    return [value[name] for name in ("agreement", "carrier", "from", "to", "cpni_clause", "disabled_at")]


agreement.add_command(
    _listing(
        "agreements",
        "Agreements",
        ("agreement", "carrier", "from", "until before", "CPNI clause", "disabled"),
        _agreement_row,
    )
)
_ending(
    agreement,
    ("reference",),
    "/v1/agreements/end",
    lambda given: {"agreement": given["reference"]},
    "agreement {reference} disabled",
    "End an agreement now: tokens issued under it are dead at once.",
)


# --- clients ---------------------------------------------------------------------------------------------------------


@click.group()
def client() -> None:
    """The carriers' API clients and their public keys."""


@client.command("add")
@click.argument("client_id")
@click.option("--carrier", "carrier_id", required=True, help="The carrier's id.")
@click.option("--jwks", type=KEY_FILE, required=True, help="File with its public key (JWK) or keys (JWK Set).")
@click.option("--network", "networks", multiple=True, required=True, help="Where it may come from (CIDR); repeatable.")
@click.option("--requests-per-minute", type=click.IntRange(1), default=REQUESTS_PER_MINUTE, show_default=True)
@click.option("--rows-per-day", type=click.IntRange(1), default=ROWS_PER_DAY, show_default=True)
@reason
@json_option
def client_add(
    client_id: str,
    carrier_id: str,
    jwks: Path,
    networks: tuple[str, ...],
    requests_per_minute: int,
    rows_per_day: int,
    reason: str,
    as_json: bool,
) -> None:
    """Propose a carrier's API client with its public keys. Never send or store a private key.

    \b
    Example:
      tollgate client add billing-a --carrier carrier-a --jwks billing-a.jwk --network 192.0.2.0/24 \\
          --reason "their letter of 5 January"
    """
    payload = {
        "client": client_id,
        "carrier": carrier_id,
        "jwks": key_file(jwks),
        "networks": list(networks),
        "requests_per_minute": requests_per_minute,
        "rows_per_day": rows_per_day,
    }
    propose("client.add", payload, reason, as_json)


def _client_row(value: Any) -> Sequence[Any]:
    return (
        value["client"],
        value["carrier"],
        "\n".join(f"{key['kid']} {key['alg']}" for key in value["jwks"]),
        "\n".join(value["networks"]),
        f"{value['requests_per_minute']:,}/min\n{value['rows_per_day']:,} rows/day",
        value["disabled_at"],
    )


client.add_command(
    _listing("clients", "Clients", ("client", "carrier", "keys", "networks", "limits", "disabled"), _client_row)
)
_ending(
    client,
    ("client_id",),
    "/v1/clients/{client_id}/end",
    _nothing,
    "client {client_id} disabled",
    "Disable a client and its keys: it and its tokens are dead at once.",
)


@client.group("key")
def client_key() -> None:
    """A client's public keys: the next one before the old one goes."""


@client_key.command("add")
@click.argument("client_id")
@click.option("--jwks", type=KEY_FILE, required=True, help="File with the public key (JWK).")
@reason
@json_option
def client_key_add(client_id: str, jwks: Path, reason: str, as_json: bool) -> None:
    """Propose a further public key of a client."""
    propose("client.key.add", {"client": client_id, "jwk": one_key(jwks)}, reason, as_json)


_ending(
    client_key,
    ("client_id", "kid"),
    "/v1/clients/{client_id}/keys/end",
    lambda given: {"kid": given["kid"]},
    "key {kid} of {client_id} disabled",
    "Disable a key: what it signs, and tokens it was used to get, are dead at once.",
)
