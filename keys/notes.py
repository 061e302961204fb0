"""Signed notes, as transparency logs and their witnesses write them: text that ends in signature lines.

Implements C2SP signed-note (Ed25519, type 0x01) and tlog-cosignature (``cosignature/v1``: Ed25519 with a time, type
0x04); what a log signs is in keys.checkpoint. Pure: the caller brings keys, clock and bytes.

What holds:

* There is one form. What is taken is what would be written: canonical base64, sizes without leading zeros, lower-case
  hex. So two texts never stand for one note.
* `Note.verify` raises unless a key that the caller named has signed, and raises too where such a key's signature is
  wrong. Signatures of keys that nobody named are passed over: whoever carries a note can add those.
* Before it is verified a note is a stranger's text. No message of this module repeats any of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.encoding import EncodingError, b64url_decode
from keys.errors import KeysError

ED25519 = 0x01
"""Signature type of a log's own signature (signed-note, "Signature types")."""
COSIGNATURE = 0x04
"""Signature type of a witness's: ``cosignature/v1``."""

NOTE_MAX = 64 * 1024
"""Most bytes of a note that is read."""
SIGNATURES_MAX = 100
"""Most signatures of a note that is read; the specification asks for 16 at least."""
SIZE_MAX = (1 << 63) - 1
"""Largest tree size and largest time, as every implementation can hold them."""

HASH_LENGTH = 32
_PUBLIC_LENGTH = 32
_ID_LENGTH = 4
_SIGNATURE_LENGTH = {ED25519: 64, COSIGNATURE: 8 + 64}
_DASH = "— "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{8}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class NoteError(KeysError):
    """A note, key text or checkpoint is not what its specification says."""


class NoteUnsigned(NoteError):  # noqa: N818 - it says what is so
    """The note is well-formed, but no key that the caller trusts has signed it, or one has signed something else."""


def b64(data: bytes) -> str:
    """Return ``data`` in standard base64 (RFC 4648 section 4), as notes and proofs write it."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str) -> bytes:
    """Return what ``text`` is the standard base64 of; with padding, no other spelling.

    Raises:
        NoteError: if ``text`` is not exactly what `b64` writes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, and text outside ASCII
        raise NoteError("not standard base64") from error
    if b64(data) != text:
        raise NoteError("base64 with trailing bits set")
    return data


def decimal(text: str) -> int:
    """Return a size or time written in ASCII digits without leading zeros, at most `SIZE_MAX`.

    Raises:
        NoteError: on any other text.
    """
    if _DECIMAL.fullmatch(text) is None or int(text) > SIZE_MAX:
        raise NoteError("not a decimal number without leading zeros below 2^63")
    return int(text)


