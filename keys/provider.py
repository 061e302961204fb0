"""The key provider: who holds the period keys.

A *period key* belongs to one class and one month and wraps that month's data key of the class. PostgreSQL sees only
wrapped keys. What may be sealed under a class is its caller's affair: this package knows nothing of records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

_CLASS = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """What one period key is for.

    Args:
        key_class: a lower-case word: ``timing``, ``tags``, ``fingerprints``, ``log_actor`` ...
        month: year and month as the integer yyyymm, 190001 to 999912.

    Raises:
        ValueError: if either is not of that form.
    """

    key_class: str
    month: int

    def __post_init__(self) -> None:
        if _CLASS.fullmatch(self.key_class) is None:
            raise ValueError("a key class is a lower-case word of at most 48 letters, digits and underscores")
        if not 190_001 <= self.month <= 999_912 or not 1 <= self.month % 100 <= 12:
            raise ValueError("a month is an integer yyyymm")

    def __str__(self) -> str:
        return f"{self.key_class}/{self.month}"


@dataclass(frozen=True, slots=True)
class DataKey:
    """A period's data key, opened: what that month's blobs, tags or fingerprints of the class are made with."""

    key_id: int
    """A random positive 64-bit integer; stands in clear in whatever was sealed."""
    period: Period
    secret: bytes = field(repr=False)
    """32 bytes."""


def check_name(name: str) -> str:
    """Return ``name`` if it can name a secret or a signing purpose (a lower-case word, at most 48 characters).

    Raises:
        ValueError: if it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError("a name is a lower-case word of at most 48 letters, digits and underscores")
    return name


class Provider(Protocol):
    """Wraps and unwraps under period keys that never leave it (a file, an HSM, a transit service)."""

    async def wrap(self, period: Period, plaintext: bytes) -> bytes:
        """Return ``plaintext`` wrapped under the period's key, which is made if it is missing.

        The result is bound to the period, and says its version and algorithm.

        Raises:
            KeyUnavailable: if the period was destroyed, or its class is not for this process.
        """
        ...

    async def unwrap_many(self, items: Sequence[tuple[Period, bytes]]) -> list[bytes]:
        """Return the plaintexts of what `wrap` returned, in order; all or nothing.

        Raises:
            KeyUnavailable: if a period's key is absent, destroyed or not for this process.
            SealError: if a wrapped value was altered or belongs to another period.
        """
        ...

    async def secret(self, name: str) -> bytes:
        """Return the long-lived 32-byte secret of that name, made on first use (``cursor``, ``record_ids`` ...)."""
        ...
