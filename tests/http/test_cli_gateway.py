"""The commands against the real gateway, each in a process of its own: what an operator and a carrier would type."""

from __future__ import annotations

import csv
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.notes import Cosigner
from tests.support import machine
from tests.support.machine import SAMPLES, WINDOW, Machine


@pytest.fixture(scope="module")
def tollgate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Set up by the commands, the first half of the Kamailio sample ingested, served."""
    made = machine.make(tmp_path_factory.mktemp("machine"))
    for name, ocns in (("carrier-a", ("1001",)), ("carrier-d", ("2001", "2002"))):
        made.add_carrier(name, *ocns)
    first, _ = machine.sample_halves(made.folder)
    ingested = made.json("ingest", "files", str(first), "--profile", "kamailio-acc", "--trunk-map",
                         str(SAMPLES / "trunks.csv"))  # fmt: skip
    assert ingested, "the ingest said nothing"
    with made.serving():
        yield made
    made.relay.close()


def ids(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["record_id"] for row in csv.DictReader(file)]


def test_every_form_holds_the_same_calls(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    for form in ("csv", "ndjson", "arrow", "parquet"):
        said = tollgate.json("pull", "cdrs", *WINDOW, "--out", f"all.{form}")
        assert said["proven"]
    expected = ids(tollgate.folder / "all.csv")
    assert len(expected) == len(set(expected)) > 400
    lines = (tollgate.folder / "all.ndjson").read_text().splitlines()
    assert [json.loads(line)["record_id"] for line in lines] == expected
    with (tollgate.folder / "all.arrow").open("rb") as file:
        arrow = pyarrow.ipc.open_stream(file).read_all()
    assert [i.hex() for i in arrow["record_id"].to_pylist()] == expected
    parquet = pyarrow.parquet.read_table(tollgate.folder / "all.parquet")
    assert [i.hex() for i in parquet["record_id"].to_pylist()] == expected


def test_a_broken_line_loses_and_repeats_nothing(tollgate: Machine) -> None:
    tollgate.act_as("carrier-d")
    whole = tollgate.json("pull", "cdrs", *WINDOW, "--out", "whole.csv")
    # Discovery, token, nonce and answer share connections: so cut at places that lie in different parts of it.
    tollgate.relay.cuts = [9_000, 12_000, 30_000, None]
    broken = tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "broken.csv", "--json")
    assert json.loads(broken.stdout)["rows"] == whole["rows"]
    assert "trying again" in broken.stderr
    assert (tollgate.folder / "broken.csv").read_bytes() == (tollgate.folder / "whole.csv").read_bytes()


def test_late_records_come_once(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--direction", "ingress", "--since-last", "--out", "one.csv")
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--direction", "ingress", "--since-last", "--out", "two.csv")
    assert ids(tollgate.folder / "two.csv") == []
    tollgate.tollgate("ingest", "files", "second.csv", "--profile", "kamailio-acc", "--trunk-map",
                      str(SAMPLES / "trunks.csv"))  # fmt: skip
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--direction", "ingress", "--since-last", "--out", "three.csv")
    one, three = ids(tollgate.folder / "one.csv"), ids(tollgate.folder / "three.csv")
    assert one
    assert three
    assert not set(one) & set(three)
    # The sample's own README: 1,000 calls attempted on trunk 127.0.1.1 (OCN 1001).
    assert len(one) + len(three) == 1000


def test_search_finds_the_calls_of_a_number_given_on_stdin(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "searched.csv")
    with (tollgate.folder / "searched.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    number = next(row["calling"] for row in rows if re.fullmatch(r"\+\d{11}", row["calling"]))
    wanted = {row["record_id"] for row in rows if number in (row["calling"], row["called"])}
    tollgate.tollgate("pull", "search", *WINDOW, "--out", "found.csv", stdin=number + "\n")
    assert set(ids(tollgate.folder / "found.csv")) == wanted
    # The number is in no log line of the gateway, and in no name of a file of ours.
    assert number.lstrip("+") not in (tollgate.folder / "gateway.log").read_text()


def test_an_existing_file_is_not_replaced(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    (tollgate.folder / "mine.csv").write_text("mine")
    refused = tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "mine.csv", code=2)
    assert "--overwrite" in refused.stderr
    assert (tollgate.folder / "mine.csv").read_text() == "mine"
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "mine.csv", "--overwrite")
    assert ids(tollgate.folder / "mine.csv")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--ocn", "1002"], 1, "invalid_authorization_details"),
        (["--client-id", "billing-nobody"], 1, "invalid_client"),
        (["--key", "carrier-d.pem"], 1, "invalid_client"),
        (["--key", "none.pem"], 3, "keygen"),
        (["--issuer", "https://localhost:{port}/"], 3, "issuer"),
        (["--issuer", "https://127.0.0.1:1"], 4, "127.0.0.1:1"),
        (["--from", "2026-12-02"], 1, "to"),
        (["--from", "yesterday"], 2, "--from"),
    ],
)
def test_refusals_end_with_their_code(tollgate: Machine, options: list[str], code: int, says: str) -> None:
    tollgate.act_as("carrier-a")
    given = [o.format(port=tollgate.relay.port) for o in options]
    if "127.0.0.1:1" in given[-1]:
        given += ["--ca", "home/tls/ca.pem"]
    window = list(WINDOW) if given[0] != "--from" else ["--to", "2026-12-01"]
    refused = tollgate.tollgate("pull", "cdrs", *window, *given, "--out", "refused.csv", code=code)
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tollgate.folder / "refused.csv").exists()


def test_a_curl_configuration_is_good_for_its_one_request(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    path = "/v1/cdrs?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z&limit=3"
    printed = tollgate.tollgate("pull", "curl", path).stdout
    lines = [line.split(" = ", 1) for line in printed.splitlines()]
    url = json.loads(next(value for name, value in lines if name == "url"))
    headers = dict(json.loads(value).split(": ", 1) for name, value in lines if name == "header")
    assert url == tollgate.issuer + path
    context = ssl.create_default_context(cafile=str(tollgate.home / "tls" / "ca.pem"))
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context) as answer:
        assert len(answer.read().splitlines()) == 3
    with pytest.raises(urllib.error.HTTPError) as caught:  # the same proof again
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context)
    caught.value.close()
    assert caught.value.code == 401


def test_a_disabled_client_is_told_at_once(tollgate: Machine) -> None:
    tollgate.add_carrier("carrier-x", "1003")
    tollgate.act_as("carrier-x")
    tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "x1.csv")
    tollgate.change(("client.end", {"client": "billing-carrier-x"}))
    refused = tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "x2.csv", code=1)
    assert "invalid_client" in refused.stderr


def test_a_gateway_that_is_gone_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    made = machine.make(tmp_path)
    made.add_carrier("carrier-a", "1001")
    made.act_as("carrier-a")
    with made.serving():
        made.tollgate("pull", "cdrs", *WINDOW, "--out", "a.csv")
    # Everything was let go at the end: no server of the database is left behind.
    assert not (made.home / "pgdata" / "postmaster.pid").exists()
    with made.serving():
        made.tollgate("pull", "cdrs", *WINDOW, "--out", "b.csv")
    made.relay.close()


def test_serve_without_a_home_or_with_a_taken_port_says_so(tmp_path: Path, tollgate: Machine) -> None:
    missing = Machine(tmp_path, "", tollgate.relay, 0, "")
    missing.environment |= {"TOLLGATE_HOME": str(tmp_path / "none")}
    assert "tollgate init" in missing.tollgate("serve", code=3).stderr
    taken = tollgate.tollgate("serve", code=3).stderr
    assert "cannot listen" in taken
    assert "Traceback" not in taken


def test_a_pull_is_held_against_the_log_and_its_receipt_is_proven_offline(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    key = tollgate.tollgate("log", "key").stdout.strip()
    assert key.startswith(f"{tollgate.issuer.removeprefix('https://')}/log+")
    said = tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "held.csv", "--verify")
    assert "taken on trust" in said.stderr
    assert key in said.stderr.replace("\n", "")
    pinned = tollgate.json("pull", "cdrs", *WINDOW, "--out", "held2.csv", "--verify", "--log-key", key)
    (receipt,) = pinned["receipts"]
    proven = tollgate.json("log", "verify-receipt", receipt, "--key", key)
    assert proven["access_id"] == pinned["accesses"][0]
    assert [entry["kind"] for entry in proven["entries"]] == ["access.intent", "access.outcome"]
    assert proven["entries"][1]["outcome"]["rows"] == pinned["rows"]
    # Offline means so: without home, issuer or database.
    shown = tollgate.tollgate("--home", "nowhere", "log", "verify-receipt", receipt, "--key", key)
    assert "access.outcome" in shown.stdout
    assert "proven" in shown.stderr

    path = tollgate.folder / receipt
    path.write_text(path.read_text().replace("client_id", "client_iD", 1))
    refused = tollgate.tollgate("log", "verify-receipt", receipt, "--key", key, code=1)
    assert "not what the header commits to" in refused.stderr


def test_a_pull_that_does_not_verify_leaves_no_file(tollgate: Machine) -> None:
    tollgate.act_as("carrier-a")
    other = "other.example/log+9dcd68c6+ATyDNCyAAPs0Nh56IUOrTiHKmBVrkNsdWwAWhj4eTkEq"
    refused = tollgate.tollgate("pull", "cdrs", *WINDOW, "--out", "unheld.csv", "--verify", "--log-key", other, code=2)
    assert "--log-key" in refused.stderr  # the hash in it is not its key's
    key = tollgate.tollgate("log", "key").stdout.strip()
    witness = _witness_key()
    refused = tollgate.tollgate(
        "pull", "cdrs", *WINDOW, "--out", "unheld.csv", "--verify", "--log-key", key, "--witness", witness, code=1
    )
    assert "0 of 1 witnesses" in refused.stderr
    assert not (tollgate.folder / "unheld.csv").exists()
    for option, value in (("--key", witness), ("--witness", key)):
        given = {"--key": key, option: value}
        refused = tollgate.tollgate(
            "log", "verify-receipt", "carrier-a.pem", *(p for o in given.items() for p in o), code=2
        )
        assert option in refused.stderr


def _witness_key() -> str:
    return str(Cosigner("witness.example/w1", Ed25519PrivateKey.generate()).key)


def test_a_gateway_publishes_so_that_a_hand_has_nothing_to_do(tollgate: Machine) -> None:
    assert tollgate.json("log", "publish") == {"published": False}
