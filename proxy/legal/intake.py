"""From receipt to a scope that stands: open, say what is asked, validate, narrow, object, resolve, close.

What is asked is fixed at the validation; from then on it is narrowed, and each narrowing voids the approval and lets go
of what was extracted under it. More than the instrument compels makes the case deficient, with a letter that names the
rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

import asyncpg

from proxy.ledger.model import JSON, Tag, month_of, number_tags
from proxy.legal import asked, sql
from proxy.legal.approvals import approvals, unconfirmed
from proxy.legal.deadlines import DeadlineKind, deadlines
from proxy.legal.letters import Addressed, acknowledgement, deficiency, objection
from proxy.legal.model import Case, CaseError, Malformed, NoSuchCase, Refused, Scope, new_case_id
from proxy.legal.register import Register, Step, case_of, refusal_of
from proxy.legal.served import Process, read_process, read_secrecy, read_window
from proxy.legal.states import Action, CaseState
from proxy.legal.targets import NOBODY, Guarded, ReadTargets, read_targets
from proxy.policy.legalrules import RULES
from proxy.policy.process import Finding, LegalRule, Validated
from proxy.policy.validation import check
from proxy.staff.model import StaffGrant
from schema.fields import BY_NAME, DisclosureClass

LINES_MAX = 120_000
"""Most lines of a list of targets; with doubles among them."""
NUMBERS_TAGGED = 16
"""An entry is found by each number of a scope that has at most so many."""
_RULES = {rule.code: rule for rule in RULES}
_STATED = date(1991, 12, 1)  # Fed. R. Civ. P. 45 as amended


class Intake:
    """The first half of a case.

    Args:
        register: where steps are made.
        carrier: our name, as it stands in letters.
        guarded: numbers of police, courts, counsel (the operator's list).
    """

    def __init__(self, register: Register, carrier: str, guarded: Guarded = NOBODY) -> None:
        self._register = register
        self._sealer = register.sealer
        self._carrier = carrier
        self._guarded = guarded

    async def open(self, who: StaffGrant, request_key: UUID, body: Mapping[str, Any]) -> Case:
        """Open a case from what was served. The same key of the same person again returns the case it opened.

        Raises:
            Malformed: naming the member at fault.
            Refused: the preservation that it names is none.
        """
        process = read_process(body)
        pool = self._register.pool
        async with pool.acquire() as conn:
            at: datetime = await conn.fetchval(sql.NOW)
            month = month_of(at)
            await self._sealer.ensure(conn, month)
            case_id = new_case_id()
            sealed = await self._sealer.seal_json(month, (case_id, "request", "1"), process.facts)
            due = _answer_by(process)
            secrecy = process.secrecy
            try:
                async with conn.transaction():
                    if await conn.fetchrow(sql.OPENED, who.staff_id, request_key) is not None:
                        return await self._opened(conn, who, request_key)
                    if process.preservation is not None:
                        await self._preservation(conn, process.preservation)
                    await conn.execute(
                        sql.ADD_CASE,
                        case_id,
                        process.instrument,
                        month,
                        who.staff_id,
                        request_key,
                        process.preservation,
                        due,
                        "none" if secrecy is None else secrecy.authority.value,
                        None if secrecy is None else secrecy.until,
                    )
                    await conn.execute(sql.ADD_TEXT, case_id, "request", 1, sealed)
                    case = case_of(await conn.fetchrow(sql.FIND_CASE, case_id))
                    told = {"served": process.facts}
                    await self._register.record(conn, who, Action.OPEN, None, case, Step(told))
                    return case
            except asyncpg.UniqueViolationError:
                # The same request at the same moment: the other one opened it.
                return await self._opened(conn, who, request_key)
            except asyncpg.CheckViolationError as error:
                unfit = refusal_of(error)
                if unfit is None:
                    raise
                await self._register.refused(who, case_id, Action.OPEN, unfit)
                raise unfit from error
            except CaseError as refusal:
                await self._register.refused(who, case_id, Action.OPEN, refusal)
                raise

    async def ask(self, who: StaffGrant, case_id: str, version: int, body: Mapping[str, Any]) -> Case:
        """Say what is asked: ``targets`` (lines), ``from`` and ``through`` or ``to``, ``classes``, ``fields`` (or all).

        Raises:
            CaseError: malformed, or the case has been validated; a deficient one needs a new document first.
        """
        read = await asyncio.to_thread(self._read_targets, body.get("targets"))

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            process = await self.process(conn, case)
            start, end = read_window(body, process.zone)
            await _needs_document(conn, case)
            scope = asked.scope_of(read, start, end, process.zone, asked.classes(body), asked.fields(body))
            return await self._new_scope(conn, who, case, scope, narrows=False)

        return await self._register.act(who, case_id, version, Action.SCOPE, work)

    async def validate(self, who: StaffGrant, case_id: str, version: int) -> Case:
        """Hold what is asked against the instrument; fix the scope, or write a letter of deficiency.

        Raises:
            CaseError: nothing is asked yet, or the document has not been stored.
        """

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            scope = await self.scope(conn, case)
            if scope is None:
                raise Refused("scope.none", "47 U.S.C. 222(c)(1)", "Say first what is asked: targets, window, classes.")
            if not any(row["kind"] == "instrument" for row in await conn.fetch(sql.DOCUMENTS, case.case_id)):
                raise Refused("document.none", "47 U.S.C. 222(c)(1)", "Store the served document first.")
            process = await self.process(conn, case)
            now: datetime = await conn.fetchval(sql.NOW)
            facts = await asyncio.to_thread(scope.facts)
            found = check(process.served(scope, facts), now)
            # `version` of what is written now is the one that the case will have.
            if isinstance(found, Validated):
                due = deadlines(process.instrument, process.served_at, process.return_by, process.zone.key)
                letter = acknowledgement(self._addressed(case, process, now), found, due)
                await self._write(conn, case, "findings", asked.findings_json(found))
                await self._write(conn, case, "letter", {"kind": "acknowledgement", "text": letter})
                fixed = asked.fixed(scope, found)
                step = await self._new_scope(conn, who, case, fixed, narrows=True)
                told = {**step.told, "basis": found.basis, "notes": asked.codes(found.notes)}
                return replace(step, after=CaseState.VALIDATED, told=told)
            letter = deficiency(self._addressed(case, process, now), found)
            await self._write(conn, case, "findings", asked.findings_json(found))
            await self._write(conn, case, "letter", {"kind": "deficiency", "text": letter})
            codes = asked.codes(found.findings)
            citations = [finding.rule.citation for finding in found.findings]
            told = {"findings": codes, "citations": citations, "notes": asked.codes(found.notes)}
            return Step(told, CaseState.DEFICIENT)

        return await self._register.act(who, case_id, version, Action.VALIDATE, work)

    async def narrow(self, who: StaffGrant, case_id: str, version: int, body: Mapping[str, Any]) -> Case:
        """Make the scope smaller: any of ``targets``, ``from``, ``through``/``to``, ``classes``, ``fields``; or
        ``compelled``: true, down to what the instrument was found to compel.

        An approval is void with it, and what was extracted under it is let go.

        Raises:
            CaseError: malformed; or it would widen anything, or change nothing.
        """
        lines = body.get("targets")
        read = None if lines is None else await asyncio.to_thread(self._read_targets, lines)

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            scope = await self.scope(conn, case)
            if scope is None:
                raise Refused("scope.none", "47 U.S.C. 222(c)(1)", "Say first what is asked: targets, window, classes.")
            if body.get("compelled") is True:
                wanted = await self._compelled(conn, case, scope)
            else:
                wanted = asked.smaller(scope, read, body)
            if not await asyncio.to_thread(asked.within, wanted, scope):
                raise Refused(
                    "scope.widened",
                    "47 U.S.C. 222(c)(1)",
                    "A scope is narrowed, never widened: wider process is a case of its own.",
                )
            if replace(wanted, salt=scope.salt) == scope:
                raise Refused("scope.unchanged", "47 U.S.C. 222(c)(1)", "This changes nothing of the scope.")
            await conn.execute(sql.VOID_APPROVALS, case.case_id)
            return await self._new_scope(conn, who, case, wanted, narrows=True)

        return await self._register.act(who, case_id, version, Action.NARROW, work)

    async def object(self, who: StaffGrant, case_id: str, version: int, grounds: Sequence[str], text: str) -> Case:
        """Object to a process: rules by their codes, words of our own, or both. Voids the approval.

        Raises:
            CaseError: no grounds, or unknown ones.
        """
        if any(code not in _RULES for code in grounds):
            raise Malformed("grounds", "These have to be codes of rules.")
        found = [Finding(_RULES[code]) for code in grounds]
        if text:
            found.append(
                Finding(LegalRule("objection.stated", "Fed. R. Civ. P. 45(d)(2)(B)", _STATED, text, "", house=True))
            )
        if not found:
            raise Malformed("grounds", "An objection has grounds.")

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            process = await self.process(conn, case)
            now: datetime = await conn.fetchval(sql.NOW)
            letter = objection(self._addressed(case, process, now), found)
            await self._write(conn, case, "letter", {"kind": "objection", "text": letter})
            await conn.execute(sql.VOID_APPROVALS, case.case_id)
            return Step({"grounds": [f.rule.code for f in found]}, change=_LET_GO)

        return await self._register.act(who, case_id, version, Action.OBJECT, work)

    async def resolve(self, who: StaffGrant, case_id: str, version: int, reason: str) -> Case:
        """Take an objection back, or note that it was decided; the scope needs an approval again.

        Raises:
            CaseError: see `Register.act`.
        """
        return await self._reasoned(who, case_id, version, Action.RESOLVE, reason)

    async def close(self, who: StaffGrant, case_id: str, version: int, reason: str) -> Case:
        """Close a case. Whatever one person did in an emergency has first to be confirmed or contested by another.

        Raises:
            CaseError: see `Register.act`.
        """

        async def check_confirmed(conn: asyncpg.Connection, case: Case) -> None:
            if any(a.kind == "emergency" and a.verdict is None for a in await approvals(conn, case.case_id)):
                raise unconfirmed("Somebody else has first to confirm or contest what was done in the emergency.")

        return await self._reasoned(who, case_id, version, Action.CLOSE, reason, check_confirmed)

    async def secret(self, who: StaffGrant, case_id: str, version: int, order: Any, document: UUID) -> Case:
        """Take an order of non-disclosure that came after the opening, or an extension: it only gets stronger.

        One person does it, in whatever state the case is; to lift it takes two (change kind ``secrecy.lift``).

        Args:
            who: who does it.
            case_id: the case.
            version: the version that the caller saw.
            order: ``{"authority": …, "until": day or null}``, the day in the zone of the process.
            document: the order, as it was stored (kind ``nondisclosure``).

        Raises:
            CaseError: no such document of the case; the order ends sooner than the one that binds now; or see
                `Register.act`.
        """

        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            process = await self.process(conn, case)
            wanted = read_secrecy(order, process.zone)
            if wanted is None:
                raise Malformed("authority", "This has to be 2705b, 2709c or court_seal.")
            stored = await conn.fetch(sql.DOCUMENTS, case.case_id)
            if not any(d["document_id"] == document and d["kind"] == "nondisclosure" for d in stored):
                raise Malformed("document", "This has to be the id of a document of this case, of kind nondisclosure.")
            # Whether it is stronger than the present one, PostgreSQL says (0014_cases.sql).
            told: dict[str, JSON] = {
                "authority": wanted.authority.value,
                "until": None if wanted.until is None else wanted.until.isoformat(),
                "before": case.secrecy,
                "document": str(document),
            }
            change = {"secrecy": wanted.authority.value, "secret_until": wanted.until, "secrecy_lifted_at": None}
            return Step(told, case.state, change)

        return await self._register.act(who, case_id, version, Action.SECRET, work)

    async def process(self, conn: asyncpg.Connection, case: Case) -> Process:
        """Return what was written down of the process; the case's key is loaded."""
        row = await conn.fetchrow(sql.LAST_TEXT, case.case_id, "request")
        place = (case.case_id, "request", str(row["version"]))
        return read_process(await self._sealer.open_json(case.key_month, place, row["sealed"]))

    async def scope(self, conn: asyncpg.Connection, case: Case) -> Scope | None:
        """Return the scope as it stands; None: nothing is asked yet. The case's key is loaded."""
        row = await conn.fetchrow(sql.FIND_SCOPE, case.case_id, case.scope_version)
        if row is None:
            return None
        place = (case.case_id, "scope", str(case.scope_version))
        return await asyncio.to_thread(Scope.read, await self._sealer.open(case.key_month, place, row["sealed"]))

    async def _opened(self, conn: asyncpg.Connection, who: StaffGrant, request_key: UUID) -> Case:
        """Return the case that a request opened before, as it stands now: a look, which is entered."""
        case = case_of(await conn.fetchrow(sql.OPENED, who.staff_id, request_key))
        await self._register.looked(who, "case", case.case_id)
        return case

    async def _reasoned(
        self,
        who: StaffGrant,
        case_id: str,
        version: int,
        action: Action,
        reason: str,
        before: Callable[[asyncpg.Connection, Case], Any] | None = None,
    ) -> Case:
        async def work(conn: asyncpg.Connection, case: Case) -> Step:
            if before is not None:
                await before(conn, case)
            await self._write(conn, case, "reason", {"action": action.value, "text": reason})
            return Step({"reason": reason})

        return await self._register.act(who, case_id, version, action, work)

    async def _new_scope(
        self, conn: asyncpg.Connection, who: StaffGrant, case: Case, scope: Scope, *, narrows: bool
    ) -> Step:
        number = case.scope_version + 1
        data = await asyncio.to_thread(scope.canonical)
        sealed = await self._sealer.seal(case.key_month, (case.case_id, "scope", str(number)), data)
        digest = await asyncio.to_thread(lambda: scope.digest)
        count = max(1, len(scope.targets))
        await conn.execute(
            sql.ADD_SCOPE, case.case_id, number, digest, count, *scope.months, who.staff_id, narrows, sealed
        )
        told: dict[str, JSON] = {
            "scope_sha256": digest.hex(),
            "targets": len(scope.targets),
            "unreadable": len(scope.refused),
            "guarded": len(scope.guarded),
            "from_us": str(scope.start_us),
            "to_us": str(scope.end_us),
            "classes": sorted(scope.classes & set(DisclosureClass)),
            "fields": None if scope.fields is None else [f for f in scope.fields if f in BY_NAME],
        }
        tags: tuple[Tag, ...] = ()
        if len(scope.targets) <= NUMBERS_TAGGED:
            told["numbers"] = [f"+{n}" for n in scope.targets.numbers]
            tags = tuple(tag for n in scope.targets.numbers for tag in number_tags(f"+{n}"))
        return Step(told, change={"scope_version": number, **_LET_GO}, tags=tags)

    async def _write(self, conn: asyncpg.Connection, case: Case, part: str, value: Mapping[str, Any]) -> None:
        version = case.version + 1
        sealed = await self._sealer.seal_json(case.key_month, (case.case_id, part, str(version)), value)
        await conn.execute(sql.ADD_TEXT, case.case_id, part, version, sealed)

    async def _compelled(self, conn: asyncpg.Connection, case: Case, scope: Scope) -> Scope:
        row = await conn.fetchrow(sql.LAST_TEXT, case.case_id, "findings")
        within = None
        if row is not None:
            place = (case.case_id, "findings", str(row["version"]))
            within = (await self._sealer.open_json(case.key_month, place, row["sealed"])).get("within")
        if within is None:
            raise Refused(
                "scope.nothing", "47 U.S.C. 222(c)(1)", "The last check found nothing that the process would compel."
            )
        fields = tuple(within["fields"])
        return scope.resalted(
            start_us=within["start_us"], end_us=within["end_us"], fields=fields, classes=asked.classes_of(fields)
        )

    async def _preservation(self, conn: asyncpg.Connection, case_id: str) -> None:
        row = await conn.fetchrow(sql.FIND_CASE, case_id)
        if row is None:
            raise NoSuchCase("There is no such preservation.")
        case = case_of(row)
        if case.instrument != "preservation" or case.state not in (CaseState.ACTIVE, CaseState.RENEWED):
            raise Refused("preservation.none", "18 U.S.C. 2703(f)", "That is no preservation that holds anything.")

    def _read_targets(self, lines: Any) -> ReadTargets:
        if not isinstance(lines, list) or not 1 <= len(lines) <= LINES_MAX:
            raise Malformed("targets", "This has to be a list of 1 to 120,000 targets, each a text.")
        if not all(isinstance(line, str) for line in lines):
            raise Malformed("targets", "This has to be a list of 1 to 120,000 targets, each a text.")
        return read_targets(lines, self._guarded)

    def _addressed(self, case: Case, process: Process, now: datetime) -> Addressed:
        f = process.facts
        return Addressed(
            self._carrier,
            case.case_id,
            case.instrument,
            f["agency"] or f["court"],
            f["officer"],
            f["reference"],
            process.served_at.astimezone(process.zone).date(),
            now.astimezone(process.zone).date(),
        )


_LET_GO: Mapping[str, Any] = {"approval_id": None, "hold_id": None, "production_id": None}


def _answer_by(process: Process) -> datetime | None:
    due = deadlines(process.instrument, process.served_at, process.return_by, process.zone.key)
    return next((d.at for d in due if d.kind is DeadlineKind.RESPONSE), None)


async def _needs_document(conn: asyncpg.Connection, case: Case) -> None:
    """Refuse what is asked anew of a document that was found deficient, whatever was narrowed since."""
    if await conn.fetchval(sql.FOUND_DEFICIENT, case.case_id):
        raise Refused(
            "document.old",
            "47 U.S.C. 222(c)(1)",
            "What was found deficient is asked anew by a new document only: store it first, or narrow the scope.",
        )
