"""Publishing with witnesses, on a real database: quorum, absence, the pause, and what a witness's memory proves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Cosigner, Note, Signer, sign
from keys.signing import SigningKeys
from proxy import metrics
from proxy.ledger import witnesses, witnesswatch
from proxy.ledger.model import LedgerUnavailable
from proxy.ledger.published import Published
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.service import Ledger
from proxy.ledger.witnesses import Witness, Witnesses
from proxy.ledger.witnesswatch import WitnessWatch
from proxy.server import Listener
from proxy.witness import http
from proxy.witness.service import Witness as WitnessService
from proxy.witness.state import State, create
from schema.roles import Role
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger, open_provider, until
from tests.support.logs import published_once

ORIGIN = "cdr.example.com/log"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "BACKOFF_S", (0.05, 0.2))
    monkeypatch.setattr(witnesswatch, "POLL_S", 0.05)


@dataclass
class Stand:
    """Witnesses of a log, which can be put away and brought back at their ports."""

    folder: Path
    keys: LogKeys
    known: list[Witness] = field(default_factory=list)
    _states: list[State] = field(default_factory=list)
    _listeners: dict[int, Listener] = field(default_factory=dict)

    async def add(self) -> None:
        number = len(self.known)
        create(self.folder / f"w{number}", f"w{number}.example.net/w")
        state = State(self.folder / f"w{number}").__enter__()
        self._states.append(state)
        await self.bring(number, 0)
        url = f"http://127.0.0.1:{self._listeners[number].port}"
        self.known.append(Witness(state.cosigner.key, url))

    async def bring(self, number: int, port: int | None = None) -> None:
        chosen = int(self.known[number].url.rpartition(":")[2]) if port is None else port
        service = WitnessService(self._states[number], {ORIGIN: tuple(self.keys.verifiers(ORIGIN))})
        listener = Listener(http.application(service), "127.0.0.1", chosen, "")
        await listener.start()
        self._listeners[number] = listener

    async def away(self, number: int) -> None:
        await self._listeners.pop(number).stop()

    async def close(self) -> None:
        for listener in self._listeners.values():
            await listener.stop()
        for state in self._states:
            state.__exit__(None, None, None)


@dataclass
class Gateway:
    """What a gateway has of the log: appends, publishes, follows, watches."""

    ledger: Ledger
    published: Published
    publisher: Publisher
    watch: WitnessWatch

    @property
    def size(self) -> int:
        return 0 if self.published.served is None else self.published.served.size

    async def append(self, count: int = 1) -> int:
        """Append, and return the log's size then."""
        for _ in range(count):
            done = await self.ledger.append(intent())
        return done.index + 1


@contextlib.asynccontextmanager
async def gateway(
    database: Database,
    stand: Stand,
    *,
    quorum: int = 0,
    required: bool = False,
    max_age_s: float = 300,
    name: str = "g",
) -> AsyncIterator[Gateway]:
    config = database.config
    asked = Witnesses(stand.known)
    async with (
        open_ledger(config) as ledger,
        asyncpg.create_pool(config.role_url(Role.LOG), min_size=0, max_size=5) as pool,
    ):
        published = Published(
            pool, stand.keys, ledger, config.home / name, ORIGIN, witnesses=asked.keys, quorum=quorum
        )  # fmt: skip
        publisher = Publisher(pool, stand.keys, ledger.halt, 0.05, published=published.wake, witnesses=asked)
        names = [witness.name for witness in stand.known]
        gate = Gateway(ledger, published, publisher, None)  # type: ignore[arg-type]
        gate.watch = WitnessWatch(pool, ledger, lambda: gate.size, names, required=required, max_age_s=max_age_s)
        await published.start()
        await publisher.start()
        await gate.watch.start()
        try:
            yield gate
        finally:
            await gate.watch.stop()
            await publisher.stop()
            await asked.close()
            await published.stop()


@pytest.fixture
async def stand(database: Database, tmp_path: Path) -> AsyncIterator[Stand]:
    open_provider(database.config)
    stand = Stand(tmp_path, LogKeys(SigningKeys(database.config.keyring_dir)))
    stand.keys.signer(ORIGIN)  # the key is made now: witnesses have to know it
    yield stand
    await stand.close()


def lag(name: str) -> float:
    return metrics.LOG_WITNESS_LAG.labels(name)._value.get()


