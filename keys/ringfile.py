"""The texts of a keyring's two files, ``root.key`` and ``keyring.json``: written and strictly read. Pure.

The format is described in deploy/docs/keys.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from keys.encoding import b64url_decode, b64url_encode
from keys.errors import KeyringError
from keys.provider import Period, check_name
from keys.ring import Backup, PeriodEntry, Ring, RootKey, SigningEntry
from keys.wrapping import KEK_ID_BYTES, KEY_BYTES

T = TypeVar("T")

VERSION = 1
ALGORITHM = "A256GCM"


def dump_roots(roots: tuple[RootKey, ...]) -> bytes:
    """Return the text of ``root.key``: one key, or two while everything is being rewrapped."""
    keys = [{"id": r.key_id.hex(), "alg": ALGORITHM, "key": b64url_encode(r.key)} for r in roots]
    return _dump({"format": "tollgate-root-key", "version": VERSION, "keys": keys})


def load_roots(text: bytes) -> tuple[RootKey, ...]:
    """Return the keys of a ``root.key``.

    Raises:
        KeyringError: if it is damaged or of a newer version.
    """

    def read(value: dict[str, Any]) -> tuple[RootKey, ...]:
        roots = []
        for item in value["keys"]:
            _same(item["alg"], ALGORITHM)
            roots.append(RootKey(_key_id(item["id"]), _exactly(b64url_decode(item["key"]), KEY_BYTES)))
        if not roots:
            raise ValueError("no key")
        return tuple(roots)

    return _load("root.key", "tollgate-root-key", text, read)


def dump_ring(ring: Ring) -> bytes:
    """Return the text of ``keyring.json``: nothing in it opens without the root key."""
    periods = [
        {
            "class": e.period.key_class,
            "month": e.period.month,
            "id": e.key_id.hex(),
            "alg": ALGORITHM,
            "created_at": e.created_at.isoformat(),
            **({"wrapped": b64url_encode(e.wrapped)} if e.wrapped is not None else {}),
            **({"destroyed_at": e.destroyed_at.isoformat()} if e.destroyed_at is not None else {}),
        }
        for _, e in sorted(ring.periods.items())
    ]
    signing = [
        {
            "purpose": e.purpose,
            "kid": e.kid,
            "alg": e.alg,
            "jwk": dict(e.public_jwk),
            "created_at": e.created_at.isoformat(),
            **({"wrapped": b64url_encode(e.wrapped)} if e.wrapped is not None else {}),
            **({"keep_until": e.keep_until.isoformat()} if e.keep_until is not None else {}),
        }
        for e in ring.signing
    ]
    value: dict[str, Any] = {
        "format": "tollgate-keyring",
        "version": VERSION,
        "id": ring.ring_id,
        "generation": ring.generation,
        "root": ring.root.key_id.hex(),
        "periods": periods,
        "secrets": {name: b64url_encode(wrapped) for name, wrapped in sorted(ring.secrets.items())},
        "signing": signing,
    }
    if ring.backup is not None:
        value["backup"] = {"at": ring.backup.at.isoformat(), "generation": ring.backup.generation}
    return _dump(value)


def load_ring(text: bytes, roots: tuple[RootKey, ...]) -> Ring:
    """Return the ring of a ``keyring.json`` whose root key is among ``roots``.

    Raises:
        KeyringError: if it is damaged, of a newer version, or its root key is not there.
    """

    def read(value: dict[str, Any]) -> Ring:
        wanted = _key_id(value["root"])
        root = next((r for r in roots if r.key_id == wanted), None)
        if root is None:
            raise KeyringError(
                "root.key and keyring.json do not belong together: put back a backup (`tollgate keys restore`)"
            )
        periods: dict[Period, PeriodEntry] = {}
        for item in value["periods"]:
            _same(item["alg"], ALGORITHM)
            period = Period(item["class"], item["month"])
            wrapped = b64url_decode(item["wrapped"]) if "wrapped" in item else None
            gone = _time(item["destroyed_at"]) if "destroyed_at" in item else None
            if (wrapped is None) == (gone is None) or period in periods:
                raise ValueError("a period is neither live nor destroyed, or is there twice")
            periods[period] = PeriodEntry(period, _key_id(item["id"]), _time(item["created_at"]), wrapped, gone)
        signing = tuple(
            SigningEntry(
                purpose=check_name(item["purpose"]),
                kid=item["kid"],
                alg=item["alg"],
                public_jwk=dict(item["jwk"]),
                created_at=_time(item["created_at"]),
                wrapped=b64url_decode(item["wrapped"]) if "wrapped" in item else None,
                keep_until=_time(item["keep_until"]) if "keep_until" in item else None,
            )
            for item in value["signing"]
        )
        if any((e.wrapped is None) == (e.keep_until is None) for e in signing):
            raise ValueError("a signing key is neither current nor replaced")
        secrets = {check_name(name): b64url_decode(wrapped) for name, wrapped in value["secrets"].items()}
        done = value.get("backup")
        backup = None if done is None else Backup(_time(done["at"]), int(done["generation"]))
        return Ring(str(value["id"]), root, int(value["generation"]), periods, secrets, signing, backup)

    return _load("keyring.json", "tollgate-keyring", text, read)


def _dump(value: dict[str, Any]) -> bytes:
    """One line for each member, and for each entry of a list: to be looked at, and written by json's own quick half."""
    members = []
    for name, item in value.items():
        if isinstance(item, list):
            text = "[" + ",".join(f"\n  {json.dumps(each, ensure_ascii=True)}" for each in item) + "\n ]"
        else:
            text = json.dumps(item, ensure_ascii=True)
        members.append(f"\n {json.dumps(name)}: {text}")
    return ("{" + ",".join(members) + "\n}\n").encode()


def _load(name: str, kind: str, text: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """Parse one of the two files; whatever is wrong with it is one error that says which file and what to do."""
    try:
        value = json.loads(text)
        if value["format"] != kind:
            raise ValueError("another format")
        version = value["version"]
        if isinstance(version, int) and version > VERSION:
            raise KeyringError(f"{name} was written by a newer version ({version}): upgrade")
        return read(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise KeyringError(f"{name} is damaged: restore a backup (`tollgate keys restore`)") from None


def _same(found: object, expected: str) -> None:
    if found != expected:
        raise ValueError("an algorithm this version does not know")


def _key_id(text: str) -> bytes:
    return _exactly(bytes.fromhex(text), KEK_ID_BYTES)


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ValueError("a key or key id of the wrong length")
    return data


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without zone")
    return at.astimezone(UTC)
