"""Telephone numbers: what is one, what stays raw, and that the fast path decides as phonenumbers does."""

from __future__ import annotations

import phonenumbers
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.formats.numbers import NumberRules, first_number, read_numbers, routing_text

US = NumberRules("US")
STRIP = NumberRules("US", strip_extensions=True)
NONE = NumberRules()


def read(text: str | None, rules: NumberRules = US) -> tuple[int | None, str | None]:
    """Read one text, among others that must not change its outcome."""
    around = ["+12125550100", None, "(212) 555-0101", "anonymous"]
    numbers = read_numbers(pl.Series([*around, text, text], dtype=pl.String), rules)
    assert (numbers.e164.dtype, numbers.raw.dtype) == (pl.UInt64, pl.String)
    assert numbers.e164[4] == numbers.e164[5]
    alone = read_numbers(pl.Series([text], dtype=pl.String), rules)
    found = (alone.e164[0], alone.raw[0])
    assert found == (numbers.e164[4], numbers.raw[4])
    return found


@pytest.mark.parametrize(
    "text",
    [
        "+12125550100",
        "12125550100",
        "2125550100",
        "212-555-0100",
        "212.555.0100",
        "(212)555-0100",
        "(212) 555 0100",
        "+1-212-555-0100",
        "1-212-555-0100",
        "+1 (212) 555/0100",
        "sip:+12125550100@127.0.1.1",
        "sips:2125550100@example.net;user=phone",
        "tel:+1-212-555-0100",
        '"Example Caller" <sip:+12125550100@127.0.1.1;user=phone>;tag=1',
        "+12125550100;npdi;rn=+12125550199",
        "<tel:+12125550100;verstat=TN-Validation-Passed>",
        "01112125550100",
    ],
)
def test_north_american_forms(text: str) -> None:
    assert read(text) == (12125550100, None)


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("5550100", "5550100"),
        ("555-0100", "5550100"),
        ("911", "911"),
        ("0", "0"),
        ("*67", "*67"),
        ("0125550100", "0125550100"),  # no area code begins with 0
        ("1125550100", "1125550100"),
        ("2120550100", "2120550100"),  # nor an exchange
        ("+11125550100", "11125550100"),
        ("+1212555010", "1212555010"),
        ("+121255501000", "121255501000"),
        ("22125550100", "22125550100"),
        ("+0123456789", "0123456789"),
        ("+99912345678", "99912345678"),
        ("+1234567890123456", "1234567890123456"),
        ("99999999999999999999999999", "99999999999999999999999999"),
        ("++12125550100", "12125550100"),
        ("212+5550100", "2125550100"),
        ("2125550100x52643", "2125550100x52643"),
        ("anonymous", "anonymous"),
        ("Anonymous", "Anonymous"),
        ("sip:anonymous@anonymous.invalid", "anonymous"),
        ("unknown-caller", "unknown-caller"),
        ("1-800-EXAMPLE", "1-800-EXAMPLE"),  # letters are not turned into digits
        ("+alice", "alice"),
        ("２１２5550100", "２１２5550100"),  # nor other scripts' digits
        ("-", "-"),
        ("tel:5550100;phone-context=+1212", "5550100"),
    ],
)
def test_what_is_no_number_keeps_what_was_written(text: str, raw: str) -> None:
    assert read(text) == (None, raw)


def test_nothing_written() -> None:
    for text in (None, "+", ""):
        assert read(text) == (None, None)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("+442079460000", 442079460000),
        ("011442079460000", 442079460000),
        ("011 44 20 7946 0000", 442079460000),
        ("+44 (0)20 7946 0000", 442079460000),  # phonenumbers drops the national prefix
        ("+4930123456", 4930123456),
        ("+390612345678", 390612345678),  # in Italy the 0 is part of the number
        ("+5511912345678", 5511912345678),
        ("+35312345678", 35312345678),
        ("+80012345678", 80012345678),
    ],
)
def test_abroad(text: str, digits: int) -> None:
    assert read(text) == (digits, None)


