"""Staff sign-in: the provider's ID token for a token of ours (RFC 8693), at the token endpoint.

Order of an exchange, and what is left behind where it ends:

1. the form and the DPoP proof (nothing is stored, so all may come again);
2. the provider's keys, the ID token's signature and claims, its nonce against the proof's key (nothing is stored);
3. one statement spends the proof and says who the person is here: from here on a refusal is an entry of the access log,
   and says why, because who asks has proven who they are;
4. the token's entry is durable in the log (dying here: an entry of a token nobody got);
5. only then is the token returned.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from keys.errors import KeysError
from proxy import metrics
from proxy.config import Config
from proxy.ledger.model import JSON, Entry, Kind, LedgerUnavailable, Tag
from proxy.ledger.service import Ledger
from proxy.oauth import staffid, stafftokens
from proxy.oauth.admission import LOST, Use
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.dpop import Proof
from proxy.oauth.errors import Refused, TokenError, invalid_request, unavailable
from proxy.oauth.signing import TokenKeys
from proxy.oauth.staffadmission import SAYS, StaffAdmission, StaffAdmissions
from proxy.oauth.staffid import Person
from proxy.oauth.staffprovider import OpenIdProvider, ProviderAway
from proxy.oauth.stafftokens import SCOPE, StaffClaims
from proxy.oauth.tokens import expiry
from proxy.staff.model import StaffRole

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - the name of a kind
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105

_ACTOR = ("actor_token", "actor_token_type")
_CLIENT = ("client_secret", "client_assertion", "client_assertion_type")


def group_roles(config: Config) -> dict[StaffRole, str]:
    """Return the provider's group for each role that has one."""
    groups = {role: str(getattr(config, f"oidc_group_{role.value}")) for role in StaffRole}
    return {role: group for role, group in groups.items() if group}


