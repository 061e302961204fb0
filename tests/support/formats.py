"""Helpers of the format tests: files from text, profiles from TOML, the whole of a file at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from proxy.formats.frame import FRAME_SCHEMA
from proxy.formats.parse import parse
from proxy.formats.profile import Profile, load_profile

DATA = Path(__file__).parent.parent / "data"
KAMAILIO = DATA / "kamailio" / "kamailio_acc_cdrs.csv"
TRUNKS = DATA / "kamailio" / "trunks.csv"
FREESWITCH = DATA / "freeswitch_cdr_pusher.csv"

CANONICAL = "started_at,ended_at,duration_ms,calling,called,ingress_call_id,ingress_ocn,egress_ocn,ingress_rate\n"
LINE = "2026-11-02T10:00:00Z,2026-11-02T10:01:00Z,60000,+12125550100,+12125550101,{},1001,2001,0.0042\n"


class Whole(NamedTuple):
    """Everything parse said about a file."""

    frame: pl.DataFrame
    identity: list[str]
    rejects: dict[int, str]
    """Line number → reason."""
    text: dict[int, bytes]
    """Line number → original line."""
    lines: int


def read_all(path: Path, profile: Profile | str = "tollgate", chunk_rows: int = 262_144) -> Whole:
    """Parse a whole file; holds on the way that each chunk adds up and has the frame's schema."""
    profile = load_profile(profile) if isinstance(profile, str) else profile
    frames = [pl.DataFrame(schema=FRAME_SCHEMA)]
    identity: list[str] = []
    rejects: dict[int, str] = {}
    text: dict[int, bytes] = {}
    lines = 0
    for part in parse(path, profile, chunk_rows):
        assert dict(part.frame.schema) == FRAME_SCHEMA
        assert len(part.frame) + len(part.rejects) == part.lines == len(part.identity) + len(part.rejects)
        assert len(part.rejects.lines) == len(part.rejects.reasons) == len(part.rejects.text)
        assert part.identity.null_count() == 0
        frames.append(part.frame)
        identity += part.identity.to_list()
        numbers = part.rejects.lines.tolist()
        rejects |= dict(zip(numbers, part.rejects.reasons, strict=True))
        text |= dict(zip(numbers, part.rejects.text, strict=True))
        lines += part.lines
    whole = Whole(pl.concat(frames), identity, rejects, text, lines)
    assert not set(whole.frame["line_number"]) & set(rejects)
    assert len(whole.frame) + len(rejects) == lines
    return whole


def write(folder: Path, content: str | bytes, name: str = "cdr.csv") -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def canonical(folder: Path, *lines: str | bytes) -> Path:
    """Write a canonical CSV with these data lines behind :data:`CANONICAL`."""
    data = [line.encode() if isinstance(line, str) else line for line in lines]
    return write(folder, CANONICAL.encode() + b"".join(data))


def profile_of(folder: Path, toml: str, name: str = "test.toml") -> Profile:
    """Load a profile from its text."""
    path = folder / name
    path.write_text(toml, encoding="utf-8")
    return load_profile(path)


MINIMAL = """
name = "minimal"
identity = ["ingress_call_id", "started_at"]
{top}
[file]
header = "no"
layouts = [["start", "id", "number", "trunk"]]
{file}
[times]
{times}
[numbers]
{numbers}
[fields]
started_at = "start"
ingress_call_id = "id"
calling = "number"
ingress_trunk = "trunk"
{fields}
"""


def minimal(
    folder: Path, *, top: str = "", file: str = "", times: str = "", numbers: str = "", fields: str = ""
) -> Profile:
    """Load a four-column profile without a header: start, id, number, trunk."""
    return profile_of(folder, MINIMAL.format(top=top, file=file, times=times, numbers=numbers, fields=fields))
