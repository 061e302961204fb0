"""Writing the log into a directory, for an auditor: tiles, checkpoints, headers, and openings in plain text.

    manifest.json         what it is: size, origins, which parts are opened
    checkpoint            the checkpoint that it ends with, signed and cosigned (C2SP tlog-checkpoint)
    tile/<L>/…            the tiles at that size (C2SP tlog-tiles), tile/entries/… the entries' data
    checkpoints.ndjson    every checkpoint before it
    entries/<n>.ndjson    65,536 entries each: index, header, tags, openings

All that is in it is bound by the checkpoint; `tollgate log fsck --export` reads it back, and other tools can, for
headers and openings are the very texts that were hashed (deploy/docs/log.md). It is written beside its place and moved
there when it is whole. Trust: whoever reads it reads who asked for what.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from keys.encoding import b64url_encode
from keys.notes import Note, NoteError, parse_signatures
from proxy.ledger import encoding
from proxy.ledger.fsck.model import Facts, Line, Page, StoredCheckpoint
from proxy.ledger.model import PARTS, Kind, LedgerError, timestamp
from proxy.ledger.tiles import WIDTH, Edge, Tile, entry_bundle, partials

VERSION = 1
FORM = "tollgate log export"
FILE_ENTRIES = 1 << 16
"""Entries of one file."""
ALWAYS = frozenset({Kind.LOG_ORIGIN.value, Kind.LOG_ERASE.value})
"""Entries whose request is always opened: they say what the log itself is, and nothing of anybody's records."""


