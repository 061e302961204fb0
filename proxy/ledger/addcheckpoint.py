"""What a log sends its witness: the body of ``add-checkpoint`` (C2SP tlog-witness), written and strictly read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from keys.notes import HASH_LENGTH, NOTE_MAX, Note, NoteError, b64, decimal, unb64

PATH = "/add-checkpoint"
"""Below a witness's submission prefix."""
LATEST = "/checkpoint"
"""Beside it: the note last cosigned, of the log whose origin is the parameter ``origin`` (ours; other witnesses may not
have it)."""
PROOF_MAX = 63
"""Most hashes of a consistency proof: no tree of fewer than 2^63 leaves needs more."""
BODY_MAX = NOTE_MAX + 4096
"""Most bytes of a body: a note, 63 hashes of 45 bytes, the old size."""
SIZE_TYPE = "text/x.tlog.size"
"""Content type of the answer 409: the size that the witness holds, and a newline."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A checkpoint, and the proof that it continues the tree of ``old_size`` leaves."""

    old_size: int
    proof: tuple[bytes, ...]
    """RFC 6962 section 2.1.2; 32 bytes each, at most 63."""
    note: Note

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a body. The note in it is not verified.

        Raises:
            NoteError: if it is none.
        """
        if len(body) > BODY_MAX:
            raise NoteError("the request is too long")
        head, blank, rest = body.partition(b"\n\n")
        try:
            first, *hashes = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise NoteError("the lines before the checkpoint are not ASCII") from error
        word, space, size = first.partition(" ")
        if not blank or not space or word != "old" or len(hashes) > PROOF_MAX:
            raise NoteError("a request is: old size, at most 63 hashes, an empty line, a checkpoint")
        proof = tuple(unb64(line) for line in hashes)
        if any(len(each) != HASH_LENGTH for each in proof):
            raise NoteError("a hash of a proof has 32 bytes")
        return cls(decimal(size), proof, Note.parse(rest))

    def __bytes__(self) -> bytes:
        """The body, as `parse` takes it."""
        lines = [f"old {self.old_size}", *(b64(each) for each in self.proof), "", str(self.note)]
        return "\n".join(lines).encode()
