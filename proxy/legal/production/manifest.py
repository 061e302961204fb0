"""manifest.json: every file of a package with its length and SHA-256, and what the package is. Canonical, one form.

    {"v":1, "production":…, "case":…, "number":…, "carrier":…, "made_at":…, "instrument":{…}, "window":{…},
     "records":…, "pages":…, "certificate":{"signed_as":…, "file":…}, "log":{…} | null, "files":[{"name", "bytes",
     "sha256", "records"?, "pages"?}, …]}

It names no target: whoever sees only the manifest learns nothing of whom the case is about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.legal.production.archive import FILE_NAME, FILES_MAX
from proxy.legal.production.model import Facts, FileFact, ProductionError, Rule, SignedAs
from proxy.legal.production.texts import stamp

NAME: Final = "manifest.json"
SIGNATURE: Final = "manifest.jws"
VERSION: Final = 1
MANIFEST_MAX: Final = 16 << 20
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ManifestError(ProductionError):
    """A manifest is none. The message repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a manifest lists it."""

    bytes: int
    sha256: str
    records: int | None
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read."""

    value: Mapping[str, Any]
    files: Mapping[str, Listed]

    @property
    def folder(self) -> str:
        """The folder that its package has."""
        return f"{self.value['case']}-{self.value['number']}"


def make(facts: Facts, rows: int, pages: int, signed: SignedAs, signed_name: str, files: Sequence[FileFact]) -> bytes:
    """Return the manifest of a package's files, in their order."""
    listed = []
    for each in files:
        item: dict[str, Any] = {"name": each.name, "bytes": each.bytes, "sha256": each.sha256}
        if each.rows is not None:
            item["records"] = each.rows
        if each.pages is not None:
            item["pages"] = each.pages
        listed.append(item)
    log = facts.log
    value = {
        "v": VERSION,
        "production": str(facts.production_id),
        "case": facts.case_id,
        "number": facts.number,
        "carrier": facts.carrier,
        "made_at": stamp(facts.made_at),
        "instrument": {"id": facts.instrument, "title": facts.instrument_title, "citation": facts.citation},
        "window": {"from": stamp(facts.window_start), "before": stamp(facts.window_end), "zone": facts.timezone},
        "records": rows,
        "pages": pages,
        "certificate": {
            "rules": sorted(facts.certifications),
            "custodian": facts.custodian.name,
            "signed_as": signed.value,
            "file": signed_name,
        },
        "log": None
        if log is None
        else {"origin": log.origin, "access_id": str(log.access_id), "size": log.size, "root": log.root},
        "files": listed,
    }
    return _written(value)


def read(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: if it is none, or not written as `make` writes it.
    """
    try:
        if len(data) > MANIFEST_MAX:
            raise ValueError
        value = json.loads(data)
        if value["v"] != VERSION:
            raise ManifestError("the package is of another version: use a newer tollgate")
        if _written(value) != data:  # also a member that stands twice
            raise ValueError
        files = {}
        for item in value["files"]:
            name, size, digest, rows = item["name"], item["bytes"], item["sha256"], item.get("records")
            pages = item.get("pages")
            good = (
                FILE_NAME.fullmatch(name)
                and _HASH.fullmatch(digest)
                and _count(size)
                and (rows is None or _count(rows))
                and (pages is None or _count(pages))
            )
            if not good or name in files or name in (NAME, SIGNATURE):
                raise ValueError
            files[name] = Listed(size, digest, rows, pages)
        texts = [value["production"], value["case"], value["carrier"], value["made_at"], value["certificate"]["file"]]
        texts += [value["certificate"][each] for each in ("custodian", "signed_as")]
        texts += [value["window"][each] for each in ("from", "before", "zone")]
        texts += [value["instrument"][each] for each in ("id", "title", "citation")]
        if value["log"] is not None:
            texts += [value["log"][each] for each in ("origin", "access_id", "root")]
            if not _count(value["log"]["size"]):
                raise ValueError
        rules = value["certificate"]["rules"]
        if type(rules) is not list or rules != [rule.value for rule in Rule if rule.value in rules]:
            raise ValueError
        if not all(isinstance(each, str) for each in texts) or len(files) > FILES_MAX:
            raise ValueError
        if not all(_count(value[each]) for each in ("number", "records", "pages")):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError("manifest.json is no manifest as Tollgate writes them") from error
    return Manifest(value, files)


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _written(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
