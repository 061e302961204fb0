"""What was shown in a case is counted like what was shown to a client: exactly, also where the extraction died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.disclosure.filling import Filling
from proxy.policy.extraction import Extraction
from schema.roles import Role
from tests.conftest import Database
from tests.support import exposure
from tests.support.held import EVERYTHING, HANDLER, Ordered, add_case, new_case, order
from tests.support.store import call, calls, number, unmapped_profile


@dataclass
class Desk:
    """The privacy officer's desk, and the legal one."""

    privacy: exposure.Desk
    extractions: Ordered
    owner: asyncpg.Connection

    async def extract(self, *texts: str, **change: Any) -> Extraction:
        return await self.extractions.extract(order(await add_case(self.owner, new_case()), *texts, **change))

    async def ids(self, done: Extraction) -> set[int]:
        return {n async for t in self.extractions.read_hold(done.hold_id) for n in t.column("record_id").to_pylist()}


@pytest.fixture
async def desk(database: Database, owner: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Desk]:
    async with (
        exposure.open_desk(database.config, tmp_path) as privacy,
        asyncpg.create_pool(database.config.role_url(Role.LEGAL), min_size=1, max_size=4) as pool,
    ):
        store = privacy.store
        extractions = Ordered(owner, pool, store.keys, store.ledger, store.executor, piece_rows=8, progress_rows=20)
        yield Desk(privacy, extractions, owner)
        await extractions.close()


async def test_counted_by_case_and_by_staff(desk: Desk, tmp_path: Path) -> None:
    """Every carrier's records, and those of no carrier yet; a preservation shows nothing."""
    store = desk.privacy.store
    await store.add(calls(range(50), called=number(9)))
    await store.add(calls(range(50, 70), called=number(9), ingress="999Z", egress="none"))
    await store.add([call(80, called=number(9), egress="", egress_trunk="trunk-out-789C")], unmapped_profile(tmp_path))
    kept = await desk.extract(number(9), fields=EVERYTHING, preserve=True)
    done = await desk.extract(number(9))
    assert done.rows == kept.rows == 71
    count = await desk.privacy.count("case", done.case_id)
    assert set(count.records) == await desk.ids(done)
    shown = count.as_json()
    assert shown["complete"]
    assert shown["subscribers"]["exact"] == 71  # number 9, and 70 others that called it (it called itself once)
    assert shown["clients"] == {HANDLER.staff_id: 1}
    assert shown["classes"]["parties"] == 71
    assert "ingress_leg" not in shown["classes"]
    by_staff = await desk.privacy.count("staff", HANDLER.staff_id)
    assert set(by_staff.records) == set(count.records)
    assert not len((await desk.privacy.count("case", kept.case_id)).records)


async def test_one_that_died_counts_with_all_that_its_scope_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an outcome: the targets stand in the intent, so it is exact, and never too few."""
    store = desk.privacy.store
    await store.add(calls(range(60), called=number(9)))
    await store.add(calls(range(60, 90)))
    write = Filling.write

    async def dies(self: Filling, table: Any) -> None:
        if self.state.pieces == 4:
            raise TimeoutError
        await write(self, table)

    monkeypatch.setattr(Filling, "write", dies)
    monkeypatch.setattr("proxy.disclosure.extract.RETRY_S", ())
    for text, fields in ((number(9), EVERYTHING), ("trunk:trunk-in-123A", EVERYTHING)):
        left = await desk.extract(text, fields=fields)
        assert (left.state, left.rows) == ("running", 32)
        count = await desk.privacy.count("case", left.case_id)
        assert count.as_json()["accesses"]["without_outcome"] == 1
        # A trunk stands in a class that the privacy officer's role does not open: then whatever the window holds.
        assert len(count.records) == (60 if text == number(9) else 90)
    monkeypatch.undo()
    await desk.extractions.resume()
    done = await desk.extractions.wait(left.hold_id)
    count = await desk.privacy.count("case", done.case_id)
    assert set(count.records) == await desk.ids(done)
    assert count.as_json()["accesses"]["without_outcome"] == 0


async def test_a_month_can_be_frozen_with_what_a_case_was_shown(desk: Desk) -> None:
    store = desk.privacy.store
    await store.add(calls(range(40), called=number(9)))
    await desk.privacy.pull(ocns=("456B",), number=number(9))
    done = await desk.extract(number(9))
    before = await desk.privacy.count("case", done.case_id)
    _, freezer = desk.privacy.tools()
    frozen = await freezer.freeze(exposure.OFFICER, 202607, "test")
    assert (frozen.accesses, frozen.records) == (2, 40)
    for cls in ("timing", "parties"):
        await desk.owner.execute("INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ($1, 202607)", cls)
    store.keys.forget()
    after = await desk.privacy.count("case", done.case_id)
    assert set(after.records) == set(before.records)
    assert after.as_json()["subscribers"]["exact"] == before.as_json()["subscribers"]["exact"]