async def rewind(owner: asyncpg.Connection, size: int) -> None:
    """What a restored backup looks like, from the tree's side."""
    for table in ("log_checkpoint", "log_cosignature"):
        await owner.execute(f"DELETE FROM tollgate.{table} WHERE size > $1", size)
    await owner.execute("DELETE FROM tollgate.log_entry WHERE idx >= $1", size)
    await owner.execute("UPDATE tollgate.log_head SET size = $1", size)


async def test_a_checkpoint_is_published_with_its_quorum(database: Database, stand: Stand) -> None:
    for _ in range(3):
        await stand.add()
    await stand.away(2)
    async with gateway(database, stand, quorum=2) as gate:
        for _ in range(5):
            size = await gate.append(3)
            await until(lambda size=size: gate.size >= size)
            served = gate.published.served
            assert served is not None
            found = Note.parse(served.note).verify([witness.key for witness in stand.known])
            assert {each.key for each in found} == {stand.known[0].key, stand.known[1].key}
        # Only one is left: the log goes on, and nothing is published.
        await stand.away(1)
        before = gate.size
        size = await gate.append(20)
        await until(lambda: lag(stand.known[1].name) > 0.3 and lag(stand.known[0].name) == 0)
        assert metrics.LOG_UNPUBLISHED._value.get() > 0
        assert (gate.size, gate.ledger.paused, gate.ledger.halted) == (before, None, None)
        # Another comes: everything is published at once, though nothing was appended.
        await stand.bring(2)
        await until(lambda: gate.size >= size)
        await until(lambda: metrics.LOG_UNPUBLISHED._value.get() == 0)
        assert lag(stand.known[1].name) > 0.3
        await stand.bring(1)
        await until(lambda: lag(stand.known[1].name) == 0)


async def test_without_a_quorum_nothing_waits_and_cosignatures_are_added(database: Database, stand: Stand) -> None:
    await stand.add()
    async with gateway(database, stand) as gate:
        size = await gate.append()

        def cosigned() -> bool:
            served = gate.published.served
            return served is not None and served.size >= size and stand.known[0].name.encode() in served.note

        await until(cosigned)
        await stand.away(0)
        size = await gate.append()
        await until(lambda: gate.size >= size)


async def test_another_gateway_goes_on_where_the_first_left_off(database: Database, stand: Stand) -> None:
    await stand.add()
    async with gateway(database, stand, quorum=1) as first:
        size = await first.append(3)
        await until(lambda: first.size >= size)
        async with gateway(database, stand, quorum=1, name="h") as second:
            await until(lambda: second.size >= size)
            size = await second.append(3)
            await until(lambda: first.size >= size and second.size >= size)
            await first.publisher.stop()
            size = await second.append(3)
            await until(lambda: first.size >= size and second.size >= size)
            assert second.ledger.halted is None


async def test_a_checkpoint_nobody_has_cosigned_is_cosigned_after_a_restart(database: Database, stand: Stand) -> None:
    await stand.add()
    await stand.away(0)
    async with gateway(database, stand, quorum=1) as gate:
        size = await gate.append(3)
        await until(lambda: metrics.LOG_UNPUBLISHED._value.get() > 0)
        await asyncio.sleep(0.2)
        assert gate.size == 0
    await stand.bring(0)
    async with gateway(database, stand, quorum=1) as gate:
        await until(lambda: gate.size >= size)


async def test_where_witnesses_are_required_the_log_waits_for_them(database: Database, stand: Stand) -> None:
    await stand.add()
    async with gateway(database, stand, quorum=1, required=True, max_age_s=0.4) as gate:
        size = await gate.append()
        await until(lambda: gate.size >= size)
        await stand.away(0)
        size = await gate.append()
        await until(lambda: gate.ledger.paused is not None)
        with pytest.raises(LedgerUnavailable, match="paused"):
            await gate.append()
        await stand.bring(0)
        await until(lambda: gate.ledger.paused is None)
        assert gate.size >= size
        await gate.append()


async def test_a_pause_stays_while_the_database_is_away(database: Database, stand: Stand) -> None:
    await stand.add()
    await stand.away(0)
    async with gateway(database, stand, quorum=1, required=True, max_age_s=0.1) as gate:
        await until(lambda: gate.ledger.paused is not None)
        await gate.watch.stop()
        gate.watch._pool.terminate()
        with pytest.raises((asyncpg.InterfaceError, OSError)):
            await gate.watch.look()
        assert gate.ledger.paused is not None


