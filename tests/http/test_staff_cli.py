"""`tollgate login`, `whoami`, `staff`, `logout` at a gateway with TLS and a real provider; the session they share."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession

from proxy.cli import tls
from proxy.client import staff as client
from proxy.client.keys import generate
from proxy.client.session import ClientError
from proxy.client.staff import Kept, NotSignedIn, StaffSession, session_home
from proxy.ledger.model import Kind
from proxy.staff.model import StaffRole
from tests.conftest import Database
from tests.support.gate import Gate, gate
from tests.support.machine import free_port
from tests.support.oidc import Mock, Own, process
from tests.support.staff import person, subject_of

HANDLER = "handler@carrier.example"


class World(SimpleNamespace):
    """A gateway with TLS, a provider, and a person's machine."""

    gate: Gate
    mock: Mock
    ca: Path
    home: Path

    async def run(self, *arguments: str, session: str = "handler", stdin: str = "") -> tuple[int, str, str]:
        """Run `tollgate` as somebody whose session is ``session``."""
        running = await self.started(*arguments, session=session)
        out, err = await asyncio.wait_for(running.communicate(stdin.encode()), 60)
        return running.returncode, out.decode(), err.decode()

    async def started(self, *arguments: str, session: str = "handler") -> Any:
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "TOLLGATE_SESSION": str(self.home / session),
            "TOLLGATE_ISSUER": self.gate.config.issuer,
            "TOLLGATE_CA": str(self.ca),
            "TOLLGATE_PROVIDER_CA": str(self.mock.ca),
            "BROWSER": "true",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "proxy.cli.main", *arguments]
        return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environ)

    async def sign_in(self, staff_id: str, *roles: StaffRole, session: str, subject: str = "") -> None:
        """Sign somebody in with an ID token got otherwise."""
        who = subject or subject_of(staff_id)
        await self.mock.put(who, *roles)
        code, nonce, err = await self.run("login", "--nonce", session=session)
        assert code == 0, err
        token = await self.mock.id_token(who, nonce.strip())
        code, _, err = await self.run("login", "--assertion", "-", session=session, stdin=token)
        assert code == 0, err
        assert err.startswith(f"signed in as {staff_id} (")


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
        }
        async with gate(database, **values) as running:
            where = Own(mock.issuer, mock.ca)
            await running.registry.add_staff(running.operator, person(HANDLER, where), StaffRole.LEGAL_HANDLER)
            home = tmp_path / "person"
            home.mkdir()
            yield World(gate=running, mock=mock, ca=certificates / "ca.pem", home=home)


async def test_sign_in_with_the_browser(world: World, tmp_path: Path) -> None:
    """The whole flow: code, PKCE, the loopback redirect, the exchange, the file."""
    await world.mock.put(subject_of(HANDLER), StaffRole.LEGAL_HANDLER)
    secret = tmp_path / "secret"
    secret.write_text("any\n")
    running = await world.started("login", "--client-secret", str(secret))
    await running.stderr.readline()
    address = (await asyncio.wait_for(running.stderr.readline(), 30)).decode().strip()
    assert address.startswith(world.mock.issuer + "/oauth2/authorize?response_type=code&client_id=tollgate")
    assert "code_challenge_method=S256" in address
    back = await world.mock.agree(address, subject_of(HANDLER))
    assert back.startswith("http://127.0.0.1:")
    place = back.partition("?")[0]
    async with ClientSession() as http:
        for wrong in ("?code=x", "?code=x&state=y", "?error=access_denied&state=y"):
            async with http.get(place + wrong) as response:
                assert response.status == 400  # not the sign-in that waits
        async with http.get(back) as response:
            assert "Signed in" in await response.text()
    _, err = await asyncio.wait_for(running.communicate(), 30)
    assert running.returncode == 0, err
    assert f"signed in as {HANDLER} (legal_handler); trained until" in err.decode()

    file = world.home / "handler" / "session.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]

    code, out, err = await world.run("whoami", "--json")
    assert (code, json.loads(out)["staff_id"]) == (0, HANDLER), err
    issued = len(await world.gate.entries(Kind.TOKEN_ISSUED))
    code, out, _ = await world.run("whoami")
    assert (code, out.splitlines()[1]) == (0, "roles      legal_handler")
    assert len(await world.gate.entries(Kind.TOKEN_ISSUED)) == issued  # the token is kept between commands

    kept = client.load(world.home / "handler")
    code, _, err = await world.run("logout")
    assert (code, err.strip()) == (0, "signed out")
    assert not file.exists()
    client.save(world.home / "handler", Kept(kept.issuer, kept.ca, kept.key, "", kept.token, kept.token_until))
    code, _, err = await world.run("whoami")
    assert (code, "nobody has signed in" in err) == (1, True)
    assert [e.actor["staff"] for e in await world.gate.entries(Kind.TOKEN_REVOKED)] == [HANDLER]


