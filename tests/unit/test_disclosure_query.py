"""The strict reading of questions: every refusal names its parameter, none echoes what was sent."""

from __future__ import annotations

import contextlib
import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.disclosure.query import MAX_WINDOW_DAYS, QueryError, read_pull, read_search, read_time, write_time

MAX_ROWS = 5_000_000
FROM, TO = ("from", "2026-10-01T00:00:00Z"), ("to", "2026-11-01T00:00:00Z")
BODY = {"number": "+12025550100", "from": FROM[1], "to": TO[1]}


def test_a_whole_question() -> None:
    asked = read_pull([FROM, TO, ("direction", "ingress"), ("received_after", "abc"), ("limit", "17")], MAX_ROWS)
    assert asked.window is not None
    assert write_time(asked.window.start_us) == FROM[1]
    assert write_time(asked.window.end_us) == TO[1]
    assert (asked.window.direction, asked.window.received_after, asked.window.number) == ("ingress", "abc", None)
    assert (asked.limit, asked.cursor) == (17, None)


def test_without_options_no_direction_and_no_limit() -> None:
    asked = read_pull([FROM, TO], MAX_ROWS)
    assert asked.window is not None
    assert (asked.window.direction, asked.window.received_after, asked.limit) == (None, None, None)


def test_an_offset_is_taken_into_account() -> None:
    assert read_time("2026-10-01T02:30:00+02:30") == read_time("2026-10-01T00:00:00Z")
    assert read_time("2026-09-30t20:00:00.25-04:00") == (read_time("2026-10-01T00:00:00z") or 0) + 250_000


@pytest.mark.parametrize(
    ("pairs", "parameter"),
    [
        ([TO], "from"),
        ([FROM], "to"),
        ([FROM, FROM, TO], "from"),
        ([FROM, TO, ("limit", "1"), ("limit", "1")], "limit"),
        ([FROM, TO, ("number", "+12025550100")], ""),
        ([FROM, TO, ("access_token", "x")], ""),
        ([FROM, TO, ("egress_ocn", "123A")], ""),
        ([FROM, TO, ("From", "x")], ""),
        ([("from", TO[1]), ("to", FROM[1])], "to"),
        ([FROM, ("to", FROM[1])], "to"),
        ([("from", "2001-01-01T00:00:00Z"), ("to", "2099-01-01T00:00:00Z")], "to"),
        ([("from", "2026-10-01"), TO], "from"),
        ([("from", "2026-10-01T00:00:00"), TO], "from"),
        ([("from", "2026-10-01 00:00:00Z"), TO], "from"),
        ([("from", "2026-10-01T00:00:00 02:00"), TO], "from"),
        ([("from", "2026-02-30T00:00:00Z"), TO], "from"),
        ([("from", "2026-10-01T24:00:00Z"), TO], "from"),
        ([("from", "2026-10-01T00:00:60Z"), TO], "from"),
        ([("from", "2026-10-01T00:00:00.1234567Z"), TO], "from"),
        ([("from", "2026-10-01T00:00:00+24:00"), TO], "from"),
        ([("from", "0001-01-01T00:00:00+23:59"), TO], "from"),
        ([("from", "9999-12-31T23:59:59-23:59"), TO], "from"),
        ([("from", "٢٠٢٦-10-01T00:00:00Z"), TO], "from"),
        ([FROM, TO, ("direction", "sideways")], "direction"),
        ([FROM, TO, ("direction", "")], "direction"),
        *[
            ([FROM, TO, ("limit", text)], "limit")
            for text in ("0", "-1", "1e3", "01", "", "5000001", "1000000000000000000", "１", "1.0", " 1")
        ],
        ([FROM, TO, ("received_after", "a b")], "received_after"),
        ([FROM, TO, ("received_after", "")], "received_after"),
        ([("cursor", "abc"), FROM], "from"),
        ([("cursor", "abc"), ("received_after", "x")], "received_after"),
        ([("cursor", "a=b")], "cursor"),
        ([("cursor", "a" * 5000)], "cursor"),
        ([], "from"),
    ],
)
def test_a_wrong_parameter_is_named(pairs: list[tuple[str, str]], parameter: str) -> None:
    with pytest.raises(QueryError) as error:
        read_pull(pairs, MAX_ROWS)
    assert error.value.parameter == parameter
    assert error.value.says.endswith(".")


