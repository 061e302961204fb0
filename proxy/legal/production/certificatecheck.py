"""Holds certificate.txt to the manifest, and what a custodian signed as text to certificate.txt.

The custodian signs certificate.txt and nothing else, so whatever else a package says counts for as much as the
certificate says it. The text is read from its first block to its last by the form that it is drafted in; nothing is
looked for in it: a name or a hash that stands somewhere else than in the list of files is none of a file's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from proxy.legal.production import certificate
from proxy.legal.production.certificate import folded
from proxy.legal.production.manifest import Listed, Manifest
from proxy.legal.production.model import ProductionError, Rule

_INDENT: Final = "    "
_FILE: Final = re.compile(
    r"    ([A-Za-z0-9.-]{1,80}): ([0-9,]{1,26}) bytes(?:, ([0-9,]{1,26}) records)?(?:, ([0-9,]{1,26}) pages)?", re.ASCII
)
_HASH: Final = re.compile(r"      SHA-256 ([0-9a-f]{64})", re.ASCII)
_EXECUTED: Final = re.compile(r"Executed on: (.+?) at: (.+)")
_SIGNATURE: Final = re.compile(r"Signature: (.+)")


class CertificateError(ProductionError):
    """A certificate is not of these files, or not one. The message repeats nothing of it but names of files."""


def check(text: bytes, read: Manifest, own: Collection[str]) -> None:
    """Hold a certificate to a manifest: what production, whose, which search, how many, and exactly which files.

    Args:
        text: certificate.txt.
        read: the manifest.
        own: names of files that the certificate cannot list: itself, and what is made from it.

    Raises:
        CertificateError: says what differs.
    """
    value = read.value
    blocks = _Blocks(text)
    rules: Sequence[str] = value["certificate"]["rules"]
    carrier, custodian = folded(value["carrier"]), folded(value["certificate"]["custodian"])
    blocks.said(certificate.TITLE, "a title")
    blocks.said(f"Federal Rules of Evidence {', '.join(rules)}; {_D}" if rules else _D, "the rules")
    lines = blocks.lines()
    if len(lines) != 5 or lines[0:2] != _indented(
        certificate.case_lines(value["case"], value["number"], value["production"])
    ):
        raise CertificateError("certificate.txt is another production's")
    instrument = value["instrument"]
    named = folded(f"{instrument['title']} ({instrument['citation']})")
    if lines[2] != f"{_INDENT}Instrument:  {named}":
        raise CertificateError("certificate.txt is of another instrument than the manifest says")
    blocks.said(f"I, {custodian}, declare:", "the custodian")
    title = blocks.between("1. I am ", folded(certificate.qualified(carrier)), "the carrier")
    blocks.between("2. In answer to the instrument named above, ", "The search was:", "the search")
    lines = blocks.lines()
    window = value["window"]
    wanted = _indented(certificate.window_lines(window["from"], window["before"], window["zone"]))
    at = next((n for n, line in enumerate(lines) if line == wanted[0]), -1)
    if at < 0 or lines[at : at + 3] != wanted:
        raise CertificateError("certificate.txt is of another window than the manifest says")
    blocks.said(f"3. {certificate.counted(value['records'], value['pages'])}", "the numbers of records and pages")
    number = 4
    for rule in rules:
        blocks.between(f"{number}. Rule {Rule(rule).value}. ", "", "the rules")
        number += 1
    blocks.said(f"{number}. {certificate.FILES_HEAD}", "the files")
    _check_files(blocks.lines(), read, own)
    blocks.said(f"{number + 1}. {certificate.SOURCES_HEAD}", "the inputs")
    blocks.lines()
    if (log := value["log"]) is not None:
        blocks.said(f"{number + 2}. {certificate.LOG_HEAD}", "the access log")
        said = certificate.log_lines(log["origin"], log["access_id"], log["size"], log["root"])
        if blocks.lines() != _indented(said):
            raise CertificateError("certificate.txt is of another search, or another state of the log")
    blocks.said(certificate.PERJURY, "the declaration")
    end = [certificate.EXECUTED, certificate.SIGNATURE, custodian, f"{title}, {carrier}"]
    end.append(certificate.drafted_line(value["made_at"]))
    if folded(blocks.rest()) != folded(" ".join(end)):
        raise CertificateError("certificate.txt ends otherwise than the manifest says")


def check_filled(draft: bytes, given: bytes) -> None:
    """Check that a signed text is a draft, line by line, with its blanks filled in and nothing more.

    Spaces, empty lines and the kind of line ends do not count.

    Raises:
        CertificateError: if it is not.
    """
    if len(given) > certificate.TEXT_MAX:
        raise CertificateError("the signed text is larger than it can be")
    try:
        wanted, found = _folded_lines(draft), _folded_lines(given)
    except UnicodeDecodeError:
        raise CertificateError("a signed text is UTF-8") from None
    executed, signature = folded(certificate.EXECUTED), folded(certificate.SIGNATURE)
    if len(wanted) != len(found):
        raise CertificateError("what was signed is not the certificate that was drafted: its text differs")
    blanks: list[str] = []
    for line, says in zip(wanted, found, strict=True):
        form = {executed: _EXECUTED, signature: _SIGNATURE}.get(line)
        if form is None:
            if line != says:
                raise CertificateError("what was signed is not the certificate that was drafted: its text differs")
        elif (match := form.fullmatch(says)) is None:
            raise CertificateError("what was signed lacks day, place or signature")
        else:
            blanks += match.groups()
    if len(blanks) != 3 or not all(any(c.isalnum() for c in blank) for blank in blanks):
        raise CertificateError("what was signed lacks day, place or signature")


_D: Final = certificate.DECLARATION


class _Blocks:
    """A certificate's blocks, one after the other."""

    def __init__(self, text: bytes) -> None:
        if len(text) > certificate.TEXT_MAX:
            raise CertificateError("certificate.txt is larger than it can be")
        try:
            self._blocks = text.decode("utf-8").split("\n\n")
        except UnicodeDecodeError:
            raise CertificateError("certificate.txt is not UTF-8") from None
        self._at = 0

    def lines(self) -> list[str]:
        """Return the next block's lines."""
        return self._next().split("\n")

    def said(self, text: str, what: str) -> None:
        """Take the next block, which has to say just this."""
        if folded(self._next()) != folded(text):
            raise CertificateError(f"certificate.txt says something else than the manifest of {what}")

    def between(self, start: str, end: str, what: str) -> str:
        """Take the next block, which has to begin and end so; return what stands between."""
        found = folded(self._next())
        if not (found.startswith(start) and found.endswith(end) and len(found) >= len(start) + len(end)):
            raise CertificateError(f"certificate.txt says something else than the manifest of {what}")
        return found[len(start) : len(found) - len(end)].strip()

    def rest(self) -> str:
        """Return everything that is left."""
        left, self._at = self._blocks[self._at :], len(self._blocks)
        return "\n\n".join(left)

    def _next(self) -> str:
        if self._at >= len(self._blocks):
            raise CertificateError("certificate.txt is not as Tollgate drafts them")
        self._at += 1
        return self._blocks[self._at - 1]


def _check_files(lines: Sequence[str], read: Manifest, own: Collection[str]) -> None:
    listed: dict[str, Listed] = {}
    for at in range(0, len(lines), 2):
        file = _FILE.fullmatch(lines[at])
        digest = _HASH.fullmatch(lines[at + 1]) if at + 1 < len(lines) else None
        if file is None or digest is None or file[1] in listed:
            raise CertificateError("certificate.txt is not as Tollgate drafts them")
        size, rows, pages = (None if n is None else int(n.replace(",", "") or "0") for n in file.group(2, 3, 4))
        listed[file[1]] = Listed(size or 0, digest[1], rows, pages)
    here = {name: file for name, file in read.files.items() if name not in own}
    for name in sorted(listed.keys() | here.keys()):
        if name not in here:
            raise CertificateError(f"certificate.txt certifies {name}, and the package has no such file")
        if listed.get(name) != here[name]:
            raise CertificateError(f"certificate.txt does not certify {name} as it is here")


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"{_INDENT}{line}".rstrip() for line in lines]


def _folded_lines(data: bytes) -> list[str]:
    lines = (folded(line) for line in data.decode("utf-8").removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line]
