"""The sample switch files, reconciled with what their makers counted."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from proxy.formats.profile import load_profile
from tests.support.formats import DATA, FREESWITCH, KAMAILIO, TRUNKS, Whole, read_all, write


@cache
def kamailio() -> Whole:
    return read_all(KAMAILIO, load_profile("kamailio-acc", trunk_map=TRUNKS))


def readme_tables() -> dict[str, list[list[str]]]:
    """Rows of the README's two reconciliation tables, by the first cell of their header."""
    out: dict[str, list[list[str]]] = {}
    for line in (DATA / "kamailio" / "README.md").read_text().splitlines():
        if not line.startswith("|"):
            continue
        cells = [c.strip() for c in line.strip("|").split("|")]
        if cells[0] in ("ingress trunk (OCN)", "egress (OCN)"):
            rows: list[list[str]] = []
            out[cells[0]] = rows
        elif out and re.match(r"\d|empty|total", cells[0]) and len(cells) > 5:
            rows.append(cells)
    return out


CODES = (200, 404, 480, 484, 486, 487, 503)


@pytest.mark.parametrize("row", readme_tables()["ingress trunk (OCN)"], ids=lambda r: r[0])
def test_ingress_cells_reconcile(row: list[str]) -> None:
    frame = kamailio().frame
    if found := re.search(r"\((\d{4})\)", row[0]):
        frame = frame.filter(pl.col("ingress_ocn") == found[1])
    assert [frame.filter(pl.col("sip_code") == c).height for c in CODES] == [int(c) for c in row[2:9]]
    assert frame.height == int(row[9]) == int(row[1])
    assert frame["duration_ms"].sum() == int(row[10].replace(".", "")) // 1000


@pytest.mark.parametrize("row", readme_tables()["egress (OCN)"], ids=lambda r: r[0])
def test_egress_cells_reconcile(row: list[str]) -> None:
    found = re.search(r"\((\d{4})\)", row[0])
    frame = kamailio().frame.filter(pl.col("egress_ocn") == (found[1] if found else "none"))
    assert [frame.filter(pl.col("sip_code") == c).height for c in CODES] == [int(c) for c in row[2:9]]
    assert frame.height == int(row[1].split()[0])


def test_kamailio_tables_were_found() -> None:
    assert {k: len(v) for k, v in readme_tables().items()} == {"ingress trunk (OCN)": 4, "egress (OCN)": 3}


def test_kamailio_numbers_by_form() -> None:
    """README, 'Forms of number'."""
    whole = kamailio()
    assert whole.lines == 3000
    assert whole.rejects == {}
    frame = whole.frame
    assert frame["called"].is_not_null().sum() == 3000 - 66
    assert frame["called_raw"].drop_nulls().str.contains("^555[0-9]{4}$").sum() == 66
    assert frame["called_lrn"].drop_nulls().str.contains(r"^\+1[0-9]{10}$").sum() == 93
    assert frame.filter(pl.col("calling_raw") == "anonymous").height == 160 - 76
    e164 = pl.concat([frame["calling"], frame["called"]]).drop_nulls().cast(pl.String)
    assert e164.str.contains(r"^1[2-9][0-9]{2}55501[0-9]{2}$").all()
    assert frame.select(pl.any_horizontal(pl.col("^.*_raw$").str.starts_with("+")).any()).item() in (False, None)


def test_kamailio_first_usable_number_wins() -> None:
    """Seven digits in caller and a P-Asserted-Identity: the latter; none: the seven digits, raw."""
    raw = pl.read_csv(KAMAILIO, separator="|", infer_schema=False, quote_char=None)
    joined = kamailio().frame.with_columns(raw.select("caller", "pai"))
    seven = joined.filter(pl.col("caller").str.contains("^[0-9]{7}$"))
    assert seven.height == 115
    with_pai = seven.filter(pl.col("pai").is_not_null())
    assert with_pai["calling"].is_not_null().all()
    assert with_pai.height > 0
    assert seven.filter(pl.col("pai").is_null())["calling_raw"].str.contains("^[0-9]{7}$").all()


