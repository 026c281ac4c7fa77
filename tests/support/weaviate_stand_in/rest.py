"""The stand-in's REST side: readiness, version and schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.weaviate_stand_in import schema
from tests.support.weaviate_stand_in.objects import Collection
from tests.support.weaviate_stand_in.state import State

Answer = tuple[HTTPStatus, Any]
_ABSENT: Answer = (HTTPStatus.NOT_FOUND, None)
_META = {"version": "1.38.11", "grpcMaxMessageSize": 104_858_000, "modules": {}}


def handler(state: State) -> type[BaseHTTPRequestHandler]:
    """A class of handlers that share a state."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # The client of a test that is over has gone; a thread must not wait for it.
        timeout = 5

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(size) or b"null")
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, said = _answer(state, self.command, self.path.removeprefix("/v1"), body, key)
            written = b"" if said is None else json.dumps(said).encode()
            written = state.faults.garble(written)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def _answer(state: State, method: str, path: str, body: Any, key: str) -> Answer:
    with state.lock:
        state.calls.append(f"{method} {path}")
        if state.faults.unavailable:
            return HTTPStatus.SERVICE_UNAVAILABLE, None
        if state.faults.status:
            return HTTPStatus(state.faults.status), None
        if not state.lets_in(key):
            return HTTPStatus.UNAUTHORIZED, {
                "code": 401,
                "message": "unauthorized: invalid api key",
            }
        if path == "/meta":
            return HTTPStatus.OK, _META
        if path.startswith("/schema"):
            return _schema(state, method, path.split("/")[2:], body)
        if method == "DELETE" and path.startswith("/objects/"):
            return _delete(state, *path.split("/")[2:])
        if method == "PATCH" and path.startswith("/objects/"):
            return _update(state, body["properties"], *path.split("/")[2:])
        return _ABSENT


def _delete(state: State, name: str, object_id: str) -> Answer:
    collection = state.collections[name]
    collection.index(object_id)
    there = collection.objects.pop(object_id, None)
    return (HTTPStatus.NO_CONTENT, None) if there else _ABSENT


def _update(state: State, properties: Any, name: str, object_id: str) -> Answer:
    kept = state.collections[name].objects.get(object_id)
    if kept is None:
        return _ABSENT
    kept.properties.update(properties)
    for name in [name for name, value in kept.properties.items() if value is None]:
        del kept.properties[name]
    return HTTPStatus.NO_CONTENT, None


def _schema(state: State, method: str, parts: list[str], body: Any) -> Answer:
    name = parts[0] if parts else body["class"] if body else ""
    change = _CHANGES.get((method, len(parts)))
    if change is None or (parts and name not in state.collections):
        return _ABSENT
    try:
        return HTTPStatus.OK, change(state, name, body)
    except schema.Refused as refused:
        return HTTPStatus.UNPROCESSABLE_ENTITY, {"error": [{"message": str(refused)}]}


def _create(state: State, name: str, body: Any) -> Any:
    if name in state.collections:
        raise schema.Refused(f"class name {name} already exists")
    state.collections[name] = Collection(schema.collection(body))
    return state.collections[name].schema


def _change(state: State, name: str, body: Any) -> Any:
    state.faults.meanwhile(state.collections[name].schema)
    schema.add_vectors(state.collections[name].schema, body)
    return state.collections[name].schema


def _add_property(state: State, name: str, body: Any) -> Any:
    schema.add_property(state.collections[name].schema, body)
    return body


_CHANGES: dict[tuple[str, int], Callable[[State, str, Any], Any]] = {
    ("GET", 0): lambda state, _, __: {"classes": [c.schema for c in state.collections.values()]},
    ("POST", 0): _create,
    ("GET", 1): lambda state, name, _: state.collections[name].schema,
    ("PUT", 1): _change,
    ("DELETE", 1): lambda state, name, _: state.collections.pop(name) and None,
    ("POST", 2): _add_property,
}
