"""OpenID providers for tests, over real TLS on loopback.

`process`: oidc-provider-mock in a process of its own, for sign-in as it is. Run as a program it is that process.
`Own`: keys and pages that a test has in its hands, so that any one thing can be wrong.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web

from proxy.cli import tls
from proxy.staff.model import StaffRole
from tests.support.machine import free_port
from tests.support.oauth import Key, merged, new_key, sign

CLIENT_ID = "tollgate"
START_S = 30.0


def group(role: StaffRole) -> str:
    """The provider's group that a role asks for where nothing else is set."""
    return "tollgate-" + role.value.replace("_", "-")


@dataclass
class Place:
    """Where a provider is, and what its certificate is verified with."""

    issuer: str
    ca: Path

    def settings(self) -> dict[str, str]:
        """The settings of a gateway whose staff sign in there."""
        return {"oidc_issuer": self.issuer, "oidc_client_id": CLIENT_ID, "oidc_ca": str(self.ca)}


@dataclass
class Mock(Place):
    """oidc-provider-mock, running."""

    def context(self) -> ssl.SSLContext:
        """TLS settings of a client that trusts it."""
        return ssl.create_default_context(cafile=str(self.ca))

    async def put(self, subject: str, *roles: StaffRole, **claims: Any) -> None:
        """Make or change a person: in the groups of ``roles``, and what else is said of them."""
        said = {"groups": [group(role) for role in roles], **claims}
        async with aiohttp.ClientSession() as http:
            place = f"{self.issuer}/users/{subject}"
            async with http.put(place, json=said, ssl=self.context()) as response:
                assert response.status < 300, await response.text()

    async def agree(self, address: str, subject: str) -> str:
        """Do what the person does in the browser; return where it is sent to."""
        options: dict[str, Any] = {"data": {"sub": subject}, "ssl": self.context(), "allow_redirects": False}
        async with aiohttp.ClientSession() as http, http.post(address, **options) as response:
            assert response.status == 302, await response.text()
            return response.headers["Location"]

    async def id_token(self, subject: str, nonce: str, client_id: str = CLIENT_ID) -> str:
        """Return an ID token as an authorization code flow with PKCE gives it."""
        redirect, verifier = "http://127.0.0.1:1/callback", secrets.token_urlsafe(40)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        address = (
            f"{self.issuer}/oauth2/authorize?response_type=code&client_id={client_id}&redirect_uri={redirect}"
            f"&scope=openid&nonce={nonce}&state=s&code_challenge={challenge}&code_challenge_method=S256"
        )
        code = parse_qs(urlsplit(await self.agree(address, subject)).query)["code"][0]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "client_id": client_id,
            "client_secret": "any",  # it knows no public clients
            "code_verifier": verifier,
        }
        place = f"{self.issuer}/oauth2/token"
        async with aiohttp.ClientSession() as http, http.post(place, data=form, ssl=self.context()) as response:
            body: dict[str, Any] = await response.json()
            assert response.status == 200, body
            return str(body["id_token"])


@contextlib.contextmanager
def process(folder: Path) -> Iterator[Mock]:
    """Run oidc-provider-mock in a process of its own."""
    port = free_port()
    certificates = folder / "oidc"
    tls.make(certificates, "localhost", datetime.now(UTC))
    command = [sys.executable, "-m", "tests.support.oidc", str(port), str(certificates)]
    with (folder / "oidc.log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(os.environ))
    place = Mock(f"https://localhost:{port}", certificates / "ca.pem")
    try:
        _wait(running, place, folder / "oidc.log")
        yield place
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait(running: subprocess.Popen[bytes], place: Mock, log: Path) -> None:
    import http.client

    until = time.monotonic() + START_S
    port = urlsplit(place.issuer).port
    while True:
        try:
            asked = http.client.HTTPSConnection("localhost", port, context=place.context(), timeout=5)
            asked.request("GET", "/.well-known/openid-configuration")
            status = asked.getresponse().status
            asked.close()
            assert status == 200, status
            return
        except OSError:
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)


@dataclass
class Own(Place):
    """A provider whose keys and pages are the test's."""

    keys: list[Key] = field(default_factory=list)
    pages: dict[str, Any] = field(default_factory=dict)
    """What is answered instead, by path: (status, body, headers)."""
    asked: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, str]:
        """The settings of a gateway whose staff sign in there."""
        return {**super().settings(), "oidc_algorithms": self.key.alg}

    @property
    def key(self) -> Key:
        """The key it signs with."""
        return self.keys[0]

    def claims(self, subject: str, nonce: str, roles: Sequence[StaffRole] = (), /, **change: Any) -> dict[str, Any]:
        """The claims of an ID token that is right but for what is changed."""
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "sub": subject,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 3600,
            "nonce": nonce,
            "groups": [group(role) for role in roles],
        }
        return merged(body, change)

    def token(
        self,
        subject: str,
        nonce: str,
        roles: Sequence[StaffRole] = (),
        /,
        *,
        key: Key | None = None,
        header: Mapping[str, Any] | None = None,
        **change: Any,
    ) -> str:
        """An ID token that is right but for what is changed."""
        by = key or self.key
        head = merged({"alg": by.alg, "kid": by.kid, "typ": "JWT"}, header or {})
        return sign(head, self.claims(subject, nonce, roles, **change), by.handle, by.alg)


@contextlib.asynccontextmanager
async def own(folder: Path, *, algorithm: str = "ES256") -> AsyncIterator[Own]:
    """Serve a provider of the test's own."""
    certificates = folder / "oidc-own"
    await asyncio.to_thread(tls.make, certificates, "localhost", datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    made = Own("", certificates / "ca.pem", [new_key(algorithm)])

    async def serve(request: web.Request) -> web.Response:
        made.asked.append(request.path)
        if request.path in made.pages:
            status, body, headers = made.pages[request.path]
            return web.Response(status=status, body=body, headers=headers)
        if request.path == "/.well-known/openid-configuration":
            return web.json_response({"issuer": made.issuer, "jwks_uri": made.issuer + "/jwks"})
        if request.path == "/jwks":
            return web.json_response({"keys": [key.public for key in made.keys]})
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve, allow_head=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        made.issuer = f"https://localhost:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def written(pages: Mapping[str, Any]) -> bytes:
    """JSON for a page."""
    return json.dumps(pages).encode()


def _main() -> None:
    import uvicorn
    from oidc_provider_mock import app

    port, certificates = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # its redirects go to http on loopback (RFC 8252)
    uvicorn.run(
        app(require_nonce=True), interface="wsgi", host="127.0.0.1", port=port, log_level="warning",
        ssl_certfile=certificates / "server.pem", ssl_keyfile=certificates / "server.key",
    )  # fmt: skip


if __name__ == "__main__":
    _main()
