"""Asymmetric signing keys, kept in the keyring: one current key for each purpose, older public halves for a while.

Purposes: ``token`` (access tokens, ES256), ``log`` (checkpoints of the access log, EdDSA with Ed25519) and
``production`` (manifests of what is handed over in legal process, the same). The private half of a key that was
replaced is gone at once; its public half stays published until what it signed has run out. A key's id is its RFC 7638
thumbprint. Methods read files when the keyring has changed: a first call belongs in asyncio.to_thread, later ones cost
a stat(2) or three.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from keys.encoding import b64url_encode
from keys.errors import KeyringError
from keys.keyring import Keyring
from keys.provider import check_name
from keys.ring import Ring, SigningEntry

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey

ES256 = "ES256"
EDDSA = "EdDSA"
ALGORITHMS = {"token": ES256, "log": EDDSA, "production": EDDSA}
"""What a purpose signs with unless told otherwise."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A purpose's current key."""

    kid: str
    """RFC 7638 thumbprint, base64url of SHA-256."""
    alg: str
    """JOSE algorithm: ``ES256`` or ``EdDSA``."""
    private_key: PrivateKey = field(repr=False)
    public_jwk: Mapping[str, str]
    """RFC 7517, with ``kid``, ``alg`` and ``use``."""


class SigningKeys:
    """The signing keys of a keyring's directory. May be shared by tasks and threads; several processes agree.

    Args:
        directory: as `FileProvider`.
        now: the clock.

    Raises:
        KeyringError: if the keyring is missing, damaged or open to others.
    """

    def __init__(self, directory: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._keyring = Keyring(directory)
        self._now = now
        self._opened: dict[str, SigningKey] = {}

    def current(self, purpose: str) -> SigningKey:
        """Return the key to sign with; made, and on disk, if the purpose has none yet.

        Raises:
            ValueError: if ``purpose`` is not a lower-case word, or is new and no algorithm is known for it.
            KeyringError: if the keyring cannot be read, or written where a key must be made.
        """
        check_name(purpose)
        ring = self._keyring.read()
        entry = _current(ring, purpose)
        if entry is None:
            alg = _algorithm(purpose, None)
            ring = self._keyring.update(
                lambda r: r if _current(r, purpose) is not None else _with_new(r, purpose, alg, self._now())
            )
            entry = _current(ring, purpose)
            assert entry is not None
        key = self._opened.get(entry.kid)
        if key is None:
            key = self._opened[entry.kid] = _open(ring, entry)
        return key

    def all_public(self, purpose: str) -> list[dict[str, str]]:
        """Return the public JWKs to publish: the current key first, then those still kept, newest first."""
        now = self._now()
        entries = [e for e in self._keyring.read().signing if e.purpose == purpose and _published(e, now)]
        entries.sort(key=lambda e: (e.keep_until is None, e.created_at), reverse=True)
        return [dict(e.public_jwk) for e in entries]

    def rotate(self, purpose: str, alg: str | None = None, *, keep_until: datetime) -> SigningKey:
        """Make a new current key. The old one signs nothing any more and stays published until ``keep_until``.

        Choose ``keep_until`` past the expiry of everything it signed. Keys whose time is over are dropped on the way.

        Raises:
            ValueError: on an unknown algorithm, or a ``keep_until`` without time zone.
            KeyringError: as `current`.
        """
        check_name(purpose)
        chosen = _algorithm(purpose, alg)
        if keep_until.tzinfo is None:
            raise ValueError("keep_until needs a time zone")
        now = self._now()

        def change(ring: Ring) -> Ring:
            kept = []
            for entry in ring.signing:
                if entry.purpose == purpose and entry.keep_until is None:
                    # The private half goes with this write.
                    entry = replace(entry, wrapped=None, keep_until=keep_until)
                if _published(entry, now):
                    kept.append(entry)
            return _with_new(replace(ring, signing=tuple(kept)), purpose, chosen, now)

        self._keyring.update(change)
        self._opened.clear()
        return self.current(purpose)


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint (SHA-256, base64url) of an EC or OKP public key."""
    names = ("crv", "kty", "x", "y") if jwk["kty"] == "EC" else ("crv", "kty", "x")
    text = json.dumps({name: jwk[name] for name in names}, separators=(",", ":"), sort_keys=True)
    return b64url_encode(hashlib.sha256(text.encode()).digest())


def _algorithm(purpose: str, alg: str | None) -> str:
    chosen = alg or ALGORITHMS.get(purpose)
    if chosen not in (ES256, EDDSA):
        raise ValueError(f"a signing key is {ES256} or {EDDSA}")
    return chosen


def _current(ring: Ring, purpose: str) -> SigningEntry | None:
    return next((e for e in ring.signing if e.purpose == purpose and e.keep_until is None), None)


def _published(entry: SigningEntry, now: datetime) -> bool:
    return entry.keep_until is None or entry.keep_until > now


def _with_new(ring: Ring, purpose: str, alg: str, now: datetime) -> Ring:
    private: PrivateKey = generate_private_key(SECP256R1()) if alg == ES256 else Ed25519PrivateKey.generate()
    jwk = _public_jwk(private)
    entry = SigningEntry(purpose, jwk["kid"], alg, jwk, now, None)
    return ring.with_signing(entry, private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _open(ring: Ring, entry: SigningEntry) -> SigningKey:
    private = load_der_private_key(ring.private_key(entry), None)
    if not isinstance(private, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise KeyringError(f"the {entry.purpose} signing key is of a kind that this version does not know: upgrade")
    jwk = _public_jwk(private)
    if jwk != dict(entry.public_jwk) or jwk["kid"] != entry.kid:
        raise KeyringError(
            f"the public half of the {entry.purpose} signing key in the keyring is not the private half's:"
            " somebody changed it; restore a backup (`tollgate keys restore`)"
        )
    return SigningKey(entry.kid, entry.alg, private, jwk)


def _public_jwk(private: PrivateKey) -> dict[str, str]:
    if isinstance(private, EllipticCurvePrivateKey):
        numbers = private.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
        alg = ES256
    else:
        raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(raw)}
        alg = EDDSA
    return {**jwk, "kid": thumbprint(jwk), "alg": alg, "use": "sig"}


def _coordinate(value: int) -> str:
    """RFC 7518 section 6.2.1.2: always 32 bytes for P-256, leading zeros too."""
    return b64url_encode(value.to_bytes(32, "big"))
