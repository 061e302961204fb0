"""The access log: durable entries a second, against pgbench that inserts the same bytes one row a transaction."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import time

import asyncpg

from proxy.cli import embedded
from proxy.disclosure import entries
from proxy.disclosure.entries import Actor, Terms
from proxy.disclosure.query import Window
from proxy.ledger.model import Entry, new_id
from proxy.ledger.service import Ledger
from proxy.policy import Action, OcnWindow, Permit, Purpose
from schema.fields import DisclosureClass, fields_of
from tests.bench.measures import Report, Result
from tests.bench.stage import Stage

CLIENTS = 64
"""Accesses that wait, and connections of the rival."""

_ACTORS = [
    Actor(f"billing-{n}", f"carrier-{n}", secrets.token_urlsafe(16), secrets.token_urlsafe(32), f"192.0.2.{n}")
    for n in range(16)
]
_WINDOW = Window(1_788_220_800_000_000, 1_788_307_200_000_000, "ingress", None, None)
_CLASSES = frozenset({DisclosureClass.TIMING, DisclosureClass.PARTIES, DisclosureClass.INGRESS_LEG})
_PERMIT = Permit(
    Purpose.BILLING,
    Action.PULL,
    "47 U.S.C. 222(d)(1)",
    "ICA-1",
    _CLASSES,
    tuple(f.name for f in fields_of(*_CLASSES)),
    frozenset({"ingress"}),
    (OcnWindow(start_us=_WINDOW.start_us, end_us=_WINDOW.end_us, ocn="I000"),),
)
_TERMS = Terms(0, 1_234_567, None, 0, 100_000, "text/csv", "identity", secrets.token_hex(16))
_OUTCOME = {
    "media_type": "text/csv",
    "coding": "identity",
    "classes": sorted(c.value for c in _CLASSES),
    "rows": 100,
    "bytes": 23_456,
    "sha256": secrets.token_hex(32),
    "records": {"rows": 100, "first": "123456", "last": "123555", "runs": [["123456", "123555"]]},
    "place": ["0", "202609", "12", "99"],
    "state": "complete",
}


async def append(stage: Stage, seconds: float, rounds: int, report: Report) -> None:
    """Entries a second with 64 accesses that wait; each appends its intent and then its outcome, as a pull does."""
    await _accesses(stage.ledger, 1.0)  # the month's keys, and statements prepared
    rival = Pgbench(stage.config.database_url, await _size_of_an_entry(stage.owner))
    await stage.owner.execute(rival.create)
    best = [0.0, 0.0]
    for _ in range(rounds):
        await stage.owner.execute("CHECKPOINT")
        best[0] = max(best[0], await _accesses(stage.ledger, seconds))
        await stage.owner.execute("CHECKPOINT")
        best[1] = max(best[1], await asyncio.to_thread(rival.run, seconds))
    report(Result("log_append", *best, f"entries/s of {rival.size} bytes, 64 wait"))


async def _accesses(ledger: Ledger, seconds: float) -> float:
    """Return the durable entries a second of CLIENTS accesses, one after the other each.

    What the entries say is made beforehand, as the rival's rows are: this is about the log, not about who asks it.
    """
    done = 0
    until = time.perf_counter() + seconds

    async def client(actor: Actor) -> None:
        nonlocal done
        begin, end = (
            entries.intent(new_id(), actor, _WINDOW, _PERMIT, _TERMS),
            entries.outcome(new_id(), actor, _OUTCOME),
        )
        while time.perf_counter() < until:
            access_id = new_id()
            for e in (begin, end):
                entry = Entry(e.kind, e.actor, e.request, e.outcome, e.records, access_id=access_id, tags=e.tags)
                await ledger.append(entry)
            done += 2

    started = time.perf_counter()
    await asyncio.gather(*(client(_ACTORS[n % len(_ACTORS)]) for n in range(CLIENTS)))
    return done / (time.perf_counter() - started)


async def _size_of_an_entry(owner: asyncpg.Connection) -> int:
    """Return the bytes that an entry of the log has on the average: what is written of it, without any row's header."""
    size = await owner.fetchval(
        "SELECT (SELECT sum(8 + 16 + 8 + octet_length(kind) + coalesce(octet_length(access_id::text) * 0 + 16, 0)"
        " + octet_length(header) + 32 + octet_length(tags)) FROM tollgate.log_entry)"
        " + (SELECT sum(octet_length(sealed)) FROM tollgate.log_opening)"
    )
    return int(size / await owner.fetchval("SELECT count(*) FROM tollgate.log_entry"))


class Pgbench:
    """pgbench of the embedded server's own release: CLIENTS connections, each INSERT its own durable transaction."""

    def __init__(self, url: str, size: int) -> None:
        """Insert rows of ``size`` bytes, a bigint key among them, into the database at ``url``."""
        self.size = size
        self._url = url
        self.create = (
            "CREATE SCHEMA rival_log; CREATE TABLE rival_log.entry"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);"
        )

    def run(self, seconds: float) -> float:
        """Return transactions a second."""
        body = secrets.token_urlsafe(self.size)[: self.size - 8]
        environ = {**os.environ, "PGOPTIONS": "-c synchronous_commit=on"}
        command = [str(embedded.binaries() / "pgbench"), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2"]
        command += ["-T", str(max(1, round(seconds))), "-D", f"body={body}", "-f", "-", self._url]
        script = "INSERT INTO rival_log.entry (body) VALUES (:body);"
        done = subprocess.run(command, input=script, check=True, capture_output=True, text=True, env=environ)
        found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
        assert found, done.stdout + done.stderr
        return float(found[1])
