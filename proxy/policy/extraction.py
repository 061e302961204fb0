"""What is taken out of the store for a case, as values: the order, how far it is, and what came of it. Pure.

An extraction writes what it finds into a *hold*: the records of the case's targets in its window, only the fields that
the permit names, sealed under a key of the hold's own. A production is made from its hold and never from the store
again. A preservation (18 U.S.C. 2703(f)) is the same without a disclosure: its permit discloses nothing, and nothing of
it is shown to anybody until a later case's extraction reads it.

proxy/disclosure carries extractions out; proxy/legal orders them and reads what they held. Neither imports the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

if TYPE_CHECKING:
    import pyarrow as pa

    from proxy.policy.legal import LegalPermit

TARGETS_MAX: Final = 100_000
"""Most targets of one extraction."""
WINDOW_YEARS_MAX: Final = 20
"""The longest window of one extraction, years."""

BESIDE: Final = ("record_id", "started_at", "ingest_id", "line_number")
"""Columns that stand in every table of a hold, also where the permit does not name them: the store's own number of the
record, its place in the window, and the input (``SourceFile.ingest_id``) and the line that it was read from. The last
two are for the certificate: fields of a production only where the permit names them."""


def key_class_of(hold_id: str) -> str:
    """Return the key class of a hold's own data key (its month is ``tollgate.held.key_month``).

    A class of its own for each hold: its period key can be destroyed alone, which ends that hold also in every backup
    of the database. A process that may open class ``hold`` may open all of them (keys/file_provider.py).
    """
    return "hold_" + hold_id.removeprefix("H-").lower()


class TargetKind(StrEnum):
    """What a target is; where in a record it may stand."""

    NUMBER = "number"
    """calling, called, dialed, charge_number, redirecting: ``+`` and E.164 digits, or raw text as the record has it."""
    ACCOUNT = "account"
    IMSI = "imsi"
    TRUNK = "trunk"
    """ingress_trunk, egress_trunk."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One value that is searched for, in the form in which records hold it."""

    kind: TargetKind
    value: str


@dataclass(frozen=True, slots=True)
class StaffActor:
    """Who orders it, as authenticated; stands in the log's sealed parts and tags only."""

    staff_id: str
    token_id: str = ""
    jkt: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class ExtractionOrder:
    """One extraction, in full. It is sealed with its hold, so that a gateway that dies leaves all that is needed to go
    on.

    ``preserved``: holds of this case's preservation, read too: a record that the store no longer has is taken from
    there. One that both have stands once.
    """

    hold_id: str
    """``H-`` and ten letters and digits, chosen by whoever orders: the same order again is the same extraction."""
    actor: StaffActor
    permit: LegalPermit
    """As decided for this very extraction; it says whether anything is disclosed by it."""
    targets: tuple[Target, ...]
    preserved: tuple[str, ...] = ()


class ExtractionState(StrEnum):
    """How an extraction stands."""

    RUNNING = "running"
    """It goes on, here or (after a crash) wherever ``resume`` is called next."""
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """The store could not be read as it must be; the log says what was held until then."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """An extraction as it stands. Counts are of what is durable in the hold."""

    hold_id: str
    case_id: str
    access_id: UUID
    """Of its entries in the log."""
    state: ExtractionState
    why: str
    """A code where the state is ``failed`` or ``cancelled``; empty otherwise."""
    started_at: datetime
    ended_at: datetime | None
    as_of: int
    """The last record id of the store that it reaches: records that come later are not in it."""
    staged: int
    """Records that were ingested when it began, and beyond ``as_of`` because they had not been rolled."""
    rows: int
    pieces: int
    reached_us: int
    """Every record in it that began before this is there (microseconds UTC); shows how far it is in its window."""
    start_us: int
    end_us: int
    sha256: str
    """Over the digests of the plaintext of each piece in order, hexadecimal; empty until it is complete."""
    gone: tuple[tuple[int, tuple[str, ...]], ...]
    """(month yyyymm, classes): months that hold records of which these classes were destroyed under the retention
    schedule. Where ``timing`` or the class in which a target is looked for is among them the month was not searched."""
    log_index: int | None
    """Index in the log of the outcome's entry."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An input that records of a hold were read from."""

    ingest_id: int
    name: str
    """Empty where the key of the name was destroyed."""
    sha256: str
    """Lower-case hex."""
    bytes: int
    lines: int
    profile: str
    ingested_at: datetime
    rows: int
    """Records of the hold that were read from it."""


class HoldUnreadableError(Exception):
    """The hold does not exist, is not complete, or its key was destroyed."""


class Extractor(Protocol):
    """Carries extractions out, over role LEGAL. Implemented by proxy/disclosure/extract.py."""

    async def start(self, order: ExtractionOrder) -> Extraction:
        """Put the intent and the hold on record, durable, and begin in the background.

        Again with the same hold id and the same order: the extraction as it stands. With another order: refused.

        Raises:
            ExtractionRefusedError: the order goes beyond what can be asked; nothing is on record.
            LedgerUnavailable: nothing was read.
        """

    async def wait(self, hold_id: str) -> Extraction:
        """Wait until an extraction that runs here has ended; return it as it then stands."""

    async def extract(self, order: ExtractionOrder) -> Extraction:
        """``start`` and ``wait``."""

    async def progress(self, hold_id: str) -> Extraction | None:
        """Return an extraction as it stands; None where there is none."""

    async def resume(self) -> int:
        """Go on with whatever is ``running`` and runs in no gateway; return how many. To be called at start and now
        and then."""

    async def cancel(self, hold_id: str, actor: StaffActor) -> Extraction:
        """Stop an extraction wherever it runs; what it held until then cannot be read. One that has ended stays."""

    def read_hold(self, hold_id: str) -> AsyncIterator[pa.Table]:
        """Yield the records of a complete hold, ordered by (started_at, ingest_id, line_number): the same tables in the
        same order each time.

        Every table has the same columns: those of the store (proxy/store/columns/form.py: times as timestamps of
        microseconds in UTC, numbers as int64 with ``<name>_raw`` beside, decimals as int64 of 10^-8) for the fields of
        the permit and of :data:`BESIDE`, in canonical order. At most 65,536 records each, never none: an empty hold
        yields no table.

        Whoever calls has a durable entry in the log that says what for.

        Raises:
            HoldUnreadableError: see there.
        """

    async def sources(self, hold_id: str) -> list[SourceFile]:
        """Return the inputs of a complete hold's records, by ingest id. Raises as :meth:`read_hold`."""

    async def close(self) -> None:
        """Stop what runs here; it stays ``running`` and is gone on with by the next ``resume``."""


class ExtractionRefusedError(Exception):
    """The order cannot be carried out as it stands: ``code`` is stable, ``says`` is for whoever ordered."""

    def __init__(self, code: str, says: str) -> None:
        super().__init__(code)
        self.code = code
        self.says = says
