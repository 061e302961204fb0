"""The authorization server: issue, revoke, introspect. Values in, values out; HTTP is in http.py.

Order of a token request, and what is left behind where it ends:

1. the form; the client's keys are read; the assertion's signature and claims are checked (nothing is stored);
2. the proof's signature and claims, then its nonce (nothing is stored, so the same assertion may come again);
3. one statement spends both identifiers and says whether the client may ask at all (dying here: both are spent);
4. agreement, scope and details are decided on; a refusal from here on is an entry of the access log;
5. the token's entry is durable in the log (dying here: an entry of a token nobody got);
6. only then is the token returned.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keys.errors import KeysError
from proxy import metrics
from proxy.config import Config
from proxy.ledger.model import JSON, Entry, Kind, LedgerUnavailable, Tag
from proxy.ledger.service import Ledger
from proxy.oauth import assertion, details, dpop, tokens
from proxy.oauth.admission import LOST, Admission, Admissions, Use
from proxy.oauth.assertion import ASSERTION_TYPE, Proven
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.dpop import Proof
from proxy.oauth.errors import Refused, TokenError, invalid_client, invalid_request, unavailable
from proxy.oauth.nonces import Nonces
from proxy.oauth.signing import TokenKeys
from proxy.oauth.staffexchange import GRANT_TYPE as EXCHANGE
from proxy.oauth.staffexchange import StaffExchange
from proxy.oauth.tokens import Claims, Reader

_SHOWN_MAX = 2000
"""Most characters of a refused parameter that the log keeps."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client, and what the database said of its request."""

    proven: Proven
    proof: Proof | None
    admission: Admission
    address: str

    @property
    def client_id(self) -> str:
        """The client."""
        return self.proven.client_id


