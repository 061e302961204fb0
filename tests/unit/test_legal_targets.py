"""Targets in every form in which they are written, and what is refused rather than guessed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.legal.guardfile import BYTES_MAX, load_guarded
from proxy.legal.targets import (
    GuardedError,
    RefusedFor,
    RefusedTarget,
    Targets,
    read_guarded,
    read_targets,
)
from proxy.policy.extraction import Target, TargetKind

NUMBER = 12125550100
FORMS = [
    "+12125550100",
    "12125550100",
    "2125550100",
    "212-555-0100",
    "1-212-555-0100",
    "(212) 555-0100",
    "1 (212) 555-0100",
    "+1 (212) 555-0100",
    "+1.212.555.0100",
    "212.555.0100",
    "212 555 0100",
    "212/555/0100",
    "  +1 212 555 0100\t",
    "number: 212-555-0100",
    "Number:+12125550100",
    "tel:+12125550100",
    "tel:+1-212-555-0100",
    "TEL:+1(212)555-0100",
    "sip:+12125550100@192.0.2.1",
    "sips:+12125550100@carrier.example:5061;transport=tls",
    "sip:2125550100@carrier.example;user=phone",
    "sip:12125550100;npdi=yes@carrier.example",
    "sip:%2B12125550100@carrier.example",
    "<sip:+12125550100@carrier.example;user=phone>",
    '"Doe, J. #4" <sip:+12125550100@carrier.example>;tag=9fxced76sl',
    "<tel:+12125550100>",
    "01112125550100",
    "212‑555‑0100",  # U+2011
    "212–555—0100",  # dashes of a word processor
    "(212)\u00a0555\u20110100",
    "\u202d+12125550100\u202c",  # as copied from an address book
    "\ufeff+1\u200b2125550100",
    "＋12125550100",
]


@pytest.mark.parametrize("text", FORMS)
def test_one_number_in_every_form(text: str) -> None:
    read = read_targets([text])
    assert read.targets == Targets(numbers=(NUMBER,)), read
    assert not read.refused
    assert read.given == 1


def test_all_forms_are_one_target() -> None:
    read = read_targets(FORMS)
    assert len(read.targets) == 1
    assert read.given == len(FORMS)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+44 20 7946 0018", 442079460018),
        ("+44 (0)20 7946 0018", 442079460018),
        ("011 44 20 7946 0018", 442079460018),
        ("sip:+442079460018@carrier.example", 442079460018),
        ("tel:+44-20-7946-0018", 442079460018),
    ],
)
def test_abroad(text: str, number: int) -> None:
    assert read_targets([text]).targets.numbers == (number,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("212-555-0100 x12", RefusedFor.EXTENSION),
        ("212-555-0100x12", RefusedFor.EXTENSION),
        ("212-555-0100 ext 12", RefusedFor.EXTENSION),
        ("212-555-0100, ext. 12", RefusedFor.EXTENSION),
        ("(212) 555-0100 Extension: 12", RefusedFor.EXTENSION),
        ("212-555-0100 #12", RefusedFor.EXTENSION),
        ("212-555-0100,12", RefusedFor.EXTENSION),
        ("+12125550100;ext=12", RefusedFor.EXTENSION),
        ("tel:+1-212-555-0100;ext=12", RefusedFor.EXTENSION),
        ("tel:+12125550100;isub=12", RefusedFor.EXTENSION),
        ("sip:+12125550100;ext=12@carrier.example", RefusedFor.EXTENSION),
        ("tel:5550100;phone-context=+1212", RefusedFor.EXTENSION),
        ("555-0100", RefusedFor.NOT_A_NUMBER),  # no area code
        ("5550100", RefusedFor.NOT_A_NUMBER),
        ("112-555-0100", RefusedFor.NOT_A_NUMBER),
        ("212-155-0100", RefusedFor.NOT_A_NUMBER),
        ("2125550100/0101", RefusedFor.NOT_A_NUMBER),  # two in one
        ("2125550100 2125550101", RefusedFor.NOT_A_NUMBER),
        ("2125550100-2125550199", RefusedFor.NOT_A_NUMBER),  # a range
        ("212555010*", RefusedFor.NOT_A_NUMBER),
        ("212555010?", RefusedFor.NOT_A_NUMBER),
        ("+1212555", RefusedFor.NOT_A_NUMBER),
        ("+121255501000", RefusedFor.NOT_A_NUMBER),
        ("911", RefusedFor.NOT_A_NUMBER),
        ("anonymous", RefusedFor.NOT_A_NUMBER),
        ("1-800-FLOWERS", RefusedFor.NOT_A_NUMBER),
        ("sip:alice@carrier.example", RefusedFor.NOT_A_NUMBER),
        ("sip:12125550100:secret@carrier.example", RefusedFor.NOT_A_NUMBER),
        ("mailto:alice@carrier.example", RefusedFor.NOT_A_NUMBER),
        ("https://carrier.example/12125550100", RefusedFor.NOT_A_NUMBER),
        ("٢١٢٥٥٥٠١٠٠", RefusedFor.NOT_A_NUMBER),  # digits, and none of ASCII's
        ("212555010\ud800", RefusedFor.NOT_A_NUMBER),
        ("account:\udfff", RefusedFor.NOT_A_NAME),
        ("212-555-0100 (John Doe)", RefusedFor.NOT_A_NUMBER),
        ("x" * 257, RefusedFor.TOO_LONG),
        ("1" * 2_000_000, RefusedFor.TOO_LONG),
        ("imei:490154203237518", RefusedFor.NOT_SEARCHABLE),
        ("account:", RefusedFor.EMPTY),
        ("account:" + "a" * 65, RefusedFor.NOT_A_NAME),
        ("account:a\nb", RefusedFor.NOT_A_NAME),
        ("trunk:a\x00", RefusedFor.NOT_A_NAME),
        ("imsi:31015012345678", ""),
        ("imsi:3101501234567", RefusedFor.NOT_AN_IMSI),
        ("imsi:3101501234567890", RefusedFor.NOT_AN_IMSI),
        ("imsi:310-150-123456789", RefusedFor.NOT_AN_IMSI),
        ("imsi:٣١٠١٥٠١٢٣٤٥٦٧٨", RefusedFor.NOT_AN_IMSI),
    ],
)
def test_what_is_refused_is_named_by_place(text: str, reason: str) -> None:
    read = read_targets(["2125550199", "", text])
    if reason:
        assert read.refused == (RefusedTarget(3, RefusedFor(reason)),)
        assert read.targets == Targets(numbers=(12125550199,))
        assert read.facts().refused == (3,)
    else:
        assert not read.refused
    assert read.given == 2
    assert text not in repr(read.refused)


def test_other_kinds_are_taken_as_they_are_written() -> None:
    read = read_targets(["account: 00-17/A", "ACCOUNT:00-17/A", "trunk:TG-100", "imsi: 310150123456789", "account:é x"])
    assert read.targets == Targets(accounts=("00-17/A", "é x"), trunks=("TG-100",), imsis=("310150123456789",))
    assert read.targets.kinds == {"account", "trunk", "imsi"}
    assert len(read.targets) == 4


def test_nothing_is_nothing() -> None:
    for texts in ([], [""], [" ", "\t\n", "\u00a0"]):
        read = read_targets(texts)
        assert (len(read.targets), read.given, read.refused) == (0, 0, ())


def test_a_hundred_thousand_are_read_fast_and_each_once() -> None:
    numbers = [f"({200 + n // 1000}) {200 + n % 700}-{n % 10_000:04d}" for n in range(100_000)]
    started = time.perf_counter()
    read = read_targets([*numbers, *numbers[:1000]])
    took = time.perf_counter() - started
    assert not read.refused
    assert read.given == 101_000
    assert list(read.targets.numbers) == sorted({int("1" + "".join(c for c in n if c.isdigit())) for n in numbers})
    assert took < 5  # about 0.4 s
    assert Targets.of(read.targets.targets()) == read.targets


def test_a_digest_is_of_the_set_and_a_salt_hides_it() -> None:
    first = read_targets(["212-555-0101", "account:a", "2125550100"]).targets
    again = read_targets(["+12125550100", "+12125550101", "account:a", "account:a"]).targets
    assert first == again
    assert first.digest() == again.digest()
    assert first.digest(b"salt") != first.digest()
    others = [["+12125550100"], ["account:a"], ["trunk:a"], ["account:a", "trunk:a"], ["account:12125550100"]]
    assert len({read_targets(o).targets.digest() for o in others}) == len(others)


def test_a_list_is_narrowed_never_widened() -> None:
    whole = read_targets(["2125550100", "2125550101", "account:a", "trunk:t", "imsi:310150123456789"]).targets
    assert whole.within(whole)
    assert read_targets(["2125550101", "trunk:t"]).targets.within(whole)
    for other in ("2125550102", "account:t", "trunk:a", "imsi:310150123456780"):
        assert not read_targets(["2125550101", other]).targets.within(whole)


def test_targets_go_to_an_extraction_and_back() -> None:
    read = read_targets(["+442079460018", "2125550100", "trunk:t", "account:b", "account:a", "imsi:310150123456789"])
    given = read.targets.targets()
    assert list(given) == sorted(given)
    assert Target(TargetKind.NUMBER, "+12125550100") in given
    assert Targets.of(given) == read.targets


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.lists(st.from_regex(r"\+1[2-9][0-9]{2}555[0-9]{4}|(account|trunk):[a-z]{1,5}|imsi:[0-9]{15}", fullmatch=True))
)
def test_canonical_lines_read_back(texts: list[str]) -> None:
    targets = read_targets(texts).targets
    assert len(targets) == len(set(texts))
    assert read_targets(list(targets.lines())).targets == targets
    assert Targets.of(targets.targets()) == targets


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.text(max_size=40), max_size=6))
def test_anything_is_read_or_refused(texts: list[str]) -> None:
    read = read_targets(texts)
    assert read.given <= len(texts)
    assert {x.place for x in read.refused} <= set(range(1, len(texts) + 1))
    assert len(read.targets) <= read.given - len(read.refused)


class TestGuarded:
    """Numbers of police and courts are flagged; the list is the operator's."""

    LIST = ("# the county's", "+12125550110,police", "(212) 555-0111 , court  # clerk", "", "+1212556*,police")

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("2125550110", "police"),
            ("sip:+12125550111@carrier.example", "court"),
            ("212-556-0150", "police"),
            ("212-555-0112", None),
            ("account:2125550110", None),
        ],
    )
    def test_flagged(self, text: str, kind: str | None) -> None:
        read = read_targets(["2125550100", text], read_guarded(self.LIST))
        assert read.guarded == (() if kind is None else (2,))
        assert read.guarded_kinds == (() if kind is None else (kind,))
        assert read.facts().guarded == read.guarded
        assert len(read.targets) == 2  # flagged, not refused

    @pytest.mark.parametrize(
        "line",
        ["+12125550110", "+12125550110,", "+12125550110,Police!", "x,police", "5550110,police", "account:a,police",
         "+*,police", "+1*,police", "*,police"],
    )  # fmt: skip
    def test_a_bad_line_is_named(self, line: str) -> None:
        with pytest.raises(GuardedError, match="line 2") as caught:
            read_guarded(["+12125550110,police", line])
        assert "5550110" not in str(caught.value)

    def test_no_list_flags_nobody(self) -> None:
        assert read_targets(["2125550110"]).guarded == ()


class TestGuardFile:
    """A list that cannot be read is an error, never an empty list."""

    def test_one(self, tmp_path: Path) -> None:
        file = tmp_path / "guarded"
        file.write_text("+12125550110,police\n\n# none\n")
        assert load_guarded(file).kind(12125550110) == "police"
        assert load_guarded(None).kind(12125550110) is None

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"\xff\n", "not UTF-8"),
            (b"+12125550110\n", "line 1"),
            (b"#" * (BYTES_MAX + 1), "16 MiB"),
            (None, "No such"),
        ],
    )
    def test_none(self, tmp_path: Path, data: bytes | None, says: str) -> None:
        file = tmp_path / "guarded"
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(GuardedError, match=says) as caught:
            load_guarded(file)
        assert str(caught.value).count(str(file)) == 1

    def test_ten_thousand_lines_are_read_in_time(self) -> None:
        lines = [f"+1{200 + n // 100}55501{n % 100:02d},police" for n in range(10_000)]
        started = time.perf_counter()
        assert len(read_guarded(lines).numbers) == 10_000
        assert time.perf_counter() - started < 5
