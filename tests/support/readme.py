"""README.md as a script: its command blocks, in order, in a scratch directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.machine import free_port, plain_environment

ROOT = Path(__file__).parents[2]


def blocks(kinds: set[str]) -> list[str]:
    """Return the blocks whose info string after `bash` is one of ``kinds`` ("" for none), in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```bash ?(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for kind, body in found if kind in kinds]


def run(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in ``folder`` as a person would at the top of the repository, on free ports instead of the fixed."""
    port, metrics_port, provider_port = free_port(), free_port(), free_port()
    script = script.replace("localhost:8443", f"localhost:{port}").replace(
        "127.0.0.1:9464", f"127.0.0.1:{metrics_port}"
    )
    script = script.replace("localhost:9400", f"localhost:{provider_port}")
    if not (folder / "deploy").exists():
        (folder / "deploy").symlink_to(ROOT / "deploy")
    # A job in the background is part of the blocks (`tollgate serve &`): it has to end well at SIGTERM, too.
    begin = "set -euo pipefail\n"
    end = "\nfor job in $(jobs -p); do kill -TERM $job; wait $job; done\necho README-DONE\n"
    extra = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TOLLGATE_ISSUER": f"https://localhost:{port}",
        "TOLLGATE_LISTEN_PORT": str(port),
        "TOLLGATE_METRICS_PORT": str(metrics_port),
        "DEMO_PROVIDER_PORT": str(provider_port),
    }
    return subprocess.run(
        ["bash", "-x", "-c", begin + script + end], cwd=folder, env=plain_environment(**extra, **environment),
        text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=600,
    )  # fmt: skip
