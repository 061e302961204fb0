"""The reader: what a scope reaches, and nothing else; every place in an answer is a place to go on from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.disclosure import lookup as looking
from proxy.disclosure import reader as reading
from proxy.disclosure.scope import Position, Scope
from proxy.store import batches, tags
from proxy.store.batches import BATCHES_PER_RUN
from proxy.store.reseal import roll as rolling
from schema.fields import DisclosureClass, fields_of
from tests.conftest import Database
from tests.support.store import BOTH, JULY, Store, call, call_ids, calls, number, open_store, us

C = DisclosureClass
INGRESS = {f.name for f in fields_of(C.INGRESS_LEG)}
EGRESS = {f.name for f in fields_of(C.EGRESS_LEG)}


@pytest.fixture
async def store(database: Database, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(database.config, tmp_path) as made:
        yield made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many batches, chunks and pieces from few records."""
    monkeypatch.setattr(rolling, "BATCH_ROWS", 8)
    monkeypatch.setattr(rolling, "CHUNK_ROWS", 2)
    monkeypatch.setattr(batches.Table.seal, "__kwdefaults__", {**batches.Table.seal.__kwdefaults__, "chunk_rows": 2})
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 12)
    monkeypatch.setattr(looking, "CHUNKS_AT_ONCE", 9)
    monkeypatch.setattr(looking, "ROWS_AT_ONCE", 7)


WORLD = [
    *calls(range(10)),  # 123A → 456B
    *calls(range(10, 15), ingress="456B", egress="123A"),
    *calls(range(15, 18), ingress="123A", egress="123A"),
    *calls(range(18, 21), ingress="789C", egress="456B"),
    *calls(range(21, 23), ingress="123A", egress="none", egress_call_id="", egress_amount=""),
    *calls(range(23, 26), ingress="123A", egress="", egress_trunk="trunk-nowhere"),  # unmapped
    *calls(range(26, 28), ingress="", ingress_trunk="trunk-nowhere"),  # unmapped
]


async def test_carriers_and_sides(store: Store) -> None:
    await store.add(WORLD)
    ingress, egress = frozenset({"ingress"}), frozenset({"egress"})
    for ocns, sides, wanted in (
        (["123A"], BOTH, [*range(18), 21, 22]),
        (["123A"], ingress, [*range(10), 15, 16, 17, 21, 22]),
        (["123A"], egress, [*range(10, 18)]),
        (["456B"], BOTH, [*range(15), 18, 19, 20]),
        (["789C"], BOTH, [18, 19, 20]),
        (["789C"], egress, []),
        (["123A", "789C"], BOTH, [*range(23)]),
        (["unmapped"], BOTH, []),
        (["123A", "456B", "789C", "unmapped"], BOTH, [*range(23)]),
        (["999Z"], BOTH, []),
    ):
        rows = await store.pull(await store.scope(ocns, sides))
        assert sorted(call_ids(rows)) == wanted, (ocns, sides)
        for row in rows:
            own = {row.get("ingress_ocn"), row.get("egress_ocn")} - {None}
            assert own <= set(ocns)


async def test_the_other_legs_columns_never_come(store: Store) -> None:
    await store.add(WORLD)

    def filled(row: dict[str, Any], names: set[str]) -> set[str]:
        return {n for n in names if row.get(n) is not None}

    rows = {i: r for r in await store.pull() for i in call_ids([r])}
    for i in range(10):
        assert rows[i]["ingress_ocn"] == "123A"
        assert not filled(rows[i], EGRESS)
    for i in range(10, 15):
        assert rows[i]["egress_ocn"] == "123A"
        assert not filled(rows[i], INGRESS)
    for i in range(15, 18):
        assert (rows[i]["ingress_ocn"], rows[i]["egress_ocn"]) == ("123A", "123A")
    one_side = await store.pull(await store.scope(sides=frozenset({"egress"})))
    assert not any(filled(r, INGRESS) for r in one_side), "not its own ingress leg either: it did not ask for it"
    number_hits = await store.pull(search=number(0))
    assert number_hits
    assert not any(filled(r, EGRESS) for r in number_hits if r.get("ingress_ocn"))


@pytest.mark.parametrize("search", [None, "+12025550100"])
async def test_classes(store: Store, search: str | None) -> None:
    await store.add(calls(range(3), calling="+12025550100", account="a-1", cell="c", imsi="001010123456789"))
    every = {C.TIMING, C.PARTIES, C.ROUTING, C.INGRESS_LEG}
    for classes in (every, {C.PARTIES}, {C.PARTIES, C.INGRESS_LEG}, {C.PARTIES, C.TIMING}):
        rows = await store.pull(await store.scope(classes=frozenset(classes)), search=search)
        allowed = {"record_id"} | {f.name for f in fields_of(*classes)}
        assert {n for r in rows for n, v in r.items() if v is not None} <= allowed
        assert len(rows) == 3
        assert all("record_id" in r for r in rows)
    with pytest.raises(ValueError, match="beyond"):
        await store.scope(classes=frozenset({C.TIMING, C.SUBSCRIBER}))
    if search:
        with pytest.raises(ValueError, match="parties"):
            await store.pull(await store.scope(classes=frozenset({C.TIMING})), search=search)


