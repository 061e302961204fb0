"""A witness's directory: its key, what it holds of each log, what it could not reconcile. One process at a time.

    witness.key          the name and the private key, 0600, made once
    lock                 held while a process uses the directory
    logs/<hash>          the note last cosigned, for each origin; <hash> is SHA-256 of the origin, in hex
    evidence/<why>-…     requests that a log signed and that contradict what is held: one for each checkpoint, of each
                         log at most `EVIDENCE_MAX` for each reason (proxy.witness.core.Evidence)

Whoever can write here decides what this witness will sign next; whoever can read `witness.key` can sign in its name.
**Never put this directory back from a backup**: a witness that forgot what it signed can be made to sign the opposite.
Where it is lost, make a new witness with a new name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import COSIGNATURE, NOTE_MAX, Cosigner, Note, NoteError, b64, check_name, unb64
from proxy.witness.core import NOTHING, Accepted, Evidence, Held, Question

KEY = "witness.key"
LOCK = "lock"
LOGS = "logs"
EVIDENCE = "evidence"
EVIDENCE_MAX = 100
_PREFIX = "PRIVATE+KEY+"


class StateError(Exception):
    """The directory cannot be used: missing, open to others, in use, damaged. Says what to do."""


def create(directory: Path, name: str) -> Cosigner:
    """Make a witness: a directory, 0700, with a new key in it.

    Args:
        directory: must not hold a witness yet.
        name: the witness's, by which logs know it; a URL without scheme, such as ``witness.example.net/w1``.

    Raises:
        StateError: if there is a witness already, or ``name`` is no key name.
    """
    private = Ed25519PrivateKey.generate()
    try:
        cosigner = Cosigner(check_name(name), private)
    except NoteError as error:
        raise StateError(str(error)) from error
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    material = b64(bytes([COSIGNATURE]) + private.private_bytes_raw())
    text = f"{_PREFIX}{name}+{cosigner.key.id.hex()}+{material}\n"
    try:
        # O_EXCL: a second init must never replace a key that logs rely on.
        _write_new(directory / KEY, text.encode(), os.O_EXCL)
    except FileExistsError as error:
        raise StateError(f"{directory} holds a witness already") from error
    _sync(directory)
    return cosigner


def load_key(directory: Path) -> Cosigner:
    """Return the witness's key.

    Raises:
        StateError: if there is none, it is open to others, or damaged.
    """
    path = directory / KEY
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise StateError(f"no witness in {directory}: make one with `tollgate witness init`") from error
    except UnicodeDecodeError as error:
        raise StateError(f"{path} is damaged") from error
    if stat.S_IMODE(mode) & 0o077:
        raise StateError(f"{path} can be read by others: chmod 600, or make a new witness if somebody may have read it")
    try:
        name, key_id, material = text.removeprefix(_PREFIX).removesuffix("\n").split("+", 2)
        raw = unb64(material)
        cosigner = Cosigner(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
    except (ValueError, NoteError):
        raise StateError(f"{path} is damaged") from None
    if raw[0] != COSIGNATURE or cosigner.key.id.hex() != key_id:
        raise StateError(f"{path} is damaged")
    return cosigner


class State:
    """The directory of a running witness, as a context: the lock is held inside.

    Its methods block on the disk and are not to be called at the same time by two threads.

    Raises:
        StateError: if another process uses the directory, or what is held cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.cosigner = load_key(directory)
        self._lock: int | None = None

    def __enter__(self) -> State:
        lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The kernel lets go of it when the process dies, however it dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise StateError(f"another witness runs on {self._directory}: one process at a time") from error
        self._lock = lock
        for name in (LOGS, EVIDENCE):
            (self._directory / name).mkdir(mode=0o700, exist_ok=True)
        _sync(self._directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note(self, origin: str) -> Note | None:
        """Return the note last cosigned for ``origin``; None if none was.

        Raises:
            StateError: if it is damaged, of another log, or not signed by this witness.
        """
        path = self._path(origin)
        try:
            with path.open("rb") as file:
                data = file.read(NOTE_MAX + 1)
        except FileNotFoundError:
            return None
        try:
            note = Note.parse(data)
            note.verify([self.cosigner.key])
            if Checkpoint.parse(note.text).origin != origin:
                raise NoteError("another log's")
        except NoteError as error:
            raise StateError(f"{path} is not what this witness wrote: it will not cosign for that log") from error
        return note

    def held(self, origin: str) -> Held:
        """Return what is held of ``origin``, from the disk: after a failed write nobody knows better.

        Raises:
            StateError: as `note`.
        """
        note = self.note(origin)
        if note is None:
            return NOTHING
        checkpoint = Checkpoint.parse(note.text)
        (own,) = note.verify([self.cosigner.key])
        assert own.time is not None
        return Held(checkpoint.size, checkpoint.root, own.time)

    def hold(self, origin: str, accepted: Accepted) -> None:
        """Make ``accepted`` what is held of ``origin``. On disk when this returns; old or new whatever happens.

        Raises:
            OSError: it may then be held or not: the signature must not be given out, and the next question reads again.
        """
        path = self._path(origin)
        temporary = path.with_suffix(".new")
        _write_new(temporary, str(accepted.note).encode(), os.O_TRUNC)
        # Dying here leaves the old note, and a .new that the next write truncates.
        temporary.rename(path)
        # Dying here may leave either; nobody has the signature yet. Holding it twice does no harm: the log asks again
        # from the size it is told.
        _sync(path.parent)

    def keep_evidence(self, why: Evidence, question: Question, body: bytes) -> None:
        """Keep a signed request that contradicts what is held: one for each checkpoint, at most `EVIDENCE_MAX`.

        Whoever asks chooses all of it but the checkpoint, which the log has signed; so that is what it is filed by. And
        what anybody can send takes no room from two roots of one size, nor one log from another.

        Raises:
            OSError: if it cannot be written.
        """
        folder, checkpoint = self._directory / EVIDENCE, question.checkpoint
        kind = f"{why.value}-{_hash(checkpoint.origin)[:16]}-"
        path = folder / f"{kind}{checkpoint.size}-{_hash(question.request.note.text)[:16]}"
        if path.exists() or sum(name.startswith(kind) for name in os.listdir(folder)) >= EVIDENCE_MAX:
            return
        with contextlib.suppress(FileExistsError):
            _write_new(path, body, os.O_EXCL)
            _sync(folder)

    def _path(self, origin: str) -> Path:
        return self._directory / LOGS / _hash(origin)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_new(path: Path, data: bytes, how: int) -> None:
    """Write a file, 0600, and wait until it is on disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Wait until a directory's names are on disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
