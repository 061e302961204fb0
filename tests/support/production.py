"""What the tests of productions share: facts, records, parts in memory, packages, and keys of the people involved."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.signing import SigningKeys
from proxy.legal.production import building, certificate, manifest, signature
from proxy.legal.production.model import (
    Custodian,
    Drafted,
    Facts,
    FileFact,
    InputFile,
    ProductionError,
    Rule,
    SignedAs,
    SignedCertificate,
    Tables,
    Target,
)
from schema.fields import BY_NAME

CASE = "C-ABCDEFGHIJ"
FIELDS = (
    "record_id", "started_at", "answered_at", "ended_at", "duration_ms", "cause_q850", "sip_code", "disposition",
    "calling", "called", "redirecting",
)  # fmt: skip
MADE_AT = datetime(2026, 6, 2, 15, 4, 5, tzinfo=UTC)


def facts(**changed: Any) -> Facts:
    """Facts of a production, some of them others."""
    value: dict[str, Any] = {
        "production_id": uuid.UUID("018f0000-0000-7000-8000-000000000001"),
        "case_id": CASE,
        "number": 1,
        "carrier": "Example Carrier LLC",
        "instrument": "subpoena",
        "instrument_title": "Grand jury subpoena",
        "citation": "18 U.S.C. 2703(c)(2)",
        "agency": "Example County District Attorney",
        "reference": "GJ 26-0117",
        "targets": (Target("number", "+12025550123"),),
        "window_start": datetime(2025, 10, 1, 4, tzinfo=UTC),
        "window_end": datetime(2026, 6, 1, 4, tzinfo=UTC),
        "timezone": "America/New_York",
        "fields": FIELDS,
        "sources": (
            InputFile(11, "switch-a-2025-10.csv", "a" * 64, 123_456, 1_000, MADE_AT - timedelta(days=100)),
            InputFile(12, "switch-b-2025-11.csv", "b" * 64, 654_321, 2_000, MADE_AT - timedelta(days=90)),
        ),
        "custodian": Custodian("Records Custodian", "Custodian of Records", "Example Carrier LLC", "custodian"),
        "certifications": frozenset(Rule),
        "made_at": MADE_AT,
    }
    return Facts(**{**value, **changed})


def records(rows: int, seed: int = 1, **columns: Any) -> pa.Table:
    """Records as a hold has them, in the order of their ids and not of time; some columns others."""
    rng = np.random.default_rng(seed)
    start = np.int64(1_760_000_000_000_000) + rng.integers(0, 200 * 86_400, rows) * 1_000_000
    utc = pa.timestamp("us", "UTC")
    raw = [None if n % 9 else "anonymous" for n in range(rows)]
    made: dict[str, Any] = {
        "record_id": np.arange(1, rows + 1),
        "started_at": pa.array(start, utc),
        "answered_at": pa.array(start + 6_000_000, utc),
        "ended_at": pa.array(start + 66_000_000, utc),
        "duration_ms": rng.integers(0, 3_600_000, rows),
        "cause_q850": pa.array(np.full(rows, 16)),
        "disposition": pa.array(["answered"] * rows, pa.string()).dictionary_encode(),
        "calling": pa.array(12_025_550_100 + rng.integers(0, 100, rows)),
        "calling_raw": pa.nulls(rows, pa.string()),
        "called": pa.array(
            12_125_550_100 + rng.integers(0, 100, rows), mask=np.array([r is not None for r in raw], bool)
        ),
        "called_raw": pa.array(raw, pa.string()),
        "ingest_id": np.where(np.arange(rows) % 2, 12, 11),
        "line_number": np.arange(1, rows + 1) // 2 + 1,
    }
    return pa.table({**made, **columns})


def tables(table: pa.Table, piece: int = 1_000) -> Tables:
    """A hold of these records, cut in pieces of so many."""

    async def read() -> AsyncIterator[pa.Table]:
        for at in range(0, max(table.num_rows, 1), piece):
            yield table.slice(at, piece)

    return read


@dataclass
class MemoryParts:
    """Parts in memory; ``writes`` says what was put, in order."""

    kept: dict[tuple[str, int], bytes] = field(default_factory=dict)
    writes: list[tuple[str, int]] = field(default_factory=list)

    async def put(self, name: str, piece: int, data: bytes) -> None:
        assert 0 < len(data) <= building.PIECE
        self.kept[name, piece] = data
        self.writes.append((name, piece))

    async def get(self, name: str, piece: int) -> bytes:
        try:
            return self.kept[name, piece]
        except KeyError:
            raise ProductionError("missing") from None

    def file(self, name: str) -> bytes:
        """A file's bytes."""
        return b"".join(self.kept[key] for key in sorted(self.kept) if key[0] == name)


