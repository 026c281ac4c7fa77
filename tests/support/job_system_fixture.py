"""The project's own Celery application in this process, on the Redis of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery
from kombu import pools

from client import connect_sage
from job_system import celery_app, dependencies
from job_system.celery_config import celery_config
from weavloader.settings import get_settings


@pytest.fixture
def job_system(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The application, which publishes to an empty Redis and keeps its results there."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, redis_url)
    with ExitStack() as opened:
        monkeypatch.setattr(
            dependencies,
            "connect_sage",
            lambda settings: opened.enter_context(connect_sage(settings)),
        )
        _forget_connections()
        celery_app.loader.import_default_modules()
        yield celery_app
    monkeypatch.undo()
    _forget_connections()


def _forget_connections() -> None:
    """Read the settings again, and connect anew to what they name."""
    shared: tuple[Any, ...] = (
        dependencies.redis_client,
        dependencies.dead_letters,
        dependencies.data_api,
        dependencies.store,
    )
    # Closed at once: left to the garbage collector, another test would be blamed for it.
    if dependencies.redis_client.cache_info().currsize:
        dependencies.redis_client().close()
    for each in shared:
        each.cache_clear()
    get_settings.cache_clear()
    _close(celery_app)
    celery_app.conf.update(celery_config(get_settings()))


def _close(app: Any) -> None:
    backend = getattr(app._local, "backend", None) or app._backend_cache
    if backend is not None:
        backend.client.connection_pool.disconnect()
    pools.reset()  # type: ignore[no-untyped-call]
    app._pool = app.amqp._producer_pool = app._backend_cache = None
    app._local.__dict__.clear()
