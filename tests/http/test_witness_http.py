"""A witness over HTTP: the answer table, and what a stranger can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from keys.checkpoint import Checkpoint
from keys.notes import Note, parse_signatures
from proxy.server import Listener
from proxy.witness import http
from proxy.witness.service import Witness
from proxy.witness.state import State, create
from tests.support.ledger import until
from tests.support.witness import ORIGIN, Log


class Served:
    """A witness at a port, and a session."""

    def __init__(self, state: State, witness: Witness, url: str, session: aiohttp.ClientSession) -> None:
        self.state, self.witness, self.url, self.session = state, witness, url, session

    async def add(self, body: bytes) -> tuple[int, str, str]:
        async with self.session.post(self.url + "/add-checkpoint", data=body) as answer:
            return answer.status, answer.headers["Content-Type"], await answer.text()

    async def get(self, path: str, **query: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, params=query) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def log() -> Log:
    return Log().grow(40)


@pytest.fixture
async def served(tmp_path: Path, log: Log) -> AsyncIterator[Served]:
    create(tmp_path / "w", "witness.example.net/w1")
    with State(tmp_path / "w") as state:
        witness = Witness(state, {ORIGIN: (log.signer.key,)})
        listener = Listener(http.application(witness), "127.0.0.1", 0, "")
        await listener.start()
        async with aiohttp.ClientSession() as session:
            yield Served(state, witness, f"http://127.0.0.1:{listener.port}", session)
        await listener.stop()


async def test_the_answer_table(served: Served, log: Log) -> None:
    status, kind, text = await served.add(log.ask(0, 20))
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    (line,) = parse_signatures(text)
    Note(log.note(20).text, (line,)).verify([served.state.cosigner.key])

    assert await served.add(log.ask(0)) == (409, "text/x.tlog.size", "20\n")
    assert await served.add(log.fork(10).grow(10, "x").ask(20)) == (409, "text/x.tlog.size", "20\n")
    assert (await served.add(b"old 0\n\nnothing"))[0] == 400
    assert (await served.add(log.ask(20).replace(b"old 20", b"old 41")))[0] == 400
    assert (await served.add(Log(ORIGIN, 9, log.leaves).ask(20)))[0] == 403
    assert (await served.add(Log("another.example/log", 9, log.leaves).ask(20)))[0] == 404
    assert (await served.add(log.fork(10).grow(20, "x").ask(20)))[0] == 422
    assert (await served.add(log.ask(20)))[0] == 200
    assert (await served.add(log.ask(40)))[0] == 200


async def test_nothing_that_was_sent_comes_back(served: Served, log: Log) -> None:
    for body in (b"old <script>\n\n<b>", log.ask(0).replace(ORIGIN.encode(), b"<script>"), b"old 0\n" + b"<" * 99):
        status, _, text = await served.add(body)
        assert status in (400, 404)
        assert "<" not in text


async def test_the_last_note_can_be_fetched(served: Served, log: Log) -> None:
    assert (await served.get("/checkpoint", origin=ORIGIN))[0] == 404
    await served.add(log.ask(0, 20))
    status, text = await served.get("/checkpoint", origin=ORIGIN)
    assert status == 200
    note = Note.parse(text)
    assert len(note.verify([log.signer.key, served.state.cosigner.key])) == 2
    assert Checkpoint.parse(note.text) == log.checkpoint(20)
    assert (await served.get("/checkpoint"))[0] == 400
    assert (await served.get("/checkpoint", origin="x" * 5000))[0] == 404
    assert (await served.get("/checkpoint", origin=ORIGIN, more="1"))[0] == 400


async def test_other_paths_methods_and_sizes(served: Served) -> None:
    assert (await served.get("/"))[0] == 404
    async with served.session.get(served.url + "/add-checkpoint") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert (await served.add(b"x" * (http.BODY_MAX + 1)))[0] == 413


async def test_a_slow_body_has_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.2)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"old 0\n"
        await asyncio.sleep(5)

    async with served.session.post(served.url + "/add-checkpoint", data=slowly()) as answer:
        assert answer.status == 408


async def test_who_sends_slowly_takes_nobodys_place(served: Served, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITING_MAX", 2)
    sending, end = 0, asyncio.Event()

    async def dribble() -> AsyncIterator[bytes]:
        nonlocal sending
        yield b"old 0\n"
        sending += 1
        await end.wait()

    async def slow() -> None:
        async with served.session.post(served.url + "/add-checkpoint", data=dribble()) as answer:
            assert answer.status in (400, 503)  # they end at once

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(slow())
        await until(lambda: sending == 4)
        await asyncio.sleep(0.2)  # until their heads are read there
        status, _, _ = await served.add(log.ask(0))
        end.set()
    assert status == 200


async def test_many_at_once_are_refused(served: Served, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITING_MAX", 0)
    status, _, _ = await served.add(log.ask(0))
    assert status == 503


async def test_a_full_disk_gives_no_signature(served: Served, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    with monkeypatch.context() as broken:
        broken.setattr(State, "hold", full)
        status, _, text = await served.add(log.ask(0))
        assert status == 503
        assert "secret" not in text
    assert (await served.add(log.ask(0)))[0] == 200


async def test_two_that_race(served: Served, log: Log) -> None:
    """Of requests from one old size one is cosigned, the others are told what is held then."""
    await served.add(log.ask(0, 10))
    answers = await asyncio.gather(*(served.add(log.ask(10, size)) for size in range(11, 41)))
    winners = [a for a in answers if a[0] == 200]
    assert len(winners) == 1
    told = {text for status, _, text in answers if status == 409}
    note = await asyncio.to_thread(served.witness.latest, ORIGIN)
    assert note is not None
    assert told == {f"{Checkpoint.parse(note.text).size}\n"}
    assert len(answers) == 30
