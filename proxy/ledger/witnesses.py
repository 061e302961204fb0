"""Asking witnesses for cosignatures (C2SP tlog-witness), from the log's side.

Witnesses are others' machines: any of them may be away, slow or hostile, and the log goes on.

* All are asked at the same time, for `TIMEOUT_S` at most. One that failed is not waited for again: it is tried beside
  the rounds, at growing intervals, until it answers.
* What comes back counts only where it verifies with the key that was configured.
* A witness that will not go along is heard only where it can show a checkpoint that this log's own key has signed and
  that is not of this log's tree: then somebody used the key on another tree, or the database was put back. Anything
  else that a witness says is counted and logged, and cannot stop the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from keys.checkpoint import Checkpoint
from keys.notes import COSIGNATURE, NOTE_MAX, Note, NoteError, Signature, VerifierKey, decimal
from keys.notes import parse_signatures as parse_lines
from proxy import logs, metrics
from proxy.config import ConfigError
from proxy.ledger.addcheckpoint import LATEST, PATH, AddCheckpoint

TIMEOUT_S = 3.0
"""How long a witness may take for one checkpoint, seconds."""
BACKOFF_S = (1.0, 60.0)
"""First and longest time between two tries of a witness that fails, seconds."""
ANSWER_MAX = NOTE_MAX
TRIES = 3
"""Questions to one witness about one checkpoint: the first, one from the size it names, one more if that moved."""
AHEAD_S = 300
"""A cosignature may be so far ahead of this machine's clock, seconds; see `Link.cosign`."""

Prove = Callable[[int], Awaitable[list[bytes]]]
"""The consistency proof from an older size to the checkpoint's."""
Store = Callable[[str, str], Awaitable[None]]
"""Keeps a verified cosignature: the witness's name, its signature line."""
Contradicted = Callable[[str, Note], Awaitable[bool]]
"""Looks at what a witness holds against us: its name, and a note that nobody has verified yet. Says whether it is a
checkpoint of our tree after all; raises where it proves that there is another."""

_LOG = logs.get("witnesses")


class WitnessFailed(Exception):  # noqa: N818 - it says what is so
    """A witness gave no cosignature. ``outcome`` is a bounded label; ``disagrees`` that it holds something else."""

    def __init__(self, outcome: str, *, disagrees: bool = False) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.disagrees = disagrees


@dataclass(frozen=True, slots=True)
class Witness:
    """A configured witness."""

    key: VerifierKey
    url: str
    """Submission prefix, without a slash at its end."""

    @property
    def name(self) -> str:
        """Its key's name: what metrics and tables call it."""
        return self.key.name


def parse_witnesses(text: str) -> list[Witness]:
    """Read the setting ``log_witnesses``: for each witness its key and its URL, all parted by white space.

    Raises:
        ConfigError: says which is wrong.
    """
    parts = text.split()
    if len(parts) % 2:
        raise ConfigError("log_witnesses is pairs: a witness's key, a space, its URL")
    found: list[Witness] = []
    for number, (vkey, url) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
        try:
            key = VerifierKey.parse(vkey)
        except NoteError as error:
            raise ConfigError(f"log_witnesses: key {number}: {error}") from error
        if key.kind != COSIGNATURE:
            raise ConfigError(f"log_witnesses: key {number} is not a witness's (type 0x04, `tollgate witness key`)")
        try:
            split = urlsplit(url)
            right = split.scheme in ("http", "https") and split.hostname is not None and split.port != 0
        except ValueError:
            right = False
        if not right or split.query or split.fragment or split.username is not None:
            raise ConfigError(
                f"log_witnesses: the URL of witness {number} is none, such as https://witness.example.net"
            )
        if any(key.name == other.name or key.public == other.key.public for other in found):
            raise ConfigError(f"log_witnesses: witness {number} is there twice")
        found.append(Witness(key, url.rstrip("/")))
    return found


def check_quorum(witnesses: Sequence[Witness], quorum: int, required: bool) -> None:
    """Refuse settings that cannot be met.

    Raises:
        ConfigError: a quorum of more witnesses than there are; ``log_witness_required`` without a quorum.
    """
    if not 0 <= quorum <= len(witnesses):
        raise ConfigError(f"log_witness_quorum is {quorum}, and log_witnesses names {len(witnesses)}")
    if required and not quorum:
        raise ConfigError("log_witness_required needs a log_witness_quorum of at least 1")


