"""How commands are found, and how they end."""

from __future__ import annotations

import sys

import asyncpg
import click
import pytest
from click.testing import CliRunner

from proxy.cli import common
from proxy.cli.common import CliError, ExitCode, explain
from proxy.cli.config_cmd import without_password
from proxy.cli.main import COMMANDS, main
from proxy.config import ConfigError
from schema.migrate import MigrationError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError("x", ExitCode.BAD_INPUT), 5),
        (ConfigError("x"), 3),
        (MigrationError("x"), 3),
        (asyncpg.InvalidPasswordError("x"), 3),
        (asyncpg.UndefinedTableError("x"), 3),
        (asyncpg.InsufficientPrivilegeError("x"), 3),
        (asyncpg.CannotConnectNowError("x"), 4),
        (asyncpg.ConnectionDoesNotExistError("x"), 4),
        (ConnectionRefusedError("x"), 4),
        (TimeoutError(), 4),
        (FileNotFoundError(2, "no", "f"), 5),
        (OSError(28, "No space left on device", "f"), 4),
    ],
)
def test_errors_have_their_exit_codes(error: Exception, code: int) -> None:
    found = explain(error)
    assert found is not None
    assert found.exit_code == code
    assert found.message


def test_a_defect_is_not_explained_away() -> None:
    assert explain(ValueError("x")) is None
    assert explain(asyncpg.PostgresSyntaxError("x")) is None


def test_errors_of_parts_are_known_by_name() -> None:
    from keys.errors import KeysError, KeyUnavailable
    from proxy.ledger.model import LedgerUnavailable

    assert _code(LedgerUnavailable("x")) == ExitCode.UNAVAILABLE
    assert _code(KeyUnavailable("x")) == ExitCode.UNAVAILABLE
    assert _code(KeysError("x")) == ExitCode.CONFIGURATION


def _code(error: Exception) -> int:
    found = explain(error)
    assert found is not None
    return found.exit_code


def test_every_known_error_exists() -> None:
    """A part that renames its error would otherwise end in a traceback."""
    import importlib

    for module, name, _, _ in common._KNOWN:
        assert issubclass(getattr(importlib.import_module(module), name), Exception), (module, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_teaches(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_the_list_of_commands_imports_none() -> None:
    for module in [m for m in sys.modules if m.startswith("proxy.cli.serve")]:
        del sys.modules[module]
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)
    assert "proxy.cli.serve" not in sys.modules


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["bogus"]).exit_code == ExitCode.USAGE


def test_a_missing_home_says_what_to_do(tmp_path: object) -> None:
    result = CliRunner().invoke(
        main, ["--home", f"{tmp_path}/none", "db", "status"], env={"TOLLGATE_DATABASE_URL": None}
    )
    assert result.exit_code == ExitCode.CONFIGURATION


def test_main_errors_prints_message_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, common.main_errors():
        raise CliError("the gate is [shut]", ExitCode.UNAVAILABLE, "open it")
    assert caught.value.code == 4
    said = capsys.readouterr().err
    assert "the gate is [shut]" in said
    assert "open it" in said


def test_a_defect_shows_where_and_never_what(capsys: pytest.CaptureFixture[str]) -> None:
    def deep() -> None:
        try:
            raise KeyError("+12025550199")
        except KeyError as error:
            raise asyncpg.DataError("invalid input: +12025550199") from error

    with pytest.raises(SystemExit) as caught, common.main_errors():
        deep()
    assert caught.value.code == ExitCode.DEFECT == 70
    said = capsys.readouterr()
    assert "defect" in said.err
    assert "DataError" in said.err
    assert "KeyError" in said.err
    assert "test_cli_common.py:" in said.err
    assert "5550199" not in said.out + said.err


def test_ctrl_c_ends_with_130() -> None:
    with pytest.raises(SystemExit) as caught, common.main_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130


def test_usage_errors_end_with_2() -> None:
    with pytest.raises(SystemExit) as caught, common.main_errors():
        raise click.UsageError("no")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d?a=b", "postgresql://u:***@h:1/d?a=b"),
        ("postgresql://u:a@b@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql:///d?host=/x", "postgresql:///d?host=/x"),
        ("", ""),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
