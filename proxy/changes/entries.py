"""What the log says of changes: who proposed what, who decided it and how, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.changes.model import Change
from proxy.ledger.model import JSON, Entry, Kind, Tag
from proxy.staff.model import StaffGrant


def proposed(who: StaffGrant, change: Change) -> Entry:
    """Somebody proposed a change; the entry holds the whole of it."""
    asked = {**_named(change), "payload": change.payload, "reason": change.reason}
    return _entry(who, "propose", asked)


def decided(who: StaffGrant, change: Change, decision: str, reason: str = "") -> Entry:
    """Somebody approved, refused or withdrew it."""
    return _entry(who, decision, {**_named(change), **({"reason": reason} if reason else {})}, change.proposed_by)


def denied(who: StaffGrant, decision: str, asked: Mapping[str, JSON], reason: str) -> Entry:
    """Somebody tried what they may not, or what could not be."""
    return _entry(who, decision, {**asked, "decision": "deny", "reason": reason})


def expired(row: Mapping[str, Any]) -> Entry:
    """Nobody decided it in time."""
    asked = {"change_id": str(row["change_id"]), "kind": row["kind"], "digest": row["digest"], "action": "expire"}
    tags = (Tag("staff", row["proposed_by"].encode()),)
    return Entry(Kind.CHANGE_STATE, {"component": "changes"}, asked, tags=tags)


def applied(who: StaffGrant, change: Change, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of what an approved change did, with who and by which change."""
    by = {"change_id": str(change.change_id), "proposed_by": change.proposed_by}
    tags = who.tags()
    return [
        replace(
            entry,
            actor={**who.actor(), **entry.actor},
            request={**entry.request, **by},
            tags=tuple(dict.fromkeys((*tags, *entry.tags))),
        )
        for entry in entries
    ]


def _named(change: Change) -> dict[str, JSON]:
    return {"change_id": str(change.change_id), "kind": change.kind, "digest": change.digest}


def _entry(who: StaffGrant, action: str, asked: Mapping[str, JSON], proposer: str = "") -> Entry:
    tags = dict.fromkeys((*who.tags(), *((Tag("staff", proposer.encode()),) if proposer else ())))
    return Entry(Kind.CHANGE_STATE, who.actor(), {**asked, "action": action}, tags=tuple(tags))
