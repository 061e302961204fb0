"""Anchors: what somebody kept of the log outside it. A checkpoint from a witness, a receipt, this home's own note."""

from __future__ import annotations

from dataclasses import dataclass, field

from keys.errors import KeysError
from proxy.ledger.fsck.model import Where
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.fsck.tree import Mark


class AnchorError(Exception):
    """What was given is no anchor, or nobody who is trusted has signed it. Repeats nothing of it."""


@dataclass(slots=True)
class Anchor:
    """A size and root that were signed, kept elsewhere; of a receipt also the entry."""

    label: str
    origin: str
    size: int
    root: bytes
    index: int | None = None
    header: bytes = b""
    _mark: Mark | None = field(default=None)

    def mark(self) -> Mark:
        """What the tree is held against."""
        if self._mark is None:
            self._mark = Mark(self.size, self.root, None, self.label, Where.ANCHOR)
        return self._mark

    @property
    def holds(self) -> bool:
        """Whether the log gives its root."""
        return self._mark is not None and self._mark.held is True


def read_anchor(name: str, data: bytes, trusted: Trusted) -> list[Anchor]:
    """Read an anchor: a signed checkpoint.

    Args:
        name: what people call it (a file's name, a URL).
        data: its bytes.
        trusted: whose signatures count.

    Raises:
        AnchorError: if it is none, or is signed by nobody who is trusted.
    """
    try:
        signed = trusted.read(data)
    except KeysError as error:
        raise AnchorError(f"{name}: {error}") from error
    return [Anchor(f"the anchor {name} of size {signed.size}", signed.origin, signed.size, signed.root)]
