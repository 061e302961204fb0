"""Documents of a case: taken in pieces, looked at in a process of its own, stored sealed with their SHA-256.

Nothing touches a disk: the document stands in memory (an anonymous file) until it is sealed. At most `AT_ONCE` are
taken at a time, each of at most 25 MiB. What is not a PDF, is encrypted, or unfolds to more than can be looked at is
refused; what is active in one (scripts, attachments, actions) is told as findings, and nothing ever runs or opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from proxy.ledger.model import JSON
from proxy.legal import sql
from proxy.legal.model import Case, CaseError, Document, Malformed, NoSuchCase, Refused
from proxy.legal.register import Register, Step, case_of
from proxy.legal.states import Action
from proxy.staff.model import StaffGrant

LENGTH_MAX = 25 * 1024 * 1024
PIECE = 1024 * 1024
AT_ONCE = 2
KINDS = ("instrument", "nondisclosure", "correspondence", "certificate")
MEMORY = 1536 * 1024 * 1024
"""Address space of the process that looks, bytes: the interpreter and its libraries take about a third."""
SECONDS = 20
"""Processor time of the process that looks; half as much again on the wall clock."""

_CHECK = str(Path(__file__).with_name("pdfcheck.py"))
_MAGIC = b"%PDF-"
_ANSWER_MAX = 64 * 1024
_CITATION = "18 U.S.C. 2703"
_SAYS = {
    "not_pdf": "This is no PDF.",
    "encrypted": "The PDF is encrypted: ask for one that is not.",
    "pages": "The PDF has no page, or more than 2,000.",
    "objects": "The PDF is made of more parts than are looked at.",
    "bomb": "The PDF unfolds to more than is looked at.",
    "unreadable": "The PDF cannot be read.",
}


class TooLarge(CaseError):  # noqa: N818
    """More than 25 MiB."""

    code = "document.too_large"


@dataclass(frozen=True, slots=True)
class Looked:
    """A document that was looked at, in memory."""

    data: bytes = field(repr=False)
    sha256: bytes
    pages: int
    findings: tuple[str, ...]


class Documents:
    """Takes and gives documents.

    Args:
        register: where they are entered.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        self._room = asyncio.Semaphore(AT_ONCE)

    async def store(
        self, who: StaffGrant, case_id: str, version: int, kind: str, parts: AsyncIterator[bytes]
    ) -> tuple[Case, Document]:
        """Take a document into a case.

        Args:
            who: who received it.
            case_id: the case.
            version: the case's version that the caller saw.
            kind: one of KINDS.
            parts: the document as it arrives.

        Raises:
            CaseError: too large, no PDF, refused; or see `Register.act`. It is in the log.
        """
        if kind not in KINDS:
            raise Malformed("kind", "This has to be instrument, nondisclosure, correspondence or certificate.")
        async with self._room:
            try:
                looked = await inspect(parts)
            except CaseError as refusal:
                await self._register.refused(who, case_id, Action.DOCUMENT, refusal)
                raise
            return await self._store(who, case_id, version, kind, looked)

    async def refuse_length(self, who: StaffGrant, case_id: str) -> None:
        """Enter and refuse a document that says itself that it is too large.

        Raises:
            TooLarge: always.
        """
        refusal = TooLarge("A document has at most 25 MiB.")
        await self._register.refused(who, case_id, Action.DOCUMENT, refusal)
        raise refusal

    async def _store(
        self, who: StaffGrant, case_id: str, version: int, kind: str, looked: Looked
    ) -> tuple[Case, Document]:
        register, sealer = self._register, self._register.sealer
        document_id = uuid4()
        length = len(looked.data)
        pieces = -(-length // PIECE)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            meta = {"sha256": looked.sha256.hex(), "findings": list(looked.findings)}
            place = (case_id, "document", str(document_id))
            sealed = await sealer.seal_json(case.key_month, place, meta)
            await conn.execute(
                sql.ADD_DOCUMENT, case_id, document_id, kind, length, looked.pages, who.staff_id, pieces, sealed
            )
            for number in range(pieces):
                part = looked.data[number * PIECE : (number + 1) * PIECE]
                sealed = await sealer.seal(case.key_month, (*place, str(number)), part)
                await conn.execute(sql.ADD_PIECE, case_id, document_id, number, sealed)
            told: dict[str, JSON] = {
                "document": str(document_id),
                "kind": kind,
                "sha256": looked.sha256.hex(),
                "bytes": length,
                "pages": looked.pages,
                "findings": list(looked.findings),
            }
            return Step(told, case.state)

        case = await register.act(who, case_id, version, Action.DOCUMENT, work)
        async with register.pool.acquire() as conn:
            found = next(d for d in await listed(conn, register, case) if d.document_id == document_id)
        return case, found

    async def read(self, who: StaffGrant, case_id: str, document_id: UUID) -> tuple[Document, AsyncIterator[bytes]]:
        """Return a document and its bytes in pieces; the look is entered first.

        Raises:
            NoSuchCase: there is no such case or document.
        """
        register = self._register
        async with register.pool.acquire() as conn:
            row = await conn.fetchrow(sql.FIND_CASE, case_id)
            if row is None:
                raise NoSuchCase("There is no such case.")
            case = case_of(row)
            found = next((d for d in await listed(conn, register, case) if d.document_id == document_id), None)
        if found is None:
            raise NoSuchCase("There is no such document.")
        await register.looked(who, "document", case_id, document=str(document_id))

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(-(-found.length // PIECE)):
                sealed = await register.pool.fetchval(sql.FIND_PIECE, case_id, document_id, number)
                place = (case_id, "document", str(document_id), str(number))
                yield await register.sealer.open(case.key_month, place, sealed)

        return found, pieces()


async def listed(conn: asyncpg.Connection, register: Register, case: Case) -> tuple[Document, ...]:
    """Return the documents of a case, oldest first."""
    await register.sealer.load(conn, [case.key_month])
    found = []
    for row in await conn.fetch(sql.DOCUMENTS, case.case_id):
        place = (case.case_id, "document", str(row["document_id"]))
        meta = await register.sealer.open_json(case.key_month, place, row["sealed"])
        found.append(
            Document(
                row["document_id"],
                row["kind"],
                row["bytes"],
                row["pages"],
                row["received_by"],
                row["received_at"],
                bytes.fromhex(meta["sha256"]),
                tuple(meta["findings"]),
            )
        )
    return tuple(found)


async def inspect(parts: AsyncIterator[bytes]) -> Looked:
    """Take a document and look at it.

    Raises:
        TooLarge: more than 25 MiB came.
        Refused: it is not taken.
    """
    file = os.memfd_create("document", os.MFD_CLOEXEC)
    try:
        length, digest, head = 0, hashlib.sha256(), b""
        async for part in parts:
            length += len(part)
            if length > LENGTH_MAX:
                raise TooLarge("A document has at most 25 MiB.")
            if len(head) < len(_MAGIC):
                head = (head + part)[:1024]
                if len(head) >= len(_MAGIC) and not head.startswith(_MAGIC):
                    raise _refused("not_pdf")
            digest.update(part)
            view = memoryview(part)
            while view:
                view = view[os.write(file, view) :]
        if not head.startswith(_MAGIC):
            raise _refused("not_pdf")
        pages, findings = await _look(file)
        os.lseek(file, 0, os.SEEK_SET)
        return Looked(os.pread(file, length, 0), digest.digest(), pages, findings)
    finally:
        os.close(file)


async def _look(file: int) -> tuple[int, tuple[str, ...]]:
    os.lseek(file, 0, os.SEEK_SET)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", _CHECK, str(MEMORY), str(SECONDS)),
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS * 1.5):
            said = await process.stdout.read(_ANSWER_MAX)
            await process.wait()
    except TimeoutError:
        raise _refused("bomb") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer = json.loads(said)
        if "refused" in answer:
            raise _refused(str(answer["refused"]))
        findings = tuple(str(code) for code in answer["findings"])
        return int(answer["pages"]), findings
    except (ValueError, KeyError, TypeError):
        # It ended without an answer: out of memory or of time.
        raise _refused("bomb") from None


def _refused(code: str) -> Refused:
    code = code if code in _SAYS else "unreadable"
    return Refused(f"document.{code}", _CITATION, _SAYS[code])
