"""AES-CMAC (NIST SP 800-38B, RFC 4493) over many values at once.

All values advance in lockstep: block 0 of every value in one call of the cipher, then block 1 of those that have one,
and so on; numpy does the chaining. Equal to a CMAC made value by value, for every length.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_BLOCK = 16
_SLAB = 1 << 15
"""Rows in lockstep: what they need stays in the processor's cache, and bounds the working memory."""
_LONG = 4096
"""Values longer than this go one by one: the cipher then costs more than the call, and a few long values would keep
the lockstep running for themselves alone."""


def cmac_fixed(key: bytes, rows: Bytes) -> Bytes:
    """Return the CMAC of each row.

    Args:
        key: an AES key of 16, 24 or 32 bytes.
        rows: (n, w) uint8, every value w bytes long.

    Returns:
        (n, 16) uint8.

    Raises:
        ValueError: if ``rows`` is not two-dimensional uint8, or the key has no AES length.
    """
    if rows.ndim != 2 or rows.dtype != np.uint8:
        raise ValueError("rows must be a two-dimensional array of uint8")
    n, width = rows.shape
    if width > _BLOCK:
        return cmac_strings(key, np.ascontiguousarray(rows).reshape(-1), np.arange(n + 1, dtype=np.int64) * width)
    mac = _Mac(key)
    out = np.empty((n, _BLOCK), np.uint8)
    block = np.zeros((min(n, _SLAB), _BLOCK), np.uint8)
    for start in range(0, n, _SLAB):
        part = rows[start : start + _SLAB]
        used = block[: len(part)]
        used[:, :width] = part
        used[:, width:] = 0
        words = _words(used)
        words ^= mac.final[width]
        out[start : start + len(part)] = mac.encrypt(used)
    return out


def cmac_strings(key: bytes, data: Bytes, offsets: Ints, prefix: bytes = b"") -> Bytes:
    """Return the CMAC of each of many values of any lengths.

    Args:
        key: an AES key of 16, 24 or 32 bytes.
        data: one-dimensional uint8, the values one after the other.
        offsets: int64, n + 1 ascending positions in ``data``: value i is ``prefix`` followed by
            ``data[offsets[i]:offsets[i + 1]]``.
        prefix: bytes that stand before every value (a domain, say).

    Returns:
        (n, 16) uint8. Beside it and one array of n lengths the working memory is a few MiB, whatever the lengths.

    Raises:
        ValueError: if the arrays are not of this form, or the key has no AES length.
    """
    if data.ndim != 1 or data.dtype != np.uint8:
        raise ValueError("data must be a one-dimensional array of uint8")
    if offsets.ndim != 1 or offsets.dtype != np.int64 or not offsets.size:
        raise ValueError("offsets must be a one-dimensional array of int64 with at least one value")
    lengths = np.diff(offsets)
    if offsets[0] < 0 or offsets[-1] > data.size or (lengths < 0).any():
        raise ValueError("offsets must ascend within the data")
    mac = _Mac(key)
    windows = _Windows(data)
    state, rest = mac.absorb(prefix)
    out = np.empty((lengths.size, _BLOCK), np.uint8)
    for start in range(0, lengths.size, _SLAB):
        part = slice(start, min(start + _SLAB, lengths.size))
        long = np.flatnonzero(lengths[part] > _LONG)
        if not long.size:
            out[part] = _lockstep(mac, windows, offsets[part], lengths[part], state, rest)
            continue
        short = np.flatnonzero(lengths[part] <= _LONG)
        out[start + short] = _lockstep(mac, windows, offsets[start + short], lengths[start + short], state, rest)
        for index in start + long:
            out[index] = _one(key, prefix, data[offsets[index] : offsets[index + 1]])
    return out


