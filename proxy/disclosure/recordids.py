"""Opaque record ids: what a carrier sees in place of the store's sequence.

A sequence would tell a peer how much traffic we carry and when. The id is one AES-256 block of the sequence under a key
of the carrier: the same record has the same id each time that carrier pulls it, two carriers cannot compare theirs, and
we can turn one back when a carrier quotes it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), "<u2")
ID_BYTES = 16
ID_LENGTH = 2 * ID_BYTES
"""Characters of an id that is written in text."""


class RecordIds:
    """The ids that one carrier sees."""

    def __init__(self, secret: bytes, carrier: str) -> None:
        """Derive the carrier's key.

        Args:
            secret: 32 bytes, the provider's secret ``record_ids``.
            carrier: who sees them; any text that stays the carrier's own.
        """
        key = HKDF(hashes.SHA256(), 32, None, b"tollgate record ids 1\0" + carrier.encode()).derive(secret)
        # A single block is a permutation of 128 bits: ECB is the plain block cipher here, not a mode over a message.
        self._cipher = Cipher(AES256(key), ECB())  # noqa: S305

    def blocks(self, record_ids: npt.NDArray[np.int64]) -> bytes:
        """Return the ids, ID_BYTES each, one after another."""
        blocks = np.zeros((len(record_ids), 2), ">u8")
        blocks[:, 1] = record_ids
        return self._cipher.encryptor().update(blocks.view(np.uint8).reshape(-1).data)

    def hexadecimal(self, record_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the ids as ASCII: (n, 32)."""
        sealed = np.frombuffer(self.blocks(record_ids), np.uint8)
        return HEX[sealed].view(np.uint8).reshape(len(record_ids), ID_LENGTH)

    def sequence(self, text: str) -> int | None:
        """Return the store sequence of an id that a carrier quotes; None if it is not one of this carrier's."""
        try:
            block = bytes.fromhex(text)
        except ValueError:
            return None
        if len(text) != ID_LENGTH:
            return None
        plain = self._cipher.decryptor().update(block)
        return int.from_bytes(plain[8:], "big") if plain[:8] == bytes(8) else None
