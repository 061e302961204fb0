"""`tollgate init`, `db` and `config` with a real embedded server: made once, the same the second time."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tomllib
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from proxy.cli import embedded
from proxy.cli.init import settings_file
from proxy.cli.main import main
from proxy.config import Config, load


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("TOLLGATE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("home") / "h"
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("TOLLGATE_")]:
            patch.delenv(name)
        result = run(home, "init", "--json", "--issuer", "https://cdr.example.net", "--port", "8444")
    assert result.exit_code == 0, result.output
    return home, json.loads(result.stdout)


def run(home: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *args])


def states(result: Result) -> dict[str, str]:
    return {step["what"]: step["state"] for step in json.loads(result.stdout)["steps"]}


def test_everything_is_made_and_private(made: tuple[Path, dict[str, Any]]) -> None:
    home, said = made
    assert {step["state"] for step in said["steps"]} == {"made"}
    for name in ("tollgate.toml", "roles.json", "tls/server.key"):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name
    for name in ("keys", "pgdata", "tls"):
        assert (home / name).stat().st_mode & 0o777 == 0o700, name
    assert home.stat().st_mode & 0o066 == 0
    config = load(home)
    assert (config.issuer, config.listen_port, config.metrics_port) == ("https://cdr.example.net", 8444, 9464)


def test_a_second_run_changes_nothing(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and "pgdata" not in p.parts}
    again = run(home, "init", "--json")
    assert again.exit_code == 0
    assert set(states(again).values()) == {"there"}
    assert before == {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and "pgdata" not in p.parts}


def test_a_run_broken_off_is_finished(tmp_path: Path) -> None:
    home = tmp_path / "h"
    assert run(home, "init", "--json").exit_code == 0
    (home / "tls" / "server.pem").unlink()
    (home / "roles.json").unlink()
    again = run(home, "init", "--json")
    assert again.exit_code == 0, again.output
    found = states(again)
    assert (found["certificate"], found["passwords"], found["keyring"]) == ("made", "made", "there")


def test_the_server_is_stopped_by_the_last_one_out(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    first, second = embedded.use(home), embedded.use(home)
    assert first.url == second.url
    first.release()
    assert embedded._running(home / "pgdata")
    second.release()
    second.release()
    assert not embedded._running(home / "pgdata")


def test_status_and_migrate(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    status = run(home, "db", "status", "--json")
    assert status.exit_code == 0
    found = json.loads(status.stdout)
    assert (found["pending"], found["missing_roles"], found["synchronous_commit"]) == ([], [], "on")
    assert json.loads(run(home, "db", "migrate", "--json").stdout) == {"applied": []}


def test_a_database_of_before_a_role_is_told_what_to_do(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made

    async def rename(old: str, new: str) -> None:
        conn = await asyncpg.connect(server.url)
        await conn.execute(f"ALTER ROLE {old} RENAME TO {new}")
        await conn.close()

    server = embedded.use(home)
    try:
        asyncio.run(rename("tollgate_retention", "somebody_else"))
        refused = run(home, "db", "migrate")
        asyncio.run(rename("somebody_else", "tollgate_retention"))
    finally:
        server.release()
    assert refused.exit_code == 1
    assert "tollgate_retention" in refused.stderr
    assert "tollgate init" in refused.stderr


def test_the_certificate_verifies_in_strict_mode(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    context = ssl.create_default_context(cafile=str(home / "tls" / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(home / "tls" / "server.pem", home / "tls" / "server.key")
    for name in ("localhost", "127.0.0.1", "cdr.example.net"):
        assert _handshake(context, server_context, name) == name
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(context, server_context, "other.example.net")


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> str:
    a, b, c, d = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(a, b, server_hostname=name)
    theirs = server.wrap_bio(c, d, server_side=True)
    done: set[str] = set()
    for _ in range(10):
        for side, label in ((ours, "client"), (theirs, "server")):
            if label not in done:
                try:
                    side.do_handshake()
                    done.add(label)
                except ssl.SSLWantReadError:
                    pass
            c.write(b.read())
            a.write(d.read())
    assert done == {"client", "server"}
    return name


def test_the_authoritys_key_is_gone(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    assert sorted(p.name for p in (home / "tls").iterdir()) == ["ca.pem", "server.key", "server.pem"]
    authority = x509.load_pem_x509_certificate((home / "tls" / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificates((home / "tls" / "server.pem").read_bytes())[0]
    server.verify_directly_issued_by(authority)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["init", "--issuer", "https://other.example.net"], 3, "otherwise about issuer"),
        (["init", "--issuer", "http://x.example"], 2, "https"),
        (["init", "--issuer", "https://x.example/"], 2, "slash"),
        (["init", "--port", "99999"], 2, "port"),
    ],
)
def test_wrong_options(made: tuple[Path, dict[str, Any]], args: list[str], code: int, says: str) -> None:
    result = run(made[0], *args)
    assert result.exit_code == code
    assert says in result.output + result.stderr


def test_an_open_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "h"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    result = run(home, "init")
    assert result.exit_code == 3
    assert "chmod 0700" in result.stderr
    assert list(home.iterdir()) == []


def test_an_open_passwords_file_is_refused(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    (home / "roles.json").chmod(0o644)
    try:
        result = run(home, "init")
        assert result.exit_code == 3
    finally:
        (home / "roles.json").chmod(0o600)


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    url = f"postgresql://u@/d?host={tmp_path}"
    result = run(tmp_path / "h", "init", "--database-url", url)
    assert result.exit_code in (4, 5), result.output
    assert "Traceback" not in result.output


def test_the_settings_file_states_every_setting_and_changes_none(tmp_path: Path) -> None:
    text = settings_file({"issuer": 'https://a.example/"q"', "listen_port": 1})
    assert tomllib.loads(text) == {"issuer": 'https://a.example/"q"', "listen_port": 1}
    for name in Config.__dataclass_fields__:
        assert name == "home" or f"{name} = " in text


def test_config_shows_values_and_where_they_come_from(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    env = {"TOLLGATE_TOKEN_TTL_S": "60", "TOLLGATE_DATABASE_URL": "postgresql://u:secret@h/d"}
    result = CliRunner().invoke(main, ["--home", str(home), "config", "--json"], env=env)
    found = json.loads(result.stdout)
    assert (found["token_ttl_s"]["value"], found["token_ttl_s"]["source"]) == (60, "environment")
    assert (found["issuer"]["value"], found["issuer"]["source"]) == ("https://cdr.example.net", "file")
    assert found["listen_host"]["source"] == "default"
    assert "secret" not in result.stdout


def test_an_unknown_setting_is_named(made: tuple[Path, dict[str, Any]]) -> None:
    home, _ = made
    file = home / "tollgate.toml"
    text = file.read_text()
    try:
        file.write_text(text + "\nlisten_prot = 1\n")
        result = run(home, "config")
        assert result.exit_code == 3
        assert "listen_prot" in result.stderr
    finally:
        file.write_text(text)
