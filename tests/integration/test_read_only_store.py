"""A store that takes no writes for a while: images wait, and none becomes a dead letter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from demo.servers.weaviate import started
from tests.support.weaviate_stand_in import StandIn
from tests.support.whole_site import whole_site
from weavloader.circuits import open_circuits
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.weaviate.client import connect

pytestmark = pytest.mark.slow

IMAGES, BEFORE = 12, 2
# More tries of the store than an image out of retries has had.
REFUSALS = 8

Lock = Callable[[bool], None]


@contextmanager
def weaviate(folder: Path) -> Iterator[tuple[dict[str, str], Lock]]:
    """A real server, or the stand-in where there is none; and what makes it read-only or not."""
    folder.mkdir()
    with started(folder) as server:
        if server is not None:
            settings = load_settings(vector_store="weaviate", **server.settings)
            yield as_environment(server.settings), partial(set_shards, settings)
            return
    with StandIn() as stand_in:

        def refuse(is_read_only: bool) -> None:
            stand_in.faults.refuse = lambda _: "store is read-only" if is_read_only else ""

        yield as_environment(stand_in.settings), refuse


def as_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as variables of the environment."""
    return {name.upper(): str(value) for name, value in settings.items()}


def set_shards(settings: Settings, is_read_only: bool) -> None:
    """Set the status of the collection's shards, as an operator does, or a full disk."""
    with closing(connect(settings)) as client:
        collection = client.collections.use(settings.weaviate_collection)
        collection.config.update_shards(status="READONLY" if is_read_only else "READY")


def test_images_wait_while_the_store_is_read_only(triton: Triton, tmp_path: Path) -> None:
    with (
        weaviate(tmp_path / "weaviate") as (reach, lock),
        whole_site(tmp_path, triton, 60, {"VECTOR_STORE": "weaviate", **reach}) as site,
        connect_redis(
            load_settings(celery_broker_url=site.environment["CELERY_BROKER_URL"])
        ) as redis,
    ):
        with closing(connect_store(site.settings)) as store:
            store.prepare()
        images = [image for image in site.images if image.kind == "good"][:IMAGES]
        site.publish(images[:BEFORE])
        wait_until(lambda: site.stored() == BEFORE, "images before the fault", 120)
        lock(True)
        site.publish(images[BEFORE:])
        log = tmp_path / "processor.log"
        wait_until(lambda: log.read_text().count("read-only") >= REFUSALS, "refusals", 240)
        assert [circuit.reason for circuit in open_circuits(redis)] == ["store_failed"]
        assert (site.dead(), site.stored()) == ([], BEFORE)
        lock(False)
        wait_until(lambda: site.stored() == IMAGES, "all images in the store", 60)
        wait_until(lambda: open_circuits(redis) == [], "a closed circuit")
        assert site.dead() == []
