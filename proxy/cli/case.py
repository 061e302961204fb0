"""`tollgate case`: the legal desk's cases, as who is signed in.

Every change names the version of the case that it is of: the one that the command has just read, or ``--version``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import click

from proxy.cli.asking import ask, part, show
from proxy.cli.caseview import letter_of, report
from proxy.cli.common import CliError, ExitCode, console, emit, json_option, printable, run
from proxy.cli.lazy import Command, LazyGroup
from proxy.client.staff import StaffSession

_RELEASE = "proxy.cli.caserelease"
COMMANDS: dict[str, Command] = {
    "instruments": Command("proxy.cli.case", "instruments", "What each instrument compels."),
    "new": Command("proxy.cli.case", "new", "Open a case from what was served."),
    "document": Command("proxy.cli.case", "document", "Store a served document (PDF), or get one."),
    "scope": Command("proxy.cli.case", "scope", "Say what is asked: targets, window, classes."),
    "validate": Command("proxy.cli.case", "validate", "Hold what is asked against the instrument."),
    "narrow": Command("proxy.cli.case", "narrow", "Make the scope smaller; voids the approval."),
    "letter": Command("proxy.cli.case", "letter", "Print the last letter: deficiency, objection, acknowledgement."),
    "object": Command("proxy.cli.case", "object_", "Object to a process."),
    "resolve": Command("proxy.cli.case", "resolve", "Go on after an objection."),
    "approve": Command("proxy.cli.case", "approve", "Approve a scope, or another key of the recipient."),
    "act": Command("proxy.cli.case", "act", "Release in an emergency; another confirms within 48 hours."),
    "confirm": Command("proxy.cli.case", "confirm", "Confirm what was released in an emergency."),
    "contest": Command("proxy.cli.case", "contest", "Contest what was released in an emergency."),
    "extract": Command(_RELEASE, "extract", "Extract what is approved."),
    "review": Command(_RELEASE, "review", "Say that the records were looked at."),
    "produce": Command(_RELEASE, "produce", "Make the production."),
    "certificate": Command(_RELEASE, "certificate", "Get the certificate's draft, for the custodian to sign."),
    "certify": Command(_RELEASE, "certify", "Give the certificate as the custodian signed it."),
    "deliver": Command(_RELEASE, "deliver", "Encrypt the package to its recipient and fetch it."),
    "ack": Command(_RELEASE, "ack", "Note that the recipient acknowledged it."),
    "secret": Command("proxy.cli.case", "secret", "Enter a later order of non-disclosure, or its extension."),
    "close": Command("proxy.cli.case", "close", "Close a case."),
    "show": Command("proxy.cli.case", "show_", "Show a case."),
    "list": Command("proxy.cli.case", "list_", "List cases, newest first."),
    "due": Command("proxy.cli.case", "due", "What is due, soonest first."),
}


@click.group(cls=LazyGroup, known=COMMANDS)
def case() -> None:
    """Legal process: from what was served to what is delivered.

    \b
    Example:
      tollgate case new --instrument subpoena --agency "Example County" --officer Clerk --reference GJ-1 \\
        --signed-by grand_jury --issued 2026-11-02 --served 2026-11-03 --attest authentic --document served.pdf
      tollgate case scope C-… --target "(212) 555-0123" --from 2026-10-01 --through 2026-10-31 --class timing
      tollgate case validate C-…
      tollgate case approve C-… --scope DIGEST        (somebody else)
      tollgate case extract C-…
    """


def versioned(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument CASE, ``--version`` and ``--json``; the command gets ``case_id``, ``version``, ``as_json``."""
    command = json_option(command)
    seen = click.option("--version", type=click.IntRange(1), help="Only if the case is still of this version.")
    return click.argument("case_id", metavar="CASE")(seen(command))


def path_of(case_id: str, *more: str) -> str:
    """Return the path of a case, or of something of it."""
    return "/v1/cases/" + "/".join(part(each) for each in (case_id, *more))


