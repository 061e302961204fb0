"""The client's parts without a network: keys, rows counted, files joined, marks remembered, moments read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.main import main
from proxy.cli.pulloptions import moment
from proxy.client import keys
from proxy.client.forms import Form, FormError, RowCounter, count_rows, join
from proxy.client.memory import Memory, MemoryFileError
from proxy.client.session import DiscoveryError, metadata_url


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    # RFC 7638 section 3.1, the example key and its thumbprint.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3okn"
        "jhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qM"
        "QvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJz"
        "KnqDKgw"
    )
    jwk = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert keys.thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(
    ("private", "alg"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        (rsa.generate_private_key(65537, 2048), "PS256"),
    ],
)
def test_the_public_jwk_has_no_private_part(private: object, alg: str) -> None:
    key = keys.wrap(private)
    jwk = key.public_jwk()
    assert jwk["alg"] == alg
    assert jwk["kid"] == keys.thumbprint(jwk)
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(jwk)


@pytest.mark.parametrize(
    "private", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 1024), object()]
)
def test_other_keys_are_refused(private: object) -> None:
    with pytest.raises(keys.KeyFileError):
        keys.wrap(private)


def test_a_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "k.pem"
    key = keys.generate()
    keys.save(key, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.load(file).kid == key.kid
    with pytest.raises(keys.KeyFileError, match="never overwritten"):
        keys.save(keys.generate(), file)
    file.chmod(0o640)
    with pytest.raises(keys.KeyFileError, match="chmod 0600"):
        keys.load(file)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k.pem"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(keys.KeyFileError, match=re.escape(str(file))):
        keys.load(file)


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "k.pem"
    file.write_bytes(
        keys.generate().private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    file.chmod(0o600)
    with pytest.raises(keys.KeyFileError, match="passphrase"):
        keys.load(file)


def test_the_proof_key_stays_the_same(tmp_path: Path) -> None:
    file = tmp_path / "k.pem.dpop"
    assert keys.load_or_make(file).kid == keys.load_or_make(file).kid


def test_keygen_prints_what_to_send(tmp_path: Path) -> None:
    file = tmp_path / "carrier.pem"
    made = CliRunner().invoke(main, ["pull", "keygen", "--out", str(file)])
    assert made.exit_code == 0
    jwk = json.loads(made.stdout)
    assert jwk["kid"] == keys.load(file).kid
    assert json.loads(CliRunner().invoke(main, ["pull", "keygen", "--show", str(file)]).stdout) == jwk
    assert CliRunner().invoke(main, ["pull", "keygen", "--out", str(file)]).exit_code == 3
    assert CliRunner().invoke(main, ["pull", "keygen"]).exit_code == 2


_VALUE = st.text(alphabet='ab",\n', max_size=6)


@given(st.lists(st.tuples(_VALUE, _VALUE), max_size=12), st.integers(1, 7))
def test_csv_rows_are_counted_whatever_the_cuts(rows: list[tuple[str, str]], size: int) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & set('",\n') else value

    data = "".join(",".join(map(quoted, row)) + "\n" for row in [("x", "y"), *rows]).encode()
    counter = RowCounter(Form.CSV)
    for start in range(0, len(data), size):
        counter.feed(data[start : start + size])
    assert counter.rows == len(rows)


def test_csv_parts_are_joined_under_one_header(tmp_path: Path) -> None:
    parts = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    for part, text in zip(parts, ["a,b\n1,2\n", "a,b\n", "a,b\n3,4\n"], strict=True):
        part.write_text(text)
    join(parts, Form.CSV, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a,b\n1,2\n3,4\n"
    assert count_rows(tmp_path / "out", Form.CSV) == 2


def test_parts_with_other_columns_are_not_joined(tmp_path: Path) -> None:
    parts = [tmp_path / "0", tmp_path / "1"]
    parts[0].write_text("a,b\n1,2\n")
    parts[1].write_text("a,c\n3,4\n")
    with pytest.raises(FormError, match="other columns"):
        join(parts, Form.CSV, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [Form.ARROW, Form.PARQUET])
def test_a_file_of_another_form_is_refused(tmp_path: Path, form: Form) -> None:
    (tmp_path / "x").write_bytes(b"garbage, garbage, garbage")
    with pytest.raises(FormError, match=form.value):
        count_rows(tmp_path / "x", form)


def test_a_mark_belongs_to_its_window_alone(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m.json")
    window = {"from": "a", "to": "b", "direction": "both"}
    name = Memory.name("i", "c", (), window)
    memory.put(name, "mark")
    assert Memory(tmp_path / "m.json").get(name) == "mark"
    for other in (
        Memory.name("i", "c", (), {**window, "to": "c"}),
        Memory.name("i", "c", (), {**window, "direction": "ingress"}),
        Memory.name("i", "c", ("1001",), window),
        Memory.name("i", "d", (), window),
        Memory.name("j", "c", (), window),
    ):
        assert memory.get(other) is None
    assert Memory.name("i", "c", (), {**window, "received_after": "mark"}) == name


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 2, "complete_to": {}}', '{"version":1,"complete_to":3}']
)
def test_a_memory_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(MemoryFileError):
        Memory(tmp_path / "m.json").get("x")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T06:00:00-05:00", "2026-11-01T11:00:00Z"),
        ("2026-11-01T00:00:00.5Z", "2026-11-01T00:00:00.500000Z"),
    ],
)
def test_moments(text: str, read: str) -> None:
    assert moment(text, "--from") == read


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-01T00:00:00", "2026-13-01", "01/11/2026"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(click.UsageError, match="--from"):
        moment(text, "--from")


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://a.example", "https://a.example/.well-known/oauth-authorization-server"),
        ("https://a.example/x/y", "https://a.example/.well-known/oauth-authorization-server/x/y"),
    ],
)
def test_where_the_metadata_is(issuer: str, url: str) -> None:
    assert metadata_url(issuer) == url


@pytest.mark.parametrize("issuer", ["http://a.example", "https://a.example?x=1", "a.example", "https://a.example/#f"])
def test_issuers_that_are_none(issuer: str) -> None:
    with pytest.raises(DiscoveryError):
        metadata_url(issuer)