async def drafted(
    table: pa.Table, piece: int = 1_000, together: int = 200_000, **changed: Any
) -> tuple[Drafted, MemoryParts]:
    """Make a draft in memory."""
    parts = MemoryParts()
    made = await building.draft(facts(**changed), tables(table, piece), parts, together=together)
    return made, parts


def signed_pdf() -> SignedCertificate:
    """Something that says it is a PDF."""
    return SignedCertificate(SignedAs.PDF, b"%PDF-1.7\n% signed on paper\n")


@dataclass
class Package:
    """A whole package in memory."""

    data: bytes
    files: tuple[FileFact, ...]
    parts: MemoryParts
    jwks: list[dict[str, str]]


async def package(
    signing: SigningKeys, table: pa.Table | None = None, signed: SignedCertificate | None = None, **changed: Any
) -> Package:
    """Make a package in memory, signed with a keyring's production key."""
    made, parts = await drafted(records(120) if table is None else table, **changed)
    whole = facts(**changed)
    listing, files = await building.complete(whole, made, signed or signed_pdf(), parts)
    key = signing.current(signature.PURPOSE)
    front = (
        await building.keep(parts, manifest.NAME, listing),
        await building.keep(parts, manifest.SIGNATURE, signature.sign(key, listing)),
    )
    data = b"".join([piece async for piece in building.package(whole, (*front, *files), parts)])
    return Package(data, (*front, *files), parts, signing.all_public(signature.PURPOSE))


@dataclass
class CustodianKey:
    """A key of a person's own, and what they do with it outside Tollgate (PROTOCOL.sshsig, written apart from ours)."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def blob(self) -> bytes:
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return _string(b"ssh-ed25519") + _string(raw)

    @property
    def line(self) -> str:
        """The public key as it is registered."""
        return f"ssh-ed25519 {base64.b64encode(self.blob).decode()} custodian@carrier.example\n"

    def sign(self, text: bytes, namespace: bytes = b"tollgate-certificate") -> bytes:
        """Sign a file."""
        digest = hashlib.sha512(text).digest()
        parts = _string(namespace) + _string(b"") + _string(b"sha512")
        signed = self.private.sign(b"SSHSIG" + parts + _string(digest))
        blob = b"SSHSIG" + (1).to_bytes(4, "big") + _string(self.blob) + parts
        blob += _string(_string(b"ssh-ed25519") + _string(signed))
        lines = textwrap.wrap(base64.b64encode(blob).decode(), 70)
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def certificate_text(parts: MemoryParts) -> bytes:
    """The draft."""
    return parts.file(certificate.NAME)


def signed_text(draft: bytes, day: str = "June 3, 2026", place: str = "Example City", by: str = "/s/ R. C.") -> bytes:
    """The draft with its blanks filled in, as a custodian does who signs it as text."""
    text = draft.decode()
    for blank, said in (
        (certificate.EXECUTED, f"Executed on: {day}    at: {place}"),
        (certificate.SIGNATURE, f"Signature:   {by}"),
    ):
        assert text.count(blank) == 1
        text = text.replace(blank, said)
    return text.encode()


def names(files: Iterable[FileFact]) -> list[str]:
    """Names of files."""
    return [each.name for each in files]


assert set(FIELDS) <= BY_NAME.keys()
