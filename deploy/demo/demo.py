"""The demo: Tollgate from nothing to a pull that is proven, by the same commands that a person would type.

`make demo` stays up at the end and prints what to try. `make demo ONCE=1` (--once) takes no fixed port, cleans up after
itself, and ends with 0 only if every step did what it says; each is checked either way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import legal
from rich.markup import escape
from steps import StepFailedError, check, heading, out

from proxy.cli import embedded

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parent / "data"
PROVIDER = Path(__file__).resolve().parent / "provider.py"
TOLLGATE = str(Path(sys.executable).with_name("tollgate"))
WINDOW = ("--from", "2026-11-01", "--to", "2026-12-01")

# What the sample's own README says; see deploy/demo/data/README.md.
CALLS, FREESWITCH_CALLS = 3000, 50
HANDED_OVER_BY_1001, TAKEN_BY_2001 = 1000, 1413

# carrier, name, OCNs
CARRIERS = (
    ("example-a", "Example Carrier A", ("1001",)),
    ("example-b", "Example Carrier B", ("1002",)),
    ("example-c", "Example Carrier C", ("1003",)),
    ("example-d", "Example Carrier D", ("2001", "2002")),
)

STAFF_ENVIRONMENT = ("TOLLGATE_SESSION", "TOLLGATE_OIDC_ISSUER", "TOLLGATE_OIDC_CLIENT_ID", "TOLLGATE_OIDC_CA")


def free_port(wanted: int = 0) -> int:
    """Return ``wanted`` if it is free now, else any port that is."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Demo:
    """One run in one directory."""

    def __init__(self, folder: Path, port: int, metrics_port: int, provider_port: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.issuer = f"https://localhost:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        self.ports = (port, metrics_port)
        # The demo has a home, a database and settings of its own, whatever the environment says.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")}
        self.environment["TOLLGATE_HOME"] = str(self.home)
        if not sys.stdout.isatty():
            self.environment["COLUMNS"] = "110"
        self.environment |= {
            "DEMO_PROVIDER_PORT": str(provider_port),
            "TOLLGATE_OIDC_ISSUER": f"https://localhost:{provider_port}",
            "TOLLGATE_OIDC_CLIENT_ID": "tollgate",
            "TOLLGATE_OIDC_CA": str(folder / "provider" / "ca.pem"),
            "TOLLGATE_CA": "home/tls/ca.pem",
            "TOLLGATE_LEGAL_DESK": "1",
            "TOLLGATE_CARRIER_NAME": "Example Carrier",
        }
        self.gateway: subprocess.Popen[str] | None = None
        self.pulled: dict[str, Any] = {}

    # -- running commands

    @staticmethod
    def shown(*args: str) -> None:
        """Print a command as it is typed in the demo's directory."""
        typed = [a for a in args if a != "--json"]
        out.print(f"[dim]$ tollgate {escape(shlex.join(typed))}[/]")

    def tollgate(self, *args: str, code: int = 0, show: bool = True, typed: str | None = None) -> str:
        """Run a command and return its stdout; what it tells people goes to the terminal.

        ``typed`` is what the person answers; without ``show`` what people are told is left out too.
        """
        if show:
            self.shown(*args)
        done = subprocess.run(
            [TOLLGATE, *args], env=self.environment, cwd=self.folder, text=True, check=False, stdout=subprocess.PIPE,
            input=typed, stderr=None if show else subprocess.DEVNULL,
        )  # fmt: skip
        check(done.returncode == code, f"`tollgate {args[0]}` ended with {done.returncode}, not {code}")
        return done.stdout

    def json(self, *args: str) -> Any:
        """Run a command that answers in JSON."""
        return json.loads(self.tollgate(*args, "--json"))

    def refused(self, *args: str, says: str, code: int = 1) -> None:
        """Run a command that has to be refused for the right reason."""
        self.shown(*args)
        done = subprocess.run(
            [TOLLGATE, *args], env=self.environment, cwd=self.folder, text=True, check=False, capture_output=True
        )
        out.print(escape(done.stderr.strip()), style="yellow")
        check(done.returncode == code, f"what must be refused ended with {done.returncode}, not {code}")
        check(says in done.stderr, f"the refusal does not say {says!r}")

    def connection(self, carrier: str) -> dict[str, str]:
        """With what a carrier pulls: options of `tollgate pull`, here from the environment."""
        return {
            "TOLLGATE_PULL_ISSUER": self.issuer,
            "TOLLGATE_PULL_CLIENT_ID": f"billing-{carrier}",
            "TOLLGATE_PULL_KEY": f"{carrier}.pem",
            "TOLLGATE_PULL_CA": "home/tls/ca.pem",
        }

    def act_as(self, carrier: str) -> None:
        """Pull as this carrier from now on."""
        connection = self.connection(carrier)
        self.environment |= connection
        for name, value in connection.items():
            out.print(f"[dim]$ export {name}={escape(shlex.quote(value))}[/]")

    # -- the steps

    def set_up(self) -> None:
        """A home: settings, keys, certificate, embedded PostgreSQL."""
        heading("A home: settings, keyring, certificate, embedded PostgreSQL")
        port, metrics_port = map(str, self.ports)
        self.tollgate("init", "--issuer", self.issuer, "--port", port, "--metrics-port", metrics_port)

    @contextlib.contextmanager
    def provider(self) -> Iterator[None]:
        """The company's OpenID provider, or what stands for it, until the end of the block."""
        heading("Staff sign in at the company's OpenID provider (here: a mock of one)")
        out.print("[dim]$ python provider.py serve provider &[/]")
        with open(self.folder / "provider.log", "w", encoding="utf-8") as log:
            running = subprocess.Popen(
                [sys.executable, str(PROVIDER), "serve", "provider"], env=self.environment, cwd=self.folder,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                yield
            finally:
                running.terminate()
                running.wait(timeout=30)

    def operators(self) -> None:
        """The first two operators are named by the set-up, which is then over."""
        for number, name in enumerate(("First Operator", "Second Operator"), 1):
            who = f"operator-{number}"
            self.tollgate("staff", "bootstrap", who, "--subject", who, "--name", name, "--course", "CPNI at hire")
        self.refused("staff", "bootstrap", "operator-3", "--subject", "operator-3", "--name", "Third Operator",
                     "--course", "CPNI at hire", says="two operators are active")  # fmt: skip

    def staff(self, who: str, show: bool = True) -> None:
        """Give the commands as this member of staff from now on."""
        self.environment["TOLLGATE_SESSION"] = f"sessions/{who}"
        if show:
            out.print(f"[dim]$ export TOLLGATE_SESSION=sessions/{who}[/]")

    def sign_in(self, who: str) -> None:
        """Sign in, as `tollgate login` does with a browser."""
        self.staff(who)
        nonce = self.tollgate("login", "--nonce").strip()
        out.print(f"[dim]$ python provider.py token provider {who} {escape(nonce)} | tollgate login --assertion -[/]")
        done = subprocess.run(
            [sys.executable, str(PROVIDER), "token", "provider", who, nonce], env=self.environment, cwd=self.folder,
            text=True, check=False, stdout=subprocess.PIPE,
        )  # fmt: skip
        check(done.returncode == 0, f"the provider gave {who} no ID token")
        done = subprocess.run(
            [TOLLGATE, "login", "--assertion", "-"], env=self.environment, cwd=self.folder, text=True, check=False,
            input=done.stdout,
        )  # fmt: skip
        check(done.returncode == 0, f"{who} is not signed in")

    def register(self) -> None:
        """Carriers, agreements, clients with keys of their own making: one operator proposes, another approves."""
        heading("Two operators: one proposes whatever widens access, the other approves it")
        self.sign_in("operator-2")
        self.sign_in("operator-1")
        why = ("--reason", "interconnection of 2026")
        proposed = []
        for carrier, name, ocns in CARRIERS:
            owned = [part for ocn in ocns for part in ("--ocn", f"{ocn}:2026-01-01")]
            proposed.append(self.tollgate("carrier", "add", carrier, "--name", name, *owned, *why).strip())
        for number, carrier in enumerate(("example-a", "example-d"), 1):
            agreed = self.tollgate(
                "agreement", "add", f"ICA-2026-{number:03d}", "--carrier", carrier, "--from", "2026-01-01",
                "--cpni-clause", "section 9 (billing of interconnected traffic)", *why,
            )  # fmt: skip
            jwk = self.tollgate("pull", "keygen", "--out", f"{carrier}.pem")
            (self.folder / f"{carrier}.jwk").write_text(jwk)
            client = self.tollgate(
                "client", "add", f"billing-{carrier}", "--carrier", carrier, "--jwks",
                f"{carrier}.jwk", "--network", "127.0.0.0/8", "--network", "::1/128", *why,
            )  # fmt: skip
            proposed += [agreed.strip(), client.strip()]
        heading("Refused: whoever proposes does not approve")
        found = json.loads(self.tollgate("change", "show", proposed[0], "--json", show=False))
        self.refused("change", "approve", proposed[0], "--digest", found["digest"], says="cannot decide it")
        heading("The second operator looks, and approves: then it is so")
        self.staff("operator-2")
        self.tollgate("change", "approve", proposed[0], typed="y\n")
        out.print("\nAnd so for the other seven.")
        self.tollgate("change", "approve", *proposed[1:], typed="y\n" * 7, show=False)
        left = self.json("change", "list", "--state", "proposed")
        check(left == [], f"{len(left)} changes are still open")
        self.tollgate("carrier", "list")

    def ingest(self) -> None:
        """The files of two switches; the same file again changes nothing."""
        heading("CDR files of two switches go in")
        (self.folder / "data").symlink_to(DATA)
        kamailio, trunks = "data/kamailio_acc_cdrs.csv", "data/trunks.csv"
        self.tollgate("ingest", kamailio, "--profile", "kamailio-acc", "--trunk-map", trunks)
        self.tollgate("ingest", "data/freeswitch_cdr_pusher.csv", "--profile", "freeswitch-csv")
        out.print("The same file again is a no-op:")
        self.tollgate("ingest", kamailio, "--profile", "kamailio-acc", "--trunk-map", trunks)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The gateway, over TLS, until the end of the block."""
        heading("The gateway opens, over TLS")
        self.shown("serve")
        log = open(self.folder / "gateway.log", "w", encoding="utf-8")  # noqa: SIM115 (as long as the gateway)
        self.gateway = subprocess.Popen(
            [TOLLGATE, "serve", "--json"], env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            assert self.gateway.stdout is not None
            line = self.gateway.stdout.readline()
            check(bool(line), f"the gateway did not start:\n{(self.folder / 'gateway.log').read_text()}")
            out.print(f"open: [bold]{escape(self.issuer)}[/], metrics at {escape(self.metrics_url)}/metrics")
            yield
        finally:
            self.gateway.send_signal(signal.SIGTERM)
            code = self.gateway.wait(timeout=60)
            log.close()
            self.gateway.stdout.close()
        check(code == 0, f"the gateway ended with {code} at SIGTERM")

    def fetch(self, url: str) -> tuple[int, str]:
        """GET without credentials; status and body."""
        context = ssl.create_default_context(cafile=str(self.home / "tls" / "ca.pem"))
        try:
            with urllib.request.urlopen(
                url, context=context if url.startswith("https") else None, timeout=30
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def pull(self) -> None:
        """Two carriers pull their own traffic, proven complete."""
        heading("Example Carrier A pulls the calls it handed over")
        self.act_as("example-a")
        self.pulled["a"] = self._pull("a.csv")
        check(self.pulled["a"]["rows"] == HANDED_OVER_BY_1001, f"A got {self.pulled['a']['rows']} calls")
        heading("A pulls again, only what has come since")
        again = self._pull("late.csv", "--since-last")
        check(again["rows"] == 0, "a second pull repeated records")
        heading("Example Carrier D pulls the calls it took, as Parquet")
        self.act_as("example-d")
        self.pulled["d"] = self._pull("d.parquet", "--ocn", "2001")
        check(self.pulled["d"]["rows"] == TAKEN_BY_2001, f"D got {self.pulled['d']['rows']} calls")

    def _pull(self, name: str, *options: str) -> Any:
        said = self.json("pull", "cdrs", *WINDOW, *options, "--out", name)
        digest = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        check(said["proven"] and said["sha256"] == digest, "the digest of the file is not the one reported")
        record = json.loads(self.tollgate("pull", "access", said["accesses"][0]))
        for what in ("rows", "bytes", "sha256"):
            check(said[what] == record[what], f"{what} differs from the carrier's record")
        check(record["state"] == "complete", f"the access is recorded as {record['state']}")
        out.print({k: record[k] for k in ("state", "rows", "bytes", "sha256")})
        return said

    def nothing_too_much(self) -> None:
        """What A got holds its own leg and nothing of the other side."""
        heading("What A sees, and what it does not")
        with (self.folder / "a.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        ids = {row["record_id"] for row in rows}
        check(len(ids) == HANDED_OVER_BY_1001, "record ids repeat")
        check({row["ingress_ocn"] for row in rows} == {"1001"}, "a call of another carrier was among them")
        secret = [n for n in rows[0] if n.startswith("egress_") and any(row[n] for row in rows)]
        check(not secret, f"the other leg is visible: {secret}")
        codes = Counter(row["sip_code"] for row in rows)
        check(codes["200"] == 590, f"{codes['200']} of A's calls are answered, not 590")
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        out.print(f"{len(rows):,} calls, {codes['200']} answered; columns: {escape(', '.join(columns))}")

    def refusals(self) -> None:
        """Three pulls that are refused: no token, another carrier's OCN, a time before the OCN was theirs."""
        heading("Refused: no token")
        status, body = self.fetch(f"{self.issuer}/v1/cdrs")
        out.print(f"[dim]$ curl {self.issuer}/v1/cdrs[/]\n[yellow]{status} {escape(body)}[/]")
        check(status == 401, f"without a token the answer is {status}")
        heading("Refused: A asks for another carrier's calls")
        self.act_as("example-a")
        asked = ("pull", "cdrs", "--out", "refused.csv")
        self.refused(*asked, *WINDOW, "--ocn", "1002", says="refused (400)")
        heading("Refused: A asks for calls from before the OCN was its own")
        self.refused(*asked, "--from", "2025-01-01", "--to", "2025-02-01", says="refused (403)")
        check(not (self.folder / "refused.csv").exists(), "a refused pull left a file")

    def log(self) -> None:
        """Every pull, denial and refusal is on record; so is this look."""
        heading("The access log has all of it (and this look too)")
        out.print(escape(self.tollgate("log", "show", "--limit", "16").rstrip()))
        entries = json.loads(self.tollgate("log", "show", "--limit", "1000", "--json", show=False))
        kinds = Counter(entry["kind"] for entry in entries)
        check(kinds["access.intent"] == kinds["access.outcome"] == 3, f"three pulls, but the log has {dict(kinds)}")
        check(kinds["access.denied"] == 1, "the denial is not on record")
        check(kinds["token.refused"] >= 1, "the refused token is not on record")
        check(kinds["log.read"] >= 2, "looks at the log are not on record")
        check(kinds["store.ingest"] >= 2, "the ingests are not on record")
        check(kinds["change.state"] == 17, "eight proposals, eight approvals and a refused one are not on record")
        check(kinds["registry.change"] == 10, "two operators and eight changes made are not on record")
        index = [entry["index"] for entry in entries]
        check(index == list(range(index[0], index[0] + len(index))), "the log has a gap")
        outcomes = [e["outcome"] for e in entries if e["kind"] == "access.outcome"]
        check(outcomes[0]["sha256"] == self.pulled["a"]["sha256"], "the log has another digest than A's file")

    def tamper(self) -> None:
        """Whoever has the database turns a refusal into a permit; fsck names the entry."""
        heading("The log is checked, every entry of it, and the store with it")
        self.tollgate("log", "fsck")
        heading("Somebody with the database turns a refusal into a permit")
        turned = "UPDATE tollgate.log_entry SET kind = '{1}', header = convert_to(replace(convert_from(header, 'UTF8'),"
        turned += " '{0}', '{1}'), 'UTF8') WHERE kind = '{0}'"
        entries = json.loads(self.tollgate("log", "show", "--limit", "1000", "--json", show=False))
        (index,) = [entry["index"] for entry in entries if entry["kind"] == "access.denied"]
        permit, deny = "access.intent", "access.denied"
        self.as_superuser(turned.format(deny, permit))
        self.shown("log", "fsck")
        done = self.run_fsck()
        out.print(escape(done.stderr.strip()), style="yellow")
        check(done.returncode == 1, f"fsck of an edited log ended with {done.returncode}")
        check(f"the first broken entry: entry {index}: its leaf" in done.stderr, "fsck does not name the entry")
        out.print("It is put back:")
        self.as_superuser(turned.format(permit, deny) + f" AND idx = {index}", show=False)
        self.tollgate("log", "fsck")

    def as_superuser(self, statement: str, show: bool = True) -> None:
        """Do something to the database that no role of Tollgate may do."""
        if show:
            out.print(f'[dim]$ psql -c "{escape(statement)}"[/]')

        async def do(url: str) -> str:
            conn = await asyncpg.connect(url)
            try:
                return str(await conn.execute(statement))
            finally:
                await conn.close()

        server = embedded.use(self.home)
        try:
            said = asyncio.run(do(server.url))
        finally:
            server.release()
        check(said == "UPDATE 1", f"the edit changed nothing: {said}")

    def run_fsck(self) -> subprocess.CompletedProcess[str]:
        """Run `tollgate log fsck` and keep what it says."""
        return subprocess.run(
            [TOLLGATE, "log", "fsck"],
            env=self.environment,
            cwd=self.folder,
            text=True,
            check=False,
            capture_output=True,
        )

    def metrics(self) -> None:
        """The numbers that all of this made."""
        heading("The metrics that this made")
        status, text = self.fetch(f"{self.metrics_url}/metrics")
        check(status == 200, f"the metrics page answers {status}")
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        named = ("tollgate_disclosed_rows_total", "tollgate_decisions_total", "tollgate_token_refusals_total",
                 "tollgate_tokens_issued_total", "tollgate_log_entries", "tollgate_ingest_lines_total",
                 "tollgate_log_append_duration_seconds_count")  # fmt: skip
        for name, value in values.items():
            if name.startswith(named) and float(value):
                out.print(f"{escape(name)} {escape(value)}")
        disclosed = sum(float(v) for n, v in values.items() if n.startswith("tollgate_disclosed_rows_total"))
        check(disclosed == HANDED_OVER_BY_1001 + TAKEN_BY_2001, f"the metrics count {disclosed} rows disclosed")
        denied = [n for n in values if n.startswith("tollgate_decisions_total") and 'decision="deny"' in n]
        check(len(denied) == 1, "the metrics do not count the denial")
        lines = {n: float(v) for n, v in values.items() if n.startswith("tollgate_ingest_lines_total")}
        stored = sum(value for name, value in lines.items() if 'outcome="stored"' in name)
        check(stored == CALLS + FREESWITCH_CALLS, f"the metrics count {stored} records stored")
        check(re.search(r"(?<![.\d])1?[2-9]\d\d55501\d\d(?!\d)", text) is None, "a number stands in the metrics")
        check(self.fetch(f"{self.metrics_url}/readyz")[0] == 200, "the gateway is not ready")

    def run(self) -> None:
        """All steps that need the gateway."""
        self.pull()
        self.nothing_too_much()
        self.refusals()
        self.log()
        self.tamper()
        self.metrics()
        legal.run(self)

    def next_commands(self) -> None:
        """What to try now."""
        out.print(
            "\n[bold green]All of it was so.[/] The gateway stays up; Ctrl-C ends it. To try, in another shell:\n"
        )
        tool = Path(TOLLGATE).parent
        exports = " ".join(f"{k}={shlex.quote(v)}" for k, v in self.connection("example-a").items())
        lines = (
            f"cd {shlex.quote(str(self.folder))}; export PATH={shlex.quote(str(tool))}:$PATH TOLLGATE_HOME=$PWD/home",
            f"export {exports}",
            f"tollgate pull cdrs {' '.join(WINDOW)} --out calls.parquet",
            "tollgate pull curl '/v1/cdrs?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z&limit=3' | curl -sK -",
            f"curl -s --cacert home/tls/ca.pem {self.issuer}/.well-known/oauth-authorization-server",
            f"curl -s {self.metrics_url}/metrics",
            "tollgate log show",
            "tollgate log fsck",
            "tollgate store status",
            f"export {' '.join(f'{name}={shlex.quote(self.environment[name])}' for name in STAFF_ENVIRONMENT)}",
            "tollgate change list",
            "tollgate client disable billing-example-a --reason 'trying it'",
        )
        for line in lines:
            out.print(f"  {escape(line)}")


def stay(demo: Demo) -> None:
    """Wait for Ctrl-C, or the gateway's end."""
    assert demo.gateway is not None
    with contextlib.suppress(KeyboardInterrupt):
        demo.gateway.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 only if every step did what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="check every step, clean up, end")
    parser.add_argument("--keep", type=Path, help="directory to use (default: build/demo, or a temporary one)")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if chosen.once:
        folder = chosen.keep or Path(tempfile.mkdtemp(prefix="tollgate-demo-"))
        demo = Demo(folder, free_port(), free_port(), free_port())
    else:
        folder = chosen.keep or ROOT / "build" / "demo"
        shutil.rmtree(folder, ignore_errors=True)
        demo = Demo(folder, free_port(8443), free_port(9464), free_port(9400))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        demo.set_up()
        with demo.provider():
            demo.operators()
            with demo.serving():
                demo.register()
                demo.ingest()
                demo.run()
                if not chosen.once:
                    demo.next_commands()
                    stay(demo)
    except StepFailedError as error:
        out.print(f"\n[bold red]The demo failed:[/] {escape(str(error))}")
        log = folder / "gateway.log"
        if log.exists():
            out.print(escape("\n".join(log.read_text().splitlines()[-5:])), style="dim")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if chosen.once and not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if chosen.once:
        out.print("\n[bold green]Every step did what it says.[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
