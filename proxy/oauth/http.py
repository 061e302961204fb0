"""The routes of the authorization server (RFC 6749, 7009, 7662, 8414), and their composition."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
from aiohttp import web

from keys.errors import KeysError
from keys.provider import Provider
from keys.signing import SigningKeys
from proxy import metrics
from proxy.config import Config, ConfigError
from proxy.ledger.service import Ledger
from proxy.oauth import details, form, peer, stafftokens
from proxy.oauth.admission import LOST, Admissions
from proxy.oauth.clock import DatabaseClock
from proxy.oauth.errors import Refused, TokenError, invalid_client, invalid_request, unavailable
from proxy.oauth.guard import Guard
from proxy.oauth.nonces import Nonces
from proxy.oauth.presented import NONCE, Presentations
from proxy.oauth.service import TokenService
from proxy.oauth.signing import TokenKeys
from proxy.oauth.staffadmission import StaffAdmissions
from proxy.oauth.staffexchange import GRANT_TYPE as EXCHANGE
from proxy.oauth.staffexchange import StaffExchange
from proxy.oauth.staffguard import StaffGuard
from proxy.oauth.staffprovider import OpenIdProvider
from proxy.registry.jwk import ALGORITHMS

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
REVOKE_PATH = "/oauth/revoke"
INTROSPECT_PATH = "/oauth/introspect"
JWKS_PATH = "/.well-known/jwks.json"
METADATA_PATH = "/.well-known/oauth-authorization-server"

BODY_S = 10.0
"""How long a request's body may take to arrive, seconds."""

_ROUND_S = 3600
_SKEW_MAX_S = 59  # FAPI 2.0 section 5.3.2.1: 60 s ahead must be refused

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_PUBLIC = {"Cache-Control": "public, max-age=300"}

_log = logging.getLogger("tollgate.oauth")

_Work = Callable[[Mapping[str, str], web.Request], Awaitable[Any]]


class _Endpoints:
    def __init__(
        self, config: Config, signing: TokenKeys, presentations: Presentations, refused: Callable[[str], None]
    ) -> None:
        self._config = config
        self._signing = signing
        self._presentations = presentations
        self._refused = refused
        self.service: TokenService | None = None
        self._metadata = metadata(config)

    async def token(self, request: web.Request) -> web.Response:
        async def work(parameters: Mapping[str, str], request: web.Request) -> dict[str, Any]:
            url = self._config.issuer + TOKEN_PATH
            proofs = request.headers.getall("DPoP", [])
            return await self._ready().issue(parameters, proofs, url, peer.address(request))

        return await self._answer(request, work, nonce=True)

    async def revoke(self, request: web.Request) -> web.Response:
        async def work(parameters: Mapping[str, str], request: web.Request) -> None:
            await self._ready().revoke(parameters, peer.address(request))

        return await self._answer(request, work)

    async def introspect(self, request: web.Request) -> web.Response:
        async def work(parameters: Mapping[str, str], request: web.Request) -> dict[str, Any]:
            return await self._ready().introspect(parameters, peer.address(request))

        return await self._answer(request, work)

    async def jwks(self, request: web.Request) -> web.Response:
        try:
            keys = await self._signing.published()
        except (KeysError, OSError):
            error = unavailable("unavailable.keys")
            return web.json_response({"error": error.error}, status=error.status, headers=error.headers)
        return web.json_response({"keys": keys}, headers=_PUBLIC)

    async def describe(self, request: web.Request) -> web.Response:
        return web.json_response(self._metadata, headers=_PUBLIC)

    def _ready(self) -> TokenService:
        if self.service is None:
            raise unavailable("unavailable.keys")
        return self.service

    async def _answer(self, request: web.Request, work: _Work, *, nonce: bool = False) -> web.Response:
        headers = dict(_NO_STORE)
        try:
            if nonce and self.service is not None:
                headers["DPoP-Nonce"] = self._presentations.nonce()
            result = await work(await _parameters(request), request)
        except TokenError as error:
            metrics.TOKEN_REFUSALS.labels(reason=error.reason).inc()
            self._refused_by(error)
            body = {"error": error.error, "error_description": error.description}
            response = web.json_response(body, status=error.status, headers={**headers, **error.headers})
            if error.reason == "request.timeout":
                response.force_close()  # what is still to come of the body would be taken for a request
            return response
        if result is None:
            return web.Response(headers=headers)
        return web.json_response(result, headers=headers)

    def _refused_by(self, error: TokenError) -> None:
        """Count what no entry of the log tells: refusals of callers who did not prove themselves, or too many."""
        if not error.entered and error.error != "use_dpop_nonce" and error.status != 503:
            self._refused(error.reason)


