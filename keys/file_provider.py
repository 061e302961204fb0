"""The default provider: period keys in a keyring on disk (keys/keyring.py), wrapped under its root key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from keys.errors import KeysError, KeyUnavailable, SealError
from keys.keyring import Keyring
from keys.provider import Period, Provider, check_name
from keys.ring import Ring, new_root

T = TypeVar("T")

Observe = Callable[[str, str], None]
"""Told (operation, outcome) of each call: wrap, unwrap, secret, destroy, rotate; ok, unavailable, broken, error.
Called in a worker thread."""


class FileProvider(Provider):
    """Period keys in a directory; see keys/keyring.py for its files and who may touch them.

    Args:
        directory: made by `create`.
        classes: the classes this process may open; None is all. Signing keys and secrets are no class. ``hold`` is
            every class ``hold_…``: each hold has a class of its own, so that it can be destroyed alone.
        observe: gets every operation and its outcome.

    Raises:
        KeyringError: if the directory is missing, damaged or open to others.
    """

    def __init__(self, directory: Path, classes: frozenset[str] | None = None, observe: Observe | None = None) -> None:
        self._keyring = Keyring(directory)
        self._classes = classes
        self._observe = observe

    @staticmethod
    def create(directory: Path) -> FileProvider:
        """Make a new keyring in ``directory`` (0700, made if missing) and open it.

        Raises:
            KeyringError: if there already is one; it is never overwritten.
        """
        Keyring.create(directory)
        return FileProvider(directory)

    @property
    def keyring(self) -> Keyring:
        """The directory, for backup, status and signing keys."""
        return self._keyring

    async def wrap(self, period: Period, plaintext: bytes) -> bytes:
        """See `Provider.wrap`. A new period key is on disk before the result is returned."""

        def work() -> bytes:
            self._allow(period)
            ring = self._keyring.read()
            if period not in ring.live:
                ring = self._keyring.update(lambda r: r.with_period(period, datetime.now(UTC)))
            return ring.wrap(period, plaintext)

        return await self._off_loop("wrap", work)

    async def unwrap_many(self, items: Sequence[tuple[Period, bytes]]) -> list[bytes]:
        """See `Provider.unwrap_many`."""

        def work() -> list[bytes]:
            for period, _ in items:
                self._allow(period)
            ring = self._keyring.read()
            if not all(_held(ring, period, wrapped) for period, wrapped in items):
                # Another process may just have made it, within the grain of the file's times.
                ring = self._keyring.read(fresh=True)
            return [ring.unwrap(period, wrapped) for period, wrapped in items]

        return await self._off_loop("unwrap", work)

    async def secret(self, name: str) -> bytes:
        """Return the 32-byte secret of that name; it is on disk before it is returned.

        Raises:
            ValueError: if ``name`` is not a lower-case word.
        """
        check_name(name)

        def work() -> bytes:
            found = self._keyring.read().secret(name)
            if found is None:
                found = self._keyring.update(lambda r: r.with_secret(name)).secret(name)
            assert found is not None
            return found

        return await self._off_loop("secret", work)

    async def destroy(self, period: Period) -> None:
        """Destroy a period's key for good: what was sealed in that class and month opens nowhere again.

        It stays on record as destroyed and is never made anew. Complete only when every older backup of the keyring
        is gone too; `tollgate keys verify` notices one that was put back.
        """

        def work() -> None:
            self._allow(period)
            self._keyring.update(lambda r: r.without_period(period, datetime.now(UTC)))

        await self._off_loop("destroy", work)

    async def rotate_root(self) -> None:
        """Rewrap everything under a fresh root key; what is in PostgreSQL is untouched."""
        await self._off_loop("rotate", lambda: self._keyring.update(lambda r: r.under(new_root())))

    def _allow(self, period: Period) -> None:
        family = "hold" if period.key_class.startswith("hold_") else period.key_class
        if self._classes is not None and family not in self._classes:
            raise KeyUnavailable(f"keys of class {period.key_class} are not for this process")

    async def _off_loop(self, operation: str, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(self._observed, operation, work)

    def _observed(self, operation: str, work: Callable[[], T]) -> T:
        outcome = "error"
        try:
            result = work()
            outcome = "ok"
            return result
        except KeyUnavailable:
            outcome = "unavailable"
            raise
        except KeysError as error:
            outcome = "broken" if isinstance(error, SealError) else "error"
            raise
        finally:
            if self._observe is not None:
                self._observe(operation, outcome)


def _held(ring: Ring, period: Period, wrapped: bytes) -> bool:
    try:
        return ring.holds(period, wrapped)
    except KeysError:
        return True  # no reading of files helps; unwrapping says what is wrong
