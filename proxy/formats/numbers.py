"""Telephone numbers as switches write them → E.164, or their raw digits; whole columns at a time.

"Is a number" means *possible*: the length is right for its country code (``phonenumbers.is_possible_number``), and in
the North American plan also the shape NXX-NXX-XXXX. Whether a range is assigned is not asked: that metadata ages, and a
CDR of a range opened last week (or of the reserved NPA-555-01XX) is still a CDR. What cannot be a number is kept as raw
text, marked by standing in the raw column, and never mended: a seven-digit number without an area code stays so.

The vectorised path decides wherever it is certain to decide as ``phonenumbers`` would; what is left goes there, each
distinct text once.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

import phonenumbers
import polars as pl

from proxy.formats.frame import nulls
from proxy.formats.profile import Profile

_NANP: Final = re.compile(r"1[2-9][0-9]{2}[2-9][0-9]{6}")
_NANP_BASE: Final = 10_000_000_000
_E164_MAX: Final = 15  # digits, ITU-T E.164 s.6.2.1
_SEPARATORS: Final = r"[().\-/ \t]"
_EXTENSION: Final = r"(?i)\s*(?:x|ext\.?)\s*[0-9]+\s*$"
_NUMERIC: Final = r"(?i)^[+0-9().\-/ \t*#]*(?:(?:x|ext\.?)\s*[0-9]+\s*)?$"
_CACHE: Final = 1 << 16
_OTHER_SIDE: Final = "_"


@dataclass(frozen=True, slots=True)
class NumberRules:
    """What a profile says of its numbers."""

    region: str = ""
    prefixes: tuple[str, ...] = ()
    strip_extensions: bool = False

    @classmethod
    def of(cls, profile: Profile) -> NumberRules:
        """Return the rules of a profile."""
        return cls(profile.region, profile.prefixes, profile.extensions == "strip")

    @property
    def north_american(self) -> bool:
        """Ten digits are a national number of the North American plan."""
        return self.region in _nanp_regions()


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column of numbers: each row has at most one of the two."""

    e164: pl.Series
    """UInt64: country code and number."""
    raw: pl.Series
    """String: what is no number, without a leading ``+``; digits also without separators."""


@functools.cache
def _nanp_regions() -> frozenset[str]:
    return frozenset(phonenumbers.COUNTRY_CODE_TO_REGION_CODE[1])


@functools.cache
def _plans() -> tuple[frozenset[str], dict[str, str]]:
    """Country codes whose rules are plain enough to decide here.

    Returns:
        ``cc:length`` of every possible national number, and cc → the national prefix that phonenumbers would strip even
        behind a country code. Codes whose prefix is more than plain digits are left out: phonenumbers decides those.
    """
    lengths: set[str] = set()
    prefixes: dict[str, str] = {}
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        if regions[0] == "001":
            metadata = phonenumbers.PhoneMetadata.metadata_for_nongeo_region(code)
        else:
            metadata = phonenumbers.PhoneMetadata.metadata_for_region(regions[0])
        if code == 1 or metadata is None or metadata.general_desc is None:
            continue
        prefix = metadata.national_prefix_for_parsing or ""
        if prefix and not prefix.isdigit():
            continue
        prefixes[str(code)] = prefix
        lengths.update(f"{code}:{n}" for n in metadata.general_desc.possible_length)
    return frozenset(lengths), prefixes


@functools.lru_cache(maxsize=_CACHE)
def _by_library(text: str, region: str) -> int | None:
    """E.164 digits of a text by the rules of phonenumbers, or None."""
    try:
        number = phonenumbers.parse(text, region or None)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]
    if len(digits) > _E164_MAX or (number.country_code == 1 and not _NANP.fullmatch(digits)):
        return None
    return int(digits)


