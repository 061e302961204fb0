"""Makes a production's files from facts and records, piece by piece; and the archive from the files.

Nothing here knows where the pieces are kept: `Parts` does. Every file is made from its beginning, so whoever died in
the middle does it again and writes the same bytes over what is there. At any time one piece of each open file, one
volume of pages and one stretch of records are in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, Protocol

import polars as pl

from proxy.legal.production import archive, certificate, certificatecheck, certificatepdf, manifest, texts
from proxy.legal.production.columns import csv_texts
from proxy.legal.production.layout import NUMBER, layout
from proxy.legal.production.model import (
    Drafted,
    Facts,
    FileFact,
    ProductionError,
    SignedAs,
    SignedCertificate,
    Tables,
)
from proxy.legal.production.ordering import TOGETHER, ordered
from proxy.legal.production.pages import Pages, PdfWriter
from proxy.legal.production.survey import shown, survey
from schema.fields import Field

PIECE: Final = 1 << 20
"""Bytes of a piece; a file's last may be shorter. An empty file has none."""

SIGNED_MAX: Final = 25 << 20
SIGNED_NAMES: Final = {
    SignedAs.SSH: "certificate.txt.sig",
    SignedAs.PDF: "certificate-signed.pdf",
    SignedAs.TEXT: "certificate-signed.txt",
}


class Parts(Protocol):
    """Keeps pieces of files."""

    async def put(self, name: str, piece: int, data: bytes) -> None:
        """Keep a piece, in place of one that is there."""
        ...

    async def get(self, name: str, piece: int) -> bytes:
        """Return a piece.

        Raises:
            ProductionError: if there is none.
        """
        ...


class _Writing:
    """A file that is being made."""

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts, self._name = parts, name
        self._sha256, self._crc, self._bytes, self._piece = hashlib.sha256(), 0, 0, 0
        self._left = bytearray()

    async def write(self, data: bytes) -> None:
        self._left += data
        while len(self._left) >= PIECE:
            await self._push(PIECE)

    async def close(self, rows: int | None = None, pages: int | None = None) -> FileFact:
        if self._left:
            await self._push(len(self._left))
        return FileFact(self._name, self._bytes, self._sha256.hexdigest(), self._crc, rows, pages)

    async def _push(self, size: int) -> None:
        data = bytes(self._left[:size])
        del self._left[:size]
        self._sha256.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self._bytes += size
        await self._parts.put(self._name, self._piece, data)
        self._piece += 1


async def draft(facts: Facts, tables: Tables, parts: Parts, *, together: int = TOGETHER) -> Drafted:
    """Make all files but those that the custodian's signature is in.

    Args:
        facts: what the files are made from.
        tables: the hold's records.
        parts: where the files go.
        together: most records in memory at once.

    Raises:
        ProductionError: if facts and records do not go together.
    """
    fields = shown(facts)
    found = await survey(tables, facts)
    pages = Pages(facts, fields, layout(fields, found, facts.timezone), found.rows, found.micros)
    table = _Writing(parts, texts.RECORDS)
    await table.write(texts.csv_head(fields))
    writer, volumes = PdfWriter(pages), []
    rows = 0
    async for frame in ordered(tables, found, together=together):
        for lines in await asyncio.to_thread(_csv, frame, fields, rows + 1):
            await table.write(lines)
        await asyncio.to_thread(writer.feed, frame)
        while (made := await asyncio.to_thread(writer.full)) is not None:
            volumes.append(await _kept(parts, *made))
        rows += frame.height
    if rows != found.rows:
        raise ProductionError("the hold gave other records the second time")
    while (made := await asyncio.to_thread(writer.rest)) is not None:
        volumes.append(await _kept(parts, *made))
    records = [await table.close(rows), *volumes]
    small = [
        await _kept(parts, texts.GUIDE, None, None, texts.guide(facts, fields, found)),
        await _kept(parts, texts.SOURCES, None, None, texts.sources(facts, found)),
        await _kept(parts, texts.TARGETS, None, None, texts.targets(facts)),
    ]
    if facts.receipt:
        small.append(await _kept(parts, texts.RECEIPT, None, None, facts.receipt))
    readme = await _kept(parts, texts.README, None, None, texts.readme(facts))
    said = certificate.blocks(facts, fields, found, [readme, *records, *small])
    front = [
        readme,
        await _kept(parts, certificate.NAME, None, None, certificate.as_text(said)),
        await _kept(
            parts, certificate.PDF_NAME, None, None, await asyncio.to_thread(certificatepdf.as_pdf, facts, said)
        ),
    ]
    return Drafted(facts.production_id, rows, pages.pages, (*front, *records, *small))