class ExportError(LedgerError):
    """The log cannot be exported as it stands; nothing was left behind."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    size: int
    root: bytes
    openings: int


async def export(
    pages: AsyncIterator[Page],
    facts: Facts,
    directory: Path,
    parts: Collection[str],
    vkeys: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    hides: Callable[[Line], bool] = lambda line: False,
) -> Exported:
    """Write the log, up to its largest checkpoint, into a new directory.

    Args:
        pages: the entries.
        facts: what is said of the whole.
        directory: must not exist; its parent must.
        parts: whose openings are written.
        vkeys: the log's keys, a hint for people.
        progress: called with entries written and entries in all.
        hides: says of which entries no opening is written: those of cases that the auditor may not know of.

    Raises:
        ExportError: if nothing is signed yet, or an entry is missing or cannot be read.
        OSError: if it cannot be written.
    """
    if not facts.signed_size or facts.signed_size > facts.size:
        raise ExportError("no checkpoint covers what stands: `tollgate log publish`, or see `tollgate log fsck`")
    if await asyncio.to_thread(os.path.lexists, directory):
        raise ExportError(f"{directory} exists already")
    made = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    try:
        writer = await asyncio.to_thread(_Writer, made, facts, frozenset(parts), tuple(vkeys), hides)
        try:
            async for page in pages:
                await asyncio.to_thread(writer.page, page)
                progress(writer.done, facts.signed_size)
                if writer.done == facts.signed_size:
                    break
            written = await asyncio.to_thread(writer.finish)
        finally:
            writer.close()
        # Dying before this leaves a directory with a dot, and nothing under the name that was asked for.
        await asyncio.to_thread(os.rename, made, directory)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, made, True)
        raise
    return written


@dataclass
class _Writer:
    """Writes one export; every method blocks."""

    root: Path
    facts: Facts
    parts: frozenset[str]
    vkeys: tuple[str, ...]
    hides: Callable[[Line], bool]
    done: int = 0
    openings: int = 0
    _edge: Edge = field(default_factory=Edge)
    _data: bytearray = field(default_factory=bytearray)
    _entries: TextIO | None = None
    _last: StoredCheckpoint | None = None
    _erase: int | None = None

    def __post_init__(self) -> None:
        for name in ("", "entries", "tile"):
            (self.root / name).mkdir(mode=0o700)
        self._checkpoints = self._create("checkpoints.ndjson")

    def _create(self, name: str) -> TextIO:
        path = self.root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(path, "x", encoding="utf-8", newline="\n", opener=_private)

    def page(self, page: Page) -> None:
        """Write a page's entries and checkpoints."""
        leaves = []
        for line in page.lines():
            if line.idx == self.facts.signed_size:
                break
            if line.idx != self.done:
                raise ExportError(f"entry {self.done} is missing: see `tollgate log fsck`")
            self._entry(line)
            leaves.append(encoding.leaf_hash(line.header))
            self._data += encoding.leaf_data(line.header)
            self.done += 1
            if len(self._data) == WIDTH * 32:
                self._bundle(Tile(0, self.done // WIDTH - 1))
        for level, index, hashes, _ in self._edge.append(leaves):
            self._bytes(f"tile/{level}/{Tile(level, index).path}", hashes)
        for checkpoint in page.checkpoints:
            if checkpoint.size <= self.done:
                self._checkpoint(checkpoint)

    def _entry(self, line: Line) -> None:
        if line.idx % FILE_ENTRIES == 0:
            self._close_entries()
            self._entries = self._create(f"entries/{line.idx // FILE_ENTRIES:06d}.ndjson")
        kind = encoding.read_header(line.idx, line.header).kind.value
        if kind == Kind.LOG_ERASE.value:
            self._erase = line.idx
        shown = self.parts | ({"request"} if kind in ALWAYS else frozenset())
        found = {part: data for part, data in (line.openings or {}).items() if part in shown}
        hidden = kind not in ALWAYS and self.hides(line)
        told = {} if hidden else found
        openings = {part: data.decode() for part, data in told.items() if isinstance(data, bytes) and data}
        self.openings += len(openings)
        value = {
            "index": line.idx,
            "header": line.header.decode(),
            "tags": b64url_encode(line.tags),
            "openings": openings,
        } | ({"withheld": True} if hidden else {})
        assert self._entries is not None
        self._entries.write(_text(value))

    def _checkpoint(self, stored: StoredCheckpoint) -> None:
        self._last = stored
        value = {
            "epoch": stored.epoch,
            "size": stored.size,
            "at": None if stored.at is None else timestamp(stored.at),
            "note": stored.note.decode("utf-8", "replace"),
            "cosignatures": [[witness, line.decode("utf-8", "replace")] for witness, line in stored.cosignatures],
        }
        self._checkpoints.write(_text(value))

    def _bundle(self, tile: Tile) -> None:
        self._bytes(f"tile/entries/{tile.path}", entry_bundle(bytes(self._data)))
        self._data.clear()

    def _bytes(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "xb", opener=_private) as file:
            file.write(data)

    def finish(self) -> Exported:
        """Write what comes last."""
        if self.done != self.facts.signed_size or self._last is None or self._last.size != self.done:
            raise ExportError(f"the log ends at {self.done} and is signed for {self.facts.signed_size} entries")
        for tile in partials(self.done):
            self._bytes(f"tile/{tile.level}/{tile.path}", self._edge.partial(tile.level))
        if self._data:
            self._bundle(Tile(0, self.done // WIDTH, self.done % WIDTH))
        self._bytes("checkpoint", _cosigned(self._last))
        withheld = [part for part in PARTS if part not in self.parts]
        manifest = {
            "v": VERSION,
            "form": FORM,
            "made_at": timestamp(datetime.now(UTC)),
            "size": self.done,
            "origins": [
                {
                    "epoch": each.epoch,
                    "origin": each.origin,
                    "first_size": each.first_size,
                    "previous": None if each.previous is None else each.previous.decode("utf-8", "replace"),
                }
                for each in self.facts.origins
            ],
            "parts": sorted(self.parts),
            "withheld": withheld,
            "erase": self._erase,
            "vkeys": list(self.vkeys),
        }
        self._bytes("manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
        self.close()
        return Exported(self.done, self._edge.root(), self.openings)

    def _close_entries(self) -> None:
        if self._entries is not None:
            self._entries.close()
            self._entries = None

    def close(self) -> None:
        """Close what is open."""
        self._close_entries()
        self._checkpoints.close()


def _cosigned(stored: StoredCheckpoint) -> bytes:
    try:
        more = [one for _, line in stored.cosignatures for one in parse_signatures(line.decode().rstrip("\n") + "\n")]
        return str(Note.parse(stored.note).with_signatures(more)).encode()
    except (NoteError, UnicodeDecodeError) as error:
        raise ExportError("the last checkpoint cannot be read: see `tollgate log fsck`") from error


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