@pytest.mark.usefixtures("small")
async def test_windows_to_the_microsecond(store: Store) -> None:
    at = [JULY + timedelta(microseconds=1) * n for n in (-1, 0, 1, 999_999, 1_000_000)]
    at += [JULY + timedelta(days=30), JULY + timedelta(days=31), JULY + timedelta(days=31, microseconds=-1)]
    rows = [
        call(i, started_at=t.isoformat(timespec="microseconds"), answered_at="", called=number(7))
        for i, t in enumerate(at)
    ]
    await store.add(rows)
    points: list[datetime] = sorted({*at, *(t + timedelta(microseconds=1) for t in at)})
    for start in points[::2]:
        for end in points:
            if start < end:
                wanted = [i for i, t in enumerate(at) if start <= t < end]
                scope = await store.scope(start=start, end=end)
                assert sorted(call_ids(await store.pull(scope))) == wanted
                assert sorted(call_ids(await store.pull(scope, search=number(7)))) == wanted
    for start, end in ((JULY, JULY), (JULY, JULY - timedelta(days=1))):
        with pytest.raises(ValueError, match="nothing"):
            await store.scope(start=start, end=end)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("search", [None, number(3)])
async def test_what_came_after_and_what_came_since(store: Store, search: str | None) -> None:
    for n in range(3):
        await store.add(calls(range(n * 20, n * 20 + 20), called=number(3)))
    for after_id in (0, 1, 19, 20, 21, 45, 59, 60, 100):
        for as_of in (0, 1, 20, 33, 60):
            rows = await store.pull(await store.scope(after_id=after_id, as_of=as_of), search=search)
            assert [r["record_id"] for r in rows] == list(range(after_id + 1, as_of + 1))


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in the order of their ids: a place within a piece cuts it by pairs, not by what was shown first."""
    return sorted(rows, key=lambda r: r["record_id"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("search", [None, number(3)])
async def test_from_every_place_the_rest_comes_exactly(store: Store, search: str | None) -> None:
    """By limit, at each record; and after each piece. Two months, several pairs, batches and pieces."""
    rows = [call(i, ingress=("123A", "124A", "789C")[i % 3], egress="123A", called=number(3)) for i in range(45)]
    rows += calls(range(45, 60), at=JULY + timedelta(days=40), called=number(3))
    await store.ingest(rows[:30])
    await store.roll()
    await store.ingest(rows[30:])
    await store.roll()
    scope = await store.scope(["123A", "124A"], end=JULY + timedelta(days=62))
    whole = await store.pull(scope, search=search)
    assert len(whole) == 60
    places = [p async for _, _, p in store.pieces(scope, search=search)]
    assert len(places) > 3
    assert places == sorted(places)
    sizes = [n async for _, n, _ in store.pieces(scope, search=search)]
    done = 0
    for place, size in zip(places, sizes, strict=True):
        done += size
        assert size > 0
        assert by_id(await store.pull(scope, place, search=search)) == by_id(whole[done:])
    for limit in range(1, 60, 7):
        taken: list[dict[str, Any]] = []
        place: Position | None = None
        while True:
            got = [x async for x in store.pieces(scope, place, limit=limit, search=search)]
            if not got:
                break
            assert sum(n for _, n, _ in got) <= limit
            taken += [r for rows, _, _ in got for r in rows]
            place = got[-1][2]
        assert by_id(taken) == by_id(whole), limit


async def test_a_piece_does_not_show_its_pairs(store: Store) -> None:
    """Months in order, and in a piece the order of the ids: not pair by pair, which would tell the other carrier."""
    rows = [call(i, ingress="123A", egress=("456B", "789C")[i % 2]) for i in range(10)]
    rows += [
        call(i, ingress="123A", egress=("456B", "789C")[i % 2], at=JULY - timedelta(days=40)) for i in range(10, 20)
    ]
    await store.add(rows)
    await store.add(calls(range(20, 25), ingress="123A", egress="456B"))
    scope = await store.scope(["123A"], start=JULY - timedelta(days=62))
    assert call_ids(await store.pull(scope)) == [*range(10, 20), *range(10), *range(20, 25)]


async def test_an_early_end_frees_everything(store: Store) -> None:
    """Whoever stops listening holds no connection: the pool has three, the readers are ten."""
    await store.add(calls(range(20)))
    for _ in range(10):
        async for _piece in store.pieces():
            break
    assert call_ids(await store.pull()) == list(range(20))
    assert store.billing.get_idle_size() == store.billing.get_size()


# Searching.


@pytest.mark.usefixtures("small")
async def test_a_number_is_found_wherever_it_stands_and_only_there(store: Store) -> None:
    wanted = "+12025550199"
    rows = calls(range(50))
    for i, name in ((4, "calling"), (11, "called"), (12, "dialed"), (13, "charge_number"), (30, "redirecting")):
        rows[i][name] = wanted
    rows[44] |= {"calling": wanted, "called": wanted}
    rows[45]["calling"] = "12025550199"  # raw digits: no plus sign, no country known
    rows[46]["calling"] = "0199"
    rows[47]["ingress_trunk"] = wanted
    for row in rows:
        row.setdefault("dialed", "")
    await store.add(rows[:25])
    await store.add(rows[25:])
    assert call_ids(await store.pull(search=wanted)) == [4, 11, 12, 13, 30, 44]
    raw = {i for i in (45, 46) if "calling_raw" in (await store.contents())[i]}
    assert 46 in raw
    assert call_ids(await store.pull(search="0199")) == [46]
    for none in ("+12025550198", "199", "+0199", "+1", "", "anonymous", "+202555019", "+120255501999"):
        assert await store.pull(search=none) == [], none


async def test_a_search_stays_in_its_scope(store: Store) -> None:
    rows = [dict(r, called=number(5)) for r in WORLD]
    await store.add(rows)
    for ocns in (["123A"], ["456B"], ["789C"], ["999Z"], ["unmapped"]):
        scope = await store.scope(ocns)
        assert await store.pull(scope, search=number(5)) == await store.pull(scope)


async def test_a_reference_to_a_chunk_without_the_number_discloses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags are 40 bits: two numbers may share one. Here a segment is forged in which they do."""
    await store.add(calls(range(6)))
    absent = "+12025550177"
    month = 202607
    run = await store.conn.fetchrow("SELECT run_id, tag_bits FROM tollgate.run")
    key = await store.key(tags.KEY_CLASS, month)
    tag = tags.Tagger(key).number(absent)
    _, segments = tags.seal_segments(key, month, run["run_id"], np.array([tag << tags.REF_BITS], np.uint64))
    ((bucket, count, blob),) = segments
    await store.conn.execute("DELETE FROM tollgate.tag_segment")
    await store.conn.execute(
        "INSERT INTO tollgate.tag_segment VALUES ($1, $2, $3, $4, $5)", month, run["run_id"], bucket, count, blob
    )
    opened: list[int] = []
    original = looking.open_chunk_of

    def counted(*args: Any) -> Any:
        opened.append(1)
        return original(*args)

    monkeypatch.setattr(looking, "open_chunk_of", counted)
    assert await store.pull(search=absent) == []
    assert opened, "the forged reference was not followed: this test shows nothing"


