"""The demo's legal desk: a subpoena asks for too much, is narrowed, approved by a second person, and answered."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from pyrage import x25519
from rich.markup import escape
from steps import check, heading, out

if TYPE_CHECKING:
    from demo import Demo

NUMBER = "(302) 555-0155"
DAY = "2026-11-21"
"""The day of the sample's calls."""

STAFF = (
    ("handler", "legal_handler", "Legal Handler", "Custodian of Records"),
    ("approver", "legal_approver", "Legal Approver", "Counsel"),
)


def hire(demo: Demo) -> None:
    """Handler and approver: each proposed by one operator, approved by the other, and trained."""
    heading("A legal desk: a handler and an approver, proposed, approved, trained")
    demo.staff("operator-1")
    proposed = [
        demo.tollgate(
            "staff", "add", who, "--subject", who, "--name", name, "--title", title, "--role", role, "--reason", "hired"
        ).strip()
        for who, role, name, title in STAFF
    ]  # fmt: skip
    demo.staff("operator-2")
    demo.tollgate("change", "approve", *proposed, typed="y\ny\n", show=False)
    for who, *_ in STAFF:
        demo.tollgate("staff", "train", who, "--on", f"{datetime.now(UTC):%Y-%m-%d}", "--course", "CPNI at hire")
    for who, *_ in STAFF:
        demo.sign_in(who)


def run(demo: Demo) -> None:
    """From what was served to a package that its recipient has checked."""
    hire(demo)
    heading("A subpoena is served: it asks for a day's calls of a number, and for the cell sites")
    demo.staff("handler")
    now = datetime.now(ZoneInfo("America/New_York"))
    case = demo.tollgate(
        "case", "new", "--instrument", "subpoena", "--agency", "Example County", "--officer", "Foreperson",
        "--reference", "GJ-2026-0001", "--signed-by", "grand_jury", "--issued", f"{now:%Y-%m-%d}", "--served",
        f"{now:%Y-%m-%dT%H:%M:%S%z}", "--return-by", f"{now + timedelta(days=14):%Y-%m-%d}", "--attest", "authentic",
        "--document", "data/subpoena.pdf",
    ).strip()  # fmt: skip
    demo.tollgate(
        "case", "scope", case, "--targets", "-", "--from", DAY, "--through", DAY,
        "--class", "timing", "--class", "parties", "--class", "location", typed=NUMBER + "\n",
    )  # fmt: skip

    heading("Refused: a subpoena does not reach cell sites; the letter names the rule")
    demo.refused("case", "validate", case, says="Carpenter")
    letter = demo.tollgate("case", "letter", case)
    check(letter.startswith("NOTICE OF DEFICIENCY"), "there is no letter of deficiency")
    out.print(escape(letter.partition("\nNarrowed to")[0]), style="dim")

    heading("What the subpoena compels is left; a second person approves exactly that")
    demo.tollgate("case", "narrow", case, "--compelled")
    demo.tollgate("case", "validate", case)
    scope = str(demo.json("case", "show", case)["scope"]["sha256"])
    demo.refused("case", "approve", case, "--scope", scope, says="role")
    demo.staff("approver")
    demo.tollgate("case", "approve", case, "--scope", scope)

    heading("The records are extracted into the case's own hold, reviewed, and put together")
    demo.staff("handler")
    demo.tollgate("case", "extract", case)
    rows = int(demo.json("case", "show", case)["extraction"]["records"])
    check(rows >= 1, "nothing was extracted")
    demo.staff("approver")
    demo.tollgate("case", "review", case, "--records", str(rows))
    demo.staff("handler")
    demo.tollgate("case", "produce", case, "--custodian", "handler")

    heading("The custodian reads the certificate and signs it, outside; then it goes to the recipient's key")
    demo.tollgate("case", "certificate", case, "certificate.txt")
    sign(demo.folder / "certificate.txt", now)
    demo.tollgate("case", "certify", case, "certificate.txt", "--as", "text")
    identity = x25519.Identity.generate()
    (demo.folder / "recipient.key").write_text(f"{identity}\n")
    (demo.folder / "recipient.txt").write_text(f"{identity.to_public()}\n")
    demo.tollgate("case", "deliver", case, "--recipient", "recipient.txt", "--out", "package.age")

    heading("The recipient checks it, without asking anybody")
    (demo.folder / "carrier.jwks").write_text(demo.tollgate("production", "key"))
    verify = ("production", "verify", "package.age", "--identity", "recipient.key", "--key", "carrier.jwks",
              "--log-key", demo.tollgate("log", "key").strip())  # fmt: skip
    demo.tollgate(*verify)
    demo.tollgate("case", "ack", case)
    package = demo.folder / "package.age"
    package.write_bytes(package.read_bytes()[:-1])
    out.print("A byte of it is cut off:")
    demo.refused(*verify, says="cut off", code=5)


def sign(file: Path, now: datetime) -> None:
    """What the custodian does with a pen: day, place and signature."""
    text = file.read_text()
    text = re.sub(r"Executed on: _+ {4}at: _+", f"Executed on: {now:%Y-%m-%d}    at: Example City", text)
    file.write_text(re.sub(r"Signature: {3}_+", "Signature:   /s/ Legal Handler", text))
