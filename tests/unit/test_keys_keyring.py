"""The keyring on disk: modes, crashes at every step, several processes, what a changed file does."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keys.backup import restore
from keys.errors import KeyringError, KeyUnavailable, SealError
from keys.file_provider import FileProvider
from keys.keyring import LOCK, RING, ROOT, Keyring
from keys.provider import Period
from keys.ring import Ring, new_ring, new_root
from keys.ringfile import dump_ring, dump_roots, load_ring, load_roots
from tests.support.keys import DECEMBER, NOVEMBER, PARTIES, vectors

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PLAIN = b"a data key"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    FileProvider.create(path)
    return path


@pytest.fixture
def provider(directory: Path) -> FileProvider:
    return FileProvider(directory)


# --- wrapping ------------------------------------------------------------------------------------------------------


async def test_what_is_wrapped_opens_in_another_process(provider: FileProvider, directory: Path) -> None:
    first, second = await provider.wrap(NOVEMBER, PLAIN), await provider.wrap(PARTIES, b"another")
    other = FileProvider(directory)
    assert await other.unwrap_many([(PARTIES, second), (NOVEMBER, first), (PARTIES, second)]) == [
        b"another",
        PLAIN,
        b"another",
    ]
    assert await other.unwrap_many([]) == []


async def test_a_wrapped_key_says_version_algorithm_and_key(provider: FileProvider) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    assert wrapped[:4] == b"TW\x01\x01"
    assert wrapped[4:12] == provider.keyring.read().periods[NOVEMBER].key_id
    assert PLAIN not in wrapped


async def test_every_flipped_bit_of_a_wrapped_key_is_noticed(provider: FileProvider) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    for position in range(len(wrapped)):
        wrong = bytearray(wrapped)
        wrong[position] ^= 1
        with pytest.raises((SealError, KeyUnavailable)):
            await provider.unwrap_many([(NOVEMBER, bytes(wrong))])
    for cut in range(len(wrapped)):
        with pytest.raises((SealError, KeyUnavailable)):
            await provider.unwrap_many([(NOVEMBER, wrapped[:cut])])


async def test_one_period_cannot_stand_for_another(provider: FileProvider) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    for period in (DECEMBER, PARTIES):
        await provider.wrap(period, b"x")
        with pytest.raises(KeyUnavailable):
            await provider.unwrap_many([(period, wrapped)])


async def test_the_period_is_bound_even_under_one_key(provider: FileProvider) -> None:
    """Were two periods ever to share a key (a keyring edited by hand), a wrapped key still would not move."""
    ring = new_ring().with_period(NOVEMBER, NOW).with_period(PARTIES, NOW)
    key_id, key = ring.period_key(NOVEMBER)
    from keys.ring import _period_context

    twin = replace(ring.periods[PARTIES], key_id=key_id, wrapped=ring._wrap(key, _period_context(PARTIES, key_id)))
    ring = replace(ring, periods={**ring.periods, PARTIES: twin})
    wrapped = ring.wrap(NOVEMBER, PLAIN)
    assert ring.unwrap(NOVEMBER, wrapped) == PLAIN
    with pytest.raises(SealError):
        ring.unwrap(PARTIES, wrapped)


async def test_a_period_without_key(provider: FileProvider) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    with pytest.raises(KeyUnavailable, match="no key for timing/202612"):
        await provider.unwrap_many([(DECEMBER, wrapped)])


async def test_classes_limit_what_a_process_opens(provider: FileProvider, directory: Path) -> None:
    wrapped = await provider.wrap(PARTIES, PLAIN)
    other = FileProvider(directory, classes=frozenset({"timing"}))
    await other.wrap(NOVEMBER, PLAIN)
    for call in (other.wrap(PARTIES, PLAIN), other.unwrap_many([(PARTIES, wrapped)]), other.destroy(PARTIES)):
        with pytest.raises(KeyUnavailable, match="not for this process"):
            await call
    assert await provider.unwrap_many([(PARTIES, wrapped)]) == [PLAIN]


async def test_secrets_stay_and_differ(provider: FileProvider, directory: Path) -> None:
    cursor = await provider.secret("cursor")
    assert len(cursor) == 32
    assert await FileProvider(directory).secret("cursor") == cursor
    assert await provider.secret("record_ids") != cursor
    with pytest.raises(ValueError, match="name"):
        await provider.secret("../x")


async def test_the_hook_hears_of_every_call(directory: Path) -> None:
    heard: list[tuple[str, str]] = []
    provider = FileProvider(directory, observe=lambda operation, outcome: heard.append((operation, outcome)))
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    await provider.secret("cursor")
    with pytest.raises(KeyUnavailable):
        await provider.unwrap_many([(DECEMBER, wrapped)])
    with pytest.raises(SealError):
        await provider.unwrap_many([(NOVEMBER, wrapped[:-1] + b"\0\0")])
    await provider.rotate_root()
    await provider.destroy(NOVEMBER)
    assert heard == [
        ("wrap", "ok"),
        ("secret", "ok"),
        ("unwrap", "unavailable"),
        ("unwrap", "broken"),
        ("rotate", "ok"),
        ("destroy", "ok"),
    ]


# --- destroying and rotating ---------------------------------------------------------------------------------------


async def test_a_destroyed_period_opens_nowhere_and_never_returns(provider: FileProvider, directory: Path) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    key = provider.keyring.read().periods[NOVEMBER].wrapped
    assert key is not None
    other = FileProvider(directory)
    assert await other.unwrap_many([(NOVEMBER, wrapped)]) == [PLAIN]
    await provider.destroy(NOVEMBER)
    for one in (provider, other, FileProvider(directory)):
        with pytest.raises(KeyUnavailable, match="destroyed"):
            await one.unwrap_many([(NOVEMBER, wrapped)])
        with pytest.raises(KeyUnavailable, match="destroyed"):
            await one.wrap(NOVEMBER, PLAIN)
    from keys.encoding import b64url_encode

    assert b64url_encode(key) not in (directory / RING).read_text()
    destroyed = provider.keyring.read().destroyed
    await provider.destroy(NOVEMBER)
    assert provider.keyring.read().destroyed == destroyed


async def test_a_period_that_never_had_a_key_can_be_destroyed(provider: FileProvider) -> None:
    await provider.destroy(NOVEMBER)
    with pytest.raises(KeyUnavailable, match="destroyed"):
        await provider.wrap(NOVEMBER, PLAIN)


async def test_rotating_the_root_keeps_everything_and_changes_every_entry(
    provider: FileProvider, directory: Path
) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    secret = await provider.secret("cursor")
    await provider.destroy(PARTIES)
    before, old_root = provider.keyring.read(), (directory / ROOT).read_bytes()
    await provider.rotate_root()
    after = FileProvider(directory)
    assert await after.unwrap_many([(NOVEMBER, wrapped)]) == [PLAIN]
    assert await after.secret("cursor") == secret
    ring = after.keyring.read()
    assert ring.destroyed == before.destroyed
    assert ring.periods[NOVEMBER].wrapped != before.periods[NOVEMBER].wrapped
    assert ring.root.key_id != before.root.key_id
    with pytest.raises(KeyringError, match="do not belong together"):
        load_ring((directory / RING).read_bytes(), load_roots(old_root))
    assert len(load_roots((directory / ROOT).read_bytes())) == 1


# --- modes and damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "wanted"), [("", 0o750, "0700"), (ROOT, 0o640, "0600"), (RING, 0o604, "0600")]
)
async def test_loose_modes_are_refused_and_the_error_says_what_to_do(
    provider: FileProvider, directory: Path, name: str, mode: int, wanted: str
) -> None:
    wrapped = await provider.wrap(NOVEMBER, PLAIN)
    path = directory / name if name else directory
    path.chmod(mode)
    with pytest.raises(KeyringError, match=f"chmod {wanted} {path}"):
        FileProvider(directory)
    with pytest.raises(KeyringError, match=f"chmod {wanted}"):
        await provider.unwrap_many([(NOVEMBER, wrapped)])
    path.chmod(int(wanted, 8))
    assert await provider.unwrap_many([(NOVEMBER, wrapped)]) == [PLAIN]


def test_what_is_made_has_tight_modes_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileProvider.create(tmp_path / "deep" / "keys")
    finally:
        os.umask(before)
    path = tmp_path / "deep" / "keys"
    assert path.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in path.iterdir()} == {ROOT: 0o600, RING: 0o600, LOCK: 0o600}


def test_a_keyring_is_never_made_over_another(directory: Path) -> None:
    before = (directory / ROOT).read_bytes(), (directory / RING).read_bytes()
    with pytest.raises(KeyringError, match="never overwritten"):
        FileProvider.create(directory)
    assert before == ((directory / ROOT).read_bytes(), (directory / RING).read_bytes())
    (directory / RING).unlink()
    with pytest.raises(KeyringError, match="never overwritten"):
        FileProvider.create(directory)
    assert (directory / ROOT).read_bytes() == before[0]


@pytest.mark.parametrize("missing", [ROOT, RING, LOCK])
def test_a_missing_file_is_named(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(KeyringError, match="restore"):
        FileProvider(directory)


def test_a_missing_directory_says_init(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="tollgate init"):
        FileProvider(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyringError):
        FileProvider.create(tmp_path / "file")


def _defects() -> list[tuple[str, str, Callable[[Any], Any] | bytes]]:
    def edit(*path: Any, to: Any) -> Callable[[Any], Any]:
        def change(value: Any) -> Any:
            target = value
            for step in path[:-1]:
                target = target[step]
            if to is None:
                del target[path[-1]]
            else:
                target[path[-1]] = to
            return value

        return change

    defects: list[tuple[str, str, Callable[[Any], Any] | bytes]] = [
        (name, text, content)
        for name in (ROOT, RING)
        for text, content in (
            ("empty", b""),
            ("binary", b"\xff\xfe\x00"),
            ("other JSON", b"[]"),
            ("null", b"null"),
            ("deep", b"[" * 100_000),
            ("another format", edit("format", to="x")),
            ("no version", edit("version", to=None)),
        )
    ]
    defects += [
        (ROOT, "no keys", edit("keys", to=[])),
        (ROOT, "short key", edit("keys", 0, "key", to="AAAA")),
        (ROOT, "key not canonical", edit("keys", 0, "key", to="A" * 42 + "B")),
        (ROOT, "unknown algorithm", edit("keys", 0, "alg", to="ROT13")),
        (ROOT, "another root", edit("keys", 0, "id", to="00" * 8)),
        (RING, "month 13", edit("periods", 0, "month", to=202613)),
        (RING, "class a number", edit("periods", 0, "class", to=7)),
        (RING, "unknown algorithm", edit("periods", 0, "alg", to="ROT13")),
        (RING, "neither live nor destroyed", edit("periods", 1, "wrapped", to=None)),
        (RING, "both live and destroyed", edit("periods", 1, "destroyed_at", to="2026-11-21T00:00:00+00:00")),
        (RING, "time without zone", edit("periods", 0, "created_at", to="2026-11-21T00:00:00")),
        (RING, "period twice", lambda v: {**v, "periods": v["periods"] * 2}),
        (RING, "signing neither", edit("signing", 0, "wrapped", to=None)),
        (RING, "bad name", edit("secrets", "../x", to="AAAA")),
    ]
    return defects


@pytest.mark.parametrize(("name", "text", "defect"), _defects(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_damaged_file_is_one_clear_error(
    tmp_path: Path, name: str, text: str, defect: Callable[[Any], Any] | bytes
) -> None:
    path = tmp_path / "keys"
    fixed = vectors("keyring.json")
    FileProvider.create(path)
    (path / ROOT).write_text(fixed[ROOT])
    (path / RING).write_text(fixed[RING])
    FileProvider(path)
    old = (path / name).read_text()
    (path / name).write_bytes(defect if isinstance(defect, bytes) else json.dumps(defect(json.loads(old))).encode())
    with pytest.raises(KeyringError, match="restore"):
        FileProvider(path)


def test_a_newer_version_is_said_to_be_one(directory: Path) -> None:
    text = (directory / RING).read_text().replace('"version": 1', '"version": 2')
    (directory / RING).write_text(text)
    with pytest.raises(KeyringError, match="upgrade"):
        FileProvider(directory)


@pytest.mark.parametrize("field", ["class", "month", "id"])
def test_an_entry_moved_to_another_name_does_not_open(field: str) -> None:
    ring = new_ring().with_period(NOVEMBER, NOW)
    value = json.loads(dump_ring(ring))
    value["periods"][0][field] = {"class": "parties", "month": 202612, "id": "00" * 8}[field]
    moved = load_ring(json.dumps(value).encode(), (ring.root,))
    with pytest.raises(KeyringError, match="does not open"):
        moved.check()
    ring.check()


def test_a_secret_cannot_take_anothers_place() -> None:
    ring = new_ring().with_secret("cursor").with_secret("record_ids")
    swapped = replace(ring, secrets={"cursor": ring.secrets["record_ids"], "record_ids": ring.secrets["cursor"]})
    with pytest.raises(KeyringError, match="does not open"):
        swapped.secret("cursor")


# --- known answers -------------------------------------------------------------------------------------------------


async def test_a_keyring_of_this_version_opens(tmp_path: Path) -> None:
    fixed = vectors("keyring.json")
    path = tmp_path / "keys"
    FileProvider.create(path)
    (path / ROOT).write_text(fixed[ROOT])
    (path / RING).write_text(fixed[RING])
    provider = FileProvider(path)
    key = fixed["data_key"]
    (envelope,) = await provider.unwrap_many([(Period(key["class"], key["month"]), bytes.fromhex(key["wrapped"]))])
    assert envelope == b"TD\x01" + int(key["key_id"]).to_bytes(8, "big") + bytes.fromhex(key["secret"])
    assert (await provider.secret("cursor")).hex() == fixed["secrets"]["cursor"]
    with pytest.raises(KeyUnavailable, match="destroyed"):
        await provider.wrap(Period(fixed["destroyed"]["class"], fixed["destroyed"]["month"]), PLAIN)


def test_what_is_written_reads_back() -> None:
    ring = new_ring().with_period(NOVEMBER, NOW).with_period(PARTIES, NOW).without_period(PARTIES, NOW)
    ring = ring.with_secret("cursor")
    assert load_ring(dump_ring(ring), load_roots(dump_roots((ring.root,)))) == ring


def test_nothing_prints_a_key() -> None:
    ring = new_ring().with_period(NOVEMBER, NOW).with_secret("cursor")
    assert repr(ring.root.key) not in repr(ring)
    assert repr(ring.periods[NOVEMBER].wrapped) not in repr(ring)


# --- crashes -------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """Stands for the process's death: no `except OSError` tidies up after it."""


