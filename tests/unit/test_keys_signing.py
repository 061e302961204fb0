"""Signing keys: one current key, old public halves for a while, nothing private in clear."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.errors import KeyringError
from keys.file_provider import FileProvider
from keys.keyring import RING, ROOT, Keyring
from keys.ring import new_root
from keys.signing import SigningKeys, thumbprint
from tests.support.keys import vectors

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    FileProvider.create(tmp_path / "keys")
    return tmp_path / "keys"


def test_the_first_key_is_made_and_stays(directory: Path) -> None:
    keys = SigningKeys(directory)
    token, log = keys.current("token"), keys.current("log")
    assert (token.alg, log.alg) == ("ES256", "EdDSA")
    assert isinstance(token.private_key, EllipticCurvePrivateKey)
    assert isinstance(log.private_key, Ed25519PrivateKey)
    again = SigningKeys(directory)
    assert again.current("token").kid == token.kid
    assert again.current("log").kid == log.kid
    assert again.all_public("token") == [dict(token.public_jwk)]
    assert again.all_public("nothing_yet") == []


@pytest.mark.parametrize("purpose", ["token", "log"])
def test_what_it_signs_verifies_with_the_published_key(directory: Path, purpose: str) -> None:
    keys = SigningKeys(directory)
    key = keys.current(purpose)
    token = jwt.encode({"sub": "x"}, key.private_key, algorithm=key.alg, headers={"kid": key.kid})
    (published,) = keys.all_public(purpose)
    assert jwt.decode(token, jwt.PyJWK(published), algorithms=[key.alg]) == {"sub": "x"}
    assert published["use"] == "sig"
    assert not set(published) & {"d", "p", "q", "k"}


def test_rfc_7638_thumbprint_of_rfc_8037() -> None:
    """RFC 8037 appendix A.3 gives the thumbprint of its Ed25519 key."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "use": "sig"}
    assert thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_coordinate_is_always_32_bytes(directory: Path) -> None:
    clock = Clock()
    keys = SigningKeys(directory, clock)
    for _ in range(3):
        jwk = keys.rotate("token", keep_until=NOW).public_jwk
        assert [len(base64.urlsafe_b64decode(jwk[c] + "=")) for c in ("x", "y")] == [32, 32]
    from keys.signing import _coordinate

    assert _coordinate(1) == "A" * 42 + "E"


def test_an_old_key_stays_published_until_its_time_and_signs_no_more(directory: Path) -> None:
    clock = Clock()
    keys, other = SigningKeys(directory, clock), SigningKeys(directory, clock)
    old = other.current("token")
    log = keys.current("log")
    new = keys.rotate("token", keep_until=NOW + timedelta(minutes=5))
    assert new.kid != old.kid
    for each in (keys, other, SigningKeys(directory, clock)):
        assert each.current("token").kid == new.kid
        assert [k["kid"] for k in each.all_public("token")] == [new.kid, old.kid]
    assert keys.current("log").kid == log.kid
    clock.now += timedelta(minutes=5)
    assert [k["kid"] for k in other.all_public("token")] == [new.kid]
    third = keys.rotate("token", "EdDSA", keep_until=clock.now + timedelta(minutes=5))
    assert third.alg == "EdDSA"
    assert [k["kid"] for k in other.all_public("token")] == [third.kid, new.kid]
    assert old.kid not in (directory / RING).read_text()


def test_the_private_half_of_a_replaced_key_is_gone(directory: Path) -> None:
    keys = SigningKeys(directory, Clock())
    old = keys.current("token")
    keys.rotate("token", keep_until=NOW + timedelta(days=1))
    entry = next(e for e in Keyring(directory).read().signing if e.kid == old.kid)
    assert entry.wrapped is None


def test_nothing_private_stands_in_clear(directory: Path) -> None:
    key = SigningKeys(directory).current("token")
    assert isinstance(key.private_key, EllipticCurvePrivateKey)
    secret = key.private_key.private_numbers().private_value.to_bytes(32, "big")
    text = (directory / RING).read_bytes()
    for form in (secret, base64.urlsafe_b64encode(secret)[:40], secret.hex().encode()):
        assert form not in text
    assert "private" not in repr(key)


def test_keys_survive_a_rotation_of_the_root(directory: Path) -> None:
    keys = SigningKeys(directory)
    token = keys.current("token")
    keys.rotate("log", keep_until=datetime.now(UTC) + timedelta(hours=1))
    Keyring(directory).update(lambda r: r.under(new_root()))
    again = SigningKeys(directory)
    assert again.current("token").kid == token.kid
    assert again.all_public("log") == keys.all_public("log")
    signed = jwt.encode({}, again.current("token").private_key, algorithm="ES256")
    jwt.decode(signed, jwt.PyJWK(dict(token.public_jwk)), algorithms=["ES256"])


def test_a_public_half_that_was_exchanged_is_noticed(directory: Path, tmp_path: Path) -> None:
    SigningKeys(directory).current("token")
    FileProvider.create(tmp_path / "other")
    foreign = SigningKeys(tmp_path / "other").current("token")
    value = json.loads((directory / RING).read_text())
    value["signing"][0]["jwk"] = dict(foreign.public_jwk)
    (directory / RING).write_text(json.dumps(value))
    with pytest.raises(KeyringError, match="public half"):
        SigningKeys(directory).current("token")
    value["signing"][0]["kid"] = foreign.kid
    (directory / RING).write_text(json.dumps(value))
    with pytest.raises(KeyringError, match="does not open"):
        SigningKeys(directory).current("token")


def test_the_known_keyrings_keys(tmp_path: Path) -> None:
    fixed = vectors("keyring.json")
    FileProvider.create(tmp_path / "keys")
    (tmp_path / "keys" / ROOT).write_text(fixed[ROOT])
    (tmp_path / "keys" / RING).write_text(fixed[RING])
    keys = SigningKeys(tmp_path / "keys")
    for purpose, kid in fixed["signing"].items():
        assert keys.current(purpose).kid == kid


def test_what_cannot_be_asked_for(directory: Path) -> None:
    keys = SigningKeys(directory)
    with pytest.raises(ValueError, match="ES256 or EdDSA"):
        keys.current("coffee")
    with pytest.raises(ValueError, match="name"):
        keys.current("Token")
    with pytest.raises(ValueError, match="ES256 or EdDSA"):
        keys.rotate("token", "HS256", keep_until=NOW)
    with pytest.raises(ValueError, match="time zone"):
        keys.rotate("token", keep_until=datetime(2026, 11, 21))
    assert keys.rotate("coffee", "EdDSA", keep_until=NOW).alg == "EdDSA"