async def test_a_reference_to_nowhere_is_an_error_or_nothing(store: Store) -> None:
    """To a batch that is not there: nothing. To a chunk that is not there: refused."""
    from keys.errors import SealError

    await store.add(calls(range(6)))
    month, wanted = 202607, number(0)
    run = await store.conn.fetchrow("SELECT run_id FROM tollgate.run")
    key = await store.key(tags.KEY_CLASS, month)
    tag = tags.Tagger(key).number(wanted)
    for ref, error in ((4 * 77, None), (3, SealError)):
        _, segments = tags.seal_segments(key, month, run["run_id"], np.array([tag << tags.REF_BITS | ref], np.uint64))
        ((bucket, count, blob),) = segments
        await store.conn.execute("DELETE FROM tollgate.tag_segment")
        await store.conn.execute(
            "INSERT INTO tollgate.tag_segment VALUES ($1, $2, $3, $4, $5)", month, run["run_id"], bucket, count, blob
        )
        if error:
            with pytest.raises(error):
                await store.pull(search=wanted)
        else:
            assert await store.pull(search=wanted) == []
    assert BATCHES_PER_RUN > 77


async def test_a_month_whose_keys_are_gone_is_not_an_empty_answer(store: Store) -> None:
    """A data key that is missing is an error, never fewer records."""
    from proxy.store.planes import FormatError

    await store.add(calls(range(3)))
    store.keys.forget()
    await store.conn.execute("SELECT 1")
    scope = await store.scope()
    rows = await store.pull(scope)
    assert len(rows) == 3
    store.keys.forget()
    import asyncpg

    owner = await asyncpg.connect(store.config.database_url)
    await owner.execute("DELETE FROM tollgate.data_key WHERE key_class = 'parties'")
    await owner.close()
    with pytest.raises(FormatError, match="parties"):
        await store.pull(scope)


def test_a_scopes_months() -> None:
    def months(start: datetime, end: datetime) -> list[int]:
        return Scope(("123A",), BOTH, us(start), us(end), frozenset({C.TIMING}), 1).months()

    assert months(JULY, JULY + timedelta(days=31)) == [202607]
    assert months(JULY - timedelta(microseconds=1), JULY + timedelta(days=31, microseconds=1)) == [
        202606,
        202607,
        202608,
    ]
    assert months(JULY + timedelta(days=170), JULY + timedelta(days=200)) == [202612, 202701]
