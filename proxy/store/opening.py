"""Opening what is sealed. Only proxy/disclosure and proxy/store/reseal may import this (an import rule holds it)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from keys.datakeys import DataKey
from keys.sealing import open_chunks, open_sealed, parse_header
from proxy.store import columns
from proxy.store.batches import CLASS_FIELDS, LEGS, Sealed, Shape
from proxy.store.planes import FormatError
from schema.fields import DisclosureClass

ClassKeys = Mapping[DisclosureClass, DataKey]


@dataclass(frozen=True, slots=True)
class SealedClass:
    """One class of one object; without a ciphertext, so many rows without a value."""

    shape: Shape
    ocn: int
    blob: bytes | None


def unseal(keys: ClassKeys, cls: DisclosureClass, parts: Sequence[SealedClass]) -> list[columns.Chunk | int]:
    """Decrypt and decompress one class of several batches or pieces: chunks as ``columns.assemble`` takes them.

    Raises:
        SealError: if a ciphertext does not open.
        FormatError: if it opened and does not hold what the format says.
    """
    chunks: list[columns.Chunk | int] = []
    for part in parts:
        if part.blob is None:
            chunks.append(part.shape.rows)
            continue
        opened = open_sealed(_key(keys, cls), part.blob, part.shape.aad(cls, part.ocn))
        found = [columns.Chunk(c, CLASS_FIELDS[cls]) for c in opened]
        if sum(c.rows for c in found) != part.shape.rows:
            raise FormatError("a class has another number of rows than its batch")
        chunks += found
    return chunks


def open_class(
    keys: ClassKeys,
    cls: DisclosureClass,
    parts: Sequence[SealedClass],
    *,
    coded: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, pa.Array]:
    """Open one class of several batches or pieces, one below the other; a column without any value is left out.

    Args:
        coded: leave text that is stored by dictionaries as dictionary arrays.
        only: names of the only fields wanted; None: all of the class.

    Raises:
        SealError, FormatError: as :func:`unseal`.
    """
    wanted = CLASS_FIELDS[cls] if only is None else [f for f in CLASS_FIELDS[cls] if f.name in only]
    return columns.assemble(unseal(keys, cls, parts), wanted, coded=coded)


def open_chunk_of(
    keys: ClassKeys, shape: Shape, cls: DisclosureClass, ocn: int, head: bytes, index: int, sealed: bytes
) -> columns.Chunk:
    """Open one chunk of a class; ``head`` is the beginning of the class's ciphertext. Raises as :func:`open_class`."""
    return open_chunks_of(keys, shape, cls, ocn, head, ((index, sealed),))[0]


def open_chunks_of(
    keys: ClassKeys,
    shape: Shape,
    cls: DisclosureClass,
    ocn: int,
    head: bytes,
    sealed: Sequence[tuple[int, bytes | memoryview]],
) -> list[columns.Chunk]:
    """Open some chunks of a class, given as (index, sealed bytes). Otherwise as :func:`open_chunk_of`."""
    bodies = open_chunks(_key(keys, cls), parse_header(head), sealed, shape.aad(cls, ocn))
    return [columns.Chunk(body, CLASS_FIELDS[cls]) for body in bodies]


def open_object(sealed: Sealed, keys: ClassKeys) -> pa.Table:
    """Open every class of a sealed batch or piece, text still coded. Raises as :func:`open_class`."""
    parts: dict[str, pa.Array] = {}
    for cls, blob in sealed.blobs.items():
        ocn = sealed.ocns[0] if cls is LEGS[1] else sealed.ocns[1] if cls is LEGS[2] else 0
        parts |= open_class(keys, cls, [SealedClass(sealed.shape, ocn, blob)], coded=True)
    return pa.table(parts)


def _key(keys: ClassKeys, cls: DisclosureClass) -> DataKey:
    try:
        return keys[cls]
    except KeyError:
        raise FormatError(f"the data key of class {cls.value} is missing from the database") from None