async def test_a_provider_that_refuses_the_person(world: World) -> None:
    running = await world.started("login", "--no-browser")
    await running.stderr.readline()
    address = (await asyncio.wait_for(running.stderr.readline(), 30)).decode().strip()
    asked = dict(pair.split("=") for pair in address.partition("?")[2].split("&"))
    back = asked["redirect_uri"].replace("%3A", ":").replace("%2F", "/")
    denied = f"{back}?error=access_denied&error_description=%1b[31mx&state={asked['state']}"
    async with ClientSession() as http, http.get(denied) as response:
        assert response.status == 200
    _, err = await asyncio.wait_for(running.communicate(), 30)
    assert running.returncode == 1
    assert b"the provider did not sign the person in" in err
    assert b"\x1b[31mx" not in err
    assert not (world.home / "handler").exists()


async def test_the_operators_commands(world: World) -> None:
    await world.sign_in("operator-1", StaffRole.OPERATOR, session="operator", subject="operator-1@carrier.example")
    await world.sign_in(HANDLER, StaffRole.LEGAL_HANDLER, session="handler")

    async def operator(*arguments: str) -> tuple[int, str, str]:
        return await world.run("staff", *arguments, session="operator")

    code, out, err = await operator("list", "--json")
    assert (code, [each["staff_id"] for each in json.loads(out)]) == (0, [HANDLER, "operator-1", "operator-2"]), err
    code, out, _ = await operator("list")
    assert code == 0
    assert HANDLER in out
    code, _, err = await operator("train", HANDLER, "--on", "2026-01-05", "--course", "CPNI 2026")
    assert (code, err.startswith(f"done  training of {HANDLER} recorded; due again by")) == (0, True), err
    code, _, err = await operator("train", "operator-1", "--on", "2026-01-05", "--course", "CPNI 2026")
    assert code == 1
    assert "nobody records their own training" in err
    code, _, err = await operator("train", "nobody", "--on", "2026-01-05", "--course", "CPNI 2026")
    assert (code, "refused (404)" in err) == (1, True), err
    code, _, err = await world.run("staff", "list")
    assert code == 1
    assert "staff.role" in err
    code, _, err = await operator("suspend", HANDLER, "--reason", "as agreed")
    assert code == 0, err
    code, _, err = await world.run("whoami")
    assert code == 1
    assert "the person is suspended" in err
    code, _, err = await operator("end-role", HANDLER, "legal_handler", "--reason", "moved")
    assert (code, f"{HANDLER} is legal_handler no more" in err) == (0, True), err


