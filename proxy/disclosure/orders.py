"""An extraction's order: what is refused of it, how it is written, its entries in the log. Pure.

The order stands sealed with its hold, so that whoever goes on after a crash goes by the same words; its digest stands
in clear. An extraction that discloses is an access like any other (intent, progress, outcome), so what was shown in a
case is counted as what was shown to a client. A preservation shows nothing: its entries are the hold's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from proxy.disclosure.gather import Look
from proxy.disclosure.query import write_time
from proxy.disclosure.targets import Targets
from proxy.ledger.model import JSON, TAGS_MAX, Entry, Kind, Tag, number_tags
from proxy.policy import Purpose
from proxy.policy.extraction import (
    BESIDE,
    WINDOW_YEARS_MAX,
    ExtractionOrder,
    ExtractionRefusedError,
    StaffActor,
    Target,
    TargetKind,
)
from proxy.policy.legal import LegalAction, LegalPermit
from schema.fields import BY_NAME, FIELDS, DisclosureClass

_YEAR_US: Final = 366 * 86_400_000_000
_LISTS: Final = ("fields", "subject_fields", "subject_match", "match_fields", "provenance", "target_kinds")


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that can be carried out."""

    order: ExtractionOrder
    targets: Targets
    text: bytes
    """What is sealed: canonical JSON."""
    digest: bytes
    """SHA-256 of what decides what is held: the permit, the targets, the holds that are read too."""

    def look(self, as_of: int) -> Look:
        """Return what the store is asked."""
        permit = self.order.permit
        kept = {*permit.fields, *BESIDE}
        return Look(
            self.targets,
            tuple(f.name for f in FIELDS if f.name in kept),
            frozenset(permit.subject_fields),
            frozenset(permit.subject_match),
            permit.classes,
            permit.start_us,
            permit.end_us,
            as_of,
        )


def ordered(order: ExtractionOrder) -> Ordered:
    """Return an order, checked against its own permit.

    Raises:
        ExtractionRefusedError: if it reaches beyond it, or beyond what one extraction can do.
    """
    permit = order.permit
    targets = Targets.of(order.targets)
    if permit.purpose is not Purpose.LEGAL or not permit.basis or not permit.case_id:
        raise ExtractionRefusedError("permit", "The permit names no legal process.")
    if not permit.fields or not {*permit.fields, *permit.provenance} <= set(BY_NAME):
        raise ExtractionRefusedError("fields", "The permit names fields that no record has.")
    if not permit.start_us < permit.end_us:
        raise ExtractionRefusedError("window", "The window holds no moment.")
    if permit.end_us - permit.start_us > WINDOW_YEARS_MAX * _YEAR_US:
        raise ExtractionRefusedError("window", f"The window is longer than {WINDOW_YEARS_MAX} years.")
    opened = {BY_NAME[name].disclosure_class for name in (*permit.fields, *BESIDE)}
    if not opened <= permit.classes:
        raise ExtractionRefusedError("classes", "The permit does not reach the classes of its fields.")
    if not {f.name for f in targets.fields} <= set(permit.match_fields) or not targets.classes <= permit.classes:
        # A search in what may not be seen would tell of it.
        raise ExtractionRefusedError("targets", "A target is of a kind that the permit does not name.")
    if len(targets) > permit.targets:
        raise ExtractionRefusedError("targets", "There are more targets than the permit is for.")
    if permit.discloses != (permit.action is LegalAction.EXTRACT) or (order.preserved and not permit.discloses):
        raise ExtractionRefusedError("permit", "What is preserved is not disclosed by preserving it.")
    decides = {
        "permit": _permit_json(permit),
        "targets": targets.digest(),
        "preserved": sorted(order.preserved),
    }
    text = json.dumps(
        {
            "hold_id": order.hold_id,
            "actor": asdict(order.actor),
            "permit": decides["permit"],
            "targets": [[t.kind.value, t.value] for t in sorted(order.targets)],
            "preserved": decides["preserved"],
        },
        separators=(",", ":"),
    ).encode()
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, separators=(",", ":")).encode()).digest()
    return Ordered(order, targets, text, digest)


def read_order(text: bytes) -> Ordered:
    """Return what :func:`ordered` wrote. What opens under a hold's key was written there."""
    value = json.loads(text)
    permit = value["permit"]
    return ordered(
        ExtractionOrder(
            value["hold_id"],
            StaffActor(**value["actor"]),
            LegalPermit(
                **{
                    **permit,
                    "purpose": Purpose(permit["purpose"]),
                    "action": LegalAction(permit["action"]),
                    "classes": frozenset(DisclosureClass(c) for c in permit["classes"]),
                    **{name: tuple(permit[name]) for name in _LISTS},
                }
            ),
            tuple(Target(TargetKind(kind), text) for kind, text in value["targets"]),
            tuple(value["preserved"]),
        )
    )


