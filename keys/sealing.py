"""Sealed blobs: a header and chunks, each chunk its own AES-256-GCM, the whole bound to its key and its place.

    header = "TG" | version u8 = 1 | algorithm u8 = 1 | key id u64 | salt, 16 bytes | commitment, 16 bytes
             | chunk count u16 | per chunk: u32 end of the chunk, counted from the end of the header
    chunk  = AES-256-GCM(blob key, nonce = index as 12 bytes, plaintext, AAD = caller's AAD | index u16 | count u16
             | version u8): ciphertext | tag, 16 bytes
    blob key, 32 bytes | commitment, 16 bytes = HKDF-SHA-256(data key's secret, salt, "tollgate seal 1")  (RFC 5869)

All integers are big-endian. Each blob has a key of its own, so the chunk index can be the nonce. GCM alone does not
commit to its key: the commitment does, and a blob that names one key cannot be made to open under another.
The published description with test vectors is deploy/docs/sealing.md.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.errors import SealError
from keys.provider import DataKey

VERSION = 1
ALGORITHM = 1
"""AES-256-GCM, a key per blob by HKDF-SHA-256, with key commitment."""

TAG_BYTES = 16
CHUNKS_MAX = 0xFFFF
BLOB_MAX = 0x7FFF_0000
"""Most bytes of plaintext and tags in one blob; PostgreSQL would not hold more than half of it in a value anyway."""

_MAGIC = b"TG"
_INFO = b"tollgate seal 1"
_FIXED = struct.Struct(">2sBBQ16s16sH")
_BOUND = struct.Struct(">HHB")

HEADER_PREFIX_MAX = _FIXED.size + 4 * 16
"""So many first bytes of a blob hold the whole header of one with at most 16 chunks."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in clear before the chunks."""

    key_id: int
    salt: bytes
    commitment: bytes
    ends: tuple[int, ...]
    """End of each chunk in bytes from the end of the header; strictly ascending."""
    length: int
    """Bytes of the header."""

    @property
    def blob_length(self) -> int:
        """Bytes of the whole blob."""
        return self.length + self.ends[-1]

    def span(self, index: int) -> tuple[int, int]:
        """Return (offset in the blob, length) of a sealed chunk.

        Raises:
            SealError: if there is no such chunk.
        """
        if not 0 <= index < len(self.ends):
            raise SealError("no such chunk")
        start = self.ends[index - 1] if index else 0
        return self.length + start, self.ends[index] - start


def header_length(prefix: bytes | memoryview) -> int:
    """Return how many bytes the header takes, from the first 46 bytes of a blob.

    Raises:
        SealError: if this is not the start of a sealed blob of this version.
    """
    return _FIXED.size + 4 * _fixed(prefix)[3]


def parse_header(prefix: bytes | memoryview) -> Header:
    """Return the header at the start of ``prefix`` (a blob, or enough of its first bytes).

    Raises:
        SealError: if it is not one, is cut, or is of an unknown version.
    """
    key_id, salt, commitment, count = _fixed(prefix)
    length = _FIXED.size + 4 * count
    if len(prefix) < length:
        raise SealError("a sealed blob is cut within its header")
    ends = struct.unpack_from(f">{count}I", prefix, _FIXED.size)
    before = 0
    for end in ends:
        if end - before < TAG_BYTES:
            raise SealError("a sealed blob's chunk offsets are not in order")
        before = end
    return Header(key_id, salt, commitment, ends, length)


def key_id_of(blob: bytes | memoryview) -> int:
    """Return the id of the data key that ``blob`` says it is sealed under.

    Raises:
        SealError: if it is not a sealed blob of this version.
    """
    return _fixed(blob)[0]


def seal(key: DataKey, chunks: Sequence[bytes], aad: bytes) -> bytes:
    """Seal ``chunks`` (1 to 65,535 byte strings, together under 2 GiB; a chunk may be empty) into one blob.

    Args:
        key: the data key of the class and month.
        chunks: the plaintexts; each can later be opened alone.
        aad: what the blob is bound to (where it belongs); the same must be given to open it. The chunk's index, the
            number of chunks and the format version are bound in any case.

    Raises:
        ValueError: if there is no chunk, or too much.
    """
    return _seal(key, chunks, aad, os.urandom(16))


