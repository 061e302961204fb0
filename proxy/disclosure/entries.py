"""The log entries of an access, made from values. Pure; what stands in them is for the log's sealed parts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from proxy.disclosure.plan import Place
from proxy.disclosure.query import Window, write_time
from proxy.ledger.encoding import Written
from proxy.ledger.model import Entry, Kind, Tag, number_tags
from proxy.policy import Action, Deny, Permit

_KEPT_BACK = ("records", "place", "in_flight")
"""What of an outcome stands in the part ``records``; so do the checkpoints' places."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, as authenticated. ``address`` is the network address of the connection."""

    client_id: str
    carrier_id: str
    token_id: str
    jkt: str
    address: str

    def as_json(self) -> Written:
        """Return the actor part of an entry."""
        return _actor(self)[0]

    def tags(self) -> tuple[Tag, ...]:
        """Return what the actor's entries can be found by."""
        return _actor(self)[1]


@lru_cache(1024)
def _actor(actor: Actor) -> tuple[Written, tuple[Tag, ...]]:
    # The same for all that is done with one token: an access alone has two entries.
    value = {
        "client_id": actor.client_id,
        "carrier_id": actor.carrier_id,
        "token_id": actor.token_id,
        "key_thumbprint": actor.jkt,
        "address": actor.address,
    }
    pairs = (("client", actor.client_id), ("jkt", actor.jkt), ("address", actor.address), ("token", actor.token_id))
    return Written(value), tuple(Tag(domain, text.encode()) for domain, text in pairs if text)


@dataclass(frozen=True, slots=True)
class Terms:
    """How an answer is to be given: pinned by its intent."""

    after_id: int
    as_of: int
    place: Place | None
    rows_before: int
    limit: int
    media_type: str
    coding: str
    digest: str


def action_of(window: Window) -> Action:
    """Return what a question does."""
    return Action.PULL if window.number is None else Action.SEARCH


def _question(window: Window, purpose: str) -> dict[str, Any]:
    value: dict[str, Any] = {
        "action": action_of(window).value,
        "purpose": purpose,
        "from": write_time(window.start_us),
        "to": write_time(window.end_us),
        "direction": window.direction,
    }
    if window.number is not None:
        value["number"] = window.number
    return value


def _tags(actor: Actor, window: Window) -> tuple[Tag, ...]:
    return actor.tags() + (() if window.number is None else number_tags(window.number))


def intent(access_id: UUID, actor: Actor, window: Window, permit: Permit, terms: Terms) -> Entry:
    """Return the entry that has to be durable before the first record is read; it pins the scope."""
    request = _question(window, permit.purpose.value) | {
        "decision": "permit",
        "basis": permit.basis,
        "agreement": permit.agreement,
        "classes": sorted(c.value for c in permit.classes),
        "fields": list(permit.fields),
        "sides": sorted(permit.sides),
        "windows": [[w.ocn, write_time(w.start_us), write_time(w.end_us)] for w in permit.windows],
        "rows_before": terms.rows_before,
        "limit": terms.limit,
        "media_type": terms.media_type,
        "coding": terms.coding,
        "digest": terms.digest,
    }
    records = {
        "after_id": str(terms.after_id),
        "as_of": str(terms.as_of),
        "place": terms.place.as_list() if terms.place else None,
    }
    tags = _tags(actor, window)
    return Entry(Kind.ACCESS_INTENT, actor.as_json(), request, {}, records, access_id=access_id, tags=tags)


def denied(access_id: UUID, actor: Actor, window: Window, purpose: str, deny: Deny) -> Entry:
    """Return the entry of a refusal."""
    request = _question(window, purpose) | {"decision": "deny", "reason": deny.reason, "citation": deny.citation}
    return Entry(Kind.ACCESS_DENIED, actor.as_json(), request, {}, access_id=access_id, tags=_tags(actor, window))


def progress(access_id: UUID, actor: Actor, outcome: Mapping[str, Any]) -> Entry:
    """Return the entry that comes before each further stretch; ``outcome`` is what has been sent so far."""
    shown, records = _apart(outcome)
    return Entry(Kind.ACCESS_PROGRESS, actor.as_json(), {}, shown, records, access_id=access_id, tags=actor.tags())


def outcome(access_id: UUID, actor: Actor, outcome: Mapping[str, Any]) -> Entry:
    """Return the entry of what an access disclosed."""
    shown, records = _apart(outcome)
    return Entry(Kind.ACCESS_OUTCOME, actor.as_json(), {}, shown, records, access_id=access_id, tags=actor.tags())


def _apart(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what a client may see of its own access from record ids and places of the store, which it may not."""
    shown = {key: item for key, item in value.items() if key not in _KEPT_BACK}
    records = {key: value[key] for key in _KEPT_BACK if key in value}
    if "checkpoints" in value:
        shown["checkpoints"] = [{k: v for k, v in point.items() if k != "place"} for point in value["checkpoints"]]
        records["checkpoints"] = [point["place"] for point in value["checkpoints"]]
    return shown, records


def looked_up(access_id: UUID, actor: Actor, what: str = "access") -> Entry:
    """Return the entry of a client's look at one of its own accesses (``access``), or at its ``proof``."""
    request = {"what": what, "access_id": str(access_id)}
    return Entry(Kind.LOG_READ, actor.as_json(), request, {}, tags=actor.tags())
