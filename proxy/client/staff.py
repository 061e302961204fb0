"""A member of staff at the gateway's API: the session that `tollgate login` leaves, used by every staff command.

    async with StaffSession.open() as session:
        reply = await session.request("POST", "/v1/cases", json={...})

The session's directory holds one file, 0600: the key that proves each request, the provider's ID token that is bound to
it by its nonce, and the Tollgate token got with both (five minutes, got anew while the ID token lasts). Whoever has the
file is that person until the ID token expires: signing out destroys it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from cryptography.hazmat.primitives import serialization

from proxy.client import keys
from proxy.client.keys import ClientKey
from proxy.client.session import ClientError, Session, Token

SESSION_ENV = "TOLLGATE_SESSION"
"""Names the session's directory; without it, ``tollgate`` under XDG_CONFIG_HOME (or ~/.config)."""

ANSWER_MAX = 64 << 20
"""Most bytes of an answer that is held whole."""

_FILE = "session.json"
_VERSION = 1
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - the name of a kind
_GOOD = range(200, 300)
_PIECE = 1 << 16


class NotSignedIn(ClientError):  # noqa: N818 - what is so
    """There is no session, or none that can be used."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API, whole; its status is below 300."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ClientError: if it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ClientError("the answer is not JSON: this is not what was asked for") from error


@dataclass(frozen=True, slots=True)
class Kept:
    """What a session's file holds."""

    issuer: str
    """The gateway's."""
    ca: str
    """File of certificates that the gateway's is verified with; empty: the system's."""
    key: ClientKey
    id_token: str = ""
    """Empty: the key is there, and nobody has signed in for it yet."""
    token: str = ""
    token_until: float = 0.0
    """Seconds since 1970-01-01 UTC."""


def session_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the directory of the person's session."""
    env = os.environ if environ is None else environ
    if named := env.get(SESSION_ENV):
        return Path(named).expanduser()
    base = env.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "tollgate"


