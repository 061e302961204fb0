"""The token signing keys as the event loop may use them: held in memory, their files read in a thread.

A keyring is read under a lock that other processes take too, and decrypted: nothing that may hold up every connection.
So each gateway's view is up to `FRESH_S` old. A key that another gateway made in that time is found all the same,
because a token of an unknown key has the files read again; one that was replaced may sign that long, and its public
half stays published far longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from keys.signing import SigningKey, SigningKeys
from proxy.oauth.errors import Refused

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

FRESH_S = 1.0
"""How old the view may be, seconds."""
WAIT_S = 5.0
"""How long a request waits for the keyring, seconds."""


class Reads(Protocol[T_co]):
    """Reads one kind of our tokens (tokens.Reader, stafftokens.StaffReader)."""

    def read(self, text: str, published: Sequence[Mapping[str, str]], *, now: float, skew: float) -> T_co:
        """Check a token and return what it says; raises Refused, token.*."""


@dataclass(frozen=True, slots=True)
class _View:
    at: float
    """When its reading began: it shows everything from before."""
    current: SigningKey
    public: tuple[dict[str, str], ...]


class TokenKeys:
    """The keys of purpose ``token``.

    Args:
        signing: the keyring's signing keys.
        steady: a clock that never goes back, seconds.
    """

    def __init__(self, signing: SigningKeys, steady: Callable[[], float] = time.monotonic) -> None:
        self._signing = signing
        self._steady = steady
        self._view: _View | None = None
        self._reading: asyncio.Task[_View] | None = None

    async def current(self) -> SigningKey:
        """Return the key to sign with; made, and on disk, if there is none yet.

        Raises:
            KeyringError, OSError (TimeoutError among them): if the keyring cannot be read.
        """
        return (await self._since(self._steady() - FRESH_S)).current

    async def published(self) -> list[dict[str, str]]:
        """Return the public JWKs to publish.

        Raises:
            KeyringError, OSError: as `current`.
        """
        return list((await self._since(self._steady() - FRESH_S)).public)

    async def read(self, reader: Reads[T], text: str, *, now: float, skew: float) -> T:
        """Check an access token against the published keys; see `tokens.Reader.read`.

        Raises:
            Refused: token.*.
            KeyringError, OSError: as `current`.
        """
        asked = self._steady()
        view = await self._since(asked - FRESH_S)
        try:
            return reader.read(text, view.public, now=now, skew=skew)
        except Refused as refused:
            if refused.reason != "token.key":
                raise
        # Perhaps of a key just made. At most one reading at a time, shared by all who wait, whoever makes up keys.
        return reader.read(text, (await self._since(asked)).public, now=now, skew=skew)

    async def _since(self, moment: float) -> _View:
        """Return a view whose reading began at ``moment`` or later."""
        view = self._view
        if view is not None and view.at >= moment:
            return view
        async with asyncio.timeout(WAIT_S):
            while view is None or view.at < moment:
                if self._reading is None:
                    self._reading = asyncio.create_task(self._read(), name="token keys")
                    self._reading.add_done_callback(self._done)
                # A request that goes away takes nothing from the others.
                view = await asyncio.shield(self._reading)
        return view

    async def _read(self) -> _View:
        at = self._steady()
        self._view = await asyncio.to_thread(
            lambda: _View(at, self._signing.current("token"), tuple(self._signing.all_public("token")))
        )
        return self._view

    def _done(self, task: asyncio.Task[_View]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # told to those who wait; where nobody does, it is read again by the next
