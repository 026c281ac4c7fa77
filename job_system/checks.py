"""The checks of ``python main.py check``: of every dependency, or of one role on this host.

The check of a role is light enough to run every minute: what only a dependency's check needs,
such as the client of Triton, is imported there.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import httpx
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as RedisTimeout

from job_system.app import celery_app
from metrics.health import builtin_probes
from metrics.redis_state import TIMEOUT as REDIS_TIMEOUT
from metrics.redis_state import active_scheduler
from weavloader import redis_keys
from weavloader.errors import ConfigError, Reason, TransientError, WeavloaderError
from weavloader.images.job import ImageJob
from weavloader.provenance import PREVIEW
from weavloader.redis_connection import connect_redis, shared_moment
from weavloader.settings import OPENAI, Settings

TRITON_TIMEOUT = 5.0
CAPTIONER_TIMEOUT = 10.0
ROLE_TIMEOUT = 3.0
# A poll may take a minute, and on an idle stream the next one comes two minutes later.
MAX_MISSED_POLLS = 3
_KEY_OF_CELERY = "_kombu.binding.celery.pidbox"

Check = Callable[[Settings], str]
"""Returns a detail such as a version when all is well, or raises why it is not."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went."""

    name: str
    ok: bool
    detail: str


def run_checks(checks: Mapping[str, Check], settings: Settings) -> Iterator[CheckResult]:
    """Run one check after another."""
    for name, check in checks.items():
        try:
            yield CheckResult(name, True, check(settings))
        except (WeavloaderError, RedisError, httpx.HTTPError) as error:
            yield CheckResult(name, False, str(error) or type(error).__name__)


def dependency_checks(settings: Settings) -> dict[str, Check]:
    """Checks of every dependency that a configuration has."""
    captioner = {"captioner": _captioner} if settings.caption_model == OPENAI else {}
    return {
        "redis": _redis,
        "triton": _triton,
        **captioner,
        "store": _store,
        "sage": _sage,
        "storage": _storage,
    }


def role_checks(role: str, settings: Settings) -> dict[str, Check]:
    """Checks that a role works: Redis, the role itself, and what it cannot work without."""
    own = {"redis": _component("redis"), role: _ROLES.get(role) or _worker(role)}
    if role != "processor":
        return own
    captioner = ("captioner",) if settings.caption_model == OPENAI else ()
    return {**own, **{name: _component(name) for name in ("triton", *captioner, "store")}}


def _redis(settings: Settings) -> str:
    try:
        with closing(connect_redis(settings)) as redis:
            about = {**redis.info("server"), **redis.info("memory"), **redis.info("persistence")}
            redis.exists(*redis_keys.QUEUES, redis_keys.dead_letter("check"), _KEY_OF_CELERY)
    except AuthenticationError as error:
        text = f"not let in by USER:PASSWORD of CELERY_BROKER_URL: {error}"
        raise ConfigError(text, reason=Reason.BAD_SETTING) from error
    except NoPermissionError as error:
        text = f"its user needs ~* &* +@all, since Celery names keys of its own: {error}"
        raise ConfigError(text, reason=Reason.BAD_SETTING) from error
    except (ConnectionLost, RedisTimeout) as error:
        scheme = settings.celery_broker_url.get_secret_value().partition(":")[0]
        text = f"{error} (by {scheme}://; TLS needs rediss://)"
        raise TransientError(text, reason=Reason.REDIS_UNREACHABLE) from error
    policy = about["maxmemory_policy"]
    if about["maxmemory"] and policy != "noeviction":
        text = f"with maxmemory-policy {policy} it deletes tasks or dead letters: set noeviction"
        raise ConfigError(text, reason=Reason.BAD_SETTING)
    kept = "" if about["aof_enabled"] else "; a restart loses tasks, since appendonly is off"
    return f"version {about['redis_version']}{kept}"


def _triton(settings: Settings) -> str:
    from client import connect_triton
    from inference import required_models
    from inference.triton import require_contracts, require_models, served_model

    with closing(connect_triton(settings)) as triton:
        names = required_models(settings.caption_model, settings.embedding_models)
        require_models(triton, names, timeout=TRITON_TIMEOUT)
        require_contracts(triton, names, timeout=TRITON_TIMEOUT)
        served = [served_model(triton, name).model for name in names]
    previews = [each for each in served if each.startswith(PREVIEW)]
    if bool(previews) != settings.preview_models:
        kind = f"PREVIEW models ({', '.join(previews)})" if previews else "real models"
        text = f"it serves {kind}, and PREVIEW_MODELS is {str(settings.preview_models).lower()}"
        raise TransientError(text, reason=Reason.PREVIEW_MODELS)
    kind = "PREVIEW models, which describe colours: " if previews else ""
    return f"{kind}ready: {', '.join(names)}"


