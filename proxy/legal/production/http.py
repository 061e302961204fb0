"""A production's files for the legal desk's own eyes, and the keys that packages are signed with.

The encrypted package, the certificate's draft and every change are proxy/legal/http.py's.
"""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from aiohttp import web

from keys.signing import SigningKeys
from proxy.bodies import nothing
from proxy.legal import sql
from proxy.legal.approvals import handed_over
from proxy.legal.model import CASE_ID, Refused
from proxy.legal.production.archive import FILE_NAME
from proxy.legal.production.model import ProductionError
from proxy.legal.production.service import Productions
from proxy.legal.production.signature import PURPOSE
from proxy.legal.register import Register, case_of
from proxy.problems import Problem
from proxy.staff.model import StaffRole
from proxy.staff.ports import StaffGuard

DESK: Final = (StaffRole.LEGAL_HANDLER, StaffRole.LEGAL_APPROVER)
KEYS_PATH: Final = "/.well-known/tollgate-production-keys.json"
_MEDIA: Final = {
    "pdf": "application/pdf",
    "csv": "text/csv; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "json": "application/json",
}
_NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ProductionsApi:
    """The handlers.

    Args:
        productions: what was made.
        register: enters looks.
        signing: the keyring's signing keys.
        guard: authenticates staff.
    """

    def __init__(self, productions: Productions, register: Register, signing: SigningKeys, guard: StaffGuard) -> None:
        self._productions = productions
        self._register = register
        self._signing = signing
        self._guard = guard

    def setup(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/cases/{id}/files/{name}", self.file, allow_head=False)
        app.router.add_get(KEYS_PATH, self.keys, allow_head=False)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/cases/{id}/files/{name}: a file as it was drafted; the look is entered first."""
        who = await self._guard.authenticate(request, *DESK)
        nothing(request)
        case_id, name = request.match_info["id"], request.match_info["name"]
        if not CASE_ID.fullmatch(case_id) or not FILE_NAME.fullmatch(name):
            raise Problem("not_found")
        async with self._register.pool.acquire() as conn:
            row = await conn.fetchrow(sql.FIND_CASE, case_id)
        production_id: UUID | None = None if row is None else row["production_id"]
        found = None if production_id is None else await self._productions.look(production_id)
        drafted = None if found is None else found[1]
        file = None if drafted is None else next((each for each in drafted.files if each.name == name), None)
        if production_id is None or file is None:
            raise Problem("not_found")
        try:
            async with self._register.pool.acquire() as conn:
                await handed_over(self._register, who, conn, case_of(row), "file")
        except Refused as error:
            raise Problem("denied", error.says, members={"reason": error.rule, "citation": error.citation}) from error
        await self._register.looked(who, "file", case_id, production=str(production_id), file=name)
        headers = {
            "Content-Type": _MEDIA.get(name.rpartition(".")[2], "application/octet-stream"),
            "Content-Length": str(file.bytes),
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        response = web.StreamResponse(headers=_NO_STORE | headers)
        await response.prepare(request)
        try:
            async for piece in self._productions.file(production_id, name):
                await response.write(piece)
        except ProductionError:
            # What is stored is not what was made: without its end nobody takes this for the whole.
            if request.transport is not None:
                request.transport.abort()
            raise
        await response.write_eof()
        return response

    async def keys(self, request: web.Request) -> web.Response:
        """GET /.well-known/tollgate-production-keys.json: what `production verify --key` takes. For everybody."""
        nothing(request)

        def look() -> list[dict[str, str]]:
            self._signing.current(PURPOSE)
            return self._signing.all_public(PURPOSE)

        return web.json_response({"keys": await asyncio.to_thread(look)}, headers={"Cache-Control": "max-age=300"})
