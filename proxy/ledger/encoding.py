"""The permanent form of an entry, version 1, in pure functions (deploy/docs/log.md; tests/vectors/ledger).

* An *opening* is the canonical JSON (RFC 8785) of one part with a salt: it is sealed, and may be erased later. A part
  that says nothing has no opening.
* The *header* is canonical JSON with the SHA-256 of each opening. It is never erased and says nothing of the parts.
* The *leaf data* is SHA-256(header); the *leaf hash* is SHA-256(0x00 ‖ leaf data), RFC 6962 s.2.1.

A salt of 128 bits stands in each opening and in the header, so that no commitment can be guessed open.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import orjson
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from keys.encoding import EncodingError, b64url_decode
from proxy.ledger.model import PART_MAX, PARTS, RECORDS_MAX, TAGS_MAX, Entry, EntryError, Kind, LedgerBroken, Tag

VERSION = 1
SALT_BYTES = 16
TAG_BYTES = 9
"""One stored tag: the domain byte and the first 8 bytes of its AES-CMAC."""

_SAFE = (1 << 53) - 1
_DEPTH_MAX = 32
_SALTS = len(PARTS) + 1
_FIELDS = {"at", "id", "kind", "parts", "salt", "v"}
_AAD = b"tollgate log 1\x00"
_SURROGATE = "text with a lone surrogate cannot be written"
_TAG = {Tag}
_LEAVES = {str, int, bool, type(None)}
_KNOWN = {dict, list, tuple, *_LEAVES}
_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS
_KEPT = frozenset({"client", "jkt", "address", "token", "staff"})
_KEPT_MAX = 4096
_OPENING = b'{"part":"%%b","salt":"%%b","v":%d,"value":%%b}' % VERSION
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def canonical(value: Any) -> str:
    """Return RFC 8785 canonical JSON.

    Integers beyond ±(2^53 - 1), which RFC 8785 cannot write, become strings. Floats are refused: money and rates are
    decimal strings.

    Raises:
        EntryError: on a float, an unknown type, a key that is no string, a lone surrogate or deep nesting.
    """
    return _canonical(value).decode()


def _canonical(value: Any) -> bytes:
    # Most values are plain already; only their check, not a copy, is paid for. What orjson looks at by itself is not
    # looked at twice: that keys are text and integers small. Plain ASCII has its keys in the order of RFC 8785.
    try:
        if type(value) is dict and _is_plain(value.values(), _DEPTH_MAX):
            text = orjson.dumps(value, option=_STRICT)
            if text.isascii():
                return text
    except orjson.JSONEncodeError:
        pass
    try:
        return orjson.dumps(_plain(value, 0))
    except orjson.JSONEncodeError:  # what it does not write of what was checked is a lone surrogate
        raise EntryError(_SURROGATE) from None


def _is_plain(items: Iterable[Any], depth: int) -> bool:
    """Tell whether values are of the exact types that orjson writes as RFC 8785 does, ``depth`` levels deep at most."""
    kinds = set(map(type, items))
    if kinds <= _LEAVES:
        return True
    if depth <= 1 or not kinds <= _KNOWN:
        return False
    for item in items:
        kind = type(item)
        if kind is dict:
            if not _is_plain(item.values(), depth - 1):
                return False
        elif (kind is list or kind is tuple) and not _is_plain(item, depth - 1):
            return False
    return True


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if -_SAFE <= number <= _SAFE else str(number)
    if depth >= _DEPTH_MAX:
        raise EntryError("a value is nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise EntryError("a key must be a string")
        # RFC 8785 s.3.2.3 sorts by UTF-16 code units: for ASCII that is Python's own order.
        order = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_utf16)
        return {str(key): _plain(value[key], depth + 1) for key in order}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise EntryError(f"a value of type {type(value).__name__} cannot be written; use strings, integers, lists, objects")


class Written(dict[str, Any]):
    """An object that is not changed any more, with its canonical JSON: what stands in many entries is written once."""

    __slots__ = ("text",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        """Write ``value``.

        Raises:
            EntryError: as :func:`canonical`.
        """
        super().__init__(value)
        self.text = _canonical(dict(value))


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


@dataclass(slots=True)
class Encoded:
    """An entry made ready: all that does not depend on the time and the month it will get."""

    entry_id: UUID
    kind: Kind
    access_id: UUID | None
    openings: tuple[bytes, ...]
    """One for each of PARTS; empty where the part is absent."""
    after: bytes
    """The header from after its kind to before its tags."""
    tags: tuple[Tag, ...]
    size: int
    """Bytes of the openings."""


def encode(entry: Entry, salts: bytes | None = None) -> Encoded:
    """Write an entry's openings and commit to them.

    Args:
        entry: the entry; it is not looked at again, so the caller may change its mappings afterwards.
        salts: 80 bytes for actor, request, outcome, records and header; random by default (a test vector gives them).

    Raises:
        EntryError: if a part is too large or cannot be written.
    """
    if not isinstance(entry.kind, Kind) or not isinstance(entry.entry_id, UUID):
        raise EntryError("an entry needs a Kind and a UUID")
    if not (entry.access_id is None or isinstance(entry.access_id, UUID)):
        raise EntryError("access_id must be a UUID")
    tags = tuple(entry.tags)
    if len(tags) > TAGS_MAX:
        raise EntryError(f"{len(tags)} tags; at most {TAGS_MAX}")
    if set(map(type, tags)) - _TAG:
        raise EntryError("what an entry can be found by must be Tags")
    salt = _drawn() if salts is None else _salts(salts)
    actor = _opening("actor", entry.actor, salt[0:22])
    request = _opening("request", entry.request, salt[24:46])
    outcome = _opening("outcome", entry.outcome, salt[48:70])
    records = _opening("records", entry.records, salt[72:94])
    # In the order of canonical JSON, which is another than that of PARTS.
    ordered = (("actor", actor), ("outcome", outcome), ("records", records), ("request", request))
    named = [(part, data) for part, data in ordered if data]
    commits = commitments([data for _, data in named])
    parts = ",".join([f'"{part}":"{commit}"' for (part, _), commit in zip(named, commits, strict=True)])
    return Encoded(
        entry.entry_id,
        entry.kind,
        entry.access_id,
        (actor, request, outcome, records),
        b'"parts":{%b},"salt":"%b",' % (parts.encode(), salt[96:118]),
        tags,
        len(actor) + len(request) + len(outcome) + len(records),
    )


def opening(part: str, value: Mapping[str, Any], salt: bytes) -> bytes:
    """Return the opening of one part; nothing for a part that says nothing.

    Raises:
        EntryError: if it is larger than PART_MAX (``records``: RECORDS_MAX) or cannot be written.
    """
    return _opening(part, value, _salts(salt)[:22])


def _opening(part: str, value: Mapping[str, Any], salt: bytes) -> bytes:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise EntryError(f"{part} must be an object")
    if not value:
        return b""
    text = _OPENING % (part.encode(), salt, value.text if type(value) is Written else _canonical(value))
    if len(text) > PART_MAX and len(text) > (most := part_max(part)):
        raise EntryError(f"{part} takes {len(text)} bytes; at most {most}")
    return text


def part_max(part: str) -> int:
    """Return the most bytes of a part's opening."""
    return RECORDS_MAX if part == "records" else PART_MAX


