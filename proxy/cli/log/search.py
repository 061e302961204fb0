"""`tollgate log search`: entries by who, purpose, case, decision, time or number; logged before anything is shown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from typing import Any

import click

from proxy.cli.common import connect_pool, console, ledger, operator, provider, run, settings, stdout
from proxy.cli.log.show import table
from proxy.cli.options import utc_moment
from proxy.config import Config
from proxy.ledger.model import Kind, OpenedEntry, Tag
from proxy.ledger.search import Query, Search, Seen, looking

_LINE_MAX = 64
_FORMS = {
    "number": (re.compile(r"\+[1-9][0-9]{1,14}"), "a number as +12025550123, or - to read it from stdin"),
    "thousands_block": (re.compile(r"\+1[2-9][0-9]{6}"), "a block of a thousand as +12025550"),
    "exchange": (re.compile(r"\+1[2-9][0-9]{5}"), "an exchange as +1202555"),
}

_TAGS = ("client", "staff", "jkt", "token", "address", "number", "thousands_block", "exchange", "case", "ingest")


def _form(_ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    if text == "-" and param.name == "number":
        text = sys.stdin.readline(_LINE_MAX).strip()
    if text is not None and param.name is not None:
        pattern, says = _FORMS[param.name]
        if pattern.fullmatch(text) is None:
            raise click.BadParameter(says)
    return text


@click.command("search")
@click.option("--reason", required=True, help="Why you look; stands in the log with your name.")
@click.option("--client", help="By this client (its id).")
@click.option("--staff", help="By this member of staff (operating system's name, as the log shows it).")
@click.option("--jkt", metavar="THUMBPRINT", help="With this key (JWK thumbprint).")
@click.option("--token", metavar="ID", help="With this token (its jti).")
@click.option("--address", help="From this network address.")
@click.option("--number", metavar="E164", callback=_form, help="About this telephone number; - reads it from stdin.")
@click.option(
    "--block", "thousands_block", metavar="PREFIX", callback=_form, help="About a number of this block of a thousand."
)
@click.option("--exchange", metavar="PREFIX", callback=_form, help="About a number of this exchange.")
@click.option("--case", help="In this case.")
@click.option("--ingest", metavar="ID", help="About this ingest.")
@click.option("--kind", "kinds", type=click.Choice([k.value for k in Kind]), multiple=True, help="Repeatable.")
@click.option("--purpose", help="For this purpose.")
@click.option("--decision", type=click.Choice(["permit", "deny"]), help="So decided.")
@click.option("--access", "access_id", type=click.UUID, metavar="ID", help="Of this access.")
@click.option("--from", "first", callback=utc_moment, metavar="TIME", help="Not before this day or time (UTC).")
@click.option("--to", "last", callback=utc_moment, metavar="TIME", help="Before this day or time (UTC).")
@click.option("--after", type=click.IntRange(-1), default=-1, help="From the entry after this index.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most entries.")
@click.option("--json", "as_json", is_flag=True, help="Print one entry per line as JSON.")
@click.pass_context
def search(ctx: click.Context, /, reason: str, limit: int, as_json: bool, **asked: Any) -> None:
    """Find entries; everything that is asked for must hold. The oldest come first.

    What you ask, and why, is an entry of the log before anything is shown; a search for a number can itself be found by
    that number. Whoever is on the same machine sees a command's words: give a number by --number -, on stdin.

    \b
    Examples:
      tollgate log search --reason "audit 7" --number - --from 2026-10-01 < number.txt
      tollgate log search --reason "audit 7" --client billing-a --decision deny
    """
    tags = tuple(Tag(name, asked[name].encode()) for name in _TAGS if asked[name])
    kinds = tuple(Kind(kind) for kind in asked["kinds"])
    rest = {name: asked[name] for name in ("purpose", "decision", "access_id", "first", "last", "after")}
    run(_search(settings(ctx), Query(tags, kinds, **rest, limit=limit), reason, as_json))


async def _search(config: Config, query: Query, reason: str, as_json: bool) -> None:
    from keys.datakeys import DataKeys
    from schema.roles import Role

    seen = Seen()
    found: list[OpenedEntry] = []
    async with ledger(config) as log, connect_pool(config, Role.LOG, 1) as pool:
        await log.append(looking(query, operator(), reason))
        searching = Search(pool, DataKeys(provider(config)))
        async with contextlib.aclosing(searching.run(query, seen)) as entries:
            async for entry in entries:
                if as_json:
                    click.echo(json.dumps(entry.as_json(), ensure_ascii=False))
                else:
                    found.append(dataclasses.replace(entry, records=None))  # may be large, and is not shown
    if not as_json:
        stdout().print(table(found))
    _explain(seen)


def _explain(seen: Seen) -> None:
    """Say what could not be seen, so that nothing found is not taken for nothing there."""
    if seen.blind:
        months = ", ".join(str(month) for month in seen.blind)
        console.print(f"the tags of {months} cannot be searched: their key is destroyed, or not in this keyring")
    if seen.erased:
        console.print(
            f"{seen.erased:,} entries were passed over: their request is erased, purpose and decision with it"
        )
    if seen.next_after is not None:
        console.print(f"there may be more: --after {seen.next_after}")
