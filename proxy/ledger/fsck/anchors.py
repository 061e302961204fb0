"""Anchors: what somebody kept of the log outside it. A checkpoint, from whomever; a receipt; a ``.tlog-proof``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from keys.checkpoint import Checkpoint
from keys.errors import KeysError
from keys.notes import Note
from proxy.ledger import receipts
from proxy.ledger.fsck.model import Where
from proxy.ledger.fsck.signed import Trusted
from proxy.ledger.fsck.tree import Mark
from proxy.ledger.receipts import ReceiptError, TlogProof

ANCHOR_MAX = receipts.RECEIPT_MAX
"""Most bytes of one."""


class AnchorRefused(Exception):  # noqa: N818 - it says what is so
    """What was given is no anchor, or nobody who is trusted has signed it. Repeats nothing of it."""


@dataclass(slots=True)
class Anchor:
    """A size and root that were signed, kept elsewhere; of a receipt also its entries' places."""

    label: str
    origin: str
    size: int
    root: bytes
    leaves: tuple[tuple[int, bytes], ...] = ()
    """(index, leaf hash)."""
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


def read_anchor(name: str, data: bytes, trusted: Trusted) -> Anchor:
    """Read an anchor.

    Args:
        name: what people call it (a file's name, a URL).
        data: a signed checkpoint (C2SP tlog-checkpoint), a receipt, or a ``.tlog-proof``.
        trusted: whose signatures count: the log's, for a checkpoint also a witness's alone.

    Raises:
        AnchorRefused: if it is none of these, does not hold in itself, or is signed by nobody who is trusted.
    """
    try:
        if data[:1].lstrip() == b"{":
            return _receipt(name, data, trusted)
        if data.startswith(b"c2sp.org/tlog-proof@"):
            data = TlogProof.parse(data.decode("utf-8")).note.encode()
        signed = trusted.read(data)
    except (KeysError, ReceiptError) as error:
        raise AnchorRefused(f"{name}: {error}") from error
    except UnicodeDecodeError as error:
        raise AnchorRefused(f"{name}: not UTF-8") from error
    return Anchor(f"the anchor {name} (size {signed.size})", signed.origin, signed.size, signed.root)


def _receipt(name: str, data: bytes, trusted: Trusted) -> Anchor:
    try:
        first = json.loads(data)["entries"][0]["proof"]
        origin = Checkpoint.parse(Note.parse(TlogProof.parse(first).note).text).origin
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ReceiptError("this is no receipt") from error
    receipt = receipts.verify(data, trusted.of(origin))
    signed = receipt.checkpoint
    leaves = tuple((entry.index, entry.leaf) for entry in receipt.entries)
    return Anchor(f"the receipt {name} (size {signed.size})", signed.origin, signed.size, signed.root, leaves)
