"""A member of staff at the gateway's API: the session that `tollgate login` leaves, used by every staff command.

    async with StaffSession.open() as session:
        reply = await session.request("POST", "/v1/cases", json={...})

The session's directory holds one file, 0600: the key that proves each request, the provider's ID token that is bound to
it by its nonce, and the Tollgate token got with both (five minutes, got anew while the ID token lasts).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SESSION_ENV = "TOLLGATE_SESSION"
"""Names the session's directory; without it, ``tollgate`` under XDG_CONFIG_HOME (or ~/.config)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API, whole; its status is below 400."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def session_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the directory of the person's session."""
    env = os.environ if environ is None else environ
    if named := env.get(SESSION_ENV):
        return Path(named).expanduser()
    base = env.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "tollgate"


class StaffSession:
    """Requests as the person who has signed in; made by `open`, used as an async context manager."""

    @classmethod
    def open(cls, home: Path | None = None) -> Self:
        """Return the session of ``home`` (default: `session_home`), not connected yet.

        Raises:
            NotSignedIn: where there is none: `tollgate login` makes it.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | Path | None = None,
        content_type: str = "application/octet-stream",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request and return the whole answer (at most 64 MiB).

        DPoP proofs, the server's nonces and a fresh token are taken care of.

        Args:
            method: the HTTP method.
            path: below the issuer, as ``/v1/cases``; what stands in it must be quoted already.
            json: a body as JSON; or
            data: a body as bytes or a file, with ``content_type``.
            params: the query.
            headers: further headers (If-Match).

        Raises:
            Refused: any status of 400 and above; `explain` in proxy/cli/common.py makes it a CLI error.
            ConnectionLost, DiscoveryError: as proxy/client/session.py.
        """
        raise NotImplementedError

    async def download(self, path: str, out: Path) -> Mapping[str, str]:
        """Write the body at ``path`` to a new file ``out`` (0600, put in place whole); return the answer's headers.

        Raises:
            Refused, ConnectionLost: as `request`; nothing stands at ``out`` then.
            FileExistsError: if something does already.
        """
        raise NotImplementedError