class StaffExchange:
    """Exchanges ID tokens for staff tokens.

    Args:
        config: issuer, token_ttl_s, clock_skew_s, staff_session_s and the oidc_ settings.
        provider: the OpenID provider.
        admissions: the database.
        clock: its time.
        signing: the token signing keys.
        ledger: the access log.
    """

    def __init__(
        self,
        config: Config,
        provider: OpenIdProvider,
        admissions: StaffAdmissions,
        clock: DatabaseClock,
        signing: TokenKeys,
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._provider = provider
        self._admissions = admissions
        self._clock = clock
        self._signing = signing
        self._ledger = ledger
        self._groups = group_roles(config)

    async def exchange(self, form: Mapping[str, str], proof: Proof, address: str) -> dict[str, Any]:
        """Answer a token exchange (RFC 8693 section 2).

        Args:
            form: the parameters.
            proof: the DPoP proof, checked but for its single use.
            address: the peer's address.

        Returns:
            The members of the answer (section 2.2.1, RFC 9396 section 7).

        Raises:
            TokenError: whatever else the answer is. A subject token that is not taken is ``invalid_request``, whatever
                the cause (section 2.2.2).
        """
        self._check_form(form)
        person = await self._person(form["subject_token"], proof)
        try:
            uses = [Use(proof.use, proof.expires)]
            admission = await self._admissions.signing_in(self._provider.issuer, person.subject, uses)
        except LOST as error:
            raise unavailable("unavailable.database") from error
        if proof.use not in admission.kept:
            # Counted, not entered: the ID token may come again, so whoever captured a request could fill the log.
            raise TokenError(400, "invalid_dpop_proof", "the DPoP proof is missing or not good", "proof.replay")
        if admission.over:
            wait = {"Retry-After": str(admission.retry_after)}
            raise TokenError(429, "temporarily_unavailable", "too many requests", "rate.exceeded", wait)
        try:
            claims = self._decide(form, person, proof, admission)
        except TokenError as refusal:
            await self._enter(self._refusal(form, person, proof, address, admission, refusal))
            refusal.entered = True
            raise
        try:
            token = stafftokens.write(claims, self._config.issuer, await self._signing.current())
        except (KeysError, OSError) as error:
            raise unavailable("unavailable.keys") from error
        await self._enter(_issued(form, claims, address))
        metrics.STAFF_TOKENS.inc()
        return {
            "access_token": token,
            "issued_token_type": ACCESS_TOKEN,
            "token_type": "DPoP",
            "expires_in": max(1, int(claims.expires - admission.now)),
            "scope": SCOPE,
            "authorization_details": claims.details,
        }

    def _check_form(self, form: Mapping[str, str]) -> None:
        if "subject_token" not in form:
            raise invalid_request("subject_token is missing", "subject.missing")
        if form.get("subject_token_type") != ID_TOKEN:
            raise invalid_request("subject_token_type must be that of an ID token", "subject.kind")
        if any(name in form for name in (*_ACTOR, *_CLIENT)):
            raise invalid_request("nobody acts for another, and no client authenticates", "request.exchange")
        if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise invalid_request("only an access token can be had", "request.exchange")
        if form.get("client_id", self._config.oidc_client_id) != self._config.oidc_client_id:
            raise invalid_request("client_id is not what Tollgate is called at the provider", "request.exchange")

    async def _person(self, text: str, proof: Proof) -> Person:
        """Check the ID token.

        Raises:
            TokenError: invalid_request, with one sentence for every cause; 503 where the provider is away.
        """
        try:
            compact = staffid.read(text, self._provider.algorithms)
            key = await self._provider.key_for(compact)
            if key is None:
                raise Refused("subject.key")
            return staffid.check(
                compact,
                key,
                issuer=self._provider.issuer,
                client_id=self._config.oidc_client_id,
                groups_claim=self._config.oidc_groups_claim,
                jkt=proof.jkt,
                now=self._clock.now(),
                skew=self._config.clock_skew_s,
                age_max=self._config.staff_session_s,
            )
        except ProviderAway as error:
            raise unavailable("unavailable.provider") from error
        except Refused as refused:
            raise invalid_request("the subject token is not taken", refused.reason) from refused

    def _decide(self, form: Mapping[str, str], person: Person, proof: Proof, admission: StaffAdmission) -> StaffClaims:
        """Decide in which roles the person may act: theirs here, of those the provider's groups allow, as far as asked.

        Raises:
            TokenError: invalid_request (RFC 8693 section 2.2.2: unacceptable by policy), invalid_scope, invalid_target
                or invalid_authorization_details.
        """
        if (reason := admission.refusal()) is not None:
            raise invalid_request(SAYS[reason], reason)
        if form.get("scope", SCOPE) != SCOPE:
            raise TokenError(400, "invalid_scope", "the scope is not staff", "scope.unknown")
        if any(form.get(name, self._config.issuer) != self._config.issuer for name in ("resource", "audience")):
            raise TokenError(400, "invalid_target", "the resource is not this issuer", "request.resource")
        allowed = {role for role, group in self._groups.items() if group in person.groups}
        if not allowed:
            raise invalid_request(SAYS["staff.group"], "staff.group")
        roles = admission.roles & allowed
        if not roles:
            raise invalid_request(SAYS["staff.role"], "staff.role")
        try:
            asked = stafftokens.wanted(form.get("authorization_details"))
        except Refused as refused:
            raise _details("unknown or malformed", refused.reason) from refused
        if asked is not None and not asked <= roles:
            raise _details(SAYS["staff.role"], "staff.role")
        assert admission.staff_id is not None
        issued = int(admission.now)
        return StaffClaims(
            staff_id=admission.staff_id,
            client_id=self._config.oidc_client_id,
            token_id=secrets.token_urlsafe(24),
            jkt=proof.jkt,
            roles=frozenset(roles if asked is None else asked),
            issued=issued,
            expires=expiry(issued, self._config.token_ttl_s, None),
        )

    def _refusal(
        self,
        form: Mapping[str, str],
        person: Person,
        proof: Proof,
        address: str,
        admission: StaffAdmission,
        refusal: TokenError,
    ) -> Entry:
        actor: dict[str, JSON] = {"address": address, "key_thumbprint": proof.jkt}
        tags = [Tag("address", address.encode()), Tag("jkt", proof.jkt.encode())]
        if admission.staff_id is None:
            # Somebody of the provider's who is nobody here: known by what the provider calls them.
            actor |= {"issuer": self._provider.issuer, "subject": person.subject}
        else:
            actor["staff"] = admission.staff_id
            tags.insert(0, Tag("staff", admission.staff_id.encode()))
        outcome: dict[str, JSON] = {"error": refusal.error, "reason": refusal.reason}
        return Entry(Kind.TOKEN_REFUSED, actor=actor, request=_request(form), outcome=outcome, tags=tuple(tags))

    async def _enter(self, entry: Entry) -> None:
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable as error:
            raise unavailable("unavailable.log") from error


def _issued(form: Mapping[str, str], claims: StaffClaims, address: str) -> Entry:
    tags = (
        Tag("staff", claims.staff_id.encode()),
        Tag("jkt", claims.jkt.encode()),
        Tag("token", claims.token_id.encode()),
        Tag("address", address.encode()),
    )
    return Entry(
        Kind.TOKEN_ISSUED,
        actor={
            "staff": claims.staff_id,
            "token_id": claims.token_id,
            "key_thumbprint": claims.jkt,
            "address": address,
        },
        request=_request(form),
        outcome={"authorization_details": claims.details, "expires": claims.expires},
        tags=tags,
    )


def _request(form: Mapping[str, str]) -> dict[str, JSON]:
    """Return what was asked, as text and cut to size; never the ID token."""
    shown = ("grant_type", "scope", "resource", "audience", "authorization_details")
    return {name: form[name][:2000] for name in shown if name in form}


def _details(description: str, reason: str) -> TokenError:
    return TokenError(400, "invalid_authorization_details", description, reason)