def change(
    case_id: str,
    step: str,
    body: Any = None,
    *,
    version: int | None = None,
    method: str = "POST",
    file: Path | bytes | None = None,
    content_type: str = "application/octet-stream",
    params: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Do a step to a case; return the case as it is then."""

    async def work() -> dict[str, Any]:
        async with StaffSession.open() as session:
            at = version
            if at is None:
                at = (await session.request("GET", path_of(case_id))).json["version"]
            reply = await session.request(
                method,
                path_of(case_id, step),
                json=body,
                data=file,
                content_type=content_type,
                params=params,
                headers={"If-Match": f'"{at}"'},
            )
            found: dict[str, Any] = reply.json
            return found

    return run(work())


def told(found: Mapping[str, Any], as_json: bool) -> None:
    """Tell where the case stands."""
    if as_json:
        emit(found)
        return
    console.print(f"{found['case_id']}  {found['state']}  (version {found['version']})", markup=False)


@click.command()
@json_option
def instruments(as_json: bool) -> None:
    """List the instruments, with their citations and the record classes that they reach."""
    from proxy.policy.instruments import INSTRUMENTS
    from proxy.policy.process import Reach

    reached = {
        i.id: ", ".join(cls.value for cls, cell in i.cells.items() if cell.reach in (Reach.DISCLOSE, Reach.FREEZE))
        for i in INSTRUMENTS.values()
    }
    values = [
        {"instrument": i.id, "name": i.name, "citation": i.citation, "reaches": reached[i.id]}
        for i in INSTRUMENTS.values()
    ]
    rows = [(v["instrument"], v["name"], v["citation"], v["reaches"]) for v in values]
    show(as_json, "Instruments", ("instrument", "name", "citation", "reaches"), rows, values)


@click.command()
@click.option("--instrument", required=True, help="One of `tollgate case instruments`.")
@click.option("--agency", default="", help="Who asks: agency, party, customer.")
@click.option("--court", default="", help="The court, where one issued it.")
@click.option("--officer", default="", help="Name and title of who signed or is answerable.")
@click.option("--reference", default="", help="Docket, grand jury or agency number.")
@click.option("--statute", default="", help="The authority named in it, where it is no court's.")
@click.option("--signed-by", default="", help="judge, clerk, grand_jury, prosecutor, agency_officer, … (legal.md)")
@click.option("--issued", required=True, metavar="DAY", help="The day it bears.")
@click.option("--served", "served_at", required=True, metavar="TIME", help="When it came: a day or a time.")
@click.option("--expires", metavar="DAY", help="Last day on which it may be executed.")
@click.option("--return-by", metavar="DAY", help="The day by which it wants an answer.")
@click.option("--zone", default="America/New_York", show_default=True, help="IANA zone of its days.")
@click.option("--attest", multiple=True, help="What you attest after reading it (legal.md); again for each.")
@click.option("--certification", multiple=True, help="902(11), 902(13), 902(14); again for each.")
@click.option("--secret", metavar="AUTHORITY", help="An order of non-disclosure: 2705b, 2709c, court_seal.")
@click.option("--secret-until", metavar="DAY", help="The day until which it binds, if it names one.")
@click.option("--preservation", metavar="CASE", help="A preservation whose hold is read too.")
@click.option("--document", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The served PDF.")
@json_option
def new(
    document: Path | None, secret: str | None, secret_until: str | None, as_json: bool, attest: tuple[str, ...],
    certification: tuple[str, ...], **served: str | None,
) -> None:  # fmt: skip
    """Open a case from what was served; its id goes to stdout."""
    body: dict[str, Any] = {name: value for name, value in served.items() if value}
    body |= {"request_id": str(uuid4()), "attested": list(attest), "certification": list(certification)}
    if secret:
        body["nondisclosure"] = {"authority": secret} | ({"until": secret_until} if secret_until else {})
    found = ask("POST", "/v1/cases", body)
    if document is not None:
        found = _store(found["case_id"], document, "instrument", found["version"])
    if as_json:
        emit(found)
        return
    told(found, False)
    click.echo(found["case_id"])


@click.command()
@versioned
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--kind",
    default="instrument",
    show_default=True,
    type=click.Choice(["instrument", "nondisclosure", "correspondence", "certificate"]),
)
@click.option("--get", metavar="ID", help="Write this document of the case to FILE instead.")
def document(case_id: str, version: int | None, as_json: bool, file: Path | None, kind: str, get: str | None) -> None:
    """Store a PDF of at most 25 MiB with a case, or get one back.

    \b
    Examples:
      tollgate case document C-… served.pdf
      tollgate case document C-… --get 0b5c… copy.pdf
    """
    if file is None:
        raise click.UsageError("name a file")
    if get is None:
        found = _store(case_id, file, kind, version)
        told(found, as_json)
        if not as_json:
            for remark in found["documents"][-1]["findings"]:
                console.print(f"  take care: the document has {remark}", style="yellow", markup=False)
        return

    async def work() -> None:
        async with StaffSession.open() as session:
            await session.download(path_of(case_id, "documents", get), file)

    run(work())
    console.print(f"written to {file}", markup=False)


def _store(case_id: str, file: Path, kind: str, version: int | None) -> dict[str, Any]:
    if not file.is_file():
        raise CliError(f"no such file: {file}", ExitCode.BAD_INPUT)
    return change(
        case_id, "documents", file=file, content_type="application/pdf", params={"kind": kind}, version=version
    )


def _asked(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--target", multiple=True, help="A number in any form, account:…, trunk:…, imsi:…; repeat it."),
        click.option("--targets", type=click.File("rb"), help="A file of them; - is stdin."),
        click.option("--from", "start", metavar="TIME", help="A day, or a time with its offset."),
        click.option("--through", metavar="DAY", help="The last day, included; or:"),
        click.option("--to", metavar="TIME", help="The end, excluded."),
        click.option("--class", "classes", multiple=True, help="A disclosure class; again for each."),
        click.option("--field", "fields", multiple=True, help="Only these fields; again for each."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _asked_body(
    target: tuple[str, ...],
    targets: IO[bytes] | None,
    start: str | None,
    through: str | None,
    to: str | None,
    classes: tuple[str, ...],
    fields: tuple[str, ...],
) -> dict[str, Any]:
    lines = list(target)
    if targets is not None:
        try:
            lines += [line for line in targets.read().decode("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise CliError("the list of targets is not UTF-8", ExitCode.BAD_INPUT) from error
    ends = {"from": start, "through": through, "to": to}
    body = {"targets": lines, **ends, "classes": list(classes), "fields": list(fields)}
    return {name: value for name, value in body.items() if value}


@click.command()
@versioned
@_asked
def scope(case_id: str, version: int | None, as_json: bool, **asked: Any) -> None:
    """Say what the process asks for; until it is validated this can be said anew."""
    found = change(case_id, "scope", _asked_body(**asked), version=version, method="PUT")
    told(found, as_json)
    if not as_json:
        _remarks(found)


@click.command()
@versioned
def validate(case_id: str, version: int | None, as_json: bool) -> None:
    """Hold what is asked against the instrument: the scope stands then, or a letter says what is wrong."""
    found = change(case_id, "validate", version=version)
    if as_json:
        emit(found)
    else:
        told(found, False)
        report(found["findings"])
        if found["state"] == "validated":
            console.print(f"scope {found['scope']['sha256']}", markup=False)
    if found["state"] == "deficient":
        raise CliError(
            "the process is deficient; nothing is disclosed on it",
            ExitCode.REFUSED,
            f"tollgate case letter {case_id}; or: tollgate case narrow {case_id} --compelled",
        )


@click.command()
@versioned
@_asked
@click.option("--compelled", is_flag=True, help="Down to what the instrument was found to compel.")
def narrow(case_id: str, version: int | None, as_json: bool, compelled: bool, **asked: Any) -> None:
    """Make the scope smaller; it is never widened. An approval is void with it."""
    body = _asked_body(**asked)
    if compelled == bool(body):
        raise click.UsageError("say what is left of the scope, or --compelled")
    found = change(case_id, "narrow", {"compelled": True} if compelled else body, version=version)
    told(found, as_json)


@click.command()
@click.argument("case_id", metavar="CASE")
@click.option("--number", type=click.IntRange(1), help="The letter of this version of the case.")
def letter(case_id: str, number: int | None) -> None:
    """Print the last letter of a case, or an earlier one, to stdout."""
    click.echo(letter_of(case_id, number), nl=False)


@click.command("object")
@versioned
@click.option("--ground", "grounds", multiple=True, help="A rule's code, as note.voluminous; again for each.")
@click.option("--text", default="", help="Grounds in your own words.")
def object_(case_id: str, version: int | None, as_json: bool, grounds: tuple[str, ...], text: str) -> None:
    """Object to a process: a letter is written, an approval is void."""
    found = change(case_id, "object", {"grounds": list(grounds), "text": text}, version=version)
    told(found, as_json)


@click.command()
@versioned
@click.option("--reason", required=True, help="Why; it stands in the access log.")
def resolve(case_id: str, version: int | None, as_json: bool, reason: str) -> None:
    """Go on after an objection: it was withdrawn, or decided."""
    told(change(case_id, "resolve", {"reason": reason}, version=version), as_json)


@click.command()
@versioned
@click.option("--scope", "digest", help="Digest of the scope that you looked at; its first 12 digits are enough.")
@click.option("--recipient", metavar="AGE1…", help="Another key of the recipient, who lost the first.")
def approve(case_id: str, version: int | None, as_json: bool, digest: str | None, recipient: str | None) -> None:
    """Approve the scope that you looked at, or that the package goes to another key.

    \b
    Example:
      tollgate case show C-…
      tollgate case approve C-… --scope 4f1d5a7702be
    """
    if (digest is None) == (recipient is None):
        raise click.UsageError("name the scope that you looked at with --scope, or a --recipient")
    body = {"recipient": recipient} if digest is None else {"scope_sha256": whole_digest(case_id, digest)}
    told(change(case_id, "approve", body, version=version), as_json)


@click.command()
@versioned
@click.option("--scope", "digest", required=True, help="Digest of the scope; its first 12 digits are enough.")
def act(case_id: str, version: int | None, as_json: bool, digest: str) -> None:
    """Release in an emergency on your own word (18 U.S.C. 2702(c)(4)); another confirms or contests it in 48 hours."""
    told(change(case_id, "act", {"scope_sha256": whole_digest(case_id, digest)}, version=version), as_json)


@click.command()
@versioned
@click.option("--reason", required=True, help="Why; it stands in the access log.")
def confirm(case_id: str, version: int | None, as_json: bool, reason: str) -> None:
    """Confirm what one person released in an emergency."""
    told(change(case_id, "confirm", {"reason": reason}, version=version), as_json)


@click.command()
@versioned
@click.option("--reason", required=True, help="Why; it stands in the access log.")
def contest(case_id: str, version: int | None, as_json: bool, reason: str) -> None:
    """Contest what one person released in an emergency: nothing further is disclosed on it."""
    told(change(case_id, "contest", {"reason": reason}, version=version), as_json)


@click.command()
@versioned
@click.option("--reason", required=True, help="Why; it stands in the access log.")
def close(case_id: str, version: int | None, as_json: bool, reason: str) -> None:
    """Close a case; an extraction that runs is cancelled."""
    told(change(case_id, "close", {"reason": reason}, version=version), as_json)


@click.command()
@versioned
@click.option(
    "--authority", required=True, type=click.Choice(["2705b", "2709c", "court_seal"]), help="What forbids disclosure."
)
@click.option("--until", metavar="DAY", help="The last day on which it binds, if it names one.")
@click.option(
    "--document", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The order (PDF); it is stored."
)
def secret(case_id: str, version: int | None, as_json: bool, authority: str, until: str | None, document: Path) -> None:
    """Keep a case secret from now on, or for longer. An order only gets stronger here; to lift it takes two people.

    \b
    Example:
      tollgate case secret C-… --authority 2705b --until 2027-06-30 --document order.pdf
    """
    stored = _store(case_id, document, "nondisclosure", version)
    body = {"authority": authority, "document": stored["documents"][-1]["document_id"]}
    if until:
        body["until"] = until
    told(change(case_id, "secret", body, version=stored["version"]), as_json)


@click.command("show")
@click.argument("case_id", metavar="CASE")
@click.option("--all-targets", is_flag=True, help="All targets, and not the first thousand.")
@json_option
def show_(case_id: str, all_targets: bool, as_json: bool) -> None:
    """Show a case: what was served, what is asked, what was found, who approved what, how far it is."""
    from proxy.cli.caseview import show_case

    params = {"targets": "all"} if all_targets else {}
    found = ask("GET", path_of(case_id), **params)
    if as_json:
        emit(found)
    else:
        show_case(found)


@click.command("list")
@click.option("--state", "states", multiple=True, help="Only cases in this state; again for each.")
@json_option
def list_(states: tuple[str, ...], as_json: bool) -> None:
    """List the newest hundred cases."""
    params = {"state": ",".join(states)} if states else {}
    found = ask("GET", "/v1/cases", **params)["cases"]
    columns = ("case", "instrument", "state", "opened", "by", "answer due", "secret")
    rows = [
        (c["case_id"], c["instrument"], c["state"], c["opened_at"][:16], c["opened_by"], (c["return_at"] or "")[:16],
         "" if c["secrecy"] == "none" else c["secrecy"])
        for c in found
    ]  # fmt: skip
    show(as_json, "Cases", columns, rows, found)


@click.command()
@json_option
def due(as_json: bool) -> None:
    """What is due, soonest first: answers, confirmations of emergencies, approvals that run out."""
    found = ask("GET", "/v1/cases/due")["due"]
    rows = [
        (d["due_at"][:16], "overdue" if d["overdue"] else "", d["kind"], d["case_id"], d["instrument"], d["state"])
        for d in found
    ]
    show(as_json, "Due", ("by (UTC)", "", "what", "case", "instrument", "state"), rows, found)


def whole_digest(case_id: str, digest: str) -> str:
    """Return the digest of the case's scope that begins so.

    Raises:
        CliError: the scope is another one.
    """
    if len(digest) < 12:
        raise click.UsageError("give at least the first 12 digits of the scope's digest")
    scope = ask("GET", path_of(case_id))["scope"]
    if scope is None or not scope["sha256"].startswith(digest.lower()):
        raise CliError("the scope of the case is another one", ExitCode.REFUSED, f"tollgate case show {case_id}")
    return str(scope["sha256"])


def _remarks(found: Mapping[str, Any]) -> None:
    scope = found["scope"]
    count = scope["target_count"]
    console.print(f"  {count:,} {'target' if count == 1 else 'targets'}", markup=False)
    for name, says in (("unreadable", "cannot be searched"), ("guarded", "are police, courts, counsel or staff")):
        if scope[name]:
            places = ", ".join(map(str, scope[name][:20]))
            console.print(f"  take care: targets at {printable(places)} {says}", style="yellow", markup=False)