class _Mac:
    """The cipher under one key, and how a last block of each length is padded and masked (SP 800-38B section 6.2)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - the block cipher CMAC is made of
        k1 = _double(self._cipher.update(bytes(_BLOCK)))
        k2 = _double(k1)
        keep = np.zeros((_BLOCK + 1, _BLOCK), np.uint8)
        final = np.zeros((_BLOCK + 1, _BLOCK), np.uint8)
        for length in range(_BLOCK):
            keep[length, :length] = 0xFF
            final[length] = np.frombuffer(k2, np.uint8)
            final[length, length] ^= 0x80
        keep[_BLOCK] = 0xFF
        final[_BLOCK] = np.frombuffer(k1, np.uint8)
        self.keep = _words(keep)
        """By length of the last block: which of its bytes are the value's."""
        self.final = _words(final)
        """By length of the last block: padding and subkey, to be XORed in."""
        # The cipher wants room for one block more, less a byte, than it writes.
        self._out = np.empty(_SLAB * _BLOCK + _BLOCK - 1, np.uint8)

    def encrypt(self, blocks: Bytes) -> Bytes:
        """Return the encryption of (m, 16) blocks, m at most a slab; valid until the next call."""
        size = blocks.size
        if size:
            self._cipher.update_into(blocks.reshape(-1).data, self._out.data)
        return self._out[:size].reshape(-1, _BLOCK)

    def absorb(self, prefix: bytes) -> tuple[Words, Bytes]:
        """Return the state after the prefix's whole blocks, and what is left of it (a last block is always left)."""
        whole = max(0, len(prefix) - 1) // _BLOCK * _BLOCK
        state = np.zeros((1, _BLOCK), np.uint8)
        for at in range(0, whole, _BLOCK):
            state = self.encrypt(state ^ np.frombuffer(prefix, np.uint8, _BLOCK, at)).copy()
        return _words(state), np.frombuffer(prefix[whole:], np.uint8)


class _Windows:
    """Sixteen bytes at any position of the data; what lies outside of it is zero."""

    def __init__(self, data: Bytes) -> None:
        self._data = np.ascontiguousarray(data)
        self._last = data.size - _BLOCK
        self._view = np.ndarray((max(0, self._last + 1),), "V16", self._data, strides=(1,))

    def at(self, positions: Ints) -> Bytes:
        """Return (m, 16) uint8, a copy."""
        inside = (positions >= 0) & (positions <= self._last)
        if inside.all():
            return self._view[positions].view(np.uint8).reshape(-1, _BLOCK)
        found = np.zeros((positions.size, _BLOCK), np.uint8)
        found[inside] = self._view[positions[inside]].view(np.uint8).reshape(-1, _BLOCK)
        edge = np.flatnonzero(~inside)
        places = positions[edge, None] + np.arange(_BLOCK)
        held = (places >= 0) & (places < self._data.size)
        patch = found[edge]
        patch[held] = self._data[places[held]]
        found[edge] = patch
        return found


def _lockstep(mac: _Mac, windows: _Windows, starts: Ints, sizes: Ints, state: Words, rest: Bytes) -> Bytes:
    """Return the CMACs of one slab of values, each after ``rest`` and from ``state``."""
    n = sizes.size
    starts = starts - rest.size
    sizes = sizes + rest.size
    blocks = np.maximum(1, (sizes + _BLOCK - 1) // _BLOCK).astype(np.int16)
    # Values with most blocks first: those that still run are always the first ones.
    order = np.argsort(-blocks, kind="stable")
    starts, sizes = starts[order], sizes[order]
    running = n - np.cumsum(np.bincount(blocks))  # running[b]: how many have more than b blocks
    chain = np.empty((n, _BLOCK), np.uint8)
    _words(chain)[:] = state
    for b in range(running.size - 1):
        active, beyond = int(running[b]), int(running[b + 1])
        block = windows.at(starts[:active] + b * _BLOCK)
        if b == 0 and rest.size:
            block[:, : rest.size] = rest
        words = _words(block)
        left = sizes[beyond:active] - b * _BLOCK
        words[beyond:active] &= mac.keep[left]
        words[beyond:active] ^= mac.final[left]
        words ^= _words(chain)[:active]
        chain[:active] = mac.encrypt(block)
    out = np.empty((n, _BLOCK), np.uint8)
    out[order] = chain
    return out


def _one(key: bytes, prefix: bytes, value: Bytes) -> Bytes:
    mac = CMAC(AES(key))
    mac.update(prefix)
    mac.update(value.tobytes())
    return np.frombuffer(mac.finalize(), np.uint8)


def _words(blocks: Bytes) -> Words:
    """Return (m, 16) bytes as (m, 2) words, the same memory."""
    return blocks.view(np.uint64)


def _double(block: bytes) -> bytes:
    """Multiply by x in GF(2^128) (SP 800-38B section 6.1)."""
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = value & ((1 << 128) - 1) ^ 0x87
    return value.to_bytes(_BLOCK, "big")
