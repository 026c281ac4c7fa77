"""The dependencies that the tasks of one process share: clients, and what is built on them.

They are made on first use, which is after the fork: a gRPC channel made before it would hang in
the child.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

from client import connect_openai, connect_sage, connect_triton, open_store
from job_system.celery_config import retry_delay
from job_system.circuit_breaker import CircuitBreaker
from job_system.worker_process import is_stopping, model_call
from metrics import metrics
from processing import Pipeline
from weavloader.circuits import Circuits
from weavloader.dlq.queue import DeadLetters
from weavloader.images.decode import DecodeLimits
from weavloader.images.download import Downloader, ForbiddenNodes
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.nodes import Nodes
from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.retention import DeletedImages, LetGo
from weavloader.saved.matches import Matcher
from weavloader.settings import OPENAI, Settings, get_settings
from weavloader.store.base import ImageObject, Store
from weavloader.stream.sage_api import DataApi

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

    from inference.openai import OpenAIServer
    from weavloader.images.decode import Pixels

PROBE_TIMEOUT = 5.0
NO_IMAGE = "00000000-0000-0000-0000-000000000000"


@cache
def redis_client() -> RedisClient:
    """This process's client of the broker's Redis."""
    return connect_redis(get_settings())


@cache
def data_api() -> DataApi:
    """This process's client of the SAGE data API."""
    settings = get_settings()
    return DataApi(settings.sage_data_api, connect_sage(settings), settings.sage_deadline)


@cache
def dead_letters() -> DeadLetters:
    """The dead-letter queue."""
    return DeadLetters(redis_client(), get_settings().dlq_ttl, metrics.count_capped)


@cache
def triton_client() -> InferenceServerClient:
    """This process's client of Triton."""
    return connect_triton(get_settings())


@cache
def openai_server() -> OpenAIServer:
    """This process's client of the captioner of ``CAPTION_MODEL=openai``."""
    return connect_openai(get_settings())


@cache
def store() -> Store:
    """This process's connection to the store, whose schema is prepared."""
    opened = open_store(get_settings())
    opened.prepare()
    return opened


@cache
def nodes() -> Nodes:
    """What is known of nodes."""
    settings = get_settings()
    return Nodes.from_settings(settings, connect_sage(settings), data_api(), redis_client())


@cache
def let_go() -> LetGo:
    """Which images are not to be stored again."""
    deleted = DeletedImages(redis_client())
    return LetGo(get_settings().keep_objects, deleted, nodes().project)


@cache
def pipeline() -> Pipeline:
    """The pipeline of one image."""
    # Imported here, since only processors should pay for it.
    from inference import embedder
    from inference.model_config import model_config

    settings = get_settings()
    triton = triton_client()
    return Pipeline(
        store=store(),
        downloader=downloader(settings),
        nodes=nodes(),
        let_go=let_go(),
        store_images=settings.store_images,
        keep_images=settings.keep_images,
        caption=model_call(_captioner(settings)),
        embed={
            name: model_call(partial(embedder(name), triton, timeout=settings.triton_timeout))
            for name in settings.embedding_models
        },
        cache=InferenceCache(
            redis_client(),
            ",".join((settings.caption_model, settings.openai_model, *settings.embedding_models)),
        ),
        previews=settings.preview_models,
        match=_matcher(),
        limits=DecodeLimits(
            pixels=settings.max_image_pixels,
            bytes=settings.max_decode_bytes,
            wanted_pixels=model_config().wanted_pixels,
        ),
    )


@cache
def circuit_breaker() -> CircuitBreaker:
    """This process's circuit breaker."""
    redis, settings = redis_client(), get_settings()
    probes = {"triton": _probe_triton, "store": _probe_store}
    if settings.caption_model == OPENAI:
        probes["captioner"] = _probe_captioner
    retry_seconds = sum(retry_delay(number, settings) for number in range(settings.max_retries))
    circuits = Circuits(redis, settings.circuit_failures, retry_seconds)
    return CircuitBreaker(circuits, redis, probes, is_stopping)


def downloader(settings: Settings) -> Downloader:
    """What fetches images from SAGE's storage, with the operator's credentials."""
    password = settings.sage_pass.get_secret_value()
    return Downloader(
        http=connect_sage(settings),
        hosts=settings.sage_storage_hosts,
        auth=(settings.sage_user, password) if settings.sage_user else None,
        max_bytes=settings.max_image_bytes,
        public_hosts=settings.sage_public_hosts,
        forbidden=ForbiddenNodes(redis_client()),
        seconds=settings.sage_deadline,
    )


def _matcher() -> Callable[[ImageObject], None]:
    """What compares images with the saved searches, and counts matches."""
    matcher = Matcher(redis_client())

    def match(image: ImageObject) -> None:
        if new := matcher.note(image):
            metrics.count_matches(new)

    return match


def _captioner(settings: Settings) -> Callable[[Pixels], str]:
    from inference import captioner

    if settings.caption_model == OPENAI:
        return partial(openai_server().caption, timeout=settings.openai_timeout)
    caption = captioner(settings.caption_model)
    return partial(caption, triton_client(), timeout=settings.triton_timeout)


def _probe_triton() -> None:
    from inference.triton import require_models

    require_models(triton_client(), _models(get_settings()), timeout=PROBE_TIMEOUT)


def _probe_captioner() -> None:
    openai_server().probe(timeout=PROBE_TIMEOUT)


def _probe_store() -> None:
    # A read, so that the key is checked too.
    store().get(NO_IMAGE)


def _models(settings: Settings) -> tuple[str, ...]:
    from inference import required_models

    return required_models(settings.caption_model, settings.embedding_models)
