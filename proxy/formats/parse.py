"""A switch file, chunk by chunk: screened lines → CSV columns → the canonical frame, and what was rejected and why.

Every physical data line comes out exactly once, as a row of the frame or as a reject with its original bytes. Nothing
on this path works row by row; only lines that are wrong are looked at one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from proxy.formats.convert import Converter
from proxy.formats.layout import Layout, resolve_layout
from proxy.formats.lines import BLOCK, Block, read_blocks, screen
from proxy.formats.profile import Profile
from proxy.formats.source import open_source

CHUNK_BYTES: Final = 64 * 1024 * 1024
"""A chunk ends here even if it has fewer rows than asked for."""
CSV_REASON: Final = "csv"
"""A line that passed the screen but that the CSV reader refuses."""


@dataclass(frozen=True, slots=True)
class Rejects:
    """Lines that are no records."""

    lines: npt.NDArray[np.int64]
    """Physical line numbers, ascending."""
    reasons: list[str]
    """Short codes, listed in deploy/docs/profiles.md."""
    text: list[bytes]
    """The lines byte for byte without their ends; over 64 KiB cut, with a note that says so."""

    def __len__(self) -> int:
        return len(self.reasons)


@dataclass(frozen=True, slots=True)
class Parsed:
    """One chunk of a file."""

    frame: pl.DataFrame
    """Good lines in file order, of exactly FRAME_SCHEMA."""
    identity: pl.Series
    """String: the profile's identity fields, each with its length before it; never null."""
    rejects: Rejects
    lines: int
    """Data lines of this chunk: ``len(frame) + len(rejects)``."""
    bytes_done: int
    """Bytes of the file as it lies on the disk read so far (of a gzip file: compressed)."""
    source: _Chunk = field(repr=False)
    """The lines it was made of."""

    def refuse(self, numbers: npt.NDArray[np.int64], reason: str) -> Rejects:
        """Return lines of this chunk, by their ascending numbers, as rejects: what only the store can find wrong."""
        return _rejects(self.source, dict.fromkeys(numbers.tolist(), reason))


@dataclass(slots=True)
class _Part:
    """Some lines of one block that belong to the chunk being made."""

    block: Block
    start: int
    stop: int


class _Chunk:
    """Lines gathered until they are enough."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.lines = 0
        self.bytes = 0

    def add(self, block: Block, start: int, stop: int) -> None:
        self.parts.append(_Part(block, start, stop))
        self.lines += stop - start
        self.bytes += int(block.ends[stop - 1] - block.starts[start]) + 1


class _ChunkReader:
    """Turns the lines of a chunk into a Parsed, for one file."""

    def __init__(self, profile: Profile, layout: Layout) -> None:
        self.profile = profile
        self.layout = layout
        self.converter = Converter(profile, layout.names)
        self.wanted = [i for i, name in enumerate(layout.names) if name in self.converter.columns]

    def read(self, chunk: _Chunk) -> Parsed:
        reasons: dict[int, str] = {}
        pieces: list[bytes] = []
        numbers: list[npt.NDArray[np.int64]] = []
        for part in chunk.parts:
            block = part.block
            lines = np.arange(block.first + part.start, block.first + part.stop)
            bad = self._screen(part)
            reasons.update((int(lines[i]), code) for i, code in bad.items())
            keep = np.ones(part.stop - part.start, np.bool_)
            keep[list(bad)] = False
            pieces.append(_kept(part, keep))
            numbers.append(lines[keep])
        good = np.concatenate(numbers)
        table, unread = self._table(pieces, good)
        reasons.update(dict.fromkeys(unread.tolist(), CSV_REASON))
        good = good[~np.isin(good, unread)] if len(unread) else good
        frame, identity, codes = self.converter.convert(table, good)
        reasons.update(codes)
        position = chunk.parts[-1].block.position
        return Parsed(frame, identity, _rejects(chunk, reasons), chunk.lines, position, chunk)

    def _screen(self, part: _Part) -> dict[int, str]:
        """Reasons by index within the part."""
        profile, block = self.profile, part.block
        starts, ends = block.starts[part.start : part.stop], block.ends[part.start : part.stop]
        first, last = int(starts[0]), _following(part)
        # A part of a block gets its own bytes, so that no line is screened twice.
        data = block.data if (first, last) == (0, len(block.data)) else block.data[first:last]
        window = Block(data, starts - first, ends - first, 0, 0, block.long_total)
        return screen(window, len(self.layout.names), profile.delimiter, profile.quote, profile.encoding)

    def _table(
        self, pieces: Sequence[bytes], numbers: npt.NDArray[np.int64]
    ) -> tuple[pl.DataFrame, npt.NDArray[np.int64]]:
        """Return the wanted columns as text, and the numbers of lines that could not be read."""
        data = b"".join(pieces)
        if self.profile.encoding != "utf-8":
            data = data.decode(self.profile.encoding).encode()
        tables: list[pl.DataFrame] = [self._csv(b"", 0)]
        unread: list[int] = []
        pending = [(data, numbers)]
        while pending:
            data, part = pending.pop()
            if not len(part):
                continue
            try:
                tables.append(self._csv(data, len(part)))
            except (pl.exceptions.PolarsError, _WrongRowsError):
                if len(part) == 1:
                    unread.append(int(part[0]))
                    continue
                # Halve until the line that the reader does not like stands alone; the first half is taken first.
                lines = data.splitlines(keepends=True) if data.count(b"\r") == 0 else _split(data)
                half = len(part) // 2
                pending += [(b"".join(lines[half:]), part[half:]), (b"".join(lines[:half]), part[:half])]
        return pl.concat(tables), np.array(sorted(unread), np.int64)

    def _csv(self, data: bytes, rows: int) -> pl.DataFrame:
        names = self.layout.names
        texts = dict.fromkeys((names[i] for i in self.wanted), pl.String())
        if not rows:
            return pl.DataFrame(schema=texts)
        # Everything is text: no types, no dates, no comments, no null words; an empty field is null.
        table = pl.read_csv(
            data,
            has_header=False,
            columns=self.wanted,
            separator=self.profile.delimiter,
            quote_char=self.profile.quote or None,
            infer_schema=False,
        )
        if table.height != rows or table.width != len(texts):
            raise _WrongRowsError
        table.columns = list(texts)
        if self.profile.quote and self.profile.quote.encode() in data:
            table = table.with_columns(pl.when(pl.all() != "").then(pl.all()))
        return table


class _WrongRowsError(Exception):
    """The CSV reader made another number of rows than there are lines."""


def _split(data: bytes) -> list[bytes]:
    """Lines by LF only."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _following(part: _Part) -> int:
    """Offset of the first byte behind the part's last line and its end."""
    block = part.block
    return int(block.starts[part.stop]) if part.stop < len(block) else len(block.data)


