"""The OpenID provider's keys: fetched over verified TLS, bounded, and kept for a while.

Nothing of a token says where keys are fetched: the issuer is configured, its metadata (OpenID Connect Discovery,
section 4) must name that same issuer, and no redirect is followed. Whoever makes up a ``kid`` has the keys fetched anew
at most once in `AGAIN_S`; a provider that is away is lived without for `STALE_S`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from proxy.config import Config, ConfigError
from proxy.oauth import staffid
from proxy.oauth.jws import Compact, strict_object
from proxy.oauth.staffid import ProviderKeys
from proxy.registry.jwk import PublicKey

FRESH_S = 600.0
"""How old the keys may be before they are fetched again, seconds."""
STALE_S = 3600.0
"""How old where the provider does not answer; a key it has withdrawn is taken no longer than this."""
AGAIN_S = 30.0
"""How soon an unknown key, or a provider that was away, has it asked again, seconds."""
RETRY_S = 1.0
"""The same while none of its keys is known."""
ANSWER_MAX = 256 * 1024
"""Most bytes of one of its answers."""
TIMEOUT_S = 5.0

WELL_KNOWN = "/.well-known/openid-configuration"


class ProviderAway(Exception):  # noqa: N818 - what is so
    """The provider does not answer, or not as one does; the message names what, and no text of its own."""


def check_config(config: Config) -> tuple[str, ...]:
    """Check the settings of the provider; return the algorithms that are taken.

    Raises:
        ConfigError: names the setting.
    """
    parts = urlsplit(config.oidc_issuer)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError("oidc_issuer must be an https URL without query, as the provider's metadata writes it")
    if not config.oidc_client_id:
        raise ConfigError("oidc_issuer needs oidc_client_id: what Tollgate is called at that provider")
    algorithms = tuple(dict.fromkeys(config.oidc_algorithms.split()))
    if not algorithms or not set(algorithms) <= set(staffid.ALGORITHMS):
        raise ConfigError(f"oidc_algorithms must be some of {', '.join(staffid.ALGORITHMS)}")
    if not config.oidc_groups_claim:
        raise ConfigError("oidc_groups_claim must name a claim")
    if config.staff_session_s < 60 or config.staff_requests_per_minute < 1:
        raise ConfigError("staff_session_s must be at least 60, staff_requests_per_minute at least 1")
    return algorithms


class OpenIdProvider:
    """The provider that staff sign in at.

    Args:
        config: oidc_issuer, oidc_ca, oidc_algorithms.
        steady: a clock that never goes back, seconds.

    Raises:
        ConfigError: if a setting is not one that can be.
    """

    def __init__(self, config: Config, steady: Callable[[], float] = time.monotonic) -> None:
        self.algorithms = check_config(config)
        self.issuer = config.oidc_issuer
        self._steady = steady
        self._tls = tls(config.path(config.oidc_ca) if config.oidc_ca else None)
        self._http: aiohttp.ClientSession | None = None
        self._keys: ProviderKeys | None = None
        self._at = self._tried = -STALE_S - FRESH_S
        self._fetching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the client; nothing is fetched before it is needed."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=2),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "tollgate", "Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the client."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def key_for(self, compact: Compact) -> PublicKey | None:
        """Return the key that an ID token has to be signed with; None where the provider has none such.

        Raises:
            ProviderAway: where it does not answer, and its keys are not known or too old.
        """
        if self._steady() - self._at > FRESH_S:
            await self._fetch()
        if (keys := self._known()) is None:
            raise ProviderAway("the provider's keys are not known")
        if (key := keys.find(compact)) is None:
            await self._fetch()  # perhaps a key that is new
            key = (self._known() or keys).find(compact)
        return key

    def _known(self) -> ProviderKeys | None:
        return self._keys if self._steady() - self._at <= STALE_S else None

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was tried just now; all who wait share one fetch."""
        if self._fetching is None:
            if self._keys is not None and self._steady() - self._tried < AGAIN_S:
                return
            if self._steady() - self._tried < RETRY_S:
                return
            self._tried = self._steady()
            self._fetching = asyncio.create_task(self._fetched(), name="openid provider's keys")
            self._fetching.add_done_callback(self._done)
        # A request that goes away takes nothing from the others.
        await asyncio.shield(self._fetching)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # told to those who wait; where nobody does, the next tries again

    async def _fetched(self) -> None:
        """Fetch metadata and keys; where that fails, what was known stays."""
        at = self._steady()
        try:
            metadata = await self._get(self.issuer.rstrip("/") + WELL_KNOWN)
            if metadata.get("issuer") != self.issuer:
                raise ProviderAway("its metadata names another issuer")
            place = metadata.get("jwks_uri")
            if not isinstance(place, str) or urlsplit(place).scheme != "https":
                raise ProviderAway("its metadata names no https jwks_uri")
            listed = (await self._get(place)).get("keys")
            if not isinstance(listed, list):
                raise ProviderAway("its keys are no JWK Set")
        except (ProviderAway, aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return
        # Parsed off the loop: dozens of RSA keys are milliseconds each.
        self._keys = await asyncio.to_thread(ProviderKeys, listed, self.algorithms)
        self._at = at

    async def _get(self, url: str) -> dict[str, Any]:
        if self._http is None:
            raise ProviderAway("not started")
        async with self._http.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ProviderAway("it answers with another status than 200")
            data = bytearray()
            async for piece in response.content.iter_chunked(16_384):
                data += piece
                if len(data) > ANSWER_MAX:
                    raise ProviderAway("its answer is too large")
        return strict_object(bytes(data).decode("utf-8"))


def tls(ca: Path | None) -> ssl.SSLContext:
    """Return the TLS settings for a provider.

    Raises:
        ConfigError: if ``ca`` is no file of certificates.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"oidc_ca: {ca} is no file of certificates in PEM") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
