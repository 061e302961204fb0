"""Keys for tests: fixed data keys, keyrings in temporary directories, the known-answer files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keys.errors import KeyUnavailable
from keys.file_provider import FileProvider
from keys.provider import DataKey, Period, Provider

VECTORS = Path(__file__).parents[1] / "vectors" / "keys"

NOVEMBER = Period("timing", 202611)
DECEMBER = Period("timing", 202612)
PARTIES = Period("parties", 202611)


def vectors(name: str) -> dict[str, Any]:
    """Return a known-answer file of tests/vectors/keys."""
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    return loaded


def data_key(seed: int = 1, period: Period = NOVEMBER) -> DataKey:
    """Return a data key that is the same for the same seed."""
    return DataKey(seed, period, bytes((seed * 7 + i) % 256 for i in range(32)))


def file_provider(directory: Path) -> FileProvider:
    """Return a provider on a new keyring below ``directory``."""
    return FileProvider.create(directory / "keys")


class CountingProvider(Provider):
    """Passes on to another provider, counts the calls, and fails when told to."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.wraps = 0
        self.unwraps = 0
        self.down = False

    async def wrap(self, period: Period, plaintext: bytes) -> bytes:
        self.wraps += 1
        self._check()
        return await self.inner.wrap(period, plaintext)

    async def unwrap_many(self, items: Sequence[tuple[Period, bytes]]) -> list[bytes]:
        self.unwraps += 1
        self._check()
        return await self.inner.unwrap_many(items)

    async def secret(self, name: str) -> bytes:
        self._check()
        return await self.inner.secret(name)

    def _check(self) -> None:
        if self.down:
            raise KeyUnavailable("the provider is down")
