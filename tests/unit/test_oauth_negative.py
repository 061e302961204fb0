"""Every malformed assertion and proof of the table, against the pure checks: refused, for the reason given there."""

from __future__ import annotations

import time

import pytest

from proxy.oauth import assertion, dpop
from proxy.oauth.errors import REASONS, Refused
from proxy.oauth.nonces import Nonces
from proxy.registry.jwk import public_key
from tests.support.oauth import new_key
from tests.support.oauthcases import API_PROOFS, ASSERTIONS, NONCES, PROOFS, Maker, Prover, Row

ISSUER = "https://tollgate.example"
SKEW = 10
KEY, OTHER = new_key(), new_key()
MAKER = Maker(KEY, OTHER, "billing-a", ISSUER)
KEYS = {KEY.kid: public_key(KEY.public)}
SECRET = Nonces(bytes(32))
TOKEN = "a.b.c"


def prover(at_api: bool) -> Prover:
    nonce = SECRET.current(time.time())
    if at_api:
        return Prover(KEY, OTHER, "GET", ISSUER + "/v1/echo/endless", nonce, TOKEN)
    return Prover(KEY, OTHER, "POST", ISSUER + "/oauth/token", nonce, None)


def authenticate(text: str) -> assertion.Proven:
    compact = assertion.read(text)
    keys = KEYS if assertion.claimed_client(compact) == "billing-a" else {}
    return assertion.check(compact, keys, issuer=ISSUER, now=time.time(), skew=SKEW, client_id=None)


def check(text: str, made: Prover) -> dpop.Proof:
    return dpop.check(text, method=made.method, url=made.url, now=time.time(), skew=SKEW, token=made.token)


def name(row: Row) -> str:
    return row.name


def test_what_the_rows_are_made_from_is_good() -> None:
    assert authenticate(MAKER.make()).client_id == "billing-a"
    for at_api in (False, True):
        made = prover(at_api)
        proof = check(made.make(), made)
        assert proof.jkt == KEY.thumbprint
        assert SECRET.good(proof.nonce, time.time())


@pytest.mark.parametrize("row", ASSERTIONS, ids=name)
def test_assertions(row: Row) -> None:
    with pytest.raises(Refused) as caught:
        authenticate(row.make(MAKER))
    assert caught.value.reason == row.reason
    assert row.reason in REASONS


@pytest.mark.parametrize("at_api", [False, True])
@pytest.mark.parametrize("row", PROOFS, ids=name)
def test_proofs(row: Row, at_api: bool) -> None:
    made = prover(at_api)
    with pytest.raises(Refused) as caught:
        check(row.make(made), made)
    assert caught.value.reason == row.reason
    assert row.reason in REASONS


@pytest.mark.parametrize("row", API_PROOFS, ids=name)
def test_proofs_at_the_api(row: Row) -> None:
    made = prover(at_api=True)
    with pytest.raises(Refused) as caught:
        check(row.make(made), made)
    assert caught.value.reason == row.reason


@pytest.mark.parametrize("row", NONCES, ids=name)
def test_nonces(row: Row) -> None:
    made = prover(at_api=False)
    proof = check(row.make(made), made)
    assert not SECRET.good(proof.nonce, time.time())
