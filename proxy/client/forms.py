"""The forms an answer comes in: their media types, how rows are counted, how parts are put together to one file.

A pull that was interrupted, or longer than one answer may be, comes in parts, each an answer of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

_COPY = 1 << 20


class Form(StrEnum):
    """How CDRs are written."""

    CSV = "csv"
    NDJSON = "ndjson"
    ARROW = "arrow"
    PARQUET = "parquet"

    @property
    def media_type(self) -> str:
        """The value of Accept."""
        return _MEDIA[self]

    @property
    def cuttable(self) -> bool:
        """Whether what came before a checkpoint can be used: a Parquet file without its end cannot."""
        return self is not Form.PARQUET


_MEDIA = {
    Form.CSV: "text/csv",
    Form.NDJSON: "application/x-ndjson",
    Form.ARROW: "application/vnd.apache.arrow.stream",
    Form.PARQUET: "application/vnd.apache.parquet",
}


class FormError(Exception):
    """A part is not what its media type says."""


class RowCounter:
    """Counts rows of CSV and NDJSON as they arrive; the binary forms are counted at the end."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._lines = 0
        self._quoted = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._form is Form.NDJSON or (self._form is Form.CSV and not self._quoted and b'"' not in data):
            self._lines += data.count(b"\n")
        elif self._form is Form.CSV:
            # A line break between quotes is part of a value (RFC 4180 section 2.6); doubled quotes cancel out.
            for index, piece in enumerate(data.split(b'"')):
                if index:
                    self._quoted = not self._quoted
                if not self._quoted:
                    self._lines += piece.count(b"\n")

    @property
    def rows(self) -> int:
        """Rows so far."""
        return max(self._lines - 1, 0) if self._form is Form.CSV else self._lines


def count_rows(path: Path, form: Form) -> int:
    """Count the rows of a part on disk.

    Raises:
        FormError: if it cannot be read as ``form``.
    """
    try:
        if form is Form.PARQUET:
            return int(pa.parquet.read_metadata(path).num_rows)
        if form is Form.ARROW:
            with pa.OSFile(str(path)) as file:
                return sum(batch.num_rows for batch in pa.ipc.open_stream(file))
    except (pa.ArrowInvalid, OSError) as error:
        raise FormError(f"{path} is no {form.value} file: {error}") from error
    counter = RowCounter(form)
    with path.open("rb") as file:
        while data := file.read(_COPY):
            counter.feed(data)
    return counter.rows


def join(parts: Sequence[Path], form: Form, out: Path) -> None:
    """Make one file of the parts: written beside ``out``, made durable, and put in place as a whole.

    Raises:
        FormError: where the parts do not fit together.
    """
    if len(parts) == 1:
        # The one part is the file. (An Arrow part cut at a checkpoint has no end mark; it is never alone.)
        _durable(parts[0])
        os.replace(parts[0], out)
    else:
        fresh = out.with_name(out.name + ".joining")
        try:
            if form is Form.ARROW:
                _join_arrow(parts, fresh)
            elif form is Form.PARQUET:
                _join_parquet(parts, fresh)
            else:
                _join_text(parts, form, fresh)
        except pa.ArrowInvalid as error:
            raise FormError(f"the parts of {out} do not fit together: {error}") from error
        _durable(fresh)
        os.replace(fresh, out)
    _durable(out.absolute().parent)


def _durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _join_text(parts: Sequence[Path], form: Form, fresh: Path) -> None:
    header = b""
    with fresh.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                if form is Form.CSV:
                    line = source.readline()
                    if not header:
                        header = line
                        target.write(line)
                    elif line not in (header, b""):
                        raise FormError(f"{part} has other columns than the parts before it")
                shutil.copyfileobj(source, target, _COPY)


def _join_arrow(parts: Sequence[Path], fresh: Path) -> None:
    writer: Any = None
    try:
        for part in parts:
            with pa.OSFile(str(part)) as file:
                reader = pa.ipc.open_stream(file)
                writer = writer or pa.ipc.new_stream(str(fresh), reader.schema)
                for batch in reader:
                    writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def _join_parquet(parts: Sequence[Path], fresh: Path) -> None:
    writer: Any = None
    try:
        for part in parts:
            with pa.parquet.ParquetFile(part) as file:
                writer = writer or pa.parquet.ParquetWriter(fresh, file.schema_arrow, compression="zstd")
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
    finally:
        if writer is not None:
            writer.close()
