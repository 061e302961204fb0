"""The pure parts: details, nonces, clock, forms, URLs, JSON, times."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Config, ConfigError
from proxy.oauth import details, dpop, form, jws, tokens
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.errors import REASONS, AuthError, Refused
from proxy.oauth.http import _check
from proxy.oauth.nonces import SLOT_S, Nonces
from tests.support.oauth import new_key, proof

OWNED = ("123A", "123B")
ALL = ("timing", "parties", "routing", "ingress_leg", "egress_leg")
GOOD: dict[str, Any] = {"type": "cdr_billing"}


def narrow(value: object) -> details.Details:
    return details.narrow(details.read(json.dumps(value)), OWNED)


def test_without_details_everything_is_granted() -> None:
    got = details.narrow(details.Wanted(), OWNED)
    assert got == details.Details(OWNED, ("ingress", "egress"), ALL, None, None)
    assert narrow([GOOD]) == got


def test_one_direction_leaves_the_other_leg_out() -> None:
    assert narrow([{**GOOD, "directions": ["egress"]}]).classes == ("timing", "parties", "routing", "egress_leg")


@pytest.mark.parametrize(
    "value",
    [
        None, {}, [], "x", 7, [GOOD, GOOD], [None], [[]], [{}], {"type": "cdr_billing"},
        [{"type": "cdr_legal"}], [{"type": ["cdr_billing"]}], [{"type": None}], [{"ocns": ["123A"]}],
        [{**GOOD, "purpose": "billing"}], [{**GOOD, "case": "x"}], [{**GOOD, "Type": "x"}],
        [{**GOOD, "ocns": []}], [{**GOOD, "ocns": "123A"}], [{**GOOD, "ocns": ["456B"]}], [{**GOOD, "ocns": None}],
        [{**GOOD, "ocns": ["123A", "456B"]}], [{**GOOD, "ocns": ["123A", "123A"]}], [{**GOOD, "ocns": ["123a"]}],
        [{**GOOD, "ocns": ["none"]}], [{**GOOD, "ocns": ["unmapped"]}], [{**GOOD, "ocns": [123]}],
        [{**GOOD, "ocns": ["*"]}],
        [{**GOOD, "directions": []}], [{**GOOD, "directions": ["both"]}], [{**GOOD, "directions": ["in"]}],
        [{**GOOD, "classes": []}], [{**GOOD, "classes": ["location"]}], [{**GOOD, "classes": ["timing", "x"]}],
        [{**GOOD, "classes": ["subscriber"]}], [{**GOOD, "classes": ["source"]}], [{**GOOD, "classes": {"timing": 1}}],
        [{**GOOD, "directions": ["ingress"], "classes": ["timing", "egress_leg"]}],
        [{**GOOD, "window": {}}], [{**GOOD, "window": []}], [{**GOOD, "window": None}],
        [{**GOOD, "window": {"from": "2026-01-01"}}], [{**GOOD, "window": {"from": "2026-01-01T00:00:00"}}],
        [{**GOOD, "window": {"from": "2026-01-01T00:00:00Z", "until": "x"}}], [{**GOOD, "window": {"from": None}}],
        [{**GOOD, "window": {"from": 1767225600}}], [{**GOOD, "window": {"from": "2026-13-01T00:00:00Z"}}],
        [{**GOOD, "window": {"from": "2026-02-30T00:00:00Z"}}], [{**GOOD, "window": {"from": "0001-01-01T00:00:00Z"}}],
        [{**GOOD, "window": {"to": "9999-12-31T23:59:59-23:59"}}],
        [{**GOOD, "window": {"to": "2026-01-01T00:00:60Z"}}],
        [{**GOOD, "window": {"to": "2026-01-01T00:00:00.1234567Z"}}],
        [{**GOOD, "window": {"to": "2026-01-01T00:00:00+99:00"}}],
        [{**GOOD, "window": {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}}],
        [{**GOOD, "window": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}}],
    ],
)  # fmt: skip
def test_details_that_are_refused(value: object) -> None:
    with pytest.raises(Refused) as caught:
        narrow(value)
    assert caught.value.reason == "details.invalid"


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[", '[{"type":"cdr_billing"}],"x":1', '[{"type":"cdr_billing"}],"details":[]',
        '[{"type":"cdr_legal","type":"cdr_billing"}]', '[{"type":"cdr_billing"}] x', "NaN",
        '[{"type":"cdr_billing","ocns":["\\ud800"]}]', "[" * 10_000, "[" + " " * 20_000 + "]",
    ],
)  # fmt: skip
def test_text_that_is_no_details(text: str) -> None:
    with pytest.raises(Refused):
        details.read(text)


def test_too_many_ocns_for_a_header_are_refused() -> None:
    many = [f"{i:04d}" for i in range(details.OCNS_MAX + 1)]
    with pytest.raises(Refused):
        details.narrow(details.Wanted(), many)
    assert len(details.narrow(details.Wanted(ocns=tuple(many[:2])), many).ocns) == 2


_WORDS = {
    "ocns": st.lists(st.sampled_from([*OWNED, "456B", "none"]), max_size=3),
    "directions": st.lists(st.sampled_from([*details.DIRECTIONS, "both"]), max_size=3),
    "classes": st.lists(st.sampled_from([*ALL, "location", "device"]), max_size=6),
}


@given(st.fixed_dictionaries({"type": st.just("cdr_billing")}, optional=_WORDS))
def test_what_is_granted_is_never_more_than_owned_or_asked(item: dict[str, Any]) -> None:
    try:
        got = narrow([item])
    except Refused:
        return
    assert set(got.ocns) <= set(OWNED)
    assert set(got.classes) <= set(ALL)
    for name in _WORDS:
        assert set(getattr(got, name)) <= set(item.get(name, getattr(got, name)))
    # What stands in the token reads back as the same.
    assert details.granted(got.as_json()) == got


def test_a_window_reads_back() -> None:
    window = {"from": "2026-01-01T00:00:00.000001Z", "to": "2026-02-01T01:00:00+01:00"}
    got = narrow([{**GOOD, "window": window}])
    assert got.as_json()[0]["window"] == {"from": "2026-01-01T00:00:00.000001Z", "to": "2026-02-01T00:00:00Z"}
    assert details.granted(got.as_json()) == got


def test_nonces_live_for_one_to_two_slots_and_are_their_secrets() -> None:
    nonces, others = Nonces(b"a" * 32), Nonces(b"b" * 32)
    start = 1_800_000_000 // SLOT_S * SLOT_S
    nonce = nonces.current(start)
    assert nonces.good(nonce, start)
    assert nonces.good(nonce, start + 2 * SLOT_S - 1)
    assert not nonces.good(nonce, start + 2 * SLOT_S)
    assert nonces.good(nonce, start - 1)  # a gateway whose clock is a little behind
    assert not nonces.good(nonce, start - SLOT_S - 1)
    assert not others.good(nonce, start)
    assert nonces.current(start + SLOT_S) != nonce
    with pytest.raises(ValueError, match="32"):
        Nonces(b"short")


@given(st.one_of(st.none(), st.text(max_size=40), st.integers(), st.lists(st.text(max_size=3))))
def test_nothing_made_up_is_a_nonce(value: object) -> None:
    assert not Nonces(b"a" * 32).good(value, 1_800_000_000)


def test_the_clock_follows_the_database() -> None:
    steady = 100.0
    clock = DatabaseClock(wall=lambda: 5000.0, steady=lambda: steady)
    assert clock.now() == 5000.0
    clock.observe(datetime.fromtimestamp(9000, UTC))
    assert clock.now() == 9000.0
    steady += 7
    assert clock.now() == 9007.0


URL = "https://tollgate.example/v1/cdrs"


@pytest.mark.parametrize(
    "htu",
    [
        URL, URL + "?from=x", URL + "#x", "HTTPS://Tollgate.EXAMPLE/v1/cdrs", "https://tollgate.example:443/v1/cdrs",
        "https://tollgate.example/v1/%63drs", "https://tollgate.example:/v1/cdrs",
    ],
)  # fmt: skip
def test_a_url_may_be_written_otherwise(htu: str) -> None:
    text = proof(new_key(), "GET", htu)
    now = jws.parse("proof", text, ("dpop+jwt",), own_key=True).claims["iat"]
    assert dpop.check(text, method="GET", url=URL, now=now, skew=10)


@given(st.text(max_size=60))
def test_no_text_breaks_the_url_reader(text: str) -> None:
    for value in (text, "https://" + text, URL + text):
        with contextlib.suppress(Refused):
            dpop._normal(value)


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,9}")))
def test_no_text_breaks_the_jws_reader(text: str) -> None:
    with pytest.raises(Refused):
        jws.parse("token", text, ("at+jwt",))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_form_reader(body: bytes) -> None:
    try:
        found = form.parse(body)
    except Refused as refused:
        assert refused.reason in REASONS  # noqa: PT017
        return
    assert all(found.values())


def test_a_form_reads() -> None:
    assert form.parse(b"a=1&b=x+y%20z&c=&d=%C3%A4&") == {"a": "1", "b": "x y z", "d": "ä"}


@pytest.mark.parametrize(
    ("values", "good"),
    [
        (["application/x-www-form-urlencoded"], True),
        (["Application/X-WWW-Form-Urlencoded; charset=UTF-8"], True),
        (['application/x-www-form-urlencoded;charset="utf-8"'], True),
        (["application/x-www-form-urlencoded; charset=latin-1"], False),
        (["application/x-www-form-urlencoded"] * 2, False),
        (["application/x-www-form-urlencoded, text/plain"], False),
        ([], False),
        ([""], False),
        (["application/json"], False),
    ],
)
def test_content_types(values: list[str], good: bool) -> None:
    if good:
        form.check_content_type(values)
    else:
        with pytest.raises(Refused):
            form.check_content_type(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"issuer": "http://tollgate.example"}, "issuer"),
        ({"issuer": "https://tollgate.example/"}, "issuer"),
        ({"issuer": "https://tollgate.example/x"}, "issuer"),
        ({"issuer": "https://a@tollgate.example"}, "issuer"),
        ({"issuer": "https://tollgate.example?x"}, "issuer"),
        ({"issuer": ""}, "issuer"),
        ({"token_ttl_s": 0}, "token_ttl_s"),
        ({"token_ttl_s": 301}, "token_ttl_s"),
        ({"clock_skew_s": 60}, "clock_skew_s"),
        ({"clock_skew_s": -1}, "clock_skew_s"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], says: str) -> None:
    _check(Config())
    with pytest.raises(ConfigError, match=says):
        _check(Config(**change))


def test_a_challenge_names_scheme_error_and_algorithms() -> None:
    error = AuthError(401, "invalid_token", "no", "token.time")
    assert error.challenge() == (
        'DPoP realm="tollgate", error="invalid_token", error_description="no", algs="ES256 EdDSA PS256"'
    )
    assert AuthError(401, "", "", "token.missing").challenge() == 'DPoP realm="tollgate", algs="ES256 EdDSA PS256"'


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize(("ahead", "good"), [(0, True), (10, True), (11, False), (60, False)])
def test_how_far_ahead_a_clock_may_be(claim: str, ahead: int, good: bool) -> None:
    compact = jws.Compact("assertion", "", {}, {claim: 1000 + ahead, "exp": 1200})
    if good:
        jws.check_times(compact, 1000, 10)
    else:
        with pytest.raises(Refused, match=r"assertion\.time"):
            jws.check_times(compact, 1000, 10)


@pytest.mark.parametrize(
    ("lifetime", "agreement_end", "end"),
    [(300, None, 1300), (60, None, 1060), (9999, None, 1300), (300, 1299.9, 1299), (300, 5000.0, 1300)],
)
def test_a_token_ends_with_its_agreement_at_the_latest(lifetime: int, agreement_end: float | None, end: int) -> None:
    assert tokens.expiry(1000, lifetime, agreement_end) == end
