"""Search tags: where a value stands, found without opening a record and without showing the value.

The tag of a value is the first 40 bits of AES-CMAC (NIST SP 800-38B), under a key of its month, of the domain byte and
the value: eight bytes for an E.164 number, UTF-8 otherwise. A *segment* holds the sorted tags of one bucket of one run
with the chunks they stand in. Two values that share a tag cost one chunk opened for nothing: rows are compared exactly
afterwards, so a collision is never disclosed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.cmac import cmac_fixed, cmac_strings
from keys.datakeys import DataKey
from keys.sealing import open_sealed, seal
from proxy.store.columns import one
from proxy.store.planes import FormatError, Words, compress, decompress, from_planes, to_planes, width_of
from schema.fields import FIELDS, Kind, TagDomain

KEY_CLASS: Final = "tags"
TAG_BITS: Final = 40
REF_BITS: Final = 24
BUCKET_ENTRIES: Final = 4_096
"""A bucket is opened whole by a look-up: about 15 kB."""

_AAD = struct.Struct(">4siqii")
_HEAD = struct.Struct("<BIQBB")


def derive(key: DataKey, purpose: str) -> bytes:
    """Return 32 bytes for one use of a data key (HKDF-SHA-256, RFC 5869)."""
    return HKDF(hashes.SHA256(), 32, None, b"tollgate " + purpose.encode()).derive(key.secret)


class Tagger:
    """Computes the tags of one month."""

    def __init__(self, key: DataKey) -> None:
        self._key = derive(key, "search tag 1")

    def numbers(self, values: npt.NDArray[np.int64]) -> Words:
        """Return the tags of E.164 numbers (digits as integers)."""
        rows = np.empty((len(values), 9), np.uint8)
        rows[:, 0] = TagDomain.NUMBER.value
        rows[:, 1:] = values.astype(">u8").view(np.uint8).reshape(-1, 8)
        return _leading(cmac_fixed(self._key, rows))

    def texts(self, domain: TagDomain, values: pa.Array) -> Words:
        """Return the tags of strings without nulls."""
        large = values.cast(pa.large_string())
        _, offsets, data = large.buffers()
        ends = np.frombuffer(offsets, np.int64, len(large) + 1, large.offset * 8)
        flat = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        return _leading(cmac_strings(self._key, flat, ends, bytes([domain.value])))

    def number(self, text: str) -> int:
        """Return the tag of one number as a caller writes it: ``+`` and E.164 digits, or raw text."""
        if text.startswith("+"):
            return int(self.numbers(np.array([int(text[1:])], np.int64))[0])
        return int(self.texts(TagDomain.RAW_NUMBER, pa.array([text]))[0])


def _leading(macs: npt.NDArray[np.uint8]) -> Words:
    words = np.ascontiguousarray(macs[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    out: Words = words >> np.uint64(64 - TAG_BITS)
    return out


def entries(tagger: Tagger, table: pa.Table, chunk_of_row: npt.NDArray[np.int64]) -> Words:
    """Return the sorted, distinct entries (tag above, chunk reference below) of a table of records.

    Args:
        tagger: the month's.
        table: columns of the canonical record; an absent column is null throughout.
        chunk_of_row: for each row the reference of its chunk in the run, below 2**REF_BITS.
    """
    present = set(table.schema.names)
    found: list[Words] = []
    refs = chunk_of_row.astype(np.uint64)
    for f in FIELDS:
        if f.tag is None:
            continue
        if f.kind is Kind.NUMBER:
            if f.name in present:
                found.append(_number_entries(tagger, table.column(f.name), refs))
            if f.name + "_raw" in present:
                found.append(_text_entries(tagger, TagDomain.RAW_NUMBER, table.column(f.name + "_raw"), refs))
        elif f.name in present:
            found.append(_text_entries(tagger, f.tag, table.column(f.name), refs))
    merged = np.concatenate(found) if found else np.empty(0, np.uint64)
    merged.sort()
    keep = np.ones(len(merged), np.bool_)
    np.not_equal(merged[1:], merged[:-1], out=keep[1:])
    return merged[keep]


def _number_entries(tagger: Tagger, column: pa.ChunkedArray, refs: Words) -> Words:
    array = one(column)
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        array, refs = array.drop_null(), refs[valid]
    return tagger.numbers(array.to_numpy()) << np.uint64(REF_BITS) | refs


def _text_entries(tagger: Tagger, domain: TagDomain, column: pa.ChunkedArray, refs: Words) -> Words:
    array = one(column)
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        array, refs = array.drop_null(), refs[valid]
    coded = array.dictionary_encode()  # trunks and accounts recur: tag each distinct value once
    tags = tagger.texts(domain, coded.dictionary)
    out: Words = tags[coded.indices.to_numpy(zero_copy_only=False)] << np.uint64(REF_BITS) | refs
    return out


def bucket_bits(count: int) -> int:
    """Return how many leading tag bits name the bucket in a run of ``count`` entries."""
    return max(0, (count // BUCKET_ENTRIES).bit_length())


def bucket_of(tag: int, bits: int) -> int:
    """Return the bucket that holds ``tag``."""
    return tag >> (TAG_BITS - bits)


def _aad(month: int, run_id: int, bucket: int, count: int) -> bytes:
    return _AAD.pack(b"TGT1", month, run_id, bucket, count)


def seal_segments(
    key: DataKey, month: int, run_id: int, sorted_entries: Words
) -> tuple[int, Iterator[tuple[int, int, bytes]]]:
    """Cut sorted entries into buckets; return the bucket bits and (bucket, entries, ciphertext) of each not empty."""
    bits = bucket_bits(len(sorted_entries))
    shift = np.uint64(TAG_BITS + REF_BITS - bits)

    def segments() -> Iterator[tuple[int, int, bytes]]:
        if not len(sorted_entries):
            return
        buckets = sorted_entries >> shift if bits else np.zeros(len(sorted_entries), np.uint64)
        starts = np.flatnonzero(np.diff(buckets, prepend=np.uint64(2**63)))
        ends = np.append(starts[1:], len(sorted_entries))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            bucket = int(buckets[start])
            body = _encode(sorted_entries[start:end])
            yield bucket, end - start, seal(key, [body], _aad(month, run_id, bucket, end - start))

    return bits, segments()


def _encode(part: Words) -> bytes:
    """Tags as planes of differences, references as planes; one zstd frame."""
    tags = part >> np.uint64(REF_BITS)
    refs = part & np.uint64((1 << REF_BITS) - 1)
    steps = np.diff(tags, prepend=tags[:1])
    tag_width, ref_width = width_of(steps), width_of(refs)
    head = _HEAD.pack(1, len(part), int(tags[0]), tag_width, ref_width)
    return compress(head + to_planes(steps, tag_width) + to_planes(refs, ref_width))


def open_segment(key: DataKey, month: int, run_id: int, bucket: int, count: int, sealed: bytes) -> Words:
    """Return the sorted entries of one segment.

    Raises:
        SealError, FormatError: if it does not open, or does not hold what the format says.
    """
    (frame,) = open_sealed(key, sealed, _aad(month, run_id, bucket, count))
    body = decompress(frame)
    if len(body) < _HEAD.size:
        raise FormatError("a segment is too short")
    version, rows, first, tag_width, ref_width = _HEAD.unpack_from(body)
    if version != 1 or rows != count or max(tag_width, ref_width) > 8:
        raise FormatError("a segment of another format")
    if len(body) != _HEAD.size + rows * (tag_width + ref_width):
        raise FormatError("a segment of another length than it says")
    view = np.frombuffer(body, np.uint8)[_HEAD.size :]
    steps = from_planes(view[: rows * tag_width], rows, tag_width)
    refs = from_planes(view[rows * tag_width :], rows, ref_width)
    return (np.cumsum(steps) + np.uint64(first)) << np.uint64(REF_BITS) | refs


def references(segment: Words, wanted: int | Words) -> list[int]:
    """Return the chunk references that stand under a tag, or under any of several, ascending, each once."""
    first = np.atleast_1d(np.asarray(wanted, np.uint64)) << np.uint64(REF_BITS)
    last = first | np.uint64((1 << REF_BITS) - 1)
    low, high = np.searchsorted(segment, first, "left"), np.searchsorted(segment, last, "right")
    counts = high - low
    some = np.flatnonzero(counts)
    if not len(some):
        return []
    if len(some) == 1:
        found = segment[low[some[0]] : high[some[0]]]
    else:
        found = np.concatenate([segment[a:b] for a, b in zip(low[some].tolist(), high[some].tolist(), strict=True)])
    return np.unique(found & np.uint64((1 << REF_BITS) - 1)).tolist()  # type: ignore[no-any-return]
