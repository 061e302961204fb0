"""A chunk is a slice of a table: what other slices hold must not show in it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from proxy.store import columns
from schema.fields import DisclosureClass, fields_of

FIELDS = fields_of(DisclosureClass.PARTIES)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 4), (0, 4), (1, 3), (3, 4)])
def test_exceptions_of_other_rows_leave_no_trace(start: int, stop: int) -> None:
    """Numbers that are no E.164 number stand as exceptions; a chunk without any reads back as well as one with."""
    table = pa.table(
        {
            "calling": pa.array([12125550101, 12125550102, 12125550103, None], pa.uint64()),
            "calling_raw": pa.array([None, None, None, "anonymous"], pa.string()),
            "called": pa.array([12125550111, 12125550112, 12125550113, 12125550114], pa.uint64()),
        }
    )
    chunk = columns.encode(columns.prepare(table, FIELDS), start, stop)
    back = columns.decode(chunk, FIELDS)
    for name in ("calling", "calling_raw", "called"):
        assert back.column(name).to_pylist() == table.column(name).to_pylist()[start:stop]
