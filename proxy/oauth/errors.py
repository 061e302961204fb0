"""What can go wrong, inside and at the edge.

Inside, a ``Refused`` carries only a *reason*: a short code of the bounded set below, safe as a metric label and for
the log, and never shown to the caller. At the edge it becomes a `TokenError` (RFC 6749 section 5.2: token, revocation
and introspection endpoints) or an `AuthError` (RFC 9449 section 7.1: the API).
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS = frozenset(
    {
        # the request itself
        "request.content_type",
        "request.encoding",
        "request.too_large",
        "request.timeout",
        "request.query",
        "request.form",
        "request.duplicate",
        "request.missing",
        "request.grant_type",
        "request.authorization",
        "request.resource",
        "request.exchange",
        # client authentication
        "client.secret",
        "client.assertion_missing",
        "client.unknown",
        "client.id",
        "client.disabled",
        "client.network",
        "client.replay",
        # compact JWS of any kind: prefix assertion., proof., token., subject. (a provider's ID token)
        *(
            f"{what}.{how}"
            for what in ("assertion", "proof", "token", "subject")
            for how in ("malformed", "header", "type", "alg", "key", "signature", "claims", "time")
        ),
        "proof.missing",
        "proof.duplicate",
        "proof.method",
        "proof.url",
        "proof.ath",
        "proof.nonce",
        "proof.replay",
        "token.missing",
        "token.duplicate",
        "token.scheme",
        "token.query",
        "token.binding",
        "token.revoked",
        "token.purpose",
        "subject.missing",
        "subject.kind",
        "subject.binding",
        # what a member of staff may have, who proved themselves
        "staff.unknown",
        "staff.suspended",
        "staff.training_never",
        "staff.training_overdue",
        "staff.group",
        "staff.role",
        # what an authenticated client may have
        "agreement.absent",
        "ocn.none",
        "scope.unknown",
        "details.invalid",
        "rate.exceeded",
        # ours
        "unavailable.log",
        "unavailable.database",
        "unavailable.keys",
        "unavailable.provider",
    }
)
"""Every reason there is: the metric's labels, and what RefusalSummary counts."""


class Refused(Exception):  # noqa: N818 - a decision
    """Something does not hold; ``reason`` is one of REASONS. Never shown to the caller as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TokenError(Exception):
    """An answer of the token, revocation or introspection endpoint (RFC 6749 section 5.2).

    Attributes:
        status: HTTP status.
        error: the registered code.
        description: a fixed sentence; nothing the caller wrote.
        reason: one of REASONS.
        headers: further headers of the answer.
        entered: whether an entry of the log tells of it; what none tells of is counted.
    """

    def __init__(
        self,
        status: int,
        error: str,
        description: str,
        reason: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error, reason)
        self.status = status
        self.error = error
        self.description = description
        self.reason = reason
        self.headers = dict(headers or {})
        self.entered = False


def invalid_request(description: str, reason: str) -> TokenError:
    """Return the refusal of a malformed request."""
    return TokenError(400, "invalid_request", description, reason)


def invalid_client(reason: str, headers: Mapping[str, str] | None = None) -> TokenError:
    """Return the one answer to every failed client authentication: it tells unknown from wrong to nobody."""
    return TokenError(401, "invalid_client", "client authentication failed", reason, headers)


def unavailable(reason: str) -> TokenError:
    """Return the refusal when the log, the database or the keys are not there: nothing was issued."""
    return TokenError(503, "temporarily_unavailable", "try again shortly", reason, {"Retry-After": "1"})


class AuthError(Exception):
    """The guard of the API refuses a request (RFC 9449 section 7.1, RFC 6750 section 3.1).

    Attributes:
        status: 400, 401, 429 or 503.
        error: the code for WWW-Authenticate; empty where no credentials were given.
        description: a fixed sentence; nothing the caller wrote.
        reason: one of REASONS; safe as a metric label.
        headers: further headers of the answer (DPoP-Nonce, Retry-After).
    """

    def __init__(
        self,
        status: int,
        error: str,
        description: str,
        reason: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error, reason)
        self.status = status
        self.error = error
        self.description = description
        self.reason = reason
        self.headers = dict(headers or {})

    def challenge(self) -> str:
        """Return the value of WWW-Authenticate."""
        parts = ['DPoP realm="tollgate"']
        if self.error:
            parts += [f'error="{self.error}"', f'error_description="{self.description}"']
        return ", ".join([*parts, 'algs="ES256 EdDSA PS256"'])
