"""The log over HTTP: what auditors fetch, what a client is given of its own accesses, what shows when it is halted."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from keys.checkpoint import Checkpoint, read_checkpoint
from keys.notes import Note, VerifierKey, sign
from keys.signing import SigningKeys
from proxy.app import build
from proxy.client.log import LogCheck, LogMemory, compare
from proxy.client.transfer import NotProven, Part
from proxy.ledger import anchor, http, receipts, tiles, tree
from proxy.ledger.model import Kind
from proxy.ledger.publisher import LogKeys
from proxy.ledger.receipts import Receipt, ReceiptError
from tests.conftest import Database
from tests.support.api import Answer
from tests.support.gate import QUESTION, Gate, calls, gate
from tests.support.ledger import intent, until

ORIGIN = "gate.example/log"


@pytest.fixture
async def world(database: Database) -> AsyncIterator[Gate]:
    async with gate(database) as running:
        await running.ingest(calls(20, "123A", "456B"))
        yield running


async def _get(world: Gate, path: str) -> Answer:
    async with world.http.get(world.gateway.url + path) as response:
        return Answer(response.status, response.headers, await response.read())


async def _key(world: Gate) -> VerifierKey:
    return VerifierKey.from_jwk(ORIGIN, SigningKeys(world.config.keyring_dir).all_public("log")[0])


async def _published(world: Gate, size: int | None = None) -> Note:
    """The checkpoint, once it covers ``size`` entries (default: all that stand)."""
    wanted = await world.ledger.size() if size is None else size

    async def covers() -> bool:
        answer = await _get(world, "/log/checkpoint")
        return answer.status == 200 and int(answer.body.split(b"\n")[1]) >= wanted

    await until(covers)
    return Note.parse((await _get(world, "/log/checkpoint")).body)


# -- what auditors fetch


async def test_an_append_is_published_within_a_second(world: Gate) -> None:
    await _published(world)
    slowest = 0.0
    for _ in range(4):
        appended = await world.ledger.append(intent())
        started = time.monotonic()
        await _published(world, appended.index + 1)
        slowest = max(slowest, time.monotonic() - started)
    assert slowest <= 1.0


async def test_the_whole_log_can_be_checked_from_what_is_served(world: Gate, owner: asyncpg.Connection) -> None:
    async with owner.transaction():
        await world.ledger.append_in(owner, [intent(n=n) for n in range(600)])
    note = await _published(world)
    checkpoint = read_checkpoint(note, await _key(world), ORIGIN)
    leaves: list[bytes] = []
    for index in range(checkpoint.size // 256 + 1):
        width = tiles.width_at(checkpoint.size, 0, index)
        path = tiles.Tile(0, index, width).path
        hashes = await _get(world, f"/log/tile/0/{path}")
        bundle = await _get(world, f"/log/tile/entries/{path}")
        for answer in (hashes, bundle):
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert len(bundle.body) == width * 34
        entries = [bundle.body[at : at + 34] for at in range(0, len(bundle.body), 34)]
        assert all(entry[:2] == b"\x00\x20" for entry in entries)
        assert hashes.body == b"".join(tree.leaf_hash(entry[2:]) for entry in entries)
        leaves += tiles.hashes_of(hashes.body)
    assert tree.root(leaves) == checkpoint.root
    above = await _get(world, "/log/tile/1/000.p/2")
    assert above.body == tree.root(leaves[:256]) + tree.root(leaves[256:512])
    headers = [row["header"] for row in await owner.fetch("SELECT header FROM tollgate.log_entry ORDER BY idx")]
    assert leaves == [tree.leaf_hash(hashlib.sha256(header).digest()) for header in headers[: len(leaves)]]
    # Any narrower cut of a tile that is there, too (a checkpoint of that size may have been served once).
    assert (await _get(world, "/log/tile/0/000.p/7")).body == b"".join(leaves[:7])
    assert (await _get(world, "/log/tile/0/001.p/255")).body == b"".join(leaves[256:511])


async def test_the_checkpoint_is_a_note_that_is_kept_for_a_moment_only(world: Gate) -> None:
    await _published(world)
    answer = await _get(world, "/log/checkpoint")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=1"
    lines = answer.body.decode().split("\n")
    assert lines[0] == ORIGIN
    assert lines[3] == ""  # no extension lines
    async with world.http.post(world.gateway.url + "/log/checkpoint") as response:
        assert response.status == 405


NOT_COVERED = (
    "0/000", "0/000.p/256", "0/000.p/0", "0/000.p/01", "0/001.p/1", "1/000.p/1", "8/000.p/1", "00/000.p/1",
    "-1/000.p/1", "x/000.p/1", "0/0", "0/x000/000.p/1", "entries/000", "entries/000.p/255", "entries/",
    "0/%30%30%30.p%2F255", "0/999999999999999999999", "٣/000.p/1", "0/" + "x999/" * 40 + "999",
)  # fmt: skip


async def test_what_no_checkpoint_covers_is_not_there(world: Gate) -> None:
    note = await _published(world)
    assert int(note.text.split("\n")[1]) < 255
    for path in NOT_COVERED:
        answer = await _get(world, f"/log/tile/{path}")
        assert answer.status == 404, path
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_query_is_no_way_round_a_cache(world: Gate) -> None:
    await _published(world)
    for path in ("/log/checkpoint?x=1", "/log/tile/0/000.p/1?x=1"):
        assert (await _get(world, path)).code == "parameter"


# -- receipts


async def _receipt(world: Gate, access_id: str, carrier: str = "carrier-a") -> Answer:
    peer = await world.peer(carrier)
    return await world.ask(peer, "GET", f"/v1/accesses/{access_id}/proof")


async def test_a_client_is_given_what_the_log_holds_of_its_pull(world: Gate, owner: asyncpg.Connection) -> None:
    answer = await world.ask(await world.peer(), "GET", QUESTION)
    access_id = answer.headers["Access-Id"]
    given = await _receipt(world, access_id)
    assert given.status == 200
    assert given.headers["Content-Type"] == receipts.MEDIA_TYPE
    assert given.headers["Cache-Control"] == "no-store"
    receipt = receipts.verify(given.body, [await _key(world)])
    assert str(receipt.access_id) == access_id
    intent_, outcome = receipt.entries
    assert (intent_.kind, outcome.kind) == (Kind.ACCESS_INTENT, Kind.ACCESS_OUTCOME)
    assert intent_.actor is not None
    assert intent_.actor["client_id"] == "client-of-carrier-a"
    assert outcome.outcome is not None
    assert outcome.outcome["sha256"] == hashlib.sha256(answer.body).hexdigest()
    assert outcome.outcome["rows"] == 20
    # What the store knows of it is committed to, and not shown: neither record ids nor sequence numbers.
    assert intent_.records is None
    assert b'"records"' not in b"".join(
        text.encode() for entry in given.json["entries"] for text in entry["openings"].values()
    )
    part = Part(access_id, None, "complete", 20, len(answer.body), hashlib.sha256(answer.body).hexdigest())
    compare(receipt, "client-of-carrier-a", part)
    looks = [e.request for e in await world.entries(Kind.LOG_READ)]
    assert looks == [{"what": "proof", "access_id": access_id}], "the look is on record"


async def test_a_refused_access_has_its_receipt_too(world: Gate) -> None:
    # A window before the agreement: denied by the policy, and logged.
    denied = await world.ask(await world.peer(), "GET", "/v1/cdrs?from=2019-01-01T00:00:00Z&to=2019-01-02T00:00:00Z")
    assert denied.status == 403
    given = await _receipt(world, denied.headers["Access-Id"])
    receipt = receipts.verify(given.body, [await _key(world)])
    assert [entry.kind for entry in receipt.entries] == [Kind.ACCESS_DENIED]
    request = receipt.entries[0].request
    assert request is not None
    assert request["decision"] == "deny"
    assert request["reason"] == denied.json["reason"]


async def test_nobody_is_given_anothers_receipt(world: Gate) -> None:
    answer = await world.ask(await world.peer(), "GET", QUESTION)
    access_id = answer.headers["Access-Id"]
    for path in (access_id, "00000000-0000-0000-0000-000000000000", "nonsense", access_id.upper()):
        refused = await _receipt(world, path, "carrier-b")
        assert refused.status == 404
    async with world.http.get(f"{world.gateway.url}/v1/accesses/{access_id}/proof") as response:
        assert response.status == 401


# -- halted


async def test_a_gateway_on_a_restored_database_starts_and_serves_nothing(
    world: Gate, database: Database, owner: asyncpg.Connection
) -> None:
    await world.ask(await world.peer(), "GET", QUESTION)
    await _published(world)
    note = anchor.read(world.config.log_dir)
    assert note is not None
    await owner.execute("DELETE FROM tollgate.log_entry WHERE idx >= 5")
    await owner.execute("DELETE FROM tollgate.log_checkpoint WHERE size > 5")
    await owner.execute("UPDATE tollgate.log_head SET size = 5")
    # The running one notices in its next round.
    await until(lambda: _not_ready(world))
    answer = await world.ask(await world.peer(), "GET", QUESTION)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (await _get(world, "/log/checkpoint")).status == 503
    assert (await _get(world, "/log/tile/0/000.p/1")).status == 404
    metrics = await _metrics(world)
    assert "tollgate_log_halted 1.0" in metrics
    # And one that is started anew does not begin, though it listens: health says so.
    again = await build(world.config)
    await again.start()
    try:
        async with world.http.get(again.metrics_url + "/readyz") as response:
            assert response.status == 503
            assert (await response.json())["checks"]["log_published"] == "failed"
        async with world.http.get(again.url + "/log/checkpoint") as response:
            assert response.status == 503
    finally:
        await again.stop(0)
    assert anchor.read(world.config.log_dir) == note, "the anchor stays what it was"


async def _not_ready(world: Gate) -> bool:
    async with world.http.get(world.gateway.metrics_url + "/readyz") as response:
        return response.status == 503


async def _metrics(world: Gate) -> str:
    async with world.http.get(world.gateway.metrics_url + "/metrics") as response:
        return await response.text()


# -- the client's side: a carrier that does not keep its word


class _Carrier:
    """What a LogCheck needs of a session: a carrier's answers, also false ones."""

    issuer = "https://gate.example"

    def __init__(self, world: Gate, receipt: bytes) -> None:
        self._world = world
        self._receipt = receipt

    async def get_bytes(self, path: str, most: int) -> bytes:
        return self._receipt

    async def get_public(self, path: str, most: int) -> bytes:
        return (await _get(self._world, path)).body


