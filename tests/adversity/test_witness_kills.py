"""A witness as a process: killed at any moment, asked by a log that lies, it never takes back what it gave out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from keys.checkpoint import Checkpoint
from keys.notes import Note, VerifierKey, parse_signatures
from proxy.ledger.addcheckpoint import AddCheckpoint
from tests.support.witness import ORIGIN, Log

KILLS = int(os.environ.get("TOLLGATE_WITNESS_KILLS", "12"))
"""More by hand; the rest of a run is chosen by TOLLGATE_SEED."""
SEED = int(os.environ.get("TOLLGATE_SEED", "1"))


async def tollgate(*args: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli.main", *map(str, args),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def running(state: Path, *logs: Log) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A witness process and its URL; it is killed at the end if it still runs."""
    given = [part for log in logs for part in ("--log", str(log.signer.key))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli.main", "witness", "run", "--state", str(state), "--listen", "127.0.0.1:0",
        "--json", *given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline())["url"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class Received:
    """The checker: what anybody was ever given."""

    key: VerifierKey
    roots: dict[int, bytes] = field(default_factory=dict)
    largest: int = 0
    count: int = 0
    times: dict[int, int] = field(default_factory=dict)

    def take(self, checkpoint: Checkpoint, answer: str) -> None:
        (found,) = Note(checkpoint.text, parse_signatures(answer)).verify([self.key])
        assert self.roots.setdefault(checkpoint.size, checkpoint.root) == checkpoint.root, "two roots for one size"
        self.largest = max(self.largest, checkpoint.size)
        self.count += 1
        assert found.time is not None
        self.times[checkpoint.size] = found.time


async def test_killed_at_any_moment_it_keeps_what_it_gave(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    code, out, err = await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    assert code == 0, err
    received = Received(VerifierKey.parse(out.strip()))
    honest = Log().grow(5)
    trees = forks = [honest]
    answers: dict[int, int] = {}

    async def client(session: aiohttp.ClientSession, url: str, own: random.Random) -> None:
        held = received.largest
        while True:
            log = own.choice(trees)
            size = min(log.size, held + own.randrange(4))
            request = AddCheckpoint(min(held, size), log.proof(min(held, size), size), log.note(size))
            async with session.post(url + "/add-checkpoint", data=bytes(request)) as answer:
                text = await answer.text()
            answers[answer.status] = answers.get(answer.status, 0) + 1
            if answer.status == 200:
                received.take(log.checkpoint(size), text)
                held = max(held, size)
            elif answer.status == 409:
                held = int(text)

    for _ in range(KILLS):
        # The log has grown, and there are two other histories of it from some point on, under the same key.
        honest.grow(12)
        trees = [honest, *(honest.fork(chance.randrange(1, honest.size)).grow(15, str(chance.random())) for _ in "ab")]
        async with running(tmp_path / "w", honest) as (process, url), aiohttp.ClientSession() as session:
            async with session.get(url + "/checkpoint", params={"origin": ORIGIN}) as answer:
                if received.count:
                    note = Note.parse(await answer.text())
                    note.verify([received.key])
                    held = Checkpoint.parse(note.text)
                    assert held.size >= received.largest, "what was given out is forgotten"
                    assert received.roots.get(held.size, held.root) == held.root
                    if held.size not in honest.by_size(held.root):
                        # One of the forks won before the kill: that is the tree the witness knows, and the log's now.
                        honest = next(t for t in forks if held.size in t.by_size(held.root))
                        honest.grow(12)
                        trees = [honest, *(honest.fork(chance.randrange(1, held.size)).grow(30, "x") for _ in "ab")]
            clients = [
                asyncio.create_task(client(session, url, random.Random(chance.random()))) for _ in range(4)
            ]  # fmt: skip
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            process.kill()
            await process.wait()
            ended = await asyncio.gather(*clients, return_exceptions=True)
            for end in ended:
                assert isinstance(end, (aiohttp.ClientError, OSError)), end
        forks = trees
    assert received.count > KILLS
    assert {200, 409, 422} <= set(answers)
    # All that was ever cosigned is one tree, and its times rise with its sizes.
    last = next(t for t in forks if received.largest in t.by_size(received.roots[received.largest]))
    for size, root in received.roots.items():
        assert last.checkpoint(size).root == root
    times = [received.times[size] for size in sorted(received.times)]
    assert times == sorted(times)
    print(f"kills {KILLS}, cosignatures {received.count}, answers {answers}")  # noqa: T201


async def test_one_process_for_a_directory(tmp_path: Path) -> None:
    log = Log().grow(3)
    await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    async with running(tmp_path / "w", log):
        code, _, err = await tollgate("witness", "run", "--state", tmp_path / "w", "--log", log.signer.key, "--listen",
                                      "127.0.0.1:0")  # fmt: skip
        assert code == 3
        assert "another witness runs" in err
    async with running(tmp_path / "w", log):  # the lock of a killed one does not stay
        pass


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--log", "nonsense"), 2, "log key 1"),
        ((), 2, "no log to witness"),
        (("--listen", "nowhere"), 2, "--listen"),
        (("--listen", "127.0.0.1:99999"), 2, "--listen"),
        (("--tls-cert", "x.pem"), 2, "go together"),
    ],
)
async def test_what_is_given_wrongly_is_said(tmp_path: Path, args: tuple[str, ...], code: int, says: str) -> None:
    await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    found, _, err = await tollgate("witness", "run", "--state", tmp_path / "w", *args)
    assert (found, says in err) == (code, True), err


async def test_the_key_is_printed_again_and_made_once(tmp_path: Path) -> None:
    code, out, _ = await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    assert code == 0
    assert (await tollgate("witness", "key", "--state", tmp_path / "w"))[1] == out
    code, _, err = await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    assert code == 3
    assert "already" in err
    code, _, err = await tollgate("witness", "key", "--state", tmp_path / "none")
    assert code == 3
    assert "witness init" in err


async def test_a_file_of_logs(tmp_path: Path) -> None:
    one, two = Log().grow(3), Log("named.example.com/key", 2).grow(2)
    two.origin = "an origin with spaces"
    (tmp_path / "logs").write_text(f"# logs\n\n{one.signer.key}\n  {two.signer.key} an origin with spaces\n")
    await tollgate("witness", "init", "--state", tmp_path / "w", "--name", "w.example.net/1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli.main", "witness", "run", "--state", str(tmp_path / "w"), "--listen",
        "127.0.0.1:0", "--json", "--log-file", str(tmp_path / "logs"), stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        assert told["logs"] == ["an origin with spaces", ORIGIN]
        async with aiohttp.ClientSession() as session:
            for log in (one, two):
                async with session.post(told["url"] + "/add-checkpoint", data=log.ask(0)) as answer:
                    assert answer.status == 200
        process.terminate()
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