def commitment(data: bytes) -> str:
    """Return base64url of SHA-256."""
    return commitments((data,))[0]


def commitments(openings: Sequence[bytes]) -> list[str]:
    """Return base64url of the SHA-256 of each."""
    # keys.encoding writes the same; this is every append's path. 32 bytes and a zero make 44 characters, the last of
    # which says nothing.
    sha256 = hashlib.sha256
    digests = b"".join([sha256(data).digest() + b"\0" for data in openings])
    text = binascii.b2a_base64(digests, newline=False).translate(_URL_SAFE).decode()
    return [text[at : at + 43] for at in range(0, len(text), 44)]


def _salts(salts: bytes) -> bytes:
    """Return unpadded base64url of each salt, 22 characters, and two more that say nothing."""
    # Each filled up to 18 bytes; the empty one that comes last is for the last one's filling.
    cut = [salts[i : i + SALT_BYTES] for i in range(0, len(salts) + 1, SALT_BYTES)]
    return binascii.b2a_base64(b"\0\0".join(cut), newline=False).translate(_URL_SAFE)


_POOL: list[bytes] = []
_DRAWN = 64


def _drawn() -> bytes:
    """Return an entry's salts as :func:`_salts` writes them, fresh ones: drawn and written for many entries at once."""
    try:
        return _POOL.pop()  # of whichever thread: no two get the same
    except IndexError:
        drawn = os.urandom(_DRAWN * _SALTS * SALT_BYTES)
        padded = np.zeros((_DRAWN * _SALTS, SALT_BYTES + 2), np.uint8)
        padded[:, :SALT_BYTES] = np.frombuffer(drawn, np.uint8).reshape(-1, SALT_BYTES)
        text = binascii.b2a_base64(padded.data, newline=False).translate(_URL_SAFE)
        size = len(text) // _DRAWN
        made = [text[at : at + size] for at in range(0, len(text), size)]
        last = made.pop()
        _POOL.extend(made)
        return last


def header(encoded: Encoded, at: str, tags: bytes) -> bytes:
    """Return the header: canonical JSON, keys in order, every value plain ASCII.

    PostgreSQL puts it together in the same way, for only it knows the time (migration 0011).

    Args:
        encoded: the entry.
        at: its time (``model.timestamp``).
        tags: its stored tags (``tag_column``); committed to where there are any.
    """
    access = "" if encoded.access_id is None else f'"access":"{encoded.access_id}",'
    begin = f'{{{access}"at":"{at}","id":"{encoded.entry_id}","kind":"{encoded.kind}",'
    return begin.encode() + encoded.after + header_end(tags)


def header_end(tags: bytes) -> bytes:
    """Return the end of the header: its commitment to the stored tags, if any, and the version."""
    tagged = f'"tags":"{commitment(tags)}",' if tags else ""
    return f'{tagged}"v":{VERSION}}}'.encode()


