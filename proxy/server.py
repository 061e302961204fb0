"""The HTTP server's outer skin: TLS, what is refused before any handler, time limits, the request log.

aiohttp's C parser (llhttp) is required and its version has a floor, because request smuggling is a parser's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import http_parser, web
from aiohttp.typedefs import Middleware

from proxy import logs, metrics
from proxy.config import ConfigError
from proxy.problems import Problem, answer

AIOHTTP_FLOOR = (3, 14, 4)
HEADERS_S = 20.0
"""A connection whose next request has not all its headers within this time is closed; idle ones too, seconds."""
HANDSHAKE_S = 10.0
BACKLOG = 256
CONNECTIONS_MAX = 256
"""Connections of a listener where nothing else is said; the API's is a setting."""

_ONCE = (
    "Authorization",
    "DPoP",
    "Host",
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Transfer-Encoding",
    "Forwarded",
)
"""Headers that decide something: given twice, two readers could decide differently."""
DESK: web.RequestKey[bool] = web.RequestKey("tollgate.desk", bool)
"""Set where a member of the legal desk is who asks: of such a request no more is told than that it was."""
_DESK_PATHS = ("/v1/cases", "/v1/holds")
"""The legal desk's own, whoever asks and whatever comes of it."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LOG = logs.get("http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def check_parser() -> None:
    """Refuse to run on an HTTP parser that is not the one this was tested with.

    Raises:
        ConfigError: says what to install.
    """
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < AIOHTTP_FLOOR:
        raise ConfigError(f"aiohttp {aiohttp.__version__} is too old: install 3.14.4 or later")
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError("aiohttp runs without its C parser: install its wheel, and unset AIOHTTP_NO_EXTENSIONS")


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the server's TLS settings: 1.3, with 1.2 (ECDHE and AEAD only) as the floor (FAPI 2.0 s.5.2.2).

    Raises:
        ConfigError: names the file that is missing, unreadable or readable by others.
    """
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigError(f"no such file: {path}; `tollgate init` makes a certificate for trying out")
    if os.name == "posix" and stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise ConfigError(f"{key} can be read by others: chmod 600")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{certificate} and {key} are not a certificate chain and its key, PEM") from error
    return context


class Room:
    """The open connections of a listener, of which there may be only so many: files and memory are bounded."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._inside: set[Connection] = set()

    def enter(self, connection: Connection) -> bool:
        """Count a connection; false where there is no room for it."""
        if len(self._inside) >= self._most:
            metrics.CONNECTIONS_REFUSED.labels(self._name).inc()
            return False
        self._inside.add(connection)
        metrics.CONNECTIONS.labels(self._name).set(len(self._inside))
        return True

    def leave(self, connection: Connection) -> None:
        """Count it no more."""
        if connection in self._inside:
            self._inside.discard(connection)
            metrics.CONNECTIONS.labels(self._name).set(len(self._inside))


class Connection(web.RequestHandler):
    """One connection. What aiohttp would say in its own words about a malformed request becomes a problem."""

    __slots__ = ("_issuer", "_room")

    def __init__(self, server: web.Server, issuer: str, headers_s: float, room: Room) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            # From the connection's beginning, and again from each request's end: see HEADERS_S.
            keepalive_timeout=headers_s,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            lingering_time=5.0,
        )
        self._issuer = issuer
        self._room = room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or break it off where there are too many."""
        super().connection_made(transport)
        if not self._room.enter(self):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for another."""
        self._room.leave(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what did not reach a handler, without the parser's text, which quotes the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun")
        malformed = 400 <= status < 500
        if malformed:
            logs.event(_LOG, logging.INFO, "http.malformed", None if exc is None else type(exc))
        else:
            self._failed(exc)
        metrics.REQUESTS.labels("none", "other", str(400 if malformed else 500)).inc()
        response = answer(Problem("request" if malformed else "internal"), self._issuer)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp found, not how it says it: its words and the exception's quote the request."""
        error = kw.get("exc_info")
        self._failed(error if isinstance(error, BaseException) else sys.exception())

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Log nothing: readers that go away are told of by whoever served them."""

    def _failed(self, error: BaseException | None) -> None:
        gone = isinstance(error, ConnectionError)
        logs.event(_LOG, logging.INFO if gone else logging.ERROR, "http.gone" if gone else "http.error", error)


class Listener:
    """An application on a port."""

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        issuer: str,
        tls: ssl.SSLContext | None = None,
        headers_s: float = HEADERS_S,
        connections_max: int = CONNECTIONS_MAX,
        name: str = "api",
    ) -> None:
        self._room = Room(name, connections_max)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=5.0)
        self._host, self._port = host, port
        self._issuer, self._tls, self._headers_s = issuer, tls, headers_s
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port; where 0 was asked for, the one that was had."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: where the address cannot be had.
        """
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": 5.0}
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(server, self._issuer, self._headers_s, self._room),
                self._host,
                self._port,
                backlog=BACKLOG,
                **options,
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {self._host} port {self._port}: {error.strerror}") from error
        self._port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Take no new connection; those that are open go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Close every connection and clean up."""
        self.stop_listening()
        await self._runner.cleanup()


@web.middleware
async def hygiene(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse, before any handler, what no handler should have to think of."""
    if request.version >= (1, 1) and not request.headers.get("Host"):
        raise Problem("request", "The header Host is needed.")
    if request.path.startswith("/oauth/"):
        return await handler(request)  # checks these itself, and answers in the form of RFC 6749
    for name in _ONCE:
        if len(request.headers.getall(name, ())) > 1:
            raise Problem("request", "A header that may stand only once stands twice.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("media_type", "Bodies are taken uncoded.")
    if request.content_type.startswith("multipart/"):
        raise Problem("media_type", "Bodies are taken in one part.")
    return await handler(request)


def request_log(*fields: tuple[str, web.RequestKey[str]]) -> Middleware:
    """Return the middleware that counts and logs requests: route, never path or query; ids of ours only.

    The legal desk's are one route without method, status, time or person: its steps, one by one, would tell whoever
    reads metrics and logs of a case that nobody but the desk may know of.

    Args:
        fields: what a handler may have left with the request, and the name it is logged under.
    """

    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started = loop.time()
        status = 0  # stays so where the handler was cancelled
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            if _of_desk(request):
                metrics.REQUESTS.labels("desk", "", "").inc()
                logs.event(_LOG, logging.INFO, "http.request", route="desk")
            else:
                tell(request, status, loop.time() - started)

    def tell(request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        method = request.method if request.method in _METHODS else "other"
        metrics.REQUESTS.labels(route, method, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(seconds)
        logs.event(
            _LOG,
            logging.INFO,
            "http.request",
            route=route,
            method=method,
            status=status,
            ms=round(seconds * 1000, 1),
            address=request.remote,
            **{name: request.get(key) for name, key in fields},
        )

    return log


def _of_desk(request: web.Request) -> bool:
    return request.get(DESK, False) or request.path.startswith(_DESK_PATHS)
