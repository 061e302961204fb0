"""Packages: what a recipient can check, and each way in which somebody may have tampered with one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519

from keys.encoding import b64url_encode
from keys.file_provider import FileProvider
from keys.signing import SigningKeys, thumbprint
from proxy.cli.main import main
from proxy.ledger.model import Entry, Kind
from proxy.legal.production import archive, building, manifest, signature, sshsig
from proxy.legal.production.agefile import AgeError, check_recipients, encrypted
from proxy.legal.production.archive import ArchiveError, Reader
from proxy.legal.production.model import FileFact, LogPlace, ProductionError, SignedAs, SignedCertificate
from proxy.legal.production.verify import NotAPackage, Trusted, verify
from proxy.registry.jwk import registered
from tests.support.production import (
    MADE_AT,
    CustodianKey,
    MemoryParts,
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

FOLDER = "C-ABCDEFGHIJ-1"
VECTORS = Path(__file__).parents[1] / "vectors" / "production" / "sshsig.json"


@pytest.fixture
def signing(tmp_path: Path) -> SigningKeys:
    FileProvider.create(tmp_path / "keyring")
    return SigningKeys(tmp_path / "keyring")


@pytest.fixture
async def made(signing: SigningKeys) -> Package:
    return await package(signing)


def check(data: bytes, folder: Path, trusted: Trusted, identity: str | None = None) -> Any:
    file = folder / "package"
    file.write_bytes(data)
    return verify(file, trusted, identity)


# --- as made -------------------------------------------------------------------------------------------------------


async def test_a_package_verifies_and_says_what_nobody_checked(made: Package, tmp_path: Path) -> None:
    found = check(made.data, tmp_path, Trusted(made.jwks))
    assert found.kid == thumbprint(made.jwks[0])
    assert found.as_json()["records"] == 120
    assert [text.split(":")[0] for text in found.unchecked] == [
        "the custodian's signature",
        "the entry in the access log",
    ]
    without = check(made.data, tmp_path, Trusted())
    assert without.kid is None
    assert without.as_json()["verified"] is False
    assert without.unchecked[0].startswith("who made the package")


async def test_the_same_facts_and_records_give_the_same_package(signing: SigningKeys, made: Package) -> None:
    assert (await package(signing)).data == made.data
    other = await package(signing, number=2)
    assert other.data != made.data


async def test_another_process_gives_the_same_package(made: Package, signing: SigningKeys, tmp_path: Path) -> None:
    """Nothing of a process (hash seed, clock, locale, zone) is in a package."""
    code = (
        "import asyncio, hashlib, sys\nfrom pathlib import Path\nfrom keys.signing import SigningKeys\n"
        "from tests.support.production import package\n"
        "made = asyncio.run(package(SigningKeys(Path(sys.argv[1]))))\nprint(hashlib.sha256(made.data).hexdigest())\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C", "POLARS_MAX_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(tmp_path / "keyring")],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(made.data).hexdigest()


async def test_other_programs_read_the_archive(made: Package) -> None:
    with zipfile.ZipFile(io.BytesIO(made.data)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [f"{FOLDER}/{each.name}" for each in made.files]
        for each in made.files:
            info = opened.getinfo(f"{FOLDER}/{each.name}")
            assert opened.read(info) == made.parts.file(each.name)
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (2026, 6, 2, 15, 4, 4)
    assert len(made.data) == archive.length(FOLDER, made.files, MADE_AT)


async def test_an_archive_beyond_four_gigabytes_is_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the border moved down: Python's reader and ours agree on it."""
    monkeypatch.setattr(archive, "_FULL", 100)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    files, data = {"a.txt": b"x" * 50, "b.txt": b"y" * 5_000, "c.txt": b"z"}, bytearray()
    facts_of = [await building.fingerprint(name, _once(content)) for name, content in files.items()]
    async for piece in archive.write(FOLDER, facts_of, MADE_AT, lambda name: _once(files[name])):
        data += piece
    assert b"PK\x06\x06" in data
    assert {e.name: b"".join(d) for e, d in Reader(io.BytesIO(bytes(data))).files()} == files


