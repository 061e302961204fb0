"""What is signed: checkpoints, cosignatures, origins. Pure; gives the roots that the tree is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from keys.checkpoint import Checkpoint
from keys.errors import KeysError
from keys.notes import COSIGNATURE, ED25519, Note, NoteError, Signature, VerifierKey
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import Report, Since, StoredCheckpoint, StoredOrigin, Where
from proxy.ledger.fsck.tree import Mark


class Trusted:
    """Whose signatures count.

    Args:
        jwks: public JWKs of the log's keys; they sign for whatever origin the log has.
        keys: verifier keys: a log's (type 0x01) for the origin that it names, a witness's (type 0x04) for any.
    """

    def __init__(self, jwks: Sequence[Mapping[str, str]] = (), keys: Iterable[VerifierKey] = ()) -> None:
        self._jwks = tuple(jwks)
        given = tuple(keys)
        self._logs = tuple(key for key in given if key.kind == ED25519)
        self.witnesses = tuple(key for key in given if key.kind == COSIGNATURE)
        self._made: dict[str, tuple[VerifierKey, ...]] = {}

    def of(self, origin: str) -> tuple[VerifierKey, ...]:
        """Return the keys that sign for an origin; none where it is no name a key can have."""
        if origin not in self._made:
            try:
                made = tuple(VerifierKey.from_jwk(origin, jwk) for jwk in self._jwks)
            except NoteError:
                made = ()
            self._made[origin] = (*made, *(key for key in self._logs if key.name == origin))
        return self._made[origin]

    def read(self, data: bytes) -> Checkpoint:
        """Return the checkpoint of a signed note, whatever its origin.

        Raises:
            NoteError: if it is none, or neither the log nor a witness that is trusted has signed it.
        """
        note = Note.parse(data)
        checkpoint = Checkpoint.parse(note.text)
        note.verify((*self.of(checkpoint.origin), *self.witnesses))
        return checkpoint


class SignedCheck:
    """Checks checkpoints one after the other.

    Args:
        origins: as the source has them.
        trusted: whose signatures count.
        report: where what was checked is counted.
        found: where findings go.
    """

    def __init__(self, origins: Sequence[StoredOrigin], trusted: Trusted, report: Report, found: Findings) -> None:
        self._origins = {each.epoch: each for each in origins}
        self._trusted = trusted
        self._report = report
        self._found = found
        self._at: datetime | None = None
        self._check_origins(origins)

    def _check_origins(self, origins: Sequence[StoredOrigin]) -> None:
        if [each.epoch for each in origins] != list(range(1, len(origins) + 1)):
            self._found.add(Where.ORIGIN, "the origins are not numbered from 1 without gaps")
        for before, each in zip((None, *origins), origins, strict=False):
            if before is None:
                if each.previous is not None or each.first_size != 0:
                    self._found.add(Where.ORIGIN, "the first origin does not begin with the log")
                continue
            if each.first_size < before.first_size:
                self._found.add(Where.ORIGIN, f"origin {each.epoch} begins before the one before it")
            try:
                if each.previous is None:
                    raise NoteError("it names no checkpoint of the one before it")
                last = Note.parse(each.previous)
                # Of the one before it, or of one that was lost: a recovery that a second restored backup undid.
                last.verify(self._trusted.of(Checkpoint.parse(last.text).origin))
            except KeysError as error:
                self._found.add(Where.ORIGIN, f"origin {each.epoch}: {error}")

    def check_entries(self, entries: Sequence[tuple[int, Mapping[str, Any] | None]]) -> None:
        """Hold the origins against the log.origin entries: (index, request, None where it is not to be had)."""
        known = {index: request for index, request in entries if request is not None}
        said: dict[int, int] = {}
        for index, request in known.items():
            origin = self._origins.get(request.get("epoch"))  # type: ignore[arg-type]
            if origin is None or origin.epoch in said or not _opens(origin, index, request):
                self._found.add(Where.ORIGIN, "it opens an origin that does not stand so", index)
            else:
                said[origin.epoch] = index
        # An entry that cannot be read may be the one that opens an origin: only there, and only one.
        unread = {index for index, request in entries if request is None}
        for epoch in sorted(self._origins.keys() - said.keys(), reverse=True):
            place = self._origins[epoch].first_size if epoch > 1 else min(unread, default=-1)
            if place in unread:
                unread.remove(place)
            else:
                self._found.add(Where.ORIGIN, f"no entry opens origin {epoch} as it stands")

    def check(self, stored: StoredCheckpoint) -> Mark | None:
        """Check one; return the root that it vouches for, None where it vouches for nothing."""
        name = f"the checkpoint of size {stored.size}"
        if len(self._origins) > 1:
            name += f" (origin {stored.epoch})"
        origin = self._origins.get(stored.epoch)
        if origin is None:
            self._found.add(Where.CHECKPOINT, f"{name} is of no origin that the log has had")
            return None
        self._report.checkpoints += 1
        try:
            note = Note.parse(stored.note)
            note.verify(self._trusted.of(origin.origin))
            signed = Checkpoint.parse(note.text)
        except NoteError as error:
            self._found.add(Where.CHECKPOINT, f"{name}: {error}")
            return None
        if (signed.origin, signed.size, signed.extensions) != (origin.origin, stored.size, ()):
            self._found.add(Where.CHECKPOINT, f"{name} stands under another origin or size than was signed")
            return None
        if stored.root is not None and stored.root != signed.root:
            self._found.add(Where.CHECKPOINT, f"{name} has another root beside it than was signed")
        after = self._origins.get(stored.epoch + 1)
        if signed.size < origin.first_size or (after is not None and signed.size > after.first_size):
            self._found.add(Where.CHECKPOINT, f"{name} is not of the stretch of its origin")
        if stored.at is not None and self._at is not None and stored.at < self._at:
            self._found.add(Where.CHECKPOINT, f"{name} is of an earlier time than a smaller one")
        self._at = stored.at or self._at
        for witness, line in stored.cosignatures:
            self._cosignature(name, note, witness, line)
        return Mark(signed.size, signed.root, Since(stored.epoch, signed.size, stored.at), name)

    def _cosignature(self, name: str, note: Note, witness: str, line: bytes) -> None:
        try:
            signature = Signature.parse(line.decode("utf-8").removesuffix("\n"))
            if signature.name != witness:
                raise NoteError("it is filed under another witness than signed")
            # Anybody can call a key so; only those that were named count.
            keys = [key for key in self._trusted.witnesses if signature.is_by(key)]
            for key in keys:
                key.check(note.text, signature.data)
        except (NoteError, UnicodeDecodeError) as error:
            what = error if isinstance(error, NoteError) else "not UTF-8"
            self._found.add(Where.COSIGNATURE, f"a cosignature of {name}: {what}")
            return
        if keys:
            self._report.cosignatures += 1
        else:
            self._report.unchecked_cosignatures += 1


def _opens(origin: StoredOrigin, index: int, request: Mapping[str, Any]) -> bool:
    """Whether a log.origin entry says what stands of its origin."""
    previous = None if origin.previous is None else origin.previous.decode("utf-8", "replace")
    return (
        request.get("origin") == origin.origin
        and request.get("previous") == previous
        and request.get("first_size", 0) == origin.first_size
        and index >= origin.first_size
    )
