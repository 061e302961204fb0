"""A pull that can be broken off at any moment and ends proven: rows, bytes and SHA-256 as the carrier's log has them.

State stands in ``<out>.pull/state.json`` beside the parts received. A part is one answer (one access). Crash order: the
part's access id is durable before its first byte is written, so that after a crash the carrier can be asked how far
it came; the file ``<out>`` appears only when everything has been received and compared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import zstandard

from proxy.client.forms import Form, FormError, RowCounter, count_rows, join
from proxy.client.session import ClientError, ConnectionLost, Refused, Session

_READ = 1 << 18
_ATTEMPTS = 8
"""Attempts in a row that bring nothing new, before the pull gives up (and can be taken up again later)."""
_SETTLE_ATTEMPTS = 60
_SETTLE_PAUSE_S = 0.5
"""How often, and how far apart, the carrier is asked until an access shows its outcome."""
_UNKNOWN_ATTEMPTS = 10
_STATE_VERSION = 1


class NotProven(ClientError):  # noqa: N818 (what it is)
    """What was received is not what the carrier's log says was sent."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: ``cdrs`` with query parameters, or ``search`` with a body."""

    kind: str
    issuer: str
    client_id: str
    form: Form
    parameters: dict[str, str]

    def digest(self) -> str:
        """Return a name for the question that tells nothing of it (a number may stand in it)."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class Part:
    """One answer as far as it was received."""

    access_id: str
    cursor: str | None
    """The cursor it was asked with; None for the question itself."""
    state: str = "open"
    """open (being received), cut (used up to a checkpoint), complete."""
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    """Of these bytes, once they were compared."""


@dataclass(slots=True)
class _State:
    digest: str
    parts: list[Part] = field(default_factory=list)
    next_cursor: str | None = None
    complete_to: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A pull that is complete and proven."""

    rows: int
    bytes: int
    accesses: tuple[str, ...]
    sha256: str
    """Of the file."""
    complete_to: str | None
    """For the next pull's ``received_after``."""


Verify = Callable[[Sequence[Part]], Awaitable[None]]
"""Looks at all parts before the file appears; raises NotProven where something does not hold."""


class Progress(Protocol):
    """Told how far the pull has come."""

    def __call__(self, *, rows: int, received: int, note: str = "") -> None:
        """``rows`` and ``received`` (bytes before content coding) in all so far."""


def _decoder(coding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bool]]:
    """Return how to decode a piece, and how to tell at the end that nothing is missing."""
    if coding in ("", "identity"):
        return (lambda data: data), (lambda: True)
    if coding == "gzip":
        gz = zlib.decompressobj(31)
        return gz.decompress, lambda: gz.eof
    if coding == "zstd":
        zs = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        return zs.decompress, lambda: zs.eof
    raise ClientError(f"the answer has a content coding that was not asked for: {coding}")


