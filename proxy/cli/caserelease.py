"""`tollgate case extract … ack`: from an approval to what is delivered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from proxy.cli.case import change, path_of, told, versioned
from proxy.cli.caseview import unsearched
from proxy.cli.common import CliError, ExitCode, console, run
from proxy.client.staff import StaffSession

POLL_S = 0.5
_AGE = "age1"


@click.command()
@versioned
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended (it goes on without you).")
def extract(case_id: str, version: int | None, as_json: bool, wait: bool) -> None:
    """Extract what is approved into the case's own hold."""
    found = change(case_id, "extract", version=version)
    if wait:
        found = _watch(case_id, "extraction")
        if found["state"] == "approved":
            raise CliError("the extraction failed; the log says why", ExitCode.REFUSED)
    told(found, as_json)
    if not as_json and found["state"] == "extracted":
        console.print(f"  {found['extraction']['records']:,} records", markup=False)
        if missing := unsearched(found["extraction"]):
            console.print(f"  take care: {missing}", style="yellow", markup=False)


@click.command()
@versioned
@click.option("--records", type=click.IntRange(0), required=True, help="How many there are: you looked.")
@click.option("--note", default="", help="Anything to be remarked; stands in the log.")
def review(case_id: str, version: int | None, as_json: bool, records: int, note: str) -> None:
    """Say that the records that were extracted were looked at."""
    found = change(case_id, "review", {"records": records, "note": note}, version=version)
    told(found, as_json)
    if not as_json and (missing := unsearched(found["extraction"])):
        console.print(f"  take care: {missing}", style="yellow", markup=False)


@click.command()
@versioned
@click.option("--custodian", required=True, metavar="STAFF", help="Whom the certificate names, and who signs it.")
@click.option("--system", default="", help="How the records come about, in the certificate's words.")
@click.option("--wait/--no-wait", default=True, help="Wait until it is made (it goes on without you).")
def produce(case_id: str, version: int | None, as_json: bool, custodian: str, system: str, wait: bool) -> None:
    """Make the production: records, field guide, sources, manifest, and the certificate's draft."""
    body = {"custodian": custodian} | ({"system": system} if system else {})
    found = change(case_id, "produce", body, version=version)
    if wait:
        found = _watch(case_id, "production")
        if found["production"]["state"] == "failed":
            raise CliError("the production could not be made; produce again", ExitCode.REFUSED)
    told(found, as_json)


@click.command()
@click.argument("case_id", metavar="CASE")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def certificate(case_id: str, file: Path) -> None:
    """Write the certificate's draft to FILE, for the custodian to read and sign outside.

    \b
    Example (28 U.S.C. 1746; the custodian's own key):
      tollgate case certificate C-… certificate.txt
      ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n tollgate-certificate certificate.txt
      tollgate case certify C-… certificate.txt.sig --as sshsig
    """
    _download(path_of(case_id, "certificate"), file)


@click.command()
@versioned
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "kind", type=click.Choice(["sshsig", "pdf", "text"]), required=True, help="How it was signed.")
def certify(case_id: str, version: int | None, as_json: bool, file: Path, kind: str) -> None:
    """Give the certificate as the custodian signed it; the package is fixed with it."""
    told(change(case_id, "certify", file=file, params={"kind": kind}, version=version), as_json)


@click.command()
@versioned
@click.option("--recipient", "recipients", multiple=True, required=True, metavar="AGE1…|FILE", help="Again for each.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the package to this file.")
@click.option("--again", is_flag=True, help="To another key, which an approver has approved.")
def deliver(
    case_id: str, version: int | None, as_json: bool, recipients: tuple[str, ...], out: Path | None, again: bool
) -> None:
    """Encrypt the package to its recipients' age keys, and write it to a file to be handed over."""
    keys = [_recipient(text) for text in recipients]
    if again and len(keys) != 1:
        raise click.UsageError("--again takes one recipient")
    body: dict[str, Any] = {"recipient": keys[0]} if again else {"recipients": keys}
    found = change(case_id, "redeliver" if again else "deliver", body, version=version)
    if out is not None:
        _download(path_of(case_id, "package"), out)
    told(found, as_json)


@click.command()
@versioned
@click.option("--note", default="", help="By whom and how; stands in the log.")
def ack(case_id: str, version: int | None, as_json: bool, note: str) -> None:
    """Note that the recipient acknowledged the delivery."""
    told(change(case_id, "acknowledge", {"note": note} if note else {}, version=version), as_json)


def _watch(case_id: str, what: str) -> dict[str, Any]:
    """Wait until the extraction or the production has ended; return the case as it is then."""

    async def work() -> dict[str, Any]:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(what, total=1.0)
            async with StaffSession.open() as session:
                while True:
                    at = (await session.request("GET", path_of(case_id, "progress"))).json
                    if what not in at["running"]:
                        found: dict[str, Any] = (await session.request("GET", path_of(case_id))).json
                        return found
                    bar.update(task, completed=float(at["part"]))
                    await asyncio.sleep(POLL_S)

    return run(work())


def _download(path: str, file: Path) -> None:
    async def work() -> None:
        async with StaffSession.open() as session:
            await session.download(path, file)

    run(work())
    console.print(f"written to {file}", markup=False)


def _recipient(text: str) -> str:
    if text.startswith(_AGE):
        return text
    try:
        lines = [line.strip() for line in Path(text).read_text("ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CliError("neither an age recipient nor a file with one", ExitCode.BAD_INPUT) from error
    keys = [line for line in lines if line.startswith(_AGE)]
    if len(keys) != 1:
        raise CliError(f"{text} holds {len(keys)} age recipients: give one", ExitCode.BAD_INPUT)
    return keys[0]
