"""`tollgate keys`, as a person or a script runs it, against a real database."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from keys.datakeys import DataKeys
from keys.file_provider import FileProvider
from keys.keyring import RING
from keys.signing import SigningKeys
from proxy.cli.main import main
from tests.conftest import Database
from tests.support.keys import DECEMBER, NOVEMBER, PARTIES

PASSPHRASE = "correct horse battery staple"

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def home(database: Database) -> Path:
    return database.config.home


@pytest.fixture
def provider(database: Database) -> FileProvider:
    return FileProvider.create(database.config.keyring_dir)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def keys(database: Database, passphrase: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tollgate keys ...` and return how it ended."""

    monkeypatch.setattr("keys.backup.SCRYPT_LOG_N", 4)  # its real cost has a test of its own

    async def run(*args: str | Path, secret: Path | None = passphrase) -> Result:
        words = ["--home", str(database.config.home), "keys", *map(str, args)]
        if secret is not None and (args[0] in {"backup", "restore"} or (len(args) > 1 and isinstance(args[1], Path))):
            words += ["--passphrase-file", str(secret)]
        env = {"TOLLGATE_DATABASE_URL": database.url, "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, main, words, env=env)

    return run


def _write(file: Path, data: bytes, mode: int = 0o600) -> None:
    file.write_bytes(data)
    file.chmod(mode)


def parsed(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.stdout)
    return value


async def test_lost_and_restored(
    keys: Run, home: Path, tmp_path: Path, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    """The story the commands are for: back up, lose the machine, put back, verify."""
    made = await DataKeys(provider).ensure(owner, [NOVEMBER, PARTIES])
    file = tmp_path / "backup"
    done = await keys("backup", file)
    assert done.exit_code == 0, done.stderr
    assert "every record is lost" in done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await keys("verify", file)).exit_code == 0
    shutil.rmtree(home / "keys")
    lost = await keys("verify")
    assert lost.exit_code == 3
    assert "restore" in lost.stderr
    assert (await keys("restore", file)).exit_code == 0
    checked = await keys("verify")
    assert checked.exit_code == 0, checked.stderr
    assert "2 open" in checked.stdout
    assert await DataKeys(FileProvider(home / "keys")).load(owner, [NOVEMBER, PARTIES]) == made


async def test_status_says_whether_a_backup_is_due(keys: Run, tmp_path: Path, provider: FileProvider) -> None:
    await provider.wrap(NOVEMBER, b"x")
    await provider.wrap(DECEMBER, b"x")
    await provider.destroy(PARTIES)
    first = await keys("status")
    assert first.exit_code == 0
    assert "2 months, 202611 to 202612" in first.stdout
    assert "never backed up" in first.stderr
    await keys("backup", tmp_path / "one")
    second = await keys("status")
    assert "unchanged since" in second.stdout
    assert second.stderr == ""
    await provider.wrap(PARTIES.__class__("tags", 202611), b"x")
    third = await keys("status", "--json")
    value = parsed(third)
    assert value["backup_is_current"] is False
    assert value["destroyed"][0]["class"] == "parties"
    assert "changed since its last backup" in (await keys("status")).stderr


async def test_verify_names_the_months_that_are_lost(
    keys: Run, home: Path, tmp_path: Path, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER])
    file = tmp_path / "early"
    await keys("backup", file)
    await DataKeys(provider).ensure(owner, [DECEMBER])
    early = await keys("verify", file)
    assert early.exit_code == 1
    assert "timing/202612" in early.stderr
    assert "OPEN FOR NOBODY" in early.stderr
    value = parsed(await keys("verify", file, "--json"))
    assert value["ok"] is False
    assert [(f["class"], f["month"], f["state"]) for f in value["findings"]] == [("timing", 202612, "missing")]
    forced = await keys("restore", file, "--force", "--json")
    assert forced.exit_code == 1
    assert parsed(forced)["lost"] == [{"class": "timing", "month": 202612}]
    kept = Path(parsed(forced)["kept"])
    assert (kept / RING).exists()
    assert (await keys("verify")).exit_code == 1


async def test_verify_notices_destroyed_keys_that_came_back(
    keys: Run, home: Path, tmp_path: Path, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    data = DataKeys(provider)
    await data.ensure(owner, [NOVEMBER, DECEMBER])
    file = tmp_path / "before"
    await keys("backup", file)
    await provider.destroy(NOVEMBER)
    await data.record_destroyed(owner, [NOVEMBER])
    assert (await keys("verify")).exit_code == 0
    assert parsed(await keys("verify", "--json"))["counts"] == {
        "opens": 1, "destroyed": 1, "missing": 0, "broken": 0, "returned": 0,
    }  # fmt: skip
    # The backup would bring it back: the keyring in use says so, without the database too.
    for extra in ((), ("--no-database",)):
        assert [f["state"] for f in parsed(await keys("verify", file, "--json", *extra))["findings"]] == ["returned"]
    # On a new machine only the database remembers.
    shutil.rmtree(home / "keys")
    assert (await keys("restore", file)).exit_code == 0
    back = await keys("verify")
    assert back.exit_code == 1
    assert "Destroy them again" in back.stderr
    # And still nothing opens it by way of the gateway.
    assert set(await DataKeys(FileProvider(home / "keys")).load(owner, [NOVEMBER, DECEMBER])) == {DECEMBER}


async def test_verify_notices_a_row_that_was_changed(
    keys: Run, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER])
    await owner.execute("UPDATE tollgate.data_key SET key_id = 7")
    result = await keys("verify", "--json")
    assert result.exit_code == 1
    assert [f["state"] for f in parsed(result)["findings"]] == ["broken"]


