"""Health as a load balancer sees it, while real parts go away and come back."""

from __future__ import annotations

from pathlib import Path

from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.support.metrics_endpoint import metrics_server
from tests.support.redis_fixture import StoppableRedis
from weavloader.store.embedded.store import EmbeddedStore

PROMISED_SECONDS = 30


def test_health_names_redis_while_it_is_gone_and_recovers(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server:
        assert server.get("/health/ready").status_code == 200
        own_redis.stop()
        gone = server.get("/health")
        page = server.metrics()
        assert server.get("/health/ready").status_code == 503
        assert server.get("/health/live").status_code == 200
        own_redis.start()
        back = server.get("/health").json()
    assert gone.status_code == 503
    assert gone.json()["components"]["redis"] == "Redis: ConnectionError"
    assert "weavloader_queue_size" not in page
    assert 'weavloader_component_health{component="redis"} 0.0' in page
    assert back["components"]["redis"] == "ok"


def test_health_tells_each_component_and_the_time(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server:
        response = server.get("/health")
    report = response.json()
    assert response.status_code == 503
    assert report["status"] == "unhealthy"
    assert report["timestamp"].endswith("+00:00")
    assert report["components"]["store"] == "ok"
    assert report["components"]["triton"].startswith("Triton: ")


def test_health_names_what_is_killed_within_30_s_and_is_well_when_it_is_back(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    store = EmbeddedStore(folder, timeout=5)
    store.prepare()
    store.close()
    with Triton(tmp_path / "triton.log") as triton:
        where = {"TRITON_HOST": triton.host, "TRITON_PORT": str(triton.ports.grpc)}
        with metrics_server(tmp_path, own_redis, **where) as server:

            def well() -> bool:
                return server.get("/health").status_code == 200

            wait_until(well, "health at first", PROMISED_SECONDS)
            own_redis.stop()
            wait_until(lambda: server.ailment("redis"), "word of Redis", PROMISED_SECONDS)
            own_redis.start()
            wait_until(well, "health with Redis back", PROMISED_SECONDS)
            triton.stop()
            wait_until(lambda: server.ailment("triton"), "word of Triton", PROMISED_SECONDS)
            assert not server.ailment("redis")
            triton.start()
            wait_until(well, "health with Triton back", PROMISED_SECONDS)
            folder.rename(tmp_path / "elsewhere")
            wait_until(lambda: server.ailment("store"), "word of the store", PROMISED_SECONDS)
            folder.mkdir()
            assert "vanished" in server.ailment("store")
            folder.rmdir()
            (tmp_path / "elsewhere").rename(folder)
            wait_until(well, "health with the store back", PROMISED_SECONDS)