def test_extensions() -> None:
    for text in ("212-555-0100 x52643", "2125550100x5", "(212)555-0100 ext. 12", "1-212-555-0100 X1"):
        assert read(text, STRIP) == (12125550100, None)
        assert read(text, US)[0] is None
    # Stripping is for numbers; where none is left, nothing is lost.
    assert read("024.567.2543 x427", STRIP) == (None, "0245672543x427")
    assert read("x427", STRIP) == (None, "x427")


def test_no_region_means_only_plus_is_e164() -> None:
    assert read("+12125550100", NONE) == (12125550100, None)
    for text in ("2125550100", "12125550100", "442079460000", "011442079460000"):
        assert read(text, NONE) == (None, text)


def test_another_region() -> None:
    rules = NumberRules("GB")
    assert read("020 7946 0000", rules) == (442079460000, None)
    assert read("0012125550100", rules) == (12125550100, None)
    assert read("2125550100", NumberRules("CA")) == (12125550100, None)


def test_prefixes() -> None:
    rules = NumberRules("US", prefixes=("1010288", "99#", "9"))
    for text in ("101028812125550100", "99#2125550100", "912125550100", "99#+12125550100", "2125550100"):
        assert read(text, rules) == (12125550100, None)
    assert read("9175550100", rules) == (19175550100, None)  # behind the 9 is no number: as written
    assert read("9911", rules) == (None, "9911")  # not mended to 911


def test_the_first_usable_wins() -> None:
    columns = [
        read_numbers(pl.Series(texts, dtype=pl.String), US)
        for texts in (["anonymous", None, None, "5550100"], ["2125550100", "5550101", None, "5550101"])
    ]
    chosen = first_number(columns)
    assert chosen.e164.to_list() == [12125550100, None, None, None]
    assert chosen.raw.to_list() == [None, "5550101", None, "5550100"]
    assert routing_text(chosen).to_list() == ["+12125550100", "5550101", None, "5550100"]


def oracle(text: str, region: str) -> int | None:
    """What phonenumbers says alone, with the shape of the North American plan."""
    if region == "US" and not text.startswith(("+", "011")) and len(text) not in (10, 11):
        return None  # the library drops a second leading 1; a number written wrongly is kept as it is, never fixed
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]
    national = digits[1:]
    if number.country_code == 1 and not (len(national) == 10 and national[0] >= "2" and national[3] >= "2"):
        return None
    return int(digits) if len(digits) <= 15 else None


CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
DIGITS = st.text("0123456789", min_size=1, max_size=16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(lambda c, d: f"+{c}{d}", st.sampled_from(CODES), DIGITS), min_size=20, max_size=60))
def test_the_fast_path_decides_as_phonenumbers_does_abroad(texts: list[str]) -> None:
    found = read_numbers(pl.Series(texts), US).e164.to_list()
    assert dict(zip(texts, found, strict=True)) == {t: oracle(t, "US") for t in texts}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("0123456789", min_size=7, max_size=13), min_size=20, max_size=60))
def test_the_fast_path_decides_as_phonenumbers_does_at_home(texts: list[str]) -> None:
    found = read_numbers(pl.Series(texts), US)
    assert dict(zip(texts, found.e164.to_list(), strict=True)) == {t: oracle(t, "US") for t in texts}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=20), st.sampled_from([US, STRIP, NONE, NumberRules("GB")]))
def test_any_text_is_a_number_or_raw_and_raw_never_begins_with_plus(texts: list[str], rules: NumberRules) -> None:
    numbers = read_numbers(pl.Series(texts, dtype=pl.String), rules)
    for text, e164, raw in zip(texts, numbers.e164, numbers.raw, strict=True):
        assert e164 is None or raw is None
        assert raw is None or (raw != "" and not raw.startswith("+"))
        if e164 is None and raw is None:
            assert not any(c.isalnum() for c in text) or any(c in text for c in "<;:@?")
