"""Whether one role is at work on this host: light enough to be asked every minute."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from datetime import UTC, datetime

import httpx
from kombu.exceptions import OperationalError

from job_system.app import celery_app
from job_system.findings import Probe
from metrics.health import builtin_probes
from metrics.redis_state import connect
from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.settings import Settings

TIMEOUT = 3.0
# A look may take a minute, and on an idle stream the next one comes two minutes later.
MISSED_TICKS = 3


def probes_of(role: str) -> dict[str, Probe]:
    """What tells that a role works: Redis, itself, and what it cannot work without."""
    own = {"redis": _redis, role: _OWN.get(role) or (lambda settings: _answers_ping(role))}
    if role != "processor":
        return own
    return {**own, **{name: _component(name) for name in ("triton", "store")}}


def _component(name: str) -> Probe:
    def probe(settings: Settings) -> str:
        with closing(connect(settings)) as redis:
            builtin_probes(settings, redis)[name]()
        return "answers"

    return probe


def _answers_ping(role: str) -> str:
    """Ask the worker's event loop through the broker, by which it gets its tasks too."""
    name = f"{role}@{socket.gethostname()}"
    try:
        answer = celery_app.control.inspect(destination=[name], timeout=TIMEOUT).ping()
    except (OperationalError, OSError) as error:
        raise TransientError(f"broker: {error}", reason=Reason.REDIS_UNREACHABLE) from error
    if not answer:
        raise TransientError(f"no answer from {name} within {TIMEOUT:g} s", reason=Reason.NO_WORKER)
    return f"{name} answers"


def _stream(settings: Settings) -> str:
    with closing(connect(settings)) as redis:
        note = redis.get(redis_keys.STREAM_LAST_TICK)
    if note is None:
        raise TransientError("the stream was never looked at", reason=Reason.NO_POLL)
    age = (datetime.now(UTC) - datetime.fromisoformat(json.loads(note)["at"])).total_seconds()
    text = f"the stream was looked at {age:.0f} s ago"
    if age > MISSED_TICKS * settings.poll_max_seconds:
        raise TransientError(text, reason=Reason.NO_POLL)
    return text


def _scheduler(settings: Settings) -> str:
    with closing(connect(settings)) as redis:
        held = redis.exists(redis_keys.BEAT_LOCK)
    if not held:
        raise TransientError("no beat holds the lock", reason=Reason.NO_SCHEDULER)
    return "a beat holds the lock"


def _page(address: str, port: int, path: str) -> str:
    host = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - a comparison
    url = f"http://{host}:{port}{path}"
    try:
        status = httpx.get(url, timeout=TIMEOUT).status_code
    except httpx.HTTPError as error:
        raise TransientError(f"{url}: {type(error).__name__}", reason=Reason.NO_PAGE) from error
    if status != httpx.codes.OK:
        raise TransientError(f"{url}: HTTP {status}", reason=Reason.NO_PAGE)
    return f"{url} answers"


_redis = _component("redis")
_OWN: dict[str, Probe] = {
    "stream": _stream,
    "scheduler": _scheduler,
    "metrics": lambda given: _page(given.metrics_address, given.metrics_port, "/health/live"),
    "flower": lambda given: _page(given.flower_address, given.flower_port, "/healthcheck"),
    "web": lambda given: _page(given.web_address, given.web_port, "/"),
}