def _permit_json(permit: LegalPermit) -> dict[str, Any]:
    return asdict(permit) | {"classes": sorted(permit.classes), **{n: list(getattr(permit, n)) for n in _LISTS}}


@dataclass(frozen=True, slots=True)
class Teller:
    """Makes the entries of one extraction. ``actor``: who ordered it, or stopped it; None: nobody but the gateway."""

    access_id: UUID
    case_id: str
    hold_id: str
    discloses: bool
    actor: StaffActor | None

    def intent(self, made: Ordered, as_of: int, staged: int) -> Entry:
        """Return the entry that has to be durable before the first record is read; it pins the scope.

        The targets stand in it in full, in the part ``records``. It is found by the numbers among them where they are
        few: an entry bears TAGS_MAX tags, and a list of thousands is found by its case.
        """
        permit = made.order.permit
        request: dict[str, JSON] = {
            "action": permit.action.value,
            "purpose": permit.purpose.value,
            "decision": "permit",
            "basis": permit.basis,
            "instrument": permit.instrument,
            "scope_digest": permit.scope_digest,
            "from": write_time(permit.start_us),
            "to": write_time(permit.end_us),
            "classes": sorted(permit.classes),
            "fields": list(permit.fields),
            "targets": len(made.targets),
            "kinds": list(permit.target_kinds),
            "preserved": list(made.order.preserved),
        }
        records: dict[str, JSON] = {"as_of": str(as_of), "staged": str(staged), "targets": made.targets.as_json()}
        return self._entry(Kind.ACCESS_INTENT, request, {}, records, _number_tags(made.targets, len(self._tags())))

    def progress(self, rows: int, records: Mapping[str, Any]) -> Entry:
        """Return the entry that comes before each further stretch: what was held until then."""
        return self._entry(Kind.ACCESS_PROGRESS, {}, {"rows": rows}, {"records": records})

    def outcome(self, said: Mapping[str, Any], records: Mapping[str, Any]) -> Entry:
        """Return the entry of what came of it; ``said`` has ``state`` and ``rows``."""
        return self._entry(Kind.ACCESS_OUTCOME, {}, said, {"records": records})

    def _entry(
        self,
        kind: Kind,
        request: Mapping[str, JSON],
        said: Mapping[str, JSON],
        records: Mapping[str, JSON],
        more: tuple[Tag, ...] = (),
    ) -> Entry:
        return Entry(
            kind if self.discloses else Kind.HOLD_STATE,
            _actor(self.actor),
            {**request, "case": self.case_id, "hold": self.hold_id},
            said,
            records,
            access_id=self.access_id,
            tags=self._tags() + more,
        )

    def _tags(self) -> tuple[Tag, ...]:
        return _tags(self.case_id, self.actor)


def refused(order: ExtractionOrder, error: ExtractionRefusedError, access_id: UUID) -> Entry:
    """Return the entry of an order that was not carried out."""
    permit = order.permit
    request: dict[str, JSON] = {
        "action": permit.action.value,
        "purpose": permit.purpose.value,
        "decision": "deny",
        "reason": error.code,
        "case": permit.case_id,
        "hold": order.hold_id,
        "targets": len(order.targets),
    }
    tags = _tags(permit.case_id, order.actor)
    return Entry(Kind.ACCESS_DENIED, _actor(order.actor), request, {}, access_id=access_id, tags=tags)


def _actor(actor: StaffActor | None) -> dict[str, str]:
    if actor is None:
        return {"component": "extraction"}
    return {
        "staff": actor.staff_id,
        "token_id": actor.token_id,
        "key_thumbprint": actor.jkt,
        "address": actor.address,
    }


def _tags(case_id: str, actor: StaffActor | None) -> tuple[Tag, ...]:
    pairs = [("case", case_id)]
    if actor is not None:
        pairs += [
            ("staff", actor.staff_id),
            ("jkt", actor.jkt),
            ("address", actor.address),
            ("token", actor.token_id),
        ]
    return tuple(Tag(domain, value.encode()) for domain, value in pairs if value)


def _number_tags(targets: Targets, others: int) -> tuple[Tag, ...]:
    if len(targets.numbers) > TAGS_MAX - others:
        return ()
    numbers = [f"+{n}" for n in targets.numbers.tolist()]
    whole = tuple(tag for number in numbers for tag in number_tags(number))
    return whole if len(whole) <= TAGS_MAX - others else tuple(Tag("number", n.encode()) for n in numbers)
