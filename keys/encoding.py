"""Base64url, canonical only: one byte string has exactly one text (RFC 4648 sections 3.5 and 5)."""

from __future__ import annotations

import base64
import binascii
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


class EncodingError(ValueError):
    """The text is not the canonical base64url of any bytes."""


def b64url_encode(data: bytes) -> str:
    """Return ``data`` in base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Return the bytes that ``text`` is the base64url of.

    Refuses what lenient decoders take: padding, white space, the `+/` alphabet, and trailing bits that are not zero,
    for each of them would let two texts stand for one value (a token or identifier compared as text).

    Raises:
        EncodingError: if ``text`` is not exactly what `b64url_encode` writes.
    """
    if _ALPHABET.fullmatch(text) is None or len(text) % 4 == 1:
        raise EncodingError("not base64url without padding")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:  # pragma: no cover - the two checks above leave nothing for it
        raise EncodingError("not base64url") from error
    if b64url_encode(data) != text:
        raise EncodingError("base64url with trailing bits set")
    return data
