"""Trunk maps: effective dates, precedence, what contradicts itself, and mapping again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from proxy.formats.convert import remap
from proxy.formats.profile import ProfileError, load_profile
from proxy.formats.trunks import TrunkMap, TrunkMapError, address_port, entries_of, read_trunk_map
from tests.support.formats import TRUNKS, minimal, read_all, write


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def look(entries: list[dict[str, object]], trunk: str | None, when: str, switch: str | None = None) -> str | None:
    """Look one trunk up, among others that must not change its outcome."""
    frame = pl.DataFrame(
        {"switch": [None, switch, switch], "trunk": ["other", trunk, None], "at": [0, at(when), at(when)]},
        schema={"switch": pl.String, "trunk": pl.String, "at": pl.Int64},
    )
    found = TrunkMap(entries_of(entries, "test")).lookup("ingress", frame)
    assert (found[0], found[2]) == (None, None)
    result = found[1]
    assert result is None or isinstance(result, str)
    return result


def entry(**keys: object) -> dict[str, object]:
    return {"direction": "ingress", **keys}


def test_half_open_dates() -> None:
    entries = [
        entry(name="TG1", ocn="1001", to="2026-11-01"),
        entry(name="TG1", ocn="1002", **{"from": "2026-11-01", "to": "2026-12-01"}),
        entry(name="TG1", ocn="1003", **{"from": "2027-01-01"}),
    ]
    assert look(entries, "TG1", "2026-10-31T23:59:59") == "1001"
    assert look(entries, "TG1", "2026-11-01T00:00:00") == "1002"
    assert look(entries, "TG1", "2026-11-30T23:59:59") == "1002"
    assert look(entries, "TG1", "2026-12-01T00:00:00") == "unmapped"
    assert look(entries, "TG1", "2027-01-01T00:00:00") == "1003"
    assert look(entries, "TG2", "2027-01-01T00:00:00") is None


def test_the_more_particular_entry_wins_while_it_holds() -> None:
    entries = [
        entry(address="192.0.2.1", ocn="1001"),
        entry(address="192.0.2.1", port="5080", ocn="1002", to="2026-11-01"),
        entry(address="192.0.2.1", port="5080", ocn="1003", switch="east"),
    ]
    assert look(entries, "192.0.2.1:5060", "2026-10-01") == "1001"
    assert look(entries, "192.0.2.1", "2026-10-01") == "1001"
    assert look(entries, "192.0.2.1:5080", "2026-10-01") == "1002"
    assert look(entries, "192.0.2.1:5080", "2026-11-01") == "1001"
    assert look(entries, "192.0.2.1:5080", "2026-10-01", switch="east") == "1003"
    assert look(entries, "192.0.2.1:5080", "2026-10-01", switch="west") == "1002"
    assert look(entries, "192.0.2.10:5080", "2026-10-01") is None


def test_ipv6() -> None:
    entries = [entry(address="2001:db8::1", port="5060", ocn="1001"), entry(address="2001:db8::2", ocn="1002")]
    assert address_port("2001:db8::1", "5060") == "[2001:db8::1]:5060"
    assert look(entries, "[2001:db8::1]:5060", "2026-10-01") == "1001"
    assert look(entries, "[2001:db8::2]:5070", "2026-10-01") == "1002"
    assert look(entries, "2001:db8::2", "2026-10-01") == "1002"


def test_a_direction_is_its_own() -> None:
    trunks = TrunkMap(entries_of([{"direction": "egress", "name": "TG1", "ocn": "2001"}], "test"))
    frame = pl.DataFrame({"switch": ["s"], "trunk": ["TG1"], "at": [0]})
    assert trunks.lookup("egress", frame).to_list() == ["2001"]
    assert trunks.lookup("ingress", frame).to_list() == [None]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(name="a", ocn="1001"), entry(name="a", ocn="1002")], "overlap"),
        (
            [entry(name="a", ocn="1001", to="2026-11-02"), entry(name="a", ocn="1002", **{"from": "2026-11-01"})],
            "overlap",
        ),
        ([entry(name="a", ocn="10")], "OCN"),
        ([entry(name="a", ocn="none")], "state"),
        ([entry(name="a", ocn="unmapped")], "state"),
        ([entry(name="a", ocn="1001", to="soon")], "dates"),
        ([entry(name="a", ocn="1001", **{"from": "2026-11-02", "to": "2026-11-02"})], "later"),
        ([entry(name="a", address="192.0.2.1", ocn="1001")], "either"),
        ([entry(ocn="1001")], "either"),
        ([{"direction": "both", "name": "a", "ocn": "1001"}], "direction"),
        ([entry(name="a", ocn="1001", carrier="x")], "unknown key"),
    ],
)
def test_a_contradicting_map_is_refused(entries: list[dict[str, object]], message: str) -> None:
    with pytest.raises(TrunkMapError, match=message):
        entries_of(entries, "test")


def test_the_sample_map_and_its_errors(tmp_path: Path) -> None:
    assert [e.ocn for e in read_trunk_map(TRUNKS)] == ["1001", "1002", "1003", "2001", "2002"]
    path = write(tmp_path, TRUNKS.read_text() + "127.0.9.9,5060,sideways,1001\n", "bad.csv")
    with pytest.raises(TrunkMapError, match=r"bad\.csv, line 7: direction"):
        read_trunk_map(path)
    path = write(tmp_path, TRUNKS.read_text() + "127.0.9.9,5060\n", "short.csv")
    with pytest.raises(TrunkMapError, match=r"short\.csv, line 7"):
        read_trunk_map(path)
    with pytest.raises(ProfileError, match="cannot read the trunk map"):
        load_profile("kamailio-acc", trunk_map=tmp_path / "absent.csv")


INLINE = """
[[trunks]]
name = "TG1"
direction = "ingress"
ocn = "1001"
from = 2026-11-01
to = 2026-12-01
"""


def test_inline_and_file_maps_of_a_profile(tmp_path: Path) -> None:
    times_and_trunks = (("2026-10-31T23:59:59Z", "TG1"), *(("2026-11-01T00:00:00Z", t) for t in ("TG1", "TG2", "")))
    path = write(tmp_path, "".join(f"{time},id{i},,{t}\n" for i, (time, t) in enumerate(times_and_trunks)))
    expected = ["unmapped", "1001", "unmapped", "unmapped"]
    inline = minimal(tmp_path, fields=INLINE)
    assert read_all(path, inline).frame["ingress_ocn"].to_list() == expected
    write(tmp_path, "name,direction,ocn,from,to\nTG1,ingress,1001,2026-11-01,2026-12-01\n", "map.csv")
    assert read_all(path, minimal(tmp_path, top='trunk_map = "map.csv"')).frame["ingress_ocn"].to_list() == expected
    with pytest.raises(ProfileError, match="either"):
        minimal(tmp_path, top='trunk_map = "map.csv"', fields=INLINE)


def test_remap(tmp_path: Path) -> None:
    profile = minimal(tmp_path, fields=INLINE)
    inside, outside = datetime(2026, 11, 5, tzinfo=UTC), datetime(2026, 12, 5, tzinfo=UTC)
    rows = [
        # trunk, OCN before, time → OCN after
        ("TG1", "unmapped", inside, "1001"),
        ("TG1", "9999", inside, "1001"),
        ("TG1", "1001", outside, "unmapped"),
        ("TG2", "1005", inside, "1005"),
        ("TG2", "unmapped", inside, "unmapped"),
        (None, "unmapped", inside, "unmapped"),
    ]
    part = pl.DataFrame(
        {
            "switch_id": ["s"] * len(rows),
            "ingress_trunk": [r[0] for r in rows],
            "egress_trunk": [None] * len(rows),
            "ingress_ocn": [r[1] for r in rows],
            "egress_ocn": ["none"] * len(rows),
            "started_at": pl.Series([r[2] for r in rows], dtype=pl.Datetime("us", "UTC")),
        },
        schema_overrides={"egress_trunk": pl.String},
    )
    done = remap(part, profile)
    assert done.columns == ["ingress_ocn", "egress_ocn"]
    assert done["ingress_ocn"].to_list() == [r[3] for r in rows]
    assert done["egress_ocn"].to_list() == ["none"] * len(rows)
