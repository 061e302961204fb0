"""What the legal desk needs from its neighbours, as shapes; proxy/desk.py joins them.

The desk decides who may do what to a case. Whether the instrument reaches the records, proxy/policy decides where they
are read (proxy/disclosure); what a package is, proxy/legal/production knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

import pyarrow as pa

from proxy.legal.model import Approval, CaseError, Scope
from proxy.legal.production.model import Certified, Delivery, Drafted, Facts, InputFile, SignedCertificate, Tables
from proxy.staff.model import StaffGrant
from proxy.staff.ports import StaffGuard

__all__ = [
    "Actor",
    "Extraction",
    "ExtractionDenied",
    "ExtractionOrder",
    "ExtractionState",
    "Extractor",
    "ProductionMaker",
    "StaffGrant",
    "StaffGuard",
    "Withdrawn",
]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the log says it. ``staff_id`` is empty where the gateway itself goes on (after a restart)."""

    staff_id: str
    token_id: str
    jkt: str
    address: str


@dataclass(frozen=True, slots=True)
class ExtractionOrder:
    """What is to be read for a case: everything that the permit is decided from. Pinned when it is given.

    Attributes:
        extraction_id: also the access id of its entries in the log.
        instrument: id in proxy/policy/instruments.py.
        preservations: cases whose holds are read too (18 U.S.C. 2703(f)).
    """

    extraction_id: UUID
    case_id: str
    instrument: str
    scope: Scope
    scope_version: int
    approval: Approval
    handler: Actor
    preservations: tuple[str, ...] = ()


class ExtractionState(StrEnum):
    """Where an extraction stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """For good: the order would fail again. A lost database or a restart is no failure: it goes on."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is known of an extraction. ``reason`` is a code of ours."""

    extraction_id: UUID
    case_id: str
    state: ExtractionState
    records: int
    """Found so far; all of them once it is done."""
    scanned: int
    """Records looked through so far."""
    months_done: int
    months: int
    hold_id: str | None
    """Of the hold that it wrote (``H-…``), once there is one."""
    started_at: datetime
    ended_at: datetime | None
    reason: str = ""


class ExtractionDenied(CaseError):  # noqa: N818
    """Policy denies the order: the rule's code, its citation and a fixed sentence."""

    def __init__(self, rule: str, citation: str, says: str) -> None:
        super().__init__(says)
        self.rule = rule
        self.citation = citation


class Extractor(Protocol):
    """Reads the store for a case into a hold (proxy/disclosure). The one way records get into a case."""

    async def start(self, order: ExtractionOrder) -> Extraction:
        """Begin; returns once the intent is durable. The same order again (same id) returns what is known of it.

        Raises:
            ExtractionDenied: nothing was read.
        """
        ...

    async def look(self, extraction_id: UUID) -> Extraction | None:
        """Return where it stands; None where there is none of that id."""
        ...

    async def cancel(self, extraction_id: UUID) -> None:
        """Stop it, wherever it runs; what it held is let go. Nothing happens where it has ended."""
        ...

    def read(self, hold_id: str) -> AsyncIterator[pa.Table]:
        """Return a hold's records, each time the same tables in the same order (production/model.py says which)."""
        ...

    async def sources(self, hold_id: str) -> tuple[InputFile, ...]:
        """Return the ingested files that a hold's records came from, in order."""
        ...

    async def resume(self, orders: AsyncIterator[ExtractionOrder]) -> None:
        """Go on with orders that were running when their process ended (or begin anew, with the same result)."""
        ...


class ProductionMaker(Protocol):
    """Makes, certifies and encrypts packages (proxy/legal/production). Each step can be repeated after a crash."""

    async def draft(self, facts: Facts, tables: Tables) -> Drafted:
        """Make the inner package but its signed certificate. The same facts again give the same bytes."""
        ...

    async def certificate(self, production_id: UUID) -> bytes:
        """Return the draft of the certificate (text), for the custodian to read and sign outside."""
        ...

    async def certify(self, production_id: UUID, signed: SignedCertificate) -> Certified:
        """Take the certificate that the custodian signed, and fix the package with it.

        Raises:
            ProductionError: it is not the draft's, or not signed by the custodian's key.
        """
        ...

    async def seal(self, production_id: UUID, recipients: tuple[str, ...]) -> Delivery:
        """Encrypt the inner package to age recipients; also to others later.

        Raises:
            ProductionError: not recipients, or the package is not certified.
        """
        ...

    def package(self, delivery_id: UUID) -> AsyncIterator[bytes]:
        """Return an encrypted package in pieces."""
        ...


class Withdrawn(Protocol):
    """Told when a case no longer needs what it holds."""

    async def __call__(self, case_id: str, extraction_id: UUID | None) -> None:
        """Let go of what was extracted under an approval that is void."""
