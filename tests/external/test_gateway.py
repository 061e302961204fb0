"""A running gateway under other people's programs: Prometheus scrapes it, HAProxy passes TLS through, curl pulls."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import machine, readme
from tests.support.machine import SAMPLES, WINDOW, Machine, free_port
from tests.support.postgres import system_server

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def tollgate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = machine.make(tmp_path_factory.mktemp("machine"))
    made.add_carrier("carrier-a", "1001")
    made.tollgate("ingest", str(SAMPLES / "kamailio_acc_cdrs.csv"), "--profile", "kamailio-acc", "--trunk-map",
                  str(SAMPLES / "trunks.csv"))  # fmt: skip
    made.act_as("carrier-a")
    with made.serving():
        yield made
    made.relay.close()


@contextmanager
def running(folder: Path, *command: object, **environment: str) -> Iterator[None]:
    """Another program, as long as the block."""
    with (folder / "program.log").open("w") as log:
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env={**os.environ, **environment})
        try:
            yield
            assert process.poll() is None, (folder / "program.log").read_text()
        finally:
            process.terminate()
            process.wait(timeout=30)


def eventually(look: Callable[[], Any]) -> Any:
    """Return what ``look`` finds, once it finds something."""
    for _ in range(240):
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.25)
    raise AssertionError("it never came")


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_prometheus_scrapes_it_and_loads_the_rules(tollgate: Machine, tmp_path: Path) -> None:
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "prometheus.csv")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "tollgate.rules.yml")]
    target = tollgate.metrics_url.removeprefix("http://")
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    base = f"http://127.0.0.1:{free_port()}"
    listen = f"--web.listen-address={base.removeprefix('http://')}"
    options = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", listen)
    with running(tmp_path, "prometheus", *options):

        def query(expression: str) -> Any:
            asked = urllib.parse.urlencode({"query": expression})
            return get_json(f"{base}/api/v1/query?{asked}")["data"]["result"]

        rows = eventually(lambda: query('tollgate_disclosed_rows_total{client="billing-carrier-a"}'))
        assert float(rows[0]["value"][1]) == 1000
        assert eventually(lambda: query('up{job="tollgate"} == 1'))
        targets = get_json(f"{base}/api/v1/targets")["data"]["activeTargets"]
        assert [(t["health"], t["lastError"]) for t in targets] == [("up", "")]
        groups = eventually(lambda: get_json(f"{base}/api/v1/rules")["data"]["groups"])
        rules = [rule for group in groups for rule in group["rules"]]
        assert eventually(lambda: query("tollgate:disclosed_rows:rate5m >= 0"))
        assert {rule["lastError"] for rule in rules if "lastError" in rule} <= {""}
        # Metadata reaches Prometheus: every family has a help text.
        known = get_json(f"{base}/api/v1/metadata")["data"]
        ours = {name: said[0] for name, said in known.items() if name.startswith("tollgate_")}
        assert ours
        assert all(said["help"] for said in ours.values())


def test_promtool_finds_nothing_to_better_in_the_metrics(tollgate: Machine) -> None:
    with urllib.request.urlopen(f"{tollgate.metrics_url}/metrics", timeout=10) as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    # The client library's own `_created` series are not ours to name.
    said = [
        line for line in done.stderr.decode().splitlines() if line.startswith("tollgate") and "_created" not in line
    ]
    assert said == []


def test_haproxy_passes_tls_through_and_asks_for_readiness(tollgate: Machine, tmp_path: Path) -> None:
    bind = free_port()
    environment = {
        "TOLLGATE_BIND": f"127.0.0.1:{bind}",
        "TOLLGATE_GATEWAY": f"127.0.0.1:{tollgate.gateway_port}",
        "TOLLGATE_METRICS_PORT": tollgate.metrics_url.rpartition(":")[2],
    }
    target, tollgate.relay._target = tollgate.relay._target, bind  # the issuer's port leads to HAProxy now
    try:
        with running(tmp_path, "haproxy", "-f", DEPLOY / "haproxy" / "haproxy.cfg", **environment):
            eventually(lambda: tollgate.json("pull", "cdrs", *WINDOW, "--overwrite", "--out", "haproxy.csv")["proven"])
            log = (tmp_path / "program.log").read_text()
            assert "gateways/gateway1" in log
    finally:
        tollgate.relay._target = target


def test_the_readme_runs_with_its_curl_lines(tmp_path: Path) -> None:
    done = readme.run(tmp_path, "\n".join(readme.blocks({"", "curl"})))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("README-DONE\n")
    assert 'tollgate_disclosed_rows_total{client="billing-a",purpose="billing"}' in done.stdout
    assert done.stdout.count('"record_id"') == 3


def test_the_readme_runs_on_a_real_postgresql(tmp_path: Path) -> None:
    with system_server() as server:
        url = urllib.parse.urlsplit(server.superuser_url)
        script = "psql -qXc 'DROP DATABASE tollgate' postgres\n" + "\n".join(readme.blocks({"postgres"}))
        done = readme.run(
            tmp_path, script, PGHOST="127.0.0.1", PGPORT=str(server.port), PGUSER=url.username or "",
            PGPASSWORD=url.password or "", TOLLGATE_HOME=str(tmp_path / "home"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (tmp_path / "home" / "pgdata").exists()


def test_the_whole_demo_works_on_a_real_postgresql(tmp_path: Path) -> None:
    """Ingest, rolling, tokens, pull and log under an owner who is no superuser."""
    with system_server() as server:
        url = urllib.parse.urlsplit(server.owner_url)
        bare = f"postgresql://{url.username}@{url.hostname}:{url.port}{url.path}"
        made = machine.make(tmp_path, "--database-url", bare, PGPASSWORD=url.password or "")
        made.add_carrier("carrier-a", "1001")
        del made.environment["PGPASSWORD"]  # from here on nobody has the owner's password
        made.tollgate("ingest", str(SAMPLES / "kamailio_acc_cdrs.csv"), "--profile", "kamailio-acc", "--trunk-map",
                      str(SAMPLES / "trunks.csv"))  # fmt: skip
        made.act_as("carrier-a")
        with made.serving():
            said = made.json("pull", "cdrs", *WINDOW, "--out", "a.csv")
        made.relay.close()
        assert (said["rows"], said["proven"]) == (1000, True)
        assert made.json("log", "show", "--kind", "access.outcome")[0]["outcome"]["rows"] == 1000
