"""The system on real parts, and what a test needs to see of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import time_ns
from typing import Any

import httpx
import redis

from demo.cases import MISSING
from demo.dataset import EXCLUDED_NODE, Dataset, PlannedImage
from demo.outcome_checker import OutcomeChecker, Result
from demo.sage_replay.catalogue import Catalogue
from demo.sage_replay.server import Replay
from demo.servers.ports import HOST, free_ports
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.acceptance.programs import Program, programs, shell
from weavloader.dlq.queue import DeadLetters
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Store

IMAGES = 40  # one of every kind there is
EXTRA = "sage/sage-extra-0.1/000048b02d15bc7c/1700000000000000000-extra.jpg"
ROLES = ("processor --concurrency 2", "moderator", "cleaner", "stream", "metrics")


@dataclass
class System:
    """All roles at work on a replay of SAGE.

    Attributes:
        environment: All that any program is told.
    """

    environment: dict[str, str]
    replay: Replay
    images: list[PlannedImage]
    programs: Mapping[str, Program]

    @cached_property
    def store(self) -> Store:
        """The store that the processors write to."""
        path = self.environment["EMBEDDED_STORE_PATH"]
        return connect_store(load_settings(vector_store="embedded", embedded_store_path=path))

    @cached_property
    def redis(self) -> Any:
        """The Redis of the system."""
        return redis.Redis.from_url(self.environment["CELERY_BROKER_URL"], socket_timeout=10)

    @cached_property
    def letters(self) -> DeadLetters:
        """Its dead letters."""
        return DeadLetters(self.redis, 86400)

    @property
    def url(self) -> str:
        """Where its metrics are."""
        return f"http://{HOST}:{self.environment['METRICS_PORT']}"

    def run(self, line: str, typed: str = "") -> str:
        """What a line prints that a person types beside it.

        Raises:
            AssertionError: It failed.
        """
        done = shell(line, self.environment, typed)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def account(self) -> list[Result]:
        """What has become of every image by now."""
        unallowed = [self.environment["UNALLOWED_NODES"]]
        return OutcomeChecker(self.store, self.redis, self.letters, unallowed).check(self.images)

    def await_settled(self) -> None:
        """Wait until every image has come to what becomes of it."""
        stats = f"http://{self.replay.host}/stats"
        wait_until(lambda: httpx.get(stats, timeout=20).json()["complete"], "all published", 120)
        # What beat does within half an hour, for the images that are hours late.
        self.run('python -c "from tasks import health_check; health_check.delay()"')
        wait_until(self._is_settled, "every image", 150)

    def _is_settled(self) -> bool:
        for program in self.programs.values():
            assert program.is_running(), f"{program.command}: {program.said()}"
        return all(result.found.status != MISSING for result in self.account())

    def runs_ended(self) -> int:
        """How many runs of an image ended, of all there ever were."""
        page = httpx.get(f"{self.url}/metrics", timeout=30).text
        counts = [line for line in page.splitlines() if line.startswith("weavloader_images_total{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in counts)

    def close(self) -> None:
        """Release what was opened to look."""
        self.store.close()
        self.redis.close()


@contextmanager
def running_system(redis_url: str, triton: Triton, folder: Path) -> Iterator[System]:
    """The system while the block runs; all its images are settled."""
    with Replay() as replay:
        dataset = Dataset(replay.host, replay.other_host, time_ns(), IMAGES, publish_seconds=3.0)
        replay.catalogue = _with_extra(dataset.catalogue())
        environment = environment_for(redis_url, replay, triton, folder)
        commands = {role.partition(" ")[0]: f"python main.py {role}" for role in ROLES}
        with programs(commands, environment, folder) as started:
            system = System(environment, replay, dataset.images_in_order(), started)
            try:
                system.await_settled()
                yield system
            finally:
                system.close()


def environment_for(redis_url: str, replay: Replay, triton: Triton, folder: Path) -> dict[str, str]:
    """The settings of every role; times are shorter than by default, so that tests are."""
    metrics, web, flower = free_ports(3)
    host, _, port = triton.url.partition(":")
    return {
        **replay.environment(),
        "UNALLOWED_NODES": EXCLUDED_NODE.vsn,
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "TRITON_HOST": host,
        "TRITON_PORT": port,
        "PREVIEW_MODELS": "true",
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(folder / "store"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "counts"),
        "METRICS_ADDRESS": HOST,
        "METRICS_PORT": str(metrics),
        "WEB_ADDRESS": HOST,
        "WEB_PORT": str(web),
        "FLOWER_ADDRESS": HOST,
        "FLOWER_PORT": str(flower),
        "FLOWER_BASIC_AUTH": "operator:a-test-password",
        "FLOWER_URL": f"http://{HOST}:{flower}",
        "POLL_MIN_SECONDS": "1",
        "POLL_MAX_SECONDS": "2",
        "RETRY_DELAY": "1",
        "LATE_UPLOAD_WINDOW": "15s",
    }


def _with_extra(catalogue: Catalogue) -> Catalogue:
    """A dataset with one file more, which no record names."""
    whole = next(iter(catalogue.objects.values()))
    catalogue.objects = {**catalogue.objects, EXTRA: whole}
    return catalogue
