"""What the legal desk needs from its neighbours, as shapes; proxy/desk.py joins them.

The desk decides who may do what to a case. Whether the instrument reaches the records, proxy/policy decides where they
are read (proxy/disclosure); what a package is, proxy/legal/production knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from proxy.ledger.model import JSON
from proxy.legal.production.model import Certified, Delivery, Drafted, Facts, SignedCertificate, Tables
from proxy.policy.extraction import Extraction, ExtractionOrder, ExtractionState, Extractor
from proxy.staff.model import StaffGrant
from proxy.staff.ports import StaffGuard

__all__ = [
    "Extraction",
    "ExtractionOrder",
    "ExtractionState",
    "Extractor",
    "ProductionMaker",
    "StaffGrant",
    "StaffGuard",
]


class ProductionMaker(Protocol):
    """Makes, certifies and encrypts packages (proxy/legal/production). Each step can be repeated after a crash.

    ``actor`` is who acts, as the log says it; nothing: the gateway itself.
    """

    async def draft(self, facts: Facts, tables: Tables) -> Drafted:
        """Make the inner package but its signed certificate. The same facts again give the same bytes.

        Raises:
            ProductionError: facts and records do not go together; `ProductionBusy`: it is being made elsewhere.
        """
        ...

    async def certificate(self, production_id: UUID) -> bytes:
        """Return the draft of the certificate (text), for the custodian to read and sign outside."""
        ...

    async def certify(self, production_id: UUID, signed: SignedCertificate, *, actor: Mapping[str, JSON]) -> Certified:
        """Take the certificate that the custodian signed, and fix the package with it.

        Raises:
            ProductionError: it is not the draft's, or not signed by the custodian's key.
        """
        ...

    async def seal(self, production_id: UUID, recipients: Sequence[str], *, actor: Mapping[str, JSON]) -> Delivery:
        """Encrypt the inner package to age recipients; also to others later, under an approval of their own.

        Raises:
            ProductionError: not recipients, no such approval, or the package is not certified.
        """
        ...

    def package(self, delivery_id: UUID, *, actor: Mapping[str, JSON]) -> AsyncIterator[bytes]:
        """Return an encrypted package in pieces."""
        ...
