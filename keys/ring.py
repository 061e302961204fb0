"""What a keyring holds, as values: root keys, wrapped period keys, secrets and signing keys; reading and writing them.

Everything but the root keys stands wrapped under the current root key and bound to what it is (class, month, name,
purpose): an entry moved to another name does not open. A destroyed period stays on record without its key. Pure: no
files here, see keys/keyring.py. The file format is described in deploy/docs/keys.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from keys.encoding import b64url_decode, b64url_encode
from keys.errors import KeyringError, KeyUnavailable, SealError
from keys.provider import Period, check_name
from keys.wrapping import KEK_ID_BYTES, KEY_BYTES, context, kek_id_of, unwrap_key, wrap_key

T = TypeVar("T")

VERSION = 1
ALGORITHM = "A256GCM"


@dataclass(frozen=True, slots=True)
class RootKey:
    """What everything else in the keyring is wrapped under."""

    key_id: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeriodEntry:
    """One period key, wrapped; or, without ``wrapped``, the record that it was destroyed."""

    period: Period
    key_id: bytes
    created_at: datetime
    wrapped: bytes | None = field(repr=False)
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SigningEntry:
    """One signing key: the public half in clear, the private one (PKCS #8, DER) wrapped."""

    purpose: str
    kid: str
    alg: str
    public_jwk: Mapping[str, str]
    created_at: datetime
    wrapped: bytes | None = field(repr=False)
    keep_until: datetime | None = None
    """None: this is the purpose's current key. Else its private half is gone and it stays published until then."""


@dataclass(frozen=True, slots=True)
class Backup:
    """When the keyring was last backed up, and at which generation."""

    at: datetime
    generation: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A keyring's contents at one generation; every change makes a new one."""

    ring_id: str
    root: RootKey
    generation: int = 0
    periods: Mapping[Period, PeriodEntry] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    signing: tuple[SigningEntry, ...] = ()
    backup: Backup | None = None

    # --- opening -----------------------------------------------------------------------------------------------

    def period_key(self, period: Period) -> tuple[bytes, bytes]:
        """Return (key id, key) of a period.

        Raises:
            KeyUnavailable: if there is none or it was destroyed.
        """
        entry = self.periods.get(period)
        if entry is None:
            raise KeyUnavailable(f"the keyring has no key for {period}")
        if entry.wrapped is None:
            raise KeyUnavailable(f"the key for {period} was destroyed")
        return entry.key_id, self._open(entry.wrapped, _period_context(period, entry.key_id))

    def unwrap(self, period: Period, wrapped: bytes) -> bytes:
        """Return what was wrapped under a period's key.

        Raises:
            KeyUnavailable: if the period has no key, or another one than ``wrapped`` names.
            SealError: if ``wrapped`` was altered or belongs to another period.
        """
        key_id, key = self.period_key(period)
        return unwrap_key(key, key_id, wrapped, _data_context(period))

    def wrap(self, period: Period, plaintext: bytes) -> bytes:
        """Return ``plaintext`` wrapped under a period's key.

        Raises:
            KeyUnavailable: if the period has no key.
        """
        key_id, key = self.period_key(period)
        return wrap_key(key, key_id, plaintext, _data_context(period))

    def secret(self, name: str) -> bytes | None:
        """Return the secret of that name; None if there is none yet."""
        wrapped = self.secrets.get(name)
        return None if wrapped is None else self._open(wrapped, context("secret", name))

    def private_key(self, entry: SigningEntry) -> bytes:
        """Return a signing key's private half, PKCS #8 DER.

        Raises:
            KeyUnavailable: if the key was replaced: its private half is gone.
        """
        if entry.wrapped is None:
            raise KeyUnavailable(f"a {entry.purpose} signing key that was replaced signs no more")
        return self._open(entry.wrapped, _signing_context(entry.purpose, entry.kid, entry.alg))

    def check(self) -> None:
        """Open every entry once.

        Raises:
            KeyringError: if one does not open.
        """
        for period in self.live:
            self.period_key(period)
        for name in self.secrets:
            self.secret(name)
        for entry in self.signing:
            if entry.wrapped is not None:
                self.private_key(entry)

    def _open(self, wrapped: bytes, bound_to: bytes) -> bytes:
        try:
            return unwrap_key(self.root.key, self.root.key_id, wrapped, bound_to)
        except SealError:
            raise KeyringError(
                "an entry of the keyring does not open under its root key: restore a backup (`tollgate keys restore`)"
            ) from None

    # --- changing ----------------------------------------------------------------------------------------------

    def with_period(self, period: Period, now: datetime) -> Ring:
        """Return a ring in which ``period`` has a key (this one, if it has).

        Raises:
            KeyUnavailable: if the period was destroyed.
        """
        if period in self.periods:
            self.period_key(period)
            return self
        key_id = os.urandom(KEK_ID_BYTES)
        wrapped = self._wrap(os.urandom(KEY_BYTES), _period_context(period, key_id))
        return replace(self, periods={**self.periods, period: PeriodEntry(period, key_id, now, wrapped)})

    def without_period(self, period: Period, now: datetime) -> Ring:
        """Return a ring in which ``period`` is destroyed, also if it never had a key: it will not get one."""
        entry = self.periods.get(period) or PeriodEntry(period, os.urandom(KEK_ID_BYTES), now, None)
        if entry.destroyed_at is not None:
            return self
        return replace(self, periods={**self.periods, period: replace(entry, wrapped=None, destroyed_at=now)})

    def with_secret(self, name: str) -> Ring:
        """Return a ring that has a secret of that name (this one, if it has)."""
        if name in self.secrets:
            return self
        wrapped = self._wrap(os.urandom(KEY_BYTES), context("secret", name))
        return replace(self, secrets={**self.secrets, name: wrapped})

    def with_signing(self, entry: SigningEntry, private_der: bytes) -> Ring:
        """Return a ring with a signing key more; ``entry.wrapped`` is made here."""
        wrapped = self._wrap(private_der, _signing_context(entry.purpose, entry.kid, entry.alg))
        return replace(self, signing=(*self.signing, replace(entry, wrapped=wrapped)))

    def under(self, root: RootKey) -> Ring:
        """Return the same ring with everything rewrapped under another root key."""

        def again(wrapped: bytes | None, bound_to: bytes) -> bytes | None:
            return None if wrapped is None else self._rewrap(root, wrapped, bound_to)

        periods = {
            p: replace(e, wrapped=again(e.wrapped, _period_context(p, e.key_id))) for p, e in self.periods.items()
        }
        secrets = {n: self._rewrap(root, w, context("secret", n)) for n, w in self.secrets.items()}
        signing = tuple(
            replace(e, wrapped=again(e.wrapped, _signing_context(e.purpose, e.kid, e.alg))) for e in self.signing
        )
        return replace(self, root=root, periods=periods, secrets=secrets, signing=signing)

    def _wrap(self, plaintext: bytes, bound_to: bytes) -> bytes:
        return wrap_key(self.root.key, self.root.key_id, plaintext, bound_to)

    def _rewrap(self, root: RootKey, wrapped: bytes, bound_to: bytes) -> bytes:
        return wrap_key(root.key, root.key_id, self._open(wrapped, bound_to), bound_to)

    @property
    def destroyed(self) -> dict[Period, datetime]:
        """The periods on record as destroyed, and since when."""
        return {p: e.destroyed_at for p, e in self.periods.items() if e.destroyed_at is not None}

    @property
    def live(self) -> frozenset[Period]:
        """The periods that have a key."""
        return frozenset(p for p, e in self.periods.items() if e.wrapped is not None)


def new_root() -> RootKey:
    """Return a fresh root key."""
    return RootKey(os.urandom(KEK_ID_BYTES), os.urandom(KEY_BYTES))


def new_ring() -> Ring:
    """Return an empty keyring under a fresh root key."""
    return Ring(os.urandom(8).hex(), new_root())


def _period_context(period: Period, key_id: bytes) -> bytes:
    return context("period key", period.key_class, period.month, key_id.hex())


def _data_context(period: Period) -> bytes:
    return context("data key", period.key_class, period.month)


def _signing_context(purpose: str, kid: str, alg: str) -> bytes:
    return context("signing key", purpose, kid, alg)


# --- the files' texts ----------------------------------------------------------------------------------------------


def dump_roots(roots: tuple[RootKey, ...]) -> bytes:
    """Return the text of ``root.key``: one key, or two while everything is being rewrapped."""
    keys = [{"id": r.key_id.hex(), "alg": ALGORITHM, "key": b64url_encode(r.key)} for r in roots]
    return _dump({"format": "tollgate-root-key", "version": VERSION, "keys": keys})


def load_roots(text: bytes) -> tuple[RootKey, ...]:
    """Return the keys of a ``root.key``.

    Raises:
        KeyringError: if it is damaged or of a newer version.
    """

    def read(value: dict[str, Any]) -> tuple[RootKey, ...]:
        roots = []
        for item in value["keys"]:
            _same(item["alg"], ALGORITHM)
            roots.append(RootKey(_key_id(item["id"]), _exactly(b64url_decode(item["key"]), KEY_BYTES)))
        if not roots:
            raise ValueError("no key")
        return tuple(roots)

    return _load("root.key", "tollgate-root-key", text, read)


def dump_ring(ring: Ring) -> bytes:
    """Return the text of ``keyring.json``: nothing in it opens without the root key."""
    periods = [
        {
            "class": e.period.key_class,
            "month": e.period.month,
            "id": e.key_id.hex(),
            "alg": ALGORITHM,
            "created_at": e.created_at.isoformat(),
            **({"wrapped": b64url_encode(e.wrapped)} if e.wrapped is not None else {}),
            **({"destroyed_at": e.destroyed_at.isoformat()} if e.destroyed_at is not None else {}),
        }
        for _, e in sorted(ring.periods.items())
    ]
    signing = [
        {
            "purpose": e.purpose,
            "kid": e.kid,
            "alg": e.alg,
            "jwk": dict(e.public_jwk),
            "created_at": e.created_at.isoformat(),
            **({"wrapped": b64url_encode(e.wrapped)} if e.wrapped is not None else {}),
            **({"keep_until": e.keep_until.isoformat()} if e.keep_until is not None else {}),
        }
        for e in ring.signing
    ]
    value: dict[str, Any] = {
        "format": "tollgate-keyring",
        "version": VERSION,
        "id": ring.ring_id,
        "generation": ring.generation,
        "root": ring.root.key_id.hex(),
        "periods": periods,
        "secrets": {name: b64url_encode(wrapped) for name, wrapped in sorted(ring.secrets.items())},
        "signing": signing,
    }
    if ring.backup is not None:
        value["backup"] = {"at": ring.backup.at.isoformat(), "generation": ring.backup.generation}
    return _dump(value)


def load_ring(text: bytes, roots: tuple[RootKey, ...]) -> Ring:
    """Return the ring of a ``keyring.json`` whose root key is among ``roots``.

    Raises:
        KeyringError: if it is damaged, of a newer version, or its root key is not there.
    """

    def read(value: dict[str, Any]) -> Ring:
        wanted = _key_id(value["root"])
        root = next((r for r in roots if r.key_id == wanted), None)
        if root is None:
            raise KeyringError(
                "root.key and keyring.json do not belong together: put back a backup (`tollgate keys restore`)"
            )
        periods: dict[Period, PeriodEntry] = {}
        for item in value["periods"]:
            _same(item["alg"], ALGORITHM)
            period = Period(item["class"], item["month"])
            wrapped = b64url_decode(item["wrapped"]) if "wrapped" in item else None
            gone = _time(item["destroyed_at"]) if "destroyed_at" in item else None
            if (wrapped is None) == (gone is None) or period in periods:
                raise ValueError("a period is neither live nor destroyed, or is there twice")
            periods[period] = PeriodEntry(period, _key_id(item["id"]), _time(item["created_at"]), wrapped, gone)
        signing = tuple(
            SigningEntry(
                purpose=check_name(item["purpose"]),
                kid=item["kid"],
                alg=item["alg"],
                public_jwk=dict(item["jwk"]),
                created_at=_time(item["created_at"]),
                wrapped=b64url_decode(item["wrapped"]) if "wrapped" in item else None,
                keep_until=_time(item["keep_until"]) if "keep_until" in item else None,
            )
            for item in value["signing"]
        )
        if any((e.wrapped is None) == (e.keep_until is None) for e in signing):
            raise ValueError("a signing key is neither current nor replaced")
        secrets = {check_name(name): b64url_decode(wrapped) for name, wrapped in value["secrets"].items()}
        ring = Ring(str(value["id"]), root, int(value["generation"]), periods, secrets, signing)
        if "backup" in value:
            done = Backup(_time(value["backup"]["at"]), int(value["backup"]["generation"]))
            ring = replace(ring, backup=done)
        return ring

    return _load("keyring.json", "tollgate-keyring", text, read)


def wrapped_under(ring: Ring, period: Period, wrapped: bytes) -> bool:
    """Say whether ``wrapped`` names the key that the ring holds for ``period``.

    Raises:
        SealError: if it is no wrapped key.
        KeyUnavailable: if a newer version wrote it.
    """
    entry = ring.periods.get(period)
    return entry is not None and kek_id_of(wrapped) == entry.key_id


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=True).encode() + b"\n"


def _load(name: str, kind: str, text: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """Parse one of the two files; whatever is wrong with it is one error that says which file and what to do."""
    try:
        value = json.loads(text)
        if value["format"] != kind:
            raise ValueError("another format")
        version = value["version"]
        if isinstance(version, int) and version > VERSION:
            raise KeyringError(f"{name} was written by a newer version ({version}): upgrade")
        return read(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise KeyringError(f"{name} is damaged: restore a backup (`tollgate keys restore`)") from None


def _same(found: object, expected: str) -> None:
    if found != expected:
        raise ValueError("an algorithm this version does not know")


def _key_id(text: str) -> bytes:
    return _exactly(bytes.fromhex(text), KEK_ID_BYTES)


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ValueError("a key or key id of the wrong length")
    return data


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without zone")
    return at.astimezone(UTC)