async def _parameters(request: web.Request) -> Mapping[str, str]:
    """Read the form (RFC 6749 section 3.2, A5).

    Raises:
        TokenError: 400 invalid_request; 408, where the body does not come in time; 401 invalid_client where other
            client authentication was tried.
    """
    if "?" in request.raw_path:
        raise invalid_request("nothing in the query", "request.query")
    if "Authorization" in request.headers:
        scheme = request.headers["Authorization"].partition(" ")[0].lower()
        challenge = {"WWW-Authenticate": 'Basic realm="tollgate"'} if scheme == "basic" else {}
        raise invalid_client("request.authorization", challenge)
    if "Content-Encoding" in request.headers:
        raise invalid_request("no content coding", "request.encoding")
    try:
        form.check_content_type(request.headers.getall("Content-Type", []))
        body = bytearray()
        # Not request.read(): the limit is ours whatever the application's is, and no more than that is held.
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_chunked(16_384):
                body += chunk
                if len(body) > form.BODY_MAX:
                    raise Refused("request.too_large")
        return form.parse(bytes(body))
    except TimeoutError as error:
        raise TokenError(408, "invalid_request", "the body came too slowly", "request.timeout") from error
    except Refused as refused:
        raise invalid_request("the body is not a form as expected", refused.reason) from refused


def metadata(config: Config) -> dict[str, Any]:
    """Return the authorization server's metadata (RFC 8414 section 2, RFC 9449 section 5.1, RFC 9396 section 10).

    Where staff sign in, ``tollgate_staff_sign_in`` (a member of ours) says at which provider, and as which client.
    """
    issuer, algorithms = config.issuer, list(ALGORITHMS)
    authentication = ["private_key_jwt"]
    described: dict[str, Any] = {
        "issuer": issuer,
        "token_endpoint": issuer + TOKEN_PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "revocation_endpoint": issuer + REVOKE_PATH,
        "introspection_endpoint": issuer + INTROSPECT_PATH,
        "scopes_supported": [details.SCOPE],
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": authentication,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_methods_supported": authentication,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_methods_supported": authentication,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "dpop_signing_alg_values_supported": algorithms,
        "authorization_details_types_supported": [details.TYPE],
    }
    if config.oidc_issuer:
        described["scopes_supported"] += [stafftokens.SCOPE]
        described["grant_types_supported"] += [EXCHANGE]
        # Whoever exchanges is a public client (RFC 7591 section 2); the ID token and the proof say who it is.
        described["token_endpoint_auth_methods_supported"] = [*authentication, "none"]
        described["authorization_details_types_supported"] += [stafftokens.TYPE]
        described["tollgate_staff_sign_in"] = {
            "issuer": config.oidc_issuer,
            "client_id": config.oidc_client_id,
            "scope": config.oidc_scope,
        }
    return described


