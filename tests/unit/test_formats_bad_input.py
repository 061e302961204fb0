"""Files that are not what they should be: a line is rejected with its reason, another kind of file is refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.formats.lines import LINE_MAX, read_blocks
from proxy.formats.parse import parse
from proxy.formats.profile import BUILTIN, load_profile
from proxy.formats.source import SourceError, file_digest, open_source
from tests.support.formats import CANONICAL, KAMAILIO, LINE, canonical, minimal, read_all, write

GOOD = LINE.format("good")


def changed(old: str, new: str) -> str:
    assert old in LINE
    return LINE.replace(old, new).format("bad")


BAD_LINES: dict[str, tuple[str | bytes, str]] = {
    "truncated": (GOOD[:40] + "\n", "columns.count"),
    "one column more": (GOOD[:-1] + ",x\n", "columns.count"),
    "empty": ("\n", "line.empty"),
    "NUL": (changed("0.0042", "0.0\x0042"), "nul"),
    "latin-1": (changed("{}", "caf@").encode().replace(b"@", b"\xe9"), "encoding"),
    "cut UTF-8": (changed("{}", "caf@").encode().replace(b"@", b"\xc3"), "encoding"),
    "surrogate": (changed("{}", "@").encode().replace(b"@", b"\xed\xa0\x80"), "encoding"),
    "too long": (changed("{}", "x" * LINE_MAX), "line.too_long"),
    "open quote": (changed("{}", '"abc'), "quote"),
    "quote inside": (changed("{}", 'a"b"c'), "quote"),
    "text behind quote": (changed("{}", '"a"b'), "quote"),
    "open quote over the line end": (GOOD[:-1] + '"\n', "quote"),
    "year 1": (changed("2026-11-02T10:00", "0001-01-01T00:00"), "time.out_of_range"),
    "year 9999": (changed("2026-11-02T10:01", "9999-12-31T23:59"), "time.out_of_range"),
    "year 1999": (changed("2026-11-02T10:00", "1999-12-31T23:59"), "time.out_of_range"),
    "year 2101": (changed("2026-11-02T10:01", "2101-01-01T00:00"), "time.out_of_range"),
    "no start": (changed("2026-11-02T10:00:00Z", ""), "time.missing"),
    "no such day": (changed("2026-11-02T10:00", "2026-02-29T10:00"), "time.unreadable"),
    "no such hour": (changed("T10:00", "T24:00"), "time.unreadable"),
    "no zone": (changed("10:00:00Z", "10:00:00"), "time.unreadable"),
    "words": (changed("2026-11-02T10:00:00Z", "yesterday"), "time.unreadable"),
    "other digits": (changed("2026-11-02T10:00:00Z", "２０２６-11-02T10:00:00Z"), "time.unreadable"),
    "end before start": (changed("T10:01", "T09:59"), "time.end_before_start"),
    "negative duration": (changed("60000", "-1"), "duration.negative"),
    "fractional negative": (changed("60000", "-0.4"), "duration.negative"),
    "endless duration": (changed("60000", "99999999999999"), "duration.out_of_range"),
    "no duration": (changed("60000", "1e3"), "duration.unreadable"),
    "not a duration": (changed("60000", "00:01:00"), "duration.unreadable"),
    "nine places": (changed("0.0042", "0.000000001"), "decimal.too_precise"),
    "thirty places": (changed("0.0042", "0." + "0" * 29 + "1"), "decimal.too_precise"),
    "exponent": (changed("0.0042", "4.2e-3"), "decimal.unreadable"),
    "comma": (changed("0.0042", '"0,0042"'), "decimal.unreadable"),
    "infinite": (changed("0.0042", "inf"), "decimal.unreadable"),
    "too much": (changed("0.0042", "99999999999"), "decimal.unreadable"),
    "small OCN": (changed("1001", "10ab"), "ocn.unreadable"),
    "long OCN": (changed("2001", "20011"), "ocn.unreadable"),
    "no call id": (changed("{}", ""), "identity.missing"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_rejected_with_its_reason_and_its_neighbours_are_not(
    line: str | bytes, reason: str, tmp_path: Path
) -> None:
    line = line.encode() if isinstance(line, str) else line
    whole = read_all(canonical(tmp_path, LINE.format("a"), LINE.format("b"), line, LINE.format("c")))
    assert whole.rejects == {4: reason}
    assert whole.frame["line_number"].to_list() == [2, 3, 5]
    assert whole.frame["ingress_call_id"].to_list() == ["a", "b", "c"]
    kept = whole.text[4]
    if reason == "line.too_long":
        assert len(kept) <= LINE_MAX
        assert kept.startswith(line[:1000])
        assert b"cut" in kept
        assert str(len(line) - 1).encode() in kept
    else:
        assert kept == line.removesuffix(b"\n")


def test_all_bad_lines_at_once_in_any_chunking(tmp_path: Path) -> None:
    lines: list[str | bytes] = []
    expected: dict[int, str] = {}
    for i, (line, reason) in enumerate(BAD_LINES.values()):
        lines += [line, LINE.format(f"good{i}")]
        expected[2 + 2 * i] = reason
    path = canonical(tmp_path, *lines)
    outcomes = [read_all(path, chunk_rows=rows) for rows in (1, 2, 7, 1000)]
    assert outcomes[0].rejects == expected
    for other in outcomes[1:]:
        assert other.rejects == expected
        assert other.identity == outcomes[0].identity
        assert other.frame.equals(outcomes[0].frame)
        assert other.text == outcomes[0].text


def test_line_ends_do_not_matter(tmp_path: Path) -> None:
    plain = read_all(canonical(tmp_path, LINE.format("a"), LINE.format("b")))
    for data in (
        CANONICAL + LINE.format("a") + LINE.format("b").rstrip("\n"),
        (CANONICAL + LINE.format("a") + LINE.format("b")).replace("\n", "\r\n"),
        (CANONICAL + LINE.format("a") + LINE.format("b")).replace("\n", "\r\n").rstrip("\n"),
        "\ufeff" + CANONICAL + LINE.format("a") + LINE.format("b"),
    ):
        other = read_all(write(tmp_path, data, "other.csv"))
        if data.endswith("\r"):
            continue  # what a lone CR at the end means is tested below
        assert other.frame.equals(plain.frame)
        assert other.rejects == {}


def test_a_rejected_line_keeps_no_line_end(tmp_path: Path) -> None:
    whole = read_all(canonical(tmp_path, "x,y\r\n", GOOD))
    assert whole.text == {2: b"x,y"}


def test_quoted_fields(tmp_path: Path) -> None:
    line = changed("{}", '"a,""b"",c"').replace("0.0042", '""').replace("60000", '"60000"')
    whole = read_all(canonical(tmp_path, line))
    row = whole.frame.row(0, named=True)
    assert row["ingress_call_id"] == 'a,"b",c'
    assert row["ingress_rate"] is None
    assert row["duration_ms"] == 60_000


def test_words_that_look_special_are_only_text(tmp_path: Path) -> None:
    ids = ["#comment", "NA", "null", "NaN", "none", "2026-01-01", "00123", " x ", "-", "true"]
    whole = read_all(canonical(tmp_path, *(LINE.format(i) for i in ids)))
    assert whole.frame["ingress_call_id"].to_list() == ids


def test_a_first_line_of_data_of_another_shape_does_not_spoil_the_rest(tmp_path: Path) -> None:
    whole = read_all(canonical(tmp_path, "a,b,c\n", *(LINE.format(i) for i in range(3))))
    assert whole.rejects == {2: "columns.count"}
    assert len(whole.frame) == 3


def refused(path: Path, profile: str = "tollgate") -> SourceError:
    """The refusal of a file, which must come before anything is yielded."""
    chunks = parse(path, load_profile(profile))
    with pytest.raises(SourceError) as caught:
        next(chunks)
    assert str(path) in str(caught.value)
    return caught.value


BINARY = bytes(range(256)) * 300


@pytest.mark.parametrize("profile", BUILTIN)
@pytest.mark.parametrize(
    "data",
    [
        BINARY,
        BINARY + b"\n" + BINARY,
        b"\x7fELF\x02\x01\x01\n\n",
        b"\xff\xfes\x00t\x00a\x00r\x00t\x00e\x00d\x00\n\x00",
        b"PK\x03\x04\x14\x00",
        b"some words\nand more words\n",
        b'{"started_at": 1}\n',
        b"\n\n\n",
        b"x" * 200_000,
        b"\xef\xbb\xbf",
        b"\0",
    ],
    ids=["bytes", "lines", "elf", "utf16", "zip", "prose", "json", "blank", "long", "bom", "nul"],
)
def test_another_kind_of_file_is_refused(profile: str, data: bytes, tmp_path: Path) -> None:
    error = refused(write(tmp_path, data), profile)
    assert error.line == 1
    assert error.todo
    assert profile in str(error)


@pytest.mark.parametrize("profile", ["tollgate", "freeswitch-csv", "asterisk-csv"])
def test_the_wrong_profile_is_refused(profile: str) -> None:
    assert refused(KAMAILIO, profile).line == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, CANONICAL.replace("started_at", "start") + GOOD)
    assert "no column started_at" in str(refused(path))
    path = write(tmp_path, KAMAILIO.read_bytes().replace(b"setup_time", b"setup", 1))
    assert "no column setup_time" in str(refused(path, "kamailio-acc"))


def test_a_column_that_is_no_field_is_named_and_shown_safely(tmp_path: Path) -> None:
    path = write(tmp_path, CANONICAL.replace("ingress_rate", "ingres_rate\x1b[31m") + GOOD)
    assert refused(path).line == 1
    path = write(tmp_path, CANONICAL.replace("ingress_rate", "ingres_räte") + GOOD)
    assert "ingres_r\\xe4te" in str(refused(path))


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, CANONICAL.replace("ended_at", "started_at") + GOOD)
    assert "twice" in str(refused(path))


def test_an_empty_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"")
    assert "empty" in str(refused(path))
    assert read_all(path, "kamailio-acc").lines == 0  # flatstore makes empty files when it rotates
    assert read_all(write(tmp_path, CANONICAL)).lines == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in str(refused(tmp_path / "absent.csv"))
    assert "directory" in str(refused(tmp_path))


def test_gzip_is_told_by_its_magic_and_is_the_same_file(tmp_path: Path) -> None:
    data = (CANONICAL + "".join(LINE.format(i) for i in range(1000))).encode()
    plain, zipped = write(tmp_path, data), write(tmp_path, gzip.compress(data), "other.csv")
    joined = write(tmp_path, gzip.compress(data[:5000]) + gzip.compress(data[5000:]), "members.csv")
    assert (
        file_digest(plain) == file_digest(zipped) == file_digest(joined) == (hashlib.sha256(data).digest(), len(data))
    )
    assert read_all(plain).frame.equals(read_all(zipped).frame)
    assert read_all(plain).frame.equals(read_all(joined).frame)


def test_a_truncated_gzip_names_file_and_line(tmp_path: Path) -> None:
    data = (CANONICAL + "".join(LINE.format(hashlib.sha256(b"%d" % i).hexdigest()) for i in range(60_000))).encode()
    path = write(tmp_path, gzip.compress(data, 1)[:-2000])
    chunks = parse(path, load_profile("tollgate"), 1000)
    seen = sum(next(chunks).lines for _ in range(10))
    assert seen == 10_000
    with pytest.raises(SourceError, match="truncated") as caught:
        list(chunks)
    assert caught.value.line is not None
    assert caught.value.line <= 60_001
    assert caught.value.line > 30_000
    with pytest.raises(SourceError, match="truncated") as caught:
        file_digest(path)
    assert caught.value.line is not None
    assert caught.value.line > 30_000


def test_a_corrupt_gzip_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress((CANONICAL + GOOD * 1000).encode()))
    data[len(data) // 2] ^= 0xFF
    path = write(tmp_path, bytes(data))
    with pytest.raises(SourceError):
        list(parse(path, load_profile("tollgate")))
    with pytest.raises(SourceError):
        file_digest(path)


def test_a_huge_line_is_rejected_without_being_held(tmp_path: Path) -> None:
    """1 GiB in one line (as gzip: some MiB on disk), good lines before and behind."""
    path = tmp_path / "huge.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write((CANONICAL + LINE.format("before")).encode())
        for _ in range(64):
            file.write(b"x" * (16 << 20))
        file.write(("\n" + LINE.format("behind")).encode())
    code = (
        "import sys, resource\n"
        "from pathlib import Path\n"
        "from tests.support.formats import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "whole = read_all(Path(sys.argv[1]))\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert whole.rejects == {3: 'line.too_long'}, whole.rejects\n"
        "assert whole.frame['line_number'].to_list() == [2, 4]\n"
        "assert str(1 << 30).encode() in whole.text[3] and len(whole.text[3]) <= 65536\n"
        "assert grown < 300 * 1024, grown\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mixed_encodings_and_a_profile_that_says_latin_1(tmp_path: Path) -> None:
    data = b"2026-11-02T10:00:00Z,caf\xe9,,t1\n2026-11-02T10:00:00Z,caf\xc3\xa9,,t1\n"
    path = write(tmp_path, data)
    utf8 = read_all(path, minimal(tmp_path))
    assert utf8.rejects == {1: "encoding"}
    assert utf8.frame["ingress_call_id"].to_list() == ["café"]
    latin = read_all(path, minimal(tmp_path, file='encoding = "iso-8859-1"'))
    assert latin.frame["ingress_call_id"].to_list() == ["café", "cafÃ©"]


LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([GOOD.rstrip().encode(), b'"', b",,,,,,,,", b"\r", b"\0", b'a,"b,c', b"\xff", b'"a""b",,,,,,,,']),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, max_size=12), st.sampled_from([1, 3, 1000]), st.booleans())
def test_no_line_is_ever_lost(lines: list[bytes], rows: int, ended: bool) -> None:
    """Whatever stands behind a good header, every physical line comes out once, as row or reject, byte for byte."""
    body = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    with tempfile.TemporaryDirectory() as folder:
        whole = read_all(write(Path(folder), CANONICAL.encode() + body), chunk_rows=rows)
    physical = body.split(b"\n")
    if physical[-1] == b"":
        physical.pop()
    assert whole.lines == len(physical)
    seen = whole.frame["line_number"].to_list() + list(whole.text)
    assert sorted(seen) == list(range(2, 2 + len(physical)))
    for number, text in whole.text.items():
        assert text == physical[number - 2].removesuffix(b"\r")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(BUILTIN), st.booleans())
def test_random_bytes_raise_nothing_but_source_errors(data: bytes, profile: str, zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), b"\x1f\x8b" + data if zipped else data)
        with contextlib.suppress(SourceError):
            whole = read_all(path, profile)
            assert whole.lines <= data.count(b"\n") + 1


CELL = st.text(st.sampled_from('ab,"\r\x0b\u2028é#'), max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8))
def test_quoted_cells_round_trip(ids: list[str]) -> None:
    """What RFC 4180 quoting can carry within one line comes out as it went in."""
    lines = [LINE.format('"' + i.replace('"', '""') + '"') for i in ids]
    with tempfile.TemporaryDirectory() as folder:
        whole = read_all(canonical(Path(folder), *lines))
    expected = {n + 2: i for n, i in enumerate(ids) if i}
    assert dict(zip(whole.frame["line_number"], whole.frame["ingress_call_id"], strict=True)) == expected
    assert set(whole.rejects.values()) <= {"identity.missing"}


LONG = b"L" * (LINE_MAX + 5_000)  # longer than the smallest blocks, so that it is skipped in pieces


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"", b"a", b"bc\r", b"\r", LONG, LONG[:LINE_MAX], LONG[:LINE_MAX] + b"\r", LONG + b"\r"]),
        max_size=8,
    ),
    st.booleans(),
    st.sampled_from([1000, 30_000, LINE_MAX, LINE_MAX + 1, 1 << 20]),
)
def test_lines_do_not_depend_on_where_blocks_end(lines: list[bytes], ended: bool, size: int) -> None:
    body = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    physical = body.split(b"\n")
    if physical[-1] == b"":
        physical.pop()
    found: list[tuple[int, bytes]] = []
    with tempfile.TemporaryDirectory() as folder, open_source(write(Path(folder), body)) as source:
        for block in read_blocks(source, size):
            found += [(block.first + i, block.text(i)) for i in range(len(block))]
    assert [n for n, _ in found] == list(range(1, 1 + len(physical)))
    for (_, text), line in zip(found, physical, strict=True):
        content = line.removesuffix(b"\r")
        if len(content) <= LINE_MAX:
            assert text == content
        else:
            assert len(text) == LINE_MAX
            assert b"has %d bytes" % len(content) in text
