"""Access tokens of staff (RFC 9068, RFC 9396), bound to a key as all of ours are: what is written, what is read. Pure.

``scope`` and the type of ``authorization_details`` tell them from carriers' tokens: neither is taken for the other.
A token says in which roles somebody may act; whether the roles are still theirs is asked on every use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from keys.signing import SigningKey
from proxy.oauth.errors import Refused
from proxy.oauth.jws import identifier, number, strict_object, use_hash
from proxy.oauth.tokens import OwnTokens
from proxy.staff.model import StaffRole

SCOPE = "staff"
TYPE = "staff"
"""The type of ``authorization_details``: ``[{"type": "staff", "roles": ["legal_handler"]}]``."""

_DETAILS_MAX = 2000
_THUMBPRINT_CHARS = 43


@dataclass(frozen=True, slots=True)
class StaffClaims:
    """A staff token that was read and checked."""

    staff_id: str
    client_id: str
    """What Tollgate is called at the OpenID provider (RFC 9068 section 2.2 wants a client)."""
    token_id: str
    jkt: str
    roles: frozenset[StaffRole]
    issued: int
    expires: int

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return datetime.fromtimestamp(self.expires, UTC)

    @property
    def hash(self) -> bytes:
        """What stands for its identifier among the revoked."""
        return use_hash("staff-token", self.staff_id, self.token_id)

    @property
    def details(self) -> list[dict[str, Any]]:
        """Its ``authorization_details``."""
        return [{"type": TYPE, "roles": sorted(role.value for role in self.roles)}]


def write(claims: StaffClaims, issuer: str, key: SigningKey) -> str:
    """Sign a staff token."""
    payload = {
        "iss": issuer,
        "aud": issuer,
        "sub": claims.staff_id,
        "client_id": claims.client_id,
        "iat": claims.issued,
        "exp": claims.expires,
        "jti": claims.token_id,
        "scope": SCOPE,
        "authorization_details": claims.details,
        "cnf": {"jkt": claims.jkt},
    }
    return jwt.encode(payload, key.private_key, algorithm=key.alg, headers={"typ": "at+jwt", "kid": key.kid})


class StaffReader(OwnTokens):
    """Reads the tokens of staff."""

    def read(self, text: str, published: Sequence[Mapping[str, str]], *, now: float, skew: float) -> StaffClaims:
        """Check a staff token and return what it says; arguments as `OwnTokens.opened`.

        Raises:
            Refused: token.*; ``token.purpose`` for any other token of ours, a carrier's too.
        """
        compact = self.opened(text, published, now=now, skew=skew)
        c = compact.claims
        if c["scope"] != SCOPE:
            raise Refused("token.purpose")
        cnf = c["cnf"] if isinstance(c["cnf"], dict) else {}
        issued, expires = number(compact, "iat"), number(compact, "exp")
        texts = (c["sub"], c["client_id"], cnf.get("jkt"))
        if not all(isinstance(value, str) and value for value in texts) or issued is None or expires is None:
            raise Refused("token.claims")
        if len(cnf["jkt"]) != _THUMBPRINT_CHARS or cnf.keys() != {"jkt"}:
            raise Refused("token.claims")
        roles = of_value(c["authorization_details"], "token.claims")
        if roles is None:
            raise Refused("token.claims")
        return StaffClaims(c["sub"], c["client_id"], identifier(compact), cnf["jkt"], roles, int(issued), int(expires))


def wanted(text: str | None) -> frozenset[StaffRole] | None:
    """Read the request's ``authorization_details``; None: all that the person has.

    Raises:
        Refused: details.invalid.
    """
    if text is None:
        return None
    if len(text) > _DETAILS_MAX:
        raise Refused("details.invalid")
    try:
        # Within an object, so that the strict parser's rules hold for the list too.
        value = strict_object(f'{{"details":{text}}}')
    except ValueError as error:
        raise Refused("details.invalid") from error
    if value.keys() != {"details"}:
        raise Refused("details.invalid")
    return of_value(value["details"], "details.invalid")


def of_value(value: object, reason: str) -> frozenset[StaffRole] | None:
    """Read details from their JSON value; None where they name no roles.

    Raises:
        Refused: ``reason``.
    """
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise Refused(reason)
    item = value[0]
    if item.get("type") != TYPE or item.keys() - {"type", "roles"}:
        raise Refused(reason)
    if "roles" not in item:
        return None
    roles = item["roles"]
    if not isinstance(roles, list) or not roles or not all(_is_role(r) for r in roles) or len(set(roles)) != len(roles):
        raise Refused(reason)
    return frozenset(map(StaffRole, roles))


_KNOWN: Collection[str] = frozenset(role.value for role in StaffRole)


def _is_role(value: object) -> bool:
    return isinstance(value, str) and value in _KNOWN
