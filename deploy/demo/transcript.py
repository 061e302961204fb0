"""The demo's transcript in README.md: made from a real run, so that it shows what is so.

    python deploy/demo/transcript.py            write it anew
    python deploy/demo/transcript.py --print    print it

What differs from run to run (ports, ids, digests, keys, times) is replaced by fixed stand-ins.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- transcript: begin (made by deploy/demo/transcript.py) -->", "<!-- transcript: end -->"

_STAND_INS = (
    (r"--port \d+ --metrics-port \d+", "--port 8443 --metrics-port 9464"),
    (r"https://localhost:\d+", "https://localhost:8443"),
    (r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:9464"),
    (r"/\S*tollgate-demo-\w+/", ""),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "01a1fe92-561d-789b-bffe-7cb763805959"),
    (r"\b[0-9a-f]{64}\b", "6cbeaba80152a3ba…"),
    (r"(?<![\w-])[\w-]{43}(?![\w-])", "0TEM6F5Ox3xO…"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", "2026-11-21T14:46:06.819+00:00"),
    (r"(--(?:issued|served|return-by|on) |(?:Date|Served): +)\d{4}-\d\d-\d\d\S*", r"\g<1>2026-11-21"),
    (r"localhost:\d+/log\+[0-9a-f]{8}\+\S+", "localhost:8443/log+dc98a50f+AR8xDhdj…"),
    (r"\bC-[A-Z2-7]{10}\b", "C-3P3FQ6P7W4"),
    (r"due again by \d{4}-\d\d-\d\d", "due again by 2027-11-21"),
    (r"approves it by \d{4}-\d\d-\d\d", "approves it by 2026-11-28"),
    (r"trained until \d{4}-\d\d-\d\d", "trained until 2027-11-21"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "2026-11-21T14:46:06.819Z"),
    (r"[ \t]+$", ""),
)


def run() -> str:
    """Run the demo once; return its normalised output.

    Raises:
        RuntimeError: if it did not end well.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "demo" / "demo.py"), "--once"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "110", "NO_COLOR": "1"},
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the demo ended with {done.returncode}:\n{done.stdout}")
    return normalised(done.stdout)


def normalised(text: str) -> str:
    """Replace what differs from run to run."""
    for pattern, stand_in in _STAND_INS:
        text = re.sub(pattern, stand_in, text, flags=re.M)
    return text.strip() + "\n"


def skeleton(text: str) -> list[str]:
    """Return the lines that every run must have: headings, commands, and what the commands concluded."""
    kept = ("== ", "$ ", "complete, proven", "error: ", "done  ", "401 ", "Every step")
    return [line for line in text.splitlines() if line.startswith(kept)]


def in_readme(readme: str) -> str:
    """Return the transcript that stands in the README."""
    block = readme.split(BEGIN, 1)[1].split(END, 1)[0]
    return block.strip().removeprefix("```console\n").removesuffix("```")


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", dest="only_print")
    chosen = parser.parse_args()
    text = run()
    if chosen.only_print:
        print(text, end="")
        return 0
    file = ROOT / "README.md"
    before, rest = file.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    file.write_text(f"{before}{BEGIN}\n```console\n{text}```\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
