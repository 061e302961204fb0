"""A Tollgate as an operator sets one up: by the commands, in a home of its own, served by its own process.

Between the clients and the gateway stands a relay that can break connections after so many bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "kamailio"
WINDOW = ("--from", "2026-11-01", "--to", "2026-12-01")


def plain_environment(**extra: str) -> dict[str, str]:
    """The environment without any setting of Tollgate."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")} | extra


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Relay:
    """A TCP relay; `cuts` are consumed one per connection: bytes towards the client after which it is reset."""

    def __init__(self, target: int) -> None:
        self.cuts: list[int | None] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            cut = self.cuts.pop(0) if self.cuts else None
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pipe, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pipe, args=(server, client, cut), daemon=True).start()

    @staticmethod
    def _pipe(source: socket.socket, target: socket.socket, cut: int | None) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if cut is not None and sent + len(data) >= cut:
                    target.sendall(data[: cut - sent])
                    # A reset, as when a line drops: no end of stream that could be taken for one.
                    target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    break
                target.sendall(data)
                sent += len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class Machine:
    """A home, and the commands run in it."""

    folder: Path
    issuer: str
    relay: Relay
    gateway_port: int
    metrics_url: str
    environment: dict[str, str] = field(default_factory=plain_environment)

    @property
    def home(self) -> Path:
        """The home."""
        return self.folder / "home"

    def tollgate(self, *args: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        done = subprocess.run(
            [sys.executable, "-m", "proxy.cli.main", *args], env=self.environment, cwd=self.folder, text=True,
            check=False, capture_output=True, input=stdin, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *args: str) -> Any:
        """Run a command that answers in JSON."""
        return json.loads(self.tollgate(*args, "--json").stdout)

    def python(self, script: str, *args: str) -> None:
        """Run a script in the folder, as the commands run."""
        done = subprocess.run(
            [sys.executable, "-c", script, *args], env=self.environment, cwd=self.folder, text=True, check=False,
            capture_output=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def change(self, *wanted: tuple[str, dict[str, Any]]) -> None:
        """Make changes (kind, payload), proposed by one operator and approved by another, beside the gateway."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.operators"], env=self.environment | {"PYTHONPATH": str(ROOT)},
            cwd=self.folder, text=True, check=False, capture_output=True, input=json.dumps(wanted), timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def add_carrier(self, name: str, *ocns: str) -> None:
        """A carrier with an agreement and a client, its key made by itself."""
        jwk = self.tollgate("pull", "keygen", "--out", f"{name}.pem").stdout
        owned = [{"ocn": ocn, "from": "2026-01-01"} for ocn in ocns]
        terms = {"agreement": f"ICA-{name}", "carrier": name, "from": "2026-01-01", "cpni_clause": "section 9"}
        client = {"client": f"billing-{name}", "carrier": name, "jwks": [json.loads(jwk)]}
        self.change(
            ("carrier.add", {"carrier": name, "name": f"Example Carrier {name[-1].upper()}", "ocns": owned}),
            ("agreement.add", terms),
            ("client.add", {**client, "networks": ["127.0.0.0/8", "::1/128"]}),
        )

    def act_as(self, name: str) -> None:
        """Pull as this carrier from now on."""
        self.environment |= {
            "TOLLGATE_PULL_ISSUER": self.issuer,
            "TOLLGATE_PULL_CLIENT_ID": f"billing-{name}",
            "TOLLGATE_PULL_KEY": f"{name}.pem",
            "TOLLGATE_PULL_CA": "home/tls/ca.pem",
        }

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[str]]:
        """The gateway as a process of its own; it has to end with 0 at SIGTERM."""
        with (self.folder / "gateway.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "proxy.cli.main", "serve", "--json"], env=self.environment, cwd=self.folder,
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                assert line, (self.folder / "gateway.log").read_text()
                assert json.loads(line)["issuer"] == self.issuer
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                code = process.wait(timeout=60)
                process.stdout.close()
        assert code == 0, (self.folder / "gateway.log").read_text()


def make(folder: Path, *options: str, **environment: str) -> Machine:
    """Run `tollgate init` in ``folder``; clients will come through the relay."""
    gateway_port, metrics_port = free_port(), free_port()
    relay = Relay(gateway_port)
    issuer = f"https://localhost:{relay.port}"
    machine = Machine(folder, issuer, relay, gateway_port, f"http://127.0.0.1:{metrics_port}")
    machine.environment |= {"TOLLGATE_HOME": str(folder / "home"), "COLUMNS": "140", **environment}
    machine.tollgate(
        "init", "--issuer", issuer, "--port", str(gateway_port), "--metrics-port", str(metrics_port), *options
    )
    return machine


def sample_halves(folder: Path) -> tuple[Path, Path]:
    """The Kamailio sample as two files, each with the header."""
    header, *lines = (SAMPLES / "kamailio_acc_cdrs.csv").read_text().splitlines(keepends=True)
    halves = folder / "first.csv", folder / "second.csv"
    for half, part in zip(halves, (lines[: len(lines) // 2], lines[len(lines) // 2 :]), strict=True):
        half.write_text(header + "".join(part))
    return halves
