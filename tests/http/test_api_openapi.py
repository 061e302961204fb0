"""schema/openapi.yaml is true to the running server: schemathesis asks what the document allows, and what it forbids.

Every request has a fresh proof. Every answer is held against the document: status, headers, media type, body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig

from proxy import problems
from proxy.disclosure.delivery import Cut, State
from proxy.disclosure.query import QueryError, read_pull, read_search
from tests.conftest import Database
from tests.support.gate import QUESTION, Gate, calls, gate

DOCUMENT = Path(__file__).parents[2] / "schema" / "openapi.yaml"
RAW: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
PEERS = [
    ("GET", "/v1/cdrs"),
    ("POST", "/v1/cdrs/search"),
    ("GET", "/v1/accesses/{id}"),
    ("GET", "/v1/accesses/{id}/proof"),
]
# What one request alone cannot show: that data of the right form is also of the right sense (from before to, a cursor
# that was given), that without credentials all is refused, and what other methods do (tested by hand).
NOT_HERE = {"positive_data_acceptance", "ignored_auth", "unsupported_method", "use_after_free"}


@pytest.fixture
async def world(database: Database) -> AsyncIterator[Gate]:
    async with gate(database, legal_desk=1, privacy_desk=1, carrier_name="Example Carrier") as running:
        await running.ingest(calls(20, "123A", "456B"))
        yield running


def _schema() -> Any:
    generation = GenerationConfig(with_security_parameters=False, deterministic=True)
    projects = ProjectsConfig(default=ProjectConfig(generation=generation))
    return schemathesis.openapi.from_dict(RAW, config=SchemathesisConfig(projects=projects))


load_all_checks()
CHECKED = [check for check in CHECKS.get_all() if getattr(check, "__name__", "") not in NOT_HERE]


async def _run(world: Gate, method: str, path: str, mode: GenerationMode, examples: int) -> list[int]:
    """Ask ``examples`` generated requests of an operation; return the statuses."""
    loop = asyncio.get_running_loop()
    peer = await world.peer(requests_per_minute=1_000_000)
    operation = _schema()[path][method]
    seen: list[int] = []

    def sign(method: str, url: str) -> dict[str, str]:
        coroutine = world.headers(peer, method, urlsplit(url).path)
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        with requests.Session() as session:
            arguments = case.as_transport_kwargs(base_url=world.gateway.url)
            prepared = session.prepare_request(
                requests.Request(**{k: v for k, v in arguments.items() if k not in ("timeout", "verify", "cert")})
            )
            prepared.headers.update(sign(prepared.method or "", prepared.url or ""))
            response = session.send(prepared, timeout=30)
        peer.nonce = response.headers.get("DPoP-Nonce", peer.nonce)
        seen.append(response.status_code)
        case.validate_response(response, checks=CHECKED)

    call: Callable[[], None] = ask
    await asyncio.to_thread(call)
    return seen


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), PEERS)
async def test_generated_requests_get_documented_answers(
    world: Gate, method: str, path: str, mode: GenerationMode
) -> None:
    statuses = await _run(world, method, path, mode, 40)
    assert len(statuses) >= 20
    assert not [s for s in statuses if s in (401, 500, 503)], "the proof was good, and nothing fails here"


@pytest.mark.parametrize("path", [p for p, item in RAW["paths"].items() if "get" in item and not p.startswith("/v1/")])
async def test_public_documents(world: Gate, path: str) -> None:
    assert await _run(world, "GET", path, GenerationMode.POSITIVE, 5)


async def test_a_right_question_is_answered_as_documented(world: Gate) -> None:
    peer = await world.peer()
    schema = _schema()
    body = {"number": "+12025550100", "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
    access = (await world.ask(peer, "GET", QUESTION + "&limit=5")).headers["Access-Id"]
    for method, template, path, options in (
        ("GET", "/v1/cdrs", QUESTION, {}),
        ("GET", "/v1/cdrs", QUESTION + "&limit=5", {"headers": {"Accept": "text/csv"}}),
        ("POST", "/v1/cdrs/search", "/v1/cdrs/search", {"json": body}),
        ("GET", "/v1/accesses/{id}", f"/v1/accesses/{access}", {}),
        ("GET", "/v1/accesses/{id}/proof", f"/v1/accesses/{access}/proof", {}),
    ):
        headers = await world.headers(peer, method, path) | options.pop("headers", {})

        def send(method: str = method, path: str = path, headers: Any = headers, options: Any = options) -> Any:
            return requests.request(method, world.gateway.url + path, headers=headers, timeout=30, **options)

        response = await asyncio.to_thread(send)
        peer.nonce = response.headers.get("DPoP-Nonce", peer.nonce)
        assert response.status_code == 200, response.text
        schema[template][method].validate_response(response)
        documented = RAW["paths"][template][method.lower()]["responses"]["200"]
        for name, header in _resolved(documented)["headers"].items():
            if _resolved(header).get("required"):
                assert name in response.headers


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = RAW
        for part in node["$ref"].split("/")[1:]:
            found = found[part]
        node = found
    return node


def test_the_documents_parameters_are_those_that_are_read() -> None:
    with pytest.raises(QueryError) as error:
        read_pull([("nonsense", "1")], 1)
    named = [p["name"] for p in RAW["paths"]["/v1/cdrs"]["get"]["parameters"]]
    assert error.value.says == f"Only these parameters are known: {', '.join(named)}."
    with pytest.raises(QueryError) as error:
        read_search(b'{"nonsense": 1}', 1)
    members = {m: None for form in RAW["components"]["schemas"]["Search"]["oneOf"] for m in form["properties"]}
    assert sorted(error.value.says.rstrip(".").partition(": ")[2].split(", ")) == sorted(members)


def test_the_checks_are_there() -> None:
    names = {getattr(check, "__name__", "") for check in CHECKED}
    assert {
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    } <= names


async def test_the_document_names_every_route_and_no_other(world: Gate) -> None:
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in world.gateway.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method, path) for path, item in RAW["paths"].items() for method in item}
    assert documented == routes


def test_the_documents_words_are_the_codes() -> None:
    access = RAW["components"]["schemas"]["Access"]["properties"]
    assert set(access["state"]["enum"]) == {s.value for s in State} | {"denied"}
    assert set(access["why"]["enum"]) == {c.value for c in Cut}
    responses = {str(kind.status) for kind in problems.KINDS.values()} - {"404", "405"}
    responses -= {"409", "412", "428"}  # of the staff's routes
    documented = set(RAW["paths"]["/v1/cdrs/search"]["post"]["responses"])
    assert responses <= documented