def _check(config: Config) -> None:
    """Refuse settings under which tokens would not be what they say.

    Raises:
        ConfigError: names the setting.
    """
    parts = urlsplit(config.issuer)
    if (
        parts.scheme != "https"
        or not parts.hostname
        or config.issuer != f"https://{parts.netloc}"
        or "@" in parts.netloc
    ):
        raise ConfigError("issuer must be https://host or https://host:port, without a path or a slash at its end")
    if not 1 <= config.token_ttl_s <= 300:
        raise ConfigError("token_ttl_s must be 1 to 300")
    if not 0 <= config.clock_skew_s <= _SKEW_MAX_S:
        raise ConfigError(f"clock_skew_s must be 0 to {_SKEW_MAX_S}")


async def _rounds(admissions: Admissions) -> None:
    while True:
        await asyncio.sleep(_ROUND_S)
        try:
            await admissions.partitions()
        except LOST as error:
            # There are partitions for three days; a missing one is also made when it is first needed.
            _log.warning("partitions of used identifiers not made: %s", type(error).__name__)


class Guards(NamedTuple):
    """Who authenticates requests at the API."""

    peers: Guard
    """Carriers' clients."""
    staff: StaffGuard
    """Members of staff. Without an OpenID provider nobody has a token for it."""


def setup(
    app: web.Application,
    *,
    config: Config,
    pool: asyncpg.Pool,
    ledger: Ledger,
    signing: SigningKeys,
    provider: Provider,
    refused: Callable[[str], None] | None = None,
) -> Guards:
    """Add the authorization server's routes to ``app`` and return the guards of the API.

    Args:
        app: the application, not started yet. Answers to guarded requests get their DPoP-Nonce by a signal on it.
        config: issuer, token_ttl_s, clock_skew_s; the oidc_ settings where staff sign in.
        pool: connections of role OAUTH, open when ``app`` starts.
        ledger: the access log, started when ``app`` starts.
        signing: the keyring's signing keys.
        provider: holds the secret ``dpop_nonce``.
        refused: told the reason (of oauth.errors.REASONS) of every refusal that has no entry of its own, for
            RefusalSummary; None: they are only metrics.

    Raises:
        ConfigError: if the issuer, the tokens' lifetime, the clock skew or the OpenID provider is not one that can be.
    """
    _check(config)
    told = refused or (lambda reason: None)
    clock = DatabaseClock()
    admissions = Admissions(pool, clock)
    token_keys = TokenKeys(signing)
    presentations = Presentations(config, clock, token_keys)
    members = StaffAdmissions(admissions, clock, config.staff_requests_per_minute)
    guards = Guards(
        Guard(config, pool, admissions, presentations, ledger, told),
        StaffGuard(config, members, presentations, ledger, told),
    )
    oidc = OpenIdProvider(config) if config.oidc_issuer else None
    exchange = None if oidc is None else StaffExchange(config, oidc, members, clock, token_keys, ledger)
    endpoints = _Endpoints(config, token_keys, presentations, told)

    async def running(app: web.Application) -> AsyncIterator[None]:
        await admissions.synchronise()
        await admissions.partitions()
        await token_keys.current()  # makes the first key, on disk
        nonces = Nonces(await provider.secret("dpop_nonce"))
        presentations.use_nonces(nonces)
        if oidc is not None:
            await oidc.start()
        endpoints.service = TokenService(config, admissions, clock, nonces, token_keys, ledger, exchange)
        task = asyncio.create_task(_rounds(admissions), name="oauth partitions")
        yield
        endpoints.service = None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if oidc is not None:
            await oidc.close()

    async def put_nonce(request: web.Request, response: web.StreamResponse) -> None:
        if (nonce := request.get(NONCE)) is not None:
            response.headers["DPoP-Nonce"] = nonce

    app.cleanup_ctx.append(running)
    app.on_response_prepare.append(put_nonce)
    app.router.add_post(TOKEN_PATH, endpoints.token)
    app.router.add_post(REVOKE_PATH, endpoints.revoke)
    app.router.add_post(INTROSPECT_PATH, endpoints.introspect)
    app.router.add_get(JWKS_PATH, endpoints.jwks)
    app.router.add_get(METADATA_PATH, endpoints.describe)
    return guards