async def test_a_restored_database_is_noticed_by_a_witness_alone(
    database: Database, stand: Stand, owner: asyncpg.Connection
) -> None:
    """No anchor file, no quorum: the witness's memory is all there is."""
    await stand.add()
    async with gateway(database, stand) as gate:
        size = await gate.append(10)
        await until(lambda: lag(stand.known[0].name) == 0 and gate.size >= size)
        size = await gate.append(10)
        await until(lambda: lag(stand.known[0].name) == 0 and gate.size >= size)
    older = await owner.fetchval("SELECT max(size) FROM tollgate.log_checkpoint WHERE size <= 12")
    await rewind(owner, older)
    async with gateway(database, stand, name="without-anchor") as gate:
        await until(lambda: gate.ledger.halted is not None)
        assert gate.ledger.halted is not None
        assert "witness w0.example.net/w holds a checkpoint" in gate.ledger.halted
        assert "log recover" in gate.ledger.halted
        with pytest.raises(LedgerUnavailable):
            await gate.append()


async def test_a_log_rewritten_with_its_own_key_is_noticed_by_a_witness(
    database: Database, stand: Stand, owner: asyncpg.Connection
) -> None:
    """The lying server: entries changed, every checkpoint made again and signed with the log's key, and longer."""
    await stand.add()
    async with gateway(database, stand) as gate:
        size = await gate.append(10)
        await until(lambda: lag(stand.known[0].name) == 0 and gate.size >= size)
    await owner.execute("UPDATE tollgate.log_entry SET leaf_hash = sha256(leaf_hash) WHERE idx = 4")
    for table in ("log_checkpoint", "log_cosignature", "log_tile"):
        await owner.execute(f"DELETE FROM tollgate.{table}")
    async with gateway(database, stand, name="without-anchor") as gate:
        with contextlib.suppress(LedgerUnavailable):  # it may be noticed before there is anything more
            await gate.append(5)
        await until(lambda: gate.ledger.halted is not None)
        assert gate.ledger.halted is not None
        assert "holds another root of size" in gate.ledger.halted


@pytest.mark.parametrize("signed_by", ["nobody we know", "the witness alone"])
async def test_a_witness_that_lies_cannot_stop_the_log(
    database: Database, stand: Stand, signed_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 409 with an enormous size and shows a checkpoint of it. The log's signature is missing."""
    await stand.add()
    other = Ed25519PrivateKey.generate()
    text = Checkpoint(ORIGIN, 10**9, bytes(32)).text
    lie = sign(text, Signer(ORIGIN, other))
    if signed_by == "the witness alone":
        lie = Note(text, (Cosigner(stand.known[0].name, other).cosign(text, 5),))
    shown = 0

    async def latest(*_: object) -> Note:
        nonlocal shown
        shown += 1
        return lie

    async def refuse(*_: object) -> None:
        raise witnesses.WitnessFailed("conflict", disagrees=True)

    monkeypatch.setattr(witnesses.Link, "latest", latest)
    monkeypatch.setattr(witnesses.Link, "cosign", refuse)
    async with gateway(database, stand) as gate:
        size = await gate.append(3)
        await until(lambda: gate.size >= size and shown > 1)
        await gate.append(3)
        assert gate.ledger.halted is None


async def test_a_late_answer_about_an_older_checkpoint_is_no_contradiction(database: Database, stand: Stand) -> None:
    """Two publishers one after the other: the first asks about less than the witness has seen of the second."""
    await stand.add()
    async with gateway(database, stand) as gate:
        size = await gate.append(5)
        await until(lambda: gate.size >= size and lag(stand.known[0].name) == 0)
        await gate.publisher.stop()
        before = metrics.LOG_WITNESS_CONTRADICTIONS.labels(stand.known[0].name)._value.get()
        await published_once(gate.publisher)
        older = Checkpoint(ORIGIN, 3, bytes(32))
        late = Witnesses(stand.known)
        signer = await asyncio.to_thread(stand.keys.signer, ORIGIN)
        found: list[bool] = []

        async def contradicted(name: str, note: Note) -> bool:
            found.append(await gate.publisher._contradicted(name, note))
            return found[-1]

        async def nothing(*_: object) -> list[bytes]:
            return []

        await late.cosign(str(sign(older.text, signer)).encode(), 3, nothing, nothing, contradicted)  # type: ignore[arg-type]
        await late.close()
        assert found == [True]
        assert metrics.LOG_WITNESS_CONTRADICTIONS.labels(stand.known[0].name)._value.get() == before
