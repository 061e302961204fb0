"""The composition root: configuration → pools → services → two listeners.

:func:`build` makes a :class:`Gateway`; ``start`` opens it in dependency order and refuses on the first part that is
not as it has to be, ``stop`` drains and closes in the reverse order. A gateway holds no state of its own: run as many
as are wanted on one database and one keyring.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pyarrow as pa
from aiohttp import web

from keys.datakeys import DataKeys
from keys.errors import KeysError
from keys.file_provider import FileProvider
from keys.notes import NoteError, check_name
from keys.signing import SigningKeys
from proxy import logs, metrics, officers, problems
from proxy.changes.http import ChangesApi
from proxy.changes.kinds import CARRIERS as CARRIER_KINDS
from proxy.changes.registryhttp import RegistryApi
from proxy.changes.service import Changes
from proxy.changes.staffkinds import STAFF as STAFF_KINDS
from proxy.config import Config, ConfigError
from proxy.disclosure.cursors import SECRET as CURSOR_SECRET
from proxy.disclosure.cursors import Sealer
from proxy.disclosure.http import ACCESS, BODY_MAX, CLIENT, Api
from proxy.disclosure.ports import Guard
from proxy.disclosure.reader import StoreReader
from proxy.disclosure.service import Disclosure, Settings
from proxy.forgetting import Forgetter
from proxy.health import Check, Health, Refresher
from proxy.ledger.batch import KEY_CLASSES as LOG_CLASSES
from proxy.ledger.checkpoints import default_origin
from proxy.ledger.http import LogFiles
from proxy.ledger.proving import Receipts
from proxy.ledger.published import Published
from proxy.ledger.publisher import LogKeys, Publisher
from proxy.ledger.service import Ledger, LedgerError, RefusalSummary
from proxy.ledger.witnesses import Witnesses, check_quorum, parse_witnesses
from proxy.ledger.witnesswatch import WitnessWatch
from proxy.legal.kinds import KINDS as LEGAL_KINDS
from proxy.oauth import http as oauth
from proxy.oauth.errors import REASONS, AuthError
from proxy.oauth.staffguard import STAFF
from proxy.peers import Peers
from proxy.policy.rules import BASES
from proxy.server import Listener, check_parser, hygiene, request_log, tls_context
from proxy.staff.http import StaffApi
from proxy.staff.service import Staff
from proxy.store.tags import KEY_CLASS as TAGS
from schema.migrate import pending
from schema.roles import Role

DRAIN_S = 20.0
"""How long open answers may go on when the gateway stops, seconds."""
POOL_SIZES = {Role.BILLING: 6, Role.LOG: 5, Role.OAUTH: 6, Role.OPERATOR: 2, Role.MONITOR: 2}
"""Most connections of each role."""
PUBLISHER_POOL = 4
"""Further ones of role LOG: the publisher's, the follower's, one for proofs to witnesses, one to watch them."""
AUDITOR_POOL = 2
"""And those that strangers' questions for tiles have to make do with."""
STATEMENT_S = 30
CONNECT_S = 10.0

_LOG = logs.get("app")
_INNER: Mapping[type[Exception], str] = {web.RequestPayloadError: "request"} | dict.fromkeys(
    (
        LedgerError,
        KeysError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        asyncpg.QueryCanceledError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
    ),
    "unavailable",
)
"""Inner errors that say that a body is malformed or a part is away, not that something is wrong here."""

KEY_CLASSES = frozenset({c.value for basis in BASES.values() for c in basis.classes} | {TAGS, *LOG_CLASSES})
"""The classes of keys that every gateway opens: those a purpose reaches, the search tags, the log's. Without the legal
desk, location, subscriber, device, source and fingerprints stay shut in this process, whatever it is brought to do."""


def application(
    issuer: str,
    disclosure: Disclosure,
    auth_error: type[Exception],
    authorization: Callable[[web.Application], Guard],
    log: LogFiles | None = None,
    receipts: Receipts | None = None,
) -> web.Application:
    """Return the public application: API, authorization server, log, problem pages, behind the common middlewares.

    Args:
        authorization: adds the authorization server's routes and returns the guard of the API.
        log: serves what auditors fetch.
        receipts: gives clients theirs.
    """

    def on_unknown(_: web.Request, error: Exception) -> None:
        logs.event(_LOG, logging.ERROR, "http.unexpected", error)

    app = web.Application(
        client_max_size=BODY_MAX,
        middlewares=[
            request_log(("client_id", CLIENT), ("staff", STAFF), ("access_id", ACCESS)),
            problems.middleware(issuer, _INNER, auth_error, on_unknown),
            hygiene,
        ],
    )
    Api(disclosure, authorization(app), receipts).setup(app)
    if log is not None:
        log.setup(app)
    app.router.add_get(problems.PATH + "{code}", problems.page, allow_head=False)
    return app


