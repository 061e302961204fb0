"""What of the log others than the legal desk are not shown: entries of cases under an order of non-disclosure.

PostgreSQL says which cases those are (`tollgate.secret_cases`, migration 0016; the rule is proxy/legal/secrecy.py).
Their entries are known by the keyed tag of the case, so nothing is opened for it, and what they hold need not be there
any more. Where a month's tags cannot be made again, whatever may be a case's is left out; and the desk's own changes
always are, for not all of them name a case. Both whether or not any case is secret now: entries that vanished when one
was opened would tell of it. Nothing says that something was left out, or how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from keys.datakeys import DataKeys
from keys.errors import KeyUnavailable
from keys.provider import Period
from proxy.ledger import encoding
from proxy.ledger.batch import TAG_CLASS
from proxy.ledger.model import Kind, OpenedEntry, Tag, month_of

_CASES: Final = "SELECT case_id FROM tollgate.secret_cases() AS s (case_id)"

DESK_KINDS: Final = frozenset({Kind.CASE_STATE, Kind.CASE_READ, Kind.HOLD_STATE, Kind.PRODUCTION_STATE})
"""Entries that are always some case's."""

DESK_CHANGES: Final = frozenset({"hold.lift", "secrecy.lift"})
"""Kinds of change that are the desk's, and name no case where they are decided."""

Row = TypeVar("Row", bound=Mapping[str, Any])


class Withheld:
    """Which entries are left out, as of the time it was made.

    Args:
        keys: the data keys; those of the tags are asked for.
        cases: ids of the cases that are left out; None for the legal desk, which is shown all.
    """

    def __init__(self, keys: DataKeys, cases: frozenset[str] | None) -> None:
        self._keys = keys
        self.cases = cases
        self._tags: dict[int, frozenset[bytes] | None] = {}

    @classmethod
    async def of(cls, conn: asyncpg.Connection, keys: DataKeys) -> Withheld:
        """Ask PostgreSQL (role LOG) which cases are to be left out now."""
        return cls(keys, frozenset(r["case_id"] for r in await conn.fetch(_CASES)))

    async def rows(self, conn: asyncpg.Connection, rows: Sequence[Row]) -> list[Row]:
        """Return the rows (``at``, ``kind``, ``tags``) that may be shown."""
        if self.cases is None:
            return list(rows)
        await self._load(conn, {month_of(row["at"]) for row in rows})
        return [row for row in rows if not self.hides(month_of(row["at"]), row["kind"], row["tags"])]

    def hides(self, month: int, kind: str, stored: bytes) -> bool:
        """Say whether an entry is left out, by its stored tags; of a month that was loaded."""
        if self.cases is None:
            return False
        tags = self._tags[month]
        if tags is None:
            return kind in DESK_KINDS
        size = encoding.TAG_BYTES
        return any(bytes(stored[i : i + size]) in tags for i in range(0, len(stored), size))

    def shows(self, entry: OpenedEntry) -> bool:
        """Say whether an opened entry may be shown: it may name a case that its tags do not."""
        return self.tells(month_of(entry.at), entry.kind, entry.request, entry.actor)

    def tells(self, month: int, kind: Kind, asked: Mapping[str, Any] | None, actor: Mapping[str, Any] | None) -> bool:
        """Say whether what an entry says may be shown; None is what is erased. Of a month that was loaded."""
        if self.cases is None:
            return True
        if asked is None:
            # Whose it was, where its tags cannot tell, is not known: a carrier's client acts in no case.
            blind = self._tags.get(month, ()) is None
            return not blind or actor is None or "client_id" in actor
        if kind is Kind.CHANGE_STATE and asked.get("kind") in DESK_CHANGES:
            return False
        payload = asked.get("payload")
        named = {asked.get("case"), payload.get("case") if isinstance(payload, dict) else None}
        return self.cases.isdisjoint(named)

    async def load(self, conn: asyncpg.Connection, month: int) -> None:
        """Make a month's tags, for `hides`."""
        if self.cases is not None:
            await self._load(conn, {month})

    async def _load(self, conn: asyncpg.Connection, months: set[int]) -> None:
        cases = sorted(self.cases or ())
        for month in sorted(months - self._tags.keys()):
            period = Period(TAG_CLASS, month)
            try:
                key = (await self._keys.load(conn, [period])).get(period)
            except KeyUnavailable:
                key = None
            if key is None:
                self._tags[month] = None
                continue
            column = encoding.tag_column(key.secret, [Tag("case", case.encode()) for case in cases])
            size = encoding.TAG_BYTES
            self._tags[month] = frozenset(column[i : i + size] for i in range(0, len(column), size))
