"""A switch file, chunk by chunk: screened lines → CSV columns → the canonical frame, and what was rejected and why.

Every physical data line comes out exactly once, as a row of the frame or as a reject with its original bytes. Nothing
on this path works row by row; only lines that are wrong are looked at one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from proxy.formats.convert import Converter
from proxy.formats.layout import Layout, resolve_layout
from proxy.formats.lines import Block, read_blocks, screen
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
    """String: the profile's identity fields joined by line feeds, which no value holds; never null."""
    rejects: Rejects
    lines: int
    """Data lines of this chunk: ``len(frame) + len(rejects)``."""
    bytes_done: int
    """Bytes of the file as it lies on the disk read so far (of a gzip file: compressed)."""
    blocks: tuple[Block, ...] = field(repr=False)
    """The bytes it was made of."""

    def refuse(self, numbers: npt.NDArray[np.int64], reason: str) -> Rejects:
        """Return lines of this chunk, by their ascending numbers, as rejects: what only the store can find wrong."""
        text: list[bytes] = []
        for block in self.blocks:
            low, high = np.searchsorted(numbers, [block.first, block.first + len(block)])
            text.extend(block.text(n - block.first) for n in numbers[low:high].tolist())
        return Rejects(numbers, [reason] * len(numbers), text)


@dataclass(slots=True)
class _Part:
    """Some lines of one block that belong to the chunk being made."""

    block: Block
    start: int
    stop: int


class _Reader:
    """Turns lines into frames, for one file."""

    def __init__(self, profile: Profile, layout: Layout) -> None:
        self.profile = profile
        self.layout = layout
        self.converter = Converter(profile, layout.names)
        self.wanted = [i for i, name in enumerate(layout.names) if name in self.converter.columns]

    def read(self, part: _Part) -> Parsed:
        block = part.block
        lines = np.arange(block.first + part.start, block.first + part.stop)
        bad = self._screen(part)
        reasons = {int(lines[i]): code for i, code in bad.items()}
        keep = np.ones(len(lines), np.bool_)
        keep[list(bad)] = False
        good = lines[keep]
        table, unread = self._table(_kept(part, keep), good)
        if len(unread):
            reasons.update(dict.fromkeys(unread.tolist(), CSV_REASON))
            good = good[~np.isin(good, unread)]
        frame, identity, codes = self.converter.convert(table, good)
        reasons.update(codes)
        return Parsed(frame, identity, _rejects(block, reasons), len(lines), block.position, (block,))

    def _screen(self, part: _Part) -> dict[int, str]:
        """Reasons by index within the part."""
        profile, block = self.profile, part.block
        starts, ends = block.starts[part.start : part.stop], block.ends[part.start : part.stop]
        first, last = int(starts[0]), _following(part)
        # A part of a block gets its own bytes, so that no line is screened twice.
        data = block.data if (first, last) == (0, len(block.data)) else block.data[first:last]
        window = Block(data, starts - first, ends - first, 0, 0, block.long_total)
        return screen(window, len(self.layout.names), profile.delimiter, profile.quote, profile.encoding)

    def _table(self, data: bytes, numbers: npt.NDArray[np.int64]) -> tuple[pl.DataFrame, npt.NDArray[np.int64]]:
        """Return the wanted columns as text, and the numbers of lines that could not be read."""
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


def _rejects(block: Block, reasons: dict[int, str]) -> Rejects:
    lines = np.array(sorted(reasons), np.int64)
    return Rejects(lines, [reasons[int(n)] for n in lines], [block.text(int(n) - block.first) for n in lines])


def _joined(pieces: list[Parsed]) -> Parsed:
    if len(pieces) == 1:
        return pieces[0]
    rejects = Rejects(
        np.concatenate([p.rejects.lines for p in pieces]),
        [reason for p in pieces for reason in p.rejects.reasons],
        [text for p in pieces for text in p.rejects.text],
    )
    return Parsed(
        pl.concat([p.frame for p in pieces]),
        pl.concat([p.identity for p in pieces]),
        rejects,
        sum(p.lines for p in pieces),
        pieces[-1].bytes_done,
        tuple({id(block): block for p in pieces for block in p.blocks}.values()),
    )


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
        blocks = read_blocks(source)
        block = next(blocks, None)
        layout = resolve_layout(block, profile, path)
        if layout is None:
            return
        reader = _Reader(profile, layout)
        at = 1 if layout.header else 0
        pieces: list[Parsed] = []
        lines = size = 0
        while block is not None:
            while at < len(block):
                part = _Part(block, at, min(len(block), at + chunk_rows - lines))
                pieces.append(reader.read(part))
                lines += part.stop - at
                size += _following(part) - int(block.starts[at])
                at = part.stop
                if lines >= chunk_rows or size >= CHUNK_BYTES:
                    yield _joined(pieces)
                    pieces, lines, size = [], 0, 0
            block, at = next(blocks, None), 0
        if pieces:
            yield _joined(pieces)
