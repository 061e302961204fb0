"""Cursors: bound to their client and kind, tight against change, silent about how much we hold."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.encoding import b64url_decode, b64url_encode
from proxy.disclosure.cursors import Cursor, CursorError, Sealer
from proxy.disclosure.plan import Place
from proxy.disclosure.scope import Position

SEALER = Sealer(bytes(range(32)))
CURSOR = Cursor(
    start_us=1_790_000_000_000_000,
    end_us=1_792_000_000_000_000,
    direction="both",
    number=None,
    after_id=0,
    as_of=123_456_789,
    digest="d" * 32,
    place=Place(1, Position(202610, 7, 2**61)),
    rows=99,
)


@pytest.mark.parametrize("cursor", [CURSOR, dataclasses.replace(CURSOR, place=None, number="+12025550100")])
def test_round_trip(cursor: Cursor) -> None:
    assert SEALER.open_cursor("client-a", SEALER.cursor("client-a", cursor)) == cursor
    assert SEALER.open_mark("client-a", SEALER.mark("client-a", 2**62)) == 2**62


def test_bound_to_client_kind_and_secret() -> None:
    cursor, mark = SEALER.cursor("client-a", CURSOR), SEALER.mark("client-a", 5)
    for attempt in (
        lambda: SEALER.open_cursor("client-b", cursor),
        lambda: SEALER.open_mark("client-b", mark),
        lambda: SEALER.open_cursor("client-a", mark),
        lambda: SEALER.open_mark("client-a", cursor),
        lambda: Sealer(bytes(32)).open_cursor("client-a", cursor),
        lambda: SEALER.open_cursor("client-a", ""),
        lambda: SEALER.open_cursor("client-a", cursor + "="),
        lambda: SEALER.open_cursor("client-a", cursor[:-4]),
    ):
        with pytest.raises(CursorError):
            attempt()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(b64url_decode(SEALER.cursor("client-a", CURSOR)))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CursorError):
        SEALER.open_cursor("client-a", b64url_encode(bytes(sealed)))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_opens_or_fails_otherwise(text: str) -> None:
    with pytest.raises(CursorError):
        SEALER.open_cursor("client-a", text)


def test_two_of_the_same_differ_and_length_tells_no_volume() -> None:
    assert SEALER.mark("client-a", 5) != SEALER.mark("client-a", 5)
    assert len(SEALER.mark("client-a", 5)) == len(SEALER.mark("client-a", 2**62))
    small = dataclasses.replace(CURSOR, as_of=1, rows=1, place=Place(0, Position(202610, 1, 1)))
    assert len(SEALER.cursor("client-a", CURSOR)) == len(SEALER.cursor("client-a", small))
