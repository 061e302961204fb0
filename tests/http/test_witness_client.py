"""The log's side of witnessing: with our own witness, and with such as are away, slow, broken or hostile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Cosigner, Note, VerifierKey, parse_signatures, signature_lines
from proxy import metrics
from proxy.config import ConfigError
from proxy.ledger import witnesses
from proxy.ledger.addcheckpoint import AddCheckpoint
from proxy.ledger.witnesses import Witness, Witnesses, check_quorum, parse_witnesses
from proxy.server import Listener
from proxy.witness import http
from proxy.witness.service import Witness as WitnessService
from proxy.witness.state import State, create
from tests.support.witness import Log

Answer = Callable[[AddCheckpoint], Awaitable[web.Response] | web.Response]
COSIGNER = Cosigner("bad.example.net/w", Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))


class Kept:
    """What a log keeps: the cosignatures it was given, and how often a proof was asked for."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.lines: list[tuple[int, str, str]] = []
        self.proofs: list[tuple[int, int]] = []
        self.shown: list[Note] = []
        self.ours = False

    async def round(self, asked: Witnesses, size: int | None = None) -> list[str]:
        """One round; the names of those who cosigned."""
        chosen = self.log.size if size is None else size
        before = len(self.lines)

        async def prove(old: int) -> list[bytes]:
            self.proofs.append((old, chosen))
            return list(self.log.proof(old, chosen))

        async def store(name: str, line: str) -> None:
            self.lines.append((chosen, name, line))

        async def contradicted(name: str, note: Note) -> bool:
            self.shown.append(note)
            return self.ours

        await asked.cosign(str(self.log.note(chosen)).encode(), chosen, prove, store, contradicted)
        return [name for _, name, _ in self.lines[before:]]


def count(name: str, outcome: str) -> float:
    return metrics.LOG_WITNESS_REQUESTS.labels(name, outcome)._value.get()


def contradictions(name: str) -> float:
    return metrics.LOG_WITNESS_CONTRADICTIONS.labels(name)._value.get()


@pytest.fixture
def log() -> Log:
    return Log().grow(40)


@pytest.fixture
def kept(log: Log) -> Kept:
    return Kept(log)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(witnesses, "BACKOFF_S", (0.05, 0.2))


