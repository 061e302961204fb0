"""The certificate and the rest of a package: who has the carrier's key alone can say nothing that it does not say."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from keys.file_provider import FileProvider
from keys.signing import SigningKeys
from proxy.legal.production import archive, building, certificate, manifest, signature
from proxy.legal.production.model import (
    Custodian,
    InputFile,
    LogPlace,
    ProductionError,
    Rule,
    SignedAs,
    SignedCertificate,
    Target,
)
from proxy.legal.production.verify import Trusted, verify
from tests.support.production import (
    MADE_AT,
    CustodianKey,
    Package,
    certificate_text,
    drafted,
    facts,
    package,
    records,
    signed_pdf,
    signed_text,
)
from tests.support.receipts import PaperLog, access

RAW = b"calling,called,started\n" + b"".join(b"+12025550%03d,+1212,x\n" % n for n in range(120))
"""A switch's file, whose SHA-256 stands in the certificate as an input."""
FORGED = b"record_id,started_at,calling,called\n" + b"1,x,+12025550123,+13105550100\n" * 120
Change: TypeAlias = Callable[[dict[str, bytes], dict[str, Any]], None]


@pytest.fixture
def signing(tmp_path: Path) -> SigningKeys:
    FileProvider.create(tmp_path / "keyring")
    return SigningKeys(tmp_path / "keyring")


async def signed_package(signing: SigningKeys, **changed: Any) -> tuple[Package, CustodianKey]:
    """A package with the custodian's own signature."""
    key = CustodianKey()
    _, parts = await drafted(records(120), **changed)
    signed = SignedCertificate(SignedAs.SSH, key.sign(certificate_text(parts)))
    return await package(signing, signed=signed, **changed), key


