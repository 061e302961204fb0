"""Backups: whole, encrypted, refused when touched; restoring loses nothing quietly and brings nothing back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keys.audit import State, Stored, StoredKey, examine
from keys.backup import make_backup, open_backup, record_backup, restore
from keys.datakeys import ALGORITHM
from keys.encoding import b64url_encode
from keys.errors import BackupError, KeyringError
from keys.file_provider import FileProvider
from keys.keyring import RING, ROOT, Keyring
from keys.ring import Ring, new_ring
from tests.support.keys import DECEMBER, NOVEMBER, PARTIES, vectors

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PASSPHRASE = "correct horse battery staple"
PLAIN = b"a data key"


def backed_up(ring: Ring) -> bytes:
    return make_backup(ring, PASSPHRASE, NOW, log_n=4)


@pytest.fixture
def ring() -> Ring:
    return new_ring().with_period(NOVEMBER, NOW).with_period(PARTIES, NOW).with_secret("cursor")


def test_a_backup_holds_everything(ring: Ring) -> None:
    assert open_backup(backed_up(ring), PASSPHRASE) == ring


def test_a_backup_shows_nothing(ring: Ring) -> None:
    data = backed_up(ring)
    assert b64url_encode(ring.root.key).encode() not in data
    assert ring.root.key not in data
    assert b"timing" not in data
    assert backed_up(ring) != data


def test_the_known_backup_opens() -> None:
    fixed = vectors("keyring.json")
    opened = open_backup(fixed["backup"]["text"].encode(), fixed["backup"]["passphrase"])
    assert opened.secret("cursor") == bytes.fromhex(fixed["secrets"]["cursor"])


@pytest.mark.parametrize("passphrase", ["", "Correct horse battery staple", PASSPHRASE + " "])
def test_another_passphrase_does_not_open(ring: Ring, passphrase: str) -> None:
    with pytest.raises(BackupError, match="passphrase"):
        open_backup(backed_up(ring), passphrase)


def test_guessing_costs_what_the_document_says(ring: Ring) -> None:
    data = make_backup(ring, PASSPHRASE, NOW)
    assert json.loads(data)["kdf"] | {"salt": ""} == {"name": "scrypt", "log2_n": 17, "r": 8, "p": 1, "salt": ""}
    assert open_backup(data, PASSPHRASE) == ring


def test_a_short_passphrase_is_refused(ring: Ring) -> None:
    with pytest.raises(BackupError, match="12 characters"):
        make_backup(ring, "elevenchars", NOW)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keyring id", lambda v: v.update(keyring="0" * 16)),
        ("generation", lambda v: v.update(generation=99)),
        ("time", lambda v: v.update(created_at="2030-01-01T00:00:00+00:00")),
        ("a new field", lambda v: v.update(note="x")),
        ("salt", lambda v: v["kdf"].update(salt="A" * 22)),
        ("cost", lambda v: v["kdf"].update(log2_n=5)),
        ("memory", lambda v: v["kdf"].update(log2_n=40)),
        ("text for a number", lambda v: v["kdf"].update(r="8")),
        ("nonce", lambda v: v.update(nonce="A" * 16)),
        ("short nonce", lambda v: v.update(nonce="AAAA")),
        ("no ciphertext", lambda v: v.pop("ciphertext")),
        ("cut ciphertext", lambda v: v.update(ciphertext=v["ciphertext"][:-4])),
        ("another format", lambda v: v.update(format="zip")),
        ("another version", lambda v: v.update(version=2)),
    ],
)
def test_a_touched_backup_does_not_open(ring: Ring, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(backed_up(ring))
    change(value)
    with pytest.raises(BackupError):
        open_backup(json.dumps(value).encode(), PASSPHRASE)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"{}", b"[" * 100_000])
def test_what_is_no_backup_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(BackupError, match="not a backup"):
        open_backup(data, PASSPHRASE)


def test_a_backup_of_a_broken_keyring_is_noticed(ring: Ring) -> None:
    from dataclasses import replace

    entry = ring.periods[NOVEMBER]
    assert entry.wrapped is not None
    broken = replace(ring, periods={NOVEMBER: replace(entry, wrapped=entry.wrapped[:-1] + b"\0\0")})
    with pytest.raises(BackupError, match="what is in it does not"):
        open_backup(backed_up(broken), PASSPHRASE)


async def test_restored_into_nothing_it_is_the_keyring_that_was(tmp_path: Path) -> None:
    provider = FileProvider.create(tmp_path / "old")
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    secret = await provider.secret("cursor")
    data = backed_up(provider.keyring.read())
    done = restore(tmp_path / "new", open_backup(data, PASSPHRASE), NOW)
    assert (done.kept, done.lost, done.still_destroyed) == (None, frozenset(), frozenset())
    again = FileProvider(tmp_path / "new")
    assert await again.unwrap_many([(NOVEMBER, wrapped)]) == [PLAIN]
    assert await again.secret("cursor") == secret


async def test_nothing_is_replaced_without_force_and_then_a_copy_is_kept(tmp_path: Path, ring: Ring) -> None:
    directory = tmp_path / "keys"
    provider = FileProvider.create(directory)
    wrapped = await provider.wrap(DECEMBER, PLAIN)
    files = (directory / ROOT).read_bytes(), (directory / RING).read_bytes()
    with pytest.raises(KeyringError, match="--force"):
        restore(directory, ring, NOW)
    assert files == ((directory / ROOT).read_bytes(), (directory / RING).read_bytes())
    done = restore(directory, ring, NOW, force=True)
    assert done.lost == {DECEMBER}
    assert done.kept is not None
    assert done.kept.stat().st_mode & 0o777 == 0o700
    assert files == ((done.kept / ROOT).read_bytes(), (done.kept / RING).read_bytes())
    assert {p.stat().st_mode & 0o777 for p in done.kept.iterdir()} == {0o600}
    assert provider.keyring.read().live == ring.live
    (done.kept / "keyring.lock").touch(mode=0o600)
    assert Keyring(done.kept).read().unwrap(DECEMBER, wrapped) == PLAIN
    assert restore(directory, ring, NOW + timedelta(seconds=1), force=True).kept != done.kept


async def test_restoring_over_a_damaged_keyring_keeps_what_is_left(tmp_path: Path, ring: Ring) -> None:
    directory = tmp_path / "keys"
    FileProvider.create(directory)
    (directory / RING).write_bytes(b"half of i")
    done = restore(directory, ring, NOW, force=True)
    assert done.kept is not None
    assert (done.kept / RING).read_bytes() == b"half of i"
    assert Keyring(directory).read().live == ring.live


async def test_a_restore_does_not_bring_back_what_was_destroyed(tmp_path: Path) -> None:
    provider = FileProvider.create(tmp_path / "keys")
    await provider.wrap(NOVEMBER, PLAIN)
    await provider.wrap(DECEMBER, PLAIN)
    data = backed_up(provider.keyring.read())
    await provider.destroy(NOVEMBER)
    await provider.destroy(PARTIES)
    generation = provider.keyring.read().generation
    done = restore(tmp_path / "keys", open_backup(data, PASSPHRASE), NOW, force=True)
    assert done.still_destroyed == {NOVEMBER}
    assert done.lost == frozenset()
    ring = Keyring(tmp_path / "keys").read()
    assert set(ring.destroyed) == {NOVEMBER, PARTIES}
    assert ring.live == {DECEMBER}
    assert ring.generation > generation


async def test_the_keyring_knows_whether_it_is_backed_up(tmp_path: Path) -> None:
    provider = FileProvider.create(tmp_path / "keys")
    ring = provider.keyring.read()
    record_backup(provider.keyring, ring.generation, NOW)
    after = provider.keyring.read()
    assert after.backup is not None
    assert (after.backup.generation, after.generation) == (ring.generation, ring.generation)
    await provider.wrap(NOVEMBER, PLAIN)
    changed = provider.keyring.read()
    assert changed.backup == after.backup
    assert changed.generation == ring.generation + 1


# --- the audit -----------------------------------------------------------------------------------------------------


def row(ring: Ring, period: Any, key_id: int = 5, envelope_id: int = 5) -> StoredKey:
    wrapped = ring.wrap(period, b"TD\x01" + envelope_id.to_bytes(8, "big") + bytes(32))
    return StoredKey(period, key_id, ALGORITHM, wrapped)


def states(ring: Ring, rows: list[StoredKey], gone: frozenset[Any] = frozenset()) -> dict[Any, State]:
    return {f.period: f.state for f in examine(ring, Stored(rows, gone))}


def test_each_state_is_told_apart(ring: Ring) -> None:
    from dataclasses import replace

    good, other = row(ring, NOVEMBER), row(ring, PARTIES)
    assert states(ring, [good, other]) == {NOVEMBER: State.OPENS, PARTIES: State.OPENS}
    assert states(ring.without_period(NOVEMBER, NOW), [good]) == {NOVEMBER: State.DESTROYED}
    assert states(ring, [replace(good, period=DECEMBER)]) == {DECEMBER: State.MISSING}
    assert states(new_ring().with_period(NOVEMBER, NOW), [good]) == {NOVEMBER: State.MISSING}
    assert states(ring, [replace(good, wrapped=good.wrapped[:-1] + b"\0\0")]) == {NOVEMBER: State.BROKEN}
    assert states(ring, [replace(good, wrapped=b"")]) == {NOVEMBER: State.BROKEN}
    assert states(ring, [row(ring, NOVEMBER, 5, 6)]) == {NOVEMBER: State.BROKEN}
    assert states(ring, [replace(good, algorithm="x")]) == {NOVEMBER: State.BROKEN}
    assert states(ring, [good], frozenset({NOVEMBER})) == {NOVEMBER: State.RETURNED}
    assert states(ring, [], frozenset({NOVEMBER})) == {NOVEMBER: State.RETURNED}
    assert states(ring.without_period(NOVEMBER, NOW), [good], frozenset({NOVEMBER})) == {NOVEMBER: State.DESTROYED}
    found = examine(ring, Stored([good], frozenset()), destroyed_elsewhere=[NOVEMBER])
    assert [f.state for f in found] == [State.RETURNED]
    assert [s for s in State if s.good] == [State.OPENS, State.DESTROYED]


def test_an_entry_of_the_keyring_that_rotted_is_broken(ring: Ring) -> None:
    from dataclasses import replace

    good = row(ring, NOVEMBER)
    entry = ring.periods[NOVEMBER]
    assert entry.wrapped is not None
    rotten = replace(ring, periods={NOVEMBER: replace(entry, wrapped=entry.wrapped[:-1] + b"\0\0")})
    assert states(rotten, [good]) == {NOVEMBER: State.BROKEN}
