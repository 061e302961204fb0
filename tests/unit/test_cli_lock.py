"""The locks: every version pinned by hash, no address in them, nothing forgotten."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "deploy/requirements.lock")


def entries(name: str) -> dict[str, list[str]]:
    """Package and version (with its marker, if any) to its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        match = re.fullmatch(r"([a-z0-9-]+==[^\s;]+)(?: ; [^-]+?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert match, line[:100]
        found[match[1]] = re.findall(r"sha256:[0-9a-f]{64}", match[2])
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_a_version_with_hashes_and_nothing_else(name: str) -> None:
    found = entries(name)
    assert found
    assert all(found.values())
    assert "://" not in (ROOT / name).read_text()


def test_what_the_project_names_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = {re.match(r"[\w-]+", d)[0].lower() for d in project["dependencies"]}  # type: ignore[index]
    extras = {re.match(r"[\w-]+", d)[0].lower() for e in project["optional-dependencies"].values() for d in e}  # type: ignore[index]
    named = [{entry.split("==")[0] for entry in entries(name)} for name in LOCKS]
    assert runtime | extras <= named[0]
    assert runtime <= named[1]
    assert not extras & named[1] - runtime


def test_the_runtime_lock_is_part_of_the_whole() -> None:
    whole, runtime = (entries(name) for name in LOCKS)
    assert set(runtime) <= set(whole)
    assert all(whole[name] == hashes for name, hashes in runtime.items())
