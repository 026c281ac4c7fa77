"""``/openapi.json``: what programs can ask of the pages, made of the routes and their arguments.

Only what answers hold is described here; the rest, each handler says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from weavloader import __version__
from weavloader.store.base import FACET_PROPERTIES, TEXT_PROPERTIES
from web.arguments import Argument
from web.handler import PageHandler

VERSION = "3.1.1"
Schema = dict[str, Any]
_ADDRESS = re.compile(r"^``[^`]*``: ")
_PASSWORD = "password"  # noqa: S105 - the name of a scheme


class OpenApi(PageHandler):
    """``/openapi.json``: this document, of OpenAPI 3.1."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": ""}

    def get(self) -> None:
        """Write the document."""
        self.write(self.settings["openapi"])


def describe(routes: Mapping[str, type[PageHandler]]) -> dict[str, Any]:
    """The OpenAPI document of handlers by the pattern of their paths, without forms."""
    return {
        "openapi": VERSION,
        "info": {
            "title": "Weavloader",
            "version": __version__,
            "summary": "Search the images of the SAGE sensor network.",
            "description": "Nothing here changes anything. An argument that is unknown, given twice"
            " or without effect is an error of every address under `/api/`.",
        },
        "paths": {
            _template(pattern): {"get": _operation(pattern, handler)}
            for pattern, handler in routes.items()
            if handler.answers
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {_PASSWORD: {"type": "http", "scheme": "basic"}},
        },
    }


def _template(pattern: str) -> str:
    return pattern.replace("([^/]+)", "{id}").replace("\\", "")


def _operation(pattern: str, handler: type[PageHandler]) -> dict[str, Any]:
    is_json = _template(pattern).startswith("/api/")
    kind = "application/json" if is_json else handler.explains_as
    errors = {"400": "An argument is invalid", "503": "A part of the system is unavailable"}
    parameters = [_parameter(name, each) for name, each in handler.arguments.items()]
    if "{id}" in _template(pattern):
        errors["404"] = "There is none of this id"
        parameters.insert(0, _id(handler))
    if handler.asks_password:
        errors |= {"401": "A password is needed", "429": "Too many wrong passwords"}
    told: dict[str, Any] = {
        "operationId": handler.__name__[0].lower() + handler.__name__[1:],
        "summary": _summary(handler),
        "tags": ["programs" if "text/html" not in handler.answers else "pages"],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The answer",
                "content": {kind: _content(name) for kind, name in handler.answers.items()},
            },
            **{status: _error(text, kind) for status, text in sorted(errors.items())},
        },
    }
    # At the machine itself, and there alone, none is needed.
    return told | ({"security": [{}, {_PASSWORD: []}]} if handler.asks_password else {})


def _summary(handler: type[PageHandler]) -> str:
    text = " ".join((handler.__doc__ or "").split("\n\n")[0].split())
    text = _ADDRESS.sub("", text).replace("``", "`").removesuffix(".")
    return text[:1].upper() + text[1:]


def _parameter(name: str, argument: Argument) -> dict[str, Any]:
    told = {"name": name, "in": "query", "description": argument.meaning}
    return {**told, "required": "default" not in argument.schema, "schema": dict(argument.schema)}


def _id(handler: type[PageHandler]) -> dict[str, Any]:
    form = {} if handler.asks_password else {"format": "uuid"}
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string", **form}}


def _content(name: str) -> dict[str, Any]:
    return {"schema": _ref(name)} if name else {}


