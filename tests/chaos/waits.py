"""What a fault waits for before it begins, while it lasts, and before it is over."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any
from uuid import UUID

from tests.chaos.dataset import EXCLUDED_VSN
from tests.chaos.system import System
from weavloader import redis_keys
from weavloader.images.job import ImageJob
from weavloader.stream.audit import waiting_for_retry

# Three retries wait 2, 4 and 8 s here, and the slowest failure takes 5.
LONG = 45.0


def pause(seconds: float) -> None:
    """Let a fault last: the one place where the suite waits by the clock."""
    time.sleep(seconds)


def wait_until_done(system: System, seconds: float) -> None:
    """Wait until all images of the scenario were received, and none is queued or in work."""
    ids = [UUID(job.id).bytes for job in listed_images(system)]
    with closing(system.redis()) as redis:

        def is_done() -> bool:
            is_received = None not in redis.zmscore(redis_keys.SEEN, ids)
            return is_received and not set(ids) & waiting_for_retry(redis).keys()

        system.wait_until(is_done, "images that are done", seconds)


def listed_images(system: System) -> list[ImageJob]:
    """The images of the scenario, without those of nodes that are not allowed."""
    jobs = [ImageJob.from_record(entry.record) for entry in system.replay.catalogue.entries]
    return [job for job in jobs if job.vsn != EXCLUDED_VSN]


def wait_for_answers(system: System, amount: int) -> None:
    """Wait until models have answered so many times more."""
    enough = system.models.answers().total() + amount
    system.wait_until(lambda: system.models.answers().total() >= enough, "answers of models")


def wait_until_listed(system: System) -> None:
    """Wait until SAGE lists all images, which begins when a moderator asks."""
    system.wait_until(lambda: system.replay.lists_all, "images that are listed", 60)


def wait_until_taken(system: System, redis: Any) -> None:
    """Wait until images are marked as taken that were not."""
    before = redis.zcard(redis_keys.SEEN)
    system.wait_until(lambda: redis.zcard(redis_keys.SEEN) > before, "images that are taken")


def wait_for_work(system: System) -> None:
    """Wait until images are being worked on."""
    with closing(system.redis()) as redis:

        def in_work() -> int:
            workers = [name.decode() for name in redis.hkeys(redis_keys.WORKERS)]
            held = sum(redis.hlen(redis_keys.unacked(worker)) for worker in workers)
            return int(held + redis.llen(redis_keys.IMAGE_QUEUE))

        system.wait_until(in_work, "images in work")
