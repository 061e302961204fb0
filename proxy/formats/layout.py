"""Which column of a file is which: by its header line, or by the number of columns where it has none."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.formats.lines import Block, count_columns
from proxy.formats.profile import Profile
from proxy.formats.source import SourceError

_SAMPLE: Final = 100
"""Lines that are looked at to find the layout of a file without a header."""
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a file's columns, in order."""

    names: tuple[str, ...]
    header: bool
    """The first line is a header."""


def known_columns(profile: Profile) -> set[str]:
    """Return every column name the profile reads."""
    names = {c for field in profile.fields for c in profile.columns_of(field)}
    return names | set(profile.egress_none)


def missing_columns(profile: Profile, names: tuple[str, ...]) -> list[str]:
    """Return what a file with these columns lacks for the profile (alternatives as ``a or b``)."""
    present = set(names)
    out = []
    for source in profile.fields.values():
        if source.optional:
            continue
        # Of alternatives one is enough; joined columns and conditions are needed all.
        if source.columns and source.join is None and not present & set(source.columns):
            out.append(" or ".join(source.columns))
        elif source.join is not None:
            out.extend(c for c in source.columns if c not in present)
        if source.when is not None and source.when[0] not in present:
            out.append(source.when[0])
    return list(dict.fromkeys(out))


def _shown(name: str) -> str:
    """A column name fit for a message: it comes from the file and may be anything."""
    return ascii(name[:40])


def _cells(block: Block, index: int, profile: Profile) -> tuple[str, ...] | None:
    """Cells of a line, None where it is no text of one line."""
    line = block.text(index)
    if b"\0" in line or block.long_total:
        return None
    try:
        text = line.decode(profile.encoding)
    except UnicodeDecodeError:
        return None
    if not text or any(ord(c) < 32 and c != "\t" for c in text):
        return None
    if not profile.quote:
        return tuple(text.split(profile.delimiter))
    try:
        return tuple(next(csv.reader([text], delimiter=profile.delimiter, quotechar=profile.quote, strict=True)))
    except (csv.Error, StopIteration):
        return None


def resolve_layout(block: Block | None, profile: Profile, path: Path) -> Layout | None:
    """Find the columns of a file from its first block; also steps over a byte order mark.

    Args:
        block: first block of the file; None for an empty file.
        profile: what the file is said to be.
        path: for messages.

    Returns:
        The layout; None for an empty file of a profile that needs no header.

    Raises:
        SourceError: if the file is not of this profile: binary, without the header or the columns.
    """
    if block is None:
        if profile.header == "yes":
            raise SourceError("the file is empty", path, 1, f"profile {profile.name} expects a header line")
        return None
    if block.data.startswith(_BOM):
        block.starts[0] = min(len(_BOM), int(block.ends[0]))
    cells = _cells(block, 0, profile)
    if profile.header != "no" and cells is not None:
        missing = missing_columns(profile, cells)
        named = known_columns(profile) & set(cells)
        # Values are not column names: two of them tell a header, even one that lacks others.
        if not missing or profile.header == "yes" or len(named) >= 2:
            return _by_header(cells, missing, profile, path)
    if cells is None and profile.header == "yes":
        raise _not_text(block, path, profile)
    return _by_count(block, profile, path)


def _by_header(cells: tuple[str, ...], missing: list[str], profile: Profile, path: Path) -> Layout:
    todo = f"check that the file is of profile {profile.name} and the delimiter is {profile.delimiter!r}"
    if missing:
        raise SourceError(f"the header has no column {missing[0]}", path, 1, todo)
    if twice := [c for c, n in Counter(cells).items() if n > 1 and c in known_columns(profile)]:
        raise SourceError(f"the header has the column {_shown(twice[0])} twice", path, 1, todo)
    if profile.extra_columns == "refuse" and (extra := [c for c in cells if c not in known_columns(profile)]):
        what = f"the column {_shown(extra[0])} is no field of the record"
        raise SourceError(what, path, 1, "remove it or correct its name, so that nothing is silently left out")
    return Layout(cells, header=True)


def _not_text(block: Block, path: Path, profile: Profile) -> SourceError:
    line = block.text(0)
    if block.long_total or len(line) >= 64 * 1024:
        what = "the first line is too long for a header"
    elif line.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = "the file is UTF-16"
    elif not line:
        what = "the first line is empty where the header should be"
    else:
        what = "the file is binary or in another encoding, not a text with a header"
    return SourceError(what, path, 1, f"check that it is a CDR file of profile {profile.name}, {profile.encoding}")


def _by_count(block: Block, profile: Profile, path: Path) -> Layout:
    counts: Counter[int] = Counter()
    numbers, misquoted = count_columns(block, profile.delimiter, profile.quote)
    for index in range(min(_SAMPLE, len(block))):
        if not misquoted[index] and _cells(block, index, profile) is not None:
            counts[int(numbers[index])] += 1
    known = {len(names): names for names in profile.layouts}
    best = max((n for n in counts if n in known), key=lambda n: counts[n], default=None)
    if best is None:
        wanted = " or ".join(str(n) for n in sorted(known))
        what = f"no line at its beginning has {wanted} columns: it is binary or another kind of file"
        if profile.header == "auto":
            what += ", nor is there a header"
        todo = f"check that it is a CDR file of profile {profile.name}; other columns need a header or a layout"
        raise SourceError(what, path, 1, todo)
    return Layout(known[best], header=False)
