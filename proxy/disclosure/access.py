"""How disclosure reaches the store: connections under row-level security, data keys, threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from threading import Lock
from typing import TypeVar

import asyncpg

from keys.datakeys import DataKey, DataKeys
from keys.provider import Period
from proxy.disclosure.scope import SIDES, Scope
from proxy.store.batches import LEGS
from schema.fields import DisclosureClass, ocn_code

T = TypeVar("T")

_SHREDDED = "SELECT key_class FROM tollgate.data_key_destroyed WHERE month = $1 AND key_class = ANY ($2)"


class Access:
    """A pool of the billing role, the data keys, and the threads in which records are opened."""

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys, executor: Executor) -> None:
        """Use a pool of the billing role."""
        self.pool = pool
        self._keys = keys
        self._executor = executor
        self.turn = Lock()
        """Held by the one thread that takes many small steps (opening chunks, making columns). Between two of them the
        interpreter's own lock would change hands at each step, which costs more than the second thread gains: measured,
        16,384 records took one thread 7 ms and two at once 17 ms each. Long steps (joining text, hashing, compressing)
        need no turn: they let go of that lock by themselves."""

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Run ``work`` in the executor."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    async def class_keys(self, scope: Scope, month: int) -> dict[DisclosureClass, DataKey]:
        """Return the data keys of the scope's classes; a class whose period is gone is absent."""
        wanted = scope.classes | {DisclosureClass.TIMING} | {LEGS[SIDES[s]] for s in scope.sides}
        found = await self.keys_of([Period(c.value, month) for c in wanted])
        return {DisclosureClass(p.key_class): key for p, key in found.items()}

    async def shredded(self, month: int, classes: Collection[DisclosureClass]) -> set[DisclosureClass]:
        """Return which of some classes of a month were shredded: no key, and on record as destroyed.

        Where a key is in memory, the database is not asked.
        """
        wanted = [Period(c.value, month) for c in classes]
        missing = [p for p in wanted if self._keys.cached(p) is None]
        if not missing:
            return set()
        async with self.pool.acquire() as conn:
            rows = await conn.fetch(_SHREDDED, month, [p.key_class for p in missing])
        return {DisclosureClass(row["key_class"]) for row in rows}

    async def drop_shredded(
        self, month: int, blobs: Sequence[dict[DisclosureClass, bytes]], keys: Collection[DisclosureClass]
    ) -> None:
        """Take out of what was fetched the classes that were shredded: their columns are empty from then on.

        A class whose key is missing for another reason stays: opening it says so.
        """
        if missing := {cls for found in blobs for cls in found} - set(keys):
            for cls in await self.shredded(month, missing):
                for found in blobs:
                    found.pop(cls, None)

    async def keys_of(self, periods: Sequence[Period]) -> dict[Period, DataKey]:
        """Return data keys, from the cache where it has them all."""
        cached = {p: key for p in periods if (key := self._keys.cached(p)) is not None}
        if len(cached) == len(periods):
            return cached
        async with self.pool.acquire() as conn:
            return await self._keys.load(conn, periods)

    @asynccontextmanager
    async def permitted(
        self, scope: Scope, months: Iterable[int], *, one_moment: bool = False
    ) -> AsyncIterator[asyncpg.Connection]:
        """A transaction in which row-level security opens the scope's OCNs and these months, and nothing else.

        Args:
            one_moment: all its statements see the store as it was at the first: no roll comes between them.
        """
        months = list(months)
        isolation = "repeatable_read" if one_moment else None
        async with self.pool.acquire() as conn, conn.transaction(isolation=isolation, readonly=True):
            await conn.execute(
                "SELECT set_config('tollgate.ocns', $1, true), set_config('tollgate.first_month', $2, true),"
                " set_config('tollgate.last_month', $3, true)",
                "{" + ",".join(str(ocn_code(o)) for o in scope.ocns) + "}",
                str(min(months)),
                str(max(months)),
            )
            yield conn


class LegalAccess(Access):
    """A pool of the legal role, which reads every carrier's batches, the data keys, and the threads."""

    @asynccontextmanager
    async def moment(self, months: Iterable[int]) -> AsyncIterator[asyncpg.Connection]:
        """A transaction in which row-level security opens these months, and in which the store stands still."""
        months = list(months)
        async with self.pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.execute(
                "SELECT set_config('tollgate.first_month', $1, true), set_config('tollgate.last_month', $2, true)",
                str(min(months)),
                str(max(months)),
            )
            yield conn
