"""``/openapi.json`` says what the pages answer: a real server is asked all that is documented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
import pytest
import redis as redis_py
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from demo.servers.ports import free_ports
from demo.servers.waiting import wait_until
from tests.support.pages import SNOW, STREET, an_image, keep, served
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.geo import Location
from weavloader.provenance import Provenance
from weavloader.saved.searches import SavedSearch, SavedSearches
from weavloader.settings import load_settings
from web import search_service
from web.image_service import ImageService
from web.openapi import describe
from web.search import PictureSearch
from web.server import ROUTES
from web.snapshot import Monitor

FORMS = {PictureSearch}
STORED = [
    an_image("snow", "snow on a ridge", SNOW, location=Location(41.9, -87.6)),
    an_image("street", "cars in a street", STREET, minutes_ago=3, vsn="W07A"),
]
TASK_ID = "1" * 8 + "-0000-5000-8000-000000000000"
DOCUMENT = describe(ROUTES)
EXAMPLES = {"since": "30d", "until": "2100-01-01", "near": "41.88,-87.63", "older": "1h"}
# What some arguments have no effect without.
BESIDE = {"within": "near=41.88,-87.63", "alpha": "q=snow", "weak": "q=snow", "fold": "q=snow"}
BESIDE |= {"unlike": "q=snow"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[httpx.Client]:
    """Two images, of which a model is known, a dead letter, all seen by the monitor, and a saved
    search."""
    (port,) = free_ports(1)
    settings = load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path_factory.mktemp("openapi") / "store"),
        celery_broker_url=redis_server,
        triton_host="127.0.0.1",
        triton_port=port,
        flower_url="http://127.0.0.1:1",
    )
    keep(settings, [replace(STORED[0], provenance={"caption": Provenance("a", "1")}), STORED[1]])
    with (
        pytest.MonkeyPatch.context() as patch,
        redis_py.Redis.from_url(redis_server, socket_timeout=5) as redis,
        closing(ImageService(settings)) as images,
    ):
        patch.setattr(search_service, "connect_embedder", lambda *_: lambda text: SNOW)
        redis.flushdb()
        DeadLetters(redis, ttl=3600).put(_letter())
        # Its name is what the addresses below ask for.
        SavedSearches(redis).add(SavedSearch(STORED[0].id, text="snow", filters={"vsn": "W021"}))
        monitor = Monitor(settings, images, interval=0.2)
        with monitor.running(), served(settings, monitor) as client:
            wait_until(lambda: len(monitor.history()) > 1, "two snapshots")
            yield client
        redis.flushdb()


def _letter() -> DeadLetter:
    moment = "2026-11-24T12:00:00+00:00"
    names = ("task", "exc_type", "exc_message", "traceback", "worker")
    fields: dict[str, Any] = dict.fromkeys(names, "not_found: x")
    fields |= {"retries": 3, "attempts": 4, "failed_at": moment, "first_seen": moment}
    return DeadLetter(task_id=TASK_ID, args=[{"vsn": "W021"}], kwargs={}, **fields)


def closed(schema: Any) -> Any:
    """A schema that allows for no property that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict):
        told.setdefault("additionalProperties", False)
    return told


SCHEMAS = closed(DOCUMENT["components"])


def check(answer: Any, schema: dict[str, Any]) -> None:
    whole = {**closed(schema), "components": SCHEMAS}
    validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(answer)]
    assert not errors, errors


def check_answer(operation: dict[str, Any], answer: httpx.Response) -> None:
    """The answer is one of those documented."""
    documented = operation["responses"].get(str(answer.status_code))
    assert documented, f"{answer.url}: {answer.status_code} is not documented"
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in documented["content"], f"{answer.url}: {kind} is not documented"
    schema = documented["content"][kind].get("schema")
    if schema and kind == "application/json":
        check(answer.json(), schema)
    elif schema:
        lines = answer.text.splitlines()
        for line in lines:
            check(json.loads(line), schema)


def addresses(path: str, operation: dict[str, Any]) -> Iterator[str]:
    """A path without arguments, and with each of those documented."""
    is_letter = "dead" in path or "dlq" in path
    path = path.replace("{id}", TASK_ID if is_letter else STORED[0].id)
    asked = [each for each in operation["parameters"] if each["in"] == "query"]
    needed = [f"{each['name']}={_example(each)}" for each in asked if each["required"]]
    yield "?".join([path, *needed])
    for each in asked:
        if not each["required"]:
            beside = BESIDE.get(each["name"], "")
            one = f"{each['name']}={_example(each)}"
            yield f"{path}?{'&'.join(filter(None, [one, *needed, beside]))}"


