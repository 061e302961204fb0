"""Holding a carrier to its log: receipts for what was pulled, and checkpoints that continue the ones seen before.

For each part of a pull the carrier's receipt is fetched and verified, and its outcome compared with what was received:
then the carrier has recorded this disclosure, to this client, of so many rows with this SHA-256, in a log that it
cannot change unseen by whoever keeps one of its checkpoints. So the last checkpoint is kept (`LogMemory`), and each
later one is proven to continue it, from the carrier's public tiles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError, VerifierKey
from proxy.client.session import Refused, Session
from proxy.client.transfer import NotProven, Part
from proxy.ledger import receipts, tiles, tree
from proxy.ledger.model import Kind
from proxy.ledger.receipts import Receipt, ReceiptError
from proxy.ledger.tiles import Tile

RECEIPT_MAX = 64 << 20
_VERSION = 1


class LogMemoryError(Exception):
    """The file cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a carrier's log: its key, and the last checkpoint seen."""

    vkey: str
    note: str


class LogMemory:
    """A file with what is known of each issuer's log. Losing it loses the memory of earlier checkpoints."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def get(self, issuer: str) -> Known | None:
        """Return what is known of an issuer's log.

        Raises:
            LogMemoryError: if the file is none of ours.
        """
        found = self._read().get(issuer)
        return None if found is None else Known(found["vkey"], found["note"])

    def put(self, issuer: str, known: Known) -> None:
        """Remember; the file is replaced as a whole."""
        value = {**self._read(), issuer: {"vkey": known.vkey, "note": known.note}}
        write(self.file, json.dumps({"version": _VERSION, "logs": value}, indent=1).encode())

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            value = json.loads(self.file.read_text(encoding="utf-8"))
            if value["version"] == _VERSION:
                return {
                    str(issuer): {"vkey": str(each["vkey"]), "note": str(each["note"])}
                    for issuer, each in value["logs"].items()
                }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise LogMemoryError(f"{self.file} cannot be read: put it back, for it remembers the carriers' checkpoints")


def write(file: Path, data: bytes) -> None:
    """Replace a file as a whole, 0600."""
    fresh = file.with_name(file.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(fresh, file)


class LogCheck:
    """Verifies the receipts of a pull.

    Args:
        session: at the carrier's.
        client_id: who we are there: receipts of anybody else are refused.
        memory: what is known of logs.
        keys: the log's, as the carrier gave them; without any, the one that is remembered, or else (once) the one that
            comes with the receipt.
        witnesses: cosigners that must have cosigned.
        out: where the pulled file goes; receipts are put beside it.
    """

    def __init__(
        self,
        session: Session,
        client_id: str,
        memory: LogMemory,
        keys: Sequence[VerifierKey],
        witnesses: Sequence[VerifierKey],
        out: Path,
    ) -> None:
        self._session = session
        self._client_id = client_id
        self._memory = memory
        self._keys = list(keys)
        self._witnesses = list(witnesses)
        self._out = out
        self.files: list[Path] = []
        self.checkpoint: Checkpoint | None = None
        self.first_seen: str | None = None
        """The log's key where it was taken on trust just now."""

    async def __call__(self, parts: Sequence[Part]) -> None:
        """Verify a receipt for each part, write them beside the file, remember the checkpoint.

        Raises:
            NotProven: says what does not hold, and names the access.
        """
        known = self._memory.get(self._session.issuer)
        for part in parts:
            data = await self._session.get_bytes(f"/v1/accesses/{part.access_id}/proof", RECEIPT_MAX)
            keys = self._keys or [self._trusted(known, data)]
            try:
                receipt = receipts.verify(data, keys, self._witnesses)
                compare(receipt, self._client_id, part)
            except ReceiptError as error:
                raise NotProven(
                    f"access {part.access_id}: {error}", hint="keep what was received, and ask the carrier about it"
                ) from error
            known = await self._continue(known, receipt, keys)
            suffix = "" if len(parts) == 1 else f"-{len(self.files) + 1}"
            file = self._out.with_name(f"{self._out.name}.receipt{suffix}.json")
            write(file, data)
            self.files.append(file)
        if known is not None:
            # Last: dying before this checks the same again at the next pull.
            self._memory.put(self._session.issuer, known)

    def _trusted(self, known: Known | None, data: bytes) -> VerifierKey:
        try:
            text = known.vkey if known else json.loads(data)["log"]["vkey"]
            key = VerifierKey.parse(text)
        except (NoteError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotProven("the receipt names no key of the log") from error
        if known is None:
            self.first_seen = str(key)
        return key

    async def _continue(self, known: Known | None, receipt: Receipt, keys: Sequence[VerifierKey]) -> Known:
        """Return what is known after ``receipt``: the larger checkpoint, proven to continue the smaller."""
        signer = next(key for key in keys if key.name == receipt.checkpoint.origin)
        now = Known(str(signer), receipt.note)
        self.checkpoint = receipt.checkpoint
        if known is None:
            return now
        before = Checkpoint.parse(Note.parse(known.note).text)
        if before.origin != receipt.checkpoint.origin:
            raise NotProven(
                f"the carrier's log was {before.origin!r} and is now {receipt.checkpoint.origin!r}",
                hint="ask the carrier why its log was recovered; then name the new log's key with --log-key and remove"
                f" the old one from {self._memory.file}",
            )
        old, new = sorted((before, receipt.checkpoint), key=lambda each: each.size)
        try:
            shown = await tiles.compute(
                self._fetch, new.size, lambda read: tree.consistency_proof(old.size, new.size, read)
            )
            tree.verify_consistency(old.size, new.size, shown, old.root, new.root)
        except tree.ProofError as error:
            raise NotProven(
                f"the carrier's log of {new.size} entries does not continue the one of {old.size} seen before: {error}",
                hint=f"its log was rewritten; {self._memory.file} and the receipts at hand are the proof of it",
            ) from error
        return now if new is receipt.checkpoint else known

    async def _fetch(self, wanted: Iterable[Tile]) -> Mapping[tuple[int, int], bytes]:
        found: dict[tuple[int, int], bytes] = {}
        for tile in wanted:
            most = tiles.WIDTH * tiles.HASH_LEN
            try:
                data = await self._session.get_public(f"/log/tile/{tile.level}/{tile.path}", most)
            except Refused as error:
                if error.status != 404:
                    raise
                raise tree.ProofError("a tile of it is not there") from error
            found[tile.level, tile.index] = data
        return found


def compare(receipt: Receipt, client_id: str, part: Part) -> None:
    """Hold a verified receipt against what was received.

    Raises:
        ReceiptError: says what the log has otherwise.
    """
    if receipt.access_id != UUID(part.access_id):
        raise ReceiptError("the receipt is of another access")
    for entry in receipt.entries:
        if entry.actor is None or entry.actor.get("client_id") != client_id:
            raise ReceiptError("the log does not say that it was this client's access")
    kinds = [entry.kind for entry in receipt.entries]
    if kinds.count(Kind.ACCESS_INTENT) != 1 or kinds.count(Kind.ACCESS_OUTCOME) > 1:
        raise ReceiptError("the log does not hold one intent and one outcome of it")
    outcome = next((entry.outcome for entry in receipt.entries if entry.kind is Kind.ACCESS_OUTCOME), None)
    said: list[Mapping[str, Any]] = []
    if part.state == "complete":
        # An answer that ended whole has its outcome before its end is sent, of exactly this.
        if not outcome or outcome.get("state") not in ("complete", "limited"):
            raise ReceiptError("the log does not say that the answer ended whole")
        said.append(outcome)
    else:
        # One that broke was cut back to a checkpoint. Where the gateway died there is no outcome; the last progress
        # entry says how far it had come.
        for entry in receipt.entries:
            if entry.outcome and entry.kind in (Kind.ACCESS_OUTCOME, Kind.ACCESS_PROGRESS):
                said += [entry.outcome, *entry.outcome.get("checkpoints", ())]
    ours = (part.rows, part.bytes, part.sha256)
    if not any((each.get("rows"), each.get("bytes"), each.get("sha256")) == ours for each in said):
        raise ReceiptError("the log has other rows, bytes or SHA-256 than were received")