async def test_a_backup_is_never_overwritten(keys: Run, tmp_path: Path, provider: FileProvider) -> None:
    file = tmp_path / "backup"
    file.write_text("the only copy of something")
    result = await keys("backup", file)
    assert result.exit_code == 1
    assert file.read_text() == "the only copy of something"
    missing = await keys("backup", tmp_path / "no" / "such" / "directory")
    assert missing.exit_code == 3


async def test_restore_replaces_nothing_without_force(
    keys: Run, home: Path, tmp_path: Path, provider: FileProvider
) -> None:
    await keys("backup", tmp_path / "backup")
    before = (home / "keys" / RING).read_bytes()
    result = await keys("restore", tmp_path / "backup")
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert (home / "keys" / RING).read_bytes() == before


@pytest.mark.parametrize("command", ["restore", "verify"])
async def test_a_wrong_passphrase_or_file(
    keys: Run, tmp_path: Path, provider: FileProvider, passphrase: Path, command: str
) -> None:
    await keys("backup", tmp_path / "backup")
    _write(passphrase, b"another passphrase")
    wrong = await keys(command, tmp_path / "backup")
    assert wrong.exit_code == 5
    assert "another passphrase" in wrong.stderr
    (tmp_path / "noise").write_bytes(b"\xff\x00")
    assert (await keys(command, tmp_path / "noise")).exit_code == 5
    assert (await keys(command, tmp_path / "nothing")).exit_code == 5


async def test_the_passphrase_file(keys: Run, tmp_path: Path, provider: FileProvider, passphrase: Path) -> None:
    file = tmp_path / "backup"
    none = await keys("backup", file, secret=None)
    assert none.exit_code == 2
    assert "--passphrase-file" in none.stderr
    _write(passphrase, b"a long enough one\n", mode=0o644)
    loose = await keys("backup", file)
    assert loose.exit_code == 3
    assert "chmod 0600" in loose.stderr
    _write(passphrase, b"short\n")
    assert (await keys("backup", file)).exit_code == 2
    _write(passphrase, b"\nsecond line is not it\n")
    assert (await keys("backup", file)).exit_code == 5
    _write(passphrase, b"\xff\xfe" * 10)
    assert (await keys("backup", file)).exit_code == 5
    assert not file.exists()


async def test_loose_modes_end_with_what_to_do(keys: Run, home: Path, provider: FileProvider) -> None:
    (home / "keys").chmod(0o755)
    for command in ("status", "verify"):
        result = await keys(command)
        assert result.exit_code == 3
        assert "chmod 0700" in result.stderr


@pytest.mark.parametrize("command", ["status", "backup", "restore", "verify"])
async def test_every_command_has_help(keys: Run, command: str) -> None:
    result = await keys(command, "--help", secret=None)
    assert result.exit_code == 0
    assert "--json" in result.stdout


async def test_the_token_key_is_rotated_and_entered(
    keys: Run, database: Database, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    before = SigningKeys(database.config.keyring_dir).current("token")
    done = await keys("rotate", "token", "--json")
    assert done.exit_code == 0, done.stderr
    said = parsed(done)
    now = SigningKeys(database.config.keyring_dir)
    assert (said["replaced"], said["kid"]) == (before.kid, now.current("token").kid)
    assert said["kid"] != before.kid
    assert [k["kid"] for k in now.all_public("token")] == [said["kid"], before.kid]
    left = datetime.fromisoformat(said["published_until"]) - datetime.now(UTC)
    assert left > timedelta(seconds=database.config.token_ttl_s)
    kinds = await owner.fetch("SELECT kind, access_id FROM tollgate.log_entry ORDER BY idx")
    assert [r["kind"] for r in kinds] == ["keys.change", "keys.change"]
    assert kinds[0]["access_id"] == kinds[1]["access_id"]


async def test_the_root_key_is_rotated_and_everything_still_opens(
    keys: Run, home: Path, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    made = await DataKeys(provider).ensure(owner, [NOVEMBER, PARTIES])
    before = (home / "keys" / "root.key").read_bytes()
    done = await keys("rotate", "root")
    assert done.exit_code == 0, done.stderr
    assert (home / "keys" / "root.key").read_bytes() != before
    assert await DataKeys(FileProvider(home / "keys")).load(owner, [NOVEMBER, PARTIES]) == made
    assert (await keys("verify")).exit_code == 0


async def test_a_key_is_not_rotated_while_the_log_cannot_be_written(
    keys: Run, database: Database, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    before = SigningKeys(database.config.keyring_dir).current("token").kid
    root = (database.config.keyring_dir / "root.key").read_bytes()
    await owner.execute("REVOKE EXECUTE ON FUNCTION tollgate.log_append FROM tollgate_log_writer")
    for what in ("token", "root"):
        done = await keys("rotate", what)
        assert done.exit_code == 4, done.stderr
    assert SigningKeys(database.config.keyring_dir).current("token").kid == before
    assert (database.config.keyring_dir / "root.key").read_bytes() == root


async def test_the_production_key_is_rotated_and_the_old_one_kept_for_ever(
    keys: Run, database: Database, provider: FileProvider, owner: asyncpg.Connection
) -> None:
    before = SigningKeys(database.config.keyring_dir).current("production")
    assert before.alg == "EdDSA"
    said = parsed(await keys("rotate", "production", "--json"))
    later = SigningKeys(database.config.keyring_dir, lambda: datetime(2300, 1, 1, tzinfo=UTC))
    assert said["replaced"] == before.kid != said["kid"]
    assert [k["kid"] for k in later.all_public("production")] == [said["kid"], before.kid]
    kinds = await owner.fetch("SELECT kind FROM tollgate.log_entry ORDER BY idx")
    assert [r["kind"] for r in kinds] == ["keys.change", "keys.change"]
