"""Receipts: what the log holds of a client's own access, with proofs that it stands there. Pure; checked offline.

A receipt is one JSON object (``application/vnd.tollgate.receipt+json``):

    {"v":1, "access_id":"<uuid>", "log":{"vkey":"<name+id+key>"}, "entries":[
        {"header":"<header>", "openings":{"actor":"<opening>", …}, "proof":"c2sp.org/tlog-proof@v1\\n…"}, …]}

Headers and openings are texts, byte for byte what was hashed. They are checked from the inside out: each opening
against its commitment in the header; SHA-256 of the header is the leaf's data; the leaf by its inclusion proof against
the root of a checkpoint; the checkpoint by the log's signature, and by witnesses' where the caller names some. It is
one checkpoint for all entries, letter for letter: a log that signs two trees of one size could prove an intent in one
and the outcome in the other, and whoever keeps the checkpoint of one would never see the other.
`log.vkey` is a hint for people: nothing is checked with it. The part ``records`` of an entry is never opened to a
client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from keys.checkpoint import Checkpoint
from keys.notes import Note, NoteError, VerifierKey, b64, decimal, unb64
from proxy.ledger import encoding, tree
from proxy.ledger.model import PARTS, LedgerBroken, OpenedEntry

MEDIA_TYPE = "application/vnd.tollgate.receipt+json"
VERSION = 1
SHOWN = ("actor", "request", "outcome")
"""The parts that a client may see of its own accesses."""
ENTRIES_MAX = 10_000
RECEIPT_MAX = 256 << 20

_MAGIC = "c2sp.org/tlog-proof@v1"
_HASHES_MAX = 64


class ReceiptError(Exception):
    """A receipt is malformed, or does not prove what it says. The message repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An entry's place, the way to the root, and the checkpoint (C2SP tlog-proof)."""

    index: int
    hashes: tuple[bytes, ...]
    """From the leaf's sibling to the root's child."""
    note: str

    def __str__(self) -> str:
        """The text of a ``.tlog-proof``."""
        lines = "".join(b64(each) + "\n" for each in self.hashes)
        return f"{_MAGIC}\nindex {self.index}\n{lines}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> TlogProof:
        """Read one; extra data, which nothing authenticates, is passed over.

        Raises:
            ReceiptError: if it is none.
        """
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        if not blank or lines.pop(0) != _MAGIC or not lines:
            raise ReceiptError("a proof is no c2sp.org/tlog-proof@v1")
        try:
            if lines[0].startswith("extra "):
                unb64(lines.pop(0)[len("extra ") :])
            name, _, number = lines.pop(0).partition(" ") if lines else ("", "", "")
            if name != "index" or len(lines) > _HASHES_MAX:
                raise ReceiptError("a proof is no c2sp.org/tlog-proof@v1")
            return cls(decimal(number), tuple(unb64(line) for line in lines), note)
        except NoteError as error:
            raise ReceiptError(f"a proof cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt that has been verified."""

    access_id: UUID
    checkpoint: Checkpoint
    """The one checkpoint that its proofs lead to."""
    note: str
    """That checkpoint, signed: worth keeping, for whoever holds it can tell a log that was rewritten."""
    witnesses: tuple[str, ...]
    """Names of the witnesses, of those asked for, that cosigned it."""
    entries: tuple[OpenedEntry, ...]
    """The entries, each proven. A part that the receipt does not open is None."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "access_id": str(self.access_id),
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "witnesses": list(self.witnesses),
            "entries": [
                {name: value for name, value in entry.as_json().items() if name not in ("records", "access_id")}
                for entry in self.entries
            ],
        }


def make(access_id: UUID, vkey: str, entries: Iterable[tuple[bytes, Mapping[str, bytes], TlogProof]]) -> dict[str, Any]:
    """Return the receipt of entries, as JSON values.

    Args:
        access_id: the access.
        vkey: the log's key as text.
        entries: of each its header, the openings of its parts (those a client may not see are left out here) and
            its proof; by index, ascending.
    """
    made = [
        {
            "header": header.decode(),
            "openings": {part: openings[part].decode() for part in SHOWN if part in openings},
            "proof": str(proof),
        }
        for header, openings, proof in entries
    ]
    return {"v": VERSION, "access_id": str(access_id), "log": {"vkey": vkey}, "entries": made}


def verify(
    data: bytes, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey] = (), quorum: int | None = None
) -> Receipt:
    """Check a receipt.

    Args:
        data: the file.
        keys: the log's, from somewhere else than the receipt.
        witnesses: cosigners that are trusted.
        quorum: how many of them the checkpoint needs; default: all.

    Raises:
        ReceiptError: says what does not hold.
    """
    value = _json(data)
    access_id = _uuid(value["access_id"])
    entries: list[OpenedEntry] = []
    note: str | None = None
    for item in value["entries"]:
        header, openings, proof = item["header"].encode(), item["openings"], TlogProof.parse(item["proof"])
        if note is None:
            note = proof.note
            checkpoint, cosigned = _checkpoint(note, keys, witnesses, len(witnesses) if quorum is None else quorum)
        elif proof.note != note:
            raise ReceiptError("its entries are not proven under one and the same checkpoint")
        entry = _entry(proof.index, header, openings, access_id)
        try:
            tree.verify_inclusion(proof.index, checkpoint.size, entry.leaf, proof.hashes, checkpoint.root)
        except tree.ProofError as error:
            raise ReceiptError(f"the entry at {proof.index} is not proven: {error}") from error
        if entries and entries[-1].index >= entry.index:
            raise ReceiptError("the entries are not in the log's order, or one stands twice")
        entries.append(entry)
    if note is None:
        raise ReceiptError("a receipt without entries proves nothing")
    return Receipt(access_id, checkpoint, note, tuple(sorted(cosigned)), tuple(entries))


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > RECEIPT_MAX:
        raise ReceiptError("the receipt is too large")
    try:
        value = json.loads(data)
        if value["v"] != VERSION:
            raise ReceiptError("a receipt of another version: use a newer tollgate")
        entries = value["entries"]
        texts = [value["access_id"]]
        for item in entries:
            texts += [item["header"], item["proof"], *item["openings"], *item["openings"].values()]
        if not isinstance(entries, list) or len(entries) > ENTRIES_MAX or not all(isinstance(t, str) for t in texts):
            raise TypeError
        for text in texts:
            text.encode()  # a lone surrogate is no text
        return dict(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReceiptError("this is no receipt") from error


def _uuid(text: str) -> UUID:
    try:
        if str(value := UUID(text)) == text:
            return value
    except ValueError:
        pass
    raise ReceiptError("this is no receipt: its access is no UUID")


def _checkpoint(
    text: str, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey], quorum: int
) -> tuple[Checkpoint, set[str]]:
    try:
        note = Note.parse(text)
        signer = note.verify(keys)[0].key
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != signer.name:
            raise ReceiptError("the checkpoint is another log's: its origin is not the key's name")
        known = {(key.name, key.id) for key in witnesses}
        some = any((each.name, each.id) in known for each in note.signatures)
        found = {one.key.name for one in note.verify(witnesses)} if some else set()
    except NoteError as error:
        raise ReceiptError(f"the checkpoint does not verify: {error}") from error
    if len(found) < quorum:
        raise ReceiptError(f"the checkpoint of size {checkpoint.size} has {len(found)} of {quorum} witnesses asked for")
    return checkpoint, found


def _entry(index: int, raw: bytes, openings: Mapping[str, str], access_id: UUID) -> OpenedEntry:
    try:
        header = encoding.read_header(index, raw)
        if header.access_id != access_id:
            raise ReceiptError(f"the entry at {index} is of another access")
        if not set(openings) <= set(SHOWN) & header.commits.keys():
            raise ReceiptError(f"the entry at {index} comes with a part that it does not have")
        parts: dict[str, dict[str, Any] | None] = {part: None if part in header.commits else {} for part in PARTS}
        for part, text in openings.items():
            parts[part] = encoding.read_opening(index, part, text.encode(), header.commits[part])
    except LedgerBroken as error:
        raise ReceiptError(str(error)) from error
    return OpenedEntry(
        index,
        header.entry_id,
        header.at,
        header.kind,
        header.access_id,
        parts["actor"],
        parts["request"],
        parts["outcome"],
        parts["records"],
        encoding.leaf_hash(raw),
    )
