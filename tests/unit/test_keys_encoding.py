"""Canonical base64url: one text for one value."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.encoding import EncodingError, b64url_decode, b64url_encode
from keys.provider import Period, check_name


@given(st.binary(max_size=70))
def test_round_trip(data: bytes) -> None:
    text = b64url_encode(data)
    assert "=" not in text
    assert b64url_decode(text) == data


@given(st.text(alphabet="ABCDEFabcdef0189-_+/= \n", max_size=9))
def test_whatever_decodes_is_what_encode_writes(text: str) -> None:
    try:
        data = b64url_decode(text)
    except EncodingError:
        return
    assert b64url_encode(data) == text


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA==",
        "AA=",
        "=",
        "AA AA",
        "AAAA\n",
        "\nAAAA",
        "AB",
        "AAB",
        "AA+A",
        "AA/A",
        "AA.A",
        "ÀAAA",
        "AAA\u0660",
    ],
)
def test_what_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        b64url_decode(text)


def test_rfc_4648_section_10() -> None:
    for plain in (b"", b"f", b"fo", b"foo", b"foob", b"fooba", b"foobar"):
        assert b64url_encode(plain) == base64.urlsafe_b64encode(plain).decode().rstrip("=")
    assert b64url_encode(b"foobar") == "Zm9vYmFy"
    assert b64url_encode(b"\xfb\xff") == "-_8"


@pytest.mark.parametrize(
    ("key_class", "month"),
    [("", 202611), ("Timing", 202611), ("a/b", 202611), ("a" * 49, 202611), ("timing\n", 202611)]
    + [("timing", m) for m in (0, -202611, 202600, 202613, 20261, 2026111)],
)
def test_a_period_is_a_word_and_a_month(key_class: str, month: int) -> None:
    with pytest.raises(ValueError, match="a "):
        Period(key_class, month)


def test_periods_sort_and_print() -> None:
    assert sorted([Period("tags", 202612), Period("tags", 202611), Period("parties", 203001)])[0].key_class == "parties"
    assert str(Period("log_actor", 202611)) == "log_actor/202611"


@pytest.mark.parametrize("name", ["", "A", "a b", "1a", "a" * 49, "../x"])
def test_a_name_is_a_word(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)