def _kept(part: _Part, keep: npt.NDArray[np.bool_]) -> bytes:
    """The bytes of the kept lines, each ended by LF."""
    block, data = part.block, part.block.data
    if block.long_total or not keep.any():
        return b""
    starts, following = block.starts[part.start : part.stop], _following(part)
    if keep.all():
        piece = data[starts[0] : following]
    else:
        nexts = np.append(starts[1:], following)
        mask = np.repeat(keep, nexts - starts)
        piece = np.frombuffer(data, np.uint8)[starts[0] : following][mask].tobytes()
    return piece if piece.endswith(b"\n") else piece + b"\n"


def _rejects(chunk: _Chunk, reasons: dict[int, str]) -> Rejects:
    lines = np.array(sorted(reasons), np.int64)
    text: list[bytes] = []
    for part in chunk.parts:
        first = part.block.first
        low, high = np.searchsorted(lines, [first + part.start, first + part.stop])
        text.extend(part.block.text(int(n) - first) for n in lines[low:high])
    return Rejects(lines, [reasons[int(n)] for n in lines], text)


def parse(path: Path, profile: Profile, chunk_rows: int = 262_144) -> Iterator[Parsed]:
    """Read a switch file.

    Args:
        path: plain or gzip file.
        profile: what it is.
        chunk_rows: most data lines of one chunk.

    Yields:
        Chunks in file order; memory is bounded by the chunk, whatever the file.

    Raises:
        SourceError: if the file cannot be opened, is not of this profile (before anything is yielded), or breaks in the
            middle (a truncated gzip stream; what was yielded before must then not be kept).
    """
    if chunk_rows < 1:
        raise ValueError("chunk_rows must be positive")
    with open_source(path) as source:
        blocks = read_blocks(source, min(BLOCK, CHUNK_BYTES))
        first = next(blocks, None)
        layout = resolve_layout(first, profile, path)
        if first is None or layout is None:
            return
        reader = _ChunkReader(profile, layout)
        chunk = _Chunk()
        block: Block | None = first
        at = 1 if layout.header else 0
        while block is not None:
            while at < len(block):
                stop = min(len(block), at + chunk_rows - chunk.lines)
                chunk.add(block, at, stop)
                at = stop
                if chunk.lines >= chunk_rows or chunk.bytes >= CHUNK_BYTES:
                    yield reader.read(chunk)
                    chunk = _Chunk()
            block, at = next(blocks, None), 0
        if chunk.lines:
            yield reader.read(chunk)