def check_name(name: str) -> str:
    """Return a key name if it is one: not empty, no space of any kind, no plus, no control character.

    Raises:
        NoteError: if it is none.
    """
    if not name or "+" in name or any(c.isspace() for c in name) or not is_text(name):
        raise NoteError("a key's name is a word without spaces and without '+', such as log.example.com/calls")
    return name


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """Return the 4 bytes that a signature line names its key with (signed-note, "Signatures")."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:_ID_LENGTH]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """What a signature is checked with: a name, a type and a public key.

    Raises:
        NoteError: if the name is none, the type is not one of ours, or the key is not 32 bytes long.
    """

    name: str
    kind: int
    """`ED25519` or `COSIGNATURE`."""
    public: bytes
    """Ed25519 public key, 32 bytes (RFC 8032)."""
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in _SIGNATURE_LENGTH:
            raise NoteError(f"a key of type 0x{self.kind:02x} is none that this version knows (0x01, 0x04)")
        if len(self.public) != _PUBLIC_LENGTH:
            raise NoteError("an Ed25519 public key has 32 bytes")
        object.__setattr__(self, "id", key_id(self.name, self.kind, self.public))

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a key's text form, ``name+<id, 8 hex digits>+base64(type ‖ public key)``.

        Raises:
            NoteError: if it is none, or if the id in it is not the key's (a key that was changed by hand).
        """
        parts = text.split("+", 2)
        if len(parts) != 3 or _HEX.fullmatch(parts[1]) is None:
            raise NoteError("a verifier key is written name+hash+key")
        material = unb64(parts[2])
        key = cls(parts[0], material[0] if material else 0, material[1:])
        if key.id.hex() != parts[1]:
            raise NoteError("the hash in the verifier key is not its key's: part of it was changed or lost")
        return key

    @classmethod
    def from_jwk(cls, name: str, jwk: Mapping[str, str], kind: int = ED25519) -> VerifierKey:
        """Return the key of a public JWK, as `keys.signing` publishes them.

        Raises:
            NoteError: if it is not an Ed25519 key.
        """
        if jwk.get("crv") != "Ed25519":
            raise NoteError("notes are signed with Ed25519 keys")
        try:
            public = b64url_decode(jwk["x"])
        except (EncodingError, KeyError) as error:
            raise NoteError("not the public JWK of an Ed25519 key") from error
        return cls(name, kind, public)

    def __str__(self) -> str:
        """The text form, as `parse` takes it."""
        return f"{self.name}+{self.id.hex()}+{b64(bytes([self.kind]) + self.public)}"

    def check(self, text: str, signature: bytes) -> int | None:
        """Return without error if ``signature`` (without key id) is this key's over ``text``.

        Returns:
            The time that a cosignature states, seconds since 1970; None for a log's own signature, which states none.

        Raises:
            NoteUnsigned: if it is not.
        """
        time, message, raw = None, text.encode(), signature
        if len(signature) != _SIGNATURE_LENGTH[self.kind]:
            raise NoteUnsigned("a signature in the note has the wrong length for its key")
        if self.kind == COSIGNATURE:
            time, raw = int.from_bytes(signature[:8], "big"), signature[8:]
            if time > SIZE_MAX:
                raise NoteUnsigned("a cosignature in the note states a time beyond all times")
            message = _cosigned(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(raw, message)
        except InvalidSignature as error:
            raise NoteUnsigned("a signature in the note does not verify with the key it names") from error
        return time


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line of a note. ``data`` is what stands behind the key id."""

    name: str
    id: bytes
    data: bytes

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Read one line, without its newline.

        Raises:
            NoteError: if it is no signature line.
        """
        if not line.startswith(_DASH):
            raise NoteError("a signature line begins with an em dash")
        name, blank, encoded = line[len(_DASH) :].partition(" ")
        raw = unb64(encoded) if blank else b""
        if len(raw) <= _ID_LENGTH:
            raise NoteError("a signature line is: em dash, name, base64 of key id and signature")
        return cls(check_name(name), raw[:_ID_LENGTH], raw[_ID_LENGTH:])

    def __str__(self) -> str:
        """The line, without its newline."""
        return f"{_DASH}{self.name} {b64(self.id + self.data)}"

    def is_by(self, key: VerifierKey) -> bool:
        """Whether the line names ``key``. That is a claim; `VerifierKey.check` is the proof."""
        return (self.name, self.id) == (key.name, key.id)


@dataclass(frozen=True, slots=True)
class Verified:
    """A key that has signed, and when (a cosignature's time in seconds since 1970)."""

    key: VerifierKey
    signature: Signature
    time: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures; nothing of it verified."""

    text: str
    """With its final newline."""
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes | str) -> Note:
        """Read a signed note.

        Raises:
            NoteError: if it is too long, not UTF-8, holds control characters, or has no signature lines.
        """
        if len(data) > NOTE_MAX:
            raise NoteError("the note is too long")
        try:
            whole = data.decode("utf-8") if isinstance(data, bytes) else data
        except UnicodeDecodeError as error:
            raise NoteError("the note is not UTF-8") from error
        # The last empty line parts text from signatures; the text keeps its own newline.
        text, blank, rest = whole.rpartition("\n\n")
        if not blank or not rest.endswith("\n") or not is_text(whole):
            raise NoteError("a note is text, an empty line and signature lines, each ended by a newline")
        return cls(text + "\n", parse_signatures(rest))

    def __str__(self) -> str:
        """The note, as `parse` takes it."""
        return f"{self.text}\n{signature_lines(self.signatures)}"

    def verify(self, keys: Iterable[VerifierKey]) -> tuple[Verified, ...]:
        """Check every signature by one of ``keys``; two lines of one key count once.

        Returns:
            One for each of ``keys`` that has signed, at least one, in the order of the lines.

        Raises:
            NoteUnsigned: if none of ``keys`` has signed, or a line that names one of them does not verify.
        """
        known = {(key.name, key.id): key for key in keys}
        found: dict[tuple[str, bytes], Verified] = {}
        for signature in self.signatures:
            key = known.get((signature.name, signature.id))
            if key is None:
                continue
            time = key.check(self.text, signature.data)
            found.setdefault((key.name, key.id), Verified(key, signature, time))
        if not found:
            raise NoteUnsigned("no key that is trusted here has signed the note")
        return tuple(found.values())

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """Return the note with further lines; a line that stands already is not repeated."""
        return Note(self.text, tuple(dict.fromkeys((*self.signatures, *more))))


class Signs(Protocol):
    """What makes a signature line over a text."""

    def sign(self, text: str) -> Signature:
        """Return the signature line for ``text``."""
        ...


class Signer:
    """Signs notes as a log does (type 0x01).

    Args:
        name: the key's name; a log's is its origin.
        private: Ed25519 private key.

    Raises:
        NoteError: if ``name`` is no key name.
    """

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = VerifierKey(name, ED25519, _public(private))

    def sign(self, text: str) -> Signature:
        """Return the signature line for ``text``, which ends in a newline.

        Raises:
            NoteError: if ``text`` cannot be a note's.
        """
        return Signature(self.key.name, self.key.id, self._private.sign(_signable(text)))


class Cosigner:
    """Signs checkpoints as a witness does (type 0x04): with the time at which it saw nothing larger.

    Args and raises: as `Signer`. The signature does not cover the name: one key, one witness.
    """

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = VerifierKey(name, COSIGNATURE, _public(private))

    def cosign(self, text: str, time: int) -> Signature:
        """Return the signature line for a checkpoint's ``text`` at ``time``, seconds since 1970.

        Raises:
            NoteError: if ``text`` cannot be a note's.
            ValueError: if ``time`` is negative or beyond 2^63 - 1.
        """
        if not 0 <= time <= SIZE_MAX:
            raise ValueError("a cosignature's time is seconds since 1970")
        _signable(text)
        signed = self._private.sign(_cosigned(text, time))
        return Signature(self.key.name, self.key.id, time.to_bytes(8, "big") + signed)


def sign(text: str, *signers: Signs) -> Note:
    """Return the note of ``text`` signed by each of ``signers``.

    Raises:
        NoteError: if ``text`` cannot be a note's.
    """
    return Note(text, tuple(each.sign(text) for each in signers))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read signature lines, each ended by a newline: the end of a note, or a witness's answer.

    Raises:
        NoteError: if there is none, there are too many, or one is malformed.
    """
    parts = lines.split("\n")
    if parts[-1] or len(parts) < 2:
        raise NoteError("each signature line ends in a newline")
    if len(parts) - 1 > SIGNATURES_MAX:
        raise NoteError("the note has too many signatures")
    return tuple(Signature.parse(line) for line in parts[:-1])


def signature_lines(signatures: Iterable[Signature]) -> str:
    """Return the lines, each ended by a newline."""
    return "".join(f"{signature}\n" for signature in signatures)


def _public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _cosigned(text: str, time: int) -> bytes:
    """tlog-cosignature, "Ed25519 signed message"."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signable(text: str) -> bytes:
    if not text.endswith("\n") or not is_text(text):
        raise NoteError("a note's text ends in a newline and holds no other control characters")
    return text.encode()


def is_text(text: str) -> bool:
    """Whether ``text`` may stand in a note: UTF-8, and no control character but newlines."""
    if _CONTROL.search(text) is not None:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: no UTF-8
        return False
    return True
