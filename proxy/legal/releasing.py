"""From what was extracted to what is delivered: produce, certify, deliver, again to another key, acknowledged.

A production's facts are pinned, sealed, before its first byte is made; making it can be repeated at any time and gives
the same bytes. The certificate is drafted here and signed outside by the custodian whom it names. Nothing goes out but
under a live approval.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pyarrow as pa

from proxy import logs
from proxy.ledger.model import JSON
from proxy.legal import sql
from proxy.legal.approvals import approvals, decided, handed_over, live
from proxy.legal.extracting import Extracting
from proxy.legal.intake import Intake
from proxy.legal.model import Case, CaseError, Malformed, NoSuchCase, Refused, WrongState
from proxy.legal.ports import Extractor, ProductionMaker
from proxy.legal.production import canonical
from proxy.legal.production.certificate import search_note
from proxy.legal.production.model import (
    Custodian,
    Facts,
    InputFile,
    LogPlace,
    ProductionError,
    Rule,
    SignedAs,
    SignedCertificate,
    Target,
)
from proxy.legal.production.service import ProductionBusy
from proxy.legal.register import Register, Step, case_of
from proxy.legal.states import Action
from proxy.policy.instruments import INSTRUMENTS
from proxy.staff.model import StaffGrant

SIGNED_MAX = 5 * 1024 * 1024
"""Most bytes of a signed certificate."""
RECIPIENTS_MAX = 8

Receipt = Callable[[UUID], Awaitable[tuple[LogPlace, bytes] | None]]
"""Gives the log's receipt of an extraction, opening no more than a recipient may see; None: not published yet."""

_LOG = logs.get("cases")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RECIPIENT = re.compile(r"age1[0-9a-z]{58}")
_CUSTODIAN = "SELECT name, title FROM tollgate.staff WHERE staff_id = $1 AND tollgate.custodian_active(staff_id)"


