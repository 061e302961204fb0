"""The draft of the custodian's certificate: what the rules ask for, filled with the facts. Signed by a person, outside.

Federal Rules of Evidence 902(11) (with 803(6)(A)-(C)), 902(13), 902(14), each only where it is wanted; the form of an
unsworn declaration is 28 U.S.C. 1746. The same paragraphs make certificate.txt, which is what a signature is over, and
certificate.pdf, which is for reading and for a signature by hand. Nothing here signs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.legal.production.model import Facts, FileFact, ProductionError, Rule
from proxy.legal.production.pages import window
from proxy.legal.production.survey import Survey
from proxy.legal.production.texts import SOURCES, TARGETS, stamp
from schema.fields import Field

NAME: Final = "certificate.txt"
PDF_NAME: Final = "certificate.pdf"

TEXT_MAX: Final = 4 << 20
"""Most bytes of certificate.txt: its list of files is what grows, by 160 bytes for each thousand pages."""

LISTED_MAX: Final = 40
"""Targets and inputs that the certificate itself names; where there are more it names the file that lists them."""

SYSTEM: Final = (
    "The switches of the company make a record of every call at or near the time at which it takes place, by themselves"
    " and in the ordinary course of carrying calls. The files of these records are taken into the company's record"
    " store as they are: the SHA-256 of every file is computed when it is taken in, every line is stored, refused with"
    " a reason, or found to be there already, and the counts add up. Records are kept sealed and are not changed"
    " afterwards. A search finds every record that has one of the targets in the window, of those that can be searched"
    " in the store when it is made, compares each exactly, and writes what it finds without selecting by hand."
)

TITLE: Final = "CERTIFICATE OF A CUSTODIAN OF RECORDS"
DECLARATION: Final = "declaration under 28 U.S.C. 1746"
FILES_HEAD: Final = "The files that I produce with this certificate are:"
SOURCES_HEAD: Final = "The records came from these files, as they were taken in:"
LOG_HEAD: Final = (
    "The search and what it found were entered in an access log that cannot be changed without notice"
    " (RFC 6962) before the first record was read. Its receipt is in log-receipt.json:"
)
PERJURY: Final = (
    "I declare under penalty of perjury that the foregoing is true and correct."
    " (Where signed outside the United States: under the laws of the United States of America.)"
)
EXECUTED: Final = "Executed on: ______________________    at: ______________________________"
SIGNATURE: Final = "Signature:   ____________________________________________________________"
"""Lines with blanks, which the custodian fills in."""

_OWN: Final = (
    "the files that i produce with this certificate",
    "the records came from these files",
    "the search and what it found were entered",
    "i declare under penalty of perjury",
    "executed on:",
    "signature:",
    "production:",
    "calls that began from",
)
"""What only the certificate itself says. Whoever checks one finds its parts by these, so no free text has them."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the certificate: a paragraph with its number, or lines that keep their form."""

    text: str = ""
    number: int | None = None
    lines: tuple[str, ...] = ()
    heading: bool = False


