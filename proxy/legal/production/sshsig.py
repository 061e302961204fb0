"""Signatures that a custodian makes with a key of their own: ``ssh-keygen -Y sign -n tollgate-certificate``.

The form is OpenSSH's PROTOCOL.sshsig. It was chosen because the program is on every desk, signs any file, and keeps
the key with the person (or on their token: sk-ssh-ed25519 is not taken yet). Ed25519 and ECDSA P-256 are taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from keys.encoding import EncodingError, b64url_decode, b64url_encode
from keys.signing import thumbprint
from proxy.legal.production.model import ProductionError

NAMESPACE: Final = "tollgate-certificate"
SIGNATURE_MAX: Final = 16 << 10
_ARMOR: Final = re.compile(
    rb"-----BEGIN SSH SIGNATURE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END SSH SIGNATURE-----\r?\n?\Z"
)
_MAGIC: Final = b"SSHSIG"
_KINDS: Final = (b"ssh-ed25519", b"ecdsa-sha2-nistp256")
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


class SshSignatureError(ProductionError):
    """It is no such signature, or not this key's over this text."""


def public_key(text: str) -> bytes:
    """Return the key in one line of OpenSSH's form (``ssh-ed25519 AAAA… comment``), as signatures name it.

    Raises:
        SshSignatureError: if it is none, or of a kind that is not taken.
    """
    try:
        kind, body = text.split()[:2]
        blob = base64.b64decode(body, validate=True)
        if kind.encode() not in _KINDS or _strings(blob, 1)[0][0] != kind.encode():
            raise ValueError
        load_ssh_public_key(f"{kind} {body}".encode())
    except (ValueError, IndexError, UnsupportedAlgorithm, binascii.Error, struct.error):
        raise SshSignatureError(
            "a custodian's key is a line that begins with ssh-ed25519 or ecdsa-sha2-nistp256"
        ) from None
    return blob


def of_jwk(jwk: Mapping[str, str]) -> bytes | None:
    """Return a registered key (RFC 7517) as signatures name it; None where it is of a kind that they cannot be of."""
    try:
        if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
            return _string(_KINDS[0]) + _string(b64url_decode(jwk["x"]))
        if jwk["kty"] == "EC" and jwk["crv"] == "P-256":
            point = b"\x04" + b64url_decode(jwk["x"]) + b64url_decode(jwk["y"])
            return _string(_KINDS[1]) + _string(b"nistp256") + _string(point)
    except (KeyError, EncodingError):
        pass
    return None


def as_jwk(line: str) -> dict[str, str]:
    """Return a key in OpenSSH's form as JWK, for the registry of staff.

    Raises:
        SshSignatureError: as `public_key`.
    """
    blob = public_key(line)
    (kind, first), rest = _strings(blob, 2)
    if kind == _KINDS[0]:
        jwk, alg = {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(first)}, "EdDSA"
    else:
        point = _strings(rest, 1)[0][0]
        x, y = b64url_encode(point[1:33]), b64url_encode(point[33:65])
        jwk, alg = {"kty": "EC", "crv": "P-256", "x": x, "y": y}, "ES256"
    return {**jwk, "kid": thumbprint(jwk), "alg": alg, "use": "sig"}


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint as OpenSSH writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def verify(signature: bytes, text: bytes, key: bytes) -> None:
    """Return without error if ``signature`` is this key's over ``text``.

    Args:
        signature: what ``ssh-keygen -Y sign`` wrote.
        text: the file that was signed.
        key: what `public_key` returned.

    Raises:
        SshSignatureError: if it is not.
    """
    try:
        found = _ARMOR.match(signature) if len(signature) <= SIGNATURE_MAX else None
        if found is None:
            raise ValueError
        blob = base64.b64decode(found[1].replace(b"\r", b"").replace(b"\n", b""), validate=True)
        if blob[:6] != _MAGIC or struct.unpack(">I", blob[6:10])[0] != 1:
            raise ValueError
        (signed_by, namespace, reserved, hash_name, raw), rest = _strings(blob[10:], 5)
        if rest or namespace != NAMESPACE.encode() or hash_name not in _HASHES:
            raise ValueError
    except (ValueError, struct.error, binascii.Error):
        raise SshSignatureError(f"this is no signature as `ssh-keygen -Y sign -n {NAMESPACE}` makes them") from None
    if signed_by != key:
        raise SshSignatureError("the certificate is signed with another key than the custodian's")
    digest = _HASHES[hash_name](text).digest()
    message = _MAGIC + b"".join(map(_string, (namespace, reserved, hash_name, digest)))
    try:
        _check(key, raw, message)
    except (InvalidSignature, ValueError, struct.error):
        raise SshSignatureError("the signature is not over this certificate: one of the two was changed") from None


def _check(key: bytes, raw: bytes, message: bytes) -> None:
    (kind, body), rest = _strings(raw, 2)
    if rest or kind not in _KINDS:
        raise ValueError
    loaded = load_ssh_public_key(kind + b" " + base64.b64encode(key))
    if isinstance(loaded, Ed25519PublicKey) and kind == _KINDS[0]:
        loaded.verify(body, message)
    elif isinstance(loaded, EllipticCurvePublicKey) and kind == _KINDS[1]:
        (r, s), rest = _strings(body, 2)
        if rest:
            raise ValueError
        loaded.verify(
            encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), message, ECDSA(SHA256())
        )
    else:
        raise ValueError


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """Read SSH strings (RFC 4251 section 5) from the front; return them and the rest."""
    found = []
    for _ in range(count):
        (size,) = struct.unpack(">I", data[:4])
        if len(data) < 4 + size:
            raise ValueError
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found, data
