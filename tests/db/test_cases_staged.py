"""Records that were taken in and could not be searched yet: said at the review, in the case and in the certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from proxy.ledger.model import Kind
from proxy.legal.model import Malformed
from tests.conftest import Database
from tests.support.cases import Services, services


@pytest.fixture
async def s(database: Database, owner: asyncpg.Connection) -> AsyncIterator[Services]:
    async with services(database, owner) as made:
        yield made


async def test_what_was_staged_at_extraction_is_said_wherever_somebody_relies_on_it(s: Services) -> None:
    case = await s.extracted()
    assert case.hold_id is not None
    s.extractor.states[case.hold_id] = replace(
        s.extractor.states[case.hold_id], as_of=4_711, staged=5, gone=((202601, ("location",)),)
    )
    _, shown = await s.desk.reading.as_json(case.case_id)
    assert (shown["extraction"]["complete_to"], shown["extraction"]["staged"]) == ("4711", 5)
    case = await s.desk.extracting.review(s.handler, case.case_id, case.version, 7, "")
    entries = await s.ledger.read_last(limit=20)
    told = next(e.request for e in entries if e.kind is Kind.CASE_STATE and (e.request or {}).get("action") == "review")
    assert told is not None
    assert (told["complete_to"], told["staged"]) == ("4711", 5)
    releasing = s.desk.releasing
    with pytest.raises(Malformed):
        await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "nobody"})
    await s.owner.execute(
        "INSERT INTO tollgate.staff_suspension (staff_id, suspended_by) VALUES ('both-2', 'operator-1')"
    )
    with pytest.raises(Malformed):
        await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-2"})
    case = await releasing.produce(s.handler, case.case_id, case.version, {"custodian": "both-1"})
    await releasing.make()
    assert case.production_id is not None
    note = s.maker.drafts[case.production_id].access_note
    assert "up to record number 4,711. 5 further records had been taken in by then" in note
    assert "2026-01 (location)" in note