def blocks(facts: Facts, fields: Sequence[Field], survey: Survey, files: Sequence[FileFact]) -> list[Block]:
    """Return the certificate.

    Args:
        facts: the production's.
        fields: what was searched for of each record.
        survey: what was found.
        files: every file of the production that is made, with its hash; the certificate's own are not among them.

    Raises:
        ProductionError: if a text of somebody's says what only the certificate says, or the custodian is another
            company's.
    """
    _check_texts(facts)
    custodian, carrier = facts.custodian, folded(facts.carrier)
    wanted = sorted(facts.certifications)
    rules = f"Federal Rules of Evidence {', '.join(wanted)}; " if wanted else ""
    found = [
        Block(TITLE, heading=True),
        Block(f"{rules}{DECLARATION}"),
        Block(
            lines=(
                *case_lines(facts.case_id, facts.number, str(facts.production_id)),
                f"Instrument:  {folded(f'{facts.instrument_title} ({facts.citation})')}",
                f"Asked by:    {folded(facts.agency)}",
                f"Reference:   {folded(facts.reference)}",
            )
        ),
        Block(f"I, {folded(custodian.name)}, declare:"),
    ]
    paragraphs: list[Block] = [
        Block(f"I am {folded(custodian.title)}{qualified(carrier)}"),
        *_search(facts, fields, survey, files),
    ]
    if Rule.BUSINESS_RECORD in facts.certifications:
        paragraphs.append(
            Block(
                "Rule 902(11). The records are originals, or exact copies, of records of a regularly conducted activity"
                f" of {carrier}. (A) They were made at or near the time of the calls by, or from information"
                " transmitted by, someone with knowledge, namely the equipment that carried the calls; (B) they were"
                f" kept in the course of a regularly conducted activity of {carrier}; (C) making them was a regular"
                " practice of that activity."
            )
        )
    if Rule.ELECTRONIC_PROCESS in facts.certifications:
        paragraphs.append(
            Block(
                "Rule 902(13). The records were generated by an electronic process and system that produces an accurate"
                f" result. {facts.system or SYSTEM}"
            )
        )
    if Rule.DIGITAL_COPY in facts.certifications:
        paragraphs.append(
            Block(
                "Rule 902(14). The records are data copied from electronic files, authenticated by a process of digital"
                " identification: SHA-256 (FIPS 180-4). The value of each file that records came from was computed when"
                " it was taken in and is stated below; the value of each file produced was computed when it was made"
                " and is stated below. A copy with the same value is the same file."
            )
        )
    paragraphs.append(Block(FILES_HEAD))
    paragraphs.append(Block(lines=tuple(_file_lines(files))))
    paragraphs.append(Block(SOURCES_HEAD))
    paragraphs.append(Block(lines=tuple(_source_lines(facts, survey, files))))
    if facts.log is not None:
        log = facts.log
        paragraphs.append(Block(LOG_HEAD))
        paragraphs.append(Block(lines=log_lines(log.origin, str(log.access_id), log.size, log.root)))
    number = 0
    for each in paragraphs:
        if each.text:
            number += 1
            each = Block(each.text, number)
        found.append(each)
    found += [
        Block(PERJURY),
        Block(
            lines=(
                "",
                EXECUTED,
                "",
                "",
                SIGNATURE,
                f"             {folded(custodian.name)}",
                f"             {folded(custodian.title)}, {carrier}",
            )
        ),
        Block(drafted_line(stamp(facts.made_at))),
    ]
    return found


# What a certificate says of things that the manifest says too: certificatecheck.py holds the one to the other by them.


def folded(text: str) -> str:
    """Return a text on one line, with one space between words."""
    return " ".join(text.split())


def case_lines(case_id: str, number: int, production: str) -> tuple[str, str]:
    """Return the lines that say which production this is."""
    return f"Case:        {case_id}, production {number}", f"Production:  {production}"


def qualified(carrier: str) -> str:
    """Return what follows the custodian's title."""
    return (
        f" of {carrier}. I am a custodian of the records described here, or otherwise a person qualified to certify"
        f" them, and I know how {carrier} makes and keeps them."
    )


def window_lines(start: str, end: str, zone: str) -> tuple[str, str, str]:
    """Return the lines that say which calls were searched for."""
    return f"Calls that began from {start}", f"and before            {end}", f"Dates are those of    {zone}"


def counted(rows: int, pages: int) -> str:
    """Return how many were found."""
    if not rows:
        return "The search found no record."
    return (
        f"The search found {rows:,} {'record' if rows == 1 else 'records'}, on {pages:,}"
        f" {'page' if pages == 1 else 'pages'}. Nothing that it found was left out."
    )


def log_lines(origin: str, access: str, size: int, root: str) -> tuple[str, ...]:
    """Return the lines that say where the search stands in the access log."""
    return (
        f"Log:          {origin}",
        f"Access:       {access}",
        f"Tree:         {size} entries",
        f"Root hash:    {root}",
    )


def drafted_line(made_at: str) -> str:
    """Return the last paragraph."""
    return (
        f"Drafted with Tollgate on {made_at}. This draft certifies nothing until the person whom it names has read it"
        " and signed it."
    )