async def resigned(signing: SigningKeys, made: Package, change: Change) -> bytes:
    """What somebody makes of a package who has the key that signs manifests, and nobody else's."""
    files = {each.name: made.parts.file(each.name) for each in made.files}
    value = json.loads(files.pop(manifest.NAME))
    del files[manifest.SIGNATURE]
    was = {item["name"]: item for item in value["files"]}
    change(files, value)
    value["files"] = [
        was.get(name, {"name": name}) | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    for item in value["files"]:
        if item["name"] == "records.csv":
            item["records"] = value["records"]
    listing = manifest._written(value)
    jws = signature.sign(signing.current(signature.PURPOSE), listing)
    whole = {manifest.NAME: listing, manifest.SIGNATURE: jws, **files}

    async def once(data: bytes) -> Any:
        if data:
            yield data

    every = [await building.fingerprint(name, once(data)) for name, data in whole.items()]
    folder = f"{value['case']}-{value['number']}"
    return b"".join([piece async for piece in archive.write(folder, every, MADE_AT, lambda name: once(whole[name]))])


def check(data: bytes, folder: Path, trusted: Trusted) -> Any:
    file = folder / "package"
    file.write_bytes(data)
    return verify(file, trusted)


def put(name: str, data: bytes) -> Change:
    """Other records, counted as they are."""

    def change(files: dict[str, bytes], value: dict[str, Any]) -> None:
        files[name] = data
        value["records"] = files["records.csv"].count(b"\n") - 1

    return change


def swap(one: str, other: str) -> Change:
    def change(files: dict[str, bytes], value: dict[str, Any]) -> None:
        files[one], files[other] = files[other], files[one]
        value["records"] = files["records.csv"].count(b"\n") - 1

    return change


def drop(name: str) -> Change:
    return lambda files, value: files.__delitem__(name)


def say(*path: str, to: Any) -> Change:
    """Rewrite something in the manifest."""

    def change(files: dict[str, bytes], value: dict[str, Any]) -> None:
        at = value
        for name in path[:-1]:
            at = at[name]
        assert at[path[-1]] != to
        at[path[-1]] = to

    return change


def as_own(files: dict[str, bytes], value: dict[str, Any]) -> None:
    """Records that are said to be the signed certificate: nobody certifies that."""
    value["certificate"]["file"] = "records.csv"
    files["records.csv"] = FORGED


def unsigned(files: dict[str, bytes], value: dict[str, Any]) -> None:
    """The custodian's signature thrown away, and something on paper in its place."""
    del files["certificate.txt.sig"]
    files["certificate-signed.pdf"] = signed_pdf().body
    value["certificate"] |= {"signed_as": "pdf", "file": "certificate-signed.pdf"}


TAMPERED: dict[str, tuple[Change, str]] = {
    "a switch's file as the records": (put("records.csv", RAW), "does not certify records.csv"),
    "records made up": (put("records.csv", FORGED), "does not certify records.csv"),
    "records and targets change places": (swap("records.csv", "targets.csv"), "numbers of records"),
    "sources and guide change places": (swap("sources.csv", "field-guide.txt"), "does not certify field-guide.txt"),
    "another README": (put("README.txt", b"The carrier's key is at evil.example."), "does not certify README.txt"),
    "a file more": (put("extra.txt", b"x"), "does not certify extra.txt"),
    **{
        f"no {name}": (drop(name), f"certifies {name}, and the package has no such file")
        for name in ("records.pdf", "targets.csv", "sources.csv", "field-guide.txt", "log-receipt.json", "README.txt")
    },
    "another case": (say("case", to="C-AAAAAAAAAA"), "another production's"),
    "another number": (say("number", to=2), "another production's"),
    "another production": (say("production", to="018f0000-0000-7000-8000-000000000002"), "another production's"),
    "another carrier": (say("carrier", to="Other Carrier LLC"), "of the carrier"),
    "another custodian": (say("certificate", "custodian", to="Somebody Else"), "of the custodian"),
    "other rules": (say("certificate", "rules", to=["902(11)"]), "of the rules"),
    "another instrument": (say("instrument", "title", to="Search warrant"), "another instrument"),
    "another beginning": (say("window", "from", to="1999-01-01T00:00:00Z"), "another window"),
    "another end": (say("window", "before", to="2027-01-01T00:00:00Z"), "another window"),
    "another zone": (say("window", "zone", to="America/Chicago"), "another window"),
    "another number of pages": (say("pages", to=99), "numbers of records and pages"),
    "another day": (say("made_at", to="2026-06-03T15:04:05Z"), "ends otherwise"),
    "another search": (say("log", "access_id", to="018f0000-0000-7000-8000-000000000002"), "of another search"),
    "another size of the log": (say("log", "size", to=99), "of another search"),
    "another root": (say("log", "root", to="AAAA"), "of another search"),
    "no log": (say("log", to=None), "of the declaration"),
    "records as the signed certificate": (as_own, "not called as it is signed"),
    "no custodian's signature": (unsigned, "a key of the custodian was given"),
    "a signature of another kind": (say("certificate", "signed_as", to="pdf"), "not called as it is signed"),
}  # fmt: skip


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKeys, Package, Trusted]:
    """A package in which everything that can be signed is: its switch file and a digest stand in the certificate."""
    folder = tmp_path_factory.mktemp("genuine")
    FileProvider.create(folder / "keyring")
    signing = SigningKeys(folder / "keyring")
    log = PaperLog()
    access_id, entries = access()
    receipt = json.dumps(log.receipt(access_id, log.add(*entries))).encode()
    note = log.note().split("\n")
    source = InputFile(11, "switch-a-2025-10.csv", hashlib.sha256(RAW).hexdigest(), len(RAW), 1000, MADE_AT)
    making = signed_package(
        signing,
        sources=(source, facts().sources[1]),
        system=f"Its configuration has the digest {hashlib.sha256(FORGED).hexdigest()}: records.csv: 3,637 bytes.",
        log=LogPlace(note[0], access_id, int(note[1]), note[2]),
        receipt=receipt,
    )
    made, key = asyncio.run(making)
    return signing, made, Trusted(made.jwks, key.line, [log.signer.key])


