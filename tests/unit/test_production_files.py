"""A production's files: exact records, pages that hold all of them, a certificate as the rules ask; the same again."""

from __future__ import annotations

import csv
import io
import itertools
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pypdf import PdfReader

from proxy.legal.production import pages as pages_module
from proxy.legal.production.canonical import facts_bytes, read_facts
from proxy.legal.production.columns import csv_texts
from proxy.legal.production.layout import LABELS, PARTS_MAX, WIDTH, layout
from proxy.legal.production.model import LogPlace, ProductionError, Rule, Target
from proxy.legal.production.ordering import ordered
from proxy.legal.production.survey import Survey, survey
from schema.fields import BY_NAME, FIELDS, Kind
from tests.support.production import FIELDS as SHOWN
from tests.support.production import MADE_AT, certificate_text, drafted, facts, records, tables


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def text_of(data: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(io.BytesIO(data)).pages]


# --- records.csv ---------------------------------------------------------------------------------------------------


async def test_every_value_of_every_kind_stands_exactly_in_the_table() -> None:
    """Against Python's own formatting, value by value."""
    utc = pa.timestamp("us", "UTC")
    odd = ['a"b', "c,d", "e\r\nf", "", "=1+1", "\u0141\u00f3d\u017a \u202e", None]
    table = records(7).drop_columns(["disposition"])
    started = [datetime(2026, 1, 1, 0, 0, n, 123456 * (n % 2), tzinfo=UTC) for n in range(7)]
    table = table.set_column(table.schema.get_field_index("started_at"), "started_at", pa.array(started, utc))
    units = [0, 1, -1, 123_456_789, -123_456_789_012, 9_223_372_036_854_775_807, None]
    table = table.append_column("disposition", pa.array(odd, pa.string()))
    table = table.append_column("ingress_rate", pa.array(units, pa.int64()))
    fields = ("record_id", "started_at", "duration_ms", "disposition", "calling", "called", "ingress_rate", "account")
    made, parts = await drafted(table, fields=fields)
    found = rows_of(parts.file("records.csv"))
    assert list(found[0]) == ["no", "record_id", "started_at", "duration_ms", "disposition", "calling", "called",
                              "ingress_rate", "account"]  # fmt: skip
    for n, row in enumerate(found):
        assert row["no"] == str(n + 1)
        assert row["started_at"] == started[n].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert row["disposition"] == (odd[n] or "")
        assert row["calling"] == f"+{table['calling'][n]}"
        assert row["called"] == (table["called_raw"][n].as_py() or f"+{table['called'][n]}")
        unit = units[n]
        assert row["ingress_rate"] == ("" if unit is None else f"{Decimal(unit).scaleb(-8):.8f}")
        assert row["account"] == ""
    assert made.files[3].name == "records.csv"
    assert made.files[3].rows == 7


async def test_only_what_the_permit_shows_is_in_the_package_though_the_hold_has_more() -> None:
    """Fields of the hold beyond the permit's: provenance, which makes sources.csv, and whatever else a hold has."""
    secret = "SECRET-ACCOUNT"
    table = records(50).append_column("account", pa.array([secret] * 50))
    _, parts = await drafted(table)
    for (name, _), data in parts.kept.items():
        assert secret.encode() not in data, name
        if name.endswith(".pdf"):
            assert secret not in "".join(text_of(parts.file(name)))
    assert "line_number" not in rows_of(parts.file("records.csv"))[0]


async def test_a_field_that_no_record_has_is_refused_and_so_is_a_permit_that_shows_none() -> None:
    with pytest.raises(ProductionError, match="shows no field"):
        await drafted(records(1), fields=())
    with pytest.raises(ProductionError, match="no record has a field"):
        await drafted(records(1), fields=("started_at", "password"))


# --- order and memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("piece", "together"), [(1, 10_000), (997, 10_000), (10_000, 300), (64, 100)])
async def test_records_come_in_order_of_time_however_the_hold_cut_them(piece: int, together: int) -> None:
    table = records(500 if piece == 1 else 1_500, seed=3)
    wanted = table.sort_by([("started_at", "ascending"), ("record_id", "ascending")])["record_id"].to_pylist()
    found = await survey(tables(table, piece), facts())
    frames = [frame async for frame in ordered(tables(table, piece), found, together=together)]
    assert pl.concat(frames)["record_id"].to_list() == wanted
    if together < 1_500:
        # An hour is never cut; these 1,500 records lie in some 1,300 hours.
        assert len(frames) > 4
        assert max(frame.height for frame in frames) <= together