def search_note(as_of: int, staged: int, gone: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Return how the search was made and how far the store was complete: `Facts.access_note`.

    Args:
        as_of: the last record id that it reached.
        staged: records that had been taken in by then and were not searched.
        gone: months (yyyymm) that hold records of which these classes were destroyed.
    """
    said = (
        "The search was made once, and its result was kept apart from then on. It reached every record that could be"
        f" searched in the store by then, up to record number {as_of:,}. "
    )
    if staged:
        one = staged == 1
        said += (
            f"{staged:,} further {'record' if one else 'records'} had been taken in by then and could not be searched"
            f" yet: {'it was' if one else 'they were'} not searched."
        )
    else:
        said += "Every record that had been taken in by then could be searched."
    if gone:
        some = [f"{month // 100}-{month % 100:02} ({', '.join(sorted(classes))})" for month, classes in gone]
        more = f"; and {len(some) - LISTED_MAX:,} more months" if len(some) > LISTED_MAX else ""
        said += (
            " Parts of records had been destroyed before under the retention schedule, and could not be searched or"
            f" produced: {'; '.join(some[:LISTED_MAX])}{more}."
        )
    return said


def as_text(parts: Sequence[Block]) -> bytes:
    """Return certificate.txt: 84 columns, UTF-8, lines end in LF.

    Raises:
        ProductionError: if it is larger than `TEXT_MAX`.
    """
    lines: list[str] = []
    for part in parts:
        if part.lines:
            lines += [f"    {line}".rstrip() for line in part.lines]
        else:
            first = "" if part.number is None else f"{part.number}. "
            lines += textwrap.wrap(
                part.text, 84, initial_indent=first, subsequent_indent=" " * len(first),
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        lines.append("")
    made = ("\n".join(lines).rstrip("\n") + "\n").encode()
    if len(made) > TEXT_MAX:
        raise ProductionError("the certificate is larger than it can be")
    return made


def _check_texts(facts: Facts) -> None:
    person = facts.custodian
    if folded(person.employer) != folded(facts.carrier):
        raise ProductionError("the custodian is of another company than the production")
    for text in (
        facts.carrier, facts.instrument_title, facts.citation, facts.agency, facts.reference, person.name, person.title,
        facts.system, facts.access_note,
    ):  # fmt: skip
        if any(own in folded(text).casefold() for own in _OWN):
            raise ProductionError("a text says what only the certificate itself says: write it otherwise")


def _search(facts: Facts, fields: Sequence[Field], survey: Survey, files: Sequence[FileFact]) -> list[Block]:
    employer = folded(facts.carrier)
    pages = sum(each.pages or 0 for each in files)
    how = facts.access_note or "The search was made once, and its result was kept apart from then on."
    return [
        Block(
            f"In answer to the instrument named above, the records produced here were searched for in {employer}'s"
            f" store of call detail records. {how} The search was:"
        ),
        Block(lines=tuple(_search_lines(facts, fields, files))),
        Block(counted(survey.rows, pages)),
    ]


def _search_lines(facts: Facts, fields: Sequence[Field], files: Sequence[FileFact]) -> list[str]:
    if len(facts.targets) <= LISTED_MAX:
        named = [f"{each.kind} {_shown(each.value)}" for each in facts.targets]
    else:
        named = [f"{len(facts.targets):,} targets, listed in {TARGETS}", f"(SHA-256 {_hash_of(files, TARGETS)})"]
    lines = [("Targets:  " if n == 0 else "          ") + line for n, line in enumerate(named)]
    lines += [
        *window_lines(stamp(facts.window_start), stamp(facts.window_end), facts.timezone),
        *textwrap.wrap(f"Window:   {window(facts)}", 78, subsequent_indent="          "),
        *textwrap.wrap(
            "Fields:   " + ", ".join(f.name for f in fields), 78, subsequent_indent="          ",
            break_long_words=False, break_on_hyphens=False,
        ),
    ]  # fmt: skip
    return lines


def _file_lines(files: Sequence[FileFact]) -> list[str]:
    lines = []
    for each in files:
        counts = [f"{each.bytes:,} bytes"]
        if each.rows is not None:
            counts.append(f"{each.rows:,} records")
        if each.pages is not None:
            counts.append(f"{each.pages:,} pages")
        lines += [f"{each.name}: {', '.join(counts)}", f"  SHA-256 {each.sha256}"]
    return lines


def _source_lines(facts: Facts, survey: Survey, files: Sequence[FileFact]) -> list[str]:
    if not survey.sources:
        return ["(none)"] if not survey.rows else ["(not known)"]
    if len(survey.sources) > LISTED_MAX:
        return [f"{len(survey.sources):,} files, listed in {SOURCES}", f"(SHA-256 {_hash_of(files, SOURCES)})"]
    known = {each.ingest_id: each for each in facts.sources}
    lines = []
    for ingest_id, extent in sorted(survey.sources.items()):
        each = known[ingest_id]
        lines += [
            _shown(each.name) or "(its name is not known)",
            f"  {extent.rows:,} records, lines {extent.first:,} to {extent.last:,} of {each.lines:,}",
            f"  {each.bytes:,} bytes",
            f"  taken in {stamp(each.ingested_at)}",
            f"  SHA-256 {each.sha256}",
        ]
    return lines


def _shown(text: str) -> str:
    """A text of somebody's, on one line."""
    return text if text.isprintable() else ascii(text)


def _hash_of(files: Sequence[FileFact], name: str) -> str:
    return next(each.sha256 for each in files if each.name == name)