class Pull:
    """One pull into one file."""

    def __init__(
        self, session: Session, question: Question, out: Path, progress: Progress, verify: Verify | None = None
    ) -> None:
        self._session = session
        self._verify = verify
        self._question = question
        self._out = out
        self._folder = out.with_name(out.name + ".pull")
        self._progress = progress
        self._state = _State(question.digest())

    # -- state on disk

    def _load(self) -> None:
        try:
            found = json.loads((self._folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            found = {}
        if found.get("version") != _STATE_VERSION or found.get("digest") != self._state.digest:
            raise ClientError(
                f"{self._folder} holds an unfinished pull that asked something else",
                hint="finish it with its own command, or remove that directory",
            )
        parts = [Part(**part) for part in found["parts"]]
        self._state = _State(found["digest"], parts, found["next_cursor"], found["complete_to"])

    def _save(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fresh = self._folder / "state.new"
        data = json.dumps({"version": _STATE_VERSION, **dataclasses.asdict(self._state)}, indent=1)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._folder / "state.json")

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:04d}"

    # -- the pull

    async def run(self) -> Result:
        """Pull until everything is there and proven; taken up where an earlier run was broken off.

        Raises:
            Refused: the carrier refused. ConnectionLost: no use trying on for now; run again later.
            NotProven: what came differs from what the carrier recorded.
        """
        self._load()
        idle = 0
        while True:
            before = self._received()
            try:
                await self._settle()
                if self._finished():
                    if self._verify is not None:
                        await self._verify(self._state.parts)
                    return self._finish()
                await self._receive()
                idle = 0
            except (ConnectionLost, Refused) as error:
                idle = 0 if self._received() > before else idle + 1
                wait = self._patience(error, idle)
                self._report(f"{error}; trying again")
                await asyncio.sleep(wait)

    @staticmethod
    def _patience(error: ConnectionLost | Refused, idle: int) -> float:
        """Return how long to wait before the next attempt; raise the error where waiting does not help."""
        if isinstance(error, Refused) and error.status != 503:
            raise error
        if idle >= _ATTEMPTS:
            error.hint = error.hint or "what was received is kept: run the same command again to go on"
            raise error
        asked = error.retry_after_s if isinstance(error, Refused) else None
        return float(min(asked, 60)) if asked else min(0.25 * 2.0**idle, 8.0)

    def _received(self) -> int:
        return sum(self._path(i).stat().st_size for i, _ in enumerate(self._state.parts) if self._path(i).exists())

    def _rows(self) -> int:
        return sum(part.rows for part in self._state.parts)

    def _report(self, note: str = "") -> None:
        self._progress(rows=self._rows(), received=sum(p.bytes for p in self._state.parts), note=note)

    def _finished(self) -> bool:
        parts = self._state.parts
        return bool(parts) and parts[-1].state == "complete" and self._state.next_cursor is None

    # -- receiving one answer

    async def _receive(self) -> None:
        """Ask for what comes next and write it to a new part."""
        cursor = self._state.next_cursor
        index = len(self._state.parts)
        headers = {"Accept": self._question.form.media_type, "Accept-Encoding": "zstd, gzip;q=0.5"}
        if self._question.kind == "cdrs":
            params = {"cursor": cursor} if cursor else self._question.parameters
            asked = self._session.request("GET", "/v1/cdrs", params=params, headers=headers)
        else:
            body = {"cursor": cursor} if cursor else self._question.parameters
            asked = self._session.request("POST", "/v1/cdrs/search", body=body, headers=headers)
        async with asked as response:
            part = Part(response.headers.get("Access-Id", ""), cursor)
            if not part.access_id:
                raise ClientError("the answer has no Access-Id: this is no Tollgate")
            if index == 0:
                self._state.complete_to = response.headers.get("Complete-To")
            self._path(index).unlink(missing_ok=True)
            self._state.parts.append(part)
            self._save()
            await self._write(response, part, self._path(index))

    async def _write(self, response: aiohttp.ClientResponse, part: Part, path: Path) -> None:
        decode, whole = _decoder(response.headers.get("Content-Encoding", "").strip().lower())
        counter = RowCounter(self._question.form)
        with path.open("xb") as file:
            async for piece in self._pieces(response):
                try:
                    data = decode(piece)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise ConnectionLost(f"the answer cannot be decoded: {error}") from error
                file.write(data)
                counter.feed(data)
                part.bytes += len(data)
                part.rows = counter.rows
                self._report()
            file.flush()
            os.fsync(file.fileno())
        if not whole():
            raise ConnectionLost("the answer ended early")

    @staticmethod
    async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async for piece in response.content.iter_chunked(_READ):
            yield piece

    # -- comparing with the carrier's record

    async def _settle(self) -> None:
        """Bring the last part from ``open`` to ``complete`` or ``cut``, or drop it, by the carrier's own record."""
        if not self._state.parts or self._state.parts[-1].state != "open":
            return
        part, path = self._state.parts[-1], self._path(len(self._state.parts) - 1)
        record = await self._record(part.access_id)
        have = path.stat().st_size if path.exists() else 0
        if record["state"] in ("complete", "limited") and have == record["bytes"]:
            (part.rows, part.sha256), part.bytes = self._prove(path, record), have
            part.state = "complete"
            self._state.next_cursor = record.get("next_cursor") if record["state"] == "limited" else None
        elif self._cut(part, path, have, record):
            part.state = "cut"
        else:
            # Nothing of it can be used: ask for the same again. (The log rightly counts it as disclosed twice.)
            self._state.parts.pop()
            self._state.next_cursor = part.cursor
        self._save()
        self._report()

    async def _record(self, access_id: str) -> dict[str, Any]:
        """Return the carrier's record of an access, once it has an outcome.

        An access whose gateway died has none and stays ``unknown``; one that another gateway is still answering looks
        the same, so that is waited for as well, if not as long.
        """
        for attempt in range(_SETTLE_ATTEMPTS):
            record = await self._session.get_json(f"/v1/accesses/{access_id}")
            if record.get("state") in ("complete", "limited", "interrupted"):
                return record
            if record.get("state") == "unknown" and attempt >= _UNKNOWN_ATTEMPTS:
                return record
            await asyncio.sleep(_SETTLE_PAUSE_S)
        raise ConnectionLost("the carrier still counts the broken answer as open")

    def _prove(self, path: Path, record: dict[str, Any]) -> tuple[int, str]:
        """Compare a part with its record; return its rows and SHA-256.

        Raises:
            NotProven: naming what differs.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            rows = count_rows(path, self._question.form)
        except FormError as error:
            raise NotProven(str(error)) from error
        for what, ours, theirs in (("SHA-256", digest, record.get("sha256")), ("rows", rows, record.get("rows"))):
            if ours != theirs:
                raise NotProven(
                    f"{what} received {ours}, but the carrier recorded {theirs} for access {record.get('access_id')}",
                    hint=f"what was received is kept in {self._folder}; tell the carrier this access id",
                )
        return rows, digest

    def _cut(self, part: Part, path: Path, have: int, record: dict[str, Any]) -> bool:
        """Cut the part back to the last checkpoint it reached; say whether anything of it is left."""
        reached = [c for c in record.get("checkpoints", ()) if c.get("cursor") and 0 < c["bytes"] <= have]
        if not self._question.form.cuttable or not reached:
            return False
        mark = max(reached, key=lambda c: int(c["bytes"]))
        with path.open("r+b") as file:
            file.truncate(mark["bytes"])
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if mark.get("sha256") not in (None, digest):
            raise NotProven(f"the first {mark['bytes']} bytes are not what access {part.access_id} sent")
        rows = count_rows(path, self._question.form)
        if rows != mark["rows"]:
            raise NotProven(f"{rows} rows received, but access {part.access_id} recorded {mark['rows']} by then")
        part.rows, part.bytes, part.sha256 = rows, int(mark["bytes"]), digest
        self._state.next_cursor = mark["cursor"]
        return True

    def _finish(self) -> Result:
        paths = [self._path(i) for i, _ in enumerate(self._state.parts)]
        # Dying after a single part was put in place leaves the state without it: then there is nothing left to join.
        if len(paths) > 1 or paths[0].exists():
            join(paths, self._question.form, self._out)
        with self._out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        rows = self._rows()
        if len(paths) > 1 and (found := count_rows(self._out, self._question.form)) != rows:
            raise NotProven(f"{self._out} has {found} rows, its parts {rows}")
        result = Result(
            rows=rows,
            bytes=sum(part.bytes for part in self._state.parts),
            accesses=tuple(part.access_id for part in self._state.parts),
            sha256=digest,
            complete_to=self._state.complete_to,
        )
        shutil.rmtree(self._folder)
        return result
