"""Reaching every dependency in earnest, down to fetching an image from SAGE."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

from client import connect_redis, connect_sage, connect_triton, open_store
from inference import required_models
from inference.contracts import require_contracts, require_models
from job_system.dependencies import downloader
from job_system.findings import Probe
from weavloader.errors import ConfigError, Reason, WeavloaderError
from weavloader.images.job import ImageJob
from weavloader.settings import Settings
from weavloader.stream.sage_api import DataApi

TIMEOUT = 5.0


def _redis(settings: Settings) -> str:
    with closing(connect_redis(settings)) as redis:
        redis.ping()
        return f"version {redis.info('server')['redis_version']}"


def _triton(settings: Settings) -> str:
    with closing(connect_triton(settings)) as triton:
        names = required_models(settings.caption_model, settings.embedding_models)
        require_models(triton, names, timeout=TIMEOUT)
        require_contracts(triton, names, timeout=TIMEOUT)
    return f"ready: {', '.join(names)}"


def _store(settings: Settings) -> str:
    with closing(open_store(settings)) as store:
        store.prepare()
        return f"{settings.vector_store} with {store.count()} images"


def _sage(settings: Settings) -> str:
    job = _newest_image(settings)
    return f"newest image captured {job.timestamp}" if job else "reached; no image in the last hour"


def _storage(settings: Settings) -> str:
    if not settings.sage_user:
        raise ConfigError("SAGE_USER and SAGE_PASS are not set", reason=Reason.NO_CREDENTIALS)
    job = _newest_image(settings)
    if job is None:
        return "not tried: no image in the last hour"
    size = len(downloader(settings).fetch(job.url))
    return f"credentials accepted; {size:,} bytes fetched"


def _newest_image(settings: Settings) -> ImageJob | None:
    with connect_sage(settings) as http:
        records = DataApi(settings.sage_data_api, http).records(settings.sage_filter, "-1h", tail=1)
        jobs = list(islice((job for record in records if (job := _job(record))), 100))
    return max(jobs, key=lambda job: job.captured_at, default=None)


def _job(record: object) -> ImageJob | None:
    try:
        return ImageJob.from_record(record)
    except WeavloaderError:
        return None  # the stream counts and logs such records


PROBES: dict[str, Probe] = {
    "redis": _redis,
    "triton": _triton,
    "store": _store,
    "sage": _sage,
    "storage": _storage,
}