class Stand:
    """Witnesses at ports, honest and other, closed at the end."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log = folder, log
        self._listeners: list[Listener] = []
        self._states: list[State] = []
        self.asked: list[Witnesses] = []

    async def honest(self, name: str, *logs: Log) -> Witness:
        create(self.folder / name, f"{name}.example.net/w")
        state = State(self.folder / name).__enter__()
        self._states.append(state)
        known = {each.origin: (each.signer.key,) for each in (*logs, self.log)}
        return Witness(state.cosigner.key, await self._serve(http.application(WitnessService(state, known))))

    async def other(self, answer: Answer, latest: str | None = None) -> Witness:
        """A witness that answers as it is told, and says that it holds ``latest``."""

        async def add(request: web.Request) -> web.Response:
            body = await request.read()
            if not body:
                return web.Response(status=400)
            found = answer(AddCheckpoint.parse(body))
            return await found if isinstance(found, Awaitable) else found

        async def show(_: web.Request) -> web.Response:
            return web.Response(status=404) if latest is None else web.Response(text=latest)

        app = web.Application()
        app.router.add_post("/add-checkpoint", add)
        app.router.add_get("/checkpoint", show)
        return Witness(COSIGNER.key, await self._serve(app))

    def asks(self, *which: Witness) -> Witnesses:
        self.asked.append(Witnesses(which))
        return self.asked[-1]

    async def _serve(self, app: web.Application) -> str:
        listener = Listener(app, "127.0.0.1", 0, "")
        await listener.start()
        self._listeners.append(listener)
        return f"http://127.0.0.1:{listener.port}"

    async def close(self) -> None:
        for each in self.asked:
            await each.close()
        for listener in self._listeners:
            await listener.stop()
        for state in self._states:
            state.__exit__(None, None, None)


@pytest.fixture
async def stand(tmp_path: Path, log: Log) -> AsyncIterator[Stand]:
    stand = Stand(tmp_path, log)
    yield stand
    await stand.close()


def cosigned(request: AddCheckpoint, time_: float | None = None) -> web.Response:
    line = COSIGNER.cosign(request.note.text, int(time.time() if time_ is None else time_))
    return web.Response(text=signature_lines([line]))


async def test_a_growing_log_is_cosigned_by_all(
    stand: Stand, log: Log, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges = 0
    post = witnesses.Link._post

    async def counted(self: witnesses.Link, session: aiohttp.ClientSession, body: bytes) -> tuple[int, str]:
        nonlocal exchanges
        exchanges += 1
        return await post(self, session, body)

    monkeypatch.setattr(witnesses.Link, "_post", counted)
    one, two = await stand.honest("w1"), await stand.honest("w2")
    asked = stand.asks(one, two)
    for size in (3, 4, 8, 8, 21, 40):
        before = {line[0] for line in kept.lines}
        names = await kept.round(asked, size)
        assert sorted(names) == ([] if size in before else [one.name, two.name])
    for size, name, line in kept.lines:
        key = {one.name: one.key, two.name: two.key}[name]
        Note(log.checkpoint(size).text, parse_signatures(line + "\n")).verify([key])
    # Each proof is from where the last round left off: one exchange a round with each.
    assert exchanges == len(kept.lines) == 10
    assert set(kept.proofs) == {(3, 4), (4, 8), (8, 21), (21, 40)}


async def test_a_log_that_has_forgotten_what_it_asked_is_told(stand: Stand, kept: Kept) -> None:
    one = await stand.honest("w1")
    assert await kept.round(stand.asks(one), 10) == [one.name]
    assert await kept.round(stand.asks(one), 10) == [one.name]
    assert kept.proofs == []
    assert await kept.round(stand.asks(one), 25) == [one.name]
    assert kept.proofs == [(10, 25)]


async def test_what_could_not_be_kept_is_asked_for_again(stand: Stand, log: Log, kept: Kept) -> None:
    one = await stand.honest("w1")
    asked = stand.asks(one)

    async def fails(name: str, line: str) -> None:
        raise ConnectionError("the database is away")

    async def prove(old: int) -> list[bytes]:
        return list(log.proof(old, log.size))

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await asked.cosign(str(log.note()).encode(), log.size, prove, fails)
    assert await kept.round(asked) == [one.name]


async def test_one_that_is_away_holds_up_nobody(stand: Stand, log: Log, kept: Kept) -> None:
    one = await stand.honest("w1")
    gone = Witness(COSIGNER.key, "http://127.0.0.1:1")
    asked = stand.asks(gone, one)
    before = count(gone.name, "unreachable")
    assert await kept.round(asked, 5) == [one.name]
    assert count(gone.name, "unreachable") == before + 1
    started = time.monotonic()
    for size in range(6, 16):
        assert await kept.round(asked, size) == [one.name]
    assert time.monotonic() - started < 5


async def test_one_that_hangs_is_waited_for_once(stand: Stand, kept: Kept) -> None:
    one = await stand.honest("w1")

    async def hang(_: AddCheckpoint) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    slow = await stand.other(hang)
    asked = stand.asks(slow, one)
    started = time.monotonic()
    assert await kept.round(asked, 5) == [one.name]
    assert 0.25 < time.monotonic() - started < 2
    started = time.monotonic()
    assert await kept.round(asked, 6) == [one.name]
    assert time.monotonic() - started < 0.25


async def test_one_that_comes_back_is_asked_again(stand: Stand, kept: Kept) -> None:
    up = False

    def answer(request: AddCheckpoint) -> web.Response:
        return cosigned(request) if up else web.Response(status=503)

    back = await stand.other(answer)
    asked = stand.asks(back)
    assert await kept.round(asked, 5) == []
    up = True
    async with asyncio.timeout(10):
        # The log has not grown: its last checkpoint is cosigned all the same.
        while not kept.lines:
            await kept.round(asked, 5)
            await asyncio.sleep(0.02)
    assert await kept.round(asked, 6) == [back.name]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (lambda r: web.Response(text=""), "bad_signature"),
        (lambda r: web.Response(text="— nobody AAAAAAAA\n"), "bad_signature"),
        (lambda r: web.Response(body=b"\xff\xff"), "malformed"),
        (lambda r: web.Response(body=b"x" * (witnesses.ANSWER_MAX + 1)), "malformed"),
        (lambda r: cosigned(AddCheckpoint(0, (), Log("x.example", 3).grow(2).note())), "bad_signature"),
        (lambda r: cosigned(r, time.time() + 3600), "bad_time"),
        (
            lambda r: web.Response(
                text=signature_lines(
                    [
                        Cosigner(COSIGNER.key.name, Ed25519PrivateKey.generate()).cosign(r.note.text, 5),
                    ]
                )
            ),
            "bad_signature",
        ),
        (lambda r: web.Response(status=400), "refused_400"),
        (lambda r: web.Response(status=403), "refused_403"),
        (lambda r: web.Response(status=404), "refused_404"),
        (lambda r: web.Response(status=500), "refused_other"),
        (lambda r: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "refused_other"),
        (lambda r: web.Response(status=409, text="many\n"), "malformed"),
        (lambda r: web.Response(status=409, text="-1\n"), "malformed"),
        (lambda r: web.Response(status=409, text="9" * 50), "malformed"),
        (lambda r: web.Response(status=409, text=f"{(r.old_size + 1) % 30}\n"), "moving"),
    ],
)
async def test_what_does_not_count(stand: Stand, kept: Kept, answer: Answer, outcome: str) -> None:
    bad, one = await stand.other(answer), await stand.honest("w1")
    before, quarrels = count(bad.name, outcome), contradictions(bad.name)
    assert await kept.round(stand.asks(bad, one)) == [one.name]
    assert count(bad.name, outcome) == before + 1
    assert contradictions(bad.name) == quarrels
    assert kept.shown == []


async def test_lines_of_others_are_passed_over(stand: Stand, kept: Kept) -> None:
    stranger = Cosigner("stranger.example/w", Ed25519PrivateKey.generate())

    def answer(request: AddCheckpoint) -> web.Response:
        text = request.note.text
        lines = [stranger.cosign(text, 1), COSIGNER.cosign(text, 2)]
        return web.Response(text=signature_lines(lines))

    one = await stand.other(answer)
    assert await kept.round(stand.asks(one)) == [one.name]
    assert "stranger" not in kept.lines[0][2]


@pytest.mark.parametrize(
    "answer",
    [
        lambda r: web.Response(status=409, text="1000\n"),
        lambda r: web.Response(status=409, text="40\n"),
        lambda r: web.Response(status=409, text=f"{r.old_size}\n"),
        lambda r: web.Response(status=422),
    ],
)
async def test_one_that_disagrees_is_asked_what_it_holds(stand: Stand, log: Log, kept: Kept, answer: Answer) -> None:
    held = log.fork(20).grow(900, "rewritten").note()
    bad = await stand.other(answer, str(held))
    before = contradictions(bad.name)
    assert await kept.round(stand.asks(bad)) == []
    assert kept.shown == [held]
    assert contradictions(bad.name) == before + 1
    # The same, but the caller finds that what it holds is of our tree after all.
    kept.ours = True
    assert await kept.round(stand.asks(bad)) == []
    assert contradictions(bad.name) == before + 1


@pytest.mark.parametrize("latest", [None, "", "not a note", "x" * (witnesses.ANSWER_MAX + 1)])
async def test_one_that_disagrees_and_shows_nothing(stand: Stand, kept: Kept, latest: str | None) -> None:
    bad = await stand.other(lambda r: web.Response(status=422), latest)
    before = contradictions(bad.name)
    assert await kept.round(stand.asks(bad)) == []
    assert kept.shown == []
    assert contradictions(bad.name) == before + 1


async def test_a_proof_of_another_tree_is_heard(stand: Stand, log: Log, kept: Kept) -> None:
    """A witness of ours that has cosigned the true log, and a log that was rewritten and signed with its own key."""
    one = await stand.honest("w1")
    assert await kept.round(stand.asks(one), 40) == [one.name]
    liar = Kept(log.fork(20).grow(40, "rewritten"))
    for size in (30, 40, 60):
        assert await liar.round(stand.asks(one), size) == []
    assert [Checkpoint.parse(note.text) for note in liar.shown] == [log.checkpoint(40)] * 3
    for note in liar.shown:
        note.verify([log.signer.key])

    async def prove(old: int) -> list[bytes]:
        return list(liar.log.proof(old, 60))

    async def store(name: str, line: str) -> None:
        raise AssertionError

    async def proven(name: str, note: Note) -> bool:
        raise RuntimeError("another tree")

    before = contradictions(one.name)
    with pytest.raises(RuntimeError, match="another tree"):
        await stand.asks(one).cosign(str(liar.log.note()).encode(), 60, prove, store, proven)
    assert contradictions(one.name) == before + 1


async def test_the_others_are_heard_when_one_proves_something(stand: Stand, log: Log, kept: Kept) -> None:
    bad, one = await stand.other(lambda r: web.Response(status=422), str(log.note())), await stand.honest("w1")
    names: list[str] = []

    async def prove(old: int) -> list[bytes]:
        return list(log.proof(old, log.size))

    async def store(name: str, line: str) -> None:
        names.append(name)

    async def proven(name: str, note: Note) -> bool:
        raise RuntimeError("another tree")

    with pytest.raises(RuntimeError):
        await stand.asks(bad, one).cosign(str(log.note()).encode(), log.size, prove, store, proven)
    assert names == [one.name]


def test_the_setting_is_read() -> None:
    one = Cosigner("a.example/w", Ed25519PrivateKey.generate()).key
    two = Cosigner("b.example/w", Ed25519PrivateKey.generate()).key
    text = f"\n {one} https://a.example/ \n\t{two} http://10.0.0.1:8080/w2\n"
    found = parse_witnesses(text)
    assert [(w.key, w.url, w.name) for w in found] == [
        (one, "https://a.example", "a.example/w"),
        (two, "http://10.0.0.1:8080/w2", "b.example/w"),
    ]
    assert parse_witnesses("") == []
    check_quorum(found, 2, True)
    check_quorum([], 0, False)
    for quorum, required in ((3, False), (-1, False), (0, True)):
        with pytest.raises(ConfigError):
            check_quorum(found, quorum, required)


def settings_refused() -> list[str]:
    private = Ed25519PrivateKey.generate()
    key = Cosigner("a.example/w", private).key
    logs_key = VerifierKey("a.example/w", 1, key.public)
    renamed = Cosigner("b.example/w", private).key
    return [
        str(key),
        f"{key} https://a.example extra",
        f"{key}x https://a.example",
        f"{logs_key} https://a.example",
        f"{key} a.example",
        f"{key} ftp://a.example",
        f"{key} https://",
        f"{key} https://a.example:port",
        f"{key} https://user:secret@a.example",
        f"{key} https://a.example/?x=1",
        f"{key} https://a.example {key} https://b.example",
        f"{key} https://a.example {renamed} https://b.example",
    ]


@pytest.mark.parametrize("text", settings_refused())
def test_a_setting_that_is_wrong(text: str) -> None:
    with pytest.raises(ConfigError, match="log_witnesses") as caught:
        parse_witnesses(text)
    assert "secret" not in str(caught.value)


async def test_nothing_is_left_running(stand: Stand, log: Log, kept: Kept) -> None:
    asked = stand.asks(Witness(COSIGNER.key, "http://127.0.0.1:1"))
    await kept.round(asked)
    await asked.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("witness")]
