"""What a production is made from, and what it is: frozen values.

Everything that a byte of the package depends on stands in `Facts` or in the tables of the hold: no clock, no random
number, no name of the machine. The same facts and the same tables give the same package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

import pyarrow as pa

Tables: TypeAlias = Callable[[], AsyncIterator[pa.Table]]
"""Opens a hold's records anew, each time the same tables in the same order.

Columns are those of the store (proxy/store/columns/form.py): times as timestamps of microseconds in UTC, numbers as
int64 with ``<name>_raw`` beside, decimals as int64 of 10^-8, text plain or coded by a dictionary. ``record_id`` and
``started_at`` are always there; ``ingest_id`` and ``line_number`` too where the provenance of each record is known,
whether or not the permit shows them: they make sources.csv, and records.csv only where `Facts.fields` names them. A
field that a table lacks is null in it.
"""

TARGETS_MAX = 100_000
"""Most targets of a case."""


class ProductionError(Exception):
    """A production cannot be made, signed or delivered; the message says why and repeats nothing of a record."""


class Rule(StrEnum):
    """What the custodian certifies (Federal Rules of Evidence)."""

    BUSINESS_RECORD = "902(11)"
    """A record of a regularly conducted activity, rule 803(6)(A)-(C)."""
    ELECTRONIC_PROCESS = "902(13)"
    """A record made by an electronic process or system that gives an accurate result."""
    DIGITAL_COPY = "902(14)"
    """Data copied from an electronic device, medium or file, authenticated by digital identification."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of the things that the instrument asks about."""

    kind: str
    """``number``, ``account``, ``trunk`` or ``imsi``."""
    value: str = field(repr=False)
    """A number in E.164 with ``+``; anything else as the store has it."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the carrier's that records came from, as ingested."""

    ingest_id: int
    name: str = field(repr=False)
    sha256: str
    """Lower-case hex."""
    bytes: int
    lines: int
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class Custodian:
    """Who certifies: a person of the carrier's, never the tool."""

    name: str
    title: str
    employer: str
    staff_id: str = ""
    """In Tollgate's registry; empty where the custodian is not in it."""


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where the access log proves the extraction."""

    origin: str
    access_id: UUID
    size: int
    """Of the tree that the receipt's checkpoint signs."""
    root: str
    """Its root hash, standard base64."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a production's bytes depend on, besides the records themselves. Times are aware."""

    production_id: UUID
    case_id: str
    number: int
    """Of the case's productions, from 1."""
    carrier: str
    """The producing company's name, as it stands on every page."""
    instrument: str
    """Id, as in proxy/policy/instruments.py."""
    instrument_title: str
    citation: str
    agency: str
    reference: str
    """The agency's or the court's own number of the matter."""
    targets: tuple[Target, ...] = field(repr=False)
    window_start: datetime
    window_end: datetime
    """Exclusive."""
    timezone: str
    """IANA name of the zone that the instrument's dates were read in."""
    fields: tuple[str, ...]
    """What the permit shows, by names of schema/fields.py."""
    sources: tuple[InputFile, ...] = field(repr=False)
    custodian: Custodian
    certifications: frozenset[Rule]
    made_at: datetime
    """When the production was begun; stands for every date in the package."""
    rows: int | None = None
    """How many records the hold has, where that is known: another number stops the production."""
    system: str = ""
    """How the carrier's records come about, in its own words; empty: a general description (certificate.py)."""
    log: LogPlace | None = None
    receipt: bytes = field(default=b"", repr=False)
    """The log's receipt of the extraction, opening no more than a recipient may see."""
    access_note: str = ""
    """What the certificate says of how the search was made; empty: a general sentence."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """One file of a package."""

    name: str
    """Plain: no folder, ``[a-z0-9.-]``."""
    bytes: int
    sha256: str
    """Lower-case hex."""
    crc32: int
    """As ZIP wants it."""
    rows: int | None = None
    """Records in it, where it holds records."""
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """A production whose files are made and whose certificate waits for its custodian."""

    production_id: UUID
    rows: int
    pages: int
    files: tuple[FileFact, ...]
    """In the package's order; the certificate to be signed is ``certificate.txt`` (and ``certificate.pdf``)."""


class SignedAs(StrEnum):
    """How a custodian signed, outside Tollgate."""

    SSH = "sshsig"
    """``ssh-keygen -Y sign -n tollgate-certificate`` over certificate.txt, with a key that is registered."""
    PDF = "pdf"
    """The certificate on paper or in a PDF program, as a PDF."""
    TEXT = "text"
    """The certificate as text with a signature that Tollgate does not check."""


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """What the custodian gave back."""

    kind: SignedAs
    body: bytes = field(repr=False)
    """The signature (SSH), or the signed document."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A production that is complete: its manifest is signed and its package fixed."""

    production_id: UUID
    package: FileFact
    """The inner package, before encryption: its name, length and SHA-256 are the same every time."""
    kid: str
    """Thumbprint of the production key that signed the manifest."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A package encrypted to somebody's key. Encryption is different each time; what is inside is not."""

    delivery_id: UUID
    production_id: UUID
    recipients: tuple[str, ...]
    """age public keys, ``age1…``."""
    name: str
    """What the encrypted file is called."""
