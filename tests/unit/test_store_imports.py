"""Invariant 2: records are opened in one package, and by the re-sealing, which gives none out."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import proxy

ROOT = Path(proxy.__file__).resolve().parent.parent

MAY_OPEN_RECORDS = ("proxy.disclosure", "proxy.store.reseal")
MAY_UNSEAL = {
    "proxy.store.opening",  # records
    "proxy.store.tags",
    "proxy.store.fingerprints",
    "proxy.ingest.rejects",  # a file's name
    "proxy.disclosure.cursors",
    "proxy.disclosure.held",  # what is held for a case
    "proxy.legal.sealing",  # a case's own material; no record
}
"""What opens ciphertext at all, the log aside."""


def imported() -> dict[str, set[str]]:
    """Module → everything it imports, as ``module`` and ``module.name``."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{name}: relative imports hide from this test"
                names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        found[name] = names
    return found


def test_the_import_contracts_hold() -> None:
    """Those of pyproject.toml, by import-linter itself."""
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_contract_protects_the_opening() -> None:
    """So that the rule is not lost from pyproject.toml without a word."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rule,) = [c for c in contracts if "proxy.store.opening" in c.get("protected_modules", ())]
    assert rule["type"] == "protected"
    assert set(rule["allowed_importers"]) == set(MAY_OPEN_RECORDS)


def test_only_disclosure_and_the_resealing_open_records() -> None:
    users = {m for m, names in imported().items() if any(n.startswith("proxy.store.opening") for n in names)}
    assert users
    assert {m for m in users if not m.startswith(MAY_OPEN_RECORDS)} == set()


def test_nothing_else_decodes_or_unseals_on_its_own() -> None:
    """Going around the opening: decoding chunks, or unsealing, anywhere else in what works on the store."""
    opening = {"open_sealed", "open_chunk", "open_chunks"}
    decoding = {"decode", "Chunk"}
    for module, names in imported().items():
        if module.startswith(("proxy.ledger", "proxy.store.columns")):
            continue
        if {f"keys.sealing.{n}" for n in opening} & names:
            assert module in MAY_UNSEAL, f"{module} opens ciphertext"
        if {f"proxy.store.columns.{n}" for n in decoding} & names:
            assert module.startswith(("proxy.store.opening", *MAY_OPEN_RECORDS)), f"{module} decodes records"


def test_the_resealing_gives_out_no_rows() -> None:
    """Its public functions return counts; who calls it is the operator's commands."""
    users = {m for m, names in imported().items() if any(n.startswith("proxy.store.reseal") for n in names)}
    outside = {m for m in users if not m.startswith("proxy.store.reseal")}
    assert outside <= {"proxy.cli.ingest", "proxy.cli.store", "proxy.cli.serve", "proxy.app"}
    allowed = {"roll", "ROLL_ROWS", "Rolled", "remap", "Remapped", "BusyError"}
    for module in outside:
        taken = {n for n in imported()[module] if n.startswith("proxy.store.reseal.")}
        names = {n.split(".")[-1] for n in taken}
        assert names <= allowed, f"{module} takes {names - allowed} of the re-sealing"
