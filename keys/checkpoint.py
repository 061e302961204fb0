"""What a log says of itself in a signed note: origin, size, root (C2SP tlog-checkpoint). Pure.

As of every note there is one form: what is taken is what would be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from keys.notes import HASH_LENGTH, SIZE_MAX, Note, NoteError, VerifierKey, b64, decimal, is_text, unb64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself (C2SP tlog-checkpoint).

    Raises:
        NoteError: if a field cannot be written: an origin that is empty or has more than a line, a size outside
            0..2^63 - 1, a root that is not 32 bytes, an extension line that is empty.
    """

    origin: str
    size: int
    root: bytes
    """RFC 6962 root hash at ``size``, 32 bytes."""
    extensions: tuple[str, ...] = ()
    """Lines that other logs may add. Ours has none: nobody could audit them."""

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line or not is_text(line):
                raise NoteError("an origin or extension is one line of text that is not empty")
        if not 0 <= self.size <= SIZE_MAX:
            raise NoteError("a tree's size is below 2^63")
        if len(self.root) != HASH_LENGTH:
            raise NoteError("a root hash has 32 bytes")

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text; it is as trusted as the note.

        Raises:
            NoteError: if it is no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise NoteError("a checkpoint is three lines: origin, size, root hash")
        return cls(lines[0], decimal(lines[1]), unb64(lines[2]), tuple(lines[3:-1]))

    @property
    def text(self) -> str:
        """The note text: what is signed."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, b64(self.root), *self.extensions))


def read_checkpoint(note: Note | bytes | str, key: VerifierKey, origin: str | None = None) -> Checkpoint:
    """Return a log's checkpoint after checking that the log has signed it.

    Args:
        note: the signed note.
        key: the log's.
        origin: what its first line must be; the key's name if None.

    Raises:
        NoteUnsigned: if ``key`` has not signed it.
        NoteError: if it is no note, no checkpoint, or another log's.
    """
    read = note if isinstance(note, Note) else Note.parse(note)
    read.verify([key])
    checkpoint = Checkpoint.parse(read.text)
    if checkpoint.origin != (key.name if origin is None else origin):
        raise NoteError("the checkpoint is another log's: its origin is not the expected one")
    return checkpoint
