"""Opaque record ids: a carrier's own, telling nothing, and ours to turn back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.disclosure.recordids import RecordIds

SECRET = bytes(range(32))
quick = settings(max_examples=40, deadline=None, database=None)


def ids(secret: bytes, carrier: str, numbers: list[int]) -> list[str]:
    made = RecordIds(secret, carrier).hexadecimal(np.array(numbers, np.int64))
    return [bytes(row).decode() for row in made]


def test_a_fixed_value() -> None:
    """Ids are in carriers' own systems: the same record keeps its id for as long as the secret lives."""
    assert ids(SECRET, "carrier-a", [1, 2**40]) == [FIXED[1], FIXED[2**40]]


FIXED = {1: "70fe756258b4265e3b53edf554c28b2d", 2**40: "c3154edc835c3289628f58f7ae8ea8a1"}
"""AES-256 of 16 bytes, big-endian, under HKDF-SHA-256 (secret, info "tollgate record ids 1" 00 carrier)."""


@quick
@given(st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=40))
def test_the_key_turns_them_back(numbers: list[int]) -> None:
    made = ids(SECRET, "carrier-a", numbers)
    assert len(set(made)) == len(numbers)
    assert all(len(t) == 32 and set(t) <= set("0123456789abcdef") for t in made)
    assert [RecordIds(SECRET, "carrier-a").sequence(t) for t in made] == numbers


def test_another_carrier_or_secret_cannot() -> None:
    mine = ids(SECRET, "carrier-a", list(range(100)))
    for secret, carrier in ((SECRET, "carrier-b"), (bytes(32), "carrier-a")):
        other = RecordIds(secret, carrier)
        assert not set(mine) & set(ids(secret, carrier, list(range(100))))
        assert all(other.sequence(t) is None for t in mine)


def test_neighbours_tell_nothing() -> None:
    """Half of all bits differ between one id and the next, and their order is not the records'."""
    made = ids(SECRET, "carrier-a", list(range(1, 257)))
    bits = [(int(a, 16) ^ int(b, 16)).bit_count() for a, b in pairwise(made)]
    assert 60 < sum(bits) / len(bits) < 68
    assert made != sorted(made)


def test_what_is_no_id_is_none() -> None:
    mine = RecordIds(SECRET, "carrier-a")
    for text in ("", "zz", "00" * 15, "00" * 17, "00" * 16, "é" * 32, " " + "00" * 16):
        assert mine.sequence(text) is None
