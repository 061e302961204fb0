"""The column format: what one sealed chunk of one disclosure class holds (published in deploy/docs/format.md).

A chunk is one zstd frame around a body. The body is ``version u8 | rows u32 | fields u8`` and then each field of the
class in canonical order. Integers are little-endian. A field begins with its encoding byte::

    0  every value is null; nothing follows
    1  integers   scale u8 | width u8 | base i64 | width planes of `rows` bytes (least significant first)
    2  text       width u8 | planes of lengths | size u32 | bytes
    3  dictionary count u16 | lengths u32 * count | size u32 | bytes | width u8 | planes of codes
    4  numbers    as integers, then: count u32 | row u32 * count | lengths u32 * count | size u32 | bytes

Flag 0x10: a validity bitmap of ceil(rows / 8) bytes follows the encoding byte (bit i of byte i // 8, 1 = present).
Flag 0x20: planes hold the differences of neighbours. An integer is ``(base + plane value) * 10**scale``; under 0x20 it
is ``(base + running sum of plane values) * 10**scale``. Byte planes put like bytes together, so that zstd finds them,
and open with one numpy transposition. A number that is no E.164 number stands in the exceptions of encoding 4.

A chunk with fewer fields than the class now has is older: the missing fields are null.
"""

from __future__ import annotations

import pyarrow as pa

from proxy.store.columns.assemble import assemble
from proxy.store.columns.decode import Chunk
from proxy.store.columns.encode import Prepared, encode, is_empty, prepare, recurs
from proxy.store.columns.form import ARROW, VERSION, arrow_schema
from proxy.store.columns.tables import join, one, spelled, whole
from schema.fields import Field


def decode(frame: bytes | memoryview, fields: tuple[Field, ...]) -> pa.RecordBatch:
    """Open one chunk whole, as a record batch of the schema of :func:`arrow_schema`.

    Args:
        frame: what :func:`encode` returned.
        fields: all fields of the class, in canonical order.

    Raises:
        FormatError: if the bytes are not a chunk of these fields.
    """
    chunk = Chunk(frame, fields)
    found = assemble([chunk], fields)
    schema = arrow_schema(fields)
    return pa.RecordBatch.from_arrays(
        [found[f.name] if f.name in found else pa.nulls(chunk.rows, f.type) for f in schema], schema=schema
    )


__all__ = [
    "ARROW",
    "VERSION",
    "Chunk",
    "Prepared",
    "arrow_schema",
    "assemble",
    "decode",
    "encode",
    "is_empty",
    "join",
    "one",
    "prepare",
    "recurs",
    "spelled",
    "whole",
]