async def test_everything_that_is_signed_is_checked(
    genuine: tuple[SigningKeys, Package, Trusted], tmp_path: Path
) -> None:
    signing, made, trusted = genuine
    same = await resigned(signing, made, lambda files, value: None)
    assert same == made.data
    found = check(same, tmp_path, trusted)
    assert found.unchecked == ()
    assert found.custodian_key
    assert found.log_size


@pytest.mark.parametrize("case", TAMPERED)
async def test_the_carriers_key_alone_says_nothing_that_the_certificate_does_not(
    case: str, genuine: tuple[SigningKeys, Package, Trusted], tmp_path: Path
) -> None:
    signing, made, trusted = genuine
    change, message = TAMPERED[case]
    data = await resigned(signing, made, change)
    for given in (trusted, replace(trusted, log_keys=())):
        with pytest.raises(ProductionError, match=message):
            check(data, tmp_path, given)


async def test_a_key_for_which_there_is_nothing_to_check_is_a_failure(signing: SigningKeys, tmp_path: Path) -> None:
    made = await package(signing)
    assert check(made.data, tmp_path, Trusted(made.jwks)).kid
    with pytest.raises(ProductionError, match="no receipt of the log"):
        check(made.data, tmp_path, Trusted(made.jwks, "", [PaperLog().signer.key]))
    with pytest.raises(ProductionError, match="not signed with one"):
        check(made.data, tmp_path, Trusted(made.jwks, CustodianKey().line))


async def test_a_large_certificate_and_very_many_files_take_little_time(signing: SigningKeys, tmp_path: Path) -> None:
    made = await package(signing)

    def large(files: dict[str, bytes], value: dict[str, Any]) -> None:
        files["certificate.txt"] += b"a" * (60 << 20)

    def many(files: dict[str, bytes], value: dict[str, Any]) -> None:
        files |= {f"x{n}.txt": b"" for n in range(19_000)}
        files["certificate.txt"] += b"x" * (certificate.TEXT_MAX - len(files["certificate.txt"]))

    for change, message in ((large, "larger than it can be"), (many, "does not certify x0.txt|ends otherwise")):
        data = await resigned(signing, made, change)
        begun = time.process_time()
        with pytest.raises(ProductionError, match=message):
            check(data, tmp_path, Trusted(made.jwks))
        assert time.process_time() - begun < 2


# --- what is drafted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [frozenset(), frozenset([Rule.DIGITAL_COPY]), frozenset(Rule)])
@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_every_certificate_that_is_drafted_is_read_again(
    rows: int, wanted: frozenset[Rule], signing: SigningKeys, tmp_path: Path
) -> None:
    """Whatever others wrote: names with line ends, empty names, very long ones, many targets."""
    strange = "Office of the\n\n    Production:\r\n County\u2028Clerk " + "9. " * 60
    changed: dict[str, Any] = {
        "certifications": wanted,
        "agency": strange.replace("Production:", "Productions"),
        "reference": "",
        "instrument_title": "Order  of\tthe court",
        "custodian": Custodian("A  Custodian " + "of Names " * 20, "", "Example Carrier LLC", "custodian"),
        "targets": tuple(Target("account", f"acc\n\n1. ount  {n}") for n in range(3)),
        "sources": (replace(facts().sources[0], name=""), replace(facts().sources[1], name="a\n\n8. b")),
        "system": "Switches:\n\n8. The files\n\nthat are produced",
        "access_note": certificate.search_note(10, 2, [(202401, ["location"])]),
    }
    made = await package(signing, records(rows), **changed)
    assert check(made.data, tmp_path, Trusted(made.jwks)).kid


@pytest.mark.parametrize("field", ["system", "access_note", "agency", "reference", "instrument_title", "citation"])
@pytest.mark.parametrize(
    "text",
    [
        "x\n\n8. The files that I  produce with\nthis certificate are:\n\n    records.csv: 1 bytes",
        "THE RECORDS CAME FROM THESE FILES, as they were taken in:",
        "The search and what it found were entered somewhere",
        "I declare under penalty of perjury nothing",
        "Executed on: yesterday",
        "Signature: me",
        "Production:  018f0000-0000-7000-8000-000000000002",
    ],
)
async def test_no_text_of_anybodys_says_what_the_certificate_says(field: str, text: str) -> None:
    with pytest.raises(ProductionError, match="only the certificate itself says"):
        await drafted(records(1), **{field: text})


