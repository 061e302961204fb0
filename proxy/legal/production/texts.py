"""The small files of a package: what to do with it, what each column is, which inputs it is from, whom it is about."""

from __future__ import annotations

import csv
import io
import textwrap
from datetime import UTC, datetime
from typing import Final

from proxy.legal.production.columns import LOCAL, UTC_NAMES
from proxy.legal.production.layout import LABELS, NUMBER
from proxy.legal.production.model import Facts, ProductionError
from proxy.legal.production.survey import Survey
from schema.fields import Field, Kind

README: Final = "README.txt"
GUIDE: Final = "field-guide.txt"
SOURCES: Final = "sources.csv"
TARGETS: Final = "targets.csv"
RECEIPT: Final = "log-receipt.json"
RECORDS: Final = "records.csv"

_WRITTEN: Final = {
    Kind.ID: "an integer",
    Kind.TIME: "a time in UTC, RFC 3339 with six decimals",
    Kind.INT: "an integer",
    Kind.NUMBER: "a telephone number, E.164 with +; without + it is what the switch wrote, letter for letter",
    Kind.DECIMAL: "a decimal with eight places",
    Kind.TEXT: "text as the switch wrote it",
}


def readme(facts: Facts) -> bytes:
    """Return what whoever opens the package should read first."""
    return _text(
        f"{facts.carrier}: production {facts.number} of case {facts.case_id}",
        "",
        *_wrapped(f"Made in answer to {facts.instrument_title} ({facts.citation}), {facts.agency}, {facts.reference}."),
        "",
        "What is here",
        "  records.pdf        the records, for reading (in volumes where they are very many)",
        "  records.csv        the same records, exact; for programs and for counting",
        "  field-guide.txt    what each column means and how it is written",
        "  targets.csv        whom or what was searched for",
        "  sources.csv        the files of the carrier's that the records came from: SHA-256, lines",
        "  certificate.txt    what the custodian certifies; certificate.pdf is the same for reading",
        "  certificate-signed the custodian's signature: a signed document, or a signature of certificate.txt",
        "  log-receipt.json   proof that the search stands in the carrier's access log (where there is one)",
        "  manifest.json      every file with its length and SHA-256",
        "  manifest.jws       the carrier's signature of manifest.json",
        "",
        "How to check it",
        *_wrapped(
            "With Tollgate, no server needed: `tollgate production verify PACKAGE --key carrier.jwks`. The carrier's"
            " key has to come from the carrier by another way than this package."
        ),
        *_wrapped(
            "Without it: `sha256sum` of each file gives what manifest.json and certificate.txt say. manifest.jws is a"
            " detached JWS (RFC 7515, appendix F) of manifest.json."
        ),
        "",
        "Opening records.csv in a spreadsheet",
        *_wrapped(
            "A spreadsheet may change what it shows: a number loses its +, a text that begins with = is taken for a"
            " formula. Import every column as text. The file itself is what is certified."
        ),
        "",
        *_wrapped(
            "A ? in records.pdf may stand for a character that its typeface lacks, and ' [cut]' for the rest of a very"
            " long text; records.csv has both whole."
        ),
    )


def guide(facts: Facts, fields: tuple[Field, ...], survey: Survey) -> bytes:
    """Return what each column of records.csv is, and under which head the pages have it."""
    lines = [
        "records.csv: comma-separated values (RFC 4180), UTF-8, lines end in CR LF, the first line names the columns.",
        "An empty value: the record says nothing of it. Records are in order of their start.",
        "",
        f"{NUMBER}",
        *_wrapped(f"counts the records of this production, as on the pages ({LABELS[NUMBER]})", "    "),
    ]
    if facts.timezone not in UTC_NAMES:
        lines += [f"({LABELS[LOCAL]})", *_wrapped(f"on the pages only: the start in {facts.timezone}", "    ")]
    for field in fields:
        lines.append(field.name)
        nothing = "" if survey.longest.get(field.name) else "; has no value in any record of this production"
        head = LABELS[field.name]
        lines += _wrapped(f"{field.doc}; {_WRITTEN[field.kind]}; on the pages: {head}{nothing}", "    ")
    return _text(*lines)


def sources(facts: Facts, survey: Survey) -> bytes:
    """Return the input files that the production has records from, as CSV.

    Raises:
        ProductionError: if records come from an input that the facts do not have.
    """
    known = {each.ingest_id: each for each in facts.sources}
    if missing := survey.sources.keys() - known.keys():
        raise ProductionError(f"{len(missing)} inputs of the records are not among the facts")
    rows = []
    for ingest_id, extent in sorted(survey.sources.items()):
        each = known[ingest_id]
        rows.append(
            [
                *(ingest_id, each.name, each.sha256, each.bytes, each.lines, stamp(each.ingested_at)),
                *(extent.rows, extent.first, extent.last),
            ]
        )
    head = ["ingest", "file", "sha256", "bytes", "lines", "ingested_at", "records", "first_line", "last_line"]
    return _csv(head, rows)


def targets(facts: Facts) -> bytes:
    """Return whom or what was searched for, as CSV."""
    return _csv(["kind", "value"], [[each.kind, each.value] for each in facts.targets])


def csv_head(fields: tuple[Field, ...]) -> bytes:
    """Return the first line of records.csv."""
    return (",".join([NUMBER, *(field.name for field in fields)]) + "\r\n").encode()


def stamp(at: datetime) -> str:
    """Return an aware time in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _csv(head: list[str], rows: list[list[object]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue().encode()


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, 96, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _text(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()
