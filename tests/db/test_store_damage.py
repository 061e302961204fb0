"""A roll would wash a loss away: a damaged run is refused, and a run changed before it was rolled is found after."""

from __future__ import annotations

import asyncpg
import pytest

from keys.errors import SealError
from proxy.store.writer import StoreDamagedError
from tests.conftest import Database
from tests.support.store import calls, open_store

LOSS = (
    "WITH b AS (DELETE FROM tollgate.batch RETURNING batch_id)"
    " DELETE FROM tollgate.batch_leg l USING b WHERE l.batch_id = b.batch_id"
)
PIECE_LOSS = "DELETE FROM tollgate.staging WHERE run_id = (SELECT min(run_id) FROM tollgate.staging)"
FLIP = "UPDATE tollgate.batch SET timing = set_byte(timing, 100, get_byte(timing, 100) # 1)"


@pytest.mark.parametrize("deed", [LOSS, FLIP])
async def test_a_damaged_run_is_not_rolled(database: Database, owner: asyncpg.Connection, deed: str) -> None:
    async with open_store(database.config, database.config.home) as store:
        await store.add(calls(range(10)))
        await owner.execute(deed)
        before = await store.check()
        assert before
        await store.ingest(calls(range(20, 40)))
        with pytest.raises((StoreDamagedError, SealError)):
            await store.roll()
        assert await store.check() == before


async def test_a_lost_piece_gives_no_record_another_id(database: Database, owner: asyncpg.Connection) -> None:
    async with open_store(database.config, database.config.home) as store:
        await store.ingest(calls(range(10)))
        await owner.execute(PIECE_LOSS)
        with pytest.raises(StoreDamagedError, match="is missing"):
            await store.roll()


async def test_a_run_changed_before_it_was_rolled_is_found_after(database: Database, owner: asyncpg.Connection) -> None:
    """Whoever can change a batch can change its manifest too, and the roll then goes through: the log still knows."""
    async with open_store(database.config, database.config.home) as store:
        await store.add(calls(range(10)))
        await owner.execute(LOSS)
        await owner.execute("UPDATE tollgate.run SET manifest = '', rows = 0")
        await store.ingest(calls(range(20, 40)))
        await store.roll()
        findings = await store.check()
        assert any("before it was replaced" in f for f in findings), findings
