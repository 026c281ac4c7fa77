"""The state of the system on the pages, with a real Redis and a real store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as redis_py
import yaml
from celery import Celery

from demo.servers.ports import free_ports
from demo.servers.waiting import wait_until
from tests.support.pages import SNOW, an_image, keep, served
from weavloader import redis_keys
from weavloader.settings import Settings, load_settings
from web.image_service import ImageService
from web.snapshot import Monitor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    (port,) = free_ports(1)
    return load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path / "store"),
        celery_broker_url=redis_url,
        triton_host="127.0.0.1",
        triton_port=port,
        flower_url="http://127.0.0.1:1",
    )


@pytest.fixture
def site(settings: Settings) -> Iterator[httpx.Client]:
    """The pages, with five snapshots a second."""
    with closing(ImageService(settings)) as images:
        monitor = Monitor(settings, images, interval=0.2)
        with monitor.running(), served(settings, monitor) as client:
            yield client


def next_status(site: httpx.Client) -> Any:
    """The status of a snapshot that began after this call, with Redis and the store read.

    It is not the first one, which cannot tell that there are no workers.
    """
    now = datetime.now(UTC)

    def seen() -> Any:
        status = site.get("/api/status").json()
        is_new = datetime.fromisoformat(status["at"]) > now
        is_read = status["queues"] is not None and status["images_stored"] is not None
        return status if is_new and is_read and len(status["history"]["at"]) > 1 else None

    return wait_until(seen, "a snapshot")


def test_the_status_has_stored_queued_dead_and_failed_parts(
    settings: Settings, redis_url: str, site: httpx.Client
) -> None:
    keep(settings, [an_image("one", "snow", SNOW), an_image("two", "ice", SNOW, minutes_ago=1)])
    captured = datetime.now(UTC) - timedelta(seconds=90)
    with redis_py.Redis.from_url(redis_url, socket_timeout=5) as redis:
        redis.rpush(redis_keys.IMAGE_QUEUE, "{}", "{}", "{}")
        redis.rpush(redis_keys.IMAGE_QUEUE_LOW, "{}", "{}")
        redis.zadd(redis_keys.DEAD_LETTER_INDEX, {"x": 1})
        note = {"at": datetime.now(UTC).isoformat(), "taken": 7, "waiting": True}
        redis.set(redis_keys.STREAM_LAST_POLL, json.dumps(note))
        redis.zadd(
            redis_keys.STREAM_NEWEST, {redis_keys.STREAM_NEWEST_MEMBER: captured.timestamp()}
        )

    status = next_status(site)
    assert status["images_stored"] == 2
    assert status["queues"][redis_keys.IMAGE_QUEUE] == 3
    assert status["dead_letters"] == 1
    assert status["images_queued"] == 5
    assert status["stream"]["received"] == 7 and status["stream"]["waiting"] is True
    assert 90 <= status["stream"]["lag_seconds"] < 180
    assert [image["caption"] for image in status["newest"]] == ["ice", "snow"]
    assert status["components"]["redis"] == status["components"]["store"] == "ok"
    assert "Triton" in status["components"]["triton"]
    page = site.get("/now").text
    assert "Triton: UNAVAILABLE" in page and ">5</p>" in page


def test_the_front_page_shows_the_newest_without_a_search(
    settings: Settings, site: httpx.Client
) -> None:
    image = an_image("one", "snow on a ridge", SNOW)
    keep(settings, [image])
    wait_until(lambda: f"/image/{image.id}" in site.get("/").text, "the image")
    # The page does not wait for the number; a later one has it.
    wait_until(
        lambda: re.search(r"<h2>\d images?, newest first</h2>", site.get("/").text), "the number"
    )


def test_charts_have_a_point_for_each_snapshot(site: httpx.Client) -> None:
    def sampled() -> Any:
        history = site.get("/api/status").json()["history"]
        return history if len(history["at"]) >= 3 else None

    history = wait_until(sampled, "three snapshots")
    assert len(history["at"]) == len(history["images_per_minute"]) == len(history["images_queued"])
    assert history["at"] == sorted(history["at"])


def test_a_worker_is_shown_by_its_heartbeats(job_system: Celery, site: httpx.Client) -> None:
    def online() -> object:
        with job_system.events.default_dispatcher(hostname="processor@here") as dispatcher:
            dispatcher.send("worker-heartbeat", active=2, processed=5)
        workers = site.get("/api/status").json()["workers"]
        return workers.get("processor") == {"online": 1, "running": 2}

    wait_until(online, "the worker on the page")


def test_before_the_first_snapshot_no_value_is_shown(settings: Settings) -> None:
    with served(settings) as site:
        status = site.get("/api/status").json()
        page = site.get("/now").text
    assert status["images_stored"] is status["queues"] is status["stream"] is None
    assert "Now" in page and "–" in page


def test_a_value_beyond_the_threshold_of_an_alert_is_marked_and_links_to_the_runbook(
    redis_url: str, site: httpx.Client
) -> None:
    def moment(name: str, over: int) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=limits[name] + over)

    with (ROOT / "metrics/artifacts/alerts.yml").open() as file:
        rules = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
    found = {rule.get("alert"): re.search(r"> (\d+)", rule["expr"]) for rule in rules}
    limits = {str(name): float(limit[1]) for name, limit in found.items() if limit}

    def alerts_seen(over: int) -> Any:
        with redis_py.Redis.from_url(redis_url, socket_timeout=5) as redis:
            queued = moment("WeavloaderImagesLate", over).timestamp()
            redis.delete(redis_keys.IMAGE_QUEUE)
            redis.rpush(redis_keys.IMAGE_QUEUE, json.dumps({"headers": {"queued_at": queued}}))
            at = moment("WeavloaderStreamNotLookedAt", over).isoformat()
            note = {"at": at, "taken": 0, "waiting": False}
            redis.set(redis_keys.STREAM_LAST_POLL, json.dumps(note))
            newest = moment("WeavloaderStreamSilent", over).timestamp()
            redis.zadd(redis_keys.STREAM_NEWEST, {redis_keys.STREAM_NEWEST_MEMBER: newest})
        alerts = next_status(site)["alerts"]
        return {place: (each["alert"], each["severity"]) for place, each in alerts.items()}

    # No worker runs here.
    assert alerts_seen(-20) == {"workers": ("WeavloaderWorkersGone", "critical")}
    assert alerts_seen(1) == {
        "lag": ("WeavloaderStreamSilent", "warning"),
        "poll": ("WeavloaderStreamNotLookedAt", "critical"),
        "oldest": ("WeavloaderImagesLate", "warning"),
        "workers": ("WeavloaderWorkersGone", "critical"),
    }
    page = site.get("/now").text
    assert (
        '<a class="alert warning" href="/runbook#weavloaderstreamsilent">stream silent</a>' in page
    )


def test_the_page_links_to_grafana_and_flower_where_people_find_them(settings: Settings) -> None:
    given = settings.model_copy(
        update={"grafana_url": "https://grafana.example", "flower_public_url": "https://f.example"}
    )
    with served(given) as site:
        page = site.get("/now").text
    assert 'href="https://grafana.example/d/weavloader"' in page
    assert 'href="https://f.example"' in page
