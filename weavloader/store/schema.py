"""The report on a store's schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """A store's schema, compared with the required one.

    Attributes:
        name: The collection or file, for people.
        fields: Description of each property and vector, by name; empty if nothing exists yet.
        missing: What :meth:`Store.prepare` would add.
        problems: What would lose data or break search; :meth:`Store.prepare` raises on these.
        remedy: How an operator fixes the problems.
        advice: What works but is slow.
    """

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remedy: str = ""
    advice: tuple[str, ...] = ()
