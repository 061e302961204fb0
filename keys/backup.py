"""Backups of the keyring: one file, encrypted under a passphrase (scrypt, RFC 7914; AES-256-GCM), and putting it back.

A database backup without a keyring backup holds nothing that opens. The two are kept apart: who has both has the
records. The file is JSON; everything but the ciphertext is the AAD, so nothing of it can be changed. The format is
described in deploy/docs/keys.md.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keys.encoding import b64url_decode, b64url_encode
from keys.errors import BackupError, KeyringError
from keys.keyring import RING, ROOT, Keyring, exclusive, prepare, read_file, sync_directory, write_file
from keys.provider import Period
from keys.ring import Backup, Ring
from keys.ringfile import dump_ring, dump_roots, load_ring, load_roots

VERSION = 1
PASSPHRASE_MIN = 12
"""Characters. The file may lie for years where others can copy it: a sentence is better."""

SCRYPT_LOG_N = 17
"""128 MiB and about half a second for each guess (n = 2^17, r = 8)."""

_FORMAT = "tollgate-keyring-backup"
# What a backup file may ask of us to open it: at most 1 GiB of memory.
_LOG_N_MAX, _R_MAX, _P_MAX = 20, 8, 4


def make_backup(ring: Ring, passphrase: str, now: datetime, *, log_n: int | None = None) -> bytes:
    """Return the whole keyring, root key too, encrypted under ``passphrase``.

    Args:
        ring: the keyring.
        passphrase: at least `PASSPHRASE_MIN` characters.
        now: stands in clear in the result.
        log_n: the cost of scrypt, binary logarithm; default `SCRYPT_LOG_N`.

    Raises:
        BackupError: if the passphrase is too short.
    """
    if len(passphrase) < PASSPHRASE_MIN:
        raise BackupError(f"the passphrase must have at least {PASSPHRASE_MIN} characters")
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": VERSION,
        "keyring": ring.ring_id,
        "generation": ring.generation,
        "created_at": now.astimezone(UTC).isoformat(),
        "kdf": {
            "name": "scrypt",
            "log2_n": log_n or SCRYPT_LOG_N,
            "r": 8,
            "p": 1,
            "salt": b64url_encode(os.urandom(16)),
        },
        "alg": "A256GCM",
        "nonce": b64url_encode(os.urandom(12)),
    }
    plain = json.dumps({ROOT: dump_roots((ring.root,)).decode(), RING: dump_ring(ring).decode()}).encode()
    cipher, nonce = _cipher(header, passphrase)
    header["ciphertext"] = b64url_encode(cipher.encrypt(nonce, plain, _aad(header)))
    return json.dumps(header, indent=1).encode() + b"\n"


def open_backup(data: bytes, passphrase: str) -> Ring:
    """Return the keyring in a backup; every entry of it has been opened once.

    Raises:
        BackupError: if it is no backup, is damaged, of a newer version, or of another passphrase.
    """
    try:
        header = json.loads(data)
        if header["format"] != _FORMAT:
            raise ValueError("another format")
        if header["version"] != VERSION or header["alg"] != "A256GCM" or header["kdf"]["name"] != "scrypt":
            raise BackupError("the backup was written by a newer version: upgrade to open it")
        ciphertext = b64url_decode(header.pop("ciphertext"))
        cipher, nonce = _cipher(header, passphrase)
        files = json.loads(cipher.decrypt(nonce, ciphertext, _aad(header)))
        ring = load_ring(files[RING].encode(), load_roots(files[ROOT].encode()))
        ring.check()
    except InvalidTag:
        raise BackupError("the backup does not open: another passphrase, or the file is damaged") from None
    except KeyringError as error:
        raise BackupError(f"the backup opens, but what is in it does not: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BackupError("this is not a backup of a keyring, or it is damaged") from None
    return ring


def record_backup(keyring: Keyring, generation: int, now: datetime) -> None:
    """Note in the keyring that generation ``generation`` of it has been backed up."""
    keyring.update(lambda r: replace(r, backup=Backup(now.astimezone(UTC), generation)), silent=True)


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did."""

    ring: Ring
    kept: Path | None
    """Where the replaced keyring's files were kept; None if there was none."""
    lost: frozenset[Period]
    """Periods that had a key in the replaced keyring and have none now."""
    still_destroyed: frozenset[Period]
    """Periods that the backup has a key for and that stay destroyed."""


def restore(directory: Path, ring: Ring, now: datetime, *, force: bool = False) -> Restored:
    """Put ``ring`` (from `open_backup`) into ``directory``.

    A keyring that is there is replaced only with ``force``, and then a copy of its files is kept beside it. What it
    has on record as destroyed stays destroyed.

    Raises:
        KeyringError: if there is a keyring and no ``force``, or the directory cannot be written.
    """
    prepare(directory)
    with exclusive(directory):
        present = [name for name in (ROOT, RING) if (directory / name).exists()]
        if present and not force:
            raise KeyringError(f"{directory} holds a keyring: it is replaced only with --force, and a copy kept")
        kept = _keep_copy(directory, present, now) if present else None
        replaced = _readable(directory)
        gone = replaced.destroyed if replaced is not None else {}
        lost = replaced.live - ring.live if replaced is not None else frozenset()
        still_destroyed = frozenset(gone) & ring.live
        for period in gone:
            ring = ring.without_period(period, gone[period])
        generation = max(ring.generation, replaced.generation if replaced is not None else 0) + 1
        ring = replace(ring, generation=generation)
        # Dying between the two leaves files that do not belong together: every reader says so, and running this
        # again repairs it. The copies are already kept.
        write_file(directory, ROOT, dump_roots((ring.root,)))
        write_file(directory, RING, dump_ring(ring))
    return Restored(ring, kept, lost - frozenset(gone), still_destroyed)


def _keep_copy(directory: Path, names: list[str], now: datetime) -> Path:
    kept = directory / f"replaced-{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
    try:
        kept.mkdir(mode=0o700)
        for name in names:
            # Whatever the modes were: what is replaced may well be replaced because of them.
            write_file(kept, name, (directory / name).read_bytes())
        sync_directory(directory)
    except OSError as error:
        raise KeyringError(f"{kept}: the old keyring cannot be kept there: {error.strerror}") from error
    return kept


def _readable(directory: Path) -> Ring | None:
    with contextlib.suppress(KeyringError):
        return load_ring(read_file(directory, RING), load_roots(read_file(directory, ROOT)))
    return None


def _cipher(header: Mapping[str, Any], passphrase: str) -> tuple[AESGCM, bytes]:
    kdf = header["kdf"]
    log_n, r, p = kdf["log2_n"], kdf["r"], kdf["p"]
    for value, most in ((log_n, _LOG_N_MAX), (r, _R_MAX), (p, _P_MAX)):
        if not isinstance(value, int) or not 1 <= value <= most:
            raise BackupError("the backup asks for more memory or time than any backup of ours")
    salt, nonce = b64url_decode(kdf["salt"]), b64url_decode(header["nonce"])
    if len(nonce) != 12:
        raise ValueError("a nonce of the wrong length")
    return AESGCM(Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase.encode())), nonce


def _aad(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
