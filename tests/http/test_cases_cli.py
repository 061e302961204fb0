"""`tollgate case`, as handler and approver type it: from a served subpoena to a package that the recipient opens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyrage import decrypt, x25519

from proxy.cli import tls
from proxy.staff.model import StaffRole
from tests.conftest import Database
from tests.http.test_staff_cli import World
from tests.support.cases import NUMBER, pdf, some_calls
from tests.support.gate import gate
from tests.support.machine import free_port
from tests.support.oidc import Own, process
from tests.support.production import signed_text
from tests.support.staff import person

PEOPLE = {"handler": StaffRole.LEGAL_HANDLER, "approver": StaffRole.LEGAL_APPROVER}


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    port = free_port()
    certificates = database.config.home / "tls"
    tls.make(certificates, "localhost", datetime.now(UTC))
    with process(tmp_path) as mock:
        values = {
            **mock.settings(),
            "issuer": f"https://localhost:{port}",
            "listen_port": port,
            "tls_cert": "tls/server.pem",
            "legal_desk": 1,
            "carrier_name": "Example Carrier",
        }
        async with gate(database, **values) as running:
            await running.ingest(some_calls())
            home = tmp_path / "person"
            home.mkdir()
            made = World(gate=running, mock=mock, ca=certificates / "ca.pem", home=home)
            for name, role in PEOPLE.items():
                staff_id = f"{name}@carrier.example"
                await running.registry.add_staff(running.operator, person(staff_id, Own(mock.issuer, mock.ca)), role)
                await made.sign_in(staff_id, role, session=name)
            yield made


async def test_the_way_of_a_case(world: World, tmp_path: Path) -> None:
    async def does(*arguments: str, who: str = "handler", stdin: str = "", code: int = 0) -> tuple[str, str]:
        found, out, err = await world.run("case", *arguments, session=who, stdin=stdin)
        assert found == code, (arguments, out, err)
        return out, err

    served = tmp_path / "served.pdf"
    served.write_bytes(pdf())
    out, _ = await does(
        *("new", "--instrument", "subpoena", "--agency", "Example \x1b[31mCounty", "--officer", "Foreperson"),
        *("--reference", "GJ-1", "--signed-by", "grand_jury", "--issued", "2026-11-02", "--served", "2026-11-03"),
        *("--attest", "authentic", "--document", str(served)),
        code=1,
    )  # a control character in what is typed is refused, not cleaned
    out, _ = await does(
        *("new", "--instrument", "subpoena", "--agency", "Example County", "--officer", "Foreperson"),
        *("--reference", "GJ-1", "--signed-by", "grand_jury", "--issued", "2026-11-02", "--served", "2026-11-03"),
        *("--attest", "authentic", "--document", str(served)),
    )
    case = out.strip()
    window = ("--from", "2026-10-01", "--through", "2026-10-31")
    classes = ("--class", "timing", "--class", "parties", "--class", "location")
    # The number comes on stdin: it is not in the list of processes, nor in the shell's history.
    await does("scope", case, "--targets", "-", *window, *classes, stdin="(212) 555-0123\n")
    _, err = await does("validate", case, code=1)
    assert "Carpenter" in err
    out, _ = await does("letter", case)
    assert out.startswith("NOTICE OF DEFICIENCY")
    assert NUMBER not in out
    await does("narrow", case, "--compelled")
    _, err = await does("validate", case)
    scope = err.split()[-1]
    await does("approve", case, "--scope", scope, code=1)  # a handler, who is no approver
    await does("approve", case, "--scope", "0" * 12, who="approver", code=1)
    out, _ = await does("show", case, who="approver")
    assert NUMBER in out
    assert scope in out
    await does("approve", case, "--scope", scope[:12], who="approver")
    _, err = await does("extract", case)
    assert "20 records" in err
    await does("review", case, "--records", "20", who="approver")
    await does("produce", case, "--custodian", "handler@carrier.example")
    draft = tmp_path / "certificate.txt"
    await does("certificate", case, str(draft))
    await does("certify", case, str(draft), "--as", "text", code=1)
    draft.write_bytes(signed_text(draft.read_bytes()))
    await does("certify", case, str(draft), "--as", "text")
    identity = x25519.Identity.generate()
    recipient, package = tmp_path / "recipient.txt", tmp_path / "package.age"
    recipient.write_text(f"# of the agency\n{identity.to_public()}\n")
    await does("deliver", case, "--recipient", str(recipient), "--out", str(package), "--version", "1", code=1)
    await does("deliver", case, "--recipient", str(recipient), "--out", str(package))
    assert decrypt(package.read_bytes(), [identity]).startswith(b"PK")
    await does("ack", case)
    out, _ = await does("due", "--json")
    assert json.loads(out) == []
    await does("close", case, "--reason", "answered")
    out, _ = await does("list", "--json", who="approver")
    assert [(c["case_id"], c["state"]) for c in json.loads(out)] == [(case, "closed")]
