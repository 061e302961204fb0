"""Trunk → OCN maps with effective dates, and the OCN of each leg of a call.

A trunk is named as the switch names it: a trunk group, or the address and port of the peer. An entry holds for one
direction, from ``start`` (inclusive) until ``end`` (exclusive), both UTC; entries of one trunk may follow one another
but not overlap. A trunk in no map, or in none at the time of the call, gives ``unmapped``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from proxy.formats.frame import nulls
from schema.fields import OCN_UNMAPPED, ocn_code

DIRECTIONS: Final = ("ingress", "egress")
FOREVER_US: Final = 2**62
"""End of an entry without one, µs."""


class TrunkMapError(Exception):
    """A trunk map is unreadable or contradicts itself; the message says where."""


@dataclass(frozen=True, slots=True)
class TrunkEntry:
    """One trunk, one direction, one carrier, one period."""

    direction: str
    trunk: str
    """The trunk's name, ``address:port``, or an address alone (any port)."""
    ocn: str
    start_us: int = -FOREVER_US
    end_us: int = FOREVER_US
    switch: str = ""
    """Only trunks of this switch; empty: of any."""


def address_port(address: str, port: str) -> str:
    """Return ``address:port`` (IPv6 in brackets), or the address alone where there is no port."""
    if not port:
        return address
    if ":" in address and not address.startswith("["):
        address = f"[{address}]"
    return f"{address}:{port}"


def _instant(value: object, where: str, default: int) -> int:
    if value is None or value == "":
        return default
    moment: datetime
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    else:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise TrunkMapError(f"{where}: from and to are dates such as 2026-11-01") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


_KEYS = frozenset({"address", "port", "name", "direction", "ocn", "from", "to", "switch"})


def _entry(row: Mapping[str, Any], where: str) -> TrunkEntry:
    if unknown := sorted(set(row) - _KEYS):
        raise TrunkMapError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    text = {k: str(row.get(k) or "").strip() for k in ("address", "port", "name", "direction", "ocn", "switch")}
    if bool(text["address"]) == bool(text["name"]):
        raise TrunkMapError(f"{where}: a trunk has either an address (and port) or a name")
    if text["direction"] not in DIRECTIONS:
        raise TrunkMapError(f"{where}: direction is ingress or egress")
    try:
        code = ocn_code(text["ocn"])
    except ValueError as error:
        raise TrunkMapError(f"{where}: {error}") from None
    if code < 0:
        raise TrunkMapError(f"{where}: a trunk maps to a carrier's OCN, not to a state")
    start = _instant(row.get("from"), where, -FOREVER_US)
    end = _instant(row.get("to"), where, FOREVER_US)
    if start >= end:
        raise TrunkMapError(f"{where}: 'to' (exclusive) must be later than 'from'")
    trunk = text["name"] or address_port(text["address"], text["port"])
    return TrunkEntry(text["direction"], trunk, text["ocn"], start, end, text["switch"])


def entries_of(rows: Iterable[Mapping[str, Any]], what: str, first: int = 1) -> tuple[TrunkEntry, ...]:
    """Return the entries of inline tables or CSV rows.

    Args:
        rows: mappings with ``direction``, ``ocn``, and ``address`` (``port``) or ``name``; optional ``from``, ``to``,
            ``switch``.
        what: what the rows belong to, for messages.
        first: number of the first row, for messages.

    Raises:
        TrunkMapError: if an entry is wrong or two of one trunk overlap.
    """
    entries = tuple(_entry(row, f"{what} {first + i}") for i, row in enumerate(rows))
    last: dict[tuple[str, str, str], TrunkEntry] = {}
    for entry in sorted(entries, key=lambda e: (e.direction, e.switch, e.trunk, e.start_us)):
        key = (entry.direction, entry.switch, entry.trunk)
        if key in last and entry.start_us < last[key].end_us:
            raise TrunkMapError(f"{what}: the entries of {entry.direction} trunk {entry.trunk!r} overlap in time")
        last[key] = entry
    return entries


def read_trunk_map(path: Path) -> tuple[TrunkEntry, ...]:
    """Read a trunk map: CSV with a header, columns ``address,port,direction,ocn`` or ``name,direction,ocn``.

    Optional columns are ``from``, ``to`` (half-open, UTC) and ``switch``.

    Raises:
        TrunkMapError: naming file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrunkMapError(f"cannot read the trunk map {path}: {error}") from None
    for i, row in enumerate(rows):
        if None in row or None in row.values():
            raise TrunkMapError(f"{path}, line {i + 2}: not as many columns as the header")
    return entries_of(rows, f"{path}, line", first=2)


class TrunkMap:
    """The entries of one profile, ready to be looked up for whole columns."""

    def __init__(self, entries: Sequence[TrunkEntry]) -> None:
        self.entries = tuple(entries)
        self._index: dict[tuple[str, str, str], list[TrunkEntry]] = {}
        for entry in self.entries:
            self._index.setdefault((entry.direction, entry.switch, entry.trunk), []).append(entry)

    def _candidates(self, direction: str, switch: str, trunk: str) -> list[list[TrunkEntry]]:
        """Entry lists for a trunk, the most particular first: this switch before any, the port before the address."""
        names = [trunk]
        address, colon, port = trunk.rpartition(":")
        if colon and port.isdigit():
            names.append(address)
            if address.startswith("[") and address.endswith("]"):
                names.append(address[1:-1])
        keys = [(direction, s, n) for n in names for s in ([switch, ""] if switch else [""])]
        return [self._index[k] for k in keys if k in self._index]

    def knows(self, direction: str, switch: str, trunk: str) -> bool:
        """Tell whether any entry, of whatever period, names this trunk."""
        return bool(self._candidates(direction, switch, trunk))

    def lookup(self, direction: str, frame: pl.DataFrame) -> pl.Series:
        """Return the OCN for each row.

        Args:
            direction: ``ingress`` or ``egress``.
            frame: columns ``switch`` and ``trunk`` (String, nullable), ``at`` (Int64 µs UTC).

        Returns:
            String series as long as the frame: an OCN; ``unmapped`` where the map knows the trunk but not at that time;
            null where no entry names the trunk (or there is none).
        """
        if not self.entries:
            return nulls(frame.height, pl.String())
        pairs = frame.select("switch", "trunk").unique()
        rows: list[tuple[str | None, str, int, int, int, str]] = []
        for switch, trunk in pairs.iter_rows():
            if trunk is None:
                continue
            found = self._candidates(direction, switch or "", trunk)
            rows.extend((switch, trunk, rank, e.start_us, e.end_us, e.ocn) for rank, es in enumerate(found) for e in es)
            if found:
                rows.append((switch, trunk, len(found), -FOREVER_US, FOREVER_US, OCN_UNMAPPED))
        if not rows:
            return nulls(frame.height, pl.String())
        columns = {
            "switch": pl.String,
            "trunk": pl.String,
            "rank": pl.Int32,
            "start": pl.Int64,
            "end": pl.Int64,
            "ocn": pl.String,
        }
        known = pl.DataFrame(rows, schema=columns, orient="row")
        # Join on the trunk, then keep the period: entries of one rank do not overlap, so the lowest rank is one row.
        frame = frame.with_row_index("row")
        joined = frame.join(known, on=["switch", "trunk"], how="inner", nulls_equal=True)
        joined = joined.filter((pl.col("start") <= pl.col("at")) & (pl.col("at") < pl.col("end")))
        best = joined.sort("row", "rank").unique("row", keep="first", maintain_order=True).select("row", "ocn")
        return frame.select("row").join(best, on="row", how="left", maintain_order="left")["ocn"]
