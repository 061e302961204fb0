"""`tollgate log verify-receipt`: what a carrier does with a receipt. Needs no home, no database and no network."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from keys.notes import COSIGNATURE, ED25519
from proxy.cli.common import CliError, ExitCode, console, emit, json_option, printable, stdout
from proxy.cli.log.show import table
from proxy.cli.options import verifier_key
from proxy.ledger.receipts import RECEIPT_MAX, Receipt, ReceiptError, verify


@click.command("verify-receipt")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", "keys", multiple=True, required=True, help="The log's key, as the carrier gave it to you.")
@click.option("--witness", "witnesses", multiple=True, help="A witness's key; each named one must have cosigned.")
@json_option
def verify_receipt(file: Path, keys: tuple[str, ...], witnesses: tuple[str, ...], as_json: bool) -> None:
    """Check a receipt offline, and show what it proves.

    \b
    Example:
      tollgate log verify-receipt november.csv.receipt.json --key "$(cat carrier-log.vkey)"
    """
    log_keys = [verifier_key(text, ED25519, "--key") for text in keys]
    cosigners = [verifier_key(text, COSIGNATURE, "--witness") for text in witnesses]
    try:
        with file.open("rb") as opened:
            receipt = verify(opened.read(RECEIPT_MAX + 1), log_keys, cosigners)
    except ReceiptError as error:
        raise CliError(f"{file}: {error}", ExitCode.REFUSED, "it proves nothing as it is") from error
    if as_json:
        emit(receipt.as_json())
    else:
        stdout().print(table(receipt.entries))
        say(receipt)


def say(receipt: Receipt) -> None:
    """Say on stderr what was proven."""
    by = f", cosigned by {', '.join(receipt.witnesses)}" if receipt.witnesses else ""
    console.print(
        f"[bold green]proven[/]: {len(receipt.entries)} entries of access {receipt.access_id} are in the log"
        f" {escape(printable(receipt.checkpoint.origin))} of {receipt.checkpoint.size:,} entries{escape(printable(by))}"
    )