class Releasing:
    """The second half of a case.

    Args:
        register: where steps are made.
        intake: knows processes and scopes.
        extracting: knows what was extracted.
        extractor: gives what is held.
        maker: makes packages.
        carrier: our name, as it stands on every page.
        receipt: see `Receipt`.
    """

    def __init__(
        self,
        register: Register,
        intake: Intake,
        extracting: Extracting,
        extractor: Extractor,
        maker: ProductionMaker,
        carrier: str,
        receipt: Receipt,
    ) -> None:
        self._register = register
        self._intake = intake
        self._extracting = extracting
        self._extractor = extractor
        self._maker = maker
        self._carrier = carrier
        self._receipt = receipt
        self._making: set[UUID] = set()

    async def produce(self, who: StaffGrant, case_id: str, version: int, body: Mapping[str, Any]) -> Case:
        """Pin the facts of a production and begin to make it; `make` goes on with it.

        ``custodian``: staff id of the person whom the certificate names; ``system``: how the records come about.

        Raises:
            CaseError: no such member of staff, one is being made already; or see `Register.act`.
        """
        staff_id, system = body.get("custodian"), body.get("system", "")
        if not isinstance(staff_id, str) or not isinstance(system, str) or len(system) > 4_000:
            raise Malformed("custodian", "This has to be the staff id of the person whom the certificate names.")

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if case.production_id is not None:
                row = await conn.fetchrow(sql.PRODUCTION, case.production_id)
                if row["failed"] is None:
                    raise Refused("production.there", "Fed. R. Evid. 902", "There is a production of this already.")
            person = await conn.fetchrow(_CUSTODIAN, staff_id)
            if person is None:
                raise Malformed("custodian", "This has to be the staff id of the person whom the certificate names.")
            custodian = Custodian(person["name"], person["title"], self._carrier, staff_id)
            number: int = await conn.fetchval(sql.NEXT_PRODUCTION, case.case_id)
            facts = await self._facts(conn, case, uuid4(), number, custodian, system)
            place = (case.case_id, "production", str(facts.production_id))
            sealed = await self._register.sealer.seal(case.key_month, place, canonical.facts_bytes(facts))
            await conn.execute(
                sql.ADD_PRODUCTION,
                facts.production_id,
                case.case_id,
                number,
                case.hold_id,
                who.staff_id,
                facts.made_at,
                sealed,
            )
            told: dict[str, JSON] = {
                "production": str(facts.production_id),
                "hold": case.hold_id,
                "custodian": staff_id,
                "certifications": sorted(rule.value for rule in facts.certifications),
            }
            return Step(told, change={"production_id": facts.production_id})

        return await self._register.act(who, case_id, version, Action.PRODUCE, work)

    async def make(self) -> None:
        """Make productions whose facts are pinned. Safe at any time: the same facts give the same bytes."""
        for row in await self._register.pool.fetch(sql.OPEN_PRODUCTIONS):
            production_id = row["production_id"]
            if production_id in self._making:
                continue
            self._making.add(production_id)
            try:
                await self._make(production_id)
            finally:
                self._making.discard(production_id)

    async def certificate(self, who: StaffGrant, case_id: str) -> bytes:
        """Return the draft of the certificate, for the custodian to read and sign outside; the look is entered.

        Raises:
            CaseError: there is no production, or it is being made.
        """
        case = await self._drafted(case_id)
        assert case.production_id is not None
        await self._register.looked(who, "certificate", case_id, production=str(case.production_id))
        return await self._maker.certificate(case.production_id)

    async def certify(self, who: StaffGrant, case_id: str, version: int, kind: str, body: bytes) -> Case:
        """Take the certificate that the custodian signed outside, and fix the package with it.

        Raises:
            CaseError: it is not one; or see `Register.act`.
        """
        try:
            signed = SignedCertificate(SignedAs(kind), body)
        except ValueError:
            raise Malformed("kind", "This has to be sshsig, pdf or text.") from None
        await self._register.check(who, case_id, version, Action.CERTIFY)
        case = await self._drafted(case_id)
        production_id = case.production_id
        assert production_id is not None
        try:
            done = await self._maker.certify(production_id, signed, actor=who.actor())
        except ProductionBusy as error:
            raise WrongState("The production is being worked on just now: try again.") from error
        except ProductionError as error:
            refusal = Refused("certificate.refused", "Fed. R. Evid. 902; 28 U.S.C. 1746", str(error))
            await self._register.refused(who, case_id, Action.CERTIFY, refusal)
            raise refusal from error

        # Dying here leaves a certified package in a case that is reviewed: certifying it again is the same.
        async def work(_: asyncpg.Connection, case: Case) -> Step:
            if case.production_id != production_id:
                raise Refused("production.other", "Fed. R. Evid. 902", "The case has another production now.")
            told: dict[str, JSON] = {
                "production": str(production_id),
                "signed_as": signed.kind.value,
                "signed_sha256": hashlib.sha256(body).hexdigest(),
                "package_sha256": done.package.sha256,
                "production_key": done.kid,
            }
            return Step(told)

        return await self._register.act(who, case_id, version, Action.CERTIFY, work)

    async def deliver(
        self, who: StaffGrant, case_id: str, version: int, recipients: Sequence[str], *, again: bool = False
    ) -> Case:
        """Encrypt the package to its recipients' age keys, and say that it goes out.

        ``again``: to one other key of a recipient who lost the first, which an approver has approved.

        Raises:
            CaseError: no age keys, no live approval (of that key); or see `Register.act`.
        """
        keys = tuple(dict.fromkeys(recipients))
        if not 1 <= len(keys) <= RECIPIENTS_MAX or not all(_RECIPIENT.fullmatch(key) for key in keys):
            raise Malformed("recipients", "These have to be 1 to 8 age recipients: age1 and 58 letters and digits.")
        action = Action.REDELIVER if again else Action.DELIVER
        case = await self._register.check(who, case_id, version, action)
        try:
            async with self._register.pool.acquire() as conn:
                await self._approved(conn, case, keys if again else None)
        except CaseError as unapproved:
            await self._register.refused(who, case_id, action, unapproved)
            raise
        production_id = case.production_id
        assert production_id is not None
        try:
            delivery = await self._maker.seal(production_id, keys, actor=who.actor())
        except ProductionBusy as error:
            raise WrongState("The production is being worked on just now: try again.") from error
        except ProductionError as error:
            refusal = Refused("delivery.refused", "Fed. R. Evid. 902", str(error))
            await self._register.refused(who, case_id, action, refusal)
            raise refusal from error

        # Dying here leaves a delivery that nobody may fetch: the same recipients again are the same delivery.
        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            approval = await self._approved(conn, case, keys if again else None)
            if again:
                await conn.execute(sql.VOID_APPROVAL, approval)
            value = {"delivery_id": str(delivery.delivery_id), "recipients": list(keys), "name": delivery.name}
            place = (case.case_id, "delivery", str(case.version + 1))
            sealed = await self._register.sealer.seal_json(case.key_month, place, value)
            await conn.execute(sql.ADD_TEXT, case.case_id, "delivery", case.version + 1, sealed)
            told: dict[str, JSON] = {
                "production": str(production_id),
                "delivery": str(delivery.delivery_id),
                "approval": str(approval),
                "recipients": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
            }
            return Step(told, case.state if again else None)

        return await self._register.act(who, case_id, version, action, work)

    async def package(self, who: StaffGrant, case_id: str) -> tuple[str, AsyncIterator[bytes]]:
        """Return the name and bytes of the package last delivered; the look is entered first.

        Raises:
            NoSuchCase: nothing was delivered.
            Refused: what one person did in an emergency was not confirmed in time, or was contested; in the log.
        """
        async with self._register.pool.acquire() as conn:
            case = await self._case(conn, case_id)
            await handed_over(self._register, who, conn, case, "package")
            row = await conn.fetchrow(sql.LAST_TEXT, case_id, "delivery")
            if row is None:
                raise NoSuchCase("Nothing was delivered yet.")
            await self._register.sealer.load(conn, [case.key_month])
            place = (case_id, "delivery", str(row["version"]))
            value = await self._register.sealer.open_json(case.key_month, place, row["sealed"])
        await self._register.looked(who, "package", case_id, delivery=value["delivery_id"])
        return value["name"], self._maker.package(UUID(value["delivery_id"]), actor=who.actor())

    async def acknowledge(self, who: StaffGrant, case_id: str, version: int, note: str) -> Case:
        """Say that the recipient acknowledged the delivery.

        Raises:
            CaseError: see `Register.act`.
        """

        async def work(_: asyncpg.Connection, __: Case) -> Step:
            return Step({"note": note})

        return await self._register.act(who, case_id, version, Action.ACK, work)

    async def _make(self, production_id: UUID) -> None:
        pool = self._register.pool
        async with pool.acquire() as conn:
            row = await conn.fetchrow(sql.PRODUCTION, production_id)
            case = await self._case(conn, row["case_id"])
            await self._register.sealer.load(conn, [case.key_month])
        place = (case.case_id, "production", str(production_id))
        facts = canonical.read_facts(await self._register.sealer.open(case.key_month, place, row["sealed"]))

        def tables() -> AsyncIterator[pa.Table]:
            return self._extractor.read_hold(row["hold_id"])

        try:
            await self._maker.draft(facts, tables)
        except ProductionBusy:
            return
        except ProductionError as error:
            logs.event(_LOG, logging.ERROR, "cases.production", error)
            await pool.execute(sql.PRODUCTION_FAILED, production_id, "production.failed")
            return
        # Dying here leaves a draft that is made and not said to be: making it again finds it so.
        await pool.execute(sql.DRAFTED, production_id)

    async def _facts(
        self,
        conn: asyncpg.Connection,
        case: Case,
        production_id: UUID,
        number: int,
        custodian: Custodian,
        system: str,
    ) -> Facts:
        process = await self._intake.process(conn, case)
        scope = await self._intake.scope(conn, case)
        assert scope is not None  # the state says that it was validated
        found = await self._extracting.found(case)
        instrument = INSTRUMENTS[case.instrument]
        sources = await self._extractor.sources(found.hold_id)
        place = await self._receipt(found.access_id)
        t = scope.targets
        targets = (
            *(Target("number", f"+{n}") for n in t.numbers),
            *(Target("account", name) for name in t.accounts),
            *(Target("trunk", name) for name in t.trunks),
            *(Target("imsi", imsi) for imsi in t.imsis),
        )
        wanted = process.facts["certification"] or [rule.value for rule in Rule]
        return Facts(
            production_id=production_id,
            case_id=case.case_id,
            number=number,
            carrier=self._carrier,
            instrument=case.instrument,
            instrument_title=instrument.name,
            citation=instrument.citation,
            agency=process.facts["agency"] or process.facts["court"],
            reference=process.facts["reference"],
            targets=targets,
            window_start=_EPOCH + timedelta(microseconds=scope.start_us),
            window_end=_EPOCH + timedelta(microseconds=scope.end_us),
            timezone=scope.zone,
            fields=scope.fields or (),
            sources=tuple(InputFile(s.ingest_id, s.name, s.sha256, s.bytes, s.lines, s.ingested_at) for s in sources),
            custodian=custodian,
            certifications=frozenset(rule for rule in Rule if rule.value in wanted),
            made_at=await conn.fetchval(sql.NOW),
            rows=found.rows,
            system=system,
            log=None if place is None else place[0],
            receipt=b"" if place is None else place[1],
            access_note=search_note(found.as_of, found.staged, found.gone),
        )

    async def _case(self, conn: asyncpg.Connection, case_id: str) -> Case:
        row = await conn.fetchrow(sql.FIND_CASE, case_id)
        if row is None:
            raise NoSuchCase("There is no such case.")
        return case_of(row)

    async def _drafted(self, case_id: str) -> Case:
        async with self._register.pool.acquire() as conn:
            case = await self._case(conn, case_id)
            row = None
            if case.production_id is not None:
                row = await conn.fetchrow(sql.PRODUCTION, case.production_id)
        if row is None:
            raise NoSuchCase("There is no production of this case.")
        if row["failed"] is not None:
            raise Refused("production.failed", "Fed. R. Evid. 902", "The production could not be made: produce again.")
        if row["drafted_at"] is None:
            raise Refused("production.making", "Fed. R. Evid. 902", "The production is still being made.")
        return case

    async def _approved(self, conn: asyncpg.Connection, case: Case, keys: Sequence[str] | None) -> UUID:
        """Return the approval under which something goes out: of the scope, or of another recipient's key.

        Raises:
            Refused: there is none.
        """
        if keys is None:
            return (await live(conn, case)).approval_id
        now: datetime = await conn.fetchval(sql.NOW)
        await decided(conn, case)
        if len(keys) == 1:
            digest = hashlib.sha256(keys[0].encode()).digest()
            for approval in await approvals(conn, case.case_id):
                fresh = approval.voided_at is None and approval.expires_at > now
                if approval.kind == "redelivery" and approval.recipient == digest and fresh:
                    return approval.approval_id
        raise Refused("approval.recipient", "47 U.S.C. 222(a)", "Have an approver approve this one key first.")
