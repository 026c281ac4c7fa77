"""What the tasks of one process share: clients and what is built on them, made on first use.

On first use means after the fork: a gRPC channel made before it would hang in the child.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from client import connect_sage, connect_triton, open_store
from job_system.circuit_breaker import Outages
from job_system.worker_process import is_stopping
from processing import Pipeline
from weavloader.dlq.queue import DeadLetters
from weavloader.images.download import Downloader
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.nodes import Nodes
from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.settings import Settings, get_settings
from weavloader.store.base import Store
from weavloader.stream.sage_api import DataApi

PROBE_TIMEOUT = 5.0
NOBODY = "00000000-0000-0000-0000-000000000000"


@cache
def redis_client() -> RedisClient:
    """This process's client of the broker's Redis."""
    return connect_redis(get_settings())


@cache
def data_api() -> DataApi:
    """This process's client of the SAGE data API."""
    settings = get_settings()
    return DataApi(settings.sage_data_api, connect_sage(settings))


@cache
def dead_letters() -> DeadLetters:
    """The dead-letter queue."""
    return DeadLetters(redis_client(), get_settings().dlq_ttl)


@cache
def triton_client() -> Any:
    """This process's client of Triton."""
    return connect_triton(get_settings())


@cache
def store() -> Store:
    """This process's connection to the store, whose schema is prepared."""
    opened = open_store(get_settings())
    opened.prepare()
    return opened


@cache
def pipeline() -> Pipeline:
    """All that one image passes through."""
    # Imported here, since only processors should pay for it.
    from inference import captioner, embedder
    from inference.model_config import model_config

    settings = get_settings()
    triton = triton_client()
    caption = captioner(settings.caption_model)
    return Pipeline(
        store=store(),
        downloader=downloader(settings),
        nodes=_nodes(settings),
        caption=partial(caption, triton, timeout=settings.triton_timeout),
        embed={
            name: partial(embedder(name), triton, timeout=settings.triton_timeout)
            for name in settings.embedding_models
        },
        cache=InferenceCache(
            redis_client(), ",".join((settings.caption_model, *settings.embedding_models))
        ),
        max_pixels=settings.max_image_pixels,
        wanted_pixels=model_config().wanted_pixels,
    )


@cache
def outages() -> Outages:
    """This process's circuits."""
    return Outages({"triton": _ask_triton, "store": _ask_store}, is_stopping)


def downloader(settings: Settings) -> Downloader:
    """What fetches images from SAGE's storage, with the operator's credentials."""
    password = settings.sage_pass.get_secret_value()
    return Downloader(
        http=connect_sage(settings),
        hosts=settings.sage_storage_hosts,
        auth=(settings.sage_user, password) if settings.sage_user else None,
        max_bytes=settings.max_image_bytes,
    )


def _nodes(settings: Settings) -> Nodes:
    return Nodes(
        http=connect_sage(settings),
        api=data_api(),
        redis=redis_client(),
        manifest_url=settings.manifest_api,
        manifest_ttl=settings.manifest_ttl,
        position_ttl=settings.position_ttl,
    )


def _ask_triton() -> None:
    from inference.contracts import require_models

    require_models(triton_client(), _models(get_settings()), timeout=PROBE_TIMEOUT)


def _ask_store() -> None:
    # A read, so that the key is checked too.
    store().get(NOBODY)


def _models(settings: Settings) -> tuple[str, ...]:
    from inference import required_models

    return required_models(settings.caption_model, settings.embedding_models)