def _counting(monkeypatch: pytest.MonkeyPatch, action: Callable[[int, Callable[[], Any]], Any]) -> list[str]:
    """Run ``action(n, call)`` for the n-th call of what makes a write."""
    calls: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            calls.append(name)
            return action(len(calls), lambda: real(*args, **kwargs))

        monkeypatch.setattr(os, name, replacement)

    for name in ("open", "fsync", "rename"):
        wrap(name)
    return calls


CHANGES: dict[str, Callable[[Path, Ring], object]] = {
    "new period": lambda path, _: Keyring(path).update(lambda r: r.with_period(DECEMBER, NOW)),
    "rotation": lambda path, _: Keyring(path).update(lambda r: r.under(new_root())),
    "destruction": lambda path, _: Keyring(path).update(lambda r: r.without_period(PARTIES, NOW)),
}


@pytest.mark.parametrize("before", [True, False], ids=["before the call", "after the call"])
@pytest.mark.parametrize("change", CHANGES)
def test_death_at_any_step_leaves_the_old_or_the_new_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, before: bool
) -> None:
    for step in range(1, 50):
        path = tmp_path / f"keys{step}"
        FileProvider.create(path)
        ring = Keyring(path).update(lambda r: r.with_period(NOVEMBER, NOW).with_period(PARTIES, NOW))
        wrapped = ring.wrap(NOVEMBER, PLAIN)

        def die(n: int, call: Callable[[], Any], step: int = step) -> Any:
            if n == step and before:
                raise Died
            result = call()
            if n == step:
                raise Died
            return result

        with monkeypatch.context() as patch:
            calls = _counting(patch, die)
            try:
                CHANGES[change](path, ring)
                died = False
            except Died:
                died = True
        after = Keyring(path).read()
        assert after.unwrap(NOVEMBER, wrapped) == PLAIN
        after.check()
        CHANGES[change](path, ring)  # the same run again repairs whatever was left
        final = Keyring(path)
        assert final.read().unwrap(NOVEMBER, wrapped) == PLAIN
        assert len(load_roots((path / ROOT).read_bytes())) == 1
        final.update(lambda r: r.with_secret("cursor"))
        assert sorted(p.name for p in path.iterdir()) == sorted([ROOT, RING, LOCK])
        if not died:
            assert step > 4
            assert len(calls) < step
            return
    pytest.fail("the change never ended")


