"""The pages with all that stands behind them: Redis, Triton, a SAGE replay and a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis as redis_py

from demo.dataset import PlannedImage
from demo.servers.processes import end_with_parent, stop
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from demo.stack import ROOT, Plan, replay_command
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import ImageJob
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store

_PUBLISH = """
import json, sys
from job_system.publishing import publish
from weavloader.images.job import ImageJob
publish([ImageJob.from_message(message) for message in json.load(sys.stdin)])
"""
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class WholeSite:
    """What runs, as a test sees it.

    Attributes:
        url: Where the pages are.
        images: Every image of the replay's dataset.
        environment: The settings of its processes.
    """

    url: str
    images: Sequence[PlannedImage]
    settings: Settings
    environment: Mapping[str, str]
    plan: Plan

    def publish(self, images: Sequence[PlannedImage]) -> None:
        """Put images on the queue, as the moderator does."""
        jobs = [ImageJob.from_record(image.record).to_message() for image in images]
        subprocess.run(
            [sys.executable, "-c", _PUBLISH],
            input=json.dumps(jobs),
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, **self.environment},
            timeout=60,
        )

    def lose_next_download(self) -> None:
        """Let storage deny that it has the next image it is asked for."""
        fault = {"kind": "status", "target": "storage", "status": 410, "count": 1}
        httpx.post(f"http://{self.plan.dataset.storage}/faults", json=fault).raise_for_status()

    def stored(self) -> int:
        """How many images there are."""
        with closing(connect_store(self.settings)) as store:
            return store.count()

    def dead(self) -> list[str]:
        """Reasons of the dead letters."""
        with redis_py.Redis.from_url(self.environment["CELERY_BROKER_URL"]) as redis:
            letters = DeadLetters(redis, self.settings.dlq_ttl)
            return [letter.reason for letter in letters.page(0, 100)]


@contextmanager
def whole_site(
    folder: Path, triton: Triton, images: int, more: Mapping[str, str] = _NONE
) -> Iterator[WholeSite]:
    """Start everything; nothing is published yet.

    Args:
        folder: For data and logs.
        images: How many the replay has.
        more: Further settings.
    """
    plan = Plan.draw_up(folder, images, 0.0, None)
    (folder / "metrics").mkdir()
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder))
        environment = plan.environment(own_store=True) | {
            "CELERY_BROKER_URL": redis,
            "CELERY_RESULT_BACKEND": redis,
            "TRITON_PORT": str(triton.ports.grpc),
            **more,
        }
        dataset = plan.dataset
        for name, arguments in {
            "replay": replay_command(plan)[1:],
            "processor": ["main.py", "processor", "--concurrency", "1"],
            "web": ["main.py", "web"],
        }.items():
            stack.enter_context(_process(arguments, environment, folder / f"{name}.log"))
        url = f"http://127.0.0.1:{plan.ports.web}"
        for address in (url, f"http://{dataset.storage}/stats"):
            wait_until(lambda address=address: _answers(address), address, 60)  # type: ignore[misc]
        store = {
            name.lower(): value
            for name, value in environment.items()
            if name.startswith(("VECTOR_STORE", "EMBEDDED_STORE_", "WEAVIATE_"))
        }
        settings = load_settings(**store)
        yield WholeSite(url, dataset.images_in_order(), settings, environment, plan)


@contextmanager
def _process(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    try:
        yield
    finally:
        stop(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
