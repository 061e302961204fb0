"""What a permit lets be read, and where an answer stands: values without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schema.fields import DisclosureClass

SIDES: Final = {"ingress": 1, "egress": 2}
"""Side names and their numbers in the database."""
READABLE: Final = frozenset(
    {
        DisclosureClass.TIMING,
        DisclosureClass.PARTIES,
        DisclosureClass.ROUTING,
        DisclosureClass.INGRESS_LEG,
        DisclosureClass.EGRESS_LEG,
    }
)
"""The classes that the billing role can select at all."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a permit lets be read.

    Times are microseconds since 1970-01-01 UTC, half-open. Record ids lie in (``after_id``, ``as_of``].
    """

    ocns: tuple[str, ...]
    sides: frozenset[str]
    start_us: int
    end_us: int
    classes: frozenset[DisclosureClass]
    as_of: int
    after_id: int = 0

    def __post_init__(self) -> None:
        if not self.ocns or not self.sides or self.start_us >= self.end_us:
            raise ValueError("a scope of nothing")
        if not self.classes <= READABLE or not self.sides <= set(SIDES):
            raise ValueError("a scope beyond what this role may read")

    def months(self) -> list[int]:
        """Return the months (yyyymm) of the window, in order."""
        return months_of(self.start_us, self.end_us)


def months_of(start_us: int, end_us: int) -> list[int]:
    """Return the months (yyyymm) of a window that is not empty, in order."""
    first = datetime.fromtimestamp(start_us // 1_000_000, UTC)
    last = datetime.fromtimestamp((end_us - 1) // 1_000_000, UTC)
    count = (last.year - first.year) * 12 + last.month - first.month + 1
    starts = (first.year * 12 + first.month - 1 + i for i in range(count))
    return [n // 12 * 100 + n % 12 + 1 for n in starts]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where an answer stands: records strictly after it come next. Rolling does not move it."""

    month: int
    pair_id: int
    record_id: int


class RowBlock:
    """Records on their way out: columns of the canonical record. A column that is not there is null throughout."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table that has at least ``record_id``."""
        self.table = table

    @property
    def rows(self) -> int:
        """How many records."""
        return int(self.table.num_rows)

    @property
    def record_ids(self) -> npt.NDArray[np.int64]:
        """Their store sequences, ascending within a pair."""
        return self.table.column("record_id").to_numpy()  # type: ignore[no-any-return]

    def slice(self, start: int, stop: int) -> RowBlock:
        """Return records ``[start, stop)``."""
        return RowBlock(self.table.slice(start, stop - start))
