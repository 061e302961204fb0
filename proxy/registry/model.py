"""Who may ask: carriers, OCN ownership, agreements and API clients, as values that check themselves.

Dates are UTC days and every period is half-open: from its first day, until before its last (None: open).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeAlias

from schema.fields import ocn_code

Network: TypeAlias = IPv4Network | IPv6Network

REQUESTS_PER_MINUTE = 600
"""A client's requests in a minute where the operator says nothing else."""
ROWS_PER_DAY = 20_000_000
"""A client's records in a UTC day where the operator says nothing else."""

_CARRIER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CLIENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_TEXT_MAX = 200
_KEYS_MAX = 8
_NETWORKS_MAX = 64


class RegistryError(Exception):
    """A change cannot be made; the message says why and what to do. Base of the registry's errors."""


class NotFound(RegistryError):  # noqa: N818 - what is so
    """There is no such carrier, OCN, agreement, client or key."""


class Conflict(RegistryError):  # noqa: N818
    """It is there already, or overlaps what is there."""


class QuotaExceeded(RegistryError):  # noqa: N818
    """A client's rows of the day are spent.

    Attributes:
        remaining: rows it may still be given today.
        resets_at: when the next UTC day begins.
    """

    def __init__(self, remaining: int, resets_at: datetime) -> None:
        super().__init__("the rows of this day are spent")
        self.remaining = remaining
        self.resets_at = resets_at


@dataclass(frozen=True, slots=True)
class Carrier:
    """A peer carrier. ``carrier_id`` is a short lower-case name of ours."""

    carrier_id: str
    name: str
    disabled_at: datetime | None = None

    def __post_init__(self) -> None:
        if _CARRIER.fullmatch(self.carrier_id) is None:
            raise RegistryError("a carrier id is 1 to 63 lower-case letters, digits and hyphens")
        check_text("a carrier's name", self.name)


@dataclass(frozen=True, slots=True, order=True)
class OcnOwnership:
    """An operating company number and when it is a carrier's."""

    ocn: str
    carrier_id: str
    valid_from: date
    valid_to: date | None = None

    def __post_init__(self) -> None:
        check_ocn(self.ocn)
        check_period(self.valid_from, self.valid_to)

    @property
    def from_us(self) -> int:
        """First moment, microseconds since 1970-01-01 UTC."""
        return day_us(self.valid_from)

    @property
    def to_us(self) -> int | None:
        """First moment after it, microseconds since 1970-01-01 UTC; None: open."""
        return None if self.valid_to is None else day_us(self.valid_to)

    def as_json(self) -> dict[str, str | None]:
        """Return the OCN and its days as JSON values."""
        end = None if self.valid_to is None else self.valid_to.isoformat()
        return {"ocn": self.ocn, "from": self.valid_from.isoformat(), "to": end}


@dataclass(frozen=True, slots=True)
class Agreement:
    """An interconnection agreement; ``cpni_clause`` says where it permits the exchange (47 U.S.C. 222(d)(1))."""

    reference: str
    carrier_id: str
    in_force_from: date
    in_force_to: date | None
    cpni_clause: str
    disabled_at: datetime | None = None

    def __post_init__(self) -> None:
        check_text("an agreement's reference", self.reference)
        check_text("the CPNI clause", self.cpni_clause)
        check_period(self.in_force_from, self.in_force_to)


@dataclass(frozen=True, slots=True)
class Client:
    """A carrier's API client. It may ask only from ``networks`` and sign only with its registered keys."""

    client_id: str
    carrier_id: str
    jwks: tuple[Mapping[str, Any], ...]
    networks: tuple[Network, ...]
    requests_per_minute: int = REQUESTS_PER_MINUTE
    rows_per_day: int = ROWS_PER_DAY
    disabled_at: datetime | None = field(default=None)

    def __post_init__(self) -> None:
        if _CLIENT.fullmatch(self.client_id) is None:
            raise RegistryError("a client id is 1 to 63 lower-case letters, digits, dots, hyphens and underscores")
        if not 1 <= len(self.networks) <= _NETWORKS_MAX:
            raise RegistryError(
                f"a client needs 1 to {_NETWORKS_MAX} allowed networks (everywhere: 0.0.0.0/0 and ::/0)"
            )
        if len(self.jwks) > _KEYS_MAX:
            raise RegistryError(f"a client has at most {_KEYS_MAX} keys")
        if not 1 <= self.requests_per_minute <= 1_000_000:
            raise RegistryError("requests per minute must be 1 to 1,000,000")
        if not 1 <= self.rows_per_day <= 10**12:
            raise RegistryError("rows per day must be 1 to 10^12")


def check_ocn(ocn: str) -> str:
    """Return ``ocn`` if it is one: four letters or digits in upper case.

    Raises:
        RegistryError: if not; ``none`` and ``unmapped`` are nobody's.
    """
    try:
        code = ocn_code(ocn)
    except ValueError as error:
        raise RegistryError(str(error)) from error
    if code < 0:
        raise RegistryError("an OCN is four letters or digits in upper case")
    return ocn


def check_period(first: date, end: date | None) -> None:
    """Refuse a period that holds no day, or years outside 1984 (divestiture) to 2100.

    Raises:
        RegistryError: says which.
    """
    if end is not None and end <= first:
        raise RegistryError("a period ends after it begins (its last day is the first that is not in it)")
    for day in (first, end):
        if day is not None and not 1984 <= day.year <= 2100:
            raise RegistryError("a date lies outside 1984 to 2100")


def check_text(what: str, text: str) -> str:
    """Return ``text`` if it is 1 to 200 printable characters without blanks around it.

    Raises:
        RegistryError: if not.
    """
    if not 1 <= len(text) <= _TEXT_MAX or text != text.strip() or not text.isprintable():
        raise RegistryError(f"{what} is 1 to {_TEXT_MAX} printable characters")
    return text


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks in CIDR form (a bare address is a network of one), none twice.

    Raises:
        RegistryError: on host bits below the prefix, or what is no network.
    """
    found: dict[Network, None] = {}
    for text in texts:
        try:
            found[ip_network(text)] = None
        except ValueError as error:
            raise RegistryError(f"not a network: {error}") from error
    return tuple(found)


def day_us(day: date) -> int:
    """Return the first moment of a UTC day in microseconds since 1970-01-01 UTC."""
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1_000_000
