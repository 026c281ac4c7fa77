"""A connection that a firewall has dropped costs one reconnect, and no image and no page."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.connection import Connection
from redbeat import RedBeatScheduler
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from demo.servers.waiting import wait_until
from job_system import signals
from job_system.celery_config import celery_config
from job_system.scheduler import Scheduler
from tests.support.firewall import Firewall, firewall
from tests.support.redis_fixture import StoppableRedis
from weavloader import redis_connection, redis_keys
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings, load_settings

# Seconds; a healthy Redis answers within them on a busy machine too.
TIMEOUT = 2.0


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


def test_a_redis_that_answers_nothing_is_tried_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with connect_redis(load_settings(celery_broker_url=url), timeout=0.2) as client:
            with pytest.raises(RedisError):
                client.get("name")
        silent.settimeout(0)
        for _ in range(2):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


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


def failed_at() -> float:
    """When a connection of this process last failed."""
    return float(vars(redis_connection)["_failed_at"])


def test_one_timeout_heals_all_connections_of_a_process(
    way: Firewall, settings: Settings, job_system: Celery
) -> None:
    options = {"socket_timeout": TIMEOUT}
    url = settings.celery_broker_url.get_secret_value()
    with (
        connect_redis(settings, timeout=TIMEOUT) as client,
        connect_redis(settings, timeout=TIMEOUT) as other,
        Connection(url, transport_options=options) as connection,  # type: ignore[no-untyped-call]
    ):
        pool = vars(client)["connection_pool"]
        for each in [pool.get_connection() for _ in range(5)]:
            pool.release(each)
        other.ping()
        channel: Any = connection.channel()
        with channel.conn_or_acquire() as of_kombu:
            of_kombu.ping()
        results = RedisBackend(app=job_system, url=url)
        signals._suspect_results(SimpleNamespace(app=SimpleNamespace(backend=results)))
        results.client.ping()
        way.forget()
        assert client.ping()
        began = failed_at()
        assert began > 0, "the first one fails"
        held = [pool.get_connection() for _ in range(5)]
        for each in held:
            each.send_command("PING")
            assert each.read_response() == b"PONG"
            pool.release(each)
        with channel.conn_or_acquire() as of_kombu:
            assert other.ping() and of_kombu.ping() and results.client.ping()
        assert failed_at() == began, "no other one does"


def test_what_waits_for_messages_waits_on_a_new_connection_once_another_one_fails(
    way: Firewall, settings: Settings, job_system: Celery
) -> None:
    url = settings.celery_broker_url.get_secret_value()
    queue = job_system.amqp.queues[redis_keys.CLEANUP_QUEUE]
    received: list[Any] = []
    with (
        connect_redis(settings, timeout=TIMEOUT) as client,
        job_system.connection_for_read(url) as connection,
    ):
        channel = connection.channel()
        with connection.Consumer([queue], channel=channel, on_message=received.append):
            for _ in range(2):  # the second time it waits
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=0.1)
            client.ping()
            way.forget()
            job_system.send_task("job_system.tasks.archive_failed_tasks")
            client.ping()
            channel.drop_suspects()
            wait_until(lambda: drained(connection) and received, "the message", 20)


def test_a_lost_connection_is_closed_as_celery_does_and_no_other_error_ends_the_worker(
    own_redis: StoppableRedis, job_system: Celery
) -> None:
    queue = job_system.amqp.queues[redis_keys.CLEANUP_QUEUE]
    connection = job_system.connection_for_read(own_redis.url)
    channel = connection.default_channel
    route = {"exchange": "", "routing_key": "cleanup"}
    channel.qos.append(SimpleNamespace(_raw={}, delivery_info=route), "tag")
    for each in (channel, connection.channel()):
        connection.Consumer([queue], channel=each).consume()
    assert not drained(connection) and not drained(connection), "it waits for messages"
    own_redis.stop()
    connection.collect()
    # It closes the channel once more, which has a message to put back, and no way to Redis.
    connection.close()


def drained(connection: Any) -> bool:
    """Whether something came within a moment."""
    try:
        connection.drain_events(timeout=0.1)
    except TimeoutError:
        return False
    return True


def test_a_server_that_became_a_replica_is_left_for_the_one_that_its_name_leads_to(
    own_redis: StoppableRedis, tmp_path: Path, job_system: Celery
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    second = StoppableRedis(folder)
    second.start()
    with firewall(own_redis.port) as way, own_redis.client() as first:
        url = f"redis://127.0.0.1:{way.port}/0"
        client = connect_redis(load_settings(celery_broker_url=url))
        with client, Connection(url) as connection:  # type: ignore[no-untyped-call]
            channel: Any = connection.channel()
            client.set("name", "old")
            channel._put("cleanup", {})
            first.replicaof("127.0.0.1", "1")  # of no matter whom
            way.target = second.port
            with pytest.raises(channel.connection_errors):  # Celery tries again
                channel._put("cleanup", {})
            channel._put("cleanup", {})
            client.set("name", "new")
            client.incr("count")
        with second.client() as new:
            assert new.get("name") == b"new" and new.get("count") == b"1"
            assert new.llen("cleanup") == 1
    second.stop()


def test_celery_takes_a_redis_that_cannot_serve_for_one_that_is_away(
    redis: Any, redis_url: str, job_system: Celery
) -> None:
    with Connection(redis_url) as connection:  # type: ignore[no-untyped-call]
        channel: Any = connection.channel()
        channel._put("cleanup", {})
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(channel.connection_errors, match="cannot serve"):
                channel._put("cleanup", {})
        finally:
            redis.config_set("maxmemory", 0)
        channel._put("cleanup", {})


def test_the_scheduler_waits_for_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise ConnectionLost

    monkeypatch.setattr(Scheduler, "_run_again_from_now", lambda _: None)
    monkeypatch.setattr(RedBeatScheduler, "tick", fail)
    assert Scheduler.__new__(Scheduler).tick() > 0


def test_celery_checks_connections_that_were_idle() -> None:
    config = celery_config(load_settings())
    assert config["broker_transport_options"]["health_check_interval"] > 0
    assert config["redis_backend_health_check_interval"] > 0
    assert config["redis_socket_keepalive"] and config["redis_retry_on_timeout"]
