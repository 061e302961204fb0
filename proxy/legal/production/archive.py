"""The package as a file: a ZIP archive of one form, written and read as a stream.

The form (APPNOTE 6.3.10, the part of it that is used): every file is stored, not compressed; lengths and checksums
stand before the data; one folder; plain names; one fixed time; nothing between, before or after. Where it takes more
than 4 GiB, ZIP64. Every unzip program reads it.

There is one form: what is read is what would be written. So an archive that holds a bomb, a path that leads out, a
link, two files of one name, files that lie in each other, or another directory than its files say, is not one of these
and is refused by the first byte that differs, with memory for one read and for the names.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from proxy.legal.production.model import FileFact, ProductionError

FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,60}(\.[a-z0-9]{1,8}){1,2}", re.ASCII)
FOLDER: Final = re.compile(r"C-[A-Z2-7]{10}-[1-9][0-9]{0,5}", re.ASCII)
FILES_MAX: Final = 20_000

_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<IHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<IHHHHIIH")
_END64: Final = struct.Struct("<IQHHIIQQQQ")
_LOCATOR: Final = struct.Struct("<IIQI")
_WIDE: Final = struct.Struct("<HHQQ")
_WIDE_AT: Final = struct.Struct("<HHQQQ")
_FULL: Final = 0xFFFF_FFFF
_READ: Final = 1 << 20
_UNIX: Final = 3 << 8
_MODE: Final = 0o100644 << 16


class ArchiveError(ProductionError):
    """This is no package, or not one as Tollgate writes them. The message repeats nothing of it."""


class Source(Protocol):
    """What bytes are read from: as many as asked for, fewer only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive: where it is and what is known of it before its data."""

    name: str
    bytes: int
    crc32: int


def package_name(case_id: str, number: int) -> str:
    """Return the name of a package's folder; the archive is called so too, with ``.zip``."""
    return f"{case_id}-{number}"


def length(folder: str, files: Sequence[FileFact], made_at: datetime) -> int:
    """Return how many bytes the archive takes."""
    total, directory = _layout(folder, files, made_at)
    return total + len(directory)


async def write(
    folder: str, files: Sequence[FileFact], made_at: datetime, data: Callable[[str], AsyncIterator[bytes]]
) -> AsyncIterator[bytes]:
    """Give an archive's bytes.

    Args:
        folder: `package_name`.
        files: in order; their lengths and checksums are written before their data is seen.
        made_at: stands for the time of each file.
        data: opens a file's data by its name.

    Raises:
        ArchiveError: if a file's data is longer or shorter than it was.
    """
    _check(folder, files)
    for each in files:
        yield _local(folder, Entry(each.name, each.bytes, each.crc32), made_at)
        left = each.bytes
        async for piece in data(each.name):
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise ArchiveError(f"{each.name} is not as long as it was when it was made")
    yield _layout(folder, files, made_at)[1]


class Reader:
    """Reads an archive once, from beginning to end.

    Args:
        source: where the bytes come from.

    Raises:
        ArchiveError: if it is not of the one form; here, from `files` and from what it gives.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._entries: list[Entry] = []
        self._names: set[str] = set()
        self._folder = ""
        self._time: datetime | None = None
        self._offset = 0

    @property
    def folder(self) -> str:
        """The folder's name, once the first file was seen."""
        return self._folder

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Give each file with its data, which has to be read to its end before the next is asked for."""
        while True:
            head = self._take(4)
            if head != b"PK\x03\x04":
                break
            entry = self._entry(head)
            body = _Body(self._source, entry)
            yield entry, body
            body.finish()
            self._offset += entry.bytes
        self._end(head)

    def _entry(self, head: bytes) -> Entry:
        rest = self._take(_LOCAL.size - 4)
        fields = _LOCAL.unpack(head + rest)
        time, day, crc, size, name_length, extra_length = fields[4], fields[5], fields[6], fields[8], *fields[9:11]
        if name_length > 128 or extra_length not in (0, _WIDE.size):
            raise ArchiveError("the package has a file of a form that Tollgate does not write")
        name = self._take(name_length)
        extra = self._take(extra_length)
        folder, _, plain = name.decode("ascii", "replace").partition("/")
        if not self._entries:
            self._folder, self._time = folder, _moment(day, time)
        if extra:
            size = _WIDE.unpack(extra)[2]
        if FOLDER.fullmatch(folder) is None or FILE_NAME.fullmatch(plain) is None or folder != self._folder:
            raise ArchiveError("the package has a file of a name that Tollgate does not write")
        if plain in self._names or len(self._entries) >= FILES_MAX:
            raise ArchiveError("the package has a file twice, or too many")
        entry = Entry(plain, size, crc)
        assert self._time is not None
        if head + rest + name + extra != _local(folder, entry, self._time):
            raise ArchiveError("the package has a file of a form that Tollgate does not write")
        self._entries.append(entry)
        self._names.add(plain)
        self._offset += len(head) + len(rest) + len(name) + len(extra)
        return entry

    def _end(self, head: bytes) -> None:
        if not self._entries or self._time is None:
            raise ArchiveError("this is no package: it does not begin as a ZIP archive of Tollgate's")
        wanted = _directory(self._folder, self._entries, self._time)
        if head + self._source.read(len(wanted) - len(head)) != wanted or self._source.read(1):
            raise ArchiveError("the package's directory is not that of its files, or something follows it")

    def _take(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise ArchiveError("the package is cut off")
        return data


class _Body:
    """A file's data as it is read; its checksum is checked at the end."""

    def __init__(self, source: Source, entry: Entry) -> None:
        self._source = source
        self._left = entry.bytes
        self._wanted = entry.crc32
        self._crc = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        data = self._source.read(min(self._left, _READ))
        if not data:
            raise ArchiveError("the package is cut off")
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        return data

    def finish(self) -> None:
        """Read what is left."""
        for _ in self:
            pass
        if self._crc != self._wanted:
            raise ArchiveError("a file of the package was damaged: its checksum differs")


