"""The provider's ID token (OpenID Connect Core section 2), as proof of who a member of staff is. Pure.

It is taken only with the DPoP key whose RFC 7638 thumbprint is its ``nonce``: the person signed in for that key, and
whoever copies the token has not the key. So it may come again until it expires, which is how a command gets its
five-minute tokens. Only the configured algorithms, only keys of the configured issuer, only us as audience.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from proxy.oauth.errors import Refused
from proxy.oauth.jws import Compact, check_times, number, parse, verify
from proxy.registry.jwk import JwkError, PublicKey, public_key

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""What `Config.oidc_algorithms` may name. RS256 is what OpenID providers sign with unless told otherwise."""

SIZE_MAX = 32_768
"""Most characters of an ID token: it comes in a form, not in a header line, and may list many groups."""

_GROUPS_MAX = 2000
_SUBJECT_MAX = 255  # section 2
_KEYS_MAX = 64
_TYPES = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in, by an ID token that holds."""

    subject: str
    groups: frozenset[str]


class ProviderKeys:
    """The keys of a JWKS that can sign ID tokens, each for one algorithm.

    Args:
        jwks: the members of ``keys`` (RFC 7517 section 5), unchecked. What cannot be used (encryption keys, other
            curves, other algorithms) is left out, as that section says.
        algorithms: those that are configured.
    """

    def __init__(self, jwks: Sequence[Any], algorithms: Sequence[str]) -> None:
        self._keys: list[tuple[object, PublicKey]] = []
        for item in jwks[:_KEYS_MAX]:
            if isinstance(item, dict):
                self._keys += [(item.get("kid"), key) for alg in algorithms if (key := _usable(item, alg)) is not None]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, compact: Compact) -> PublicKey | None:
        """Return the one key that the token can be signed with; None where there is none, or more than one.

        By its ``kid``; a token without one is that of the sole key of its algorithm.
        """
        found = [key for kid, key in self._keys if key.alg == compact.alg]
        if "kid" in compact.header:
            named = compact.header["kid"]
            found = [key for kid, key in self._keys if key.alg == compact.alg and kid == named and isinstance(kid, str)]
        return found[0] if len(found) == 1 else None


def _usable(jwk: Mapping[str, Any], alg: str) -> PublicKey | None:
    if jwk.get("kty") != _TYPES[alg] or jwk.get("alg", alg) != alg or jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    # The registry's checks are of the numbers: length, exponent, point on the curve, nothing private.
    core = {name: value for name, value in jwk.items() if name not in ("alg", "use", "key_ops", "x5u", "jku")}
    try:
        checked = public_key(core)
        return PublicKey(alg, checked.thumbprint, checked.jwk, jwt.PyJWK(checked.jwk, algorithm=alg))
    except (JwkError, jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None


def read(text: str, algorithms: Sequence[str]) -> Compact:
    """Take an ID token apart.

    Raises:
        Refused: subject.malformed, .header, .type or .alg.
    """
    return parse("subject", text, ("", "jwt"), algorithms=algorithms, size_max=SIZE_MAX)


def check(
    compact: Compact,
    key: PublicKey,
    *,
    issuer: str,
    client_id: str,
    groups_claim: str,
    jkt: str,
    now: float,
    skew: float,
    age_max: float,
) -> Person:
    """Check an ID token (section 3.1.3.7) and return whom it speaks of.

    Args:
        compact: what `read` returned.
        key: the provider's key that it must be signed with.
        issuer: ``iss``, byte for byte.
        client_id: ``aud``: this string, or a list of this alone; and ``azp``, where there is one.
        groups_claim: the claim that lists groups; absent: in none.
        jkt: thumbprint of the key of the DPoP proof that came with it, which must be its ``nonce``.
        now: seconds since 1970-01-01 UTC, by the database's clock.
        skew: seconds an ``iat`` or ``nbf`` may be ahead.
        age_max: seconds after its ``iat`` that it is taken, however long it says it is good.

    Raises:
        Refused: subject.signature, .alg, .claims, .time or .binding.
    """
    required = ("iss", "sub", "aud", "exp", "iat", "nonce")
    verify(compact, key, require=required, issuer=issuer)
    c = compact.claims
    if c["aud"] not in (client_id, [client_id]) or c.get("azp", client_id) != client_id:
        raise Refused("subject.claims")
    subject = c["sub"]
    if not isinstance(subject, str) or not 1 <= len(subject) <= _SUBJECT_MAX or not subject.isprintable():
        raise Refused("subject.claims")
    check_times(compact, now, skew)
    if (number(compact, "iat") or 0.0) < now - age_max - skew:
        raise Refused("subject.time")
    nonce = c["nonce"]
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), jkt.encode()):
        raise Refused("subject.binding")
    groups = c.get(groups_claim, [])
    if not isinstance(groups, list) or len(groups) > _GROUPS_MAX or not all(isinstance(g, str) for g in groups):
        raise Refused("subject.claims")
    return Person(subject, frozenset(groups))
