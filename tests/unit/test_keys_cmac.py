"""CMAC in lockstep equals CMAC one by one, and the published vectors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import cmac
from keys.cmac import cmac_fixed, cmac_strings
from tests.support.keys import vectors

LENGTHS = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 48, 1000, 4096, 4097, 5000]
KEY = bytes(range(32))


def reference(key: bytes, value: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(value)
    return mac.finalize()


def packed(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
    return np.frombuffer(b"".join(values), np.uint8), offsets


def random_rows(n: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, width), dtype=np.uint8)


@pytest.mark.parametrize("vector", vectors("cmac.json")["vectors"], ids=lambda v: v["source"])
def test_published_vectors(vector: dict[str, str]) -> None:
    key, message, mac = (bytes.fromhex(vector[k]) for k in ("key", "message", "mac"))
    assert reference(key, message) == mac
    row = np.frombuffer(message, np.uint8)
    assert cmac_fixed(key, row.reshape(1, -1))[0].tobytes() == mac
    assert cmac_strings(key, row, np.array([0, row.size], np.int64))[0].tobytes() == mac
    for cut in range(len(message) + 1):
        rest = row[cut:]
        assert cmac_strings(key, rest, np.array([0, rest.size], np.int64), message[:cut])[0].tobytes() == mac


@pytest.mark.parametrize("key_length", [16, 24, 32])
@pytest.mark.parametrize("width", LENGTHS)
def test_fixed_equals_one_by_one(width: int, key_length: int) -> None:
    key = bytes(range(7, 7 + key_length))
    rows = random_rows(5, width)
    assert [r.tobytes() for r in cmac_fixed(key, rows)] == [reference(key, r.tobytes()) for r in rows]


@pytest.mark.parametrize("prefix_length", [0, 1, 8, 15, 16, 17, 31, 32, 33, 100])
def test_strings_equal_one_by_one_for_every_length(prefix_length: int) -> None:
    prefix = bytes(range(prefix_length))
    values = [random_rows(1, n, n).tobytes() for n in [*LENGTHS, *range(70), 0, 0, 1]]
    data, offsets = packed(values)
    assert [r.tobytes() for r in cmac_strings(KEY, data, offsets, prefix)] == [
        reference(KEY, prefix + v) for v in values
    ]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=12), st.binary(max_size=40), st.sampled_from([16, 24, 32]))
def test_strings_equal_one_by_one(values: list[bytes], prefix: bytes, key_length: int) -> None:
    key = bytes(range(key_length))
    data, offsets = packed(values)
    assert [r.tobytes() for r in cmac_strings(key, data, offsets, prefix)] == [
        reference(key, prefix + v) for v in values
    ]


def test_more_than_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmac, "_SLAB", 8)
    values = [random_rows(1, (i * 13) % 50 + (9000 if i % 11 == 3 else 0), i).tobytes() for i in range(60)]
    data, offsets = packed(values)
    assert [r.tobytes() for r in cmac_strings(KEY, data, offsets, b"p")] == [reference(KEY, b"p" + v) for v in values]
    rows = random_rows(29, 9)
    assert [r.tobytes() for r in cmac_fixed(KEY, rows)] == [reference(KEY, r.tobytes()) for r in rows]


def test_a_part_of_the_data_and_views() -> None:
    data = random_rows(1, 200)[0]
    offsets = np.array([50, 60, 60, 111], np.int64)
    expected = [reference(KEY, data[a:b].tobytes()) for a, b in ((50, 60), (60, 60), (60, 111))]
    assert [r.tobytes() for r in cmac_strings(KEY, data, offsets)] == expected
    spread = np.zeros(400, np.uint8)
    spread[::2] = data
    assert [r.tobytes() for r in cmac_strings(KEY, spread[::2], offsets)] == expected
    rows = random_rows(6, 40)
    columns = rows[::2, 3:20]
    assert [r.tobytes() for r in cmac_fixed(KEY, columns)] == [reference(KEY, r.tobytes()) for r in columns]
    assert [r.tobytes() for r in cmac_fixed(KEY, rows[:, 5:14])] == [reference(KEY, r.tobytes()) for r in rows[:, 5:14]]


def test_the_inputs_are_not_written_to() -> None:
    rows = random_rows(3, 16)
    before = rows.copy()
    cmac_fixed(KEY, rows)
    cmac_strings(KEY, rows.reshape(-1), np.arange(4, dtype=np.int64) * 16, b"x")
    assert (rows == before).all()


def test_nothing_gives_nothing() -> None:
    assert cmac_fixed(KEY, np.empty((0, 9), np.uint8)).shape == (0, 16)
    assert cmac_fixed(KEY, np.empty((0, 40), np.uint8)).shape == (0, 16)
    assert cmac_strings(KEY, np.empty(0, np.uint8), np.zeros(1, np.int64)).shape == (0, 16)
    empty = cmac_strings(KEY, np.empty(0, np.uint8), np.zeros(3, np.int64))
    assert [r.tobytes() for r in empty] == [reference(KEY, b"")] * 2


def test_one_long_value_does_not_make_all_others_long() -> None:
    """20,000 short values and one of 1 MiB: padded to one length they would take 20 GB."""
    values = [b"12345"] * 20_000 + [bytes(1 << 20)] + [b"6789"] * 20_000
    data, offsets = packed(values)
    tracemalloc.start()
    try:
        found = cmac_strings(KEY, data, offsets)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[20_000].tobytes() == reference(KEY, bytes(1 << 20))
    assert found[0].tobytes() == reference(KEY, b"12345")
    assert found[-1].tobytes() == reference(KEY, b"6789")
    assert peak < 32 << 20


@pytest.mark.parametrize(
    ("data", "offsets"),
    [
        (np.zeros(4, np.int64), np.array([0, 4], np.int64)),
        (np.zeros((2, 2), np.uint8), np.array([0, 4], np.int64)),
        (np.zeros(4, np.uint8), np.array([0, 5], np.int64)),
        (np.zeros(4, np.uint8), np.array([-1, 4], np.int64)),
        (np.zeros(4, np.uint8), np.array([0, 3, 2], np.int64)),
        (np.zeros(4, np.uint8), np.array([0, 4], np.int32)),
        (np.zeros(4, np.uint8), np.array([], np.int64)),
    ],
)
def test_wrong_arrays_are_refused(data: np.ndarray, offsets: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must"):
        cmac_strings(KEY, data, offsets)


def test_wrong_rows_and_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="two-dimensional"):
        cmac_fixed(KEY, np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="two-dimensional"):
        cmac_fixed(KEY, np.zeros((4, 4), np.int8))
    with pytest.raises(ValueError, match="key"):
        cmac_fixed(b"short", np.zeros((1, 1), np.uint8))
