"""A case's productions: drafted, certified, encrypted to somebody. Every step can be repeated; so crashes are harmless.

The order, and what dying leaves:

* begin: the facts are pinned, with an entry (``making``). Dying before: nothing. After: `draft` goes on with the same
  facts; with others it refuses.
* the files, piece by piece, none of it visible. Dying: `draft` makes them again over what is there, the same bytes.
* ``drafted``, with an entry: the files are fixed. From then on no record of the store and of the hold is read again.
* the signed certificate, manifest and signature are put beside them. Dying: `certify` does it again.
* ``certified``, with an entry: the package is fixed, its SHA-256 stands in the log.
* a delivery, with an entry, before its first byte is given to anybody; each time the package is fetched has entries
  before and after. What was encrypted is not kept: it is made anew, with the same package inside.

PostgreSQL holds the same order (0017_productions.sql), and that a second recipient has an approval of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from keys.signing import SigningKeys
from proxy.ledger.model import JSON, Entry, Kind, Tag, new_id
from proxy.ledger.service import Ledger
from proxy.legal.production import archive, building, canonical, certificate, manifest, signature, sql, sshsig
from proxy.legal.production.agefile import SUFFIX, check_recipients, encrypted
from proxy.legal.production.model import (
    Certified,
    Delivery,
    Drafted,
    Facts,
    FileFact,
    ProductionError,
    SignedAs,
    SignedCertificate,
    Tables,
)
from proxy.legal.production.ordering import TOGETHER
from proxy.legal.production.store import StoredParts
from proxy.legal.sealing import CaseSealer

Actor = Mapping[str, JSON]
"""Who acts, as the log says it: staff, token_id, key_thumbprint, address."""
_GATEWAY: Actor = {}
_NO_CUSTODIAN = "the custodian whom the certificate names is no active member of staff"


class ProductionBusy(ProductionError):  # noqa: N818 - it says what is so
    """Another process is making it just now."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A production as stored, opened."""

    state: str
    facts: Facts
    month: int
    drafted: Drafted | None
    files: tuple[FileFact, ...]
    """Of the whole package, manifest first; empty before it is certified."""
    certified: Certified | None
    signed: tuple[str, str] | None
    """(kind, SHA-256) of what the custodian gave back."""


