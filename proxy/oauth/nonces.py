"""DPoP nonces without state (RFC 9449 sections 8 and 9): a time slot and its MAC under a secret all gateways share.

A nonce binds a proof to the last two minutes even if the client's key device signed proofs for later times in advance.
It is no secret and bound to no client.
"""

from __future__ import annotations

import hashlib
import hmac

from keys.encoding import EncodingError, b64url_decode, b64url_encode

SLOT_S = 60
"""Length of a slot, seconds."""

_SLOT_BYTES = 8
_MAC_BYTES = 16


class Nonces:
    """Makes and checks nonces.

    Args:
        secret: 32 bytes, the provider's secret ``dpop_nonce``.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the nonce secret must be 32 bytes")
        self._secret = secret

    def current(self, now: float) -> str:
        """Return the nonce of this moment; it is good for one to two slots."""
        slot = (int(now) // SLOT_S).to_bytes(_SLOT_BYTES, "big")
        return b64url_encode(slot + self._mac(slot))

    def good(self, nonce: object, now: float) -> bool:
        """Say whether ``nonce`` is one of ours from this slot, the one before, or (another gateway's) the one after."""
        if not isinstance(nonce, str) or len(nonce) != 32:
            return False
        try:
            data = b64url_decode(nonce)
        except EncodingError:
            return False
        slot, mac = data[:_SLOT_BYTES], data[_SLOT_BYTES:]
        near = abs(int.from_bytes(slot, "big") - int(now) // SLOT_S) <= 1
        return hmac.compare_digest(mac, self._mac(slot)) and near

    def _mac(self, slot: bytes) -> bytes:
        return hmac.digest(self._secret, b"tollgate dpop nonce 1\0" + slot, hashlib.sha256)[:_MAC_BYTES]
