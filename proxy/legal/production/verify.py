"""What a recipient does with a package: everything that can be checked without a server, from the outside in.

The archive is of the one form → the manifest is one → every file has the length and SHA-256 that it says, and there
is no other → the custodian's certificate lists just these files with their length and SHA-256, and says of case,
custodian, window, counts and log what the manifest says (certificatecheck.py) → the number of records is as stated →
the manifest is signed with the carrier's key → the certificate with the custodian's → the access log proves the
search. The last three only with keys that the caller brings from elsewhere; what was not checked for want of a key is
said, and a key for which there is nothing to check is a failure: whoever took a signature or a receipt away would
gain by it.

Reads once, from beginning to end, with memory for one read, the small files and the names.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from keys.notes import VerifierKey, b64
from proxy.ledger import receipts
from proxy.legal.production import certificate, certificatecheck, manifest, signature, sshsig, texts
from proxy.legal.production.agefile import Decrypted, read_identities
from proxy.legal.production.archive import FILE_NAME, FILES_MAX, ArchiveError, Reader, Source
from proxy.legal.production.building import SIGNED_MAX, SIGNED_NAMES
from proxy.legal.production.manifest import Manifest
from proxy.legal.production.model import ProductionError, SignedAs

_AGE: Final = b"age-encryption.org/v1\n"
_ARMORED: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
_READ: Final = 1 << 20
_KEPT: Final = {
    manifest.NAME: manifest.MANIFEST_MAX,
    manifest.SIGNATURE: signature.SIGNATURE_MAX,
    certificate.NAME: certificate.TEXT_MAX,
    texts.RECEIPT: receipts.RECEIPT_MAX,
    SIGNED_NAMES[SignedAs.SSH]: sshsig.SIGNATURE_MAX,
    SIGNED_NAMES[SignedAs.TEXT]: certificate.TEXT_MAX,
}
"""Files that are looked into, and the most bytes of each."""


class VerifyError(ProductionError):
    """The package does not hold what it should. The message repeats nothing of it but names of files."""


class NotAPackage(ProductionError):  # noqa: N818 - it says what is so
    """It cannot be read as a package at all."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the caller trusts, from elsewhere than the package."""

    keys: Sequence[Mapping[str, str]] = ()
    """The carrier's production keys, public JWKs."""
    custodian: str = ""
    """The custodian's key, a line of OpenSSH's form."""
    log_keys: Sequence[VerifierKey] = ()
    """The access log's keys."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A package that holds together, and who stands behind it."""

    manifest: Manifest = field(repr=False)
    kid: str | None
    """Key that signed the manifest; None where no key was given to check it with."""
    custodian_key: str | None
    """Fingerprint of the custodian's key that signed the certificate; None where it was not checked."""
    log_size: int | None
    """Size of the log's tree under which the search is proven; None where it was not checked."""
    unchecked: tuple[str, ...]
    """What nobody checked, in words."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        value = self.manifest.value
        return {
            "verified": self.kid is not None,
            **{
                name: value[name] for name in ("production", "case", "number", "carrier", "made_at", "records", "pages")
            },
            "custodian": value["certificate"]["custodian"],
            "signed_as": value["certificate"]["signed_as"],
            "kid": self.kid,
            "custodian_key": self.custodian_key,
            "log_size": self.log_size,
            "files": len(self.manifest.files),
            "unchecked": list(self.unchecked),
        }


def verify(path: Path, trusted: Trusted, identity: str | None = None) -> Verified:
    """Check a package.

    Args:
        path: the package: encrypted, the ZIP archive, or the folder that it was unpacked to.
        trusted: keys.
        identity: an age identity file's text, for one that is encrypted.

    Raises:
        NotAPackage: if it cannot be read as one, or is encrypted and no identity was given.
        ProductionError: says what does not hold.
    """
    with _opened(path, identity) as files:
        return _verified(files, trusted)


@dataclass(slots=True)
class _Seen:
    """A file as it was read."""

    size: int
    sha256: str
    kept: bytes | None
    lines: int | None


class _Files:
    """The files of a package, in whatever order they come, and its folder's name where it has one."""

    def __init__(self, each: Iterable[tuple[str, Iterable[bytes]]]) -> None:
        self.each = each
        self.folder: str | None = None


