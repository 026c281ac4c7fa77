"""The upgrade from the reference deployment, as docs/upgrading.md tells it, rehearsed.

Its queue of 500 images, 50 dead letters and 200 stored objects, in its formats; then our workers on
the same Redis and the same Weaviate. Where no Weaviate is at hand, a stand-in takes its place.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_py

from demo.sage_replay.server import Replay
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from demo.servers.weaviate import started
from tests.acceptance.growth_workers import running_workers
from tests.acceptance.programs import shell
from tests.chaos.dataset import Published, catalogue, picture, publish
from tests.support.reference_deployment import (
    TASKS,
    TEXTS,
    archive,
    create_collection,
    failure,
    image_data,
    reference_app,
    search,
    send,
    stored_properties,
    take,
)
from tests.support.triton_fixture import renamed_previews
from tests.support.weaviate_stand_in import StandIn
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, Store
from weavloader.store.weaviate.client import DataObject, GeoCoordinate, connect
from weavloader.stream.audit import waiting_for_retry

IMAGE_TASK = TASKS + "process_image_task"
PLACE = (41.75, -87.5)
DIMENSION = 1024
PATIENCE = 420.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Site:
    """A site of the reference deployment: its Redis, its collection, and the images it has met."""

    redis: Any
    settings: Settings
    variables: dict[str, str]
    stored: list[Published]
    queued: list[Published]
    dead: list[Published]

    @property
    def letters(self) -> DeadLetters:
        """Its dead letters, as ours."""
        return DeadLetters(self.redis, 86400)

    @property
    def good(self) -> set[str]:
        """Links of the images that are or can be stored."""
        return {each.link for each in self.images if not each.dies}

    @property
    def images(self) -> list[Published]:
        """Every image, once."""
        return [*self.stored, *self.queued, *self.dead]

    def run(self, line: str) -> str:
        """What a command prints that an operator types.

        Raises:
            AssertionError: It failed.
        """
        done = shell(line, self.variables)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def audit(self) -> Counter[str]:
        """What the audit counts, without the states that no image has."""
        counts = json.loads(self.run("python main.py audit --since 24h --json"))["counts"]
        return Counter({state: count for state, count in counts.items() if count})


@contextmanager
def weaviate(folder: Path) -> Iterator[dict[str, object]]:
    """How to reach an empty server."""
    with started(folder) as server:
        if server is not None:
            yield server.settings
            return
    with StandIn() as stand_in:
        yield stand_in.settings


def captured(host: str, name: str, amount: int, broken: int = 0) -> list[Published]:
    """Images of the last hours; the last ``broken`` of them are no images."""
    good = [
        publish(host, f"{name}-{n}.jpg", lambda n=n: picture(n % 7), at_second=60 + 20 * n)  # type: ignore[misc]
        for n in range(amount - broken)
    ]
    bad = [
        publish(host, f"{name}-bad-{n}.jpg", lambda: b"no image", at_second=60 + n, dies=True)
        for n in range(broken)
    ]
    return [*good, *bad]


@pytest.fixture(scope="module")
def site(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site as it is on the day of the upgrade."""
    folder = tmp_path_factory.mktemp("upgrade")
    with (
        Replay() as replay,
        weaviate(folder) as server,
        # What the reference deployment stored is of real models.
        Triton(folder / "triton.log", repository=renamed_previews(folder)) as triton,
        redis_py.Redis.from_url(redis_server, socket_timeout=10) as redis,
    ):
        redis.flushall()
        variables = {
            **{name.upper(): str(value) for name, value in server.items()},
            **replay.environment(),
            "VECTOR_STORE": "weaviate",
            "CELERY_BROKER_URL": redis_server,
            "CELERY_RESULT_BACKEND": redis_server,
            "TRITON_HOST": triton.host,
            "TRITON_PORT": str(triton.ports.grpc),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            "SAGE_FILTER": '{"name": "upload"}',
            "RETRY_DELAY": "1",
        }
        site = Site(
            redis,
            load_settings(**{name.lower(): value for name, value in variables.items()}),
            variables,
            stored=captured(replay.host, "stored", 200),
            queued=captured(replay.host, "queued", 460),
            dead=captured(replay.host, "dead", 48, broken=3),
        )
        replay.catalogue = catalogue(site.images, 0)
        store_objects(site)
        fill_redis(site, redis_server)
        yield site