class Productions:
    """Makes productions and keeps them.

    Args:
        pool: connections of role CASES.
        sealer: of the cases' key class.
        ledger: the access log.
        signing: the keyring's signing keys.
        together: most records in memory at once.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        sealer: CaseSealer,
        ledger: Ledger,
        signing: SigningKeys,
        *,
        together: int = TOGETHER,
    ) -> None:
        self._pool = pool
        self._sealer = sealer
        self._ledger = ledger
        self._signing = signing
        self._together = together
        # One at a time here: one connection of the pool is held meanwhile, and memory is for one.
        self._one = asyncio.Semaphore(1)

    async def draft(self, facts: Facts, tables: Tables, *, actor: Actor = _GATEWAY) -> Drafted:
        """Make a production's files and the draft of its certificate.

        The same facts again return what was made, or make it again where it was not finished.

        Raises:
            ProductionError: if facts and records do not go together, or the production was begun with other facts.
            ProductionBusy: if it is being made elsewhere.
            LedgerUnavailable: if the log cannot be written.
        """
        async with self._alone(facts.production_id):
            row = await self._row(facts.production_id)
            if row is None:
                row = await self._begin(facts, actor)
            elif canonical.digest(row.facts) != canonical.digest(facts):
                raise ProductionError("this production was begun with other facts")
            if row.drafted is not None:
                return row.drafted
            made = await building.draft(facts, tables, self._parts(row), together=self._together)
            sealed = await self._sealer.seal_json(
                row.month, _place(facts.production_id, "drafted"), _drafted_json(made)
            )
            outcome: dict[str, JSON] = {
                "records": made.rows,
                "pages": made.pages,
                "files": [{"name": each.name, "bytes": each.bytes, "sha256": each.sha256} for each in made.files],
            }
            await self._step(
                sql.DRAFTED, (facts.production_id, made.rows, made.pages, sealed), facts, actor, "drafted", outcome
            )
            return made

    async def certificate(self, production_id: UUID) -> bytes:
        """Return certificate.txt, for the custodian to read and sign outside.

        Raises:
            ProductionError: if there is no such production, or it is not drafted.
        """
        return b"".join([piece async for piece in self.file(production_id, certificate.NAME)])

    async def file(self, production_id: UUID, name: str) -> AsyncIterator[bytes]:
        """Give a drafted file's bytes, for the legal desk's own eyes. The caller enters the look in the log.

        Raises:
            ProductionError: as `certificate`; also if it has no such file.
        """
        row = await self._drafted(production_id)
        assert row.drafted is not None
        async for piece in building.opened(row.drafted, name, self._parts(row)):
            yield piece

    async def look(self, production_id: UUID) -> tuple[Facts, Drafted | None, Certified | None] | None:
        """Return what a production is and how far it has come; None where there is none."""
        row = await self._row(production_id)
        return None if row is None else (row.facts, row.drafted, row.certified)

    async def certify(self, production_id: UUID, signed: SignedCertificate, *, actor: Actor = _GATEWAY) -> Certified:
        """Take the certificate that the custodian signed outside, and fix the package with it.

        Raises:
            ProductionError: if it is not the draft's, or not signed with a key that is registered for the custodian;
                if the custodian is no active member of staff; or if the production is not drafted, or certified with
                something else.
            LedgerUnavailable: if the log cannot be written.
        """
        async with self._alone(production_id):
            row = await self._drafted(production_id)
            assert row.drafted is not None
            what = (signed.kind.value, hashlib.sha256(signed.body).hexdigest())
            if row.certified is not None:
                if row.signed != what:
                    raise ProductionError("this production is certified already, with another signature")
                return row.certified
            if not await self._pool.fetchval(sql.CUSTODIAN_ACTIVE, row.facts.custodian.staff_id):
                raise ProductionError(_NO_CUSTODIAN)
            parts = self._parts(row)
            by = await self._check_signature(row, signed)
            listing, files = await building.complete(row.facts, row.drafted, signed, parts)
            key = await asyncio.to_thread(self._signing.current, signature.PURPOSE)
            jws = await asyncio.to_thread(signature.sign, key, listing)
            front = (
                await building.keep(parts, manifest.NAME, listing),
                await building.keep(parts, manifest.SIGNATURE, jws),
            )
            name = archive.package_name(row.facts.case_id, row.facts.number) + ".zip"
            # Read back as it is stored: what is fixed is what can be given.
            package = await building.fingerprint(name, building.package(row.facts, (*front, *files), parts))
            value = {
                "files": [canonical.file_json(each) for each in (*front, *files)],
                "package": canonical.file_json(package),
                "signed": list(what),
            }
            sealed = await self._sealer.seal_json(row.month, _place(production_id, "certified"), value)
            outcome: dict[str, JSON] = {
                "package": {"bytes": package.bytes, "sha256": package.sha256},
                "manifest_sha256": front[0].sha256,
                "signed_as": what[0],
                "signed_sha256": what[1],
                "custodian_key": by,
                "kid": key.kid,
            }
            await self._step(
                sql.CERTIFIED, (production_id, what[0], key.kid, sealed), row.facts, actor, "certified", outcome
            )
            return Certified(production_id, package, key.kid)

    async def inner(self, production_id: UUID) -> AsyncIterator[bytes]:
        """Give the inner package's bytes: the same every time. For encryption and for checks, not to be handed out.

        Raises:
            ProductionError: if it is not certified, or what is stored is not what was made.
        """
        row = await self._certified(production_id)
        async for piece in building.package(row.facts, row.files, self._parts(row)):
            yield piece

    async def seal(self, production_id: UUID, recipients: Sequence[str], *, actor: Actor = _GATEWAY) -> Delivery:
        """Enter to whom the package goes: the same inner package, encrypted to these recipients when it is fetched.

        The same recipients again return the same delivery. After the first, other recipients (a lost key) need a live
        approval of kind ``redelivery`` that names the SHA-256 of the new key.

        Raises:
            ProductionError: if a recipient is none, the production is not certified, or there is no such approval.
            LedgerUnavailable: if the log cannot be written.
        """
        wanted = check_recipients(recipients)
        row = await self._certified(production_id)
        text = "\n".join(wanted).encode()
        digest = hashlib.sha256(text).digest()
        name = archive.package_name(row.facts.case_id, row.facts.number) + ".zip" + SUFFIX
        async with self._alone(production_id):
            found = await self._pool.fetchval(sql.DELIVERY_OF, production_id, digest)
            if found is not None:
                return Delivery(found, production_id, wanted, name)
            delivery_id = new_id()
            sealed = await self._sealer.seal(row.month, _place(delivery_id, "delivery"), text)
            try:
                async with self._pool.acquire() as conn, conn.transaction():
                    await conn.execute(sql.DELIVER, delivery_id, production_id, digest, sealed, row.facts.case_id)
                    outcome: dict[str, JSON] = {"delivery": str(delivery_id), "recipients_sha256": digest.hex()}
                    await self._ledger.append_in(conn, [_entry(row.facts, actor, "sealed", outcome)])
            except asyncpg.CheckViolationError as error:
                raise _refused(error) from error
        return Delivery(delivery_id, production_id, wanted, name)

    async def package(self, delivery_id: UUID, *, actor: Actor = _GATEWAY) -> AsyncIterator[bytes]:
        """Give an encrypted package in pieces. Entered in the log before the first and after the last.

        Raises:
            ProductionError: if there is no such delivery, or what is stored is not what was made.
            LedgerUnavailable: before the first byte, if the log cannot be written.
        """
        found = await self._pool.fetchrow(sql.DELIVERY, delivery_id)
        if found is None:
            raise ProductionError("there is no such delivery")
        row = await self._certified(found["production_id"])
        assert row.certified is not None
        opened = await self._sealer.open(row.month, _place(delivery_id, "delivery"), found["recipients"])
        access = new_id()
        told: dict[str, JSON] = {
            "delivery": str(delivery_id),
            "package_sha256": row.certified.package.sha256,
            "recipients_sha256": found["recipients_digest"].hex(),
        }
        await self._ledger.append(_entry(row.facts, actor, "handing over", told, access))
        sha256, size, state = hashlib.sha256(), 0, "broken off"
        try:
            plain = building.package(row.facts, row.files, self._parts(row))
            async for piece in encrypted(plain, opened.decode().split("\n")):
                sha256.update(piece)
                size += len(piece)
                yield piece
            state = "handed over"
        finally:
            told = {"bytes": size, "sha256": sha256.hexdigest()}
            await asyncio.shield(self._ledger.append(_entry(row.facts, actor, state, told, access)))

    # --- inside ------------------------------------------------------------------------------------------------

    async def _begin(self, facts: Facts, actor: Actor) -> _Row:
        month = await self._pool.fetchval(sql.KEY_MONTH, facts.case_id)
        if month is None:
            raise ProductionError("there is no such case")
        async with self._pool.acquire() as conn:
            await self._sealer.ensure(conn, month)
            digest, text = canonical.digest(facts), canonical.facts_bytes(facts)
            sealed = await self._sealer.seal(month, _place(facts.production_id, "facts"), text)
            try:
                async with conn.transaction():
                    await conn.execute(
                        sql.BEGIN,
                        facts.production_id,
                        facts.case_id,
                        facts.number,
                        month,
                        digest,
                        sealed,
                        facts.custodian.staff_id,
                    )
                    outcome: dict[str, JSON] = {"facts_sha256": digest.hex()}
                    await self._ledger.append_in(conn, [_entry(facts, actor, "making", outcome)])
            except asyncpg.CheckViolationError as error:
                raise _refused(error) from error
            except asyncpg.ForeignKeyViolationError as error:
                raise ProductionError(_NO_CUSTODIAN) from error
            except asyncpg.UniqueViolationError as error:
                raise ProductionError("the case has a production of this number") from error
        return _Row("making", facts, month, None, (), None, None)

    async def _step(
        self,
        statement: str,
        arguments: tuple[object, ...],
        facts: Facts,
        actor: Actor,
        state: str,
        outcome: Mapping[str, JSON],
    ) -> None:
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                if await conn.fetchval(statement, *arguments) is None:
                    raise ProductionError("the production has moved on meanwhile")
                await self._ledger.append_in(conn, [_entry(facts, actor, state, outcome)])
        except asyncpg.CheckViolationError as error:
            raise _refused(error) from error

    async def _check_signature(self, row: _Row, signed: SignedCertificate) -> str:
        """Return the fingerprint of the custodian's key; empty where the signature is one that no tool checks."""
        if signed.kind is not SignedAs.SSH:
            return ""
        custodian = row.facts.custodian.staff_id
        rows = await self._pool.fetch(sql.CUSTODIAN_KEYS, custodian) if custodian else []
        keys = [key for each in rows if (key := sshsig.of_jwk(json.loads(each["jwk"]))) is not None]
        if not keys:
            raise ProductionError("no signing key is registered for the custodian whom the certificate names")
        assert row.drafted is not None
        text = b"".join([p async for p in building.opened(row.drafted, certificate.NAME, self._parts(row))])
        failure: sshsig.SshSignatureError | None = None
        for key in keys:
            try:
                await asyncio.to_thread(sshsig.verify, signed.body, text, key)
                return sshsig.fingerprint(key)
            except sshsig.SshSignatureError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    async def _drafted(self, production_id: UUID) -> _Row:
        row = await self._row(production_id)
        if row is None or row.drafted is None:
            raise ProductionError("there is no such production, or it is not drafted yet")
        return row

    async def _certified(self, production_id: UUID) -> _Row:
        row = await self._row(production_id)
        if row is None or row.certified is None:
            raise ProductionError("there is no such production, or it is not certified yet")
        return row

    async def _row(self, production_id: UUID) -> _Row | None:
        async with self._pool.acquire() as conn:
            stored = await conn.fetchrow(sql.GET, production_id)
            if stored is None:
                return None
            month = stored["key_month"]
            await self._sealer.load(conn, [month])
        text = await self._sealer.open(month, _place(production_id, "facts"), stored["facts"])
        facts = canonical.read_facts(text)
        drafted: Drafted | None = None
        files: tuple[FileFact, ...] = ()
        certified: Certified | None = None
        signed: tuple[str, str] | None = None
        if stored["drafted"] is not None:
            value = await self._sealer.open_json(month, _place(production_id, "drafted"), stored["drafted"])
            made = tuple(map(canonical.read_file, value["files"]))
            drafted = Drafted(production_id, stored["rows"], stored["pages"], made)
        if stored["certified"] is not None:
            value = await self._sealer.open_json(month, _place(production_id, "certified"), stored["certified"])
            files = tuple(map(canonical.read_file, value["files"]))
            certified = Certified(production_id, canonical.read_file(value["package"]), stored["kid"])
            signed = (value["signed"][0], value["signed"][1])
        return _Row(stored["state"], facts, month, drafted, files, certified, signed)

    def _parts(self, row: _Row) -> StoredParts:
        return StoredParts(self._pool, self._sealer, row.facts.production_id, row.month)

    @asynccontextmanager
    async def _alone(self, production_id: UUID) -> AsyncIterator[None]:
        """One process works on a production; the lock is a session's and goes with it."""
        async with self._one, self._pool.acquire() as conn:
            if not await conn.fetchval(sql.TRY_LOCK, str(production_id)):
                raise ProductionBusy("this production is being worked on just now; try again")
            try:
                yield
            finally:
                await conn.execute(sql.UNLOCK, str(production_id))


