"""Compact JWS (RFC 7515), strictly: one text for one value, before any library looks at it.

PyJWT then checks the signature with a key object and exactly that key's algorithm (RFC 8725 sections 3.1 and 3.2); what
it is lenient about (duplicate members, padding, header parameters that point to keys) is refused here beforehand.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from keys.encoding import EncodingError, b64url_decode
from proxy.oauth.errors import Refused
from proxy.registry.jwk import ALGORITHMS, PublicKey

SIZE_MAX = 8190
"""Most characters of an assertion, proof or token: what a header line may hold."""

_NEVER = frozenset({"crit", "b64", "jku", "x5u", "x5c", "zip", "enc"})
"""Header parameters that change what is verified or with what: a JWS that has one is refused, not obeyed."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A parsed JWS whose signature has not been checked.

    ``what`` prefixes reasons: assertion, proof, token or subject.
    """

    what: str
    text: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def alg(self) -> str:
        """The algorithm it says it has; one of those that `parse` was given."""
        return str(self.header["alg"])


def strict_object(text: bytes | str) -> dict[str, Any]:
    """Parse a JSON object: no duplicate members, no NaN or infinity, no lone surrogate.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member is there twice")
    return value


def _no_constant(_: str) -> Any:
    raise ValueError("not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("too large a number")
    return value


def parse(
    what: str,
    text: str,
    types: Sequence[str],
    *,
    own_key: bool = False,
    algorithms: Collection[str] = ALGORITHMS,
    size_max: int = SIZE_MAX,
) -> Compact:
    """Take a compact JWS apart.

    Args:
        what: ``assertion``, ``proof``, ``token`` or ``subject``.
        text: the JWS.
        types: media types that ``typ`` may be, lower case; an empty one allows it to be absent.
        own_key: whether ``jwk`` may (and must) stand in the header.
        algorithms: what ``alg`` may be.
        size_max: most characters.

    Raises:
        Refused: what.malformed, what.header, what.type or what.alg.
    """
    segments = text.split(".")
    if len(text) > size_max or len(segments) != 3 or not all(segments):
        raise Refused(f"{what}.malformed")
    try:
        header_bytes, claims_bytes, _ = (b64url_decode(segment) for segment in segments)
        header = strict_object(header_bytes.decode("utf-8"))
        claims = strict_object(claims_bytes.decode("utf-8"))
    except (EncodingError, ValueError) as error:
        raise Refused(f"{what}.malformed") from error
    if _NEVER & header.keys() or ("jwk" in header) != own_key:
        raise Refused(f"{what}.header")
    kind = header.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise Refused(f"{what}.type")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in algorithms:
        raise Refused(f"{what}.alg")
    return Compact(what, text, header, claims)


def verify(
    compact: Compact,
    key: PublicKey,
    *,
    require: Sequence[str],
    audience: str | None = None,
    issuer: str | None = None,
    subject: str | None = None,
) -> None:
    """Check the signature, and the claims whose values are known beforehand. Times are `check_times`' affair.

    Args:
        compact: what `parse` returned.
        key: the one key it must be signed with, by that key's own algorithm.
        require: claims that must be there.
        audience: ``aud`` must be this one string (not a list of one).
        issuer: ``iss`` must be this.
        subject: ``sub`` must be this.

    Raises:
        Refused: what.alg, what.signature or what.claims.
    """
    if compact.alg != key.alg:
        raise Refused(f"{compact.what}.alg")
    try:
        jwt.decode(
            compact.text,
            key=key.key,
            algorithms=[key.alg],
            audience=audience,
            issuer=issuer,
            subject=subject,
            options={
                "require": list(require),
                "strict_aud": True,
                "verify_aud": audience is not None,
                # By the database's clock, in check_times.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError) as error:
        raise Refused(f"{compact.what}.signature") from error
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(f"{compact.what}.claims") from error


def check_times(compact: Compact, now: float, skew: float, *, exp_max: float | None = None) -> None:
    """Check ``exp``, ``nbf`` and ``iat`` where they are there (RFC 7519 section 4.1).

    Args:
        compact: the JWS.
        now: seconds since 1970-01-01 UTC.
        skew: how far ahead of ``now`` an ``iat`` or ``nbf`` may be, seconds.
        exp_max: how far ahead ``exp`` may be, seconds; None: any.

    Raises:
        Refused: what.claims (no number) or what.time.
    """
    expires, starts, issued = (number(compact, name) for name in ("exp", "nbf", "iat"))
    if expires is not None and (expires <= now or (exp_max is not None and expires > now + exp_max)):
        raise Refused(f"{compact.what}.time")
    if any(at is not None and at > now + skew for at in (starts, issued)):
        raise Refused(f"{compact.what}.time")
    if expires is not None and any(at is not None and at >= expires for at in (starts, issued)):
        raise Refused(f"{compact.what}.time")


def number(compact: Compact, name: str) -> float | None:
    """Return a NumericDate claim, None where it is absent.

    Raises:
        Refused: what.claims, if it is there and no number from 0 to 2^40.
    """
    value = compact.claims.get(name)
    if value is None and name not in compact.claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise Refused(f"{compact.what}.claims")
    return float(value)


def identifier(compact: Compact) -> str:
    """Return ``jti``.

    Raises:
        Refused: what.claims, unless it is text of 1 to 256 characters.
    """
    value = compact.claims.get("jti")
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise Refused(f"{compact.what}.claims")
    return value


def use_hash(namespace: str, owner: str, jti: str) -> bytes:
    """Return what stands for a used identifier: SHA-256, so that a stolen database tells no identifier.

    Args:
        namespace: ``assertion``, ``proof`` or ``token``.
        owner: whose identifier it is (a client id or key thumbprint; no NUL in it).
        jti: the identifier.
    """
    return hashlib.sha256(f"{namespace}\0{owner}\0{jti}".encode()).digest()
