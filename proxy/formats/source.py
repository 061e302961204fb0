"""Opening switch files: plain or gzip (told by its magic bytes, not its name), read in bounded pieces."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

_GZIP_MAGIC: Final = b"\x1f\x8b"
_DIGEST_BLOCK: Final = 1 << 20


class SourceError(Exception):
    """A file cannot be read as what it is said to be.

    Attributes:
        what: what is wrong.
        file: the file.
        line: physical line (from 1) at which it was found; None if it has none.
        todo: what the person can do.
    """

    def __init__(self, what: str, file: Path, line: int | None = None, todo: str = "") -> None:
        self.what = what
        self.file = file
        self.line = line
        self.todo = todo
        place = f"{file}, line {line}" if line is not None else str(file)
        super().__init__(f"{place}: {what}" + (f"; {todo}" if todo else ""))


class DamagedError(Exception):
    """The compressed stream ends early or is corrupt; the reader of lines knows where and makes it a SourceError."""


class Source:
    """The uncompressed bytes of a file."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            SourceError: if it cannot be opened.
        """
        self.path = path
        try:
            self._raw: IO[bytes] = path.open("rb")
            magic = self._raw.read(2)
            self._raw.seek(0)
        except OSError as error:
            why = error.strerror or "unreadable"
            raise SourceError(why, path, None, "check the path and that it is a readable file") from None
        self.compressed = magic == _GZIP_MAGIC
        self._stream: IO[bytes] = gzip.GzipFile(fileobj=self._raw, mode="rb") if self.compressed else self._raw  # type: ignore[assignment]

    def read(self, size: int) -> bytes:
        """Return up to ``size`` uncompressed bytes, empty at the end.

        Raises:
            DamagedError: if the gzip stream is truncated or corrupt, or the disk cannot be read.
        """
        try:
            return self._stream.read(size)
        except EOFError:
            raise DamagedError("the gzip stream ends in the middle: the file is truncated") from None
        except (gzip.BadGzipFile, zlib.error):
            raise DamagedError("the gzip stream is corrupt") from None
        except OSError as error:
            raise DamagedError(error.strerror or "the file cannot be read") from None

    @property
    def position(self) -> int:
        """Bytes of the file as it lies on the disk that have been consumed: what a progress bar shows."""
        return self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_source(path: Path) -> Source:
    """Open a plain or gzip file for reading its uncompressed bytes.

    Raises:
        SourceError: if it cannot be opened.
    """
    return Source(path)


def file_digest(path: Path) -> tuple[bytes, int]:
    """Return SHA-256 (32 bytes) and size of the *uncompressed* content: a file is the same file when it is gzipped.

    Raises:
        SourceError: if it cannot be opened, or its gzip stream is truncated or corrupt.
    """
    digest = hashlib.sha256()
    size = lines = 0
    with open_source(path) as source:
        try:
            while data := source.read(_DIGEST_BLOCK):
                digest.update(data)
                size += len(data)
                lines += data.count(b"\n")
        except DamagedError as error:
            raise damaged(error, path, lines + 1) from None
    return digest.digest(), size


def damaged(error: DamagedError, path: Path, line: int) -> SourceError:
    """Return the error for a stream that broke in (or just after) physical line ``line``."""
    return SourceError(str(error), path, line, "fetch the file again; nothing of it is stored")
