"""What the README says is so: its commands run, its transcript is that of the demo, its links lead somewhere."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pyarrow.parquet

from tests.support import readme

ROOT = readme.ROOT


def _transcript() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transcript", ROOT / "deploy" / "demo" / "transcript.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commands_run_in_order(tmp_path: Path) -> None:
    done = readme.run(tmp_path, "\n".join(readme.blocks({""})))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("README-DONE\n")
    with (tmp_path / "november.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    assert pyarrow.parquet.read_metadata(tmp_path / "november.parquet").num_rows == 1000
    assert (tmp_path / "late.csv").read_text().count("\n") == 1
    assert (tmp_path / "keyring.backup").stat().st_mode & 0o777 == 0o600
    # The gateway's log is JSON lines and ends with an orderly stop.
    assert '"event":"gateway.stopped"' in (tmp_path / "gateway.log").read_text().splitlines()[-1]


def test_the_demo_passes_and_the_transcript_is_its_own() -> None:
    transcript = _transcript()
    text = transcript.run()
    shown = transcript.in_readme((ROOT / "README.md").read_text(encoding="utf-8"))
    assert transcript.skeleton(shown) == transcript.skeleton(text), "run deploy/demo/transcript.py"


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "deploy" / "docs").rglob("*.md")]
    missing: list[str] = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        targets = [t for t in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in t]
        missing += [f"{page.relative_to(ROOT)}: {t}" for t in targets if not (page.parent / t).exists()]
    assert missing == []


def test_every_page_of_the_docs_is_in_their_index() -> None:
    docs = ROOT / "deploy" / "docs"
    index = (docs / "README.md").read_text(encoding="utf-8")
    pages = {str(p.relative_to(docs)) for p in docs.rglob("*.md")} - {"README.md"}
    assert pages == {p for p in re.findall(r"\]\(([^)#]+\.md)", index) if not p.startswith("..")}


def test_every_make_target_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
