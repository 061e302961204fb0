"""What the two halves of the column format share: its numbers, and the in-memory types."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa

from schema.fields import DECIMAL_SCALE, Field, Kind

VERSION: Final = 1
NULLS, INTS, TEXT, DICT, NUMBERS = range(5)
VALID, DELTA = 0x10, 0x20
HEAD: Final = struct.Struct("<BIB")
"""Version, rows, fields."""
INT_HEAD: Final = struct.Struct("<BBq")
"""Scale, width, base."""
MAX_ROWS: Final = 1 << 20
"""A chunk that claims more rows is refused before anything is made for them; at most 65,536 are ever written."""
POWERS: Final = np.array([10**e for e in range(7)], dtype=np.int64)

ARROW: Final[dict[Kind, pa.DataType]] = {
    Kind.ID: pa.int64(),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.INT: pa.int64(),
    Kind.NUMBER: pa.int64(),
    Kind.DECIMAL: pa.int64(),
    Kind.TEXT: pa.string(),
}
"""The in-memory type of each kind. Money is in units of 10^-8, a number's raw text is in a column ``<name>_raw``."""

assert DECIMAL_SCALE == 8, "the format says 8 decimal places"


@lru_cache(maxsize=64)
def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Return the Arrow schema of a block of these fields."""
    out = []
    for f in fields:
        out.append(pa.field(f.name, ARROW[f.kind]))
        if f.kind is Kind.NUMBER:
            out.append(pa.field(f.name + "_raw", pa.string()))
    return pa.schema(out)