def message(image: Published) -> dict[str, object]:
    """The reference deployment's message of an image."""
    record: Any = image.record
    moment = str(record["timestamp"]).replace("Z", "+00:00")
    return image_data(image.link, **record["meta"], timestamp=moment)


def store_objects(site: Site) -> None:
    """200 stored objects, every tenth of a node without a location."""
    rng = np.random.default_rng(22)
    with closing(connect(site.settings)) as client:
        create_collection(client, site.settings.weaviate_collection)
        collection = client.collections.use(site.settings.weaviate_collection)
        objects = []
        for n, image in enumerate(site.stored):
            at = datetime.fromtimestamp(image.at / 1e9, UTC).strftime("%y-%m-%d %H:%M Z")
            place = (0.0, 0.0) if n % 10 == 0 else PLACE
            properties = stored_properties(message(image), at, picture(n % 7), place)
            vector = {"clip": rng.standard_normal(DIMENSION).tolist()}
            objects.append(DataObject(properties=properties, vector=vector))
        for start in range(0, len(objects), 50):
            assert not collection.data.insert_many(objects[start : start + 50]).has_errors


def fill_redis(site: Site, url: str) -> None:
    """500 queued images, of which 40 are stored already, and 50 dead letters, 2 of stored ones."""
    queued = site.queued
    with reference_app(url) as app:
        for image in (*queued[:10], *queued[10:410], *site.stored[:40]):
            send(app, "process_image_task", message(image))
        for _ in range(10):  # a worker was killed with these in its hands
            take(site.redis, "image_processing", seconds_ago=3700)
        for image in queued[410:430]:
            send(app, "process_image_task", message(image), _dlq_attempt=1)
        for image in queued[430:450]:
            send(app, "process_dlq_message", IMAGE_TASK, [message(image)], {})
        for image in queued[450:]:
            send(app, "handle_dlq", IMAGE_TASK, [message(image)], {}, failure())
        send(app, "process_dlq_tasks")
    for n, image in enumerate((*site.dead, *site.stored[40:42])):
        archive(site.redis, message(image), days=n)
    assert site.redis.llen("image_processing") + site.redis.hlen("unacked") == 470
    assert site.redis.llen("cleanup") == 31
    assert sum(1 for _ in site.redis.scan_iter("dlq:*")) == 50


@pytest.fixture(scope="module")
def before(site: Site) -> Counter[str]:
    """The audit's counts before any worker of ours runs."""
    return site.audit()


@pytest.fixture(scope="module")
def migrated(site: Site, before: Counter[str]) -> str:
    """What the migration printed."""
    return site.run("python main.py schema migrate")


