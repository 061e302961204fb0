"""The log under Go's own sumdb/note and sumdb/tlog: checkpoint, tiles, entries, proofs; and what these refuse."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.ledger import tiles
from proxy.ledger.tiles import Tile
from tests.support import machine
from tests.support.machine import SAMPLES, WINDOW, Machine

PROGRAM = Path(__file__).parent / "go" / "verify.go"
PACKAGES = Path("/usr/share/gocode")


@pytest.fixture(scope="module")
def verify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from Debian's packages; no network."""
    assert shutil.which("go"), "no Go: run deploy/install-external"
    folder = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(PACKAGES), "GOCACHE": str(folder / "cache"),
                   "GOFLAGS": "", "GOPROXY": "off"}  # fmt: skip
    subprocess.run(["go", "vet", str(PROGRAM)], env=environment, check=True, cwd=folder)
    subprocess.run(["go", "build", "-o", str(folder / "verify"), str(PROGRAM)], env=environment, check=True, cwd=folder)
    return folder / "verify"


@dataclass
class Downloaded:
    """A log as files, as it is served; its key; an older checkpoint; the proofs of a receipt."""

    folder: Path
    key: str
    older: Path
    proofs: list[Path]
    tollgate: Machine

    def arguments(self, base: str | Path) -> list[str]:
        proofs = [part for file in self.proofs for part in ("-proof", str(file))]
        return ["-key", self.key, "-older", str(self.older), *proofs, str(base)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Downloaded]:
    made = machine.make(tmp_path_factory.mktemp("machine"))
    made.add_carrier("carrier-a", "1001")
    made.tollgate("ingest", str(SAMPLES / "kamailio_acc_cdrs.csv"), "--profile", "kamailio-acc", "--trunk-map",
                  str(SAMPLES / "trunks.csv"))  # fmt: skip
    made.act_as("carrier-a")
    context = ssl.create_default_context(cafile=str(made.home / "tls" / "ca.pem"))

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"{made.issuer}/log/{path}", context=context, timeout=30) as response:
            data: bytes = response.read()
            return data

    with made.serving():
        made.tollgate("pull", "cdrs", *WINDOW, "--out", "one.csv", "--verify")
        older = made.folder / "older"
        older.write_bytes(get("checkpoint"))
        for number in range(3):  # looks at the log are entries too: a full tile of them, and a little more
            made.tollgate("log", "show", "--limit", str(number + 1))
        _grow(made, 300)
        receipt = made.json("pull", "cdrs", *WINDOW, "--out", "two.csv", "--verify")["receipts"][0]
        proofs = []
        for number, entry in enumerate(json.loads((made.folder / receipt).read_text())["entries"]):
            proofs.append(made.folder / f"{number}.tlog-proof")
            proofs[-1].write_text(entry["proof"])
        folder = made.folder / "log"
        note = get("checkpoint")
        size = int(note.split(b"\n")[1])
        assert size > 300
        _write(folder / "checkpoint", note)
        for tile in _tiles(size):
            _write(folder / f"tile/{tile.level}/{tile.path}", get(f"tile/{tile.level}/{tile.path}"))
            if tile.level == 0:
                _write(folder / f"tile/entries/{tile.path}", get(f"tile/entries/{tile.path}"))
        yield Downloaded(folder, made.tollgate("log", "key").stdout.strip(), older, proofs, made)
    made.relay.close()


def _grow(made: Machine, count: int) -> None:
    """Look at the log so often, in one process."""
    script = (
        "import asyncio, sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from proxy.cli import embedded\n"
        "from proxy.cli.common import ledger\n"
        "from proxy.cli.log.show import reading\n"
        "from proxy.config import load\n"
        "home = Path(sys.argv[1])\n"
        "server = embedded.use(home)\n"
        "config = replace(load(home), database_url=server.url)\n"
        "async def grow():\n"
        "    async with ledger(config) as opened:\n"
        "        await asyncio.gather(*(opened.append(reading({'n': n})) for n in range(int(sys.argv[2]))))\n"
        "asyncio.run(grow())\n"
        "server.release()\n"
    )
    made.python(script, str(made.home), str(count))


def _tiles(size: int) -> list[Tile]:
    full = [Tile(0, index) for index in range(size // tiles.WIDTH)]
    return [*full, *tiles.partials(size)]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_a_running_log_verifies(verify: Path, log: Downloaded) -> None:
    ca = str(log.tollgate.home / "tls" / "ca.pem")
    done = _run(verify, "-ca", ca, *log.arguments(log.tollgate.issuer + "/log"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["size"] == said["entries"] > 300
    assert (said["older"], said["proofs"]) == (1, 2)


def test_a_byte_changed_anywhere_is_refused(verify: Path, log: Downloaded) -> None:
    done = _run(verify, *log.arguments(log.folder))
    assert done.returncode == 0, done.stderr
    changed = [path for path in sorted(log.folder.rglob("*")) if path.is_file()] + [log.older, *log.proofs]
    assert len(changed) > 6
    for path in changed:
        data = path.read_bytes()
        # Not in the key id or name of a signature line: such a line is another key's, and passed over.
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        try:
            assert _run(verify, *log.arguments(log.folder)).returncode == 1, path
        finally:
            path.write_bytes(data)


def test_another_key_is_refused(verify: Path, log: Downloaded) -> None:
    other = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"  # from sumdb/note's own documentation
    done = _run(verify, "-key", other, str(log.folder))
    assert done.returncode == 1
    assert "no verifiable signatures" in done.stderr
