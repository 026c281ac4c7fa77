"""A connection that a firewall has dropped costs one reconnect, and no image and no page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu.connection import Connection

from job_system.celery_config import celery_config
from tests.support.firewall import Firewall, firewall
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings, load_settings

TIMEOUT = 0.5


@pytest.fixture
def way(redis_url: str) -> Iterator[Firewall]:
    """A way to an empty Redis."""
    with firewall(urlsplit(redis_url).port or 0) as running:
        yield running


@pytest.fixture
def settings(way: Firewall) -> Settings:
    """Settings that lead this way."""
    return load_settings(celery_broker_url=f"redis://127.0.0.1:{way.port}/0")


def test_the_first_command_after_the_drop_is_answered(way: Firewall, settings: Settings) -> None:
    with connect_redis(settings, timeout=TIMEOUT) as client:
        client.set("name", "value")
        way.forget()
        began = time.monotonic()
        assert client.get("name") == b"value"
        assert time.monotonic() - began >= TIMEOUT, "the drop was noticed by the timeout"
        assert way.accepted == 2


def test_an_acknowledgement_is_repeated(way: Firewall, job_system: Celery) -> None:
    url = f"redis://127.0.0.1:{way.port}/0"
    options = {"socket_timeout": TIMEOUT}
    with Connection(url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        qos: Any = connection.channel().qos
        qos.prefetch_count = 1
        route = {"exchange": "", "routing_key": "cleanup"}
        qos.append(SimpleNamespace(_raw={}, delivery_info=route), "tag")
        assert not qos.can_consume()
        way.forget()
        qos.ack("tag")
        assert qos.can_consume()
        with qos.channel.conn_or_acquire() as client:
            assert not client.exists(qos.unacked_key, qos.unacked_index_key)


def test_celery_checks_connections_that_were_idle() -> None:
    config = celery_config(load_settings())
    assert config["broker_transport_options"]["health_check_interval"] > 0
    assert config["redis_backend_health_check_interval"] > 0
    assert config["redis_socket_keepalive"] and config["redis_retry_on_timeout"]
