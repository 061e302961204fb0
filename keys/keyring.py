"""The keyring's directory: modes, locking, and how it is replaced so that a crash at any point leaves it whole.

    directory     0700
    root.key      0600  the root key (two of them while everything is being rewrapped)
    keyring.json  0600  everything else, wrapped under the root key
    keyring.lock  0600  flock(2): shared to read both files, exclusive to change them

Whoever can read the directory can open the records; whoever can write it can destroy them. Nothing here is async:
callers in an event loop go through asyncio.to_thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from keys.errors import KeyringError
from keys.ring import Ring, new_ring
from keys.ringfile import dump_ring, dump_roots, load_ring, load_roots

ROOT = "root.key"
RING = "keyring.json"
LOCK = "keyring.lock"

_Stamp = tuple[int, ...]


class Keyring:
    """One directory. Reads again whenever another process has changed it; safe to use from several threads.

    Args:
        directory: made by `create`.

    Raises:
        KeyringError: if it is missing, damaged, or its modes are looser than 0700 and 0600.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mutex = threading.Lock()
        self._ring: Ring | None = None
        self._stamp: _Stamp = ()
        self.read()

    @classmethod
    def create(cls, directory: Path) -> Keyring:
        """Make a new keyring in ``directory``, which is made too (0700).

        Raises:
            KeyringError: if there already is one, or half of one: it may be the only copy of somebody's keys.
        """
        prepare(directory)
        with _locked(directory, exclusive=True):
            present = [name for name in (ROOT, RING) if (directory / name).exists()]
            if present:
                raise KeyringError(f"{directory} holds a keyring already ({', '.join(present)}): never overwritten")
            ring = new_ring()
            # Dying between the two leaves a root key that wraps nothing; `create` then says that it is there.
            write_file(directory, ROOT, dump_roots((ring.root,)))
            write_file(directory, RING, dump_ring(ring))
        return cls(directory)

    def read(self, *, fresh: bool = False) -> Ring:
        """Return the contents as they are now.

        Args:
            fresh: read the files even if they look unchanged (two changes within the clock's grain can).

        Raises:
            KeyringError: as the constructor.
        """
        with self._mutex:
            if self._ring is None or fresh or self._stamp != self._stamp_now():
                with _locked(self.directory, exclusive=False):
                    self._load()
            assert self._ring is not None
            return self._ring

    def update(self, change: Callable[[Ring], Ring], *, silent: bool = False) -> Ring:
        """Change the contents: ``change`` gets them as they are on disk and returns what they shall be.

        Returns after the change is on disk. Nothing is written if the same object comes back.

        Args:
            change: pure; what it raises leaves everything as it was.
            silent: do not count this as a new generation.

        Raises:
            KeyringError: if the files cannot be read or written.
        """
        with self._mutex, _locked(self.directory, exclusive=True):
            before = self._load()
            after = change(before)
            if after is before:
                return before
            if not silent:
                after = replace(after, generation=before.generation + 1)
            self._replace(before, after)
            # What was written is what would be read: reading it again costs as much as all the rest.
            self._stamp, self._ring = self._stamp_now(), after
            return after

    def _replace(self, before: Ring, after: Ring) -> None:
        _sweep(self.directory)
        if after.root.key_id == before.root.key_id:
            write_file(self.directory, RING, dump_ring(after))
            return
        # Two files cannot be replaced at once: first both root keys stand in root.key, so that whichever
        # keyring.json a crash leaves opens. Dying before the last step leaves a root key too many, which the next
        # rotation takes away.
        write_file(self.directory, ROOT, dump_roots((after.root, before.root)))
        write_file(self.directory, RING, dump_ring(after))
        write_file(self.directory, ROOT, dump_roots((after.root,)))

    def _load(self) -> Ring:
        # Called under the lock: the stamp belongs to the texts.
        self._stamp = self._stamp_now()
        roots = load_roots(read_file(self.directory, ROOT))
        self._ring = load_ring(read_file(self.directory, RING), roots)
        return self._ring

    def _stamp_now(self) -> _Stamp:
        stamp: list[int] = []
        for name in ("", ROOT, RING):
            try:
                found = os.stat(self.directory / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise KeyringError(f"{self.directory / name} cannot be read: {error.strerror}") from error
            if name:
                stamp += (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            stamp.append(stat.S_IMODE(found.st_mode))
        return tuple(stamp)


def prepare(directory: Path) -> None:
    """Make the directory (0700) and the lock file where they are missing.

    Raises:
        KeyringError: if that cannot be done, or the directory is open to others.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _keep_owner(fd, directory)
        finally:
            os.close(fd)
    except OSError as error:
        raise KeyringError(f"{directory}: a keyring cannot be made there: {error.strerror}") from error
    _check_directory(directory)


def exclusive(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the keyring's lock against every other process (`restore` does)."""
    return _locked(directory, exclusive=True)


@contextlib.contextmanager
def _locked(directory: Path, *, exclusive: bool) -> Iterator[None]:
    _check_directory(directory)
    path = directory / LOCK
    try:
        # Read-only to read: the keyring may be mounted so. The lock belongs to this descriptor, so threads of one
        # process exclude each other too.
        fd = os.open(path, (os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY) | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise KeyringError(f"no keyring in {directory}: run `tollgate init`, or `tollgate keys restore`") from None
    except OSError as error:
        raise KeyringError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _check_directory(directory: Path) -> None:
    try:
        found = os.stat(directory)
    except FileNotFoundError:
        raise KeyringError(f"no keyring in {directory}: run `tollgate init`, or `tollgate keys restore`") from None
    except OSError as error:
        raise KeyringError(f"{directory} cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise KeyringError(f"{directory} is not a directory")
    _check_mode(directory, found.st_mode, 0o700)


def _check_mode(path: Path, mode: int, allowed: int) -> None:
    if stat.S_IMODE(mode) & ~allowed:
        raise KeyringError(
            f"{path} is open to others (mode {stat.S_IMODE(mode):04o}): chmod {allowed:04o} {path} - and if anyone else"
            " can have read it, the keys in it are no longer secret"
        )


def read_file(directory: Path, name: str) -> bytes:
    """Return a file of the keyring.

    Raises:
        KeyringError: if it is missing, or its mode is looser than 0600.
    """
    path = directory / name
    try:
        with open(path, "rb") as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode, 0o600)
            return file.read()
    except FileNotFoundError:
        raise KeyringError(
            f"{path} is missing: restore a backup (`tollgate keys restore`); without it no record ever opens"
        ) from None
    except OSError as error:
        raise KeyringError(f"{path} cannot be read: {error.strerror}") from error


def write_file(directory: Path, name: str, data: bytes) -> None:
    """Replace a file of the keyring at once and for good: on return it is on disk under its name.

    Raises:
        KeyringError: if it cannot be written; the old file is then still there.
    """
    temporary = directory / f".{name}.{secrets.token_hex(8)}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _keep_owner(fd, directory)
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(fd)
        finally:
            os.close(fd)
        # Dying here leaves a stray temporary file (`_sweep` takes it away) and the old contents.
        os.rename(temporary, directory / name)
        # Dying here may leave the old contents after a power cut: nobody was told yet that the new ones are safe.
        sync_directory(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise KeyringError(f"{directory / name} cannot be written: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _keep_owner(fd: int, directory: Path) -> None:
    """Where root changes a service's keyring, the service must still be able to read it afterwards."""
    owner = os.stat(directory)
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _sweep(directory: Path) -> None:
    """Take away temporary files of writers that died; called under the exclusive lock, so none is in use."""
    for name in (ROOT, RING):
        for stray in directory.glob(f".{name}.*"):
            with contextlib.suppress(OSError):
                stray.unlink()