def _check(folder: str, files: Sequence[FileFact]) -> None:
    names = [each.name for each in files]
    if FOLDER.fullmatch(folder) is None or len(names) > FILES_MAX or len(set(names)) != len(names):
        raise ArchiveError("a package cannot be called so, or has a file twice")
    if not all(FILE_NAME.fullmatch(name) for name in names):
        raise ArchiveError("a file of a package has a plain name")


def _local(folder: str, entry: Entry, made_at: datetime) -> bytes:
    name = f"{folder}/{entry.name}".encode()
    wide = entry.bytes >= _FULL
    extra = _WIDE.pack(1, 16, entry.bytes, entry.bytes) if wide else b""
    size = _FULL if wide else entry.bytes
    head = _LOCAL.pack(
        0x04034B50, 45 if wide else 20, 0, 0, *_dos(made_at), entry.crc32, size, size, len(name), len(extra)
    )
    return head + name + extra


def _layout(folder: str, files: Sequence[FileFact], made_at: datetime) -> tuple[int, bytes]:
    """Return (bytes before the directory, the directory)."""
    entries = [Entry(each.name, each.bytes, each.crc32) for each in files]
    before = sum(len(_local(folder, each, made_at)) + each.bytes for each in entries)
    return before, _directory(folder, entries, made_at)


def _directory(folder: str, entries: Iterable[Entry], made_at: datetime) -> bytes:
    parts, offset, count = [], 0, 0
    for entry in entries:
        name = f"{folder}/{entry.name}".encode()
        wide = entry.bytes >= _FULL or offset >= _FULL
        extra = _WIDE_AT.pack(1, 24, entry.bytes, entry.bytes, offset) if wide else b""
        size, at = (_FULL, _FULL) if wide else (entry.bytes, offset)
        version = 45 if wide else 20
        parts.append(
            _CENTRAL.pack(
                *(0x02014B50, _UNIX | version, version, 0, 0, *_dos(made_at), entry.crc32, size, size),
                *(len(name), len(extra), 0, 0, 0, _MODE, at),
            )
            + name
            + extra
        )
        offset += len(_local(folder, entry, made_at)) + entry.bytes
        count += 1
    body = b"".join(parts)
    tail = b""
    if offset >= _FULL or len(body) >= _FULL:
        tail = _END64.pack(0x06064B50, 44, _UNIX | 45, 45, 0, 0, count, count, len(body), offset)
        tail += _LOCATOR.pack(0x07064B50, 0, offset + len(body), 1)
        offset, size = _FULL, _FULL
    else:
        size = len(body)
    return body + tail + _END.pack(0x06054B50, 0, 0, count, count, size, offset, 0)


def _dos(at: datetime) -> tuple[int, int]:
    utc = at.astimezone(UTC)
    year = min(max(utc.year, 1980), 2107)
    return utc.hour << 11 | utc.minute << 5 | utc.second // 2, (year - 1980) << 9 | utc.month << 5 | utc.day


def _moment(day: int, time: int) -> datetime:
    try:
        return datetime(
            1980 + (day >> 9), day >> 5 & 15, day & 31, time >> 11, time >> 5 & 63, (time & 31) * 2, tzinfo=UTC
        )
    except ValueError:
        raise ArchiveError("the package has a file of a time that is none") from None