async def test_a_client_that_verifies_keeps_checkpoints_and_sees_a_rewritten_log(
    world: Gate, owner: asyncpg.Connection
) -> None:
    folder, peer = world.config.home, await world.peer()
    memory = LogMemory(folder / "logs.json")
    key = await _key(world)

    async def verified(keys: list[VerifierKey], client: str = peer.client_id, **change: object) -> LogCheck:
        answer = await world.ask(peer, "GET", QUESTION)
        access_id = answer.headers["Access-Id"]
        digest = hashlib.sha256(answer.body).hexdigest()
        said = {"rows": 20, "bytes": len(answer.body), "sha256": digest} | change
        part = Part(access_id, None, "complete", **said)  # type: ignore[arg-type]
        carrier = _Carrier(world, (await _receipt(world, access_id)).body)
        check = LogCheck(carrier, client, memory, keys, [], folder / "out.csv")  # type: ignore[arg-type]
        await check([part])
        return check

    first = await verified([])
    assert first.first_seen == str(key), "taken on trust, and said so"
    assert (folder / "out.csv.receipt.json").exists()
    second = await verified([])
    assert second.first_seen is None
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert second.checkpoint.size > first.checkpoint.size
    for change in ({"rows": 21}, {"bytes": 1}, {"sha256": "00" * 32}):
        with pytest.raises(NotProven, match="other rows, bytes or SHA-256"):
            await verified([key], **change)
    with pytest.raises(NotProven, match="this client's"):
        await verified([key], client="client-of-carrier-b")
    # A log of the same key in which what was shown before never stood.
    known = memory.get(_Carrier.issuer)
    assert known is not None
    signer = LogKeys(SigningKeys(world.config.keyring_dir)).signer(ORIGIN)
    for size in (3, second.checkpoint.size, 200):
        rewritten = str(sign(Checkpoint(ORIGIN, size, hashlib.sha256(b"another").digest()).text, signer))
        memory.put(_Carrier.issuer, type(known)(known.vkey, rewritten))
        with pytest.raises(NotProven, match="does not continue"):
            await verified([key])


def test_a_receipt_without_intent_or_with_two_outcomes_is_no_proof() -> None:
    part = Part(str(UUID(int=1)), None)
    with pytest.raises(ReceiptError, match="one intent and one outcome"):
        compare(Receipt(UUID(int=1), None, "", (), ()), "a", part)  # type: ignore[arg-type]
    with pytest.raises(ReceiptError, match="another access"):
        compare(Receipt(UUID(int=2), None, "", (), ()), "a", part)  # type: ignore[arg-type]


def test_waiting_is_bounded() -> None:
    async def run() -> None:
        class Pool:
            def acquire(self) -> object:
                raise AssertionError("not reached")

        files = http.LogFiles(None, Pool())  # type: ignore[arg-type]
        files._waiting = http.WAITING_MAX
        with pytest.raises(http.Problem) as refused:
            async with files._conn():
                pass
        assert refused.value.kind.status == 503

    asyncio.run(run())
