"""The API over real sockets and a real log: what it refuses, how it says so, and what is on record by then."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import zstandard
from aiohttp import web

from proxy.ledger.model import Kind
from proxy.ledger.service import Ledger
from proxy.server import Listener
from tests.conftest import Database
from tests.support.api import FakeGrant, FakeGuard, FakeReader, Served, ids_of, serving
from tests.support.ledger import open_ledger

QUESTION = "/v1/cdrs?from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z"
SEARCH = {"number": "+12025550100", "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
CSV = {"Accept": "text/csv"}


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with open_ledger(database.config) as log:
        yield log


@pytest.fixture
async def served(ledger: Ledger) -> AsyncIterator[Served]:
    guard = FakeGuard({"a": FakeGrant(), "b": FakeGrant(client_id="billing-b", carrier_id="carrier-b")})
    async with serving(ledger, FakeReader(95), guard) as running:
        yield running


async def _entries(ledger: Ledger) -> list[Any]:
    return await ledger.read()


async def test_a_pull_is_on_record_from_intent_to_outcome(served: Served, ledger: Ledger) -> None:
    answer = await served.get(QUESTION, headers=CSV)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    intent, outcome = await _entries(ledger)
    assert (intent.kind, outcome.kind) == (Kind.ACCESS_INTENT, Kind.ACCESS_OUTCOME)
    assert str(intent.access_id) == str(outcome.access_id) == answer.headers["Access-Id"]
    assert intent.actor == {
        "client_id": "billing-a",
        "carrier_id": "carrier-a",
        "token_id": "token-1",
        "key_thumbprint": "thumbprint-1",
        "address": "192.0.2.7",
    }
    assert intent.request["basis"] == "47 U.S.C. 222(d)(1)"
    assert intent.request["windows"] == [["123A", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"]]
    assert intent.records["as_of"] == "95"
    assert outcome.outcome["rows"] == 95
    assert outcome.outcome["bytes"] == len(answer.body)
    looked = await served.get(f"/v1/accesses/{answer.headers['Access-Id']}")
    assert (looked.json["state"], looked.json["rows"], looked.json["sha256"]) == (
        "complete", 95, outcome.outcome["sha256"]
    )  # fmt: skip
    assert (await _entries(ledger))[-1].kind is Kind.LOG_READ


BAD = [
    ("GET", "/v1/cdrs", {}, 400, "parameter", "from"),
    ("GET", QUESTION + "&limit=-1", {}, 400, "parameter", "limit"),
    ("GET", QUESTION + "&limit=1000000000000000000", {}, 400, "parameter", "limit"),
    ("GET", QUESTION + "&limit=1000001", {}, 400, "parameter", "limit"),
    ("GET", QUESTION + "&from=2026-10-01T00:00:00Z", {}, 400, "parameter", "from"),
    ("GET", QUESTION + "&access_token=x", {}, 400, "parameter", None),
    ("GET", QUESTION + "&number=%2B12025550100", {}, 400, "parameter", None),
    ("GET", QUESTION + "&egress_ocn=123A", {}, 400, "parameter", None),
    ("GET", QUESTION + "&%ff=1", {}, 400, "parameter", None),
    ("GET", "/v1/cdrs?from=2026-10-01T00:00:00+00:00&to=2026-11-01T00:00:00Z", {}, 400, "parameter", "from"),
    ("GET", "/v1/cdrs?from=2026-11-01T00:00:00Z&to=2026-10-01T00:00:00Z", {}, 400, "parameter", "to"),
    ("GET", "/v1/cdrs?from=2001-01-01T00:00:00Z&to=2100-01-01T00:00:00Z", {}, 400, "parameter", "to"),
    ("GET", QUESTION + "&received_after=AAAA", {}, 400, "parameter", "received_after"),
    ("GET", "/v1/cdrs?cursor=AAAA", {}, 400, "cursor", "cursor"),
    ("GET", QUESTION, {"headers": {"Accept": "text/html"}}, 406, "not_acceptable", None),
    ("GET", QUESTION, {"headers": {"Accept-Encoding": "identity;q=0"}}, 406, "not_acceptable", None),
    ("GET", QUESTION, {"data": b"x"}, 415, "media_type", None),
    ("HEAD", QUESTION, {}, 405, None, None),
    ("PUT", "/v1/cdrs", {}, 405, "method", None),
    ("GET", "/v1/cdrs/search", {}, 405, "method", None),
    ("GET", "/v2/cdrs", {}, 404, "not_found", None),
    ("GET", "/v1/accesses/1", {}, 404, "not_found", None),
    ("GET", "/v1/accesses/00000000-0000-0000-0000-000000000000", {}, 404, "not_found", None),
    ("POST", "/v1/cdrs/search", {"data": b"{}"}, 415, "media_type", None),
    ("POST", "/v1/cdrs/search", {"json": {}}, 400, "parameter", "number"),
    ("POST", "/v1/cdrs/search", {"json": SEARCH | {"number": "12025550100"}}, 400, "parameter", "number"),
    ("POST", "/v1/cdrs/search", {"json": SEARCH | {"x": 1}}, 400, "parameter", None),
    ("POST", "/v1/cdrs/search?limit=1", {"json": SEARCH}, 400, "parameter", None),
    ("POST", "/v1/cdrs/search", {"json": SEARCH | {"pad": "x" * 70_000}}, 413, "too_large", None),
    ("POST", "/v1/cdrs/search", {"data": {"a": "b"}}, 415, "media_type", None),
    (
        "POST",
        "/v1/cdrs/search",
        {"data": gzip.compress(b"{}"), "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"}},
        415,
        "media_type",
        None,
    ),
    (
        "POST",
        "/v1/cdrs/search",
        {"data": b"--x--", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        415,
        "media_type",
        None,
    ),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "code", "parameter"), BAD)
async def test_a_bad_request_is_a_problem_that_names_its_parameter(
    served: Served,
    ledger: Ledger,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
    code: str | None,
    parameter: str | None,
) -> None:
    answer = await served.ask(method, path, **options)
    assert answer.status == status
    if code is not None:
        assert answer.code == code
        assert answer.json.get("parameter") == parameter
    assert "read" not in served.reader.events
    assert not [e for e in await _entries(ledger) if e.kind is Kind.ACCESS_INTENT]


async def test_without_credentials_nothing_is_parsed_read_or_logged(served: Served, ledger: Ledger) -> None:
    for path in (QUESTION, "/v1/cdrs?from=nonsense", "/v1/accesses/1"):
        answer = await served.get(path, name="nobody")
        assert (answer.status, answer.code) == (401, "credentials")
        assert answer.headers["WWW-Authenticate"].startswith("DPoP ")
    assert await _entries(ledger) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "legal"}, "purpose.not_held"),
        ({"purpose": "marketing"}, "purpose.not_held"),
        ({"agreement": ""}, "agreement.absent"),
        ({"classes": frozenset({"timing", "location"})}, "class.location"),
        ({"ocns": ("9999",)}, "ocn.not_owned"),
        ({"window": (0, 1)}, "window.outside_grant"),
    ],
)
async def test_a_denial_is_on_record_before_it_is_answered(ledger: Ledger, change: dict[str, Any], reason: str) -> None:
    guard = FakeGuard({"a": dataclasses.replace(FakeGrant(), **change)})
    async with serving(ledger, FakeReader(5), guard) as served:
        answer = await served.get(QUESTION)
        assert (answer.status, answer.code, answer.json["reason"]) == (403, "denied", reason)
        (entry,) = await _entries(ledger)
        assert (entry.kind, entry.request["reason"]) == (Kind.ACCESS_DENIED, reason)
        assert str(entry.access_id) == answer.headers["Access-Id"]
        assert entry.request["citation"] == answer.json["citation"]
        assert served.reader.events == []
        looked = await served.get(f"/v1/accesses/{answer.headers['Access-Id']}")
        assert (looked.json["state"], looked.json["reason"]) == ("denied", reason)


async def test_if_the_log_cannot_be_written_nothing_is_read(served: Served, owner: asyncpg.Connection) -> None:
    await owner.execute("ALTER TABLE tollgate.log_head RENAME TO log_head_gone")
    for answer in (
        await served.get(QUESTION),
        await served.ask("POST", "/v1/cdrs/search", json=SEARCH),
        await served.get("/v1/accesses/00000000-0000-0000-0000-000000000000"),
    ):
        assert (answer.status, answer.code) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert b"log_head" not in answer.body
    assert "read" not in served.reader.events
    await owner.execute("ALTER TABLE tollgate.log_head_gone RENAME TO log_head")
    assert (await served.get(QUESTION)).status == 200


async def test_limits_and_cursors_walk_the_whole_answer_once(served: Served) -> None:
    rows: list[int] = []
    path: str | None = QUESTION + "&limit=20"
    accesses = 0
    while path:
        answer = await served.get(path, headers=CSV)
        assert answer.status == 200
        rows += ids_of(answer.body)
        accesses += 1
        cursor = answer.headers.get("Next-Cursor")
        looked = (await served.get(f"/v1/accesses/{answer.headers['Access-Id']}")).json
        assert (looked["state"] == "limited") == (cursor is not None)
        path = f"/v1/cdrs?cursor={looked['next_cursor']}&limit=20" if cursor else None
    assert rows == list(range(1, 96))
    assert accesses == 5


async def test_an_answer_holds_still_while_the_store_grows_and_what_is_late_comes_after(served: Served) -> None:
    first = await served.get(QUESTION + "&limit=50", headers=CSV)
    served.reader.rows = 120
    rest = await served.get(f"/v1/cdrs?cursor={first.headers['Next-Cursor']}", headers=CSV)
    assert ids_of(rest.body) == list(range(51, 96))
    assert "Next-Cursor" not in rest.headers
    late = await served.get(QUESTION + f"&received_after={rest.headers['Complete-To']}", headers=CSV)
    assert ids_of(late.body) == list(range(96, 121))
    none = await served.get(QUESTION + f"&received_after={late.headers['Complete-To']}", headers=CSV)
    assert ids_of(none.body) == []


async def test_cursors_and_marks_are_their_clients_own_and_their_questions_own(served: Served) -> None:
    mine = await served.get(QUESTION + "&limit=5")
    cursor, mark = mine.headers["Next-Cursor"], mine.headers["Complete-To"]
    swapped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for path, name in (
        (f"/v1/cdrs?cursor={cursor}", "b"),
        (f"/v1/cdrs?cursor={mark}", "a"),
        (f"/v1/cdrs?cursor={swapped}", "a"),
        (f"/v1/cdrs?cursor={cursor}x", "a"),
    ):
        answer = await served.get(path, name=name)
        assert (answer.status, answer.code, answer.json["parameter"]) == (400, "cursor", "cursor")
    answer = await served.get(QUESTION + f"&received_after={mark}", name="b")
    assert answer.json["parameter"] == "received_after"
    answer = await served.ask("POST", "/v1/cdrs/search", json={"cursor": cursor})
    assert answer.json["parameter"] == "cursor"
    found = await served.ask("POST", "/v1/cdrs/search", json=SEARCH | {"limit": 5})
    answer = await served.get(f"/v1/cdrs?cursor={found.headers['Next-Cursor']}")
    assert answer.json["parameter"] == "cursor"
    assert (await served.ask("POST", "/v1/cdrs/search", json={"cursor": found.headers["Next-Cursor"]})).status == 200


async def test_a_cursor_does_not_outlive_the_reach_it_was_made_under(served: Served) -> None:
    cursor = (await served.get(QUESTION + "&limit=5")).headers["Next-Cursor"]
    served.guard.grants["a"] = dataclasses.replace(FakeGrant(), classes=frozenset({"timing"}))
    answer = await served.get(f"/v1/cdrs?cursor={cursor}")
    assert (answer.status, answer.code) == (400, "cursor")


async def test_an_access_is_seen_by_its_own_client_only(served: Served) -> None:
    access_id = (await served.get(QUESTION)).headers["Access-Id"]
    assert (await served.get(f"/v1/accesses/{access_id}", name="b")).status == 404
    assert (await served.get(f"/v1/accesses/{access_id}", name="nobody")).status == 401
    assert (await served.get(f"/v1/accesses/{access_id.upper()}")).status in (404, 200)


async def test_codings_carry_the_same_bytes_and_the_digest_is_before_them(served: Served, ledger: Ledger) -> None:
    plain = await served.get(QUESTION, headers=CSV)
    packed = await served.get(QUESTION, headers=CSV | {"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    small = await served.get(QUESTION, headers=CSV | {"Accept-Encoding": "zstd, gzip"})
    assert small.headers["Content-Encoding"] == "zstd"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(small.body) == plain.body
    digests = {e.outcome["sha256"] for e in await _entries(ledger) if e.kind is Kind.ACCESS_OUTCOME}
    assert len(digests) == 1


async def test_a_search_is_tagged_and_its_number_stands_in_no_clear_column(
    served: Served, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    assert (await served.ask("POST", "/v1/cdrs/search", json=SEARCH)).status == 200
    intent = (await _entries(ledger))[0]
    assert (intent.request["action"], intent.request["number"]) == ("search", "+12025550100")
    for table in ("log_entry", "log_opening", "log_tag"):
        text = await owner.fetchval(f"SELECT string_agg(t::text, ' ') FROM tollgate.{table} t")
        assert "2025550100" not in text
        assert b"2025550100".hex() not in text


async def test_a_days_rows_are_all_there_is(served: Served, ledger: Ledger) -> None:
    served.guard.budget = 100
    assert (await served.get(QUESTION)).status == 200
    assert served.guard.budget == 5
    answer = await served.get(QUESTION)
    assert (answer.status, answer.code) == (429, "quota")
    assert 0 < int(answer.headers["Retry-After"]) <= 86_401
    outcome = (await _entries(ledger))[-1]
    assert (outcome.kind, outcome.outcome["why"], outcome.outcome["rows"]) == (Kind.ACCESS_OUTCOME, "quota", 0)
    assert served.guard.budget == 5
    assert (await served.get(QUESTION + "&limit=5")).status == 200
    served.guard.budget = 10**6
    assert (await served.get(QUESTION)).status == 200
    assert served.guard.budget == 10**6 - 95, "what was taken ahead and not used is given back"


async def test_a_store_that_fails_is_a_problem_without_its_words(served: Served, ledger: Ledger) -> None:
    served.reader.fail_at = 0
    answer = await served.get(QUESTION)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert b"5550100" not in answer.body
    outcome = (await _entries(ledger))[-1]
    assert (outcome.outcome["state"], outcome.outcome["rows"]) == ("interrupted", 0)


async def test_every_problem_leads_to_its_page(served: Served) -> None:
    from proxy.problems import KINDS

    for code, kind in KINDS.items():
        page = await served.get(f"/problems/{code}")
        assert page.status == 200
        assert kind.says in page.body.decode()
    assert (await served.get("/problems/nonsense")).status == 404


def _raw(*lines: str, body: str = "") -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


async def _send(port: int, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length"))
        return int(head.split()[1]), await reader.readexactly(length)
    finally:
        writer.close()


GOOD = "Authorization: DPoP a"


@pytest.mark.parametrize(
    "data",
    [
        _raw(f"GET {QUESTION} HTTP/1.1", "Host: x", GOOD, GOOD),
        _raw(f"GET {QUESTION} HTTP/1.1", "Host: x", GOOD, "DPoP: 1", "DPoP: 2"),
        _raw(f"GET {QUESTION} HTTP/1.1", "Host: x", "Host: y", GOOD),
        _raw(f"GET {QUESTION} HTTP/1.1", GOOD),
        _raw(
            "POST /v1/cdrs/search HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Type: text/x", GOOD
        ),
        _raw("POST /v1/cdrs/search HTTP/1.1", "Host: x", "Content-Length: 2", "Content-Length: 3", GOOD, body="{}x"),
        _raw("POST /v1/cdrs/search HTTP/1.1", "Host: x", "Content-Length: 2", "Transfer-Encoding: chunked", body="{}"),
        _raw("GET /v1/cdrs HTTP/1.1", "Host: x", "Bad Header: +12025550199"),
        _raw("GET /v1/cdrs HTTP/9.9", "Host: x"),
        _raw("G\x00T /v1/cdrs HTTP/1.1", "Host: x"),
        _raw("GET /v1/cdrs HTTP/1.1", "Host: x", "X: " + "+12025550199" * 1_000),
        _raw("GET /v1/cdrs?x=" + "+12025550199" * 1_000 + " HTTP/1.1", "Host: x"),
        _raw("GET /v1/cdrs HTTP/1.1", "Host: x", *[f"X-{i}: y" for i in range(300)]),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    ],
)
async def test_malformed_http_is_a_problem_that_echoes_nothing(served: Served, data: bytes) -> None:
    status, body = await _send(served.port, data)
    assert status == 400
    assert json.loads(body)["type"].endswith("/problems/request")
    assert b"5550199" not in body
    assert "read" not in served.reader.events
    assert (await served.get(QUESTION)).status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v1/cdrs HTTP/1.1\r\nHost: x\r\nX-Slow:"])
async def test_a_connection_without_whole_headers_is_closed(ledger: Ledger, sent: bytes) -> None:
    async with serving(ledger, FakeReader(5), headers_s=0.3) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(sent)

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b"a")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(drip()) if sent else None
        try:
            async with asyncio.timeout(20):
                assert await reader.read() == b""
        except ConnectionError:
            pass
        finally:
            if task:
                task.cancel()
            writer.close()


async def test_connections_beyond_the_most_are_broken_off(ledger: Ledger) -> None:
    async with serving(ledger, FakeReader(5), connections_max=3) as served:
        held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.close()
        held[0][1].close()
        await held[0][1].wait_closed()
        await asyncio.sleep(0.1)
        assert (await served.get(QUESTION)).status == 200  # there is room for one again
        for _, other in held[1:]:
            other.close()


async def test_a_slow_body_times_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.disclosure.http.BODY_S", 0.2)
    head = _raw(
        "POST /v1/cdrs/search HTTP/1.1", "Host: x", GOOD, "Content-Type: application/json", "Content-Length: 20"
    )
    status, body = await _send(served.port, head + b"{")
    assert (status, json.loads(body)["title"]) == (408, "The request came too slowly")


async def test_open_answers_are_counted_and_one_client_cannot_take_them_all(ledger: Ledger) -> None:
    guard = FakeGuard({"a": FakeGrant(), "b": FakeGrant(client_id="billing-b")})
    async with serving(ledger, FakeReader(10**7, piece=50_000), guard, streams_max=4) as served:
        headers = {"Authorization": "DPoP a", "Accept": "text/csv"}
        async with served.http.get(served.url(QUESTION), headers=headers) as first:
            assert first.status == 200
            answer = await served.get(QUESTION)
            assert (answer.status, answer.code) == (503, "busy")
            assert (await served.get(QUESTION + "&limit=1", name="b")).status == 200
            first.close()
        for _ in range(500):
            answer = await served.get(QUESTION + "&limit=1")
            if answer.status == 200:
                break
            await asyncio.sleep(0.01)
        assert answer.status == 200


class Heard(logging.Handler):
    """Keeps every record, and its text as a handler would write it that knows nothing of us."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.text = ""
        self.more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.text += logging.Formatter().format(record) + repr(record.__dict__) + "\n"
        self.more.set()

    def of(self, event: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.msg == event]