def _captioner(settings: Settings) -> str:
    from client import connect_openai

    with closing(connect_openai(settings)) as server:
        server.require_model(timeout=CAPTIONER_TIMEOUT)
    return f"{settings.openai_model} at {settings.openai_base_url}"


def _store(settings: Settings) -> str:
    from client import open_store

    with closing(open_store(settings)) as store:
        schema = store.schema()
        if schema.fields and schema.missing:  # left as it is, for roles of the version that made it
            lacks = f"{schema.name} lacks {', '.join(schema.missing)}"
            return f"{lacks}: `python main.py schema migrate` adds it, as the first role does"
        store.prepare()
        return f"{settings.vector_store} with {store.count()} images"


def _sage(settings: Settings) -> str:
    job = _newest_image(settings)
    return f"newest image captured {job.timestamp}" if job else "reached; no image in the last hour"


def _storage(settings: Settings) -> str:
    from job_system.dependencies import downloader

    if not settings.sage_user:
        raise ConfigError("SAGE_USER and SAGE_PASS are not set", reason=Reason.NO_CREDENTIALS)
    job = _newest_image(settings)
    if job is None:
        return "not tried: no image in the last hour"
    size = len(downloader(settings).fetch(job.url))
    return f"credentials accepted; {size:,} bytes fetched"


def _newest_image(settings: Settings) -> ImageJob | None:
    from client import connect_sage
    from weavloader.stream.sage_api import DataApi

    with connect_sage(settings) as http:
        records = DataApi(settings.sage_data_api, http).records(settings.sage_filter, "-1h", tail=1)
        jobs = list(islice((job for record in records if (job := _job(record))), 100))
    return max(jobs, key=lambda job: job.captured_at, default=None)


def _job(record: object) -> ImageJob | None:
    try:
        return ImageJob.from_record(record)
    except WeavloaderError:
        return None  # the stream counts and logs such records


def _component(name: str) -> Check:
    def check(settings: Settings) -> str:
        with closing(connect_redis(settings, timeout=REDIS_TIMEOUT)) as redis:
            builtin_probes(settings, redis)[name]()
        return "answers"

    return check


def _worker(role: str) -> Check:
    """Ask the worker's event loop through the broker, by which it gets its tasks too."""

    def check(settings: Settings) -> str:
        name = f"{role}@{socket.gethostname()}"
        try:
            answer = celery_app.control.inspect(destination=[name], timeout=ROLE_TIMEOUT).ping()
        except (OperationalError, OSError) as error:
            raise TransientError(f"broker: {error}", reason=Reason.REDIS_UNREACHABLE) from error
        if not answer:
            message = f"no answer from {name} within {ROLE_TIMEOUT:g} s"
            raise TransientError(message, reason=Reason.NO_WORKER)
        return f"{name} answers"

    return check


def _stream(settings: Settings) -> str:
    with closing(connect_redis(settings, timeout=REDIS_TIMEOUT)) as redis:
        last = redis.get(redis_keys.STREAM_LAST_POLL)
        if last is None:
            raise TransientError("the stream was never polled", reason=Reason.NO_POLL)
        polled_at = datetime.fromisoformat(json.loads(last)["at"])
        age = (shared_moment(redis) - polled_at).total_seconds()
    text = f"the stream was polled {age:.0f} s ago"
    if age > MAX_MISSED_POLLS * settings.poll_max_seconds:
        raise TransientError(text, reason=Reason.NO_POLL)
    return text


def _scheduler(settings: Settings) -> str:
    with closing(connect_redis(settings, timeout=REDIS_TIMEOUT)) as redis:
        name = active_scheduler(redis)
    if name is None:
        raise TransientError("no scheduler holds the lock", reason=Reason.NO_SCHEDULER)
    return f"{name} holds the lock"


def _page(address: str, port: int, path: str) -> str:
    host = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - a comparison
    url = f"http://{host}:{port}{path}"
    try:
        status = httpx.get(url, timeout=ROLE_TIMEOUT).status_code
    except httpx.HTTPError as error:
        raise TransientError(f"{url}: {type(error).__name__}", reason=Reason.NO_PAGE) from error
    if status != httpx.codes.OK:
        raise TransientError(f"{url}: HTTP {status}", reason=Reason.NO_PAGE)
    return f"{url} answers"


_ROLES: dict[str, Check] = {
    "stream": _stream,
    "scheduler": _scheduler,
    "metrics": lambda given: _page(given.metrics_address, given.metrics_port, "/health/live"),
    "flower": lambda given: _page(given.flower_address, given.flower_port, "/healthcheck"),
    "web": lambda given: _page(given.web_address, given.web_port, "/"),
}
