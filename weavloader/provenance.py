"""Which model made a caption or a vector: as objects keep it, and how it is recorded.

A function that calls a model records the call with :func:`record_call`; :func:`traced` collects
what is recorded while a caption or a vector is made. So a model that a site adds is recorded too,
without a word about it in its own function.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

UNKNOWN = "unknown"
CAPTION = "caption"
"""Key of the caption's provenance; that of a vector is the vector's name."""
PREVIEW = "preview/"
"""Begins the name of every preview model."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a caption or a vector.

    Attributes:
        model: As the server names its weights, such as ``google/gemma-3-4b-it``; else the model's
            name in Triton. ``unknown`` for what was stored without its provenance.
        revision: Of the weights; ``unknown`` unless the server tells it.
        prompt: What the model was asked; of several calls, a line each. Empty for a vector.
        made_at: When, timezone-aware.
    """

    model: str = UNKNOWN
    revision: str = UNKNOWN
    prompt: str = ""
    made_at: datetime | None = None

    @property
    def is_preview(self) -> bool:
        """Whether a preview model made it."""
        return self.model.startswith(PREVIEW)

    def as_json(self) -> dict[str, str | None]:
        """As JSON holds it; the time is RFC 3339."""
        return {
            "model": self.model,
            "revision": self.revision,
            "prompt": self.prompt,
            "made_at": self.made_at.isoformat(timespec="seconds") if self.made_at else None,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Provenance:
        """The opposite of :meth:`as_json`.

        Raises:
            ValueError: The time cannot be read, or has no time zone.
        """
        made_at = datetime.fromisoformat(fields["made_at"]) if fields.get("made_at") else None
        if made_at is not None and made_at.tzinfo is None:
            raise ValueError("made_at has no time zone")
        names = {name: str(fields[name]) for name in ("model", "revision") if fields.get(name)}
        return cls(prompt=str(fields.get("prompt") or ""), made_at=made_at, **names)


Provenances = Mapping[str, Provenance]
"""By vector name, and :data:`CAPTION`."""


def model_of(provenances: Provenances, part: str) -> str:
    """The model that made a part of an object; ``unknown`` where it is not recorded."""
    return provenances[part].model if part in provenances else UNKNOWN


def vector_models(provenances: Provenances, vectors: Iterable[str]) -> list[str]:
    """``name=model`` for each of an object's vectors."""
    return [f"{name}={model_of(provenances, name)}" for name in sorted(vectors)]


def as_json(provenances: Provenances) -> dict[str, dict[str, str | None]]:
    """All of an object's as JSON holds it."""
    return {name: each.as_json() for name, each in provenances.items()}


def from_json(fields: object) -> dict[str, Provenance]:
    """The opposite of :func:`as_json`; what cannot be read is omitted, and so unknown."""
    found: dict[str, Provenance] = {}
    if not isinstance(fields, Mapping):
        return found
    for name, each in fields.items():
        try:
            found[str(name)] = Provenance.from_json(each)
        except (ValueError, TypeError, AttributeError, KeyError):
            continue
    return found


def to_text(provenances: Provenances) -> str:
    """As the stores keep it."""
    return json.dumps(as_json(provenances), ensure_ascii=False)


def from_text(text: str | None) -> dict[str, Provenance]:
    """The opposite of :func:`to_text`; empty where there is none."""
    try:
        return from_json(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        return {}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server tells of a model: the name and the revision of its weights."""

    model: str
    revision: str = UNKNOWN


_Call = tuple[ServedModel, str]
_calls: ContextVar[list[_Call] | None] = ContextVar("calls", default=None)


def record_call(identify: Callable[[], ServedModel], prompt: str = "") -> None:
    """Record that a model was called.

    Args:
        identify: Tells which; called only where somebody traces.
        prompt: What it was asked.
    """
    calls = _calls.get()
    if calls is not None:
        calls.append((identify(), prompt))


def traced(make: Callable[[], T]) -> tuple[T, Provenance]:
    """Make something, and tell which models were called for it."""
    calls: list[_Call] = []
    token = _calls.set(calls)
    try:
        made = make()
    finally:
        _calls.reset(token)
    return made, _provenance(calls)


def _provenance(calls: Iterable[_Call]) -> Provenance:
    served = list(dict.fromkeys(model for model, _ in calls)) or [ServedModel(UNKNOWN)]
    return Provenance(
        model=" + ".join(dict.fromkeys(each.model for each in served)),
        revision=" + ".join(dict.fromkeys(each.revision for each in served)),
        prompt="\n".join(dict.fromkeys(prompt for _, prompt in calls if prompt)),
        made_at=datetime.now(UTC).replace(microsecond=0),
    )
