"""Signing in at the OpenID provider, from a terminal: authorization code with PKCE on a loopback redirect (RFC 8252).

The ID token's nonce is the thumbprint of a key made for this session, so that it is worth nothing to whoever copies it.
What the provider says is not judged here: the gateway does, at the exchange.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import web

from keys.encoding import b64url_encode
from proxy.client.keys import ClientKey
from proxy.client.session import ClientError, ConnectionLost, DiscoveryError, metadata_url

ANSWER_MAX = 256 * 1024
"""Most bytes of an answer that is taken."""
WAIT_S = 300.0
"""How long the person has in the browser, seconds."""

_PATH = "/callback"
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class SignIn:
    """Where staff of a gateway sign in, as its metadata says."""

    issuer: str
    """The provider's."""
    client_id: str
    scope: str


async def sign_in_of(gateway: str, ca: Path | None) -> SignIn:
    """Ask a gateway where its staff sign in.

    Raises:
        DiscoveryError: if it is another than it was asked for, or staff do not sign in there.
        ConnectionLost: if it cannot be reached.
    """
    async with _client(ca) as http:
        found = await _json(http, "GET", metadata_url(gateway))
    if found.get("issuer") != gateway:
        raise DiscoveryError(f"what answers is not the issuer {gateway}", hint="write it byte for byte")
    says = found.get("tollgate_staff_sign_in")
    if not isinstance(says, dict) or not all(isinstance(says.get(n), str) for n in ("issuer", "client_id", "scope")):
        raise DiscoveryError(
            f"staff do not sign in at {gateway}", hint="its operator sets oidc_issuer and oidc_client_id"
        )
    return SignIn(says["issuer"], says["client_id"], says["scope"])


async def id_token(
    where: SignIn,
    key: ClientKey,
    *,
    ca: Path | None,
    show: Callable[[str], None],
    port: int = 0,
    secret: str = "",
) -> str:
    """Have the person sign in; return the ID token.

    Args:
        where: the provider.
        key: the session's key; its thumbprint is the nonce.
        ca: what the provider's certificate is verified with; None: the system's.
        show: told the address to open in a browser.
        secret: what some providers give programs on people's machines (RFC 8252 section 8.5: no secret in truth).
        port: of the redirect on 127.0.0.1; 0 takes a free one, for providers that let the port vary (RFC 8252, 7.3).

    Raises:
        ClientError: if the provider refuses, or nobody signs in within WAIT_S.
        ConnectionLost, DiscoveryError: as `sign_in_of`.
    """
    async with _client(ca) as http:
        found = await _json(http, "GET", where.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != where.issuer:
            raise DiscoveryError("the OpenID provider's metadata names another issuer")
        authorize, token = (_https(found, name) for name in ("authorization_endpoint", "token_endpoint"))
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        async with _loopback(state, where.issuer, port) as (redirect, code):
            challenge = b64url_encode(hashlib.sha256(verifier.encode()).digest())
            asked = {
                "response_type": "code",
                "client_id": where.client_id,
                "redirect_uri": redirect,
                "scope": where.scope,
                "state": state,
                "nonce": key.kid,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
            show(authorize + ("&" if urlsplit(authorize).query else "?") + urlencode(asked))
            try:
                async with asyncio.timeout(WAIT_S):
                    given = await code
            except TimeoutError as error:
                raise ClientError(f"nobody signed in within {WAIT_S:.0f} s") from error
        form = {
            "grant_type": "authorization_code",
            "code": given,
            "redirect_uri": redirect,
            "client_id": where.client_id,
            "code_verifier": verifier,
            **({"client_secret": secret} if secret else {}),
        }
        answer = await _json(http, "POST", token, form)
    if not isinstance(text := answer.get("id_token"), str):
        raise ClientError("the provider gave no ID token", hint="is `openid` in oidc_scope?")
    return text


def _https(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or urlsplit(value).scheme != "https":
        raise DiscoveryError(f"the OpenID provider names no https {name}")
    return value


@contextlib.asynccontextmanager
async def _loopback(state: str, issuer: str, port: int) -> AsyncIterator[tuple[str, asyncio.Future[str]]]:
    """Listen on 127.0.0.1 for the one redirect that bears our state; give its URI and the code to come."""
    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def callback(request: web.Request) -> web.Response:
        query = request.query
        if not hmac.compare_digest(query.get("state", "").encode(), state.encode()):
            return _page("This is not the sign-in that is waiting here.", 400)
        if query.get("iss", issuer) != issuer:  # RFC 9207
            return _page("This comes from another provider.", 400)
        if came.done():
            return _page("This was answered already.", 400)
        if "code" in query:
            came.set_result(query["code"])
            return _page("Signed in. Go back to the terminal; this page can be closed.")
        # The provider's own words stay with it: anybody could have written them into the address.
        came.set_exception(ClientError("the provider did not sign the person in"))
        return _page("Not signed in. Go back to the terminal.")

    app = web.Application()
    app.router.add_get(_PATH, callback, allow_head=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{_PATH}", came
    finally:
        if came.done() and not came.cancelled():
            came.exception()
        await runner.cleanup()


def _page(text: str, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Connection": "close"}
    return web.Response(text=text + "\n", status=status, headers=headers)


@contextlib.asynccontextmanager
async def _client(ca: Path | None) -> AsyncIterator[aiohttp.ClientSession]:
    tls = ssl.create_default_context(cafile=str(ca) if ca else None)
    connector = aiohttp.TCPConnector(ssl=tls, limit=2)
    async with aiohttp.ClientSession(
        connector=connector, timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()
    ) as http:
        yield http


async def _json(
    http: aiohttp.ClientSession, method: str, url: str, form: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a JSON object; a refusal's words are not repeated, but its registered code (RFC 6749 section 5.2)."""
    place = urlsplit(url).netloc
    try:
        async with http.request(method, url, data=form, allow_redirects=False) as response:
            data = bytearray()
            async for piece in response.content.iter_chunked(16_384):
                data += piece
                if len(data) > ANSWER_MAX:
                    raise ClientError(f"{place}: an answer is larger than {ANSWER_MAX} bytes")
            status = response.status
    except aiohttp.ClientConnectorCertificateError as error:
        hint = "name the certificate of its authority (--ca for the gateway, --provider-ca for the provider)"
        raise DiscoveryError(f"{place}: the certificate cannot be verified", hint=hint) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ConnectionLost(f"{place}: {type(error).__name__}") from error
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if status != 200 or not isinstance(value, dict):
        code = value.get("error") if isinstance(value, dict) else None
        known = (
            code if code in ("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client") else status
        )
        raise ClientError(f"{place} refused: {known}")
    return value
