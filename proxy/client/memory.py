"""What `--since-last` remembers: up to where each window was last pulled."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

_VERSION = 1


class MemoryFileError(Exception):
    """The file cannot be read; the message says what to do."""


class Memory:
    """Which Complete-To each window was last pulled up to.

    Kept by issuer, client, OCNs, window and direction together: the mark of one window says nothing about another,
    whose older records may never have been pulled.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @staticmethod
    def name(issuer: str, client_id: str, ocns: tuple[str, ...], parameters: dict[str, str]) -> str:
        """Return the key of a question."""
        bounds = {k: parameters[k] for k in ("from", "to", "direction")}
        text = json.dumps([issuer, client_id, sorted(ocns), bounds], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["version"] == _VERSION:
                return {str(k): str(v) for k, v in found["complete_to"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise MemoryFileError(f"{self._file} cannot be read; remove it to pull windows in full again")

    def get(self, name: str) -> str | None:
        """Return the last mark; None for a window never pulled.

        Raises:
            MemoryFileError: if the file is not one of ours.
        """
        return self._read().get(name)

    def put(self, name: str, complete_to: str) -> None:
        """Remember a mark; the file is replaced as a whole."""
        marks = {**self._read(), name: complete_to}
        fresh = self._file.with_name(self._file.name + ".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, "complete_to": marks}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._file)
