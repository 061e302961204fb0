"""The token signing keys in memory: read off the event loop, seldom, and again for a key nobody knows yet."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keys.errors import KeyringError
from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.oauth import signing
from proxy.oauth.errors import Refused
from proxy.oauth.signing import FRESH_S, TokenKeys

READ: dict[str, Any] = {"now": 0.0, "skew": 10.0}


class Counted(SigningKeys):
    """Counts readings and notes where they ran; can fail, or wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.threads: list[int] = []
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()

    def current(self, purpose: str) -> Any:
        self.threads.append(threading.get_ident())
        self.gate.wait(20)
        if self.failing:
            raise KeyringError("open to others")
        return super().current(purpose)


class Wants:
    """A reader that wants one kid."""

    def __init__(self, kid: str) -> None:
        self.kid = kid

    def read(self, text: str, published: Any, *, now: float, skew: float) -> Any:
        if all(jwk["kid"] != self.kid for jwk in published):
            raise Refused("token.key")
        return text


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    FileProvider.create(tmp_path / "keys")
    return Counted(tmp_path / "keys")


async def test_files_are_read_in_a_thread_and_at_most_once_a_second(counted: Counted) -> None:
    now = 100.0
    keys = TokenKeys(counted, lambda: now)
    first = await keys.current()
    for _ in range(5):
        assert (await keys.published())[0]["kid"] == (await keys.current()).kid == first.kid
    assert len(counted.threads) == 1
    assert threading.get_ident() not in counted.threads
    now += FRESH_S + 0.01
    await keys.published()
    assert len(counted.threads) == 2


async def test_a_key_that_was_just_made_is_known(counted: Counted, tmp_path: Path) -> None:
    now = 100.0
    keys = TokenKeys(counted, lambda: now)
    await keys.published()
    until = datetime.now(UTC) + timedelta(minutes=10)
    made = SigningKeys(tmp_path / "keys").rotate("token", keep_until=until)
    now += 0.01
    assert await keys.read(Wants(made.kid), "text", **READ) == "text"  # type: ignore[arg-type]
    with pytest.raises(Refused):
        await keys.read(Wants("made-up"), "text", **READ)  # type: ignore[arg-type]


async def test_whoever_makes_up_keys_gets_one_reading_for_all(counted: Counted) -> None:
    now = 100.0
    keys = TokenKeys(counted, lambda: now)
    await keys.published()
    now += 0.01
    counted.gate.clear()
    asked = [asyncio.create_task(keys.read(Wants("made-up"), "x", **READ)) for _ in range(50)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asked[0].cancel()
    counted.gate.set()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, Refused | asyncio.CancelledError) for error in ended)
    assert sum(isinstance(error, Refused) for error in ended) == 49
    assert len(counted.threads) == 2


async def test_a_keyring_that_cannot_be_read_or_hangs_gives_no_keys(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    keys = TokenKeys(counted, lambda: now)
    await keys.published()
    counted.failing = True
    now += FRESH_S + 0.01
    with pytest.raises(KeyringError):
        await keys.published()
    counted.failing = False
    monkeypatch.setattr(signing, "WAIT_S", 0.05)
    counted.gate.clear()
    with pytest.raises(TimeoutError):
        await keys.current()
    counted.gate.set()
    monkeypatch.setattr(signing, "WAIT_S", 5.0)
    assert (await keys.current()).kid == (await keys.published())[0]["kid"]
