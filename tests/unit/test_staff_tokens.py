"""Staff tokens as texts: what is read back, what is refused, what a request may ask to be narrowed to; the settings."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.config import Config, ConfigError
from proxy.oauth import stafftokens
from proxy.oauth.errors import REASONS, Refused
from proxy.oauth.staffadmission import SAYS
from proxy.oauth.staffexchange import group_roles
from proxy.oauth.staffprovider import OpenIdProvider, check_config
from proxy.oauth.stafftokens import StaffClaims, StaffReader
from proxy.oauth.tokens import Reader
from proxy.staff.model import StaffRole
from tests.support.oauth import REMOVE, merged

ISSUER = "https://tollgate.example"
NOW = int(time.time())
CLAIMS = StaffClaims(
    staff_id="handler@carrier.example",
    client_id="tollgate",
    token_id="t" * 32,
    jkt="J" * 43,
    roles=frozenset({StaffRole.LEGAL_HANDLER, StaffRole.PRIVACY_OFFICER}),
    issued=NOW,
    expires=NOW + 300,
)


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    folder = tmp_path_factory.mktemp("keyring") / "keys"
    FileProvider.create(folder)
    return SigningKeys(folder)


def read(signing: SigningKeys, text: str, **options: Any) -> StaffClaims:
    values = {"now": NOW, "skew": 10} | options
    return StaffReader(ISSUER).read(text, signing.all_public("token"), **values)


def signed(signing: SigningKeys, change: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    key = signing.current("token")
    right = jwt.decode(stafftokens.write(CLAIMS, ISSUER, key), options={"verify_signature": False})
    head = {"typ": "at+jwt", "kid": key.kid, **(header or {})}
    return jwt.encode(merged(right, change), key.private_key, algorithm=key.alg, headers=head)


def test_what_is_written_is_read(signing: SigningKeys) -> None:
    text = stafftokens.write(CLAIMS, ISSUER, signing.current("token"))
    assert read(signing, text) == CLAIMS
    assert len(CLAIMS.hash) == 32
    for now in (NOW + 300, NOW - 11):
        with pytest.raises(Refused, match=r"token\.time"):
            read(signing, text, now=now)


def test_it_is_no_token_of_a_carrier(signing: SigningKeys) -> None:
    text = stafftokens.write(CLAIMS, ISSUER, signing.current("token"))
    with pytest.raises(Refused, match=r"token\.purpose"):
        Reader(ISSUER).read(text, signing.all_public("token"), now=NOW, skew=10)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("another scope", {"scope": "cdr.billing"}, "token.purpose"),
    ("another audience", {"aud": "https://other.example"}, "token.claims"),
    ("two audiences", {"aud": [ISSUER]}, "token.claims"),
    ("another issuer", {"iss": "https://other.example"}, "token.claims"),
    ("no person", {"sub": REMOVE}, "token.claims"),
    ("an empty person", {"sub": ""}, "token.claims"),
    ("no client", {"client_id": REMOVE}, "token.claims"),
    ("no key", {"cnf": REMOVE}, "token.claims"),
    ("a certificate", {"cnf": {"x5t#S256": "J" * 43}}, "token.claims"),
    ("two bindings", {"cnf": {"jkt": "J" * 43, "x5t#S256": "J" * 43}}, "token.claims"),
    ("a short key", {"cnf": {"jkt": "J"}}, "token.claims"),
    ("a key that is no text", {"cnf": {"jkt": 7}}, "token.claims"),
    ("no details", {"authorization_details": REMOVE}, "token.claims"),
    ("details without roles", {"authorization_details": [{"type": "staff"}]}, "token.claims"),
    ("no roles", {"authorization_details": [{"type": "staff", "roles": []}]}, "token.claims"),
    ("an unknown role", {"authorization_details": [{"type": "staff", "roles": ["root"]}]}, "token.claims"),
    ("a carrier's details", {"authorization_details": [{"type": "cdr_billing"}]}, "token.claims"),
    ("too long a life", {"exp": NOW + 400}, "token.time"),
    ("no identifier", {"jti": REMOVE}, "token.claims"),
]


@pytest.mark.parametrize(("change", "reason"), [(c, r) for _, c, r in BAD], ids=[n for n, _, _ in BAD])
def test_what_we_would_not_have_written_is_refused(signing: SigningKeys, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read(signing, signed(signing, change))
    assert caught.value.reason == reason


def test_another_key_or_header_is_refused(signing: SigningKeys) -> None:
    for header, reason in (({"kid": "x"}, "token.key"), ({"typ": "JWT"}, "token.type"), ({"x": 1}, "token.header")):
        with pytest.raises(Refused) as caught:
            read(signing, signed(signing, {}, header))
        assert caught.value.reason == reason


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.just("staff"),
                          lambda inner: st.lists(inner, max_size=3)
                          | st.dictionaries(st.sampled_from(["type", "roles", "x"]), inner, max_size=3)))  # fmt: skip
def test_whatever_is_asked_for_it_is_roles_or_refused(value: Any) -> None:
    try:
        found = stafftokens.wanted(json.dumps(value))
        assert found is None or found <= set(StaffRole)
    except Refused as refused:
        assert refused.reason == "details.invalid"  # noqa: PT017


def test_what_each_refusal_says_is_of_the_known_ones() -> None:
    assert SAYS.keys() == {reason for reason in REASONS if reason.startswith("staff.")}
    assert all(text.isprintable() and '"' not in text for text in SAYS.values())  # it stands in WWW-Authenticate


CONFIG = Config(oidc_issuer="https://login.carrier.example", oidc_client_id="tollgate")
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("oidc_issuer", {"oidc_issuer": "http://login.carrier.example"}),
    ("oidc_issuer", {"oidc_issuer": "login.carrier.example"}),
    ("oidc_issuer", {"oidc_issuer": "https://login.carrier.example?x=1"}),
    ("oidc_issuer", {"oidc_issuer": "https://u:p@login.carrier.example"}),
    ("oidc_client_id", {"oidc_client_id": ""}),
    ("oidc_algorithms", {"oidc_algorithms": ""}),
    ("oidc_algorithms", {"oidc_algorithms": "RS256 none"}),
    ("oidc_algorithms", {"oidc_algorithms": "HS256"}),
    ("oidc_groups_claim", {"oidc_groups_claim": ""}),
    ("staff_session_s", {"staff_session_s": 0}),
    ("staff_requests_per_minute", {"staff_requests_per_minute": 0}),
]


@pytest.mark.parametrize(("setting", "change"), WRONG, ids=str)
def test_settings_that_cannot_be(setting: str, change: dict[str, Any]) -> None:
    assert check_config(CONFIG) == ("RS256",)
    with pytest.raises(ConfigError, match=setting):
        check_config(replace(CONFIG, **change))


def test_certificates_that_are_none(tmp_path: Path) -> None:
    for name, text in (("none.pem", None), ("text.pem", "text")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="oidc_ca"):
            OpenIdProvider(replace(CONFIG, oidc_ca=str(tmp_path / name)))


def test_a_role_without_a_group_is_nobodys() -> None:
    assert group_roles(CONFIG)[StaffRole.NOC] == "tollgate-noc"
    assert StaffRole.NOC not in group_roles(replace(CONFIG, oidc_group_noc=""))
    assert group_roles(CONFIG).keys() == set(StaffRole)