@pytest.mark.parametrize("persisted", [False, True], ids=["not persisted", "persisted"])
def test_a_write_that_fails_says_so_and_leaves_a_whole_keyring(
    directory: Path, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    keyring = Keyring(directory)
    generation = keyring.read().generation

    def fail(n: int, call: Callable[[], Any]) -> Any:
        # The calls of one replacement: lock, temporary file, its fsync, rename, fsync of the directory.
        if n == (5 if persisted else 3):
            raise OSError(28, "No space left on device")
        return call()

    with monkeypatch.context() as patch:
        _counting(patch, fail)
        with pytest.raises(KeyringError, match="No space left"):
            keyring.update(lambda r: r.with_period(NOVEMBER, NOW))
    assert Keyring(directory).read().generation == generation + (1 if persisted else 0)
    assert keyring.read() == Keyring(directory).read()
    assert sorted(p.name for p in directory.iterdir()) == sorted([ROOT, RING, LOCK])
    keyring.update(lambda r: r.with_period(NOVEMBER, NOW))
    assert NOVEMBER in Keyring(directory).read().live


def test_death_in_a_restore_is_repaired_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = new_ring().with_period(NOVEMBER, NOW)
    wrapped = backup.wrap(NOVEMBER, PLAIN)
    for step in range(1, 60):
        path = tmp_path / f"keys{step}"
        old = FileProvider.create(path).keyring.update(lambda r: r.with_period(DECEMBER, NOW))

        def die(n: int, call: Callable[[], Any], step: int = step) -> Any:
            if n == step:
                raise Died
            return call()

        with monkeypatch.context() as patch:
            _counting(patch, die)
            try:
                restore(path, backup, NOW, force=True)
                return
            except Died:
                pass
        done = restore(path, backup, datetime(2026, 11, 22, tzinfo=UTC), force=True)
        assert Keyring(path).read().unwrap(NOVEMBER, wrapped) == PLAIN
        # Whatever the first attempt came to, the old root key is still somewhere.
        copies = [p / ROOT for p in path.glob("replaced-*") if (p / ROOT).exists()]
        assert old.root in [root for copy in copies for root in load_roots(copy.read_bytes())]
        assert done.kept is not None
    pytest.fail("the restore never ended")


# --- several processes ---------------------------------------------------------------------------------------------

_WORKER = """
import asyncio, sys
from pathlib import Path
from keys.file_provider import FileProvider
from keys.provider import Period

async def main():
    provider = FileProvider(Path(sys.argv[1]))
    months = [202600 + m for m in range(1, 13)]
    for month in months if sys.argv[2] == "0" else months[::-1]:
        period = Period("timing", month)
        wrapped = await provider.wrap(period, b"from " + sys.argv[2].encode())
        print(month, wrapped.hex())
    if sys.argv[2] == "1":
        await provider.rotate_root()
    print("secret", (await provider.secret("cursor")).hex())

asyncio.run(main())
"""


def _start(directory: Path, number: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _WORKER, str(directory), str(number)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


async def test_processes_agree_on_every_key(directory: Path, provider: FileProvider) -> None:
    workers = [_start(directory, i) for i in range(3)]
    outputs = await asyncio.gather(*(asyncio.to_thread(w.communicate) for w in workers))
    assert [w.returncode for w in workers] == [0, 0, 0]
    secrets = set()
    for i, (text, _) in enumerate(outputs):
        lines = [line.split() for line in text.splitlines()]
        items = [(Period("timing", int(m)), bytes.fromhex(h)) for m, h in lines[:-1]]
        assert len(items) == 12
        assert await provider.unwrap_many(items) == [b"from %d" % i] * 12
        secrets.add(lines[-1][1])
    assert len(secrets) == 1


async def test_threads_of_one_process_agree(provider: FileProvider) -> None:
    wrapped = await asyncio.gather(*(provider.wrap(NOVEMBER, b"%d" % i) for i in range(20)))
    assert await provider.unwrap_many([(NOVEMBER, w) for w in wrapped]) == [b"%d" % i for i in range(20)]


async def test_a_change_by_another_process_is_seen(provider: FileProvider, directory: Path) -> None:
    other = FileProvider(directory)
    for month in range(202601, 202613):
        period = Period("tags", month)
        wrapped = await other.wrap(period, PLAIN)
        assert await provider.unwrap_many([(period, wrapped)]) == [PLAIN]


async def test_a_change_that_the_files_times_do_not_show_is_seen(
    provider: FileProvider, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = await FileProvider(directory).wrap(NOVEMBER, PLAIN)
    stamp = provider.keyring._stamp
    monkeypatch.setattr(provider.keyring, "_stamp_now", lambda: stamp)
    assert await provider.unwrap_many([(NOVEMBER, wrapped)]) == [PLAIN]


@pytest.mark.parametrize(
    ("held", "waits"), [(fcntl.LOCK_EX, "reader"), (fcntl.LOCK_EX, "writer"), (fcntl.LOCK_SH, "writer")]
)
def test_who_waits_for_whom(directory: Path, held: int, waits: str) -> None:
    """Between the steps of a rotation the files do not fit what was read before: the lock keeps readers out."""
    keyring = Keyring(directory)
    seen: list[Ring] = []

    def work() -> None:
        if waits == "reader":
            seen.append(keyring.read(fresh=True))
        else:
            seen.append(keyring.update(lambda r: r.with_period(NOVEMBER, NOW)))

    with open(directory / LOCK, "rb+") as lock:
        fcntl.flock(lock, held)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.1)
        assert not seen
        fcntl.flock(lock, fcntl.LOCK_UN)
        thread.join()
    assert len(seen) == 1


def test_readers_do_not_wait_for_readers(directory: Path) -> None:
    keyring = Keyring(directory)
    with open(directory / LOCK, "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert keyring.read(fresh=True) == keyring.read()


def test_a_change_is_made_to_what_is_on_disk_not_to_what_was_read(directory: Path) -> None:
    first, second = Keyring(directory), Keyring(directory)
    second.update(lambda r: r.with_period(NOVEMBER, NOW))
    first.update(lambda r: r.with_period(DECEMBER, NOW))
    assert second.read().live == {NOVEMBER, DECEMBER}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change a file's owner")
async def test_root_leaves_the_services_keyring_to_the_service(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12346)
    provider = FileProvider.create(path)
    await provider.wrap(NOVEMBER, PLAIN)
    await provider.rotate_root()
    assert {(p.stat().st_uid, p.stat().st_gid) for p in path.iterdir()} == {(12345, 12346)}