def load(home: Path) -> Kept:
    """Read a session's file.

    Raises:
        NotSignedIn: if there is none, others may read it, or it cannot be read.
    """
    file = home / _FILE
    hint = "sign in: `tollgate login`"
    try:
        with file.open("rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise NotSignedIn(f"others may read {file}", hint=f"chmod 0600 {file}, and sign in again")
            value = json.loads(opened.read(1 << 20))
        if value["version"] != _VERSION:
            raise ValueError
        private = serialization.load_pem_private_key(value["key"].encode(), password=None)
        texts = {name: str(value[name]) for name in ("issuer", "ca", "id_token", "token")}
        return Kept(key=keys.wrap(private), token_until=float(value["token_until"]), **texts)
    except FileNotFoundError:
        raise NotSignedIn("nobody is signed in here", hint=hint) from None
    except (ValueError, KeyError, TypeError, AttributeError, keys.KeyFileError) as error:
        raise NotSignedIn(f"{file} cannot be read", hint=hint) from error


def save(home: Path, kept: Kept) -> None:
    """Replace a session's file as a whole, 0600; two commands at once leave one of both."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = kept.key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    value = {
        "version": _VERSION,
        "issuer": kept.issuer,
        "ca": kept.ca,
        "key": pem.decode(),
        "id_token": kept.id_token,
        "token": kept.token,
        "token_until": kept.token_until,
    }
    handle, name = tempfile.mkstemp(dir=home, prefix=_FILE)  # 0600
    try:
        with open(handle, "w", encoding="utf-8") as opened:
            json.dump(value, opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(name, home / _FILE)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def forget(home: Path) -> bool:
    """Remove a session's file; false where there was none."""
    try:
        (home / _FILE).unlink()
    except FileNotFoundError:
        return False
    return True


class _Exchanging(Session):
    """A session whose tokens are got with an ID token (RFC 8693)."""

    def __init__(self, home: Path, kept: Kept) -> None:
        ca = Path(kept.ca) if kept.ca else None
        super().__init__(kept.issuer, "", kept.key, kept.key, ca=ca, scope="staff", agent="tollgate-staff")
        self._home = home
        self.kept = kept
        left = kept.token_until - time.time()
        if kept.token and left > 0:
            self._token = Token(kept.token, time.monotonic() + left, None)

    def _grant(self) -> dict[str, str]:
        return {
            "grant_type": _EXCHANGE,
            "subject_token_type": _ID_TOKEN,
            "subject_token": self.kept.id_token,
            "scope": self._scope,
        }

    async def _fetch_token(self) -> Token:
        token = await super()._fetch_token()
        until = time.time() + token.until - time.monotonic()
        self.kept = replace(self.kept, token=token.value, token_until=until)
        # For the next command too; but who signed out, or in as somebody else, meanwhile stays so.
        with contextlib.suppress(NotSignedIn):
            if load(self._home).id_token == self.kept.id_token:
                save(self._home, self.kept)
        return token

    def _hint(self, body: Mapping[str, Any]) -> str:
        if body.get("error") == "invalid_request" and "subject token" in str(body.get("error_description")):
            return "sign in again: `tollgate login`"
        return super()._hint(body)


class StaffSession:
    """Requests as the person who has signed in; made by `open`, used as an async context manager."""

    def __init__(self, home: Path, kept: Kept) -> None:
        self.home = home
        self.issuer = kept.issuer
        self._session = _Exchanging(home, kept)

    @property
    def kept(self) -> Kept:
        """What the session's file holds, or would, with the present token."""
        return self._session.kept

    @classmethod
    def open(cls, home: Path | None = None) -> Self:
        """Return the session of ``home`` (default: `session_home`), not connected yet.

        Raises:
            NotSignedIn: where there is none: `tollgate login` makes it.
        """
        found = session_home() if home is None else home
        kept = load(found)
        if not kept.id_token:
            raise NotSignedIn("a key is there, and nobody has signed in for it", hint="`tollgate login`")
        return cls(found, kept)

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, value, trace)

    async def token(self, *, fresh: bool = False) -> str:
        """Return a token that is good for a while; ``fresh``: got just now."""
        return await self._session.token(fresh=fresh)

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
        """Send a request and return the whole answer (at most ANSWER_MAX).

        DPoP proofs, the server's nonces and a fresh token are taken care of.

        Args:
            method: the HTTP method.
            path: below the issuer, as ``/v1/cases``; what stands in it must be quoted already.
            json: a body as JSON; or
            data: a body as bytes or a file, with ``content_type``.
            params: the query.
            headers: further headers (If-Match).

        Raises:
            Refused: any status of 300 and above; `explain` in proxy/cli/common.py makes it a CLI error.
            ConnectionLost, DiscoveryError: as proxy/client/session.py.
        """
        own = {**({"Content-Type": content_type} if data is not None else {}), **(headers or {})}
        async with self._session.request(
            method, path, params=params, body=json, data=data, headers=own, good=_GOOD
        ) as response:
            body = bytearray()
            async for piece in response.content.iter_chunked(_PIECE):
                body += piece
                if len(body) > ANSWER_MAX:
                    raise ClientError(f"an answer is larger than {ANSWER_MAX} bytes: this is not what was asked for")
            return Reply(response.status, response.headers.copy(), bytes(body))

    async def download(self, path: str, out: Path) -> Mapping[str, str]:
        """Write the body at ``path`` to a new file ``out`` (0600, put in place whole); return the answer's headers.

        Raises:
            Refused, ConnectionLost: as `request`; nothing stands at ``out`` then.
            FileExistsError: if something does already.
        """
        with _new_file(out) as opened:
            async with self._session.request("GET", path, good=_GOOD) as response:
                async for piece in response.content.iter_chunked(_PIECE):
                    opened.write(piece)
                return response.headers.copy()


@contextlib.contextmanager
def _new_file(out: Path) -> Iterator[IO[bytes]]:
    """Give a file that stands at ``out`` once it is whole and durable; never over what stands there."""
    if out.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
    handle, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=out.name + ".")  # 0600
    try:
        with open(handle, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.link(name, out)
    finally:
        os.unlink(name)