def _nanp(text: pl.Expr, national: bool) -> pl.Expr:
    """UInt64 where the text is ``+1NXXNXXXXXX`` (``national``: or without the ``+``, or the ``+1``), else null.

    The shape is told from length, first character and value: a pattern match would take four times as long.
    """
    value = text.cast(pl.UInt64, strict=False)  # reads one leading plus, and nothing else that is no digit
    size, plus = text.str.len_bytes(), text.str.starts_with("+")
    shaped = plus & (size == 12)
    if national:
        shaped = shaped | (~plus & (size == 11))
        ten = ~plus & (size == 10)
        shaped = shaped | ten
        value = pl.when(ten).then(value + _NANP_BASE).otherwise(value)
    area, exchange = value.is_between(12_000_000_000, 19_999_999_999), (value // 10_000) % 1000 >= 200
    return pl.when(shaped & area & exchange).then(value)


def _international(digits: pl.Expr) -> pl.Expr:
    """UInt64 where the digits (country code first) certainly are a number, else null."""
    lengths, prefixes = _plans()
    certain = pl.lit(False)
    for size in (1, 2, 3):
        code, national = digits.str.slice(0, size), digits.str.slice(size)
        known = [c for c in prefixes if len(c) == size]
        # No prefix is written as a mark that no number starts with.
        prefix = code.replace_strict(
            known, [prefixes[c] or _OTHER_SIDE for c in known], default=None, return_dtype=pl.String
        )
        possible = pl.format("{}:{}", code, national.str.len_bytes()).is_in(lengths)
        certain = certain | (prefix.is_not_null() & possible & ~national.str.starts_with(prefix)).fill_null(False)
    within = digits.str.len_bytes().is_between(8, _E164_MAX)
    return pl.when(certain & within).then(digits).cast(pl.UInt64, strict=False)


def _decide(bodies: pl.Series, rules: NumberRules) -> pl.Series:
    """E.164 of dialled bodies: digits with or without a leading ``+``; null is not a number."""
    body = pl.col("body")
    frame = pl.DataFrame({"body": bodies})
    if rules.north_american:
        # 011 is the international prefix of the whole plan.
        frame = frame.with_columns(
            pl.when(body.str.contains(r"^011[1-9]"))
            .then(pl.format("+{}", body.str.slice(3)))
            .otherwise(body)
            .alias("body")
        )
    plus = body.str.starts_with("+") & ~body.str.starts_with("+1")
    frame = frame.with_columns(_nanp(body, rules.north_american).alias("e164"))
    if frame.select(plus.any()).item():
        abroad = _international(pl.when(plus).then(body.str.slice(1)))
        frame = frame.with_columns(pl.coalesce(pl.col("e164"), abroad).alias("e164"))
    # Certain not to be numbers: +1 of another shape and, in the plan, any national digits of another shape.
    national = pl.lit(False) if rules.north_american or not rules.region else ~body.str.starts_with("+")
    size = body.str.len_bytes()
    open_rows = pl.col("e164").is_null() & (plus | national) & size.is_between(5, _E164_MAX + 6)
    asked = frame.filter(open_rows)["body"].unique()
    if len(asked):
        found = [_by_library(text, rules.region) for text in asked]
        answers = pl.DataFrame({"body": asked, "asked": pl.Series(found, dtype=pl.UInt64)})
        frame = frame.join(answers, on="body", how="left", maintain_order="left")
        frame = frame.with_columns(pl.coalesce("e164", "asked").alias("e164"))
    return frame["e164"]


def _unwrapped(text: pl.Expr) -> pl.Expr:
    """The user part of a URI or name-addr (RFC 3261 s.20.10, RFC 3966), without parameters."""
    inner = pl.coalesce(text.str.extract(r"<([^>]*)>"), text)
    uri = inner.str.extract(r"(?i)^\s*(?:sips?|tel):([^@;?]*)")
    return pl.coalesce(uri, inner.str.extract(r"^([^;]*)"), inner).str.strip_chars(" \t")


def _bodies(frame: pl.DataFrame, digits: pl.Expr) -> pl.Series:
    return frame.select(pl.when(digits.str.contains(r"^\+?[0-9]+$")).then(digits).alias("body"))["body"]


def _distinct(text: pl.Series, rules: NumberRules) -> pl.DataFrame:
    """Columns ``text``, ``e164``, ``raw`` of distinct texts."""
    frame = pl.DataFrame({"text": text}).with_columns(_unwrapped(pl.col("text")).alias("user"))
    dialled = pl.col("user")
    if rules.strip_extensions:
        dialled = dialled.str.replace(_EXTENSION, "")
    digits = dialled.str.replace_all(_SEPARATORS, "")
    frame = frame.with_columns(digits.alias("digits"))
    decided = _decide(_bodies(frame, pl.col("digits")), rules)
    for prefix in rules.prefixes:
        # What is left behind a prefix that the profile declares goes before the number as written.
        left = pl.when(pl.col("digits").str.starts_with(prefix)).then(pl.col("digits").str.slice(len(prefix)))
        behind = _decide(_bodies(frame, left), rules)
        decided = behind.zip_with(behind.is_not_null(), decided)
    plain = pl.col("user").str.replace_all(r"[+().\-/ \t]", "")
    raw: pl.Expr = pl.when(pl.col("user").str.contains(_NUMERIC) & (plain != "")).then(plain)
    raw = pl.coalesce(raw, pl.col("user").str.strip_chars_start("+"))
    return frame.with_columns(e164=decided).select(
        "text", "e164", pl.when(pl.col("e164").is_null() & (raw != "")).then(raw).alias("raw")
    )


def read_numbers(text: pl.Series, rules: NumberRules) -> Numbers:
    """Read a column of numbers.

    Args:
        text: String series, null where nothing was written: digits in any usual form, or a sip: or tel: URI.
        rules: the profile's.
    """
    frame = pl.DataFrame({"text": text})
    # A prefix could hide in what looks like a number, so then only + is certain.
    national = rules.north_american and not rules.prefixes
    frame = frame.with_columns(_nanp(pl.col("text"), national).alias("e164"))
    rest = frame.filter(pl.col("e164").is_null() & pl.col("text").is_not_null())["text"]
    if not len(rest):
        return Numbers(frame["e164"], nulls(len(text), pl.String()))
    known = _distinct(rest.unique(), rules)
    joined = frame.join(known, on="text", how="left", maintain_order="left")
    return Numbers(joined.select(pl.coalesce("e164", "e164_right").alias("e164"))["e164"], joined["raw"])


def first_number(columns: list[Numbers]) -> Numbers:
    """Return for each row the first that is E.164, else the first that was written at all."""
    if len(columns) == 1:
        return columns[0]
    frame = pl.DataFrame(
        {f"e{i}": c.e164 for i, c in enumerate(columns)} | {f"r{i}": c.raw for i, c in enumerate(columns)}
    )
    places = range(len(columns))
    e164 = pl.coalesce([f"e{i}" for i in places])
    raw = pl.when(e164.is_null()).then(pl.coalesce([f"r{i}" for i in places]))
    done = frame.select(e164.alias("e164"), raw.alias("raw"))
    return Numbers(done["e164"], done["raw"])


def routing_text(numbers: Numbers) -> pl.Series:
    """Return numbers as text (a routing number): ``+`` and E.164 digits, else the raw text."""
    frame = pl.DataFrame({"e": numbers.e164, "r": numbers.raw})
    return frame.select(pl.coalesce(pl.format("+{}", pl.col("e")), pl.col("r")).alias("text"))["text"]