class Link:
    """One witness, as it is reached. ``cosigned`` is the size it cosigned last for us."""

    def __init__(self, witness: Witness, now: Callable[[], float] = time.time) -> None:
        self.witness = witness
        self.cosigned = -1
        self._now = now
        self._wait_s = 0.0
        self.probe: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether its last answer was one."""
        return not self._wait_s

    async def cosign(self, http: aiohttp.ClientSession, note: Note, size: int, prove: Prove) -> Signature:
        """Return its verified cosignature of ``note``.

        Raises:
            WitnessFailed: it gave none.
            aiohttp.ClientError, OSError, TimeoutError: it cannot be reached, or is too slow.
        """
        old = max(0, min(self.cosigned, size))
        for _ in range(TRIES):
            proof = await prove(old) if old not in (0, size) else []
            status, text = await self._post(http, bytes(AddCheckpoint(old, tuple(proof), note)))
            if status == 200:
                return self._verified(note, text)
            if status != 409:
                # 422 says that what we sent does not continue what it holds.
                raise WitnessFailed(f"refused_{_bounded(status)}", disagrees=status == 422)
            held = _size(text)
            if held > size or held == old:
                # It has seen a larger tree of ours, or another root for this very size.
                raise WitnessFailed("conflict", disagrees=True)
            old = held
        raise WitnessFailed("moving")

    async def latest(self, http: aiohttp.ClientSession, origin: str) -> Note | None:
        """Return the note that it holds of ``origin``, unverified; None if it holds none or does not show it.

        Raises:
            NoteError: it shows something else.
            aiohttp.ClientError, OSError, TimeoutError: it cannot be reached.
        """
        async with (
            asyncio.timeout(TIMEOUT_S),
            http.get(self.witness.url + LATEST, params={"origin": origin}, allow_redirects=False) as answer,
        ):
            return Note.parse(await _read(answer)) if answer.status == 200 else None

    def succeeded(self) -> None:
        """It is asked in every round from now on."""
        self._wait_s = 0.0

    def failed(self) -> float:
        """Return how long to leave it alone, seconds."""
        self._wait_s = min(max(BACKOFF_S[0], self._wait_s * 2), BACKOFF_S[1])
        return self._wait_s

    async def _post(self, http: aiohttp.ClientSession, body: bytes) -> tuple[int, str]:
        url = self.witness.url + PATH
        async with http.post(url, data=body, allow_redirects=False) as answer:
            data = await _read(answer)
        try:
            return answer.status, data.decode("utf-8")
        except UnicodeDecodeError:
            raise WitnessFailed("malformed") from None

    def _verified(self, note: Note, text: str) -> Signature:
        """Return its signature from an answer; lines of other keys are passed over (tlog-witness)."""
        try:
            (found,) = Note(note.text, parse_lines(text)).verify([self.witness.key])
        except NoteError:
            raise WitnessFailed("bad_signature") from None
        # A time from the future could be given again when its time has come, as if it were fresh.
        if found.time is None or found.time > self._now() + AHEAD_S:
            raise WitnessFailed("bad_time")
        return found.signature


class Witnesses:
    """The witnesses of a log. Used by one publisher.

    Args:
        witnesses: whom to ask.
        now: the clock, seconds since 1970.
    """

    def __init__(self, witnesses: Iterable[Witness], now: Callable[[], float] = time.time) -> None:
        self._links = [Link(witness, now) for witness in witnesses]
        for link in self._links:  # at 0 from the start: Prometheus sees no rise in a series that begins at 1
            metrics.LOG_WITNESS_CONTRADICTIONS.labels(link.witness.name)
        self._http: aiohttp.ClientSession | None = None

    @property
    def keys(self) -> list[VerifierKey]:
        """Whose cosignatures count."""
        return [link.witness.key for link in self._links]

    def cosigned(self, size: int) -> list[str]:
        """Return who has cosigned the checkpoint of this size."""
        return [link.witness.name for link in self._links if link.cosigned == size]

    async def close(self) -> None:
        """Ask nobody any more."""
        probes = [link.probe for link in self._links if link.probe is not None]
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def cosign(
        self, note: bytes, size: int, prove: Prove, store: Store, contradicted: Contradicted | None = None
    ) -> None:
        """Have a checkpoint cosigned by those who have not done so; return when all have answered or are given up.

        Args:
            note: the checkpoint with the log's signature.
            size: its size.
            prove: makes the consistency proof from the size that a witness holds.
            store: keeps a cosignature; called as they come.
            contradicted: looks at what a witness shows that will not go along.

        Raises:
            Exception: whatever ``prove``, ``store`` and ``contradicted`` raise; the others were asked all the same.
        """
        waiting = [link for link in self._links if link.cosigned != size and link.probe is None]
        if not waiting:
            return
        parsed = Note.parse(note)
        tasks = [asyncio.create_task(self._ask(link, parsed, size, prove, store, contradicted)) for link in waiting]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _ask(
        self, link: Link, note: Note, size: int, prove: Prove, store: Store, contradicted: Contradicted | None
    ) -> None:
        name = link.witness.name
        try:
            async with asyncio.timeout(TIMEOUT_S):
                signature = await link.cosign(self._session(), note, size, prove)
        except (WitnessFailed, aiohttp.ClientError, OSError, TimeoutError) as error:
            outcome = error.outcome if isinstance(error, WitnessFailed) else "unreachable"
            metrics.LOG_WITNESS_REQUESTS.labels(name, outcome).inc()
            if link.healthy:
                logs.event(_LOG, logging.WARNING, "witness.failed", type(error), witness=name, outcome=outcome)
            disagrees = isinstance(error, WitnessFailed) and error.disagrees
            link.probe = asyncio.create_task(self._leave(link, link.failed()), name=f"witness {name}")
            if disagrees:
                await self._disagrees(link, note, contradicted)
            return
        metrics.LOG_WITNESS_REQUESTS.labels(name, "cosigned").inc()
        await store(name, str(signature))
        # Only now: what could not be kept is asked for again.
        link.cosigned = size
        if not link.healthy:
            logs.event(_LOG, logging.INFO, "witness.back", witness=name)
        link.succeeded()

    async def _leave(self, link: Link, seconds: float) -> None:
        """Leave a witness alone; then look whether it answers at all, so that a round never waits for a dead one."""
        try:
            while True:
                await asyncio.sleep(seconds)
                if await self._answers(link):
                    return
                seconds = link.failed()
        finally:
            link.probe = None

    async def _answers(self, link: Link) -> bool:
        url = link.witness.url + PATH
        try:
            # Any answer will do: 400 is what a witness says to this.
            async with asyncio.timeout(TIMEOUT_S), self._session().post(url, data=b"", allow_redirects=False) as answer:
                return answer.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            metrics.LOG_WITNESS_REQUESTS.labels(link.witness.name, "unreachable").inc()
            return False

    async def _disagrees(self, link: Link, note: Note, contradicted: Contradicted | None) -> None:
        """Ask a witness that will not cosign what it holds, and have that looked at."""
        name = link.witness.name
        ours = False
        try:
            held = await link.latest(self._session(), Checkpoint.parse(note.text).origin)
            if held is not None and contradicted is not None:
                # Two publishers that follow each other may ask about the same checkpoints: then all is well.
                ours = await contradicted(name, held)
        except (NoteError, WitnessFailed, aiohttp.ClientError, OSError, TimeoutError) as error:
            logs.event(_LOG, logging.WARNING, "witness.shows_nothing", type(error), witness=name)
        finally:
            if not ours:
                metrics.LOG_WITNESS_CONTRADICTIONS.labels(name).inc()
                logs.event(_LOG, logging.ERROR, "witness.disagrees", witness=name)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # Connections are kept: a round costs one exchange. No cookies, no proxy from the environment.
            self._http = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers={"User-Agent": "tollgate"}
            )
        return self._http


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in answer.content.iter_chunked(8192):
        data += piece
        if len(data) > ANSWER_MAX:
            raise WitnessFailed("malformed")
    return bytes(data)


def _size(text: str) -> int:
    try:
        return decimal(text.removesuffix("\n"))
    except NoteError:
        raise WitnessFailed("malformed") from None


def _bounded(status: int) -> str:
    return str(status) if status in (400, 403, 404, 422, 429, 503) else "other"
