"""Sealed blobs: known answers, and nothing that was touched opens."""

from __future__ import annotations

import hmac
import struct
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keys import sealing
from keys.errors import SealError
from keys.provider import DataKey
from keys.sealing import (
    HEADER_PREFIX_MAX,
    header_length,
    key_id_of,
    open_chunk,
    open_chunks,
    open_sealed,
    parse_header,
    seal,
)
from tests.support.keys import NOVEMBER, data_key, vectors

KEY = data_key()
AAD = b"batch 7, class timing"
CHUNKS = st.lists(st.binary(max_size=80), min_size=1, max_size=6)
VECTORS = vectors("sealing.json")["vectors"]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 on HMAC alone."""
    prk = hmac.digest(salt or bytes(32), secret, "sha256")
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def open_from_the_document(secret: bytes, blob: bytes, aad: bytes) -> list[bytes]:
    """A reader written from deploy/docs/sealing.md, sharing nothing with keys/sealing.py."""
    assert blob[:4] == b"TG\x01\x01"
    salt, commitment = blob[12:28], blob[28:44]
    count = int.from_bytes(blob[44:46], "big")
    body = 46 + 4 * count
    ends = [int.from_bytes(blob[46 + 4 * i : 50 + 4 * i], "big") for i in range(count)]
    derived = hkdf(secret, salt, b"tollgate seal 1", 48)
    assert derived[32:] == commitment
    chunks = []
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        bound = aad + i.to_bytes(2, "big") + count.to_bytes(2, "big") + b"\x01"
        chunks.append(AESGCM(derived[:32]).decrypt(i.to_bytes(12, "big"), blob[body + start : body + end], bound))
    return chunks


@pytest.mark.parametrize("vector", vectors("hkdf.json")["vectors"], ids=lambda v: v["source"])
def test_hkdf_published_vectors(vector: dict[str, Any]) -> None:
    ikm, salt, info, prk, okm = (bytes.fromhex(vector[k]) for k in ("ikm", "salt", "info", "prk", "okm"))
    assert HKDF(SHA256(), vector["length"], salt, info).derive(ikm) == okm
    assert hkdf(ikm, salt, info, vector["length"]) == okm
    assert HKDF.extract(SHA256(), salt, ikm) == prk


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_known_answers(vector: dict[str, Any]) -> None:
    secret, salt, aad, blob = (bytes.fromhex(vector[k]) for k in ("secret", "salt", "aad", "blob"))
    chunks = [bytes.fromhex(c) for c in vector["chunks"]]
    key = DataKey(int(vector["key_id"]), NOVEMBER, secret)
    assert sealing._seal(key, chunks, aad, salt) == blob
    assert open_sealed(key, blob, aad) == chunks
    assert open_from_the_document(secret, blob, aad) == chunks
    assert key_id_of(blob) == key.key_id


@settings(max_examples=60, deadline=None)
@given(CHUNKS, st.binary(max_size=40))
def test_what_is_sealed_opens(chunks: list[bytes], aad: bytes) -> None:
    blob = seal(KEY, chunks, aad)
    assert open_sealed(KEY, blob, aad) == chunks
    assert open_sealed(KEY, memoryview(blob), aad) == chunks
    assert open_from_the_document(KEY.secret, blob, aad) == chunks
    header = parse_header(blob[: header_length(blob)])
    assert header.blob_length == len(blob)
    for index, chunk in enumerate(chunks):
        offset, length = header.span(index)
        assert open_chunk(KEY, header, index, blob[offset : offset + length], aad) == chunk


def test_some_chunks_in_any_order() -> None:
    blob = seal(KEY, [b"a", b"b", b"c"], AAD)
    header = parse_header(blob[:HEADER_PREFIX_MAX])
    cut = {i: blob[sum((header.span(i)[0],)) : sum(header.span(i))] for i in range(3)}
    assert open_chunks(KEY, header, [(2, cut[2]), (0, cut[0])], AAD) == [b"c", b"a"]


def test_the_prefix_holds_the_header_of_sixteen_chunks() -> None:
    blob = seal(KEY, [b""] * 16, AAD)
    assert parse_header(blob[:HEADER_PREFIX_MAX]).blob_length == len(blob)
    longer = seal(KEY, [b""] * 17, AAD)
    with pytest.raises(SealError, match="cut"):
        parse_header(longer[:HEADER_PREFIX_MAX])
    assert parse_header(longer[: header_length(longer)]).blob_length == len(longer)


def test_nothing_is_sealed_alike_twice() -> None:
    one, two = seal(KEY, [b"x" * 40], AAD), seal(KEY, [b"x" * 40], AAD)
    assert one[12:28] != two[12:28]
    assert b"xxxx" not in one + two
    assert one[50:] != two[50:]


@settings(max_examples=200, deadline=None)
@given(CHUNKS, st.data())
def test_a_cut_or_lengthened_blob_does_not_open(chunks: list[bytes], data: st.DataObject) -> None:
    blob = seal(KEY, chunks, AAD)
    keep = data.draw(st.integers(0, len(blob) - 1))
    for wrong in (blob[:keep], blob + b"\0", blob + blob[keep:], blob[keep:], blob[:keep] + blob[keep + 1 :]):
        if wrong == blob:
            continue
        with pytest.raises(SealError):
            open_sealed(KEY, wrong, AAD)


def test_every_flipped_bit_is_noticed() -> None:
    blob = seal(KEY, [b"first", b"", b"third"], AAD)
    for position in range(len(blob)):
        for bit in (1, 0x80):
            wrong = bytearray(blob)
            wrong[position] ^= bit
            with pytest.raises(SealError):
                open_sealed(KEY, bytes(wrong), AAD)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_seal_error(noise: bytes) -> None:
    for blob in (noise, b"TG\x01\x01" + noise, b"TG\x01\x01" + KEY.key_id.to_bytes(8, "big") + noise):
        with pytest.raises(SealError):
            open_sealed(KEY, blob, AAD)


def rebuilt(blob: bytes, order: list[int], key: DataKey = KEY) -> bytes:
    """Put the sealed chunks together in another order (or number), with a header that fits them."""
    header = parse_header(blob)
    pieces = [blob[header.span(i)[0] : sum(header.span(i))] for i in order]
    ends, total = [], 0
    for piece in pieces:
        total += len(piece)
        ends.append(total)
    return blob[:44] + struct.pack(f">H{len(ends)}I", len(ends), *ends) + b"".join(pieces)


@settings(max_examples=150, deadline=None)
@given(CHUNKS, st.data())
def test_chunks_swapped_dropped_or_doubled_do_not_open(chunks: list[bytes], data: st.DataObject) -> None:
    blob = seal(KEY, chunks, AAD)
    order = data.draw(st.lists(st.integers(0, len(chunks) - 1), min_size=1, max_size=len(chunks) + 1))
    assume(order != list(range(len(chunks))))
    with pytest.raises(SealError):
        open_sealed(KEY, rebuilt(blob, order), AAD)


def test_rebuilding_in_order_is_the_blob() -> None:
    """Else the test above would prove nothing."""
    blob = seal(KEY, [b"a", b"bb", b""], AAD)
    assert rebuilt(blob, [0, 1, 2]) == blob


def test_a_chunk_of_another_blob_does_not_fit() -> None:
    one, two = seal(KEY, [b"a", b"b"], AAD), seal(KEY, [b"a", b"b"], AAD)
    header = parse_header(one)
    offset, length = header.span(1)
    with pytest.raises(SealError):
        open_sealed(KEY, one[:offset] + two[offset : offset + length], AAD)


@pytest.mark.parametrize("aad", [b"", AAD[:-1], AAD + b"\0", b"batch 8, class timing"])
def test_another_place_does_not_open(aad: bytes) -> None:
    blob = seal(KEY, [b"a", b"b"], AAD)
    with pytest.raises(SealError):
        open_sealed(KEY, blob, aad)


def test_another_key_does_not_open() -> None:
    blob = seal(KEY, [b"a"], AAD)
    with pytest.raises(SealError, match="another data key"):
        open_sealed(data_key(2), blob, AAD)
    with pytest.raises(SealError, match="commitment"):
        open_sealed(replace(KEY, secret=bytes(32)), blob, AAD)


def test_the_commitment_is_checked_by_itself() -> None:
    """AES-GCM can be made to open under two keys; the commitment cannot, so it decides before any chunk."""
    blob = bytearray(seal(KEY, [b"a"], AAD))
    blob[28] ^= 1
    with pytest.raises(SealError, match="commitment"):
        open_sealed(KEY, bytes(blob), AAD)


@pytest.mark.parametrize("where", [2, 3])
def test_another_version_is_said_to_be_one(where: int) -> None:
    blob = bytearray(seal(KEY, [b"a"], AAD))
    blob[where] = 2
    for read in (parse_header, key_id_of, header_length):
        with pytest.raises(SealError, match="version"):
            read(bytes(blob))


def test_a_chunk_must_have_its_length_and_index() -> None:
    blob = seal(KEY, [b"aa", b"bb"], AAD)
    header = parse_header(blob)
    first = blob[header.span(0)[0] : sum(header.span(0))]
    for index, piece in ((0, first[:-1]), (0, first + b"\0"), (1, first), (0, b""), (2, first), (-1, first)):
        with pytest.raises(SealError):
            open_chunk(KEY, header, index, piece, AAD)


def test_a_chunk_cut_short_is_told_before_it_is_opened() -> None:
    blob = seal(KEY, [b"aa"], AAD)
    header = parse_header(blob)
    with pytest.raises(SealError, match="length"):
        open_chunk(KEY, header, 0, blob[header.span(0)[0] : -1], AAD)


@pytest.mark.parametrize("ends", [[], [15], [0], [16, 16], [40, 16], [16, 31], [2**32 - 1, 16]])
def test_offsets_that_are_none(ends: list[int]) -> None:
    blob = seal(KEY, [b"a", b"b"], AAD)
    wrong = blob[:44] + struct.pack(f">H{len(ends)}I", len(ends), *ends) + bytes(64)
    with pytest.raises(SealError, match=r"offsets|without chunks"):
        parse_header(wrong)
    with pytest.raises(SealError):
        open_sealed(KEY, wrong, AAD)


def test_what_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="chunks"):
        seal(KEY, [], AAD)
    with pytest.raises(ValueError, match="chunks"):
        seal(KEY, [b""] * 65_536, AAD)
    assert len(open_sealed(KEY, seal(KEY, [b""] * 65_535, AAD), AAD)) == 65_535


def test_too_much_cannot_be_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "BLOB_MAX", 100)
    seal(KEY, [bytes(84)], AAD)
    with pytest.raises(ValueError, match="GiB"):
        seal(KEY, [bytes(50), bytes(50)], AAD)


def test_a_key_does_not_print_its_secret() -> None:
    assert repr(KEY.secret) not in repr(KEY)
    assert "secret" not in repr(KEY)
