"""Appending and reading back, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from proxy.ledger.model import Entry, Kind
from proxy.ledger.service import Ledger
from tests.conftest import Database
from tests.support.ledger import intent, open_ledger, standing


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with open_ledger(database.config) as log:
        yield log


async def test_an_entry_comes_back_as_it_was_written(ledger: Ledger, owner: asyncpg.Connection) -> None:
    access = uuid4()
    entry = Entry(
        Kind.ACCESS_OUTCOME,
        actor={"client_id": "example-carrier-a"},
        request={"number": "+12025550123"},
        outcome={"rows": 3, "ids": [[1, 2], [7, 9]], "big": 2**60},
        access_id=access,
    )
    placed = await ledger.append(entry)
    (read,) = await ledger.read()
    assert (read.index, read.entry_id, read.at, read.kind) == (0, entry.entry_id, placed.at, Kind.ACCESS_OUTCOME)
    assert read.actor == entry.actor
    assert read.request == entry.request
    assert read.outcome == {"rows": 3, "ids": [[1, 2], [7, 9]], "big": str(2**60)}
    assert read.access_id == access
    assert await standing(owner) == [entry.entry_id]


async def test_two_gateways_make_one_contiguous_log(database: Database, owner: asyncpg.Connection) -> None:
    async with open_ledger(database.config) as one, open_ledger(database.config) as two:
        placed = await asyncio.gather(*(log.append(intent()) for _ in range(500) for log in (one, two)))
    assert sorted(p.index for p in placed) == list(range(1000))
    ids = await standing(owner)
    assert [p.entry_id for p in sorted(placed, key=lambda p: p.index)] == ids
