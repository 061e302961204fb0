"""The pages name what there is: every problem, every metric, every reason for which an answer is cut."""

from __future__ import annotations

import re
from pathlib import Path

from proxy import metrics
from proxy.disclosure.delivery import State
from proxy.problems import KINDS

DOCS = Path(__file__).parents[2] / "deploy" / "docs"


def test_every_problem_stands_in_the_page_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == {kind.code: kind.status for kind in KINDS.values()}


def test_every_state_stands_in_the_page() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert all(f"| `{state.value}` |" in text for state in State)


def test_every_metric_stands_in_the_page_with_its_labels() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tollgate_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    documented = {
        name: (kind, [label.strip() for label in labels.split(",") if label.strip()]) for name, kind, labels in rows
    }
    exported = {}
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            exported[name] = (metric._type, list(metric._labelnames))
    assert documented == exported
