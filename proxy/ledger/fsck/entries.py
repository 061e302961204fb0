"""Each entry by itself, and against its neighbours: header, columns, leaf, tags, openings, time. Pure.

The header is the authority for its entry; whether the header is the one that was logged only the tree can tell.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from proxy.ledger import encoding
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import Facts, Line, Lost, Report, Where
from proxy.ledger.model import PARTS, Kind, LedgerBroken, month_of
from proxy.ledger.retention import spans_of

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
# Canonical base64url: the bits of the last character that stand for nothing are zero.
_HASH = "[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
_SALT = "[A-Za-z0-9_-]{21}[AQgw]"
_PARTS = "".join(rf'(?:"{name}":"({_HASH})"(?:,(?=")|(?=\}})))?' for name in ("actor", "outcome", "records", "request"))
_HEADER = re.compile(
    rf'\{{(?:"access":"({_UUID})",)?"at":"({_TIME})","id":"({_UUID})","kind":"([a-z.]+)","parts":\{{{_PARTS}\}},'
    rf'"salt":"{_SALT}",(?:"tags":"({_HASH})",)?"v":1\}}'
)
_ONE_HASH = re.compile(_HASH)
_KINDS = {kind.value for kind in Kind}
_OPENING = {
    part: re.compile(rb'\{"part":"%s","salt":"%s","v":1,"value":\{' % (part.encode(), _SALT.encode())) for part in PARTS
}
_STANDARD = bytes.maketrans(b"-_", b"+/")


class Read(NamedTuple):
    """A header in the form that checks need; commitments in base64url."""

    entry_id: str
    kind: str
    at: datetime
    access_id: str | None
    commits: dict[str, str]
    tags: str | None


def read(index: int, data: bytes) -> Read:
    """Parse a header; the pattern is the canonical form itself, so it needs no writing again.

    Raises:
        LedgerBroken: if it is not a header of version 1 in canonical form.
    """
    found = _HEADER.fullmatch(data.decode("latin-1"))
    if found is not None:
        access, at, entry_id, kind, actor, outcome, records, request, tags = found.groups()
        if kind in _KINDS:
            try:
                when = datetime.fromisoformat(at)
            except ValueError:
                raise LedgerBroken(index, "its header cannot be read") from None
            commits = {"actor": actor, "request": request, "outcome": outcome, "records": records}
            if None in commits.values():
                commits = {part: commit for part, commit in commits.items() if commit is not None}
            return Read(entry_id, kind, when, access, commits, tags)
    # A form that the pattern does not know. The one who wrote the form has the last word.
    slow = encoding.read_header(index, data)
    if slow.tags is not None and _ONE_HASH.fullmatch(slow.tags) is None:
        raise LedgerBroken(index, "its header's commitment to tags is not base64url")
    access = None if slow.access_id is None else str(slow.access_id)
    return Read(str(slow.entry_id), slow.kind.value, slow.at, access, slow.commits, slow.tags)


def committed(data: bytes, commit: str) -> bool:
    """Whether ``commit`` (base64url, canonical) is of these bytes; cheaper than writing the commitment again."""
    return hashlib.sha256(data).digest() == binascii.a2b_base64(commit.encode().translate(_STANDARD) + b"=")


class EntryCheck:
    """Checks entries one after the other.

    Args:
        facts: what the source says of the whole.
        report: where what was checked is counted.
        found: where findings go.
    """

    def __init__(self, facts: Facts, report: Report, found: Findings) -> None:
        self._facts = facts
        self._report = report
        self._found = found
        self._at = datetime.min.replace(tzinfo=UTC)
        self.origins: list[tuple[int, dict[str, Any] | None]] = []
        """Of each log.origin entry its index and its request; None where that is not to be had."""

    @property
    def last_at(self) -> datetime:
        """Time of the last entry seen."""
        return self._at

    def check(self, line: Line) -> bytes:
        """Check one entry; return the leaf hash that its header gives."""
        index = line.idx
        self._report.entries += 1
        for fault in line.faults:
            self._found.add(Where.ENTRY, fault, index)
        data = hashlib.sha256(line.header).digest()
        leaf = hashlib.sha256(b"\x00" + data).digest()
        if line.leaf is not None and line.leaf != leaf:
            self._found.add(Where.ENTRY, "its leaf is not its header's", index)
        try:
            header = read(index, line.header)
        except LedgerBroken as error:
            self._found.add(Where.ENTRY, error.what, index)
            return leaf
        if line.columns is not None:
            entry_id, kind, at, access = line.columns
            stored = (str(entry_id), kind, at, None if access is None else str(access))
            if stored != (header.entry_id, header.kind, header.at, header.access_id):
                self._found.add(Where.ENTRY, "its columns are not what its header says", index)
        if (header.tags is not None and not committed(line.tags, header.tags)) or (header.tags is None) != (
            not line.tags
        ):
            self._found.add(Where.TAG, "its tags are not what its header commits to", index)
        elif len(line.tags) > encoding.TAG_BYTES and not _sorted(line.tags):
            self._found.add(Where.TAG, "its tags are not in order", index)
        if header.at < self._at:
            self._found.add(Where.ENTRY, "its time is before that of the entry before it", index)
        self._at = header.at
        if line.openings is not None:
            self._openings(line, header)
        if header.kind == Kind.LOG_ORIGIN.value:
            self.origins.append((index, self._request(line, header)))
        elif header.kind == Kind.LOG_ERASE.value:
            self._erasure(line, header)
        return leaf

    def _erasure(self, line: Line, header: Read) -> None:
        """An erasure names what it takes away: one that does not was written by nobody who erases."""
        request = self._request(line, header)
        said = "request" in header.commits
        if said and request is not None:
            try:
                spans_of(request)
            except (KeyError, TypeError, ValueError):
                said = False
        if not said:
            self._found.add(Where.ENTRY, "it is an erasure that does not say what was erased", line.idx)

    @staticmethod
    def _request(line: Line, header: Read) -> dict[str, Any] | None:
        data = (line.openings or {}).get("request")
        try:
            return (
                encoding.read_opening(line.idx, "request", data, header.commits.get("request", ""))
                if isinstance(data, bytes)
                else None
            )
        except LedgerBroken:
            return None

    def _openings(self, line: Line, header: Read) -> None:
        assert line.openings is not None
        openings = line.openings
        for part in () if openings.keys() <= header.commits.keys() else openings.keys() - header.commits.keys():
            data = openings[part]
            # Of a part that it does not have an entry has an empty chunk, whose key may be gone like any other.
            if isinstance(data, Lost):
                if data.why != KEY_GONE:
                    self._found.add(Where.OPENING, f"its empty {part} {data.why}", line.idx)
            elif data:
                self._found.add(Where.OPENING, f"it has a {part} that its header does not commit to", line.idx)
        for part, commit in header.commits.items():
            found = openings.get(part)
            if isinstance(found, bytes):
                self._report.openings += 1
                if not committed(found, commit):
                    self._found.add(Where.OPENING, f"its {part} is not what the header commits to", line.idx)
                elif _OPENING[part].match(found) is None or not found.endswith(b"}}"):
                    self._found.add(Where.OPENING, f"its {part} is not an opening of version 1", line.idx)
            elif found is None and part in self._facts.withheld:
                continue
            else:
                self._gone(line.idx, part, month_of(header.at), found)

    def _gone(self, index: int, part: str, month: int, lost: Lost | None) -> None:
        policy = self._facts.erased(part, month)
        if policy is not None and (lost is None or lost.why == KEY_GONE):
            self._report.erased[policy] = self._report.erased.get(policy, 0) + 1
            return
        why = "does not stand" if lost is None else lost.why
        self._found.add(Where.OPENING, f"its {part} {why}, and no log.erase entry says that {month} was erased", index)


KEY_GONE = "has lost its key"
"""Why an opening that stands cannot be had: its period's key is destroyed, or in no keyring of this process."""


def _sorted(tags: bytes) -> bool:
    width = encoding.TAG_BYTES
    each = [tags[at : at + width] for at in range(0, len(tags), width)]
    return len(tags) % width == 0 and all(a < b for a, b in pairwise(each))