def _error(text: str, kind: str) -> dict[str, Any]:
    content = _content("Error" if kind == "application/json" else "")
    return {"description": text, "content": {kind: content}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(optional: Iterable[str] = (), /, **properties: Schema) -> Schema:
    """An object with these properties, all of which are there but those that are optional."""
    required = [name for name in properties if name not in [*optional]]
    return {"type": "object", "properties": properties, "required": required}


def _map(of: Schema, meaning: str = "") -> Schema:
    told = {"description": meaning} if meaning else {}
    return {"type": "object", "additionalProperties": of, **told}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_ID: Schema = {"type": "string", "format": "uuid"}
_ADDRESS_OR_NULL = _or_null({"type": "string", "format": "uri-reference"})
_COUNTS = _map(_COUNT)
_PLACE = _or_null(_object(latitude=_NUMBER, longitude=_NUMBER))
_PART = _or_null(_object(contribution=_NUMBER, score=_or_null(_NUMBER)))
_PROVENANCE = _map(
    _object(model=_TEXT, revision=_TEXT, prompt=_TEXT, made_at=_or_null(_MOMENT)),
    "Which model made the caption and each vector",
)
_STORED = {
    "id": _ID,
    **dict.fromkeys(TEXT_PROPERTIES, _TEXT),
    "captured_at": _or_null(_MOMENT),
    "location": _PLACE,
    "provenance": _PROVENANCE,
}
_LETTER = {
    **dict.fromkeys(
        ("task_id", "task", "exc_type", "exc_message", "traceback", "worker", "trace_id", "remedy"),
        _TEXT,
    ),
    **{"args": {"type": "array"}, "kwargs": {"type": "object"}},
    **{"retries": _COUNT, "attempts": _COUNT, "failed_at": _MOMENT, "first_seen": _MOMENT},
}
SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(error=_TEXT),
    "Result": _object(
        ("explanation", "rerank_score", "folded"),
        score=_NUMBER,
        explanation=_object(keyword=_PART, vector=_PART),
        rerank_score=_NUMBER,
        folded=_COUNT,
        **_STORED,
    ),
    "SearchAnswer": _object(
        query=_TEXT,
        notice=_TEXT,
        total=_or_null(_COUNT),
        weaker=_COUNT,
        results=_list(_ref("Result")),
        counts=_or_null(
            _object(**dict.fromkeys(FACET_PROPERTIES, _COUNTS), times=_COUNTS, hours_of_day=_COUNTS)
        ),
        next=_ADDRESS_OR_NULL,
    ),
    "Image": _object(
        vectors=_map(_list(_COUNT), "The shape of each"),
        picture=_ADDRESS_OR_NULL,
        thumbnail=_ADDRESS_OR_NULL,
        original=_ADDRESS_OR_NULL,
        is_reduced={"type": "boolean", "description": "Whether the picture is a reduced copy."},
        **_STORED,
    ),
    "Nodes": _object(
        nodes=_or_null(
            _list(
                _object(
                    vsn=_TEXT,
                    images=_COUNT,
                    cameras=_COUNTS,
                    project=_TEXT,
                    location=_PLACE,
                    newest=_or_null(_object(id=_ID, captured_at=_or_null(_MOMENT))),
                )
            )
        ),
    ),
    "Status": _object(
        at=_MOMENT,
        components=_map(_TEXT, "`ok`, or the error"),
        images_per_minute=_or_null(_NUMBER),
        images_queued=_or_null(_COUNT),
        oldest_seconds=_or_null(_NUMBER),
        images_stored=_or_null(_COUNT),
        vectors=_or_null(_object(images=_COUNT, by_name=_COUNTS, searched=_TEXT)),
        queues=_or_null(_COUNTS),
        dead_letters=_or_null(_COUNT),
        stream=_or_null(
            _object(
                last_poll=_MOMENT,
                last_poll_seconds=_NUMBER,
                newest_capture=_or_null(_MOMENT),
                lag_seconds=_or_null(_NUMBER),
                received=_COUNT,
                waiting=_FLAG,
            )
        ),
        workers=_map(_object(online=_COUNT, running=_COUNT)),
        alerts=_map(_object(alert=_TEXT, words=_TEXT, severity=_TEXT)),
        newest=_list(_object(id=_ID, caption=_TEXT, is_preview=_FLAG, vsn=_TEXT, time=_TEXT)),
        history=_object(
            at=_list(_MOMENT),
            images_per_minute=_list(_or_null(_NUMBER)),
            images_queued=_list(_or_null(_COUNT)),
        ),
    ),
    "SavedSearches": _object(
        saved=_list(
            _object(
                **dict.fromkeys(("name", "text", "webhook", "vector_name", "vector_model"), _TEXT),
                **dict.fromkeys(("like", "unlike"), _list(_ID)),
                **dict.fromkeys(("alpha", "within", "interval"), _NUMBER),
                filters=_map(_TEXT),
                threshold=_or_null(_NUMBER),
                saved_at=_MOMENT,
                feed=_ADDRESS_OR_NULL,
                state=_object(
                    **dict.fromkeys(("matches", "waiting", "delivered", "discarded"), _COUNT),
                    **dict.fromkeys(("last_at", "away_since", "next_at"), _NUMBER),
                    error=_TEXT,
                    is_gone=_FLAG,
                ),
            )
        ),
    ),
    "DeadLetter": _object(**_LETTER),
    "DeadLetters": _object(
        dead_letters=_list(_object(**_LETTER, reprocessed_at=_or_null(_MOMENT))),
        reprocessed=_COUNT,
        count=_COUNT,
        total=_COUNT,
        reasons=_COUNTS,
        nodes=_COUNTS,
    ),
}
