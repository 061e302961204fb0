"""Wrapping of keys under keys: AES-256-GCM (NIST SP 800-38D) with a random nonce, bound to a context.

    wrapped = "TW" | version u8 = 1 | algorithm u8 = 1 | id of the wrapping key, 8 bytes | nonce, 12 bytes
              | ciphertext | tag, 16 bytes
    AAD     = the first 12 bytes | context

A key wraps few values (a period key a handful, a root key some thousands), far below the 2^32 that random 96-bit
nonces allow (SP 800-38D section 8.3).
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys.errors import KeyUnavailable, SealError

KEY_BYTES = 32
KEK_ID_BYTES = 8

_MAGIC = b"TW"
_VERSION = 1
_ALGORITHM = 1
_HEADER = 12
_NONCE = 12
_TAG = 16


def context(label: str, *fields: str | int) -> bytes:
    """Return an unambiguous context: label and fields, each with its length (u16, big-endian) before it."""
    parts = (f"tollgate {label}", *(str(field) for field in fields))
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(2, "big") + part for part in encoded)


def wrap_key(kek: bytes, kek_id: bytes, plaintext: bytes, bound_to: bytes) -> bytes:
    """Return ``plaintext`` wrapped under ``kek`` (32 bytes), whose 8-byte id stands in clear in the result."""
    header = _MAGIC + bytes((_VERSION, _ALGORITHM)) + kek_id
    nonce = os.urandom(_NONCE)
    return header + nonce + AESGCM(kek).encrypt(nonce, plaintext, header + bound_to)


def kek_id_of(wrapped: bytes) -> bytes:
    """Return the id of the key that ``wrapped`` says it is wrapped under.

    Raises:
        SealError: if it is not a wrapped key.
        KeyUnavailable: if a newer version wrote it.
    """
    if len(wrapped) < _HEADER + _NONCE + _TAG or wrapped[:2] != _MAGIC:
        raise SealError("not a wrapped key")
    if wrapped[2] != _VERSION or wrapped[3] != _ALGORITHM:
        raise KeyUnavailable(f"a wrapped key of version {wrapped[2]}, algorithm {wrapped[3]}: upgrade to open it")
    return wrapped[4:_HEADER]


def unwrap_key(kek: bytes, kek_id: bytes, wrapped: bytes, bound_to: bytes) -> bytes:
    """Return what `wrap_key` wrapped.

    Raises:
        SealError: if it was altered or bound to another context.
        KeyUnavailable: if it was wrapped under another key than ``kek_id``, or by a newer version.
    """
    if kek_id_of(wrapped) != kek_id:
        raise KeyUnavailable("wrapped under another key: was the keyring replaced, or the period destroyed?")
    nonce = wrapped[_HEADER : _HEADER + _NONCE]
    try:
        return AESGCM(kek).decrypt(nonce, wrapped[_HEADER + _NONCE :], wrapped[:_HEADER] + bound_to)
    except InvalidTag:
        raise SealError("a wrapped key does not open: altered, or bound to something else") from None
