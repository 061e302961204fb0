"""What disclosure needs from the authorization server, as shapes (proxy/oauth fills them; the two know nothing of each
other's insides)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from aiohttp import web

from proxy.policy import Holding, Ownership


class OcnPeriod(Protocol):
    """When an OCN is the carrier's."""

    @property
    def ocn(self) -> str: ...
    @property
    def from_us(self) -> int: ...
    @property
    def to_us(self) -> int | None: ...


class Grant(Protocol):
    """What a live, bound access token grants (proxy/oauth/tokens.py)."""

    @property
    def client_id(self) -> str: ...
    @property
    def carrier_id(self) -> str: ...
    @property
    def ocns(self) -> tuple[str, ...]: ...
    @property
    def ownership(self) -> Sequence[OcnPeriod]: ...
    @property
    def purpose(self) -> str: ...
    @property
    def classes(self) -> frozenset[str]: ...
    @property
    def directions(self) -> frozenset[str]: ...
    @property
    def window(self) -> tuple[int | None, int | None]: ...
    @property
    def token_id(self) -> str: ...
    @property
    def jkt(self) -> str: ...
    @property
    def agreement(self) -> str: ...
    @property
    def expires_at(self) -> datetime: ...
    @property
    def address(self) -> str: ...
    @property
    def client_key(self) -> str: ...
    @property
    def token_hash(self) -> bytes: ...


class Guard(Protocol):
    """The resource server's checks (RFC 9449 s.7, and the registry's own)."""

    async def authenticate(self, request: web.Request) -> Grant:
        """Return what the request's token grants, or raise the server's refusal."""

    async def alive(self, grant: Grant) -> bool:
        """Tell whether client, key, agreement and token are still good; for answers that take long."""

    async def spend(self, grant: Grant, rows: int) -> bool:
        """Take rows from the client's day (give back where negative); False where there are not so many left."""


def holding_of(grant: Grant) -> Holding:
    """Return the grant as policy sees it."""
    start, end = grant.window
    return Holding(
        client_id=grant.client_id,
        carrier_id=grant.carrier_id,
        purpose=grant.purpose,
        agreement=grant.agreement,
        classes=frozenset(grant.classes),
        ocns=frozenset(grant.ocns),
        ownership=tuple(Ownership(o.ocn, o.from_us, o.to_us) for o in grant.ownership),
        directions=frozenset(grant.directions),
        start_us=start,
        end_us=end,
        expires_us=int(grant.expires_at.timestamp() * 1_000_000),
    )