@contextlib.contextmanager
def _opened(path: Path, identity: str | None) -> Iterator[_Files]:
    if path.is_dir():
        yield _Files(_folder(path))
        return
    with path.open("rb") as file:
        head = file.read(len(_ARMORED))
        file.seek(0)
        encrypted = head.startswith(_AGE) or head == _ARMORED
        if encrypted and identity is None:
            raise NotAPackage("the package is encrypted: give the private key with --identity")
        with contextlib.ExitStack() as stack:
            source: Source = (
                stack.enter_context(Decrypted(file, read_identities(identity or ""))) if encrypted else file
            )
            if not encrypted and head[:4] != b"PK\x03\x04":
                raise NotAPackage("this is no package of Tollgate's: neither an archive nor an encrypted one")
            reader = Reader(source)
            files = _Files(())

            def each() -> Iterator[tuple[str, Iterable[bytes]]]:
                for entry, data in reader.files():
                    files.folder = reader.folder
                    yield entry.name, data

            files.each = each()
            yield files


def _folder(path: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of an unpacked package. Anything but plain files of plain names is refused."""
    names = sorted(os.listdir(path))
    if len(names) > FILES_MAX or not all(FILE_NAME.fullmatch(name) for name in names):
        raise ArchiveError("the folder has a file of a name that Tollgate does not write")
    for name in names:
        with open(path / name, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ArchiveError("the folder holds something else than files")
            yield name, iter(lambda file=file: file.read(_READ), b"")  # type: ignore[misc]


def _verified(files: _Files, trusted: Trusted) -> Verified:
    try:
        seen = {name: _read(name, data) for name, data in files.each}
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ArchiveError("a file of the package cannot be read") from error
    listing = _kept(seen, manifest.NAME)
    read = manifest.read(listing)
    if files.folder is not None and files.folder != read.folder:
        raise VerifyError("the package's folder is not called as its manifest says")
    _check_files(seen, read)
    _check_certificate(seen, read)
    _check_count(seen, read)
    unchecked: list[str] = []
    jws = _kept(seen, manifest.SIGNATURE)
    kid = None
    signature.signer(jws)
    if trusted.keys:
        kid = signature.verify(jws, listing, trusted.keys)
    else:
        unchecked.append("who made the package: no key of the carrier was given")
    custodian_key = _custodian(seen, read, trusted, unchecked)
    log_size = _log(seen, read, trusted, unchecked)
    return Verified(read, kid, custodian_key, log_size, tuple(unchecked))


def _read(name: str, data: Iterable[bytes]) -> _Seen:
    sha256, size = hashlib.sha256(), 0
    kept = bytearray() if name in _KEPT else None
    counter = _Lines() if name == texts.RECORDS else None
    for piece in data:
        sha256.update(piece)
        size += len(piece)
        if kept is not None:
            if size > _KEPT[name]:
                raise VerifyError(f"{name} is larger than it can be")
            kept += piece
        if counter is not None:
            counter.feed(piece)
    return _Seen(
        size, sha256.hexdigest(), None if kept is None else bytes(kept), None if counter is None else counter.lines
    )


def _kept(seen: Mapping[str, _Seen], name: str) -> bytes:
    found = seen.get(name)
    if found is None or found.kept is None:
        raise VerifyError(f"the package has no {name}")
    return found.kept


def _check_files(seen: Mapping[str, _Seen], read: Manifest) -> None:
    there = seen.keys() - {manifest.NAME, manifest.SIGNATURE}
    if missing := sorted(read.files.keys() - there):
        raise VerifyError(f"{missing[0]} is missing")
    if more := sorted(there - read.files.keys()):
        raise VerifyError(f"{more[0]} is not in the manifest")
    for name, listed in read.files.items():
        if seen[name].size != listed.bytes or seen[name].sha256 != listed.sha256:
            raise VerifyError(f"{name} is not the file that the manifest lists: it was changed")
    for name in (texts.RECORDS, certificate.NAME, read.value["certificate"]["file"]):
        if name not in read.files:
            raise VerifyError(f"the package has no {name}" if FILE_NAME.fullmatch(name) else "the manifest is broken")
    if read.files[read.value["certificate"]["file"]].bytes > SIGNED_MAX:
        raise VerifyError("the signed certificate is larger than it can be")


def _check_certificate(seen: Mapping[str, _Seen], read: Manifest) -> None:
    """The custodian signs certificate.txt: it has to list just the files that are here."""
    kind, signed = read.value["certificate"]["signed_as"], read.value["certificate"]["file"]
    if kind not in list(SignedAs):
        raise VerifyError("the certificate is signed in a way that this version does not know: use a newer tollgate")
    if signed != SIGNED_NAMES[SignedAs(kind)]:
        raise VerifyError("the signed certificate is not called as it is signed")
    text = _kept(seen, certificate.NAME)
    certificatecheck.check(text, read, (certificate.NAME, certificate.PDF_NAME, signed))
    if kind == SignedAs.TEXT:
        certificatecheck.check_filled(text, _kept(seen, signed))


def _check_count(seen: Mapping[str, _Seen], read: Manifest) -> None:
    lines = seen[texts.RECORDS].lines
    listed = read.files[texts.RECORDS].records
    if lines is None or not lines - 1 == listed == read.value["records"]:
        raise VerifyError("records.csv has another number of records than the manifest says")


def _custodian(seen: Mapping[str, _Seen], read: Manifest, trusted: Trusted, unchecked: list[str]) -> str | None:
    kind = read.value["certificate"]["signed_as"]
    if kind != SignedAs.SSH:
        if trusted.custodian:
            raise VerifyError("a key of the custodian was given, and the certificate is not signed with one")
        unchecked.append(f"the custodian's signature: look at it in {read.value['certificate']['file']}")
        return None
    if not trusted.custodian:
        unchecked.append("the custodian's signature: no key of the custodian was given")
        return None
    key = sshsig.public_key(trusted.custodian)
    sshsig.verify(_kept(seen, SIGNED_NAMES[SignedAs.SSH]), _kept(seen, certificate.NAME), key)
    return sshsig.fingerprint(key)


def _log(seen: Mapping[str, _Seen], read: Manifest, trusted: Trusted, unchecked: list[str]) -> int | None:
    stated = read.value["log"]
    if stated is None or texts.RECEIPT not in seen:
        if trusted.log_keys:
            raise VerifyError("a key of the access log was given, and the package has no receipt of the log")
        unchecked.append("the entry in the access log: the package has no receipt")
        return None
    if not trusted.log_keys:
        unchecked.append("the entry in the access log: no key of the log was given")
        return None
    try:
        receipt = receipts.verify(_kept(seen, texts.RECEIPT), trusted.log_keys)
    except receipts.ReceiptError as error:
        raise VerifyError(f"log-receipt.json: {error}") from error
    place = (receipt.checkpoint.origin, receipt.checkpoint.size, b64(receipt.checkpoint.root))
    if receipt.access_id != _uuid(stated["access_id"]) or place != (stated["origin"], stated["size"], stated["root"]):
        raise VerifyError("log-receipt.json is of another search, or of another state of the log, than the certificate")
    return receipt.checkpoint.size


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


class _Lines:
    """Counts the lines of a CSV file (RFC 4180): a line's end between quotes is part of a value."""

    def __init__(self) -> None:
        self.lines = 0
        self._quoted = False

    def feed(self, data: bytes) -> None:
        if not self._quoted and b'"' not in data:
            self.lines += data.count(b"\n")
            return
        for index, piece in enumerate(data.split(b'"')):
            if index:
                self._quoted = not self._quoted
            if not self._quoted:
                self.lines += piece.count(b"\n")
