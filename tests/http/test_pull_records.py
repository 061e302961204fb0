"""A pull from files to rows through everything: what a peer sees, and what it never sees."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import date, timedelta

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proxy.ledger.model import Kind
from proxy.registry.model import OcnOwnership
from schema.fields import OCN_UNMAPPED
from tests.conftest import Database
from tests.support.gate import OCTOBER, QUESTION, Gate, calls, gate


@pytest.fixture
async def world(database: Database) -> AsyncIterator[Gate]:
    async with gate(database) as running:
        yield running


async def test_each_side_sees_its_own_leg_and_nothing_of_the_other(world: Gate) -> None:
    await world.ingest([*calls(7, "123A", "456B"), *calls(5, "456B", "123B"), *calls(3, "456B", "789C")])
    a, b, c = [await world.peer(f"carrier-{x}") for x in "abc"]
    seen = await world.pull(a)
    assert len(seen) == 12
    for row in seen:
        own, other = ("ingress", "egress") if row["ingress_ocn"] else ("egress", "ingress")
        assert row[f"{own}_ocn"] in ("123A", "123B")
        assert row[f"{own}_trunk"]
        assert row[f"{own}_rate"] is not None
        assert not [k for k, v in row.items() if k.startswith(other) and v is not None]
    text = json.dumps(seen)
    for secret in ("456B", "789C"):
        assert secret not in text
    assert len(await world.pull(b)) == 15
    assert len(await world.pull(c)) == 3
    ids = [{row["record_id"] for row in await world.pull(p)} for p in (a, b)]
    assert all(len(i) == 32 for one in ids for i in one)
    assert not ids[0] & ids[1], "two peers of one call could compare its ids"


@pytest.mark.parametrize(("direction", "count"), [("ingress", 7), ("egress", 5), ("both", 12)])
async def test_directions(world: Gate, direction: str, count: int) -> None:
    await world.ingest([*calls(7, "123A", "456B"), *calls(5, "456B", "123B")])
    rows = await world.pull(await world.peer(), QUESTION + f"&direction={direction}")
    assert len(rows) == count
    if direction != "both":
        other = "egress" if direction == "ingress" else "ingress"
        assert not [k for k in rows[0] if k.startswith(other)]


async def test_windows_are_half_open_to_the_microsecond(world: Gate) -> None:
    await world.ingest(calls(10, "123A", "456B"))
    peer = await world.peer()
    path = "/v1/cdrs?from=2026-10-01T00:03:00Z&to=2026-10-01T00:06:00Z"
    assert [r["started_at"] for r in await world.pull(peer, path)] == [
        f"2026-10-01T00:0{i}:00.000000Z" for i in (3, 4, 5)
    ]
    later = "/v1/cdrs?from=2026-10-01T00:03:00.000001Z&to=2026-10-01T00:05:00.000001Z"
    assert len(await world.pull(peer, later)) == 2


async def test_a_call_is_its_owners_at_the_time(world: Gate, database: Database) -> None:
    """An OCN that passed from B to A in mid-month: each sees its own days, nobody the other's."""
    await world.registry.end_ocn(world.operator, "carrier-b", "456B", date(2026, 10, 11), "sold")
    await world.registry.add_ocn(world.operator, OcnOwnership("456B", "carrier-a", date(2026, 10, 11)))
    days = [OCTOBER + timedelta(days=i, hours=12) for i in range(31)]
    await world.ingest([row for day in days for row in calls(1, "456B", "789C", day)])
    seen = sorted(r["started_at"][:10] for r in await world.pull(await world.peer()))
    assert seen == [f"2026-10-{d:02d}" for d in range(11, 32)]


async def test_unmapped_and_unreached_legs(world: Gate, owner: asyncpg.Connection) -> None:
    await world.ingest([*calls(4, "123A", "none"), *calls(3, "123A", OCN_UNMAPPED), *calls(2, "123A", "456B")])
    rows = await world.pull(await world.peer())
    assert len(rows) == 6, "attempts that reached nobody are the ingress carrier's; unmapped calls are nobody's"
    assert "unmapped" not in json.dumps(rows)


