"""Metrics, liveness, readiness, logs and TLS of a running gateway; and what it refuses to start on."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from keys.errors import KeyUnavailable
from keys.file_provider import FileProvider
from keys.provider import Period
from proxy import logs
from proxy.app import KEY_CLASSES, Gateway, build
from proxy.cli import tls
from proxy.config import ConfigError
from tests.conftest import Database
from tests.support.gate import QUESTION, Gate, calls, gate


@pytest.fixture
async def world(database: Database) -> AsyncIterator[Gate]:
    async with gate(database) as running:
        yield running


async def _samples(world: Gate) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with world.http.get(world.gateway.metrics_url + "/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def _ready(world: Gate) -> tuple[int, dict[str, str]]:
    async with world.http.get(world.gateway.metrics_url + "/readyz") as response:
        body = await response.json()
        assert body["ready"] == (response.status == 200)
        return response.status, body["checks"]


async def test_what_was_disclosed_shows_in_the_metrics(world: Gate) -> None:
    await world.ingest(calls(30, "123A", "456B"))
    before = await _samples(world)
    peer = await world.peer()
    answer = await world.ask(peer, "GET", QUESTION)
    await world.ask(peer, "GET", QUESTION + "&direction=sideways")
    await world.ask(peer, "GET", "/nowhere/+12025550100")
    after = await _samples(world)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0.0) - before.get(key, 0.0)

    own = {"purpose": "billing", "client": peer.client_id}
    assert grown("tollgate_disclosed_rows_total", **own) == 30
    assert grown("tollgate_disclosed_bytes_total", **own) == len(answer.body)
    assert grown("tollgate_disclosed_class_rows_total", **{"purpose": "billing", "class": "parties"}) == 30
    assert grown("tollgate_decisions_total", purpose="billing", decision="permit", reason="") == 1
    assert grown("tollgate_http_requests_total", route="/v1/cdrs", method="GET", status="200") == 1
    assert grown("tollgate_http_requests_total", route="/v1/cdrs", method="GET", status="400") == 1
    assert grown("tollgate_http_requests_total", route="none", method="GET", status="404") == 1
    assert after[("tollgate_open_streams", ())] == 0
    assert "5550100" not in str(after)


async def test_calls_to_the_keyring_are_counted(world: Gate) -> None:
    samples = await _samples(world)
    assert samples[("tollgate_key_operations_total", (("operation", "secret"), ("outcome", "ok")))] >= 2
    names = {labels for name, labels in samples if name == "tollgate_key_operations_total"}
    assert {dict(n)["operation"] for n in names} <= {"wrap", "unwrap", "secret", "destroy", "rotate"}


async def test_a_gateway_opens_no_key_that_no_purpose_reaches(world: Gate) -> None:
    provider = world.gateway.provider
    assert provider is not None
    own = FileProvider(world.config.keyring_dir)
    for name in ("location", "subscriber", "device", "source", "fingerprints"):
        period = Period(name, 202610)
        wrapped = await own.wrap(period, bytes(32))
        with pytest.raises(KeyUnavailable):
            await provider.unwrap_many([(period, wrapped)])
        with pytest.raises(KeyUnavailable):
            await provider.wrap(period, bytes(32))
    classes = {"timing", "parties", "routing", "ingress_leg", "egress_leg", "tags"}
    assert classes | {"log_actor", "log_request", "log_outcome", "log_records", "log_tags"} == KEY_CLASSES


async def test_counts_of_the_database_are_shown(world: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await _samples(world)
    report = await world.ingest(calls(30, "123A", "456B"), rolled=False)
    assert report.stored == 30
    assert world.gateway.refresher is not None
    await world.gateway.refresher.refresh()
    await world.gateway.refresher.refresh()
    after = await _samples(world)
    key = ("tollgate_ingest_lines_total", (("outcome", "stored"), ("profile", "tollgate")))
    assert after[key] - before.get(key, 0.0) == 30
    assert after[("tollgate_staged_rows", ())] == 30
    assert after[("tollgate_log_entries", ())] >= 1


async def test_ready_says_which_part_is_away_and_never_why(world: Gate, owner: asyncpg.Connection) -> None:
    status, checks = await _ready(world)
    assert status == 200
    assert {"database_billing", "database_log", "database_oauth", "keyring", "log", "migrations"} <= set(checks)
    await owner.execute("ALTER TABLE tollgate.log_head RENAME TO log_head_gone")
    assert await _ready(world) == (503, checks | {"log": "failed"})
    await owner.execute("ALTER TABLE tollgate.log_head_gone RENAME TO log_head")
    await owner.execute("DELETE FROM tollgate.migration WHERE number = 1")
    assert await _ready(world) == (503, checks | {"migrations": "failed"})
    async with world.http.get(world.gateway.metrics_url + "/livez") as response:
        assert response.status == 200


async def test_the_two_listeners_keep_to_themselves(world: Gate) -> None:
    for url in (world.gateway.url + "/metrics", world.gateway.url + "/readyz", world.gateway.metrics_url + "/v1/cdrs"):
        async with world.http.get(url) as response:
            assert response.status == 404


async def test_logs_hold_no_number_token_query_or_body(world: Gate) -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(handler)
    old = logging.getLogger("tollgate").level
    logging.getLogger("tollgate").setLevel(logging.DEBUG)
    try:
        await world.ingest(calls(5, "123A", "456B"))
        peer = await world.peer()
        await world.ask(peer, "GET", QUESTION + "&limit=2")
        await world.search(peer, "+12025550155")
        await world.ask(peer, "GET", "/v1/cdrs?from=+12025550155")
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        writer.write(b"GET / HTTP/1.1\r\nBad Header: +12025550155\r\n\r\n")
        await reader.read()
        writer.close()
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("tollgate").setLevel(old)
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "http.request"]
    assert {"/v1/cdrs", "/v1/cdrs/search", "/oauth/token"} <= {line["route"] for line in requests}
    assert any(line.get("client_id") == peer.client_id and line.get("access_id") for line in requests)
    for secret in ("5550155", "from=", "2026-10-01", *world.tokens.values(), "DPoP"):
        assert secret not in text


def test_a_log_line_never_quotes_what_it_was_not_given() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    log, foreign = logs.get("test"), logging.getLogger("somebody.else")
    for logger in (log, foreign):
        logger.addHandler(handler)
    try:
        try:
            raise ValueError("+12025550155")
        except ValueError as error:
            logs.event(log, logging.ERROR, "test.failed", error, rows=3, event="mine", absent=None)
        foreign.error("called %s", "+12025550155")
        foreign.error(f"called {'+12025550155'}")
    finally:
        for logger in (log, foreign):
            logger.removeHandler(handler)
    text = stream.getvalue()
    assert "5550155" not in text
    first = json.loads(text.splitlines()[0])
    assert (first["event"], first["rows"], first["error"]) == ("test.failed", 3, "ValueError")
    assert first["trace"][0].startswith("test_api_health.py:")
    assert "absent" not in first


async def test_tls_is_1_2_at_least_and_carries_a_pull(database: Database) -> None:
    tls.make(database.config.home / "tls", "127.0.0.1", datetime.now(UTC))
    settings = {"tls_cert": "tls/server.pem", "tls_key": "tls/server.key"}
    trusted = ssl.create_default_context(cafile=str(database.config.home / "tls" / "ca.pem"))
    async with gate(database, **settings) as world:
        assert world.gateway.url.startswith("https://")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as http:
            world.http = http
            await world.ingest(calls(5, "123A", "456B"))
            peer = await world.peer()
            assert len(await world.pull(peer)) == 5
        old = ssl.create_default_context(cafile=str(database.config.home / "tls" / "ca.pem"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for ciphers, good in (("ECDHE+AESGCM", True), ("AES128-SHA:AES256-SHA:ECDHE-ECDSA-AES128-SHA", False)):
            old.set_ciphers(ciphers)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, ssl=old)
                writer.close()
                assert good
            except (ssl.SSLError, ConnectionError):
                assert not good


async def test_what_a_gateway_does_not_start_on(database: Database, owner: asyncpg.Connection) -> None:
    from keys.file_provider import FileProvider

    FileProvider.create(database.config.keyring_dir)
    good = replace(database.config, issuer="https://gate.example", tls_cert="")
    tls.make(database.config.home / "tls", "127.0.0.1", datetime.now(UTC))
    key = database.config.home / "tls" / "server.key"
    key.chmod(0o644)
    for change, words in (
        ({"listen_host": "0.0.0.0"}, "loopback"),
        ({"tls_cert": "tls/none.pem"}, "no such file"),
        ({"tls_cert": "tls/server.pem"}, "chmod 600"),
        ({"issuer": "http://gate.example"}, "issuer"),
        ({"token_ttl_s": 3600}, "token_ttl_s"),
        ({"metrics_host": "203.0.113.1"}, "cannot listen"),
    ):
        with pytest.raises(ConfigError, match=words):
            await (await build(replace(good, **change))).start()
    await owner.execute("DELETE FROM tollgate.migration WHERE number = 1")
    with pytest.raises(ConfigError, match="db migrate"):
        await build(good)
    assert (
        await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tollgate gateway%'"
            " AND datname = current_database()"
        )
        == 0
    ), "a gateway that did not start left connections behind"


async def test_two_gateways_share_cursors_and_tokens(world: Gate) -> None:
    await world.ingest(calls(10, "123A", "456B"))
    peer = await world.peer()
    first = await world.ask(peer, "GET", QUESTION + "&limit=4")
    other: Gateway = await build(world.config)
    await other.start()
    try:
        path = f"/v1/cdrs?cursor={first.headers['Next-Cursor']}"
        headers = await world.headers(peer, "GET", path)
        async with world.http.get(other.url + path, headers=headers) as response:
            assert response.status == 200
            assert len((await response.read()).splitlines()) == 6
    finally:
        await other.stop(0)
