"""Re-mapping: records of a trunk that was in no map get their carrier once a map names it.

Such records were disclosed to nobody. They get new record ids, because a carrier asks for what was received after its
last pull: with their old ids it would never see them. Everything else of the run keeps its ids. Per run one transaction
and one log entry; dying before COMMIT changes nothing, and the command run again does what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from keys.datakeys import DataKeys
from keys.provider import Period
from proxy.ledger.model import Entry, Kind
from proxy.ledger.service import Ledger
from proxy.store import columns, tags, writer
from proxy.store.batches import CLASSES, PIECE_CHUNK_ROWS, Part, Table, manifest
from proxy.store.reseal.roll import Rolling, opened, rolling_lock, runs_of
from proxy.store.writer import Run
from schema.fields import OCN_UNMAPPED, ocn_code

Lookup = Callable[[pl.DataFrame], pl.DataFrame]
"""Columns switch_id, ingress_trunk, egress_trunk, ingress_ocn, egress_ocn, started_at in; the two OCNs out."""

_ASKED = ("switch_id", "ingress_trunk", "egress_trunk", "ingress_ocn", "egress_ocn")


class BusyError(Exception):
    """Another process is rolling or re-mapping."""


@dataclass(frozen=True, slots=True)
class Remapped:
    """What a re-mapping did."""

    mapped: int = 0
    """Records that now have both their carriers."""
    left: int = 0
    """Records that still have a leg no map names."""


async def remap(
    conn: asyncpg.Connection,
    keys: DataKeys,
    ledger: Ledger,
    executor: Executor,
    lookup: Lookup,
    map_digest: bytes,
    progress: Callable[[int], None] = lambda rows: None,
) -> Remapped:
    """Look every unmapped leg up again; stage the records that are mapped now (a roll makes them readable).

    Args:
        map_digest: SHA-256 of what ``lookup`` goes by, for the log.

    Raises:
        BusyError: if another process is rolling.
    """
    mapped = left = 0
    async with rolling_lock(conn) as free:
        if not free:
            raise BusyError("another process is rolling the store; try again when it is done")
        for month, run_ids in (await _affected(conn)).items():
            for run in await runs_of(conn, month):
                if run.run_id in run_ids:
                    moved, rest = await _Remap(conn, keys, ledger, executor).run(run, lookup, map_digest)
                    mapped, left = mapped + moved, left + rest
                    progress(run.rows)
    return Remapped(mapped, left)


async def _affected(conn: asyncpg.Connection) -> dict[int, set[int]]:
    rows = await conn.fetch(
        "SELECT DISTINCT month, run_id FROM tollgate.batch WHERE ingress_ocn = $1 OR egress_ocn = $1 ORDER BY month",
        ocn_code(OCN_UNMAPPED),
    )
    found: dict[int, set[int]] = {}
    for r in rows:
        found.setdefault(r["month"], set()).add(r["run_id"])
    return found


class _Remap(Rolling):
    """One run's re-mapping."""

    async def run(self, run: Run, lookup: Lookup, map_digest: bytes) -> tuple[int, int]:
        """Return how many records were mapped, and how many are still not."""
        month = run.month
        periods = [Period(c.value, month) for c in CLASSES] + [Period(tags.KEY_CLASS, month)]
        found = await self.keys.ensure(self.conn, periods)
        classes = {c: found[Period(c.value, month)] for c in CLASSES}
        tables = [t async for t in opened(self.conn, [run], classes, self.executor)]
        rows = columns.spelled(columns.whole(columns.join(tables)))
        loop = asyncio.get_running_loop()
        changed, legs, left = await loop.run_in_executor(self.executor, _look_up, rows, lookup)
        if not changed.any():
            return 0, left
        moved = rows.filter(pa.array(changed)).drop_columns(["record_id"])
        for name, values in legs.items():
            moved = moved.set_column(moved.schema.get_field_index(name), name, values.filter(pa.array(changed)))
        stays = rows.filter(pa.array(~changed))
        async with self.conn.transaction():
            made = []
            if stays.num_rows:
                kept, _ = await self.write(stays, classes, found[Period(tags.KEY_CLASS, month)], month, run.level)
                made.append(kept)
            run_id = await self.conn.fetchval("SELECT nextval('tollgate.store_id')")
            ready = await loop.run_in_executor(self.executor, Table, moved)
            sealed = ready.seal(
                classes,
                0,
                moved.num_rows,
                month=month,
                object_id=writer.piece_id(run_id, 0),
                chunk_rows=PIECE_CHUNK_ROWS,
            )
            await writer.insert_piece(self.conn, run_id, 0, sealed)
            after = await self.conn.fetchval(writer.TAKE_RECORD_IDS, moved.num_rows)
            parts = manifest([(Part.BATCH, sealed.shape.object_id, sealed.digest())])
            staged = Run(month, run_id, 0, moved.num_rows, after - moved.num_rows, after - 1, manifest=parts)
            await writer.insert_run(self.conn, staged)
            await self.destroy(month, [run.run_id])
            entry = Entry(
                kind=Kind.STORE_REMAP,
                actor={"component": "remap"},
                request={
                    "month": month,
                    "destroyed": [str(run.run_id)],
                    "replaced": [run.described()],
                    "map_sha256": map_digest.hex(),
                },
                outcome={"made": [r.described() for r in (*made, staged)], "mapped": moved.num_rows},
            )
            await self.ledger.append_in(self.conn, [entry])
        return moved.num_rows, left


def _look_up(rows: pa.Table, lookup: Lookup) -> tuple[npt.NDArray[np.bool_], dict[str, pa.Array], int]:
    """Return which records are mapped now, the OCNs of all, and how many records are still unmapped."""
    names = [n for n in (*_ASKED, "started_at") if n in rows.schema.names]
    asked = pl.DataFrame(pl.from_arrow(rows.select(names)))
    asked = asked.with_columns(pl.lit(None, pl.String).alias(n) for n in _ASKED if n not in names)
    found = lookup(asked)
    legs: dict[str, pa.Array] = {}
    changed = np.zeros(rows.num_rows, np.bool_)
    unmapped = np.zeros(rows.num_rows, np.bool_)
    for name in ("ingress_ocn", "egress_ocn"):
        # A leg that has its carrier keeps it, whatever a newer map says: it may have been disclosed already.
        new = pl.select(pl.when(asked[name] == OCN_UNMAPPED).then(found[name]).otherwise(asked[name])).to_series()
        changed |= (new != asked[name]).to_numpy()
        unmapped |= (new == OCN_UNMAPPED).to_numpy()
        legs[name] = new.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    changed &= ~unmapped
    was = ((asked["ingress_ocn"] == OCN_UNMAPPED) | (asked["egress_ocn"] == OCN_UNMAPPED)).to_numpy()
    return changed, legs, int((was & ~changed).sum())
