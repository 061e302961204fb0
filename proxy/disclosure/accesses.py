"""What a client may know of its own access: how much it was sent, the digest to check it by, where to go on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from proxy.disclosure.delivery import State
from proxy.disclosure.entries import Terms
from proxy.disclosure.plan import place_of
from proxy.disclosure.query import Window, read_time
from proxy.disclosure.service import Disclosure


async def look(disclosure: Disclosure, access_id: UUID, client_id: str) -> dict[str, Any] | None:
    """Return the access as the API shows it, or None where there is none of this client's.

    ``state`` is that of delivery.State, or ``denied``. ``next_cursor`` leads on from the last row of ``rows``; each of
    ``checkpoints`` (newest last) gives the cursor at a place at which a cut answer can be truncated.
    """
    running = disclosure.running(access_id, client_id)
    found = await disclosure.access(access_id, client_id)
    if found is None:
        return None
    if found["denied"] is not None:
        request = found["denied"]["request"] or {}
        shown = {key: request[key] for key in ("reason", "citation") if key in request}
        return {"access_id": str(access_id), "state": "denied", **shown}
    intent = found["intent"]
    if intent is None or intent["request"] is None or intent["records"] is None:
        return None
    request, pinned = intent["request"], intent["records"]
    value: dict[str, Any] = {
        "access_id": str(access_id),
        "state": State.UNKNOWN.value,
        "rows": 0,
        "bytes": 0,
        "sha256": None,
        "media_type": request["media_type"],
        "coding": request["coding"],
        "row_limit": request["limit"],
        "complete_to": disclosure.sealer.mark(client_id, int(pinned["as_of"])),
        "opened_at": intent["at"],
    }
    if found["outcome"] is None and running is not None:
        return value | {"state": State.OPEN.value, "rows": running.rows, "bytes": running.bytes}
    last = found["outcome"] or (found["progress"][-1] if found["progress"] else {})
    # An answer without a word of where it came to goes on from where it began, and so does one whose places are erased.
    said, places = last.get("outcome") or {}, last.get("records") or {}
    return value | _sent(disclosure, client_id, request | pinned, said, places)


def _sent(
    disclosure: Disclosure, client_id: str, request: dict[str, Any], said: dict[str, Any], places: dict[str, Any]
) -> dict[str, Any]:
    window = Window(_time(request["from"]), _time(request["to"]), request["direction"], None, request.get("number"))
    start = place_of(request["place"]) if request["place"] else None
    terms = Terms(
        int(request["after_id"]),
        int(request["as_of"]),
        start,
        request["rows_before"],
        request["limit"],
        request["media_type"],
        request["coding"],
        request["digest"],
    )

    def cursor(place: list[str] | None, rows: int) -> str:
        return disclosure.cursor(
            client_id, window, terms, place_of(place) if place else start, terms.rows_before + rows
        )

    value: dict[str, Any] = {key: said[key] for key in ("state", "why", "rows", "bytes", "sha256") if key in said}
    if value.get("state") != State.COMPLETE.value:
        # An answer of a form that cannot be cut (no checkpoints) and did not end goes on from where it began.
        whole = "place" in places and (value.get("state") == State.LIMITED.value or "checkpoints" in said)
        value["next_cursor"] = cursor(places["place"], said["rows"]) if whole else cursor(None, 0)
    if "checkpoints" in said and "checkpoints" in places:
        value["checkpoints"] = [
            {
                "bytes": point["bytes"],
                "rows": point["rows"],
                "sha256": point["sha256"],
                "cursor": cursor(place, point["rows"]),
            }
            for point, place in zip(said["checkpoints"], places["checkpoints"], strict=True)
        ]
    return value


def _time(text: str) -> int:
    moment = read_time(text)
    assert moment is not None, "an intent's own times are well formed"
    return moment
