"""Wrapped data keys in a real database: agreement, caching, tampering, grants."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from keys.datakeys import DataKeys
from keys.errors import KeyUnavailable, SealError
from keys.file_provider import FileProvider
from keys.provider import Period
from schema.roles import Role
from tests.conftest import Database
from tests.support.keys import DECEMBER, NOVEMBER, PARTIES, CountingProvider, file_provider


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    return file_provider(tmp_path)


async def test_ensure_makes_what_is_missing_and_load_finds_it(
    owner: asyncpg.Connection, provider: FileProvider
) -> None:
    made = await DataKeys(provider).ensure(owner, [NOVEMBER, PARTIES])
    assert set(made) == {NOVEMBER, PARTIES}
    assert made[NOVEMBER].secret != made[PARTIES].secret
    assert all(len(k.secret) == 32 and k.key_id > 0 and k.period == p for p, k in made.items())
    assert await DataKeys(provider).load(owner, [NOVEMBER, PARTIES, DECEMBER]) == made
    assert await DataKeys(provider).ensure(owner, [NOVEMBER]) == {NOVEMBER: made[NOVEMBER]}


async def test_load_makes_nothing(owner: asyncpg.Connection, provider: FileProvider) -> None:
    assert await DataKeys(provider).load(owner, [NOVEMBER]) == {}
    assert await owner.fetchval("SELECT count(*) FROM tollgate.data_key") == 0


async def test_one_unwrap_for_all_and_none_for_what_is_in_memory(
    owner: asyncpg.Connection, provider: FileProvider
) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER, PARTIES, DECEMBER])
    counting = CountingProvider(provider)
    keys = DataKeys(counting)
    await keys.load(owner, [NOVEMBER, PARTIES, DECEMBER])
    assert counting.unwraps == 1
    await keys.ensure(owner, [NOVEMBER, PARTIES])
    assert (counting.unwraps, counting.wraps) == (1, 0)
    assert keys.cached(NOVEMBER) is not None
    keys.forget([NOVEMBER])
    assert keys.cached(NOVEMBER) is None
    assert keys.cached(PARTIES) is not None
    keys.forget()
    assert keys.cached(PARTIES) is None


async def test_processes_that_race_agree(database: Database, tmp_path: Path) -> None:
    periods = [Period(c, 202600 + m) for c in ("timing", "parties", "tags") for m in range(1, 13)]
    directory = file_provider(tmp_path).keyring.directory

    async def one(turn: int) -> dict[Period, bytes]:
        conn = await asyncpg.connect(database.url)
        try:
            order = periods if turn % 2 else periods[::-1]
            keys = await DataKeys(FileProvider(directory)).ensure(conn, order)
            return {p: k.secret for p, k in keys.items()}
        finally:
            await conn.close()

    answers = await asyncio.gather(*(one(i) for i in range(6)))
    assert len(answers[0]) == 36
    assert all(a == answers[0] for a in answers)


async def test_a_key_of_a_transaction_that_rolls_back_is_not_kept(
    owner: asyncpg.Connection, provider: FileProvider
) -> None:
    keys = DataKeys(provider)
    transaction = owner.transaction()
    await transaction.start()
    lost = await keys.ensure(owner, [NOVEMBER])
    assert await keys.ensure(owner, [NOVEMBER]) == lost  # within the transaction it is the same
    async with owner.transaction():  # and in a savepoint
        assert await keys.load(owner, [NOVEMBER]) == lost
    await transaction.rollback()
    kept = await keys.ensure(owner, [NOVEMBER])
    assert kept[NOVEMBER].key_id != lost[NOVEMBER].key_id
    assert await DataKeys(provider).load(owner, [NOVEMBER]) == kept


async def test_failures_are_not_kept(owner: asyncpg.Connection, provider: FileProvider) -> None:
    counting = CountingProvider(provider)
    keys = DataKeys(counting)
    counting.down = True
    with pytest.raises(KeyUnavailable):
        await keys.ensure(owner, [NOVEMBER])
    counting.down = False
    made = await keys.ensure(owner, [NOVEMBER])
    keys.forget()
    counting.down = True
    with pytest.raises(KeyUnavailable):
        await keys.load(owner, [NOVEMBER])
    counting.down = False
    assert await keys.load(owner, [NOVEMBER]) == made


@pytest.mark.parametrize(
    ("defect", "error"),
    [
        ("key_id = key_id % 1000 + 1", SealError),
        ("wrapped = set_byte(wrapped, 40, get_byte(wrapped, 40) # 1)", SealError),
        ("wrapped = (SELECT wrapped FROM tollgate.data_key WHERE key_class = 'parties')", KeyUnavailable),
        ("wrapped = (SELECT wrapped FROM tollgate.data_key WHERE month = 202612)", KeyUnavailable),
        ("wrapped = substring(wrapped FROM 1 FOR 20)", SealError),
        ("wrapped = ''", SealError),
        ("wrapped = set_byte(wrapped, 2, 9)", KeyUnavailable),
        ("alg = 'of-the-future'", KeyUnavailable),
    ],
)
async def test_a_row_that_was_tampered_with_does_not_open(
    owner: asyncpg.Connection, provider: FileProvider, defect: str, error: type[Exception]
) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER, DECEMBER, PARTIES])
    await owner.execute(f"UPDATE tollgate.data_key SET {defect} WHERE key_class = 'timing' AND month = 202611")
    with pytest.raises(error):
        await DataKeys(provider).load(owner, [NOVEMBER])


async def test_a_row_moved_to_another_month_does_not_open(owner: asyncpg.Connection, provider: FileProvider) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER])
    await provider.wrap(DECEMBER, b"so that December has a key")
    await owner.execute("UPDATE tollgate.data_key SET month = 202612")
    with pytest.raises(KeyUnavailable):
        await DataKeys(provider).load(owner, [DECEMBER])


async def test_destroyed_in_the_keyring(owner: asyncpg.Connection, provider: FileProvider) -> None:
    await DataKeys(provider).ensure(owner, [NOVEMBER, DECEMBER])
    await provider.destroy(NOVEMBER)
    await provider.destroy(PARTIES)
    keys = DataKeys(provider)
    with pytest.raises(KeyUnavailable, match="destroyed"):
        await keys.load(owner, [NOVEMBER])
    with pytest.raises(KeyUnavailable, match="destroyed"):
        await keys.ensure(owner, [PARTIES])
    assert DECEMBER in await keys.load(owner, [DECEMBER])
    assert await owner.fetchval("SELECT count(*) FROM tollgate.data_key WHERE key_class = 'parties'") == 0


async def test_destroyed_on_record_does_not_open_though_the_keyring_could(
    owner: asyncpg.Connection, provider: FileProvider
) -> None:
    keys = DataKeys(provider)
    await keys.ensure(owner, [NOVEMBER, DECEMBER])
    await keys.record_destroyed(owner, [NOVEMBER])
    await keys.record_destroyed(owner, [NOVEMBER])
    assert keys.cached(NOVEMBER) is None
    assert set(await keys.load(owner, [NOVEMBER, DECEMBER])) == {DECEMBER}
    with pytest.raises(KeyUnavailable, match="destroyed"):
        await keys.ensure(owner, [NOVEMBER])


async def test_the_commit_that_makes_a_key_waits_for_the_disk(
    owner: asyncpg.Connection, provider: FileProvider
) -> None:
    async with owner.transaction():
        await owner.execute("SET LOCAL synchronous_commit = off")
        await DataKeys(provider).ensure(owner, [NOVEMBER])
        assert await owner.fetchval("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize("role", list(Role))
async def test_who_may_do_what(
    database: Database, owner: asyncpg.Connection, provider: FileProvider, role: Role
) -> None:
    await DataKeys(provider).ensure(owner, [DECEMBER])
    writes = role in {Role.INGEST, Role.LOG, Role.OPERATOR, Role.PRIVACY, Role.CASES, Role.LEGAL}
    reads = writes or role is Role.BILLING
    conn = await asyncpg.connect(database.config.role_url(role))
    try:
        if reads:
            assert DECEMBER in await DataKeys(provider).load(conn, [DECEMBER])
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await DataKeys(provider).load(conn, [DECEMBER])
        if writes:
            assert NOVEMBER in await DataKeys(provider).ensure(conn, [NOVEMBER])
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await DataKeys(provider).ensure(conn, [NOVEMBER])
        for statement in (
            "UPDATE tollgate.data_key SET month = 202611",
            "DELETE FROM tollgate.data_key",
            "INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('timing', 202611)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()


async def test_the_table_holds_no_key(owner: asyncpg.Connection, provider: FileProvider) -> None:
    made = await DataKeys(provider).ensure(owner, [NOVEMBER, PARTIES])
    table = b"".join(r["wrapped"] for r in await owner.fetch("SELECT wrapped FROM tollgate.data_key"))
    ring = provider.keyring.read()
    for period, key in made.items():
        assert key.secret not in table
        assert ring.period_key(period)[1] not in table