@pytest.fixture(scope="module")
def upgraded(site: Site, migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site once our workers have done what was left."""
    folder = tmp_path_factory.mktemp("workers")
    site.run('python -c "from tasks import archive_failed_tasks; archive_failed_tasks.delay()"')
    with running_workers(folder, site.variables) as workers:
        workers.start("cleaner", "main.py", "cleaner")
        wait_until(lambda: site.redis.llen("cleanup") == 0, "the cleaner's messages are done", 60)
        site.run("python main.py dlq retry --all --yes")
        workers.start("moderator", "main.py", "moderator")
        # Its reconciliation queues every image of the day once more.
        site.run('python -c "from tasks import health_check; health_check.delay()"')
        wait_until(lambda: site.redis.zcard(redis_keys.SEEN) == 708, "every image is received", 60)
        workers.start("processor", "main.py", "processor")
        with closing(connect_store(site.settings)) as store:
            wait_until(lambda: is_done(site, store), "every image is accounted for", PATIENCE)
    return site


def is_done(site: Site, store: Store) -> bool:
    """Whether every image is stored, or was found broken by our workers."""
    if site.letters.count() > 3 or waiting_for_retry(site.redis):
        return False
    if any(letter.exc_type == "HTTPError" for letter in site.letters.each()):
        return False
    return store.existing(site.good) == site.good


def test_nothing_is_missing_before_our_workers_begin(before: Counter[str]) -> None:
    assert before == {"stored": 200, "queued": 460, "dead": 48}


def test_the_collection_is_completed_and_every_object_filled(migrated: str, site: Site) -> None:
    assert "added latitude, longitude, captured_at" in migrated
    assert "200 of 200 objects filled" in migrated
    assert "nothing to add\n" in site.run("python main.py schema migrate")


def test_every_image_is_stored_once_or_is_dead(upgraded: Site) -> None:
    with closing(connect_store(upgraded.settings)) as store:
        links = Counter(item.text["link"] for _, item in store.scan(images=False) if item)
        assert store.count() == len(upgraded.good)
    assert links == Counter(dict.fromkeys(upgraded.good, 1))
    assert len(upgraded.good) == 200 + 460 + 45


def test_dead_letters_are_resolved_but_those_of_broken_images(upgraded: Site) -> None:
    broken = {image.link for image in upgraded.dead if image.dies}
    left = list(upgraded.letters.each())
    assert {letter.args[0]["url"] for letter in left} == broken
    assert [letter.reason for letter in left] == ["not_an_image"] * 3
    assert sum(1 for _ in upgraded.redis.scan_iter("dlq:*")) == 3


def test_the_audit_accounts_for_every_image(upgraded: Site) -> None:
    assert upgraded.audit() == {"stored": 705, "dead": 3}


def test_nothing_of_the_reference_deployment_is_left_in_redis(upgraded: Site) -> None:
    for key in redis_keys.LANES.values():
        assert upgraded.redis.llen(key) == 0
    assert upgraded.redis.hlen("unacked") == 0


def test_its_own_search_page_reads_every_object_as_before(upgraded: Site) -> None:
    with closing(connect(upgraded.settings)) as client:
        collection = client.collections.use(upgraded.settings.weaviate_collection)
        rows = search(collection, "a fox", np.ones(DIMENSION).tolist())
        objects = collection.query.fetch_objects(limit=1000).objects
    assert {row["link"] for row in rows} == upgraded.good
    for row in rows:
        assert all(type(row[name]) is str for name in TEXTS)
        assert re.fullmatch(r"\d\d-\d\d-\d\d \d\d:\d\d Z", row["timestamp"])
        assert row["caption"] and 0 <= row["score"] <= 1
    places = {row["link"]: (row["location_lat"], row["location_lon"]) for row in rows}
    nowhere = {image.link for image in upgraded.stored[::10]}
    theirs = {image.link for image in upgraded.stored}
    assert {places[link] for link in nowhere} == {(0.0, 0.0)}
    assert {places[link] for link in theirs - nowhere} == {PLACE}
    assert {places[link] for link in upgraded.good - theirs} == {(41.0, -87.0)}
    kinds = {type(each.properties["location"]) for each in objects if "location" in each.properties}
    assert kinds <= {GeoCoordinate, type(None)}


def test_old_and_new_objects_are_found_by_time_and_the_newest_first(upgraded: Site) -> None:
    moments = {image.link: image.at // 1_000_000_000 for image in upgraded.images}
    since = datetime.now(UTC) - timedelta(minutes=50)
    with closing(connect_store(upgraded.settings)) as store:
        found = store.newest(Filters(since=since), 1000)
        newest = [hit.text["link"] for hit in store.newest(Filters(), 10)]
    wanted = {link for link in upgraded.good if moments[link] >= since.timestamp()}
    surely = {link for link in wanted if moments[link] >= since.timestamp() + 60}
    assert surely <= {hit.text["link"] for hit in found} <= wanted
    assert any(image.link in surely for image in upgraded.stored)
    assert min(moments[link] for link in newest) > time.time() - 3600
