"""Which public keys are taken, and what they are called (RFC 7517, 7518, 7638, 8037)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.encoding import b64url_decode, b64url_encode
from proxy.registry.jwk import JwkError, key_set, public_key, registered
from tests.support.oauth import REMOVE, merged, new_key

EC, OKP, RSA = (new_key(alg) for alg in ("ES256", "EdDSA", "PS256"))

# RFC 7638 section 3.1: the example key and its thumbprint.
RFC_7638 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3o"
    "knjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvR"
    "L5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
}
# RFC 8037 appendix A.3.
RFC_8037 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def test_published_thumbprints() -> None:
    assert public_key(RFC_7638).thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert public_key(RFC_8037).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(("key", "alg"), [(EC, "ES256"), (OKP, "EdDSA"), (RSA, "PS256")])
def test_a_key_is_good_for_one_algorithm(key: Any, alg: str) -> None:
    found = public_key(key.public)
    assert found.alg == alg
    assert found.key.algorithm_name == alg
    assert "kid" not in found.jwk


def big(value: int) -> str:
    return b64url_encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        (EC, {"d": "AA"}, "private"),
        (RSA, {"p": "AA"}, "private"),
        (RSA, {"oth": []}, "private"),
        (EC, {"k": "AA"}, "private"),
        (EC, {"x5u": "https://a.example"}, "elsewhere"),
        (EC, {"jku": "https://a.example"}, "elsewhere"),
        (EC, {"kty": REMOVE}, "kty"),
        (EC, {"kty": "oct"}, "kty"),
        (EC, {"kty": ["EC"]}, "kty"),
        (EC, {"kty": "ec"}, "kty"),
        (EC, {"kty": "OKP"}, "crv"),
        (EC, {"crv": "P-384"}, "crv"),
        (EC, {"crv": "secp256k1"}, "crv"),
        (OKP, {"crv": "Ed448"}, "crv"),
        (OKP, {"crv": "X25519"}, "crv"),
        (EC, {"crv": REMOVE}, "crv"),
        (EC, {"x": REMOVE}, "x is"),
        (EC, {"y": 7}, "y is"),
        (EC, {"x": ""}, "32"),
        (EC, {"x": "A" * 44}, "32"),
        (EC, {"x": "A" * 2000}, "x is"),
        (EC, {"x": EC.public["x"] + "="}, "base64url"),
        (EC, {"y": EC.public["x"]}, "curve"),
        (EC, {"x": "A" * 43, "y": "A" * 43}, "curve"),
        (OKP, {"x": "AAAA"}, "32"),
        (EC, {"alg": "ES384"}, "alg"),
        (EC, {"alg": "none"}, "alg"),
        (RSA, {"alg": "RS256"}, "alg"),
        (RSA, {"alg": "ES256"}, "alg"),
        (EC, {"alg": None}, "alg"),
        (EC, {"use": "enc"}, "use"),
        (EC, {"key_ops": ["sign"]}, "key_ops"),
        (EC, {"key_ops": ["verify", "encrypt"]}, "key_ops"),
        (EC, {"key_ops": "verify"}, "key_ops"),
        (RSA, {"n": big((1 << 2046) + 1)}, "bits"),
        (RSA, {"n": big((1 << 4096) + 1)}, "bits"),
        (RSA, {"n": big(1 << 2047)}, "bits"),
        (RSA, {"n": "AAAA" + RSA.public["n"]}, "zero"),
        (RSA, {"n": ""}, "zero"),
        (RSA, {"e": "Aw"}, "odd"),
        (RSA, {"e": "AQAA"}, "odd"),
        (RSA, {"e": big((1 << 32) + 1)}, "odd"),
    ],
)
def test_a_key_that_is_not_taken(key: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(JwkError, match=says):
        public_key(merged(key.public, change))


def test_a_kid_is_visible_ascii_and_defaults_to_the_thumbprint() -> None:
    assert registered(EC.proof_jwk).kid == EC.thumbprint
    assert registered({**EC.public, "kid": "k" * 128}).kid == "k" * 128
    for kid in ("", "k" * 129, "a b", "a\n", "\u0430", 7, None):
        with pytest.raises(JwkError, match="kid"):
            registered({**EC.public, "kid": kid})


def test_what_is_kept_is_public_and_complete() -> None:
    kept = registered({**EC.public, "x5t": "AA", "note": "x"}).as_jwk()
    assert kept == EC.public


def test_a_file_holds_a_key_or_a_set() -> None:
    assert key_set(json.dumps(EC.public)) == [EC.public]
    assert key_set(json.dumps({"keys": [EC.public, OKP.public]})) == [EC.public, OKP.public]
    for text in ("", "[]", '{"keys": []}', '{"keys": 7}', "[7]", '"x"', "[" * 100_000):
        with pytest.raises(JwkError):
            key_set(text)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "e", "n", "alg", "use", "key_ops", "kid", "d"]),
        st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()), st.sampled_from(["EC", "P-256", "AQAB"])),
    )
)
def test_nothing_but_a_jwk_error_leaks(jwk: dict[str, Any]) -> None:
    try:
        found = registered(jwk)
    except JwkError:
        return
    assert b64url_decode(found.public.thumbprint)
