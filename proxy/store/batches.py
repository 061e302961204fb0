"""Batches: rows of one carrier pair and one month, sealed class by class; and level-0 pieces, all pairs together.

A sealed class is bound (AAD) to its object: which one, of what month, which classes exist, days, rows and record ids,
so that a piece that is moved, swapped, dropped or renumbered does not open. The sides' classes are bound to their OCN.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keys.datakeys import DataKey
from keys.sealing import seal
from proxy.store import columns
from schema.fields import DisclosureClass, Field, fields_of

FORMAT = 1
BATCH_ROWS = 8_192
CHUNK_ROWS = 2_048
CHUNKS_PER_BATCH = BATCH_ROWS // CHUNK_ROWS
PIECE_CHUNK_ROWS = 65_536
BATCHES_PER_RUN = 1 << 20
"""A batch's id is its run's id times this, plus its ordinal in the run."""

CLASSES: tuple[DisclosureClass, ...] = tuple(DisclosureClass)
SHARED: tuple[DisclosureClass, ...] = tuple(
    c for c in CLASSES if c not in (DisclosureClass.INGRESS_LEG, DisclosureClass.EGRESS_LEG)
)
LEGS: dict[int, DisclosureClass] = {1: DisclosureClass.INGRESS_LEG, 2: DisclosureClass.EGRESS_LEG}
"""Side number in the database to the class of that side."""
CLASS_FIELDS: dict[DisclosureClass, tuple[Field, ...]] = {c: fields_of(c) for c in CLASSES}

_AAD = struct.Struct(">4siqiqqqqHB")


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands in clear about a batch or piece, and is bound to every ciphertext of it."""

    month: int
    object_id: int
    """Batch id; for a level-0 piece ``run_id * BATCHES_PER_RUN + piece``."""
    rows: int
    first_record_id: int
    """0 in a level-0 piece: its ids are the run's first id plus the position."""
    last_record_id: int
    first_start: int
    last_start: int
    classes: int
    format: int = FORMAT
    pair_id: int = 0

    @classmethod
    def of_batch(cls, month: int, row: Mapping[str, Any]) -> Shape:
        """Return what a row of ``tollgate.batch`` says in clear."""
        names = (
            "rows",
            "first_record_id",
            "last_record_id",
            "first_start",
            "last_start",
            "classes",
            "format",
            "pair_id",
        )
        return cls(month, row["batch_id"], *(row[name] for name in names))

    def has(self, cls: DisclosureClass) -> bool:
        """Say whether this class exists."""
        return bool(self.classes >> CLASSES.index(cls) & 1)

    def aad(self, cls: DisclosureClass, ocn: int = 0) -> bytes:
        """Return what a ciphertext of class ``cls`` is bound to; ``ocn`` for the class of a side."""
        clear = _AAD.pack(
            b"TGB1",
            self.month,
            self.object_id,
            self.rows,
            self.first_record_id,
            self.last_record_id,
            self.first_start,
            self.last_start,
            self.classes,
            self.format,
        )
        return clear + struct.pack(">ii", self.pair_id, ocn) + cls.value.encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed batch or piece."""

    shape: Shape
    blobs: Mapping[DisclosureClass, bytes]
    ocns: tuple[int, int] = (0, 0)
    """Ingress and egress OCN of a batch."""

    def digest(self) -> bytes:
        """SHA-256 over what is in clear and every ciphertext: what the log says was made."""
        hasher = hashlib.sha256()
        for cls in CLASSES:
            blob = self.blobs.get(cls)
            if blob is not None:
                ocn = self.ocns[0] if cls is LEGS[1] else self.ocns[1] if cls is LEGS[2] else 0
                aad = self.shape.aad(cls, ocn)
                hasher.update(struct.pack(">IQ", len(aad), len(blob)) + aad)
                hasher.update(blob)
        return hasher.digest()


Keys = Mapping[DisclosureClass, DataKey]


class Table:
    """A table of records made ready to be cut and sealed.

    Args:
        rows: columns of the canonical record (see ``columns.arrow_schema``); an absent column is null throughout.
    """

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows.num_rows
        self._prepared = {cls: columns.prepare(rows, CLASS_FIELDS[cls]) for cls in CLASSES}
        self.started: npt.NDArray[np.int64] = int64s(rows, "started_at")

    def seal(
        self,
        keys: Keys,
        start: int,
        stop: int,
        *,
        month: int,
        object_id: int,
        record_ids: tuple[int, int] = (0, 0),
        pair_id: int = 0,
        ocns: tuple[int, int] = (0, 0),
        chunk_rows: int = CHUNK_ROWS,
    ) -> Sealed:
        """Seal rows ``[start, stop)`` as one object."""
        present = [c for c in CLASSES if not columns.is_empty(self._prepared[c], start, stop)]
        started = self.started[start:stop]
        shape = Shape(
            month=month,
            object_id=object_id,
            rows=stop - start,
            first_record_id=record_ids[0],
            last_record_id=record_ids[1],
            first_start=int(started.min()),
            last_start=int(started.max()),
            classes=sum(1 << CLASSES.index(c) for c in present),
            pair_id=pair_id,
        )
        blobs = {}
        for cls in present:
            chunks = [
                columns.encode(self._prepared[cls], at, min(at + chunk_rows, stop))
                for at in range(start, stop, chunk_rows)
            ]
            ocn = ocns[0] if cls is LEGS[1] else ocns[1] if cls is LEGS[2] else 0
            blobs[cls] = seal(keys[cls], chunks, shape.aad(cls, ocn))
        return Sealed(shape, blobs, ocns)


def int64s(table: pa.Table | pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    """Return a column without nulls as int64 (timestamps as microseconds)."""
    array = columns.one(table.column(name))
    if not pa.types.is_int64(array.type):
        array = array.view(pa.int64())
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


class Part(Enum):
    """What a run's manifest names."""

    BATCH = 1
    SEGMENT = 2


_ENTRY = struct.Struct(">Bq32s")


def manifest(parts: Iterable[tuple[Part, int, bytes]]) -> bytes:
    """Return a run's manifest: the kind, id and SHA-256 of each object in it. The manifest's own hash is in the log."""
    return b"".join(_ENTRY.pack(part.value, object_id, digest) for part, object_id, digest in parts)


def parse_manifest(data: bytes) -> Iterator[tuple[Part, int, bytes]]:
    """Yield what :func:`manifest` was given; a remainder that is no whole entry is ignored (its hash will differ)."""
    for part, object_id, digest in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
        yield Part(part), object_id, digest