async def test_every_form_holds_the_same_records(world: Gate) -> None:
    await world.ingest(calls(50, "123A", "456B"))
    peer = await world.peer()
    expected = [r["record_id"] for r in await world.pull(peer)]
    text = (await world.ask(peer, "GET", QUESTION, headers={"Accept": "text/csv"})).body.decode()
    assert [r["record_id"] for r in csv.DictReader(io.StringIO(text))] == expected
    arrow = await world.ask(peer, "GET", QUESTION, headers={"Accept": "application/vnd.apache.arrow.stream"})
    ids = pa.ipc.open_stream(arrow.body).read_all().column("record_id").to_pylist()
    assert [i.hex() for i in ids] == expected
    parquet = await world.ask(peer, "GET", QUESTION, headers={"Accept": "application/vnd.apache.parquet"})
    ids = pq.read_table(io.BytesIO(parquet.body)).column("record_id").to_pylist()
    assert [i.hex() for i in ids] == expected


async def test_a_search_finds_a_number_in_every_party_field_and_only_ones_own(world: Gate) -> None:
    number = "+12025550177"
    rows = calls(20, "123A", "456B", calling="+12025550111", called="+12025550112")
    for i, name in enumerate(("calling", "called", "dialed", "charge_number", "redirecting")):
        rows[i] |= {name: number}
    await world.ingest([*rows, *calls(4, "456B", "789C", calling=number)])
    found = await world.search(await world.peer(), number)
    assert len(found) == 5
    assert all(number in row.values() for row in found)
    assert len(await world.search(await world.peer("carrier-c"), number)) == 4
    assert await world.search(await world.peer(), "+12025550178") == []
    assert len(await world.search(await world.peer(), number, limit=2)) == 2


async def test_a_cursor_walks_through_rolling_without_loss_or_repeat(world: Gate) -> None:
    for _ in range(3):
        await world.ingest([*calls(9, "123A", "456B"), *calls(8, "456B", "123A")])
    peer = await world.peer()
    whole = [r["record_id"] for r in await world.pull(peer)]
    assert len(whole) == 51
    walked: list[str] = []
    path: str | None = QUESTION + "&limit=7"
    while path:
        answer = await world.ask(peer, "GET", path)
        walked += [json.loads(line)["record_id"] for line in answer.body.splitlines()]
        cursor = answer.headers.get("Next-Cursor")
        path = f"/v1/cdrs?cursor={cursor}&limit=7" if cursor else None
        # Between any two pages the store takes in more and rolls what it has.
        await world.ingest([*calls(2, "123A", "456B"), *calls(1, "456B", "123A")])
    assert len(walked) == len(whole)
    assert set(walked) == set(whole)


async def test_late_records_are_given_once(world: Gate) -> None:
    peer = await world.peer()
    await world.ingest(calls(10, "123A", "456B"))
    first = await world.ask(peer, "GET", QUESTION)
    await world.ingest(calls(6, "123A", "456B"), rolled=False)
    mark = first.headers["Complete-To"]
    waiting = await world.ask(peer, "GET", QUESTION + f"&received_after={mark}")
    assert waiting.body == b"", "what is staged is not readable, and Complete-To does not pass it"
    await world.roll()
    mark = waiting.headers["Complete-To"]
    late = await world.ask(peer, "GET", QUESTION + f"&received_after={mark}")
    assert len(late.body.splitlines()) == 6
    again = await world.ask(peer, "GET", QUESTION + f"&received_after={late.headers['Complete-To']}")
    assert again.body == b""


