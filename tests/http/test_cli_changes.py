"""The registries from the command line, as two operators type them: `tollgate staff`, `carrier`, `change` and so on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.staff.model import StaffRole
from tests.support import machine, oidc, signin
from tests.support.machine import Machine
from tests.support.oauth import new_key
from tests.support.oidc import Mock
from tests.support.operators import today
from tests.support.signin import act_as_staff

ONE, TWO = "operator-1", "operator-2"
WHY = ("--reason", "as agreed")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    with oidc.process(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def tollgate(tmp_path_factory: pytest.TempPathFactory, provider: Mock) -> Iterator[Machine]:
    """Set up by the commands and served; two operators are named and signed in."""
    settings = {"TOLLGATE_" + name.upper(): value for name, value in provider.settings().items()}
    made = machine.make(tmp_path_factory.mktemp("machine"), **settings)
    signin.bootstrap(made, ONE, TWO)
    with made.serving():
        for staff_id in (ONE, TWO):
            told = signin.sign_in(made, provider, staff_id, StaffRole.OPERATOR)
            assert staff_id in told
        yield made
    made.relay.close()


def approve(tollgate: Machine, change_id: str, code: int = 0) -> str:
    act_as_staff(tollgate, TWO)
    done = tollgate.tollgate("change", "approve", change_id.strip(), stdin="y\n", code=code)
    act_as_staff(tollgate, ONE)
    return done.stderr


def both(tollgate: Machine, *words: str) -> None:
    """One proposes, the other approves."""
    act_as_staff(tollgate, ONE)
    approve(tollgate, tollgate.tollgate(*words, *WHY).stdout)


def test_a_carrier_from_nothing_to_disabled(tollgate: Machine) -> None:
    key = new_key()
    (tollgate.folder / "billing-a.jwk").write_text(json.dumps(key.public))
    both(tollgate, "carrier", "add", "carrier-a", "--name", "Example Carrier A", "--ocn", "123a:2020-01-01",
         "--ocn", "123B")  # fmt: skip
    both(tollgate, "carrier", "ocn", "carrier-a", "123C", "--from", "2024-01-01", "--to", "2025-01-01")
    tollgate.tollgate("carrier", "ocn", "carrier-a", "123C", "--end", "2024-06-01", "--reason", "sold")
    both(tollgate, "agreement", "add", "ICA/1 (a)", "--carrier", "carrier-a", "--from", "2020-01-01",
         "--cpni-clause", "section 9")  # fmt: skip
    both(tollgate, "client", "add", "billing-a", "--carrier", "carrier-a", "--jwks", "billing-a.jwk",
         "--network", "192.0.2.0/24")  # fmt: skip
    (carrier,) = tollgate.json("carrier", "list")
    assert [o["ocn"] for o in carrier["ocns"]] == ["123A", "123B", "123C"]
    assert carrier["ocns"][2] == {"ocn": "123C", "from": "2024-01-01", "to": "2024-06-01"}
    (client,) = tollgate.json("client", "list")
    assert client["networks"] == ["192.0.2.0/24"]
    assert client["jwks"][0]["kid"] == key.kid
    second = new_key()
    (tollgate.folder / "second.jwk").write_text(json.dumps(second.public))
    both(tollgate, "client", "key", "add", "billing-a", "--jwks", "second.jwk")
    tollgate.tollgate("client", "key", "disable", "billing-a", key.kid, "--reason", "retired")
    assert [k["kid"] for k in tollgate.json("client", "list")[0]["jwks"]] == [second.kid]
    assert tollgate.json("agreement", "list")[0]["agreement"] == "ICA/1 (a)"
    assert tollgate.json("agreement", "list", "--carrier", "carrier-b") == []
    assert "billing-a" in tollgate.tollgate("client", "list").stderr
    tollgate.tollgate("client", "disable", "billing-a", "--reason", "stolen")
    tollgate.tollgate("agreement", "disable", "ICA/1 (a)", "--reason", "ended")
    tollgate.tollgate("carrier", "disable", "carrier-a", "--reason", "gone")
    assert tollgate.json("client", "list")[0]["disabled_at"]
    assert "disabled" in tollgate.tollgate("carrier", "disable", "carrier-a", "--reason", "again", code=1).stderr


def test_nobody_approves_their_own_and_a_no_is_a_no(tollgate: Machine) -> None:
    act_as_staff(tollgate, ONE)
    change = tollgate.json("carrier", "add", "carrier-n", "--name", "Example Carrier N", *WHY)
    own = tollgate.tollgate("change", "approve", change["change_id"], stdin="y\n", code=1)
    assert "cannot decide it" in own.stderr
    act_as_staff(tollgate, TWO)
    # Asked, and not said yes to: nothing is sent.
    for no in ("n\n", "\n", ""):
        tollgate.tollgate("change", "approve", change["change_id"], stdin=no, code=130)
    wrong = tollgate.tollgate("change", "approve", change["change_id"], "--digest", "0" * 64, code=1)
    assert "another content" in wrong.stderr
    shown = tollgate.tollgate("change", "show", change["change_id"]).stderr
    assert change["digest"] in shown
    assert "carrier-n" in shown
    tollgate.tollgate("change", "refuse", change["change_id"], "--reason", "not one of ours")
    act_as_staff(tollgate, ONE)
    refused = tollgate.json("change", "show", change["change_id"])
    assert (refused["state"], refused["decided_by"], refused["decision_reason"]) == ("refused", TWO, "not one of ours")
    mine = tollgate.tollgate("carrier", "add", "carrier-n", "--name", "Example Carrier N", *WHY).stdout.strip()
    tollgate.tollgate("change", "withdraw", mine, "--reason", "a mistake")
    assert tollgate.json("change", "list", "--state", "proposed") == []
    assert "carrier-n" not in [c["carrier"] for c in tollgate.json("carrier", "list")]


def test_what_others_wrote_is_shown_as_text(tollgate: Machine) -> None:
    """Markup, escapes and letters turned around change nothing on the terminal of who approves."""
    act_as_staff(tollgate, ONE)
    name = "[red]A[/] \u202eB\u200b"
    proposed = tollgate.tollgate("carrier", "add", "carrier-m", "--name", "[red]A[/]", *WHY)
    assert "is 1 to 200 printable" in tollgate.tollgate("carrier", "add", "x", "--name", name, *WHY, code=1).stderr
    assert "[red]A[/]" in tollgate.tollgate("change", "show", proposed.stdout.strip()).stderr
    assert (
        "[red]"
        in json.loads(tollgate.tollgate("change", "show", proposed.stdout.strip(), "--json").stdout)["payload"]["name"]
    )
    assert "carrier-m" in tollgate.tollgate("change", "list").stderr
    approve(tollgate, proposed.stdout)
    assert "[red]A[/]" in tollgate.tollgate("carrier", "list").stderr


def test_errors_say_what_is_wrong(tollgate: Machine, tmp_path: Path) -> None:
    both(tollgate, "carrier", "add", "carrier-e", "--name", "Example Carrier E")
    again = tollgate.tollgate("carrier", "add", "carrier-e", "--name", "Again", *WHY).stdout
    assert "there already" in approve(tollgate, again, code=1)
    assert "OCN" in tollgate.tollgate("carrier", "ocn", "carrier-e", "12", *WHY, code=1).stderr
    late = tollgate.tollgate("carrier", "ocn", "carrier-z", "123Z", *WHY).stdout
    assert "no carrier" in approve(tollgate, late, code=1)
    tollgate.tollgate("carrier", "ocn", "carrier-e", "123E", "--end", "2024-01-01", code=2)
    tollgate.tollgate("carrier", "ocn", "carrier-e", "123E", "--from", "01/02/2024", *WHY, code=2)
    tollgate.tollgate("carrier", "add", "carrier-f", "--name", "F", "--ocn", "1:2:3:4", *WHY, code=2)
    secret = tmp_path / "secret.jwk"
    key = new_key()
    secret.write_text(json.dumps(key.private))
    words = ("client", "add", "billing-e", "--carrier", "carrier-e", "--network", "192.0.2.0/24", *WHY, "--jwks")
    done = tollgate.tollgate(*words, str(secret), code=5)
    assert "private" in done.stderr
    assert key.private["d"] not in done.stderr
    secret.write_bytes(b"\x00\xff")
    assert "not JSON" in tollgate.tollgate(*words, str(secret), code=5).stderr
    secret.write_text(json.dumps({"keys": [new_key().public, new_key().public]}))
    assert (
        "2 keys" in tollgate.tollgate("client", "key", "add", "billing-e", "--jwks", str(secret), *WHY, code=5).stderr
    )
    assert tollgate.tollgate("change", "show", "nonsense", code=1).stderr
    act_as_staff(tollgate, "nobody")
    assert "tollgate login" in tollgate.tollgate("carrier", "list", code=1).stderr


def test_staff_come_and_go(tollgate: Machine, provider: Mock) -> None:
    person = "noc-1"
    both(tollgate, "staff", "add", person, "--subject", signin.subject_of(person), "--name", "Noc One",
         "--role", "noc")  # fmt: skip
    tollgate.tollgate("staff", "train", person, "--on", today().isoformat(), "--course", "CPNI at hire")
    both(tollgate, "staff", "give-role", person, "privacy_officer")
    key = new_key()
    (tollgate.folder / "signing.jwk").write_text(json.dumps(key.public))
    both(tollgate, "staff", "add-key", person, "--jwks", "signing.jwk")
    (record,) = [r for r in tollgate.json("staff", "list") if r["staff_id"] == person]
    assert record["roles"] == ["noc", "privacy_officer"]
    # Whoever is none of the operators takes no part in changes.
    signin.sign_in(tollgate, provider, person, StaffRole.NOC)
    assert "403" in tollgate.tollgate("change", "list", code=1).stderr
    act_as_staff(tollgate, ONE)
    tollgate.tollgate("staff", "suspend", person, "--reason", "left")
    both(tollgate, "staff", "resume", person)
    (record,) = [r for r in tollgate.json("staff", "list") if r["staff_id"] == person]
    assert record["suspended_at"] is None


def test_the_set_up_is_over(tollgate: Machine) -> None:
    words = ("staff", "bootstrap", "operator-3", "--subject", "x", "--name", "Operator Three", "--course", "CPNI")
    assert "two operators are active" in tollgate.tollgate(*words, code=1).stderr
    entries = json.loads(tollgate.tollgate("log", "show", "--limit", "1000", "--json").stdout)
    setups = [e for e in entries if (e["request"] or {}).get("change") == "staff.bootstrap"]
    assert [e["request"]["staff_id"] for e in setups] == [ONE, TWO]
    assert all(e["actor"]["os_user"] for e in setups)