async def test_an_unpacked_package_verifies_as_a_folder(made: Package, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(made.data)) as opened:
        opened.extractall(tmp_path)
    assert verify(tmp_path / FOLDER, Trusted(made.jwks)).kid is not None
    (tmp_path / FOLDER / "more.txt").write_text("x")
    with pytest.raises(ProductionError, match=r"more\.txt is not in the manifest"):
        verify(tmp_path / FOLDER, Trusted(made.jwks))
    (tmp_path / FOLDER / "more.txt").unlink()
    target = tmp_path / "elsewhere.csv"
    (tmp_path / FOLDER / "targets.csv").rename(target)
    (tmp_path / FOLDER / "targets.csv").symlink_to(target)
    with pytest.raises(ProductionError, match="cannot be read"):
        verify(tmp_path / FOLDER, Trusted(made.jwks))


# --- tampered with -------------------------------------------------------------------------------------------------


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def rebuilt(made: Package, change: Callable[[dict[str, bytes]], None], folder: str = FOLDER) -> bytes:
    """A package of other files, in a perfect archive."""
    files = {each.name: made.parts.file(each.name) for each in made.files}
    change(files)
    new = [await building.fingerprint(name, _once(data)) for name, data in files.items()]
    out = bytearray()
    async for piece in archive.write(folder, new, MADE_AT, lambda name: _once(files[name])):
        out += piece
    return bytes(out)


