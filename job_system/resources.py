"""What the tasks of one process share: clients and what is built on them, made on first use.

On first use means after the fork: a gRPC channel made before it would hang in the child.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from client import connect_redis, connect_sage
from processing import Pipeline
from weavloader.dead_letters import DeadLetters
from weavloader.download import Downloader
from weavloader.nodes import Nodes
from weavloader.sage import DataApi
from weavloader.settings import Settings, get_settings


@cache
def redis_client() -> Any:
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
def pipeline() -> Pipeline:
    """All that one image passes through."""
    # Imported here, since only processors should pay for Triton's and the store's clients.
    from client import connect_triton, open_store
    from inference import captioner, embedder, model_config

    settings = get_settings()
    triton = connect_triton(settings)
    caption = captioner(settings.caption_model)
    store = open_store(settings)
    store.prepare()
    return Pipeline(
        store=store,
        downloader=downloader(settings),
        nodes=_nodes(settings),
        caption=partial(caption, triton, timeout=settings.triton_timeout),
        embed={
            name: partial(embedder(name), triton, timeout=settings.triton_timeout)
            for name in settings.embedding_models
        },
        max_pixels=settings.max_image_pixels,
        wanted_pixels=model_config().wanted_pixels,
    )


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
