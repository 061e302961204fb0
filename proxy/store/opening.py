"""Opening what is sealed. Only proxy/disclosure and proxy/store/reseal may import this (an import rule holds it)."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from keys.datakeys import DataKey
from keys.sealing import open_chunk, open_sealed, parse_header
from proxy.store import columns
from proxy.store.batches import CLASS_FIELDS, LEGS, Sealed, Shape
from proxy.store.planes import FormatError
from schema.fields import DisclosureClass

ClassKeys = Mapping[DisclosureClass, DataKey]


def open_class(
    keys: ClassKeys, shape: Shape, cls: DisclosureClass, ocn: int, blob: bytes, *, coded: bool = False
) -> pa.Table:
    """Open one class of a batch or piece, whole; columns that are null throughout are left out.

    Args:
        coded: leave text that is stored by a dictionary as dictionary arrays.

    Raises:
        SealError: if the ciphertext does not open.
        FormatError: if it opened and does not hold what the format says.
    """
    chunks = [columns.Chunk(c, CLASS_FIELDS[cls]) for c in open_sealed(_key(keys, cls), blob, shape.aad(cls, ocn))]
    if sum(c.rows for c in chunks) != shape.rows:
        raise FormatError("a class has another number of rows than its batch")
    return columns.join([pa.table(c.columns(coded=coded)) for c in chunks])


def open_chunk_of(
    keys: ClassKeys, shape: Shape, cls: DisclosureClass, ocn: int, head: bytes, index: int, sealed: bytes
) -> columns.Chunk:
    """Open one chunk of a class; ``head`` is the beginning of the class's ciphertext. Raises as :func:`open_class`."""
    body = open_chunk(_key(keys, cls), parse_header(head), index, sealed, shape.aad(cls, ocn))
    return columns.Chunk(body, CLASS_FIELDS[cls])


def open_object(sealed: Sealed, keys: ClassKeys) -> pa.Table:
    """Open every class of a sealed batch or piece, text still coded. Raises as :func:`open_class`."""
    parts: dict[str, pa.ChunkedArray] = {}
    for cls, blob in sealed.blobs.items():
        ocn = sealed.ocns[0] if cls is LEGS[1] else sealed.ocns[1] if cls is LEGS[2] else 0
        made = open_class(keys, sealed.shape, cls, ocn, blob, coded=True)
        parts |= zip(made.schema.names, made.columns, strict=True)
    return pa.table(parts)


def _key(keys: ClassKeys, cls: DisclosureClass) -> DataKey:
    try:
        return keys[cls]
    except KeyError:
        raise FormatError(f"the data key of class {cls.value} is missing from the database") from None
