"""Where Redis is: by its URL, over TLS, or by Sentinels; and what its clock says."""

from __future__ import annotations

import time
from typing import cast

import pytest
from celery import Celery
from redis import Redis
from redis.connection import SSLConnection
from redis.sentinel import SentinelConnectionPool

from job_system import celery_app
from job_system.celery_config import celery_config
from weavloader import redis_connection
from weavloader.redis_connection import (
    RedisClient,
    SentinelAddress,
    connect_redis,
    shared_moment,
    shared_now,
)
from weavloader.settings import load_settings

SENTINELS = "sentinel://:p%40ss@one:26379/2;sentinel://:p%40ss@two/2"


def test_a_url_of_sentinels_names_hosts_password_and_database() -> None:
    address = SentinelAddress.from_url(SENTINELS)
    assert address.hosts == (("one", 26379), ("two", 26379))
    assert (address.username, address.password, address.db) == (None, "p@ss", 2)
    assert "p@ss" not in repr(address)


def test_the_scheme_and_the_database_may_stand_once() -> None:
    address = SentinelAddress.from_url("sentinel://user:pw@one:1;two:2/3")
    assert address.hosts == (("one", 1), ("two", 2))
    assert (address.username, address.password, address.db) == ("user", "pw", 3)


def test_a_client_asks_the_sentinels_for_the_master_that_the_settings_name() -> None:
    settings = load_settings(celery_broker_url=SENTINELS, redis_master_name="images")
    with connect_redis(settings, timeout=1) as client:
        pool = cast(Redis, client).connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        assert pool.service_name == "images"
        assert pool.connection_kwargs["password"] == "p@ss"
        assert pool.connection_kwargs["db"] == 2


@pytest.mark.parametrize("url", ["rediss://h/0", "rediss://h/0?ssl_ca_certs=/ca.pem"])
def test_certificates_are_checked_unless_the_url_says_otherwise(url: str) -> None:
    settings = load_settings(celery_broker_url=url, celery_result_backend=url)
    for given in (settings.celery_broker_url, settings.celery_result_backend):
        assert given.get_secret_value().endswith("ssl_cert_reqs=required")
    with connect_redis(settings) as client:
        assert issubclass(cast(Redis, client).connection_pool.connection_class, SSLConnection)
    connection = celery_app.connection(settings.celery_broker_url.get_secret_value())
    assert connection.ssl, "kombu would connect without TLS"


def test_a_url_that_says_how_certificates_are_checked_is_left_alone() -> None:
    url = "rediss://h/0?ssl_cert_reqs=none"
    given = load_settings(celery_broker_url=url).celery_broker_url
    assert given.get_secret_value() == url


def test_a_plain_url_is_left_alone() -> None:
    with connect_redis(load_settings(celery_broker_url="redis://h:1/0")) as client:
        assert type(cast(Redis, client)) is Redis


@pytest.mark.parametrize("url", ["redis://:p%40ss@h/0", "rediss://me:p%40ss@h/0", SENTINELS])
def test_celery_shows_its_configuration_without_a_password(url: str) -> None:
    """In ``celery report``, and in ``/api/workers`` of Flower."""
    settings = load_settings(celery_broker_url=url, celery_result_backend=url)
    app = Celery(set_as_current=False)
    app.config_from_object(celery_config(settings))
    shown = app.conf.humanize() + repr(app.conf.table(censored=True))
    assert "redbeat" in shown
    assert "p%40ss" not in shown and "p@ss" not in shown


def test_beat_signs_in_with_the_password_of_the_broker() -> None:
    config = celery_config(load_settings(celery_broker_url="redis://me:p%40ss@h:1/3"))
    client = Redis.from_url(
        config["redbeat_redis_url"],
        username=config["redbeat_redis_options"]["username"],
        password=config["redbeat_redis_options"]["password"],
    )
    wanted = {"host": "h", "port": 1, "db": 3, "username": "me", "password": "p@ss"}
    assert wanted.items() <= client.connection_pool.connection_kwargs.items()


def test_beat_finds_its_lock_by_the_same_sentinels() -> None:
    config = celery_config(load_settings(celery_broker_url=SENTINELS))
    assert config["redbeat_redis_url"].startswith("redis-sentinel")
    assert config["redbeat_redis_options"]["sentinels"] == [("one", 26379), ("two", 26379)]
    assert config["redbeat_redis_options"]["service_name"] == "mymaster"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel"])
def test_every_scheme_has_a_transport_of_ours_and_keeps_its_name(scheme: str) -> None:
    connection = celery_app.connection(f"{scheme}://h/0")
    assert connection.get_transport_cls().__module__ == "job_system.broker.transport"
    assert connection.as_uri().startswith(f"{scheme}://"), "Flower knows a broker by its scheme"


def test_the_clock_of_redis_is_asked_once_a_minute_and_follows_no_step_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed, asked = 0.0, 0

    class Server:
        def time(self) -> tuple[int, int]:
            nonlocal asked
            asked += 1
            return 1_000_000 + int(passed), 250_000

    server = cast(RedisClient, Server())
    monkeypatch.setattr(redis_connection, "_clock", None)
    monkeypatch.setattr(time, "monotonic", lambda: passed)
    monkeypatch.setattr(time, "time", lambda: 7.0)
    for passed in (0.0, 1.0, 59.0, 61.0, 120.0, 122.0):
        assert shared_now(server) == pytest.approx(1_000_000.25 + passed)
        assert shared_moment(server).timestamp() == pytest.approx(1_000_000.25 + passed)
    assert asked == 3
