"""Asking one thing after another how it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx
from redis.exceptions import RedisError

from weavloader.errors import WeavloaderError
from weavloader.settings import Settings

Probe = Callable[[Settings], str]
"""Says something good of what it asks, or raises why it cannot."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How asking one thing went."""

    name: str
    ok: bool
    detail: str


def findings(probes: Mapping[str, Probe], settings: Settings) -> Iterator[Finding]:
    """Ask each in turn."""
    for name, probe in probes.items():
        yield _try(name, probe, settings)


def _try(name: str, probe: Probe, settings: Settings) -> Finding:
    try:
        return Finding(name, True, probe(settings))
    except (WeavloaderError, RedisError, httpx.HTTPError) as error:
        return Finding(name, False, str(error) or type(error).__name__)
