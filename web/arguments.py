"""Arguments of addresses: each says what it means and which values it has, and reads them.

A query is a dataclass whose fields are made by :func:`argument`; addresses are read by it, and
the OpenAPI document describes them by it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from weavloader.errors import ConfigError, Reason

MAX_NAME_LENGTH = 256
Texts = Callable[[str], list[str]]
"""Gives the values of an argument, as a request holds them, by its name."""
Kind = tuple[Mapping[str, Any], Callable[[str, list[str]], Any]]
"""The values of an argument as JSON Schema, and what reads one from the texts of an address."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an address.

    Attributes:
        attribute: Its name in the query.
        meaning: A sentence for people.
        schema: Its values as JSON Schema, with the default.
        read: Turns its name and the texts of an address into a value; raises ``ConfigError``.
    """

    attribute: str
    meaning: str
    schema: Mapping[str, Any]
    read: Callable[[str, list[str]], Any]

    @property
    def is_repeated(self) -> bool:
        """Whether it may stand in an address more than once."""
        return bool(self.schema["type"] == "array")


def argument(default: T, meaning: str, kind: Kind, name: str = "") -> T:
    """A field of a query.

    Args:
        name: In addresses, where it differs from that of the field.
    """
    schema, read = kind
    shown: object = int(default) if isinstance(default, bool) else default
    schema = {**schema, "default": list(shown) if isinstance(shown, tuple) else shown}
    return field(default=default, metadata={"of": (name, meaning, schema, read)})


def arguments_of(query: type[Any]) -> dict[str, Argument]:
    """The arguments of a query by name."""
    found = {}
    for each in fields(query):
        name, meaning, schema, read = each.metadata["of"]
        found[name or each.name] = Argument(each.name, meaning, schema, read)
    return found


def read(query: type[T], texts: Texts) -> T:
    """Read a query from an address.

    Raises:
        ConfigError: An argument is invalid; the message says which and what is expected.
    """
    known = arguments_of(query)
    return query(**{each.attribute: each.read(name, texts(name)) for name, each in known.items()})


def check_known(given: Mapping[str, list[str]], known: Mapping[str, Argument]) -> None:
    """Reject arguments that are unknown or given twice.

    Args:
        given: The values of each argument.

    Raises:
        ConfigError: The message says which argument and why.
    """
    for name, values in given.items():
        if name not in known:
            raise invalid(name, f"one of the arguments {', '.join(known)}")
        if len(values) > 1 and not known[name].is_repeated:
            raise invalid(name, "one value, not several")


def line(max_length: int = MAX_NAME_LENGTH) -> Kind:
    """Any text, without spaces around it."""
    return {"type": "string", "maxLength": max_length}, lambda name, texts: _last(
        name, texts, max_length
    )


def parsed(parse: Callable[[str], object], expected: str) -> Kind:
    """A text that ``parse`` accepts; else the message says what is expected."""

    def read(name: str, texts: list[str]) -> str:
        given = _last(name, texts)
        try:
            if given:
                parse(given)
        except ConfigError:
            raise invalid(name, expected) from None
        return given

    return {"type": "string", "maxLength": MAX_NAME_LENGTH, "description": expected}, read


def one_of(values: Iterable[str]) -> Kind:
    """One of some words, or nothing."""
    words = list(values)

    def read(name: str, texts: list[str]) -> str:
        given = _last(name, texts)
        if given and given not in words:
            raise invalid(name, f"one of {', '.join(words)}" if len(words) > 1 else words[0])
        return given

    return {"type": "string", "enum": [*words, ""]}, read


def number(default: float, minimum: float, maximum: float, *, is_whole: bool = False) -> Kind:
    """A number in a range."""

    def read(name: str, texts: list[str]) -> float:
        try:
            value = float(_last(name, texts) or default)
        except ValueError:
            raise invalid(name, "a number") from None
        if not minimum <= value <= maximum:
            raise invalid(name, f"a number from {minimum:g} to {maximum:g}")
        if is_whole and value != int(value):
            raise invalid(name, "a whole number")
        return int(value) if is_whole else value

    kind = "integer" if is_whole else "number"
    return {"type": kind, "minimum": minimum, "maximum": maximum}, read


def flag() -> Kind:
    """1 or 0."""
    schema, read = number(0, 0, 1, is_whole=True)
    return schema, lambda name, texts: bool(read(name, texts))


def ids(most: int) -> Kind:
    """Ids of images, at most so many."""

    def read(name: str, texts: list[str]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(parse_id(each, name) for each in texts if each.strip()))
        if len(found) > most:
            raise invalid(name, f"at most {most} images")
        return found

    return {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": most}, read


def _last(name: str, texts: list[str], max_length: int = MAX_NAME_LENGTH) -> str:
    value = (texts or [""])[-1].strip()
    if len(value) > max_length:
        raise invalid(name, f"at most {max_length} characters")
    return value


def parse_id(text: str, name: str = "id") -> str:
    """An image's id in canonical form.

    Raises:
        ConfigError: It is not a UUID; the message names the argument.
    """
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise invalid(name, "an image's id") from None


def invalid(name: str, expected: str) -> ConfigError:
    """The error of an argument."""
    return ConfigError(f"{name}: expected {expected}", reason=Reason.BAD_ARGUMENT)