def test_kamailio_times_agree_with_everything_the_file_says() -> None:
    """README, 'What a reader must not assume': the answer and the end are cut to seconds, the duration is exact."""
    raw = pl.read_csv(KAMAILIO, separator="|", infer_schema=False, quote_char=None)
    frame = kamailio().frame.with_columns(
        raw.select(s=pl.col("start_time").cast(pl.Int64), e=pl.col("end_time").cast(pl.Int64))
    )
    answered = frame.filter(pl.col("sip_code") == 200)
    failed = frame.filter(pl.col("sip_code") != 200)
    assert answered.height == 1717
    assert failed.select(pl.col("answered_at", "ended_at").is_null().all()).row(0) == (True, True)
    assert failed["duration_ms"].max() == 0
    held = answered.select(
        order=(pl.col("started_at") <= pl.col("answered_at")).all(),
        length=((pl.col("ended_at") - pl.col("answered_at")).dt.total_milliseconds() == pl.col("duration_ms")).all(),
        answer=((pl.col("answered_at").dt.epoch("us") // 1_000_000) == pl.col("s")).all(),
        end=((pl.col("ended_at").dt.epoch("us") // 1_000_000) == pl.col("e")).all(),
    )
    assert held.row(0) == (True, True, True, True)
    assert answered.filter((pl.col("s") == pl.col("e")) & (pl.col("duration_ms") > 0)).height == 802


def test_kamailio_start_is_the_setup_time_to_the_microsecond() -> None:
    """README: only setup_time means the same in all rows."""
    raw = pl.read_csv(KAMAILIO, separator="|", infer_schema=False, quote_char=None)["setup_time"]
    started = kamailio().frame["started_at"].dt.epoch("us").cast(pl.String)
    assert raw.str.contains(r"^[0-9]{10}\.[0-9]{6}$").all()
    assert started.to_list() == raw.str.replace(".", "", literal=True).to_list()


def test_kamailio_dispositions() -> None:
    counts = dict(kamailio().frame.group_by("disposition").len().iter_rows())
    assert counts == {"answered": 1717, "busy": 290, "cancelled": 376, "no_answer": 80, "failed": 278 + 66 + 193}


def test_kamailio_identities_are_unique_and_egress_learns_no_ingress_address() -> None:
    whole = kamailio()
    assert len(set(whole.identity)) == 3000
    egress = whole.frame.select(pl.col("^egress_.*$").cast(pl.String))
    assert not egress.select(pl.any_horizontal(pl.all().str.contains("127.0.1.", literal=True)).any()).item()


def test_kamailio_without_its_header_is_the_same(tmp_path: Path) -> None:
    body = KAMAILIO.read_bytes().split(b"\n", 1)[1]
    bare = read_all(write(tmp_path, body), load_profile("kamailio-acc", trunk_map=TRUNKS))
    assert bare.identity == kamailio().identity
    assert bare.frame.drop("line_number").equals(kamailio().frame.drop("line_number"))
    assert bare.frame["line_number"][0] == 1
    assert kamailio().frame["line_number"][0] == 2


def test_freeswitch_dirty_numbers() -> None:
    whole = read_all(FREESWITCH, "freeswitch-csv")
    assert whole.lines == 50
    assert whole.rejects == {}
    frame = whole.frame
    assert frame["called"].is_not_null().all()
    first = frame.row(0, named=True)
    assert (first["calling"], first["called"]) == (15622467846, 18022520510)  # 562-246-7846 x57324, 802-252-0510
    assert frame.row(1, named=True)["called"] == 16746830041  # 674.683.0041 x52643
    # Area codes cannot begin with 0: 27 to 50 stay raw, and what was written stays with them.
    assert frame["calling"].is_null().sum() == 24
    assert frame["calling_raw"].drop_nulls().str.contains("^1?0245672543(x[0-9]+)?$").all()
    assert frame.row(34, named=True)["calling_raw"] == "10245672543x4276"


def test_freeswitch_times_causes_and_names() -> None:
    frame = read_all(FREESWITCH, "freeswitch-csv").frame
    first = frame.row(0, named=True)
    assert first["started_at"].isoformat() == "2015-04-09T12:36:07.905639+00:00"  # nanoseconds are cut
    assert first["duration_ms"] == 279_000  # billsec, not duration
    assert first["cause_q850"] == 18
    assert first["disposition"] == "answered"
    assert first["name"] == "Wade Hegmann V"
    assert (first["ingress_ocn"], first["egress_ocn"]) == ("unmapped", "none")