def _example(parameter: dict[str, Any]) -> str:
    schema, name = parameter["schema"], parameter["name"]
    if schema["type"] == "array":
        return STORED[1].id
    if "enum" in schema:
        return str(schema["enum"][0])
    if schema["type"] in ("integer", "number"):
        return str(schema["default"])
    return EXAMPLES.get(name, "W021")


def operations() -> list[tuple[str, dict[str, Any]]]:
    return [(path, item["get"]) for path, item in DOCUMENT["paths"].items()]


def test_the_document_is_valid_and_served(site: httpx.Client) -> None:
    validate(DOCUMENT)
    answer = site.get("/openapi.json")
    assert answer.json() == DOCUMENT and DOCUMENT["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(set(ids)) == len(ids)


def test_every_route_is_documented_with_a_sentence() -> None:
    documented = {handler for handler in ROUTES.values() if handler.answers}
    assert set(ROUTES.values()) - documented == FORMS
    assert len(DOCUMENT["paths"]) == len(ROUTES) - len(FORMS)
    for path, operation in operations():
        assert operation["summary"], path
        assert "`" + path.replace("{id}", "<id>") not in operation["summary"]


@pytest.mark.parametrize(("path", "operation"), operations(), ids=DOCUMENT["paths"])
def test_every_address_answers_as_documented(
    site: httpx.Client, path: str, operation: dict[str, Any]
) -> None:
    for address in addresses(path, operation):
        answer = site.get(address, follow_redirects=True)
        assert answer.status_code == 200, f"{address}: {answer.text[:300]}"
        check_answer(operation, answer)


@pytest.mark.parametrize(("path", "operation"), operations(), ids=DOCUMENT["paths"])
def test_errors_are_documented_too(
    site: httpx.Client, path: str, operation: dict[str, Any]
) -> None:
    if "{id}" in path:
        answer = site.get(path.replace("{id}", "00000000-0000-0000-0000-000000000000"))
        assert answer.status_code == 404
        check_answer(operation, answer)
    if path.startswith("/api/"):
        answer = site.get(path.replace("{id}", STORED[0].id), params={"colour": "red"})
        assert answer.status_code == 400 and "colour" in answer.json()["error"]
        check_answer(operation, answer)


def test_answers_that_have_everything_fit_too(site: httpx.Client) -> None:
    """Explanations, folded results, counts and the next page are not in every answer."""
    search = DOCUMENT["paths"]["/api/search"]["get"]
    answer = site.get("/api/search?q=snow&fold=1&weak=1&limit=1")
    check_answer(search, answer)
    told = answer.json()
    assert told["next"] and told["counts"]["times"] and told["results"][0]["explanation"]
    nodes = site.get("/api/nodes").json()["nodes"]
    assert [node["vsn"] for node in nodes] == ["W021", "W07A"]
    assert told["results"][0]["provenance"]["caption"]["model"] == "a"
    assert nodes[0]["location"] == {"latitude": 41.9, "longitude": -87.6}
    status = site.get("/api/status").json()
    assert status["vectors"]["images"] == 2 and len(status["newest"]) == 2


def test_a_schema_that_lacks_a_property_would_be_noticed(site: httpx.Client) -> None:
    answer = site.get(f"/api/images/{STORED[0].id}").json()
    with pytest.raises(AssertionError, match="colour"):
        check({**answer, "colour": "red"}, {"$ref": "#/components/schemas/Image"})


@pytest.mark.parametrize(
    ("page", "of"),
    [
        ("/", "/api/search"),
        ("/?q=snow&vsn=W021", "/api/search?q=snow&amp;vsn=W021"),
        ("/?alpha=0.8", "/api/search"),
        ("/nodes?q=snow&sort=newest", "/api/nodes?q=snow"),
        (f"/image/{STORED[0].id}", f"/api/images/{STORED[0].id}"),
        ("/now", "/api/status"),
        ("/dead-letters?vsn=W021", "/api/dlq?vsn=W021"),
        (f"/dead-letters/letter/{TASK_ID}", f"/api/dlq/{TASK_ID}"),
    ],
)
def test_the_foot_of_a_page_leads_to_its_json(site: httpx.Client, page: str, of: str) -> None:
    text = site.get(page).text
    assert f'<a href="{of}">this page as JSON</a>' in text
    assert '<a href="/openapi.json">' in text
    assert site.get(of.replace("&amp;", "&")).status_code == 200
