"""Extractions for tests: a store, permits as the legal decision makes them, and what a hold should hold."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa

from proxy.config import Config
from proxy.disclosure.extract import Extractions
from proxy.policy import Purpose
from proxy.policy.extraction import BESIDE, Extraction, ExtractionOrder, StaffActor, Target, TargetKind
from proxy.policy.legal import MATCHED, PROVENANCE, SUBJECT_CLASSES, SUBJECT_MATCH, LegalAction, LegalPermit
from schema.fields import BY_NAME, FIELDS, LegalClass
from schema.roles import Role
from tests.support.store import JULY, Call, Store, filled, open_store, us

HANDLER = StaffActor("handler@carrier.example", "token-9", "key-9", "192.0.2.9")
BASIC = tuple(f.name for f in FIELDS if f.legal is LegalClass.BASIC)
EVERYTHING = tuple(f.name for f in FIELDS)


def new_hold() -> str:
    """A fresh hold id."""
    return "H-" + base64.b32encode(secrets.token_bytes(7))[:10].decode()


def new_case() -> str:
    """A fresh case id."""
    return "C-" + base64.b32encode(secrets.token_bytes(7))[:10].decode()


async def add_case(owner: asyncpg.Connection, case_id: str) -> str:
    """Put a case into the register, as little of one as PostgreSQL takes."""
    await owner.execute(
        "INSERT INTO tollgate.legal_case (case_id, instrument, key_month, opened_by, request_key, state, version)"
        " VALUES ($1, 'subpoena', 202607, 'handler@carrier.example', gen_random_uuid(), 'approved', 1)",
        case_id,
    )
    return case_id


async def add_order(owner: asyncpg.Connection, case_id: str, hold_id: str, *, discloses: bool = True) -> None:
    """Have the register order a copy: an extraction under a live approval, or a preservation that waits for its copy.

    Nothing of it where there is no such case. The register's own rules on people are not what is tried here.
    """
    if not await owner.fetchval("SELECT EXISTS (SELECT FROM tollgate.legal_case WHERE case_id = $1)", case_id):
        return
    if not discloses:
        await owner.execute(
            "INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month,"
            " made_by, expires_at) VALUES ($1, $2, 'preservation', 'pending', now(), 'UTC', 202601, 202612, 'h',"
            " timezone('UTC', timezone('UTC', now())::date::timestamp + interval '91 days')) ON CONFLICT DO NOTHING",
            hold_id, case_id,
        )  # fmt: skip
        return
    async with owner.transaction():
        await owner.execute("SET LOCAL session_replication_role = replica")
        approval = await owner.fetchval("SELECT approval_id FROM tollgate.legal_case WHERE case_id = $1", case_id)
        if approval is None:
            approval = await owner.fetchval(
                "INSERT INTO tollgate.case_approval (approval_id, case_id, scope_version, digest, kind, approved_by,"
                " expires_at) VALUES (gen_random_uuid(), $1, 1, $2, 'approval', 'a', now() + interval '7 days')"
                " RETURNING approval_id",
                case_id, bytes(32),
            )  # fmt: skip
            await owner.execute(
                "UPDATE tollgate.legal_case SET approval_id = $2, scope_version = 1 WHERE case_id = $1",
                case_id, approval,
            )  # fmt: skip
        await owner.execute(
            "INSERT INTO tollgate.case_extraction (hold_id, case_id, scope_version, approval_id, ordered_by)"
            " VALUES ($1, $2, 1, $3, 'handler-1') ON CONFLICT DO NOTHING",
            hold_id, case_id, approval,
        )  # fmt: skip


class Ordered(Extractions):
    """Extractions, each ordered by the register before it begins, as a case's is."""

    def __init__(self, owner: asyncpg.Connection, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self._owner, self._one = owner, asyncio.Lock()
        self._ordered: set[str] = set()

    async def register(self, order: ExtractionOrder) -> None:
        """Have the register order it; once."""
        async with self._one:
            if order.hold_id not in self._ordered:
                await add_order(self._owner, order.permit.case_id, order.hold_id, discloses=order.permit.discloses)
                self._ordered.add(order.hold_id)

    async def start(self, order: ExtractionOrder) -> Extraction:
        """See ``Extractor.start``."""
        await self.register(order)
        return await super().start(order)


def target(text: str) -> Target:
    """A target as tests write it: a number, or ``trunk:x``, ``account:x``, ``imsi:x``."""
    kind, sep, value = text.partition(":")
    return Target(TargetKind(kind), value) if sep and kind in set(TargetKind) else Target(TargetKind.NUMBER, text)


def permit(
    case_id: str,
    targets: Sequence[Target],
    fields: Sequence[str] = BASIC,
    start: datetime = JULY,
    end: datetime = JULY + timedelta(days=31),
    **change: Any,
) -> LegalPermit:
    """A permit as decide_legal would give it."""
    kinds = tuple(sorted({t.kind.value for t in targets}))
    names = {"record_id", "started_at", *(name for kind in kinds for name in MATCHED[kind])}
    match = tuple(f.name for f in FIELDS if f.name in names)
    kept = tuple(f.name for f in FIELDS if f.name in fields)
    own = tuple(n for n in kept if BY_NAME[n].disclosure_class in SUBJECT_CLASSES)
    made = LegalPermit(
        Purpose.LEGAL,
        LegalAction.EXTRACT,
        "18 U.S.C. 2703(c)(2)",
        case_id,
        "subpoena",
        kept,
        own,
        SUBJECT_MATCH,
        match,
        PROVENANCE,
        frozenset(BY_NAME[n].disclosure_class for n in (*kept, *match, *PROVENANCE)),
        us(start),
        us(end),
        "0" * 64,
        len(targets),
        kinds,
        "1" * 64,
        True,
    )
    if change.pop("preserve", False):
        change |= {"action": LegalAction.PRESERVE, "discloses": False, "subject_fields": ()}
    return replace(made, **change)


def order(case_id: str, *texts: str, hold_id: str | None = None, preserved: Sequence[str] = (), **change: Any) -> Any:
    """An order for some targets; the rest as :func:`permit`."""
    targets = tuple(target(t) for t in texts)
    return ExtractionOrder(
        hold_id or new_hold(), HANDLER, permit(case_id, targets, **change), targets, tuple(preserved)
    )


def plain(table: pa.Table) -> list[Call]:
    """Rows of a hold's table without their nulls."""
    return filled(table.to_pylist())


@dataclass
class Desk:
    """A store and its extractions."""

    store: Store
    owner: asyncpg.Connection
    legal: asyncpg.Pool
    extractions: Ordered
    cases: list[str] = field(default_factory=list)

    async def case(self) -> str:
        """A case that exists."""
        case_id = await add_case(self.owner, new_case())
        self.cases.append(case_id)
        return case_id

    async def extract(self, *texts: str, **change: Any) -> tuple[Extraction, list[Call]]:
        """Extract in a case of its own; return the extraction and the rows held."""
        done = await self.extractions.extract(order(await self.case(), *texts, **change))
        return done, await self.rows(done.hold_id)

    async def rows(self, hold_id: str) -> list[Call]:
        """All rows of a hold."""
        return [row async for table in self.extractions.read_hold(hold_id) for row in plain(table)]

    async def expected(self, matches: Callable[[Call], bool], fields: Iterable[str] = BASIC) -> list[Call]:
        """What a hold should hold, from the auditor's view of the store: every record that matches, in order."""
        keep = {n for f in (*fields, *BESIDE) for n in (f, f + "_raw")}
        found = [{n: v for n, v in row.items() if n in keep} for row in await self.store.contents() if matches(row)]
        return sorted(found, key=lambda r: (r["started_at"], r["ingest_id"], r["line_number"]))


@contextlib.asynccontextmanager
async def open_desk(config: Config, folder: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A desk on the configuration's database."""
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config, folder))
        legal = await stack.enter_async_context(
            asyncpg.create_pool(config.role_url(Role.LEGAL), min_size=1, max_size=6)
        )
        owner = await asyncpg.connect(config.database_url)
        stack.push_async_callback(owner.close)
        extractions = Ordered(owner, legal, store.keys, store.ledger, store.executor, **settings)
        stack.push_async_callback(extractions.close)
        yield Desk(store, owner, legal, extractions)
