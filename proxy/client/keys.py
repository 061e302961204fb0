"""A client's private keys: made, kept in a PEM file (0600), used to sign assertions and DPoP proofs."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from keys.encoding import b64url_encode

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


class KeyFileError(Exception):
    """A key file is missing, open to others or not a key this client can use; the message says which."""


def thumbprint(jwk: dict[str, Any]) -> str:
    """Return the SHA-256 thumbprint of a public JWK (RFC 7638), base64url."""
    members = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return b64url_encode(hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A private key with the algorithm it signs with and its public form."""

    private: PrivateKey
    alg: str
    jwk: dict[str, Any]
    """The public JWK without kid, use and alg."""

    @property
    def kid(self) -> str:
        """The key's name: its thumbprint."""
        return thumbprint(self.jwk)

    def public_jwk(self) -> dict[str, Any]:
        """Return the JWK to be registered at the carrier."""
        return {**self.jwk, "kid": self.kid, "use": "sig", "alg": self.alg}

    def sign(self, claims: dict[str, Any], headers: dict[str, Any]) -> str:
        """Return ``claims`` as a compact JWS."""
        return jwt.encode(claims, self.private, algorithm=self.alg, headers=headers)


def wrap(private: Any) -> ClientKey:
    """Return the key with its algorithm: ES256 for P-256, EdDSA for Ed25519, PS256 for RSA of 2048 bits or more.

    Raises:
        KeyFileError: for any other key.
    """
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        alg = "ES256"
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        alg = "EdDSA"
    elif isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        alg = "PS256"
    else:
        raise KeyFileError("the key must be P-256, Ed25519 or RSA of at least 2048 bits")
    found = get_default_algorithms()[alg].to_jwk(private.public_key(), as_dict=True)
    jwk = {name: found[name] for name in _THUMBPRINT_MEMBERS[found["kty"]]}
    return ClientKey(private, alg, jwk)


def generate() -> ClientKey:
    """Make an ES256 key."""
    return wrap(ec.generate_private_key(ec.SECP256R1()))


def save(key: ClientKey, path: Path) -> None:
    """Write the private key as PKCS #8 PEM, 0600; never over an existing file.

    Raises:
        KeyFileError: if the file is there.
    """
    data = key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} is there already; a key is never overwritten") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> ClientKey:
    """Read a private key in PEM.

    Raises:
        KeyFileError: if it is missing, readable by others, or no key this client can use.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise KeyFileError(f"others may read {path}; chmod 0600 {path}")
            data = file.read(1 << 16)
    except FileNotFoundError:
        raise KeyFileError(f"no key in {path}; make one with `tollgate pull keygen --out {path}`") from None
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is not a private key in PEM without a passphrase") from error
    return wrap(private)


def load_or_make(path: Path) -> ClientKey:
    """Read the key of ``path``, making it on first use (two processes at once agree on one).

    The proof-of-possession key is kept so: its thumbprint stays the same from pull to pull, and a token stolen and used
    elsewhere stands out at the carrier.
    """
    if not path.exists():
        try:
            save(generate(), path)
        except KeyFileError:
            if not path.exists():
                raise
    return load(path)
