"""Asked by the tests inside a container, where Redis, the store and the replay are reached.

``python inside.py account BEGAN IMAGES``: images that are not as they should be, a line each.
``python inside.py burst BEGAN NAME AMOUNT``: queues images; prints the links, a line each.
``python inside.py stored LINK…``: how many of these are stored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from client import open_store
from demo.cases import ROUND
from demo.dataset import Dataset
from demo.outcome_checker import OutcomeChecker
from tasks import celery_app
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import ImageJob
from weavloader.redis_connection import connect_redis
from weavloader.settings import get_settings


def account(began: str, images: str) -> Iterator[str]:
    """What is not as it should be of the replay's dataset."""
    settings = get_settings()
    dataset = Dataset("replay:8000", "replay:8001", int(began), int(images), 10.0)
    redis = connect_redis(settings)
    letters = DeadLetters(redis, settings.dlq_ttl)
    with closing(open_store(settings)) as store:
        store.prepare()  # else a server that nothing was written to knows no collection
        checker = OutcomeChecker(store, redis, letters, settings.unallowed_nodes)
        for entry in checker.check(dataset.images_in_order()):
            if not entry.is_as_expected:
                yield f"{entry.image.name}: {entry.found}, not {entry.image.expected}"


def burst(began: str, name: str, amount: str) -> Iterator[str]:
    """Many links to one file, each an image of its own."""
    dataset = Dataset("replay:8000", "replay:8001", int(began), len(ROUND), 10.0)
    record = next(image.record for image in dataset.images_in_order() if image.kind == "good")
    for number in range(int(amount)):
        link = f"http://files:8000/a.jpg?{name}={number}"
        job = ImageJob.from_record({**record, "value": link})
        celery_app.tasks["job_system.tasks.process_image_task"].apply_async(
            (job.to_message(),), task_id=job.id
        )
        yield job.url


def stored(*links: str) -> Iterator[str]:
    """How many of these images the store holds."""
    with closing(open_store(get_settings())) as store:
        yield str(len(store.existing(links)))


def main(words: Sequence[str]) -> None:
    """Print the answer to one question."""
    answers: dict[str, Callable[..., Iterator[str]]] = {
        "account": account,
        "burst": burst,
        "stored": stored,
    }
    for line in answers[words[0]](*words[1:]):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
