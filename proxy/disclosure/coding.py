"""Content codings of answers (RFC 9110 s.8.4, s.12.5.3): zstd, gzip or none. Pure, but for the compressors' state."""

from __future__ import annotations

import re
import zlib
from enum import StrEnum
from typing import Protocol, TypeAlias

import zstandard


class CodingError(Exception):
    """Accept-Encoding rules out every coding offered."""


class Coding(StrEnum):
    """Offered codings, best first."""

    ZSTD = "zstd"
    GZIP = "gzip"
    IDENTITY = "identity"


Buffer: TypeAlias = bytes | memoryview


class Coder(Protocol):
    """A running compressor. What ``code`` returned can be decoded without what follows."""

    def code(self, data: Buffer) -> Buffer:
        """Code ``data`` and flush."""

    def end(self) -> bytes:
        """Return what closes the coding."""


_ITEM = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?")


def negotiate(accept_encoding: str | None) -> Coding:
    """Choose the coding with the highest weight; between equals zstd, then gzip.

    Args:
        accept_encoding: the field's value (several lines joined with commas), or None where it is absent.

    Raises:
        CodingError: where nothing offered is acceptable, or the field cannot be read.
    """
    if accept_encoding is None or not accept_encoding.strip():
        return Coding.IDENTITY
    weights: dict[str, float] = {}
    for item in accept_encoding.split(","):
        if not item.strip():
            continue
        match = _ITEM.fullmatch(item)
        if not match:
            raise CodingError
        weights[match[1].lower().replace("x-gzip", "gzip")] = float(match[2] or "1")
    star = weights.get("*")
    # Identity is acceptable unless ruled out by name or by "*;q=0"; unlisted, it is the last resort.
    identity = weights.get("identity", 0.0005 if star is None else star and min(star, 0.0005))
    offers = [(weights.get("zstd", 0.0), Coding.ZSTD), (weights.get("gzip", 0.0), Coding.GZIP)]
    offers.append((identity, Coding.IDENTITY))
    best = max(offers, key=lambda offer: offer[0])
    if best[0] <= 0:
        raise CodingError
    return best[1]


class _Identity:
    def code(self, data: Buffer) -> Buffer:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._z = zlib.compressobj(1, zlib.DEFLATED, 31)

    def code(self, data: Buffer) -> Buffer:
        return self._z.compress(data) + self._z.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._z.flush()


class _Zstd:
    def __init__(self) -> None:
        # A window of 1 MiB: every decoder takes it (RFC 9659), and a slow reader's compressor stays small.
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=20)
        self._z = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def code(self, data: Buffer) -> Buffer:
        return self._z.compress(data) + self._z.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._z.flush()


def coder(coding: Coding) -> Coder:
    """Return a fresh compressor; its calls are made one at a time, in any thread."""
    if coding is Coding.ZSTD:
        return _Zstd()
    return _Gzip() if coding is Coding.GZIP else _Identity()
