"""Facts as canonical JSON and back: what is pinned of a production, sealed, and what its digest is over."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from proxy.legal.production.model import (
    Custodian,
    Facts,
    FileFact,
    InputFile,
    LogPlace,
    Rule,
    Target,
)


def facts_bytes(facts: Facts) -> bytes:
    """Return facts as canonical JSON."""
    log = facts.log
    value = {
        "v": 1,
        "production_id": str(facts.production_id),
        "case_id": facts.case_id,
        "number": facts.number,
        "carrier": facts.carrier,
        "instrument": facts.instrument,
        "instrument_title": facts.instrument_title,
        "citation": facts.citation,
        "agency": facts.agency,
        "reference": facts.reference,
        "targets": [[each.kind, each.value] for each in facts.targets],
        "window_start": _time(facts.window_start),
        "window_end": _time(facts.window_end),
        "timezone": facts.timezone,
        "fields": list(facts.fields),
        "sources": [
            [each.ingest_id, each.name, each.sha256, each.bytes, each.lines, _time(each.ingested_at)]
            for each in facts.sources
        ],
        "custodian": [facts.custodian.name, facts.custodian.title, facts.custodian.employer, facts.custodian.staff_id],
        "certifications": sorted(facts.certifications),
        "made_at": _time(facts.made_at),
        "rows": facts.rows,
        "system": facts.system,
        "log": None if log is None else [log.origin, str(log.access_id), log.size, log.root],
        "receipt": base64.b64encode(facts.receipt).decode(),
        "access_note": facts.access_note,
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(facts: Facts) -> bytes:
    """Return SHA-256 of the canonical form."""
    return hashlib.sha256(facts_bytes(facts)).digest()


def read_facts(data: bytes) -> Facts:
    """Return what `facts_bytes` wrote."""
    value: Mapping[str, Any] = json.loads(data)
    log = value["log"]
    return Facts(
        UUID(value["production_id"]),
        value["case_id"],
        value["number"],
        value["carrier"],
        value["instrument"],
        value["instrument_title"],
        value["citation"],
        value["agency"],
        value["reference"],
        tuple(Target(*each) for each in value["targets"]),
        datetime.fromisoformat(value["window_start"]),
        datetime.fromisoformat(value["window_end"]),
        value["timezone"],
        tuple(value["fields"]),
        tuple(InputFile(i, n, h, b, c, datetime.fromisoformat(at)) for i, n, h, b, c, at in value["sources"]),
        Custodian(*value["custodian"]),
        frozenset(map(Rule, value["certifications"])),
        datetime.fromisoformat(value["made_at"]),
        value["rows"],
        value["system"],
        None if log is None else LogPlace(log[0], UUID(log[1]), log[2], log[3]),
        base64.b64decode(value["receipt"]),
        value["access_note"],
    )


def file_json(each: FileFact) -> dict[str, Any]:
    """Return a file's facts as JSON values."""
    return {
        "name": each.name, "bytes": each.bytes, "sha256": each.sha256, "crc32": each.crc32,
        "rows": each.rows, "pages": each.pages,
    }  # fmt: skip


def read_file(value: Mapping[str, Any]) -> FileFact:
    """Return what `file_json` made."""
    return FileFact(value["name"], value["bytes"], value["sha256"], value["crc32"], value["rows"], value["pages"])


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
