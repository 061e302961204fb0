"""What a keyring holds, as values: root keys, wrapped period keys, secrets and signing keys.

Everything but the root keys stands wrapped under the current root key and bound to what it is (class, month, name,
purpose): an entry moved to another name does not open. A destroyed period stays on record without its key. Pure:
keys/ringfile.py makes the files' texts of it, keys/keyring.py looks after the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from keys.errors import KeyringError, KeyUnavailable, SealError
from keys.provider import Period
from keys.wrapping import KEK_ID_BYTES, KEY_BYTES, context, kek_id_of, unwrap_key, wrap_key


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

    def holds(self, period: Period, wrapped: bytes) -> bool:
        """Say whether ``wrapped`` names the key that the ring has for ``period``.

        Raises:
            SealError: if it is no wrapped key.
            KeyUnavailable: if a newer version wrote it.
        """
        entry = self.periods.get(period)
        return entry is not None and entry.wrapped is not None and kek_id_of(wrapped) == entry.key_id

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