def _seal(key: DataKey, chunks: Sequence[bytes], aad: bytes, salt: bytes) -> bytes:
    """Seal under a given salt. Only the known-answer test may choose it: used twice, it gives the plaintexts away."""
    count = len(chunks)
    if not 1 <= count <= CHUNKS_MAX:
        raise ValueError("1 to 65,535 chunks can be sealed together")
    ends = list(accumulate([len(chunk) + TAG_BYTES for chunk in chunks]))
    if ends[-1] > BLOB_MAX:
        raise ValueError("less than 2 GiB can be sealed together")
    cipher, commitment = _derive(key, salt)
    parts = [
        _FIXED.pack(_MAGIC, VERSION, ALGORITHM, key.key_id, salt, commitment, count),
        struct.pack(f">{count}I", *ends),
    ]
    encrypt, bound = cipher.encrypt, _BOUND.pack
    parts += [encrypt(i.to_bytes(12, "big"), chunk, aad + bound(i, count, VERSION)) for i, chunk in enumerate(chunks)]
    return b"".join(parts)


def open_sealed(key: DataKey, blob: bytes | memoryview, aad: bytes) -> list[bytes]:
    """Return every chunk of ``blob``.

    Raises:
        SealError: if anything of it was altered, cut, lengthened, moved to another place, or sealed under another key.
    """
    header = parse_header(blob)
    if len(blob) != header.blob_length:
        raise SealError("a sealed blob is cut, or something follows it")
    view = memoryview(blob)
    sealed = []
    for index in range(len(header.ends)):
        offset, length = header.span(index)
        sealed.append((index, view[offset : offset + length]))
    return open_chunks(key, header, sealed, aad)


def open_chunk(key: DataKey, header: Header, index: int, sealed: bytes | memoryview, aad: bytes) -> bytes:
    """Return one chunk, given its sealed bytes (`Header.span` says where they stand).

    Raises:
        SealError: as `open_sealed`.
    """
    return open_chunks(key, header, ((index, sealed),), aad)[0]


def open_chunks(
    key: DataKey, header: Header, sealed: Sequence[tuple[int, bytes | memoryview]], aad: bytes
) -> list[bytes]:
    """Return some chunks of one blob, given as (index, sealed bytes); the blob's key is derived once.

    Raises:
        SealError: as `open_sealed`; also if a piece has not the length that the header gives it.
    """
    if key.key_id != header.key_id:
        raise SealError("sealed under another data key")
    cipher, commitment = _derive(key, header.salt)
    if not hmac.compare_digest(commitment, header.commitment):
        raise SealError("sealed under another key (the commitment differs)")
    count = len(header.ends)
    opened = []
    for index, piece in sealed:
        if len(piece) != header.span(index)[1]:
            raise SealError("a sealed chunk has not the length its header says")
        bound = aad + _BOUND.pack(index, count, VERSION)
        try:
            opened.append(cipher.decrypt(index.to_bytes(12, "big"), piece, bound))
        except InvalidTag:
            raise SealError("a sealed chunk does not open: altered, or not in its place") from None
    return opened


def _fixed(prefix: bytes | memoryview) -> tuple[int, bytes, bytes, int]:
    if len(prefix) < _FIXED.size:
        raise SealError("not a sealed blob: too short")
    magic, version, algorithm, key_id, salt, commitment, count = _FIXED.unpack_from(prefix)
    if magic != _MAGIC:
        raise SealError("not a sealed blob")
    if version != VERSION or algorithm != ALGORITHM:
        raise SealError(f"a sealed blob of version {version}, algorithm {algorithm}, which this version does not know")
    if count == 0:
        raise SealError("a sealed blob without chunks")
    return key_id, salt, commitment, count


def _derive(key: DataKey, salt: bytes) -> tuple[AESGCM, bytes]:
    derived = HKDF(SHA256(), 48, salt, _INFO).derive(key.secret)
    return AESGCM(derived[:32]), derived[32:]
