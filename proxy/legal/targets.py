"""The targets of a case: what a document lists, read into what records can be searched by. Pure.

A telephone number is read in every form in which one is usually written: E.164, national with or without the 1, with
punctuation, as a sip: or tel: URI, also as it comes out of a PDF (hyphens and blanks that are none of ASCII's). One
with an extension is refused, not cut: the records know the trunk's number only, and everybody behind it would be
found. One without an area code is refused, not completed. Others are written ``account:``, ``trunk:``, ``imsi:``.

What is refused is named by its place in the list, never by its text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import polars as pl

from proxy.formats.numbers import NumberRules, read_numbers
from proxy.policy.extraction import Target, TargetKind
from proxy.policy.process import TargetFacts

TEXT_MAX: Final = 256
"""Most characters of one target as written."""
_NAME_MAX: Final = 64
_HALF: Final = re.compile("[\ud800-\udfff]")
_IMSI: Final = re.compile(r"[0-9]{14,15}", re.ASCII)  # ITU-T E.212: at most 15 digits
_KINDS: Final = r"(?is)^\s*(number|account|trunk|imsi|imei)\s*:\s*(.*?)\s*$"
_EXTENSION: Final = (
    r"(?i)(;\s*(ext|isub|phone-context)\s*="  # RFC 3966: an extension, a subaddress, a number of some place only
    r"|(^|[\s\d).,;])\s*(x|ext|extn|extension)\.?\s*:?\s*\d+\s*>?\s*$"
    r"|[#,]\s*\d+\s*$)"
)
_RULES: Final = NumberRules("US")
_ODD: Final = {
    **dict.fromkeys(map(chr, (0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2015, 0x2212, 0xFE63, 0xFF0D)), "-"),
    **dict.fromkeys(map(chr, (0xA0, 0x2007, 0x2009, 0x200A, 0x202F, 0x3000)), " "),
    **dict.fromkeys(map(chr, (0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF)), ""),
    **dict.fromkeys(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))), ""),
    "\uff0b": "+",
    "%2B": "+",
    "%2b": "+",
}
"""As a PDF or a mail program writes them."""


class RefusedFor(StrEnum):
    """Why a target cannot be searched by."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    EXTENSION = "extension"
    NOT_A_NUMBER = "not_a_number"
    NOT_AN_IMSI = "not_an_imsi"
    NOT_A_NAME = "not_a_name"
    NOT_SEARCHABLE = "not_searchable"


@dataclass(frozen=True, slots=True)
class RefusedTarget:
    """``place`` counts from 1, in the list as it was given."""

    place: int
    reason: RefusedFor


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of a case: sorted, none twice."""

    numbers: tuple[int, ...] = ()
    """E.164 digits."""
    accounts: tuple[str, ...] = ()
    trunks: tuple[str, ...] = ()
    imsis: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.accounts) + len(self.trunks) + len(self.imsis)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of which there are any."""
        parts = {
            TargetKind.NUMBER: self.numbers,
            TargetKind.ACCOUNT: self.accounts,
            TargetKind.TRUNK: self.trunks,
            TargetKind.IMSI: self.imsis,
        }
        return frozenset(kind.value for kind, part in parts.items() if part)

    def lines(self) -> Iterator[str]:
        """Yield each in its canonical form, which :func:`read_targets` reads back: ``+12125550100``, ``imsi:…``."""
        for number in self.numbers:
            yield f"+{number}"
        for kind, part in ((TargetKind.ACCOUNT, self.accounts), (TargetKind.TRUNK, self.trunks)):
            for name in part:
                yield f"{kind.value}:{name}"
        for imsi in self.imsis:
            yield f"imsi:{imsi}"

    def targets(self) -> tuple[Target, ...]:
        """Return them as an extraction takes them, sorted."""
        return (
            *(Target(TargetKind.ACCOUNT, a) for a in self.accounts),
            *(Target(TargetKind.IMSI, i) for i in self.imsis),
            *sorted(Target(TargetKind.NUMBER, f"+{n}") for n in self.numbers),
            *(Target(TargetKind.TRUNK, t) for t in self.trunks),
        )

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Targets:
        """Return what :meth:`targets` gave."""
        found: dict[TargetKind, set[str]] = {kind: set() for kind in TargetKind}
        for target in targets:
            found[target.kind].add(target.value)
        return cls(
            tuple(sorted(int(n) for n in found[TargetKind.NUMBER])),
            *(tuple(sorted(found[kind])) for kind in (TargetKind.ACCOUNT, TargetKind.TRUNK, TargetKind.IMSI)),
        )

    def digest(self, salt: bytes = b"") -> str:
        """Return the SHA-256 of ``salt`` and the canonical lines, each with its newline, in hexadecimal.

        Without a secret salt a digest of few numbers can be guessed: such a one is sealed, never stored in clear.
        """
        return hashlib.sha256(salt + "".join(f"{line}\n" for line in self.lines()).encode()).hexdigest()

    def within(self, other: Targets) -> bool:
        """Tell whether each of these is one of ``other``: a list is narrowed, never widened."""
        return (
            set(self.numbers) <= set(other.numbers)
            and set(self.accounts) <= set(other.accounts)
            and set(self.trunks) <= set(other.trunks)
            and set(self.imsis) <= set(other.imsis)
        )


