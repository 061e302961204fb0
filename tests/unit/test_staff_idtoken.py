"""The provider's ID token: every malformed one is refused for its reason, and nothing ever but refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.oauth import staffid
from proxy.oauth.errors import REASONS, Refused
from proxy.oauth.staffid import Person, ProviderKeys
from tests.support.oauth import REMOVE, Key, new_key, sign
from tests.support.oidc import CLIENT_ID, Own
from tests.support.oidccases import ROWS, Row

OWN = Own("https://login.carrier.example", Path("."), [new_key()])
JKT = "J" * 43
SUBJECT = "subject-1"
ALGORITHMS = ("ES256",)


def check(text: str, own: Own = OWN, algorithms: tuple[str, ...] = ALGORITHMS, now: float | None = None) -> Person:
    compact = staffid.read(text, algorithms)
    key = ProviderKeys([key.public for key in own.keys], algorithms).find(compact)
    if key is None:
        raise Refused("subject.key")
    return staffid.check(
        compact,
        key,
        issuer=own.issuer,
        client_id=CLIENT_ID,
        groups_claim="groups",
        jkt=JKT,
        now=time.time() if now is None else now,
        skew=10,
        age_max=43_200,
    )


@pytest.mark.parametrize(
    "change",
    [{}, {"aud": [CLIENT_ID]}, {"azp": CLIENT_ID}, {"nbf": 0}, {"auth_time": 1, "email": "x"}, {"groups": ["g", "h"]}],
    ids=str,
)
def test_what_the_rows_are_made_from_is_good(change: dict[str, Any]) -> None:
    person = check(OWN.token(SUBJECT, JKT, **change))
    assert person == Person(SUBJECT, frozenset(change.get("groups", [])))


def test_a_person_without_groups_is_in_none() -> None:
    assert check(OWN.token(SUBJECT, JKT, groups=REMOVE)).groups == frozenset()


def test_a_token_without_type_or_kid_of_the_sole_key() -> None:
    assert check(OWN.token(SUBJECT, JKT, header={"typ": REMOVE, "kid": REMOVE})).subject == SUBJECT
    two = Own(OWN.issuer, Path("."), [OWN.key, new_key()])
    with pytest.raises(Refused, match=r"subject\.key"):
        check(OWN.token(SUBJECT, JKT, header={"kid": REMOVE}), two)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_malformed(row: Row) -> None:
    with pytest.raises(Refused) as caught:
        check(row.make(OWN, SUBJECT, JKT))
    assert caught.value.reason == row.reason
    assert row.reason in REASONS


def test_it_ends_with_its_own_end_and_with_the_sessions() -> None:
    text = OWN.token(SUBJECT, JKT, iat=1_000_000, exp=2_000_000)
    assert check(text, now=1_000_000 + 43_200)
    for now in (1_000_000 + 43_211, 2_000_000, 999_989):
        with pytest.raises(Refused, match=r"subject\.time"):
            check(text, now=now)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "EdDSA", "ES256"])
def test_exactly_the_algorithms_that_are_configured(algorithm: str) -> None:
    key = _key(algorithm)
    own = Own(OWN.issuer, Path("."), [key])
    text = own.token(SUBJECT, JKT)
    assert check(text, own, (algorithm,)).subject == SUBJECT
    others = tuple(a for a in staffid.ALGORITHMS if a != algorithm)
    with pytest.raises(Refused, match=r"subject\.alg"):
        check(text, own, others)


def test_one_rsa_key_for_two_algorithms_is_each_ones_by_what_it_says() -> None:
    key = _key("RS256")
    bare = {k: v for k, v in key.public.items() if k not in ("alg", "use")}
    keys = ProviderKeys([bare], ("RS256", "PS256"))
    assert len(keys) == 2
    text = Own(OWN.issuer, Path("."), [key]).token(SUBJECT, JKT)
    found = keys.find(staffid.read(text, ("RS256", "PS256")))
    assert found is not None
    assert found.alg == "RS256"


JWKS: list[tuple[str, Any]] = [
    ("for encryption", {"use": "enc"}),
    ("for another algorithm", {"alg": "ES384"}),
    ("for other operations", {"key_ops": ["encrypt"]}),
    ("operations that are no list", {"key_ops": "verify"}),
    ("private", {"d": "AAAA"}),
    ("another curve", {"crv": "P-384"}),
    ("off the curve", {"y": "A" * 43}),
    ("another type", {"kty": "oct", "k": "AAAA"}),
    ("a number", {"x": 7}),
]


@pytest.mark.parametrize(("change"), [c for _, c in JWKS], ids=[n for n, _ in JWKS])
def test_keys_that_cannot_be_used_are_left_out(change: dict[str, Any]) -> None:
    assert len(ProviderKeys([{**OWN.key.public, **change}], ALGORITHMS)) == 0
    assert len(ProviderKeys([{**OWN.key.public, **change}, OWN.key.public, 7, None, [], "x"], ALGORITHMS)) == 1


def test_two_keys_under_one_kid_are_nobodys() -> None:
    other = new_key()
    keys = ProviderKeys([OWN.key.public, {**other.public, "kid": OWN.key.kid}], ALGORITHMS)
    assert keys.find(staffid.read(OWN.token(SUBJECT, JKT), ALGORITHMS)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "azp", "groups", "jti", "auth_time"])


@settings(max_examples=200, deadline=None)
@given(changed=st.dictionaries(CLAIMS, JSON, min_size=1, max_size=3), header=st.dictionaries(
    st.sampled_from(["kid", "typ", "alg", "cty", "jwk", "crit"]), JSON, max_size=2))  # fmt: skip
def test_whatever_stands_in_a_signed_token_it_is_a_person_or_refused(
    changed: dict[str, Any], header: dict[str, Any]
) -> None:
    text = OWN.token(SUBJECT, JKT, header=header, **changed)
    try:
        assert isinstance(check(text), Person)
    except Refused as refused:
        assert refused.reason in REASONS  # noqa: PT017


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=60), head=st.binary(max_size=60))
def test_whatever_bytes_are_signed(payload: bytes, head: bytes) -> None:
    for first, second in ((json.dumps({"alg": "ES256", "kid": OWN.key.kid}).encode(), payload), (head, payload)):
        with pytest.raises(Refused):
            check(sign(first, second, OWN.key.handle, "ES256"))


def _key(algorithm: str) -> Key:
    if algorithm != "RS256":
        return new_key(algorithm)
    key = new_key("PS256")  # the same kind of key, for another algorithm
    return Key("RS256", key.kid, {**key.public, "alg": "RS256"}, key.private, key.handle)