def listing(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    """Change the manifest, and write it as it would be written."""

    def work(files: dict[str, bytes]) -> None:
        value = json.loads(files["manifest.json"])
        change(value)
        files["manifest.json"] = manifest._written(value)

    return work


def relisted(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    """Change a file, and the manifest with it."""

    def work(files: dict[str, bytes]) -> None:
        files[name] = data

        def change(value: dict[str, Any]) -> None:
            for item in value["files"]:
                if item["name"] == name:
                    item |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

        listing(change)(files)

    return work


def _replace(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def work(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return work


def _set(**members: Any) -> Callable[[dict[str, bytes]], None]:
    return listing(lambda value: value.update(members))


TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a record changed": (_replace("records.csv", b"answered", b"unanswrd"), "records.csv is not the file"),
    "a record taken away": (
        lambda f: f.__setitem__("records.csv", b"\r\n".join(f["records.csv"].split(b"\r\n")[:-2]) + b"\r\n"),
        "records.csv is not the file",
    ),
    "a page changed": (lambda f: f.__setitem__("records.pdf", f["records.pdf"][:-1] + b" "), "records.pdf is not"),
    "a file missing": (lambda f: f.__delitem__("sources.csv"), r"sources\.csv is missing"),
    "a file more": (lambda f: f.__setitem__("note.txt", b"x"), r"note\.txt is not in the manifest"),
    "no manifest": (lambda f: f.__delitem__("manifest.json"), r"no manifest\.json"),
    "no signature": (lambda f: f.__delitem__("manifest.jws"), r"no manifest\.jws"),
    "no certificate": (
        lambda f: (f.__delitem__("certificate.txt"), listing(
            lambda v: v.update(files=[i for i in v["files"] if i["name"] != "certificate.txt"]))(f))[0],
        r"no certificate\.txt",
    ),
    "no signed certificate": (
        lambda f: (f.__delitem__("certificate-signed.pdf"), listing(
            lambda v: v.update(files=[i for i in v["files"] if i["name"] != "certificate-signed.pdf"]))(f))[0],
        "certificate-signed.pdf",
    ),
    "manifest says another count": (_set(records=119), "numbers of records and pages"),
    "manifest of another case": (_set(case="C-AAAAAAAAAA"), "folder is not called"),
    "manifest of another production": (
        _set(production="018f0000-0000-7000-8000-000000000002"),
        "another production's",
    ),
    "manifest not canonical": (_replace("manifest.json", b'"v": 1', b'"v":  1'), "no manifest as"),
    "manifest with a member twice": (
        _replace("manifest.json", b'"v": 1,\n', b'"v": 1,\n "case": "C-AAAAAAAAAA",\n'),
        "no manifest as",
    ),
    "manifest of a newer version": (_set(v=2), "newer tollgate"),
    "manifest with a path": (
        listing(lambda v: v["files"][0].update(name="../README.txt")),
        "no manifest as",
    ),
    "manifest lists itself": (listing(lambda v: v["files"][0].update(name="manifest.json")), "no manifest as"),
    "manifest with a file twice": (listing(lambda v: v["files"].append(v["files"][0])), "no manifest as"),
    "manifest with a float": (listing(lambda v: v["files"][0].update(bytes=1.0)), "no manifest as"),
    "manifest that is a list": (lambda f: f.__setitem__("manifest.json", b"[]\n"), "no manifest as"),
    "manifest that is nested deep": (
        lambda f: f.__setitem__("manifest.json", b"[" * 100_000 + b"]" * 100_000), "no manifest as"),
    "manifest of other rules": (listing(lambda v: v["certificate"].update(rules=["902(11)"])), "of the rules"),
    "record changed and listed so": (relisted("records.csv", b"no,record_id\r\n"), "does not certify records.csv"),
    "pages changed and listed so": (relisted("records.pdf", b"%PDF-1.4"), "does not certify records.pdf"),
    "certificate changed and listed so": (relisted("certificate.txt", b"I certify nothing."), "of a title"),
    "signed certificate changed and listed so": (relisted("certificate-signed.pdf", b"%PDF-2.0"), "was changed"),
    "guide changed and listed so": (relisted("field-guide.txt", b"x"), "does not certify field-guide.txt"),
    "signature of nothing": (lambda f: f.__setitem__("manifest.jws", b"a..b\n"), "manifest.jws is not|no detached"),
    "signature with the payload": (
        lambda f: f.__setitem__("manifest.jws", f["manifest.jws"].replace(b"..", b".e30.")), "no detached JWS"),
    "signature that says none": (
        lambda f: f.__setitem__("manifest.jws", b"eyJhbGciOiJub25lIn0..\n"), "no detached|not a signature"),
    "a signature of megabytes": (lambda f: f.__setitem__("manifest.jws", bytes(2_000_000)), "larger than it can be"),
    "signature flipped": (
        lambda f: f.__setitem__("manifest.jws", f["manifest.jws"][:-10] + b"AAAAAAAA" + f["manifest.jws"][-2:]),
        "was changed|no detached",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
async def test_a_package_that_was_tampered_with_is_refused(case: str, made: Package, tmp_path: Path) -> None:
    change, message = TAMPERED[case]
    data = await rebuilt(made, change)
    assert data != made.data
    with pytest.raises(ProductionError, match=message):
        check(data, tmp_path, Trusted(made.jwks))


async def test_a_package_signed_by_another_gateway_is_refused(made: Package, tmp_path: Path) -> None:
    FileProvider.create(tmp_path / "other")
    other = SigningKeys(tmp_path / "other")
    with pytest.raises(ProductionError, match="none of those given"):
        check(made.data, tmp_path, Trusted([dict(other.current("production").public_jwk)]))
    forged = await package(other)
    with pytest.raises(ProductionError, match="none of those given"):
        check(forged.data, tmp_path, Trusted(made.jwks))


async def test_old_packages_verify_after_the_key_was_rotated(
    made: Package, signing: SigningKeys, tmp_path: Path
) -> None:
    from proxy.cli.rotation import FOR_EVER

    signing.rotate("production", keep_until=FOR_EVER)
    new = await package(signing)
    assert new.data != made.data
    for data in (made.data, new.data):
        assert check(data, tmp_path, Trusted(new.jwks)).kid
    with pytest.raises(ProductionError, match="none of those given"):
        check(new.data, tmp_path, Trusted(made.jwks))


# --- hostile archives ----------------------------------------------------------------------------------------------


def _zip(*entries: tuple[str, bytes], kind: int = zipfile.ZIP_STORED, link: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as made:
        for name, data in entries:
            info = zipfile.ZipInfo(name, (2026, 6, 2, 15, 4, 4))
            info.compress_type = kind
            info.external_attr = (0o120777 if link else 0o100644) << 16
            made.writestr(info, data)
    return out.getvalue()


HOSTILE = {
    "bomb": lambda d: _zip((f"{FOLDER}/records.csv", bytes(50_000_000)), kind=zipfile.ZIP_DEFLATED),
    "bomb, lzma": lambda d: _zip((f"{FOLDER}/records.csv", bytes(1_000_000)), kind=zipfile.ZIP_LZMA),
    "path out": lambda d: _zip((f"{FOLDER}/../../etc/passwd.txt", b"x")),
    "path from the root": lambda d: _zip(("/etc/passwd.txt", b"x")),
    "path of another system": lambda d: _zip((f"{FOLDER}\\..\\x.txt", b"x")),
    "path with a nul": lambda d: d.replace(b"targets.csv", b"target\0.csv"),
    "two folders": lambda d: d.replace(f"{FOLDER}/targets.csv".encode(), b"C-ABCDEFGHIJ-2/targets.csv", 1),
    "link": lambda d: _zip((f"{FOLDER}/manifest.json", b"/etc/passwd"), link=True),
    "written by another program": lambda d: _rezipped(d),
    "something before": lambda d: b"MZ" + d,
    "something after": lambda d: d + b"x",
    "something between": lambda d: d.replace(b"PK\x01\x02", b"xPK\x01\x02", 1),
    "directory of other names": lambda d: _in_directory(d, b"targets.csv", b"targetz.csv"),
    "directory of another offset": lambda d: d[:-6] + struct.pack("<I", struct.unpack("<I", d[-6:-2])[0] + 1) + d[-2:],
    "directory of fewer files": lambda d: d[:-12] + struct.pack("<H", 3) + d[-10:],
    "a comment": lambda d: d[:-2] + b"\x01\x00x",
    "claims to be encrypted": lambda d: d[:6] + b"\x01\x00" + d[8:],
    "claims a length of exabytes": lambda d: d[:18] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + d[26:],
    "a long name": lambda d: d[:26] + b"\xff\xff" + d[28:],
    "an extra field": lambda d: d[:28] + b"\xff\xff" + d[30:],
    "no time": lambda d: d[:10] + b"\xff\xff\xff\xff" + d[14:],
    "checksum": lambda d: d[:14] + b"\0\0\0\0" + d[18:],
    "a file twice": lambda d: _twice(d),
    "empty archive": lambda d: d[-22:],
    "only a beginning": lambda d: b"PK\x03\x04",
}  # fmt: skip


def _rezipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return _zip(*((name, opened.read(name)) for name in opened.namelist()), kind=zipfile.ZIP_DEFLATED)


def _in_directory(data: bytes, old: bytes, new: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[:at] + data[at:].replace(old, new)


def _twice(data: bytes) -> bytes:
    """The first file again, in a directory that says so."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        first = opened.infolist()[0]
        end = opened.infolist()[1].header_offset
    return data[first.header_offset : end] + data


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_archive_is_refused_with_little_memory(case: str, made: Package, tmp_path: Path) -> None:
    data = HOSTILE[case](made.data)
    assert data != made.data
    file = tmp_path / "package"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises((ProductionError, NotAPackage)):
            verify(file, Trusted(made.jwks))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert set(os.listdir(tmp_path)) == {"keyring", "package"}


async def test_a_package_cut_anywhere_or_with_any_byte_changed_is_refused(made: Package, tmp_path: Path) -> None:
    data = made.data
    for at in [*range(80), *range(80, len(data), 997), *range(len(data) - 60, len(data))]:
        with pytest.raises(ProductionError):
            check(data[:at], tmp_path, Trusted(made.jwks))
        flipped = data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
        with pytest.raises(ProductionError):
            check(flipped, tmp_path, Trusted(made.jwks))


async def test_random_bytes_are_no_package_and_never_a_defect(tmp_path: Path) -> None:
    for head in (b"", b"PK\x03\x04", b"age-encryption.org/v1\n", b"%PDF-1.7", b"{"):
        for size in (0, 1, 30, 400):
            with pytest.raises(ProductionError):
                check(head + os.urandom(size), tmp_path, Trusted(), str(x25519.Identity.generate()))


async def test_names_that_are_none_are_not_written() -> None:
    one = FileFact("a.txt", 1, "0" * 64, 0)
    for folder, files in (
        ("..", [one]),
        (FOLDER, [replace(one, name="../a.txt")]),
        (FOLDER, [replace(one, name="a b.txt")]),
        (FOLDER, [one, one]),
    ):
        with pytest.raises(ArchiveError):
            async for _ in archive.write(folder, files, MADE_AT, lambda name: _once(b"x")):
                pass


async def _written(data: bytes) -> None:
    async for _ in archive.write(FOLDER, [FileFact("a.txt", 1, "0" * 64, 0)], MADE_AT, lambda name: _once(data)):
        pass


async def test_a_file_that_changed_its_length_is_not_written() -> None:
    for data in (b"", b"xx"):
        with pytest.raises(ArchiveError, match="not as long"):
            await _written(data)


# --- the custodian -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(4))
def test_signatures_of_openssh_are_taken_in_our_namespace_alone(n: int) -> None:
    vectors = json.loads(VECTORS.read_text())
    vector = vectors["signatures"][n]
    key, text, body = sshsig.public_key(vector["public_key"]), vectors["text"].encode(), vector["signature"].encode()
    if vector["namespace"] != sshsig.NAMESPACE:
        with pytest.raises(ProductionError, match="no signature as"):
            sshsig.verify(body, text, key)
        return
    sshsig.verify(body, text, key)
    with pytest.raises(ProductionError, match="not over this certificate"):
        sshsig.verify(body, text + b" ", key)
    with pytest.raises(ProductionError, match="another key"):
        sshsig.verify(body, text, CustodianKey().blob)
    lines = body.splitlines(keepends=True)
    for at in range(1, len(lines) - 1):
        for position in range(0, len(lines[at]) - 1, 7):
            line = bytearray(lines[at])
            line[position] = ord("A") if line[position] != ord("A") else ord("B")
            with pytest.raises(ProductionError):
                sshsig.verify(b"".join([*lines[:at], bytes(line), *lines[at + 1 :]]), text, key)


async def test_a_custodians_own_signature_is_checked_with_their_key(signing: SigningKeys, tmp_path: Path) -> None:
    key = CustodianKey()
    _, parts = await drafted(records(120))
    signed = SignedCertificate(SignedAs.SSH, key.sign(certificate_text(parts)))
    made = await package(signing, signed=signed)
    found = check(made.data, tmp_path, Trusted(made.jwks, key.line))
    assert found.custodian_key == sshsig.fingerprint(key.blob)
    with pytest.raises(ProductionError, match="another key"):
        check(made.data, tmp_path, Trusted(made.jwks, CustodianKey().line))
    other = await package(signing, signed=SignedCertificate(SignedAs.SSH, key.sign(b"something else")))
    with pytest.raises(ProductionError, match="not over this certificate"):
        check(other.data, tmp_path, Trusted(other.jwks, key.line))


async def test_what_was_signed_has_to_be_what_was_drafted() -> None:
    made, parts = await drafted(records(3))
    filled = signed_text(certificate_text(parts)).decode()
    good = SignedCertificate(SignedAs.TEXT, filled.encode())
    await building.complete(facts(), made, good, parts)
    for bad, message in (
        (SignedCertificate(SignedAs.TEXT, filled.replace("3 records", "4 records").encode()), "its text differs"),
        (SignedCertificate(SignedAs.TEXT, b"\xff"), "UTF-8"),
        (SignedCertificate(SignedAs.PDF, b"GIF89a"), "no PDF"),
        (SignedCertificate(SignedAs.PDF, b""), "1 byte to 25 MiB"),
        (SignedCertificate(SignedAs.PDF, b"%PDF-" + bytes(25 << 20)), "1 byte to 25 MiB"),
    ):
        with pytest.raises(ProductionError, match=message):
            await building.complete(facts(), made, bad, parts)


def test_a_key_is_the_same_key_in_the_registry_and_in_a_signature() -> None:
    for vector in json.loads(VECTORS.read_text())["signatures"]:
        jwk = sshsig.as_jwk(vector["public_key"])
        assert sshsig.of_jwk(jwk) == sshsig.public_key(vector["public_key"])
        assert registered(jwk).public.alg == jwk["alg"]
    assert sshsig.of_jwk({"kty": "RSA", "n": "AQAB", "e": "AQAB"}) is None
    assert sshsig.of_jwk({"kty": "OKP", "crv": "Ed25519"}) is None


def test_public_keys_of_people_are_ed25519_or_p256() -> None:
    for line in ("", "ssh-rsa AAAAB3NzaC1yc2E", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA", CustodianKey().line[5:]):
        with pytest.raises(ProductionError):
            sshsig.public_key(line)


# --- the log's receipt ---------------------------------------------------------------------------------------------


async def test_the_search_is_proven_by_the_logs_receipt(signing: SigningKeys, tmp_path: Path) -> None:
    log = PaperLog()
    access_id, entries = access()
    other_id, others = access()
    first, second = log.add(*entries), log.add(*others)
    receipt = json.dumps(log.receipt(access_id, first)).encode()
    note = log.note().split("\n")
    place = LogPlace(note[0], access_id, int(note[1]), note[2])
    made = await package(signing, log=place, receipt=receipt)
    trusted = Trusted(made.jwks, "", [log.signer.key])
    assert check(made.data, tmp_path, trusted).log_size == 4
    with pytest.raises(ProductionError, match=r"log-receipt\.json: the checkpoint does not verify"):
        check(made.data, tmp_path, replace(trusted, log_keys=[PaperLog().signer.key]))
    for wrong in (
        {"receipt": json.dumps(log.receipt(other_id, second)).encode()},
        {"log": replace(place, size=5)},
        {"log": replace(place, access_id=other_id)},
        {"log": replace(place, root="AAAA" + place.root[4:])},
        {"log": replace(place, origin="other.example/log")},
    ):
        bad = await package(signing, **{"log": place, "receipt": receipt, **wrong})
        with pytest.raises(ProductionError, match="of another search"):
            check(bad.data, tmp_path, trusted)
    assert Entry(Kind.PRODUCTION_STATE).kind == "production.state"


# --- age -----------------------------------------------------------------------------------------------------------


async def sealed(data: bytes, *recipients: str, piece: int = 70_001) -> bytes:
    async def plain() -> AsyncIterator[bytes]:
        for at in range(0, len(data), piece):
            yield data[at : at + piece]

    return b"".join([part async for part in encrypted(plain(), recipients)])


async def test_each_recipient_opens_it_and_nobody_else(made: Package, tmp_path: Path) -> None:
    people = [x25519.Identity.generate() for _ in range(3)]
    data = await sealed(made.data, *(str(p.to_public()) for p in people[:2]))
    assert made.data[:40] not in data
    for person in people[:2]:
        assert pyrage.decrypt(data, [person]) == made.data
        assert check(data, tmp_path, Trusted(made.jwks), f"# created: x\n{person}\n").kid
    with pytest.raises(AgeError, match="does not open"):
        check(data, tmp_path, Trusted(made.jwks), str(people[2]))
    with pytest.raises(NotAPackage, match="encrypted"):
        check(data, tmp_path, Trusted(made.jwks))


async def test_an_encrypted_package_that_was_cut_or_changed_is_refused(made: Package, tmp_path: Path) -> None:
    person = x25519.Identity.generate()
    data = await sealed(made.data * 1, str(person.to_public()))
    for at in (10, 60, 200, 220, 5_000, len(data) - 17, len(data) - 1):
        for bad in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(ProductionError):
                check(bad, tmp_path, Trusted(made.jwks), str(person))
    with pytest.raises(ProductionError):
        check(data + b"x", tmp_path, Trusted(made.jwks), str(person))


async def test_what_goes_wrong_with_the_package_comes_out_of_the_encryption() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise ProductionError("a piece is missing")

    person = str(x25519.Identity.generate().to_public())
    with pytest.raises(ProductionError, match="a piece is missing"):
        _ = [part async for part in encrypted(broken(), [person])]


async def test_encryption_stops_with_its_reader_and_holds_little() -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(1 << 20)

    stream = encrypted(endless(), [str(x25519.Identity.generate().to_public())])
    async for _ in stream:
        break
    await asyncio.sleep(0.3)
    assert given < 60
    await stream.aclose()
    before = given
    await asyncio.sleep(0.05)
    assert given == before


def test_recipients_are_age_keys() -> None:
    good = str(x25519.Identity.generate().to_public())
    assert check_recipients([f" {good}\n"]) == (good,)
    for bad in ([], [good, good], ["age1x"], [""], [good[:-1]], [str(x25519.Identity.generate())], [good] * 9):
        with pytest.raises(AgeError) as caught:
            check_recipients(bad)
        assert not any(each and each in str(caught.value) for each in bad)


# --- the command ---------------------------------------------------------------------------------------------------


async def test_the_command_ends_as_it_says(made: Package, tmp_path: Path) -> None:
    person = x25519.Identity.generate()
    files = {
        "good.zip": made.data,
        "good.age": await sealed(made.data, str(person.to_public())),
        "bad.zip": await rebuilt(made, TAMPERED["a record changed"][0]),
        "text.zip": b"hello",
        "key.jwks": json.dumps({"keys": made.jwks}).encode(),
        "one.jwk": json.dumps(made.jwks[0]).encode(),
        "identity": str(person).encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def run(*arguments: str) -> Any:
        line = [str(tmp_path / a) if a in files else a for a in arguments]
        return CliRunner().invoke(main, ["production", "verify", *line])

    assert run("good.zip", "--key", "key.jwks").exit_code == 0
    assert run("good.age", "--key", "one.jwk", "--identity", "identity").exit_code == 0
    assert run("good.zip").exit_code == 6
    refused = run("bad.zip", "--key", "key.jwks")
    assert refused.exit_code == 1
    assert "records.csv is not the file" in refused.output
    assert run("bad.zip").exit_code == 1
    assert run("text.zip", "--key", "key.jwks").exit_code == 5
    assert run("good.age", "--key", "key.jwks").exit_code == 5
    assert run("good.zip", "--key", "text.zip").exit_code == 2
    assert run("nothing.zip").exit_code == 2
    shown = run("good.zip", "--key", "key.jwks", "--json")
    value = json.loads(shown.stdout)
    assert value["verified"] is True
    assert value["records"] == 120


async def test_what_a_package_says_cannot_move_the_cursor(signing: SigningKeys, tmp_path: Path) -> None:
    evil = "Evil \x1b[2J[bold]Carrier\u202e"
    made = await package(signing, carrier=evil, custodian=replace(facts().custodian, employer=evil))
    (tmp_path / "p.zip").write_bytes(made.data)
    shown = CliRunner().invoke(main, ["production", "verify", str(tmp_path / "p.zip")])
    assert shown.exit_code == 6
    assert "\x1b" not in shown.output
    assert "\u202e" not in shown.output
    assert "[bold]" in shown.output


def test_keys_are_read_strictly() -> None:
    for text in (b"", b"{}", b"[]", b'{"keys":[]}', b'{"kty":"OKP","crv":"Ed25519","x":"AA"}', b"{" * 99_999, b"\xff",
                 b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}', b'{"keys":[1]}', b'{"keys":{"a":1}}'):  # fmt: skip
        with pytest.raises(signature.KeyTextError):
            signature.read_keys(text)


async def test_memory_of_a_stored_package_is_a_piece_at_a_time() -> None:
    """`pieces` gives what is stored, and says at the end where it is not what was made."""
    parts = MemoryParts()
    fact = await building.keep(parts, "a.txt", bytes(3 * building.PIECE + 5))
    assert [len(piece) async for piece in building.pieces(fact, parts)] == [*[building.PIECE] * 3, 5]
    parts.kept["a.txt", 1] = bytes(building.PIECE - 1) + b"x"
    with pytest.raises(ProductionError, match=r"a\.txt is not what was made"):
        _ = [piece async for piece in building.pieces(fact, parts)]
    assert signed_pdf().kind is SignedAs.PDF


def test_a_custodians_openssh_key_is_printed_as_the_registry_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "key.pub"
    file.write_text(CustodianKey().line)
    done = CliRunner().invoke(main, ["production", "custodian-jwk", str(file)])
    assert done.exit_code == 0
    assert registered(json.loads(done.stdout)).as_jwk() == json.loads(done.stdout)
    file.write_text("ssh-rsa AAAA")
    assert CliRunner().invoke(main, ["production", "custodian-jwk", str(file)]).exit_code == 5


async def test_a_perfect_archive_with_a_file_twice_or_a_wrong_checksum_is_refused(
    made: Package, tmp_path: Path
) -> None:
    """Programs differ in which of two files of one name they take, and whether they look at checksums at all."""
    files = [(each, made.parts.file(each.name)) for each in made.files]
    other = b"no,record_id\r\n"
    doubled = [*files, (await building.fingerprint("records.csv", _once(other)), other)]
    lying = [(replace(each, crc32=each.crc32 ^ 1), data) for each, data in files]
    for some, message in ((doubled, "a file twice"), (lying[::-1], "checksum differs")):
        entries = [archive.Entry(each.name, each.bytes, each.crc32) for each, _ in some]
        data = b"".join(
            archive._local(FOLDER, entry, MADE_AT) + body for entry, (_, body) in zip(entries, some, strict=True)
        )
        with pytest.raises(ProductionError, match=message):
            check(data + archive._directory(FOLDER, entries, MADE_AT), tmp_path, Trusted(made.jwks))


async def test_a_signature_with_another_header_is_refused_though_its_key_made_it(
    made: Package, signing: SigningKeys, tmp_path: Path
) -> None:
    """What is signed for one purpose is not taken for another (RFC 8725 section 3.11)."""
    key = signing.current("production")
    listing = made.parts.file("manifest.json")
    for header in (
        {"alg": "EdDSA", "kid": key.kid},
        {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"},
        {"alg": "EdDSA", "kid": key.kid, "typ": signature.TYPE, "crit": ["exp"]},
        {"alg": "Ed25519", "kid": key.kid, "typ": signature.TYPE},
    ):
        head = json.dumps(header, separators=(",", ":")).encode()
        assert isinstance(key.private_key, Ed25519PrivateKey)
        signed = key.private_key.sign(f"{b64url_encode(head)}.{b64url_encode(listing)}".encode())
        jws = f"{b64url_encode(head)}..{b64url_encode(signed)}\n".encode()
        with pytest.raises(ProductionError, match="not a signature as Tollgate"):
            signature.verify(jws, listing, made.jwks)
