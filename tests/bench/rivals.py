"""The rival: the same records as plain rows in PostgreSQL, with the indexes such a table has, through psql's COPY."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from proxy.cli import embedded
from tests.bench.data import COLUMNS

_TYPES = {
    "started_at": "timestamptz NOT NULL",
    "answered_at": "timestamptz",
    "ended_at": "timestamptz",
    "duration_ms": "bigint",
    "cause_q850": "int",
    "sip_code": "int",
    "ingress_billed_s": "int",
    "egress_billed_s": "int",
    "ingress_rate": "numeric(18,8)",
    "ingress_amount": "numeric(18,8)",
    "egress_rate": "numeric(18,8)",
    "egress_amount": "numeric(18,8)",
}
CREATE = f"""
CREATE SCHEMA rival;
CREATE TABLE rival.cdr (record_id bigint GENERATED ALWAYS AS IDENTITY,
    {", ".join(f"{c} {_TYPES.get(c, 'text')}" for c in COLUMNS)});
CREATE INDEX ON rival.cdr (ingress_ocn, started_at);
CREATE INDEX ON rival.cdr (calling);
CREATE INDEX ON rival.cdr (called);
"""
SHOWN = tuple(c for c in COLUMNS if not c.startswith("egress_"))
"""What a peer on the ingress side sees: the columns of the answer that hold anything."""


class Psql:
    """psql of the embedded server's own release."""

    def __init__(self, url: str) -> None:
        """Talk to the database at ``url``."""
        self._url = url
        self._binary = str(embedded.binaries() / "psql")
        assert urlsplit(url).scheme == "postgresql"

    def run(self, sql: str, stdin: Path | None = None) -> str:
        """Run statements; return what they printed."""
        command = [self._binary, self._url, "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", sql]
        with stdin.open("rb") if stdin else open("/dev/null", "rb") as source:
            done = subprocess.run(command, stdin=source, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def copy_in(self, files: Sequence[Path]) -> float:
        """COPY files into the plain table; return seconds."""
        started = time.perf_counter()
        for file in files:
            self.run(f"COPY rival.cdr ({', '.join(COLUMNS)}) FROM STDIN CSV HEADER", file)
        return time.perf_counter() - started

    def copy_out(self, ocn: str, out: Path) -> float:
        """COPY a carrier's rows out as CSV; return seconds."""
        sql = f"COPY (SELECT record_id, {', '.join(SHOWN)} FROM rival.cdr WHERE ingress_ocn = '{ocn}') TO STDOUT CSV"
        command = [self._binary, self._url, "-X", "-q", "-c", sql]
        started = time.perf_counter()
        with out.open("wb") as target:
            subprocess.run(command, stdout=target, check=True)
        return time.perf_counter() - started