class Gateway:
    """A gateway: everything that runs in one process. Made by :func:`build`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = contextlib.AsyncExitStack()
        self._api: Listener | None = None
        self._operator: Listener | None = None
        self._health: Health | None = None
        self._disclosure: Disclosure | None = None
        self._app: web.Application | None = None
        self.refresher: Refresher | None = None
        self.provider: FileProvider | None = None
        self.keys: DataKeys | None = None

    def routes(self) -> list[web.AbstractRoute]:
        """Return the public routes."""
        return [] if self._app is None else list(self._app.router.routes())

    @property
    def port(self) -> int:
        """The port of the API."""
        assert self._api is not None
        return self._api.port

    @property
    def metrics_port(self) -> int:
        """The port of metrics and health."""
        assert self._operator is not None
        return self._operator.port

    @property
    def url(self) -> str:
        """Where the API listens. Clients use the issuer; this is for whoever is on the same machine."""
        scheme = "https" if self._config.tls_cert else "http"
        return f"{scheme}://{self._config.listen_host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where metrics and health are."""
        return f"http://{self._config.metrics_host}:{self.metrics_port}"

    async def start(self) -> None:
        """Open pools, services and listeners, in that order; what was opened is closed again where one fails.

        Raises:
            ConfigError: a setting, a file or the database's version is not as it has to be; says what to do.
            LedgerError: the log cannot be opened.
            KeysError: the keyring cannot be opened.
            OSError, asyncpg.PostgresError: the database cannot be reached.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        logs.event(_LOG, logging.INFO, "gateway.started", port=self.port, metrics_port=self.metrics_port)

    async def stop(self, grace_s: float = DRAIN_S) -> None:
        """Stop listening, let open answers end, cut what is left after ``grace_s`` seconds, close everything."""
        if self._health is not None:
            self._health.draining = True
        if self._api is not None:
            self._api.stop_listening()
        if self._disclosure is not None:
            await self._disclosure.close(grace_s)
        await self._stack.aclose()
        logs.event(_LOG, logging.INFO, "gateway.stopped")

    async def _start(self) -> None:
        config, stack = self._config, self._stack
        check_parser()
        # Arrow's own pool keeps what it once had: the system's gives a quarter of the peak back, at the same speed.
        pa.set_memory_pool(pa.system_memory_pool())
        tls = self._tls()
        classes = KEY_CLASSES
        if config.legal_desk:
            # Not at the top: what makes pages and looks into documents takes 40 MiB that no other gateway needs.
            from proxy import desk

            classes |= desk.KEY_CLASSES
        provider = self.provider = FileProvider(config.keyring_dir, classes, _observe)
        signing = SigningKeys(config.keyring_dir)
        keys = self.keys = DataKeys(provider)
        pools = {role: await stack.enter_async_context(_pool(config, role)) for role in POOL_SIZES}
        spending = await stack.enter_async_context(_pool(config, Role.OAUTH, synchronous_commit="off"))
        forgetter = Forgetter(pools[Role.BILLING], keys)
        await forgetter.start()
        stack.push_async_callback(forgetter.stop)
        # The log before anything that could disclose; it refuses a server that acknowledges what is not durable.
        ledger = Ledger(pools[Role.LOG], keys, config.log_group_max)
        await ledger.start()
        stack.push_async_callback(ledger.close)
        published = await self._publish(ledger, LogKeys(signing))
        strangers = await stack.enter_async_context(_pool(config, Role.LOG, AUDITOR_POOL))
        summary = RefusalSummary(ledger.append, REASONS)
        await summary.start()
        stack.push_async_callback(_close_summary, summary)

        executor = ThreadPoolExecutor(config.decode_threads, "decode")
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        self._disclosure = Disclosure(
            StoreReader(pools[Role.BILLING], keys, executor),
            ledger,
            Sealer(await provider.secret(CURSOR_SECRET)),
            await provider.secret("record_ids"),
            executor,
            Settings(config.max_rows_per_answer, config.progress_rows, config.stream_stall_s, config.streams_max),
        )

        log, receipts = LogFiles(published, strangers), Receipts(ledger, published, pools[Role.LOG])
        legal = None
        if config.legal_desk:
            ground = desk.Ground(config, provider, keys, signing, ledger, published, receipts)
            legal = await desk.open_desk(stack, ground, lambda role, most: _pool(config, role, most))

        reading = await officers.open_officers(
            stack, config, ledger, keys, LogKeys(signing), lambda role, most: _pool(config, role, most)
        )

        def authorization(app: web.Application) -> Peers:
            guards = oauth.setup(
                app,
                config=config,
                pool=pools[Role.OAUTH],
                ledger=ledger,
                signing=signing,
                provider=provider,
                refused=summary.count,
            )
            StaffApi(Staff(ledger), guards.staff, pools[Role.OPERATOR]).setup(app)
            RegistryApi(ledger, guards.staff, pools[Role.OPERATOR]).setup(app)
            changes = Changes(pools[Role.OPERATOR], ledger, (*CARRIER_KINDS, *STAFF_KINDS, *LEGAL_KINDS))
            ChangesApi(changes, guards.staff).setup(app)
            reading.setup(app, guards.staff)
            if legal is not None:
                legal.setup(app, guards.staff)
            return Peers(guards.peers, spending)

        app = self._app = application(config.issuer, self._disclosure, AuthError, authorization, log, receipts)
        self.refresher = Refresher(pools[Role.MONITOR])
        await self.refresher.start()
        stack.push_async_callback(self.refresher.stop)
        # Health first, so that an operator sees a gateway that is not ready; then the door is opened.
        self._health = Health(self._checks(pools, provider, ledger, published))
        self._operator = Listener(
            self._health.app(), config.metrics_host, config.metrics_port, config.issuer, name="operator"
        )
        stack.push_async_callback(self._operator.stop)
        await self._operator.start()
        self._api = Listener(
            app, config.listen_host, config.listen_port, config.issuer, tls, connections_max=config.connections_max
        )
        stack.push_async_callback(self._api.stop)
        await self._api.start()
        if legal is not None:
            legal.start()

    def _tls(self) -> ssl.SSLContext | None:
        config = self._config
        if config.tls_cert:
            return tls_context(config.path(config.tls_cert), config.path(config.tls_key))
        if not is_loopback(config.listen_host):
            raise ConfigError("without tls_cert the API listens on a loopback address only (behind a TLS proxy)")
        return None

    async def _publish(self, ledger: Ledger, keys: LogKeys) -> Published:
        """Hold the log against what was served of it, before anything can be appended; then follow and publish."""
        config, stack = self._config, self._stack
        pool = await stack.enter_async_context(_pool(config, Role.LOG, PUBLISHER_POOL))
        try:
            origin = check_name(config.log_origin or default_origin(config.issuer))
        except NoteError as error:
            raise ConfigError(f"log_origin: {error}") from error
        configured = parse_witnesses(config.log_witnesses)
        check_quorum(configured, config.log_witness_quorum, bool(config.log_witness_required))
        witnesses = Witnesses(configured)
        stack.push_async_callback(witnesses.close)
        published = Published(
            pool,
            keys,
            ledger,
            config.log_dir,
            origin,
            witnesses=witnesses.keys,
            quorum=config.log_witness_quorum,
        )
        await published.start()
        stack.push_async_callback(published.stop)
        watch = WitnessWatch(
            pool,
            ledger,
            lambda: 0 if published.served is None else published.served.size,
            [witness.name for witness in configured],
            required=bool(config.log_witness_required),
            max_age_s=config.log_witness_max_age_s,
        )
        await watch.start()
        stack.push_async_callback(watch.stop)
        publisher = Publisher(
            pool,
            keys,
            ledger.halt,
            config.log_publish_s,
            published=published.wake,
            witnesses=witnesses if configured else None,
        )
        if ledger.halted is None:
            await publisher.start()
            stack.push_async_callback(publisher.stop)
        return published

    def _checks(
        self, pools: Mapping[Role, asyncpg.Pool], provider: FileProvider, ledger: Ledger, published: Published
    ) -> dict[str, Check]:
        def reach(pool: asyncpg.Pool) -> Check:
            async def check() -> None:
                await pool.fetchval("SELECT 1")

            return check

        async def keyring() -> None:
            await provider.secret(CURSOR_SECRET)

        async def log() -> None:
            await ledger.size()

        async def witnessed() -> None:
            if reason := ledger.paused:
                raise LedgerError(f"the log is paused: {reason}")

        async def migrations() -> None:
            async with pools[Role.MONITOR].acquire() as conn:
                await _current(conn)

        checks = {f"database_{role.name.lower()}": reach(pool) for role, pool in pools.items()}
        return {
            **checks,
            "migrations": migrations,
            "keyring": keyring,
            "log": log,
            "log_published": published.check,
            "log_witnessed": witnessed,
        }


async def build(config: Config) -> Gateway:
    """Check the database's version and return a gateway that is not started yet.

    Raises:
        ConfigError: where migrations are missing.
        MigrationError: where the database is of a later version than this gateway, or was changed by hand.
    """
    conn = await asyncpg.connect(config.role_url(Role.MONITOR), timeout=CONNECT_S)
    try:
        await _current(conn)
    finally:
        await conn.close()
    return Gateway(config)


async def _current(conn: asyncpg.Connection) -> None:
    try:
        missing = await pending(conn)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError("the database is of an older version: run `tollgate db migrate`") from error
    if missing:
        raise ConfigError(f"the database lacks {len(missing)} migrations: run `tollgate db migrate`")


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _pool(config: Config, role: Role, most: int | None = None, **settings: str) -> asyncpg.Pool:
    return asyncpg.create_pool(
        config.role_url(role),
        min_size=1,
        max_size=most or POOL_SIZES[role],
        timeout=CONNECT_S,
        command_timeout=STATEMENT_S + 5,
        server_settings={
            "application_name": f"tollgate gateway {role.name.lower()}",
            "statement_timeout": str(STATEMENT_S * 1000),
            "idle_in_transaction_session_timeout": "10000",
            **settings,
        },
    )


def _observe(operation: str, outcome: str) -> None:
    metrics.KEY_OPERATIONS.labels(operation, outcome).inc()


async def _close_summary(summary: RefusalSummary) -> None:
    try:
        await summary.close()
    except LedgerError as error:
        logs.event(_LOG, logging.WARNING, "gateway.summary_unwritten", error)
