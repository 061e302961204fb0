"""Encryption of a package to its recipients, as a stream: the age format, version 1 (C2SP age).

Why age and not OpenPGP: one small format with one way to do it (X25519, HKDF, ChaCha20-Poly1305 in a STREAM of 64 KiB
pieces, so that a file which was cut off does not open), streamed both ways, keys of 62 characters that can be read out
on the telephone, and programs in several languages that an agency installs without an administrator. Encryption makes
a file key by chance, so an encrypted package is another one each time; what is inside is not.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from typing import IO, Any, Final

import pyrage
from pyrage import x25519

from proxy.legal.production.model import ProductionError

RECIPIENTS_MAX: Final = 8
SUFFIX: Final = ".age"
_AHEAD: Final = 16
"""Most pieces that wait on either side."""
_PIECE: Final = 1 << 20


class AgeError(ProductionError):
    """A recipient or an identity is none, or a file does not open. The message repeats nothing of it."""


def check_recipients(recipients: Sequence[str]) -> tuple[str, ...]:
    """Return age recipients in canonical form.

    Raises:
        AgeError: if there is none, there are too many, one stands twice, or one is no ``age1…`` key.
    """
    try:
        found = tuple(str(x25519.Recipient.from_str(each.strip())) for each in recipients)
    except pyrage.RecipientError:
        raise AgeError("a recipient is a public key of age: age1 and 58 more characters") from None
    if not 1 <= len(found) <= RECIPIENTS_MAX or len(set(found)) != len(found):
        raise AgeError(f"a package is encrypted to 1 to {RECIPIENTS_MAX} different recipients")
    return found


async def encrypted(plain: AsyncIterator[bytes], recipients: Sequence[str]) -> AsyncIterator[bytes]:
    """Give the encrypted bytes of a stream; little of it is in memory at once.

    Raises:
        AgeError: as `check_recipients`.
    """
    keys = [x25519.Recipient.from_str(each) for each in check_recipients(recipients)]
    loop = asyncio.get_running_loop()
    source, sink = _Inlet(), _Outlet(loop)

    def work() -> None:
        try:
            pyrage.encrypt_io(source, sink, keys)
            sink.finish(None)
        except BaseException as error:  # raised again where the stream is read
            sink.finish(error)

    async def feed() -> None:
        try:
            async for piece in plain:
                await source.put(piece)
            await source.put(b"")
        except BaseException as error:
            source.fail(error)
            raise

    worker = threading.Thread(target=work, name="age", daemon=True)
    worker.start()
    feeder = asyncio.create_task(feed())
    try:
        while (piece := await sink.get()) is not None:
            yield piece
        await feeder
    except AgeError:
        if feeder.done():
            await feeder  # what went wrong is with what was to be encrypted
        raise
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        source.fail(AgeError("given up"))
        sink.abandon()
        await asyncio.to_thread(worker.join)


class _Inlet:
    """What the encrypting thread reads from."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[bytes | BaseException] = queue.Queue()
        self._room = asyncio.Semaphore(_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._left = b""
        self._over = False

    async def put(self, piece: bytes) -> None:
        await self._room.acquire()
        self._waiting.put(piece)

    def fail(self, error: BaseException) -> None:
        self._waiting.put(error)

    def read(self, size: int = -1) -> bytes:
        if not self._left and not self._over:
            piece = self._waiting.get()
            if isinstance(piece, BaseException):
                raise OSError("the package cannot be read") from piece
            self._loop.call_soon_threadsafe(self._room.release)
            self._left, self._over = piece, not piece
        size = len(self._left) if size < 0 else size
        taken, self._left = self._left[:size], self._left[size:]
        return taken


class _Outlet:
    """What the encrypting thread writes to: pieces of about a megabyte."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._filled = bytearray()
        self._abandoned = False

    def write(self, data: bytes) -> int:
        self._filled += data
        if len(self._filled) >= _PIECE:
            self._push()
        return len(data)

    def flush(self) -> None:
        pass

    def finish(self, error: BaseException | None) -> None:
        if self._filled and error is None:
            self._push()
        self._put(error)

    def abandon(self) -> None:
        self._abandoned = True
        self._room.release()

    async def get(self) -> bytes | None:
        piece = await self._pieces.get()
        if isinstance(piece, BaseException):
            raise AgeError("the package could not be encrypted") from piece
        self._room.release()
        return piece

    def _push(self) -> None:
        self._room.acquire()
        if self._abandoned:
            raise OSError("nobody reads any more")
        self._put(bytes(self._filled))
        self._filled.clear()

    def _put(self, piece: bytes | BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


def read_identities(text: str) -> list[Any]:
    """Read the private keys of a file as ``age-keygen`` writes it.

    Raises:
        AgeError: if there is none in it.
    """
    lines = [line.strip() for line in text.splitlines()]
    try:
        found = [x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError:
        raise AgeError("an identity file holds lines that begin with AGE-SECRET-KEY-1") from None
    if not found:
        raise AgeError("the identity file holds no key")
    return found


class Decrypted:
    """An encrypted package as something to read from; a thread decrypts ahead of the reader.

    Use as a context manager. Damage shows when it is reached, the cut-off end at the end.
    """

    def __init__(self, source: IO[bytes], identities: Sequence[Any]) -> None:
        self._source = source
        self._identities = identities
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._left = memoryview(b"")
        self._over = False
        self._given_up = False
        self._filled = bytearray()
        self._thread = threading.Thread(target=self._work, name="age", daemon=True)

    def __enter__(self) -> Decrypted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up = True
        while self._thread.is_alive():
            try:
                self._pieces.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end.

        Raises:
            AgeError: if the file is not encrypted to these identities, was changed, or is cut off.
        """
        parts = []
        while size and not self._over:
            if not self._left:
                piece = self._pieces.get()
                if isinstance(piece, BaseException):
                    self._over = True
                    raise AgeError(
                        "the package does not open: it is encrypted to another key, was changed, or is cut off"
                    ) from None
                self._over = piece is None
                self._left = memoryview(piece or b"")
                continue
            parts.append(bytes(self._left[:size]))
            self._left = self._left[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _work(self) -> None:
        try:
            pyrage.decrypt_io(self._source, _Writer(self), self._identities)
            self._pieces.put(bytes(self._filled))
            self._pieces.put(None)
        except BaseException as error:  # raised again where it is read
            if not self._given_up:
                self._pieces.put(error)

    def take(self, data: bytes) -> None:
        """Take what was decrypted (from the thread)."""
        self._filled += data
        if len(self._filled) >= _PIECE:
            if self._given_up:
                raise OSError("nobody reads any more")
            self._pieces.put(bytes(self._filled))
            self._filled.clear()


class _Writer:
    """What the decrypting thread writes to."""

    def __init__(self, to: Decrypted) -> None:
        self._to = to

    def write(self, data: bytes) -> int:
        self._to.take(data)
        return len(data)

    def flush(self) -> None:
        pass