async def test_records_of_one_moment_come_by_their_ids() -> None:
    """However they lie in the hold: the store takes ids in the order in which records came."""
    at = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 200, pa.timestamp("us", "UTC"))
    table = records(200, started_at=at, record_id=np.random.default_rng(9).permutation(200))
    found = await survey(tables(table, 30), facts())
    frames = [frame async for frame in ordered(tables(table, 30), found, together=50)]
    assert pl.concat(frames)["record_id"].to_list() == list(range(200))


async def test_what_waits_on_the_disk_is_sealed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    table = records(600, disposition=pa.array(["PLAINTEXT-MARK"] * 600))

    class File(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return super().write(data)

    monkeypatch.setattr("proxy.legal.production.ordering.tempfile.TemporaryFile", lambda dir: File())
    found = await survey(tables(table), facts())
    rows = [frame.height async for frame in ordered(tables(table), found, together=100)]
    assert sum(rows) == 600
    assert written
    assert not any(b"PLAINTEXT-MARK" in data or b"record_id" in data for data in written)


async def test_the_same_records_cut_otherwise_give_the_same_bytes() -> None:
    one, kept = await drafted(records(1_200, seed=5), piece=1_200)
    for piece, together in ((100, 200_000), (100, 150), (7, 400)):
        again, other = await drafted(records(1_200, seed=5), piece=piece, together=together)
        assert again == one
        assert other.kept == kept.kept


async def test_another_number_of_records_than_was_extracted_stops_the_production() -> None:
    with pytest.raises(ProductionError, match="119 records where 120"):
        await drafted(records(119), rows=120)


async def test_a_hold_that_gives_other_records_the_second_time_is_noticed() -> None:
    looks = 0

    async def changing() -> Any:
        nonlocal looks
        looks += 1
        yield records(30 if looks == 1 else 29)

    from proxy.legal.production import building
    from tests.support.production import MemoryParts

    with pytest.raises(ProductionError, match="other records the second time"):
        await building.draft(facts(), changing, MemoryParts())


# --- pages ---------------------------------------------------------------------------------------------------------


async def test_every_page_says_case_number_window_and_its_own_place() -> None:
    made, parts = await drafted(records(130))
    found = text_of(parts.file("records.pdf"))
    assert len(found) == made.pages == made.files[4].pages > 2
    for n, text in enumerate(found):
        assert f"Page {n + 1} of {made.pages}" in text
        assert "Case C-ABCDEFGHIJ, production 1" in text
        assert "Number +12025550123" in text
        assert "2025-10-01 00:00 EDT to 2026-06-01 00:00 EDT (2025-10-01 04:00 to 2026-06-01 04:00 UTC)" in text
        assert "Grand jury subpoena (18 U.S.C. 2703(c)(2))" in text
    assert "Records 1 to " in found[0]
    assert "to 130 of 130." in found[-1]


async def test_the_pages_have_every_record_once_in_order_and_nothing_else() -> None:
    _, parts = await drafted(records(130))
    shown = [
        line.split()[0] for text in text_of(parts.file("records.pdf")) for line in text.splitlines()
        if re.match(r" *\d+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ?\d{4}", line)
    ]  # fmt: skip
    assert shown == [str(n) for n in range(1, 131)]


async def test_local_time_follows_daylight_saving() -> None:
    utc = pa.timestamp("us", "UTC")
    at = [datetime(2026, 3, 8, 6, 59, 59, tzinfo=UTC), datetime(2026, 3, 8, 7, 0, tzinfo=UTC)]
    _, parts = await drafted(records(2, started_at=pa.array(at, utc)))
    text = text_of(parts.file("records.pdf"))[0]
    assert "2026-03-08 01:59:59 EST" in text
    assert "2026-03-08 03:00:00 EDT" in text


async def test_very_many_pages_come_in_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "VOLUME_PAGES", 2)
    made, parts = await drafted(records(230), piece=50, together=60)
    volumes = [each for each in made.files if each.name.startswith("records-")]
    assert [each.name for each in volumes] == ["records-001.pdf", "records-002.pdf", "records-003.pdf"]
    assert sum(each.rows or 0 for each in volumes) == 230
    assert sum(each.pages or 0 for each in volumes) == made.pages
    place = shown = 0
    for n, each in enumerate(volumes):
        for text in text_of(parts.file(each.name)):
            place += 1
            assert f"Page {place} of {made.pages}" in text
            assert f"Volume {n + 1} of 3." in text
            first, last = re.findall(r"Records (\d+) to (\d+) of 230", text)[0]
            assert int(first) == shown + 1
            shown = int(last)
    assert place == made.pages