@contextlib.contextmanager
def _heard() -> Iterator[Heard]:
    handler, loggers = Heard(), [logging.getLogger(name) for name in ("", "tollgate", "aiohttp", "aiohttp.server")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    try:
        yield handler
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


async def _until(heard: Heard, event: str) -> logging.LogRecord:
    async with asyncio.timeout(10):
        while not heard.of(event):
            heard.more.clear()
            await heard.more.wait()
    return heard.of(event)[0]


MARK = "SECRET-12025550199"


@pytest.mark.parametrize(
    "line", [f"Authorization: DPoP {MARK}" + "x" * 9_000, f"Bad Header {MARK}: x", f"X: {MARK}\x01"]
)
async def test_what_is_malformed_stands_in_no_log_record(served: Served, line: str) -> None:
    with _heard() as heard:
        status, body = await _send(served.port, _raw("GET /v1/cdrs HTTP/1.1", "Host: x", line))
    assert status == 400
    assert MARK.encode() not in body
    assert [record.levelno for record in heard.of("http.malformed")] == [logging.INFO]
    assert MARK not in heard.text


async def test_a_body_that_is_malformed_is_a_problem_and_stands_in_no_log_record(served: Served) -> None:
    lines = ("Host: x", GOOD, "Content-Type: application/json", "Transfer-Encoding: chunked")
    with _heard() as heard:
        data = _raw("POST /v1/cdrs/search HTTP/1.1", *lines, body=f"1\r\n{{\r\nzz{MARK}\r\n")
        status, body = await _send(served.port, data)
    assert status == 400
    assert MARK.encode() not in body
    assert MARK not in heard.text
    assert all(record.levelno <= logging.INFO for record in heard.records)


async def test_a_client_that_leaves_amid_its_body_is_no_error(served: Served) -> None:
    lines = ("Host: x", GOOD, "Content-Type: application/json", "Content-Length: 20")
    with _heard() as heard:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(_raw("POST /v1/cdrs/search HTTP/1.1", *lines, body=f'{{"{MARK[:9]}'))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await _until(heard, "http.request")
        await asyncio.sleep(0.05)
    assert [r.msg for r in heard.records if r.levelno > logging.INFO] == []
    assert MARK[:9] not in heard.text


async def test_errors_past_every_middleware_are_logged_without_their_text() -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        raise ConnectionResetError(MARK)

    async def broken(request: web.Request) -> web.StreamResponse:
        raise ValueError(MARK)

    async def nothing(request: web.Request) -> Any:
        return None

    app = web.Application()
    for path, handler in (("/gone", gone), ("/broken", broken), ("/nothing", nothing)):
        app.router.add_get(path, handler)
    listener = Listener(app, "127.0.0.1", 0, "https://gate.example")
    await listener.start()
    try:
        with _heard() as heard:
            for path in ("/gone", "/broken", "/nothing"):
                status, body = await _send(listener.port, _raw(f"GET {path} HTTP/1.1", "Host: x"))
                assert status == 500
                assert MARK.encode() not in body
    finally:
        await listener.stop()
    assert [(r.msg, r.levelno) for r in heard.records if r.name == "tollgate.http"][:2] == [
        ("http.gone", logging.INFO), ("http.error", logging.ERROR)
    ]  # fmt: skip
    assert MARK not in heard.text
    assert not [record.name for record in heard.records if record.name.startswith("aiohttp")]
    assert not [record for record in heard.records if record.exc_info]


async def test_an_answer_that_fails_before_it_is_sent_has_its_outcome(
    served: Served, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("defect")

    monkeypatch.setattr("proxy.disclosure.http._headers", broken)
    answer = await served.get(QUESTION)
    assert (answer.status, answer.code) == (500, "internal")
    assert [e.kind for e in await _entries(ledger)] == [Kind.ACCESS_INTENT, Kind.ACCESS_OUTCOME]
    outcome = (await _entries(ledger))[-1].outcome
    assert (outcome["state"], outcome["why"], outcome["rows"]) == ("interrupted", "failed", 0)
    assert served.reader.open_streams == 0, "the store is still being read"
