"""Keys that were destroyed leave the memory of a running gateway too, some seconds later, without a restart.

Opened data keys are kept, for opening one is a call to the provider. Whoever shreds a month does so in a process of its
own; PostgreSQL has it on record, and every gateway looks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import asyncpg

from keys.datakeys import DataKeys
from keys.errors import KeysError
from proxy import logs

EVERY_S: Final = 2.0
"""How often it is looked, seconds."""

_LOG = logs.get("keys")


class Forgetter:
    """Drops destroyed keys from memory.

    Args:
        pool: connections of a role that may read the record of destruction.
        keys: the process's data keys.
    """

    def __init__(self, pool: asyncpg.Pool, keys: DataKeys) -> None:
        self._pool = pool
        self._keys = keys
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look every `EVERY_S` from now on."""
        self._task = asyncio.create_task(self._run(), name="forgetting")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                async with self._pool.acquire() as conn:
                    await self._keys.forget_destroyed(conn)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, KeysError, OSError, TimeoutError) as error:
                logs.event(_LOG, logging.WARNING, "keys.forgetting_failed", error)
