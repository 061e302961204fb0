"""What a case looks for, as columns: tags to find chunks by, exact matching of what was opened. Pure.

A tag may be shared by two values and a chunk holds two thousand records: what goes on is only the record in which a
target itself stands, compared in full after opening.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxy.policy.extraction import TARGETS_MAX, ExtractionRefusedError, Target, TargetKind
from proxy.store import columns, tags
from proxy.store.planes import Words, compress, decompress, from_planes, to_planes, width_of
from schema.fields import FIELDS, DisclosureClass, Kind, TagDomain

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

VALUE_MAX: Final = 256
"""Longest text of a target, characters."""
E164_DIGITS: Final = 15

_LOW: Final = (1 << 20) - 1
"""A table of so many low bits: it stays in the processor's cache."""
_DOMAINS: Final = {
    TargetKind.ACCOUNT: TagDomain.ACCOUNT,
    TargetKind.IMSI: TagDomain.IMSI,
    TargetKind.TRUNK: TagDomain.TRUNK,
}
_TEXTS: Final = (TagDomain.RAW_NUMBER, TagDomain.ACCOUNT, TagDomain.IMSI, TagDomain.TRUNK)


class Targets:
    """The targets of one extraction: E.164 numbers as sorted integers, everything else as texts of a search domain."""

    def __init__(self, numbers: Ints, texts: Mapping[TagDomain, Sequence[str]]) -> None:
        """Take sorted, distinct values; :meth:`of` makes them of an order's targets."""
        self.numbers = numbers
        self.texts = {d: tuple(texts[d]) for d in _TEXTS if texts.get(d)}
        self._low = np.zeros(_LOW + 1, np.bool_)
        self._low[numbers & _LOW] = True
        self._texts = {d: pa.array(found, pa.string()) for d, found in self.texts.items()}
        domains = {*self.texts, *([TagDomain.NUMBER] if len(numbers) else [])}
        self.fields = tuple(
            f for f in FIELDS if f.tag in domains or (f.tag is TagDomain.NUMBER and TagDomain.RAW_NUMBER in domains)
        )
        """The fields in which a target may stand."""
        self.classes: frozenset[DisclosureClass] = frozenset(f.disclosure_class for f in self.fields)
        """The classes that have to be opened to match."""

    @classmethod
    def of(cls, targets: Sequence[Target]) -> Targets:
        """Return the targets of an order, each once.

        Raises:
            ExtractionRefusedError: if there are none, too many, or one cannot stand in a record.
        """
        if not 1 <= len(targets) <= TARGETS_MAX:
            raise ExtractionRefusedError("targets", f"An extraction has 1 to {TARGETS_MAX:,} targets.")
        numbers: set[int] = set()
        texts: dict[TagDomain, set[str]] = {}
        for target in targets:
            value = target.value
            if not (1 <= len(value) <= VALUE_MAX and value.isprintable()):
                raise ExtractionRefusedError("targets", "A target is one line of text of at most 256 characters.")
            if target.kind is not TargetKind.NUMBER:
                texts.setdefault(_DOMAINS[target.kind], set()).add(value)
            elif not value.startswith("+"):
                texts.setdefault(TagDomain.RAW_NUMBER, set()).add(value)
            elif value[1:].isascii() and value[1:].isdigit() and len(value) <= 1 + E164_DIGITS:
                numbers.add(int(value[1:]))
            else:
                raise ExtractionRefusedError("targets", "A number is a plus sign and at most 15 digits, or raw text.")
        return cls(np.array(sorted(numbers), np.int64), {d: sorted(found) for d, found in texts.items()})

    def __len__(self) -> int:
        return len(self.numbers) + sum(map(len, self.texts.values()))

    def digest(self) -> str:
        """Return the SHA-256 over all values in order, hexadecimal."""
        hasher = hashlib.sha256(self.numbers.astype(">i8").tobytes())
        for domain, found in self.texts.items():
            for text in found:
                data = text.encode()
                hasher.update(bytes([domain.value]) + len(data).to_bytes(2, "big") + data)
        return hasher.hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return all values for a sealed part of the log: numbers as planes of differences, four bytes each or so."""
        value: dict[str, Any] = {"count": len(self), "sha256": self.digest()}
        if len(self.numbers):
            steps = np.diff(self.numbers, prepend=0).astype(np.uint64)
            width = width_of(steps)
            packed = compress(bytes([width]) + to_planes(steps, width))
            value["numbers"] = [len(steps), base64.b64encode(packed).decode()]
        value |= {domain.name.lower(): list(found) for domain, found in self.texts.items()}
        return value

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Targets:
        """Return what :meth:`as_json` wrote.

        Raises:
            LookupError, TypeError, ValueError, FormatError: if it is none.
        """
        numbers = np.empty(0, np.int64)
        if "numbers" in value:
            count, text = value["numbers"]
            body = decompress(base64.b64decode(text, validate=True))
            if not body or len(body) != 1 + count * body[0] or body[0] > 8:
                raise ValueError("targets of another length than they say")
            steps = from_planes(np.frombuffer(body, np.uint8)[1:], count, body[0])
            numbers = np.cumsum(steps.view(np.int64))
        found = cls(numbers, {d: value[d.name.lower()] for d in _TEXTS if d.name.lower() in value})
        if found.digest() != value["sha256"]:
            raise ValueError("targets that are not those of their digest")
        return found

    def tags(self, tagger: tags.Tagger) -> Words:
        """Return the tags of all values under a month's key, sorted, each once."""
        parts = [tagger.numbers(self.numbers)] if len(self.numbers) else []
        parts += [tagger.texts(domain, found) for domain, found in self._texts.items()]
        return np.unique(np.concatenate(parts))

    def match(
        self, opened: Mapping[str, pa.Array | pa.ChunkedArray], rows: int, only: Collection[str] | None = None
    ) -> Mask:
        """Say in which of ``rows`` records a target stands (n,).

        Args:
            opened: columns as the store gives them, numbers with ``<name>_raw`` beside; one that is absent is null.
            only: names of the only fields in which it counts; None: all.
        """
        found = np.zeros(rows, np.bool_)
        for field in self.fields:
            if only is not None and field.name not in only:
                continue
            if field.tag is TagDomain.NUMBER:
                if len(self.numbers) and field.name in opened:
                    found[self._find(opened[field.name])] = True
                if TagDomain.RAW_NUMBER in self._texts and field.name + "_raw" in opened:
                    found |= _isin(opened[field.name + "_raw"], self._texts[TagDomain.RAW_NUMBER])
            elif field.tag is not None and field.name in opened:
                found |= _isin(opened[field.name], self._texts[field.tag])
        return found

    def _find(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """Return the rows of a column of numbers in which a target stands: few pass the table of low bits, and each of
        those is compared in full."""
        array = columns.one(column)
        values = np.frombuffer(array.buffers()[1], np.int64, len(array), array.offset * 8)
        rows: Ints = np.flatnonzero(self._low[values & _LOW])
        places = np.searchsorted(self.numbers, values[rows])
        rows = rows[self.numbers[np.minimum(places, len(self.numbers) - 1)] == values[rows]]
        if array.null_count and len(rows):
            rows = rows[array.is_valid().to_numpy(zero_copy_only=False)[rows]]
        return rows

    def few(self) -> tuple[int | str, ...] | None:
        """Return the values where all are numbers and so few that comparing plane by plane is quicker; else None."""
        texts = self.texts.get(TagDomain.RAW_NUMBER, ())
        if len(self) > _FEW or len(self) != len(self.numbers) + len(texts):
            return None
        return (*self.numbers.tolist(), *texts)


_FEW: Final = 4


def _isin(column: pa.Array | pa.ChunkedArray, wanted: pa.Array) -> Mask:
    array = columns.one(column)
    if pa.types.is_dictionary(array.type):  # its words are few: each is compared once
        words = pc.is_in(array.dictionary, value_set=wanted).to_numpy(zero_copy_only=False)
        if not words.any():
            return np.zeros(len(array), np.bool_)
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return words[codes] & valid  # type: ignore[no-any-return]
    return pc.is_in(array, value_set=wanted).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


assert {f.kind for f in FIELDS if f.tag is TagDomain.NUMBER} == {Kind.NUMBER}, "a number is looked for in two columns"