async def test_what_login_says_where_it_cannot(world: World, tmp_path: Path) -> None:
    for arguments, code, says in (
        (["whoami"], 1, "nobody is signed in here"),
        (["login", "--nonce", "--assertion", "x"], 2, "either --nonce or --assertion"),
        (["login", "--assertion", str(tmp_path / "none")], 1, "nobody is signed in here"),
        (["login", "--issuer", "https://localhost:1"], 4, "localhost:1"),
        (["login", "--issuer", world.gate.config.issuer + "/"], 3, "is not the issuer"),
        (["login", "--ca", str(world.mock.ca)], 3, "the certificate cannot be verified"),
        (["logout"], 0, "nobody was signed in"),
    ):
        found, _, err = await world.run(*arguments)
        assert (arguments, found, says in err) == (arguments, code, True), err
    code, nonce, _ = await world.run("login", "--nonce")
    assert (code, len(nonce.strip())) == (0, 43)
    code, _, err = await world.run("login", "--assertion", "-", stdin="")
    assert code == 5
    code, _, err = await world.run("login", "--assertion", "-", stdin="a.b.c")
    assert (code, "the subject token is not taken" in err, "sign in again" in err) == (1, True, True)
    await world.mock.put("stranger", StaffRole.OPERATOR)
    token = await world.mock.id_token("stranger", nonce.strip())
    code, _, err = await world.run("login", "--assertion", "-", stdin=token)
    assert (code, "not in Tollgate's staff registry" in err) == (1, True)
    assert client.load(world.home / "handler").id_token == ""  # what is not taken is not kept


async def test_a_session_in_a_program(world: World, tmp_path: Path) -> None:
    """StaffSession as the other commands use it: a body, a file, a query, a refusal, an answer to a file."""
    await world.sign_in("operator-1", StaffRole.OPERATOR, session="operator", subject="operator-1@carrier.example")
    async with StaffSession.open(world.home / "operator") as session:
        first = await session.token()
        reply = await session.request(
            "POST", f"/v1/staff/{HANDLER}/training", json={"completed_on": "2026-01-06", "course": "CPNI"}
        )
        assert (reply.status, reply.json["staff_id"]) == (201, HANDLER)
        body = tmp_path / "body.json"
        body.write_text('{"completed_on": "2026-01-07", "course": "CPNI"}')
        path = f"/v1/staff/{HANDLER}/training"
        reply = await session.request("POST", path, data=body, content_type="application/json")
        assert reply.status == 201
        with pytest.raises(ClientError, match="409"):
            await session.request("POST", path, data=body.read_bytes(), content_type="application/json")
        with pytest.raises(ClientError, match="400"):
            await session.request("GET", "/v1/staff", params={"all": "1"})
        out = tmp_path / "staff.json"
        await session.download("/v1/staff", out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert len(json.loads(out.read_bytes())["staff"]) == 3
        with pytest.raises(FileExistsError):
            await session.download("/v1/staff", out)
        with pytest.raises(ClientError, match="404"):
            await session.download("/v1/staff/nobody", tmp_path / "none.json")
        assert {name for name in os.listdir(tmp_path) if "json" in name} == {"body.json", "staff.json"}
        # A token that was revoked meanwhile is got anew by itself.
        await session.request("DELETE", "/v1/staff/me/token")
        assert (await session.request("GET", "/v1/staff/me")).status == 200
        assert await session.token() != first
    assert client.load(world.home / "operator").token != first


def test_where_a_session_is() -> None:
    assert session_home({"TOLLGATE_SESSION": "/s"}) == Path("/s")
    assert session_home({"XDG_CONFIG_HOME": "/x"}) == Path("/x/tollgate")
    assert session_home({"HOME": "/h"}).parts[-2:] == (".config", "tollgate")


def test_a_session_that_others_may_read_is_none(tmp_path: Path) -> None:
    key = generate()
    client.save(tmp_path, Kept("https://localhost", "", key, "id", "token", 5.0))
    found = client.load(tmp_path)
    assert (found.id_token, found.token, found.token_until, found.key.kid) == ("id", "token", 5.0, key.kid)
    (tmp_path / "session.json").chmod(0o640)
    with pytest.raises(NotSignedIn, match="others may read"):
        client.load(tmp_path)
    (tmp_path / "session.json").chmod(0o600)
    for text in ("", "[]", "{}", '{"version":2}', '{"version":1,"key":"x"}', "\x00"):
        (tmp_path / "session.json").write_text(text)
        with pytest.raises(NotSignedIn, match="cannot be read"):
            client.load(tmp_path)
    assert client.forget(tmp_path)
    assert not client.forget(tmp_path)
