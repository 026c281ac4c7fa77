"""A store's schema as it is found, beside what is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """What a look at a store found; nothing was changed.

    Attributes:
        name: What holds the objects, for a person: a collection, or a file.
        fields: What each property and vector is, by name; empty before anything was created.
        missing: What :meth:`Store.prepare` would add.
        problems: What would lose data or break search, so that it refuses the store.
        remedy: What an operator does about the problems.
        advice: What works, but costs something.
    """

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remedy: str = ""
    advice: tuple[str, ...] = ()
