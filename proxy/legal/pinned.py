"""The facts of a production as JSON and back: what is pinned (sealed) with a case, to make its package again.

Whatever a byte of the package depends on stands here or in the hold; see proxy/legal/production/model.py.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any
from uuid import UUID

from proxy.legal.production.model import Custodian, Facts, InputFile, LogPlace, Rule, Target


def to_json(facts: Facts) -> dict[str, Any]:
    """Return the facts as JSON values."""
    log = facts.log
    return {
        "production_id": str(facts.production_id),
        "case_id": facts.case_id,
        "number": facts.number,
        "carrier": facts.carrier,
        "instrument": facts.instrument,
        "instrument_title": facts.instrument_title,
        "citation": facts.citation,
        "agency": facts.agency,
        "reference": facts.reference,
        "targets": [[t.kind, t.value] for t in facts.targets],
        "window_start": facts.window_start.isoformat(),
        "window_end": facts.window_end.isoformat(),
        "timezone": facts.timezone,
        "fields": list(facts.fields),
        "sources": [
            [s.ingest_id, s.name, s.sha256, s.bytes, s.lines, s.ingested_at.isoformat()] for s in facts.sources
        ],
        "custodian": [facts.custodian.name, facts.custodian.title, facts.custodian.employer, facts.custodian.staff_id],
        "certifications": sorted(rule.value for rule in facts.certifications),
        "made_at": facts.made_at.isoformat(),
        "rows": facts.rows,
        "system": facts.system,
        "log": None if log is None else [log.origin, str(log.access_id), log.size, log.root],
        "receipt": base64.b64encode(facts.receipt).decode(),
        "access_note": facts.access_note,
    }


def from_json(value: dict[str, Any]) -> Facts:
    """Return the facts that :func:`to_json` wrote."""
    log = value["log"]
    return Facts(
        production_id=UUID(value["production_id"]),
        case_id=value["case_id"],
        number=value["number"],
        carrier=value["carrier"],
        instrument=value["instrument"],
        instrument_title=value["instrument_title"],
        citation=value["citation"],
        agency=value["agency"],
        reference=value["reference"],
        targets=tuple(Target(kind, text) for kind, text in value["targets"]),
        window_start=datetime.fromisoformat(value["window_start"]),
        window_end=datetime.fromisoformat(value["window_end"]),
        timezone=value["timezone"],
        fields=tuple(value["fields"]),
        sources=tuple(
            InputFile(ingest, name, digest, size, lines, datetime.fromisoformat(at))
            for ingest, name, digest, size, lines, at in value["sources"]
        ),
        custodian=Custodian(*value["custodian"]),
        certifications=frozenset(Rule(rule) for rule in value["certifications"]),
        made_at=datetime.fromisoformat(value["made_at"]),
        rows=value["rows"],
        system=value["system"],
        log=None if log is None else LogPlace(log[0], UUID(log[1]), log[2], log[3]),
        receipt=base64.b64decode(value["receipt"]),
        access_note=value["access_note"],
    )
