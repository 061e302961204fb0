"""Settings: one documented dataclass, filled from the environment, then ``tollgate.toml``, then defaults.

A setting ``listen_port`` is ``TOLLGATE_LISTEN_PORT`` in the environment and ``listen_port`` in the file. Secrets are
never settings, only paths of files that hold them (mode 0600).
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

ENV_PREFIX = "TOLLGATE_"


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it and says what to do."""


def _doc(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


_HOME = Path(".tollgate")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Paths are absolute once loaded."""

    home: Path = _doc(_HOME, "directory of the configuration, keys and role passwords (made by `init`)")
    database_url: str = _doc("", "postgresql:// URL of the owner; empty: the embedded server under `home`")
    issuer: str = _doc("https://localhost:8443", "issuer of tokens, byte for byte as clients write it (RFC 8414)")
    listen_host: str = _doc("127.0.0.1", "address the API listens on")
    listen_port: int = _doc(8443, "port the API listens on; 0 takes a free one")
    metrics_host: str = _doc("127.0.0.1", "address of the metrics and health listener")
    metrics_port: int = _doc(9464, "port of the metrics and health listener; 0 takes a free one")
    tls_cert: str = _doc("tls/server.pem", "certificate chain, PEM; relative to `home`")
    tls_key: str = _doc("tls/server.key", "its private key, PEM, 0600; relative to `home`")
    token_ttl_s: int = _doc(300, "lifetime of an access token, seconds; at most 300")
    clock_skew_s: int = _doc(10, "how far ahead a client's iat or nbf may be, seconds")
    oidc_issuer: str = _doc("", "OpenID provider that staff sign in at, https, byte for byte; empty: nobody can")
    oidc_client_id: str = _doc("", "what Tollgate is called at that provider: the audience of its ID tokens")
    oidc_scope: str = _doc(
        "openid", "scope that staff sign in with; some providers tell groups for `openid groups` only"
    )
    oidc_ca: str = _doc("", "PEM that its certificate is verified with, relative to `home`; empty: the system's")
    oidc_algorithms: str = _doc("RS256", "what it signs ID tokens with, space between: of RS256, PS256, ES256, EdDSA")
    oidc_groups_claim: str = _doc("groups", "the claim of its ID tokens that lists a person's groups")
    oidc_group_legal_handler: str = _doc("tollgate-legal-handler", "its group of legal handlers; empty: nobody's")
    oidc_group_legal_approver: str = _doc("tollgate-legal-approver", "its group of legal approvers")
    oidc_group_privacy_officer: str = _doc("tollgate-privacy-officer", "its group of privacy officers")
    oidc_group_noc: str = _doc("tollgate-noc", "its group of the NOC")
    oidc_group_operator: str = _doc("tollgate-operator", "its group of operators")
    staff_session_s: int = _doc(43_200, "how long after signing in at the provider tokens are given, seconds")
    staff_requests_per_minute: int = _doc(600, "requests that one member of staff may make in a minute")
    carrier_name: str = _doc("", "our name, as letters of the legal desk and its productions bear it")
    legal_guarded: str = _doc(
        "", "file of numbers of police, courts, counsel and staff, flagged as targets (legal.md); relative to `home`"
    )
    max_rows_per_answer: int = _doc(5_000_000, "most rows of one answer")
    stream_stall_s: int = _doc(60, "a reader that takes nothing for this long is cut off, seconds")
    connections_max: int = _doc(1024, "open connections of the API at once; more are broken off")
    streams_max: int = _doc(64, "open answers at once; more are refused with 503")
    progress_rows: int = _doc(1_000_000, "a progress entry is logged before each further so many rows")
    decode_threads: int = _doc(2, "threads that open, decode and encode records")
    log_group_max: int = _doc(512, "most log entries of one transaction")
    log_origin: str = _doc("", "name the log is signed under (C2SP tlog-checkpoint); empty: the issuer's host + /log")
    log_publish_s: float = _doc(0.5, "time between two checkpoints of the log, seconds")
    log_witnesses: str = _doc("", "who cosigns the log's checkpoints: for each its key, a space, its URL (witness.md)")
    log_witness_quorum: int = _doc(0, "cosignatures that a checkpoint needs before it is published")
    log_witness_required: int = _doc(0, "1: without a published checkpoint nothing is disclosed; 0: metric and alert")
    log_witness_max_age_s: int = _doc(
        300, "how old an unpublished entry may be before `log_witness_required` acts, seconds"
    )
    privacy_desk: int = _doc(
        0, "1: privacy officers count exposure over this gateway's API; it then connects as the privacy role too"
    )
    keyring_backup_days: int = _doc(
        90, "how long backups of the keyring are kept, days: for so long what was shredded is pending"
    )
    legal_desk: int = _doc(0, "1: this gateway has the legal desk, and opens the keys of every class of records")
    log_retention_floor_months: int = _doc(24, "openings of the log are kept for at least so many months (at least 1)")

    def path(self, name: str) -> Path:
        """Return ``name`` below the home directory (an absolute name stays itself)."""
        return self.home / name

    @property
    def keyring_dir(self) -> Path:
        """Directory of the file provider's keyring."""
        return self.path("keys")

    @property
    def log_dir(self) -> Path:
        """Directory of the log's anchor file."""
        return self.path("log")

    @property
    def roles_file(self) -> Path:
        """JSON file with the login roles' passwords, 0600."""
        return self.path("roles.json")

    def role_url(self, role: str) -> str:
        """Return the database URL for a login role of schema/roles.py."""
        if not self.database_url:
            raise ConfigError("no database: set TOLLGATE_DATABASE_URL, or run `tollgate init` for an embedded one")
        password = ""
        if self.roles_file.exists():
            password = json.loads(self.roles_file.read_text()).get(role, "")
        parts = urlsplit(self.database_url)
        hostpart = parts.netloc.rpartition("@")[2]
        user = quote(role, safe="") + (":" + quote(password, safe="") if password else "")
        return urlunsplit(parts._replace(netloc=f"{user}@{hostpart}"))


def load(home: Path | None = None, environ: dict[str, str] | None = None, **overrides: Any) -> Config:
    """Read the settings.

    Args:
        home: the home directory; default ``TOLLGATE_HOME`` or ``.tollgate``.
        environ: the environment; default the process's own.
        overrides: settings that win over everything (command-line flags).

    Raises:
        ConfigError: on an unknown name in the file, or a value of the wrong type.
    """
    env = dict(os.environ) if environ is None else environ
    root = (home or Path(env.get("TOLLGATE_HOME", ".tollgate"))).expanduser().absolute()
    known = {f.name: f for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {}
    file = root / "tollgate.toml"
    if file.exists():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from error
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"{file}: unknown setting {unknown[0]!r}; `tollgate config` lists them")
    for name in known:
        if (text := env.get(ENV_PREFIX + name.upper())) is not None:
            values[name] = text
    values.update(overrides)
    values["home"] = root
    for name, value in values.items():
        default = known[name].default
        try:
            if isinstance(default, int) and not isinstance(value, int):
                values[name] = int(value)
            elif isinstance(default, float):
                values[name] = float(value)
        except ValueError as error:
            kind = "whole number" if isinstance(default, int) else "number"
            raise ConfigError(f"{name} must be a {kind}, not {value!r}") from error
    return Config(**values)
