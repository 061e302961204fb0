"""An authorised HTTP session: discovery (RFC 8414), `private_key_jwt` (RFC 7523), DPoP with nonces (RFC 9449).

The issuer is compared byte for byte with what the metadata says, and every address must be https under a verified
certificate: a wrong server gets neither an assertion nor a token.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import yarl

from keys.encoding import b64url_encode
from proxy.client.keys import ClientKey

SCOPE = "cdr.billing"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_EARLY_S = 20  # a token this near its end is replaced before it is used
_ASSERTION_TTL_S = 60
_PROBLEM_MAX = 64 * 1024
_CLOCK_TOLERANCE_S = 8


class ClientError(Exception):
    """The pull cannot go on: what happened, and whether trying again may help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class DiscoveryError(ClientError):
    """What answers is not the issuer that was asked for."""


class ConnectionLost(ClientError):  # noqa: N818 (what happened, in the field's words)
    """The server cannot be reached, or the connection broke; nothing is wrong with the request."""


class Refused(ClientError):  # noqa: N818
    """The server refused: its status and its problem (RFC 9457) or OAuth error (RFC 6749 section 5.2)."""

    def __init__(
        self,
        status: int,
        problem: Mapping[str, Any],
        *,
        access_id: str = "",
        retry_after_s: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(f"refused ({status}): {_words(problem)}", hint=hint)
        self.status = status
        self.problem = dict(problem)
        self.access_id = access_id
        self.retry_after_s = retry_after_s


def _words(problem: Mapping[str, Any]) -> str:
    """Say a problem in one line: OAuth's code and description, or title, parameter, detail, reason and citation."""
    if "error" in problem:
        return ": ".join(str(problem[k]) for k in ("error", "error_description") if problem.get(k))
    said = [str(problem.get("title") or "no reason given")]
    if problem.get("parameter"):
        said.append(str(problem["parameter"]))
    if problem.get("detail"):
        said.append(str(problem["detail"]))
    cited = [str(problem[k]) for k in ("reason", "citation") if problem.get(k)]
    return ": ".join(said) + (f" [{'; '.join(cited)}]" if cited else "")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, until when (by the monotonic clock, seconds), and what was granted."""

    value: str
    until: float
    details: Any


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > most:
            raise ClientError(f"an answer is larger than {most} bytes: this is not what was asked for")
    return bytes(data)


def metadata_url(issuer: str) -> str:
    """Return where an issuer's metadata is (RFC 8414 section 3.1: the well-known part stands before its path).

    Raises:
        DiscoveryError: if it is no https URL without query and fragment.
    """
    parts = urlsplit(issuer)
    if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment:
        raise DiscoveryError(f"the issuer must be an https URL without a query: {issuer}")
    path = "/.well-known/oauth-authorization-server" + parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class Session:
    """Tokens, proofs and nonces are taken care of; use as an async context manager."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        key: ClientKey,
        proof_key: ClientKey,
        *,
        ca: Path | None = None,
        details: list[dict[str, Any]] | None = None,
        scope: str = SCOPE,
        stall_s: float = 90.0,
        agent: str = "tollgate-pull",
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._key = key
        self._proof_key = proof_key
        self._details = details
        self._scope = scope
        self._tls = ssl.create_default_context(cafile=str(ca) if ca else None)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=stall_s)
        self._nonces: dict[str, str] = {}  # by origin and purpose: the two servers' nonces are not each other's
        self._metadata: dict[str, Any] = {}
        self._token: Token | None = None
        self._http: aiohttp.ClientSession | None = None
        self._agent = agent
        self.clock_offset_s = 0.0
        """How far the server's clock is ahead of ours, as its last Date header says."""

    async def __aenter__(self) -> Self:
        # Decompression is done with the transfer, where it is counted.
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=4)
        self._http = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent, "Accept-Encoding": "identity"},
        )  # fmt: skip
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def metadata(self) -> dict[str, Any]:
        """Return the authorization server's metadata, checked.

        Raises:
            DiscoveryError: if it names another issuer or an address that is not https.
        """
        if self._metadata:
            return self._metadata
        url = metadata_url(self.issuer)
        async with self._send("GET", url, {}) as response:
            body = await self._json(response)
        if body.get("issuer") != self.issuer:
            raise DiscoveryError(
                f"{url} says it is the issuer {body.get('issuer')!r}, not {self.issuer!r}",
                hint="write the issuer exactly as the carrier gave it to you, byte for byte",
            )
        endpoint = body.get("token_endpoint")
        if not isinstance(endpoint, str) or urlsplit(endpoint).scheme != "https":
            raise DiscoveryError(f"{url} names no https token endpoint")
        self._metadata = body
        return body

    async def token(self, *, fresh: bool = False) -> str:
        """Return an access token that is good for a while yet."""
        if fresh or self._token is None or self._token.until - time.monotonic() < _EARLY_S:
            self._token = await self._fetch_token()
        return self._token.value

    @property
    def granted(self) -> Any:
        """The ``authorization_details`` of the present token, as the server granted them."""
        return self._token.details if self._token else None

    async def _fetch_token(self) -> Token:
        endpoint = (await self.metadata())["token_endpoint"]
        for attempt in (1, 2):
            form = self._grant()
            headers = {"DPoP": self._proof("POST", endpoint, "token")}
            started = time.monotonic()
            async with self._send("POST", endpoint, headers, data=form, nonce_for="token") as response:
                body = await self._json(response, check=False)
                if response.status == 200:
                    break
                if attempt == 1 and body.get("error") == "use_dpop_nonce":
                    continue
                raise Refused(response.status, body, hint=self._hint(body))
        token, kind = body.get("access_token"), str(body.get("token_type", ""))
        if not isinstance(token, str) or kind.lower() != "dpop":
            raise ClientError(f"the token endpoint gave a token of type {kind!r}; only DPoP is accepted")
        return Token(token, started + float(body.get("expires_in", 60)), body.get("authorization_details"))

    def _grant(self) -> dict[str, str]:
        """Return the form of a token request (RFC 6749 section 4.4, RFC 7523)."""
        now = int(time.time())
        assertion = self._key.sign(
            {
                "iss": self.client_id,
                "sub": self.client_id,
                "aud": self.issuer,
                "iat": now,
                "exp": now + _ASSERTION_TTL_S,
                "jti": secrets.token_urlsafe(24),
            },
            {"kid": self._key.kid, "typ": "JWT"},
        )
        form = {
            "grant_type": "client_credentials",
            "scope": self._scope,
            "client_id": self.client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        if self._details is not None:
            form["authorization_details"] = json.dumps(self._details, separators=(",", ":"))
        return form

    def _hint(self, body: Mapping[str, Any]) -> str:
        if abs(self.clock_offset_s) > _CLOCK_TOLERANCE_S:
            way = "behind" if self.clock_offset_s > 0 else "ahead of"
            return f"this machine's clock is {abs(self.clock_offset_s):.0f} s {way} the server's: set it right"
        if body.get("error") == "invalid_client":
            return "is the client id right, and is this key the one registered for it (`tollgate pull keygen --show`)?"
        return ""

    def _proof(self, method: str, url: str, nonce_for: str, token: str | None = None) -> str:
        bare = urlunsplit(urlsplit(url)._replace(query="", fragment=""))
        claims: dict[str, Any] = {"jti": secrets.token_urlsafe(24), "htm": method, "htu": bare, "iat": int(time.time())}
        if nonce := self._nonces.get(nonce_for):
            claims["nonce"] = nonce
        if token is not None:
            claims["ath"] = b64url_encode(hashlib.sha256(token.encode()).digest())
        return self._proof_key.sign(claims, {"typ": "dpop+jwt", "jwk": self._proof_key.jwk})

    @contextlib.asynccontextmanager
    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], *, nonce_for: str = "", **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._http is None:
            raise RuntimeError("the session is not open")
        try:
            # As it is: where the client wrote it in another way, the proof would speak of another address.
            place = yarl.URL(url, encoded=True)
            async with self._http.request(
                method, place, headers=headers, allow_redirects=False, **arguments
            ) as response:
                if nonce_for and (nonce := response.headers.get("DPoP-Nonce")):
                    self._nonces[nonce_for] = nonce
                self._note_clock(response)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise DiscoveryError(
                f"{error.host}: the certificate cannot be verified: {error.certificate_error}",
                hint="if the carrier gave you its authority's certificate, name it with --ca",
            ) from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ConnectionLost(f"{urlsplit(url).netloc}: {str(error) or type(error).__name__}") from error

    def _note_clock(self, response: aiohttp.ClientResponse) -> None:
        with contextlib.suppress(ValueError, TypeError):
            there = email.utils.parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
            self.clock_offset_s = there - time.time()

    @staticmethod
    async def _json(response: aiohttp.ClientResponse, *, check: bool = True) -> dict[str, Any]:
        """Read a small JSON object; with ``check``, a status other than 200 is a refusal."""
        data = await response.content.read(_PROBLEM_MAX)
        while len(data) < _PROBLEM_MAX and (more := await response.content.read(_PROBLEM_MAX - len(data))):
            data += more
        try:
            body = json.loads(data)
        except ValueError:
            body = {}
        if not isinstance(body, dict):
            body = {}
        if check and response.status != 200:
            raise Session._refusal(response, body)
        return body

    @staticmethod
    def _refusal(response: aiohttp.ClientResponse, problem: dict[str, Any]) -> Refused:
        wait = response.headers.get("Retry-After", "")
        return Refused(
            response.status,
            problem or {"title": response.reason or ""},
            access_id=response.headers.get("Access-Id", ""),
            retry_after_s=int(wait) if wait.isdigit() else None,
        )

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        data: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
        good: Container[int] = (200,),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer (of a ``good`` status) to a request at the API, its body unread and not decompressed.

        A nonce the server asks for is taken over, and a token that has just run out is replaced, once each.

        Raises:
            Refused: for any other status. ConnectionLost: where the server cannot be reached.
        """
        url = self.issuer.rstrip("/") + path
        renewed = noncified = False
        while True:
            token = await self.token(fresh=renewed and not noncified)
            own = {"Authorization": f"DPoP {token}", "DPoP": self._proof(method, url, "api", token), **(headers or {})}
            extra: dict[str, Any] = {"json": body} if body is not None else {}
            with contextlib.ExitStack() as opened:
                if data is not None:
                    # A file is opened anew each time: a refused request has read some of it.
                    extra["data"] = data if isinstance(data, bytes) else opened.enter_context(data.open("rb"))
                async with self._send(method, url, own, nonce_for="api", params=params, **extra) as response:
                    if response.status in good:
                        yield response
                        return
                    challenge = response.headers.get("WWW-Authenticate", "")
                    problem = await self._json(response, check=False)
            if response.status == 401 and "use_dpop_nonce" in challenge and not noncified:
                noncified = True
                continue
            if response.status == 401 and "invalid_token" in challenge and not renewed:
                renewed, noncified = True, False
                continue
            raise self._refusal(response, problem)

    async def get_json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at ``path`` of the API."""
        async with self.request("GET", path) as response:
            return await self._json(response)

    async def get_bytes(self, path: str, most: int) -> bytes:
        """Return the body at ``path`` of the API, at most ``most`` bytes."""
        async with self.request("GET", path) as response:
            return await _body(response, most)

    async def get_public(self, path: str, most: int) -> bytes:
        """Return the body at a path below the issuer that needs no credentials, and gets none.

        Raises:
            Refused, ConnectionLost: as `request`.
        """
        async with self._send("GET", self.issuer.rstrip("/") + path, {}) as response:
            if response.status != 200:
                raise self._refusal(response, await self._json(response, check=False))
            return await _body(response, most)

    async def headers_for(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        """Return the URL and the two headers of one request that another program will make (curl).

        The server's nonce is fetched first by a request that is refused or answers nothing of weight.
        """
        with contextlib.suppress(Refused):
            await self.get_json("/v1/accesses/00000000-0000-0000-0000-000000000000")
        token = await self.token()
        url = self.issuer.rstrip("/") + path
        return url, {"Authorization": f"DPoP {token}", "DPoP": self._proof(method, url, "api", token)}
