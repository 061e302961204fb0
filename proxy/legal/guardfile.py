"""The operator's list of guarded numbers, from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from proxy.legal.targets import NOBODY, Guarded, GuardedError, read_guarded

BYTES_MAX: Final = 16 * 1024 * 1024


def load_guarded(path: Path | None) -> Guarded:
    """Return the numbers that a file lists (deploy/docs/legal.md); none where there is no path. It blocks.

    Raises:
        GuardedError: the file is not there, too large or not UTF-8, or a line of it is wrong. A list that cannot be
            read is no empty list.
    """
    if path is None:
        return NOBODY
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise GuardedError(f"{path}: a list of guarded numbers has at most 16 MiB")
        return read_guarded(data.decode().splitlines())
    except UnicodeDecodeError as error:
        raise GuardedError(f"{path}: not UTF-8") from error
    except OSError as error:
        raise GuardedError(f"{path}: {error.strerror}") from error
    except GuardedError as error:
        raise GuardedError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