async def test_the_custodian_is_of_the_company_that_produces_and_named_by_nothing_else() -> None:
    with pytest.raises(ProductionError, match="another company"):
        await drafted(records(1), custodian=replace(facts().custodian, employer="Other LLC"))
    for change in ({"name": "I. Executed on: x"}, {"title": "Signature: y"}):
        with pytest.raises(ProductionError, match="only the certificate itself says"):
            await drafted(records(1), custodian=replace(facts().custodian, **change))


async def test_a_certificate_larger_than_one_is_read_is_not_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "TEXT_MAX", 3_000)
    with pytest.raises(ProductionError, match="larger than it can be"):
        await drafted(records(1))


def test_the_note_says_how_far_the_store_was_complete() -> None:
    note = certificate.search_note(1_234, 0, [])
    assert "up to record number 1,234. Every record that had been taken in by then could be searched." in note
    assert "destroyed" not in note
    assert "2,000 further records had been taken in" in certificate.search_note(1, 2_000, [])
    assert "they were not searched." in certificate.search_note(1, 2_000, [])
    assert "1 further record had been taken in by then and could not" in certificate.search_note(1, 1, [])
    gone = certificate.search_note(1, 0, [(202401, ["subscriber", "location"]), (202402, ["location"])])
    assert gone.endswith("produced: 2024-01 (location, subscriber); 2024-02 (location).")
    many = certificate.search_note(1, 0, [(202401, ["location"])] * 42)
    assert many.endswith("; and 2 more months.")


# --- signed as text ------------------------------------------------------------------------------------------------


async def test_a_text_is_signed_where_every_blank_is_filled_and_nothing_else_is_said(
    signing: SigningKeys, tmp_path: Path
) -> None:
    made, parts = await drafted(records(5))
    draft = certificate_text(parts)
    good = signed_text(draft)
    cut = draft.partition(b"Executed on:")[0]
    for body in (good, good.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + good, good.replace(b"\n\n", b"\n  \n\n")):
        await building.check_signed(made, SignedCertificate(SignedAs.TEXT, body), parts)
    lacks, differs = "lacks day, place or signature", "its text differs"
    for body, message in (
        (draft, lacks),
        (signed_text(draft, day="____"), lacks),
        (signed_text(draft, place="_ _"), lacks),
        (signed_text(draft, place=""), lacks),
        (signed_text(draft, by="__________"), lacks),
        (signed_text(draft, by=""), lacks),
        (cut, differs),
        (cut + b"I take it all back.", differs),
        (good + b"I take it all back.", differs),
        (b"It is not true that:\n" + good, differs),
        (good.replace(b"Executed on", b"I take it all back.\nExecuted on"), differs),
        (good.replace(b"is true and correct", b"is not true nor correct"), differs),
        (good.replace(b"This draft certifies nothing", b"This draft certifies everything"), differs),
        (good.rpartition(b"Drafted with")[0], differs),
        (b"\n".join(good.split(b"\n")[::-1]), differs),
        (b"a" * (certificate.TEXT_MAX + 1), "larger than it can be"),
    ):  # fmt: skip
        with pytest.raises(ProductionError, match=message):
            await building.check_signed(made, SignedCertificate(SignedAs.TEXT, body), parts)
    # Whoever verifies looks at it again.
    whole = await package(signing, records(5), SignedCertificate(SignedAs.TEXT, good))
    assert check(whole.data, tmp_path, Trusted(whole.jwks)).kid
    for body, message in ((draft, lacks), (good + b"I take it all back.", differs)):
        data = await resigned(
            signing, whole, lambda files, value, body=body: files.update({"certificate-signed.txt": body})
        )
        with pytest.raises(ProductionError, match=message):
            check(data, tmp_path, Trusted(whole.jwks))
