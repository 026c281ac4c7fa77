"""Filters of a search, as predicates over an object's id and properties."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from tests.support.weaviate_stand_in.protocol import base_pb2
from tests.support.weaviate_stand_in.schema import Schema, data_type
from weavloader.geo import Location, distance_km

Test = Callable[[str, dict[str, Any]], bool]

_Operator = base_pb2.Filters.Operator
_WORD = re.compile(r"[^\W_]+")


class Unknown(Exception):
    """The server fails a call with UNKNOWN and this text, as a real one does."""


def predicate(schema: Schema, asked: base_pb2.Filters) -> Test:
    """Whether an object passes."""
    if asked.operator in (_Operator.OPERATOR_AND, _Operator.OPERATOR_OR):
        return _combined(asked.operator, [predicate(schema, each) for each in asked.filters])
    name = asked.target.property
    if name == "_id":
        ids = frozenset({asked.value_text, *asked.value_text_array.values})
        return lambda object_id, _: object_id in ids
    if not data_type(schema, name):
        raise Unknown(f"no such prop with name '{name}' found in class '{schema['class']}'")
    return _compared(name, asked)


@lru_cache(100_000)
def words(text: str) -> frozenset[str]:
    """The words of a text, as the server's ``word`` tokenization has them."""
    return frozenset(_WORD.findall(text.lower()))


def _combined(operator: int, tests: list[Test]) -> Test:
    if operator == _Operator.OPERATOR_AND:
        return lambda object_id, properties: all(test(object_id, properties) for test in tests)
    return lambda object_id, properties: any(test(object_id, properties) for test in tests)


def _compared(name: str, asked: base_pb2.Filters) -> Test:
    operator, value = asked.operator, _value(asked)

    def test(_: str, properties: dict[str, Any]) -> bool:
        given = properties.get(name)
        if operator == _Operator.OPERATOR_NOT_EQUAL:
            return bool(given != value)
        if given is None:
            return False
        if operator == _Operator.OPERATOR_EQUAL:
            return words(value) <= words(given)
        if operator == _Operator.OPERATOR_LIKE:
            texts = [given] if isinstance(given, str) else given
            return any(fnmatchcase(text.lower(), value.lower()) for text in texts)
        if operator == _Operator.OPERATOR_WITHIN_GEO_RANGE:
            return _lies_within(asked.value_geo, given)
        if isinstance(value, datetime):
            given = datetime.fromisoformat(given)
        at_least = operator == _Operator.OPERATOR_GREATER_THAN_EQUAL
        return bool(given >= value if at_least else given <= value)

    return test


def _lies_within(area: base_pb2.GeoCoordinatesFilter, place: dict[str, float]) -> bool:
    center = Location(area.latitude, area.longitude)
    return distance_km(center, Location(**place)) * 1000 <= area.distance


def _value(asked: base_pb2.Filters) -> Any:
    if asked.HasField("value_int"):
        return asked.value_int
    if not asked.HasField("value_text"):
        return asked.value_number
    is_date = asked.operator not in (_Operator.OPERATOR_EQUAL, _Operator.OPERATOR_LIKE)
    return datetime.fromisoformat(asked.value_text) if is_date else asked.value_text