def leaf_data(header_bytes: bytes) -> bytes:
    """Return the Merkle leaf's data: SHA-256 of the header, 32 bytes."""
    return hashlib.sha256(header_bytes).digest()


def leaf_hash(header_bytes: bytes) -> bytes:
    """Return the Merkle leaf hash, SHA-256(0x00 ‖ leaf data) (RFC 6962 s.2.1), 32 bytes."""
    return hashlib.sha256(b"\x00" + leaf_data(header_bytes)).digest()


def tag_value(secret: bytes, tag: Tag) -> bytes:
    """Return the first 8 bytes of AES-CMAC (SP 800-38B) of domain byte ‖ value under the month's ``log_tags`` key."""
    mac = CMAC(AES(secret))
    mac.update(bytes((tag.code,)) + tag.value)
    return mac.finalize()[:8]


def tag_column(secret: bytes, tags: Sequence[Tag]) -> bytes:
    """Return an entry's tags as stored: domain byte ‖ 8 bytes each, sorted, none twice."""
    return b"".join(sorted({bytes((tag.code,)) + tag_value(secret, tag) for tag in tags}))


class TagColumn(NamedTuple):
    """What an entry's tags give."""

    stored: bytes
    keys: list[int]
    """For the look-up table."""
    after: bytes
    """The end of the header."""


class Tagger:
    """Makes the tags of one month.

    What comes again with every access of a client (its id, key, address and token) is kept; a number never is.
    """

    def __init__(self, secret: bytes) -> None:
        """Tag under ``secret``, the month's ``log_tags`` key."""
        self._secret = secret
        self._kept: dict[tuple[Tag, ...], TagColumn] = {}

    def column(self, tags: tuple[Tag, ...]) -> TagColumn:
        """Return what ``tags`` give."""
        if (found := self._kept.get(tags)) is not None:
            return found
        stored = tag_column(self._secret, tags)
        made = TagColumn(stored, tag_keys(stored), header_end(stored))
        if all(tag.domain in _KEPT for tag in tags):
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            self._kept[tags] = made
        return made


def tag_keys(column: bytes) -> list[int]:
    """Return the look-up keys of a tag column: each tag's 8 bytes as a signed big-endian integer."""
    return [int.from_bytes(column[i + 1 : i + TAG_BYTES], "big", signed=True) for i in range(0, len(column), TAG_BYTES)]


def tag_index(entries: Sequence[Sequence[int]]) -> tuple[list[int], list[bytes]]:
    """Return what the look-up table holds of a stretch of entries, given the look-up keys of each in order.

    Returns:
        The look-up keys, ascending, and for each the places (from 0, ascending, none twice) of the entries that bear
        it, as 16-bit big-endian integers.
    """
    found: dict[int, list[int]] = {}
    for place, keys in enumerate(entries):
        for key in keys:
            places = found.setdefault(key, [])
            # Two tags of one entry may agree in their 8 bytes.
            if not places or places[-1] != place:
                places.append(place)
    order = sorted(found)
    return order, [struct.pack(f">{len(found[key])}H", *found[key]) for key in order]


def sealing_aad(part: str, month: int, batch_id: UUID) -> bytes:
    """Return the associated data under which a batch of openings is sealed.

    The sealing itself binds each chunk's place and how many there are.
    """
    return _AAD + part.encode() + b"\x00" + month.to_bytes(4, "big") + batch_id.bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header read back."""

    entry_id: UUID
    kind: Kind
    at: datetime
    access_id: UUID | None
    commits: dict[str, str]
    """The commitment of each part that the entry has."""
    tags: str | None


def read_header(index: int, data: bytes) -> Header:
    """Parse a stored header.

    Raises:
        LedgerBroken: if it is not a header of version 1 in canonical form.
    """
    try:
        value = json.loads(data)
        known = value["v"] == VERSION and _FIELDS <= value.keys() <= _FIELDS | {"access", "tags"}
        if not known or not value["parts"].keys() <= set(PARTS) or canonical(value).encode() != data:
            raise LedgerBroken(index, "its header is not a canonical header of version 1")
        access = value.get("access")
        commits = {part: str(value["parts"][part]) for part in PARTS if part in value["parts"]}
        for commit in commits.values():
            b64url_decode(commit)
        return Header(
            UUID(value["id"]),
            Kind(value["kind"]),
            datetime.strptime(value["at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC),
            None if access is None else UUID(access),
            commits,
            value.get("tags"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, EncodingError, RecursionError) as error:
        raise LedgerBroken(index, "its header cannot be read") from error


def read_opening(index: int, part: str, data: bytes, commit: str) -> dict[str, Any]:
    """Return the value of an opening, checked against the header's commitment.

    Raises:
        LedgerBroken: if the opening is not the one committed to.
    """
    if commitment(data) != commit:
        raise LedgerBroken(index, f"its {part} is not what the header commits to")
    try:
        value = json.loads(data)
        if value["v"] != VERSION or value["part"] != part or not isinstance(value["value"], dict):
            raise LedgerBroken(index, f"its {part} is not an opening of version 1")
        return dict(value["value"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerBroken(index, f"its {part} cannot be read") from error