def _place(owner: UUID, part: str) -> tuple[str, ...]:
    return ("production", str(owner), part)


def _entry(facts: Facts, actor: Actor, state: str, outcome: Mapping[str, JSON], access_id: UUID | None = None) -> Entry:
    request: dict[str, JSON] = {
        "case": facts.case_id,
        "production": str(facts.production_id),
        "number": facts.number,
        "state": state,
    }
    tags = [Tag("case", facts.case_id.encode())]
    staff = actor.get("staff")
    if isinstance(staff, str) and staff:
        tags.append(Tag("staff", staff.encode()))
    return Entry(Kind.PRODUCTION_STATE, actor, request, outcome, access_id=access_id, tags=tuple(tags))


def _drafted_json(made: Drafted) -> Mapping[str, object]:
    return {"files": [canonical.file_json(each) for each in made.files]}


def _refused(error: asyncpg.CheckViolationError) -> ProductionError:
    """What PostgreSQL refuses, in words."""
    says = {
        "production_case": "the case is not in a state in which it is produced",
        "production_state": "what is fixed of a production stays as it is",
        "production_custodian": _NO_CUSTODIAN,
        "production_certified": "what is delivered is certified, and so is its case",
        "production_redelivery": "another recipient needs an approval that names their key",
    }
    return ProductionError(says.get(error.constraint_name or "", "the production cannot be changed so"))
