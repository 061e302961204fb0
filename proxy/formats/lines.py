"""From bytes to screened lines: what no CSV reader should see is found here, for whole blocks at once.

A record is one physical line; there are no newlines inside quotes (switches do not write them, and one stray quote
would otherwise swallow the lines after it). Memory is bounded whatever the file: a line longer than :data:`LINE_MAX` is
skipped without being held, and blocks are a few MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from proxy.formats.source import DamagedError, Source, damaged

LINE_MAX: Final = 64 * 1024
"""Longest line, bytes without its end."""
BLOCK: Final = 8 * 1024 * 1024
_LF, _CR = 10, 13

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Block:
    """Whole lines, or the head of one line that is too long."""

    data: bytes
    starts: Int64s
    ends: Int64s
    """Offsets of each line in ``data``; an end is exclusive and before the line end (LF or CR LF)."""
    first: int
    """Physical number of the first line, from 1."""
    position: int
    """Bytes of the file on disk read so far."""
    long_total: int = 0
    """Not 0: ``data`` is the head of one line of so many bytes."""

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, index: int) -> bytes:
        """Return a line byte for byte without its end; capped at LINE_MAX with a note that it was cut."""
        start, end = int(self.starts[index]), int(self.ends[index])
        total = self.long_total or end - start
        if total <= LINE_MAX:
            return self.data[start:end]
        note = b" [cut by tollgate: the line has %d bytes]" % total
        return self.data[start : start + LINE_MAX - len(note)] + note


def _block(data: bytes, first: int, position: int) -> Block:
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == _LF).astype(np.int64)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    ends = ends - ((ends > starts) & (array[ends - 1] == _CR))
    return Block(data, starts, ends, first, position)


def _long(head: bytes, first: int, position: int, total: int) -> Block:
    return Block(head, np.zeros(1, np.int64), np.full(1, len(head), np.int64), first, position, total)


def read_blocks(source: Source, size: int = BLOCK) -> Iterator[Block]:
    """Yield the lines of a file in blocks, in order, every physical line once.

    Raises:
        SourceError: if the stream breaks (truncated gzip, unreadable disk); blocks before it have been yielded.
    """
    carry = b""
    total = 0  # of the line being skipped; its head is in carry
    tail = b""  # and its last byte so far: a CR there may belong to its end
    number = 1
    while True:
        try:
            data = source.read(size)
        except DamagedError as error:
            raise damaged(error, source.path, number) from None
        if not data:
            break
        position = source.position
        if total:
            end = data.find(b"\n")
            if end < 0:
                total, tail = total + len(data), data[-1:]
                continue
            yield _long(carry, number, position, total + end - ((tail + data[:end]).endswith(b"\r")))
            number += 1
            total, carry, data = 0, b"", data[end + 1 :]
        data = carry + data
        cut = data.rfind(b"\n") + 1
        if cut:
            block = _block(data[:cut], number, position)
            number += len(block)
            yield block
        carry = data[cut:]
        if len(carry) > LINE_MAX + 1:  # a CR of its line end may come on top
            total, tail, carry = len(carry), carry[-1:], carry[:LINE_MAX]
    if total:
        yield _long(carry, number, source.position, total - (tail == b"\r"))
    elif carry:
        yield _block(carry, number, source.position)


def _lines_of(positions: npt.NDArray[np.intp], starts: Int64s) -> npt.NDArray[np.intp]:
    return np.searchsorted(starts, positions, side="right") - 1


def _undecodable(block: Block) -> Bools:
    """Lines that are not UTF-8; the whole block is tried first, lines one by one only if it fails."""
    bad = np.zeros(len(block), np.bool_)
    if block.data.isascii():
        return bad
    try:
        block.data.decode("utf-8")
    except UnicodeDecodeError:
        high = np.flatnonzero(np.frombuffer(block.data, np.uint8) >= 0x80)
        for index in np.unique(_lines_of(high, block.starts)):
            try:
                block.data[block.starts[index] : block.ends[index]].decode("utf-8")
            except UnicodeDecodeError:
                bad[index] = True
    return bad


def _count(at: npt.NDArray[np.intp], block: Block) -> Int64s:
    """Number of marks, given by their ascending offsets, in each line."""
    return np.diff(np.searchsorted(at, np.append(block.starts, len(block.data)))).astype(np.int64)


def count_columns(block: Block, delimiter: str, quote: str) -> tuple[Int64s, Bools]:
    """Return the number of columns of each line, and which lines break the quoting rules of RFC 4180.

    Inside quotes a delimiter does not count; a quote may open only at the start of a field, and close only at its end.
    """
    array = np.frombuffer(block.data, np.uint8)
    misquoted = np.zeros(len(block), np.bool_)
    if len(block) == 0:
        return np.zeros(0, np.int64), misquoted
    delimiters = np.flatnonzero(array == ord(delimiter))
    mark = quote.encode()
    if not mark or mark not in block.data:
        return _count(delimiters, block) + 1, misquoted
    at = np.flatnonzero(array == mark[0])
    line = _lines_of(at, block.starts)
    before = np.searchsorted(at, block.starts)  # quotes in earlier lines
    opens = (np.arange(len(at)) - before[line]) % 2 == 0
    # An opening quote follows the line's start, a delimiter, or the quote that an escaped pair begins with.
    previous = array[np.maximum(at - 1, 0)]
    good_open = (at == block.starts[line]) | (previous == ord(delimiter)) | (previous == mark[0])
    following = array[np.minimum(at + 1, len(array) - 1)]
    good_close = (at + 1 >= block.ends[line]) | (following == ord(delimiter)) | (following == mark[0])
    misquoted[line[np.where(opens, ~good_open, ~good_close)]] = True
    misquoted |= _count(at, block) % 2 == 1
    outside = (np.searchsorted(at, delimiters) - before[_lines_of(delimiters, block.starts)]) % 2 == 0
    return _count(delimiters[outside], block) + 1, misquoted


def screen(block: Block, columns: int, delimiter: str, quote: str, encoding: str) -> dict[int, str]:
    """Return index → code of why no CSV reader should see it, for each line of which that is so."""
    out: dict[int, str] = {}
    for code, bad in _findings(block, columns, delimiter, quote, encoding):
        for index in np.flatnonzero(bad).tolist():
            out.setdefault(index, code)
    return out


def _findings(block: Block, columns: int, delimiter: str, quote: str, encoding: str) -> Iterator[tuple[str, Bools]]:
    lengths = block.ends - block.starts
    yield "line.too_long", (lengths > LINE_MAX) if not block.long_total else np.ones(1, np.bool_)
    if b"\0" in block.data:
        nul = np.zeros(len(block), np.bool_)
        nul[_lines_of(np.flatnonzero(np.frombuffer(block.data, np.uint8) == 0), block.starts)] = True
        yield "nul", nul
    if encoding == "utf-8":
        yield "encoding", _undecodable(block)
    yield "line.empty", lengths == 0
    counted, misquoted = count_columns(block, delimiter, quote)
    yield "quote", misquoted
    yield "columns.count", counted != columns
