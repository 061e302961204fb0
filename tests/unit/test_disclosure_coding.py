"""Content coding: what is chosen, and that a truncated coded answer still opens up to its last flush."""

from __future__ import annotations

import zlib

import pytest
import zstandard

from proxy.disclosure.coding import Coding, CodingError, coder, negotiate


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        (None, "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZIP;Q=0.5, zstd;q=0.4", "gzip"),
        ("zstd;q=0, gzip", "gzip"),
        ("zstd;q=0.000, gzip;q=0", "identity"),
        ("br", "identity"),
        ("br, *;q=0.1", "identity"),
        ("identity;q=1, gzip;q=0.5", "identity"),
        ("identity;q=0, zstd;q=0.001", "zstd"),
        ("*;q=0, gzip;q=0.2", "gzip"),
        (", gzip ,", "gzip"),
    ],
)
def test_the_coding_chosen(field: str | None, chosen: str) -> None:
    assert negotiate(field) == chosen


@pytest.mark.parametrize("field", ["identity;q=0", "*;q=0", "br, *;q=0", "gzip;q=2", "gzip;level=1", "gz ip", "é"])
def test_no_coding_is_left(field: str) -> None:
    with pytest.raises(CodingError):
        negotiate(field)


PARTS = [b"one\n" * 5_000, b"", b"two\n" * 3]


def _decode(coding: Coding, data: bytes) -> bytes:
    if coding is Coding.GZIP:
        return zlib.decompressobj(31).decompress(data)
    return zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj().decompress(data)


@pytest.mark.parametrize("coding", [Coding.ZSTD, Coding.GZIP])
def test_each_part_opens_without_what_follows(coding: Coding) -> None:
    running = coder(coding)
    sent = b""
    for count, part in enumerate(PARTS, 1):
        sent += running.code(part)
        assert _decode(coding, sent) == b"".join(PARTS[:count])
    sent += running.end()
    assert len(sent) < 2_000
    decoder = zlib.decompressobj(31) if coding is Coding.GZIP else zstandard.ZstdDecompressor().decompressobj()
    assert decoder.decompress(sent) == b"".join(PARTS)
    assert decoder.eof


def test_identity_is_untouched() -> None:
    running = coder(Coding.IDENTITY)
    assert b"".join([*(running.code(part) for part in PARTS), running.end()]) == b"".join(PARTS)