async def test_a_production_without_records_is_one_page_that_says_so() -> None:
    made, parts = await drafted(records(0))
    assert (made.rows, made.pages) == (0, 1)
    assert "No records were found" in text_of(parts.file("records.pdf"))[0]
    assert len(parts.file("records.csv").splitlines()) == 1
    assert "The search found no record." in certificate_text(parts).decode()


async def test_text_of_others_does_not_break_out_of_a_page() -> None:
    """A value is somebody else's: brackets, backslashes and controls are shown, not obeyed."""
    value = ") Tj ET (\\) \x1b[2J \u202e\u0141 \u00e9"
    _, parts = await drafted(records(1, disposition=pa.array([value])))
    text = text_of(parts.file("records.pdf"))[0]
    assert ") Tj ET (\\) ?[2J ?? \u00e9" in text
    assert rows_of(parts.file("records.csv"))[0]["disposition"] == value


async def test_long_values_go_on_and_only_beyond_four_lines_are_cut() -> None:
    room = WIDTH - 5
    whole = "".join(f"{n:05}" for n in range(PARTS_MAX * room // 5 - 2))
    longer = "".join(f"{n:05}" for n in range(10_000, 11_000))
    _, parts = await drafted(records(1, disposition=pa.array([whole])), fields=("started_at", "disposition"))
    text = "".join(text_of(parts.file("records.pdf"))[0].split())
    assert whole in text
    assert "[cut]" not in text
    _, parts = await drafted(records(1, disposition=pa.array([longer])), fields=("started_at", "disposition"))
    assert "[cut]" in text_of(parts.file("records.pdf"))[0]
    assert longer in parts.file("records.csv").decode()


def test_every_field_has_a_head_and_a_place_on_the_page() -> None:
    found = Survey(rows=1, longest={f.name: 26 if f.kind is Kind.TIME else 20 for f in FIELDS}, micros=True)
    laid = layout(FIELDS, found, "America/New_York")
    assert {cell.name for cell in laid.cells} == {*BY_NAME, "no", "local_start"} == set(LABELS)
    for line in range(laid.lines):
        cells = sorted((c for c in laid.cells if c.line == line), key=lambda c: c.at)
        for left, right in itertools.pairwise(cells):
            assert left.at + left.width < right.at
        assert cells[-1].at + cells[-1].width <= WIDTH
    assert laid.per_page >= 2


async def test_no_date_and_no_chance_is_in_a_page_but_the_productions_own() -> None:
    _, parts = await drafted(records(5))
    for name in ("records.pdf", "certificate.pdf"):
        info = PdfReader(io.BytesIO(parts.file(name))).metadata
        assert info is not None
        assert info.creation_date == MADE_AT


# --- the small files -----------------------------------------------------------------------------------------------


async def test_sources_give_file_lines_and_hash_of_each_input() -> None:
    _, parts = await drafted(records(100))
    found = rows_of(parts.file("sources.csv"))
    assert [(r["ingest"], r["file"], r["sha256"], r["records"], r["first_line"], r["last_line"]) for r in found] == [
        ("11", "switch-a-2025-10.csv", "a" * 64, "50", "1", "50"),
        ("12", "switch-b-2025-11.csv", "b" * 64, "50", "2", "51"),
    ]


async def test_records_of_an_input_that_nobody_knows_stop_the_production() -> None:
    with pytest.raises(ProductionError, match="1 inputs of the records"):
        await drafted(records(4, ingest_id=np.array([11, 12, 13, 13])))


async def test_many_targets_are_counted_on_the_page_and_listed_beside() -> None:
    many = tuple(Target("number", f"+1202555{n:04}") for n in range(100, 160))
    _, parts = await drafted(records(3), targets=many)
    assert "and 57 more, listed in targets.csv" in text_of(parts.file("records.pdf"))[0]
    assert [r["value"] for r in rows_of(parts.file("targets.csv"))] == [t.value for t in many]
    text = certificate_text(parts).decode()
    assert "60 targets, listed in targets.csv" in text
    assert "+12025550100" not in text


async def test_the_guide_has_every_column_in_its_order() -> None:
    _, parts = await drafted(records(3))
    text = parts.file("field-guide.txt").decode()
    found = [line for line in text.splitlines() if line in BY_NAME]
    assert found == [f.name for f in FIELDS if f.name in SHOWN]
    assert " ".join(text.split()).count("has no value in any record of this") == 2  # sip_code, redirecting


# --- the certificate -----------------------------------------------------------------------------------------------

ALWAYS = (
    "declaration under 28 U.S.C. 1746",
    "I declare under penalty of perjury that the foregoing is true and correct.",
    "Executed on:",
    "This draft certifies nothing until",
)
PARAGRAPHS = {
    Rule.BUSINESS_RECORD: ("at or near the time of the calls by", "regularly conducted activity", "regular practice"),
    Rule.ELECTRONIC_PROCESS: ("electronic process and system that produces an accurate result",),
    Rule.DIGITAL_COPY: ("data copied from electronic files", "process of digital identification"),
}


@pytest.mark.parametrize(
    "wanted", [frozenset(), *(frozenset([rule]) for rule in Rule), frozenset(Rule)], ids=lambda w: "+".join(sorted(w))
)
async def test_the_certificate_says_what_is_wanted_and_no_more(wanted: frozenset[Rule]) -> None:
    _, parts = await drafted(records(9), certifications=wanted)
    for data in (certificate_text(parts).decode(), " ".join(text_of(parts.file("certificate.pdf")))):
        text = " ".join(data.split())
        for sentence in ALWAYS:
            assert sentence in text
        for rule, sentences in PARAGRAPHS.items():
            assert all((s in text) == (rule in wanted) for s in sentences), rule
            assert (f"Rule {rule.value}." in text) == (rule in wanted)


async def test_the_certificate_names_query_counts_hashes_inputs_and_the_logs_receipt() -> None:
    place = LogPlace("gate.example/log", facts().production_id, 4711, "cm9vdA==")
    made, parts = await drafted(records(9), log=place, receipt=b'{"v":1}', system="Our switches are of one make.")
    text = certificate_text(parts).decode()
    flat = " ".join(text.split())
    own = ("certificate.txt", "certificate.pdf")
    for each in made.files:
        assert (each.sha256 in text) == (each.name not in own)
    for said in (
        "Custodian of Records of Example Carrier LLC", "number +12025550123", "2025-10-01T04:00:00Z",
        "2026-06-01T04:00:00Z", "The search found 9 records, on 1 page.", ", ".join(SHOWN),
        "switch-a-2025-10.csv", "a" * 64, "5 records, lines 1 to 5 of 1,000", "4711 entries", "cm9vdA==",
        "log-receipt.json", "Our switches are of one make.",
    ):  # fmt: skip
        assert said in flat


def test_facts_read_back_are_the_same_facts() -> None:
    whole = facts(
        log=LogPlace("gate.example/log", facts().production_id, 4711, "cm9vdA=="), receipt=b"\x00x", rows=3, system="s",
        access_note="n",
    )  # fmt: skip
    assert read_facts(facts_bytes(whole)) == whole
    assert facts_bytes(read_facts(facts_bytes(whole))) == facts_bytes(whole)


def test_a_coded_column_is_written_as_a_plain_one() -> None:
    plain = pl.DataFrame({"disposition": ["busy", None, "answered"]})
    coded = plain.with_columns(pl.col("disposition").cast(pl.Categorical))
    fields = [BY_NAME["disposition"]]
    assert csv_texts(coded, fields).equals(csv_texts(plain, fields))
