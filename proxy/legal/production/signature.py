"""The carrier's signature of a manifest: a detached JWS (RFC 7515, appendix F) by Tollgate's production key.

It says that this gateway made the package, and no more: the certificate is the custodian's. EdDSA with Ed25519, so that
the same key gives the same signature every time (RFC 8032): a production that is finished again after a crash is the
same. The public halves are kept and published for ever (`tollgate production key`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keys.encoding import EncodingError, b64url_decode, b64url_encode
from keys.signing import EDDSA, SigningKey, thumbprint
from proxy.legal.production.model import ProductionError

PURPOSE: Final = "production"
"""Of the signing key in the keyring."""
TYPE: Final = "tollgate-manifest+jws"
SIGNATURE_MAX: Final = 4096


class SignatureError(ProductionError):
    """A signature is none, or not of what it should be."""


class KeyTextError(ValueError):
    """What was given as a key is none; the message is fixed."""


def sign(key: SigningKey, manifest: bytes) -> bytes:
    """Return the detached JWS of a manifest: header, two dots, signature; then a newline."""
    if not isinstance(key.private_key, Ed25519PrivateKey):
        raise SignatureError("the production key has to be an Ed25519 key")
    head = json.dumps({"alg": EDDSA, "kid": key.kid, "typ": TYPE}, separators=(",", ":"), sort_keys=True).encode()
    signed = key.private_key.sign(_input(head, manifest))
    return f"{b64url_encode(head)}..{b64url_encode(signed)}\n".encode()


def verify(jws: bytes, manifest: bytes, keys: Sequence[Mapping[str, str]]) -> str:
    """Check a manifest's signature; return the thumbprint of the key that made it.

    Args:
        jws: manifest.jws.
        manifest: manifest.json, byte for byte.
        keys: public JWKs of the carrier's production keys, from elsewhere than the package.

    Raises:
        SignatureError: if none of the keys made it.
    """
    head, signed = _parts(jws)
    header = _header(head)
    for jwk in keys:
        if thumbprint(jwk) != header["kid"]:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(b64url_decode(jwk["x"])).verify(signed, _input(head, manifest))
        except (InvalidSignature, ValueError):
            raise SignatureError("the manifest's signature is not that of the key given: it was changed") from None
        return str(header["kid"])
    raise SignatureError("the manifest is signed with a key that is none of those given")


def signer(jws: bytes) -> str:
    """Return the thumbprint of the key that a signature says made it. Proves nothing.

    Raises:
        SignatureError: if it is no signature of a manifest.
    """
    return str(_header(_parts(jws)[0])["kid"])


def read_keys(text: bytes) -> list[dict[str, str]]:
    """Read public keys: a JWK, or a set of them (RFC 7517).

    Raises:
        KeyTextError: if it is neither, or holds no Ed25519 key.
    """
    try:
        value = json.loads(text)
        found = value.get("keys", [value])
        keys = [{name: jwk[name] for name in ("kty", "crv", "x")} for jwk in found if jwk.get("crv") == "Ed25519"]
        if not keys or any(jwk["kty"] != "OKP" or len(b64url_decode(jwk["x"])) != 32 for jwk in keys):
            raise KeyTextError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise KeyTextError(
            "a key is a JWK of an Ed25519 key, or a set of such keys (tollgate production key)"
        ) from None
    return keys


def _parts(jws: bytes) -> tuple[bytes, bytes]:
    try:
        if len(jws) > SIGNATURE_MAX or not jws.endswith(b"\n"):
            raise ValueError
        head, payload, signed = jws[:-1].decode("ascii").split(".")
        if payload:
            raise ValueError
        return b64url_decode(head), b64url_decode(signed)
    except (ValueError, EncodingError):
        raise SignatureError("manifest.jws is no detached JWS") from None


def _header(head: bytes) -> dict[str, Any]:
    """What is taken is what would be written: three members, in their order."""
    try:
        header = json.loads(head)
        again = json.dumps({"alg": EDDSA, "kid": header["kid"], "typ": TYPE}, separators=(",", ":"), sort_keys=True)
        if again.encode() != head or not isinstance(header["kid"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SignatureError("manifest.jws is not a signature as Tollgate makes them") from None
    return dict(header)


def _input(head: bytes, manifest: bytes) -> bytes:
    """RFC 7515 section 5.1, step 5."""
    return f"{b64url_encode(head)}.{b64url_encode(manifest)}".encode()
