"""The anchor: the last checkpoint that this gateway has served, in a file outside the database.

It is what a gateway holds against a database that was put back from a backup. Trust: whoever can write the file can
make the gateway accept an older log (by removing it) or none (by putting in another); not a log that was never signed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from keys.errors import KeyringError
from keys.keyring import write_file
from keys.notes import NOTE_MAX

NAME = "anchor"


class AnchorError(OSError):
    """The anchor file cannot be read or written; says which and what to do."""


def read(directory: Path) -> bytes | None:
    """Return the note in the anchor file, or None where there is no file.

    Raises:
        AnchorError: if it is there and cannot be read. An empty one cannot: it was written whole or not at all.
    """
    path = directory / NAME
    try:
        with open(path, "rb") as file:
            note = file.read(NOTE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AnchorError(f"{path} cannot be read: {error.strerror}") from error
    if not 0 < len(note) <= NOTE_MAX:
        raise AnchorError(f"{path} is damaged: put back a checkpoint of this log (an older one will do), or remove it")
    return note


def write(directory: Path, note: bytes) -> None:
    """Put ``note`` in the place of what is there, atomically; on disk when this returns.

    Raises:
        AnchorError: if it cannot be written; the old one is then still there.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        write_file(directory, NAME, note)
    except (KeyringError, OSError) as error:
        raise AnchorError(f"the log's anchor cannot be written: {error}") from error


def sweep(directory: Path) -> None:
    """Take away temporary files of a gateway that died while it wrote. Only where no other writes."""
    for stray in directory.glob(f".{NAME}.*"):
        with contextlib.suppress(OSError):
            stray.unlink()
