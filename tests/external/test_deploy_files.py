"""What lies in deploy/, tried with the programs it is written for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proxy.config import Config
from proxy.metrics import REGISTRY

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], env={**os.environ, **environment}, cwd=DEPLOY / "prometheus",
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_the_rules_are_rules_and_do_what_they_say() -> None:
    for command in (
        ("check", "rules", "tollgate.rules.yml"),
        ("test", "rules", "tollgate.rules.test.yml"),
        ("check", "config", "prometheus.yml"),
    ):
        done = run("promtool", *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "tollgate.rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    tried = yaml.safe_load((DEPLOY / "prometheus" / "tollgate.rules.test.yml").read_text())["tests"]
    assert alerts == {
        test["alertname"] for case in tried for test in case.get("alert_rule_test", ()) if test.get("exp_alerts")
    }


def test_the_rules_name_only_metrics_that_exist() -> None:
    exported = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        exported |= {family.name + suffix for suffix in suffixes}
    text = (DEPLOY / "prometheus" / "tollgate.rules.yml").read_text()
    expressions = re.findall(r"^\s+expr: (.*(?:\n {10,}.*)*)", text, re.M)
    named = {name for e in expressions for name in re.findall(r"\btollgate_[a-z_0-9]+", e)}
    assert named
    assert named <= exported


def test_haproxy_takes_its_configuration() -> None:
    environment = {"TOLLGATE_BIND": "127.0.0.1:1", "TOLLGATE_GATEWAY": "127.0.0.1:2", "TOLLGATE_METRICS_PORT": "3"}
    done = run("haproxy", "-c", "-f", DEPLOY / "haproxy" / "haproxy.cfg", **environment)
    assert done.returncode == 0, done.stderr


def test_the_units_are_valid_and_tight(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("tollgate")
    for unit in (DEPLOY / "systemd").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/tollgate/bin/tollgate", str(program)))
    done = run("systemd-analyze", "verify", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stderr.strip()) == (0, "")
    for name in ("tollgate.service", "tollgate-roll.service", "tollgate-witness.service"):
        done = run("systemd-analyze", "security", "--offline=true", "--threshold=20", tmp_path / name)
        assert done.returncode == 0, done.stdout


def test_the_commands_that_units_and_images_run_exist() -> None:
    for unit in (DEPLOY / "systemd").glob("*.service"):
        command = re.search(r"^ExecStart=/opt/tollgate/bin/tollgate (\w+)( .*)?$", unit.read_text(), re.M)
        assert command, unit
        done = run(sys.executable, "-m", "proxy.cli.main", command[1], "--help")
        assert done.returncode == 0, done.stderr


def test_the_compose_file_holds_together() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], name
        for variable in service.get("environment", {}):
            if variable.startswith("TOLLGATE_"):
                assert variable.removeprefix("TOLLGATE_").lower() in Config.__dataclass_fields__


def test_the_image_sets_only_settings_that_exist() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    named = {name.lower() for name in re.findall(r"\bTOLLGATE_([A-Z_]+)=", text)}
    assert named
    assert named <= set(Config.__dataclass_fields__)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment made as the Containerfile makes it: the runtime lock and our wheel, nothing else."""
    folder = tmp_path_factory.mktemp("runtime")
    source = folder / "source"  # a copy: setuptools leaves its workings beside what it builds
    for name in ("proxy", "schema", "keys"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv, dist = folder / "venv", folder / "dist"
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    lock = DEPLOY / "requirements.lock"
    for command in (
        [sys.executable, "-m", "venv", venv],
        [*pip, "install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", lock],
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            dist,
            ROOT,
        ],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    done = run(*pip, "install", "--no-deps", "--no-index", *dist.glob("tollgate-*.whl"))
    assert done.returncode == 0, done.stdout + done.stderr
    return venv


def test_the_runtime_lock_suffices(runtime: Path) -> None:
    check = run(runtime / "bin" / "python", "-m", "pip", "check")
    assert check.returncode == 0, check.stdout
    from proxy.cli.main import COMMANDS

    for name in COMMANDS:
        done = run(runtime / "bin" / "tollgate", name, "--help")
        assert done.returncode == 0, (name, done.stderr)
    everything = "import proxy.app, schema.migrate; assert schema.migrate.available(), 'no migrations in the wheel'"
    done = run(runtime / "bin" / "python", "-c", everything)
    assert done.returncode == 0, done.stderr


def test_without_the_embedded_server_the_message_says_what_to_do(runtime: Path, tmp_path: Path) -> None:
    environment = {"TOLLGATE_DATABASE_URL": ""}
    done = run(runtime / "bin" / "tollgate", "--home", tmp_path / "h", "init", **environment)
    assert done.returncode == 3
    assert "TOLLGATE_DATABASE_URL" in done.stderr
