"""A scripted Tollgate for tests of the client: checks assertions and proofs, and breaks off where it is told to.

It holds to the published interface (metadata, token, /v1/cdrs, /v1/accesses) and refuses what the rules refuse: a proof
used twice, a proof without the nonce, a wrong audience. What a test wants to go wrong is set in `Script`.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import io
import itertools
import json
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import zstandard
from aiohttp import web

from keys.encoding import b64url_encode
from proxy.cli import tls
from proxy.client.keys import ClientKey, thumbprint

BLOCK = 10
"""Rows of a block: the distance of checkpoints."""


@dataclass
class Script:
    """What the server does; lists are consumed one element per answer."""

    rows: int = 95
    cut_after_blocks: list[int | None] = field(default_factory=list)
    limit_rows: list[int | None] = field(default_factory=list)
    issuer_says: str | None = None
    wrong_sha256: bool = False
    wrong_rows: bool = False
    revoke_tokens: int = 0
    refuse: tuple[int, dict[str, Any], dict[str, str]] | None = None
    busy: int = 0
    outcome_after: int = 0
    no_outcome: bool = False
    checkpoints: bool = True
    coding: str = "zstd"
    clock_offset_s: int = 0
    lost_after_blocks: list[int | None] = field(default_factory=list)
    """The server believes that it sent everything; the line dropped what came after so many blocks."""


class PullServer:
    """One running server; `requests` are the API requests it answered."""

    def __init__(self, script: Script, client_id: str, key: ClientKey) -> None:
        self.script, self.client_id, self.key = script, client_id, key
        self.issuer = ""
        self.requests: list[dict[str, str]] = []
        self.accesses: dict[str, dict[str, Any]] = {}
        self._seen: set[str] = set()
        self._tokens: dict[str, str] = {}
        self._nonce = {"token": "nonce-token-1", "api": "nonce-api-1"}
        self._looks = 0

    def form_bytes(self, media: str, start: int, stop: int) -> tuple[bytes, list[bytes], bytes]:
        """Begin, blocks and end of an answer with rows start..stop."""
        blocks = [range(i, min(i + BLOCK, stop)) for i in range(start, stop, BLOCK)]
        if media == "text/csv":
            return b"record_id,note\n", [b"".join(b'%d,"a ""b""\n%d"\n' % (i, i) for i in b) for b in blocks], b""
        if media == "application/x-ndjson":
            return b"", [b"".join(b'{"record_id":%d}\n' % i for i in b) for b in blocks], b""
        tables = [pa.table({"record_id": list(b)}) for b in blocks]
        schema = pa.schema([("record_id", pa.int64())])
        sink = io.BytesIO()
        if media == "application/vnd.apache.parquet":
            with pa.parquet.ParquetWriter(sink, schema) as writer:
                for table in tables:
                    writer.write_table(table)
            return b"", [sink.getvalue()], b""
        writer = pa.ipc.new_stream(sink, schema)
        marks = [0]
        for table in tables:
            writer.write_table(table)
            marks.append(sink.tell())
        writer.close()
        data = sink.getvalue()
        return b"", [data[a:b] for a, b in itertools.pairwise(marks)], data[marks[-1] :]

    def _proof(self, request: web.Request, token: str | None) -> web.Response | None:
        header = request.headers.getone("DPoP")
        jwk = jwt.get_unverified_header(header)["jwk"]
        claims = jwt.decode(header, jwt.PyJWK(jwk).key, algorithms=["ES256"])
        where = "token" if token is None else "api"
        url = self.issuer + request.path
        assert (claims["htm"], claims["htu"]) == (request.method, url), claims
        assert claims["jti"] not in self._seen, "a proof was used twice"
        self._seen.add(claims["jti"])
        assert abs(claims["iat"] - time.time()) < 60
        if token is not None:
            assert claims["ath"] == b64url_encode(hashlib.sha256(token.encode()).digest())
            assert self._tokens[token] == thumbprint(jwk)
        if claims.get("nonce") != self._nonce[where]:
            headers = {"DPoP-Nonce": self._nonce[where]}
            if token is None:
                return web.json_response({"error": "use_dpop_nonce"}, status=400, headers=headers)
            headers["WWW-Authenticate"] = 'DPoP error="use_dpop_nonce"'
            return web.json_response({"title": "Credentials are needed"}, status=401, headers=headers)
        return None

    async def metadata(self, request: web.Request) -> web.Response:
        says = self.script.issuer_says or self.issuer
        return web.json_response({"issuer": says, "token_endpoint": self.issuer + "/oauth/token"})

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == "cdr.billing"
        if refused := self._proof(request, None):
            return refused
        if self.script.refuse and self.script.refuse[0] in (400, 401):
            status, body, headers = self.script.refuse
            return web.json_response(body, status=status, headers=headers)
        assertion = str(form["client_assertion"])
        assert jwt.get_unverified_header(assertion)["kid"] == self.key.kid
        claims = jwt.decode(
            assertion, self.key.private.public_key(), algorithms=[self.key.alg], audience=self.issuer,
            options={"require": ["exp", "iat", "jti"]},
        )  # fmt: skip
        assert claims["aud"] == self.issuer
        assert claims["iss"] == claims["sub"] == self.client_id
        assert claims["jti"] not in self._seen
        self._seen.add(claims["jti"])
        value = f"token-{len(self._tokens)}"
        self._tokens[value] = thumbprint(jwt.get_unverified_header(request.headers["DPoP"])["jwk"])
        return web.json_response({"access_token": value, "token_type": "DPoP", "expires_in": 300})

    def _guard(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == "DPoP"
        if refused := self._proof(request, token):
            return refused
        if self.script.revoke_tokens > 0:
            self.script.revoke_tokens -= 1
            challenge = {"WWW-Authenticate": 'DPoP error="invalid_token"'}
            return web.json_response({"title": "Credentials are needed"}, status=401, headers=challenge)
        return None

    async def cdrs(self, request: web.Request) -> web.StreamResponse:
        if refused := self._guard(request):
            return refused
        if self.script.busy > 0:
            self.script.busy -= 1
            return web.json_response({"title": "Too many answers are open"}, status=503)
        if self.script.refuse and self.script.refuse[0] not in (400, 401):
            status, body, headers = self.script.refuse
            return web.json_response(body, status=status, headers=headers)
        asked = await request.json() if request.method == "POST" else dict(request.query)
        self.requests.append(asked)
        start = int(asked["cursor"].removeprefix("cursor-")) if "cursor" in asked else 0
        limit = self.script.limit_rows.pop(0) if self.script.limit_rows else None
        stop = min(self.script.rows, start + limit) if limit else self.script.rows
        cut = self.script.cut_after_blocks.pop(0) if self.script.cut_after_blocks else None
        media = request.headers["Accept"]
        access_id = str(uuid.uuid4())
        begin, blocks, end = self.form_bytes(media, start, stop)
        response = web.StreamResponse(headers={"Access-Id": access_id, "Complete-To": "mark-7", "Content-Type": media})
        compressor = zstandard.ZstdCompressor().compressobj()
        zstd = self.script.coding == "zstd"
        if zstd:
            response.headers["Content-Encoding"] = "zstd"
        response.enable_chunked_encoding()
        await response.prepare(request)
        lost = self.script.lost_after_blocks.pop(0) if self.script.lost_after_blocks else None
        digest, count, marks = hashlib.sha256(), 0, []
        record = self.accesses[access_id] = {"access_id": access_id, "state": "open", "looks": 0}

        async def send(data: bytes) -> None:
            nonlocal count
            digest.update(data)
            count += len(data)
            out = compressor.compress(data) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) if zstd else data
            if out and (lost is None or len(marks) < lost):
                await response.write(out)

        await send(begin)
        for index, block in enumerate(blocks):
            if cut is not None and index >= cut:
                break
            await send(block)
            rows = min((index + 1) * BLOCK, stop - start)
            marks.append(
                {"bytes": count, "rows": rows, "sha256": digest.hexdigest(), "cursor": f"cursor-{start + rows}"}
            )
        if cut is not None:
            # Half of a block more: bytes after the last checkpoint, which the client has to cut off.
            await send(blocks[cut][: len(blocks[cut]) // 2] if cut < len(blocks) else b"")
            await asyncio.sleep(0.05)
            record.update(state="interrupted", rows=(cut or 0) * BLOCK, bytes=count, sha256=digest.hexdigest())
            record["checkpoints"] = marks if self.script.checkpoints else []
            assert request.transport is not None
            request.transport.abort()
            return response
        await send(end)
        if zstd and lost is None:
            await response.write(compressor.flush())
        more = stop < self.script.rows
        record.update(state="limited" if more else "complete", rows=stop - start, bytes=count)
        record.update(sha256="0" * 64 if self.script.wrong_sha256 else digest.hexdigest(), checkpoints=marks)
        if self.script.wrong_rows:
            record["rows"] += 1
        if more:
            record["next_cursor"] = f"cursor-{stop}"
        if lost is not None:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def access(self, request: web.Request) -> web.Response:
        if refused := self._guard(request):
            return refused
        record = self.accesses.get(request.match_info["id"])
        if record is None:
            return web.json_response({"title": "There is no such thing here"}, status=404)
        self._looks += 1
        if self._looks <= self.script.outcome_after:
            return web.json_response({"access_id": record["access_id"], "state": "open"})
        if self.script.no_outcome:
            return web.json_response({**record, "state": "unknown"})
        return web.json_response(record)


@asynccontextmanager
async def running(script: Script, client_id: str, key: ClientKey, folder: Path) -> AsyncIterator[PullServer]:
    """Run the server over TLS on a free port; its authority is ``folder``/ca.pem."""
    server = PullServer(script, client_id, key)
    tls.make(folder, "localhost", datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")

    async def shift_clock(request: web.Request, response: web.StreamResponse) -> None:
        if script.clock_offset_s:
            there = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=script.clock_offset_s)
            response.headers["Date"] = there.strftime("%a, %d %b %Y %H:%M:%S GMT")

    app = web.Application()
    app.on_response_prepare.append(shift_clock)
    app.router.add_get("/.well-known/oauth-authorization-server", server.metadata)
    app.router.add_post("/oauth/token", server.token)
    app.router.add_get("/v1/cdrs", server.cdrs)
    app.router.add_post("/v1/cdrs/search", server.cdrs)
    app.router.add_get("/v1/accesses/{id}", server.access)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        server.issuer = f"https://localhost:{port}"
        yield server
    finally:
        await runner.cleanup()


def first_rows(path: Path) -> list[int]:
    """Record ids of an NDJSON file."""
    return [json.loads(line)["record_id"] for line in path.read_text().splitlines()]