class TokenService:
    """Issues, revokes and introspects access tokens.

    Args:
        config: issuer, token_ttl_s, clock_skew_s.
        admissions: the database.
        clock: its time.
        nonces: DPoP nonces.
        signing: the token signing keys.
        ledger: the access log.
        staff: answers token exchanges of staff; None: nobody signs in here.
    """

    def __init__(
        self,
        config: Config,
        admissions: Admissions,
        clock: DatabaseClock,
        nonces: Nonces,
        signing: TokenKeys,
        ledger: Ledger,
        staff: StaffExchange | None = None,
    ) -> None:
        self._config = config
        self._admissions = admissions
        self._clock = clock
        self._nonces = nonces
        self._signing = signing
        self._ledger = ledger
        self._staff = staff
        self._reader = Reader(config.issuer)

    async def issue(self, form: Mapping[str, str], proofs: Sequence[str], url: str, address: str) -> dict[str, Any]:
        """Answer a token request (RFC 6749 section 4.4, RFC 8693 section 2).

        Args:
            form: the parameters.
            proofs: the values of the DPoP headers; there must be one.
            url: the endpoint's URL as the issuer makes it known.
            address: the peer's address.

        Returns:
            The members of the answer (RFC 6749 section 5.1, RFC 8693 section 2.2.1, RFC 9396 section 7).

        Raises:
            TokenError: whatever else the answer is.
        """
        if "grant_type" not in form:
            raise invalid_request("grant_type is missing", "request.missing")
        if form["grant_type"] == EXCHANGE and self._staff is not None:
            return await self._staff.exchange(form, self._proof(proofs, url), address)
        if form["grant_type"] != "client_credentials":
            raise TokenError(400, "unsupported_grant_type", "no such grant is given here", "request.grant_type")
        caller = await self._authenticate(form, address, (proofs, url))
        assert caller.proof is not None
        try:
            claims = self._decide(form, caller, caller.proof)
        except TokenError as refusal:
            await self._enter(self._refusal(form, caller, refusal))
            refusal.entered = True
            raise
        try:
            token = tokens.write(claims, self._config.issuer, await self._signing.current())
        except (KeysError, OSError) as error:
            raise unavailable("unavailable.keys") from error
        await self._enter(self._issued(form, caller, claims))
        metrics.TOKENS.labels(client=caller.client_id).inc()
        return {
            "access_token": token,
            "token_type": "DPoP",
            "expires_in": max(1, int(claims.expires - caller.admission.now)),
            "scope": details.SCOPE,
            "authorization_details": claims.details.as_json(),
        }

    async def revoke(self, form: Mapping[str, str], address: str) -> None:
        """Revoke a token of the caller's own (RFC 7009); any other text is no error and changes nothing.

        Raises:
            TokenError: if the client is not authenticated, ``token`` is missing, or a part is not available.
        """
        caller, token = await self._about_token(form, address)
        if token is None or token.client_id != caller.client_id:
            return
        try:
            # Dead first, then entered: dying in between leaves a dead token, and the client, unanswered, asks again.
            await self._admissions.revoke(token)
        except LOST as error:
            raise unavailable("unavailable.database") from error
        actor: dict[str, JSON] = {"client_id": caller.client_id, "address": address}
        await self._enter(
            Entry(
                Kind.TOKEN_REVOKED,
                actor={**actor, "key_thumbprint": caller.proven.key.thumbprint},
                request={"token_id": token.token_id},
                tags=(*_tags(caller), Tag("token", token.token_id.encode())),
            )
        )

    async def introspect(self, form: Mapping[str, str], address: str) -> dict[str, Any]:
        """Say what a token of the caller's own is good for (RFC 7662); of any other exactly ``{"active": false}``.

        Raises:
            TokenError: as `revoke`.
        """
        caller, token = await self._about_token(form, address)
        if token is None or token.client_id != caller.client_id:
            return {"active": False}
        try:
            held = (token.client_id, token.client_key, token.hash, token.expires_at, token.agreement)
            if not await self._admissions.live(*held):
                return {"active": False}
        except LOST as error:
            raise unavailable("unavailable.database") from error
        return {
            "active": True,
            "scope": details.SCOPE,
            "client_id": token.client_id,
            "token_type": "DPoP",
            "exp": token.expires,
            "iat": token.issued,
            "sub": token.client_id,
            "aud": self._config.issuer,
            "iss": self._config.issuer,
            "jti": token.token_id,
            "cnf": {"jkt": token.jkt},
            "authorization_details": token.details.as_json(),
        }

    async def _about_token(self, form: Mapping[str, str], address: str) -> tuple[Caller, Claims | None]:
        caller = await self._authenticate(form, address, None)
        if "token" not in form:
            raise invalid_request("token is missing", "request.missing")
        try:
            now, skew = caller.admission.now, self._config.clock_skew_s
            return caller, await self._signing.read(self._reader, form["token"], now=now, skew=skew)
        except (KeysError, OSError) as error:
            raise unavailable("unavailable.keys") from error
        except Refused:
            return caller, None

    async def _authenticate(
        self, form: Mapping[str, str], address: str, proving: tuple[Sequence[str], str] | None
    ) -> Caller:
        """Authenticate the client and spend its identifiers; where ``proving`` is given, check its DPoP proof too."""
        try:
            proven = await self._prove(form)
        except Refused as refused:
            raise invalid_client(refused.reason) from refused
        except LOST as error:
            raise unavailable("unavailable.database") from error
        proof, broken = None, None
        if proving is not None:
            try:
                proof = self._proof(*proving)
            except TokenError as error:
                if error.error == "use_dpop_nonce":
                    raise
                broken = error  # the assertion is spent all the same, so that it cannot be played again and again
        uses = [Use(proven.use, proven.expires)]
        if proof is not None:
            uses.append(Use(proof.use, proof.expires))
        try:
            admission = await self._admissions.admit(proven.client_id, proven.key.thumbprint, address, uses)
        except LOST as error:
            raise unavailable("unavailable.database") from error
        if not admission.enabled:
            raise invalid_client("client.disabled")
        if not admission.inside:
            raise invalid_client("client.network")
        if proven.use not in admission.kept:
            raise invalid_client("client.replay")
        if proof is not None and proof.use not in admission.kept:
            broken = _invalid_proof("proof.replay")
        caller = Caller(proven, proof, admission, address)
        if admission.over:
            wait = {"Retry-After": str(admission.retry_after)}
            raise TokenError(429, "temporarily_unavailable", "too many requests", "rate.exceeded", wait)
        if broken is not None:
            await self._enter(self._refusal(form, caller, broken))
            broken.entered = True
            raise broken
        return caller

    async def _prove(self, form: Mapping[str, str]) -> Proven:
        """Check the client's assertion.

        Raises:
            Refused: client.* or assertion.*.
            LOST: if the database is away.
        """
        if "client_secret" in form:
            raise Refused("client.secret")
        if form.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in form:
            raise Refused("client.assertion_missing")
        compact = assertion.read(form["client_assertion"])
        keys = await self._admissions.client_keys(assertion.claimed_client(compact))
        return assertion.check(
            compact,
            keys,
            issuer=self._config.issuer,
            now=self._clock.now(),
            skew=self._config.clock_skew_s,
            client_id=form.get("client_id"),
        )

    def _proof(self, proofs: Sequence[str], url: str) -> Proof:
        if len(proofs) != 1:
            raise _invalid_proof("proof.duplicate" if proofs else "proof.missing")
        now = self._clock.now()
        try:
            proof = dpop.check(proofs[0], method="POST", url=url, now=now, skew=self._config.clock_skew_s)
        except Refused as refused:
            raise _invalid_proof(refused.reason) from refused
        if not self._nonces.good(proof.nonce, now):
            raise TokenError(400, "use_dpop_nonce", "a proof needs the nonce of the DPoP-Nonce header", "proof.nonce")
        return proof

    def _decide(self, form: Mapping[str, str], caller: Caller, proof: Proof) -> Claims:
        """Decide what the client gets.

        Without agreement it is ``unauthorized_client`` (RFC 6749 section 5.2): the client is authenticated and may not
        use this grant; ``invalid_grant`` would speak of an authorization that it presented, and there is none here.

        Raises:
            TokenError: unauthorized_client, invalid_scope, invalid_target or invalid_authorization_details.
        """
        admission = caller.admission
        if admission.agreement is None:
            raise TokenError(400, "unauthorized_client", "no agreement is in force", "agreement.absent")
        owned = {item.ocn for item in admission.ownership}
        if not owned:
            raise TokenError(400, "unauthorized_client", "the carrier has no OCN today", "ocn.none")
        if form.get("scope", details.SCOPE) != details.SCOPE:
            raise TokenError(400, "invalid_scope", "the scope is not cdr.billing", "scope.unknown")
        if form.get("resource", self._config.issuer) != self._config.issuer:
            raise TokenError(400, "invalid_target", "the resource is not this issuer", "request.resource")
        try:
            text = form.get("authorization_details")
            granted = details.narrow(details.Wanted() if text is None else details.read(text), owned)
        except Refused as refused:
            raise TokenError(
                400,
                "invalid_authorization_details",
                "unknown, malformed, or more than the client may have",
                refused.reason,
            ) from refused
        issued = int(admission.now)
        return Claims(
            client_id=caller.client_id,
            token_id=secrets.token_urlsafe(24),
            jkt=proof.jkt,
            client_key=caller.proven.key.thumbprint,
            agreement=admission.agreement,
            details=granted,
            issued=issued,
            expires=tokens.expiry(issued, self._config.token_ttl_s, admission.agreement_end),
        )

    def _issued(self, form: Mapping[str, str], caller: Caller, claims: Claims) -> Entry:
        return Entry(
            Kind.TOKEN_ISSUED,
            actor={**_actor(caller), "token_id": claims.token_id},
            request=_request(form),
            outcome={
                "authorization_details": claims.details.as_json(),
                "agreement": claims.agreement,
                "expires": claims.expires,
                "client_key": claims.client_key,
            },
            tags=(*_tags(caller), Tag("token", claims.token_id.encode())),
        )

    def _refusal(self, form: Mapping[str, str], caller: Caller, refusal: TokenError) -> Entry:
        return Entry(
            Kind.TOKEN_REFUSED,
            actor=_actor(caller),
            request=_request(form),
            outcome={"error": refusal.error, "reason": refusal.reason},
            tags=_tags(caller),
        )

    async def _enter(self, entry: Entry) -> None:
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable as error:
            raise unavailable("unavailable.log") from error


def _invalid_proof(reason: str) -> TokenError:
    return TokenError(400, "invalid_dpop_proof", "the DPoP proof is missing or not good", reason)


def _actor(caller: Caller) -> dict[str, JSON]:
    actor: dict[str, JSON] = {"client_id": caller.client_id, "address": caller.address}
    if caller.proof is not None:
        actor["key_thumbprint"] = caller.proof.jkt
    return actor


def _request(form: Mapping[str, str]) -> dict[str, JSON]:
    """Return what was asked, as text and cut to size: it is the caller's own writing."""
    return {name: form[name][:_SHOWN_MAX] for name in ("scope", "resource", "authorization_details") if name in form}


def _tags(caller: Caller) -> tuple[Tag, ...]:
    tags = [Tag("client", caller.client_id.encode()), Tag("address", caller.address.encode())]
    if caller.proof is not None:
        tags.append(Tag("jkt", caller.proof.jkt.encode()))
    return tuple(tags)
