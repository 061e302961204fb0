"""Byte planes and zstd frames: the two moves that every sealed body of the store is made of.

An unsigned integer of ``width`` bytes is written as its least significant bytes of all rows, then the next, and so on:
bytes that are alike stand together, and one transposition opens them.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import zstandard

ZSTD_LEVEL = 1
"""Most of a body is keyed bytes or digits that do not compress; a higher level costs time and saves one part in 30."""
MAX_BODY = 1 << 28
"""A frame that claims to open into more bytes than this is refused."""

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]


class FormatError(Exception):
    """What opened does not hold what the format says."""


def width_of(words: Words) -> int:
    """Return how many bytes the largest word takes; 0 for no words or only zeros."""
    return (int(words.max()).bit_length() + 7) // 8 if len(words) else 0


def to_planes(words: Words, width: int) -> bytes:
    """Return the ``width`` planes of ``words``, least significant first."""
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :width].T).tobytes()


def from_planes(view: Bytes, rows: int, width: int) -> Words:
    """Return ``rows`` words from ``rows * width`` bytes of planes."""
    words = np.zeros(rows, "<u8")
    spread(view.reshape(-1), words, width)
    return words


def spread(view: Bytes, words: Words, width: int) -> None:
    """Write planes into ``words``, which are zero."""
    rows = len(words)
    if width == 1:
        words[:] = view
    elif width < 6:
        # Two planes at a time, as halves of 16 bits: stores of two bytes are as fast as stores of one.
        halves = words.view(np.uint16).reshape(-1, 4)
        pair = np.empty(rows, np.uint16)
        low, high = pair.view(np.uint8)[0::2], pair.view(np.uint8)[1::2]
        for plane in range(0, width - 1, 2):
            at = plane * rows
            low[:], high[:] = view[at : at + rows], view[at + rows : at + 2 * rows]
            halves[:, plane // 2] = pair
        if width % 2:
            halves[:, width // 2] = view[(width - 1) * rows :]
    else:
        words.view(np.uint8).reshape(-1, 8)[:, :width] = view.reshape(width, rows).T


class _Zstd(threading.local):
    """Contexts are not to be shared between threads, and making one costs as much as a small frame."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _Zstd()


def compress(body: bytes) -> bytes:
    """Return one zstd frame."""
    return _ZSTD.compressor.compress(body)


def decompress(frame: bytes | memoryview) -> bytes:
    """Return what :func:`compress` was given.

    Raises:
        FormatError: if it is no zstd frame, or claims more than :data:`MAX_BODY` bytes.
    """
    try:
        if not 0 <= zstandard.frame_content_size(frame) <= MAX_BODY:
            raise FormatError("a frame claims too many bytes")
        return _ZSTD.decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise FormatError("not a zstd frame") from error
