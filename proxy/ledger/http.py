"""What auditors fetch: checkpoint, tiles and entry bundles of the published log (C2SP tlog-tiles), at ``/log``.

Without authentication: a leaf is the hash of a header that holds nothing but salted commitments, so all that shows is
how many entries there are and when they come. Nothing is served that the published checkpoint does not cover. What
strangers ask cannot get in the way of disclosures: it has a pool of its own, and only so many questions may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import asyncpg
from aiohttp import web

from proxy.ledger import checkpoints, tiles
from proxy.ledger.published import Published
from proxy.ledger.tiles import Cache, Tile
from proxy.problems import Problem

PREFIX = "/log"
WAITING_MAX = 64
"""Most questions that may wait for the database; more are refused with 503."""
ANSWER_S = 5.0
CACHED_TILES = 512
"""Full tiles kept in memory, 8 KiB each."""

_IMMUTABLE = "public, max-age=31536000, immutable"
_MUTABLE = "public, max-age=1"
_BYTES = "application/octet-stream"
_LEVEL = re.compile(r"[0-9]", re.ASCII)  # two digits would be levels that no tree of ours has


class LogFiles:
    """The handlers.

    Args:
        published: what may be served.
        pool: connections of role LOG that nothing else uses.
    """

    def __init__(self, published: Published, pool: asyncpg.Pool) -> None:
        self._published = published
        self._pool = pool
        self._hashes = Cache(CACHED_TILES)
        self._waiting = 0

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get(f"{PREFIX}/checkpoint", self.checkpoint)
        app.router.add_get(f"{PREFIX}/tile/entries/{{index:.+}}", self.entries)
        app.router.add_get(f"{PREFIX}/tile/{{level}}/{{index:.+}}", self.tile)

    async def checkpoint(self, request: web.Request) -> web.Response:
        """GET /log/checkpoint: the published checkpoint, a signed note."""
        _plain(request)
        served = self._published.served
        if served is None:
            raise Problem("unavailable", "No checkpoint of the log is published.")
        return web.Response(
            body=served.note,
            headers={
                "Content-Type": "text/plain; charset=utf-8",
                "Cache-Control": _MUTABLE,
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def tile(self, request: web.Request) -> web.Response:
        """GET /log/tile/{level}/{index}: hashes."""
        level = request.match_info["level"]
        tile = self._asked(request, int(level) if _LEVEL.fullmatch(level) else -1)
        place = (tile.level, tile.index)
        data = self._hashes.get(place)
        if data is None:
            async with self._conn() as conn:
                found = await checkpoints.fetch(conn, [self._whole(tile)])
            data = found[place]
            self._hashes.put(place, data)
        return _immutable(data[: tile.width * tiles.HASH_LEN])

    async def entries(self, request: web.Request) -> web.Response:
        """GET /log/tile/entries/{index}: the data under the leaf hashes."""
        tile = self._asked(request, 0)
        first = tile.index * tiles.WIDTH
        async with self._conn() as conn:
            data = await checkpoints.entry_data(conn, first, first + tile.width)
        return _immutable(tiles.entry_bundle(data))

    def _asked(self, request: web.Request, level: int) -> Tile:
        _plain(request)
        tile = tiles.parse(level, request.match_info["index"])
        if tile is None or tile.end > self._size():
            raise Problem("not_found")
        return tile

    def _whole(self, tile: Tile) -> Tile:
        """The full tile, where the published log has it: a cut of it serves every narrower one."""
        whole = Tile(tile.level, tile.index)
        return whole if whole.end <= self._size() else tile

    def _size(self) -> int:
        served = self._published.served
        return 0 if served is None else served.size

    @contextlib.asynccontextmanager
    async def _conn(self) -> AsyncIterator[asyncpg.Connection]:
        if self._waiting >= WAITING_MAX:
            raise Problem("busy", headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            async with asyncio.timeout(ANSWER_S), self._pool.acquire() as conn:
                yield conn
        finally:
            self._waiting -= 1


def _plain(request: web.Request) -> None:
    if request.query_string:
        raise Problem("parameter", "This address takes no query parameters.")


def _immutable(data: bytes) -> web.Response:
    headers = {"Content-Type": _BYTES, "Cache-Control": _IMMUTABLE, "X-Content-Type-Options": "nosniff"}
    return web.Response(body=data, headers=headers)