async def test_a_tokens_narrowing_is_enforced(world: Gate) -> None:
    await world.ingest([*calls(3, "123A", "456B"), *calls(2, "123B", "456B"), *calls(4, "456B", "123A")])
    peer = await world.peer()
    details = {"type": "cdr_billing", "ocns": ["123A"], "directions": ["ingress"], "classes": ["timing", "ingress_leg"]}
    form = {"authorization_details": json.dumps([details])}
    rows = await world.pull(peer, form=form)
    assert len(rows) == 3
    assert "calling" not in rows[0]
    assert {r["ingress_ocn"] for r in rows} == {"123A"}
    answer = await world.ask(peer, "GET", QUESTION + "&direction=both", form=form)
    assert (answer.status, answer.json["reason"]) == (403, "direction.outside_grant")
    details = {"type": "cdr_billing", "window": {"from": "2026-10-01T00:00:00Z", "to": "2026-10-02T00:00:00Z"}}
    form = {"authorization_details": json.dumps([details])}
    answer = await world.ask(peer, "GET", QUESTION, form=form)
    assert (answer.status, answer.json["reason"]) == (403, "window.outside_grant")
    denied = await world.entries(Kind.ACCESS_DENIED)
    assert [e.request["reason"] for e in denied] == ["direction.outside_grant", "window.outside_grant"]


async def test_the_outcome_names_the_records(world: Gate, owner: asyncpg.Connection) -> None:
    await world.ingest([*calls(5, "456B", "789C"), *calls(7, "123A", "456B")])
    await world.pull(await world.peer())
    (outcome,) = await world.entries(Kind.ACCESS_OUTCOME)
    records = outcome.records["records"]
    batch = await owner.fetchrow(
        "SELECT first_record_id, last_record_id FROM tollgate.batch WHERE ingress_ocn = $1", int("123A", 36)
    )
    assert records["rows"] == 7
    assert (records["first"], records["last"]) == (str(batch["first_record_id"]), str(batch["last_record_id"]))
    assert sum(int(b) - int(a) + 1 for a, b in records["runs"]) == 7


async def test_revoked_and_disabled_are_dead_at_once(world: Gate) -> None:
    await world.ingest(calls(3, "123A", "456B"))
    peer = await world.peer()
    assert len(await world.pull(peer)) == 3
    await world.registry.disable_client(world.operator, peer.client_id, "left")
    answer = await world.ask(peer, "GET", QUESTION)
    assert (answer.status, answer.code) == (401, "credentials")


async def test_a_days_rows_are_taken_exactly(world: Gate, owner: asyncpg.Connection) -> None:
    await world.ingest(calls(40, "123A", "456B"))
    peer = await world.peer(client_id="small", rows_per_day=100)
    for _ in range(2):
        assert len(await world.pull(peer)) == 40
    answer = await world.ask(peer, "GET", QUESTION)
    assert (answer.status, answer.code) == (429, "quota")
    assert len(await world.pull(peer, QUESTION + "&limit=20")) == 20
    answer = await world.ask(peer, "GET", QUESTION + "&limit=1")
    assert answer.status == 429


async def test_credentials_are_taken_only_as_a_bound_token_in_its_header(world: Gate) -> None:
    await world.ingest(calls(3, "123A", "456B"))
    peer = await world.peer()
    good = await world.headers(peer, "GET", QUESTION)
    token = good["Authorization"].removeprefix("DPoP ")
    bearer = (await world.headers(peer, "GET", QUESTION)) | {"Authorization": f"Bearer {token}"}
    assertion_as_token = peer.own_form()["client_assertion"]
    for path, headers, status in (
        (QUESTION, {}, 401),
        (QUESTION, {"Authorization": f"DPoP {token}"}, 401),
        (QUESTION, bearer, 401),
        (QUESTION, good | {"Authorization": f"DPoP {assertion_as_token}"}, 401),
        (QUESTION, good | {"Authorization": f"DPoP {good['DPoP']}"}, 401),
        (QUESTION + f"&access_token={token}", await world.headers(peer, "GET", QUESTION), 400),
        (QUESTION, await world.headers(peer, "POST", QUESTION), 401),
        (QUESTION, await world.headers(peer, "GET", "/v1/other"), 401),
        (QUESTION, good, 200),
        (QUESTION, good, 401),
    ):
        async with world.http.get(world.gateway.url + path, headers=headers) as response:
            assert response.status == status
            if status != 200:
                assert response.content_type == "application/problem+json"
                assert response.headers["WWW-Authenticate"].startswith("DPoP ")
                assert token not in await response.text()
    assert len(await world.entries(Kind.ACCESS_INTENT)) == 1
