"""`tollgate production`: check a package offline, as its recipient does; publish the key that signs packages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.markup import escape

from keys.notes import ED25519
from proxy.cli.common import CliError, ExitCode, console, emit, json_option, printable, provider, settings
from proxy.cli.options import verifier_key

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SMALL = 1 << 20


@click.group("production")
def production() -> None:
    """Check packages that answer legal process; publish the key that they are signed with."""


@production.command("verify")
@click.argument("package", type=click.Path(exists=True, path_type=Path))
@click.option("--key", "keys", type=FILE, multiple=True, help="The carrier's production key: a JWK or a set of them.")
@click.option("--identity", type=FILE, help="Your age identity file, where the package is still encrypted.")
@click.option("--custodian-key", type=FILE, help="The custodian's public key (OpenSSH), where the certificate has one.")
@click.option("--log-key", "log_keys", multiple=True, help="The key of the carrier's access log.")
@json_option
def verify(
    package: Path,
    keys: tuple[Path, ...],
    identity: Path | None,
    custodian_key: Path | None,
    log_keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check a package: the encrypted file, the ZIP archive, or the folder it was unpacked to. Needs no server.

    Ends with 0 where everything holds and the carrier's signature was checked; 1 where something does not hold; 5 where
    it is no package; 6 where everything fits together, but no --key was given, so that nobody knows who made it. A
    --custodian-key or --log-key that finds nothing to check is something that does not hold.

    \b
    Example:
      tollgate production verify C-ABCDEFGHIJ-1.zip.age --identity key.txt --key carrier.jwks
    """
    from proxy.legal.production.agefile import AgeError
    from proxy.legal.production.model import ProductionError
    from proxy.legal.production.signature import KeyTextError, read_keys
    from proxy.legal.production.verify import NotAPackage, Trusted
    from proxy.legal.production.verify import verify as check

    logs = tuple(verifier_key(text, ED25519, "--log-key") for text in log_keys)
    try:
        jwks = tuple(jwk for file in keys for jwk in read_keys(_read(file)))
    except KeyTextError as error:
        raise click.UsageError(f"--key: {error}") from error
    line = _text(custodian_key, "--custodian-key") if custodian_key else ""
    secret = _text(identity, "--identity") if identity else None
    try:
        found = check(package, Trusted(jwks, line, logs), secret)
    except (NotAPackage, AgeError) as error:
        raise CliError(f"{package}: {error}", ExitCode.BAD_INPUT) from error
    except ProductionError as error:
        raise CliError(f"{package}: {error}", ExitCode.REFUSED, "do not use it; ask the carrier for another") from error
    if as_json:
        emit(found.as_json())
    else:
        value = found.manifest.value
        colour, word = ("green", "verified") if found.kid else ("yellow", "intact, but nobody's signature was checked")
        console.print(
            f"[bold {colour}]{word}[/]: {value['records']:,} records, {value['pages']:,} pages,"
            f" {len(found.manifest.files)} files of production {escape(printable(value['production']))}"
            f" (case {escape(printable(value['case']))}) of {escape(printable(value['carrier']))}"
        )
        if found.kid:
            console.print(f"  signed with key {found.kid}", markup=False)
        if found.custodian_key:
            console.print(
                f"  certified by {printable(value['certificate']['custodian'])}, {found.custodian_key}", markup=False
            )
        if found.log_size is not None:
            console.print(f"  the search stands in an access log of {found.log_size:,} entries", markup=False)
        for each in found.unchecked:
            console.print(f"  not checked: {each}", style="yellow", markup=False)
    if found.kid is None:
        raise click.exceptions.Exit(ExitCode.UNPROVEN)


@production.command("key")
@click.pass_context
def key(ctx: click.Context) -> None:
    """Print the public keys that productions are signed with, as a JWK set: the current one first, then older ones.

    Publish it where recipients find it by another way than the packages; `tollgate keys rotate production` makes a new
    key.
    """
    from keys.signing import SigningKeys

    config = settings(ctx, database=False)
    provider(config)

    def look() -> list[dict[str, str]]:
        signing = SigningKeys(config.keyring_dir)
        signing.current("production")
        return signing.all_public("production")

    emit({"keys": asyncio.run(asyncio.to_thread(look))})


@production.command("custodian-jwk")
@click.argument("public_key", type=FILE)
def custodian_jwk(public_key: Path) -> None:
    """Print a custodian's OpenSSH public key as JWK, for `tollgate staff add-key`.

    The custodian makes the key (`ssh-keygen -t ed25519`), keeps it, and signs a certificate with it themselves:
    `ssh-keygen -Y sign -n tollgate-certificate -f KEY certificate.txt`.
    """
    from proxy.legal.production.sshsig import SshSignatureError, as_jwk

    try:
        emit(as_jwk(_text(public_key, "PUBLIC_KEY")))
    except SshSignatureError as error:
        raise CliError(f"{public_key}: {error}", ExitCode.BAD_INPUT) from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SMALL)


def _text(path: Path, option: str) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{option}: this is no text file") from None