async def complete(
    facts: Facts, drafted: Drafted, signed: SignedCertificate, parts: Parts
) -> tuple[bytes, tuple[FileFact, ...]]:
    """Add what the custodian signed; return the manifest and the files that it lists, in order.

    Raises:
        ProductionError: if what was signed is not of the kind it is said to be, or not this certificate.
    """
    await check_signed(drafted, signed, parts)
    name = SIGNED_NAMES[signed.kind]
    added = await _kept(parts, name, None, None, signed.body)
    at = next(n for n, each in enumerate(drafted.files) if each.name == certificate.PDF_NAME) + 1
    files = (*drafted.files[:at], added, *drafted.files[at:])
    return manifest.make(facts, drafted.rows, drafted.pages, signed.kind, name, files), files


async def check_signed(drafted: Drafted, signed: SignedCertificate, parts: Parts) -> None:
    """Check what can be checked without a key: size, form, and that a text is the one that was drafted, filled in."""
    if not 1 <= len(signed.body) <= SIGNED_MAX:
        raise ProductionError("a signed certificate has 1 byte to 25 MiB")
    if signed.kind is SignedAs.PDF and not signed.body.startswith(b"%PDF-"):
        raise ProductionError("this is no PDF")
    if signed.kind is SignedAs.TEXT:
        drafted_text = b"".join([piece async for piece in opened(drafted, certificate.NAME, parts)])
        certificatecheck.check_filled(drafted_text, signed.body)


async def opened(drafted: Drafted, name: str, parts: Parts) -> AsyncIterator[bytes]:
    """Give a file's bytes.

    Raises:
        ProductionError: if there is no such file.
    """
    found = next((each for each in drafted.files if each.name == name), None)
    if found is None:
        raise ProductionError("the production has no such file")
    async for piece in pieces(found, parts):
        yield piece


async def pieces(file: FileFact, parts: Parts) -> AsyncIterator[bytes]:
    """Give a file's bytes as they were made.

    Raises:
        ProductionError: at the end, if they are others than were made.
    """
    sha256 = hashlib.sha256()
    for piece in range(-(-file.bytes // PIECE)):
        data = await parts.get(file.name, piece)
        sha256.update(data)
        yield data
    if sha256.hexdigest() != file.sha256:
        raise ProductionError(f"{file.name} is not what was made")


async def package(
    facts: Facts, files: Sequence[FileFact], parts: Parts, made_at: datetime | None = None
) -> AsyncIterator[bytes]:
    """Give the inner package: manifest.json and manifest.jws first, so that a reader knows the rest beforehand."""
    by_name = {each.name: each for each in files}
    folder = archive.package_name(facts.case_id, facts.number)
    async for piece in archive.write(
        folder, files, made_at or facts.made_at, lambda name: pieces(by_name[name], parts)
    ):
        yield piece


async def fingerprint(name: str, stream: AsyncIterator[bytes]) -> FileFact:
    """Return length and hashes of a stream."""
    sha256, crc, size = hashlib.sha256(), 0, 0
    async for piece in stream:
        sha256.update(piece)
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    return FileFact(name, size, sha256.hexdigest(), crc)


async def keep(parts: Parts, name: str, data: bytes) -> FileFact:
    """Keep a small file."""
    return await _kept(parts, name, None, None, data)


async def _kept(parts: Parts, name: str, rows: int | None, pages: int | None, data: bytes) -> FileFact:
    writing = _Writing(parts, name)
    await writing.write(data)
    return await writing.close(rows, pages)


def _csv(frame: pl.DataFrame, fields: Sequence[Field], first: int) -> list[bytes]:
    """Lines of records.csv, some thousand records at a time."""
    numbers = pl.int_range(first, first + frame.height, eager=True).alias(NUMBER)
    made = []
    for start in range(0, frame.height, 20_000):
        some = csv_texts(frame.slice(start, 20_000), fields).insert_column(0, numbers.slice(start, 20_000))
        made.append(some.write_csv(include_header=False, line_terminator="\r\n").encode())
    return made