@dataclass(frozen=True, slots=True)
class ReadTargets:
    """What a list was read as."""

    targets: Targets
    refused: tuple[RefusedTarget, ...]
    given: int
    """Lines that were not blank."""
    guarded: tuple[int, ...] = ()
    """Places of numbers that the operator's list names."""
    guarded_kinds: tuple[str, ...] = ()
    """What the list calls them, sorted: ``police``, ``court``, …"""

    def facts(self, salt: bytes = b"") -> TargetFacts:
        """Return what policy needs to know; ``salt`` as for :meth:`Targets.digest`."""
        t = self.targets
        return TargetFacts(len(t), t.digest(salt), t.kinds, tuple(x.place for x in self.refused), self.guarded)


class GuardedError(Exception):
    """The operator's list of guarded numbers cannot be read; the message names the line and no number."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """Numbers of police, courts, counsel and own staff (the operator's list): looked at before anything is done."""

    numbers: dict[int, str]
    prefixes: dict[str, str]
    """Leading digits → kind."""

    def kind(self, number: int) -> str | None:
        """Return what the list calls a number; None: it is not on it."""
        found = self.numbers.get(number)
        if found is not None or not self.prefixes:
            return found
        digits = str(number)
        return next((self.prefixes[digits[:n]] for n in range(len(digits), 0, -1) if digits[:n] in self.prefixes), None)


NOBODY: Final = Guarded({}, {})


def read_guarded(lines: Iterable[str]) -> Guarded:
    """Read the operator's list: ``+12125550100,police`` on each line, ``+1212555*,court`` for all that begin so.

    Blank lines and what follows ``#`` are left out.

    Raises:
        GuardedError: names the line.
    """
    prefixes: dict[str, str] = {}
    written: list[tuple[int, str, str]] = []
    for place, raw in enumerate(lines, 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        number, comma, kind = (part.strip() for part in line.partition(","))
        if not comma or not re.fullmatch(r"[a-z][a-z_]{0,31}", kind):
            raise GuardedError(f"line {place}: write a number, a comma, and what it is (police, court, counsel, staff)")
        if re.fullmatch(r"\+[1-9][0-9]{2,13}\*", number, re.ASCII):
            prefixes[number[1:-1]] = kind
        else:
            written.append((place, number, kind))
    read = _parse([number for _, number, _ in written])
    known = dict(zip(read.places, read.numbers, strict=True))
    numbers: dict[int, str] = {}
    for position, (place, _, kind) in enumerate(written, 1):
        if (found := known.get(position)) is None:
            raise GuardedError(f"line {place}: not a telephone number")
        numbers[found] = kind
    return Guarded(numbers, prefixes)


def read_targets(texts: Sequence[str], guarded: Guarded = NOBODY) -> ReadTargets:
    """Read a list of targets.

    Args:
        texts: one target each; blank ones are left out. Any number of them: the check refuses more than
            100,000 distinct ones.
        guarded: the operator's list.
    """
    read = _parse(texts)
    places, kinds = _guarded(read.places, read.numbers, guarded)
    targets = Targets(
        tuple(sorted({n for n in read.numbers if n is not None})),
        *(_distinct(read.others, kind) for kind in (TargetKind.ACCOUNT, TargetKind.TRUNK, TargetKind.IMSI)),
    )
    return ReadTargets(targets, read.refused, read.given, places, kinds)


@dataclass(frozen=True, slots=True)
class _Parsed:
    places: list[int]
    """Of what is written as a number."""
    numbers: list[int | None]
    """None: refused."""
    others: pl.DataFrame
    """``kind`` and ``value`` of all that is not refused by its form."""
    refused: tuple[RefusedTarget, ...]
    given: int


def _parse(texts: Sequence[str]) -> _Parsed:
    whole = [t if len(t) <= TEXT_MAX else "x" * (TEXT_MAX + 1) for t in texts]
    # Half a surrogate pair, as JSON can write one, is no text: it becomes what is refused in each kind.
    whole = [t if t.isascii() else _HALF.sub("\0", t) for t in whole]
    frame = pl.DataFrame({"text": pl.Series(whole, dtype=pl.String)}).with_row_index("place", 1)
    frame = frame.with_columns(pl.col("text").str.replace_many(list(_ODD), list(_ODD.values())).str.strip_chars())
    frame = frame.filter(pl.col("text").fill_null("") != "")
    parts = pl.col("text").str.extract_groups(_KINDS).struct
    kind = pl.coalesce(parts.field("1").str.to_lowercase(), pl.lit("number"))
    frame = frame.with_columns(kind=kind, value=pl.coalesce(parts.field("2"), pl.col("text")))
    refused = [RefusedTarget(place, reason) for place, reason in _refusals(frame)]
    bad = {x.place for x in refused}
    good = frame.filter(~pl.col("place").is_in(list(bad))) if bad else frame
    numbers = good.filter(pl.col("kind") == TargetKind.NUMBER.value)
    e164 = read_numbers(numbers["value"], _RULES).e164
    lost = numbers["place"].filter(e164.is_null()).to_list()
    refused += [RefusedTarget(place, RefusedFor.NOT_A_NUMBER) for place in lost]
    return _Parsed(
        numbers["place"].to_list(),
        e164.to_list(),
        good,
        tuple(sorted(refused, key=lambda x: x.place)),
        len(frame),
    )


def _refusals(frame: pl.DataFrame) -> list[tuple[int, RefusedFor]]:
    """Return (place, reason) of what can be refused by its form alone."""
    kind, value = pl.col("kind"), pl.col("value")
    named = kind.is_in([TargetKind.ACCOUNT.value, TargetKind.TRUNK.value])
    plain = value.str.contains(r"^[^\p{C}\p{Zl}\p{Zp}]+$") & (value.str.len_chars() <= _NAME_MAX)
    reason = (
        pl.when(value == "")
        .then(pl.lit(RefusedFor.EMPTY.value))
        .when(value.str.len_chars() > TEXT_MAX)
        .then(pl.lit(RefusedFor.TOO_LONG.value))
        .when(kind == "imei")
        .then(pl.lit(RefusedFor.NOT_SEARCHABLE.value))
        .when(named & ~plain)
        .then(pl.lit(RefusedFor.NOT_A_NAME.value))
        .when((kind == "imsi") & ~value.str.contains(f"^{_IMSI.pattern}$"))
        .then(pl.lit(RefusedFor.NOT_AN_IMSI.value))
        .when((kind == "number") & value.str.contains(_EXTENSION))
        .then(pl.lit(RefusedFor.EXTENSION.value))
    )
    bad = frame.select("place", reason.alias("reason")).filter(pl.col("reason").is_not_null())
    return [(place, RefusedFor(text)) for place, text in bad.iter_rows()]


def _distinct(frame: pl.DataFrame, kind: TargetKind) -> tuple[str, ...]:
    return tuple(frame.filter(pl.col("kind") == kind.value)["value"].unique().sort().to_list())


def _guarded(
    places: Sequence[int], numbers: Sequence[int | None], guarded: Guarded
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if not guarded.numbers and not guarded.prefixes:
        return (), ()
    found = [
        (place, kind)
        for place, number in zip(places, numbers, strict=True)
        if number is not None and (kind := guarded.kind(number)) is not None
    ]
    return tuple(place for place, _ in found), tuple(sorted({kind for _, kind in found}))
