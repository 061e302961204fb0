"""Profiles: the built-in ones on files in the form of their switch, the rules of the form, the canonical round trip."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from proxy.formats.frame import FILE_FIELDS, FRAME_SCHEMA
from proxy.formats.parse import parse
from proxy.formats.profile import BUILTIN, ProfileError, load_profile
from schema.fields import FIELDS, Kind
from tests.support.formats import CANONICAL, LINE, canonical, minimal, profile_of, read_all, write


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_profiles_load(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description


def test_the_canonical_profile_has_every_field_under_its_own_name() -> None:
    profile = load_profile("tollgate")
    assert {n: s.columns for n, s in profile.fields.items()} == {f.name: (f.name,) for f in FILE_FIELDS}


def test_the_frame_is_made_from_the_record() -> None:
    names = [f.name for f in FIELDS if f.name not in ("record_id", "ingest_id")]
    assert [n for n in FRAME_SCHEMA if not n.endswith("_raw")] == names
    assert [n for n in FRAME_SCHEMA if n.endswith("_raw")] == [f.name + "_raw" for f in FIELDS if f.kind is Kind.NUMBER]


def test_every_canonical_field_comes_through(tmp_path: Path) -> None:
    values = {
        Kind.TIME: "2026-11-02T10:00:00.000001Z",
        Kind.INT: "7",
        Kind.DECIMAL: "-12.00000001",
        Kind.TEXT: "text, with comma",
        Kind.NUMBER: "+12125550100",
    }
    special = {"ingress_ocn": "10AB", "egress_ocn": "none", "disposition": "busy", "called_lrn": "+12125550199"}
    special["calling_lrn"] = "2125550199"
    row = {f.name: special.get(f.name, values[f.kind]) for f in FILE_FIELDS}
    path = tmp_path / "all.csv"
    pl.DataFrame({k: [v] for k, v in row.items()}).write_csv(path)
    whole = read_all(path)
    assert whole.rejects == {}
    got = whole.frame.row(0, named=True)
    expected = {
        Kind.TIME: datetime(2026, 11, 2, 10, 0, 0, 1, tzinfo=UTC),
        Kind.INT: 7,
        Kind.DECIMAL: -12_00000001,
        Kind.TEXT: "text, with comma",
        Kind.NUMBER: 12125550100,
    }
    for field in FILE_FIELDS:
        assert got[field.name] == special.get(field.name, expected[field.kind]), field.name
    assert got["line_number"] == 2


def test_identity_tells_tuples_apart(tmp_path: Path) -> None:
    header = "started_at,switch_id,ingress_call_id,egress_call_id\n"
    rows = ["a,b,", "a,,b", ",a,b", "ab,c,", "a,bc,", "a,b,c", "ab,,c"]
    lines = [f"2026-11-02T10:00:00Z,{r}\n" for r in rows] + ["2026-11-02T10:00:01Z,a,b,\n"]
    path = write(tmp_path, header + "".join(lines))
    whole = read_all(path, load_profile("tollgate"))
    assert whole.rejects == {}
    assert len(set(whole.identity)) == len(lines)
    # The same instant written otherwise is the same identity.
    other = write(tmp_path, header + "2026-11-02T05:00:00.000-05:00,a,b,\n", "other.csv")
    assert read_all(other).identity == whole.identity[:1]


def test_money_is_exact(tmp_path: Path) -> None:
    texts = {
        "0.1": 10_000_000,
        "1": 100_000_000,
        "0.00000001": 1,
        "-0.00000001": -1,
        "9999999999.99999999": 10**18 - 1,
        "0.10": 10_000_000,
        "1.000000000000": 100_000_000,
        "": None,
    }
    path = canonical(tmp_path, *(LINE.format(i).replace("0.0042", t) for i, t in enumerate(texts)))
    assert read_all(path).frame["ingress_rate"].to_list() == list(texts.values())


def test_canonical_ocn_columns(tmp_path: Path) -> None:
    header = "started_at,ingress_call_id,ingress_ocn,ingress_trunk,egress_ocn,egress_trunk\n"
    rows = {
        "1001,TG1,2001,TG7": ("1001", "2001"),
        "1001,TG1,,": ("1001", "none"),
        "1001,TG1,,TG7": ("1001", "unmapped"),
        ",TG1,unmapped,": ("unmapped", "unmapped"),
        ",,none,": ("unmapped", "none"),
    }
    path = write(tmp_path, header + "".join(f"2026-11-02T10:00:00Z,id{i},{r}\n" for i, r in enumerate(rows)))
    assert read_all(path).frame.select("ingress_ocn", "egress_ocn").rows() == list(rows.values())


def test_without_any_egress_column_the_egress_is_unmapped_not_none(tmp_path: Path) -> None:
    """None is a claim (nothing was reached); a file that says nothing of the egress does not make it."""
    path = write(tmp_path, "started_at,ingress_call_id\n2026-11-02T10:00:00Z,a\n")
    assert read_all(path).frame["egress_ocn"].to_list() == ["unmapped"]


def asterisk(channels: str, times: str, seconds: str, disposition: str, unique: str) -> str:
    """A line of Master.csv; channels, times (of one day) and seconds are separated by ``;``."""
    source, target = channels.split(";")
    stamps = [f"2026-11-02 {t}" if t else "" for t in times.split(";")]
    cells = [
        "acct1",
        "+12125550100",
        "12125550101",
        "from-peer",
        '""Example"" <2125550100>',
        source,
        target,
        "Dial",
        "x",
    ]
    cells += [*stamps, *seconds.split(";"), disposition, "DOCUMENTATION", unique, ""]
    return ",".join(f'"{c}"' for c in cells) + "\n"


A, B, C = "PJSIP/carrier-a-0000001f", "PJSIP/carrier-b-00000020", "SIP/carrier-c-0000002b"
MASTER = [
    asterisk(f"{A};{B}", "10:00:00;10:00:05;10:01:05", "65;60", "ANSWERED", "1793613600.31"),
    asterisk(f"{A};{C}", "10:00:10;;10:00:40", "30;0", "NO ANSWER", "1793613610.42"),
    asterisk(f"{A};{C}", "10:00:10;;10:00:11", "1;0", "BUSY", "1793613610.44"),
    # One call forked to two channels: same uniqueid and start.
    asterisk(f"{A};{B}", "10:02:00;;10:02:09", "9;0", "CONGESTION", "1793613720.48"),
    asterisk(f"{A};{C}", "10:02:00;;10:02:09", "9;0", "FAILED", "1793613720.48"),
    asterisk("Local/5550102@ctx-00000033-1;", "10:03:00;;10:03:00", "0;0", "FAILED", "1793613780.51"),
]
TRUNK_CSV = "name,direction,ocn\ncarrier-a,ingress,1001\ncarrier-b,egress,2001\n"


def test_asterisk_master_csv(tmp_path: Path) -> None:
    trunks = write(tmp_path, TRUNK_CSV, "trunks.csv")
    profile = load_profile("asterisk-csv", trunk_map=trunks, zone="America/Chicago", switch_id="pbx-1")
    whole = read_all(write(tmp_path, "".join(MASTER), "Master.csv"), profile)
    assert whole.rejects == {}
    assert len(set(whole.identity)) == len(MASTER)
    first = whole.frame.row(0, named=True)
    assert first["started_at"] == datetime(2026, 11, 2, 16, 0, tzinfo=UTC)
    assert first["answered_at"] == datetime(2026, 11, 2, 16, 0, 5, tzinfo=UTC)
    assert first["duration_ms"] == 60_000
    assert (first["calling"], first["called"]) == (12125550100, 12125550101)
    assert (first["ingress_trunk"], first["egress_trunk"]) == ("carrier-a", "carrier-b")
    assert (first["switch_id"], first["account"], first["line_number"]) == ("pbx-1", "acct1", 1)
    frame = whole.frame
    assert frame["disposition"].to_list() == ["answered", "no_answer", "busy", "failed", "failed", "failed"]
    assert frame["egress_ocn"].to_list() == ["2001", "unmapped", "unmapped", "2001", "unmapped", "none"]
    assert frame["ingress_ocn"].to_list() == ["1001"] * 5 + ["unmapped"]
    assert frame["answered_at"].null_count() == 5
    assert frame["ingress_trunk"][5] == "Local/5550102@ctx-00000033-1"  # not of the pattern: as written


def test_asterisk_with_new_columns_and_a_wrong_line(tmp_path: Path) -> None:
    new = [line.rstrip("\n") + f',"peer","1793613600.31","{i}"\n' for i, line in enumerate(MASTER)]
    whole = read_all(write(tmp_path, "".join([*new, MASTER[0]])), "asterisk-csv")
    assert whole.rejects == {7: "columns.count"}
    assert len(whole.frame) == 6


FREESWITCH_LINE = (
    '"Example, Caller","+12125550100","12125550101","carrier-a","2026-11-02 10:00:00","{answer}","2026-11-02 10:01:05",'
    '"65","{billsec}","{cause}","{uuid}","{bleg}","acct1"{more}\n'
)


@pytest.mark.parametrize("codecs", ["", ',"PCMU","PCMU"'])
def test_freeswitch_default_template_has_no_header(tmp_path: Path, codecs: str) -> None:
    calls = [
        ("2026-11-02 10:00:05", "60", "NORMAL_CLEARING", "b1", "answered", 16, "unmapped"),
        ("", "0", "NORMAL_CLEARING", "b2", "cancelled", 16, "unmapped"),
        ("", "0", "ORIGINATOR_CANCEL", "b3", "cancelled", None, "unmapped"),
        ("", "0", "USER_BUSY", "b4", "busy", 17, "unmapped"),
        ("", "0", "NO_ANSWER", "b5", "no_answer", 19, "unmapped"),
        ("", "0", "UNALLOCATED_NUMBER", "", "failed", 1, "none"),
        ("", "0", "MEDIA_TIMEOUT", "", "failed", None, "none"),
    ]
    lines = [
        FREESWITCH_LINE.format(answer=c[0], billsec=c[1], cause=c[2], uuid=f"u{i}", bleg=c[3], more=codecs)
        for i, c in enumerate(calls)
    ]
    trunks = write(tmp_path, "name,direction,ocn\ncarrier-a,ingress,1001\n", "trunks.csv")
    whole = read_all(write(tmp_path, "".join(lines)), load_profile("freeswitch-csv", trunk_map=trunks))
    assert whole.rejects == {}
    frame = whole.frame
    assert frame.select("disposition", "cause_q850", "egress_ocn").rows() == [c[4:] for c in calls]
    assert frame["ingress_ocn"].unique().to_list() == ["1001"]
    assert frame["duration_ms"].to_list() == [60_000] + [0] * 6
    assert frame["name"][0] == "Example, Caller"
    assert frame["codec"][0] == ("PCMU" if codecs else None)
    assert frame["account"][0] == "acct1"


def test_a_cause_that_q850_does_not_know_is_rejected(tmp_path: Path) -> None:
    line = FREESWITCH_LINE.format(answer="", billsec="0", cause="{}", uuid="u", bleg="", more="")
    data = line.format("128") + line.format("127") + line.format("-1") + line.format("SOMETHING_NEW")
    whole = read_all(write(tmp_path, data), "freeswitch-csv")
    assert whole.rejects == {1: "integer.out_of_range", 3: "integer.out_of_range", 4: "integer.unreadable"}


def test_an_unknown_disposition_of_the_canonical_file_is_rejected(tmp_path: Path) -> None:
    data = "started_at,ingress_call_id,disposition\n2026-11-02T10:00:00Z,a,ANSWERED\n2026-11-02T10:00:00Z,b,answered\n"
    assert read_all(write(tmp_path, data)).rejects == {2: "disposition.unknown"}


def test_order_of_start_answer_and_end(tmp_path: Path) -> None:
    header = "started_at,answered_at,ended_at,ingress_call_id\n"
    minute = "2026-11-02T10:0{}:00Z"
    rows = [(1, 0, 2), (0, 2, 1), (0, 0, 0), (0, 1, 2)]
    lines = [",".join(minute.format(m) for m in r) + f",id{i}\n" for i, r in enumerate(rows)]
    whole = read_all(write(tmp_path, header + "".join(lines)))
    assert whole.rejects == {2: "time.answer_before_start", 3: "time.end_before_answer"}


ERRORS = {
    "unknown key": ('colour = "red"', "", "unknown key 'colour'"),
    "unknown file key": ("", 'seperator = ","', "unknown key 'seperator'"),
    "delimiter": ("", 'delimiter = ";;"', "delimiter must be one ASCII character"),
    "zone": ("", '[times]\nzone = "Mars/Olympus"', "no time zone name"),
    "format": ("", '[times]\nformats = ["iso"]', "neither a strptime pattern"),
    "field": ("", '[fields.callling]\ncolumn = "x"', "no field of the record"),
    "pattern": ("", '[fields.ingress_trunk]\ncolumn = "x"\npattern = "("', "pattern does not compile"),
    "no column": ("", "[fields.called]\noptional = true", "neither a column nor a value"),
    "region": ("", '[numbers]\ndefault_region = "usa"', "ISO 3166"),
    "ambiguous": ("", '[times]\nambiguous = "guess"', "one of earliest, latest, reject"),
    "when": ("", '[fields.called]\ncolumn = "x"\nwhen = "y"', "when is"),
}
BASE = 'identity = ["ingress_call_id", "started_at"]\n{}\n[fields]\nstarted_at = "s"\ningress_call_id = "i"\n{}\n'


@pytest.mark.parametrize(("top", "more", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_a_wrong_profile_says_what_is_wrong(tmp_path: Path, top: str, more: str, message: str) -> None:
    if more.startswith(("seperator", "delimiter")):
        more = "[file]\n" + more
    with pytest.raises(ProfileError, match=message) as caught:
        profile_of(tmp_path, BASE.format(top, more))
    assert "test.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("= nonsense", "not TOML"),
        ('identity = ["ingress_call_id"]\n[fields]\ningress_call_id = "i"', "started_at is missing"),
        ('identity = ["started_at"]\n[fields]\nstarted_at = "s"', "tells two calls"),
        ('identity = ["called"]\n[fields]\nstarted_at = "s"', "is not in"),
        (BASE.format("", '[file]\nheader = "no"'), "needs its columns"),
        (BASE.format("trunks = 7", ""), "trunks must be"),
    ],
)
def test_a_profile_that_cannot_work_is_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile_of(tmp_path, toml)


def test_profiles_by_name_and_path(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="built in are tollgate"):
        load_profile("toolgate")
    with pytest.raises(ProfileError, match="cannot read"):
        load_profile(tmp_path / "absent.toml")


def test_constants_conditions_and_absent_words(tmp_path: Path) -> None:
    profile = profile_of(
        tmp_path,
        BASE.format("", "")
        + 'switch_id = { column = "sw", value = "default", optional = true }\n'
        + 'called = { columns = ["d", "n"], absent = ["-", "0"] }\n'
        + 'answered_at = { column = "a", when = { column = "st", in = ["ok", "OK"] } }\n'
        + 'ingress_billed_s = "b"\n'
        + 'state = { column = "st", map = { ok = "NY" }, otherwise = "NJ" }\n',
    )
    header = "s,i,d,n,a,st,b\n"
    time = "2026-11-02T10:00:00Z"
    rows = [f"{time},1,-,2125550100,{time},ok,5", f"{time},2,+12125550101,x,{time},no,-5", f"{time},3,0,0,,,"]
    whole = read_all(write(tmp_path, header + "\n".join(rows)), profile)
    assert whole.rejects == {3: "duration.negative"}
    first, second = whole.frame.rows(named=True)
    assert first["switch_id"] == second["switch_id"] == "default"
    assert (first["called"], first["called_raw"]) == (None, "2125550100")  # no default region here
    assert (second["called"], second["called_raw"]) == (None, None)
    assert first["answered_at"] is not None
    assert second["answered_at"] is None
    assert (first["state"], second["state"]) == ("NY", None)


def test_a_chunk_can_refuse_lines_later(tmp_path: Path) -> None:
    path = write(tmp_path, CANONICAL + "".join(LINE.format(i) for i in range(5)))
    chunk = next(parse(path, load_profile("tollgate")))
    refused = chunk.refuse(chunk.frame["line_number"].to_numpy()[[1, 3]], "conflict")
    assert refused.lines.tolist() == [3, 5]
    assert refused.reasons == ["conflict", "conflict"]
    assert refused.text == [LINE.format(i).rstrip("\n").encode() for i in (1, 3)]


def test_minimal_profile_reads_by_position(tmp_path: Path) -> None:
    profile = minimal(tmp_path, numbers='default_region = "US"')
    whole = read_all(write(tmp_path, "2026-11-02T10:00:00Z,a,2125550100,TG1\n"), profile)
    assert whole.frame["calling"].to_list() == [12125550100]
    assert whole.frame["ingress_trunk"].to_list() == ["TG1"]


DOCS = Path(__file__).parents[2] / "deploy" / "docs" / "profiles.md"


def test_the_published_form_loads(tmp_path: Path) -> None:
    """The TOML blocks of profiles.md are a profile and its trunks."""
    form, trunks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    write(tmp_path, "address,port,direction,ocn\n192.0.2.1,5060,ingress,1001\n", "trunks.csv")
    profile = profile_of(tmp_path, form)
    assert profile.trunks.knows("ingress", "", "192.0.2.1:5060")
    inline = profile_of(tmp_path, BASE.format("", "") + trunks)
    assert [e.switch for e in inline.trunks.entries] == ["east"]


def test_every_reason_in_the_code_is_published() -> None:
    source = "".join(p.read_text() for p in (DOCS.parents[2] / "proxy" / "formats").glob("*.py"))
    codes = set(
        re.findall(
            r'"((?:line|time|duration|integer|decimal|cause|disposition|ocn|identity|columns)\.[a-z_]+)"', source
        )
    )
    published = set(re.findall(r"`([a-z]+\.[a-z_]+)`", DOCS.read_text()))
    assert codes
    assert codes == {c for c in published if not c.endswith(".csv")}