def test_the_longest_window_is_taken_and_one_microsecond_more_is_not() -> None:
    start = read_time("2025-01-01T00:00:00Z")
    assert start is not None
    end = start + MAX_WINDOW_DAYS * 86_400_000_000
    read_pull([("from", write_time(start)), ("to", write_time(end))], MAX_ROWS)
    with pytest.raises(QueryError) as error:
        read_pull([("from", write_time(start)), ("to", write_time(end + 1))], MAX_ROWS)
    assert error.value.parameter == "to"


def test_a_cursor_stands_alone_but_for_a_limit() -> None:
    asked = read_pull([("cursor", "abc"), ("limit", "5")], MAX_ROWS)
    assert (asked.window, asked.cursor, asked.limit) == (None, "abc", 5)
    assert read_search(b'{"cursor":"abc","limit":5}', MAX_ROWS) == asked


def test_a_search() -> None:
    asked = read_search(json.dumps(BODY | {"limit": 3, "direction": "egress"}).encode(), MAX_ROWS)
    assert asked.window is not None
    assert (asked.window.number, asked.window.direction, asked.limit) == ("+12025550100", "egress", 3)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"null", ""),
        (b"{", ""),
        (b"\xef\xbb\xbf{}", ""),
        (b"\xff", ""),
        (b"[" * 60_000, ""),
        (b'{"limit":' + b"9" * 5_000 + b"}", ""),
        (b'{"limit":NaN}', ""),
        (json.dumps(BODY | {"called": "x"}).encode(), ""),
        (json.dumps(BODY | {"number": 12025550100}).encode(), "number"),
        (json.dumps(BODY | {"number": None}).encode(), "number"),
        (json.dumps(BODY | {"number": ["+12025550100"]}).encode(), "number"),
        *[
            (json.dumps(BODY | {"number": text}).encode(), "number")
            for text in ("", "12025550100", "+1", "+02025550100", "+1 202 555 0100", "+1202555010" * 2, "+1٢02555010")
        ],
        (json.dumps({k: v for k, v in BODY.items() if k != "number"}).encode(), "number"),
        (json.dumps({k: v for k, v in BODY.items() if k != "to"}).encode(), "to"),
        (json.dumps(BODY | {"limit": True}).encode(), "limit"),
        (json.dumps(BODY | {"limit": "1"}).encode(), "limit"),
        (json.dumps(BODY | {"limit": 1.0}).encode(), "limit"),
        (json.dumps(BODY | {"limit": 0}).encode(), "limit"),
        (json.dumps(BODY | {"limit": 10**18}).encode(), "limit"),
        (json.dumps(BODY | {"direction": 1}).encode(), "direction"),
        (json.dumps(BODY | {"cursor": "abc"}).encode(), "from"),
        (b'{"number":"+12025550100","number":"+12025550101"}', "number"),
        (b'{"a":{"x":1,"x":1}}', ""),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, parameter: str) -> None:
    with pytest.raises(QueryError) as error:
        read_search(body, MAX_ROWS)
    assert error.value.parameter == parameter


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["from", "to", "limit", "cursor", "x"]), st.text(max_size=30)), max_size=5))
def test_no_query_fails_otherwise_than_by_name_and_none_is_echoed(pairs: list[tuple[str, str]]) -> None:
    try:
        asked = read_pull(pairs, MAX_ROWS)
    except QueryError as error:
        _never_echoed(error, "".join(value for _, value in pairs))
    else:
        assert asked.cursor, "of such texts only a cursor can be well formed"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.text(alphabet='{}[]":,+truefalsn0189 ', max_size=60).map(str.encode))
def test_no_body_fails_otherwise_than_by_name(body: bytes) -> None:
    with contextlib.suppress(QueryError):
        assert read_search(body, MAX_ROWS).cursor


def _never_echoed(error: QueryError, sent: str) -> None:
    odd = set(sent) - set(string.printable)
    assert not odd & set(error.says + error.parameter)


@settings(max_examples=200, deadline=None)
@given(st.integers(946_684_800_000_000, 4_133_980_800_000_000))
def test_times_round_trip(moment: int) -> None:
    assert read_time(write_time(moment)) == moment
